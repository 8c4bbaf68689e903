package store

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"duet/schemas"
)

func TestRecoveryLoadsGenerationArchiveAndGoesOnWithTheLog(t *testing.T) {
	g := newRig(t, Config{BlockRows: 70})
	ctx := context.Background()
	for range 4 {
		g.apply(30)
	}
	cut := g.cut()
	gen := g.generation(cut)
	for range 6 {
		g.apply(40)
	}
	g.archiveThrough(cut + 1)
	archived := g.arch.Through
	if archived >= at(g.seq) {
		t.Fatal("nothing is left for the log")
	}

	// The same process, as if started anew: an empty store.
	old := g.s
	g.s = g.open(Config{Log: old.cfg.Log})
	g.must(g.rebuild(gen, g.arch))
	if g.s.LiveThrough() != archived {
		t.Fatalf("live-through %s, the archive ends at %s", g.s.LiveThrough(), archived)
	}
	g.check()
	events := after(g.events, archived)
	in := g.load(events)
	g.must(g.s.apply(ctx, in))
	in.sets[0].rec.Release()
	g.check()
	g.must(g.s.Read(ctx, func(sn *Snapshot) error {
		if sn.Generation() != gen.Number || sn.Cut() != cut || sn.Archived() != archived {
			t.Errorf("generation %d, cut %s, archived %s; want %d, %s, %s", sn.Generation(), sn.Cut(), sn.Archived(), gen.Number, cut, archived)
		}
		return nil
	}))
	// The next block begins where the archive ends.
	g.cut()
	g.archive()
	g.check()
}

func after(events []sale, at schemas.Position) []sale {
	for i, e := range events {
		if e.at > at {
			return events[i:]
		}
	}
	return nil
}

func TestRecoveryWithoutGenerationOrArchive(t *testing.T) {
	g := newRig(t, Config{})
	g.must(g.rebuild(published{}, Archived{}))
	g.apply(20)
	g.check()
	g.cut()
	g.archive()

	g.s = g.open(Config{Log: g.s.cfg.Log})
	g.must(g.rebuild(published{}, g.arch))
	g.check()
}

// Back to an older cut under a new number, while batches, cuts and
// releases go on; the live state after that cut comes from archive and tail.
func TestRollbackRebuildsTheLiveState(t *testing.T) {
	g := newRig(t, Config{BlockRows: 100, TailRows: 100_000, MergeSlack: 30})
	ctx := context.Background()
	var cuts []schemas.Position
	for range 6 {
		g.apply(50)
		g.apply(50)
		c := g.cut()
		cuts = append(cuts, c)
		gen := g.generation(c)
		g.serve(gen)
		g.apply(20)
		g.check()
	}
	g.archiveThrough(cuts[3])
	for _, c := range []schemas.Position{cuts[3], cuts[0], cuts[2]} {
		gen := g.generation(c)
		done := make(chan error, 1)
		a := g.arch
		go func() { done <- g.rebuild(gen, a) }()
		for range 10 {
			g.apply(30)
		}
		g.must(<-done)
		g.check()
		if st, err := g.s.Stats(ctx); err != nil || st.Generation != gen.Number || st.Cut != c {
			t.Fatalf("generation %d at %s (%v), want %d at %s", st.Generation, st.Cut, err, gen.Number, c)
		}
		g.archive()
		g.check()
	}
	// A run that cut before the rollback cannot switch any more.
	late := g.generation(cuts[5])
	g.must(g.stage(late))
	var be *BoundaryError
	if err := g.s.Switch(ctx, late.Generation); !errors.As(err, &be) {
		t.Fatalf("switch to a cut before the rebuild: %v, want a *BoundaryError", err)
	}
	g.s.Discard(ctx)
	// The next one can.
	next := g.generation(g.cut())
	g.serve(next)
	g.check()
	g.noStrayTables()
}

func (g *rig) noStrayTables() {
	g.t.Helper()
	noStrayTables(g.t, g.s)
}

// noStrayTables fails if the database has a table that no layout names.
func noStrayTables(t testing.TB, s *Store) {
	t.Helper()
	s.side.Wait() // merges drop what they replace
	err := s.Read(context.Background(), func(sn *Snapshot) error {
		res, err := sn.Collect(context.Background(), 0, "SELECT table_name FROM duckdb_tables() WHERE table_name <> 'state' AND table_name NOT LIKE 'e\\_%' ESCAPE '\\' AND table_name NOT LIKE 'es\\_%' ESCAPE '\\' ORDER BY 1")
		if err != nil {
			return err
		}
		var have []string
		for _, r := range res.Rows {
			have = append(have, r[0].(string))
		}
		if got, want := strings.Join(have, " "), strings.Join(sn.m.layout.tables(), " "); got != want {
			t.Errorf("tables in the database: %s\nnamed by the layout:    %s", got, want)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Random batches, cuts and releases before, during and after Rebuild: whether
// the shadow is switched to or discarded, every accepted event is counted once,
// as plain DuckDB counts it, and answers stay correct all the time (H3, H12).
func TestEventsAroundARebuildCountOnce(t *testing.T) {
	sh := newShop(t, Config{BlockRows: 400, MergeSlack: 300, TailRows: 1 << 40}, "by_country", "by_day", "by_line")
	ctx := context.Background()
	var arch Archived
	act := func() {
		switch sh.r.IntN(6) {
		case 0:
			sh.cut()
		case 1, 2:
			for range sh.r.IntN(4) {
				if sh.s.Tail().Blocks > 0 {
					arch = sh.archive(0) // one block
				}
			}
		default:
			sh.apply(1 + sh.r.IntN(300))
		}
	}
	acts := func(n int) {
		for range sh.r.IntN(n) {
			act()
		}
	}
	var cuts []schemas.Position
	moved, number := 0, uint64(0)
	sh.apply(1) // so that the archive has a file
	for round := range 14 {
		acts(12)
		c := sh.cut()
		if round%2 == 0 {
			arch = sh.archive(c)
			cuts = append(cuts, c)
		}
		gen := sh.generation(number+1, cuts[sh.r.IntN(len(cuts))])
		calls := 0
		list := func(context.Context, schemas.Position) (Archived, error) {
			a := arch
			if calls++; calls < 4 {
				acts(10) // rows move to the archive after it was listed
			}
			return a, nil
		}
		sh.rebuild(gen, list)
		if calls > 1 {
			moved++
		}
		sh.check()
		acts(8)
		sh.check()
		if sh.r.IntN(4) == 0 {
			sh.s.Discard(ctx)
		} else {
			number++
			sh.must(sh.s.Switch(ctx, gen.Generation))
		}
		sh.check()
		noStrayTables(t, sh.s)
	}
	if moved == 0 {
		t.Error("no rows moved to the archive during any rebuild")
	}
}

// DuckDB plans away a filter that all rows pass, and a plan may be older than what
// it reads; see inTransaction.
func TestAFilterIsPlannedAndExecutedInOneTransaction(t *testing.T) {
	g := newRig(t, Config{})
	ctx := context.Background()
	conn, err := g.s.db.Conn(ctx)
	g.must(err)
	defer conn.Close()
	_, err = conn.ExecContext(ctx, "CREATE TABLE x_filter AS FROM range(100) r(n)")
	g.must(err)
	var n int
	g.must(inTransaction(ctx, conn, func() error {
		st, err := conn.PrepareContext(ctx, "SELECT count(*) FROM x_filter WHERE n < 100")
		if err != nil {
			return err
		}
		defer st.Close()
		if _, err := g.s.db.ExecContext(ctx, "INSERT INTO x_filter FROM range(100, 200)"); err != nil {
			return err
		}
		return st.QueryRowContext(ctx).Scan(&n)
	}))
	if n != 100 {
		t.Errorf("a filter for rows below 100 reads %d rows", n)
	}
}

// A rebuild that cannot read the archive changes nothing: the served generation
// answers on, blocks are released, and the next rebuild works (H12).
func TestAFailedRebuildLeavesTheServedStateAlone(t *testing.T) {
	g := newRig(t, Config{BlockRows: 50})
	g.apply(30)
	first := g.cut()
	gen := g.generation(first)
	g.serve(gen)
	for range 5 {
		g.apply(40)
	}
	g.archiveThrough(g.cut())
	g.apply(10)
	damaged := g.arch
	file := g.arch.Files["sales"][2]
	text, err := os.ReadFile(file)
	g.must(err)
	bad := filepath.Join(g.dir, "bad.parquet")
	g.must(os.WriteFile(bad, text[:len(text)/2], 0o600))
	damaged.Files = map[string][]string{"sales": slices.Clone(g.arch.Files["sales"])}
	damaged.Files["sales"][2] = bad
	back := g.generation(first)
	if err := g.rebuild(back, damaged); err == nil || !strings.Contains(err.Error(), "bad.parquet") {
		t.Fatalf("a damaged file: %v", err)
	}
	g.check()
	g.noStrayTables()
	g.apply(20)
	g.cut()
	g.archive()
	g.check()
	if holds := g.holds(); holds != 0 {
		t.Errorf("%d holds after a failed rebuild", holds)
	}
	g.must(g.rebuild(back, g.arch))
	g.check()
}

// holds returns the number of shadows that hold released blocks.
func (g *rig) holds() (n int) {
	g.must(g.s.do(context.Background(), func(w *writer) error { n = w.holds; return nil }))
	return n
}

func TestRebuildNamesAnEventInTheArchiveThatCannotBeComputed(t *testing.T) {
	g := newRig(t, Config{})
	g.apply(30)
	g.cut()
	events := g.batch(100)
	events[42].note = "twelve"
	g.must(g.applyEvents(events))
	cut := g.cut()
	g.apply(10)
	g.archiveThrough(cut)

	g.s = g.open(Config{Log: g.s.cfg.Log})
	g.must(g.rebuild(published{}, g.arch))
	_, err := snapshotAnswer(g.s, "notes")
	var sus *SuspendedError
	if !errors.As(err, &sus) || sus.Suspension.At != events[42].at || sus.Suspension.Record != events[42].rec || !strings.Contains(sus.Suspension.Event, "note=twelve") {
		t.Fatalf("%v; want event 42 at %s", err, events[42].at)
	}
	g.check("by_key", "total")
	g.noStrayTables()
}

func TestRebuildRefusesAnArchiveThatMissesSomething(t *testing.T) {
	g := newRig(t, Config{})
	g.apply(10)
	first := g.cut()
	g.archiveThrough(first)
	stale := g.arch
	gen := g.generation(first)
	g.serve(gen)
	g.apply(10)
	g.archiveThrough(g.cut())
	back := g.generation(first)
	if err := g.rebuild(back, stale); err == nil || !strings.Contains(err.Error(), "manifest is missing") {
		t.Fatalf("an archive that ends before what was released to it: %v", err)
	}
	missing := g.arch
	missing.Files = map[string][]string{"sales": {filepath.Join(g.dir, "gone.parquet")}}
	if err := g.rebuild(back, missing); err == nil {
		t.Fatal("a missing file went unnoticed (H6)")
	}
	if err := g.rebuild(newPublished(back.Number+1, at(g.seq+5)), g.arch); err == nil {
		t.Fatal("a cut beyond the archive went unnoticed (H6)")
	}
	g.check()
	g.noStrayTables()
	g.must(g.rebuild(back, g.arch))
	g.check()
}

func TestAViewThatTheGenerationDoesNotHoldIsRebuilding(t *testing.T) {
	g := newRig(t, Config{})
	g.apply(30)
	cut := g.cut()
	g.archiveThrough(cut)
	gen := g.generation(cut)
	gen.View("by_key").Definition = "an older one"

	g.s = g.open(Config{Log: g.s.cfg.Log})
	g.must(g.rebuild(gen, g.arch))
	_, err := snapshotAnswer(g.s, "by_key")
	var re *RebuildingError
	if !errors.As(err, &re) || re.View != "by_key" || re.Generation != gen.Number {
		t.Fatalf("%v, want a *RebuildingError", err)
	}
	g.check("total", "notes")
	g.apply(30)
	next := g.generation(g.cut())
	g.apply(30)
	g.serve(next)
	g.check()
}

func TestSwitchRefusesWhatWouldGoBackOrMix(t *testing.T) {
	g := newRig(t, Config{})
	ctx := context.Background()
	g.apply(30)
	c := g.cut()
	g.apply(30)
	gen := g.generation(c)
	if err := g.s.Switch(ctx, gen.Generation); err == nil {
		t.Fatal("switched to a generation that is not staged")
	}
	between := newPublished(gen.Number, at(2))
	g.must(g.stage(between))
	var be *BoundaryError
	if err := g.s.Switch(ctx, gen.Generation); !errors.As(err, &be) {
		t.Fatalf("a cut inside a segment: %v", err)
	}
	g.must(g.stage(gen)) // replaces it
	g.must(g.s.Switch(ctx, gen.Generation))
	g.must(g.stage(gen))
	if err := g.s.Switch(ctx, gen.Generation); err == nil {
		t.Fatal("switched to the same number twice (H9)")
	}
	g.s.Discard(ctx)
	g.check()
	g.noStrayTables()
}
