package source

import (
	"bytes"
	"io"

	"github.com/zeebo/xxh3"
)

// window holds the unread part of a file that is in memory: buf[start:end].
type window struct {
	in         io.Reader
	buf        []byte
	start, end int
	err        error // the first error of in, including io.EOF
	number     int   // number of the line at start, from 1
}

const windowBytes = 256 << 10

func newWindow(in io.Reader) *window {
	return &window{in: in, buf: make([]byte, windowBytes), number: 1}
}

// bytes returns the unread bytes in memory. They are valid until the next fill.
func (w *window) bytes() []byte { return w.buf[w.start:w.end] }

// fill reads more bytes. It returns false at the end of the input and on an error.
func (w *window) fill() bool {
	if w.err != nil {
		return false
	}
	if w.start > 0 && w.end > len(w.buf)-len(w.buf)/4 {
		copy(w.buf, w.buf[w.start:w.end])
		w.start, w.end = 0, w.end-w.start
	}
	if w.end == len(w.buf) {
		w.buf = append(w.buf, make([]byte, len(w.buf))...)
	}
	for range 100 { // like bufio: give up on a reader that returns neither bytes nor an error
		n, err := w.in.Read(w.buf[w.end:])
		w.end += n
		if err != nil {
			w.err = err
		}
		if n > 0 || err != nil {
			return n > 0
		}
	}
	w.err = io.ErrNoProgress
	return false
}

// failure returns the error that ended the input, or nil at its regular end.
func (w *window) failure() error {
	if w.err == io.EOF {
		return nil
	}
	return w.err
}

// peek returns up to n bytes without consuming them.
func (w *window) peek(n int) []byte {
	for w.end-w.start < n && w.fill() {
	}
	return w.buf[w.start:min(w.end, w.start+n)]
}

// rest returns a reader of the whole remaining input, including peeked bytes.
func (w *window) rest() io.Reader {
	peeked := bytes.Clone(w.bytes())
	if w.err != nil {
		return bytes.NewReader(peeked)
	}
	return io.MultiReader(bytes.NewReader(peeked), w.in)
}

// reset replaces the input.
func (w *window) reset(in io.Reader) {
	w.in, w.start, w.end, w.err = in, 0, 0, nil
}

// skipMark skips the byte order mark of UTF-8.
func (w *window) skipMark() {
	if bytes.HasPrefix(w.peek(3), []byte("\xef\xbb\xbf")) {
		w.start += 3
	}
}

// firstVisible returns the first byte of the first kilobyte that is neither white
// space nor part of a byte order mark, or 0.
func (w *window) firstVisible() byte {
	head := bytes.TrimLeft(bytes.TrimPrefix(w.peek(1024), []byte("\xef\xbb\xbf")), " \t\r\n")
	if len(head) == 0 {
		return 0
	}
	return head[0]
}

// lineEnd finds the end of the line at start: end is the end of its text and next
// the start of the next line, both relative to start. ok is false if the line is
// longer than MaxLineBytes. At the end of the input, end and next are 0.
func (w *window) lineEnd() (end, next int, ok bool, err error) {
	for scanned := 0; ; {
		if i := bytes.IndexByte(w.buf[w.start+scanned:w.end], '\n'); i >= 0 {
			end, next = scanned+i, scanned+i+1
			break
		}
		scanned = w.end - w.start
		if scanned > MaxLineBytes+1 {
			return scanned, scanned, false, nil
		}
		if !w.fill() {
			if err := w.failure(); err != nil {
				return 0, 0, false, err // the remaining bytes may be half a line
			}
			end, next = w.end-w.start, w.end-w.start
			break
		}
	}
	if end > 0 && w.buf[w.start+end-1] == '\r' {
		end--
	}
	return end, next, end <= MaxLineBytes, nil
}

// take consumes n bytes that contain the given number of line ends.
func (w *window) take(n, lines int) {
	w.start += n
	w.number += lines
}

// skipLong consumes a line that is too long and adds it to the chain. It returns
// the line's length without the line end.
func (w *window) skipLong(c *chain) (size int, err error) {
	c.begin()
	carriage := false // a carriage return is pending, which may belong to the line end
	write := func(b []byte) {
		if carriage && len(b) > 0 {
			c.write([]byte{'\r'})
			size++
			carriage = false
		}
		if len(b) > 0 && b[len(b)-1] == '\r' {
			b, carriage = b[:len(b)-1], true
		}
		c.write(b)
		size += len(b)
	}
	for {
		b := w.bytes()
		if i := bytes.IndexByte(b, '\n'); i >= 0 {
			write(b[:i])
			w.take(i+1, 1)
			break
		}
		write(b)
		w.take(len(b), 0)
		if !w.fill() {
			if err := w.failure(); err != nil {
				return size, err
			}
			w.number++
			break
		}
	}
	c.finish()
	return size, nil
}

// chain is the hash chain over the lines so far; see the package comment.
type chain struct {
	h       xxh3.Uint128
	chunk   [16]byte
	lines   int // number of lines so far
	scratch []byte
	stream  *xxh3.Hasher // hashes a long line between begin and finish
}

func newChain(stream string) *chain {
	return &chain{h: xxh3.HashString128("duet file 1\x00" + stream)}
}

// add adds a line.
func (c *chain) add(line []byte) {
	before := c.h.Bytes()
	c.scratch = append(append(c.scratch[:0], before[:]...), line...)
	c.advance(xxh3.Hash128(c.scratch), before)
}

func (c *chain) advance(h xxh3.Uint128, before [16]byte) {
	if c.lines%ChunkLines == 0 {
		c.chunk = before
	}
	c.lines++
	c.h = h
}

func (c *chain) begin() {
	before := c.h.Bytes()
	c.stream = xxh3.New()
	c.write(before[:])
}

func (c *chain) write(b []byte) {
	_, _ = c.stream.Write(b) // never fails
}

func (c *chain) finish() {
	c.advance(c.stream.Sum128(), c.h.Bytes())
	c.stream = nil
}

// stamp sets the identity of the record to that of the last line.
func (c *chain) stamp(r *Record) { r.Chunk, r.Digest = c.chunk, c.h.Lo }
