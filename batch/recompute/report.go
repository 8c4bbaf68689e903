package recompute

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"duet/batch/archive"
	"duet/schemas"
)

// Verdict is the outcome of a comparison.
type Verdict string

// CauseInexact explains a difference in DOUBLE cells only, beyond the tolerance.
// It is reported and never holds a generation.
const CauseInexact = "inexact"

// The verdicts, from good to bad.
const (
	Equal       Verdict = "equal"       // bit for bit; DOUBLE within the tolerance
	Explained   Verdict = "explained"   // every difference has a known cause: restatements
	Unexplained Verdict = "unexplained" // something differs without a known cause: the old generation is held
	Mismatch    Verdict = "mismatch"    // control totals differ: the run fails (H6)
)

// Report is the reconciliation of both halves over a span of positions.
type Report struct {
	Format   int              `json:"format"`
	Run      string           `json:"run"`
	Created  time.Time        `json:"created"`
	Full     bool             `json:"full"` // everything up to Through, else (After, Through]
	After    schemas.Position `json:"after"`
	Through  schemas.Position `json:"through"`
	Verdict  Verdict          `json:"verdict"`
	Accepted bool             `json:"accepted"` // unexplained differences were accepted by hand
	Streams  []StreamCheck    `json:"streams"`
	Views    []ViewCheck      `json:"views"`
}

// StreamCheck compares the control totals of a stream.
type StreamCheck struct {
	Stream      string         `json:"stream"`
	Live        archive.Totals `json:"live"`
	Batch       archive.Totals `json:"batch"`
	Differences []string       `json:"differences,omitempty"` // "accepted 5, 6": live, batch
}

// ViewCheck compares the cells of a view.
type ViewCheck struct {
	View    string  `json:"view"`
	Verdict Verdict `json:"verdict"`
	// Missing says why the view was not compared; "" if it was.
	Missing   string  `json:"missing,omitempty"`
	Cause     string  `json:"cause,omitempty"`   // of the differences, if known
	Groups    int64   `json:"groups"`            // compared: in either half
	Cells     int64   `json:"cells"`             // compared
	Different int64   `json:"different"`         // cells that differ beyond the tolerance
	Inexact   int64   `json:"inexact,omitempty"` // of those, cells of DOUBLE
	OnlyLive  int64   `json:"only_live"`         // groups that the batch half lacks
	OnlyBatch int64   `json:"only_batch"`
	Tolerance float64 `json:"tolerance,omitempty"` // of DOUBLE cells, if the view has any
	// Largest are the largest differences, in columns of the user's SELECT.
	Largest []Difference `json:"largest,omitempty"`
}

// Difference is one group that differs.
type Difference struct {
	Key     []Value  `json:"key"`
	Columns []Change `json:"columns"`
}

// Value is a column with its value as text; nil is NULL.
type Value struct {
	Column string  `json:"column"`
	Value  *string `json:"value"`
}

// Change is a column whose value differs: From is the live half's, To the batch
// half's. Nil is NULL, or that the half has no such row.
type Change struct {
	Column string  `json:"column"`
	From   *string `json:"from"`
	To     *string `json:"to"`
}

// CompareTotals adds the comparison of control totals to a report: of the streams
// in batch, and of those that only the live half has events of (H6).
func CompareTotals(r Report, live, batch map[string]archive.Totals) Report {
	names := slices.Collect(maps.Keys(batch))
	for name, t := range live {
		if _, ok := batch[name]; !ok && t.Received > 0 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		c := StreamCheck{Stream: name, Live: live[name], Batch: batch[name]}
		c.Differences = c.Live.Differences(c.Batch)
		r.Streams = append(r.Streams, c)
	}
	r.setVerdict()
	return r
}

// setVerdict derives the report's verdict from those of its parts.
func (r *Report) setVerdict() {
	r.Verdict = Equal
	for _, v := range r.Views {
		if v.Verdict == Unexplained || v.Verdict == Explained && r.Verdict == Equal {
			r.Verdict = v.Verdict
		}
	}
	for _, s := range r.Streams {
		if len(s.Differences) > 0 {
			r.Verdict = Mismatch
		}
	}
}

// Differing describes the differences in one line: streams with their totals, then
// views with their counts.
func (r *Report) Differing() string {
	var out []string
	for _, s := range r.Streams {
		if len(s.Differences) > 0 {
			out = append(out, fmt.Sprintf("stream %s (live, batch): %s", s.Stream, strings.Join(s.Differences, "; ")))
		}
	}
	for _, v := range r.Views {
		if v.Different+v.OnlyLive+v.OnlyBatch > 0 {
			out = append(out, fmt.Sprintf("view %s: %d of %d cells differ, %d groups only live, %d only batch", v.View, v.Different, v.Cells, v.OnlyLive, v.OnlyBatch))
		}
	}
	return strings.Join(out, "; ")
}
