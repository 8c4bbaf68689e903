package store

import (
	"context"
	"database/sql"
	"strings"
	"time"

	"duet/internal/base/duck"
	"duet/schemas"
)

// Snapshot is one read transaction: everything it returns belongs to one moment
// (H2, H3, H4). It is valid until the function that got it returns, and not safe
// for concurrent use.
type Snapshot struct {
	m       *moment
	conn    *reader
	ctx     context.Context // of the transaction: ends with Read's, and when the store closes
	ends    []func()        // cancel the statements' contexts
	grace   time.Duration   // for a statement to end when it is interrupted
	pending chan statement  // the outcome of an abandoned statement; nil if there is none
}

// bind returns ctx, cancelled also with the transaction's.
func (sn *Snapshot) bind(ctx context.Context) context.Context {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(sn.ctx, func() { cancel(context.Cause(sn.ctx)) })
	sn.ends = append(sn.ends, func() { stop(); cancel(nil) })
	return ctx
}

func (sn *Snapshot) end() {
	for _, f := range sn.ends {
		f()
	}
}

// Generation returns the generation's number; 0 before the first.
func (sn *Snapshot) Generation() uint64 { return sn.m.generation }

// Cut returns the generation's cut.
func (sn *Snapshot) Cut() schemas.Position { return sn.m.cut }

// LiveThrough returns the position through which everything is folded.
func (sn *Snapshot) LiveThrough() schemas.Position { return sn.m.through }

// Archived returns the position after which the tail begins: rows at or before
// it are in archive files.
func (sn *Snapshot) Archived() schemas.Position { return sn.m.layout.archived }

// NewestEventTime returns the newest event time of the stream's accepted events,
// as far as they were applied here or reported to Rebuild.
func (sn *Snapshot) NewestEventTime(stream string) (t time.Time, ok bool) {
	t, ok = sn.m.newest[stream]
	return t, ok
}

// Partials returns a parenthesised SELECT of a view's partial rows of both
// halves, not merged: together they count every accepted event through
// LiveThrough once. It fails with an *UnknownViewError, *SuspendedError or
// *RebuildingError.
func (sn *Snapshot) Partials(view string) (string, error) {
	v, err := sn.m.answering(view)
	if err != nil {
		return "", err
	}
	tables := make([]string, 0, len(v.live)+1)
	if v.batch != "" {
		tables = append(tables, v.batch)
	}
	for _, t := range v.live {
		tables = append(tables, t.name)
	}
	return union(tables, "e_"+view), nil
}

// answering returns a view, or the error that says why it cannot answer.
func (m *moment) answering(view string) (viewTables, error) {
	v, ok := m.layout.views[view]
	switch {
	case !ok:
		return v, &UnknownViewError{view}
	case v.suspended != nil:
		return v, &SuspendedError{*v.suspended}
	case v.rebuilding:
		return v, &RebuildingError{view, m.generation}
	}
	return v, nil
}

// Tail returns a parenthesised SELECT of the rows after Archived of a stream, of
// archive.Rejects or of archive.Lines, in order of position, with the columns as
// in memory.
func (sn *Snapshot) Tail(set string) string {
	var tables []string
	for _, b := range sn.m.layout.blocks {
		if t := b.tables[set]; t != "" {
			tables = append(tables, t)
		}
	}
	return union(tables, emptySet(set))
}

// union returns a SELECT over all tables, or over empty if there are none.
func union(tables []string, empty string) string {
	if len(tables) == 0 {
		tables = []string{empty}
	}
	parts := make([]string, len(tables))
	for i, t := range tables {
		parts[i] = "SELECT * FROM " + duck.Ident(t)
	}
	return "(" + strings.Join(parts, " UNION ALL ") + ")"
}

// Query runs one statement in the transaction. The rows must be closed before
// the snapshot's function returns.
func (sn *Snapshot) Query(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	st := sn.run(ctx, func(ctx context.Context, conn *duck.Conn) (st statement) {
		st.rows, st.err = conn.QueryContext(ctx, query, args...) //nolint:rowserrcheck // the caller reads the rows
		return st
	})
	return st.rows, st.err
}

// Result is a materialised answer.
type Result struct {
	Columns   []string
	Types     []string // DuckDB's, such as DECIMAL(38,4)
	Rows      [][]any  // values as the driver gives them
	Truncated bool     // there were more rows than the limit
}

// Collect runs query and returns at most limit rows; 0 means no limit.
func (sn *Snapshot) Collect(ctx context.Context, limit int, query string, args ...any) (*Result, error) {
	rows, err := sn.Query(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	types, err := rows.ColumnTypes()
	if err != nil {
		return nil, err
	}
	res := &Result{}
	for _, t := range types {
		res.Columns = append(res.Columns, t.Name())
		res.Types = append(res.Types, t.DatabaseTypeName())
	}
	for rows.Next() {
		if limit > 0 && len(res.Rows) == limit {
			res.Truncated = true
			return res, nil
		}
		vals, ptrs := make([]any, len(types)), make([]any, len(types))
		for i := range vals {
			ptrs[i] = &vals[i]
		}
		if err := rows.Scan(ptrs...); err != nil {
			return nil, err
		}
		res.Rows = append(res.Rows, vals)
	}
	return res, rows.Err()
}

// copy writes the result of query to path as zstd Parquet.
func (sn *Snapshot) copy(ctx context.Context, query, path string) (int64, error) {
	st := sn.run(ctx, func(ctx context.Context, conn *duck.Conn) (st statement) {
		res, err := conn.ExecContext(ctx, "COPY ("+query+") TO "+duck.Literal(path)+" (FORMAT parquet, COMPRESSION zstd)")
		if err != nil {
			return statement{err: resource("write "+path, err)}
		}
		st.affected, st.err = res.RowsAffected()
		return st
	})
	return st.affected, st.err
}
