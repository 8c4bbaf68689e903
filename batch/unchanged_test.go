package batch_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"duet/batch"
	"duet/batch/batchtest"
	"duet/batch/recompute"
)

// mustNotChange requests a run that must find nothing new.
func (s *system) mustNotChange(t testing.TB, req batch.Request) {
	t.Helper()
	before, last := s.catalog.Current().Number, s.world.Last()
	run, err := s.run(req)
	if err != nil || run.State != batch.Unchanged || run.Reason != "" || run.Generation != 0 {
		t.Fatalf("run %+v, %v", run, err)
	}
	if now := s.catalog.Current().Number; now != before {
		t.Fatalf("generation %d after %d", now, before)
	}
	if s.world.Last() != last {
		t.Fatalf("the log ends at %s, before the run at %s", s.world.Last(), last)
	}
	s.mustCheck(t)
}

func TestARunThatFindsNothingNewWritesNothing(t *testing.T) {
	views := batchtest.Views()
	dir := t.TempDir()
	o := options{runner: batch.Config{Views: func() []recompute.View { return views }}}
	s, err := open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	s.mustRun(t, batch.Request{}) // there is no base yet
	s.mustNotChange(t, batch.Request{})
	s.mustAppend(t, 20)
	s.mustRun(t, batch.Request{})
	s.mustNotChange(t, batch.Request{})
	s.mustRun(t, batch.Request{Full: true})
	s.mustRun(t, batch.Request{Accept: true})
	s.mustNotChange(t, batch.Request{})
	s.close()

	s = mustOpen(t, dir, o) // a restart is no change
	s.mustNotChange(t, batch.Request{})
	views = batchtest.Views()
	views[0].Definition = "by_key-2"
	s.mustRun(t, batch.Request{})
	s.mustNotChange(t, batch.Request{})
	views = views[:3]
	s.mustRun(t, batch.Request{})
	for _, a := range s.alarms {
		t.Errorf("alarm %+v", a)
	}
}

// Markers of runs that published nothing are not events.
func TestStrayMarkersAreNotEvents(t *testing.T) {
	s := mustOpen(t, t.TempDir(), options{})
	s.mustAppend(t, 20)
	s.mustRun(t, batch.Request{})
	cut, err := s.world.Cut(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.archive.Wait(t.Context(), cut.Position()); err != nil {
		t.Fatal(err)
	}
	s.mustNotChange(t, batch.Request{})
	s.mustNotChange(t, batch.Request{})
}

// A view that did not fit is a reason to run again only if a person asks.
func TestAnUnfitViewIsStagedAgainWhenAsked(t *testing.T) {
	s := mustOpen(t, t.TempDir(), options{})
	s.mustAppend(t, 20)
	s.world.SetFaults(batchtest.Faults{MaxGroups: map[string]int64{"by_key": 3}})
	s.mustRun(t, batch.Request{})
	s.world.SetFaults(batchtest.Faults{})
	s.mustRun(t, batch.Request{})
	if v := s.catalog.Current().View("by_key"); v.Suspended != nil {
		t.Fatalf("view %+v", v)
	}
	s.mustCheck(t)
	s.mustNotChange(t, batch.Request{})
}

func TestAnIdleScheduleWritesNothing(t *testing.T) {
	every, err := batch.ParseSchedule("@every 1s")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	s := mustOpen(t, dir, options{runner: batch.Config{Incremental: every}})
	s.mustAppend(t, 20)
	if run, err := s.run(batch.Request{Full: true}); err != nil || run.State != batch.Published {
		t.Fatalf("run %+v, %v", run, err)
	}
	last, base := s.world.Last(), s.catalog.Current().Number
	// Two unchanged runs by the schedule, of which the history keeps the newest.
	var seen []string
	for len(seen) < 3 {
		list := s.runner.List(1)
		_, changed, err := s.runner.Watch(list[0].ID)
		if err != nil {
			continue // dropped in between
		}
		if run := list[0]; run.State == batch.Unchanged && (len(seen) == 0 || seen[len(seen)-1] != run.ID) {
			seen = append(seen, run.ID)
			continue
		}
		<-changed
	}
	s.runner.Stop()
	if s.world.Last() != last || s.catalog.Current().Number != base {
		t.Errorf("the log ends at %s, was %s; generation %d, was %d", s.world.Last(), last, s.catalog.Current().Number, base)
	}
	unchanged := 0
	for _, run := range s.runner.List(0) {
		if run.State == batch.Unchanged {
			unchanged++
		}
	}
	files, err := os.ReadDir(filepath.Join(dir, "runs"))
	if unchanged != 1 || err != nil || len(files) != len(s.runner.List(0)) {
		t.Errorf("%d unchanged runs in a history of %d, %d files, %v", unchanged, len(s.runner.List(0)), len(files), err)
	}
}
