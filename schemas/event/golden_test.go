package event

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"duet/schemas"
	"duet/schemas/project"
)

var updateFlag = flag.Bool("update", false, "rewrite testdata/golden.txt")

const goldenFile = "testdata/golden.txt"

// The golden file holds the verdict and the decoded values of a few thousand events,
// and the Version that made it. The events after the archive's end are decoded again
// at each start, so a verdict or value must not change without a new Version.
func TestVerdictsAndValuesChangeOnlyWithTheVersion(t *testing.T) {
	stored, err := os.ReadFile(goldenFile)
	if err != nil && !*updateFlag {
		t.Fatal(err)
	}
	corpus := goldenText(Version, goldenLines())
	if fault := goldenFault(string(stored), corpus, *updateFlag); fault != "" {
		t.Fatal(fault)
	}
	if *updateFlag {
		if err := os.WriteFile(goldenFile, []byte(corpus), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestGoldenFileNeedsANewVersionForAnotherVerdict(t *testing.T) {
	a, b, c := "1\taccepted", "2\trejected id", "3\taccepted"
	for _, test := range []struct {
		name        string
		stored, now string
		update      bool
		want        string
	}{
		{"equal", goldenText(1, []string{a, b}), goldenText(1, []string{a, b}), false, ""},
		{"another verdict", goldenText(1, []string{a, b}), goldenText(1, []string{a, c}), false, "Raise event.Version"},
		{"another verdict is not written either", goldenText(1, []string{a, b}), goldenText(1, []string{a, c}), true, "Raise event.Version"},
		{"an event is gone", goldenText(1, []string{a, b}), goldenText(1, []string{a}), true, "Raise event.Version"},
		{"another order", goldenText(1, []string{a, b}), goldenText(1, []string{b, a}), true, "Raise event.Version"},
		{"more events", goldenText(1, []string{a, b}), goldenText(1, []string{a, c, b}), false, "new events. Run"},
		{"more events are written", goldenText(1, []string{a, b}), goldenText(1, []string{a, c, b}), true, ""},
		{"a new version", goldenText(1, []string{a, b}), goldenText(2, []string{a, c}), false, "made by version 1, this is version 2. Run"},
		{"a new version is written", goldenText(1, []string{a, b}), goldenText(2, []string{a, c}), true, ""},
		{"an older version", goldenText(2, []string{a}), goldenText(1, []string{a}), true, "Raise event.Version"},
		{"the first file", "", goldenText(1, []string{a}), true, ""},
	} {
		if got := goldenFault(test.stored, test.now, test.update); (got == "") != (test.want == "") || !strings.Contains(got, test.want) {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}

func goldenText(version int, lines []string) string {
	return fmt.Sprintf("event.Version %d\n%s\n", version, strings.Join(lines, "\n"))
}

// goldenFault compares two golden files. It returns what to do, or "" if the stored file
// is current or may be replaced.
func goldenFault(stored, now string, update bool) string {
	if stored == now || stored == "" && update {
		return ""
	}
	const regenerate = "Run: go test ./schemas/event -run VerdictsAndValues -update"
	var was, is int
	if _, err := fmt.Sscanf(stored, "event.Version %d\n", &was); err != nil {
		return goldenFile + " does not begin with its version. Restore it from the repository"
	}
	if _, err := fmt.Sscanf(now, "event.Version %d\n", &is); err != nil {
		panic(err)
	}
	if is > was {
		if update {
			return ""
		}
		return fmt.Sprintf("%s was made by version %d, this is version %d. %s", goldenFile, was, is, regenerate)
	}
	left := strings.Split(now, "\n")[1:]
	var lost []string
	for _, line := range strings.Split(stored, "\n")[1:] {
		if i := slices.Index(left, line); i >= 0 {
			left = left[i+1:]
		} else {
			lost = append(lost, line)
		}
	}
	if len(lost) == 0 && is == was {
		if update {
			return ""
		}
		return fmt.Sprintf("%s lacks new events. %s", goldenFile, regenerate)
	}
	return fmt.Sprintf("%d verdicts or values differ from those of version %[2]d, which had\n  %[3]s\nRaise event.Version above %[2]d, because a log's events that are not archived yet would change their meaning. Then %[4]s",
		len(lost), was, strings.Join(lost[:min(len(lost), 10)], "\n  "), "r"+regenerate[1:])
}

// goldenLines decodes the corpus: one line for each event.
func goldenLines() []string {
	var g golden
	g.everyValue()
	g.formats()
	g.zones()
	g.records()
	g.sequence()
	return g.lines
}

type golden struct {
	lines []string
}

// add appends a line: what was decoded, and the result.
func (g *golden) add(in, out string) {
	if !plainText(in) || len(in) > 300 {
		in = fmt.Sprintf("%d bytes %.200q", len(in), in)
	}
	g.lines = append(g.lines, in+"\t"+out)
}

// decode adds a record with its values that are not NULL, or the column at fault.
func (g *golden) decode(d *Decoder, label string, record []byte) {
	values, reject := d.Decode(record, logTime)
	if reject != nil {
		g.add(label, "rejected "+reject.Column)
		return
	}
	var out []string
	for i, name := range d.Columns() {
		if values[i] != "NULL" && name != "id" {
			out = append(out, fmt.Sprintf("%s=%q", name, values[i]))
		}
	}
	g.add(label, "accepted "+strings.Join(out, " "))
}

// everyValue decodes every value in every column.
func (g *golden) everyValue() {
	d := NewDecoder(NewSchema(everyType()))
	for _, name := range temptingNames {
		for _, value := range tempting {
			g.decode(d, name+": "+value, []byte(`{"id":1,`+name+`:`+value+`}`))
		}
	}
}

// formats reads texts by every specifier.
func (g *golden) formats() {
	texts := []string{
		"12/1/2010 8:26", "12/01/10 08:26", "12/1/68", "12/1/69", "2010-12-01", "2010-12-01 08:26:05", "2010-12-01 08:26:05.1234560", "2010-12-01 08:26:05.1234561",
		"2010-12-01 12:05 AM", "2010-12-01 12:05 pm", "2010-12-01 13:05 pm", "Wed 1 12 2010", "Thu 1 12 2010", "wednesday 1 december 2010", "1 Dec 2010", "1 DECEMBER 2010",
		"2010-366", "2012-366", "2012-060", "1291191960", "-1", "1.5", "253402300800", "2010-12-01 12:05 GMT", "2010-12-01 12:05 CET", "2010-12-01 12:05 +05:30", "2010-12-01 12:05 -0330",
		"2010-12-01 12:05 Z", "3 1 12 2010", "7 1 12 2010", "0 5 12 2010", "0805", "8:05", "24:00", "23:59:59", "100%", "2010-02-29", "2012-02-29", "0000-01-01", "9999-12-31",
	}
	kinds := map[string][]string{
		"TIMESTAMP": {
			"%m/%d/%Y %H:%M", "%m/%d/%y %H:%M", "%m/%d/%y", "%Y-%m-%d", "%F %T", "%Y-%m-%d %H:%M:%S.%f", "%F %X.%g", "%Y-%m-%d %I:%M %p", "%a %d %m %Y", "%A %d %B %Y",
			"%d %b %Y", "%d %B %Y", "%Y-%j", "%s", "%F %R %Z", "%F %R %z", "%u %d %m %Y", "%w %d %m %Y", "%-m/%-d/%Y %-H:%M", "%D %R", "%c", "%x",
		},
		"DATE": {"%m/%d/%y", "%Y-%m-%d", "%F", "%d %b %Y", "%Y-%j", "%a %d %m %Y"},
		"TIME": {"%H%M", "%H:%M", "%H:%M:%S", "%I:%M %p"},
	}
	for _, kind := range []string{"TIMESTAMP", "DATE", "TIME"} {
		for _, format := range kinds[kind] {
			d := NewDecoder(NewSchema(&project.Stream{Name: "f", Zone: mustZone("America/New_York"), Columns: []project.Column{
				{Name: "at", Type: mustType(kind), Format: format},
			}}))
			for _, text := range texts {
				value, err := json.Marshal(text)
				if err != nil {
					panic(err)
				}
				if _, reject := d.Decode([]byte(`{"at":`+string(value)+`}`), logTime); reject != nil {
					continue // most texts match few formats: list those that do
				}
				g.decode(d, kind+" "+format+": "+text, []byte(`{"at":`+string(value)+`}`))
			}
		}
	}
}

// zones reads times around clock changes of the past and by rules of the future.
func (g *golden) zones() {
	for _, c := range []struct{ zone, times string }{
		{"Europe/London", "2010-03-28 00:59:59|2010-03-28 01:00:00|2010-03-28 01:30:00|2010-03-28 02:00:00|2010-10-31 00:59:59|2010-10-31 01:00:00|2010-10-31 01:30:00|2010-10-31 02:00:00|2010-10-31T00:30:00Z|2010-10-31T01:30:00Z|1847-11-30 23:58:44|1847-12-01 00:00:00|1970-06-01 12:00:00|2100-03-28 01:30:00|2100-10-31 01:30:00"},
		{"America/New_York", "2007-03-11 01:59:59|2007-03-11 02:30:00|2007-11-04 01:30:00|2007-11-04T06:30:00Z|1883-11-18 12:01:00|1883-11-18 12:03:58|1942-02-09 02:30:00|2400-12-31 12:00:00"},
		{"America/St_Johns", "2010-03-14 00:00:30|2010-03-14 00:01:30|2010-11-07 00:00:30|2010-11-07 00:01:30|1988-04-03 01:30:00"},
		{"Pacific/Apia", "2011-12-29 23:59:59|2011-12-30 00:00:00|2011-12-30 12:00:00|2011-12-31 00:00:00|2011-12-30T10:00:00Z|2012-04-01 03:30:00"},
		{"Australia/Lord_Howe", "2010-04-04 01:30:00|2010-04-04 01:45:00|2010-10-03 02:00:00|2010-10-03 02:15:00|2010-10-03 02:30:00"},
		{"Asia/Manila", "1844-12-30 23:59:59|1844-12-31 12:00:00|1845-01-01 00:00:00"},
		{"Asia/Kathmandu", "1985-12-31 23:59:59|1986-01-01 00:00:00|1986-01-01 00:10:00|1986-01-01 00:15:00"},
		{"Europe/Dublin", "2010-03-28 01:30:00|2010-10-31 01:30:00|1968-10-27 12:00:00"},
		{"Africa/Monrovia", "1972-01-06 23:59:59|1972-01-07 00:00:00|1972-01-07 00:44:30"},
		{"UTC", "0001-01-01 00:00:00|9999-12-31 23:59:59.999999|2010-06-01T00:00:00+23:59|0001-01-01T00:00:00+01:00|9999-12-31T23:59:59-01:00"},
	} {
		for _, starts := range []time.Duration{0, 4 * time.Hour} {
			s := everyType()
			s.Zone, s.DayStarts, s.FutureBound = mustZone(c.zone), starts, 0
			d := NewDecoder(NewSchema(s))
			for _, text := range strings.Split(c.times, "|") {
				g.decode(d, fmt.Sprintf("%s day starts %v: %s", c.zone, starts, text), fmt.Appendf(nil, `{"id":1,"ts":%q}`, text))
			}
		}
	}
	dates := NewDecoder(NewSchema(&project.Stream{Name: "d", EventTime: "dt", Zone: mustZone("Europe/London"), DayStarts: 4 * time.Hour, Columns: []project.Column{{Name: "dt", Type: mustType("DATE")}}}))
	for _, text := range []string{"2010-03-28", "2010-03-28 00:00", "2010-03-28 01:00", "0001-01-01"} {
		g.decode(dates, "event time DATE: "+text, fmt.Appendf(nil, `{"dt":%q}`, text))
	}
}

// records decodes whole records: JSON syntax, members, paths, NULL, and bad records.
func (g *golden) records() {
	d := NewDecoder(NewSchema(everyType()))
	for _, record := range []string{
		`{"id":1}`, ` { "id" : 1 } `, `{"\u0069d":1}`, `{"b":true}`, `{"id":null}`, `{"id":1,"id":1}`, `{"id":1,"x":[1,{"y":null}]}`, `{"id":1,"x":1,"\u0078":1}`, `{"id":1,"x":{"y":1,"y":2}}`,
		`{"id":1,"shop":{"floor":1,"address":{"city":"Leeds","zip":"LS1"},"name":"a"}}`, `{"id":1,"shop.floor":2,"shop.address.city":"York"}`, `{"id":1,"shop":{"floor":1},"shop.floor":1}`,
		`{"id":1,"shop":5}`, `{"id":1,"shop":null}`, `{"id":1,"shop":{"address":[]}}`, `{"id":1,"Text Of":"a\u00e9\ud83d\ude00\/\n"}`, `{"id":1,"Text Of":"\ud83d"}`, `{"id":1,"Text Of":"\u0000"}`,
		`{"id":1`, `{"id":1,}`, `{"id":1} x`, `[1]`, ``, `null`, `{"id":01}`, `{"id":1,"x":tru}`, `{"id":1,"x":"` + "\x01" + `"}`, "{\"id\":1,\"x\":\"\xff\"}", "\ufeff" + `{"id":1}`, `{'id':1}`,
		`{"id":1,"x":` + strings.Repeat("[", MaxDepth-1) + strings.Repeat("]", MaxDepth-1) + `}`, `{"id":1,"x":` + strings.Repeat("[", MaxDepth) + strings.Repeat("]", MaxDepth) + `}`,
		`{"id":` + strings.Repeat(" ", MaxRecordBytes-8) + `1}`, `{"id":` + strings.Repeat(" ", MaxRecordBytes-7) + `1}`,
		`{"_duet_bad":"cut off","_duet_raw":"1,2"}`, `{"_duet_bad":"cut off","_duet_raw":"1,2","x":1}`, `{"id":1,"_duet_bad":"cut off"}`,
		`{"id":1,"ts":"2026-01-03 03:04:05"}`, `{"id":1,"ts":"2026-01-03 03:04:05.000001"}`,
		`{"id":1,"u":"A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"}`, `{"id":1,"u":"a0eebc999c0b4ef8bb6d6bb9bd380a11"}`,
	} {
		g.decode(d, record, []byte(record))
	}
}

// sequence applies messages and adds the verdict of each record: by number, by line, by
// id, and those of what cannot be read.
func (g *golden) sequence() {
	q := NewSequencer(shopStreams(), NewState())
	q.state.lines.max = 3000
	b := NewBatch(memory.DefaultAllocator)
	defer b.Release()
	at := uint64(0)
	apply := func(stream string, data []byte, records int) {
		at++
		b.Reset()
		m := Message{Stream: stream, At: schemas.NewPosition(1, at), Time: logTime.Add(time.Duration(at) * time.Minute), Data: data}
		q.Apply(m, b)
		verdicts := bytes.Repeat([]byte("d"), max(records, 1))
		mark := func(rec arrow.RecordBatch, verdict byte) {
			if rec == nil {
				return
			}
			column := rec.Column(rec.Schema().FieldIndices(schemas.ColRecord)[0]).(*array.Int32)
			for _, i := range column.Values() {
				verdicts[i] = verdict
			}
		}
		for _, r := range b.Records() {
			mark(r.Record, 'a')
		}
		mark(b.RejectRecord(), 'r')
		if b.Events == 0 {
			verdicts = []byte("none")
		}
		if len(verdicts) > 64 {
			verdicts = fmt.Appendf(nil, "%d accepted, %d duplicate, %d rejected", bytes.Count(verdicts, []byte("a")), bytes.Count(verdicts, []byte("d")), bytes.Count(verdicts, []byte("r")))
		}
		var accounts []string
		for _, a := range b.Accounts() {
			accounts = append(accounts, fmt.Sprintf("{%s %v}", a.Stream, a.Account))
		}
		g.add(fmt.Sprintf("message %d of %s, %d records", at, stream, records), string(verdicts)+fmt.Sprint(" ", accounts, " ", b.Sessions(), b.Producers()))
	}
	send := func(stream string, runs []Run, records ...string) {
		var raw [][]byte
		for _, r := range records {
			raw = append(raw, []byte(r))
		}
		apply(stream, AppendEnvelope(nil, stream, runs, raw), len(raw))
	}
	numbers := func(first uint64, n uint32) []Run {
		return []Run{{Producer: "p", First: first, Count: n, Session: "s"}}
	}

	// By number: zero, again, overlapping, after a gap, and a rejected record's number.
	send("visits", numbers(0, 2), `{"a":1}`, `{"a":2}`)
	send("visits", numbers(1, 3), `{"a":1}`, `{"a":2}`, `{"a":3}`)
	send("visits", numbers(3, 3), `{"a":3}`, `{"a":"x"}`, `{"a":5}`)
	send("visits", numbers(4, 1), `{"a":4}`)
	send("visits", numbers(9, 1), `{"a":9}`)
	send("visits", []Run{{Producer: "q", First: 1, Count: 1}, {Count: 1}, {Producer: "p", First: 10, Count: 1, Session: "t"}}, `{"a":1}`, `{"a":1}`, `{"a":10}`)

	// By id: again, NULL, no id at all, beyond the window, and a rejected one.
	send("orders", []Run{{Count: 6}}, `{"a":1,"b":"x"}`, `{"b":"x","a":"1.0"}`, `{"a":1}`, `{"a":1,"b":null}`, `{"b":null}`, `{}`)
	send("orders", []Run{{Count: 2}}, `{"a":1.5,"b":"x"}`, `{"a":2,"b":"x","at":"2026-01-03 00:00:00"}`)
	for i := range 20 {
		send("orders", []Run{{Count: 2}}, fmt.Sprintf(`{"a":%d}`, 100+i), `{"a":1,"b":"x"}`)
	}

	// By line: the same content, grown, changed, a rejected line, and dropped digests.
	numbered := func(from, n int) (lines []string) {
		for i := range n {
			lines = append(lines, fmt.Sprintf(`{"a":%d}`, from+i))
		}
		return lines
	}
	files := func(lines []string) {
		for _, r := range file(lines) {
			send("visits", []Run{r}, lines[:r.Count]...)
			lines = lines[r.Count:]
		}
	}
	lines := numbered(0, 8)
	lines[4] = `{"a":"x"}`
	files(lines)
	files(lines)
	files(append(slices.Clone(lines), `{"a":8}`))
	changed := slices.Clone(lines)
	changed[6] = `{"a":77}`
	files(changed)
	files(numbered(1000, 3000))
	files(numbered(5000, 5000))
	files(numbered(1000, 3000))
	part := file(numbered(1000, 3000))[1]
	part.Lines, part.Count = part.Lines[:50], 50
	send("visits", []Run{part}, numbered(2024, 50)...)

	// What cannot be read.
	good := AppendEnvelope(nil, "visits", []Run{{Count: 1}}, [][]byte{[]byte(`{"a":1}`)})
	apply("visits", nil, 0)
	apply("visits", good[:len(good)-1], 0)
	apply("orders", good, 1)
	apply("nowhere", AppendEnvelope(nil, "nowhere", []Run{{Count: 2}}, [][]byte{[]byte(`{"a":1}`), nil}), 2)
	apply("visits", AppendEnvelope(nil, "visits", nil, nil), 0)
}

func mustType(sql string) project.Type {
	t, _, err := project.ParseColumnType(sql)
	if err != nil {
		panic(err)
	}
	return t
}
