package query_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"duet/batch/catalog"
	"duet/internal/base/durable"
	"duet/schemas/duetv1"
	"duet/serving/query"
	"duet/serving/query/querytest"
	"duet/serving/reason"
	"duet/serving/store"
)

// platform is an empty fixture with an engine.
type platform struct {
	*querytest.Fixture
	t      *testing.T
	engine *query.Engine
}

func newPlatform(t *testing.T) *platform {
	t.Helper()
	f := querytest.Open(t)
	return &platform{f, t, f.Engine(nil)}
}

func (p *platform) must(err error) {
	if err != nil {
		p.t.Helper()
		p.t.Fatal(err)
	}
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
	p.Add(180)
	p.Reject(30)
	p.Add(90)
	p.verified(0, 270)
	before := p.answer(q)
	at := p.Cut()
	p.verified(0, 270)
	p.ArchiveBlock()
	p.verified(270, 0)
	p.Publish(at)
	p.verified(270, 0)
	if after := p.answer(q); !slices.Equal(before, after) {
		t.Fatalf("the switch changed the answer:\n%s\n%s", before, after)
	}
	got, err := p.engine.Query(t.Context(), q)
	p.must(err)
	if proof := got.GetProof(); proof.GetGeneration() != 1 || proof.GetCut()[0].GetSequence() != at.Sequence() || proof.GetNewestEventTime() == nil {
		t.Fatal(proof)
	}
	p.Add(45)
	p.Reject(5)
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
	p.Add(100)
	p.Cut()
	p.ArchiveBlock()
	got, err := p.engine.Verify(t.Context(), &duetv1.VerifyRequest{View: "countries", Explain: true})
	p.must(err)
	want := p.answer(&duetv1.QueryRequest{View: "countries"})
	slices.Sort(want)
	have := plain(t, p.Fixture, got.GetSql())
	slices.Sort(have)
	if !slices.Equal(want, have) {
		t.Fatalf("%s\n%s\n%s", got.GetSql(), strings.Join(want, "\n"), strings.Join(have, "\n"))
	}
}

// H6: what is damaged is named, and never a smaller number.
func TestDamageIsAnError(t *testing.T) {
	p := newPlatform(t)
	p.Add(100)
	at := p.Cut()
	p.ArchiveBlock()
	p.Publish(at)
	flip := func(path string) {
		b, err := os.ReadFile(path)
		p.must(err)
		b[len(b)/2] ^= 1
		p.must(os.WriteFile(path, b, 0o600))
	}
	var damage *durable.DamageError
	g := p.Catalog.Current()
	path := p.Catalog.Path(*g.View("sales"))
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
	files := p.Archive.Current().FilesFor("orders", 0, at)
	flip(filepath.Join(p.Archive.Dir(), files[0].Path))
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
	p.Add(10)
	at := p.Cut()
	p.ArchiveBlock()
	p.Publish(at, "sales")
	_, err := p.engine.Query(t.Context(), &duetv1.QueryRequest{View: "countries", AsOfGeneration: 1})
	wants(t, err, reason.DefinitionDiffers, "")
	_, err = p.engine.Query(t.Context(), &duetv1.QueryRequest{View: "countries"})
	var rebuilding *store.RebuildingError
	if !errors.As(err, &rebuilding) {
		t.Fatalf("a view that is not backfilled: %v", err)
	}
}
