package store

import (
	"context"
	"fmt"
	"slices"

	"duet/schemas"
)

// keepSegments is the number of closed segments that keep their boundary. Cuts
// come from batch runs, and only one runs at a time, so older cuts belong to runs
// that failed.
const keepSegments = 8

// Cut ends the open segment and the open block at a cut marker; live-through is
// then at. A cut at the current boundary does nothing, and one at or before
// live-through fails.
func (s *Store) Cut(ctx context.Context, at schemas.Position) error {
	return s.do(ctx, func(w *writer) error { return w.cut(at) })
}

func (w *writer) cut(at schemas.Position) error {
	if at <= w.m.through {
		if w.m.layout.openSegment().after == at {
			return nil
		}
		return fmt.Errorf("store: a cut at %s after a batch through %s", at, w.m.through)
	}
	m := w.next()
	m.through = at
	l := w.relayout(m)
	l.openSegment().through = at
	l.segments = append(l.segments, segment{number: w.s.ids.Add(1), after: at})
	if len(l.segments) > keepSegments+1 {
		l.joinOldest()
	}
	w.splitBlock(m)
	if err := w.commit(m, func(context.Context) error { return nil }); err != nil {
		return err
	}
	clear(w.current)
	clear(w.groups)
	w.blockClosed()
	w.startMerge()
	return nil
}

// joinOldest joins the two oldest segments. Their tables stay as they are.
func (l *layout) joinOldest() {
	a, b := l.segments[0], l.segments[1]
	l.segments = slices.Clone(l.segments[1:])
	l.segments[0].after = a.after
	for name, v := range l.views {
		v.live = slices.Clone(v.live)
		for i := range v.live {
			if v.live[i].segment == a.number {
				v.live[i].segment = b.number
			}
		}
		if i := slices.Index(v.incomplete, a.number); i >= 0 {
			v.incomplete = slices.Delete(slices.Clone(v.incomplete), i, i+1)
			if !slices.Contains(v.incomplete, b.number) {
				v.incomplete = append(v.incomplete, b.number)
			}
		}
		l.views[name] = v
	}
}
