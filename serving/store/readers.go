package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"sync"
	"time"

	"duet/internal/base/duck"
)

// Connections for exports (the archive's blocks, the live half's cells) and for
// status are not those of queries, so slow queries hold up neither.
const (
	exportReaders = 2
	statusReaders = 1
)

const (
	// interruptGrace is how long an interrupted statement may take to end before it
	// is abandoned. Most end within a millisecond; some functions of DuckDB do not
	// look for interrupts while they compute one value.
	interruptGrace = 100 * time.Millisecond
	// closeGrace is how long Close waits for abandoned statements.
	closeGrace = 2 * time.Second
)

// readers is a pool of connections for read transactions. A connection whose
// statement is abandoned is replaced at once, unless as many as the pool has are
// abandoned already; then the pool is smaller until one of them ends.
type readers struct {
	s    *Store
	free chan *reader

	mu        sync.Mutex
	abandoned int   // statements that are still executed, though their reads have ended
	total     int64 // since the store was opened
}

// ReaderUse says how the connections for queries are used.
type ReaderUse struct {
	Limit     int   // read transactions at once
	Busy      int   // connections in use, without those of abandoned statements
	Abandoned int   // statements that did not end when they were interrupted, and still run
	Total     int64 // statements abandoned since the store was opened
}

func newReaders(s *Store, n int) *readers {
	p := &readers{s: s, free: make(chan *reader, n)}
	for range n {
		p.free <- &reader{}
	}
	return p
}

func (p *readers) use() ReaderUse {
	p.mu.Lock()
	defer p.mu.Unlock()
	return ReaderUse{Limit: cap(p.free), Busy: cap(p.free) - len(p.free), Abandoned: p.abandoned, Total: p.total}
}

// close closes the connections that are not in use.
func (p *readers) close() {
	for {
		select {
		case r := <-p.free:
			r.close()
		default:
			return
		}
	}
}

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

// close ends the connection and its transaction. Without ErrBadConn database/sql
// would give both to the next one that asks for a connection.
func (r *reader) close() {
	if r.state != nil {
		r.state.Close()
	}
	if r.conn != nil {
		_ = r.conn.Raw(func(any) error { return driver.ErrBadConn })
		r.conn.Close()
	}
	*r = reader{}
}

// Read runs f in one read transaction and ends it when f returns. When ctx ends,
// the running statement is interrupted, and abandoned if it does not end soon: its
// method of the Snapshot returns the cause, and so should f. f must not keep the
// snapshot or its rows, and should not wait for anything else: while a transaction
// is open, dropped tables keep their memory.
func (s *Store) Read(ctx context.Context, f func(*Snapshot) error) error {
	return s.queries.read(ctx, f)
}

func (p *readers) read(ctx context.Context, f func(*Snapshot) error) error {
	s := p.s
	s.reads.RLock()
	defer s.reads.RUnlock()
	ctx, cancel := s.working(ctx)
	defer cancel()
	var r *reader
	select {
	case r = <-p.free:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	began := s.moments.begin()
	sn := &Snapshot{conn: r, ctx: ctx, grace: s.interruptGrace}
	defer func() {
		sn.end()
		if sn.pending == nil {
			sn.rollback()
		}
		if sn.pending != nil {
			p.abandon(sn, began)
			return
		}
		s.moments.end(began)
		p.free <- r
	}()
	if s.ctx.Err() != nil {
		return ErrClosed
	}
	if err := sn.begin(s, began); err != nil {
		return err
	}
	return f(sn)
}

// begin begins the transaction and finds its moment.
func (sn *Snapshot) begin(s *Store, began int64) error {
	if err := sn.conn.open(sn.ctx, s.db); err != nil {
		return err
	}
	if _, err := sn.conn.conn.ExecContext(sn.ctx, "BEGIN"); err != nil {
		sn.conn.close()
		return resource("begin to read", err)
	}
	var n int64
	if err := sn.conn.state.QueryRowContext(sn.ctx).Scan(&n); err != nil {
		return resource("read the position", err)
	}
	if sn.m = s.moments.get(n); sn.m == nil {
		return fmt.Errorf("store: moment %d was deleted though a reader of %d is open", n, began)
	}
	return nil
}

// rollback ends the transaction. It may have to be abandoned, too: a query whose
// interrupt came before it had begun can go on inside the ROLLBACK.
func (sn *Snapshot) rollback() {
	if sn.conn.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(sn.ctx), sn.grace)
	defer cancel()
	st := sn.wait(ctx, func(ctx context.Context, conn *duck.Conn) (st statement) {
		_, st.err = conn.ExecContext(ctx, "ROLLBACK")
		return st
	})
	if st.err != nil && sn.pending == nil {
		sn.conn.close()
	}
}

// abandon leaves a read's statement to a goroutine of its own, which closes the
// connection when the statement ends.
func (p *readers) abandon(sn *Snapshot, began int64) {
	p.mu.Lock()
	p.abandoned++
	p.total++
	replaced := p.abandoned <= cap(p.free)
	p.mu.Unlock()
	if replaced {
		p.free <- &reader{}
	}
	p.s.abandoned.Go(func() {
		if res := <-sn.pending; res.rows != nil {
			res.rows.Close()
		}
		sn.conn.close()
		p.s.moments.end(began)
		p.mu.Lock()
		p.abandoned--
		p.mu.Unlock()
		if !replaced {
			p.free <- &reader{}
		}
	})
}

// statement is the outcome of one statement.
type statement struct {
	rows     *sql.Rows
	affected int64
	err      error
}

// run executes a statement and waits for it. When ctx or the transaction's context
// ends it waits for a short grace more; then it leaves the statement behind and
// returns the cause. The snapshot executes nothing after that.
func (sn *Snapshot) run(ctx context.Context, execute func(context.Context, *duck.Conn) statement) statement {
	if sn.pending != nil {
		return statement{err: context.Cause(sn.ctx)}
	}
	return sn.wait(sn.bind(ctx), execute)
}

func (sn *Snapshot) wait(ctx context.Context, execute func(context.Context, *duck.Conn) statement) statement {
	done := make(chan statement, 1)
	conn := sn.conn.conn
	go func() { done <- execute(ctx, conn) }()
	select {
	case st := <-done:
		return st
	case <-ctx.Done():
	}
	timer := time.NewTimer(sn.grace)
	defer timer.Stop()
	select {
	case st := <-done:
		return st
	case <-timer.C:
		sn.pending = done
		return statement{err: context.Cause(ctx)}
	}
}
