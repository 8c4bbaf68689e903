package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"duet/batch/catalog"
	"duet/batch/recompute"
	"duet/internal/base/duck"
	"duet/schemas"
)

func TestAnswersAreTheFoldThroughEverything(t *testing.T) {
	g := newRig(t, Config{MergeSlack: 20})
	ctx := context.Background()
	g.check()
	for range 60 {
		switch g.r.IntN(6) {
		case 0:
			g.apply(0)
		case 1:
			c := g.cut()
			g.apply(3)
			gen := g.generation(c)
			g.must(g.stage(gen))
			g.check()
			g.must(g.s.Switch(ctx, gen.Generation))
		case 2:
			g.cut()
		default:
			g.apply(1 + g.r.IntN(40))
		}
		g.check()
	}
}

// Readers compare every answer with the fold while batches, cuts,
// merges, switches, rebuilds and releases go on. H2, H3, H4 and H9.
func TestHandOffUnderLoad(t *testing.T) {
	g := newRig(t, Config{MergeSlack: 50, Readers: 8})
	generations := 40
	if testing.Short() {
		generations = 10
	}
	ctx := context.Background()
	// Prefix totals by position, so that a reader's check is a look-up.
	var mu sync.RWMutex
	want := map[schemas.Position]sums{0: {}}
	note := func() {
		mu.Lock()
		defer mu.Unlock()
		want[at(g.seq)] = fold(g.events, at(g.seq), keyOf)
	}
	var stop atomic.Bool
	var probes atomic.Int64
	var wg sync.WaitGroup
	fail := make(chan error, 8)
	for range 8 {
		wg.Go(func() {
			var gen uint64
			var live schemas.Position
			for !stop.Load() {
				err := g.s.Read(ctx, func(sn *Snapshot) error {
					if sn.Generation() < gen || sn.LiveThrough() < live {
						return fmt.Errorf("went back from (%d, %s) to (%d, %s) (H9)", gen, live, sn.Generation(), sn.LiveThrough())
					}
					gen, live = sn.Generation(), sn.LiveThrough()
					for range 2 { // twice: the snapshot must not move
						got, err := answer(ctx, sn, "by_key")
						if err != nil {
							return err
						}
						mu.RLock()
						w := want[live]
						mu.RUnlock()
						if !maps.Equal(got, w) {
							return fmt.Errorf("(%d, %s):\ngot  %s\nwant %s", gen, live, got, w)
						}
						probes.Add(1)
					}
					return nil
				})
				if err != nil {
					fail <- err
					return
				}
			}
		})
	}
	step := func() {
		events := g.batch(1 + g.r.IntN(30))
		g.events = append(g.events, events...)
		note() // before it can be seen
		in := g.load(events)
		g.must(g.s.apply(ctx, in))
		in.sets[0].rec.Release()
	}
	for range generations {
		for range 1 + g.r.IntN(6) {
			step()
		}
		g.seq++
		note()
		cut := at(g.seq)
		g.must(g.s.Cut(ctx, cut))
		g.archiveThrough(cut)
		gen := g.generation(cut)
		step()
		if g.r.IntN(5) == 0 {
			g.must(g.rebuild(gen, g.arch))
			continue
		}
		g.must(g.stage(gen))
		step()
		g.must(g.s.Switch(ctx, gen.Generation))
	}
	stop.Store(true)
	wg.Wait()
	select {
	case err := <-fail:
		t.Fatal(err)
	default:
	}
	st, err := g.s.Stats(ctx)
	g.must(err)
	t.Logf("%d probes over %d generations, %d merges", probes.Load(), generations, st.Merges.Done)
	if st.Moments > 2 {
		t.Errorf("%d moments are kept without a reader", st.Moments)
	}
}

func TestAnEventThatCannotBeComputedSuspendsItsViewOnly(t *testing.T) {
	var reported []recompute.Suspension
	g := newRig(t, Config{OnSuspend: func(s recompute.Suspension) { reported = append(reported, s) }})
	g.apply(50)
	events := g.batch(200)
	events[137].note, events[137].cents = "a dozen", 4711
	events[180].note = "many"
	g.must(g.applyEvents(events))
	g.check("by_key", "total")
	g.apply(10)
	g.check("by_key", "total")

	_, err := snapshotAnswer(g.s, "notes")
	var sus *SuspendedError
	if !errors.As(err, &sus) {
		t.Fatalf("view notes answers %v, want a *SuspendedError", err)
	}
	s := sus.Suspension
	if s.At != events[137].at || s.Record != events[137].rec || !strings.Contains(s.Event, "note=a dozen") || !strings.Contains(s.Message, "Could not convert string 'a dozen' to INT32") {
		t.Fatalf("suspension %+v; want event 137 at %s", s, events[137].at)
	}
	if len(reported) != 1 || reported[0] != s {
		t.Fatalf("OnSuspend was called with %+v", reported)
	}
	if !strings.Contains(err.Error(), "TRY_CAST") {
		t.Errorf("no remedy in %q", err)
	}

	// A generation whose cut lies before the event does not bring it back: its
	// live half is not whole.
	c := g.cut()
	early := g.generation(c)
	early.set(catalog.View{Name: "notes", Definition: "h3", Suspended: &s}, "")
	g.apply(5)
	g.serve(early)
	if _, err := snapshotAnswer(g.s, "notes"); !errors.As(err, &sus) {
		t.Fatalf("after a generation that says it is suspended: %v", err)
	}
	g.check("by_key", "total")

	// One that covers the event and computed the view does.
	for i := range g.events {
		if strings.Trim(g.events[i].note, "0123456789") != "" {
			g.events[i].note = "-1"
		}
	}
	good := g.generation(g.cut())
	g.apply(5)
	g.serve(good)
	g.check()
}

// A fold's statement stays prepared while rows are added. It must not lose a filter
// that all rows passed when it was planned.
func TestAPreparedFoldKeepsItsFilter(t *testing.T) {
	g := newRig(t, Config{})
	gains := &definition{
		name: "gains", stream: "sales", hash: "h4", cells: "k0 VARCHAR, c0 DECIMAL(38,0), c1 BIGINT", width: 3,
		partial: func(f string) string {
			return "SELECT key AS k0, sum(cents)::DECIMAL(38,0) AS c0, count(*) AS c1 FROM " + f + " AS sales WHERE cents > 0 GROUP BY 1"
		},
		merge: testViews()[0].merge,
	}
	s, err := open(Config{Log: g.s.cfg.Log}, []*dataset{sales, rejects, lines}, []*definition{gains})
	g.must(err)
	defer s.Close()
	want := sums{}
	for round := range 6 {
		events := g.batch(500)
		for i := range events {
			if round%3 == 0 { // the first rows of a block are all gains
				events[i].cents = 1 + g.r.Int64N(100)
			}
			if e := events[i]; e.cents > 0 {
				want[e.key] = [2]int64{want[e.key][0] + e.cents, want[e.key][1] + 1}
			}
		}
		in := g.load(events)
		g.must(s.apply(context.Background(), in))
		in.sets[0].rec.Release()
		got, err := snapshotAnswer(s, "gains")
		g.must(err)
		if !maps.Equal(got, want) {
			t.Fatalf("round %d:\ngot  %s\nwant %s", round, got, want)
		}
		if round == 2 {
			g.seq++
			g.must(s.Cut(context.Background(), at(g.seq)))
		}
	}
}

func TestASuspendedViewStaysSoUntilAGenerationCoversTheFailedEvent(t *testing.T) {
	g := newRig(t, Config{})
	g.apply(10)
	c := g.cut()
	gen := g.generation(c)
	events := g.batch(3)
	events[1].note = "x"
	g.must(g.applyEvents(events))
	g.serve(gen)
	var sus *SuspendedError
	if _, err := snapshotAnswer(g.s, "notes"); !errors.As(err, &sus) {
		t.Fatalf("the generation is whole but the live half is not: %v, want a *SuspendedError", err)
	}
}

func snapshotAnswer(s *Store, view string) (got sums, err error) {
	ctx := context.Background()
	err = s.Read(ctx, func(sn *Snapshot) error {
		got, err = answer(ctx, sn, view)
		return err
	})
	return got, err
}

func TestAResourceErrorAppliesNothingAndSuspendsNothing(t *testing.T) {
	g := newRig(t, Config{MemoryLimit: 64 << 20, TailBytes: 1 << 40})
	ctx := context.Background()
	g.apply(100)
	before := g.s.LiveThrough()
	// A batch that does not fit into memory, and may not spill.
	_, err := g.s.db.Exec("SET GLOBAL max_temp_directory_size='0KB'")
	g.must(err)
	events := make([]sale, 400_000)
	for i := range events {
		events[i] = sale{key: strings.Repeat("k", 100) + fmt.Sprint(i), cents: 1, note: fmt.Sprint(i), at: at(g.seq + 1), rec: int32(i)}
	}
	in := &microBatch{through: at(g.seq + 1), sets: []setRows{{"sales", record(events)}}}
	defer in.sets[0].rec.Release()
	err = g.s.apply(ctx, in)
	var re *ResourceError
	if !errors.As(err, &re) || re.Fatal {
		t.Fatalf("%v, want a *ResourceError that is not fatal", err)
	}
	if g.s.LiveThrough() != before {
		t.Fatalf("live-through went from %s to %s", before, g.s.LiveThrough())
	}
	g.check()
	g.apply(10)
	g.check()
}

func TestTailLimitHoldsUntilABlockIsReleased(t *testing.T) {
	g := newRig(t, Config{BlockRows: 1000, TailRows: 100})
	g.apply(90)
	events := g.batch(50)
	err := g.applyEvents(events)
	var full *TailFullError
	if !errors.As(err, &full) || full.Rows != 90 || full.RowLimit != 100 {
		t.Fatalf("%v, want a *TailFullError with 90 of 100 rows", err)
	}
	g.events = g.events[:90]
	g.check()
	g.archive() // the refusal closed the block
	g.must(g.applyEvents(events))
	g.check()
	if u := g.s.Tail(); u.Rows != 50 || u.Blocks != 0 {
		t.Fatalf("tail %+v, want 50 rows in no closed block", u)
	}
}

func TestBlocksCloseWhenBigAndAtCuts(t *testing.T) {
	g := newRig(t, Config{BlockRows: 100})
	ctx := context.Background()
	g.apply(60)
	g.apply(60) // closes
	g.apply(10)
	c := g.cut() // closes
	g.seq++
	g.must(g.s.apply(ctx, &microBatch{
		through: at(g.seq), accounts: map[string]schemas.Account{"sales": {Received: 5, Duplicate: 5}}, producers: map[string]uint64{"p": 7},
	}))
	g.cut() // closes one without rows
	g.archive()
	b, err := g.s.NextBlock(ctx)
	g.must(err)
	if b.Through != c || b.Accounts["sales"].Accepted != 10 {
		t.Fatalf("second block %+v", b)
	}
	if err := g.s.ReleaseBlock(ctx, b.ID+1000); err == nil {
		t.Fatal("released a block that is not there")
	}
	g.archive()
	b, err = g.s.NextBlock(ctx)
	g.must(err)
	if b.Accounts["sales"] != (schemas.Account{Received: 5, Duplicate: 5}) || b.Producers["p"] != 7 {
		t.Fatalf("third block %+v", b)
	}
	g.archive()
	cctx, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := g.s.NextBlock(cctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("NextBlock without a block: %v", err)
	}
	g.check()
}

// A block without any row closes, too, when its messages have taken enough of the
// log: else a log full of duplicates could never be trimmed.
func TestBlocksCloseByTheLogTheyTake(t *testing.T) {
	g := newRig(t, Config{BlockLog: 1000})
	ctx := context.Background()
	duplicates := func(bytes int64) {
		g.seq++
		g.must(g.s.apply(ctx, &microBatch{through: at(g.seq), log: bytes, accounts: map[string]schemas.Account{"sales": {Received: 5, Duplicate: 5}}}))
	}
	duplicates(600)
	if n := g.s.Tail().Blocks; n != 0 {
		t.Fatalf("%d blocks are closed after 600 of 1000 bytes", n)
	}
	duplicates(600)
	duplicates(600)
	b, err := g.s.NextBlock(ctx)
	g.must(err)
	if b.Through != at(2) || b.Accounts["sales"] != (schemas.Account{Received: 10, Duplicate: 10}) {
		t.Fatalf("block %+v", b)
	}
	g.archive()
	if n := g.s.Tail().Blocks; n != 0 {
		t.Fatalf("%d blocks are closed after 600 more bytes", n)
	}
}

func TestExportedBlocksReadBackAsTheTail(t *testing.T) {
	g := newRig(t, Config{})
	ctx := context.Background()
	for range 5 {
		g.apply(500)
	}
	var tail string
	g.must(g.s.Read(ctx, func(sn *Snapshot) error {
		q := "SELECT count(*), bit_xor(hash(t)), count(DISTINCT _duet_at) FROM " + sn.Tail("sales") + " t"
		return scanOne(ctx, sn, q, &tail)
	}))
	g.cut()
	g.archive()
	from := archived(sales, g.arch.Files["sales"], 0, g.arch.Through)
	var back, cols string
	g.must(g.s.Read(ctx, func(sn *Snapshot) error {
		if err := scanOne(ctx, sn, "SELECT count(*), bit_xor(hash(t)), count(DISTINCT _duet_at) FROM "+from+" t", &back); err != nil {
			return err
		}
		return scanOne(ctx, sn, "SELECT string_agg(name || ' ' || coalesce(converted_type, logical_type, type, ''), ', '), 0, 0 FROM parquet_schema("+duck.Literal(g.arch.Files["sales"][0])+")", &cols)
	}))
	if tail != back {
		t.Fatalf("the tail was %s, the file is %s", tail, back)
	}
	if !strings.Contains(cols, "_duet_lane UINT_16, _duet_incarnation UINT_32, _duet_sequence INT_64, _duet_record INT_32, _duet_part INT_32") {
		t.Fatalf("columns: %s", cols)
	}
}

func scanOne(ctx context.Context, sn *Snapshot, q string, into *string) error {
	res, err := sn.Collect(ctx, 1, q)
	if err == nil {
		*into = fmt.Sprint(res.Rows[0]...)
	}
	return err
}

func TestExportLiveIsWhatTheSegmentsHold(t *testing.T) {
	g := newRig(t, Config{MergeSlack: 10})
	ctx := context.Background()
	g.apply(100)
	first := g.cut()
	g.apply(100)
	second := g.cut()
	g.apply(100)
	for _, c := range []schemas.Position{first, second} {
		path := filepath.Join(g.dir, fmt.Sprintf("live-%d.parquet", c))
		n, err := g.s.ExportLive(ctx, "by_key", c, path)
		g.must(err)
		want := fold(g.events, c, keyOf)
		if int(n) != len(want) {
			t.Fatalf("%d groups through %s, want %d", n, c, len(want))
		}
		var got sums
		g.must(g.s.Read(ctx, func(sn *Snapshot) error {
			rows, err := sn.Query(ctx, "SELECT coalesce(k0, ''), c0::BIGINT, c1 FROM "+duck.Parquet(path))
			if err != nil {
				return err
			}
			defer rows.Close()
			got = sums{}
			for rows.Next() {
				var k string
				var v [2]int64
				if err := rows.Scan(&k, &v[0], &v[1]); err != nil {
					return err
				}
				got[k] = v
			}
			return rows.Err()
		}))
		if !maps.Equal(got, want) {
			t.Fatalf("through %s: %s, want %s", c, got, want)
		}
	}
	var be *BoundaryError
	if _, err := g.s.ExportLive(ctx, "by_key", at(2), filepath.Join(g.dir, "x")); !errors.As(err, &be) {
		t.Fatalf("a cut that was none: %v", err)
	}
}
