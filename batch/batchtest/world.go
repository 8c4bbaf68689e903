// Package batchtest has a live half for tests of the batch half, [World], and the
// conformance suite that it and the real one pass, [Exercise].
//
// A World has a log, a tail and a served generation. Its events follow from a seed,
// and it computes every answer a second time by plain SQL over all events (H3).
package batchtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

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

// Config configures a [World]. Dir is required.
type Config struct {
	Seed    uint64
	Dir     string // holds log.json, the part of the world that survives the process
	Records int    // events of a message; defaults to 5
	Block   int    // messages after which a block closes; defaults to 20
	Poison  uint64 // sequence whose first event the view "risky" cannot compute; 0 means none
	// Archive is what Rebuild reads; without it Rebuild fails.
	Archive *archive.Archive
}

// logState is the content of log.json.
type logState struct {
	Last  uint64   `json:"last"`
	Marks []uint64 `json:"marks"` // sequences of cut markers
}

// World is a live half that is always caught up. It implements [batch.Live] and
// [archive.Tail], and is as strict as the real one. It is safe for concurrent use.
//
// It folds events when it is asked, over all events in memory. After a rollback
// the live state is the one that Rebuild made from the archive and the tail.
type World struct {
	cfg Config
	db  *duck.DB

	mu       sync.Mutex // guards what follows
	log      logState
	released schemas.Position // the tail begins after it
	served   serving
	staged   *serving // nil if nothing is staged
	tables   int
	grown    chan struct{} // closed and replaced when the log grows
	views    map[string]recompute.View

	faults Faults
}

// serving is what answers come from.
type serving struct {
	number uint64
	cut    schemas.Position
	// cells has the table of the cells by view; a view of the world that is
	// neither here nor in suspended is not held by the generation.
	cells     map[string]string
	suspended map[string]*recompute.Suspension
	// shadow has the table of the partials in (cut, folded] by view, as Rebuild
	// made them. The world folds what comes after.
	shadow map[string]string
	folded schemas.Position // the cut if there is no shadow
	merged schemas.Position // the segments up to it are one: none ends before it
}

// Faults make the world fail. Every field may be nil.
type Faults struct {
	// Tamper changes the SELECT that Export writes: differences.
	Tamper func(view, query string) string
	// Totals changes what Totals returns.
	Totals func(map[string]archive.Totals)
	// Fail fails the operation named (cut, wait, totals, export, stage, rebuild,
	// switch, block), or pauses it.
	Fail func(op string) error
	// MaxGroups limits the groups of a view, as its max_groups.
	MaxGroups map[string]int64
}

// SetFaults replaces the faults.
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

// Open opens the world in cfg.Dir as its log has it, archived through a position,
// serving g, whose files are in the catalog.
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
	w := &World{cfg: cfg, db: db, released: archived, grown: make(chan struct{}), views: map[string]recompute.View{}}
	for _, v := range Views() {
		w.views[v.Name] = v
	}
	if err := w.recover(g, c); err != nil {
		db.Close()
		return nil, err
	}
	return w, nil
}

// recover reads the log and loads the generation.
func (w *World) recover(g *catalog.Generation, c *catalog.Catalog) error {
	if _, err := w.db.Exec("CREATE TABLE events (" + rowColumns + "); CREATE TABLE verdicts (_duet_at BIGINT, _duet_record INTEGER, verdict VARCHAR)"); err != nil {
		return err
	}
	data, err := os.ReadFile(w.logPath())
	if err == nil {
		err = json.Unmarshal(data, &w.log)
	} else if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return err
	}
	if err := w.insert(0, w.log.Last); err != nil || g == nil {
		return err
	}
	files := map[string]string{}
	for _, v := range g.Views {
		if v.Suspended == nil {
			files[v.Name] = c.Path(v)
		}
	}
	if _, err := w.load(g, files); err != nil {
		return err
	}
	w.served, w.staged = *w.staged, nil
	w.served.merged = max(w.served.cut, w.released) // recovery makes one segment through the archive's end
	return nil
}

// Close releases the world's memory.
func (w *World) Close() { w.db.Close() }

func (w *World) logPath() string { return filepath.Join(w.cfg.Dir, "log.json") }

// At returns the position of a sequence.
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

// save writes the log, outside the file system under test, and wakes NextBlock. mu
// is held.
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

// insert makes the events of (from, to]; the same seed makes the same events.
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

// Answer returns a view's merged answer: the served cells and what came after their
// cut. It fails if the view is suspended.
func (w *World) Answer(view string) (string, error) {
	w.mu.Lock()
	s, v := w.served, w.views[view]
	last := At(w.log.Last)
	w.mu.Unlock()
	if sus := s.suspended[view]; sus != nil {
		return "", errors.New(sus.String())
	}
	var parts []string
	if s.number > 0 {
		table := s.cells[view]
		if table == "" {
			return "", fmt.Errorf("view %s is being rebuilt", view)
		}
		parts = append(parts, "SELECT * FROM "+table)
	}
	parts = append(parts, w.partials(s, v, last)...)
	if len(parts) == 0 {
		parts = []string{with(recompute.RowsTable, "SELECT * FROM events WHERE false", v.Partial)}
	}
	return text(w.db, with(recompute.CellsTable, union(parts), v.Final))
}

// Plain returns the answer by the view's SELECT over all events.
func (w *World) Plain(view string) (string, error) {
	return text(w.db, plain[view])
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
			return fmt.Errorf("view %s, generation %d: answered\n%s\nplain SQL says\n%s", name, w.Served(), got, want)
		}
	}
	return nil
}
