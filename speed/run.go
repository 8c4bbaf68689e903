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

// batches is how many batches go round: one that is decoded, one that is
// applied.
const batches = 2

// An item is what the decoder hands to the folder: a batch, or a cut.
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

// run is the folder's goroutine, and starts the decoder's.
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

// end notes why the live half ends, the first reason winning, and ends the
// other goroutine.
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
	ready chan struct{} // the folder says that it is idle
	out   chan item

	batch   *event.Batch // under way, nil if none
	logTime time.Time
	spent   time.Duration
}

// topUp is how many events a batch may gain when the folder waits for it
// already: enough to take along what arrived during the last wait, too few to
// keep the folder waiting while messages come as fast as they are decoded.
const topUp = 4096

// run decodes until something fails. It never returns nil.
//
// A batch is handed over as soon as the folder is ready. While the folder is
// busy it grows, so that the batch size settles where decoding one batch takes
// as long as folding the one before it.
func (d *decoder) run(ctx context.Context) error {
	for {
		m, err := d.src.Next(ctx)
		if err == nil {
			err = d.take(ctx, m)
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

// grow adds the next message; if there is none, it waits for the folder.
func (d *decoder) grow(ctx context.Context) error {
	m, ok, err := d.src.TryNext()
	switch {
	case err != nil:
		return err
	case ok:
		return d.take(ctx, m)
	}
	select {
	case <-d.ready:
		return d.handOver(ctx)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// handOver tops the batch up and gives it to the folder, which is ready.
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

// take adds one message to the order of things.
func (d *decoder) take(ctx context.Context, m eventlog.Message) error {
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

// begin makes sure that there is a batch to add to.
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

// flush hands the batch over, if there is one, when the folder is ready.
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

// send hands the batch to a folder that is ready.
func (d *decoder) send(ctx context.Context) error {
	begin := d.l.cfg.Now()
	d.batch.Records() // closes its builders here, while nothing waits for the store
	it := item{batch: d.batch, logTime: d.logTime, decoding: d.spent + d.l.cfg.Now().Sub(begin)}
	d.batch, d.spent = nil, 0
	select {
	case d.out <- it:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// control meets a control record; everything before it is handed over.
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
		next, err := d.l.cfg.Control(m, d.seq.State())
		if err != nil {
			return err
		}
		if next != nil {
			d.seq = next
		}
	}
	if err := d.begin(ctx); err != nil {
		return err
	}
	// Live-through passes the record with a batch of no events, so that none
	// has events from both sides of it.
	d.batch.Through, d.logTime = m.At, m.Time
	return d.flush(ctx)
}

// fold applies items until something fails. It never returns nil.
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
		a.Events, a.Bytes, a.Accounts = it.batch.Events, it.batch.Bytes, it.batch.Accounts()
		sessions = it.batch.Sessions()
	}
	// The hook first: who waits for this position finds it counted.
	if l.cfg.Hooks.Applied != nil {
		l.cfg.Hooks.Applied(a)
	}
	l.advance(a, sessions)
	return nil
}

// persist calls f until it succeeds or fails for good. Nothing is ever dropped:
// while f fails, the log keeps what comes.
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

// hold notes what the live half waits out; nil: it goes on.
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

// advance makes an applied item visible to Wait, Progress and the accounts.
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
	for _, s := range a.Accounts {
		sum := l.accounts[s.Stream]
		sum.Add(s.Account)
		l.accounts[s.Stream] = sum
	}
	for _, s := range sessions {
		l.sessions.add(s.Session, s.Account)
	}
	close(l.moved)
	l.moved = make(chan struct{})
}
