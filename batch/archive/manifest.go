package archive

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"duet/internal/base/durable"
	"duet/schemas"
)

// Format is the version of the manifest's format that this package writes and
// the only one that it reads.
const Format = 1

// The data sets beside the streams' own.
const (
	Rejects = "_rejects" // what was refused: stream, column, reason, raw bytes
	Lines   = "_lines"   // digests of file lines, for deduplication by content
)

// Kind says why a manifest was published.
type Kind string

// The kinds of a manifest.
const (
	Commit Kind = "commit" // one more block
	Merge  Kind = "merge"  // fewer files, the same rows
	Clean  Kind = "clean"  // the same content: a number taken before deleting
	Repair Kind = "repair" // a damaged file written again from the log
)

// Manifest is the whole state of the archive at one number. The package
// comment shows one. It is immutable once published.
type Manifest struct {
	Format       int                   `json:"format"`
	Number       uint64                `json:"number"`
	Kind         Kind                  `json:"kind"`
	Writer       string                `json:"writer"`  // drawn by the process that published it
	Created      time.Time             `json:"created"` // UTC, by that process's clock
	Incarnations []schemas.Incarnation `json:"incarnations"`
	// Through is the position up to which every event is in the files; H5 lets
	// the log forget what is at or before it.
	Through   schemas.Cut       `json:"through"`
	Streams   map[string]Totals `json:"streams"`   // cumulative, from the first event on
	Producers map[string]uint64 `json:"producers"` // last number of each producer at Through
	Files     []File            `json:"files"`     // by data set, then position; spans of one data set do not overlap
}

// File is one immutable Parquet file: the rows of one data set in (From, Through].
type File struct {
	Data    string           `json:"data"`    // a stream's name, [Rejects] or [Lines]
	Path    string           `json:"path"`    // below the archive's folder, slash-separated
	From    schemas.Position `json:"from"`    // exclusive
	Through schemas.Position `json:"through"` // inclusive
	Rows    int64            `json:"rows"`
	durable.Sum
	OldestEvent string            `json:"oldest_event,omitempty"` // smallest event time, "2010-12-01 08:26:00"
	NewestEvent string            `json:"newest_event,omitempty"` // largest
	Sums        map[string]string `json:"sums,omitempty"`         // exact sum of each DECIMAL and integer column
}

// FencedError says that another process published in our place. This one has
// lost: it must not write again before it has opened everything anew (H10).
type FencedError struct {
	What   string // "archive" or "generation"
	Number uint64 // the number that both wanted
	Writer string // who has it, "" if unknown
}

// Error names the number and who has it.
func (e *FencedError) Error() string {
	return fmt.Sprintf("%s %d was published by another process (%s): this one has lost and stops writing; end one of the two", e.What, e.Number, cmp.Or(e.Writer, "unknown"))
}

// GapError says that positions are missing between what is archived and what
// comes next (H6).
type GapError struct {
	Have, Next schemas.Position // archived through Have; what came begins after Next
}

// Error names the span that is missing.
func (e *GapError) Error() string {
	return fmt.Sprintf("archive: the next block begins after %s, but the archive ends at %s: the positions between are missing", e.Next, e.Have)
}

// FilesFor lists the files of a data set that may hold positions in
// (after, through], in order of position.
func (m *Manifest) FilesFor(data string, after, through schemas.Position) []File {
	var files []File
	for _, f := range m.Files {
		if f.Data == data && f.Through > after && f.From < through {
			files = append(files, f)
		}
	}
	return files
}

// Bytes is the size of all files.
func (m *Manifest) Bytes() int64 {
	var n int64
	for _, f := range m.Files {
		n += f.Bytes
	}
	return n
}

// clone copies m so deep that changing the copy leaves m alone.
func (m *Manifest) clone() *Manifest {
	c := *m
	c.Incarnations = slices.Clone(m.Incarnations)
	c.Through = slices.Clone(m.Through)
	c.Producers = maps.Clone(m.Producers)
	c.Files = slices.Clone(m.Files)
	c.Streams = maps.Clone(m.Streams)
	return &c
}

// check refuses a manifest that contradicts itself.
func (m *Manifest) check(number uint64) error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if m.Format != Format {
		bad("format %d, this version reads %d: use the version of duet that wrote it", m.Format, Format)
		return errs[0]
	}
	if m.Number != number {
		bad("it says that it is number %d", m.Number)
	}
	for name, t := range m.Streams {
		if !t.Balanced() {
			bad("stream %s: the account does not add up: %+v", name, t.Account)
		}
	}
	rows := map[string]int64{}
	var prev File
	for _, f := range m.Files {
		rows[f.Data] += f.Rows
		if f.From >= f.Through || f.Through > m.Through.Position() {
			bad("file %s: span (%s, %s] in an archive through %s", f.Path, f.From, f.Through, m.Through.Position())
		}
		if prev.Data == f.Data && prev.Through > f.From {
			bad("files %s and %s overlap", prev.Path, f.Path)
		}
		if !filepath.IsLocal(filepath.FromSlash(f.Path)) {
			bad("file %q lies outside the archive", f.Path)
		}
		prev = f
	}
	for name, t := range m.Streams {
		if rows[name] != t.Accepted {
			bad("stream %s: %d rows in files, %d accepted events", name, rows[name], t.Accepted)
		}
	}
	return errors.Join(errs...)
}

// sortFiles puts files in the manifest's order.
func sortFiles(files []File) {
	slices.SortFunc(files, func(a, b File) int {
		return cmp.Or(cmp.Compare(a.Data, b.Data), cmp.Compare(a.From, b.From))
	})
}

// cut is the cut at a position, by the incarnation with its ordinal.
func (m *Manifest) cut(at schemas.Position) (schemas.Cut, error) {
	for _, inc := range m.Incarnations {
		if inc.Ordinal == at.Ordinal() {
			return schemas.NewCut(inc, at), nil
		}
	}
	return nil, fmt.Errorf("archive: position %s is of incarnation %d, which is not known here", at, at.Ordinal())
}
