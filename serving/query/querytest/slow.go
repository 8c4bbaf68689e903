package querytest

import (
	"fmt"
	"strings"

	"duet/schemas/duetv1"
)

// Slow returns a query of one of the fixture's views that computes for seconds
// and that DuckDB does not interrupt: it does so between vectors only, and all
// rows are in one. It takes as many steps a row as a condition may.
func Slow(view string) *duetv1.QueryRequest {
	a, b := strings.Repeat("xy", 440), strings.Repeat("yz", 500)
	return &duetv1.QueryRequest{View: view, Where: fmt.Sprintf("levenshtein('%s' || coalesce(country, ''), '%s') >= 0", a, b)}
}
