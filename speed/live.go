// Package speed is the live half: it reads the log, gives every event its
// verdict, and folds what was accepted into the store, within milliseconds.
//
// Start with [Live]. It batches naturally: while the store applies one
// micro-batch the next is decoded, and a batch is what has arrived until the
// store is free again, up to event.MaxBatchEvents or to a control record. There
// are no timers, and no batch holds events from both sides of a control record.
//
// The package knows neither SQL nor files nor gRPC: [Store] and [Source] are
// what it needs of others. The log itself is speed/eventlog.
package speed

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/apache/arrow-go/v18/arrow/memory"

	"duet/schemas"
	"duet/schemas/event"
	"duet/speed/eventlog"
)

// Store is what batches are folded into. A failed call has changed nothing. An
// error with a method Temporary() bool that says true is waited out and the call
// made again; any other ends the live half.
type Store interface {
	// Apply adds a batch; live-through is then b.Through, even if b has no events.
	Apply(ctx context.Context, b *event.Batch) error
	// Cut meets a cut marker: live-through is then at.
	Cut(ctx context.Context, at schemas.Position) error
}

// Source gives the messages of the log in order; *eventlog.Reader is one.
type Source interface {
	Next(ctx context.Context) (eventlog.Message, error)
	TryNext() (m eventlog.Message, ok bool, err error)
	Close()
}

// CutKind is the kind of control record that is a cut marker.
const CutKind = "cut"

// Config of a live half. Open, Store and Sequencer must be given.
type Config struct {
	// Open begins to read behind a position.
	Open func(ctx context.Context, after schemas.Position) (Source, error)
	// Store is folded through After.
	Store Store
	// Sequencer has the state at After; it is the live half's from Start on.
	Sequencer *event.Sequencer
	// After is where to go on: the first message read is the one behind it.
	After schemas.Position
	// Target is the log's last position at start: having passed it, the live
	// half has caught up.
	Target schemas.Position
	// Control is called for each control record other than a cut, at its place
	// in the order. It may return a sequencer made from st to go on with, for
	// definitions change at a position (H11); nil keeps the current one. An
	// error ends the live half. May be nil.
	Control func(m eventlog.Message, st *event.State) (*event.Sequencer, error)
	// Sessions is how many sessions' accounts are remembered; the one that was
	// counted longest ago goes first. Defaults to 10,000.
	Sessions int
	Hooks    Hooks
	// Alloc is where batches take their memory; defaults to Go's heap.
	Alloc memory.Allocator
	// After a temporary error the same call is made again after Retry(n), n = 1,
	// 2, ... The channel counts, so that tests need not wait; it defaults to
	// 10 ms, doubled up to 1 s.
	Retry func(attempt int) <-chan time.Time
	// Now is the clock of durations in hooks; defaults to time.Now.
	Now func() time.Time
}

// Hooks tell metrics and health what happens. They are called from the live
// half's goroutines, must not block and must not call it. All may be nil.
type Hooks struct {
	// Applied is called with each item that the store has taken, before Wait and
	// Progress know of it.
	Applied func(Applied)
	// Held is called with each temporary error, Resumed when the call that
	// failed has succeeded.
	Held    func(err error)
	Resumed func()
}

// Applied is one micro-batch or cut that the store has taken.
type Applied struct {
	Through  schemas.Position
	LogTime  time.Time // the log's timestamp of the last message
	Events   int       // received
	Bytes    int64     // of messages
	Decoding time.Duration
	Folding  time.Duration
	Accounts []event.StreamAccount
}

// Progress is how far the live half is.
type Progress struct {
	After    schemas.Position // where it began
	Through  schemas.Position
	Target   schemas.Position // the log's last position at start
	CaughtUp bool             // has Through reached Target, once
	Events   int64            // received since it began
	Held     error            // the temporary error that it waits out now, if any
}

// ErrStopped is why Wait fails when the live half was stopped.
var ErrStopped = errors.New("the live half was stopped")

// Live is the running live half. Start it once; Stop it as often as you like.
// Its methods are safe for concurrent use.
type Live struct {
	cfg    Config
	cancel context.CancelCauseFunc
	done   chan struct{} // closed when both goroutines have ended
	caught chan struct{} // closed when it has caught up

	mu       sync.Mutex
	started  bool
	stopped  bool
	err      error // why it ended
	progress Progress
	moved    chan struct{} // closed, and made anew, when Through moves
	accounts map[string]schemas.Account
	sessions *sessions
}

// New makes a live half that is not started.
func New(cfg Config) (*Live, error) {
	if cfg.Open == nil || cfg.Store == nil || cfg.Sequencer == nil {
		return nil, errors.New("speed: Config needs Open, Store and Sequencer")
	}
	if cfg.Sessions == 0 {
		cfg.Sessions = 10_000
	}
	if cfg.Alloc == nil {
		cfg.Alloc = memory.DefaultAllocator
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Retry == nil {
		cfg.Retry = backoff
	}
	l := &Live{
		cfg: cfg, done: make(chan struct{}), caught: make(chan struct{}), moved: make(chan struct{}),
		accounts: map[string]schemas.Account{}, sessions: newSessions(cfg.Sessions),
		progress: Progress{After: cfg.After, Through: cfg.After, Target: cfg.Target, CaughtUp: cfg.After >= cfg.Target},
	}
	if l.progress.CaughtUp {
		close(l.caught)
	}
	return l, nil
}

func backoff(attempt int) <-chan time.Time {
	return time.After(min(time.Second, 10*time.Millisecond<<min(attempt-1, 7)))
}

// Start begins to read. The live half then runs until Stop, the end of ctx, or
// an error, which [Live.Err] gives. A second Start is an error.
func (l *Live) Start(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.started || l.stopped {
		return errors.New("speed: the live half was started or stopped before")
	}
	ctx, cancel := context.WithCancelCause(ctx)
	src, err := l.cfg.Open(ctx, l.cfg.After)
	if err != nil {
		cancel(err)
		return fmt.Errorf("reading the log behind %s: %w", l.cfg.After, err)
	}
	l.started, l.cancel = true, cancel
	go l.run(ctx, src)
	return nil
}

// Stop ends the live half and waits until it has. What the store has taken
// stays; what was only decoded is read again by the next process.
func (l *Live) Stop() {
	l.mu.Lock()
	l.stopped = true
	started, cancel := l.started, l.cancel
	l.mu.Unlock()
	if started {
		cancel(ErrStopped)
		<-l.done
	}
}

// Done is closed when the live half has ended.
func (l *Live) Done() <-chan struct{} { return l.done }

// CaughtUp is closed when live-through has reached the target.
func (l *Live) CaughtUp() <-chan struct{} { return l.caught }

// Err is why the live half has ended: ErrStopped after Stop; nil while it runs.
func (l *Live) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// Progress is how far it is.
func (l *Live) Progress() Progress {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.progress
}

// Accounts is what became of the events of each stream since Config.After.
func (l *Live) Accounts() map[string]schemas.Account {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make(map[string]schemas.Account, len(l.accounts))
	for k, v := range l.accounts {
		out[k] = v
	}
	return out
}

// Session is what became of a session's events since Config.After, through the
// position returned. A session that is unknown, or forgotten, has an empty account.
func (l *Live) Session(name string) (schemas.Account, schemas.Position) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sessions.get(name), l.progress.Through
}

// Wait returns when live-through has reached at, or with the error that ended
// ctx or the live half.
func (l *Live) Wait(ctx context.Context, at schemas.Position) error {
	for {
		l.mu.Lock()
		through, moved, err := l.progress.Through, l.moved, l.err
		l.mu.Unlock()
		switch {
		case through >= at:
			return nil
		case err != nil:
			return err
		}
		select {
		case <-moved:
		case <-l.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
