package view

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"duet/internal/base/duck"
)

// samples are columns of each type that functions take, by DuckDB's name of it.
var samples = map[string][]string{
	"VARCHAR": {"t1", "t2", "t3"}, "ANY": {"t1", "t2", "t3"}, "T": {"t1", "t2", "t3"}, "BLOB": {"b1", "b2"}, "BOOLEAN": {"true"},
	"TINYINT": {"7::TINYINT"}, "SMALLINT": {"-300::SMALLINT"}, "INTEGER": {"i1", "i2"}, "BIGINT": {"i1::BIGINT", "i2::BIGINT"}, "HUGEINT": {"-170141183460469231731687303715884105727::HUGEINT"},
	"UTINYINT": {"255::UTINYINT"}, "USMALLINT": {"65535::USMALLINT"}, "UINTEGER": {"4294967295::UINTEGER"}, "UBIGINT": {"18446744073709551615::UBIGINT"}, "UHUGEINT": {"340282366920938463463374607431768211455::UHUGEINT"},
	"DOUBLE": {"d1", "d2"}, "FLOAT": {"d1::FLOAT", "d2::FLOAT"}, "DECIMAL": {"12.34::DECIMAL(38,10)", "0.5::DECIMAL(4,2)"},
	"DATE": {"DATE '2024-02-29'", "DATE '-5000-01-01'"}, "TIME": {"TIME '23:59:59.999999'"}, "TIMESTAMP": {"TIMESTAMP '2024-02-29 23:59:59.123456'", "TIMESTAMP '0001-01-01'"},
	"TIMESTAMP WITH TIME ZONE": {"TIMESTAMPTZ '2024-02-29 23:59:59.123456+03'", "TIMESTAMPTZ '1990-01-01'"}, "INTERVAL": {"INTERVAL '1 year 2 months 3 days 4 hours'", "INTERVAL '90 minutes'"}, "UUID": {"'00000000-0000-0000-0000-000000000001'::UUID"},
	"VARCHAR[]": {"[t1, t2]", "[t3]"}, "T[]": {"[t1, t2]", "[t3]"}, "ANY[]": {"[t1, t2]", "[t3]"},
}

// sampleTexts provokes growth: bytes that are escaped, letters whose case is
// longer, marks that are composed, digits that are decoded, and separators.
func sampleTexts(e *engine, r *rand.Rand) {
	alphabet := []string{"a", "Z", " ", "%", "_", "\\", "'", "\"", "\x01", "\n", "%41", "ff", "+", "/", "=", "ß", "İ", "ɐ", "ſ", "ﬃ", "é", "e\u0301", "\U0001D15E", "日", "😀", ",", "-", ".", "0", "9", "day", "\u0344", "ᾳ", "ŉ"}
	text := func() string {
		var b strings.Builder
		kinds := alphabet
		if r.IntN(2) == 0 {
			kinds = []string{pick(r, alphabet...)} // the same again and again
		}
		for range r.IntN(60) {
			b.WriteString(pick(r, kinds...))
		}
		return duck.Literal(b.String())
	}
	rows := make([]string, 300)
	for i := range rows {
		rows[i] = fmt.Sprintf("(%s, %s, %s, encode(%s), encode(%s), %d, %d, %v::DOUBLE, %v::DOUBLE)", text(), text(), text(), text(), text(), r.IntN(2000)-1000, r.IntN(12)-2, r.NormFloat64()*1e3, r.NormFloat64())
	}
	e.exec("CREATE OR REPLACE TABLE samples AS SELECT * FROM (VALUES " + strings.Join(rows, ", ") + ") s(t1, t2, t3, b1, b2, i1, i2, d1, d2)")
}

// bytesOf is SQL for a value's size as the bounds count it.
func bytesOf(expr, typ string) string {
	switch {
	case typ == "VARCHAR":
		return "coalesce(strlen(" + expr + "), 0)"
	case typ == "BLOB":
		return "coalesce(octet_length(" + expr + "), 0)"
	case strings.HasSuffix(typ, "[]"):
		return "coalesce(list_sum(list_transform(" + expr + ", lambda x: strlen(x::VARCHAR) + 16)), 0)"
	}
	return "64"
}

// Every function is as large as its type says, over arguments of each overload.
func TestFunctionsGrowAsTheyAreTyped(t *testing.T) {
	r := newRand(t)
	e := newEngine(t)
	sampleTexts(e, r)
	overloads, err := e.db.Query("SELECT function_name, array_to_string(parameter_types, ';'), coalesce(varargs, '') FROM duckdb_functions() WHERE function_type = 'scalar'" +
		" UNION ALL VALUES ('split_part', 'VARCHAR;VARCHAR;BIGINT', ''), ('nullif', 'VARCHAR;VARCHAR', '')")
	if err != nil {
		t.Fatal(err)
	}
	defer overloads.Close()
	type overload struct {
		name string
		args []string
	}
	samples := maps.Clone(samples)
	samples["format"], samples["zone"] = []string{"'%Y-%m-%d'"}, []string{"'Europe/London'"}
	calls := []overload{{"strptime", []string{"VARCHAR", "format"}}, {"try_strptime", []string{"VARCHAR", "format"}}, {"timezone", []string{"zone", "TIMESTAMP"}}}
	for overloads.Next() {
		var name, types, more string
		if err := overloads.Scan(&name, &types, &more); err != nil {
			t.Fatal(err)
		}
		g, ok := allowed.growth[name]
		if !ok || g.class == computed {
			continue
		}
		var args []string
		if types != "" {
			args = strings.Split(types, ";")
		}
		if more != "" {
			args = append(args, more, more)
		}
		for i := range args {
			args[i] = strings.TrimSuffix(strings.TrimSuffix(args[i], "(18,3)"), "[ANY]")
			if strings.HasPrefix(args[i], "DECIMAL") {
				args[i] = "DECIMAL"
			}
		}
		if !slices.ContainsFunc(args, func(a string) bool { return samples[a] == nil }) {
			calls = append(calls, overload{name, args})
		}
	}
	measured := map[string]int{}
	for _, c := range calls {
		g := allowed.growth[c.name]
		for range 3 {
			var args, texts, sizes []string
			for _, a := range c.args {
				typ := a
				if typ == "ANY" || typ == "T" {
					typ = "VARCHAR"
				}
				arg := pick(r, samples[a]...)
				args, texts = append(args, arg), append(texts, cast(arg, "VARCHAR"))
				sizes = append(sizes, bytesOf(arg, strings.Replace(strings.Replace(typ, "ANY[]", "VARCHAR[]", 1), "T[]", "VARCHAR[]", 1)))
			}
			expr := "TRY(" + duck.Ident(c.name) + "(" + strings.Join(args, ", ") + "))"
			var typ string
			if err := e.db.QueryRow("SELECT DISTINCT typeof(" + expr + ") FROM samples").Scan(&typ); err != nil {
				continue // such as a pattern that must be a constant
			}
			bound := "64"
			if g.class != fixed {
				bound = fmt.Sprintf("%g * (%s) + 64", g.factor, strings.Join(append([]string{"0"}, sizes...), " + "))
			}
			worst := e.rows("SELECT [" + strings.Join(texts, ", ") + "] AS arguments, " + expr + " AS result, " + bytesOf("result", typ) + " AS bytes, " + bound + " AS bound FROM samples WHERE " + bytesOf(expr, typ) + " > " + bound + " LIMIT 1")
			if len(worst) > 0 {
				t.Errorf("%s %v is typed %+v: %s", c.name, c.args, g, worst[0])
			}
			measured[c.name]++
		}
	}
	for name, g := range allowed.growth {
		if measured[name] == 0 && g.class != computed && allowed.functions[name] != "macro" {
			t.Errorf("%s was not measured", name)
		}
	}
}

// randomText is an expression of type VARCHAR over country and sku.
func randomText(r *rand.Rand, depth int) string {
	if depth == 0 {
		return pick(r, "country", "sku", "'constant'", "country", "CAST(quantity AS VARCHAR)", "CAST(sold_at AS VARCHAR)")
	}
	a, b := randomText(r, depth-1), randomText(r, r.IntN(depth))
	return pick(r, "bin("+a+")", "hex("+a+")", "upper("+a+")", "lower("+a+")", "concat("+a+", "+b+")", a+" || "+b, "concat_ws("+b+", "+a+", "+a+", "+b+")", "reverse("+a+")",
		"replace("+a+", 'a', 'bcd')", "replace("+a+", "+b+", '-+')", "regexp_replace("+a+", '[a-z]*', '<\\0\\0>', 'g')", "regexp_replace("+a+", '.', '', 'g')", "regexp_extract("+a+", '(.*)a', 1)", "repeat("+a+", 3)",
		"lpad("+a+", 20, '€')", "rpad("+a+", 7, "+b+" || 'x')", "translate("+a+", 'abc', '€€€')", "string_split("+a+", '')[1]", "split_part("+a+", 'a', 1)", "CAST(string_split("+a+", '') AS VARCHAR)", "CAST(encode("+a+") AS VARCHAR)",
		"to_base64(encode("+a+"))", "url_encode("+a+")", "regexp_escape("+a+")", "coalesce("+a+", "+b+")", "CASE WHEN quantity > 1 THEN "+a+" ELSE "+b+" END", "greatest("+a+", "+b+")", "format('{}{:>30}', "+a+", "+b+")",
		"printf('%s and %20s', "+a+", "+b+")", "strftime(sold_at, '%c %A ' || 'x')", "to_base(9, 2, 40)", "md5("+a+")", "CAST(["+a+", "+b+"] AS VARCHAR)", "CAST(concat(["+a+"], ["+b+"]) AS VARCHAR)", "nfc_normalize("+a+")", "strip_accents("+a+")", "nullif("+a+", "+b+")", "left("+a+", 3)", "trim("+a+")")
}

// The texts that an expression makes, its own and those within, are together at
// most as large as the bound that the compiler computes.
func TestExpressionsMakeNoMoreThanTheirBound(t *testing.T) {
	r := newRand(t)
	c := newCompiler(t)
	e := newEngine(t)
	rows := make([]string, 60)
	for i := range rows {
		rows[i] = randomRow(r)
	}
	e.load(c.streams["orders"], rows)
	e.exec("UPDATE orders SET country = repeat(country, 1 + abs(quantity::BIGINT) % 9), sku = sku || chr((1 + abs(quantity::BIGINT) % 300)::INTEGER)")
	lengths := lengthOf(map[string]string{"country": "VARCHAR", "sku": "VARCHAR"}, "")
	tried := 0
	for range 150 {
		text := randomText(r, 1+r.IntN(3))
		statements, err := c.parse("SELECT " + text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		tree := statements[0].node("node").nodes("select_list")[0]
		m := &measure{length: lengths}
		own := m.expression(tree)
		if m.fault != nil {
			t.Fatalf("%s: %v", text, m.fault)
		}
		if m.made.at(50) > 1e6 {
			continue // enough memory for a test is not the question
		}
		var within []string
		tree.walk(func(n node) bool {
			if class := n.text("class"); class == "FUNCTION" || class == "CAST" || class == "CASE" {
				texts, err := c.print([]node{n})
				if err != nil {
					t.Fatalf("%s: %v", text, err)
				}
				within = append(within, "coalesce(octet_length(encode(CAST("+texts[0]+" AS VARCHAR))), 0)")
			}
			return true
		})
		if len(within) == 0 {
			continue
		}
		tried++
		// A value of fixed size is 16 bytes in memory, and longer as text.
		made := m.made.plus(size{fixed: float64(fixedBytes * len(within))})
		bytes := strings.Join(within, " + ")
		if worst := e.rows("SELECT country, sku, " + within[0] + " AS own, " + own.asText().sql() + " AS own_bound, " + bytes + " AS made, " + made.sql() + " AS bound FROM orders WHERE " +
			within[0] + " > " + own.asText().sql() + " OR " + bytes + " > " + made.sql() + " LIMIT 1"); len(worst) > 0 {
			t.Errorf("%s: %s", text, worst[0])
		}
	}
	if tried < 50 {
		t.Errorf("only %d expressions were tried", tried)
	}
}
