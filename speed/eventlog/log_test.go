package eventlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"testing"

	"go.uber.org/goleak"

	"duet/schemas"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		os.Exit(child(dir))
	}
	goleak.VerifyTestMain(m)
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func config(t testing.TB, limit int64) Config {
	return Config{Dir: t.TempDir(), Project: "shop", MaxBytes: limit, Logger: quiet()}
}

func mustOpen(t testing.TB, cfg Config) *Log {
	t.Helper()
	l, err := Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return l
}

func mustAppend(t testing.TB, l *Log, stream string, body []byte) schemas.Position {
	t.Helper()
	at, err := l.Append(context.Background(), stream, body)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// readAll returns the messages behind a position.
func readAll(t testing.TB, l *Log, after schemas.Position) ([]Message, error) {
	t.Helper()
	r, err := l.Read(context.Background(), after)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var all []Message
	for {
		m, ok, err := r.TryNext()
		if err != nil || !ok {
			return all, err
		}
		all = append(all, m)
	}
}

func body(i, size int) []byte {
	return append(fmt.Appendf(nil, "%d:", i), bytes.Repeat([]byte{byte(i)}, size)...)
}

func TestWhatIsAppendedIsReadInOrderAcrossRestarts(t *testing.T) {
	cfg := config(t, 64<<20)
	l := mustOpen(t, cfg)
	inc := l.Incarnation()
	if l.First() != schemas.NewPosition(1, 1) || l.Last() != schemas.NewPosition(1, 1) {
		t.Fatalf("a new log holds %s to %s, want its begin record only", l.First(), l.Last())
	}
	for i := range 50 {
		if at := mustAppend(t, l, "orders", body(i, i*100)); at != schemas.NewPosition(1, uint64(i+2)) {
			t.Fatalf("event %d is at %s", i, at)
		}
	}
	cut, err := l.Control(context.Background(), "cut", []byte("C"))
	if err != nil {
		t.Fatal(err)
	}
	check := func(l *Log) {
		t.Helper()
		all, err := readAll(t, l, 0)
		if err != nil {
			t.Fatal(err)
		}
		if len(all) != 52 || all[0].Control != beginKind || all[51].Control != "cut" || all[51].At != cut || string(all[51].Data) != "C" {
			t.Fatalf("%d messages, first %q, last %+v", len(all), all[0].Control, all[len(all)-1])
		}
		for i, m := range all[1:51] {
			if m.Stream != "orders" || !bytes.Equal(m.Data, body(i, i*100)) || m.Time.IsZero() || m.At != schemas.NewPosition(1, uint64(i+2)) {
				t.Fatalf("message %d: %s %s %d bytes", i, m.At, m.Stream, len(m.Data))
			}
		}
		some, err := readAll(t, l, schemas.NewPosition(1, 30))
		if err != nil || len(some) != 22 || some[0].At != schemas.NewPosition(1, 31) {
			t.Fatalf("behind 1:30: %d messages, %v", len(some), err)
		}
	}
	check(l)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(context.Background(), "orders", nil); !errors.Is(err, ErrClosed) {
		t.Fatalf("append after close: %v", err)
	}
	again := mustOpen(t, cfg)
	if again.Incarnation() != inc {
		t.Fatalf("incarnation %+v became %+v", inc, again.Incarnation())
	}
	check(again)
}
