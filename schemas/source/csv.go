package source

import (
	"bytes"
	"fmt"
	"io"
	"unicode/utf8"

	"duet/schemas/event"
	"duet/schemas/project"
)

// csvFile reads the records of a CSV file.
type csvFile struct {
	*window
	chain     *chain
	splitter  splitter
	columns   []csvColumn
	encoding  encoding
	nulls     []string
	emptyNull bool   // "" is one of nulls
	comma     bool   // the decimal sign is a comma
	advice    string // remedy for text that is not UTF-8
	json      []byte
	number0   []byte // scratch space of decimalPoint
	last      int    // line that was read last
}

// csvColumn is one column of the file.
type csvColumn struct {
	name    string
	key     []byte // `,"name":`, escaped
	numeric bool   // declared as a number
}

func (c *csvFile) line() int { return c.last }

func (c *csvFile) next(r *Record) error {
	for {
		raw, reason, err := c.record()
		if err != nil {
			return err
		}
		c.last = c.number
		r.Line = c.number
		if raw == nil {
			return longLine(c.window, c.chain, &c.json, r)
		}
		c.chain.add(raw.text)
		c.take(raw.next, raw.lines)
		if len(raw.text) == 0 {
			continue
		}
		if reason == "" {
			reason = c.object(raw.text)
		}
		if reason != "" {
			c.json = event.AppendBad(c.json[:0], reason, raw.text)
		}
		c.chain.stamp(r)
		r.JSON = c.json
		return nil
	}
}

// rawRecord is one record in the window.
type rawRecord struct {
	text  []byte // without the line end
	next  int    // bytes including the line end
	lines int    // line ends in these bytes
}

// record finds the record at the start of the window and splits it into fields. It
// returns nil for a line above the limit. If the record is malformed, reason is set
// and the record is its first line alone.
func (c *csvFile) record() (*rawRecord, string, error) {
	end, next, ok, err := c.lineEnd()
	if err != nil {
		return nil, "", err
	}
	if next == 0 && ok {
		return nil, "", io.EOF
	}
	if !ok {
		return nil, "", nil
	}
	first := &rawRecord{text: c.bytes()[:end], next: next, lines: 1}
	s := &c.splitter
	if bytes.IndexByte(first.text, '"') < 0 {
		s.plain(first.text)
		return first, "", nil
	}
	for {
		// Look at the same prefix whatever the window holds, so that a record ends at
		// the same place however the file is read.
		text := c.bytes()
		text = text[:min(len(text), MaxLineBytes+2)]
		switch s.quoted(text) {
		case whole:
			return &rawRecord{text: text[:s.end], next: s.next, lines: max(1, bytes.Count(text[:s.next], newline))}, "", nil
		case malformed:
			return c.firstLine(end, next), fmt.Sprintf("field %d: %s", s.fault.field+1, s.fault.what), nil
		}
		if len(text) == MaxLineBytes+2 {
			return c.firstLine(end, next), fmt.Sprintf("field %d begins with a quote that is not closed within %d bytes", s.fault.field+1, MaxLineBytes), nil
		}
		if c.fill() {
			continue
		}
		if err := c.failure(); err != nil {
			return nil, "", err
		}
		switch s.atEnd(text) {
		case whole:
			return &rawRecord{text: text[:s.end], next: s.next, lines: 1 + bytes.Count(text[:s.end], newline)}, "", nil
		case malformed:
			return c.firstLine(end, next), fmt.Sprintf("field %d: %s", s.fault.field+1, s.fault.what), nil
		}
		return c.firstLine(end, next), fmt.Sprintf("field %d begins with a quote that is not closed before the end of the file", s.fault.field+1), nil
	}
}

var newline = []byte{'\n'}

// firstLine returns the first line of a malformed record. It takes the text from the
// window again, because the window may have moved.
func (c *csvFile) firstLine(end, next int) *rawRecord {
	return &rawRecord{text: c.bytes()[:end], next: next, lines: 1}
}

// object writes the fields of text as a JSON object into c.json. If it cannot, it
// returns the reason.
func (c *csvFile) object(text []byte) string {
	fields := c.splitter.fields
	if len(fields) != len(c.columns) {
		return c.wrongCount(len(fields))
	}
	if c.encoding == nil && !utf8.Valid(text) {
		return c.notUTF8(text)
	}
	dst := c.json[:0]
	for i := range fields {
		value := c.splitter.value(text, i)
		column := &c.columns[i]
		dst = append(dst, column.key...)
		switch {
		case c.isNull(value):
			dst = append(dst, "null"...)
			continue
		case c.comma && column.numeric:
			var ok bool
			if c.number0, ok = decimalPoint(c.number0[:0], value); !ok {
				return fmt.Sprintf("%s: %q has a decimal point, but csv.decimal is a comma", column.name, value)
			}
			value = c.number0
		}
		dst = append(dst, '"')
		dst = appendText(dst, value, c.encoding)
		dst = append(dst, '"')
	}
	if len(dst) == 0 {
		return "the record has no fields"
	}
	dst[0] = '{'
	c.json = append(dst, '}')
	return ""
}

func (c *csvFile) wrongCount(n int) string {
	reason := fmt.Sprintf("%d fields where the header has %d", n, len(c.columns))
	if n > len(c.columns) {
		return reason + ". Quote fields that hold the delimiter"
	}
	return reason
}

func (c *csvFile) isNull(value []byte) bool {
	if len(value) == 0 {
		return c.emptyNull
	}
	for _, n := range c.nulls {
		if string(value) == n {
			return true
		}
	}
	return false
}

// notUTF8 returns the reason for text that is not UTF-8: the column and the byte.
func (c *csvFile) notUTF8(text []byte) string {
	for i := range c.splitter.fields {
		value := c.splitter.value(text, i)
		for at := 0; at < len(value); {
			r, n := utf8.DecodeRune(value[at:])
			if r == utf8.RuneError && n == 1 {
				return fmt.Sprintf("%s: the byte 0x%02x is not UTF-8. %s", c.columns[i].name, value[at], c.advice)
			}
			at += n
		}
	}
	return "the record is not UTF-8. " + c.advice
}

// decimalPoint rewrites a number with a decimal comma and optional points between
// groups of three digits. It returns false if a point cannot separate thousands;
// any other malformed number is left to the decoder.
func decimalPoint(dst, text []byte) (out []byte, ok bool) {
	whole, fraction, hasComma := bytes.Cut(text, []byte{','})
	if bytes.IndexByte(whole, '.') >= 0 {
		digits := bytes.TrimLeft(whole, "+-")
		for i, group := range bytes.Split(digits, []byte{'.'}) {
			if len(group) == 0 || len(group) > 3 || i > 0 && len(group) != 3 || bytes.ContainsFunc(group, notDigit) {
				return dst, false
			}
		}
	}
	if bytes.IndexByte(fraction, '.') >= 0 {
		return dst, false
	}
	for _, b := range whole {
		if b != '.' {
			dst = append(dst, b)
		}
	}
	if hasComma {
		dst = append(append(dst, '.'), fraction...)
	}
	return dst, true
}

func notDigit(r rune) bool { return r < '0' || r > '9' }

// newSplitter returns the splitter of a stream's dialect.
func newSplitter(s *project.Stream, e encoding) splitter {
	return splitter{delimiter: encodeText(e, s.CSV.Delimiter)}
}
