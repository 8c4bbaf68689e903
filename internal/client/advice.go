package client

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"duet/schemas/event"
	"duet/schemas/project"
	"duet/schemas/project/scaffold"
	"duet/schemas/source"
)

// An AllRejectedError reports a file whose probed records would all be
// rejected: the stream's definition does not fit it.
type AllRejectedError struct {
	File   string
	Line   int    // of the first record
	Reason string // why the first record would be rejected
	Lines  int    // probed
	Remedy string // what to write, and where; may be empty
}

// Error says what is wrong, where, and what to write in the stream's file.
func (r *AllRejectedError) Error() string {
	all := fmt.Sprintf("None of the first %s lines can be read", thousands(r.Lines))
	switch {
	case r.Lines == 1:
		all = "It is the only line"
	case r.Lines < probeLines:
		all = fmt.Sprintf("None of the %d lines can be read", r.Lines)
	}
	message := fmt.Sprintf("%s:%d: %s. %s; nothing was sent.", r.File, r.Line, strings.TrimRight(r.Reason, "."), all)
	if r.Remedy == "" {
		return message + " Add --dry-run to see how each line is read"
	}
	return message + " " + r.Remedy
}

func thousands(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// allRejected returns the [AllRejectedError] of records, with the change of one
// column's definition that accepts the most of them, if one helps.
func allRejected(name string, s *project.Stream, records []source.Record, first *event.Reject) error {
	r := &AllRejectedError{File: name, Line: records[0].Line, Reason: first.Reason, Lines: len(records)}
	if name == "-" {
		r.File = "stdin"
	}
	i := slices.IndexFunc(s.Columns, func(c project.Column) bool { return c.Name == first.Column })
	if i < 0 {
		return r
	}
	better, helped := s.Columns[i], 0
	for _, candidate := range candidates(s.Columns[i], records[0].JSON) {
		if n := survivors(s, i, candidate, records); n > helped {
			better, helped = candidate, n
		}
	}
	if helped == 0 {
		return r
	}
	place := fmt.Sprintf("In %s:%d write", s.File, better.Line)
	r.Remedy = place + ": " + columnLine(better)
	if other := better; scaffold.SwapDayMonth(&other.Format) && survivors(s, i, other, records) == helped {
		day, month := other, better
		if scaffold.DayFirst(better.Format) {
			day, month = better, other
		}
		r.Remedy = scaffold.BothOrders(place, columnLine(day), columnLine(month))
	}
	return r
}

// survivors counts the records that the decoder accepts, or rejects for another
// column, once a column's definition is changed.
func survivors(s *project.Stream, column int, candidate project.Column, records []source.Record) int {
	changed := *s
	changed.Columns = slices.Clone(s.Columns)
	changed.Columns[column] = candidate
	decoder, now := event.NewDecoder(event.NewSchema(&changed)), time.Now()
	n := 0
	for i := range records {
		if _, reject := decoder.Decode(records[i].JSON, now); reject == nil || reject.Column != candidate.Name {
			n++
		}
	}
	return n
}

// Common date and time formats. Where two read the same text, the likelier one
// comes first.
var (
	dateFormats = []string{"%m/%d/%Y", "%d/%m/%Y", "%d.%m.%Y", "%d-%m-%Y", "%Y/%m/%d", "%Y%m%d", "%m/%d/%y", "%d/%m/%y", "%d.%m.%y", "%d %b %Y", "%d-%b-%Y", "%d-%b-%y", "%b %d, %Y", "%B %d, %Y", "%d %B %Y"}
	timeFormats = []string{"%H:%M", "%H:%M:%S", "%H:%M:%S.%f", "%I:%M %p", "%I:%M:%S %p", "%I:%M:%S%p", "%I:%M%p"}
)

// candidates returns changed definitions of c that might read the record.
func candidates(c project.Column, record []byte) (list []project.Column) {
	formats := func(texts ...string) {
		for _, text := range texts {
			changed := c
			changed.Format = text
			list = append(list, changed)
		}
	}
	// The file may have the column under another name.
	if names := members(record); !slices.Contains(names, c.From) {
		for _, name := range names {
			if project.SnakeName(name, "") == c.Name {
				changed := c
				changed.From = name
				list = append(list, changed)
			}
		}
		if near := project.Nearest(c.From, names); near != "" && len(list) == 0 {
			changed := c
			changed.From = near
			list = append(list, changed)
		}
	}
	switch c.Type.Kind {
	case project.Date:
		formats(dateFormats...)
		for _, date := range dateFormats {
			for _, clock := range timeFormats {
				formats(date + " " + clock)
			}
		}
	case project.Time:
		formats(timeFormats...)
	case project.Timestamp:
		for _, date := range dateFormats {
			for _, clock := range timeFormats {
				formats(date+" "+clock, date+"T"+clock, date+" "+clock+" %z", date+", "+clock)
			}
		}
		formats(dateFormats...)
		formats("%s")
	case project.Decimal:
		for more := 1; c.Type.Scale+more <= 12; more++ {
			changed := c
			changed.Type.Scale += more
			changed.Type.Precision = min(38, c.Type.Precision+more)
			list = append(list, changed)
		}
	case project.TinyInt, project.SmallInt, project.Integer:
		changed := c
		changed.Type.Kind = project.BigInt
		list = append(list, changed, decimalOf(c))
	case project.BigInt:
		list = append(list, decimalOf(c))
	}
	if c.Type.Numeric() || c.Type.Kind == project.Boolean || c.Type.Kind == project.UUID {
		list = append(list, varcharOf(c))
	}
	return list
}

// decimalOf returns c as a DECIMAL.
func decimalOf(c project.Column) project.Column {
	c.Type = project.Type{Kind: project.Decimal, Precision: 18, Scale: 4}
	return c
}

// varcharOf returns c as a VARCHAR, which takes any text.
func varcharOf(c project.Column) project.Column {
	c.Type, c.Format = project.Type{Kind: project.Varchar}, ""
	return c
}

// members returns the names of a JSON object's members, in order.
func members(record []byte) (names []string) {
	d := json.NewDecoder(bytes.NewReader(record))
	if token, err := d.Token(); err != nil || token != json.Delim('{') {
		return nil
	}
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return names
		}
		name, ok := token.(string)
		if !ok {
			return names
		}
		names = append(names, name)
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return names
		}
	}
	return names
}

// columnLine returns c as a line of its stream's YAML file.
func columnLine(c project.Column) string {
	var more strings.Builder
	if c.From != c.Name {
		fmt.Fprintf(&more, ", from: %s", quoteYAML(c.From))
	}
	if c.Format != "" {
		fmt.Fprintf(&more, ", format: %q", c.Format)
	}
	if more.Len() == 0 {
		return c.Name + ": " + c.SQL()
	}
	return fmt.Sprintf("%s: {type: %s%s}", c.Name, quoteYAML(c.SQL()), more.String())
}

// quoteYAML quotes s if a YAML flow mapping cannot hold it as it is.
func quoteYAML(s string) string {
	if s == "" || strings.ContainsAny(s, ",:{}[]#&*!|>'\"%@`\\") || s != strings.TrimSpace(s) {
		return fmt.Sprintf("%q", s)
	}
	return s
}
