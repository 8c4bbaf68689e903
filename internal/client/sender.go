package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"duet/schemas/duetv1"
)

// SenderConfig describes a [Sender]. The zero value works.
type SenderConfig struct {
	Window int // bytes sent ahead of their acknowledgement; defaults to 16 MiB
	Retry  RetryPolicy
	// Acked, if set, is called for each request once the log holds it, in the
	// order of Send, from one goroutine. It must not call the Sender.
	Acked func(*duetv1.AppendRequest, *duetv1.AppendResponse)
	// Waiting, if set, is called with the error before each retry.
	Waiting func(err error)
}

// A Sender appends requests over one stream. When the stream breaks, it resends
// every request whose outcome is unknown; events that must count once need a
// producer number or a file identity. Call Send from one goroutine.
type Sender struct {
	config SenderConfig
	ctx    context.Context
	cancel context.CancelCauseFunc
	ingest duetv1.IngestServiceClient
	done   chan struct{} // closed when run has returned

	mu       sync.Mutex              // guards the fields below
	changed  *sync.Cond              // signalled when one of them changes
	queue    []*duetv1.AppendRequest // not acknowledged, in order
	sent     int                     // requests of queue written to the current stream
	bytes    int                     // size of queue
	progress time.Time               // of the last acknowledgement
	token    string                  // of the last acknowledgement
	closed   bool                    // Close was called
	err      error                   // final error
}

// NewSender starts a sender; end it with Close or Stop. It also ends with ctx.
func (c *Client) NewSender(ctx context.Context, config SenderConfig) *Sender {
	if config.Window == 0 {
		config.Window = 16 << 20
	}
	config.Retry = config.Retry.withDefaults()
	s := &Sender{config: config, ingest: c.Ingest, done: make(chan struct{}), progress: time.Now()}
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	s.changed = sync.NewCond(&s.mu)
	go s.run()
	return s
}

// Send queues a request; the sender owns it from then on. It blocks while the
// window is full, and returns the sender's final error if it has ended.
func (s *Sender) Send(request *duetv1.AppendRequest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.bytes >= s.config.Window && s.err == nil {
		s.changed.Wait()
	}
	if s.err != nil {
		return s.err
	}
	if len(s.queue) == 0 {
		s.progress = time.Now() // the retry limit counts from the first request
	}
	s.queue = append(s.queue, request)
	s.bytes += proto.Size(request)
	s.changed.Broadcast()
	return nil
}

// Close waits until every request is acknowledged and returns the last token.
// It fails with the sender's final error.
func (s *Sender) Close() (token string, err error) {
	s.mu.Lock()
	s.closed = true
	s.changed.Broadcast()
	s.mu.Unlock()
	<-s.done
	return s.token, s.err
}

// Stop ends the sender; requests that are not acknowledged may or may not be in
// the log.
func (s *Sender) Stop() {
	s.cancel(errors.New("stopped"))
	<-s.done
}

// run opens streams until every request is acknowledged or an error is final.
func (s *Sender) run() {
	defer close(s.done)
	defer s.cancel(nil)
	for tries := 0; ; tries++ {
		before := s.lastProgress()
		err := s.oneStream()
		if err == nil {
			return
		}
		if s.ctx.Err() != nil {
			s.end(context.Cause(s.ctx))
			return
		}
		since := s.stalled()
		if !Retryable(err) {
			s.end(err)
			return
		}
		if limit := s.config.Retry.Limit; limit >= 0 && since > limit {
			s.end(fmt.Errorf("no event was acknowledged for %s: %w", since.Round(time.Second), err))
			return
		}
		if s.lastProgress() != before {
			tries = 0
		}
		if s.config.Waiting != nil {
			s.config.Waiting(err)
		}
		if err := s.config.Retry.wait(s.ctx, tries); err != nil {
			s.end(err)
			return
		}
	}
}

func (s *Sender) lastProgress() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.progress
}

// stalled returns the time since the last acknowledgement, or 0 if none is due.
func (s *Sender) stalled() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == 0 {
		return 0
	}
	return time.Since(s.progress)
}

func (s *Sender) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
	s.changed.Broadcast()
}

// oneStream sends the queue over a new stream. It returns nil when the sender is
// closed and every request is acknowledged, else the error that broke the stream.
func (s *Sender) oneStream() error {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	stream, err := s.ingest.AppendStream(ctx)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.sent = 0
	s.mu.Unlock()

	var broken error // the error that ended the answers; guarded by mu
	received := make(chan struct{})
	go func() {
		defer close(received)
		for {
			response, err := stream.Recv()
			s.mu.Lock()
			if err != nil {
				if errors.Is(err, io.EOF) {
					err = errEnded
				}
				broken = err
				s.changed.Broadcast()
				s.mu.Unlock()
				return
			}
			if s.sent == 0 {
				broken = errTooMany
				s.changed.Broadcast()
				s.mu.Unlock()
				return
			}
			request := s.queue[0]
			s.queue = s.queue[1:]
			s.sent--
			s.bytes -= proto.Size(request)
			s.progress = time.Now()
			s.token = response.GetAppended().GetToken()
			s.changed.Broadcast()
			s.mu.Unlock()
			if s.config.Acked != nil {
				s.config.Acked(request, response.GetAppended())
			}
		}
	}()
	err = s.pump(stream, &broken)
	cancel()
	<-received
	return err
}

var (
	// errEnded is retryable: the server closed the stream without an error.
	errEnded   = status.Error(codes.Unavailable, "the server closed the stream")
	errTooMany = status.Error(codes.Internal, "the server sent more answers than it got requests: check that --addr names a Duet server")
)

// pump writes requests to the stream until the sender is closed or broken is
// set. broken is guarded by mu.
func (s *Sender) pump(stream duetv1.IngestService_AppendStreamClient, broken *error) error {
	for {
		s.mu.Lock()
		for s.sent == len(s.queue) && *broken == nil && (!s.closed || len(s.queue) > 0) {
			s.changed.Wait()
		}
		if *broken != nil {
			err := *broken
			s.mu.Unlock()
			return err
		}
		if s.sent == len(s.queue) {
			s.mu.Unlock()
			return stream.CloseSend()
		}
		request := s.queue[s.sent]
		s.sent++
		s.mu.Unlock()
		if err := stream.Send(&duetv1.AppendStreamRequest{Append: request}); err != nil {
			// Send returns io.EOF; the receiver gets the reason.
			s.mu.Lock()
			for *broken == nil {
				s.changed.Wait()
			}
			err = *broken
			s.mu.Unlock()
			return err
		}
	}
}
