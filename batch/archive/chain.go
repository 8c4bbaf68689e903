package archive

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"time"

	"duet/internal/base/durable"
	"duet/schemas"
)

// record is the content of a manifest's file: what the manifest changes in the
// previous one, or everything, in a complete record. The package comment draws
// both.
type record struct {
	Format       int                   `json:"format"`
	Number       uint64                `json:"number"`
	Kind         Kind                  `json:"kind"`
	Writer       string                `json:"writer"`             // random name of the process that published it
	Created      time.Time             `json:"created"`            // UTC, by that process's clock
	Base         uint64                `json:"base"`               // number of the complete record that the chain begins with
	Previous     string                `json:"previous,omitempty"` // xxh3_128 of the file of Number-1; empty in a complete record
	Incarnations []schemas.Incarnation `json:"incarnations"`
	Through      schemas.Cut           `json:"through"`
	Streams      map[string]Totals     `json:"streams,omitempty"`   // cumulative totals of the streams that changed
	Producers    map[string]uint64     `json:"producers,omitempty"` // last numbers of the producers that changed
	Added        []File                `json:"added,omitempty"`
	Removed      []string              `json:"removed,omitempty"` // paths
	Count        counts                `json:"count"`
}

// counts describes the whole state after a record, as a check on the chain.
type counts struct {
	Files     int `json:"files"`
	Producers int `json:"producers"`
}

// complete reports whether the record does not depend on others.
func (r *record) complete() bool { return r.Base == r.Number }

// chain is the chain of records that the current manifest is read from.
type chain struct {
	base      uint64      // number of its complete record
	baseBytes int64       // size of that record's file
	links     int         // records after it
	bytes     int64       // size of their files
	sum       durable.Sum // of the current manifest's file
}

// minChainBytes is the size up to which a chain may grow even if its complete
// record is smaller.
const minChainBytes = 1 << 20

// full reports whether the next record must be complete. The size of a chain is
// bounded by twice the size of its complete record, so reading is bounded, and
// complete records cost as much as the changes between them, or less.
func (c *chain) full(maxLinks int) bool {
	return c.base == 0 || c.links >= maxLinks || c.bytes >= max(c.baseBytes, minChainBytes)
}

// extend adds a record whose file has the checksum sum.
func (c *chain) extend(r *record, sum durable.Sum) {
	if r.complete() {
		*c = chain{base: r.Number, baseBytes: sum.Bytes, sum: sum}
		return
	}
	c.links++
	c.bytes += sum.Bytes
	c.sum = sum
}

// apply changes m as r says.
func (m *Manifest) apply(r *record) error {
	if r.complete() {
		*m = Manifest{Streams: map[string]Totals{}}
	}
	m.Number, m.Kind, m.Created, m.base = r.Number, r.Kind, r.Created, r.Base
	m.Incarnations, m.Through = r.Incarnations, r.Through
	maps.Copy(m.Streams, r.Streams)
	if len(r.Removed) > 0 {
		removed := map[string]bool{}
		for _, path := range r.Removed {
			removed[path] = true
		}
		before := len(m.Files)
		m.Files = slices.DeleteFunc(m.Files, func(f File) bool { return removed[f.Path] })
		if before-len(m.Files) != len(removed) {
			return fmt.Errorf("it removes %d files, of which the manifest before it lists %d", len(removed), before-len(m.Files))
		}
	}
	if len(r.Added) > 0 {
		m.Files = append(m.Files, r.Added...)
		slices.SortFunc(m.Files, func(a, b File) int {
			return cmp.Or(cmp.Compare(a.Data, b.Data), cmp.Compare(a.From, b.From))
		})
	}
	return nil
}

// readRecord reads the file of a manifest and returns its checksum.
func (a *Archive) readRecord(number uint64) (*record, durable.Sum, error) {
	path := a.series.Path(number)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		err = &durable.DamageError{Path: path, Reason: "the manifest is missing; restore it from a copy"}
	}
	r := new(record)
	if err == nil {
		err = durable.Unseal(path, data, r)
	}
	if err == nil {
		reason := ""
		switch {
		case r.Format != Format:
			reason = fmt.Sprintf("format %d, this version reads %d: use the version of duet that wrote it", r.Format, Format)
		case r.Number != number || r.Base > number || r.Base == 0:
			reason = fmt.Sprintf("it claims to be number %d, based on %d", r.Number, r.Base)
		}
		if reason != "" {
			err = &durable.DamageError{Path: path, Reason: reason}
		}
	}
	if err != nil {
		return nil, durable.Sum{}, err
	}
	return r, durable.SumBytes(data), nil
}

// load reads the current manifest, and the manifests before it that are kept.
func (a *Archive) load() error {
	latest, err := a.series.Latest()
	if err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	a.current = &Manifest{Streams: map[string]Totals{}}
	a.producers = map[string]uint64{}
	if latest == 0 {
		return nil
	}
	oldest := latest - min(latest-1, uint64(a.cfg.KeepManifests))
	keep := func(m *Manifest) {
		if m.Number >= oldest {
			a.kept[m.Number] = m.clone()
		}
	}
	if a.chain, err = a.fold(latest, a.producers, keep); err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	a.current = a.kept[latest]
	// Kept manifests of earlier chains only protect their files from cleaning. One
	// that cannot be read has no reader left to protect.
	for first := a.current.base; first > oldest; {
		c, err := a.fold(first-1, map[string]uint64{}, keep)
		if err != nil {
			break
		}
		first = c.base
	}
	return nil
}

// fold reads the chain of the manifest number, from its complete record on, and
// calls visit with the manifest after each record; visit must not keep it. Every
// record must verify and follow the one before (H6).
func (a *Archive) fold(number uint64, producers map[string]uint64, visit func(*Manifest)) (chain, error) {
	last, _, err := a.readRecord(number)
	if err != nil {
		return chain{}, err
	}
	var c chain
	m := new(Manifest)
	for n := last.Base; n <= number; n++ {
		r, sum, err := a.readRecord(n)
		if err != nil {
			return chain{}, fmt.Errorf("manifest %d builds on manifest %d: %w", number, n, err)
		}
		damage := func(format string, args ...any) error {
			return fmt.Errorf("manifest %d builds on manifest %d: %w", number, n, &durable.DamageError{Path: a.series.Path(n), Reason: fmt.Sprintf(format, args...) + "; restore the folder " + a.cfg.Dir + "/manifest from one copy"})
		}
		if r.Base != last.Base || r.Previous != c.sum.XXH3 {
			return chain{}, damage("it follows a manifest with checksum %q, based on %d, but the one before it has checksum %q, based on %d", r.Previous, r.Base, c.sum.XXH3, last.Base)
		}
		if err := m.apply(r); err != nil {
			return chain{}, damage("%s", err)
		}
		maps.Copy(producers, r.Producers)
		if got := (counts{len(m.Files), len(producers)}); got != r.Count {
			return chain{}, damage("after it there are %d files and %d producers, it says %d and %d", got.Files, got.Producers, r.Count.Files, r.Count.Producers)
		}
		c.extend(r, sum)
		if n == number {
			if err := m.check(); err != nil {
				return chain{}, damage("%s", err)
			}
		}
		visit(m)
	}
	return c, nil
}

// Producers returns a copy of the last number of each producer at Through.
func (a *Archive) Producers() map[string]uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return maps.Clone(a.producers)
}
