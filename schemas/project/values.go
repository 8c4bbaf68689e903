package project

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

var sizePattern = regexp.MustCompile(`^([0-9]{1,12})(?:\.([0-9]{1,6}))?\s*([A-Za-z]+)$`)

var sizeUnits = map[string]float64{
	"B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
	"KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40,
}

// ParseSize parses a size such as "4GB", "512 MB" or "1.5GiB" and returns bytes.
// As in DuckDB, GB is 10^9 and GiB is 2^30.
func ParseSize(text string) (int64, error) {
	m := sizePattern.FindStringSubmatch(strings.TrimSpace(text))
	if m == nil {
		if _, err := strconv.ParseFloat(strings.TrimSpace(text), 64); err == nil {
			return 0, fmt.Errorf("%s has no unit", quote(text))
		}
		return 0, fmt.Errorf("%s is not a size", quote(text))
	}
	unit, ok := sizeUnits[strings.ToUpper(m[3])]
	if !ok {
		return 0, fmt.Errorf("%s is not a unit of size", quote(m[3]))
	}
	number, err := strconv.ParseFloat(m[1]+"."+m[2]+"0", 64)
	if err != nil {
		return 0, fmt.Errorf("%s is not a size", quote(text))
	}
	bytes := number * unit
	if bytes > math.MaxInt64/2 {
		return 0, fmt.Errorf("%s is larger than 4 EiB", quote(text))
	}
	return int64(bytes), nil
}

// FormatSize formats bytes, such as "4GB" or "512MiB", so that ParseSize returns
// the same number.
func FormatSize(bytes int64) string {
	for _, u := range []struct {
		name string
		size int64
	}{{"TB", 1e12}, {"TiB", 1 << 40}, {"GB", 1e9}, {"GiB", 1 << 30}, {"MB", 1e6}, {"MiB", 1 << 20}, {"KB", 1e3}, {"KiB", 1 << 10}} {
		if bytes >= u.size && bytes%u.size == 0 {
			return strconv.FormatInt(bytes/u.size, 10) + u.name
		}
	}
	return strconv.FormatInt(bytes, 10) + "B"
}

// ParseDuration parses Go's durations and whole days: "90s", "24h", "7d".
func ParseDuration(text string) (time.Duration, error) {
	text = strings.TrimSpace(text)
	if days, ok := strings.CutSuffix(text, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 32)
		if err != nil || n > 36500 {
			return 0, fmt.Errorf("%s is not a duration", quote(text))
		}
		return time.Duration(n) * 24 * time.Hour, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, fmt.Errorf("%s is not a duration", quote(text))
	}
	if d < 0 {
		return 0, fmt.Errorf("%s is negative", quote(text))
	}
	return d, nil
}

// FormatDuration formats a duration so that ParseDuration returns the same.
func FormatDuration(d time.Duration) string {
	if d >= 48*time.Hour && d%(24*time.Hour) == 0 {
		return strconv.FormatInt(int64(d/(24*time.Hour)), 10) + "d"
	}
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// ParseSchedule parses a schedule in robfig/cron's standard syntax: five fields or
// a descriptor such as "@daily" or "@every 1m". Schedules are in UTC; a zone in
// the text is an error. "off" and "" return nil, which means never.
func ParseSchedule(text string) (schedule cron.Schedule, err error) {
	text = strings.TrimSpace(text)
	if text == "" || strings.EqualFold(text, "off") {
		return nil, nil
	}
	if strings.Contains(text, "TZ=") {
		return nil, fmt.Errorf("the schedule %s has a zone; schedules are in UTC", quote(text))
	}
	defer func() { // the parser panics on some texts, such as "TZ=UTC"
		if recover() != nil {
			schedule, err = nil, fmt.Errorf("%s is not a schedule", quote(text))
		}
	}()
	if every, ok := strings.CutPrefix(text, "@every "); ok {
		if d, err := time.ParseDuration(strings.TrimSpace(every)); err == nil && d < time.Second {
			return nil, fmt.Errorf("the schedule %s is shorter than a second", quote(text))
		}
	}
	s, err := cron.ParseStandard(text)
	if err != nil {
		return nil, fmt.Errorf("%s is not a schedule: %w", quote(text), err)
	}
	if spec, ok := s.(*cron.SpecSchedule); ok {
		spec.Location = time.UTC
	}
	if s.Next(time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)).IsZero() {
		return nil, fmt.Errorf("the schedule %s never occurs", quote(text))
	}
	return s, nil
}

var dayStartPattern = regexp.MustCompile(`^([01]?[0-9]|2[0-3]):([0-5][0-9])(?::([0-5][0-9]))?$`)

// parseDayStarts parses "04:00" as the time after local midnight.
func parseDayStarts(text string) (time.Duration, bool) {
	m := dayStartPattern.FindStringSubmatch(text)
	if m == nil {
		return 0, false
	}
	var parts [3]int
	for i := range parts {
		parts[i], _ = strconv.Atoi(m[i+1])
	}
	return time.Duration(parts[0])*time.Hour + time.Duration(parts[1])*time.Minute + time.Duration(parts[2])*time.Second, true
}

func formatDayStarts(d time.Duration) string {
	s := int(d / time.Second)
	if s%60 == 0 {
		return fmt.Sprintf("%02d:%02d", s/3600, s/60%60)
	}
	return fmt.Sprintf("%02d:%02d:%02d", s/3600, s/60%60, s%60)
}
