package search

import (
	"encoding/json"
	"fmt"
	"math/big"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"
)

// kind is a kind of values; several kinds may share a SQL type.
type kind int

const (
	kBool kind = iota
	kTiny
	kSmall
	kInt
	kBig
	kDec
	kFloat  // eighths, so that sums are exact in any order
	kDouble // eighths too
	kWild   // a DOUBLE with extremes; never summed
	kText
	kCode // a VARCHAR that is a number, but for a poisonous one
	kDate
	kTime
	kStamp
	kUUID
	kEvent // the event time
)

// column is a stream's column.
type column struct {
	name    string
	member  string // of the JSON object
	kind    kind
	p, s    int // of a DECIMAL
	notNull bool
}

func (c *column) sqlType() string {
	switch c.kind {
	case kDec:
		return fmt.Sprintf("DECIMAL(%d,%d)", c.p, c.s)
	case kEvent:
		return "TIMESTAMP"
	}
	return [...]string{"BOOLEAN", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "", "FLOAT", "DOUBLE", "DOUBLE", "VARCHAR", "VARCHAR", "DATE", "TIME", "TIMESTAMP", "UUID"}[c.kind]
}

func (c *column) integer() bool { return c.kind >= kTiny && c.kind <= kBig }

// summable reports whether sums are exact in any order.
func (c *column) summable() bool { return c.kind >= kTiny && c.kind <= kDouble && c.p < 38 }

// squarable reports whether variance is exact enough to compare with plain DuckDB.
func (c *column) squarable() bool {
	return c.kind >= kTiny && c.kind <= kInt || c.kind == kDec && c.p <= 9 || c.kind == kDouble || c.kind == kFloat
}

// value is one value of a record: as it is sent, and what it means.
type value struct {
	json string // "" is a member that is not there
	null bool
	text string // canonical: what DuckDB casts into the column's type
}

func pick[T any](r *rand.Rand, from ...T) T { return from[r.IntN(len(from))] }

func chance(r *rand.Rand, percent int) bool { return r.IntN(100) < percent }

func quote(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return string(b)
}

var (
	texts = []string{"a", "b", "c", "A", "", " x ", "NULL", "Ä", "日本", "🦆", `a"b\c`, "a'b", "a\nb\t", "%", "e\u0301", strings.Repeat("long ", 60)}
	uuids = []string{"00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff", "123e4567-e89b-12d3-a456-426614174000", "80000000-0000-0000-0000-000000000001"}
	dates = []string{"2024-02-28", "2024-02-29", "2024-03-01", "0001-01-01", "9999-12-31", "1969-12-31"}
	times = []string{"00:00:00", "23:59:59.999999", "12:00:00", "12:00:00.5"}
	moods = []string{"2024-02-29 23:59:59.999999", "2024-03-01 00:00:00", "1969-12-31 23:59:59.5", "0001-01-01 00:00:00", "9999-12-31 23:59:59"}
)

// good returns a random value that the column accepts.
func (c *column) good(r *rand.Rand) value {
	if !c.notNull && chance(r, 10) {
		return value{null: true, json: pick(r, "null", "")}
	}
	switch c.kind {
	case kBool:
		v := pick(r, "true", "false")
		return value{text: v, json: pick(r, v, v, quote(strings.ToUpper(v)))}
	case kTiny, kSmall, kInt, kBig:
		bits := []int{8, 16, 32, 64}[c.kind-kTiny]
		v := int64(r.IntN(9) - 3)
		switch r.IntN(12) {
		case 0:
			v = 1<<(bits-1) - 1
		case 1:
			v = -1 << (bits - 1)
		case 2:
			v = int64(r.IntN(100))
		}
		s := strconv.FormatInt(v, 10)
		return value{text: s, json: pick(r, s, s, s, quote(s), s+".0", s+"e0", quote(s+".00"))}
	case kDec:
		return c.decimal(r)
	case kFloat, kDouble:
		v := float64(r.IntN(400)-100) / 8
		s := strconv.FormatFloat(v, 'f', -1, 64)
		return value{text: s, json: pick(r, s, s, quote(s), s+"e0")}
	case kWild:
		s := pick(r, "0", "0.1", "-0.1", "1e308", "-1e308", "5e-324", "1.5", "123456789.123456789", "9007199254740993")
		if chance(r, 10) {
			return value{text: "0", json: "-0.0"}
		}
		return value{text: s, json: pick(r, s, quote(s))}
	case kText:
		s := pick(r, texts...)
		if chance(r, 50) {
			s = pick(r, texts[:4]...)
		}
		j := quote(s)
		if chance(r, 20) {
			j = strings.NewReplacer("a", `\u0061`, "🦆", `\ud83e\udd86`, "Ä", `\u00C4`).Replace(j)
		}
		return value{text: s, json: j}
	case kCode:
		s := strconv.Itoa(r.IntN(100) - 20)
		return value{text: s, json: quote(s)}
	case kDate:
		s := pick(r, dates...)
		return value{text: s, json: quote(pick(r, s, s, s+"T00:00:00"))}
	case kTime:
		s := pick(r, times...)
		return value{text: s, json: quote(s)}
	case kStamp: // sent with its offset, for a stream's zone would read it otherwise
		s := pick(r, moods...)
		return value{text: s, json: quote(pick(r, s+"Z", strings.Replace(s, " ", "T", 1)+"+00:00"))}
	case kUUID:
		s := pick(r, uuids...)
		return value{text: s, json: quote(pick(r, s, strings.ToUpper(s)))}
	}
	panic("the event time is drawn elsewhere")
}

func (c *column) decimal(r *rand.Rand) value {
	n := big.NewInt(int64(r.IntN(2000) - 500))
	limit := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(c.p)), nil)
	switch r.IntN(10) {
	case 0:
		n.Sub(limit, big.NewInt(1))
	case 1:
		n.Sub(big.NewInt(1), limit)
	case 2, 3:
		n.SetUint64(r.Uint64()).Mod(n, limit)
	}
	n.Rem(n, limit)
	digits := new(big.Int).Abs(n).String()
	for len(digits) <= c.s {
		digits = "0" + digits
	}
	s := digits[:len(digits)-c.s]
	if c.s > 0 {
		s += "." + digits[len(digits)-c.s:]
	}
	if n.Sign() < 0 {
		s = "-" + s
	}
	j := s
	if c.s > 0 {
		j = pick(r, s, s+"000", strings.TrimRight(strings.TrimRight(s, "0"), "."))
	}
	return value{text: s, json: pick(r, j, quote(j), quote(j))}
}

// bad returns random JSON that the column rejects.
func (c *column) bad(r *rand.Rand) string {
	if c.notNull && chance(r, 30) {
		return pick(r, "null", "")
	}
	switch c.kind {
	case kBool:
		return pick(r, "1", `"yes"`, "[true]")
	case kTiny:
		return pick(r, "128", "-129", "1.5", `""`, `"x"`)
	case kSmall:
		return pick(r, "32768", "1e5", `"0x1"`)
	case kInt:
		return pick(r, "2147483648", "-2147483649", "0.1", "true", `"1 000"`)
	case kBig:
		return pick(r, "9223372036854775808", "1e400", `"NaN"`, "{}")
	case kDec:
		return pick(r, "1e"+strconv.Itoa(c.p-c.s), `"0.`+strings.Repeat("0", c.s)+`1"`, `"1,5"`, "false")
	case kFloat:
		return pick(r, "1e39", `"inf"`, `"abc"`)
	case kDouble, kWild:
		return pick(r, "1e999", `"nan"`, "[]")
	case kText, kCode:
		return pick(r, "5", "true", `"\ud800"`, "[\"a\"]")
	case kDate:
		return pick(r, `"2024-02-30"`, "20240101", `"2024-01-01T10:00:00"`, `"0000-01-01"`)
	case kTime:
		return pick(r, `"24:00:01"`, `"12"`, "5")
	case kStamp, kEvent:
		return pick(r, `"yesterday"`, "1700000000", `"2024-01-01T00:00:00.1234567Z"`, `"10000-01-01T00:00:00Z"`)
	}
	return pick(r, `"123"`, "7", `"123e4567-e89b-12d3-a456-42661417400g"`)
}

// newColumn returns a random column.
func newColumn(r *rand.Rand, i int) *column {
	c := &column{name: fmt.Sprintf("c%d", i), kind: kind(r.IntN(int(kUUID) + 1)), notNull: chance(r, 30)}
	if c.kind == kCode {
		c.kind = kText // the poisonous column is declared on purpose
	}
	if c.kind == kDec {
		d := pick(r, [2]int{18, 4}, [2]int{18, 18}, [2]int{9, 2}, [2]int{4, 0}, [2]int{28, 6}, [2]int{38, 10})
		c.p, c.s = d[0], d[1]
	}
	c.member = c.name
	if chance(r, 15) {
		c.member = pick(r, "Column ", "größe ") + strconv.Itoa(i)
	}
	return c
}

// instant returns a random event time.
func (s *stream) instant(r *rand.Rand, now time.Time) value {
	t := time.Date(2026, 3, 28, 22, 0, 0, 0, time.UTC).Add(time.Duration(r.IntN(36)) * 10 * time.Minute) // ties, and a change of clocks
	switch r.IntN(20) {
	case 0:
		t = t.Add(-90 * 24 * time.Hour)
	case 1:
		t = time.Date(1, 6, 1, 0, 0, 0, 0, time.UTC)
	case 2:
		t = now.Truncate(time.Hour).Add(20 * time.Hour)
	case 3:
		t = t.Add(time.Duration(r.IntN(1e6)) * time.Microsecond)
	case 4:
		if !s.bounded {
			t = time.Date(9990, 12, 31, 12, 0, 0, 0, time.UTC)
		}
	}
	form := pick(r, "2006-01-02T15:04:05.999999Z", "2006-01-02 15:04:05.999999Z", "2006-01-02T15:04:05.999999+00:00")
	j := t.Format(form)
	switch {
	case s.zone == nil && chance(r, 30):
		j = t.Format("2006-01-02 15:04:05.999999")
	case chance(r, 20):
		j = t.Add(330*time.Minute).Format("2006-01-02T15:04:05.999999") + "+05:30"
	case s.zone != nil && chance(r, 30) && plain(t, s.zone):
		j = t.In(s.zone).Format("2006-01-02T15:04:05.999999")
	}
	return value{json: quote(j), text: t.Format("2006-01-02 15:04:05.999999")}
}

// plain reports whether no clock change is near, so that a wall-clock time is one
// instant.
func plain(t time.Time, zone *time.Location) bool {
	_, a := t.Add(-4 * time.Hour).In(zone).Zone()
	_, b := t.Add(4 * time.Hour).In(zone).Zone()
	return a == b && a%60 == 0
}
