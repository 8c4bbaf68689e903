// Package querytest is a small project with a real store, archive and catalog
// that hold made-up events, and a DuckDB of its own that holds the same events
// in one table: the oracle. There is no log; [Fixture.Wait] and [Fixture.Last]
// stand for it.
package querytest

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
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
	"duet/serving/query"
	"duet/serving/store"
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
	"views/busy.sql":       "SELECT country, count(*) AS lines FROM orders GROUP BY country HAVING count(*) > 10",
	"views/everything.sql": "SELECT count(*) AS lines, sum(price) AS price FROM orders",
	// Raises on a price of 10 or more, which only Poison sends.
	"views/small.sql": "SELECT quantity, sum(CAST(price AS DECIMAL(5,4))) AS price FROM orders GROUP BY quantity",
}

// Incarnation is the log's.
var Incarnation = schemas.Incarnation{Ordinal: 1, ID: "querytest", Created: "2026-01-01T00:00:00Z"}

// Rows is the number of events that [New] adds.
const Rows = 1000

// Fixture is the project and its parts. All methods end the test on an error.
type Fixture struct {
	t       testing.TB
	dir     string
	Oracle  *duck.DB // holds table events: each accepted event with its _duet_at
	Project *project.Project
	Views   []query.View
	Store   *store.Store
	Archive *archive.Archive
	Catalog *catalog.Catalog

	sequencer *event.Sequencer
	batch     *event.Batch
	last      uint64 // sequence of the last message
	sent      int    // events made so far
}

// Open returns a fixture without events. It ends with the test.
func Open(t testing.TB) *Fixture {
	t.Helper()
	f := &Fixture{t: t, dir: t.TempDir()}
	var faults project.Faults
	f.Project, faults = project.FromFiles(Files)
	if faults.Fatal() {
		t.Fatal(faults)
	}
	compiler, err := view.NewCompiler(f.Project.Streams)
	f.must(err)
	t.Cleanup(func() { compiler.Close() })
	var compiled []*view.View
	for _, v := range f.Project.Views {
		c, faults := compiler.Compile(v)
		if c == nil {
			t.Fatal(faults)
		}
		compiled = append(compiled, c)
		f.Views = append(f.Views, query.View{Project: v, Compiled: c})
	}
	f.Oracle, err = duck.Open(duck.Config{Threads: 2, MemoryLimit: "1GB"})
	f.must(err)
	t.Cleanup(func() { f.Oracle.Close() })
	f.exec("CREATE TABLE events (country VARCHAR, price DECIMAL(18,4), quantity INTEGER, weight DOUBLE, sold_at TIMESTAMP, _duet_extra VARCHAR, _duet_at BIGINT, _duet_record INTEGER)")
	schema := event.NewSchema(f.Project.Streams[0])
	f.Store, err = store.Open(store.Config{Readers: query.Readers() + 2, Log: slog.New(slog.DiscardHandler), MemoryLimit: 1 << 30, TempDir: filepath.Join(f.dir, "spill")}, []*event.Schema{schema}, compiled)
	f.must(err)
	t.Cleanup(func() { f.must(f.Store.Close()) })
	f.Archive, err = archive.Open(t.Context(), archive.Config{Dir: filepath.Join(f.dir, "archive"), Incarnation: Incarnation})
	f.must(err)
	t.Cleanup(func() { f.must(f.Archive.Close()) })
	f.Catalog, err = catalog.Open(catalog.Config{Dir: filepath.Join(f.dir, "generations")})
	f.must(err)
	f.sequencer = event.NewSequencer(map[string]*event.Schema{"orders": schema}, event.NewState())
	f.batch = event.NewBatch(memory.DefaultAllocator)
	t.Cleanup(f.batch.Release)
	return f
}

// New returns a fixture with [Rows] events: a quarter is in generation 1, half
// is in generation 2, which serves, three quarters are archived, and the rest
// is in the tail. Generation 1 computed the view everything under another
// definition.
func New(t testing.TB) *Fixture {
	t.Helper()
	f := Open(t)
	f.Add(Rows / 4)
	f.publish(f.Cut(), "", "everything")
	f.ArchiveBlock()
	f.Add(Rows / 4)
	f.Publish(f.Cut())
	f.ArchiveBlock()
	f.Add(Rows / 4)
	f.Cut()
	f.ArchiveBlock()
	f.Add(Rows / 4)
	return f
}

func (f *Fixture) must(err error) {
	if err != nil {
		f.t.Helper()
		f.t.Fatal(err)
	}
}

func (f *Fixture) exec(text string) {
	f.t.Helper()
	_, err := f.Oracle.Exec(text)
	f.must(err)
}

// Position returns the position of a sequence.
func Position(sequence uint64) schemas.Position {
	return schemas.NewPosition(Incarnation.Ordinal, sequence)
}

// Last returns the position of the last message.
func (f *Fixture) Last() schemas.Position { return Position(f.last) }

// Wait returns when live-through has reached at; nothing moves it meanwhile, so
// it returns at once or when ctx ends.
func (f *Fixture) Wait(ctx context.Context, at schemas.Position) error {
	if at <= f.Store.LiveThrough() {
		return nil
	}
	<-ctx.Done()
	return context.Cause(ctx)
}

// Engine returns an engine over the fixture; change may adjust its config.
func (f *Fixture) Engine(change func(*query.Config)) *query.Engine {
	cfg := query.Config{
		Views: f.Views, Streams: f.Project.Streams, Store: f.Store, Archive: f.Archive, Catalog: f.Catalog,
		Incarnation: Incarnation, Wait: f.Wait, Last: f.Last,
	}
	if change != nil {
		change(&cfg)
	}
	return query.New(cfg)
}

// Add adds n events, each in a message of its own.
func (f *Fixture) Add(n int) {
	f.t.Helper()
	f.exec(fmt.Sprintf(`INSERT INTO events SELECT
		[NULL, 'France', 'Germany', 'United Kingdom', 'Côte d''Ivoire'][1 + i %% 5],
		((i * 7919) %% 100000 / 10000)::DECIMAL(18,4), (i %% 9 - 1)::INTEGER,
		CASE WHEN i %% 11 = 0 THEN NULL ELSE i / 8 END::DOUBLE,
		TIMESTAMP '2026-11-20 22:00:00' + to_seconds(i * 37), NULL, (1::BIGINT << 48) + %d + i - %d, 0
		FROM range(%d, %d) AS r(i)`, f.last, f.sent, f.sent+1, f.sent+n+1))
	f.sent += n
	f.send(f.records(fmt.Sprintf("_duet_at > %d", f.Last())))
}

// records returns events of the oracle as JSON, in order of their positions.
func (f *Fixture) records(where string) [][]byte {
	f.t.Helper()
	rows, err := f.Oracle.Query("SELECT country, price::VARCHAR, quantity, weight, strftime(sold_at, '%Y-%m-%dT%H:%M:%S') FROM events WHERE " + where + " ORDER BY _duet_at")
	f.must(err)
	defer rows.Close()
	var out [][]byte
	for rows.Next() {
		var country sql.NullString
		var price, soldAt string
		var quantity int
		var weight sql.NullFloat64
		f.must(rows.Scan(&country, &price, &quantity, &weight, &soldAt))
		record := map[string]any{"price": price, "quantity": quantity, "sold_at": soldAt}
		if country.Valid {
			record["country"] = country.String
		}
		if weight.Valid {
			record["weight"] = weight.Float64
		}
		text, err := json.Marshal(record)
		f.must(err)
		out = append(out, text)
	}
	f.must(rows.Err())
	return out
}

// send applies records to the store, each as a message, in one micro-batch.
func (f *Fixture) send(records [][]byte) {
	f.t.Helper()
	f.batch.Reset()
	for _, r := range records {
		f.last++
		data := event.AppendEnvelope(nil, "orders", []event.Run{{Count: 1}}, [][]byte{r})
		f.sequencer.Apply(event.Message{Stream: "orders", At: f.Last(), Time: time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC), Data: data}, f.batch)
	}
	f.must(f.Store.Apply(f.t.Context(), f.batch))
}

// Poison adds an event that the view small cannot compute: it is suspended.
func (f *Fixture) Poison() {
	f.t.Helper()
	f.exec(fmt.Sprintf("INSERT INTO events VALUES ('France', 10.5, 1, 1, TIMESTAMP '2026-11-20 22:00:00', NULL, %d, 0)", f.Last()+1))
	f.send(f.records(fmt.Sprintf("_duet_at > %d", f.Last())))
}

// Reject adds n events that are rejected.
func (f *Fixture) Reject(n int) {
	f.t.Helper()
	f.send(slices.Repeat([][]byte{[]byte(`{"country":"Chad","price":"dear","quantity":1,"sold_at":"2026-11-21T00:00:00Z"}`)}, n))
}

// Cut closes the segment and the block, as a marker does.
func (f *Fixture) Cut() schemas.Position {
	f.t.Helper()
	f.last++
	f.must(f.Store.Cut(f.t.Context(), f.Last()))
	return f.Last()
}

// ArchiveBlock brings the oldest closed block into the archive.
func (f *Fixture) ArchiveBlock() {
	f.t.Helper()
	b, err := f.Store.NextBlock(f.t.Context())
	f.must(err)
	f.must(f.Archive.CommitBlock(f.t.Context(), f.Store, b))
}

// Publish makes the next generation of the views named, or of all if none is,
// and switches to it.
func (f *Fixture) Publish(cut schemas.Position, views ...string) {
	f.t.Helper()
	f.publish(cut, "", "", views...)
}

// Forge publishes a generation in which the third event is counted twice.
func (f *Fixture) Forge() {
	f.t.Helper()
	f.publish(f.Cut(), fmt.Sprintf(" UNION ALL SELECT * FROM events WHERE _duet_at = %d", Position(3)), "")
}

// publish computes cells from the oracle's events through cut and those of extra.
// The view other gets another definition.
func (f *Fixture) publish(cut schemas.Position, extra, other string, views ...string) {
	f.t.Helper()
	d := catalog.Draft{Generation: catalog.Generation{Kind: catalog.Full, Run: "r", Cut: schemas.NewCut(Incarnation, cut)}, New: map[string]string{}}
	if g := f.Catalog.Current(); g != nil {
		d.Base = g.Number
	}
	for _, v := range f.Views {
		if len(views) > 0 && !slices.Contains(views, v.Project.Name) {
			continue
		}
		path := filepath.Join(f.t.TempDir(), v.Compiled.Name+".parquet")
		partial := v.Compiled.PartialSQL(fmt.Sprintf("(SELECT * FROM events WHERE _duet_at <= %d%s)", cut, extra))
		res, err := f.Oracle.Exec("COPY (" + partial + ") TO " + duck.Literal(path) + " (FORMAT parquet)")
		f.must(err)
		rows, err := res.RowsAffected()
		f.must(err)
		cv := catalog.View{Name: v.Compiled.Name, Definition: v.Compiled.Definition, Rows: rows, File: "x"}
		if v.Project.Name == other {
			cv.Definition = "another"
		}
		for _, k := range v.Compiled.Keys {
			cv.Keys = append(cv.Keys, k.Name)
		}
		for _, c := range v.Compiled.Cells {
			cv.Cells = append(cv.Cells, c.Name)
		}
		d.Views = append(d.Views, cv)
		d.New[cv.Name] = path
	}
	g, err := f.Catalog.Publish(f.t.Context(), d)
	f.must(err)
	files := map[string]string{}
	for _, v := range g.Views {
		files[v.Name] = f.Catalog.Path(v)
	}
	_, err = f.Store.Stage(f.t.Context(), g, files)
	f.must(err)
	f.must(f.Store.Switch(f.t.Context(), g))
}
