package query

import (
	"testing"

	"google.golang.org/protobuf/types/known/timestamppb"

	"duet/schemas/duetv1"
)

func text(s string) *duetv1.Value    { return stringValue(s) }
func decimal(s string) *duetv1.Value { return decimalValue(s) }

func TestParametersBecomeLiterals(t *testing.T) {
	params := map[string]*duetv1.Value{
		"s": text(`O'Brien`), "evil": text(`x' OR 1=1 --`), "i": intValue(5), "neg": intValue(-5), "n": {},
		"d": decimal("12.50"), "f": {Kind: &duetv1.Value_DoubleValue{DoubleValue: 1e300}},
		"day": localValue("2026-11-21"), "ts": localValue("2026-11-21T14:00:00"),
		"at":   {Kind: &duetv1.Value_InstantValue{InstantValue: timestamppb.New(timestamppb.New(timestamppb.Now().AsTime()).AsTime().Truncate(0))}},
		"list": {Kind: &duetv1.Value_ListValue{ListValue: &duetv1.ListValue{Values: []*duetv1.Value{text("a"), text("b")}}}},
	}
	params["at"].GetInstantValue().Seconds, params["at"].GetInstantValue().Nanos = 0, 0
	for _, c := range []struct{ in, want string }{
		{"country = $s", "country = 'O''Brien'"},
		{"country = $evil", "country = 'x'' OR 1=1 --'"},
		{"a=$i AND b=$neg", "a=5 AND b=CAST('-5' AS BIGINT)"},
		{"a IS NOT DISTINCT FROM $n", "a IS NOT DISTINCT FROM NULL"},
		{"a > $d", "a > CAST('12.50' AS DECIMAL(4,2))"},
		{"a > $f", "a > CAST('1e+300' AS DOUBLE)"},
		{"a BETWEEN $day AND $ts", "a BETWEEN CAST('2026-11-21' AS DATE) AND CAST('2026-11-21T14:00:00' AS TIMESTAMP)"},
		{"a < $at", "a < CAST('1970-01-01 00:00:00' AS TIMESTAMP)"},
		{"a IN $list", "a IN ('a', 'b')"},
		{`a = '$s' AND "$s" = 1 AND b = 'it''s $s'`, `a = '$s' AND "$s" = 1 AND b = 'it''s $s'`},
		{`a = e'\'$s' AND b = $i`, `a = e'\'$s' AND b = 5`},
		{"a = $$ $s $$ AND b = $tag$ $s $tag$", "a = $$ $s $$ AND b = $tag$ $s $tag$"},
		{"a = 1 -- $s\n AND b = $i /* $s /* $s */ $s */", "a = 1 -- $s\n AND b = 5 /* $s /* $s */ $s */"},
		{"/*", "/*"},
		{"a = '", "a = '"},
	} {
		got, err := bind("where", c.in, params, map[string]bool{})
		if err != nil || got != c.want {
			t.Errorf("%s:\n got %s (%v)\nwant %s", c.in, got, err, c.want)
		}
	}
}

func TestParametersThatAreRefused(t *testing.T) {
	bad := map[string]*duetv1.Value{
		"nul": text("a\x00b"), "utf8": text("\xff"), "dec": decimal("1'; DROP"), "exp": decimal("1e5"), "day": localValue("tomorrow"),
		"bytes": {Kind: &duetv1.Value_BytesValue{BytesValue: []byte("x")}}, "empty": {Kind: &duetv1.Value_ListValue{ListValue: &duetv1.ListValue{}}},
		"time": {Kind: &duetv1.Value_InstantValue{InstantValue: &timestamppb.Timestamp{Seconds: 1 << 60}}},
	}
	for name := range bad {
		if got, err := bind("where", "a = $"+name, bad, map[string]bool{}); err == nil {
			t.Errorf("$%s became %s", name, got)
		}
	}
	for _, in := range []string{"a = $missing", "a = $", "a = $1"} {
		if got, err := bind("where", in, bad, map[string]bool{}); err == nil {
			t.Errorf("%s became %s", in, got)
		}
	}
}
