package event

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"duet/schemas/project"
)

// everyType has a column of every type, nested ones and one with a format.
func everyType() *project.Stream {
	var columns []project.Column
	for i, c := range []struct{ name, typ, from, format string }{
		{"id", "BIGINT NOT NULL", "", ""},
		{"b", "BOOLEAN", "", ""},
		{"i8", "TINYINT", "", ""},
		{"i16", "SMALLINT", "", ""},
		{"i32", "INTEGER", "", ""},
		{"i64", "BIGINT", "", ""},
		{"d4", "DECIMAL(4,2)", "", ""},
		{"d18", "DECIMAL(18,4)", "", ""},
		{"d38", "DECIMAL(38,10)", "", ""},
		{"d380", "DECIMAL(38,0)", "", ""},
		{"d3838", "DECIMAL(38,38)", "", ""},
		{"f32", "FLOAT", "", ""},
		{"f64", "DOUBLE", "", ""},
		{"s", "VARCHAR", "Text Of", ""},
		{"u", "UUID", "", ""},
		{"dt", "DATE", "", ""},
		{"tm", "TIME", "", ""},
		{"ts", "TIMESTAMP", "", ""},
		{"us", "TIMESTAMP", "InvoiceDate", "%m/%d/%Y %H:%M"},
		{"city", "VARCHAR", "shop.address.city", ""},
		{"floor", "INTEGER", "shop.floor", ""},
		{"again", "VARCHAR", "Text Of", ""},
	} {
		t, notNull, err := project.ParseColumnType(c.typ)
		if err != nil {
			panic(err)
		}
		from := c.from
		if from == "" {
			from = c.name
		}
		columns = append(columns, project.Column{Name: c.name, Type: t, NotNull: notNull, From: from, Format: c.format, Line: i + 5})
	}
	return &project.Stream{
		Name: "every", Columns: columns, EventTime: "ts", Zone: mustZone("Europe/London"), DayStarts: 4 * time.Hour,
		FutureBound: 24 * time.Hour, IDWindow: 100,
	}
}

// Values, as JSON, that a decoder may get wrong.
var tempting = strings.Split(`0
-0
1
-1
1.0
1.5
-0.0
0e5
1e3
1E+2
15e-1
100e-2
1e-2
0.01
0.001
99.99
100.00
-99.99
127
128
-128
-129
32767
32768
-32769
2147483647
2147483648
-2147483648
9223372036854775807
9223372036854775808
-9223372036854775808
-9223372036854775809
12345678901234.56789
12345678901234.5678
1.005
0.1
99999999999999.9999
100000000000000
9999999999999999999999999999.9999999999
99999999999999999999999999999999999999
100000000000000000000000000000000000000
-99999999999999999999999999999999999999
0.99999999999999999999999999999999999999
1e38
1e37
1e-38
1e308
1.7976931348623157e308
1.7976931348623159e308
5e-324
2e-324
1e-400
1e400
-1e400
3.4028235e38
3.4028236e38
1e999999999999999999999
1e-999999999999999999999
0e999999999999999999999
9007199254740993
0.1e1
123456789012345678901234567890e-20
00
01
-
.5
5.
1.e3
1e
1e+
+1
0x10
NaN
Infinity
-Infinity
"NaN"
"Infinity"
"inf"
"0x10"
"1_000"
"17850.0"
"17850.5"
"1e3"
"+5"
"007"
".5"
"5."
"."
""
"-"
"1e"
" 1"
"1 "
"1,5"
"\u0031"
"-0"
true
false
null
"true"
"false"
"TRUE"
"False"
"yes"
tru
nul
[]
[1]
{}
{"x":1}
{"x":1,"x":2}
[{"x":1,"\u0078":2}]
"text"
"é"
"\u00e9\n\t\"\\\/"
"\ud83d\ude00"
"\ud83d"
"\ude00"
"\ud83dx"
"\ud83d\u0041"
"\u0000"
"\x"
"\u12"
"a b"
"0b0e7f3a-1c2d-4e5f-8a9b-0c1d2e3f4a5b"
"0B0E7F3A-1C2D-4E5F-8A9B-0C1D2E3F4A5B"
"0b0e7f3a1c2d4e5f8a9b0c1d2e3f4a5b"
"0b0e7f3a-1c2d-4e5f-8a9b-0c1d2e3f4a5g"
"2010-12-01"
"2010-12-01T08:26:00"
"2010-12-01 08:26"
"2010-12-01 08:26:00.5"
"2010-12-01 08:26:00.123456"
"2010-12-01 08:26:00.1234560"
"2010-12-01 08:26:00.1234567"
"2010-12-01 00:00:00"
"2010-12-01 00:00:00.000"
"2010-12-01T00:00:00Z"
"2010-12-01T08:26:00Z"
"2010-12-01T08:26:00+02:00"
"2010-12-01T08:26:00-0530"
"2010-12-01T08:26:00+05"
"2010-12-01T08:26:00 UTC"
"2010-12-01T08:26:00 +0100"
"2010-12-01T08:26:00+24:00"
"2010-12-01T08:26:00 "
"2010-12-01T08:26:"
"2010-12-01T08:26:00."
"2010-12-01T"
"2010-02-29"
"2012-02-29"
"1900-02-29"
"2010-13-01"
"2010-00-10"
"2010-12-32"
"2010-12-01 24:00:00"
"2010-12-01 23:59:60"
"2010-03-28 01:30:00"
"2010-10-31 01:30:00"
"2010-03-28 00:59:59.999999"
"1847-12-01 00:00:30"
"0001-01-01"
"0001-01-01 00:00:00"
"0001-01-01 00:00:00+01:00"
"0000-12-31"
"9999-12-31"
"9999-12-31 23:59:59.999999"
"9999-12-31 23:59:59-01:00"
"10000-01-01"
"2026-01-03 03:04:05"
"2026-01-03 03:04:05.000001"
"2026-01-03 03:04:06"
"08:26"
"08:26:59.999999"
"24:00"
"23:59:60"
"8:26"
"08:26:00Z"
"12/1/2010 8:26"
"12/01/2010 08:26"
"13/1/2010 8:26"
"2/29/2011 8:26"
"12/1/10 8:26"
"12/1/2010 8:26 "
"1291191960"
1291191960
20101201`, "\n")

var temptingNames = strings.Split(`"id"
"b"
"i8"
"i16"
"i32"
"i64"
"d4"
"d18"
"d38"
"d380"
"d3838"
"f32"
"f64"
"Text Of"
"u"
"dt"
"tm"
"ts"
"InvoiceDate"
"shop.address.city"
"shop.floor"
"\u0069d"
"extra"
"e\u0078tra"
"_duet_at"
"s"
""
"shop"`, "\n")

// genRecord returns a record that is often almost valid.
func genRecord(r *rand.Rand) []byte {
	space := func() string { return []string{"", "", "", "", " ", "\n\t"}[r.IntN(6)] }
	value := func() string { return tempting[r.IntN(len(tempting))] }
	var object func(depth int) string
	object = func(depth int) string {
		var b strings.Builder
		b.WriteString("{" + space())
		members := 0
		add := func(name, value string) {
			if members > 0 {
				b.WriteString("," + space())
			}
			members++
			b.WriteString(name + space() + ":" + space() + value + space())
		}
		if depth == 0 && r.IntN(20) > 0 {
			add(`"id"`, fmt.Sprint(r.IntN(1000)))
		}
		for range r.IntN(4) {
			switch {
			case depth == 0 && r.IntN(6) == 0:
				add(`"shop"`, object(1))
			case depth == 1 && r.IntN(2) == 0:
				add(`"address"`, object(2))
			case depth == 1:
				add([]string{`"floor"`, `"fl\u006for"`, `"x"`}[r.IntN(3)], value())
			case depth == 2:
				add([]string{`"city"`, `"zip"`}[r.IntN(2)], value())
			default:
				add(temptingNames[r.IntN(len(temptingNames))], value())
			}
		}
		b.WriteString("}")
		return b.String()
	}
	record := []byte(space() + object(0) + space())
	if r.IntN(8) == 0 && len(record) > 0 { // damage
		i := r.IntN(len(record))
		switch r.IntN(4) {
		case 0:
			record[i] = byte(r.Uint32())
		case 1:
			record = record[:i]
		case 2:
			record = append(record[:i:i], append([]byte{`{}[],:"\0 e`[r.IntN(11)]}, record[i:]...)...)
		default:
			record = append(record, record[i:]...)
		}
	}
	return record
}

func TestDecoderAgreesWithTheReference(t *testing.T) {
	s := everyType()
	d := NewDecoder(NewSchema(s))
	accepted := 0
	rapid.Check(t, func(t *rapid.T) {
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		for range 300 {
			record := genRecord(r)
			if difference := same(d, s, record, logTime); difference != "" {
				t.Fatalf("%q: %s", record, difference)
			}
			if _, reject := d.Decode(record, logTime); reject == nil {
				accepted++
			}
		}
	})
	if accepted < 1000 {
		t.Fatalf("only %d records were accepted; the generator must produce more valid ones", accepted)
	}
}

// Every such value in every column, and zones with unusual clock changes.
func TestEveryValueInEveryColumn(t *testing.T) {
	for _, zone := range []string{"", "Europe/London", "America/St_Johns", "Pacific/Apia", "Australia/Lord_Howe", "Asia/Manila"} {
		s := everyType()
		if s.Zone = nil; zone != "" {
			s.Zone = mustZone(zone)
		}
		d := NewDecoder(NewSchema(s))
		for _, name := range temptingNames {
			for _, value := range tempting {
				record := []byte(`{"id":1,` + name + `:` + value + `}`)
				if difference := same(d, s, record, logTime); difference != "" {
					t.Errorf("%s: %s: %s", zone, record, difference)
				}
			}
		}
	}
}

func FuzzDecode(f *testing.F) {
	s := everyType()
	d := NewDecoder(NewSchema(s))
	r := rand.New(rand.NewPCG(3, 3))
	for range 200 {
		f.Add(genRecord(r))
	}
	f.Fuzz(func(t *testing.T, record []byte) {
		if bytes.HasPrefix(record, []byte(`{"_duet_bad"`)) {
			return // the reference does not know it
		}
		if difference := same(d, s, record, logTime); difference != "" {
			t.Fatalf("%q: %s", record, difference)
		}
	})
}

// The reason of a reject names the column, the value and the type.
func TestRejectsSayColumnValueAndType(t *testing.T) {
	s := everyType()
	d := NewDecoder(NewSchema(s))
	long := strings.Repeat("é", 100)
	deep := strings.Repeat("[", 70) + strings.Repeat("]", 70)
	for _, c := range []struct{ record, column, reason string }{
		{`{"id":1,"ts":"12/1/2010 8:26"}`, "ts", `ts: "12/1/2010 8:26" is not a TIMESTAMP`},
		{`{"id":1,"ts":1291191960}`, "ts", `ts: 1291191960 is not a TIMESTAMP`},
		{`{"id":1,"InvoiceDate":"2010-12-01 08:26"}`, "us", `us: "2010-12-01 08:26" is not a TIMESTAMP in the format %m/%d/%Y %H:%M`},
		{`{"id":1,"ts":"2010-12-01 08:26:00.1234567"}`, "ts", `ts: "2010-12-01 08:26:00.1234567" is finer than a microsecond; a TIMESTAMP is not`},
		{`{"id":1,"ts":"0000-12-01 08:26:00"}`, "ts", `ts: "0000-12-01 08:26:00" is outside the years 0001 to 9999 (UTC)`},
		{`{"id":1,"ts":"2036-01-01 00:00:00"}`, "ts", `ts: 2036-01-01 00:00:00 is more than 24h0m0s ahead of the log, which was at 2026-01-02 03:04:05`},
		{`{"id":1,"dt":"2010-12-01 08:26"}`, "dt", `dt: "2010-12-01 08:26" is not midnight; a DATE holds no time`},
		{`{"id":"17850.5"}`, "id", `id: "17850.5" has a fraction; a BIGINT holds none`},
		{`{"id":1,"i32":1.5}`, "i32", `i32: 1.5 has a fraction; an INTEGER holds none`},
		{`{"id":1,"i8":128}`, "i8", `i8: 128 is out of range for TINYINT`},
		{`{"id":1,"d18":1.23456}`, "d18", `d18: 1.23456 has more decimals than DECIMAL(18,4) holds`},
		{`{"id":1,"i32":true}`, "i32", `i32: true is not an INTEGER`},
		{`{"id":1,"Text Of":5}`, "s", `s: 5 is not a VARCHAR`},
		{`{"id":1,"u":"x"}`, "u", `u: "x" is not a UUID`},
		{`{"id":1,"f64":1e400}`, "f64", `f64: 1e400 is out of range for DOUBLE`},
		{`{"id":1,"f64":{"a":[1, 2]}}`, "f64", `f64: {"a":[1, 2]} is not a DOUBLE`},
		{`{"id":1,"i32":"` + long + `"}`, "i32", `i32: "` + strings.Repeat("é", 30) + `…" is not an INTEGER`},
		{`{"b":true}`, "id", `id: missing, but NOT NULL`},
		{`{"id":null}`, "id", `id: null, but NOT NULL`},
		{`{"id":1,"id":1}`, "id", `id: member id occurs twice`},
		{`{"id":1,"shop":{"floor":1},"shop.floor":1}`, "floor", `floor: member shop.floor occurs twice`},
		{`{"id":1,"x":1,"\u0078":1}`, "", `member x occurs twice`},
		{`{"id":1,"shop":5}`, "", `member shop: 5 is not an object`},
		{`{"id":1`, "", `not JSON at byte 8: it ends, but , should follow`},
		{`{"id":1} x`, "", `not JSON at byte 10: something follows the object`},
		{`[1]`, "", `not JSON at byte 1: [ is there instead of a JSON object`},
		{``, "", `not JSON at byte 1: it ends, but a JSON object should follow`},
		{`{"id":01}`, "", `not JSON at byte 7: a number starts with 0`},
		{`{"id":1,"x":` + deep + `}`, "", `not JSON at byte 76: more than 64 levels deep`},
		{"{\"id\":1,\"x\":\"\xff\"}", "", `not UTF-8 at byte 14: 0xff`},
		{"{\"id\":1,\"x\":\"\x00\"}", "", `not JSON at byte 14: control character 0x00 in a string`},
		{`{"id":1,"x":"\u0000"}`, "", `not JSON at byte 14: a NUL in a string`},
		{`{"id":1,"x":"\ud800"}`, "", `not JSON at byte 14: an unpaired surrogate`},
		{`{"id":` + strings.Repeat("1", MaxRecordBytes) + `}`, "", `1048583 bytes; a record has at most 1048576`},
		{`{"id":` + strings.Repeat("9", 1_000_000) + `}`, "id", `id: ` + strings.Repeat("9", 60) + `… is out of range for BIGINT`},
	} {
		values, r := d.Decode([]byte(c.record), logTime)
		if r == nil {
			t.Errorf("%.100s was accepted: %q", c.record, values)
		} else if r.Reason != c.reason || r.Column != c.column || string(r.Raw) != c.record {
			t.Errorf("%.100s\n got %s (%s)\nwant %s (%s)", c.record, r.Reason, r.Column, c.reason, c.column)
		}
	}
}

func TestDecodedValues(t *testing.T) {
	s := everyType()
	d := NewDecoder(NewSchema(s))
	index := map[string]int{}
	for i, name := range d.Columns() {
		index[name] = i
	}
	for _, c := range []struct{ members, column, want string }{
		{`"d18":12345678901234.5678`, "d18", "12345678901234.5678"},
		{`"d4":1.005e1`, "d4", "10.05"},
		{`"i64":"17850.0"`, "i64", "17850"},
		{`"f64":-0.0`, "f64", "0"},
		{`"ts":"2010-03-28 01:30:00"`, "ts", "2010-03-28 01:30:00"},       // skipped: GMT, read as 02:30 BST
		{`"ts":"2010-03-28 01:30:00"`, "ts_local", "2010-03-28 02:30:00"}, // so local time shows
		{`"ts":"2010-10-31 01:30:00"`, "ts", "2010-10-31 00:30:00"},       // twice: the first, BST
		{`"ts":"2010-07-01 03:59:59"`, "business_date", "2010-06-30"},
		{`"ts":"2010-07-01 04:00:00"`, "business_date", "2010-07-01"},
		{`"b":1` + ``, "b", ""},
		{`"extra":[1, 2],"e\u0078":{"y" : 1}`, "_duet_extra", `{"extra":[1, 2],"e\u0078":{"y" : 1}}`},
		{`"shop":{"address":{"city":"x","zip":1},"floor":2},"y":null`, "_duet_extra", `{"shop":{"address":{"zip":1}},"y":null}`},
		{`"shop":{"address":{"city":"x","zip":1},"floor":2}`, "city", `x`},
		{`"shop.floor":3`, "floor", "3"},
		{`"shop":null`, "floor", "NULL"},
		{`"Text Of":"a\u00e9\n"`, "again", "aé\n"},
	} {
		values, r := d.Decode([]byte(`{"id":1,`+c.members+`}`), logTime)
		switch {
		case c.want == "":
			if r == nil {
				t.Errorf("%s was accepted", c.members)
			}
		case r != nil:
			t.Errorf("%s: %s", c.members, r.Reason)
		case values[index[c.column]] != c.want:
			t.Errorf("%s: %s is %q, not %q", c.members, c.column, values[index[c.column]], c.want)
		}
	}
}

// A bad record keeps the source's reason and the raw bytes.
func TestBadRecordKeepsReasonAndRaw(t *testing.T) {
	d := NewDecoder(NewSchema(everyType()))
	longReason := "field 1: a quote is followed by neither a delimiter nor the line's end; a quote within quotes is written \"twice\""
	for _, raw := range []string{`a,"b`, "\x00\xff\xfe\n\t\"\\", "", "😀"} {
		_, r := d.Decode(AppendBad(nil, longReason, []byte(raw)), logTime)
		if r == nil || r.Reason != longReason || string(r.Raw) != raw {
			t.Errorf("the bad record of %q decodes as %+v", raw, r)
		}
	}
	_, r := d.Decode([]byte(`{"_duet_bad" : "why\n", "_duet_raw":"\ud83d\ude00\u0000"} `), logTime)
	if r == nil || r.Reason != "why\n" || string(r.Raw) != "😀\x00" {
		t.Errorf("a bad record with other spelling decodes as %+v", r)
	}
	if _, r := d.Decode([]byte(`{"_duet_bad":"x","id":1}`), logTime); r != nil {
		t.Errorf("an event decodes as a bad record: %+v", r)
	}
}

// Accepting a record does not allocate, whatever the order of its members.
func TestDecodeDoesNotAllocate(t *testing.T) {
	records := retailRecords(100)
	records = append(records, []byte(`{"sku":"\u0041","invoice":"x","line":1,"quantity":1e0,"price":"1.50","sold_at":"2011-01-01","other":{"a":[1,{"b":2}]}}`))
	d := newDecoder(NewSchema(retailStream()))
	decode := func() {
		for _, r := range records {
			if reject := d.decode(r, logTime.UnixMicro()); reject != nil {
				t.Fatal(reject.Reason)
			}
		}
	}
	decode()
	if n := testing.AllocsPerRun(10, decode); n > 0 {
		t.Fatalf("%v allocations for %d records", n, len(records))
	}
}

// Many undeclared members do not take quadratic time.
func TestManyMembers(t *testing.T) {
	var b bytes.Buffer
	b.WriteString(`{"id":1`)
	for i := range 80_000 {
		fmt.Fprintf(&b, `,"m%d":1`, i)
	}
	d := NewDecoder(NewSchema(everyType()))
	if _, r := d.Decode(append(b.Bytes(), '}'), logTime); r != nil {
		t.Fatal(r.Reason)
	}
	if _, r := d.Decode([]byte(b.String()+`,"m77":2}`), logTime); r == nil || r.Reason != "member m77 occurs twice" {
		t.Fatalf("the reject is %.200v; want member m77 occurs twice", r)
	}
}
