package client

import (
	"context"
	"time"

	"duet/schemas/duetv1"
)

// Scrub makes the server verify every file of the archive and of the generations
// from its disk, and returns the result when that has ended. progress, if not
// nil, is called while it runs. The scrub goes on if ctx ends.
func (c *Client) Scrub(ctx context.Context, policy RetryPolicy, progress func(*duetv1.Scrub)) (*duetv1.Scrub, error) {
	var scrub *duetv1.Scrub
	err := retry(ctx, policy, func() error {
		response, err := c.Operate.StartScrub(ctx, &duetv1.StartScrubRequest{})
		scrub = response.GetScrub()
		return err
	})
	if err != nil {
		return nil, err
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		var response *duetv1.GetScrubResponse
		err := retry(ctx, policy, func() (err error) {
			response, err = c.Operate.GetScrub(ctx, &duetv1.GetScrubRequest{})
			return err
		})
		if err != nil {
			return nil, err
		}
		if last := response.GetLast(); last.GetNumber() >= scrub.GetNumber() {
			return last, nil
		}
		if progress != nil && response.GetRunning() != nil {
			progress(response.GetRunning())
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-tick.C:
		}
	}
}
