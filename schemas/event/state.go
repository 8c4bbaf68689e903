package event

import (
	"maps"
)

// State is the sequencer's memory: the last number of every producer, the lines
// of files, and the last ids of each stream. Only accepted events enter the ids.
// A State is not safe for concurrent use.
//
// To rebuild the state at the archive's end, call RestoreProducers with the
// manifest's producers, RestoreLines with the archived lines and RestoreIDs with
// each stream's last rows, the latter two in order of position.
type State struct {
	producers map[string]uint64
	lines     *lineSet
	ids       map[string]*idWindow // by stream
}

// NewState returns the state before the first message.
func NewState() *State {
	return &State{producers: map[string]uint64{}, lines: newLineSet(), ids: map[string]*idWindow{}}
}

// Producers returns each producer's last number. The caller owns the map.
func (st *State) Producers() map[string]uint64 { return maps.Clone(st.producers) }

// RestoreProducers sets the last numbers of producers.
func (st *State) RestoreProducers(last map[string]uint64) { maps.Copy(st.producers, last) }

// Clone returns an independent copy. It copies the whole state.
func (st *State) Clone() *State {
	c := &State{producers: maps.Clone(st.producers), lines: st.lines.clone(), ids: map[string]*idWindow{}}
	for name, w := range st.ids {
		c.ids[name] = w.clone()
	}
	return c
}

// window returns the id window of a stream, resized to what its definition says.
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
