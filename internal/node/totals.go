package node

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"os"
	"strings"
	"sync"

	"duet/batch/archive"
	"duet/internal/base/duck"
	"duet/internal/base/durable"
	"duet/schemas"
	"duet/schemas/project"
	"duet/schemas/view"
	"duet/speed"
)

// totalsPrefix begins the names of the views that hold a stream's control
// totals. A project cannot use it.
const totalsPrefix = "_duet_totals_"

// compileTotals compiles the view of a stream's control totals: the number of
// accepted events and the exact sum of every DECIMAL and integer column. It is a
// view like any other, so each half counts it in its own way.
func compileTotals(c *view.Compiler, s *project.Stream) (*view.View, error) {
	items := []string{"count(*) AS " + duck.Ident("count")}
	for _, col := range summed(s) {
		items = append(items, fmt.Sprintf("sum(%s) AS %s", duck.Ident(col), duck.Ident("sum_"+col)))
	}
	v, faults := c.Compile(&project.View{Name: totalsPrefix + s.Name, File: s.File, SQL: "SELECT " + strings.Join(items, ", ") + " FROM " + duck.Ident(s.Name)})
	if v == nil {
		return nil, fmt.Errorf("control totals of stream %s: %w", s.Name, project.Faults(faults))
	}
	return v, nil
}

// summed lists the columns of a stream that have a control total, by the rule
// that the archive uses for its files: integers, and DECIMAL up to 28 digits.
func summed(s *project.Stream) []string {
	var out []string
	for _, c := range s.Columns {
		switch c.Type.Kind {
		case project.TinyInt, project.SmallInt, project.Integer, project.BigInt:
			out = append(out, c.Name)
		case project.Decimal:
			if c.Type.Precision <= 28 {
				out = append(out, c.Name)
			}
		}
	}
	return out
}

// counters counts every stream's events from the first one on, and keeps the
// counts at control records, where cuts are. Safe for concurrent use.
type counters struct {
	mu      sync.Mutex
	total   map[string]schemas.Account
	markers map[schemas.Position]map[string]schemas.Account
}

// begin starts from the counts of the archive's manifest.
func (c *counters) begin(streams map[string]archive.Totals) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.total = map[string]schemas.Account{}
	c.markers = map[schemas.Position]map[string]schemas.Account{}
	for name, s := range streams {
		c.total[name] = s.Account
	}
}

// add counts a micro-batch. One without events ends at a control record.
func (c *counters) add(a speed.Applied) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range a.Accounts {
		sum := c.total[s.Stream]
		sum.Add(s.Account)
		c.total[s.Stream] = sum
	}
	if a.Events == 0 {
		c.markers[a.Through] = maps.Clone(c.total)
	}
}

// now returns the account of each stream.
func (c *counters) now() map[string]schemas.Account {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.total)
}

// at returns the accounts at a cut marker, and deletes those of earlier ones.
func (c *counters) at(cut schemas.Position) (map[string]schemas.Account, bool) {
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

// Totals returns the control totals that the live half counted in
// (after, through]: accounts from the sequencer's verdicts, sums from its cells.
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
	for i, s := range h.n.project.Streams {
		t := archive.Totals{Account: total[s.Name]}
		t = t.Minus(archive.Totals{Account: base[s.Name].Account})
		sums, accepted, err := h.sums(ctx, s, h.n.totals[i], through)
		var unavailable *unavailableError
		switch {
		case errors.As(err, &unavailable): // a new stream's view of totals is not served yet: nothing to compare
		case err != nil:
			return nil, err
		case accepted != t.Accepted:
			return nil, fmt.Errorf("stream %s: the live half folded %d events in (%s, %s] but accepted %d; these must be equal (H2)", s.Name, accepted, after, through, t.Accepted)
		default:
			t.Sums = sums
		}
		out[s.Name] = t
	}
	return out, nil
}

// unavailableError reports that the view of control totals cannot answer yet.
type unavailableError struct{ error }

// sums reads a stream's control totals from the live segments up to a cut.
func (h *liveAdapter) sums(ctx context.Context, s *project.Stream, v *view.View, through schemas.Position) (map[string]string, int64, error) {
	path := durable.TempName(h.n.data.sub("tmp") + "/totals")
	defer os.Remove(path)
	rows, err := h.n.store.ExportLive(ctx, v.Name, through, path)
	if err != nil {
		if why := cannotAnswer(err); why != "" {
			return nil, 0, &unavailableError{err}
		}
		return nil, 0, err
	}
	out := map[string]string{}
	if rows == 0 {
		return out, 0, nil
	}
	final, _, err := v.FinalSQL("(SELECT * FROM read_parquet("+duck.Literal(path)+"))", view.Options{})
	if err != nil {
		return nil, 0, err
	}
	db, err := duck.Open(duck.Config{})
	if err != nil {
		return nil, 0, err
	}
	defer db.Close()
	cols := summed(s)
	var accepted int64
	dest := []any{&accepted}
	texts := make([]sql.NullString, len(cols))
	for i := range texts {
		dest = append(dest, &texts[i])
	}
	if err := db.QueryRowContext(ctx, "SELECT #1, COLUMNS(* EXCLUDE (count))::VARCHAR FROM ("+final+")").Scan(dest...); err != nil {
		return nil, 0, fmt.Errorf("control totals of stream %s: %w", s.Name, err)
	}
	for i, c := range cols {
		if texts[i].Valid {
			out[c] = texts[i].String
		}
	}
	return out, accepted, nil
}
