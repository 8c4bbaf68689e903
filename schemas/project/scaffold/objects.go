package scaffold

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"

	"duet/schemas/project"
	"duet/schemas/source"
)

// maxDepth is the nesting depth down to which members become columns.
const maxDepth = 3

// objects reads NDJSON or Parquet as the records that ingest would send.
func (s *sample) objects() error {
	in, err := s.open()
	if err != nil {
		return err
	}
	err = s.readObjects(in)
	return errors.Join(err, in.Close())
}

func (s *sample) readObjects(in io.Reader) error {
	r, err := source.Open(in, &project.Stream{Name: s.stream, CSV: s.csv}, source.Options{Name: s.file})
	if err != nil {
		return err
	}
	defer r.Close()
	s.notes = append(s.notes, r.Notes()...)
	s.byPath, s.lists, s.pair = map[string]*column{}, map[string]bool{}, pair{a: -1, b: -1}
	for s.rows < maxObjects && !s.whole {
		rec, err := r.Next()
		if err == io.EOF {
			s.whole = true
			break
		}
		if err != nil {
			return err
		}
		s.rows++
		if !json.Valid(rec.JSON) || bytes.HasPrefix(rec.JSON, []byte(`{"_duet_bad"`)) || s.object(rec.JSON) != nil {
			if s.bad == 0 {
				s.firstBad = fmt.Sprintf("%s:%d: is not a JSON object", s.file, rec.Line)
			}
			s.bad++
		}
	}
	if len(s.columns) == 0 {
		return project.Fault{File: s.file, Reason: "holds no object with members", Remedy: "name a file of one JSON object a line"}
	}
	for _, c := range s.columns { // a missing member is NULL
		c.nulls = s.rows - s.bad - c.rows
	}
	return nil
}

var errNoObject = errors.New("not an object")

func (s *sample) object(record []byte) error {
	d := json.NewDecoder(bytes.NewReader(record))
	d.UseNumber()
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return errNoObject
	}
	return s.members(d, "", 1)
}

// members adds the members of the object whose opening brace was read, in their
// order; those of nested objects by their dotted path.
func (s *sample) members(d *json.Decoder, prefix string, depth int) error {
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return err
		}
		at := prefix + name.(string)
		value, err := d.Token()
		if err != nil {
			return err
		}
		switch v := value.(type) {
		case json.Delim:
			if v == '{' && depth < maxDepth {
				if err := s.members(d, at+".", depth+1); err != nil {
					return err
				}
				continue
			}
			s.lists[at] = true
			if err := skip(d); err != nil {
				return err
			}
		case json.Number:
			c := s.at(at)
			c.jsonNumber = true
			c.add([]byte(v.String()), false)
		case bool:
			s.at(at).add(strconv.AppendBool(nil, v), false)
		case string:
			c := s.at(at)
			c.jsonText = true
			c.add([]byte(v), false)
		}
	}
	_, err := d.Token() // the closing brace
	return err
}

// skip reads to the end of the list or object whose opening bracket was read.
func skip(d *json.Decoder) error {
	for depth := 1; depth > 0; {
		t, err := d.Token()
		if err != nil {
			return err
		}
		switch t {
		case json.Delim('['), json.Delim('{'):
			depth++
		case json.Delim(']'), json.Delim('}'):
			depth--
		}
	}
	return nil
}

// at returns the column of a path and creates it if needed.
func (s *sample) at(path string) *column {
	if c := s.byPath[path]; c != nil {
		return c
	}
	c := newColumn(path)
	c.literal = true
	taken := map[string]bool{}
	for _, other := range s.columns {
		taken[other.name] = true
	}
	c.name = freeName(project.SnakeName(path, fmt.Sprintf("column_%d", len(s.columns)+1)), taken)
	s.byPath[path] = c
	s.columns = append(s.columns, c)
	return c
}
