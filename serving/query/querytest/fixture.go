// Package querytest is a small project with events in a DuckDB of its own,
// for tests of what is above the store: a [query.Engine] can read it as if it
// were the store, the archive and the generations.
package querytest

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"duet/internal/base/duck"
	"duet/schemas"
	"duet/schemas/project"
	"duet/schemas/view"
	"duet/serving/query"
	"duet/serving/reason"
)

// Files are the project's.
var Files = map[string]string{
	"duet.yaml": "version: 1\nname: shop\n",
	"streams/orders.yaml": `event_time: sold_at
columns:
  country:  VARCHAR
  price:    DECIMAL(18,4) NOT NULL
  quantity: INTEGER NOT NULL
  weight:   DOUBLE
  sold_at:  TIMESTAMP NOT NULL
`,
	"views/sales.sql": `SELECT time_bucket(INTERVAL '1 hour', sold_at) AS hour, country,
       sum(quantity * price) AS revenue, count(*) AS lines, avg(price) AS avg_price, sum(quantity) AS units, sum(weight) AS weight
FROM orders GROUP BY ALL`,
	"views/sales.yaml":     "description: Sales by hour and country\nunits: {revenue: GBP}\n",
	"views/countries.sql":  "SELECT country, sum(quantity * price) AS revenue, min(sold_at) AS first_sale FROM orders GROUP BY country",
	"views/everything.sql": "SELECT count(*) AS lines, sum(price) AS price FROM orders",
}

// Incarnation is the log's.
var Incarnation = schemas.Incarnation{Ordinal: 1, ID: "querytest", Created: "2026-01-01T00:00:00Z"}

// Fixture is the project, its events, and what the halves hold of them:
// events at sequences up to Cut are the generation's, up to Archived the
// archive's, the others the tail's.
type Fixture struct {
	DB       *duck.DB
	Project  *project.Project
	Views    []query.View
	Cut      uint64
	Archived uint64
	Through  uint64
	Number   uint64 // of the generation

	mu     sync.Mutex
	broken map[string]error
	slow   bool
	forged string // added to the events of partials, not to those of files and tail
}

// Rows are how many events the fixture holds.
const Rows = 1000

// New makes a fixture with [Rows] events, one a sequence, and a generation in
// the middle. It ends with the test.
func New(t testing.TB) *Fixture {
	t.Helper()
	p, faults := project.FromFiles(Files)
	if faults.Fatal() {
		t.Fatal(faults)
	}
	compiler, err := view.NewCompiler(p.Streams)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { compiler.Close() })
	f := &Fixture{Project: p, Cut: Rows / 2, Archived: Rows * 3 / 4, Through: Rows, Number: 7, broken: map[string]error{}}
	for _, v := range p.Views {
		c, faults := compiler.Compile(v)
		if c == nil {
			t.Fatal(faults)
		}
		f.Views = append(f.Views, query.View{Project: v, Compiled: c})
	}
	if f.DB, err = duck.Open(duck.Config{Threads: 2, MemoryLimit: "1GB"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.DB.Close() })
	f.exec(t, fmt.Sprintf(`CREATE TABLE events AS SELECT
		[NULL, 'France', 'Germany', 'United Kingdom', 'Côte d''Ivoire'][1 + i %% 5] AS country,
		((i * 7919) %% 100000 / 10000)::DECIMAL(18,4) AS price, (i %% 9 - 1)::INTEGER AS quantity,
		CASE WHEN i %% 11 = 0 THEN NULL ELSE i / 8 END::DOUBLE AS weight,
		TIMESTAMP '2026-11-20 22:00:00' + to_seconds(i * 37) AS sold_at,
		NULL::VARCHAR AS _duet_extra, (1::BIGINT << 48) + i AS _duet_at, 0::INTEGER AS _duet_record
		FROM range(1, %d) AS r(i)`, Rows+1))
	return f
}

func (f *Fixture) exec(t testing.TB, text string) {
	t.Helper()
	if _, err := f.DB.Exec(text); err != nil {
		t.Fatal(err)
	}
}

// Break makes a view unable to answer.
func (f *Fixture) Break(view string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.broken[view] = err
}

// Forge counts an event twice in what the halves hold, so that Verify has
// something to find.
func (f *Fixture) Forge() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.forged = " UNION ALL SELECT * FROM events WHERE _duet_at & 65535 = 3"
}

// Slow makes every view take longer than any deadline.
func (f *Fixture) Slow() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.slow = true
}

// Engine is an engine over the fixture; change may adjust its config.
func (f *Fixture) Engine(change func(*query.Config)) *query.Engine {
	cfg := query.Config{
		Views: f.Views, Streams: f.Project.Streams, Store: f, Archive: f, Generations: f, Incarnation: Incarnation,
		Wait: func(ctx context.Context, at schemas.Position) error {
			if at <= f.at(f.Through) {
				return nil
			}
			<-ctx.Done()
			return context.Cause(ctx)
		},
	}
	if change != nil {
		change(&cfg)
	}
	return query.New(cfg)
}

func (f *Fixture) at(sequence uint64) schemas.Position { return schemas.NewPosition(1, sequence) }

// Read runs fn in a read transaction.
func (f *Fixture) Read(ctx context.Context, fn func(query.Snapshot) error) error {
	conn, err := f.DB.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.ExecContext(ctx, "BEGIN"); err != nil {
		return err
	}
	defer func() { _, _ = conn.ExecContext(context.WithoutCancel(ctx), "ROLLBACK") }()
	return fn(&snapshot{conn, f})
}

// Events gives the archive: a table instead of files.
func (f *Fixture) Events(_ context.Context, _ string, through schemas.Position) (query.Archived, func(), error) {
	upTo := min(through, f.at(f.Archived))
	return query.Archived{
		Through:  f.at(f.Archived),
		Files:    []string{filepath.Join("archive", "orders", "1.parquet")},
		Relation: fmt.Sprintf("(SELECT * FROM events WHERE _duet_at <= %d)", upTo),
	}, func() {}, nil
}

// Open gives generations 6 (the first hundred events) and 7.
func (f *Fixture) Open(_ context.Context, number uint64, name string) (query.Published, error) {
	cut := uint64(100)
	switch number {
	case 6:
	case f.Number:
		cut = f.Cut
	case 5:
		return query.Published{Definition: "another"}, nil
	default:
		return query.Published{}, reason.New(reason.GenerationUnknown, "generation %d is not kept", number)
	}
	for _, v := range f.Views {
		if v.Project.Name == name {
			return query.Published{
				Cut: f.at(cut), Definition: v.Compiled.Definition,
				Partials: "(" + v.Compiled.PartialSQL(fmt.Sprintf("(SELECT * FROM events WHERE _duet_at <= %d)", f.at(cut))) + ")",
			}, nil
		}
	}
	return query.Published{}, reason.New(reason.ViewUnknown, "view %q", name)
}

type snapshot struct {
	*duck.Conn
	f *Fixture
}

func (s *snapshot) Generation() uint64            { return s.f.Number }
func (s *snapshot) Cut() schemas.Position         { return s.f.at(s.f.Cut) }
func (s *snapshot) LiveThrough() schemas.Position { return s.f.at(s.f.Through) }

func (s *snapshot) NewestEventTime(string) (time.Time, bool) {
	return time.Date(2026, 11, 21, 8, 16, 40, 0, time.UTC), true
}

// Partials folds the events in several spans, as the halves would.
func (s *snapshot) Partials(name string) (string, error) {
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	if err := s.f.broken[name]; err != nil {
		return "", err
	}
	for _, v := range s.f.Views {
		if v.Project.Name != name {
			continue
		}
		if s.f.slow {
			return "(" + v.Compiled.PartialSQL("(SELECT e.* FROM events AS e, range(1000000000))") + ")", nil
		}
		text, after := "", s.f.at(0)
		for _, end := range []uint64{s.f.Cut, s.f.Cut + 1, s.f.Cut + (s.f.Through-s.f.Cut)/2, s.f.Through} {
			if text != "" {
				text += " UNION ALL "
			}
			text += v.Compiled.PartialSQL(fmt.Sprintf("(SELECT * FROM events WHERE _duet_at > %d AND _duet_at <= %d%s)", after, s.f.at(end), s.f.forged))
			after = s.f.at(end)
		}
		return "(" + text + ")", nil
	}
	return "", reason.New(reason.ViewUnknown, "view %q", name)
}

// Tail begins before the archive's end, as the store's may.
func (s *snapshot) Tail(string) string {
	return fmt.Sprintf("(SELECT * FROM events WHERE _duet_at > %d)", s.f.at(s.f.Archived-10))
}

func (s *snapshot) Query(ctx context.Context, text string, args ...any) (*sql.Rows, error) {
	return s.QueryContext(ctx, text, args...)
}
