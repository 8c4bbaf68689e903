package view

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"

	"duet/internal/base/duck"
	"duet/schemas"
)

// cellFormat is part of every definition. Change it whenever the meaning or the
// layout of cells changes, so that existing cells are recomputed.
const cellFormat = "cells 2"

// printer collects expressions so that DuckDB prints them all in one round trip.
type printer struct {
	exprs []node
	dest  []*string
}

func (p *printer) add(n node, dest *string) {
	if n != nil {
		p.exprs, p.dest = append(p.exprs, n), append(p.dest, dest)
	}
}

// assemble prints the expressions, chooses the cells, and checks the columns of
// every statement with DESCRIBE.
func (x *compilation) assemble(finals []node, having node) (*View, error) {
	v := &View{Name: x.def.Name, Stream: x.stream.Name, SQL: x.def.SQL, compiler: x.c, conditions: &conditionCache{}, stream: x.stream}
	keySQL := make([]string, len(x.keys))
	aggSQL := make([]string, len(x.aggs))
	v.columns = make([]finalColumn, len(finals))
	var p printer
	for i, k := range x.keys {
		p.add(k, &keySQL[i])
	}
	for i, a := range x.aggs {
		if a.name == "first" || a.name == "last" {
			a.args = append(slices.Clone(a.args), a.node.node("order_bys").nodes("orders")[0].node("expression"))
		}
		a.argSQL = make([]string, len(a.args))
		for j, arg := range a.args {
			p.add(arg, &a.argSQL[j])
		}
		p.add(a.filter, &a.filterSQL)
		p.add(a.node, &aggSQL[i])
	}
	p.add(x.where, &v.where)
	for i, f := range finals {
		p.add(f, &v.columns[i].sql)
	}
	if having != nil {
		v.having = &finalColumn{key: -1}
		p.add(having, &v.having.sql)
	}
	if err := x.print(&p); err != nil || x.failed() {
		return nil, err
	}
	keyTypes, err := x.types(keySQL, aggSQL)
	if err != nil {
		return nil, err
	}
	x.guardRows(v, keySQL, keyTypes)
	x.compileKeys(v, keySQL, keyTypes)
	for _, a := range x.aggs {
		v.formulas = append(v.formulas, x.compileAggregate(a))
	}
	if x.failed() {
		return nil, nil
	}
	x.compileCells(v)
	x.compileColumns(v, finals, having)
	x.guardFinals(v, keyTypes)
	x.findTimeKey(v)
	v.Definition = x.definition()
	if v.plain, err = x.plainStatement(); err != nil {
		return nil, err
	}
	return v, x.selfCheck(v)
}

func (x *compilation) print(p *printer) error {
	texts, err := x.c.print(p.exprs)
	var rerr *reprintError
	if errors.As(err, &rerr) {
		x.fail(p.exprs[rerr.index].firstAt(), "DuckDB prints this expression as another one", "write it in another way")
		return nil
	}
	if err != nil {
		return err
	}
	for i, t := range texts {
		*p.dest[i] = t
	}
	return nil
}

// types returns the types of the keys and sets those of arguments and aggregates.
func (x *compilation) types(keySQL, aggSQL []string) ([]sqlType, error) {
	rows := slices.Clone(keySQL)
	for _, a := range x.aggs {
		rows = append(rows, a.argSQL...)
	}
	rowTypes, err := x.describeList(rows)
	if err != nil {
		return nil, err
	}
	aggTypes, err := x.describeList(aggSQL)
	if err != nil {
		return nil, err
	}
	next := len(keySQL)
	for i, a := range x.aggs {
		a.typ = aggTypes[i]
		a.argType = rowTypes[next : next+len(a.argSQL)]
		next += len(a.argSQL)
	}
	return rowTypes[:len(keySQL)], nil
}

func (x *compilation) describeList(exprs []string) ([]sqlType, error) {
	if len(exprs) == 0 {
		return nil, nil
	}
	cols, err := x.c.describe("SELECT " + strings.Join(exprs, ", ") + " FROM " + duck.Ident(x.stream.Name) + " AS " + duck.Ident(rowAlias))
	if err != nil {
		return nil, err
	}
	types := make([]sqlType, len(cols))
	for i, c := range cols {
		types[i] = c.typ
	}
	return types, nil
}

func (x *compilation) compileKeys(v *View, keySQL []string, types []sqlType) {
	for i, k := range x.keys {
		st, ok := stored(types[i])
		if !ok {
			x.fail(k.firstAt(), "groups by a value of type "+types[i].name, typeRemedy(types[i]))
			continue
		}
		v.keySQL = append(v.keySQL, store(keySQL[i], types[i]))
		column := slices.IndexFunc(x.items, func(it *item) bool { return it.key == i })
		v.Keys = append(v.Keys, KeyCell{Name: "k" + itoa(i), Type: st.name, Column: column})
	}
}

func (x *compilation) compileCells(v *View) {
	for i, c := range x.cells {
		v.cellSQL = append(v.cellSQL, c.partial)
		v.Cells = append(v.Cells, Cell{Name: "c" + itoa(i), Type: c.typ, Merge: strings.ReplaceAll(c.merge, "%s", cellName(i)), Exact: c.exact,
			Magnitude: x.magnitudes[cellName(i)]})
	}
	v.squares = x.sqs
}

func (x *compilation) compileColumns(v *View, finals []node, having node) {
	for i, it := range x.items {
		f := &v.columns[i]
		f.tree, f.typ, f.key = finals[i], it.typ, it.key
		f.keys, f.aggs = usedBy(finals[i])
		col := Column{Name: it.name, Type: it.typ.name, Role: Measure, Exact: true}
		switch {
		case it.key >= 0:
			col.Role = Key
		case len(f.aggs) == 0 && len(f.keys) > 0:
			col.Role = Attribute
		}
		for _, a := range f.aggs {
			col.Exact = col.Exact && v.formulas[a].exact
			col.Tolerance = max(col.Tolerance, v.formulas[a].tolerance)
		}
		v.Columns = append(v.Columns, col)
	}
	if having == nil {
		return
	}
	v.having.tree = having
	v.having.keys, v.having.aggs = usedBy(having)
	for _, a := range v.having.aggs {
		if !v.formulas[a].exact {
			x.warn(x.having.firstAt(), "HAVING compares an inexact "+v.formulas[a].name+"(): a group at the boundary may be in the answer of one half only", "compare a DECIMAL, or round it")
		}
	}
}

// usedBy returns the keys and aggregates that a final expression refers to.
func usedBy(n node) (keys, aggs []int) {
	n.walk(func(m node) bool {
		if m.text("class") != "COLUMN_REF" {
			return true
		}
		name := m.strings("column_names")[0]
		i, _ := strconv.Atoi(name[1:])
		if name[0] == 'k' {
			keys = append(keys, i)
		} else {
			aggs = append(aggs, i)
		}
		return false
	})
	sort.Ints(keys)
	sort.Ints(aggs)
	return slices.Compact(keys), slices.Compact(aggs)
}

// definition returns a hash of everything that the meaning of the cells depends on.
func (x *compilation) definition() string {
	h := sha256.New()
	fmt.Fprintf(h, "%s\n%s\n%s\n", cellFormat, duck.SettingsText(), x.sel.canonical())
	fmt.Fprintf(h, "stream %s event_time %s zone %v day_starts %v\n", x.stream.Name, x.stream.EventTime, x.stream.Zone, x.stream.DayStarts)
	for _, c := range streamColumns(x.stream) {
		if x.used[c.Name] {
			fmt.Fprintf(h, "%s %s\n", c.Name, c.Type.SQL())
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}

// plainStatement prints the user's SELECT as parsed, FROM plainRows, with the
// ties of arg_max, arg_min, first and last broken by position.
func (x *compilation) plainStatement() (string, error) {
	ordered := x.sel.rewrite(func(n node) (node, bool) {
		if n.text("class") != "FUNCTION" {
			return nil, false
		}
		return plainPick(n)
	})
	from := ordered.node("from_table")
	from["table_name"], from["alias"] = plainRows, x.relation
	for i, it := range ordered.nodes("select_list") {
		it["alias"] = x.items[i].name
	}
	texts, err := x.c.printStatements([]node{printable(ordered)})
	if err != nil {
		return "", fmt.Errorf("print the SELECT itself: %w", err)
	}
	return texts[0], nil
}

// plainPick breaks ties in favour of the later position by sorting: arg_max(a, v)
// becomes last(a ORDER BY v, position) over the rows in which both are not NULL.
func plainPick(n node) (node, bool) {
	canonical := allowed.aggregates[strings.ToLower(n.text("function_name"))]
	order := func(by node, descending bool) any {
		t := "ASCENDING"
		if descending {
			t = "DESCENDING"
		}
		return node{"type": t, "null_order": "NULLS LAST", "expression": by}
	}
	args := n.nodes("children")
	c := n.clone()
	var by node
	switch canonical {
	case "arg_min", "arg_max":
		c["filter"] = orNil(and(n.node("filter"), isNotNull(args[0]), isNotNull(args[1])))
		by = args[1]
		c["children"] = []any{args[0]}
	case "first", "last":
		by = n.node("order_bys").nodes("orders")[0].node("expression")
	default:
		return nil, false
	}
	earliest := canonical == "arg_min" || canonical == "first"
	c["function_name"] = map[bool]string{true: "first", false: "last"}[earliest]
	c["order_bys"] = node{"type": "ORDER_MODIFIER", "orders": []any{
		order(by, false), order(columnRef(nil, schemas.ColAt), earliest), order(columnRef(nil, schemas.ColRecord), earliest)}}
	return c, true
}

func orNil(n node) any {
	if n == nil {
		return nil
	}
	return n
}

// selfCheck compares the columns of every statement, by DESCRIBE, with those that
// the view declares. It finds, for example, a count that became a HUGEINT by
// summing before that reaches a file.
func (x *compilation) selfCheck(v *View) error {
	var want []described
	for _, k := range v.Keys {
		want = append(want, described{k.Name, parseSQLType(k.Type)})
	}
	for _, c := range v.Cells {
		want = append(want, described{c.Name, parseSQLType(c.Type)})
	}
	empty := v.emptyCells()
	if len(want) > 0 {
		if err := x.same("partial", v.PartialSQL(duck.Ident(x.stream.Name)), want); err != nil {
			return err
		}
		if err := x.same("merge", v.MergeSQL(empty), want); err != nil {
			return err
		}
	}
	want = nil
	for _, c := range v.Columns {
		want = append(want, described{c.Name, parseSQLType(c.Type)})
	}
	final, _, err := v.FinalSQL(empty, Options{})
	if err != nil {
		return err
	}
	if err := x.same("final", final, want); err != nil {
		return err
	}
	return x.same("plain", v.PlainSQL(duck.Ident(x.stream.Name)), want)
}

// emptyCells returns a relation with the columns of CellColumns and no rows.
func (v *View) emptyCells() string {
	var cols []string
	for _, k := range v.Keys {
		cols = append(cols, "CAST(NULL AS "+k.Type+") AS "+duck.Ident(k.Name))
	}
	for _, c := range v.Cells {
		cols = append(cols, "CAST(NULL AS "+c.Type+") AS "+duck.Ident(c.Name))
	}
	if len(cols) == 0 {
		cols = []string{"1 AS _duet_none"}
	}
	return "(SELECT " + strings.Join(cols, ", ") + " WHERE false)"
}

func (x *compilation) same(what, sql string, want []described) error {
	got, err := x.c.describe(sql)
	if err != nil {
		return fmt.Errorf("%s statement: %w", what, err)
	}
	if len(got) != len(want) {
		return fmt.Errorf("%s statement: %d columns, not %d", what, len(got), len(want))
	}
	for i := range want {
		if got[i] != want[i] {
			return fmt.Errorf("%s statement: column %d is %s %s, not %s %s", what, i+1, got[i].name, got[i].typ.name, want[i].name, want[i].typ.name)
		}
	}
	return nil
}
