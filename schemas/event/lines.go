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

// A file's identity is a hash chain over its lines, divided into chunks. h(i) is
// the 128-bit hash of h(i-1) and line i; the chain begins with ChainStart. A run's
// Chunk is h before the chunk's first line, and a line's digest is the low 64 bits
// of its h. A digest within its chunk therefore identifies the line and everything
// before it, whatever the file's name: the same content sent again adds nothing, a
// grown file adds its new lines, and a changed file is new from its first
// difference on. No time window is involved, and files may be sent concurrently.
//
// A line is known once it was accepted or was a duplicate by id. A rejected line
// is known only to the definition that rejected it, so sending the same file again
// after an edit of the stream accepts lines that were rejected before. A line
// beyond the future bound is never known: it may become valid.
//
// Memory is bounded (H14). Beyond DefaultMaxLines digests, the oldest full chunks
// keep only their last digest. Clients send a file's lines in order, so that digest
// proves all lines before it, and a run that contains it is still decided exactly.
// Any other line of such a chunk is rejected with that reason. The first chunk of a
// stream's files is never reduced, because every file begins there; it holds up to
// 1,024 digests a file.

// LinesInChunk is the number of lines in a chunk. A file's last chunk has fewer.
const LinesInChunk = 1024

// DefaultMaxLines is the number of line digests that a State holds one by one, not
// counting those of first chunks. They take about 300 MB.
const DefaultMaxLines = 32 << 20

// ChainStart returns h before the first line of every file of a stream: xxh3-128
// of "duet file 1", a zero byte, and the stream's name.
func ChainStart(stream string) [16]byte {
	return xxh3.HashString128("duet file 1\x00" + stream).Bytes()
}

type chunkKey struct {
	stream string
	chunk  [16]byte
}

// chunk holds the known lines of one chunk.
type chunk struct {
	digests  digestSet
	rejected map[uint64]uint64 // digest to the definition that rejected the line; nil if none
	last     uint64            // digest of the line that was added last
	start    bool              // the first chunk of the stream's files
	whole    bool              // digests were dropped: last proves them
}

// lineSet holds the known chunks of all streams.
type lineSet struct {
	chunks map[chunkKey]*chunk
	order  []*chunk // in order of arrival, without first chunks; those before oldest are whole
	oldest int
	count  int // digests held, not counting first chunks
	max    int
}

func newLineSet() *lineSet {
	return &lineSet{chunks: map[chunkKey]*chunk{}, max: DefaultMaxLines}
}

// trim reduces the oldest full chunks to their last digest while there are too
// many digests. It runs before each run of lines and depends on the state alone, so
// that a restored state decides like one that never stopped.
func (l *lineSet) trim() {
	for i := l.oldest; i < len(l.order) && l.count > l.max; i++ {
		c := l.order[i]
		if !c.whole && c.digests.len()+len(c.rejected) >= LinesInChunk {
			l.count -= c.digests.len()
			c.digests, c.whole = digestSet{}, true
		}
	}
	for l.oldest < len(l.order) && l.order[l.oldest].whole {
		l.oldest++
	}
}

// chunk returns the chunk of a key. It creates an unknown one.
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

// lineRun looks up and adds the lines of one run.
type lineRun struct {
	set        *lineSet
	key        chunkKey
	chunk      *chunk // nil while the chunk is unknown
	definition uint64
	lines      []uint64
	proven     int // of a whole chunk: lines before this index are at or before its last

	added    []byte // in the form of LinesArrow
	rejected []byte // in the form of LinesArrow
	first    int    // index of the first added line
}

func (l *lineSet) run(key chunkKey, lines []uint64, definition uint64) lineRun {
	l.trim()
	r := lineRun{set: l, key: key, chunk: l.chunks[key], definition: definition, lines: lines}
	if r.chunk != nil && r.chunk.whole {
		r.proven = slices.Index(lines, r.chunk.last) + 1
	}
	return r
}

// lineStatus says whether a line is known.
type lineStatus uint8

const (
	lineNew lineStatus = iota
	lineKnown
	lineForgotten
)

func (r *lineRun) status(i int) lineStatus {
	digest := r.lines[i]
	if r.chunk == nil {
		return lineNew
	}
	if definition, ok := r.chunk.rejected[digest]; ok {
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

// remember adds line i. rejected reports that the definition rejected it.
func (r *lineRun) remember(i int, rejected bool) {
	if r.chunk == nil {
		r.chunk = r.set.chunk(r.key)
	}
	if len(r.added) == 0 {
		r.first = i
	}
	if rejected {
		r.rejected = binary.LittleEndian.AppendUint32(r.rejected, uint32(len(r.added)/8))
	}
	r.added = binary.LittleEndian.AppendUint64(r.added, r.lines[i])
	r.set.remember(r.chunk, r.lines[i], r.definition, rejected)
}

func (l *lineSet) remember(c *chunk, digest, definition uint64, rejected bool) {
	if rejected {
		if c.rejected == nil {
			c.rejected = map[uint64]uint64{}
		}
		c.rejected[digest] = definition
	} else {
		delete(c.rejected, digest)
	}
	if c.whole { // c.last proves this line
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
		n.digests, n.rejected = old.digests.clone(), maps.Clone(old.rejected)
		c.chunks[key], copies[old] = &n, &n
	}
	for i, old := range l.order {
		c.order[i] = copies[old]
	}
	return c
}

// RestoreLines adds the lines of archived rows, which must come in order of
// position. rec needs the columns of [LinesArrow], by name; others are ignored.
func (st *State) RestoreLines(rec arrow.RecordBatch) error {
	var columns [5]arrow.Array
	for i, f := range LinesArrow.Fields()[:len(columns)] {
		at := rec.Schema().FieldIndices(f.Name)
		if len(at) != 1 {
			return fmt.Errorf("event: restore lines: the rows need one column %s", f.Name)
		}
		columns[i] = rec.Column(at[0])
	}
	streams, ok1 := columns[0].(*array.String)
	chunks, ok2 := columns[1].(*array.Binary)
	digests, ok3 := columns[2].(*array.Binary)
	rejected, ok4 := columns[3].(*array.Binary)
	definitions, ok5 := columns[4].(*array.Int64)
	if !ok1 || !ok2 || !ok3 || !ok4 || !ok5 {
		return fmt.Errorf("event: restore lines: the columns have other types than the archive's: %v", rec.Schema())
	}
	for row := range int(rec.NumRows()) {
		id, added, rejected := chunks.Value(row), digests.Value(row), rejected.Value(row)
		if len(id) != 16 || len(added)%8 != 0 || len(rejected)%4 != 0 {
			return fmt.Errorf("event: restore lines: row %d has a chunk of %d, digests of %d and rejected indexes of %d bytes; want 16 and multiples of 8 and 4", row, len(id), len(added), len(rejected))
		}
		st.lines.trim()
		// Copy the stream's name, which aliases the array.
		c := st.lines.chunk(chunkKey{string([]byte(streams.Value(row))), [16]byte(id)})
		for i := 0; i < len(added); i += 8 {
			bad := len(rejected) > 0 && int(binary.LittleEndian.Uint32(rejected)) == i/8
			if bad {
				rejected = rejected[4:]
			}
			st.lines.remember(c, binary.LittleEndian.Uint64(added[i:]), uint64(definitions.Value(row)), bad)
		}
	}
	return nil
}
