// Package scaffold writes a first project from a sample file, whose types, time
// formats and dialect it infers, or from its own example. The project passes the
// loader and the compiler, and the decoder accepts every well-formed line of the
// sample. Start with [Scaffold].
//
// It declares only what the data shows and describes it in comments. It declares
// NOT NULL only if it read the whole file and no value is missing, and never an
// id, because only the user knows whether two equal lines are one event.
package scaffold

import (
	"bytes"
	_ "embed" // for example.csv
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/zeebo/xxh3"

	"duet/schemas/project"
	"duet/schemas/source"
)

// Limits of what is read of a sample.
const (
	headBytes  = 64 << 10
	maxRows    = 3_000_000
	maxObjects = 300_000 // of NDJSON and Parquet
)

//go:embed example.csv
var example []byte

// Scaffold returns a project's files, by slash-separated path, for the sample file
// name. open opens the file at its beginning and may be called several times; nil
// means the packaged example, and then name is the project's name. The notes tell
// the user what was found and what to check. Scaffold fails if the file cannot be
// read or has no usable columns.
func Scaffold(name string, open func() (io.ReadCloser, error)) (files map[string]string, notes []string, err error) {
	s := &sample{open: open, file: path.Base(strings.ReplaceAll(name, `\`, "/"))}
	s.project = streamName(s.file)
	s.stream = s.project
	if open == nil {
		s.file, s.stream = "sample/orders.csv", "orders"
		s.open = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(example)), nil }
	}
	if err := s.look(); err != nil {
		return nil, nil, err
	}
	s.decide()
	if len(s.columns) == 0 {
		return nil, nil, project.Fault{File: s.file, Line: 1, Reason: "has no column whose name can be used", Remedy: "give the columns names of at most 200 characters"}
	}
	files = s.files()
	if open == nil {
		files[s.file] = string(example)
	}
	if p, faults := project.FromFiles(definitions(files)); p == nil {
		return nil, nil, fmt.Errorf("%s gives a project with faults: %w", name, faults)
	}
	return files, s.notes, nil
}

// definitions returns the files that are part of a project's definitions.
func definitions(files map[string]string) map[string]string {
	read := map[string]string{}
	for name, text := range files {
		if name == "duet.yaml" || strings.HasPrefix(name, "streams/") || strings.HasPrefix(name, "views/") {
			read[name] = text
		}
	}
	return read
}

// streamName derives a stream's name from a file's: online_retail from
// online_retail.csv.gz.
func streamName(file string) string {
	for {
		ext := strings.ToLower(path.Ext(file))
		if !slices.Contains([]string{".gz", ".zst", ".zstd", ".csv", ".tsv", ".txt", ".psv", ".ndjson", ".jsonl", ".json", ".parquet", ".pq"}, ext) {
			break
		}
		file = file[:len(file)-len(ext)]
	}
	return project.SnakeName(file, "events")
}

// sample is a file and what was found in it.
type sample struct {
	open            func() (io.ReadCloser, error)
	file            string
	project, stream string
	format          source.Format
	csv             project.CSV
	columns         []*column
	byPath          map[string]*column
	rows            int
	whole           bool // the file was read to its end
	bad, broken     int
	firstBad        string
	pair            pair
	lists           map[string]bool // members that hold lists
	notes           []string
	plan
}

// pair is a pair of columns that together may be an id.
type pair struct {
	a, b     int
	seen     map[[2]uint64]struct{}
	repeated bool
	names    string
}

// look reads the file.
func (s *sample) look() error {
	in, err := s.open()
	if err != nil {
		return err
	}
	looked, err := RefuseBinary(in, s.file, "")
	if err != nil {
		return errors.Join(err, in.Close())
	}
	head, format, err := source.Head(looked, s.file, headBytes)
	err = errors.Join(err, in.Close())
	if err != nil {
		return err
	}
	s.format = format
	s.csv = project.CSV{Delimiter: ",", Decimal: ".", Encoding: "utf-8", Nulls: []string{""}}
	if format != source.CSV {
		return s.objects()
	}
	s.csv.Delimiter = source.Delimiter(head)
	for range 3 { // read again after each change of encoding or decimal sign
		if err := s.fields(); err != nil {
			return err
		}
		commas, points := 0, 0
		for _, c := range s.columns {
			commas, points = commas+c.commas, points+c.plainPoints
		}
		switch {
		case s.broken > 0 && s.csv.Encoding == "utf-8":
			s.csv.Encoding = "windows-1252"
		case commas > points && s.csv.Decimal == "." && s.csv.Delimiter != ",":
			s.csv.Decimal = ","
		default:
			return nil
		}
	}
	return nil
}

// fields reads a CSV file in the current dialect.
func (s *sample) fields() error {
	in, err := s.open()
	if err != nil {
		return err
	}
	s.rows, s.bad, s.broken, s.whole = 0, 0, 0, true
	comma := s.csv.Decimal == ","
	err = source.Fields(in, s.file, s.csv, s.header, func(r *source.Row) bool {
		if s.rows == maxRows {
			s.whole = false
			return false
		}
		s.rows++
		if r.Bad != "" {
			if s.bad == 0 {
				s.firstBad = fmt.Sprintf("%s:%d: %s", s.file, r.Line, r.Bad)
			}
			s.bad++
			return true
		}
		if r.Broken {
			s.broken++
			return s.csv.Encoding != "utf-8" // read again with another encoding
		}
		for i, v := range r.Values {
			c := s.columns[i]
			if !comma && s.rows <= 10_000 && !c.text {
				c.lookForComma(v)
			}
			c.add(v, comma)
		}
		s.pair.add(r.Values)
		return true
	})
	return errors.Join(err, in.Close())
}

// lookForComma counts numbers by their decimal sign.
func (c *column) lookForComma(v []byte) {
	if bytes.IndexByte(v, ',') >= 0 && commaNumber(v) {
		c.commas++
	} else if n, ok := parseNumber(v); ok && n.decimals > 0 {
		c.plainPoints++
	}
}

// header creates the columns from the first line. It fails if that holds values.
func (s *sample) header(names []string) error {
	values := 0
	for _, n := range names {
		_, isNumber := parseNumber([]byte(n))
		_, _, isTime := isoTime([]byte(n))
		if isNumber || isTime {
			values++
		}
	}
	if values > 0 && values*2 >= len(names) {
		return project.Fault{File: s.file, Line: 1, Reason: "the first line holds values, not the names of columns", Remedy: "add a first line with the names of the columns"}
	}
	s.columns = nil
	taken := map[string]bool{}
	s.pair = pair{a: -1, b: -1, seen: map[[2]uint64]struct{}{}}
	for i, n := range source.Members(names) {
		if strings.HasPrefix(n, "_duet_") {
			return project.Fault{File: s.file, Line: 1, Reason: "the header has the column " + n + "; names that begin with _duet_ are reserved", Remedy: "rename it in the file"}
		}
		c := newColumn(n)
		c.name = freeName(project.SnakeName(n, fmt.Sprintf("column_%d", i+1)), taken)
		s.columns = append(s.columns, c)
		if idName.MatchString(c.name) && !personName.MatchString(c.name) {
			if s.pair.a < 0 {
				s.pair.a = i
			} else if s.pair.b < 0 {
				s.pair.b = i
			}
		}
	}
	return nil
}

// freeName appends _2, _3 ... until the name is not taken, and marks it as taken.
func freeName(name string, taken map[string]bool) string {
	free := name
	for n := 2; taken[free]; n++ {
		suffix := fmt.Sprintf("_%d", n)
		free = name[:min(len(name), 63-len(suffix))] + suffix
	}
	taken[free] = true
	return free
}

func (p *pair) add(values [][]byte) {
	if p.repeated || p.b < 0 {
		return
	}
	key := [2]uint64{xxh3.Hash(values[p.a]), xxh3.Hash(values[p.b])}
	if _, ok := p.seen[key]; ok {
		p.repeated, p.seen = true, nil
		return
	}
	p.seen[key] = struct{}{}
}
