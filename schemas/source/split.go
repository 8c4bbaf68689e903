package source

import "bytes"

// splitter splits a record into fields by the rules in the package comment.
type splitter struct {
	delimiter []byte
	fields    []field
	end, next int // of a whole record: the end of its text and the start of the next record
	fault     struct {
		field int
		what  string
	}
	buf []byte // holds fields with doubled quotes
}

// field is text[from:to] of a record. doubled is set if it contains doubled quotes.
type field struct {
	from, to int
	doubled  bool
}

type splitState int

const (
	whole     splitState = iota // the record ends within the text
	open                        // a quoted field continues after the text
	malformed                   // splitter.fault says why
)

// plain splits a line without quotes.
func (s *splitter) plain(line []byte) {
	s.fields = s.fields[:0]
	from := 0
	if len(s.delimiter) == 1 {
		d := s.delimiter[0]
		for i, b := range line {
			if b == d {
				s.fields = append(s.fields, field{from: from, to: i})
				from = i + 1
			}
		}
	} else {
		for {
			i := bytes.Index(line[from:], s.delimiter)
			if i < 0 {
				break
			}
			s.fields = append(s.fields, field{from: from, to: from + i})
			from += i + len(s.delimiter)
		}
	}
	s.fields = append(s.fields, field{from: from, to: len(line)})
}

// quoted splits the record at the beginning of text. The record may span several
// lines and end before text does.
func (s *splitter) quoted(text []byte) splitState {
	s.fields = s.fields[:0]
	for i := 0; ; {
		if i < len(text) && text[i] == '"' {
			f := field{from: i + 1}
			j := i + 1
			for {
				k := bytes.IndexByte(text[j:], '"')
				if k < 0 || j+k+1 >= len(text) { // the byte after the quote is needed
					s.fault.field = len(s.fields)
					return open
				}
				j += k + 1
				if text[j] != '"' {
					break
				}
				f.doubled = true
				j++
			}
			f.to = j - 1
			switch {
			case bytes.HasPrefix(text[j:], s.delimiter):
				s.fields = append(s.fields, f)
				i = j + len(s.delimiter)
				continue
			case text[j] == '\n':
				return s.finish(f, j, j+1)
			case text[j] == '\r' && j+1 < len(text) && text[j+1] == '\n':
				return s.finish(f, j, j+2)
			case len(text)-j < 2 || len(text)-j < len(s.delimiter): // may be the start of a delimiter or line end
				s.fault.field = len(s.fields)
				return open
			}
			s.fault.field, s.fault.what = len(s.fields), "a quote is followed by neither a delimiter nor the line's end; a quote within quotes is written twice"
			return malformed
		}
		f := field{from: i}
		for {
			if i >= len(text) { // at the end of the file, see atEnd
				s.fault.field = len(s.fields)
				return open
			}
			if text[i] == '\n' {
				f.to = i
				if i > f.from && text[i-1] == '\r' {
					f.to--
				}
				return s.finish(f, f.to, i+1)
			}
			if text[i] == s.delimiter[0] && bytes.HasPrefix(text[i:], s.delimiter) {
				f.to = i
				s.fields = append(s.fields, f)
				i += len(s.delimiter)
				break
			}
			i++
		}
	}
}

func (s *splitter) finish(f field, end, next int) splitState {
	s.fields = append(s.fields, f)
	s.end, s.next = end, next
	return whole
}

// atEnd splits the file's last record. The end of the file counts as a line end.
func (s *splitter) atEnd(text []byte) splitState {
	s.buf = append(append(s.buf[:0], text...), '\n')
	state := s.quoted(s.buf)
	if state == whole {
		s.next = min(s.next, len(text))
	}
	return state
}

// value returns the text of a field without its quotes.
func (s *splitter) value(text []byte, i int) []byte {
	f := s.fields[i]
	if !f.doubled {
		return text[f.from:f.to]
	}
	s.buf = s.buf[:0]
	for t := text[f.from:f.to]; len(t) > 0; {
		k := bytes.IndexByte(t, '"')
		if k < 0 {
			s.buf = append(s.buf, t...)
			break
		}
		s.buf = append(s.buf, t[:k+1]...)
		t = t[k+2:]
	}
	return s.buf
}
