package eventlog

import (
	"context"
	"errors"
	"fmt"

	"duet/schemas"
	"duet/schemas/event"
)

// Pending is an accepted request.
type Pending struct {
	door      *Appender
	req       Request
	size      int64
	held      int64 // records that it holds of the queue's room
	through   uint64
	duplicate int      // records, from the first on, that are left out
	original  *Pending // the request that holds all of this one's records; nil if it has some of its own

	copied chan struct{} // closed when req is not read any more
	done   chan struct{} // closed when result and err are final
	result Appended
	err    error

	at schemas.Position // of its envelope, once it is in one; guarded by Door.mu
}

// Wait returns when the request is durable or certainly not stored; if ctx
// ends first, a request that is not in an envelope yet is taken back, and any
// other is an *UnknownError. Errors are those of [Appender.Append].
func (p *Pending) Wait(ctx context.Context) (Appended, error) {
	if p.original != nil {
		return p.waitForOriginal(ctx)
	}
	select {
	case <-p.done:
		return p.result, p.err
	case <-ctx.Done():
	}
	if p.door.takeBack(p, context.Cause(ctx)) {
		return Appended{}, p.err
	}
	<-p.copied // the caller may reuse its records
	select {
	case <-p.done:
		return p.result, p.err
	default:
		p.door.mu.Lock()
		defer p.door.mu.Unlock()
		return Appended{}, &UnknownError{At: p.at, Cause: context.Cause(ctx)}
	}
}

// waitForOriginal answers a request whose records all came before, when they
// are durable.
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
type group struct {
	members []*Pending
	publish *inflight // nil: never sent; the completer says so on Door.idle
	err     error
}

// takeBack removes a request from the queue, and those of its producer behind
// it. It reports false if the request is on its way.
func (d *Appender) takeBack(p *Pending, cause error) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, q := range d.queue {
		if q == p {
			d.queue = append(d.queue[:i:i], d.queue[i+1:]...)
			d.finish(p, Appended{}, d.notTaken(cause))
			d.drop(p)
			return true
		}
	}
	return false
}

// notTaken is the answer when a caller stops waiting for the queue.
func (d *Appender) notTaken(cause error) error {
	if trouble := d.log.trouble(); trouble != nil {
		return fmt.Errorf("%w: %w", trouble, cause)
	}
	return fmt.Errorf("%w: nothing was taken; send it again later: %w", ErrBusy, cause)
}

// drop fails the queued requests of a producer behind one that was not stored.
// Door.mu is held.
func (d *Appender) drop(p *Pending) {
	if p.req.Producer == "" {
		return
	}
	kept := d.queue[:0]
	for _, q := range d.queue {
		if q.req.Producer == p.req.Producer && q.through > p.through {
			d.finish(q, Appended{}, ErrEarlier)
		} else {
			kept = append(kept, q)
		}
	}
	clear(d.queue[len(kept):])
	d.queue = kept
}

// finish answers a request. Door.mu is held.
func (d *Appender) finish(p *Pending, result Appended, err error) {
	if name := p.req.Producer; name != "" {
		pr := d.producers[name]
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
			delete(d.producers, name)
		}
	}
	p.result, p.err = result, err
	select {
	case <-p.copied:
	default:
		close(p.copied)
	}
	close(p.done)
	d.release(p)
}

// commit makes envelopes of what is queued and sends them, until the door
// closes.
func (d *Appender) commit() {
	defer d.wg.Done()
	defer close(d.sent)
	var buf []byte
	var epoch uint64
	for {
		select {
		case <-d.arrived:
		case <-d.ctx.Done():
			d.giveUp()
			return
		}
		for {
			// Room in the log's window first: what comes meanwhile joins.
			if err := d.log.reserve(d.ctx); err != nil && d.ctx.Err() != nil {
				d.giveUp()
				return
			} else if err != nil {
				d.failQueue(err)
				break
			}
			// A new epoch means that a publish failed. What was on its way then
			// is answered first, and what is queued behind it dropped: else it
			// could overtake, and leave a hole.
			if now := d.log.epoch(); now != epoch {
				d.sent <- new(group)
				<-d.idle
				epoch = now
			}
			g := d.take()
			if g == nil {
				d.log.unreserve()
				break
			}
			buf = d.encode(g, buf)
			g.publish, g.err = d.log.sendNow(epoch, eventPrefix+g.members[0].req.Stream, buf, false)
			if g.err != nil {
				d.log.unreserve()
			}
			failed := g.err != nil
			d.mark(g)
			d.sent <- g // the completer's from here on
			if failed { // nothing more until what is on its way is settled
				<-d.idle
			}
		}
	}
}

// take removes the next envelope's requests from the queue: the oldest one and
// what may go with it.
func (d *Appender) take() *group {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.queue) == 0 {
		return nil
	}
	stream := d.queue[0].req.Stream
	g, records, size := new(group), 0, int64(0)
	kept := d.queue[:0]
	var passed map[string]bool // producers with a request that stays: theirs behind it stay too
	full := false
	for _, p := range d.queue {
		n := len(p.req.Records) - p.duplicate
		if records > 0 && (records+n > groupRecords || size+p.size > groupBytes) {
			full = true
		}
		if full || p.req.Stream != stream || passed[p.req.Producer] {
			if p.req.Producer != "" && !full {
				if passed == nil {
					passed = make(map[string]bool)
				}
				passed[p.req.Producer] = true
			}
			kept = append(kept, p)
			continue
		}
		g.members = append(g.members, p)
		records += n
		size += p.size
	}
	clear(d.queue[len(kept):])
	d.queue = kept
	return g
}

// encode makes the group's envelope, framed, and gives the
// requests' records back to their owners.
func (d *Appender) encode(g *group, buf []byte) []byte {
	var runs []event.Run
	var records [][]byte
	for _, p := range g.members {
		r, skip := &p.req, p.duplicate
		run := event.Run{Producer: r.Producer, Count: uint32(len(r.Records) - skip), Session: r.Session, Chunk: r.Chunk}
		if r.Producer != "" {
			run.First = r.Number + uint64(skip)
		}
		if r.Lines != nil {
			run.Lines = r.Lines[skip:]
		}
		p.result = Appended{First: len(records), Count: len(r.Records) - skip, Duplicate: skip}
		runs = append(runs, run)
		records = append(records, r.Records[skip:]...)
	}
	stream := g.members[0].req.Stream
	buf = event.AppendEnvelope(frame(buf[:0], eventPrefix+stream), stream, runs, records)
	for _, p := range g.members {
		close(p.copied)
	}
	return buf
}

// mark tells the requests where their envelope is going to be.
func (d *Appender) mark(g *group) {
	if g.publish == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range g.members {
		p.at = g.publish.at
	}
}

// complete answers the requests of each envelope when its outcome is known, in
// the order of sending.
func (d *Appender) complete() {
	defer d.wg.Done()
	for g := range d.sent {
		if g.publish != nil {
			g.err = d.outcome(g.publish)
		}
		d.mu.Lock()
		for _, p := range g.members {
			result := p.result
			if g.err != nil {
				result = Appended{}
			} else {
				result.At = g.publish.at
			}
			d.finish(p, result, refused(g.err))
		}
		if g.err != nil {
			for _, p := range g.members {
				d.drop(p)
			}
		}
		d.mu.Unlock()
		if g.publish == nil {
			d.idle <- struct{}{}
		}
	}
}

// outcome waits for a publish. The log settles each one, but a log that cannot
// be written may take for ever, and the door may close meanwhile.
func (d *Appender) outcome(p *inflight) error {
	select {
	case <-p.done:
		return p.err
	case <-d.ctx.Done():
	}
	ctx, cancel := context.WithTimeoutCause(context.Background(), closeTimeout, ErrClosed)
	defer cancel()
	if d.log.trouble() != nil {
		cancel()
	}
	return p.wait(ctx)
}

// refused makes the answer of a failed publish the client's.
func refused(err error) error {
	if errors.Is(err, errAborted) {
		return unavailable(err)
	}
	return err
}

// failQueue answers everything that is queued.
func (d *Appender) failQueue(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range d.queue {
		d.finish(p, Appended{}, err)
	}
	clear(d.queue)
	d.queue = d.queue[:0]
}

// giveUp answers everything that is queued when the door closes.
func (d *Appender) giveUp() { d.failQueue(ErrClosed) }
