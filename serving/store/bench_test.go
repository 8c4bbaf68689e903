package store

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"duet/batch/catalog"
	"duet/internal/base/duck"
	"duet/schemas"
	"duet/schemas/view"
)

// BenchmarkApply is one micro-batch with five views, per size, beside bare
// DuckDB doing the views' group-bys over the same rows in one table
// ("bare-ns/op"): what is more is loading, inserting, positions and commit.
func BenchmarkApply(b *testing.B) {
	for _, n := range []int{1, 1000, 10_000, 65_536} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			sh := newShop(b, Config{TailRows: 1 << 40, TailBytes: 1 << 50}, five...)
			ctx := context.Background()
			sh.apply(20_000)
			records := sh.events(n)
			bare := sh.bare(records)
			var apply, alone []time.Duration
			for b.Loop() {
				b.StopTimer()
				alone = append(alone, bare())
				sh.fill(records)
				sh.batch.Records()
				b.StartTimer()
				begin := time.Now()
				sh.must(sh.s.Apply(ctx, sh.batch))
				apply = append(apply, time.Since(begin))
				b.StopTimer()
				sh.batch.Reset()
				b.StartTimer()
			}
			b.StopTimer()
			p50 := median(apply)
			b.ReportMetric(float64(p50.Nanoseconds()), "p50-ns/op")
			b.ReportMetric(float64(median(alone).Nanoseconds()), "bare-ns/op")
			b.ReportMetric(p50.Seconds()/median(alone).Seconds(), "x-bare")
			b.ReportMetric(float64(n)/p50.Seconds(), "events/s")
		})
	}
}

// bare gives a function that times the five partial group-bys over the records
// in a table of a DuckDB of their own. Called between batches, it meets the same
// load of the machine.
func (sh *shop) bare(records [][]byte) func() time.Duration {
	sh.fill(records)
	ctx := context.Background()
	conn, err := sh.side.Conn(ctx)
	sh.must(err)
	sh.t.Cleanup(func() { conn.Close() })
	_, err = conn.ExecContext(ctx, "CREATE OR REPLACE TABLE rows ("+sh.stream.SQLColumns()+")")
	sh.must(err)
	for _, r := range sh.batch.Records() {
		sh.must(conn.LoadArrow(ctx, "rows", r.Record))
	}
	sh.batch.Reset()
	return func() time.Duration {
		begin := time.Now()
		for _, v := range sh.views {
			rows, err := conn.QueryContext(ctx, v.PartialSQL("rows"))
			sh.must(err)
			sh.must(rows.Close())
		}
		return time.Since(begin)
	}
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

// BenchmarkSwitch is the pause of a switch between generations of a million
// groups: how long the writer is busy, and how long the longest batch waited.
func BenchmarkSwitch(b *testing.B) {
	g := newRig(b, Config{TailRows: 1 << 40, TailBytes: 1 << 50})
	ctx := context.Background()
	file := g.parquet("SELECT 'key ' || i AS k0, i::DECIMAL(38,0) AS c0, 1::BIGINT AS c1 FROM range(1000000) r(i)")
	var longest time.Duration
	for b.Loop() {
		b.StopTimer()
		g.apply(100)
		c := g.cut()
		g.gen++
		gen := newPublished(g.gen, c)
		gen.set(catalog.View{Name: "by_key", Definition: "h1"}, file)
		g.must(g.stage(gen))
		b.StartTimer()
		begin := time.Now()
		g.must(g.s.Switch(ctx, gen.Generation))
		longest = max(longest, time.Since(begin))
	}
	b.ReportMetric(float64(longest.Nanoseconds()), "longest-ns")
}

// BenchmarkStageBesideWriter is what batches of 100 events take while a
// generation of a million groups is staged beside them.
func BenchmarkStageBesideWriter(b *testing.B) {
	g := newRig(b, Config{TailRows: 1 << 40, TailBytes: 1 << 50})
	file := g.parquet("SELECT 'key ' || i AS k0, i::DECIMAL(38,0) AS c0, 1::BIGINT AS c1 FROM range(1000000) r(i)")
	gen := newPublished(1, g.cut())
	gen.set(catalog.View{Name: "by_key", Definition: "h1"}, file)
	var took []time.Duration
	for b.Loop() {
		done := make(chan error, 1)
		go func() {
			done <- g.stage(gen)
		}()
		for staged := false; !staged; {
			begin := time.Now()
			g.apply(100)
			took = append(took, time.Since(begin))
			select {
			case err := <-done:
				g.must(err)
				staged = true
			default:
			}
		}
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Nanoseconds()), "apply-p50-ns")
	b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds()), "apply-p99-ns")
}

// BenchmarkRead is a merged answer over 100,000 groups and a live half in a few
// segments, beside the same SELECT over one plain table of the events.
func BenchmarkRead(b *testing.B) {
	sh := newShop(b, Config{TailRows: 1 << 40, TailBytes: 1 << 50}, five...)
	ctx := context.Background()
	for range 4 {
		sh.apply(65_000)
	}
	c := sh.cut()
	sh.archive(c)
	gen := sh.generation(1, c)
	sh.stage(gen)
	sh.must(sh.s.Switch(ctx, gen.Generation))
	for range 20 {
		sh.apply(2000)
	}
	sh.cut()
	sh.apply(2000)
	sh.s.side.Wait()
	conn, err := sh.side.Conn(ctx)
	sh.must(err)
	defer conn.Close()
	sh.plainTable(conn)
	for _, v := range sh.views {
		b.Run(v.Name, func(b *testing.B) {
			var ours, plain []time.Duration
			for b.Loop() {
				begin := time.Now()
				sh.must(sh.s.Read(ctx, func(sn *Snapshot) error {
					from, err := sn.Partials(v.Name)
					if err != nil {
						return err
					}
					final, _, err := v.FinalSQL(from, view.Options{})
					if err != nil {
						return err
					}
					_, err = sn.Collect(ctx, 0, final)
					return err
				}))
				ours = append(ours, time.Since(begin))
				begin = time.Now()
				sn := &Snapshot{conn: &reader{conn: conn}, ctx: ctx}
				_, err := sn.Collect(ctx, 0, v.PlainSQL("rows"))
				sh.must(err)
				plain = append(plain, time.Since(begin))
			}
			o, p := median(ours), median(plain)
			b.ReportMetric(float64(o.Nanoseconds()), "ours-ns")
			b.ReportMetric(float64(p.Nanoseconds()), "plain-ns")
			b.ReportMetric(o.Seconds()/p.Seconds(), "x-plain")
		})
	}
}

// plainTable fills a table of another DuckDB with every accepted row.
func (sh *shop) plainTable(conn *duck.Conn) {
	ctx := context.Background()
	path := filepath.Join(sh.dir, "tail.parquet")
	sh.must(sh.s.Read(ctx, func(sn *Snapshot) error {
		_, err := sn.copy(ctx, "SELECT "+schemas.SpelledSQL+" FROM "+sn.Tail("orders"), path)
		return err
	}))
	from := archived(sh.s.sets["orders"], append(slices.Clone(sh.files), path), 0, schemas.Position(1<<62))
	_, err := conn.ExecContext(ctx, "CREATE OR REPLACE TABLE rows AS FROM "+from)
	sh.must(err)
}
