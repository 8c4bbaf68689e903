package serving

import (
	"bytes"
	"context"
	"errors"
	"io"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/grpc"

	"duet/schemas"
	"duet/schemas/duetv1"
	"duet/serving/query"
	"duet/serving/reason"
	"duet/speed/eventlog"
)

// Append implements IngestService.
func (a *api) Append(ctx context.Context, req *duetv1.AppendRequest) (*duetv1.AppendResponse, error) {
	p, err := a.begin(ctx, req)
	if err != nil {
		return nil, err
	}
	return p.wait(ctx)
}

// GetAccount implements IngestService.
func (a *api) GetAccount(ctx context.Context, req *duetv1.GetAccountRequest) (*duetv1.GetAccountResponse, error) {
	if req.GetSession() == "" {
		return nil, reason.Field(reason.ArgumentInvalid, "session", "is missing: name the session that was given to Append")
	}
	if err := checkID("session", req.GetSession()); err != nil {
		return nil, err
	}
	p := a.platform.Load()
	token, err := p.engine.NotBefore(ctx, req.GetNotBefore())
	if err != nil {
		return nil, err
	}
	// NotBefore goes by the store, which has a batch's events a moment before the
	// live half has added them to their sessions.
	if err := p.Live.Wait(ctx, token.Through.Position()); err != nil {
		return nil, err
	}
	sum, through := p.Live.Session(req.GetSession())
	return &duetv1.GetAccountResponse{Account: account(sum), LiveThrough: query.Positions(query.CutAt(p.inc, through))}, nil
}

// account converts an account.
func account(a schemas.Account) *duetv1.Account {
	return &duetv1.Account{Received: a.Received, Accepted: a.Accepted, Duplicate: a.Duplicate, Rejected: a.Rejected}
}

// appending is a request that the appender has accepted.
type appending struct {
	api     *api
	stream  string
	pending *eventlog.Pending
}

// begin checks a request and gives it to the appender.
func (a *api) begin(ctx context.Context, req *duetv1.AppendRequest) (appending, error) {
	r, err := a.request(req)
	if err != nil {
		return appending{}, err
	}
	p, err := a.appender.Load().Begin(ctx, r)
	if err != nil {
		return appending{}, err
	}
	return appending{a, r.Stream, p}, nil
}

// wait returns when the log has synced the request.
func (p appending) wait(ctx context.Context) (*duetv1.AppendResponse, error) {
	done, err := p.pending.Wait(ctx)
	if err != nil {
		return nil, err
	}
	p.api.cfg.Metrics.appended(p.stream, done.Count, done.Duplicate)
	return &duetv1.AppendResponse{
		Appended:  uint32(done.Count),
		Duplicate: uint32(done.Duplicate),
		Token:     query.Token{Through: schemas.NewCut(p.api.platform.Load().inc, done.At)}.String(),
	}, nil
}

// request checks an AppendRequest and splits it into records.
func (a *api) request(req *duetv1.AppendRequest) (eventlog.Request, error) {
	none := eventlog.Request{}
	if _, err := a.stream(req.GetStream()); err != nil {
		return none, err
	}
	for _, id := range []struct{ field, text string }{{"producer", req.GetProducer()}, {"session", req.GetSession()}} {
		if err := checkID(id.field, id.text); err != nil {
			return none, err
		}
	}
	if (req.GetProducer() == "") != (req.GetProducerSequence() == 0) {
		return none, reason.Field(reason.ArgumentInvalid, "producer_sequence", "goes with producer, from 1: send both or none")
	}
	r := eventlog.Request{
		Stream:   req.GetStream(),
		Records:  records(req.GetJsonLines()),
		Producer: req.GetProducer(),
		Number:   req.GetProducerSequence(),
		Session:  req.GetSession(),
	}
	if len(r.Records) == 0 {
		return none, reason.Field(reason.ArgumentInvalid, "json_lines", "holds no event: send one JSON object a line")
	}
	if f := req.GetFile(); f != nil {
		if len(f.GetChunk()) != len(r.Chunk) {
			return none, reason.Field(reason.ArgumentInvalid, "file.chunk", "has %d bytes, not %d", len(f.GetChunk()), len(r.Chunk))
		}
		if len(f.GetDigests()) != len(r.Records) {
			return none, reason.Field(reason.ArgumentInvalid, "file.digests", "has %d digests for %d events", len(f.GetDigests()), len(r.Records))
		}
		copy(r.Chunk[:], f.GetChunk())
		r.Lines = f.GetDigests()
		r.File, r.Numbers = f.GetName(), f.GetLines()
	}
	return r, nil
}

// records splits JSON lines and skips empty ones. The records alias b.
func records(b []byte) [][]byte {
	out := make([][]byte, 0, bytes.Count(b, []byte{'\n'})+1)
	for len(b) > 0 {
		line := b
		if i := bytes.IndexByte(b, '\n'); i >= 0 {
			line, b = b[:i], b[i+1:]
		} else {
			b = nil
		}
		if line = bytes.Trim(line, " \t\r"); len(line) > 0 {
			out = append(out, line)
		}
	}
	return out
}

// exchange is a bidirectional stream of either transport.
type exchange interface {
	receive() (*duetv1.AppendStreamRequest, error)
	send(*duetv1.AppendStreamResponse) error
}

// streamWindow is the maximum number of unanswered requests of one stream.
const streamWindow = 64

// appendStream answers requests in their order while a second goroutine gives
// the next ones to the appender; so one stream keeps the log busy, and flow
// control holds back a client that is faster. The first error ends the stream:
// requests after it have no answer and must be sent again.
func (a *api) appendStream(ctx context.Context, x exchange) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	underWay := make(chan appending, streamWindow)
	received := make(chan error, 1)
	// receive may still block when the first error is returned; it ends with the
	// call.
	go func() {
		received <- a.receiveAll(ctx, x, underWay)
		close(underWay)
	}()
	idle := time.NewTimer(a.cfg.StreamIdle)
	defer idle.Stop()
	for {
		select {
		case p, ok := <-underWay:
			if !ok {
				return <-received
			}
			done, err := p.wait(ctx)
			if err != nil {
				return err
			}
			if err := x.send(&duetv1.AppendStreamResponse{Appended: done}); err != nil {
				return err
			}
			idle.Reset(a.cfg.StreamIdle)
		case <-idle.C:
			return reason.New(reason.StreamIdle, "the stream had no request for %s; open a new one when there is something to send", a.cfg.StreamIdle)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// receiveAll begins each request of a stream until the client has no more.
func (a *api) receiveAll(ctx context.Context, x exchange, underWay chan<- appending) error {
	for {
		req, err := x.receive()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if req.GetAppend() == nil {
			return reason.Field(reason.ArgumentInvalid, "append", "is missing")
		}
		p, err := a.begin(ctx, req.GetAppend())
		if err != nil {
			return err
		}
		select {
		case underWay <- p:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// AppendStream implements IngestService for connect.
func (a *api) AppendStream(ctx context.Context, s *connect.BidiStream[duetv1.AppendStreamRequest, duetv1.AppendStreamResponse]) error {
	return a.appendStream(ctx, connectExchange{s})
}

type connectExchange struct {
	*connect.BidiStream[duetv1.AppendStreamRequest, duetv1.AppendStreamResponse]
}

func (x connectExchange) receive() (*duetv1.AppendStreamRequest, error) { return x.Receive() }
func (x connectExchange) send(resp *duetv1.AppendStreamResponse) error  { return x.Send(resp) }

// grpcIngest is api, except for the one method whose signature differs.
type grpcIngest struct{ *api }

// AppendStream implements IngestService for grpc-go.
func (g grpcIngest) AppendStream(s grpc.BidiStreamingServer[duetv1.AppendStreamRequest, duetv1.AppendStreamResponse]) error {
	return g.appendStream(s.Context(), grpcExchange{s})
}

type grpcExchange struct {
	grpc.BidiStreamingServer[duetv1.AppendStreamRequest, duetv1.AppendStreamResponse]
}

func (x grpcExchange) receive() (*duetv1.AppendStreamRequest, error) { return x.Recv() }
func (x grpcExchange) send(resp *duetv1.AppendStreamResponse) error  { return x.Send(resp) }
