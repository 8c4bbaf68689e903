package querytest

import (
	"fmt"
	"strings"

	"duet/schemas/duetv1"
)

// Slow returns a query of one of the fixture's views that computes for seconds
// and that DuckDB does not interrupt: it does so between vectors only, and all
// rows are in one. The request is small; its texts grow while it is computed.
func Slow(view string) *duetv1.QueryRequest {
	grown := fmt.Sprintf("replace('%s', 'a', '%s')", strings.Repeat("a", 130), strings.Repeat("xy", 10))
	return &duetv1.QueryRequest{View: view, Where: fmt.Sprintf("levenshtein(%[1]s || coalesce(country, ''), reverse(%[1]s)) >= 0", grown)}
}
