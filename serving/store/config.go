package store

import (
	"errors"
	"fmt"
	"log/slog"

	"duet/schemas"
)

// Config bounds what a store may take. The zero value works.
type Config struct {
	// MemoryLimit is in bytes, for all of DuckDB; defaults to 4 GB.
	MemoryLimit int64
	// TempDir is where DuckDB spills; empty means it cannot.
	TempDir string
	// Threads of one statement; defaults to 1, which is fastest for small
	// batches and leaves the cores to concurrent readers.
	Threads int
	// Readers is how many read transactions run at once; defaults to 8.
	Readers int
	// BlockRows and BlockBytes close a block that has grown that big; they
	// default to 250,000 rows and 256 MB (of Arrow data).
	BlockRows, BlockBytes int64
	// TailRows and TailBytes limit what no archive manifest covers yet: beyond
	// them Apply refuses until blocks are released. They default to 16 times as many rows as a block has, and 8 times as many bytes.
	TailRows, TailBytes int64
	// MaxGroups limits a view's groups, by view name; a view without an entry
	// has the limit MaxGroupsDefault, and 0 there means none. It is checked
	// when partials are merged and when a generation is staged, so a view can
	// exceed it by a quarter, or by 1,000 groups, before it is suspended.
	MaxGroups        map[string]int
	MaxGroupsDefault int
	// MergeSlack is how many partial rows a segment of a view may have beyond
	// four times its groups before they are merged; defaults to 100,000.
	MergeSlack int64
	// OnSuspend is told of each view that is newly suspended, from the
	// writer's goroutine. It must not call the store. May be nil.
	OnSuspend func(Suspension)
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
	def(&c.BlockBytes, 256<<20)
	def(&c.TailRows, 16*c.BlockRows)
	def(&c.TailBytes, 8*c.BlockBytes)
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
		{"MemoryLimit", c.MemoryLimit}, {"BlockRows", c.BlockRows}, {"BlockBytes", c.BlockBytes}, {"Readers", int64(c.Readers)},
		{"TailRows", c.TailRows}, {"TailBytes", c.TailBytes}, {"MergeSlack", c.MergeSlack},
	} {
		if v.n < 0 {
			errs = append(errs, fmt.Errorf("store: %s is %d; it must not be negative", v.name, v.n))
		}
	}
	return c, errors.Join(errs...)
}

func (c *Config) maxGroups(view string) int64 {
	if n, ok := c.MaxGroups[view]; ok {
		return int64(n)
	}
	return int64(c.MaxGroupsDefault)
}

// Names of the data sets that a block has beside its streams; a stream cannot
// be called so.
const (
	RejectsSet = "_rejects"
	LinesSet   = "_lines"
)

// A definition is what the store needs of a compiled view.
type definition struct {
	name, stream, hash string
	cells              string                   // columns as CREATE TABLE lists them
	partial, merge     func(from string) string // SELECTs that give the cells, in order
}

// A dataset is what the store needs of a stream, or of rejects or file lines.
type dataset struct {
	name    string
	columns string // as CREATE TABLE lists them
	names   []string
}

// Suspension says why a view cannot answer. It is a value; nothing in it changes.
type Suspension struct {
	View string `json:"view"`
	// At and Record are the event's position. Record is -1 when no single event
	// is to blame.
	At     schemas.Position `json:"at"`
	Record int32            `json:"record"`
	// Event is the row's columns as name=value; empty when no single event is to blame.
	Event string `json:"event,omitempty"`
	// Message is DuckDB's, with the expression where DuckDB names it.
	Message string `json:"message"`
	Remedy  string `json:"remedy"`
}

// Error is one sentence: the view, where, what, and what to do.
func (s Suspension) Error() string {
	where := "position " + s.At.String()
	if s.Record >= 0 {
		where += fmt.Sprintf(", record %d", s.Record)
	}
	if s.Event != "" {
		where += " (" + s.Event + ")"
	}
	return fmt.Sprintf("view %s is suspended since %s: %s; %s", s.View, where, s.Message, s.Remedy)
}
