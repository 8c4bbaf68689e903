package archive

import (
	"context"
	"errors"
	"sync"
	"time"

	"duet/internal/base/lifecycle"
)

// Hooks are called by an [Archiver], from its goroutine; they must not block.
// Every field may be nil.
type Hooks struct {
	Committed func(m *Manifest, took time.Duration) // after a block was archived
	// Failed is called after each failed attempt. The next attempt follows after
	// wait; if wait is 0, the archiver has stopped for good.
	Failed func(step string, err error, wait time.Duration)
}

// Archiver commits a tail's blocks as they close, and merges and cleans after
// each commit. It is a [lifecycle.Service]; use [NewArchiver]. Stop cancels a
// commit in progress: the next Open finds it either published or not.
type Archiver struct {
	lifecycle.Base
	archive *Archive
	tail    Tail
	hooks   Hooks

	compactAfter time.Time // set after a failure; only the archiver's goroutine uses it

	mu      sync.Mutex
	lastErr error // of the last attempt; nil if it succeeded
}

// firstRetry and lastRetry bound the wait between attempts. It doubles after
// each failure.
const (
	firstRetry = 100 * time.Millisecond
	lastRetry  = 30 * time.Second
)

// NewArchiver returns an archiver that is not started.
func NewArchiver(a *Archive, tail Tail, hooks Hooks) *Archiver {
	return &Archiver{archive: a, tail: tail, hooks: hooks}
}

// Start starts committing in the background.
func (r *Archiver) Start(ctx context.Context) error { return r.Go(ctx, r.run) }

// LastErr returns why the last attempt failed; nil if it succeeded.
func (r *Archiver) LastErr() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lastErr
}

// run commits blocks until ctx ends or the archive is fenced. It retries a failed
// attempt (a full disk, say) with a doubling wait.
func (r *Archiver) run(ctx context.Context) error {
	wait := firstRetry
	for {
		step, err := r.step(ctx)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		r.mu.Lock()
		r.lastErr = err
		r.mu.Unlock()
		if err == nil {
			wait = firstRetry
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
			return err
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
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
	r.compact(ctx)
	return "", nil
}

// compact merges and cleans. A failure is reported and suspends compaction for
// lastRetry; it never delays commits.
func (r *Archiver) compact(ctx context.Context) {
	now := r.archive.cfg.Now()
	if now.Before(r.compactAfter) {
		return
	}
	failed := func(step string, err error) {
		if ctx.Err() != nil {
			return
		}
		r.compactAfter = now.Add(lastRetry)
		if r.hooks.Failed != nil {
			r.hooks.Failed(step, err, lastRetry)
		}
	}
	if _, err := r.archive.MergeOnce(ctx); err != nil && !errors.Is(err, ErrRepaired) {
		failed("merge", err)
		return
	}
	if _, err := r.archive.CleanOnce(ctx); err != nil {
		failed("clean", err)
	}
}
