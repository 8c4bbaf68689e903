package eventlog

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"duet/internal/base/failpoint"
	"duet/schemas"
)

func failAt(point string, err error) (disarm func()) {
	return failpoint.On(point, 1, func() error { return err })
}

// fillUp appends until events are refused, and returns the last stored.
func fillUp(t *testing.T, l *Log, size int) (last schemas.Position, n int) {
	t.Helper()
	for i := 0; ; i++ {
		at, err := l.Append(context.Background(), "orders", body(i, size))
		if err != nil {
			var full *FullError
			if !errors.Is(err, ErrFull) || !errors.As(err, &full) || full.Control || full.Limit != l.cfg.MaxBytes {
				t.Fatal(err)
			}
			return last, i
		}
		last = at
	}
}

func TestAFullLogRefusesEventsTakesMarkersAndHealsByTrimming(t *testing.T) {
	l := mustOpen(t, config(t, 1<<20))
	if level, why := l.Health(); level != OK || why != "" {
		t.Fatalf("a new log is %s: %s", level, why)
	}
	last, _ := fillUp(t, l, 1000)
	used, limit := l.Usage()
	if used < limit*89/100 || used > limit*90/100 {
		t.Fatalf("refused at %d of %d", used, limit)
	}
	if level, _ := l.Health(); level < Degraded {
		t.Fatalf("a full log is %s", level)
	}
	cut, err := l.Control(context.Background(), "cut", []byte("C"))
	if err != nil || cut != last+1 {
		t.Fatalf("marker in a full log: %s, %v", cut, err)
	}
	if info, err := l.eng.info(context.Background()); err != nil || int64(info.State.Bytes) != l.used {
		t.Fatalf("the log counts %d bytes, its store %d (%v)", l.used, info.State.Bytes, err)
	}
	if err := l.Trim(context.Background(), last-100); err != nil {
		t.Fatal(err)
	}
	used, _ = l.Usage()
	if used > limit/2 || used < limit/3 {
		t.Fatalf("a trim left %d of %d bytes, want just below half", used, limit)
	}
	if _, err := readAll(t, l, 0); !errors.Is(err, ErrDamaged) {
		t.Fatalf("reading what was trimmed: %v", err)
	}
	all, err := readAll(t, l, l.First()-1)
	if err != nil || all[0].At != l.First() || all[len(all)-1].At != cut {
		t.Fatalf("what is left: %d messages, %v", len(all), err)
	}
	mustAppend(t, l, "orders", []byte("again"))
}

func TestControlRecordsStopAtTheWholeLimit(t *testing.T) {
	l := mustOpen(t, config(t, MinBytes))
	fillUp(t, l, 500)
	var full *FullError
	for {
		if _, err := l.Control(context.Background(), "cut", make([]byte, 500)); err != nil {
			if !errors.As(err, &full) || !full.Control {
				t.Fatal(err)
			}
			break
		}
	}
	if used, limit := l.Usage(); used > limit || used < limit*98/100 {
		t.Fatalf("%d of %d used", used, limit)
	}
	must(t, l.Trim(context.Background(), l.Last()))
	mustAppend(t, l, "orders", []byte("again"))
}

// sendReserved refuses before the server's limit is reached. If the server refuses
// all the same, the chain of sequences must go on.
func TestARefusalByTheStoreLeavesTheChainWhole(t *testing.T) {
	l := mustOpen(t, config(t, MinBytes))
	l.mu.Lock()
	l.used = -1 << 30 // so that sendReserved refuses nothing
	l.mu.Unlock()
	stored := 0
	for {
		_, err := l.Append(context.Background(), "orders", make([]byte, 1000))
		if errors.Is(err, ErrFull) {
			break
		}
		must(t, err)
		stored++
	}
	if _, err := l.Append(context.Background(), "orders", make([]byte, 1000)); !errors.Is(err, ErrFull) {
		t.Fatal(err)
	}
	if at := mustAppend(t, l, "orders", nil); at != schemas.NewPosition(1, uint64(stored+2)) {
		t.Fatalf("after %d events and two refusals: %s", stored, at)
	}
	if _, err := readAll(t, l, 0); err != nil {
		t.Fatal(err)
	}
}

func TestTrimKeepsTheLastMessageAndIsLazy(t *testing.T) {
	cfg := config(t, 1<<20)
	l := mustOpen(t, cfg)
	for i := range 300 {
		mustAppend(t, l, "orders", body(i, 1000))
	}
	must(t, l.Trim(context.Background(), l.Last()))
	if l.First() != schemas.NewPosition(1, 1) {
		t.Fatalf("trimmed to %s although the log is not filled", l.First())
	}
	if err := l.Trim(context.Background(), l.Last()+1); err == nil {
		t.Fatal("trimmed beyond the end")
	}
	must(t, l.trim(context.Background(), schemas.NewPosition(1, 120), 0, 0))
	if l.First() != schemas.NewPosition(1, 121) {
		t.Fatalf("first is %s", l.First())
	}
	must(t, l.trim(context.Background(), l.Last(), 0, 0))
	if l.First() != schemas.NewPosition(1, 301) || l.Last() != l.First() {
		t.Fatalf("%s to %s is left", l.First(), l.Last())
	}
	must(t, l.Close())
	again := mustOpen(t, cfg)
	if again.First() != schemas.NewPosition(1, 301) || again.Last() != again.First() {
		t.Fatalf("%s to %s after a restart", again.First(), again.Last())
	}
	if at := mustAppend(t, again, "orders", nil); at != schemas.NewPosition(1, 302) {
		t.Fatalf("the next is %s", at)
	}
}

func TestMessagesLargerThanTheLimitAreRefused(t *testing.T) {
	l := mustOpen(t, config(t, 64<<20))
	if _, err := l.Append(context.Background(), "orders", make([]byte, MaxEnvelope+1)); !errors.Is(err, ErrTooLarge) {
		t.Fatal(err)
	}
	at := mustAppend(t, l, "orders", make([]byte, MaxEnvelope))
	all, err := readAll(t, l, at-1)
	if err != nil || len(all) != 1 || len(all[0].Data) != MaxEnvelope {
		t.Fatalf("%d messages, %v", len(all), err)
	}
}

func TestInvalidNamesAreRefused(t *testing.T) {
	l := mustOpen(t, config(t, 1<<20))
	d := NewAppender(l, nil)
	defer d.Close()
	for _, name := range []string{"", ">", "*", "a.b", "../x", "A", "a b", "a\x00", "é", string(make([]byte, 64<<10)), "orders.>"} {
		var wrong *RequestError
		if _, err := l.Append(context.Background(), name, nil); !errors.As(err, &wrong) {
			t.Errorf("stream %.20q: %v", name, err)
		}
		if _, err := l.Control(context.Background(), name, nil); !errors.As(err, &wrong) {
			t.Errorf("kind %.20q: %v", name, err)
		}
		if _, err := d.Append(context.Background(), Request{Stream: name, Records: [][]byte{{}}}); !errors.As(err, &wrong) {
			t.Errorf("appender, stream %.20q: %v", name, err)
		}
	}
	if _, err := l.Control(context.Background(), beginKind, nil); err == nil {
		t.Error("a second begin record was stored")
	}
}

// The first sign of a full disk is an answer that does not come. The error of a
// refused publish must be the present cause, which the repair found.
func TestARefusalNamesWhatTheRepairWaitsFor(t *testing.T) {
	cfg := config(t, 1<<20)
	l := mustOpen(t, cfg)
	obstacle := filepath.Join(cfg.Dir, "probe.tmp")
	must(t, os.Mkdir(obstacle, 0o700))
	defer failAt("eventlog.publish.synced", errors.New("a first cause"))()
	var err error
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if _, err = l.Append(context.Background(), "orders", []byte("a")); errors.Is(err, ErrUnavailable) && strings.Contains(err.Error(), "probe.tmp") {
			break
		}
	}
	if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "probe.tmp") {
		t.Fatal(err)
	}
	must(t, os.Remove(obstacle))
	for end := time.Now().Add(10 * time.Second); err != nil && time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		_, err = l.Append(context.Background(), "orders", []byte("a"))
	}
	must(t, err)
}
