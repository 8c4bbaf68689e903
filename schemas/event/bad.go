package event

import (
	"bytes"
	"fmt"
	"unicode/utf8"
)

// Members of a bad record: one that reports a line that its source could not
// read, such as a malformed CSV line.
const (
	badName = `{"_duet_bad":"`
	rawName = `","_duet_raw":"`
)

// maxBadReason is the maximum length of a source's reason, in bytes.
const maxBadReason = 1000

// AppendBad appends a record that the decoder rejects with reason and whose raw
// bytes are raw. A source appends one for each line that it cannot turn into a
// record.
func AppendBad(dst []byte, reason string, raw []byte) []byte {
	dst = append(dst, badName...)
	dst = appendEscaped(dst, []byte(reason))
	dst = append(dst, rawName...)
	dst = appendEscaped(dst, raw)
	return append(dst, `"}`...)
}

// appendEscaped escapes quotes, backslashes and control characters. It keeps
// bytes that are not UTF-8.
func appendEscaped(dst, s []byte) []byte {
	for _, c := range s {
		switch {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c < ' ':
			dst = fmt.Appendf(dst, `\u%04x`, c)
		default:
			dst = append(dst, c)
		}
	}
	return dst
}

// badRecord returns the reject that a bad record stands for, or nil if record is
// not one. It accepts any JSON object of the two string members in this order,
// however it is spelled.
func badRecord(record []byte) *Reject {
	if !bytes.HasPrefix(record, []byte(`{"_duet_bad"`)) {
		return nil
	}
	s := lenient{scanner{b: record}}
	i, reason := s.pair(0, '{')
	i, raw := s.pair(i, ',')
	if i < 0 || s.expect(i, '}') != len(record) || string(reason[0]) != "_duet_bad" || string(raw[0]) != "_duet_raw" {
		return nil
	}
	why := reason[1][:min(len(reason[1]), maxBadReason)]
	return &Reject{Reason: string(bytes.ToValidUTF8(why, []byte("\uFFFD"))), Raw: raw[1]}
}

// lenient scans strings that may hold NULs and bytes that are not UTF-8.
type lenient struct{ scanner }

// pair reads the byte before, then a name and a string, and returns both
// unescaped.
func (s *lenient) pair(i int, before byte) (next int, texts [2][]byte) {
	for k, mark := range []byte{before, ':'} {
		if i < 0 {
			return -1, texts
		}
		if i = s.expect(i, mark); i < 0 || i >= len(s.b) || s.b[i] != '"' {
			return -1, texts
		}
		end := i + 1
		for end < len(s.b) && s.b[end] != '"' {
			switch {
			case s.b[end] != '\\':
				end++
			case bytes.HasPrefix(s.b[end:], []byte(`\u0000`)):
				end += 6
			default:
				if end = s.escape(end); end < 0 {
					return -1, texts
				}
			}
		}
		if end >= len(s.b) {
			return -1, texts
		}
		texts[k] = s.unescape(s.b[i+1 : end])
		i = end + 1
	}
	return i, texts
}

// checkText rejects a record with bytes that are not UTF-8.
func (d *decoder) checkText() bool {
	if utf8.Valid(d.b) {
		return true
	}
	for i := 0; i < len(d.b); {
		r, n := utf8.DecodeRune(d.b[i:])
		if r == utf8.RuneError && n == 1 {
			d.fault = fmt.Sprintf("not UTF-8 at byte %d: 0x%02x", i+1, d.b[i])
			return false
		}
		i += n
	}
	return false
}
