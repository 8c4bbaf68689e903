package archive

import (
	"context"
	"errors"
	"sync"
	"time"
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
// each commit. Use [NewArchiver].
type Archiver struct {
	archive *Archive
	tail    Tail
	hooks   Hooks
	retry   time.Duration

	compactAfter time.Time // set after a failure; only the archiver's goroutine uses it

	mu     sync.Mutex
	err    error // of the last attempt; nil if it succeeded
	cancel context.CancelFunc
	done   chan struct{}
}

// firstRetry and lastRetry bound the wait between attempts. It doubles after
// each failure.
const (
	firstRetry = 100 * time.Millisecond
	lastRetry  = 30 * time.Second
)

// NewArchiver returns an archiver that is not started.
func NewArchiver(a *Archive, tail Tail, hooks Hooks) *Archiver {
	return &Archiver{archive: a, tail: tail, hooks: hooks, retry: firstRetry}
}

// Start starts committing in the background. A second Start is an error.
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

// Stop cancels the archiver and waits for its goroutine. The next Open finds a
// cancelled commit either published or not. Stopping twice, or without a start,
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

// Err returns why the last attempt failed; nil if it succeeded.
func (r *Archiver) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// run commits blocks until ctx ends or the archive is fenced. It retries a failed
// attempt (a full disk, say) with a doubling wait.
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
