package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"duet/batch"
	"duet/batch/archive"
	"duet/batch/catalog"
	"duet/batch/recompute"
	"duet/internal/base/duck"
	"duet/schemas"
	"duet/serving/store"
	"duet/speed"
)

// tail lets the archive take closed blocks out of the store.
type tail struct{ s *store.Store }

func (t *tail) NextBlock(ctx context.Context) (archive.Block, error) {
	b, err := t.s.NextBlock(ctx)
	if err != nil {
		return archive.Block{}, err
	}
	return archive.Block{ID: b.ID, From: b.After, Through: b.Through, Accounts: b.Accounts, Lines: b.Rows[store.LinesSet], Producers: b.Producers}, nil
}

func (t *tail) ExportBlock(ctx context.Context, b archive.Block, data, path string) (int64, error) {
	return t.s.ExportBlock(ctx, b.ID, data, path)
}

func (t *tail) ReleaseBlock(ctx context.Context, id uint64) error { return t.s.ReleaseBlock(ctx, id) }

// halves is the live half as the batch half sees it: the log, the reader of
// the log, and the store that both halves meet in.
type halves struct {
	n *Node
	// rollback is the generation that a rollback will switch to; nil otherwise.
	// Calls come from one goroutine at a time.
	rollback *store.Generation
}

// Cut puts a marker in the log; its acknowledgement is the cut.
func (h *halves) Cut(ctx context.Context) (schemas.Cut, error) {
	body, err := json.Marshal(struct {
		Format int `json:"format"`
	}{1})
	if err != nil {
		return nil, err
	}
	at, err := h.n.lane.log.Control(ctx, speed.CutKind, body)
	if err != nil {
		return nil, fmt.Errorf("put a cut marker in the log: %w", err)
	}
	return schemas.NewCut(h.n.lane.log.Incarnation(), at), nil
}

func (h *halves) Wait(ctx context.Context, at schemas.Position) error {
	return h.n.lane.live.Wait(ctx, at)
}

// Export writes what the live half has of a view after the served cut.
func (h *halves) Export(ctx context.Context, name string, through schemas.Position, path string) (int64, error) {
	rows, err := h.n.store.ExportLive(ctx, name, through, path)
	if why := cannotAnswer(err); why != "" {
		return 0, &batch.NotComparableError{View: name, Reason: why}
	}
	if duck.Evaluates(err) {
		// Each cell can be computed, all of them cannot be merged: a sum has become
		// too large. Where the batch half finds the same, it suspends the view.
		return 0, &batch.NotComparableError{View: name, Reason: "suspended"}
	}
	return rows, err
}

// cannotAnswer says why a view has no live cells to compare with; "" if it has,
// or if the error is another one.
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

func (h *halves) Stage(ctx context.Context, g *catalog.Generation, files map[string]string) ([]recompute.Suspension, error) {
	h.rollback = nil
	return nil, h.n.store.Stage(ctx, staged(g, files))
}

// Rebuild remembers the generation; the live state after its cut is computed in
// shadow, and switched to, by Switch.
func (h *halves) Rebuild(ctx context.Context, g *catalog.Generation, files map[string]string) ([]recompute.Suspension, error) {
	s := staged(g, files)
	if err := h.n.store.Stage(ctx, s); err != nil { // does it fit?
		return nil, err
	}
	if err := h.n.store.Unstage(ctx, g.Number); err != nil {
		return nil, err
	}
	h.rollback = &s
	return nil, nil
}

func (h *halves) Switch(ctx context.Context, g *catalog.Generation) error {
	began := time.Now()
	defer func() { h.n.metrics.Switched(time.Since(began)) }()
	if h.rollback == nil || h.rollback.Number != g.Number {
		return h.n.store.Switch(ctx, g.Number)
	}
	for {
		err := h.rebuild(ctx, g.Cut.Position())
		// Ingest goes on: rows may have gone from memory to the archive since its
		// files were listed. What was verified then is not read again.
		if errors.Is(err, store.ErrArchiveMoved) || errors.Is(err, archive.ErrRepaired) {
			continue
		}
		h.rollback = nil
		return err
	}
}

// rebuild makes the live state behind the rollback's cut, and switches to it.
func (h *halves) rebuild(ctx context.Context, cut schemas.Position) error {
	snap := h.n.lane.archive.Snapshot()
	defer snap.Release()
	rows, err := h.n.archived(ctx, snap, cut)
	if err != nil {
		return err
	}
	return h.n.store.Rebuild(ctx, *h.rollback, rows)
}

func (h *halves) Discard(ctx context.Context) {
	h.rollback = nil
	if g := h.n.catalog.Current(); g != nil {
		_ = h.n.store.Unstage(ctx, g.Number+1) // what stays is replaced by the next Stage
	} else {
		_ = h.n.store.Unstage(ctx, 1)
	}
}

// staged is a generation as the store takes it, with its cells at paths.
func staged(g *catalog.Generation, files map[string]string) store.Generation {
	out := store.Generation{Number: g.Number, Cut: g.Cut.Position(), Views: map[string]store.GenerationView{}}
	for _, v := range g.Views {
		gv := store.GenerationView{Definition: v.Definition, File: files[v.Name]}
		if v.Suspended != nil {
			gv.File = ""
			gv.Suspended = &store.Suspension{View: v.Name, At: v.Suspended.At, Record: v.Suspended.Record, Message: v.Suspended.Message, Remedy: v.Suspended.Remedy}
		}
		out.Views[v.Name] = gv
	}
	return out
}

// generation is what the store takes of a published one; nil means none.
func (n *Node) generation(g *catalog.Generation) store.Generation {
	if g == nil {
		return store.Generation{}
	}
	files := map[string]string{}
	for _, v := range g.Views {
		if v.File != "" {
			files[v.Name] = n.catalog.Path(v)
		}
	}
	return staged(g, files)
}

// suspended tells of a view that raised.
func (n *Node) suspended(s store.Suspension) {
	n.logger.Error("a view is suspended", "view", s.View, "position", s.At, "record", s.Record, "event", s.Event, "error", s.Message, "remedy", s.Remedy)
}

// newRunner makes the batch half, not started.
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
		Dir: n.data.path, Archive: n.lane.archive, Catalog: n.catalog, Archiver: n.lane.archiver, Live: &halves{n: n},
		Views: n.recomputed, Child: n.cfg.Child, Incremental: incremental, Full: full,
		Threads: n.project.Limits.BatchThreads, Memory: n.project.Limits.BatchMemory,
		Fatal: n.fail,
		Hooks: batch.Hooks{
			RunChanged: n.runChanged,
			Skipped: func(kind batch.Kind, behind batch.Run) {
				n.logger.Info("a scheduled run is skipped: one is going on", "kind", kind, "running", behind.ID)
			},
			Published: func(g *catalog.Generation) {
				n.logger.Info("generation serves", "generation", g.Number, "kind", g.Kind, "cut", g.Cut.Position(), "run", g.Run)
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

// recomputed are the views as the batch half computes them.
func (n *Node) recomputed() []recompute.View {
	var out []recompute.View
	for _, v := range append(slices.Clone(n.views), n.totals...) {
		r, err := recompute.FromView(v)
		if err != nil {
			panic("a compiled view has no SQL: " + err.Error()) // without options there is nothing to refuse
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
