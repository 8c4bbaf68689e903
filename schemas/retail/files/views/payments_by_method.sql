SELECT time_bucket(INTERVAL '1 day', paid_at) AS day, method,
       sum(amount) AS amount,
       sum(fee) AS fees,
       count(*) AS payments,
       count(*) FILTER (WHERE amount < 0) AS refunds
FROM payments
GROUP BY ALL
