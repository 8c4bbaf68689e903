package batch

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"duet/batch/recompute"
	"duet/internal/base/durable"
)

// historyLimit is how many runs, with their reports, are kept.
const historyLimit = 1000

// history keeps runs, reports and the schedule's state as sealed files. The
// runner's mutex guards it, but for report, which only reads a file.
type history struct {
	dir   string
	files *durable.Files
	runs  map[string]*Run
	order []string // ids, oldest first
}

// scheduleState is what schedule.json holds.
type scheduleState struct {
	Paused bool      `json:"paused"`
	Reason string    `json:"reason,omitempty"`
	Since  time.Time `json:"since,omitzero"` // paused since
	// Last is the last tick handled, by kind: ticks after it and before now were
	// missed.
	Last map[Kind]time.Time `json:"last"`
}

// openHistory reads the kept runs and the schedule's state. Runs that were going
// on end as failed with their process. Damaged records are returned and left out:
// history is for people, so damage to it does not prevent a start.
func openHistory(files *durable.Files, dir string, now time.Time) (*history, scheduleState, []error, error) {
	h := &history{dir: dir, files: files, runs: map[string]*Run{}}
	state := scheduleState{Last: map[Kind]time.Time{}}
	for _, sub := range []string{"runs", "reports"} {
		if err := files.MkdirAll(filepath.Join(dir, sub)); err != nil {
			return nil, state, nil, err
		}
		if err := files.RemoveTemps(filepath.Join(dir, sub), ""); err != nil {
			return nil, state, nil, err
		}
	}
	if err := files.RemoveTemps(dir, filepath.Base(h.schedulePath())); err != nil {
		return nil, state, nil, err
	}
	if err := files.RemoveAll(h.tmpDir()); err != nil {
		return nil, state, nil, err
	}
	if err := files.MkdirAll(h.tmpDir()); err != nil {
		return nil, state, nil, err
	}
	entries, err := os.ReadDir(filepath.Join(dir, "runs"))
	if err != nil {
		return nil, state, nil, err
	}
	var damaged []error
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok {
			continue
		}
		run := new(Run)
		if err := durable.ReadSealed(h.runPath(id), run); err != nil {
			damaged = append(damaged, err)
			continue
		}
		h.runs[id] = run
		h.order = append(h.order, id)
	}
	slices.SortFunc(h.order, func(a, b string) int {
		return cmp.Or(h.runs[a].Queued.Compare(h.runs[b].Queued), cmp.Compare(a, b))
	})
	for _, run := range h.runs {
		if !run.State.Final() {
			run.State, run.Finished = Failed, now
			run.Reason = "the process ended while the run was " + string(cmp.Or(run.Step, "queued"))
			if err := h.save(run); err != nil {
				return nil, state, nil, err
			}
		}
	}
	err = durable.ReadSealed(h.schedulePath(), &state)
	if err != nil && !missing(h.schedulePath()) {
		return nil, state, nil, err
	}
	if state.Last == nil {
		state.Last = map[Kind]time.Time{}
	}
	return h, state, damaged, nil
}

func missing(path string) bool {
	_, err := os.Stat(path)
	return errors.Is(err, fs.ErrNotExist)
}

func (h *history) tmpDir() string           { return filepath.Join(h.dir, "tmp-runs") }
func (h *history) runPath(id string) string { return filepath.Join(h.dir, "runs", id+".json") }
func (h *history) schedulePath() string     { return filepath.Join(h.dir, "schedule.json") }
func (h *history) reportPath(id string) string {
	return filepath.Join(h.dir, "reports", id+".json")
}

// add saves a new run.
func (h *history) add(run *Run) error {
	if err := h.save(run); err != nil {
		return err
	}
	h.runs[run.ID] = run
	h.order = append(h.order, run.ID)
	return nil
}

// save writes a run's record.
func (h *history) save(run *Run) error {
	data, err := durable.Seal(run)
	if err != nil {
		return err
	}
	return h.files.WriteFile(h.runPath(run.ID), data)
}

// saveReport writes a run's report.
func (h *history) saveReport(r *recompute.Report) error {
	data, err := durable.Seal(r)
	if err != nil {
		return err
	}
	return h.files.WriteFile(h.reportPath(r.Run), data)
}

// report reads a run's report.
func (h *history) report(id string) (*recompute.Report, error) {
	r := new(recompute.Report)
	return r, durable.ReadSealed(h.reportPath(id), r)
}

// saveSchedule writes the schedule's state.
func (h *history) saveSchedule(s scheduleState) error {
	data, err := durable.Seal(s)
	if err != nil {
		return err
	}
	return h.files.WriteFile(h.schedulePath(), data)
}

// byRequest returns the run with a request id; nil if there is none.
func (h *history) byRequest(id string) *Run {
	for _, run := range h.runs {
		if id != "" && run.RequestID == id {
			return run
		}
	}
	return nil
}

// dropUnchanged deletes all but the newest of consecutive unchanged runs by the
// schedule, so that an idle schedule does not push other runs out of the history.
func (h *history) dropUnchanged() error {
	idle := func(i int) bool {
		if i < 0 {
			return false
		}
		run := h.runs[h.order[i]]
		return run.State == Unchanged && run.Trigger != Manual
	}
	last := len(h.order) - 1
	if !idle(last) || !idle(last-1) {
		return nil
	}
	id := h.order[last-1]
	h.order = slices.Delete(h.order, last-1, last)
	delete(h.runs, id)
	return h.files.Remove(h.runPath(id))
}

// prune deletes the oldest runs beyond the limit, with their reports.
func (h *history) prune() error {
	var paths []string
	for len(h.order) > historyLimit && h.runs[h.order[0]].State.Final() {
		id := h.order[0]
		h.order = h.order[1:]
		delete(h.runs, id)
		paths = append(paths, h.runPath(id), h.reportPath(id))
	}
	if len(paths) == 0 {
		return nil
	}
	return h.files.Remove(paths...)
}
