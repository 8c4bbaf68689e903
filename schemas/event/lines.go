package event

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/zeebo/xxh3"
)

// A file's identity is a hash chain over its lines, cut in chunks: h(i) is a
// 128-bit hash of h(i-1) and line i, beginning with ChainStart; a run's Chunk is
// h before the chunk's first line, a line's digest the low 64 bits of its h. So
// a digest under its chunk stands for the line and everything before it,
// whatever the file is called: the same content again adds nothing, a grown file
// adds its new lines, and a file that differs from some line on is new from there.
// All this without a time window, in any concurrency.
//
// A line is known once it was accepted, or was a duplicate by id. A rejected one
// is known only to the definition that rejected it: after an edit of the stream
// the same file heals what was refused. A line that lay too far in the future is
// not known at all: its time may come.
//
// Memory is bounded: beyond DefaultMaxLines digests the oldest full chunks keep
// only their last digest. Clients send a file's lines in order, so it proves all
// lines before it, and a run that reaches it is still decided; any other line of
// the chunk is rejected, saying so. The chunk that a file begins with is never
// forgotten, for every file of the stream begins there: up to 1,024 digests a file.

// LinesInChunk is the number of lines of a file's chunk, the last one's aside.
const LinesInChunk = 1024

// DefaultMaxLines is how many line digests a State remembers one by one, those
// of files' first chunks aside: about 300 MB of them.
const DefaultMaxLines = 32 << 20

// ChainStart is h before the first line of every file of a stream: the hash
// xxh3-128 of "duet file 1", a zero byte, and the stream's name.
func ChainStart(stream string) [16]byte {
	return xxh3.HashString128("duet file 1\x00" + stream).Bytes()
}

type chunkKey struct {
	stream string
	chunk  [16]byte
}

// chunk is what is known of a chunk's lines.
type chunk struct {
	digests digestSet
	refused map[uint64]uint64 // digest to the definition that rejected the line; nil if none
	last    uint64            // digest of the line that was added last
	start   bool              // files begin here
	whole   bool              // digests are forgotten: last proves them
}

// lineSet is every chunk that is known, of every stream.
type lineSet struct {
	chunks map[chunkKey]*chunk
	order  []*chunk // as they were first met, starts aside; those before oldest are whole
	oldest int
	count  int // digests that are held, starts' aside
	max    int
}

func newLineSet() *lineSet {
	return &lineSet{chunks: map[chunkKey]*chunk{}, max: DefaultMaxLines}
}

// trim makes whole chunks of the oldest full ones while there are too many
// digests. It runs before a run of lines and depends on the state alone, so a
// restored state and one that never stopped decide alike.
func (l *lineSet) trim() {
	for i := l.oldest; i < len(l.order) && l.count > l.max; i++ {
		c := l.order[i]
		if !c.whole && c.digests.len()+len(c.refused) >= LinesInChunk {
			l.count -= c.digests.len()
			c.digests, c.whole = digestSet{}, true
		}
	}
	for l.oldest < len(l.order) && l.order[l.oldest].whole {
		l.oldest++
	}
}

// chunk is the chunk of a key, made if it is not known.
func (l *lineSet) chunk(key chunkKey) *chunk {
	c := l.chunks[key]
	if c == nil {
		c = &chunk{start: key.chunk == ChainStart(key.stream)}
		l.chunks[key] = c
		if !c.start {
			l.order = append(l.order, c)
		}
	}
	return c
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
	if definition, ok := r.chunk.refused[digest]; ok {
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
	case r.chunk.digests.has(digest):
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
	if rejected {
		if c.refused == nil {
			c.refused = map[uint64]uint64{}
		}
		c.refused[digest] = definition
	} else {
		delete(c.refused, digest)
	}
	if c.whole { // its last line proves this one
		return
	}
	c.last = digest
	if !rejected {
		c.digests.add(digest)
		if !c.start {
			l.count++
		}
	}
}

func (l *lineSet) clone() *lineSet {
	c := &lineSet{chunks: make(map[chunkKey]*chunk, len(l.chunks)), order: make([]*chunk, len(l.order)), oldest: l.oldest, count: l.count, max: l.max}
	copies := make(map[*chunk]*chunk, len(l.chunks))
	for key, old := range l.chunks {
		n := *old
		n.digests, n.refused = old.digests.clone(), maps.Clone(old.refused)
		c.chunks[key], copies[old] = &n, &n
	}
	for i, old := range l.order {
		c.order[i] = copies[old]
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
		// The stream's name is copied: the array's memory is not ours to keep.
		c := st.lines.chunk(chunkKey{string([]byte(streams.Value(row))), [16]byte(id)})
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
