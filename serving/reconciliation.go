package serving

import (
	"context"
	"errors"
	"slices"

	"duet/batch"
	"duet/batch/archive"
	"duet/batch/recompute"
	"duet/schemas/duetv1"
	"duet/serving/query"
	"duet/serving/reason"
)

// GetReconciliation implements BatchService.
func (a *api) GetReconciliation(_ context.Context, req *duetv1.GetReconciliationRequest) (*duetv1.GetReconciliationResponse, error) {
	if err := checkID("run", req.GetRun()); err != nil {
		return nil, err
	}
	p := a.platform.Load()
	rep, err := p.Runner.Report(req.GetRun())
	var unknown *batch.UnknownRunError
	if errors.As(err, &unknown) {
		if req.GetRun() == "" {
			return nil, reason.New(reason.ReconciliationUnknown, "no run has compared the halves yet; start one: duet batch run").Because(err)
		}
		return nil, reason.New(reason.ReconciliationUnknown, "run %s is not known, or ended before it compared the halves; duet batch list shows the runs", req.GetRun()).Because(err)
	}
	if err != nil {
		return nil, err
	}
	run, err := p.Runner.Get(rep.Run)
	if err != nil {
		return nil, err
	}
	out := &duetv1.GetReconciliationResponse{
		Run:     runOf(run),
		Equal:   rep.Verdict == recompute.Equal,
		Verdict: verdict(rep),
		After:   query.Positions(query.CutAt(p.inc, rep.After)),
		Through: query.Positions(query.CutAt(p.inc, rep.Through)),
	}
	if rep.Full {
		out.After = nil
	}
	for _, s := range rep.Streams {
		out.Totals = append(out.Totals, totals(s)...)
	}
	for _, v := range rep.Views {
		out.Views = append(out.Views, viewCheck(v))
	}
	return out, nil
}

// verdict summarizes a report in a sentence.
func verdict(rep *recompute.Report) string {
	var groups, cells int64
	for _, v := range rep.Views {
		groups += v.Groups
		cells += v.Cells
	}
	size := count(uint64(len(rep.Views)), "view") + ", " + count(uint64(groups), "group") + ", " + count(uint64(cells), "cell")
	switch {
	case rep.Verdict == recompute.Equal && groups == 0 && idle(rep):
		return "equal: nothing happened in the span"
	case rep.Verdict == recompute.Equal:
		return "equal, to the last digit: " + size
	case rep.Verdict == recompute.Explained:
		return "different, with known causes: " + rep.Differing()
	case rep.Verdict == recompute.Mismatch:
		return "the halves counted different events: " + rep.Differing()
	case rep.Accepted:
		return "different without a known cause, and accepted by hand: " + rep.Differing()
	}
	return "different without a known cause: " + rep.Differing()
}

// idle reports whether no event arrived in a report's span.
func idle(rep *recompute.Report) bool {
	for _, s := range rep.Streams {
		if s.Batch.Received != 0 || s.Live.Received != 0 {
			return false
		}
	}
	return true
}

// totals returns a stream's control totals: accounts first, then sums.
func totals(s recompute.StreamCheck) []*duetv1.ControlTotal {
	number := func(n int64) *duetv1.Value { return &duetv1.Value{Kind: &duetv1.Value_IntValue{IntValue: n}} }
	var out []*duetv1.ControlTotal
	for _, c := range []struct {
		name        string
		batch, live int64
	}{
		{"received", s.Batch.Received, s.Live.Received}, {"accepted", s.Batch.Accepted, s.Live.Accepted},
		{"duplicate", s.Batch.Duplicate, s.Live.Duplicate}, {"rejected", s.Batch.Rejected, s.Live.Rejected},
	} {
		out = append(out, &duetv1.ControlTotal{Stream: s.Stream, Name: c.name, Batch: number(c.batch), Live: number(c.live), Equal: c.batch == c.live})
	}
	var names []string
	for name := range s.Batch.Sums {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		b, l := s.Batch.Sums[name], s.Live.Sums[name]
		out = append(out, &duetv1.ControlTotal{Stream: s.Stream, Name: "sum(" + name + ")", Batch: decimal(b), Live: decimal(l), Equal: l == "" || archive.EqualDecimal(b, l)})
	}
	return out
}

// decimal converts the text of a decimal; "" is NULL.
func decimal(s string) *duetv1.Value {
	if s == "" {
		return &duetv1.Value{}
	}
	return &duetv1.Value{Kind: &duetv1.Value_DecimalValue{DecimalValue: s}}
}

func text(s *string) *duetv1.Value {
	if s == nil {
		return &duetv1.Value{}
	}
	return &duetv1.Value{Kind: &duetv1.Value_StringValue{StringValue: *s}}
}

func viewCheck(v recompute.ViewCheck) *duetv1.ViewReconciliation {
	out := &duetv1.ViewReconciliation{
		View: v.View, Groups: uint64(v.Groups), Cells: uint64(v.Cells), CellsDifferent: uint64(v.Different),
		GroupsDifferent: uint64(v.OnlyLive + v.OnlyBatch), Note: v.Missing,
	}
	cause := duetv1.Cause_CAUSE_UNKNOWN
	switch v.Cause {
	case batch.CauseDefinition:
		cause = duetv1.Cause_CAUSE_DEFINITION
	case recompute.CauseInexact:
		cause = duetv1.Cause_CAUSE_INEXACT
	}
	for _, d := range v.Largest {
		key := &duetv1.Row{}
		for _, k := range d.Key {
			key.Values = append(key.Values, text(k.Value))
			if len(out.Keys) < len(d.Key) {
				out.Keys = append(out.Keys, &duetv1.Column{Name: k.Column, Role: duetv1.ColumnRole_COLUMN_ROLE_KEY})
			}
		}
		for _, c := range d.Columns {
			out.Largest = append(out.Largest, &duetv1.Difference{Key: key, Column: c.Column, Before: text(c.From), After: text(c.To), Cause: cause})
		}
	}
	return out
}
