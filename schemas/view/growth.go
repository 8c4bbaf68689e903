package view

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// DuckDB's memory limit does not cover texts inside an expression, and it checks for
// an interrupt only between vectors of 2,048 rows. Nested calls of a function such as
// bin() therefore exhaust the machine's memory within seconds, and functions such as
// levenshtein() occupy a reader for hours, whatever the limits and deadlines. So the
// size and the cost of every expression are bounded before it is bound or executed.
//
// The bound of a text is linear in the texts that the expression reads:
//
//	bytes <= Σ factor(column) · bytes of the column + fixed
//
// It follows from the [growth] of each function in the allow-list and from constant
// arguments; an argument that determines the size of a result must be a constant. The
// sum of the bounds of all results is the number of bytes that the expression makes
// for one row. An expression that makes too many whatever the data is refused. If
// that depends on the data, the expression becomes
//
//	CASE WHEN <bytes> > limit OR <steps> > limit THEN error(...) ELSE <expression> END
//
// so that a text that is too long is an evaluation error, which fails the query or
// suspends the view, and does not exhaust memory.

// Limits of an expression, for one row.
const (
	// conditionBytes is the maximum size of all texts that a client's condition
	// makes. A vector of 2,048 rows needs at most 128 MiB.
	conditionBytes = 64 << 10
	// viewBytes is the maximum size of the texts that one expression of a view makes
	// if it grows. One that does not makes at most linearBytes bytes for each byte of
	// an event's texts, and is bounded by the size of the events.
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

// class is how the size of a function's result depends on its arguments.
type class uint8

const (
	fixed    class = iota + 1 // a value of fixed size, or a text of at most fixedBytes
	linear                    // at most factor times its arguments, for a small factor
	growing                   // at most factor times its arguments, for a large factor
	computed                  // by computedSize, from constant arguments
)

var classes = map[string]class{"fixed": fixed, "linear": linear, "growing": growing, "computed": computed}

// growth bounds the result of a function and its cost, as the allow-list has it.
type growth struct {
	class  class
	factor float64 // of linear and growing
	steps  string  // how the cost depends on the arguments, product, search, pattern or regexp; "" if linear
}

// parseGrowth parses what follows a function's name in the allow-list.
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

// times returns the size of factor such values.
func (s size) times(factor float64) size {
	out := size{fixed: s.fixed * factor, wide: s.wide, levels: s.levels}
	for c, f := range s.factors {
		out.set(c, f*factor)
	}
	return out
}

// plus returns the size of both values together.
func (s size) plus(other size) size {
	out := s.times(1)
	out.fixed += other.fixed
	out.wide, out.levels = s.wide || other.wide, max(s.levels, other.levels)
	for c, f := range other.factors {
		out.set(c, out.factors[c]+f)
	}
	return out
}

// or returns the size of either value.
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

// asText returns the size of the value as VARCHAR. A byte of a BLOB becomes \x00, and
// the elements of a list are quoted.
func (s size) asText() size {
	if !s.wide {
		return s
	}
	out := s.times(4)
	out.wide = false
	return out
}

// at returns the bound for texts of one length.
func (s size) at(length float64) float64 {
	total := s.fixed
	for _, f := range s.factors {
		total += f * length
	}
	return total
}

// factor returns the greatest factor of a column.
func (s size) factor() float64 {
	most := 0.0
	for _, f := range s.factors {
		most = max(most, f)
	}
	return most
}

// sql returns the bound as SQL.
func (s size) sql() string {
	terms := []string{number(s.fixed)}
	for _, c := range slices.Sorted(maps.Keys(s.factors)) {
		terms = append(terms, number(s.factors[c])+" * coalesce("+c+", 0)")
	}
	return "(" + strings.Join(terms, " + ") + ")"
}

// number returns a literal that is a DOUBLE, not a DECIMAL.
func number(f float64) string { return "CAST('" + ftoa(f) + "' AS DOUBLE)" }

// refusal is why an expression is refused.
type refusal struct {
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

	worstBytes float64  // of worst, over texts of usualText bytes
	grown      string   // a function that grows, "" if none
	fault      *refusal // the first
}

func (m *measure) refuse(n node, reason, remedy string) {
	if m.fault == nil {
		m.fault = &refusal{n, reason, remedy}
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

// computedSize returns the size of a result that constant arguments determine.
func (m *measure) computedSize(n node, name string, args []node, sizes []size, sum size) (size, growth) {
	limited := growth{class: linear}
	constant := func(i int, what string) (int, bool) {
		if i >= len(args) {
			return 0, true
		}
		c, ok := constantInt(args[i])
		if !ok {
			m.refuse(n, "the "+what+" of "+name+"() must be a constant: it determines how long the text becomes", "write a number")
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
			m.refuse(args[2], "the replacement of regexp_replace() must be a constant: it determines how long the text becomes", "write the text itself")
		}
	case "format", "printf":
		return m.formatted(n, name, args, sum)
	}
	return sum, limited
}

// replaced returns the size of replace(text, from, to).
func (m *measure) replaced(n node, args []node, sizes []size) (size, growth) {
	if len(args) != 3 {
		return size{}, growth{class: linear}
	}
	to, ok := constantText(args[2])
	if !ok {
		m.refuse(args[2], "the replacement of replace() must be a constant: it determines how long the text becomes", "write the text itself")
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

// formatted returns the size of format() and printf(): each placeholder becomes one
// argument, padded to its width.
func (m *measure) formatted(n node, name string, args []node, sum size) (size, growth) {
	text, ok := "", false
	if len(args) > 0 {
		text, ok = constantText(args[0])
	}
	if !ok {
		m.refuse(n, "the format of "+name+"() must be a constant: it determines how long the text becomes", "write the format itself, or concat(a, b)")
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

// constantText returns the text of a VARCHAR constant.
func constantText(n node) (string, bool) {
	if n.text("class") != "CONSTANT" {
		return "", false
	}
	text, ok := n.node("value")["value"].(string)
	return text, ok && n.node("value").node("type").text("id") == "VARCHAR"
}

// constantInt returns the value of an integer constant, with or without a sign.
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
