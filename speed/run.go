package speed

import (
	"context"
	"errors"
	"sync"
	"time"

	"duet/schemas"
	"duet/schemas/event"
	"duet/speed/eventlog"
)

// batches is the number of batches in use: one is decoded while the other is
// applied.
const batches = 2

// An item is a batch or a cut, on its way from the decoder to fold.
type item struct {
	batch    *event.Batch // nil for a cut
	cut      schemas.Position
	logTime  time.Time
	decoding time.Duration
}

func (i item) through() schemas.Position {
	if i.batch == nil {
		return i.cut
	}
	return i.batch.Through
}

// run starts the decoder's goroutine and applies what it decodes.
func (l *Live) run(ctx context.Context, src Source) {
	d := &decoder{
		l: l, src: src, seq: l.cfg.Sequencer,
		free: make(chan *event.Batch, batches), ready: make(chan struct{}), out: make(chan item),
	}
	all := make([]*event.Batch, batches)
	for i := range all {
		all[i] = event.NewBatch(l.cfg.Alloc)
		d.free <- all[i]
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		defer src.Close()
		l.end(ctx, d.run(ctx))
	})
	l.end(ctx, l.fold(ctx, d))
	wg.Wait()
	for _, b := range all {
		b.Release()
	}
	l.mu.Lock()
	l.progress.Held = nil
	l.mu.Unlock()
	close(l.done)
}

// end records the first error as the reason why the live half ends, and cancels
// both goroutines.
func (l *Live) end(ctx context.Context, err error) {
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	l.mu.Lock()
	if l.err == nil {
		l.err = err
	}
	l.mu.Unlock()
	l.cancel(err)
}

// decoder is the state of the decoding goroutine.
type decoder struct {
	l     *Live
	src   Source
	seq   *event.Sequencer
	free  chan *event.Batch
	ready chan struct{} // receives a value when fold can take the next item
	out   chan item

	batch   *event.Batch // the current batch, or nil
	logTime time.Time
	spent   time.Duration
}

// topUp is the maximum number of events added to a batch while fold is idle: it
// is enough for what arrived during the last wait, and too few to keep fold idle
// while messages arrive as fast as they are decoded.
const topUp = 4096

// run decodes messages until one fails. It never returns nil.
//
// A batch is handed over as soon as fold is ready, and grows while fold is busy.
// So batches become as large as needed for decoding one to take as long as
// folding the one before it.
func (d *decoder) run(ctx context.Context) error {
	for {
		m, err := d.src.Next(ctx)
		if err == nil {
			err = d.append(ctx, m)
		}
		for err == nil && d.batch != nil {
			select {
			case <-d.ready:
				err = d.handOver(ctx)
			default:
				err = d.grow(ctx)
			}
		}
		if err != nil {
			return err
		}
	}
}

// grow appends the next message. If there is none, it waits until fold is ready.
func (d *decoder) grow(ctx context.Context) error {
	m, ok, err := d.src.TryNext()
	switch {
	case err != nil:
		return err
	case ok:
		return d.append(ctx, m)
	}
	select {
	case <-d.ready:
		return d.handOver(ctx)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// handOver adds up to topUp events to the batch and hands it to fold, which is
// ready.
func (d *decoder) handOver(ctx context.Context) error {
	for most := d.batch.Events + topUp; d.batch.Events < most && !d.batch.Full(); {
		m, ok, err := d.src.TryNext()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		if m.Control != "" {
			if err := d.send(ctx); err != nil {
				return err
			}
			return d.control(ctx, m)
		}
		d.add(m)
	}
	return d.send(ctx)
}

// append appends one message to the current batch.
func (d *decoder) append(ctx context.Context, m eventlog.Message) error {
	if m.Control != "" {
		if err := d.flush(ctx); err != nil {
			return err
		}
		return d.control(ctx, m)
	}
	if err := d.begin(ctx); err != nil {
		return err
	}
	d.add(m)
	if d.batch.Full() {
		return d.flush(ctx)
	}
	return nil
}

// begin makes sure that there is a current batch.
func (d *decoder) begin(ctx context.Context) error {
	if d.batch != nil {
		return nil
	}
	select {
	case d.batch = <-d.free:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (d *decoder) add(m eventlog.Message) {
	begin := d.l.cfg.Now()
	d.seq.Apply(event.Message{Stream: m.Stream, At: m.At, Time: m.Time, Data: m.Data}, d.batch)
	d.logTime = m.Time
	d.spent += d.l.cfg.Now().Sub(begin)
}

// flush hands the current batch over, if there is one, when fold is ready.
func (d *decoder) flush(ctx context.Context) error {
	if d.batch == nil {
		return nil
	}
	select {
	case <-d.ready:
		return d.send(ctx)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// send hands the current batch to fold, which is ready.
func (d *decoder) send(ctx context.Context) error {
	begin := d.l.cfg.Now()
	d.batch.Records() // finish the builders here, where the store does not wait for it
	it := item{batch: d.batch, logTime: d.logTime, decoding: d.spent + d.l.cfg.Now().Sub(begin)}
	d.batch, d.spent = nil, 0
	select {
	case d.out <- it:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// control handles a control record. Everything before it has been handed over.
func (d *decoder) control(ctx context.Context, m eventlog.Message) error {
	if m.Control == CutKind {
		select {
		case <-d.ready:
		case <-ctx.Done():
			return ctx.Err()
		}
		select {
		case d.out <- item{cut: m.At, logTime: m.Time}:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if d.l.cfg.Control != nil {
		if err := d.l.cfg.Control(m); err != nil {
			return err
		}
	}
	if err := d.begin(ctx); err != nil {
		return err
	}
	// Move live-through past the record with an empty batch, so that no batch has
	// events from both sides of it.
	d.batch.Through, d.logTime = m.At, m.Time
	return d.flush(ctx)
}

// fold applies items until one fails. It never returns nil.
func (l *Live) fold(ctx context.Context, d *decoder) error {
	for {
		select {
		case d.ready <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		select {
		case it := <-d.out:
			if err := l.applyItem(ctx, it); err != nil {
				return err
			}
			if it.batch != nil {
				it.batch.Reset()
				d.free <- it.batch
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (l *Live) applyItem(ctx context.Context, it item) error {
	begin := l.cfg.Now()
	err := l.persist(ctx, func() error {
		if it.batch == nil {
			return l.cfg.Store.Cut(ctx, it.cut)
		}
		return l.cfg.Store.Apply(ctx, it.batch)
	})
	if err != nil {
		return err
	}
	a := Applied{Through: it.through(), LogTime: it.logTime, Decoding: it.decoding, Folding: l.cfg.Now().Sub(begin)}
	var sessions []event.SessionAccount
	if it.batch != nil {
		a.Events, a.Bytes, a.Accounts, a.Messages = it.batch.Events, it.batch.Bytes, it.batch.Accounts(), it.batch.Messages()
		sessions = it.batch.Sessions()
	}
	// Run the hook before Wait returns, so that a caller that waits for a position
	// sees its counts.
	if l.cfg.Hooks.Applied != nil {
		l.cfg.Hooks.Applied(a)
	}
	l.advance(a, sessions)
	return nil
}

// persist calls f until it succeeds or fails with an error that is not temporary.
// Nothing is dropped: while f fails, new messages stay in the log.
func (l *Live) persist(ctx context.Context, f func() error) error {
	for attempt := 1; ; attempt++ {
		err := f()
		if err == nil {
			if attempt > 1 {
				l.hold(nil)
			}
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var t interface{ Temporary() bool }
		if !errors.As(err, &t) || !t.Temporary() {
			return err
		}
		l.hold(err)
		select {
		case <-l.cfg.Retry(attempt):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// hold records the temporary error that is being retried; nil means that a retry
// has succeeded.
func (l *Live) hold(err error) {
	l.mu.Lock()
	l.progress.Held = err
	l.mu.Unlock()
	switch {
	case err != nil && l.cfg.Hooks.Held != nil:
		l.cfg.Hooks.Held(err)
	case err == nil && l.cfg.Hooks.Resumed != nil:
		l.cfg.Hooks.Resumed()
	}
}

// advance makes an applied item visible to Wait, Progress and Session.
func (l *Live) advance(a Applied, sessions []event.SessionAccount) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := &l.progress
	p.Through = a.Through
	p.Events += int64(a.Events)
	if !p.CaughtUp && p.Through >= p.Target {
		p.CaughtUp = true
		close(l.caught)
	}
	for _, s := range sessions {
		l.sessions.add(s.Session, s.Account)
	}
	close(l.moved)
	l.moved = make(chan struct{})
}
