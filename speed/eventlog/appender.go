package eventlog

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sync/semaphore"

	"duet/schemas"
	"duet/schemas/event"
)

// Limits of a [Request]. The limit of one record is event.MaxRecordBytes.
const (
	// MaxRecords is the maximum number of records of one request.
	MaxRecords = event.MaxRecords
	// MaxRequestBytes is the maximum size of one request: its records, names and
	// digests, and 4 bytes a record. A request is never split over two envelopes.
	MaxRequestBytes = event.MaxEnvelopeBytes - 4<<10
	// MaxName is the maximum size of a producer's or session's name, in bytes.
	MaxName = 200
	// MaxFileName is the most bytes of a file's name.
	MaxFileName = 1024

	// An envelope that several requests share ends at these limits.
	groupRecords = 32_768
	groupBytes   = MaxRequestBytes
	// The requests between Begin and their answer hold at most this much.
	queueRecords = 4 * MaxRecords
	queueBytes   = 64 << 20
)

// Request is a list of records that is appended whole. The Appender only reads
// it; the caller must not change it until Append or Wait has returned.
type Request struct {
	Stream  string
	Records [][]byte // one JSON text each; not parsed here
	// Producer and Number make the request idempotent, without a time limit:
	// Number is the number of the first record, and each producer numbers its
	// records from 1 without holes, over all streams. Number is 0 if Producer is
	// empty.
	Producer string
	Number   uint64
	// Session names the account that the records are counted in. May be empty.
	Session string
	// Chunk and Lines identify the lines of a file (package event). Lines is
	// nil, or has one digest for each record.
	Chunk [16]byte
	Lines []uint64
	// File and Numbers say where the records stand in a file, for rejects. File is
	// "" if unknown; otherwise Numbers has each record's line number, increasing.
	File    string
	Numbers []uint32
}

// Appended says where a request's records are.
type Appended struct {
	// At is the envelope's position. If all records were duplicates, it is a
	// position at or behind their originals.
	At schemas.Position
	// First is the index in the envelope of the first record that was stored.
	// Count is the number of records that were stored.
	First, Count int
	// Duplicate is the number of records, from the first on, that were stored
	// before.
	Duplicate int
}

// Appender appends the requests of concurrent clients to the log by group
// commit: requests that arrive while the disk syncs one envelope share the
// next, so there is no timer. All methods are safe for concurrent use. Close
// the Appender before its Log.
//
// The log holds a producer's records in the order of their numbers, without a
// hole: if a request is not stored, the requests of the same producer behind
// it are not stored either.
//
// Lock order: Log.mu before Appender.mu, because the log settles a publish, and
// so calls [Appender.settle], with its lock held.
type Appender struct {
	log     *Log
	records *semaphore.Weighted // queueRecords
	bytes   *semaphore.Weighted // queueBytes
	ctx     context.Context     // ends with Close
	cancel  context.CancelCauseFunc
	wg      sync.WaitGroup
	arrived chan struct{} // holds a token if the queue has grown

	mu        sync.Mutex
	queue     []*Pending // accepted, not in an envelope yet; in order of acceptance
	producers map[string]*producer
	closed    bool
}

// producer is the state of one producer. Guarded by Appender.mu.
type producer struct {
	durable uint64     // number of its last durable record
	pending []*Pending // accepted, not durable yet, in order of their numbers
}

// accepted returns the highest number accepted.
func (p *producer) accepted() uint64 {
	if n := len(p.pending); n > 0 {
		return p.pending[n-1].through
	}
	return p.durable
}

// NewAppender returns an Appender for the log. lasts holds the last number of
// each producer in the log and in the archive before it. A producer that is not
// in lasts must begin at 1; otherwise a first request that failed could be
// skipped.
func NewAppender(l *Log, lasts map[string]uint64) *Appender {
	a := &Appender{
		log: l, records: semaphore.NewWeighted(queueRecords), bytes: semaphore.NewWeighted(queueBytes),
		arrived: make(chan struct{}, 1), producers: make(map[string]*producer, len(lasts)),
	}
	for name, last := range lasts {
		a.producers[name] = &producer{durable: last}
	}
	a.ctx, a.cancel = context.WithCancelCause(context.Background())
	a.wg.Add(1)
	go a.commit()
	return a
}

// Last returns the last durable number of a producer, or 0 if it has none.
func (a *Appender) Last(name string) uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	if p := a.producers[name]; p != nil {
		return p.durable
	}
	return 0
}

// Append stores a request and returns when it is durable (H8).
//
// A *RequestError or *OrderError means that the request is wrong. ErrFull,
// ErrBusy, ErrUnavailable, ErrEarlier and ErrClosed mean that nothing was
// stored: the request may be sent again, after the failed requests of the same
// producer before it. An *UnknownError means that ctx ended while the request
// was on its way: send it again with the same producer and number.
func (a *Appender) Append(ctx context.Context, r Request) (Appended, error) {
	p, err := a.Begin(ctx, r)
	if err != nil {
		return Appended{}, err
	}
	return p.Wait(ctx)
}

// Begin accepts a request without waiting for its outcome, so that a client can
// have several under way. The log keeps the order in which calls of Begin
// return. Begin waits for room in the queue until ctx ends (ErrBusy).
func (a *Appender) Begin(ctx context.Context, r Request) (*Pending, error) {
	size, err := r.check()
	if err != nil {
		return nil, err
	}
	if err := a.acquire(ctx, int64(len(r.Records)), size); err != nil {
		return nil, err
	}
	p := &Pending{appender: a, req: r, size: size, held: int64(len(r.Records)), done: make(chan struct{}), copied: make(chan struct{})}
	durable, err := a.accept(p)
	switch {
	case err != nil:
		a.release(p)
		return nil, err
	case durable:
		p.result = Appended{At: a.log.Last(), Duplicate: p.duplicate}
		close(p.done)
		return p, nil
	}
	select {
	case a.arrived <- struct{}{}:
	default:
	}
	return p, nil
}

func (a *Appender) acquire(ctx context.Context, records, size int64) error {
	if err := a.log.unavailableErr(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(a.ctx, func() { cancel(ErrClosed) })()
	err := a.records.Acquire(ctx, records)
	if err == nil {
		if err = a.bytes.Acquire(ctx, size); err != nil {
			a.records.Release(records)
		}
	}
	if err != nil && a.ctx.Err() != nil {
		return ErrClosed
	}
	if err != nil {
		return a.busyErr(err)
	}
	return nil
}

func (a *Appender) release(p *Pending) {
	a.records.Release(p.held)
	a.bytes.Release(p.size)
	p.held, p.size = 0, 0
}

// busyErr is the error of a request that was still queued when its context
// ended.
func (a *Appender) busyErr(cause error) error {
	if err := a.log.unavailableErr(); err != nil {
		return fmt.Errorf("%w: %w", err, cause)
	}
	return fmt.Errorf("%w: nothing of the request was stored; send it again later: %w", ErrBusy, cause)
}

// accept queues a request behind all that were accepted before. durable reports
// that all of its records are in the log already.
func (a *Appender) accept(p *Pending) (durable bool, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return false, ErrClosed
	}
	if p.req.Producer == "" {
		a.queue = append(a.queue, p)
		return false, nil
	}
	first, count := p.req.Number, uint64(len(p.req.Records))
	p.through = first + count - 1
	pr := a.producers[p.req.Producer]
	if pr == nil {
		pr = &producer{}
	}
	if next := pr.accepted() + 1; first > next {
		return false, &OrderError{Producer: p.req.Producer, Number: first, Expected: next}
	}
	a.producers[p.req.Producer] = pr
	if last := pr.accepted(); last >= first {
		p.duplicate = int(min(count, last-first+1))
	}
	if p.duplicate == len(p.req.Records) {
		close(p.copied) // the records are not read
		a.release(p)
		p.original = pr.holding(p.through)
		return p.original == nil, nil
	}
	pr.pending = append(pr.pending, p)
	a.queue = append(a.queue, p)
	return false, nil
}

// holding returns the pending request that holds a number, or nil.
func (p *producer) holding(number uint64) *Pending {
	if number <= p.durable {
		return nil
	}
	for _, q := range p.pending {
		if q.through >= number {
			return q
		}
	}
	return nil
}

// check returns the request's size, or a *RequestError if it breaks a limit.
func (r *Request) check() (size int64, err error) {
	switch {
	case !nameRE.MatchString(r.Stream):
		return 0, &RequestError{"stream", fmt.Sprintf("%q is not a stream's name", shorten(r.Stream))}
	case len(r.Records) == 0:
		return 0, &RequestError{"records", "the list is empty"}
	case len(r.Records) > MaxRecords:
		return 0, &RequestError{"records", fmt.Sprintf("%d records; a request holds at most %d", len(r.Records), MaxRecords)}
	case r.Lines != nil && len(r.Lines) != len(r.Records):
		return 0, &RequestError{"lines", fmt.Sprintf("%d digests for %d records", len(r.Lines), len(r.Records))}
	case r.Producer == "" && r.Number != 0:
		return 0, &RequestError{"number", "a number needs a producer"}
	case r.Producer != "" && r.Number == 0:
		return 0, &RequestError{"number", "0; a producer numbers its records from 1"}
	case r.Number > 1<<63-1-MaxRecords:
		return 0, &RequestError{"number", fmt.Sprintf("%d is too large", r.Number)}
	}
	if err := checkName("producer", r.Producer); err != nil {
		return 0, err
	}
	if err := checkName("session", r.Session); err != nil {
		return 0, err
	}
	if err := r.checkFile(); err != nil {
		return 0, err
	}
	size = int64(len(r.Producer) + len(r.Session) + 12*len(r.Lines) + len(r.File) + binary.MaxVarintLen32*len(r.Numbers))
	for i, rec := range r.Records {
		if len(rec) > event.MaxRecordBytes {
			return 0, &RequestError{fmt.Sprintf("records[%d]", i), fmt.Sprintf("%d bytes; a record holds at most %d", len(rec), event.MaxRecordBytes)}
		}
		size += int64(len(rec)) + 4
	}
	if size > MaxRequestBytes {
		return 0, &RequestError{"records", fmt.Sprintf("%d bytes in total; a request holds at most %d", size, MaxRequestBytes)}
	}
	return size, nil
}

// checkFile checks the file's name and the records' line numbers.
func (r *Request) checkFile() error {
	switch {
	case r.File == "" && len(r.Numbers) > 0:
		return &RequestError{"file.name", "it is missing, but file.lines is not: send both or none"}
	case r.File == "":
		return nil
	case len(r.File) > MaxFileName:
		return &RequestError{"file.name", fmt.Sprintf("%d bytes, at most %d", len(r.File), MaxFileName)}
	case !utf8.ValidString(r.File):
		return &RequestError{"file.name", "not UTF-8"}
	case len(r.Numbers) != len(r.Records):
		return &RequestError{"file.lines", fmt.Sprintf("%d line numbers for %d records", len(r.Numbers), len(r.Records))}
	}
	last := uint32(0)
	for i, n := range r.Numbers {
		if n <= last {
			return &RequestError{fmt.Sprintf("file.lines[%d]", i), fmt.Sprintf("%d after %d: line numbers start at 1 and increase", n, last)}
		}
		last = n
	}
	return nil
}

func checkName(field, name string) error {
	if len(name) > MaxName {
		return &RequestError{field, fmt.Sprintf("%d bytes; a name has at most %d", len(name), MaxName)}
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

// Close refuses new requests and fails queued ones (ErrClosed: not stored). The
// log still settles those on their way, at the latest when it closes. Closing
// twice is fine.
func (a *Appender) Close() {
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	a.cancel(ErrClosed)
	a.wg.Wait()
}
