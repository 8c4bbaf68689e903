package duck

import (
	"context"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
)

// LoadArrow must not mix up columns or drop rows, as DuckDB's Arrow scan does.
func TestLoadArrowKeepsColumnsApart(t *testing.T) {
	mem := memory.NewCheckedAllocator(memory.DefaultAllocator)
	defer mem.AssertSize(t, 0)
	schema := arrow.NewSchema([]arrow.Field{
		{Name: "a", Type: arrow.PrimitiveTypes.Int64},
		{Name: "b", Type: arrow.BinaryTypes.String},
		{Name: "c", Type: &arrow.Decimal128Type{Precision: 18, Scale: 4}, Nullable: true},
	}, nil)
	b := array.NewRecordBuilder(mem, schema)
	defer b.Release()
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
	if _, err := c.ExecContext(ctx, "CREATE TABLE e(a BIGINT, b VARCHAR, c DECIMAL(18,4))"); err != nil {
		t.Fatal(err)
	}
	for round := range 3 {
		for i := range 10 {
			b.Field(0).(*array.Int64Builder).Append(int64(round*10 + i))
			b.Field(1).(*array.StringBuilder).Append("x")
			b.Field(2).AppendNull()
		}
		rec := b.NewRecordBatch()
		if err := c.LoadArrow(ctx, "e", rec); err != nil {
			t.Fatal(err)
		}
		rec.Release()
	}
	var n, sum, nulls int64
	if err := c.QueryRowContext(ctx, "SELECT count(*), sum(a), count(*) FILTER (c IS NULL) FROM e WHERE b = 'x'").Scan(&n, &sum, &nulls); err != nil {
		t.Fatal(err)
	}
	if n != 30 || sum != 435 || nulls != 30 {
		t.Fatalf("loaded %d rows, sum(a) = %d, %d nulls; want 30, 435, 30", n, sum, nulls)
	}
}

// View versions name the engine. Cells of two engines must never be merged, so an
// upgrade of the library has to change EngineVersion.
func TestEngineVersionIsThatOfTheLinkedLibrary(t *testing.T) {
	db, err := Open(Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var linked string
	if err := db.QueryRow("SELECT version()").Scan(&linked); err != nil {
		t.Fatal(err)
	}
	if linked != EngineVersion {
		t.Fatalf("the linked library is DuckDB %s, but EngineVersion is %s: set EngineVersion to %[1]s", linked, EngineVersion)
	}
}

// ICU_TIMEZONE_FILES_DIR would replace the zone data of the linked DuckDB.
func TestOpenRefusesOtherZoneData(t *testing.T) {
	t.Setenv("ICU_TIMEZONE_FILES_DIR", t.TempDir())
	if db, err := Open(Config{}); err == nil {
		db.Close()
		t.Error("a DuckDB opens with zone data from outside of it")
	}
}
