package query_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow/memory"

	"duet/batch/archive"
	"duet/batch/catalog"
	"duet/internal/base/durable"
	"duet/schemas"
	"duet/schemas/duetv1"
	"duet/schemas/event"
	"duet/schemas/project"
	"duet/schemas/view"
	"duet/serving/query"
	"duet/serving/query/querytest"
	"duet/serving/reason"
	"duet/serving/store"
)

// platform is the real store, archive and catalog, without a log.
type platform struct {
	t       *testing.T
	dir     string
	store   *store.Store
	archive *archive.Archive
	catalog *catalog.Catalog
	engine  *query.Engine
	views   []query.View
	seq     *event.Sequencer
	batch   *event.Batch
	at      uint64
	sent    int
}

func newPlatform(t *testing.T) *platform {
	t.Helper()
	p := &platform{t: t, dir: t.TempDir()}
	proj, faults := project.FromFiles(querytest.Files)
	if faults.Fatal() {
		t.Fatal(faults)
	}
	compiler, err := view.NewCompiler(proj.Streams)
	p.must(err)
	t.Cleanup(func() { compiler.Close() })
	var compiled []*view.View
	for _, v := range proj.Views {
		c, faults := compiler.Compile(v)
		if c == nil {
			t.Fatal(faults)
		}
		compiled = append(compiled, c)
		p.views = append(p.views, query.View{Project: v, Compiled: c})
	}
	schema := event.NewSchema(proj.Streams[0])
	p.store, err = store.Open(store.Config{Log: slog.New(slog.DiscardHandler), MemoryLimit: 1 << 30, TempDir: filepath.Join(p.dir, "spill")}, []*event.Schema{schema}, compiled)
	p.must(err)
	p.archive, err = archive.Open(t.Context(), archive.Config{Dir: filepath.Join(p.dir, "archive"), Incarnation: querytest.Incarnation})
	p.must(err)
	p.catalog, err = catalog.Open(catalog.Config{Dir: filepath.Join(p.dir, "generations")})
	p.must(err)
	p.seq = event.NewSequencer(map[string]*event.Schema{"orders": schema}, event.NewState())
	p.batch = event.NewBatch(memory.DefaultAllocator)
	p.engine = query.New(query.Config{
		Views: p.views, Streams: proj.Streams, Store: query.StoreOf(p.store), Archive: query.ArchiveOf(p.archive),
		Generations: query.GenerationsOf(p.catalog), Incarnation: querytest.Incarnation,
		Wait: func(context.Context, schemas.Position) error { return nil },
	})
	t.Cleanup(func() {
		p.batch.Release()
		p.must(p.store.Close())
		p.must(p.archive.Close())
	})
	return p
}

func (p *platform) must(err error) {
	if err != nil {
		p.t.Helper()
		p.t.Fatal(err)
	}
}

// ingest applies n events as one message; every tenth is a reject.
func (p *platform) ingest(n int) {
	p.t.Helper()
	var records [][]byte
	for range n {
		i := p.sent
		p.sent++
		price := fmt.Sprintf("%d.%04d", i%90, i%10_000)
		if i%10 == 9 {
			price = `"dear"`
		}
		records = append(records, fmt.Appendf(nil, `{"country":%s,"price":%s,"quantity":%d,"weight":%d.125,"sold_at":"2026-11-%02dT%02d:00:00Z"}`,
			[]string{"null", `"France"`, `"Germany"`, `"Chad"`}[i%4], price, i%7-1, i%13, 1+i%20, i%24))
	}
	p.at++
	data := event.AppendEnvelope(nil, "orders", []event.Run{{Count: uint32(n)}}, records)
	p.batch.Reset()
	p.seq.Apply(event.Message{Stream: "orders", At: schemas.NewPosition(1, p.at), Time: time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC), Data: data}, p.batch)
	p.must(p.store.Apply(p.t.Context(), p.batch))
}

// cut ends segment and block, as a marker does.
func (p *platform) cut() schemas.Position {
	p.t.Helper()
	p.at++
	at := schemas.NewPosition(1, p.at)
	p.must(p.store.Cut(p.t.Context(), at))
	return at
}

// archiveBlock brings the oldest closed block into the archive.
func (p *platform) archiveBlock() {
	p.t.Helper()
	b, err := p.store.NextBlock(p.t.Context())
	p.must(err)
	p.must(p.archive.CommitBlock(p.t.Context(), p.store, b))
}

// publish makes a generation of what the live half has through a cut that is
// archived: base cells and segments, merged by the store itself.
func (p *platform) publish(at schemas.Position) {
	p.t.Helper()
	d := catalog.Draft{Generation: catalog.Generation{Kind: catalog.Full, Run: "r", Cut: schemas.NewCut(querytest.Incarnation, at)}, New: map[string]string{}}
	for _, v := range p.views {
		path := filepath.Join(p.dir, "archive", "tmp", v.Compiled.Name+".parquet")
		rows, err := p.store.ExportLive(p.t.Context(), v.Compiled.Name, at, path)
		p.must(err)
		cv := catalog.View{Name: v.Compiled.Name, Definition: v.Compiled.Definition, Rows: rows, File: "x"}
		for _, k := range v.Compiled.Keys {
			cv.Keys = append(cv.Keys, k.Name)
		}
		for _, c := range v.Compiled.Cells {
			cv.Cells = append(cv.Cells, c.Name)
		}
		d.Views = append(d.Views, cv)
		d.New[cv.Name] = path
	}
	g, err := p.catalog.Publish(p.t.Context(), d)
	p.must(err)
	files := map[string]string{}
	for _, v := range g.Views {
		files[v.Name] = p.catalog.Path(v)
	}
	p.must(p.store.Stage(p.t.Context(), g, files))
	p.must(p.store.Switch(p.t.Context(), g.Number))
}

// verified fails unless every view's answer equals plain DuckDB's, and says how
// many events were read from files and from the tail.
func (p *platform) verified(archived, tail uint64) {
	p.t.Helper()
	for _, name := range p.engine.Names() {
		got, err := p.engine.Verify(p.t.Context(), &duetv1.VerifyRequest{View: name, Explain: true})
		p.must(err)
		if !got.GetEqual() || got.GetGroups() == 0 || got.GetArchivedEvents() != archived || got.GetTailEvents() != tail || (archived > 0) != (len(got.GetFiles()) > 0) {
			p.t.Fatalf("%s: want %d archived, %d in the tail: %v", name, archived, tail, got)
		}
	}
}

func (p *platform) answer(req *duetv1.QueryRequest) []string {
	p.t.Helper()
	got, err := p.engine.Query(p.t.Context(), req)
	p.must(err)
	return table(got)
}

// The same numbers whether events are in the tail, in files, in cells of a
// generation, or some in each.
func TestAnswersOverTheRealStore(t *testing.T) {
	p := newPlatform(t)
	q := &duetv1.QueryRequest{View: "sales", GroupBy: []string{"country"}, OrderBy: []string{"country"}}
	p.ingest(200)
	p.ingest(100)
	p.verified(0, 270)
	before := p.answer(q)
	at := p.cut()
	p.verified(0, 270)
	p.archiveBlock()
	p.verified(270, 0)
	p.publish(at)
	p.verified(270, 0)
	if after := p.answer(q); !slices.Equal(before, after) {
		t.Fatalf("the switch changed the answer:\n%s\n%s", before, after)
	}
	got, err := p.engine.Query(t.Context(), q)
	p.must(err)
	if proof := got.GetProof(); proof.GetGeneration() != 1 || proof.GetCut()[0].GetSequence() != at.Sequence() || proof.GetNewestEventTime() == nil {
		t.Fatal(proof)
	}
	p.ingest(50)
	p.verified(270, 45)
	if after := p.answer(q); slices.Equal(before, after) {
		t.Fatal("new events are not counted")
	}
	q.AsOfGeneration = 1
	if then := p.answer(q); !slices.Equal(before, then) {
		t.Fatalf("as of generation 1:\n%s\nit was\n%s", then, before)
	}
	q.AsOfGeneration = 9
	_, err = p.engine.Query(t.Context(), q)
	var gone *catalog.NotKeptError
	if !errors.As(err, &gone) {
		t.Fatal(err)
	}
}

// explain's SQL, run by itself, gives the same rows as the answer.
func TestExplainRunsInAnyDuckDB(t *testing.T) {
	p := newPlatform(t)
	p.ingest(100)
	p.cut()
	p.archiveBlock()
	got, err := p.engine.Verify(t.Context(), &duetv1.VerifyRequest{View: "countries", Explain: true})
	p.must(err)
	f := querytest.New(t)
	want := p.answer(&duetv1.QueryRequest{View: "countries"})
	slices.Sort(want)
	have := plain(t, f, got.GetSql())
	slices.Sort(have)
	if !slices.Equal(want, have) {
		t.Fatalf("%s\n%s\n%s", got.GetSql(), strings.Join(want, "\n"), strings.Join(have, "\n"))
	}
}

// H6: what is damaged is named, and never a smaller number.
func TestDamageIsAnError(t *testing.T) {
	p := newPlatform(t)
	p.ingest(100)
	at := p.cut()
	p.archiveBlock()
	p.publish(at)
	flip := func(path string) {
		b, err := os.ReadFile(path)
		p.must(err)
		b[len(b)/2] ^= 1
		p.must(os.WriteFile(path, b, 0o600))
	}
	var damage *durable.DamageError
	g := p.catalog.Current()
	path := p.catalog.Path(*g.View("sales"))
	flip(path)
	_, err := p.engine.Query(t.Context(), &duetv1.QueryRequest{View: "sales", AsOfGeneration: 1})
	if !errors.As(err, &damage) || damage.Path != path {
		t.Fatalf("a flipped bit in a generation: %v", err)
	}
	p.must(os.Remove(path))
	_, err = p.engine.Query(t.Context(), &duetv1.QueryRequest{View: "sales", AsOfGeneration: 1})
	if !errors.As(err, &damage) || damage.Path != path {
		t.Fatalf("a missing file of a generation: %v", err)
	}
	if got := p.answer(&duetv1.QueryRequest{View: "everything", AsOfGeneration: 1}); len(got) != 1 {
		t.Fatalf("another view of it: %v", got)
	}
	files := p.archive.Current().FilesFor("orders", 0, at)
	flip(filepath.Join(p.archive.Dir(), files[0].Path))
	_, err = p.engine.Verify(t.Context(), &duetv1.VerifyRequest{View: "sales"})
	if !errors.As(err, &damage) {
		t.Fatalf("a flipped bit in the archive: %v", err)
	}
	// What is served from memory is whole.
	if got := p.answer(&duetv1.QueryRequest{View: "everything"}); len(got) != 1 {
		t.Fatalf("%v", got)
	}
}

// A view added after a generation has no numbers as of it.
func TestViewThatAGenerationLacks(t *testing.T) {
	p := newPlatform(t)
	p.ingest(10)
	at := p.cut()
	p.archiveBlock()
	all := p.views
	p.views = all[:1]
	p.publish(at)
	_, err := p.engine.Query(t.Context(), &duetv1.QueryRequest{View: all[1].Compiled.Name, AsOfGeneration: 1})
	wants(t, err, reason.DefinitionDiffers, "")
	_, err = p.engine.Query(t.Context(), &duetv1.QueryRequest{View: all[1].Compiled.Name})
	var rebuilding *store.RebuildingError
	if !errors.As(err, &rebuilding) {
		t.Fatalf("a view that is not backfilled: %v", err)
	}
}
