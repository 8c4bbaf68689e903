package query

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"duet/serving/reason"
	"duet/serving/store"
)

// defaultLong is the default of Config.Long.
const defaultLong = 8

// defaultConcurrent returns the default of Config.Concurrent: queries are bound
// by the processor, and more of them at a time would only delay appends.
func defaultConcurrent() int { return max(2, runtime.GOMAXPROCS(0)) }

// Readers returns the largest number of the store's readers that an engine with
// the default limits occupies.
func Readers() int { return defaultConcurrent() + defaultLong }

// reads bounds what calls occupy of the store.
type reads struct {
	slots     *semaphore.Weighted // statements in their first Config.Overtime
	long      *semaphore.Weighted // statements that run longer, or outlive their call
	waiters   *semaphore.Weighted // calls that wait for a position
	running   atomic.Int64        // statements, abandoned ones included
	abandoned atomic.Int64
}

func newReads(cfg Config) reads {
	return reads{
		slots:   semaphore.NewWeighted(int64(cfg.Concurrent)),
		long:    semaphore.NewWeighted(int64(cfg.Long)),
		waiters: semaphore.NewWeighted(int64(cfg.Waiting)),
	}
}

// Abandoned returns the number of statements that still run although their call
// has ended.
func (e *Engine) Abandoned() int { return int(e.reads.abandoned.Load()) }

// Running returns the number of read transactions, abandoned ones included.
func (e *Engine) Running() int { return int(e.reads.running.Load()) }

// read runs f in a read transaction, once there is a slot for one. A slot is for
// short statements: one that runs longer than Config.Overtime gives its slot to
// the next call, so that long statements do not hold up short ones.
//
// When ctx ends, read returns at once. The statement is interrupted, but DuckDB
// notices that between vectors only, which can take minutes: until then f runs on
// and occupies its reader. f must therefore write to nothing but its result.
//
// Config.Long bounds the statements that gave up their slot. Beyond it, a
// statement keeps its slot until it ends.
func read[T any](ctx context.Context, e *Engine, token Token, f func(*store.Snapshot) (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	var none T
	if err := e.reads.slots.Acquire(ctx, 1); err != nil {
		return none, e.over(ctx, "other queries were still running", err)
	}
	done := make(chan result, 1)
	e.reads.running.Add(1)
	go func() {
		defer e.reads.running.Add(-1)
		var r result
		defer func() {
			if p := recover(); p != nil {
				r.err = fmt.Errorf("panic in a query: %v\n%s", p, debug.Stack())
			}
			done <- r
		}()
		r.err = e.cfg.Store.Read(ctx, func(s *store.Snapshot) (err error) {
			if s.Generation() < token.Generation {
				return reason.New(reason.CatchingUp, "generation %d of not_before is not served yet, %d is; try again", token.Generation, s.Generation())
			}
			r.value, err = f(s)
			return err
		})
	}()
	held := e.reads.slots
	giveSlot := func() {
		if held == e.reads.slots && e.reads.long.TryAcquire(1) {
			held.Release(1)
			held = e.reads.long
		}
	}
	overtime := time.NewTimer(e.cfg.Overtime)
	defer overtime.Stop()
	for {
		select {
		case r := <-done:
			held.Release(1)
			if r.err != nil {
				return none, e.ended(ctx, r.err)
			}
			return r.value, nil
		case <-overtime.C:
			giveSlot()
		case <-ctx.Done():
			giveSlot()
			e.reads.abandoned.Add(1)
			go func() {
				<-done
				e.reads.abandoned.Add(-1)
				held.Release(1)
			}()
			return none, e.over(ctx, "the query was still running", context.Cause(ctx))
		}
	}
}

// NotBefore waits until answers are not older than token, which may be empty. A
// position that the log does not have is refused at once. The number of calls
// that wait is bounded.
func (e *Engine) NotBefore(ctx context.Context, token string) (Token, error) {
	if token == "" {
		return Token{}, nil
	}
	t, err := ParseToken(token, e.cfg.Incarnation)
	if err != nil {
		return Token{}, err
	}
	position := t.Through.Position()
	if last := e.cfg.Last(); position > last {
		return Token{}, reason.Field(reason.TokenInvalid, "not_before", "position %s lies beyond the end of the log, %s; the token is of another copy of this server's data, so drop it", position, last)
	}
	if position <= e.cfg.Store.LiveThrough() {
		return t, nil
	}
	if !e.reads.waiters.TryAcquire(1) {
		return Token{}, reason.New(reason.Busy, "%d calls wait for the live half already, the most that the server allows; try again, with growing pauses", e.cfg.Waiting)
	}
	defer e.reads.waiters.Release(1)
	if err := e.cfg.Wait(ctx, position); err != nil {
		if ctx.Err() != nil {
			return Token{}, e.over(ctx, fmt.Sprintf("the live half had not reached not_before (%s)", t.Through), err)
		}
		return Token{}, err
	}
	return t, nil
}

// deadline bounds ctx.
func (e *Engine) deadline(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, e.cfg.Deadline)
}

// over returns the error of a context that has ended.
func (e *Engine) over(ctx context.Context, what string, err error) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return reason.New(reason.Cancelled, "the client cancelled the call").Because(err)
	}
	return reason.New(reason.DeadlineOver, "%s when the deadline passed; allow the call more time (at most %s) or ask for less", what, e.cfg.Deadline).Because(err)
}

// ended replaces the error of a context that has ended by its reason.
func (e *Engine) ended(ctx context.Context, err error) error {
	var known *reason.Error
	if ctx.Err() != nil && !errors.As(err, &known) {
		return e.over(ctx, "the query was still running", err)
	}
	return err
}
