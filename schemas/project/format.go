package project

import "strings"

// formatSpecifiers are the specifiers of DuckDB's strptime that the decoder supports.
const formatSpecifiers = "YymdbBjaAuwHIMSfpzZsgn"

// formatShorthands maps specifiers that stand for several to those.
var formatShorthands = map[byte]string{
	'T': "HMS", 'X': "HMS", 'R': "HM", 'F': "Ymd", 'x': "Ymd", 'D': "mdy", 'c': "YmdHMS",
}

// checkFormat returns why the decoder cannot use a strptime format for a column of
// the kind, or "". TestFormatsAgreeWithTheDecoder compares it with the decoder.
func checkFormat(format string, kind Kind) string {
	specs := ""
	literals := false
	for i := 0; i < len(format); i++ {
		if format[i] != '%' {
			literals = true
			continue
		}
		i++
		if i+1 < len(format) && format[i] == '-' && strings.IndexByte("mdHIMSjy", format[i+1]) >= 0 {
			i++
		}
		switch {
		case i >= len(format):
			return "ends in the middle of a specifier"
		case format[i] == '%':
			literals = true
		case formatShorthands[format[i]] != "":
			specs += formatShorthands[format[i]]
		case strings.IndexByte(formatSpecifiers, format[i]) < 0:
			return "has the unknown specifier " + quote("%"+format[i:i+1])
		case format[i] == 'g' || format[i] == 'n':
			specs += "f"
		default:
			specs += format[i : i+1]
		}
	}
	if specs == "" {
		return "has no specifier such as %Y, %m, %d, %H"
	}
	for i := range len(specs) {
		if strings.IndexByte(specs[:i], specs[i]) >= 0 {
			return "has %" + specs[i:i+1] + " twice"
		}
	}
	if strings.Contains(specs, "s") {
		if len(specs) > 1 || literals || kind != Timestamp {
			return "has %s, which stands alone and makes a TIMESTAMP"
		}
		return ""
	}
	return incomplete(specs, kind)
}

// incomplete returns which part of the time a format lacks or has twice, or "".
func incomplete(specs string, kind Kind) string {
	count := func(of string) (n int) {
		for i := range len(of) {
			n += strings.Count(specs, of[i:i+1])
		}
		return n
	}
	switch {
	case count("Yy") > 1 || count("mbB") > 1 || count("HI") > 1 || count("zZ") > 1:
		return "has one part of the time twice"
	case count("j") > 0 && count("mbBd") > 0:
		return "has %j, the day of the year, and a month or day"
	case count("I") != count("p"):
		return "has only one of %I and %p; they need each other"
	case count("M") > 0 && count("HI") == 0, count("S") > count("M"), count("f") > count("S"):
		return "lacks a larger part of the time: minutes need hours, seconds minutes, fractions seconds"
	}
	if kind == Time {
		switch {
		case count("HI") == 0:
			return "has no hour"
		case count("YymbBdjaAuwzZ") > 0:
			return "has a date or zone, but a TIME has neither"
		}
		return ""
	}
	switch {
	case count("Yy") == 0:
		return "has no year"
	case count("j") == 0 && (count("mbB") == 0 || count("d") == 0):
		return "has no month or no day"
	case kind == Date && count("zZ") > 0:
		return "has a zone, but a DATE has none"
	}
	return ""
}
