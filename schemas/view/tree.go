package view

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// node is a JSON object of DuckDB's syntax tree (json_serialize_sql) or bound plan
// (json_serialize_plan), with numbers as json.Number.
type node map[string]any

// nowhere is the query_location of a node that has none: 2^64-1.
const nowhere = json.Number("18446744073709551615")

func decodeTree(text string) (node, error) {
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var m map[string]any
	if err := d.Decode(&m); err != nil {
		return nil, fmt.Errorf("syntax tree: %w", err)
	}
	return asNode(m), nil
}

// asNode converts nested maps to nodes, in place.
func asNode(m map[string]any) node {
	for k, v := range m {
		m[k] = asNodes(v)
	}
	return node(m)
}

func asNodes(v any) any {
	switch v := v.(type) {
	case map[string]any:
		return asNode(v)
	case []any:
		for i := range v {
			v[i] = asNodes(v[i])
		}
	}
	return v
}

func (n node) encode() string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(n); err != nil {
		// A tree holds only maps, slices, strings, numbers, booleans and nil.
		panic("view: encode syntax tree: " + err.Error())
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func (n node) text(key string) string { s, _ := n[key].(string); return s }
func (n node) flag(key string) bool   { b, _ := n[key].(bool); return b }
func (n node) node(key string) node   { c, _ := n[key].(node); return c }

func (n node) list(key string) []any { l, _ := n[key].([]any); return l }

// nodes returns the objects in the list under key.
func (n node) nodes(key string) []node {
	l := n.list(key)
	nodes := make([]node, 0, len(l))
	for _, v := range l {
		if c, ok := v.(node); ok {
			nodes = append(nodes, c)
		}
	}
	return nodes
}

func (n node) strings(key string) []string {
	l := n.list(key)
	ss := make([]string, 0, len(l))
	for _, v := range l {
		if s, ok := v.(string); ok {
			ss = append(ss, s)
		}
	}
	return ss
}

// kind returns CLASS/TYPE, as in the allow-list.
func (n node) kind() string { return n.text("class") + "/" + n.text("type") }

// at returns the node's byte offset in the text it was parsed from, -1 if it has
// none.
func (n node) at() int { return location(n["query_location"]) }

func location(v any) int {
	num, ok := v.(json.Number)
	if !ok {
		return -1
	}
	u, err := strconv.ParseUint(num.String(), 10, 64)
	if err != nil || u > math.MaxInt32 {
		return -1
	}
	return int(u)
}

// firstAt returns the node's offset or, if it has none, the least one below it.
func (n node) firstAt() int {
	if at := n.at(); at >= 0 {
		return at
	}
	least := -1
	n.each(func(c node) {
		if at := c.firstAt(); at >= 0 && (least < 0 || at < least) {
			least = at
		}
	})
	return least
}

// each calls f for every child object of n.
func (n node) each(f func(node)) {
	var in func(v any)
	in = func(v any) {
		switch v := v.(type) {
		case node:
			f(v)
		case []any:
			for _, e := range v {
				in(e)
			}
		}
	}
	for _, v := range n {
		in(v)
	}
}

// walk calls f for n and all objects below it, until f returns false for a branch.
func (n node) walk(f func(node) bool) {
	if f(n) {
		n.each(func(c node) { c.walk(f) })
	}
}

// nodeCount returns the number of objects in the tree.
func (n node) nodeCount() int {
	count := 0
	n.walk(func(node) bool { count++; return true })
	return count
}

// rewrite returns a copy of n in which f has replaced objects, from the top down.
// An object that f returns with true is used as it is.
func (n node) rewrite(f func(node) (node, bool)) node {
	if c, ok := f(n); ok {
		return c
	}
	c := make(node, len(n))
	for k, v := range n {
		c[k] = rewriteValue(v, f)
	}
	return c
}

func rewriteValue(v any, f func(node) (node, bool)) any {
	switch v := v.(type) {
	case node:
		return v.rewrite(f)
	case []any:
		l := make([]any, len(v))
		for i := range v {
			l[i] = rewriteValue(v[i], f)
		}
		return l
	}
	return v
}

func (n node) clone() node { return n.rewrite(func(node) (node, bool) { return nil, false }) }

// canonical returns a text that is equal for equal trees, whatever their
// locations. The alias of n itself is left out; those below name struct fields.
func (n node) canonical() string {
	c := n.rewrite(func(m node) (node, bool) { return nil, false })
	c.walk(func(m node) bool { delete(m, "query_location"); return true })
	c["alias"] = ""
	return c.encode()
}

// flat returns a copy in which nested ANDs are joined into one, and nested ORs.
// DuckDB's parser joins only some of them.
func (n node) flat() node {
	return n.rewrite(func(m node) (node, bool) {
		if m.text("class") != "CONJUNCTION" {
			return nil, false
		}
		c := make(node, len(m))
		for k, v := range m {
			c[k] = v
		}
		var children []any
		for _, child := range m.nodes("children") {
			child = child.flat()
			if child.text("type") == m.text("type") {
				children = append(children, child.list("children")...)
			} else {
				children = append(children, child)
			}
		}
		c["children"] = children
		return c, true
	})
}

// columnRef returns a reference by its path, such as table and column.
func columnRef(at any, path ...string) node {
	names := make([]any, len(path))
	for i, p := range path {
		names[i] = p
	}
	if at == nil {
		at = nowhere
	}
	return node{"class": "COLUMN_REF", "type": "COLUMN_REF", "alias": "", "query_location": at, "column_names": names}
}

func castTo(child node, typeID string, at any) node {
	return node{"class": "CAST", "type": "OPERATOR_CAST", "alias": "", "query_location": at, "child": child,
		"cast_type": node{"id": typeID, "type_info": nil}, "try_cast": false}
}

func stringConstant(s string, at any) node {
	return node{"class": "CONSTANT", "type": "VALUE_CONSTANT", "alias": "", "query_location": at,
		"value": node{"type": node{"id": "VARCHAR", "type_info": nil}, "is_null": false, "value": s}}
}

func and(nodes ...node) node {
	var l []any
	for _, n := range nodes {
		if n != nil {
			l = append(l, n)
		}
	}
	switch len(l) {
	case 0:
		return nil
	case 1:
		return l[0].(node)
	}
	return node{"class": "CONJUNCTION", "type": "CONJUNCTION_AND", "alias": "", "query_location": nowhere, "children": l}
}

func isNotNull(n node) node {
	return node{"class": "OPERATOR", "type": "OPERATOR_IS_NOT_NULL", "alias": "", "query_location": nowhere, "children": []any{n}}
}

// selectOf returns the tree of SELECT items, without FROM.
func selectOf(items ...node) node {
	l := make([]any, len(items))
	for i, n := range items {
		l[i] = n
	}
	return node{"type": "SELECT_NODE", "modifiers": []any{}, "cte_map": node{"map": []any{}}, "select_list": l,
		"from_table":   node{"type": "EMPTY", "alias": "", "sample": nil, "query_location": nowhere},
		"where_clause": nil, "group_expressions": []any{}, "group_sets": []any{}, "aggregate_handling": "STANDARD_HANDLING",
		"having": nil, "sample": nil, "qualify": nil}
}

// statementOf wraps a SELECT for json_deserialize_sql.
func statementOf(sel node) node {
	return node{"error": false, "statements": []any{node{"node": sel, "named_param_map": []any{}}}}
}

// printable replaces the constants that DuckDB prints as something else: a DOUBLE
// such as 1e3, which it prints as the DECIMAL 1000.0, and a BOOLEAN.
func printable(n node) node {
	return n.rewrite(func(m node) (node, bool) {
		if m.text("class") != "CONSTANT" {
			return nil, false
		}
		value := m.node("value")
		var id, text string
		switch v := value["value"].(type) {
		case json.Number:
			id, text = value.node("type").text("id"), v.String()
			if id != "DOUBLE" && id != "FLOAT" {
				return nil, false
			}
		case bool:
			id, text = "BOOLEAN", strconv.FormatBool(v)[:1]
		default:
			return nil, false
		}
		c := castTo(stringConstant(text, m["query_location"]), id, m["query_location"])
		c["alias"] = m.text("alias")
		return c, true
	})
}
