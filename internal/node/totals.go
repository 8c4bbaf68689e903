package node

import (
	"context"
	"fmt"
	"maps"
	"sync"

	"duet/batch/archive"
	"duet/schemas"
	"duet/speed"
)

// counters holds every stream's control totals from the first event on, and keeps
// those at control records, where cuts are. They start from the archive's; what
// follows comes from the sequencer's verdicts and the decoder's sums, and not from
// the tables that the archive is copied from. Safe for concurrent use.
type counters struct {
	mu      sync.Mutex
	total   map[string]archive.Totals
	markers map[schemas.Position]map[string]archive.Totals
}

// begin starts from the totals of the archive's manifest.
func (c *counters) begin(streams map[string]archive.Totals) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.total = maps.Clone(streams)
	if c.total == nil {
		c.total = map[string]archive.Totals{}
	}
	c.markers = map[schemas.Position]map[string]archive.Totals{}
}

// add counts a micro-batch. One without events ends at a control record.
func (c *counters) add(a speed.Applied) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range a.Accounts {
		t := archive.Totals{Account: s.Account}
		for _, sum := range s.Sums {
			if t.Sums == nil {
				t.Sums = map[string]string{}
			}
			t.Sums[sum.Column] = sum.String()
		}
		c.total[s.Stream] = c.total[s.Stream].Plus(t)
	}
	if a.Events == 0 {
		c.markers[a.Through] = maps.Clone(c.total)
	}
}

// now returns the account of each stream.
func (c *counters) now() map[string]schemas.Account {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := map[string]schemas.Account{}
	for name, t := range c.total {
		out[name] = t.Account
	}
	return out
}

// at returns the totals at a cut marker, and deletes those of earlier ones.
func (c *counters) at(cut schemas.Position) (map[string]archive.Totals, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m, ok := c.markers[cut]
	for at := range c.markers {
		if at < cut {
			delete(c.markers, at)
		}
	}
	return m, ok
}

func (n *Node) accounts() map[string]schemas.Account { return n.lane.counters.now() }

// Totals returns the control totals that the live half counted in (after, through].
func (h *liveAdapter) Totals(ctx context.Context, after, through schemas.Position) (map[string]archive.Totals, error) {
	total, ok := h.n.lane.counters.at(through)
	if !ok {
		return nil, fmt.Errorf("control totals at %s: the live half read no cut marker there; start the run again", through)
	}
	base := map[string]archive.Totals{}
	if g := h.n.catalog.Current(); g != nil {
		if g.Cut.Position() != after {
			return nil, fmt.Errorf("control totals after %s: generation %d, which is served, has the cut %s; start the run again", after, g.Number, g.Cut.Position())
		}
		base = g.Streams
	}
	out := map[string]archive.Totals{}
	for _, s := range h.n.project.Streams {
		out[s.Name] = total[s.Name].Minus(base[s.Name])
	}
	return out, nil
}
