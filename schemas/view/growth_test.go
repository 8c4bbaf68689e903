package view

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"duet/schemas/project"
)

// Conditions whose text grows by nesting, by a number argument or by a long
// constant, and conditions whose cost is a product of lengths, are refused before
// they are bound: binding evaluates constant arguments.
func TestConditionsThatGrowAreRefused(t *testing.T) {
	c := newCompiler(t)
	v := mustCompile(t, c, optionsView)
	long := strings.Repeat("x", 4000)
	nested := func(function string, n int) string {
		return strings.Repeat(function+"(", n) + "country" + strings.Repeat(")", n)
	}
	for _, cond := range []string{
		"length(" + nested("bin", 9) + ") > 0",
		"length(" + nested("bin", 2) + ") > 0",
		"length(" + nested("hex", 12) + ") > 0",
		"length(" + nested("to_hex", 2) + ") > 0",
		"length(" + nested("url_encode", 8) + ") > 0",
		"length(" + nested("regexp_escape", 8) + ") > 0",
		"length(to_base64(encode(to_base64(encode(country))))) > 0",
		"length(base64(hex(country)::BLOB)) > 0",
		"length(bin(hex(country))) > 0",
		"length(bin(lower(bin(country)))) > 0",
		"length(bin(bin('x'))) > 0",
		"length(bin(bin(CAST(h AS VARCHAR)))) > 0",
		"strftime(hour, bin(bin('x'))) = ''",
		"length(replace(replace(country, 'a', 'aaaa'), 'a', 'aaaa')) > 0",
		"length(replace(country, 'a', '" + long + "')) > 0",
		"length(replace(country, 'a', country)) > 0",
		"length(regexp_replace(country, '.', '" + long + "', 'g')) > 0",
		"length(regexp_replace(regexp_replace(country, '.', '\\0\\0\\0', 'g'), '.', '\\0\\0\\0', 'g')) > 0",
		"length(regexp_replace(country, '.', country, 'g')) > 0",
		"len(string_split(array_extract(string_split(country, ''), 1), '')) > 0",
		"len(string_split(hex(country), '')) > 0",
		"split_part(bin(country), '1', 2) = ''",
		"length(translate(translate(country, 'a', '\U0001F600'), 'b', '\U0001F600')) > 0",
		"repeat(country, 1000000) = ''", "lpad(country, 1000000000, 'x') = ''", "rpad(country, 1000000000, 'x') = ''",
		"format('{:1000000000}', country) = ''", "printf('%1000000000s', country) = ''", "to_base(1, 2, 1000000000) = ''",
		"length(" + strings.Repeat("concat(country, ", 600) + "country" + strings.Repeat(")", 600) + ") > 0",
		"length(concat(" + strings.Repeat("country, ", 900) + "country)) > 0",
		strings.Repeat("bin(country) = '1' OR ", 200) + "false",
		"levenshtein(hex(country), 'x') > 0",
		"damerau_levenshtein(bin(country), bin(country)) > 0",
		"country LIKE \"Upper\"", "country ILIKE concat('%', country)", "country SIMILAR TO \"Upper\"", "regexp_matches(country, country)", "country GLOB \"Upper\"",
		"country LIKE '%_a%_b%_c%_d%_e'", "country ILIKE '%a%b%c%d%e%f'", "country GLOB '*a*b*c*d*e*f'", "country LIKE '%a%b!%%c%d%e' ESCAPE '!'",
		"regexp_matches(country, '((a{100}){100}){1000}')",
	} {
		for _, o := range []Options{{Where: cond}, {Having: cond}} {
			_, _, err := v.FinalSQL("cells", o)
			var cerr *ConditionError
			if !errors.As(err, &cerr) || cerr.Remedy == "" {
				t.Errorf("%.100s: %v", cond, err)
			}
		}
	}
}

// Conditions that people write are allowed.
func TestUsualConditionsAreAllowed(t *testing.T) {
	c := newCompiler(t)
	e := newEngine(t)
	v := mustCompile(t, c, optionsView)
	e.exec("CREATE TABLE cells (" + v.CellColumns() + ")")
	e.exec("INSERT INTO cells (k0, k1, k2) VALUES ('2024-01-01', 'United Kingdom', 1), ('2024-01-01', NULL, 2), ('2024-01-01', 'France', 3)")
	for cond, want := range map[string]int{
		"upper(trim(country)) = 'FRANCE' AND lower(country) LIKE 'fr%'":                      1,
		"levenshtein(lower(country), 'frence') <= 2":                                         1,
		"jaro_winkler_similarity(country, 'Frence') > 0.8":                                   1,
		"country ILIKE '%united%king%'":                                                      1,
		"country LIKE '%n%t%d%K%g%m'":                                                        1,
		"country LIKE '_r%_c_'":                                                              1,
		"regexp_matches(country, '^[A-Z][a-z]+ [A-Z]{1,3}')":                                 1,
		"regexp_replace(country, '\\s+', ' ', 'g') = 'United Kingdom'":                       1,
		"replace(replace(replace(country, 'a', ''), 'e', '-'), ' ', '_') = 'Unit-d_Kingdom'": 1,
		"split_part(country, ' ', 1) IN ('United')":                                          1,
		"string_split(lower(country), ' ')[2] = 'kingdom'":                                   1,
		"country || '/' || coalesce(country, '-') = 'France/France'":                         1,
		"concat_ws('|', h, country, hour) = '3|France|2024-01-01 00:00:00'":                  1,
		"strftime(hour, '%Y-%m') = '2024-01' AND dayname(hour) = 'Monday'":                   3,
		"length(hex(country)) = 12":                                                          1,
		"md5(country) = md5('France')":                                                       1,
		"contains(country, 'ranc') AND starts_with(country, 'F') AND country IS NOT NULL":    1,
		"CASE WHEN h > 2 THEN upper(country) ELSE country END IN ('FRANCE')":                 1,
		strings.Repeat("upper(country) = 'X' OR ", 60) + "upper(country) = 'FRANCE'":         1,
		"country IN (" + strings.Repeat("'Atlantis', ", 500) + "'France')":                   1,
		"translate(country, 'abc', 'ABC') = 'FrAnCe' AND strip_accents(country) = country":   1,
		"regexp_extract(country, '([a-z]+)$', 1) = 'rance'":                                  1,
		"substring(country, 1, 3) = 'Fra' AND left(reverse(country), 1) = 'e'":               1,
	} {
		sql, _, err := v.FinalSQL("cells", Options{Where: cond})
		if err != nil {
			t.Errorf("%.100s: %v", cond, err)
			continue
		}
		if got := len(e.rows(sql)); got != want {
			t.Errorf("%.100s: %d rows, not %d\n%s", cond, got, want, sql)
		}
	}
}

// A text that is too long for a condition ends the query with an evaluation error.
func TestLongTextsEndAConditionAndSuspendAView(t *testing.T) {
	c := newCompiler(t)
	e := newEngine(t)
	v := mustCompile(t, c, optionsView)
	e.exec("CREATE TABLE cells (" + v.CellColumns() + ")")
	e.exec("INSERT INTO cells (k1, k2) VALUES (repeat('x', 1000000), 2), (NULL, 2), ('France', 2)")
	for _, cond := range []string{"upper(country) = 'X'", "length(bin(country)) > 0", "levenshtein(country, 'France') < 3", "country ILIKE '%a%b%c%'", "h > 1 AND upper(country) = 'X'",
		"concat(country, \"Upper\") = ''", "levenshtein(country, country) = 0"} {
		for _, o := range []Options{{Where: cond}, {Having: cond}} {
			sql, _, err := v.FinalSQL("cells", o)
			if err != nil {
				t.Errorf("%s: %v", cond, err)
				continue
			}
			if _, err := e.db.Exec(sql); err == nil || !strings.Contains(err.Error(), "too long") {
				t.Errorf("%s: %v\n%s", cond, err, sql)
			}
		}
	}
	for _, cond := range []string{"country = 'France'", "length(country) > 3", "starts_with(country, 'F')", "country LIKE '%ance'", "country IN ('a')", "contains(country, 'x')"} {
		sql, _, err := v.FinalSQL("cells", Options{Where: cond})
		if err != nil {
			t.Fatal(err)
		}
		e.rows(sql)
	}
	// The costs of all calls count together.
	e.exec("CREATE OR REPLACE TABLE cells AS SELECT * REPLACE (repeat('y', 800) AS k1) FROM cells LIMIT 1")
	for cond, ok := range map[string]bool{
		"levenshtein(country, country) = 0": true, "levenshtein(country, country) = levenshtein(country, country)": false,
		"levenshtein(country, country) = 0 AND levenshtein(country, country) < 1": false, "h = 2 AND levenshtein(country, country) = 0": true,
	} {
		sql, _, err := v.FinalSQL("cells", Options{Where: cond})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.db.Exec(sql); (err == nil) != ok {
			t.Errorf("%s: %v", cond, err)
		}
	}
	view := mustCompile(t, c, "SELECT hex(sku) AS k, max(bin(country)) AS m, count(*) AS n FROM orders WHERE sku IS NULL OR country IS NULL OR levenshtein(sku, country) >= 0 GROUP BY ALL")
	e.load(c.streams["orders"], []string{randomRow(newRand(t))})
	e.exec("UPDATE orders SET sku = 'a', country = 'b'")
	e.rows(view.PartialSQL("orders"))
	for _, update := range []string{"sku = repeat('x', 2000), country = repeat('y', 2000)", "sku = repeat('x', 1000000), country = NULL", "sku = NULL, country = repeat('x', 1000000)"} {
		e.exec("UPDATE orders SET " + update)
		_, err := e.db.Exec(view.PartialSQL("orders"))
		if err == nil || !strings.Contains(err.Error(), "too long") || !strings.Contains(err.Error(), "Invalid Input Error") {
			t.Errorf("%s: %v", update, err)
		}
	}
}

// Expressions of a view that would be too large whatever the data are refused.
func TestViewsThatGrowAreRefused(t *testing.T) {
	c := newCompiler(t)
	for _, expr := range []string{
		"bin(bin(bin(bin(bin(bin(bin(bin(sku))))))))", "repeat('x', 2000000000)", "repeat(sku, quantity)", "repeat(sku, 1000000)", "lpad(sku, 1000000000, 'x')", "rpad(sku, quantity, 'x')",
		"format('{:1000000000}', sku)", "format('{:{}}', sku, quantity)", "format(sku, sku)", "printf('%1000000000s', sku)", "printf('%*d', quantity, tiny)", "printf(sku, tiny)",
		"to_base(big, 2, 1000000000)", "to_base(big, 2, quantity)", "replace(sku, 'a', country)", "regexp_replace(sku, 'a', country)", "regexp_replace(sku, country, 'a')",
		"regexp_extract(sku, country)", "sku LIKE country", "sku ILIKE '%a%b%c%d%e%f'", "levenshtein(hex(sku), country)", "strftime(sold_at, bin(bin(bin(bin(bin('x'))))))",
	} {
		for _, sql := range []string{"SELECT " + expr + " AS k, count(*) AS n FROM orders GROUP BY ALL", "SELECT country, max(" + expr + ") AS m FROM orders GROUP BY ALL"} {
			if v, faults := c.Compile(viewOf(sql)); v != nil || !project.Faults(faults).Fatal() {
				t.Errorf("%s compiles", sql)
			} else if f := faults[0]; f.Reason == "" || f.Remedy == "" || strings.Contains(f.Reason, "cannot be compiled") {
				t.Errorf("%s: %v", sql, f)
			}
		}
	}
	if v, faults := c.Compile(viewOf("SELECT country, bin(bin(bin(bin(bin(bin(max(sku))))))) AS m FROM orders GROUP BY ALL")); v != nil {
		t.Errorf("grows over an aggregate: %v", faults)
	}
	for i, expr := range []string{"replace(sku, country, '')", "lpad(quantity::VARCHAR, 5, '0')", "format('{}-{:>10}', sku, tiny)", "printf('%05d', tiny)", "repeat('x', 10)", "to_base(big, 16)", "hex(hex(sku))"} {
		mustCompile(t, c, fmt.Sprintf("SELECT %s AS k%d, count(*) AS n FROM orders GROUP BY ALL", expr, i))
	}
}

// Aliases of aliases that double with each are refused before they fill memory.
func TestAliasesThatDoubleAreRefused(t *testing.T) {
	c := newCompiler(t)
	items := []string{"price AS p0"}
	for i := range 60 {
		items = append(items, fmt.Sprintf("p%d + p%d AS p%d", i, i, i+1))
	}
	v, faults := c.Compile(viewOf("SELECT " + strings.Join(items, ", ") + ", count(*) AS n FROM orders GROUP BY ALL"))
	if v != nil || !strings.Contains(project.Faults(faults).Error(), "10,000 terms") {
		t.Errorf("%.300v", faults)
	}
}
