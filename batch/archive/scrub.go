package archive

import (
	"context"
	"errors"
	"fmt"

	"duet/internal/base/durable"
	"duet/schemas"
)

// Mark is how far a scrub of the archive has come: through a position of one data
// set, and through everything of the data sets before it. The zero Mark is the
// beginning.
type Mark struct {
	Data    string           `json:"data,omitempty"`
	Through schemas.Position `json:"through,omitempty"`
}

// covers reports whether the mark is at or after the end of a file.
func (m Mark) covers(f File) bool {
	return f.Data < m.Data || f.Data == m.Data && f.Through <= m.Through
}

// Scrubbed is one step of a scrub.
type Scrubbed struct {
	Path  string // of the file
	Bytes int64  // read
	Next  Mark   // where a later scrub can continue
	// Damage is what is wrong with the file; nil if it verifies.
	Damage error
	// Repaired reports that the archive no longer needs the damaged file: it was
	// rebuilt from the log or, if a manifest, published again.
	Repaired bool
}

// Scrub reads every file of the archive after a mark from the disk and verifies
// it, the manifests first, even if [Archive.Verify] trusts it. It repairs damaged
// files if it can and calls visit after each file; it stops at an error of visit,
// or when ctx ends, and returns that error. Damage is not an error.
//
// It takes a snapshot for one file at a time, so a slow visit delays neither
// commits nor cleaning. Files that are archived or merged meanwhile are scrubbed
// if they come after the mark; their bytes were verified when they were written.
func (a *Archive) Scrub(ctx context.Context, after Mark, visit func(Scrubbed) error) error {
	if after == (Mark{}) {
		if err := visit(a.scrubManifests()); err != nil {
			return err
		}
	}
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		s := a.Snapshot()
		f, ok := s.firstAfter(after)
		if !ok {
			s.Release()
			return nil
		}
		done := a.scrubFile(ctx, f)
		s.Release()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		after = done.Next
		if err := visit(done); err != nil {
			return err
		}
	}
}

// firstAfter returns the first file that the mark does not cover.
func (m *Manifest) firstAfter(mark Mark) (File, bool) {
	for _, f := range m.Files {
		if !mark.covers(f) {
			return f, true
		}
	}
	return File{}, false
}

// scrubFile verifies one file from the disk, and repairs it if it can. A file
// that cannot be looked at counts as damaged, so that the others are verified.
func (a *Archive) scrubFile(ctx context.Context, f File) Scrubbed {
	a.mu.Lock()
	delete(a.verified, f.Path)
	a.mu.Unlock()
	done := Scrubbed{Path: a.path(f.Path), Bytes: f.Bytes, Next: Mark{Data: f.Data, Through: f.Through}}
	// An error of Evict (no such file, say) is found again by verify.
	_ = durable.Evict(done.Path)
	done.Damage = a.verify(f)
	var damage *durable.DamageError
	if !errors.As(done.Damage, &damage) {
		return done
	}
	err := a.repair(ctx, f, done.Damage)
	if done.Repaired = err == nil; !done.Repaired {
		done.Damage = err // also says why the repair failed
	}
	return done
}

// scrubManifests reads the current manifest's chain from the disk. If it is
// damaged, it publishes the manifest again, complete.
func (a *Archive) scrubManifests() Scrubbed {
	s := a.Snapshot()
	defer s.Release()
	done := Scrubbed{Path: a.series.Path(s.Number)}
	if s.Number == 0 {
		return done
	}
	for n := s.base; n <= s.Number; n++ {
		_ = durable.Evict(a.series.Path(n)) // as in scrubFile
	}
	c, err := a.fold(s.Number, map[string]uint64{}, func(*Manifest) {})
	done.Bytes = c.baseBytes + c.bytes
	if err == nil {
		return done
	}
	done.Damage = fmt.Errorf("archive: %w", err)
	var damage *durable.DamageError
	if errors.As(err, &damage) {
		done.Path = damage.Path
	}
	if err := a.publish(Repair, func(*Manifest, *record) error { return nil }); err != nil {
		done.Damage = errors.Join(done.Damage, fmt.Errorf("archive: publish the manifest again: %w", err))
		return done
	}
	done.Repaired = true
	return done
}

// Size returns the bytes that a scrub after a mark reads, without the manifests.
func (m *Manifest) Size(after Mark) (bytes int64) {
	for _, f := range m.Files {
		if !after.covers(f) {
			bytes += f.Bytes
		}
	}
	return bytes
}
