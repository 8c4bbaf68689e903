package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"duet/schemas/duetv1"
)

// server is a running duet.
type server struct {
	cmd    *exec.Cmd
	conn   *grpc.ClientConn
	ingest duetv1.IngestServiceClient
	views  duetv1.ViewServiceClient
	batch  duetv1.BatchServiceClient
	ops    duetv1.OperateServiceClient
}

// up starts duet on a data folder and returns when it answers.
func (b *bench) up(ctx context.Context, data string) (*server, error) {
	project, err := b.project()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(b.binary, "up", "--project", project, "--data", data, "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0")
	cmd.Stderr = os.Stderr
	if os.Getenv("BENCH_QUIET") != "" {
		cmd.Stderr = io.Discard
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err != nil {
		return nil, fmt.Errorf("duet up printed no addresses: %w", err)
	}
	var addrs struct{ GRPC string }
	if err := json.Unmarshal(line, &addrs); err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient(addrs.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
	if err != nil {
		return nil, err
	}
	s := &server{cmd, conn, duetv1.NewIngestServiceClient(conn), duetv1.NewViewServiceClient(conn), duetv1.NewBatchServiceClient(conn), duetv1.NewOperateServiceClient(conn)}
	for ctx.Err() == nil {
		if _, err := s.views.ListViews(ctx, &duetv1.ListViewsRequest{}); err == nil {
			return s, nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return nil, errors.Join(ctx.Err(), s.kill())
}

// kill ends the server with SIGKILL.
func (s *server) kill() error {
	s.conn.Close()
	err := s.cmd.Process.Kill()
	_ = s.cmd.Wait() // it was killed
	if u := s.cmd.ProcessState; os.Getenv("BENCH_STEPS") != "" {
		fmt.Fprintf(os.Stderr, "  the server took %v of user and %v of system time\n", u.UserTime(), u.SystemTime())
	}
	return err
}

// append sends orders [from, to) over a few streams, in requests of size.
func (s *server) append(ctx context.Context, from, to, size int) error {
	const streams = 4
	errs := make(chan error, streams)
	for i := range streams {
		go func() {
			errs <- s.appendStream(ctx, fmt.Sprintf("bench-%d-%d", from, i), from+i*size, to, size, streams*size)
		}()
	}
	var all error
	for range streams {
		all = errors.Join(all, <-errs)
	}
	return all
}

func (s *server) appendStream(ctx context.Context, producer string, from, to, size, step int) error {
	st, err := s.ingest.AppendStream(ctx)
	if err != nil {
		return err
	}
	sent := make(chan int, 1)
	sendErr := make(chan error, 1)
	go func() {
		n, number := 0, uint64(1)
		for first := from; first < to; first += step {
			body := preparedOrders(first, min(first+size, to))
			req := &duetv1.AppendRequest{Stream: "orders", Payload: &duetv1.AppendRequest_JsonLines{JsonLines: body}, Producer: producer, ProducerSequence: number}
			number += uint64(min(size, to-first))
			if err := st.Send(&duetv1.AppendStreamRequest{Append: req}); err != nil {
				sendErr <- err
				return
			}
			n++
		}
		sendErr <- st.CloseSend()
		sent <- n
	}()
	got := 0
	for {
		_, err := st.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		got++
	}
	if err := <-sendErr; err != nil {
		return err
	}
	if n := <-sent; n != got {
		return fmt.Errorf("%d requests sent, %d answered", n, got)
	}
	return nil
}

// prepared holds the orders as bytes, so that generating them is not measured.
var prepared struct {
	text []byte
	ends []int
}

func prepare(n int) {
	if len(prepared.ends) >= n {
		return
	}
	prepared.text, prepared.ends = nil, nil
	for i := range n {
		prepared.text = appendOrder(prepared.text, i)
		prepared.ends = append(prepared.ends, len(prepared.text))
	}
}

func preparedOrders(from, to int) []byte {
	begin := 0
	if from > 0 {
		begin = prepared.ends[from-1]
	}
	return prepared.text[begin:prepared.ends[to-1]]
}

// until polls the status until done returns true.
func (s *server) until(ctx context.Context, done func(*duetv1.GetStatusResponse) bool) error {
	for {
		st, err := s.ops.GetStatus(ctx, &duetv1.GetStatusRequest{})
		if err != nil {
			return err
		}
		if done(st) {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// run makes a batch run and waits until it has published.
func (s *server) run(ctx context.Context, full bool) (*duetv1.Run, error) {
	res, err := s.batch.StartRun(ctx, &duetv1.StartRunRequest{Full: full})
	if err != nil {
		return nil, err
	}
	for {
		got, err := s.batch.GetRun(ctx, &duetv1.GetRunRequest{Run: res.GetRun().GetId()})
		if err != nil {
			return nil, err
		}
		switch run := got.GetRun(); run.GetState() {
		case duetv1.RunState_RUN_STATE_QUEUED, duetv1.RunState_RUN_STATE_RUNNING:
		case duetv1.RunState_RUN_STATE_PUBLISHED, duetv1.RunState_RUN_STATE_UNCHANGED:
			return run, nil
		default:
			return nil, fmt.Errorf("run %s: %s", run.GetState(), run.GetProblem())
		}
		time.Sleep(20 * time.Millisecond)
	}
}
