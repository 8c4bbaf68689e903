package store

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"duet/schemas"
	"duet/schemas/event"
	"duet/speed"
	"duet/speed/eventlog"
)

// The live half with a real log, its reader and the store; then after a restart
// from the archive.
func TestLogToStoreAndBackAfterARestart(t *testing.T) {
	sh := newShop(t, Config{BlockRows: 3000}, five...)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	log, err := eventlog.Open(ctx, eventlog.Config{Dir: t.TempDir(), Project: "shop", Logger: sh.s.cfg.Log})
	sh.must(err)
	defer log.Close()
	live := func(after schemas.Position) *speed.Live {
		l, err := speed.New(speed.Config{
			Open:  func(ctx context.Context, after schemas.Position) (speed.Source, error) { return log.Read(ctx, after) },
			Store: sh.s, Sequencer: event.NewSequencer(map[string]*event.Schema{"orders": sh.stream}, event.NewState()), After: after, Target: log.Last(),
		})
		sh.must(err)
		sh.must(l.Start(ctx))
		return l
	}
	append1 := func(n int) schemas.Position {
		at, err := log.Append(ctx, "orders", event.AppendEnvelope(nil, "orders", []event.Run{{Count: uint32(n)}}, sh.events(n)))
		sh.must(err)
		return at
	}
	l := live(0)
	var last, cut schemas.Position
	for i := range 30 {
		append1(1 + sh.r.IntN(400))
		if i%10 == 9 {
			cut, err = log.Control(ctx, speed.CutKind, nil)
			sh.must(err)
		}
		last = append1(5)
	}
	sh.must(l.Wait(ctx, last))
	sh.check()
	arch := sh.archive(cut)
	sh.check()
	l.Stop()

	// After a restart there are an empty store, the archive, and the log after it.
	sh.must(sh.s.Close())
	sh.s = sh.reopen()
	gen := sh.generation(1, cut)
	sh.rebuild(gen, arch.list)
	sh.must(sh.s.Switch(ctx, gen.Generation))
	sh.check()
	l = live(arch.Through)
	<-l.CaughtUp()
	if l.Progress().Through != last {
		t.Fatalf("caught up through %s, the log ends at %s", l.Progress().Through, last)
	}
	sh.check()
	l.Stop()
}

func TestCloseEndsWhatIsUnderWay(t *testing.T) {
	g := newRig(t, Config{Readers: 2})
	ctx := context.Background()
	g.apply(100)
	var wg sync.WaitGroup
	reading := make(chan struct{})
	for range 2 {
		wg.Go(func() {
			err := g.s.Read(ctx, func(sn *Snapshot) error {
				reading <- struct{}{}
				_, err := sn.Collect(ctx, 0, "SELECT count(*) FROM range(1000000000000) a(i) WHERE i % 7 = hash(i) % 7")
				return err
			})
			if err == nil {
				t.Error("a query of hours has ended well")
			}
		})
	}
	<-reading
	<-reading
	wg.Go(func() {
		if _, err := g.s.NextBlock(ctx); !errors.Is(err, ErrClosed) {
			t.Errorf("NextBlock: %v", err)
		}
	})
	for range 3 {
		wg.Go(func() {
			if err := g.s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if err := g.s.Cut(ctx, at(1000)); !errors.Is(err, ErrClosed) {
		t.Errorf("Cut: %v", err)
	}
	if err := g.s.Read(ctx, func(*Snapshot) error { return nil }); !errors.Is(err, ErrClosed) {
		t.Errorf("Read: %v", err)
	}
}

func TestACancelledReaderLeavesItsConnectionUsable(t *testing.T) {
	g := newRig(t, Config{Readers: 1})
	g.apply(100)
	for range 5 {
		ctx, cancel := context.WithCancel(context.Background())
		err := g.s.Read(ctx, func(sn *Snapshot) error {
			time.AfterFunc(time.Millisecond, cancel)
			_, err := sn.Collect(ctx, 0, "SELECT count(*) FROM range(1000000000000) a(i) WHERE i % 7 = hash(i) % 7")
			return err
		})
		cancel()
		if err == nil {
			t.Fatal("an interrupted query has ended well")
		}
		g.apply(10)
		g.check()
	}
	if err := g.s.Read(context.Background(), func(sn *Snapshot) error {
		_, err := sn.Partials("nothing")
		return err
	}); !errors.As(err, new(*UnknownViewError)) {
		t.Fatalf("an unknown view: %v", err)
	}
}
