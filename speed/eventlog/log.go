package eventlog

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"duet/schemas"
)

// closeTimeout is how long Close waits for publishes on their way.
const closeTimeout = 10 * time.Second

// Log is an open log. All methods are safe for concurrent use.
type Log struct {
	cfg      Config              // set once in Open
	folder   os.FileInfo         // of incarnation.json; set once in Open
	inc      schemas.Incarnation // set once in Open
	adoption *schemas.Adoption   // nil for a project's first log; set once in Open
	slots    chan struct{}       // holds one token for each publish on its way
	life     context.Context     // ends with ErrClosed when the log closes
	end      context.CancelCauseFunc
	wg       sync.WaitGroup // background, repair, readers
	highMu   sync.Mutex     // held while highwater.json is written; before mu
	trimMu   sync.Mutex     // held while a trim runs; before mu
	shut     sync.Once
	shutErr  error

	mu      sync.Mutex
	eng     *engine // replaced by repair
	chain   chain
	first   uint64 // sequence of the oldest message
	last    uint64 // sequence of the newest durable message
	lastSum sum
	used    int64 // bytes, as the server counts them
	sizes   sizes // of the messages through last
	filling bool  // Config.Filling was called, and the part that cannot be trimmed has not shrunk since
	// trimmable is the last position that Trim was allowed to drop; trimKnown is set
	// by the first Trim.
	trimmable schemas.Position
	trimKnown bool
	high      uint64 // sequence in highwater.json
	fatal     error  // the answer to all later calls; see fail
	closed    bool
	changed   chan struct{} // closed when any of the above changes; nil if no caller waits
}

// Incarnation returns the identity of the log.
func (l *Log) Incarnation() schemas.Incarnation { return l.inc }

// Continues returns the last position of the lost log before this one that
// still counts, or 0 for a project's first log.
func (l *Log) Continues() schemas.Position {
	if l.adoption == nil {
		return 0
	}
	return l.adoption.Continues
}

// Adoption returns what the log gave up if it was begun in place of a lost one,
// and nil if it is the project's first.
func (l *Log) Adoption() *schemas.Adoption { return l.adoption }

// First returns the position of the oldest message in the log.
func (l *Log) First() schemas.Position {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.at(l.first)
}

// Last returns the position of the newest durable message.
func (l *Log) Last() schemas.Position {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.at(l.last)
}

func (l *Log) at(seq uint64) schemas.Position { return schemas.NewPosition(l.inc.Ordinal, seq) }

// Usage returns the size of the log's messages and its limit, in bytes.
func (l *Log) Usage() (used, limit int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.used, l.cfg.MaxBytes
}

// Level is the health of a log.
type Level int

// Levels of health.
const (
	OK       Level = iota
	Degraded       // half of the limit is used by messages that cannot be trimmed yet
	Refusing       // events are refused: the log is full, not writable, or not the one it should be
)

func (v Level) String() string { return [...]string{"ok", "degraded", "refusing"}[v] }

// Health returns the log's level and, unless it is OK, the reason.
func (l *Log) Health() (Level, string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	untrimmable := l.untrimmable()
	switch {
	case l.closed:
		return Refusing, ErrClosed.Error()
	case l.fatal != nil:
		return Refusing, l.fatal.Error()
	case l.chain.broken != nil && l.chain.repairing:
		return Refusing, "cannot be written: " + l.chain.broken.Error()
	case l.used*100 >= l.cfg.MaxBytes*refusePercent:
		return Refusing, (&FullError{Used: l.used, Limit: l.cfg.MaxBytes}).Error()
	case untrimmable*100 >= l.cfg.MaxBytes*degradePercent:
		return Degraded, fmt.Sprintf("%d%% of the log's limit (%d of %d bytes) are not archived yet: batch runs or archiving do not keep up; see duet batch list, or raise limits.log in duet.yaml",
			untrimmable*100/l.cfg.MaxBytes, untrimmable, l.cfg.MaxBytes)
	}
	return OK, ""
}

// Append stores an envelope of a stream, and returns its position when it is
// durable (H8). ErrFull, ErrTooLarge, ErrUnavailable, ErrClosed and
// *RefusedError mean that it was not stored; an *UnknownError means that ctx
// ended first.
func (l *Log) Append(ctx context.Context, stream string, envelope []byte) (schemas.Position, error) {
	if !nameRE.MatchString(stream) {
		return 0, &RequestError{Field: "stream", Reason: fmt.Sprintf("%q is not a stream's name", stream)}
	}
	return l.publish(ctx, eventPrefix+stream, envelope, false)
}

// Control stores a control record, such as "cut" or "definitions", and returns
// its position when it is durable. It may use the share of the byte limit that
// events may not. Errors are those of Append.
func (l *Log) Control(ctx context.Context, kind string, body []byte) (schemas.Position, error) {
	if !nameRE.MatchString(kind) || kind == beginKind {
		return 0, &RequestError{Field: "kind", Reason: fmt.Sprintf("%q is not the kind of a control record that may be written", kind)}
	}
	return l.publish(ctx, controlPrefx+kind, body, true)
}

// LastControl returns the last control record of a kind. ok is false if the log
// does not hold one, or no longer.
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
		return m, false, fmt.Errorf("read the log's last control record of kind %s: %w", kind, err)
	}
	m, err = parse(raw.Data, l.inc, raw.Sequence)
	return m, err == nil, err
}

// change returns a channel that is closed at the next change of the log's
// state. Call it before reading the state.
func (l *Log) change() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.changed == nil {
		l.changed = make(chan struct{})
	}
	return l.changed
}

// notify wakes callers that wait for a change. Log.mu is held.
func (l *Log) notify() {
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
}

// MarkHigh writes the newest durable message to highwater.json: a log that does
// not hold it at the next start is refused (H6). It returns when the file is
// durable.
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
		return fmt.Errorf("write the log's high-water mark: %w", err)
	}
	l.mu.Lock()
	l.high = last
	l.mu.Unlock()
	return nil
}

func writeHigh(dir string, inc schemas.Incarnation, seq uint64, s sum) error {
	return writeSealed(highPath(dir), highFile{Format: fileFormat, Incarnation: inc.ID, Ordinal: inc.Ordinal, Sequence: seq, Sum: s.String()})
}

// background renews the high-water mark, and checks the server, the log's size
// and its folder, each second.
func (l *Log) background() {
	defer l.wg.Done()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-l.life.Done():
			return
		case now := <-tick.C:
			if err := l.checkFolder(); err != nil {
				l.mu.Lock()
				l.fail(err)
				l.mu.Unlock()
				return
			}
			if err := l.MarkHigh(context.Background()); err != nil {
				l.cfg.Logger.Error("log's high-water mark is not renewed", "error", err)
			}
			l.watch(now)
			l.checkFilling()
		}
	}
}

// Close waits for the publishes on their way, renews the high-water mark and
// stops the server. Readers and later calls get ErrClosed. Closing twice is
// fine.
func (l *Log) Close() error {
	l.shut.Do(func() { l.shutErr = l.close() })
	return l.shutErr
}

func (l *Log) close() error {
	l.mu.Lock()
	l.closed = true // refuses new publishes
	l.mu.Unlock()
	deadline := time.NewTimer(closeTimeout)
	defer deadline.Stop()
	for waiting := true; waiting; {
		changed := l.change()
		l.mu.Lock()
		waiting = len(l.chain.pending) > 0 && !l.chain.repairing
		l.mu.Unlock()
		if waiting {
			select {
			case <-changed:
			case <-deadline.C:
				waiting = false
			}
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
	l.fail(ErrClosed) // settles what is still on its way
	l.notify()
	l.mu.Unlock()
	return err
}

func (l *Log) failure() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fatal
}
