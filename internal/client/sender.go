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
	// Acked is called for each request once the log holds it, in their order,
	// from one goroutine; nil means nobody listens. It must not call the Sender.
	Acked func(*duetv1.AppendRequest, *duetv1.AppendResponse)
	// Waiting is told why the sender tries again; nil means nobody listens.
	Waiting func(err error)
}

// A Sender appends requests over one stream and sends those again whose outcome
// is unknown when the stream breaks. What must count once needs a producer
// number or a file identity. Send from one goroutine.
type Sender struct {
	config SenderConfig
	ctx    context.Context
	cancel context.CancelCauseFunc
	ingest duetv1.IngestServiceClient
	done   chan struct{} // closed when run has returned

	mu       sync.Mutex
	changed  *sync.Cond              // anything below
	queue    []*duetv1.AppendRequest // not acknowledged, in order
	sent     int                     // of queue, on the present stream
	bytes    int                     // of queue
	progress time.Time               // of the last acknowledgement
	token    string                  // of the last acknowledgement
	closed   bool                    // no more will come
	err      error                   // why it ended, for good
}

// NewSender starts a sender; end it with Close. It gives up when ctx ends.
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

// Send queues a request, which the sender owns from now on. It blocks while the
// window is full and returns the error that ended the sender, if one did.
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
		s.progress = time.Now() // patience begins with the work
	}
	s.queue = append(s.queue, request)
	s.bytes += proto.Size(request)
	s.changed.Broadcast()
	return nil
}

// Close waits until everything is acknowledged and gives the last token, or
// says why that cannot be.
func (s *Sender) Close() (token string, err error) {
	s.mu.Lock()
	s.closed = true
	s.changed.Broadcast()
	s.mu.Unlock()
	<-s.done
	return s.token, s.err
}

// Stop gives up what is not acknowledged.
func (s *Sender) Stop() {
	s.cancel(errors.New("stopped"))
	<-s.done
}

// run opens one stream after the other until all is sent or nothing helps.
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
			s.end(fmt.Errorf("nothing was taken for %s: %w", since.Round(time.Second), err))
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

// stalled is how long work has waited without an acknowledgement.
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

// oneStream sends from the queue's start until the sender is closed and all is
// acknowledged (nil), or the stream breaks.
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

	var broken error // why no more answers come; under mu
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
	// errEnded is a stream that the server ended without a word: another may do.
	errEnded   = status.Error(codes.Unavailable, "the server ended the stream")
	errTooMany = status.Error(codes.Internal, "the server answered more requests than were sent: it is not a Duet server, or a faulty one")
)

// pump writes requests to the stream; broken is guarded by mu.
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
			// The reason is what the receiver gets.
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
