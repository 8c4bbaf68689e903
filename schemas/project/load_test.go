package project

import (
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
)

const ordersYAML = `# orders
event_time: {column: sold_at, zone: Europe/London, day_starts: "04:00"}
id: [invoice, line]
columns:
  invoice:  VARCHAR NOT NULL
  line:     INTEGER NOT NULL
  sku:      {type: VARCHAR NOT NULL, from: StockCode}
  price:    DECIMAL(18,4) NOT NULL
  customer: BIGINT
  sold_at:  {type: TIMESTAMP NOT NULL, from: InvoiceDate, format: "%m/%d/%Y %H:%M"}
csv: {delimiter: ";", decimal: ",", encoding: ISO-8859-1, nulls: ["", NA, null, -1]}
`

const revenueSQL = "SELECT sku, sum(price) AS revenue FROM orders GROUP BY ALL\n"

func folder(files map[string]string) fstest.MapFS {
	fsys := fstest.MapFS{}
	for name, text := range files {
		fsys[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return fsys
}

func good(change map[string]string) map[string]string {
	files := map[string]string{
		"duet.yaml":           "version: 1\nname: retail\n",
		"streams/orders.yaml": ordersYAML,
		"views/revenue.sql":   revenueSQL,
		"views/revenue.yaml":  "description: Revenue by sku\nunits: {revenue: GBP}\nmax_groups: 10000\n",
	}
	maps.Copy(files, change)
	return files
}

func TestLoadReadsAWholeProject(t *testing.T) {
	p, faults := Load(folder(good(nil)))
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	london, _ := time.LoadLocation("Europe/London")
	want := &Stream{
		Name: "orders", File: "streams/orders.yaml", EventTime: "sold_at", Zone: london, DayStarts: 4 * time.Hour,
		ID: []string{"invoice", "line"}, IDWindow: 1_000_000, FutureBound: 24 * time.Hour,
		Columns: []Column{
			{Name: "invoice", From: "invoice", Type: Type{Kind: Varchar}, NotNull: true, Line: 5},
			{Name: "line", From: "line", Type: Type{Kind: Integer}, NotNull: true, Line: 6},
			{Name: "sku", From: "StockCode", Type: Type{Kind: Varchar}, NotNull: true, Line: 7},
			{Name: "price", From: "price", Type: Type{Kind: Decimal, Precision: 18, Scale: 4}, NotNull: true, Line: 8},
			{Name: "customer", From: "customer", Type: Type{Kind: BigInt}, Line: 9},
			{Name: "sold_at", From: "InvoiceDate", Format: "%m/%d/%Y %H:%M", Type: Type{Kind: Timestamp}, NotNull: true, Line: 10},
		},
		CSV:   CSV{Delimiter: ";", Decimal: ",", Encoding: "latin-1", Nulls: []string{"", "NA", "null", "-1"}},
		Lines: map[string]int{"event_time": 2, "id": 3, "columns": 4, "csv": 11},
	}
	if diff := cmp.Diff(want, p.Stream("orders"), cmp.Comparer(func(a, b *time.Location) bool { return a.String() == b.String() })); diff != "" {
		t.Error(diff)
	}
	wantView := &View{Name: "revenue", File: "views/revenue.sql", SQL: revenueSQL, Description: "Revenue by sku",
		Units: map[string]string{"revenue": "GBP"}, MaxGroups: 10000}
	if diff := cmp.Diff(wantView, p.View("revenue")); diff != "" {
		t.Error(diff)
	}
	if p.Limits != (Limits{Memory: 4e9, Log: 8e9, BatchThreads: 1, BatchMemory: 2e9}) || p.Batch.Incremental != "@every 1m" || p.Batch.Keep != (Keep{24, 35, 13}) {
		t.Errorf("defaults: %+v %+v", p.Limits, p.Batch)
	}
	again, faults := FromFiles(p.Files)
	if len(faults) > 0 || Print(again) != Print(p) {
		t.Errorf("from its own files: %v\n%s", faults, Print(again))
	}
}

func TestLoadReadsEverySetting(t *testing.T) {
	p, faults := Load(folder(good(map[string]string{
		"duet.yaml":          "version: 1\r\nname: shop\r\nbatch:\r\n  incremental: off\r\n  full: \"@daily\"\r\n  keep: {last: 1, daily: 0, monthly: 2}\r\nlimits: {memory: 1.5 GiB, log: 512MB, batch_threads: 2, batch_memory: 1GB}\r\n",
		"streams/moves.yaml": "event_time: at\nfuture_bound: off\nid: no\nid_window: 1_000\ncolumns: {at: datetime not null, no: long, \"null\": 'numeric(10)', ok: bool null}\ncsv: {delimiter: \"\\t\"}\n",
		"streams/.hidden":    "x", "streams/README.md": "notes",
	})))
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	if p.Batch.Incremental != "" || p.Batch.Full != "@daily" || p.Batch.Keep != (Keep{1, 0, 2}) ||
		p.Limits != (Limits{Memory: 1.5 * (1 << 30), Log: 512e6, BatchThreads: 2, BatchMemory: 1e9}) {
		t.Errorf("%+v %+v", p.Batch, p.Limits)
	}
	s := p.Stream("moves")
	if s.FutureBound != 0 || s.IDWindow != 1000 || !slices.Equal(s.ID, []string{"no"}) || s.CSV.Delimiter != "\t" || s.Columns[2].SQL() != "DECIMAL(10,0)" {
		t.Errorf("%+v", s)
	}
}

// Each case changes files of a valid project; all of its faults are listed.
func TestLoadReportsEveryFault(t *testing.T) {
	stream := func(text string) map[string]string { return map[string]string{"streams/orders.yaml": text} }
	config := func(text string) map[string]string { return map[string]string{"duet.yaml": text} }
	for name, c := range map[string]struct {
		files map[string]string
		want  []string
	}{
		"all at once": {map[string]string{
			"duet.yaml":           "version: 2\nlimits: {memry: 4GB}\n",
			"streams/orders.yaml": "columns:\n  Price: INT\n  qty: INTEGR\nevent_tme: x\n",
		}, []string{
			`duet.yaml:1:10: version is "2"; this program reads version 1. write version: 1, or use a newer duet`,
			`duet.yaml:2:10: unknown key "memry" in limits. did you mean memory?`,
			`streams/orders.yaml:2:3: the column's name "Price" is not allowed. write price: a to z first, then a to z, 0 to 9 and _, at most 63; with from: Price it is still read from there`,
			`streams/orders.yaml:3:8: the column qty: "INTEGR" is not a SQL type. did you mean INTEGER?`,
			`streams/orders.yaml:4:1: unknown key "event_tme" in the stream. did you mean event_time?`,
		}},
		"bad schedules": {config("batch:\n  incremental: TZ=Europe/London 0 3 * * *\n  full: \"61 3 * * *\"\n"), []string{
			`duet.yaml:2:16: batch.incremental: the schedule "TZ=Europe/London 0 3 * * *" has a zone; schedules are in UTC. write five fields such as "15 3 * * *", or "@every 1m", or off`,
			`duet.yaml:3:9: batch.full: "61 3 * * *" is not a schedule: end of range (61) above maximum (59): 61. write five fields such as "15 3 * * *", or "@every 1m", or off`,
		}},
		"a schedule that never comes": {config("batch: {full: \"0 0 30 2 *\", incremental: \"@every 5ms\"}\n"), []string{
			`duet.yaml:1:15: batch.full: the schedule "0 0 30 2 *" never occurs. write five fields such as "15 3 * * *", or "@every 1m", or off`,
			`duet.yaml:1:42: batch.incremental: the schedule "@every 5ms" is shorter than a second. write five fields such as "15 3 * * *", or "@every 1m", or off`,
		}},
		"bad sizes and numbers": {config("limits: {memory: 4, log: 4 XB, batch_memory: 1MB, batch_threads: 0}\nbatch: {keep: {last: 0, daily: x}}\n"), []string{
			`duet.yaml:1:18: limits.memory: "4" has no unit. write a size such as 4GB or 512MB`,
			`duet.yaml:1:26: limits.log: "XB" is not a unit of size. write a size such as 4GB or 512MB`,
			`duet.yaml:1:46: limits.batch_memory is 1MB, which is too little. write at least 64MiB`,
			`duet.yaml:1:66: limits.batch_threads is "0". write a whole number from 1 to 256`,
			`duet.yaml:2:22: batch.keep.last is "0". write a whole number from 1 to 10,000`,
			`duet.yaml:2:32: batch.keep.daily is "x". write a whole number from 0 to 10,000`,
		}},
		"a key one level off, twice, of the wrong kind": {config("full: off\nname: a\nname: b\nlimits: 3\nbatch:\n"), []string{
			`duet.yaml:1:1: unknown key "full" in duet.yaml. it belongs under batch`,
			`duet.yaml:3:1: duet.yaml has "name" twice. remove one`,
			`duet.yaml:4:9: limits is "3", not a mapping. write memory: value`,
		}},
		"not YAML": {config("limits: {memory: 4GB\nname: x\n"), []string{
			`duet.yaml:2:1: is not YAML: ',' or '}' must be specified. check quotes, brackets and indentation`,
		}},
		"missing columns": {stream("event_time: x\n"), []string{
			`streams/orders.yaml: columns are missing. write columns: {name: TYPE, ...}, or begin with: duet init DIR --from FILE`,
		}},
		"no columns in it": {stream("columns:\n"), []string{
			`streams/orders.yaml:1:1: columns are missing. write columns: {name: TYPE, ...}`,
		}},
		"types": {stream("columns:\n  a: UINTEGER\n  b: TIMESTAMPTZ NOT NULL\n  c: INT[]\n  d: DECIMAL(40,2)\n  e: DECIMAL(4,5)\n  f: VARCHAR(10)\n  g: INTEGER PRIMARY KEY\n  h: [x]\n  i:\n  j: {from: x}\n  k: {type: DATE, format: \"%Q\"}\n  l: {type: INT, format: \"%Y\"}\n  m: {type: DECIMAL(18,4) NOT NULL, from: M}\n  n: {typ: INT}\n"), []string{
			`streams/orders.yaml:2:6: the column a: UINTEGER is not a type of a stream's column. write BIGINT`,
			`streams/orders.yaml:3:6: the column b: TIMESTAMPTZ is not a type of a stream's column. write TIMESTAMP: values with an offset become UTC`,
			`streams/orders.yaml:4:6: the column c: INT[] is a list; a column holds one value. write one event an element, or VARCHAR`,
			`streams/orders.yaml:5:6: the column d: DECIMAL(40,2) has 40 digits; a DECIMAL has 1 to 38. write DECIMAL(18,4) or DECIMAL(38,4)`,
			`streams/orders.yaml:6:6: the column e: DECIMAL(4,5) has more decimals than digits. write DECIMAL(9,5)`,
			`streams/orders.yaml:7:6: the column f: VARCHAR(10) has a parameter, but VARCHAR takes none. write VARCHAR; lengths are not checked`,
			`streams/orders.yaml:8:6: the column g: PRIMARY is not part of a column here. write TYPE or TYPE NOT NULL; columns that identify an event are declared as id: [column, ...]`,
			`streams/orders.yaml:9:6: the column h is a list. write TYPE or TYPE NOT NULL, or {type: ..., from: ..., format: ...}`,
			`streams/orders.yaml:10:3: the column i is empty. write TYPE or TYPE NOT NULL, or {type: ..., from: ..., format: ...}`,
			`streams/orders.yaml:11:3: the column j has no type. write {type: "VARCHAR NOT NULL", ...}`,
			`streams/orders.yaml:12:27: the format "%Q" has the unknown specifier "%Q". write a strptime format such as "%d/%m/%Y %H:%M"`,
			`streams/orders.yaml:13:26: l has a format, but is INTEGER. formats are for DATE, TIME and TIMESTAMP: remove it`,
			`streams/orders.yaml:14:13: within { } a comma ends the value, so the type is cut to "DECIMAL(18". quote it: type: "DECIMAL(18,4) NOT NULL"`,
			`streams/orders.yaml:15:3: the column n has no type. write {type: "VARCHAR NOT NULL", ...}`,
			`streams/orders.yaml:15:7: unknown key "typ" in the column n. did you mean type?`,
		}},
		"event time": {stream("columns: {sold_at: DATE}\nevent_time: sold_at\n"), []string{
			`streams/orders.yaml:2:13: event_time is sold_at, which is DATE. declare it as sold_at: TIMESTAMP NOT NULL, or name a TIMESTAMP column`,
		}},
		"event time may be null, is unknown": {stream("columns: {sold_at: TIMESTAMP}\nevent_time: {column: sold_at, zone: Europe/Londn, day_starts: \"25:00\"}\nid: [sold, sold_at, sold_at]\nfuture_bound: -3h\n"), []string{
			`streams/orders.yaml:2:22: event_time is sold_at, which may be NULL. declare it as sold_at: TIMESTAMP NOT NULL; events without a time are then rejected`,
			`streams/orders.yaml:2:37: "Europe/Londn" is not a time zone. write an IANA zone such as Europe/London, America/New_York or UTC`,
			`streams/orders.yaml:2:63: day_starts is "25:00", not a time of the day. write hours and minutes, in quotes: "04:00"`,
			`streams/orders.yaml:3:6: id is "sold", which is not a column. the columns are sold_at`,
			`streams/orders.yaml:3:21: id names sold_at twice. remove one`,
			`streams/orders.yaml:4:15: future_bound: "-3h" is negative. write a duration such as 24h or 7d, or off`,
		}},
		"names that a zone adds": {stream("columns: {sold_at: TIMESTAMP NOT NULL, sold_at_local: TIMESTAMP, business_date: DATE, _duet_at: INT}\nevent_time: {column: sold_at, zone: UTC}\n"), []string{
			`streams/orders.yaml:1:40: the column sold_at_local is added to every event, because event_time has a zone. rename yours and add from: sold_at_local`,
			`streams/orders.yaml:1:66: the column business_date is added to every event, because event_time has a zone. rename yours and add from: business_date`,
			`streams/orders.yaml:1:87: the column's name "_duet_at" begins with _duet_, which is reserved. give it another name`,
		}},
		"day_starts without zone, csv": {stream("columns:\n  a: TIMESTAMP NOT NULL\n  b: {type: INT, from: a}\nevent_time: {column: a, day_starts: \"04:00\"}\ncsv: {delimiter: \";;\", decimal: x, encoding: utf-16, nulls: [[]]}\n"), []string{
			`streams/orders.yaml:4:25: day_starts needs a zone. add zone: Europe/London, or zone: UTC`,
			`streams/orders.yaml:5:18: csv.delimiter is ";;", not one character. write "," or ";" or "\t" or "|"`,
			`streams/orders.yaml:5:33: csv.decimal is "x". write "." or ","`,
			`streams/orders.yaml:5:46: csv.encoding is "utf-16". write utf-8, latin-1 or windows-1252, or convert the file: iconv -t utf-8`,
			`streams/orders.yaml:5:62: csv.nulls holds a list. write a list of texts such as ["", "NA"]`,
		}},
		"files": {map[string]string{
			"streams/old.yml": "x", "streams/data.csv": "x", "streams/sub/x.yaml": "x", "tables/products.yaml": "file: x", "views/revenu.yaml": "units: {}\n",
			"views/Top Ten.sql": "SELECT 1", "views/orders.sql": "SELECT 1", "views/empty.sql": " \n", "views/bad.sql": "\xff",
		}, []string{
			`streams/data.csv: is not a definition: streams holds .yaml files. move it out of streams`,
			`streams/old.yml: is not read. rename it old.yaml`,
			`streams/sub: is a folder; folders below streams are not read. move its files to streams`,
			`tables/products.yaml: this version does not join tables yet. send what the views need with each event, and remove the file`,
			`views/Top Ten.sql: the view's name "Top Ten" is not allowed. rename the file: write top_ten: a to z first, then a to z, 0 to 9 and _, at most 63`,
			`views/bad.sql: is not UTF-8. save it as UTF-8`,
			`views/empty.sql:1:1: is empty. write one SELECT ... FROM stream GROUP BY ALL`,
			`views/orders.sql: the view orders has the name of a stream. rename the file`,
			`views/revenu.yaml: describes a view that does not exist: there is no views/revenu.sql. did you mean views/revenue.yaml?`,
		}},
		"view settings": {map[string]string{"views/revenue.yaml": "descripton: x\nsettle: 1h\nunits: [x]\nmax_groups: -1\n"}, []string{
			`views/revenue.yaml:1:1: unknown key "descripton" in the view's settings. did you mean description?`,
			`views/revenue.yaml:2:1: unknown key "settle" in the view's settings. the keys are description, units, max_groups`,
			`views/revenue.yaml:3:8: units is a list, not a mapping. write key: value`,
			`views/revenue.yaml:4:13: max_groups is "-1". write a whole number from 0 to 1,000,000,000`,
		}},
		"too deep": {config(strings.Repeat("[", 40)), []string{`duet.yaml:1:1: more than 32 levels of nesting. write it flatter`}},
		"too big":  {config(strings.Repeat("# x\n", 100_000)), []string{`duet.yaml: is larger than 256 KiB, the limit of a definition. keep data out of the folders of definitions`}},
	} {
		t.Run(name, func(t *testing.T) {
			p, faults := Load(folder(good(c.files)))
			if p != nil {
				t.Error("a project in spite of faults")
			}
			var got []string
			for _, f := range faults {
				got = append(got, f.Error())
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestLoadReportsAWrongFolder(t *testing.T) {
	_, faults := Load(fstest.MapFS{})
	if got := faults.Error(); got != "duet.yaml: is missing, so this is not a project's folder. name the folder that holds duet.yaml, or begin one: duet init DIR --from FILE" {
		t.Error(got)
	}
	_, faults = Load(folder(map[string]string{"duet.yaml": "", "stream/orders.yaml": "x"}))
	if got := faults.Error(); got != "stream: is not read. rename it streams" {
		t.Error(got)
	}
	p, faults := Load(folder(map[string]string{"duet.yaml": "", "streams/orders.yaml": "columns: {a: INT}"}))
	if got := faults.Error(); p == nil || got != "views: warning: holds no view. write views/NAME.sql with one SELECT" {
		t.Error(p, got)
	}
}

func TestPrintIsStable(t *testing.T) {
	p, faults := Load(folder(good(nil)))
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	want := `version: 1
name: retail
batch:
  incremental: "@every 1m"
  full: "15 3 * * *"
  keep: {last: 24, daily: 35, monthly: 13}
limits: {memory: 4GB, log: 8GB, batch_threads: 1, batch_memory: 2GB}
streams:
  orders: # streams/orders.yaml
    event_time: {column: sold_at, zone: Europe/London, day_starts: "04:00"}
    future_bound: 24h
    id: [invoice, line]
    id_window: 1000000
    columns:
      invoice: {type: VARCHAR NOT NULL}
      line: {type: INTEGER NOT NULL}
      sku: {type: VARCHAR NOT NULL, from: StockCode}
      price: {type: "DECIMAL(18,4) NOT NULL"}
      customer: {type: BIGINT}
      sold_at: {type: TIMESTAMP NOT NULL, from: InvoiceDate, format: "%m/%d/%Y %H:%M"}
    csv: {delimiter: ";", decimal: ",", encoding: latin-1, nulls: ["", NA, "null", "-1"]}
views:
  revenue: # views/revenue.sql
    description: Revenue by sku
    max_groups: 10000
    units:
      revenue: GBP
    sql: |2
      SELECT sku, sum(price) AS revenue FROM orders GROUP BY ALL
`
	if diff := cmp.Diff(want, Print(p)); diff != "" {
		t.Error(diff)
	}
}

func TestStreamDiffNamesEachChange(t *testing.T) {
	old, faults := Load(folder(good(nil)))
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	changed := strings.NewReplacer("DECIMAL(18,4)", "DECIMAL(18,2)", "  customer: BIGINT\n", "", "Europe/London", "Europe/Paris",
		"csv:", "  shop:     VARCHAR\ncsv:", "[invoice, line]", "[invoice]", "%m/%d", "%d/%m", `delimiter: ";"`, `delimiter: "|"`).Replace(ordersYAML)
	new, faults := Load(folder(good(map[string]string{"streams/orders.yaml": changed})))
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	want := []string{
		"streams/orders.yaml:8: price was DECIMAL(18,4) NOT NULL, is DECIMAL(18,2) NOT NULL",
		"streams/orders.yaml:9: sold_at.format was %m/%d/%Y %H:%M, is %d/%m/%Y %H:%M",
		"streams/orders.yaml:10: shop VARCHAR is new",
		"streams/orders.yaml:4: customer BIGINT is gone",
		"streams/orders.yaml:2: event_time.zone was Europe/London, is Europe/Paris",
		"streams/orders.yaml:3: id was invoice, line, is invoice",
	}
	if diff := cmp.Diff(want, StreamDiff(old.Streams[0], new.Streams[0])); diff != "" {
		t.Error(diff)
	}
	if d := StreamDiff(old.Streams[0], old.Streams[0]); d != nil {
		t.Error(d)
	}
}

// The published schemas and the loader have the same keys.
func TestSchemasAgreeWithTheLoader(t *testing.T) {
	type schema struct {
		AdditionalProperties any                `json:"additionalProperties"`
		Properties           map[string]*schema `json:"properties"`
		OneOf                []*schema          `json:"oneOf"`
		Pattern              string             `json:"pattern"`
		Enum                 []string           `json:"enum"`
		Defs                 map[string]*schema `json:"$defs"`
	}
	read := func(name string) (s *schema) {
		if err := json.Unmarshal([]byte(Schemas()[name]), &s); err != nil {
			t.Fatal(name, err)
		}
		return s
	}
	same := func(what string, s *schema, keys []string) {
		t.Helper()
		if closed, ok := s.AdditionalProperties.(bool); !ok || closed {
			t.Errorf("%s: additionalProperties is not false", what)
		}
		got := slices.Sorted(maps.Keys(s.Properties))
		if want := slices.Sorted(slices.Values(keys)); !slices.Equal(got, want) {
			t.Errorf("%s: the schema has %v, the loader %v", what, got, want)
		}
	}
	config, stream, view := read("duet.schema.json"), read("stream.schema.json"), read("view.schema.json")
	same("duet.yaml", config, configKeys)
	same("batch", config.Properties["batch"], batchKeys)
	same("keep", config.Properties["batch"].Properties["keep"], keepKeys)
	same("limits", config.Properties["limits"], limitsKeys)
	same("stream", stream, streamKeys)
	same("event_time", stream.Properties["event_time"].OneOf[1], eventTimeKeys)
	same("csv", stream.Properties["csv"], csvKeys)
	same("view", view, viewKeys)
	if p := stream.Defs["name"].Pattern; p != namePattern.String() {
		t.Errorf("name pattern %s", p)
	}
	dayStarts := regexp.MustCompile(stream.Properties["event_time"].OneOf[1].Properties["day_starts"].Pattern)
	for _, text := range []string{"04:00", "4:00", "23:59:59", "24:00", "4", "04:60", ""} {
		if _, ok := parseDayStarts(text); ok != dayStarts.MatchString(text) {
			t.Errorf("day_starts %q: the loader says %t", text, ok)
		}
	}
	var column struct {
		Properties struct {
			Columns struct {
				AdditionalProperties *schema `json:"additionalProperties"`
			} `json:"columns"`
		} `json:"properties"`
	}
	if err := json.Unmarshal([]byte(Schemas()["stream.schema.json"]), &column); err != nil {
		t.Fatal(err)
	}
	same("column", column.Properties.Columns.AdditionalProperties.OneOf[1], columnKeys)
	for _, e := range stream.Properties["csv"].Properties["encoding"].Enum {
		if encodings[e] != e {
			t.Errorf("encoding %s is not one of the loader's", e)
		}
	}
}

func FuzzFromFilesNeverPanics(f *testing.F) {
	f.Add("version: 1", ordersYAML)
	f.Add("a: &x [*x]", "columns: {a: {type: DECIMAL(18,4), from: x}}")
	f.Add("? [a]\n: b", "columns: !!map {a: INT}\n<<: *x")
	f.Fuzz(func(t *testing.T, config, stream string) {
		p, faults := FromFiles(map[string]string{"duet.yaml": config, "streams/s.yaml": stream, "views/v.sql": "SELECT 1", "views/v.yaml": config})
		if (p == nil) != faults.Fatal() {
			t.Fatalf("project %v, faults %v", p, faults)
		}
		if p != nil {
			if again, _ := FromFiles(p.Files); Print(again) != Print(p) {
				t.Fatal("printed differently")
			}
		}
	})
}
