package source

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"duet/schemas/project"
)

// Row is one record of a CSV file as texts. It is used to look at a file before
// a stream is defined.
type Row struct {
	Line   int
	Values [][]byte // UTF-8, one for each column of the header; valid until the next row
	Bad    string   // why the record cannot be read; Values is then empty
	Broken bool     // a byte is not valid in the file's encoding
}

// Head returns a file's format and up to n bytes of its beginning, decompressed and
// without a byte order mark.
func Head(in io.Reader, name string, n int) ([]byte, Format, error) {
	r := &Reader{name: name}
	defer r.Close()
	w := newWindow(&counter{in, &r.read})
	compression, err := r.decompress(w)
	if err != nil {
		return nil, "", err
	}
	if err := r.refuseContent(w.peek(16)); err != nil {
		return nil, "", err
	}
	format, err := r.choose(Auto, w.peek(16), compression != "", w)
	if err != nil {
		return nil, "", err
	}
	w.skipMark()
	head := w.peek(n)
	if err := w.failure(); err != nil {
		return nil, "", r.broken(err, 0)
	}
	return head, format, nil
}

// Fields reads a CSV file, plain or compressed, in a dialect. It calls header with
// the column names, then each with every record until each returns false.
func Fields(in io.Reader, name string, dialect project.CSV, header func([]string) error, each func(*Row) bool) error {
	r := &Reader{name: name}
	defer r.Close()
	w := newWindow(&counter{in, &r.read})
	if _, err := r.decompress(w); err != nil {
		return err
	}
	w.skipMark()
	s := &project.Stream{Name: "s", CSV: dialect}
	e := newEncoding(dialect.Encoding)
	c := &csvFile{window: w, chain: newChain(""), splitter: newSplitter(s, e), encoding: e}
	names, _, err := c.header()
	switch {
	case err == io.EOF:
		return r.fault(1, "is empty: a CSV file begins with a header", "name a file with a header that names the columns")
	case err != nil && strings.HasPrefix(err.Error(), headerPrefix):
		return r.fault(1, "the header is malformed: "+strings.TrimPrefix(err.Error(), headerPrefix), "name a file with a header that names the columns")
	case err != nil:
		return r.broken(err, 0)
	}
	if err := header(names); err != nil {
		return err
	}
	row := &Row{}
	for {
		switch err := c.row(row, len(names)); {
		case errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
			return nil
		case err != nil:
			return r.broken(err, c.last)
		}
		if !each(row) {
			return nil
		}
	}
}

// row reads the next record that is not a blank line.
func (c *csvFile) row(row *Row, columns int) error {
	for {
		raw, reason, err := c.record()
		if err != nil {
			return err
		}
		row.Line, row.Bad, row.Broken, row.Values, c.last = c.number, reason, false, row.Values[:0], c.number
		if raw == nil {
			row.Bad = fmt.Sprintf("the line has more than %d bytes", MaxLineBytes)
			_, err := c.skipLong(c.chain)
			return err
		}
		c.take(raw.next, raw.lines)
		if len(raw.text) == 0 {
			continue
		}
		if n := len(c.splitter.fields); reason == "" && n != columns {
			row.Bad = fmt.Sprintf("%d fields where the header has %d", n, columns)
		}
		if row.Bad != "" {
			return nil
		}
		row.Broken = c.encoding == nil && !utf8.Valid(raw.text)
		c.values(row, raw.text)
		return nil
	}
}

// values sets the row's values. It copies unescaped values, which otherwise share a
// buffer.
func (c *csvFile) values(row *Row, text []byte) {
	for i := range c.splitter.fields {
		v := c.splitter.value(text, i)
		if c.encoding != nil {
			v = []byte(decodeText(c.encoding, v))
		} else if c.splitter.fields[i].doubled {
			v = append([]byte(nil), v...)
		}
		row.Values = append(row.Values, v)
	}
}

// Delimiter guesses the delimiter of a CSV file from its beginning: the one that
// splits most lines into as many fields as the first line.
func Delimiter(head []byte) string {
	best, bestScore := ",", 0
	for _, d := range []string{",", ";", "\t", "|"} {
		if score := fit(head, d); score > bestScore {
			best, bestScore = d, score
		}
	}
	return best
}

// fit looks at up to a hundred records and counts the fields of those that have as
// many as the first.
func fit(head []byte, delimiter string) int {
	const most = 100
	s := splitter{delimiter: []byte(delimiter)}
	first, score := 0, 0
	for range most {
		if len(head) == 0 || s.quoted(head) != whole {
			break
		}
		n := len(s.fields)
		if first == 0 {
			first = n
		}
		if n == first && n > 1 {
			score += n
		}
		head = head[s.next:]
	}
	return score
}
