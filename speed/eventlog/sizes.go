package eventlog

import "sort"

// sizes counts the bytes of messages, so that the size of those behind any
// position can be estimated. It keeps one mark for each step bytes.
type sizes struct {
	step  int64
	total int64 // bytes of all messages counted
	marks []sizeMark
}

// A sizeMark says that the messages through seq are the first so many bytes of
// those counted.
type sizeMark struct {
	seq   uint64
	bytes int64
}

// add counts a message. Sequences must grow.
func (s *sizes) add(seq uint64, bytes int64) {
	s.total += bytes
	if n := len(s.marks); n == 0 || s.total-s.marks[n-1].bytes >= s.step {
		s.marks = append(s.marks, sizeMark{seq, s.total})
	}
}

// behind returns the size of the messages behind a sequence. It may count up to
// step bytes too many.
func (s *sizes) behind(seq uint64) int64 {
	if i := s.search(seq); i > 0 {
		return s.total - s.marks[i-1].bytes
	}
	return s.total
}

// forget drops the marks of messages before a sequence.
func (s *sizes) forget(before uint64) {
	if i := s.search(before); i > 1 {
		s.marks = append(s.marks[:0], s.marks[i-1:]...)
	}
}

// search returns the number of marks at or before a sequence.
func (s *sizes) search(seq uint64) int {
	return sort.Search(len(s.marks), func(i int) bool { return s.marks[i].seq > seq })
}
