package node

import (
	"fmt"
	"testing"

	"duet/schemas/duetv1"
)

// An id is remembered among the last id_window ids, restart or not: events
// without an id between them take no place in the window.
func TestRestartRemembersIDsBeforeEventsWithoutOne(t *testing.T) {
	files := map[string]string{
		"duet.yaml":          shop["duet.yaml"],
		"streams/sales.yaml": "event_time: sold_at\nid: [id]\nid_window: 10\ncolumns:\n  id: BIGINT\n  sold_at: TIMESTAMP NOT NULL\n",
		"views/total.sql":    "SELECT count(*) AS n FROM sales\n",
	}
	data := t.TempDir()
	r := start(t, data, files)
	send := func(events int, known bool) string {
		t.Helper()
		text := ""
		for i := range events {
			id := "null"
			if known {
				id = fmt.Sprint(i)
			}
			text += fmt.Sprintf(`{"id":%s,"sold_at":"2026-01-01"}`+"\n", id)
		}
		res, err := r.ingest.Append(t.Context(), &duetv1.AppendRequest{Stream: "sales", Payload: &duetv1.AppendRequest_JsonLines{JsonLines: []byte(text)}})
		if err != nil {
			t.Fatal(err)
		}
		return res.GetToken()
	}
	send(10, true)
	r.published(r.run(false), 1)
	send(20, false)
	r.published(r.run(false), 2) // the archive's last file has no id
	r.stop()

	r = start(t, data, files)
	defer r.stop()
	res, err := r.views.Query(t.Context(), &duetv1.QueryRequest{View: "total", NotBefore: send(10, true)})
	if err != nil {
		t.Fatal(err)
	}
	if n := res.GetRows()[0].GetValues()[0].GetIntValue(); n != 30 {
		t.Fatalf("%d events count, want 30: the ids sent again are known", n)
	}
}
