package view

import (
	"fmt"
	"strings"

	"duet/internal/base/duck"
)

// Variance of integers and decimals of at most 18 digits is computed from exact
// sums of the unscaled integers X: n, s = Σ X and q = Σ X². For 18-digit numbers
// q exceeds 38 digits within a hundred rows, so it is kept as two cells,
// Σ (X² // P) and Σ (X² % P) with P = 10^18.
//
// The textbook n*q - s² would exceed 38 digits too, and in DOUBLE it loses all
// digits when the deviation is small compared with the mean. Final SQL therefore
// centres first, in integers only, with m = s // n and r = s - m*n:
//
//	S = Σ (X-m)² = q - m*(s+r)          two-word arithmetic, base P
//	Σ (X-mean)²  = S - r²/n             exact while S < P
//
// Variance of DOUBLE keeps n, mean and M2 = Σ (x-mean)², merged as Chan,
// Golub and LeVeque do (Algorithms for computing the sample variance, 1983).
// Sums of squares of DOUBLE would cancel.

// squares names the cells of one exact variance. Final SQL adds the column
// result, Σ (X-mean)² as DOUBLE.
type squares struct {
	n, s   string // quoted cells: count, and sum with the argument's scale
	scale  int
	q      []string // one cell Σ X², or two: Σ X² // P and Σ X² % P
	result string   // quoted
}

const wordBase = "1000000000000000000" // P, 10^18

func (x *compilation) variance(a *aggregate, f *formula) {
	t := a.argType[0]
	if !t.numeric() {
		x.unsupported(a, t, "cast the argument to a number: epoch_us(x) for a time")
		return
	}
	f.tolerance = averageTolerance
	var n, m2, scale, rounded string
	if t.float() || t.wide() {
		n, m2 = x.centredCells(a)
		rounded = rounding + " * " + x.magnitudes[m2]
		x.inexact(a, f)
	} else {
		sq := x.squareCells(a)
		n, m2 = sq.n, sq.result
		if sq.scale > 0 {
			scale = " / 1e" + itoa(2*sq.scale)
		}
	}
	degrees, least := n, "1"
	if strings.HasSuffix(a.name, "samp") {
		degrees, least = "("+n+" - 1)", "2"
	}
	value := func(m2 string) string {
		sql := "greatest(" + m2 + " / " + degrees + scale + ", 0)"
		if strings.HasPrefix(a.name, "stddev") {
			sql = "sqrt(" + sql + ")"
		}
		return "CASE WHEN " + n + " >= " + least + " THEN " + sql + " END"
	}
	f.sql = value(m2)
	if rounded != "" {
		f.bound = value("("+m2+" + "+rounded+")") + " - " + f.sql
	}
}

func (x *compilation) squareCells(a *aggregate) squares {
	t := a.argType[0]
	sq := squares{n: x.countCell(a), s: x.sumCell(a), scale: t.scale}
	if t.decimal() && t.width <= 9 || t.integer() && integerDigits[t.base] <= 10 {
		// X² fits into a BIGINT.
		whole := cast(a.argSQL[0], "BIGINT")
		if t.scale > 0 {
			whole = cast(cast(a.argSQL[0], "DECIMAL(18,"+itoa(t.scale)+")")+" * "+power10(t.scale), "BIGINT")
		}
		sq.q = []string{x.wordCell(filtered("sum("+whole+" * "+whole+")", a.filterSQL))}
	} else {
		whole := cast(a.argSQL[0], "HUGEINT")
		if t.scale > 0 {
			whole = cast(cast(a.argSQL[0], "DECIMAL(38,"+itoa(t.scale)+")")+" * "+power10(t.scale), "HUGEINT")
		}
		square := "(" + whole + " * " + whole + ")"
		sq.q = []string{
			x.wordCell(filtered("sum("+square+" // "+wordBase+")", a.filterSQL)),
			x.wordCell(filtered("sum("+square+" % "+wordBase+")", a.filterSQL)),
		}
	}
	for _, have := range x.sqs {
		if have.n == sq.n && have.s == sq.s && have.q[0] == sq.q[0] {
			return have
		}
	}
	sq.result = duck.Ident("q" + itoa(len(x.sqs)))
	x.sqs = append(x.sqs, sq)
	return sq
}

func (x *compilation) wordCell(sum string) string {
	return x.cellRef(cell{cast(sum, "DECIMAL(38,0)"), "DECIMAL(38,0)", cast("sum(%s)", "DECIMAL(38,0)"), true})
}

// centredCells adds the cells n, mean and M2 over the argument cast to DOUBLE.
//
// The rounding of the mean is relative to the mean of |x|, which the root of the
// mean square bounds; that of M2 is relative to sqrt(M2 · Σ x²). Both follow from
// n, mean and M2, because Σ x² = M2 + n·mean².
func (x *compilation) centredCells(a *aggregate) (n, m2 string) {
	arg := cast(a.argSQL[0], "DOUBLE")
	n = x.countCell(a)
	const mean = "sum(%[1]s * %[2]s) / sum(%[1]s)"
	m := x.cellRef(cell{filtered("avg("+arg+")", a.filterSQL), "DOUBLE", fmt.Sprintf(mean, n, "%s"), false})
	// Between the parts: Σ n(m-M)², with M the merged mean.
	merged := fmt.Sprintf(mean, n, m)
	between := "coalesce(list_sum(list_transform(list({'n': " + n + ", 'm': " + m + "}) FILTER (WHERE " + n + " > 0), lambda z: z.n * (z.m - " + merged + ") ** 2)), 0)"
	m2 = x.cellRef(cell{filtered("var_pop("+arg+")", a.filterSQL) + " * " + filtered("count("+a.argSQL[0]+")", a.filterSQL), "DOUBLE", "sum(%s) + " + between, false})
	x.magnitudes[m] = fmt.Sprintf("sqrt(%[1]s * %[1]s + abs(%[2]s) / %[3]s)", m, m2, n)
	x.magnitudes[m2] = fmt.Sprintf("sqrt(abs(%[2]s) * (abs(%[2]s) + %[3]s * %[1]s * %[1]s))", m, m2, n)
	return n, m2
}

// stages wraps merged cells in the subqueries that compute every squares.result.
// Each step is a subquery of its own so that no expression is written twice.
func stages(from string, all []squares) string {
	if len(all) == 0 {
		return from
	}
	step := func(columns func(sq squares, v func(string) string) []string) {
		var cols []string
		for i, sq := range all {
			cols = append(cols, columns(sq, func(name string) string { return duck.Ident("q" + itoa(i) + "_" + name) })...)
		}
		from = "(SELECT *, " + strings.Join(cols, ", ") + " FROM " + from + ")"
	}
	step(func(sq squares, v func(string) string) []string {
		hi, lo := cast(sq.q[0], "HUGEINT"), ""
		if len(sq.q) == 1 {
			hi, lo = hi+" // "+wordBase, hi+" % "+wordBase
		} else {
			lo = cast(sq.q[1], "HUGEINT")
		}
		return []string{unscaled(sq.s, sq.scale) + " AS " + v("s"), hi + " AS " + v("qh"), lo + " AS " + v("ql")}
	})
	step(func(sq squares, v func(string) string) []string {
		return []string{v("s") + " // " + sq.n + " AS " + v("m")}
	})
	step(func(sq squares, v func(string) string) []string {
		return []string{v("s") + " - " + v("m") + " * " + sq.n + " AS " + v("r")}
	})
	step(func(sq squares, v func(string) string) []string {
		t := "(" + v("s") + " + " + v("r") + ")"
		return []string{
			v("qh") + " - " + v("m") + " * (" + t + " // " + wordBase + ") AS " + v("h"),
			v("m") + " * (" + t + " % " + wordBase + ") AS " + v("u"),
		}
	})
	step(func(sq squares, v func(string) string) []string {
		return []string{
			v("h") + " - " + v("u") + " // " + wordBase + " AS " + v("h1"),
			v("ql") + " - " + v("u") + " % " + wordBase + " AS " + v("l1"),
		}
	})
	step(func(sq squares, v func(string) string) []string {
		return []string{
			v("h1") + " + " + v("l1") + " // " + wordBase + " AS " + v("h2"),
			v("l1") + " % " + wordBase + " AS " + v("l2"),
		}
	})
	step(func(sq squares, v func(string) string) []string {
		n := sq.n
		small := v("h2") + " * " + wordBase + " + " + v("l2")
		correction := cast(v("r")+" * "+v("r"), "DOUBLE") + " / " + n
		return []string{"CASE WHEN abs(" + v("h2") + ") <= 1 AND " + n + " < " + wordBase +
			" THEN CAST(" + n + " * (" + small + ") - " + v("r") + " * " + v("r") + " AS DOUBLE) / " + n +
			" WHEN abs(" + v("h2") + ") < 10000000000000000000 THEN CAST(" + small + " AS DOUBLE) - " + correction +
			" ELSE CAST(" + v("h2") + " AS DOUBLE) * 1e18 + CAST(" + v("l2") + " AS DOUBLE) - " + correction + " END AS " + sq.result}
	})
	return from
}
