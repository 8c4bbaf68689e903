package view

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"duet/internal/base/duck"
)

// DuckDB's memory limit does not cover texts inside an expression, and it looks for
// an interrupt only between vectors of 2,048 rows. Nested functions such as bin()
// therefore end the process within seconds, and functions such as levenshtein()
// hold a reader for hours, whatever limits and deadlines say. So the size and the
// cost of every expression are bounded before it is bound or executed.
//
// The bound of a text is linear in the texts that the expression reads:
//
//	bytes <= Σ factor(column) · bytes of the column + fixed
//
// It follows from the allow-list, which gives each function a [growth], and from
// constant arguments; an argument that decides the size of a result must be a
// constant. Adding the bounds of all results gives the bytes that an expression
// makes for one row. Where they are too many whatever the data is, the expression is
// refused. Where that depends on the data, the expression becomes
//
//	CASE WHEN <bytes> > limit OR <steps> > limit THEN error(...) ELSE <expression> END
//
// so that a text that is too long is an evaluation error, which ends the query or
// suspends the view, and never exhausts memory.

// Limits of an expression, for one row.
const (
	// conditionBytes is what all texts that a client's condition makes may have.
	// A vector of 2,048 rows then needs at most 128 MiB.
	conditionBytes = 64 << 10
	// viewBytes is what the texts of one expression of a view may have if it grows.
	// Expressions that do not are bounded by the events themselves: they make
	// linearBytes bytes for each byte of an event's texts.
	viewBytes   = 256 << 10
	linearBytes = 4
	// usualText is a length of texts for which an accepted expression must make few
	// enough bytes, usualWord one for which it must take few enough steps.
	usualText = 256
	usualWord = 16
	// maxText is the greatest length of a column's text, that of a record.
	maxText = 1 << 20
	// maxSteps is the cost of the functions in an expression whose cost is a product
	// of lengths: a few milliseconds. A search within a text, or a step of a regular
	// expression, counts as a hundredth.
	maxSteps = 1e6
	// fixedBytes bounds a value of a type of fixed size, as text. valueBytes is its
	// size in a vector.
	fixedBytes = 64
	valueBytes = 16
)

// class says how the size of a function's result depends on its arguments.
type class uint8

const (
	fixed    class = iota + 1 // a value of fixed size or a text of at most fixedBytes
	linear                    // at most factor times its arguments, for a small factor
	growing                   // at most factor times its arguments, for a large factor
	computed                  // by computedSize, from constant arguments
)

var classes = map[string]class{"fixed": fixed, "linear": linear, "growing": growing, "computed": computed}

// growth is the type of a function of the allow-list.
type growth struct {
	class  class
	factor float64 // of linear and growing
	steps  string  // how the cost depends on the arguments, a key of stepsOf; "" if linear
}

func parseGrowth(text string) (growth, bool) {
	fields := strings.Fields(text)
	if len(fields) == 0 {
		return growth{}, false
	}
	g := growth{class: classes[fields[0]], factor: 1}
	fields = fields[1:]
	if g.class == linear || g.class == growing {
		if len(fields) == 0 {
			return g, false
		}
		n, err := strconv.Atoi(fields[0])
		if err != nil || n < 1 {
			return g, false
		}
		g.factor, fields = float64(n), fields[1:]
	}
	if len(fields) == 1 && (fields[0] == "product" || fields[0] == "search" || fields[0] == "pattern" || fields[0] == "regexp") {
		g.steps, fields = fields[0], nil
	}
	return g, g.class != 0 && len(fields) == 0
}

// size is a bound of a value's bytes, as text or in memory.
type size struct {
	factors map[string]float64 // by the SQL of a column's length
	fixed   float64
	wide    bool // a BLOB or a list, which are longer as text
	levels  int  // nested growing functions
}

func (s size) times(factor float64) size {
	out := size{fixed: s.fixed * factor, wide: s.wide, levels: s.levels}
	for c, f := range s.factors {
		out.set(c, f*factor)
	}
	return out
}

func (s size) plus(other size) size {
	out := s.times(1)
	out.fixed += other.fixed
	out.wide, out.levels = s.wide || other.wide, max(s.levels, other.levels)
	for c, f := range other.factors {
		out.set(c, out.factors[c]+f)
	}
	return out
}

func (s size) or(other size) size {
	out := s.times(1)
	out.fixed = max(s.fixed, other.fixed)
	out.wide, out.levels = s.wide || other.wide, max(s.levels, other.levels)
	for c, f := range other.factors {
		out.set(c, max(out.factors[c], f))
	}
	return out
}

func (s *size) set(column string, factor float64) {
	if s.factors == nil {
		s.factors = map[string]float64{}
	}
	s.factors[column] = factor
}

// asText is the size of the value as VARCHAR. A byte of a BLOB becomes \x00, and
// the elements of a list are quoted.
func (s size) asText() size {
	if !s.wide {
		return s
	}
	out := s.times(4)
	out.wide = false
	return out
}

// at is the bound for texts of one length.
func (s size) at(length float64) float64 {
	total := s.fixed
	for _, f := range s.factors {
		total += f * length
	}
	return total
}

func (s size) factor() float64 {
	most := 0.0
	for _, f := range s.factors {
		most = max(most, f)
	}
	return most
}

// sql is the bound as SQL.
func (s size) sql() string {
	terms := []string{number(s.fixed)}
	for _, c := range sortedKeys(s.factors) {
		terms = append(terms, number(s.factors[c])+" * coalesce("+c+", 0)")
	}
	return "(" + strings.Join(terms, " + ") + ")"
}

func sortedKeys(m map[string]float64) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// number is a DOUBLE literal that DuckDB does not read as a DECIMAL.
func number(f float64) string { return "CAST('" + ftoa(f) + "' AS DOUBLE)" }

// steps is the cost of one call: weight · Π sizes.
type steps struct {
	weight float64
	sizes  []size
}

func (s steps) at(length float64) float64 {
	total := s.weight
	for _, size := range s.sizes {
		total *= max(size.at(length), 1)
	}
	return total
}

func (s steps) sql() string {
	terms := []string{number(s.weight)}
	for _, size := range s.sizes {
		terms = append(terms, size.sql())
	}
	return strings.Join(terms, " * ")
}

// fault is why an expression is refused.
type fault struct {
	at             node
	reason, remedy string
}

// measure is the size and the cost of one expression.
type measure struct {
	// length returns the SQL of the length of a column's value, in bytes, and
	// whether it is a BLOB. It is "" for a value of fixed size.
	length func(column node) (sql string, blob bool)
	single bool // growing functions must not be nested

	made  size // the sum of all results
	worst node // the largest result
	costs []steps

	worstBytes float64 // of worst, over texts of usualText bytes
	grown      string  // a function that grows, "" if none
	fault      *fault  // the first
}

func (m *measure) refuse(n node, reason, remedy string) {
	if m.fault == nil {
		m.fault = &fault{n, reason, remedy}
	}
}

// expression adds the sizes of all results in n and returns that of n.
func (m *measure) expression(n node) size {
	scalar := size{fixed: fixedBytes}
	switch n.text("class") {
	case "COLUMN_REF":
		length, blob := m.length(n)
		if length == "" {
			return scalar
		}
		return size{factors: map[string]float64{length: 1}, wide: blob}
	case "CONSTANT":
		if text, ok := constantText(n); ok {
			return size{fixed: float64(len(text))}
		}
		return scalar
	case "CAST":
		return m.result(n, m.cast(n, m.expression(n.node("child"))))
	case "FUNCTION":
		return m.result(n, m.call(n))
	case "CASE":
		out := m.expression(n.node("else_expr"))
		for _, check := range n.nodes("case_checks") {
			m.expression(check.node("when_expr"))
			out = out.or(m.expression(check.node("then_expr")))
		}
		return m.result(n, out)
	}
	// Comparisons, conjunctions and operators.
	var children []size
	for _, key := range []string{"child", "left", "right", "input", "lower", "upper"} {
		if c := n.node(key); c != nil {
			children = append(children, m.expression(c))
		}
	}
	for _, c := range n.nodes("children") {
		children = append(children, m.expression(c))
	}
	switch n.text("type") {
	case "OPERATOR_COALESCE", "OPERATOR_TRY", "ARRAY_EXTRACT":
		out := scalar
		for _, c := range children {
			out = out.or(c)
		}
		return m.result(n, out)
	}
	return m.result(n, scalar)
}

// result adds the size of one result to what the expression makes.
func (m *measure) result(n node, s size) size {
	if bytes := s.at(usualText); bytes > m.worstBytes {
		m.worst, m.worstBytes = n, bytes
	}
	if len(s.factors) == 0 && s.fixed <= fixedBytes {
		m.made.fixed += valueBytes
	} else {
		m.made = m.made.plus(s)
	}
	return s
}

func (m *measure) cast(n node, child size) size {
	switch n.node("cast_type").text("id") {
	case "VARCHAR":
		return child.asText()
	case "BLOB":
		child.wide = true
		return child
	}
	return size{fixed: fixedBytes}
}

// blobs are the functions whose result is a BLOB or a list.
var blobs = map[string]bool{"encode": true, "unhex": true, "from_hex": true, "from_base64": true, "list_value": true,
	"string_split": true, "str_split": true, "split": true, "string_to_array": true}

// keepsType are the functions whose result may be a BLOB or a list if an argument is.
var keepsType = map[string]bool{"||": true, "+": true, "add": true, "array_extract": true, "list_extract": true, "list_element": true,
	"greatest": true, "least": true, "nullif": true}

func (m *measure) call(n node) size {
	name := strings.ToLower(n.text("function_name"))
	args := n.nodes("children")
	sizes := make([]size, len(args))
	sum := size{}
	for i, a := range args {
		sizes[i] = m.expression(a)
		sum = sum.plus(sizes[i])
	}
	if f := n.node("filter"); f != nil {
		m.expression(f)
	}
	if canonical, ok := allowed.aggregates[name]; ok {
		switch canonical {
		case "min", "max", "first", "last", "arg_min", "arg_max":
			return sizes[0]
		}
		return size{fixed: fixedBytes}
	}
	g := allowed.growth[name]
	m.cost(n, name, g, args, sizes)
	out := size{fixed: fixedBytes}
	switch g.class {
	case linear, growing:
		out = sum.times(g.factor)
		out.fixed += fixedBytes
		if name == "||" || name == "greatest" || name == "least" {
			out.fixed -= fixedBytes
		}
	case computed:
		out, g = m.computedSize(n, name, args, sizes, sum)
	}
	if (name == "+" || name == "add") && !sum.wide {
		out = size{fixed: fixedBytes} // of numbers and times; lists are joined
	}
	out.wide = blobs[name] || out.wide && g.class != fixed && keepsType[name]
	if g.class == growing {
		out.levels = sum.levels + 1
		m.grown = name
		if m.single && out.levels > 1 {
			m.refuse(n, label(name)+" of a text that has grown already can make a text of any length", "use one such function, or compare the text itself")
		}
	}
	return out
}

func label(name string) string {
	if isLetter(name[0]) {
		return name + "()"
	}
	return name
}

// computedSize is the size of a result that constant arguments decide.
func (m *measure) computedSize(n node, name string, args []node, sizes []size, sum size) (size, growth) {
	limited := growth{class: linear}
	constant := func(i int, what string) (int, bool) {
		if i >= len(args) {
			return 0, true
		}
		c, ok := constantInt(args[i])
		if !ok {
			m.refuse(n, "the "+what+" of "+name+"() must be a constant: it decides how long the text becomes", "write a number")
		}
		return max(c, 0), ok
	}
	switch name {
	case "concat", "concat_ws":
		out := size{fixed: fixedBytes}
		for i, s := range sizes {
			out = out.plus(s.asText())
			if name == "concat_ws" && i > 1 {
				out = out.plus(sizes[0].asText())
			}
		}
		out.wide = false
		return out, limited
	case "repeat":
		if count, ok := constant(1, "second argument"); ok && len(sizes) > 0 {
			return sizes[0].times(float64(count)), growth{class: growing}
		}
	case "lpad", "rpad":
		if count, ok := constant(1, "second argument"); ok && len(sizes) > 0 {
			return sizes[0].plus(size{fixed: 4 * float64(count)}), limited
		}
	case "to_base":
		if count, ok := constant(2, "third argument"); ok {
			return size{fixed: fixedBytes + float64(count)}, limited
		}
	case "strftime":
		// A specifier has two characters; the longest result, %c, has 31.
		out := size{}
		for _, s := range sizes {
			if len(s.factors) > 0 || s.fixed != fixedBytes {
				out = out.plus(s)
			}
		}
		return out.times(16).plus(size{fixed: fixedBytes}), limited
	case "list_value":
		return sum.plus(size{fixed: valueBytes * float64(len(args))}), limited
	case "replace":
		return m.replaced(n, args, sizes)
	case "regexp_replace":
		// Each byte of the text, and its end, can be a match; \0 repeats it.
		if len(args) > 2 {
			if with, ok := constantText(args[2]); ok {
				each := float64(len(with))
				out := sizes[0].times(1 + 2*each).plus(size{fixed: each})
				if each <= 1 {
					return out, limited
				}
				return out, growth{class: growing}
			}
			m.refuse(args[2], "the replacement of regexp_replace() must be a constant: it decides how long the text becomes", "write the text itself")
		}
	case "format", "printf":
		return m.formatted(n, name, args, sum)
	}
	return sum, limited
}

// replaced is the size of replace(text, from, to).
func (m *measure) replaced(n node, args []node, sizes []size) (size, growth) {
	if len(args) != 3 {
		return size{}, growth{class: linear}
	}
	to, ok := constantText(args[2])
	if !ok {
		m.refuse(args[2], "the replacement of replace() must be a constant: it decides how long the text becomes", "write the text itself")
		return sizes[0], growth{class: linear}
	}
	from := 1
	if text, ok := constantText(args[1]); ok {
		from = max(len(text), 1)
	}
	factor := max(float64(len(to))/float64(from), 1)
	if factor == 1 {
		return sizes[0], growth{class: linear}
	}
	return sizes[0].times(factor), growth{class: growing}
}

var (
	placeholder = regexp.MustCompile(`\{[^{}]*\}|%[^%a-zA-Z]*[a-zA-Z]`)
	width       = regexp.MustCompile(`[0-9]+`)
)

// formatted is the size of format() and printf(): each placeholder gives one
// argument, or its width.
func (m *measure) formatted(n node, name string, args []node, sum size) (size, growth) {
	text, ok := "", false
	if len(args) > 0 {
		text, ok = constantText(args[0])
	}
	if !ok {
		m.refuse(n, "the format of "+name+"() must be a constant: it decides how long the text becomes", "write the format itself, or concat(a, b)")
		return sum, growth{class: linear}
	}
	out := size{fixed: float64(len(text))}
	for _, p := range placeholder.FindAllString(text, -1) {
		for _, digits := range width.FindAllString(p, -1) {
			if len(digits) > 3 {
				m.refuse(n, "the format of "+name+"() has the width "+digits, "write a width of at most 999")
			}
		}
		out = out.plus(sum.asText()).plus(size{fixed: 1000})
	}
	if strings.Contains(strings.ReplaceAll(placeholder.ReplaceAllString(text, ""), "{{", ""), "{") && name == "format" || name == "printf" && strings.Contains(text, "*") {
		m.refuse(n, "the format of "+name+"() takes a width from an argument", "write the width itself")
	}
	out.wide = false
	return out, growth{class: linear}
}

// cost adds the cost of a call that is more than linear.
func (m *measure) cost(n node, name string, g growth, args []node, sizes []size) {
	if g.steps == "" || len(args) < 2 {
		return
	}
	add := func(weight float64, sizes ...size) {
		m.costs = append(m.costs, steps{weight, sizes})
	}
	switch g.steps {
	case "product": // every byte with every other
		for _, s := range sizes[:2] {
			if s.levels > 0 || s.factor() > 2 {
				m.refuse(n, label(name)+" over a text that has grown costs too much", "give it columns or constants")
			}
		}
		add(1, sizes[0], sizes[1])
	case "search": // usually linear, at worst every byte with every other, in a tight loop
		add(0.01, sizes[0], sizes[1])
	case "pattern":
		m.patternCost(n, name, args, sizes, add)
	case "regexp":
		pattern, ok := constantText(args[1])
		if !ok {
			m.refuse(args[1], "the pattern of "+label(name)+" must be a constant", "write the pattern itself; to look for a text write contains(a, b)")
			return
		}
		repeats := 1.0
		for _, counts := range repetition.FindAllStringSubmatch(pattern, -1) {
			for _, c := range counts[1:] {
				if count, err := strconv.ParseFloat(c, 64); err == nil {
					repeats *= max(count, 1)
				}
			}
		}
		add(0.01*repeats*max(float64(len(pattern)), 1), sizes[0])
	}
}

var repetition = regexp.MustCompile(`\{([0-9]+)(?:,([0-9]*))?\}`)

// patternCost is the cost of LIKE, ILIKE and GLOB. DuckDB tries each wildcard that
// is not the last at every byte, by recursion, so that the cost is the length of the
// text to the power of their number. A LIKE whose constant pattern has % alone is
// matched in one pass.
func (m *measure) patternCost(n node, name string, args []node, sizes []size, add func(float64, ...size)) {
	pattern, ok := constantText(args[1])
	if !ok {
		m.refuse(n, "the pattern of "+patternName(name)+" must be a constant", "write the pattern itself; to look for a text write contains(a, b) or starts_with(a, b)")
		return
	}
	wildcard := "%"
	if name == "~~~" {
		wildcard = "*"
	}
	insensitive := strings.Contains(name, "*") && name != "~~~" || strings.Contains(name, "ilike")
	if insensitive {
		m.made = m.made.plus(sizes[0].times(2)) // texts in lower case
	}
	if (name == "~~" || name == "!~~") && !strings.Contains(pattern, "_") {
		return
	}
	count := 0
	for i, part := range strings.Split(strings.TrimRight(pattern, wildcard), wildcard) {
		if i > 0 && part != "" {
			count++
		}
	}
	each := make([]size, 0, count)
	for range count {
		each = append(each, sizes[0])
	}
	if count > 1 {
		add(float64(len(pattern)), each...)
	}
}

func patternName(function string) string {
	switch {
	case function == "~~~":
		return "GLOB"
	case strings.Contains(function, "*") || strings.Contains(function, "ilike"):
		return "ILIKE"
	}
	return "LIKE"
}

// constantText is the text of a constant.
func constantText(n node) (string, bool) {
	if n.text("class") != "CONSTANT" {
		return "", false
	}
	text, ok := n.node("value")["value"].(string)
	return text, ok && n.node("value").node("type").text("id") == "VARCHAR"
}

// constantInt is the value of a whole number, signed or not.
func constantInt(n node) (int, bool) {
	if n.text("class") == "FUNCTION" && n.text("function_name") == "-" && len(n.nodes("children")) == 1 {
		i, ok := constantInt(n.nodes("children")[0])
		return -i, ok
	}
	if n.text("class") != "CONSTANT" {
		return 0, false
	}
	i, err := strconv.Atoi(fmt.Sprint(n.node("value")["value"]))
	return i, err == nil
}

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
func (m *measure) tooLarge(n node, limit limits) *fault {
	if m.fault != nil {
		return m.fault
	}
	if m.made.at(usualText) > limit.bytes {
		reason := fmt.Sprintf("makes more than %.0f bytes of text a row from texts of %d bytes", limit.bytes, usualText)
		if m.made.fixed > limit.bytes {
			reason = fmt.Sprintf("makes more than %.0f bytes of text a row", limit.bytes)
		}
		return &fault{m.worst, reason, "write fewer or other functions, or compute the text before the event is sent"}
	}
	total := 0.0
	for _, s := range m.costs {
		total += s.at(usualWord)
	}
	if total > limit.steps {
		return &fault{n, "costs too much: the distance of texts, and a pattern with wildcards, take a product of their lengths", "write fewer of them or shorter patterns, or compare with =, contains() or starts_with()"}
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
