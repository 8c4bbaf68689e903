package view

import (
	"errors"
	"os"
	"strings"
	"testing"
)

// A condition is either a *ConditionError with a column within the text, or SQL
// that runs over cells and returns the same columns.
func FuzzCondition(f *testing.F) {
	text, err := os.ReadFile("testdata/options.txt")
	if err != nil {
		f.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		for _, option := range []string{"where: ", "having: "} {
			if s, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), option); ok {
				f.Add(s)
			}
		}
	}
	c := newCompiler(f)
	e := newEngine(f)
	v := mustCompile(f, c, optionsView)
	e.exec("CREATE TABLE cells (" + v.CellColumns() + ")")
	f.Fuzz(func(t *testing.T, s string) {
		for _, o := range []Options{{Where: s}, {Having: s}} {
			sql, cols, err := v.FinalSQL("cells", o)
			var cerr *ConditionError
			if errors.As(err, &cerr) {
				if cerr.Column < 1 || cerr.Column > len(s)+1 {
					t.Errorf("%q: column %d", s, cerr.Column)
				}
				continue
			}
			if err != nil {
				t.Fatalf("%q: %v", s, err)
			}
			rows, err := e.db.Query(sql)
			if err != nil {
				continue // a constant that raises, such as CAST('x' AS INTEGER)
			}
			names, _ := rows.Columns()
			rows.Close()
			if len(names) != len(cols) {
				t.Fatalf("%q answers %v", s, names)
			}
		}
	})
}
