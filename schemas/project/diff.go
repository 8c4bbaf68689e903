package project

import (
	"fmt"
	"slices"
	"strings"
)

// StreamDiff returns the differences between old and new that change the meaning
// of the stream's events, one line each with its place in new's file; nil if there
// are none. The CSV dialect is not part of an event's meaning.
func StreamDiff(old, new *Stream) []string {
	d := differ{file: new.File}
	for _, c := range new.Columns {
		i := slices.IndexFunc(old.Columns, func(o Column) bool { return o.Name == c.Name })
		if i < 0 {
			d.add(c.Line, "%s %s is new", c.Name, c.SQL())
			continue
		}
		o := old.Columns[i]
		d.changed(c.Line, c.Name, o.SQL(), c.SQL())
		d.changed(c.Line, c.Name+".from", o.From, c.From)
		d.changed(c.Line, c.Name+".format", orNone(o.Format), orNone(c.Format))
	}
	kept := func(s, other *Stream) (names []string) {
		for _, c := range s.Columns {
			if slices.ContainsFunc(other.Columns, func(o Column) bool { return o.Name == c.Name }) {
				names = append(names, c.Name)
			}
		}
		return names
	}
	for _, o := range old.Columns {
		if !slices.ContainsFunc(new.Columns, func(c Column) bool { return c.Name == o.Name }) {
			d.add(new.Lines["columns"], "%s %s is gone", o.Name, o.SQL())
		}
	}
	if was, is := kept(old, new), kept(new, old); !slices.Equal(was, is) {
		d.changed(new.Lines["columns"], "the order of columns", strings.Join(was, ", "), strings.Join(is, ", "))
	}
	at := new.Lines["event_time"]
	d.changed(at, "event_time", orNone(old.EventTime), orNone(new.EventTime))
	d.changed(at, "event_time.zone", zoneName(old), zoneName(new))
	d.changed(at, "event_time.day_starts", formatDayStarts(old.DayStarts), formatDayStarts(new.DayStarts))
	d.changed(new.Lines["id"], "id", orNone(strings.Join(old.ID, ", ")), orNone(strings.Join(new.ID, ", ")))
	if old.ID != nil && new.ID != nil {
		d.changed(new.Lines["id_window"], "id_window", thousands(old.IDWindow), thousands(new.IDWindow))
	}
	if old.EventTime != "" && new.EventTime != "" {
		d.changed(new.Lines["future_bound"], "future_bound", boundText(old), boundText(new))
	}
	return d.lines
}

type differ struct {
	file  string
	lines []string
}

func (d *differ) add(line int, format string, args ...any) {
	where := d.file
	if line > 0 {
		where = fmt.Sprintf("%s:%d", d.file, line)
	}
	d.lines = append(d.lines, where+": "+fmt.Sprintf(format, args...))
}

func (d *differ) changed(line int, what, was, is string) {
	if was != is {
		d.add(line, "%s was %s, is %s", what, was, is)
	}
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

func zoneName(s *Stream) string {
	if s.Zone == nil {
		return "none"
	}
	return s.Zone.String()
}

func boundText(s *Stream) string {
	if s.FutureBound == 0 {
		return "off"
	}
	return FormatDuration(s.FutureBound)
}
