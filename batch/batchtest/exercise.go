package batchtest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"duet/batch"
	"duet/batch/archive"
	"duet/batch/catalog"
	"duet/batch/recompute"
	"duet/internal/base/duck"
	"duet/internal/base/durable"
	"duet/schemas"
)

// Harness is a live half under test, with the archive and the catalog that belong
// to it. Nothing else publishes to the catalog.
type Harness struct {
	Live    batch.Live
	Archive *archive.Archive // a running archiver fills it from the live half's tail
	Catalog *catalog.Catalog
	Views   []recompute.View // all that a generation holds
	// Answered names the views that clients can query; nil means all.
	Answered []string
	// Append appends n events or more and returns when the live half has counted
	// them. No view has an event that it cannot compute.
	Append func(n int) error
	// Answer returns a view's answer as text, lines in a stable order, DOUBLE
	// rounded. It fails if the view is suspended.
	Answer func(view string) (string, error)
	// Plain returns the same by the view's SELECT over all accepted events.
	Plain func(view string) (string, error)
	// Served returns the number of the generation that answers come from, 0 before
	// the first.
	Served func() uint64
	// Damage damages an archive file beyond repair and returns it. It may append
	// events first.
	Damage func() (archive.File, error)
	// Limited is a view whose cells have more groups than its max_groups once
	// Overflow has been called. Until then it has fewer.
	Limited  string
	Overflow func() error
}

// Exercise is the conformance suite of [batch.Live]. open returns a new live half
// for each test, without events and without a generation; it registers its closing
// with t.Cleanup.
func Exercise(t *testing.T, open func(t *testing.T) Harness) {
	for _, c := range []struct {
		name string
		test func(*exercise)
	}{
		{"TotalsAndCellsAgreeWithTheArchive", (*exercise).totalsAndCells},
		{"OnlyCutsEndASegment", (*exercise).onlyCuts},
		{"StagingIsNotSeen", (*exercise).stagingIsNotSeen},
		{"DiscardedIsNotSwitchedTo", (*exercise).discarded},
		{"AStageThatFailsChangesNothing", (*exercise).stageThatFails},
		{"SwitchDropsTheSegmentsThroughTheCut", (*exercise).switchDrops},
		{"NumbersOnlyGrow", (*exercise).numbersOnlyGrow},
		{"ARebuildIsCompleteBeforePublishing", (*exercise).rebuildIsComplete},
		{"ARebuildOverADamagedFileChangesNothing", (*exercise).rebuildOverDamage},
		{"ADiscardedRebuildIsGone", (*exercise).discardedRebuild},
		{"UnfitViewsAreLeftOutAlone", (*exercise).unfit},
	} {
		t.Run(c.name, func(t *testing.T) {
			db, err := duck.Open(duck.Config{Threads: 1})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { db.Close() })
			e := &exercise{T: t, Harness: open(t), db: db, dir: t.TempDir()}
			if e.Answered == nil {
				for _, v := range e.Views {
					e.Answered = append(e.Answered, v.Name)
				}
			}
			c.test(e)
		})
	}
}

// exercise is one test of the suite.
type exercise struct {
	*testing.T
	Harness
	db  *duck.DB
	dir string
}

func (e *exercise) must(err error) {
	e.Helper()
	if err != nil {
		e.Fatal(err)
	}
}

// cut cuts, and waits for both halves to reach the cut.
func (e *exercise) cut() schemas.Cut {
	e.Helper()
	cut, err := e.Live.Cut(e.Context())
	e.must(err)
	e.must(e.Live.Wait(e.Context(), cut.Position()))
	e.must(e.Archive.Wait(e.Context(), cut.Position()))
	return cut
}

// check compares every answer with the plain SELECT (H3). A view in except must be
// suspended.
func (e *exercise) check(except ...string) {
	e.Helper()
	for _, view := range e.Answered {
		got, err := e.Answer(view)
		if slices.Contains(except, view) {
			if err == nil {
				e.Errorf("view %s answers; want it suspended", view)
			}
			continue
		}
		e.must(err)
		want, err := e.Plain(view)
		e.must(err)
		if got != want {
			e.Fatalf("view %s, generation %d: answered\n%s\nplain SQL says\n%s", view, e.Served(), got, want)
		}
	}
}

// answers returns the answer of every view.
func (e *exercise) answers() map[string]string {
	e.Helper()
	out := map[string]string{}
	for _, view := range e.Answered {
		var err error
		out[view], err = e.Answer(view)
		e.must(err)
	}
	return out
}

// serves checks the number that answers come from, and the answers.
func (e *exercise) serves(number uint64, except ...string) {
	e.Helper()
	if got := e.Served(); got != number {
		e.Fatalf("generation %d serves, want %d", got, number)
	}
	e.check(except...)
}

// generation is a draft whose cells are computed from the archive.
type generation struct {
	catalog.Draft
	files map[string]string // of every view, for staging
}

// draft computes the cells of every view up to a cut.
func (e *exercise) draft(cut schemas.Cut) generation {
	e.Helper()
	totals, ok := e.Archive.TotalsAt(cut.Position())
	if !ok {
		e.Fatalf("no block of the archive ends at the cut %s", cut)
	}
	g := generation{files: map[string]string{}}
	g.Kind, g.Cut, g.Streams, g.Run, g.New = catalog.Full, cut, totals, durable.Name(), map[string]string{}
	for _, v := range e.Views {
		path := filepath.Join(e.dir, durable.Name()+".parquet")
		rows, err := e.partial(v, 0, cut.Position())
		e.must(err)
		_, err = e.db.Exec("COPY (" + rows + ") TO " + duck.Literal(path) + " (FORMAT parquet)")
		e.must(err)
		view := catalog.View{Name: v.Name, Definition: v.Definition}
		for _, k := range v.Keys {
			view.Keys = append(view.Keys, k.Name)
		}
		for _, c := range v.Cells {
			view.Cells = append(view.Cells, c.Name)
		}
		e.must(e.db.QueryRow("SELECT count(*) FROM " + duck.Parquet(path)).Scan(&view.Rows))
		g.Views = append(g.Views, view)
		g.New[v.Name], g.files[v.Name] = path, path
	}
	e.number(&g)
	return g
}

// rollback is a draft of an older generation's cells.
func (e *exercise) rollback(old *catalog.Generation) generation {
	g := generation{files: map[string]string{}}
	g.Kind, g.Of, g.Cut, g.Streams, g.Run, g.Views = catalog.Rollback, old.Number, old.Cut, old.Streams, durable.Name(), slices.Clone(old.Views)
	for _, v := range g.Views {
		g.files[v.Name] = e.Catalog.Path(v)
	}
	e.number(&g)
	return g
}

func (e *exercise) number(g *generation) {
	if cur := e.Catalog.Current(); cur != nil {
		g.Base = cur.Number
	}
	g.Number = g.Base + 1
}

// partial selects a view's cells in a span, one row a group, from the archive.
func (e *exercise) partial(v recompute.View, after, through schemas.Position) (string, error) {
	snap := e.Archive.Snapshot()
	defer snap.Release()
	rows, err := snap.Relation(e.Context(), v.Stream, after, through)
	if err != nil {
		return "", err
	}
	if rows == "" {
		return "", fmt.Errorf("stream %s has no rows in (%s, %s]", v.Stream, after, through)
	}
	return with(recompute.RowsTable, "SELECT * FROM "+rows, v.Partial), nil
}

// stage stages a draft, of which every view must fit.
func (e *exercise) stage(g generation) {
	e.Helper()
	unfit, err := e.Live.Stage(e.Context(), &g.Generation, g.files)
	e.must(err)
	if len(unfit) > 0 {
		e.Fatalf("unfit views %v", unfit)
	}
}

// publish publishes a staged draft and switches to it.
func (e *exercise) publish(g generation) *catalog.Generation {
	e.Helper()
	published, err := e.Catalog.Publish(e.Context(), g.Draft)
	e.must(err)
	e.must(e.Live.Switch(e.Context(), published))
	return published
}

// next appends events and publishes a generation of them.
func (e *exercise) next(n int) *catalog.Generation {
	e.Helper()
	e.must(e.Append(n))
	g := e.draft(e.cut())
	e.stage(g)
	return e.publish(g)
}

func (e *exercise) totalsAndCells() {
	var after schemas.Cut
	for range 2 {
		e.must(e.Append(40))
		cut := e.cut()
		e.agree(after, cut)
		g := e.draft(cut)
		e.stage(g)
		e.publish(g)
		after = cut
	}
}

// agree compares what the live half has in (after, through] with the archive.
func (e *exercise) agree(after, through schemas.Cut) {
	e.Helper()
	live, err := e.Live.Totals(e.Context(), after.Position(), through.Position())
	e.must(err)
	want, ok := e.Archive.TotalsAt(through.Position())
	if !ok {
		e.Fatalf("no block of the archive ends at %s", through)
	}
	base := map[string]archive.Totals{}
	if cur := e.Catalog.Current(); cur != nil {
		base = cur.Streams
	}
	for name, t := range want {
		if d := live[name].Differences(t.Minus(base[name])); len(d) > 0 {
			e.Errorf("stream %s (live, archive): %v", name, d)
		}
	}
	for _, v := range e.Views {
		path := filepath.Join(e.dir, durable.Name()+".parquet")
		rows, err := e.Live.Export(e.Context(), v.Name, through.Position(), path)
		e.must(err)
		if rows == 0 {
			e.Fatalf("view %s: no cells in (%s, %s]", v.Name, after, through)
		}
		got := e.final(v, "FROM "+duck.Parquet(path))
		cells, err := e.partial(v, after.Position(), through.Position())
		e.must(err)
		if want := e.final(v, cells); got != want {
			e.Errorf("view %s: exported\n%s\nthe archive gives\n%s", v.Name, got, want)
		}
	}
}

// final returns the rows of a view's SELECT over cells as sorted lines.
func (e *exercise) final(v recompute.View, cells string) string {
	e.Helper()
	out, err := text(e.db, with(recompute.CellsTable, cells, v.Final))
	e.must(err)
	return out
}

func (e *exercise) onlyCuts() {
	e.must(e.Append(20))
	cut := e.cut()
	if last := e.Live.Last(); last != cut.Position() {
		e.Errorf("the log's last message is at %s, the marker at %s", last, cut)
	}
	before := schemas.NewPosition(cut.Position().Ordinal(), cut.Position().Sequence()-1)
	if _, err := e.Live.Totals(e.Context(), 0, before); err == nil {
		e.Errorf("totals through %s, where no segment ends", before)
	}
	if _, err := e.Live.Export(e.Context(), e.Views[0].Name, before, filepath.Join(e.dir, "cells.parquet")); err == nil {
		e.Errorf("cells through %s, where no segment ends", before)
	}
	g := e.draft(cut)
	g.Cut = schemas.Cut{{Incarnation: cut[0].Incarnation, Ordinal: cut[0].Ordinal, Sequence: cut[0].Sequence - 1}}
	e.stage(g)
	if err := e.Live.Switch(e.Context(), &g.Generation); err == nil {
		e.Errorf("switched to a generation whose cut is %s, where no segment ends (H2)", g.Cut)
	}
	e.serves(0)
}

func (e *exercise) stagingIsNotSeen() {
	e.must(e.Append(20))
	g := e.draft(e.cut())
	e.stage(g)
	e.serves(0)
	e.must(e.Append(20))
	e.serves(0)
	e.stage(g) // again: it replaces the first
	e.publish(g)
	e.serves(1)
	e.must(e.Append(20))
	e.serves(1)
}

func (e *exercise) discarded() {
	e.must(e.Append(20))
	g := e.draft(e.cut())
	e.stage(g)
	e.Live.Discard(e.Context())
	e.Live.Discard(e.Context())
	if err := e.Live.Switch(e.Context(), &g.Generation); err == nil {
		e.Error("switched to a generation that was discarded")
	}
	e.serves(0)
	e.stage(g)
	e.publish(g)
	e.serves(1)
}

func (e *exercise) stageThatFails() {
	first := e.next(20)
	e.must(e.Append(20))
	g := e.draft(e.cut())
	missing := maps.Clone(g.files)
	missing[e.Views[len(e.Views)-1].Name] = filepath.Join(e.dir, "missing.parquet")
	if unfit, err := e.Live.Stage(e.Context(), &g.Generation, missing); err == nil {
		e.Errorf("staged a file that is missing; unfit %v", unfit)
	}
	if err := e.Live.Switch(e.Context(), &g.Generation); err == nil {
		e.Error("switched to a generation that could not be staged")
	}
	e.serves(first.Number)
	e.stage(g)
	e.publish(g)
	e.serves(first.Number + 1)
}

func (e *exercise) switchDrops() {
	e.must(e.Append(20))
	cut := e.cut()
	e.must(e.Append(20))
	g := e.draft(cut)
	e.stage(g)
	e.publish(g)
	e.serves(1)
	e.agree(cut, e.cut()) // the segment through the cut is not exported again (H2)
}

func (e *exercise) numbersOnlyGrow() {
	e.next(20)
	second := e.next(20)
	for _, number := range []uint64{1, 2} {
		g := e.rollback(second)
		g.Number = number
		if _, err := e.Live.Stage(e.Context(), &g.Generation, g.files); err == nil {
			if err := e.Live.Switch(e.Context(), &g.Generation); err == nil {
				e.Errorf("switched from generation 2 to %d (H9)", number)
			}
		}
		e.serves(2)
	}
}

func (e *exercise) rebuildIsComplete() {
	first := e.next(20)
	e.next(20)
	e.must(e.Append(20))
	g := e.rollback(first)
	e.rebuild(g)
	e.serves(2)
	e.must(e.Append(20)) // Switch folds these
	e.serves(2)
	published, err := e.Catalog.Publish(e.Context(), g.Draft)
	e.must(err)
	// Everything that may fail is behind: Switch reads no file of the archive (H12),
	// not even to repair one that is missing.
	restore := e.hideArchive(first.Cut.Position())
	err = e.Live.Switch(e.Context(), published)
	restore()
	if err != nil {
		e.Fatalf("switch after publishing a rollback: %v", err)
	}
	e.serves(3)
	e.must(e.Append(20))
	e.serves(3)
	e.next(20) // runs go on from there
	e.serves(4)
}

// rebuild rebuilds for a draft of which every view must fit.
func (e *exercise) rebuild(g generation) {
	e.Helper()
	unfit, err := e.Live.Rebuild(e.Context(), &g.Generation, g.files)
	e.must(err)
	if len(unfit) > 0 {
		e.Fatalf("unfit views %v", unfit)
	}
}

// hideArchive takes away the archive's files behind a position until the returned
// function is called.
func (e *exercise) hideArchive(after schemas.Position) (restore func()) {
	e.Helper()
	snap := e.Archive.Snapshot()
	names := func() (names []string) {
		for _, v := range e.Views {
			for _, f := range e.Archive.Current().FilesFor(v.Stream, after, snap.Through.Position()) {
				names = append(names, f.Path)
			}
		}
		return names
	}
	before := names()
	var hidden []string
	for _, v := range e.Views {
		for _, f := range snap.FilesFor(v.Stream, after, snap.Through.Position()) {
			path := filepath.Join(e.Archive.Dir(), filepath.FromSlash(f.Path))
			if err := os.Rename(path, path+".hidden"); errors.Is(err, os.ErrNotExist) {
				continue // of a stream with two views
			} else if err != nil {
				e.Fatal(err)
			}
			hidden = append(hidden, path)
		}
	}
	if len(hidden) == 0 {
		e.Fatal("no archive file holds rows behind the cut")
	}
	return func() {
		for _, path := range hidden {
			if err := os.Rename(path+".hidden", path); err != nil {
				e.Error(err)
			}
		}
		if now := names(); !slices.Equal(now, before) {
			e.Errorf("the archive's files were %v, and are %v: some were repaired", before, now)
		}
		snap.Release()
	}
}

// rebuildOverDamage is a rollback to the beginning over an archive file that was
// damaged unnoticed (H12).
func (e *exercise) rebuildOverDamage() {
	empty := e.cut()
	g := catalog.Draft{Generation: catalog.Generation{Kind: catalog.Full, Cut: empty, Run: durable.Name(), Number: 1}, New: map[string]string{}}
	files := map[string]string{}
	for _, v := range e.Views {
		view := catalog.View{Name: v.Name, Definition: v.Definition}
		var columns []string
		for _, c := range slices.Concat(v.Keys, v.Cells) {
			columns = append(columns, "NULL::"+c.Type+" AS "+duck.Ident(c.Name))
		}
		path := filepath.Join(e.dir, durable.Name()+".parquet")
		_, err := e.db.Exec("COPY (SELECT " + strings.Join(columns, ", ") + " WHERE false) TO " + duck.Literal(path) + " (FORMAT parquet)")
		e.must(err)
		g.Views = append(g.Views, view)
		g.New[v.Name], files[v.Name] = path, path
	}
	e.stage(generation{g, files})
	first := e.publish(generation{g, files})
	e.serves(1)
	e.next(20)
	e.must(e.Append(20))
	e.cut()
	victim, err := e.Damage()
	e.must(err)
	before := e.answers()
	back := e.rollback(first)
	_, err = e.Live.Rebuild(e.Context(), &back.Generation, back.files)
	var damage *durable.DamageError
	if !errors.As(err, &damage) || !strings.HasSuffix(filepath.ToSlash(damage.Path), victim.Path) {
		e.Fatalf("rebuild over a damaged file: %v; want a DamageError that names %s", err, victim.Path)
	}
	if err := e.Live.Switch(e.Context(), &back.Generation); err == nil {
		e.Error("switched to a generation that could not be rebuilt")
	}
	e.Live.Discard(e.Context())
	if after := e.answers(); e.Served() != 2 || !maps.Equal(before, after) {
		e.Errorf("generation %d answers\n%v\nbefore the rebuild failed 2 answered\n%v", e.Served(), after, before)
	}
	// The next run does not need the damaged file.
	e.must(e.Append(20))
	if after := e.answers(); maps.Equal(before, after) {
		e.Error("the live half has stopped")
	}
}

func (e *exercise) discardedRebuild() {
	first := e.next(20)
	e.next(20)
	back := e.rollback(first)
	e.rebuild(back)
	e.Live.Discard(e.Context())
	if err := e.Live.Switch(e.Context(), &back.Generation); err == nil {
		e.Error("switched to a rebuild that was discarded")
	}
	e.serves(2)
	e.next(20) // the segments are what they were
	e.serves(3)
}

// unfit checks Stage and Rebuild with a view that has too many groups.
func (e *exercise) unfit() {
	e.next(20)
	e.must(e.Overflow())
	e.must(e.Append(20))
	g := e.draft(e.cut())
	unfit, err := e.Live.Stage(e.Context(), &g.Generation, g.files)
	e.must(err)
	e.suspend(&g, unfit)
	published := e.publish(g)
	e.serves(2, e.Limited)
	cut := e.cut()
	var not *batch.NotComparableError
	if _, err := e.Live.Export(e.Context(), e.Limited, cut.Position(), filepath.Join(e.dir, "limited.parquet")); !errors.As(err, &not) || not.View != e.Limited {
		e.Errorf("export of a suspended view: %v", err)
	}
	e.must(e.Append(20))
	e.serves(2, e.Limited)

	again := e.rollback(published)
	for i := range again.Views {
		again.Views[i] = again.Views[i].Fresh()
	}
	unfit, err = e.Live.Rebuild(e.Context(), &again.Generation, again.files)
	e.must(err)
	e.suspend(&again, unfit)
	e.publish(again)
	e.serves(3, e.Limited)
}

// suspend takes exactly the limited view out of a draft.
func (e *exercise) suspend(g *generation, unfit []recompute.Suspension) {
	e.Helper()
	if len(unfit) != 1 || unfit[0].View != e.Limited || unfit[0].Message == "" || unfit[0].Remedy == "" {
		e.Fatalf("unfit views %+v, want only %s, with message and remedy", unfit, e.Limited)
	}
	unfit[0].Unfit = true
	g.View(e.Limited).Suspended = &unfit[0]
}

// text returns a query's result as sorted lines.
func text(db *duck.DB, query string) (string, error) {
	rows, err := db.QueryContext(context.Background(), "SELECT COLUMNS(*)::VARCHAR FROM ("+query+")")
	if err != nil {
		return "", err
	}
	defer rows.Close()
	cols, err := rows.Columns()
	if err != nil {
		return "", err
	}
	var lines []string
	for rows.Next() {
		vals := make([]any, len(cols))
		dest := make([]any, len(cols))
		for i := range vals {
			dest[i] = &vals[i]
		}
		if err := rows.Scan(dest...); err != nil {
			return "", err
		}
		lines = append(lines, fmt.Sprint(vals...))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n"), rows.Err()
}
