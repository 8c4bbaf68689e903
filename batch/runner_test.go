package batch_test

import (
	"testing"

	"duet/batch"
	"duet/batch/recompute"
)

func TestRunsPublishWhatPlainSQLSays(t *testing.T) {
	s := mustOpen(t, t.TempDir(), options{})
	s.mustCheck(t)
	for i, req := range []batch.Request{{}, {}, {Full: true}, {}, {}, {Full: true}} {
		s.mustAppend(t, 37)
		s.mustCheck(t)
		run := s.mustRun(t, req)
		if run.Verdict != recompute.Equal || run.Generation != uint64(i+1) {
			t.Fatalf("run %+v", run)
		}
		s.mustCheck(t)
		r, err := s.runner.Report(run.ID)
		if err != nil || len(r.Streams) != 1 || len(r.Streams[0].Batch.Sums) != 2 || len(r.Views) != 4 {
			t.Fatalf("report %+v, %v", r, err)
		}
	}
	t.Logf("%+v", s.runner.List(1)[0].Steps)
}
