package store

import (
	"context"
	"errors"
	"maps"
	"sync"
	"time"

	"duet/internal/base/duck"
	"duet/schemas"
)

// Stats describes a store at one moment, except for what is counted beside it:
// rows, Memory, Tail, Merges and Readers.
type Stats struct {
	Generation  uint64
	Cut         schemas.Position
	LiveThrough schemas.Position
	Archived    schemas.Position
	Segments    []SegmentStats // in order; the last one is open
	Views       []ViewStats    // by name
	Memory      int64          // bytes that DuckDB holds
	MemoryLimit int64
	Tail        TailUse
	Merges      MergeUse
	Moments     int // kept for readers; 1 if none is reading
	Readers     ReaderUse
	Newest      map[string]time.Time // newest accepted event time, by stream; immutable
}

// SegmentStats is one span between cuts.
type SegmentStats struct {
	Number         int64
	After, Through schemas.Position // Through is 0 for the open one
}

// ViewStats says how a view is stored.
type ViewStats struct {
	View       string
	Definition string
	Problem    string // why it cannot answer; "" if it can
	BatchRows  int64  // groups in the generation
	LiveRows   int64  // partial rows
	LiveTables int
}

// tableRows counts the rows of the tables that make up views. It is safe for
// concurrent use.
type tableRows struct {
	mu sync.Mutex
	n  map[string]int64
}

func (r *tableRows) add(table string, n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.n[table] += n
}

// of returns the rows of a table; 0 for "".
func (r *tableRows) of(table string) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.n[table]
}

// keep deletes the counters of tables that are not named.
func (r *tableRows) keep(named map[string]bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.DeleteFunc(r.n, func(t string, _ int64) bool { return !named[t] })
}

// Stats returns the store's state. It executes one cheap statement, on a
// connection of its own, and counts no rows.
func (s *Store) Stats(ctx context.Context) (Stats, error) {
	st := Stats{MemoryLimit: s.cfg.MemoryLimit, Tail: s.Tail(), Readers: s.queries.use()}
	var err error
	if st.Memory, err = s.memory(ctx); duck.OutOfMemory(err) {
		st.Memory = st.MemoryLimit
	} else if err != nil {
		return Stats{}, err
	}
	m := s.moments.now()
	l := m.layout
	st.Generation, st.Cut, st.LiveThrough, st.Archived, st.Newest = m.generation, m.cut, m.through, l.archived, m.newest
	for _, g := range l.segments {
		st.Segments = append(st.Segments, SegmentStats{g.number, g.after, g.through})
	}
	for _, name := range viewNames(l) {
		v := l.views[name]
		vs := ViewStats{View: name, Definition: v.def.hash, LiveTables: len(v.live), BatchRows: s.rows.of(v.batch)}
		if _, err := m.answering(name); err != nil {
			vs.Problem = err.Error()
		}
		for _, t := range v.live {
			vs.LiveRows += s.rows.of(t.name)
		}
		st.Views = append(st.Views, vs)
	}
	s.mu.Lock()
	st.Merges = s.merging
	s.mu.Unlock()
	s.moments.mu.Lock()
	st.Moments = len(s.moments.byN)
	s.moments.mu.Unlock()
	return st, nil
}

// memory returns the bytes that DuckDB holds.
func (s *Store) memory(ctx context.Context) (bytes int64, err error) {
	err = s.status.read(ctx, func(sn *Snapshot) error {
		rows, err := sn.Query(ctx, "SELECT coalesce(sum(memory_usage_bytes), 0)::BIGINT FROM duckdb_memory()")
		if err != nil {
			return resource("read memory use", err)
		}
		defer rows.Close()
		if rows.Next() {
			err = rows.Scan(&bytes)
		}
		return errors.Join(err, rows.Err())
	})
	return bytes, err
}
