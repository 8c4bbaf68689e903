package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"duet/batch"
	"duet/batch/archive"
	"duet/batch/catalog"
	"duet/internal/base/durable"
	"duet/speed/eventlog"
)

// Unpublish is a planned withdrawal of the newest generation of a data folder that
// no server uses. It holds the folder's lock until Close.
type Unpublish struct {
	*catalog.Withdrawal
	data *dataDir
}

// PlanUnpublish locks a data folder and finds the generation that the next start
// could serve in place of the newest one. It publishes nothing.
func PlanUnpublish(ctx context.Context, data string) (_ *Unpublish, err error) {
	if _, err := os.Stat(filepath.Join(data, "FORMAT")); err != nil {
		return nil, fmt.Errorf("%s is not a data folder of Duet: give the folder of duet up with --data: %w", data, err)
	}
	d, err := openData(data)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	inc, err := eventlog.IncarnationOf(d.sub("log"))
	if err != nil {
		return nil, err
	}
	a, err := archive.Open(ctx, archive.Config{Dir: d.sub("archive"), Incarnation: inc})
	if err != nil {
		return nil, fmt.Errorf("the archive cannot be opened, so no generation can be served: %w", err)
	}
	defer a.Close()
	w, err := planWithdrawal(ctx, d, a)
	if err != nil {
		return nil, err
	}
	return &Unpublish{w, d}, nil
}

func planWithdrawal(ctx context.Context, d *dataDir, a *archive.Archive) (*catalog.Withdrawal, error) {
	return catalog.PlanWithdrawal(catalog.Config{Dir: d.sub("generations")}, func(g *catalog.Generation) error { return servable(ctx, a, g) })
}

// servable returns an *UnservableError if an archived row after a generation's cut
// is missing or damaged.
func servable(ctx context.Context, a *archive.Archive, g *catalog.Generation) error {
	for {
		err := verifyAfter(ctx, a, g)
		if errors.Is(err, archive.ErrRepaired) {
			continue
		}
		if err != nil && ctx.Err() == nil {
			return &catalog.UnservableError{Number: g.Number, Err: err}
		}
		return err
	}
}

// verifyAfter verifies the archived rows of streams after a generation's cut.
func verifyAfter(ctx context.Context, a *archive.Archive, g *catalog.Generation) error {
	snap := a.Snapshot()
	defer snap.Release()
	cut, through := g.Cut.Position(), snap.Through.Position()
	if cut > through {
		return fmt.Errorf("its cut is %s, but the archive ends at %s: restore the data folder from a copy (H6)", cut, through)
	}
	var files []archive.File
	for _, f := range snap.Files {
		if f.Through > cut && f.Data != archive.Rejects && f.Data != archive.Lines {
			files = append(files, f)
		}
	}
	return a.Verify(ctx, files)
}

// Execute withdraws the generation and pauses the schedule. It returns the
// generation that the next start serves.
func (u *Unpublish) Execute(ctx context.Context, reason string) (*catalog.Generation, error) {
	return batch.Withdraw(ctx, u.data.path, u.Withdrawal, reason, time.Now().UTC())
}

// Close unlocks the data folder.
func (u *Unpublish) Close() { u.data.close() }

// withRemedy names the command that withdraws the newest generation, if err says
// that the generation cannot be served and an earlier one can.
func (n *Node) withRemedy(ctx context.Context, err error) error {
	var unservable *catalog.UnservableError
	var damage *durable.DamageError
	if !errors.As(err, &unservable) && !(errors.As(err, &damage) && within(n.data.sub("generations"), damage.Path)) {
		return err
	}
	w, perr := planWithdrawal(ctx, n.data, n.lane.archive)
	var none *catalog.NoneServableError
	if errors.As(perr, &none) {
		return fmt.Errorf("%w; %w", err, perr)
	}
	if perr != nil { // what stops the start stops a withdrawal too
		return err
	}
	return fmt.Errorf("%w; or serve the numbers of generation %d again by withdrawing generation %d: duet batch unpublish --data %s", err, w.To.Number, w.Withdrawn, n.data.path)
}

// within reports whether path lies in a folder.
func within(dir, path string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel)
}
