package event

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"duet/internal/base/duck"
	"duet/schemas"
)

// extremes holds, for each column of everyType, the smallest and largest values of
// its type as JSON and as DuckDB casts them to VARCHAR.
var extremes = map[string][][2]string{
	"id":    {{"-9223372036854775808", ""}, {"9223372036854775807", ""}},
	"b":     {{"true", ""}, {"false", ""}},
	"i8":    {{"-128", ""}, {"127", ""}},
	"i16":   {{"-32768", ""}, {"32767", ""}},
	"i32":   {{"-2147483648", ""}, {"2147483647", ""}},
	"i64":   {{"-9223372036854775808", ""}, {"9223372036854775807", ""}},
	"d4":    {{"-99.99", ""}, {"0.01", ""}, {"99.99", ""}},
	"d18":   {{"-99999999999999.9999", ""}, {"0.0001", ""}, {"1.005", "1.0050"}},
	"d38":   {{"-9999999999999999999999999999.9999999999", ""}, {"12345678901234.56789", "12345678901234.5678900000"}},
	"d380":  {{"-99999999999999999999999999999999999999", ""}, {"99999999999999999999999999999999999999", ""}, {"18446744073709551616", ""}},
	"d3838": {{"-0.99999999999999999999999999999999999999", "-.99999999999999999999999999999999999999"}, {"1e-38", ".00000000000000000000000000000000000001"}},
	"f32":   {{"3.4028235e38", "3.4028235e+38"}, {"1e-45", "1e-45"}, {"0.1", ""}},
	"f64":   {{"1.7976931348623157e308", "1.7976931348623157e+308"}, {"5e-324", ""}, {"-0.0", "0.0"}, {"9007199254740993", "9007199254740992.0"}},
	"Text Of": {{`"\u00e9\ud83d\ude00\n'\""`, "é😀\n'\""}, {`""`, ""}, {`"NULL"`, "NULL"},
		{`"` + strings.Repeat("x", 5000) + `"`, strings.Repeat("x", 5000)}},
	"u":           {{`"ffffffff-ffff-ffff-ffff-ffffffffffff"`, "ffffffff-ffff-ffff-ffff-ffffffffffff"}, {`"00000000-0000-0000-0000-00000000000A"`, "00000000-0000-0000-0000-00000000000a"}},
	"dt":          {{`"0001-01-01"`, "0001-01-01"}, {`"9999-12-31"`, "9999-12-31"}},
	"tm":          {{`"00:00"`, "00:00:00"}, {`"23:59:59.999999"`, "23:59:59.999999"}},
	"ts":          {{`"0001-01-03 00:00:00Z"`, "0001-01-03 00:00:00"}, {`"9999-12-31 00:00:00.000001Z"`, "9999-12-31 00:00:00.000001"}},
	"InvoiceDate": {{`"12/1/2010 8:26"`, "2010-12-01 08:26:00"}},
}

// The smallest and largest values of every type survive Arrow, a table and Parquet.
func TestRowsKeepTheirValuesThroughDuckDBAndParquet(t *testing.T) {
	mem := memory.NewCheckedAllocator(memory.DefaultAllocator)
	defer mem.AssertSize(t, 0)
	stream := everyType()
	stream.FutureBound = 0
	s := NewSchema(stream)
	var records [][]byte
	var wants []map[string]string
	for i, c := range stream.Columns {
		values := extremes[c.From]
		for _, v := range values {
			want := v[1]
			if want == "" && v[0][0] != '"' {
				want = v[0]
			}
			record := fmt.Sprintf(`{"id":7,"more":[%d],%q:%s}`, i, c.From, v[0])
			if c.Name == "id" {
				record = fmt.Sprintf(`{"more":[%d],"id":%s}`, i, v[0])
			}
			records = append(records, []byte(record))
			wants = append(wants, map[string]string{c.Name: want, schemas.ColExtra: fmt.Sprintf(`{"more":[%d]}`, i)})
		}
	}
	b := NewBatch(mem)
	defer b.Release()
	q := NewSequencer(map[string]*Schema{"every": s}, NewState())
	q.Apply(Message{Stream: "every", At: schemas.NewPosition(1, 42), Time: logTime, Data: AppendEnvelope(nil, "every", []Run{{Count: uint32(len(records))}}, records)}, b)
	if r := b.RejectRecord(); r != nil {
		t.Fatalf("rejected: %v", r.Column(1))
	}

	db, err := duck.Open(duck.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	ctx := context.Background()
	conn, err := db.Conn(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	exec := func(sql string) {
		t.Helper()
		if _, err := conn.ExecContext(ctx, sql); err != nil {
			t.Fatal(err)
		}
	}
	exec("CREATE TABLE rows(" + s.SQLColumns() + ")")
	if err := conn.LoadArrow(ctx, "rows", b.Records()[0].Record); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "rows.parquet")
	exec("COPY (FROM rows) TO " + duck.Literal(file) + " (FORMAT parquet, COMPRESSION zstd)")
	exec("CREATE TABLE again AS FROM " + duck.Parquet(file))

	for _, table := range []string{"rows", "again"} {
		for i, want := range wants {
			for column, value := range want {
				var got *string
				sql := fmt.Sprintf("SELECT %s::VARCHAR FROM %s WHERE _duet_at = %d AND _duet_record = %d", duck.Ident(column), table, schemas.NewPosition(1, 42), i)
				if err := conn.QueryRowContext(ctx, sql).Scan(&got); err != nil {
					t.Fatal(err)
				}
				if got == nil || *got != value {
					t.Errorf("%s: %s of %.80s is %v, not %s", table, column, records[i], deref(got), value)
				}
			}
		}
	}
	var types, differ string
	if err := conn.QueryRowContext(ctx, "SELECT string_agg(column_name || ' ' || data_type, ', ' ORDER BY column_index) FROM duckdb_columns() WHERE table_name = 'again'").Scan(&types); err != nil {
		t.Fatal(err)
	}
	if want := strings.ReplaceAll(s.SQLColumns(), `"`, ""); types != want {
		t.Errorf("Parquet has the types\n%s, not\n%s", types, want)
	}
	if err := conn.QueryRowContext(ctx, "SELECT count(*)::VARCHAR FROM (FROM rows EXCEPT ALL FROM again)").Scan(&differ); err != nil || differ != "0" {
		t.Errorf("%s rows differ: %v", differ, err)
	}
}

func deref(s *string) string {
	if s == nil {
		return "NULL"
	}
	return *s
}

// An id has the same hash when decoded, from a batch's Arrow, and from the archive.
func TestIDsHashAlikeFromEverySource(t *testing.T) {
	mem := memory.NewCheckedAllocator(memory.DefaultAllocator)
	defer mem.AssertSize(t, 0)
	stream := everyType()
	for _, c := range stream.Columns {
		stream.ID = append(stream.ID, c.Name)
	}
	stream.IDWindow = 10_000
	s := NewSchema(stream)
	schemasOf := map[string]*Schema{"every": s}
	r := rand.New(rand.NewPCG(9, 9))
	var records [][]byte
	for range 3000 {
		records = append(records, genRecord(r))
	}
	m := Message{Stream: "every", At: 1, Time: logTime, Data: AppendEnvelope(nil, "every", []Run{{Count: uint32(len(records))}}, records)}
	live := NewSequencer(schemasOf, NewState())
	b := NewBatch(mem)
	defer b.Release()
	live.Apply(m, b)
	want := live.State().ids["every"].ordered()
	if len(want) < 500 {
		t.Fatalf("only %d ids", len(want))
	}

	fromArrow := NewState()
	if err := fromArrow.RestoreIDs(s, b.Records()[0].Record); err != nil {
		t.Fatal(err)
	}
	if got := fromArrow.ids["every"].ordered(); !slices.Equal(got, want) {
		t.Fatal("ids from Arrow differ")
	}

	db, err := duck.Open(duck.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	ctx := context.Background()
	conn, err := db.Conn(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	file := duck.Literal(filepath.Join(t.TempDir(), "rows.parquet"))
	for _, sql := range []string{"CREATE TABLE rows(" + s.SQLColumns() + ")", "", "COPY (FROM rows) TO " + file + " (FORMAT parquet)"} {
		if sql == "" {
			err = conn.LoadArrow(ctx, "rows", b.Records()[0].Record)
		} else {
			_, err = conn.ExecContext(ctx, sql)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	fromArchive := NewState()
	if err := conn.QueryArrow(ctx, "FROM read_parquet("+file+") ORDER BY _duet_at, _duet_record", func(rec arrow.RecordBatch) error {
		return fromArchive.RestoreIDs(s, rec)
	}); err != nil {
		t.Fatal(err)
	}
	if got := fromArchive.ids["every"].ordered(); !slices.Equal(got, want) {
		t.Fatal("ids from the archive differ")
	}
	b.Reset()
	NewSequencer(schemasOf, fromArchive).Apply(m, b)
	if a := b.Accounts()[0]; a.Accepted != 0 || a.Duplicate == 0 {
		t.Fatalf("the account of the same events, sent again, is %+v", a)
	}
}
