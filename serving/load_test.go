package serving

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"duet/schemas/duetv1"
)

// clientsRole, in the environment, makes the test binary [queryClients] clients of
// the gRPC address that it holds.
const clientsRole = "DUET_SERVING_TEST_CLIENTS"

const queryClients = 1000

// clientsMain queries over one connection for each client, one query after the
// other, until standard input ends. It has a low priority: clients are on other
// machines.
func clientsMain(addr string) int {
	_ = syscall.Setpriority(syscall.PRIO_PROCESS, 0, 19) // not required
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var answered, refused atomic.Int64
	var all sync.WaitGroup
	for range queryClients {
		conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		all.Go(func() {
			defer conn.Close()
			views := duetv1.NewViewServiceClient(conn)
			for ctx.Err() == nil {
				if _, err := views.Query(ctx, &duetv1.QueryRequest{View: "sales"}); err == nil {
					answered.Add(1)
				} else if ctx.Err() == nil {
					refused.Add(1)
				}
			}
		})
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	cancel()
	all.Wait()
	fmt.Printf("%d queries answered, %d refused\n", answered.Load(), refused.Load())
	return 0
}

// BenchmarkAppendBesideQueries reports how long appends take alone, and beside a
// thousand clients that query all the time.
func BenchmarkAppendBesideQueries(b *testing.B) {
	for _, clients := range []bool{false, true} {
		name := "alone"
		if clients {
			name = fmt.Sprintf("%d-clients", queryClients)
		}
		b.Run(name, func(b *testing.B) {
			r := opened(b, nil)
			if clients {
				cmd := exec.Command(os.Args[0])
				cmd.Env = append(os.Environ(), clientsRole+"="+r.GRPCAddr())
				cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
				stop, err := cmd.StdinPipe()
				r.must(err)
				r.must(cmd.Start())
				defer func() {
					stop.Close()
					r.must(cmd.Wait())
				}()
				for engine := r.api.platform.Load().engine; engine.Running() == 0; {
					time.Sleep(time.Millisecond)
				}
				time.Sleep(5 * time.Second) // all are connected
			}
			ingest := duetv1.NewIngestServiceClient(r.conn)
			line := &duetv1.AppendRequest_JsonLines{JsonLines: []byte(`{"price":1,"quantity":1,"sold_at":"2026-11-21T00:00:00Z"}`)}
			var took []time.Duration
			for b.Loop() {
				began := time.Now()
				if _, err := ingest.Append(b.Context(), &duetv1.AppendRequest{Stream: "orders", Payload: line}); err != nil {
					b.Error(err) // none is refused
				}
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
		})
	}
}
