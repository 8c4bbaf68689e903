package query

import (
	"context"
	"math"
	"math/big"
	"testing"

	"duet/internal/base/duck"
)

// What DuckDB computes, the driver scans and we send is the same number.
func TestValuesAreExact(t *testing.T) {
	db, err := duck.Open(duck.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, c := range []struct{ sql, want string }{
		{"NULL::BIGINT", ""},
		{"true", "true"},
		{"(-128)::TINYINT", "-128"},
		{"4294967295::UINTEGER", "4294967295"},
		{"18446744073709551615::UBIGINT", "18446744073709551615"},
		{"9223372036854775807::BIGINT", "9223372036854775807"},
		{"(9223372036854775807::HUGEINT * 10)", "92233720368547758070"},
		{"1234.5::DECIMAL(18,4)", "1234.5000"},
		{"(-0.05)::DECIMAL(18,4)", "-0.0500"},
		{"0::DECIMAL(4,4)", "0.0000"},
		{"99999999999999999999999999999999999999::DECIMAL(38,0)", "99999999999999999999999999999999999999"},
		{"0.1::DOUBLE + 0.2::DOUBLE", "0.30000000000000004"},
		{"'nan'::DOUBLE", "NaN"},
		{"'zażółć'", "zażółć"},
		{"DATE '0001-01-01'", "0001-01-01"},
		{"TIME '14:00:00.000001'", "14:00:00.000001"},
		{"TIMESTAMP '2026-11-21 14:00:00'", "2026-11-21T14:00:00"},
		{"TIMESTAMP '9999-12-31 23:59:59.999999'", "9999-12-31T23:59:59.999999"},
		{"'infinity'::TIMESTAMP", "infinity"},
		{"'-infinity'::TIMESTAMP", "-infinity"},
		{"TIMESTAMPTZ '2026-11-21 14:00:00+02'", "2026-11-21T12:00:00Z"},
		{"'6ba7b810-9dad-11d1-80b4-00c04fd430c8'::UUID", "6ba7b810-9dad-11d1-80b4-00c04fd430c8"},
		{"INTERVAL '14 months 3 days 01:02:03.5'", "14 months 3 days 01:02:03.5"},
		{"'\\xAB'::BLOB", "ab"},
		{"[1.5::DECIMAL(4,2), NULL]", "[1.50, ]"},
	} {
		rows, err := db.QueryContext(context.Background(), "SELECT "+c.sql)
		if err != nil {
			t.Fatalf("%s: %v", c.sql, err)
		}
		types, err := rows.ColumnTypes()
		if err != nil {
			t.Fatal(err)
		}
		var v any
		rows.Next()
		if err := rows.Scan(&v); err != nil {
			t.Fatalf("%s: %v", c.sql, err)
		}
		rows.Close()
		got, err := ToValue(v, types[0].DatabaseTypeName())
		if err != nil || Text(got) != c.want {
			t.Errorf("%s = %q (%T of %s, %v), want %q", c.sql, Text(got), v, types[0].DatabaseTypeName(), err, c.want)
		}
	}
	if _, err := ToValue(map[string]any{}, "STRUCT"); err == nil {
		t.Error("a struct was taken")
	}
	if s := FormatDecimal(big.NewInt(math.MinInt64), 18); s != "-9.223372036854775808" {
		t.Error(s)
	}
}
