package recompute

import (
	"context"
	"database/sql"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"duet/batch/archive"
	"duet/internal/base/duck"
)

// missingSuspended is ViewCheck.Missing of a suspended view.
const missingSuspended = "suspended"

// compare makes the report: control totals, then each view, base and live
// segments against what was computed.
func (w *worker) compare(ctx context.Context, live Live) (Report, error) {
	r := Report{
		Format: FormatVersion, Run: w.job.Run, Created: time.Now().UTC(), Full: w.job.Full,
		After: w.job.After, Through: w.job.Through,
	}
	batch := map[string]archive.Totals{}
	for name, s := range w.streams {
		batch[name] = s.batch
	}
	r = CompareTotals(r, live.Totals, batch)
	for i, v := range w.job.Views {
		start := time.Now()
		w.progress(Progress{Step: "compare", View: v.Name, Done: i, Total: len(w.job.Views)})
		c := ViewCheck{View: v.Name, Verdict: Equal, Cause: v.Cause, Missing: live.Views[v.Name].Missing}
		if w.results[i].Suspended != nil {
			c.Missing = missingSuspended
		}
		if c.Missing == "" {
			if err := w.compareView(ctx, i, v, live.Views[v.Name], &c); err != nil {
				return r, fmt.Errorf("compare view %s: %w", v.Name, err)
			}
		}
		r.Views = append(r.Views, c)
		w.progress(Progress{Step: "compare", View: v.Name, Done: i + 1, Total: len(w.job.Views), Rows: c.Groups, Micros: time.Since(start).Microseconds()})
	}
	r.setVerdict()
	return r, nil
}

// compareView compares one view's cells: of the span alone if it was computed
// incrementally, else everything. Keys compare by UNION ALL and GROUP BY, in
// which NULL equals NULL.
func (w *worker) compareView(ctx context.Context, i int, v ViewJob, live LiveView, c *ViewCheck) error {
	var from []string
	if live.Path != "" {
		from = append(from, "SELECT "+names("", v.columns())+" FROM "+duck.Parquet(live.Path))
	}
	batch := deltaName(i)
	if v.Mode == Full {
		batch = duck.Parquet(w.job.Dir + "/" + w.results[i].File)
		if v.Base != "" {
			from = append(from, "SELECT "+names("", v.columns())+" FROM "+duck.Parquet(v.Base))
		}
	}
	merged := ""
	if len(from) > 0 {
		if err := w.view(ctx, CellsTable, strings.Join(from, " UNION ALL ")); err != nil {
			return err
		}
		merged = v.Merge
	}
	if err := w.table(ctx, v, "live", merged); err != nil {
		return err
	}
	if err := w.diff(ctx, v, batch, c); err != nil {
		return err
	}
	if c.Different+c.OnlyLive+c.OnlyBatch == 0 {
		return nil
	}
	if c.Cause == "" && c.Inexact == c.Different && c.OnlyLive+c.OnlyBatch == 0 {
		c.Cause = CauseInexact
	}
	c.Verdict = Unexplained
	if c.Cause != "" {
		c.Verdict = Explained
	}
	return w.largest(ctx, v, batch, c)
}

var numeric = regexp.MustCompile(`^(TINYINT|SMALLINT|INTEGER|BIGINT|HUGEINT|DOUBLE|FLOAT|DECIMAL.*)$`)

// diff finds the groups that differ: table diff with the keys, how much, and in
// which half they are.
func (w *worker) diff(ctx context.Context, v ViewJob, batch string, c *ViewCheck) error {
	sel := []string{"count(*) FILTER (_s = 0) AS _a", "count(*) FILTER (_s = 1) AS _b"}
	if len(v.Keys) > 0 {
		sel = append([]string{names("", v.Keys)}, sel...)
	}
	var differs, inexact, sizes []string
	cols := names("", v.columns())
	for _, cell := range v.Cells {
		id := duck.Ident(cell.Name)
		a, b := duck.Ident("a_"+cell.Name), duck.Ident("b_"+cell.Name)
		sel = append(sel, "any_value("+id+") FILTER (_s = 0) AS "+a, "any_value("+id+") FILTER (_s = 1) AS "+b)
		d := a + " IS DISTINCT FROM " + b
		if !cell.Exact {
			c.Tolerance = w.job.Tolerance
			m := duck.Ident("m_" + cell.Name)
			cols += ", " + cell.Magnitude + " AS " + m
			sel = append(sel, "max("+m+") AS "+m)
			// Without a finite magnitude the cell overflowed, and there is no bound.
			d = fmt.Sprintf("%s AND isfinite(coalesce(%s, 0)) AND NOT coalesce(abs(%s - %s) <= %s::DOUBLE * %[2]s, false)", d, m, a, b, strconv.FormatFloat(w.job.Tolerance, 'e', -1, 64))
			inexact = append(inexact, "("+d+")::INTEGER")
		}
		differs = append(differs, "("+d+")::INTEGER")
		if numeric.MatchString(cell.Type) {
			sizes = append(sizes, "abs(coalesce("+a+", 0)::DOUBLE - coalesce("+b+", 0)::DOUBLE)")
		}
	}
	total := func(counts []string) string { return strings.Join(append([]string{"0"}, counts...), " + ") }
	size := "0::DOUBLE"
	if len(sizes) > 0 {
		size = "greatest(" + strings.Join(sizes, ", ") + ")"
	}
	group := ""
	keys := ""
	if len(v.Keys) > 0 {
		keys = names("", v.Keys) + ", "
		group = " GROUP BY " + names("", v.Keys)
	}
	query := "CREATE OR REPLACE TEMP TABLE diff AS SELECT * FROM (SELECT " + keys + "_a, _b, " + size + " AS _size, " + total(differs) + " AS _cells, " + total(inexact) + " AS _inexact FROM (SELECT " + strings.Join(sel, ", ") +
		" FROM (SELECT 0 AS _s, " + cols + " FROM live UNION ALL SELECT 1, " + cols + " FROM " + batch + ")" + group + "))" +
		" WHERE _cells > 0 OR _a <> _b"
	if _, err := w.conn.ExecContext(ctx, query); err != nil {
		return err
	}
	var both int64
	query = "SELECT (SELECT count(*) FROM " + batch + "), coalesce(sum(_cells) FILTER (_a = _b), 0)::BIGINT, coalesce(sum(_inexact) FILTER (_a = _b), 0)::BIGINT, " +
		"count(*) FILTER (_a > _b), count(*) FILTER (_b > _a) FROM diff"
	if err := w.conn.QueryRowContext(ctx, query).Scan(&both, &c.Different, &c.Inexact, &c.OnlyLive, &c.OnlyBatch); err != nil {
		return err
	}
	c.Groups = both + c.OnlyLive
	c.Cells = (both - c.OnlyBatch) * int64(len(v.Cells))
	return nil
}

// largest lists the largest differences in the columns of the user's SELECT.
func (w *worker) largest(ctx context.Context, v ViewJob, batch string, c *ViewCheck) error {
	keys := "1"
	if len(v.Keys) > 0 {
		keys = names("", v.Keys)
	}
	query := fmt.Sprintf("CREATE OR REPLACE TEMP TABLE top AS SELECT *, row_number() OVER (ORDER BY _size DESC, %s) AS _rank FROM diff ORDER BY _rank LIMIT %d", keys, w.job.Largest)
	if _, err := w.conn.ExecContext(ctx, query); err != nil {
		return err
	}
	var n int
	if err := w.conn.QueryRowContext(ctx, "SELECT count(*) FROM top").Scan(&n); err != nil {
		return err
	}
	for rank := 1; rank <= n; rank++ {
		var d Difference
		if len(v.Keys) > 0 {
			keyRow, err := w.row(ctx, fmt.Sprintf("SELECT %s FROM top WHERE _rank = %d", names("", v.Keys), rank))
			if err != nil {
				return err
			}
			for j, k := range v.Keys {
				label := k.Label
				if label == "" {
					label = k.Name
				}
				d.Key = append(d.Key, Value{Column: label, Value: keyRow[j].Value})
			}
		}
		from, err := w.final(ctx, v, "live", rank)
		if err != nil {
			return err
		}
		to, err := w.final(ctx, v, batch, rank)
		if err != nil {
			return err
		}
		d.Columns = changes(from, to)
		c.Largest = append(c.Largest, d)
	}
	return nil
}

// final returns the row of the user's SELECT for one differing group in one half;
// nil if that half has none.
func (w *worker) final(ctx context.Context, v ViewJob, side string, rank int) ([]Value, error) {
	on := []string{fmt.Sprintf("t._rank = %d", rank)}
	for _, k := range v.Keys {
		id := duck.Ident(k.Name)
		on = append(on, "s."+id+" IS NOT DISTINCT FROM t."+id)
	}
	if err := w.view(ctx, CellsTable, "SELECT "+names("s.", v.columns())+" FROM "+side+" s JOIN top t ON "+strings.Join(on, " AND ")); err != nil {
		return nil, err
	}
	row, err := w.row(ctx, v.Final)
	if duck.Evaluates(err) {
		text := firstLine(err)
		return []Value{{Column: "error", Value: &text}}, nil
	}
	return row, err
}

// row reads the first row of a query as text; nil if there is none.
func (w *worker) row(ctx context.Context, query string) ([]Value, error) {
	rows, err := w.conn.QueryContext(ctx, "SELECT COLUMNS(*)::VARCHAR FROM ("+query+") LIMIT 1")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	cols, err := rows.Columns()
	if err != nil || !rows.Next() {
		return nil, firstError(err, rows.Err())
	}
	texts := make([]sql.NullString, len(cols))
	dest := make([]any, len(cols))
	for i := range texts {
		dest[i] = &texts[i]
	}
	if err := rows.Scan(dest...); err != nil {
		return nil, err
	}
	out := make([]Value, len(cols))
	for i, col := range cols {
		out[i].Column = col
		if texts[i].Valid {
			out[i].Value = &texts[i].String
		}
	}
	return out, rows.Err()
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// changes lists the columns whose values differ.
func changes(from, to []Value) []Change {
	var out []Change
	like := to
	if like == nil {
		like = from
	}
	value := func(row []Value, column string) *string {
		for _, v := range row {
			if v.Column == column {
				return v.Value
			}
		}
		return nil
	}
	for _, l := range like {
		c := Change{Column: l.Column, From: value(from, l.Column), To: value(to, l.Column)}
		if (c.From == nil) != (c.To == nil) || c.From != nil && *c.From != *c.To {
			out = append(out, c)
		}
	}
	return out
}
