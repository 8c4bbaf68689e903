package project

import (
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Print returns the effective configuration, including defaults, as canonical YAML:
// equal projects give equal texts.
func Print(p *Project) string {
	var b strings.Builder
	printConfig(&b, p)
	fmt.Fprintln(&b, "streams:")
	for _, s := range p.Streams {
		printStream(&b, s)
	}
	fmt.Fprintln(&b, "views:")
	for _, v := range p.Views {
		printView(&b, v)
	}
	return b.String()
}

func printConfig(w io.Writer, p *Project) {
	fmt.Fprintf(w, "version: 1\nname: %s\nbatch:\n", p.Name)
	fmt.Fprintf(w, "  incremental: %s\n  full: %s\n", scheduleText(p.Batch.Incremental), scheduleText(p.Batch.Full))
	k := p.Batch.Keep
	fmt.Fprintf(w, "  keep: {last: %d, daily: %d, monthly: %d}\n", k.Last, k.Daily, k.Monthly)
	l := p.Limits
	fmt.Fprintf(w, "limits: {memory: %s, log: %s, batch_threads: %d, batch_memory: %s}\n",
		FormatSize(l.Memory), FormatSize(l.Log), l.BatchThreads, FormatSize(l.BatchMemory))
}

func scheduleText(s string) string {
	if s == "" {
		return "off"
	}
	return yamlText(s)
}

func printStream(w io.Writer, s *Stream) {
	fmt.Fprintf(w, "  %s: # %s\n", s.Name, s.File)
	if s.EventTime != "" {
		fmt.Fprintf(w, "    event_time: {column: %s", s.EventTime)
		if s.Zone != nil {
			fmt.Fprintf(w, ", zone: %s, day_starts: %s", s.Zone, yamlText(formatDayStarts(s.DayStarts)))
		}
		fmt.Fprintf(w, "}\n    future_bound: %s\n", boundText(s))
	}
	if s.ID != nil {
		fmt.Fprintf(w, "    id: [%s]\n    id_window: %d\n", strings.Join(s.ID, ", "), s.IDWindow)
	}
	fmt.Fprintln(w, "    columns:")
	for _, c := range s.Columns {
		fmt.Fprintf(w, "      %s: {type: %s", c.Name, yamlText(c.SQL()))
		if c.From != c.Name {
			fmt.Fprintf(w, ", from: %s", yamlText(c.From))
		}
		if c.Format != "" {
			fmt.Fprintf(w, ", format: %s", yamlText(c.Format))
		}
		fmt.Fprintln(w, "}")
	}
	nulls := make([]string, len(s.CSV.Nulls))
	for i, n := range s.CSV.Nulls {
		nulls[i] = yamlText(n)
	}
	fmt.Fprintf(w, "    csv: {delimiter: %s, decimal: %s, encoding: %s, nulls: [%s]}\n",
		yamlText(s.CSV.Delimiter), yamlText(s.CSV.Decimal), s.CSV.Encoding, strings.Join(nulls, ", "))
}

func printView(w io.Writer, v *View) {
	fmt.Fprintf(w, "  %s: # %s\n", v.Name, v.File)
	if v.Description != "" {
		fmt.Fprintf(w, "    description: %s\n", yamlText(v.Description))
	}
	if v.MaxGroups > 0 {
		fmt.Fprintf(w, "    max_groups: %d\n", v.MaxGroups)
	}
	if len(v.Units) > 0 {
		fmt.Fprintln(w, "    units:")
		for _, name := range keysOf(v.Units) {
			fmt.Fprintf(w, "      %s: %s\n", yamlText(name), yamlText(v.Units[name]))
		}
	}
	fmt.Fprintln(w, "    sql: |2")
	for line := range strings.Lines(strings.TrimSpace(v.SQL)) {
		fmt.Fprintf(w, "      %s\n", strings.TrimRight(line, " \t\r\n"))
	}
}

// yamlText returns a text as a YAML scalar, quoted if needed.
func yamlText(s string) string {
	plain := s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r == '_' || r == ' ')
	}) && s == strings.TrimSpace(s)
	switch strings.ToLower(s) {
	case "true", "false", "null", "yes", "no", "on", "off", "y", "n":
		plain = false
	}
	if plain {
		return s
	}
	return strconv.Quote(s)
}
