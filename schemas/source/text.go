package source

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// encoding maps each byte from 0x80 to its character. nil is UTF-8.
type encoding *[128]rune

var windows1252 = [32]rune{
	0x20ac, 0x81, 0x201a, 0x0192, 0x201e, 0x2026, 0x2020, 0x2021, 0x02c6, 0x2030, 0x0160, 0x2039, 0x0152, 0x8d, 0x017d, 0x8f,
	0x90, 0x2018, 0x2019, 0x201c, 0x201d, 0x2022, 0x2013, 0x2014, 0x02dc, 0x2122, 0x0161, 0x203a, 0x0153, 0x9d, 0x017e, 0x0178,
}

// newEncoding returns the encoding of a name that project.CSV.Encoding may have.
func newEncoding(name string) encoding {
	if name != "latin-1" && name != "windows-1252" {
		return nil
	}
	var table [128]rune
	for i := range table {
		table[i] = rune(0x80 + i)
	}
	if name == "windows-1252" {
		copy(table[:], windows1252[:])
	}
	return &table
}

// encodeText encodes a text. It skips characters that the encoding lacks, and
// returns UTF-8 if it lacks all of them.
func encodeText(e encoding, text string) []byte {
	if e == nil {
		return []byte(text)
	}
	var out []byte
	for _, r := range text {
		if r < 0x80 {
			out = append(out, byte(r))
			continue
		}
		for i, c := range e {
			if c == r {
				out = append(out, byte(0x80+i))
			}
		}
	}
	if len(out) == 0 {
		return []byte(text)
	}
	return out
}

// decodeText decodes bytes.
func decodeText(e encoding, b []byte) string {
	if e == nil {
		return strings.ToValidUTF8(string(b), string(utf8.RuneError))
	}
	var out strings.Builder
	for _, c := range b {
		if c < 0x80 {
			out.WriteByte(c)
		} else {
			out.WriteRune(e[c-0x80])
		}
	}
	return out.String()
}

// direct marks the bytes that a JSON string holds unescaped.
var direct = func() (t [256]bool) {
	for i := range t {
		t[i] = i >= ' ' && i != '"' && i != '\\'
	}
	return t
}()

// appendText appends b, which must be valid in its encoding, as the inside of a
// JSON string.
func appendText(dst, b []byte, e encoding) []byte {
	from := 0
	for i, c := range b {
		if direct[c] && (c < 0x80 || e == nil) {
			continue
		}
		dst = append(dst, b[from:i]...)
		from = i + 1
		switch {
		case c >= 0x80:
			dst = utf8.AppendRune(dst, e[c-0x80])
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c == '\n':
			dst = append(dst, '\\', 'n')
		case c == '\r':
			dst = append(dst, '\\', 'r')
		case c == '\t':
			dst = append(dst, '\\', 't')
		default:
			dst = fmt.Appendf(dst, `\u%04x`, c)
		}
	}
	return append(dst, b[from:]...)
}

// memberKey returns `,"name":`.
func memberKey(name string) []byte {
	return append(append([]byte(`,"`), appendText(nil, []byte(name), nil)...), `":`...)
}
