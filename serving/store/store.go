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

	"github.com/apache/arrow-go/v18/arrow"

	"duet/batch/archive"
	"duet/internal/base/duck"
	"duet/schemas"
	"duet/schemas/event"
	"duet/schemas/view"
)

// Store is the database and its writer. Its methods are safe for concurrent
// use. Changes run one after the other, in the order in which they arrive.
type Store struct {
	cfg   Config
	db    *duck.DB
	views map[string]*definition
	sets  map[string]*dataset // streams, archive.Rejects, archive.Lines, archive.Envelopes

	// ids numbers segments, blocks and tables; the writer and side work share it.
	ids     atomic.Int64
	moments moments
	rows    tableRows
	ops     chan op

	queries, exports, status *readers
	// reads is held by each read, and taken by Close to wait for them.
	reads     sync.RWMutex
	abandoned sync.WaitGroup // statements that were left behind
	// Set once in open; tests shorten them.
	interruptGrace, closeGrace time.Duration

	ctx    context.Context // ends when Close is called
	cancel context.CancelFunc
	done   chan struct{}  // closed when the writer has ended
	side   sync.WaitGroup // running merges

	closing  sync.Once
	closeErr error

	w writer // owned by the writer's goroutine after Open

	// mu guards what callers share with the writer.
	mu      sync.Mutex
	closed  []*tailBlock  // closed and not released, in order
	changed chan struct{} // closed and replaced when closed grows
	staged  *staged       // nil if nothing is staged
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
	groups    map[string]int64     // by view: rows that the last merge of the open segment left
	stateRows int

	open     *tailBlock // counters of the open block
	holds    int        // shadows that need released blocks to stay
	released []int64
	merge    bool // a merge is running

	applying, exporting shortage
}

// stateLimit is the number of rows at which the state table is replaced.
const stateLimit = 512

const createState = "CREATE OR REPLACE TABLE state (n BIGINT, generation UBIGINT, cut BIGINT, through BIGINT, layout BIGINT)"

// Open returns an empty store of a project's streams and views: generation 0,
// cut 0, live-through 0. The caller closes it.
func Open(cfg Config, streams []*event.Schema, views []*view.View) (*Store, error) {
	sets := []*dataset{
		newDataset(archive.Rejects, event.RejectSQLColumns, event.RejectArrow),
		newDataset(archive.Lines, event.LinesSQLColumns, event.LinesArrow),
		newDataset(archive.Envelopes, event.EnvelopesSQLColumns, event.EnvelopesArrow),
	}
	for _, s := range streams {
		sets = append(sets, newDataset(s.Stream().Name, s.SQLColumns(), s.Arrow()))
	}
	defs := make([]*definition, len(views))
	for i, v := range views {
		defs[i] = &definition{name: v.Name, stream: v.Stream, hash: v.Definition, cells: v.CellColumns(), width: int64(len(v.Keys) + len(v.Cells)), partial: v.PartialSQL, merge: v.MergeSQL}
	}
	return open(cfg, sets, defs)
}

func newDataset(name, columns string, schema *arrow.Schema) *dataset {
	d := &dataset{name: name, columns: columns}
	for _, f := range schema.Fields() {
		d.names = append(d.names, f.Name)
	}
	return d
}

// open returns an empty store: generation 0, cut 0, nothing folded.
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
		moments: moments{byN: map[int64]*moment{}, readers: map[int64]int{}}, rows: tableRows{n: map[string]int64{}},
		ops: make(chan op), interruptGrace: interruptGrace, closeGrace: closeGrace,
		done: make(chan struct{}), changed: make(chan struct{}),
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
	s.queries, s.exports, s.status = newReaders(s, cfg.Readers), newReaders(s, exportReaders), newReaders(s, statusReaders)
	go s.run()
	return s, nil
}

// begin creates the tables of an empty store and its first moment.
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
		s: s, conn: conn, current: map[string]string{}, stmts: map[string]*sql.Stmt{}, groups: map[string]int64{},
		m:        &moment{layout: l, newest: map[string]time.Time{}},
		applying: shortage{limit: applyAttempts}, exporting: shortage{limit: exportAttempts},
	}
	s.w.open = newTailBlock(l.openBlock().id, 0)
	if err := s.w.commit(s.w.next(), func(context.Context) error { return nil }); err != nil {
		conn.Close()
		return err
	}
	return nil
}

// emptySet is the name of a data set's empty table: "es_" keeps streams and
// views of the same name apart.
func emptySet(name string) string { return "es_" + name }

// run executes operations until the store closes. It is the writer's goroutine.
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

// do runs f on the writer and waits for it. ctx is observed only until f
// begins: a change is never left half done.
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

// Close stops side work and the writer, interrupts readers, and frees the
// database. It waits two seconds for abandoned statements; if some still run then,
// the database is freed when they end. A second Close waits for the first.
func (s *Store) Close() error {
	s.cancel()
	s.closing.Do(func() {
		<-s.done
		s.side.Wait()
		s.reads.Lock()
		defer s.reads.Unlock()
		ended := make(chan error, 1)
		go func() {
			s.abandoned.Wait()
			for _, p := range []*readers{s.queries, s.exports, s.status} {
				p.close()
			}
			ended <- s.db.Close()
		}()
		timer := time.NewTimer(s.closeGrace)
		defer timer.Stop()
		select {
		case s.closeErr = <-ended:
		case <-timer.C:
			s.cfg.Log.Warn("closed while statements that cannot be interrupted still run", "statements", s.queries.use().Abandoned+s.exports.use().Abandoned)
		}
	})
	return s.closeErr
}

// working returns ctx, cancelled also when the store closes.
func (s *Store) working(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(s.ctx, func() { cancel(ErrClosed) })
	return ctx, func() { stop(); cancel(nil) }
}

// next returns a copy of the current moment to change and commit. It shares the
// layout with the current moment until relayout.
func (w *writer) next() *moment {
	m := *w.m
	m.n++
	return &m
}

// relayout gives m its own copy of the layout, once, and returns it.
func (w *writer) relayout(m *moment) *layout {
	if m.layout == w.m.layout {
		m.layout = m.layout.clone()
		m.layout.number = w.s.ids.Add(1)
	}
	return m.layout
}

// commit runs f and appends the state row in one transaction, then makes m
// current. On error nothing has changed. Callers cannot interrupt it.
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
			// Statements may be bound to tables that the rollback removed.
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
		// DuckDB has rolled back already, unless the commit never began.
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

// statement returns query prepared, from the cache under key if it is there.
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

// forgetTables deletes the writer's state of tables that l does not name.
func (w *writer) forgetTables(l *layout) {
	w.closeStatements()
	named := map[string]bool{}
	for _, t := range l.tables() {
		named[t] = true
	}
	w.s.rows.keep(named)
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

// LiveThrough returns the position through which everything is folded.
func (s *Store) LiveThrough() schemas.Position { return s.moments.now().through }
