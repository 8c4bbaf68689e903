package store

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// A statement that does not look for interrupts: the distance of two long texts is
// one call, which takes hundreds of times longer than the grace that tests give.
const stubborn = "SELECT levenshtein(repeat('a', 25000 + (random() * 2)::INTEGER), repeat('b', 25000))"

// stubborn executes a stubborn statement until ctx ends.
func (g *rig) stubborn(ctx context.Context) error {
	return g.s.Read(ctx, func(sn *Snapshot) error { return sn.collectStubborn(ctx) })
}

func (sn *Snapshot) collectStubborn(ctx context.Context) error {
	_, err := sn.Collect(ctx, 0, stubborn)
	return err
}

// abandon has n statements abandoned, all of them at once if n readers are free. A
// statement that is interrupted before it has begun ends at once and proves
// nothing: then another one is tried.
func (g *rig) abandon(n int) {
	g.t.Helper()
	before := g.s.queries.use().Total
	for range 10 {
		missing := before + int64(n) - g.s.queries.use().Total
		if missing == 0 {
			return
		}
		g.cancelReads(int(missing))
	}
	g.t.Fatalf("cancelled reads waited for their statements: %+v", g.s.queries.use())
}

// cancelReads begins to read a stubborn statement n times at once, and cancels.
func (g *rig) cancelReads(n int) {
	g.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	reading := make(chan struct{}, n)
	for range n {
		wg.Go(func() {
			err := g.s.Read(ctx, func(sn *Snapshot) error {
				reading <- struct{}{}
				return sn.collectStubborn(ctx)
			})
			if err == nil {
				g.t.Error("a cancelled read has ended well")
			}
		})
	}
	for range n {
		<-reading
	}
	cancel()
	wg.Wait()
}

// Statements that cannot be interrupted keep no reader: queries, the archive,
// exports and status go on beside them, and so does what is applied.
func TestStatementsThatCannotBeInterruptedHoldUpNothing(t *testing.T) {
	g := newRig(t, Config{Readers: 2})
	g.s.interruptGrace = time.Millisecond
	ctx := context.Background()
	g.apply(100)
	g.abandon(2)
	use := g.s.queries.use()
	if use.Abandoned > 2 || use.Total != 2 || use.Limit != 2 || use.Abandoned == 2 && use.Busy != 0 {
		t.Errorf("readers: %+v, want 2 abandoned and none busy", use)
	}
	g.check()
	// As many are replaced as there are readers; these two are not.
	g.abandon(2)
	if use := g.s.queries.use(); use.Abandoned == 4 && use.Busy != 2 {
		t.Errorf("readers: %+v, want 4 abandoned, of which 2 are not replaced", use)
	}
	g.apply(100)
	cut := g.cut()
	g.archive()
	if _, err := g.s.ExportLive(ctx, "by_key", cut, filepath.Join(g.dir, "live.parquet")); err != nil {
		t.Error(err)
	}
	st, err := g.s.Stats(ctx)
	if err != nil || st.Readers.Total != 4 || st.LiveThrough != cut {
		t.Errorf("stats: %+v, %v", st.Readers, err)
	}
	g.s.abandoned.Wait()
	if use := g.s.queries.use(); use.Abandoned != 0 || use.Busy != 0 {
		t.Errorf("readers after the statements ended: %+v", use)
	}
	g.check()
	if st, err := g.s.Stats(ctx); err != nil || st.Moments != 1 {
		t.Errorf("%d moments are kept without a reader (%v)", st.Moments, err)
	}
}

// Queries that take all readers hold up neither the archive nor status.
func TestBusyReadersDoNotHoldUpTheArchive(t *testing.T) {
	g := newRig(t, Config{Readers: 2})
	ctx, cancel := context.WithCancel(context.Background())
	g.apply(100)
	cut := g.cut()
	var wg sync.WaitGroup
	reading := make(chan struct{})
	for range 2 {
		wg.Go(func() {
			_ = g.s.Read(ctx, func(sn *Snapshot) error {
				reading <- struct{}{}
				_, err := sn.Collect(ctx, 0, "SELECT count(*) FROM range(1000000000000) a(i) WHERE i % 7 = hash(i) % 7")
				return err
			})
		})
		<-reading
	}
	soon, done := context.WithTimeout(context.Background(), 30*time.Second)
	defer done()
	b, err := g.s.NextBlock(soon)
	g.must(err)
	if _, err := g.s.ExportBlock(soon, b, "sales", filepath.Join(g.dir, "block.parquet")); err != nil {
		t.Error(err)
	}
	if _, err := g.s.ExportLive(soon, "by_key", cut, filepath.Join(g.dir, "live.parquet")); err != nil {
		t.Error(err)
	}
	if st, err := g.s.Stats(soon); err != nil || st.Readers.Busy != 2 {
		t.Errorf("stats: %+v, %v", st.Readers, err)
	}
	cancel()
	wg.Wait()
}

// Close does not wait for statements that cannot be interrupted.
func TestCloseDoesNotWaitForAbandonedStatements(t *testing.T) {
	g := newRig(t, Config{Readers: 2})
	g.s.interruptGrace, g.s.closeGrace = time.Millisecond, time.Millisecond
	g.apply(10)
	g.abandon(2)
	g.must(g.s.Close())
	if use := g.s.queries.use(); use.Abandoned == 0 {
		t.Error("Close waited for the statements to end")
	}
	if err := g.stubborn(context.Background()); !errors.Is(err, ErrClosed) {
		t.Errorf("Read of a closed store: %v", err)
	}
	g.s.abandoned.Wait()
}
