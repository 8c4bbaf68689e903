package node

import (
	"maps"
	"strings"
	"testing"

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
