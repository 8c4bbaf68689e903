package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"duet/internal/base/duck"
	"duet/schemas/duetv1"
)

// ingest measures events per second until live half and archive hold them,
// against DuckDB alone reading the same NDJSON, computing the five views and
// writing Parquet.
func (b *bench) ingest() error {
	prepare(b.events)
	var ours, rival time.Duration
	err := within(10*time.Minute, func(ctx context.Context) error {
		s, err := b.up(ctx, filepath.Join(b.dir, "ingest"))
		if err != nil {
			return err
		}
		defer func() { _ = s.kill() }()
		began := time.Now()
		if err := s.append(ctx, 0, b.events, 2000); err != nil {
			return err
		}
		st, err := s.ops.GetStatus(ctx, &duetv1.GetStatusRequest{})
		if err != nil {
			return err
		}
		last := st.GetLog().GetLast().GetSequence()
		if _, err := s.batch.StartRun(ctx, &duetv1.StartRunRequest{}); err != nil { // its marker closes the last block
			return err
		}
		err = s.until(ctx, func(st *duetv1.GetStatusResponse) bool {
			through := st.GetArchive().GetThrough()
			return len(through) > 0 && through[0].GetSequence() >= last
		})
		ours = time.Since(began)
		if err != nil {
			return err
		}
		return s.until(ctx, func(st *duetv1.GetStatusResponse) bool { return st.GetBatch().GetLast() != nil })
	})
	if err != nil {
		return err
	}
	path := filepath.Join(b.dir, "orders.ndjson")
	if err := orders(path, b.events); err != nil {
		return err
	}
	defer os.Remove(path)
	db, err := duck.Open(duck.Config{Threads: 2, MemoryLimit: "8GB", TempDir: filepath.Join(b.dir, "spill")})
	if err != nil {
		return err
	}
	defer db.Close()
	began := time.Now()
	stmts := []string{`CREATE TABLE orders AS SELECT * FROM read_json(` + duck.Literal(path) + `, format='newline_delimited', columns={
		id: 'BIGINT', sold_at: 'TIMESTAMP', shop: 'VARCHAR', country: 'VARCHAR', sku: 'VARCHAR', category: 'VARCHAR', quantity: 'INTEGER', price: 'DECIMAL(18,4)', customer: 'BIGINT'})`}
	for name, sql := range selects() {
		stmts = append(stmts, "CREATE TABLE "+name+" AS "+sql)
	}
	stmts = append(stmts, "COPY orders TO "+duck.Literal(filepath.Join(b.dir, "rival.parquet"))+" (FORMAT parquet, COMPRESSION zstd)")
	for _, s := range stmts {
		if _, err := db.Exec(s); err != nil {
			return err
		}
	}
	rival = time.Since(began)
	per := func(d time.Duration) float64 { return float64(b.events) / d.Seconds() }
	report("ingest to live and archive, 5 views", per(ours), "events/s", per(rival), per(ours)/per(rival), bound{atLeast: 0.5})
	return nil
}

// query measures the median latency of each view's merged answer, against the
// same SELECT on one plain DuckDB table with the same rows.
func (b *bench) query() error {
	n := min(b.events, 1_000_000)
	prepare(n)
	path := filepath.Join(b.dir, "query.ndjson")
	if err := orders(path, n); err != nil {
		return err
	}
	defer os.Remove(path)
	db, err := duck.Open(duck.Config{Threads: 2, MemoryLimit: "4GB", TempDir: filepath.Join(b.dir, "spill")})
	if err != nil {
		return err
	}
	defer db.Close()
	if _, err := db.Exec(`CREATE TABLE orders AS SELECT * FROM read_json(` + duck.Literal(path) + `, format='newline_delimited', columns={
		id: 'BIGINT', sold_at: 'TIMESTAMP', shop: 'VARCHAR', country: 'VARCHAR', sku: 'VARCHAR', category: 'VARCHAR', quantity: 'INTEGER', price: 'DECIMAL(18,4)', customer: 'BIGINT'})`); err != nil {
		return err
	}
	return within(5*time.Minute, func(ctx context.Context) error {
		s, err := b.up(ctx, filepath.Join(b.dir, "query"))
		if err != nil {
			return err
		}
		defer func() { _ = s.kill() }()
		if err := s.append(ctx, 0, n/2, 2000); err != nil {
			return err
		}
		if _, err := s.run(ctx, false); err != nil { // half of the events in each half
			return err
		}
		if err := s.append(ctx, n/2, n, 2000); err != nil {
			return err
		}
		if err := s.until(ctx, func(st *duetv1.GetStatusResponse) bool { return st.GetLive().GetLagMessages() == 0 }); err != nil {
			return err
		}
		all := selects()
		for _, name := range []string{"by_country_hour", "by_sku", "by_shop", "by_category", "total"} {
			order := map[string]string{"by_country_hour": "revenue", "by_sku": "pieces", "by_shop": "lines", "by_category": "pieces", "total": "lines"}[name]
			ours := median(40, func() error {
				_, err := s.views.Query(ctx, &duetv1.QueryRequest{View: name, OrderBy: []string{order + " desc"}, Limit: 100})
				return err
			})
			rival := median(40, func() error {
				rows, err := db.Query("SELECT * FROM (" + all[name] + ") ORDER BY " + order + " DESC LIMIT 100")
				if err != nil {
					return err
				}
				for rows.Next() {
				}
				return rows.Close()
			})
			if ours < 0 || rival < 0 {
				return fmt.Errorf("view %s: a query failed", name)
			}
			report("query "+name+", p50", ours, "ms", rival, ours/rival, bound{atMost: 2})
		}
		return nil
	})
}

// median returns f's median duration in milliseconds, or -1 if f fails.
func median(n int, f func() error) float64 {
	var took []float64
	for i := range n + 3 {
		began := time.Now()
		if err := f(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return -1
		}
		if i >= 3 { // the first ones warm up
			took = append(took, time.Since(began).Seconds()*1000)
		}
	}
	slices.Sort(took)
	return took[len(took)/2]
}

// visible measures the time from sending an event to an answer that counts it.
func (b *bench) visible() error {
	prepare(200_000)
	return within(5*time.Minute, func(ctx context.Context) error {
		s, err := b.up(ctx, filepath.Join(b.dir, "visible"))
		if err != nil {
			return err
		}
		defer func() { _ = s.kill() }()
		from := 0
		for _, rate := range []int{1000, 10_000} {
			const each = 10 * time.Millisecond
			size := rate / 100
			count := 800 // requests, so 8 s
			took := make([]float64, count)
			var wg sync.WaitGroup
			errs := make(chan error, count)
			tick := time.NewTicker(each)
			for i := range count {
				<-tick.C
				first := from + i*size
				wg.Go(func() {
					began := time.Now()
					res, err := s.ingest.Append(ctx, &duetv1.AppendRequest{Stream: "orders", Payload: &duetv1.AppendRequest_JsonLines{JsonLines: preparedOrders(first, first+size)}, Session: "bench"})
					if err == nil {
						_, err = s.ingest.GetAccount(ctx, &duetv1.GetAccountRequest{Session: "bench", NotBefore: res.GetToken()})
					}
					if err != nil {
						errs <- err
					}
					took[i] = time.Since(began).Seconds() * 1000
				})
			}
			tick.Stop()
			wg.Wait()
			if len(errs) > 0 {
				return <-errs
			}
			from += count * size
			took = took[50:] // the first half second warms up
			slices.Sort(took)
			p50, p99 := took[len(took)/2], took[len(took)*99/100]
			report(fmt.Sprintf("publish to visible at %d events/s, p50", rate), p50, "ms", 0, p50, bound{})
			report(fmt.Sprintf("publish to visible at %d events/s, p99", rate), p99, "ms", 0, p99, bound{atMost: 50})
		}
		return nil
	})
}

// recovery measures the time from start to the first answer with a million
// events after the cut, all of them only in the log, against DuckDB reading the
// same NDJSON.
func (b *bench) recovery() error {
	const n = 990_000 // below a block, so that the archive has none of them
	prepare(n)
	data := filepath.Join(b.dir, "recovery")
	return within(5*time.Minute, func(ctx context.Context) error {
		s, err := b.up(ctx, data)
		if err != nil {
			return err
		}
		if _, err := s.run(ctx, false); err != nil {
			return err
		}
		if err := s.append(ctx, 0, n, 2000); err != nil {
			return err
		}
		if err := s.until(ctx, func(st *duetv1.GetStatusResponse) bool { return st.GetLive().GetLagMessages() == 0 }); err != nil {
			return err
		}
		if err := s.kill(); err != nil {
			return err
		}
		began := time.Now()
		if s, err = b.up(ctx, data); err != nil {
			return err
		}
		took := time.Since(began)
		defer func() { _ = s.kill() }()
		path := filepath.Join(b.dir, "recovery.ndjson")
		if err := orders(path, n); err != nil {
			return err
		}
		defer os.Remove(path)
		db, err := duck.Open(duck.Config{Threads: 2, MemoryLimit: "4GB", TempDir: filepath.Join(b.dir, "spill")})
		if err != nil {
			return err
		}
		defer db.Close()
		began = time.Now()
		if _, err := db.Exec(`CREATE TABLE orders AS SELECT * FROM read_json(` + duck.Literal(path) + `, format='newline_delimited', columns={
			id: 'BIGINT', sold_at: 'TIMESTAMP', shop: 'VARCHAR', country: 'VARCHAR', sku: 'VARCHAR', category: 'VARCHAR', quantity: 'INTEGER', price: 'DECIMAL(18,4)', customer: 'BIGINT'})`); err != nil {
			return err
		}
		rival := time.Since(began)
		report("recovery of 0.99 M events from the log", took.Seconds(), "s", rival.Seconds(), took.Seconds(), bound{atMost: 5})
		report("recovery, events", n/took.Seconds(), "events/s", n/rival.Seconds(), 0, bound{})
		return nil
	})
}
