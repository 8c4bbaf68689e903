package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing/fstest"
	"time"

	"duet/batch/archive"
	"duet/batch/catalog"
	"duet/batch/recompute"
	"duet/internal/base/duck"
	"duet/internal/base/durable"
	"duet/schemas"
	"duet/schemas/event"
	"duet/schemas/project"
	"duet/schemas/view"
	"duet/serving/store"
)

// compiled loads the bench's project.
func compiled() (*project.Project, []*view.View, error) {
	fsys := fstest.MapFS{}
	for name, text := range projectFiles {
		fsys[name] = &fstest.MapFile{Data: []byte(text)}
	}
	p, faults := project.Load(fsys)
	if faults.Fatal() {
		return nil, nil, faults
	}
	c, err := view.NewCompiler(p.Streams)
	if err != nil {
		return nil, nil, err
	}
	var views []*view.View
	for _, v := range p.Views {
		cv, faults := c.Compile(v)
		if cv == nil {
			return nil, nil, project.Faults(faults)
		}
		views = append(views, cv)
	}
	return p, views, nil
}

// recompute measures a full recompute by the child process, its files written,
// synced and verified, against the bare SELECTs over the same Parquet.
func (b *bench) recompute() error {
	ctx := context.Background()
	_, views, err := compiled()
	if err != nil {
		return err
	}
	dir := filepath.Join(b.dir, "recompute")
	if err := os.MkdirAll(filepath.Join(dir, "orders"), 0o755); err != nil {
		return err
	}
	db, err := duck.Open(duck.Config{Threads: 2, MemoryLimit: "4GB", TempDir: filepath.Join(b.dir, "spill")})
	if err != nil {
		return err
	}
	defer db.Close()
	job := recompute.Job{
		Run: "bench", Dir: filepath.Join(dir, "run"), Archive: dir, Through: schemas.NewPosition(1, 1<<40), Full: true,
		Threads: 2, Memory: 4 << 30, Tolerance: 1e-9, Largest: 10,
	}
	if err := os.MkdirAll(job.Dir, 0o755); err != nil {
		return err
	}
	stream := recompute.StreamJob{Name: "orders"}
	stream.Totals.Received, stream.Totals.Accepted = int64(b.rows), int64(b.rows)
	const files = 10
	var paths []string
	for i := range files {
		path := fmt.Sprintf("orders/%d.parquet", i)
		full := filepath.Join(dir, path)
		n := b.rows / files
		first := i * n
		if _, err := db.Exec(fmt.Sprintf(`COPY (SELECT n AS id, TIMESTAMP '2026-01-01' + to_milliseconds(n * 70) AS sold_at, 'shop-' || (hash(n, 1) %% 50) AS shop,
			'country-' || (hash(n, 2) %% 8) AS country, 'sku-' || (hash(n, 3) %% 4000) AS sku, CASE WHEN hash(n, 4) %% 31 = 0 THEN NULL ELSE 'category-' || (hash(n, 4) %% 31) END AS category,
			CAST(hash(n, 5) %% 24 AS INTEGER) - 2 AS quantity, CAST((hash(n, 6) %% 30000) / 100 AS DECIMAL(18,4)) AS price, CASE WHEN n %% 4 > 0 THEN CAST(10000 + hash(n, 7) %% 5000 AS BIGINT) END AS customer,
			NULL::VARCHAR AS _duet_extra, 0::USMALLINT AS _duet_lane, 1::UINTEGER AS _duet_incarnation, CAST(n + 1 AS BIGINT) AS _duet_sequence, 0::INTEGER AS _duet_record, 0::INTEGER AS _duet_part
			FROM range(%d, %d) t(n)) TO %s (FORMAT parquet, COMPRESSION zstd)`, first, first+n, duck.Literal(full))); err != nil {
			return err
		}
		sum, err := durable.SumFile(full)
		if err != nil {
			return err
		}
		stream.Files = append(stream.Files, archive.File{Data: "orders", Path: path, From: schemas.NewPosition(1, uint64(first)), Through: schemas.NewPosition(1, uint64(first+n)), Rows: int64(n), Sum: sum})
		paths = append(paths, full)
	}
	job.Streams = []recompute.StreamJob{stream}
	for _, v := range views {
		r, err := recompute.FromView(v)
		if err != nil {
			return err
		}
		job.Views = append(job.Views, recompute.ViewJob{View: r, Mode: recompute.Full})
	}
	rows := "(SELECT * FROM " + duck.Parquet(paths...) + ")"
	bare := func() (time.Duration, error) {
		began := time.Now()
		for i, v := range views {
			if _, err := db.Exec(fmt.Sprintf("CREATE OR REPLACE TABLE bare_%d AS SELECT * FROM (%s)", i, "WITH orders AS "+rows+" "+v.SQL)); err != nil {
				return 0, err
			}
		}
		return time.Since(began), nil
	}
	if _, err := bare(); err != nil { // the files are in the page cache for both
		return err
	}
	first, err := bare()
	if err != nil {
		return err
	}
	began := time.Now()
	live := recompute.Live{Totals: map[string]archive.Totals{"orders": stream.Totals}, Views: map[string]recompute.LiveView{}}
	for _, v := range views {
		live.Views[v.Name] = recompute.LiveView{Missing: "definition"}
	}
	child, err := recompute.Start(ctx, exec.Command(b.binary, "batch-child"), job, recompute.Watch{Progress: func(p recompute.Progress) {
		if p.Micros > 0 && os.Getenv("BENCH_STEPS") != "" {
			fmt.Fprintf(os.Stderr, "  %s %s %d rows %.3f s\n", p.Step, p.View, p.Rows, float64(p.Micros)/1e6)
		}
	}})
	if err != nil {
		return err
	}
	if err := child.Compare(live); err != nil {
		return err
	}
	if _, err := child.Wait(); err != nil {
		return err
	}
	ours := time.Since(began)
	second, err := bare()
	if err != nil {
		return err
	}
	rival := (first + second) / 2
	rate := func(d time.Duration) float64 { return float64(b.rows) / d.Seconds() }
	report(fmt.Sprintf("full recompute of %d M rows, 5 views", b.rows/1_000_000), rate(ours), "rows/s", rate(rival), rate(ours)/rate(rival), bound{atLeast: 0.8})
	return nil
}

// million returns a store with a view of b.groups groups, and a generation of it.
func (b *bench) million(cells string) (*store.Store, *catalog.Generation, error) {
	fsys := fstest.MapFS{
		"duet.yaml":           {Data: []byte("version: 1\nname: bench\n")},
		"streams/orders.yaml": {Data: []byte("columns: {customer: BIGINT NOT NULL, price: \"DECIMAL(18,4) NOT NULL\"}\n")},
		"views/by.sql":        {Data: []byte("SELECT customer, count(*) AS n, sum(price) AS spent, max(price) AS dearest FROM orders GROUP BY ALL")},
	}
	p, faults := project.Load(fsys)
	if faults.Fatal() {
		return nil, nil, faults
	}
	c, err := view.NewCompiler(p.Streams)
	if err != nil {
		return nil, nil, err
	}
	v, found := c.Compile(p.Views[0])
	if v == nil {
		return nil, nil, project.Faults(found)
	}
	s, err := store.Open(store.Config{MemoryLimit: 6 << 30, TempDir: filepath.Join(b.dir, "spill")}, []*event.Schema{event.NewSchema(p.Streams[0])}, []*view.View{v})
	if err != nil {
		return nil, nil, err
	}
	db, err := duck.Open(duck.Config{Threads: 2})
	if err != nil {
		return nil, nil, err
	}
	defer db.Close()
	if _, err := db.Exec(fmt.Sprintf("COPY (%s) TO %s (FORMAT parquet)", v.PartialSQL(fmt.Sprintf(
		"(SELECT n AS customer, CAST(n %% 1000 AS DECIMAL(18,4)) AS price, NULL::VARCHAR AS _duet_extra, 1::BIGINT AS _duet_at, 0::INTEGER AS _duet_record FROM range(%d) t(n))", b.groups)), duck.Literal(cells))); err != nil {
		return nil, nil, err
	}
	return s, &catalog.Generation{Number: 1, Views: []catalog.View{{Name: "by", Definition: v.Definition}}}, nil
}

// memory measures the bytes that the store holds for a million groups, against
// the same rows in one plain DuckDB table.
func (b *bench) memory() error {
	ctx := context.Background()
	cells := filepath.Join(b.dir, "cells.parquet")
	s, g, err := b.million(cells)
	if err != nil {
		return err
	}
	defer s.Close()
	if err := s.Cut(ctx, schemas.NewPosition(1, 1)); err != nil {
		return err
	}
	g.Cut = schemas.NewCut(schemas.Incarnation{}, schemas.NewPosition(1, 1))
	before, err := s.Stats(ctx)
	if err != nil {
		return err
	}
	if _, err := s.Stage(ctx, g, map[string]string{"by": cells}); err != nil {
		return err
	}
	if err := s.Switch(ctx, g); err != nil {
		return err
	}
	after, err := s.Stats(ctx)
	if err != nil {
		return err
	}
	db, err := duck.Open(duck.Config{Threads: 1})
	if err != nil {
		return err
	}
	defer db.Close()
	if _, err := db.Exec("CREATE TABLE cells AS FROM " + duck.Parquet(cells)); err != nil {
		return err
	}
	var plain float64
	if err := db.QueryRow("SELECT sum(memory_usage_bytes) FROM duckdb_memory()").Scan(&plain); err != nil {
		return err
	}
	per := 1e6 / float64(b.groups) / (1 << 20)
	report("memory per million groups, 3 cells", float64(after.Memory-before.Memory)*per, "MiB", plain*per, 0, bound{})
	return nil
}

// switchPause measures how long a switch to a generation of a million groups
// takes, and the slowest read meanwhile.
func (b *bench) switchPause() error {
	ctx := context.Background()
	cells := filepath.Join(b.dir, "cells.parquet")
	s, g, err := b.million(cells)
	if err != nil {
		return err
	}
	defer s.Close()
	worst := 0.0
	var reader atomic.Int64 // the slowest read, ns
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			began := time.Now()
			if err := s.Read(ctx, func(sn *store.Snapshot) error {
				rel, err := sn.Partials("by")
				if err != nil {
					return nil // before the first generation
				}
				_, err = sn.Collect(ctx, 1, "SELECT count(*) FROM "+rel)
				return err
			}); err != nil {
				done <- err
				return
			}
			reader.Store(max(reader.Load(), int64(time.Since(began))))
		}
	}()
	for i := range uint64(5) {
		at := schemas.NewPosition(1, i+1)
		g = &catalog.Generation{Number: i + 1, Cut: schemas.NewCut(schemas.Incarnation{}, at), Views: g.Views}
		if err := s.Cut(ctx, at); err != nil {
			return err
		}
		if _, err := s.Stage(ctx, g, map[string]string{"by": cells}); err != nil {
			return err
		}
		began := time.Now()
		if err := s.Switch(ctx, g); err != nil {
			return err
		}
		worst = max(worst, time.Since(began).Seconds()*1000)
	}
	close(stop)
	if err := <-done; err != nil {
		return err
	}
	report("switch at a million groups, slowest of 5", worst, "ms", 0, worst, bound{atMost: 50})
	report("slowest read meanwhile", float64(reader.Load())/1e6, "ms", 0, 0, bound{})
	return nil
}
