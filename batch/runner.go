// Package batch is the batch half: it archives what the live half has passed
// (batch/archive), computes generations of every view from the archive in a child
// process (batch/recompute), compares them with the live half, and publishes them
// (batch/catalog). Start reading at [Runner], then steps.go, which lists what a
// run does. The package must not know how the live half works: that is behind
// [Live].
//
// # Files, in the data folder
//
//	archive/           batch/archive
//	generations/       batch/catalog
//	runs/<id>.json     the record of each run (durable.Seal)
//	reports/<id>.json  the reconciliation report of each run that compared
//	schedule.json      whether the schedule is paused, and the last tick of each kind
//	tmp-runs/<id>/     a run's unpublished files; emptied at start
//
// # Which runs may overlap
//
// None: one run goes on at a time. One more, requested by hand, may be queued
// behind it; a tick of the schedule during a run is skipped and counted on that
// run. A repeated request id returns the same run. A run that fails, is killed
// or is held leaves the serving generation as it is.
//
// Schedules and this package's records are hints. Between two runners the
// exclusive publishing of a number decides (H10): the loser's run ends as fenced,
// and its runner starts no further run.
package batch

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"sync"
	"time"

	"duet/batch/archive"
	"duet/batch/catalog"
	"duet/batch/recompute"
	"duet/internal/base/durable"
	"duet/internal/base/lifecycle"
)

// Config configures a [Runner]. Dir, Archive, Catalog, Live, Views, Child and
// Fatal are required.
type Config struct {
	Dir     string // the data folder
	Archive *archive.Archive
	Catalog *catalog.Catalog
	Live    Live
	// Views returns the definitions in force. It is called once a run.
	Views func() []recompute.View
	// Child returns the command that starts the child process; the path of the
	// job file is appended to its arguments. It ends in recompute.Main.
	Child func() *exec.Cmd

	// Incremental and Full say when runs start by themselves; the zero Schedule
	// is never.
	Incremental, Full Schedule

	Threads      int     // of the child; defaults to 1
	Memory       int64   // memory limit of the child's DuckDB in bytes; defaults to 2 GB
	AddressSpace uint64  // RLIMIT_AS of the child in bytes; 0 means none
	Nice         int     // priority of the child, 1 to 19; defaults to 10
	Tolerance    float64 // relative, of DOUBLE cells; defaults to 1e-9
	Largest      int     // differences of a view that a report lists; defaults to 20
	// WaitTimeout limits how long a run waits for the archive and for the live
	// half to reach its cut; defaults to 10 minutes.
	WaitTimeout time.Duration
	// StallTimeout limits how long the child may make no progress before it is
	// killed; a run starts it twice. Defaults to 2 minutes.
	StallTimeout time.Duration
	// RunTimeout limits how long a run may take; defaults to 12 hours.
	RunTimeout time.Duration
	// Archiver explains in a run's reason why the archive lags; may be nil.
	Archiver *archive.Archiver

	Files *durable.Files   // defaults to durable.OS
	Now   func() time.Time // the wall clock; defaults to time.Now
	Hooks Hooks
	// Fatal is called when a generation is published but the live half could not
	// switch to it. The process must end, and the next start loads the generation;
	// the runner starts no further run. Fatal must not wait for the runner.
	Fatal func(error)
}

func (c Config) withDefaults() (Config, error) {
	if c.Dir == "" || c.Archive == nil || c.Catalog == nil || c.Live == nil || c.Views == nil || c.Child == nil || c.Fatal == nil {
		return c, errors.New("batch: Dir, Archive, Catalog, Live, Views, Child and Fatal are required")
	}
	if c.Threads == 0 {
		c.Threads = 1
	}
	if c.Memory == 0 {
		c.Memory = 2 << 30
	}
	if c.Nice == 0 {
		c.Nice = 10
	}
	if c.Tolerance == 0 {
		c.Tolerance = 1e-9
	}
	if c.Largest == 0 {
		c.Largest = 20
	}
	if c.WaitTimeout == 0 {
		c.WaitTimeout = 10 * time.Minute
	}
	if c.StallTimeout == 0 {
		c.StallTimeout = 2 * time.Minute
	}
	if c.RunTimeout == 0 {
		c.RunTimeout = 12 * time.Hour
	}
	if c.Files == nil {
		c.Files = durable.OS
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c, nil
}

// Runner starts runs by hand and by schedule. It is safe for concurrent use.
type Runner struct {
	lifecycle.Base
	cfg Config

	mu      sync.Mutex // guards what follows, and the runs that history holds
	history *history
	sched   scheduleState
	running *Run // nil when idle
	queued  *Run
	serving uint64        // the generation that the live half serves
	broken  error         // once set, no run starts any more
	changed chan struct{} // closed and replaced when a run changes
	started bool          // requests are taken
	stopped bool

	work chan struct{} // one token: running is to be executed
	wake chan struct{} // one token: the schedule has changed
}

// NewRunner opens the history in cfg.Dir and returns a runner that is not
// started. The live half must serve the catalog's current generation already.
func NewRunner(cfg Config) (*Runner, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	h, sched, damaged, err := openHistory(cfg.Files, cfg.Dir, cfg.Now().UTC())
	if err != nil {
		return nil, err
	}
	r := &Runner{
		cfg: cfg, history: h, sched: sched, changed: make(chan struct{}),
		work: make(chan struct{}, 1), wake: make(chan struct{}, 1),
	}
	if g := cfg.Catalog.Current(); g != nil {
		r.serving = g.Number
	}
	for _, err := range damaged {
		r.alarm(AlarmHistory, "", "the record of a run is damaged: "+err.Error()+"; delete it")
	}
	return r, nil
}

// Start begins to execute runs and to follow the schedule. It fails if called
// twice or after Stop.
func (r *Runner) Start(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	err := r.Go(ctx, func(ctx context.Context) error {
		var loops sync.WaitGroup
		loops.Go(func() { r.executeAll(ctx) })
		loops.Go(func() { r.follow(ctx) })
		loops.Wait()
		r.abandon()
		return nil
	})
	r.started = err == nil
	return err
}

// Stop ends the running run (its child is killed, the old generation serves on),
// drops the queued one, and waits for both. It may be called more than once, and
// without Start.
func (r *Runner) Stop() {
	r.mu.Lock()
	r.stopped = true
	r.mu.Unlock()
	r.Base.Stop()
}

// abandon ends the runs that are left when the runner has stopped.
func (r *Runner) abandon() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopped = true
	for _, run := range []*Run{r.running, r.queued} {
		if run != nil {
			r.end(run, Failed, ErrStopped.Error())
		}
	}
	r.running, r.queued = nil, nil
}

// Run requests a run and returns at once. If a run is going on, the new one is
// queued behind it; if one is queued already, Run returns a [*BusyError].
func (r *Runner) Run(req Request) (Run, error) {
	kind := Incremental
	if req.Full {
		kind = Full
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.request(Run{RequestID: req.RequestID, Kind: kind, Trigger: Manual, Accept: req.Accept})
}

// Rollback pauses the schedule, durably, and requests a run that publishes the
// cells of an earlier generation, which must be kept, under a new number. The
// reason is kept in the run's record. The schedule stays paused until
// [Runner.Resume].
func (r *Runner) Rollback(number uint64, reason, requestID string) (Run, error) {
	g := r.cfg.Catalog.Current()
	if g == nil || !slices.Contains(g.Kept, number) {
		return Run{}, &catalog.NotKeptError{Number: number}
	}
	before := r.Schedule()
	if err := r.Pause(fmt.Sprintf("rollback to generation %d: %s", number, reason)); err != nil {
		return Run{}, err
	}
	r.mu.Lock()
	run, err := r.request(Run{RequestID: requestID, Kind: Rollback, Trigger: Manual, Target: number, Note: reason})
	r.mu.Unlock()
	if err != nil { // nothing will be rolled back: restore the schedule
		if before.Paused {
			err = errors.Join(err, r.Pause(before.Reason))
		} else {
			err = errors.Join(err, r.Resume())
		}
	}
	return run, err
}

// request makes a run of a draft: running if none is, else queued. mu is held.
func (r *Runner) request(draft Run) (Run, error) {
	if same := r.history.byRequest(draft.RequestID); same != nil {
		return same.clone(), nil
	}
	if r.broken != nil {
		return Run{}, r.broken
	}
	if r.stopped || !r.started {
		return Run{}, ErrStopped
	}
	if r.running != nil && r.queued != nil {
		return Run{}, &BusyError{Running: r.running.ID, Queued: r.queued.ID}
	}
	run := &draft
	run.ID, run.State, run.Queued = durable.Name(), Queued, r.cfg.Now().UTC()
	if err := r.history.add(run); err != nil {
		return Run{}, err
	}
	if r.running == nil {
		r.running = run
		r.work <- struct{}{}
	} else {
		r.queued = run
	}
	r.notify()
	return run.clone(), nil
}

// executeAll executes runs, one after the other, until ctx ends.
func (r *Runner) executeAll(ctx context.Context) {
	for {
		select {
		case <-r.work:
		case <-ctx.Done():
			return
		}
		r.mu.Lock()
		run := r.running
		r.mu.Unlock()
		r.executeRun(ctx, run)
	}
}

// finish ends the running run and makes the queued one running. mu is held.
func (r *Runner) finish(state State, reason string) Run {
	run := r.running
	r.end(run, state, reason)
	r.running, r.queued = r.queued, nil
	if r.running != nil && r.broken != nil {
		r.end(r.running, Failed, r.broken.Error())
		r.running = nil
	}
	if r.running != nil {
		r.work <- struct{}{}
	}
	return run.clone()
}

// Get returns the record of a run, or an [*UnknownRunError].
func (r *Runner) Get(id string) (Run, error) {
	run, _, err := r.Watch(id)
	return run, err
}

// List returns the kept runs, newest first, at most limit; 0 means all.
func (r *Runner) List(limit int) []Run {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []Run
	for i := len(r.history.order) - 1; i >= 0 && (limit == 0 || len(out) < limit); i-- {
		out = append(out, r.history.runs[r.history.order[i]].clone())
	}
	return out
}

// Watch returns the record of a run, and a channel that is closed when any run
// has changed since.
func (r *Runner) Watch(id string) (Run, <-chan struct{}, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	run := r.history.runs[id]
	if run == nil {
		return Run{}, nil, &UnknownRunError{ID: id}
	}
	return run.clone(), r.changed, nil
}

// Wait returns the record of a run when the run has ended.
func (r *Runner) Wait(ctx context.Context, id string) (Run, error) {
	for {
		run, changed, err := r.Watch(id)
		if err != nil || run.State.Final() {
			return run, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return run, context.Cause(ctx)
		}
	}
}

// Report returns the reconciliation report of a run; "" means the newest run
// that has one. It returns an [*UnknownRunError] if the run has none.
func (r *Runner) Report(id string) (*recompute.Report, error) {
	r.mu.Lock()
	for i := len(r.history.order) - 1; i >= 0 && id == ""; i-- {
		if run := r.history.runs[r.history.order[i]]; run.Verdict != "" {
			id = run.ID
		}
	}
	run := r.history.runs[id]
	known := run != nil && run.Verdict != ""
	r.mu.Unlock()
	if !known {
		return nil, &UnknownRunError{ID: id}
	}
	return r.history.report(id)
}

// Err returns why the runner starts no further run: it was fenced, a switch
// failed, or it has ended. It returns nil while the runner works.
func (r *Runner) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.broken != nil {
		return r.broken
	}
	return r.Base.Err()
}

// update changes a run's record under the mutex and notifies watchers.
func (r *Runner) update(run *Run, f func(*Run)) {
	r.mu.Lock()
	f(run)
	r.notify()
	copied := run.clone()
	r.mu.Unlock()
	if r.cfg.Hooks.RunChanged != nil {
		r.cfg.Hooks.RunChanged(copied)
	}
}

// end puts a run into a final state and writes its record. mu is held. A record
// that cannot be written (a full disk) stays in memory; after a restart the run
// reads "the process ended".
func (r *Runner) end(run *Run, state State, reason string) {
	run.State, run.Reason, run.Finished, run.Progress, run.Warning = state, reason, r.cfg.Now().UTC(), nil, ""
	_ = r.history.save(run)
	_ = r.history.prune()
	_ = r.history.dropUnchanged()
	r.notify()
}

// notify wakes the watchers. mu is held.
func (r *Runner) notify() {
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *Runner) alarm(kind AlarmKind, run, text string) {
	if r.cfg.Hooks.Alarm != nil {
		r.cfg.Hooks.Alarm(Alarm{Kind: kind, Run: run, Text: text})
	}
}
