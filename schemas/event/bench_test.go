package event

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"
	_ "time/tzdata" // not every machine has a database of zones

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/decimal128"
	"github.com/apache/arrow-go/v18/arrow/memory"
	gojson "github.com/goccy/go-json"

	"duet/schemas"
	"duet/schemas/project"
)

// retailStream is a stream of orders with nine columns.
func retailStream() *project.Stream {
	sql := func(k project.Kind) project.Type { return project.Type{Kind: k} }
	return &project.Stream{
		Name: "orders", EventTime: "sold_at", FutureBound: 24 * time.Hour,
		Columns: []project.Column{
			{Name: "invoice", Type: sql(project.Varchar), NotNull: true},
			{Name: "line", Type: sql(project.Integer), NotNull: true},
			{Name: "sku", Type: sql(project.Varchar), NotNull: true},
			{Name: "quantity", Type: sql(project.Integer), NotNull: true},
			{Name: "price", Type: project.Type{Kind: project.Decimal, Precision: 18, Scale: 4}, NotNull: true},
			{Name: "customer", Type: sql(project.BigInt)},
			{Name: "country", Type: sql(project.Varchar)},
			{Name: "sold_at", Type: sql(project.Timestamp), NotNull: true},
			{Name: "discount", Type: sql(project.Double)},
		},
	}
}

var logTime = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// retailRecords returns n valid records from a seed.
func retailRecords(n int) [][]byte {
	r := rand.New(rand.NewPCG(1, 2))
	records := make([][]byte, n)
	for i := range records {
		records[i] = fmt.Appendf(nil, `{"invoice":"%d","line":%d,"sku":"8512%dA","quantity":%d,"price":%d.%02d,"customer":%d,"country":"United Kingdom","sold_at":"2011-%02d-%02d %02d:%02d:00","discount":0.%d}`,
			536365+i/10, i%10, r.IntN(10), r.IntN(100)-5, r.IntN(100), r.IntN(100), 12000+r.IntN(5000), 1+r.IntN(12), 1+r.IntN(28), r.IntN(24), r.IntN(60), r.IntN(100))
	}
	return records
}

func bytesOf(records [][]byte) (n int64) {
	for _, r := range records {
		n += int64(len(r))
	}
	return n / int64(len(records))
}

// BenchmarkDecode decodes nine typed columns into Arrow. It should reach 1.35 M
// rows/s on one core.
func BenchmarkDecode(b *testing.B) {
	records := retailRecords(10_000)
	b.Run("ours", func(b *testing.B) {
		s := NewSchema(retailStream())
		d := newDecoder(s)
		batch := NewBatch(memory.DefaultAllocator)
		defer batch.Release()
		b.SetBytes(bytesOf(records))
		b.ReportAllocs()
		before := cpu()
		for i := 0; b.Loop(); i++ {
			if i%10_000 == 0 {
				batch.Reset()
			}
			if i%1000 == 0 {
				batch.rowsOf(s).reserve(1000)
			}
			if r := d.decode(records[i%len(records)], logTime.UnixMicro()); r != nil {
				b.Fatal(r.Reason)
			}
			batch.rowsOf(s).append(d, 1, i, 0)
		}
		perCore(b, before, 1, "rows")
	})
	b.Run("parse-only", func(b *testing.B) {
		d := newDecoder(NewSchema(retailStream()))
		b.SetBytes(bytesOf(records))
		b.ReportAllocs()
		before := cpu()
		for i := 0; b.Loop(); i++ {
			if r := d.decode(records[i%len(records)], logTime.UnixMicro()); r != nil {
				b.Fatal(r.Reason)
			}
		}
		perCore(b, before, 1, "rows")
	})
	b.Run("goccy", func(b *testing.B) { benchmarkStruct(b, records, gojson.Unmarshal) })
	b.Run("encoding-json", func(b *testing.B) { benchmarkStruct(b, records, json.Unmarshal) })
}

// retailRow is the target of the decoders by reflection, which are less strict.
type retailRow struct {
	Invoice  *string      `json:"invoice"`
	Line     *int32       `json:"line"`
	Sku      *string      `json:"sku"`
	Quantity *int32       `json:"quantity"`
	Price    *json.Number `json:"price"`
	Customer *int64       `json:"customer"`
	Country  *string      `json:"country"`
	SoldAt   *string      `json:"sold_at"`
	Discount *float64     `json:"discount"`
}

func benchmarkStruct(b *testing.B, records [][]byte, unmarshal func([]byte, any) error) {
	builder := array.NewRecordBuilder(memory.DefaultAllocator, NewSchema(retailStream()).Arrow())
	defer builder.Release()
	b.SetBytes(bytesOf(records))
	b.ReportAllocs()
	before := cpu()
	for i := 0; b.Loop(); i++ {
		if i%10_000 == 0 {
			builder.NewRecordBatch().Release()
		}
		var row retailRow
		if err := unmarshal(records[i%len(records)], &row); err != nil {
			b.Fatal(err)
		}
		price, err := decimal128.FromString(row.Price.String(), 18, 4)
		if err != nil {
			b.Fatal(err)
		}
		at, err := time.Parse(time.DateTime, *row.SoldAt)
		if err != nil {
			b.Fatal(err)
		}
		f := builder.Field
		f(0).(*array.StringBuilder).Append(*row.Invoice)
		f(1).(*array.Int32Builder).Append(*row.Line)
		f(2).(*array.StringBuilder).Append(*row.Sku)
		f(3).(*array.Int32Builder).Append(*row.Quantity)
		f(4).(*array.Decimal128Builder).Append(price)
		f(5).(*array.Int64Builder).Append(*row.Customer)
		f(6).(*array.StringBuilder).Append(*row.Country)
		f(7).(*array.TimestampBuilder).Append(arrow.Timestamp(at.UnixMicro()))
		f(8).(*array.Float64Builder).Append(*row.Discount)
		f(9).AppendNull()
		f(10).(*array.Int64Builder).Append(1)
		f(11).(*array.Int32Builder).Append(int32(i))
	}
	perCore(b, before, 1, "rows")
}

// cpu returns the process's CPU time, including that of the garbage collector.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// perCore reports a rate per second of CPU time, which other processes change less
// than the rate per second of wall time.
func perCore(b *testing.B, before time.Duration, each int, what string) {
	b.ReportMetric(float64(each)*float64(b.N)/(cpu()-before).Seconds(), what+"/s/core")
}

// BenchmarkApply applies whole envelopes of 1,000 events.
func BenchmarkApply(b *testing.B) {
	run := func(name string, edit func(*project.Stream), runs func(n uint64) []Run, bad bool) {
		b.Run(name, func(b *testing.B) {
			stream := retailStream()
			edit(stream)
			records := retailRecords(1000)
			if bad {
				for i := 50; i < len(records); i += 100 {
					records[i] = []byte(`{"invoice":"1","line":1.5,"sku":"x"}`)
				}
			}
			q := NewSequencer(map[string]*Schema{stream.Name: NewSchema(stream)}, NewState())
			batch := NewBatch(memory.DefaultAllocator)
			defer batch.Release()
			b.ReportAllocs()
			at := schemas.Position(0)
			var used time.Duration
			var data []byte
			for i := uint64(0); b.Loop(); i++ {
				b.StopTimer()
				data = AppendEnvelope(data[:0], stream.Name, runs(i), records)
				start := cpu()
				b.StartTimer()
				at++
				q.Apply(Message{Stream: stream.Name, At: at, Time: logTime, Data: data}, batch)
				if batch.Full() {
					batch.Records()
					batch.Reset()
				}
				used += cpu() - start
			}
			perCore(b, cpu()-used, 1000, "events")
		})
	}
	plain := func(n uint64) []Run { return []Run{{Producer: "p", First: n*1000 + 1, Count: 1000, Session: "s"}} }
	run("plain", func(*project.Stream) {}, plain, false)
	run("zone", func(s *project.Stream) { s.Zone = mustZone("Europe/London"); s.DayStarts = 4 * time.Hour }, plain, false)
	run("rejects-1-in-100", func(*project.Stream) {}, plain, true)
	run("duplicates-by-id", func(s *project.Stream) { s.ID = []string{"invoice", "line"} }, plain, false)
	run("file-lines", func(*project.Stream) {}, func(n uint64) []Run {
		r := Run{Count: 1000, Lines: make([]uint64, 1000), Chunk: [16]byte{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)}}
		rnd := rand.New(rand.NewPCG(n, 0))
		for i := range r.Lines {
			r.Lines[i] = rnd.Uint64()
		}
		return []Run{r}
	}, false)
}

func mustZone(name string) *time.Location {
	loc, err := time.LoadLocation(name)
	if err != nil {
		panic(err)
	}
	return loc
}
