package eventlog

import (
	"context"
	"errors"
	"sync"
	"testing"

	"duet/internal/base/failpoint"
)

func TestAPublishWhoseAnswerIsLostIsLookedFor(t *testing.T) {
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

func TestWhoStopsWaitingCanAskLater(t *testing.T) {
	l := mustOpen(t, config(t, 64<<20))
	ctx, cancel := context.WithCancel(context.Background())
	disarm := failpoint.On("eventlog.publish.synced", 1, func() error { cancel(); return errors.New("lost") })
	_, err := l.Append(ctx, "orders", []byte("x"))
	disarm()
	var unknown *UnknownError
	if err == nil { // the look was faster
		return
	}
	if !errors.As(err, &unknown) || !errors.Is(err, ErrUnknown) || !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	for body, want := range map[string]bool{"x": true, "y": false} {
		if holds, err := l.Holds(context.Background(), unknown.At, "orders", []byte(body)); err != nil || holds != want {
			t.Errorf("holds %q: %v, %v", body, holds, err)
		}
	}
	if holds, err := l.Holds(context.Background(), unknown.At+1, "orders", nil); err != nil || holds {
		t.Errorf("holds what is behind the end: %v, %v", holds, err)
	}
}

func TestAnotherWriterIsFoundOut(t *testing.T) {
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
