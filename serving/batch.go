package serving

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"duet/batch"
	"duet/batch/archive"
	"duet/batch/catalog"
	"duet/batch/recompute"
	"duet/schemas"
	"duet/schemas/duetv1"
	"duet/serving/query"
	"duet/serving/reason"
)

// BatchHalf is the batch half as clients see it.
type BatchHalf struct {
	runner  *batch.Runner
	catalog *catalog.Catalog
	inc     schemas.Incarnation
}

// NewBatch wraps a runner and the catalog that it publishes to; inc is the log's.
func NewBatch(r *batch.Runner, c *catalog.Catalog, inc schemas.Incarnation) *BatchHalf {
	return &BatchHalf{r, c, inc}
}

// StartRun starts a run or queues it.
func (b *BatchHalf) StartRun(_ context.Context, req *duetv1.StartRunRequest) (*duetv1.StartRunResponse, error) {
	run, err := b.runner.Run(batch.Request{Full: req.GetFull(), Accept: req.GetAccept(), RequestID: req.GetRequestId()})
	if err != nil {
		return nil, err
	}
	return &duetv1.StartRunResponse{Run: b.run(run)}, nil
}

// GetRun tells how a run stands.
func (b *BatchHalf) GetRun(_ context.Context, req *duetv1.GetRunRequest) (*duetv1.GetRunResponse, error) {
	run, err := b.runner.Get(req.GetRun())
	if err != nil {
		return nil, err
	}
	return &duetv1.GetRunResponse{Run: b.run(run)}, nil
}

// defaultRuns is the length of a page of runs that names none.
const defaultRuns = 50

// ListRuns lists runs, the latest first. A page's token is its last run's id.
func (b *BatchHalf) ListRuns(_ context.Context, req *duetv1.ListRunsRequest) (*duetv1.ListRunsResponse, error) {
	runs := b.runner.List(0)
	if token := req.GetPageToken(); token != "" {
		i := slices.IndexFunc(runs, func(r batch.Run) bool { return r.ID == token })
		if i < 0 {
			return nil, reason.Field(reason.ArgumentInvalid, "page_token", "is of a page that is no longer kept; begin again without one")
		}
		runs = runs[i+1:]
	}
	size := int(req.GetPageSize())
	if size == 0 {
		size = defaultRuns
	}
	out := &duetv1.ListRunsResponse{}
	if len(runs) > size {
		runs = runs[:size]
		out.NextPageToken = runs[size-1].ID
	}
	for _, r := range runs {
		out.Runs = append(out.Runs, b.run(r))
	}
	return out, nil
}

// Rollback starts a run that publishes an old generation's numbers anew.
func (b *BatchHalf) Rollback(_ context.Context, req *duetv1.RollbackRequest) (*duetv1.RollbackResponse, error) {
	run, err := b.runner.Rollback(req.GetGeneration(), req.GetReason(), req.GetRequestId())
	if err != nil {
		return nil, err
	}
	return &duetv1.RollbackResponse{Run: b.run(run)}, nil
}

// Pause holds the schedule.
func (b *BatchHalf) Pause(_ context.Context, req *duetv1.PauseRequest) (*duetv1.PauseResponse, error) {
	return &duetv1.PauseResponse{}, b.runner.Pause(req.GetReason())
}

// Resume lets the schedule run.
func (b *BatchHalf) Resume(context.Context, *duetv1.ResumeRequest) (*duetv1.ResumeResponse, error) {
	return &duetv1.ResumeResponse{}, b.runner.Resume()
}

// Pin keeps a generation.
func (b *BatchHalf) Pin(_ context.Context, req *duetv1.PinRequest) (*duetv1.PinResponse, error) {
	return &duetv1.PinResponse{}, b.catalog.Pin(req.GetGeneration())
}

// Unpin leaves a generation to the policy.
func (b *BatchHalf) Unpin(_ context.Context, req *duetv1.UnpinRequest) (*duetv1.UnpinResponse, error) {
	return &duetv1.UnpinResponse{}, b.catalog.Unpin(req.GetGeneration())
}

// ListGenerations lists the kept generations, the latest first.
func (b *BatchHalf) ListGenerations(context.Context, *duetv1.ListGenerationsRequest) (*duetv1.ListGenerationsResponse, error) {
	kept, err := b.catalog.List()
	if err != nil {
		return nil, err
	}
	pinned, err := b.catalog.Pinned()
	if err != nil {
		return nil, err
	}
	out := &duetv1.ListGenerationsResponse{}
	for i, g := range slices.Backward(kept) {
		pg := b.generation(g)
		pg.Current = i == len(kept)-1
		pg.Pinned = slices.Contains(pinned, g.Number)
		out.Generations = append(out.Generations, pg)
	}
	return out, nil
}

// GetReconciliation returns a run's report.
func (b *BatchHalf) GetReconciliation(_ context.Context, req *duetv1.GetReconciliationRequest) (*duetv1.GetReconciliationResponse, error) {
	rep, err := b.runner.Report(req.GetRun())
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
	run, err := b.runner.Get(rep.Run)
	if err != nil {
		return nil, err
	}
	out := &duetv1.GetReconciliationResponse{
		Run:     b.run(run),
		Equal:   rep.Verdict == recompute.Equal,
		Verdict: verdict(rep),
		After:   query.Positions(query.CutAt(b.inc, rep.After)),
		Through: query.Positions(query.CutAt(b.inc, rep.Through)),
	}
	if rep.Full {
		out.After = nil
	}
	for _, s := range rep.Streams {
		out.Totals = append(out.Totals, totals(s)...)
	}
	for _, v := range shown(rep) {
		out.Views = append(out.Views, viewCheck(v))
	}
	return out, nil
}

// ours says whether a view is one that counts control totals, and not the project's.
func ours(view string) bool { return strings.HasPrefix(view, "_duet_") }

// shown are the views of a report that a project has written. Views of ours,
// which count control totals, are shown only where the halves differ.
func shown(rep *recompute.Report) []recompute.ViewCheck {
	var out []recompute.ViewCheck
	for _, v := range rep.Views {
		if !ours(v.View) || v.Verdict != recompute.Equal {
			out = append(out, v)
		}
	}
	return out
}

// verdict is a report in a sentence.
func verdict(rep *recompute.Report) string {
	var groups, cells int64
	var views uint64
	for _, v := range rep.Views {
		if ours(v.View) {
			continue
		}
		views++
		groups += v.Groups
		cells += v.Cells
	}
	size := count(views, "view") + ", " + count(uint64(groups), "group") + ", " + count(uint64(cells), "cell")
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

// idle says whether no event arrived in a report's span.
func idle(rep *recompute.Report) bool {
	for _, s := range rep.Streams {
		if s.Batch.Received != 0 || s.Live.Received != 0 {
			return false
		}
	}
	return true
}

// totals are a stream's control totals, verdicts first, then columns.
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

// decimal is a decimal's text; "" is NULL.
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
	if v.Cause == batch.CauseDefinition {
		cause = duetv1.Cause_CAUSE_DEFINITION
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

// Status is how the batch half stands.
func (b *BatchHalf) Status() *duetv1.BatchStatus {
	s := b.runner.Schedule()
	out := &duetv1.BatchStatus{
		Paused: s.Paused, PauseReason: s.Reason,
		NextIncremental: stamp(s.NextIncremental), NextFull: stamp(s.NextFull),
	}
	if g := b.catalog.Current(); g != nil {
		out.Current = b.generation(g)
		out.Current.Current = true
	}
	for _, r := range b.runner.List(0) {
		switch {
		case r.State == batch.Running:
			out.Running = b.run(r)
		case r.State.Final() && out.Last == nil:
			out.Last = b.run(r)
		}
		if out.Last != nil {
			break
		}
	}
	if rep, err := b.runner.Report(""); err == nil {
		out.LastVerdict, out.LastEqual = verdict(rep), rep.Verdict == recompute.Equal
	}
	return out
}

// run is a run as clients see it.
func (b *BatchHalf) run(r batch.Run) *duetv1.Run {
	out := &duetv1.Run{
		Id: r.ID, Full: r.Kind == batch.Full, Cut: query.Positions(r.Cut), Generation: r.Generation, Step: r.Step, Problem: r.Reason,
		StartTime: stamp(r.Started), EndTime: stamp(r.Finished), BaseGeneration: r.Base,
		SkippedTicks: uint32(r.Skipped), MissedTicks: uint32(r.Missed), SuspendedViews: r.Suspended,
		State: map[batch.State]duetv1.RunState{
			batch.Queued: duetv1.RunState_RUN_STATE_QUEUED, batch.Running: duetv1.RunState_RUN_STATE_RUNNING,
			batch.Published: duetv1.RunState_RUN_STATE_PUBLISHED, batch.Held: duetv1.RunState_RUN_STATE_HELD,
			batch.Failed: duetv1.RunState_RUN_STATE_FAILED, batch.Fenced: duetv1.RunState_RUN_STATE_FENCED,
		}[r.State],
		Trigger: map[batch.Trigger]duetv1.RunTrigger{
			batch.Manual: duetv1.RunTrigger_RUN_TRIGGER_REQUEST, batch.Scheduled: duetv1.RunTrigger_RUN_TRIGGER_SCHEDULE,
			batch.CatchUp: duetv1.RunTrigger_RUN_TRIGGER_CATCH_UP,
		}[r.Trigger],
	}
	if r.Kind == batch.Rollback {
		out.Trigger = duetv1.RunTrigger_RUN_TRIGGER_ROLLBACK
	}
	switch p := r.Progress; {
	case r.State.Final():
		out.Progress = 1
	case p != nil:
		out.Step = strings.TrimSpace(p.Step + " " + p.View)
		if p.Total > 0 {
			out.Progress = float64(p.Done) / float64(p.Total)
		}
	}
	return out
}

// generation is a generation as clients see it.
func (b *BatchHalf) generation(g *catalog.Generation) *duetv1.Generation {
	out := &duetv1.Generation{Number: g.Number, Cut: query.Positions(g.Cut), PublishTime: stamp(g.Published), Run: g.Run, RollbackOf: g.Of}
	for _, v := range g.Views {
		out.Bytes += v.Bytes
		if ours(v.Name) {
			continue
		}
		out.Views = append(out.Views, &duetv1.GenerationView{View: v.Name, Definition: v.Definition, Groups: v.Rows})
	}
	return out
}

// stamp is an instant; the zero time is none.
func stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
