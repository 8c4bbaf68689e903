package batch

import (
	"fmt"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

// Schedule says when something is due. The zero Schedule is never due.
type Schedule struct {
	text string
	cron cron.Schedule
}

// ParseSchedule parses robfig/cron's standard syntax: five fields, or @every,
// @hourly, @daily and so on. Times are UTC, so no day has a missing or a repeated
// hour; a time zone in the text is an error. "" is never due.
func ParseSchedule(text string) (Schedule, error) {
	text = strings.TrimSpace(text)
	if text == "" {
		return Schedule{}, nil
	}
	if strings.HasPrefix(text, "TZ=") || strings.HasPrefix(text, "CRON_TZ=") {
		return Schedule{}, fmt.Errorf("schedule %q: schedules are in UTC: leave the time zone out", text)
	}
	s, err := cron.ParseStandard(text)
	if err != nil {
		return Schedule{}, fmt.Errorf("schedule %q: %w: write five fields (minute hour day month weekday, UTC) or @every 1m", text, err)
	}
	if spec, ok := s.(*cron.SpecSchedule); ok {
		spec.Location = time.UTC
	}
	if s.Next(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)).IsZero() {
		return Schedule{}, fmt.Errorf("schedule %q is never due: no such day exists; write another day or month", text)
	}
	return Schedule{text: text, cron: s}, nil
}

// String returns the schedule as it was written; "never" for the zero Schedule.
func (s Schedule) String() string {
	if s.cron == nil {
		return "never"
	}
	return s.text
}

// Next returns the first time after t, in UTC, at which it is due; zero if never.
func (s Schedule) Next(t time.Time) time.Time {
	if s.cron == nil {
		return time.Time{}
	}
	return s.cron.Next(t.UTC())
}

// interval reports whether it is due at intervals, not at clock times.
func (s Schedule) interval() bool {
	_, ok := s.cron.(cron.ConstantDelaySchedule)
	return ok
}

// maxLookBack limits how far back missed ticks are counted.
const maxLookBack = 366 * 24 * time.Hour

// due returns the latest tick after last and not after now, and the number of
// ticks missed before it. ok is false if there is none.
//
// If the clock is set forward over several ticks, one run stands for them, as
// after a restart. If it is set back, a clock time is not due twice: it waits
// until the clock has passed the last tick again. An interval restarts.
func (s Schedule) due(last, now time.Time) (tick time.Time, missed int, ok bool) {
	if s.cron == nil || now.Before(last) {
		return time.Time{}, 0, false
	}
	if now.Sub(last) > maxLookBack {
		last = now.Add(-maxLookBack)
	}
	next := s.Next(last)
	if s.interval() {
		every := next.Sub(last)
		if next.After(now) {
			return time.Time{}, 0, false
		}
		n := int(now.Sub(next) / every)
		return next.Add(time.Duration(n) * every), n, true
	}
	for !next.IsZero() && !next.After(now) {
		if ok {
			missed++
		}
		tick, ok = next, true
		next = s.Next(next)
	}
	return tick, missed, ok
}

// restart returns the tick to count from: last, but now for an interval whose
// last tick lies ahead of the clock, which then was set back.
func (s Schedule) restart(last, now time.Time) time.Time {
	if s.interval() && last.After(now) {
		return now
	}
	return last
}
