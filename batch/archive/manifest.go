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

// Format is the version of the manifest's format that this package reads and
// writes.
const Format = 1

// The data sets beside the streams' own.
const (
	Rejects = "_rejects" // rejected events: stream, column, reason, raw bytes
	Lines   = "_lines"   // digests of file lines, for deduplication by content
	// Envelopes has a row for each run of each log message: stream, received,
	// duplicate and rejected events. With the streams' rows, which are the accepted
	// ones, it makes accounts countable from files.
	Envelopes = "_envelopes"
)

// Kind is the reason for which a manifest was published.
type Kind string

// The kinds of a manifest.
const (
	Commit Kind = "commit" // one more block
	Merge  Kind = "merge"  // fewer files, the same rows
	Clean  Kind = "clean"  // the same content; fences other writers before files are deleted
	Repair Kind = "repair" // a damaged file was rebuilt from the log
)

// Manifest is the state of the archive at one number. It is immutable. On disk it
// is a chain of records, which the package comment draws.
type Manifest struct {
	Number       uint64
	Kind         Kind
	Created      time.Time // UTC, by the clock of the process that published it
	Incarnations []schemas.Incarnation
	// Through is the cut up to which every event is in the files; the log may be
	// trimmed through it (H5).
	Through schemas.Cut
	Streams map[string]Totals // cumulative, from the first event on
	Files   []File            // by data set, then position; spans of one data set do not overlap

	base uint64 // the number of the complete record that this manifest is read from
}

// File is one immutable Parquet file: the rows of one data set in (From, Through].
type File struct {
	Data    string           `json:"data"`    // a stream's name, [Rejects], [Lines] or [Envelopes]
	Path    string           `json:"path"`    // below the archive's folder, slash-separated
	From    schemas.Position `json:"from"`    // exclusive
	Through schemas.Position `json:"through"` // inclusive
	Rows    int64            `json:"rows"`
	durable.Sum
	OldestEvent string `json:"oldest_event,omitempty"` // smallest event time, "2010-12-01 08:26:00"
	// Content is the hash of the rows, as the package comment defines it.
	Content     string            `json:"content"`
	NewestEvent string            `json:"newest_event,omitempty"` // largest
	Sums        map[string]string `json:"sums,omitempty"`         // exact sum of each DECIMAL and integer column
}

// FencedError reports that another process published the number that this one
// wanted. This process must not write again before it reopens everything (H10).
type FencedError struct {
	What   string // "archive" or "generation"
	Number uint64 // the number that both wanted
	Writer string // of the published number; "" if unknown
}

// Error names the number and its writer.
func (e *FencedError) Error() string {
	return fmt.Sprintf("%s %d was published by another process (%s), so this process stops writing: two processes use the same data folder; stop one of them", e.What, e.Number, cmp.Or(e.Writer, "unknown"))
}

// GapError reports that positions are missing between the archive's end and the
// next block (H6).
type GapError struct {
	Have, Next schemas.Position // archived through Have; the block begins after Next
}

// Error names both positions.
func (e *GapError) Error() string {
	return fmt.Sprintf("archive: the next block begins after %s, but the archive ends at %s: the positions do not connect", e.Next, e.Have)
}

// FilesFor returns the files of a data set that may hold positions in
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

// lists reports whether the manifest has a file of that path.
func (m *Manifest) lists(path string) bool {
	return slices.ContainsFunc(m.Files, func(f File) bool { return f.Path == path })
}

// Bytes returns the size of all files.
func (m *Manifest) Bytes() int64 {
	var n int64
	for _, f := range m.Files {
		n += f.Bytes
	}
	return n
}

// clone returns a copy of m that shares nothing that publish changes.
func (m *Manifest) clone() *Manifest {
	c := *m
	c.Incarnations = slices.Clone(m.Incarnations)
	c.Through = slices.Clone(m.Through)
	c.Files = slices.Clone(m.Files)
	c.Streams = maps.Clone(m.Streams)
	return &c
}

// check fails if the manifest contradicts itself.
func (m *Manifest) check() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for name, t := range m.Streams {
		if !t.Balanced() {
			bad("stream %s: the account does not balance: %+v", name, t.Account)
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

// cut returns the cut at pos, whose incarnation the manifest must know.
func (m *Manifest) cut(pos schemas.Position) (schemas.Cut, error) {
	for _, inc := range m.Incarnations {
		if inc.Ordinal == pos.Ordinal() {
			return schemas.NewCut(inc, pos), nil
		}
	}
	return nil, fmt.Errorf("archive: position %s has incarnation %d, which the manifest does not list", pos, pos.Ordinal())
}
