package view

import (
	"fmt"
	"strings"

	"duet/internal/base/duck"
	"duet/schemas"
)

// Tolerances against plain DuckDB: see Column.DiffersSQL.
const (
	averageTolerance = 1e-12
	doubleTolerance  = 1e-9

	rounding = "1e-9::DOUBLE" // doubleTolerance of a magnitude
)

// aggregate is one distinct aggregate call over the stream's columns.
type aggregate struct {
	id     string // canonical tree; equal calls have equal ids
	node   node
	name   string // canonical name
	args   []node
	filter node

	argSQL    []string
	argType   []sqlType
	filterSQL string // "" if none
	typ       sqlType
}

// cell is a mergeable value under construction.
type cell struct {
	partial string // over the stream's columns
	typ     string
	merge   string // with %s for the cell's quoted name
	exact   bool
}

// cellRef adds a cell unless an equal one exists, and returns its quoted name.
func (x *compilation) cellRef(c cell) string {
	for i, have := range x.cells {
		if have == c {
			return cellName(i)
		}
	}
	x.cells = append(x.cells, c)
	return cellName(len(x.cells) - 1)
}

func cellName(i int) string { return duck.Ident("c" + itoa(i)) }

// filtered appends a FILTER clause that joins the user's filter and more with AND.
func filtered(call, filter string, more ...string) string {
	var conds []string
	if filter != "" {
		conds = append(conds, "("+filter+")")
	}
	conds = append(conds, more...)
	if len(conds) == 0 {
		return call
	}
	return call + " FILTER (WHERE " + strings.Join(conds, " AND ") + ")"
}

func cast(expr, typ string) string { return "CAST(" + expr + " AS " + typ + ")" }

// compileAggregate chooses an aggregate's cells and formula. It warns about an
// aggregate that does not merge exactly and reports a fault for a type that
// cannot be stored.
func (x *compilation) compileAggregate(a *aggregate) formula {
	f := formula{name: strings.TrimSuffix(a.name, "_star"), typ: a.typ, exact: true}
	switch a.name {
	case "count_star", "count":
		f.sql = "coalesce(" + x.countCell(a) + ", 0)"
	case "count_if":
		f.sql = x.cellRef(cell{filtered("CAST(count_if("+a.argSQL[0]+")", a.filterSQL) + " AS BIGINT)", "BIGINT", "CAST(sum(%s) AS BIGINT)", true})
	case "sum":
		x.sum(a, &f)
	case "min", "max":
		x.extreme(a, &f)
	case "bool_and", "bool_or":
		f.sql = x.cellRef(cell{filtered(a.name+"("+a.argSQL[0]+")", a.filterSQL), "BOOLEAN", a.name + "(%s)", true})
	case "avg":
		x.average(a, &f)
	case "stddev_samp", "stddev_pop", "var_samp", "var_pop":
		x.variance(a, &f)
	case "arg_min", "arg_max", "first", "last":
		x.pick(a, &f)
	default:
		x.fail(a.node.firstAt(), a.name+"() cannot be compiled", "write it with other aggregates")
	}
	return f
}

func (x *compilation) unsupported(a *aggregate, t sqlType, remedy string) {
	x.fail(a.node.firstAt(), fmt.Sprintf("%s() over %s cannot be stored exactly", a.name, t.name), remedy)
}

func (x *compilation) countCell(a *aggregate) string {
	call := "count(*)"
	if len(a.argSQL) > 0 {
		call = "count(" + a.argSQL[0] + ")"
	}
	return x.cellRef(cell{filtered(call, a.filterSQL), "BIGINT", "CAST(sum(%s) AS BIGINT)", true})
}

// sumCell adds the exact sum of an integer or DECIMAL. Its type is
// DECIMAL(38,scale) because DuckDB writes a HUGEINT to Parquet as DOUBLE.
func (x *compilation) sumCell(a *aggregate) string {
	t := a.argType[0]
	sum := filtered("sum("+a.argSQL[0]+")", a.filterSQL)
	merge := "sum(%s)"
	if t.wide() {
		sum, merge = x.within(sum, t), x.within(merge, t)
	}
	return x.cellRef(cell{cast(sum, t.sumType()), t.sumType(), cast(merge, t.sumType()), true})
}

// within raises an error when a sum needs a 39th digit. DuckDB sums
// DECIMAL(38,s) in an int128, which silently goes on to 1.7e38, and the Parquet
// file would hold another number.
func (x *compilation) within(sum string, t sqlType) string {
	most := strings.Repeat("9", 38)
	if t.scale > 0 {
		most = most[:38-t.scale] + "." + most[38-t.scale:]
	}
	return "CASE WHEN " + sum + " > " + most + " OR " + sum + " < -" + most +
		" THEN CAST(error(" + duck.Literal("view "+x.def.Name+": a sum has more than 38 digits") + ") AS " + t.sumType() + ") ELSE " + sum + " END"
}

func (x *compilation) sum(a *aggregate, f *formula) {
	t := a.argType[0]
	switch {
	case t.float():
		f.sql = x.floatSumCell(a)
		f.bound = rounding + " * " + x.magnitudes[f.sql]
		x.inexact(a, f)
	case a.typ.base == "HUGEINT" || a.typ.decimal():
		f.sql = x.sumCell(a)
	default:
		x.unsupported(a, t, "cast the argument to BIGINT, DECIMAL(18,s) or DOUBLE")
	}
}

// floatSumCell adds the sum of a float and, as its magnitude, the sum of the
// absolute values. The rounding of a sum is relative to the latter: in a sum of
// profits and losses it can be larger than the sum itself.
func (x *compilation) floatSumCell(a *aggregate) string {
	arg := cast(a.argSQL[0], "DOUBLE")
	sum := x.cellRef(cell{partial: filtered("sum("+arg+")", a.filterSQL), typ: "DOUBLE", merge: "sum(%s)"})
	absolute := x.cellRef(cell{partial: filtered("sum(abs("+arg+"))", a.filterSQL), typ: "DOUBLE", merge: "sum(%s)"})
	x.magnitudes[sum], x.magnitudes[absolute] = absolute, absolute
	return sum
}

// inexact marks a formula whose result depends on the order of the events.
func (x *compilation) inexact(a *aggregate, f *formula) {
	f.exact, f.tolerance = false, doubleTolerance
	t := a.argType[0]
	remedy := "for money write a DECIMAL: declare the column so, or write " + cast("x", "DECIMAL(18,4)")
	if t.decimal() {
		remedy = "if its values allow it, write " + cast("x", fmt.Sprintf("DECIMAL(18,%d)", min(t.scale, 18)))
	}
	x.warn(a.node.firstAt(), fmt.Sprintf("%s() over %s is not exact: its last digits depend on the order of the events, so the halves may differ in them", a.name, t.name), remedy)
}

func (x *compilation) extreme(a *aggregate, f *formula) {
	t := a.argType[0]
	st, ok := stored(t)
	if !ok {
		x.unsupported(a, t, typeRemedy(t))
		return
	}
	c := x.cellRef(cell{filtered(a.name+"("+store(a.argSQL[0], t)+")", a.filterSQL), st.name, a.name + "(%s)", true})
	f.sql = restore(c, t)
}

// average divides the sum by the count. For integers and decimals it divides the
// unscaled sum, as DuckDB does: (s*10^scale)::DOUBLE / (n*10^scale).
func (x *compilation) average(a *aggregate, f *formula) {
	t := a.argType[0]
	f.tolerance = averageTolerance
	switch {
	case t.float():
		s, n := x.floatSumCell(a), x.countCell(a)
		f.sql = s + " / " + n
		f.bound = rounding + " * " + x.magnitudes[s] + " / " + n
		x.inexact(a, f)
	case t.integer() || t.decimal():
		if t.base == "UHUGEINT" {
			x.unsupported(a, t, "cast the argument to DECIMAL(38,0) or DOUBLE")
			return
		}
		n := x.countCell(a)
		s := x.sumCell(a)
		f.sql = cast(unscaled(s, t.scale), "DOUBLE") + " / " + cast(times(cast(n, "HUGEINT"), t.scale), "DOUBLE")
	default:
		x.unsupported(a, t, "cast the argument to a number: epoch_us(x) for a time")
	}
}

// times multiplies a HUGEINT by 10^scale.
func times(expr string, scale int) string {
	if scale == 0 {
		return expr
	}
	return expr + " * " + power10(scale)
}

// power10 returns 10^n as an integer literal.
func power10(n int) string { return "1" + strings.Repeat("0", n) }

// unscaled returns the unscaled integer of a DECIMAL(38,scale): 1234 for 12.34.
// Multiplying the decimal itself could exceed 38 digits.
func unscaled(expr string, scale int) string {
	switch {
	case scale == 0:
		return cast(expr, "HUGEINT")
	case scale <= 18:
		whole := "trunc(" + expr + ")"
		return "(" + cast(whole, "HUGEINT") + " * " + power10(scale) + " + CAST((" + expr + " - " + whole + ") * " + power10(scale) + " AS HUGEINT))"
	}
	return "CAST(replace(" + cast(expr, "VARCHAR") + ", '.', '') AS HUGEINT)"
}

// pick keeps the value of one event: the event with the greatest (least) v and,
// of several, the one at the latest position. The position is part of the cell
// because DuckDB's own choice among ties depends on threads and order.
func (x *compilation) pick(a *aggregate, f *formula) {
	value, by := 0, 1
	least := a.name == "arg_min" || a.name == "first"
	for _, i := range []int{value, by} {
		if _, ok := stored(a.argType[i]); !ok {
			x.unsupported(a, a.argType[i], typeRemedy(a.argType[i]))
			return
		}
	}
	vt, _ := stored(a.argType[value])
	bt, _ := stored(a.argType[by])
	sign, call := "", "max"
	if least {
		sign, call = "-", "min"
	}
	var notNull []string
	if a.name == "arg_min" || a.name == "arg_max" {
		notNull = []string{a.argSQL[value] + " IS NOT NULL", a.argSQL[by] + " IS NOT NULL"}
	} else if !x.timeNotNull() {
		notNull = []string{a.argSQL[by] + " IS NOT NULL"}
	}
	row := duck.Ident(rowAlias) + "."
	s := fmt.Sprintf("%s({'v': %s, 'p': %s%s, 'r': %s%s, 'a': %s})", call, store(a.argSQL[by], a.argType[by]),
		sign, row+duck.Ident(schemas.ColAt), sign, row+duck.Ident(schemas.ColRecord), store(a.argSQL[value], a.argType[value]))
	c := x.cellRef(cell{filtered(s, a.filterSQL, notNull...), fmt.Sprintf("STRUCT(v %s, p BIGINT, r INTEGER, a %s)", bt.name, vt.name), call + "(%s)", true})
	f.sql = restore("("+c+")."+duck.Ident("a"), a.argType[value])
}

func (x *compilation) timeNotNull() bool {
	for _, c := range x.stream.Columns {
		if c.Name == x.stream.EventTime {
			return c.NotNull
		}
	}
	return true
}
