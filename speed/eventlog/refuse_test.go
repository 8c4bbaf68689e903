package eventlog

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"duet/schemas"
	"duet/schemas/event"
)

// smallBlocks is a byte limit for which the server makes blocks of 32 kB.
const smallBlocks = 120_000

// filled returns the configuration of a closed log with n events of 1,000 bytes in
// small blocks.
func filled(t testing.TB, n int) Config {
	t.Helper()
	cfg := config(t, smallBlocks)
	fill(t, cfg, n)
	return cfg
}

func fill(t testing.TB, cfg Config, n int) {
	t.Helper()
	l, err := Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		mustAppend(t, l, "orders", body(i, 1000))
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func copyDir(t testing.TB, from string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return to
}

func blockDir(dir string) string { return blocksPath(dir) }

func blockFiles(t testing.TB, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(blockDir(dir), "*.blk"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no block files: %v", err)
	}
	return files
}

// wantRefused checks that Open fails, twice, with an error of a kind that contains
// words: a refused log must stay refused.
func wantRefused(t *testing.T, cfg Config, kind error, words ...string) {
	t.Helper()
	for range 2 {
		l, err := Open(context.Background(), cfg)
		if err == nil {
			l.Close()
			t.Fatalf("opened, want %v", kind)
		}
		if !errors.Is(err, kind) {
			t.Fatalf("error %v, want %v", err, kind)
		}
		for _, s := range words {
			if !strings.Contains(err.Error(), s) {
				t.Fatalf("error %q does not contain %q", err, s)
			}
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestALogThatIsNotTheSameIsRefused(t *testing.T) {
	t.Run("store is gone", func(t *testing.T) {
		cfg := filled(t, 10)
		must(t, os.RemoveAll(storePath(cfg.Dir)))
		wantRefused(t, cfg, ErrMissing, "no stream", "Restore", cfg.Dir)
	})
	t.Run("stream's messages are gone", func(t *testing.T) {
		cfg := filled(t, 10)
		must(t, os.RemoveAll(blockDir(cfg.Dir)))
		wantRefused(t, cfg, ErrBehind, "1:11", "Restore")
	})
	t.Run("incarnation file is gone", func(t *testing.T) {
		cfg := filled(t, 10)
		must(t, os.Remove(incarnationPath(cfg.Dir)))
		wantRefused(t, cfg, ErrMissing, "incarnation.json", "Restore")
	})
	t.Run("all but the mark is gone", func(t *testing.T) {
		cfg := filled(t, 10)
		must(t, os.Remove(incarnationPath(cfg.Dir)))
		must(t, os.RemoveAll(storePath(cfg.Dir)))
		wantRefused(t, cfg, ErrMissing)
	})
	t.Run("incarnation file is torn", func(t *testing.T) {
		cfg := filled(t, 10)
		must(t, os.Truncate(incarnationPath(cfg.Dir), 20))
		l, err := Open(context.Background(), cfg)
		if err == nil {
			l.Close()
			t.Fatal("opened")
		}
		if !strings.Contains(err.Error(), "incarnation.json") || !strings.Contains(err.Error(), "Restore") {
			t.Fatal(err)
		}
	})
	t.Run("recreated", func(t *testing.T) {
		cfg, other := filled(t, 10), filled(t, 20)
		must(t, os.RemoveAll(storePath(cfg.Dir)))
		must(t, os.Rename(storePath(other.Dir), storePath(cfg.Dir)))
		wantRefused(t, cfg, ErrRecreated, "Restore")
	})
	t.Run("older copy put back", func(t *testing.T) {
		cfg := filled(t, 10)
		old := copyDir(t, storePath(cfg.Dir))
		fill(t, cfg, 7)
		must(t, os.RemoveAll(storePath(cfg.Dir)))
		must(t, os.Rename(old, storePath(cfg.Dir)))
		wantRefused(t, cfg, ErrBehind, "1:11", "1:18")
	})
	t.Run("older copy that went on", func(t *testing.T) {
		cfg := filled(t, 10)
		old := copyDir(t, cfg.Dir)
		fill(t, cfg, 7)
		oldCfg := cfg
		oldCfg.Dir = old
		l, err := Open(context.Background(), oldCfg)
		must(t, err)
		for i := range 30 {
			mustAppend(t, l, "orders", body(i+1, 5))
		}
		must(t, l.Close())
		must(t, os.RemoveAll(storePath(cfg.Dir)))
		must(t, os.Rename(storePath(old), storePath(cfg.Dir)))
		wantRefused(t, cfg, ErrDiffers, "1:18", "checksum")
	})
	t.Run("mark of another log", func(t *testing.T) {
		cfg, other := filled(t, 10), filled(t, 10)
		must(t, os.Rename(highPath(other.Dir), highPath(cfg.Dir)))
		wantRefused(t, cfg, ErrDiffers)
	})
	t.Run("another project", func(t *testing.T) {
		cfg := filled(t, 10)
		cfg.Project = "bank"
		wantRefused(t, cfg, ErrDiffers, "shop", "bank")
	})
	t.Run("a middle block is gone", func(t *testing.T) {
		cfg := filled(t, 90)
		must(t, os.Remove(filepath.Join(blockDir(cfg.Dir), "2.blk")))
		wantRefused(t, cfg, ErrDamaged, "missing", "Restore")
	})
	t.Run("the newest block is gone", func(t *testing.T) {
		cfg := filled(t, 90)
		must(t, os.Remove(filepath.Join(blockDir(cfg.Dir), fmt.Sprintf("%d.blk", len(blockFiles(t, cfg.Dir))))))
		wantRefused(t, cfg, ErrDamaged, "to 1:91", "missing")
	})
}

func TestAMissingOldestBlockIsAGap(t *testing.T) {
	cfg := filled(t, 90)
	must(t, os.Remove(filepath.Join(blockDir(cfg.Dir), "1.blk")))
	l, err := Open(context.Background(), cfg)
	var gap *GapError
	if err == nil { // the store looks trimmed; reading from the start fails
		defer l.Close()
		if l.First() == schemas.NewPosition(1, 1) {
			t.Fatal("nothing is missing")
		}
		_, err = l.Read(context.Background(), 0)
	}
	if !errors.As(err, &gap) || gap.From != schemas.NewPosition(1, 1) {
		t.Fatalf("got %v, want a gap from 1:1", err)
	}
}

func TestALogBehindTheArchiveIsRefused(t *testing.T) {
	l := mustOpen(t, config(t, 1<<20))
	for i := range 5 {
		mustAppend(t, l, "orders", body(i, 10))
	}
	for _, seq := range []uint64{0, 1, 5, 6} {
		must(t, l.CheckBehind(schemas.NewPosition(1, seq)))
	}
	must(t, l.CheckBehind(0))
	for _, at := range []schemas.Position{schemas.NewPosition(1, 7), schemas.NewPosition(2, 1)} {
		if err := l.CheckBehind(at); !errors.Is(err, ErrBehind) {
			t.Errorf("archive at %s: %v", at, err)
		}
		if _, err := l.Read(context.Background(), at); !errors.Is(err, ErrBehind) {
			t.Errorf("reading behind %s: %v", at, err)
		}
	}
	must(t, l.CheckCut(schemas.NewCut(l.Incarnation(), schemas.NewPosition(1, 6))))
	other := l.Incarnation()
	other.ID = "another"
	if err := l.CheckCut(schemas.NewCut(other, schemas.NewPosition(1, 2))); !errors.Is(err, ErrRecreated) {
		t.Errorf("cut of another log: %v", err)
	}
}

func TestRenewBeginsANewLogAndReturnsWhatIsLost(t *testing.T) {
	cfg := filled(t, 60)
	l := mustOpen(t, cfg)
	records := [][]byte{[]byte("{}"), []byte("{}")}
	at := mustAppend(t, l, "orders", event.AppendEnvelope(nil, "orders", []event.Run{{Count: 2}}, records))
	must(t, l.Close())
	if at != schemas.NewPosition(1, 62) {
		t.Fatal(at)
	}
	must(t, os.Remove(filepath.Join(blockDir(cfg.Dir), "2.blk")))
	wantRefused(t, cfg, ErrDamaged, "duet log adopt")
	archived := schemas.NewPosition(1, 8)
	loss, err := Lost(cfg, archived, 0)
	must(t, err)
	if loss.Ordinal != 2 || loss.Known != at || loss.Archived != archived || loss.Events != 2 || loss.Messages < 20 || loss.Messages >= 54 {
		t.Fatalf("loss %+v", loss)
	}
	ad, err := Renew(context.Background(), cfg, loss)
	must(t, err)
	if ad.Ordinal != 2 || ad.Continues != archived || ad.GivenUp != at {
		t.Fatalf("%+v", ad)
	}
	if _, err := os.Stat(loss.Store); err != nil {
		t.Fatalf("the lost store: %v", err)
	}
	l = mustOpen(t, cfg)
	if l.Incarnation() != ad.Incarnation || *l.Adoption() != ad || l.Continues() != archived || l.Last() != schemas.NewPosition(2, 1) {
		t.Fatalf("%+v continues %s, last %s", l.Incarnation(), l.Continues(), l.Last())
	}
	at = mustAppend(t, l, "orders", []byte("x"))
	all, err := readAll(t, l, archived)
	if err != nil || len(all) != 2 || all[1].At != at {
		t.Fatalf("%d messages, %v", len(all), err)
	}
	var gap *GapError
	if _, err := l.Read(context.Background(), archived-1); !errors.As(err, &gap) || gap.From != archived || gap.Through != archived {
		t.Fatalf("reading behind 1:7: %v", err)
	}
	if _, err := l.Read(context.Background(), 0); !errors.As(err, &gap) {
		t.Fatalf("reading everything: %v", err)
	}
	must(t, l.Close())
	must(t, os.RemoveAll(cfg.Dir)) // nothing is left
	if loss, err := Lost(cfg, archived, 2); err != nil || loss != (Loss{Archived: archived, Ordinal: 3}) {
		t.Fatalf("loss %+v, %v", loss, err)
	}
}

func TestAnInterruptedRenewCanBeRepeated(t *testing.T) {
	cfg := filled(t, 20)
	must(t, os.Truncate(filepath.Join(blockDir(cfg.Dir), "1.blk"), 9000))
	archived := schemas.NewPosition(1, 2)
	first, err := Lost(cfg, archived, 0)
	must(t, err)
	disarm := failAt("eventlog.begin.record", errors.New("cut short"))
	_, err = Renew(context.Background(), cfg, first)
	disarm()
	if err == nil {
		t.Fatal("Renew was not interrupted")
	}
	wantRefused(t, cfg, ErrRecreated, "duet log adopt")
	second, err := Lost(cfg, archived, 0)
	must(t, err)
	if second.Ordinal != first.Ordinal || second.Messages != first.Messages || second.Known <= archived || second.Store == first.Store {
		t.Fatalf("the second try gives up %+v, the first %+v", second, first)
	}
	ad, err := Renew(context.Background(), cfg, second)
	must(t, err)
	if l := mustOpen(t, cfg); l.Incarnation() != ad.Incarnation || l.Continues() != archived {
		t.Fatalf("%+v", l.Incarnation())
	}
	if _, err := os.Stat(first.Store); err != nil {
		t.Fatalf("the lost store: %v", err)
	}
}

func TestAnInterruptedCreationIsCompleted(t *testing.T) {
	for _, point := range []string{"eventlog.begin.created", "eventlog.begin.record"} {
		cfg := config(t, 1<<20)
		disarm := failAt(point, errors.New("cut short"))
		if l, err := Open(context.Background(), cfg); err == nil {
			l.Close()
			t.Fatalf("%s: opened", point)
		}
		disarm()
		l := mustOpen(t, cfg)
		mustAppend(t, l, "orders", []byte("x"))
		if all, err := readAll(t, l, 0); err != nil || len(all) != 2 || all[0].Control != beginKind {
			t.Fatalf("%s: %d messages, %v", point, len(all), err)
		}
	}
}
