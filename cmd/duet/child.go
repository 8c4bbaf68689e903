package main

import (
	"fmt"

	"duet/batch/recompute"
)

type batchChildCommand struct {
	Job string `arg:"" help:"File that describes the job."`
}

// Run does the job. The parent reads progress from stdout and ends the child by
// closing its stdin.
func (b *batchChildCommand) Run(t *terminal) error {
	if code := recompute.Main(b.Job, t.in, t.out); code != 0 {
		// What went wrong has been written for the parent.
		return &exitError{code, fmt.Errorf("")}
	}
	return nil
}
