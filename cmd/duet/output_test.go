package main

import (
	"math"
	"slices"
	"strings"
	"testing"

	"duet/schemas/duetv1"
)

func decimal(s string) *duetv1.Value {
	return &duetv1.Value{Kind: &duetv1.Value_DecimalValue{DecimalValue: s}}
}

func str(s string) *duetv1.Value {
	return &duetv1.Value{Kind: &duetv1.Value_StringValue{StringValue: s}}
}

var null = &duetv1.Value{}

var (
	sampleColumns = []*duetv1.Column{
		{Name: "country", Type: "VARCHAR", Role: duetv1.ColumnRole_COLUMN_ROLE_KEY},
		{Name: "revenue", Type: "DECIMAL(38,4)", Unit: "GBP", Role: duetv1.ColumnRole_COLUMN_ROLE_MEASURE},
		{Name: "share", Type: "DOUBLE", Role: duetv1.ColumnRole_COLUMN_ROLE_MEASURE},
		{Name: "hour", Type: "TIMESTAMP", Role: duetv1.ColumnRole_COLUMN_ROLE_TIME},
	}
	sampleRows = []*duetv1.Row{
		{Values: []*duetv1.Value{str(`Côte "d'Ivoire", north`), decimal("12345678901234567890.5000"), {Kind: &duetv1.Value_DoubleValue{DoubleValue: 0.1}}, {Kind: &duetv1.Value_LocalValue{LocalValue: "2026-11-21T14:00:00"}}}},
		{Values: []*duetv1.Value{null, decimal("-0.0500"), {Kind: &duetv1.Value_DoubleValue{DoubleValue: math.Inf(1)}}, null}},
	}
)

func TestRowsAreWrittenExactly(t *testing.T) {
	for f, want := range map[format]string{
		formatTable: `country                                   revenue (GBP)  share  hour
───────────────────────────────────────────────────────────────────────────────────
Côte "d'Ivoire", north  12,345,678,901,234,567,890.5000    0.1  2026-11-21 14:00:00
NULL                                            -0.0500   +Inf  NULL
`,
		formatCSV: `country,revenue,share,hour
"Côte ""d'Ivoire"", north",12345678901234567890.5000,0.1,2026-11-21 14:00:00
,-0.0500,+Inf,
`,
		formatJSON: `[
  {"country":"Côte \"d'Ivoire\", north","revenue":"12345678901234567890.5000","share":0.1,"hour":"2026-11-21T14:00:00"},
  {"country":null,"revenue":"-0.0500","share":"+Inf","hour":null}
]
`,
	} {
		var out strings.Builder
		if err := f.print(&terminal{out: &out}, sampleColumns, sampleRows); err != nil {
			t.Fatal(err)
		}
		if out.String() != want {
			t.Errorf("%s:\n%s\nwant\n%s", f, out.String(), want)
		}
	}
}

func integer(n int64) *duetv1.Value {
	return &duetv1.Value{Kind: &duetv1.Value_IntValue{IntValue: n}}
}

func double(f float64) *duetv1.Value {
	return &duetv1.Value{Kind: &duetv1.Value_DoubleValue{DoubleValue: f}}
}

// TestOnlyMeasuresAreGrouped checks that the digits of keys, attributes, ids and
// years are never grouped, and that columns without a role (of inspect) are not.
func TestOnlyMeasuresAreGrouped(t *testing.T) {
	column := func(name, sqlType string, role duetv1.ColumnRole) *duetv1.Column {
		return &duetv1.Column{Name: name, Type: sqlType, Role: role}
	}
	columns := []*duetv1.Column{
		column("customer", "BIGINT", duetv1.ColumnRole_COLUMN_ROLE_KEY), column("week", "BIGINT", duetv1.ColumnRole_COLUMN_ROLE_TIME),
		column("next", "BIGINT", duetv1.ColumnRole_COLUMN_ROLE_ATTRIBUTE), column("n", "BIGINT", duetv1.ColumnRole_COLUMN_ROLE_MEASURE),
		column("pieces", "HUGEINT", duetv1.ColumnRole_COLUMN_ROLE_MEASURE), column("last_id", "BIGINT", duetv1.ColumnRole_COLUMN_ROLE_MEASURE),
		column("year", "BIGINT", duetv1.ColumnRole_COLUMN_ROLE_MEASURE), column("top_sku", "VARCHAR", duetv1.ColumnRole_COLUMN_ROLE_MEASURE),
		column("sequence", "UBIGINT", duetv1.ColumnRole_COLUMN_ROLE_UNSPECIFIED),
	}
	n := integer(-1234567)
	rows := []*duetv1.Row{{Values: []*duetv1.Value{n, n, n, n, decimal("-1234567"), n, n, str("1234567"), n}}}
	var out strings.Builder
	if err := formatTable.print(&terminal{out: &out}, columns, rows); err != nil {
		t.Fatal(err)
	}
	got := strings.Fields(strings.Split(out.String(), "\n")[2])
	want := "-1234567 -1234567 -1234567 -1,234,567 -1,234,567 -1234567 -1234567 1234567 -1234567"
	if strings.Join(got, " ") != want {
		t.Errorf("got  %s\nwant %s", strings.Join(got, " "), want)
	}
}

// TestAColumnHasOneScale checks that a table prints all numbers of a column with
// the same number of decimals, and very small or large doubles with an exponent.
func TestAColumnHasOneScale(t *testing.T) {
	for name, c := range map[string]struct {
		sqlType string
		values  []*duetv1.Value
		want    string
	}{
		"doubles":        {"DOUBLE", []*duetv1.Value{double(0.5), double(1234), double(2.25), null}, "0.50 1,234.00 2.25 NULL"},
		"many digits":    {"DOUBLE", []*duetv1.Value{double(1.0 / 3), double(20)}, "0.333333 20.000000"},
		"whole doubles":  {"DOUBLE", []*duetv1.Value{double(5), double(20000)}, "5 20,000"},
		"small doubles":  {"DOUBLE", []*duetv1.Value{double(1e-9), double(0.5), double(0)}, "1e-09 0.5 0"},
		"large doubles":  {"DOUBLE", []*duetv1.Value{double(1e300), double(0.5)}, "1e+300 0.5"},
		"decimals":       {"DECIMAL(18,3)", []*duetv1.Value{decimal("1.5"), decimal("1200.125"), decimal("-3")}, "1.500 1,200.125 -3.000"},
		"not numbers":    {"DOUBLE", []*duetv1.Value{double(math.NaN()), double(0.25)}, "NaN 0.25"},
		"small decimals": {"DECIMAL(38,12)", []*duetv1.Value{decimal("0.000000000001"), decimal("7.000000000000")}, "0.000000000001 7.000000000000"},
	} {
		columns := []*duetv1.Column{{Name: "x", Type: c.sqlType, Role: duetv1.ColumnRole_COLUMN_ROLE_MEASURE}}
		var rows []*duetv1.Row
		for _, v := range c.values {
			rows = append(rows, &duetv1.Row{Values: []*duetv1.Value{v}})
		}
		var out strings.Builder
		if err := formatTable.print(&terminal{out: &out}, columns, rows); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(strings.Fields(out.String())[2:], " "); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

// TestNullIsNotAnEmptyString checks that NULL, the empty string and the string
// NULL differ in every format.
func TestNullIsNotAnEmptyString(t *testing.T) {
	columns := []*duetv1.Column{{Name: "a", Type: "VARCHAR", Role: duetv1.ColumnRole_COLUMN_ROLE_KEY}, {Name: "b", Type: "VARCHAR"}}
	rows := []*duetv1.Row{
		{Values: []*duetv1.Value{null, str("x")}}, {Values: []*duetv1.Value{str(""), str("x")}},
		{Values: []*duetv1.Value{str("NULL"), str("x")}}, {Values: []*duetv1.Value{str(`""`), str("x")}},
	}
	for f, want := range map[format][]string{
		formatTable: {"NULL    x", `""      x`, `"NULL"  x`, `"\"\""  x`},
		formatCSV:   {",x", `"",x`, "NULL,x", `"""""",x`},
		formatJSON:  {`  {"a":null,"b":"x"},`, `  {"a":"","b":"x"},`, `  {"a":"NULL","b":"x"},`, `  {"a":"\"\"","b":"x"}`},
	} {
		var out strings.Builder
		if err := f.print(&terminal{out: &out}, columns, rows); err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(out.String(), "\n")
		for i, line := range want {
			if !slices.Contains(lines, line) {
				t.Errorf("%s, row %d: no line %q in\n%s", f, i, line, out.String())
			}
		}
	}
}

func TestNoRowsAreValidOutput(t *testing.T) {
	for f, want := range map[format]string{formatCSV: "country,revenue,share,hour\n", formatJSON: "[]\n"} {
		var out strings.Builder
		if err := f.print(&terminal{out: &out}, sampleColumns, nil); err != nil || out.String() != want {
			t.Errorf("%s: %q, %v; want %q", f, out.String(), err, want)
		}
	}
}

func TestControlCharactersAreReplaced(t *testing.T) {
	var out strings.Builder
	rows := []*duetv1.Row{{Values: []*duetv1.Value{str("red\x1b[31m\nnext\u009b2J")}}}
	if err := formatTable.print(&terminal{out: &out}, []*duetv1.Column{{Name: "a", Type: "VARCHAR"}}, rows); err != nil {
		t.Fatal(err)
	}
	if strings.ContainsAny(out.String(), "\x1b\u009b") || strings.Count(out.String(), "\n") != 3 {
		t.Errorf("%q", out.String())
	}
}

func TestCountsAndSizes(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", -1234567: "-1,234,567", 100: "100", -100: "-100", 541909: "541,909"} {
		if got := count(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
	for n, want := range map[int64]string{0: "0 B", 999: "999 B", 1000: "1.0 kB", 12_345_678: "12 MB", 8_000_000_000: "8.0 GB", 999_999: "1.0 MB"} {
		if got := size(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}

// TestALogLineClearsTheStatusLine checks that a log line written while the
// status line is drawn starts on an empty line.
func TestALogLineClearsTheStatusLine(t *testing.T) {
	var out strings.Builder
	line := &statusLine{w: &out, tty: true}
	line.show("history: 7 %")
	_, _ = line.Write([]byte("level=INFO\n"))
	_, _ = line.Write([]byte("level=WARN\n"))
	if want := "\r\033[Khistory: 7 %\r\033[Klevel=INFO\nlevel=WARN\n"; out.String() != want {
		t.Errorf("%q", out.String())
	}
}

// TestAWideTableIsPrintedByRow checks that a table wider than the terminal is
// printed as one block per row, and stays a table where it fits or where there
// is no terminal.
func TestAWideTableIsPrintedByRow(t *testing.T) {
	const table = `country                                   revenue (GBP)  share  hour
───────────────────────────────────────────────────────────────────────────────────
Côte "d'Ivoire", north  12,345,678,901,234,567,890.5000    0.1  2026-11-21 14:00:00
NULL                                            -0.0500   +Inf  NULL
`
	const blocks = `── 1 ───────────────────────────────────────────────────────
country        Côte "d'Ivoire", north
revenue (GBP)  12,345,678,901,234,567,890.5000
share          0.1
hour           2026-11-21 14:00:00
── 2 ───────────────────────────────────────────────────────
country        NULL
revenue (GBP)  -0.0500
share          +Inf
hour           NULL
`
	for width, want := range map[int]string{0: table, 84: table, 60: blocks} {
		var out strings.Builder
		if err := formatTable.print(&terminal{out: &out, width: width}, sampleColumns, sampleRows); err != nil {
			t.Fatal(err)
		}
		if out.String() != want {
			t.Errorf("%d columns:\n%s\nwant\n%s", width, out.String(), want)
		}
	}
}

// TestDaysHaveNoTime checks that a table omits the time of day from buckets of
// whole days, and only from those.
func TestDaysHaveNoTime(t *testing.T) {
	local := func(s string) *duetv1.Value {
		return &duetv1.Value{Kind: &duetv1.Value_LocalValue{LocalValue: s}}
	}
	rows := []*duetv1.Row{{Values: []*duetv1.Value{local("2026-11-21T00:00:00")}}, {Values: []*duetv1.Value{null}}}
	for bucket, want := range map[string]string{"1 day": "2026-11-21", "3 months": "2026-11-21", "1 hour": "2026-11-21 00:00:00", "": "2026-11-21 00:00:00"} {
		columns := []*duetv1.Column{{Name: "at", Type: "TIMESTAMP", Role: duetv1.ColumnRole_COLUMN_ROLE_TIME, Bucket: bucket}}
		var out strings.Builder
		if err := formatTable.print(&terminal{out: &out}, columns, rows); err != nil {
			t.Fatal(err)
		}
		if got := strings.Split(out.String(), "\n")[2]; got != want {
			t.Errorf("bucket %q: %s, want %s", bucket, got, want)
		}
	}
}
