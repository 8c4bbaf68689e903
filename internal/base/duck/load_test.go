package duck

import (
	"context"
	"fmt"
	"math/rand"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/decimal128"
	"github.com/apache/arrow-go/v18/arrow/memory"
)

// Every type that a stream may declare, with NULLs, over several chunks and
// from a slice that begins inside a byte of the validity bitmap.
func TestLoadArrowCarriesEveryType(t *testing.T) {
	mem := memory.NewCheckedAllocator(memory.DefaultAllocator)
	defer mem.AssertSize(t, 0)
	type column struct {
		sql    string
		typ    arrow.DataType
		append func(b array.Builder, i int64) string // the value as DuckDB prints it
	}
	dec := func(p, s int32) column {
		return column{fmt.Sprintf("DECIMAL(%d,%d)", p, s), &arrow.Decimal128Type{Precision: p, Scale: s}, func(b array.Builder, i int64) string {
			n := decimal128.FromI64(i*7 - 5000)
			b.(*array.Decimal128Builder).Append(n)
			return n.ToString(s)
		}}
	}
	columns := []column{
		{"BOOLEAN", arrow.FixedWidthTypes.Boolean, func(b array.Builder, i int64) string {
			b.(*array.BooleanBuilder).Append(i%3 == 0)
			return fmt.Sprint(i%3 == 0)
		}},
		{"TINYINT", arrow.PrimitiveTypes.Int8, func(b array.Builder, i int64) string {
			b.(*array.Int8Builder).Append(int8(i % 100))
			return fmt.Sprint(i % 100)
		}},
		{"SMALLINT", arrow.PrimitiveTypes.Int16, func(b array.Builder, i int64) string {
			b.(*array.Int16Builder).Append(int16(i))
			return fmt.Sprint(i)
		}},
		{"INTEGER", arrow.PrimitiveTypes.Int32, func(b array.Builder, i int64) string {
			b.(*array.Int32Builder).Append(int32(-i))
			return fmt.Sprint(-i)
		}},
		{"BIGINT", arrow.PrimitiveTypes.Int64, func(b array.Builder, i int64) string {
			b.(*array.Int64Builder).Append(i << 40)
			return fmt.Sprint(i << 40)
		}},
		dec(4, 1), dec(9, 2), dec(18, 4), dec(38, 0), dec(38, 10),
		{"DOUBLE", arrow.PrimitiveTypes.Float64, func(b array.Builder, i int64) string {
			b.(*array.Float64Builder).Append(float64(i) + 0.5)
			return fmt.Sprintf("%.1f", float64(i)+0.5)
		}},
		{"FLOAT", arrow.PrimitiveTypes.Float32, func(b array.Builder, i int64) string {
			b.(*array.Float32Builder).Append(float32(i) + 0.25)
			return fmt.Sprintf("%.2f", float64(i)+0.25)
		}},
		{"UUID", arrow.BinaryTypes.String, func(b array.Builder, i int64) string {
			s := fmt.Sprintf("f0000000-0000-4000-8000-%012d", i)
			b.(*array.StringBuilder).Append(s)
			return s
		}},
		{"DATE", arrow.FixedWidthTypes.Date32, func(b array.Builder, i int64) string {
			b.(*array.Date32Builder).Append(arrow.Date32(i % 28))
			return fmt.Sprintf("1970-01-%02d", i%28+1)
		}},
		{"TIME", arrow.FixedWidthTypes.Time64us, func(b array.Builder, i int64) string {
			b.(*array.Time64Builder).Append(arrow.Time64(i * 1e6))
			return fmt.Sprintf("%02d:%02d:%02d", i/3600, i/60%60, i%60)
		}},
		{"BLOB", arrow.BinaryTypes.Binary, func(b array.Builder, i int64) string {
			s := fmt.Sprintf("b%d", i)
			b.(*array.BinaryBuilder).Append([]byte(s))
			return s
		}},
		{"VARCHAR", arrow.BinaryTypes.String, func(b array.Builder, i int64) string {
			s := fmt.Sprintf("é%d-%s", i, "a text that is longer than twelve bytes"[:i%38])
			b.(*array.StringBuilder).Append(s)
			return s
		}},
		{"TIMESTAMP", &arrow.TimestampType{Unit: arrow.Microsecond}, func(b array.Builder, i int64) string {
			b.(*array.TimestampBuilder).Append(arrow.Timestamp(i * 1e6))
			return fmt.Sprintf("1970-01-01 %02d:%02d:%02d", i/3600, i/60%60, i%60)
		}},
	}
	fields := make([]arrow.Field, len(columns))
	ddl, cast := "", ""
	for i, c := range columns {
		fields[i] = arrow.Field{Name: fmt.Sprintf("c%d", i), Type: c.typ, Nullable: true}
		ddl += fmt.Sprintf(", c%d %s", i, c.sql)
		cast += fmt.Sprintf(", c%d::VARCHAR", i)
	}
	seed := rand.Int63()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewSource(seed))
	b := array.NewRecordBuilder(mem, arrow.NewSchema(fields, nil))
	defer b.Release()
	const rows, skip = 5000, 13
	want := make([][]any, rows)
	for i := range rows {
		want[i] = make([]any, len(columns))
		for j, c := range columns {
			if r.Intn(5) == 0 {
				b.Field(j).AppendNull()
				continue
			}
			want[i][j] = c.append(b.Field(j), int64(i))
		}
	}
	rec := b.NewRecordBatch()
	defer rec.Release()
	slice := rec.NewSlice(skip, rows)
	defer slice.Release()

	db, err := Open(Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	ctx := context.Background()
	c, err := db.Conn(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.ExecContext(ctx, "CREATE TABLE e("+ddl[2:]+")"); err != nil {
		t.Fatal(err)
	}
	if err := c.LoadArrow(ctx, "e", slice); err != nil {
		t.Fatal(err)
	}
	got, err := c.QueryContext(ctx, "SELECT "+cast[2:]+" FROM e ORDER BY rowid")
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	i := skip
	for ; got.Next(); i++ {
		vals, ptrs := make([]any, len(columns)), make([]any, len(columns))
		for j := range vals {
			ptrs[j] = &vals[j]
		}
		if err := got.Scan(ptrs...); err != nil {
			t.Fatal(err)
		}
		for j := range vals {
			if vals[j] != want[i][j] {
				t.Fatalf("row %d, %s: %v, want %v", i, columns[j].sql, vals[j], want[i][j])
			}
		}
	}
	if got.Err() != nil || i != rows {
		t.Fatalf("%d rows, want %d: %v", i-skip, rows-skip, got.Err())
	}
}

func TestLoadArrowTakesPartInTheTransaction(t *testing.T) {
	db, err := Open(Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	ctx := context.Background()
	c, err := db.Conn(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b := array.NewRecordBuilder(memory.DefaultAllocator, arrow.NewSchema([]arrow.Field{{Name: "a", Type: arrow.PrimitiveTypes.Int64}}, nil))
	defer b.Release()
	b.Field(0).(*array.Int64Builder).Append(1)
	rec := b.NewRecordBatch()
	defer rec.Release()
	for _, s := range []string{"CREATE TABLE e(a BIGINT)", "BEGIN"} {
		if _, err := c.ExecContext(ctx, s); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.LoadArrow(ctx, "e", rec); err != nil {
		t.Fatal(err)
	}
	var before, after int
	if err := c.QueryRowContext(ctx, "SELECT count(*) FROM e").Scan(&before); err != nil {
		t.Fatal(err)
	}
	if _, err := c.ExecContext(ctx, "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	if err := c.QueryRowContext(ctx, "SELECT count(*) FROM e").Scan(&after); err != nil {
		t.Fatal(err)
	}
	if before != 1 || after != 0 {
		t.Fatalf("%d rows in the transaction, %d after its rollback; want 1, 0", before, after)
	}
	if err := c.LoadArrow(ctx, "nowhere", rec); err == nil {
		t.Fatal("loaded into a table that does not exist")
	}
}
