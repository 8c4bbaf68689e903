package batch_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"duet/batch"
	"duet/batch/archive"
	"duet/batch/batchtest"
	"duet/batch/catalog"
	"duet/batch/recompute"
	"duet/internal/base/durable"
	"duet/internal/base/failpoint"
	"duet/internal/test/durabletest"
	"duet/schemas"
)

// Power fails after any operation. What was reported done survives, what survives
// verifies, and its totals are the log's.
func TestPowerCutLeavesWholeGenerations(t *testing.T) {
	seed := seedOf(t)
	dir := t.TempDir()
	rec := durabletest.NewRecorder(dir, durable.System)
	o := storyOptions(seed)
	o.files = durable.New(rec)
	s := mustOpen(t, dir, o)
	type promise struct {
		at         int
		generation uint64
		through    schemas.Position
	}
	promises := []promise{{}}
	for i := range 4 {
		s.mustAppend(t, 9)
		run := s.mustRun(t, batch.Request{Full: i == 2})
		promises = append(promises, promise{rec.Len(), run.Generation, run.Cut.Position()})
	}
	s.archiver.Stop()
	rng := rand.New(rand.NewPCG(seed, 3))
	for cut := range 150 {
		n, keep, again := rng.IntN(rec.Len()+1), []float64{0, 0.5, 1}[cut%3], rng.Uint64()
		var p promise
		for _, q := range promises {
			if q.at <= n {
				p = q
			}
		}
		dst := t.TempDir()
		if err := rec.Crash(dst, n, keep, again); err != nil {
			t.Fatal(err)
		}
		if err := s.checkCrashed(dst, p.generation, p.through); err != nil {
			t.Fatalf("power cut after operation %d of %d, %v of the unsynced kept, seed %d: %v\n%s", n, rec.Len(), keep, seed, err, rec.Trace())
		}
		os.RemoveAll(dst)
	}
}

// checkCrashed opens what a power cut left and compares it with the world.
func (s *system) checkCrashed(dir string, generation uint64, through schemas.Position) error {
	c, err := catalog.Open(catalog.Config{Dir: filepath.Join(dir, "generations")})
	if err != nil {
		return err
	}
	a, err := archive.Open(context.Background(), archive.Config{Dir: filepath.Join(dir, "archive"), Incarnation: batchtest.Incarnation})
	if err != nil {
		return err
	}
	defer a.Close()
	if err := a.Verify(context.Background(), a.Current().Files); err != nil {
		return err
	}
	want, err := s.world.Counted(0, a.Through())
	if err != nil {
		return err
	}
	if d := want[batchtest.Stream].Differences(a.Current().Streams[batchtest.Stream]); len(d) > 0 || a.Through() < through {
		return fmt.Errorf("the archive is at %s, promised %s; log and archive differ: %v", a.Through(), through, d)
	}
	g := c.Current()
	if g == nil {
		if generation > 0 {
			return fmt.Errorf("no generation; %d was published", generation)
		}
		return nil
	}
	if g.Number < generation || g.Cut.Position() > a.Through() {
		return fmt.Errorf("generation %d at %s with an archive through %s; %d was published", g.Number, g.Cut, a.Through(), generation)
	}
	return nil
}

// One operation of the disk fails during a run. The run publishes or fails, the
// answers stay right, and the next run works.
func TestADiskThatFailsOnceDuringARun(t *testing.T) {
	seed := seedOf(t)
	rng := rand.New(rand.NewPCG(seed, 4))
	var ops, fail atomic.Int64
	disk := &durabletest.Faulty{Inner: durable.System, Fail: func(op, path string) error {
		if ops.Add(1) == fail.Load() {
			return syscall.ENOSPC
		}
		return nil
	}}
	o := storyOptions(seed)
	o.files = durable.New(disk)
	s := mustOpen(t, t.TempDir(), o)
	failed := 0
	for range 15 {
		s.mustAppend(t, 5)
		ops.Store(0)
		n := int64(1 + rng.IntN(90))
		fail.Store(n)
		run, err := s.run(batch.Request{})
		fail.Store(0)
		if err != nil && !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
		if err != nil || run.State == batch.Failed {
			failed++
		} else if run.State != batch.Published {
			t.Fatalf("operation %d: run %+v", n, run)
		}
		s.mustCheck(t)
		s.mustAppend(t, 1)
		s.mustRun(t, batch.Request{})
		s.mustCheck(t)
		if err := s.checkArchive(); err != nil {
			t.Fatal(err)
		}
	}
	if s.fatal != nil {
		t.Errorf("fatal: %v", s.fatal)
	}
	t.Logf("%d of 15 runs failed", failed)
}

// A runner pauses before it publishes, and another one publishes. When the first
// goes on, it is fenced (H10).
func TestAZombieRunnerIsFenced(t *testing.T) {
	dir := t.TempDir()
	zombie := mustOpen(t, dir, options{})
	zombie.mustAppend(t, 20)
	zombie.mustRun(t, batch.Request{})
	zombie.mustAppend(t, 20)
	stopped, wake := make(chan struct{}), make(chan struct{})
	disarm := failpoint.On("run.staged", 1, func() error { close(stopped); <-wake; return nil })
	defer disarm()
	asleep, err := zombie.runner.Run(batch.Request{})
	if err != nil {
		t.Fatal(err)
	}
	<-stopped
	heir := mustOpen(t, dir, options{})
	run := heir.mustRun(t, batch.Request{Full: true})
	close(wake)
	if asleep, err = zombie.runner.Wait(context.Background(), asleep.ID); err != nil || asleep.State != batch.Fenced {
		t.Fatalf("the zombie's run: %+v, %v", asleep, err)
	}
	var fenced *archive.FencedError
	if _, err := zombie.runner.Run(batch.Request{}); !errors.As(err, &fenced) || fenced.Number != run.Generation {
		t.Fatalf("the zombie's next run: %v", err)
	}
	if !zombie.hasAlarm(batch.AlarmFenced) || zombie.runner.Err() == nil {
		t.Errorf("alarms %v", zombie.alarms)
	}
	heir.mustAppend(t, 10)
	heir.mustRun(t, batch.Request{})
	heir.mustCheck(t)
}

func TestOfManyPublishersOneWinsEachNumber(t *testing.T) {
	dir := t.TempDir()
	for number := uint64(1); number <= 5; number++ {
		var wg sync.WaitGroup
		var won atomic.Int64
		var rivals []*catalog.Catalog
		for range 32 {
			c, err := catalog.Open(catalog.Config{Dir: filepath.Join(dir, "generations")})
			if err != nil {
				t.Fatal(err)
			}
			rivals = append(rivals, c)
		}
		for w, c := range rivals {
			tmp := filepath.Join(dir, durable.Name())
			if err := os.WriteFile(tmp, fmt.Append(nil, "cells of ", w), 0o644); err != nil {
				t.Fatal(err)
			}
			wg.Go(func() {
				g, err := c.Publish(context.Background(), catalog.Draft{
					Generation: catalog.Generation{Kind: catalog.Full, Base: number - 1, Run: fmt.Sprint(w), Views: []catalog.View{{Name: "v"}}},
					New:        map[string]string{"v": tmp},
				})
				var fenced *archive.FencedError
				switch {
				case err == nil && g.Number == number:
					won.Add(1)
				case !errors.As(err, &fenced) || fenced.Number != number:
					t.Errorf("number %d: %v", number, err)
				}
			})
		}
		wg.Wait()
		if won.Load() != 1 {
			t.Fatalf("number %d was published by %d", number, won.Load())
		}
	}
}

// A child that runs out of memory fails its run and nothing else.
func TestAChildWithoutMemoryFailsItsRunOnly(t *testing.T) {
	var bomb atomic.Bool
	views := func() []recompute.View {
		vs := batchtest.Views()
		if bomb.Load() {
			vs[0].Definition = "by_key-bomb"
			vs[0].Partial = strings.Replace(vs[0].Partial, "count(*)", "sum(len(range(abs(qty) * 10000000)))::BIGINT", 1)
		}
		return vs
	}
	s := mustOpen(t, t.TempDir(), options{runner: batch.Config{Views: views, Memory: 128 << 20, AddressSpace: 8 << 30}})
	s.mustAppend(t, 30)
	s.mustRun(t, batch.Request{})
	bomb.Store(true)
	run, err := s.run(batch.Request{})
	if err != nil || run.State != batch.Failed || run.Attempts != 2 {
		t.Fatalf("run %+v, %v; view %+v", run, err, s.catalog.Current().View("by_key").Suspended)
	}
	t.Logf("reason: %s", run.Reason)
	if g := s.catalog.Current(); g.Number != 1 || g.View("by_key").Suspended != nil {
		t.Fatalf("generation %+v", g)
	}
	bomb.Store(false)
	s.mustCheck(t)
	s.mustAppend(t, 10)
	s.mustRun(t, batch.Request{})
	s.mustCheck(t)
}

func TestAChildThatCrashesIsTriedOnceMoreOnlyIfItWasKilled(t *testing.T) {
	for _, c := range []struct {
		signal   string
		attempts int
		state    batch.State
	}{{"KILL", 2, batch.Published}, {"SEGV", 1, batch.Failed}, {"ABRT", 1, batch.Failed}} {
		t.Run(c.signal, func(t *testing.T) {
			var calls atomic.Int64
			s := mustOpen(t, t.TempDir(), options{runner: batch.Config{Threads: 2, Child: func() *exec.Cmd {
				if calls.Add(1) == 1 {
					return exec.Command("sh", "-c", "kill -"+c.signal+" $$")
				}
				return play("recompute")
			}}})
			s.mustAppend(t, 10)
			run, err := s.run(batch.Request{})
			if err != nil || run.State != c.state || run.Attempts != c.attempts {
				t.Fatalf("run %+v, %v", run, err)
			}
			s.mustAppend(t, 10)
			s.mustRun(t, batch.Request{})
			s.mustCheck(t)
		})
	}
}

// A child that is stopped by a signal is reported, killed, and started once more.
func TestAStoppedChildIsKilledAndStartedOnceMore(t *testing.T) {
	for _, c := range []struct {
		name    string
		stopped int64 // the first children
		state   batch.State
	}{{"the first", 1, batch.Published}, {"both", 2, batch.Failed}} {
		t.Run(c.name, func(t *testing.T) {
			var calls atomic.Int64
			s := mustOpen(t, t.TempDir(), options{runner: batch.Config{StallTimeout: 5 * time.Second, Child: func() *exec.Cmd {
				if calls.Add(1) <= c.stopped {
					return play("stopped")
				}
				return play("recompute")
			}}})
			s.mustAppend(t, 10)
			run, err := s.runner.Run(batch.Request{})
			if err != nil {
				t.Fatal(err)
			}
			warnings := map[string]bool{}
			for !run.State.Final() {
				var changed <-chan struct{}
				if run, changed, err = s.runner.Watch(run.ID); err != nil {
					t.Fatal(err)
				}
				if run.Warning != "" {
					before, _, _ := strings.Cut(run.Warning, " since")
					warnings[before] = true
				}
				if !run.State.Final() {
					<-changed
				}
			}
			if run.State != c.state || run.Attempts != 2 || run.Warning != "" {
				t.Fatalf("run %+v", run)
			}
			if c.state == batch.Failed && !strings.Contains(run.Reason, "made no progress for 5s") {
				t.Errorf("reason %q", run.Reason)
			}
			if !warnings["the child process has made no progress"] || !warnings["the first child process made no progress for 5s and was killed; a second one is at work"] {
				t.Errorf("warnings %v", warnings)
			}
			s.mustCheck(t)
		})
	}
}

// A child exits when its parent has.
func TestTheChildEndsWhenItsParentIsGone(t *testing.T) {
	dir := t.TempDir()
	job := filepath.Join(dir, "job.json")
	if err := os.WriteFile(job, fmt.Appendf(nil, `{"format": %d, "dir": %q, "threads": 1}`, recompute.FormatVersion, dir), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := play("recompute")
	cmd.Args = append(cmd.Args, job)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stdin.Close() // it waits for what the live half has
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != recompute.ExitOrphan {
		t.Fatalf("the child ended with %v", err)
	}
}

func TestADamagedGenerationIsNeverReplacedByAnOlderOne(t *testing.T) {
	dir := t.TempDir()
	s, err := open(dir, options{})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		s.mustAppend(t, 10)
		s.mustRun(t, batch.Request{})
	}
	cells := s.catalog.Path(*s.catalog.Current().View("by_key"))
	s.close()
	for _, victim := range []string{cells, filepath.Join(dir, "generations", "000000000003.json"), filepath.Join(dir, "archive", "manifest", "floor.json")} {
		data, err := os.ReadFile(victim)
		if err != nil {
			t.Fatal(err)
		}
		for _, harm := range []func() error{
			func() error { return os.Remove(victim) },
			func() error { return os.WriteFile(victim, data[:len(data)-1], 0o644) },
			func() error { return os.WriteFile(victim, append(data[:len(data):len(data)], 'x'), 0o644) },
		} {
			if err := harm(); err != nil {
				t.Fatal(err)
			}
			var damaged *durable.DamageError
			s, err := open(dir, options{})
			if err == nil && filepath.Base(victim) != "floor.json" { // only a witness
				t.Fatalf("%s: opened at generation %d", victim, s.catalog.Current().Number)
			}
			if err != nil && (!errors.As(err, &damaged) || damaged.Path != victim) {
				t.Fatalf("%s: %v", victim, err)
			}
			if err == nil {
				s.close()
			}
			if err := os.WriteFile(victim, data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	s = mustOpen(t, dir, options{})
	s.mustCheck(t)
}
