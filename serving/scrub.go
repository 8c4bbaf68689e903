package serving

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"duet/batch/scrub"
	"duet/schemas/duetv1"
)

// StartScrub implements OperateService.
func (a *api) StartScrub(context.Context, *duetv1.StartScrubRequest) (*duetv1.StartScrubResponse, error) {
	pass := a.platform.Load().Scrubber.Run()
	return &duetv1.StartScrubResponse{Scrub: scrubPass(&pass)}, nil
}

// GetScrub implements OperateService.
func (a *api) GetScrub(context.Context, *duetv1.GetScrubRequest) (*duetv1.GetScrubResponse, error) {
	running, last := a.platform.Load().Scrubber.Status()
	return &duetv1.GetScrubResponse{Running: scrubPass(running), Last: scrubPass(last)}, nil
}

// scrubPass converts a pass; nil stays nil.
func scrubPass(p *scrub.Pass) *duetv1.Scrub {
	if p == nil {
		return nil
	}
	out := &duetv1.Scrub{
		Number: p.Number, StartTime: timestamppb.New(p.Started),
		Files: int64(p.Files), Bytes: p.Bytes, TotalBytes: p.TotalBytes,
	}
	if !p.Ended.IsZero() {
		out.EndTime, out.TotalBytes = timestamppb.New(p.Ended), 0
	}
	for _, d := range p.Damage {
		out.Damage = append(out.Damage, &duetv1.ScrubDamage{Path: d.Path, Problem: d.Problem, Repaired: d.Repaired})
	}
	return out
}

// scrubProblems lists damaged files that need a copy. A scrub that has not ended
// adds to the last one.
func scrubProblems(scrubs ...*duetv1.Scrub) []string {
	var out []string
	seen := map[string]bool{}
	for _, s := range scrubs {
		for _, d := range s.GetDamage() {
			if !d.GetRepaired() && !seen[d.GetPath()] {
				seen[d.GetPath()] = true
				out = append(out, fmt.Sprintf("the scrub of %s found damage: %s; then run duet scrub", s.GetStartTime().AsTime().Format(time.DateTime), d.GetProblem()))
			}
		}
	}
	return out
}
