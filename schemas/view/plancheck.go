package view

import (
	"fmt"
	"math"
	"math/big"
	"strings"
)

// planNodes are the operators that a view's plan may contain.
var planNodes = map[string]bool{"LOGICAL_PROJECTION": true, "LOGICAL_FILTER": true, "LOGICAL_AGGREGATE_AND_GROUP_BY": true, "LOGICAL_GET": true,
	"LOGICAL_DUMMY_SCAN": true}

// unknownInPlan returns the name of something in the bound plan that is not
// allowed, such as a function that a macro or keyword expanded to or a relation,
// and "" if there is nothing.
func unknownInPlan(plan node) string {
	found := ""
	plan.walk(func(n node) bool {
		if found != "" {
			return false
		}
		name := n.text("name")
		switch n.text("expression_class") {
		case "BOUND_FUNCTION":
			if _, ok := allowed.functions[name]; !ok {
				found = name
			}
		case "BOUND_AGGREGATE":
			if _, ok := allowed.aggregates[name]; !ok {
				found = name
			}
		case "BOUND_WINDOW", "BOUND_SUBQUERY", "BOUND_LAMBDA", "BOUND_LAMBDAREF", "BOUND_PARAMETER", "BOUND_UNNEST":
			found = strings.ToLower(strings.TrimPrefix(n.text("expression_class"), "BOUND_"))
		}
		if t := n.text("type"); strings.HasPrefix(t, "LOGICAL_") && !planNodes[t] {
			found = t
		}
		if n.text("type") == "LOGICAL_GET" && name != "seq_scan" {
			found = name
		}
		return true
	})
	return found
}

// checkPlan applies the allow-list to the bound plan and warns about expressions
// that can raise.
func (x *compilation) checkPlan(plan node) {
	if name := unknownInPlan(plan); name != "" {
		reason, remedy := x.c.refusedFunction(name)
		x.fail(-1, reason, remedy)
		return
	}
	x.warnRaising(plan, false)
}

// warnRaising warns about expressions that can raise. It takes the branches of a
// CASE to be guarded by their conditions, and TRY to catch everything below it.
func (x *compilation) warnRaising(n node, guarded bool) {
	switch n.text("expression_class") {
	case "BOUND_OPERATOR":
		if n.text("type") == "OPERATOR_TRY" {
			return
		}
	case "BOUND_CAST":
		x.warnCast(n)
	case "BOUND_FUNCTION":
		x.warnFunction(n, guarded)
	case "BOUND_AGGREGATE":
		x.warnSum(n)
	case "BOUND_CASE":
		for _, check := range n.nodes("case_checks") {
			x.warnRaising(check.node("when_expr"), guarded)
			x.warnRaising(check.node("then_expr"), true)
		}
		x.warnRaising(n.node("else_expr"), true)
		return
	}
	n.each(func(c node) { x.warnRaising(c, guarded) })
}

func planType(n node) sqlType {
	id := n.text("id")
	if id != "DECIMAL" {
		return parseSQLType(id)
	}
	info := n.node("type_info")
	return parseSQLType(fmt.Sprintf("DECIMAL(%v,%v)", info["width"], info["scale"]))
}

// shown returns the text of a bound expression for a message, as far as the plan
// still contains it.
func shown(n node) string {
	switch n.text("expression_class") {
	case "BOUND_REF", "BOUND_COLUMN_REF":
		if a := n.text("alias"); a != "" {
			return strings.ReplaceAll(a, "count_star()", "count(*)")
		}
	case "BOUND_CAST":
		return shown(n.node("child"))
	case "BOUND_CONSTANT":
		return fmt.Sprint(n.node("value")["value"])
	case "BOUND_FUNCTION":
		var args []string
		for _, c := range n.nodes("children") {
			args = append(args, shown(c))
		}
		if n.flag("is_operator") && len(args) == 2 {
			return args[0] + " " + n.text("name") + " " + args[1]
		}
		return n.text("name") + "(" + strings.Join(args, ", ") + ")"
	case "BOUND_AGGREGATE":
		var args []string
		for _, c := range n.nodes("children") {
			args = append(args, shown(c))
		}
		return n.text("name") + "(" + strings.Join(args, ", ") + ")"
	}
	return "x"
}

func (x *compilation) warnCast(n node) {
	child := n.node("child")
	if n.flag("try_cast") || !overValues(n) {
		return
	}
	var from sqlType
	if t := child.node("return_type"); t != nil {
		from = planType(t)
	} else {
		return // comparisons and the like: BOOLEAN
	}
	to := planType(n.node("return_type"))
	if !castRaises(from, to, limitOf(child)) {
		return
	}
	text := shown(child)
	x.warn(n.firstAt(), fmt.Sprintf("the cast of %s from %s to %s raises for a value that does not fit, and then the view is suspended", text, from.name, to.name),
		"write TRY_CAST("+text+" AS "+to.name+"), which gives NULL, or cast to a wider type")
}

// castRaises reports whether the cast of a value of at most limit can fail; a nil
// limit means any value.
func castRaises(from, to sqlType, limit *big.Int) bool {
	switch {
	case from.wide() && to.wide():
		return false // sums stay below 38 digits
	case from.name == to.name || to.base == "VARCHAR" || from.base == "NULL" || to.base == "BLOB" && from.base != "VARCHAR":
		return false
	case from.base == "VARCHAR":
		return true
	case from.base == "DOUBLE" && to.base == "FLOAT":
		return true
	case to.float() || to.base == "BOOLEAN":
		return false
	case from.float():
		return to.numeric()
	case from.numeric() || from.base == "BOOLEAN":
		if limit == nil {
			limit = typeLimit(from)
		}
		// Compare without the decimals.
		whole := new(big.Int).Quo(limit, pow10(from.scale))
		return whole.Cmp(new(big.Int).Quo(typeLimit(to), pow10(to.scale))) > 0
	}
	return false
}

func pow10(n int) *big.Int { return new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(n)), nil) }

// typeLimit returns the greatest magnitude of a type, unscaled.
func typeLimit(t sqlType) *big.Int {
	switch t.base {
	case "BOOLEAN":
		return big.NewInt(1)
	case "TINYINT":
		return big.NewInt(math.MaxInt8)
	case "SMALLINT":
		return big.NewInt(math.MaxInt16)
	case "INTEGER":
		return big.NewInt(math.MaxInt32)
	case "BIGINT":
		return big.NewInt(math.MaxInt64)
	case "DECIMAL":
		return new(big.Int).Sub(pow10(t.width), big.NewInt(1))
	case "HUGEINT":
		return new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 127), big.NewInt(1))
	}
	return new(big.Int)
}

// limitOf returns a bound of the magnitude of a numeric expression, unscaled. It
// returns nil if no bound narrower than the type's is known.
func limitOf(n node) *big.Int {
	switch n.text("expression_class") {
	case "BOUND_REF", "BOUND_COLUMN_REF":
		if strings.HasPrefix(n.text("alias"), "count") && n.node("return_type").text("id") == "BIGINT" {
			return big.NewInt(rowsAssumed) // above an aggregation, its results are referred to by their text
		}
	case "BOUND_CONSTANT":
		if v, ok := new(big.Int).SetString(fmt.Sprint(n.node("value")["value"]), 10); ok {
			return v.Abs(v)
		}
	case "BOUND_CAST":
		child := n.node("child")
		to := planType(n.node("return_type"))
		var from sqlType
		if t := child.node("return_type"); t != nil {
			from = planType(t)
		} else if child.text("expression_class") == "BOUND_CONSTANT" {
			from = planType(child.node("value").node("type"))
		}
		if from.float() || !from.numeric() || !to.numeric() || to.float() {
			return nil
		}
		limit := limitOf(child)
		if limit == nil {
			limit = typeLimit(from)
		}
		limit = new(big.Int).Mul(limit, pow10(to.scale))
		limit.Quo(limit, pow10(from.scale))
		if limit.Cmp(typeLimit(to)) > 0 {
			return nil
		}
		return limit
	case "BOUND_FUNCTION":
		if limit, t := resultLimit(n); limit != nil && limit.Cmp(typeLimit(t)) <= 0 {
			return limit
		}
	}
	return nil
}

// resultLimit returns a bound of a sum, difference or product of integers or
// decimals, unscaled, and the result type. It returns nil for other functions.
func resultLimit(n node) (*big.Int, sqlType) {
	t := planType(n.node("return_type"))
	args := n.nodes("children")
	if t.float() || !t.numeric() || len(args) != 2 {
		return nil, t
	}
	var limits []*big.Int
	for _, a := range args {
		at := sqlType{}
		if rt := a.node("return_type"); rt != nil {
			at = planType(rt)
		} else {
			at = planType(a.node("value").node("type"))
		}
		if !at.numeric() || at.float() {
			return nil, t
		}
		l := limitOf(a)
		if l == nil {
			l = typeLimit(at)
		}
		limits = append(limits, l)
	}
	switch n.text("name") {
	case "+", "-", "add", "subtract":
		return new(big.Int).Add(limits[0], limits[1]), t
	case "*", "multiply":
		return new(big.Int).Mul(limits[0], limits[1]), t
	}
	return nil, t
}

// overValues reports whether an expression depends on an event or a group. A
// constant expression that raises fails when the view is compiled.
func overValues(n node) bool {
	found := false
	n.walk(func(m node) bool {
		switch m.text("expression_class") {
		case "BOUND_REF", "BOUND_COLUMN_REF", "BOUND_AGGREGATE":
			found = true
		}
		return !found
	})
	return found
}

// overAggregates reports whether an expression is computed from the results of an
// aggregation, to which the plan refers by their text.
func overAggregates(n node) bool {
	found := false
	n.walk(func(m node) bool {
		found = found || m.text("expression_class") == "BOUND_REF" && strings.Contains(m.text("alias"), "(")
		return !found
	})
	return found
}

func (x *compilation) warnFunction(n node, guarded bool) {
	if !overValues(n) {
		return
	}
	name := n.text("name")
	text := shown(n)
	if remedy, ok := allowed.raises[name]; ok {
		if !guarded {
			x.warn(n.firstAt(), text+" raises for some values, and then the view is suspended", "write "+remedy)
		}
		return
	}
	limit, t := resultLimit(n)
	if limit == nil || limit.Cmp(typeLimit(t)) <= 0 {
		return
	}
	if name != "*" && name != "multiply" && (t.base == "HUGEINT" || t.width == 38) {
		return // sums and differences of sums stay below 38 digits
	}
	left := shown(n.nodes("children")[0])
	remedy := "write " + widened(left, n.nodes("children")[0], t) + " " + name + " ..., or TRY(" + text + "), which gives NULL"
	if overAggregates(n) {
		remedy = "write " + cast(left, "DOUBLE") + " " + name + " ..." // TRY takes no aggregates
	}
	x.warn(n.firstAt(), fmt.Sprintf("%s is %s and raises for a greater result, and then the view is suspended", text, t.name),
		remedy)
}

// rowsAssumed is the number of rows that a sum of wide numbers is assumed to have.
const rowsAssumed = 1_000_000_000

// warnSum warns if the sum of rowsAssumed greatest values exceeds 38 digits.
func (x *compilation) warnSum(n node) {
	args := n.nodes("children")
	if name := allowed.aggregates[n.text("name")]; name != "sum" && name != "avg" || len(args) != 1 || args[0].node("return_type") == nil {
		return
	}
	t := planType(args[0].node("return_type"))
	if !t.wide() {
		return
	}
	limit := limitOf(args[0])
	if limit == nil {
		limit = typeLimit(t)
	}
	if new(big.Int).Mul(limit, big.NewInt(rowsAssumed)).Cmp(pow10(38)) > 0 {
		text := shown(args[0])
		at := args[0].firstAt()
		if at < 0 {
			at = x.callOf(n.text("name"), args[0].text("alias"))
		}
		x.warn(at, fmt.Sprintf("%s(%s) over %s raises when the total exceeds 38 digits, and then the view is suspended", n.text("name"), text, t.name),
			"if its values allow it, write "+cast(text, fmt.Sprintf("DECIMAL(18,%d)", min(t.scale, 18))))
	}
}

// callOf returns the offset of an aggregate call over a bare column, which the
// plan contains without a location; -1 if there is none.
func (x *compilation) callOf(function, column string) int {
	at := -1
	x.sel.walk(func(n node) bool {
		if args := n.nodes("children"); at < 0 && strings.EqualFold(n.text("function_name"), function) && len(args) == 1 {
			if names := args[0].strings("column_names"); len(names) > 0 && strings.EqualFold(names[len(names)-1], column) {
				at = n.at()
			}
		}
		return at < 0
	})
	return at
}

// widened returns the left operand, cast to a type that can hold the result.
func widened(text string, operand node, t sqlType) string {
	if t.decimal() {
		scale := t.scale
		if c := operand; c.text("expression_class") == "BOUND_CAST" || c.node("return_type") != nil {
			scale = planType(operand.node("return_type")).scale
		}
		return cast(text, fmt.Sprintf("DECIMAL(38,%d)", scale))
	}
	switch t.base {
	case "TINYINT", "SMALLINT", "INTEGER":
		return cast(text, "BIGINT")
	}
	return cast(text, "HUGEINT")
}
