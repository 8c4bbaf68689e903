package serving

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/timestamppb"

	"duet/schemas"
	"duet/schemas/duetv1"
	"duet/schemas/duetv1/duetv1connect"
	"duet/serving/query"
	"duet/serving/query/querytest"
	"duet/speed/eventlog"
)

func TestMain(m *testing.M) {
	if os.Getenv(childRole) != "" {
		os.Exit(childMain())
	}
	goleak.VerifyTestMain(m)
}

// fake is every backend but the engine. err, if set, is what each call returns.
type fake struct {
	mu      sync.Mutex
	err     error
	panics  bool
	block   chan struct{} // if set, calls wait until it is closed
	entered chan struct{} // if set, gets one a blocked call
	taken   []eventlog.Request
	health  duetv1.Health

	duetv1connect.UnimplementedBatchServiceHandler
}

func (f *fake) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

func (f *fake) call(ctx context.Context) error {
	f.mu.Lock()
	err, panics, block, entered := f.err, f.panics, f.block, f.entered
	f.mu.Unlock()
	if panics {
		panic("a secret in a panic")
	}
	if block != nil {
		entered <- struct{}{}
		select {
		case <-block:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return err
}

// Begin gives the n-th request of the test sequence n.
func (f *fake) Begin(ctx context.Context, r eventlog.Request) (Pending, error) {
	if err := f.call(ctx); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.taken = append(f.taken, r)
	return fakePending{eventlog.Appended{At: schemas.NewPosition(1, uint64(len(f.taken))), Count: len(r.Records)}}, nil
}

func (f *fake) requests() []eventlog.Request {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.taken
}

type fakePending struct{ done eventlog.Appended }

func (p fakePending) Wait(context.Context) (eventlog.Appended, error) { return p.done, nil }

func (f *fake) Session(name string) (schemas.Account, schemas.Position) {
	return schemas.Account{Received: int64(len(name)), Accepted: int64(len(name))}, schemas.NewPosition(1, 9)
}

func (f *fake) StartRun(ctx context.Context, r *duetv1.StartRunRequest) (*duetv1.StartRunResponse, error) {
	return &duetv1.StartRunResponse{Run: &duetv1.Run{Id: "r1", Full: r.GetFull()}}, f.call(ctx)
}

func (f *fake) GetRun(ctx context.Context, r *duetv1.GetRunRequest) (*duetv1.GetRunResponse, error) {
	return &duetv1.GetRunResponse{Run: &duetv1.Run{Id: r.GetRun()}}, f.call(ctx)
}

func (f *fake) ListRuns(ctx context.Context, _ *duetv1.ListRunsRequest) (*duetv1.ListRunsResponse, error) {
	return &duetv1.ListRunsResponse{}, f.call(ctx)
}

func (f *fake) Rollback(ctx context.Context, _ *duetv1.RollbackRequest) (*duetv1.RollbackResponse, error) {
	return &duetv1.RollbackResponse{}, f.call(ctx)
}

func (f *fake) Pause(ctx context.Context, _ *duetv1.PauseRequest) (*duetv1.PauseResponse, error) {
	return &duetv1.PauseResponse{}, f.call(ctx)
}

func (f *fake) Resume(ctx context.Context, _ *duetv1.ResumeRequest) (*duetv1.ResumeResponse, error) {
	return &duetv1.ResumeResponse{}, f.call(ctx)
}

func (f *fake) Pin(ctx context.Context, _ *duetv1.PinRequest) (*duetv1.PinResponse, error) {
	return &duetv1.PinResponse{}, f.call(ctx)
}

func (f *fake) Unpin(ctx context.Context, _ *duetv1.UnpinRequest) (*duetv1.UnpinResponse, error) {
	return &duetv1.UnpinResponse{}, f.call(ctx)
}

func (f *fake) ListGenerations(ctx context.Context, _ *duetv1.ListGenerationsRequest) (*duetv1.ListGenerationsResponse, error) {
	return &duetv1.ListGenerationsResponse{}, f.call(ctx)
}

func (f *fake) GetReconciliation(ctx context.Context, _ *duetv1.GetReconciliationRequest) (*duetv1.GetReconciliationResponse, error) {
	return &duetv1.GetReconciliationResponse{Equal: true}, f.call(ctx)
}

func (f *fake) GetStatus(ctx context.Context, _ *duetv1.GetStatusRequest) (*duetv1.GetStatusResponse, error) {
	if err := f.call(ctx); err != nil {
		return nil, err
	}
	at := []*duetv1.Position{{Ordinal: 1, Sequence: 1000}}
	return &duetv1.GetStatusResponse{
		Version: "v1.2.3", Project: "shop", Health: f.health,
		Log:  &duetv1.LogStatus{UsedBytes: 3e6, LimitBytes: 8e9},
		Live: &duetv1.LiveStatus{Through: at, CaughtUp: true},
		Batch: &duetv1.BatchStatus{
			Current:     &duetv1.Generation{Number: 7, Cut: at, PublishTime: timestamppb.New(testNow.Add(-3 * time.Minute))},
			LastVerdict: "equal: 3 views, 50 groups", LastEqual: true,
		},
		Archive:               &duetv1.ArchiveStatus{Files: 2, Bytes: 4096, LagMessages: 12},
		Streams:               []*duetv1.StreamStatus{{Name: "orders", Account: &duetv1.Account{Received: 1_234_567, Accepted: 1_234_500, Duplicate: 60, Rejected: 7}}},
		Views:                 []*duetv1.ViewStatus{{Name: "sales", PartialRows: 50}},
		StoreMemoryBytes:      64e6,
		StoreMemoryLimitBytes: 4e9,
	}, nil
}

func (f *fake) ListRejects(ctx context.Context, _ *duetv1.ListRejectsRequest) (*duetv1.ListRejectsResponse, error) {
	return &duetv1.ListRejectsResponse{}, f.call(ctx)
}

func (f *fake) Inspect(ctx context.Context, _ *duetv1.InspectRequest) (*duetv1.InspectResponse, error) {
	return &duetv1.InspectResponse{}, f.call(ctx)
}

var testNow = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// rig is a running server with clients for both ports.
type rig struct {
	*Server
	fake    *fake
	fixture *querytest.Fixture
	engine  *query.Engine
	conn    *grpc.ClientConn
	client  *http.Client
}

// start runs a server over fakes; it is not open yet. change may adjust its config.
func start(t *testing.T, change func(*Config)) *rig {
	t.Helper()
	f := &fake{health: duetv1.Health_HEALTH_OK}
	cfg := Config{
		GRPC: "127.0.0.1:0", HTTP: "127.0.0.1:0", Project: "shop", Operator: f,
		Progress: func() (float64, string) { return 0.25, "reading the log" },
		Log:      slog.New(slog.NewTextHandler(io.Discard, nil)), Now: func() time.Time { return testNow },
	}
	if change != nil {
		change(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s.http.ReadHeaderTimeout = time.Second
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(s.GRPCAddr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	r := &rig{Server: s, fake: f, fixture: querytest.New(t), conn: conn, client: &http.Client{Transport: transport}}
	r.engine = r.fixture.Engine(nil)
	t.Cleanup(func() {
		conn.Close()
		transport.CloseIdleConnections()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := s.Stop(ctx); err != nil {
			t.Error(err)
		}
		if err := s.Stop(ctx); err != nil {
			t.Errorf("a second Stop: %v", err)
		}
	})
	return r
}

// opened is start, open for calls.
func opened(t *testing.T, change func(*Config)) *rig {
	t.Helper()
	r := start(t, change)
	r.Open(Backends{Engine: r.engine, Door: r.fake, Accounts: r.fake, Batch: r.fake, Streams: r.fixture.Project.Streams, Incarnation: querytest.Incarnation})
	return r
}

func (r *rig) url(path string) string { return fmt.Sprintf("http://%s%s", r.HTTPAddr(), path) }
