package event

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"unicode/utf8"

	"github.com/zeebo/xxh3"
)

// Limits of an envelope and of a record. The appender keeps them; the sequencer
// rejects an envelope or record that exceeds one.
const (
	MaxRecords       = 65_536  // records in an envelope
	MaxRecordBytes   = 1 << 20 // bytes of one record
	MaxEnvelopeBytes = 4 << 20 // bytes of an envelope, including header and digests
)

const (
	envelopeMagic   = "DUE"
	envelopeVersion = 1
	envelopeHeader  = 20
	sumFrom         = 12 // the checksum covers everything from here
)

// Run is a sequence of records that one producer sent together. They have the
// numbers First, First+1, ...
type Run struct {
	Producer string // "" means not deduplicated by number
	First    uint64 // number of the first record, from 1
	Count    uint32
	Session  string   // the account that counts the records; "" means none
	Chunk    [16]byte // of a file: the chain's digest before the chunk's first line
	Lines    []uint64 // of a file: one digest a record; otherwise nil
	File     string   // the file's name; "" means unknown
	Numbers  []uint32 // of a named file: each record's line, increasing; otherwise nil
}

// Bits of a run's file byte.
const (
	fileDigests = 1 << iota // the run has a chunk and digests
	filePlace               // the run has a file name and line numbers
)

// Envelope is a parsed log message. Its records alias the message's bytes.
type Envelope struct {
	Stream string
	Runs   []Run
	ends   []byte // 4 bytes a record
	body   []byte
}

// Count returns the number of records.
func (e *Envelope) Count() int { return len(e.ends) / 4 }

// Record returns the bytes of record i. They alias the message and must not be
// modified.
func (e *Envelope) Record(i int) []byte {
	start := uint32(0)
	if i > 0 {
		start = binary.LittleEndian.Uint32(e.ends[4*i-4:])
	}
	end := binary.LittleEndian.Uint32(e.ends[4*i:])
	return e.body[start:end:end]
}

// AppendEnvelope appends an envelope to dst. It panics unless the runs' counts add
// up to len(records), each run's Lines are nil or one a record, and its Numbers are
// one a record and do not decrease if it names a file, and are nil otherwise. It
// does not check the limits.
func AppendEnvelope(dst []byte, stream string, runs []Run, records [][]byte) []byte {
	start := len(dst)
	dst = append(dst, envelopeMagic...)
	dst = append(dst, envelopeVersion)
	dst = append(dst, make([]byte, 8)...)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(records)))
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(runs)))
	dst = appendText(dst, stream)
	total := uint64(0)
	for _, r := range runs {
		if r.Count == 0 || r.Lines != nil && len(r.Lines) != int(r.Count) || len(r.Numbers) != int(r.Count) && (r.File != "" || r.Numbers != nil) {
			panic(fmt.Sprintf("event: a run of %d records of file %q with %d line digests and %d line numbers", r.Count, r.File, len(r.Lines), len(r.Numbers)))
		}
		total += uint64(r.Count)
		dst = appendText(dst, r.Producer)
		dst = binary.AppendUvarint(dst, r.First)
		dst = binary.AppendUvarint(dst, uint64(r.Count))
		dst = appendText(dst, r.Session)
		dst = appendFile(dst, &r)
	}
	if total != uint64(len(records)) {
		panic(fmt.Sprintf("event: runs of %d records, but %d records", total, len(records)))
	}
	end := uint32(0)
	for _, r := range records {
		end += uint32(len(r))
		dst = binary.LittleEndian.AppendUint32(dst, end)
	}
	for _, r := range records {
		dst = append(dst, r...)
	}
	binary.LittleEndian.PutUint64(dst[start+4:], xxh3.Hash(dst[start+sumFrom:]))
	return dst
}

// appendFile appends a run's file byte and the parts that it announces.
func appendFile(dst []byte, r *Run) []byte {
	bits := byte(0)
	if r.Lines != nil {
		bits |= fileDigests
	}
	if r.File != "" {
		bits |= filePlace
	}
	dst = append(dst, bits)
	if r.Lines != nil {
		dst = append(dst, r.Chunk[:]...)
		for _, l := range r.Lines {
			dst = binary.LittleEndian.AppendUint64(dst, l)
		}
	}
	if r.File != "" {
		dst = appendText(dst, r.File)
		last := uint32(0)
		for _, n := range r.Numbers {
			if n < last {
				panic(fmt.Sprintf("event: line %d of file %q after line %d", n, r.File, last))
			}
			dst = binary.AppendUvarint(dst, uint64(n-last))
			last = n
		}
	}
	return dst
}

func appendText(dst []byte, s string) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

// errEnvelopeShort is returned for a truncated envelope and for a forged length.
var errEnvelopeShort = errors.New("envelope: it ends before the records and runs that its header counts")

// ParseEnvelope parses b and checks its version, checksum, limits and counts. The
// returned records alias b; everything else is copied. It allocates at most a
// small multiple of len(b), whatever lengths b claims.
func ParseEnvelope(b []byte) (Envelope, error) {
	var e Envelope
	if len(b) < envelopeHeader || string(b[:3]) != envelopeMagic {
		return e, errors.New("envelope: it does not begin with " + envelopeMagic)
	}
	if b[3] != envelopeVersion {
		return e, fmt.Errorf("envelope: version %d; this program reads version %d", b[3], envelopeVersion)
	}
	if len(b) > MaxEnvelopeBytes {
		return e, fmt.Errorf("envelope: %d bytes; the limit is %d", len(b), MaxEnvelopeBytes)
	}
	if want, got := binary.LittleEndian.Uint64(b[4:]), xxh3.Hash(b[sumFrom:]); want != got {
		return e, fmt.Errorf("envelope: the checksum is %016x, but that of its bytes is %016x", want, got)
	}
	count, runs := binary.LittleEndian.Uint32(b[12:]), binary.LittleEndian.Uint32(b[16:])
	if count > MaxRecords {
		return e, fmt.Errorf("envelope: %d records; the limit is %d", count, MaxRecords)
	}
	if runs > count {
		return e, fmt.Errorf("envelope: %d runs for %d records", runs, count)
	}
	r := envelopeReader{b: b[envelopeHeader:]}
	e.Stream = r.text()
	if r.err == nil {
		e.Runs = make([]Run, 0, min(int(runs), len(r.b)/5)) // a run takes at least 5 bytes
	}
	total := uint64(0)
	for range runs {
		run := r.run(count)
		if r.err != nil {
			return Envelope{}, r.err
		}
		total += uint64(run.Count)
		e.Runs = append(e.Runs, run)
	}
	if r.err != nil {
		return Envelope{}, r.err
	}
	if total != uint64(count) {
		return Envelope{}, fmt.Errorf("envelope: the header counts %d records, the runs %d", count, total)
	}
	e.ends = r.take(uint64(count) * 4)
	if r.err != nil {
		return Envelope{}, r.err
	}
	e.body = r.b
	return e, e.checkEnds()
}

// checkEnds checks that the records' ends do not decrease and that the last one is
// the body's end, so that Record cannot slice out of bounds.
func (e *Envelope) checkEnds() error {
	last := uint32(0)
	for i := 0; i < len(e.ends); i += 4 {
		end := binary.LittleEndian.Uint32(e.ends[i:])
		if end < last {
			return fmt.Errorf("envelope: record %d ends before it starts", i/4)
		}
		last = end
	}
	if int(last) != len(e.body) {
		return fmt.Errorf("envelope: records end at byte %d of %d", last, len(e.body))
	}
	return nil
}

// envelopeReader consumes b from the front and keeps the first error.
type envelopeReader struct {
	b   []byte
	err error
}

func (r *envelopeReader) take(n uint64) []byte {
	if r.err != nil || n > uint64(len(r.b)) {
		if r.err == nil {
			r.err = errEnvelopeShort
		}
		return nil
	}
	p := r.b[:n:n]
	r.b = r.b[n:]
	return p
}

func (r *envelopeReader) uvarint() uint64 {
	if r.err != nil {
		return 0
	}
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.err = errEnvelopeShort
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *envelopeReader) text() string {
	p := r.take(r.uvarint())
	if r.err == nil && !utf8.Valid(p) {
		r.err = errors.New("envelope: a name is not UTF-8")
	}
	return string(p)
}

func (r *envelopeReader) run(records uint32) Run {
	run := Run{Producer: r.text(), First: r.uvarint()}
	count := r.uvarint()
	run.Session = r.text()
	flag := r.take(1)
	if r.err != nil {
		return run
	}
	if count == 0 || count > uint64(records) {
		r.err = fmt.Errorf("envelope: a run of %d records in an envelope of %d", count, records)
		return run
	}
	if run.First+count < run.First {
		r.err = fmt.Errorf("envelope: a run's numbers pass 2^64: first %d, count %d", run.First, count)
		return run
	}
	run.Count = uint32(count)
	r.file(&run, flag[0])
	return run
}

// file reads the parts that a run's file byte announces.
func (r *envelopeReader) file(run *Run, bits byte) {
	if bits&^(fileDigests|filePlace) != 0 {
		r.err = fmt.Errorf("envelope: a run's file byte is %d", bits)
		return
	}
	if bits&fileDigests != 0 {
		copy(run.Chunk[:], r.take(16))
		digests := r.take(8 * uint64(run.Count))
		if r.err != nil {
			return
		}
		run.Lines = make([]uint64, run.Count)
		for i := range run.Lines {
			run.Lines[i] = binary.LittleEndian.Uint64(digests[8*i:])
		}
	}
	if bits&filePlace == 0 {
		return
	}
	if run.File = r.text(); r.err == nil && run.File == "" {
		r.err = errors.New("envelope: a run's file has no name")
	}
	if r.err == nil && uint64(run.Count) > uint64(len(r.b)) { // each number takes at least a byte
		r.err = errEnvelopeShort
	}
	if r.err != nil {
		return
	}
	run.Numbers = make([]uint32, run.Count)
	line := uint64(0)
	for i := range run.Numbers {
		step := r.uvarint()
		if r.err != nil {
			return
		}
		if line += step; step > math.MaxUint32 || line > math.MaxUint32 {
			r.err = fmt.Errorf("envelope: record %d of a run has a line number above %d", i, uint32(math.MaxUint32))
			return
		}
		run.Numbers[i] = uint32(line)
	}
}
