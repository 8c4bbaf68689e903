package batch_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"duet/batch/archive"
	"duet/batch/recompute"
	"duet/internal/base/duck"
	"duet/internal/base/durable"
	"duet/schemas"
)

// salesViews are five views of a shop: partial SQL as the compiler would write
// it, and the SELECT that a person would.
var salesViews = []struct {
	name, keys, plain string
	view              recompute.View
}{
	salesView("by_hour", "date_trunc('hour', sold_at)", "TIMESTAMP"),
	salesView("by_country", "country", "VARCHAR"),
	salesView("by_sku", "sku", "INTEGER"),
	salesView("by_customer", "customer", "BIGINT"),
	salesView("by_day_country", "date_trunc('day', sold_at) || country", "VARCHAR"),
}

func salesView(name, key, keyType string) struct {
	name, keys, plain string
	view              recompute.View
} {
	cells := "sum(quantity * price)::DECIMAL(38,4) AS c0, count(*) AS c1, max(price) AS c2"
	merge := "SELECT k0, sum(c0)::DECIMAL(38,4) AS c0, sum(c1)::BIGINT AS c1, max(c2) AS c2 FROM " + recompute.CellsTable + " GROUP BY k0"
	return struct {
		name, keys, plain string
		view              recompute.View
	}{
		name: name, keys: key, plain: "SELECT " + key + " AS k0, " + cells + " FROM %s GROUP BY 1",
		view: recompute.View{
			Name: name, Stream: "sales", Definition: name,
			Partial: "SELECT " + key + " AS k0, " + cells + " FROM " + recompute.RowsTable + " GROUP BY 1", Merge: merge, Final: merge,
			Keys:  []recompute.Column{{Name: "k0", Type: keyType, Exact: true}},
			Cells: []recompute.Column{{Name: "c0", Type: "DECIMAL(38,4)", Exact: true}, {Name: "c1", Type: "BIGINT", Exact: true}, {Name: "c2", Type: "DECIMAL(18,4)", Exact: true}},
		},
	}
}

// salesArchive writes rows as archive files and returns the job's stream.
func salesArchive(b *testing.B, dir string, rows, files int) recompute.StreamJob {
	b.Helper()
	db, err := duck.Open(duck.Config{Threads: 2})
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	if err := os.MkdirAll(filepath.Join(dir, "sales"), 0o755); err != nil {
		b.Fatal(err)
	}
	s := recompute.StreamJob{Name: "sales"}
	each := rows / files
	for i := range files {
		rel := fmt.Sprintf("sales/%d.parquet", i)
		_, err := db.Exec(fmt.Sprintf(`COPY (SELECT ('i' || (n // 20)) AS invoice, (n %% 20)::INTEGER AS line, (hash(n) %% 4000)::INTEGER AS sku, (hash(n, 1) %% 12)::INTEGER - 1 AS quantity,
  ((hash(n, 2) %% 10000)::DECIMAL(18,4) * 0.01)::DECIMAL(18,4) AS price, (hash(n // 20) %% 5000)::BIGINT AS customer, 'country ' || (hash(n // 20) %% 38) AS country,
  TIMESTAMP '2026-01-01' + to_seconds(n // 10) AS sold_at, NULL::VARCHAR AS _duet_extra, 0::USMALLINT AS _duet_lane, 1::UINTEGER AS _duet_incarnation, (n // 1000 + 1)::BIGINT AS _duet_sequence,
  (n %% 1000)::INTEGER AS _duet_record, 0::INTEGER AS _duet_part FROM range(%d, %d) t(n)) TO '%s' (FORMAT parquet, COMPRESSION zstd)`, i*each, (i+1)*each, filepath.Join(dir, rel)))
		if err != nil {
			b.Fatal(err)
		}
		s.Files = append(s.Files, archive.File{Data: "sales", Path: rel, From: schemas.NewPosition(1, uint64(i*each/1000)), Through: schemas.Position(schemas.NewPosition(1, uint64((i+1)*each/1000))), Rows: int64(each)})
	}
	s.Totals.Account = schemas.Account{Received: int64(rows), Accepted: int64(rows)}
	var q, p string
	if err := db.QueryRow("SELECT sum(quantity)::VARCHAR, sum(price)::VARCHAR FROM read_parquet('"+dir+"/sales/*.parquet')").Scan(&q, &p); err != nil {
		b.Fatal(err)
	}
	s.Totals.Sums = map[string]string{"quantity": q, "price": p}
	return s
}

// BenchmarkFullRecompute is a full recompute by the child, with its checks and
// the comparison with the live half, against the bare SELECTs over the same
// files on as many threads: the ratio should be at least 0.8.
func BenchmarkFullRecompute(b *testing.B) {
	const rows, files = 4_000_000, 8
	dir := b.TempDir()
	stream := salesArchive(b, dir, rows, files)
	through := stream.Files[files-1].Through
	for _, threads := range []int{1, 2} {
		b.Run(fmt.Sprintf("threads=%d", threads), func(b *testing.B) {
			var child, bare time.Duration
			for b.Loop() {
				bare += bareSelects(b, dir, stream, threads)
				run := filepath.Join(dir, durable.Name())
				if err := os.MkdirAll(run, 0o755); err != nil {
					b.Fatal(err)
				}
				job := recompute.Job{Run: "bench", Dir: run, Archive: dir, Through: through, Full: true, Streams: []recompute.StreamJob{stream}, Threads: threads, Memory: 2 << 30, Tolerance: 1e-9, Largest: 20}
				live := recompute.Live{Totals: map[string]archive.Totals{"sales": stream.Totals}, Views: map[string]recompute.LiveView{}}
				for _, v := range salesViews {
					job.Views = append(job.Views, recompute.ViewJob{View: v.view, Mode: recompute.Full})
					live.Views[v.name] = recompute.LiveView{Path: filepath.Join(dir, fmt.Sprintf("bare-%s.parquet", v.name))}
				}
				start := time.Now()
				c, err := recompute.Start(context.Background(), play("recompute"), job, recompute.Watch{})
				if err != nil {
					b.Fatal(err)
				}
				if err := c.Compare(live); err != nil {
					b.Fatal(err)
				}
				result, err := c.Wait()
				if err != nil || result.Report.Verdict != recompute.Equal {
					b.Fatalf("%+v, %v", result.Report, err)
				}
				child += time.Since(start)
				os.RemoveAll(run)
			}
			b.ReportMetric(bare.Seconds()/child.Seconds(), "ratio")
			b.ReportMetric(rows*float64(b.N)/child.Seconds(), "rows/s")
		})
	}
}

// bareSelects times the five SELECTs alone, then writes their answers as what a
// live half would export.
func bareSelects(b *testing.B, dir string, stream recompute.StreamJob, threads int) time.Duration {
	b.Helper()
	var paths []string
	for _, f := range stream.Files {
		paths = append(paths, filepath.Join(dir, f.Path))
	}
	db, err := duck.Open(duck.Config{Threads: threads})
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	var took time.Duration
	for _, v := range salesViews {
		query := fmt.Sprintf(v.plain, duck.Parquet(paths...))
		start := time.Now()
		if _, err := db.Exec("CREATE TABLE " + v.name + " AS " + query); err != nil {
			b.Fatal(err)
		}
		took += time.Since(start)
		if _, err := db.Exec("COPY " + v.name + " TO '" + filepath.Join(dir, "bare-"+v.name+".parquet") + "' (FORMAT parquet)"); err != nil {
			b.Fatal(err)
		}
	}
	return took
}
