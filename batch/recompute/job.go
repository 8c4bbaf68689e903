// Package recompute computes a generation's cells from archived rows and compares
// them with the live half's. It runs in a child process, so that neither its memory
// nor a crash of native code reaches the server. Start reading at [Main], the
// child, and [Start], its parent. The package must not know how runs are scheduled
// or how generations are published (batch, batch/catalog).
//
// # Protocol
//
// The parent writes a job to a file and starts the child with the file's path:
//
//	parent                                    child
//	  job.json  ------------------------------> reads, lowers its priority and limits
//	            <-- {"progress":{...}} per step  stdout, one JSON document a line
//	            <-- {"alive":true}               every few seconds while it makes progress
//	  {"live":{...}} ------------------------>  stdin, when the live half has passed the cut
//	            <-- {"result":{...}}             or {"failure":{...}}; then it exits
//
// The child computes while the parent waits for the live half. It exits at once
// when its stdin closes, so that it does not outlive its parent. It writes cell
// files to Job.Dir, reads them back, checksums and syncs them; the parent brings
// them into the catalog.
//
// # Views
//
// A view is SQL text: Partial reads [RowsTable], Merge and Final read
// [CellsTable]. Rows are selected by position, never by file (H2). A full
// computation reads every row up to the cut; an incremental one merges the base's
// cells with the partial of the rows after the base's cut.
//
// An expression that cannot be evaluated suspends its view alone, at the position
// that bisection finds. Running out of memory or disk fails the job and suspends
// nothing.
package recompute

import (
	"fmt"
	"time"

	"duet/batch/archive"
	"duet/internal/base/durable"
	"duet/schemas"
)

// The relations that a view's SQL reads.
const (
	RowsTable  = "_duet_rows"  // a stream's rows, with ColAt and ColRecord
	CellsTable = "_duet_cells" // partial rows: keys and cells
)

// FormatVersion is the version of the format of jobs and reports.
const FormatVersion = 1

// Mode says what a view is computed from.
type Mode string

// The modes of a view.
const (
	Full        Mode = "full"        // all archived rows up to the cut
	Incremental Mode = "incremental" // the base's cells and the rows after the base's cut
)

// Column is a key or a cell of a view.
type Column struct {
	Name  string `json:"name"`  // k0.., c0..
	Type  string `json:"type"`  // SQL type
	Exact bool   `json:"exact"` // equal bit for bit in both halves; else within the tolerance
	// Magnitude is the SQL expression, over the cells of one row, that the rounding
	// of an inexact cell is relative to: sum(|x|) for sum(x). "" for an exact cell.
	Magnitude string `json:"magnitude,omitempty"`
	Label     string `json:"label"` // a key's output column; "" for a cell
}

// View is one view as SQL text. The package comment says which tables it reads.
type View struct {
	Name       string   `json:"name"`
	Stream     string   `json:"stream"`
	Definition string   `json:"definition"` // the view version, from [schemas/view]
	Partial    string   `json:"partial"`    // RowsTable -> keys and cells
	Merge      string   `json:"merge"`      // CellsTable -> keys and cells, one row a group
	Final      string   `json:"final"`      // CellsTable -> the columns of the user's SELECT
	Keys       []Column `json:"keys"`
	Cells      []Column `json:"cells"`
}

// ViewJob is one view to compute.
type ViewJob struct {
	View
	Mode Mode `json:"mode"`
	// Base is the file of the base's cells; "" if the base has none.
	Base string `json:"base,omitempty"`
	// Cause explains differences from the live half, if a control record does:
	// "definition". A difference without a cause is unexplained.
	Cause string `json:"cause,omitempty"`
}

// StreamJob is one stream's archived rows.
type StreamJob struct {
	Name  string         `json:"name"`
	Files []archive.File `json:"files"` // every file that may hold rows of the span
	// Totals are the manifest's over the compared span. The child counts events by
	// verdict and sums the rows in the files; they must agree (H6).
	Totals archive.Totals `json:"totals"`
}

// Job is the child's input.
type Job struct {
	Format  int              `json:"format"`
	Run     string           `json:"run"`
	Dir     string           `json:"dir"`     // where to write; it exists
	Archive string           `json:"archive"` // the archive's folder
	After   schemas.Position `json:"after"`   // the base's cut, exclusive
	Through schemas.Position `json:"through"` // the cut
	Full    bool             `json:"full"`    // the report covers everything up to Through, not (After, Through]
	Streams []StreamJob      `json:"streams"`
	// Envelopes are the files of archive.Envelopes that may hold the span's counts.
	Envelopes []archive.File `json:"envelopes"`
	Views     []ViewJob      `json:"views"`

	Threads      int    `json:"threads"`       // at least 1
	Memory       int64  `json:"memory"`        // DuckDB's memory limit, bytes; 0 means DuckDB's default
	AddressSpace uint64 `json:"address_space"` // RLIMIT_AS, bytes; 0 means none
	Nice         int    `json:"nice"`          // priority, 0 to 19
	// Tolerance is the difference that inexact cells may have, relative to their
	// magnitude. Sums of n DOUBLEs in two orders differ by at most 2n·2^-53·sum(|x|),
	// so 1e-9 always suffices up to 4.5 million terms a cell; errors that are not all
	// in one direction grow with the root of n only.
	Tolerance float64 `json:"tolerance"`
	// Largest is the number of differences that the report lists for a view.
	Largest int `json:"largest"`
	// Heartbeat is the interval at which a child at work sends a line at least.
	Heartbeat time.Duration `json:"heartbeat"`
}

// LiveView holds the live half's cells of a view in (base's cut, cut].
type LiveView struct {
	Path string `json:"path,omitempty"` // Parquet of keys and cells; "" means no rows
	// Missing says why there is nothing to compare with ("suspended",
	// "definition"); "" if the view can be compared.
	Missing string `json:"missing,omitempty"`
}

// Live holds the live half's totals and cells up to the cut.
type Live struct {
	// Totals by stream over the report's span.
	Totals map[string]archive.Totals `json:"totals"`
	Views  map[string]LiveView       `json:"views"`
}

// Progress reports a step of the child.
type Progress struct {
	Step   string `json:"step"` // totals, compute, locate, write, compare
	View   string `json:"view,omitempty"`
	Done   int    `json:"done"`  // views that are finished
	Total  int    `json:"total"` // views of the job
	Rows   int64  `json:"rows,omitempty"`
	Micros int64  `json:"micros,omitempty"` // of the step, when it has ended
}

// Suspension says why a view cannot answer, in either half. Immutable.
type Suspension struct {
	View    string           `json:"view"`
	At      schemas.Position `json:"at"`              // the event's message; the last one tried if no single event is the cause
	Record  int32            `json:"record"`          // the event's index in it; -1 if no single event is the cause
	Event   string           `json:"event,omitempty"` // the event's columns as name=value, where known
	Message string           `json:"message"`         // DuckDB's, with the expression's function and value; or the limit that is exceeded
	Remedy  string           `json:"remedy"`
	// Unfit is set if the cells could be computed but not served: they do not fit
	// in memory, or exceed max_groups. The generation keeps their file, and a
	// later run tries again.
	Unfit bool `json:"unfit,omitempty"`
}

// String returns one sentence: the view, where it stopped, why, and what to do.
func (s Suspension) String() string {
	where := "position " + s.At.String()
	if s.Record >= 0 {
		where += fmt.Sprintf(", record %d", s.Record)
	}
	if s.Event != "" {
		where += " (" + s.Event + ")"
	}
	return fmt.Sprintf("view %s is suspended since %s: %s; %s", s.View, where, s.Message, s.Remedy)
}

// ViewResult is the result of one view.
type ViewResult struct {
	Name      string      `json:"name"`
	Suspended *Suspension `json:"suspended,omitempty"`
	File      string      `json:"file,omitempty"` // in Job.Dir, synced; "" if suspended
	Rows      int64       `json:"rows"`
	durable.Sum
}

// Result is the child's output.
type Result struct {
	Views  []ViewResult `json:"views"`
	Report Report       `json:"report"`
}

// Failure is why the child has no result.
type Failure struct {
	Message string `json:"message"`
	// Memory is set if it ran out of memory: one with less memory may succeed.
	Memory bool `json:"memory"`
	// Mismatch is set if archived rows disagree with the manifest (H6).
	Mismatch bool `json:"mismatch"`
}

// down is a line from the parent.
type down struct {
	Live *Live `json:"live,omitempty"`
}

// up is a line from the child; one field is set.
type up struct {
	// Alive says that the child works, or waits for the parent.
	Alive    bool      `json:"alive,omitempty"`
	Progress *Progress `json:"progress,omitempty"`
	Result   *Result   `json:"result,omitempty"`
	Failure  *Failure  `json:"failure,omitempty"`
}
