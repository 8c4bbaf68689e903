package serving

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"duet/schemas"
	"duet/schemas/duetv1"
	"duet/serving/query"
	"duet/serving/query/querytest"
	"duet/serving/reason"
)

// answersWithin bounds every answer that an attack must not delay. It is far
// above what an answer takes, and below every time-out of the server.
const answersWithin = 20 * time.Second

// others fails unless append, status and query are answered over both ports.
func (r *rig) others(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), answersWithin)
	defer cancel()
	conn := r.dial(t)
	line := &duetv1.AppendRequest_JsonLines{JsonLines: []byte(`{"price":1,"quantity":1,"sold_at":"2026-11-21T00:00:00Z"}`)}
	if _, err := duetv1.NewIngestServiceClient(conn).Append(ctx, &duetv1.AppendRequest{Stream: "orders", Payload: line}); err != nil {
		t.Errorf("append over gRPC: %v", err)
	}
	if _, err := duetv1.NewOperateServiceClient(conn).GetStatus(ctx, &duetv1.GetStatusRequest{}); err != nil {
		t.Errorf("status over gRPC: %v", err)
	}
	calls := map[string]string{"/v1/append/orders": string(line.JsonLines), "/duet.v1.OperateService/GetStatus": "{}", "/duet.v1.ViewService/Query": `{"view":"everything"}`}
	if _, err := duetv1.NewViewServiceClient(conn).Query(ctx, &duetv1.QueryRequest{View: "everything"}); err != nil {
		t.Errorf("query over gRPC: %v", err)
	}
	for path, body := range calls {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.url(path), strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := r.client.Do(req)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != 200 {
			t.Errorf("%s: %d %s", path, resp.StatusCode, text)
		}
	}
}

// dial opens a further connection to the gRPC port.
func (r *rig) dial(t testing.TB) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(r.GRPCAddr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// slowBody sends a request whose body never ends, and returns when the server
// reads it.
func (r *rig) slowBody(t *testing.T, path string, size int, part string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", r.HTTPAddr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n", path, size)
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil || !strings.Contains(line, "100 Continue") {
		t.Fatalf("%q, %v", line, err)
	}
	if _, err := io.WriteString(conn, part); err != nil {
		t.Fatal(err)
	}
	return conn
}

func TestSlowBodiesKeepNobodyOut(t *testing.T) {
	r := opened(t, nil)
	for range 300 {
		r.slowBody(t, "/v1/append/orders", 1000, `{"price":`)
	}
	r.others(t)
}

// A position that the log has not reached is refused at once: such calls neither
// wait nor hold a slot.
func TestPositionsBeyondTheLogAreRefused(t *testing.T) {
	r := opened(t, nil)
	token := query.Token{Through: schemas.NewCut(querytest.Incarnation, r.fixture.Last()+1)}.String()
	var calls sync.WaitGroup
	for c := range 4 {
		views := duetv1.NewViewServiceClient(r.dial(t))
		for range 100 {
			calls.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), answersWithin)
				defer cancel()
				var err error
				if c%2 == 0 {
					_, err = views.Query(ctx, &duetv1.QueryRequest{View: "everything", NotBefore: token})
				} else {
					_, err = views.Verify(ctx, &duetv1.VerifyRequest{View: "everything", NotBefore: token})
				}
				if code, i, _ := info(t, err); code != codes.InvalidArgument || i.GetReason() != string(reason.TokenInvalid) || !strings.Contains(err.Error(), "1:1003") {
					t.Errorf("%v", err)
				}
			})
		}
	}
	r.others(t)
	calls.Wait()
}

func TestIdleStreamsKeepNobodyOut(t *testing.T) {
	r := opened(t, nil)
	open := func(conn *grpc.ClientConn) {
		s, err := duetv1.NewIngestServiceClient(conn).AppendStream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		line := &duetv1.AppendRequest_JsonLines{JsonLines: []byte("{}")}
		if err := s.Send(&duetv1.AppendStreamRequest{Append: &duetv1.AppendRequest{Stream: "orders", Payload: line}}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		conn := r.dial(t)
		for range 100 {
			open(conn)
		}
	}
	r.others(t)
	open(r.dial(t))
}

// Queries that wait shut out no append and no status. Beyond a bound further
// ones are refused, and do not wait.
func TestAThousandQueriesKeepNobodyOut(t *testing.T) {
	r := opened(t, nil)
	entered, block := make(chan struct{}, 2000), make(chan struct{})
	token := r.blockQueries(entered, block)
	var calls sync.WaitGroup
	refused := make(chan error, 2000)
	for range 10 {
		views := duetv1.NewViewServiceClient(r.dial(t))
		for range 120 {
			calls.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), answersWithin)
				defer cancel()
				if _, err := views.Query(ctx, &duetv1.QueryRequest{View: "everything", NotBefore: token}); err != nil {
					refused <- err
				}
			})
		}
	}
	for i := range 1200 { // each waits, or is refused
		select {
		case <-entered:
		case err := <-refused:
			if _, i, _ := info(t, err); i.GetReason() != string(reason.Busy) {
				t.Fatal(err)
			}
		case <-time.After(answersWithin):
			t.Fatalf("%d of 1200 calls wait or are refused", i)
		}
	}
	r.others(t)
	close(block)
	calls.Wait()
}

func TestAStreamWithoutRequestsEnds(t *testing.T) {
	r := opened(t, func(c *Config) { c.StreamIdle = 200 * time.Millisecond })
	s, err := duetv1.NewIngestServiceClient(r.conn).AppendStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Recv()
	if code, i, _ := info(t, err); code != codes.Unavailable || i.GetReason() != string(reason.StreamIdle) {
		t.Error(err)
	}
}

// A body that does not arrive ends its request; what large bodies hold in memory
// is bounded, and small ones pass all the same.
func TestBodiesAreBounded(t *testing.T) {
	r := opened(t, func(c *Config) { c.MaxBodies, c.BodyTimeout = 600<<10, 10*time.Second })
	large := strings.Repeat(`{"country":"France"}`+"\n", 15<<10)
	slow := r.slowBody(t, "/v1/append/orders", len(large), large[:250<<10])
	// Its first 256 KiB are held as soon as the server has read that much; until
	// then, and no longer than BodyTimeout, others may be admitted.
	for deadline := time.Now().Add(9 * time.Second); ; {
		code, body := r.post(t, "/v1/append/orders", large, nil)
		if code == 429 && connectReason(t, body) == string(reason.Busy) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("a second large body: %d %s", code, body)
		}
	}
	r.others(t)
	answer, err := http.ReadResponse(bufio.NewReader(slow), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != 504 || connectReason(t, string(text)) != string(reason.DeadlineOver) {
		t.Errorf("the slow body: %d %s %v", answer.StatusCode, text, err)
	}
	if code, body := r.post(t, "/v1/append/orders", large, nil); code != 200 {
		t.Errorf("afterwards: %d %s", code, body)
	}
}

// A connection that is one too many is refused with an answer. Others go on, and
// a closed connection makes room.
func TestConnectionsBeyondTheLimitAreRefused(t *testing.T) {
	r := opened(t, func(c *Config) { c.MaxConns = 2 })
	ctx, cancel := context.WithTimeout(t.Context(), answersWithin)
	defer cancel()
	ask := func(conn *grpc.ClientConn) error {
		_, err := duetv1.NewOperateServiceClient(conn).GetStatus(ctx, &duetv1.GetStatusRequest{})
		return err
	}
	second := r.dial(t)
	for _, conn := range []*grpc.ClientConn{r.conn, second} {
		if err := ask(conn); err != nil {
			t.Fatal(err)
		}
	}
	err := ask(r.dial(t))
	if code, i, _ := info(t, err); code != codes.Unavailable || i.GetReason() != string(reason.TooManyConnections) {
		t.Errorf("a third gRPC connection of two: %v", err)
	}
	if err := ask(r.conn); err != nil {
		t.Errorf("the first: %v", err)
	}
	second.Close()
	for { // until the server has seen the end of it
		conn := r.dial(t)
		err := ask(conn)
		conn.Close()
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
	}

	for range 2 {
		r.slowBody(t, "/v1/append/orders", 1000, "{")
	}
	code, body := r.post(t, "/duet.v1.OperateService/GetStatus", "{}", nil)
	if code != 503 || connectReason(t, body) != string(reason.TooManyConnections) {
		t.Errorf("a third HTTP connection of two: %d %s", code, body)
	}
}

// A statement that DuckDB does not interrupt delays neither other calls nor Stop.
func TestStopDoesNotWaitForStatements(t *testing.T) {
	r := opened(t, func(c *Config) { c.Grace = 100 * time.Millisecond })
	stuck, _ := r.fixture.Stuck("sales")
	ended := make(chan error, 8)
	for range 8 {
		go func() {
			_, err := duetv1.NewViewServiceClient(r.conn).Query(t.Context(), stuck)
			ended <- err
		}()
	}
	engine := r.api.platform.Load().engine
	for engine.Running() < 8 {
		select {
		case err := <-ended:
			t.Fatal(err)
		case <-time.After(time.Millisecond):
		}
	}
	if err := r.Stop(t.Context()); err == nil || !strings.Contains(err.Error(), "ended after 100ms") {
		t.Errorf("Stop: %v", err)
	}
	if engine.Running() == 0 {
		t.Error("Stop waited for the statements")
	}
	for range 8 {
		<-ended
	}
}

// Eight statements that DuckDB does not interrupt hold nobody up once their calls
// have ended.
func TestSlowStatementsKeepNobodyOut(t *testing.T) {
	r := opened(t, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	stuck, release := r.fixture.Stuck("sales")
	var calls sync.WaitGroup
	for range 8 {
		calls.Go(func() {
			if _, err := duetv1.NewViewServiceClient(r.conn).Query(ctx, stuck); status.Code(err) != codes.DeadlineExceeded {
				t.Error(err)
			}
		})
	}
	calls.Wait()
	r.others(t)
	s, err := duetv1.NewOperateServiceClient(r.conn).GetStatus(t.Context(), &duetv1.GetStatusRequest{})
	if err != nil || s.GetAbandonedQueries() == 0 {
		t.Errorf("%d abandoned queries, %v", s.GetAbandonedQueries(), err)
	}
	release()
}

// What is refused before a method is called says what to do.
func TestRefusalsHaveABody(t *testing.T) {
	r := opened(t, nil)
	const query = "/duet.v1.ViewService/Query"
	for _, c := range []struct {
		method, path, kind string
		status             int
		want               string
	}{
		{"POST", query, "text/plain", 415, "Content-Type: application/json"},
		{"POST", query, "", 415, "Content-Type: application/json"},
		{"GET", query, "", 405, "POST"},
		{"POST", "/duet.v1.ViewService/Drop", "application/json", 404, "/duet.v1.ViewService/Query"},
		{"GET", "/nosuch", "", 404, "the page is at /"},
		{"GET", "/v1/append/orders", "", 404, "/v1/append/STREAM"},
	} {
		req, err := http.NewRequestWithContext(t.Context(), c.method, r.url(c.path), strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		if c.kind != "" {
			req.Header.Set("Content-Type", c.kind)
		}
		resp, err := r.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != c.status || !strings.Contains(string(text), c.want) || connectReason(t, string(text)) == "" {
			t.Errorf("%s %s as %q: %d %s", c.method, c.path, c.kind, resp.StatusCode, text)
		}
	}
}
