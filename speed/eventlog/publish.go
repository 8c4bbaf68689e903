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

// Publishes form a chain: each states, in a header, the sequence it follows,
// so several can be under way and still none can be stored behind one that
// was not. When one fails, all sent after it fail too (errAborted), and the
// chain begins anew, with the next epoch, when nothing is under way.

const (
	// window is how many publishes may be under way. Two keep the disk busy
	// while the next envelope is built; more only make envelopes smaller.
	window = 2
	// ackTimeout is how long a publish may go without an answer before the
	// server is taken for stuck and started anew.
	ackTimeout = 30 * time.Second
	// complainTimeout is the same for a server that has logged an error.
	complainTimeout = time.Second
	// anyEpoch: the sender does not care what came before its message.
	anyEpoch = 0
)

// inflight is one publish.
type inflight struct {
	at      schemas.Position
	seq     uint64
	sum     sum
	size    int64
	sent    time.Time
	done    chan struct{} // closed when err is final
	err     error
	unknown bool // was refused in a way that leaves open whether it is stored; guarded by Log.mu
}

// wait returns the outcome, or an *UnknownError if ctx ends first.
func (p *inflight) wait(ctx context.Context) error {
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return &UnknownError{At: p.at, Cause: context.Cause(ctx)}
	}
}

// chain is the state of publishing. All fields are guarded by Log.mu.
type chain struct {
	epoch    uint64
	next     uint64 // sequence of the next publish
	pending  []*inflight
	bytes    int64     // of pending
	broken   error     // set while the chain is being put right: why
	since    time.Time // when broken was set
	repaired bool      // broken is settled by repair, not by the last pending one
	ackInbox string
}

// storedSize is what the server counts for a message.
func storedSize(subject string, header, message int) int64 {
	const record = 22 + 4 + 8 // record header, header length, checksum
	return int64(record + len(subject) + header + message)
}

func expectHeader(seq uint64) (nats.Header, int) {
	v := strconv.FormatUint(seq, 10)
	return nats.Header{jetstream.ExpectedLastSeqHeader: []string{v}},
		len("NATS/1.0\r\n") + len(jetstream.ExpectedLastSeqHeader) + len(": ") + len(v) + len("\r\n\r\n")
}

// send puts a framed message under way. The buffer may be used again when send
// returns. It waits for room in the window, until
// ctx ends.
func (l *Log) send(ctx context.Context, epoch uint64, subject string, message []byte, control bool) (*inflight, error) {
	if n := bodySize(message); n > MaxEnvelope {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, n, MaxEnvelope)
	}
	if err := l.trouble(); err != nil {
		return nil, err
	}
	if err := l.reserve(ctx); err != nil {
		return nil, errors.Join(err, l.trouble())
	}
	p, err := l.sendNow(epoch, subject, message, control)
	if err != nil {
		l.unreserve()
	}
	return p, err
}

// reserve waits for a slot of the window: for sendNow, or to be given back.
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

// sendNow is send with a slot in hand; the slot is given back when the publish
// is done.
func (l *Log) sendNow(epoch uint64, subject string, message []byte, control bool) (*inflight, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := &l.chain
	switch {
	case l.closed:
		return nil, ErrClosed
	case l.fatal != nil:
		return nil, l.fatal
	case c.broken != nil && c.repaired:
		return nil, unavailable(c.broken)
	case c.broken != nil, epoch != anyEpoch && epoch != c.epoch:
		return nil, errAborted
	}
	header, headerSize := expectHeader(c.next - 1)
	p := &inflight{
		at: schemas.NewPosition(l.inc.Ordinal, c.next), seq: c.next,
		size: storedSize(subject, headerSize, len(message)),
		sent: time.Now(), done: make(chan struct{}),
	}
	share := l.cfg.MaxBytes
	if !control {
		share = share / 100 * refusePercent
	}
	if used := l.used + c.bytes; used+p.size > share {
		return nil, &FullError{Used: used, Limit: l.cfg.MaxBytes, Control: control}
	}
	p.sum = seal(message, l.inc.ID, p.seq, p.sent)
	c.pending = append(c.pending, p)
	c.bytes += p.size
	c.next++
	err := l.eng.pub.PublishMsg(&nats.Msg{
		Subject: subject, Reply: c.ackInbox + strconv.FormatUint(p.seq, 10), Header: header, Data: message,
	})
	if err == nil {
		err = fpSent.Hit()
	}
	if err != nil { // the connection is gone: the outcome is open until the server was started anew
		p.unknown = true
		l.breakChain(err, true)
	}
	return p, nil
}

// trouble is why the log cannot be used now: it is not the one it should be,
// or it could not be written for more than a moment.
func (l *Log) trouble() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch c := &l.chain; {
	case l.fatal != nil:
		return l.fatal
	case c.broken != nil && c.repaired && time.Since(c.since) > time.Second:
		return unavailable(c.broken)
	}
	return nil
}

// listen subscribes to the acknowledgements of a fresh engine and begins a
// fresh chain behind sequence last. Log.mu is held, or nobody else has the Log.
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
	c.next, c.broken, c.repaired = last+1, nil, false
	return nil
}

// acked handles an acknowledgement, on the subscription's goroutine.
func (l *Log) acked(eng *engine, m *nats.Msg) {
	seq, _ := strconv.ParseUint(m.Subject[strings.LastIndexByte(m.Subject, '.')+1:], 10, 64)
	var ack struct {
		Error *jetstream.APIError `json:"error"`
		Seq   uint64              `json:"seq"`
	}
	err := json.Unmarshal(m.Data, &ack)
	if err == nil && ack.Error == nil && len(m.Data) == 0 {
		err = errors.New("the server does not answer for the stream") // no responders
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
	if eng != l.eng {
		return
	}
	if len(c.pending) == 0 || c.pending[0].seq != seq {
		if !c.repaired && len(c.pending) > 0 {
			l.breakChain(fmt.Errorf("an answer for sequence %d, expected %d", seq, c.pending[0].seq), true)
		}
		return
	}
	p := c.pending[0]
	switch {
	case err != nil:
		p.unknown = true
		l.breakChain(err, true)
	case ack.Error == nil && ack.Seq != seq:
		l.fail(&RefusedError{Kind: ErrDiffers, Dir: l.cfg.Dir, Found: fmt.Sprintf("a message stored at sequence %d", ack.Seq),
			Expected: fmt.Sprintf("sequence %d", seq), Remedy: "Another program writes to this log: end it and start again."})
	case ack.Error == nil:
		l.advance(p)
	case ack.Error.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence && c.broken != nil:
		l.finish(p, errAborted)
	case isLimit(ack.Error):
		l.breakChain(ack.Error, false)
		l.finish(p, &FullError{Used: l.used + c.bytes, Limit: l.cfg.MaxBytes, Control: true})
	default:
		p.unknown = true
		l.breakChain(ack.Error, true)
	}
	if c.broken != nil && !c.repaired && len(c.pending) == 0 {
		c.epoch++
		c.next, c.broken = l.last+1, nil
		l.notify()
	}
}

// isLimit reports whether the server refused by a limit, before writing
// anything.
func isLimit(e *jetstream.APIError) bool {
	const storeFailed, accountLimit, serverLimit = 10077, 10002, 10023
	return e.ErrorCode == storeFailed && e.Description == "maximum bytes exceeded" ||
		e.ErrorCode == accountLimit || e.ErrorCode == serverLimit
}

// advance takes a publish as durable. Log.mu is held.
func (l *Log) advance(p *inflight) {
	l.last, l.lastSum = p.seq, p.sum
	l.used += p.size
	l.finish(p, nil)
	l.notify()
}

// finish ends the oldest publish. Log.mu is held.
func (l *Log) finish(p *inflight, err error) {
	c := &l.chain
	c.pending = c.pending[1:]
	c.bytes -= p.size
	p.err = err
	close(p.done)
	<-l.slots
}

// breakChain stops sending until everything under way is settled: by its own
// answers or, with repair, by starting the server anew and looking. Log.mu is
// held.
func (l *Log) breakChain(cause error, repair bool) {
	c := &l.chain
	if c.broken == nil {
		c.broken, c.since = cause, time.Now()
	}
	if repair && !c.repaired {
		c.repaired = true
		l.cfg.Logger.Error("log cannot be written; starting its server anew", "cause", cause)
		l.wg.Add(1)
		go l.repair()
	}
}

// fail ends the use of the log: it is not the log that it should be. Log.mu is
// held.
func (l *Log) fail(err error) {
	if l.fatal != nil {
		return
	}
	l.fatal = err
	if !errors.Is(err, ErrClosed) {
		l.cfg.Logger.Error("log refused", "error", err)
	}
	for len(l.chain.pending) > 0 {
		p := l.chain.pending[0]
		l.finish(p, &UnknownError{At: p.at, Cause: err})
	}
	l.notify()
}

// repair starts the server anew, settles what was under way, and lets the
// chain go on when the disk takes writes. It tries each second until it
// succeeds, the log turns out to be another one, or it is closed.
func (l *Log) repair() {
	defer l.wg.Done()
	l.eng.stop() // sends fail already; acknowledgements end here
	restarted := false
	for {
		err := l.tryRepair(&restarted)
		if err == nil {
			return
		}
		var refused *RefusedError
		if errors.As(err, &refused) || errors.Is(err, ErrDamaged) {
			l.mu.Lock()
			l.fail(err)
			l.mu.Unlock()
			return
		}
		l.cfg.Logger.Error("log still cannot be written", "cause", err)
		l.mu.Lock()
		if l.chain.broken != nil {
			l.chain.broken = err // what began it is often only a consequence
		}
		l.mu.Unlock()
		select {
		case <-time.After(time.Second):
		case <-l.life.Done():
			l.mu.Lock()
			l.fail(ErrClosed)
			l.mu.Unlock()
			return
		}
	}
}

// tryRepair makes one try. restarted remembers that the server runs again, so
// that readers can go on, and only the disk is waited for.
func (l *Log) tryRepair(restarted *bool) error {
	if !*restarted {
		if err := l.restart(l.life); err != nil {
			return err
		}
		*restarted = true
	}
	if err := probe(l.cfg.Dir); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.listen(l.last); err != nil {
		return err
	}
	l.cfg.Logger.Info("log can be written again", "last", l.at(l.last))
	l.notify()
	return nil
}

// restart starts a new server in place of one that was stopped, and settles
// what was under way.
func (l *Log) restart(ctx context.Context) error {
	eng, err := startEngine(ctx, l.cfg)
	if err != nil {
		return err
	}
	st, err := examine(ctx, l.cfg, eng, l.inc, nil)
	if err == nil && st.last < l.Last().Sequence() {
		err = behind(l.cfg.Dir, l.at(st.last), l.Last())
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		err = l.settle(ctx, eng, st)
	}
	if err != nil {
		eng.stop()
		return err
	}
	l.eng = eng
	l.first, l.last, l.lastSum, l.used = st.first, st.last, st.lastSum, st.used
	l.notify()
	return nil
}

// settle decides what was under way when the server ended: what is there is
// durable, what is not will never be. Log.mu is held.
func (l *Log) settle(ctx context.Context, eng *engine, st logState) error {
	c := &l.chain
	stored := st.last - l.last
	if stored > uint64(len(c.pending)) {
		return &RefusedError{Kind: ErrDiffers, Dir: l.cfg.Dir, Found: fmt.Sprintf("a last sequence of %d", st.last),
			Expected: fmt.Sprintf("at most %d", l.last+uint64(len(c.pending))), Remedy: "Another program writes to this log: end it and start again."}
	}
	for i := uint64(0); i < stored; i++ {
		p := c.pending[i]
		m, err := eng.message(ctx, l.inc, p.seq)
		if err != nil {
			return err
		}
		if m.sum != p.sum {
			return &RefusedError{Kind: ErrDiffers, Dir: l.cfg.Dir, Found: fmt.Sprintf("message %s with checksum %s", p.at, m.sum),
				Expected: "checksum " + p.sum.String(), Remedy: "Another program writes to this log: end it and start again."}
		}
	}
	for i := uint64(0); i < stored; i++ {
		l.advance(c.pending[0])
	}
	cause := unavailable(c.broken)
	for len(c.pending) > 0 {
		p := c.pending[0]
		err := error(errAborted)
		if p.unknown {
			err = cause
		}
		l.finish(p, err)
	}
	return nil
}
