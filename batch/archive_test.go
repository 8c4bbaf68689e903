package batch_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"duet/batch"
	"duet/batch/archive"
	"duet/batch/batchtest"
	"duet/internal/base/duck"
	"duet/internal/base/durable"
	"duet/internal/base/failpoint"
	"duet/internal/test/durabletest"
	"duet/schemas"
)

// lastBlock puts a cut marker in the log and returns the end of its last block.
func (s *system) lastBlock() schemas.Position {
	cut, err := s.world.Cut(context.Background())
	if err != nil {
		panic(err)
	}
	return cut.Position()
}

// mustArchive commits every block up to a new cut marker.
func (s *system) mustArchive(t testing.TB) {
	t.Helper()
	if err := s.archiveAll(); err != nil {
		t.Fatal(err)
	}
}

func (s *system) archiveAll() error {
	at := s.lastBlock()
	for s.archive.Through() < at {
		b, err := s.world.NextBlock(context.Background())
		if err != nil {
			return err
		}
		if err := s.archive.CommitBlock(context.Background(), s.world, b); err != nil {
			return err
		}
	}
	return nil
}

// checkArchive compares the archive's totals with the world's, and checks that
// every accepted row is there once, in order.
func (s *system) checkArchive() error {
	m := s.archive.Snapshot()
	defer m.Release()
	want, err := s.world.Counted(0, m.Through.Position())
	if err != nil {
		return err
	}
	if d := want[batchtest.Stream].Differences(m.Streams[batchtest.Stream]); len(d) > 0 {
		return fmt.Errorf("totals of the world and the archive through %s differ: %v", m.Through, d)
	}
	relation, err := m.Relation(context.Background(), batchtest.Stream, 0, m.Through.Position())
	if err != nil || relation == "" {
		return err
	}
	db, err := duck.Open(duck.Config{})
	if err != nil {
		return err
	}
	defer db.Close()
	var rows, distinct int64
	var misplaced bool
	err = db.QueryRow("SELECT count(*), count(DISTINCT (_duet_at, _duet_record)), coalesce(bool_or(before > _duet_at), false) FROM (SELECT *, lag(_duet_at) OVER () AS before FROM "+relation+")").Scan(&rows, &distinct, &misplaced)
	if err != nil {
		return err
	}
	if rows != want[batchtest.Stream].Accepted || distinct != rows || misplaced {
		return fmt.Errorf("%d rows, %d positions, out of order %t; %d events accepted", rows, distinct, misplaced, want[batchtest.Stream].Accepted)
	}
	return nil
}

func TestABlockIsArchivedExactlyOnce(t *testing.T) {
	dir := t.TempDir()
	s, err := open(dir, options{noLoop: true})
	if err != nil {
		t.Fatal(err)
	}
	s.mustAppend(t, 50)
	for _, point := range []string{"archive.exported", "archive.adopted", "archive.manifest", "archive.published", "archive.released", "durable.syncdir:3", "durable.link:2"} {
		disarm, err := failpoint.Arm(point + ":error=ENOSPC")
		if err != nil {
			t.Fatal(err)
		}
		err = s.archiveAll()
		// A directory whose sync failed is synced again, so that may succeed.
		if !errors.Is(err, syscall.ENOSPC) && (err != nil || !strings.HasPrefix(point, "durable.")) {
			t.Fatalf("%s: %v", point, err)
		}
		disarm()
		s.mustArchive(t)
		if err := s.checkArchive(); err != nil {
			t.Fatalf("%s: %v", point, err)
		}
		s.mustAppend(t, 50)
	}
	numbers := s.archive.Current().Number
	s.close()
	s = mustOpen(t, dir, options{noLoop: true})
	if err := s.checkArchive(); err != nil || s.archive.Current().Number != numbers {
		t.Fatalf("after a restart: manifest %d, was %d: %v", s.archive.Current().Number, numbers, err)
	}
	// A block that does not begin at the archive's end is refused.
	var gap *archive.GapError
	err = s.archive.CommitBlock(context.Background(), s.world, archive.Block{From: s.archive.Through() + 1, Through: s.archive.Through() + 2})
	if !errors.As(err, &gap) {
		t.Errorf("a gap: %v", err)
	}
}

func TestArchiveRefusesRowsThatAreNotAccountedFor(t *testing.T) {
	s := mustOpen(t, t.TempDir(), options{noLoop: true})
	s.mustAppend(t, 20)
	b, err := s.world.NextBlock(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	acc := b.Accounts[batchtest.Stream]
	for _, change := range []func(){
		func() { acc.Accepted++; acc.Received++ },
		func() { acc.Rejected++; acc.Received++ },
		func() { acc.Received++ },
		func() { acc.Duplicate++; acc.Received++ },
		func() { acc.Duplicate--; acc.Received-- },
		func() { acc.Rejected = 0; acc.Received -= b.Accounts[batchtest.Stream].Rejected; acc.Accepted-- },
	} {
		was := acc
		change()
		bad := b
		bad.Accounts = map[string]schemas.Account{batchtest.Stream: acc}
		if err := s.archive.CommitBlock(context.Background(), s.world, bad); err == nil {
			t.Errorf("account %+v was archived; it is %+v", acc, was)
		}
		acc = was
	}
	if s.archive.Current().Number != 0 {
		t.Fatal("a manifest was published")
	}
	s.mustArchive(t)
}

// Each operation on the disk fails once, and then succeeds.
func TestAFullDiskLosesNothing(t *testing.T) {
	seed := seedOf(t)
	var ops, fails atomic.Int64 // operations of the archive; the number of the failing one, 0 for none
	disk := &durabletest.Faulty{Inner: durable.System, Fail: func(op, path string) error {
		if strings.Contains(path, "/archive/") && ops.Add(1) == fails.Load() {
			return syscall.ENOSPC
		}
		return nil
	}}
	dir := t.TempDir()
	s, err := open(dir, options{noLoop: true, files: durable.New(disk), world: batchtest.Config{Seed: seed}})
	if err != nil {
		t.Fatal(err)
	}
	ops.Store(0)
	for n := int64(1); n == 1 || ops.Load() >= n-1; n++ {
		s.mustAppend(t, 10)
		at, failures := s.lastBlock(), 0
		ops.Store(0)
		fails.Store(n)
		for s.archive.Through() < at {
			b, err := s.world.NextBlock(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			if err := s.archive.CommitBlock(context.Background(), s.world, b); err != nil {
				if failures++; !errors.Is(err, syscall.ENOSPC) || failures > 1 {
					t.Fatalf("operation %d: %v", n, err)
				}
			}
		}
		if err := s.checkArchive(); err != nil {
			t.Fatalf("operation %d: %v", n, err)
		}
	}
	t.Logf("%d operations", ops.Load())
	s.close()
	s = mustOpen(t, dir, options{noLoop: true, world: batchtest.Config{Seed: seed}})
	if err := s.checkArchive(); err != nil {
		t.Fatal(err)
	}
}

func TestSmallFilesAreMergedAndTheOldOnesCleaned(t *testing.T) {
	seed := seedOf(t)
	dir := t.TempDir()
	s := mustOpen(t, dir, options{noLoop: true, archive: archive.Config{MergeFiles: 3, KeepManifests: 1}, world: batchtest.Config{Seed: seed, Block: 4}})
	ctx := context.Background()
	var held *archive.Snapshot
	for i := range 12 {
		s.mustAppend(t, 4)
		s.mustArchive(t)
		if i == 3 {
			held = s.archive.Snapshot()
		}
		for {
			merged, err := s.archive.MergeOnce(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if !merged {
				break
			}
		}
		if _, err := s.archive.CleanOnce(ctx); err != nil {
			t.Fatal(err)
		}
		if err := s.checkArchive(); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(s.archive.Current().FilesFor(batchtest.Stream, 0, s.archive.Through())); n > 6 {
		t.Errorf("%d files of the stream", n)
	}
	// The files of a snapshot exist until it is released.
	if err := s.archive.Verify(ctx, held.Files); err != nil {
		t.Fatal(err)
	}
	held.Release()
	held.Release()
	for range 3 { // until the snapshot's manifest is not among the kept ones
		s.mustArchive(t)
	}
	if _, err := s.archive.CleanOnce(ctx); err != nil {
		t.Fatal(err)
	}
	left, _ := filepath.Glob(filepath.Join(dir, "archive", "*", "*.parquet"))
	if current := len(s.archive.Current().Files); len(left) > current+6 {
		t.Errorf("%d files are left, %d are named", len(left), current)
	}
	gone := 0
	for _, f := range held.Files {
		if _, err := os.Stat(filepath.Join(dir, "archive", f.Path)); err != nil {
			gone++
		}
	}
	if gone == 0 {
		t.Error("no file of the released snapshot was deleted")
	}
	if err := s.checkArchive(); err != nil {
		t.Fatal(err)
	}
}

// A writer is paused after it wrote its files and before its manifest. A
// successor opens the archive, commits and cleans. Then the first one resumes.
func TestAZombieIsFencedAndItsFilesAreOrphans(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir, options{noLoop: true})
	s.mustAppend(t, 20)
	s.mustArchive(t)
	s.mustAppend(t, 20)
	ctx := context.Background()
	b, err := s.world.NextBlock(ctx)
	if err != nil {
		t.Fatal(err)
	}
	stopped, wake := make(chan struct{}), make(chan struct{})
	var once sync.Once
	disarm := failpoint.On("archive.manifest", 1, func() error {
		once.Do(func() { close(stopped); <-wake })
		return nil
	})
	defer disarm()
	outcome := make(chan error, 1)
	go func() { outcome <- s.archive.CommitBlock(ctx, s.world, b) }()
	<-stopped
	orphans, _ := filepath.Glob(filepath.Join(dir, "archive", batchtest.Stream, "*.parquet"))
	successor, err := archive.Open(ctx, archive.Config{Dir: filepath.Join(dir, "archive"), Incarnation: batchtest.Incarnation, KeepManifests: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer successor.Close()
	heir, err := batchtest.Open(batchtest.Config{Dir: dir}, successor.Through(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer heir.Close()
	if err := successor.CommitBlock(ctx, heir, b); err != nil {
		t.Fatal(err)
	}
	if _, err := successor.CleanOnce(ctx); err != nil {
		t.Fatal(err)
	}
	close(wake)
	var fenced *archive.FencedError
	if err := <-outcome; !errors.As(err, &fenced) {
		t.Fatalf("the zombie's commit: %v", err)
	}
	if err := s.archiveAll(); !errors.As(err, &fenced) {
		t.Fatalf("the zombie's next commit: %v", err)
	}
	if err := s.archive.Wait(ctx, successor.Through()+100); !errors.As(err, &fenced) {
		t.Fatalf("waiting for the zombie: %v", err)
	}
	left, _ := filepath.Glob(filepath.Join(dir, "archive", batchtest.Stream, "*.parquet"))
	named := successor.Current().FilesFor(batchtest.Stream, 0, successor.Through())
	if len(left) != len(named) || len(orphans) != len(named) {
		t.Errorf("%d files before, %d after cleaning, %d named", len(orphans), len(left), len(named))
	}
}

// Of 64 concurrent writers of the same span one wins, and nothing is overwritten.
func TestManyWritersOfOneSpan(t *testing.T) {
	dir := t.TempDir()
	ctx := context.Background()
	s := mustOpen(t, dir, options{noLoop: true})
	s.mustAppend(t, 20)
	b, err := s.world.NextBlock(ctx)
	if err != nil {
		t.Fatal(err)
	}
	const writers = 64
	var archives []*archive.Archive
	for range writers {
		a, err := archive.Open(ctx, archive.Config{Dir: filepath.Join(dir, "archive"), Incarnation: batchtest.Incarnation, Memory: "64MB"})
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		archives = append(archives, a)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	won := 0
	for _, a := range archives {
		wg.Go(func() {
			err := a.CommitBlock(ctx, s.world, b)
			var fenced *archive.FencedError
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				won++
			} else if !errors.As(err, &fenced) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won != 1 {
		t.Fatalf("%d of %d writers won", won, writers)
	}
	last := mustOpen(t, dir, options{noLoop: true})
	if err := last.checkArchive(); err != nil {
		t.Fatal(err)
	}
}

// A flipped bit, a truncation or a missing file is detected before anything is
// answered, or repaired from the log to the same rows.
func TestDamageIsSeenOrRepaired(t *testing.T) {
	seed := seedOf(t)
	rng := rand.New(rand.NewPCG(seed, 7))
	origin := t.TempDir()
	s := mustOpen(t, origin, options{world: batchtest.Config{Seed: seed}, archive: archive.Config{MergeFiles: 1000}})
	for range 3 {
		s.mustAppend(t, 30)
		s.mustRun(t, batch.Request{})
	}
	s.close()
	var files []string // the current data files, and every manifest
	for _, pattern := range []string{"archive/*/*.parquet", "archive/manifest/*.json", "generations/*.json"} {
		found, _ := filepath.Glob(filepath.Join(origin, pattern))
		files = append(files, found...)
	}
	for _, v := range s.catalog.Current().Views {
		files = append(files, s.catalog.Path(v))
	}
	seen, repaired, idle := 0, 0, 0
	for round := range 30 {
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(origin)); err != nil {
			t.Fatal(err)
		}
		victim, err := filepath.Rel(origin, files[rng.IntN(len(files))])
		if err != nil {
			t.Fatal(err)
		}
		how := damage(t, rng, filepath.Join(dir, victim))
		repair := round%2 == 0
		s, err := open(dir, options{world: batchtest.Config{Seed: seed}, repair: repair, noLoop: true})
		what := fmt.Sprintf("round %d, seed %d: %s %s, repair %t", round, seed, victim, how, repair)
		var damaged *durable.DamageError
		if err == nil {
			err = s.archive.Scrub(context.Background(), archive.Mark{}, func(f archive.Scrubbed) error {
				if f.Repaired {
					return nil
				}
				return f.Damage
			})
		}
		switch {
		case err != nil:
			if !errors.As(err, &damaged) || filepath.Base(damaged.Path) != filepath.Base(victim) {
				t.Fatalf("%s: %v", what, err)
			}
			if repair && strings.HasPrefix(victim, "archive/") && strings.HasSuffix(victim, ".parquet") {
				t.Fatalf("%s: not repaired: %v", what, err)
			}
			seen++
		default:
			if err := s.checkArchive(); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			if err := s.world.Check(); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			if s.archive.Current().Kind == archive.Repair {
				repaired++
			} else if !strings.HasSuffix(victim, ".json") && !strings.HasPrefix(victim, "generations/cells") {
				t.Fatalf("%s: not detected", what)
			} else {
				idle++ // a file of an older number
			}
		}
		if s != nil {
			s.close()
		}
	}
	t.Logf("%d detected, %d repaired, %d in files that are not current", seen, repaired, idle)
	if seen == 0 || repaired == 0 {
		t.Error("no damage was detected, or none was repaired")
	}
}

// damage damages a file at random and describes how.
func damage(t *testing.T, rng *rand.Rand, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	how := ""
	switch rng.IntN(3) {
	case 0:
		i, bit := rng.IntN(len(data)), rng.IntN(8)
		data[i] ^= 1 << bit
		how = fmt.Sprintf("with bit %d of byte %d flipped", bit, i)
	case 1:
		n := rng.IntN(len(data))
		data = data[:n]
		how = fmt.Sprintf("truncated to %d bytes", n)
	default:
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		return "removed"
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return how
}

func TestAnotherLogIsRefused(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir, options{noLoop: true})
	s.mustAppend(t, 20)
	s.mustArchive(t)
	for _, c := range []struct {
		ordinal uint32
		id      string
	}{{1, "other"}, {0, "older"}} {
		inc := batchtest.Incarnation
		inc.Ordinal, inc.ID = c.ordinal, c.id
		if a, err := archive.Open(context.Background(), archive.Config{Dir: filepath.Join(dir, "archive"), Incarnation: inc}); err == nil {
			a.Close()
			t.Errorf("incarnation %+v was accepted", inc)
		}
	}
}

func TestSumsAreExactDecimals(t *testing.T) {
	for _, c := range []struct{ a, b, sum string }{
		{"1.50", "-1.5", "0.00"}, {"99999999999999999999999999999999999999.9", "0.1", "100000000000000000000000000000000000000.0"},
		{"-0.05", "0.0005", "-0.0495"}, {"", "7", "7"}, {"-12", "2", "-10"},
	} {
		got := archive.AddSums(map[string]string{"x": c.a}, map[string]string{"x": c.b})["x"]
		if got != c.sum || !archive.EqualDecimal(got, c.sum+map[bool]string{true: "00", false: ""}[strings.Contains(c.sum, ".")]) {
			t.Errorf("%s + %s = %s, want %s", c.a, c.b, got, c.sum)
		}
	}
	if archive.EqualDecimal("10", "1") || archive.EqualDecimal("0.01", "0") || !archive.EqualDecimal("0.00", "-0") {
		t.Error("EqualDecimal is wrong")
	}
}
