package view

import (
	"flag"
	"os"
	"strings"
	"testing"

	"duet/schemas/project"
)

var updateFlag = flag.Bool("update", false, "rewrite the answers in testdata")

// golden checks the blocks of a file: a question, a line of dashes, the answer.
// Lines that begin with # before a question are comments.
func golden(t *testing.T, path string, answer func(question string) string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const line = "----\n"
	var out strings.Builder
	for rest := string(text); rest != ""; {
		question, after, ok := strings.Cut(rest, line)
		if !ok {
			out.WriteString(rest)
			break
		}
		// The answer ends at the first empty line.
		old := after
		next := ""
		if i := strings.Index("\n"+after, "\n\n"); i >= 0 {
			old, next = after[:i], after[i:]
		}
		body := question
		for strings.HasPrefix(body, "#") || strings.HasPrefix(body, "\n#") || strings.HasPrefix(body, "\n\n") {
			_, body, _ = strings.Cut(strings.TrimPrefix(body, "\n"), "\n")
		}
		body = strings.Trim(body, "\n")
		got := answer(body)
		if got != "" && !strings.HasSuffix(got, "\n") {
			got += "\n"
		}
		if got != old && !*updateFlag {
			t.Errorf("%s:\n%s\ngot:\n%swant:\n%s", path, body, got, old)
		}
		out.WriteString(question + line + got)
		rest = next
	}
	if *updateFlag {
		if err := os.WriteFile(path, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRefusedViews(t *testing.T) {
	c := newCompiler(t)
	golden(t, "testdata/refused.txt", func(sql string) string {
		v, faults := c.Compile(viewOf(sql))
		if (v == nil) != project.Faults(faults).Fatal() {
			t.Errorf("%s: view %v with faults %v", sql, v, faults)
		}
		for _, f := range faults {
			if f.Line < 1 || f.Column < 1 || f.Reason == "" || f.Remedy == "" {
				t.Errorf("%s: fault without place, reason or remedy: %+v", sql, f)
			}
			if strings.Contains(f.Reason, "cannot be compiled") {
				t.Errorf("%s: %v", sql, f)
			}
		}
		if len(faults) == 0 {
			return "ok"
		}
		return strings.ReplaceAll(project.Faults(faults).Error(), "views/v.sql:", "")
	})
}
