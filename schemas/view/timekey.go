package view

import (
	"fmt"
	"strings"
	"time"

	duckdb "github.com/duckdb/duckdb-go/v2"

	"duet/internal/base/duck"
	"duet/schemas/project"
)

// timeKey is the key that since and until bound. Its expression grows with one
// column of the stream (time_bucket, date_trunc, a cast to DATE, or the column
// itself), so its values are the starts of buckets.
type timeKey struct {
	key    int
	date   bool // the key is a DATE
	local  bool // the column is wall-clock time in the stream's zone
	day    bool // the column is business_date
	zone   *time.Location
	starts time.Duration
	column string // of the stream, as SQL that casts a TIMESTAMP to its type: CAST(%s AS DATE) AS "d"
	bucket string // SQL of the key over the column, which gives a bucket's start; "" if it is no bucket
	width  string // of a bucket, an INTERVAL: "1 hour"
}

// findTimeKey selects the key with the narrowest buckets over the event time or,
// if there is none, over another TIMESTAMP or DATE column.
func (x *compilation) findTimeKey(v *View) {
	best, bestRank := -1, 0
	var bestWidth time.Duration
	var bestBucket string
	for i, k := range x.keys {
		typ := v.Keys[i].Type
		column := x.growing(k, typ)
		if column == "" {
			continue
		}
		rank := 1
		if s := x.stream; s.EventTime != "" && (column == s.EventTime || s.Zone != nil && (column == s.EventTime+"_local" || column == "business_date")) {
			rank = 2
		}
		bucket, width := x.width(k, typ, column)
		if rank < bestRank || rank == bestRank && width >= bestWidth {
			continue
		}
		best, bestRank, bestWidth, bestBucket = i, rank, width, bucket
		t := &timeKey{key: i, date: typ == "DATE", zone: time.UTC}
		if s := x.stream; s.Zone != nil {
			t.zone, t.starts = s.Zone, s.DayStarts
			t.local, t.day = column == s.EventTime+"_local", column == "business_date"
		}
		if bucket != "" {
			if texts, err := x.c.print([]node{k}); err == nil {
				t.bucket, t.width = texts[0], bucket
				t.column = "CAST(%s AS TIMESTAMP) AS " + duck.Ident(column)
				if x.columnKind(column) == project.Date {
					t.column = "CAST(%s AS DATE) AS " + duck.Ident(column)
				}
			}
		}
		v.times = t
	}
	if best >= 0 {
		c := &v.Columns[v.Keys[best].Column]
		c.Role, c.Bucket = TimeKey, bestBucket
	}
}

// growing returns the column that a key grows with, "" if there is none.
func (x *compilation) growing(k node, typ string) string {
	if typ != "TIMESTAMP" && typ != "DATE" {
		return ""
	}
	arg := k
	for {
		switch {
		case arg.text("class") == "COLUMN_REF":
			names := arg.strings("column_names")
			column := names[len(names)-1]
			if kind := x.columnKind(column); kind != project.Timestamp && kind != project.Date {
				return ""
			}
			return column
		case arg.text("class") == "CAST" && !arg.flag("try_cast") && (arg.node("cast_type").text("id") == "DATE" || arg.node("cast_type").text("id") == "TIMESTAMP"):
			arg = arg.node("child")
		case arg.text("class") == "FUNCTION" && isBucket(arg.text("function_name")):
			children := arg.nodes("children")
			if len(children) < 2 || hasColumn(children[0]) || len(children) > 2 && hasColumn(children[2]) {
				return ""
			}
			arg = children[1]
		default:
			return ""
		}
	}
}

func isBucket(name string) bool {
	return name == "time_bucket" || name == "date_trunc" || name == "datetrunc"
}

func (x *compilation) columnKind(column string) project.Kind {
	for _, c := range streamColumns(x.stream) {
		if c.Name == column {
			return c.Type.Kind
		}
	}
	return 0
}

// width returns the name of the key's bucket and its length, for comparison only:
// a month counts as 30 days, and a key that is no bucket as 0.
func (x *compilation) width(k node, typ, column string) (string, time.Duration) {
	day := typ == "DATE" || column == "business_date"
	bucket, length := "", time.Duration(0)
	for arg := k; arg != nil; {
		if arg.text("class") == "CAST" {
			arg = arg.node("child")
			continue
		}
		if arg.text("class") != "FUNCTION" {
			break
		}
		children := arg.nodes("children")
		if b, l := x.bucketOf(arg.text("function_name"), children[0]); l > length {
			bucket, length = b, l
		}
		arg = children[1]
	}
	if day && length < 24*time.Hour {
		return "1 day", 24 * time.Hour
	}
	return bucket, length
}

// bucketOf evaluates the interval or the unit argument of a bucket function.
func (x *compilation) bucketOf(function string, arg node) (string, time.Duration) {
	texts, err := x.c.print([]node{arg})
	if err != nil {
		return "", 0
	}
	if function != "time_bucket" {
		var unit string
		if err := x.c.db.QueryRow("SELECT lower(CAST(" + texts[0] + " AS VARCHAR))").Scan(&unit); err != nil {
			return "", 0
		}
		w, ok := unitWidths[strings.TrimSuffix(unit, "s")]
		if !ok {
			return "", 0
		}
		return "1 " + strings.TrimSuffix(unit, "s"), w
	}
	var i duckdb.Interval
	if err := x.c.db.QueryRow("SELECT CAST(" + texts[0] + " AS INTERVAL)").Scan(&i); err != nil {
		return "", 0
	}
	return intervalName(i), time.Duration(i.Months)*30*24*time.Hour + time.Duration(i.Days)*24*time.Hour + time.Duration(i.Micros)*time.Microsecond
}

var unitWidths = map[string]time.Duration{"microsecond": time.Microsecond, "millisecond": time.Millisecond, "second": time.Second, "minute": time.Minute,
	"hour": time.Hour, "day": 24 * time.Hour, "week": 7 * 24 * time.Hour, "month": 30 * 24 * time.Hour, "quarter": 91 * 24 * time.Hour, "year": 365 * 24 * time.Hour,
	"decade": 3650 * 24 * time.Hour, "century": 36500 * 24 * time.Hour}

func intervalName(i duckdb.Interval) string {
	count := func(n int64, unit string) string {
		if n == 1 {
			return "1 " + unit
		}
		return fmt.Sprintf("%d %ss", n, unit)
	}
	var parts []string
	if i.Months != 0 {
		if i.Months%12 == 0 {
			parts = append(parts, count(int64(i.Months/12), "year"))
		} else {
			parts = append(parts, count(int64(i.Months), "month"))
		}
	}
	if i.Days != 0 {
		parts = append(parts, count(int64(i.Days), "day"))
	}
	for _, u := range []struct {
		name   string
		micros int64
	}{{"hour", 3_600_000_000}, {"minute", 60_000_000}, {"second", 1_000_000}, {"millisecond", 1000}, {"microsecond", 1}} {
		if i.Micros != 0 && i.Micros%u.micros == 0 {
			parts = append(parts, count(i.Micros/u.micros, u.name))
			break
		}
	}
	return strings.Join(parts, " ")
}

// timeBounds returns the conditions on the time key's cell: a bucket is included
// if it begins at since or later, and before until. No bucket is therefore in
// both of two adjacent windows.
func (v *View) timeBounds(since, until *time.Time) ([]string, error) {
	option := "since"
	if since == nil {
		option = "until"
	}
	t := v.times
	if t == nil {
		return nil, &ConditionError{Option: option, Reason: v.Name + " has no time key", Remedy: "group it by the event time: time_bucket(INTERVAL '1 hour', " + eventTimeName(v.stream) + ")"}
	}
	cell := duck.Ident(v.Keys[t.key].Name)
	var conds []string
	for _, b := range []struct {
		option, op string
		at         *time.Time
	}{{"since", ">=", since}, {"until", "<", until}} {
		if b.at == nil {
			continue
		}
		if y := b.at.UTC().Year(); y < 1 || y > 9998 {
			return nil, &ConditionError{Option: b.option, Reason: fmt.Sprintf("is in the year %d", y), Remedy: "write a time between the years 1 and 9998"}
		}
		wall := t.wall(*b.at)
		if t.date {
			// The first day that begins at or after a time within a day is the next.
			if !wall.Equal(wall.Truncate(24 * time.Hour)) {
				wall = wall.AddDate(0, 0, 1)
			}
			conds = append(conds, cell+" "+b.op+" DATE '"+wall.Format("2006-01-02")+"'")
			continue
		}
		conds = append(conds, cell+" "+b.op+" TIMESTAMP '"+wall.Format("2006-01-02 15:04:05.000000")+"'")
	}
	if since != nil && until != nil && !since.Before(*until) {
		return nil, &ConditionError{Option: "until", Reason: "is not after since", Remedy: "write a later time"}
	}
	return conds, nil
}

// CheckBounds refuses a since or until inside a bucket, with the nearest bounds
// of buckets: an answer would hold the bucket whole or not at all, and neither is
// what was asked for. A time key that is no bucket takes every time. The error is
// a *ConditionError.
func (v *View) CheckBounds(since, until *time.Time) error {
	t := v.times
	if t == nil || t.bucket == "" {
		return nil
	}
	const layout = "2006-01-02 15:04:05.999999"
	for _, b := range []struct {
		option string
		at     *time.Time
	}{{"since", since}, {"until", until}} {
		if b.at == nil || b.at.Year() < 1 || b.at.Year() > 9998 {
			continue // FinalSQL refuses the year
		}
		wall := t.wall(*b.at)
		start := func(at string) string {
			return "(SELECT CAST(" + t.bucket + " AS TIMESTAMP) FROM (SELECT " + fmt.Sprintf(t.column, at) + ") AS " + rowAlias + ")"
		}
		var lower, upper time.Time
		if err := v.compiler.db.QueryRow("SELECT lower, "+start("lower + INTERVAL '"+t.width+"'")+" FROM (SELECT "+start("TIMESTAMP '"+wall.Format(layout)+"'")+" AS lower)").Scan(&lower, &upper); err != nil {
			return fmt.Errorf("view %s: the bucket of %s: %w", v.Name, wall.Format(layout), err)
		}
		if lower.Equal(wall) {
			continue
		}
		short := func(at time.Time) string { return strings.TrimSuffix(at.Format(layout), " 00:00:00") }
		return &ConditionError{Option: b.option, Reason: fmt.Sprintf("%s lies inside the bucket of %s that begins at %s", short(wall), t.width, short(lower)),
			Remedy: fmt.Sprintf("write %s or %s", short(lower), short(upper))}
	}
	return nil
}

// Instant returns the instant at which the clock of the time key shows wall,
// whatever wall's location is: in the stream's zone for local times, and in UTC
// otherwise. A business date begins when its day does.
func (v *View) Instant(wall time.Time) time.Time {
	zone := time.UTC
	if t := v.times; t != nil && (t.local || t.day) {
		zone = t.zone
		if t.day {
			wall = wall.Add(t.starts)
		}
	}
	return time.Date(wall.Year(), wall.Month(), wall.Day(), wall.Hour(), wall.Minute(), wall.Second(), wall.Nanosecond(), zone)
}

// HasHaving reports whether the view's SELECT has a HAVING.
func (v *View) HasHaving() bool { return v.having != nil }

func eventTimeName(s *project.Stream) string {
	if s.EventTime == "" {
		return "event_time"
	}
	return s.EventTime
}

// wall returns the instant as a value of the key's column, with UTC as location.
func (t *timeKey) wall(at time.Time) time.Time {
	at = at.UTC().Truncate(time.Microsecond)
	if !t.local && !t.day {
		return at
	}
	l := at.In(t.zone)
	w := time.Date(l.Year(), l.Month(), l.Day(), l.Hour(), l.Minute(), l.Second(), l.Nanosecond(), time.UTC)
	if t.day {
		w = w.Add(-t.starts)
	}
	return w
}
