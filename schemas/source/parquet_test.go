package source

import (
	"bytes"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/decimal128"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/arrow-go/v18/parquet"
	"github.com/apache/arrow-go/v18/parquet/compress"
	"github.com/apache/arrow-go/v18/parquet/pqarrow"
	"github.com/google/go-cmp/cmp"

	"duet/schemas/project"
)

// parquetOf returns a Parquet file of the JSON rows.
func parquetOf(t testing.TB, schema *arrow.Schema, fill func(*array.RecordBuilder)) []byte {
	t.Helper()
	b := array.NewRecordBuilder(memory.NewGoAllocator(), schema)
	defer b.Release()
	fill(b)
	rec := b.NewRecordBatch()
	defer rec.Release()
	var out bytes.Buffer
	w, err := pqarrow.NewFileWriter(schema, &out, parquet.NewWriterProperties(parquet.WithCompression(compress.Codecs.Zstd)), pqarrow.DefaultWriterProps())
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Write(rec); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func onDisk(t testing.TB, content []byte) *os.File {
	t.Helper()
	name := filepath.Join(t.TempDir(), "f.parquet")
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func everyType(t testing.TB, rows int) []byte {
	nested := arrow.StructOf(arrow.Field{Name: "x", Type: arrow.PrimitiveTypes.Int32, Nullable: true}, arrow.Field{Name: "y", Type: arrow.ListOf(arrow.BinaryTypes.String), Nullable: true})
	schema := arrow.NewSchema([]arrow.Field{
		{Name: "i", Type: arrow.PrimitiveTypes.Int64, Nullable: true},
		{Name: "code", Type: arrow.PrimitiveTypes.Int32, Nullable: true},
		{Name: "u", Type: arrow.PrimitiveTypes.Uint64, Nullable: true},
		{Name: "d", Type: &arrow.Decimal128Type{Precision: 38, Scale: 5}, Nullable: true},
		{Name: "f", Type: arrow.PrimitiveTypes.Float32, Nullable: true},
		{Name: "g", Type: arrow.PrimitiveTypes.Float64, Nullable: true},
		{Name: "b", Type: arrow.FixedWidthTypes.Boolean, Nullable: true},
		{Name: "s", Type: arrow.BinaryTypes.String, Nullable: true},
		{Name: "at", Type: &arrow.TimestampType{Unit: arrow.Microsecond, TimeZone: "UTC"}, Nullable: true},
		{Name: "wall", Type: &arrow.TimestampType{Unit: arrow.Nanosecond}, Nullable: true},
		{Name: "day", Type: arrow.FixedWidthTypes.Date32, Nullable: true},
		{Name: "tod", Type: arrow.FixedWidthTypes.Time64us, Nullable: true},
		{Name: "nested", Type: nested, Nullable: true},
	}, nil)
	return parquetOf(t, schema, func(b *array.RecordBuilder) {
		for row := range rows {
			if row == 1 {
				for i := range schema.NumFields() {
					b.Field(i).AppendNull()
				}
				continue
			}
			b.Field(0).(*array.Int64Builder).Append(math.MinInt64)
			b.Field(1).(*array.Int32Builder).Append(7)
			b.Field(2).(*array.Uint64Builder).Append(math.MaxUint64)
			n, err := decimal128.FromString("-12345678901234.56789", 38, 5)
			if err != nil {
				t.Fatal(err)
			}
			b.Field(3).(*array.Decimal128Builder).Append(n)
			b.Field(4).(*array.Float32Builder).Append(0.1)
			b.Field(5).(*array.Float64Builder).Append(1e300)
			b.Field(6).(*array.BooleanBuilder).Append(true)
			b.Field(7).(*array.StringBuilder).Append("é\"\n")
			b.Field(8).(*array.TimestampBuilder).Append(-1)
			b.Field(9).(*array.TimestampBuilder).Append(1_291_191_960_000_000_500)
			b.Field(10).(*array.Date32Builder).Append(-1)
			b.Field(11).(*array.Time64Builder).Append(86_399_999_999)
			s := b.Field(12).(*array.StructBuilder)
			s.Append(true)
			s.FieldBuilder(0).(*array.Int32Builder).Append(1)
			l := s.FieldBuilder(1).(*array.ListBuilder)
			l.Append(true)
			l.ValueBuilder().(*array.StringBuilder).Append("z")
			l.ValueBuilder().(*array.StringBuilder).AppendNull()
		}
	})
}

const everyColumn = "columns: {i: BIGINT, code: VARCHAR, d: 'DECIMAL(38,5)', x: {type: INTEGER NOT NULL, from: nested.x}}"

func TestParquetValuesAreExactTexts(t *testing.T) {
	got, places := readAll(t, onDisk(t, everyType(t, 2)), stream(t, everyColumn), Options{Name: "f.parquet"})
	want := []string{
		`{"i":-9223372036854775808,"code":"7","u":18446744073709551615,"d":"-12345678901234.56789","f":0.1,"g":1e+300,"b":true,"s":"é\"\n",` +
			`"at":"1969-12-31T23:59:59.999999Z","wall":"2010-12-01T08:26:00.0000005","day":"1969-12-31","tod":"23:59:59.999999","nested.x":1}`,
		`{"i":null,"code":null,"u":null,"d":null,"f":null,"g":null,"b":null,"s":null,"at":null,"wall":null,"day":null,"tod":null,"nested.x":null}`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	r, err := Open(onDisk(t, everyType(t, 1)), stream(t, everyColumn), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if want := []string{`the file's column "nested" holds lists and is left out`}; !slices.Equal(r.Notes(), want) {
		t.Error(r.Notes())
	}
	if places[1].Line != 2 || places[0].Digest == places[1].Digest {
		t.Error(places)
	}
}

func TestParquetOfManyBatchesIsReadWhole(t *testing.T) {
	got, _ := readAll(t, onDisk(t, everyType(t, 3*parquetRows+5)), stream(t, everyColumn), Options{})
	if len(got) != 3*parquetRows+5 {
		t.Error(len(got))
	}
}

func TestParquetNeedsItsColumns(t *testing.T) {
	_, err := Open(onDisk(t, everyType(t, 1)), stream(t, "columns: {amount: BIGINT NOT NULL, d: 'DECIMAL(38,5)'}"), Options{Name: "f.parquet"})
	if want := `f.parquet:1: the file has no column "amount"; it has i, code, u, d, f, g, b, s, at, wall, day, tod, nested.x. In streams/s.yaml:1 write: amount: {type: BIGINT NOT NULL, from: HEADER}`; err == nil || err.Error() != want {
		t.Error(err)
	}
	_, err = Open(io.MultiReader(bytes.NewReader(everyType(t, 1))), stream(t, everyColumn), Options{Name: "-"})
	if err == nil || !strings.HasPrefix(err.Error(), "stdin: is Parquet, which cannot be read from a pipe") {
		t.Error(err)
	}
}

// Reading a damaged file returns rows or an error and never panics.
func TestDamagedParquetNeverPanics(t *testing.T) {
	whole := everyType(t, 100)
	s := stream(t, everyColumn)
	for i := range whole {
		if i%3 == 0 || i > len(whole)-100 {
			damaged := bytes.Clone(whole)
			damaged[i] ^= []byte{0xff, 0x01, 0x80}[i/3%3]
			read(damaged, s)
		}
	}
	for n := 0; n < len(whole); n += 31 {
		read(whole[:n], s)
	}
}

func FuzzParquet(f *testing.F) {
	f.Add(everyType(f, 3))
	s := stream(f, everyColumn)
	f.Fuzz(func(_ *testing.T, content []byte) { read(content, s) })
}

// read reads a file to its end or first error.
func read(content []byte, s *project.Stream) {
	r, err := Open(bytes.NewReader(content), s, Options{Format: Parquet})
	if err != nil {
		return
	}
	defer r.Close()
	for err == nil {
		_, err = r.Next()
	}
}
