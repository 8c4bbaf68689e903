package store

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"go.uber.org/goleak"

	"duet/batch/archive"
	"duet/batch/catalog"
	"duet/internal/base/duck"
	"duet/schemas"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The tests' stream: a sale has a key, an amount in cents, and a text that one
// of the views casts to a number.
var (
	saleSchema = arrow.NewSchema([]arrow.Field{
		{Name: "key", Type: arrow.BinaryTypes.String, Nullable: true},
		{Name: "cents", Type: arrow.PrimitiveTypes.Int64},
		{Name: "note", Type: arrow.BinaryTypes.String, Nullable: true},
		{Name: schemas.ColExtra, Type: arrow.BinaryTypes.String, Nullable: true},
		{Name: schemas.ColAt, Type: arrow.PrimitiveTypes.Int64},
		{Name: schemas.ColRecord, Type: arrow.PrimitiveTypes.Int32},
	}, nil)
	sales = &dataset{name: "sales", columns: "key VARCHAR, cents BIGINT, note VARCHAR, _duet_extra VARCHAR, _duet_at BIGINT, _duet_record INTEGER",
		names: []string{"key", "cents", "note", "_duet_extra", "_duet_at", "_duet_record"}}
	rejects = &dataset{name: archive.Rejects, columns: "reason VARCHAR, _duet_at BIGINT, _duet_record INTEGER", names: []string{"reason", "_duet_at", "_duet_record"}}
	lines   = &dataset{name: archive.Lines, columns: "digest BIGINT, _duet_at BIGINT, _duet_record INTEGER", names: []string{"digest", "_duet_at", "_duet_record"}}
)

// byKey sums cents per key; total has no key at all; notes casts, and so can raise.
func testViews() []*definition {
	return []*definition{
		{
			name: "by_key", stream: "sales", hash: "h1", cells: "k0 VARCHAR, c0 DECIMAL(38,0), c1 BIGINT", width: 3,
			partial: func(f string) string {
				return "SELECT key AS k0, sum(cents)::DECIMAL(38,0) AS c0, count(*) AS c1 FROM " + f + " AS sales GROUP BY 1"
			},
			merge: func(f string) string {
				return "SELECT k0, sum(c0)::DECIMAL(38,0) AS c0, sum(c1)::BIGINT AS c1 FROM " + f + " GROUP BY 1"
			},
		},
		{
			name: "total", stream: "sales", hash: "h2", cells: "c0 DECIMAL(38,0), c1 BIGINT", width: 2,
			partial: func(f string) string {
				return "SELECT sum(cents)::DECIMAL(38,0) AS c0, count(*) AS c1 FROM " + f + " AS sales"
			},
			merge: func(f string) string {
				return "SELECT sum(c0)::DECIMAL(38,0) AS c0, sum(c1)::BIGINT AS c1 FROM " + f
			},
		},
		{
			name: "notes", stream: "sales", hash: "h3", cells: "k0 INTEGER, c0 DECIMAL(38,0), c1 BIGINT", width: 3,
			partial: func(f string) string {
				return "SELECT note::INTEGER AS k0, sum(cents)::DECIMAL(38,0) AS c0, count(*) AS c1 FROM " + f + " AS sales WHERE note::INTEGER >= 0 GROUP BY 1"
			},
			merge: func(f string) string {
				return "SELECT k0, sum(c0)::DECIMAL(38,0) AS c0, sum(c1)::BIGINT AS c1 FROM " + f + " GROUP BY 1"
			},
		},
	}
}

// sale is one event of the tests.
type sale struct {
	key   string
	cents int64
	note  string
	at    schemas.Position
	rec   int32
}

func record(events []sale) arrow.RecordBatch {
	b := array.NewRecordBuilder(memory.DefaultAllocator, saleSchema)
	defer b.Release()
	for _, e := range events {
		if e.key == "" {
			b.Field(0).AppendNull()
		} else {
			b.Field(0).(*array.StringBuilder).Append(e.key)
		}
		b.Field(1).(*array.Int64Builder).Append(e.cents)
		b.Field(2).(*array.StringBuilder).Append(e.note)
		b.Field(3).AppendNull()
		b.Field(4).(*array.Int64Builder).Append(int64(e.at))
		b.Field(5).(*array.Int32Builder).Append(e.rec)
	}
	return b.NewRecordBatch()
}

// at is a position of the tests' only incarnation.
func at(seq int) schemas.Position { return schemas.NewPosition(1, uint64(seq)) }

// sums is the plain fold: cents and count by key ("" is NULL).
type sums map[string][2]int64

func fold(events []sale, through schemas.Position, group func(sale) string) sums {
	s := sums{}
	for _, e := range events {
		if e.at <= through {
			g := s[group(e)]
			s[group(e)] = [2]int64{g[0] + e.cents, g[1] + 1}
		}
	}
	return s
}

func keyOf(e sale) string  { return e.key }
func noteOf(e sale) string { return e.note }

func (s sums) String() string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(s)) {
		fmt.Fprintf(&b, "%s=%d/%d ", k, s[k][0], s[k][1])
	}
	return b.String()
}

// rig is a store with all the events that were applied to it.
type rig struct {
	t   testing.TB
	s   *Store
	dir string
	r   *rand.Rand
	// duck takes the place of the batch half; it shares nothing with the store.
	duck *duck.DB

	mu     sync.Mutex
	events []sale
	seq    int
	gen    uint64
	files  int
	arch   Archived // the blocks that were archived
}

func newRig(t testing.TB, cfg Config) *rig {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	cfg.TempDir = filepath.Join(t.TempDir(), "spill")
	g := &rig{t: t, dir: t.TempDir(), r: rand.New(rand.NewPCG(seed, 1)), arch: Archived{Files: map[string][]string{}}}
	var err error
	g.duck, err = duck.Open(duck.Config{})
	g.must(err)
	t.Cleanup(func() { g.duck.Close() })
	g.s = g.open(cfg)
	return g
}

func (g *rig) open(cfg Config) *Store {
	g.t.Helper()
	s, err := open(cfg, []*dataset{sales, rejects, lines}, testViews())
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() {
		if err := s.Close(); err != nil {
			g.t.Error(err)
		}
	})
	return s
}

func (g *rig) must(err error) {
	if err != nil {
		g.t.Helper()
		g.t.Fatal(err)
	}
}

// batch draws n sales over a few messages.
func (g *rig) batch(n int) []sale {
	var out []sale
	for i := range n {
		if i == 0 || g.r.IntN(4) == 0 {
			g.seq++
		}
		e := sale{at: at(g.seq), rec: int32(i), cents: g.r.Int64N(2001) - 1000, note: fmt.Sprint(g.r.IntN(5))}
		if k := g.r.IntN(12); k > 0 {
			e.key = fmt.Sprintf("k%02d", k)
		}
		out = append(out, e)
	}
	return out
}

func (g *rig) load(events []sale) *microBatch {
	in := &microBatch{through: at(g.seq), accounts: map[string]schemas.Account{"sales": {Received: int64(len(events)), Accepted: int64(len(events))}}}
	if len(events) > 0 {
		in.sets = []setRows{{"sales", record(events)}}
	}
	return in
}

// apply applies n new sales; with 0, a message without any.
func (g *rig) apply(n int) {
	g.t.Helper()
	events := g.batch(n)
	if n == 0 {
		g.seq++
	}
	g.must(g.applyEvents(events))
}

func (g *rig) applyEvents(events []sale) error {
	g.mu.Lock()
	g.events = append(g.events, events...)
	g.mu.Unlock()
	in := g.load(events)
	defer func() {
		for _, r := range in.sets {
			r.rec.Release()
		}
	}()
	return g.s.apply(context.Background(), in)
}

func (g *rig) cut() schemas.Position {
	g.t.Helper()
	g.seq++
	g.must(g.s.Cut(context.Background(), at(g.seq)))
	return at(g.seq)
}

// parquet writes the result of query by a DuckDB of its own.
func (g *rig) parquet(query string) string {
	g.t.Helper()
	g.files++
	path := filepath.Join(g.dir, fmt.Sprintf("f%d.parquet", g.files))
	_, err := g.duck.Exec("COPY (" + query + ") TO " + duck.Literal(path) + " (FORMAT parquet)")
	g.must(err)
	return path
}

// published is a generation with the paths of its cells.
type published struct {
	*catalog.Generation
	files map[string]string
}

// newPublished returns a generation without views.
func newPublished(number uint64, cut schemas.Position) published {
	return published{&catalog.Generation{Number: number, Cut: schemas.NewCut(schemas.Incarnation{}, cut)}, map[string]string{}}
}

// set adds or replaces a view.
func (p published) set(v catalog.View, file string) {
	p.Views = slices.DeleteFunc(p.Views, func(old catalog.View) bool { return old.Name == v.Name })
	p.Views = append(p.Views, v)
	p.files[v.Name] = file
}

func (g *rig) stage(p published) error {
	_, err := g.s.Stage(context.Background(), p.Generation, p.files)
	return err
}

// serve stages a generation and switches to it.
func (g *rig) serve(p published) {
	g.t.Helper()
	g.must(g.stage(p))
	g.must(g.s.Switch(context.Background(), p.Generation))
}

// rebuild rebuilds from an archive and switches; a zero published means none.
func (g *rig) rebuild(p published, a Archived) error {
	if _, err := g.s.Rebuild(context.Background(), p.Generation, p.files, a.list); err != nil {
		return err
	}
	return g.s.Switch(context.Background(), p.Generation)
}

func (a Archived) list(context.Context, schemas.Position) (Archived, error) { return a, nil }

// generation computes a generation at a cut, as the batch half does, from the
// plain fold.
func (g *rig) generation(cut schemas.Position) published {
	g.t.Helper()
	g.gen++
	gen := newPublished(g.gen, cut)
	rows := func(s sums, key string) string {
		q := "SELECT " + key + " AS k0, 0::DECIMAL(38,0) AS c0, 0::BIGINT AS c1 WHERE false"
		for _, k := range slices.Sorted(maps.Keys(s)) {
			kv := duck.Literal(k)
			if k == "" {
				kv = "NULL"
			}
			if key == "0" {
				kv = "TRY_CAST(" + kv + " AS INTEGER)"
			}
			q += fmt.Sprintf(" UNION ALL SELECT %s, %d::DECIMAL(38,0), %d::BIGINT", kv, s[k][0], s[k][1])
		}
		return q
	}
	byKey, notes := fold(g.events, cut, keyOf), fold(g.events, cut, noteOf)
	gen.set(catalog.View{Name: "by_key", Definition: "h1", Rows: int64(len(byKey))}, g.parquet(rows(byKey, "''")))
	gen.set(catalog.View{Name: "notes", Definition: "h3", Rows: int64(len(notes))}, g.parquet(rows(notes, "0")))
	all := fold(g.events, cut, func(sale) string { return "x" })["x"]
	gen.set(catalog.View{Name: "total", Definition: "h2", Rows: 1}, g.parquet(fmt.Sprintf("SELECT %d::DECIMAL(38,0) AS c0, %d::BIGINT AS c1", all[0], all[1])))
	return gen
}

// answer returns a view's merged answer in a snapshot.
func answer(ctx context.Context, sn *Snapshot, view string) (sums, error) {
	from, err := sn.Partials(view)
	if err != nil {
		return nil, err
	}
	key := "coalesce(k0::VARCHAR, '')"
	if view == "total" {
		key = "'x'"
	}
	rows, err := sn.Query(ctx, "SELECT "+key+", sum(c0)::BIGINT, sum(c1)::BIGINT FROM "+from+" GROUP BY 1")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	s := sums{}
	for rows.Next() {
		var k string
		var v [2]*int64
		if err := rows.Scan(&k, &v[0], &v[1]); err != nil {
			return nil, err
		}
		if v[1] != nil && *v[1] != 0 {
			s[k] = [2]int64{*v[0], *v[1]}
		}
	}
	return s, rows.Err()
}

// check compares every view in one snapshot with the plain fold.
func (g *rig) check(views ...string) {
	g.t.Helper()
	g.must(g.compare(views...))
}

func (g *rig) compare(views ...string) error {
	ctx := context.Background()
	if len(views) == 0 {
		views = []string{"by_key", "total", "notes"}
	}
	return g.s.Read(ctx, func(sn *Snapshot) error {
		for _, v := range views {
			got, err := answer(ctx, sn, v)
			if err != nil {
				return err
			}
			group := map[string]func(sale) string{"by_key": keyOf, "notes": noteOf, "total": func(sale) string { return "x" }}[v]
			if want := fold(g.events, sn.LiveThrough(), group); !maps.Equal(got, want) {
				return fmt.Errorf("%s at generation %d, cut %s, live-through %s:\ngot  %s\nwant %s", v, sn.Generation(), sn.Cut(), sn.LiveThrough(), got, want)
			}
		}
		return nil
	})
}

// archiveThrough archives blocks until the archive reaches at.
func (g *rig) archiveThrough(at schemas.Position) {
	g.t.Helper()
	for g.arch.Through < at {
		g.archive()
	}
}

// archive exports and releases the oldest closed block.
func (g *rig) archive() {
	g.t.Helper()
	g.must(g.tryArchive())
}

// tryArchive is archive, and fails if the export does: the block stays then.
func (g *rig) tryArchive() error {
	g.t.Helper()
	ctx := context.Background()
	b, err := g.s.NextBlock(ctx)
	g.must(err)
	if b.From != g.arch.Through {
		g.t.Fatalf("block %d is after %s, the archive ends at %s", b.ID, b.From, g.arch.Through)
	}
	g.files++
	path := filepath.Join(g.dir, fmt.Sprintf("a%d.parquet", g.files))
	n, err := g.s.ExportBlock(ctx, b, "sales", path)
	if err != nil {
		return err
	}
	if n != b.Accounts["sales"].Accepted {
		g.t.Fatalf("block %d: %d rows written, account %+v", b.ID, n, b.Accounts)
	}
	if _, err := os.Stat(path); (err == nil) != (n > 0) {
		g.t.Fatalf("block %d: %d rows, file: %v", b.ID, n, err)
	}
	g.mu.Lock()
	if n > 0 {
		g.arch.Files["sales"] = append(slices.Clone(g.arch.Files["sales"]), path)
	}
	g.arch.Through = b.Through
	g.mu.Unlock()
	return g.s.ReleaseBlock(ctx, b.ID)
}
