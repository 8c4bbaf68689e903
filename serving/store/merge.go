package store

import (
	"context"
	"slices"

	"duet/internal/base/duck"
)

// maxTables is how many tables a closed segment of a view keeps before they
// are merged: each one costs a reader about 0.1 ms.
const maxTables = 4

// MergeUse counts merges of partials since the store was opened.
type MergeUse struct {
	Done, Failed    int64
	RowsIn, RowsOut int64
}

// A mergeJob is one view's tables of one segment, which nothing is added to.
type mergeJob struct {
	def     *definition
	segment int64
	tables  []string
	rowsIn  int64
}

// startMerge begins to merge the partials that most outgrow their groups, if
// any do and no merge is under way. The current table of the view is set aside,
// the merge runs on a connection of its own, and its result takes the place of
// the old tables in one short transaction: the writer never waits for it.
func (w *writer) startMerge() {
	if w.merge {
		return
	}
	job, ok := w.due()
	if !ok {
		return
	}
	if slices.Contains(job.tables, w.current[job.def.name]) {
		delete(w.current, job.def.name)
	}
	w.merge = true
	w.s.side.Add(1)
	go w.s.runMerge(job)
}

// due finds the view and segment with the most rows that a merge would save.
func (w *writer) due() (best mergeJob, ok bool) {
	l := w.m.layout
	for _, name := range viewNames(l) {
		v := l.views[name]
		for _, seg := range l.segments {
			job := mergeJob{def: v.def, segment: seg.number}
			for _, t := range v.live {
				if t.segment == seg.number {
					job.tables = append(job.tables, t.name)
					job.rowsIn += w.rows[t.name]
				}
			}
			open := seg.number == l.openSegment().number
			if w.outgrown(name, job, open) && job.rowsIn >= best.rowsIn {
				best, ok = job, true
			}
		}
	}
	return best, ok
}

func (w *writer) outgrown(view string, job mergeJob, open bool) bool {
	if !open && len(job.tables) > maxTables {
		return true
	}
	if len(job.tables) == 0 || !open {
		return false
	}
	groups := w.groups[view]
	limit := 4*groups + w.s.cfg.MergeSlack
	if most := w.s.cfg.maxGroups(view); most > 0 && groups <= most {
		limit = min(limit, max(most, groups+max(1000, groups/4)))
	}
	return job.rowsIn > limit
}

// runMerge is a merge's goroutine.
func (s *Store) runMerge(job mergeJob) {
	defer s.side.Done()
	table := s.liveTable(job.def.name)
	rows, err := s.mergeInto(table, job)
	installed := false
	derr := s.do(s.ctx, func(w *writer) error {
		w.merge = false
		if !w.holdsTables(job) {
			err = nil // a switch or a rebuild has dropped them meanwhile
		} else if err == nil {
			installed, err = w.installMerge(job, table, rows)
		}
		s.mu.Lock()
		if err != nil {
			s.merging.Failed++
			// Not at every batch again: as if the merge had found that many groups.
			w.groups[job.def.name] = max(w.groups[job.def.name], job.rowsIn/2)
		} else if installed {
			s.merging.Done++
			s.merging.RowsIn += job.rowsIn
			s.merging.RowsOut += rows
		}
		s.mu.Unlock()
		if err == nil {
			w.startMerge()
		}
		return nil
	})
	if derr != nil {
		return // closing
	}
	if err != nil {
		s.cfg.Log.Warn("partials were not merged; answers are right but slower", "view", job.def.name, "error", err)
	}
	if !installed {
		_ = s.dropUnknown(s.ctx, []string{table})
	}
}

func (s *Store) mergeInto(table string, job mergeJob) (int64, error) {
	conn, err := s.db.Conn(s.ctx)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if _, err := conn.ExecContext(s.ctx, "CREATE TABLE "+duck.Ident(table)+" ("+job.def.cells+")"); err != nil {
		return 0, resource("merge view "+job.def.name, err)
	}
	res, err := conn.ExecContext(s.ctx, "INSERT INTO "+duck.Ident(table)+" "+job.def.merge(union(job.tables, "")))
	if err != nil {
		return 0, resource("merge view "+job.def.name, err)
	}
	return res.RowsAffected()
}

// holdsTables reports whether the layout still names a job's tables; they go together.
func (w *writer) holdsTables(job mergeJob) bool {
	return slices.ContainsFunc(w.m.layout.views[job.def.name].live, func(t liveTable) bool { return t.name == job.tables[0] })
}

// installMerge puts the merged table in the place of the old ones.
func (w *writer) installMerge(job mergeJob, table string, rows int64) (bool, error) {
	name := job.def.name
	m := w.next()
	v := m.layout.views[name]
	i := slices.IndexFunc(v.live, func(t liveTable) bool { return t.name == job.tables[0] })
	// Segments may have been joined since.
	segment := v.live[i].segment
	l := w.relayout(m)
	v.live = slices.DeleteFunc(slices.Clone(v.live), func(t liveTable) bool { return slices.Contains(job.tables, t.name) })
	v.live = slices.Insert(v.live, min(i, len(v.live)), liveTable{table, segment})
	l.views[name] = v
	failed := map[string]*Suspension{}
	if limit := w.s.cfg.maxGroups(name); limit > 0 && rows > limit && v.suspended == nil {
		failed[name] = groupsSuspension(name, m.through, rows, limit)
		w.suspend(m, failed)
	}
	err := w.commit(m, func(ctx context.Context) error { return w.drop(ctx, job.tables) })
	if err != nil {
		return false, err
	}
	w.rows[table] = rows
	if segment == l.openSegment().number {
		w.groups[name] = rows
	}
	w.announce(failed)
	return true, nil
}
