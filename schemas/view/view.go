package view

import (
	"strings"

	"duet/internal/base/duck"
	"duet/schemas/project"
)

// Role says what a column of a view is.
type Role uint8

// The roles of a column.
const (
	Key       Role = iota + 1 // one of the columns that the view groups by
	TimeKey                   // the key that since and until are about: at most one
	Attribute                 // computed from keys alone; rolled away with them
	Measure                   // computed from aggregates
)

// String names the role in lower case.
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

// Column is a column of the answer, as the user's SELECT has it.
type Column struct {
	Name string
	Type string // as DuckDB's DESCRIBE prints it: "DECIMAL(38,4)", "HUGEINT", "TIMESTAMP"
	Role Role
	// Exact: both halves give the same bits, whatever the order of events. It
	// is false for what is computed from sums or variances of DOUBLE.
	Exact bool
	// Tolerance is the relative difference to plain DuckDB that is not an
	// error: 0 means equal. See [Column.DiffersSQL].
	Tolerance float64
	// Bucket is the time key's width if it is known, such as "1 hour",
	// "15 minutes" or "1 month".
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
	// Exact: merging in any order gives the same bits.
	Exact bool
}

// View is a compiled view. It does not change and is safe for concurrent use.
type View struct {
	Name   string
	Stream string // the stream's declared name
	SQL    string // as the user wrote it

	// Definition names what the cells mean, in hexadecimal: equal definitions
	// have interchangeable cells. It covers the SELECT (not its layout and
	// comments), the columns it uses, the zone, DuckDB and its settings, and
	// the format of cells.
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
	keys, aggs []int // which it uses, ascending
	key        int   // the key that it is, -1 if it is none
}

// formula computes an aggregate from merged cells.
type formula struct {
	name      string // as the user wrote it, for messages
	sql       string // over c0.. and what squares add
	typ       sqlType
	exact     bool
	tolerance float64
}

// Names that the printed statements give to relations. No column of a stream
// can begin with this prefix.
const (
	rowAlias  = "_duet_e"
	cellAlias = "_duet_p"
	plainRows = "_duet_rows"
)

// CellColumns is the DDL of a table of cells: "k0" TIMESTAMP, "c0" BIGINT, ...
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

// PartialSQL folds rows into cells: one row a group, columns as in
// CellColumns. from is a table name or a parenthesised query with the stream's
// columns, _duet_at and _duet_record among them. No rows give no cells, also in a view
// without keys.
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

// someRows keeps a view without keys from giving a row over no rows: what one
// half folded from nothing the other half may not have folded at all. The final
// SELECT gives that row, as plain SQL does.
func (v *View) someRows() string {
	if len(v.Keys) > 0 {
		return ""
	}
	return " HAVING count(*) > 0"
}

// MergeSQL folds cells into fewer cells: one row a group, none of none. from is
// a table name or a parenthesised query with the columns of CellColumns.
func (v *View) MergeSQL(from string) string {
	keys := make([]int, len(v.Keys))
	for i := range keys {
		keys[i] = i
	}
	return v.mergeSQL(from, keys, "") + v.someRows()
}

// mergeSQL merges by some of the keys, over the cells that meet where.
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

// groupBy groups by the first n columns. Ordinals cannot be taken for a
// column of the stream, as names could.
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

// PlainSQL is the user's own SELECT over rows, by plain DuckDB, with ties
// broken by position: the oracle for verify and tests. It is printed from the
// tree as it was parsed and shares nothing with partial, merge and final SQL.
// from is as in PartialSQL.
func (v *View) PlainSQL(from string) string {
	return "WITH " + plainRows + " AS (SELECT * FROM " + from + ") " + v.plain
}

// DiffersSQL is a condition that holds where a and b, two values of the
// column, differ by more than they may. An exact column must be equal (NULL
// equals NULL, NaN equals NaN, -0.0 equals 0.0). A column with a tolerance t
// is a number that may differ by t times the larger of the two: 1e-12 for
// avg, stddev and variance, whose last digits DuckDB itself computes from the
// order of the rows, and 1e-9 for what is computed from DOUBLE sums.
// An expression that magnifies such a difference (a difference of averages, a
// rounded average) may differ by more; so may DuckDB's own variance, which
// loses digits where the deviation is a thousandth of the mean or less.
func (c Column) DiffersSQL(a, b string) string {
	equal := a + " IS NOT DISTINCT FROM " + b
	if c.Tolerance == 0 || !parseSQLType(c.Type).numeric() {
		return "NOT (" + equal + ")"
	}
	return "NOT (" + equal + " OR coalesce(isfinite(" + a + "::DOUBLE) AND isfinite(" + b + "::DOUBLE) AND abs(" + a + "::DOUBLE - " + b + "::DOUBLE) <= " +
		ftoa(c.Tolerance) + "::DOUBLE * greatest(abs(" + a + "::DOUBLE), abs(" + b + "::DOUBLE)), false))"
}
