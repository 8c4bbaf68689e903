package view

import (
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"duet/internal/base/duck"
	"duet/schemas/project"
)

// Every name on the allow-list is a function in DuckDB's catalog that depends on its
// arguments only, as far as the catalog knows, and no denied name is allowed.
func TestAllowListAgainstCatalog(t *testing.T) {
	e := newEngine(t)
	stability := map[string][]string{} // type name -> stabilities
	rows, err := e.db.Query("SELECT function_type || '/' || function_name, coalesce(stability, '-') FROM duckdb_functions()")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var name, s string
		if err := rows.Scan(&name, &s); err != nil {
			t.Fatal(err)
		}
		stability[name] = append(stability[name], s)
	}
	for name, kind := range allowed.functions {
		typ := map[string]string{"operator": "scalar", "scalar": "scalar", "macro": "macro"}[kind]
		found := stability[typ+"/"+name]
		if len(found) == 0 {
			t.Errorf("%s %s is not in the catalog", kind, name)
		}
		if typ == "scalar" && slices.ContainsFunc(found, func(s string) bool { return s != "CONSISTENT" }) {
			t.Errorf("%s %s is %v", kind, name, found)
		}
		if _, ok := allowed.denied[name]; ok {
			t.Errorf("%s is allowed and denied", name)
		}
	}
	for name, canonical := range allowed.aggregates {
		if len(stability["aggregate/"+name]) == 0 || allowed.aggregates[canonical] != canonical {
			t.Errorf("aggregate %s (%s) is not in the catalog", name, canonical)
		}
	}
	for name := range allowed.raises {
		if allowed.functions[name] == "" {
			t.Errorf("%s raises, but is not allowed", name)
		}
	}
	for _, name := range []string{"now", "today", "age", "hash", "random", "current_setting", "getvariable", "nextval", "error", "version", "stats", "write_log"} {
		if allowed.functions[name] != "" {
			t.Errorf("%s is allowed", name)
		}
	}
}

func TestAllowListRefusesBadRules(t *testing.T) {
	for _, text := range []string{"scalar", "scalar abs", "scalar abs large", "scalar abs linear", "scalar abs linear 0", "scalar abs fixed often", "deny x: y", "allow x", "raises x", "aggregate x"} {
		if _, err := readAllowList(text); err == nil {
			t.Errorf("%q is accepted as a rule", text)
		}
	}
}

// The bound plan shows macros expanded, so their expansion must be allowed.
func TestAllowedMacrosExpandToAllowedFunctions(t *testing.T) {
	c := newCompiler(t)
	mustCompile(t, c, `SELECT date_add(sold_at, INTERVAL 1 DAY) AS a, days_in_month(sold_at) AS b, fdiv(d, 2) AS e, fmod(d, 2) AS f, nullif(sku, '') AS g,
		round_even(d, 1) AS h, roundbankers(d, 1) AS i, split_part(sku, '-', 1) AS j, count(*) AS n FROM orders GROUP BY ALL`)
}

// DuckDB prints 1e3 as the DECIMAL 1000.0, which would change types.
func TestDoubleLiteralsStayDouble(t *testing.T) {
	c := newCompiler(t)
	v := mustCompile(t, c, "SELECT sum(price * 1.5e0) AS a, max(1e3 * quantity) AS b, count(*) * 1e-7 AS c, min(1.5) AS e FROM orders")
	var types []string
	for _, col := range v.Columns {
		types = append(types, col.Type)
	}
	if got := strings.Join(types, " "); got != "DOUBLE DOUBLE DOUBLE DECIMAL(2,1)" {
		t.Error(got)
	}
}

// Ties go to the later position, whatever the order and the split of the rows.
func TestTiesGoToTheLaterPosition(t *testing.T) {
	c := newCompiler(t)
	e := newEngine(t)
	e.exec("CREATE TABLE orders (" + tableColumns(c.streams["orders"]) + ")")
	e.exec(`INSERT INTO orders (sku, price, sold_at, _duet_at, _duet_record) VALUES
		('early', 1, '2024-01-01', 5, 0), ('later', 1, '2024-01-01', 7, 3), ('latest', 1, '2024-01-01', 7, 4), ('middle', 1, '2024-01-01', 6, 9), (NULL, 1, '2024-01-01', 7, 2)`)
	v := mustCompile(t, c, `SELECT arg_max(sku, price) AS a, arg_min(sku, price) AS b, first(sku ORDER BY sold_at) AS f, last(sku ORDER BY sold_at) AS l,
		first(sku ORDER BY sold_at) FILTER (WHERE sku <> 'latest') AS g FROM orders`)
	cells := "(" + v.PartialSQL("(SELECT * FROM orders WHERE _duet_record > 3)") + " UNION ALL " + v.PartialSQL("(SELECT * FROM orders WHERE _duet_record <= 3)") + ")"
	sql, cols, err := v.FinalSQL(cells, Options{})
	if err != nil {
		t.Fatal(err)
	}
	e.compare("ties", cols, sql, v.PlainSQL("orders"))
	const want = "{'a': latest, 'b': latest, 'f': latest, 'l': latest, 'g': later}"
	if got := e.rows(sql)[0]; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// Cells of every type survive a round trip through Parquet.
func TestCellsSurviveParquet(t *testing.T) {
	r := newRand(t)
	c := newCompiler(t)
	e := newEngine(t)
	rows := make([]string, 300)
	for i := range rows {
		rows[i] = randomRow(r)
	}
	e.load(c.streams["orders"], rows)
	var items []string
	for i, k := range []string{"sku", "x", "f", "paid", "day", "clock", "id", "quantity::HUGEINT", "price", "wide", "tiny", "small::DECIMAL(4,1)", "quantity::SMALLINT", "big", "sold_at", "sku::BLOB", "sold_at::TIMESTAMPTZ"} {
		if strings.Contains(k, "::") {
			k = "TRY_CAST" + "(" + strings.Replace(k, "::", " AS ", 1) + ")"
		}
		items = append(items, fmt.Sprintf("%s AS key%d, min(%[1]s) AS min%d, arg_max(%[1]s, sold_at) AS arg%d", k, i, i, i))
	}
	v := mustCompile(t, c, "SELECT "+strings.Join(items, ", ")+", count(*) AS n, sum(price) AS s, sum(big) AS b, stddev(price) AS sd, stddev(d) AS dd, avg(small) AS av, bool_or(paid) AS bo FROM orders GROUP BY ALL")
	e.exec("CREATE TABLE cells (" + v.CellColumns() + ")")
	e.exec("INSERT INTO cells " + v.PartialSQL("orders"))
	path := filepath.Join(t.TempDir(), "cells.parquet")
	e.exec("COPY cells TO " + duck.Literal(path) + " (FORMAT parquet, COMPRESSION zstd)")
	if _, err := os.Stat(path); err != nil {
		t.Fatal(err)
	}
	file := duck.Parquet(path)
	got, want := e.rows("SELECT column_name, column_type FROM (DESCRIBE SELECT * FROM "+file+")"), e.rows("SELECT column_name, column_type FROM (DESCRIBE cells)")
	if !slices.Equal(got, want) {
		t.Errorf("types in the file:\n%s\nof the cells:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if diff := e.rows("SELECT * FROM ((FROM cells EXCEPT ALL FROM " + file + ") UNION ALL (FROM " + file + " EXCEPT ALL FROM cells))"); len(diff) > 0 {
		t.Errorf("%d rows differ, such as %s", len(diff), diff[0])
	}
}

// The variance of integers and decimals is exact even where sums of squares cancel
// in DOUBLE and where they exceed 38 digits.
func TestVarianceIsExactWherePlainSumsFail(t *testing.T) {
	c := newCompiler(t)
	e := newEngine(t)
	r := rand.New(rand.NewPCG(3, 4))
	v := mustCompile(t, c, "SELECT var_samp(big) AS v, stddev_pop(price) AS s FROM orders")
	for name, value := range map[string]func() int64{
		"a small deviation on a great mean": func() int64 { return 900_000_000_000_000_000 + r.Int64N(3) },
		"a negative mean":                   func() int64 { return -999_999_999_999_999_999 + r.Int64N(5) },
		"extremes":                          func() int64 { return []int64{math.MaxInt64, math.MinInt64, 0, 1}[r.IntN(4)] },
		"one value":                         func() int64 { return 123_456_789_012_345_678 },
		"small":                             func() int64 { return r.Int64N(2) },
		"wide":                              func() int64 { return r.Int64N(1<<62) - 1<<61 },
	} {
		e.exec("CREATE OR REPLACE TABLE orders (" + tableColumns(c.streams["orders"]) + ")")
		var xs []*big.Int
		var rows []string
		for range 1000 {
			x := value()
			xs = append(xs, big.NewInt(x))
			price := "NULL"
			if x < 1e18 && x > -1e18 {
				price = fmt.Sprintf("CAST(CAST(%d AS DECIMAL(38,4)) * 0.0001 AS DECIMAL(18,4))", x)
			}
			rows = append(rows, fmt.Sprintf("(%d, %s)", x, price))
		}
		e.exec("INSERT INTO orders (big, price) VALUES " + strings.Join(rows, ", "))
		sql, _, err := v.FinalSQL("("+v.PartialSQL("(SELECT * FROM orders WHERE rowid % 3 = 0)")+" UNION ALL "+v.PartialSQL("(SELECT * FROM orders WHERE rowid % 3 <> 0)")+")", Options{})
		if err != nil {
			t.Fatal(err)
		}
		var got float64
		var gotPrice *float64
		if err := e.db.QueryRow(sql).Scan(&got, &gotPrice); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		m2 := exactM2(xs)
		want, _ := new(big.Rat).Quo(m2, big.NewRat(int64(len(xs)-1), 1)).Float64()
		if math.Abs(got-want) > 4e-16*math.Abs(want) {
			t.Errorf("%s: variance %v, want %v", name, got, want)
		}
		pop, _ := new(big.Rat).Quo(m2, big.NewRat(int64(len(xs)), 1)).Float64()
		if wantPrice := math.Sqrt(pop) / 1e4; gotPrice != nil && name != "extremes" && name != "wide" && math.Abs(*gotPrice-wantPrice) > 1e-15*wantPrice {
			t.Errorf("%s: deviation of price %v, want %v", name, *gotPrice, wantPrice)
		}
	}
}

// exactM2 is Σ (x-mean)².
func exactM2(xs []*big.Int) *big.Rat {
	sum, squares := new(big.Int), new(big.Int)
	for _, x := range xs {
		sum.Add(sum, x)
		squares.Add(squares, new(big.Int).Mul(x, x))
	}
	n := big.NewInt(int64(len(xs)))
	m2 := new(big.Rat).SetFrac(new(big.Int).Mul(sum, sum), n)
	return m2.Sub(new(big.Rat).SetInt(squares), m2)
}

// A sum of wide numbers that passes 38 digits is an error that names the
// view, in a part and in the merge; DuckDB itself would go on to 1.7e38.
func TestSumsBeyond38DigitsRaise(t *testing.T) {
	c := newCompiler(t)
	e := newEngine(t)
	v := mustCompile(t, c, "SELECT sum(wide) AS s FROM orders")
	e.exec("CREATE TABLE orders (" + tableColumns(c.streams["orders"]) + ")")
	e.exec("INSERT INTO orders (wide, _duet_at) VALUES (60000000000000000000000000000000.5, 1), (60000000000000000000000000000000.5, 2), (NULL, 3)")
	for what, sql := range map[string]string{
		"partial": v.PartialSQL("orders"),
		"merge":   v.MergeSQL("(" + v.PartialSQL("(FROM orders WHERE _duet_at = 1)") + " UNION ALL " + v.PartialSQL("(FROM orders WHERE _duet_at = 2)") + ")"),
	} {
		if _, err := e.db.Exec(sql); err == nil || !strings.Contains(err.Error(), "view v: a sum has more than 38 digits") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if got := e.rows(v.PartialSQL("(FROM orders WHERE _duet_at <> 2)"))[0]; got != "{'c0': 60000000000000000000000000000000.500000}" {
		t.Error(got)
	}
	if got := e.rows(v.PartialSQL("(FROM orders WHERE _duet_at = 3)"))[0]; got != "{'c0': NULL}" {
		t.Error(got)
	}
}

// Sums of incomes and costs that cancel differ from plain DuckDB's by more than a
// billionth of themselves, but not by more than the bound that VerifySQL gives.
func TestVerifyToleratesTheRoundingOfSumsThatCancel(t *testing.T) {
	r := newRand(t)
	c := newCompiler(t)
	e := newEngine(t)
	e.exec("CREATE TABLE orders (" + tableColumns(c.streams["orders"]) + ")")
	var rows []string
	for i := range 3000 {
		x := 1e9 * (0.5 + r.Float64())
		for _, amount := range []float64{x, -x + r.Float64()} {
			rows = append(rows, fmt.Sprintf("('c%d', %v::DOUBLE, %v::DOUBLE, %d)", i%3, amount, 1e9+r.Float64(), r.IntN(1e9)))
		}
	}
	e.exec("INSERT INTO orders (country, d, x, _duet_at) VALUES " + strings.Join(rows, ", "))
	v := mustCompile(t, c, "SELECT country, sum(d) AS profit, avg(d) AS mean, stddev(d) AS spread, var_pop(x) AS v, stddev_pop(x) AS s, count(*) AS n FROM orders GROUP BY ALL")
	e.exec("CREATE TABLE cells (" + v.CellColumns() + ")")
	for part := range 7 {
		e.exec("INSERT INTO cells " + v.PartialSQL(fmt.Sprintf("(SELECT * FROM orders WHERE _duet_at %% 7 = %d ORDER BY _duet_at DESC)", part)))
	}
	names := func(prefix string) string {
		var list []string
		for i := range v.Columns {
			list = append(list, fmt.Sprintf("%s%d", prefix, i))
		}
		return strings.Join(list, ", ")
	}
	join := fmt.Sprintf("FROM (%s) m(%s, %s) JOIN (%s) p(%s) ON m.v0 = p.v0", v.VerifySQL("cells"), names("v"), names("b"), v.PlainSQL("orders"), names("v"))
	different := func(bound func(i int) string, tamper string) (out []string) {
		for i, col := range v.Columns {
			if len(e.rows("SELECT m.v0 "+join+" WHERE "+col.DiffersSQL(fmt.Sprintf("(m.v%d%s)", i, map[bool]string{true: tamper}[i == 1]), fmt.Sprintf("p.v%d", i), bound(i)))) > 0 {
				out = append(out, col.Name)
			}
		}
		return out
	}
	if got := different(func(int) string { return "0" }, ""); !slices.Contains(got, "profit") {
		t.Errorf("without bounds only %v differ: the test proves nothing", got)
	}
	bound := func(i int) string { return fmt.Sprintf("m.b%d", i) }
	if got := different(bound, ""); len(got) > 0 {
		t.Errorf("%v differ", got)
	}
	if got := different(bound, " + 1e8"); !slices.Equal(got, []string{"profit"}) {
		t.Errorf("of a wrong profit, %v differ", got)
	}
}

// Names that look like cells, and a stream named like a SQL keyword.
func TestNamesThatCollide(t *testing.T) {
	c := newCompiler(t)
	e := newEngine(t)
	e.load(c.streams["order"], []string{"1, 'x', 7", "2, 'y', 8", "3, 'x', 9"})
	v := mustCompile(t, c, `SELECT "order".k0 AS c1, sum(c0) AS "select", count(*) AS a0, max(n) AS k0, sum(n) AS c0 FROM "order" GROUP BY 1`)
	sql, cols, err := v.FinalSQL("("+v.PartialSQL(`"order"`)+")", Options{Where: "c1 = 'x'", Having: `"select" > 3 AND k0 > 0 AND a0 > 1`, OrderBy: []Order{{Column: "SELECT"}}})
	if err != nil {
		t.Fatal(err)
	}
	e.compare("names", cols, sql, "SELECT * FROM ("+v.PlainSQL(`"order"`)+") WHERE c1 = 'x'")
}

// Layout, comments and unrelated columns do not change a definition; a type, a zone
// or an expression does.
func TestDefinitionNamesWhatCellsMean(t *testing.T) {
	compile := func(sql string, change func(*project.Stream)) string {
		streams := testStreams(t)
		if change != nil {
			change(streams[0])
		}
		c, err := NewCompiler(streams)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return mustCompile(t, c, sql).Definition
	}
	const sql = "SELECT country, sum(price) AS s FROM orders GROUP BY ALL"
	base := compile(sql, nil)
	same := map[string]string{
		"layout": compile("select country,\n  sum( price ) as s -- money\nfrom orders group by all;", nil),
		"an unrelated column": compile(sql, func(s *project.Stream) {
			s.Columns = append(s.Columns, project.Column{Name: "extra", Type: sqlTypeOf(t, "DATE")})
		}),
		"the type of an unrelated column": compile(sql, func(s *project.Stream) { s.Columns[2].Type = sqlTypeOf(t, "BIGINT") }),
	}
	for what, got := range same {
		if got != base {
			t.Errorf("%s changes the definition", what)
		}
	}
	other := map[string]string{
		"an alias":   compile(strings.Replace(sql, "AS s", "AS t", 1), nil),
		"a filter":   compile(strings.Replace(sql, "sum(price)", "sum(price) FILTER (WHERE true)", 1), nil),
		"a type":     compile(sql, func(s *project.Stream) { s.Columns[3].Type = sqlTypeOf(t, "DECIMAL(18,2)") }),
		"a constant": compile(strings.Replace(sql, "sum(price)", "sum(price + 1)", 1), nil),
		"day_starts": compile(sql, func(s *project.Stream) { s.DayStarts = 1 }),
	}
	for what, got := range other {
		if got == base {
			t.Errorf("%s does not change the definition", what)
		}
	}
}

// A hostile text must not even be bound, because binding opens files.
func TestNothingIsBoundBeforeItIsAllowed(t *testing.T) {
	c := newCompiler(t)
	for _, s := range []string{
		"SELECT count(*) FROM read_text('/etc/passwd')", "SELECT getenv('HOME') AS h, count(*) FROM orders GROUP BY ALL",
		"SELECT count(*) FROM orders; COPY orders TO '/tmp/x'", "ATTACH '/tmp/x.db'", "SELECT count(*) FROM glob('*')", "INSTALL httpfs",
	} {
		if v, faults := c.Compile(viewOf(s)); v != nil || !project.Faults(faults).Fatal() {
			t.Errorf("%s compiles", s)
		}
	}
	// The engine is locked, so it could not run them either.
	for _, s := range []string{"SELECT * FROM read_text('/etc/passwd')", "COPY orders TO '/tmp/x.csv'", "SET TimeZone='Asia/Tokyo'", "SET enable_external_access=true", "ATTACH '/tmp/x.db'"} {
		if _, err := c.db.Exec(s); err == nil {
			t.Errorf("the compiler's engine runs %s", s)
		}
	}
}

func TestCompilerIsSafeForConcurrentUse(t *testing.T) {
	c := newCompiler(t)
	v := mustCompile(t, c, optionsView)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for range 5 {
				if i%2 == 0 {
					if w, faults := c.Compile(viewOf(optionsView)); w == nil || w.Definition != v.Definition {
						t.Error(faults)
					}
				} else if _, _, err := v.FinalSQL("cells", Options{Where: fmt.Sprintf("h > %d", i), Having: "lines > 1"}); err != nil {
					t.Error(err)
				}
			}
		}()
	}
	wg.Wait()
}

// Deep nesting is an error and does not end the process.
func TestDeepNestingIsRefused(t *testing.T) {
	c := newCompiler(t)
	v := mustCompile(t, c, optionsView)
	for _, s := range []string{strings.Repeat("(", 4000) + "true" + strings.Repeat(")", 4000), strings.Repeat("NOT ", 2400) + "true", "h" + strings.Repeat("+1", 4000) + " > 1", "h > " + strings.Repeat("-", 1) + strings.Repeat(" - ", 3000) + "1"} {
		_, _, err := v.FinalSQL("cells", Options{Where: s})
		if s[0] != '(' && !strings.Contains(s, " - ") && err == nil { // brackets and signs leave no trace in the tree
			t.Errorf("%.20s... is allowed", s)
		}
	}
	if _, _, err := v.FinalSQL("cells", Options{Where: "h > 1"}); err != nil {
		t.Error(err)
	}
}
