package batch_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"duet/batch"
	"duet/batch/archive"
	"duet/batch/batchtest"
)

// The double of the live half is as strict as the real one.
func TestTheWorldIsALiveHalf(t *testing.T) {
	batchtest.Exercise(t, func(t *testing.T) batchtest.Harness {
		s := mustOpen(t, t.TempDir(), options{world: batchtest.Config{Block: 3}})
		return batchtest.Harness{
			Live: s.world, Archive: s.archive, Catalog: s.catalog, Views: batchtest.Views(),
			Append: s.world.Append, Answer: s.world.Answer, Plain: s.world.Plain, Served: s.world.Served,
			Damage: func() (archive.File, error) {
				f := s.archive.Current().FilesFor(batchtest.Stream, 0, s.archive.Through())[0]
				return f, flip(filepath.Join(s.archive.Dir(), filepath.FromSlash(f.Path)))
			},
			Limited: "by_key",
			Overflow: func() error {
				s.world.SetFaults(batchtest.Faults{MaxGroups: map[string]int64{"by_key": 3}})
				return nil
			},
		}
	})
}

// flip flips a bit in the middle of a file.
func flip(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	data[len(data)/2] ^= 1
	return os.WriteFile(path, data, 0o644)
}

// A rollback that needs a damaged archive file fails before it publishes: the old
// generation serves on, also after a restart (H12).
func TestARollbackOverADamagedArchiveFilePublishesNothing(t *testing.T) {
	dir := t.TempDir()
	s, err := open(dir, options{})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		s.mustAppend(t, 20)
		s.mustRun(t, batch.Request{})
	}
	first, err := s.catalog.Get(1)
	if err != nil {
		t.Fatal(err)
	}
	victim := s.archive.Current().FilesFor(batchtest.Stream, first.Cut.Position(), s.archive.Through())[0]
	if err := flip(filepath.Join(s.archive.Dir(), filepath.FromSlash(victim.Path))); err != nil {
		t.Fatal(err)
	}
	run, err := s.runner.Rollback(1, "to be safe", "")
	if err == nil {
		run, err = s.runner.Wait(t.Context(), run.ID)
	}
	if err != nil || run.State != batch.Failed || !strings.Contains(run.Reason, victim.Path) {
		t.Fatalf("run %+v, %v; want a failure that names %s", run, err, victim.Path)
	}
	if s.fatal != nil || s.catalog.Current().Number != 3 || s.world.Served() != 3 {
		t.Fatalf("fatal %v, generation %d published, %d serves", s.fatal, s.catalog.Current().Number, s.world.Served())
	}
	s.mustCheck(t)
	s.close()
	s = mustOpen(t, dir, options{})
	if s.world.Served() != 3 {
		t.Fatalf("generation %d serves after a restart", s.world.Served())
	}
	s.mustCheck(t)
	s.mustAppend(t, 20)
	s.mustRun(t, batch.Request{})
	s.mustCheck(t)
}

// A view that does not fit is suspended alone; its cells are kept, and it comes back
// when it fits again.
func TestAViewThatDoesNotFitIsSuspendedAloneAndComesBack(t *testing.T) {
	s := mustOpen(t, t.TempDir(), options{})
	s.mustAppend(t, 20)
	s.mustRun(t, batch.Request{})
	s.world.SetFaults(batchtest.Faults{MaxGroups: map[string]int64{"by_key": 3}})
	for _, req := range []batch.Request{{}, {Full: true}, {}} {
		s.mustAppend(t, 20)
		run := s.mustRun(t, req)
		v := s.catalog.Current().View("by_key")
		if v.Suspended == nil || !v.Suspended.Unfit || v.File == "" || !slices.Equal(run.Suspended, []string{"by_key"}) {
			t.Fatalf("view %+v, suspended in %+v", v, run)
		}
		s.mustCheck(t, "by_key")
	}
	run, err := s.runner.Rollback(2, "also a rollback", "")
	if err == nil {
		run, err = s.runner.Wait(t.Context(), run.ID)
	}
	if err != nil || run.State != batch.Published || !slices.Equal(run.Suspended, []string{"by_key"}) {
		t.Fatalf("run %+v, %v", run, err)
	}
	s.mustCheck(t, "by_key")
	if !s.hasAlarm(batch.AlarmSuspended) {
		t.Error("no alarm")
	}
	s.world.SetFaults(batchtest.Faults{})
	s.mustAppend(t, 20)
	s.mustRun(t, batch.Request{})
	if v := s.catalog.Current().View("by_key"); v.Suspended != nil {
		t.Fatalf("view %+v", v)
	}
	s.mustCheck(t)
}
