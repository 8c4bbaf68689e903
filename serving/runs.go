package serving

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"duet/batch"
	"duet/batch/catalog"
	"duet/batch/recompute"
	"duet/schemas/duetv1"
	"duet/serving/query"
	"duet/serving/reason"
)

// StartRun implements BatchService.
func (a *api) StartRun(_ context.Context, req *duetv1.StartRunRequest) (*duetv1.StartRunResponse, error) {
	if err := checkID("request_id", req.GetRequestId()); err != nil {
		return nil, err
	}
	run, err := a.platform.Load().Runner.Run(batch.Request{Full: req.GetFull(), Accept: req.GetAccept(), RequestID: req.GetRequestId()})
	if err != nil {
		return nil, err
	}
	return &duetv1.StartRunResponse{Run: runOf(run)}, nil
}

// GetRun implements BatchService.
func (a *api) GetRun(_ context.Context, req *duetv1.GetRunRequest) (*duetv1.GetRunResponse, error) {
	if req.GetRun() == "" {
		return nil, reason.Field(reason.ArgumentInvalid, "run", "is missing: name a run that ListRuns lists")
	}
	if err := checkID("run", req.GetRun()); err != nil {
		return nil, err
	}
	run, err := a.platform.Load().Runner.Get(req.GetRun())
	if err != nil {
		return nil, err
	}
	return &duetv1.GetRunResponse{Run: runOf(run)}, nil
}

// Page sizes of ListRuns.
const (
	defaultRuns = 50
	maxRuns     = 1000
)

// ListRuns implements BatchService. The token of a page is the id of its last
// run.
func (a *api) ListRuns(_ context.Context, req *duetv1.ListRunsRequest) (*duetv1.ListRunsResponse, error) {
	size := int(req.GetPageSize())
	switch {
	case size < 0 || size > maxRuns:
		return nil, reason.Field(reason.ArgumentInvalid, "page_size", "%d is not between 0 and 1,000", size)
	case size == 0:
		size = defaultRuns
	}
	if err := checkID("page_token", req.GetPageToken()); err != nil {
		return nil, err
	}
	runs := a.platform.Load().Runner.List(0)
	if token := req.GetPageToken(); token != "" {
		i := slices.IndexFunc(runs, func(r batch.Run) bool { return r.ID == token })
		if i < 0 {
			return nil, reason.Field(reason.ArgumentInvalid, "page_token", "is of a page that is no longer kept; begin again without one")
		}
		runs = runs[i+1:]
	}
	out := &duetv1.ListRunsResponse{}
	if len(runs) > size {
		runs = runs[:size]
		out.NextPageToken = runs[size-1].ID
	}
	for _, r := range runs {
		out.Runs = append(out.Runs, runOf(r))
	}
	return out, nil
}

// Rollback implements BatchService.
func (a *api) Rollback(_ context.Context, req *duetv1.RollbackRequest) (*duetv1.RollbackResponse, error) {
	if err := errors.Join(checkGeneration(req.GetGeneration()), checkText("reason", req.GetReason()), checkID("request_id", req.GetRequestId())); err != nil {
		return nil, err
	}
	run, err := a.platform.Load().Runner.Rollback(req.GetGeneration(), req.GetReason(), req.GetRequestId())
	if err != nil {
		return nil, err
	}
	return &duetv1.RollbackResponse{Run: runOf(run)}, nil
}

// Pause implements BatchService.
func (a *api) Pause(_ context.Context, req *duetv1.PauseRequest) (*duetv1.PauseResponse, error) {
	if err := checkText("reason", req.GetReason()); err != nil {
		return nil, err
	}
	return &duetv1.PauseResponse{}, a.platform.Load().Runner.Pause(req.GetReason())
}

// Resume implements BatchService.
func (a *api) Resume(context.Context, *duetv1.ResumeRequest) (*duetv1.ResumeResponse, error) {
	return &duetv1.ResumeResponse{}, a.platform.Load().Runner.Resume()
}

// Pin implements BatchService.
func (a *api) Pin(_ context.Context, req *duetv1.PinRequest) (*duetv1.PinResponse, error) {
	if err := checkGeneration(req.GetGeneration()); err != nil {
		return nil, err
	}
	return &duetv1.PinResponse{}, a.platform.Load().Catalog.Pin(req.GetGeneration())
}

// Unpin implements BatchService.
func (a *api) Unpin(_ context.Context, req *duetv1.UnpinRequest) (*duetv1.UnpinResponse, error) {
	if err := checkGeneration(req.GetGeneration()); err != nil {
		return nil, err
	}
	return &duetv1.UnpinResponse{}, a.platform.Load().Catalog.Unpin(req.GetGeneration())
}

// ListGenerations implements BatchService.
func (a *api) ListGenerations(context.Context, *duetv1.ListGenerationsRequest) (*duetv1.ListGenerationsResponse, error) {
	c := a.platform.Load().Catalog
	kept, err := c.List()
	if err != nil {
		return nil, err
	}
	pinned, err := c.Pinned()
	if err != nil {
		return nil, err
	}
	out := &duetv1.ListGenerationsResponse{}
	for i, g := range slices.Backward(kept) {
		pg := generation(g)
		pg.Current = i == len(kept)-1
		pg.Pinned = slices.Contains(pinned, g.Number)
		out.Generations = append(out.Generations, pg)
	}
	return out, nil
}

// batchStatus converts the state of the batch half.
func (p *platform) batchStatus() *duetv1.BatchStatus {
	s := p.Runner.Schedule()
	out := &duetv1.BatchStatus{
		Paused: s.Paused, PauseReason: s.Reason,
		NextIncremental: stamp(s.NextIncremental), NextFull: stamp(s.NextFull),
	}
	if g := p.Catalog.Current(); g != nil {
		out.Current = generation(g)
		out.Current.Current = true
	}
	for _, r := range p.Runner.List(0) {
		switch {
		case r.State == batch.Running:
			out.Running = runOf(r)
		// An unchanged run does not hide that the one before it failed.
		case r.State.Final() && r.State != batch.Unchanged && out.Last == nil:
			out.Last = runOf(r)
		}
		if out.Last != nil {
			break
		}
	}
	if rep, err := p.Runner.Report(""); err == nil {
		out.LastVerdict, out.LastEqual = verdict(rep), rep.Verdict == recompute.Equal
	}
	return out
}

// runOf converts a run.
func runOf(r batch.Run) *duetv1.Run {
	out := &duetv1.Run{
		Id: r.ID, Full: r.Kind == batch.Full, Cut: query.Positions(r.Cut), Generation: r.Generation, Step: r.Step, Problem: cmp.Or(r.Reason, r.Warning),
		StartTime: stamp(r.Started), EndTime: stamp(r.Finished), BaseGeneration: r.Base,
		SkippedTicks: uint32(r.Skipped), MissedTicks: uint32(r.Missed), SuspendedViews: r.Suspended,
		State: map[batch.State]duetv1.RunState{
			batch.Queued: duetv1.RunState_RUN_STATE_QUEUED, batch.Running: duetv1.RunState_RUN_STATE_RUNNING,
			batch.Published: duetv1.RunState_RUN_STATE_PUBLISHED, batch.Held: duetv1.RunState_RUN_STATE_HELD,
			batch.Failed: duetv1.RunState_RUN_STATE_FAILED, batch.Fenced: duetv1.RunState_RUN_STATE_FENCED,
			batch.Unchanged: duetv1.RunState_RUN_STATE_UNCHANGED,
		}[r.State],
		Trigger: map[batch.Trigger]duetv1.RunTrigger{
			batch.Manual: duetv1.RunTrigger_RUN_TRIGGER_REQUEST, batch.Scheduled: duetv1.RunTrigger_RUN_TRIGGER_SCHEDULE,
			batch.CatchUp: duetv1.RunTrigger_RUN_TRIGGER_CATCH_UP,
		}[r.Trigger],
	}
	if r.Kind == batch.Rollback || r.Kind == batch.Withdrawal {
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

// generation converts a generation.
func generation(g *catalog.Generation) *duetv1.Generation {
	out := &duetv1.Generation{Number: g.Number, Cut: query.Positions(g.Cut), PublishTime: stamp(g.Published), Run: g.Run, RollbackOf: g.Of}
	for _, v := range g.Views {
		out.Bytes += v.Bytes

		out.Views = append(out.Views, &duetv1.GenerationView{View: v.Name, Definition: v.Definition, Groups: v.Rows})
	}
	return out
}

// stamp converts an instant; the zero time becomes nil.
func stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
