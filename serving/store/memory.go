package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"duet/batch/recompute"
	"duet/internal/base/duck"
	"duet/schemas"
)

// A view that does not fit in memory is suspended alone, and everything else
// goes on: where a generation is staged, where live state is rebuilt, and, as a
// last resort, where a batch is applied. It is served again from the first
// generation that fits, at the next run or the next start.

// load is a file of cells to be loaded.
type load struct {
	def    *definition
	file   string
	groups int64
	bytes  int64 // about, in memory
}

// plan decides how each view of a staged generation is held: by the served table,
// by loading its file, or not at all. Views with too many groups and, if all do
// not fit beside what is in use, the largest ones are left out before anything is
// loaded.
func (s *Store) plan(ctx context.Context, conn *duck.Conn, st *staged, files map[string]string) (loads []load, err error) {
	var need int64
	for name, def := range s.views {
		v := st.held(def)
		if v == nil || v.Suspended != nil && !v.Suspended.Unfit {
			continue
		}
		if limit := int64(s.cfg.MaxGroups[name]); limit > 0 && v.Rows > limit {
			st.unfit[name] = tooManyGroups(name, st.cut(), v.Rows, limit)
			continue
		}
		if now := s.moments.now().layout.views[name]; now.batch != "" && now.file != "" && now.file == v.File {
			st.cells[name] = cells{table: now.batch, served: true}
			continue
		}
		ld := load{def: def, file: files[name], groups: v.Rows}
		if ld.file == "" {
			return nil, fmt.Errorf("store: generation %d holds view %s, but the path of its file is not given", st.number(), name)
		}
		if ld.bytes, err = cellBytes(ctx, conn, ld.file); err != nil {
			return nil, err
		}
		need += ld.bytes
		loads = append(loads, ld)
	}
	used, err := memoryUsed(ctx, conn)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(loads, func(a, b load) int {
		return cmp.Or(cmp.Compare(a.bytes, b.bytes), cmp.Compare(a.def.name, b.def.name))
	})
	for len(loads) > 0 && used+need > s.cfg.MemoryLimit/10*9 {
		largest := loads[len(loads)-1]
		st.unfit[largest.def.name] = s.tooLarge(largest, st.cut(), fmt.Sprintf("%d MB are in use", used>>20))
		loads = loads[:len(loads)-1]
		need -= largest.bytes
	}
	return loads, nil
}

// cellBytes estimates what a file of cells takes in memory from its footer: the
// uncompressed size of its columns, and half as much again for vectors and strings.
func cellBytes(ctx context.Context, conn *duck.Conn, file string) (bytes int64, err error) {
	q := "SELECT (coalesce(sum(total_uncompressed_size), 0) * 3 // 2)::BIGINT FROM parquet_metadata(" + duck.Literal(file) + ")"
	if err := conn.QueryRowContext(ctx, q).Scan(&bytes); err != nil {
		return 0, resource("read "+file, err)
	}
	return bytes, nil
}

func memoryUsed(ctx context.Context, conn *duck.Conn) (bytes int64, err error) {
	err = conn.QueryRowContext(ctx, "SELECT coalesce(sum(memory_usage_bytes), 0)::BIGINT FROM duckdb_memory()").Scan(&bytes)
	return bytes, resource("read memory use", err)
}

func tooManyGroups(view string, at schemas.Position, groups, limit int64) *recompute.Suspension {
	return &recompute.Suspension{
		View: view, At: at, Record: -1, Unfit: true,
		Message: fmt.Sprintf("it has %d groups, its max_groups is %d", groups, limit),
		Remedy:  fmt.Sprintf("group by less, or raise max_groups in views/%s.yaml, and restart", view),
	}
}

func (s *Store) tooLarge(ld load, at schemas.Position, why string) *recompute.Suspension {
	sus := s.outOfMemory(ld.def.name, at, why)
	sus.Message = fmt.Sprintf("it needs %d groups, about %d MB; limits.memory is %d MB: %s", ld.groups, ld.bytes>>20, s.cfg.MemoryLimit>>20, why)
	return sus
}

func (s *Store) outOfMemory(view string, at schemas.Position, why string) *recompute.Suspension {
	return &recompute.Suspension{
		View: view, At: at, Record: -1, Unfit: true,
		Message: fmt.Sprintf("it does not fit in memory; limits.memory is %d MB: %s", s.cfg.MemoryLimit>>20, why),
		Remedy:  fmt.Sprintf("group by less, raise limits.memory in duet.yaml, or set max_groups in views/%s.yaml so that it stops earlier; the next run or start that it fits serves it again", view),
	}
}

// abandon removes a view's live tables from the layout, and returns them. Its
// partials are missing until the next segment.
func (l *layout) abandon(v *viewTables) (tables []string) {
	for _, t := range v.live {
		tables = append(tables, t.name)
	}
	v.live, v.incomplete = nil, nil
	for _, seg := range l.segments {
		v.incomplete = append(v.incomplete, seg.number)
	}
	return tables
}

// How often in a row something runs out of memory before a view is suspended for
// it: both callers retry for ten seconds and more until then, in which queries end
// and the archive takes blocks.
const (
	applyAttempts  = 20
	exportAttempts = 7
)

// shortage counts failures in a row, of batches or of exports.
type shortage struct{ failures, limit int }

// freeMemory is called when a batch or the export of a block ran out of memory. It
// returns cause until that has happened too often; then it suspends the largest
// view and drops its tables, so that the live half does not wait for ever.
func (w *writer) freeMemory(of *shortage, cause error) error {
	if of.failures++; of.failures < of.limit {
		return cause
	}
	name, bytes := w.largestView()
	if bytes < w.s.cfg.MemoryLimit/16 {
		return cause // suspending it would not help
	}
	why := w.s.outOfMemory(name, w.m.through, fmt.Sprintf("it takes about %d MB and is the largest view", bytes>>20))
	if err := w.leaveOut(name, why); err != nil {
		return errors.Join(cause, err)
	}
	of.failures = 0
	return nil
}

// leaveOut drops all of a view's tables and suspends it until a generation whose
// cut lies in a later segment brings it back.
func (w *writer) leaveOut(name string, why *recompute.Suspension) error {
	m := w.next()
	l := w.relayout(m)
	v := l.views[name]
	tables := l.abandon(&v)
	if v.batch != "" {
		tables = append(tables, v.batch)
	}
	v.batch, v.file = "", ""
	failed := map[string]*recompute.Suspension{}
	if v.suspended == nil {
		v.suspended, failed[name] = why, why
	}
	l.views[name] = v
	if err := w.commit(m, func(ctx context.Context) error { return w.drop(ctx, tables) }); err != nil {
		return err
	}
	w.announce(failed)
	return nil
}

// valueBytes is about what one value of a cell or key takes in memory.
const valueBytes = 24

// largestView returns the view whose tables take the most memory, and about how
// much that is.
func (w *writer) largestView() (largest string, most int64) {
	for _, name := range viewNames(w.m.layout) {
		v := w.m.layout.views[name]
		rows := w.s.rows.of(v.batch)
		for _, t := range v.live {
			rows += w.s.rows.of(t.name)
		}
		if bytes := rows * v.def.width * valueBytes; bytes > most {
			largest, most = name, bytes
		}
	}
	return largest, most
}
