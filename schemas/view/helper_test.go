package view

import (
	"fmt"
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // not every machine has a database of zones

	"duet/internal/base/duck"
	"duet/schemas"
	"duet/schemas/project"
)

func sqlTypeOf(t testing.TB, text string) project.Type {
	t.Helper()
	typ, err := project.ParseType(text)
	if err != nil {
		t.Fatal(err)
	}
	return typ
}

// makeStream declares a stream by "name TYPE [NOT NULL]" items.
func makeStream(t testing.TB, name, eventTime string, columns ...string) *project.Stream {
	t.Helper()
	s := &project.Stream{Name: name, File: "streams/" + name + ".yaml", EventTime: eventTime}
	for _, c := range columns {
		colName, rest, _ := strings.Cut(c, " ")
		typ, notNull := strings.CutSuffix(rest, " NOT NULL")
		s.Columns = append(s.Columns, project.Column{Name: colName, From: colName, Type: sqlTypeOf(t, typ), NotNull: notNull})
	}
	return s
}

// testStreams returns orders, with a column of each type; shops, with a zone; and
// "order", whose name is a SQL keyword.
func testStreams(t testing.TB) []*project.Stream {
	t.Helper()
	zone, err := time.LoadLocation("Europe/London")
	if err != nil {
		t.Fatal(err)
	}
	shops := makeStream(t, "shops", "sold_at", "shop VARCHAR NOT NULL", "amount DECIMAL(18,2) NOT NULL", "sold_at TIMESTAMP NOT NULL")
	shops.Zone, shops.DayStarts = zone, 4*time.Hour
	return []*project.Stream{
		makeStream(t, "orders", "sold_at", "sku VARCHAR", "country VARCHAR", "quantity INTEGER", "price DECIMAL(18,4)", "small DECIMAL(9,2)", "wide DECIMAL(38,6)",
			"big BIGINT", "tiny TINYINT", "d DOUBLE", "x DOUBLE", "f FLOAT", "paid BOOLEAN", "day DATE", "clock TIME", "id UUID", "sold_at TIMESTAMP NOT NULL"),
		shops,
		makeStream(t, "order", "", "n INTEGER", "k0 VARCHAR", "c0 INTEGER"),
	}
}

func newCompiler(t testing.TB) *Compiler {
	t.Helper()
	c, err := NewCompiler(testStreams(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func viewOf(sql string) *project.View {
	return &project.View{Name: "v", File: "views/v.sql", SQL: sql}
}

func mustCompile(t testing.TB, c *Compiler, sql string) *View {
	t.Helper()
	v, faults := c.Compile(viewOf(sql))
	if v == nil {
		t.Fatalf("%s\n%s", sql, project.Faults(faults).Error())
	}
	return v
}

// engine is a DuckDB that holds rows of a stream.
type engine struct {
	t  testing.TB
	db *duck.DB
}

func newEngine(t testing.TB) *engine {
	t.Helper()
	db, err := duck.Open(duck.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return &engine{t, db}
}

func (e *engine) exec(sql string, args ...any) {
	e.t.Helper()
	if _, err := e.db.Exec(sql, args...); err != nil {
		e.t.Fatalf("%v\n%s", err, sql)
	}
}

// load creates the table of a stream and inserts rows, each given as the SQL of
// its declared columns, at ascending positions with ten rows a message.
func (e *engine) load(s *project.Stream, rows []string) {
	e.t.Helper()
	e.exec("CREATE OR REPLACE TABLE " + duck.Ident(s.Name) + " (" + tableColumns(s) + ")")
	names := ""
	for _, c := range s.Columns {
		names += duck.Ident(c.Name) + ", "
	}
	for start := 0; start < len(rows); start += 500 {
		var b strings.Builder
		for i, r := range rows[start:min(start+500, len(rows))] {
			comma(&b, i)
			n := start + i
			fmt.Fprintf(&b, "(%s, %d, %d)", r, int64(schemas.NewPosition(1, uint64(n/10+1))), n%10)
		}
		e.exec("INSERT INTO " + duck.Ident(s.Name) + " (" + names + "_duet_at, _duet_record) VALUES " + b.String())
	}
}

// rows returns the rows of a query as text, in its order.
func (e *engine) rows(sql string) []string {
	e.t.Helper()
	r, err := e.db.Query("SELECT CAST(q AS VARCHAR) FROM (" + sql + ") q")
	if err != nil {
		e.t.Fatalf("%v\n%s", err, sql)
	}
	defer r.Close()
	var out []string
	for r.Next() {
		var s string
		if err := r.Scan(&s); err != nil {
			e.t.Fatal(err)
		}
		out = append(out, s)
	}
	if err := r.Err(); err != nil {
		e.t.Fatalf("%v\n%s", err, sql)
	}
	return out
}

// compare fails if two answers with these columns differ by more than the columns'
// tolerances. Rows are matched by their keys; NULL equals NULL.
func (e *engine) compare(what string, cols []Column, got, want string) {
	e.t.Helper()
	e.exec("CREATE OR REPLACE TEMP TABLE _got AS " + got)
	e.exec("CREATE OR REPLACE TEMP TABLE _want AS " + want)
	on, differs := []string{"true"}, []string{"_g._row IS NULL", "_w._row IS NULL"}
	for _, c := range cols {
		g, w := "_g."+duck.Ident(c.Name), "_w."+duck.Ident(c.Name)
		if c.Role == Key || c.Role == TimeKey {
			on = append(on, g+" IS NOT DISTINCT FROM "+w)
		} else {
			differs = append(differs, c.DiffersSQL(g, w, "0"))
		}
	}
	sql := "FROM (SELECT *, 1 AS _row FROM _got) _g FULL JOIN (SELECT *, 1 AS _row FROM _want) _w ON " + strings.Join(on, " AND ") + " WHERE " + strings.Join(differs, " OR ")
	if diff := e.rows("SELECT {'got': _g, 'want': _w} " + sql + " LIMIT 5"); len(diff) > 0 {
		e.t.Fatalf("%s: %d rows differ, such as\n%s\ngot:  %s\nwant: %s", what, len(diff), strings.Join(diff, "\n"), got, want)
	}
	if g, w := e.rows("SELECT count(*) FROM _got")[0], e.rows("SELECT count(*) FROM _want")[0]; g != w {
		e.t.Fatalf("%s: %s rows, not %s\ngot:  %s\nwant: %s", what, g, w, got, want)
	}
}
