package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"duet/schemas/duetv1"
)

type queryCommand struct {
	View      string        `arg:"" help:"View to ask."`
	By        []string      `help:"Keys to group by; all of the view's if not given." placeholder:"KEY" xor:"grouping"`
	Total     bool          `help:"One row over everything." xor:"grouping"`
	Where     string        `help:"Condition over the keys." placeholder:"SQL"`
	Having    string        `help:"Condition over keys and measures, after grouping." placeholder:"SQL"`
	Since     string        `help:"Buckets of the time key that begin here or later: RFC 3339, or YYYY-MM-DD[ HH:MM:SS] in UTC." placeholder:"TIME"`
	Until     string        `help:"Buckets that begin before here." placeholder:"TIME"`
	OrderBy   []string      `help:"Columns to order by." placeholder:"COLUMN"`
	Desc      bool          `help:"The largest first."`
	Limit     int32         `help:"Rows at most: 1 to 10,000." default:"1000"`
	AsOf      *uint64       `help:"The numbers as this kept generation published them." placeholder:"GENERATION"`
	NotBefore string        `help:"Token of an append or an answer: wait until this answer is no older." placeholder:"TOKEN"`
	Output    format        `help:"table, csv or json." enum:"table,csv,json" default:"table"`
	Timeout   time.Duration `help:"How long to wait for the answer." default:"1m"`
}

// request is the flags as the server takes them.
func (q *queryCommand) request() (*duetv1.QueryRequest, error) {
	if q.Limit < 1 || q.Limit > 10_000 {
		return nil, usageError("--limit %d: write 1 to 10000", q.Limit)
	}
	if q.AsOf != nil && *q.AsOf == 0 {
		return nil, usageError("--as-of 0: generations count from 1; duet batch list shows them, and without --as-of the answer is of now")
	}
	if q.Desc && len(q.OrderBy) == 0 {
		return nil, usageError("--desc without --order-by: name the column to order by")
	}
	request := &duetv1.QueryRequest{
		View: q.View, GroupBy: q.By, Total: q.Total, Where: q.Where, Having: q.Having,
		Limit: q.Limit, NotBefore: q.NotBefore,
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
	for _, bound := range []struct {
		flag, value string
		into        **timestamppb.Timestamp
	}{{"--since", q.Since, &request.Since}, {"--until", q.Until, &request.Until}} {
		if bound.value == "" {
			continue
		}
		at, err := instant(bound.value)
		if err != nil {
			return nil, usageError("%s: %v", bound.flag, err)
		}
		*bound.into = timestamppb.New(at)
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
	if err := q.Output.print(t.out, answer.GetColumns(), answer.GetRows()); err != nil {
		return err
	}
	rows := "1 row"
	if n := len(answer.GetRows()); n != 1 {
		rows = count(int64(n)) + " rows"
	}
	if answer.GetTruncated() {
		rows += fmt.Sprintf(" (--limit %d; there are more)", q.Limit)
	}
	fmt.Fprintf(t.err, "%s; %s\n", rows, proofLine(answer.GetProof()))
	return nil
}

type verifyCommand struct {
	View    string        `arg:"" help:"View to verify."`
	Explain bool          `help:"Compute nothing: print the SQL and the files to run in any DuckDB."`
	Limit   int32         `help:"Differing groups to print at most." default:"20"`
	Timeout time.Duration `help:"How long the recomputation may take." default:"30m"`
}

// Run compares, or explains how to.
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
		events += fmt.Sprintf(" and %s not archived yet", count(int64(tail)))
	}
	if v.Explain {
		fmt.Fprintf(t.out, "%s;\n", strings.TrimRight(answer.GetSql(), "; \n"))
		fmt.Fprintf(t.err, "-- reads %d files", len(answer.GetFiles()))
		if tail := answer.GetTailEvents(); tail > 0 {
			fmt.Fprintf(t.err, "; %s events are not archived yet and not in it (duet batch run archives them)", count(int64(tail)))
		}
		fmt.Fprintln(t.err)
		for _, file := range answer.GetFiles() {
			fmt.Fprintln(t.err, "--   "+file)
		}
		return nil
	}
	took := answer.GetElapsed().AsDuration().Round(time.Millisecond)
	if answer.GetEqual() {
		fmt.Fprintf(t.out, "equal: %s groups, the same by plain DuckDB over %s, in %s\n", count(int64(answer.GetGroups())), events, took)
		fmt.Fprintln(t.err, proofLine(answer.GetProof()))
		return nil
	}
	fmt.Fprintf(t.out, "NOT equal: %s groups differ of %s, by plain DuckDB over %s, in %s\n",
		count(int64(answer.GetGroupsDifferent())), count(int64(answer.GetGroups())), events, took)
	columns := append([]*duetv1.Column{{Name: "answer", Type: "VARCHAR"}}, answer.GetColumns()...)
	var rows []*duetv1.Row
	for _, d := range answer.GetDifferences() {
		rows = append(rows, labelled("merged", d.GetMerged(), len(columns)), labelled("recomputed", d.GetRecomputed(), len(columns)))
	}
	if err := formatTable.print(t.out, columns, rows); err != nil {
		return err
	}
	fmt.Fprintln(t.err, proofLine(answer.GetProof()))
	fmt.Fprintln(t.err, "This is a fault of Duet or of its files, not of your data. Keep the data folder, run duet reconcile and duet inspect archive, and report it.")
	return errNo
}

// labelled is a row with a word before it; what one side has not is all NULL.
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
