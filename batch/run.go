package batch

import (
	"fmt"
	"slices"
	"time"

	"duet/batch/recompute"
	"duet/internal/base/lifecycle"
	"duet/schemas"
)

// Kind says what a run does.
type Kind string

// The kinds of a run.
const (
	Incremental Kind = "incremental" // merges the base's cells with what came since
	Full        Kind = "full"        // computes everything from the archive
	Rollback    Kind = "rollback"    // publishes an earlier generation's cells under a new number
	Withdrawal  Kind = "withdrawal"  // the same, while no process serves; see Withdraw
)

// Trigger says why a run was started.
type Trigger string

// The triggers of a run.
const (
	Manual    Trigger = "manual"
	Scheduled Trigger = "schedule"
	CatchUp   Trigger = "catch-up" // ticks were missed while no process ran
)

// State says where a run stands.
type State string

// The states of a run. All but the first two are final.
const (
	Queued    State = "queued"
	Running   State = "running"
	Published State = "published"
	Held      State = "held"   // unexplained differences: the old generation serves on
	Failed    State = "failed" // the old generation serves on
	Fenced    State = "fenced" // another process published first
	// Unchanged means that nothing has come since the base, which therefore serves
	// on: no event, no definition, no view to stage again.
	Unchanged State = "unchanged"
)

// Final reports whether a run in this state has ended.
func (s State) Final() bool { return s != Queued && s != Running }

// Run is the record of one run, as kept in data/runs.
type Run struct {
	ID        string  `json:"id"`
	RequestID string  `json:"request_id,omitempty"` // drawn by the caller; the same id is the same run
	Kind      Kind    `json:"kind"`
	Trigger   Trigger `json:"trigger"`
	Accept    bool    `json:"accept,omitempty"` // publish unexplained differences
	Target    uint64  `json:"target,omitempty"` // rollback: the generation whose cells are published
	Note      string  `json:"note,omitempty"`   // rollback: the operator's reason

	State  State  `json:"state"`
	Step   string `json:"step,omitempty"`   // of a running run, or where it ended
	Reason string `json:"reason,omitempty"` // why it did not publish; "" for an unchanged run

	// Warning says what is wrong with a running run, and what will happen.
	Warning string `json:"warning,omitempty"`

	Queued   time.Time `json:"queued"`
	Started  time.Time `json:"started,omitzero"`
	Finished time.Time `json:"finished,omitzero"`

	Base       uint64      `json:"base"`                 // the generation that it started from
	Generation uint64      `json:"generation,omitempty"` // the generation that it published
	Cut        schemas.Cut `json:"cut,omitempty"`
	Attempts   int         `json:"attempts,omitempty"` // child processes; 2 after one that was tried again
	Missed     int         `json:"missed,omitempty"`   // earlier ticks that this run stands for
	Skipped    int         `json:"skipped,omitempty"`  // ticks that were skipped because of this run
	SkippedAt  time.Time   `json:"skipped_at,omitzero"`

	Steps    []StepTime          `json:"steps,omitempty"`
	Progress *recompute.Progress `json:"progress,omitempty"` // the child's last
	Verdict  recompute.Verdict   `json:"verdict,omitempty"`  // of its report; "" if it has none
	// Suspended names the views that are suspended in the generation.
	Suspended []string `json:"suspended,omitempty"`
}

// clone returns a copy that shares nothing with the runner.
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

// StepTime is how long a step took.
type StepTime struct {
	Step   string `json:"step"`
	Micros int64  `json:"micros"`
}

// Request asks for a run.
type Request struct {
	Full   bool
	Accept bool // publish even if differences are unexplained
	// RequestID makes a repeated request safe: the same id returns the same run.
	// "" always starts a new one.
	RequestID string
}

// BusyError reports that one run is going on and another is queued behind it.
type BusyError struct{ Running, Queued string }

// Error returns both ids.
func (e *BusyError) Error() string {
	return fmt.Sprintf("run %s is going on and %s is queued behind it: ask again when one has ended", e.Running, e.Queued)
}

// UnknownRunError reports that no run has this id.
type UnknownRunError struct{ ID string }

// Error returns the id.
func (e *UnknownRunError) Error() string {
	return fmt.Sprintf("run %s is not known: the last %d runs are kept", e.ID, historyLimit)
}

// ErrStopped reports that the runner is not started, stopping or stopped.
var ErrStopped = fmt.Errorf("the batch half is %w", lifecycle.ErrStopped)
