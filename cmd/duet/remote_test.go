package main

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"duet/schemas/duetv1"
)

// answers is a fake gRPC server with fixed answers. It tests what a command
// prints and how it exits.
type answers struct {
	duetv1.UnimplementedViewServiceServer
	duetv1.UnimplementedBatchServiceServer
	duetv1.UnimplementedOperateServiceServer
	query       func(*duetv1.QueryRequest) (*duetv1.QueryResponse, error)
	verify      *duetv1.VerifyResponse
	runs        []*duetv1.Run // GetRun's answers, in order; the last one repeats
	report      *duetv1.GetReconciliationResponse
	generations *duetv1.ListGenerationsResponse
	reconcile   func(*duetv1.GetReconciliationRequest) (*duetv1.GetReconciliationResponse, error)
	status      *duetv1.GetStatusResponse

	mu       sync.Mutex
	requests []proto.Message // of unary calls, in order
}

func (a *answers) Query(_ context.Context, r *duetv1.QueryRequest) (*duetv1.QueryResponse, error) {
	return a.query(r)
}

func (a *answers) Verify(context.Context, *duetv1.VerifyRequest) (*duetv1.VerifyResponse, error) {
	return a.verify, nil
}

func (a *answers) StartRun(context.Context, *duetv1.StartRunRequest) (*duetv1.StartRunResponse, error) {
	return &duetv1.StartRunResponse{Run: &duetv1.Run{Id: "r1", State: duetv1.RunState_RUN_STATE_QUEUED}}, nil
}

func (a *answers) GetRun(context.Context, *duetv1.GetRunRequest) (*duetv1.GetRunResponse, error) {
	run := a.runs[0]
	if len(a.runs) > 1 {
		a.runs = a.runs[1:]
	}
	return &duetv1.GetRunResponse{Run: run}, nil
}

func (a *answers) ListGenerations(context.Context, *duetv1.ListGenerationsRequest) (*duetv1.ListGenerationsResponse, error) {
	return a.generations, nil
}

func (a *answers) ListRuns(context.Context, *duetv1.ListRunsRequest) (*duetv1.ListRunsResponse, error) {
	return &duetv1.ListRunsResponse{Runs: a.runs}, nil
}

func (a *answers) Rollback(context.Context, *duetv1.RollbackRequest) (*duetv1.RollbackResponse, error) {
	return &duetv1.RollbackResponse{Run: a.runs[0]}, nil
}

func (a *answers) GetReconciliation(_ context.Context, r *duetv1.GetReconciliationRequest) (*duetv1.GetReconciliationResponse, error) {
	if a.reconcile != nil {
		return a.reconcile(r)
	}
	return a.report, nil
}

func (a *answers) GetStatus(context.Context, *duetv1.GetStatusRequest) (*duetv1.GetStatusResponse, error) {
	return a.status, nil
}

func (a *answers) ListRejects(_ context.Context, r *duetv1.ListRejectsRequest) (*duetv1.ListRejectsResponse, error) {
	return &duetv1.ListRejectsResponse{Total: 7, Truncated: true, Rejects: []*duetv1.Reject{{
		Stream: "orders", Position: &duetv1.Position{Ordinal: 1, Sequence: 42, Record: 3}, Column: "price",
		Reason: `price: "one" is not a DECIMAL(18,2)`, Raw: []byte(`{"price":"one"}`), Time: timestamppb.New(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)),
	}}}, nil
}

func (a *answers) Pin(context.Context, *duetv1.PinRequest) (*duetv1.PinResponse, error) {
	return &duetv1.PinResponse{}, nil
}

// ask runs a command line against the fake server and returns its exit code and
// output.
func (a *answers) ask(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.UnaryInterceptor(func(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
		a.mu.Lock()
		a.requests = append(a.requests, request.(proto.Message))
		a.mu.Unlock()
		return handle(ctx, request)
	}))
	duetv1.RegisterViewServiceServer(server, a)
	duetv1.RegisterBatchServiceServer(server, a)
	duetv1.RegisterOperateServiceServer(server, a)
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(listener) }()
	defer func() { server.Stop(); <-served }()
	var out, errs strings.Builder
	code = run(t.Context(), append([]string{"--addr", listener.Addr().String()}, args...), &terminal{in: strings.NewReader(""), out: &out, err: &errs})
	return code, out.String(), errs.String()
}

func at(sequence uint64) []*duetv1.Position {
	return []*duetv1.Position{{Ordinal: 1, Sequence: sequence}}
}

var sampleProof = &duetv1.Proof{
	Generation: 3, Cut: at(100), LiveThrough: at(120), Definition: "0123456789abcdef0123",
	NewestEventTime: timestamppb.New(time.Date(2026, 11, 21, 14, 0, 0, 0, time.UTC)), InexactColumns: []string{"share"},
}

func TestQueryShowsTheAnswerAndItsProof(t *testing.T) {
	var got *duetv1.QueryRequest
	a := &answers{query: func(r *duetv1.QueryRequest) (*duetv1.QueryResponse, error) {
		got = r
		return &duetv1.QueryResponse{Columns: sampleColumns, Rows: sampleRows, Proof: sampleProof, Truncated: true}, nil
	}}
	code, out, errs := a.ask(t, "query", "revenue", "--by", "country,hour", "--where", "country <> 'x'", "--order-by", "revenue", "--desc",
		"--since", "2026-01-01", "--until", "2026-02-01 00:00:00", "--limit", "2", "--as-of", "3", "--output", "csv")
	if code != 0 {
		t.Fatalf("code %d: %s", code, errs)
	}
	if strings.Join(got.GetGroupBy(), " ") != "country hour" || got.GetOrderBy()[0] != "revenue desc" || got.GetLimit() != 2 || got.GetAsOfGeneration() != 3 ||
		got.GetSince() != "2026-01-01" || got.GetUntil() != "2026-02-01 00:00:00" {
		t.Errorf("asked for %v", got)
	}
	if !strings.HasPrefix(out, "country,revenue,share,hour\n") || strings.Contains(out, "generation") {
		t.Errorf("stdout: %s", out)
	}
	const want = "2 rows (--limit 2; there are more); generation 3 to 1:100, live through 1:120; newest event 2026-11-21 14:00:00; definition 0123456789ab; inexact: share\n"
	if errs != want {
		t.Errorf("stderr: %s\nwant:   %s", errs, want)
	}
}

func TestErrorsOfTheServerHaveExitCodes(t *testing.T) {
	reasoned := func(code codes.Code, reason string) error {
		st, err := status.New(code, "views are catching up: 40 %").WithDetails(&errdetails.ErrorInfo{Domain: "duet", Reason: reason})
		if err != nil {
			t.Fatal(err)
		}
		return st.Err()
	}
	for _, c := range []struct {
		err  error
		code int
		want string
	}{
		{status.Error(codes.NotFound, "there is no view revenu"), exitUsage, "duet: there is no view revenu\n"},
		{status.Error(codes.InvalidArgument, "where: no column x"), exitUsage, "duet: where: no column x\n"},
		{status.Error(codes.FailedPrecondition, "view revenue is suspended"), exitNo, "duet: view revenue is suspended\n"},
		{status.Error(codes.DataLoss, "generation 3 is damaged"), exitNo, "duet: generation 3 is damaged\n"},
		{reasoned(codes.Unavailable, "CATCHING_UP"), exitUnreachable, "duet: views are catching up: 40 %\n"},
		{status.Error(codes.Unimplemented, "unknown service"), exitUnreachable, "it is not a Duet server, or an older one"},
	} {
		a := &answers{query: func(*duetv1.QueryRequest) (*duetv1.QueryResponse, error) { return nil, c.err }}
		code, out, errs := a.ask(t, "query", "revenue")
		if code != c.code || !strings.Contains(errs, c.want) || out != "" {
			t.Errorf("%v: code %d, want %d; stderr %q, want %q", c.err, code, c.code, errs, c.want)
		}
	}
}

func TestVerifyAnswersYesOrNo(t *testing.T) {
	equal := &duetv1.VerifyResponse{Equal: true, Groups: 38, ArchivedEvents: 541_900, TailEvents: 9, Elapsed: durationpb.New(120 * time.Millisecond), Proof: sampleProof}
	code, out, _ := (&answers{verify: equal}).ask(t, "verify", "revenue")
	if want := "equal: 38 groups, recomputed by plain DuckDB from 541,900 archived events and 9 events of the tail in 120ms\n"; code != 0 || out != want {
		t.Errorf("code %d, %q, want %q", code, out, want)
	}
	differs := &duetv1.VerifyResponse{Groups: 38, GroupsDifferent: 1, Columns: sampleColumns, Differences: []*duetv1.VerifyDifference{{Merged: sampleRows[1]}}}
	code, out, errs := (&answers{verify: differs}).ask(t, "verify", "revenue")
	if code != exitNo || !strings.Contains(out, "NOT equal: 1 of 38 groups differ") || !strings.Contains(out, "recomputed: none") || !strings.Contains(errs, "duet inspect archive") {
		t.Errorf("code %d, %s %s", code, out, errs)
	}
	explained := &duetv1.VerifyResponse{Sql: "SELECT 1;\n", Files: []string{"/d/a.parquet"}}
	code, out, errs = (&answers{verify: explained}).ask(t, "verify", "revenue", "--explain")
	if code != 0 || out != "SELECT 1;\n" || !strings.Contains(errs, "--   /d/a.parquet") {
		t.Errorf("code %d, %q %q", code, out, errs)
	}
}

func TestARunIsWatchedToItsEnd(t *testing.T) {
	began, ended := timestamppb.New(time.Unix(100, 0)), timestamppb.New(time.Unix(101, 500e6))
	running := &duetv1.Run{Id: "r1", State: duetv1.RunState_RUN_STATE_RUNNING, Step: "compute", Progress: .5}
	for _, c := range []struct {
		last *duetv1.Run
		code int
		want string
	}{
		{&duetv1.Run{Id: "r1", State: duetv1.RunState_RUN_STATE_PUBLISHED, Generation: 7, Full: true, Cut: at(50), StartTime: began, EndTime: ended}, exitDone, "published generation 7: full, to 1:50, in 1.5s\n"},
		{&duetv1.Run{Id: "r1", State: duetv1.RunState_RUN_STATE_UNCHANGED, BaseGeneration: 6, StartTime: began, EndTime: ended}, exitDone, "unchanged: generation 6 has everything that has arrived\n"},
		{&duetv1.Run{Id: "r1", State: duetv1.RunState_RUN_STATE_FAILED, Problem: "the disk is full.", StartTime: began, EndTime: ended}, exitNo, "duet: run r1 failed after 1.5s: the disk is full\n"},
		{&duetv1.Run{Id: "r1", State: duetv1.RunState_RUN_STATE_HELD, Problem: "2 cells differ", StartTime: began, EndTime: ended}, exitNo, "to publish anyway, use duet batch run --accept\n"},
	} {
		code, out, errs := (&answers{runs: []*duetv1.Run{running, c.last}}).ask(t, "batch", "run", "--full")
		if code != c.code || !strings.Contains(out+errs, c.want) {
			t.Errorf("code %d, want %d: %s%s\nwant %s", code, c.code, out, errs, c.want)
		}
	}
}

func TestReconcileIsNoWhenTheHalvesDiffer(t *testing.T) {
	report := &duetv1.GetReconciliationResponse{
		Run: &duetv1.Run{Id: "r1", State: duetv1.RunState_RUN_STATE_HELD}, Verdict: "1 cell of revenue differs without a known cause",
		Totals: []*duetv1.ControlTotal{{Stream: "orders", Name: "sum(price)", Batch: decimal("10.00"), Live: decimal("10.00"), Equal: true}},
		Views: []*duetv1.ViewReconciliation{{View: "revenue", Groups: 4, Cells: 8, CellsDifferent: 1, GroupsDifferent: 1, Keys: sampleColumns[:1],
			Largest: []*duetv1.Difference{{Key: &duetv1.Row{Values: []*duetv1.Value{str("France")}}, Column: "revenue", Before: decimal("10.00"), After: decimal("9.99"), Cause: duetv1.Cause_CAUSE_UNKNOWN}}}},
	}
	code, out, _ := (&answers{report: report}).ask(t, "reconcile")
	for _, want := range []string{"1 cell of revenue differs", "sum(price)", "largest differences of revenue", "France", "9.99", "unknown"} {
		if !strings.Contains(out, want) {
			t.Errorf("lacks %q:\n%s", want, out)
		}
	}
	if code != exitNo {
		t.Errorf("code %d", code)
	}
	report.Equal = true
	code, out, _ = (&answers{report: report}).ask(t, "reconcile", "--output", "json")
	if code != exitDone || !strings.Contains(out, `"decimal_value"`) {
		t.Errorf("code %d: %s", code, out)
	}
}

func TestStatusIsNoUnlessAllIsWell(t *testing.T) {
	s := &duetv1.GetStatusResponse{
		Project: "shop", Version: "v1", Health: duetv1.Health_HEALTH_OK, StartTime: timestamppb.Now(),
		Streams: []*duetv1.StreamStatus{{Name: "orders", Account: &duetv1.Account{Received: 1200, Accepted: 1100, Duplicate: 90, Rejected: 10}}},
		Views:   []*duetv1.ViewStatus{{Name: "revenue", PartialRows: 12}},
	}
	for health, want := range map[duetv1.Health]int{
		duetv1.Health_HEALTH_OK: exitDone, duetv1.Health_HEALTH_DEGRADED: exitNo,
		duetv1.Health_HEALTH_FAILED: exitNo, duetv1.Health_HEALTH_STARTING: exitUnreachable,
	} {
		s.Health = health
		code, out, _ := (&answers{status: s}).ask(t, "status")
		if code != want || !strings.Contains(out, "project shop") || !strings.Contains(out, "1,200") {
			t.Errorf("%s: code %d, want %d\n%s", health, code, want, out)
		}
		// A degraded server answers, so it is ready.
		if health == duetv1.Health_HEALTH_DEGRADED {
			want = exitDone
		}
		if code, _, _ := (&answers{status: s}).ask(t, "status", "--ready"); code != want {
			t.Errorf("%s: ready gives code %d, want %d", health, code, want)
		}
	}
}

func TestStatusAndQueryNameChangedFiles(t *testing.T) {
	a := &answers{
		status: &duetv1.GetStatusResponse{Health: duetv1.Health_HEALTH_OK, StartTime: timestamppb.Now(), ProjectChangedFiles: []string{"streams/orders.yaml", "views/revenue.sql"}},
		query: func(*duetv1.QueryRequest) (*duetv1.QueryResponse, error) {
			return &duetv1.QueryResponse{Notes: []string{"red\x1b[31m"}}, nil
		},
	}
	code, out, _ := a.ask(t, "status")
	if want := "\nproject  streams/orders.yaml, views/revenue.sql differ from what the server runs; restart it to apply them\n"; code != 0 || !strings.Contains(out, want) {
		t.Errorf("code %d: lacks %q:\n%s", code, want, out)
	}
	_, _, errs := a.ask(t, "query", "revenue")
	if want := "note: red\ufffd[31m\n"; !strings.HasPrefix(errs, want) {
		t.Errorf("%q, want %q", errs, want)
	}
}

func TestRejectsListsReasons(t *testing.T) {
	for _, args := range [][]string{{"rejects"}, {"rejects", "list"}, {"rejects", "--stream", "orders"}} {
		code, out, errs := (&answers{}).ask(t, args...)
		if code != 0 || !strings.Contains(out, `price: "one" is not a DECIMAL(18,2)`) || !strings.Contains(out, "1:42/3") || errs != "1 of 7\n" {
			t.Errorf("%v: code %d\n%s%s", args, code, out, errs)
		}
	}
}

func TestPinSaysWhatItDid(t *testing.T) {
	code, out, _ := (&answers{}).ask(t, "batch", "pin", "4")
	if code != 0 || out != "generation 4 is kept until duet batch unpin 4\n" {
		t.Errorf("code %d: %s", code, out)
	}
}

// fieldError is a refusal of a request's field, as the server sends it.
func fieldError(t *testing.T, field, description string) error {
	t.Helper()
	st, err := status.New(codes.InvalidArgument, field+": "+description).WithDetails(
		&errdetails.ErrorInfo{Domain: "duet", Reason: "ARGUMENT_INVALID"},
		&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: field, Description: description}}})
	if err != nil {
		t.Fatal(err)
	}
	return st.Err()
}

func TestErrorsNameFlags(t *testing.T) {
	for _, c := range []struct{ field, description, want string }{
		{"group_by", "there is no key shop; the keys are country", "duet: --by: there is no key shop; the keys are country\n"},
		{"order_by", "more than 256 names in one request", "duet: --order-by: more than 256 names in one request\n"},
		{"not_before", "excludes as_of_generation, whose numbers never change; send one of them", "duet: --not-before: excludes --as-of, whose numbers never change; send one of them\n"},
		{"where", `1:3: no column "page_size"`, "duet: --where: 1:3: no column \"page_size\"\n"},
		{"view", `"A" is not a name`, "duet: <view>: \"A\" is not a name\n"},
	} {
		a := &answers{query: func(*duetv1.QueryRequest) (*duetv1.QueryResponse, error) {
			return nil, fieldError(t, c.field, c.description)
		}}
		code, _, errs := a.ask(t, "query", "revenue")
		if code != exitUsage || errs != c.want {
			t.Errorf("code %d: %q, want %q", code, errs, c.want)
		}
	}
}

// TestEveryFieldHasAFlag runs every client command with every flag set and
// checks that each field of its requests has the flag's name in flagOf.
func TestEveryFieldHasAFlag(t *testing.T) {
	file := filepath.Join(t.TempDir(), "orders.csv")
	if err := os.WriteFile(file, []byte("price,sold_at\n1,2026-01-01\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	a := &answers{status: &duetv1.GetStatusResponse{}, verify: &duetv1.VerifyResponse{Equal: true}, report: &duetv1.GetReconciliationResponse{Equal: true}, runs: []*duetv1.Run{{}},
		query: func(*duetv1.QueryRequest) (*duetv1.QueryResponse, error) { return &duetv1.QueryResponse{}, nil }}
	used := map[string]bool{}
	for _, args := range [][]string{
		{"query", "v", "--by", "a", "--where", "b", "--having", "c", "--since", "2026-01-01", "--until", "2026-01-02", "--order-by", "d", "--limit", "3", "--not-before", "t"},
		{"query", "v", "--total", "--as-of", "3"},
		{"verify", "v", "--explain", "--limit", "3"},
		{"batch", "run", "--full", "--accept"},
		{"batch", "list", "--runs", "3"},
		{"batch", "rollback", "3", "--reason", "r"},
		{"batch", "pause", "--reason", "r"},
		{"batch", "resume"},
		{"batch", "pin", "3"},
		{"batch", "unpin", "3"},
		{"reconcile", "--run", "r"},
		{"rejects", "--stream", "s", "--session", "s", "--limit", "3", "--by-reason"},
		{"status"},
		{"inspect", "log", "from=1"},
	} {
		a.ask(t, args...)
		a.mu.Lock()
		requests := a.requests
		a.requests = nil
		a.mu.Unlock()
		if len(requests) == 0 {
			t.Errorf("%v made no call", args)
		}
		for _, request := range requests {
			request.ProtoReflect().Range(func(field protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
				name := string(field.Name())
				used[name] = true
				if flag, ok := flagOf[name]; !ok {
					t.Errorf("%v sends %s, which has no flag in flagOf", args, field.FullName())
				} else if _, watching := request.(*duetv1.GetRunRequest); strings.HasPrefix(flag, "--") && name != "limit" && !watching && !slices.Contains(args, flag) {
					t.Errorf("%v sends %s, but flagOf says %s", args, field.FullName(), flag)
				}
				return true
			})
		}
	}
	for name, flag := range flagOf {
		if !used[name] {
			t.Errorf("flagOf has %s (%s), which no command sends", name, flag)
		}
	}
}

// sampleRuns are runs with the widest texts that usually occur.
func sampleRuns() []*duetv1.Run {
	began := time.Date(2026, 11, 24, 16, 42, 46, 0, time.UTC)
	return []*duetv1.Run{
		{Id: "ylcbd6c6ofozipwou5tkirnsyu", Full: true, State: duetv1.RunState_RUN_STATE_PUBLISHED, Generation: 1234, Trigger: duetv1.RunTrigger_RUN_TRIGGER_SCHEDULE,
			StartTime: timestamppb.New(began), EndTime: timestamppb.New(began.Add(83*time.Minute + 12345*time.Millisecond))},
		{Id: "zdns2aivha42izxar3orpf2n6a", State: duetv1.RunState_RUN_STATE_FAILED, Trigger: duetv1.RunTrigger_RUN_TRIGGER_CATCH_UP, Problem: "the disk is full: free some space; the run is started again by the schedule and needs nobody",
			StartTime: timestamppb.New(began), EndTime: timestamppb.New(began.Add(597 * time.Millisecond))},
		{Id: "ylxnpayajy7n4hnvajy36rlgjq", State: duetv1.RunState_RUN_STATE_RUNNING, Trigger: duetv1.RunTrigger_RUN_TRIGGER_ROLLBACK, StartTime: timestamppb.New(began)},
	}
}

// TestBatchListFitsATerminal checks that the list fits 80 columns, save for
// problems, which stand on lines of their own.
func TestBatchListFitsATerminal(t *testing.T) {
	a := &answers{runs: sampleRuns(), generations: &duetv1.ListGenerationsResponse{Generations: []*duetv1.Generation{
		{Number: 1234, Cut: at(123_456_789), PublishTime: timestamppb.New(time.Date(2026, 11, 24, 16, 42, 47, 0, time.UTC)), Run: "ylcbd6c6ofozipwou5tkirnsyu",
			Bytes: 12_345_678, Current: true, Pinned: true, Views: []*duetv1.GenerationView{{View: "revenue", Groups: 1_234_567}}},
		{Number: 1233, Cut: at(123_456_000), PublishTime: timestamppb.New(time.Date(2026, 11, 24, 16, 42, 46, 0, time.UTC)), RollbackOf: 1200},
	}}}
	code, out, errs := a.ask(t, "batch", "list")
	if code != 0 {
		t.Fatal(errs)
	}
	for line := range strings.Lines(out) {
		if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > 80 && !strings.Contains(line, "the disk is full") {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	for _, want := range []string{"ylcbd6c6 ", "zdns2aiv ", "published 1234 ", "serves, pinned", "rollback to 1200", "1h23m", "catch up", "\n  the disk is full: free some space"} {
		if !strings.Contains(out, want) {
			t.Errorf("lacks %q:\n%s", want, out)
		}
	}
}

// TestReconcileTakesTheBeginningOfARunID checks that reconcile takes the short
// ids that batch list prints.
func TestReconcileTakesTheBeginningOfARunID(t *testing.T) {
	reports := func(r *duetv1.GetReconciliationRequest) (*duetv1.GetReconciliationResponse, error) {
		if r.GetRun() != "ylcbd6c6ofozipwou5tkirnsyu" {
			return nil, status.Errorf(codes.NotFound, "there is no run %q", r.GetRun())
		}
		return &duetv1.GetReconciliationResponse{Equal: true, Run: &duetv1.Run{Id: r.GetRun()}}, nil
	}
	for id, want := range map[string]struct {
		code int
		text string
	}{
		"ylcbd6c6ofozipwou5tkirnsyu": {exitDone, "run ylcbd6c6ofozipwou5tkirnsyu"},
		"ylc":                        {exitDone, "run ylcbd6c6ofozipwou5tkirnsyu"},
		"yl":                         {exitUsage, "duet: --run yl: 2 runs begin so: ylcbd6c6ofozipwou5tkirnsyu, ylxnpayajy7n4hnvajy36rlgjq\n"},
		"nothing":                    {exitUsage, "duet: there is no run \"nothing\"\n"},
	} {
		code, out, errs := (&answers{runs: sampleRuns(), reconcile: reports}).ask(t, "reconcile", "--run", id)
		if code != want.code || !strings.Contains(out+errs, want.text) {
			t.Errorf("%s: code %d: %s%s, want %s", id, code, out, errs, want.text)
		}
	}
}

func TestEmptyConditionsAreRefused(t *testing.T) {
	for _, flag := range []string{"--where", "--having", "--since", "--until"} {
		for _, condition := range []string{"", "  "} {
			a := &answers{query: func(*duetv1.QueryRequest) (*duetv1.QueryResponse, error) { return &duetv1.QueryResponse{}, nil }}
			code, _, errs := a.ask(t, "query", "revenue", flag+"="+condition)
			if want := "duet: " + flag + " is empty: write a value, or omit the flag for all rows\n"; code != exitUsage || errs != want {
				t.Errorf("%s=%q: code %d: %q, want %q", flag, condition, code, errs, want)
			}
		}
	}
}
