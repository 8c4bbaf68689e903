package lifecycle_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"duet/internal/base/lifecycle"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// service runs until its context ends or fail is closed.
type service struct {
	lifecycle.Base
	fail    chan struct{}
	running atomic.Int32
	runs    atomic.Int32
}

var errOwn = errors.New("own failure")

func newService() *service { return &service{fail: make(chan struct{})} }

func (s *service) Start(ctx context.Context) error {
	return s.Go(ctx, func(ctx context.Context) error {
		s.running.Add(1)
		s.runs.Add(1)
		defer s.running.Add(-1)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.fail:
			return errOwn
		}
	})
}

var _ lifecycle.Service = (*service)(nil)

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func TestStopEndsAServiceWithItsCause(t *testing.T) {
	s := newService()
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if closed(s.Done()) || s.Err() != nil {
		t.Fatalf("ended before Stop: %v", s.Err())
	}
	if err := s.Start(t.Context()); !errors.Is(err, lifecycle.ErrStarted) {
		t.Errorf("second Start: %v", err)
	}
	s.Stop()
	s.Stop()
	if !closed(s.Done()) || !errors.Is(s.Err(), lifecycle.ErrStopped) || s.running.Load() != 0 {
		t.Errorf("after Stop: done %v, err %v, running %d", closed(s.Done()), s.Err(), s.running.Load())
	}
	if err := s.Start(t.Context()); err == nil {
		t.Error("started after Stop")
	}
}

func TestStopWithoutStart(t *testing.T) {
	s := newService()
	done := s.Done()
	s.Stop()
	if !closed(done) || !errors.Is(s.Err(), lifecycle.ErrStopped) {
		t.Errorf("done %v, err %v", closed(done), s.Err())
	}
	if err := s.Start(t.Context()); !errors.Is(err, lifecycle.ErrStopped) {
		t.Errorf("Start after Stop: %v", err)
	}
}

func TestAServiceThatFailsSaysWhy(t *testing.T) {
	s := newService()
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	close(s.fail)
	<-s.Done()
	if !errors.Is(s.Err(), errOwn) {
		t.Errorf("err %v", s.Err())
	}
	s.Stop()
	if !errors.Is(s.Err(), errOwn) {
		t.Errorf("Stop replaced the reason: %v", s.Err())
	}
}

func TestTheEndOfTheContextIsTheReason(t *testing.T) {
	gone := errors.New("the owner is gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	s := newService()
	if err := s.Start(ctx); err != nil {
		t.Fatal(err)
	}
	cancel(gone)
	<-s.Done()
	if !errors.Is(s.Err(), gone) {
		t.Errorf("err %v", s.Err())
	}
}

// Any number of goroutines start, stop, fail, cancel and watch one service. It
// runs at most once, Done is closed after it has ended and never before.
func TestStartsAndStopsAtOnce(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for range 2000 {
		s := newService()
		ctx, cancel := context.WithCancel(t.Context())
		var fail sync.Once
		var wg sync.WaitGroup
		for range 2 + rng.IntN(6) {
			action := rng.IntN(5)
			wg.Go(func() {
				switch action {
				case 0:
					_ = s.Start(ctx)
				case 1:
					s.Stop()
					if s.running.Load() != 0 || s.Err() == nil {
						t.Errorf("Stop returned with running %d, err %v", s.running.Load(), s.Err())
					}
				case 2:
					fail.Do(func() { close(s.fail) })
				case 3:
					cancel()
				case 4:
					if closed(s.Done()) && s.running.Load() != 0 {
						t.Error("Done is closed while the service runs")
					}
				}
			})
		}
		wg.Wait()
		s.Stop()
		cancel()
		if n := s.runs.Load(); n > 1 {
			t.Fatalf("ran %d times", n)
		}
		if !closed(s.Done()) {
			t.Fatal("not done after Stop")
		}
	}
}

// steps is a list whose steps note what happens to them; the one named bad fails.
func steps(events *[]string, bad string, names ...string) *lifecycle.List {
	l := &lifecycle.List{}
	for _, name := range names {
		l.Steps = append(l.Steps, lifecycle.Step{
			Name: name,
			Start: func(context.Context) error {
				*events = append(*events, "start "+name)
				if name == bad {
					return errOwn
				}
				return nil
			},
			Stop: func(context.Context) error {
				*events = append(*events, "stop "+name)
				if name == bad {
					return errOwn
				}
				return nil
			},
		})
	}
	return l
}

func TestAListStopsInTheOppositeOrder(t *testing.T) {
	var events []string
	l := steps(&events, "", "a", "b", "c")
	var entered []string
	if err := l.Start(t.Context(), func(name string) { entered = append(entered, name) }); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := l.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if got := strings.Join(events, ", "); got != "start a, start b, start c, stop c, stop b, stop a" {
		t.Error(got)
	}
	if !slices.Equal(entered, []string{"a", "b", "c"}) {
		t.Error(entered)
	}
}

func TestAListStopsOnlyWhatItStarted(t *testing.T) {
	var events []string
	l := steps(&events, "c", "a", "b", "c", "d")
	if err := l.Start(t.Context(), nil); !errors.Is(err, errOwn) {
		t.Fatal(err)
	}
	if err := l.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(events, ", "); got != "start a, start b, start c, stop b, stop a" {
		t.Error(got)
	}
	if err := l.Start(t.Context(), nil); !errors.Is(err, lifecycle.ErrStopped) {
		t.Errorf("Start after Stop: %v", err)
	}
}

func TestErrorsOfAStopNameTheStep(t *testing.T) {
	var stopped []string
	l := &lifecycle.List{Steps: []lifecycle.Step{
		{Name: "opening a", Start: func(context.Context) error { return nil }, Stop: func(context.Context) error { stopped = append(stopped, "a"); return nil }},
		{Name: "opening b", Start: func(context.Context) error { return nil }, Stop: func(context.Context) error { return errOwn }},
		{Name: "reading", Start: func(context.Context) error { return nil }},
	}}
	if err := l.Start(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	err := l.Stop(t.Context())
	if !errors.Is(err, errOwn) || !strings.Contains(err.Error(), "opening b") {
		t.Errorf("error %v", err)
	}
	if !slices.Equal(stopped, []string{"a"}) {
		t.Errorf("the step before was not stopped: %v", stopped)
	}
}

// A step that waits is ended by its context, and Stop waits for it.
func TestAListIsStoppedWhileItStarts(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	entered, after := make(chan struct{}), false
	l := &lifecycle.List{Steps: []lifecycle.Step{
		{Name: "waiting", Start: func(ctx context.Context) error { close(entered); <-ctx.Done(); return nil }},
		{Name: "after", Start: func(context.Context) error { after = true; return nil }},
	}}
	started := make(chan error, 1)
	go func() { started <- l.Start(ctx, nil) }()
	<-entered
	cancel()
	if err := l.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-started; err == nil || after {
		t.Errorf("Start returned %v; the next step started: %v", err, after)
	}
}
