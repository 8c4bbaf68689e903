package serving

import (
	"context"

	"duet/schemas/duetv1"
)

// ListViews implements ViewService.
func (a *api) ListViews(ctx context.Context, _ *duetv1.ListViewsRequest) (*duetv1.ListViewsResponse, error) {
	views, err := a.platform.Load().engine.List(ctx)
	return &duetv1.ListViewsResponse{Views: views}, err
}

// GetView implements ViewService.
func (a *api) GetView(ctx context.Context, req *duetv1.GetViewRequest) (*duetv1.GetViewResponse, error) {
	return a.platform.Load().engine.Describe(ctx, req.GetView())
}

// Query implements ViewService.
func (a *api) Query(ctx context.Context, req *duetv1.QueryRequest) (*duetv1.QueryResponse, error) {
	out, err := a.platform.Load().engine.Query(ctx, req)
	if err != nil {
		return nil, err
	}
	if note := changedSentence(a.changed.list()); note != "" {
		out.Notes = append(out.Notes, note)
	}
	return out, nil
}

// Verify implements ViewService.
func (a *api) Verify(ctx context.Context, req *duetv1.VerifyRequest) (*duetv1.VerifyResponse, error) {
	return a.platform.Load().engine.Verify(ctx, req)
}
