package batch

import (
	"context"
	"fmt"

	"duet/batch/archive"
	"duet/batch/catalog"
	"duet/batch/recompute"
	"duet/schemas"
)

// Live is the live half as the batch half uses it: it reads the log, keeps what
// came after the served generation's cut in segments that end at cut markers,
// and holds the served generation's cells. A [Runner] makes one call at a time.
//
// batchtest.Exercise is the conformance suite of every implementation.
type Live interface {
	// Cut writes a cut marker to the log and returns its position, the run's cut,
	// once the marker is durable. Segments and blocks end exactly there.
	Cut(ctx context.Context) (schemas.Cut, error)
	// Last returns the position of the log's last message; 0 for an empty log.
	Last() schemas.Position
	// Wait returns when the live half has passed a position.
	Wait(ctx context.Context, at schemas.Position) error
	// Totals returns the control totals by stream that the live half counted in
	// (after, through]; after is the served generation's cut. A stream without
	// events may be missing; so may the sum of a column that is not summed.
	Totals(ctx context.Context, after, through schemas.Position) (map[string]archive.Totals, error)
	// Export writes the cells of one view in (the served generation's cut,
	// through] to path as Parquet, one row a group, columns as in the view's Keys
	// and Cells, and returns the number of rows. It need not write 0 rows. It
	// returns a [*NotComparableError] if the view has nothing to compare with,
	// and an error if no segment ends at through.
	Export(ctx context.Context, view string, through schemas.Position, path string) (rows int64, err error)
	// Stage loads the cells of a generation that is not published yet beside the
	// served ones, where no reader sees them; files has the path of each view
	// that is not suspended. Staging a view whose file (View.File) is served
	// already costs nothing. Staging replaces what an earlier Stage or Rebuild
	// left; if it fails, nothing is staged and readers see no change.
	//
	// unfit lists the views that do not fit in memory or exceed their max_groups:
	// they alone are left out. The caller publishes g with these views suspended,
	// with the reasons given here; Switch serves them suspended.
	Stage(ctx context.Context, g *catalog.Generation, files map[string]string) (unfit []recompute.Suspension, err error)
	// Rebuild is Stage for a rollback, whose cut lies before the served one.
	// Besides staging the cells, it builds in shadow the complete live state after
	// g's cut, from the archive and the tail, and keeps it until Switch or
	// Discard. Whatever may fail (a damaged archive file, a full disk, too little
	// memory) fails here, before the generation is published (H12).
	Rebuild(ctx context.Context, g *catalog.Generation, files map[string]string) (unfit []recompute.Suspension, err error)
	// Switch makes what was staged the served generation, in one transaction (H4),
	// and drops the segments at or before its cut. After Rebuild it first folds
	// what has arrived since. g is published and has the number that was staged;
	// it must be higher than the served one (H9).
	Switch(ctx context.Context, g *catalog.Generation) error
	// Discard drops what was staged, if anything. A run that does not publish
	// calls it.
	Discard(ctx context.Context)
}

// NotComparableError reports that the live half has no cells of a view that
// could be compared with the batch half's.
type NotComparableError struct {
	View   string
	Reason string // "suspended", "rebuilding", "definition"
}

// Error returns the view and the reason.
func (e *NotComparableError) Error() string {
	return fmt.Sprintf("view %s cannot be compared: %s", e.View, e.Reason)
}

// Hooks are callbacks for metrics, logs and alarms. Every field may be nil. They
// are called without locks held and may call Get and Report; they must not block
// or wait for a run.
type Hooks struct {
	// RunChanged is called at each step and when a run ends.
	RunChanged func(Run)
	// Skipped is called when a tick is skipped because a run is going on.
	Skipped func(kind Kind, running Run)
	// Published is called after the switch to a new generation.
	Published func(g *catalog.Generation)
	// Alarm is called when a person should look.
	Alarm func(Alarm)
}

// AlarmKind says what an alarm is about.
type AlarmKind string

// The kinds of an alarm.
const (
	AlarmFailed    AlarmKind = "run_failed"
	AlarmHeld      AlarmKind = "run_held"        // unexplained differences
	AlarmMismatch  AlarmKind = "totals_mismatch" // the halves counted different events (H6)
	AlarmFenced    AlarmKind = "run_fenced"
	AlarmSuspended AlarmKind = "view_suspended"
	AlarmCleaning  AlarmKind = "cleaning_failed"
	AlarmHistory   AlarmKind = "history_damaged"
	AlarmSwitch    AlarmKind = "switch_failed" // published, but not served: the process must end
)

// Alarm is something that a person should look at.
type Alarm struct {
	Kind AlarmKind
	Run  string // id, "" if none
	Text string // what, where, what to do
}
