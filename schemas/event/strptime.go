package event

import (
	"errors"
	"fmt"
	"strings"

	"duet/schemas/project"
)

// timeFormat is a compiled strptime format.
type timeFormat struct {
	ops  []formatOp
	kind project.Kind
	text string
	err  error // set if CheckFormat refuses the format; then nothing matches
}

// formatOp is one specifier, or literal text when spec is 0.
type formatOp struct {
	spec    byte
	literal string
}

// shorthands are specifiers that stand for several: %x, %X and %c as in DuckDB, the
// others as in C's strptime.
var shorthands = map[byte]string{
	'T': "%H:%M:%S", 'X': "%H:%M:%S", 'R': "%H:%M", 'F': "%Y-%m-%d", 'x': "%Y-%m-%d", 'D': "%m/%d/%y", 'c': "%Y-%m-%d %H:%M:%S",
}

// CheckFormat returns an error if a strptime format cannot be used for a column of
// the kind. The specifiers are:
//
//	%Y year, four digits       %y year, two digits: 69 to 99 are 19xx, 00 to 68 are 20xx
//	%m %d month, day           %b %B month's name, short and full, English
//	%j day of the year         %a %A %u %w day of the week (Monday is %u 1, Sunday %w 0), which must match the date
//	%H %M %S hour, minute, second   %I hour of 12, with %p AM or PM
//	%f fraction of a second: one digit or more, zeros after the sixth; %g %n are the same
//	%z offset: Z, +HH, +HHMM or +HH:MM   %Z UTC, GMT or Z
//	%s seconds since 1970-01-01 UTC, alone in its format
//	%T %X %H:%M:%S   %R %H:%M   %F %x %Y-%m-%d   %D %m/%d/%y   %c %F %T   %% a percent sign
//
// Names match in any case. Numbers need no leading zero, with or without the - of
// %-d. Any other character, including a blank, matches itself. A text without
// offset is read in the stream's zone. Unlike in DuckDB, %Y needs four digits.
func CheckFormat(k project.Kind, format string) error {
	if format == "" {
		return nil
	}
	return compileFormat(k, format).err
}

// compileFormat returns nil for "".
func compileFormat(k project.Kind, format string) *timeFormat {
	if format == "" {
		return nil
	}
	f := &timeFormat{kind: k, text: format}
	if k != project.Date && k != project.Time && k != project.Timestamp {
		f.err = errors.New("only a DATE, TIME or TIMESTAMP has a format")
		return f
	}
	f.err = f.compile(format)
	if f.err == nil {
		f.err = f.complete()
	}
	return f
}

func (f *timeFormat) compile(format string) error {
	for i := 0; i < len(format); i++ {
		if format[i] != '%' {
			end := i
			for end < len(format) && format[end] != '%' {
				end++
			}
			f.ops = append(f.ops, formatOp{literal: format[i:end]})
			i = end - 1
			continue
		}
		i++
		if i+1 < len(format) && format[i] == '-' && strings.IndexByte("mdHIMSjy", format[i+1]) >= 0 {
			i++
		}
		if i == len(format) {
			return errors.New("it ends with a single %; write %% for a percent sign")
		}
		switch c := format[i]; {
		case c == '%':
			f.ops = append(f.ops, formatOp{literal: "%"})
		case c == 'g' || c == 'n':
			f.ops = append(f.ops, formatOp{spec: 'f'})
		case strings.IndexByte("YymdbBjaAuwHIMSfpzZs", c) >= 0:
			f.ops = append(f.ops, formatOp{spec: c})
		case shorthands[c] != "":
			if err := f.compile(shorthands[c]); err != nil {
				return err
			}
		default:
			return fmt.Errorf("%%%c is not a specifier", c)
		}
	}
	return nil
}

// complete returns an error if the format does not determine a value of the kind.
func (f *timeFormat) complete() error {
	var has [256]bool
	for _, op := range f.ops {
		if op.spec != 0 && has[op.spec] {
			return fmt.Errorf("%%%c occurs twice", op.spec)
		}
		has[op.spec] = true
	}
	if has['s'] {
		if len(f.ops) > 1 || f.kind != project.Timestamp {
			return errors.New("%s must be the only specifier, of a TIMESTAMP")
		}
		return nil
	}
	anyOf := func(specs string) (n int) {
		for i := range len(specs) {
			if has[specs[i]] {
				n++
			}
		}
		return n
	}
	switch {
	case anyOf("Yy") > 1 || anyOf("mbB") > 1 || anyOf("HI") > 1 || anyOf("zZ") > 1:
		return errors.New("two specifiers give the same part of the time")
	case has['j'] && anyOf("mbBd") > 0:
		return errors.New("%j gives the month and the day; remove %m, %b, %B and %d")
	case has['I'] != has['p']:
		return errors.New("%I needs %p, and %p needs %I")
	case has['M'] && anyOf("HI") == 0, has['S'] && !has['M'], has['f'] && !has['S']:
		return errors.New("minutes need hours, seconds need minutes, fractions need seconds")
	}
	if f.kind == project.Time {
		if anyOf("HI") == 0 {
			return errors.New("a TIME needs %H, or %I and %p")
		}
		if anyOf("YymbBdjaAuwzZ") > 0 {
			return errors.New("a TIME has no date and no zone")
		}
		return nil
	}
	if anyOf("Yy") == 0 || !has['j'] && (anyOf("mbB") == 0 || !has['d']) {
		return errors.New("a date needs a year, a month and a day, or a year and %j")
	}
	if f.kind == project.Date && anyOf("zZ") > 0 {
		return errors.New("a DATE has no zone")
	}
	return nil
}

// fields holds the values that the specifiers read; -1 means absent.
type fields struct {
	year, month, dom, doy, weekday, hour, minute, second int
	pm                                                   int
	fraction                                             int64
	conversion                                           conversion
}

// parse reads b, which the format must match completely.
func (f *timeFormat) parse(b []byte, t *stamp) conversion {
	*t = stamp{}
	if f.err != nil {
		return mismatch
	}
	p := fields{month: 1, dom: 1, doy: -1, weekday: -1, pm: -1}
	for _, op := range f.ops {
		n := 0
		if op.spec == 0 {
			if n = len(op.literal); len(b) < n || string(b[:n]) != op.literal {
				return mismatch
			}
		} else if op.spec == 's' {
			return t.epoch(b)
		} else if n = p.read(op.spec, b, t); n == 0 {
			return mismatch
		}
		b = b[n:]
	}
	if len(b) > 0 {
		return mismatch
	}
	return p.finish(f.kind, t)
}

// epoch reads whole seconds since 1970.
func (t *stamp) epoch(b []byte) conversion {
	var n number
	if !n.parseText(b) {
		return mismatch
	}
	s, v := n.integer(firstDay*86_400, (lastDay+1)*86_400-1)
	t.days, t.zoned = floorDiv(s, 86_400), true
	t.micros = (s - t.days*86_400) * second
	return v
}

// read reads one specifier at the start of b. It returns the number of bytes read,
// 0 if the specifier does not match.
func (p *fields) read(spec byte, b []byte, t *stamp) (n int) {
	switch spec {
	case 'Y':
		if p.year, n = readNumber(b, 4); n != 4 {
			return 0
		}
	case 'y':
		if p.year, n = readNumber(b, 2); p.year < 69 {
			p.year += 100
		}
		p.year += 1900
	case 'm':
		p.month, n = readNumber(b, 2)
	case 'd':
		p.dom, n = readNumber(b, 2)
	case 'b', 'B':
		p.month, n = readName(b, monthNames, spec == 'b')
		p.month++
	case 'j':
		p.doy, n = readNumber(b, 3)
	case 'a', 'A':
		p.weekday, n = readName(b, dayNames, spec == 'a')
	case 'u', 'w':
		if p.weekday, n = readNumber(b, 1); p.weekday > 7 || spec == 'w' && p.weekday > 6 || spec == 'u' && p.weekday == 0 {
			return 0
		}
		p.weekday %= 7
	case 'H':
		p.hour, n = readNumber(b, 2)
	case 'I':
		if p.hour, n = readNumber(b, 2); p.hour < 1 || p.hour > 12 {
			return 0
		}
	case 'M':
		p.minute, n = readNumber(b, 2)
	case 'S':
		p.second, n = readNumber(b, 2)
	case 'f':
		p.fraction, n, p.conversion = readFraction(b)
	case 'p':
		p.pm, n = readName(b, halfDays, false)
	case 'z', 'Z':
		n = t.readZone(spec, b)
	}
	return n
}

var (
	monthNames = []string{"january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november", "december"}
	dayNames   = []string{"sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"}
	halfDays   = []string{"am", "pm"}
)

// readNumber reads one to width digits.
func readNumber(b []byte, width int) (v, n int) {
	for n < width && n < len(b) && isDigit(b[n]) {
		v = v*10 + int(b[n]-'0')
		n++
	}
	return v, n
}

// readName returns the index and length of the name that b starts with, in any
// case. short compares three letters.
func readName(b []byte, names []string, short bool) (i, n int) {
	for i, name := range names {
		if short {
			name = name[:3]
		}
		if len(b) >= len(name) && equalFold(b[:len(name)], name) {
			return i, len(name)
		}
	}
	return 0, 0
}

// equalFold compares b, in any case, with a lower-case ASCII word of the same
// length.
func equalFold(b []byte, lower string) bool {
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			c |= 0x20
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

func (t *stamp) readZone(spec byte, b []byte) (n int) {
	if spec == 'z' {
		if t.offset, n = readOffset(b); n == 0 && len(b) > 0 && b[0]|0x20 == 'z' {
			n = 1
		}
	} else {
		for _, name := range []string{"UTC", "GMT", "Z"} {
			if len(b) >= len(name) && string(b[:len(name)]) == name {
				n = len(name)
				break
			}
		}
	}
	t.zoned = n > 0
	return n
}

func (p *fields) finish(k project.Kind, t *stamp) conversion {
	if p.hour > 23 || p.minute > 59 || p.second > 59 {
		return mismatch
	}
	if p.pm >= 0 {
		p.hour = p.hour%12 + 12*p.pm
	}
	t.micros = int64(p.hour*3600+p.minute*60+p.second)*second + p.fraction
	if k == project.Time {
		return p.conversion
	}
	var v conversion
	if p.doy >= 0 {
		if p.doy == 0 || p.doy > 365 && !(p.doy == 366 && leap(p.year)) {
			return mismatch
		}
		if v = t.setDate(p.year, 1, 1); v == exact {
			t.days += int64(p.doy) - 1
		}
	} else {
		v = t.setDate(p.year, p.month, p.dom)
	}
	// 1970-01-01 was a Thursday, day 4 counted from Sunday.
	if v == exact && p.weekday >= 0 && (t.days+4)-floorDiv(t.days+4, 7)*7 != int64(p.weekday) {
		return mismatch
	}
	if v != exact {
		return v
	}
	return p.conversion
}
