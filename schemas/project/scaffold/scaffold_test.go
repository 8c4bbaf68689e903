package scaffold

import (
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"duet/schemas/project"
)

// scaffold returns the files and notes for a sample's text.
func scaffold(t testing.TB, name, text string) (map[string]string, []string) {
	t.Helper()
	files, notes, err := Scaffold(name, func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(text)), nil })
	if err != nil {
		t.Fatal(err)
	}
	return files, notes
}

// columns returns the columns of the only stream as in its file, without comments.
func columns(t testing.TB, files map[string]string) []string {
	t.Helper()
	p, faults := project.FromFiles(definitions(files))
	if p == nil {
		t.Fatal(faults)
	}
	var list []string
	for _, c := range p.Streams[0].Columns {
		list = append(list, c.Name+": "+columnText(c))
	}
	return list
}

func retail(t testing.TB) (map[string]string, []string) {
	t.Helper()
	file := filepath.Join("..", "..", "..", "..", "shared", "data", "online_retail.csv.gz")
	if named := os.Getenv("DUET_RETAIL_FILE"); named != "" {
		file = named
	}
	if _, err := os.Stat(file); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skipf("%v: set DUET_RETAIL_FILE to UCI's Online Retail as CSV to test with real data", err)
	}
	files, notes, err := Scaffold(file, func() (io.ReadCloser, error) { return os.Open(file) })
	if err != nil {
		t.Fatal(err)
	}
	return files, notes
}

func TestTheRetailFileGivesAProjectThatRunsUnedited(t *testing.T) {
	files, notes := retail(t)
	if want := []string{"online_retail.csv.gz: 541,909 lines, 8 columns"}; !slices.Equal(notes, want) {
		t.Error(notes)
	}
	want := `# yaml-language-server: $schema=../schemas/stream.schema.json
# From all 541,909 lines of online_retail.csv.gz.

# When an event happened. With a zone, times without an offset are local, and every
# event also has the columns NAME_local and business_date:
#   event_time: {column: invoice_date, zone: Europe/London, day_starts: "04:00"}
event_time: invoice_date # UTC

# The columns that identify an event; a second event with the same id is a duplicate.
# Without an id every line of a file is an event, and sending the file again adds nothing.
# No column is unique, nor is (invoice_no, stock_code): declaring that would lose lines.

columns: # TYPE [NOT NULL]; from: the name in the file
  invoice_no:   {type: VARCHAR NOT NULL, from: InvoiceNo} # such as "536365"
  stock_code:   {type: VARCHAR NOT NULL, from: StockCode} # such as "85123A"
  description:  {type: VARCHAR, from: Description} # such as "WHITE HANGING HEART T-LIGHT HOLDER"; 1,454 missing
  quantity:     {type: INTEGER NOT NULL, from: Quantity} # such as "6"
  invoice_date: {type: TIMESTAMP NOT NULL, from: InvoiceDate} # such as "2010-12-01 08:26:00"
  unit_price:   {type: "DECIMAL(18,3) NOT NULL", from: UnitPrice} # such as "2.55"
  customer_id:  {type: BIGINT, from: CustomerID} # such as "17850.0"; 135,080 missing; written with .0
  country:      {type: VARCHAR NOT NULL, from: Country} # 38 values, such as United Kingdom

csv: {delimiter: ",", decimal: ".", encoding: utf-8, nulls: [""]}
`
	if diff := cmp.Diff(want, files["streams/online_retail.yaml"]); diff != "" {
		t.Error(diff)
	}
	wantSQL := `-- With the cast, no quantity and price can overflow the product.
SELECT country,
       sum(CAST(quantity AS DECIMAL(19,0)) * unit_price) AS revenue,
       sum(quantity) AS pieces,
       count(*) AS lines
FROM online_retail
GROUP BY ALL
`
	if diff := cmp.Diff(wantSQL, files["views/sales_by_country.sql"]); diff != "" {
		t.Error(diff)
	}
	if !strings.Contains(files["views/sales_by_day.sql"], "SELECT time_bucket(INTERVAL '1 day', invoice_date) AS day,") {
		t.Error(files["views/sales_by_day.sql"])
	}
}

func TestTypesAreWhatTheValuesShow(t *testing.T) {
	for name, c := range map[string]struct {
		file  string
		want  []string
		notes []string
	}{
		"kinds": {"id,code,flag,ratio,big,huge,uid,note,tiny\n1,007,true,0.12345678901,12345678901,1234567890123456789,6F9619FF-8B86-D011-B42D-00CF4FC964FF,x,1e-3\n2,010,False,1.5,2,3,6f9619ff-8b86-d011-b42d-00cf4fc964fe,,2\n",
			[]string{"id: BIGINT NOT NULL", "code: VARCHAR NOT NULL", "flag: BOOLEAN NOT NULL", "ratio: DOUBLE NOT NULL", "big: BIGINT NOT NULL", "huge: DECIMAL(38,0) NOT NULL", "uid: UUID NOT NULL", "note: VARCHAR", "tiny: DOUBLE NOT NULL"}, nil},
		"money": {"Unit Price,total,Qty\n1,5.5,3\n2.125,-7,4\n", []string{`unit_price: {type: "DECIMAL(18,3) NOT NULL", from: Unit Price}`, "total: DECIMAL(18,2) NOT NULL", "qty: {type: INTEGER NOT NULL, from: Qty}"}, nil},
		"German": {"Datum;Betrag;Straße\n01.12.2010 08:26;1.234,50;a\n13.12.2010 8:26;2,5;b\n",
			[]string{`datum: {type: TIMESTAMP NOT NULL, from: Datum, format: "%d.%m.%Y %H:%M"}`, `betrag: {type: "DECIMAL(18,2) NOT NULL", from: Betrag}`, `strasse: {type: VARCHAR NOT NULL, from: "Straße"}`}, nil},
		"months first by evidence": {"when\n12/1/2010 8:26\n12/13/2010 8:26\n", []string{`when: {type: TIMESTAMP NOT NULL, format: "%m/%d/%Y %H:%M"}`}, nil},
		"days first by order": {"when\n11/1/2010\n12/1/2010\n1/2/2010\n", []string{`when: {type: DATE NOT NULL, format: "%d/%m/%Y"}`},
			[]string{"when: read as %d/%m/%Y, but %m/%d/%Y matches too: no value distinguishes day and month; with this format the file is in order"}},
		"no telling": {"when\n1/1/2010\n2/2/2010\n", []string{`when: {type: DATE NOT NULL, format: "%m/%d/%Y"}`},
			[]string{"when: read as %m/%d/%Y, but %d/%m/%Y matches too: no value distinguishes day and month"}},
		"texts that mean null": {"n,at,name\n1,2020-01-01,NA\nNULL,NA,b\n", []string{"n: INTEGER", "at: DATE", "name: VARCHAR"},
			[]string{"some numbers and times are NA, NULL; csv.nulls declares this as NULL"}},
		"names":          {"Größe,größe,1st,,a.b,1st\nx,y,z,u,v,w\n", []string{`groesse: {type: VARCHAR NOT NULL, from: "Größe"}`, `groesse_2: {type: VARCHAR NOT NULL, from: "größe"}`, `c_1st: {type: VARCHAR NOT NULL, from: "1st"}`, `column_4: VARCHAR NOT NULL`, "a_b: {type: VARCHAR NOT NULL, from: a.b}", `c_1st_6: {type: VARCHAR NOT NULL, from: "1st_6"}`}, nil},
		"bad lines":      {"a,b\n1,2\n1\n3,\"4\n", []string{"a: INTEGER NOT NULL", "b: INTEGER NOT NULL"}, []string{`2 malformed lines will be rejected, the first: f.csv:3: 1 fields where the header has 2`}},
		"not UTF-8":      {"a,b\n1,\xa35\n", []string{"a: INTEGER NOT NULL", "b: VARCHAR NOT NULL"}, []string{"the file is not UTF-8; it is read as windows-1252"}},
		"tabs, empty":    {"a\tb\n1\t\n", []string{"a: INTEGER NOT NULL", "b: VARCHAR"}, nil},
		"only header":    {"a,order\n", []string{"a: VARCHAR", "order: VARCHAR"}, nil},
		"offsets":        {"at\n2020-01-01T00:00:00.123456Z\n2020-01-01T00:00:00+02:00\n", []string{"at: TIMESTAMP NOT NULL"}, nil},
		"days and times": {"at\n2020-01-01\n2020-01-02 10:00\n", []string{"at: TIMESTAMP NOT NULL"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			files, notes := scaffold(t, "f.csv", c.file)
			if diff := cmp.Diff(c.want, columns(t, files)); diff != "" {
				t.Error(diff)
			}
			for _, want := range c.notes {
				if !slices.Contains(notes, want) {
					t.Errorf("no note %q in %q", want, notes)
				}
			}
		})
	}
}

func TestJSONMembersBecomeColumns(t *testing.T) {
	files, notes := scaffold(t, "events.ndjson", `{"orderId":"1","sold_at":"2020-01-01T10:00:00Z","customer":{"id":5,"city":"X"},"total":12.5,"tags":["a"],"ok":true,"mixed":1}
{"orderId":"2","sold_at":"2020-01-01T11:00:00Z","customer":{"id":6,"city":null},"total":3,"ok":false,"mixed":"x"}
nonsense
`)
	want := []string{"order_id: {type: BIGINT NOT NULL, from: orderId}", "sold_at: TIMESTAMP NOT NULL", "customer_id: {type: BIGINT NOT NULL, from: customer.id}", "customer_city: {type: VARCHAR, from: customer.city}",
		"total: DECIMAL(18,2) NOT NULL", "ok: BOOLEAN NOT NULL", "mixed: VARCHAR NOT NULL"}
	if diff := cmp.Diff(want, columns(t, files)); diff != "" {
		t.Error(diff)
	}
	if len(notes) != 4 {
		t.Error(notes)
	}
	if !strings.Contains(files["streams/events.yaml"], "# id: [order_id]  # unique in all lines") {
		t.Error(files["streams/events.yaml"])
	}
}

func TestTheExampleIsAProjectWithItsSample(t *testing.T) {
	files, _, err := Scaffold("my-shop", nil)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"README.md", "duet.yaml", "sample/orders.csv", "schemas/duet.schema.json", "schemas/stream.schema.json", "schemas/view.schema.json", "streams/orders.yaml",
		"views/sales_by_country.sql", "views/sales_by_country.yaml", "views/sales_by_day.sql", "views/sales_by_day.yaml"}
	if got := slices.Sorted(maps.Keys(files)); !slices.Equal(got, want) {
		t.Error(got)
	}
	if !strings.Contains(files["duet.yaml"], "name: my_shop\n") || !strings.Contains(files["streams/orders.yaml"], "# id: [order_id, line]  # unique in all lines") {
		t.Error(files["duet.yaml"], files["streams/orders.yaml"])
	}
}

func TestASampleThatIsNoneIsRefused(t *testing.T) {
	for text, want := range map[string]string{
		"":                "is empty",
		"1,2\n3,4\n":      "the first line holds values, not the names of columns",
		"[1]":             "is one JSON array",
		"{}\n":            "holds no object with members",
		"PK\x03\x04":      "is a ZIP archive",
		"\"a\nb":          "the header is malformed",
		"\x1f\x8bgarbage": "the compressed file is cut off",
		"a,_duet_at\n":    "names that begin with _duet_ are reserved",
	} {
		_, _, err := Scaffold("f", func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(text)), nil })
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
	wrong := errors.New("no such file")
	if _, _, err := Scaffold("f", func() (io.ReadCloser, error) { return nil, wrong }); !errors.Is(err, wrong) {
		t.Error(err)
	}
}

func TestRemedyNamesTheLineToWrite(t *testing.T) {
	p, faults := project.FromFiles(map[string]string{"duet.yaml": "", "streams/orders.yaml": `columns:
  sold_at: {type: TIMESTAMP NOT NULL, from: InvoiceDate}
  price: DECIMAL(18,2) NOT NULL
  quantity: INTEGER
  name: VARCHAR
`})
	if p == nil {
		t.Fatal(faults)
	}
	for _, c := range []struct {
		column string
		values []string
		want   string
	}{
		{"sold_at", []string{"12/1/2010 8:26", "12/13/2010 8:26"}, `In streams/orders.yaml:2 write: sold_at: {type: TIMESTAMP NOT NULL, from: InvoiceDate, format: "%m/%d/%Y %H:%M"}`},
		{"sold_at", []string{"01/12/2010", "02/12/2010"}, `Day-first and month-first both match, and no value that was read distinguishes them. In streams/orders.yaml:2 write, if the day is first: sold_at: {type: TIMESTAMP NOT NULL, from: InvoiceDate, format: "%d/%m/%Y"}; if the month is first: sold_at: {type: TIMESTAMP NOT NULL, from: InvoiceDate, format: "%m/%d/%Y"}`},
		{"sold_at", []string{"13.12.2010"}, `In streams/orders.yaml:2 write: sold_at: {type: TIMESTAMP NOT NULL, from: InvoiceDate, format: "%d.%m.%Y"}`},
		{"price", []string{"1.005"}, "In streams/orders.yaml:3 write: price: DECIMAL(18,3) NOT NULL"},
		{"price", []string{"1,50"}, `In streams/orders.yaml write: csv: {delimiter: ",", decimal: ","}`},
		{"quantity", []string{"1.5"}, "In streams/orders.yaml:4 write: quantity: DECIMAL(18,4)"},
		{"quantity", []string{"A12"}, "In streams/orders.yaml:4 write: quantity: VARCHAR"},
		{"name", []string{"x"}, ""},
		{"other", []string{"x"}, ""},
	} {
		if got := Remedy(p.Streams[0], c.column, c.values); got != c.want {
			t.Errorf("%s %q: %s", c.column, c.values, got)
		}
	}
}

func FuzzScaffold(f *testing.F) {
	f.Add("a,b\n1,2\n")
	f.Add("a;b\n1,5;\xff\n2010-12-01;\"x\n")
	f.Add(`{"a":{"b":[1]},"":"x","a.b":null}`)
	f.Fuzz(func(t *testing.T, text string) {
		_, _, err := Scaffold("f", func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(text)), nil })
		if err != nil && strings.Contains(err.Error(), "a project with faults") {
			t.Fatal(err)
		}
	})
}

func BenchmarkScaffoldRetail(b *testing.B) {
	for b.Loop() {
		retail(b)
	}
}
