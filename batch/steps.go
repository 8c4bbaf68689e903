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

// The named steps of a run, after each of which a test may end
// the process. Those of the archive, of the child and of publishing lie between.
var (
	fpCut       = failpoint.New("run.cut")       // the marker is in the log
	fpArchived  = failpoint.New("run.archived")  // the archive has reached the cut
	fpComputed  = failpoint.New("run.computed")  // the child has handed back cells and report
	fpReported  = failpoint.New("run.reported")  // the report is written
	fpStaged    = failpoint.New("run.staged")    // the live half holds the new cells, unseen
	fpPublished = failpoint.New("run.published") // the number is taken, the old cells still serve
	fpSwitched  = failpoint.New("run.switched")  // the new cells serve
	fpRecorded  = failpoint.New("run.recorded")  // the run's record says so
)

// heldError ends a run whose differences nobody can explain.
type heldError struct{ differing string }

func (e *heldError) Error() string {
	return "both halves differ and no control record says why: " + e.differing + "; the old generation serves on: read the report (duet reconcile), then duet batch run --accept publishes what the batch half has"
}

// mismatchError ends a run whose halves counted different events (H6).
type mismatchError struct{ differing string }

func (e *mismatchError) Error() string {
	return "the halves do not hold the same events: " + e.differing + "; the old generation serves on"
}

// switchError ends the process: published, but the live half serves the old one.
type switchError struct{ err error }

func (e *switchError) Error() string {
	return "the generation is published, but the live half could not switch to it, so the process must end and load it: " + e.err.Error()
}

func (e *switchError) Unwrap() error { return e.err }

// attempt is a run while it is executed. One goroutine uses it.
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
	began  time.Time // of the step
}

// one executes a run and records how it ended.
func (r *Runner) one(ctx context.Context, run *Run) {
	a := &attempt{Runner: r, run: run, dir: filepath.Join(r.history.tmpDir(), run.ID)}
	r.update(run, func(run *Run) { run.State, run.Started = Running, r.cfg.Now().UTC() })
	ctx, cancel := context.WithTimeoutCause(ctx, r.cfg.Longest, fmt.Errorf("it took longer than %s", r.cfg.Longest))
	defer cancel()
	published, err := a.execute(ctx)
	if a.snap != nil {
		a.snap.Release()
	}
	var failed *switchError
	if !errors.As(err, &failed) && ctx.Err() != nil && err != nil {
		err = context.Cause(ctx)
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

// outcome says what an error makes of a run, alarms, and breaks the runner where
// it must not go on.
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

// step notes that a step begins and how long the one before it took.
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

// execute does a run's steps in order: marker, archive, compute and compare,
// stage, publish, switch. It returns the generation that it published, if any,
// also with an error.
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
	a.step("cut")
	if err := a.cut(ctx); err != nil {
		return nil, err
	}
	a.step("compute")
	if err := a.compute(ctx); err != nil {
		return nil, err
	}
	if err := fpComputed.Hit(); err != nil {
		return nil, err
	}
	a.step("report")
	if err := a.judge(); err != nil {
		return nil, err
	}
	if err := fpReported.Hit(); err != nil {
		return nil, err
	}
	return a.publish(ctx, a.cfg.Live.Stage)
}

// begin finds the base, and has the live half serve it if an earlier run
// published it without knowing.
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

// cut writes the marker and waits until the archive has reached it.
func (a *attempt) cut(ctx context.Context) error {
	cut, err := a.cfg.Live.Cut(ctx)
	if err != nil {
		return fmt.Errorf("the cut marker: %w", err)
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
	patient, cancel := a.patient(ctx, "the archive")
	defer cancel()
	if err := a.cfg.Archive.Wait(patient, a.at); err != nil {
		if a.cfg.Archiver != nil {
			err = errors.Join(err, a.cfg.Archiver.Err())
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

// patient bounds a wait; the cause says for what.
func (a *attempt) patient(ctx context.Context, what string) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, a.cfg.Patience, fmt.Errorf("%s did not reach the run's cut within %s", what, a.cfg.Patience))
}

// judge writes the report and decides by it.
func (a *attempt) judge() error {
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
			a.alarm(AlarmSuspended, a.run.ID, fmt.Sprintf("view %s is suspended at position %s, record %d: %s; %s", v.Name, s.At, s.Record, s.Message, s.Remedy))
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
		g = now // it was published all the same
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

// switchTo has the live half serve what it has staged.
func (a *attempt) switchTo(ctx context.Context, g *catalog.Generation) error {
	// The number is published: being stopped now must not leave it unserved.
	if err := a.cfg.Live.Switch(context.WithoutCancel(ctx), g); err != nil {
		return &switchError{err}
	}
	a.mu.Lock()
	a.serving = g.Number
	a.mu.Unlock()
	return nil
}

// rollback publishes an earlier generation's cells as a new number.
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

// clean deletes the run's rubbish and, if it published, what is not kept any
// more. Failing at it costs disk space, not answers.
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
		a.alarm(AlarmCleaning, a.run.ID, "what is not needed any more could not be deleted, and is tried again after the next run: "+strings.Join(problems, "; "))
	}
}
