package eventlog

import (
	"context"
	"errors"

	"duet/schemas"
	"duet/schemas/event"
)

// Pending is an accepted request.
type Pending struct {
	appender  *Appender
	req       Request
	size      int64 // bytes that it holds of the queue's room
	held      int64 // records that it holds of the queue's room
	through   uint64
	duplicate int      // records, from the first on, that are left out
	original  *Pending // the request that holds all of this one's records; nil if it has some of its own

	copied chan struct{} // closed when req is not read any more
	done   chan struct{} // closed when result and err are final
	result Appended
	err    error
}

// Wait returns when the request is durable, or certainly not stored. If ctx
// ends first, a request that is still queued is cancelled (ErrBusy); any other
// is an *UnknownError. Errors are those of [Appender.Append].
func (p *Pending) Wait(ctx context.Context) (Appended, error) {
	if p.original != nil {
		return p.waitForOriginal(ctx)
	}
	select {
	case <-p.done:
		return p.result, p.err
	case <-ctx.Done():
	}
	if p.appender.cancelQueued(p, context.Cause(ctx)) {
		return Appended{}, p.err
	}
	<-p.copied // the caller may reuse its records
	select {
	case <-p.done:
		return p.result, p.err
	default:
		return Appended{}, &UnknownError{Cause: context.Cause(ctx)}
	}
}

// waitForOriginal waits for the request that holds the same records.
func (p *Pending) waitForOriginal(ctx context.Context) (Appended, error) {
	select {
	case <-p.original.done:
		if p.original.err != nil {
			return Appended{}, p.original.err
		}
		return Appended{At: p.original.result.At, Duplicate: p.duplicate}, nil
	case <-ctx.Done():
		return Appended{}, &UnknownError{Cause: context.Cause(ctx)}
	}
}

// group is the requests of one envelope.
type group []*Pending

// commit sends what is queued, until Close.
func (a *Appender) commit() {
	defer a.wg.Done()
	var buf []byte
	for {
		select {
		case <-a.arrived:
		case <-a.ctx.Done():
			a.failQueue(ErrClosed)
			return
		}
		for more := true; more; {
			buf, more = a.commitNext(buf)
		}
	}
}

// commitNext sends one envelope. It returns false if the queue is empty, or was
// failed because the log is closed.
func (a *Appender) commitNext(buf []byte) (_ []byte, more bool) {
	// Reserve room in the log's window first: requests that arrive meanwhile join.
	if err := a.log.reserve(a.ctx); err != nil {
		a.failQueue(err)
		return buf, false
	}
	// If a publish fails after this line, the log refuses the old epoch: the
	// requests taken below could follow the failed ones and leave a hole. What
	// failed before it has been settled, and nothing behind it is queued.
	epoch := a.log.epoch()
	g := a.take()
	if g == nil {
		a.log.unreserve()
		return buf, false
	}
	buf = a.encode(g, buf)
	err := a.log.sendReserved(epoch, eventPrefix+g[0].req.Stream, buf, false, func(at schemas.Position, err error) { a.settle(g, at, err) })
	if err != nil {
		a.log.unreserve()
		a.settle(g, 0, err)
	}
	return buf, true
}

// take removes the requests of the next envelope from the queue: the oldest one,
// and those of the same stream that fit and do not overtake one of their
// producer.
func (a *Appender) take() group {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.queue) == 0 {
		return nil
	}
	var g group
	stream, records, size := a.queue[0].req.Stream, 0, int64(0)
	kept := a.queue[:0]
	var stays map[string]bool // producers with a request that stays queued
	full := false
	for _, p := range a.queue {
		n := len(p.req.Records) - p.duplicate
		if records > 0 && (records+n > groupRecords || size+p.size > groupBytes) {
			full = true
		}
		if full || p.req.Stream != stream || stays[p.req.Producer] {
			if p.req.Producer != "" && !full {
				if stays == nil {
					stays = make(map[string]bool)
				}
				stays[p.req.Producer] = true
			}
			kept = append(kept, p)
			continue
		}
		g = append(g, p)
		records += n
		size += p.size
	}
	clear(a.queue[len(kept):])
	a.queue = kept
	return g
}

// encode appends the group's message, framed, to buf[:0]. The requests' records
// are not read after it.
func (a *Appender) encode(g group, buf []byte) []byte {
	var runs []event.Run
	var records [][]byte
	for _, p := range g {
		r, skip := &p.req, p.duplicate
		run := event.Run{Producer: r.Producer, Count: uint32(len(r.Records) - skip), Session: r.Session, Chunk: r.Chunk}
		if r.Producer != "" {
			run.First = r.Number + uint64(skip)
		}
		if r.Lines != nil {
			run.Lines = r.Lines[skip:]
		}
		if r.File != "" {
			run.File, run.Numbers = r.File, r.Numbers[skip:]
		}
		p.result = Appended{First: len(records), Count: len(r.Records) - skip, Duplicate: skip}
		runs = append(runs, run)
		records = append(records, r.Records[skip:]...)
	}
	stream := g[0].req.Stream
	buf = event.AppendEnvelope(frame(buf[:0], eventPrefix+stream), stream, runs, records)
	for _, p := range g {
		close(p.copied)
	}
	return buf
}

// settle answers the requests of one envelope.
func (a *Appender) settle(g group, at schemas.Position, err error) {
	if errors.Is(err, errAborted) {
		err = unavailable(err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, p := range g {
		p.result.At = at
		a.finish(p, err)
	}
	if err != nil {
		for _, p := range g {
			a.abandonBehind(p)
		}
	}
}

// cancelQueued fails a request that is still queued, and those of its producer
// behind it. It returns false if the request is on its way.
func (a *Appender) cancelQueued(p *Pending, cause error) bool {
	err := a.busyErr(cause)
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, q := range a.queue {
		if q == p {
			a.queue = append(a.queue[:i:i], a.queue[i+1:]...)
			a.finish(p, err)
			a.abandonBehind(p)
			return true
		}
	}
	return false
}

// abandonBehind fails the queued requests of a producer behind one that was not
// stored. Appender.mu is held.
func (a *Appender) abandonBehind(p *Pending) {
	if p.req.Producer == "" {
		return
	}
	kept := a.queue[:0]
	for _, q := range a.queue {
		if q.req.Producer == p.req.Producer && q.through > p.through {
			a.finish(q, ErrEarlier)
		} else {
			kept = append(kept, q)
		}
	}
	clear(a.queue[len(kept):])
	a.queue = kept
}

// failQueue fails all queued requests.
func (a *Appender) failQueue(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, p := range a.queue {
		a.finish(p, err)
	}
	clear(a.queue)
	a.queue = a.queue[:0]
}

// finish makes a request's outcome final. Appender.mu is held.
func (a *Appender) finish(p *Pending, err error) {
	if name := p.req.Producer; name != "" {
		pr := a.producers[name]
		for i, q := range pr.pending {
			if q == p {
				pr.pending = append(pr.pending[:i:i], pr.pending[i+1:]...)
				break
			}
		}
		if err == nil {
			pr.durable = max(pr.durable, p.through)
		}
		if pr.durable == 0 && len(pr.pending) == 0 {
			delete(a.producers, name)
		}
	}
	if p.err = err; err != nil {
		p.result = Appended{}
	}
	select {
	case <-p.copied:
	default:
		close(p.copied)
	}
	close(p.done)
	a.release(p)
}
