package event

import (
	"maps"
)

// State is what the sequencer knows of the past: every producer's last number,
// for ever; the lines of files; the last ids of each stream. Only accepted
// events enter the ids. One goroutine; a Clone is for another.
//
// At an archive's position it is rebuilt by RestoreProducers from the manifest,
// RestoreLines from the archived lines and RestoreIDs from each stream's last
// rows, both in the order of positions.
type State struct {
	producers map[string]uint64
	lines     *lineSet
	ids       map[string]*idWindow // by stream
}

// NewState is the state before the first message.
func NewState() *State {
	return &State{producers: map[string]uint64{}, lines: newLineSet(), ids: map[string]*idWindow{}}
}

// Producers gives each producer's last number, in a map of the caller's own.
func (st *State) Producers() map[string]uint64 { return maps.Clone(st.producers) }

// RestoreProducers sets producers' last numbers.
func (st *State) RestoreProducers(last map[string]uint64) { maps.Copy(st.producers, last) }

// Clone is an independent copy. It costs as much as the state is large.
func (st *State) Clone() *State {
	c := &State{producers: maps.Clone(st.producers), lines: st.lines.clone(), ids: map[string]*idWindow{}}
	for name, w := range st.ids {
		c.ids[name] = w.clone()
	}
	return c
}

// window is the id window of a stream, as long as its definition says.
func (st *State) window(s *Schema) *idWindow {
	w := st.ids[s.stream.Name]
	if w == nil {
		w = newIDWindow(s.window)
	} else if w.n != s.window {
		w = w.resized(s.window)
	}
	st.ids[s.stream.Name] = w
	return w
}
