package store

import (
	"context"
	"slices"

	"duet/internal/base/duck"
)

// maxTables is the number of tables that a closed segment of a view may have
// before they are merged; each costs a reader about 0.1 ms.
const maxTables = 4

// MergeUse counts merges of partials since the store was opened.
type MergeUse struct {
	Done, Failed    int64
	RowsIn, RowsOut int64
}

// mergeJob is one view's tables of one segment, to which nothing is added any more.
type mergeJob struct {
	def     *definition
	segment int64
	tables  []string
	rowsIn  int64
}

// startMerge starts merging the partials that most outgrow their groups, if any
// do and no merge is running. New partials go to a new table meanwhile, the merge
// runs on its own connection, and its result replaces the old tables in one
// short transaction: the writer never waits for a merge.
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

// due returns the view and segment with the most rows among those due for a merge.
func (w *writer) due() (best mergeJob, ok bool) {
	l := w.m.layout
	for _, name := range viewNames(l) {
		v := l.views[name]
		for _, seg := range l.segments {
			job := mergeJob{def: v.def, segment: seg.number}
			for _, t := range v.live {
				if t.segment == seg.number {
					job.tables = append(job.tables, t.name)
					job.rowsIn += w.s.rows.of(t.name)
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
	if most := int64(w.s.cfg.MaxGroups[view]); most > 0 && groups <= most {
		limit = min(limit, max(most, groups+max(1000, groups/4)))
	}
	return job.rowsIn > limit
}

// runMerge merges and installs one job, in its own goroutine.
func (s *Store) runMerge(job mergeJob) {
	defer s.side.Done()
	table := s.liveTable(job.def.name)
	rows, err := s.mergeInto(table, job)
	installed := false
	derr := s.do(s.ctx, func(w *writer) error {
		w.merge = false
		if !w.holdsTables(job) {
			err = nil // a switch or a rebuild dropped them meanwhile
		} else if err == nil {
			installed, err = w.installMerge(job, table, rows)
		}
		s.mu.Lock()
		if err != nil {
			s.merging.Failed++
			// Do not retry at every batch: assume that the merge found that many groups.
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
		s.cfg.Log.Warn("partials were not merged; answers are correct but slower", "view", job.def.name, "error", err)
	}
	if !installed {
		s.dropUnknown(s.ctx, []string{table})
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

// holdsTables reports whether the layout still names a job's tables. They are
// only ever dropped together.
func (w *writer) holdsTables(job mergeJob) bool {
	return slices.ContainsFunc(w.m.layout.views[job.def.name].live, func(t liveTable) bool { return t.name == job.tables[0] })
}

// installMerge replaces a job's tables by the merged one. If that has more groups
// than the view may have, the view is suspended instead.
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
	if limit := int64(w.s.cfg.MaxGroups[name]); limit > 0 && rows > limit {
		return false, w.leaveOut(name, tooManyGroups(name, m.through, rows, limit))
	}
	err := w.commit(m, func(ctx context.Context) error { return w.drop(ctx, job.tables) })
	if err != nil {
		return false, err
	}
	w.s.rows.add(table, rows)
	if segment == l.openSegment().number {
		w.groups[name] = rows
	}
	return true, nil
}
