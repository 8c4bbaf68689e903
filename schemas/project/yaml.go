package project

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// maxDepth bounds the nesting of a YAML file: the parser recurses.
const maxDepth = 32

// document is one YAML file that is being read. Its methods add to faults and
// return what they could read, so that one pass finds every fault.
type document struct {
	file   string
	faults *Faults
}

// entry is one key of a mapping with its value.
type entry struct {
	key   string
	node  ast.Node // the key, for its position
	value ast.Node
}

// fault adds a fault at a node; nil means the whole file.
func (d *document) fault(at ast.Node, reason, remedy string) {
	f := Fault{File: d.file, Reason: reason, Remedy: remedy}
	f.Line, f.Column = place(at)
	*d.faults = append(*d.faults, f)
}

// place returns the line and the column of a node, from 1; 0 and 0 for nil.
func place(n ast.Node) (line, column int) {
	if n == nil {
		return 0, 0
	}
	switch v := n.(type) {
	case *ast.MappingNode: // its own token is the first colon
		if len(v.Values) > 0 && v.GetToken().Type == token.MappingValueType {
			return place(v.Values[0].Key)
		}
	case *ast.MappingValueNode:
		return place(v.Key)
	}
	t := n.GetToken()
	if t == nil || t.Position == nil {
		return 0, 0
	}
	return t.Position.Line, t.Position.Column
}

// parse parses a YAML file and returns its top node. It returns nil and true for an
// empty file, and false after a fault.
func (d *document) parse(text string) (top ast.Node, ok bool) {
	text = strings.TrimPrefix(strings.ReplaceAll(text, "\r\n", "\n"), "\ufeff")
	if line := tooDeep(text); line > 0 {
		*d.faults = append(*d.faults, Fault{File: d.file, Line: line, Column: 1,
			Reason: fmt.Sprintf("more than %d levels of nesting", maxDepth), Remedy: "write it flatter"})
		return nil, false
	}
	defer func() { // a panic of the parser must not end the process
		if r := recover(); r != nil {
			d.fault(nil, fmt.Sprintf("is not YAML (%v)", r), "check quotes, brackets and indentation")
			top, ok = nil, false
		}
	}()
	file, err := parser.ParseBytes([]byte(text), 0, parser.AllowDuplicateMapKey())
	if err != nil {
		d.syntax(err)
		return nil, false
	}
	for i, doc := range file.Docs {
		if doc.Body == nil {
			continue
		}
		if i > 0 && top != nil {
			d.fault(doc.Body, "a second YAML document begins", "keep one document a file: remove the ---")
			return nil, false
		}
		top = doc.Body
	}
	return top, true
}

// syntax adds the parser's error as a fault.
func (d *document) syntax(err error) {
	f := Fault{File: d.file, Reason: "is not YAML: " + err.Error(), Remedy: "check quotes, brackets and indentation"}
	var at interface {
		GetToken() *token.Token
		GetMessage() string
	}
	if errors.As(err, &at) {
		f.Reason = "is not YAML: " + at.GetMessage()
		if t := at.GetToken(); t != nil && t.Position != nil {
			f.Line, f.Column = t.Position.Line, t.Position.Column
		}
	}
	if strings.Contains(f.Reason, "tab") {
		f.Remedy = "indent with spaces"
	} else if strings.Contains(f.Reason, "mapping value is not allowed") {
		f.Remedy = "quote a text that contains a colon, and check the indentation"
	}
	*d.faults = append(*d.faults, f)
}

// tooDeep returns the first line that nests deeper than maxDepth, 0 if there is
// none. It overestimates: brackets in texts count too.
func tooDeep(text string) int {
	line, depth, lead := 1, 0, 0
	leading := true
	for i := 0; i < len(text); i++ {
		switch c := text[i]; c {
		case '\n':
			line, lead, leading = line+1, 0, true
			continue
		case '[', '{':
			depth++
		case ']', '}':
			depth = max(0, depth-1)
		case '-', '?', '&', '!', ':':
			if leading {
				lead++
			}
		case ' ', '\t':
		default:
			leading = false
		}
		if depth > maxDepth || lead > maxDepth {
			return line
		}
	}
	return 0
}

// mapping returns the entries of a mapping in their order. If keys is not nil,
// every other key is a fault. what names the mapping in faults, such as "csv".
func (d *document) mapping(n ast.Node, what string, keys []string) []entry {
	var values []*ast.MappingValueNode
	switch v := n.(type) {
	case nil, *ast.NullNode: // all of its keys are optional or commented out
		return nil
	case *ast.MappingNode:
		values = v.Values
	case *ast.MappingValueNode:
		values = []*ast.MappingValueNode{v}
	default:
		example := "key"
		if len(keys) > 0 {
			example = keys[0]
		}
		d.fault(n, what+" is "+describe(n)+", not a mapping", "write "+example+": value")
		return nil
	}
	seen := map[string]bool{}
	var entries []entry
	for _, v := range values {
		key := v.Key.GetToken().Value
		if _, merge := v.Key.(*ast.MergeKeyNode); merge {
			d.fault(v.Key, "merge keys are not supported", "write the keys out")
			continue
		}
		if seen[key] {
			d.fault(v.Key, what+" has "+quote(key)+" twice", "remove one")
			continue
		}
		seen[key] = true
		if keys != nil && !contains(keys, key) {
			d.unknownKey(v.Key, what, key, keys)
			continue
		}
		entries = append(entries, entry{key, v.Key, v.Value})
	}
	return entries
}

func (d *document) unknownKey(at ast.Node, what, key string, keys []string) {
	if where := elsewhere[key]; where != "" && !strings.HasPrefix(where, what) {
		d.fault(at, "unknown key "+quote(key)+" in "+what, "it belongs under "+where)
		return
	}
	if near := Nearest(key, keys); near != "" {
		d.fault(at, "unknown key "+quote(key)+" in "+what, "did you mean "+near+"?")
		return
	}
	d.fault(at, "unknown key "+quote(key)+" in "+what, "the keys are "+strings.Join(keys, ", "))
}

// elsewhere maps keys that are often written at the wrong level to their place.
var elsewhere = map[string]string{
	"incremental": "batch", "full": "batch", "keep": "batch", "last": "batch.keep", "daily": "batch.keep", "monthly": "batch.keep",
	"memory": "limits", "log": "limits", "batch_threads": "limits", "batch_memory": "limits",
	"zone": "event_time", "day_starts": "event_time", "delimiter": "csv", "decimal": "csv", "encoding": "csv", "nulls": "csv",
}

func contains(list []string, s string) bool {
	for _, v := range list {
		if v == s {
			return true
		}
	}
	return false
}

// describe returns what a node is, in words.
func describe(n ast.Node) string {
	switch n.(type) {
	case nil, *ast.NullNode:
		return "empty"
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.AnchorNode, *ast.AliasNode:
		return "an anchor or alias"
	case *ast.TagNode:
		return "a tagged value"
	case *ast.BoolNode:
		return n.GetToken().Value
	}
	if t, ok := scalar(n); ok {
		return quote(t)
	}
	return "something else"
}

// scalar returns the text of a value as it was written, and false for an empty
// value or one that is no scalar.
func scalar(n ast.Node) (string, bool) {
	switch v := n.(type) {
	case *ast.StringNode:
		return v.Value, true
	case *ast.LiteralNode:
		return v.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return n.GetToken().Value, true
	case *ast.NullNode:
		if n.GetToken().Type == token.ImplicitNullType {
			return "", false
		}
		return n.GetToken().Value, true
	}
	return "", false
}

// text reads a scalar.
func (d *document) text(e entry, what, remedy string) (string, bool) {
	s, ok := scalar(e.value)
	if !ok {
		d.faultAtValue(e, what+" is "+describe(e.value), remedy)
	}
	return s, ok
}

// faultAtValue adds a fault at the value, or at the key if there is no value.
func (d *document) faultAtValue(e entry, reason, remedy string) {
	if n, null := e.value.(*ast.NullNode); e.value == nil || null && n.GetToken().Type == token.ImplicitNullType {
		d.fault(e.node, reason, remedy)
		return
	}
	d.fault(e.value, reason, remedy)
}

// integer reads an integer between low and high.
func (d *document) integer(e entry, what string, low, high int) (int, bool) {
	remedy := fmt.Sprintf("write a whole number from %s to %s", thousands(low), thousands(high))
	s, ok := scalar(e.value)
	if !ok {
		d.faultAtValue(e, what+" is "+describe(e.value), remedy)
		return 0, false
	}
	n, err := strconv.Atoi(strings.ReplaceAll(s, "_", ""))
	if err != nil || n < low || n > high {
		d.faultAtValue(e, what+" is "+quote(s), remedy)
		return 0, false
	}
	return n, true
}

// texts reads a list of scalars; one scalar is a list of one.
func (d *document) texts(e entry, what, remedy string) (list []string, nodes []ast.Node, ok bool) {
	seq, isList := e.value.(*ast.SequenceNode)
	if !isList {
		s, ok := d.text(e, what, remedy)
		return []string{s}, []ast.Node{e.value}, ok
	}
	ok = true
	for _, n := range seq.Values {
		s, isText := scalar(n)
		if !isText {
			d.fault(n, what+" holds "+describe(n), remedy)
			ok = false
			continue
		}
		list, nodes = append(list, s), append(nodes, n)
	}
	return list, nodes, ok
}

// thousands formats 1000000 as 1,000,000.
func thousands(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
