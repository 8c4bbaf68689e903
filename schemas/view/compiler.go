package view

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"duet/internal/base/duck"
	"duet/schemas"
	"duet/schemas/project"
)

// Compiler compiles views and conditions. It owns one locked in-memory DuckDB
// that holds the project's streams as empty tables, so that binding a text can
// neither read a file nor load an extension nor see an event. It is safe for
// concurrent use.
type Compiler struct {
	db      *duck.DB
	streams map[string]*project.Stream // by lower-case name
	known   map[string]bool            // functions in DuckDB's catalog, for messages
}

// NewCompiler opens a compiler for the streams of one project. The caller must
// close it.
func NewCompiler(streams []*project.Stream) (*Compiler, error) {
	db, err := duck.Open(duck.Config{MemoryLimit: "512MB", Locked: true})
	if err != nil {
		return nil, fmt.Errorf("view compiler: %w", err)
	}
	c := &Compiler{db: db, streams: map[string]*project.Stream{}, known: map[string]bool{}}
	for _, s := range streams {
		if _, err := db.Exec("CREATE TABLE " + duck.Ident(s.Name) + " (" + tableColumns(s) + ")"); err != nil {
			return nil, errors.Join(fmt.Errorf("view compiler: stream %s: %w", s.Name, err), db.Close())
		}
		c.streams[strings.ToLower(s.Name)] = s
	}
	if err := c.readCatalog(); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return c, nil
}

// Close closes the compiler and its DuckDB. Compiled views can still print
// partial and merge SQL, but not final SQL with a condition.
func (c *Compiler) Close() error { return c.db.Close() }

func (c *Compiler) readCatalog() error {
	rows, err := c.db.Query("SELECT DISTINCT function_name FROM duckdb_functions()")
	if err != nil {
		return fmt.Errorf("view compiler: functions: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return fmt.Errorf("view compiler: functions: %w", err)
		}
		c.known[name] = true
	}
	return rows.Err()
}

// streamColumns returns the columns that a view may refer to, in order: the
// declared ones and those that a zone adds.
func streamColumns(s *project.Stream) []project.Column {
	cols := append([]project.Column(nil), s.Columns...)
	if s.Zone != nil && s.EventTime != "" {
		cols = append(cols,
			project.Column{Name: s.EventTime + "_local", Type: project.Type{Kind: project.Timestamp}, NotNull: true},
			project.Column{Name: "business_date", Type: project.Type{Kind: project.Date}, NotNull: true})
	}
	return cols
}

func tableColumns(s *project.Stream) string {
	var defs []string
	for _, col := range streamColumns(s) {
		defs = append(defs, duck.Ident(col.Name)+" "+col.Type.SQL())
	}
	defs = append(defs, duck.Ident(schemas.ColExtra)+" VARCHAR", duck.Ident(schemas.ColAt)+" BIGINT", duck.Ident(schemas.ColRecord)+" INTEGER")
	return strings.Join(defs, ", ")
}

// syntaxError is an error of DuckDB's parser or binder.
type syntaxError struct {
	message    string
	at         int    // -1 if unknown: in characters from the parser, in bytes from the binder
	kind       string // "parser", "binder", "not implemented", ...
	candidates string
}

func (e *syntaxError) Error() string { return e.message }

func newSyntaxError(tree node) *syntaxError {
	e := &syntaxError{message: tree.text("error_message"), kind: tree.text("error_type"), candidates: tree.text("candidates"), at: -1}
	if p, err := strconv.Atoi(tree.text("position")); err == nil {
		e.at = p
	}
	// The following lines repeat the text and list candidates.
	e.message, _, _ = strings.Cut(e.message, "\n")
	e.message = strings.TrimRight(e.message, " .!")
	return e
}

// parse returns the statements of sql, each with its "node". The error is a
// *syntaxError if the text is at fault.
func (c *Compiler) parse(sql string) ([]node, error) {
	tree, err := c.tree("SELECT json_serialize_sql(?::VARCHAR)::VARCHAR", sql)
	if err != nil {
		return nil, err
	}
	return tree.nodes("statements"), nil
}

// plan binds sql and returns the plan before optimisation, because the optimiser
// folds calls such as current_date into constants.
func (c *Compiler) plan(sql string) (node, error) {
	tree, err := c.tree("SELECT json_serialize_plan(?::VARCHAR)::VARCHAR", sql)
	if err != nil {
		return nil, err
	}
	plans := tree.nodes("plans")
	if len(plans) != 1 {
		return nil, fmt.Errorf("view compiler: %d plans for one statement", len(plans))
	}
	return plans[0], nil
}

func (c *Compiler) tree(query, sql string) (node, error) {
	var text string
	if err := c.db.QueryRow(query, sql).Scan(&text); err != nil {
		return nil, fmt.Errorf("view compiler: %w", err)
	}
	tree, err := decodeTree(text)
	if err != nil && notFinite.MatchString(text) {
		return nil, &syntaxError{message: "the text contains a number that is not finite", at: -1, kind: "parser"}
	}
	if err != nil {
		return nil, err
	}
	if tree.flag("error") {
		return nil, newSyntaxError(tree)
	}
	return tree, nil
}

// notFinite matches a constant such as 1e400, which the tree prints as Infinity.
// That is not JSON.
var notFinite = regexp.MustCompile(`"value":-?(Inf|NaN|nan|inf)`)

// print prints expressions as SQL, parenthesised where needed, and parses each
// text again. It returns a *reprintError if the tree is not the same.
func (c *Compiler) print(exprs []node) ([]string, error) {
	if len(exprs) == 0 {
		return nil, nil
	}
	stmts := make([]node, len(exprs))
	for i, e := range exprs {
		p := printable(e)
		p["alias"] = ""
		stmts[i] = selectOf(p)
	}
	texts, err := c.printStatements(stmts)
	for i := range texts {
		texts[i] = strings.TrimPrefix(texts[i], "SELECT ")
	}
	return texts, err
}

// reprintError reports that DuckDB prints a tree as text that parses to another
// tree.
type reprintError struct{ index int } // of the expression or statement

func (e *reprintError) Error() string {
	return "view compiler: DuckDB prints this expression as something else"
}

func (c *Compiler) printStatements(stmts []node) ([]string, error) {
	var q strings.Builder
	args := make([]any, len(stmts))
	q.WriteString("SELECT s, json_serialize_sql(s)::VARCHAR FROM (SELECT i, json_deserialize_sql(j) AS s FROM (VALUES ")
	for i, s := range stmts {
		if i > 0 {
			q.WriteString(", ")
		}
		fmt.Fprintf(&q, "(%d, ?::VARCHAR)", i)
		args[i] = statementOf(s).encode()
	}
	q.WriteString(") t(i, j)) ORDER BY i")
	rows, err := c.db.Query(q.String(), args...)
	if err != nil {
		return nil, fmt.Errorf("view compiler: print: %w", err)
	}
	defer rows.Close()
	var texts []string
	for rows.Next() {
		var text, again string
		if err := rows.Scan(&text, &again); err != nil {
			return nil, fmt.Errorf("view compiler: print: %w", err)
		}
		tree, err := decodeTree(again)
		if err != nil {
			return nil, err
		}
		got := tree.nodes("statements")
		if len(got) != 1 || got[0].node("node").flat().canonical() != stmts[len(texts)].flat().canonical() {
			return nil, &reprintError{len(texts)}
		}
		texts = append(texts, text)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("view compiler: print: %w", err)
	}
	return texts, nil
}

type described struct {
	name string
	typ  sqlType
}

// describe returns the names and types of a statement's columns.
func (c *Compiler) describe(sql string) ([]described, error) {
	rows, err := c.db.Query("SELECT column_name, column_type FROM (DESCRIBE " + sql + "\n)")
	if err != nil {
		return nil, fmt.Errorf("view compiler: describe: %w", err)
	}
	defer rows.Close()
	var out []described
	for rows.Next() {
		var name, typ string
		if err := rows.Scan(&name, &typ); err != nil {
			return nil, fmt.Errorf("view compiler: describe: %w", err)
		}
		out = append(out, described{name, parseSQLType(typ)})
	}
	return out, rows.Err()
}
