package shop_test

import (
	"bytes"
	"context"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"duet/internal/client"
	"duet/internal/shop"
	"duet/schemas/duetv1"
)

// fakeIngest is a server that keeps events by producer and number.
type fakeIngest struct {
	duetv1.UnimplementedIngestServiceServer
	mu     sync.Mutex
	events map[string][]string // by producer, in number order
	twice  int                 // events that came again and were dropped
	asked  int
	t      *testing.T
}

func (d *fakeIngest) AppendStream(stream grpc.BidiStreamingServer[duetv1.AppendStreamRequest, duetv1.AppendStreamResponse]) error {
	for {
		request, err := stream.Recv()
		if err != nil {
			return nil
		}
		if err := d.keep(request.GetAppend()); err != nil {
			return err
		}
		if err := stream.Send(&duetv1.AppendStreamResponse{Appended: &duetv1.AppendResponse{}}); err != nil {
			return err
		}
	}
}

// keep stores a request's new events and breaks every fifth stream.
func (d *fakeIngest) keep(r *duetv1.AppendRequest) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	number := r.GetProducerSequence()
	for line := range bytes.Lines(r.GetJsonLines()) {
		have := uint64(len(d.events[r.GetProducer()]))
		switch {
		case number == have+1:
			d.events[r.GetProducer()] = append(d.events[r.GetProducer()], string(bytes.TrimSpace(line)))
		case number <= have:
			d.twice++
		default:
			d.t.Errorf("%s sent number %d after %d", r.GetProducer(), number, have)
		}
		number++
	}
	if d.asked++; d.asked%5 == 0 {
		return status.Error(codes.Unavailable, "a moment please")
	}
	return nil
}

func serve(t *testing.T) (*client.Client, *fakeIngest) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &fakeIngest{events: map[string][]string{}, t: t}
	server := grpc.NewServer()
	duetv1.RegisterIngestServiceServer(server, d)
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
		goleak.VerifyNone(t)
	})
	return c, d
}

// runUntil runs a driver with a fixed clock until enough returns true.
func runUntil(t *testing.T, c *client.Client, state string, now time.Time, enough func(shop.Progress) bool) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	d, err := shop.NewDriver(shop.DriverConfig{
		Client: c, State: state, Seed: 3, History: 30 * time.Hour,
		Now: func() time.Time { return now },
		Progress: func(p shop.Progress) {
			if enough(p) {
				cancel()
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Run(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestDriverGoesOnWhereItWas(t *testing.T) {
	now := time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	c, d := serve(t)
	state := filepath.Join(t.TempDir(), "demo", "shop.json")
	isLive := func(p shop.Progress) bool { return p.Live }
	runUntil(t, c, state, now, isLive)
	runUntil(t, c, state, now.Add(3*time.Hour), isLive)
	runUntil(t, c, state, now.Add(4*time.Hour), isLive)

	// The same history, uninterrupted.
	want := map[string][]string{}
	s := shop.New(shop.Config{Seed: 3, Start: now.Add(-30 * time.Hour).Truncate(24 * time.Hour)})
	for e := s.Next(); !e.At.After(now.Add(4 * time.Hour)); e = s.Next() {
		want["shop.3.20260503:"+e.Stream] = append(want["shop.3.20260503:"+e.Stream], string(e.JSON))
	}
	for producer, events := range want {
		got := d.events[producer]
		// The last stop may have cut off events that were being sent.
		if len(got) > len(events) || len(got) < len(events)/2 {
			t.Fatalf("%s: %d events, want about %d", producer, len(got), len(events))
		}
		for i := range got {
			if got[i] != events[i] {
				t.Fatalf("%s, number %d:\n%s\nwant\n%s", producer, i+1, got[i], events[i])
			}
		}
	}
	if len(d.events) != len(want) {
		t.Errorf("%d producers, want %d", len(d.events), len(want))
	}
	if d.twice == 0 {
		t.Error("nothing was sent twice: the test breaks no stream")
	}
}
