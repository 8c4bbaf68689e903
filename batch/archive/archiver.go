package archive

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Hooks tell the outside what the archiver does. Every field may be nil; the
// functions are called from the archiver's goroutine and must not block.
type Hooks struct {
	Committed func(m *Manifest, took time.Duration) // a block is archived
	Merged    func(m *Manifest)
	Cleaned   func(files int)
	// Failed is called after each failed attempt; the next one follows after
	// wait, unless it is 0: then the archiver has stopped for good.
	Failed func(step string, err error, wait time.Duration)
}

// Archiver commits a tail's blocks as they are closed, and merges and cleans
// when it has nothing else to do. Its zero value is not usable: [NewArchiver].
type Archiver struct {
	archive *Archive
	tail    Tail
	hooks   Hooks
	retry   time.Duration
	rest    time.Time // no merging or cleaning before; of the archiver's goroutine

	mu     sync.Mutex
	err    error // of the last attempt; nil when it went well
	cancel context.CancelFunc
	done   chan struct{}
}

// firstRetry and lastRetry bound the wait between attempts, which doubles.
const (
	firstRetry = 100 * time.Millisecond
	lastRetry  = 30 * time.Second
)

// NewArchiver returns an archiver that is not started.
func NewArchiver(a *Archive, tail Tail, hooks Hooks) *Archiver {
	return &Archiver{archive: a, tail: tail, hooks: hooks, retry: firstRetry}
}

// Start starts committing in the background. Starting twice is an error.
func (r *Archiver) Start() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cancel != nil {
		return errors.New("archiver: started already")
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel, r.done = cancel, make(chan struct{})
	go func() {
		defer close(r.done)
		r.run(ctx)
	}()
	return nil
}

// Stop ends the archiver and waits for it. A commit in progress is given up; it
// is found done or undone at the next start. Stopping twice, or without a start,
// is fine.
func (r *Archiver) Stop() {
	r.mu.Lock()
	cancel, done := r.cancel, r.done
	r.mu.Unlock()
	if cancel == nil {
		return
	}
	cancel()
	<-done
}

// Err is why the last attempt failed; nil if it went well.
func (r *Archiver) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// run commits blocks until ctx ends or the archive is fenced. A failed attempt
// (a full disk, say) is repeated, later each time.
func (r *Archiver) run(ctx context.Context) {
	wait := r.retry
	for ctx.Err() == nil {
		step, err := r.step(ctx)
		if ctx.Err() != nil {
			return
		}
		r.mu.Lock()
		r.err = err
		r.mu.Unlock()
		if err == nil {
			wait = r.retry
			continue
		}
		var fenced *FencedError
		if errors.As(err, &fenced) {
			wait = 0
		}
		if r.hooks.Failed != nil {
			r.hooks.Failed(step, err, wait)
		}
		if wait == 0 {
			return
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		wait = min(2*wait, lastRetry)
	}
}

// step commits one block, then merges and cleans.
func (r *Archiver) step(ctx context.Context) (string, error) {
	b, err := r.tail.NextBlock(ctx)
	if err != nil {
		return "next block", err
	}
	start := time.Now()
	if err := r.archive.CommitBlock(ctx, r.tail, b); err != nil {
		return "commit", err
	}
	if r.hooks.Committed != nil {
		r.hooks.Committed(r.archive.Current(), time.Since(start))
	}
	r.keepHouse(ctx)
	return "", nil
}

// keepHouse merges and cleans. What fails there never holds up commits: it is
// told, and left alone for a while.
func (r *Archiver) keepHouse(ctx context.Context) {
	now := r.archive.cfg.Now()
	if now.Before(r.rest) {
		return
	}
	failed := func(step string, err error) {
		if ctx.Err() != nil {
			return
		}
		r.rest = now.Add(lastRetry)
		if r.hooks.Failed != nil {
			r.hooks.Failed(step, err, lastRetry)
		}
	}
	merged, err := r.archive.MergeOnce(ctx)
	if err != nil && !errors.Is(err, ErrRepaired) {
		failed("merge", err)
		return
	}
	if merged && r.hooks.Merged != nil {
		r.hooks.Merged(r.archive.Current())
	}
	deleted, err := r.archive.CleanOnce(ctx)
	if err != nil {
		failed("clean", err)
		return
	}
	if deleted > 0 && r.hooks.Cleaned != nil {
		r.hooks.Cleaned(deleted)
	}
}
