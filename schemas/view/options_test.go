package view

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

const optionsView = `SELECT time_bucket(INTERVAL '1 hour', sold_at) AS hour, country, quantity::HUGEINT AS h, upper(country) AS "Upper",
  sum(price) AS revenue, count(*) AS lines, avg(price) / month(hour) AS odd FROM orders GROUP BY 1, 2, 3`

func parseOptions(t *testing.T, text string) Options {
	t.Helper()
	var o Options
	instant := func(s string) *time.Time {
		at, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Fatal(err)
		}
		return &at
	}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch name {
		case "where":
			o.Where = value
			if value == "" {
				o.Where = " "
			}
		case "having":
			o.Having = value
		case "total":
			o.Total = true
		case "by":
			for _, k := range strings.Split(value, ",") {
				o.By = append(o.By, strings.TrimSpace(k))
			}
		case "since":
			o.Since = instant(value)
		case "until":
			o.Until = instant(value)
		case "order":
			for _, term := range strings.Split(value, ",") {
				column, desc := strings.CutSuffix(strings.TrimSpace(term), " desc")
				o.OrderBy = append(o.OrderBy, Order{column, desc})
			}
		case "limit":
			o.Limit, _ = strconv.Atoi(value)
		default:
			t.Fatalf("option %q", line)
		}
	}
	return o
}

func TestOptions(t *testing.T) {
	c := newCompiler(t)
	e := newEngine(t)
	v := mustCompile(t, c, optionsView)
	e.exec("CREATE TABLE cells (" + v.CellColumns() + ")")
	golden(t, "testdata/options.txt", func(text string) string {
		o := parseOptions(t, text)
		sql, cols, err := v.FinalSQL("cells", o)
		if err != nil {
			var cerr *ConditionError
			if !errors.As(err, &cerr) || cerr.Reason == "" || cerr.Remedy == "" || cerr.Option == "" {
				t.Errorf("%s: not a full *ConditionError: %v", text, err)
			}
			return err.Error()
		}
		e.rows(sql)
		var names []string
		for _, col := range cols {
			names = append(names, col.Name)
		}
		out := "answers " + strings.Join(names, ", ") + "\n"
		if where, _ := v.filterSQL(o); where != "" {
			out += "cells   " + where + "\n"
		}
		keys, _ := v.rollUp(o)
		columns, _ := v.answered(keys)
		where, _ := v.filterSQL(o)
		if _, rest, ok := strings.Cut(sql, "("+v.answerSQL("cells", keys, columns, where, false)+")"); ok {
			out += "then   " + rest + "\n"
		}
		return out
	})
}

// timeColumn returns the time key, if the view has one.
func timeColumn(v *View) (Column, bool) {
	i := slices.IndexFunc(v.Columns, func(c Column) bool { return c.Role == TimeKey })
	if i < 0 {
		return Column{}, false
	}
	return v.Columns[i], true
}

// A bucket is included if it begins at since or later and before until, so adjacent
// windows count each bucket once. Each instant is tried against the buckets that
// the view itself makes.
func TestTimeBoundsTakeWholeBuckets(t *testing.T) {
	c := newCompiler(t)
	e := newEngine(t)
	london := c.streams["shops"].Zone
	keys := []struct {
		key, stream, bucket string
		start               func(at time.Time) time.Time // of the bucket that contains at, as a value of the key
	}{
		{"time_bucket(INTERVAL '15 minutes', sold_at)", "orders", "15 minutes", func(at time.Time) time.Time { return at.Truncate(15 * time.Minute) }},
		{"date_trunc('day', sold_at)", "orders", "1 day", func(at time.Time) time.Time { return at.Truncate(24 * time.Hour) }},
		{"sold_at::DATE", "orders", "1 day", func(at time.Time) time.Time { return at.Truncate(24 * time.Hour) }},
		{"date_trunc('month', sold_at)", "orders", "1 month", func(at time.Time) time.Time { return time.Date(at.Year(), at.Month(), 1, 0, 0, 0, 0, time.UTC) }},
		{"time_bucket(INTERVAL '1 month', sold_at)::DATE", "orders", "1 month", func(at time.Time) time.Time { return time.Date(at.Year(), at.Month(), 1, 0, 0, 0, 0, time.UTC) }},
		{"sold_at", "orders", "", func(at time.Time) time.Time { return at }},
		{"business_date", "shops", "1 day", func(at time.Time) time.Time {
			l := at.In(london)
			return time.Date(l.Year(), l.Month(), l.Day(), l.Hour(), l.Minute(), l.Second(), 0, time.UTC).Add(-4 * time.Hour).Truncate(24 * time.Hour)
		}},
		{"time_bucket(INTERVAL '1 hour', sold_at_local)", "shops", "1 hour", func(at time.Time) time.Time {
			l := at.In(london)
			return time.Date(l.Year(), l.Month(), l.Day(), l.Hour(), 0, 0, 0, time.UTC)
		}},
	}
	instants := []time.Time{}
	for at := time.Date(2024, 2, 28, 22, 0, 0, 0, time.UTC); at.Before(time.Date(2024, 4, 2, 5, 0, 0, 0, time.UTC)); at = at.Add(137 * time.Minute) {
		instants = append(instants, at)
	}
	instants = append(instants, time.Date(2024, 3, 1, 0, 0, 0, 0, time.UTC), time.Date(2024, 3, 1, 4, 0, 0, 0, time.UTC))
	for _, k := range keys {
		v := mustCompile(t, c, "SELECT "+k.key+" AS k, count(*) AS n FROM "+k.stream+" GROUP BY ALL")
		if col, ok := timeColumn(v); !ok || col.Name != "k" || col.Bucket != k.bucket {
			t.Errorf("%s: time key %+v, bucket should be %q", k.key, col, k.bucket)
			continue
		}
		values := map[string]bool{}
		for _, at := range instants {
			values["('"+k.start(at).Format("2006-01-02 15:04:05")+"', 1)"] = true
		}
		var rows []string
		for r := range values {
			rows = append(rows, r)
		}
		e.exec("CREATE OR REPLACE TABLE cells (" + v.CellColumns() + ")")
		e.exec("INSERT INTO cells VALUES " + strings.Join(rows, ", "))
		for i, at := range instants {
			if i%7 != 0 && i < len(instants)-2 {
				continue
			}
			for _, o := range []Options{{Since: &at}, {Until: &at}} {
				sql, _, err := v.FinalSQL("cells", o)
				if err != nil {
					t.Fatal(err)
				}
				start := k.start(at)
				got := e.rows("SELECT count(*), min(k)::TIMESTAMP AS first, max(k)::TIMESTAMP AS last FROM (" + sql + ")")[0]
				// The bucket that contains at began before it, unless at is its start.
				edge := k.start(at.Add(-time.Microsecond)).Before(start)
				bound := "'" + start.Format("2006-01-02 15:04:05") + "'"
				op := map[bool]string{true: ">=", false: ">"}[edge]
				if o.Until != nil {
					op = map[bool]string{true: "<", false: "<="}[edge]
				}
				want := e.rows("SELECT count(*), min(k)::TIMESTAMP AS first, max(k)::TIMESTAMP AS last FROM (SELECT k0 AS k FROM cells) WHERE k " + op + " " + bound)[0]
				if got != want {
					t.Fatalf("%s since %v until %v: %s, want %s\n%s", k.key, o.Since, o.Until, got, want, sql)
				}
			}
		}
	}
}

func TestNoTimeKey(t *testing.T) {
	c := newCompiler(t)
	now := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, sql := range []string{"SELECT country, count(*) AS n FROM orders GROUP BY ALL", "SELECT count(*) AS n FROM orders", "SELECT hour(sold_at) AS h, count(*) AS n FROM orders GROUP BY ALL"} {
		_, _, err := mustCompile(t, c, sql).FinalSQL("cells", Options{Since: &now})
		var cerr *ConditionError
		if !errors.As(err, &cerr) || cerr.Option != "since" || !strings.Contains(cerr.Reason, "no time key") {
			t.Errorf("%s: %v", sql, err)
		}
	}
}

// The narrowest bucket of the event time is the time key; the others are keys.
func TestTimeKeyIsTheNarrowestBucketOfTheEventTime(t *testing.T) {
	c := newCompiler(t)
	for sql, want := range map[string]string{
		"SELECT date_trunc('month', sold_at) AS m, date_trunc('day', sold_at) AS d, count(*) AS n FROM orders GROUP BY ALL": "d 1 day",
		"SELECT day, date_trunc('month', sold_at) AS m, count(*) AS n FROM orders GROUP BY ALL":                             "m 1 month",
		"SELECT day, country, count(*) AS n FROM orders GROUP BY ALL":                                                       "day 1 day",
		"SELECT time_bucket(INTERVAL 90 minute, sold_at) AS b, count(*) AS n FROM orders GROUP BY ALL":                      "b 90 minutes",
		"SELECT time_bucket(to_days(7), sold_at) AS b, count(*) AS n FROM orders GROUP BY ALL":                              "b 7 days",
		"SELECT date_trunc('quarter', business_date) AS b, count(*) AS n FROM shops GROUP BY ALL":                           "b 1 quarter",
	} {
		col, _ := timeColumn(mustCompile(t, c, sql))
		if got := fmt.Sprint(col.Name, " ", col.Bucket); got != want {
			t.Errorf("%s: %s, want %s", sql, got, want)
		}
	}
}
