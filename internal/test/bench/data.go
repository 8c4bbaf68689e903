package main

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"
)

// projectFiles is a project with nine typed columns and five views.
var projectFiles = map[string]string{
	"duet.yaml": `version: 1
name: bench
batch: {incremental: "off", full: "off"}
limits: {memory: 6GB, log: 8GB, batch_threads: 2, batch_memory: 4GB}
`,
	"streams/orders.yaml": `event_time: sold_at
columns:
  id:       BIGINT NOT NULL
  sold_at:  TIMESTAMP NOT NULL
  shop:     VARCHAR NOT NULL
  country:  VARCHAR NOT NULL
  sku:      VARCHAR NOT NULL
  category: VARCHAR
  quantity: INTEGER NOT NULL
  price:    DECIMAL(18,4) NOT NULL
  customer: BIGINT
`,
	"views/by_country_hour.sql": `SELECT time_bucket(INTERVAL '1 hour', sold_at) AS hour, country, sum(CAST(quantity AS DECIMAL(18,0)) * price) AS revenue, count(*) AS lines FROM orders GROUP BY ALL`,
	"views/by_sku.sql":          `SELECT sku, sum(quantity) AS pieces, max(price) AS dearest, avg(price) AS mean FROM orders GROUP BY ALL`,
	"views/by_shop.sql":         `SELECT shop, count(*) AS lines, sum(price) AS prices, min(sold_at) AS first_sale FROM orders GROUP BY ALL`,
	"views/by_category.sql":     `SELECT category, sum(quantity) AS pieces, count(customer) AS known FROM orders WHERE quantity > 0 GROUP BY ALL`,
	"views/total.sql":           `SELECT count(*) AS lines, sum(CAST(quantity AS DECIMAL(18,0)) * price) AS revenue FROM orders`,
}

// selects returns the views' SELECTs.
func selects() map[string]string {
	out := map[string]string{}
	for _, name := range []string{"by_country_hour", "by_sku", "by_shop", "by_category", "total"} {
		out[name] = projectFiles["views/"+name+".sql"]
	}
	return out
}

func (b *bench) project() (string, error) {
	dir := filepath.Join(b.dir, "project")
	for name, text := range projectFiles {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return "", err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return "", err
		}
	}
	return dir, nil
}

var countries = []string{"United Kingdom", "Netherlands", "Germany", "France", "Spain", "Belgium", "Norway", "Portugal"}

// appendOrder appends order n as a JSON line; it is a pure function of n.
func appendOrder(dst []byte, n int) []byte {
	r := rand.New(rand.NewPCG(7, uint64(n)))
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(n) * 700 * time.Millisecond)
	dst = fmt.Appendf(dst, `{"id":%d,"sold_at":"%s","shop":"shop-%02d","country":%q,"sku":"sku-%04d"`,
		n, at.Format("2006-01-02T15:04:05.000Z"), r.IntN(50), countries[r.IntN(len(countries))], r.IntN(4000))
	if c := r.IntN(31); c > 0 {
		dst = fmt.Appendf(dst, `,"category":"category-%02d"`, c)
	}
	dst = fmt.Appendf(dst, `,"quantity":%d,"price":%d.%02d`, r.IntN(24)-2, r.IntN(300), r.IntN(100))
	if r.IntN(4) > 0 {
		dst = fmt.Appendf(dst, `,"customer":%d`, 10000+r.IntN(5000))
	}
	return append(dst, "}\n"...)
}

// orders writes n orders as NDJSON.
func orders(path string, n int) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	w := bufio.NewWriterSize(f, 1<<20)
	var line []byte
	for i := range n {
		line = appendOrder(line[:0], i)
		if _, err := w.Write(line); err != nil {
			return err
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return f.Close()
}
