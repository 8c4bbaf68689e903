package source

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/xxh3"

	"duet/schemas/project"
)

// stream reads the YAML of a stream s.
func stream(t testing.TB, yaml string) *project.Stream {
	t.Helper()
	p, faults := project.FromFiles(map[string]string{"duet.yaml": "", "streams/s.yaml": yaml})
	if p == nil {
		t.Fatal(faults)
	}
	return p.Streams[0]
}

const anyColumn = "columns: {a: VARCHAR}"

// identity is a Record without its text.
type identity struct {
	Line   int
	Chunk  [16]byte
	Digest uint64
}

// retailFile returns the path of the real data set, which is beside the repository.
func retailFile(t testing.TB) string {
	t.Helper()
	file := filepath.Join("..", "..", "..", "shared", "data", "online_retail.csv.gz")
	if named := os.Getenv("DUET_RETAIL_FILE"); named != "" {
		file = named
	}
	if _, err := os.Stat(file); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skipf("%v: set DUET_RETAIL_FILE to UCI's Online Retail as CSV to test with real data", err)
	}
	return file
}

// readAll returns the JSON of all records.
func readAll(t testing.TB, in io.Reader, s *project.Stream, o Options) (texts []string, places []identity) {
	t.Helper()
	r, err := Open(in, s, o)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for {
		rec, err := r.Next()
		if err == io.EOF {
			return texts, places
		}
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, string(rec.JSON))
		places = append(places, identity{rec.Line, rec.Chunk, rec.Digest})
	}
}

func openError(t testing.TB, text, name string, s *project.Stream) string {
	t.Helper()
	r, err := Open(strings.NewReader(text), s, Options{Name: name})
	if err == nil {
		r.Close()
		t.Fatalf("%q was opened", text)
	}
	return err.Error()
}

func TestCSVRecordsHoldTheTextOfTheFile(t *testing.T) {
	for name, c := range map[string]struct {
		yaml, file string
		want       []string
	}{
		"plain, CRLF, mark, no last line end": {anyColumn, "\ufeffa,b\r\n1,2\r\n\r\n 3 ,", []string{`{"a":"1","b":"2"}`, `{"a":" 3 ","b":null}`}},
		"quotes": {anyColumn, "a,b\n\"x,\"\"y\"\"\",\"line 1\r\nline 2\"\n5\" pipe,\"\"\n", []string{
			`{"a":"x,\"y\"","b":"line 1\r\nline 2"}`, `{"a":"5\" pipe","b":null}`}},
		"quotes at the end of the file": {anyColumn, "a,b\n1,\"x\ny\"", []string{`{"a":"1","b":"x\ny"}`}},
		"malformed lines are reported one by one": {anyColumn, "a,b\n1\n\"x\"y,2\n1,2,3\n4,w\n5,\"v\n", []string{
			`{"_duet_bad":"1 fields where the header has 2","_duet_raw":"1"}`,
			`{"_duet_bad":"field 1: a quote is followed by neither a delimiter nor the line's end; a quote within quotes is written twice","_duet_raw":"\"x\"y,2"}`,
			`{"_duet_bad":"3 fields where the header has 2. Quote fields that hold the delimiter","_duet_raw":"1,2,3"}`,
			`{"a":"4","b":"w"}`,
			`{"_duet_bad":"field 2 begins with a quote that is not closed before the end of the file","_duet_raw":"5,\"v"}`,
		}},
		"dialect": {"columns: {preis: 'DECIMAL(10,2)', name: {type: VARCHAR, from: Straße}}\ncsv: {delimiter: \";\", decimal: \",\", encoding: windows-1252, nulls: [\"\", NULL, \"-\"]}",
			"preis;Stra\xdfe;n\n1.234,50;\x80 \xe4;-\n-,5;NULL;1,5\n12.50;x;\n1234;\"a;b\";\n",
			[]string{
				`{"preis":"1234.50","Straße":"€ ä","n":null}`, `{"preis":"-.5","Straße":null,"n":"1,5"}`,
				`{"_duet_bad":"preis: \"12.50\" has a decimal point, but csv.decimal is a comma","_duet_raw":"12.50;x;"}`,
				`{"preis":"1234","Straße":"a;b","n":null}`,
			}},
		"a delimiter of several bytes": {anyColumn + "\ncsv: {delimiter: ¦}", "a¦b\n1¦\"2¦3\"\n", []string{`{"a":"1","b":"2¦3"}`}},
		"not UTF-8": {anyColumn, "a,b\n1,\xa3 5\n", []string{
			"{\"_duet_bad\":\"b: the byte 0xa3 is not UTF-8. If the file is in windows-1252, write in streams/s.yaml: csv: {encoding: windows-1252}\",\"_duet_raw\":\"1,\xa3 5\"}"}},
		"control characters":               {anyColumn, "a\n\x01\t\x7f\\\n", []string{`{"a":"\u0001\t` + "\x7f" + `\\"}`}},
		"columns without or with one name": {anyColumn, "a,,b,b\n1,2,3,4\n", []string{`{"a":"1","column_2":"2","b":"3","b_4":"4"}`}},
	} {
		t.Run(name, func(t *testing.T) {
			got, _ := readAll(t, strings.NewReader(c.file), stream(t, c.yaml), Options{Name: "f.csv"})
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestLinesAreWhereAnEditorShowsThem(t *testing.T) {
	_, records := readAll(t, strings.NewReader("\na,b\n1,2\n\n\"x\ny\",2\n3,4\n\"bad\"x,1\n5,6"), stream(t, anyColumn), Options{Name: "f.csv"})
	var lines []int
	for _, r := range records {
		lines = append(lines, r.Line)
	}
	if want := []int{3, 5, 7, 8, 9}; !slices.Equal(lines, want) {
		t.Error(lines)
	}
}

func TestAWrongHeaderNamesTheKeyToAdd(t *testing.T) {
	s := stream(t, "columns:\n  stock_code: VARCHAR NOT NULL\n  price: DECIMAL(18,4) NOT NULL\n  sold_at: {type: TIMESTAMP NOT NULL, format: \"%m/%d/%Y %H:%M\"}\n  note: VARCHAR\n")
	want := `orders.csv:1: the header has no column "stock_code"; it has StockCode, Prise, When. In streams/s.yaml:2 write: stock_code: {type: VARCHAR NOT NULL, from: StockCode}
orders.csv:1: the header has no column "price"; it has StockCode, Prise, When. In streams/s.yaml:3 write: price: {type: "DECIMAL(18,4) NOT NULL", from: Prise}
orders.csv:1: the header has no column "sold_at"; it has StockCode, Prise, When. In streams/s.yaml:4 write: sold_at: {type: TIMESTAMP NOT NULL, from: HEADER, format: "%m/%d/%Y %H:%M"}`
	if diff := cmp.Diff(want, openError(t, "StockCode,Prise,When\n", "orders.csv", s)); diff != "" {
		t.Error(diff)
	}
	r, err := Open(strings.NewReader("stock_code,price,sold_at\n"), s, Options{Name: "orders.csv"})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if want := []string{`the header has no column "note": note is NULL in every record`}; !slices.Equal(r.Notes(), want) {
		t.Error(r.Notes())
	}
}

func TestWhatIsNoSuchFileIsRefusedWithARemedy(t *testing.T) {
	s := stream(t, "columns: {a: VARCHAR, b: VARCHAR}")
	for text, want := range map[string]string{
		"":                         "f: is empty: a CSV file begins with a header",
		"\n\n":                     "f: is empty: a CSV file begins with a header",
		"a;b\n1;2\n":               `f:1: the header is one column, "a;b", under the delimiter ",". In streams/s.yaml write: csv: {delimiter: ";"}`,
		"a,b\r1,2\r":               "f:1: its lines end with a carriage return and no line feed",
		"\xff\xfea\x00,\x00":       "f:1: is UTF-16",
		"PK\x03\x04":               "f: is a ZIP archive",
		"BZh9":                     "f: is compressed with bzip2",
		"[{\"a\":1}]":              "f:1: is one JSON array. send one object a line: jq -c '.[]'",
		"PAR1xxxx":                 "f: is Parquet that cannot be read",
		"\x1f\x8b\x08\x00":         "f: the compressed file is cut off after line 0",
		"a,b,_duet_at\n":           `f:1: the header has the column "_duet_at"; names that begin with _duet_ are reserved`,
		"a,b,b\n":                  `f:1: the header has "b" twice. rename one in the file, or also declare the second, with from: b_3`,
		"a,\"b\nc\n":               "f:1: the header is malformed: field 2 begins with a quote that is not closed before the end of the file",
		"\x28\xb5\x2f\xfdgarbage!": "f: cannot be read after line 0",
	} {
		if got := openError(t, text, "f", s); !strings.HasPrefix(strings.Replace(got, "f:1: is empty", "f: is empty", 1), want) {
			t.Errorf("%q: %s", text, got)
		}
	}
	if got := openError(t, "x", "f.parquet", s); !strings.HasPrefix(got, "f.parquet: is not Parquet") {
		t.Error(got)
	}
}

func TestNDJSONLinesArePassedAsTheyStand(t *testing.T) {
	got, records := readAll(t, strings.NewReader("\ufeff{\"a\":1}\r\n\n  \n{bad\n {\"b\":2} "), stream(t, anyColumn), Options{Name: "-"})
	if diff := cmp.Diff([]string{`{"a":1}`, `{bad`, ` {"b":2} `}, got); diff != "" {
		t.Error(diff)
	}
	if records[2].Line != 5 {
		t.Error(records[2].Line)
	}
}

func TestALineAboveTheLimitIsOneReject(t *testing.T) {
	long := `{"a":"` + strings.Repeat("x", 3*MaxLineBytes) + `"}`
	for _, end := range []string{"\n", "\r\n"} {
		file := long + end + `{"a":2}` + end + long
		got, records := readAll(t, strings.NewReader(file), stream(t, anyColumn), Options{Format: NDJSON})
		if len(got) != 3 || !strings.HasPrefix(got[0], `{"_duet_bad":"the line has 3145736 bytes; the limit is 1048576`) || got[1] != `{"a":2}` || records[1].Line != 2 {
			t.Fatal(len(got), got[0][:100])
		}
		// The chain covers the whole lines.
		h := xxh3.HashString128("duet file 1\x00s")
		for i, line := range []string{long, `{"a":2}`, long} {
			before := h.Bytes()
			if h = xxh3.Hash128(append(before[:], line...)); h.Lo != records[i].Digest {
				t.Fatal("the chain differs at line", i+1)
			}
		}
	}
	exact := strings.Repeat("x", MaxLineBytes)
	got, _ := readAll(t, strings.NewReader("a\n"+exact+"\r\n"+exact+"y\nz"), stream(t, anyColumn), Options{Format: CSV})
	if len(got) != 3 || !strings.HasPrefix(got[0], `{"_duet_bad":"the record has 1048584 bytes as JSON`) || !strings.HasPrefix(got[1], `{"_duet_bad":"the line has 1048577 bytes`) {
		t.Fatal(len(got))
	}
	got, _ = readAll(t, strings.NewReader("a\n"+strings.Repeat("\x01", MaxLineBytes)+"\nz"), stream(t, anyColumn), Options{Format: CSV})
	if len(got) != 2 || !strings.HasPrefix(got[0], `{"_duet_bad":"the record has 6291464 bytes as JSON`) || got[1] != `{"a":"z"}` {
		t.Fatal(len(got), got[0][:100])
	}
	got, _ = readAll(t, strings.NewReader("a\n\""+strings.Repeat("x\n", MaxLineBytes)), stream(t, anyColumn), Options{Format: CSV})
	if len(got) != MaxLineBytes || !strings.Contains(got[0], "not closed within") || got[1] != `{"a":"x"}` {
		t.Fatal(len(got), got[0], got[1])
	}
}

// odd is a CSV file with every kind of line end and quote.
func odd(records int) string {
	var b strings.Builder
	b.WriteString("\ufeffa,b\r\n")
	for i := range records {
		switch i % 7 {
		case 0:
			fmt.Fprintf(&b, "%d,\"two\nlines \"\"%d\"\"\"\r\n", i, i)
		case 3:
			fmt.Fprintf(&b, "%d,\"x\" y\n", i)
		case 5:
			b.WriteString("\n")
		default:
			fmt.Fprintf(&b, "%d,%s\n", i, strings.Repeat("é", i%300))
		}
	}
	b.WriteString("last,\"no end")
	return b.String()
}

func TestChainDependsOnContentAlone(t *testing.T) {
	file, s := odd(5000), stream(t, anyColumn)
	texts, want := readAll(t, strings.NewReader(file), s, Options{Format: CSV})
	compress := func(name string, w func(io.Writer) io.WriteCloser) io.Reader {
		var b bytes.Buffer
		z := w(&b)
		if _, err := io.WriteString(z, file); err != nil {
			t.Fatal(name, err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(name, err)
		}
		return &b
	}
	for name, in := range map[string]io.Reader{
		"bytes": iotest.OneByteReader(strings.NewReader(file)), "halves": iotest.HalfReader(strings.NewReader(file)),
		"data with error": iotest.DataErrReader(strings.NewReader(file)),
		"gzip":            compress("gzip", func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) }),
		"zstd": compress("zstd", func(w io.Writer) io.WriteCloser {
			z, err := zstd.NewWriter(w)
			if err != nil {
				t.Fatal(err)
			}
			return z
		}),
	} {
		gotTexts, got := readAll(t, in, s, Options{Format: CSV})
		if !slices.Equal(got, want) || !slices.Equal(gotTexts, texts) {
			t.Error(name, "differs")
		}
	}
	if chunks := len(slices.CompactFunc(slices.Clone(want), func(a, b identity) bool { return a.Chunk == b.Chunk })); chunks != 5 {
		t.Error(chunks, "chunks")
	}
	// The chain covers the stream, but not line ends and the byte order mark.
	_, unix := readAll(t, strings.NewReader("a\n1\n2"), s, Options{Format: CSV})
	_, windows := readAll(t, strings.NewReader("\ufeffa\r\n1\r\n2\r\n"), s, Options{Format: CSV})
	if !slices.Equal(unix, windows) {
		t.Error("line ends change the chain")
	}
	other := *s
	other.Name = "other"
	if _, got := readAll(t, strings.NewReader("a\n1\n2"), &other, Options{Format: CSV}); got[0].Digest == unix[0].Digest {
		t.Error("two streams share a chain")
	}
}

func TestAGrownFileKeepsWhatItWas(t *testing.T) {
	s := stream(t, anyColumn)
	_, old := readAll(t, strings.NewReader("a\n1\n2"), s, Options{Format: CSV})
	_, grown := readAll(t, strings.NewReader("a\n1\n2\n2\n"), s, Options{Format: CSV})
	if !slices.Equal(grown[:2], old) || grown[2].Digest == grown[1].Digest {
		t.Error("grown", grown)
	}
	_, forked := readAll(t, strings.NewReader("a\n1\n3\n2\n"), s, Options{Format: CSV})
	if forked[0] != old[0] || forked[1].Digest == old[1].Digest || forked[2].Digest == old[1].Digest {
		t.Error("forked", forked)
	}
}

func TestACutFileIsAnErrorAndNotAnEnd(t *testing.T) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := io.WriteString(z, odd(20_000)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := Open(bytes.NewReader(b.Bytes()[:b.Len()-100]), stream(t, anyColumn), Options{Name: "f.csv.gz"})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var batch Batch
	for err == nil {
		batch.Reset()
		err = r.ReadBatch(&batch, 1000, 1<<20)
	}
	if !errors.Is(err, io.ErrUnexpectedEOF) || !strings.HasPrefix(err.Error(), "f.csv.gz: the compressed file is cut off after line 2") {
		t.Error(err)
	}
	if r.BytesRead() != int64(b.Len()-100) {
		t.Error(r.BytesRead(), b.Len())
	}
}

func TestBatchesKeepTheirRecords(t *testing.T) {
	file, s := odd(5000), stream(t, anyColumn)
	want, records := readAll(t, strings.NewReader(file), s, Options{Format: CSV})
	r, err := Open(strings.NewReader(file), s, Options{Format: CSV})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var batch Batch
	for err == nil {
		err = r.ReadBatch(&batch, len(batch.Records)+700, 1<<30)
	}
	if err != io.EOF || len(batch.Records) != len(want) {
		t.Fatal(err, len(batch.Records))
	}
	for i, rec := range batch.Records {
		if string(rec.JSON) != want[i] || rec.Digest != records[i].Digest {
			t.Fatal(i, string(rec.JSON))
		}
	}
	n, runs := 0, 0
	for chunk, part := range batch.Runs {
		runs++
		for _, rec := range part {
			if rec.Chunk != chunk {
				t.Fatal("a run spans chunks")
			}
			n++
		}
	}
	if n != len(want) || runs != 5 {
		t.Error(n, runs)
	}
}

func TestTheRetailFileIsReadWhole(t *testing.T) {
	f, err := os.Open(retailFile(t))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := Open(f, stream(t, "columns: {invoice: {type: VARCHAR NOT NULL, from: InvoiceNo}}"), Options{Name: f.Name()})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	n, bad := 0, 0
	for {
		rec, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		n++
		if bytes.HasPrefix(rec.JSON, []byte(`{"_duet_bad"`)) || !json.Valid(rec.JSON) {
			bad++
		}
	}
	if n != 541_909 || bad != 0 {
		t.Error(n, bad)
	}
}

// FuzzCSV compares with encoding/csv if that accepts the whole file.
func FuzzCSV(f *testing.F) {
	f.Add("a,b\n1,2\n", byte(','))
	f.Add("a,b\n\"x\"\"y\",\"1\n2\"\r\n\n5\" p,2\n\"a", byte(';'))
	f.Add("a\n\"\"\n\"x\"\r\n", byte(','))
	f.Fuzz(func(t *testing.T, text string, delimiter byte) {
		if strings.ContainsRune("\"\r\n\x00", rune(delimiter)) || delimiter >= 0x80 {
			return
		}
		s := &project.Stream{Name: "s", CSV: project.CSV{Delimiter: string(delimiter), Decimal: ".", Encoding: "latin-1"}}
		r, err := Open(strings.NewReader("h\n"+text), s, Options{Format: CSV})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		one, err := Open(iotest.OneByteReader(strings.NewReader("h\n"+text)), s, Options{Format: CSV})
		if err != nil {
			t.Fatal(err)
		}
		defer one.Close()
		for {
			a, errA := r.Next()
			b, errB := one.Next()
			if string(a.JSON) != string(b.JSON) || a.Line != b.Line || a.Digest != b.Digest || errA != errB {
				t.Fatalf("%s %s %v %v", a.JSON, b.JSON, errA, errB)
			}
			if errA != nil {
				break
			}
		}
		reference := csv.NewReader(strings.NewReader(text))
		reference.Comma, reference.FieldsPerRecord = rune(delimiter), -1
		want, err := reference.ReadAll()
		if err != nil {
			return
		}
		var got [][]string
		c := &csvFile{window: newWindow(strings.NewReader(text)), chain: newChain("s"), splitter: splitter{delimiter: []byte{delimiter}}}
		for {
			raw, reason, err := c.record()
			if err == io.EOF {
				break
			}
			if err != nil || raw == nil || reason != "" {
				t.Fatalf("%q: %v %s", text, err, reason)
			}
			if len(raw.text) > 0 {
				var fields []string
				for i := range c.splitter.fields {
					fields = append(fields, strings.ReplaceAll(string(c.splitter.value(raw.text, i)), "\r\n", "\n"))
				}
				got = append(got, fields)
			}
			c.take(raw.next, raw.lines)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q: %s", text, diff)
		}
	})
}

func BenchmarkCSV(b *testing.B) {
	var text bytes.Buffer
	text.WriteString("InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n")
	for i := range 100_000 {
		fmt.Fprintf(&text, "%d,85123A,WHITE HANGING HEART T-LIGHT HOLDER,6,2010-12-01 08:26:00,2.55,17850.0,United Kingdom\n", 536365+i)
	}
	benchmark(b, text.Bytes(), CSV)
}

func BenchmarkNDJSON(b *testing.B) {
	var text bytes.Buffer
	for i := range 100_000 {
		fmt.Fprintf(&text, `{"invoice":"%d","sku":"85123A","quantity":6,"sold_at":"2010-12-01 08:26:00","price":2.55,"customer":17850,"country":"United Kingdom"}`+"\n", 536365+i)
	}
	benchmark(b, text.Bytes(), NDJSON)
}

func benchmark(b *testing.B, file []byte, f Format) {
	s := &project.Stream{Name: "s", CSV: project.CSV{Delimiter: ",", Decimal: ".", Encoding: "utf-8", Nulls: []string{""}}}
	var batch Batch
	n := 0
	for b.Loop() {
		r, err := Open(bytes.NewReader(file), s, Options{Format: f})
		if err != nil {
			b.Fatal(err)
		}
		for err == nil {
			batch.Reset()
			err = r.ReadBatch(&batch, 1000, 1<<20)
			n += len(batch.Records)
		}
		r.Close()
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds()/1e6, "Mrows/s")
}
