// Package speed is the live half: it reads the log, decides a verdict for each
// event, and folds accepted events into the store, within milliseconds.
//
// Start reading at [Live], then run.go. While the store applies one micro-batch,
// the next one is decoded; it contains the events that arrive until the store is
// free again, up to event.MaxBatchEvents or to a control record. There are no
// timers, and no batch contains events from both sides of a control record.
//
// The package must not know SQL, files or gRPC: [Store] and [Source] are all that
// it needs. The log is package speed/eventlog.
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

// Store is where batches are folded. A failed call must not have changed anything.
// If its error has a method Temporary() bool that returns true, the call is
// retried; any other error ends the live half.
type Store interface {
	// Apply adds a batch and moves live-through to b.Through, even if b has no
	// events.
	Apply(ctx context.Context, b *event.Batch) error
	// Cut applies the cut marker at a position and moves live-through to it.
	Cut(ctx context.Context, at schemas.Position) error
}

// Source returns the messages of the log in order. *eventlog.Reader implements it.
type Source interface {
	Next(ctx context.Context) (eventlog.Message, error)
	TryNext() (m eventlog.Message, ok bool, err error)
	Close()
}

// CutKind is the kind of the control record that marks a cut.
const CutKind = "cut"

// Config configures a live half. Open, Store and Sequencer are required.
type Config struct {
	// Open returns a Source that begins behind a position.
	Open func(ctx context.Context, after schemas.Position) (Source, error)
	// Store has been folded through After.
	Store Store
	// Sequencer has the state at After. From Start on only the live half uses it.
	Sequencer *event.Sequencer
	// After is the position behind which the live half begins to read.
	After schemas.Position
	// Target is the log's last position at start. The live half has caught up when
	// it has reached it.
	Target schemas.Position
	// Control is called in log order for each control record other than a cut. An
	// error ends the live half. May be nil.
	Control func(m eventlog.Message) error
	// Sessions is the maximum number of sessions whose accounts are kept; the least
	// recently counted one is dropped. Defaults to 10,000.
	Sessions int
	Hooks    Hooks
	// Alloc allocates the memory of batches. Defaults to Go's heap.
	Alloc memory.Allocator
	// Retry returns a channel that delays the n-th retry (n = 1, 2, ...) after a
	// temporary error. Defaults to 10 ms, doubled each time up to 1 s.
	Retry func(attempt int) <-chan time.Time
	// Now is the clock that measures durations. Defaults to time.Now.
	Now func() time.Time
}

// Hooks report what the live half does, for metrics and health. They are called
// from its goroutines, must not block, and must not call it. All may be nil.
type Hooks struct {
	// Applied is called after the store has applied a batch or cut, and before Wait
	// and Progress report it.
	Applied func(Applied)
	// Held is called with each temporary error, and Resumed when a retry has
	// succeeded.
	Held    func(err error)
	Resumed func()
}

// Applied describes a micro-batch or cut that the store has applied.
type Applied struct {
	Through  schemas.Position
	LogTime  time.Time // log time of the last message
	Events   int       // received
	Bytes    int64     // of messages
	Decoding time.Duration
	Folding  time.Duration
	Accounts []event.StreamAccount
	Messages []event.MessageVerdicts // valid until the hook returns
}

// Progress says how far the live half has read.
type Progress struct {
	After    schemas.Position // Config.After
	Through  schemas.Position // live-through
	Target   schemas.Position // Config.Target
	CaughtUp bool             // Through has reached Target
	Events   int64            // received since After
	Held     error            // the temporary error that is being retried, or nil
}

// ErrStopped is the error of Wait and Err after Stop.
var ErrStopped = errors.New("the live half was stopped")

// Live is the live half. Start it once; Stop may be called at any time, more than
// once. Its methods are safe for concurrent use.
type Live struct {
	cfg    Config
	cancel context.CancelCauseFunc
	done   chan struct{} // closed when both goroutines have returned
	caught chan struct{} // closed when it has caught up

	mu       sync.Mutex
	started  bool
	stopped  bool
	err      error // why it ended; nil while it runs
	progress Progress
	moved    chan struct{} // closed and replaced when Through moves
	sessions *sessions
}

// New returns a live half that is not started.
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
		sessions: newSessions(cfg.Sessions),
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

// Start begins to read. The live half runs until Stop, the end of ctx, or an
// error, which [Live.Err] returns. A second Start fails.
func (l *Live) Start(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.started || l.stopped {
		return errors.New("speed: the live half was already started or stopped")
	}
	ctx, cancel := context.WithCancelCause(ctx)
	src, err := l.cfg.Open(ctx, l.cfg.After)
	if err != nil {
		cancel(err)
		return fmt.Errorf("read the log behind %s: %w", l.cfg.After, err)
	}
	l.started, l.cancel = true, cancel
	go l.run(ctx, src)
	return nil
}

// Stop ends the live half and returns when it has ended. What was decoded and not
// applied is read again by the next process.
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

// Err returns why the live half has ended: ErrStopped after Stop, nil while it
// runs.
func (l *Live) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// Progress returns how far the live half has read.
func (l *Live) Progress() Progress {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.progress
}

// Session returns the account of a session's events since Config.After, through
// the returned position. A session that is unknown, or was dropped, has an empty
// account.
func (l *Live) Session(name string) (schemas.Account, schemas.Position) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sessions.get(name), l.progress.Through
}

// Wait returns nil when live-through has reached at, or the error that ended ctx
// or the live half.
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
