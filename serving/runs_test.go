package serving

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"duet/batch"
	"duet/batch/archive"
	"duet/batch/batchtest"
	"duet/batch/recompute"
	"duet/schemas"
	"duet/schemas/duetv1"
	"duet/serving/query"
	"duet/serving/reason"
)

// ended waits until a run has ended.
func (r *rig) ended(c duetv1.BatchServiceClient, id string) *duetv1.Run {
	r.t.Helper()
	_, err := r.runner.Wait(r.t.Context(), id)
	r.must(err)
	got, err := c.GetRun(r.t.Context(), &duetv1.GetRunRequest{Run: id})
	r.must(err)
	return got.GetRun()
}

func TestRunsOverGRPC(t *testing.T) {
	r := opened(t, nil)
	c := duetv1.NewBatchServiceClient(r.conn)
	status := func() *duetv1.BatchStatus { return r.api.platform.Load().batchStatus() }
	ctx := t.Context()
	_, err := c.GetReconciliation(ctx, &duetv1.GetReconciliationRequest{})
	if code, i, _ := info(t, err); code != codes.NotFound || i.GetReason() != string(reason.ReconciliationUnknown) {
		t.Fatal(err)
	}
	started, err := c.StartRun(ctx, &duetv1.StartRunRequest{Full: true, RequestId: "one"})
	if err != nil {
		t.Fatal(err)
	}
	again, err := c.StartRun(ctx, &duetv1.StartRunRequest{Full: true, RequestId: "one"})
	if err != nil || again.GetRun().GetId() != started.GetRun().GetId() {
		t.Fatalf("the same request is another run: %v, %v", again, err)
	}
	run := r.ended(c, started.GetRun().GetId())
	if run.GetState() != duetv1.RunState_RUN_STATE_PUBLISHED || run.GetGeneration() != 1 || !run.GetFull() || run.GetProgress() != 1 || run.GetEndTime() == nil ||
		len(run.GetCut()) != 1 || run.GetTrigger() != duetv1.RunTrigger_RUN_TRIGGER_REQUEST {
		t.Fatal(run)
	}
	rec, err := c.GetReconciliation(ctx, &duetv1.GetReconciliationRequest{})
	if err != nil || !rec.GetEqual() || len(rec.GetViews()) != len(batchtest.Views()) || rec.GetRun().GetId() != run.GetId() || !strings.HasPrefix(rec.GetVerdict(), "equal") {
		t.Fatal(rec, err)
	}
	names := map[string]bool{}
	for _, total := range rec.GetTotals() {
		names[total.GetName()] = true
		if !total.GetEqual() {
			t.Errorf("%v", total)
		}
	}
	if !names["accepted"] || !names["rejected"] || !names["sum(price)"] {
		t.Errorf("control totals: %v", names)
	}
	if err := r.world.Append(10); err != nil {
		t.Fatal(err)
	}
	second, err := c.StartRun(ctx, &duetv1.StartRunRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if got := r.ended(c, second.GetRun().GetId()); got.GetGeneration() != 2 || got.GetBaseGeneration() != 1 || got.GetFull() {
		t.Fatal(got)
	}
	if _, err := c.Pin(ctx, &duetv1.PinRequest{Generation: 1}); err != nil {
		t.Fatal(err)
	}
	back, err := c.Rollback(ctx, &duetv1.RollbackRequest{Generation: 1, Reason: "a test", RequestId: "back"})
	if err != nil {
		t.Fatal(err)
	}
	if got := r.ended(c, back.GetRun().GetId()); got.GetState() != duetv1.RunState_RUN_STATE_PUBLISHED || got.GetTrigger() != duetv1.RunTrigger_RUN_TRIGGER_ROLLBACK {
		t.Fatal(got)
	}
	gens, err := c.ListGenerations(ctx, &duetv1.ListGenerationsRequest{})
	if err != nil || len(gens.GetGenerations()) != 3 {
		t.Fatal(gens, err)
	}
	if g := gens.GetGenerations()[0]; g.GetNumber() != 3 || !g.GetCurrent() || g.GetRollbackOf() != 1 || g.GetPinned() {
		t.Error(g)
	}
	if g := gens.GetGenerations()[2]; g.GetNumber() != 1 || g.GetCurrent() || !g.GetPinned() || len(g.GetViews()) == 0 {
		t.Error(g)
	}
	if s := status(); !s.GetPaused() || !strings.Contains(s.GetPauseReason(), "a test") || s.GetCurrent().GetNumber() != 3 || s.GetLast().GetId() != back.GetRun().GetId() || !s.GetLastEqual() {
		t.Error(s)
	}
	if _, err := c.Resume(ctx, &duetv1.ResumeRequest{}); err != nil || status().GetPaused() {
		t.Error(err)
	}
	if _, err := c.Pause(ctx, &duetv1.PauseRequest{Reason: "lunch"}); err != nil || status().GetPauseReason() != "lunch" {
		t.Error(err)
	}
	if _, err := c.Unpin(ctx, &duetv1.UnpinRequest{Generation: 1}); err != nil {
		t.Error(err)
	}

	// Pages of one run each, until there is no further token.
	var ids []string
	token := ""
	for {
		page, err := c.ListRuns(ctx, &duetv1.ListRunsRequest{PageSize: 1, PageToken: token})
		if err != nil || len(page.GetRuns()) != 1 {
			t.Fatal(page, err)
		}
		ids = append(ids, page.GetRuns()[0].GetId())
		if token = page.GetNextPageToken(); token == "" {
			break
		}
	}
	if len(ids) != 3 || ids[0] != back.GetRun().GetId() || ids[2] != run.GetId() {
		t.Errorf("pages: %v", ids)
	}
	for what, call := range map[string]func() error{
		"RUN_UNKNOWN":        func() error { _, err := c.GetRun(ctx, &duetv1.GetRunRequest{Run: "nosuch"}); return err },
		"GENERATION_UNKNOWN": func() error { _, err := c.Rollback(ctx, &duetv1.RollbackRequest{Generation: 99}); return err },
		"RECONCILIATION_UNKNOWN": func() error {
			_, err := c.GetReconciliation(ctx, &duetv1.GetReconciliationRequest{Run: "nosuch"})
			return err
		},
		"ARGUMENT_INVALID": func() error { _, err := c.ListRuns(ctx, &duetv1.ListRunsRequest{PageToken: "nosuch"}); return err },
	} {
		if _, i, _ := info(t, call()); i.GetReason() != what {
			t.Errorf("%s: %v", what, i)
		}
	}
	if _, i, _ := info(t, func() error { _, err := c.Pin(ctx, &duetv1.PinRequest{Generation: 99}); return err }()); i.GetReason() != "GENERATION_UNKNOWN" {
		t.Errorf("pin: %v", i)
	}
}

// A half that differs without a known cause is held, and the report says where.
func TestReconciliationShowsTheDifference(t *testing.T) {
	name := ""
	for _, v := range batchtest.Views() {
		if v.Name != "risky" && name == "" {
			name = v.Name
		}
	}
	r := opened(t, nil)
	c := duetv1.NewBatchServiceClient(r.conn)
	r.world.SetFaults(batchtest.Faults{Tamper: func(view, text string) string {
		if view == name {
			return text + " LIMIT 1" // the live half lacks every group but one
		}
		return text
	}})
	started, err := c.StartRun(t.Context(), &duetv1.StartRunRequest{})
	if err != nil {
		t.Fatal(err)
	}
	run := r.ended(c, started.GetRun().GetId())
	if run.GetState() != duetv1.RunState_RUN_STATE_HELD || run.GetProblem() == "" || run.GetGeneration() != 0 {
		t.Fatal(run)
	}
	rec, err := c.GetReconciliation(t.Context(), &duetv1.GetReconciliationRequest{Run: run.GetId()})
	if err != nil || rec.GetEqual() || !strings.Contains(rec.GetVerdict(), name) {
		t.Fatal(rec, err)
	}
	for _, v := range rec.GetViews() {
		if v.GetView() != name {
			continue
		}
		if v.GetGroupsDifferent() == 0 || len(v.GetLargest()) == 0 || len(v.GetKeys()) == 0 || v.GetLargest()[0].GetCause() != duetv1.Cause_CAUSE_UNKNOWN {
			t.Error(v)
		}
		d := v.GetLargest()[0]
		if query.Text(d.GetAfter()) == "" || len(d.GetKey().GetValues()) != len(v.GetKeys()) {
			t.Error(d)
		}
	}
}

func TestAVerdictCountsWhatWasCompared(t *testing.T) {
	rep := &recompute.Report{Verdict: recompute.Equal, Views: []recompute.ViewCheck{{View: "sales", Verdict: recompute.Equal, Groups: 3, Cells: 6}}}
	if got := verdict(rep); got != "equal, to the last digit: 1 view, 3 groups, 6 cells" {
		t.Error(got)
	}
	if got := verdict(&recompute.Report{Verdict: recompute.Equal, Views: []recompute.ViewCheck{{View: "sales", Verdict: recompute.Equal}}}); got != "equal: nothing happened in the span" {
		t.Error(got)
	}
	refused := &recompute.Report{Verdict: recompute.Equal, Views: []recompute.ViewCheck{{View: "sales", Verdict: recompute.Equal}},
		Streams: []recompute.StreamCheck{{Batch: archive.Totals{Account: schemas.Account{Received: 2, Rejected: 2}}}}}
	if got := verdict(refused); got != "equal, to the last digit: 1 view, 0 groups, 0 cells" {
		t.Error(got)
	}
}

func TestTotalsThatDiffer(t *testing.T) {
	got := totals(recompute.StreamCheck{
		Stream: "orders",
		Live:   archive.Totals{Account: schemas.Account{Accepted: 5}, Sums: map[string]string{"price": "1.50"}},
		Batch:  archive.Totals{Account: schemas.Account{Accepted: 6}, Sums: map[string]string{"price": "1.5", "quantity": "3"}},
	})
	want := map[string]bool{"received": true, "accepted": false, "duplicate": true, "rejected": true, "sum(price)": true, "sum(quantity)": true}
	for _, c := range got {
		if w, ok := want[c.GetName()]; !ok || w != c.GetEqual() {
			t.Errorf("%v", c)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%v", got)
	}
}

// A client that sends its headers a byte at a time loses its
// connection, and others are served meanwhile.
func TestSlowHeadersLoseTheConnection(t *testing.T) {
	r := opened(t, nil)
	conn, err := net.Dial("tcp", r.HTTPAddr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: "); err != nil {
		t.Fatal(err)
	}
	if code, _ := r.get(t, "/healthz"); code != 200 {
		t.Errorf("another client: %d", code)
	}
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(conn); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the connection is still open")
	}
}

// A run that finds nothing new publishes nothing, and does not hide the last result.
func TestAnUnchangedRunIsNotTheLastResult(t *testing.T) {
	r := opened(t, nil)
	c := duetv1.NewBatchServiceClient(r.conn)
	var ids []string
	for _, want := range []duetv1.RunState{duetv1.RunState_RUN_STATE_PUBLISHED, duetv1.RunState_RUN_STATE_UNCHANGED} {
		started, err := c.StartRun(t.Context(), &duetv1.StartRunRequest{})
		r.must(err)
		run := r.ended(c, started.GetRun().GetId())
		if run.GetState() != want || run.GetProblem() != "" {
			t.Fatalf("run %v, want %v", run, want)
		}
		ids = append(ids, run.GetId())
	}
	if last := r.api.platform.Load().batchStatus().GetLast(); last.GetId() != ids[0] {
		t.Errorf("the last result is %v, want run %s", last, ids[0])
	}
}

// A run whose child makes no progress is a problem while it goes on.
func TestAStalledRunIsAProblem(t *testing.T) {
	r := opened(t, nil)
	const warning = "the child process has made no progress since 15:04:05 UTC"
	res := &duetv1.GetStatusResponse{Batch: &duetv1.BatchStatus{Running: runOf(batch.Run{ID: "r1", State: batch.Running, Warning: warning})}}
	if got := r.api.problems(r.api.platform.Load(), res); len(got) != 1 || got[0] != "batch run r1: "+warning {
		t.Errorf("problems %q", got)
	}
}
