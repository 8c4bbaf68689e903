package store

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"duet/internal/base/duck"
	"duet/schemas"
)

// Generation is a published result of the batch half, as the store takes it.
type Generation struct {
	Number uint64 // 0: none, an empty one at cut 0
	Cut    schemas.Position
	Views  map[string]GenerationView // by name; views that the project no longer has are ignored
}

// GenerationView is one view of a generation.
type GenerationView struct {
	// Definition is the version that it was computed under. Another one than
	// the compiled view's counts as absent.
	Definition string
	// File is Parquet with the view's cell columns, by name, one row a group.
	// "" means that there is no group.
	File string
	// Suspended says why the batch half could not compute it; File is then ignored.
	Suspended *Suspension
}

// stagedGeneration is loaded, but not known to any reader.
type stagedGeneration struct {
	Generation
	tables map[string]string // by view that it holds
	rows   map[string]int64
}

// Stage loads a generation beside the one being served, into tables that no
// reader knows, after checking that it fits. Staging a number again replaces
// what was staged.
func (s *Store) Stage(ctx context.Context, g Generation) error {
	ctx, cancel := s.working(ctx)
	defer cancel()
	if err := s.Unstage(ctx, g.Number); err != nil {
		return err
	}
	conn, err := s.db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	st, err := s.stage(ctx, conn, g)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.staged[g.Number] = st
	return nil
}

// Unstage drops a staged generation that will not be switched to. One that is
// not staged is fine.
func (s *Store) Unstage(ctx context.Context, number uint64) error {
	s.mu.Lock()
	st := s.staged[number]
	delete(s.staged, number)
	s.mu.Unlock()
	if st == nil {
		return nil
	}
	return s.dropUnknown(ctx, slices.Sorted(maps.Values(st.tables)))
}

// dropUnknown drops tables that no layout names.
func (s *Store) dropUnknown(ctx context.Context, tables []string) error {
	conn, err := s.db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	for _, t := range tables {
		if _, err := conn.ExecContext(ctx, "DROP TABLE IF EXISTS "+duck.Ident(t)); err != nil {
			return resource("drop "+t, err)
		}
	}
	return nil
}

func (s *Store) stage(ctx context.Context, conn *duck.Conn, g Generation) (_ *stagedGeneration, err error) {
	st := &stagedGeneration{Generation: g, tables: map[string]string{}, rows: map[string]int64{}}
	defer func() {
		if err != nil {
			_ = s.dropUnknown(context.WithoutCancel(ctx), slices.Sorted(maps.Values(st.tables)))
		}
	}()
	if err := s.fits(ctx, conn, g); err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(g.Views)) {
		v, def := g.Views[name], s.views[name]
		if def == nil || v.Definition != def.hash || v.Suspended != nil {
			continue
		}
		table := fmt.Sprintf("b_%s_%d", name, s.ids.Add(1))
		st.tables[name] = table
		if _, err := conn.ExecContext(ctx, "CREATE TABLE "+duck.Ident(table)+" ("+def.cells+")"); err != nil {
			return nil, resource("stage view "+name, err)
		}
		if v.File == "" {
			continue
		}
		res, err := conn.ExecContext(ctx, "INSERT INTO "+duck.Ident(table)+" BY NAME SELECT * FROM read_parquet("+duck.Literal(v.File)+")")
		if err != nil {
			return nil, resource(fmt.Sprintf("stage view %s of generation %d from %s", name, g.Number, v.File), err)
		}
		if st.rows[name], err = res.RowsAffected(); err != nil {
			return nil, err
		}
	}
	return st, nil
}

// fits estimates a generation's memory from its files' footers: what a column
// takes uncompressed, and half as much again for vectors and strings.
func (s *Store) fits(ctx context.Context, conn *duck.Conn, g Generation) error {
	e := &MemoryError{Generation: g.Number, Limit: s.cfg.MemoryLimit}
	for _, name := range slices.Sorted(maps.Keys(g.Views)) {
		v := g.Views[name]
		if def := s.views[name]; def == nil || v.File == "" || v.Suspended != nil || v.Definition != def.hash {
			continue
		}
		var bytes int64
		q := "SELECT coalesce(sum(total_uncompressed_size), 0)::BIGINT FROM parquet_metadata(" + duck.Literal(v.File) + ")"
		if err := conn.QueryRowContext(ctx, q).Scan(&bytes); err != nil {
			return resource("read "+v.File, err)
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

// Switch makes a staged generation the one that all answers come from, in one
// short transaction (H4): the segments through its cut and the old cells go.
// Nothing changes if it fails, and the generation stays staged. A cut at which
// no segment ends is a *BoundaryError.
func (s *Store) Switch(ctx context.Context, number uint64) error {
	return s.do(ctx, func(w *writer) error {
		s.mu.Lock()
		st := s.staged[number]
		s.mu.Unlock()
		if st == nil {
			return fmt.Errorf("store: generation %d is not staged", number)
		}
		if err := w.switchTo(st); err != nil {
			return err
		}
		s.mu.Lock()
		delete(s.staged, number)
		s.mu.Unlock()
		return nil
	})
}

func (w *writer) switchTo(st *stagedGeneration) error {
	m := w.next()
	if st.Number <= m.generation {
		return fmt.Errorf("store: generation %d after %d: numbers only grow (H9)", st.Number, m.generation)
	}
	if st.Cut < m.cut {
		return fmt.Errorf("store: generation %d has cut %s, the current one %s; a rollback is a rebuild", st.Number, st.Cut, m.cut)
	}
	if !m.layout.boundary(st.Cut) {
		return &BoundaryError{fmt.Sprintf("switch to generation %d", st.Number), st.Cut}
	}
	l := w.relayout(m)
	var old []string
	failed := map[string]*Suspension{}
	for _, name := range viewNames(l) {
		v := l.views[name]
		if v.batch != "" {
			old = append(old, v.batch)
		}
		gone := l.tablesThrough(v, st.Cut)
		old = append(old, gone...)
		v.live = slices.DeleteFunc(slices.Clone(v.live), func(t liveTable) bool { return slices.Contains(gone, t.name) })
		v.batch = st.tables[name]
		v = w.availability(l, v, st, m.through, failed)
		l.views[name] = v
	}
	l.segments = slices.DeleteFunc(l.segments, func(s segment) bool { return s.through != 0 && s.through <= st.Cut })
	for name, v := range l.views {
		v.incomplete = slices.DeleteFunc(slices.Clone(v.incomplete), func(n int64) bool {
			return !slices.ContainsFunc(l.segments, func(s segment) bool { return s.number == n })
		})
		l.views[name] = v
	}
	m.generation, m.cut = st.Number, st.Cut
	if err := w.commit(m, func(ctx context.Context) error { return w.drop(ctx, old) }); err != nil {
		return err
	}
	w.announce(failed)
	return nil
}

// availability decides whether v can answer from a generation on (H6: only if
// the generation holds it and every event after the cut is in its partials).
// New suspensions are also put in failed.
func (w *writer) availability(l *layout, v viewTables, st *stagedGeneration, through schemas.Position, failed map[string]*Suspension) viewTables {
	name := v.def.name
	g, held := st.Views[name]
	held = held && g.Definition == v.def.hash
	limit := w.s.cfg.maxGroups(name)
	v.rebuilding = false
	switch {
	case held && g.Suspended != nil:
		if v.suspended == nil {
			failed[name] = g.Suspended
		}
		v.suspended = g.Suspended
	case held && limit > 0 && st.rows[name] > limit:
		sus := groupsSuspension(name, st.Cut, st.rows[name], limit)
		if v.suspended == nil {
			failed[name] = sus
		}
		v.suspended = sus
	case !l.completeAfter(v, st.Cut):
		// It stays suspended: this generation does not cover the trouble.
		if v.suspended == nil {
			v.rebuilding = true
		}
	case held:
		v.suspended = nil
	case st.Number == 0 && st.Cut == 0:
		// Everything is live; there is nothing that a generation should hold.
		v.suspended = nil
	default:
		v.suspended, v.rebuilding = nil, true
	}
	return v
}

func groupsSuspension(view string, at schemas.Position, groups, limit int64) *Suspension {
	return &Suspension{
		View: view, At: at, Record: -1,
		Message: fmt.Sprintf("it has %d groups, its limit is %d", groups, limit),
		Remedy:  fmt.Sprintf("group by less, or raise max_groups in views/%s.yaml, and restart", view),
	}
}

// ExportLive writes the merged partials of a view's segments through a cut to
// path, as zstd Parquet with the cell columns; the writer goes on meanwhile.
// A view that cannot answer is an error as in [Snapshot.Partials]; a cut at
// which no segment ends is a *BoundaryError. The file is not synced.
func (s *Store) ExportLive(ctx context.Context, view string, through schemas.Position, path string) (rows int64, err error) {
	err = s.Read(ctx, func(sn *Snapshot) error {
		v, ok := sn.m.layout.views[view]
		if !ok {
			return &UnknownViewError{view}
		}
		if !sn.m.layout.boundary(through) {
			return &BoundaryError{"export view " + view, through}
		}
		// A view that is being rebuilt, or was suspended later, still has whole
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
