package store

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow/memory"

	"duet/batch/archive"
	"duet/batch/catalog"
	"duet/internal/base/duck"
	"duet/schemas"
	"duet/schemas/event"
	"duet/schemas/project"
	"duet/schemas/view"
)

// shop is a project with real views, its store, and the log's sequencer.
type shop struct {
	t      testing.TB
	s      *Store
	stream *event.Schema
	views  []*view.View
	seq    *event.Sequencer
	at     int
	r      *rand.Rand
	dir    string
	batch  *event.Batch
	side   *duck.DB
	files  []string
	n      int
	cfg    Config
}

var shopViews = map[string]string{
	"by_hour":     "SELECT time_bucket(INTERVAL '1 hour', sold_at) AS hour, country, sum(quantity * price) AS revenue, count(*) AS lines, avg(price) AS avg_price FROM orders WHERE quantity > 0 GROUP BY ALL",
	"by_country":  "SELECT country, sum(quantity * price) AS revenue, count(*) AS lines FROM orders GROUP BY country",
	"by_sku":      "SELECT sku, sum(quantity) AS units, min(price) AS cheapest, max(price) AS dearest FROM orders GROUP BY sku",
	"by_customer": "SELECT customer, sum(quantity * price) AS revenue, count(*) AS lines FROM orders GROUP BY customer",
	"by_line":     "SELECT line // 100 AS block, stddev(price) AS spread, var_pop(quantity) AS variance FROM orders GROUP BY ALL",
	"by_day":      "SELECT date_trunc('day', sold_at) AS day, sum(quantity) AS units, arg_max(sku, price) AS dearest, last(country ORDER BY sold_at) AS last_country FROM orders GROUP BY 1",
}

// five lists the views that benchmarks fold.
var five = []string{"by_hour", "by_country", "by_sku", "by_customer", "by_day"}

func newShop(t testing.TB, cfg Config, names ...string) *shop {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	col := func(name string, typ project.Type, notNull bool) project.Column {
		return project.Column{Name: name, Type: typ, NotNull: notNull, From: name}
	}
	st := &project.Stream{
		Name: "orders", EventTime: "sold_at",
		Columns: []project.Column{
			col("invoice", project.Type{Kind: project.Varchar}, true), col("line", project.Type{Kind: project.Integer}, true),
			col("sku", project.Type{Kind: project.Varchar}, true), col("quantity", project.Type{Kind: project.Integer}, true),
			col("price", project.Type{Kind: project.Decimal, Precision: 18, Scale: 4}, true), col("customer", project.Type{Kind: project.BigInt}, false),
			col("country", project.Type{Kind: project.Varchar}, false), col("sold_at", project.Type{Kind: project.Timestamp}, true),
		},
	}
	c, err := view.NewCompiler([]*project.Stream{st})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	sh := &shop{t: t, stream: event.NewSchema(st), dir: t.TempDir(), r: rand.New(rand.NewPCG(seed, 2))}
	for _, name := range names {
		v, faults := c.Compile(&project.View{Name: name, File: "views/" + name + ".sql", SQL: shopViews[name]})
		if v == nil {
			t.Fatal(faults)
		}
		sh.views = append(sh.views, v)
	}
	cfg.Log, cfg.TempDir = slog.New(slog.DiscardHandler), filepath.Join(t.TempDir(), "spill")
	sh.cfg = cfg
	sh.s = sh.reopen()
	if sh.side, err = duck.Open(duck.Config{}); err != nil {
		t.Fatal(err)
	}
	mem := memory.NewCheckedAllocator(memory.DefaultAllocator)
	sh.batch = event.NewBatch(mem)
	sh.seq = event.NewSequencer(map[string]*event.Schema{"orders": sh.stream}, event.NewState())
	t.Cleanup(func() {
		sh.side.Close()
		if err := sh.s.Close(); err != nil {
			t.Error(err)
		}
		sh.batch.Release()
		mem.AssertSize(t, 0)
	})
	return sh
}

func (sh *shop) stage(p published) {
	sh.t.Helper()
	if unfit, err := sh.s.Stage(context.Background(), p.Generation, p.files); err != nil || len(unfit) > 0 {
		sh.t.Fatal(unfit, err)
	}
}

func (sh *shop) rebuild(p published, list ListArchived) {
	sh.t.Helper()
	if unfit, err := sh.s.Rebuild(context.Background(), p.Generation, p.files, list); err != nil || len(unfit) > 0 {
		sh.t.Fatal(unfit, err)
	}
}

// reopen makes an empty store, as a new process has.
func (sh *shop) reopen() *Store {
	sh.t.Helper()
	s, err := Open(sh.cfg, []*event.Schema{sh.stream}, sh.views)
	sh.must(err)
	return s
}

func (sh *shop) must(err error) {
	if err != nil {
		sh.t.Helper()
		sh.t.Fatal(err)
	}
}

// events draws n events, one in fifty bad, many of them tied.
func (sh *shop) events(n int) [][]byte {
	out := make([][]byte, n)
	for i := range out {
		r := sh.r
		customer := fmt.Sprint(r.IntN(2000))
		if r.IntN(10) == 0 {
			customer = "null"
		}
		price := fmt.Sprintf("%d.%02d", r.IntN(100), r.IntN(4)*25)
		if r.IntN(50) == 0 {
			price = `"cheap"`
		}
		out[i] = fmt.Appendf(nil, `{"invoice": "i%d", "line": %d, "sku": "sku-%04d", "quantity": %d, "price": %s, "customer": %s, "country": "country %d", "sold_at": "2026-11-%02dT%02d:%02d:00Z"}`,
			r.IntN(1e6), i, r.IntN(4000), r.IntN(12)-2, price, customer, r.IntN(38), 1+r.IntN(20), r.IntN(24), r.IntN(60))
	}
	return out
}

// fill puts records into the batch, as messages of at most 1,000.
func (sh *shop) fill(records [][]byte) {
	for chunk := range slices.Chunk(records, 1000) {
		sh.at++
		data := event.AppendEnvelope(nil, "orders", []event.Run{{Count: uint32(len(chunk))}}, chunk)
		sh.seq.Apply(event.Message{Stream: "orders", At: at(sh.at), Time: time.Unix(1_795_000_000, 0), Data: data}, sh.batch)
	}
}

func (sh *shop) apply(n int) {
	sh.t.Helper()
	sh.fill(sh.events(n))
	sh.must(sh.s.Apply(context.Background(), sh.batch))
	sh.batch.Reset()
}

func (sh *shop) cut() schemas.Position {
	sh.t.Helper()
	sh.at++
	sh.must(sh.s.Cut(context.Background(), at(sh.at)))
	return at(sh.at)
}

// archive exports blocks until the archive reaches at, rejects included.
func (sh *shop) archive(through schemas.Position) Archived {
	sh.t.Helper()
	ctx := context.Background()
	for {
		b, err := sh.s.NextBlock(ctx)
		sh.must(err)
		for _, set := range []string{"orders", archive.Rejects} {
			sh.n++
			path := filepath.Join(sh.dir, fmt.Sprintf("%s-%d.parquet", set, sh.n))
			n, err := sh.s.ExportBlock(ctx, b, set, path)
			sh.must(err)
			if want := map[string]int64{"orders": b.Accounts["orders"].Accepted, archive.Rejects: b.Accounts["orders"].Rejected}[set]; n != want {
				sh.t.Fatalf("block %d: %d rows of %s, its account is %+v", b.ID, n, set, b.Accounts["orders"])
			}
			if set == "orders" && n > 0 {
				sh.files = append(sh.files, path)
			}
		}
		sh.must(sh.s.ReleaseBlock(ctx, b.ID))
		if b.Through >= through {
			return Archived{Through: b.Through, Files: map[string][]string{"orders": sh.files}}
		}
	}
}

// generation computes one from the archive's files alone.
func (sh *shop) generation(number uint64, cut schemas.Position) published {
	sh.t.Helper()
	g := newPublished(number, cut)
	for _, v := range sh.views {
		sh.n++
		path := filepath.Join(sh.dir, fmt.Sprintf("g-%s-%d.parquet", v.Name, sh.n))
		from := archived(sh.s.sets["orders"], sh.files, 0, cut)
		_, err := sh.side.Exec("COPY (" + v.PartialSQL(from) + ") TO " + duck.Literal(path) + " (FORMAT parquet)")
		sh.must(err)
		g.set(catalog.View{Name: v.Name, Definition: v.Definition}, path)
	}
	return g
}

// check compares every view with plain DuckDB over archive files and tail, in
// one snapshot, column by column within what the column promises.
func (sh *shop) check() {
	sh.t.Helper()
	ctx := context.Background()
	sh.must(sh.s.Read(ctx, func(sn *Snapshot) error {
		rows := sn.Tail("orders")
		if len(sh.files) > 0 {
			rows = "(FROM " + rows + " UNION ALL FROM " + archived(sh.s.sets["orders"], sh.files, 0, sn.Archived()) + ")"
		}
		for _, v := range sh.views {
			from, err := sn.Partials(v.Name)
			if err != nil {
				return err
			}
			final, cols, err := v.FinalSQL(from, view.Options{})
			if err != nil {
				return err
			}
			var same, differ []string
			for _, c := range cols {
				a, b := "a."+duck.Ident(c.Name), "b."+duck.Ident(c.Name)
				if c.Role == view.Key || c.Role == view.TimeKey {
					same = append(same, a+" IS NOT DISTINCT FROM "+b)
				} else {
					differ = append(differ, "("+c.DiffersSQL(a, b, "0")+")")
				}
			}
			q := fmt.Sprintf("SELECT count(*) FILTER (a IS NULL OR b IS NULL OR %s), count(*) FROM (%s) a FULL JOIN (%s) b ON %s",
				strings.Join(differ, " OR "), final, v.PlainSQL(rows), strings.Join(same, " AND "))
			var got string
			if err := scanOne(ctx, sn, q, &got); err != nil {
				return fmt.Errorf("%s: %w", q, err)
			}
			if !strings.HasPrefix(got, "0 ") {
				return fmt.Errorf("view %s at (%d, %s): %s groups differ, of all", v.Name, sn.Generation(), sn.LiveThrough(), got)
			}
		}
		return nil
	}))
}

func TestRealViewsAnswerAsPlainDuckDB(t *testing.T) {
	sh := newShop(t, Config{BlockRows: 2000, MergeSlack: 500}, append(five, "by_line")...)
	ctx := context.Background()
	var number uint64
	var arch Archived
	cuts := []schemas.Position{}
	for round := range 8 {
		for range 1 + sh.r.IntN(4) {
			sh.apply(1 + sh.r.IntN(1500))
		}
		sh.check()
		c := sh.cut()
		arch = sh.archive(c)
		number++
		gen := sh.generation(number, c)
		sh.apply(200)
		if round%3 == 2 {
			gen = sh.generation(number, cuts[sh.r.IntN(len(cuts))])
			sh.rebuild(gen, arch.list)
		} else {
			sh.stage(gen)
		}
		sh.must(sh.s.Switch(ctx, gen.Generation))
		cuts = append(cuts, c)
		sh.check()
	}
	sh.must(sh.s.Read(ctx, func(sn *Snapshot) error {
		if newest, ok := sn.NewestEventTime("orders"); !ok || newest.Before(time.Date(2026, 11, 20, 23, 0, 0, 0, time.UTC)) {
			t.Errorf("newest event time %v, %v", newest, ok)
		}
		return nil
	}))
}
