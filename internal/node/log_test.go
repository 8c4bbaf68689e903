package node

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"duet/internal/base/failpoint"
	"duet/schemas"
	"duet/schemas/duetv1"
	"duet/speed"
	"duet/speed/eventlog"
)

// until waits for a condition.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("not within 30 s: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// fill adds events behind n until a share of the log's limit is used, and returns
// the number of the last event.
func (r *running) fill(n int, percent int64) int {
	r.t.Helper()
	for used, limit := r.lane.log.Usage(); used*100 < limit*percent; used, _ = r.lane.log.Usage() {
		r.add(n+1, n+100)
		n += 100
	}
	return n
}

// counted checks that a view counts n events and verifies.
func (r *running) counted(n int) *duetv1.Proof {
	r.t.Helper()
	res, err := r.views.Query(r.t.Context(), &duetv1.QueryRequest{View: "by_shop"})
	if err != nil {
		r.t.Fatal(err)
	}
	got := 0
	for _, row := range res.GetRows() {
		got += int(row.GetValues()[1].GetIntValue())
	}
	if got != n {
		r.t.Fatalf("%d events are counted, want %d", got, n)
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

func (r *running) health() duetv1.Health {
	r.t.Helper()
	res, err := r.ops.GetStatus(r.t.Context(), &duetv1.GetStatusRequest{})
	if err != nil {
		r.t.Fatal(err)
	}
	return res.GetHealth()
}

// holdArchiving stops the archiver before its next manifest, until letGo.
func holdArchiving() (letGo func()) {
	held := make(chan struct{})
	disarm := failpoint.On("archive.manifest", 1, func() error { <-held; return nil })
	return sync.OnceFunc(func() { disarm(); close(held) })
}

// There is no schedule: only the log's size can start a run.
func TestALogThatFillsUpIsArchivedByItself(t *testing.T) {
	small := maps.Clone(shop)
	small["duet.yaml"] += "limits: {log: 1MiB}\n"
	t.Run("by a run", func(t *testing.T) {
		data := t.TempDir()
		r := start(t, data, small)
		letGo := holdArchiving()
		defer letGo()
		n := r.fill(0, 52)
		if h := r.health(); h != duetv1.Health_HEALTH_DEGRADED {
			t.Errorf("half full of events that are not archived, health is %s", h)
		}
		until(t, "a run", func() bool { return len(r.runner.List(1)) > 0 })
		letGo()
		until(t, "the run's end", func() bool { return r.runner.List(1)[0].State.Final() })
		r.published(r.latestRun(), 1)
		until(t, "health OK", func() bool { return r.health() == duetv1.Health_HEALTH_OK })
		r.counted(n)
		r.stop()
		r = start(t, data, small) // still half full, of what can be trimmed
		until(t, "health OK after a restart", func() bool { return r.health() == duetv1.Health_HEALTH_OK })
		if runs := r.runner.List(0); len(runs) != 1 {
			t.Errorf("%d runs after a restart, want 1", len(runs))
		}
		r.stop()
	})
	t.Run("without a run while the schedule is paused", func(t *testing.T) {
		r := start(t, t.TempDir(), small)
		if err := r.runner.Pause("a test"); err != nil {
			t.Fatal(err)
		}
		letGo := holdArchiving()
		defer letGo()
		n := r.fill(0, 42)
		until(t, "a cut", func() bool {
			_, ok, err := r.lane.log.LastControl(t.Context(), speed.CutKind)
			return ok && err == nil
		})
		letGo()
		if runs := r.runner.List(0); len(runs) != 0 {
			t.Errorf("%d runs, want none", len(runs))
		}
		r.counted(n)
		r.stop()
	})
}

// latestRun returns the latest run.
func (r *running) latestRun() *duetv1.Run {
	r.t.Helper()
	res, err := r.batch.GetRun(r.t.Context(), &duetv1.GetRunRequest{Run: r.runner.List(1)[0].ID})
	if err != nil {
		r.t.Fatal(err)
	}
	return res.GetRun()
}

func TestADeletedDataFolderEndsTheServer(t *testing.T) {
	data := t.TempDir()
	r := start(t, data, shop)
	r.check(10, r.add(1, 10))
	if err := os.RemoveAll(data); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-r.Failed():
		if !errors.Is(err, eventlog.ErrMissing) || !strings.Contains(err.Error(), data) || !strings.Contains(err.Error(), "was deleted, moved or replaced while the server used it") {
			t.Errorf("the server ends with: %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Error("the server goes on")
	}
	r.stop()
}

// Duplicates are no rows, but they take room in the log: a block that only counts
// them must close too.
func TestALogOfDuplicatesIsArchived(t *testing.T) {
	small := maps.Clone(shop)
	small["duet.yaml"] += "limits: {log: 1MiB}\n"
	small["streams/sales.yaml"] += "id: [id]\n"
	r := start(t, t.TempDir(), small)
	var b strings.Builder
	for i := 1; i <= 100; i++ {
		fmt.Fprintf(&b, `{"id":%d,"shop":"s%d","price":"%d.25","sold_at":"2026-01-01T00:%02d:%02dZ"}`+"\n", i, i%3, i, i/60, i%60)
	}
	var first schemas.Position // of the events; what comes after it are duplicates
	for try := 0; ; try++ {
		if used, limit := r.lane.log.Usage(); used > limit/4 { // it fills up from 40 % on
			break
		}
		_, err := r.ingest.Append(t.Context(), &duetv1.AppendRequest{
			Stream: "sales", Payload: &duetv1.AppendRequest_JsonLines{JsonLines: []byte(b.String())}, Producer: fmt.Sprint("p", try), ProducerSequence: 1,
		})
		if err != nil {
			t.Fatal(err)
		}
		if try == 0 {
			first = r.lane.log.Last()
		}
	}
	until(t, "archived duplicates", func() bool { return r.lane.archive.Through() > first })
	if runs := r.runner.List(0); len(runs) != 0 {
		t.Errorf("%d runs, want none", len(runs))
	}
	r.check(100, "")
	r.stop()
}
