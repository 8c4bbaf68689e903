package search

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"duet/schemas/duetv1"
)

const null = "\x00NULL"

// canonical returns the same text for the same value, printed by DuckDB or by us.
func canonical(text, sqlType string) string {
	switch {
	case text == null:
		return text
	case sqlType == "DOUBLE" || sqlType == "FLOAT":
		f, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return text
		}
		if sqlType == "FLOAT" {
			f = float64(float32(f))
		}
		return strconv.FormatFloat(f+0, 'g', -1, 64) // -0 + 0 is 0
	case strings.HasPrefix(sqlType, "DECIMAL"): // DuckDB prints a DECIMAL(4,4) as .5
		if digits, neg := strings.CutPrefix(text, "-"); strings.HasPrefix(digits, ".") {
			text = map[bool]string{true: "-0", false: "0"}[neg] + digits
		}
	case strings.HasPrefix(sqlType, "TIME"):
		text = strings.Replace(text, "T", " ", 1)
		if strings.Contains(text, ".") {
			text = strings.TrimRight(strings.TrimRight(text, "0"), ".")
		}
	}
	return text
}

// textOf prints a value as DuckDB's cast to VARCHAR does.
func textOf(v *duetv1.Value) string {
	switch k := v.GetKind().(type) {
	case nil:
		return null
	case *duetv1.Value_BoolValue:
		return strconv.FormatBool(k.BoolValue)
	case *duetv1.Value_IntValue:
		return strconv.FormatInt(k.IntValue, 10)
	case *duetv1.Value_DoubleValue:
		return strconv.FormatFloat(k.DoubleValue, 'g', -1, 64)
	case *duetv1.Value_StringValue:
		return k.StringValue
	case *duetv1.Value_DecimalValue:
		return k.DecimalValue
	case *duetv1.Value_LocalValue:
		return k.LocalValue
	}
	return fmt.Sprint(v)
}

// rowsOf returns an answer's rows as canonical texts.
func rowsOf(res *duetv1.QueryResponse) [][]string {
	var out [][]string
	for _, row := range res.GetRows() {
		line := make([]string, len(row.GetValues()))
		for i, v := range row.GetValues() {
			line[i] = canonical(textOf(v), res.GetColumns()[i].GetType())
		}
		out = append(out, line)
	}
	return out
}

// exactText returns the part of an answer that every answer at the same position
// must share: its exact columns.
func exactText(res *duetv1.QueryResponse) string {
	var lines []string
	for _, row := range rowsOf(res) {
		var b strings.Builder
		for i, c := range res.GetColumns() {
			if c.GetExact() {
				b.WriteString(row[i] + "|")
			}
		}
		lines = append(lines, b.String())
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// plain runs a SELECT over the model's events.
func (w *world) plain(sql string, cols []*duetv1.Column) ([][]string, error) {
	rows, err := w.oracle.Query("SELECT COLUMNS(*)::VARCHAR FROM (" + sql + ")")
	if err != nil {
		return nil, fmt.Errorf("plain DuckDB: %w\n%s", err, sql)
	}
	defer rows.Close()
	names, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	if len(names) != len(cols) {
		return nil, fmt.Errorf("the answer has %d columns, plain DuckDB %d\n%s", len(cols), len(names), sql)
	}
	for i := range names {
		if names[i] != cols[i].GetName() {
			return nil, fmt.Errorf("column %d is %s, plain DuckDB's %s\n%s", i, cols[i].GetName(), names[i], sql)
		}
	}
	var out [][]string
	for rows.Next() {
		line := make([]*string, len(cols))
		dest := make([]any, len(cols))
		for i := range dest {
			dest[i] = &line[i]
		}
		if err := rows.Scan(dest...); err != nil {
			return nil, err
		}
		row := make([]string, len(cols))
		for i, s := range line {
			row[i] = null
			if s != nil {
				row[i] = canonical(*s, cols[i].GetType())
			}
		}
		out = append(out, row)
	}
	return out, rows.Err()
}

// compare returns an error that lists how an answer differs from plain DuckDB's.
func (w *world) compare(res *duetv1.QueryResponse, sql string) error {
	cols := res.GetColumns()
	want, err := w.plain(sql, cols)
	if err != nil {
		return err
	}
	keys := 0
	for keys < len(cols) && strings.HasPrefix(cols[keys].GetName(), "k") {
		keys++
	}
	got := map[string][]string{}
	for _, row := range rowsOf(res) {
		key := strings.Join(row[:keys], "|")
		if got[key] != nil {
			return fmt.Errorf("group %q is there twice\n%s", key, sql)
		}
		got[key] = row
	}
	var diffs []string
	for _, row := range want {
		key := strings.Join(row[:keys], "|")
		g := got[key]
		delete(got, key)
		if g == nil {
			diffs = append(diffs, fmt.Sprintf("group %q is missing; want %q", key, row))
			continue
		}
		for i := range row {
			if !alike(g[i], row[i], cols[i]) {
				diffs = append(diffs, fmt.Sprintf("group %q: %s (%s) is %q, want %q", key, cols[i].GetName(), cols[i].GetType(), g[i], row[i]))
			}
		}
	}
	for key := range got {
		diffs = append(diffs, fmt.Sprintf("group %q should not be there: %q", key, got[key]))
	}
	if len(diffs) == 0 {
		return nil
	}
	n := len(diffs)
	return fmt.Errorf("%d differences at %s:\n  %s\n%s", n, where(res.GetProof()), strings.Join(diffs[:min(n, 5)], "\n  "), sql)
}

// alike reports whether two values are equal; a DOUBLE may differ by what the
// order of operations changes. Sums are exact here, because every term is a
// multiple of 1/8.
func alike(got, want string, c *duetv1.Column) bool {
	if got == want {
		return true
	}
	if c.GetType() != "DOUBLE" || got == null || want == null {
		return false
	}
	g, err1 := strconv.ParseFloat(got, 64)
	x, err2 := strconv.ParseFloat(want, 64)
	return err1 == nil && err2 == nil && math.Abs(g-x) <= 1e-9*max(math.Abs(g), math.Abs(x))
}

func where(p *duetv1.Proof) string {
	at := func(ps []*duetv1.Position) uint64 {
		if len(ps) == 0 {
			return 0
		}
		return ps[0].GetSequence()
	}
	return fmt.Sprintf("generation %d, cut %d, live through %d", p.GetGeneration(), at(p.GetCut()), at(p.GetLiveThrough()))
}

// everything is a sequence after every event.
const everything = math.MaxInt64

// literal returns t as a SQL literal.
func literal(t time.Time) string { return "TIMESTAMP '" + t.Format("2006-01-02 15:04:05") + "'" }
