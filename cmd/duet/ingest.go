package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"duet/internal/client"
	"duet/schemas/duetv1"
	"duet/schemas/event"
	"duet/schemas/project"
	"duet/schemas/source"
)

type ingestCommand struct {
	Stream  string        `required:"" help:"Stream to append to." placeholder:"NAME"`
	Files   []string      `arg:"" name:"file" help:"CSV, NDJSON or Parquet, also .gz and .zst; - is stdin."`
	DryRun  bool          `help:"Send nothing; print typed rows and what would be rejected."`
	Rows    int           `help:"Number of rows to print with --dry-run." default:"10"`
	Format  string        `help:"csv, ndjson or parquet (default: by content and name)." enum:",csv,ndjson,parquet" default:"" placeholder:"FORMAT"`
	Project string        `help:"Project folder that defines the stream (default: ask the server). With --dry-run, no server is needed." type:"path" placeholder:"DIR"`
	Wait    time.Duration `help:"Give up after this time without progress." default:"1m"`
}

// Run ingests the files, or with --dry-run prints how they would be read. It
// exits with exitNo if anything was, or would be, rejected.
func (i *ingestCommand) Run(ctx context.Context, t *terminal) error {
	if i.DryRun && i.Project != "" {
		s, err := i.local()
		if err != nil {
			return err
		}
		return i.dryRun(t, s)
	}
	c, err := t.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	var s *project.Stream
	if i.Project != "" {
		s, err = i.local()
	} else {
		s, err = c.StreamDefinition(ctx, i.Stream, client.RetryPolicy{Limit: min(i.Wait, 5*time.Second)})
	}
	if err != nil {
		return err
	}
	if i.DryRun {
		return i.dryRun(t, s)
	}
	return i.send(ctx, t, c, s)
}

// local returns the stream as the project's folder defines it.
func (i *ingestCommand) local() (*project.Stream, error) {
	p, faults := project.Load(os.DirFS(i.Project))
	if p == nil {
		for n := range faults {
			faults[n].File = filepath.Join(i.Project, faults[n].File)
		}
		return nil, no("%v", faults)
	}
	s := p.Stream(i.Stream)
	if s == nil {
		var names []string
		for _, s := range p.Streams {
			names = append(names, s.Name)
		}
		return nil, client.UnknownStream(i.Stream, names)
	}
	return s, nil
}

// send ingests the files and prints the account. It returns errNo if events were
// rejected.
func (i *ingestCommand) send(ctx context.Context, t *terminal, c *client.Client, s *project.Stream) error {
	line := newStatusLine(t.err)
	began := time.Now()
	done, err := c.IngestFiles(ctx, client.IngestConfig{
		Stream: s, Files: i.Files, Stdin: t.in, Format: source.Format(i.Format), Retry: client.RetryPolicy{Limit: i.Wait},
		Progress: func(p client.IngestProgress) { line.show(ingestLine(p, time.Since(began))) },
		Waiting: func(err error) {
			_, why := explain(err, t.addr)
			line.show("waiting: " + why)
		},
		Note: func(note string) { fmt.Fprintln(t.err, "note: "+printable(note)) },
	})
	line.clear()
	if err != nil {
		if done != nil && done.Lines > 0 {
			fmt.Fprintf(t.err, "stopped after %s acknowledged lines; run the command again to continue: no line counts twice\n", count(done.Acked))
		}
		return fileError(err)
	}
	rate := int64(float64(done.Lines) / max(done.Elapsed.Seconds(), 0.001))
	fmt.Fprintf(t.err, "%s in %s, %s/s\n", plural(done.Lines, "line"), short(done.Elapsed), count(rate))
	if done.Partial {
		fmt.Fprintf(t.err, "all %s lines are in the log, but the server restarted meanwhile: the account counts only what came after\n", count(done.Lines))
	}
	a := done.Account
	fmt.Fprintf(t.out, "received %s, accepted %s, duplicate %s, rejected %s\n", count(a.Received), count(a.Accepted), count(a.Duplicate), count(a.Rejected))
	if again := a.Received - done.Lines; again > 0 {
		fmt.Fprintf(t.err, "received includes %s lines that were resent after the connection broke; each line counts once\n", count(again))
	}
	if a.Rejected == 0 {
		return nil
	}
	// What was ingested is done: without its counts, the account still stands.
	reasons, err := c.Operate.ListRejects(ctx, &duetv1.ListRejectsRequest{Session: done.Session, Limit: 1, ByReason: true})
	if err == nil {
		err = printReasons(&terminal{out: t.err, width: t.width}, formatTable, reasons.GetReasons())
	}
	if err != nil {
		fmt.Fprintf(t.err, "the reasons cannot be listed now: %v\n", err)
	}
	fmt.Fprintf(t.err, "list them with duet rejects --session %s\n", done.Session)
	return errNo
}

// ingestLine returns one line of progress.
func ingestLine(p client.IngestProgress, elapsed time.Duration) string {
	rate := int64(float64(p.Lines) / max(elapsed.Seconds(), 0.001))
	if p.Done < 0 {
		return fmt.Sprintf("%s  %s lines, %s/s", filepath.Base(p.File), count(p.Lines), count(rate))
	}
	const width = 24
	full := int(p.Done * width)
	bar := strings.Repeat("█", full) + strings.Repeat("░", width-full)
	return fmt.Sprintf("%s  %s %3.0f %%  %s lines, %s/s", filepath.Base(p.File), bar, p.Done*100, count(p.Lines), count(rate))
}

// fileError returns err with the exit code of its kind: exitUsage for a file that
// cannot be opened, exitNo for one that cannot be read.
func fileError(err error) error {
	var fault project.Fault
	var faults project.Faults
	var refused *client.AllRejectedError
	var file *client.FileError
	switch {
	case errors.As(err, &refused):
		return no("%w", err)
	case errors.As(err, &fault), errors.As(err, &faults):
		return no("%w", err)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
		return usageError("%w", err)
	case errors.As(err, &file):
		return no("%w", err)
	}
	return err
}

// dryRun decodes the files without sending them.
func (i *ingestCommand) dryRun(t *terminal, s *project.Stream) error {
	decoder, now := event.NewDecoder(event.NewSchema(s)), time.Now()
	right := make([]bool, len(decoder.Columns()))
	for n := range s.Columns {
		right[n] = s.Columns[n].Type.Numeric()
	}
	rejected := false
	for _, name := range i.Files {
		counts, err := i.dryRunFile(t, s, decoder, now, name, right)
		if err != nil {
			return fileError(err)
		}
		rejected = rejected || counts.rejected > 0
		fmt.Fprintf(t.out, "%s: %s, %s accepted, %s rejected; nothing was sent\n", name, plural(counts.typed+counts.rejected, "line"), count(counts.typed), count(counts.rejected))
	}
	if rejected {
		return errNo
	}
	return nil
}

type dryRunCounts struct{ typed, rejected int64 }

// maxShownRejects bounds the rejects that a dry run prints for each file.
const maxShownRejects = 20

func (i *ingestCommand) dryRunFile(t *terminal, s *project.Stream, decoder *event.Decoder, now time.Time, name string, right []bool) (counts dryRunCounts, err error) {
	in := t.in
	if name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return counts, err
		}
		defer file.Close()
		if info, err := file.Stat(); err == nil && info.IsDir() {
			return counts, usageError("%s is a folder; name the files in it", name)
		}
		in = file
	}
	reader, err := client.OpenSource(in, s, source.Options{Name: name, Format: source.Format(i.Format)})
	if err != nil {
		return counts, err
	}
	defer reader.Close()
	for _, note := range reader.Notes() {
		fmt.Fprintf(t.err, "note: %s: %s\n", name, printable(note))
	}
	var rows [][]string
	for {
		record, err := reader.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return counts, &client.FileError{Err: err}
		}
		values, reject := decoder.Decode(record.JSON, now)
		if reject != nil {
			if counts.rejected++; counts.rejected <= maxShownRejects {
				fmt.Fprintf(t.err, "%s:%d: %s\n", name, record.Line, printable(reject.Reason))
			}
			continue
		}
		if counts.typed++; len(rows) < i.Rows {
			rows = append(rows, values)
		}
	}
	if counts.rejected > maxShownRejects {
		fmt.Fprintf(t.err, "and %s more\n", count(counts.rejected-maxShownRejects))
	}
	header := decoder.Columns()
	for n, column := range s.Columns {
		header[n] += " " + column.Type.SQL()
	}
	// The last column holds members of the record that no column declares.
	last := len(header) - 1
	header[last] = "undeclared"
	if !slices.ContainsFunc(rows, func(row []string) bool { return row[last] != "NULL" }) {
		header = header[:last]
		for n := range rows {
			rows[n] = rows[n][:last]
		}
	}
	return counts, printGrid(t, header, right, rows)
}
