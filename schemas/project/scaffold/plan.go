package scaffold

import (
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"

	"duet/schemas/project"
)

// plan is what the project will declare about the sample.
type plan struct {
	types     []project.Column
	eventTime int   // column, -1 if none is clear
	moments   []int // columns that can be the event time
	dimension int   // column to group by, -1 if none
	quantity  int
	price     int
	amounts   []int // columns of money to sum
}

// decide makes the plan from what was read.
func (s *sample) decide() {
	s.nullTexts()
	if s.pair.b >= 0 {
		s.pair.names = s.columns[s.pair.a].name + ", " + s.columns[s.pair.b].name
	}
	s.columns = slices.DeleteFunc(s.columns, func(c *column) bool { return c.header == "" || len(c.header) > 200 }) // undeclared members are kept with each event
	s.plan = plan{eventTime: -1, dimension: -1, quantity: -1, price: -1}
	for _, c := range s.columns {
		t, format := c.sqlType(s.whole)
		s.types = append(s.types, project.Column{Name: c.name, Type: t, From: c.header, Format: format,
			NotNull: s.whole && c.null(s.csv.Nulls) == 0 && s.rows > s.bad})
	}
	s.decideTime()
	for i, c := range s.columns {
		t := s.types[i].Type
		switch {
		case t.Kind == project.Integer && s.quantity < 0 && quantityName.MatchString(c.name):
			s.quantity = i
		case t.Kind == project.Decimal && s.price < 0 && priceName.MatchString(c.name) && !totalName.MatchString(c.name):
			s.price = i
		case t.Kind == project.Decimal && t.Scale > 0 && !notASum.MatchString(c.name) && !priceName.MatchString(c.name):
			s.amounts = append(s.amounts, i)
		}
	}
	s.dimension = s.bestDimension()
	s.describe()
}

// nullTexts declares a text as NULL if a column that is not text contains it.
func (s *sample) nullTexts() {
	found := map[string]bool{}
	for _, c := range s.columns {
		for t := range c.nullTexts {
			if c.rows > 0 && !c.text {
				found[t] = true
			}
		}
	}
	s.csv.Nulls = append(s.csv.Nulls, slices.Sorted(maps.Keys(found))...)
	if len(found) > 0 {
		s.notes = append(s.notes, fmt.Sprintf("some numbers and times are %s; csv.nulls declares this as NULL", strings.Join(s.csv.Nulls[1:], ", ")))
	}
}

// decideTime declares the event time if exactly one column can be it.
func (s *sample) decideTime() {
	for i, c := range s.types {
		if c.Type.Kind == project.Timestamp && (c.NotNull || !s.whole) {
			s.moments = append(s.moments, i)
		}
	}
	if len(s.moments) == 1 {
		s.eventTime = s.moments[0]
		s.types[s.eventTime].NotNull = true // an event without a time is refused
	}
}

// favourites are common columns to group by, the most common first.
var favourites = []string{"country", "region", "store", "shop", "branch", "category", "channel", "department", "segment", "city", "state", "market", "brand",
	"payment_method", "method", "type", "kind", "status"}

// bestDimension returns a column with few, repeating values, preferring
// favourites; -1 if there is none.
func (s *sample) bestDimension() int {
	type choice struct{ column, rank int }
	var choices []choice
	for i, c := range s.columns {
		kind := s.types[i].Type.Kind
		if kind != project.Varchar && kind != project.Boolean || c.distinct == nil || len(c.distinct) < 2 || len(c.distinct)*2 > c.rows {
			continue
		}
		rank := len(favourites) + len(c.distinct)
		if kind == project.Boolean {
			rank += 2 * maxDistinct
		}
		for r, f := range favourites {
			if strings.Contains(c.name, f) {
				rank = r
				break
			}
		}
		choices = append(choices, choice{i, rank})
	}
	if len(choices) == 0 {
		return -1
	}
	sort.SliceStable(choices, func(a, b int) bool { return choices[a].rank < choices[b].rank })
	return choices[0].column
}

// describe writes the notes for the user.
func (s *sample) describe() {
	what := fmt.Sprintf("%s lines", thousands(s.rows))
	if !s.whole {
		what = "the first " + what + "; NOT NULL is left out because other lines may lack a value"
	}
	s.notes = append([]string{fmt.Sprintf("%s: %s, %d columns", s.file, what, len(s.columns))}, s.notes...)
	if s.bad > 0 {
		s.notes = append(s.notes, fmt.Sprintf("%s malformed lines will be rejected, the first: %s", thousands(s.bad), s.firstBad))
	}
	if s.csv.Encoding != "utf-8" {
		s.notes = append(s.notes, "the file is not UTF-8; it is read as "+s.csv.Encoding)
	}
	for i, c := range s.columns {
		if other, byOrder := c.ambiguous(); other != "" && s.types[i].Format != "" {
			why := "no value distinguishes day and month"
			if byOrder {
				why += "; with this format the file is in order"
			}
			s.notes = append(s.notes, fmt.Sprintf("%s: read as %s, but %s matches too: %s", c.name, s.types[i].Format, other, why))
		}
		if c.jsonNumber && c.jsonText && s.types[i].Type.Kind == project.Varchar {
			s.notes = append(s.notes, fmt.Sprintf("%s: is a text in some records and a number in others; the numbers will be rejected", c.name))
		}
	}
	for name := range s.lists {
		s.notes = append(s.notes, name+": contains lists or deeply nested objects; it is kept with each event but is no column")
	}
	sort.Strings(s.notes[1:])
	if s.eventTime < 0 {
		s.notes = append(s.notes, "no event time is declared: see streams/"+s.stream+".yaml")
	}
}

func thousands(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
