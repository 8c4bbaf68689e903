package batch

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"duet/batch/archive"
	"duet/batch/catalog"
	"duet/batch/recompute"
)

// CauseDefinition explains differences in a view whose definition is not the one
// that the base's cells were computed under.
const CauseDefinition = "definition"

// plan says which views the child computes and which are carried over from the
// base.
type plan struct {
	jobs    []recompute.ViewJob
	carried []catalog.View        // the base's entries, taken over unchanged
	checks  []recompute.ViewCheck // of carried views
	views   map[string]recompute.View
}

// plan decides for each view. A view is computed in full if the run is full, or
// if the base does not have it under its present definition. Otherwise it is
// carried over if no event can be computed or its stream had no rows since, and
// else computed incrementally.
func (a *attempt) plan(views []recompute.View) plan {
	p := plan{views: map[string]recompute.View{}}
	for _, v := range views {
		p.views[v.Name] = v
		var bv *catalog.View
		if a.base != nil {
			bv = a.base.View(v.Name)
		}
		known := bv != nil && bv.Definition == v.Definition
		job := recompute.ViewJob{View: v, Mode: recompute.Full}
		if a.base != nil && !known {
			job.Cause = CauseDefinition
		}
		if known && bv.File != "" {
			job.Base = a.cfg.Catalog.Path(*bv)
		}
		switch {
		case a.run.Kind == Full || !known:
		case bv.File == "":
			p.carry(*bv, "suspended")
			continue
		case a.totals[v.Stream].Accepted == a.base.Streams[v.Stream].Accepted:
			p.carry(*bv, "no events since the base")
			continue
		default:
			job.Mode = recompute.Incremental
		}
		p.jobs = append(p.jobs, job)
	}
	return p
}

func (p *plan) carry(v catalog.View, why string) {
	v = v.Fresh()
	p.carried = append(p.carried, v)
	p.checks = append(p.checks, recompute.ViewCheck{View: v.Name, Verdict: recompute.Equal, Missing: why})
}

// compute starts the child with the views that the plan says, and fills in the
// draft and the report.
func (a *attempt) compute(ctx context.Context, views []recompute.View) error {
	p := a.plan(views)
	a.draft.Kind = catalog.Incremental
	if a.run.Kind == Full || a.base == nil {
		a.draft.Kind = catalog.Full
	}
	a.draft.Views = p.carried
	a.draft.New = map[string]string{}
	job, err := a.job(ctx, p)
	if err != nil {
		return err
	}
	var result recompute.Result
	if len(p.jobs) == 0 {
		// Nothing to compute: publish the base's files at the new cut. Still compare
		// the control totals.
		if result.Report, err = a.compareTotals(ctx, job); err != nil {
			return err
		}
	} else if result, err = a.runChildren(ctx, job); err != nil {
		return err
	}
	for _, v := range result.Views {
		view := p.views[v.Name]
		g := catalog.View{Name: v.Name, Definition: view.Definition, Suspended: v.Suspended, Rows: v.Rows, Sum: v.Sum}
		for _, k := range view.Keys {
			g.Keys = append(g.Keys, k.Name)
		}
		for _, c := range view.Cells {
			g.Cells = append(g.Cells, c.Name)
		}
		a.draft.Views = append(a.draft.Views, g)
		if v.Suspended == nil {
			a.draft.New[v.Name] = filepath.Join(job.Dir, v.File)
		}
	}
	a.report = &result.Report
	a.report.Views = append(a.report.Views, p.checks...)
	return nil
}

// job returns the child's job. It verifies the checksums of every file that the
// child reads or that is carried over, so that native code never reads a file
// that changed after it was written (H6).
func (a *attempt) job(ctx context.Context, p plan) (recompute.Job, error) {
	job := recompute.Job{
		Format: recompute.FormatVersion, Run: a.run.ID, Dir: filepath.Join(a.dir, "cells"), Archive: a.cfg.Archive.Dir(),
		Through: a.at, Full: a.draft.Kind == catalog.Full, Views: p.jobs,
		Threads: a.cfg.Threads, Memory: a.cfg.Memory, AddressSpace: a.cfg.AddressSpace, Nice: a.cfg.Nice,
		Tolerance: a.cfg.Tolerance, Largest: a.cfg.Largest,
	}
	if a.base != nil {
		job.After = a.base.Cut.Position()
	}
	names := maps.Clone(a.totals)
	full := map[string]bool{}
	for _, j := range p.jobs {
		if _, ok := names[j.Stream]; !ok {
			names[j.Stream] = archive.Totals{}
		}
		full[j.Stream] = full[j.Stream] || j.Mode == recompute.Full
	}
	for again := 0; ; again++ {
		job.Streams = nil
		err := a.streams(ctx, &job, names, full)
		if !errors.Is(err, archive.ErrRepaired) || again > 0 {
			return job, err
		}
		a.snap.Release()
		a.snap = a.cfg.Archive.Snapshot()
		a.draft.Archive = a.snap.Number
	}
}

// streams puts the streams' files and totals into the job, and verifies every
// file that the job or the new generation names.
func (a *attempt) streams(ctx context.Context, job *recompute.Job, names map[string]archive.Totals, full map[string]bool) error {
	for _, name := range slices.Sorted(maps.Keys(names)) {
		after := job.After
		if job.Full || full[name] {
			after = 0
		}
		s := recompute.StreamJob{Name: name, Totals: names[name], Files: a.snap.FilesFor(name, after, a.at)}
		if !job.Full && a.base != nil {
			s.Totals = s.Totals.Minus(a.base.Streams[name])
		}
		if err := a.cfg.Archive.Verify(ctx, s.Files); err != nil {
			return err
		}
		job.Streams = append(job.Streams, s)
	}
	after := job.After
	if job.Full {
		after = 0
	}
	job.Envelopes = a.snap.FilesFor(archive.Envelopes, after, a.at)
	if err := a.cfg.Archive.Verify(ctx, job.Envelopes); err != nil {
		return err
	}
	if a.base == nil {
		return nil
	}
	base := *a.base
	base.Views = slices.Clone(a.draft.Views) // carried over; the live half loads them
	for _, j := range job.Views {
		if j.Base != "" {
			base.Views = append(base.Views, *a.base.View(j.Name))
		}
	}
	return a.cfg.Catalog.Verify(&base)
}

// runChildren runs the child, and once more if it made no progress, or with less
// memory if it ran out of it.
func (a *attempt) runChildren(ctx context.Context, job recompute.Job) (recompute.Result, error) {
	for n := 1; ; n++ {
		a.update(a.run, func(run *Run) { run.Attempts = n })
		result, err := a.runChild(ctx, job)
		var ce *recompute.ChildError
		if err == nil || n > 1 || !errors.As(err, &ce) || !ce.Memory && !ce.Stalled || ctx.Err() != nil {
			return result, err
		}
		if ce.Stalled {
			a.warn("the first child process made no progress for " + a.cfg.StallTimeout.String() + " and was killed; a second one is at work")
		} else {
			job.Threads = 1
		}
		if ce.Killed {
			job.Memory /= 2 // it used more than the machine has
		}
		if err := a.cfg.Files.RemoveAll(job.Dir); err != nil {
			return result, err
		}
	}
}

// runChild starts a child, sends it the live half's cells once the live half has
// passed the cut, and returns its result.
func (a *attempt) runChild(ctx context.Context, job recompute.Job) (recompute.Result, error) {
	if err := a.cfg.Files.MkdirAll(job.Dir); err != nil {
		return recompute.Result{}, err
	}
	c, err := recompute.Start(ctx, a.cfg.Child(), job, recompute.Watch{
		Timeout:  a.cfg.StallTimeout,
		Progress: func(p recompute.Progress) { a.update(a.run, func(run *Run) { run.Progress = &p }) },
		Silent: func(since time.Time) {
			if since.IsZero() {
				a.warn("")
				return
			}
			a.warn(fmt.Sprintf("the child process has made no progress since %s UTC; after %s without any it is killed, and the run starts another one, once", since.UTC().Format(time.TimeOnly), a.cfg.StallTimeout))
		},
	})
	if err != nil {
		return recompute.Result{}, err
	}
	defer c.Kill()
	// Collect the live half's cells while the child computes; stop if it ends early.
	collecting, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		select {
		case <-c.Done():
			stop()
		case <-collecting.Done():
		}
	}()
	live, err := a.liveCells(collecting, job)
	if err == nil {
		err = c.Compare(live)
	}
	select {
	case <-c.Done():
		err = nil // its own error says more
	default:
	}
	if err != nil {
		return recompute.Result{}, err
	}
	return c.Wait()
}

// warn records what is wrong with the run while it goes on; "" means nothing.
func (a *attempt) warn(text string) { a.update(a.run, func(run *Run) { run.Warning = text }) }

// liveCells collects what the live half has up to the cut, over the report's span.
func (a *attempt) liveCells(ctx context.Context, job recompute.Job) (recompute.Live, error) {
	live := recompute.Live{Views: map[string]recompute.LiveView{}}
	var err error
	if live.Totals, err = a.liveTotals(ctx, job); err != nil {
		return live, err
	}
	dir := filepath.Join(a.dir, "live")
	if err := a.cfg.Files.MkdirAll(dir); err != nil {
		return live, err
	}
	for _, v := range job.Views {
		if v.Cause == CauseDefinition {
			live.Views[v.Name] = recompute.LiveView{Missing: CauseDefinition}
			continue
		}
		if a.base != nil && v.Base == "" {
			live.Views[v.Name] = recompute.LiveView{Missing: "suspended in the base"}
			continue
		}
		path := filepath.Join(dir, v.Name+".parquet")
		_ = os.Remove(path) // left by the first child
		rows, err := a.cfg.Live.Export(ctx, v.Name, a.at, path)
		var not *NotComparableError
		switch {
		case errors.As(err, &not):
			live.Views[v.Name] = recompute.LiveView{Missing: not.Reason}
		case err != nil:
			return live, fmt.Errorf("export the live half's %s: %w", v.Name, err)
		case rows == 0:
			live.Views[v.Name] = recompute.LiveView{}
		default:
			live.Views[v.Name] = recompute.LiveView{Path: path}
		}
	}
	return live, nil
}

// liveTotals waits for the live half to pass the cut and returns its control
// totals over the report's span.
func (a *attempt) liveTotals(ctx context.Context, job recompute.Job) (map[string]archive.Totals, error) {
	waiting, cancel := a.withWaitTimeout(ctx, "the live half")
	defer cancel()
	if err := a.cfg.Live.Wait(waiting, a.at); err != nil {
		return nil, fmt.Errorf("wait for the live half to pass %s: %w", a.at, err)
	}
	recent, err := a.cfg.Live.Totals(ctx, job.After, a.at)
	if err != nil {
		return nil, fmt.Errorf("get the live half's control totals: %w", err)
	}
	if !job.Full || a.base == nil {
		return recent, nil
	}
	all := maps.Clone(a.base.Streams)
	for name, t := range recent {
		sum := all[name].Plus(t)
		// A column that the live half does not sum is not compared.
		maps.DeleteFunc(sum.Sums, func(col, _ string) bool { _, ok := t.Sums[col]; return !ok && t.Accepted > 0 })
		all[name] = sum
	}
	return all, nil
}

// compareTotals returns the report of a run that has nothing to compute.
func (a *attempt) compareTotals(ctx context.Context, job recompute.Job) (recompute.Report, error) {
	live, err := a.liveTotals(ctx, job)
	if err != nil {
		return recompute.Report{}, err
	}
	batch := map[string]archive.Totals{}
	for _, s := range job.Streams {
		batch[s.Name] = s.Totals
	}
	return recompute.CompareTotals(recompute.Report{
		Format: recompute.FormatVersion, Run: a.run.ID, Created: time.Now().UTC(), Full: job.Full, After: job.After, Through: a.at,
	}, live, batch), nil
}
