package serving

import (
	"fmt"

	"duet/schemas/duetv1"
)

// problems lists everything that needs an operator, each with what to do.
func (a *api) problems(p *platform, res *duetv1.GetStatusResponse) []string {
	b := res.GetBatch()
	var out []string
	if err := a.cfg.Failure(); err != nil {
		out = append(out, err.Error())
	}
	if level, why := p.Log.Health(); level != 0 {
		out = append(out, why)
	}
	if err := p.Live.Progress().Held; err != nil {
		out = append(out, "the live half waits: "+err.Error())
	}
	if err := p.Archiver.LastErr(); err != nil {
		out = append(out, "archiving fails and is tried again: "+err.Error())
	}
	if err := p.Runner.Err(); err != nil {
		out = append(out, err.Error())
	}
	if last := b.GetLast(); last.GetState() == duetv1.RunState_RUN_STATE_FAILED || last.GetState() == duetv1.RunState_RUN_STATE_HELD || last.GetState() == duetv1.RunState_RUN_STATE_FENCED {
		out = append(out, fmt.Sprintf("the last batch run (%s) did not publish: %s", last.GetId(), last.GetProblem()))
	}
	if run := b.GetRunning(); run.GetProblem() != "" {
		out = append(out, fmt.Sprintf("batch run %s: %s", run.GetId(), run.GetProblem()))
	}
	if b.GetPaused() {
		out = append(out, "the schedule is paused ("+b.GetPauseReason()+"): duet batch resume")
	}
	out = append(out, scrubProblems(res.GetScrub(), res.GetLastScrub())...)
	for _, v := range res.GetViews() {
		if v.GetProblem() != "" {
			out = append(out, v.GetProblem())
		}
	}
	return out
}
