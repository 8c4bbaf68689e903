package view

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"duet/internal/base/duck"
	"duet/schemas/project"
)

// maxSQL is the maximum size of a view's text in bytes; DuckDB's parser recurses.
const maxSQL = 100_000

// maxNodes is the maximum size of the trees that replace aliases, in nodes. An
// alias that is used twice by the next one, and so on, doubles with each.
const maxNodes = 10_000

// compilation is the state of compiling one view.
type compilation struct {
	c      *Compiler
	def    *project.View
	src    source
	faults []project.Fault

	sel      node // the SELECT as parsed
	stream   *project.Stream
	relation string            // the name that the SELECT gives the stream
	expanded int               // nodes of the trees that replaced aliases
	columns  map[string]string // lower-case name -> declared name
	used     map[string]bool   // declared names of the columns that the view refers to

	items  []*item
	where  node   // resolved; nil if none
	having node   // resolved; nil if none
	keys   []node // resolved
	aggs   []*aggregate
	cells  []cell
	// magnitudes holds Cell.Magnitude by the quoted name of an inexact cell.
	magnitudes map[string]string
	sqs        []squares
}

// item is one expression of the SELECT list.
type item struct {
	raw        node
	expr       node   // resolved
	alias      string // as written; "" if none
	name       string // as DESCRIBE prints it
	typ        sqlType
	aggregated bool
	key        int // index in keys; -1 if the item is not a key itself
}

// Compile checks and compiles a view. It returns every fault it can find, in the
// order of the text. The view is nil if any of them is more than a warning.
func (c *Compiler) Compile(def *project.View) (*View, []project.Fault) {
	x := &compilation{c: c, def: def, src: source{def.File, def.SQL}, columns: map[string]string{}, used: map[string]bool{}, magnitudes: map[string]string{}}
	v, err := x.run()
	if err != nil {
		x.fail(-1, "cannot be compiled: "+err.Error(), "report this together with the view's text")
	}
	slices.SortStableFunc(x.faults, func(a, b project.Fault) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
	x.faults = slices.CompactFunc(x.faults, func(a, b project.Fault) bool { return a == b })
	if x.failed() {
		return nil, x.faults
	}
	return v, x.faults
}

func (x *compilation) fail(at int, reason, remedy string) {
	x.faults = append(x.faults, x.src.fault(at, reason, remedy))
}

func (x *compilation) warn(at int, reason, remedy string) {
	f := x.src.fault(at, reason, remedy)
	f.Warning = true
	x.faults = append(x.faults, f)
}

func (x *compilation) failed() bool { return project.Faults(x.faults).Fatal() }

// run compiles in steps, each over what the step before accepted. Nothing is
// bound before the whole tree has passed the allow-list, because binding
// FROM 'a.csv' opens the file.
func (x *compilation) run() (*View, error) {
	if err := x.parse(); err != nil || x.failed() {
		return nil, err
	}
	x.checkShape()
	if x.stream == nil {
		return nil, nil
	}
	x.resolveAll()
	if x.failed() {
		return nil, nil
	}
	x.checkGrowth()
	if x.failed() {
		return nil, nil
	}
	if err := x.bind(); err != nil || x.failed() {
		return nil, err
	}
	finals, having := x.finals()
	if len(x.keys)+len(x.aggs) == 0 {
		x.fail(-1, "has no aggregate and no key", "add an aggregate such as count(*)")
	}
	if x.failed() {
		return nil, nil
	}
	return x.assemble(finals, having)
}

func (x *compilation) parse() error {
	sql := x.def.SQL
	const whole = "write one SELECT ... FROM stream GROUP BY ALL"
	switch {
	case !utf8.ValidString(sql) || strings.ContainsRune(sql, 0):
		x.fail(0, "is not UTF-8 text", "save the file as UTF-8")
		return nil
	case len(sql) > maxSQL:
		x.fail(0, fmt.Sprintf("has %d bytes; a view has at most %d", len(sql), maxSQL), "split it into several views")
		return nil
	}
	statements, err := x.c.parse(sql)
	var serr *syntaxError
	switch {
	case errors.As(err, &serr) && serr.kind == "parser":
		at := -1
		if serr.at >= 0 {
			at = x.src.byteOf(serr.at)
		}
		x.fail(at, serr.message, x.syntaxRemedy(at))
	case errors.As(err, &serr):
		x.fail(0, "is not a SELECT", whole)
	case err != nil:
		return err
	case len(statements) == 0:
		x.fail(0, "is empty", whole)
	case len(statements) > 1:
		x.fail(x.secondStatement(), "has a second statement; a view is one SELECT", "put it into a file of its own")
	default:
		x.sel = statements[0].node("node")
		if len(statements[0].list("named_param_map")) > 0 {
			x.fail(x.src.keyword("$"), "has a parameter", "write the value itself")
		}
	}
	return nil
}

// syntaxRemedy returns the remedy for a syntax error, which often is a stream
// named like a SQL keyword.
func (x *compilation) syntaxRemedy(at int) string {
	if at < 0 || at >= len(x.src.text) {
		return "write one SELECT ... FROM stream GROUP BY ALL"
	}
	_, end := nextToken(x.src.text, at)
	word := x.src.text[at:max(at, end)]
	if _, ok := x.c.streams[strings.ToLower(word)]; ok {
		return "this word is a SQL keyword: write " + duck.Ident(word)
	}
	return "check the text before it; a name that is a SQL keyword needs double quotes"
}

func (x *compilation) secondStatement() int {
	semicolon := false
	for _, t := range tokens(x.src.text) {
		switch {
		case t.kind == commentToken:
		case t.kind == signToken && t.text == ";":
			semicolon = true
		case semicolon:
			return t.at
		}
	}
	return 0
}

// bind binds the user's text, checks the bound plan, and takes the names and
// types of the columns from DESCRIBE.
func (x *compilation) bind() error {
	plan, err := x.c.plan(x.def.SQL)
	var serr *syntaxError
	if errors.As(err, &serr) {
		x.fail(serr.at, serr.message, bindRemedy(serr))
		return nil
	}
	if err != nil {
		return err
	}
	x.checkPlan(plan)
	cols, err := x.c.describe(strings.TrimRight(x.def.SQL, "; \t\r\n"))
	if err != nil {
		// The text ends with a comment or several semicolons: describe the printed tree.
		texts, perr := x.c.printStatements([]node{printable(x.sel)})
		if perr != nil {
			return errors.Join(err, perr)
		}
		if cols, err = x.c.describe(texts[0]); err != nil {
			return err
		}
	}
	if len(cols) != len(x.items) {
		return fmt.Errorf("%d columns for %d expressions", len(cols), len(x.items))
	}
	seen := map[string]bool{}
	for i, it := range x.items {
		it.name, it.typ = cols[i].name, cols[i].typ
		if it.alias != "" {
			it.name = it.alias // DESCRIBE renames duplicates
		}
		lower := strings.ToLower(it.name)
		switch {
		case seen[lower]:
			x.fail(it.raw.firstAt(), "is the second column named "+it.name, "give it a name of its own: AS "+duck.Ident(it.name+"_2"))
		case strings.HasPrefix(lower, "_duet_"):
			x.fail(it.raw.firstAt(), "names a column "+it.name+"; the prefix _duet_ is reserved", "give it another name")
		case !answerable(it.typ):
			x.fail(it.raw.firstAt(), fmt.Sprintf("column %s is of type %s; a column of a view holds one value", it.name, it.typ.name), typeRemedy(it.typ))
		}
		seen[lower] = true
	}
	return nil
}

func typeRemedy(t sqlType) string {
	switch {
	case strings.HasPrefix(t.base, "TIMESTAMP"):
		return "cast it to TIMESTAMP"
	case strings.HasSuffix(t.base, "[]") || strings.HasPrefix(t.base, "STRUCT") || strings.HasPrefix(t.base, "MAP"):
		return "give each value a column of its own"
	}
	return "cast it to a number, a text or a time"
}

func bindRemedy(e *syntaxError) string {
	if strings.Contains(e.message, "must appear in the GROUP BY") {
		return "write GROUP BY ALL, or put the column into an aggregate such as min()"
	}
	if e.candidates != "" {
		return "available: " + strings.ReplaceAll(e.candidates, ",", ", ")
	}
	return "check the types of the stream's columns"
}

// finals rewrites items and HAVING in terms of keys (k0..) and aggregates (a0..).
func (x *compilation) finals() (columns []node, having node) {
	keyOf := map[string]int{}
	for i, k := range x.keys {
		keyOf[k.canonical()] = i
	}
	for _, it := range x.items {
		if k, ok := keyOf[it.expr.canonical()]; ok {
			it.key = k
		}
		columns = append(columns, x.overCells(it.expr, keyOf))
	}
	shown := map[int]bool{}
	for _, it := range x.items {
		if it.key >= 0 && shown[it.key] {
			it.key = -1 // a second column with the same value
		}
		shown[it.key] = true
	}
	for i, k := range x.keys {
		if !shown[i] {
			x.fail(k.firstAt(), "groups by an expression that no column shows", "add the same expression to the SELECT list, with a name: AS "+duck.Ident("key"+strconv.Itoa(i+1)))
		}
	}
	if x.having != nil {
		having = x.overCells(x.having, keyOf)
	}
	return columns, having
}

func (x *compilation) overCells(expr node, keyOf map[string]int) node {
	return expr.rewrite(func(n node) (node, bool) {
		if n.text("class") == "" {
			return nil, false
		}
		if k, ok := keyOf[n.canonical()]; ok {
			return x.keyRef(k), true
		}
		if isAggregate(n) {
			return columnRef(n["query_location"], "a"+strconv.Itoa(x.aggregate(n))), true
		}
		if n.text("class") == "COLUMN_REF" {
			names := n.strings("column_names")
			x.fail(n.at(), names[len(names)-1]+" stands outside an aggregate and is not grouped by", "put it into the GROUP BY, or into an aggregate such as min() or last(x ORDER BY "+x.eventTime()+")")
		}
		return nil, false
	})
}

// keyRef refers to a key in final SQL. Its type is known only after printing, so
// the final statement restores it when it redefines k0...
func (x *compilation) keyRef(k int) node { return columnRef(nil, "k"+strconv.Itoa(k)) }

func (x *compilation) eventTime() string {
	if x.stream.EventTime == "" {
		return "event_time"
	}
	return x.stream.EventTime
}

// aggregate registers an aggregate once and returns its index.
func (x *compilation) aggregate(n node) int {
	id := n.canonical()
	for i, a := range x.aggs {
		if a.id == id {
			return i
		}
	}
	x.aggs = append(x.aggs, &aggregate{id: id, node: n, name: n.text("function_name"), args: n.nodes("children"), filter: n.node("filter")})
	return len(x.aggs) - 1
}
