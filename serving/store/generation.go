package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"duet/batch/catalog"
	"duet/batch/recompute"
	"duet/internal/base/duck"
	"duet/schemas"
)

// staged is what the next Switch makes current, in tables that no layout names.
type staged struct {
	gen    *catalog.Generation // nil: none is published; an empty one at cut 0
	cells  map[string]cells    // by view that it holds
	unfit  map[string]*recompute.Suspension
	shadow *shadow // after Rebuild: the live state after the cut
}

// cells is one view's table of a generation.
type cells struct {
	table  string
	rows   int64
	served bool // the table is the served one: the file is the same
}

func (st *staged) number() uint64 {
	if st.gen == nil {
		return 0
	}
	return st.gen.Number
}

func (st *staged) cut() schemas.Position {
	if st.gen == nil {
		return 0
	}
	return st.gen.Cut.Position()
}

// held returns the generation's view if it has the present definition.
func (st *staged) held(def *definition) *catalog.View {
	if st.gen == nil {
		return nil
	}
	if v := st.gen.View(def.name); v != nil && v.Definition == def.hash {
		return v
	}
	return nil
}

// unfits lists the views that this store cannot hold, by name.
func (st *staged) unfits() []recompute.Suspension {
	var out []recompute.Suspension
	for _, name := range slices.Sorted(maps.Keys(st.unfit)) {
		out = append(out, *st.unfit[name])
	}
	return out
}

// own lists the tables that no layout names.
func (st *staged) own() []string {
	var tables []string
	for _, c := range st.cells {
		if !c.served {
			tables = append(tables, c.table)
		}
	}
	return tables
}

// Stage loads the cells of a generation beside the served ones, into tables that
// no reader sees; files has the path of each view that is not suspended. The
// table of a file that is served already is used again. Stage replaces what was
// staged before.
//
// unfit lists the views that exceed max_groups or do not fit in memory: they alone
// are left out, and Switch serves them suspended.
func (s *Store) Stage(ctx context.Context, g *catalog.Generation, files map[string]string) (unfit []recompute.Suspension, err error) {
	ctx, cancel := s.working(ctx)
	defer cancel()
	s.Discard(ctx)
	conn, err := s.db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	st, err := s.stage(ctx, conn, g, files)
	if err != nil {
		return nil, err
	}
	s.setStaged(st)
	return st.unfits(), nil
}

// Discard drops what Stage or Rebuild left, if anything.
func (s *Store) Discard(ctx context.Context) {
	if st := s.setStaged(nil); st != nil {
		s.discard(ctx, st)
	}
}

// setStaged returns what was staged before.
func (s *Store) setStaged(st *staged) (before *staged) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before, s.staged = s.staged, st
	return before
}

func (s *Store) discard(ctx context.Context, st *staged) {
	s.dropUnknown(ctx, st.own())
	if st.shadow != nil {
		st.shadow.discard(ctx)
	}
}

// dropUnknown drops tables that no layout names, also after ctx has ended. A
// table that cannot be dropped costs memory until the process ends, so that is
// only logged.
func (s *Store) dropUnknown(ctx context.Context, tables []string) {
	ctx = context.WithoutCancel(ctx)
	conn, err := s.db.Conn(ctx)
	if err == nil {
		defer conn.Close()
		for _, t := range tables {
			_, derr := conn.ExecContext(ctx, "DROP TABLE IF EXISTS "+duck.Ident(t))
			err = errors.Join(err, derr)
		}
	}
	if err != nil && s.ctx.Err() == nil {
		s.cfg.Log.Warn("tables that are not used any more stay in memory", "tables", tables, "error", err)
	}
}

// stage loads the cells of every view that the project has and g holds; views
// of g that the project no longer has are ignored.
func (s *Store) stage(ctx context.Context, conn *duck.Conn, g *catalog.Generation, files map[string]string) (_ *staged, err error) {
	st := &staged{gen: g, cells: map[string]cells{}, unfit: map[string]*recompute.Suspension{}}
	defer func() {
		if err != nil {
			s.discard(ctx, st)
		}
	}()
	loads, err := s.plan(ctx, conn, st, files)
	if err != nil {
		return nil, err
	}
	for _, ld := range loads {
		err := s.load(ctx, conn, st, ld)
		if duck.OutOfMemory(err) {
			s.leaveOut(ctx, st, ld.def.name, s.tooLarge(ld, st.cut(), oneLine(err)))
		} else if err != nil {
			return nil, err
		}
	}
	return st, nil
}

// load fills a new table with a view's cells.
func (s *Store) load(ctx context.Context, conn *duck.Conn, st *staged, ld load) error {
	name := ld.def.name
	table := fmt.Sprintf("b_%s_%d", name, s.ids.Add(1))
	st.cells[name] = cells{table: table}
	if _, err := conn.ExecContext(ctx, "CREATE TABLE "+duck.Ident(table)+" ("+ld.def.cells+")"); err != nil {
		return resource("stage view "+name, err)
	}
	res, err := conn.ExecContext(ctx, "INSERT INTO "+duck.Ident(table)+" BY NAME SELECT * FROM "+duck.Parquet(ld.file))
	if err != nil {
		return resource(fmt.Sprintf("stage view %s of generation %d from %s", name, st.number(), ld.file), err)
	}
	n, err := res.RowsAffected()
	st.cells[name] = cells{table: table, rows: n}
	return err
}

// leaveOut drops a view's cells from st and suspends it.
func (s *Store) leaveOut(ctx context.Context, st *staged, view string, why *recompute.Suspension) {
	if c, ok := st.cells[view]; ok && !c.served {
		s.dropUnknown(ctx, []string{c.table})
	}
	delete(st.cells, view)
	st.unfit[view] = why
}

// Switch makes the staged generation the one that all answers come from, in one
// short transaction (H4), and drops the old cells and the segments through its
// cut. After Rebuild it first folds what arrived since. g is the generation as it
// was published, nil if none is. If Switch fails nothing changes, and the
// generation stays staged. After Stage, a cut at which no segment ends is a
// *BoundaryError.
func (s *Store) Switch(ctx context.Context, g *catalog.Generation) error {
	return s.do(ctx, func(w *writer) (err error) {
		s.mu.Lock()
		st := s.staged
		s.mu.Unlock()
		number := (&staged{gen: g}).number()
		switch {
		case st == nil || st.number() != number:
			return fmt.Errorf("store: generation %d is not staged", number)
		case st.shadow != nil:
			err = w.switchToShadow(st, g)
		default:
			err = w.switchTo(st, g)
		}
		if err == nil {
			s.setStaged(nil)
		}
		return err
	})
}

func (w *writer) switchTo(st *staged, g *catalog.Generation) error {
	m, cut := w.next(), st.cut()
	if st.number() <= m.generation {
		return fmt.Errorf("store: generation %d after %d: numbers only grow (H9)", st.number(), m.generation)
	}
	if cut < m.cut {
		return fmt.Errorf("store: generation %d has cut %s, the current one %s; a rollback is a rebuild", st.number(), cut, m.cut)
	}
	if !m.layout.boundary(cut) {
		return &BoundaryError{fmt.Sprintf("switch to generation %d", st.number()), cut}
	}
	l := w.relayout(m)
	var old []string
	failed := map[string]*recompute.Suspension{}
	for _, name := range viewNames(l) {
		v := l.views[name]
		old = append(old, w.setCells(&v, st, g)...)
		gone := l.tablesThrough(v, cut)
		if st.unfit[name] != nil {
			gone = l.abandon(&v)
		}
		old = append(old, gone...)
		v.live = slices.DeleteFunc(slices.Clone(v.live), func(t liveTable) bool { return slices.Contains(gone, t.name) })
		l.views[name] = w.availability(l, v, st, m.through, failed)
	}
	l.segments = slices.DeleteFunc(l.segments, func(s segment) bool { return s.through != 0 && s.through <= cut })
	for name, v := range l.views {
		v.incomplete = slices.DeleteFunc(slices.Clone(v.incomplete), func(n int64) bool {
			return !slices.ContainsFunc(l.segments, func(s segment) bool { return s.number == n })
		})
		l.views[name] = v
	}
	m.generation, m.cut = st.number(), cut
	if err := w.commit(m, func(ctx context.Context) error { return w.drop(ctx, old) }); err != nil {
		return err
	}
	w.countCells(st)
	w.announce(failed)
	return nil
}

// setCells makes v's cells those of a staged generation, published as g, and
// returns the table to drop, if any.
func (w *writer) setCells(v *viewTables, st *staged, g *catalog.Generation) (old []string) {
	name := v.def.name
	c := st.cells[name]
	if c.served && v.batch != c.table {
		// freeMemory dropped the table since.
		delete(st.cells, name)
		st.unfit[name], c = v.suspended, cells{}
	}
	if v.batch != "" && v.batch != c.table {
		old = []string{v.batch}
	}
	v.batch, v.file = c.table, ""
	if g != nil && c.table != "" {
		v.file = g.View(name).File
	}
	return old
}

// countCells sets the rows of the cells that were switched to.
func (w *writer) countCells(st *staged) {
	for _, c := range st.cells {
		if !c.served {
			w.s.rows.add(c.table, c.rows)
		}
	}
}

// availability decides whether v can answer after a switch (H6): only if the
// generation holds it and every event after the cut is in its partials. It also
// adds new suspensions to failed.
func (w *writer) availability(l *layout, v viewTables, st *staged, through schemas.Position, failed map[string]*recompute.Suspension) viewTables {
	name := v.def.name
	held := st.held(v.def)
	v.rebuilding = false
	suspend := func(why *recompute.Suspension) {
		if v.suspended == nil {
			failed[name] = why
		}
		v.suspended = why
	}
	switch {
	case st.unfit[name] != nil:
		suspend(st.unfit[name])
	case held != nil && held.Suspended != nil && !held.Suspended.Unfit:
		suspend(held.Suspended)
	case !l.completeAfter(v, st.cut()):
		// It stays suspended: this generation does not cover the failed event.
		if v.suspended == nil {
			v.rebuilding = true
		}
	case held != nil:
		v.suspended = nil
	case st.number() == 0 && st.cut() == 0:
		// All events are in the live half; no generation needs to hold the view.
		v.suspended = nil
	default:
		v.suspended, v.rebuilding = nil, true
	}
	return v
}

// ExportLive writes the merged partials of a view's segments through a cut to
// path, as zstd Parquet with the cell columns, and returns the number of groups.
// The writer is not held up. A view that cannot answer fails as in
// [Snapshot.Partials]; a cut at which no segment ends is a *BoundaryError. The
// file is not synced.
func (s *Store) ExportLive(ctx context.Context, view string, through schemas.Position, path string) (rows int64, err error) {
	err = s.exports.read(ctx, func(sn *Snapshot) error {
		v, ok := sn.m.layout.views[view]
		if !ok {
			return &UnknownViewError{view}
		}
		if !sn.m.layout.boundary(through) {
			return &BoundaryError{"export view " + view, through}
		}
		// A view that is being rebuilt, or was suspended later, still has complete
		// segments to compare.
		for _, g := range sn.m.layout.segments {
			if g.through != 0 && g.through <= through && slices.Contains(v.incomplete, g.number) {
				_, err := sn.m.answering(view)
				if err == nil {
					err = fmt.Errorf("store: segment %d of view %s is incomplete", g.number, view)
				}
				return err
			}
		}
		tables := sn.m.layout.tablesThrough(v, through)
		if len(tables) == 0 {
			return nil
		}
		rows, err = sn.copy(ctx, v.def.merge(union(tables, "e_"+view)), path)
		return err
	})
	return rows, err
}
