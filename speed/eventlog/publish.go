package eventlog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"duet/schemas"
)

// Publishes form a chain: each one states, in a header, the sequence that it
// must follow. So several can be on their way, and none can be stored behind
// one that was not. If one fails, all that were sent after it fail too
// (errAborted). When all of them are settled, a new chain begins, with the next
// epoch.
//
// The server usually answers a publish that it could not store, and repair.go
// is not needed. It does not answer when a write failed: then the server is
// stopped, started again, and asked what it holds.

const (
	// window is the maximum number of publishes on their way. With two, the next
	// envelope is built and sent while the disk syncs the one before; with more,
	// envelopes only become smaller.
	window = 2
	// ackTimeout is how long a publish may go without an answer before the
	// server is restarted.
	ackTimeout = 30 * time.Second
	// complainTimeout is the same for a server that has logged an error.
	complainTimeout = time.Second
	// anyEpoch is the epoch of a message that does not depend on earlier ones.
	anyEpoch = 0
)

// inflight is one publish on its way.
type inflight struct {
	at      schemas.Position
	sum     sum
	size    int64
	sent    time.Time
	unknown bool // its answer leaves open whether it is stored
	// settled is called once with the outcome, in the order of sending and with
	// Log.mu held. It must not block.
	settled func(schemas.Position, error)
}

// chain is the state of publishing. All fields are guarded by Log.mu.
type chain struct {
	epoch     uint64
	next      uint64 // sequence of the next publish
	pending   []*inflight
	bytes     int64     // of pending
	broken    error     // why the chain is broken; nil if it is not
	since     time.Time // when broken was set
	repairing bool      // a broken chain is settled by repair, not by its own answers
	ackInbox  string
}

// storedSize returns the size that the server counts for a message.
func storedSize(subject string, header, message int) int64 {
	const record = 22 + 4 + 8 // record header, header length, checksum
	return int64(record + len(subject) + header + message)
}

func expectHeader(seq uint64) (nats.Header, int) {
	v := strconv.FormatUint(seq, 10)
	return nats.Header{jetstream.ExpectedLastSeqHeader: []string{v}},
		len("NATS/1.0\r\n") + len(jetstream.ExpectedLastSeqHeader) + len(": ") + len(v) + len("\r\n\r\n")
}

// publish stores one message and returns when it is durable. If it is aborted
// because another publish failed, it is sent again.
func (l *Log) publish(ctx context.Context, subject string, body []byte, control bool) (schemas.Position, error) {
	if len(body) > MaxEnvelope {
		return 0, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(body), MaxEnvelope)
	}
	message := append(frame(make([]byte, 0, subjectAt+len(subject)+len(body)), subject), body...)
	for {
		changed := l.change()
		at, err := l.publishOnce(ctx, subject, message, control)
		if !errors.Is(err, errAborted) {
			return at, err
		}
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

func (l *Log) publishOnce(ctx context.Context, subject string, message []byte, control bool) (schemas.Position, error) {
	if err := l.unavailableErr(); err != nil {
		return 0, err
	}
	if err := l.reserve(ctx); err != nil {
		return 0, errors.Join(err, l.unavailableErr())
	}
	type outcome struct {
		at  schemas.Position
		err error
	}
	settled := make(chan outcome, 1)
	if err := l.sendReserved(anyEpoch, subject, message, control, func(at schemas.Position, err error) { settled <- outcome{at, err} }); err != nil {
		l.unreserve()
		return 0, err
	}
	select {
	case o := <-settled:
		return o.at, o.err
	case <-ctx.Done():
		return 0, &UnknownError{Cause: context.Cause(ctx)}
	}
}

// reserve waits for a slot of the window. The caller passes it to sendReserved,
// or returns it with unreserve.
func (l *Log) reserve(ctx context.Context) error {
	select {
	case l.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-l.life.Done():
		return ErrClosed
	}
}

func (l *Log) unreserve() { <-l.slots }

// sendReserved sends a framed message, using a reserved slot of the window. If
// it returns nil, settled is called later and the slot is then free again; if
// it returns an error, nothing was sent and the caller keeps the slot. The
// message may be overwritten when sendReserved returns.
func (l *Log) sendReserved(epoch uint64, subject string, message []byte, control bool, settled func(schemas.Position, error)) error {
	if n := bodySize(message); n > MaxEnvelope {
		return fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, n, MaxEnvelope)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	c := &l.chain
	switch {
	case l.closed:
		return ErrClosed
	case l.fatal != nil:
		return l.fatal
	case c.broken != nil && c.repairing:
		return unavailable(c.broken)
	case c.broken != nil, epoch != anyEpoch && epoch != c.epoch:
		return errAborted
	}
	header, headerSize := expectHeader(c.next - 1)
	p := &inflight{at: l.at(c.next), size: storedSize(subject, headerSize, len(message)), sent: time.Now(), settled: settled}
	share := l.cfg.MaxBytes
	if !control {
		share = share / 100 * refusePercent
	}
	if used := l.used + c.bytes; used+p.size > share {
		return &FullError{Used: used, Limit: l.cfg.MaxBytes, Control: control}
	}
	p.sum = seal(message, l.inc.ID, c.next, p.sent)
	c.pending = append(c.pending, p)
	c.bytes += p.size
	err := l.eng.pub.PublishMsg(&nats.Msg{
		Subject: subject, Reply: c.ackInbox + strconv.FormatUint(c.next, 10), Header: header, Data: message,
	})
	c.next++
	if err == nil {
		err = fpSent.Hit()
	}
	if err != nil { // the connection failed: only the restarted server can say whether the message is stored
		p.unknown = true
		l.breakChain(err, true)
	}
	return nil
}

// unavailableErr returns why the log cannot be used now: it is not the log that
// it should be, or it could not be written for more than a second. It returns
// nil if it can be used.
func (l *Log) unavailableErr() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch c := &l.chain; {
	case l.fatal != nil:
		return l.fatal
	case c.broken != nil && c.repairing && time.Since(c.since) > time.Second:
		return unavailable(c.broken)
	}
	return nil
}

func (l *Log) chainBroken() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.chain.broken != nil
}

// epoch returns the chain's epoch, for messages that depend on earlier ones.
func (l *Log) epoch() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.chain.epoch
}

// listen subscribes to the answers of a new engine and begins a new chain behind
// sequence last. Log.mu is held, or the Log is not shared yet.
func (l *Log) listen(last uint64) error {
	c := &l.chain
	inbox := nats.NewInbox() + "."
	eng := l.eng
	_, err := eng.pub.Subscribe(inbox+"*", func(m *nats.Msg) { l.acked(eng, m) })
	if err != nil {
		return fmt.Errorf("embedded log server: %w", err)
	}
	c.ackInbox = inbox
	c.epoch++
	c.next, c.broken, c.repairing = last+1, nil, false
	return nil
}

// acked handles the server's answer to a publish. It runs on the subscription's
// goroutine.
func (l *Log) acked(eng *engine, m *nats.Msg) {
	seq, _ := strconv.ParseUint(m.Subject[strings.LastIndexByte(m.Subject, '.')+1:], 10, 64)
	var ack struct {
		Error *jetstream.APIError `json:"error"`
		Seq   uint64              `json:"seq"`
	}
	err := json.Unmarshal(m.Data, &ack)
	if len(m.Data) == 0 { // no responders
		err = errors.New("the log's server does not serve the stream")
	}
	if err == nil && ack.Error == nil {
		err = errors.Join(eng.syncBlocks(), fpSynced.Hit())
		if err != nil {
			err = fmt.Errorf("syncing the log's folder: %w", err)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	c := &l.chain
	if eng != l.eng || len(c.pending) == 0 {
		return
	}
	p := c.pending[0]
	if p.at.Sequence() != seq {
		if !c.repairing {
			l.breakChain(fmt.Errorf("an answer for sequence %d, expected %d", seq, p.at.Sequence()), true)
		}
		return
	}
	switch {
	case err != nil:
		p.unknown = true
		l.breakChain(err, true)
	case ack.Error == nil && ack.Seq != seq:
		l.fail(foreignWriter(l.cfg.Dir, fmt.Sprintf("a message stored at sequence %d", ack.Seq), fmt.Sprintf("sequence %d", seq)))
	case ack.Error == nil:
		l.advance(p)
	case ack.Error.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence && c.broken != nil:
		l.settleFirst(errAborted)
	case isLimit(ack.Error):
		l.breakChain(ack.Error, false)
		l.settleFirst(&FullError{Used: l.used + c.bytes, Limit: l.cfg.MaxBytes, Control: true})
	default:
		p.unknown = true
		l.breakChain(ack.Error, true)
	}
	if c.broken != nil && !c.repairing && len(c.pending) == 0 {
		c.epoch++
		c.next, c.broken = l.last+1, nil
		l.notify()
	}
}

// isLimit reports whether the server refused a message by a limit, before
// writing anything.
func isLimit(e *jetstream.APIError) bool {
	const storeFailed, accountLimit, serverLimit = 10077, 10002, 10023
	return e.ErrorCode == storeFailed && e.Description == "maximum bytes exceeded" ||
		e.ErrorCode == accountLimit || e.ErrorCode == serverLimit
}

// advance settles p, the oldest publish, as durable. Log.mu is held.
func (l *Log) advance(p *inflight) {
	l.last, l.lastSum = p.at.Sequence(), p.sum
	l.used += p.size
	l.sizes.add(l.last, p.size)
	l.settleFirst(nil)
	l.notify()
}

// settleFirst settles the oldest publish. Log.mu is held.
func (l *Log) settleFirst(err error) {
	c := &l.chain
	p := c.pending[0]
	c.pending = c.pending[1:]
	c.bytes -= p.size
	if err != nil {
		p.at = 0
	}
	p.settled(p.at, err)
	<-l.slots
}

// breakChain stops sending until all publishes on their way are settled: by
// their own answers or, with repair, by a restarted server. Log.mu is held.
func (l *Log) breakChain(cause error, repair bool) {
	c := &l.chain
	if c.broken == nil {
		c.broken, c.since = cause, time.Now()
	}
	if repair && !c.repairing {
		c.repairing = true
		l.cfg.Logger.Error("log cannot be written; restarting its server", "cause", cause)
		l.wg.Add(1)
		go l.repair()
	}
}

// fail makes err the answer to all later calls: the log is closed, or it is not
// the log that it should be. Log.mu is held.
func (l *Log) fail(err error) {
	if l.fatal != nil {
		return
	}
	l.fatal = err
	if !errors.Is(err, ErrClosed) {
		l.cfg.Logger.Error("log refused", "error", err)
	}
	for len(l.chain.pending) > 0 {
		l.settleFirst(&UnknownError{Cause: err})
	}
	l.notify()
}
