package main

import (
	"context"
	"fmt"

	"duet/internal/node"
)

type batchUnpublishCommand struct {
	Data   string `help:"Data folder of the stopped server." type:"existingdir" default:"duet-data" placeholder:"DIR"`
	Reason string `help:"Why, for the record." default:"by duet batch unpublish" placeholder:"TEXT"`
	Yes    bool   `help:"Do not ask."`
}

// Help says when to use the command.
func (*batchUnpublishCommand) Help() string {
	return "For a data folder whose server does not start because the newest generation is damaged or cannot be served. " +
		"It publishes the numbers of the newest earlier generation that can be served, under a new number; later events are counted by the live half. " +
		"It needs no server, and refuses if one is running: use duet batch rollback for that."
}

// Run shows what it would do, asks, and does it.
func (b *batchUnpublishCommand) Run(ctx context.Context, t *terminal) error {
	u, err := node.PlanUnpublish(ctx, b.Data)
	if err != nil {
		return no("%w", err)
	}
	defer u.Close()
	if u.Cause != nil {
		fmt.Fprintf(t.out, "generation %d: %s\n", u.Withdrawn, printable(u.Cause.Error()))
	} else {
		fmt.Fprintf(t.out, "generation %d has no damage: duet batch rollback, on the running server, undoes it as well\n", u.Withdrawn)
	}
	fmt.Fprintf(t.out, "generation %d would be withdrawn, and generation %d published: the numbers of generation %d, to %s. The schedule would be paused.\n",
		u.Withdrawn, u.Number, u.To.Number, u.To.Cut.Position())
	if !b.Yes && !confirmed(t, "Do that?") {
		return no("nothing was changed")
	}
	g, err := u.Execute(ctx, b.Reason)
	if err != nil {
		return err
	}
	fmt.Fprintf(t.out, "generation %d is withdrawn; the next start serves generation %d, with the numbers of generation %d. The schedule is paused: duet batch resume\n",
		u.Withdrawn, g.Number, u.To.Number)
	return nil
}
