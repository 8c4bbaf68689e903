SELECT business_date AS day, country, shop, channel,
       sum(CAST(quantity AS DECIMAL(19,0)) * unit_price) - sum(discount) AS revenue,
       sum(discount) AS discounts,
       sum(quantity) AS pieces,
       count(*) AS lines
FROM orders
GROUP BY ALL
