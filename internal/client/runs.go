package client

import (
	"context"
	"time"

	"duet/schemas/duetv1"
)

// RunConfig describes a run of the batch half.
type RunConfig struct {
	Full     bool
	Accept   bool // publish even unexplained differences
	Patience Patience
	Poll     time.Duration     // between looks; defaults to 200 ms
	Progress func(*duetv1.Run) // called after each look; nil means nobody watches
}

// Run starts a run and watches it until it has ended, which it may have done
// without publishing: see the run's state and problem.
func (c *Client) Run(ctx context.Context, config RunConfig) (*duetv1.Run, error) {
	if config.Poll == 0 {
		config.Poll = 200 * time.Millisecond
	}
	// The id makes a start whose answer was lost the same run.
	request := &duetv1.StartRunRequest{Full: config.Full, Accept: config.Accept, RequestId: NewID("run")}
	var run *duetv1.Run
	err := retry(ctx, config.Patience, func() error {
		response, err := c.Batch.StartRun(ctx, request)
		run = response.GetRun()
		return err
	})
	if err != nil {
		return nil, err
	}
	tick := time.NewTicker(config.Poll)
	defer tick.Stop()
	for !Ended(run) {
		if config.Progress != nil {
			config.Progress(run)
		}
		select {
		case <-ctx.Done():
			return run, context.Cause(ctx)
		case <-tick.C:
		}
		id := run.GetId()
		err := retry(ctx, config.Patience, func() error {
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
