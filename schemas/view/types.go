package view

import (
	"fmt"
	"regexp"
	"strconv"
)

// sqlType is a type as DESCRIBE prints it.
type sqlType struct {
	name         string // "DECIMAL(18,4)"
	base         string // "DECIMAL"
	width, scale int    // DECIMAL only
}

var decimalPattern = regexp.MustCompile(`^DECIMAL\((\d+),(\d+)\)$`)

func parseSQLType(name string) sqlType {
	t := sqlType{name: name, base: name}
	if m := decimalPattern.FindStringSubmatch(name); m != nil {
		t.base = "DECIMAL"
		t.width, _ = strconv.Atoi(m[1])
		t.scale, _ = strconv.Atoi(m[2])
	}
	return t
}

// integerDigits are the decimal digits that every value of a type fits into.
var integerDigits = map[string]int{"BOOLEAN": 1, "TINYINT": 3, "SMALLINT": 5, "INTEGER": 10, "BIGINT": 19, "HUGEINT": 39,
	"UTINYINT": 3, "USMALLINT": 5, "UINTEGER": 10, "UBIGINT": 20, "UHUGEINT": 39}

func (t sqlType) integer() bool { return t.base != "BOOLEAN" && integerDigits[t.base] > 0 }
func (t sqlType) decimal() bool { return t.base == "DECIMAL" }
func (t sqlType) float() bool   { return t.base == "FLOAT" || t.base == "DOUBLE" }
func (t sqlType) numeric() bool { return t.integer() || t.decimal() || t.float() }

// wide reports whether sums of the type can exceed 38 digits: it has more than 18
// digits, or more than a BIGINT.
func (t sqlType) wide() bool { return t.base == "HUGEINT" || t.decimal() && t.width > 18 }

// sumType returns the type of a cell that holds sums of the type exactly.
func (t sqlType) sumType() string { return fmt.Sprintf("DECIMAL(38,%d)", t.scale) }

// storable are the types that DuckDB writes to Parquet and reads back unchanged,
// with one representation of each value. A HUGEINT, which DuckDB writes as a
// DOUBLE, is stored as DECIMAL(38,0). INTERVAL is missing because one duration
// has many representations.
var storable = map[string]bool{"BOOLEAN": true, "TINYINT": true, "SMALLINT": true, "INTEGER": true, "BIGINT": true,
	"UTINYINT": true, "USMALLINT": true, "UINTEGER": true, "UBIGINT": true, "DECIMAL": true, "FLOAT": true, "DOUBLE": true,
	"VARCHAR": true, "BLOB": true, "DATE": true, "TIME": true, "TIMESTAMP": true, "TIMESTAMP WITH TIME ZONE": true, "UUID": true}

// answerable reports whether a column of a view may have the type.
func answerable(t sqlType) bool {
	return storable[t.base] || t.base == "HUGEINT" || t.base == "INTERVAL"
}

// stored returns the type of a cell that holds t, and false if no cell can.
func stored(t sqlType) (sqlType, bool) {
	if t.base == "HUGEINT" {
		return parseSQLType("DECIMAL(38,0)"), true
	}
	return t, storable[t.base]
}

// store returns the expression that stores expr, of type t, in a cell.
func store(expr string, t sqlType) string {
	switch {
	case t.base == "HUGEINT":
		return "CAST(" + expr + " AS DECIMAL(38,0))"
	case t.float():
		return oneForm(expr, t)
	}
	return expr
}

// restore returns the expression that reads a value of type t from a cell.
func restore(cell string, t sqlType) string {
	if t.base == "HUGEINT" {
		return "CAST(" + cell + " AS HUGEINT)"
	}
	return cell
}

// oneForm gives equal floats one representation. -0.0 equals 0.0 and NaNs are
// equal, so which of them represents a group would depend on the order of events.
func oneForm(expr string, t sqlType) string {
	return "CASE WHEN isnan(" + expr + ") THEN 'nan'::" + t.base + " ELSE " + expr + " + 0 END"
}
