package batch_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"duet/batch"
	"duet/batch/archive"
	"duet/batch/batchtest"
	"duet/batch/catalog"
	"duet/batch/recompute"
	"duet/internal/base/failpoint"
	"duet/schemas"
)

func TestUnexplainedDifferencesHoldTheOldGeneration(t *testing.T) {
	s := mustOpen(t, t.TempDir(), options{})
	s.mustAppend(t, 30)
	first := s.mustRun(t, batch.Request{})
	s.mustAppend(t, 30)
	s.world.SetFaults(batchtest.Faults{Tamper: func(view, query string) string {
		if view == "by_key" {
			return "SELECT * REPLACE ((c0 + 1)::DECIMAL(38,4) AS c0) FROM (" + query + ")"
		}
		return query
	}})
	run, err := s.run(batch.Request{})
	if err != nil || run.State != batch.Held || run.Verdict != recompute.Unexplained {
		t.Fatalf("run %+v, %v", run, err)
	}
	if g := s.catalog.Current(); g.Number != first.Generation || !s.hasAlarm(batch.AlarmHeld) {
		t.Fatalf("generation %d serves, alarms %v", g.Number, s.alarms)
	}
	r, err := s.runner.Report("")
	if err != nil || r.Run != run.ID {
		t.Fatalf("report %+v, %v", r, err)
	}
	i := slices.IndexFunc(r.Views, func(v recompute.ViewCheck) bool { return v.View == "by_key" })
	v := r.Views[i]
	if v.Different != v.Groups || v.Groups != 8 || v.Cells != 3*v.Groups || len(v.Largest) != 8 || v.OnlyLive+v.OnlyBatch != 0 {
		t.Fatalf("check %+v", v)
	}
	nullKey := false
	for _, d := range v.Largest {
		nullKey = nullKey || d.Key[0].Value == nil
		if d.Key[0].Column != "k" || len(d.Columns) != 1 || d.Columns[0].Column != "revenue" || !archive.EqualDecimal(*d.Columns[0].From,
			archive.AddSums(map[string]string{"": *d.Columns[0].To}, map[string]string{"": "1"})[""]) {
			t.Fatalf("difference %+v", d)
		}
	}
	if !nullKey {
		t.Error("the group with the NULL key is not among the differences")
	}
	s.mustCheck(t)
	// A full run finds the same; accepting publishes it, with its report.
	run = s.mustRun(t, batch.Request{Full: true, Accept: true})
	if r, err = s.runner.Report(run.ID); err != nil || !r.Accepted || r.Verdict != recompute.Unexplained {
		t.Fatalf("report %+v, %v", r, err)
	}
	s.mustCheck(t)
}

func TestGroupsOfOneHalfOnlyAreFound(t *testing.T) {
	s := mustOpen(t, t.TempDir(), options{})
	s.mustAppend(t, 60)
	s.world.SetFaults(batchtest.Faults{Tamper: func(view, query string) string {
		if view == "by_key" {
			return "SELECT CASE WHEN k0 = 'k3' THEN 'k9' ELSE k0 END AS k0, * EXCLUDE (k0) FROM (" + query + ")"
		}
		return query
	}})
	run, err := s.run(batch.Request{})
	if err != nil || run.State != batch.Held {
		t.Fatalf("run %+v, %v", run, err)
	}
	r, _ := s.runner.Report(run.ID)
	i := slices.IndexFunc(r.Views, func(v recompute.ViewCheck) bool { return v.View == "by_key" })
	if v := r.Views[i]; v.OnlyBatch != 1 || v.OnlyLive != 1 || v.Groups != 9 || v.Different != 0 || len(v.Largest) != 2 {
		t.Fatalf("check %+v", v)
	}
	if !strings.Contains(run.Reason, "view by_key: 0 of 21 cells differ, 1 groups only live, 1 only batch") {
		t.Errorf("reason %q", run.Reason)
	}
}

func TestUnequalTotalsFailEvenIfAccepted(t *testing.T) {
	s := mustOpen(t, t.TempDir(), options{})
	s.mustAppend(t, 30)
	s.mustRun(t, batch.Request{})
	s.mustAppend(t, 30)
	for _, tamper := range []func(*archive.Totals){
		func(t *archive.Totals) { t.Accepted--; t.Received-- },
		func(t *archive.Totals) { t.Rejected++; t.Received++ },
		func(t *archive.Totals) { t.Sums["price"] += "1" },
	} {
		s.world.SetFaults(batchtest.Faults{Totals: func(all map[string]archive.Totals) {
			x := all[batchtest.Stream]
			tamper(&x)
			all[batchtest.Stream] = x
		}})
		for _, full := range []bool{false, true} {
			run, err := s.run(batch.Request{Full: full, Accept: true})
			if err != nil || run.State != batch.Failed || run.Verdict != recompute.Mismatch || !strings.Contains(run.Reason, "stream orders (live, batch): ") {
				t.Fatalf("full %t: run %+v, %v", full, run, err)
			}
		}
	}
	if !s.hasAlarm(batch.AlarmMismatch) {
		t.Error("no alarm")
	}
	s.world.SetFaults(batchtest.Faults{})
	s.mustRun(t, batch.Request{})
	s.mustCheck(t)
}

// A stream that the archive lacks is compared too (H6).
func TestAStreamOfTheLiveHalfOnlyIsAMismatch(t *testing.T) {
	some := archive.Totals{Account: schemas.Account{Received: 5, Accepted: 5}}
	both := map[string]archive.Totals{"orders": some}
	if r := recompute.CompareTotals(recompute.Report{}, map[string]archive.Totals{"orders": some, "idle": {}}, both); r.Verdict != recompute.Equal || len(r.Streams) != 1 {
		t.Errorf("equal totals: %+v", r)
	}
	r := recompute.CompareTotals(recompute.Report{}, map[string]archive.Totals{"orders": some, "payments": some}, both)
	if r.Verdict != recompute.Mismatch || !strings.Contains(r.Differing(), "payments") {
		t.Errorf("a stream that only the live half has: %+v", r)
	}
}

func TestAViewThatRaisesIsSuspendedAloneAndHealedByItsDefinition(t *testing.T) {
	const poison = 33
	var healed atomic.Bool
	views := func() []recompute.View {
		vs := batchtest.Views()
		if healed.Load() {
			for i := range vs {
				if vs[i].Name == "risky" {
					vs[i].Definition = "risky-2"
					vs[i].Partial = strings.Replace(vs[i].Partial, "CAST(qty AS TINYINT)", "TRY_CAST(qty AS TINYINT)", 1)
				}
			}
		}
		return vs
	}
	s := mustOpen(t, t.TempDir(), options{world: batchtest.Config{Poison: poison}, runner: batch.Config{Views: views}})
	s.mustAppend(t, 20)
	s.mustRun(t, batch.Request{})
	s.mustAppend(t, 60)
	for i, full := range []bool{false, false, true} {
		run := s.mustRun(t, batch.Request{Full: full})
		v := s.catalog.Current().View("risky")
		if v.Suspended == nil || v.Suspended.At != batchtest.At(poison) || v.Suspended.Record != 0 || !strings.Contains(v.Suspended.Message, "1000") {
			t.Fatalf("run %d: view %+v", i, v.Suspended)
		}
		if !slices.Equal(run.Suspended, []string{"risky"}) {
			t.Fatalf("run %+v", run)
		}
		s.mustCheck(t, "risky")
		s.mustAppend(t, 10)
	}
	if !s.hasAlarm(batch.AlarmSuspended) {
		t.Error("no alarm")
	}
	healed.Store(true)
	run := s.mustRun(t, batch.Request{})
	if v := s.catalog.Current().View("risky"); v.Suspended != nil || v.Definition != "risky-2" {
		t.Fatalf("view %+v", v)
	}
	r, err := s.runner.Report(run.ID)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(r.Views, func(v recompute.ViewCheck) bool { return v.View == "risky" })
	if r.Views[i].Cause != batch.CauseDefinition || r.Views[i].Missing != batch.CauseDefinition {
		t.Errorf("check %+v", r.Views[i])
	}
}

func TestASpanWithoutEventsNamesTheBasesFiles(t *testing.T) {
	s := mustOpen(t, t.TempDir(), options{})
	s.mustAppend(t, 30)
	s.mustRun(t, batch.Request{})
	before := s.catalog.Current()
	run := s.mustRun(t, batch.Request{Accept: true}) // else it would end as unchanged
	after := s.catalog.Current()
	if after.Number != before.Number+1 || after.Cut.Position() <= before.Cut.Position() || run.Attempts != 0 {
		t.Fatalf("generation %+v after %+v, run %+v", after, before, run)
	}
	for i, v := range after.Views {
		if v.File != before.Views[i].File {
			t.Errorf("view %s has another file", v.Name)
		}
	}
	s.mustCheck(t)
}

func TestACarriedFileThatChangedIsNeverServed(t *testing.T) {
	s := mustOpen(t, t.TempDir(), options{})
	s.mustAppend(t, 30)
	s.mustRun(t, batch.Request{})
	path := s.catalog.Path(s.catalog.Current().Views[0])
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	run, err := s.run(batch.Request{Accept: true}) // no event has come: every view is carried over
	if err != nil || run.State != batch.Failed || !strings.Contains(run.Reason, path) {
		t.Fatalf("run %+v, %v; want a failure that names %s", run, err, path)
	}
	if n := s.world.Served(); n != 1 {
		t.Fatalf("generation %d serves", n)
	}
}

func TestAskingAgainAndAskingTooMuch(t *testing.T) {
	gate, entered := make(chan struct{}), make(chan struct{}, 10)
	s := mustOpen(t, t.TempDir(), options{})
	s.world.SetFaults(batchtest.Faults{Fail: func(op string) error {
		if op == "cut" {
			entered <- struct{}{}
			<-gate
		}
		return nil
	}})
	s.mustAppend(t, 10)
	a, err := s.runner.Run(batch.Request{RequestID: "a"})
	if err != nil {
		t.Fatal(err)
	}
	<-entered
	again, err := s.runner.Run(batch.Request{RequestID: "a", Full: true})
	if err != nil || again.ID != a.ID {
		t.Fatalf("asked again: %+v, %v", again, err)
	}
	b, err := s.runner.Run(batch.Request{Full: true, RequestID: "b"})
	if err != nil || b.State != batch.Queued {
		t.Fatalf("second run: %+v, %v", b, err)
	}
	var busy *batch.BusyError
	if _, err := s.runner.Run(batch.Request{}); !errors.As(err, &busy) || busy.Running != a.ID || busy.Queued != b.ID {
		t.Fatalf("third run: %v", err)
	}
	close(gate)
	for _, id := range []string{a.ID, b.ID} {
		run, err := s.runner.Wait(context.Background(), id)
		if err != nil || run.State != batch.Published {
			t.Fatalf("run %+v, %v", run, err)
		}
	}
	if again, err := s.runner.Run(batch.Request{RequestID: "b"}); err != nil || again.ID != b.ID || again.Generation != 2 {
		t.Fatalf("asked again when it was done: %+v, %v", again, err)
	}
	if got := s.runner.List(0); len(got) != 2 || got[0].ID != b.ID {
		t.Errorf("history %+v", got)
	}
}

func TestStopEndsTheRunAndTheNextStartSaysSo(t *testing.T) {
	dir := t.TempDir()
	s, err := open(dir, options{})
	if err != nil {
		t.Fatal(err)
	}
	entered := make(chan struct{}, 1)
	s.world.SetFaults(batchtest.Faults{Fail: func(op string) error {
		if op == "export" {
			select {
			case entered <- struct{}{}:
			default:
			}
			return errTest
		}
		return nil
	}})
	s.mustAppend(t, 10)
	run, err := s.run(batch.Request{})
	if err != nil || run.State != batch.Failed || !strings.Contains(run.Reason, errTest.Error()) {
		t.Fatalf("run %+v, %v", run, err)
	}
	s.world.SetFaults(batchtest.Faults{})
	s.archiver.Stop() // the archive never reaches the cut: the run waits
	waiting, err := s.runner.Run(batch.Request{})
	if err != nil {
		t.Fatal(err)
	}
	queued, err := s.runner.Run(batch.Request{})
	if err != nil {
		t.Fatal(err)
	}
	s.close()
	s.close() // stopping twice is fine
	s = mustOpen(t, dir, options{})
	for _, id := range []string{waiting.ID, queued.ID} {
		run, err := s.runner.Get(id)
		if err != nil || run.State != batch.Failed || run.Reason != batch.ErrStopped.Error() {
			t.Errorf("run %+v, %v", run, err)
		}
	}
	s.mustRun(t, batch.Request{})
	s.mustCheck(t)
}

// Start, Stop and Run are called at once, in any order. What was accepted ends, and
// nothing is accepted after Stop.
func TestLifecycleUnderStress(t *testing.T) {
	s := mustOpen(t, t.TempDir(), options{})
	for range 50 {
		r, err := batch.NewRunner(batch.Config{
			Dir: t.TempDir(), Archive: s.archive, Catalog: s.catalog, Live: s.world, Views: batchtest.Views,
			Child: func() *exec.Cmd { return play("recompute") }, Fatal: func(err error) { t.Error(err) },
		})
		if err != nil {
			t.Fatal(err)
		}
		var calls sync.WaitGroup
		calls.Go(func() { _ = r.Start(context.Background()) })
		calls.Go(r.Stop)
		calls.Go(func() {
			if run, err := r.Run(batch.Request{}); err == nil {
				if run, err = r.Wait(context.Background(), run.ID); err != nil || !run.State.Final() {
					t.Errorf("run %+v, %v", run, err)
				}
			} else if !errors.Is(err, batch.ErrStopped) {
				t.Error(err)
			}
		})
		calls.Wait()
		r.Stop()
		if _, err := r.Run(batch.Request{}); !errors.Is(err, batch.ErrStopped) {
			t.Errorf("a run after Stop: %v", err)
		}
		if err := r.Start(context.Background()); err == nil {
			t.Error("started after Stop")
		}
	}
}

func TestARunnerWithoutAChildIsRefused(t *testing.T) {
	s := mustOpen(t, t.TempDir(), options{})
	if _, err := batch.NewRunner(batch.Config{
		Dir: t.TempDir(), Archive: s.archive, Catalog: s.catalog, Live: s.world, Views: batchtest.Views, Fatal: func(error) {},
	}); err == nil || !strings.Contains(err.Error(), "Child") {
		t.Errorf("a runner without a child: %v", err)
	}
}

func TestAChildThatDiesLeavesTheOldGeneration(t *testing.T) {
	for _, point := range []string{"recompute.started", "recompute.written", "recompute.computed", "recompute.finished"} {
		t.Run(point, func(t *testing.T) {
			s := mustOpen(t, t.TempDir(), options{})
			s.mustAppend(t, 30)
			s.mustRun(t, batch.Request{})
			t.Setenv(failpoint.Env, point) // the children inherit it
			s.mustAppend(t, 30)
			run, err := s.run(batch.Request{})
			if err != nil || run.State != batch.Failed || run.Attempts != 2 || !strings.Contains(run.Reason, "signal 9") {
				t.Fatalf("run %+v, %v", run, err)
			}
			os.Unsetenv(failpoint.Env)
			s.mustCheck(t)
			s.mustRun(t, batch.Request{Full: true})
			s.mustCheck(t)
		})
	}
}

func TestASwitchThatFailsEndsTheProcessAndRecoveryLoadsIt(t *testing.T) {
	for _, c := range []struct {
		name string
		stop bool // while it switches
	}{{"while it runs", false}, {"while it is stopped", true}} {
		t.Run(c.name, func(t *testing.T) { switchThatFails(t, c.stop) })
	}
}

func switchThatFails(t *testing.T, stop bool) {
	dir := t.TempDir()
	s, err := open(dir, options{})
	if err != nil {
		t.Fatal(err)
	}
	s.mustAppend(t, 30)
	s.mustRun(t, batch.Request{})
	s.mustAppend(t, 30)
	s.world.SetFaults(batchtest.Faults{Fail: func(op string) error {
		if op != "switch" {
			return nil
		}
		if stop {
			go s.runner.Stop()
			for _, err := s.runner.Run(batch.Request{}); !errors.Is(err, batch.ErrStopped); _, err = s.runner.Run(batch.Request{}) {
			}
		}
		return errTest
	}})
	run, err := s.run(batch.Request{})
	s.runner.Stop()
	if err != nil || run.State != batch.Failed || s.fatal == nil || run.Generation != 2 {
		t.Fatalf("run %+v, %v, fatal %v", run, err, s.fatal)
	}
	if _, err := s.runner.Run(batch.Request{}); err == nil {
		t.Fatal("a run started after a failed switch")
	}
	s.close()
	s = mustOpen(t, dir, options{})
	if n := s.world.Served(); n != 2 {
		t.Fatalf("recovered at generation %d", n)
	}
	s.mustCheck(t)
	s.mustAppend(t, 10)
	s.mustRun(t, batch.Request{})
	s.mustCheck(t)
}

func TestRollbackToAnyKeptGeneration(t *testing.T) {
	s := mustOpen(t, t.TempDir(), options{keep: catalog.Keep{Last: 12}})
	for range 10 {
		s.mustAppend(t, 13)
		s.mustRun(t, batch.Request{})
	}
	for target := uint64(1); target <= 10; target++ {
		run, err := s.runner.Rollback(target, "a bad price list", "")
		if err != nil {
			t.Fatal(err)
		}
		if run, err = s.runner.Wait(context.Background(), run.ID); err != nil || run.State != batch.Published {
			t.Fatalf("rollback to %d: %+v, %v", target, run, err)
		}
		old, err := s.catalog.Get(target)
		if err != nil {
			t.Fatal(err)
		}
		g := s.catalog.Current()
		if g.Kind != catalog.Rollback || g.Of != target || g.Cut.Position() != old.Cut.Position() || g.Number <= run.Base || g.Views[0].File != old.Views[0].File {
			t.Fatalf("generation %+v", g)
		}
		s.mustCheck(t)
		if info := s.runner.Schedule(); !info.Paused || !strings.Contains(info.Reason, "a bad price list") {
			t.Fatalf("schedule %+v", info)
		}
		s.mustAppend(t, 5)
		s.mustCheck(t)
		if target%4 == 0 { // runs by hand go on from there
			if err := s.runner.Resume(); err != nil {
				t.Fatal(err)
			}
			s.mustRun(t, batch.Request{Full: target == 8})
			s.mustCheck(t)
		}
		if err := s.catalog.Pin(target + 1); err != nil && target < 10 {
			t.Fatal(err)
		}
	}
	var gone *catalog.NotKeptError
	if _, err := s.runner.Rollback(999, "", ""); !errors.As(err, &gone) {
		t.Errorf("rollback to 999: %v", err)
	}
}

func TestKeepPolicyAndPinsDecideWhatStays(t *testing.T) {
	var clock atomic.Int64
	set := func(now time.Time) { clock.Store(now.Unix()) }
	set(time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC))
	dir := t.TempDir()
	s := mustOpen(t, dir, options{keep: catalog.Keep{Last: 2, Daily: 3, Monthly: 2}, runner: batch.Config{Now: func() time.Time { return time.Unix(clock.Load(), 0).UTC() }}})
	kept := func() []uint64 { return s.catalog.Current().Kept }
	for day := range 40 { // two runs a day
		set(time.Date(2026, 1, 1+day, 12, 0, 0, 0, time.UTC))
		s.mustRun(t, batch.Request{Accept: true})
		set(time.Date(2026, 1, 1+day, 13, 0, 0, 0, time.UTC))
		if day%5 == 0 {
			s.mustAppend(t, 3)
		}
		s.mustRun(t, batch.Request{Accept: true})
		if day == 9 {
			if err := s.catalog.Pin(20); err != nil {
				t.Fatal(err)
			}
		}
	}
	// 80 runs: the last two, the last of 3 days (76, 78 and 80), of January (62), the pin.
	if got, want := kept(), []uint64{20, 62, 76, 78, 79, 80}; !slices.Equal(got, want) {
		t.Fatalf("kept %v, want %v", got, want)
	}
	entries, err := os.ReadDir(dir + "/generations")
	if err != nil || len(entries) != 6+1+2 { // floor.json, cells, pins
		t.Fatalf("%d entries, %v", len(entries), err)
	}
	for _, n := range kept() {
		g, err := s.catalog.Get(n)
		if err == nil {
			err = s.catalog.Verify(g)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	named := map[string]bool{}
	list, _ := s.catalog.List()
	for _, g := range list {
		for _, v := range g.Views {
			named[v.File] = true
		}
	}
	for _, v := range batchtest.Views() {
		files, _ := os.ReadDir(dir + "/generations/cells/" + v.Name)
		for _, f := range files {
			if !named["cells/"+v.Name+"/"+f.Name()] {
				t.Errorf("file %s is an orphan", f.Name())
			}
		}
	}
	if err := s.catalog.Unpin(20); err != nil {
		t.Fatal(err)
	}
	s.mustRun(t, batch.Request{Accept: true})
	if slices.Contains(kept(), 20) {
		t.Errorf("kept %v after unpinning 20", kept())
	}
}

// Finding the event that a view cannot compute reads the archive about twice, and
// then only the file that holds the event.
func TestAPoisonedEventIsFoundWithFewScans(t *testing.T) {
	var probes, rows atomic.Int64
	o := options{world: batchtest.Config{Poison: 170, Block: 4}, archive: archive.Config{MergeFiles: 1000}}
	o.runner.Hooks.RunChanged = func(run batch.Run) {
		if p := run.Progress; p != nil && p.Step == "locate" {
			probes.Add(1)
			rows.Add(p.Rows)
		}
	}
	s := mustOpen(t, t.TempDir(), o)
	s.mustAppend(t, 240)
	run := s.mustRun(t, batch.Request{})
	v := s.catalog.Current().View("risky")
	if v.Suspended == nil || v.Suspended.At != batchtest.At(170) || v.Suspended.Record != 0 {
		t.Fatalf("run %+v, view %+v", run, v)
	}
	files := s.archive.Current().FilesFor(batchtest.Stream, 0, s.archive.Through())
	var all int64
	for _, f := range files {
		all += f.Rows
	}
	t.Logf("%d files with %d rows: %d probes over %d rows", len(files), all, probes.Load(), rows.Load())
	if len(files) < 50 {
		t.Fatalf("the archive has %d files", len(files))
	}
	// Two probes a step at most: over 60 files, 4 messages and 5 events.
	if probes.Load() > 2*(6+2+3) || rows.Load() > 3*all {
		t.Errorf("%d probes over %d rows", probes.Load(), rows.Load())
	}
}
