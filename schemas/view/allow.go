package view

import (
	_ "embed"
	"fmt"
	"strings"
)

//go:embed allow.txt
var allowText string

// allowed is the allow-list of allow.txt.
var allowed = mustReadAllowList(allowText)

type denial struct{ reason, remedy string }

type allowList struct {
	nodes      map[string]bool
	casts      map[string]bool
	functions  map[string]string // name -> operator, scalar or macro
	growth     map[string]growth // of each function
	aggregates map[string]string // name -> canonical name
	raises     map[string]string // name -> what to write instead
	denied     map[string]denial
}

func mustReadAllowList(text string) *allowList {
	a, err := readAllowList(text)
	if err != nil {
		panic(err) // cannot happen: the file is embedded and a test reads it
	}
	return a
}

func readAllowList(text string) (*allowList, error) {
	a := &allowList{nodes: map[string]bool{}, casts: map[string]bool{}, functions: map[string]string{}, growth: map[string]growth{},
		aggregates: map[string]string{}, raises: map[string]string{}, denied: map[string]denial{}}
	for i, line := range strings.Split(text, "\n") {
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		kind, rest, _ := strings.Cut(line, " ")
		ok := rest != ""
		switch kind {
		case "node":
			a.nodes[rest] = true
		case "cast":
			a.casts[rest] = true
		case "operator", "scalar", "macro":
			name, typ, _ := strings.Cut(rest, " ")
			a.functions[name] = kind
			a.growth[name], ok = parseGrowth(typ)
		case "aggregate":
			var name, canonical string
			name, canonical, ok = strings.Cut(rest, " ")
			a.aggregates[name] = canonical
		case "raises":
			var name, remedy string
			name, remedy, ok = strings.Cut(rest, ": ")
			a.raises[name] = remedy
		case "deny":
			part := strings.SplitN(rest, ": ", 3)
			if ok = len(part) == 3; ok {
				a.denied[part[0]] = denial{part[1], part[2]}
			}
		default:
			ok = false
		}
		if !ok {
			return nil, fmt.Errorf("allow.txt:%d: %q is not a rule", i+1, line)
		}
	}
	return a, nil
}
