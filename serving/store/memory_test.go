package store

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"duet/batch/catalog"
	"duet/batch/recompute"
	"duet/internal/base/duck"
	"duet/schemas"
)

// A view whose cells do not fit is left out alone, with the reason; the rest of
// the generation is served, and the next generation that fits brings it back.
func TestAViewThatDoesNotFitIsLeftOutAlone(t *testing.T) {
	var suspended []recompute.Suspension
	g := newRig(t, Config{MemoryLimit: 48 << 20, OnSuspend: func(s recompute.Suspension) { suspended = append(suspended, s) }})
	ctx := context.Background()
	g.apply(30)
	gen := g.generation(g.cut())
	g.apply(10)
	good := gen.files["by_key"]
	large := g.parquet("SELECT 'a key that takes some memory ' || i AS k0, 1::DECIMAL(38,0) AS c0, 1::BIGINT AS c1 FROM range(1000000) r(i)")
	gen.set(catalog.View{Name: "by_key", Definition: "h1", Rows: 1_000_000}, large)
	unfit, err := g.s.Stage(ctx, gen.Generation, gen.files)
	g.must(err)
	if len(unfit) != 1 || unfit[0].View != "by_key" || !unfit[0].Unfit || unfit[0].At != gen.Cut.Position() ||
		!strings.Contains(unfit[0].Message, "1000000 groups") || !strings.Contains(unfit[0].Message, "limits.memory is 48 MB") || !strings.Contains(unfit[0].Remedy, "raise limits.memory") {
		t.Fatalf("unfit: %+v", unfit)
	}
	g.check() // the old state serves
	g.must(g.s.Switch(ctx, gen.Generation))
	g.isSuspended("by_key", "limits.memory")
	g.check("total", "notes")
	if len(suspended) != 1 {
		t.Errorf("OnSuspend was called with %v", suspended)
	}
	g.noStrayTables()
	g.apply(10)
	g.check("total", "notes")

	next := g.generation(g.cut())
	g.apply(10)
	if next.files["by_key"] == good {
		t.Fatal("the same file twice")
	}
	g.serve(next)
	g.check()
	g.noStrayTables()
}

// isSuspended fails unless a view is suspended and its error contains a text.
func (g *rig) isSuspended(view, text string) {
	g.t.Helper()
	_, err := snapshotAnswer(g.s, view)
	var sus *SuspendedError
	if !errors.As(err, &sus) || !strings.Contains(err.Error(), text) {
		g.t.Fatalf("view %s: %v, want a *SuspendedError with %q", view, err, text)
	}
}

// Staging a file that is served already uses its table again: nothing is read,
// and no memory is counted twice.
func TestStagingWhatIsServedCostsNothing(t *testing.T) {
	g := newRig(t, Config{MemoryLimit: 96 << 20})
	ctx := context.Background()
	g.apply(30)
	gen := g.generation(g.cut())
	// Too large to be there twice.
	large := g.parquet("SELECT 'a key that takes some memory ' || i AS k0, 1::DECIMAL(38,0) AS c0, 1::BIGINT AS c1 FROM range(400000) r(i)")
	gen.set(catalog.View{Name: "by_key", Definition: "h1", Rows: 400_000, File: "cells/by_key/1.parquet"}, large)
	g.serve(gen)
	g.isAnswering("by_key")
	table := g.batchTable("by_key")
	for range 3 {
		g.apply(10)
		next := g.generation(g.cut())
		next.set(*gen.View("by_key"), filepath.Join(g.dir, "is not read.parquet"))
		g.apply(10)
		unfit, err := g.s.Stage(ctx, next.Generation, next.files)
		if err != nil || len(unfit) > 0 {
			t.Fatal(unfit, err)
		}
		if g.r.IntN(2) == 0 { // discarding drops nothing that is served
			g.s.Discard(ctx)
			g.isAnswering("by_key")
			g.must(g.stage(next))
		}
		g.must(g.s.Switch(ctx, next.Generation))
		if now := g.batchTable("by_key"); now != table {
			t.Fatalf("the cells are in %s, they were in %s", now, table)
		}
		g.isAnswering("by_key")
		g.check("total", "notes")
	}
	g.noStrayTables()
	st, err := g.s.Stats(ctx)
	g.must(err)
	if i := slices.IndexFunc(st.Views, func(v ViewStats) bool { return v.View == "by_key" }); st.Views[i].BatchRows != 400_000 {
		t.Errorf("stats: %+v", st.Views[i])
	}
}

func (g *rig) isAnswering(view string) {
	g.t.Helper()
	if _, err := snapshotAnswer(g.s, view); err != nil {
		g.t.Fatal(err)
	}
}

func (g *rig) batchTable(view string) string { return g.s.moments.now().layout.views[view].batch }

// A view with more groups than max_groups is left out before its file is read.
func TestTooManyGroupsAreRefusedBeforeLoading(t *testing.T) {
	g := newRig(t, Config{MaxGroups: map[string]int{"by_key": 100}})
	ctx := context.Background()
	g.apply(30)
	gen := g.generation(g.cut())
	gen.set(catalog.View{Name: "by_key", Definition: "h1", Rows: 101}, filepath.Join(g.dir, "is not read.parquet"))
	unfit, err := g.s.Stage(ctx, gen.Generation, gen.files)
	g.must(err)
	if len(unfit) != 1 || unfit[0].View != "by_key" || !strings.Contains(unfit[0].Message, "101 groups") || !strings.Contains(unfit[0].Remedy, "max_groups") {
		t.Fatalf("unfit: %+v", unfit)
	}
	g.must(g.s.Switch(ctx, gen.Generation))
	g.isSuspended("by_key", "max_groups")
	g.check("total", "notes")
	// Raised, a restart serves it: the generation still has the file.
	gen = g.generation(g.cut())
	gen.View("by_key").Suspended = &unfit[0]
	g.archiveThrough(gen.Cut.Position())
	g.s = g.open(Config{Log: g.s.cfg.Log})
	g.must(g.rebuild(gen, g.arch))
	g.check()
}

// archivedGeneration computes a generation at a cut that is archived, by plain
// DuckDB over the archive.
func (g *rig) archivedGeneration(cut schemas.Position) published {
	g.t.Helper()
	g.gen++
	gen := newPublished(g.gen, cut)
	for _, def := range testViews() {
		g.files++
		path := filepath.Join(g.dir, fmt.Sprintf("f%d.parquet", g.files))
		res, err := g.duck.Exec("COPY (" + def.partial(archived(sales, g.arch.Files["sales"], 0, cut)) + ") TO " + duck.Literal(path) + " (FORMAT parquet)")
		g.must(err)
		n, err := res.RowsAffected()
		g.must(err)
		gen.set(catalog.View{Name: def.name, Definition: def.hash, Rows: n}, path)
	}
	return gen
}

// orders draws n sales with keys of their own, as order ids are.
func (g *rig) orders(n int) []sale {
	events := g.batch(n)
	for i := range events {
		events[i].key = fmt.Sprintf("%s order %09d", strings.Repeat("x", 80), len(g.events)+i)
	}
	return events
}

// A view by order id in a store with little memory: when batches run out of
// memory for good the view is suspended, and the live half goes on. All other
// views stay exact and can be published throughout; the view comes back with the
// first generation that fits.
func TestAViewThatGrowsWithoutBoundIsSuspendedAndTheRestGoesOn(t *testing.T) {
	var suspended []recompute.Suspension
	g := newRig(t, Config{MemoryLimit: 64 << 20, OnSuspend: func(s recompute.Suspension) { suspended = append(suspended, s) }})
	ctx := context.Background()
	_, err := g.s.db.Exec("SET GLOBAL max_temp_directory_size='0KB'")
	g.must(err)
	refused := 0
	apply := func(events []sale) {
		in := g.load(events)
		defer in.sets[0].rec.Release()
		for {
			err := g.s.apply(ctx, in)
			var temporary interface{ Temporary() bool }
			switch {
			case err == nil:
				g.events = append(g.events, events...)
				return
			case !errors.As(err, &temporary) || !temporary.Temporary():
				t.Fatal(err)
			case refused > 1000:
				t.Fatalf("refused for ever: %v", err)
			}
			refused++
			if g.s.Tail().Blocks > 0 { // the archive takes blocks meanwhile
				_ = g.tryArchive() // it may run out of memory, too, and is tried again
			}
		}
	}
	publish := func() published {
		cut := g.cut()
		g.archiveThrough(cut)
		return g.archivedGeneration(cut)
	}
	for i := 0; len(suspended) == 0 && i < 200; i++ {
		apply(g.orders(5000))
		// A query may be refused while memory is full, but is never wrong.
		if err := g.compare("total", "notes"); !duck.OutOfMemory(err) {
			g.must(err)
		}
	}
	g.check("total", "notes")
	if len(suspended) != 1 || suspended[0].View != "by_key" || !suspended[0].Unfit || !strings.Contains(suspended[0].Remedy, "limits.memory") {
		t.Fatalf("%d refusals, suspended: %+v", refused, suspended)
	}
	g.isSuspended("by_key", "largest view")
	// The run's generation holds the view, and there is room for it now.
	g.serve(publish())
	g.check("total", "notes")
	g.countsAll("by_key") // there is no memory for grouping it
	g.apply(10)
	g.countsAll("by_key")
	for i := 0; len(suspended) == 1; i++ {
		if i == 200 {
			t.Fatal("the view grew without being suspended again")
		}
		apply(g.orders(5000))
	}
	g.isSuspended("by_key", "largest view")
	g.serve(publish()) // it may fit or not
	g.check("total", "notes")
	g.noStrayTables()
}

// countsAll fails unless the partials of a view count every event once.
func (g *rig) countsAll(view string) {
	g.t.Helper()
	g.must(g.s.Read(context.Background(), func(sn *Snapshot) error {
		from, err := sn.Partials(view)
		if err != nil {
			return err
		}
		var got string
		if err := scanOne(context.Background(), sn, "SELECT sum(c1)::BIGINT FROM "+from, &got); err != nil {
			return err
		}
		if got != fmt.Sprint(len(g.events)) {
			return fmt.Errorf("view %s counts %s events, want %d", view, got, len(g.events))
		}
		return nil
	}))
}

// A restart with a view that does not fit serves the others.
func TestARebuildLeavesOutAViewThatDoesNotFit(t *testing.T) {
	g := newRig(t, Config{})
	for range 60 {
		g.must(g.applyEvents(g.orders(5000)))
	}
	g.archiveThrough(g.cut())
	g.s = g.open(Config{Log: g.s.cfg.Log, MemoryLimit: 40 << 20})
	_, err := g.s.db.Exec("SET GLOBAL max_temp_directory_size='0KB'")
	g.must(err)
	gen := newPublished(1, 0)
	gen.set(catalog.View{Name: "by_key", Definition: "h1", Rows: 3}, g.parquet("SELECT ''::VARCHAR AS k0, 0::DECIMAL(38,0) AS c0, 0::BIGINT AS c1 WHERE false"))
	gen.set(catalog.View{Name: "notes", Definition: "h3", Rows: 2}, g.parquet("SELECT 0 AS k0, 0::DECIMAL(38,0) AS c0, 0::BIGINT AS c1 WHERE false"))
	gen.set(catalog.View{Name: "total", Definition: "h2", Rows: 1}, g.parquet("SELECT 0::DECIMAL(38,0) AS c0, 0::BIGINT AS c1 WHERE false"))
	unfit, err := g.s.Rebuild(context.Background(), gen.Generation, gen.files, g.arch.list)
	if err != nil || len(unfit) != 1 || unfit[0].View != "by_key" {
		t.Fatalf("unfit: %+v, %v", unfit, err)
	}
	g.must(g.s.Switch(context.Background(), gen.Generation))
	g.isSuspended("by_key", "limits.memory")
	g.check("total", "notes")
	g.apply(10)
	g.check("total", "notes")
	g.noStrayTables()
}

func TestMoreGroupsThanAllowedSuspendTheView(t *testing.T) {
	g := newRig(t, Config{MaxGroups: map[string]int{"by_key": 100}, MergeSlack: 1000})
	g.apply(500)
	g.s.side.Wait()
	g.check()
	var events []sale
	for i := range 3000 {
		g.seq++
		events = append(events, sale{key: "new" + string(rune('a'+i%26)) + strings.Repeat("z", i/26), cents: 1, note: "1", at: at(g.seq)})
	}
	g.must(g.applyEvents(events))
	g.s.side.Wait()
	g.isSuspended("by_key", "max_groups")
	g.apply(10)
	g.check("total", "notes")
	gen := g.generation(g.cut())
	g.serve(gen)
	g.isSuspended("by_key", "max_groups")
}
