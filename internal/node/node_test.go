package node

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"testing/fstest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"duet/batch/archive"
	"duet/batch/recompute"
	"duet/schemas/duetv1"
)

// The child of a batch run is this test binary.
const childEnv = "DUET_TEST_CHILD"

func TestMain(m *testing.M) {
	if job := os.Getenv(childEnv); job != "" {
		os.Exit(recompute.Main(os.Args[len(os.Args)-1], os.Stdin, os.Stdout))
	}
	goleak.VerifyTestMain(m)
}

func folder(files map[string]string) fstest.MapFS {
	fsys := fstest.MapFS{}
	for name, text := range files {
		fsys[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return fsys
}

var shop = map[string]string{
	"duet.yaml": "version: 1\nname: shop\nbatch: {incremental: \"off\", full: \"off\"}\n",
	"streams/sales.yaml": `event_time: sold_at
columns:
  id: BIGINT NOT NULL
  shop: VARCHAR NOT NULL
  price: DECIMAL(18,4) NOT NULL
  sold_at: TIMESTAMP NOT NULL
`,
	"views/by_shop.sql": "SELECT shop, count(*) AS n, sum(price) AS revenue, avg(price) AS mean, last(id ORDER BY sold_at) AS newest FROM sales GROUP BY ALL\n",
}

// running is a node with a client.
type running struct {
	*Node
	t      *testing.T
	conn   *grpc.ClientConn
	ingest duetv1.IngestServiceClient
	views  duetv1.ViewServiceClient
	batch  duetv1.BatchServiceClient
	ops    duetv1.OperateServiceClient
}

// start starts a node and waits until it answers. change edits its configuration.
func start(t *testing.T, data string, files map[string]string, change ...func(*Config)) *running {
	t.Helper()
	var log io.Writer = io.Discard
	if testing.Verbose() {
		log = os.Stderr
	}
	cfg := Config{
		Project: folder(files), Data: data, GRPC: "127.0.0.1:0", HTTP: "127.0.0.1:0", Version: "test",
		Log: slog.New(slog.NewTextHandler(log, nil)),
		Child: func() *exec.Cmd {
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), childEnv+"=1")
			return cmd
		},
	}
	for _, f := range change {
		f(&cfg)
	}
	n, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(n.GRPCAddr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	r := &running{n, t, conn, duetv1.NewIngestServiceClient(conn), duetv1.NewViewServiceClient(conn), duetv1.NewBatchServiceClient(conn), duetv1.NewOperateServiceClient(conn)}
	for deadline := time.Now().Add(30 * time.Second); !n.Ready(); {
		select {
		case err := <-n.Failed():
			r.stop()
			t.Fatal(err)
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatal("not ready within 30 s")
		}
	}
	return r
}

// end stops the node at once: what is not archived stays in the log.
func (r *running) end() {
	r.conn.Close()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	r.Stop(ctx)
}

func (r *running) stop() {
	r.conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	r.Stop(ctx)
}

// add appends events first..last and returns the token.
func (r *running) add(first, last int) string {
	r.t.Helper()
	var b bytes.Buffer
	for i := first; i <= last; i++ {
		fmt.Fprintf(&b, `{"id":%d,"shop":"s%d","price":"%d.25","sold_at":"2026-01-01T00:%02d:%02dZ"}`+"\n", i, i%3, i, i/60%60, i%60)
	}
	res, err := r.ingest.Append(r.t.Context(), &duetv1.AppendRequest{
		Stream: "sales", Payload: &duetv1.AppendRequest_JsonLines{JsonLines: b.Bytes()}, Producer: "p", ProducerSequence: uint64(first),
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return res.GetToken()
}

// check compares the answer with the events 1..n.
func (r *running) check(n int, token string) *duetv1.Proof {
	r.t.Helper()
	res, err := r.views.Query(r.t.Context(), &duetv1.QueryRequest{View: "by_shop", NotBefore: token, OrderBy: []string{"shop"}})
	if err != nil {
		r.t.Fatal(err)
	}
	for s, row := range res.GetRows() {
		count, cents, newest := 0, 0, 0
		for i := 1; i <= n; i++ {
			if i%3 == s {
				count, cents, newest = count+1, cents+i*10000+2500, i
			}
		}
		got := fmt.Sprint(row.GetValues()[1].GetIntValue(), row.GetValues()[2].GetDecimalValue(), row.GetValues()[4].GetIntValue())
		if want := fmt.Sprint(count, fmt.Sprintf("%d.%04d", cents/10000, cents%10000), newest); got != want {
			r.t.Fatalf("shop s%d of %d events: %s, want %s (%v)", s, n, got, want, res.GetProof())
		}
	}
	if len(res.GetRows()) != min(n, 3) {
		r.t.Fatalf("%d rows of %d events", len(res.GetRows()), n)
	}
	ver, err := r.views.Verify(r.t.Context(), &duetv1.VerifyRequest{View: "by_shop"})
	if err != nil {
		r.t.Fatal(err)
	}
	if !ver.GetEqual() {
		r.t.Fatalf("verify: %v", ver)
	}
	return res.GetProof()
}

func (r *running) run(full bool) *duetv1.Run {
	r.t.Helper()
	res, err := r.batch.StartRun(r.t.Context(), &duetv1.StartRunRequest{Full: full})
	if err != nil {
		r.t.Fatal(err)
	}
	run, err := r.runner.Wait(r.t.Context(), res.GetRun().GetId())
	if err != nil {
		r.t.Fatal(err)
	}
	got, err := r.batch.GetRun(r.t.Context(), &duetv1.GetRunRequest{Run: run.ID})
	if err != nil {
		r.t.Fatal(err)
	}
	return got.GetRun()
}

func (r *running) published(run *duetv1.Run, generation uint64) {
	r.t.Helper()
	if run.GetState() != duetv1.RunState_RUN_STATE_PUBLISHED || run.GetGeneration() != generation {
		r.t.Fatalf("run: %v", run)
	}
	rec, err := r.batch.GetReconciliation(r.t.Context(), &duetv1.GetReconciliationRequest{})
	if err != nil {
		r.t.Fatal(err)
	}
	if !rec.GetEqual() {
		r.t.Fatalf("reconciliation: %v", rec)
	}
}

// The same answer comes from the live half, from both, after a restart, after
// a rollback, and with a view that was changed.
func TestAnswersStayTheSame(t *testing.T) {
	data := t.TempDir()
	shop := maps.Clone(shop)
	shop["views/everything.sql"] = "SELECT count(*) AS n, sum(price) AS revenue FROM sales\n"
	r := start(t, data, shop)
	r.published(r.run(false), 1) // before the first event
	r.check(100, r.add(1, 100))
	r.published(r.run(true), 2)
	p := r.check(100, "")
	if p.GetGeneration() != 2 {
		t.Fatalf("proof: %v", p)
	}
	r.check(150, r.add(101, 150))
	r.published(r.run(false), 3)
	r.check(200, r.add(151, 200))
	r.stop()

	r = start(t, data, shop) // events 151..200 are only in the log
	r.check(200, "")
	r.check(200, r.add(151, 200)) // sent again: known
	if a := r.accounts()["sales"]; a.Accepted != 200 {
		t.Fatalf("account: %+v", a)
	}
	r.published(r.run(false), 4)
	if run := r.run(false); run.GetState() != duetv1.RunState_RUN_STATE_UNCHANGED || run.GetBaseGeneration() != 4 {
		t.Fatalf("a run without an event since the last: %v", run)
	}
	r.published(r.run(true), 5)
	res, err := r.batch.Rollback(t.Context(), &duetv1.RollbackRequest{Generation: 2, Reason: "a test"})
	if err != nil {
		t.Fatal(err)
	}
	if run, err := r.runner.Wait(t.Context(), res.GetRun().GetId()); err != nil || run.Generation != 6 {
		t.Fatalf("rollback: %+v, %v", run, err)
	}
	if p := r.check(200, ""); p.GetGeneration() != 6 {
		t.Fatalf("proof after rollback: %v", p)
	}
	r.check(220, r.add(201, 220))
	r.stop()

	changed := maps.Clone(shop)
	changed["views/by_shop.sql"] = "SELECT shop, count(*) AS n, sum(price) AS revenue, max(price) AS dearest, last(id ORDER BY sold_at) AS newest FROM sales GROUP BY ALL\n"
	changed["views/total.sql"] = "SELECT count(*) AS n FROM sales\n"
	r = start(t, data, changed)
	changedView := func() bool { // the rebuild's run has published
		run := r.runner.List(1)[0]
		if run.Generation == 6 {
			return false // still the rollback: the rebuild is asked for next
		}
		if run, err = r.runner.Wait(t.Context(), run.ID); err != nil || run.Generation != 7 {
			t.Fatalf("rebuild: %+v, %v", run, err)
		}
		return true
	}
	for !changedView() {
		runtime.Gosched()
	}
	r.check(220, "")
	total, err := r.views.Query(t.Context(), &duetv1.QueryRequest{View: "total"})
	if err != nil {
		t.Fatal(err)
	}
	if n := total.GetRows()[0].GetValues()[0].GetIntValue(); n != 220 {
		t.Fatalf("the new view counts %d events", n)
	}
	r.stop()
}

// A damaged file of the archive is written again from the log; when the log
// cannot, the server does not answer from less.
func TestADamagedArchiveIsRepaired(t *testing.T) {
	data := t.TempDir()
	r := start(t, data, shop)
	r.check(300, r.add(1, 300))
	r.published(r.run(false), 1)
	r.check(400, r.add(301, 400))
	r.published(r.run(false), 2)
	files := r.lane.archive.Current().FilesFor("sales", 0, r.lane.archive.Through())
	r.stop()
	path := filepath.Join(data, "archive", filepath.FromSlash(files[1].Path))
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text[len(text)/2] ^= 1
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	r = start(t, data, shop)
	for { // the first look finds the damage
		_, err := r.views.Verify(t.Context(), &duetv1.VerifyRequest{View: "by_shop"})
		if status.Code(err) != codes.Unavailable {
			break
		}
	}
	r.check(400, "")
	r.published(r.run(true), 3)
	if m := r.lane.archive.Current(); slices.ContainsFunc(m.Files, func(f archive.File) bool { return f.Path == files[1].Path }) {
		t.Error("the damaged file is still in the manifest")
	}
	r.stop()
}
