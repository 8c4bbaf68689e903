package batch

import (
	"errors"
	"fmt"
	"time"

	"duet/batch/recompute"
	"duet/schemas"
)

// Kind is what a run does.
type Kind string

// The kinds of a run.
const (
	Incremental Kind = "incremental" // the base's cells and what came since
	Full        Kind = "full"        // everything from the archive
	Rollback    Kind = "rollback"    // an earlier generation's cells, as a new number
)

// Trigger is why a run was started.
type Trigger string

// The triggers of a run.
const (
	Manual    Trigger = "manual"
	Scheduled Trigger = "schedule"
	CatchUp   Trigger = "catch-up" // ticks were missed while nothing ran
)

// State is where a run stands.
type State string

// The states of a run. All but the first two are final.
const (
	Queued    State = "queued"
	Running   State = "running"
	Published State = "published"
	Held      State = "held"   // unexplained differences: the old generation serves on
	Failed    State = "failed" // the old generation serves on
	Fenced    State = "fenced" // another process published first
)

// Final reports whether a run in this state has ended.
func (s State) Final() bool { return s != Queued && s != Running }

// Run is the record of one run, as kept in data/runs.
type Run struct {
	ID        string  `json:"id"`
	RequestID string  `json:"request_id,omitempty"` // of who asked; the same id is the same run
	Kind      Kind    `json:"kind"`
	Trigger   Trigger `json:"trigger"`
	Accept    bool    `json:"accept,omitempty"` // publish unexplained differences
	Target    uint64  `json:"target,omitempty"` // rollback: whose cells
	Note      string  `json:"note,omitempty"`   // rollback: the operator's reason

	State  State  `json:"state"`
	Step   string `json:"step,omitempty"`   // of a running run, or where it ended
	Reason string `json:"reason,omitempty"` // why it was not published

	Queued   time.Time `json:"queued"`
	Started  time.Time `json:"started,omitzero"`
	Finished time.Time `json:"finished,omitzero"`

	Base       uint64      `json:"base"`                 // the generation it began from
	Generation uint64      `json:"generation,omitempty"` // the one it published
	Cut        schemas.Cut `json:"cut,omitempty"`
	Attempts   int         `json:"attempts,omitempty"` // of the child; 2 after running out of memory
	Missed     int         `json:"missed,omitempty"`   // ticks that this run stands for, beyond its own
	Skipped    int         `json:"skipped,omitempty"`  // ticks that met this run
	SkippedAt  time.Time   `json:"skipped_at,omitzero"`

	Steps    []StepTime          `json:"steps,omitempty"`
	Progress *recompute.Progress `json:"progress,omitempty"` // the child's last
	Verdict  recompute.Verdict   `json:"verdict,omitempty"`  // its report's; "" if it has none
	// Suspended names the views that have no cells in the generation.
	Suspended []string `json:"suspended,omitempty"`
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
	// RequestID makes asking again safe: the same id returns the same run. ""
	// always asks anew.
	RequestID string
}

// BusyError says that a run is going on and another one is queued behind it.
type BusyError struct{ Running, Queued string }

// Error names both.
func (e *BusyError) Error() string {
	return fmt.Sprintf("run %s is going on and %s is queued behind it: ask again when one has ended", e.Running, e.Queued)
}

// UnknownRunError says that there is no such run.
type UnknownRunError struct{ ID string }

// Error names it.
func (e *UnknownRunError) Error() string {
	return fmt.Sprintf("run %s is not known: the last %d runs are kept", e.ID, historyLimit)
}

// ErrStopped says that the runner is stopped or stopping.
var ErrStopped = errors.New("the batch half is stopped")
