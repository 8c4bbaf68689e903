package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
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

// probeLines of a file are decoded here before any is sent: a wrong definition
// refuses them all, and a log full of rejects helps nobody.
const probeLines = 1000

// What a request holds at most; its lines are of one chunk.
const (
	requestLines = source.ChunkLines
	requestBytes = 512 << 10
)

// IngestConfig describes an [Client.IngestFiles].
type IngestConfig struct {
	Stream   *project.Stream
	Files    []string      // in this order; "-" is Stdin
	Stdin    io.Reader     // only read for "-"
	Format   source.Format // defaults to source.Auto
	Session  string        // the account's name; defaults to one that is drawn
	Retry    RetryPolicy
	Progress func(IngestProgress) // called as things move, from one goroutine at a time; nil means nobody listens
	Waiting  func(err error)      // why sending is tried again; nil means nobody listens
	Note     func(note string)    // what a file's reader has to say; nil means nobody listens
}

// IngestProgress is how far an ingest is.
type IngestProgress struct {
	File  string
	Lines int64   // acknowledged, of all files
	Done  float64 // of all files' bytes, 0 to 1; below 0 when nobody can tell
}

// Ingested is what became of an ingest.
type Ingested struct {
	Session string
	Lines   int64 // records read, of all files
	Acked   int64 // of these, those that the log is known to hold
	Account schemas.Account
	// Partial says that the server was started again meanwhile, and that
	// Account holds what it has counted since.
	Partial bool
	Elapsed time.Duration // until the live half had passed the last line
}

// StreamDefinition asks the server how it reads a stream.
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
			return nil, status.Errorf(codes.Internal, "the server gives no definition of %s: give the project's folder with --project", name)
		}
		p, faults := project.FromFiles(map[string]string{s.GetFile(): s.GetDefinition()})
		if p == nil || p.Stream(name) == nil {
			return nil, fmt.Errorf("the server's definition of %s is of another version of duet than this one: %w", name, faults)
		}
		return p.Stream(name), nil
	}
	return nil, UnknownStream(name, names)
}

// UnknownStream is the error of a stream's name that is not among names.
func UnknownStream(name string, names []string) error {
	message := fmt.Sprintf("there is no stream %q; there are: %s", name, strings.Join(names, ", "))
	if near := project.Nearest(name, names); near != "" {
		message = fmt.Sprintf("there is no stream %q. Do you mean %s? There are: %s", name, near, strings.Join(names, ", "))
	}
	return status.Error(codes.NotFound, message)
}

// openFile is a file being read.
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
			err = status.Errorf(codes.InvalidArgument, "%s is a folder: name the files in it", name)
		}
		if err != nil {
			_ = file.Close() // nothing was written
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

// A FileError says that a file cannot be read as what it is taken for, or not to
// its end.
type FileError struct{ Err error }

func (e *FileError) Error() string { return e.Err.Error() }

// Unwrap gives the cause.
func (e *FileError) Unwrap() error { return e.Err }

// OpenSource is [source.Open], and refuses what is not text. Its errors are
// FileErrors.
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
		_ = o.file.Close() // read only: nothing is lost
	}
}

// IngestFiles sends files, line by line with their identity, and waits until
// the live half has passed the last one. The same content sent again adds
// nothing, so an ingest that failed is simply run again.
func (c *Client) IngestFiles(ctx context.Context, config IngestConfig) (*Ingested, error) {
	if config.Session == "" {
		config.Session = NewID("ingest")
	}
	began := time.Now()
	// All files are looked at before anything is sent.
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

// account waits for the live half and fetches the session's account.
func (c *Client) account(ctx context.Context, config IngestConfig, token string, result *Ingested) error {
	var answer *duetv1.GetAccountResponse
	err := retry(ctx, config.Retry, func() (err error) {
		for {
			wait, cancel := context.WithTimeout(ctx, 30*time.Second)
			answer, err = c.Ingest.GetAccount(wait, &duetv1.GetAccountRequest{Session: config.Session, NotBefore: token})
			cancel()
			// A live half that is behind gets the time that it needs.
			if status.Code(err) != codes.DeadlineExceeded || ctx.Err() != nil {
				return err
			}
		}
	})
	if err != nil {
		return fmt.Errorf("everything is in the log, but not what became of it: %w", err)
	}
	a := answer.GetAccount()
	result.Account = schemas.Account{Received: a.GetReceived(), Accepted: a.GetAccepted(), Duplicate: a.GetDuplicate(), Rejected: a.GetRejected()}
	result.Partial = result.Account.Received < result.Lines
	return nil
}

// probedFile is a probed file with its first lines.
type probedFile struct {
	openFile
	batch source.Batch // read from reader already
}

func (h *probedFile) close() {
	h.openFile.close()
	h.openFile.reader, h.openFile.file = nil, nil
}

// probe reads a file's first lines and refuses the file if all would be rejected.
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

// checkFirst decodes a file's first records.
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

// shipment sends files and counts.
type shipment struct {
	config *IngestConfig
	sender *Sender
	total  int64 // bytes of all files; below 0 when unknown
	past   int64 // bytes of the files before this one
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
				File:    &duetv1.FileIdentity{Chunk: chunk[:], Digests: make([]uint64, 0, len(records))},
			}
			lines := make([]byte, 0, requestBytes)
			for _, record := range records {
				lines = append(append(lines, record.JSON...), '\n')
				request.File.Digests = append(request.File.Digests, record.Digest)
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

// acknowledged counts the lines that the log is known to hold.
func (s *shipment) acknowledged() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lines
}

// acked counts what the log holds; the sender's goroutine calls it.
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
