package eventlog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"duet/schemas"
)

const (
	// Limits of the batch that a reader fetches in one request.
	fetchMessages = 512
	fetchBytes    = 4 << 20
	// fetchTimeout is how long the embedded server may be silent while it answers
	// a read.
	fetchTimeout = 30 * time.Second
)

// Message is one message of the log.
type Message struct {
	At      schemas.Position
	Time    time.Time // when the log stored it, UTC
	Stream  string    // the event stream of an envelope; "" for a control record
	Control string    // the kind of a control record; "" for an envelope
	Data    []byte    // the envelope or the control record's body; owned by the receiver

	sum sum
}

// Reader reads a log in order. It is not safe for concurrent use. Reads are
// stateless requests by sequence, so no message is returned twice or skipped: a
// missing message ends the reader with a *GapError, one that is not what was
// stored with a *CorruptError (H6).
type Reader struct {
	log     *Log
	cancel  context.CancelCauseFunc
	ctx     context.Context
	batches chan []Message
	err     error // why batches was closed; set before that

	batch []Message
	next  uint64 // sequence of the next message to be returned
}

// Read returns a Reader that begins with the message behind after. It fails if
// the log does not continue from that position (see [Log.CheckBehind]). The
// reader ends with ctx. The caller must close it.
func (l *Log) Read(ctx context.Context, after schemas.Position) (*Reader, error) {
	if err := l.CheckBehind(after); err != nil {
		return nil, err
	}
	seq := uint64(1)
	if after.Ordinal() == l.inc.Ordinal {
		seq = after.Sequence() + 1
	}
	if after == 0 {
		if first := l.First(); first.Sequence() > 1 {
			return nil, &GapError{From: l.at(1), Through: first - 1, Trimmed: true}
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, ErrClosed
	}
	r := &Reader{log: l, batches: make(chan []Message, 1), next: seq}
	r.ctx, r.cancel = context.WithCancelCause(ctx)
	l.wg.Add(1)
	go r.run(seq)
	return r, nil
}

// Next returns the next message, and waits for it until ctx ends. After that
// error the reader can still be used; after any other it has ended.
func (r *Reader) Next(ctx context.Context) (Message, error) {
	for len(r.batch) == 0 {
		select {
		case b, ok := <-r.batches:
			if !ok {
				return Message{}, r.err
			}
			r.batch = b
		case <-ctx.Done():
			return Message{}, context.Cause(ctx)
		}
	}
	return r.take(), nil
}

// TryNext returns the next message, or ok = false if the log does not hold one
// yet.
func (r *Reader) TryNext() (m Message, ok bool, err error) {
	if len(r.batch) == 0 {
		select {
		case b, open := <-r.batches:
			if !open {
				return Message{}, false, r.err
			}
			r.batch = b
		default:
			if r.next > r.log.Last().Sequence() {
				return Message{}, false, nil
			}
			m, err := r.Next(r.ctx)
			return m, err == nil, err
		}
	}
	return r.take(), true, nil
}

func (r *Reader) take() Message {
	m := r.batch[0]
	r.batch = r.batch[1:]
	r.next = m.At.Sequence() + 1
	return m
}

// Close ends the reader. Closing twice is fine.
func (r *Reader) Close() {
	r.cancel(ErrClosed)
	for range r.batches { // until run has returned
	}
}

// run fetches one batch ahead of the consumer.
func (r *Reader) run(seq uint64) {
	defer r.log.wg.Done()
	defer close(r.batches)
	defer context.AfterFunc(r.log.life, func() { r.cancel(ErrClosed) })() // the reader ends with the log
	for {
		batch, err := r.log.fetchFrom(r.ctx, seq)
		if err != nil {
			r.err = err
			return
		}
		select {
		case r.batches <- batch:
			seq += uint64(len(batch))
		case <-r.ctx.Done():
			r.err = context.Cause(r.ctx)
			return
		}
	}
}

// fetchFrom waits until the log holds message seq, and returns it with some of
// those behind it. If the server is restarted meanwhile, it tries again.
func (l *Log) fetchFrom(ctx context.Context, seq uint64) ([]Message, error) {
	for {
		changed := l.change()
		l.mu.Lock()
		eng, first, last, fatal := l.eng, l.first, l.last, l.fatal
		l.mu.Unlock()
		switch {
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case fatal != nil:
			return nil, fatal
		case seq < first:
			return nil, &GapError{From: l.at(seq), Through: l.at(first - 1), Trimmed: true}
		case seq <= last && !eng.ended():
			batch, err := eng.fetch(ctx, l.inc, seq, int(min(last-seq+1, fetchMessages)))
			if err == nil {
				return batch, nil
			}
			l.mu.Lock()
			replaced := l.eng != eng || eng.ended()
			trimmed := seq < l.first
			l.mu.Unlock()
			if !replaced && !trimmed {
				return nil, err
			}
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

// fetch returns at least one and up to count messages from a sequence on. They
// must all be durable: a missing one is an error.
func (e *engine) fetch(ctx context.Context, inc schemas.Incarnation, seq uint64, count int) ([]Message, error) {
	raw, err := e.request(ctx, seq, count)
	if err != nil {
		return nil, err
	}
	batch := make([]Message, 0, len(raw))
	for _, r := range raw {
		m, err := parse(r.Data, inc, seq+uint64(len(batch)))
		if err != nil {
			if len(batch) > 0 {
				return batch, nil // the next fetch begins with the damaged message
			}
			return nil, err
		}
		batch = append(batch, m)
	}
	if len(batch) == 0 {
		return nil, e.unreadable(ctx, inc, seq, seq+uint64(count)-1)
	}
	return batch, nil
}

// unreadable returns a *GapError for the messages from seq on, up to last, that
// the server does not return.
func (e *engine) unreadable(ctx context.Context, inc schemas.Incarnation, seq, last uint64) error {
	for s := seq + 1; s <= last; s++ {
		raw, err := e.request(ctx, s, 1)
		if err != nil {
			return err
		}
		if len(raw) == 0 {
			continue
		}
		last = s - 1
		if m, err := unseal(raw[0].Data, inc.ID); err == nil {
			last = m.sequence - 1
		}
		break
	}
	return &GapError{From: schemas.NewPosition(inc.Ordinal, seq), Through: schemas.NewPosition(inc.Ordinal, last)}
}

// message returns one message.
func (e *engine) message(ctx context.Context, inc schemas.Incarnation, seq uint64) (Message, error) {
	batch, err := e.fetch(ctx, inc, seq, 1)
	if err != nil {
		return Message{}, err
	}
	return batch[0], nil
}

// request returns the messages that the server sends for a sequence and a count.
// They may be fewer, or begin later.
func (e *engine) request(ctx context.Context, seq uint64, count int) ([]*nats.Msg, error) {
	inbox := nats.NewInbox()
	sub, err := e.get.SubscribeSync(inbox)
	if err != nil {
		return nil, fmt.Errorf("read the log: %w", err)
	}
	defer sub.Unsubscribe() //nolint:errcheck // it fails only if the connection is closed
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		return nil, err
	}
	body, err := json.Marshal(struct {
		Seq      uint64 `json:"seq"`
		Batch    int    `json:"batch"`
		MaxBytes int    `json:"max_bytes"`
		NoHeader bool   `json:"no_hdr"` // headers would take half of the time of a read
	}{seq, count, fetchBytes, true})
	if err != nil {
		return nil, err
	}
	if err := e.get.PublishRequest("$JS.API.DIRECT.GET."+streamName, inbox, body); err != nil {
		return nil, fmt.Errorf("read the log: %w", err)
	}
	var got []*nats.Msg
	for {
		m, err := nextMsg(ctx, sub)
		if err != nil {
			return nil, err
		}
		if len(m.Header) == 0 {
			got = append(got, m)
			continue
		}
		switch status := m.Header.Get("Status"); status {
		case "204", "404": // end of the batch; no message
			return got, nil
		default:
			return nil, fmt.Errorf("read the log at sequence %d: %s %s", seq, status, m.Header.Get("Description"))
		}
	}
}

func nextMsg(ctx context.Context, sub *nats.Subscription) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	m, err := sub.NextMsgWithContext(ctx)
	if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(cause, context.DeadlineExceeded) {
		return nil, cause
	}
	if err != nil {
		return nil, fmt.Errorf("read the log: %w", err)
	}
	return m, nil
}

// parse returns a stored message, which must have the given sequence.
func parse(raw []byte, inc schemas.Incarnation, want uint64) (m Message, err error) {
	at := schemas.NewPosition(inc.Ordinal, want)
	f, err := unseal(raw, inc.ID)
	if err != nil {
		return m, &CorruptError{At: at, Reason: err.Error()}
	}
	if f.sequence > want {
		return m, &GapError{From: at, Through: schemas.NewPosition(inc.Ordinal, f.sequence-1)}
	}
	if f.sequence < want {
		return m, &CorruptError{At: at, Reason: fmt.Sprintf("message %d is stored in its place", f.sequence)}
	}
	stream, isEvent := strings.CutPrefix(f.subject, eventPrefix)
	kind, isControl := strings.CutPrefix(f.subject, controlPrefx)
	m = Message{At: at, Time: f.time, Data: f.body, sum: f.sum}
	switch {
	case isEvent:
		m.Stream = stream
	case isControl:
		m.Control = kind
	default:
		return m, &CorruptError{At: at, Reason: fmt.Sprintf("its subject is %q", f.subject)}
	}
	return m, nil
}
