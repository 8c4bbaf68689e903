package batchtest

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"duet/batch"
	"duet/batch/archive"
	"duet/batch/catalog"
	"duet/batch/recompute"
	"duet/internal/base/duck"
	"duet/schemas"
)

func (w *World) fail(op string) error {
	if f := w.currentFaults().Fail; f != nil {
		return f(op)
	}
	return nil
}

// Cut implements [batch.Live].
func (w *World) Cut(context.Context) (schemas.Cut, error) {
	if err := w.fail("cut"); err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.log.Last++
	w.log.Marks = append(w.log.Marks, w.log.Last)
	if err := w.save(); err != nil {
		return nil, err
	}
	return schemas.NewCut(Incarnation, At(w.log.Last)), nil
}

// Last implements [batch.Live].
func (w *World) Last() schemas.Position {
	w.mu.Lock()
	defer w.mu.Unlock()
	return At(w.log.Last)
}

// Wait implements [batch.Live].
func (w *World) Wait(context.Context, schemas.Position) error { return w.fail("wait") }

// Totals implements [batch.Live].
func (w *World) Totals(_ context.Context, after, through schemas.Position) (map[string]archive.Totals, error) {
	if err := w.fail("totals"); err != nil {
		return nil, err
	}
	w.mu.Lock()
	cut, boundary := w.served.cut, w.boundary(through)
	w.mu.Unlock()
	if after != cut {
		return nil, fmt.Errorf("totals after %s, but the served generation is cut at %s", after, cut)
	}
	if !boundary {
		return nil, fmt.Errorf("totals through %s, where no segment ends", through)
	}
	all, err := w.Counted(after, through)
	if f := w.currentFaults().Totals; f != nil && err == nil {
		f(all)
	}
	return all, err
}

// Counted returns the control totals of any span.
func (w *World) Counted(after, through schemas.Position) (map[string]archive.Totals, error) {
	t := archive.Totals{Account: w.account(after, through), Sums: map[string]string{}}
	var qty, price string
	if err := w.db.QueryRow(fmt.Sprintf("SELECT coalesce(sum(qty), 0)::VARCHAR, coalesce(sum(price), 0)::VARCHAR FROM events WHERE %s", within(after, through))).Scan(&qty, &price); err != nil {
		return nil, err
	}
	if t.Accepted > 0 {
		t.Sums["qty"], t.Sums["price"] = qty, price
	}
	return map[string]archive.Totals{Stream: t}, nil
}

func within(after, through schemas.Position) string {
	return fmt.Sprintf("_duet_at > %d AND _duet_at <= %d", after, through)
}

func (w *World) account(after, through schemas.Position) schemas.Account {
	var a schemas.Account
	err := w.db.QueryRow("SELECT count(*), count(*) FILTER (verdict = 'accepted'), count(*) FILTER (verdict = 'duplicate'), count(*) FILTER (verdict = 'rejected') FROM verdicts WHERE "+
		within(after, through)).Scan(&a.Received, &a.Accepted, &a.Duplicate, &a.Rejected)
	if err != nil {
		panic(err) // the world is broken, not the code under test
	}
	return a
}

// boundary reports whether a segment ends at a position. mu is held.
func (w *World) boundary(at schemas.Position) bool {
	if at == w.served.cut {
		return true
	}
	for _, m := range w.log.Marks {
		if At(m) == at {
			return at > w.served.merged
		}
	}
	return false
}

// partials returns SELECTs of the partials of a view in (s.cut, through].
func (w *World) partials(s serving, v recompute.View, through schemas.Position) []string {
	var parts []string
	after := s.cut
	if s.shadow != nil {
		parts, after = append(parts, "SELECT * FROM "+s.shadow[v.Name]), s.folded
	}
	if w.account(after, through).Accepted > 0 {
		parts = append(parts, with(recompute.RowsTable, "SELECT * FROM events WHERE "+within(after, through), v.Partial))
	}
	return parts
}

// Export implements [batch.Live].
func (w *World) Export(_ context.Context, view string, through schemas.Position, path string) (int64, error) {
	if err := w.fail("export"); err != nil {
		return 0, err
	}
	w.mu.Lock()
	s, v, boundary := w.served, w.views[view], w.boundary(through)
	w.mu.Unlock()
	switch {
	case v.Name == "":
		return 0, fmt.Errorf("there is no view %s", view)
	case !boundary:
		return 0, fmt.Errorf("export view %s through %s, where no segment ends", view, through)
	case s.suspended[view] != nil:
		return 0, &batch.NotComparableError{View: view, Reason: "suspended"}
	}
	parts := w.partials(s, v, through)
	if len(parts) == 0 {
		return 0, nil
	}
	query := with(recompute.CellsTable, union(parts), v.Merge)
	if f := w.currentFaults().Tamper; f != nil {
		query = f(view, query)
	}
	res, err := w.db.Exec("COPY (" + query + ") TO " + duck.Literal(path) + " (FORMAT parquet)")
	if raised(err) {
		return 0, &batch.NotComparableError{View: view, Reason: "suspended"}
	}
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

func raised(err error) bool { return err != nil && strings.Contains(err.Error(), "Conversion Error") }

// with binds a table that a view's SQL reads to a relation.
func with(name, relation, query string) string {
	return "WITH " + name + " AS (" + relation + ") " + query
}

// union joins SELECTs.
func union(parts []string) string {
	for i, p := range parts {
		parts[i] = "SELECT * FROM (" + p + ")"
	}
	return strings.Join(parts, " UNION ALL ")
}

// Stage implements [batch.Live].
func (w *World) Stage(_ context.Context, g *catalog.Generation, files map[string]string) ([]recompute.Suspension, error) {
	w.Discard(context.Background())
	if err := w.fail("stage"); err != nil {
		return nil, err
	}
	return w.load(g, files)
}

// load stages a generation's cells.
func (w *World) load(g *catalog.Generation, files map[string]string) ([]recompute.Suspension, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := serving{number: g.Number, cut: g.Cut.Position(), folded: g.Cut.Position(), cells: map[string]string{}, suspended: map[string]*recompute.Suspension{}}
	var unfit []recompute.Suspension
	for _, gv := range g.Views {
		if gv.Suspended != nil {
			s.suspended[gv.Name] = gv.Suspended
			continue
		}
		table := w.table("b", gv.Name)
		if _, err := w.db.Exec("CREATE TABLE " + table + " AS FROM " + duck.Parquet(files[gv.Name])); err != nil {
			return nil, fmt.Errorf("stage view %s: %w", gv.Name, err)
		}
		if limit, ok := w.faults.MaxGroups[gv.Name]; ok {
			var groups int64
			if err := w.db.QueryRow("SELECT count(*) FROM " + table).Scan(&groups); err != nil {
				return nil, err
			}
			if groups > limit {
				sus := recompute.Suspension{View: gv.Name, At: s.cut, Record: -1, Message: fmt.Sprintf("it has %d groups, its limit is %d", groups, limit), Remedy: "raise max_groups"}
				unfit = append(unfit, sus)
				s.suspended[gv.Name] = &sus
				continue
			}
		}
		s.cells[gv.Name] = table
	}
	w.staged = &s
	return unfit, nil
}

// table returns a new table's name. mu is held.
func (w *World) table(kind, view string) string {
	w.tables++
	return fmt.Sprintf("%s_%s_%d", kind, view, w.tables)
}

// Rebuild implements [batch.Live]: it folds the archived rows after g's cut, then
// those of the tail.
func (w *World) Rebuild(ctx context.Context, g *catalog.Generation, files map[string]string) ([]recompute.Suspension, error) {
	w.Discard(ctx)
	if err := w.fail("rebuild"); err != nil {
		return nil, err
	}
	for {
		shadow, err := w.fold(ctx, g.Cut.Position())
		if errors.Is(err, archive.ErrRepaired) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("rebuild after %s: %w", g.Cut.Position(), err)
		}
		unfit, err := w.load(g, files)
		if err != nil {
			return nil, err
		}
		w.mu.Lock()
		w.staged.shadow, w.staged.folded = shadow.tables, shadow.through
		for name, sus := range shadow.suspended {
			w.staged.suspended[name] = sus
		}
		w.mu.Unlock()
		return unfit, nil
	}
}

// shadow is the live state after a cut.
type shadow struct {
	through   schemas.Position
	tables    map[string]string // of partials, by view
	suspended map[string]*recompute.Suspension
}

// fold makes the live state after a cut, from the archive and the tail.
func (w *World) fold(ctx context.Context, cut schemas.Position) (*shadow, error) {
	if w.cfg.Archive == nil {
		return nil, errors.New("the world has no archive")
	}
	snap := w.cfg.Archive.Snapshot()
	defer snap.Release()
	through := snap.Through.Position()
	var rows []string
	if cut < through {
		archived, err := snap.Relation(ctx, Stream, cut, through)
		if err != nil {
			return nil, err
		}
		if archived != "" {
			rows = append(rows, "SELECT * FROM "+archived)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	out := &shadow{through: At(w.log.Last), tables: map[string]string{}, suspended: map[string]*recompute.Suspension{}}
	rows = append(rows, "SELECT * FROM events WHERE "+within(max(cut, through), out.through))
	all := strings.Join(rows, " UNION ALL BY NAME ")
	for name, v := range w.views {
		out.tables[name] = w.table("l", name)
		// Without GROUP BY a SELECT over no rows gives a row; a partial of no rows has none.
		query := "SELECT * FROM (" + with(recompute.RowsTable, all, v.Partial) + ") WHERE EXISTS (FROM (" + all + "))"
		if _, err := w.db.ExecContext(ctx, "CREATE TABLE "+out.tables[name]+" AS "+query); raised(err) {
			out.suspended[name] = &recompute.Suspension{View: name, At: out.through, Record: -1, Message: err.Error(), Remedy: "edit the view"}
		} else if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Switch implements [batch.Live].
func (w *World) Switch(_ context.Context, g *catalog.Generation) error {
	if err := w.fail("switch"); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.staged
	switch {
	case s == nil || s.number != g.Number:
		return fmt.Errorf("generation %d is not staged", g.Number)
	case s.number <= w.served.number:
		return fmt.Errorf("the served generation would go from %d back to %d (H9)", w.served.number, s.number)
	case s.shadow == nil && s.cut < w.served.cut:
		return fmt.Errorf("generation %d has cut %s, before the served one's %s, and its live state was not rebuilt", s.number, s.cut, w.served.cut)
	case s.shadow == nil && !w.boundary(s.cut):
		return fmt.Errorf("generation %d has cut %s, where no segment ends", s.number, s.cut)
	}
	if s.shadow != nil {
		s.merged = At(w.log.Last)
	} else {
		s.merged = w.served.merged
	}
	w.served, w.staged = *s, nil
	return nil
}

// Discard implements [batch.Live].
func (w *World) Discard(context.Context) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.staged = nil
}

// Served returns the number of the generation that answers come from; 0 before the
// first.
func (w *World) Served() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.served.number
}
