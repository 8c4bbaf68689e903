package event

import (
	"cmp"
	"maps"
	"math"
	"math/bits"
	"slices"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/zeebo/xxh3"

	"duet/schemas"
	"duet/schemas/project"
)

// Limits at which [Batch.Full] returns true.
const (
	MaxBatchEvents = 131_072
	MaxBatchBytes  = 64 << 20 // of messages
)

// RejectArrow is the schema of [Batch.RejectRecord]: the record as it was sent, the
// reason, the log's timestamp, and the file and line that the record came from, if
// the sender named them.
var RejectArrow = arrow.NewSchema([]arrow.Field{
	{Name: "stream", Type: arrow.BinaryTypes.String},
	{Name: "reason", Type: arrow.BinaryTypes.String},
	{Name: "column_name", Type: arrow.BinaryTypes.String, Nullable: true},
	{Name: "raw", Type: arrow.BinaryTypes.Binary},
	{Name: "received_at", Type: timestampType},
	{Name: "session", Type: arrow.BinaryTypes.String, Nullable: true},
	{Name: "file", Type: arrow.BinaryTypes.String, Nullable: true},
	{Name: "line", Type: arrow.PrimitiveTypes.Int64, Nullable: true},
	{Name: schemas.ColAt, Type: arrow.PrimitiveTypes.Int64},
	{Name: schemas.ColRecord, Type: arrow.PrimitiveTypes.Int32},
}, nil)

// RejectSQLColumns lists the columns of RejectArrow for CREATE TABLE.
const RejectSQLColumns = "stream VARCHAR, reason VARCHAR, column_name VARCHAR, raw BLOB, received_at TIMESTAMP, session VARCHAR, file VARCHAR, line BIGINT, " +
	schemas.ColAt + " BIGINT, " + schemas.ColRecord + " INTEGER"

// LinesArrow is the schema of [Batch.LinesRecord]. Each row is one run that added
// lines: their digests in order (8 bytes each, little-endian), the rejected ones
// (4-byte little-endian indexes into the digests), and the definition that
// rejected them.
var LinesArrow = arrow.NewSchema([]arrow.Field{
	{Name: "stream", Type: arrow.BinaryTypes.String},
	{Name: "chunk", Type: arrow.BinaryTypes.Binary},
	{Name: "digests", Type: arrow.BinaryTypes.Binary},
	{Name: "rejected", Type: arrow.BinaryTypes.Binary},
	{Name: "definition", Type: arrow.PrimitiveTypes.Int64},
	{Name: schemas.ColAt, Type: arrow.PrimitiveTypes.Int64},
	{Name: schemas.ColRecord, Type: arrow.PrimitiveTypes.Int32},
}, nil)

// LinesSQLColumns lists the columns of LinesArrow for CREATE TABLE.
const LinesSQLColumns = "stream VARCHAR, chunk BLOB, digests BLOB, rejected BLOB, definition BIGINT, " +
	schemas.ColAt + " BIGINT, " + schemas.ColRecord + " INTEGER"

// EnvelopesArrow is the schema of [Batch.EnvelopesRecord]. Each row counts the
// events of one run of a message; its position is that of the run's first record.
// The accepted ones are not counted here: they are rows of the stream.
var EnvelopesArrow = arrow.NewSchema([]arrow.Field{
	{Name: "stream", Type: arrow.BinaryTypes.String},
	{Name: "received", Type: arrow.PrimitiveTypes.Int64},
	{Name: "duplicate", Type: arrow.PrimitiveTypes.Int64},
	{Name: "rejected", Type: arrow.PrimitiveTypes.Int64},
	{Name: schemas.ColAt, Type: arrow.PrimitiveTypes.Int64},
	{Name: schemas.ColRecord, Type: arrow.PrimitiveTypes.Int32},
}, nil)

// EnvelopesSQLColumns lists the columns of EnvelopesArrow for CREATE TABLE.
const EnvelopesSQLColumns = "stream VARCHAR, received BIGINT, duplicate BIGINT, rejected BIGINT, " +
	schemas.ColAt + " BIGINT, " + schemas.ColRecord + " INTEGER"

// Batch collects the results of messages for one transaction of the store.
// [Sequencer.Apply] fills it. Records, RejectRecord, LinesRecord and
// EnvelopesRecord finish the batch; the records they return belong to the batch
// and are valid until Reset or Release. A Batch is not safe for concurrent use.
type Batch struct {
	// Through is the last message applied: everything at or before it is in
	// this batch or an earlier one.
	Through schemas.Position
	Events  int   // received events, whatever the verdict
	Bytes   int64 // bytes of messages

	alloc     memory.Allocator
	streams   map[string]*rows
	rejects   *array.RecordBuilder
	lines     *array.RecordBuilder
	messages  []MessageVerdicts
	envelopes *array.RecordBuilder
	accounts  map[string]*schemas.Account
	sessions  map[string]*schemas.Account
	producers map[string]uint64

	closed       bool
	records      []StreamRecord
	rejectRecord arrow.RecordBatch
	linesRecord  arrow.RecordBatch

	envelopesRecord arrow.RecordBatch
}

// StreamRecord holds the accepted events of one stream, ordered by position, in
// the columns of its [Schema.Arrow].
type StreamRecord struct {
	Stream string
	Schema *Schema
	Record arrow.RecordBatch
	// NewestEventTime is the latest event time in Record, in UTC. It is the zero
	// time if no event has one.
	NewestEventTime time.Time
}

// StreamAccount counts one stream's events by verdict.
type StreamAccount struct {
	Stream string
	schemas.Account
	Sums []ColumnSum // of the accepted events; nil if there are none
}

// MessageVerdicts sums up what the sequencer decided for one message.
type MessageVerdicts struct {
	Stream string
	Pos    schemas.Position
	schemas.Account
	// Digest covers the verdict of each record and the values of the accepted ones.
	Digest uint64
}

// SessionAccount counts one session's events by verdict.
type SessionAccount struct {
	Session string
	schemas.Account
}

// Producer holds a producer's last number.
type Producer struct {
	Name string
	Last uint64
}

// NewBatch returns an empty batch. Release frees its memory.
func NewBatch(alloc memory.Allocator) *Batch {
	return &Batch{
		alloc: alloc, streams: map[string]*rows{},
		rejects: array.NewRecordBuilder(alloc, RejectArrow), lines: array.NewRecordBuilder(alloc, LinesArrow),
		envelopes: array.NewRecordBuilder(alloc, EnvelopesArrow),
		accounts:  map[string]*schemas.Account{}, sessions: map[string]*schemas.Account{}, producers: map[string]uint64{},
	}
}

// Full reports whether the batch should be stored before another message is applied.
func (b *Batch) Full() bool { return b.Events >= MaxBatchEvents || b.Bytes >= MaxBatchBytes }

// Records returns the accepted events, ordered by stream. It omits streams
// without accepted events.
func (b *Batch) Records() []StreamRecord {
	b.close()
	return b.records
}

// RejectRecord returns the rejected events, or nil if there are none.
func (b *Batch) RejectRecord() arrow.RecordBatch {
	b.close()
	return b.rejectRecord
}

// LinesRecord returns the file lines that became known, or nil if there are none.
func (b *Batch) LinesRecord() arrow.RecordBatch {
	b.close()
	return b.linesRecord
}

// EnvelopesRecord returns the counts of each run, or nil if there are none.
func (b *Batch) EnvelopesRecord() arrow.RecordBatch {
	b.close()
	return b.envelopesRecord
}

// Accounts returns each stream's account, ordered by stream.
func (b *Batch) Accounts() []StreamAccount {
	out := make([]StreamAccount, 0, len(b.accounts))
	for _, name := range slices.Sorted(maps.Keys(b.accounts)) {
		a := StreamAccount{Stream: name, Account: *b.accounts[name]}
		if a.Accepted > 0 {
			a.Sums = b.streams[name].columnSums()
		}
		out = append(out, a)
	}
	return out
}

// Messages returns what was decided for each message, in order of position. It is valid
// until Reset.
func (b *Batch) Messages() []MessageVerdicts { return b.messages }

// Sessions returns each session's account, ordered by session.
func (b *Batch) Sessions() []SessionAccount {
	out := make([]SessionAccount, 0, len(b.sessions))
	for _, name := range slices.Sorted(maps.Keys(b.sessions)) {
		out = append(out, SessionAccount{name, *b.sessions[name]})
	}
	return out
}

// Producers returns the producers that advanced, with their last numbers, ordered
// by name. To get all producers at a cut, merge those of every batch up to it;
// the later number wins.
func (b *Batch) Producers() []Producer {
	out := make([]Producer, 0, len(b.producers))
	for name, last := range b.producers {
		out = append(out, Producer{name, last})
	}
	slices.SortFunc(out, func(x, y Producer) int { return cmp.Compare(x.Name, y.Name) })
	return out
}

// Reset empties the batch for reuse.
func (b *Batch) Reset() {
	b.close()
	for i := range b.records {
		b.records[i].Record.Release()
	}
	if b.rejectRecord != nil {
		b.rejectRecord.Release()
	}
	if b.linesRecord != nil {
		b.linesRecord.Release()
	}
	if b.envelopesRecord != nil {
		b.envelopesRecord.Release()
	}
	clear(b.records)
	b.records, b.rejectRecord, b.linesRecord, b.envelopesRecord, b.closed = b.records[:0], nil, nil, nil, false
	clear(b.accounts)
	clear(b.sessions)
	clear(b.producers)
	for _, r := range b.streams {
		clear(r.sums)
	}
	b.messages = b.messages[:0]
	b.Through, b.Events, b.Bytes = 0, 0, 0
}

// Release frees all memory. The batch cannot be used afterwards.
func (b *Batch) Release() {
	b.Reset()
	for _, r := range b.streams {
		r.builder.Release()
	}
	b.rejects.Release()
	b.lines.Release()
	b.envelopes.Release()
}

// begin counts a message.
func (b *Batch) begin(m Message) {
	if b.closed {
		panic("event: Apply to a batch that was read; Reset it first")
	}
	b.Through = m.At
	b.Bytes += int64(len(m.Data))
}

// close builds the records, once.
func (b *Batch) close() {
	if b.closed {
		return
	}
	b.closed = true
	for _, name := range slices.Sorted(maps.Keys(b.streams)) {
		if r := b.streams[name]; r.at.Len() > 0 {
			b.records = append(b.records, r.take())
		}
	}
	if b.rejects.Field(0).Len() > 0 {
		b.rejectRecord = b.rejects.NewRecordBatch()
	}
	if b.lines.Field(0).Len() > 0 {
		b.linesRecord = b.lines.NewRecordBatch()
	}
	if b.envelopes.Field(0).Len() > 0 {
		b.envelopesRecord = b.envelopes.NewRecordBatch()
	}
}

func (b *Batch) account(stream string) *schemas.Account { return accountOf(b.accounts, stream) }

func (b *Batch) session(name string) *schemas.Account { return accountOf(b.sessions, name) }

func accountOf(accounts map[string]*schemas.Account, name string) *schemas.Account {
	a := accounts[name]
	if a == nil {
		a = &schemas.Account{}
		accounts[name] = a
	}
	return a
}

// origin says where a record came from.
type origin struct {
	session string // "" if none
	file    string // "" if unknown
	line    uint32 // of a named file
}

func (b *Batch) reject(m Message, record int, from origin, r *Reject) {
	f := b.rejects.Field
	f(0).(*array.StringBuilder).Append(m.Stream)
	f(1).(*array.StringBuilder).Append(r.Reason)
	appendName(f(2), r.Column)
	f(3).(*array.BinaryBuilder).Append(r.Raw)
	f(4).(*array.TimestampBuilder).Append(arrow.Timestamp(m.Time.UnixMicro()))
	appendName(f(5), from.session)
	appendName(f(6), from.file)
	if from.file == "" {
		f(7).AppendNull()
	} else {
		f(7).(*array.Int64Builder).Append(int64(from.line))
	}
	f(8).(*array.Int64Builder).Append(int64(m.At))
	f(9).(*array.Int32Builder).Append(int32(record))
}

// appendName appends a name; "" becomes NULL.
func appendName(b array.Builder, name string) {
	if name == "" {
		b.AppendNull()
		return
	}
	b.(*array.StringBuilder).Append(name)
}

// count adds the account of one run, whose first record is at index record, to
// the stream's account and, if it received events, to the envelopes.
func (b *Batch) count(m Message, record int, a schemas.Account) {
	b.account(m.Stream).Add(a)
	if a.Received == 0 {
		return
	}
	f := b.envelopes.Field
	f(0).(*array.StringBuilder).Append(m.Stream)
	f(1).(*array.Int64Builder).Append(a.Received)
	f(2).(*array.Int64Builder).Append(a.Duplicate)
	f(3).(*array.Int64Builder).Append(a.Rejected)
	f(4).(*array.Int64Builder).Append(int64(m.At))
	f(5).(*array.Int32Builder).Append(int32(record))
}

func (b *Batch) addLines(m Message, record int, r *lineRun) {
	f := b.lines.Field
	f(0).(*array.StringBuilder).Append(r.key.stream)
	f(1).(*array.BinaryBuilder).Append(r.key.chunk[:])
	f(2).(*array.BinaryBuilder).Append(r.added)
	f(3).(*array.BinaryBuilder).Append(r.rejected)
	f(4).(*array.Int64Builder).Append(int64(r.definition))
	f(5).(*array.Int64Builder).Append(int64(m.At))
	f(6).(*array.Int32Builder).Append(int32(record))
}

// rows builds the accepted events of one stream.
type rows struct {
	schema  *Schema
	builder *array.RecordBuilder
	columns []array.Builder
	kinds   []project.Kind
	extra   *array.StringBuilder
	at      *array.Int64Builder
	record  *array.Int32Builder
	texts   []*array.StringBuilder
	sums    []sum // by Schema.summed, since the last Reset
	newest  int64 // the latest event time in microseconds, math.MinInt64 if none
	last    int   // rows of the previous batch
	bytes   []int // bytes of each text column in the previous batch
}

// rowsOf returns the stream's builder. A batch has one definition of a stream: it
// never spans a control record.
func (b *Batch) rowsOf(s *Schema) *rows {
	r := b.streams[s.stream.Name]
	if r != nil && r.schema == s {
		return r
	}
	if r != nil {
		if r.at.Len() > 0 {
			panic("event: two definitions of stream " + s.stream.Name + " in one batch")
		}
		r.builder.Release()
	}
	r = &rows{schema: s, builder: array.NewRecordBuilder(b.alloc, s.arrow), newest: math.MinInt64, sums: make([]sum, len(s.summed))}
	for i, t := range s.types {
		r.columns = append(r.columns, r.builder.Field(i))
		r.kinds = append(r.kinds, t.Kind)
		if b, ok := r.columns[i].(*array.StringBuilder); ok {
			r.texts = append(r.texts, b)
		}
	}
	r.bytes = make([]int, len(r.texts))
	n := len(s.types)
	r.extra = r.builder.Field(n).(*array.StringBuilder)
	r.at = r.builder.Field(n + 1).(*array.Int64Builder)
	r.record = r.builder.Field(n + 2).(*array.Int32Builder)
	b.streams[s.stream.Name] = r
	return r
}

// reserveEnvelopes bounds how many envelopes' rows reserve allocates when a batch
// begins, up to the size of the previous batch. Builders then grow seldom under
// load, and a batch of one event does not clear megabytes.
const reserveEnvelopes = 16

// reserve makes room for n more rows.
func (r *rows) reserve(n int) {
	first := r.at.Len() == 0
	if first {
		n = max(n, min(r.last, reserveEnvelopes*n))
	}
	for _, c := range r.columns {
		c.Reserve(n)
	}
	r.extra.Reserve(n)
	r.at.Reserve(n)
	r.record.Reserve(n)
	if first && r.last > 0 { // later it would grow by n, not by doubling
		for i, t := range r.texts {
			t.ReserveData(n * (r.bytes[i]/r.last + 1))
		}
	}
}

// take returns the rows and empties the builder. It records their number and
// size, so that reserve can allocate as much for the next batch.
func (r *rows) take() StreamRecord {
	r.last = r.at.Len()
	for i, t := range r.texts {
		r.bytes[i] = t.DataLen()
	}
	out := StreamRecord{Stream: r.schema.stream.Name, Schema: r.schema, Record: r.builder.NewRecordBatch()}
	if r.newest != math.MinInt64 {
		out.NewestEventTime = time.UnixMicro(r.newest).UTC()
	}
	r.newest = math.MinInt64
	return out
}

// append adds the event that d decoded, and its values to a digest.
func (r *rows) append(d *decoder, at schemas.Position, record int, digest uint64) uint64 {
	for i, b := range r.columns {
		c := &d.cells[i]
		appendCell(b, r.kinds[i], c)
		switch {
		case c.state != set:
			digest = mix(digest, digestNull)
		case r.kinds[i] == project.Varchar || r.kinds[i] == project.UUID:
			digest = mix(digest, xxh3.Hash(c.text))
		case r.kinds[i] == project.Decimal:
			digest = mix(digest, uint64(c.i)^bits.RotateLeft64(uint64(c.hi), 32))
		default:
			digest = mix(digest, uint64(c.i))
		}
	}
	for k, i := range r.schema.summed {
		if c := &d.cells[i]; c.state == set {
			r.sums[k].add(c, r.kinds[i] == project.Decimal)
		}
	}
	if len(d.extra) > 0 {
		digest = mix(digest, xxh3.Hash(d.extra))
		r.extra.BinaryBuilder.Append(d.extra)
	} else {
		r.extra.AppendNull()
	}
	r.at.Append(int64(at))
	r.record.Append(int32(record))
	if t, ok := d.eventMicros(); ok {
		r.newest = max(r.newest, t)
	}
	return digest
}

// mix adds a value to a digest.
func mix(digest, value uint64) uint64 {
	hi, lo := bits.Mul64(digest^0x9e3779b97f4a7c15, value^0xbf58476d1ce4e5b9)
	return bits.RotateLeft64(digest, 23) ^ hi ^ lo
}
