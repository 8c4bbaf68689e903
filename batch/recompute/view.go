package recompute

import (
	"fmt"

	"duet/schemas/view"
)

// FromView returns the SQL text of a compiled view.
func FromView(v *view.View) (View, error) {
	final, _, err := v.FinalSQL(CellsTable, view.Options{})
	if err != nil {
		return View{}, fmt.Errorf("view %s: %w", v.Name, err)
	}
	out := View{
		Name: v.Name, Stream: v.Stream, Definition: v.Definition,
		Partial: v.PartialSQL(RowsTable), Merge: v.MergeSQL(CellsTable), Final: final,
	}
	for _, k := range v.Keys {
		out.Keys = append(out.Keys, Column{Name: k.Name, Type: k.Type, Exact: true, Label: v.Columns[k.Column].Name})
	}
	for _, c := range v.Cells {
		out.Cells = append(out.Cells, Column{Name: c.Name, Type: c.Type, Exact: c.Exact, Magnitude: c.Magnitude})
	}
	return out, nil
}
