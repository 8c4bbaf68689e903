package event

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
)

// A file's identity is a hash chain over its lines, cut in chunks: h(i) =
// hash128(h(i-1) || line i); Chunk of a run is h before the chunk's first line,
// a line's digest the low 64 bits of its h. So a digest under its chunk stands
// for the line and everything before it, whatever the file is called: the same
// content again adds nothing, a grown file adds its new lines, and a file that
// differs from some line on is new from there.
//
// A line is known once it was accepted, or was a duplicate by id. A rejected one
// is known only to the definition that rejected it: after an edit of the stream
// the same file heals what was refused. A line that lay too far in the future is
// not known at all.
//
// Memory is bounded: beyond DefaultMaxLines digests the oldest full chunks keep
// only their last digest. It proves all lines before it, so a run that reaches
// it is still decided; any other line of the chunk is rejected, saying so.

// LinesInChunk is the number of lines of a file's chunk, the last one's aside.
const LinesInChunk = 1024

// DefaultMaxLines is how many line digests a State remembers one by one: about
// 300 MB of them.
const DefaultMaxLines = 32 << 20

type chunkKey struct {
	stream string
	chunk  [16]byte
}

// chunk is what is known of a chunk's lines.
type chunk struct {
	sorted  []uint64 // digests, in order
	recent  []uint64 // at most maxRecent more, as they came
	refused []refusedLine
	last    uint64 // digest of the line that was added last
	whole   bool   // only last and refused are left
}

// refusedLine is a line that was rejected under a definition.
type refusedLine struct {
	digest, definition uint64
}

const maxRecent = 64

func (c *chunk) count() int { return len(c.sorted) + len(c.recent) }

func (c *chunk) has(digest uint64) bool {
	if _, ok := slices.BinarySearch(c.sorted, digest); ok {
		return true
	}
	return slices.Contains(c.recent, digest)
}

func (c *chunk) refusedUnder(digest uint64) (definition uint64, ok bool) {
	for _, r := range c.refused {
		if r.digest == digest {
			return r.definition, true
		}
	}
	return 0, false
}

// add remembers a digest that it does not have.
func (c *chunk) add(digest uint64) {
	if c.recent == nil {
		c.recent = make([]uint64, 0, maxRecent)
	}
	if c.recent = append(c.recent, digest); len(c.recent) == maxRecent {
		c.settle(LinesInChunk)
	}
}

// settle merges recent into sorted, from the back.
func (c *chunk) settle(full int) {
	slices.Sort(c.recent)
	if need := c.count(); need > cap(c.sorted) && need > full/4 && need <= full {
		c.sorted = append(make([]uint64, 0, full), c.sorted...)
	}
	i, j := len(c.sorted)-1, len(c.recent)-1
	c.sorted = append(c.sorted, c.recent...)
	for k := len(c.sorted) - 1; j >= 0; k-- {
		if i >= 0 && c.sorted[i] > c.recent[j] {
			c.sorted[k] = c.sorted[i]
			i--
		} else {
			c.sorted[k] = c.recent[j]
			j--
		}
	}
	if c.recent = c.recent[:0]; len(c.sorted) >= full {
		c.recent = nil
	}
}

// lineSet is every chunk that is known, of every stream.
type lineSet struct {
	chunks map[chunkKey]*chunk
	order  []*chunk // as they were first met; those before oldest are whole
	oldest int
	count  int // digests held one by one
	max    int
}

func newLineSet() *lineSet {
	return &lineSet{chunks: map[chunkKey]*chunk{}, max: DefaultMaxLines}
}

// trim makes whole chunks of the oldest full ones while there are too many
// digests, and then, which takes very many small files, of any. It runs before
// a run of lines and depends on the state alone, so a restored state and one
// that never stopped decide alike.
func (l *lineSet) trim() {
	for _, least := range []int{LinesInChunk, 1} {
		for i := l.oldest; i < len(l.order) && l.count > l.max; i++ {
			c := l.order[i]
			if !c.whole && c.count() > 0 && c.count()+len(c.refused) >= least {
				l.count -= c.count()
				c.sorted, c.recent, c.whole = nil, nil, true
			}
		}
	}
	for l.oldest < len(l.order) && l.order[l.oldest].whole {
		l.oldest++
	}
}

// lineRun decides the lines of one run.
type lineRun struct {
	set        *lineSet
	key        chunkKey
	chunk      *chunk // nil until something is known of it
	definition uint64
	lines      []uint64
	proven     int // of a whole chunk: lines before this index are at or before its last

	added   []byte // as LinesArrow holds them
	refused []byte
	first   int // index in lines of the first that was added
}

func (l *lineSet) run(key chunkKey, lines []uint64, definition uint64) lineRun {
	l.trim()
	r := lineRun{set: l, key: key, chunk: l.chunks[key], definition: definition, lines: lines}
	if r.chunk != nil && r.chunk.whole {
		r.proven = slices.Index(lines, r.chunk.last) + 1
	}
	return r
}

// chunk is the chunk of a key, made if it is not known.
func (l *lineSet) chunk(key chunkKey) *chunk {
	c := l.chunks[key]
	if c == nil {
		c = &chunk{}
		l.chunks[key] = c
		l.order = append(l.order, c)
	}
	return c
}

// lineVerdict says what is known of a line.
type lineVerdict uint8

const (
	lineNew lineVerdict = iota
	lineKnown
	lineForgotten
)

func (r *lineRun) verdict(i int) lineVerdict {
	digest := r.lines[i]
	if r.chunk == nil {
		return lineNew
	}
	if definition, ok := r.chunk.refusedUnder(digest); ok {
		if definition == r.definition {
			return lineKnown
		}
		return lineNew
	}
	switch {
	case r.chunk.whole && i < r.proven:
		return lineKnown
	case r.chunk.whole:
		return lineForgotten
	case r.chunk.has(digest):
		return lineKnown
	}
	return lineNew
}

// remember adds line i; rejected says that the definition refused it.
func (r *lineRun) remember(i int, rejected bool) {
	if r.chunk == nil {
		r.chunk = r.set.chunk(r.key)
	}
	if len(r.added) == 0 {
		r.first = i
	}
	if rejected {
		r.refused = binary.LittleEndian.AppendUint32(r.refused, uint32(len(r.added)/8))
	}
	r.added = binary.LittleEndian.AppendUint64(r.added, r.lines[i])
	r.set.remember(r.chunk, r.lines[i], r.definition, rejected)
}

func (l *lineSet) remember(c *chunk, digest, definition uint64, rejected bool) {
	at := slices.IndexFunc(c.refused, func(r refusedLine) bool { return r.digest == digest })
	switch {
	case rejected && at >= 0:
		c.refused[at].definition = definition
	case rejected:
		c.refused = append(c.refused, refusedLine{digest, definition})
	default:
		if at >= 0 {
			c.refused = slices.Delete(c.refused, at, at+1)
		}
		if !c.whole { // a whole chunk proves it by its last line
			c.add(digest)
			l.count++
		}
	}
	if !c.whole {
		c.last = digest
	}
}

func (l *lineSet) clone() *lineSet {
	c := &lineSet{chunks: make(map[chunkKey]*chunk, len(l.chunks)), order: make([]*chunk, len(l.order)), oldest: l.oldest, count: l.count, max: l.max}
	copies := make(map[*chunk]*chunk, len(l.order))
	for i, old := range l.order {
		n := *old
		n.sorted, n.recent, n.refused = slices.Clone(old.sorted), slices.Clone(old.recent), slices.Clone(old.refused)
		c.order[i], copies[old] = &n, &n
	}
	for key, old := range l.chunks {
		c.chunks[key] = copies[old]
	}
	return c
}

// RestoreLines remembers the lines of archived rows, in the order of their
// positions; rec has the columns of [LinesArrow] by name, others are ignored.
func (st *State) RestoreLines(rec arrow.RecordBatch) error {
	var columns [5]arrow.Array
	for i, f := range LinesArrow.Fields()[:len(columns)] {
		at := rec.Schema().FieldIndices(f.Name)
		if len(at) != 1 {
			return fmt.Errorf("event: restore lines: the rows have no column %s", f.Name)
		}
		columns[i] = rec.Column(at[0])
	}
	streams, ok1 := columns[0].(*array.String)
	chunks, ok2 := columns[1].(*array.Binary)
	digests, ok3 := columns[2].(*array.Binary)
	rejected, ok4 := columns[3].(*array.Binary)
	definitions, ok5 := columns[4].(*array.Int64)
	if !ok1 || !ok2 || !ok3 || !ok4 || !ok5 {
		return fmt.Errorf("event: restore lines: the columns have other types: %v", rec.Schema())
	}
	for row := range int(rec.NumRows()) {
		id, added, refused := chunks.Value(row), digests.Value(row), rejected.Value(row)
		if len(id) != 16 || len(added)%8 != 0 || len(refused)%4 != 0 {
			return fmt.Errorf("event: restore lines: row %d: lengths %d, %d, %d", row, len(id), len(added), len(refused))
		}
		st.lines.trim()
		c := st.lines.chunk(chunkKey{streams.Value(row), [16]byte(id)})
		for i := 0; i < len(added); i += 8 {
			bad := len(refused) > 0 && int(binary.LittleEndian.Uint32(refused)) == i/8
			if bad {
				refused = refused[4:]
			}
			st.lines.remember(c, binary.LittleEndian.Uint64(added[i:]), uint64(definitions.Value(row)), bad)
		}
	}
	return nil
}
