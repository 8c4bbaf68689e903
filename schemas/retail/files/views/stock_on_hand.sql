SELECT shop, sku,
       sum(pieces) AS on_hand,
       sum(pieces) FILTER (WHERE reason = 'loss') AS lost,
       max(moved_at) AS last_moved_at
FROM stock_moves
GROUP BY ALL
