package view

import (
	"strings"

	"duet/internal/base/duck"
	"duet/schemas/project"
)

// Role is the kind of a view's column.
type Role uint8

// The roles of a column.
const (
	Key       Role = iota + 1 // one of the columns that the view groups by
	TimeKey                   // the key that since and until bound: at most one
	Attribute                 // computed from keys only; dropped when one of them is rolled up
	Measure                   // computed from aggregates
)

// String returns the role's name in lower case.
func (r Role) String() string {
	switch r {
	case Key:
		return "key"
	case TimeKey:
		return "time key"
	case Attribute:
		return "attribute"
	case Measure:
		return "measure"
	}
	return "unknown"
}

// Column is a column of the answer, in the user's SELECT.
type Column struct {
	Name string
	Type string // as DuckDB's DESCRIBE prints it: "DECIMAL(38,4)", "HUGEINT", "TIMESTAMP"
	Role Role
	// Exact reports whether both halves compute the same bits, whatever the order
	// of events. It is false for columns computed from sums or variances of DOUBLE.
	Exact bool
	// Tolerance is the relative difference from plain DuckDB that is not an error;
	// 0 means equal. See [Column.DiffersSQL].
	Tolerance float64
	// Bucket is the time key's width, such as "1 hour", "15 minutes" or "1 month";
	// "" if it is not known.
	Bucket string
}

// KeyCell is a column that partial rows are grouped by.
type KeyCell struct {
	Name   string // "k0"
	Type   string // of the cell
	Column int    // index in View.Columns
}

// Cell is a mergeable value of a partial row.
type Cell struct {
	Name  string // "c0"
	Type  string // of the cell, the same before and after a merge
	Merge string // the aggregate that merges it, such as CAST(sum("c0") AS BIGINT)
	// Exact reports whether merging in any order gives the same bits.
	Exact bool
	// Magnitude is the expression over the cells of a row that the rounding of an
	// inexact cell is relative to, such as "c1", the sum of |x| of a sum of x; ""
	// for an exact cell.
	Magnitude string
}

// View is a compiled view. It is immutable and safe for concurrent use.
type View struct {
	Name   string
	Stream string // the stream's declared name
	SQL    string // as the user wrote it

	// Definition identifies the meaning of the cells, in hexadecimal: views with
	// equal definitions have interchangeable cells. It covers the SELECT (without
	// layout and comments), the columns that it uses, the zone, DuckDB's version
	// and settings, and the format of cells.
	Definition string

	Columns []Column  // in the order of the SELECT
	Keys    []KeyCell // k0.., in the order of the GROUP BY
	Cells   []Cell    // c0..

	compiler   *Compiler
	conditions *conditionCache
	stream     *project.Stream
	where      string   // over the stream's columns, qualified by rowAlias; "" if none
	keySQL     []string // over the stream's columns, by key, in one form
	cellSQL    []string // over the stream's columns, by cell
	columns    []finalColumn
	having     *finalColumn // nil if none
	formulas   []formula    // a0..
	squares    []squares
	times      *timeKey
	plain      string // the user's SELECT FROM plainRows
}

// finalColumn is an expression over keys (k0..) and aggregates (a0..).
type finalColumn struct {
	sql        string
	tree       node
	typ        sqlType
	keys, aggs []int // indexes of those it uses, ascending
	key        int   // index of the key that it shows, -1 if none
}

// formula computes an aggregate from merged cells.
type formula struct {
	name      string // as the user wrote it, for messages
	sql       string // over c0.. and the columns that squares add
	typ       sqlType
	exact     bool
	tolerance float64
	// bound is SQL like sql, for how far rounding can move an inexact result; "" for
	// an exact one.
	bound string
}

// Names of relations in the printed statements. No column of a stream can begin
// with their prefix.
const (
	rowAlias  = "_duet_e"
	cellAlias = "_duet_p"
	plainRows = "_duet_rows"
)

// CellColumns returns the column definitions of a table of cells, such as
// "k0" TIMESTAMP, "c0" BIGINT.
func (v *View) CellColumns() string {
	var defs []string
	for _, k := range v.Keys {
		defs = append(defs, duck.Ident(k.Name)+" "+k.Type)
	}
	for _, c := range v.Cells {
		defs = append(defs, duck.Ident(c.Name)+" "+c.Type)
	}
	return strings.Join(defs, ", ")
}

// PartialSQL returns the statement that folds rows into cells: one row a group,
// with the columns of CellColumns. from is a table name or a parenthesised query
// with the stream's columns, _duet_at and _duet_record. No rows give no cells,
// even for a view without keys.
func (v *View) PartialSQL(from string) string {
	var b strings.Builder
	b.WriteString("SELECT ")
	for i, k := range v.Keys {
		comma(&b, i)
		b.WriteString(v.keySQL[i] + " AS " + duck.Ident(k.Name))
	}
	for i, c := range v.Cells {
		comma(&b, len(v.Keys)+i)
		b.WriteString(v.cellSQL[i] + " AS " + duck.Ident(c.Name))
	}
	b.WriteString(" FROM " + from + " AS " + duck.Ident(rowAlias))
	if v.where != "" {
		b.WriteString(" WHERE " + v.where)
	}
	groupBy(&b, len(v.Keys))
	b.WriteString(v.someRows())
	return b.String()
}

// someRows prevents a view without keys from producing a row over no rows. One
// half may fold nothing while the other half does not fold at all, and the row
// would count as a difference. The final SELECT produces it, as plain SQL does.
func (v *View) someRows() string {
	if len(v.Keys) > 0 {
		return ""
	}
	return " HAVING count(*) > 0"
}

// MergeSQL returns the statement that merges cells: one row a group, and no row
// of no cells. from is a table name or a parenthesised query with the columns of
// CellColumns.
func (v *View) MergeSQL(from string) string {
	keys := make([]int, len(v.Keys))
	for i := range keys {
		keys[i] = i
	}
	return v.mergeSQL(from, keys, "") + v.someRows()
}

// mergeSQL merges the cells that satisfy where, grouped by some of the keys.
func (v *View) mergeSQL(from string, keys []int, where string) string {
	var b strings.Builder
	b.WriteString("SELECT ")
	for i, k := range keys {
		comma(&b, i)
		b.WriteString(duck.Ident(v.Keys[k].Name))
	}
	for i, c := range v.Cells {
		comma(&b, len(keys)+i)
		b.WriteString(c.Merge + " AS " + duck.Ident(c.Name))
	}
	if len(keys)+len(v.Cells) == 0 {
		b.WriteString("count(*) AS _duet_n") // a SELECT must have a column
	}
	b.WriteString(" FROM " + from + " AS " + duck.Ident(cellAlias))
	if where != "" {
		b.WriteString(" WHERE " + where)
	}
	groupBy(&b, len(keys))
	return b.String()
}

func comma(b *strings.Builder, i int) {
	if i > 0 {
		b.WriteString(", ")
	}
}

// groupBy groups by the first n columns. Unlike names, ordinals cannot be mistaken
// for columns of the stream.
func groupBy(b *strings.Builder, n int) {
	for i := range n {
		if i == 0 {
			b.WriteString(" GROUP BY ")
		} else {
			b.WriteString(", ")
		}
		b.WriteString(itoa(i + 1))
	}
}

// keyColumns returns the names of the columns that a query may roll up by, in
// the order of the SELECT.
func (v *View) keyColumns() []string {
	var names []string
	for _, c := range v.Columns {
		if c.Role == Key || c.Role == TimeKey {
			names = append(names, c.Name)
		}
	}
	return names
}

// PlainSQL returns the user's own SELECT over rows, with ties broken by position.
// It is the oracle of verify and of the tests: it is printed from the tree as
// parsed and shares nothing with partial, merge and final SQL. from is as in
// PartialSQL.
func (v *View) PlainSQL(from string) string {
	return "WITH " + plainRows + " AS (SELECT * FROM " + from + ") " + v.plain
}

// DiffersSQL returns a condition that holds if a and b, values of the column, differ
// by more than they may. Values of an exact column must be equal (NULL equals NULL,
// NaN equals NaN, -0.0 equals 0.0). A column with a tolerance t is a number that may
// differ by t times the larger of the two: 1e-12 for avg, stddev and variance, whose
// last digits DuckDB itself computes from the order of the rows, and 1e-9 for what is
// computed from DOUBLE sums. It may also differ by bound, a DOUBLE expression: see
// [View.VerifySQL].
//
// An expression that magnifies such a difference (a difference of averages, a
// rounded average) may differ by more; so may DuckDB's own variance, which loses
// digits if the deviation is a thousandth of the mean or less.
func (c Column) DiffersSQL(a, b, bound string) string {
	equal := a + " IS NOT DISTINCT FROM " + b
	if c.Tolerance == 0 || !parseSQLType(c.Type).numeric() {
		return "NOT (" + equal + ")"
	}
	a, b = cast(a, "DOUBLE"), cast(b, "DOUBLE")
	return "NOT (" + equal + " OR coalesce(isfinite(" + a + ") AND isfinite(" + b + ") AND abs(" + a + " - " + b + ") <= greatest(" + bound + ", " +
		ftoa(c.Tolerance) + "::DOUBLE * greatest(abs(" + a + "), abs(" + b + "))), false))"
}
