package serving

import (
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"duet/schemas/duetv1"
	"duet/serving/query/querytest"
)

// Files that differ from what runs are reported by status, queries and the page.
func TestChangedFilesAreReported(t *testing.T) {
	folder := fstest.MapFS{}
	for name, text := range querytest.Files {
		folder[name] = &fstest.MapFile{Data: []byte(text)}
	}
	now := testNow
	r := opened(t, func(c *Config) { c.Folder, c.Now = folder, func() time.Time { return now } })
	report := func() (status, notes []string, page string) {
		s, err := duetv1.NewOperateServiceClient(r.conn).GetStatus(t.Context(), &duetv1.GetStatusRequest{})
		r.must(err)
		q, err := duetv1.NewViewServiceClient(r.conn).Query(t.Context(), &duetv1.QueryRequest{View: "everything"})
		r.must(err)
		_, page = r.get(t, "/")
		return s.GetProjectChangedFiles(), q.GetNotes(), page
	}
	if status, notes, page := report(); len(status) != 0 || len(notes) != 0 || strings.Contains(page, "differ from what the server runs") {
		t.Fatalf("nothing has changed: %v, %v", status, notes)
	}
	folder["views/sales.sql"] = &fstest.MapFile{Data: []byte("SELECT 1 FROM")}
	folder["views/new.sql"] = &fstest.MapFile{Data: []byte("SELECT count(*) AS n FROM orders")}
	delete(folder, "views/sales.yaml")
	now = now.Add(changedEvery)
	status, notes, page := report()
	const want = "views/new.sql, views/sales.sql, views/sales.yaml"
	if strings.Join(status, ", ") != want || len(notes) != 1 || !strings.Contains(notes[0], want) || !strings.Contains(page, want) {
		t.Errorf("%v, %v", status, notes)
	}
}
