package view

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"duet/internal/base/duck"
)

// lengthOf returns measure.length for columns with these types; qualified is what
// precedes their names.
func lengthOf(types map[string]string, qualified string) func(node) (string, bool) {
	return func(n node) (string, bool) {
		names := n.strings("column_names")
		name := names[len(names)-1]
		switch types[name] {
		case "VARCHAR":
			return "strlen(" + qualified + duck.Ident(name) + ")", false
		case "BLOB":
			return "octet_length(" + qualified + duck.Ident(name) + ")", true
		}
		return "", false
	}
}

// limits of one expression, for one row.
type limits struct{ bytes, steps float64 }

// tooLarge returns why the expression is refused whatever the data is, nil if it is
// not.
func (m *measure) tooLarge(n node, limit limits) *refusal {
	if m.fault != nil {
		return m.fault
	}
	if m.made.at(usualText) > limit.bytes {
		reason := fmt.Sprintf("makes more than %.0f bytes of text a row from texts of %d bytes", limit.bytes, usualText)
		if m.made.fixed > limit.bytes {
			reason = fmt.Sprintf("makes more than %.0f bytes of text a row", limit.bytes)
		}
		return &refusal{m.worst, reason, "write fewer or other functions, or compute the text before the event is sent"}
	}
	total := 0.0
	for _, s := range m.costs {
		total += s.at(usualWord)
	}
	if total > limit.steps {
		return &refusal{n, "costs too much: the distance of texts, and a pattern with wildcards, take a product of their lengths", "write fewer of them or shorter patterns, or compare with =, contains() or starts_with()"}
	}
	return nil
}

// guarded returns the expression's SQL with the check that its bounds need, if any.
func (m *measure) guarded(sql, what, typ string, limit limits) string {
	var over, costs []string
	if m.made.at(maxText) > limit.bytes {
		over = append(over, m.made.sql()+" > "+number(limit.bytes))
	}
	total := 0.0
	for _, s := range m.costs {
		total += s.at(maxText)
		costs = append(costs, s.sql())
	}
	if total > limit.steps {
		over = append(over, strings.Join(costs, " + ")+" > "+number(limit.steps))
	}
	if len(over) == 0 {
		return sql
	}
	message := fmt.Sprintf("%s: a text is too long for this expression: it may make %.0f bytes of text a row and compare %.0f pairs of bytes", what, min(limit.bytes, viewBytes), limit.steps)
	raise := "CAST(error(" + duck.Literal(message) + ") AS " + typ + ")"
	return "CASE WHEN " + strings.Join(over, " OR ") + " THEN " + raise + " ELSE " + sql + " END"
}

// viewLimits are the limits of an expression of a view.
func (m *measure) viewLimits() limits {
	if m.grown == "" && m.made.factor() <= linearBytes && m.made.fixed <= viewBytes {
		return limits{math.Inf(1), maxSteps}
	}
	return limits{viewBytes, maxSteps}
}

// checkGrowth refuses expressions that are too large whatever the events are. It
// comes before anything is bound, because binding evaluates constant arguments.
func (x *compilation) checkGrowth() {
	exprs := slices.Clone(x.keys)
	for _, it := range x.items {
		exprs = append(exprs, it.expr)
	}
	for _, e := range append(exprs, x.where, x.having) {
		if e == nil {
			continue
		}
		m := x.rowMeasure(e)
		if f := m.tooLarge(e, m.viewLimits()); f != nil {
			x.fail(f.at.firstAt(), f.reason, f.remedy)
		}
	}
}

// rowMeasure measures an expression over the stream's columns.
func (x *compilation) rowMeasure(e node) *measure {
	types := map[string]string{}
	for _, c := range streamColumns(x.stream) {
		types[c.Name] = c.Type.SQL()
	}
	m := &measure{length: lengthOf(types, duck.Ident(rowAlias)+".")}
	m.expression(e)
	return m
}

// guardRows guards the expressions over the stream's columns.
func (x *compilation) guardRows(v *View, keySQL []string, keyTypes []sqlType) {
	guard := func(e node, sql *string, typ string) {
		if e != nil {
			m := x.rowMeasure(e)
			*sql = m.guarded(*sql, "view "+x.def.Name, typ, m.viewLimits())
		}
	}
	for i, k := range x.keys {
		guard(k, &keySQL[i], keyTypes[i].name)
	}
	for _, a := range x.aggs {
		for j := range a.args {
			guard(a.args[j], &a.argSQL[j], a.argType[j].name)
		}
		guard(a.filter, &a.filterSQL, "BOOLEAN")
	}
	guard(x.where, &v.where, "BOOLEAN")
}

// guardFinals guards the expressions over keys and aggregates.
func (x *compilation) guardFinals(v *View, keyTypes []sqlType) {
	types := map[string]string{}
	for i, t := range keyTypes {
		types["k"+itoa(i)] = t.name
	}
	for i, a := range x.aggs {
		types["a"+itoa(i)] = a.typ.name
	}
	guard := func(f *finalColumn, typ string) {
		m := &measure{length: lengthOf(types, "")}
		m.expression(f.tree)
		f.sql = m.guarded(f.sql, "view "+x.def.Name, typ, m.viewLimits())
	}
	for i := range v.columns {
		guard(&v.columns[i], v.columns[i].typ.name)
	}
	if v.having != nil {
		guard(v.having, "BOOLEAN")
	}
}
