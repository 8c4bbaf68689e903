package store

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"time"

	"duet/internal/base/duck"
	"duet/schemas"
)

// reader is one pooled connection.
type reader struct {
	conn  *duck.Conn // nil until first used
	state *sql.Stmt
}

func (r *reader) open(ctx context.Context, db *duck.DB) (err error) {
	if r.conn != nil {
		return nil
	}
	if r.conn, err = db.Conn(ctx); err != nil {
		return err
	}
	r.state, err = r.conn.PrepareContext(ctx, "SELECT n FROM state ORDER BY n DESC LIMIT 1")
	if err != nil {
		r.close()
	}
	return err
}

func (r *reader) close() {
	if r.state != nil {
		r.state.Close()
	}
	if r.conn != nil {
		r.conn.Close()
	}
	*r = reader{}
}

// Snapshot is one read transaction: everything it returns belongs to one moment
// (H2, H3, H4). It is valid until the function that got it returns, and not safe
// for concurrent use.
type Snapshot struct {
	m    *moment
	conn *duck.Conn
	ctx  context.Context // of the transaction: ends with Read's, and when the store closes
	ends []func()        // cancel the statements' contexts
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

// Read runs f in one read transaction and ends it when f returns. Cancelling ctx
// interrupts the running query. f must not keep the snapshot or its rows, and
// should not wait for anything else: while a transaction is open, dropped tables
// keep their memory.
func (s *Store) Read(ctx context.Context, f func(*Snapshot) error) (err error) {
	ctx, cancel := s.working(ctx)
	defer cancel()
	var r *reader
	select {
	case r = <-s.readers:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { s.readers <- r }()
	if s.ctx.Err() != nil {
		return ErrClosed
	}
	if err := r.open(ctx, s.db); err != nil {
		return err
	}
	began := s.moments.begin()
	defer s.moments.end(began)
	if _, err := r.conn.ExecContext(ctx, "BEGIN"); err != nil {
		r.close()
		return resource("begin to read", err)
	}
	defer func() {
		if _, rerr := r.conn.ExecContext(context.WithoutCancel(ctx), "ROLLBACK"); rerr != nil {
			r.close() // its transaction ends with it
		}
	}()
	var n int64
	if err := r.state.QueryRowContext(ctx).Scan(&n); err != nil {
		return resource("read the position", err)
	}
	m := s.moments.get(n)
	if m == nil {
		return fmt.Errorf("store: moment %d is forgotten though a reader of %d is open", n, began)
	}
	sn := &Snapshot{m: m, conn: r.conn, ctx: ctx}
	defer sn.end()
	return f(sn)
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
	v, err := sn.answering(view)
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

func (sn *Snapshot) answering(view string) (viewTables, error) {
	v, ok := sn.m.layout.views[view]
	switch {
	case !ok:
		return v, &UnknownViewError{view}
	case v.suspended != nil:
		return v, &SuspendedError{*v.suspended}
	case v.rebuilding:
		return v, &RebuildingError{view, sn.m.generation}
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
	return sn.conn.QueryContext(sn.bind(ctx), query, args...)
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
	res, err := sn.conn.ExecContext(sn.bind(ctx), "COPY ("+query+") TO "+duck.Literal(path)+" (FORMAT parquet, COMPRESSION zstd)")
	if err != nil {
		return 0, resource("write "+path, err)
	}
	return res.RowsAffected()
}
