// Package client talks to a Duet server over gRPC, as any program outside the
// server does. [Dial] returns a [Client]; a [Sender] appends events,
// [Client.IngestFiles] loads files, [Client.Run] starts a batch run and watches
// it. The package knows the gRPC interface and how files become records. It
// must not import the server's packages.
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

// DefaultAddr is the address that a server listens on by default.
const DefaultAddr = "127.0.0.1:7401"

// A Client is one connection with a stub for each service. It is safe for
// concurrent use.
type Client struct {
	Addr    string
	Ingest  duetv1.IngestServiceClient
	Views   duetv1.ViewServiceClient
	Batch   duetv1.BatchServiceClient
	Operate duetv1.OperateServiceClient
	conn    *grpc.ClientConn
}

// Dial returns a client of the server at host:port. It connects at the first
// call, so it fails only when addr is not an address.
func Dial(addr string) (*Client, error) {
	if _, _, err := net.SplitHostPort(addr); err != nil {
		return nil, fmt.Errorf("%q is not an address: write host:port, such as %s", addr, DefaultAddr)
	}
	conn, err := grpc.NewClient(addr,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: time.Minute, Timeout: 20 * time.Second}),
		// The server limits the size of its answers; the client accepts all of them.
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

// Close closes the connection.
func (c *Client) Close() error { return c.conn.Close() }

// NewID returns prefix and 96 random bits: a unique name of a session or request.
func NewID(prefix string) string {
	var b [12]byte
	_, _ = rand.Read(b[:]) // never fails
	return prefix + "-" + hex.EncodeToString(b[:])
}

// Reason returns the server's reason for err, such as "LOG_FULL", or "" if err
// is not from a Duet server.
func Reason(err error) string {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return ""
}

// Unreachable reports whether no server answered: it is down, listens
// elsewhere, or is not ready yet.
func Unreachable(err error) bool {
	return status.Code(err) == codes.Unavailable
}

// Retryable reports whether the same call may succeed later, unchanged.
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

// RetryPolicy bounds the retries of a call that failed with a [Retryable]
// error. The zero value works.
type RetryPolicy struct {
	Limit     time.Duration // longest time without progress; defaults to one minute; negative means no limit
	FirstWait time.Duration // wait before the second attempt, doubled each time; defaults to 50 ms
	MaxWait   time.Duration // longest wait between attempts; defaults to 2 s
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

// wait sleeps before the n-th retry, counted from 0. Jitter keeps clients from
// retrying all at once. It fails only when ctx ends.
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

// retry calls f until it succeeds, returns an error that is not retryable, or
// the policy's limit has passed.
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
