package node

import (
	"context"

	"duet/batch"
	"duet/internal/base/lifecycle"
)

// filling archives events when the log fills up with ones that no archive file
// holds: without it, a log with no schedule, or a rare one, would only ever
// refuse events.
type filling struct {
	lifecycle.Base
	n   *Node
	due chan struct{} // holds one token: the log has reported that it fills up
}

func newFilling(n *Node) *filling { return &filling{n: n, due: make(chan struct{}, 1)} }

// wake is called by the log.
func (f *filling) wake() {
	select {
	case f.due <- struct{}{}:
	default:
	}
}

// Start needs a runner that runs.
func (f *filling) Start(ctx context.Context) error {
	return f.Go(ctx, func(ctx context.Context) error {
		for {
			select {
			case <-f.due:
				f.relieve(ctx)
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
}

// relieve starts a run, whose cut lets the archive take what came before. While
// the schedule is paused, such as after a rollback, nothing may be published: it
// only cuts.
func (f *filling) relieve(ctx context.Context) {
	n := f.n
	if n.runner.Schedule().Paused {
		cut, err := (&liveAdapter{n: n}).Cut(ctx)
		if err != nil {
			n.logger.Error("the log fills up, and what it holds cannot be archived", "error", err)
			return
		}
		n.logger.Warn("the log fills up and the schedule is paused: archiving without a run", "cut", cut.Position())
		return
	}
	run, err := n.runner.Run(batch.Request{})
	if err != nil {
		n.logger.Error("the log fills up, and no run can be started", "error", err)
		return
	}
	n.logger.Warn("the log fills up: a run is started", "run", run.ID)
}
