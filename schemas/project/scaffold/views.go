package scaffold

import (
	"fmt"
	"strings"

	"duet/schemas/project"
)

// measure is one aggregate of a view.
type measure struct{ sql, name, note string }

// measures returns the sums that the columns suggest, the number of lines, and the
// subject of the views.
func (s *sample) measures() (list []measure, subject string) {
	subject = s.stream
	taken := map[string]bool{}
	for _, c := range s.types {
		taken[c.Name] = true
	}
	if s.quantity >= 0 && s.price >= 0 {
		subject = "sales"
		quantity, price := s.types[s.quantity], s.types[s.price]
		list = append(list, measure{sql: fmt.Sprintf("sum(%s)", product(quantity, price)), name: freeName("revenue", taken),
			note: "-- With the cast, no quantity and price can overflow the product.\n"})
	}
	if s.quantity >= 0 {
		list = append(list, measure{sql: fmt.Sprintf("sum(%s)", ident(s.types[s.quantity].Name)), name: freeName("pieces", taken)})
	}
	for _, i := range s.amounts {
		name := s.types[i].Name
		if strings.Contains(name, "sales") || strings.Contains(name, "amount") || strings.Contains(name, "revenue") || strings.Contains(name, "total") {
			subject = "sales"
		}
		list = append(list, measure{sql: fmt.Sprintf("sum(%s)", ident(name)), name: freeName("total_"+strings.TrimPrefix(name, "total_"), taken)})
		if len(list) >= 4 {
			break
		}
	}
	return append(list, measure{sql: "count(*)", name: freeName("lines", taken)}), subject
}

// product multiplies so that no two values can overflow the result. DuckDB gives a
// product of operands of up to 18 digits only 18 digits and raises beyond; with an
// operand of 19 digits the product has 37 and is still a DECIMAL.
func product(quantity, price project.Column) string {
	q, p := ident(quantity.Name), ident(price.Name)
	if price.Type.Precision > 18 {
		return fmt.Sprintf("CAST(%s AS DECIMAL(10,0)) * CAST(%s AS DECIMAL(28,%d))", q, p, price.Type.Scale)
	}
	return fmt.Sprintf("CAST(%s AS DECIMAL(19,0)) * %s", q, p)
}

// views writes one view by the best dimension, or in total if there is none, and
// one by time if there is a time.
func (s *sample) views() map[string]string {
	measures, subject := s.measures()
	files := map[string]string{}
	add := func(name, key, keyName, what string) {
		if name == s.stream {
			name += "_view"
		}
		if files["views/"+name+".sql"] != "" {
			name += "_2"
		}
		var b strings.Builder
		for _, m := range measures {
			b.WriteString(m.note)
		}
		b.WriteString("SELECT ")
		if key != "" {
			b.WriteString(key)
			if key != ident(keyName) {
				b.WriteString(" AS " + ident(keyName))
			}
			b.WriteString(",\n       ")
		}
		for i, m := range measures {
			if i > 0 {
				b.WriteString(",\n       ")
			}
			b.WriteString(m.sql + " AS " + ident(m.name))
		}
		fmt.Fprintf(&b, "\nFROM %s\n", ident(s.stream))
		if key != "" {
			b.WriteString("GROUP BY ALL\n")
		}
		files["views/"+name+".sql"] = b.String()
		files["views/"+name+".yaml"] = "# yaml-language-server: $schema=../schemas/view.schema.json\ndescription: " + what + "\n"
	}
	title := strings.ToUpper(subject[:1]) + strings.ReplaceAll(subject[1:], "_", " ")
	if s.dimension >= 0 {
		d := s.types[s.dimension].Name
		add(viewName(subject, d), ident(d), d, title+" by "+strings.ReplaceAll(d, "_", " "))
	} else {
		add(viewName(subject, ""), "", "", title+" in total")
	}
	if key, unit := s.timeKey(); key != "" {
		name := unit
		if s.hasColumn(name) {
			name = "by_" + unit
		}
		add(viewName(subject, unit), key, name, title+" by "+unit)
	}
	return files
}

func viewName(subject, by string) string {
	name := subject + "_in_total"
	if by != "" {
		name = subject + "_by_" + by
	}
	if len(name) > 63 {
		name = strings.TrimRight(name[:63], "_")
	}
	return name
}

func (s *sample) hasColumn(name string) bool {
	for _, c := range s.types {
		if c.Name == name {
			return true
		}
	}
	return false
}

// timeKey groups by hour if the file spans less than three days, else by day.
func (s *sample) timeKey() (sql, unit string) {
	at := s.eventTime
	if at < 0 && len(s.moments) > 0 {
		at = s.moments[0]
	}
	if at < 0 {
		for _, c := range s.types {
			if c.Type.Kind == project.Date {
				return ident(c.Name), "day"
			}
		}
		return "", ""
	}
	unit = "day"
	if c := s.columns[at]; c.lastKey-c.firstKey < 3*86_400 {
		unit = "hour"
	}
	return fmt.Sprintf("time_bucket(INTERVAL '1 %s', %s)", unit, ident(s.types[at].Name)), unit
}

// reserved are DuckDB's keywords that need quotes as a name.
var reserved = func() map[string]bool {
	words := map[string]bool{}
	for _, w := range strings.Fields(`all analyse analyze and any array as asc asymmetric both case cast check collate column constraint create default
		deferrable desc describe distinct do else end except false fetch for foreign from group having in initially intersect into lambda lateral
		leading limit not null offset on only or order pivot pivot_longer pivot_wider placing primary qualify references returning select show some
		summarize symmetric table then to trailing true union unique unpivot using variadic when where window with
		asof authorization binary collation concurrently cross freeze full generated glob ilike inner is isnull join left like map
		natural notnull outer overlaps positional right semi anti similar struct tablesample try_cast verbose
		at between bigint bit boolean char character coalesce columns dec decimal exists extract float grouping_id inout int integer interval
		nchar national none nullif numeric operator out overlay position precision real row setof smallint substring time timestamp treat trim
		values varchar xmlattributes xmlconcat xmlelement xmlexists xmlforest xmlnamespaces xmlparse xmlpi xmlroot xmlserialize xmltable`) {
		words[w] = true
	}
	return words
}()

// ident quotes a name if SQL requires it.
func ident(name string) string {
	if reserved[name] {
		return `"` + name + `"`
	}
	return name
}
