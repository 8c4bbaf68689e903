// Package source turns files into records for the log: CSV, NDJSON and
// Parquet, plain or compressed with gzip or zstd. Start with [Open].
//
// A record is one JSON object. Its values are the texts of the file, so that one
// decoder (schemas/event) decides all of them. A line that cannot be read becomes a
// bad record (event.AppendBad), which the decoder rejects with the reason. The
// content of a line never ends the reading; only an I/O or format error of the
// whole file does.
//
// # A line's identity
//
// The lines of a file, decompressed and without their line ends, form a chain:
//
//	h(-1) = xxh3-128("duet file 1" 0x00 stream)
//	h(i)  = xxh3-128(h(i-1), 16 bytes big-endian, then the bytes of line i)
//
// In a CSV file each record is one line of the chain, even if its quoted fields
// contain line ends. The header and blank lines belong to the chain, a byte order
// mark does not. In a Parquet file the JSON of each row is a line. Lines are divided
// into chunks of [ChunkLines]. A record carries the h before its chunk (Chunk) and
// the low 64 bits of its own h (Digest). The same content therefore has the same
// identities whatever the file's name and compression; a grown file keeps those it
// had; and from the first difference on everything differs.
//
// # CSV
//
// The rules are those of RFC 4180. Where it leaves a choice:
//
//   - A quoted field ends at a quote before a delimiter, a line end or the end of
//     the file. Two quotes are one. Anything else after a quote makes the record
//     malformed: its first line is a bad record and reading continues with the next
//     line, so that a stray quote costs one line and not the rest of the file.
//   - A quote inside a field that does not begin with one is kept.
//   - A record must have as many fields as the header.
//   - Blank lines are skipped. Blanks around a field are kept.
//   - A field equal to one of csv.nulls becomes null, quoted or not.
//   - With decimal: "," a numeric column's 1.234,5 becomes 1234.5.
//
// A line, or a record of several lines, has at most [MaxLineBytes].
package source

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"sync/atomic"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"duet/schemas/event"
	"duet/schemas/project"
)

// Limits of a file.
const (
	MaxLineBytes = 1 << 20 // bytes of a line without its line end
	ChunkLines   = 1024    // lines in a chunk
)

// Format is the format of a file.
type Format string

// The formats. Auto detects the format by content and name.
const (
	Auto    Format = ""
	CSV     Format = "csv"
	NDJSON  Format = "ndjson"
	Parquet Format = "parquet"
)

// Options configure Open.
type Options struct {
	Name   string // the file's name, used to detect the format and in messages; "-" is stdin
	Format Format // defaults to Auto
}

// Record is one event as JSON with its place in the file.
type Record struct {
	JSON   []byte   // one JSON object, without a line end; valid until the next call of Next
	Line   int      // from 1, where the record begins; in a Parquet file the row
	Chunk  [16]byte // the chain before the record's chunk
	Digest uint64   // the chain's digest up to and including the record
}

// Reader reads the records of one file in order. It is not safe for
// concurrent use, but BytesRead is.
type Reader struct {
	format Format
	name   string
	read   atomic.Int64
	notes  []string
	src    records
	close  []func()
}

// records reads one format. It is not called again after an error.
type records interface {
	next(*Record) error // returns io.EOF at the end
	line() int          // number of the last line read
}

// Open starts reading a file of a stream. It detects the compression and format
// and reads the header. If one of them is wrong, it returns a project.Fault or
// project.Faults with remedies. The caller closes in after closing the Reader.
// Parquet needs an io.ReaderAt and io.Seeker, such as *os.File.
func Open(in io.Reader, s *project.Stream, o Options) (*Reader, error) {
	r := &Reader{name: o.Name}
	if r.name == "" || r.name == "-" {
		r.name = "stdin"
	}
	if err := r.open(in, s, o); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

func (r *Reader) open(in io.Reader, s *project.Stream, o Options) error {
	w := newWindow(&counter{in, &r.read})
	compression, err := r.decompress(w)
	if err != nil {
		return err
	}
	head := w.peek(16)
	if w.failure() != nil {
		return r.broken(w.failure(), 0)
	}
	if err := r.refuseContent(head); err != nil {
		return err
	}
	if r.format, err = r.choose(o.Format, head, compression != "", w); err != nil {
		return err
	}
	w.skipMark()
	chain := newChain(s.Name)
	switch r.format {
	case Parquet:
		if compression != "" {
			return r.fault(0, "is Parquet within "+compression, "decompress it first: Parquet is compressed by itself")
		}
		return r.openParquet(in, s, chain)
	case NDJSON:
		r.src = &ndjson{window: w, chain: chain}
		return r.checkNDJSON(w, s)
	}
	return r.openCSV(w, s, chain)
}

// decompress detects the compression by the first bytes and lets w read
// decompressed bytes.
func (r *Reader) decompress(w *window) (kind string, err error) {
	head := string(w.peek(6))
	switch {
	case strings.HasPrefix(head, "\x1f\x8b"):
		z, err := gzip.NewReader(w.rest())
		if err != nil {
			return "", r.broken(err, 0)
		}
		r.close = append(r.close, func() { _ = z.Close() }) // closing a reader cannot lose data
		w.reset(z)
		return "gzip", nil
	case strings.HasPrefix(head, "\x28\xb5\x2f\xfd"):
		z, err := zstd.NewReader(w.rest(), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return "", r.broken(err, 0)
		}
		r.close = append(r.close, z.Close)
		w.reset(z)
		return "zstd", nil
	case strings.HasPrefix(head, "PK\x03\x04"):
		return "", r.fault(0, "is a ZIP archive", "send one file of it: unzip -p FILE.zip NAME | duet ingest --stream S -")
	case strings.HasPrefix(head, "\xfd7zXZ"):
		return "", r.fault(0, "is compressed with xz", "decompress it first: xz -dc FILE | duet ingest --stream S -")
	case strings.HasPrefix(head, "BZh"):
		return "", r.fault(0, "is compressed with bzip2", "decompress it first: bzip2 -dc FILE | duet ingest --stream S -")
	}
	return "", nil
}

// refuseContent returns a fault for content that is neither CSV, NDJSON nor Parquet.
func (r *Reader) refuseContent(head []byte) error {
	text := string(head)
	switch {
	case strings.HasPrefix(text, "\xff\xfe"), strings.HasPrefix(text, "\xfe\xff"),
		len(text) >= 4 && !strings.HasPrefix(text, "PAR1") && (text[0] == 0 || text[1] == 0):
		return r.fault(1, "is UTF-16", "convert it: iconv -f utf-16 -t utf-8 FILE | duet ingest --stream S -")
	case strings.HasPrefix(text, "\x1f\x8b"), strings.HasPrefix(text, "\x28\xb5\x2f\xfd"):
		return r.fault(0, "is compressed twice", "decompress it once")
	case strings.HasPrefix(text, "PK\x03\x04"):
		return r.fault(0, "holds a ZIP archive or a spreadsheet", "save it as CSV")
	case strings.HasPrefix(text, "ARROW1"):
		return r.fault(0, "is an Arrow file", "save it as Parquet")
	}
	return nil
}

// choose returns the format that the caller asked for, or detects it by content and
// name.
func (r *Reader) choose(asked Format, head []byte, compressed bool, w *window) (Format, error) {
	isParquet := strings.HasPrefix(string(head), "PAR1")
	switch asked {
	case CSV, NDJSON:
		return asked, nil
	case Parquet:
		if !isParquet {
			return "", r.fault(0, "is not Parquet: it does not begin with PAR1", "leave the format out, or name the right one")
		}
		return asked, nil
	case Auto:
	default:
		return "", fmt.Errorf("%q is not a format. Write csv, ndjson or parquet", asked)
	}
	name := strings.ToLower(r.name)
	for _, ext := range []string{".gz", ".zst", ".zstd"} {
		name = strings.TrimSuffix(name, ext)
	}
	if isParquet {
		return Parquet, nil
	}
	switch path.Ext(name) {
	case ".csv", ".tsv", ".psv":
		return CSV, nil
	case ".ndjson", ".jsonl", ".ldjson":
		return NDJSON, nil
	case ".parquet", ".pq":
		return "", r.fault(0, "is not Parquet: it does not begin with PAR1", "rename it, or name the format: --format csv")
	}
	switch w.firstVisible() {
	case '{':
		return NDJSON, nil
	case '[':
		return "", r.fault(1, "is one JSON array", "send one object a line: jq -c '.[]' FILE | duet ingest --stream S -")
	}
	return CSV, nil
}

// Next reads one record. It returns io.EOF after the last. After any other error
// the file cannot be read further.
func (r *Reader) Next() (Record, error) {
	var rec Record
	if err := r.src.next(&rec); err != nil {
		if err == io.EOF {
			return Record{}, io.EOF
		}
		return Record{}, r.broken(err, r.src.line())
	}
	if len(rec.JSON) > event.MaxRecordBytes { // escapes can make it longer than the line
		excerpt := bytes.Clone(rec.JSON[:excerptBytes])
		rec.JSON = event.AppendBad(nil, fmt.Sprintf("the record has %d bytes as JSON; the limit is %d. Only its first %d are kept", len(rec.JSON), event.MaxRecordBytes, excerptBytes), excerpt)
	}
	return rec, nil
}

// Format returns the file's format.
func (r *Reader) Format() Format { return r.format }

// Notes returns remarks for the user, such as columns that the file lacks and that
// are NULL in every record.
func (r *Reader) Notes() []string { return r.notes }

// BytesRead returns the number of bytes read from the file, before decompression.
// It is safe for concurrent use.
func (r *Reader) BytesRead() int64 { return r.read.Load() }

// Close frees the decompressors. It does not close the file.
func (r *Reader) Close() {
	for _, f := range r.close {
		f()
	}
	r.close = nil
}

func (r *Reader) fault(line int, reason, remedy string) error {
	return project.Fault{File: r.name, Line: line, Reason: reason, Remedy: remedy}
}

// broken wraps an error of reading or decompressing with the file's name and the
// last line read.
func (r *Reader) broken(err error, line int) error {
	var fault project.Fault
	if errors.As(err, &fault) {
		return err
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%s: the compressed file is cut off after line %d: %w. Get the whole file and send it again; what was sent is not sent twice", r.name, line, err)
	}
	return fmt.Errorf("%s: cannot be read after line %d: %w", r.name, line, err)
}

// counter counts the bytes read.
type counter struct {
	in   io.Reader
	read *atomic.Int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.in.Read(p)
	c.read.Add(int64(n))
	return n, err
}
