package event

import (
	"fmt"
	"time"

	"github.com/zeebo/xxh3"

	"duet/schemas"
)

// Message is one message of the log.
type Message struct {
	Stream string // of the message's subject; the envelope must say the same
	At     schemas.Position
	Time   time.Time // the log's timestamp: the only "now" there is
	Data   []byte    // an envelope; not kept after Apply
}

// Sequencer folds messages into verdicts (H1). It is pure: the same state,
// messages and definitions give the same batches, byte for byte, in any process
// and however the messages are spread over batches. One goroutine.
//
// The order of verdicts: the envelope is readable; the producer's number is new;
// the file's line is new; the record decodes; its id is new. A producer's number
// advances with every record received, whatever its verdict.
type Sequencer struct {
	lanes map[string]*lane
	state *State
	buf   []byte
}

// lane is what the sequencer needs of one stream.
type lane struct {
	schema *Schema
	dec    *decoder
	ids    *idWindow // nil if the stream has no id
}

// NewSequencer continues from st, which it takes over. schemas are the
// definitions in force, by stream; after a control record that changes them,
// make another Sequencer from the same state.
func NewSequencer(schemas map[string]*Schema, st *State) *Sequencer {
	q := &Sequencer{lanes: map[string]*lane{}, state: st}
	for name, s := range schemas {
		l := &lane{schema: s, dec: newDecoder(s)}
		if len(s.id) > 0 {
			l.ids = st.window(s)
		}
		q.lanes[name] = l
	}
	return q
}

// State is the state after the last message applied. It belongs to the
// sequencer's goroutine; Clone it for another.
func (q *Sequencer) State() *State { return q.state }

// Apply adds a message's events to b. It never fails: an envelope that cannot
// be read is one received and rejected event.
func (q *Sequencer) Apply(m Message, b *Batch) {
	b.begin(m)
	e, err := ParseEnvelope(m.Data)
	if err == nil && e.Stream != m.Stream {
		err = fmt.Errorf("envelope: of stream %s, but it came as one of %s", shown([]byte(e.Stream)), m.Stream)
	}
	account := b.account(m.Stream)
	if err != nil {
		a := schemas.Account{Received: 1, Rejected: 1}
		account.Add(a)
		b.Events++
		b.reject(m, 0, "", &Reject{Reason: err.Error(), Raw: m.Data})
		return
	}
	f := fold{q: q, m: m, b: b, e: &e, lane: q.lanes[m.Stream], micros: m.Time.UnixMicro()}
	if f.lane != nil {
		f.rows = b.rowsOf(f.lane.schema)
		f.rows.reserve(e.Count())
	}
	b.Events += e.Count()
	for i := range e.Runs {
		a := f.run(&e.Runs[i])
		account.Add(a)
		if s := e.Runs[i].Session; s != "" {
			b.session(s).Add(a)
		}
	}
}

// fold is the work on one envelope.
type fold struct {
	q      *Sequencer
	m      Message
	b      *Batch
	e      *Envelope
	lane   *lane // nil if no such stream is defined
	rows   *rows
	micros int64
	next   int // record
}

// run gives every record of a run its verdict.
func (f *fold) run(r *Run) (a schemas.Account) {
	producers := f.q.state.producers
	before := producers[r.Producer]
	last := before
	var lines lineRun
	if r.Lines != nil && f.lane != nil {
		lines = f.q.state.lines.run(chunkKey{f.m.Stream, r.Chunk}, r.Lines, f.lane.schema.fingerprint)
	}
	start := f.next
	for i := range int(r.Count) {
		record := f.next
		f.next++
		a.Received++
		if r.Producer != "" {
			number := r.First + uint64(i)
			if number == 0 {
				a.Rejected++
				f.reject(record, r, &Reject{Reason: "a producer's numbers start at 1, not 0"})
				continue
			}
			if number <= last {
				a.Duplicate++
				continue
			}
			last = number
		}
		known := lineNew
		if lines.lines != nil {
			known = lines.verdict(i)
		}
		switch known {
		case lineKnown:
			a.Duplicate++
			continue
		case lineForgotten:
			a.Rejected++
			f.reject(record, r, &Reject{Reason: "a line of a file that was ingested too long ago to tell whether this line was in it"})
			continue
		}
		reject, duplicate := f.decide(record)
		switch {
		case reject != nil:
			a.Rejected++
			f.reject(record, r, reject)
		case duplicate:
			a.Duplicate++
		default:
			a.Accepted++
		}
		if lines.lines != nil && (reject == nil || !reject.passing) {
			lines.remember(i, reject != nil)
		}
	}
	if last > before {
		producers[r.Producer] = last
		f.b.producers[r.Producer] = last
	}
	if len(lines.added) > 0 {
		f.b.addLines(f.m, start+lines.first, &lines)
	}
	return a
}

func (f *fold) reject(record int, r *Run, why *Reject) {
	if why.Raw == nil {
		why.Raw = f.e.Record(record)
	}
	f.b.reject(f.m, record, r.Session, why)
}

// decide decodes a record and looks for its id; an event that is neither
// rejected nor a duplicate is in the batch.
func (f *fold) decide(record int) (reject *Reject, duplicate bool) {
	if f.lane == nil {
		return &Reject{Reason: "no stream " + f.m.Stream + " is defined"}, false
	}
	d := f.lane.dec
	if reject := d.decode(f.e.Record(record), f.micros); reject != nil {
		return reject, false
	}
	if f.lane.ids != nil {
		var h xxh3.Uint128
		var ok bool
		if h, f.q.buf, ok = d.schema.hashID(f.q.buf, d.cells); ok {
			if f.lane.ids.has(h) {
				return nil, true
			}
			f.lane.ids.add(h)
		}
	}
	f.rows.append(d, f.m.At, record)
	if t, ok := d.eventMicros(); ok {
		f.b.newest = max(f.b.newest, t)
	}
	return nil, false
}
