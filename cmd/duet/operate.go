package main

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"duet/schemas/duetv1"
)

type statusCommand struct {
	Ready   bool          `help:"Only check that queries are answered; exit 0 even if something needs attention."`
	Output  format        `help:"table or json." enum:"table,json" default:"table"`
	Timeout time.Duration `help:"How long to wait for the answer." default:"10s"`
}

// Run prints the status. It exits with exitNo unless the server is healthy, and
// with exitUnreachable while it is catching up.
func (s *statusCommand) Run(ctx context.Context, t *terminal) error {
	c, err := t.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, s.Timeout)
	defer cancel()
	status, err := c.Operate.GetStatus(ctx, &duetv1.GetStatusRequest{})
	if err != nil {
		return err
	}
	if s.Ready {
		fmt.Fprintln(t.out, healthName(status.GetHealth()))
	} else if s.Output == formatJSON {
		if err := printMessage(t.out, status); err != nil {
			return err
		}
	} else if err := printStatus(t, status); err != nil {
		return err
	}
	switch status.GetHealth() {
	case duetv1.Health_HEALTH_OK:
		return nil
	case duetv1.Health_HEALTH_DEGRADED:
		if s.Ready {
			return nil
		}
		return errNo
	case duetv1.Health_HEALTH_STARTING:
		return &exitError{exitUnreachable, fmt.Errorf("catching up: %.0f %% done; nothing is answered yet", status.GetLive().GetProgress()*100)}
	default:
		return errNo
	}
}

// healthName returns "ok" for HEALTH_OK.
func healthName(h duetv1.Health) string {
	return strings.ToLower(strings.TrimPrefix(h.String(), "HEALTH_"))
}

func printStatus(t *terminal, s *duetv1.GetStatusResponse) error {
	fmt.Fprintf(t.out, "%s: project %s, duet %s, up %s\n", healthName(s.GetHealth()), s.GetProject(), s.GetVersion(), time.Since(s.GetStartTime().AsTime()).Round(time.Second))
	for _, problem := range s.GetProblems() {
		fmt.Fprintln(t.out, "  ! "+printable(problem))
	}
	if changed := s.GetProjectChangedFiles(); len(changed) > 0 {
		fmt.Fprintf(t.out, "project  %s differ from what the server runs; restart it to apply them\n", printable(strings.Join(changed, ", ")))
	}
	log, live, archive, batch := s.GetLog(), s.GetLive(), s.GetArchive(), s.GetBatch()
	fmt.Fprintf(t.out, "log      from %s to %s, %s of %s\n", positionText([]*duetv1.Position{log.GetFirst()}), positionText([]*duetv1.Position{log.GetLast()}), size(log.GetUsedBytes()), size(log.GetLimitBytes()))
	if lost := lossesText(log.GetAdoptions()); lost != "" {
		fmt.Fprintf(t.out, "         a log was lost: not counted is %s\n", lost)
	}
	fmt.Fprintf(t.out, "live     through %s, %s messages behind\n", positionText(live.GetThrough()), count(int64(live.GetLagMessages())))
	fmt.Fprintf(t.out, "archive  through %s, %s files, %s, %s messages behind the live half\n", positionText(archive.GetThrough()), count(archive.GetFiles()), size(archive.GetBytes()), count(int64(archive.GetLagMessages())))
	if g := batch.GetCurrent(); g.GetNumber() != 0 {
		fmt.Fprintf(t.out, "batch    generation %d to %s, published %s ago\n", g.GetNumber(), positionText(g.GetCut()), time.Since(g.GetPublishTime().AsTime()).Round(time.Second))
	} else {
		fmt.Fprintln(t.out, "batch    no generation yet")
	}
	if run := batch.GetRunning(); run != nil {
		fmt.Fprintf(t.out, "         run %s: %s %.0f %%\n", run.GetId(), step(run), run.GetProgress()*100)
	}
	if run := batch.GetLast(); run.GetProblem() != "" {
		fmt.Fprintf(t.out, "         last run %s %s: %s\n", run.GetId(), stateName(run.GetState()), printable(run.GetProblem()))
	}
	if batch.GetPaused() {
		fmt.Fprintf(t.out, "         paused: %s\n", printable(batch.GetPauseReason()))
	}
	if batch.GetLastVerdict() != "" {
		fmt.Fprintf(t.out, "halves   %s\n", printable(batch.GetLastVerdict()))
	}
	if last := s.GetLastScrub(); last != nil {
		fmt.Fprintf(t.out, "scrub    %s ago: %s in %s files\n", time.Since(last.GetEndTime().AsTime()).Round(time.Second), damageText(last), count(last.GetFiles()))
	}
	if running := s.GetScrub(); running != nil {
		fmt.Fprintf(t.out, "         running: %s of %s verified, %s\n", size(running.GetBytes()), size(running.GetTotalBytes()), damageText(running))
	}
	fmt.Fprintf(t.out, "memory   store %s of %s, process %s\n\n", size(s.GetStoreMemoryBytes()), size(s.GetStoreMemoryLimitBytes()), size(s.GetProcessMemoryBytes()))

	var rows [][]string
	for _, stream := range s.GetStreams() {
		a, newest := stream.GetAccount(), ""
		if at := stream.GetNewestEventTime(); at != nil {
			newest = at.AsTime().Format(time.DateTime)
		}
		rows = append(rows, []string{stream.GetName(), count(a.GetReceived()), count(a.GetAccepted()), count(a.GetDuplicate()), count(a.GetRejected()), newest})
	}
	err := printGrid(t, []string{"stream", "received", "accepted", "duplicate", "rejected", "newest event (UTC)"}, []bool{false, true, true, true, true}, rows)
	if err != nil {
		return err
	}
	fmt.Fprintln(t.out)
	rows = nil
	for _, view := range s.GetViews() {
		rows = append(rows, []string{view.GetName(), count(view.GetPartialRows()), view.GetProblem()})
	}
	return printGrid(t, []string{"view", "partial rows", "problem"}, []bool{false, true}, rows)
}

type rejectsCommand struct {
	List rejectsListCommand `cmd:"" default:"withargs" help:"List rejected events, latest first."`
}

type rejectsListCommand struct {
	Stream   string `help:"Only events of this stream." placeholder:"NAME"`
	Session  string `help:"Only events of this ingest; duet ingest prints its session." placeholder:"NAME"`
	ByReason bool   `help:"Count by reason, with the first event of each."`
	Limit    int32  `help:"Maximum number of events, 1 to 10000." default:"100"`
	Output   format `help:"table, csv or json." enum:"table,csv,json" default:"table"`
}

// Run lists rejects, or counts them by reason.
func (r *rejectsListCommand) Run(ctx context.Context, t *terminal) error {
	if r.Limit < 1 || r.Limit > 10_000 {
		return usageError("--limit %d: write 1 to 10000", r.Limit)
	}
	c, err := t.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	answer, err := c.Operate.ListRejects(ctx, &duetv1.ListRejectsRequest{Stream: r.Stream, Session: r.Session, Limit: r.Limit, ByReason: r.ByReason})
	if err != nil {
		return err
	}
	if r.ByReason {
		return printReasons(t, r.Output, answer.GetReasons())
	}
	var columns []*duetv1.Column
	for _, name := range []string{"received", "stream", "position", "file", "line", "column", "reason", "raw"} {
		columns = append(columns, &duetv1.Column{Name: name, Type: "VARCHAR"})
	}
	var rows []*duetv1.Row
	for _, reject := range answer.GetRejects() {
		at, line := positionText([]*duetv1.Position{reject.GetPosition()}), ""
		if reject.GetLine() > 0 {
			line = fmt.Sprint(reject.GetLine())
		}
		rows = append(rows, textRow(
			reject.GetTime().AsTime().Format("2006-01-02 15:04:05.000"), reject.GetStream(), fmt.Sprintf("%s/%d", at, reject.GetPosition().GetRecord()),
			reject.GetFile(), line, reject.GetColumn(), reject.GetReason(), excerpt(reject.GetRaw(), r.Output)))
	}
	if err := r.Output.print(t, columns, rows); err != nil {
		return err
	}
	fmt.Fprintf(t.err, "%d of %s\n", len(rows), count(answer.GetTotal()))
	return nil
}

// printReasons prints how many events were rejected for each reason, and where
// the first of them is.
func printReasons(t *terminal, f format, reasons []*duetv1.RejectReason) error {
	columns := []*duetv1.Column{{Name: "count", Type: "BIGINT", Role: duetv1.ColumnRole_COLUMN_ROLE_MEASURE}, {Name: "reason", Type: "VARCHAR"}, {Name: "first", Type: "VARCHAR"}}
	var rows []*duetv1.Row
	for _, reason := range reasons {
		first := reason.GetFirst()
		place := positionText([]*duetv1.Position{first.GetPosition()}) + fmt.Sprintf("/%d", first.GetPosition().GetRecord())
		if first.GetLine() > 0 {
			place = fmt.Sprintf("%s:%d", first.GetFile(), first.GetLine())
		}
		row := textRow("", reason.GetReason(), place)
		row.Values[0] = &duetv1.Value{Kind: &duetv1.Value_IntValue{IntValue: reason.GetCount()}}
		rows = append(rows, row)
	}
	return f.print(t, columns, rows)
}

// textRow returns a row of strings.
func textRow(cells ...string) *duetv1.Row {
	row := &duetv1.Row{}
	for _, cell := range cells {
		row.Values = append(row.Values, &duetv1.Value{Kind: &duetv1.Value_StringValue{StringValue: cell}})
	}
	return row
}

// excerpt returns raw as valid UTF-8; for a table, only its beginning.
func excerpt(raw []byte, f format) string {
	s := strings.ToValidUTF8(string(raw), "\ufffd")
	const most = 100
	if runes := []rune(s); f == formatTable && len(runes) > most {
		return string(runes[:most]) + "…"
	}
	return s
}

type inspectCommand struct {
	What   string            `arg:"" help:"log, archive, generation or live." enum:"log,archive,generation,live"`
	Args   map[string]string `arg:"" optional:"" help:"Filters, as NAME=VALUE; an unknown name lists the known ones."`
	Output format            `help:"table, csv or json." enum:"table,csv,json" default:"table"`
}

// Run prints the server's tables.
func (i *inspectCommand) Run(ctx context.Context, t *terminal) error {
	c, err := t.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	answer, err := c.Operate.Inspect(ctx, &duetv1.InspectRequest{What: i.What, Args: i.Args})
	if err != nil {
		return err
	}
	for n, table := range answer.GetTables() {
		if n > 0 {
			fmt.Fprintln(t.out)
		}
		fmt.Fprintln(t.out, "# "+table.GetTitle())
		if err := i.Output.print(t, table.GetColumns(), table.GetRows()); err != nil {
			return err
		}
	}
	return nil
}

type versionCommand struct{}

// Run prints the version of this binary.
func (v *versionCommand) Run(t *terminal) error {
	fmt.Fprintln(t.out, versionLine())
	return nil
}

func versionLine() string {
	return fmt.Sprintf("duet %s (%s, %s/%s)", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// versionFlag prints the version and exits, whatever else is on the command line.
type versionFlag bool

// BeforeReset is kong's hook for a flag that is present.
func (versionFlag) BeforeReset(app *kong.Kong) error {
	fmt.Fprintln(app.Stdout, versionLine())
	app.Exit(exitDone)
	return nil
}
