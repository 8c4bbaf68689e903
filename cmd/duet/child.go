package main

import (
	"fmt"

	"duet/batch/recompute"
)

type batchChildCommand struct {
	Job string `arg:"" help:"Job file."`
}

// Run computes the job. The parent reads progress from stdout and stops the
// child by closing its stdin.
func (b *batchChildCommand) Run(t *terminal) error {
	if code := recompute.Main(b.Job, t.in, t.out); code != 0 {
		// The child has already reported the error to its parent.
		return &exitError{code, fmt.Errorf("")}
	}
	return nil
}
