package eventlog

import (
	"context"
	"fmt"
	"sync"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sync/semaphore"

	"duet/schemas"
	"duet/schemas/event"
)

// Limits of a request to a [Appender]. What one record may hold is package
// event's MaxRecordBytes.
const (
	// MaxRecords is the most records of one request.
	MaxRecords = event.MaxRecords
	// MaxRequestBytes is the most bytes of one request: its records, names and
	// digests, and 4 bytes a record. A request is one envelope, never two.
	MaxRequestBytes = event.MaxEnvelopeBytes - 4<<10
	// MaxName is the most bytes of a producer's or session's name.
	MaxName = 200

	// An envelope that several requests share ends here.
	groupRecords = 32_768
	groupBytes   = MaxRequestBytes
	// What the door holds at most, from Begin to the answer.
	queueRecords = 4 * MaxRecords
	queueBytes   = 64 << 20
)

// Request is what one client sends at once. The door does not change it; it
// must not be changed until Append or Wait has returned.
type Request struct {
	Stream  string
	Records [][]byte // one JSON text each; not looked at here
	// Producer and Number make the request idempotent, for ever: Number is the
	// number of the first record, and each producer numbers its records from 1
	// without holes, over all streams. No producer: no number.
	Producer string
	Number   uint64
	// Session is whose account the records belong to; may be empty.
	Session string
	// Chunk and Lines identify the lines of a file (package event). Lines is
	// nil or one digest a record.
	Chunk [16]byte
	Lines []uint64
}

// Appended says where a request's records are.
type Appended struct {
	// At is the envelope's position; if all records were duplicates, a position
	// at or behind their originals.
	At schemas.Position
	// First is the index in the envelope of the first record that was stored,
	// Count how many were.
	First, Count int
	// Duplicate is how many records, from the first on, were known already.
	Duplicate int
}

// Appender brings requests of concurrent clients into the log, several to an
// envelope: whatever has come while the disk was busy goes next, so there is no
// timer, and a sync serves everyone who waits. All methods may be called at
// once from any goroutine. Close it before its Log.
//
// It keeps a producer's records in the order of their numbers and without a
// hole: when one request is not stored, those behind it are not stored either.
type Appender struct {
	log     *Log
	records *semaphore.Weighted
	bytes   *semaphore.Weighted
	ctx     context.Context // ends with Close
	cancel  context.CancelCauseFunc
	wg      sync.WaitGroup
	sent    chan *group   // published, in order, for the completer
	idle    chan struct{} // a token from the completer for each group that was not sent

	mu        sync.Mutex
	queue     []*Pending // accepted, not in an envelope yet; in order of acceptance
	arrived   chan struct{}
	producers map[string]*producer
	closed    bool
}

// producer is what the door knows of one producer. Guarded by Door.mu.
type producer struct {
	durable uint64     // number of its last durable record
	pending []*Pending // accepted, not durable yet, in order of their numbers
}

// accepted is the highest number accepted.
func (p *producer) accepted() uint64 {
	if n := len(p.pending); n > 0 {
		return p.pending[n-1].through
	}
	return p.durable
}

// NewAppender opens a door to the log. lasts holds each producer's last number that
// the log, or the archive before it, contains; a producer that it does not hold
// begins at 1, or a first request that failed could be left behind.
func NewAppender(l *Log, lasts map[string]uint64) *Appender {
	d := &Appender{
		log: l, records: semaphore.NewWeighted(queueRecords), bytes: semaphore.NewWeighted(queueBytes),
		sent: make(chan *group, window), idle: make(chan struct{}, 1), arrived: make(chan struct{}, 1),
		producers: make(map[string]*producer, len(lasts)),
	}
	for name, last := range lasts {
		d.producers[name] = &producer{durable: last}
	}
	d.ctx, d.cancel = context.WithCancelCause(context.Background())
	d.wg.Add(2)
	go d.commit()
	go d.complete()
	return d
}

// Last is the last durable number of a producer; 0 if it is not known.
func (d *Appender) Last(name string) uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	if p := d.producers[name]; p != nil {
		return p.durable
	}
	return 0
}

// Append stores a request and returns when it is durable. Errors: *RequestError
// and *OrderError (wrong request), ErrFull, ErrBusy, ErrUnavailable, ErrEarlier,
// ErrClosed (not stored; the same request may be sent again, after those of
// the same producer before it), *UnknownError (ctx ended while the request was
// on its way: send it again with the same producer and number).
func (d *Appender) Append(ctx context.Context, r Request) (Appended, error) {
	p, err := d.Begin(ctx, r)
	if err != nil {
		return Appended{}, err
	}
	return p.Wait(ctx)
}

// Begin accepts a request, so that a client can have several under way; the
// order of Begin's returns is the order in the log. It waits for room in the
// queue until ctx ends (ErrBusy).
func (d *Appender) Begin(ctx context.Context, r Request) (*Pending, error) {
	size, err := r.check()
	if err != nil {
		return nil, err
	}
	if err := d.acquire(ctx, int64(len(r.Records)), size); err != nil {
		return nil, err
	}
	p := &Pending{door: d, req: r, size: size, held: int64(len(r.Records)), done: make(chan struct{}), copied: make(chan struct{})}
	if err := d.accept(p); err != nil {
		d.release(p)
		return nil, err
	}
	select {
	case d.arrived <- struct{}{}:
	default:
	}
	return p, nil
}

func (d *Appender) acquire(ctx context.Context, records, size int64) error {
	busy := func(err error) error {
		if d.ctx.Err() != nil {
			return ErrClosed
		}
		return d.notTaken(err)
	}
	if err := d.log.trouble(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(d.ctx, func() { cancel(ErrClosed) })()
	if err := d.records.Acquire(ctx, records); err != nil {
		return busy(err)
	}
	if err := d.bytes.Acquire(ctx, size); err != nil {
		d.records.Release(records)
		return busy(err)
	}
	return nil
}

func (d *Appender) release(p *Pending) {
	d.records.Release(p.held)
	d.bytes.Release(p.size)
}

// accept gives a request its place behind all that were accepted before.
func (d *Appender) accept(p *Pending) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return ErrClosed
	}
	if p.req.Producer == "" {
		d.queue = append(d.queue, p)
		return nil
	}
	first, count := p.req.Number, uint64(len(p.req.Records))
	p.through = first + count - 1
	pr := d.producers[p.req.Producer]
	if pr == nil {
		pr = &producer{}
	}
	if next := pr.accepted() + 1; first > next {
		return &OrderError{Producer: p.req.Producer, Number: first, Expected: next}
	}
	d.producers[p.req.Producer] = pr
	if last := pr.accepted(); last >= first {
		p.duplicate = int(min(count, last-first+1))
	}
	if p.duplicate == len(p.req.Records) {
		close(p.copied) // nothing of it is going to be read
		if p.through > pr.durable {
			p.original = pr.holding(p.through)
		} else {
			p.result = Appended{At: d.log.Last(), Duplicate: p.duplicate}
			close(p.done)
		}
		d.release(p)
		p.held, p.size = 0, 0
		return nil
	}
	pr.pending = append(pr.pending, p)
	d.queue = append(d.queue, p)
	return nil
}

// holding is the pending request that holds a number.
func (p *producer) holding(number uint64) *Pending {
	for _, q := range p.pending {
		if q.through >= number {
			return q
		}
	}
	return nil
}

// check looks for whatever breaks the limits, and returns the request's size.
func (r *Request) check() (size int64, err error) {
	switch {
	case !nameRE.MatchString(r.Stream):
		return 0, &RequestError{"stream", fmt.Sprintf("%q is not a stream's name", shorten(r.Stream))}
	case len(r.Records) == 0:
		return 0, &RequestError{"records", "there are none"}
	case len(r.Records) > MaxRecords:
		return 0, &RequestError{"records", fmt.Sprintf("%d of them, at most %d go at once", len(r.Records), MaxRecords)}
	case r.Lines != nil && len(r.Lines) != len(r.Records):
		return 0, &RequestError{"lines", fmt.Sprintf("%d digests for %d records", len(r.Lines), len(r.Records))}
	case r.Producer == "" && r.Number != 0:
		return 0, &RequestError{"number", "it means nothing without a producer"}
	case r.Producer != "" && r.Number == 0:
		return 0, &RequestError{"number", "a producer's records are numbered from 1"}
	case r.Number > 1<<63-1-MaxRecords:
		return 0, &RequestError{"number", fmt.Sprintf("%d is too large", r.Number)}
	}
	if err := checkName("producer", r.Producer); err != nil {
		return 0, err
	}
	if err := checkName("session", r.Session); err != nil {
		return 0, err
	}
	size = int64(len(r.Producer) + len(r.Session) + 12*len(r.Lines))
	for i, rec := range r.Records {
		if len(rec) > event.MaxRecordBytes {
			return 0, &RequestError{fmt.Sprintf("records[%d]", i), fmt.Sprintf("%d bytes, at most %d", len(rec), event.MaxRecordBytes)}
		}
		size += int64(len(rec)) + 4
	}
	if size > MaxRequestBytes {
		return 0, &RequestError{"records", fmt.Sprintf("%d bytes in all, at most %d go at once", size, MaxRequestBytes)}
	}
	return size, nil
}

func checkName(field, name string) error {
	if len(name) > MaxName {
		return &RequestError{field, fmt.Sprintf("%d bytes, at most %d", len(name), MaxName)}
	}
	if !utf8.ValidString(name) {
		return &RequestError{field, "not UTF-8"}
	}
	for _, c := range name {
		if !unicode.IsPrint(c) {
			return &RequestError{field, fmt.Sprintf("%q holds a character that cannot be printed", name)}
		}
	}
	return nil
}

func shorten(s string) string {
	if len(s) > 80 {
		return s[:80] + "..."
	}
	return s
}

// Close stops accepting, gives up what is queued (ErrClosed: not stored), and
// waits for what is on its way. Closing twice is fine.
func (d *Appender) Close() {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.cancel(ErrClosed)
	d.wg.Wait()
}
