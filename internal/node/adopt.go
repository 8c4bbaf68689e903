package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"

	"duet/batch/archive"
	"duet/internal/base/durable"
	"duet/schemas"
	"duet/schemas/project"
	"duet/speed/eventlog"
)

// adoptionsFile is adoptions.json, in the data folder and not in the log's: the
// logs that were begun in place of lost ones, the oldest first. Each proof names
// them, so the list must outlive the next log too.
type adoptionsFile struct {
	Format    int                `json:"format"`
	Adoptions []schemas.Adoption `json:"adoptions"`
}

// readAdoptions returns the list. It adds the log's own adoption if that is
// missing, because the command was interrupted; l may be nil.
func readAdoptions(d *dataDir, l *eventlog.Log) ([]schemas.Adoption, error) {
	path := d.sub("adoptions.json")
	f := adoptionsFile{Format: 1}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		if err := durable.ReadSealed(path, &f); err != nil {
			return nil, fmt.Errorf("the list of adopted logs: %w. Restore it from a copy", err)
		}
		if f.Format != 1 {
			return nil, fmt.Errorf("%s has format %d, this version of duet reads 1: use the version that wrote it", path, f.Format)
		}
	}
	if l == nil || l.Adoption() == nil {
		return f.Adoptions, nil
	}
	return keepAdoption(d, f.Adoptions, *l.Adoption())
}

// keepAdoption adds a to the list, unless the list ends with it.
func keepAdoption(d *dataDir, list []schemas.Adoption, a schemas.Adoption) ([]schemas.Adoption, error) {
	if n := len(list); n > 0 && list[n-1].ID == a.ID {
		return list, nil
	}
	list = append(list, a)
	sealed, err := durable.Seal(adoptionsFile{Format: 1, Adoptions: list})
	if err != nil {
		return nil, err
	}
	return list, durable.OS.WriteFile(d.sub("adoptions.json"), sealed)
}

// Adopting is what beginning a new log would mean.
type Adopting struct {
	Refusal error                      // why the log that is there cannot be opened or read
	Loss    eventlog.Loss              // what is given up
	Kept    map[string]schemas.Account // what the archive holds, by stream
	Files   int                        // of the archive
	Earlier []schemas.Adoption         // logs that were given up before
}

// ErrLogWhole is returned by Adopt for a log that Duet can use.
var ErrLogWhole = errors.New("the log is whole: there is nothing to adopt")

// Adopt begins a new log behind the end of the archive, in place of one that is
// lost, older, recreated or damaged. It asks confirm first, and changes nothing
// if that returns false. The lost log's files are kept beside the new ones.
//
// It needs the data folder for itself. Of cfg it uses Project, Data and Log.
func Adopt(ctx context.Context, cfg Config, confirm func(Adopting) (bool, error)) (adopted bool, err error) {
	p, faults := project.Load(cfg.Project)
	if faults.Fatal() {
		return false, faults
	}
	if _, err := os.Stat(filepath.Join(cfg.Data, "FORMAT")); err != nil {
		return false, fmt.Errorf("%s is not a data folder of Duet: %w. Name one with --data", cfg.Data, err)
	}
	d, err := openData(cfg.Data)
	if err != nil {
		return false, err
	}
	defer d.close()
	lc := eventlog.Config{Dir: d.sub("log"), Project: p.Name, MaxBytes: p.Limits.Log, Logger: cfg.Log, Existing: true}
	var plan Adopting
	if plan.Earlier, err = readAdoptions(d, nil); err != nil {
		return false, err
	}
	through, used, err := archived(ctx, d, &plan)
	if err != nil {
		return false, err
	}
	for _, a := range plan.Earlier {
		used = max(used, a.Ordinal)
	}
	plan.Refusal = readThrough(ctx, lc, through)
	var damaged *durable.DamageError
	switch err := plan.Refusal; {
	case err == nil:
		return false, ErrLogWhole
	case !errors.As(err, &damaged) && !errors.Is(err, eventlog.ErrMissing) && !errors.Is(err, eventlog.ErrRecreated) && !errors.Is(err, eventlog.ErrBehind) &&
		!errors.Is(err, eventlog.ErrDiffers) && !errors.Is(err, eventlog.ErrDamaged):
		return false, err // a fault that a new log would not mend
	}
	if plan.Loss, err = eventlog.Lost(lc, through.Position(), used); err != nil {
		return false, err
	}
	if ok, err := confirm(plan); err != nil || !ok {
		return false, err
	}
	a, err := eventlog.Renew(ctx, lc, plan.Loss)
	if err != nil {
		return false, err
	}
	_, err = keepAdoption(d, plan.Earlier, a)
	return err == nil, err
}

// archived returns the archive's end and the highest ordinal in it, and fills in
// what it holds.
func archived(ctx context.Context, d *dataDir, plan *Adopting) (through schemas.Cut, ordinal uint32, err error) {
	// Nothing is written, so any incarnation will do that is not in the archive.
	a, err := archive.Open(ctx, archive.Config{Dir: d.sub("archive"), Incarnation: schemas.Incarnation{Ordinal: math.MaxUint32}})
	if err != nil {
		return nil, 0, err
	}
	m := a.Current()
	plan.Kept, plan.Files = map[string]schemas.Account{}, len(m.Files)
	for name, s := range m.Streams {
		plan.Kept[name] = s.Account
	}
	for _, inc := range m.Incarnations {
		if inc.Ordinal != math.MaxUint32 {
			ordinal = max(ordinal, inc.Ordinal)
		}
	}
	return m.Through, ordinal, a.Close()
}

// readThrough opens the log as the server does, and reads all that is behind the
// archive.
func readThrough(ctx context.Context, cfg eventlog.Config, through schemas.Cut) (err error) {
	l, err := eventlog.Open(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	if err := l.CheckCut(through); err != nil {
		return err
	}
	r, err := l.Read(ctx, through.Position())
	if err != nil {
		return err
	}
	defer r.Close()
	for {
		if _, ok, err := r.TryNext(); err != nil || !ok {
			return err
		}
	}
}
