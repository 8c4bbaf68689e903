package event

import "time"

// zone converts between UTC and a wall clock, fast: it remembers the spans of
// constant offset that it has met. One goroutine at a time; see clone.
type zone struct {
	loc   *time.Location // nil means UTC
	spans [zoneSlots]span
}

// span is a time of constant offset: [from, until) in Unix seconds.
type span struct {
	from, until, offset int64
}

const (
	zoneSlots = 256
	// slotBits makes a slot of about 24 days: spans last months, so 256 slots
	// hold the last 17 years.
	slotBits = 21
	dayS     = 86_400
)

func newZone(loc *time.Location) *zone {
	if loc == time.UTC {
		loc = nil
	}
	return &zone{loc: loc}
}

// clone is a zone for another goroutine.
func (z *zone) clone() *zone { return &zone{loc: z.loc} }

// at is the span that unix lies in.
func (z *zone) at(unix int64) span {
	slot := &z.spans[uint64(unix)>>slotBits%zoneSlots]
	if unix >= slot.from && unix < slot.until {
		return *slot
	}
	t := time.Unix(unix, 0).In(z.loc)
	_, offset := t.Zone()
	start, end := t.ZoneBounds()
	s := span{from: -1 << 62, until: 1 << 62, offset: int64(offset)}
	if !start.IsZero() {
		s.from = start.Unix()
	}
	if !end.IsZero() {
		s.until = end.Unix()
	}
	if s.until <= unix {
		// Go's rule-based years end after 365 days, so on the last day of a leap
		// year past a zone's table ZoneBounds answers an end that has passed. No
		// rule changes clocks on that day: the span lasts at least to its end.
		s.until = (floorDiv(unix, dayS) + 1) * dayS
	}
	*slot = s
	return s
}

// local is the wall clock at utc, both in microseconds since 1970.
func (z *zone) local(utc int64) int64 {
	if z.loc == nil {
		return utc
	}
	return utc + z.at(floorDiv(utc, second)).offset*second
}

// utc is the instant of a wall clock, both in microseconds since 1970. A wall
// clock that was skipped is read with the offset before the change, one that
// came twice is the first.
func (z *zone) utc(wall int64) int64 {
	if z.loc == nil {
		return wall
	}
	w := floorDiv(wall, second)
	// Offsets stay within a day, so the instant is later than w - 1 day, and a
	// span that began two days before it cannot share the wall clock with another.
	s := z.at(w - dayS)
	if u := w - s.offset; u >= s.from && u < s.until {
		return wall - s.offset*second
	}
	for {
		next := z.at(s.until)
		u := w - next.offset
		if u < next.from { // skipped
			return wall - s.offset*second
		}
		if u < next.until {
			return wall - next.offset*second
		}
		s = next
	}
}
