package view

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"duet/schemas/project"
)

var (
	seedFlag  = flag.Uint64("seed", 0, "seed of the random tests; 0 draws one")
	viewsFlag = flag.Int("views", 25, "how many data sets to try, with three random views each")
)

func newRand(t testing.TB) *rand.Rand {
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("rerun with: go test -tags duckdb_arrow ./schemas/view/ -run %s -seed %d -views %d", t.Name(), seed, *viewsFlag)
	return rand.New(rand.NewPCG(seed, 1))
}

func pick[T any](r *rand.Rand, from ...T) T { return from[r.IntN(len(from))] }

// randomRow has many ties, NULLs and extremes.
func randomRow(r *rand.Rand) string {
	null := func(p int, s string) string {
		if r.IntN(100) < p {
			return "NULL"
		}
		return s
	}
	text := func(ss ...string) string { return "'" + pick(r, ss...) + "'" }
	at := time.Date(2024, 2, 28, 0, 0, 0, 0, time.UTC).Add(time.Duration(r.IntN(60*24*3)) * time.Minute)
	return strings.Join([]string{
		null(10, text("a", "b", "c", "", "Ä", "a''b")),
		null(10, text("France", "Japan", "japan", "UK")),
		null(10, pick(r, fmt.Sprint(r.IntN(7)-2), "2147483647", "-2147483648", fmt.Sprint(r.IntN(40)))),
		null(10, fmt.Sprintf("%d.%04d", r.IntN(2000)-500, r.IntN(10000))),
		null(5, fmt.Sprintf("%d.%02d", r.IntN(9999999), r.IntN(100))),
		null(10, fmt.Sprintf("%d%012d.%06d", r.IntN(1000)-500, r.Int64N(1e12), r.IntN(1e6))),
		null(10, pick(r, fmt.Sprint(r.IntN(5)), "9223372036854775807", "-9223372036854775808", fmt.Sprint(r.Int64N(1e15)))),
		null(10, fmt.Sprint(r.IntN(255)-127)),
		null(10, fmt.Sprintf("%g::DOUBLE", 1+r.Float64()*1000)),
		null(10, pick(r, "'nan'::DOUBLE", "'-nan'::DOUBLE", "-0.0::DOUBLE", "0.0::DOUBLE", "'inf'::DOUBLE", "'-inf'::DOUBLE", "1.5", "2.5", "-3")),
		null(10, pick(r, "'nan'::FLOAT", "-0.0::FLOAT", "0.0::FLOAT", "1.5", "0.1")),
		null(20, pick(r, "true", "false")),
		null(10, "DATE '2024-02-28' + "+fmt.Sprint(r.IntN(4))),
		null(10, fmt.Sprintf("TIME '%02d:%02d:00'", r.IntN(24), r.IntN(60))),
		null(10, fmt.Sprintf("'00000000-0000-0000-0000-00000000000%d'", r.IntN(5))),
		"TIMESTAMP '" + at.Format("2006-01-02 15:04:05") + "'",
	}, ", ")
}

var randomKeys = []string{"country", "sku", "upper(country)", "time_bucket(INTERVAL '1 hour', sold_at)", "date_trunc('day', sold_at)", "sold_at::DATE", "quantity % 3",
	"x", "f", "paid", "day", "clock", "id", "quantity::HUGEINT * 1000000007", "price // 100", "coalesce(sku, country, '-')", "CASE WHEN quantity > 0 THEN 'sale' ELSE 'return' END",
	"-x", "big", "length(sku)", "small", "tiny", "month(sold_at)", "country IN ('UK', 'Japan')", "sku LIKE 'a%'"}

func randomMeasure(r *rand.Rand, top bool) string {
	filter := ""
	if r.IntN(4) == 0 {
		filter = " FILTER (WHERE " + pick(r, "quantity > 0", "country = 'UK'", "paid", "false", "price IS NOT NULL AND d > 3e2", "sku IS NULL") + ")"
	}
	number := pick(r, "quantity", "price", "small", "big", "tiny", "quantity + 1.5", "price * 2", "TRY_CAST(sku AS INTEGER)", "wide")
	any := pick(r, "sku", "country", "quantity", "price", "big", "d", "x", "f", "paid", "day", "clock", "id", "sold_at", "quantity::HUGEINT", "wide")
	value := pick(r, "price", "quantity", "x", "sold_at", "sku", "day", "small", "d", "f", "quantity::HUGEINT")
	exact := []string{"count(*)" + filter, "count(" + any + ")" + filter, "count_if(quantity > 1)" + filter, "sum(" + number + ")" + filter, "min(" + any + ")" + filter, "max(" + any + ")" + filter,
		"bool_and(paid)" + filter, "bool_or(quantity > 3)" + filter, "arg_max(" + any + ", " + value + ")" + filter, "arg_min(" + any + ", " + value + ")" + filter,
		"max_by(" + any + ", " + value + ")" + filter, "first(" + any + " ORDER BY sold_at)" + filter, "last(" + any + " ORDER BY sold_at ASC)" + filter}
	if !top {
		return pick(r, exact[:8]...)
	}
	inexact := []string{"avg(" + number + ")" + filter, "mean(d)" + filter, "sum(d)" + filter, "stddev(" + pick(r, "price", "small", "quantity", "d", "tiny") + ")" + filter,
		"var_pop(" + pick(r, "price", "small", "big", "d", "quantity") + ")" + filter, "variance(small)" + filter, "stddev_pop(d)" + filter}
	composed := []string{"sum(price) - sum(small)" + filter, "count(*) * 2 + count(price)", "coalesce(sum(quantity), 0)", "sum(price) / nullif(count(*), 0)", "max(sold_at) - min(sold_at)",
		"CASE WHEN count(*) > 3 THEN 'many' ELSE 'few' END", "greatest(max(price), min(small))", "'constant'", "concat(min(sku), '/', max(sku))", "1e3 * count(*)"}
	return pick(r, pick(r, exact...), pick(r, exact...), pick(r, inexact...), pick(r, composed...))
}

// randomView is a SELECT that can be rewritten with fewer keys.
type randomView struct {
	keys     []string
	measures []string
	where    string
	having   string
	style    int // of the GROUP BY
}

func newRandomView(r *rand.Rand) randomView {
	v := randomView{style: r.IntN(4)}
	for _, i := range r.Perm(len(randomKeys))[:r.IntN(4)] {
		v.keys = append(v.keys, randomKeys[i])
	}
	for range 1 + r.IntN(5) {
		v.measures = append(v.measures, randomMeasure(r, true))
	}
	if r.IntN(3) == 0 {
		v.where = pick(r, "quantity > 0", "country <> 'UK' OR sku IS NULL", "price BETWEEN 0 AND 500", "false", "day >= DATE '2024-02-29'", "NOT paid")
	}
	if r.IntN(3) == 0 {
		v.having = randomMeasure(r, false) + " IS NOT NULL AND count(*) > " + fmt.Sprint(r.IntN(3))
	}
	return v
}

// sql returns the SELECT with the keys of these indexes and one more condition.
func (v randomView) sql(keys []int, and string) string {
	var items, groups []string
	for i, k := range keys {
		items = append(items, fmt.Sprintf("%s AS key%d", v.keys[k], k))
		groups = append(groups, []string{"", fmt.Sprint(i + 1), fmt.Sprintf("key%d", k), v.keys[k]}[v.style])
	}
	for i, m := range v.measures {
		items = append(items, fmt.Sprintf("%s AS m%d", m, i))
	}
	s := "SELECT " + strings.Join(items, ", ") + " FROM orders"
	var where []string
	for _, w := range []string{v.where, and} {
		if w != "" {
			where = append(where, "("+w+")")
		}
	}
	if len(where) > 0 {
		s += " WHERE " + strings.Join(where, " AND ")
	}
	if len(keys) > 0 {
		if v.style == 0 {
			s += " GROUP BY ALL"
		} else {
			s += " GROUP BY " + strings.Join(groups, ", ")
		}
	}
	if v.having != "" {
		s += " HAVING " + v.having
	}
	return s
}

func upTo(n int) []int {
	is := make([]int, n)
	for i := range is {
		is[i] = i
	}
	return is
}

// fold computes cells from a random split of the events, in random order, with
// random compactions, as the halves may do.
func fold(e *engine, r *rand.Rand, v *View, rows int) {
	e.t.Helper()
	e.exec("CREATE OR REPLACE TABLE cells (" + v.CellColumns() + ")")
	e.exec("CREATE OR REPLACE TABLE parts AS SELECT *, 0 AS part FROM orders")
	parts := 1 + r.IntN(8)
	e.exec(fmt.Sprintf("UPDATE parts SET part = hash(_duet_at, _duet_record, %d) %% %d", r.IntN(1e6), parts))
	for _, p := range r.Perm(parts) {
		e.exec("INSERT INTO cells " + v.PartialSQL(fmt.Sprintf("(SELECT * EXCLUDE (part) FROM parts WHERE part = %d)", p)))
		if r.IntN(3) == 0 {
			e.exec("CREATE OR REPLACE TABLE cells2 (" + v.CellColumns() + ")")
			e.exec("INSERT INTO cells2 " + v.MergeSQL("(SELECT * FROM cells ORDER BY random())"))
			e.exec("DROP TABLE cells")
			e.exec("ALTER TABLE cells2 RENAME TO cells")
		}
	}
}

func TestRandomViewsEqualPlainDuckDB(t *testing.T) {
	r := newRand(t)
	c := newCompiler(t)
	e := newEngine(t)
	stream := c.streams["orders"]
	for range *viewsFlag {
		n := pick(r, 0, 1, 5, 50, 400, 1500)
		rows := make([]string, n)
		for i := range rows {
			rows[i] = randomRow(r)
		}
		e.load(stream, rows)
		for range 3 {
			tryRandomView(t, r, c, e, n)
		}
	}
}

// sameCells compares keys and exact cells as text, so that -0.0 differs from 0.0:
// their bits must not depend on the split of the rows.
func sameCells(t *testing.T, e *engine, v *View, sql string) {
	t.Helper()
	var exact []string
	for _, k := range v.Keys {
		exact = append(exact, k.Name+"::VARCHAR")
	}
	for _, c := range v.Cells {
		if c.Exact {
			exact = append(exact, c.Name+"::VARCHAR")
		} else {
			e.rows("SELECT " + c.Magnitude + " AS m FROM cells")
		}
	}
	if len(exact) == 0 {
		return
	}
	list := "SELECT " + strings.Join(exact, ", ") + " FROM ("
	all, merged := list+v.PartialSQL("orders")+")", list+v.MergeSQL("cells")+")"
	if diff := e.rows("SELECT * FROM (((" + all + ") EXCEPT ALL (" + merged + ")) UNION ALL ((" + merged + ") EXCEPT ALL (" + all + ")))"); len(diff) > 0 {
		t.Fatalf("%s\n%d rows of cells differ: %s", sql, len(diff), strings.Join(diff[:min(len(diff), 4)], "\n"))
	}
}

func tryRandomView(t *testing.T, r *rand.Rand, c *Compiler, e *engine, rows int) {
	t.Helper()
	rv := newRandomView(r)
	sql := rv.sql(upTo(len(rv.keys)), "")
	v, faults := c.Compile(viewOf(sql))
	if v == nil && len(rv.keys) == 0 && strings.Contains(project.Faults(faults).Error(), "has no aggregate") {
		return // only constants
	}
	if v == nil {
		t.Fatalf("%s\n%s", sql, project.Faults(faults).Error())
	}
	fold(e, r, v, rows)
	sameCells(t, e, v, sql)
	from := "cells"
	final, cols, err := v.FinalSQL(from, Options{})
	if err != nil {
		t.Fatalf("%s\n%v", sql, err)
	}
	e.compare(sql, cols, final, v.PlainSQL("orders"))
	if len(v.Keys) == 0 {
		return
	}
	// Rolled up to fewer keys, over some of the groups.
	o := Options{Total: true}
	keep := r.Perm(len(rv.keys))[:r.IntN(len(rv.keys)+1)]
	for _, k := range keep {
		o.Total = false
		o.By = append(o.By, fmt.Sprintf("key%d", k))
	}
	and := ""
	if k := r.IntN(len(rv.keys)); r.IntN(2) == 0 {
		o.Where = fmt.Sprintf("key%d IS NOT NULL AND length(CAST(KEY%d AS VARCHAR)) <= 4", k, k)
		and = fmt.Sprintf("(%s) IS NOT NULL AND length(CAST(%s AS VARCHAR)) <= 4", rv.keys[k], rv.keys[k])
		if strings.Contains(rv.keys[k], "x") {
			and, o.Where = "", "" // -0.0 has two forms as text
		}
	}
	final, cols, err = v.FinalSQL(from, o)
	if err != nil {
		t.Fatalf("%s\n%+v: %v", sql, o, err)
	}
	fewer := rv.sql(keep, and)
	if wv, _ := c.Compile(viewOf(fewer)); wv == nil && len(keep) == 0 {
		return // only constants
	}
	want := mustCompile(t, c, fewer)
	e.compare(sql+"\nrolled up as "+fewer, cols, final, want.PlainSQL("orders"))
}
