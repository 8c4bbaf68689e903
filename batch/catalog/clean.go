package catalog

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// kept applies the keep policy to what is kept now and the number that is about
// to be published at now: the last ones, the last of each day and month, pins.
// The generation before also stays: a reader may still hold it.
func (c *Catalog) kept(next uint64, now time.Time) ([]uint64, error) {
	keep := map[uint64]bool{next: true}
	pins, err := c.Pinned()
	if err != nil {
		return nil, err
	}
	list, err := c.List()
	if err != nil {
		// A damaged generation cannot be dated, so nothing goes until it is mended
		// or taken away: Clean says so. Publishing goes on.
		return append(slices.Clone(c.Current().Kept), next), nil
	}
	days, months := map[string]bool{}, map[string]bool{}
	once := func(seen map[string]bool, key string, limit int) bool {
		if seen[key] || len(seen) >= limit {
			return false
		}
		seen[key] = true
		return true
	}
	once(days, now.Format(time.DateOnly), c.cfg.Keep.Daily)
	once(months, now.Format("2006-01"), c.cfg.Keep.Monthly)
	for i := len(list) - 1; i >= 0; i-- {
		g := list[i]
		daily := once(days, g.Published.UTC().Format(time.DateOnly), c.cfg.Keep.Daily)
		monthly := once(months, g.Published.UTC().Format("2006-01"), c.cfg.Keep.Monthly)
		age := len(list) - i // 1 is the one before
		if age == 1 || age < c.cfg.Keep.Last || daily || monthly || slices.Contains(pins, g.Number) {
			keep[g.Number] = true
		}
	}
	return slices.Sorted(maps.Keys(keep)), nil
}

// unnamed lists, by path below Dir, the cell files that no kept generation
// names. They may be pending in another process. If a kept generation cannot be
// read, nobody knows what it names: then there are none.
func (c *Catalog) unnamed() ([]string, error) {
	named := map[string]bool{}
	list, err := c.List()
	if err != nil {
		return nil, nil
	}
	for _, g := range list {
		for _, v := range g.Views {
			named[v.File] = true
		}
	}
	var out []string
	err = filepath.WalkDir(filepath.Join(c.cfg.Dir, "cells"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if rel := c.rel(path); !named[rel] {
			out = append(out, rel)
		}
		return nil
	})
	return out, err
}

// Clean deletes generations that the current one does not keep, with the files
// that only they name, and cell files that no generation named when the current
// one was published. It does nothing unless this process published the current
// one: that number is its right to delete. It returns how many files it deleted.
func (c *Catalog) Clean(ctx context.Context) (int, error) {
	c.publishing.Lock()
	defer c.publishing.Unlock()
	if err := c.refresh(); err != nil {
		return 0, err
	}
	c.mu.Lock()
	cur, rubbish := c.current, c.rubbish
	c.mu.Unlock()
	if cur == nil || cur.Writer != c.writer {
		return 0, nil
	}
	if _, err := c.List(); err != nil {
		return 0, fmt.Errorf("generations: nothing is cleaned until this is mended: %w", err)
	}
	numbers, err := c.series.Numbers()
	if err != nil {
		return 0, err
	}
	var gone []string // generations first: none may name a file that is gone
	for _, n := range numbers {
		if !slices.Contains(cur.Kept, n) {
			gone = append(gone, c.series.Path(n))
		}
	}
	// Files of generations that go: their names are known only before they go.
	for _, path := range gone {
		if g, err := c.readLoose(path); err == nil {
			for _, v := range g.Views {
				if v.File != "" {
					rubbish = append(rubbish, v.File)
				}
			}
		}
	}
	if len(gone)+len(rubbish) == 0 {
		return 0, nil
	}
	if err := fpCleaning.Hit(); err != nil {
		return 0, err
	}
	if err := c.files.Remove(gone...); err != nil {
		return 0, err
	}
	deleted, err := c.deleteUnnamed(ctx, rubbish)
	if err == nil {
		c.mu.Lock()
		c.rubbish = nil
		c.mu.Unlock()
	}
	return deleted + len(gone), err
}

// deleteUnnamed deletes files, but none that a kept generation names.
func (c *Catalog) deleteUnnamed(ctx context.Context, files []string) (int, error) {
	list, err := c.List()
	if err != nil {
		return 0, err
	}
	named := map[string]bool{}
	for _, g := range list {
		for _, v := range g.Views {
			named[v.File] = true
		}
	}
	deleted := 0
	slices.Sort(files)
	for _, rel := range slices.Compact(files) {
		if named[rel] || ctx.Err() != nil || !strings.HasPrefix(rel, "cells/") {
			continue
		}
		path := filepath.Join(c.cfg.Dir, filepath.FromSlash(rel))
		if _, err := os.Stat(path); err != nil {
			continue
		}
		if err := c.files.Remove(path); err != nil {
			return deleted, err
		}
		deleted++
	}
	return deleted, context.Cause(ctx)
}

// readLoose reads a generation that is about to go, by its path.
func (c *Catalog) readLoose(path string) (*Generation, error) {
	var n uint64
	base := strings.TrimSuffix(filepath.Base(path), ".json")
	for _, d := range base {
		n = n*10 + uint64(d-'0')
	}
	return c.Get(n)
}
