package event

import "slices"

// digestSet is a set of 64-bit digests. A small set is a sorted list with the
// newest digests apart (8 to 9 bytes a digest); a large one is an open hash table
// (11 to 21 bytes a digest). The zero value is an empty set.
type digestSet struct {
	sorted []uint64
	recent []uint64 // at most maxRecent, in order of arrival
	table  []uint64 // replaces both lists: 0 is a free slot; a power of two, at most 3/4 full
	zero   bool     // the set holds the digest 0
	used   int      // digests in the table, not counting 0
}

const (
	maxRecent = 64
	maxSorted = 4 * LinesInChunk
)

func (s *digestSet) len() int {
	n := len(s.sorted) + len(s.recent) + s.used
	if s.zero {
		n++
	}
	return n
}

func (s *digestSet) has(digest uint64) bool {
	if s.table != nil {
		return s.zero && digest == 0 || digest != 0 && s.table[s.slot(digest)] == digest
	}
	if _, ok := slices.BinarySearch(s.sorted, digest); ok {
		return true
	}
	return slices.Contains(s.recent, digest)
}

// slot returns the index of digest, or of the free slot where it belongs.
func (s *digestSet) slot(digest uint64) int {
	i := int(digest) & (len(s.table) - 1)
	for s.table[i] != 0 && s.table[i] != digest {
		i = (i + 1) & (len(s.table) - 1)
	}
	return i
}

// add adds a digest. The set must not have it yet.
func (s *digestSet) add(digest uint64) {
	if s.table != nil {
		s.addToTable(digest)
		return
	}
	if s.recent == nil {
		s.recent = make([]uint64, 0, maxRecent)
	}
	if s.recent = append(s.recent, digest); len(s.recent) == maxRecent {
		s.mergeRecent()
	}
}

func (s *digestSet) addToTable(digest uint64) {
	if digest == 0 {
		s.zero = true
		return
	}
	if 4*(s.used+1) > 3*len(s.table) {
		old := s.table
		s.table = make([]uint64, 2*len(old))
		for _, d := range old {
			if d != 0 {
				s.table[s.slot(d)] = d
			}
		}
	}
	s.table[s.slot(digest)] = digest
	s.used++
}

// mergeRecent merges recent into sorted, from the back. It switches to a table
// when the list reaches maxSorted.
func (s *digestSet) mergeRecent() {
	slices.Sort(s.recent)
	if need := s.len(); need > cap(s.sorted) && need > LinesInChunk/4 && need <= LinesInChunk {
		s.sorted = append(make([]uint64, 0, LinesInChunk), s.sorted...)
	}
	i, j := len(s.sorted)-1, len(s.recent)-1
	s.sorted = append(s.sorted, s.recent...)
	for k := len(s.sorted) - 1; j >= 0; k-- {
		if i >= 0 && s.sorted[i] > s.recent[j] {
			s.sorted[k] = s.sorted[i]
			i--
		} else {
			s.sorted[k] = s.recent[j]
			j--
		}
	}
	if s.recent = s.recent[:0]; len(s.sorted) >= LinesInChunk {
		s.recent = nil
	}
	if len(s.sorted) >= maxSorted {
		all := s.sorted
		*s = digestSet{table: make([]uint64, 4*maxSorted)}
		for _, d := range all {
			s.addToTable(d)
		}
	}
}

func (s *digestSet) clone() digestSet {
	c := *s
	c.sorted, c.recent, c.table = slices.Clone(s.sorted), slices.Clone(s.recent), slices.Clone(s.table)
	return c
}
