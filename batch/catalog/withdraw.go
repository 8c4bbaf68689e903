package catalog

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"duet/internal/base/durable"
)

// UnservableError reports that a generation is whole but cannot be served, because
// something else that serving it takes is missing or damaged: the archived rows
// after its cut. A generation that is damaged itself is a [*durable.DamageError].
type UnservableError struct {
	Number uint64
	Err    error // what is missing or damaged
}

// Error returns the number and the cause.
func (e *UnservableError) Error() string {
	return fmt.Sprintf("generation %d cannot be served: %v", e.Number, e.Err)
}

// Unwrap returns the cause.
func (e *UnservableError) Unwrap() error { return e.Err }

// NoneServableError reports that no generation can take the place of the newest one.
type NoneServableError struct {
	Withdrawn uint64  // the newest
	Causes    []error // why each earlier one cannot be served, newest first
}

// Error returns the number and the causes.
func (e *NoneServableError) Error() string {
	text := fmt.Sprintf("no generation before %d can be served: restore the data folder from a copy", e.Withdrawn)
	for _, cause := range e.Causes {
		text += "; " + cause.Error()
	}
	return text
}

// Unwrap returns the causes.
func (e *NoneServableError) Unwrap() []error { return e.Causes }

// A Withdrawal undoes the newest publication when no process serves: it publishes
// a generation with an earlier one's cells. As numbers only grow (H9), the
// withdrawn number is not used again, and the new generation says which it is.
type Withdrawal struct {
	Withdrawn uint64      // the newest number
	Cause     error       // why it cannot be served; nil if nothing is wrong with it
	To        *Generation // the one whose cells the new generation has
	Number    uint64      // of the new generation

	catalog *Catalog
	kept    []uint64
}

// PlanWithdrawal finds the newest generation before the last one that verifies and
// for which servable returns nil. It changes nothing. No other process may use the
// folder.
func PlanWithdrawal(cfg Config, servable func(*Generation) error) (*Withdrawal, error) {
	c, err := prepare(cfg)
	if err != nil {
		return nil, err
	}
	numbers, floor, err := c.series.Existing()
	if err != nil {
		return nil, fmt.Errorf("generations: %w", err)
	}
	w := &Withdrawal{catalog: c, Withdrawn: floor}
	if len(numbers) > 0 {
		w.Withdrawn = max(floor, numbers[len(numbers)-1])
	}
	if w.Withdrawn == 0 {
		return nil, errors.New("no generation is published, so there is none to withdraw")
	}
	w.Number = w.Withdrawn + 1
	serves := func(g *Generation, err error) error {
		if err == nil {
			err = c.Verify(g)
		}
		if err == nil {
			err = servable(g)
		}
		return err
	}
	newest, err := c.Get(w.Withdrawn)
	var gone *NotKeptError
	if errors.As(err, &gone) {
		err = &durable.DamageError{Path: c.series.Path(w.Withdrawn), Reason: "the file is missing, but floor.json beside it says that it was published"}
	}
	w.Cause = serves(newest, err)
	withdrawn := map[uint64]bool{w.Withdrawn: true}
	var causes []error
	for _, n := range slices.Backward(numbers) {
		if withdrawn[n] {
			if g, err := c.Get(n); err == nil && g.Withdrawn != 0 {
				withdrawn[g.Withdrawn] = true
			}
			continue
		}
		g, err := c.Get(n)
		if err == nil && g.Withdrawn != 0 {
			withdrawn[g.Withdrawn] = true
		}
		// What it keeps, the new one keeps; a generation that cannot be read is not kept.
		if err == nil {
			w.kept = append(w.kept, n)
		}
		if w.To != nil {
			continue
		}
		if err = serves(g, err); err != nil {
			causes = append(causes, err)
			continue
		}
		w.To = g
	}
	if w.To == nil {
		return nil, &NoneServableError{Withdrawn: w.Withdrawn, Causes: causes}
	}
	slices.Sort(w.kept)
	return w, nil
}

// Publish publishes the new generation and returns it. run names the record that
// the caller keeps of the withdrawal.
func (w *Withdrawal) Publish(_ context.Context, run, reason string) (*Generation, error) {
	c := w.catalog
	g := *w.To
	g.Number, g.Kind, g.Base, g.Of, g.Withdrawn = w.Number, WithdrawalKind, w.Withdrawn, w.To.Number, w.Withdrawn
	g.Reason, g.Run, g.Writer, g.Published = reason, run, c.writer, c.cfg.Now().UTC()
	g.Kept = append(slices.Clone(w.kept), w.Number)
	if err := g.check(g.Number); err != nil {
		return nil, fmt.Errorf("generation %d: %w", g.Number, err)
	}
	if err := c.series.Publish(g.Number, &g); err != nil {
		return nil, fmt.Errorf("generation %d: %w", g.Number, err)
	}
	return &g, nil
}
