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
	out := []*duetv1.View{}
	err := e.read(ctx, Token{}, func(s *store.Snapshot) error {
		for _, name := range e.Names() {
			out = append(out, describe(s, e.views[name]))
		}
		return nil
	})
	if err != nil {
		return nil, e.ended(ctx, err)
	}
	return out, nil
}

// Describe describes one view; the proof is nil if the view cannot answer.
func (e *Engine) Describe(ctx context.Context, name string) (*duetv1.View, *duetv1.Proof, error) {
	v, err := e.view(name)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := e.deadline(ctx)
	defer cancel()
	var out *duetv1.View
	var proof *duetv1.Proof
	err = e.read(ctx, Token{}, func(s *store.Snapshot) error {
		out = describe(s, v)
		if out.Problem != "" {
			return nil
		}
		src, err := e.source(ctx, s, v, 0)
		if err == nil {
			proof = src.proof
			proof.InexactColumns = inexact(v.Compiled.Columns)
		}
		return err
	})
	if err != nil {
		return nil, nil, e.ended(ctx, err)
	}
	return out, proof, nil
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
