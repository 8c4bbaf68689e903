package event

// Units of a time in microseconds.
const (
	microsecond = 1
	second      = 1_000_000 * microsecond
	day         = 86_400 * second
)

// stamp is a date and time as written in a text.
type stamp struct {
	days   int64 // since 1970-01-01
	micros int64 // since midnight
	offset int64 // seconds east of UTC, if zoned
	zoned  bool
}

// wall returns the date and time in microseconds since 1970-01-01 00:00, without
// applying the offset.
func (t *stamp) wall() int64 { return t.days*day + t.micros }

// The first and last day of a DATE or TIMESTAMP, in days since 1970-01-01. DuckDB,
// Parquet and RFC 3339 all hold the days between them exactly.
var (
	firstDay = civil(1, 1, 1)
	lastDay  = civil(9999, 12, 31)
)

// inYears reports whether micros is within the years 0001 to 9999.
func inYears(micros int64) bool {
	return micros >= firstDay*day && micros < (lastDay+1)*day
}

// civil returns the number of days from 1970-01-01 to a date of the proleptic
// Gregorian calendar (Howard Hinnant, "chrono-Compatible Low-Level Date
// Algorithms", days_from_civil).
func civil(year, month, dayOfMonth int) int64 {
	y := int64(year)
	if month <= 2 {
		y--
	}
	era := y / 400
	if y < 0 {
		era = (y - 399) / 400
	}
	yearOfEra := y - era*400
	m := int64(month+9) % 12
	dayOfYear := (153*m+2)/5 + int64(dayOfMonth) - 1
	return era*146_097 + yearOfEra*365 + yearOfEra/4 - yearOfEra/100 + dayOfYear - 719_468
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

func leap(year int) bool { return year%4 == 0 && (year%100 != 0 || year%400 == 0) }

func daysIn(year, month int) int {
	switch month {
	case 2:
		if leap(year) {
			return 29
		}
		return 28
	case 4, 6, 9, 11:
		return 30
	}
	return 31
}

// twoDigits returns the value of b[i:i+2], or -1.
func twoDigits(b []byte, i int) int {
	if i+2 > len(b) || !isDigit(b[i]) || !isDigit(b[i+1]) {
		return -1
	}
	return int(b[i]-'0')*10 + int(b[i+1]-'0')
}

// isoDate reads YYYY-MM-DD at the start of b.
func (t *stamp) isoDate(b []byte) conversion {
	if len(b) < 10 || b[4] != '-' || b[7] != '-' {
		return mismatch
	}
	c, y, m, d := twoDigits(b, 0), twoDigits(b, 2), twoDigits(b, 5), twoDigits(b, 8)
	if c < 0 || y < 0 {
		return mismatch
	}
	return t.setDate(c*100+y, m, d)
}

func (t *stamp) setDate(year, month, dayOfMonth int) conversion {
	if month < 1 || month > 12 || dayOfMonth < 1 || dayOfMonth > daysIn(year, month) {
		return mismatch
	}
	if year < 1 || year > 9999 {
		return outOfRange
	}
	t.days = civil(year, month, dayOfMonth)
	return exact
}

// isoClock reads HH:MM[:SS[.fraction]] at the start of b.
func (t *stamp) isoClock(b []byte) (rest []byte, v conversion) {
	h, m, s := twoDigits(b, 0), -1, 0
	if h >= 0 && len(b) >= 5 && b[2] == ':' {
		m = twoDigits(b, 3)
	}
	if m < 0 {
		return nil, mismatch
	}
	rest, v = b[5:], exact
	fraction := int64(0)
	if len(rest) > 0 && rest[0] == ':' {
		if s = twoDigits(rest, 1); s < 0 {
			return nil, mismatch
		}
		rest = rest[3:]
		if len(rest) > 0 && rest[0] == '.' {
			n := 0
			if fraction, n, v = readFraction(rest[1:]); n == 0 {
				return nil, mismatch
			}
			rest = rest[1+n:]
		}
	}
	if h > 23 || m > 59 || s > 59 {
		return nil, mismatch
	}
	t.micros = int64(h*3600+m*60+s)*second + fraction
	return rest, v
}

// readFraction reads the digits of a fraction of a second. It returns microseconds
// and the number of digits; the conversion is inexact if a digit after the sixth is
// not zero.
func readFraction(b []byte) (micros int64, n int, v conversion) {
	for ; n < len(b) && isDigit(b[n]); n++ {
		if n < 6 {
			micros = micros*10 + int64(b[n]-'0')
		} else if b[n] != '0' {
			v = inexact
		}
	}
	for i := n; i < 6; i++ {
		micros *= 10
	}
	return micros, n, v
}

// isoOffset reads b, which is empty or an optional blank and Z, UTC, +HH, +HHMM or
// +HH:MM.
func (t *stamp) isoOffset(b []byte) conversion {
	if len(b) == 0 {
		return exact
	}
	if b[0] == ' ' {
		b = b[1:]
	}
	if string(b) == "Z" || string(b) == "z" || string(b) == "UTC" {
		t.zoned = true
		return exact
	}
	offset, n := readOffset(b)
	if n == 0 || n != len(b) {
		return mismatch
	}
	t.offset, t.zoned = offset, true
	return exact
}

// readOffset reads +HH, +HHMM or +HH:MM at the start of b. It returns seconds and
// the number of bytes read, 0 if there is no offset.
func readOffset(b []byte) (seconds int64, n int) {
	if len(b) < 3 || b[0] != '+' && b[0] != '-' {
		return 0, 0
	}
	h, m := twoDigits(b, 1), 0
	n = 3
	if len(b) > 3 && b[3] == ':' {
		m, n = twoDigits(b, 4), 6
	} else if len(b) > 3 && isDigit(b[3]) {
		m, n = twoDigits(b, 3), 5
	}
	if h < 0 || h > 23 || m < 0 || m > 59 {
		return 0, 0
	}
	seconds = int64(h*3600 + m*60)
	if b[0] == '-' {
		seconds = -seconds
	}
	return seconds, n
}

// iso reads a date with an optional clock and offset.
func (t *stamp) iso(b []byte) conversion {
	*t = stamp{}
	if v := t.isoDate(b); v != exact {
		return v
	}
	if len(b) == 10 {
		return exact
	}
	if b[10] != 'T' && b[10] != ' ' && b[10] != 't' {
		return mismatch
	}
	rest, v := t.isoClock(b[11:])
	if v == mismatch {
		return v
	}
	return max(v, t.isoOffset(rest))
}
