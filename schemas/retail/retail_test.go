package retail

import (
	"fmt"
	"io"
	"maps"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"duet/schemas"
	"duet/schemas/event"
	"duet/schemas/project"
	"duet/schemas/project/scaffold"
	"duet/schemas/source"
	"duet/schemas/view"
)

// compile compiles every view of a project. Packaged and scaffolded views cause no
// warnings.
func compile(t *testing.T, p *project.Project) {
	t.Helper()
	c, err := view.NewCompiler(p.Streams)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}()
	for _, v := range p.Views {
		compiled, faults := c.Compile(v)
		for _, f := range faults {
			t.Error(f)
		}
		if compiled == nil {
			continue
		}
		units := maps.Clone(v.Units)
		for _, column := range compiled.Columns {
			delete(units, column.Name)
			if !column.Exact && !strings.HasPrefix(column.Name, "avg") {
				t.Errorf("%s.%s is not exact", v.Name, column.Name)
			}
		}
		if len(units) > 0 {
			t.Errorf("%s: units of columns that it has not: %v", v.File, units)
		}
		if v.Description == "" {
			t.Errorf("%s has no description", v.Name)
		}
	}
}

func TestThePackagedProjectCompiles(t *testing.T) {
	p, faults := project.Load(Files())
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	if len(p.Streams) != 3 || len(p.Views) != 6 || p.Name != "retail" {
		t.Error(len(p.Streams), len(p.Views), p.Name)
	}
	orders := p.Stream("orders")
	if orders.Zone == nil || orders.Zone.String() != "Europe/London" || orders.DayStarts != 4*time.Hour || orders.ID == nil || p.Stream("payments").ID == nil {
		t.Errorf("%+v", orders)
	}
	compile(t, p)
}

// scaffolded returns the project scaffolded from a sample file.
func scaffolded(t *testing.T, name string, open func() (io.ReadCloser, error)) *project.Project {
	t.Helper()
	files, _, err := scaffold.Scaffold(name, open)
	if err != nil {
		t.Fatal(err)
	}
	definitions := map[string]string{}
	for name, text := range files {
		if name == "duet.yaml" || strings.HasPrefix(name, "streams/") || strings.HasPrefix(name, "views/") {
			definitions[name] = text
		}
	}
	p, faults := project.FromFiles(definitions)
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	return p
}

func text(s string) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(s)), nil }
}

func TestScaffoldedProjectsCompile(t *testing.T) {
	for name, open := range map[string]func() (io.ReadCloser, error){
		"shop":             nil,
		"a.csv":            text("a\nx\n"),
		"order.csv":        text("order,group,day,quantity,unit_price,select\n1,a,2020-01-01,5,1.005,x\n2,a,2020-01-02,6,99999999.25,y\n3,b,2020-01-03,6,1,y\n4,b,2020-01-03,6,1,y\n"),
		"sales.csv":        text("sales;when;amount;total_tax;revenue;sales_by_region;region\n1;2020-01-01 10:00;1,50;2,00;3,1;x;n\n2;2020-01-01 11:00;1,50;2,00;3,1;x;n\n3;2020-01-01 11:00;1,50;2,00;3,1;x;s\n3;2020-01-01 11:00;1,50;2,00;3,1;x;s\n"),
		"events.ndjson":    text(`{"at":"2020-01-01T00:00:00Z","ok":true,"n":1}` + "\n" + `{"at":"2020-01-01T00:00:00Z","ok":false,"n":1}` + "\n" + `{"at":"2020-01-01T00:00:00Z","ok":false}`),
		"sales_by_day.csv": text("lines,pieces,hour,at,price,qty\nx,1,1,2020-01-01 00:00:00,1.5,2\nx,1,1,2020-03-01 00:00:00,1.5,2\n"),
	} {
		t.Run(name, func(t *testing.T) { compile(t, scaffolded(t, name, open)) })
	}
}

// ledger adds up accepted events.
type ledger struct {
	account schemas.Account
	revenue *big.Int // of quantity * unit_price, unscaled
}

// ingest sends a file as a client would, in envelopes of a chunk each.
func (l *ledger) ingest(t *testing.T, q *event.Sequencer, s *project.Stream, file string) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := source.Open(f, s, source.Options{Name: file})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var lines source.Batch
	b := event.NewBatch(memory.NewGoAllocator())
	defer b.Release()
	at := schemas.NewPosition(1, 0)
	for {
		lines.Reset()
		if err := r.ReadBatch(&lines, 8192, 1<<20); err == io.EOF {
			return
		} else if err != nil {
			t.Fatal(err)
		}
		var runs []event.Run
		var records [][]byte
		for chunk, part := range lines.Runs {
			run := event.Run{Count: uint32(len(part)), Chunk: chunk}
			for _, rec := range part {
				run.Lines, records = append(run.Lines, rec.Digest), append(records, rec.JSON)
			}
			runs = append(runs, run)
		}
		at++
		q.Apply(event.Message{Stream: s.Name, At: at, Time: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), Data: event.AppendEnvelope(nil, s.Name, runs, records)}, b)
		l.add(b)
		b.Reset()
	}
}

func (l *ledger) add(b *event.Batch) {
	for _, a := range b.Accounts() {
		l.account.Add(a.Account)
	}
	for _, rows := range b.Records() {
		var quantity *array.Int32
		var price *array.Decimal128
		for i, f := range rows.Record.Schema().Fields() {
			switch f.Name {
			case "quantity":
				quantity = rows.Record.Column(i).(*array.Int32)
			case "unit_price":
				price = rows.Record.Column(i).(*array.Decimal128)
			}
		}
		for i := range int(rows.Record.NumRows()) {
			l.revenue.Add(l.revenue, new(big.Int).Mul(big.NewInt(int64(quantity.Value(i))), price.Value(i).BigInt()))
		}
	}
}

func TestEveryLineOfTheRetailFileIsAcceptedOnce(t *testing.T) {
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
	p := scaffolded(t, file, func() (io.ReadCloser, error) { return os.Open(file) })
	compile(t, p)
	if p.View("sales_by_country") == nil || p.View("sales_by_day") == nil {
		t.Error("the views are not those wanted")
	}
	s := p.Stream("online_retail")
	q := event.NewSequencer(map[string]*event.Schema{s.Name: event.NewSchema(s)}, event.NewState())
	l := ledger{revenue: new(big.Int)}
	l.ingest(t, q, s, file)
	if want := (schemas.Account{Received: 541_909, Accepted: 541_909}); l.account != want {
		t.Fatalf("%+v", l.account)
	}
	if l.revenue.String() != "9747747934" { // 9,747,747.934
		t.Error(l.revenue)
	}
	l.ingest(t, q, s, file)
	if want := (schemas.Account{Received: 2 * 541_909, Accepted: 541_909, Duplicate: 541_909}); l.account != want {
		t.Errorf("sent again: %+v", l.account)
	}
}

// The loader and the decoder refuse the same formats.
func TestFormatsAgreeWithTheDecoder(t *testing.T) {
	parts := []string{"%Y", "%m", "%d", "%H", "%M", "%S", "%f", "%y", "%b", "%B", "%j", "%I", "%p", "%z", "%Z", "%s", "%a", "%u", "%g", "%n", "%F", "%T", "%R", "%D", "%c", "%x", "%X", "%-d", "%-Y", "%%", "%Q", "%", " ", "x"}
	bases := []string{"", "%Y-%m-%d", "%d.%m.%Y %H:%M", "%H:%M:%S", "%I:%M", "%Y%j"}
	for _, kind := range []project.Kind{project.Date, project.Time, project.Timestamp} {
		for _, base := range bases {
			for _, a := range parts {
				for _, b := range append(parts, "") {
					format := base + a + b
					yaml := fmt.Sprintf("columns: {a: {type: %s, format: %q}}", project.Type{Kind: kind}, format)
					p, faults := project.FromFiles(map[string]string{"duet.yaml": "", "streams/s.yaml": yaml})
					if err := event.CheckFormat(kind, format); (err == nil) != (p != nil) {
						t.Errorf("%s %q: the decoder says %v, the loader %v", project.Type{Kind: kind}, format, err, faults)
					}
				}
			}
		}
	}
}
