SELECT country,
       sum(CAST(quantity AS DECIMAL(19,0)) * unit_price) - sum(discount) AS revenue,
       sum(quantity) AS pieces,
       count(*) FILTER (WHERE quantity < 0) AS return_lines,
       count(*) AS lines,
       avg(unit_price) AS avg_price
FROM orders
GROUP BY ALL
