package node

import (
	"maps"
	"strings"
	"testing"

	"duet/batch"
	"duet/batch/archive"
)

// The live half's control totals are the decoder's sums, not those of the tables that
// the archive is copied from: they are in the report, and one that differs fails the run.
func TestControlTotalsAreTheDecodersSums(t *testing.T) {
	data := t.TempDir()
	r := start(t, data, shop)
	r.check(100, r.add(1, 100))
	run := r.run(false)
	r.published(run, 1)
	sums := func(want archive.Totals) {
		t.Helper()
		rep, err := r.runner.Report(run.GetId())
		if err != nil {
			t.Fatal(err)
		}
		if len(rep.Views) != 1 || rep.Views[0].View != "by_shop" {
			t.Errorf("the report compares the views %v, want by_shop alone", rep.Views)
		}
		if len(rep.Streams) != 1 || len(rep.Streams[0].Live.Differences(want)) > 0 || !maps.Equal(rep.Streams[0].Live.Sums, want.Sums) {
			t.Errorf("the live totals are %+v, want %+v", rep.Streams, want)
		}
	}
	var want archive.Totals
	want.Received, want.Accepted = 100, 100
	want.Sums = map[string]string{"id": "5050", "price": "5075.0000"}
	sums(want)
	r.check(200, r.add(101, 200))
	r.end()

	// After a restart the sums continue from those of the archive.
	r = start(t, data, shop)
	defer r.end()
	r.check(201, r.add(201, 201))
	run = r.run(false)
	r.published(run, 2)
	want.Received, want.Accepted = 101, 101
	want.Sums = map[string]string{"id": "15251", "price": "15276.2500"}
	sums(want)

	r.check(202, r.add(202, 202))
	c := &r.lane.counters
	c.mu.Lock()
	sales := c.total["sales"]
	sales.Sums = archive.AddSums(sales.Sums, map[string]string{"price": "0.0001"})
	c.total["sales"] = sales
	c.mu.Unlock()
	done, err := r.runner.Wait(t.Context(), r.run(false).GetId())
	if err != nil {
		t.Fatal(err)
	}
	if done.State != batch.Failed || !strings.Contains(done.Reason, "sum(price)") {
		t.Errorf("the run with another sum: %+v", done)
	}
}

// A project without views has runs, too: they compare control totals.
func TestAProjectWithoutViewsHasRuns(t *testing.T) {
	files := maps.Clone(shop)
	delete(files, "views/by_shop.sql")
	data := t.TempDir()
	r := start(t, data, files)
	r.add(1, 100)
	r.published(r.run(true), 1)
	r.add(101, 200)
	r.published(r.run(false), 2)
	r.stop()
	r = start(t, data, files)
	r.stop()
}
