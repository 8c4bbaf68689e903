package query

import (
	"context"

	"duet/schemas/duetv1"
	"duet/serving/store"
)

// List describes every view, ordered by name, including those that cannot answer.
func (e *Engine) List(ctx context.Context) ([]*duetv1.View, error) {
	ctx, cancel := e.deadline(ctx)
	defer cancel()
	return read(ctx, e, Token{}, func(s *store.Snapshot) ([]*duetv1.View, error) {
		out := []*duetv1.View{}
		for _, name := range e.Names() {
			out = append(out, describe(s, e.views[name]))
		}
		return out, nil
	})
}

// Describe describes one view; the proof is nil if the view cannot answer.
func (e *Engine) Describe(ctx context.Context, name string) (*duetv1.GetViewResponse, error) {
	v, err := e.view(name)
	if err != nil {
		return nil, err
	}
	ctx, cancel := e.deadline(ctx)
	defer cancel()
	return read(ctx, e, Token{}, func(s *store.Snapshot) (*duetv1.GetViewResponse, error) {
		out := &duetv1.GetViewResponse{View: describe(s, v)}
		if out.View.Problem != "" {
			return out, nil
		}
		src, err := e.source(ctx, s, v, 0)
		if err != nil {
			return nil, err
		}
		out.Proof = src.proof
		out.Proof.InexactColumns = inexact(v.Compiled.Columns)
		return out, nil
	})
}

func describe(s *store.Snapshot, v View) *duetv1.View {
	out := &duetv1.View{
		Name:        v.Compiled.Name,
		Stream:      v.Compiled.Stream,
		Columns:     columns(v.Project, v.Compiled.Columns),
		Sql:         v.Project.SQL,
		Definition:  v.Compiled.Definition,
		Description: v.Project.Description,
	}
	if _, err := s.Partials(v.Compiled.Name); err != nil {
		out.Problem = err.Error()
	}
	return out
}
