package torture

import (
	"os"
	"path/filepath"
	"testing"
)

// projectFiles is a project with a zoned stream and views that together use every
// kind of cell.
var projectFiles = map[string]string{
	"duet.yaml": `version: 1
name: torture
batch: {incremental: "@every 1s", full: "off", keep: {last: 5, daily: 0, monthly: 0}}
limits: {memory: 1GB, log: 4MB}
`,
	"streams/sales.yaml": `event_time: {column: sold_at, zone: Europe/London, day_starts: "04:00"}
columns:
  id:     BIGINT NOT NULL
  shop:   VARCHAR NOT NULL
  sku:    VARCHAR
  qty:    INTEGER NOT NULL
  price:  DECIMAL(18,4) NOT NULL
  weight: DOUBLE NOT NULL
  sold_at: TIMESTAMP NOT NULL
`,
	"views/total.sql": `SELECT count(*) AS n, sum(id) AS ids, count(sku) AS skus, min(sold_at) AS first_at, max(sold_at) AS last_at FROM sales`,
	"views/by_shop.sql": `SELECT shop, count(*) AS n, sum(CAST(qty AS DECIMAL(18,0)) * price) AS revenue,
       avg(price) AS avg_price, stddev_samp(qty) AS spread, var_pop(price) AS price_var,
       bool_or(qty < 0) AS has_returns, bool_and(qty < 30) AS all_small,
       arg_max(sku, id) AS newest_sku, arg_min(qty, id) AS oldest_qty,
       first(id ORDER BY sold_at) AS first_id, last(id ORDER BY sold_at) AS last_id
FROM sales GROUP BY ALL`,
	"views/by_day.sql": `SELECT business_date, sku, sum(qty) AS pieces, sum(price) FILTER (qty > 0) AS prices, max(weight) AS heaviest
FROM sales GROUP BY business_date, sku`,
	"views/by_hour.sql": `SELECT time_bucket(INTERVAL '1 hour', sold_at) AS hour, count(*) AS n, sum(qty) / count(*) AS mean_qty
FROM sales WHERE qty > 0 GROUP BY ALL HAVING count(*) > 2`,
	"views/by_id.sql": `SELECT id, count(*) AS n FROM sales GROUP BY id`,
}

var viewNames = []string{"total", "by_shop", "by_day", "by_hour", "by_id"}

func writeProject(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "project")
	for name, text := range projectFiles {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
