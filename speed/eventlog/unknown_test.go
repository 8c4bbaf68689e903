package eventlog

import (
	"context"
	"errors"
	"sync"
	"testing"

	"duet/internal/base/failpoint"
)

func TestAPublishWhoseAnswerIsLostIsSettledByARestart(t *testing.T) {
	l := mustOpen(t, config(t, 64<<20))
	r, err := l.Read(context.Background(), 0)
	must(t, err)
	defer r.Close()
	want := 1
	for range 3 {
		for _, point := range []string{"eventlog.publish.synced", "eventlog.publish.sent"} {
			disarm := failAt(point, errors.New("lost"))
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() {
					for {
						_, err := l.Append(context.Background(), "orders", []byte(point))
						if err == nil {
							return
						}
						if !errors.Is(err, ErrUnavailable) { // certainly not stored
							t.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			disarm()
			want += 4
		}
	}
	if got := l.Last().Sequence(); got != uint64(want) {
		t.Fatalf("the log ends at %d, want %d: something was stored twice", got, want)
	}
	for range want {
		if _, err := r.Next(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	if level, why := l.Health(); level != OK {
		t.Fatal(level, why)
	}
}

func TestACallerThatStopsWaitingGetsAnUnknownOutcome(t *testing.T) {
	l := mustOpen(t, config(t, 64<<20))
	ctx, cancel := context.WithCancel(context.Background())
	disarm := failpoint.On("eventlog.publish.synced", 1, func() error { cancel(); return errors.New("lost") })
	defer disarm()
	_, err := l.Append(ctx, "orders", []byte("x"))
	if err == nil { // the repair was faster than this goroutine
		return
	}
	var unknown *UnknownError
	if !errors.As(err, &unknown) || !errors.Is(err, ErrUnknown) || !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

func TestAnotherWriterIsRefused(t *testing.T) {
	l := mustOpen(t, config(t, 64<<20))
	mustAppend(t, l, "orders", []byte("x"))
	if _, err := l.eng.js.Publish(context.Background(), "duet.e.orders", []byte("foreign")); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(context.Background(), "orders", []byte("y")); !errors.Is(err, ErrDiffers) && !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrUnknown) {
		t.Fatal(err)
	}
	if level, _ := l.Health(); level != Refusing {
		t.Fatal(level)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}
