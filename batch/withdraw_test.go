package batch_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"duet/batch"
	"duet/batch/catalog"
)

func servable(*catalog.Generation) error { return nil }

// plan plans a withdrawal in a system's folder.
func plan(dir string, servable func(*catalog.Generation) error) (*catalog.Withdrawal, error) {
	return catalog.PlanWithdrawal(catalog.Config{Dir: filepath.Join(dir, "generations")}, servable)
}

// A generation that is damaged in any way is withdrawn: the one before serves under
// a new number, and no event is lost (H3, H9).
func TestADamagedGenerationIsWithdrawn(t *testing.T) {
	for name, harm := range map[string]func(s *system, newest *catalog.Generation) error{
		"cells":         func(s *system, g *catalog.Generation) error { return flip(s.catalog.Path(*g.View("by_key"))) },
		"cells missing": func(s *system, g *catalog.Generation) error { return os.Remove(s.catalog.Path(*g.View("total"))) },
		"manifest": func(s *system, _ *catalog.Generation) error {
			return flip(filepath.Join(s.catalog.Dir(), "000000000003.json"))
		},
		"manifest missing": func(s *system, _ *catalog.Generation) error {
			return os.Remove(filepath.Join(s.catalog.Dir(), "000000000003.json"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s, err := open(dir, options{})
			if err != nil {
				t.Fatal(err)
			}
			for range 3 {
				s.mustAppend(t, 10)
				s.mustRun(t, batch.Request{})
			}
			s.mustAppend(t, 10)
			if err := harm(s, s.catalog.Current()); err != nil {
				t.Fatal(err)
			}
			s.close()
			if s, err := open(dir, options{}); err == nil {
				s.close()
				t.Fatal("opened a damaged generation")
			}
			w, err := plan(dir, servable)
			if err != nil || w.Withdrawn != 3 || w.To.Number != 2 || w.Number != 4 || w.Cause == nil {
				t.Fatalf("plan %+v, %v", w, err)
			}
			if _, err := batch.Withdraw(t.Context(), dir, w, "a broken disk", time.Now()); err != nil {
				t.Fatal(err)
			}
			s = mustOpen(t, dir, options{})
			g := s.catalog.Current()
			if s.world.Served() != 4 || g.Kind != catalog.WithdrawalKind || g.Withdrawn != 3 || g.Of != 2 || slices.Contains(g.Kept, 3) || g.Reason != "a broken disk" {
				t.Fatalf("generation %d serves: %+v", s.world.Served(), g)
			}
			s.mustCheck(t)
			if info := s.runner.Schedule(); !info.Paused || info.Reason != "generation 3 was withdrawn: a broken disk" {
				t.Errorf("schedule %+v", info)
			}
			if run := s.runner.List(1)[0]; run.Kind != batch.Withdrawal || run.Generation != 4 || run.ID != g.Run || run.State != batch.Published {
				t.Errorf("run %+v", run)
			}
			if run := s.mustRun(t, batch.Request{}); run.Generation != 5 {
				t.Errorf("run %+v", run)
			}
			s.mustCheck(t)
			list, err := s.catalog.List()
			if err != nil || len(list) != 4 {
				t.Errorf("%d generations are kept, %v", len(list), err)
			}
		})
	}
}

func TestAWithdrawalTakesTheNewestGenerationThatCanBeServed(t *testing.T) {
	dir := t.TempDir()
	if _, err := plan(dir, servable); err == nil || !strings.Contains(err.Error(), "no generation is published") {
		t.Errorf("an empty folder: %v", err)
	}
	s, err := open(dir, options{})
	if err != nil {
		t.Fatal(err)
	}
	for range 4 {
		s.mustAppend(t, 10)
		s.mustRun(t, batch.Request{})
	}
	s.close()
	w, err := plan(dir, servable)
	if err != nil || w.Cause != nil || w.To.Number != 3 {
		t.Fatalf("nothing is wrong: %+v, %v", w, err)
	}
	lost := errors.New("the archive is damaged")
	only := func(numbers ...uint64) func(*catalog.Generation) error {
		return func(g *catalog.Generation) error {
			if !slices.Contains(numbers, g.Number) {
				return &catalog.UnservableError{Number: g.Number, Err: lost}
			}
			return nil
		}
	}
	w, err = plan(dir, only(2, 1))
	var unservable *catalog.UnservableError
	if err != nil || w.To.Number != 2 || !errors.As(w.Cause, &unservable) || unservable.Number != 4 {
		t.Fatalf("plan %+v, %v", w, err)
	}
	if _, err := plan(dir, only(4)); !errors.Is(err, lost) || !strings.Contains(err.Error(), "no generation before 4 can be served") {
		t.Errorf("no generation is left: %v", err)
	}
	if _, err := batch.Withdraw(t.Context(), dir, w, "test", time.Now()); err != nil {
		t.Fatal(err)
	}
	// A generation that was withdrawn does not come back by another withdrawal.
	if w, err = plan(dir, only(5, 4, 3, 2, 1)); err != nil || w.Withdrawn != 5 || w.To.Number != 3 || w.Number != 6 {
		t.Errorf("plan %+v, %v", w, err)
	}
}
