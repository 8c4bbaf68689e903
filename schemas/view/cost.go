package view

import (
	"regexp"
	"strconv"
	"strings"
)

// steps is the cost of one call, weight · Π sizes.
type steps struct {
	weight float64
	sizes  []size
}

func (s steps) at(length float64) float64 {
	total := s.weight
	for _, size := range s.sizes {
		total *= max(size.at(length), 1)
	}
	return total
}

func (s steps) sql() string {
	terms := []string{number(s.weight)}
	for _, size := range s.sizes {
		terms = append(terms, size.sql())
	}
	return strings.Join(terms, " * ")
}

// cost adds the cost of a call that is more than linear.
func (m *measure) cost(n node, name string, g growth, args []node, sizes []size) {
	if g.steps == "" || len(args) < 2 {
		return
	}
	add := func(weight float64, sizes ...size) {
		m.costs = append(m.costs, steps{weight, sizes})
	}
	switch g.steps {
	case "product": // every byte with every other
		for _, s := range sizes[:2] {
			if s.levels > 0 || s.factor() > 2 {
				m.refuse(n, label(name)+" over a text that has grown costs too much", "give it columns or constants")
			}
		}
		add(1, sizes[0], sizes[1])
	case "search": // usually linear, at worst every byte with every other, in a tight loop
		add(0.01, sizes[0], sizes[1])
	case "pattern":
		m.patternCost(n, name, args, sizes, add)
	case "regexp":
		pattern, ok := constantText(args[1])
		if !ok {
			m.refuse(args[1], "the pattern of "+label(name)+" must be a constant", "write the pattern itself; to look for a text write contains(a, b)")
			return
		}
		repeats := 1.0
		for _, counts := range repetition.FindAllStringSubmatch(pattern, -1) {
			for _, c := range counts[1:] {
				if count, err := strconv.ParseFloat(c, 64); err == nil {
					repeats *= max(count, 1)
				}
			}
		}
		add(0.01*repeats*max(float64(len(pattern)), 1), sizes[0])
	}
}

var repetition = regexp.MustCompile(`\{([0-9]+)(?:,([0-9]*))?\}`)

// patternCost adds the cost of LIKE, ILIKE and GLOB. DuckDB tries each wildcard but
// one at the end at every byte, by recursion, so the cost is the length of the text to
// the power of their number. Only a LIKE whose constant pattern has no _ and no escape
// is matched in one pass.
func (m *measure) patternCost(n node, name string, args []node, sizes []size, add func(float64, ...size)) {
	pattern, ok := constantText(args[1])
	if !ok {
		m.refuse(n, "the pattern of "+patternName(name)+" must be a constant", "write the pattern itself; to look for a text write contains(a, b) or starts_with(a, b)")
		return
	}
	wildcard := "%"
	if name == "~~~" {
		wildcard = "*"
	}
	insensitive := strings.Contains(name, "*") && name != "~~~" || strings.Contains(name, "ilike")
	if insensitive {
		m.made = m.made.plus(sizes[0].times(2)) // texts in lower case
	}
	if (name == "~~" || name == "!~~") && !strings.Contains(pattern, "_") {
		return
	}
	count := 0
	for i, part := range strings.Split(strings.TrimRight(pattern, wildcard), wildcard) {
		if i > 0 && part != "" {
			count++
		}
	}
	each := make([]size, 0, count)
	for range count {
		each = append(each, sizes[0])
	}
	if count > 1 {
		add(float64(len(pattern)), each...)
	}
}

func patternName(function string) string {
	switch {
	case function == "~~~":
		return "GLOB"
	case strings.Contains(function, "*") || strings.Contains(function, "ilike"):
		return "ILIKE"
	}
	return "LIKE"
}
