package event

import (
	"encoding/binary"
	"fmt"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/zeebo/xxh3"

	"duet/schemas/project"
)

// hashID returns the 128-bit hash of an event's declared id. cells are the event's
// values by column. ok is false if all id columns are NULL: the event then has no
// id. Otherwise a NULL counts as a value of its own. buf is scratch space.
//
// The hash covers, for each id column in the stream's order, one byte (0 for
// NULL, 1 for a value), then a text's uvarint length and bytes, or 16 bytes for
// any other type. Its seed covers the columns' names and types, so that ids of
// different definitions never match.
func (s *Schema) hashID(buf []byte, cells []cell) (h xxh3.Uint128, scratch []byte, ok bool) {
	buf = buf[:0]
	for _, i := range s.id {
		c := &cells[i]
		if c.state != set {
			buf = append(buf, 0)
			continue
		}
		ok = true
		buf = append(buf, 1)
		switch s.types[i].Kind {
		case project.Varchar, project.UUID:
			buf = binary.AppendUvarint(buf, uint64(len(c.text)))
			buf = append(buf, c.text...)
		case project.Decimal:
			buf = binary.LittleEndian.AppendUint64(buf, uint64(c.i))
			buf = binary.LittleEndian.AppendUint64(buf, uint64(c.hi))
		default:
			buf = binary.LittleEndian.AppendUint64(buf, uint64(c.i))
			buf = binary.LittleEndian.AppendUint64(buf, 0)
		}
	}
	return xxh3.Hash128Seed(buf, s.idSeed), buf, ok
}

// idWindow holds the last n ids: a ring in order of arrival, and an open hash
// table of indexes into it. It takes 24 to 32 bytes an id.
type idWindow struct {
	n     int
	ring  []xxh3.Uint128 // grows up to n
	next  int            // index of the next id, once the ring is full
	table []uint32       // index into the ring + 1; 0 is free; a power of two, at most half full
}

func newIDWindow(n int) *idWindow {
	return &idWindow{n: n, table: make([]uint32, 64)}
}

func (w *idWindow) slot(h xxh3.Uint128) int { return int(h.Lo & uint64(len(w.table)-1)) }

func (w *idWindow) has(h xxh3.Uint128) bool {
	for i := w.slot(h); w.table[i] != 0; i = (i + 1) & (len(w.table) - 1) {
		if w.ring[w.table[i]-1] == h {
			return true
		}
	}
	return false
}

// add adds an id, which the window must not hold yet. If the window is full, it
// drops the oldest id.
func (w *idWindow) add(h xxh3.Uint128) {
	if len(w.ring) < w.n {
		w.ring = append(w.ring, h)
		if 2*len(w.ring) > len(w.table) {
			w.rebuild(2 * len(w.table))
			return
		}
		w.insert(len(w.ring) - 1)
		return
	}
	w.remove(w.ring[w.next])
	w.ring[w.next] = h
	w.insert(w.next)
	w.next = (w.next + 1) % w.n
}

func (w *idWindow) insert(place int) {
	i := w.slot(w.ring[place])
	for w.table[i] != 0 {
		i = (i + 1) & (len(w.table) - 1)
	}
	w.table[i] = uint32(place + 1)
}

func (w *idWindow) rebuild(size int) {
	w.table = make([]uint32, size)
	for place := range w.ring {
		w.insert(place)
	}
}

// remove deletes h from the table and fills the gap (Knuth, TAOCP 3, 6.4,
// algorithm R).
func (w *idWindow) remove(h xxh3.Uint128) {
	mask := len(w.table) - 1
	i := w.slot(h)
	for w.ring[w.table[i]-1] != h {
		i = (i + 1) & mask
	}
	for j := i; ; {
		w.table[i] = 0
		for {
			j = (j + 1) & mask
			if w.table[j] == 0 {
				return
			}
			home := w.slot(w.ring[w.table[j]-1])
			if (j-home)&mask >= (j-i)&mask { // the probe from home to j crosses the gap
				break
			}
		}
		w.table[i] = w.table[j]
		i = j
	}
}

// ordered returns the ids, oldest first.
func (w *idWindow) ordered() []xxh3.Uint128 {
	if len(w.ring) < w.n {
		return append([]xxh3.Uint128(nil), w.ring...)
	}
	return append(append([]xxh3.Uint128(nil), w.ring[w.next:]...), w.ring[:w.next]...)
}

// resized returns a window of n with the newest ids of w.
func (w *idWindow) resized(n int) *idWindow {
	r := newIDWindow(n)
	ids := w.ordered()
	for _, h := range ids[max(0, len(ids)-n):] {
		r.add(h)
	}
	return r
}

func (w *idWindow) clone() *idWindow {
	c := *w
	c.ring = append([]xxh3.Uint128(nil), w.ring...)
	c.table = append([]uint32(nil), w.table...)
	return &c
}

// RestoreIDs adds the ids of accepted rows, which must come in order of position.
// Call it before replay with the last rows of the archive, as many as the stream's
// window. rec needs the stream's id columns, by name and in the types of
// [Schema.Arrow]; other columns are ignored.
func (st *State) RestoreIDs(s *Schema, rec arrow.RecordBatch) error {
	if len(s.id) == 0 {
		return nil
	}
	arrays := make([]arrow.Array, len(s.types))
	for _, i := range s.id {
		at := rec.Schema().FieldIndices(s.names[i])
		if len(at) != 1 {
			return fmt.Errorf("event: restore ids of %s: the rows need one column %s", s.stream.Name, s.names[i])
		}
		arrays[i] = rec.Column(at[0])
	}
	w := st.window(s)
	cells := make([]cell, len(s.types))
	var buf []byte
	for row := range int(rec.NumRows()) {
		for _, i := range s.id {
			var err error
			if cells[i], err = cellAt(arrays[i], s.types[i].Kind, row); err != nil {
				return fmt.Errorf("event: restore ids of %s: column %s: %w", s.stream.Name, s.names[i], err)
			}
		}
		h, b, ok := s.hashID(buf, cells)
		if buf = b; ok && !w.has(h) {
			w.add(h)
		}
	}
	return nil
}
