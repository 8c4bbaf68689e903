package client

import (
	"context"
	"time"

	"duet/schemas/duetv1"
)

// Watch configures how a run is watched. The zero value works.
type Watch struct {
	Retry    RetryPolicy
	Poll     time.Duration     // between polls; defaults to 100 ms
	Progress func(*duetv1.Run) // optional; called after each poll
}

// Run starts a batch run and watches it until it has ended. A run may end
// without publishing: see its state and problem. accept publishes even when the
// halves differ without a known cause.
func (c *Client) Run(ctx context.Context, full, accept bool, w Watch) (*duetv1.Run, error) {
	// With the id, a retry of a start whose answer was lost is the same run.
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

// Rollback publishes a kept generation's numbers under a new number and watches
// that run until it has ended. It is not retried: if the answer is lost, list
// the runs to see whether it started.
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

// Ended reports whether a run has reached its final state.
func Ended(run *duetv1.Run) bool {
	switch run.GetState() {
	case duetv1.RunState_RUN_STATE_QUEUED, duetv1.RunState_RUN_STATE_RUNNING:
		return false
	default:
		return true
	}
}
