package node

import (
	"context"
	"fmt"
	"time"
)

// stopDrain bounds how long Stop waits for the archive.
const stopDrain = 5 * time.Second

// drain archives every event of the log: it appends a cut marker, unless only control
// records follow the archive's end, and waits until the archive has reached it. No event
// may be appended meanwhile.
func (n *Node) drain(ctx context.Context) error {
	l := &n.lane
	pos, err := firstEvent(ctx, l.log, l.archive.Through())
	if err != nil || pos == 0 {
		return err
	}
	cut, err := (&liveAdapter{n: n}).Cut(ctx)
	if err != nil {
		return err
	}
	return l.archive.Wait(ctx, cut.Position())
}

// drainAndEnd is the last step of a node with Config.Drain.
func (n *Node) drainAndEnd(ctx context.Context) error {
	if err := n.drain(ctx); err != nil {
		return fmt.Errorf("archive the events of the log: %w", err)
	}
	n.logger.Info("every event is archived", "through", n.lane.archive.Through())
	close(n.drained)
	return nil
}

// Drained is closed when a node with Config.Drain has archived every event. The caller
// then stops it.
func (n *Node) Drained() <-chan struct{} { return n.drained }

// drainOnStop archives the events that were served, so that another version of duet can
// start without decoding them again. It is not needed for safety: if it fails or takes
// too long, the next start reads them from the log.
func (n *Node) drainOnStop(ctx context.Context) error {
	if n.failure() != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, stopDrain)
	defer cancel()
	if err := n.drain(ctx); err != nil {
		n.logger.Info("some events stay in the log until the next start", "error", err)
	}
	return nil
}
