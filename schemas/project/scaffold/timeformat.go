package scaffold

import (
	"bytes"
	"strings"
)

// candidate is a strptime format that has matched every text so far.
type candidate struct {
	format     string // "" is ISO 8601
	hasTime    bool
	last       int64 // key of the previous text
	inversions int   // number of texts that are earlier than the previous one
}

// dates and times are the formats that are tried, the most likely first.
var (
	dates = []string{"%Y-%m-%d", "%m/%d/%Y", "%d/%m/%Y", "%d.%m.%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y/%m/%d", "%m/%d/%y", "%d/%m/%y", "%d.%m.%y",
		"%d-%b-%Y", "%d %b %Y", "%b %d, %Y", "%d %B %Y", "%B %d, %Y", "%Y%m%d"}
	times = []string{"", " %H:%M", " %H:%M:%S", "T%H:%M:%S", " %H:%M:%S.%f", " %I:%M %p", " %I:%M:%S %p"}
)

// candidatesFor returns every format that matches b.
func candidatesFor(b []byte) (list []candidate) {
	if len(b) < 6 || len(b) > 40 {
		return nil
	}
	if key, hasTime, ok := isoTime(b); ok {
		list = append(list, candidate{hasTime: hasTime, last: key})
	}
	for _, d := range dates {
		for _, t := range times {
			if key, ok := matchFormat(d+t, b); ok {
				list = append(list, candidate{format: d + t, hasTime: t != "", last: key})
			}
		}
	}
	return list
}

// keep drops the candidates that do not match b.
func keep(list []candidate, b []byte) []candidate {
	kept := list[:0]
	for _, c := range list {
		var key int64
		var ok bool
		if c.format == "" {
			var hasTime bool
			key, hasTime, ok = isoTime(b)
			c.hasTime = c.hasTime || hasTime
		} else {
			key, ok = matchFormat(c.format, b)
		}
		if !ok {
			continue
		}
		if key < c.last {
			c.inversions++
		}
		c.last = key
		kept = append(kept, c)
	}
	return kept
}

// isoTime parses YYYY-MM-DD[{T| }HH:MM[:SS[.fraction]][Z|±HH[[:]MM]]]. The key
// orders texts of one offset.
func isoTime(b []byte) (key int64, hasTime, ok bool) {
	if len(b) < 10 || b[4] != '-' || b[7] != '-' {
		return 0, false, false
	}
	y, okY := fixed(b[0:4])
	m, okM := fixed(b[5:7])
	d, okD := fixed(b[8:10])
	if !okY || !okM || !okD || y < 1 || !validDay(m, d) {
		return 0, false, false
	}
	key = dayKey(y, m, d) * 86_400
	rest := b[10:]
	if len(rest) == 0 {
		return key, false, true
	}
	if len(rest) < 6 || rest[0] != 'T' && rest[0] != ' ' || rest[3] != ':' {
		return 0, false, false
	}
	h, okH := fixed(rest[1:3])
	mi, okMi := fixed(rest[4:6])
	if !okH || !okMi || h > 23 || mi > 59 {
		return 0, false, false
	}
	key += int64(h*3600 + mi*60)
	rest = rest[6:]
	if len(rest) >= 3 && rest[0] == ':' {
		s, okS := fixed(rest[1:3])
		if !okS || s > 59 {
			return 0, false, false
		}
		key += int64(s)
		rest = rest[3:]
		if len(rest) > 1 && rest[0] == '.' {
			n := 1
			for n < len(rest) && rest[n] >= '0' && rest[n] <= '9' {
				n++
			}
			if n == 1 || n > 7 && len(bytes.Trim(rest[7:n], "0")) > 0 {
				return 0, false, false
			}
			rest = rest[n:]
		}
	}
	return key, true, isOffset(rest)
}

func isOffset(b []byte) bool {
	switch {
	case len(b) == 0, len(b) == 1 && b[0] == 'Z':
		return true
	case b[0] != '+' && b[0] != '-':
		return false
	case len(b) == 6 && b[3] == ':':
		_, ok := fixed(b[4:6])
		b = b[:3]
		if !ok {
			return false
		}
	case len(b) != 3 && len(b) != 5:
		return false
	}
	_, ok := fixed(b[1:])
	return ok
}

// fixed parses a number that consists of digits only.
func fixed(b []byte) (n int, ok bool) {
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	return n, len(b) > 0
}

var monthDays = [...]int{0, 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31}

func validDay(m, d int) bool { return m >= 1 && m <= 12 && d >= 1 && d <= monthDays[m] }

// dayKey returns a number that orders days. Differences are days, within a few a
// year.
func dayKey(y, m, d int) int64 { return int64(y)*366 + int64(m-1)*31 + int64(d) }

var monthNames = []string{"january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november", "december"}

// matchFormat parses b by one of the formats above. The key orders texts.
func matchFormat(format string, b []byte) (key int64, ok bool) {
	var y, m, d, h, mi, s int
	pm := -1
	for i := 0; i < len(format); i++ {
		if format[i] != '%' {
			if len(b) == 0 || b[0] != format[i] {
				return 0, false
			}
			b = b[1:]
			continue
		}
		i++
		n := 0
		switch format[i] {
		case 'Y':
			y, n = take(b, 4, 4)
		case 'y':
			if y, n = take(b, 2, 2); y < 69 {
				y += 2000
			} else {
				y += 1900
			}
		case 'm':
			m, n = take(b, 1, 2)
			if strings.HasPrefix(format, "%Y%m%d") {
				m, n = take(b, 2, 2)
			}
		case 'd':
			d, n = take(b, 1, 2)
		case 'H', 'I':
			h, n = take(b, 1, 2)
			if h > 23 || format[i] == 'I' && (h < 1 || h > 12) {
				return 0, false
			}
		case 'M':
			if mi, n = take(b, 2, 2); mi > 59 {
				return 0, false
			}
		case 'S':
			if s, n = take(b, 2, 2); s > 59 {
				return 0, false
			}
		case 'f':
			_, n = take(b, 1, 6)
		case 'p':
			if len(b) >= 2 && (b[1]|0x20) == 'm' && ((b[0]|0x20) == 'a' || (b[0]|0x20) == 'p') {
				pm, n = 0, 2
				if b[0]|0x20 == 'p' {
					pm = 1
				}
			}
		case 'b', 'B':
			m, n = takeMonth(b, format[i] == 'B')
		}
		if n == 0 {
			return 0, false
		}
		b = b[n:]
	}
	if len(b) > 0 || y < 1 || !validDay(m, d) {
		return 0, false
	}
	if pm >= 0 {
		h = h%12 + 12*pm
	}
	return dayKey(y, m, d)*86_400 + int64(h*3600+mi*60+s), true
}

// take parses between low and high digits; length is 0 if there are fewer.
func take(b []byte, low, high int) (value, length int) {
	for length < len(b) && length < high && b[length] >= '0' && b[length] <= '9' {
		value = value*10 + int(b[length]-'0')
		length++
	}
	if length < low {
		return 0, 0
	}
	return value, length
}

func takeMonth(b []byte, full bool) (month, length int) {
	for i, name := range monthNames {
		if !full {
			name = name[:3]
		}
		if len(b) >= len(name) && strings.EqualFold(string(b[:len(name)]), name) {
			return i + 1, len(name)
		}
	}
	return 0, 0
}
