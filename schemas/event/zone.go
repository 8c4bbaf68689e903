package event

import "time"

// zone converts between UTC and local time. It caches spans of constant offset and
// is not safe for concurrent use; see clone.
type zone struct {
	loc   *time.Location // nil means UTC
	spans [zoneSlots]span
}

// span is a span of constant offset: [from, until) in Unix seconds.
type span struct {
	from, until, offset int64
}

const (
	zoneSlots = 256
	// slotBits makes a slot cover about 24 days. Spans last months, so 256 slots
	// cover about 17 years.
	slotBits = 21
	dayS     = 86_400
)

func newZone(loc *time.Location) *zone {
	if loc == time.UTC {
		loc = nil
	}
	return &zone{loc: loc}
}

// clone returns a zone for another goroutine.
func (z *zone) clone() *zone { return &zone{loc: z.loc} }

// at returns the span that contains unix.
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
		// Beyond a zone's table, Go computes years of 365 days, so on the last day of
		// a leap year ZoneBounds returns an end in the past. No rule changes clocks on
		// that day: the span lasts at least until its end.
		s.until = (floorDiv(unix, dayS) + 1) * dayS
	}
	*slot = s
	return s
}

// local returns the local time at utc, both in microseconds since 1970.
func (z *zone) local(utc int64) int64 {
	if z.loc == nil {
		return utc
	}
	return utc + z.at(floorDiv(utc, second)).offset*second
}

// utc returns the instant of a local time, both in microseconds since 1970. A
// skipped local time is read with the offset before the change; a repeated one
// means the first occurrence.
func (z *zone) utc(wall int64) int64 {
	if z.loc == nil {
		return wall
	}
	w := floorDiv(wall, second)
	// Offsets are less than a day, so the instant is after w - 1 day, and no later
	// span repeats a local time of the span at w - 1 day that is within that span.
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
