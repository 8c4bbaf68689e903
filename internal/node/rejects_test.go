package node

import (
	"fmt"
	"testing"

	"duet/schemas/duetv1"
)

// A reject names the file and line that it came from, before and after it is
// archived. An event that was sent without a file has neither.
func TestRejectsNameFileAndLine(t *testing.T) {
	r := start(t, t.TempDir(), shop)
	defer r.stop()
	good, bad := `{"id":1,"shop":"a","price":"1","sold_at":"2026-01-01T00:00:00Z"}`, `{"id":"x"}`
	send := func(file *duetv1.FileIdentity, text string) string {
		t.Helper()
		res, err := r.ingest.Append(t.Context(), &duetv1.AppendRequest{
			Stream: "sales", Payload: &duetv1.AppendRequest_JsonLines{JsonLines: []byte(text)}, File: file,
		})
		if err != nil {
			t.Fatal(err)
		}
		return res.GetToken()
	}
	send(&duetv1.FileIdentity{Chunk: make([]byte, 16), Digests: []uint64{1, 2, 3}, Name: "shops/2026.csv", Lines: []uint32{2, 5, 9}}, good+"\n"+bad+"\n"+bad)
	token := send(nil, bad)
	if _, err := r.views.Query(t.Context(), &duetv1.QueryRequest{View: "by_shop", NotBefore: token}); err != nil {
		t.Fatal(err)
	}
	check := func(when string) {
		t.Helper()
		res, err := r.ops.ListRejects(t.Context(), &duetv1.ListRejectsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, reject := range res.GetRejects() {
			got = append(got, fmt.Sprintf("%s:%d", reject.GetFile(), reject.GetLine()))
		}
		if want := "[:0 shops/2026.csv:9 shops/2026.csv:5]"; fmt.Sprint(got) != want {
			t.Fatalf("%s: rejects are at %v, want %s", when, got, want)
		}
	}
	check("live")
	r.published(r.run(true), 1)
	check("archived")
}
