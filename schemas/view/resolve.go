package view

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"duet/internal/base/duck"
	"duet/schemas/project"
)

// place is the position of an expression in the SELECT.
type place struct {
	clause    string // SELECT, WHERE, GROUP BY, HAVING
	item      int    // index in the SELECT list, -1 elsewhere
	aggregate string // the enclosing aggregate, "" if none
}

// resolve checks an expression against the allow-list and returns a copy in which
// every reference is a declared column, qualified with rowAlias, every alias is
// replaced by its expression, and every aggregate has its canonical name. It
// reports a fault for anything refused and leaves that part unchanged.
func (x *compilation) resolve(n node, p place) node {
	if !allowed.nodes[n.kind()] {
		reason, remedy := refusedNode(n)
		x.fail(n.firstAt(), reason, remedy)
		return n
	}
	switch n.text("class") {
	case "COLUMN_REF":
		return x.column(n, p)
	case "CONSTANT":
		if reason, remedy := checkConstant(n); reason != "" {
			x.fail(n.at(), reason, remedy)
		}
		return n.clone()
	case "FUNCTION":
		return x.function(n, p)
	case "CAST":
		if reason, remedy := checkCast(n); reason != "" {
			x.fail(n.firstAt(), reason, remedy)
		}
	}
	return mapChildren(n, func(c node) node { return x.resolve(c, p) })
}

// mapChildren returns a copy of n with f applied to its child expressions.
func mapChildren(n node, f func(node) node) node {
	c := n.rewrite(func(m node) (node, bool) { return nil, false })
	for _, key := range []string{"child", "left", "right", "input", "lower", "upper", "else_expr", "when_expr", "then_expr"} {
		if e := n.node(key); e != nil {
			c[key] = f(e)
		}
	}
	if n["children"] != nil {
		c["children"] = mapList(n.nodes("children"), f)
	}
	if n["case_checks"] != nil {
		c["case_checks"] = mapList(n.nodes("case_checks"), func(check node) node { return mapChildren(check, f) })
	}
	return c
}

func mapList(nodes []node, f func(node) node) []any {
	out := make([]any, len(nodes))
	for i, n := range nodes {
		out[i] = f(n)
	}
	return out
}

// refusedNode returns why a kind of syntax is not allowed and what to write instead.
func refusedNode(n node) (reason, remedy string) {
	switch n.text("class") {
	case "WINDOW":
		return "a window (OVER) does not merge", "write the aggregate without OVER, or compute it from the answer"
	case "SUBQUERY":
		if n.text("subquery_type") == "ANY" {
			return "a subquery does not belong here", "write IN (a, b) or list_contains([a, b], x)"
		}
		return "a subquery does not belong here", "write the value itself"
	case "STAR":
		return "* does not name columns one by one", "name each column; to count rows write count(*)"
	case "LAMBDA":
		return "a lambda does not belong here", "write the expression for each value"
	case "PARAMETER":
		return "a parameter has no value here", "write the value itself"
	case "COLLATE":
		return "COLLATE makes different texts equal, so that either could stand for the group", "write lower(x), or strip_accents(x)"
	case "DEFAULT":
		return "DEFAULT does not belong here", "write the value itself"
	}
	return strings.ToLower(n.text("type")) + " is not allowed here", "write it in another way"
}

var constantTypes = map[string]bool{"BOOLEAN": true, "INTEGER": true, "BIGINT": true, "HUGEINT": true, "DECIMAL": true, "DOUBLE": true, "FLOAT": true, "VARCHAR": true, "NULL": true}

func checkConstant(n node) (reason, remedy string) {
	value := n.node("value")
	id := value.node("type").text("id")
	if !constantTypes[id] {
		return "a constant of type " + id + " is not allowed here", "write a number of at most 38 digits, a text, true, false or NULL"
	}
	if num, ok := value["value"].(interface{ Float64() (float64, error) }); ok && (id == "DOUBLE" || id == "FLOAT") {
		if f, err := num.Float64(); err != nil || math.IsInf(f, 0) || math.IsNaN(f) {
			return "this number is not finite", "write a number below 1.7e308"
		}
	} else if id == "DOUBLE" || id == "FLOAT" {
		return "this number is not finite", "write a number below 1.7e308"
	}
	return "", ""
}

func checkCast(n node) (reason, remedy string) {
	typ := n.node("cast_type")
	id := typ.text("id")
	if info := typ.node("type_info"); info != nil && info.text("type") != "DECIMAL_TYPE_INFO" || !allowed.casts[id] {
		if name := typ.node("type_info").text("name"); id == "UNBOUND" && name != "" {
			id = name
		}
		return "a cast to " + id + " is not allowed here", "cast to BOOLEAN, BIGINT, DECIMAL(p,s), DOUBLE, VARCHAR, DATE, TIME, TIMESTAMP or UUID"
	}
	return "", ""
}

// function checks and resolves a function call.
func (x *compilation) function(n node, p place) node {
	name := strings.ToLower(n.text("function_name"))
	if schema := n.text("schema"); schema != "" && schema != "main" || n.text("catalog") != "" {
		remedy := fmt.Sprintf("write %s(%s)", name, schema)
		if len(n.list("children")) > 0 {
			remedy = "write the function's name alone: " + name + "(...)"
		}
		x.fail(n.firstAt(), name+" is qualified with "+schema, remedy)
		return n
	}
	if canonical, ok := allowed.aggregates[name]; ok {
		return x.aggregateCall(n, canonical, p)
	}
	if _, ok := allowed.functions[name]; !ok {
		reason, remedy := x.c.refusedFunction(name)
		x.fail(n.firstAt(), reason, remedy)
		return n
	}
	if reason, remedy := plainCall(n, name); reason != "" {
		x.fail(n.firstAt(), reason, remedy)
	}
	c := mapChildren(n, func(c node) node { return x.resolve(c, p) })
	c["function_name"] = name
	return c
}

// plainCall refuses the clauses that only an aggregate call may have.
func plainCall(n node, name string) (reason, remedy string) {
	switch {
	case n.flag("distinct"):
		return "DISTINCT does not belong in " + name + "(), which is not an aggregate", "remove it"
	case n.node("filter") != nil:
		return "FILTER does not belong on " + name + "(), which is not an aggregate", "put it on the aggregate"
	case len(n.node("order_bys").list("orders")) > 0:
		return "ORDER BY does not belong in " + name + "(), which is not an aggregate", "remove it"
	case n.flag("export_state"):
		return "EXPORT_STATE does not belong here", "remove it"
	}
	return "", ""
}

// refusedFunction returns why a function that is not on the allow-list is refused.
func (c *Compiler) refusedFunction(name string) (reason, remedy string) {
	if d, ok := allowed.denied[name]; ok {
		return name + " " + d.reason, d.remedy
	}
	if c.known[name] {
		return name + "() is not among the functions that a view may use", "write it with others, or compute it before the event is sent"
	}
	if near := project.Nearest(name, functionNames()); near != "" {
		return "there is no function " + name, "did you mean " + near + "?"
	}
	return "there is no function " + name, "see the list of functions in DuckDB's documentation"
}

func functionNames() []string {
	var names []string
	for n, kind := range allowed.functions {
		if kind != "operator" {
			names = append(names, n)
		}
	}
	for n := range allowed.aggregates {
		names = append(names, n)
	}
	slices.Sort(names) // of two names equally near, always the same one
	return names
}

// arity is the number of arguments of an aggregate if it is not one.
var arity = map[string]int{"count_star": 0, "arg_min": 2, "arg_max": 2}

func (x *compilation) aggregateCall(n node, canonical string, p place) node {
	name := strings.ToLower(n.text("function_name"))
	label := strings.TrimSuffix(name, "_star")
	switch {
	case p.aggregate != "":
		x.fail(n.firstAt(), label+"() is inside "+p.aggregate+"()", "aggregate once; put arithmetic over aggregates around them")
		return n
	case p.clause == "WHERE":
		x.fail(n.firstAt(), label+"() is in WHERE, which comes before grouping", "write HAVING, or FILTER (WHERE ...) on an aggregate")
		return n
	case p.clause == "GROUP BY":
		x.fail(n.firstAt(), label+"() is in GROUP BY", "group by columns or expressions of them")
		return n
	case n.flag("distinct"):
		x.fail(n.firstAt(), label+"(DISTINCT) does not merge from sums", distinctRemedy(canonical))
		return n
	case n.flag("export_state"):
		x.fail(n.firstAt(), "EXPORT_STATE does not belong to a view", "remove it: cells merge by themselves")
		return n
	}
	want, ok := arity[canonical]
	if !ok {
		want = 1
	}
	if got := len(n.nodes("children")); got != want {
		x.fail(n.firstAt(), fmt.Sprintf("%s() takes %d argument%s here, not %d", label, want, plural(want), got), arityRemedy(canonical, got))
		return n
	}
	orders := n.node("order_bys").nodes("orders")
	inside := place{clause: p.clause, item: p.item, aggregate: label}
	c := mapChildren(n, func(c node) node { return x.resolve(c, inside) })
	c["function_name"], c["schema"] = canonical, ""
	if f := n.node("filter"); f != nil {
		c["filter"] = x.resolve(f, inside)
	}
	if canonical == "first" || canonical == "last" {
		x.checkOrder(n, c, label, orders, inside)
	} else if len(orders) > 0 {
		x.fail(n.firstAt(), "ORDER BY inside "+label+"() has no effect", "remove it; for the first or last value write first(x ORDER BY "+x.eventTime()+") or last(...)")
	}
	return c
}

func distinctRemedy(canonical string) string {
	switch canonical {
	case "min", "max", "bool_and", "bool_or":
		return "remove DISTINCT: it changes nothing here"
	}
	return "add the column to the GROUP BY: each of its values is then a group"
}

func arityRemedy(canonical string, got int) string {
	switch {
	case (canonical == "min" || canonical == "max") && got == 2:
		return "the n least values do not merge into one column: write one value; for the lesser of two columns write least(a, b)"
	case (canonical == "arg_min" || canonical == "arg_max") && got == 3:
		return "the n best do not merge into one column: write " + canonical + "(a, v)"
	}
	return "check the function's arguments"
}

func plural(n int) string {
	if n == 1 {
		return ""
	}
	return "s"
}

// checkOrder requires first and last to order by the event time alone: a row
// without a time would sort last, and DESC would swap first and last.
func (x *compilation) checkOrder(n, resolved node, label string, orders []node, inside place) {
	if x.stream.EventTime == "" {
		x.fail(n.firstAt(), label+"() needs an event time, and the stream "+x.stream.Name+" declares none", "declare event_time in "+x.stream.File)
		return
	}
	want := label + "(x ORDER BY " + x.stream.EventTime + ")"
	if len(orders) != 1 {
		reason := label + "() without ORDER BY takes whichever row comes first, so the halves may differ"
		if len(orders) > 1 {
			reason = label + "() orders by the event time alone; ties go to the later position"
		}
		x.fail(n.firstAt(), reason, "write "+want)
		return
	}
	order := orders[0]
	by := x.resolve(order.node("expression"), inside)
	if names := by.strings("column_names"); by.text("class") != "COLUMN_REF" || len(names) != 2 || names[1] != x.stream.EventTime {
		x.fail(order.node("expression").firstAt(), label+"() orders by the event time, "+x.stream.EventTime+", alone", "write "+want+"; for another order write arg_min(x, v) or arg_max(x, v)")
		return
	}
	if t := order.text("type"); t != "ORDER_DEFAULT" && t != "ASCENDING" || order.text("null_order") != "ORDER_DEFAULT" && order.text("null_order") != "NULLS LAST" {
		other := map[string]string{"first": "last", "last": "first"}[label]
		x.fail(order.node("expression").firstAt(), label+"() orders by the ascending event time", "write "+want+", or "+other+"(x ORDER BY "+x.stream.EventTime+")")
		return
	}
	resolved["order_bys"] = node{"type": "ORDER_MODIFIER", "orders": []any{node{"type": "ORDER_DEFAULT", "null_order": "ORDER_DEFAULT", "expression": by}}}
}

// column resolves a reference to a declared column or else an alias, in DuckDB's
// order. It refuses a name that could mean either.
func (x *compilation) column(n node, p place) node {
	names := n.strings("column_names")
	name := names[len(names)-1]
	if len(names) == 2 && strings.EqualFold(names[0], x.relation) {
		if col, ok := x.columns[strings.ToLower(name)]; ok {
			x.used[col] = true
			return columnRef(n["query_location"], rowAlias, col)
		}
	}
	if len(names) > 1 {
		x.unknownColumn(n, names)
		return n
	}
	lower := strings.ToLower(name)
	alias := x.aliasOf(lower)
	if col, ok := x.columns[lower]; ok {
		// Inside an aggregate's argument an alias could only be the item itself.
		if alias >= 0 && alias != p.item && (p.aggregate == "" || p.clause == "HAVING") && !x.isColumn(alias, col) {
			x.fail(n.at(), name+" is both a column of the stream and the alias of another expression", "write "+duck.Ident(x.relation)+"."+duck.Ident(col)+" for the column, or give the expression another name")
		}
		x.used[col] = true
		return columnRef(n["query_location"], rowAlias, col)
	}
	if alias < 0 || p.clause == "SELECT" && alias >= p.item {
		if alias >= 0 {
			x.fail(n.at(), name+" is used before it is defined", "move the expression named "+name+" before this one")
			return n
		}
		x.unknownColumn(n, names)
		return n
	}
	it := x.items[alias]
	if it.aggregated && (p.aggregate != "" || p.clause == "WHERE" || p.clause == "GROUP BY") {
		where := p.clause
		if p.aggregate != "" {
			where = p.aggregate + "()"
		}
		x.fail(n.at(), name+" is an aggregate; it cannot be used in "+where, "write HAVING for a condition over aggregates")
		return n
	}
	if x.expanded += it.expr.nodeCount(); x.expanded > maxNodes {
		x.fail(n.at(), name+" is an alias of aliases that expand to more than 10,000 terms", "use each alias fewer times")
		return n
	}
	return it.expr.clone()
}

// aliasOf returns the index of the first item with the alias, -1 if there is none.
func (x *compilation) aliasOf(lower string) int {
	for i, it := range x.items {
		if strings.ToLower(it.alias) == lower {
			return i
		}
	}
	return -1
}

// isColumn reports whether an item is just the column.
func (x *compilation) isColumn(i int, col string) bool {
	names := x.items[i].raw.strings("column_names")
	return x.items[i].raw.text("class") == "COLUMN_REF" && strings.EqualFold(names[len(names)-1], col)
}

func (x *compilation) unknownColumn(n node, names []string) {
	name := strings.Join(names, ".")
	last := strings.ToLower(names[len(names)-1])
	if d, ok := allowed.denied[last]; ok && len(names) == 1 {
		x.fail(n.at(), last+" "+d.reason, d.remedy)
		return
	}
	var reason, remedy string
	var declared []string
	for _, col := range streamColumns(x.stream) {
		declared = append(declared, col.Name)
	}
	switch near := project.Nearest(last, declared); {
	case strings.HasPrefix(last, "_duet_"):
		reason, remedy = name+" is not for views: the prefix _duet_ is reserved", "use the declared columns: "+strings.Join(declared, ", ")
	case len(names) == 1 && strings.EqualFold(name, x.relation):
		reason, remedy = name+" is the whole event, not a column", "name the column: "+strings.Join(declared, ", ")
	case len(names) == 2 && x.columns[last] != "":
		reason, remedy = "there is no relation "+names[0]+" here", "write "+duck.Ident(x.relation)+"."+duck.Ident(last)
	case near != "":
		reason, remedy = "the stream "+x.stream.Name+" has no column "+name, "did you mean "+near+"?"
	default:
		reason, remedy = "the stream "+x.stream.Name+" has no column "+name, "its columns are "+strings.Join(declared, ", ")+"; a text goes in single quotes"
	}
	x.fail(n.at(), reason, remedy)
}

func itoa(i int) string     { return strconv.Itoa(i) }
func ftoa(f float64) string { return strconv.FormatFloat(f, 'g', -1, 64) }
