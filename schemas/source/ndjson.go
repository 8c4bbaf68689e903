package source

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"duet/schemas/event"
	"duet/schemas/project"
)

// ndjson reads one JSON object a line and passes it on unchanged.
type ndjson struct {
	*window
	chain *chain
	bad   []byte
	last  int // line that was read last
}

func (n *ndjson) line() int { return n.last }

func (n *ndjson) next(r *Record) error {
	for {
		end, next, ok, err := n.lineEnd()
		if err != nil {
			return err
		}
		if ok && next == 0 {
			return io.EOF
		}
		r.Line, n.last = n.number, n.number
		if !ok {
			return n.long(r)
		}
		text := n.bytes()[:end]
		n.chain.add(text)
		n.take(next, 1)
		if len(text) == 0 || len(bytes.TrimLeft(text, " \t\r")) == 0 {
			continue
		}
		n.chain.stamp(r)
		r.JSON = text
		return nil
	}
}

// sampleRecords is the number of records that checkNDJSON looks at.
const sampleRecords = 100

// checkNDJSON returns a fault if none of the first records has one of the stream's
// columns. It reads no more of the input than the first line that is not blank, and
// then looks at the lines in memory: a pipe must not wait for more.
func (r *Reader) checkNDJSON(w *window, s *project.Stream) error {
	if len(s.Columns) == 0 {
		return nil // duet init reads a file before there is a stream
	}
	declared := map[string]bool{}
	for _, c := range s.Columns {
		declared[from(c)] = true
		declared[strings.SplitN(from(c), ".", 2)[0]] = true
	}
	for len(bytes.TrimSpace(w.bytes())) == 0 || bytes.IndexByte(bytes.TrimLeft(w.bytes(), " \t\r\n"), '\n') < 0 {
		if len(w.bytes()) > MaxLineBytes || !w.fill() {
			break
		}
	}
	names, first, line, records := []string(nil), 0, 0, 0
	for text := range bytes.Lines(w.bytes()) {
		line++
		var members map[string]json.RawMessage
		if json.Unmarshal(text, &members) != nil || len(members) == 0 {
			continue
		}
		for name := range members {
			if declared[name] {
				return nil
			}
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
		if records++; records == 1 {
			first = line
		}
		if records == sampleRecords {
			break
		}
	}
	switch slices.Sort(names); records {
	case 0:
		return nil // the decoder rejects what is there
	case 1:
		return r.noneOf(s, first, "the first record; it has "+list(names))
	}
	return r.noneOf(s, first, fmt.Sprintf("the first %d records; they have %s", records, list(names)))
}

// long turns a line above the limit into a bad record.
func (n *ndjson) long(r *Record) error {
	return longLine(n.window, n.chain, &n.bad, r)
}

// excerptBytes is how much of a line above the limit its reject keeps.
const excerptBytes = 1024

func longLine(w *window, c *chain, buf *[]byte, r *Record) error {
	excerpt := bytes.Clone(w.bytes()[:excerptBytes])
	size, err := w.skipLong(c)
	if err != nil {
		return err
	}
	c.stamp(r)
	*buf = event.AppendBad((*buf)[:0], fmt.Sprintf("the line has %d bytes; the limit is %d. Only its first %d are kept", size, MaxLineBytes, excerptBytes), excerpt)
	r.JSON = *buf
	return nil
}
