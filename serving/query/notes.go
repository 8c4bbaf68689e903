package query

import (
	"fmt"

	"duet/schemas/duetv1"
)

// notes says what a reader of an answer could misread.
func notes(v View, req *duetv1.QueryRequest, out *duetv1.QueryResponse) []string {
	var notes []string
	if v.Compiled.HasHaving() && (req.GetTotal() || len(req.GetGroupBy()) > 0) {
		notes = append(notes, fmt.Sprintf("the HAVING of view %s is applied after the rows are rolled up: it filters the rows of this answer, not those of the view", v.Compiled.Name))
	}
	if len(out.GetRows()) == 0 && (req.GetWhere() != "" || req.GetHaving() != "" || req.GetSince() != "" || req.GetUntil() != "") {
		note := "no row meets the condition"
		if t := out.GetProof().GetNewestEventTime(); t != nil {
			note += fmt.Sprintf("; the newest event of %s is of %s", v.Compiled.Stream, t.AsTime().Format("2006-01-02 15:04:05"))
		} else if req.GetAsOfGeneration() == 0 {
			note += fmt.Sprintf("; no event of %s has been counted yet", v.Compiled.Stream)
		}
		notes = append(notes, note)
	}
	return notes
}
