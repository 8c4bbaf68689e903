package speed

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow/memory"
	"go.uber.org/goleak"

	"duet/schemas"
	"duet/schemas/event"
	"duet/schemas/project"
	"duet/speed/eventlog"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeLog is a log in memory.
type fakeLog struct {
	mu       sync.Mutex
	messages []eventlog.Message
	more     chan struct{} // closed when messages grow
	damaged  error         // what a reader gets at the end
}

func newFakeLog() *fakeLog { return &fakeLog{more: make(chan struct{})} }

func (f *fakeLog) append(m eventlog.Message) schemas.Position {
	f.mu.Lock()
	defer f.mu.Unlock()
	m.At = schemas.NewPosition(1, uint64(len(f.messages)+1))
	m.Time = time.UnixMilli(int64(len(f.messages)))
	f.messages = append(f.messages, m)
	close(f.more)
	f.more = make(chan struct{})
	return m.At
}

func (f *fakeLog) events(n int, session string) schemas.Position {
	records := make([][]byte, n)
	for i := range records {
		records[i] = fmt.Appendf(nil, `{"n": %d}`, i)
	}
	return f.append(eventlog.Message{Stream: "s", Data: event.AppendEnvelope(nil, "s", []event.Run{{Count: uint32(n), Session: session}}, records)})
}

func (f *fakeLog) control(kind string) schemas.Position {
	return f.append(eventlog.Message{Control: kind})
}

func (f *fakeLog) open(_ context.Context, after schemas.Position) (Source, error) {
	return &fakeReader{f, int(after.Sequence())}, nil
}

type fakeReader struct {
	log  *fakeLog
	next int
}

func (r *fakeReader) Next(ctx context.Context) (eventlog.Message, error) {
	for {
		r.log.mu.Lock()
		more := r.log.more
		r.log.mu.Unlock()
		if m, ok, err := r.TryNext(); ok || err != nil {
			return m, err
		}
		select {
		case <-more:
		case <-ctx.Done():
			return eventlog.Message{}, context.Cause(ctx)
		}
	}
}

func (r *fakeReader) TryNext() (eventlog.Message, bool, error) {
	r.log.mu.Lock()
	defer r.log.mu.Unlock()
	if r.next < len(r.log.messages) {
		r.next++
		return r.log.messages[r.next-1], true, nil
	}
	return eventlog.Message{}, false, r.log.damaged
}

func (r *fakeReader) Close() {}

// fakeStore records its calls.
type fakeStore struct {
	mu   sync.Mutex
	log  []string // "3 events through 1:7", "cut 1:8"
	sum  int
	fail func(call int) error // may be nil
	gate chan struct{}        // Apply receives from it first; may be nil
	n    int
}

func (s *fakeStore) Apply(ctx context.Context, b *event.Batch) error {
	if s.gate != nil {
		select {
		case <-s.gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return s.note(b.Events, fmt.Sprintf("%d events through %s", b.Events, b.Through))
}

func (s *fakeStore) Cut(_ context.Context, at schemas.Position) error {
	return s.note(0, "cut "+at.String())
}

func (s *fakeStore) note(events int, what string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n++
	if s.fail != nil {
		if err := s.fail(s.n); err != nil {
			return err
		}
	}
	s.sum += events
	s.log = append(s.log, what)
	return nil
}

type temporary struct{ error }

func (temporary) Temporary() bool { return true }

func newLive(t *testing.T, f *fakeLog, s Store, change func(*Config)) *Live {
	t.Helper()
	mem := memory.NewCheckedAllocator(memory.DefaultAllocator)
	schema := event.NewSchema(&project.Stream{Name: "s", Columns: []project.Column{{Name: "n", Type: project.Type{Kind: project.BigInt}}}})
	cfg := Config{
		Open: f.open, Store: s, Sequencer: event.NewSequencer(map[string]*event.Schema{"s": schema}, event.NewState()), Alloc: mem,
		Retry: func(int) <-chan time.Time {
			c := make(chan time.Time)
			close(c)
			return c
		},
	}
	if change != nil {
		change(&cfg)
	}
	l, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		l.Stop()
		mem.AssertSize(t, 0)
	})
	return l
}

func start(t *testing.T, l *Live) {
	t.Helper()
	if err := l.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func wait(t *testing.T, l *Live, at schemas.Position) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := l.Wait(ctx, at); err != nil {
		t.Fatalf("waiting for %s: %v", at, err)
	}
}

func TestABatchIsWhatArrivedWhileTheStoreWasBusy(t *testing.T) {
	f, s := newFakeLog(), &fakeStore{gate: make(chan struct{})}
	l := newLive(t, f, s, nil)
	f.events(3, "")
	start(t, l)
	s.gate <- struct{}{} // the first batch is being applied or about to be
	f.events(4, "")
	f.events(5, "")
	last := f.events(6, "")
	close(s.gate)
	wait(t, l, last)
	if s.sum != 18 || len(s.log) > 3 {
		t.Fatalf("%d events in %q", s.sum, s.log)
	}
}

func TestNoBatchSpansAControlRecord(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	f, s := newFakeLog(), &fakeStore{}
	var kinds []string
	l := newLive(t, f, s, func(c *Config) {
		c.Control = func(m eventlog.Message) error {
			kinds = append(kinds, m.Control+" "+m.At.String())
			return nil
		}
	})
	start(t, l)
	want := map[schemas.Position]int{} // events through each control record
	var wantKinds []string
	var last schemas.Position
	sum := 0
	for range 300 {
		switch r.IntN(5) {
		case 0:
			last = f.control(CutKind)
			want[last] = sum
		case 1:
			last = f.control("definitions")
			want[last] = sum
			wantKinds = append(wantKinds, "definitions "+last.String())
		default:
			n := 1 + r.IntN(20)
			last = f.events(n, "")
			sum += n
		}
	}
	wait(t, l, last)
	l.Stop()
	got := 0
	seen := 0
	for _, line := range s.log {
		var n int
		var ord, seq uint64
		if c, _ := fmt.Sscanf(line, "cut %d:%d", &ord, &seq); c != 2 {
			fmt.Sscanf(line, "%d events through %d:%d", &n, &ord, &seq)
		}
		got += n
		if w, ok := want[schemas.NewPosition(uint32(ord), seq)]; ok {
			seen++
			if got != w {
				t.Fatalf("%d events through the control record in %q, want %d", got, line, w)
			}
		}
	}
	if seen != len(want) || got != sum {
		t.Fatalf("%d of %d control records, %d of %d events", seen, len(want), got, sum)
	}
	if fmt.Sprint(kinds) != fmt.Sprint(wantKinds) {
		t.Fatalf("the hook saw %v, want %v", kinds, wantKinds)
	}
}

func TestATemporaryErrorIsRetriedAndNothingIsDropped(t *testing.T) {
	f, s := newFakeLog(), &fakeStore{fail: func(call int) error {
		if call >= 2 && call < 7 {
			return fmt.Errorf("applying: %w", temporary{errors.New("out of memory")})
		}
		return nil
	}}
	var held, resumed atomic.Int32
	l := newLive(t, f, s, func(c *Config) {
		c.Hooks.Held = func(error) { held.Add(1) }
		c.Hooks.Resumed = func() { resumed.Add(1) }
	})
	start(t, l)
	wait(t, l, f.events(2, ""))
	f.control(CutKind)
	wait(t, l, f.events(3, ""))
	if s.sum != 5 || held.Load() != 5 || resumed.Load() != 1 || l.Progress().Held != nil {
		t.Fatalf("%d events, held %d times, resumed %d times, %+v", s.sum, held.Load(), resumed.Load(), l.Progress())
	}
}

func TestAnyOtherErrorEndsTheLiveHalf(t *testing.T) {
	broken := errors.New("broken")
	for name, c := range map[string]struct {
		store *fakeStore
		end   error
	}{
		"store": {&fakeStore{fail: func(int) error { return broken }}, nil},
		"log":   {&fakeStore{}, broken},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFakeLog()
			f.damaged = c.end
			f.events(1, "")
			l := newLive(t, f, c.store, nil)
			start(t, l)
			<-l.Done()
			if !errors.Is(l.Err(), broken) {
				t.Fatalf("ended with %v", l.Err())
			}
			if err := l.Wait(context.Background(), schemas.NewPosition(1, 100)); !errors.Is(err, broken) {
				t.Fatalf("Wait: %v", err)
			}
		})
	}
}

func TestCatchUpAccountsAndSessions(t *testing.T) {
	f, s := newFakeLog(), &fakeStore{}
	var skipped schemas.Position
	for range 5 {
		skipped = f.events(7, "old")
	}
	f.events(10, "a")
	f.append(eventlog.Message{Stream: "s", Data: []byte("not an envelope")})
	target := f.events(5, "b")
	var account schemas.Account
	l := newLive(t, f, s, func(c *Config) {
		c.After, c.Target, c.Sessions = skipped, target, 1
		c.Hooks.Applied = func(a Applied) {
			for _, s := range a.Accounts {
				account.Add(s.Account)
			}
		}
	})
	if p := l.Progress(); p.CaughtUp || p.Through != skipped {
		t.Fatalf("before the start: %+v", p)
	}
	start(t, l)
	<-l.CaughtUp()
	if p := l.Progress(); !p.CaughtUp || p.Events != 16 {
		t.Fatalf("%+v", p)
	}
	if account != (schemas.Account{Received: 16, Accepted: 15, Rejected: 1}) {
		t.Fatalf("account %+v", account)
	}
	if a, at := l.Session("b"); a.Accepted != 5 || at != target {
		t.Fatalf("session b: %+v at %s", a, at)
	}
	if a, _ := l.Session("a"); a != (schemas.Account{}) {
		t.Fatalf("session a is kept beyond the limit: %+v", a)
	}
}

// The batch half waits for a cut and then reads what the hook has counted.
func TestTheAppliedHookRunsBeforeWaitReturns(t *testing.T) {
	f := newFakeLog()
	var l *Live
	var early []schemas.Position
	l = newLive(t, f, &fakeStore{}, func(c *Config) {
		c.Hooks.Applied = func(a Applied) {
			if l.Progress().Through >= a.Through {
				early = append(early, a.Through)
			}
		}
	})
	f.events(3, "")
	cut := f.control(CutKind)
	start(t, l)
	wait(t, l, cut)
	l.Stop()
	if len(early) > 0 {
		t.Fatalf("Progress reported %v before the hook ran", early)
	}
}

func TestLifecycle(t *testing.T) {
	l := newLive(t, newFakeLog(), &fakeStore{}, nil)
	l.Stop()
	l.Stop()
	if err := l.Start(context.Background()); err == nil {
		t.Fatal("started after Stop")
	}
	for range 50 {
		f := newFakeLog()
		l := newLive(t, f, &fakeStore{gate: make(chan struct{})}, nil)
		f.events(1, "")
		start(t, l)
		if err := l.Start(context.Background()); err == nil {
			t.Fatal("started twice")
		}
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(l.Stop)
		}
		wg.Wait()
		if !errors.Is(l.Err(), ErrStopped) {
			t.Fatal(l.Err())
		}
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	l = newLive(t, newFakeLog(), &fakeStore{}, nil)
	if err := l.Start(ctx); err != nil {
		t.Fatal(err)
	}
	cause := errors.New("the machine goes down")
	cancel(cause)
	<-l.Done()
	if !errors.Is(l.Err(), cause) {
		t.Fatalf("ended with %v, want the cause", l.Err())
	}
}
