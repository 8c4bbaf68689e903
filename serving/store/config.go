package store

import (
	"errors"
	"fmt"
	"log/slog"

	"duet/batch/recompute"
)

// Config bounds the resources of a store. The zero value works.
type Config struct {
	// MemoryLimit is in bytes, for all of DuckDB; defaults to 4 GB.
	MemoryLimit int64
	// TempDir is where DuckDB spills; if empty, it cannot spill.
	TempDir string
	// Threads a statement may use; defaults to 1, which is fastest for small
	// batches and leaves the cores to concurrent readers.
	Threads int
	// Readers is the number of read transactions that run at once; defaults to 8.
	Readers int
	// BlockRows and BlockBytes close the open block when it has grown so large;
	// they default to 250,000 rows and a sixteenth of MemoryLimit, at most 256 MB,
	// of Arrow data.
	BlockRows, BlockBytes int64
	// BlockLog closes the open block when its messages take so many bytes of the
	// log, because duplicates are no rows and still fill the log. Defaults to
	// 512 MB.
	BlockLog int64
	// TailRows and TailBytes limit what no archive manifest covers yet. Beyond
	// them Apply fails with a *TailFullError until blocks are released. They
	// default to 16 times BlockRows and 8 times BlockBytes, at most a quarter of
	// MemoryLimit.
	TailRows, TailBytes int64
	// MaxGroups limits the groups of views, by name; a view without an entry is
	// limited by memory alone. It is checked when partials are merged and when a
	// generation is staged, so a view can exceed it by a quarter, or by 1,000
	// groups, before it is suspended.
	MaxGroups map[string]int
	// MergeSlack is the number of partial rows that a segment of a view may have
	// beyond four times its groups before they are merged; defaults to 100,000.
	MergeSlack int64
	// OnSuspend is called for each newly suspended view, on the writer's
	// goroutine. It must not call the store. May be nil.
	OnSuspend func(recompute.Suspension)
	// Log defaults to slog.Default().
	Log *slog.Logger
}

func (c Config) withDefaults() (Config, error) {
	def := func(v *int64, d int64) {
		if *v == 0 {
			*v = d
		}
	}
	def(&c.MemoryLimit, 4<<30)
	def(&c.BlockRows, 250_000)
	def(&c.BlockBytes, min(256<<20, c.MemoryLimit/16))
	def(&c.BlockLog, 512<<20)
	def(&c.TailRows, 16*c.BlockRows)
	def(&c.TailBytes, min(8*c.BlockBytes, c.MemoryLimit/4)) // DuckDB takes up to twice what Arrow does
	def(&c.MergeSlack, 100_000)
	c.Threads = max(c.Threads, 1)
	if c.Readers == 0 {
		c.Readers = 8
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	var errs []error
	for _, v := range []struct {
		name string
		n    int64
	}{
		{"MemoryLimit", c.MemoryLimit}, {"BlockRows", c.BlockRows}, {"BlockBytes", c.BlockBytes}, {"BlockLog", c.BlockLog}, {"Readers", int64(c.Readers)},
		{"TailRows", c.TailRows}, {"TailBytes", c.TailBytes}, {"MergeSlack", c.MergeSlack},
	} {
		if v.n < 0 {
			errs = append(errs, fmt.Errorf("store: %s is %d; it must not be negative", v.name, v.n))
		}
	}
	return c, errors.Join(errs...)
}

// definition is what the store uses of a compiled view.
type definition struct {
	name, stream, hash string
	cells              string                   // columns as CREATE TABLE lists them
	width              int64                    // number of columns
	partial, merge     func(from string) string // SELECTs of the cells, in order
}

// dataset is what the store uses of a stream, of rejects, or of file lines.
type dataset struct {
	name    string
	columns string // as CREATE TABLE lists them
	names   []string
}
