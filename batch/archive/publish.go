package archive

import (
	"errors"
	"fmt"

	"duet/internal/base/durable"
)

// publish publishes the next manifest: change fills in what the record adds to
// the current manifest m. It returns a [*FencedError] if another process has
// published that number, and settles whether a publish that reported an error
// took place.
func (a *Archive) publish(kind Kind, change func(m *Manifest, r *record) error) error {
	a.publishing.Lock()
	defer a.publishing.Unlock()
	if err := a.refresh(); err != nil {
		return err
	}
	m := a.Current()
	r := &record{
		Format: Format, Number: m.Number + 1, Kind: kind, Writer: a.writer, Created: a.cfg.Now().UTC(),
		Base: a.chain.base, Previous: a.chain.sum.XXH3, Incarnations: m.Incarnations, Through: m.Through,
	}
	if err := change(m, r); err != nil {
		return err
	}
	next, err := a.next(r)
	if err != nil {
		return fmt.Errorf("archive: refused to publish manifest %d: %w", r.Number, err)
	}
	if kind == Repair || a.chain.full(a.cfg.ManifestLinks) { // a repair must not depend on damaged manifests
		a.complete(next, r)
	}
	if err := fpManifest.Hit(); err != nil {
		return err
	}
	err = a.series.Publish(r.Number, r)
	if err != nil && !errors.Is(err, durable.ErrExists) {
		held, herr := a.series.Holds(r.Number, r)
		if herr != nil || !held {
			return errors.Join(fmt.Errorf("archive: manifest %d: %w", r.Number, err), herr)
		}
	} else if err != nil {
		return a.fence(r.Number)
	}
	if err := a.install(next, r); err != nil {
		return err
	}
	return fpPublished.Hit()
}

// next returns the manifest that r makes of the current one, and sets r.Count.
// publishing is held.
func (a *Archive) next(r *record) (*Manifest, error) {
	next := a.Current().clone()
	if err := next.apply(r); err != nil {
		return nil, err
	}
	if err := next.check(); err != nil {
		return nil, err
	}
	r.Count = counts{Files: len(next.Files), Producers: len(a.producers)}
	for p, n := range r.Producers {
		switch last, known := a.producers[p]; {
		case known && last >= n:
			delete(r.Producers, p) // sent nothing new
		case !known:
			r.Count.Producers++
		}
	}
	return next, nil
}

// complete makes r a complete record of next. publishing is held.
func (a *Archive) complete(next *Manifest, r *record) {
	producers := a.Producers()
	for p, n := range r.Producers {
		producers[p] = n
	}
	next.base = r.Number
	r.Base, r.Previous = r.Number, ""
	r.Streams, r.Producers, r.Added, r.Removed = next.Streams, producers, next.Files, nil
}

// refresh compares memory with the disk. It installs a manifest of this process
// whose publishing reported an error but took place; a newer manifest of another
// process fences this one. publishing is held.
func (a *Archive) refresh() error {
	a.mu.Lock()
	have, fenced := a.current.Number, a.fenced
	a.mu.Unlock()
	if fenced != nil {
		return fenced
	}
	latest, err := a.series.Latest()
	if err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	if latest == have {
		return nil
	}
	if latest < have {
		return fmt.Errorf("archive: %w", &durable.DamageError{Path: a.series.Path(have), Reason: "the current manifest is missing; restore it from a copy"})
	}
	r, _, err := a.readRecord(latest)
	if err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	if r.Writer != a.writer || latest != have+1 {
		return a.fence(latest)
	}
	held, err := a.series.Holds(latest, r) // also syncs the directory
	if err != nil || !held {
		return errors.Join(fmt.Errorf("archive: manifest %d is not durable yet", latest), err)
	}
	next := a.Current().clone()
	if err := next.apply(r); err != nil {
		return fmt.Errorf("archive: %w", &durable.DamageError{Path: a.series.Path(latest), Reason: err.Error()})
	}
	return a.install(next, r)
}

// fence records that another process published number, and wakes callers of Wait.
func (a *Archive) fence(number uint64) error {
	f := &FencedError{What: "archive", Number: number}
	if r, _, err := a.readRecord(number); err == nil {
		f.Writer = r.Writer
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.fenced = f
	close(a.advance)
	a.advance = make(chan struct{})
	return f
}

// install makes a published manifest current. publishing is held.
func (a *Archive) install(m *Manifest, r *record) error {
	sum, err := durable.SumFile(a.series.Path(m.Number))
	if err != nil {
		return fmt.Errorf("archive: read manifest %d back: %w", m.Number, err) // refresh installs it later
	}
	a.chain.extend(r, sum)
	a.mu.Lock()
	defer a.mu.Unlock()
	for p, n := range r.Producers {
		a.producers[p] = n
	}
	a.kept[a.current.Number] = a.current
	a.current = m
	a.noteReached(m)
	close(a.advance)
	a.advance = make(chan struct{})
	return nil
}

// noteReached remembers where a manifest ends. mu is held, or a is not shared yet.
func (a *Archive) noteReached(m *Manifest) {
	if n := len(a.recent); n > 0 && a.recent[n-1].through == m.Through.Position() {
		return
	}
	a.recent = append(a.recent, reached{m.Through.Position(), m.Streams})
	if len(a.recent) > recentCommits {
		a.recent = a.recent[1:]
	}
}
