package view

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"unicode/utf8"

	"duet/internal/base/duck"
	"duet/schemas/project"
)

// maxCondition is the maximum size of a condition in bytes.
const maxCondition = 10_000

// conditionColumn is a column that a condition may refer to, or may not.
type conditionColumn struct {
	name, typ string
	tree      node   // the expression that it stands for
	refused   string // why it may not be used here; "" if it may
	remedy    string
}

// condition checks a client's condition and returns it as SQL over the expressions
// that its columns stand for. The text is parsed as SELECT <text>, must be one
// expression and nothing else, and may hold allow-listed scalar functions over
// columns. It is printed from its tree: the text itself never becomes part of a
// statement that is executed. A condition that is refused is a *ConditionError.
func (c *Compiler) condition(option, text string, columns []conditionColumn, types map[string]string) (string, error) {
	p := &conditionParser{c: c, option: option, text: text, columns: columns}
	tree, err := p.parse()
	if err != nil {
		return "", err
	}
	resolved := p.resolve(tree)
	if p.err != nil {
		return "", p.err
	}
	parts := conjuncts(resolved)
	measures, limit := measureConjuncts(parts, types)
	for i, m := range measures {
		if f := m.tooLarge(parts[i], limit); f != nil {
			p.refuse(f.at, f.reason, f.remedy)
			return "", p.err
		}
	}
	if err := p.bind(tree); err != nil {
		return "", err
	}
	texts, err := c.print(append([]node{resolved}, parts...))
	if errors.As(err, new(*reprintError)) {
		return "", p.fail(-1, "DuckDB prints this condition as another one", "write it in another way")
	}
	if err != nil {
		return "", err
	}
	guards := false
	for i, m := range measures {
		guarded := m.guarded(texts[1+i], option, "BOOLEAN", limit)
		guards = guards || guarded != texts[1+i]
		texts[1+i] = "(" + guarded + ")"
	}
	if !guards {
		return texts[0], nil
	}
	return strings.Join(texts[1:], " AND "), nil
}

// conjuncts returns the operands of the ANDs at the top of a condition.
func conjuncts(n node) []node {
	if n.text("type") != "CONJUNCTION_AND" {
		return []node{n}
	}
	var out []node
	for _, c := range n.nodes("children") {
		out = append(out, conjuncts(c)...)
	}
	return out
}

// measureConjuncts bounds each part of a condition. The parts that make texts, or cost
// more than linearly, share the limits of a condition; limit is the share of each.
func measureConjuncts(parts []node, types map[string]string) (measures []*measure, limit limits) {
	sharing := 0.0
	for _, part := range parts {
		m := &measure{length: lengthOf(types, ""), single: true}
		m.expression(part)
		if len(m.made.factors)+len(m.costs) > 0 {
			sharing++
		}
		measures = append(measures, m)
	}
	sharing = max(sharing, 1)
	return measures, limits{conditionBytes / sharing, maxSteps / sharing}
}

// conditionCache keeps compiled conditions, so that a dashboard's queries are not
// parsed each time. It is emptied when it is full.
type conditionCache struct {
	mu    sync.Mutex
	texts map[string]string // guarded by mu
}

const maxCached = 256

// cached returns the condition as SQL, from the cache if it was compiled before
// with the same option and scope. scope identifies the set of columns.
func (v *View) cached(option, scope, text string, columns func() ([]conditionColumn, map[string]string)) (string, error) {
	id := option + "\x00" + scope + "\x00" + text
	v.conditions.mu.Lock()
	sql, ok := v.conditions.texts[id]
	v.conditions.mu.Unlock()
	if ok {
		return sql, nil
	}
	columnList, types := columns()
	sql, err := v.compiler.condition(option, text, columnList, types)
	if err != nil {
		return "", err
	}
	v.conditions.mu.Lock()
	defer v.conditions.mu.Unlock()
	if len(v.conditions.texts) >= maxCached || v.conditions.texts == nil {
		v.conditions.texts = map[string]string{}
	}
	v.conditions.texts[id] = sql
	return sql, nil
}

type conditionParser struct {
	c       *Compiler
	option  string
	text    string
	columns []conditionColumn
	err     error // the first fault

	expanded int // nodes of the trees that replaced columns
}

// head precedes the text when it is parsed.
const head = "SELECT "

// fail returns the error for a byte offset in the text; -1 means the whole text.
func (p *conditionParser) fail(at int, reason, remedy string) error {
	column := 1
	if at > 0 && at <= len(p.text) {
		column = utf8.RuneCountInString(p.text[:at]) + 1
	}
	return &ConditionError{Option: p.option, Column: column, Reason: reason, Remedy: remedy}
}

func (p *conditionParser) refuse(n node, reason, remedy string) node {
	if p.err == nil {
		at := n.firstAt()
		if at >= 0 {
			at -= len(head)
		}
		p.err = p.fail(at, reason, remedy)
	}
	return n
}

const oneCondition = "write one condition, such as country = 'France' AND hour >= TIMESTAMP '2024-01-01'"

func (p *conditionParser) parse() (node, error) {
	switch {
	case len(p.text) > maxCondition:
		return nil, p.fail(-1, fmt.Sprintf("has %d bytes; a condition has at most %d", len(p.text), maxCondition), "shorten it")
	case !utf8.ValidString(p.text) || strings.ContainsRune(p.text, 0):
		return nil, p.fail(-1, "is not UTF-8 text", "send it as UTF-8")
	case strings.TrimSpace(p.text) == "":
		return nil, p.fail(-1, "is empty", "leave it out, or "+oneCondition)
	}
	for _, t := range tokens(p.text) {
		if t.kind == commentToken {
			return nil, p.fail(t.at, "contains a comment", "remove it")
		}
		if t.kind == signToken && t.text == ";" {
			return nil, p.fail(t.at, "contains a semicolon", oneCondition)
		}
	}
	statements, err := p.c.parse(head + p.text)
	var serr *syntaxError
	if errors.As(err, &serr) {
		at := -1
		if serr.at >= 0 {
			at = source{text: head + p.text}.byteOf(serr.at) - len(head)
		}
		return nil, p.fail(at, serr.message, oneCondition)
	}
	if err != nil {
		return nil, err
	}
	if len(statements) != 1 || len(statements[0].list("named_param_map")) > 0 {
		return nil, p.fail(-1, "is not one condition", oneCondition)
	}
	sel := statements[0].node("node")
	items := sel.nodes("select_list")
	if len(items) != 1 {
		return nil, p.fail(-1, "is not one condition", oneCondition)
	}
	// Without its expression, the rest must be an empty SELECT.
	rest := sel.clone()
	rest["select_list"] = []any{}
	if rest.canonical() != selectOf().canonical() {
		return nil, p.fail(-1, "is more than a condition", oneCondition)
	}
	if items[0].text("alias") != "" {
		return nil, p.fail(-1, "gives the condition a name", "remove AS and the name")
	}
	return items[0], nil
}

func (p *conditionParser) resolve(n node) node {
	if !allowed.nodes[n.kind()] {
		reason, remedy := refusedNode(n)
		return p.refuse(n, reason, remedy)
	}
	switch n.text("class") {
	case "COLUMN_REF":
		return p.column(n)
	case "CONSTANT":
		if reason, remedy := checkConstant(n); reason != "" {
			return p.refuse(n, reason, remedy)
		}
		return n.clone()
	case "CAST":
		if reason, remedy := checkCast(n); reason != "" {
			return p.refuse(n, reason, remedy)
		}
	case "FUNCTION":
		if !p.function(n) {
			return n
		}
	}
	return mapChildren(n, p.resolve)
}

func (p *conditionParser) function(n node) bool {
	name := strings.ToLower(n.text("function_name"))
	if _, ok := allowed.aggregates[name]; ok {
		p.refuse(n, strings.TrimSuffix(name, "_star")+"() is an aggregate; a condition is over the columns of the view", "use the column that holds it; the columns are "+p.names())
		return false
	}
	if schema := n.text("schema"); schema != "" && schema != "main" || n.text("catalog") != "" {
		p.refuse(n, name+" is qualified with "+schema, "write the function's name alone")
		return false
	}
	if _, ok := allowed.functions[name]; !ok {
		reason, remedy := p.c.refusedFunction(name)
		p.refuse(n, reason, remedy)
		return false
	}
	if reason, remedy := plainCall(n, name); reason != "" {
		p.refuse(n, reason, remedy)
		return false
	}
	return true
}

func (p *conditionParser) column(n node) node {
	names := n.strings("column_names")
	if len(names) != 1 {
		return p.refuse(n, strings.Join(names, ".")+" is not a column", "write the column's name alone; the columns are "+p.names())
	}
	for _, col := range p.columns {
		if !strings.EqualFold(col.name, names[0]) {
			continue
		}
		if col.refused != "" {
			return p.refuse(n, col.refused, col.remedy)
		}
		if p.expanded += col.tree.nodeCount(); p.expanded > maxNodes {
			return p.refuse(n, "the condition uses "+col.name+" too often: it expands to more than 10,000 terms", "use the column once")
		}
		return col.tree.clone()
	}
	if d, ok := allowed.denied[strings.ToLower(names[0])]; ok {
		return p.refuse(n, names[0]+" "+d.reason, "write the value itself")
	}
	var all []string
	for _, col := range p.columns {
		all = append(all, col.name)
	}
	remedy := "the columns are " + p.names() + "; a text goes in single quotes"
	if near := project.Nearest(names[0], all); near != "" {
		remedy = "did you mean " + near + "?"
	}
	return p.refuse(n, "there is no column "+names[0], remedy)
}

func (p *conditionParser) names() string {
	var names []string
	for _, col := range p.columns {
		if col.refused == "" {
			names = append(names, col.name)
		}
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// bind checks the types of the condition over an empty relation with its columns.
func (p *conditionParser) bind(tree node) error {
	var cols []string
	for _, col := range p.columns {
		if col.refused == "" {
			cols = append(cols, "CAST(NULL AS "+col.typ+") AS "+duck.Ident(col.name))
		}
	}
	if len(cols) == 0 {
		cols = []string{"1 AS _duet_none"}
	}
	plan, err := p.c.plan(head + p.text + "\nFROM (SELECT " + strings.Join(cols, ", ") + ") AS _duet_columns")
	var serr *syntaxError
	if errors.As(err, &serr) {
		return p.fail(max(serr.at-len(head), 0), serr.message, "check the types of the columns")
	}
	if err != nil {
		return err
	}
	if name := unknownInPlan(plan); name != "" {
		return p.fail(-1, name+" is not allowed here", "write the condition in another way")
	}
	exprs := plan.nodes("expressions")
	if len(exprs) != 1 {
		return p.fail(-1, "is not one condition", oneCondition)
	}
	if t := boundType(exprs[0]); t != "BOOLEAN" && t != "NULL" {
		return p.fail(tree.firstAt()-len(head), "is of type "+t+", not a condition", "compare it: "+p.example(t))
	}
	return nil
}

func (p *conditionParser) example(typ string) string {
	switch typ {
	case "VARCHAR":
		return "... = 'text'"
	case "TIMESTAMP", "DATE":
		return "... >= " + typ + " '2024-01-01'"
	}
	return "... > 0"
}

// boundType returns the type id of an expression in a bound plan.
func boundType(n node) string {
	if t := n.node("return_type"); t != nil {
		return t.text("id")
	}
	if n.text("expression_class") == "BOUND_COMPARISON" || n.text("expression_class") == "BOUND_CONJUNCTION" || n.text("expression_class") == "BOUND_BETWEEN" {
		return "BOOLEAN"
	}
	return n.node("value").node("type").text("id")
}
