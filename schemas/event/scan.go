package event

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"
	"unicode/utf16"
	"unicode/utf8"
)

// MaxDepth is the maximum nesting of objects and lists in a record. The record
// itself is level 1.
const MaxDepth = 64

// scanner reads JSON text in place. Its methods take an index and return the index
// after what they read; on an error they set fault and return -1. They accept
// RFC 8259 except for what the package comment rejects.
type scanner struct {
	b     []byte
	fault string
	// names holds the undeclared names of all open objects, unescaped; those of the
	// innermost object come last.
	names [][]byte
	text  []byte // holds the unescaped texts of the record
}

func (s *scanner) bad(i int, format string, args ...any) int {
	if s.fault == "" {
		s.fault = fmt.Sprintf("not JSON at byte %d: ", i+1) + fmt.Sprintf(format, args...)
	}
	return -1
}

// space skips white space.
func (s *scanner) space(i int) int {
	for i < len(s.b) {
		switch s.b[i] {
		case ' ', '\t', '\n', '\r':
			i++
		default:
			return i
		}
	}
	return i
}

// expect reads white space, then c, then white space.
func (s *scanner) expect(i int, c byte) int {
	if i < len(s.b) && s.b[i] == c {
		i++
	} else if i = s.space(i); i < len(s.b) && s.b[i] == c {
		i++
	} else {
		return s.unexpected(i, string(c))
	}
	if i < len(s.b) && s.b[i] > ' ' {
		return i
	}
	return s.space(i)
}

func (s *scanner) unexpected(i int, want string) int {
	if i >= len(s.b) {
		return s.bad(i, "it ends, but %s should follow", want)
	}
	return s.bad(i, "%s is there instead of %s", shown(s.b[i:min(len(s.b), i+1)]), want)
}

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// special finds the first byte of w that is a quote, a backslash or a control
// character, and sets its high bit in the result. Higher bytes may be set wrongly.
func special(w uint64) uint64 {
	quote, back := w^(ones*'"'), w^(ones*'\\')
	return ((quote-ones)&^quote | (back-ones)&^back | (w-ones*' ')&^w) & highs
}

// stringEnd returns the index of the quote that ends the string whose first byte
// is b[i].
func (s *scanner) stringEnd(i int) (end int, escaped bool) {
	b := s.b
	for {
		for i+8 <= len(b) {
			if m := special(binary.LittleEndian.Uint64(b[i:])); m != 0 {
				i += bits.TrailingZeros64(m) >> 3
				break
			}
			i += 8
		}
		for i < len(b) && b[i] >= ' ' && b[i] != '"' && b[i] != '\\' {
			i++
		}
		switch {
		case i >= len(b):
			return s.bad(i, "a string is not closed"), false
		case b[i] == '"':
			return i, escaped
		case b[i] == '\\':
			escaped = true
			if i = s.escape(i); i < 0 {
				return -1, false
			}
		default:
			return s.bad(i, "control character 0x%02x in a string", b[i]), false
		}
	}
}

// escape checks the escape at b[i], the backslash.
func (s *scanner) escape(i int) int {
	if i+1 >= len(s.b) {
		return s.bad(i, "a string is not closed")
	}
	switch s.b[i+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return i + 2
	case 'u':
	default:
		return s.bad(i, "JSON has no such escape")
	}
	r := s.hex4(i + 2)
	switch {
	case r < 0:
		return s.bad(i, "\\u without four hexadecimal digits")
	case r == 0:
		return s.bad(i, "a NUL in a string")
	case !utf16.IsSurrogate(r):
		return i + 6
	}
	if i+8 <= len(s.b) && s.b[i+6] == '\\' && s.b[i+7] == 'u' {
		if utf16.DecodeRune(r, s.hex4(i+8)) != utf8.RuneError {
			return i + 12
		}
	}
	return s.bad(i, "an unpaired surrogate")
}

// hex4 returns the value of four hexadecimal digits, or -1.
func (s *scanner) hex4(i int) rune {
	if i+4 > len(s.b) {
		return -1
	}
	v := rune(0)
	for _, c := range s.b[i : i+4] {
		d := hexDigit(c)
		if d > 15 {
			return -1
		}
		v = v<<4 | rune(d)
	}
	return v
}

// hexDigit returns the value of c, or more than 15 if c is not a digit.
func hexDigit(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return c | 0x20 - 'a' + 10
	}
	return 16
}

// unescape returns the text of a string that stringEnd has checked. raw is what
// stands between the quotes. The text is valid until the next record.
func (s *scanner) unescape(raw []byte) []byte {
	start := len(s.text)
	for i := 0; i < len(raw); {
		if raw[i] != '\\' {
			n := bytes.IndexByte(raw[i:], '\\')
			if n < 0 {
				n = len(raw) - i
			}
			s.text = append(s.text, raw[i:i+n]...)
			i += n
			continue
		}
		c := raw[i+1]
		i += 2
		switch c {
		case 'b':
			c = '\b'
		case 'f':
			c = '\f'
		case 'n':
			c = '\n'
		case 'r':
			c = '\r'
		case 't':
			c = '\t'
		case 'u':
			at := scanner{b: raw}
			r := at.hex4(i)
			i += 4
			if utf16.IsSurrogate(r) {
				r = utf16.DecodeRune(r, at.hex4(i+2))
				i += 6
			}
			s.text = utf8.AppendRune(s.text, r)
			continue
		}
		s.text = append(s.text, c)
	}
	return s.text[start:len(s.text):len(s.text)]
}

// literal reads a word such as true.
func (s *scanner) literal(i int, word string) int {
	if len(s.b)-i >= len(word) && string(s.b[i:i+len(word)]) == word {
		return i + len(word)
	}
	return s.bad(i, "no JSON value starts like this")
}

// skip reads any value. It rejects repeated names in nested objects, too.
func (s *scanner) skip(i, depth int) int {
	if i >= len(s.b) {
		return s.unexpected(i, "a value")
	}
	switch c := s.b[i]; c {
	case '"':
		end, _ := s.stringEnd(i + 1)
		if end < 0 {
			return -1
		}
		return end + 1
	case '{':
		return s.skipObject(i, depth+1)
	case '[':
		return s.skipList(i, depth+1)
	case 't':
		return s.literal(i, "true")
	case 'f':
		return s.literal(i, "false")
	case 'n':
		return s.literal(i, "null")
	default:
		if c == '-' || c >= '0' && c <= '9' {
			var n number
			return s.number(i, &n)
		}
		return s.unexpected(i, "a value")
	}
}

func (s *scanner) tooDeep(i, depth int) bool {
	if depth > MaxDepth {
		s.bad(i, "more than %d levels deep", MaxDepth)
		return true
	}
	return false
}

func (s *scanner) skipObject(i, depth int) int {
	if s.tooDeep(i, depth) {
		return -1
	}
	if i = s.expect(i, '{'); i < 0 {
		return -1
	}
	if i < len(s.b) && s.b[i] == '}' {
		return i + 1
	}
	outer := len(s.names)
	for {
		raw, escaped, next := s.name(i)
		if next < 0 {
			return -1
		}
		if escaped {
			raw = s.unescape(raw)
		}
		s.names = append(s.names, raw)
		if i = s.skip(next, depth); i < 0 {
			return -1
		}
		if i = s.space(i); i < len(s.b) && s.b[i] == '}' {
			return s.closeNames(outer, i+1)
		}
		if i = s.expect(i, ','); i < 0 {
			return -1
		}
	}
}

// name reads a member's name and the colon; raw is what stands between the quotes.
func (s *scanner) name(i int) (raw []byte, escaped bool, next int) {
	if i >= len(s.b) || s.b[i] != '"' {
		return nil, false, s.unexpected(i, "a name")
	}
	end, escaped := s.stringEnd(i + 1)
	if end < 0 {
		return nil, false, -1
	}
	return s.b[i+1 : end], escaped, s.expect(end+1, ':')
}

func (s *scanner) skipList(i, depth int) int {
	if s.tooDeep(i, depth) {
		return -1
	}
	if i = s.expect(i, '['); i < 0 {
		return -1
	}
	if i < len(s.b) && s.b[i] == ']' {
		return i + 1
	}
	for {
		if i = s.skip(i, depth); i < 0 {
			return -1
		}
		if i = s.space(i); i < len(s.b) && s.b[i] == ']' {
			return i + 1
		}
		if i = s.expect(i, ','); i < 0 {
			return -1
		}
	}
}

// fewNames is the number of names up to which comparing all pairs is fastest.
const fewNames = 16

// closeNames removes the names of the object that ends at i. It fails if a name
// occurs twice.
func (s *scanner) closeNames(outer, i int) int {
	names := s.names[outer:]
	s.names = s.names[:outer]
	if len(names) > fewNames {
		slices.SortFunc(names, bytes.Compare)
	}
	for k, name := range names {
		rest := names[k+1:]
		if len(names) > fewNames {
			rest = rest[:min(len(rest), 1)]
		}
		for _, other := range rest {
			if bytes.Equal(name, other) {
				s.fault = fmt.Sprintf("member %s occurs twice", shown(name))
				return -1
			}
		}
	}
	return i
}

// maxShown is the maximum number of bytes of a value in a reason.
const maxShown = 60

// shown returns a value for a reason: shortened, and valid UTF-8.
func shown(v []byte) string {
	cut := ""
	if len(v) > maxShown {
		n := maxShown
		for n > maxShown-utf8.UTFMax && !utf8.RuneStart(v[n]) {
			n--
		}
		v, cut = v[:n], "…"
	}
	return string(bytes.ToValidUTF8(v, []byte("\uFFFD"))) + cut
}

// plainText reports whether JSON needs no escapes for s.
func plainText(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] == '"' || s[i] == '\\' {
			return false
		}
	}
	return true
}
