// Package archive stores every event as typed Parquet files, listed by a
// manifest. Start reading at [Archive], then commit.go, which adds rows. The
// package must not know how rows are decoded (schemas/event), where they are
// kept before they are archived (serving/store, behind [Tail]) or what is
// computed from them.
//
// # Files
//
//	archive/
//	  manifest/000000000017.json     the whole state, at one number
//	  manifest/floor.json            detects the loss of the newest (durable.Series)
//	  orders/5fk3...q.parquet        rows of one stream in one span of positions
//	  _rejects/..., _lines/...       rejected events, digests of file lines
//	  _envelopes/...                 counts of each run of each log message
//	  tmp/                           unfinished files; emptied at start
//
// A data file is written once, read back, checksummed, synced and linked under a
// random name; it never changes. Rows are in order of position. Every row has its
// position in five columns, _duet_lane, _duet_incarnation, _duet_sequence,
// _duet_record, _duet_part, so that any Parquet reader can use it.
//
// # Manifests
//
// A manifest's file is a sealed record (durable.Seal). A complete record lists
// everything. Any other lists what it changes in the manifest before it, so its
// size depends on the changes only. The file of number 16, complete:
//
//	{"xxh3_128":"6c1f...","content":
//	{
//	  "format": 1, "number": 16, "kind": "commit", "writer": "x2lq...", "created": "2026-01-01T00:00:00Z",
//	  "base": 16,
//	  "incarnations": [{"ordinal": 1, "id": "ab12", "created": "2026-01-01T00:00:00Z"}],
//	  "through": [{"lane": 0, "incarnation": "ab12", "ordinal": 1, "sequence": 90}],
//	  "streams": {"orders": {"received": 12, "accepted": 10, "duplicate": 1, "rejected": 1, "sums": {"price": "99.50"}}},
//	  "producers": {"shop-1": 12, "shop-2": 7},
//	  "added": [{"data": "orders", "path": "orders/5fk3...q.parquet", "from": "1:0", "through": "1:90", "rows": 10,
//	             "bytes": 4711, "xxh3_128": "09ab...", "content": "92233720368547758070", "sums": {"price": "99.50"}}],
//	  "count": {"files": 1, "producers": 2}
//	}
//	}
//
// The next block has two events of shop-2 on stream orders. The content of number
// 17 (streams and producers that changed have their new cumulative values):
//
//	"format": 1, "number": 17, "kind": "commit", ...
//	"base": 16, "previous": "e81c...",
//	"incarnations": [...], "through": [{"lane": 0, "incarnation": "ab12", "ordinal": 1, "sequence": 93}],
//	"streams": {"orders": {"received": 14, "accepted": 12, "duplicate": 1, "rejected": 1, "sums": {"price": "120.40"}}},
//	"producers": {"shop-2": 9},
//	"added": [{"data": "orders", "path": "orders/7mn0...a.parquet", "from": "1:90", "through": "1:93", "rows": 2, ...}],
//	"count": {"files": 2, "producers": 2}
//
// A merge of both files then publishes number 18 with one file added and two paths
// in "removed". Manifest 18 is the fold of the records 16, 17 and 18: base is the
// number of the complete record, previous the checksum of the file of number-1,
// count what there is after the record. Opening an archive reads this chain; a
// record that is missing, damaged or not the one that the next record followed is
// a *durable.DamageError that names its file. A record is complete if the chain
// before it has [Config].ManifestLinks others, or if their size has reached that
// of the complete one (at least 1 MB). Cleaning keeps the chains of the current
// manifest, of the KeepManifests before it and of open snapshots.
//
// # Content hash
//
// A file has two checksums. xxh3_128 is of its bytes and detects damage. The
// content hash is of its rows and does not depend on how Parquet encodes them: it
// is the sum, as decimal text, of DuckDB's 64-bit
//
//	hash('<name> <type>, <name> <type>, ...', <value>, <value>, ...)
//
// over all rows, with all columns, those of the position among them, in order of
// their names; a DOUBLE is followed by its sign bit, because hash() is equal for
// 0.0 and -0.0. The position in each row makes the hash depend on which row has
// which values, and the sum makes the hash of a merged file the sum of the hashes
// of its sources. A merge or repair that yields another hash is refused.
//
// # Guarantees
//
// The highest manifest is current and must verify. A file that is missing or has
// another size fails Open; a checksum that differs fails the read. Both errors
// name the file and its positions (H6), unless the file can be rebuilt from the
// log ([Repairer]). Publishing number+1 is exclusive (H10): a writer that finds
// the number taken gets a [*FencedError]. A block is in the archive exactly once:
// a published block is recognised by its position, even if its publisher crashed
// or saw an error. In every manifest, rows in a stream's files = accepted events,
// and a block is published only if its account equals what is counted in its files.
package archive

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"

	"duet/internal/base/duck"
	"duet/internal/base/durable"
	"duet/schemas"
)

// Config configures an [Archive]. Dir and Incarnation are required.
type Config struct {
	Dir         string              // the archive's folder, created if missing
	Incarnation schemas.Incarnation // the current incarnation of the log
	// EventTime maps a stream to its event-time column, for the range of event
	// times in the manifest. Streams without one are absent.
	EventTime map[string]string
	Files     *durable.Files   // defaults to durable.OS
	Now       func() time.Time // defaults to time.Now
	// Repairer rebuilds damaged files; if nil, damage is an error.
	Repairer Repairer
	// MergeBelow is the size in bytes under which files are merged; defaults to 32 MB.
	MergeBelow int64
	// MergeFiles is the number of adjacent small files per merge; defaults to 8.
	MergeFiles int
	// KeepManifests is the number of manifests before the current one whose
	// files are kept; defaults to 2.
	KeepManifests int
	// ManifestLinks is the number of manifests that list changes only, between two
	// complete ones; defaults to 1024.
	ManifestLinks int
	// Memory is the DuckDB memory limit for reading files back and merging
	// them; defaults to "512MB".
	Memory string
}

func (c Config) withDefaults() Config {
	if c.Files == nil {
		c.Files = durable.OS
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.MergeBelow == 0 {
		c.MergeBelow = 32 << 20
	}
	if c.MergeFiles == 0 {
		c.MergeFiles = 8
	}
	if c.KeepManifests == 0 {
		c.KeepManifests = 2
	}
	if c.ManifestLinks == 0 {
		c.ManifestLinks = 1024
	}
	if c.Memory == "" {
		c.Memory = "512MB"
	}
	return c
}

// Repairer rebuilds a file of the archive from the log, if the log still has
// what that takes. The rows must equal those that the file held.
type Repairer interface {
	// Repair writes the rows of f.Data at positions in (f.From, f.Through] to
	// path, in the format of [Tail.ExportBlock].
	Repair(ctx context.Context, f File, path string) error
}

// Archive is an open archive. Safe for concurrent use. One process at a time
// writes; a second one fences the first (H10).
type Archive struct {
	cfg    Config
	files  *durable.Files
	series *durable.Series
	db     *duck.DB
	writer string

	publishing sync.Mutex // held from reading the current manifest to publishing the next
	chain      chain      // guarded by publishing

	mu        sync.Mutex           // guards the fields below
	producers map[string]uint64    // last number of each producer at current; also guarded by publishing against changes
	current   *Manifest            // never nil; number 0 is the empty archive
	fenced    *FencedError         // once set, nothing more is published
	advance   chan struct{}        // closed and replaced when Through moves
	recent    []reached            // the last commits, for TotalsAt
	held      map[uint64]int       // open snapshots by manifest number
	kept      map[uint64]*Manifest // manifests with open snapshots, and the KeepManifests newest
	writing   map[string]bool      // data files not published yet, by path below Dir
	verified  map[string]stamp     // files whose checksum was verified, by path below Dir
}

// reached is the position at which a manifest ended, with the totals there.
type reached struct {
	through schemas.Position
	totals  map[string]Totals
}

// recentCommits is the number of commits that TotalsAt remembers.
const recentCommits = 256

// stamp identifies the version of a file whose checksum was verified.
type stamp struct {
	size  int64
	mtime time.Time
	inode uint64
}

// Open opens the archive. The highest manifest must verify, and every file that
// it names must exist with its size; otherwise Open returns a
// [*durable.DamageError] that names the file.
func Open(ctx context.Context, cfg Config) (*Archive, error) {
	cfg = cfg.withDefaults()
	a := &Archive{
		cfg: cfg, files: cfg.Files, writer: durable.Name(), advance: make(chan struct{}),
		held: map[uint64]int{}, kept: map[uint64]*Manifest{}, writing: map[string]bool{}, verified: map[string]stamp{},
	}
	tmp := filepath.Join(cfg.Dir, "tmp")
	if err := a.files.RemoveAll(tmp); err != nil {
		return nil, fmt.Errorf("archive: %w", err)
	}
	if err := a.files.MkdirAll(tmp); err != nil {
		return nil, fmt.Errorf("archive: %w", err)
	}
	var err error
	if a.series, err = durable.NewSeries(a.files, filepath.Join(cfg.Dir, "manifest")); err != nil {
		return nil, fmt.Errorf("archive: %w", err)
	}
	if err := a.series.RemoveTemps(); err != nil {
		return nil, fmt.Errorf("archive: %w", err)
	}
	if err := a.load(); err != nil {
		return nil, err
	}
	a.noteReached(a.current)
	if err := a.current.adoptIncarnation(cfg.Incarnation); err != nil {
		return nil, err
	}
	if a.db, err = duck.Open(duck.Config{Threads: 1, MemoryLimit: cfg.Memory, TempDir: tmp}); err != nil {
		return nil, err
	}
	if err := a.statFiles(ctx); err != nil {
		a.db.Close()
		return nil, err
	}
	return a, nil
}

// Close closes the archive's DuckDB. No other method may be running or be
// called later.
func (a *Archive) Close() error { return a.db.Close() }

// Dir returns the archive's folder.
func (a *Archive) Dir() string { return a.cfg.Dir }

// Current returns the current manifest; number 0 before the first block. Its
// files may be merged and deleted at any time: take a [Snapshot] to read them.
func (a *Archive) Current() *Manifest {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.current
}

// Through returns the position up to which everything is archived.
func (a *Archive) Through() schemas.Position { return a.Current().Through.Position() }

// Wait returns when the archive has reached pos. It fails when ctx ends or the
// archive is fenced.
func (a *Archive) Wait(ctx context.Context, pos schemas.Position) error {
	for {
		a.mu.Lock()
		through, advance, fenced := a.current.Through.Position(), a.advance, a.fenced
		a.mu.Unlock()
		if through >= pos {
			return nil
		}
		if fenced != nil {
			return fenced
		}
		select {
		case <-advance:
		case <-ctx.Done():
			return fmt.Errorf("archive: waiting for %s, archived through %s: %w", pos, through, context.Cause(ctx))
		}
	}
}

// TotalsAt returns the cumulative totals at the end of one of the last
// recentCommits blocks; false if none of them ended at pos.
func (a *Archive) TotalsAt(pos schemas.Position) (map[string]Totals, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range a.recent {
		if r.through == pos {
			return r.totals, true
		}
	}
	return nil, false
}

// Snapshot is a manifest whose files are not deleted before Release.
type Snapshot struct {
	*Manifest
	archive *Archive
	once    sync.Once
}

// Snapshot returns the current manifest and protects its files from cleaning.
// The caller must Release it.
func (a *Archive) Snapshot() *Snapshot {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.held[a.current.Number]++
	a.kept[a.current.Number] = a.current
	return &Snapshot{Manifest: a.current, archive: a}
}

// Release ends the protection of the snapshot's files. Calling it again has no
// effect.
func (s *Snapshot) Release() {
	s.once.Do(func() {
		a := s.archive
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.held[s.Number]--; a.held[s.Number] == 0 {
			delete(a.held, s.Number)
		}
	})
}

// Relation returns a parenthesised SELECT over the rows of a data set at
// positions in (after, through], with the columns that rows have in memory; ""
// if there are no files. It verifies the files' checksums first (H6).
func (s *Snapshot) Relation(ctx context.Context, data string, after, through schemas.Position) (string, error) {
	files := s.FilesFor(data, after, through)
	if len(files) == 0 {
		return "", nil
	}
	if err := s.archive.Verify(ctx, files); err != nil {
		return "", err
	}
	return Relation(s.archive.cfg.Dir, files, after, through), nil
}

// adoptIncarnation adds the log's current incarnation to the manifest. It fails
// if the incarnation contradicts an archived one (H6).
func (m *Manifest) adoptIncarnation(inc schemas.Incarnation) error {
	for _, have := range m.Incarnations {
		if have.Ordinal == inc.Ordinal && have.ID != inc.ID {
			return fmt.Errorf("archive: archived events come from incarnation %s of the log, but the log is incarnation %s with the same ordinal %d: the log belongs to another archive; restore log and archive from one copy; without a copy, duet log adopt begins a new log behind the archive", have.ID, inc.ID, inc.Ordinal)
		}
		if have.Ordinal == inc.Ordinal {
			return nil
		}
		if have.Ordinal > inc.Ordinal {
			return fmt.Errorf("archive: archived events come from incarnation %d (%s) of the log, but the log is the older incarnation %d (%s); restore log and archive from one copy; without a copy, duet log adopt begins a new log behind the archive", have.Ordinal, have.ID, inc.Ordinal, inc.ID)
		}
	}
	m.Incarnations = append(m.Incarnations, inc)
	return nil
}

// statFiles checks that every file exists with its size, and repairs the others
// if it can.
func (a *Archive) statFiles(ctx context.Context) error {
	for _, f := range a.current.Files {
		st, err := os.Stat(a.path(f.Path))
		switch {
		case err == nil && st.Size() == f.Bytes:
			continue
		case err == nil:
			err = a.damage(f, fmt.Sprintf("the file has %d bytes, the manifest says %d", st.Size(), f.Bytes))
		case errors.Is(err, os.ErrNotExist):
			err = a.damage(f, "the file is missing")
		}
		if err := a.repair(ctx, f, err); err != nil {
			return err
		}
	}
	return nil
}

func (a *Archive) path(rel string) string { return filepath.Join(a.cfg.Dir, filepath.FromSlash(rel)) }

// damage returns the error for a file that differs from the manifest.
func (a *Archive) damage(f File, reason string) error {
	return fmt.Errorf("archive: %w", &durable.DamageError{Path: a.path(f.Path), Reason: fmt.Sprintf(
		"%s; it holds %d rows of %s at positions after %s through %s; restore it from a copy", reason, f.Rows, f.Data, f.From, f.Through)})
}

// namedFiles returns the data files that the current manifest or one in kept
// names, by path below Dir.
func (a *Archive) namedFiles() map[string]bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.dropUnkept()
	named := map[string]bool{}
	for _, m := range a.kept {
		for _, f := range m.Files {
			named[f.Path] = true
		}
	}
	for _, f := range a.current.Files {
		named[f.Path] = true
	}
	return named
}

// dropUnkept removes manifests from kept that are neither held nor among the
// newest. mu is held.
func (a *Archive) dropUnkept() {
	maps.DeleteFunc(a.kept, func(number uint64, _ *Manifest) bool {
		return a.held[number] == 0 && number+uint64(a.cfg.KeepManifests) < a.current.Number
	})
}
