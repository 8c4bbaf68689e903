package client

import (
	"context"
	"time"

	"duet/schemas/duetv1"
)

// Watch says how a run is watched. The zero value works.
type Watch struct {
	Retry    RetryPolicy
	Poll     time.Duration     // between looks; defaults to 100 ms
	Progress func(*duetv1.Run) // called after each look; nil means nobody listens
}

// Run starts a run and watches it until it has ended, which it may have done
// without publishing: see the run's state and problem. accept publishes even
// differences that have no known cause.
func (c *Client) Run(ctx context.Context, full, accept bool, w Watch) (*duetv1.Run, error) {
	// The id makes a start whose answer was lost the same run.
	request := &duetv1.StartRunRequest{Full: full, Accept: accept, RequestId: NewID("run")}
	var run *duetv1.Run
	err := retry(ctx, w.Retry, func() error {
		response, err := c.Batch.StartRun(ctx, request)
		run = response.GetRun()
		return err
	})
	if err != nil {
		return nil, err
	}
	return c.watch(ctx, run, w)
}

// Rollback has a kept generation's numbers published again and watches that run
// until it has ended. An answer that is lost is not asked for again: look at
// the runs.
func (c *Client) Rollback(ctx context.Context, generation uint64, reason string, w Watch) (*duetv1.Run, error) {
	response, err := c.Batch.Rollback(ctx, &duetv1.RollbackRequest{Generation: generation, Reason: reason})
	if err != nil {
		return nil, err
	}
	return c.watch(ctx, response.GetRun(), w)
}

func (c *Client) watch(ctx context.Context, run *duetv1.Run, w Watch) (*duetv1.Run, error) {
	if w.Poll == 0 {
		w.Poll = 100 * time.Millisecond
	}
	tick := time.NewTicker(w.Poll)
	defer tick.Stop()
	for !Ended(run) {
		if w.Progress != nil {
			w.Progress(run)
		}
		select {
		case <-ctx.Done():
			return run, context.Cause(ctx)
		case <-tick.C:
		}
		id := run.GetId()
		err := retry(ctx, w.Retry, func() error {
			response, err := c.Batch.GetRun(ctx, &duetv1.GetRunRequest{Run: id})
			if err == nil {
				run = response.GetRun()
			}
			return err
		})
		if err != nil {
			return run, err
		}
	}
	return run, nil
}

// Ended reports whether nothing more will happen to a run.
func Ended(run *duetv1.Run) bool {
	switch run.GetState() {
	case duetv1.RunState_RUN_STATE_QUEUED, duetv1.RunState_RUN_STATE_RUNNING:
		return false
	default:
		return true
	}
}
