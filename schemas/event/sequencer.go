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
	Time   time.Time // the log's timestamp; the sequencer reads no other clock
	Data   []byte    // an envelope; Apply does not retain it
}

// Sequencer folds messages into verdicts (H1). It is pure: the same state,
// messages and definitions give the same batches, byte for byte, in any process
// and however the messages are divided into batches. It is not safe for
// concurrent use.
//
// The checks run in this order: the envelope parses; the producer's number is
// new; the file's line is new; the record decodes; its id is new. Every record
// advances its producer's number, whatever its verdict.
type Sequencer struct {
	streams map[string]*streamState
	state   *State
	buf     []byte
}

// streamState is the schema, decoder and id window of one stream.
type streamState struct {
	schema *Schema
	dec    *decoder
	ids    *idWindow // nil if the stream has no id
}

// NewSequencer returns a Sequencer that continues from st and owns it. schemas
// holds the definitions in force, by stream. After a control record that changes
// them, create a new Sequencer from the same state.
func NewSequencer(schemas map[string]*Schema, st *State) *Sequencer {
	q := &Sequencer{streams: map[string]*streamState{}, state: st}
	for name, schema := range schemas {
		s := &streamState{schema: schema, dec: newDecoder(schema)}
		if len(schema.id) > 0 {
			s.ids = st.window(schema)
		}
		q.streams[name] = s
	}
	return q
}

// State returns the state after the last applied message. The sequencer still
// owns it; another goroutine needs a Clone.
func (q *Sequencer) State() *State { return q.state }

// Apply adds a message's events to b. It never fails: an envelope that does not
// parse counts as one received and rejected event.
func (q *Sequencer) Apply(m Message, b *Batch) {
	b.begin(m)
	e, err := ParseEnvelope(m.Data)
	if err == nil && e.Stream != m.Stream {
		err = fmt.Errorf("envelope: it names the stream %s, but the message's subject is %s", shown([]byte(e.Stream)), m.Stream)
	}
	b.account(m.Stream) // also for an envelope without records
	if err != nil {
		a := schemas.Account{Received: 1, Rejected: 1}
		b.count(m, 0, a)
		b.messages = append(b.messages, MessageVerdicts{m.Stream, m.At, a, 0})
		b.Events++
		b.reject(m, 0, origin{}, &Reject{Reason: err.Error(), Raw: m.Data})
		return
	}
	f := fold{q: q, m: m, b: b, e: &e, stream: q.streams[m.Stream], micros: m.Time.UnixMicro()}
	if f.stream != nil {
		f.rows = b.rowsOf(f.stream.schema)
		f.rows.reserve(e.Count())
	}
	b.Events += e.Count()
	var all schemas.Account
	for i := range e.Runs {
		first := f.next
		a := f.run(&e.Runs[i])
		all.Add(a)
		b.count(m, first, a)
		if s := e.Runs[i].Session; s != "" {
			b.session(s).Add(a)
		}
	}
	b.messages = append(b.messages, MessageVerdicts{m.Stream, m.At, all, f.digest})
}

// Verdicts and NULL in the digest of [MessageVerdicts].
const (
	digestAccepted = 1 + iota
	digestDuplicate
	digestRejected
	digestNull
)

// fold applies one envelope.
type fold struct {
	q      *Sequencer
	m      Message
	b      *Batch
	e      *Envelope
	stream *streamState // nil if no such stream is defined
	rows   *rows
	micros int64
	next   int    // index of the next record
	digest uint64 // of MessageVerdicts
}

// run decides every record of a run and returns the run's account.
func (f *fold) run(r *Run) (a schemas.Account) {
	producers := f.q.state.producers
	before := producers[r.Producer]
	last := before
	var lines lineRun
	if r.Lines != nil && f.stream != nil {
		lines = f.q.state.lines.run(chunkKey{f.m.Stream, r.Chunk}, r.Lines, f.stream.schema.fingerprint)
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
				f.reject(r, i, &Reject{Reason: "the producer's number is 0; numbers start at 1"})
				continue
			}
			if number <= last {
				a.Duplicate++
				f.digest = mix(f.digest, digestDuplicate)
				continue
			}
			last = number
		}
		known := lineNew
		if lines.lines != nil {
			known = lines.status(i)
		}
		switch known {
		case lineKnown:
			a.Duplicate++
			f.digest = mix(f.digest, digestDuplicate)
			continue
		case lineForgotten:
			a.Rejected++
			f.reject(r, i, &Reject{Reason: "the file was ingested too long ago to tell whether it held this line"})
			continue
		}
		reject, duplicate := f.decide(record)
		switch {
		case reject != nil:
			a.Rejected++
			f.reject(r, i, reject)
		case duplicate:
			a.Duplicate++
			f.digest = mix(f.digest, digestDuplicate)
		default:
			a.Accepted++
		}
		if lines.lines != nil && (reject == nil || !reject.retryable) {
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

// reject adds record i of run r to the rejects.
func (f *fold) reject(r *Run, i int, why *Reject) {
	record := f.next - 1
	f.digest = mix(f.digest, digestRejected)
	if why.Raw == nil {
		why.Raw = f.e.Record(record)
	}
	from := origin{session: r.Session, file: r.File}
	if r.File != "" {
		from.line = r.Numbers[i]
	}
	f.b.reject(f.m, record, from, why)
}

// decide decodes a record and looks up its id. If the record is neither rejected
// nor a duplicate, decide appends it to the batch.
func (f *fold) decide(record int) (reject *Reject, duplicate bool) {
	if f.stream == nil {
		return &Reject{Reason: "no stream " + f.m.Stream + " is defined"}, false
	}
	d := f.stream.dec
	if reject := d.decode(f.e.Record(record), f.micros); reject != nil {
		return reject, false
	}
	if f.stream.ids != nil {
		var h xxh3.Uint128
		var ok bool
		if h, f.q.buf, ok = d.schema.hashID(f.q.buf, d.cells); ok {
			if f.stream.ids.has(h) {
				return nil, true
			}
			f.stream.ids.add(h)
		}
	}
	f.digest = f.rows.append(d, f.m.At, record, mix(f.digest, digestAccepted))
	return nil, false
}
