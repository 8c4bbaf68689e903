// Command bench measures Duet against limits measured in the same run, and
// prints one tab-separated line per figure:
//
//	name  ours  unit  limit-or-rival  ratio  target  ok|short
//
// Targets are ratios, because the machine's speed cancels out of them. Flags
// choose figures and sizes; make bench runs all of them.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// A figure is one measurement; run prints its lines.
type figure struct {
	name string
	run  func(*bench) error
}

var figures = []figure{
	{"ingest", (*bench).ingest},
	{"recompute", (*bench).recompute},
	{"query", (*bench).query},
	{"visible", (*bench).visible},
	{"recovery", (*bench).recovery},
	{"memory", (*bench).memory},
	{"switch", (*bench).switchPause},
}

// bench holds what the figures share.
type bench struct {
	dir    string // scratch, deleted at the end
	binary string
	events int // of the ingest figure
	rows   int // of the recompute figure
	groups int // of the memory and switch figures
}

func main() {
	b := &bench{}
	only := flag.String("only", "", "figures to run, joined by commas; all if empty")
	flag.IntVar(&b.events, "events", 2_000_000, "events of the ingest figure")
	flag.IntVar(&b.rows, "rows", 20_000_000, "archived rows of the recompute figure")
	flag.IntVar(&b.groups, "groups", 1_000_000, "groups of the memory and switch figures")
	flag.StringVar(&b.binary, "duet", "bin/duet", "the binary to measure")
	flag.Parse()
	if err := b.main(*only); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func (b *bench) main(only string) (err error) {
	if b.binary, err = exec.LookPath(b.binary); err != nil {
		return fmt.Errorf("%w; make build writes it", err)
	}
	if b.binary, err = filepath.Abs(b.binary); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp("", "duet-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	fmt.Println("name\tours\tunit\tlimit-or-rival\tratio\ttarget\tverdict")
	for _, f := range figures {
		if only != "" && !strings.Contains(","+only+",", ","+f.name+",") {
			continue
		}
		began := time.Now()
		if err := f.run(b); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		fmt.Fprintf(os.Stderr, "%s took %v\n", f.name, time.Since(began).Round(time.Second))
	}
	return nil
}

// bound is the target of a figure.
type bound struct {
	atLeast, atMost float64 // one of them; 0 is none
}

// report prints a figure's line. value is compared with the target: the ratio of
// ours to rival, or ours itself.
func report(name string, ours float64, unit string, rival, value float64, t bound) {
	target, verdict := "-", "-"
	switch {
	case t.atLeast > 0:
		target = fmt.Sprintf(">= %g", t.atLeast)
		verdict = "short"
		if value >= t.atLeast {
			verdict = "ok"
		}
	case t.atMost > 0:
		target = fmt.Sprintf("<= %g", t.atMost)
		verdict = "short"
		if value <= t.atMost {
			verdict = "ok"
		}
	}
	limit, ratio := "-", "-"
	if rival > 0 {
		limit, ratio = number(rival), fmt.Sprintf("%.2f", ours/rival)
	}
	fmt.Printf("%s\t%s\t%s\t%s\t%s\t%s\t%s\n", name, number(ours), unit, limit, ratio, target, verdict)
}

func number(v float64) string {
	switch {
	case v >= 1000:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

// within runs f with a time limit, so that a figure that hangs fails.
func within(d time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	return f(ctx)
}
