package batch

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"duet/batch/archive"
	"duet/batch/catalog"
	"duet/batch/recompute"
	"duet/internal/base/failpoint"
	"duet/schemas"
)

// The failpoints of a run. Those of the archive, of the child and of publishing
// lie between.
var (
	fpCut       = failpoint.New("run.cut")       // the marker is in the log
	fpArchived  = failpoint.New("run.archived")  // the archive has reached the cut
	fpComputed  = failpoint.New("run.computed")  // the child has returned cells and report
	fpReported  = failpoint.New("run.reported")  // the report is written
	fpStaged    = failpoint.New("run.staged")    // the live half holds the new cells, unseen by readers
	fpPublished = failpoint.New("run.published") // the number is taken, the old cells still serve
	fpSwitched  = failpoint.New("run.switched")  // the new cells serve
	fpRecorded  = failpoint.New("run.recorded")  // the run's record says so
)

// heldError ends a run with differences that no control record explains.
type heldError struct{ differing string }

func (e *heldError) Error() string {
	return "the halves differ and no control record says why: " + e.differing + "; the old generation serves on: read the report (duet reconcile), then duet batch run --accept publishes what the batch half has"
}

// mismatchError ends a run whose halves counted different events (H6).
type mismatchError struct{ differing string }

func (e *mismatchError) Error() string {
	return "the halves do not hold the same events: " + e.differing + "; the old generation serves on"
}

// switchError ends the process: the generation is published, but the live half
// serves the old one.
type switchError struct{ err error }

func (e *switchError) Error() string {
	return "the generation is published, but the live half could not switch to it, so the process must end and load it: " + e.err.Error()
}

func (e *switchError) Unwrap() error { return e.err }

// attempt is a run while it is executed. It is not safe for concurrent use.
type attempt struct {
	*Runner
	run    *Run
	base   *catalog.Generation // nil before the first
	at     schemas.Position
	totals map[string]archive.Totals // of the archive, cumulative, at the cut
	snap   *archive.Snapshot
	dir    string
	report *recompute.Report
	draft  catalog.Draft
	began  time.Time // when the step began
}

// executeRun executes a run and records how it ended.
func (r *Runner) executeRun(ctx context.Context, run *Run) {
	a := &attempt{Runner: r, run: run, dir: filepath.Join(r.history.tmpDir(), run.ID)}
	r.update(run, func(run *Run) { run.State, run.Started = Running, r.cfg.Now().UTC() })
	runCtx, cancel := context.WithTimeoutCause(ctx, r.cfg.RunTimeout, fmt.Errorf("it took longer than %s", r.cfg.RunTimeout))
	defer cancel()
	published, err := a.execute(runCtx)
	if a.snap != nil {
		a.snap.Release()
	}
	var failed *switchError
	if err != nil && !errors.As(err, &failed) && runCtx.Err() != nil {
		err = context.Cause(runCtx)
		if ctx.Err() != nil {
			err = ErrStopped
		}
	}
	state, reason := r.outcome(run, err)
	if err != nil && published == nil {
		r.cfg.Live.Discard(context.WithoutCancel(ctx))
	}
	r.mu.Lock()
	copied := r.finish(state, reason)
	r.mu.Unlock()
	if r.cfg.Hooks.RunChanged != nil {
		r.cfg.Hooks.RunChanged(copied)
	}
	if failed != nil {
		r.cfg.Fatal(err)
		return
	}
	_ = fpRecorded.Hit()
	a.clean(context.WithoutCancel(ctx), published)
}

// outcome maps an error to the run's final state and reason, raises an alarm, and
// stops the runner from starting further runs where those would be unsafe.
func (r *Runner) outcome(run *Run, err error) (State, string) {
	var (
		held     *heldError
		mismatch *mismatchError
		child    *recompute.ChildError
		fenced   *archive.FencedError
		failed   *switchError
	)
	switch {
	case err == nil:
		return Published, ""
	case errors.Is(err, errUnchanged):
		return Unchanged, ""
	case errors.Is(err, ErrStopped):
		return Failed, err.Error()
	case errors.As(err, &held):
		r.alarm(AlarmHeld, run.ID, err.Error())
		return Held, err.Error()
	case errors.As(err, &mismatch), errors.As(err, &child) && child.Mismatch:
		r.alarm(AlarmMismatch, run.ID, err.Error())
	case errors.As(err, &fenced):
		r.breakWith(err)
		r.alarm(AlarmFenced, run.ID, err.Error())
		return Fenced, err.Error()
	case errors.As(err, &failed):
		r.breakWith(err)
		r.alarm(AlarmSwitch, run.ID, err.Error())
	default:
		r.alarm(AlarmFailed, run.ID, err.Error())
	}
	return Failed, err.Error()
}

func (r *Runner) breakWith(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.broken == nil {
		r.broken = err
	}
}

// step records the beginning of a step and the duration of the one before it.
func (a *attempt) step(name string) {
	now := time.Now()
	a.update(a.run, func(run *Run) {
		if run.Step != "" {
			run.Steps = append(run.Steps, StepTime{run.Step, now.Sub(a.began).Microseconds()})
		}
		run.Step = name
	})
	a.began = now
}

// execute executes a run's steps in order: marker, archive, compute and compare,
// stage, publish, switch. It returns the generation that it published, if any,
// even with an error.
func (a *attempt) execute(ctx context.Context) (*catalog.Generation, error) {
	a.step("open")
	if err := a.begin(ctx); err != nil {
		return nil, err
	}
	if err := a.cfg.Files.MkdirAll(a.dir); err != nil {
		return nil, err
	}
	if a.run.Kind == Rollback {
		return a.rollback(ctx)
	}
	views := a.cfg.Views()
	if last := a.cfg.Live.Last(); a.base != nil && a.nothingNew(views) && a.noEvents(last) {
		return nil, errUnchanged // without a marker: an idle schedule must not fill the log
	}
	a.step("cut")
	if err := a.cut(ctx); err != nil {
		return nil, err
	}
	if a.base != nil && a.nothingNew(views) && a.noEvents(a.at) {
		return nil, errUnchanged
	}
	a.step("compute")
	if err := a.compute(ctx, views); err != nil {
		return nil, err
	}
	if err := fpComputed.Hit(); err != nil {
		return nil, err
	}
	a.step("report")
	if err := a.decide(); err != nil {
		return nil, err
	}
	if err := fpReported.Hit(); err != nil {
		return nil, err
	}
	return a.publish(ctx, a.cfg.Live.Stage)
}

// begin finds the base. If an earlier run published it without learning so (its
// disk failed in between), the live half switches to it first.
func (a *attempt) begin(ctx context.Context) error {
	g, err := a.cfg.Catalog.Refresh()
	if err != nil {
		return err
	}
	a.mu.Lock()
	serving := a.serving
	a.mu.Unlock()
	if g != nil && g.Number != serving {
		files := map[string]string{}
		for _, v := range g.Views {
			if v.Suspended == nil {
				files[v.Name] = a.cfg.Catalog.Path(v)
			}
		}
		stage := a.cfg.Live.Stage
		if g.Kind == catalog.Rollback {
			stage = a.cfg.Live.Rebuild
		}
		// What does not fit now is served suspended, whatever g says.
		if _, err := stage(ctx, g, files); err != nil {
			return fmt.Errorf("generation %d is published but not served: %w", g.Number, err)
		}
		if err := a.switchTo(ctx, g); err != nil {
			return err
		}
	}
	a.base = g
	a.draft.Run = a.run.ID
	if g != nil {
		a.draft.Base = g.Number
		a.update(a.run, func(run *Run) { run.Base = g.Number })
	}
	return nil
}

// cut writes the marker and waits for the archive to reach it.
func (a *attempt) cut(ctx context.Context) error {
	cut, err := a.cfg.Live.Cut(ctx)
	if err != nil {
		return fmt.Errorf("write the cut marker: %w", err)
	}
	a.at = cut.Position()
	a.draft.Cut = cut
	a.update(a.run, func(run *Run) { run.Cut = cut })
	if a.base != nil && a.at <= a.base.Cut.Position() {
		return &mismatchError{fmt.Sprintf("the log's marker is at %s, but generation %d was cut at %s: the log went back", a.at, a.base.Number, a.base.Cut.Position())}
	}
	if err := fpCut.Hit(); err != nil {
		return err
	}
	a.step("archive")
	waiting, cancel := a.withWaitTimeout(ctx, "the archive")
	defer cancel()
	if err := a.cfg.Archive.Wait(waiting, a.at); err != nil {
		if a.cfg.Archiver != nil {
			err = errors.Join(err, a.cfg.Archiver.LastErr())
		}
		return err
	}
	totals, ok := a.cfg.Archive.TotalsAt(a.at)
	if !ok {
		return fmt.Errorf("the archive has passed the cut %s without ending a block there", a.at)
	}
	a.totals = totals
	a.snap = a.cfg.Archive.Snapshot()
	a.draft.Archive, a.draft.Streams = a.snap.Number, totals
	return fpArchived.Hit()
}

// withWaitTimeout limits a wait for one part of the platform to reach the cut; the
// cause names the part.
func (a *attempt) withWaitTimeout(ctx context.Context, what string) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, a.cfg.WaitTimeout, fmt.Errorf("%s did not reach the run's cut within %s", what, a.cfg.WaitTimeout))
}

// decide writes the report, and returns an error if it forbids publishing.
func (a *attempt) decide() error {
	r := a.report
	r.Accepted = a.run.Accept && r.Verdict == recompute.Unexplained
	if err := a.history.saveReport(r); err != nil {
		return err
	}
	a.update(a.run, func(run *Run) {
		run.Verdict = r.Verdict
		for _, v := range a.draft.Views {
			if v.Suspended != nil {
				run.Suspended = append(run.Suspended, v.Name)
			}
		}
	})
	switch {
	case r.Verdict == recompute.Mismatch:
		return &mismatchError{r.Differing()}
	case r.Verdict == recompute.Unexplained && !a.run.Accept:
		return &heldError{r.Differing()}
	}
	for _, v := range a.draft.Views {
		if s := v.Suspended; s != nil && (a.base == nil || a.base.View(v.Name) == nil || a.base.View(v.Name).Suspended == nil) {
			a.alarm(AlarmSuspended, a.run.ID, s.String())
		}
	}
	return nil
}

// stageFunc is Live.Stage or Live.Rebuild.
type stageFunc func(context.Context, *catalog.Generation, map[string]string) ([]recompute.Suspension, error)

// publish stages the draft, publishes it and switches to it. A draft that cannot
// be staged is never published (H12); views that do not fit are published
// suspended.
func (a *attempt) publish(ctx context.Context, stage stageFunc) (*catalog.Generation, error) {
	a.step("stage")
	files := map[string]string{}
	for _, v := range a.draft.Views {
		if tmp, ok := a.draft.New[v.Name]; ok {
			files[v.Name] = tmp
		} else if v.Suspended == nil {
			files[v.Name] = a.cfg.Catalog.Path(v)
		}
	}
	next := a.draft.Generation
	next.Number = a.draft.Base + 1
	next.Views = slices.Clone(a.draft.Views)
	unfit, err := stage(ctx, &next, files)
	if err != nil {
		return nil, fmt.Errorf("stage generation %d: %w", next.Number, err)
	}
	a.suspend(unfit)
	if err := fpStaged.Hit(); err != nil {
		return nil, err
	}
	a.step("publish")
	g, err := a.cfg.Catalog.Publish(ctx, a.draft)
	if err != nil && g == nil {
		now, rerr := a.cfg.Catalog.Refresh()
		if rerr != nil || now == nil || now.Run != a.run.ID {
			return nil, errors.Join(err, rerr)
		}
		g = now // published in spite of the error
	}
	a.update(a.run, func(run *Run) { run.Generation = g.Number })
	if err := fpPublished.Hit(); err != nil {
		return g, &switchError{err}
	}
	a.step("switch")
	if err := a.switchTo(ctx, g); err != nil {
		return g, err
	}
	a.step("done")
	if a.cfg.Hooks.Published != nil {
		a.cfg.Hooks.Published(g)
	}
	return g, fpSwitched.Hit()
}

// suspend suspends the draft's views that the live half cannot hold. Their files
// stay: the next run continues from them and stages them again.
func (a *attempt) suspend(unfit []recompute.Suspension) {
	for _, s := range unfit {
		s.Unfit = true
		v := a.draft.View(s.View)
		v.Suspended = &s
		if a.base == nil || a.base.View(s.View) == nil || a.base.View(s.View).Suspended == nil {
			a.alarm(AlarmSuspended, a.run.ID, s.String())
		}
		a.update(a.run, func(run *Run) { run.Suspended = append(run.Suspended, s.View) })
	}
}

// switchTo makes the live half serve what it has staged.
func (a *attempt) switchTo(ctx context.Context, g *catalog.Generation) error {
	// The number is published: a stop must not leave it unserved.
	if err := a.cfg.Live.Switch(context.WithoutCancel(ctx), g); err != nil {
		return &switchError{err}
	}
	a.mu.Lock()
	a.serving = g.Number
	a.mu.Unlock()
	return nil
}

// rollback publishes an earlier generation's cells under a new number (H9).
func (a *attempt) rollback(ctx context.Context) (*catalog.Generation, error) {
	if a.base == nil || !slices.Contains(a.base.Kept, a.run.Target) {
		return nil, &catalog.NotKeptError{Number: a.run.Target}
	}
	old, err := a.cfg.Catalog.Get(a.run.Target)
	if err != nil {
		return nil, err
	}
	if err := a.cfg.Catalog.Verify(old); err != nil {
		return nil, err
	}
	a.update(a.run, func(run *Run) { run.Cut = old.Cut })
	a.draft.Generation = catalog.Generation{
		Kind: catalog.Rollback, Base: a.base.Number, Of: old.Number, Reason: a.run.Note, Run: a.run.ID,
		Cut: old.Cut, Archive: a.cfg.Archive.Current().Number, Streams: old.Streams, Views: slices.Clone(old.Views),
	}
	for i, v := range a.draft.Views {
		a.draft.Views[i] = v.Fresh()
	}
	return a.publish(ctx, a.cfg.Live.Rebuild)
}

// clean deletes the run's temporary files and, if it published, orphans. A failure
// costs disk space, not answers.
func (a *attempt) clean(ctx context.Context, published *catalog.Generation) {
	var problems []string
	if err := a.cfg.Files.RemoveAll(a.dir); err != nil {
		problems = append(problems, err.Error())
	}
	if published != nil {
		if _, err := a.cfg.Catalog.Clean(ctx); err != nil {
			problems = append(problems, err.Error())
		}
	}
	if len(problems) > 0 {
		a.alarm(AlarmCleaning, a.run.ID, "files that are no longer needed could not be deleted; the next run tries again: "+strings.Join(problems, "; "))
	}
}
