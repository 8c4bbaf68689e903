package project

import (
	"maps"
	"regexp"
	"slices"
	"strings"
)

// namePattern matches the names of streams, views, columns and projects.
var namePattern = regexp.MustCompile(`^[a-z][a-z0-9_]{0,62}$`)

// ValidName reports whether name is valid for a stream, view, column or project.
func ValidName(name string) bool { return namePattern.MatchString(name) }

// checkName returns the reason and the remedy for an invalid name, or two empty
// texts.
func checkName(what, name string) (reason, remedy string) {
	if strings.HasPrefix(name, "_duet_") {
		return what + " name " + quote(name) + " begins with _duet_, which is reserved", "give it another name"
	}
	if namePattern.MatchString(name) {
		return "", ""
	}
	reason = what + " name " + quote(name) + " is not allowed"
	if better := snake(name); namePattern.MatchString(better) && better != name {
		return reason, "write " + better + ": a to z first, then a to z, 0 to 9 and _, at most 63"
	}
	return reason, "use a to z first, then a to z, 0 to 9 and _, at most 63 characters"
}

var wordEnd = regexp.MustCompile(`([a-z0-9])([A-Z])|([A-Z])([A-Z][a-z])`)

// snake converts "InvoiceNo", "Unit Price" and "CustomerID" to invoice_no,
// unit_price and customer_id. The result may still be an invalid name.
func snake(name string) string {
	for range 2 { // adjacent matches overlap by one letter
		name = wordEnd.ReplaceAllString(name, "${1}${3}_${2}${4}")
	}
	var b strings.Builder
	for _, r := range strings.ToLower(name) {
		if plain, ok := plainLetters[r]; ok {
			b.WriteString(plain)
			continue
		}
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			b.WriteRune(r)
		} else if b.Len() > 0 && !strings.HasSuffix(b.String(), "_") {
			b.WriteByte('_')
		}
	}
	out := strings.Trim(b.String(), "_")
	if len(out) > 63 {
		out = strings.TrimRight(out[:63], "_")
	}
	return out
}

var plainLetters = map[rune]string{
	'ä': "ae", 'ö': "oe", 'ü': "ue", 'ß': "ss", 'é': "e", 'è': "e", 'ê': "e", 'ë': "e", 'á': "a", 'à': "a", 'â': "a", 'ã': "a",
	'å': "a", 'æ': "ae", 'ç': "c", 'í': "i", 'ì': "i", 'î': "i", 'ï': "i", 'ñ': "n", 'ó': "o", 'ò': "o", 'ô': "o", 'õ': "o", 'ø': "o",
	'ú': "u", 'ù': "u", 'û': "u", 'ý': "y",
}

// SnakeName converts any header to a valid name: "CustomerID" to customer_id. It
// returns fallback if nothing of the header remains.
func SnakeName(header, fallback string) string {
	name := snake(header)
	if name != "" && name[0] >= '0' && name[0] <= '9' {
		name = "c_" + name
		name = strings.TrimRight(name[:min(len(name), 63)], "_")
	}
	if namePattern.MatchString(name) {
		return name
	}
	return fallback
}

// Nearest returns the candidate that name was most likely meant to be, or "".
// Of candidates equally near it returns the first.
func Nearest(name string, candidates []string) string {
	best, bestDistance := "", 1+max(1, len(name)/3)
	lower := strings.ToLower(name)
	for _, c := range candidates {
		d := distance(lower, strings.ToLower(c))
		if snake(name) == c {
			d = 0
		}
		if d < bestDistance && d < len(name) {
			best, bestDistance = c, d
		}
	}
	return best
}

// distance returns the optimal string alignment distance: insertions, deletions,
// substitutions and swaps of adjacent bytes.
func distance(a, b string) int {
	before, last := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row := make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}

func keysOf[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// quote quotes a text for a message, shortened to fit a line.
func quote(text string) string {
	const limit = 60
	if r := []rune(text); len(r) > limit {
		text = string(r[:limit]) + "..."
	}
	return `"` + strings.NewReplacer("\n", `\n`, "\t", `\t`, "\r", `\r`, `"`, `\"`).Replace(text) + `"`
}
