package serving

import (
	"context"
	"fmt"
	"regexp"
	"sync/atomic"
	"unicode/utf8"

	"duet/schemas/duetv1"
	"duet/schemas/project"
	"duet/serving/query"
	"duet/serving/reason"
)

// api implements every RPC once; gRPC and HTTP both call it. A method checks
// names and numbers, and hands over to a backend.
type api struct {
	cfg  Config
	gate *gate
	// backends is nil until the platform has caught up.
	backends atomic.Pointer[Backends]
	closed   atomic.Bool
}

func newAPI(cfg Config) *api { return &api{cfg: cfg, gate: newGate(cfg)} }

func (a *api) open(b Backends) { a.backends.Store(&b) }
func (a *api) close()          { a.closed.Store(true) }

// ready gives the backends, or why there are none.
func (a *api) ready() (*Backends, error) {
	if a.closed.Load() {
		return nil, reason.New(reason.Stopping, "the server is stopping; try again")
	}
	if b := a.backends.Load(); b != nil {
		return b, nil
	}
	part, what := a.cfg.Progress()
	return nil, reason.New(reason.CatchingUp, "the server is catching up (%.0f %%: %s); try again", part*100, what).
		With("progress", fmt.Sprintf("%.4f", part))
}

// Ids that a client draws, and those of runs.
var idPattern = regexp.MustCompile(`^[A-Za-z0-9._:-]{1,200}$`)

func checkID(field, id string) error {
	if id == "" || idPattern.MatchString(id) {
		return nil
	}
	return reason.Field(reason.ArgumentInvalid, field, "%q is not a name: up to 200 letters, digits and . _ : -", clip(id))
}

// checkName refuses a name that cannot be in a project, before anybody looks it up.
func checkName(field, name string) error {
	if project.ValidName(name) {
		return nil
	}
	return reason.Field(reason.ArgumentInvalid, field, "%q is not a name: names are lower-case letters, digits and _, beginning with a letter, up to 63 characters", clip(name))
}

// checkText refuses text for the record that is too long or no text.
func checkText(field, s string) error {
	if len(s) > 1000 || !utf8.ValidString(s) {
		return reason.Field(reason.ArgumentInvalid, field, "must be UTF-8, at most 1,000 bytes")
	}
	return nil
}

func clip(s string) string {
	if len(s) > 80 {
		s = s[:80] + "..."
	}
	return s
}

// ListViews: see the proto.
func (a *api) ListViews(ctx context.Context, _ *duetv1.ListViewsRequest) (*duetv1.ListViewsResponse, error) {
	b, err := a.ready()
	if err != nil {
		return nil, err
	}
	views, err := b.Engine.List(ctx)
	if err != nil {
		return nil, err
	}
	return &duetv1.ListViewsResponse{Views: views}, nil
}

// GetView: see the proto.
func (a *api) GetView(ctx context.Context, req *duetv1.GetViewRequest) (*duetv1.GetViewResponse, error) {
	b, err := a.ready()
	if err != nil {
		return nil, err
	}
	v, proof, err := b.Engine.Describe(ctx, req.GetView())
	if err != nil {
		return nil, err
	}
	return &duetv1.GetViewResponse{View: v, Proof: proof}, nil
}

// Query: see the proto.
func (a *api) Query(ctx context.Context, req *duetv1.QueryRequest) (*duetv1.QueryResponse, error) {
	b, err := a.ready()
	if err != nil {
		return nil, err
	}
	return b.Engine.Query(ctx, req)
}

// Verify: see the proto.
func (a *api) Verify(ctx context.Context, req *duetv1.VerifyRequest) (*duetv1.VerifyResponse, error) {
	b, err := a.ready()
	if err != nil {
		return nil, err
	}
	return b.Engine.Verify(ctx, req)
}

// GetAccount: see the proto.
func (a *api) GetAccount(ctx context.Context, req *duetv1.GetAccountRequest) (*duetv1.GetAccountResponse, error) {
	b, err := a.ready()
	if err != nil {
		return nil, err
	}
	if req.GetSession() == "" {
		return nil, reason.Field(reason.ArgumentInvalid, "session", "is missing: name the session that was given to Append")
	}
	if err := checkID("session", req.GetSession()); err != nil {
		return nil, err
	}
	if _, err := b.Engine.NotBefore(ctx, req.GetNotBefore()); err != nil {
		return nil, err
	}
	sum, through := b.Accounts.Session(req.GetSession())
	return &duetv1.GetAccountResponse{
		Account:     &duetv1.Account{Received: sum.Received, Accepted: sum.Accepted, Duplicate: sum.Duplicate, Rejected: sum.Rejected},
		LiveThrough: query.Positions(query.CutAt(b.Incarnation, through)),
	}, nil
}

// batch is the batch half's backend.
func (a *api) batch() (Batch, error) {
	b, err := a.ready()
	if err != nil {
		return nil, err
	}
	return b.Batch, nil
}

// StartRun: see the proto.
func (a *api) StartRun(ctx context.Context, req *duetv1.StartRunRequest) (*duetv1.StartRunResponse, error) {
	b, err := a.batch()
	if err != nil {
		return nil, err
	}
	if err := checkID("request_id", req.GetRequestId()); err != nil {
		return nil, err
	}
	return b.StartRun(ctx, req)
}

// GetRun: see the proto.
func (a *api) GetRun(ctx context.Context, req *duetv1.GetRunRequest) (*duetv1.GetRunResponse, error) {
	b, err := a.batch()
	if err != nil {
		return nil, err
	}
	if req.GetRun() == "" {
		return nil, reason.Field(reason.ArgumentInvalid, "run", "is missing: name a run that ListRuns lists")
	}
	if err := checkID("run", req.GetRun()); err != nil {
		return nil, err
	}
	return b.GetRun(ctx, req)
}

// ListRuns: see the proto.
func (a *api) ListRuns(ctx context.Context, req *duetv1.ListRunsRequest) (*duetv1.ListRunsResponse, error) {
	b, err := a.batch()
	if err != nil {
		return nil, err
	}
	if n := req.GetPageSize(); n < 0 || n > 1000 {
		return nil, reason.Field(reason.ArgumentInvalid, "page_size", "%d is not between 0 and 1,000", n)
	}
	if err := checkID("page_token", req.GetPageToken()); err != nil {
		return nil, err
	}
	return b.ListRuns(ctx, req)
}

// Rollback: see the proto.
func (a *api) Rollback(ctx context.Context, req *duetv1.RollbackRequest) (*duetv1.RollbackResponse, error) {
	b, err := a.batch()
	if err != nil {
		return nil, err
	}
	if err := checkGeneration(req.GetGeneration()); err != nil {
		return nil, err
	}
	if err := checkText("reason", req.GetReason()); err != nil {
		return nil, err
	}
	return b.Rollback(ctx, req)
}

func checkGeneration(n uint64) error {
	if n == 0 {
		return reason.Field(reason.ArgumentInvalid, "generation", "is missing: name one that ListGenerations lists")
	}
	return nil
}

// Pause: see the proto.
func (a *api) Pause(ctx context.Context, req *duetv1.PauseRequest) (*duetv1.PauseResponse, error) {
	b, err := a.batch()
	if err != nil {
		return nil, err
	}
	if err := checkText("reason", req.GetReason()); err != nil {
		return nil, err
	}
	return b.Pause(ctx, req)
}

// Resume: see the proto.
func (a *api) Resume(ctx context.Context, req *duetv1.ResumeRequest) (*duetv1.ResumeResponse, error) {
	b, err := a.batch()
	if err != nil {
		return nil, err
	}
	return b.Resume(ctx, req)
}

// Pin: see the proto.
func (a *api) Pin(ctx context.Context, req *duetv1.PinRequest) (*duetv1.PinResponse, error) {
	b, err := a.batch()
	if err != nil {
		return nil, err
	}
	if err := checkGeneration(req.GetGeneration()); err != nil {
		return nil, err
	}
	return b.Pin(ctx, req)
}

// Unpin: see the proto.
func (a *api) Unpin(ctx context.Context, req *duetv1.UnpinRequest) (*duetv1.UnpinResponse, error) {
	b, err := a.batch()
	if err != nil {
		return nil, err
	}
	if err := checkGeneration(req.GetGeneration()); err != nil {
		return nil, err
	}
	return b.Unpin(ctx, req)
}

// ListGenerations: see the proto.
func (a *api) ListGenerations(ctx context.Context, req *duetv1.ListGenerationsRequest) (*duetv1.ListGenerationsResponse, error) {
	b, err := a.batch()
	if err != nil {
		return nil, err
	}
	return b.ListGenerations(ctx, req)
}

// GetReconciliation: see the proto.
func (a *api) GetReconciliation(ctx context.Context, req *duetv1.GetReconciliationRequest) (*duetv1.GetReconciliationResponse, error) {
	b, err := a.batch()
	if err != nil {
		return nil, err
	}
	if err := checkID("run", req.GetRun()); err != nil {
		return nil, err
	}
	return b.GetReconciliation(ctx, req)
}

// GetStatus answers also before the platform has caught up.
func (a *api) GetStatus(ctx context.Context, req *duetv1.GetStatusRequest) (*duetv1.GetStatusResponse, error) {
	return a.cfg.Operator.GetStatus(ctx, req)
}

// ListRejects: see the proto.
func (a *api) ListRejects(ctx context.Context, req *duetv1.ListRejectsRequest) (*duetv1.ListRejectsResponse, error) {
	b, err := a.ready()
	if err != nil {
		return nil, err
	}
	if n := req.GetLimit(); n < 0 || n > 10_000 {
		return nil, reason.Field(reason.ArgumentInvalid, "limit", "%d is not between 0 and 10,000", n)
	}
	if req.GetStream() != "" {
		if _, err := b.stream(req.GetStream()); err != nil {
			return nil, err
		}
	}
	if err := checkID("session", req.GetSession()); err != nil {
		return nil, err
	}
	return a.cfg.Operator.ListRejects(ctx, req)
}

// Inspect answers also before the platform has caught up.
func (a *api) Inspect(ctx context.Context, req *duetv1.InspectRequest) (*duetv1.InspectResponse, error) {
	switch req.GetWhat() {
	case "log", "archive", "generation", "live":
	default:
		return nil, reason.Field(reason.ArgumentInvalid, "what", "%q cannot be inspected; there are log, archive, generation and live", clip(req.GetWhat()))
	}
	if len(req.GetArgs()) > 16 {
		return nil, reason.Field(reason.ArgumentInvalid, "args", "more than 16")
	}
	for k, v := range req.GetArgs() {
		if err := checkName("args", k); err != nil {
			return nil, err
		}
		if err := checkID("args."+k, v); err != nil {
			return nil, err
		}
	}
	return a.cfg.Operator.Inspect(ctx, req)
}

// stream finds a stream by a name that a client sent.
func (b *Backends) stream(name string) (*project.Stream, error) {
	if err := checkName("stream", name); err != nil {
		return nil, err
	}
	var names []string
	for _, s := range b.Streams {
		if s.Name == name {
			return s, nil
		}
		names = append(names, s.Name)
	}
	return nil, reason.New(reason.StreamUnknown, "stream %q: there is no such stream; there are %v", name, names)
}
