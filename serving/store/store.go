package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"duet/internal/base/duck"
	"duet/schemas"
)

// Store is the database and its writer. Its methods are safe for concurrent
// use; those that change it are done one after the other, in the order in
// which they arrive.
type Store struct {
	cfg   Config
	db    *duck.DB
	views map[string]*definition
	sets  map[string]*dataset // streams, RejectsSet, LinesSet

	// ids numbers segments, blocks and tables, for writer and side work alike.
	ids     atomic.Int64
	moments moments
	ops     chan op
	readers chan *reader

	ctx    context.Context // ends when Close is called
	cancel context.CancelFunc
	done   chan struct{}  // closed when the writer has ended
	side   sync.WaitGroup // merges under way

	closing  sync.Once
	closeErr error

	w writer // belongs to the writer's goroutine after Open

	// mu guards what block and generation callers share with the writer.
	mu      sync.Mutex
	closed  []*Block      // closed and not released, in order
	changed chan struct{} // closed, and made anew, when closed grows
	staged  map[uint64]*stagedGeneration
	tail    TailUse
	merging MergeUse
}

// An op is one change, executed by the writer.
type op struct {
	ctx  context.Context
	f    func(*writer) error
	done chan error
}

// writer is the state of the one goroutine that changes the database.
type writer struct {
	s    *Store
	conn *duck.Conn
	m    *moment // the current one

	current   map[string]string    // live table that a view's partials go to; "" if none yet
	stmts     map[string]*sql.Stmt // prepared folds, by live table and tail table
	rows      map[string]int64     // rows of live tables
	groups    map[string]int64     // by view: rows that the last merge of the open segment left
	stateRows int

	open     *Block // accounts of the open block
	holds    int    // rebuilds that need the tail to stay
	released []int64
	merge    bool // a merge is under way
}

// stateLimit is how many rows the state table may have before it is replaced.
const stateLimit = 512

const createState = "CREATE OR REPLACE TABLE state (n BIGINT, generation UBIGINT, cut BIGINT, through BIGINT, layout BIGINT)"

// open makes an empty store: generation 0, cut 0, nothing folded.
func open(cfg Config, sets []*dataset, views []*definition) (*Store, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	db, err := duck.Open(duck.Config{Threads: cfg.Threads, MemoryLimit: fmt.Sprintf("%dB", cfg.MemoryLimit), TempDir: cfg.TempDir})
	if err != nil {
		return nil, err
	}
	s := &Store{
		cfg: cfg, db: db, views: map[string]*definition{}, sets: map[string]*dataset{},
		moments: moments{byN: map[int64]*moment{}, readers: map[int64]int{}},
		ops:     make(chan op), readers: make(chan *reader, cfg.Readers),
		done: make(chan struct{}), changed: make(chan struct{}), staged: map[uint64]*stagedGeneration{},
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	for _, d := range sets {
		s.sets[d.name] = d
	}
	for _, v := range views {
		if s.sets[v.stream] == nil {
			db.Close()
			return nil, fmt.Errorf("store: view %s reads stream %s, which the project does not have", v.name, v.stream)
		}
		s.views[v.name] = v
	}
	if err := s.begin(); err != nil {
		s.cancel()
		db.Close()
		return nil, err
	}
	for range cfg.Readers {
		s.readers <- &reader{}
	}
	go s.run()
	return s, nil
}

// begin makes the tables of an empty store and its first moment.
func (s *Store) begin() error {
	ctx := context.Background()
	conn, err := s.db.Conn(ctx)
	if err != nil {
		return err
	}
	l := &layout{number: s.ids.Add(1), views: map[string]viewTables{}}
	l.segments = []segment{{number: s.ids.Add(1)}}
	l.blocks = []block{{id: s.ids.Add(1)}}
	// An automatic checkpoint stalls a commit for 100 ms and more.
	ddl := []string{"SET GLOBAL checkpoint_threshold='1TB'", createState}
	for _, v := range s.views {
		l.views[v.name] = viewTables{def: v}
		ddl = append(ddl, "CREATE TABLE "+duck.Ident("e_"+v.name)+" ("+v.cells+")")
	}
	for _, d := range s.sets {
		ddl = append(ddl, "CREATE TABLE "+duck.Ident(emptySet(d.name))+" ("+d.columns+")")
	}
	for _, q := range ddl {
		if _, err := conn.ExecContext(ctx, q); err != nil {
			conn.Close()
			return fmt.Errorf("store: %s: %w", q, err)
		}
	}
	s.w = writer{
		s: s, conn: conn, current: map[string]string{}, stmts: map[string]*sql.Stmt{}, rows: map[string]int64{}, groups: map[string]int64{},
		m: &moment{layout: l, newest: map[string]time.Time{}},
	}
	s.w.open = newBlock(l.openBlock().id, 0)
	if err := s.w.commit(s.w.next(), func(context.Context) error { return nil }); err != nil {
		conn.Close()
		return err
	}
	return nil
}

// emptySet is the table without rows of a data set: "es_" keeps streams and
// views of one name apart.
func emptySet(name string) string { return "es_" + name }

// run is the writer's goroutine.
func (s *Store) run() {
	defer close(s.done)
	for {
		select {
		case <-s.ctx.Done():
			s.w.closeStatements()
			s.w.conn.Close()
			return
		case o := <-s.ops:
			if err := o.ctx.Err(); err != nil {
				o.done <- err
				continue
			}
			o.done <- o.f(&s.w)
		}
	}
}

// do has the writer execute f and waits until it has. ctx counts until f
// begins: a change is made or not made, never left half-way.
func (s *Store) do(ctx context.Context, f func(*writer) error) error {
	o := op{ctx, f, make(chan error, 1)}
	select {
	case s.ops <- o:
		return <-o.done
	case <-ctx.Done():
		return ctx.Err()
	case <-s.ctx.Done():
		return ErrClosed
	}
}

// Close ends side work and the writer, waits for readers, and frees the
// database. A second Close waits for the first.
func (s *Store) Close() error {
	s.cancel()
	s.closing.Do(func() {
		<-s.done
		s.side.Wait()
		for range s.cfg.Readers {
			(<-s.readers).close()
		}
		s.closeErr = s.db.Close()
	})
	return s.closeErr
}

// working is ctx, ended also when the store closes.
func (s *Store) working(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(s.ctx, func() { cancel(ErrClosed) })
	return ctx, func() { stop(); cancel(nil) }
}

// next is a copy of the current moment to change and commit. Its layout is
// shared with the current one until relayout.
func (w *writer) next() *moment {
	m := *w.m
	m.n++
	return &m
}

// relayout gives m a layout of its own and returns it.
func (w *writer) relayout(m *moment) *layout {
	if m.layout == w.m.layout {
		m.layout = m.layout.clone()
		m.layout.number = w.s.ids.Add(1)
	}
	return m.layout
}

// commit runs f and the state row in one transaction and makes m current. If
// anything fails nothing has happened. It is not interrupted by callers.
func (w *writer) commit(m *moment, f func(context.Context) error) error {
	ctx := context.Background()
	w.s.moments.put(m)
	if err := w.transact(ctx, m, f); err != nil {
		w.s.moments.forget(m)
		return err
	}
	if m.layout != w.m.layout {
		w.forgetTables(m.layout)
	}
	w.m = m
	w.s.moments.commit(m)
	return nil
}

func (w *writer) transact(ctx context.Context, m *moment, f func(context.Context) error) (err error) {
	if _, err := w.conn.ExecContext(ctx, "BEGIN"); err != nil {
		return resource("begin", err)
	}
	over := false
	defer func() {
		if err != nil {
			// Statements may be bound to tables that now never were.
			w.closeStatements()
		}
		if err != nil && !over {
			if _, rerr := w.conn.ExecContext(ctx, "ROLLBACK"); rerr != nil {
				err = errors.Join(err, resource("roll back", rerr))
			}
		}
	}()
	if err := f(ctx); err != nil {
		return err
	}
	recycle := w.stateRows >= stateLimit
	if recycle {
		if _, err := w.conn.ExecContext(ctx, createState); err != nil {
			return resource("recycle the state table", err)
		}
	}
	if err := w.appendState(ctx, m); err != nil {
		return resource("append to the state table", err)
	}
	if _, err := w.conn.ExecContext(ctx, "COMMIT"); err != nil {
		// It has rolled back already, unless it never began to commit.
		_, _ = w.conn.ExecContext(ctx, "ROLLBACK")
		over = true
		return resource("commit", err)
	}
	if w.stateRows++; recycle {
		w.stateRows = 1
	}
	return nil
}

func (w *writer) appendState(ctx context.Context, m *moment) error {
	st, err := w.statement(ctx, "state", "INSERT INTO state VALUES (?, ?, ?, ?, ?)")
	if err != nil {
		return err
	}
	_, err = st.ExecContext(ctx, m.n, m.generation, int64(m.cut), int64(m.through), m.layout.number)
	return err
}

// statement prepares query once; key names it until the statements are closed.
func (w *writer) statement(ctx context.Context, key, query string) (*sql.Stmt, error) {
	if st := w.stmts[key]; st != nil {
		return st, nil
	}
	st, err := w.conn.PrepareContext(ctx, query)
	if err == nil {
		w.stmts[key] = st
	}
	return st, err
}

func (w *writer) closeStatements() {
	for k, st := range w.stmts {
		st.Close()
		delete(w.stmts, k)
	}
}

// forgetTables drops what the writer keeps of tables that l does not name.
func (w *writer) forgetTables(l *layout) {
	w.closeStatements()
	named := map[string]bool{}
	for _, t := range l.tables() {
		named[t] = true
	}
	maps.DeleteFunc(w.rows, func(t string, _ int64) bool { return !named[t] })
	maps.DeleteFunc(w.current, func(_, t string) bool { return !named[t] })
}

// drop drops tables in the open transaction.
func (w *writer) drop(ctx context.Context, tables []string) error {
	for _, t := range tables {
		if _, err := w.conn.ExecContext(ctx, "DROP TABLE "+duck.Ident(t)); err != nil {
			return resource("drop "+t, err)
		}
	}
	return nil
}

// LiveThrough is the position through which everything is folded, now.
func (s *Store) LiveThrough() schemas.Position { return s.moments.now().through }
