package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"duet/schemas/duetv1"
)

type queryCommand struct {
	View      string        `arg:"" help:"View to query."`
	By        []string      `help:"Keys to group by (default: all of the view's)." placeholder:"KEY" xor:"grouping"`
	Total     bool          `help:"One row over everything." xor:"grouping"`
	Where     *string       `help:"Condition on keys." placeholder:"SQL"`
	Having    *string       `help:"Condition on keys and measures, after grouping." placeholder:"SQL"`
	Since     *string       `help:"Only buckets of the time key from this time on: RFC 3339, or YYYY-MM-DD[ HH:MM[:SS]] on the clock of the time key." placeholder:"TIME"`
	Until     *string       `help:"Only buckets before this time." placeholder:"TIME"`
	OrderBy   []string      `help:"Columns to order by." placeholder:"COLUMN"`
	Desc      bool          `help:"Descending order."`
	Limit     int32         `help:"Maximum number of rows, 1 to 10000." default:"1000"`
	AsOf      *uint64       `help:"Numbers as this kept generation published them." placeholder:"GENERATION"`
	NotBefore string        `help:"Wait for an answer at least as new as this token of an append or an answer." placeholder:"TOKEN"`
	Output    format        `help:"table, csv or json." enum:"table,csv,json" default:"table"`
	Timeout   time.Duration `help:"How long to wait for the answer." default:"1m"`
}

// request returns the request that the flags describe.
func (q *queryCommand) request() (*duetv1.QueryRequest, error) {
	if q.Limit < 1 || q.Limit > 10_000 {
		return nil, usageError("--limit %d: write 1 to 10000", q.Limit)
	}
	if q.AsOf != nil && *q.AsOf == 0 {
		return nil, usageError("--as-of 0: generations are numbered from 1; list them with duet batch list, or omit --as-of for the current numbers")
	}
	if q.Desc && len(q.OrderBy) == 0 {
		return nil, usageError("--desc without --order-by: name the column to order by")
	}
	request := &duetv1.QueryRequest{
		View: q.View, GroupBy: q.By, Total: q.Total, Limit: q.Limit, NotBefore: q.NotBefore,
	}
	for _, filter := range []struct {
		flag string
		text *string
		into *string
	}{
		{"--where", q.Where, &request.Where}, {"--having", q.Having, &request.Having},
		{"--since", q.Since, &request.Since}, {"--until", q.Until, &request.Until},
	} {
		if filter.text == nil {
			continue
		}
		// A script's unset variable must not mean all rows.
		if *filter.into = *filter.text; strings.TrimSpace(*filter.text) == "" {
			return nil, usageError("%s is empty: write a value, or omit the flag for all rows", filter.flag)
		}
	}
	if q.AsOf != nil {
		request.AsOfGeneration = *q.AsOf
	}
	for _, column := range q.OrderBy {
		if q.Desc {
			column += " desc"
		}
		request.OrderBy = append(request.OrderBy, column)
	}
	return request, nil
}

// Run prints the answer.
func (q *queryCommand) Run(ctx context.Context, t *terminal) error {
	request, err := q.request()
	if err != nil {
		return err
	}
	c, err := t.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, q.Timeout)
	defer cancel()
	answer, err := c.Views.Query(ctx, request)
	if err != nil {
		return err
	}
	if err := q.Output.print(t, answer.GetColumns(), answer.GetRows()); err != nil {
		return err
	}
	rows := "1 row"
	if n := len(answer.GetRows()); n != 1 {
		rows = count(int64(n)) + " rows"
	}
	if answer.GetTruncated() {
		rows += fmt.Sprintf(" (--limit %d; there are more)", q.Limit)
	}
	for _, note := range answer.GetNotes() {
		fmt.Fprintln(t.err, "note: "+printable(note))
	}
	fmt.Fprintf(t.err, "%s; %s\n", rows, proofLine(answer.GetProof()))
	return nil
}

type verifyCommand struct {
	View    string        `arg:"" help:"View to verify."`
	Explain bool          `help:"Only print the SQL and its files, to run in any DuckDB."`
	Limit   int32         `help:"Maximum number of differing groups to print, 1 to 1000." default:"20"`
	Timeout time.Duration `help:"How long the recomputation may take." default:"30m"`
}

// Run prints whether the merged and the recomputed answer are equal, or the SQL
// that recomputes it.
func (v *verifyCommand) Run(ctx context.Context, t *terminal) error {
	c, err := t.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, v.Timeout)
	defer cancel()
	answer, err := c.Views.Verify(ctx, &duetv1.VerifyRequest{View: v.View, Explain: v.Explain, ExplainOnly: v.Explain, Limit: v.Limit})
	if err != nil {
		return err
	}
	events := count(int64(answer.GetArchivedEvents())) + " archived events"
	if tail := answer.GetTailEvents(); tail > 0 {
		events += fmt.Sprintf(" and %s events of the tail", count(int64(tail)))
	}
	if v.Explain {
		fmt.Fprintf(t.out, "%s;\n", strings.TrimRight(answer.GetSql(), "; \n"))
		fmt.Fprintf(t.err, "-- reads %d files", len(answer.GetFiles()))
		if tail := answer.GetTailEvents(); tail > 0 {
			fmt.Fprintf(t.err, "; %s events are not archived yet and not included (duet batch run archives them)", count(int64(tail)))
		}
		fmt.Fprintln(t.err)
		for _, file := range answer.GetFiles() {
			fmt.Fprintln(t.err, "--   "+file)
		}
		return nil
	}
	took := answer.GetElapsed().AsDuration().Round(time.Millisecond)
	if answer.GetEqual() {
		fmt.Fprintf(t.out, "equal: %s groups, recomputed by plain DuckDB from %s in %s\n", count(int64(answer.GetGroups())), events, took)
		fmt.Fprintln(t.err, proofLine(answer.GetProof()))
		return nil
	}
	fmt.Fprintf(t.out, "NOT equal: %s of %s groups differ, recomputed by plain DuckDB from %s in %s\n",
		count(int64(answer.GetGroupsDifferent())), count(int64(answer.GetGroups())), events, took)
	columns := append([]*duetv1.Column{{Name: "answer", Type: "VARCHAR"}}, answer.GetColumns()...)
	var rows []*duetv1.Row
	for _, d := range answer.GetDifferences() {
		rows = append(rows, labelled("merged", d.GetMerged(), len(columns)), labelled("recomputed", d.GetRecomputed(), len(columns)))
	}
	if err := formatTable.print(t, columns, rows); err != nil {
		return err
	}
	fmt.Fprintln(t.err, proofLine(answer.GetProof()))
	fmt.Fprintln(t.err, "This is a fault in Duet or in its files, not in your data. Keep the data folder, run duet reconcile and duet inspect archive, and report it.")
	return errNo
}

// labelled returns a row of width values that begins with label. A nil row is
// all NULL, and the label says "none".
func labelled(label string, row *duetv1.Row, width int) *duetv1.Row {
	values := []*duetv1.Value{{Kind: &duetv1.Value_StringValue{StringValue: label}}}
	if row == nil {
		values[0].Kind = &duetv1.Value_StringValue{StringValue: label + ": none"}
	}
	values = append(values, row.GetValues()...)
	for len(values) < width {
		values = append(values, &duetv1.Value{})
	}
	return &duetv1.Row{Values: values}
}
