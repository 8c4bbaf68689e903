-- With the cast, no quantity and price can overflow the product.
SELECT time_bucket(INTERVAL '1 hour', sold_at) AS hour,
       sum(CAST(quantity AS DECIMAL(19,0)) * unit_price) - sum(discount) AS revenue,
       sum(quantity) AS pieces,
       count(*) AS lines
FROM orders
GROUP BY ALL
