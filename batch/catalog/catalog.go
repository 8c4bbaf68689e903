// Package catalog keeps the generations that the batch half has published. A
// generation holds the cells of every view at one cut. Start reading at [Catalog].
// The package must not know how cells are computed or when runs happen.
//
// # Files
//
//	generations/
//	  000000000042.json          a generation; the highest is current (durable.Series)
//	  floor.json                 shows that the newest was not lost (durable.Series)
//	  cells/revenue/5fk3...parquet   a view's cells; several generations may name one file
//	  pins/42                    generation 42 is kept until unpinned
//
// A generation is one sealed document (durable.Seal):
//
//	{"xxh3_128":"6c1f...","content":
//	{
//	  "format": 1,
//	  "number": 42, "kind": "incremental", "base": 41, "run": "k3vq...", "writer": "x2lq...",
//	  "published": "2026-01-01T00:01:00Z",
//	  "cut": [{"lane": 0, "incarnation": "ab12", "ordinal": 1, "sequence": 90}],
//	  "archive": 17,
//	  "kept": [40, 41, 42],
//	  "streams": {"orders": {"received": 12, "accepted": 10, "duplicate": 1, "rejected": 1, "sums": {"price": "99.50"}}},
//	  "views": [{"name": "revenue", "definition": "9f...", "file": "cells/revenue/5fk3...parquet",
//	             "rows": 3, "bytes": 411, "xxh3_128": "09ab...", "keys": ["k0"], "cells": ["c0"]},
//	            {"name": "risky", "definition": "77...", "suspended": {"view": "risky", "at": "1:33", "record": 4, "message": "...", "remedy": "..."}}]
//	}
//	}
//
// # Guarantees
//
// Numbers only grow, and publishing one is exclusive: the second of two runners
// gets an *archive.FencedError (H10). The highest generation must verify, or
// opening fails and names the file; an older one never takes its place (H6). A
// rollback is a new number with the old one's files (H9). So is a [Withdrawal],
// which an operator publishes when the highest generation cannot be served:
//
//	"number": 43, "kind": "withdrawal", "base": 42, "of": 41, "withdrawn": 42, "reason": "...", ...
//
// A view that the live half cannot hold is published suspended, but with its file
// ("unfit": true), from which the next run continues.
//
// Cleaning follows the archive's rule: list, publish a number, delete only what
// was listed. Each generation names those that are kept when it is published; a
// rollback may only go to one of them. So no file is deleted that a concurrent
// publisher brought in, or that a generation still names.
package catalog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"duet/batch/archive"
	"duet/batch/recompute"
	"duet/internal/base/durable"
	"duet/internal/base/failpoint"
	"duet/schemas"
)

// Format is the version of a generation's format.
const Format = 1

// The failpoints of publishing and cleaning; durable's own lie between.
var (
	fpCells     = failpoint.New("generation.cells")     // a cell file durable, named by no generation
	fpPublish   = failpoint.New("generation.publish")   // all cell files durable
	fpPublished = failpoint.New("generation.published") // the generation durable
	fpCleaning  = failpoint.New("generation.cleaning")  // before the first deletion
)

// Kind says how a generation was made.
type Kind string

// The kinds of a generation.
const (
	Full        Kind = "full"
	Incremental Kind = "incremental"
	Rollback    Kind = "rollback"
	// WithdrawalKind is an earlier generation's cells after the newest one was
	// withdrawn by hand.
	WithdrawalKind Kind = "withdrawal"
)

// Generation is one published result of the batch half. Immutable.
type Generation struct {
	Format    int                       `json:"format"`
	Number    uint64                    `json:"number"` // from 1
	Kind      Kind                      `json:"kind"`
	Base      uint64                    `json:"base"`                // the number before; 0 for the first
	Of        uint64                    `json:"of,omitempty"`        // rollback, withdrawal: the generation whose cells these are
	Withdrawn uint64                    `json:"withdrawn,omitempty"` // withdrawal: the number that was withdrawn
	Reason    string                    `json:"reason,omitempty"`    // rollback, withdrawal: the operator's
	Run       string                    `json:"run"`                 // the run's id, also of its report
	Writer    string                    `json:"writer"`              // drawn by the process that published it
	Published time.Time                 `json:"published"`           // UTC, by that process's clock
	Cut       schemas.Cut               `json:"cut"`                 // the cells cover everything at or before it
	Archive   uint64                    `json:"archive"`             // number of the archive manifest that was read
	Kept      []uint64                  `json:"kept"`                // the numbers that are kept, including this one
	Streams   map[string]archive.Totals `json:"streams"`             // control totals up to the cut
	Views     []View                    `json:"views"`               // by name
}

// View is a view's cells in a generation.
type View struct {
	Name       string   `json:"name"`
	Definition string   `json:"definition"` // the view version
	Keys       []string `json:"keys"`       // columns k0.. of the file
	Cells      []string `json:"cells"`      // columns c0.. of the file
	// Suspended says why the view is not served; nil if it is. A suspended view
	// has a file only if it is unfit: the next run continues from it.
	Suspended *recompute.Suspension `json:"suspended,omitempty"`
	File      string                `json:"file,omitempty"` // below the catalog's folder, slash-separated
	Rows      int64                 `json:"rows"`
	durable.Sum
}

// Fresh returns v as a later generation takes it over: one that was unfit is to
// be staged again.
func (v View) Fresh() View {
	if v.Suspended != nil && v.Suspended.Unfit {
		v.Suspended = nil
	}
	return v
}

// View returns the view of that name; nil if the generation has none.
func (g *Generation) View(name string) *View {
	for i := range g.Views {
		if g.Views[i].Name == name {
			return &g.Views[i]
		}
	}
	return nil
}

// check returns an error if a generation contradicts itself.
func (g *Generation) check(number uint64) error {
	if g.Format != Format {
		return fmt.Errorf("format %d, this version reads %d: use the version of duet that wrote it", g.Format, Format)
	}
	if g.Number != number || g.Base >= number {
		return fmt.Errorf("it has number %d and base %d", g.Number, g.Base)
	}
	for _, v := range g.Views {
		if (v.Suspended == nil || v.Suspended.Unfit) == (v.File == "") || v.File != "" && !filepath.IsLocal(filepath.FromSlash(v.File)) {
			return fmt.Errorf("view %s: file %q, suspended %t", v.Name, v.File, v.Suspended != nil)
		}
	}
	if !slices.Contains(g.Kept, number) {
		return errors.New("kept does not list its own number")
	}
	return nil
}

// Keep says how many generations are kept: the last ones, and the last of each day
// (UTC) and month, as many as given. The current one is always kept.
type Keep struct{ Last, Daily, Monthly int }

// Config configures a [Catalog]. Dir is required.
type Config struct {
	Dir   string           // created if missing
	Files *durable.Files   // defaults to durable.OS
	Now   func() time.Time // defaults to time.Now
	Keep  Keep             // Last defaults to 24
}

// Catalog is an open catalog. It is safe for concurrent use.
type Catalog struct {
	cfg    Config
	files  *durable.Files
	series *durable.Series
	writer string

	publishing sync.Mutex // held while a number is published or files are deleted

	mu      sync.Mutex  // guards what follows
	current *Generation // nil before the first
	fenced  *archive.FencedError
	orphans []string // listed before this process published current; else nil
}

// Open opens the catalog. The highest generation must verify, and its files exist
// with their sizes and checksums; otherwise Open returns a [*durable.DamageError].
// An older generation never takes its place (H6).
func Open(cfg Config) (*Catalog, error) {
	c, err := prepare(cfg)
	if err != nil {
		return nil, err
	}
	latest, err := c.series.Latest()
	if err != nil {
		return nil, fmt.Errorf("generations: %w", err)
	}
	if latest == 0 {
		return c, nil
	}
	if c.current, err = c.Get(latest); err != nil {
		return nil, err
	}
	return c, c.Verify(c.current)
}

// prepare opens the folder without looking at a generation.
func prepare(cfg Config) (*Catalog, error) {
	if cfg.Files == nil {
		cfg.Files = durable.OS
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	cfg.Keep.Last = max(cfg.Keep.Last, 0)
	if cfg.Keep == (Keep{}) {
		cfg.Keep.Last = 24
	}
	c := &Catalog{cfg: cfg, files: cfg.Files, writer: durable.Name()}
	var err error
	if c.series, err = durable.NewSeries(c.files, cfg.Dir); err != nil {
		return nil, fmt.Errorf("generations: %w", err)
	}
	for _, dir := range []string{"cells", "pins"} {
		if err := c.files.MkdirAll(filepath.Join(cfg.Dir, dir)); err != nil {
			return nil, fmt.Errorf("generations: %w", err)
		}
	}
	for _, err := range []error{c.series.RemoveTemps(), c.files.RemoveTemps(filepath.Join(cfg.Dir, "pins"), "")} {
		if err != nil {
			return nil, fmt.Errorf("generations: %w", err)
		}
	}
	return c, nil
}

// Dir returns the catalog's folder.
func (c *Catalog) Dir() string { return c.cfg.Dir }

// Path returns the path of a view's file.
func (c *Catalog) Path(v View) string { return filepath.Join(c.cfg.Dir, filepath.FromSlash(v.File)) }

// Current returns the newest generation; nil before the first.
func (c *Catalog) Current() *Generation {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.current
}

// Get reads a generation. It returns a [*NotKeptError] if the generation does not
// exist any more.
func (c *Catalog) Get(number uint64) (*Generation, error) {
	if _, err := os.Stat(c.series.Path(number)); errors.Is(err, fs.ErrNotExist) {
		return nil, &NotKeptError{number}
	}
	g := new(Generation)
	if err := c.series.Read(number, g); err != nil {
		return nil, fmt.Errorf("generation %d: %w", number, err)
	}
	if err := g.check(number); err != nil {
		return nil, fmt.Errorf("generation %d: %w", number, &durable.DamageError{Path: c.series.Path(number), Reason: err.Error()})
	}
	return g, nil
}

// NotKeptError reports that a generation does not exist, or not any more.
type NotKeptError struct{ Number uint64 }

// Error returns the number.
func (e *NotKeptError) Error() string {
	return fmt.Sprintf("generation %d is not kept: duet batch list shows those that are", e.Number)
}

// List reads all kept generations, oldest first.
func (c *Catalog) List() ([]*Generation, error) {
	cur := c.Current()
	if cur == nil {
		return nil, nil
	}
	var out []*Generation
	for _, n := range cur.Kept {
		g, err := c.Get(n)
		if err != nil {
			return nil, err
		}
		out = append(out, g)
	}
	return out, nil
}

// Verify reads every file of a generation and compares sizes and checksums.
func (c *Catalog) Verify(g *Generation) error {
	for _, v := range g.Views {
		if v.File == "" {
			continue
		}
		reason := ""
		sum, err := durable.SumFile(c.Path(v))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			reason = "the file is missing"
		case err != nil:
			reason = "it cannot be read: " + err.Error()
		case sum != v.Sum:
			reason = fmt.Sprintf("it has %d bytes with checksum %s, the generation says %d with %s", sum.Bytes, sum.XXH3, v.Bytes, v.XXH3)
		default:
			continue
		}
		return fmt.Errorf("generation %d: %w", g.Number, &durable.DamageError{Path: c.Path(v), Reason: fmt.Sprintf(
			"%s; it holds %d groups of view %s at cut %s; restore it from a copy",
			reason, v.Rows, v.Name, g.Cut)})
	}
	return nil
}

// Draft is a generation to be published, with its new cell files.
type Draft struct {
	Generation
	// New has, by view name, the path of the complete file that becomes the
	// view's; a view that is not in it names a file of another kept generation.
	New map[string]string
}

// Publish brings in the draft's new files and publishes it as the number after its
// Base, which must be current. It fills in Number, Writer, Published, Kept, and
// each new file's name, size and checksum. It returns an *archive.FencedError if
// another process published first (H10).
func (c *Catalog) Publish(ctx context.Context, d Draft) (*Generation, error) {
	c.publishing.Lock()
	defer c.publishing.Unlock()
	if err := c.refresh(); err != nil {
		return nil, err
	}
	orphans, err := c.listOrphans()
	if err != nil {
		return nil, err
	}
	g := d.Generation
	g.Format, g.Writer, g.Published = Format, c.writer, c.cfg.Now().UTC()
	base := uint64(0)
	if cur := c.Current(); cur != nil {
		base = cur.Number
	}
	if g.Base != base {
		return nil, fmt.Errorf("generations: a run based on generation %d, but %d is current", g.Base, base)
	}
	g.Number = base + 1
	if g.Kept, err = c.kept(g.Number, g.Published); err != nil {
		return nil, err
	}
	if err := c.adopt(ctx, &g, d.New); err != nil {
		return nil, err
	}
	slices.SortFunc(g.Views, func(a, b View) int { return cmp.Compare(a.Name, b.Name) })
	if err := g.check(g.Number); err != nil {
		return nil, fmt.Errorf("generations: refused to publish %d: %w", g.Number, err)
	}
	if err := fpPublish.Hit(); err != nil {
		return nil, err
	}
	if err := c.series.Publish(g.Number, &g); errors.Is(err, durable.ErrExists) {
		return nil, c.fence(g.Number)
	} else if err != nil {
		held, herr := c.series.Holds(g.Number, &g)
		if herr != nil || !held {
			return nil, errors.Join(fmt.Errorf("generation %d: %w", g.Number, err), herr)
		}
	}
	c.mu.Lock()
	c.current, c.orphans = &g, orphans
	c.mu.Unlock()
	return &g, fpPublished.Hit()
}

// adopt brings new cell files in under names of their own.
func (c *Catalog) adopt(ctx context.Context, g *Generation, files map[string]string) error {
	for i := range g.Views {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		v := &g.Views[i]
		tmp, ok := files[v.Name]
		if !ok {
			continue
		}
		v.File = "cells/" + v.Name + "/" + durable.Name() + ".parquet"
		if err := c.files.MkdirAll(filepath.Dir(c.Path(*v))); err != nil {
			return fmt.Errorf("generation %d: %w", g.Number, err)
		}
		sum, err := c.files.Adopt(tmp, c.Path(*v))
		if err == nil && v.Sum != (durable.Sum{}) && v.Sum != sum {
			err = &durable.DamageError{Path: tmp, Reason: fmt.Sprintf("it has %d bytes with checksum %s; %d with %s were written", sum.Bytes, sum.XXH3, v.Bytes, v.XXH3)}
		}
		if err == nil {
			err = fpCells.Hit()
		}
		if err != nil {
			return fmt.Errorf("generation %d: view %s: %w", g.Number, v.Name, err)
		}
		v.Sum = sum
	}
	return nil
}

// refresh compares memory with the disk: it finds a generation that this process
// published without learning so, and returns a [*archive.FencedError] if another
// process has published.
func (c *Catalog) refresh() error {
	c.mu.Lock()
	cur, fenced := c.current, c.fenced
	c.mu.Unlock()
	if fenced != nil {
		return fenced
	}
	have := uint64(0)
	if cur != nil {
		have = cur.Number
	}
	latest, err := c.series.Latest()
	if err != nil {
		return fmt.Errorf("generations: %w", err)
	}
	if latest == have {
		return nil
	}
	g, err := c.Get(latest)
	if err != nil {
		return err
	}
	if g.Writer != c.writer || latest < have {
		return c.fence(latest)
	}
	held, err := c.series.Holds(latest, g) // makes it durable
	if err != nil || !held {
		return errors.Join(fmt.Errorf("generation %d is not durable yet", latest), err)
	}
	c.mu.Lock()
	c.current, c.orphans = g, nil
	c.mu.Unlock()
	return nil
}

// Published reports whether this process published g.
func (c *Catalog) Published(g *Generation) bool { return g.Writer == c.writer }

// Refresh looks for a generation whose Publish returned an error but reached the
// disk, and returns the current generation. It returns a [*archive.FencedError] if
// another process has published.
func (c *Catalog) Refresh() (*Generation, error) {
	c.publishing.Lock()
	defer c.publishing.Unlock()
	if err := c.refresh(); err != nil {
		return nil, err
	}
	return c.Current(), nil
}

func (c *Catalog) fence(number uint64) error {
	f := &archive.FencedError{What: "generation", Number: number}
	if g, err := c.Get(number); err == nil {
		f.Writer = g.Writer
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fenced = f
	return f
}

// Pin keeps a generation until it is unpinned. Pinning twice is fine.
func (c *Catalog) Pin(number uint64) error {
	c.publishing.Lock()
	defer c.publishing.Unlock()
	if cur := c.Current(); cur == nil || !slices.Contains(cur.Kept, number) {
		return &NotKeptError{number}
	}
	err := c.files.Publish(c.pin(number), []byte(c.cfg.Now().UTC().Format(time.RFC3339)+"\n"))
	if errors.Is(err, durable.ErrExists) {
		return nil
	}
	return err
}

// Unpin leaves a generation to the keep policy again. Unpinning one that is not
// pinned is fine.
func (c *Catalog) Unpin(number uint64) error {
	c.publishing.Lock()
	defer c.publishing.Unlock()
	return c.files.Remove(c.pin(number))
}

// Pinned returns the pinned numbers, ascending.
func (c *Catalog) Pinned() ([]uint64, error) {
	entries, err := os.ReadDir(filepath.Join(c.cfg.Dir, "pins"))
	if err != nil {
		return nil, err
	}
	var out []uint64
	for _, e := range entries {
		if n, err := strconv.ParseUint(e.Name(), 10, 64); err == nil {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out, nil
}

func (c *Catalog) pin(number uint64) string {
	return filepath.Join(c.cfg.Dir, "pins", strconv.FormatUint(number, 10))
}

// rel returns a file's path below Dir, slash-separated.
func (c *Catalog) rel(path string) string {
	return filepath.ToSlash(strings.TrimPrefix(path, c.cfg.Dir+string(filepath.Separator)))
}
