package view

import (
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"

	"duet/internal/base/duck"
)

// clauses are the modifiers that a view must not have, by their type in the tree.
var clauses = map[string]struct{ keyword, reason, remedy string }{
	"ORDER_MODIFIER":         {"order", "a view has no ORDER BY", "remove it; order the answer when you query: --order-by"},
	"LIMIT_MODIFIER":         {"limit", "a view has no LIMIT; it keeps every group", "remove it; limit the answer when you query: --limit"},
	"LIMIT_PERCENT_MODIFIER": {"limit", "a view has no LIMIT; it keeps every group", "remove it; limit the answer when you query: --limit"},
	"DISTINCT_MODIFIER":      {"distinct", "SELECT DISTINCT does not merge", "remove DISTINCT and write GROUP BY ALL"},
}

// checkShape allows SELECT .. FROM stream [WHERE] [GROUP BY] [HAVING] only. It
// sets x.stream if the stream is known, even after a fault.
func (x *compilation) checkShape() {
	if x.sel.text("type") != "SELECT_NODE" {
		x.refuseNode()
		return
	}
	if x.sel.node("cte_map") != nil && len(x.sel.node("cte_map").list("map")) > 0 {
		x.fail(x.src.keyword("with"), "a view has no WITH", "write one SELECT over the stream; to name an expression use an alias: price * quantity AS amount")
	}
	for _, m := range x.sel.nodes("modifiers") {
		c, ok := clauses[m.text("type")]
		if !ok {
			c.keyword, c.reason, c.remedy = "select", "a view has no "+m.text("type"), "remove it"
		}
		at := x.lastKeyword(c.keyword)
		if c.keyword == "limit" && at < 0 {
			at = x.lastKeyword("offset")
		}
		x.fail(at, c.reason, c.remedy)
	}
	if q := x.sel.node("qualify"); q != nil {
		x.fail(x.src.keyword("qualify"), "a view has no QUALIFY: windows do not merge", "write HAVING over aggregates")
	}
	if x.sel.node("sample") != nil {
		x.fail(x.src.keyword("using"), "USING SAMPLE gives another result each time", "remove it")
	}
	if w := x.sel.list("window_clause"); len(w) > 0 {
		x.fail(x.src.keyword("window"), "WINDOW does not merge", "remove it")
	}
	x.checkFrom(x.sel.node("from_table"))
}

// refuseNode reports a statement that is not a plain SELECT.
func (x *compilation) refuseNode() {
	switch x.sel.text("type") {
	case "SET_OPERATION_NODE":
		word := strings.ToLower(x.sel.text("setop_type"))
		x.fail(x.src.keyword(word), "a view has no "+strings.ToUpper(word), "write one view for each SELECT, or one SELECT with CASE or FILTER")
	case "RECURSIVE_CTE_NODE", "CTE_NODE":
		x.fail(x.src.keyword("with"), "a view has no WITH", "write one SELECT over the stream")
	default:
		x.fail(0, "is not a SELECT over a stream", "write one SELECT ... FROM stream GROUP BY ALL")
	}
}

func (x *compilation) checkFrom(from node) {
	at := from.firstAt()
	if at < 0 {
		at = x.src.keyword("from")
	}
	streams := x.streamNames()
	one := "write FROM " + duck.Ident(streams)
	if strings.Contains(streams, ", ") {
		one = "write FROM one of: " + streams
	}
	switch typ := from.text("type"); typ {
	case "BASE_TABLE":
	case "JOIN":
		x.fail(x.joinAt(from), "a view reads one stream and has no JOIN", "send the joined values with each event, as columns of the stream")
		return
	case "EMPTY":
		x.fail(-1, "has no FROM", one)
		return
	case "SUBQUERY":
		x.fail(at, "a view has no subquery in FROM", "write the SELECT over the stream itself; "+one)
		return
	case "TABLE_FUNCTION":
		x.fail(at, "a view reads one stream, not a table function", one)
		return
	default:
		x.fail(at, "reads from "+strings.ToLower(typ)+"; a view reads one stream", one)
		return
	}
	name := from.text("table_name")
	stream, ok := x.c.streams[strings.ToLower(name)]
	switch {
	case from.text("schema_name") != "" || from.text("catalog_name") != "":
		if ok {
			one = "write FROM " + duck.Ident(name)
		}
		x.fail(at, "the stream is qualified with a schema", one)
		return
	case !ok:
		x.fail(at, "there is no stream "+name, one)
		return
	}
	if from.node("sample") != nil {
		x.fail(x.src.keyword("tablesample"), "TABLESAMPLE gives another result each time", "remove it")
	}
	if from.node("at_clause") != nil {
		x.fail(at, "a view has no AT", "remove it; query an older generation with --as-of")
	}
	if len(from.list("column_name_alias")) > 0 {
		x.fail(at, "renames the stream's columns", "use their declared names")
	}
	x.stream = stream
	if x.relation = from.text("alias"); x.relation == "" {
		x.relation = name
	}
	for _, col := range streamColumns(stream) {
		x.columns[strings.ToLower(col.Name)] = col.Name
	}
}

func (x *compilation) streamNames() string {
	var names []string
	for _, s := range x.c.streams {
		names = append(names, s.Name)
	}
	sort.Strings(names)
	return strings.Join(names, ", ")
}

func (x *compilation) joinAt(from node) int {
	if at := x.src.keyword("join"); at >= 0 {
		return at
	}
	return from.node("right").firstAt()
}

func (x *compilation) lastKeyword(word string) int {
	last := -1
	for _, t := range tokens(x.src.text) {
		if t.kind == wordToken && strings.EqualFold(t.text, word) {
			last = t.at
		}
	}
	return last
}

// resolveAll resolves every expression of the SELECT.
func (x *compilation) resolveAll() {
	for _, raw := range x.sel.nodes("select_list") {
		x.items = append(x.items, &item{raw: raw, alias: raw.text("alias"), key: -1})
	}
	for i, it := range x.items {
		it.expr = x.resolve(it.raw, place{clause: "SELECT", item: i})
		it.expr["alias"] = ""
		it.expr.walk(func(n node) bool {
			it.aggregated = it.aggregated || isAggregate(n)
			return !it.aggregated
		})
	}
	if w := x.sel.node("where_clause"); w != nil {
		x.where = x.resolve(w, place{clause: "WHERE", item: -1})
	}
	x.resolveGroups()
	if h := x.sel.node("having"); h != nil {
		x.having = x.resolve(h, place{clause: "HAVING", item: -1})
	}
}

func (x *compilation) resolveGroups() {
	sets := x.sel.list("group_sets")
	groups := x.sel.nodes("group_expressions")
	switch handling := x.sel.text("aggregate_handling"); {
	case handling == "FORCE_AGGREGATES":
		// Constant items are not keys. GROUP BY ALL over constants only is a
		// single group, even over no rows.
		for _, it := range x.items {
			if it.aggregated || !hasColumn(it.expr) {
				continue
			}
			it.expr.walk(func(n node) bool {
				if n.text("type") == "OPERATOR_TRY" {
					x.fail(n.firstAt(), "DuckDB fails on GROUP BY ALL with TRY in a key", "write TRY_CAST or CASE, or name the keys: GROUP BY 1, 2")
				}
				return true
			})
			x.addKey(it.expr)
		}
	case handling != "STANDARD_HANDLING":
		x.fail(x.src.keyword("group"), "a view has no GROUP BY of this kind", "write GROUP BY ALL")
	case len(sets) > 1 || len(sets) == 1 && len(sets[0].([]any)) != len(groups):
		x.fail(x.src.keyword("group"), "a view has no ROLLUP, CUBE or GROUPING SETS", "group by all the columns; roll up when you query: --by a,b or --total")
	default:
		for _, g := range groups {
			x.resolveGroup(g)
		}
		if len(groups) == 0 && len(sets) == 0 && !x.failed() && !slices.ContainsFunc(x.items, func(it *item) bool { return it.aggregated }) && x.sel.node("having") == nil {
			x.fail(-1, "has no aggregate and no GROUP BY: it lists events", "add GROUP BY ALL and an aggregate such as count(*)")
		}
	}
}

func (x *compilation) resolveGroup(g node) {
	var expr node
	if n, ok := ordinal(g); ok {
		if n < 1 || n > len(x.items) {
			x.fail(g.at(), fmt.Sprintf("GROUP BY %d: the SELECT has %d columns", n, len(x.items)), "write GROUP BY ALL")
			return
		}
		it := x.items[n-1]
		if it.aggregated {
			x.fail(g.at(), fmt.Sprintf("GROUP BY %d: column %d is an aggregate", n, n), "write GROUP BY ALL")
			return
		}
		expr = it.expr
	} else {
		before := len(x.faults)
		if expr = x.resolve(g, place{clause: "GROUP BY", item: -1}); len(x.faults) > before {
			return
		}
	}
	if !hasColumn(expr) {
		x.fail(g.firstAt(), "groups by a constant", "remove it from the GROUP BY, or write GROUP BY ALL")
		return
	}
	x.addKey(expr)
}

func (x *compilation) addKey(expr node) {
	id := expr.canonical()
	for _, k := range x.keys {
		if k.canonical() == id {
			return
		}
	}
	x.keys = append(x.keys, expr)
}

func ordinal(n node) (int, bool) {
	if n.text("class") != "CONSTANT" {
		return 0, false
	}
	value := n.node("value")
	if value.node("type").text("id") != "INTEGER" {
		return 0, false
	}
	i, err := strconv.Atoi(fmt.Sprint(value["value"]))
	return i, err == nil
}

func hasColumn(n node) bool {
	found := false
	n.walk(func(m node) bool {
		found = found || m.text("class") == "COLUMN_REF"
		return !found
	})
	return found
}

// isAggregate reports whether n is a resolved aggregate call.
func isAggregate(n node) bool {
	return n.text("class") == "FUNCTION" && allowed.aggregates[n.text("function_name")] != ""
}
