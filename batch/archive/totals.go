package archive

import (
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"

	"duet/schemas"
)

// Totals are the control totals of a stream over a span: its account, and the
// exact sum of each DECIMAL and integer column over the accepted events, as
// decimal text. A column wider than 28 digits has none.
type Totals struct {
	schemas.Account
	Sums map[string]string `json:"sums,omitempty"`
}

// Plus returns the totals of t and u together.
func (t Totals) Plus(u Totals) Totals {
	out := Totals{Account: t.Account, Sums: AddSums(t.Sums, u.Sums)}
	out.Add(u.Account)
	return out
}

// Minus returns the totals of t without u, an earlier state of the same stream.
func (t Totals) Minus(u Totals) Totals {
	return Totals{
		Account: schemas.Account{
			Received: t.Received - u.Received, Accepted: t.Accepted - u.Accepted,
			Duplicate: t.Duplicate - u.Duplicate, Rejected: t.Rejected - u.Rejected,
		},
		Sums: combine(t.Sums, u.Sums, func(a, b *big.Int) { a.Sub(a, b) }),
	}
}

// Differences describes the differences between t and u, such as "accepted 5,
// 6". It compares only columns that both sum.
func (t Totals) Differences(u Totals) []string {
	var out []string
	for _, c := range []struct {
		name string
		a, b int64
	}{
		{"received", t.Received, u.Received}, {"accepted", t.Accepted, u.Accepted},
		{"duplicate", t.Duplicate, u.Duplicate}, {"rejected", t.Rejected, u.Rejected},
	} {
		if c.a != c.b {
			out = append(out, fmt.Sprintf("%s %d, %d", c.name, c.a, c.b))
		}
	}
	for _, col := range slices.Sorted(maps.Keys(t.Sums)) {
		b, ok := u.Sums[col]
		if a := t.Sums[col]; ok && !EqualDecimal(a, b) {
			out = append(out, fmt.Sprintf("sum(%s) %s, %s", col, a, b))
		}
	}
	return out
}

// AddSums adds two sets of sums column by column.
func AddSums(a, b map[string]string) map[string]string {
	return combine(a, b, func(x, y *big.Int) { x.Add(x, y) })
}

func addDecimals(a, b string) string {
	return combineDecimal(a, b, func(x, y *big.Int) { x.Add(x, y) })
}

func combine(a, b map[string]string, op func(x, y *big.Int)) map[string]string {
	if len(a)+len(b) == 0 {
		return nil
	}
	out := maps.Clone(a)
	if out == nil {
		out = map[string]string{}
	}
	for col, y := range b {
		out[col] = combineDecimal(out[col], y, op)
	}
	return out
}

// EqualDecimal compares two exact decimals as numbers: 1.50 equals 1.5.
func EqualDecimal(a, b string) bool {
	return strings.Trim(combineDecimal(a, b, func(x, y *big.Int) { x.Sub(x, y) }), "0.") == ""
}

// combineDecimal applies op to two exact decimals; "" is 0. The result has the
// larger of the two scales.
func combineDecimal(a, b string, op func(x, y *big.Int)) string {
	scale := max(scaleOf(a), scaleOf(b))
	x, y := unscaled(a, scale), unscaled(b, scale)
	op(x, y)
	text := x.String()
	if scale == 0 {
		return text
	}
	sign := ""
	if strings.HasPrefix(text, "-") {
		sign, text = "-", text[1:]
	}
	if len(text) <= scale {
		text = strings.Repeat("0", scale-len(text)+1) + text
	}
	return sign + text[:len(text)-scale] + "." + text[len(text)-scale:]
}

func scaleOf(s string) int {
	_, frac, _ := strings.Cut(s, ".")
	return len(frac)
}

// unscaled returns s * 10^scale, and 0 if s is not a decimal: sums come from
// DuckDB or from a sealed manifest.
func unscaled(s string, scale int) *big.Int {
	whole, frac, _ := strings.Cut(s, ".")
	n, ok := new(big.Int).SetString(whole+frac+strings.Repeat("0", scale-len(frac)), 10)
	if !ok {
		return new(big.Int)
	}
	return n
}
