package view

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"duet/internal/base/duck"
)

// Options select the rows and columns of a view's answer. The zero value selects
// the view as it is written.
type Options struct {
	// By rolls up to these key columns; nil or empty means all of them.
	By []string
	// Total rolls up to one row. It excludes By.
	Total bool
	// Where is a SQL condition over key columns and attributes. It selects groups
	// before they are rolled up.
	Where string
	// Having is a SQL condition over the columns of the answer, after roll-up
	// and after the view's own HAVING.
	Having string
	// Since and Until bound the time key: a bucket that begins in [Since, Until)
	// is included, as a whole.
	Since, Until *time.Time
	// OrderBy orders the answer; keys break ties. Without OrderBy and Limit the
	// answer has no order.
	OrderBy []Order
	// Limit is the maximum number of rows; 0 means all of them.
	Limit int
}

// Order is one column to order by. NULLs come last in both directions.
type Order struct {
	Column string
	Desc   bool
}

// ConditionError reports what is wrong with an option.
type ConditionError struct {
	Option string // "by", "total", "where", "having", "since", "until", "order_by" or "limit"
	Column int    // in the option's text, in characters from 1; 0 if unknown
	Reason string
	Remedy string
}

// Error returns "option:column: reason. remedy".
func (e *ConditionError) Error() string {
	s := e.Option
	if e.Column > 0 {
		s += fmt.Sprintf(":%d", e.Column)
	}
	s += ": " + e.Reason
	if e.Remedy != "" {
		s += ". " + e.Remedy
	}
	return s
}

// FinalSQL returns the statement that merges partial rows and computes the
// columns of the answer, and those columns. from is a table name or a
// parenthesised query with the columns of CellColumns, merged or not. FinalSQL
// returns a *ConditionError for an invalid option.
func (v *View) FinalSQL(from string, o Options) (sql string, cols []Column, err error) {
	keys, err := v.rollUp(o)
	if err != nil {
		return "", nil, err
	}
	columns, err := v.answered(keys)
	if err != nil {
		return "", nil, err
	}
	where, err := v.filterSQL(o)
	if err != nil {
		return "", nil, err
	}
	for _, i := range columns {
		cols = append(cols, v.Columns[i])
	}
	inner := v.answerSQL(from, keys, columns, where, false)
	if o.Having == "" && len(o.OrderBy) == 0 && o.Limit == 0 {
		return inner, cols, nil
	}
	var b strings.Builder
	b.WriteString("SELECT * FROM (" + inner + ")")
	if o.Having != "" {
		having, err := v.cached("having", fmt.Sprint(columns), o.Having, func() ([]conditionColumn, map[string]string) { return v.havingColumns(columns) })
		if err != nil {
			return "", nil, err
		}
		b.WriteString(" WHERE " + having)
	}
	if err := v.orderBy(&b, o, columns); err != nil {
		return "", nil, err
	}
	if o.Limit < 0 {
		return "", nil, &ConditionError{Option: "limit", Reason: "is negative", Remedy: "write the number of rows, or 0 for all of them"}
	}
	if o.Limit > 0 {
		fmt.Fprintf(&b, " LIMIT %d", o.Limit)
	}
	return b.String(), cols, nil
}

// VerifySQL returns the statement of FinalSQL without options, followed by one DOUBLE
// column for each of its columns: how far rounding can move the value. It is 0 for an
// exact column, and for an expression over inexact aggregates, of which only the
// relative tolerance is known. See [Column.DiffersSQL].
func (v *View) VerifySQL(from string) string {
	var keys, columns []int
	for i := range v.Keys {
		keys = append(keys, i)
	}
	for i := range v.Columns {
		columns = append(columns, i)
	}
	return v.answerSQL(from, keys, columns, "", true)
}

// answerSQL returns the statement of merge, formulas and the view's own HAVING, and
// with bounds the columns that VerifySQL appends:
//
//	SELECT CAST(<expr over k, a> AS T) AS "name" FROM (
//	  SELECT k.., CAST(<formula over c> AS T) AS a.. FROM (<merge by keys>)) WHERE <having>
func (v *View) answerSQL(from string, keys, columns []int, where string, bounds bool) string {
	needed := map[int]bool{}
	for _, i := range columns {
		for _, a := range v.columns[i].aggs {
			needed[a] = true
		}
	}
	if v.having != nil {
		for _, a := range v.having.aggs {
			needed[a] = true
		}
	}
	var inner []string
	for _, k := range keys {
		typ := v.columns[v.Keys[k].Column].typ
		inner = append(inner, restore(duck.Ident(v.Keys[k].Name), typ)+" AS "+duck.Ident(v.Keys[k].Name))
	}
	squared := false
	for a, f := range v.formulas {
		if needed[a] {
			inner = append(inner, cast(f.sql, f.typ.name)+" AS "+duck.Ident("a"+itoa(a)))
			squared = squared || strings.Contains(f.sql, `"q`)
			if bounds && f.bound != "" {
				inner = append(inner, cast(f.bound, "DOUBLE")+" AS "+duck.Ident("b"+itoa(a)))
			}
		}
	}
	if len(inner) == 0 {
		inner = []string{"1 AS _duet_one"}
	}
	merged := "(" + v.mergeSQL(from, keys, where) + ")"
	if squared {
		merged = stages(merged, v.squares)
	}
	var outer []string
	for _, i := range columns {
		outer = append(outer, cast(v.columns[i].sql, v.columns[i].typ.name)+" AS "+duck.Ident(v.Columns[i].Name))
	}
	for _, i := range columns {
		if f := v.columns[i]; bounds && f.tree.text("class") == "COLUMN_REF" && len(f.aggs) == 1 && v.formulas[f.aggs[0]].bound != "" {
			outer = append(outer, duck.Ident("b"+itoa(f.aggs[0])))
		} else if bounds {
			outer = append(outer, "0::DOUBLE")
		}
	}
	sql := "SELECT " + strings.Join(outer, ", ") + " FROM (SELECT " + strings.Join(inner, ", ") + " FROM " + merged + ")"
	if v.having != nil {
		sql += " WHERE " + v.having.sql
	}
	return sql
}

// rollUp returns the keys that are kept, in the order of View.Keys.
func (v *View) rollUp(o Options) ([]int, error) {
	if o.Total {
		if len(o.By) > 0 {
			return nil, &ConditionError{Option: "total", Reason: "excludes by", Remedy: "leave out one of them"}
		}
		return nil, nil
	}
	var keys []int
	for i := range v.Keys {
		keys = append(keys, i)
	}
	if len(o.By) == 0 {
		return keys, nil
	}
	var by []int
	for _, name := range o.By {
		i := v.columnIndex(name)
		switch {
		case i < 0:
			return nil, &ConditionError{Option: "by", Reason: fmt.Sprintf("%s has no column %q", v.Name, name), Remedy: v.keyRemedy()}
		case v.columns[i].key < 0:
			return nil, &ConditionError{Option: "by", Reason: fmt.Sprintf("%q is %s, not a key", name, aRole(v.Columns[i].Role)), Remedy: v.keyRemedy()}
		case slices.Contains(by, v.columns[i].key):
			return nil, &ConditionError{Option: "by", Reason: fmt.Sprintf("names %q twice", name), Remedy: "name each key once"}
		}
		by = append(by, v.columns[i].key)
	}
	slices.Sort(by)
	return by, nil
}

func aRole(r Role) string {
	if r == Attribute {
		return "an attribute"
	}
	return "a " + r.String()
}

func (v *View) keyRemedy() string {
	keys := v.keyColumns()
	if len(keys) == 0 {
		return "the view has no keys: leave it out"
	}
	return "the keys are " + strings.Join(keys, ", ")
}

// columnIndex returns the index of a column by name, ignoring case; -1 if there
// is none.
func (v *View) columnIndex(name string) int {
	return slices.IndexFunc(v.Columns, func(c Column) bool { return strings.EqualFold(c.Name, name) })
}

// answered returns the columns that can be computed with these keys. A key that
// is rolled up is dropped together with its attributes. It fails if a measure or
// the view's HAVING uses a dropped key.
func (v *View) answered(keys []int) ([]int, error) {
	var columns []int
	gone := func(used []int) string {
		for _, k := range used {
			if !slices.Contains(keys, k) {
				return v.Columns[v.Keys[k].Column].Name
			}
		}
		return ""
	}
	option := "by"
	if len(keys) == 0 {
		option = "total"
	}
	for i, c := range v.columns {
		name := gone(c.keys)
		switch {
		case name == "":
			columns = append(columns, i)
		case len(c.aggs) > 0:
			return nil, &ConditionError{Option: option, Reason: fmt.Sprintf("the measure %s is computed from the key %s, which is rolled up", v.Columns[i].Name, name),
				Remedy: "keep " + name + ", or write the measure over aggregates such as min(...) of it"}
		}
	}
	if v.having != nil {
		if name := gone(v.having.keys); name != "" {
			return nil, &ConditionError{Option: option, Reason: fmt.Sprintf("the view's HAVING uses the key %s, which is rolled up", name),
				Remedy: "keep " + name + ", or move the condition from HAVING to WHERE"}
		}
	}
	if len(columns) == 0 {
		return nil, &ConditionError{Option: option, Reason: "leaves no column: the view has keys alone", Remedy: v.keyRemedy()}
	}
	return columns, nil
}

// filterSQL returns the condition on cells before they are merged; "" if none.
func (v *View) filterSQL(o Options) (string, error) {
	var conds []string
	if o.Since != nil || o.Until != nil {
		bounds, err := v.timeBounds(o.Since, o.Until)
		if err != nil {
			return "", err
		}
		conds = append(conds, bounds...)
	}
	if o.Where != "" {
		cond, err := v.cached("where", "", o.Where, v.whereColumns)
		if err != nil {
			return "", err
		}
		conds = append(conds, "("+cond+")")
	}
	return strings.Join(conds, " AND "), nil
}

// whereColumns returns the columns of a where condition, keys and attributes, and
// the types of the cells that they stand for.
func (v *View) whereColumns() ([]conditionColumn, map[string]string) {
	var cols []conditionColumn
	types := map[string]string{}
	for _, k := range v.Keys {
		types[k.Name] = k.Type
	}
	for i, c := range v.Columns {
		col := conditionColumn{name: c.Name, typ: c.Type}
		if len(v.columns[i].aggs) > 0 || len(v.columns[i].keys) == 0 {
			col.refused, col.remedy = c.Name+" is "+aRole(c.Role)+"; where selects by keys, before merging", "put this condition into having"
		} else {
			col.tree = castTree(v.overStoredKeys(v.columns[i].tree), v.columns[i].typ)
		}
		cols = append(cols, col)
	}
	return cols, types
}

// overStoredKeys casts the keys that cells store as another type to their own.
func (v *View) overStoredKeys(tree node) node {
	return tree.rewrite(func(n node) (node, bool) {
		if n.text("class") != "COLUMN_REF" {
			return nil, false
		}
		keys, _ := usedBy(n)
		if len(keys) == 1 && v.columns[v.Keys[keys[0]].Column].typ.base == "HUGEINT" {
			return castTo(n, "HUGEINT", nowhere), true
		}
		return n, true
	})
}

// castTree casts an expression to the type of its column. A key already has it.
func castTree(tree node, t sqlType) node {
	if tree.text("class") == "COLUMN_REF" {
		return tree
	}
	c := castTo(tree, t.base, nowhere)
	if t.decimal() {
		c["cast_type"] = node{"id": "DECIMAL", "type_info": node{"type": "DECIMAL_TYPE_INFO", "alias": "", "extension_info": nil, "width": t.width, "scale": t.scale}}
	}
	return c
}

// havingColumns returns the columns of a having condition, those of the answer, and
// their types.
func (v *View) havingColumns(columns []int) ([]conditionColumn, map[string]string) {
	var cols []conditionColumn
	types := map[string]string{}
	for i, c := range v.Columns {
		col := conditionColumn{name: c.Name, typ: c.Type, tree: columnRef(nil, c.Name)}
		if !slices.Contains(columns, i) {
			col.refused, col.remedy = c.Name+" is rolled up; having is about the rows of the answer", "put this condition into where, or keep "+c.Name
		}
		types[c.Name] = c.Type
		cols = append(cols, col)
	}
	return cols, types
}

func (v *View) orderBy(b *strings.Builder, o Options, columns []int) error {
	if len(o.OrderBy) == 0 && o.Limit == 0 {
		return nil
	}
	var terms []string
	used := map[int]bool{}
	for _, ord := range o.OrderBy {
		i := v.columnIndex(ord.Column)
		if i < 0 || !slices.Contains(columns, i) {
			reason := fmt.Sprintf("%s has no column %q", v.Name, ord.Column)
			if i >= 0 {
				reason = v.Columns[i].Name + " is rolled up"
			}
			var names []string
			for _, c := range columns {
				names = append(names, v.Columns[c].Name)
			}
			return &ConditionError{Option: "order_by", Reason: reason, Remedy: "the columns are " + strings.Join(names, ", ")}
		}
		direction := " ASC NULLS LAST"
		if ord.Desc {
			direction = " DESC NULLS LAST"
		}
		terms = append(terms, duck.Ident(v.Columns[i].Name)+direction)
		used[i] = true
	}
	for _, i := range columns {
		if v.columns[i].key >= 0 && !used[i] {
			terms = append(terms, duck.Ident(v.Columns[i].Name)+" ASC NULLS LAST")
		}
	}
	if len(terms) > 0 {
		b.WriteString(" ORDER BY " + strings.Join(terms, ", "))
	}
	return nil
}
