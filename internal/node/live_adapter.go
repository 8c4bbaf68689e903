package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"duet/batch"
	"duet/batch/catalog"
	"duet/batch/recompute"
	"duet/internal/base/duck"
	"duet/schemas"
	"duet/serving/store"
	"duet/speed"
)

// liveAdapter is the live half as the batch half sees it: the log, the reader of
// the log, and the store that both halves meet in.
type liveAdapter struct{ n *Node }

// Cut appends a cut marker to the log; its position is the cut.
func (h *liveAdapter) Cut(ctx context.Context) (schemas.Cut, error) {
	body, err := json.Marshal(struct {
		Format int `json:"format"`
	}{1})
	if err != nil {
		return nil, err
	}
	at, err := h.n.lane.log.Control(ctx, speed.CutKind, body)
	if err != nil {
		return nil, fmt.Errorf("append a cut marker to the log: %w", err)
	}
	return schemas.NewCut(h.n.lane.log.Incarnation(), at), nil
}

func (h *liveAdapter) Last() schemas.Position { return h.n.lane.log.Last() }

func (h *liveAdapter) Wait(ctx context.Context, at schemas.Position) error {
	return h.n.lane.live.Wait(ctx, at)
}

// Export writes the live half's cells of a view after the served cut.
func (h *liveAdapter) Export(ctx context.Context, name string, through schemas.Position, path string) (int64, error) {
	rows, err := h.n.store.ExportLive(ctx, name, through, path)
	if why := cannotAnswer(err); why != "" {
		return 0, &batch.NotComparableError{View: name, Reason: why}
	}
	if duck.Evaluates(err) {
		// Each partial can be computed but not their merge: a sum is too large. The
		// batch half suspends the view if it finds the same.
		return 0, &batch.NotComparableError{View: name, Reason: "suspended"}
	}
	if duck.OutOfMemory(err) {
		return 0, &batch.NotComparableError{View: name, Reason: "its live cells do not fit in memory"}
	}
	return rows, err
}

// cannotAnswer returns why a view has no live cells to compare with; "" if err is
// not about that.
func cannotAnswer(err error) string {
	var suspended *store.SuspendedError
	var rebuilding *store.RebuildingError
	switch {
	case errors.As(err, &suspended):
		return "suspended"
	case errors.As(err, &rebuilding):
		return "definition"
	}
	return ""
}

func (h *liveAdapter) Stage(ctx context.Context, g *catalog.Generation, files map[string]string) ([]recompute.Suspension, error) {
	return h.n.store.Stage(ctx, g, files)
}

func (h *liveAdapter) Rebuild(ctx context.Context, g *catalog.Generation, files map[string]string) ([]recompute.Suspension, error) {
	rows := archivedRows{n: h.n}
	defer rows.release()
	return h.n.store.Rebuild(ctx, g, files, rows.list)
}

func (h *liveAdapter) Switch(ctx context.Context, g *catalog.Generation) error {
	began := time.Now()
	defer func() { h.n.metrics.Switched(time.Since(began)) }()
	return h.n.store.Switch(ctx, g)
}

func (h *liveAdapter) Discard(ctx context.Context) { h.n.store.Discard(ctx) }

// cellFiles returns the paths of a published generation's cells, by view; nil
// for none.
func (n *Node) cellFiles(g *catalog.Generation) map[string]string {
	if g == nil {
		return nil
	}
	files := map[string]string{}
	for _, v := range g.Views {
		if v.File != "" {
			files[v.Name] = n.catalog.Path(v)
		}
	}
	return files
}

// suspended logs a suspended view.
func (n *Node) suspended(s recompute.Suspension) {
	n.logger.Error("a view is suspended", "view", s.View, "position", s.At, "record", s.Record, "event", s.Event, "error", s.Message, "remedy", s.Remedy)
}

// newRunner returns the batch half, not started.
func (n *Node) newRunner() (*batch.Runner, error) {
	incremental, err := batch.ParseSchedule(n.project.Batch.Incremental)
	if err != nil {
		return nil, fmt.Errorf("batch.incremental: %w", err)
	}
	full, err := batch.ParseSchedule(n.project.Batch.Full)
	if err != nil {
		return nil, fmt.Errorf("batch.full: %w", err)
	}
	return batch.NewRunner(batch.Config{
		Dir: n.data.path, Archive: n.lane.archive, Catalog: n.catalog, Archiver: n.lane.archiver, Live: &liveAdapter{n: n},
		Views: n.recomputed, Child: n.cfg.Child, Incremental: incremental, Full: full,
		Threads: n.project.Limits.BatchThreads, Memory: n.project.Limits.BatchMemory,
		Fatal: n.fail,
		Hooks: batch.Hooks{
			RunChanged: n.runChanged,
			Skipped: func(kind batch.Kind, behind batch.Run) {
				n.logger.Info("a scheduled run is skipped: another is running", "kind", kind, "running", behind.ID)
			},
			Published: func(g *catalog.Generation) {
				n.logger.Info("a generation is served", "generation", g.Number, "kind", g.Kind, "cut", g.Cut.Position(), "run", g.Run)
			},
			Alarm: func(a batch.Alarm) { n.logger.Error("alarm", "kind", a.Kind, "run", a.Run, "text", a.Text) },
		},
	})
}

func (n *Node) runChanged(r batch.Run) {
	if !r.State.Final() {
		return
	}
	var different uint64
	if rep, err := n.runner.Report(r.ID); err == nil {
		for _, v := range rep.Views {
			different += uint64(v.Different)
		}
	}
	n.metrics.RunEnded(r.Kind == batch.Full, string(r.State), r.Finished.Sub(r.Started), different)
}

// recomputed returns the views as the batch half computes them.
func (n *Node) recomputed() []recompute.View {
	var out []recompute.View
	for _, v := range n.views {
		r, err := recompute.FromView(v)
		if err != nil {
			panic("a compiled view has no SQL: " + err.Error()) // without options nothing is refused
		}
		out = append(out, r)
	}
	return out
}

func (n *Node) generationNumber() uint64 {
	if g := n.catalog.Current(); g != nil {
		return g.Number
	}
	return 0
}
