package store

import (
	"context"
	"maps"
	"slices"
	"sync"

	"duet/schemas"
)

// Stats describes a store at one moment, except for Memory, Tail and Merges.
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

// Stats returns the store's state; it counts rows in a read transaction.
func (s *Store) Stats(ctx context.Context) (Stats, error) {
	var st Stats
	err := s.Read(ctx, func(sn *Snapshot) error {
		l := sn.m.layout
		st = Stats{Generation: sn.m.generation, Cut: sn.m.cut, LiveThrough: sn.m.through, Archived: l.archived, MemoryLimit: s.cfg.MemoryLimit}
		for _, g := range l.segments {
			st.Segments = append(st.Segments, SegmentStats{g.number, g.after, g.through})
		}
		for _, name := range viewNames(l) {
			v := l.views[name]
			vs := ViewStats{View: name, Definition: v.def.hash, LiveTables: len(v.live)}
			if _, err := sn.answering(name); err != nil {
				vs.Problem = err.Error()
			}
			var live []string
			for _, t := range v.live {
				live = append(live, t.name)
			}
			for _, c := range []struct {
				tables []string
				n      *int64
			}{{live, &vs.LiveRows}, {slices.DeleteFunc([]string{v.batch}, func(t string) bool { return t == "" }), &vs.BatchRows}} {
				if len(c.tables) == 0 {
					continue
				}
				if err := sn.conn.QueryRowContext(ctx, "SELECT count(*) FROM "+union(c.tables, "")).Scan(c.n); err != nil {
					return resource("count rows of view "+name, err)
				}
			}
			st.Views = append(st.Views, vs)
		}
		var err error
		st.Memory, err = memoryUsed(ctx, sn.conn)
		return err
	})
	st.Tail = s.Tail()
	s.mu.Lock()
	st.Merges = s.merging
	s.mu.Unlock()
	s.moments.mu.Lock()
	st.Moments = len(s.moments.byN)
	s.moments.mu.Unlock()
	return st, err
}
