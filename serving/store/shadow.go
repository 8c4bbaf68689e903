package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"duet/batch/catalog"
	"duet/batch/recompute"
	"duet/internal/base/duck"
	"duet/schemas"
)

// Archived lists archive files: every accepted event after the position that was
// asked for, and at or before Through, is in them.
type Archived struct {
	Through schemas.Position
	Files   map[string][]string  // by stream, in order of position
	Newest  map[string]time.Time // newest event time through Through, by stream
}

// ListArchived lists the archive files with rows after a position, verified. The
// files must exist until the call that was given the function returns.
type ListArchived func(ctx context.Context, after schemas.Position) (Archived, error)

// Rebuild stages a generation, as Stage does, and builds in shadow the complete
// live state after its cut, from the archive and the tail. Both wait for Switch
// or Discard, in tables that no reader sees: whatever can fail fails here, before
// a rollback is published (H12). It serves
//
//   - recovery, on a store to which nothing was applied: after Switch live-through
//     is the archive's end, and Apply continues with the log behind it. g is nil
//     if no generation is published;
//   - rollback: g has a new number, an older cut, and the old cells.
//
// The cut need not be a boundary; all segments become one, so a batch run that
// cut before the rebuild cannot switch any more. list may be called more than
// once, because ingest continues and rows move from the tail to the archive. From
// the moment when the archive has been read up to the tail, released blocks stay
// in memory until Switch or Discard.
//
// A view that does not fit in memory is left out alone; see Stage.
func (s *Store) Rebuild(ctx context.Context, g *catalog.Generation, files map[string]string, list ListArchived) (unfit []recompute.Suspension, err error) {
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
	st.shadow = newShadow(s, st)
	if err := st.shadow.build(ctx, conn, list); err != nil {
		s.discard(ctx, st)
		return nil, err
	}
	s.setStaged(st)
	return st.unfits(), nil
}

// shadow is the live state after a cut, in tables that no layout names.
type shadow struct {
	s       *Store
	st      *staged
	through schemas.Position // every accepted event after the cut and through here is folded
	fresh   bool             // for a store to which nothing was applied
	held    bool             // the writer keeps released blocks for it
	views   []*shadowView    // smallest first, so that one that does not fit harms no other
	newest  map[string]time.Time
}

type shadowView struct {
	def       *definition
	table     string // "" if it does not fit
	rows      int64
	suspended *recompute.Suspension
}

func newShadow(s *Store, st *staged) *shadow {
	sh := &shadow{s: s, st: st, through: st.cut(), newest: map[string]time.Time{}}
	groups := func(v *shadowView) int64 {
		if held := st.held(v.def); held != nil {
			return held.Rows
		}
		return 0
	}
	for _, def := range s.views {
		sh.views = append(sh.views, &shadowView{def: def, table: s.liveTable(def.name)})
	}
	slices.SortFunc(sh.views, func(a, b *shadowView) int {
		return cmp.Or(cmp.Compare(groups(a), groups(b)), cmp.Compare(a.def.name, b.def.name))
	})
	return sh
}

func (sh *shadow) view(name string) *shadowView {
	return sh.views[slices.IndexFunc(sh.views, func(v *shadowView) bool { return v.def.name == name })]
}

// catchUps is how often build folds what arrived while it was folding, so that
// little is left for Switch, which holds up the writer.
const catchUps = 2

func (sh *shadow) build(ctx context.Context, conn *duck.Conn, list ListArchived) error {
	for _, v := range sh.views {
		if _, err := conn.ExecContext(ctx, "CREATE TABLE "+duck.Ident(v.table)+" ("+v.def.cells+")"); err != nil {
			return resource("rebuild view "+v.def.name, err)
		}
		if why := sh.st.unfit[v.def.name]; why != nil {
			sh.leaveOut(ctx, v, why)
		}
	}
	if err := sh.readArchive(ctx, conn, list); err != nil {
		return err
	}
	for range catchUps {
		if err := sh.foldTail(ctx, conn, sh.s.moments.now()); err != nil {
			return err
		}
	}
	return nil
}

// readArchive folds archived rows until the tail begins where they end, and
// holds the tail.
func (sh *shadow) readArchive(ctx context.Context, conn *duck.Conn, list ListArchived) error {
	need := sh.st.cut() // what the archive must reach
	for {
		a, err := list(ctx, sh.through)
		if err != nil {
			return err
		}
		if a.Through < need {
			return fmt.Errorf("store: the archive ends at %s, but it had reached %s: its newest manifest is missing; restore the data folder from a copy (H6)", a.Through, need)
		}
		for _, v := range sh.views {
			if err := sh.fits(ctx, v, sh.foldArchive(ctx, conn, v, a)); err != nil {
				return err
			}
		}
		sh.through, sh.newest = a.Through, newer(sh.newest, a.Newest)
		if err := sh.s.do(ctx, sh.hold); err != nil || sh.held {
			return err
		}
		need = sh.s.moments.now().layout.archived
	}
}

// hold keeps released blocks in the layout from now on, unless rows after the
// shadow's end were released already.
func (sh *shadow) hold(w *writer) error {
	sh.fresh = w.m.through == 0
	if !sh.fresh && sh.through > w.m.through {
		return fmt.Errorf("store: the archive reaches %s, the live half only %s", sh.through, w.m.through)
	}
	if w.m.layout.archived <= sh.through {
		w.holds++
		sh.held = true
	}
	return nil
}

// unhold drops released blocks unless another shadow needs them.
func (w *writer) unhold() {
	if w.holds--; w.holds > 0 {
		return
	}
	if err := w.dropReleased(); err != nil {
		w.s.cfg.Log.Warn("released rows stay in memory until the next block is released", "error", err)
	}
}

// fits passes err on, unless it says that v ran out of memory: then v is left out.
// If the smallest view does not fit, none does, and that is an error.
func (sh *shadow) fits(ctx context.Context, v *shadowView, err error) error {
	if !duck.OutOfMemory(err) || v == sh.views[0] && len(sh.views) > 1 {
		return err
	}
	why := sh.s.outOfMemory(v.def.name, sh.through, oneLine(err))
	sh.s.leaveOut(ctx, sh.st, v.def.name, why)
	sh.leaveOut(ctx, v, why)
	return nil
}

func (sh *shadow) leaveOut(ctx context.Context, v *shadowView, why *recompute.Suspension) {
	sh.s.dropUnknown(ctx, []string{v.table})
	v.table, v.rows, v.suspended = "", 0, why
}

// discard drops the shadow's tables and lets released blocks go.
func (sh *shadow) discard(ctx context.Context) {
	var tables []string
	for _, v := range sh.views {
		if v.table != "" {
			tables = append(tables, v.table)
		}
	}
	sh.s.dropUnknown(ctx, tables)
	if sh.held {
		// do fails only if the store is closed.
		_ = sh.s.do(context.WithoutCancel(ctx), func(w *writer) error { w.unhold(); return nil })
	}
}

// foldArchive folds the archived rows after sh.through into v.
func (sh *shadow) foldArchive(ctx context.Context, conn *duck.Conn, v *shadowView, a Archived) error {
	files, set := a.Files[v.def.stream], sh.s.sets[v.def.stream]
	if len(files) == 0 || sh.through == a.Through || v.suspended != nil {
		return nil
	}
	err := v.fold(ctx, conn, archived(set, files, sh.through, a.Through))
	if err == nil || !duck.Evaluates(err) && !binds(err) {
		return resource(fmt.Sprintf("rebuild view %s from %d archive files", v.def.name, len(files)), err)
	}
	// Fold file by file to find the event. What folds meanwhile is not used.
	cause := err
	for _, f := range files {
		if err := v.foldOrSuspend(ctx, sh.s, conn, archived(set, []string{f}, sh.through, a.Through), a.Through); err != nil {
			return err
		}
		if v.suspended != nil {
			return nil
		}
	}
	v.suspended = &recompute.Suspension{View: v.def.name, At: a.Through, Record: -1, Message: oneLine(cause), Remedy: remedyEvaluation}
	return nil
}

// foldTail folds the rows of the tail after sh.through, up to a committed moment.
// A view that fails is suspended.
func (sh *shadow) foldTail(ctx context.Context, conn *duck.Conn, to *moment) error {
	if to.through <= sh.through {
		return nil
	}
	for _, v := range sh.views {
		if from := sh.tail(v, to); from != "" && v.suspended == nil {
			if err := sh.fits(ctx, v, v.foldOrSuspend(ctx, sh.s, conn, from, to.through)); err != nil {
				return err
			}
		}
	}
	sh.through = to.through
	return nil
}

// tail returns a parenthesised SELECT of a view's rows in the tail after
// sh.through, up to a moment; "" if there are none.
func (sh *shadow) tail(v *shadowView, to *moment) string {
	var parts []string
	for _, b := range to.layout.blocks {
		t := b.tables[v.def.stream]
		if t == "" || b.through != 0 && b.through <= sh.through {
			continue
		}
		parts = append(parts, fmt.Sprintf("SELECT * FROM %s WHERE %[2]s > %[3]d AND %[2]s <= %[4]d", duck.Ident(t), schemas.ColAt, int64(sh.through), int64(to.through)))
	}
	if len(parts) == 0 {
		return ""
	}
	return "(" + strings.Join(parts, " UNION ALL ") + ")"
}

func (v *shadowView) fold(ctx context.Context, conn *duck.Conn, from string) error {
	return inTransaction(ctx, conn, func() error {
		res, err := conn.ExecContext(ctx, "INSERT INTO "+duck.Ident(v.table)+" "+v.def.partial(from))
		if err != nil {
			return err
		}
		n, err := res.RowsAffected()
		v.rows += n
		return err
	})
}

// inTransaction runs f in a transaction. A statement with a filter over a table
// that the writer appends to needs one: in autocommit DuckDB plans it in one
// transaction and executes it in the next, and if the table's statistics say that
// all rows pass the filter, the plan has none and reads rows that came between.
func inTransaction(ctx context.Context, conn *duck.Conn, f func() error) error {
	if _, err := conn.ExecContext(ctx, "BEGIN"); err != nil {
		return err
	}
	err := f()
	if err == nil {
		_, err = conn.ExecContext(ctx, "COMMIT")
	}
	if err != nil {
		// It fails if the transaction has ended, which is what it is for.
		_, _ = conn.ExecContext(context.WithoutCancel(ctx), "ROLLBACK")
	}
	return err
}

// foldOrSuspend folds rows into v, or suspends v at the event over which it fails.
func (v *shadowView) foldOrSuspend(ctx context.Context, s *Store, conn *duck.Conn, from string, through schemas.Position) error {
	err := v.fold(ctx, conn, from)
	if err == nil {
		return nil
	}
	if !duck.Evaluates(err) && !binds(err) {
		return resource("rebuild view "+v.def.name, err)
	}
	v.suspended, err = locateIn(ctx, s, conn, v.def, from, through, err)
	return err
}

// locateIn finds the row of a relation, which is in order of position, over
// which a view fails.
func locateIn(ctx context.Context, s *Store, conn *duck.Conn, def *definition, from string, through schemas.Position, cause error) (*recompute.Suspension, error) {
	p := newProbe(s, conn, def)
	defer p.drop(context.WithoutCancel(ctx))
	if err := inTransaction(ctx, conn, func() error { return p.exec(ctx, "CREATE TABLE "+p.rows+" AS FROM "+from) }); err != nil {
		return nil, resource("look for the event", err)
	}
	return p.locate(ctx, through, cause)
}

// switchToShadow folds what arrived since the shadow was built and makes it and
// its generation current.
func (w *writer) switchToShadow(st *staged, g *catalog.Generation) error {
	for {
		err := w.tryShadow(st, g)
		var ve *viewError
		if !errors.As(err, &ve) {
			return err
		}
		v := st.shadow.view(ve.view)
		if duck.OutOfMemory(ve.err) {
			v.suspended = w.s.outOfMemory(ve.view, w.m.through, oneLine(ve.err))
			continue
		}
		v.suspended, err = locateIn(context.Background(), w.s, w.conn, v.def, st.shadow.tail(v, w.m), w.m.through, ve.err)
		if err != nil {
			return err
		}
	}
}

func (w *writer) tryShadow(st *staged, g *catalog.Generation) error {
	sh, m := st.shadow, w.next()
	if !sh.fresh && st.number() <= m.generation {
		return fmt.Errorf("store: generation %d after %d: numbers only grow (H9)", st.number(), m.generation)
	}
	if sh.fresh && m.through != 0 {
		return fmt.Errorf("store: events were applied before recovery had ended")
	}
	l := w.relayout(m)
	m.generation, m.cut, m.through = st.number(), st.cut(), max(m.through, sh.through)
	if sh.fresh {
		l.archived = sh.through
		l.blocks = slices.Clone(l.blocks)
		l.blocks[0].after = sh.through
		m.newest = newer(m.newest, sh.newest)
	}
	l.segments = []segment{{number: w.s.ids.Add(1), after: st.cut()}}
	old, failed := w.replaceViews(m, st, g)
	rows := map[string]int64{}
	err := w.commit(m, func(ctx context.Context) error {
		for _, v := range sh.views {
			if v.suspended != nil {
				continue
			}
			n, err := w.foldRest(ctx, sh, v)
			if err != nil {
				return err
			}
			rows[v.table] = v.rows + n
		}
		return w.drop(ctx, old)
	})
	if err != nil {
		return err
	}
	clear(w.current)
	clear(w.groups)
	for t, n := range rows {
		w.s.rows.add(t, n)
	}
	w.countCells(st)
	if sh.fresh {
		w.open.From = sh.through
	}
	w.unhold()
	w.announce(failed)
	return nil
}

// replaceViews sets every view of m's layout to its shadow tables; old lists the
// tables that it named before.
func (w *writer) replaceViews(m *moment, st *staged, g *catalog.Generation) (old []string, failed map[string]*recompute.Suspension) {
	l := m.layout
	failed = map[string]*recompute.Suspension{}
	for _, name := range viewNames(l) {
		v, r := l.views[name], st.shadow.view(name)
		old = append(old, w.setCells(&v, st, g)...)
		for _, t := range v.live {
			old = append(old, t.name)
		}
		before := v.suspended
		v.suspended, v.incomplete = r.suspended, nil
		seg := l.openSegment().number
		v.live = nil
		if r.table != "" {
			v.live = []liveTable{{r.table, seg}}
		}
		if r.suspended != nil {
			v.incomplete = []int64{seg}
		}
		v = w.availability(l, v, st, m.through, failed)
		l.views[name] = v
		if v.suspended != nil && before == nil {
			failed[name] = v.suspended
		}
	}
	return old, failed
}

// foldRest folds the rows that arrived after the shadow was built.
func (w *writer) foldRest(ctx context.Context, sh *shadow, v *shadowView) (int64, error) {
	from := sh.tail(v, w.m)
	if from == "" || w.m.through <= sh.through {
		return 0, nil
	}
	res, err := w.conn.ExecContext(ctx, "INSERT INTO "+duck.Ident(v.table)+" "+v.def.partial(from))
	if err != nil && (duck.Evaluates(err) || binds(err) || duck.OutOfMemory(err)) {
		return 0, &viewError{v.def.name, err}
	}
	if err != nil {
		return 0, resource("rebuild view "+v.def.name, err)
	}
	return res.RowsAffected()
}

// archived selects rows at positions in (after, through] from archive files
// into the shape that they have in memory.
func archived(set *dataset, files []string, after, through schemas.Position) string {
	names := make([]string, len(set.names))
	for i, n := range set.names {
		if names[i] = duck.Ident(n); n == schemas.ColAt {
			names[i] = schemas.PackedSQL + " AS " + n
		}
	}
	return "(SELECT " + strings.Join(names, ", ") + " FROM " + duck.Parquet(files...) + " WHERE " + schemas.WithinSQL(after, through) + ")"
}
