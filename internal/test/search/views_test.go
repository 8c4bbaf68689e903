package search

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
)

// key is one of a view's group keys.
type key struct {
	sql  string
	time bool // since and until may be about it, and months are whole
}

// measure is an aggregate as a user writes it, and as plain DuckDB needs it: with
// ties decided by "p_no", the event's place in the log's order.
type measure struct{ user, plain string }

// viewSpec is a SELECT that can be written with fewer keys.
type viewSpec struct {
	stream   string
	keys     []key
	measures []measure
	where    string
	having   string
	style    int  // of the GROUP BY
	raises   bool // on the poisonous value of column code
}

func (v *viewSpec) all() []int {
	out := make([]int, len(v.keys))
	for i := range out {
		out[i] = i
	}
	return out
}

// user returns the view's SELECT as its file has it.
func (v *viewSpec) user(keys []int, and string) string {
	return v.sql(keys, v.stream, and, func(m measure) string { return m.user })
}

// plain returns the SELECT for plain DuckDB over the model's events through a
// sequence.
func (v *viewSpec) plain(keys []int, and string, through int64) string {
	from := fmt.Sprintf("(SELECT * FROM %s WHERE p_at <= %d) AS %s", v.stream, through, v.stream)
	return v.sql(keys, from, and, func(m measure) string { return m.plain })
}

func (v *viewSpec) sql(keys []int, from, and string, write func(measure) string) string {
	var items, groups, where []string
	for i, k := range keys {
		items = append(items, fmt.Sprintf("%s AS k%d", v.keys[k].sql, k))
		groups = append(groups, []string{"", fmt.Sprint(i + 1), fmt.Sprintf("k%d", k), v.keys[k].sql}[v.style])
	}
	for i, m := range v.measures {
		items = append(items, fmt.Sprintf("%s AS m%d", write(m), i))
	}
	for _, w := range []string{v.where, and} {
		if w != "" {
			where = append(where, "("+w+")")
		}
	}
	s := "SELECT " + strings.Join(items, ", ") + "\nFROM " + from
	if len(where) > 0 {
		s += "\nWHERE " + strings.Join(where, " AND ")
	}
	if len(keys) > 0 {
		if v.style == 0 {
			s += "\nGROUP BY ALL"
		} else {
			s += "\nGROUP BY " + strings.Join(groups, ", ")
		}
	}
	if v.having != "" {
		s += "\nHAVING " + v.having
	}
	return s
}

// newViewSpec returns a random view of a stream.
func newViewSpec(r *rand.Rand, s *stream) *viewSpec {
	v := &viewSpec{stream: s.name, style: r.IntN(4)}
	from := s.keys()
	for _, i := range r.Perm(len(from))[:min(len(from), r.IntN(4))] {
		v.keys = append(v.keys, from[i])
	}
	v.measures = []measure{{"count(*)", "count(*)"}}
	for range 1 + r.IntN(5) {
		v.measures = append(v.measures, s.measure(r))
	}
	if chance(r, 30) {
		v.where = s.condition(r)
	}
	if chance(r, 25) {
		v.having = pick(r, "count(*) > 1", "m0 > 2", "count("+pick(r, s.columns...).name+") >= 2", "max(moment) IS NOT NULL AND count(*) % 2 = 0")
		if v.having == "m0 > 2" && v.style == 3 {
			v.having = "count(*) > 2"
		}
	}
	if c := s.columns[len(s.columns)-1]; (c.kind == kCode || s.has("code")) && chance(r, 40) {
		v.where, v.raises = "", true
		v.measures = append(v.measures, measure{"sum(CAST(code AS INTEGER))", "sum(CAST(code AS INTEGER))"})
	}
	return v
}

func (s *stream) has(name string) bool {
	for _, c := range s.columns {
		if c.name == name {
			return true
		}
	}
	return false
}

func (s *stream) keys() []key {
	out := []key{
		{"time_bucket(INTERVAL '1 hour', moment)", true}, {"date_trunc('day', moment)", true}, {"moment::DATE", true}, {"date_trunc('month', moment)", true},
		{"moment", true}, {"hour(moment)", false}, {"strftime(moment, '%Y-%m')", false},
	}
	if s.zone != nil {
		out = append(out, key{"business_date", false}, key{"time_bucket(INTERVAL '15 minutes', moment_local)", false}, key{"date_trunc('hour', moment_local)", false})
	}
	for _, c := range s.columns[1:] {
		if c.name == "no" {
			continue // too many groups to list
		}
		out = append(out, key{c.name, false})
		switch {
		case c.integer():
			out = append(out, key{c.name + " % 3", false}, key{"CASE WHEN " + c.name + " > 0 THEN 'sale' WHEN " + c.name + " < 0 THEN 'return' END", false}, key{c.name + "::HUGEINT * 1000000007", false})
		case c.kind == kText:
			out = append(out, key{"upper(" + c.name + ")", false}, key{"coalesce(" + c.name + ", '-')", false}, key{"length(" + c.name + ")", false}, key{c.name + " || '/' || month(moment)", false})
		case c.kind == kDate:
			out = append(out, key{"year(" + c.name + ")", false})
		case c.kind == kDouble:
			out = append(out, key{"-" + c.name, false}, key{"floor(" + c.name + ")", false})
		case c.kind == kDec:
			out = append(out, key{c.name + " > 0", false})
		}
	}
	return out
}

func (s *stream) condition(r *rand.Rand) string {
	c := pick(r, s.columns...)
	switch {
	case c.integer() || c.kind == kDec || c.kind == kDouble || c.kind == kFloat || c.kind == kWild:
		return pick(r, c.name+" > 0", c.name+" BETWEEN -1 AND 3", c.name+" IS NOT NULL AND "+c.name+" <> 2")
	case c.kind == kText:
		return pick(r, c.name+" = 'a'", c.name+" IN ('a', 'b', '')", c.name+" LIKE '%a%'", c.name+" IS NULL OR "+c.name+" > 'b'")
	case c.kind == kBool:
		return pick(r, c.name, "NOT "+c.name, c.name+" IS DISTINCT FROM true")
	}
	return pick(r, c.name+" IS NOT NULL", "moment >= TIMESTAMP '2026-03-29 00:00:00'", "false", "hour(moment) < 12")
}

// measure returns a random aggregate, or arithmetic over some.
func (s *stream) measure(r *rand.Rand) measure {
	m := s.aggregate(r)
	switch r.IntN(8) {
	case 0:
		n := s.aggregate(r)
		if inexact.MatchString(m.user) {
			return m // as text, its last digits could not be forgiven
		}
		return measure{"concat(" + m.user + ", '/', " + n.user + " IS NULL)", "concat(" + m.plain + ", '/', " + n.plain + " IS NULL)"}
	case 1:
		if sum := s.some(r, (*column).summable); sum != "" {
			return pick(r, same("coalesce(sum("+sum+"), 0)"), same("sum("+sum+") / nullif(count(*), 0)"), same("2 * sum("+sum+") - count("+sum+")"))
		}
	case 2:
		return pick(r, same("max(moment) - min(moment)"), same("count(*) * 2 + 1"), same("CASE WHEN count(*) > 3 THEN 'many' ELSE 'few' END"), same("greatest(max(moment), TIMESTAMP '2026-03-29 00:00:00')"))
	}
	return m
}

var inexact = regexp.MustCompile(`^(avg|stddev|stddev_pop|variance|var_pop)\(`)

func same(sql string) measure { return measure{sql, sql} }

func (s *stream) aggregate(r *rand.Rand) measure {
	filter, and := "", ""
	if chance(r, 25) {
		c := s.condition(r)
		filter, and = " FILTER (WHERE "+c+")", " AND ("+c+")"
	}
	a, b := pick(r, s.columns...).name, pick(r, s.columns...).name
	switch r.IntN(10) {
	case 0:
		return same(pick(r, "count(*)", "count("+a+")", "count_if("+a+" IS NULL)") + filter)
	case 1, 2:
		return same(pick(r, "min(", "max(") + a + ")" + filter)
	case 3, 4:
		if n := s.some(r, (*column).summable); n != "" {
			return same(pick(r, "sum(", "sum(", "avg(") + n + ")" + filter)
		}
	case 5:
		if n := s.some(r, (*column).squarable); n != "" {
			return same(pick(r, "stddev(", "stddev_pop(", "variance(", "var_pop(") + n + ")" + filter)
		}
	case 6:
		return same(pick(r, "bool_and(", "bool_or(") + s.condition(r) + ")" + filter)
	case 7:
		where := fmt.Sprintf(" FILTER (WHERE %s IS NOT NULL AND %s IS NOT NULL%s)", a, b, and)
		return pick(r,
			measure{fmt.Sprintf("arg_max(%s, %s)%s", a, b, filter), fmt.Sprintf("last(%s ORDER BY %s, p_no)%s", a, b, where)},
			measure{fmt.Sprintf("min_by(%s, %s)%s", a, b, filter), fmt.Sprintf("first(%s ORDER BY %s, p_no DESC)%s", a, b, where)})
	case 8:
		return measure{fmt.Sprintf("last(%s ORDER BY moment)%s", a, filter), fmt.Sprintf("last(%s ORDER BY moment, p_no)%s", a, filter)}
	case 9:
		return measure{fmt.Sprintf("first(%s ORDER BY moment)%s", a, filter), fmt.Sprintf("first(%s ORDER BY moment, p_no DESC)%s", a, filter)}
	}
	return same("count(" + a + ")" + filter)
}
