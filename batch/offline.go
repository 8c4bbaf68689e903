package batch

import (
	"context"
	"fmt"
	"time"

	"duet/batch/catalog"
	"duet/internal/base/durable"
)

// Withdraw executes a withdrawal in the data folder dir, which no process may use:
// it pauses the schedule, publishes, and records a run. The schedule stays paused
// until [Runner.Resume].
func Withdraw(ctx context.Context, dir string, w *catalog.Withdrawal, reason string, now time.Time) (*catalog.Generation, error) {
	h, sched, _, err := openHistory(durable.OS, dir, now)
	if err != nil {
		return nil, err
	}
	sched.Paused, sched.Since = true, now
	sched.Reason = fmt.Sprintf("generation %d was withdrawn: %s", w.Withdrawn, reason)
	if err := h.saveSchedule(sched); err != nil {
		return nil, err
	}
	run := &Run{
		ID: durable.Name(), Kind: Withdrawal, Trigger: Manual, Target: w.To.Number, Note: reason, State: Published, Step: "done",
		Queued: now, Started: now, Finished: now, Base: w.Withdrawn, Generation: w.Number, Cut: w.To.Cut,
	}
	g, err := w.Publish(ctx, run.ID, reason)
	if err != nil {
		return nil, err
	}
	return g, h.add(run)
}
