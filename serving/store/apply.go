package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/util"

	"duet/batch/archive"
	"duet/batch/recompute"
	"duet/internal/base/duck"
	"duet/schemas"
	"duet/schemas/event"
)

// microBatch is an event.Batch by data sets.
type microBatch struct {
	through schemas.Position
	log     int64 // bytes of log messages
	// sets holds new rows by data set; every _duet_at lies after the store's
	// live-through and at or before through. Sets without rows may be missing.
	sets      []setRows
	accounts  map[string]schemas.Account // by stream
	producers map[string]uint64          // last number of each producer in the batch
	newest    map[string]time.Time       // newest accepted event time, by stream
}

type setRows struct {
	name string
	rec  arrow.RecordBatch
}

func (in *microBatch) rows() (rows, bytes int64) {
	for _, r := range in.sets {
		if r.name != archive.Envelopes { // limits of rows are about events
			rows += r.rec.NumRows()
		}
		bytes += util.TotalRecordSize(r.rec)
	}
	return rows, bytes
}

// viewError reports that a view's own SQL failed over some rows.
type viewError struct {
	view string
	err  error
}

func (e *viewError) Error() string { return "view " + e.view + ": " + e.err.Error() }
func (e *viewError) Unwrap() error { return e.err }

// Apply adds a micro-batch in one transaction: rows, rejects, file lines, the
// partials of every view of the streams that have rows, and live-through. A
// view that cannot be computed over some event is suspended; the rest is applied.
//
// After a *TailFullError or a *ResourceError nothing was applied, and the same
// batch may be applied again. The caller keeps the batch. b.Through must be
// greater than LiveThrough, and the span must not contain a control record.
func (s *Store) Apply(ctx context.Context, b *event.Batch) error {
	in := &microBatch{
		through: b.Through, log: b.Bytes, accounts: map[string]schemas.Account{}, producers: map[string]uint64{}, newest: map[string]time.Time{},
	}
	for _, r := range b.Records() {
		in.sets = append(in.sets, setRows{r.Stream, r.Record})
		if !r.NewestEventTime.IsZero() {
			in.newest[r.Stream] = r.NewestEventTime
		}
	}
	for _, r := range []setRows{{archive.Rejects, b.RejectRecord()}, {archive.Lines, b.LinesRecord()}, {archive.Envelopes, b.EnvelopesRecord()}} {
		if r.rec != nil {
			in.sets = append(in.sets, r)
		}
	}
	for _, a := range b.Accounts() {
		in.accounts[a.Stream] = a.Account
	}
	for _, p := range b.Producers() {
		in.producers[p.Name] = p.Last
	}
	return s.apply(ctx, in)
}

// apply is Apply over data sets. A batch over which views fail is rolled back
// and applied again without them.
func (s *Store) apply(ctx context.Context, in *microBatch) error {
	return s.do(ctx, func(w *writer) error { return w.apply(in) })
}

func (w *writer) apply(in *microBatch) error {
	if in.through <= w.m.through {
		if rows, _ := in.rows(); rows == 0 && in.through == w.m.through {
			return nil
		}
		return fmt.Errorf("store: a batch through %s after one through %s", in.through, w.m.through)
	}
	if err := w.admit(in); err != nil {
		return err
	}
	failed := map[string]*recompute.Suspension{}
	for {
		err := w.try(in, failed)
		var ve *viewError
		switch {
		case err == nil:
		case errors.As(err, &ve):
			if failed[ve.view], err = w.locate(in, ve); err != nil {
				return err
			}
			continue
		case duck.OutOfMemory(err):
			if err := w.freeMemory(&w.applying, err); err != nil {
				// Let the archive take the open block, which frees memory, too.
				return errors.Join(err, w.closeBlock())
			}
			continue
		default:
			return err
		}
		break
	}
	w.applying.failures = 0
	w.account(in)
	w.announce(failed)
	w.closeBigBlock()
	w.startMerge()
	return nil
}

// try applies a batch in one transaction, without the views in failed, which it
// marks as suspended.
func (w *writer) try(in *microBatch, failed map[string]*recompute.Suspension) error {
	m := w.next()
	m.through = in.through
	m.newest = newer(m.newest, in.newest)
	w.suspend(m, failed)
	made := map[string]int64{}     // rows folded, by live table
	current := map[string]string{} // new live tables, by view
	err := w.commit(m, func(ctx context.Context) error {
		for _, r := range in.sets {
			if r.rec.NumRows() == 0 {
				continue
			}
			table, err := w.loadSet(ctx, m, r)
			if err != nil {
				return err
			}
			if r.name == archive.Rejects || r.name == archive.Lines || r.name == archive.Envelopes {
				continue
			}
			if err := w.fold(ctx, m, r.name, table, made, current); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for t, n := range made {
		w.s.rows.add(t, n)
	}
	maps.Copy(w.current, current)
	return nil
}

// loadSet appends rows to the open block's table of their data set.
func (w *writer) loadSet(ctx context.Context, m *moment, r setRows) (table string, err error) {
	d := w.s.sets[r.name]
	if d == nil {
		return "", fmt.Errorf("store: rows of %s, which the project does not have", r.name)
	}
	table = m.layout.openBlock().tables[r.name]
	if table == "" {
		table = blockTable(r.name, m.layout.openBlock().id)
		if _, err := w.conn.ExecContext(ctx, "CREATE TABLE "+duck.Ident(table)+" ("+d.columns+")"); err != nil {
			return "", resource("create "+table, err)
		}
		w.relayout(m).addBlockTable(r.name, table)
	}
	if err := w.conn.LoadArrow(ctx, table, r.rec); err != nil {
		return "", resource("load rows of "+r.name, err)
	}
	return table, nil
}

func blockTable(set string, id int64) string {
	switch set {
	case archive.Rejects:
		return fmt.Sprintf("r_%d", id)
	case archive.Lines:
		return fmt.Sprintf("f_%d", id)
	case archive.Envelopes:
		return fmt.Sprintf("n_%d", id)
	}
	return fmt.Sprintf("t_%s_%d", set, id)
}

// fold adds the rows of tail after the current live-through to every view of
// stream that is complete in the open segment.
func (w *writer) fold(ctx context.Context, m *moment, stream, tail string, made map[string]int64, current map[string]string) error {
	for _, name := range viewNames(m.layout) {
		v := m.layout.views[name]
		if v.def.stream != stream || !m.layout.folds(v) {
			continue
		}
		live := w.current[name]
		if live == "" {
			live = w.s.liveTable(name)
			if _, err := w.conn.ExecContext(ctx, "CREATE TABLE "+duck.Ident(live)+" ("+v.def.cells+")"); err != nil {
				return resource("create "+live, err)
			}
			l := w.relayout(m)
			l.addLive(name, live, l.openSegment().number)
			current[name] = live
		}
		n, err := w.foldInto(ctx, v.def, live, tail)
		if err != nil {
			return err
		}
		made[live] += n
	}
	return nil
}

// foldInto runs one view's partial SQL over the new rows of tail. The statement
// stays prepared; its parameter is the live-through before those rows. It is
// always planned in a transaction that has added rows to tail, because then DuckDB
// has no statistics by which it might leave out a filter; see inTransaction.
func (w *writer) foldInto(ctx context.Context, v *definition, live, tail string) (int64, error) {
	from := "(SELECT * FROM " + duck.Ident(tail) + " WHERE " + schemas.ColAt + " > $1)"
	st, err := w.statement(ctx, live+" "+tail, "INSERT INTO "+duck.Ident(live)+" "+v.partial(from))
	if err == nil {
		res, xerr := st.ExecContext(ctx, int64(w.m.through))
		if xerr == nil {
			return res.RowsAffected()
		}
		err = xerr
	}
	if duck.Evaluates(err) || binds(err) {
		return 0, &viewError{v.name, err}
	}
	return 0, resource("fold into view "+v.name, err)
}

func (s *Store) liveTable(view string) string { return fmt.Sprintf("l_%s_%d", view, s.ids.Add(1)) }

// suspend marks views as suspended, and incomplete in the open segment of m.
func (w *writer) suspend(m *moment, failed map[string]*recompute.Suspension) {
	for name, sus := range failed {
		l := w.relayout(m)
		v := l.views[name]
		if v.suspended == nil {
			v.suspended = sus
		}
		l.views[name] = v
		l.markIncomplete(name, l.openSegment().number)
	}
}

// announce calls OnSuspend for the views in failed that are suspended by it.
func (w *writer) announce(failed map[string]*recompute.Suspension) {
	for _, name := range slices.Sorted(maps.Keys(failed)) {
		sus := failed[name]
		if now := w.m.layout.views[name].suspended; now == nil || *now != *sus {
			continue
		}
		if w.s.cfg.OnSuspend != nil {
			w.s.cfg.OnSuspend(*sus)
		}
	}
}

// newer returns old with the later times of more; old itself is not changed.
func newer(old, more map[string]time.Time) map[string]time.Time {
	out, own := old, false
	for k, t := range more {
		if !t.After(out[k]) {
			continue
		}
		if !own {
			out, own = map[string]time.Time{}, true
			maps.Copy(out, old)
		}
		out[k] = t
	}
	return out
}

// viewNames lists the views of l in order, so that runs are repeatable.
func viewNames(l *layout) []string { return slices.Sorted(maps.Keys(l.views)) }
