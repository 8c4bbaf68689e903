package torture

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"duet/schemas/duetv1"
)

var binary string

// TestMain builds the duet binary.
func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "duet-torture-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binary = filepath.Join(dir, "duet")
	cmd := exec.Command("go", "build", "-tags", "duckdb_arrow", "-ldflags", "-s -w", "-o", binary, "duet/cmd/duet")
	if out, err := cmd.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "go build duet/cmd/duet: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// cluster is a data folder and the server process on it, if one is running.
type cluster struct {
	project, data string
	addr          string
	conn          *grpc.ClientConn
	done          chan struct{} // closed when the test ends

	mu    sync.Mutex // guards the fields below
	cmd   *exec.Cmd
	gone  chan struct{} // closed when cmd has ended
	lives int           // processes started, and those of them that were killed
	log   bytes.Buffer
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{project: writeProject(t), data: filepath.Join(t.TempDir(), "data"), addr: l.Addr().String(), done: make(chan struct{})}
	l.Close() // the server takes the same address at every start
	c.conn, err = grpc.NewClient(c.addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: time.Second}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		close(c.done)
		c.conn.Close()
		c.kill()
	})
	return c
}

// start starts the server and returns when it answers queries. It fails if the
// server exits first, usually at an armed failpoint.
func (c *cluster) start(env ...string) error {
	cmd := exec.Command(binary, "up", "--project", c.project, "--data", c.data, "--grpc", c.addr, "--http", "127.0.0.1:0")
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	c.mu.Lock()
	c.log.Reset()
	c.mu.Unlock()
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	gone := make(chan struct{})
	go func() {
		sc := bufio.NewScanner(stderr)
		sc.Buffer(nil, 1<<20)
		for sc.Scan() {
			c.mu.Lock()
			c.log.Write(append(sc.Bytes(), '\n'))
			c.mu.Unlock()
		}
		cmd.Wait()
		close(gone)
	}()
	c.mu.Lock()
	c.cmd, c.gone = cmd, gone
	c.lives++
	c.mu.Unlock()
	for {
		if _, err := c.query(&duetv1.QueryRequest{View: "total"}); err == nil {
			return nil
		} else if code := status.Code(err); code != codes.Unavailable && code != codes.DeadlineExceeded {
			return err
		}
		select {
		case <-gone:
			return errors.New("the server ended")
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// startAndKill starts the server and kills it after d, usually during recovery.
func (c *cluster) startAndKill(d time.Duration) error {
	ended := make(chan error, 1)
	go func() { ended <- c.start() }()
	c.pause(d)
	for {
		c.kill()
		select {
		case <-ended:
			c.kill()
			return nil
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func newTotal(notBefore string) *duetv1.QueryRequest {
	return &duetv1.QueryRequest{View: "total", NotBefore: notBefore}
}

// kill sends SIGKILL and waits until the process has ended.
func (c *cluster) kill() {
	c.mu.Lock()
	cmd, gone := c.cmd, c.gone
	c.lives++ // before the signal: what fails from now on may fail because of it
	c.mu.Unlock()
	if cmd == nil {
		return
	}
	cmd.Process.Kill()
	<-gone
}

// life returns a number that changes whenever the server is started or killed.
func (c *cluster) life() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lives
}

// wait reports whether the process ended by itself within d.
func (c *cluster) wait(d time.Duration) bool {
	c.mu.Lock()
	gone := c.gone
	c.mu.Unlock()
	select {
	case <-gone:
		return true
	case <-time.After(d):
		return false
	}
}

// tail returns the last n lines of the server's log.
func (c *cluster) tail(n int) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(c.log.String()), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// pause waits for d; it returns false if the test ends first.
func (c *cluster) pause(d time.Duration) bool {
	select {
	case <-c.done:
		return false
	case <-time.After(d):
		return true
	}
}

func (c *cluster) query(req *duetv1.QueryRequest) (*duetv1.QueryResponse, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return duetv1.NewViewServiceClient(c.conn).Query(ctx, req)
}

// run starts a batch run and returns its final state, or nil if the server died.
func (c *cluster) run(full bool) *duetv1.Run {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	client := duetv1.NewBatchServiceClient(c.conn)
	res, err := client.StartRun(ctx, &duetv1.StartRunRequest{Full: full})
	if err != nil {
		return nil
	}
	for {
		got, err := client.GetRun(ctx, &duetv1.GetRunRequest{Run: res.GetRun().GetId()})
		if err != nil {
			return nil
		}
		switch got.GetRun().GetState() {
		case duetv1.RunState_RUN_STATE_QUEUED, duetv1.RunState_RUN_STATE_RUNNING:
		default:
			return got.GetRun()
		}
		if !c.pause(10 * time.Millisecond) {
			return nil
		}
	}
}

// prober queries continuously. An answer must never count more events than were
// attempted when it arrived, and (generation, live-through) must never go back
// (H9).
type prober struct {
	mu              sync.Mutex
	generation, seq uint64
	probes          int
}

func (p *prober) run(ctx context.Context, c *cluster, l *load, t *testing.T) {
	for ctx.Err() == nil {
		p.mu.Lock()
		gen, seq := p.generation, p.seq
		p.mu.Unlock()
		res, err := c.query(&duetv1.QueryRequest{View: "total"})
		if err != nil {
			switch status.Code(err) {
			case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
			default:
				t.Errorf("probe: %v", err)
			}
			if !c.pause(5 * time.Millisecond) {
				return
			}
			continue
		}
		attempted := l.attempted()
		proof := res.GetProof()
		g, s := proof.GetGeneration(), proof.GetLiveThrough()[0].GetSequence()
		if g < gen || s < seq {
			t.Errorf("probe: went back from (generation %d, live through %d) to (%d, %d)", gen, seq, g, s)
		}
		if n := res.GetRows()[0].GetValues()[0].GetIntValue(); uint64(n) > attempted {
			t.Errorf("probe: %d events are visible, %d were attempted", n, attempted)
		}
		p.mu.Lock()
		p.generation, p.seq = max(p.generation, g), max(p.seq, s)
		p.probes++
		p.mu.Unlock()
	}
}
