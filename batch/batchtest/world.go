// Package batchtest has a live half for tests of the batch half: a [World] with
// a log, a tail and a served generation, whose events follow from a seed, and
// which knows every answer by plain SQL over all events (H3).
package batchtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"duet/batch"
	"duet/batch/archive"
	"duet/batch/catalog"
	"duet/batch/recompute"
	"duet/internal/base/duck"
	"duet/internal/base/durable"
	"duet/schemas"
)

// Stream is the name of the world's only stream.
const Stream = "orders"

// Incarnation is the world's log.
var Incarnation = schemas.Incarnation{Ordinal: 1, ID: "world", Created: "2026-01-01T00:00:00Z"}

// rowColumns are the columns of the stream, as in memory.
const rowColumns = "k VARCHAR, qty INTEGER, price DECIMAL(18,4), score DOUBLE, sold_at TIMESTAMP, _duet_extra VARCHAR, _duet_at BIGINT, _duet_record INTEGER"

// Config says what kind of world it is.
type Config struct {
	Seed    uint64
	Dir     string // holds log.json: the part of the world that survives the process
	Records int    // of a message; defaults to 5
	Block   int    // messages after which a block ends by itself; defaults to 20
	Poison  uint64 // sequence whose first record the view "risky" cannot compute; 0 is none
}

// logState is what log.json holds.
type logState struct {
	Last  uint64   `json:"last"`
	Marks []uint64 `json:"marks"` // sequences of cut markers
}

// World is a live half that is always caught up. It implements [batch.Live] and
// [archive.Tail]. Safe for concurrent use.
type World struct {
	cfg Config
	db  *duck.DB

	mu       sync.Mutex // guards what follows
	log      logState
	released schemas.Position // the tail begins after it
	served   *catalog.Generation
	cells    map[string]string // table of the served cells, by view
	staged   map[string]string
	tables   int
	grown    chan struct{} // closed and replaced when the log grows
	views    map[string]recompute.View

	faults Faults
}

// Faults are what goes wrong with a world. Every field may be nil.
type Faults struct {
	// Tamper changes the SELECT that Export writes: differences.
	Tamper func(view, query string) string
	// Totals changes what Totals answers.
	Totals func(map[string]archive.Totals)
	// Fail fails the operation named (cut, wait, totals, export, stage, rebuild,
	// switch, block), or pauses it.
	Fail func(op string) error
}

// SetFaults replaces what goes wrong from now on.
func (w *World) SetFaults(f Faults) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults = f
}

func (w *World) currentFaults() Faults {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.faults
}

// Open opens the world in cfg.Dir as its log has it, archived through a
// position, serving g, whose files are in the catalog.
func Open(cfg Config, archived schemas.Position, g *catalog.Generation, c *catalog.Catalog) (*World, error) {
	if cfg.Records == 0 {
		cfg.Records = 5
	}
	if cfg.Block == 0 {
		cfg.Block = 20
	}
	db, err := duck.Open(duck.Config{Threads: 1})
	if err != nil {
		return nil, err
	}
	w := &World{cfg: cfg, db: db, released: archived, cells: map[string]string{}, grown: make(chan struct{}), views: map[string]recompute.View{}}
	for _, v := range Views() {
		w.views[v.Name] = v
	}
	if _, err := db.Exec("CREATE TABLE events (" + rowColumns + "); CREATE TABLE verdicts (_duet_at BIGINT, _duet_record INTEGER, verdict VARCHAR)"); err != nil {
		return nil, err
	}
	data, err := os.ReadFile(w.logPath())
	if err == nil {
		err = json.Unmarshal(data, &w.log)
	} else if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return nil, err
	}
	if err := w.insert(0, w.log.Last); err != nil {
		return nil, err
	}
	if g != nil {
		files := map[string]string{}
		for _, v := range g.Views {
			if v.Suspended == nil {
				files[v.Name] = c.Path(v)
			}
		}
		if _, err := w.Stage(context.Background(), g, files); err != nil {
			return nil, err
		}
		return w, w.Switch(context.Background(), g)
	}
	return w, nil
}

// Close ends the world.
func (w *World) Close() { w.db.Close() }

func (w *World) logPath() string { return filepath.Join(w.cfg.Dir, "log.json") }

// At is the position of a sequence.
func At(sequence uint64) schemas.Position { return schemas.NewPosition(Incarnation.Ordinal, sequence) }

// Append adds n messages to the log and to the live half.
func (w *World) Append(n int) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	from := w.log.Last
	w.log.Last += uint64(n)
	if err := w.save(); err != nil {
		return err
	}
	return w.insert(from, w.log.Last)
}

// save makes the log durable, outside the file system under test, and wakes who
// waits for blocks. mu is held.
func (w *World) save() error {
	data, err := json.Marshal(w.log)
	if err != nil {
		return err
	}
	tmp := w.logPath() + durable.Name()
	if err := os.WriteFile(tmp, data, 0o644); err != nil {
		return err
	}
	if err := os.Rename(tmp, w.logPath()); err != nil {
		return err
	}
	close(w.grown)
	w.grown = make(chan struct{})
	return nil
}

// insert makes the events of (from, to]: the same seed gives the same events.
func (w *World) insert(from, to uint64) error {
	marks := "0"
	for _, m := range w.log.Marks {
		marks += fmt.Sprintf(", %d", m)
	}
	_, err := w.db.Exec(fmt.Sprintf(`
CREATE OR REPLACE TEMP TABLE made AS
SELECT seq, rec, hash(%[1]d, seq, rec, 1) AS h, hash(%[1]d, seq, rec, 2) AS i,
       CASE WHEN seq = %[2]d AND rec = 0 THEN 'accepted' WHEN h %% 11 = 3 THEN 'rejected' WHEN h %% 13 = 5 THEN 'duplicate' ELSE 'accepted' END AS verdict,
       ((1::BIGINT << 48) | seq)::BIGINT AS pos
FROM range(%[3]d, %[4]d) s(seq), range(%[5]d) r(rec) WHERE seq NOT IN (%[6]s);
INSERT INTO verdicts SELECT pos, rec, verdict FROM made ORDER BY pos, rec;
INSERT INTO events
SELECT CASE WHEN h %% 10 = 0 THEN NULL ELSE 'k' || (h %% 7) END,
       CASE WHEN seq = %[2]d AND rec = 0 THEN 1000 ELSE (i %% 7)::INTEGER - 1 END,
       CASE WHEN i %% 17 = 0 THEN NULL ELSE ((i %% 1000000)::DECIMAL(18,4) * 0.01)::DECIMAL(18,4) END,
       (h %% 1000) / 7,
       TIMESTAMP '2026-01-01' + to_seconds((h %% 864000)::BIGINT), NULL, pos, rec
FROM made WHERE verdict = 'accepted' ORDER BY pos, rec`,
		w.cfg.Seed, w.cfg.Poison, from+1, to+1, w.cfg.Records, marks))
	return err
}

func (w *World) fail(op string) error {
	if f := w.currentFaults().Fail; f != nil {
		return f(op)
	}
	return nil
}

// Cut implements [batch.Live].
func (w *World) Cut(context.Context) (schemas.Cut, error) {
	if err := w.fail("cut"); err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.log.Last++
	w.log.Marks = append(w.log.Marks, w.log.Last)
	if err := w.save(); err != nil {
		return nil, err
	}
	return schemas.NewCut(Incarnation, At(w.log.Last)), nil
}

// Wait implements [batch.Live].
func (w *World) Wait(context.Context, schemas.Position) error { return w.fail("wait") }

// Totals implements [batch.Live].
func (w *World) Totals(_ context.Context, after, through schemas.Position) (map[string]archive.Totals, error) {
	if err := w.fail("totals"); err != nil {
		return nil, err
	}
	t := archive.Totals{Account: w.account(after, through), Sums: map[string]string{}}
	var qty, price string
	if err := w.db.QueryRow(fmt.Sprintf("SELECT coalesce(sum(qty), 0)::VARCHAR, coalesce(sum(price), 0)::VARCHAR FROM events WHERE %s", within(after, through))).Scan(&qty, &price); err != nil {
		return nil, err
	}
	if t.Accepted > 0 {
		t.Sums["qty"], t.Sums["price"] = qty, price
	}
	all := map[string]archive.Totals{Stream: t}
	if f := w.currentFaults().Totals; f != nil {
		f(all)
	}
	return all, nil
}

func within(after, through schemas.Position) string {
	return fmt.Sprintf("_duet_at > %d AND _duet_at <= %d", after, through)
}

func (w *World) account(after, through schemas.Position) schemas.Account {
	var a schemas.Account
	err := w.db.QueryRow("SELECT count(*), count(*) FILTER (verdict = 'accepted'), count(*) FILTER (verdict = 'duplicate'), count(*) FILTER (verdict = 'rejected') FROM verdicts WHERE "+
		within(after, through)).Scan(&a.Received, &a.Accepted, &a.Duplicate, &a.Rejected)
	if err != nil {
		panic(err) // the world is broken, not what is tested
	}
	return a
}

// Export implements [batch.Live].
func (w *World) Export(_ context.Context, view string, through schemas.Position, path string) (int64, error) {
	if err := w.fail("export"); err != nil {
		return 0, err
	}
	w.mu.Lock()
	after, v := w.cut(), w.views[view]
	w.mu.Unlock()
	if w.account(after, through).Accepted == 0 {
		return 0, nil
	}
	query := v.Partial
	if f := w.currentFaults().Tamper; f != nil {
		query = f(view, query)
	}
	query = with(recompute.RowsTable, "SELECT * FROM events WHERE "+within(after, through), query)
	_, err := w.db.Exec("COPY (" + query + ") TO " + duck.Literal(path) + " (FORMAT parquet)")
	if raised(err) {
		return 0, &batch.NotComparableError{View: view, Reason: "suspended"}
	}
	return 1, err
}

func raised(err error) bool { return err != nil && strings.Contains(err.Error(), "Conversion Error") }

// with gives a relation that a view's SQL reads a meaning.
func with(name, relation, query string) string {
	return "WITH " + name + " AS (" + relation + ") " + query
}

// cut is the served generation's. mu is held.
func (w *World) cut() schemas.Position {
	if w.served == nil {
		return 0
	}
	return w.served.Cut.Position()
}

// Stage implements [batch.Live].
func (w *World) Stage(_ context.Context, g *catalog.Generation, files map[string]string) ([]recompute.Suspension, error) {
	if err := w.fail("stage"); err != nil {
		return nil, err
	}
	return nil, w.load(files)
}

func (w *World) load(files map[string]string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.staged = map[string]string{}
	for view, path := range files {
		w.tables++
		table := fmt.Sprintf("b_%s_%d", view, w.tables)
		if _, err := w.db.Exec("CREATE TABLE " + table + " AS FROM read_parquet(" + duck.Literal(path) + ")"); err != nil {
			return err
		}
		w.staged[view] = table
	}
	return nil
}

// Rebuild implements [batch.Live]: the world has all events at hand.
func (w *World) Rebuild(_ context.Context, g *catalog.Generation, files map[string]string) ([]recompute.Suspension, error) {
	if err := w.fail("rebuild"); err != nil {
		return nil, err
	}
	return nil, w.load(files)
}

// Switch implements [batch.Live].
func (w *World) Switch(_ context.Context, g *catalog.Generation) error {
	if err := w.fail("switch"); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.served != nil && g.Number <= w.served.Number {
		return fmt.Errorf("the served generation would go from %d back to %d (H9)", w.served.Number, g.Number)
	}
	w.served, w.cells, w.staged = g, w.staged, nil
	return nil
}

// Discard implements [batch.Live].
func (w *World) Discard(context.Context) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.staged = nil
}

// Served is the generation that answers come from; nil before the first.
func (w *World) Served() *catalog.Generation {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.served
}

// NextBlock implements [archive.Tail].
func (w *World) NextBlock(ctx context.Context) (archive.Block, error) {
	if err := w.fail("block"); err != nil {
		return archive.Block{}, err
	}
	for {
		w.mu.Lock()
		grown := w.grown
		from := w.released.Sequence()
		through := from + uint64(w.cfg.Block)
		for _, m := range w.log.Marks {
			if m > from {
				through = min(through, m)
			}
		}
		last := w.log.Last
		w.mu.Unlock()
		if through <= last {
			return w.block(At(through)), nil
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return archive.Block{}, context.Cause(ctx)
		}
	}
}

func (w *World) block(through schemas.Position) archive.Block {
	w.mu.Lock()
	from := w.released
	w.mu.Unlock()
	b := archive.Block{ID: through.Sequence(), From: from, Through: through, Accounts: map[string]schemas.Account{}, Producers: map[string]uint64{"shop": through.Sequence()}}
	if a := w.account(from, through); a.Received > 0 {
		b.Accounts[Stream] = a
	}
	return b
}

// spelled is the position as an archive file has it.
const spelled = "0::USMALLINT AS _duet_lane, (_duet_at >> 48)::UINTEGER AS _duet_incarnation, (_duet_at & ((1::BIGINT << 48) - 1))::BIGINT AS _duet_sequence, _duet_record, 0::INTEGER AS _duet_part"

// ExportBlock implements [archive.Tail].
func (w *World) ExportBlock(ctx context.Context, b archive.Block, data, path string) (int64, error) {
	return w.export(ctx, data, b.From, b.Through, path)
}

// Repair implements [archive.Repairer].
func (w *World) Repair(ctx context.Context, f archive.File, path string) error {
	_, err := w.export(ctx, f.Data, f.From, f.Through, path)
	return err
}

func (w *World) export(ctx context.Context, data string, after, through schemas.Position, path string) (int64, error) {
	var query string
	switch data {
	case Stream:
		query = "SELECT * EXCLUDE (_duet_at, _duet_record), " + spelled + " FROM events WHERE " + within(after, through) + " ORDER BY _duet_at, _duet_record"
	case archive.Rejects:
		query = "SELECT '" + Stream + "' AS stream, verdict AS reason, " + spelled + " FROM verdicts WHERE verdict = 'rejected' AND " + within(after, through) + " ORDER BY _duet_at, _duet_record"
	default:
		return 0, fmt.Errorf("no data set %s", data)
	}
	res, err := w.db.ExecContext(ctx, "COPY ("+query+") TO "+duck.Literal(path)+" (FORMAT parquet, COMPRESSION zstd)")
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// ReleaseBlock implements [archive.Tail].
func (w *World) ReleaseBlock(_ context.Context, id uint64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.released = max(w.released, At(id))
	return nil
}

// Answer is a view's merged answer: the served cells and what came after their
// cut. An error if the view is suspended.
func (w *World) Answer(view string) (string, error) {
	w.mu.Lock()
	cut, v, table, served := w.cut(), w.views[view], w.cells[view], w.served
	last := At(w.log.Last)
	w.mu.Unlock()
	var parts []string
	if served != nil {
		if gv := served.View(view); gv == nil || gv.Suspended != nil {
			return "", fmt.Errorf("view %s is suspended", view)
		}
		parts = append(parts, "SELECT * FROM "+table)
	}
	if w.account(cut, last).Accepted > 0 || served == nil {
		live := with(recompute.RowsTable, "SELECT * FROM events WHERE "+within(cut, last), v.Partial)
		parts = append(parts, "("+live+")")
	}
	return w.text(with(recompute.CellsTable, strings.Join(parts, " UNION ALL "), v.Final))
}

// Plain is the answer by the view's SELECT over all events.
func (w *World) Plain(view string) (string, error) {
	return w.text(plain[view])
}

// text is a result as sorted lines.
func (w *World) text(query string) (string, error) {
	rows, err := w.db.Query("SELECT COLUMNS(*)::VARCHAR FROM (" + query + ")")
	if err != nil {
		return "", err
	}
	defer rows.Close()
	cols, err := rows.Columns()
	if err != nil {
		return "", err
	}
	var lines []string
	for rows.Next() {
		vals := make([]any, len(cols))
		dest := make([]any, len(cols))
		for i := range vals {
			dest[i] = &vals[i]
		}
		if err := rows.Scan(dest...); err != nil {
			return "", err
		}
		lines = append(lines, fmt.Sprint(vals...))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n"), rows.Err()
}

// Check compares every view's answer with plain SQL; views named in except may
// be suspended.
func (w *World) Check(except ...string) error {
	for name := range w.views {
		got, err := w.Answer(name)
		if err != nil && slices.Contains(except, name) {
			continue
		}
		if err != nil {
			return err
		}
		want, err := w.Plain(name)
		if err != nil {
			return err
		}
		if got != want {
			return fmt.Errorf("view %s, generation %v: answered\n%s\nplain SQL says\n%s", name, w.Served(), got, want)
		}
	}
	return nil
}
