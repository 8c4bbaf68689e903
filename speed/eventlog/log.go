package eventlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"duet/schemas"
)

// closeTimeout is how long Close waits for what is on its way.
const closeTimeout = 10 * time.Second

// Log is an open log. All methods may be called at once from any goroutine.
type Log struct {
	cfg     Config              // set once in Open
	inc     schemas.Incarnation // set once in Open
	from    schemas.Position    // position that this incarnation continues from; set once in Open
	slots   chan struct{}       // one token for each publish under way
	life    context.Context     // ends, with ErrClosed, when the log closes
	end     context.CancelCauseFunc
	wg      sync.WaitGroup // background, repair, readers
	highMu  sync.Mutex     // held while highwater.json is written
	trimMu  sync.Mutex     // held while a trim runs
	shut    sync.Once
	shutErr error

	mu      sync.Mutex
	eng     *engine // replaced by repair
	chain   chain
	first   uint64 // sequence of the oldest message
	last    uint64 // sequence of the newest durable message
	lastSum sum
	used    int64  // bytes, as the server counts them
	high    uint64 // sequence in highwater.json
	fatal   error  // set when the log turned out not to be the one it should be
	closed  bool
	changed chan struct{} // closed when any of the above changed; nil if nobody waits
}

// Incarnation says which log this is.
func (l *Log) Incarnation() schemas.Incarnation { return l.inc }

// Continues is the position of the lost log before this one up to which its
// messages still count; 0 for a project's first log.
func (l *Log) Continues() schemas.Position { return l.from }

// First is the position of the oldest message that the log holds.
func (l *Log) First() schemas.Position {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.at(l.first)
}

// Last is the position of the newest durable message.
func (l *Log) Last() schemas.Position {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.at(l.last)
}

func (l *Log) at(seq uint64) schemas.Position { return schemas.NewPosition(l.inc.Ordinal, seq) }

// Usage is what the log's messages take and may take, in bytes.
func (l *Log) Usage() (used, limit int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.used, l.cfg.MaxBytes
}

// Level is how well the log is.
type Level int

// Levels of health.
const (
	OK       Level = iota
	Degraded       // more than half full: batch runs do not keep up
	Refusing       // events are refused: full, not writable, or not the right log
)

func (v Level) String() string { return [...]string{"ok", "degraded", "refusing"}[v] }

// Health is the log's level and, unless it is OK, the reason.
func (l *Log) Health() (Level, string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	percent := l.used * 100 / l.cfg.MaxBytes
	full := fmt.Sprintf("%d of %d bytes (%d%%) are used", l.used, l.cfg.MaxBytes, percent)
	switch {
	case l.closed:
		return Refusing, ErrClosed.Error()
	case l.fatal != nil:
		return Refusing, l.fatal.Error()
	case l.chain.broken != nil && l.chain.repaired:
		return Refusing, "cannot be written: " + l.chain.broken.Error()
	case percent >= refusePercent:
		return Refusing, full
	case percent >= degradePercent:
		return Degraded, full
	}
	return OK, ""
}

// Append stores an envelope of a stream and returns its position. When it
// returns nil the envelope is durable (H8). Errors: ErrFull, ErrTooLarge,
// ErrUnavailable, ErrClosed and *RefusedError mean that it was not stored; an
// *UnknownError means that ctx ended first.
func (l *Log) Append(ctx context.Context, stream string, envelope []byte) (schemas.Position, error) {
	if !nameRE.MatchString(stream) {
		return 0, &RequestError{Field: "stream", Reason: fmt.Sprintf("%q is not a stream's name", stream)}
	}
	return l.publish(ctx, eventPrefix+stream, envelope, false)
}

// Control stores a control record, such as "cut" or "definitions", and returns
// its position. It may use the bytes that events may not. Errors are those of
// Append.
func (l *Log) Control(ctx context.Context, kind string, body []byte) (schemas.Position, error) {
	if !nameRE.MatchString(kind) || kind == beginKind {
		return 0, &RequestError{Field: "kind", Reason: fmt.Sprintf("%q is not a control record that may be written", kind)}
	}
	return l.publish(ctx, controlPrefx+kind, body, true)
}

func (l *Log) publish(ctx context.Context, subject string, body []byte, control bool) (schemas.Position, error) {
	if len(body) > MaxEnvelope {
		return 0, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(body), MaxEnvelope)
	}
	message := append(frame(make([]byte, 0, subjectAt+len(subject)+len(body)), subject), body...)
	for {
		changed := l.change()
		p, err := l.send(ctx, anyEpoch, subject, message, control)
		if err == nil {
			err = p.wait(ctx)
		}
		if err == nil {
			return p.at, nil
		}
		if !errors.Is(err, errAborted) {
			return 0, err
		}
		// Not stored, for another's fault: again when the chain goes on.
		if !l.chainBroken() {
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		case <-l.life.Done():
			return 0, ErrClosed
		}
	}
}

// Holds reports, after an *UnknownError of Append, whether that message is stored. It
// waits until the publishes under way are settled.
func (l *Log) Holds(ctx context.Context, at schemas.Position, stream string, envelope []byte) (bool, error) {
	if at == 0 {
		return false, &RequestError{"at", "0 is no message's position"}
	}
	for {
		changed := l.change()
		l.mu.Lock()
		eng, last, fatal := l.eng, l.last, l.fatal
		open := l.chain.broken != nil
		for _, p := range l.chain.pending {
			open = open || p.at == at
		}
		l.mu.Unlock()
		switch {
		case fatal != nil:
			return false, fatal
		case !open && (at.Ordinal() != l.inc.Ordinal || at.Sequence() > last):
			return false, nil
		case !open:
			m, err := eng.message(ctx, l.inc, at.Sequence())
			if err != nil {
				return false, err
			}
			return m.Stream == stream && bytes.Equal(m.Data, envelope), nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false, context.Cause(ctx)
		case <-l.life.Done():
			return false, ErrClosed
		}
	}
}

// LastControl reads the last control record of a kind; ok is false if the log
// holds none, or no more.
func (l *Log) LastControl(ctx context.Context, kind string) (m Message, ok bool, err error) {
	l.mu.Lock()
	eng := l.eng
	l.mu.Unlock()
	stream, err := eng.stream(ctx)
	if err != nil || stream == nil {
		return m, false, errors.Join(err, l.failure())
	}
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	raw, err := stream.GetLastMsgForSubject(ctx, controlPrefx+kind)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return m, false, nil
	}
	if err != nil {
		return m, false, fmt.Errorf("reading the log's last record of %s: %w", kind, err)
	}
	m, err = parse(raw.Data, l.inc, raw.Sequence)
	return m, err == nil, err
}

func (l *Log) chainBroken() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.chain.broken != nil
}

// epoch is what send wants from a sender whose messages depend on each other.
func (l *Log) epoch() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.chain.epoch
}

// change returns a channel that is closed at the next change of the log's
// state. Take it before looking at the state.
func (l *Log) change() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.changed == nil {
		l.changed = make(chan struct{})
	}
	return l.changed
}

// notify wakes those who wait for a change. Log.mu is held.
func (l *Log) notify() {
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
}

// MarkHigh makes the newest durable message one that the log must still hold
// at its next start. It returns when that is on disk.
func (l *Log) MarkHigh(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	l.highMu.Lock()
	defer l.highMu.Unlock()
	l.mu.Lock()
	last, s, high, fatal := l.last, l.lastSum, l.high, l.fatal
	l.mu.Unlock()
	if fatal != nil {
		return fatal
	}
	if last == high {
		return nil
	}
	if err := writeHigh(l.cfg.Dir, l.inc, last, s); err != nil {
		return fmt.Errorf("high-water mark: %w", err)
	}
	l.mu.Lock()
	l.high = last
	l.mu.Unlock()
	return nil
}

func writeHigh(dir string, inc schemas.Incarnation, seq uint64, s sum) error {
	return writeSealed(highPath(dir), highFile{Format: fileFormat, Incarnation: inc.ID, Ordinal: inc.Ordinal, Sequence: seq, Sum: s.String()})
}

// background renews the high-water mark and watches for a stuck server, each
// second.
func (l *Log) background() {
	defer l.wg.Done()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-l.life.Done():
			return
		case now := <-tick.C:
			if err := l.MarkHigh(context.Background()); err != nil {
				l.cfg.Logger.Error("log", "error", err)
			}
			l.watch(now)
		}
	}
}

// watch takes the server for broken when a publish goes unanswered.
func (l *Log) watch(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	under := l.chain.pending
	if len(under) == 0 || l.chain.repaired {
		return
	}
	silent := now.Sub(under[0].sent)
	if silent < ackTimeout && !(l.eng.log.complained.Load() != nil && silent > complainTimeout) {
		return
	}
	for _, p := range under {
		p.unknown = true
	}
	l.breakChain(fmt.Errorf("the log's server did not answer for %s: %s", silent.Round(time.Second), l.eng.log.complaint()), true)
}

// Close waits for the publishes under way, renews the high-water mark and ends
// the server. Readers and later calls get ErrClosed. Closing twice is fine.
func (l *Log) Close() error {
	l.shut.Do(func() { l.shutErr = l.close() })
	return l.shutErr
}

func (l *Log) close() error {
	l.mu.Lock()
	l.closed = true // no new publishes
	var under []*inflight
	if l.chain.broken == nil {
		under = append(under, l.chain.pending...)
	}
	l.mu.Unlock()
	deadline := time.NewTimer(closeTimeout)
	defer deadline.Stop()
	for _, p := range under {
		select {
		case <-p.done:
		case <-deadline.C:
			under = nil
		}
		if under == nil {
			break
		}
	}
	l.end(ErrClosed)
	l.wg.Wait()
	var err error
	if l.failure() == nil {
		err = l.MarkHigh(context.Background())
	}
	l.eng.stop()
	l.mu.Lock()
	l.fail(ErrClosed) // whoever still waits
	l.notify()
	l.mu.Unlock()
	return err
}

func (l *Log) failure() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fatal
}
