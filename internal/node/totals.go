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

// compileTotals makes the view of a stream's control totals: the accepted
// events and the exact sum of every DECIMAL and integer column. It is a view
// like any other, so both halves count it by their own way.
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

// summed are the columns of a stream that get a control total; those of an
// archive file, by the same rule: DECIMAL to 28 digits, and integers.
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

// tally counts every stream's events from the first one on, and remembers how
// the count stood at control records, where cuts are.
type tally struct {
	mu      sync.Mutex
	total   map[string]schemas.Account
	markers map[schemas.Position]map[string]schemas.Account
}

// begin starts from what the archive's manifest has counted.
func (t *tally) begin(streams map[string]archive.Totals) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.total = map[string]schemas.Account{}
	t.markers = map[schemas.Position]map[string]schemas.Account{}
	for name, s := range streams {
		t.total[name] = s.Account
	}
}

// add counts a micro-batch; one without events ends at a control record.
func (t *tally) add(a speed.Applied) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range a.Accounts {
		sum := t.total[s.Stream]
		sum.Add(s.Account)
		t.total[s.Stream] = sum
	}
	if a.Events == 0 {
		t.markers[a.Through] = maps.Clone(t.total)
	}
}

// now is the account of each stream.
func (t *tally) now() map[string]schemas.Account {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.total)
}

// at is how the accounts stood at a cut marker, and forgets older ones.
func (t *tally) at(cut schemas.Position) (map[string]schemas.Account, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	m, ok := t.markers[cut]
	for at := range t.markers {
		if at < cut {
			delete(t.markers, at)
		}
	}
	return m, ok
}

func (n *Node) accounts() map[string]schemas.Account { return n.lane.tally.now() }

// Totals are the control totals that the live half counted in (after, through]:
// accounts as the sequencer gave verdicts, sums from its own cells.
func (h *halves) Totals(ctx context.Context, after, through schemas.Position) (map[string]archive.Totals, error) {
	total, ok := h.n.lane.tally.at(through)
	if !ok {
		return nil, fmt.Errorf("the live half did not count up to %s: it met no cut marker there", through)
	}
	base := map[string]archive.Totals{}
	if g := h.n.catalog.Current(); g != nil {
		if g.Cut.Position() != after {
			return nil, fmt.Errorf("totals after %s asked for, but generation %d is cut at %s", after, g.Number, g.Cut.Position())
		}
		base = g.Streams
	}
	out := map[string]archive.Totals{}
	for i, s := range h.n.project.Streams {
		t := archive.Totals{Account: total[s.Name]}
		t = t.Minus(archive.Totals{Account: base[s.Name].Account})
		sums, accepted, err := h.sums(ctx, s, h.n.totals[i], through)
		var gap *unavailable
		switch {
		case errors.As(err, &gap): // a new stream's totals: nothing folded yet to compare with
		case err != nil:
			return nil, err
		case accepted != t.Accepted:
			return nil, fmt.Errorf("stream %s: the live half folded %d events in (%s, %s], and accepted %d: these must be equal (H2)", s.Name, accepted, after, through, t.Accepted)
		default:
			t.Sums = sums
		}
		out[s.Name] = t
	}
	return out, nil
}

// unavailable: the view of control totals cannot answer yet.
type unavailable struct{ error }

// sums reads a stream's control totals from the live segments up to a cut.
func (h *halves) sums(ctx context.Context, s *project.Stream, v *view.View, through schemas.Position) (map[string]string, int64, error) {
	path := durable.TempName(h.n.data.sub("tmp") + "/totals")
	defer os.Remove(path)
	rows, err := h.n.store.ExportLive(ctx, v.Name, through, path)
	if err != nil {
		if why := cannotAnswer(err); why != "" {
			return nil, 0, &unavailable{err}
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
