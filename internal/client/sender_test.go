package client_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"duet/internal/client"
	"duet/schemas/duetv1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeIngest is a server that keeps events by producer number and fails on
// demand.
type fakeIngest struct {
	duetv1.UnimplementedIngestServiceServer
	mu     sync.Mutex
	events map[uint64]string // by producer number
	asked  int               // requests so far, over all streams
	// fail, if set, is called for the n-th request (from 1): an error ends the
	// stream; kept says whether the request was stored first.
	fail func(n int) (err error, kept bool)
}

func (d *fakeIngest) AppendStream(stream grpc.BidiStreamingServer[duetv1.AppendStreamRequest, duetv1.AppendStreamResponse]) error {
	for {
		request, err := stream.Recv()
		if err != nil {
			return nil
		}
		d.mu.Lock()
		d.asked++
		var failed error
		kept := true
		if d.fail != nil {
			failed, kept = d.fail(d.asked)
		}
		if kept {
			number := request.GetAppend().GetProducerSequence()
			for line := range bytes.Lines(request.GetAppend().GetJsonLines()) {
				if _, twice := d.events[number]; !twice {
					d.events[number] = string(bytes.TrimSpace(line))
				}
				number++
			}
		}
		d.mu.Unlock()
		if failed != nil {
			return failed
		}
		err = stream.Send(&duetv1.AppendStreamResponse{Appended: &duetv1.AppendResponse{Appended: 1, Token: request.GetAppend().GetProducer()}})
		if err != nil {
			return err
		}
	}
}

// serve starts a gRPC server and returns a client of it.
func serve(t *testing.T, register func(*grpc.Server)) *client.Client {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	register(server)
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(listener) }()
	c, err := client.Dial(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Close()
		server.Stop()
		<-served
	})
	return c
}

var fastRetry = client.RetryPolicy{Limit: 5 * time.Second, FirstWait: time.Millisecond, MaxWait: 2 * time.Millisecond}

func appendOne(number uint64) *duetv1.AppendRequest {
	return &duetv1.AppendRequest{
		Stream: "orders", Producer: "p", ProducerSequence: number,
		Payload: &duetv1.AppendRequest_JsonLines{JsonLines: []byte("{}\n")},
	}
}

func reasoned(code codes.Code, reason string) error {
	st, err := status.New(code, "no").WithDetails(&errdetails.ErrorInfo{Domain: "duet", Reason: reason})
	if err != nil {
		panic(err)
	}
	return st.Err()
}

func TestSenderResendsWhatIsUnknown(t *testing.T) {
	for name, fail := range map[string]func(n int) (error, bool){
		"lost before it was kept": func(n int) (error, bool) {
			if n%7 == 0 {
				return status.Error(codes.Unavailable, "gone"), false
			}
			return nil, true
		},
		"answer lost": func(n int) (error, bool) {
			if n%5 == 0 {
				return status.Error(codes.Unavailable, "gone"), true
			}
			return nil, true
		},
		"log full for a while": func(n int) (error, bool) {
			if n > 3 && n < 9 {
				return reasoned(codes.ResourceExhausted, "LOG_FULL"), false
			}
			return nil, true
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := &fakeIngest{events: map[uint64]string{}, fail: fail}
			c := serve(t, func(s *grpc.Server) { duetv1.RegisterIngestServiceServer(s, d) })
			acked, waited := 0, 0
			s := c.NewSender(t.Context(), client.SenderConfig{
				Retry:  fastRetry,
				Window: 200, // small, so that Send blocks
				Acked: func(r *duetv1.AppendRequest, _ *duetv1.AppendResponse) {
					acked++
					if int(r.GetProducerSequence()) != acked {
						t.Errorf("acknowledgement %d is of number %d", acked, r.GetProducerSequence())
					}
				},
				Waiting: func(error) { waited++ },
			})
			for n := range 100 {
				if err := s.Send(appendOne(uint64(n + 1))); err != nil {
					t.Fatal(err)
				}
			}
			token, err := s.Close()
			if err != nil || token != "p" || acked != 100 || len(d.events) != 100 || waited == 0 {
				t.Errorf("token %q, %v; %d acknowledged, %d events kept, waited %d times", token, err, acked, len(d.events), waited)
			}
		})
	}
}

func TestSenderEndsOnFinalErrors(t *testing.T) {
	for name, failure := range map[string]error{
		"wrong":     reasoned(codes.InvalidArgument, "ARGUMENT_INVALID"),
		"too large": reasoned(codes.ResourceExhausted, "MESSAGE_TOO_LARGE"),
		"damage":    reasoned(codes.DataLoss, "DAMAGED"),
	} {
		t.Run(name, func(t *testing.T) {
			d := &fakeIngest{events: map[uint64]string{}, fail: func(n int) (error, bool) { return failure, false }}
			c := serve(t, func(s *grpc.Server) { duetv1.RegisterIngestServiceServer(s, d) })
			s := c.NewSender(t.Context(), client.SenderConfig{Retry: fastRetry})
			_ = s.Send(appendOne(1))
			if _, err := s.Close(); status.Code(err) != status.Code(failure) {
				t.Errorf("%v, want %v", err, failure)
			}
			if d.asked != 1 {
				t.Errorf("asked %d times", d.asked)
			}
			if err := s.Send(appendOne(2)); err == nil {
				t.Error("an ended sender takes more")
			}
		})
	}
}

func TestSenderEndsAtTheRetryLimit(t *testing.T) {
	d := &fakeIngest{events: map[uint64]string{}, fail: func(n int) (error, bool) { return status.Error(codes.Unavailable, "gone"), false }}
	c := serve(t, func(s *grpc.Server) { duetv1.RegisterIngestServiceServer(s, d) })
	s := c.NewSender(t.Context(), client.SenderConfig{Retry: client.RetryPolicy{Limit: 30 * time.Millisecond, FirstWait: time.Millisecond, MaxWait: time.Millisecond}})
	_ = s.Send(appendOne(1))
	if _, err := s.Close(); !client.Unreachable(err) {
		t.Errorf("%v, want Unavailable", err)
	}
	if d.asked < 3 {
		t.Errorf("tried %d times only", d.asked)
	}
}

func TestSenderStops(t *testing.T) {
	d := &fakeIngest{events: map[uint64]string{}, fail: func(n int) (error, bool) { return status.Error(codes.Unavailable, "gone"), false }}
	c := serve(t, func(s *grpc.Server) { duetv1.RegisterIngestServiceServer(s, d) })
	ctx, cancel := context.WithCancelCause(t.Context())
	s := c.NewSender(ctx, client.SenderConfig{Retry: client.RetryPolicy{Limit: -1, FirstWait: time.Hour, MaxWait: time.Hour}})
	_ = s.Send(appendOne(1))
	why := errors.New("enough")
	cancel(why)
	if _, err := s.Close(); !errors.Is(err, why) {
		t.Errorf("%v, want the cause %v", err, why)
	}
	s.Stop()
}

func TestDialRefusesInvalidAddresses(t *testing.T) {
	for _, addr := range []string{"", "localhost", filepath.Join("a", "b")} {
		if _, err := client.Dial(addr); err == nil {
			t.Errorf("%q was accepted", addr)
		}
	}
}
