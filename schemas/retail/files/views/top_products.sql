SELECT sku, category,
       arg_max(product, sold_at) AS product,
       sum(CAST(quantity AS DECIMAL(19,0)) * unit_price) - sum(discount) AS revenue,
       sum(quantity) AS pieces,
       max(sold_at) AS last_sold_at
FROM orders
GROUP BY ALL
