package serving

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/anypb"

	"duet/batch"
	"duet/batch/archive"
	"duet/batch/catalog"
	"duet/batch/recompute"
	"duet/internal/base/durable"
	"duet/schemas"
	"duet/schemas/duetv1"
	"duet/schemas/project"
	"duet/serving/query"
	"duet/serving/query/querytest"
	"duet/serving/reason"
	"duet/serving/store"
	"duet/speed/eventlog"
)

// unary lists every unary method of our services, by full name.
func unary(t *testing.T) map[string]protoreflect.MethodDescriptor {
	t.Helper()
	out := map[string]protoreflect.MethodDescriptor{}
	for _, f := range []protoreflect.FileDescriptor{duetv1.File_duet_v1_ingest_proto, duetv1.File_duet_v1_view_proto, duetv1.File_duet_v1_batch_proto, duetv1.File_duet_v1_operate_proto} {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			for j := range s.Methods().Len() {
				if m := s.Methods().Get(j); !m.IsStreamingClient() && !m.IsStreamingServer() {
					out[fmt.Sprintf("/%s/%s", s.FullName(), m.Name())] = m
				}
			}
		}
	}
	if len(out) < 15 {
		t.Fatalf("only %d methods", len(out))
	}
	return out
}

// requests has, for every unary method, a request that succeeds once a run (RUN)
// has published generation 1, and requests that are refused, with their field.
var requests = map[string]struct {
	good string
	bad  map[string]string // JSON: field
}{
	"/duet.v1.IngestService/Append": {`{"stream":"orders","jsonLines":"e30K"}`, map[string]string{
		`{"stream":"orders"}`:                                                                "json_lines",
		`{"stream":"orders","jsonLines":"Cgo="}`:                                             "json_lines",
		`{"jsonLines":"e30K"}`:                                                               "stream",
		`{"stream":"Orders","jsonLines":"e30K"}`:                                             "stream",
		`{"stream":"orders","jsonLines":"e30K","producer":"a b"}`:                            "producer",
		`{"stream":"orders","jsonLines":"e30K","producer":"p"}`:                              "producer_sequence",
		`{"stream":"orders","jsonLines":"e30K","producerSequence":"4"}`:                      "producer_sequence",
		`{"stream":"orders","jsonLines":"e30K","session":"../x"}`:                            "session",
		`{"stream":"orders","jsonLines":"e30K","file":{"chunk":"AAAA"}}`:                     "file.chunk",
		`{"stream":"orders","jsonLines":"e30K","file":{"chunk":"AAAAAAAAAAAAAAAAAAAAAA=="}}`: "file.digests",
	}},
	"/duet.v1.IngestService/GetAccount":       {`{"session":"abc"}`, map[string]string{`{}`: "session", `{"session":"a/b"}`: "session", `{"session":"a","notBefore":"zzz"}`: "not_before"}},
	"/duet.v1.ViewService/ListViews":          {`{}`, nil},
	"/duet.v1.ViewService/GetView":            {`{"view":"sales"}`, map[string]string{`{}`: "view", `{"view":"SALES"}`: "view"}},
	"/duet.v1.ViewService/Query":              {`{"view":"sales"}`, map[string]string{`{}`: "view", `{"view":"sales","limit":10001}`: "limit", `{"view":"sales","where":"1+"}`: "where"}},
	"/duet.v1.ViewService/Verify":             {`{"view":"sales"}`, map[string]string{`{"view":"."}`: "view", `{"view":"sales","limit":-1}`: "limit"}},
	"/duet.v1.BatchService/StartRun":          {`{"full":true,"requestId":"x-1"}`, map[string]string{`{"requestId":"a b"}`: "request_id"}},
	"/duet.v1.BatchService/GetRun":            {`{"run":"RUN"}`, map[string]string{`{}`: "run", `{"run":"../r1"}`: "run"}},
	"/duet.v1.BatchService/ListRuns":          {`{}`, map[string]string{`{"pageSize":-1}`: "page_size", `{"pageSize":1001}`: "page_size", `{"pageToken":"/"}`: "page_token"}},
	"/duet.v1.BatchService/Rollback":          {`{"generation":"1","requestId":"back"}`, map[string]string{`{}`: "generation"}},
	"/duet.v1.BatchService/Pause":             {`{"reason":"lunch"}`, map[string]string{`{"reason":"` + strings.Repeat("x", 1001) + `"}`: "reason"}},
	"/duet.v1.BatchService/Resume":            {`{}`, nil},
	"/duet.v1.BatchService/Pin":               {`{"generation":"1"}`, map[string]string{`{}`: "generation"}},
	"/duet.v1.BatchService/Unpin":             {`{"generation":"1"}`, map[string]string{`{}`: "generation"}},
	"/duet.v1.BatchService/ListGenerations":   {`{}`, nil},
	"/duet.v1.BatchService/GetReconciliation": {`{}`, map[string]string{`{"run":"a\u0000b"}`: "run"}},
	"/duet.v1.OperateService/GetStatus":       {`{}`, nil},
	"/duet.v1.OperateService/ListRejects":     {`{}`, map[string]string{`{"limit":-1}`: "limit", `{"stream":">"}`: "stream", `{"session":"*"}`: "session"}},
	"/duet.v1.OperateService/StartScrub":      {`{}`, nil},
	"/duet.v1.OperateService/GetScrub":        {`{}`, nil},
	"/duet.v1.OperateService/Inspect": {`{"what":"log"}`, map[string]string{
		`{}`: "what", `{"what":"disk"}`: "what", `{"what":"log","args":{"../x":"1"}}`: "args", `{"what":"log","args":{"from":"/etc"}}`: "args.from", `{"what":"live","args":{"from":"1"}}`: "args"}},
}

// invoke calls a method over gRPC with a request given as JSON.
func (r *rig) invoke(ctx context.Context, m protoreflect.MethodDescriptor, method, request string) (proto.Message, error) {
	in, out := dynamicpb.NewMessage(m.Input()), dynamicpb.NewMessage(m.Output())
	if err := protojson.Unmarshal([]byte(request), in); err != nil {
		return nil, err
	}
	return out, r.conn.Invoke(ctx, method, in, out)
}

// post calls a method as JSON over HTTP.
func (r *rig) post(t *testing.T, path, body string, header http.Header) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.url(path), strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	for k, v := range header {
		req.Header[k] = v
		if k == "Host" {
			req.Host = v[0]
		}
	}
	resp, err := r.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func (r *rig) get(t *testing.T, path string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.url(path), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := r.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// info is what an error carries.
func info(t *testing.T, err error) (codes.Code, *errdetails.ErrorInfo, *errdetails.BadRequest) {
	t.Helper()
	s := status.Convert(err)
	var i *errdetails.ErrorInfo
	var b *errdetails.BadRequest
	for _, d := range s.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			i = d
		case *errdetails.BadRequest:
			b = d
		}
	}
	if i == nil {
		t.Fatalf("no ErrorInfo: %v", err)
	}
	if i.GetDomain() != reason.Domain {
		t.Errorf("domain %q", i.GetDomain())
	}
	return s.Code(), i, b
}

// connectReason is the reason that JSON over HTTP gives.
func connectReason(t *testing.T, body string) string {
	t.Helper()
	var e struct {
		Details []struct {
			Type  string
			Debug struct{ Reason string }
		}
	}
	if err := json.Unmarshal([]byte(body), &e); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	for _, d := range e.Details {
		if d.Type == "google.rpc.ErrorInfo" {
			return d.Debug.Reason
		}
	}
	t.Fatalf("no ErrorInfo: %s", body)
	return ""
}

func TestEveryCallSucceedsOnBothPorts(t *testing.T) {
	r := opened(t, nil)
	run := r.run()
	for method, m := range unary(t) {
		c, ok := requests[method]
		if !ok {
			t.Errorf("%s: add requests that succeed and that are refused", method)
			continue
		}
		good := strings.ReplaceAll(c.good, "RUN", run)
		fromGRPC, err := r.invoke(t.Context(), m, method, good)
		if err != nil {
			t.Errorf("%s: %v", method, err)
			continue
		}
		code, body := r.post(t, method, good, nil)
		fromHTTP := dynamicpb.NewMessage(m.Output())
		if err := protojson.Unmarshal([]byte(body), fromHTTP); code != 200 || err != nil {
			t.Errorf("%s: %d %s", method, code, body)
			continue
		}
		for _, run := range r.runner.List(0) { // room for the next
			if _, err := r.runner.Wait(t.Context(), run.ID); err != nil {
				t.Fatal(err)
			}
		}
		// The fields that differ between two calls by their nature.
		for _, name := range []protoreflect.Name{"elapsed", "token", "run", "runs", "batch", "process_memory_bytes", "store_memory_bytes", "log", "live", "streams", "tables", "scrub", "last_scrub", "running", "last"} {
			if fd := m.Output().Fields().ByName(name); fd != nil {
				fromGRPC.ProtoReflect().Clear(fd)
				fromHTTP.ProtoReflect().Clear(fd)
			}
		}
		if !proto.Equal(fromGRPC, fromHTTP) {
			t.Errorf("%s: gRPC and HTTP differ:\n%v\n%v", method, fromGRPC, fromHTTP)
		}
	}
}

func TestEveryRequestIsChecked(t *testing.T) {
	r := opened(t, nil)
	for method, m := range unary(t) {
		for request, field := range requests[method].bad {
			_, err := r.invoke(t.Context(), m, method, request)
			code, i, b := info(t, err)
			if code != codes.InvalidArgument || len(b.GetFieldViolations()) != 1 || b.GetFieldViolations()[0].GetField() != field {
				t.Errorf("%s %s: %v, %v, %v", method, request, code, i, b)
			}
			status, body := r.post(t, method, request, nil)
			if status != 400 || connectReason(t, body) != i.GetReason() {
				t.Errorf("%s %s over HTTP: %d %s", method, request, status, body)
			}
		}
	}
}

func TestJSONThatIsNoRequestIsRefused(t *testing.T) {
	r := opened(t, nil)
	for body, want := range map[string]string{
		`{"view":"sales","limt":3}`:                     `limt: there is no such field in a QueryRequest`,
		`{"view":"sales","params":{"n":{"integer":3}}}`: `integer: there is no such field in a QueryRequest`,
		`{"view":3}`: `the body is not a QueryRequest in JSON: (line 1:9): `,
		`{"view"`:    `the body is not a QueryRequest in JSON: `,
		``:           `the body is not a QueryRequest in JSON: `,
	} {
		for _, kind := range []string{"application/json", "application/json; charset=utf-8"} {
			code, answer := r.post(t, "/duet.v1.ViewService/Query", body, http.Header{"Content-Type": {kind}})
			var e struct{ Message string }
			if err := json.Unmarshal([]byte(answer), &e); err != nil || code != 400 || !strings.HasPrefix(e.Message, want) {
				t.Errorf("%s: %d %s", body, code, answer)
				continue
			}
			if got := connectReason(t, answer); got != string(reason.ArgumentInvalid) {
				t.Errorf("%s: %s", body, got)
			}
		}
	}
}

func TestNothingIsAnsweredUntilCaughtUp(t *testing.T) {
	for _, r := range []*rig{listening(t, nil), attached(t, nil)} {
		refused := func(method string) {
			_, err := r.invoke(t.Context(), unary(t)[method], method, requests[method].good)
			code, i, _ := info(t, err)
			if code != codes.Unavailable || i.GetReason() != string(reason.CatchingUp) || i.GetMetadata()["progress"] == "" {
				t.Errorf("%s: %v %v", method, code, i)
			}
		}
		for method := range unary(t) {
			if !methods[method].early {
				refused(method)
			}
		}
		if r.log == nil {
			refused("/duet.v1.OperateService/Inspect")
		} else if _, err := duetv1.NewOperateServiceClient(r.conn).Inspect(t.Context(), &duetv1.InspectRequest{What: "log"}); err != nil {
			t.Error(err)
		}
		s, err := duetv1.NewOperateServiceClient(r.conn).GetStatus(t.Context(), &duetv1.GetStatusRequest{Definitions: true})
		if err != nil || s.GetHealth() != duetv1.Health_HEALTH_STARTING || s.GetStreams()[0].GetDefinition() == "" || (s.GetLog() == nil) != (r.log == nil) {
			t.Errorf("status: %v, %v", s, err)
		}
	}
	r := attached(t, nil)
	h := healthpb.NewHealthClient(r.conn)
	if got, err := h.Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil || got.GetStatus() != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Errorf("health: %v, %v", got, err)
	}
	for path, want := range map[string]int{"/healthz": 200, "/readyz": 503, "/": 200, "/metrics": 200, "/views/sales": 200} {
		if code, body := r.get(t, path); code != want {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	r.open()
	if got, err := h.Check(t.Context(), &healthpb.HealthCheckRequest{Service: "duet.v1.ViewService"}); err != nil || got.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health: %v, %v", got, err)
	}
	if code, _ := r.get(t, "/readyz"); code != 200 {
		t.Errorf("/readyz: %d", code)
	}
}

// Each error that a backend may return reaches the client as one code and
// reason, whichever method it comes out of.
func TestErrorsBecomeCodes(t *testing.T) {
	r := opened(t, nil)
	suspended := &store.SuspendedError{Suspension: recompute.Suspension{View: "sales", Record: -1, Message: "m", Remedy: "r"}}
	cases := []struct {
		err  error
		code codes.Code
		want reason.Reason
	}{
		{&eventlog.FullError{Used: 9, Limit: 10}, codes.ResourceExhausted, reason.LogFull},
		{&eventlog.OrderError{Producer: "p", Number: 9, Expected: 4}, codes.FailedPrecondition, reason.ProducerOutOfOrder},
		{&eventlog.RequestError{Field: "records[3]", Reason: "too long"}, codes.InvalidArgument, reason.ArgumentInvalid},
		{fmt.Errorf("x: %w", eventlog.ErrTooLarge), codes.ResourceExhausted, reason.MessageTooLarge},
		{eventlog.ErrBusy, codes.ResourceExhausted, reason.Busy},
		{eventlog.ErrClosed, codes.Unavailable, reason.Stopping},
		{eventlog.ErrUnavailable, codes.Unavailable, reason.LogRefused},
		{eventlog.ErrEarlier, codes.Unavailable, reason.LogRefused},
		{&eventlog.UnknownError{Cause: context.DeadlineExceeded}, codes.DeadlineExceeded, reason.DeadlineOver},
		{&eventlog.RefusedError{Kind: eventlog.ErrBehind}, codes.DataLoss, reason.Damaged},
		{&eventlog.GapError{}, codes.DataLoss, reason.Damaged},
		{suspended, codes.FailedPrecondition, reason.ViewSuspended},
		{&store.RebuildingError{View: "sales"}, codes.Unavailable, reason.ViewRebuilding},
		{&store.UnknownViewError{View: "x"}, codes.NotFound, reason.ViewUnknown},
		{store.ErrClosed, codes.Unavailable, reason.Stopping},
		{&durable.DamageError{Path: "a.parquet", Reason: "its checksum differs"}, codes.DataLoss, reason.Damaged},
		{&archive.FencedError{What: "generation", Number: 4}, codes.Aborted, reason.Fenced},
		{&archive.GapError{}, codes.DataLoss, reason.Damaged},
		{&batch.BusyError{Running: "a", Queued: "b"}, codes.FailedPrecondition, reason.RunQueued},
		{&batch.UnknownRunError{ID: "a"}, codes.NotFound, reason.RunUnknown},
		{&catalog.NotKeptError{Number: 3}, codes.NotFound, reason.GenerationUnknown},
		{batch.ErrStopped, codes.Unavailable, reason.Stopping},
		{reason.New(reason.RunUnknown, "no such run"), codes.NotFound, reason.RunUnknown},
		{context.DeadlineExceeded, codes.DeadlineExceeded, reason.DeadlineOver},
		{context.Canceled, codes.Canceled, reason.Cancelled},
		{errors.New("a secret"), codes.Internal, reason.Internal},
	}
	const query = "/duet.v1.ViewService/Query"
	for _, c := range cases {
		refused := r.api.gate.pass(t.Context(), query, func(context.Context) error { return c.err })
		for transport, err := range map[string]error{"gRPC": grpcError(refused), "connect": overConnect(t, connectError(refused))} {
			code, i, b := info(t, err)
			if code != c.code || i.GetReason() != string(c.want) || c.want.Code() != c.code {
				t.Errorf("%s: %v became %v %v", transport, c.err, code, i)
			}
			if strings.Contains(status.Convert(err).Message(), "secret") {
				t.Errorf("%s discloses: %v", transport, err)
			}
			switch c.want {
			case reason.ProducerOutOfOrder:
				if i.GetMetadata()["expected"] != "4" {
					t.Errorf("%v", i)
				}
			case reason.ArgumentInvalid:
				if b.GetFieldViolations()[0].GetField() != "records[3]" {
					t.Errorf("%v", b)
				}
			}
		}
	}
	// The same through both transports.
	r.fixture.Poison()
	for view, want := range map[string]reason.Reason{"small": reason.ViewSuspended, "nosuch": reason.ViewUnknown} {
		req := fmt.Sprintf(`{"view":%q}`, view)
		_, err := r.invoke(t.Context(), unary(t)[query], query, req)
		if code, i, _ := info(t, err); code != want.Code() || i.GetReason() != string(want) {
			t.Errorf("%s: %v %v", view, code, i)
		}
		if _, body := r.post(t, query, req, nil); connectReason(t, body) != string(want) {
			t.Errorf("%s over HTTP: %s", view, body)
		}
	}
}

// overConnect is a connect error as a gRPC error.
func overConnect(t *testing.T, e *connect.Error) error {
	t.Helper()
	s := status.New(codes.Code(e.Code()), e.Message()).Proto()
	for _, d := range e.Details() {
		a, err := d.Value()
		if err != nil {
			t.Fatal(err)
		}
		packed, err := anypb.New(a)
		if err != nil {
			t.Fatal(err)
		}
		s.Details = append(s.Details, packed)
	}
	return status.FromProto(s).Err()
}

func TestReasonsAreAClosedSet(t *testing.T) {
	for _, r := range reason.All() {
		if c := r.Code(); c == codes.OK || c == codes.Unknown {
			t.Errorf("%s has code %v", r, c)
		}
		if s := string(r); s != strings.ToUpper(s) || len(s) > 63 {
			t.Errorf("%s is not a reason of google.rpc.ErrorInfo", r)
		}
	}
}

func TestPanicEndsOneCall(t *testing.T) {
	r := opened(t, nil)
	p := r.api.platform.Load()
	broken := *p
	broken.Runner = nil // a nil pointer is dereferenced
	r.api.platform.Store(&broken)
	m := "/duet.v1.BatchService/StartRun"
	_, err := r.invoke(t.Context(), unary(t)[m], m, `{}`)
	if code, i, _ := info(t, err); code != codes.Internal || i.GetReason() != string(reason.Internal) || strings.Contains(err.Error(), "nil") {
		t.Errorf("%v", err)
	}
	if code, body := r.post(t, m, `{}`, nil); code != 500 || strings.Contains(body, "nil") {
		t.Errorf("%d %s", code, body)
	}
	if code, body := r.get(t, "/"); code != 200 || strings.Contains(body, "nil") || !strings.Contains(body, "internal error") {
		t.Errorf("the page: %d %s", code, body)
	}
	r.api.platform.Store(p)
	if code, _ := r.post(t, m, `{}`, nil); code != 200 {
		t.Errorf("afterwards: %d", code)
	}
}

// Each limit gives its code, and others are still served.
func TestLimits(t *testing.T) {
	r := opened(t, func(c *Config) { c.MaxMessage, c.MaxQueries, c.MaxDeadline = 64<<10, 2, 200*time.Millisecond })
	big := bytes.Repeat([]byte("{}\n"), 64<<10)
	_, err := duetv1.NewIngestServiceClient(r.conn).Append(t.Context(), &duetv1.AppendRequest{Stream: "orders", Payload: &duetv1.AppendRequest_JsonLines{JsonLines: big}})
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a large message: %v", err)
	}
	if code, body := r.post(t, "/v1/append/orders", string(big), nil); code != 429 || connectReason(t, body) != string(reason.MessageTooLarge) {
		t.Errorf("a large body: %d %s", code, body)
	}
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	fmt.Fprintf(z, `{"view":"%s"}`, strings.Repeat("x", 4<<20))
	z.Close()
	if code, _ := r.post(t, "/duet.v1.ViewService/Query", bomb.String(), http.Header{"Content-Encoding": {"gzip"}}); code != 429 {
		t.Errorf("a gzip bomb of %d bytes: %d", bomb.Len(), code)
	}
	var small bytes.Buffer
	z = gzip.NewWriter(&small)
	fmt.Fprint(z, `{"view":"sales"}`)
	z.Close()
	for range 2 {
		if code, body := r.post(t, "/duet.v1.ViewService/GetView", small.String(), http.Header{"Content-Encoding": {"gzip"}}); code != 200 {
			t.Errorf("a compressed request: %d %s", code, body)
		}
	}
	z2 := &boundedGzip{limit: 100}
	if err := z2.Reset(bytes.NewReader(bomb.Bytes())); err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, z2); n != 100 || err != nil {
		t.Errorf("%d bytes of the bomb were unpacked, %v", n, err)
	}

	entered, block := make(chan struct{}, 2), make(chan struct{})
	token := r.blockQueries(entered, block)
	views := duetv1.NewViewServiceClient(r.conn)
	blocked := make(chan error, 2)
	for range 2 {
		go func() {
			_, err := views.Query(t.Context(), &duetv1.QueryRequest{View: "sales", NotBefore: token})
			blocked <- err
		}()
	}
	<-entered
	<-entered
	_, err = views.ListViews(t.Context(), &duetv1.ListViewsRequest{})
	if code, i, _ := info(t, err); code != codes.ResourceExhausted || i.GetReason() != string(reason.Busy) {
		t.Errorf("a third call of two: %v", err)
	}
	if _, err := healthpb.NewHealthClient(r.conn).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
		t.Errorf("health of a busy server: %v", err)
	}
	for range 2 { // the deadline ends them
		if code, i, _ := info(t, <-blocked); code != codes.DeadlineExceeded || i.GetReason() != string(reason.DeadlineOver) {
			t.Errorf("a blocked call: %v %v", code, i)
		}
	}
	if _, err := views.ListViews(t.Context(), &duetv1.ListViewsRequest{}); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// blockQueries makes queries with the returned token wait until block is closed.
// Each sends on entered first.
func (r *rig) blockQueries(entered chan<- struct{}, block <-chan struct{}) (token string) {
	r.api.platform.Load().engine = r.fixture.Engine(func(c *query.Config) {
		c.Last = func() schemas.Position { return r.fixture.Last() + 1 }
		c.Wait = func(ctx context.Context, _ schemas.Position) error {
			entered <- struct{}{}
			select {
			case <-block:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	return query.Token{Through: schemas.NewCut(querytest.Incarnation, r.fixture.Last()+1)}.String()
}

// A name from outside is looked up or refused, and never more.
func TestHostileNames(t *testing.T) {
	r := opened(t, nil)
	names := []string{"../sales", "sales/../../etc/passwd", "sales\x00", "con", "NUL", "s\u0430les", "ＳＡＬＥＳ", strings.Repeat("a", 64<<10), ">", "*", "orders.>", "duet.c.cut",
		`sales"`, "sales'; DROP TABLE x --", "sales ", " sales", "sales\n", "-sales", "_duet_x", "", "%2e%2e", "sales.sql", "$JS.API", "\xff\xfe"}
	ctx := t.Context()
	views, ingest := duetv1.NewViewServiceClient(r.conn), duetv1.NewIngestServiceClient(r.conn)
	batch, operate := duetv1.NewBatchServiceClient(r.conn), duetv1.NewOperateServiceClient(r.conn)
	line := &duetv1.AppendRequest_JsonLines{JsonLines: []byte("{}")}
	for _, n := range names {
		calls := map[string]func() error{
			"GetView": func() error { _, err := views.GetView(ctx, &duetv1.GetViewRequest{View: n}); return err },
			"Query":   func() error { _, err := views.Query(ctx, &duetv1.QueryRequest{View: n}); return err },
			"group_by": func() error {
				_, err := views.Query(ctx, &duetv1.QueryRequest{View: "sales", GroupBy: []string{n}})
				return err
			},
			"order_by": func() error {
				_, err := views.Query(ctx, &duetv1.QueryRequest{View: "sales", OrderBy: []string{n}})
				return err
			},
			"not_before": func() error {
				_, err := views.Query(ctx, &duetv1.QueryRequest{View: "sales", NotBefore: n + "!"})
				return err
			},
			"params": func() error {
				_, err := views.Query(ctx, &duetv1.QueryRequest{View: "sales", Params: map[string]*duetv1.Value{n: {}}})
				return err
			},
			"Verify": func() error { _, err := views.Verify(ctx, &duetv1.VerifyRequest{View: n}); return err },
			"stream": func() error {
				_, err := ingest.Append(ctx, &duetv1.AppendRequest{Stream: n, Payload: line})
				return err
			},
			"producer": func() error {
				_, err := ingest.Append(ctx, &duetv1.AppendRequest{Stream: "orders", Payload: line, Producer: n, ProducerSequence: 1})
				return err
			},
			"session": func() error { _, err := ingest.GetAccount(ctx, &duetv1.GetAccountRequest{Session: n}); return err },
			"run":     func() error { _, err := batch.GetRun(ctx, &duetv1.GetRunRequest{Run: n}); return err },
			"rejects": func() error { _, err := operate.ListRejects(ctx, &duetv1.ListRejectsRequest{Stream: n}); return err },
			"inspect": func() error { _, err := operate.Inspect(ctx, &duetv1.InspectRequest{What: n}); return err },
		}
		for what, call := range calls {
			switch code := status.Code(call()); code {
			case codes.InvalidArgument, codes.NotFound:
			case codes.Internal: // what is no UTF-8 does not even leave the client
				if n != "\xff\xfe" {
					t.Errorf("%s %q: %v", what, n, code)
				}
			case codes.OK: // names of producers, sessions and runs are free within their characters
				if !idPattern.MatchString(n) && n != "" {
					t.Errorf("%s took %q", what, n)
				}
			default:
				t.Errorf("%s %q: %v", what, n, code)
			}
		}
	}
	for _, e := range r.appended() {
		for _, run := range e.Runs {
			if !idPattern.MatchString(run.Producer) {
				t.Errorf("the log holds %q", run.Producer)
			}
		}
	}
}

func TestAppendStreamAnswersInOrder(t *testing.T) {
	r := opened(t, nil)
	s, err := duetv1.NewIngestServiceClient(r.conn).AppendStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const n = 200
	go func() {
		for i := range n {
			line := &duetv1.AppendRequest_JsonLines{JsonLines: fmt.Appendf(nil, `{"i":%d}`, i)}
			_ = s.Send(&duetv1.AppendStreamRequest{Append: &duetv1.AppendRequest{Stream: "orders", Payload: line, Producer: "p", ProducerSequence: uint64(i + 1)}})
		}
		_ = s.CloseSend()
	}()
	seen := 0
	for range n {
		got, err := s.Recv()
		if err != nil {
			t.Fatal(err)
		}
		seen += int(got.GetAppended().GetAppended())
	}
	if _, err := s.Recv(); !errors.Is(err, io.EOF) {
		t.Fatalf("after the last: %v", err)
	}
	if seen != n {
		t.Fatalf("%d events are acknowledged", seen)
	}
	next := uint64(1)
	for _, e := range r.appended() {
		for _, run := range e.Runs {
			if run.First != next {
				t.Fatalf("number %d where %d belongs", run.First, next)
			}
			next += uint64(run.Count)
		}
	}
	if next != n+1 {
		t.Fatalf("the log holds %d events", next-1)
	}
	// An error ends the stream, with its reason, though the client goes on listening.
	if s, err = duetv1.NewIngestServiceClient(r.conn).AppendStream(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Send(&duetv1.AppendStreamRequest{Append: &duetv1.AppendRequest{Stream: "nosuch", Payload: &duetv1.AppendRequest_JsonLines{JsonLines: []byte("{}")}}}); err != nil {
		t.Fatal(err)
	}
	_, err = s.Recv()
	if code, i, _ := info(t, err); code != codes.NotFound || i.GetReason() != string(reason.StreamUnknown) {
		t.Fatalf("%v", err)
	}
}

func TestAppendByCurl(t *testing.T) {
	r := opened(t, nil)
	code, body := r.post(t, "/v1/append/orders?producer=p&producer_sequence=1&session=s", "{\"a\":1}\r\n\n {\"a\":2}", http.Header{"Content-Type": {"application/x-www-form-urlencoded"}})
	if code != 200 || !strings.Contains(body, `"appended":2`) {
		t.Fatalf("%d %s", code, body)
	}
	e := r.appended()[0]
	if e.Count() != 2 || string(e.Record(0)) != `{"a":1}` || string(e.Record(1)) != `{"a":2}` || e.Runs[0].First != 1 || e.Runs[0].Producer != "p" || e.Runs[0].Session != "s" {
		t.Fatalf("%+v", e)
	}
	if code, body := r.post(t, "/v1/append/orders", "{}", http.Header{"Content-Encoding": {"gzip"}}); code != 400 || !strings.Contains(body, "Content-Encoding") {
		t.Errorf("a compressed body: %d %s", code, body)
	}
	for path, want := range map[string]int{"/v1/append/nosuch": 404, "/v1/append/..%2f": 400, "/v1/append/orders?producer_sequence=x": 400} {
		if code, body := r.post(t, path, "{}", nil); code != want {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
}

func TestUnknownMethods(t *testing.T) {
	r := opened(t, nil)
	in, out := &duetv1.ListViewsRequest{}, &duetv1.ListViewsResponse{}
	for _, m := range []string{"/duet.v1.ViewService/Drop", "/x.Y/Z"} {
		if err := r.conn.Invoke(t.Context(), m, in, out); status.Code(err) != codes.Unimplemented {
			t.Errorf("%s: %v", m, err)
		}
	}
	if code, _ := r.post(t, "/duet.v1.ViewService/Drop", "{}", nil); code != 404 {
		t.Errorf("%d", code)
	}
	if _, body := r.get(t, "/metrics"); strings.Contains(body, "x.Y") || strings.Contains(body, "Drop") {
		t.Error("a client can fill the metrics with names of its own")
	}
}

func TestStopLetsCallsEnd(t *testing.T) {
	r := opened(t, nil)
	entered, block := make(chan struct{}, 1), make(chan struct{})
	token := r.blockQueries(entered, block)
	ended := make(chan error, 1)
	go func() {
		_, err := duetv1.NewViewServiceClient(r.conn).Query(t.Context(), &duetv1.QueryRequest{View: "sales", NotBefore: token})
		ended <- err
	}()
	<-entered
	stopped := make(chan error, 1)
	go func() { stopped <- r.Stop(t.Context()) }()
	close(block)
	if err := <-ended; err != nil {
		t.Errorf("the call that was running: %v", err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestStopWithoutStart(t *testing.T) {
	s, err := New(Config{Project: &project.Project{Name: "shop"}})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// Every method of every service has a class, and nothing else has one.
func TestEveryMethodHasAClass(t *testing.T) {
	r := listening(t, nil)
	known := map[string]bool{appendPath: true, pageStatus: true, pageViews: true, metricsStatus: true}
	for service, i := range r.grpc.GetServiceInfo() {
		if strings.HasPrefix(service, "grpc.") {
			continue
		}
		for _, m := range i.Methods {
			name := "/" + service + "/" + m.Name
			known[name] = true
			c, ok := methods[name]
			if !ok {
				t.Errorf("%s is not in methods", name)
			}
			if (c.class == classStream) != (m.IsClientStream || m.IsServerStream) {
				t.Errorf("%s has class %d", name, c.class)
			}
		}
	}
	for name := range methods {
		if !known[name] {
			t.Errorf("methods has %s, which no service has", name)
		}
	}
}
