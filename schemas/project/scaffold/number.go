package scaffold

// number is the form of a number in a text.
type number struct {
	digits   int  // before the point, without leading zeros
	decimals int  // after the point
	zeros    bool // the decimals are all zeros
	padded   bool // 007: a code, not a number
	exponent bool
	negative bool
	value    int64 // of the whole part, where digits <= 18
}

// parseNumber parses [-]digits[.digits][e[+-]digits].
func parseNumber(b []byte) (n number, ok bool) {
	i := 0
	if len(b) > 0 && b[0] == '-' {
		n.negative = true
		i++
	}
	start := i
	for ; i < len(b) && b[i] >= '0' && b[i] <= '9'; i++ {
		if n.digits > 0 || b[i] != '0' {
			n.digits++
			if n.digits <= 18 {
				n.value = n.value*10 + int64(b[i]-'0')
			}
		}
	}
	seen := i - start
	n.padded = seen > 1 && b[start] == '0'
	n.zeros = true
	if i < len(b) && b[i] == '.' {
		for i++; i < len(b) && b[i] >= '0' && b[i] <= '9'; i++ {
			n.decimals++
			n.zeros = n.zeros && b[i] == '0'
		}
		seen += n.decimals
	}
	if seen == 0 {
		return n, false
	}
	if i < len(b) && (b[i] == 'e' || b[i] == 'E') {
		i++
		if i < len(b) && (b[i] == '-' || b[i] == '+') {
			i++
		}
		from := i
		for ; i < len(b) && b[i] >= '0' && b[i] <= '9'; i++ {
		}
		if i == from {
			return n, false
		}
		n.exponent = true
	}
	return n, i == len(b)
}

// pointed appends to dst a number with a decimal comma, rewritten with a point.
func pointed(dst, b []byte) []byte {
	for _, c := range b {
		switch c {
		case '.':
		case ',':
			dst = append(dst, '.')
		default:
			dst = append(dst, c)
		}
	}
	return dst
}

// commaNumber reports whether b is a number with a decimal comma, such as 1.234,5.
func commaNumber(b []byte) bool {
	commas, digits, group := 0, 0, -1
	for i, c := range b {
		switch {
		case c >= '0' && c <= '9':
			digits++
			if group >= 0 {
				group++
			}
		case c == '-' && i == 0:
		case c == '.' && commas == 0 && digits > 0 && (group == 3 || group < 0 && digits <= 3):
			group = 0
		case c == ',' && commas == 0 && (group == 3 || group < 0):
			commas++
			group = -1
		default:
			return false
		}
	}
	return commas == 1 && digits > 0
}
