package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"duet/internal/node"
	"duet/schemas/duetv1"
	"duet/schemas/project"
)

type logCommand struct {
	Adopt logAdoptCommand `cmd:"" help:"Replace a log that is lost, older than the archive, recreated or damaged; shows what is lost, and asks first."`
}

type logAdoptCommand struct {
	Project string `help:"Project folder (default: the current folder, if it has a duet.yaml)." type:"path" placeholder:"DIR"`
	Data    string `help:"Data folder (default: ./duet-data). No server may be using it." type:"path" placeholder:"DIR"`
	Yes     bool   `help:"Do not ask."`
}

// Run exits with exitNo if nothing was changed.
func (c *logAdoptCommand) Run(ctx context.Context, t *terminal) error {
	up := upCommand{Project: c.Project, Data: c.Data}
	cfg, err := up.config(io.Discard)
	if err != nil {
		return err
	}
	adopted, err := node.Adopt(ctx, cfg, func(a node.Adopting) (bool, error) {
		printAdopting(t.out, a)
		return c.Yes || confirmed(t, "Give up what is lost and begin a new log?"), nil
	})
	var faults project.Faults
	switch {
	case errors.As(err, &faults):
		return no("the project has faults; nothing was changed:\n%w", faults)
	case err != nil:
		return no("%w", err)
	case !adopted:
		return no("nothing was changed")
	}
	fmt.Fprintln(t.out, "A new log was begun. Start the server: each proof now says what is lost. Then send again what its sources still have: what is archived is known by its id, line or number.")
	return nil
}

func printAdopting(w io.Writer, a node.Adopting) {
	l := a.Loss
	fmt.Fprintf(w, "The log cannot be used:\n  %v\n\n", a.Refusal)
	fmt.Fprintf(w, "Kept: the archive, %s files", count(int64(a.Files)))
	if l.Archived != 0 {
		fmt.Fprintf(w, ", through %s", l.Archived)
	}
	fmt.Fprintln(w)
	for _, stream := range slices.Sorted(maps.Keys(a.Kept)) {
		fmt.Fprintf(w, "  %s: %s events accepted\n", stream, count(a.Kept[stream].Accepted))
	}
	if l.Known > l.Archived {
		fmt.Fprintf(w, "Lost: what came after %s, at least through %s\n", l.Archived, l.Known)
	} else {
		fmt.Fprintf(w, "Lost: what came after %s; nothing of the log shows how much that is\n", l.Archived)
	}
	if l.Messages > 0 {
		fmt.Fprintf(w, "  %s messages of it can still be read, with %s events\n", count(l.Messages), count(l.Events))
	}
	if l.Store != "" {
		fmt.Fprintf(w, "  the old files are moved to %s\n", l.Store)
	}
	for _, e := range a.Earlier {
		fmt.Fprintf(w, "Lost before: %s\n", lostText(e.Continues.String(), e.GivenUp.String()))
	}
	fmt.Fprintf(w, "A new log, number %d, would begin behind the archive.\n", l.Ordinal)
}

// confirmed asks a question and returns whether the answer is yes.
func confirmed(t *terminal, question string) bool {
	fmt.Fprint(t.out, question+" [y/N] ")
	line, _ := bufio.NewReader(t.in).ReadString('\n') // no answer is no
	answer := strings.ToLower(strings.TrimSpace(line))
	return answer == "y" || answer == "yes"
}

// lossesText returns what adopted logs gave up, for one line; "" if none did.
func lossesText(list []*duetv1.Adoption) string {
	var parts []string
	for _, a := range list {
		text := func(p *duetv1.Position) string { return fmt.Sprintf("%d:%d", p.GetOrdinal(), p.GetSequence()) }
		parts = append(parts, lostText(text(a.GetContinues()), text(a.GetGivenUp())))
	}
	return strings.Join(parts, ", ")
}

func lostText(after, known string) string {
	if known == "0:0" {
		return "what came after " + after
	}
	return fmt.Sprintf("what came after %s, at least through %s", after, known)
}
