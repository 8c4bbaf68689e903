package source

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"

	"duet/schemas/project"
)

// openCSV reads the header and matches it with the stream's columns.
func (r *Reader) openCSV(w *window, s *project.Stream, chain *chain) error {
	e := newEncoding(s.CSV.Encoding)
	c := &csvFile{
		window: w, chain: chain, splitter: newSplitter(s, e), encoding: e,
		emptyNull: slices.Contains(s.CSV.Nulls, ""), comma: s.CSV.Decimal == ",",
		advice: "If the file is in windows-1252, write in " + place(s, "csv") + ": csv: {encoding: windows-1252}",
	}
	for _, n := range s.CSV.Nulls {
		if n != "" {
			c.nulls = append(c.nulls, string(encodeText(e, n)))
		}
	}
	seen, text, err := c.header()
	switch {
	case err == io.EOF:
		return r.fault(1, "is empty: a CSV file begins with a header", "send a file with a header that names the columns")
	case err != nil:
		var fault project.Fault
		if fault.Reason = strings.TrimPrefix(err.Error(), headerPrefix); fault.Reason != err.Error() {
			return r.fault(max(c.last, 1), "the header is malformed: "+fault.Reason, "write it as the column names, separated by "+fmt.Sprintf("%q", s.CSV.Delimiter))
		}
		return r.broken(err, 0)
	}
	if i := bytes.IndexByte(text, '\r'); i >= 0 {
		return r.fault(1, "its lines end with a carriage return and no line feed", `convert it: tr '\r' '\n' < FILE | duet ingest --stream `+s.Name+" -")
	}
	if fault := r.wrongDelimiter(s, seen, text); fault != nil {
		return fault
	}
	if err := r.bind(s, seen, "the header"); err != nil {
		return err
	}
	if c.columns, err = r.members(s, seen); err != nil {
		return err
	}
	r.src = c
	return nil
}

const headerPrefix = "header: "

// header reads the first line that is not blank.
func (c *csvFile) header() (names []string, text []byte, err error) {
	for {
		raw, reason, err := c.record()
		if err != nil {
			return nil, nil, err
		}
		c.last = c.number
		if raw == nil {
			return nil, nil, fmt.Errorf("%sthe line has more than %d bytes", headerPrefix, MaxLineBytes)
		}
		if reason != "" {
			return nil, nil, fmt.Errorf("%s%s", headerPrefix, reason)
		}
		c.chain.add(raw.text)
		text = bytes.Clone(raw.text)
		c.take(raw.next, raw.lines)
		if len(bytes.TrimSpace(text)) > 0 {
			break
		}
	}
	for i := range c.splitter.fields {
		names = append(names, strings.TrimSpace(decodeText(c.encoding, c.splitter.value(text, i))))
	}
	return names, text, nil
}

// wrongDelimiter returns a fault if the header is one column that contains another
// delimiter.
func (r *Reader) wrongDelimiter(s *project.Stream, seen []string, text []byte) error {
	if len(seen) != 1 || len(s.Columns) == 1 && s.Columns[0].From == seen[0] {
		return nil
	}
	for _, d := range []string{",", ";", "\t", "|"} {
		if d != s.CSV.Delimiter && bytes.Contains(text, []byte(d)) {
			return r.fault(1, fmt.Sprintf("the header is one column, %q, under the delimiter %q", seen[0], s.CSV.Delimiter),
				fmt.Sprintf("In %s write: csv: {delimiter: %q}", place(s, "csv"), d))
		}
	}
	return nil
}

// place returns the file of a stream's key, with its line if known.
func place(s *project.Stream, key string) string {
	file := s.File
	if file == "" {
		file = "streams/" + s.Name + ".yaml"
	}
	if line := s.Lines[key]; line > 0 {
		return fmt.Sprintf("%s:%d", file, line)
	}
	return file
}

// bind checks that the file has the stream's columns. A nullable column may be
// missing, unless the file has a column that it was likely meant to be read from.
func (r *Reader) bind(s *project.Stream, seen []string, where string) error {
	have := map[string]bool{}
	for _, name := range seen {
		have[name] = true
	}
	used := map[string]bool{}
	for _, c := range s.Columns {
		used[from(c)] = true
	}
	var free []string
	for _, name := range seen {
		if !used[name] && name != "" {
			free = append(free, name)
		}
	}
	if fault := r.wrongStream(s, have, free, where, seen); fault != nil {
		return fault
	}
	var faults project.Faults
	for _, c := range s.Columns {
		if have[from(c)] || hasParent(have, from(c)) {
			continue
		}
		meant := likely(c, free)
		if !c.NotNull && meant == "" {
			r.notes = append(r.notes, fmt.Sprintf("%s has no column %q: %s is NULL in every record", where, from(c), c.Name))
			continue
		}
		faults = append(faults, project.Fault{File: r.name, Line: 1,
			Reason: fmt.Sprintf("%s has no column %q; it has %s", where, from(c), list(seen)), Remedy: keyToAdd(s, c, meant)})
	}
	if len(faults) > 0 {
		return faults
	}
	return nil
}

// wrongStream returns a fault if the file has none of the stream's columns and no
// columns that half of them were likely meant to be read from. With one column, the
// fault of the missing column says as much.
func (r *Reader) wrongStream(s *project.Stream, have map[string]bool, free []string, where string, seen []string) error {
	alike := 0
	for _, c := range s.Columns {
		if have[from(c)] || hasParent(have, from(c)) {
			return nil
		}
		if likely(c, free) != "" {
			alike++
		}
	}
	if len(s.Columns) < 2 || 2*alike >= len(s.Columns) {
		return nil
	}
	return r.noneOf(s, 1, where+"; it has "+list(seen))
}

// noneOf returns the fault of a file that has none of the stream's columns.
func (r *Reader) noneOf(s *project.Stream, line int, where string) error {
	return r.fault(line, fmt.Sprintf("none of the %d columns of stream %s is in %s", len(s.Columns), s.Name, where),
		fmt.Sprintf("Check that the file belongs to this stream. If it does, name its columns with from: in %s", columnsPlace(s)))
}

// columnsPlace returns the file and line of a stream's first column.
func columnsPlace(s *project.Stream) string {
	at := place(s, "columns")
	if line := s.Columns[0].Line; line > 0 {
		at = fmt.Sprintf("%s:%d", strings.SplitN(at, ":", 2)[0], line)
	}
	return at
}

func from(c project.Column) string {
	if c.From == "" {
		return c.Name
	}
	return c.From
}

// hasParent reports whether a dotted path may be inside a column of the file.
func hasParent(have map[string]bool, path string) bool {
	for i := range len(path) {
		if path[i] == '.' && have[path[:i]] {
			return true
		}
	}
	return false
}

// likely returns the column of the file that c was probably meant to be read from,
// or "".
func likely(c project.Column, free []string) string {
	for _, name := range free {
		if project.SnakeName(name, "") == c.Name || strings.EqualFold(name, from(c)) {
			return name
		}
	}
	return project.Nearest(from(c), free)
}

// keyToAdd returns the remedy for a missing column: the line to write in the
// stream's file.
func keyToAdd(s *project.Stream, c project.Column, meant string) string {
	at := place(s, "columns")
	if c.Line > 0 {
		at = fmt.Sprintf("%s:%d", strings.SplitN(at, ":", 2)[0], c.Line)
	}
	header := meant
	if header == "" {
		header = "HEADER"
	}
	sql := c.SQL()
	if c.Type.Kind == project.Decimal {
		sql = fmt.Sprintf("%q", sql)
	}
	text := fmt.Sprintf("In %s write: %s: {type: %s, from: %s", at, c.Name, sql, yamlName(header))
	if c.Format != "" {
		text += fmt.Sprintf(", format: %q", c.Format)
	}
	return text + "}"
}

func yamlName(name string) string {
	if strings.ContainsFunc(name, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == ' ')
	}) || name == "" {
		return fmt.Sprintf("%q", name)
	}
	return name
}

// list returns the first names of a file, joined by commas.
func list(names []string) string {
	const most = 20
	if len(names) > most {
		return strings.Join(names[:most], ", ") + fmt.Sprintf(" and %d more", len(names)-most)
	}
	return strings.Join(names, ", ")
}

// members returns the record's member for each column of the file.
func (r *Reader) members(s *project.Stream, seen []string) ([]csvColumn, error) {
	numeric, declared := map[string]bool{}, map[string]bool{}
	for _, c := range s.Columns {
		declared[from(c)] = true
		numeric[from(c)] = numeric[from(c)] || c.Type.Numeric()
	}
	columns := make([]csvColumn, len(seen))
	for i, name := range Members(seen) {
		if strings.HasPrefix(name, "_duet_") {
			return nil, r.fault(1, fmt.Sprintf("the header has the column %q; names that begin with _duet_ are reserved", name), "rename it in the file")
		}
		if name != seen[i] && declared[seen[i]] && !declared[name] {
			return nil, r.fault(1, fmt.Sprintf("the header has %q twice", seen[i]), fmt.Sprintf("rename one in the file, or also declare the second, with from: %s", name))
		}
		columns[i] = csvColumn{name: name, key: memberKey(name), numeric: numeric[name]}
	}
	return columns, nil
}

// Members returns distinct names for the columns of a header. A column without a
// name becomes column_N, where N is its place from 1; a repeated name becomes
// NAME_N.
func Members(header []string) []string {
	taken := map[string]bool{}
	for _, name := range header {
		taken[name] = true
	}
	before := map[string]bool{}
	members := make([]string, len(header))
	for i, name := range header {
		if name == "" || before[name] {
			base := name
			if base == "" {
				base = "column"
			}
			for n := i + 1; name == "" || taken[name]; n++ {
				name = fmt.Sprintf("%s_%d", base, n)
			}
			taken[name] = true
		}
		before[name] = true
		members[i] = name
	}
	return members
}
