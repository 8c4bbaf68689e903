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

// kept applies the keep policy (the last generations, the last of each day and
// month, pins) to the kept generations and the one that is published at now. The
// generation before is also kept: a reader may still hold it.
func (c *Catalog) kept(next uint64, now time.Time) ([]uint64, error) {
	keep := map[uint64]bool{next: true}
	pins, err := c.Pinned()
	if err != nil {
		return nil, err
	}
	list, err := c.List()
	if err != nil {
		// A damaged generation has no date, so keep everything until it is restored
		// or removed; Clean reports it. Publishing goes on.
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

// listOrphans lists, by path below Dir, the cell files that no kept generation
// names; another process may be about to publish some of them. It lists none if a
// kept generation cannot be read, for what that one names is unknown.
func (c *Catalog) listOrphans() ([]string, error) {
	named, err := c.named()
	if err != nil {
		return nil, nil
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

// named returns the files that kept generations name.
func (c *Catalog) named() (map[string]bool, error) {
	list, err := c.List()
	if err != nil {
		return nil, err
	}
	named := map[string]bool{}
	for _, g := range list {
		for _, v := range g.Views {
			named[v.File] = true
		}
	}
	return named, nil
}

// Clean deletes the generations that the current one does not keep, the files that
// only they name, and the orphans that were listed before the current one was
// published. It does nothing unless this process published the current generation,
// because only then is the list its own. It returns the number of deleted files.
func (c *Catalog) Clean(ctx context.Context) (int, error) {
	c.publishing.Lock()
	defer c.publishing.Unlock()
	if err := c.refresh(); err != nil {
		return 0, err
	}
	c.mu.Lock()
	cur, orphans := c.current, c.orphans
	c.mu.Unlock()
	if cur == nil || cur.Writer != c.writer {
		return 0, nil
	}
	if _, err := c.List(); err != nil {
		return 0, fmt.Errorf("generations: nothing is cleaned until this is repaired: %w", err)
	}
	numbers, err := c.series.Numbers()
	if err != nil {
		return 0, err
	}
	// Delete generations before files, so that none names a file that is gone;
	// read their files' names first.
	var gone []string
	for _, n := range numbers {
		if slices.Contains(cur.Kept, n) {
			continue
		}
		gone = append(gone, c.series.Path(n))
		if g, err := c.Get(n); err == nil {
			for _, v := range g.Views {
				if v.File != "" {
					orphans = append(orphans, v.File)
				}
			}
		}
	}
	if len(gone)+len(orphans) == 0 {
		return 0, nil
	}
	if err := fpCleaning.Hit(); err != nil {
		return 0, err
	}
	if err := c.files.Remove(gone...); err != nil {
		return 0, err
	}
	deleted, err := c.deleteOrphans(ctx, orphans)
	if err == nil {
		c.mu.Lock()
		c.orphans = nil
		c.mu.Unlock()
	}
	return deleted + len(gone), err
}

// deleteOrphans deletes files, but none that a kept generation names.
func (c *Catalog) deleteOrphans(ctx context.Context, files []string) (int, error) {
	named, err := c.named()
	if err != nil {
		return 0, err
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
