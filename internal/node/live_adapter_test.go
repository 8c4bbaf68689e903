package node

import (
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"duet/schemas/duetv1"
)

// A sum that outgrows its type only when live cells are merged suspends its
// view, and holds up no other.
func TestCellsThatCannotBeMergedDoNotHoldUpTheBatchHalf(t *testing.T) {
	files := maps.Clone(shop)
	files["streams/wide.yaml"] = "columns:\n  v: DECIMAL(38,0)\n"
	files["views/widest.sql"] = "SELECT sum(v) AS s FROM wide\n"
	r := start(t, t.TempDir(), files)
	r.check(100, r.add(1, 100))
	for range 2 { // the second waits for the first: two cells
		res, err := r.ingest.Append(t.Context(), &duetv1.AppendRequest{Stream: "wide", Payload: &duetv1.AppendRequest_JsonLines{JsonLines: []byte(`{"v":"` + strings.Repeat("9", 38) + `"}`)}})
		if err != nil {
			t.Fatal(err)
		}
		r.check(100, res.GetToken())
	}
	r.published(r.run(false), 1)
	r.check(200, r.add(101, 200))
	r.published(r.run(true), 2)
	r.check(200, "")
	if _, err := r.views.Query(t.Context(), &duetv1.QueryRequest{View: "widest"}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("the view answers: %v", err)
	}
	r.stop()
}

// counts fails unless the view everything counts n events. It reads no archive file.
func (r *running) counts(n int, token string) {
	r.t.Helper()
	res, err := r.views.Query(r.t.Context(), &duetv1.QueryRequest{View: "everything", NotBefore: token})
	if err != nil {
		r.t.Fatal(err)
	}
	if got := res.GetRows()[0].GetValues()[0].GetIntValue(); got != int64(n) {
		r.t.Fatalf("%d events are counted, want %d (%v)", got, n, res.GetProof())
	}
}

// A rollback that needs an archive file which is damaged, and cannot be rebuilt
// because the log is trimmed, fails before anything is published: the old
// generation serves on, and the platform starts again (H12).
func TestARollbackOverADamagedArchiveIsRefusedBeforePublishing(t *testing.T) {
	files := maps.Clone(shop)
	files["duet.yaml"] += "limits: {log: 1MiB}\n"
	files["views/everything.sql"] = "SELECT count(*) AS n FROM sales\n"
	data := t.TempDir()
	r := start(t, data, files)
	r.published(r.run(false), 1)
	r.counts(100, r.add(1, 100))
	r.published(r.run(false), 2)
	total := 100
	for range 20 {
		r.counts(total+500, r.add(total+1, total+500))
		total += 500
		r.published(r.run(false), uint64(2+(total-100)/500))
	}
	for deadline := time.Now().Add(10 * time.Second); r.lane.log.First().Sequence() == 1; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatal("the log was not trimmed")
		}
	}
	snap := r.lane.archive.Current()
	damaged := filepath.Join(data, "archive", filepath.FromSlash(snap.FilesFor("sales", 0, r.lane.archive.Through())[1].Path))
	text, err := os.ReadFile(damaged)
	if err != nil {
		t.Fatal(err)
	}
	text[len(text)/2] ^= 1
	if err := os.WriteFile(damaged, text, 0o600); err != nil {
		t.Fatal(err)
	}
	res, err := r.batch.Rollback(t.Context(), &duetv1.RollbackRequest{Generation: 1, Reason: "a test"})
	if err != nil {
		t.Fatal(err)
	}
	run, err := r.runner.Wait(t.Context(), res.GetRun().GetId())
	if err != nil {
		t.Fatal(err)
	}
	if run.Generation != 0 || !strings.Contains(run.Reason, filepath.Base(damaged)) {
		t.Errorf("the rollback: %+v", run)
	}
	select {
	case err := <-r.Failed():
		t.Errorf("the platform ends: %v", err)
	default:
		r.counts(total, "")
		r.counts(total+10, r.add(total+1, total+10))
		total += 10
	}
	r.stop()

	r = start(t, data, files)
	r.counts(total, "")
	r.published(r.run(false), 23)
	r.counts(total, "")
	r.stop()
}
