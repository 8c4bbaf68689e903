package batch

import (
	"fmt"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

// Schedule says when something is due. The zero Schedule is never.
type Schedule struct {
	text string
	cron cron.Schedule
}

// ParseSchedule reads robfig/cron's standard syntax: five fields, or @every,
// @hourly, @daily and so on. Times are UTC, so no day has a missing or a double
// hour; a time zone in the text is refused. "" is never.
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
		return Schedule{}, fmt.Errorf("schedule %q: it is never due: no such day exists", text)
	}
	return Schedule{text: text, cron: s}, nil
}

// String is the schedule as it was written; "never" for the zero Schedule.
func (s Schedule) String() string {
	if s.cron == nil {
		return "never"
	}
	return s.text
}

// Next is the first time after t, in UTC, at which it is due; zero if never.
func (s Schedule) Next(t time.Time) time.Time {
	if s.cron == nil {
		return time.Time{}
	}
	return s.cron.Next(t.UTC())
}

// interval reports whether it is due at intervals instead of clock times.
func (s Schedule) interval() bool {
	_, ok := s.cron.(cron.ConstantDelaySchedule)
	return ok
}

// longestLook bounds how far back missed ticks are counted.
const longestLook = 366 * 24 * time.Hour

// due finds the latest tick after last and not after now, and how many came
// before it unheard. ok is false if there is none.
//
// The rules for a clock that is set: forward over several ticks is one run, as
// after a restart. Backward, a clock time does not come twice: it waits until
// the clock has passed the last tick again. An interval begins anew.
func (s Schedule) due(last, now time.Time) (tick time.Time, missed int, ok bool) {
	if s.cron == nil || now.Before(last) {
		return time.Time{}, 0, false
	}
	if now.Sub(last) > longestLook {
		last = now.Add(-longestLook)
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

// restart is the last tick to count from when the clock says now: for an
// interval whose last tick lies ahead of the clock, which was set back, now.
func (s Schedule) restart(last, now time.Time) time.Time {
	if s.interval() && last.After(now) {
		return now
	}
	return last
}
