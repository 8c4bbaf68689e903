package durable_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"duet/internal/base/durable"
	"duet/internal/test/durabletest"
)

// seed returns a new seed, or DUET_SEED to repeat a run.
func seed(t *testing.T) uint64 {
	s := uint64(time.Now().UnixNano())
	if v := os.Getenv("DUET_SEED"); v != "" {
		fmt.Sscan(v, &s)
	}
	t.Logf("seed %d (repeat with DUET_SEED=%d)", s, s)
	return s
}

type doc struct{ N int }

func TestPublishLetsOneOfManyWritersWin(t *testing.T) {
	dir := t.TempDir()
	s, err := durable.NewSeries(durable.OS, filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	for number := uint64(1); number <= 5; number++ {
		var wg sync.WaitGroup
		won := make(chan int, 64)
		for w := range 64 {
			wg.Go(func() {
				switch err := s.Publish(number, doc{w}); {
				case err == nil:
					won <- w
				case !errors.Is(err, durable.ErrExists):
					t.Error(err)
				}
			})
		}
		wg.Wait()
		close(won)
		winner, ok := <-won
		if _, second := <-won; !ok || second {
			t.Fatalf("number %d: want exactly one winner", number)
		}
		var got doc
		if err := s.Read(number, &got); err != nil || got.N != winner {
			t.Fatalf("number %d holds %v (%v); writer %d won", number, got, err, winner)
		}
	}
	entries, err := os.ReadDir(filepath.Join(dir, "s"))
	if err != nil || len(entries) != 6 { // five numbers and floor.json
		t.Errorf("%d files, %v", len(entries), err)
	}
}

// fenceless is a file system whose link overwrites, as a rename does. Without the
// exclusive step both writers of one number succeed.
type fenceless struct{ durable.FS }

func (f fenceless) Link(oldpath, newpath string) error {
	os.Remove(newpath)
	return f.FS.Link(oldpath, newpath)
}

func TestWithoutTheExclusiveLinkTwoWritersWin(t *testing.T) {
	dir := t.TempDir()
	won := 0
	for w := range 2 {
		s, err := durable.NewSeries(durable.New(fenceless{durable.System}), dir)
		if err != nil {
			t.Fatal(err)
		}
		if s.Publish(1, doc{w}) == nil {
			won++
		}
	}
	if won != 2 {
		t.Fatal("the test of the fence could not have failed")
	}
}

func TestNamesNeverMeet(t *testing.T) {
	var mu sync.Mutex
	seen := map[string]bool{}
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for range 100 {
				n := durable.Name()
				mu.Lock()
				if seen[n] || len(n) != 26 {
					t.Errorf("name %q", n)
				}
				seen[n] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
}

func TestAdoptDoesNotOverwrite(t *testing.T) {
	dir := t.TempDir()
	tmp, final := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	os.WriteFile(tmp, []byte("new"), 0o644)
	os.WriteFile(final, []byte("old"), 0o644)
	if _, err := durable.OS.Adopt(tmp, final); !errors.Is(err, durable.ErrExists) {
		t.Fatalf("adopting over a file: %v", err)
	}
	if b, _ := os.ReadFile(final); string(b) != "old" {
		t.Fatalf("final holds %q", b)
	}
	other := filepath.Join(dir, "c")
	sum, err := durable.OS.Adopt(tmp, other)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := durable.SumFile(other); err != nil || again != sum || sum != durable.SumBytes([]byte("new")) {
		t.Errorf("sum %v, read again %v (%v)", sum, again, err)
	}
	if _, err := os.Stat(tmp); err == nil {
		t.Error("the temporary name is still there")
	}
}

// Every single flipped bit, and every truncation, of a sealed file is detected.
func TestSealShowsEveryFlippedBitAndEveryTruncation(t *testing.T) {
	type content struct {
		Name  string            `json:"name"`
		Sums  map[string]string `json:"sums"`
		Count int64             `json:"count"`
	}
	data, err := durable.Seal(content{"orders <é>", map[string]string{"price": "12.50", "a": "1"}, 1 << 60})
	if err != nil {
		t.Fatal(err)
	}
	if !json.Valid(data) {
		t.Fatalf("not JSON:\n%s", data)
	}
	var c content
	if err := durable.Unseal("f", data, &c); err != nil || c.Count != 1<<60 {
		t.Fatalf("unsealed %+v: %v", c, err)
	}
	for i := range data {
		for bit := range 8 {
			bad := append([]byte(nil), data...)
			bad[i] ^= 1 << bit
			var damage *durable.DamageError
			if err := durable.Unseal("f", bad, new(content)); !errors.As(err, &damage) || damage.Path != "f" {
				t.Fatalf("bit %d of byte %d flipped: %v\n%s", bit, i, err, bad)
			}
		}
		if err := durable.Unseal("f", data[:i], new(content)); err == nil {
			t.Fatalf("the first %d of %d bytes passed", i, len(data))
		}
	}
}

func TestSeriesSeesThatItsNewestFileIsGone(t *testing.T) {
	s, err := durable.NewSeries(durable.OS, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for n := uint64(1); n <= 3; n++ {
		if err := s.Publish(n, doc{int(n)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Remove(1); err != nil {
		t.Fatal(err)
	}
	if n, err := s.Latest(); err != nil || n != 3 {
		t.Fatalf("latest %d, %v", n, err)
	}
	if held, err := s.Holds(3, doc{3}); err != nil || !held {
		t.Errorf("3 does not hold its document: %v", err)
	}
	if held, err := s.Holds(3, doc{4}); err != nil || held {
		t.Errorf("3 holds another document: %v", err)
	}
	os.Remove(s.Path(3))
	var damage *durable.DamageError
	if n, err := s.Latest(); !errors.As(err, &damage) || damage.Path != s.Path(3) {
		t.Errorf("newest file gone: latest %d, %v", n, err)
	}
}

// history publishes, adopts, replaces and removes files through f. It calls done
// with a check that must hold after any later power cut.
func history(f *durable.Files, root string, done func(check func(root string) error)) error {
	s, err := durable.NewSeries(f, filepath.Join(root, "deep", "series"))
	if err != nil {
		return err
	}
	data := filepath.Join(root, "data")
	if err := f.MkdirAll(data); err != nil {
		return err
	}
	for n := 1; n <= 4; n++ {
		body := []byte(strings.Repeat(fmt.Sprint(n), 100))
		tmp := filepath.Join(data, "x.tmp-"+durable.Name())
		if err := os.WriteFile(tmp, body, 0o644); err != nil { // as DuckDB does: unsynced
			return err
		}
		name := fmt.Sprintf("f%d", n)
		if _, err := f.Adopt(tmp, filepath.Join(data, name)); err != nil {
			return err
		}
		if err := s.Publish(uint64(n), doc{n}); err != nil {
			return err
		}
		if err := f.WriteFile(filepath.Join(root, "state"), body); err != nil {
			return err
		}
		done(func(root string) error {
			return verify(root, n)
		})
	}
	return nil
}

// verify checks that the series is readable, holds at least atLeast numbers,
// and that each number's file exists with its bytes.
func verify(root string, atLeast int) error {
	s, err := durable.NewSeries(durable.OS, filepath.Join(root, "deep", "series"))
	if err != nil {
		return err
	}
	latest, err := s.Latest()
	if err != nil {
		return err
	}
	if int(latest) < atLeast {
		return fmt.Errorf("latest is %d; %d was published durably", latest, atLeast)
	}
	for n := 1; n <= int(latest); n++ {
		var d doc
		if err := s.Read(uint64(n), &d); err != nil || d.N != n {
			return fmt.Errorf("number %d holds %v: %w", n, d, err)
		}
		b, err := os.ReadFile(filepath.Join(root, "data", fmt.Sprintf("f%d", n)))
		if err != nil || string(b) != strings.Repeat(fmt.Sprint(n), 100) {
			return fmt.Errorf("number %d names a file with %q: %w", n, b, err)
		}
	}
	state, err := os.ReadFile(filepath.Join(root, "state"))
	if atLeast > 0 && (err != nil || len(state) != 100 || int(state[0]-'0') < atLeast) {
		return fmt.Errorf("state is %q (%w) after %d was written durably", state, err, atLeast)
	}
	return nil
}

// A power cut after any operation, keeping any part of the unsynced changes,
// leaves the old or the new state, and keeps everything that was reported done.
func TestPowerCutLeavesOldOrNew(t *testing.T) {
	start := seed(t)
	root := t.TempDir()
	rec := durabletest.NewRecorder(root, durable.System)
	type promise struct {
		at    int
		check func(string) error
	}
	promises := []promise{{0, func(root string) error { return verify(root, 0) }}}
	err := history(durable.New(rec), root, func(check func(string) error) {
		promises = append(promises, promise{rec.Len(), check})
	})
	if err != nil {
		t.Fatal(err)
	}
	cuts := 0
	for n := 0; n <= rec.Len(); n++ {
		for i, keep := range []float64{0, 0.5, 0.5, 0.5, 0.5, 1} {
			dst := t.TempDir()
			if err := rec.Crash(dst, n, keep, start+uint64(i)); err != nil {
				t.Fatal(err)
			}
			p := promises[0]
			for _, q := range promises {
				if q.at <= n {
					p = q
				}
			}
			if err := p.check(dst); err != nil {
				t.Fatalf("cut after operation %d, %v of the unsynced kept, seed %d: %v\n%s", n, keep, start+uint64(i), err, rec.Trace())
			}
			cuts++
			os.RemoveAll(dst)
		}
	}
	t.Logf("%d cuts over %d operations", cuts, rec.Len())
}

// forgetful is a file system that never syncs directories. It proves that the
// power-cut test can fail.
type forgetful struct{ durable.FS }

func (forgetful) SyncDir(string) error { return nil }

func TestPowerCutFindsAMissingDirectorySync(t *testing.T) {
	root := t.TempDir()
	rec := durabletest.NewRecorder(root, durable.System)
	last := func(string) error { return nil }
	if err := history(durable.New(forgetful{rec}), root, func(c func(string) error) { last = c }); err != nil {
		t.Fatal(err)
	}
	dst := t.TempDir()
	if err := rec.Crash(dst, rec.Len(), 0, 1); err != nil {
		t.Fatal(err)
	}
	if last(dst) == nil {
		t.Fatal("nothing was lost by a power cut without directory syncs")
	}
}

// For every n, a failure of the n-th operation gives an error and never a torn
// state, and the next attempt succeeds.
func TestEveryFailingOperationLeavesOldOrNew(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EIO} {
		for n := 1; ; n++ {
			root, ops := t.TempDir(), 0
			disk := &durabletest.Faulty{Inner: durable.System, Fail: func(op, path string) error {
				if ops++; ops == n {
					return errno
				}
				return nil
			}}
			reached := 0
			err := history(durable.New(disk), root, func(func(string) error) { reached++ })
			if ops < n {
				if err != nil {
					t.Fatal(err)
				}
				break
			}
			// Removing a temporary file and raising the floor ignore errors.
			if err != nil && !errors.Is(err, errno) {
				t.Fatalf("operation %d fails with %v: the error is %v", n, errno, err)
			}
			if verr := verify(root, reached); verr != nil && reached > 0 {
				t.Fatalf("operation %d fails with %v (%v): %v", n, errno, err, verr)
			}
		}
	}
}

func TestRemoveTempsLeavesWhatIsDone(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a.json", durable.TempName("a.json"), durable.TempName("b.json")} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		prefix string
		left   int
	}{{"a.", 2}, {"", 1}} {
		if err := durable.OS.RemoveTemps(dir, c.prefix); err != nil {
			t.Fatal(err)
		}
		if entries, _ := os.ReadDir(dir); len(entries) != c.left {
			t.Errorf("%d files are left after prefix %q, want %d", len(entries), c.prefix, c.left)
		}
	}
}

func TestRemoveAllTakesATreeAway(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "run")
	if err := durable.OS.MkdirAll(filepath.Join(dir, "a", "b")); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"x", "a/y", "a/b/z"} {
		if err := durable.OS.WriteFile(filepath.Join(dir, p), []byte(p)); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // the second time there is nothing to do
		if err := durable.OS.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("the directory is still there")
	}
}

func TestRandomGarbageIsNotUnsealed(t *testing.T) {
	s := seed(t)
	rng := rand.New(rand.NewPCG(s, 1))
	for range 1000 {
		b := make([]byte, rng.IntN(200))
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		if err := durable.Unseal("f", b, new(doc)); err == nil {
			t.Fatalf("unsealed %q", b)
		}
	}
}
