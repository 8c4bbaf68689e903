// Package scrub verifies the files of the archive and of the generations from
// the disk: once a week at a bounded rate, and at once when asked. A file that
// serves for months is otherwise read again only when its inode, time or size
// changes, which a flipped bit does not do. Start reading at [Scrubber].
//
// # State
//
// The state is a sealed file (durable.Seal), so that a scrub continues where the
// last process stopped and a server that is restarted each day still scrubs:
//
//	{"xxh3_128":"77e0...","content":
//	{
//	  "format": 1,
//	  "current": {"number": 8, "started": "2026-01-08T00:00:00Z", "files": 12, "bytes": 4711000,
//	              "mark": {"data": "orders", "through": 281474976710746}},
//	  "last": {"number": 7, "started": "2026-01-01T00:00:00Z", "ended": "2026-01-01T00:10:00Z", "files": 40, "bytes": 9000000,
//	           "damage": [{"path": "/data/archive/orders/5fk3...q.parquet", "problem": "...", "repaired": true}]}
//	}
//	}
package scrub

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"

	"duet/batch/archive"
	"duet/batch/catalog"
	"duet/internal/base/durable"
	"duet/internal/base/lifecycle"
)

// format is the version of the state's format.
const format = 1

// Pass is one scrub of everything.
type Pass struct {
	Number  uint64       `json:"number"` // from 1
	Started time.Time    `json:"started"`
	Ended   time.Time    `json:"ended,omitzero"` // zero while it runs
	Files   int          `json:"files"`          // verified so far
	Bytes   int64        `json:"bytes"`
	Damage  []Damage     `json:"damage,omitempty"` // at most maxDamage
	Mark    archive.Mark `json:"mark,omitzero"`    // in the archive; the generations follow

	// TotalBytes estimates the bytes of the whole pass, while it runs.
	TotalBytes int64 `json:"-"`
}

// Damage is a file that a pass found damaged.
type Damage struct {
	Path     string `json:"path"`
	Problem  string `json:"problem"`            // what is wrong and what to do
	Repaired bool   `json:"repaired,omitempty"` // nothing is left to do
}

// maxDamage limits the list of a pass; the log has all.
const maxDamage = 100

// state is the content of the state's file.
type state struct {
	Format  int   `json:"format"`
	Current *Pass `json:"current,omitempty"`
	Last    *Pass `json:"last,omitempty"`
}

// Config configures a [Scrubber]. Archive, Catalog and Path are required.
type Config struct {
	Archive *archive.Archive
	Catalog *catalog.Catalog
	Path    string         // of the state's file
	Files   *durable.Files // defaults to durable.OS
	// Every is the time from the end of a pass to the start of the next; defaults
	// to a week.
	Every time.Duration
	// Rate is the bytes read per second by a pass that nobody asked for; defaults
	// to 16 MB.
	Rate int64
	// Now and After are the clock; they default to time.Now and time.After.
	Now   func() time.Time
	After func(time.Duration) <-chan time.Time
	// Damaged is called for each damaged file; may be nil.
	Damaged func(Damage)
	// Failed is called when the state cannot be written: a restart repeats more of
	// the pass. May be nil.
	Failed func(error)
}

// saveEvery bounds the work that is repeated after a restart.
const saveEvery = time.Minute

// Scrubber runs passes in the background. Safe for concurrent use.
type Scrubber struct {
	lifecycle.Base
	cfg   Config
	asked chan struct{} // holds one token: Run was called
	saved time.Time     // when the state was last written; only the service's goroutine uses it

	mu    sync.Mutex // guards the fields below
	state state
	full  bool // the current pass was asked for: no rate limit
}

// New returns a Scrubber that continues from the state in cfg.Path. A damaged
// state is ignored: the next pass starts over.
func New(cfg Config) (*Scrubber, error) {
	if cfg.Files == nil {
		cfg.Files = durable.OS
	}
	cfg.Every = cmp.Or(cfg.Every, 7*24*time.Hour)
	cfg.Rate = cmp.Or(cfg.Rate, 16<<20)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.After == nil {
		cfg.After = time.After
	}
	s := &Scrubber{cfg: cfg, asked: make(chan struct{}, 1)}
	if _, err := os.Stat(cfg.Path); errors.Is(err, fs.ErrNotExist) {
		// The files of a new folder were verified when they were written.
		s.state.Last = &Pass{Started: cfg.Now().UTC(), Ended: cfg.Now().UTC()}
		return s, s.save()
	}
	var damage *durable.DamageError
	err := durable.ReadSealed(cfg.Path, &s.state)
	if errors.As(err, &damage) || err == nil && s.state.Format != format {
		s.state, err = state{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("scrub: %w", err)
	}
	return s, nil
}

// Start runs passes until Stop.
func (s *Scrubber) Start(ctx context.Context) error {
	return s.Go(ctx, func(ctx context.Context) error {
		for {
			if err := s.wait(ctx); err != nil {
				return err
			}
			if err := s.pass(ctx); err != nil && !errors.Is(err, errAsked) {
				return err
			}
		}
	})
}

// Run starts a pass at full speed, from the beginning, and returns it; if one that
// was asked for runs already, Run returns that one. Status shows how it goes on.
func (s *Scrubber) Run() Pass {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state.Current == nil || !s.full {
		s.begin()
		s.full = true
		select {
		case s.asked <- struct{}{}:
		default:
		}
	}
	return *s.state.Current
}

// Status returns the pass that runs or is interrupted, and the last one that
// ended; nil if there is none.
func (s *Scrubber) Status() (current, last *Pass) {
	s.mu.Lock()
	defer s.mu.Unlock()
	current, last = clone(s.state.Current), clone(s.state.Last)
	if last != nil && last.Number == 0 {
		last = nil
	}
	return current, last
}

func clone(p *Pass) *Pass {
	if p == nil {
		return nil
	}
	c := *p
	c.Damage = slices.Clone(p.Damage)
	return &c
}

// begin makes a new pass the current one. mu is held.
func (s *Scrubber) begin() {
	number := uint64(1)
	for _, p := range []*Pass{s.state.Current, s.state.Last} {
		if p != nil {
			number = max(number, p.Number+1)
		}
	}
	s.state.Current = &Pass{Number: number, Started: s.cfg.Now().UTC()}
}

// wait returns when a pass is due: one was asked for or interrupted, or the last
// one ended long ago. It makes that pass the current one.
func (s *Scrubber) wait(ctx context.Context) error {
	for {
		s.mu.Lock()
		now, due := s.cfg.Now(), time.Time{}
		if s.state.Current == nil && s.state.Last != nil {
			due = s.state.Last.Ended.Add(s.cfg.Every)
		}
		if !now.Before(due) {
			if s.state.Current == nil {
				s.begin()
			}
			s.mu.Unlock()
			return nil
		}
		s.mu.Unlock()
		select {
		case <-s.cfg.After(min(due.Sub(now), time.Hour)): // the wall clock may be set meanwhile
		case <-s.asked:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// errAsked ends a pass because Run began another.
var errAsked = errors.New("scrub: another pass was asked for")

// pass does the current pass, from its mark on. It fails only with errAsked, or
// when ctx ends.
func (s *Scrubber) pass(ctx context.Context) error {
	generations := s.generationBytes()
	s.mu.Lock()
	p := s.state.Current
	number, mark := p.Number, p.Mark
	p.TotalBytes = p.Bytes + s.cfg.Archive.Current().Size(mark) + generations
	s.mu.Unlock()
	err := s.cfg.Archive.Scrub(ctx, mark, func(f archive.Scrubbed) error {
		return s.note(ctx, number, f.Next, f.Bytes, Damage{Path: f.Path, Problem: text(f.Damage), Repaired: f.Repaired})
	})
	if err == nil {
		err = s.generations(ctx, number)
	}
	if err == nil {
		s.mu.Lock()
		if p := s.state.Current; p.Number == number {
			p.Ended, p.Mark = s.cfg.Now().UTC(), archive.Mark{}
			s.state.Last, s.state.Current, s.full = p, nil, false
		}
		s.mu.Unlock()
	}
	s.trySave()
	return err
}

// trySave writes the state. A failure must not stop the scrub.
func (s *Scrubber) trySave() {
	if err := s.save(); err != nil && s.cfg.Failed != nil {
		s.cfg.Failed(err)
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// note adds a verified file to the pass, and then sleeps as the rate demands.
func (s *Scrubber) note(ctx context.Context, number uint64, mark archive.Mark, bytes int64, d Damage) error {
	s.mu.Lock()
	p := s.state.Current
	if p.Number != number {
		s.mu.Unlock()
		return errAsked
	}
	p.Files++
	p.Bytes += bytes
	if mark != (archive.Mark{}) {
		p.Mark = mark
	}
	if d.Problem != "" && len(p.Damage) < maxDamage {
		p.Damage = append(p.Damage, d)
	}
	full := s.full
	s.mu.Unlock()
	if d.Problem != "" && s.cfg.Damaged != nil {
		s.cfg.Damaged(d)
	}
	if s.cfg.Now().Sub(s.saved) >= saveEvery {
		s.trySave()
	}
	if full {
		return nil
	}
	select {
	case <-s.cfg.After(time.Duration(float64(bytes) / float64(s.cfg.Rate) * float64(time.Second))):
		return nil
	case <-s.asked:
		return errAsked
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// generations verifies the files of all kept generations, each file once.
func (s *Scrubber) generations(ctx context.Context, number uint64) error {
	seen := map[string]bool{}
	return s.eachView(func(g *catalog.Generation, v catalog.View, err error) error {
		d := Damage{Problem: text(err)}
		var damage *durable.DamageError
		if errors.As(err, &damage) {
			d.Path = damage.Path
		}
		if err == nil {
			if seen[v.File] {
				return nil
			}
			seen[v.File] = true
			d.Path = s.cfg.Catalog.Path(v)
			_ = durable.Evict(d.Path) // Verify finds a file that cannot be opened
			one := *g
			one.Views = []catalog.View{v}
			d.Problem = text(s.cfg.Catalog.Verify(&one))
		}
		if d.Problem != "" {
			var gone *catalog.NotKeptError
			if _, err := s.cfg.Catalog.Get(g.Number); errors.As(err, &gone) {
				return nil // cleaned meanwhile
			}
		}
		return s.note(ctx, number, archive.Mark{}, v.Bytes, d)
	})
}

// eachView calls visit for each view that has a file in a kept generation, and
// with an error for each generation that cannot be read.
func (s *Scrubber) eachView(visit func(*catalog.Generation, catalog.View, error) error) error {
	cur := s.cfg.Catalog.Current()
	if cur == nil {
		return nil
	}
	for _, n := range cur.Kept {
		g, err := s.cfg.Catalog.Get(n)
		var gone *catalog.NotKeptError
		if errors.As(err, &gone) {
			continue
		}
		if err != nil {
			if err := visit(&catalog.Generation{Number: n}, catalog.View{}, err); err != nil {
				return err
			}
			continue
		}
		for _, v := range g.Views {
			if v.File == "" {
				continue
			}
			if err := visit(g, v, nil); err != nil {
				return err
			}
		}
	}
	return nil
}

// generationBytes returns the size of the files of all kept generations.
func (s *Scrubber) generationBytes() (bytes int64) {
	seen := map[string]bool{}
	_ = s.eachView(func(_ *catalog.Generation, v catalog.View, _ error) error {
		if !seen[v.File] {
			seen[v.File] = true
			bytes += v.Bytes
		}
		return nil
	})
	return bytes
}

// save writes the state.
func (s *Scrubber) save() error {
	s.mu.Lock()
	s.state.Format = format
	data, err := durable.Seal(s.state)
	s.mu.Unlock()
	if err == nil {
		err = s.cfg.Files.WriteFile(s.cfg.Path, data)
	}
	s.saved = s.cfg.Now() // also after a failure, which is tried again saveEvery later
	if err != nil {
		return fmt.Errorf("scrub: %w", err)
	}
	return nil
}
