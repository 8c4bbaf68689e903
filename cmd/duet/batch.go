package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"duet/internal/client"
	"duet/schemas/duetv1"
)

type batchCommand struct {
	Run       batchRunCommand       `cmd:"" help:"Start a run and wait until it has ended."`
	List      batchListCommand      `cmd:"" help:"List the kept generations and the latest runs."`
	Rollback  batchRollbackCommand  `cmd:"" help:"Serve a kept generation's numbers again, and pause the schedule."`
	Unpublish batchUnpublishCommand `cmd:"" help:"Withdraw the newest generation of a stopped server that cannot start."`
	Pause     batchPauseCommand     `cmd:"" help:"Pause the schedule, across restarts."`
	Resume    batchResumeCommand    `cmd:"" help:"Resume the schedule."`
	Pin       batchPinCommand       `cmd:"" help:"Keep a generation beyond the retention policy."`
	Unpin     batchUnpinCommand     `cmd:"" help:"Return a generation to the retention policy."`
}

type batchRunCommand struct {
	Full   bool `help:"Recompute from all history, which also checks the increments."`
	Accept bool `help:"Publish even if the halves differ without a known cause."`
}

// Run starts a run and prints how it ended.
func (b *batchRunCommand) Run(ctx context.Context, t *terminal) error {
	c, err := t.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	line := newStatusLine(t.err)
	run, err := c.Run(ctx, b.Full, b.Accept, watchOn(line))
	line.clear()
	if err != nil {
		return err
	}
	return printRun(t, run)
}

// watchOn returns a watch that shows a run's progress on a status line.
func watchOn(line *statusLine) client.Watch {
	return client.Watch{Progress: func(run *duetv1.Run) {
		line.show(fmt.Sprintf("%s: %s %3.0f %%", run.GetId(), step(run), run.GetProgress()*100))
	}}
}

// step returns what a run is doing.
func step(run *duetv1.Run) string {
	if run.GetState() == duetv1.RunState_RUN_STATE_QUEUED {
		return "queued behind the current run"
	}
	if run.GetStep() == "" {
		return "running"
	}
	return run.GetStep()
}

// printRun prints how a run ended. It returns an error unless the run published or
// found nothing to publish.
func printRun(t *terminal, run *duetv1.Run) error {
	took := run.GetEndTime().AsTime().Sub(run.GetStartTime().AsTime()).Round(time.Millisecond)
	switch run.GetState() {
	case duetv1.RunState_RUN_STATE_PUBLISHED:
		fmt.Fprintf(t.out, "published generation %d: %s, to %s, in %s\n", run.GetGeneration(), kindName(run), positionText(run.GetCut()), took)
		return nil
	case duetv1.RunState_RUN_STATE_UNCHANGED:
		fmt.Fprintf(t.out, "unchanged: generation %d has everything that has arrived\n", run.GetBaseGeneration())
		return nil
	case duetv1.RunState_RUN_STATE_HELD:
		return no("run %s is held: %s. The old generation still serves. Compare with duet reconcile --run %s; to publish anyway, use duet batch run --accept", run.GetId(), sentence(run.GetProblem()), run.GetId())
	default:
		return no("run %s %s after %s: %s", run.GetId(), stateName(run.GetState()), took, sentence(run.GetProblem()))
	}
}

// sentence returns s without the full stop at its end.
func sentence(s string) string { return strings.TrimRight(s, ". ") }

// stateName returns "published" for RUN_STATE_PUBLISHED.
func stateName(s duetv1.RunState) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "RUN_STATE_"))
}

type batchListCommand struct {
	Runs int32 `help:"Number of runs to list, 1 to 1000." default:"10"`
}

// Run lists generations and runs.
func (b *batchListCommand) Run(ctx context.Context, t *terminal) error {
	c, err := t.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	generations, err := c.Batch.ListGenerations(ctx, &duetv1.ListGenerationsRequest{})
	if err != nil {
		return err
	}
	runs, err := c.Batch.ListRuns(ctx, &duetv1.ListRunsRequest{PageSize: b.Runs})
	if err != nil {
		return err
	}
	if err := printGenerations(t, generations.GetGenerations()); err != nil {
		return err
	}
	fmt.Fprintln(t.out)
	return printRuns(t, runs.GetRuns())
}

func printGenerations(t *terminal, generations []*duetv1.Generation) error {
	var rows [][]string
	for _, g := range generations {
		var marks []string
		if g.GetCurrent() {
			marks = append(marks, "serves")
		}
		if g.GetPinned() {
			marks = append(marks, "pinned")
		}
		if of := g.GetRollbackOf(); of != 0 {
			marks = append(marks, fmt.Sprintf("rollback to %d", of))
		}
		var groups int64
		for _, v := range g.GetViews() {
			groups += v.GetGroups()
		}
		rows = append(rows, []string{
			fmt.Sprint(g.GetNumber()), g.GetPublishTime().AsTime().Format(time.DateTime), positionText(g.GetCut()),
			count(groups), size(g.GetBytes()), strings.Join(marks, ", "),
		})
	}
	return printGrid(t, []string{"generation", "published (UTC)", "to", "groups", "size", ""}, []bool{true, false, false, true, true}, rows)
}

// printRuns prints a line for each run, with its problem on the line below: a
// problem is a sentence and would make the table too wide.
func printRuns(t *terminal, runs []*duetv1.Run) error {
	var rows [][]string
	for _, r := range runs {
		took := ""
		if r.GetEndTime() != nil {
			took = short(r.GetEndTime().AsTime().Sub(r.GetStartTime().AsTime()))
		}
		state := stateName(r.GetState())
		if r.GetGeneration() != 0 {
			state += fmt.Sprintf(" %d", r.GetGeneration())
		}
		trigger := strings.ToLower(strings.TrimPrefix(r.GetTrigger().String(), "RUN_TRIGGER_"))
		rows = append(rows, []string{
			shortRunID(r.GetId()), r.GetStartTime().AsTime().Format(time.DateTime), kindName(r), strings.ReplaceAll(trigger, "_", " "), state, took,
		})
	}
	lines := gridLines([]string{"run", "started (UTC)", "kind", "by", "state", "took"}, []bool{false, false, false, false, false, true}, rows)
	for i, line := range lines {
		fmt.Fprintln(t.out, line)
		if run := i - len(lines) + len(runs); run >= 0 && runs[run].GetProblem() != "" {
			fmt.Fprintln(t.out, "  "+printable(runs[run].GetProblem()))
		}
	}
	return nil
}

// kindName returns "full" or "incremental".
func kindName(r *duetv1.Run) string {
	if r.GetFull() {
		return "full"
	}
	return "incremental"
}

// shortRunID returns the beginning of a run's id, which duet reconcile accepts.
func shortRunID(id string) string { return id[:min(len(id), 8)] }

// short returns a duration with about three digits: 597ms, 12.3s, 1m23s, 1h23m.
func short(d time.Duration) string {
	switch {
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return d.Round(100 * time.Millisecond).String()
	case d < time.Hour:
		return d.Round(time.Second).String()
	default:
		return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
	}
}

type batchRollbackCommand struct {
	Generation uint64 `arg:"" help:"Generation to return to; see duet batch list."`
	Reason     string `help:"Why, for the record." default:"by duet batch rollback" placeholder:"TEXT"`
}

// Run rolls back.
func (b *batchRollbackCommand) Run(ctx context.Context, t *terminal) error {
	c, err := t.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	line := newStatusLine(t.err)
	run, err := c.Rollback(ctx, b.Generation, b.Reason, watchOn(line))
	line.clear()
	if err != nil {
		return err
	}
	if run.GetState() != duetv1.RunState_RUN_STATE_PUBLISHED {
		return printRun(t, run)
	}
	fmt.Fprintf(t.out, "generation %d serves the numbers of generation %d, to %s; later events are counted by the live half. The schedule is paused: duet batch resume\n",
		run.GetGeneration(), b.Generation, positionText(run.GetCut()))
	return nil
}

type batchPauseCommand struct {
	Reason string `help:"Why, for the record." default:"by duet batch pause" placeholder:"TEXT"`
}

// Run pauses the schedule.
func (b *batchPauseCommand) Run(ctx context.Context, t *terminal) error {
	return operate(t, "the schedule is paused; duet batch run still works; duet batch resume resumes it", func(c *client.Client) error {
		_, err := c.Batch.Pause(ctx, &duetv1.PauseRequest{Reason: b.Reason})
		return err
	})
}

type batchResumeCommand struct{}

// Run resumes the schedule.
func (b *batchResumeCommand) Run(ctx context.Context, t *terminal) error {
	return operate(t, "the schedule is running", func(c *client.Client) error {
		_, err := c.Batch.Resume(ctx, &duetv1.ResumeRequest{})
		return err
	})
}

type batchPinCommand struct {
	Generation uint64 `arg:"" help:"Generation to keep."`
}

// Run pins a generation.
func (b *batchPinCommand) Run(ctx context.Context, t *terminal) error {
	return operate(t, fmt.Sprintf("generation %d is kept until duet batch unpin %[1]d", b.Generation), func(c *client.Client) error {
		_, err := c.Batch.Pin(ctx, &duetv1.PinRequest{Generation: b.Generation})
		return err
	})
}

type batchUnpinCommand struct {
	Generation uint64 `arg:"" help:"Generation to unpin."`
}

// Run unpins a generation.
func (b *batchUnpinCommand) Run(ctx context.Context, t *terminal) error {
	return operate(t, fmt.Sprintf("generation %d is kept as long as the retention policy says", b.Generation), func(c *client.Client) error {
		_, err := c.Batch.Unpin(ctx, &duetv1.UnpinRequest{Generation: b.Generation})
		return err
	})
}

// operate makes one call and prints done.
func operate(t *terminal, done string, call func(*client.Client) error) error {
	c, err := t.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	if err := call(c); err != nil {
		return err
	}
	fmt.Fprintln(t.out, done)
	return nil
}

type reconcileCommand struct {
	RunID  string `name:"run" help:"Run whose report to show (default: the latest that compared)." placeholder:"ID"`
	Output format `help:"table or json." enum:"table,json" default:"table"`
}

// Run prints a reconciliation report.
func (r *reconcileCommand) Run(ctx context.Context, t *terminal) error {
	c, err := t.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	report, err := r.fetch(ctx, c)
	if err != nil {
		return err
	}
	if r.Output == formatJSON {
		if err := printMessage(t.out, report); err != nil {
			return err
		}
	} else if err := printReconciliation(t, report); err != nil {
		return err
	}
	if !report.GetEqual() {
		return errNo
	}
	return nil
}

// fetch returns the report of a run, which may be named by the beginning of its
// id.
func (r *reconcileCommand) fetch(ctx context.Context, c *client.Client) (*duetv1.GetReconciliationResponse, error) {
	report, err := c.Batch.GetReconciliation(ctx, &duetv1.GetReconciliationRequest{Run: r.RunID})
	if r.RunID == "" || status.Code(err) != codes.NotFound {
		return report, err
	}
	runs, listErr := c.Batch.ListRuns(ctx, &duetv1.ListRunsRequest{PageSize: 1000})
	if listErr != nil {
		return nil, listErr
	}
	var ids []string
	for _, run := range runs.GetRuns() {
		if strings.HasPrefix(run.GetId(), r.RunID) && run.GetId() != r.RunID {
			ids = append(ids, run.GetId())
		}
	}
	switch len(ids) {
	case 0:
		return nil, err
	case 1:
		return c.Batch.GetReconciliation(ctx, &duetv1.GetReconciliationRequest{Run: ids[0]})
	default:
		return nil, usageError("--run %s: %d runs begin so: %s", r.RunID, len(ids), strings.Join(ids, ", "))
	}
}

func printReconciliation(t *terminal, report *duetv1.GetReconciliationResponse) error {
	run := report.GetRun()
	fmt.Fprintf(t.out, "%s\n\nrun %s, %s, %s, generation %d\ncompared: after %s through %s\n\n", report.GetVerdict(),
		run.GetId(), kindName(run), stateName(run.GetState()), run.GetGeneration(), positionText(report.GetAfter()), positionText(report.GetThrough()))
	var rows [][]string
	for _, total := range report.GetTotals() {
		rows = append(rows, []string{total.GetStream(), total.GetName(), grouped(orNull(total.GetBatch())), grouped(orNull(total.GetLive())), verdict(total.GetEqual())})
	}
	if err := printGrid(t, []string{"stream", "control total", "batch", "live", ""}, []bool{false, false, true, true}, rows); err != nil {
		return err
	}
	fmt.Fprintln(t.out)
	rows = nil
	for _, v := range report.GetViews() {
		rows = append(rows, []string{v.GetView(), count(int64(v.GetGroups())), count(int64(v.GetCells())), count(int64(v.GetGroupsDifferent())), count(int64(v.GetCellsDifferent())), v.GetNote()})
	}
	if err := printGrid(t, []string{"view", "groups", "cells", "groups differ", "cells differ", "note"}, []bool{false, true, true, true, true}, rows); err != nil {
		return err
	}
	for _, v := range report.GetViews() {
		if len(v.GetLargest()) == 0 {
			continue
		}
		fmt.Fprintf(t.out, "\nlargest differences of %s\n", v.GetView())
		var header []string
		for _, key := range v.GetKeys() {
			header = append(header, key.GetName())
		}
		header = append(header, "column", "before", "after", "cause")
		rows = nil
		for _, d := range v.GetLargest() {
			var row []string
			for _, value := range d.GetKey().GetValues() {
				row = append(row, orNull(value))
			}
			for len(row) < len(v.GetKeys()) {
				row = append(row, "")
			}
			cause := strings.ToLower(strings.TrimPrefix(d.GetCause().String(), "CAUSE_"))
			if d.GetDetail() != "" {
				cause += ": " + d.GetDetail()
			}
			rows = append(rows, append(row, d.GetColumn(), orNull(d.GetBefore()), orNull(d.GetAfter()), cause))
		}
		if err := printGrid(t, header, nil, rows); err != nil {
			return err
		}
	}
	return nil
}

func orNull(v *duetv1.Value) string {
	if v.GetKind() == nil {
		return "NULL"
	}
	return text(v)
}

func verdict(equal bool) string {
	if equal {
		return "equal"
	}
	return "DIFFERS"
}
