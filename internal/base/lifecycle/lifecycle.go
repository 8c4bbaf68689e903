// Package lifecycle is the one shape of everything that runs between a start
// and a stop. [Base] is embedded by a type whose goroutines run that long;
// [List] starts such types, and anything else that is opened and closed, in
// order and stops them in the opposite order.
//
// The package knows nothing of the domain.
package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// Errors of a service's start and end.
var (
	// ErrStopped is why a service ended that Stop ended, and why one that was
	// stopped cannot start.
	ErrStopped = errors.New("stopped")
	// ErrStarted is why a service does not start a second time.
	ErrStarted = errors.New("started already")
)

// Service runs between Start and Stop, once. Its methods are safe for
// concurrent use.
type Service interface {
	// Start returns when the service runs; it then runs until Stop, the end of
	// ctx, or an error of its own.
	Start(ctx context.Context) error
	// Stop ends the service and returns when it has ended. It may be called
	// more than once, and without Start.
	Stop()
	// Done is closed when the service has ended.
	Done() <-chan struct{}
	// Err returns why the service ended: ErrStopped after Stop, the cause of the
	// context that ended, or the service's own error. It returns nil while the
	// service runs, and if it ended by itself without an error.
	Err() error
}

// Base implements a [Service] but for Start, which the type that embeds it
// writes with [Base.Go]. The zero value is ready to use.
type Base struct {
	mu     sync.Mutex
	phase  phase
	cancel context.CancelCauseFunc // set by Go
	done   chan struct{}           // made when first needed
	err    error                   // set before done is closed
}

type phase uint8

const (
	idle phase = iota
	running
	ended
)

// Go runs f on a goroutine of its own. Its context ends with ctx, or with cause
// ErrStopped when Stop is called; f must then return, and must wait for every
// goroutine that it started. Go fails with ErrStarted if it was called before
// and with ErrStopped after Stop.
func (b *Base) Go(ctx context.Context, f func(ctx context.Context) error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.cancel != nil:
		return ErrStarted
	case b.phase == ended:
		return ErrStopped
	}
	ctx, cancel := context.WithCancelCause(ctx)
	b.phase, b.cancel = running, cancel
	done := b.doneLocked()
	go func() {
		err := f(ctx)
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		cancel(nil)
		b.mu.Lock()
		b.phase, b.err = ended, err
		b.mu.Unlock()
		close(done)
	}()
	return nil
}

// Stop ends the service and waits until it has ended.
func (b *Base) Stop() {
	b.mu.Lock()
	done := b.doneLocked()
	switch b.phase {
	case idle:
		b.phase, b.err = ended, ErrStopped
		close(done)
	case running:
		b.cancel(ErrStopped)
	}
	b.mu.Unlock()
	<-done
}

// Done is closed when the service has ended.
func (b *Base) Done() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.doneLocked()
}

// Err returns why the service ended; see [Service].
func (b *Base) Err() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

func (b *Base) doneLocked() chan struct{} {
	if b.done == nil {
		b.done = make(chan struct{})
	}
	return b.done
}

// Step is one entry of a [List].
type Step struct {
	// Name says what starting it does, such as "opening the log".
	Name string
	// Start returns when the next step can start.
	Start func(ctx context.Context) error
	// Stop undoes Start; nil if there is nothing to undo. The context bounds how
	// long it may wait for others, not how long it may take to clean up.
	Stop func(ctx context.Context) error
}

// List is an ordered list of steps.
type List struct {
	Steps []Step

	mu      sync.Mutex
	started int  // Steps[:started] are to be stopped
	stopped bool // no step starts any more
}

// Start starts the steps in order. enter, if not nil, is called with each
// step's name before it starts. The first error ends it; what was started stays
// so until Stop. Start must be called once, and may run while Stop is called:
// then it returns ErrStopped before the next step.
func (l *List) Start(ctx context.Context, enter func(name string)) error {
	for _, s := range l.Steps {
		if err := l.start(ctx, s, enter); err != nil {
			return err
		}
	}
	return nil
}

func (l *List) start(ctx context.Context, s Step, enter func(string)) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopped {
		return ErrStopped
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if enter != nil {
		enter(s.Name)
	}
	if err := s.Start(ctx); err != nil {
		return err
	}
	l.started++
	return nil
}

// Stop stops what was started, in the opposite order. It waits for a step that
// is starting, so end the context of Start first. The errors are joined; each
// says which step it is of. It may be called more than once.
func (l *List) Stop(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stopped = true
	var errs []error
	for ; l.started > 0; l.started-- {
		s := l.Steps[l.started-1]
		if s.Stop == nil {
			continue
		}
		if err := s.Stop(ctx); err != nil {
			errs = append(errs, fmt.Errorf("after %s: %w", s.Name, err))
		}
	}
	return errors.Join(errs...)
}
