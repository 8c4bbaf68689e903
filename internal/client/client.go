// Package client speaks to a Duet server as a program outside of it does:
// [Dial] a [Client], append with a [Sender], load files with [Ingest], start
// and watch runs with [Client.Run]. It knows the gRPC interface and how files
// become records, and nothing of what is behind the door.
package client

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	mathrand "math/rand/v2"
	"net"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"duet/schemas/duetv1"
)

// DefaultAddr is where a server listens unless told otherwise.
const DefaultAddr = "127.0.0.1:7401"

// A Client is a connection with one stub a service. It is safe for concurrent use.
type Client struct {
	Addr    string
	Ingest  duetv1.IngestServiceClient
	Views   duetv1.ViewServiceClient
	Batch   duetv1.BatchServiceClient
	Operate duetv1.OperateServiceClient
	conn    *grpc.ClientConn
}

// Dial makes a client for host:port; it connects at the first call.
func Dial(addr string) (*Client, error) {
	if _, _, err := net.SplitHostPort(addr); err != nil {
		return nil, fmt.Errorf("%q is not an address: write host:port, such as %s", addr, DefaultAddr)
	}
	conn, err := grpc.NewClient(addr,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: time.Minute, Timeout: 20 * time.Second}),
		// The server bounds what it sends; the client takes all of it.
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32)),
	)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", addr, err)
	}
	return &Client{
		Addr:    addr,
		Ingest:  duetv1.NewIngestServiceClient(conn),
		Views:   duetv1.NewViewServiceClient(conn),
		Batch:   duetv1.NewBatchServiceClient(conn),
		Operate: duetv1.NewOperateServiceClient(conn),
		conn:    conn,
	}, nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

// NewID draws a name for a session or a request that nobody else draws.
func NewID(prefix string) string {
	var b [12]byte
	_, _ = rand.Read(b[:]) // never fails
	return prefix + "-" + hex.EncodeToString(b[:])
}

// Reason is the server's reason for an error, such as "LOG_FULL"; "" if the
// error is not the server's.
func Reason(err error) string {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return ""
}

// Unreachable reports whether nothing answered: the server is down, elsewhere,
// or not ready yet.
func Unreachable(err error) bool {
	return status.Code(err) == codes.Unavailable
}

// Retryable reports whether the same call may succeed later by itself.
func Retryable(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable:
		return true
	case codes.ResourceExhausted:
		switch Reason(err) {
		case "LOG_FULL", "BUSY", "MEMORY_FULL":
			return true
		}
	}
	return false
}

// RetryPolicy says how long calls that fail in passing are tried again. The zero
// value works.
type RetryPolicy struct {
	Limit     time.Duration // without any progress; defaults to one minute; below 0 means for ever
	FirstWait time.Duration // wait before the second try, doubled each time; defaults to 50 ms
	MaxWait   time.Duration // longest wait between tries; defaults to 2 s
}

func (p RetryPolicy) withDefaults() RetryPolicy {
	if p.Limit == 0 {
		p.Limit = time.Minute
	}
	if p.FirstWait == 0 {
		p.FirstWait = 50 * time.Millisecond
	}
	if p.MaxWait == 0 {
		p.MaxWait = 2 * time.Second
	}
	return p
}

// wait sleeps before the n-th retry, from 0, with a jitter that keeps clients
// from coming back all at once.
func (p RetryPolicy) wait(ctx context.Context, n int) error {
	pause := min(p.FirstWait<<min(n, 20), p.MaxWait)
	timer := time.NewTimer(pause/2 + mathrand.N(pause/2+1))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// retry calls f until it succeeds, fails for good or the patience is over.
func retry(ctx context.Context, p RetryPolicy, f func() error) error {
	p = p.withDefaults()
	began := time.Now()
	for n := 0; ; n++ {
		err := f()
		if err == nil || !Retryable(err) || ctx.Err() != nil {
			return err
		}
		if p.Limit >= 0 && time.Since(began) > p.Limit {
			return err
		}
		if waitErr := p.wait(ctx, n); waitErr != nil {
			return errors.Join(waitErr, err)
		}
	}
}
