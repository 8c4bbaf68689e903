package event

import (
	"math"
	"math/bits"
	"strconv"
	"unsafe"

	"duet/schemas/project"
)

// number is a decimal number in a text. If simple is set, its value is
// (-1)^neg * mant * 10^-scale; otherwise only the text has the value.
type number struct {
	text   []byte // including sign and exponent
	mant   uint64
	scale  int // digits after the point
	neg    bool
	simple bool // no exponent and at most 18 digits, not counting leading zeros
}

// number reads a JSON number at i.
func (s *scanner) number(i int, n *number) int {
	b, start := s.b, i
	if b[i] == '-' {
		i++
	}
	if i+1 < len(b) && b[i] == '0' && isDigit(b[i+1]) {
		return s.bad(start, "a number starts with 0")
	}
	end, ok := n.read(b, start, false)
	if !ok {
		return s.bad(start, "a malformed number")
	}
	return end
}

// parseText reads a number that fills a string. Unlike a JSON number it may have a
// leading + or zeros, and no digits on one side of the point.
func (n *number) parseText(b []byte) bool {
	end, ok := n.read(b, 0, true)
	return ok && end == len(b)
}

func isDigit(c byte) bool { return c-'0' <= 9 }

// read reads the longest number at b[i]. Unless loose is set, both sides of a point
// must have digits.
func (n *number) read(b []byte, i int, loose bool) (end int, ok bool) {
	start := i
	n.neg, n.scale = false, 0
	if i < len(b) && (b[i] == '-' || loose && b[i] == '+') {
		n.neg = b[i] == '-'
		i++
	}
	mant, digits := uint64(0), 0
	from := i
	for ; i < len(b) && b[i]-'0' <= 9; i++ {
		mant = mant*10 + uint64(b[i]-'0') // overflows only if digits exceeds 18; mant is then unused
		if mant != 0 {
			digits++
		}
	}
	whole := i - from
	if whole == 0 && !loose {
		return i, false
	}
	if i < len(b) && b[i] == '.' {
		i++
		from = i
		for ; i < len(b) && b[i]-'0' <= 9; i++ {
			mant = mant*10 + uint64(b[i]-'0')
			if mant != 0 || digits > 0 {
				digits++
			}
		}
		n.scale = i - from
		if n.scale == 0 && !(loose && whole > 0) {
			return i, false
		}
	}
	if whole+n.scale == 0 {
		return i, false
	}
	n.simple = digits <= 18
	if i < len(b) && b[i]|0x20 == 'e' {
		n.simple = false
		i++
		if i < len(b) && (b[i] == '-' || b[i] == '+') {
			i++
		}
		from = i
		for i < len(b) && b[i]-'0' <= 9 {
			i++
		}
		if i == from {
			return i, false
		}
	}
	n.mant, n.text = mant, b[start:i]
	return i, true
}

// conversion is the result of converting a value to a column's type.
type conversion uint8

const (
	exact      conversion = iota
	mismatch              // the text is not a value of the type
	outOfRange            // the type cannot hold a value of this size
	inexact               // the value has more decimals than the type holds
)

// pow10 holds the powers of ten that fit in a uint64.
var pow10 = func() (p [20]uint64) {
	p[0] = 1
	for i := 1; i < len(p); i++ {
		p[i] = p[i-1] * 10
	}
	return p
}()

// floatPow10 holds the powers of ten that a double holds exactly.
var floatPow10 = [...]float64{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11,
	1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22}

// decimal returns the number times 10^scale as a 128-bit two's complement integer.
// The conversion is exact only if that has at most precision digits.
func (n *number) decimal(precision, scale int) (hi int64, lo uint64, v conversion) {
	if n.simple {
		up := scale - n.scale
		if up == 0 || up > 0 && up < len(pow10) {
			h, l := bits.Mul64(n.mant, pow10[up])
			return n.sign(h, l, precision)
		}
		if down := -up; up < 0 && (n.mant == 0 || down < len(pow10) && n.mant%pow10[down] == 0) {
			if n.mant == 0 {
				return 0, 0, exact
			}
			return n.sign(0, n.mant/pow10[down], precision)
		}
	}
	return n.decimalSlow(precision, scale)
}

// sign checks the digits of a magnitude and applies the sign.
func (n *number) sign(hi, lo uint64, precision int) (int64, uint64, conversion) {
	if limit := decimalLimits[precision]; hi > limit[0] || hi == limit[0] && lo >= limit[1] {
		return 0, 0, outOfRange
	}
	if n.neg {
		var carry uint64
		lo, carry = bits.Add64(^lo, 1, 0)
		hi = ^hi + carry
	}
	return int64(hi), lo, exact
}

// decimalLimits holds 10^p as (high, low) words, p from 0 to 38.
var decimalLimits = func() (l [39][2]uint64) {
	l[0] = [2]uint64{0, 1}
	for p := 1; p < len(l); p++ {
		carry, lo := bits.Mul64(l[p-1][1], 10)
		l[p] = [2]uint64{l[p-1][0]*10 + carry, lo}
	}
	return l
}()

// decimalSlow is decimal for any text.
func (n *number) decimalSlow(precision, scale int) (int64, uint64, conversion) {
	digits, exp := n.significant()
	if len(digits) == 0 {
		return 0, 0, exact
	}
	// The value is 0.d1d2... * 10^exp, d1 and the last digit not 0.
	if exp > precision-scale {
		return 0, 0, outOfRange
	}
	zeros := exp + scale - len(digits)
	if zeros < 0 {
		return 0, 0, inexact
	}
	var hi, lo uint64
	for i := range len(digits) + zeros {
		carry, l := bits.Mul64(lo, 10)
		hi = hi*10 + carry
		d := uint64(0)
		if i < len(digits) {
			d = uint64(digits[i] - '0')
		}
		var c uint64
		lo, c = bits.Add64(l, d, 0)
		hi += c
	}
	return n.sign(hi, lo, precision)
}

// tooFar is larger than every exponent that can be in range, and small enough that
// sums do not overflow.
const tooFar = 1 << 40

// significant returns the digits from the first to the last that is not 0, and the
// exponent e such that the value is 0.digits * 10^e.
func (n *number) significant() (digits []byte, e int) {
	b := n.text
	if b[0] == '-' || b[0] == '+' {
		b = b[1:]
	}
	mantissa, point, exp := b, -1, 0
	for i, c := range b {
		if c == '.' {
			point = i
		} else if c|0x20 == 'e' {
			mantissa, exp = b[:i], exponent(b[i+1:])
			break
		}
	}
	whole := len(mantissa)
	if point >= 0 {
		whole = point
		joined := make([]byte, 0, len(mantissa))
		mantissa = append(append(joined, mantissa[:point]...), mantissa[point+1:]...)
	}
	for len(mantissa) > 0 && mantissa[0] == '0' {
		mantissa = mantissa[1:]
		whole--
	}
	for len(mantissa) > 0 && mantissa[len(mantissa)-1] == '0' {
		mantissa = mantissa[:len(mantissa)-1]
	}
	return mantissa, whole + exp
}

// exponent reads [+-]digits and limits the result to [-tooFar, tooFar].
func exponent(b []byte) int {
	neg := b[0] == '-'
	if neg || b[0] == '+' {
		b = b[1:]
	}
	e := 0
	for _, c := range b {
		e = min(e*10+int(c-'0'), tooFar)
	}
	if neg {
		return -e
	}
	return e
}

// integer returns the number as an integer between lo and hi.
func (n *number) integer(lo, hi int64) (int64, conversion) {
	if n.simple && n.scale == 0 {
		v := int64(n.mant)
		if n.neg {
			v = -v
		}
		if v < lo || v > hi {
			return 0, outOfRange
		}
		return v, exact
	}
	h, l, v := n.decimal(19, 0)
	if v != exact {
		return 0, v
	}
	x := int64(l)
	if h != x>>63 || x < lo || x > hi {
		return 0, outOfRange
	}
	return x, exact
}

// double returns the nearest double.
func (n *number) double() (float64, conversion) {
	if n.simple && n.mant < 1<<53 && n.scale < len(floatPow10) {
		// Both are exact, so the division rounds once (Clinger's fast path).
		f := float64(n.mant) / floatPow10[n.scale]
		if n.neg && f != 0 {
			f = -f
		}
		return f, exact
	}
	return n.float(64)
}

// float returns the nearest floating-point number of 32 or 64 bits.
func (n *number) float(size int) (float64, conversion) {
	f, err := strconv.ParseFloat(unsafe.String(unsafe.SliceData(n.text), len(n.text)), size)
	if err != nil {
		return 0, outOfRange // the text is a number, so only its size can be wrong
	}
	if f == 0 {
		f = 0 // -0 is 0
	}
	return f, exact
}

// integerRange returns the range of an integer type.
func integerRange(k project.Kind) (lo, hi int64) {
	switch k {
	case project.TinyInt:
		return math.MinInt8, math.MaxInt8
	case project.SmallInt:
		return math.MinInt16, math.MaxInt16
	case project.Integer:
		return math.MinInt32, math.MaxInt32
	}
	return math.MinInt64, math.MaxInt64
}
