package store

import (
	"maps"
	"slices"
	"sync"
	"time"

	"duet/batch/recompute"
	"duet/schemas"
)

// moment is what one commit made visible. Immutable once registered.
type moment struct {
	n          int64
	generation uint64
	cut        schemas.Position
	through    schemas.Position
	newest     map[string]time.Time // by stream: newest event time accepted, zero if none
	layout     *layout
}

// layout says which tables make up each view and each stream. Immutable once
// registered; clone it to make the next one.
type layout struct {
	number   int64
	views    map[string]viewTables
	segments []segment // in order, without gaps; the last one is open
	blocks   []block   // in order, without gaps; the last one is open
	archived schemas.Position
}

// segment is a span of positions between two cuts.
type segment struct {
	number  int64
	after   schemas.Position
	through schemas.Position // of the open one: 0
}

// viewTables is the state of one view: its tables, and whether it can answer.
type viewTables struct {
	def   *definition
	batch string // table of the generation's cells; "" if there is none
	file  string // of the cells, in the catalog; "" if it is not known
	live  []liveTable
	// suspended and rebuilding say why the view cannot answer; nil and false
	// if it can.
	suspended  *recompute.Suspension
	rebuilding bool
	// incomplete lists the segments whose partials miss some of the view's events.
	incomplete []int64
}

// liveTable holds partials of one segment.
type liveTable struct {
	name    string
	segment int64
}

// block is the span of positions that becomes one archive file a stream.
type block struct {
	id      int64
	after   schemas.Position
	through schemas.Position  // of the open one: 0
	tables  map[string]string // by data set; a set without rows has none
}

func (l *layout) clone() *layout {
	c := *l
	c.views = maps.Clone(l.views)
	c.segments = slices.Clone(l.segments)
	c.blocks = slices.Clone(l.blocks)
	return &c
}

func (l *layout) openSegment() *segment { return &l.segments[len(l.segments)-1] }
func (l *layout) openBlock() *block     { return &l.blocks[len(l.blocks)-1] }

// folds reports whether v's partials of the open segment are complete so far.
func (l *layout) folds(v viewTables) bool {
	return !slices.Contains(v.incomplete, l.openSegment().number)
}

// completeAfter reports whether every event after cut is in v's partials.
func (l *layout) completeAfter(v viewTables, cut schemas.Position) bool {
	for _, s := range l.segments {
		if (s.through == 0 || s.through > cut) && slices.Contains(v.incomplete, s.number) {
			return false
		}
	}
	return true
}

// boundary reports whether a segment ends or begins at a position.
func (l *layout) boundary(at schemas.Position) bool {
	return slices.ContainsFunc(l.segments, func(s segment) bool { return s.after == at || s.through == at })
}

// tablesThrough lists v's live tables of segments that end at or before at.
func (l *layout) tablesThrough(v viewTables, at schemas.Position) []string {
	var names []string
	for _, t := range v.live {
		for _, s := range l.segments {
			if s.number == t.segment && s.through != 0 && s.through <= at {
				names = append(names, t.name)
			}
		}
	}
	return names
}

func (l *layout) addLive(view, table string, segment int64) {
	v := l.views[view]
	v.live = append(slices.Clone(v.live), liveTable{table, segment})
	l.views[view] = v
}

func (l *layout) markIncomplete(view string, segment int64) {
	v := l.views[view]
	if !slices.Contains(v.incomplete, segment) {
		v.incomplete = append(slices.Clone(v.incomplete), segment)
		l.views[view] = v
	}
}

// addBlockTable adds a table for set to the open block.
func (l *layout) addBlockTable(set, table string) {
	b := l.openBlock()
	b.tables = maps.Clone(b.tables)
	if b.tables == nil {
		b.tables = map[string]string{}
	}
	b.tables[set] = table
}

// tables lists every table that the layout names, sorted.
func (l *layout) tables() []string {
	var names []string
	for _, v := range l.views {
		if v.batch != "" {
			names = append(names, v.batch)
		}
		for _, t := range v.live {
			names = append(names, t.name)
		}
	}
	for _, b := range l.blocks {
		for _, t := range b.tables {
			names = append(names, t)
		}
	}
	slices.Sort(names)
	return names
}

// moments maps committed state rows to their structs. Safe for concurrent use.
type moments struct {
	mu      sync.Mutex
	byN     map[int64]*moment
	current *moment
	readers map[int64]int // by the current n when the reader began
}

// put registers m before its commit.
func (r *moments) put(m *moment) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.byN[m.n] = m
}

// commit makes m the current moment, after its commit.
func (r *moments) commit(m *moment) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.current = m
	r.prune()
}

// forget undoes a put whose commit failed.
func (r *moments) forget(m *moment) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.byN, m.n)
}

// begin is called before a reader's first statement, end after its last.
func (r *moments) begin() (n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.readers[r.current.n]++
	return r.current.n
}

func (r *moments) end(n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.readers[n]--; r.readers[n] == 0 {
		delete(r.readers, n)
		r.prune()
	}
}

// prune deletes moments that no reader can see any more. mu is held.
func (r *moments) prune() {
	oldest := r.current.n
	for n := range r.readers {
		oldest = min(oldest, n)
	}
	for n := range r.byN {
		if n < oldest {
			delete(r.byN, n)
		}
	}
}

func (r *moments) get(n int64) *moment {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.byN[n]
}

func (r *moments) now() *moment {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.current
}
