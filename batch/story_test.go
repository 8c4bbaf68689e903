package batch_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"duet/batch"
	"duet/batch/archive"
	"duet/batch/batchtest"
	"duet/batch/catalog"
	"duet/internal/base/failpoint"
)

// storyOptions are the options of a crash test: everything is small, so that merging,
// cleaning and the keep policy all happen.
func storyOptions(seed uint64) options {
	return options{
		world:   batchtest.Config{Seed: seed, Block: 6},
		archive: archive.Config{MergeFiles: 2, KeepManifests: 1, ManifestLinks: 3},
		keep:    catalog.Keep{Last: 1},
	}
}

// story runs the batch half through events, runs of each kind, a rollback, merging
// and cleaning. It calls ack with each generation that must not be lost any more.
func story(dir string, seed uint64, ack func(generation uint64)) error {
	s, err := open(dir, storyOptions(seed))
	if err != nil {
		return err
	}
	defer s.close()
	for i := range 3 {
		if err := s.world.Append(9); err != nil {
			return err
		}
		run, err := s.run(batch.Request{Full: i == 2})
		if err != nil {
			return err
		}
		if run.State == batch.Published {
			ack(run.Generation)
		} else if !strings.Contains(run.Reason, "the child was ended by signal 9") {
			return fmt.Errorf("run %+v", run)
		}
		if err := s.world.Check(); err != nil {
			return err
		}
	}
	if g := s.catalog.Current(); g != nil {
		run, err := s.runner.Rollback(g.Kept[0], "story", "")
		if err == nil {
			run, err = s.runner.Wait(context.Background(), run.ID)
		}
		if err != nil || run.State != batch.Published {
			return fmt.Errorf("rollback %+v: %w", run, err)
		}
		ack(run.Generation)
	}
	s.archiver.Stop()
	for range 3 {
		if _, err := s.archive.MergeOnce(context.Background()); err != nil {
			return err
		}
		if _, err := s.archive.CleanOnce(context.Background()); err != nil {
			return err
		}
	}
	return s.world.Check()
}

// storyMain is the story as a process that is killed. It writes each acknowledged
// generation, synced, to the file acks.
func storyMain() int {
	dir := os.Getenv("DUET_TEST_DIR")
	seed, _ := strconv.ParseUint(os.Getenv("DUET_TEST_SEED"), 10, 64)
	if err := failpoint.Check(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	acks, err := os.OpenFile(filepath.Join(dir, "acks"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err == nil {
		err = story(dir, seed, func(g uint64) {
			if err := json.NewEncoder(acks).Encode(g); err != nil {
				panic(err)
			}
			if err := acks.Sync(); err != nil {
				panic(err)
			}
		})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// acked returns the last generation that a killed story acknowledged.
func acked(t *testing.T, dir string) (last uint64) {
	t.Helper()
	f, err := os.Open(filepath.Join(dir, "acks"))
	if err != nil {
		return 0
	}
	defer f.Close()
	for dec := json.NewDecoder(f); dec.More(); {
		if err := dec.Decode(&last); err != nil {
			t.Fatal(err)
		}
	}
	return last
}

// The process is killed at every failpoint, at its first hit and at a later one.
// What was acknowledged survives, every answer is right, the next run works, and
// starting again changes no file.
func TestKilledAtEveryNamedStep(t *testing.T) {
	seed := seedOf(t)
	counts := map[string]int{}
	var mu sync.Mutex
	for _, name := range failpoint.All() {
		disarm := failpoint.On(name, 0, func() error {
			mu.Lock()
			defer mu.Unlock()
			counts[name]++
			return nil
		})
		defer disarm()
	}
	if err := story(t.TempDir(), seed, func(uint64) {}); err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(seed, 2))
	points := 0
	for _, name := range failpoint.All() {
		inChild := strings.HasPrefix(name, "recompute.")
		mu.Lock()
		n := counts[name]
		mu.Unlock()
		if n == 0 && !inChild {
			t.Errorf("the story never reaches %s", name)
			continue
		}
		points++
		hits := []int{1}
		if n > 1 {
			hits = append(hits, 2+rng.IntN(n-1))
		}
		for _, hit := range hits {
			t.Run(fmt.Sprintf("%s:%d", name, hit), func(t *testing.T) {
				t.Parallel()
				killAt(t, name, hit, seed, inChild)
			})
		}
	}
	t.Logf("%d named steps", points)
}

func killAt(t *testing.T, name string, hit int, seed uint64, inChild bool) {
	dir := t.TempDir()
	cmd := play("story", "DUET_TEST_DIR="+dir, fmt.Sprintf("DUET_TEST_SEED=%d", seed), fmt.Sprintf("%s=%s:%d", failpoint.Env, name, hit))
	out, err := cmd.CombinedOutput()
	status := cmd.ProcessState.Sys().(syscall.WaitStatus)
	switch {
	case status.Signaled() && status.Signal() == syscall.SIGKILL:
	case inChild && err == nil:
	case hit > 1 && err == nil: // the archiver did fewer steps this time
		t.Logf("not reached")
	default:
		t.Fatalf("the story ended with %v: %s", err, out)
	}
	s, err := open(dir, storyOptions(seed))
	if err != nil {
		t.Fatalf("recovery: %v", err)
	}
	current := uint64(0)
	if g := s.catalog.Current(); g != nil {
		current = g.Number
	}
	if last := acked(t, dir); current < last {
		t.Fatalf("generation %d serves, %d was acknowledged", current, last)
	}
	verify := func() {
		t.Helper()
		if err := s.checkArchive(); err != nil {
			t.Fatal(err)
		}
		s.mustCheck(t)
	}
	verify()
	for _, run := range s.runner.List(0) {
		if !run.State.Final() {
			t.Fatalf("run %+v", run)
		}
	}
	s.mustAppend(t, 3)
	s.mustRun(t, batch.Request{})
	verify()
	s.mustRun(t, batch.Request{Full: true})
	verify()
	s.close()
	before := tree(t, dir)
	if s, err = open(dir, storyOptions(seed)); err != nil {
		t.Fatal(err)
	}
	verify()
	s.close()
	if after := tree(t, dir); !slices.Equal(before, after) {
		t.Errorf("starting again changed the files:\n%s\nwere\n%s", strings.Join(after, "\n"), strings.Join(before, "\n"))
	}
	for _, f := range before {
		if strings.Contains(f, ".tmp-") || strings.HasPrefix(f, "tmp-runs/") || strings.HasPrefix(f, "archive/tmp/") {
			t.Errorf("a temporary file is left: %s", f)
		}
	}
}

// tree lists the files of a folder.
func tree(t *testing.T, dir string) (files []string) {
	t.Helper()
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err != nil || info.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		files = append(files, fmt.Sprintf("%s %d", rel, info.Size()))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}
