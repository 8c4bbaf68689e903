package source

import (
	"bytes"
	"fmt"
	"io"

	"duet/schemas/event"
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
