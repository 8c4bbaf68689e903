package eventlog

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"duet/schemas"
)

// A log that is full of messages that can be trimmed is healthy: they are kept to
// repair the archive.
func TestHealthDegradesByWhatCannotBeTrimmed(t *testing.T) {
	cfg := config(t, 1<<20)
	l := mustOpen(t, cfg)
	ctx := context.Background()
	var last schemas.Position
	n := 0
	fillTo := func(percent int64) {
		t.Helper()
		for used, limit := l.Usage(); used*100 < limit*percent; used, _ = l.Usage() {
			last = mustAppend(t, l, "orders", body(n, 1000))
			n++
		}
	}
	want := func(level Level, words ...string) {
		t.Helper()
		got, why := l.Health()
		if got != level || slices.ContainsFunc(words, func(s string) bool { return !strings.Contains(why, s) }) {
			t.Fatalf("health is %s (%s), want %s %q", got, why, level, words)
		}
	}
	fillTo(48)
	want(OK)
	fillTo(52)
	want(Degraded, "52% of the log's limit", "not archived yet", "limits.log")
	must(t, l.Trim(ctx, last))
	want(OK)
	if used, limit := l.Usage(); used*2 < limit {
		t.Fatalf("%d of %d bytes are used: a trim below 70%% dropped something", used, limit)
	}
	fillTo(89)
	want(OK)
	must(t, l.Close())
	l = mustOpen(t, cfg) // the sizes come from the block files
	want(Degraded, "89% of the log's limit")
	must(t, l.Trim(ctx, l.First()+10)) // the archive is that far; most cannot be trimmed
	want(Degraded)
	must(t, l.Trim(ctx, last))
	want(OK)
}

func TestALogThatFillsUpCallsFillingOnce(t *testing.T) {
	cfg := config(t, 1<<20)
	called := make(chan struct{}, 100)
	cfg.Filling = func() { called <- struct{}{} }
	l := mustOpen(t, cfg)
	must(t, l.Trim(context.Background(), 0)) // nothing is archived
	n := 0
	fillTo := func(percent int64) (last schemas.Position) {
		t.Helper()
		for used, limit := l.Usage(); used*100 < limit*percent; used, _ = l.Usage() {
			last = mustAppend(t, l, "orders", body(n, 1000))
			n++
		}
		return last
	}
	wantCalls := func(want int) {
		t.Helper()
		l.checkFilling() // as background does each second
		for range want {
			select {
			case <-called:
			case <-time.After(10 * time.Second):
				t.Fatal("Filling was not called")
			}
		}
		if len(called) != 0 {
			t.Fatal("Filling was called too often")
		}
	}
	fillTo(38)
	wantCalls(0)
	fillTo(42)
	wantCalls(1)
	last := fillTo(47)
	wantCalls(0)
	must(t, l.Trim(context.Background(), last)) // archived
	wantCalls(0)
	fillTo(85)
	wantCalls(0)
	fillTo(88)
	wantCalls(1)
}

// The process must end with a sentence, not go on writing to files that have no
// name any more.
func TestALogWhoseFolderVanishesEnds(t *testing.T) {
	for name, vanish := range map[string]func(t *testing.T, dir string){
		"deleted":        func(t *testing.T, dir string) { must(t, os.RemoveAll(dir)) },
		"moved":          func(t *testing.T, dir string) { must(t, os.Rename(dir, dir+".moved")) },
		"blocks deleted": func(t *testing.T, dir string) { must(t, os.RemoveAll(blocksPath(dir))) },
		"replaced by copy": func(t *testing.T, dir string) {
			old := copyDir(t, dir)
			must(t, os.RemoveAll(dir))
			must(t, os.Rename(old, dir))
		},
	} {
		for _, idle := range []bool{true, false} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				cfg := config(t, 1<<20)
				cfg.Dir = filepath.Join(cfg.Dir, "log")
				l := mustOpen(t, cfg)
				last := mustAppend(t, l, "orders", body(0, 10))
				r, err := l.Read(context.Background(), last)
				must(t, err)
				defer r.Close()
				vanish(t, cfg.Dir)
				ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
				defer cancel()
				if !idle {
					for err == nil {
						_, err = l.Append(ctx, "orders", body(1, 10))
					}
				}
				for err = nil; err == nil; {
					_, err = r.Next(ctx)
				}
				if !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), cfg.Dir) || !strings.Contains(err.Error(), "deleted, moved or replaced") {
					t.Fatalf("reading: %v", err)
				}
				if _, err := l.Append(ctx, "orders", nil); !errors.Is(err, ErrMissing) {
					t.Fatalf("appending: %v", err)
				}
				if level, why := l.Health(); level != Refusing || !strings.Contains(why, "deleted, moved or replaced") {
					t.Fatalf("health is %s: %s", level, why)
				}
			})
		}
	}
}

func TestAnEmptyFolderIsRefusedWhereALogMustExist(t *testing.T) {
	cfg := config(t, 1<<20)
	cfg.Existing = true
	wantRefused(t, cfg, ErrMissing, cfg.Dir, "project shop")
	if files, err := os.ReadDir(cfg.Dir); err != nil || len(files) != 0 {
		t.Fatalf("the refused folder holds %d files, %v", len(files), err)
	}
	cfg.Existing = false
	must(t, mustOpen(t, cfg).Close())
	cfg.Existing = true
	mustOpen(t, cfg)
}
