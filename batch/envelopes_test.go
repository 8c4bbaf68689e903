package batch_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"duet/batch/archive"
	"duet/batch/batchtest"
	"duet/batch/recompute"
)

// The child counts received, accepted, duplicate and rejected events from the
// archive's files; it does not copy them from the manifest.
func TestTheChildCountsEveryVerdictFromFiles(t *testing.T) {
	ctx := context.Background()
	s := mustOpen(t, t.TempDir(), options{noLoop: true, world: batchtest.Config{Seed: 11}})
	s.mustAppend(t, 50)
	s.mustArchive(t)
	m := s.archive.Current()
	files := m.FilesFor(batchtest.Stream, 0, s.archive.Through())
	for _, c := range []struct {
		what   string
		change func(*archive.Totals)
	}{
		{"", func(*archive.Totals) {}},
		{"received", func(t *archive.Totals) { t.Received++; t.Duplicate++ }},
		{"duplicate", func(t *archive.Totals) { t.Duplicate++; t.Rejected-- }},
		{"rejected", func(t *archive.Totals) { t.Rejected++; t.Duplicate-- }},
		{"accepted", func(t *archive.Totals) { t.Accepted++; t.Duplicate-- }},
	} {
		totals := m.Streams[batchtest.Stream]
		c.change(&totals)
		job := recompute.Job{
			Run: "counts", Dir: t.TempDir(), Archive: s.archive.Dir(), Through: s.archive.Through(), Full: true, Threads: 1,
			Streams:   []recompute.StreamJob{{Name: batchtest.Stream, Files: files, Totals: totals}},
			Envelopes: m.FilesFor(archive.Envelopes, 0, s.archive.Through()),
		}
		child, err := recompute.Start(ctx, play("recompute"), job, recompute.Watch{Progress: func(recompute.Progress) {}, Silent: func(time.Time) {}})
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Compare(recompute.Live{Totals: m.Streams}); err != nil {
			t.Fatal(err)
		}
		result, err := child.Wait()
		var failed *recompute.ChildError
		switch {
		case c.what == "" && err != nil:
			t.Fatal(err)
		case c.what == "":
			if d := result.Report.Streams; len(d) != 1 || d[0].Batch.Account != m.Streams[batchtest.Stream].Account {
				t.Errorf("counted %+v, the manifest has %+v", d, m.Streams[batchtest.Stream])
			}
		case !errors.As(err, &failed) || !failed.Mismatch || !strings.Contains(failed.Message, c.what):
			t.Errorf("a manifest with other %s events: %v", c.what, err)
		}
	}
}
