package main

import (
	"math"
	"strings"
	"testing"
	"time"

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
		{Name: "country", Type: "VARCHAR"},
		{Name: "revenue", Type: "DECIMAL(38,4)", Unit: "GBP"},
		{Name: "share", Type: "DOUBLE"},
		{Name: "hour", Type: "TIMESTAMP"},
	}
	sampleRows = []*duetv1.Row{
		{Values: []*duetv1.Value{str(`Côte "d'Ivoire", north`), decimal("12345678901234567890.5000"), {Kind: &duetv1.Value_DoubleValue{DoubleValue: 0.1}}, {Kind: &duetv1.Value_LocalValue{LocalValue: "2026-11-21T14:00:00"}}}},
		{Values: []*duetv1.Value{null, decimal("-0.0500"), {Kind: &duetv1.Value_DoubleValue{DoubleValue: math.Inf(1)}}, null}},
	}
)

func TestRowsAreWrittenExactly(t *testing.T) {
	for f, want := range map[format]string{
		formatTable: `country                             revenue (GBP)  share  hour
───────────────────────────────────────────────────────────────────────────────
Côte "d'Ivoire", north  12345678901234567890.5000    0.1  2026-11-21 14:00:00
NULL                                      -0.0500   +Inf  NULL
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
		if err := f.print(&out, sampleColumns, sampleRows); err != nil {
			t.Fatal(err)
		}
		if out.String() != want {
			t.Errorf("%s:\n%s\nwant\n%s", f, out.String(), want)
		}
	}
}

func TestNoRowsAreValidOutput(t *testing.T) {
	for f, want := range map[format]string{formatCSV: "country,revenue,share,hour\n", formatJSON: "[]\n"} {
		var out strings.Builder
		if err := f.print(&out, sampleColumns, nil); err != nil || out.String() != want {
			t.Errorf("%s: %q, %v; want %q", f, out.String(), err, want)
		}
	}
}

func TestControlCharactersAreReplaced(t *testing.T) {
	var out strings.Builder
	rows := []*duetv1.Row{{Values: []*duetv1.Value{str("red\x1b[31m\nnext\u009b2J")}}}
	if err := formatTable.print(&out, []*duetv1.Column{{Name: "a", Type: "VARCHAR"}}, rows); err != nil {
		t.Fatal(err)
	}
	if strings.ContainsAny(out.String(), "\x1b\u009b") || strings.Count(out.String(), "\n") != 3 {
		t.Errorf("%q", out.String())
	}
}

func TestTimesOfTheCommandLine(t *testing.T) {
	for s, want := range map[string]string{
		"2026-11-21":                "2026-11-21T00:00:00Z",
		"2026-11-21 14:05:06":       "2026-11-21T14:05:06Z",
		"2026-11-21T14:05:06":       "2026-11-21T14:05:06Z",
		"2026-11-21 14:05":          "2026-11-21T14:05:00Z",
		"2026-11-21T14:00:00+01:00": "2026-11-21T13:00:00Z",
		"2026-11-21T14:00:00.25Z":   "2026-11-21T14:00:00.25Z",
	} {
		got, err := instant(s)
		if err != nil || got.Format(time.RFC3339Nano) != want {
			t.Errorf("%s: %s, %v; want %s", s, got.Format(time.RFC3339Nano), err, want)
		}
	}
	for _, s := range []string{"", "yesterday", "21.11.2026", "2026-02-30", "2026-11-21T25:00:00Z"} {
		if _, err := instant(s); err == nil {
			t.Errorf("%q was accepted", s)
		}
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
