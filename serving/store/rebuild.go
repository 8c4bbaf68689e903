package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"duet/batch/catalog"
	"duet/batch/recompute"
	"duet/internal/base/duck"
	"duet/schemas"
)

// Archived lists the archive files that a rebuild reads: every accepted event
// after the generation's cut and at or before Through is in them.
type Archived struct {
	Through schemas.Position
	Files   map[string][]string  // by stream, in order of position; they must exist until Rebuild returns
	Newest  map[string]time.Time // newest event time through Through, by stream
}

// Rebuild rebuilds the live state after a generation's cut from the archive and
// the tail, and switches to it and the generation in one transaction; answers
// come from the old state until then. It serves
//
//   - recovery, on a store to which nothing was applied: live-through is then
//     a.Through, and Apply continues with the log behind it. g is nil if no
//     generation is published;
//   - rollback: g has a new number, an older cut, and the old cells.
//
// The cut need not be a boundary; all segments become one, so a batch run that
// cut before the rebuild cannot switch any more. Blocks may be released
// meanwhile; their rows stay as long as the rebuild needs them. If a block was
// released before that and is not in a.Files, Rebuild fails with ErrArchiveMoved.
func (s *Store) Rebuild(ctx context.Context, g *catalog.Generation, files map[string]string, a Archived) error {
	ctx, cancel := s.working(ctx)
	defer cancel()
	if err := s.hold(ctx); err != nil {
		return err
	}
	defer s.unhold()
	b := &rebuild{s: s, st: &staged{gen: g}, files: files, a: a, live: map[string]*rebuiltView{}}
	err := s.do(ctx, func(w *writer) error {
		if err := w.closeBlock(); err != nil {
			return err
		}
		b.base = w.m
		return b.check()
	})
	if err != nil {
		return err
	}
	conn, err := s.db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := b.prepare(ctx, conn); err != nil {
		b.abandon()
		return err
	}
	if err := s.do(ctx, b.install); err != nil {
		b.abandon()
		return err
	}
	return nil
}

// ErrArchiveMoved reports that rows after the listed archive files were released
// before Rebuild could hold them; list the archive again.
var ErrArchiveMoved = errors.New("store: the list of archive files is too old")

// rebuild is one call of Rebuild.
type rebuild struct {
	s     *Store
	st    *staged
	files map[string]string // of cells, by view
	a     Archived
	base  *moment // where the side work starts; all its blocks but the last are closed
	live  map[string]*rebuiltView
}

type rebuiltView struct {
	def       *definition
	table     string
	rows      int64
	suspended *recompute.Suspension
}

func (b *rebuild) fresh() bool { return b.base.through == 0 }

func (b *rebuild) check() error {
	switch {
	case b.st.cut() > b.a.Through:
		return fmt.Errorf("store: generation %d has cut %s, but the archive ends at %s (H6)", b.st.number(), b.st.cut(), b.a.Through)
	case b.fresh():
		return nil
	case b.st.number() <= b.base.generation:
		return fmt.Errorf("store: generation %d after %d: numbers only grow (H9)", b.st.number(), b.base.generation)
	case b.a.Through > b.base.through:
		return fmt.Errorf("store: the archive reaches %s, the live half only %s", b.a.Through, b.base.through)
	case b.a.Through < b.base.layout.archived:
		return fmt.Errorf("%w: the list ends at %s, rows through %s are released", ErrArchiveMoved, b.a.Through, b.base.layout.archived)
	}
	return nil
}

// prepare does the long work: it loads cells, and folds archived rows and closed
// blocks.
func (b *rebuild) prepare(ctx context.Context, conn *duck.Conn) (err error) {
	st, err := b.s.stage(ctx, conn, b.st.gen, b.files)
	if err != nil {
		return err
	}
	b.st = st
	for _, name := range viewNames(b.base.layout) {
		v := &rebuiltView{def: b.base.layout.views[name].def, table: b.s.liveTable(name)}
		b.live[name] = v
		if _, err := conn.ExecContext(ctx, "CREATE TABLE "+duck.Ident(v.table)+" ("+v.def.cells+")"); err != nil {
			return resource("rebuild view "+name, err)
		}
		if err := b.foldArchive(ctx, conn, v); err != nil {
			return err
		}
		for _, blk := range b.base.layout.blocks {
			if blk.through <= b.a.Through || blk.tables[v.def.stream] == "" || v.suspended != nil {
				continue
			}
			from := tailAfter(blk.tables[v.def.stream], b.a.Through)
			if err := b.foldOrSuspend(ctx, conn, v, from, blk.through); err != nil {
				return err
			}
		}
	}
	return nil
}

// tailAfter selects the rows of a tail table after a position.
func tailAfter(table string, after schemas.Position) string {
	return fmt.Sprintf("(SELECT * FROM %s WHERE %s > %d)", duck.Ident(table), schemas.ColAt, int64(after))
}

func (b *rebuild) foldArchive(ctx context.Context, conn *duck.Conn, v *rebuiltView) error {
	files, set := b.a.Files[v.def.stream], b.s.sets[v.def.stream]
	if len(files) == 0 || b.st.cut() >= b.a.Through {
		return nil
	}
	err := b.fold(ctx, conn, v, archived(set, files, b.st.cut(), b.a.Through))
	if err == nil || !duck.Evaluates(err) && !binds(err) {
		return resource(fmt.Sprintf("rebuild view %s from %d archive files", v.def.name, len(files)), err)
	}
	// Fold file by file to find the event. What folds meanwhile is not kept.
	cause := err
	for _, f := range files {
		if err := b.foldOrSuspend(ctx, conn, v, archived(set, []string{f}, b.st.cut(), b.a.Through), b.a.Through); err != nil {
			return err
		}
		if v.suspended != nil {
			return nil
		}
	}
	v.suspended = &recompute.Suspension{View: v.def.name, At: b.a.Through, Record: -1, Message: oneLine(cause), Remedy: remedyEvaluation}
	return nil
}

func (b *rebuild) fold(ctx context.Context, conn *duck.Conn, v *rebuiltView, from string) error {
	res, err := conn.ExecContext(ctx, "INSERT INTO "+duck.Ident(v.table)+" "+v.def.partial(from))
	if err != nil {
		return err
	}
	n, err := res.RowsAffected()
	v.rows += n
	return err
}

// foldOrSuspend folds rows into v, or suspends v at the event over which it fails.
func (b *rebuild) foldOrSuspend(ctx context.Context, conn *duck.Conn, v *rebuiltView, from string, through schemas.Position) error {
	err := b.fold(ctx, conn, v, from)
	if err == nil {
		return nil
	}
	if !duck.Evaluates(err) && !binds(err) {
		return resource("rebuild view "+v.def.name, err)
	}
	v.suspended, err = locateIn(ctx, b.s, conn, v.def, from, through, err)
	return err
}

// locateIn finds the row of a relation, which is in order of position, over
// which a view fails.
func locateIn(ctx context.Context, s *Store, conn *duck.Conn, def *definition, from string, through schemas.Position, cause error) (*recompute.Suspension, error) {
	p := newProbe(s, conn, def)
	defer p.drop(context.WithoutCancel(ctx))
	if err := p.exec(ctx, "CREATE TABLE "+p.rows+" AS FROM "+from); err != nil {
		return nil, resource("look for the event", err)
	}
	return p.locate(ctx, through, cause)
}

// install folds what arrived meanwhile and makes the rebuilt state current.
func (b *rebuild) install(w *writer) error {
	for {
		err := b.tryInstall(w)
		var ve *viewError
		if !errors.As(err, &ve) {
			return err
		}
		v := b.live[ve.view]
		if v.suspended, err = b.locateTail(w, v, ve.err); err != nil {
			return err
		}
	}
}

func (b *rebuild) locateTail(w *writer, v *rebuiltView, cause error) (*recompute.Suspension, error) {
	var froms []string
	for _, blk := range w.m.layout.blocks {
		if t := blk.tables[v.def.stream]; t != "" {
			froms = append(froms, tailAfter(t, b.base.through))
		}
	}
	from := "(" + strings.Join(froms, " UNION ALL ") + ")"
	return locateIn(context.Background(), w.s, w.conn, v.def, from, w.m.through, cause)
}

func (b *rebuild) tryInstall(w *writer) error {
	m := w.next()
	if !b.fresh() && b.st.number() <= m.generation {
		return fmt.Errorf("store: generation %d after %d: numbers only grow (H9)", b.st.number(), m.generation)
	}
	if b.fresh() && m.through != 0 {
		return fmt.Errorf("store: events were applied while the store was recovering")
	}
	l := w.relayout(m)
	m.generation, m.cut, m.through = b.st.number(), b.st.cut(), max(m.through, b.a.Through)
	if b.fresh() {
		l.archived = b.a.Through
		l.blocks = slices.Clone(l.blocks)
		l.blocks[0].after = b.a.Through
		m.newest = newer(m.newest, b.a.Newest)
	}
	l.segments = []segment{{number: w.s.ids.Add(1), after: b.st.cut()}}
	old, failed := b.replaceViews(w, m)
	rows := map[string]int64{}
	err := w.commit(m, func(ctx context.Context) error {
		for _, name := range viewNames(l) {
			v := b.live[name]
			if v.suspended != nil {
				continue
			}
			n, err := b.foldTail(ctx, w, v)
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
	maps.Copy(w.rows, rows)
	if b.fresh() {
		w.open.From = b.a.Through
	}
	w.announce(failed)
	return nil
}

// replaceViews sets every view of m's layout to its rebuilt tables; old lists the
// tables that it named before.
func (b *rebuild) replaceViews(w *writer, m *moment) (old []string, failed map[string]*recompute.Suspension) {
	l := m.layout
	failed = map[string]*recompute.Suspension{}
	for _, name := range viewNames(l) {
		v, r := l.views[name], b.live[name]
		if v.batch != "" {
			old = append(old, v.batch)
		}
		for _, t := range v.live {
			old = append(old, t.name)
		}
		before := v.suspended
		v.batch, v.suspended, v.incomplete = b.st.tables[name], r.suspended, nil
		seg := l.openSegment().number
		v.live = []liveTable{{r.table, seg}}
		if r.suspended != nil {
			v.incomplete = []int64{seg}
		}
		v = w.availability(l, v, b.st, m.through, failed)
		l.views[name] = v
		if v.suspended != nil && before == nil {
			failed[name] = v.suspended
		}
	}
	return old, failed
}

// foldTail folds the rows that arrived after the side work began.
func (b *rebuild) foldTail(ctx context.Context, w *writer, v *rebuiltView) (rows int64, err error) {
	for _, blk := range w.m.layout.blocks {
		t := blk.tables[v.def.stream]
		if t == "" || blk.through != 0 && blk.through <= b.base.through {
			continue
		}
		res, err := w.conn.ExecContext(ctx, "INSERT INTO "+duck.Ident(v.table)+" "+v.def.partial(tailAfter(t, b.base.through)))
		if err != nil && (duck.Evaluates(err) || binds(err)) {
			return 0, &viewError{v.def.name, err}
		}
		if err != nil {
			return 0, resource("rebuild view "+v.def.name, err)
		}
		n, err := res.RowsAffected()
		if err != nil {
			return 0, err
		}
		rows += n
	}
	return rows, nil
}

// abandon drops the tables of a failed rebuild.
func (b *rebuild) abandon() {
	var tables []string
	for _, v := range b.live {
		tables = append(tables, v.table)
	}
	tables = append(tables, slices.Collect(maps.Values(b.st.tables))...)
	b.s.dropUnknown(context.Background(), tables)
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
	return "(SELECT " + strings.Join(names, ", ") + " FROM read_parquet(" + duck.Literals(files) + ") WHERE " + schemas.WithinSQL(after, through) + ")"
}
