package main

import (
	"context"
	"fmt"
	"time"

	"duet/internal/client"
	"duet/schemas/duetv1"
)

type scrubCommand struct{}

// Run scrubs and prints the damage. It exits with exitNo if a damaged file could
// not be rebuilt.
func (*scrubCommand) Run(ctx context.Context, t *terminal) error {
	c, err := t.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	line := newStatusLine(t.err)
	scrub, err := c.Scrub(ctx, client.RetryPolicy{}, func(s *duetv1.Scrub) {
		line.show(fmt.Sprintf("scrub: %s files, %s of %s", count(s.GetFiles()), size(s.GetBytes()), size(s.GetTotalBytes())))
	})
	line.clear()
	if err != nil {
		return err
	}
	return printScrub(t, scrub)
}

// printScrub prints the result of a scrub.
func printScrub(t *terminal, s *duetv1.Scrub) error {
	took := s.GetEndTime().AsTime().Sub(s.GetStartTime().AsTime()).Round(time.Millisecond)
	fmt.Fprintf(t.out, "verified %s files, %s, in %s: %s\n", count(s.GetFiles()), size(s.GetBytes()), took, damageText(s))
	left := 0
	for _, d := range s.GetDamage() {
		if d.GetRepaired() {
			fmt.Fprintln(t.out, "damaged, and rebuilt: "+printable(d.GetPath()))
			continue
		}
		fmt.Fprintln(t.out, "damaged: "+printable(d.GetProblem()))
		left++
	}
	if left > 0 {
		return no("%d damaged files need a copy; restore them, then run duet scrub again", left)
	}
	return nil
}

// damageText counts the damage of a scrub: "no damage", "2 damaged, 1 rebuilt".
func damageText(s *duetv1.Scrub) string {
	rebuilt := 0
	for _, d := range s.GetDamage() {
		if d.GetRepaired() {
			rebuilt++
		}
	}
	switch n := len(s.GetDamage()); {
	case n == 0:
		return "no damage"
	case rebuilt == 0:
		return fmt.Sprintf("%d damaged", n)
	default:
		return fmt.Sprintf("%d damaged, %d of them rebuilt", n, rebuilt)
	}
}
