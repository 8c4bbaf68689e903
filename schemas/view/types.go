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

// integerDigits are the decimal digits that hold every value of a type.
var integerDigits = map[string]int{"BOOLEAN": 1, "TINYINT": 3, "SMALLINT": 5, "INTEGER": 10, "BIGINT": 19, "HUGEINT": 39,
	"UTINYINT": 3, "USMALLINT": 5, "UINTEGER": 10, "UBIGINT": 20, "UHUGEINT": 39}

func (t sqlType) integer() bool { return t.base != "BOOLEAN" && integerDigits[t.base] > 0 }
func (t sqlType) decimal() bool { return t.base == "DECIMAL" }
func (t sqlType) float() bool   { return t.base == "FLOAT" || t.base == "DOUBLE" }
func (t sqlType) numeric() bool { return t.integer() || t.decimal() || t.float() }

// wide reports whether sums of the type can pass 38 digits: more than 18
// digits, or more than a BIGINT.
func (t sqlType) wide() bool { return t.base == "HUGEINT" || t.decimal() && t.width > 18 }

// sumType is the cell that holds sums of the type exactly.
func (t sqlType) sumType() string { return fmt.Sprintf("DECIMAL(38,%d)", t.scale) }

// storable are the types that DuckDB writes to Parquet and reads back as they
// were, with one form a value. HUGEINT (written as DOUBLE) is kept as
// DECIMAL(38,0); INTERVAL is not here, for one duration has many forms.
var storable = map[string]bool{"BOOLEAN": true, "TINYINT": true, "SMALLINT": true, "INTEGER": true, "BIGINT": true,
	"UTINYINT": true, "USMALLINT": true, "UINTEGER": true, "UBIGINT": true, "DECIMAL": true, "FLOAT": true, "DOUBLE": true,
	"VARCHAR": true, "BLOB": true, "DATE": true, "TIME": true, "TIMESTAMP": true, "TIMESTAMP WITH TIME ZONE": true, "UUID": true}

// answerable are the types that a column of a view may have.
func answerable(t sqlType) bool {
	return storable[t.base] || t.base == "HUGEINT" || t.base == "INTERVAL"
}

// stored returns the type of a cell that holds t.
func stored(t sqlType) (sqlType, bool) {
	if t.base == "HUGEINT" {
		return parseSQLType("DECIMAL(38,0)"), true
	}
	return t, storable[t.base]
}

// store is the expression that puts expr, of type t, into a cell.
func store(expr string, t sqlType) string {
	switch {
	case t.base == "HUGEINT":
		return "CAST(" + expr + " AS DECIMAL(38,0))"
	case t.float():
		return oneForm(expr, t)
	}
	return expr
}

// restore is the expression that takes a value of type t out of a cell.
func restore(cell string, t sqlType) string {
	if t.base == "HUGEINT" {
		return "CAST(" + cell + " AS HUGEINT)"
	}
	return cell
}

// oneForm gives equal values one form: -0.0 and 0.0, and the NaNs, are equal,
// and which of them stands for a group would depend on the order of events.
func oneForm(expr string, t sqlType) string {
	return "CASE WHEN isnan(" + expr + ") THEN 'nan'::" + t.base + " ELSE " + expr + " + 0 END"
}
