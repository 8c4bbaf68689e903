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
	tables map[string]string   // by view that it holds
	rows   map[string]int64    // groups, by view that it holds
	shadow *shadow             // after Rebuild: the live state after the cut
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

// Stage loads the cells of a generation beside the served ones, into tables that
// no reader sees, after checking that they fit; files has the path of each view
// that is not suspended. It replaces what was staged before.
func (s *Store) Stage(ctx context.Context, g *catalog.Generation, files map[string]string) error {
	ctx, cancel := s.working(ctx)
	defer cancel()
	s.Discard(ctx)
	conn, err := s.db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	st, err := s.stage(ctx, conn, g, files)
	if err != nil {
		return err
	}
	s.setStaged(st)
	return nil
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
	s.dropUnknown(ctx, slices.Sorted(maps.Values(st.tables)))
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
	st := &staged{gen: g, tables: map[string]string{}, rows: map[string]int64{}}
	defer func() {
		if err != nil {
			s.discard(ctx, st)
		}
	}()
	if err := s.fits(ctx, conn, st, files); err != nil {
		return nil, err
	}
	for _, def := range s.views {
		name := def.name
		if v := st.held(def); v == nil || v.Suspended != nil {
			continue
		}
		table := fmt.Sprintf("b_%s_%d", name, s.ids.Add(1))
		st.tables[name] = table
		if _, err := conn.ExecContext(ctx, "CREATE TABLE "+duck.Ident(table)+" ("+def.cells+")"); err != nil {
			return nil, resource("stage view "+name, err)
		}
		file, ok := files[name]
		if !ok {
			return nil, fmt.Errorf("store: generation %d holds view %s, but its file is not given", g.Number, name)
		}
		res, err := conn.ExecContext(ctx, "INSERT INTO "+duck.Ident(table)+" BY NAME SELECT * FROM read_parquet("+duck.Literal(file)+")")
		if err != nil {
			return nil, resource(fmt.Sprintf("stage view %s of generation %d from %s", name, g.Number, file), err)
		}
		if st.rows[name], err = res.RowsAffected(); err != nil {
			return nil, err
		}
	}
	return st, nil
}

// fits estimates a generation's memory from its files' footers: the uncompressed
// size of the columns, and half as much again for vectors and strings.
func (s *Store) fits(ctx context.Context, conn *duck.Conn, st *staged, files map[string]string) error {
	e := &MemoryError{Generation: st.number(), Limit: s.cfg.MemoryLimit}
	for name, def := range s.views {
		if v := st.held(def); v == nil || v.Suspended != nil {
			continue
		}
		var bytes int64
		q := "SELECT coalesce(sum(total_uncompressed_size), 0)::BIGINT FROM parquet_metadata(" + duck.Literal(files[name]) + ")"
		if err := conn.QueryRowContext(ctx, q).Scan(&bytes); err != nil {
			return resource("read "+files[name], err)
		}
		bytes += bytes / 2
		e.Need += bytes
		if bytes > e.LargestViewNeeding {
			e.LargestView, e.LargestViewNeeding = name, bytes
		}
	}
	var err error
	if e.Used, err = memoryUsed(ctx, conn); err != nil {
		return err
	}
	if e.Used+e.Need > e.Limit/10*9 && e.Need > 0 {
		return e
	}
	return nil
}

func memoryUsed(ctx context.Context, conn *duck.Conn) (bytes int64, err error) {
	err = conn.QueryRowContext(ctx, "SELECT coalesce(sum(memory_usage_bytes), 0)::BIGINT FROM duckdb_memory()").Scan(&bytes)
	return bytes, resource("read memory use", err)
}

// Switch makes the staged generation the one that all answers come from, in one
// short transaction (H4), and drops the old cells and the segments through its
// cut. After Rebuild it first folds what arrived since. If it fails nothing
// changes, and the generation stays staged. After Stage, a cut at which no
// segment ends is a *BoundaryError.
func (s *Store) Switch(ctx context.Context, number uint64) error {
	return s.do(ctx, func(w *writer) (err error) {
		s.mu.Lock()
		st := s.staged
		s.mu.Unlock()
		switch {
		case st == nil || st.number() != number:
			return fmt.Errorf("store: generation %d is not staged", number)
		case st.shadow != nil:
			err = w.switchToShadow(st)
		default:
			err = w.switchTo(st)
		}
		if err == nil {
			s.setStaged(nil)
		}
		return err
	})
}

func (w *writer) switchTo(st *staged) error {
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
		if v.batch != "" {
			old = append(old, v.batch)
		}
		gone := l.tablesThrough(v, cut)
		old = append(old, gone...)
		v.live = slices.DeleteFunc(slices.Clone(v.live), func(t liveTable) bool { return slices.Contains(gone, t.name) })
		v.batch = st.tables[name]
		v = w.availability(l, v, st, m.through, failed)
		l.views[name] = v
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
	w.announce(failed)
	return nil
}

// availability decides whether v can answer after a switch (H6): only if the
// generation holds it and every event after the cut is in its partials. It also
// adds new suspensions to failed.
func (w *writer) availability(l *layout, v viewTables, st *staged, through schemas.Position, failed map[string]*recompute.Suspension) viewTables {
	name, cut := v.def.name, st.cut()
	held := st.held(v.def)
	limit := int64(w.s.cfg.MaxGroups[name])
	v.rebuilding = false
	switch {
	case held != nil && held.Suspended != nil:
		if v.suspended == nil {
			failed[name] = held.Suspended
		}
		v.suspended = held.Suspended
	case held != nil && limit > 0 && st.rows[name] > limit:
		sus := groupsSuspension(name, cut, st.rows[name], limit)
		if v.suspended == nil {
			failed[name] = sus
		}
		v.suspended = sus
	case !l.completeAfter(v, cut):
		// It stays suspended: this generation does not cover the failed event.
		if v.suspended == nil {
			v.rebuilding = true
		}
	case held != nil:
		v.suspended = nil
	case st.number() == 0 && cut == 0:
		// All events are in the live half; no generation needs to hold the view.
		v.suspended = nil
	default:
		v.suspended, v.rebuilding = nil, true
	}
	return v
}

func groupsSuspension(view string, at schemas.Position, groups, limit int64) *recompute.Suspension {
	return &recompute.Suspension{
		View: view, At: at, Record: -1,
		Message: fmt.Sprintf("it has %d groups, its limit is %d", groups, limit),
		Remedy:  fmt.Sprintf("group by less, or raise max_groups in views/%s.yaml, and restart", view),
	}
}

// ExportLive writes the merged partials of a view's segments through a cut to
// path, as zstd Parquet with the cell columns, and returns the number of groups.
// The writer is not held up. A view that cannot answer fails as in
// [Snapshot.Partials]; a cut at which no segment ends is a *BoundaryError. The
// file is not synced.
func (s *Store) ExportLive(ctx context.Context, view string, through schemas.Position, path string) (rows int64, err error) {
	err = s.Read(ctx, func(sn *Snapshot) error {
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
				_, err := sn.answering(view)
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
