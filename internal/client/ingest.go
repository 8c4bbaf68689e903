package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"duet/schemas"
	"duet/schemas/duetv1"
	"duet/schemas/event"
	"duet/schemas/project"
	"duet/schemas/project/scaffold"
	"duet/schemas/source"
)

// probeLines is how many lines of each file are decoded before any is sent. If
// all of them would be rejected, the definition does not fit the file, and
// nothing is sent.
const probeLines = 1000

// Limits of a request; its lines belong to one chunk.
const (
	requestLines = source.ChunkLines
	requestBytes = 512 << 10
)

// IngestConfig configures [Client.IngestFiles].
type IngestConfig struct {
	Stream   *project.Stream
	Files    []string      // sent in this order; "-" is Stdin
	Stdin    io.Reader     // only read for "-"
	Format   source.Format // defaults to source.Auto
	Session  string        // names the account; defaults to a random name
	Retry    RetryPolicy
	Progress func(IngestProgress) // optional; called from one goroutine at a time
	Waiting  func(err error)      // optional; called with the error before each retry
	Note     func(note string)    // optional; called with each remark of a file's reader
}

// IngestProgress says how far an ingest is.
type IngestProgress struct {
	File  string
	Lines int64   // acknowledged, of all files
	Done  float64 // share of all files' bytes, 0 to 1; negative when unknown
}

// Ingested is the result of an ingest.
type Ingested struct {
	Session string
	Lines   int64 // records read, of all files
	Acked   int64 // records acknowledged
	Account schemas.Account
	// Partial reports that the server restarted during the ingest: Account holds
	// only what it has counted since.
	Partial bool
	Elapsed time.Duration // until the live half had passed the last record
}

// StreamDefinition returns the server's definition of a stream. It fails with
// NotFound if there is no such stream.
func (c *Client) StreamDefinition(ctx context.Context, name string, p RetryPolicy) (*project.Stream, error) {
	var answer *duetv1.GetStatusResponse
	err := retry(ctx, p, func() (err error) {
		answer, err = c.Operate.GetStatus(ctx, &duetv1.GetStatusRequest{Definitions: true})
		return err
	})
	if err != nil {
		return nil, err
	}
	var names []string
	for _, s := range answer.GetStreams() {
		names = append(names, s.GetName())
		if s.GetName() != name {
			continue
		}
		if s.GetDefinition() == "" {
			return nil, status.Errorf(codes.Internal, "the server returned no definition of stream %s: name the project's folder with --project", name)
		}
		p, faults := project.FromFiles(map[string]string{s.GetFile(): s.GetDefinition()})
		if p == nil || p.Stream(name) == nil {
			return nil, fmt.Errorf("the server's definition of stream %s cannot be read by this version of duet; use the server's version: %w", name, faults)
		}
		return p.Stream(name), nil
	}
	return nil, UnknownStream(name, names)
}

// UnknownStream returns the NotFound error of a stream that is not among names.
func UnknownStream(name string, names []string) error {
	message := fmt.Sprintf("there is no stream %q; the project has %s", name, strings.Join(names, ", "))
	if near := project.Nearest(name, names); near != "" {
		message = fmt.Sprintf("there is no stream %q: did you mean %s? The project has %s", name, near, strings.Join(names, ", "))
	}
	return status.Error(codes.NotFound, message)
}

// openFile is a file that is being read.
type openFile struct {
	name   string
	file   *os.File // nil for stdin
	size   int64    // 0 when unknown
	reader *source.Reader
}

func (c *IngestConfig) open(name string) (*openFile, error) {
	o := &openFile{name: name}
	in := c.Stdin
	if name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		info, err := file.Stat()
		if err == nil && info.IsDir() {
			err = status.Errorf(codes.InvalidArgument, "%s is a folder; name the files in it", name)
		}
		if err != nil {
			_ = file.Close() // read only
			return nil, err
		}
		o.file, in = file, file
		if info.Mode().IsRegular() {
			o.size = info.Size()
		}
	}
	reader, err := OpenSource(in, c.Stream, source.Options{Name: name, Format: c.Format})
	if err != nil {
		o.close()
		return nil, err
	}
	o.reader = reader
	return o, nil
}

// A FileError reports a file that is not in its format, or is cut off.
type FileError struct{ Err error }

func (e *FileError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *FileError) Unwrap() error { return e.Err }

// OpenSource is [source.Open] for a file of unknown content: it also refuses
// what is not text. Its errors are [FileError]s.
func OpenSource(in io.Reader, s *project.Stream, o source.Options) (*source.Reader, error) {
	name := o.Name
	if name == "-" {
		name = "stdin"
	}
	if o.Format != source.Parquet {
		var err error
		if in, err = scaffold.RefuseBinary(in, name, s.CSV.Delimiter); err != nil {
			return nil, &FileError{err}
		}
	}
	reader, err := source.Open(in, s, o)
	if err != nil {
		return nil, &FileError{err}
	}
	return reader, nil
}

func (o *openFile) close() {
	if o.reader != nil {
		o.reader.Close()
	}
	if o.file != nil {
		_ = o.file.Close() // read only
	}
}

// IngestFiles sends files record by record, each with its identity, and waits
// until the live half has passed the last one. Content that was sent before adds
// nothing, so a failed ingest can be run again. On failure it returns what was
// sent, or nil if nothing was.
func (c *Client) IngestFiles(ctx context.Context, config IngestConfig) (*Ingested, error) {
	if config.Session == "" {
		config.Session = NewID("ingest")
	}
	began := time.Now()
	// Probe all files before sending anything.
	held := map[string]*probedFile{}
	defer func() {
		for _, h := range held {
			h.close()
		}
	}()
	var total int64
	for _, name := range config.Files {
		if held[name] != nil {
			return nil, status.Errorf(codes.InvalidArgument, "%s is named twice", name)
		}
		h, err := config.probe(name)
		if err != nil {
			return nil, err
		}
		held[name] = h
		if h.size == 0 {
			total = -1
		} else if total >= 0 {
			total += h.size
		}
		if config.Note != nil {
			for _, note := range h.reader.Notes() {
				config.Note(fmt.Sprintf("%s: %s", name, note))
			}
		}
		if name != "-" { // stdin cannot be read again
			h.close()
		}
	}
	s := &shipment{config: &config, total: total}
	s.sender = c.NewSender(ctx, SenderConfig{Retry: config.Retry, Waiting: config.Waiting, Acked: s.acked})
	defer s.sender.Stop()
	result := &Ingested{Session: config.Session}
	defer func() { result.Acked = s.acknowledged() }()
	for _, name := range config.Files {
		h := held[name]
		if name != "-" {
			again, err := config.open(name)
			if err != nil {
				return nil, err
			}
			h.openFile, h.batch = *again, source.Batch{}
		}
		err := s.send(h)
		h.close()
		result.Lines = s.read
		if err != nil {
			return result, err
		}
	}
	token, err := s.sender.Close()
	if err != nil {
		return result, err
	}
	if result.Lines > 0 {
		if err := c.account(ctx, config, token, result); err != nil {
			return result, err
		}
	}
	result.Elapsed = time.Since(began)
	return result, nil
}

// account waits until the live half has passed token and fetches the session's
// account.
func (c *Client) account(ctx context.Context, config IngestConfig, token string, result *Ingested) error {
	var answer *duetv1.GetAccountResponse
	err := retry(ctx, config.Retry, func() (err error) {
		for {
			wait, cancel := context.WithTimeout(ctx, 30*time.Second)
			answer, err = c.Ingest.GetAccount(wait, &duetv1.GetAccountRequest{Session: config.Session, NotBefore: token})
			cancel()
			// The live half may be far behind; wait until it has caught up.
			if status.Code(err) != codes.DeadlineExceeded || ctx.Err() != nil {
				return err
			}
		}
	})
	if err != nil {
		return fmt.Errorf("all events are in the log, but the server did not say how they were counted: %w", err)
	}
	a := answer.GetAccount()
	result.Account = schemas.Account{Received: a.GetReceived(), Accepted: a.GetAccepted(), Duplicate: a.GetDuplicate(), Rejected: a.GetRejected()}
	result.Partial = result.Account.Received < result.Lines
	return nil
}

// probedFile is a file with its first records already read.
type probedFile struct {
	openFile
	batch source.Batch // read from reader, not sent yet
}

func (h *probedFile) close() {
	h.openFile.close()
	h.openFile.reader, h.openFile.file = nil, nil
}

// probe reads a file's first records. It fails with an [AllRejectedError] if
// none of them would be accepted.
func (c *IngestConfig) probe(name string) (*probedFile, error) {
	o, err := c.open(name)
	if err != nil {
		return nil, err
	}
	h := &probedFile{openFile: *o}
	err = h.reader.ReadBatch(&h.batch, probeLines, 16<<20)
	if err == nil || err == io.EOF {
		err = c.checkFirst(name, h.batch.Records)
	} else {
		err = &FileError{err}
	}
	if err != nil {
		h.close()
		return nil, err
	}
	return h, nil
}

// checkFirst decodes a file's first records; one that decodes is enough.
func (c *IngestConfig) checkFirst(name string, records []source.Record) error {
	decoder, now := event.NewDecoder(event.NewSchema(c.Stream)), time.Now()
	var first *event.Reject
	for i := range records {
		_, reject := decoder.Decode(records[i].JSON, now)
		if reject == nil {
			return nil
		}
		if first == nil {
			first = reject
		}
	}
	if first == nil {
		return nil // an empty file
	}
	return allRejected(name, c.Stream, records, first)
}

// shipment sends the files of one ingest and counts their records.
type shipment struct {
	config *IngestConfig
	sender *Sender
	total  int64 // bytes of all files; below 0 when unknown
	past   int64 // bytes of the files already sent
	read   int64 // records

	mu      sync.Mutex  // guards what acked and send share
	name    string      // of the present file
	current *probedFile // nil between files
	lines   int64       // acknowledged
}

func (s *shipment) send(h *probedFile) error {
	s.mu.Lock()
	s.name, s.current = h.name, h
	s.mu.Unlock()
	for {
		for chunk, records := range h.batch.Runs {
			request := &duetv1.AppendRequest{
				Stream:  s.config.Stream.Name,
				Session: s.config.Session,
				File: &duetv1.FileIdentity{
					Chunk: chunk[:], Digests: make([]uint64, 0, len(records)),
					Name: sentName(h.name), Lines: make([]uint32, 0, len(records)),
				},
			}
			lines := make([]byte, 0, requestBytes)
			for _, record := range records {
				lines = append(append(lines, record.JSON...), '\n')
				request.File.Digests = append(request.File.Digests, record.Digest)
				request.File.Lines = append(request.File.Lines, uint32(record.Line))
			}
			request.Payload = &duetv1.AppendRequest_JsonLines{JsonLines: lines}
			s.read += int64(len(records))
			if err := s.sender.Send(request); err != nil {
				return err
			}
		}
		h.batch.Reset()
		err := h.reader.ReadBatch(&h.batch, requestLines, requestBytes)
		if errors.Is(err, io.EOF) {
			s.mu.Lock()
			s.past += h.size
			s.current = nil
			s.mu.Unlock()
			return nil
		}
		if err != nil {
			return &FileError{err}
		}
	}
}

// sentName returns a file's name as requests carry it: valid UTF-8 of at most
// 1,024 bytes.
func sentName(name string) string {
	if name == "-" {
		return "stdin"
	}
	if name = strings.ToValidUTF8(name, "\ufffd"); len(name) > 1024 {
		name = filepath.Base(name)
	}
	return name[:min(len(name), 1024)]
}

// acknowledged returns how many records the log is known to hold.
func (s *shipment) acknowledged() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lines
}

// acked counts acknowledged records; the sender's goroutine calls it.
func (s *shipment) acked(request *duetv1.AppendRequest, _ *duetv1.AppendResponse) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines += int64(len(request.GetFile().GetDigests()))
	if s.config.Progress == nil {
		return
	}
	p := IngestProgress{File: s.name, Lines: s.lines, Done: -1}
	bytes := s.past
	if s.current != nil {
		bytes += s.current.reader.BytesRead()
	}
	if s.total > 0 {
		p.Done = min(1, float64(bytes)/float64(s.total))
	}
	s.config.Progress(p)
}
