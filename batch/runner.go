// Package batch is the batch half: it archives what the live half has passed
// (batch/archive), computes generations of every view from the archive, by a
// child process (batch/recompute), checks them against the live half, and
// publishes them (batch/catalog). Start reading at [Runner], then steps.go for
// what a run does, in order. It must not know how the live half works: that is
// behind [Live].
//
// # Files, in the data folder
//
//	archive/         batch/archive
//	generations/     batch/catalog
//	runs/<id>.json   the record of each run (durable.Seal)
//	reports/<id>.json  the reconciliation report of each run that got so far
//	schedule.json    whether the schedule is paused, and which ticks it has heard
//	tmp-runs/<id>/   a run's files in the making; emptied at start
//
// # Who may run when
//
// One run goes on at a time. One more, asked for by hand, may be queued behind
// it; a tick of the schedule that meets a run is skipped and counted on it.
// Asking again with the same request id is asking for the same run. A run that
// fails, is killed, or is held leaves the generation that serves as it is.
//
// Schedules and this package's own bookkeeping are hints: what decides between
// two runners is the exclusive publishing of a number (H10). The loser's run
// ends as fenced, and its runner does not run again.
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
)

// Config is what a [Runner] needs. Dir, Archive, Catalog, Live, Views and Child
// are required.
type Config struct {
	Dir     string // the data folder
	Archive *archive.Archive
	Catalog *catalog.Catalog
	Live    Live
	// Views are the definitions in force. It is called once a run.
	Views func() []recompute.View
	// Child is the command that starts the child process; the job file's path is
	// appended to its arguments, and it ends in recompute.Main.
	Child func() *exec.Cmd

	// Incremental and Full say when runs start by themselves; the zero Schedule
	// is never.
	Incremental, Full Schedule

	Threads      int     // of the child; defaults to 1
	Memory       int64   // bytes for the child's DuckDB; defaults to 2 GB
	AddressSpace uint64  // RLIMIT_AS of the child in bytes; 0 means none
	Nice         int     // priority of the child, 1 to 19; defaults to 10
	Tolerance    float64 // relative, for DOUBLE cells; defaults to 1e-9
	Largest      int     // differences told in full, a view; defaults to 20
	// Patience is how long a run waits for the archive and the live half to
	// reach its cut; defaults to 10 minutes.
	Patience time.Duration
	// Longest is how long a run may take before it fails; defaults to 12 hours.
	Longest time.Duration
	// Archiver tells why the archive lags, for a run's reason; may be nil.
	Archiver *archive.Archiver

	Files *durable.Files   // defaults to durable.OS
	Now   func() time.Time // the wall clock; defaults to time.Now
	Hooks Hooks
	// Fatal is called when a generation is published but the live half could not
	// switch to it: the process must end, and recovery loads it. The runner
	// starts no further run. It must return without waiting for the runner. Required.
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
	if c.Patience == 0 {
		c.Patience = 10 * time.Minute
	}
	if c.Longest == 0 {
		c.Longest = 12 * time.Hour
	}
	if c.Files == nil {
		c.Files = durable.OS
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c, nil
}

// Runner starts runs by hand and by schedule. Safe for concurrent use.
type Runner struct {
	cfg Config

	mu      sync.Mutex // guards what follows, and the runs that history holds
	history *history
	sched   scheduleState
	running *Run // nil when idle
	queued  *Run
	serving uint64        // the generation that the live half serves
	broken  error         // once set, no run starts any more
	watch   chan struct{} // closed and replaced when a run changes
	started bool
	stopped bool

	work   chan struct{} // one token: there is a run to execute
	wake   chan struct{} // one token: the schedule has changed
	cancel context.CancelCauseFunc
	done   sync.WaitGroup
}

// NewRunner opens the history in cfg.Dir and returns a runner that is not
// started. The live half serves the catalog's current generation already.
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
		cfg: cfg, history: h, sched: sched, watch: make(chan struct{}),
		work: make(chan struct{}, 1), wake: make(chan struct{}, 1),
	}
	if g := cfg.Catalog.Current(); g != nil {
		r.serving = g.Number
	}
	for _, err := range damaged {
		r.alarm(AlarmHistory, "", "the record of a run: "+err.Error()+"; delete it")
	}
	return r, nil
}

// Start begins to execute runs and to follow the schedule. Starting twice, or
// after Stop, is an error.
func (r *Runner) Start() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.started || r.stopped {
		return errors.New("batch: started already, or stopped")
	}
	r.started = true
	ctx, cancel := context.WithCancelCause(context.Background())
	r.cancel = cancel
	r.done.Go(func() { r.execute(ctx) })
	r.done.Go(func() { r.follow(ctx) })
	return nil
}

// Stop ends the run that is going on (its child is killed, the old generation
// serves on), drops the queued one, and waits. Stopping twice, or without a
// start, is fine.
func (r *Runner) Stop() {
	r.mu.Lock()
	r.stopped = true
	cancel := r.cancel
	r.mu.Unlock()
	if cancel != nil {
		cancel(ErrStopped)
	}
	r.done.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, run := range []*Run{r.running, r.queued} {
		if run != nil {
			r.end(run, Failed, ErrStopped.Error())
		}
	}
	r.running, r.queued = nil, nil
}

// Run asks for a run and returns at once. If a run is going on, the new one is
// queued behind it, one deep; else a [*BusyError].
func (r *Runner) Run(req Request) (Run, error) {
	kind := Incremental
	if req.Full {
		kind = Full
	}
	return r.ask(Run{RequestID: req.RequestID, Kind: kind, Trigger: Manual, Accept: req.Accept})
}

// Rollback pauses the schedule, durably, and asks for a run that publishes the
// cells of an earlier generation, which must be kept, as a new number. The
// reason is for the record. The schedule stays paused until [Runner.Resume].
func (r *Runner) Rollback(number uint64, reason, requestID string) (Run, error) {
	g := r.cfg.Catalog.Current()
	if g == nil || !slices.Contains(g.Kept, number) {
		return Run{}, &catalog.NotKeptError{Number: number}
	}
	before := r.Schedule()
	if err := r.Pause(fmt.Sprintf("rollback to generation %d: %s", number, reason)); err != nil {
		return Run{}, err
	}
	run, err := r.ask(Run{RequestID: requestID, Kind: Rollback, Trigger: Manual, Target: number, Note: reason})
	if err != nil { // not asked: the schedule is as it was
		if before.Paused {
			err = errors.Join(err, r.Pause(before.Reason))
		} else {
			err = errors.Join(err, r.Resume())
		}
	}
	return run, err
}

// ask makes a run of a draft: running if nothing is, else queued.
func (r *Runner) ask(draft Run) (Run, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.askLocked(draft)
}

func (r *Runner) askLocked(draft Run) (Run, error) {
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
	r.changed()
	return run.clone(), nil
}

// execute executes runs, one after the other.
func (r *Runner) execute(ctx context.Context) {
	for {
		select {
		case <-r.work:
		case <-ctx.Done():
			return
		}
		r.mu.Lock()
		run := r.running
		r.mu.Unlock()
		r.one(ctx, run)
	}
}

// finish records how the running run ended and makes the queued one running. mu
// is held.
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

// Get is the record of a run.
func (r *Runner) Get(id string) (Run, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if run := r.history.runs[id]; run != nil {
		return run.clone(), nil
	}
	return Run{}, &UnknownRunError{ID: id}
}

// List has the kept runs, newest first, at most limit; 0 means all.
func (r *Runner) List(limit int) []Run {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []Run
	for i := len(r.history.order) - 1; i >= 0 && (limit == 0 || len(out) < limit); i-- {
		out = append(out, r.history.runs[r.history.order[i]].clone())
	}
	return out
}

// Watch returns the run as it is, and a channel that is closed when any run has
// changed after that.
func (r *Runner) Watch(id string) (Run, <-chan struct{}, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	run := r.history.runs[id]
	if run == nil {
		return Run{}, nil, &UnknownRunError{ID: id}
	}
	return run.clone(), r.watch, nil
}

// Wait waits until the run has ended.
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

// Report is the reconciliation report of a run; "" means the newest run that has
// one. A run without one is an [*UnknownRunError].
func (r *Runner) Report(id string) (*recompute.Report, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := len(r.history.order) - 1; i >= 0 && id == ""; i-- {
		if run := r.history.runs[r.history.order[i]]; run.Verdict != "" {
			id = run.ID
		}
	}
	if run := r.history.runs[id]; run == nil || run.Verdict == "" {
		return nil, &UnknownRunError{ID: id}
	}
	return r.history.report(id)
}

// Pin keeps a generation until Unpin.
func (r *Runner) Pin(number uint64) error { return r.cfg.Catalog.Pin(number) }

// Unpin lets the keep policy decide about a generation again.
func (r *Runner) Unpin(number uint64) error { return r.cfg.Catalog.Unpin(number) }

// Err is why the runner starts no further run: it was fenced, or a switch
// failed; nil as a rule.
func (r *Runner) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.broken
}

// update changes a run's record under the mutex and tells who watches.
func (r *Runner) update(run *Run, f func(*Run)) {
	r.mu.Lock()
	f(run)
	r.changed()
	copied := run.clone()
	r.mu.Unlock()
	if r.cfg.Hooks.RunChanged != nil {
		r.cfg.Hooks.RunChanged(copied)
	}
}

// end puts a run into a final state and writes its record. mu is held. A record
// that cannot be written (a full disk) stays in memory, and says "the process
// ended" after a restart.
func (r *Runner) end(run *Run, state State, reason string) {
	run.State, run.Reason, run.Finished, run.Progress = state, reason, r.cfg.Now().UTC(), nil
	_ = r.history.save(run)
	_ = r.history.prune()
	r.changed()
}

// changed wakes who watches. mu is held.
func (r *Runner) changed() {
	close(r.watch)
	r.watch = make(chan struct{})
}

func (r *Runner) alarm(kind AlarmKind, run, text string) {
	if r.cfg.Hooks.Alarm != nil {
		r.cfg.Hooks.Alarm(Alarm{Kind: kind, Run: run, Text: text})
	}
}

// clone is a copy that the runner does not change.
func (run *Run) clone() Run {
	c := *run
	c.Steps = slices.Clone(run.Steps)
	c.Suspended = slices.Clone(run.Suspended)
	c.Cut = slices.Clone(run.Cut)
	if run.Progress != nil {
		p := *run.Progress
		c.Progress = &p
	}
	return c
}
