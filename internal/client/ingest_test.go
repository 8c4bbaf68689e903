package client_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"duet/internal/client"
	"duet/schemas/duetv1"
	"duet/schemas/project"
)

const ordersYAML = `event_time: sold_at
columns:
  invoice:  VARCHAR NOT NULL
  price:    DECIMAL(18,2) NOT NULL
  sold_at:  {type: TIMESTAMP NOT NULL, from: InvoiceDate}
`

func orders(t *testing.T) *project.Stream {
	t.Helper()
	p, faults := project.FromFiles(map[string]string{"streams/orders.yaml": ordersYAML})
	if p == nil {
		t.Fatal(faults)
	}
	return p.Stream("orders")
}

// platform is a server that counts each line of a file once, by its identity.
type platform struct {
	duetv1.UnimplementedIngestServiceServer
	duetv1.UnimplementedOperateServiceServer
	mu       sync.Mutex
	lines    map[string]bool // chunk and digest
	accounts map[string]*duetv1.Account
	asked    int
	places   []string // of each request: the file's name and line numbers
	breaks   int      // every n-th request breaks its stream; 0 means none
}

func newPlatform() *platform {
	return &platform{lines: map[string]bool{}, accounts: map[string]*duetv1.Account{}}
}

func (p *platform) AppendStream(stream grpc.BidiStreamingServer[duetv1.AppendStreamRequest, duetv1.AppendStreamResponse]) error {
	for {
		request, err := stream.Recv()
		if err != nil {
			return nil
		}
		if err := p.take(request.GetAppend()); err != nil {
			return err
		}
		if err := stream.Send(&duetv1.AppendStreamResponse{Appended: &duetv1.AppendResponse{Token: "t"}}); err != nil {
			return err
		}
	}
}

func (p *platform) take(r *duetv1.AppendRequest) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	lines := bytes.Split(bytes.TrimSuffix(r.GetJsonLines(), []byte("\n")), []byte("\n"))
	if len(lines) != len(r.GetFile().GetDigests()) {
		return status.Errorf(codes.InvalidArgument, "%d lines with %d digests", len(lines), len(r.GetFile().GetDigests()))
	}
	p.places = append(p.places, fmt.Sprintf("%s%v", r.GetFile().GetName(), r.GetFile().GetLines()))
	a := p.accounts[r.GetSession()]
	if a == nil {
		a = &duetv1.Account{}
		p.accounts[r.GetSession()] = a
	}
	for _, digest := range r.GetFile().GetDigests() {
		a.Received++
		id := fmt.Sprintf("%x/%x", r.GetFile().GetChunk(), digest)
		if p.lines[id] {
			a.Duplicate++
			continue
		}
		p.lines[id] = true
		a.Accepted++
	}
	if p.asked++; p.breaks > 0 && p.asked%p.breaks == 0 {
		return status.Error(codes.Unavailable, "a moment please")
	}
	return nil
}

func (p *platform) GetAccount(_ context.Context, r *duetv1.GetAccountRequest) (*duetv1.GetAccountResponse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r.GetNotBefore() != "t" {
		return nil, status.Errorf(codes.InvalidArgument, "token %q", r.GetNotBefore())
	}
	return &duetv1.GetAccountResponse{Account: p.accounts[r.GetSession()]}, nil
}

func (p *platform) GetStatus(_ context.Context, r *duetv1.GetStatusRequest) (*duetv1.GetStatusResponse, error) {
	s := &duetv1.StreamStatus{Name: "orders", File: "streams/orders.yaml"}
	if r.GetDefinitions() {
		s.Definition = ordersYAML
	}
	return &duetv1.GetStatusResponse{Streams: []*duetv1.StreamStatus{s}}, nil
}

func connect(t *testing.T, p *platform) *client.Client {
	return serve(t, func(s *grpc.Server) {
		duetv1.RegisterIngestServiceServer(s, p)
		duetv1.RegisterOperateServiceServer(s, p)
	})
}

// csvFile writes a file of n order lines.
func csvFile(t *testing.T, name string, n int, row func(i int) string) string {
	t.Helper()
	var b strings.Builder
	b.WriteString("invoice,price,InvoiceDate\n")
	for i := range n {
		b.WriteString(row(i) + "\n")
	}
	content := []byte(b.String())
	if strings.HasSuffix(name, ".gz") {
		var z bytes.Buffer
		w := gzip.NewWriter(&z)
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		content = z.Bytes()
	}
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func goodRow(i int) string { return fmt.Sprintf("A%d,%d.50,2026-01-02 03:04:05", i, i) }

func TestIngestTwiceAddsNothing(t *testing.T) {
	p := newPlatform()
	p.breaks = 3
	c := connect(t, p)
	file, again := csvFile(t, "orders.csv", 5000, goodRow), csvFile(t, "renamed.csv.gz", 5000, goodRow)
	grown := csvFile(t, "grown.csv", 5300, goodRow)
	for i, step := range []struct {
		file            string
		lines, accepted int64
	}{{file, 5000, 5000}, {file, 5000, 0}, {again, 5000, 0}, {grown, 5300, 300}} {
		progress := client.IngestProgress{}
		done, err := c.IngestFiles(t.Context(), client.IngestConfig{
			Stream: orders(t), Files: []string{step.file}, Retry: fastRetry,
			Progress: func(p client.IngestProgress) { progress = p },
		})
		if err != nil {
			t.Fatal(err)
		}
		a := done.Account
		if done.Lines != step.lines || a.Accepted != step.accepted || !a.Balanced() || done.Partial || a.Received < step.lines {
			t.Errorf("step %d: %+v", i, done)
		}
		if progress.Lines != step.lines || progress.Done != 1 || progress.File != step.file {
			t.Errorf("step %d: the last progress was %+v", i, progress)
		}
	}
}

func TestIngestOfSeveralFilesAndStdin(t *testing.T) {
	c := connect(t, newPlatform())
	a, b := csvFile(t, "a.csv", 10, goodRow), csvFile(t, "b.csv", 20, func(i int) string { return goodRow(i + 100) })
	stdin := strings.NewReader(`{"invoice":"Z","price":"1.00","InvoiceDate":"2026-01-01"}` + "\n")
	done, err := c.IngestFiles(t.Context(), client.IngestConfig{Stream: orders(t), Files: []string{a, "-", b}, Stdin: stdin, Retry: fastRetry})
	if err != nil || done.Account.Accepted != 31 {
		t.Errorf("%+v, %v", done, err)
	}
	if _, err := c.IngestFiles(t.Context(), client.IngestConfig{Stream: orders(t), Files: []string{a, a}, Retry: fastRetry}); err == nil {
		t.Error("a file named twice was taken")
	}
}

// TestIngestSendsFileNamesAndLines checks that each record carries the line where
// it begins: a record of two lines, and an empty line, shift those after them.
func TestIngestSendsFileNamesAndLines(t *testing.T) {
	p := newPlatform()
	c := connect(t, p)
	rows := []string{"A1,1.50,2026-01-02", "\"A\n2\",1.50,2026-01-02", "", "A3,1.50,2026-01-02"}
	file := csvFile(t, "orders.csv", len(rows), func(i int) string { return rows[i] })
	stdin := strings.NewReader(`{"invoice":"Z","price":"1.00","InvoiceDate":"2026-01-01"}` + "\n")
	if _, err := c.IngestFiles(t.Context(), client.IngestConfig{Stream: orders(t), Files: []string{file, "-"}, Stdin: stdin, Retry: fastRetry}); err != nil {
		t.Fatal(err)
	}
	want := []string{file + "[2 3 6]", "stdin[1]"}
	if !slices.Equal(p.places, want) {
		t.Errorf("got %q, want %q", p.places, want)
	}
}

func TestIngestOfAnEmptyFile(t *testing.T) {
	c := connect(t, newPlatform())
	done, err := c.IngestFiles(t.Context(), client.IngestConfig{Stream: orders(t), Files: []string{csvFile(t, "a.csv", 0, goodRow)}, Retry: fastRetry})
	if err != nil || done.Lines != 0 {
		t.Errorf("%+v, %v", done, err)
	}
}

// TestAWrongDefinitionSendsNothing checks that the error says what to write, and
// that nothing was sent, not even a good file named before the bad one.
func TestAWrongDefinitionSendsNothing(t *testing.T) {
	for name, c := range map[string]struct {
		rows int
		row  string
		want []string
	}{
		"time format": {1500, "A1,1.50,12/21/2010 8:26", []string{
			":2: sold_at: ", `"12/21/2010 8:26"`, "None of the first 1,000 lines can be read; nothing was sent.",
			`In streams/orders.yaml:5 write: sold_at: {type: TIMESTAMP NOT NULL, from: InvoiceDate, format: "%m/%d/%Y %H:%M"}`}},
		"european dates": {3, "A1,1.50,21.12.2010", []string{"None of the 3 lines can be read", `format: "%d.%m.%Y"}`}},
		"either order": {3, "A1,1.50,01/12/2010 8:26", []string{"None of the 3 lines can be read", "Day-first and month-first both match, and no value that was read distinguishes them. In streams/orders.yaml:5 write, if the day is first: sold_at: {",
			`format: "%d/%m/%Y %H:%M"}; if the month is first: sold_at: {type: TIMESTAMP NOT NULL, from: InvoiceDate, format: "%m/%d/%Y %H:%M"}`}},
		"more decimals": {2, "A1,1.505,2026-01-01", []string{"price: ", "In streams/orders.yaml:4 write: price: DECIMAL(19,3) NOT NULL"}},
		"no number":     {1, "A1,cheap,2026-01-01", []string{"It is the only line", "write: price: VARCHAR NOT NULL"}},
		"nothing helps": {1, "A1,1.50,someday", []string{"nothing was sent. Add --dry-run to see how each line is read"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlatform()
			conn := connect(t, p)
			good := csvFile(t, "good.csv", 10, goodRow)
			bad := csvFile(t, "bad.csv", c.rows, func(int) string { return c.row })
			_, err := conn.IngestFiles(t.Context(), client.IngestConfig{Stream: orders(t), Files: []string{good, bad}, Retry: fastRetry})
			var refused *client.AllRejectedError
			if !errors.As(err, &refused) {
				t.Fatal(err)
			}
			for _, want := range append(c.want, bad) {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v\nlacks %s", err, want)
				}
			}
			if p.asked != 0 {
				t.Errorf("%d requests were sent", p.asked)
			}
		})
	}
}

// TestSomeBadLinesAreSent checks that a file with some good lines is sent whole.
func TestSomeBadLinesAreSent(t *testing.T) {
	p := newPlatform()
	c := connect(t, p)
	file := csvFile(t, "mixed.csv", 1200, func(i int) string {
		if i%2 == 0 {
			return "broken"
		}
		return goodRow(i)
	})
	done, err := c.IngestFiles(t.Context(), client.IngestConfig{Stream: orders(t), Files: []string{file}, Retry: fastRetry})
	if err != nil || done.Lines != 1200 || len(p.lines) != 1200 {
		t.Errorf("%+v, %v; %d lines", done, err, len(p.lines))
	}
}

func TestStreamDefinitionComesFromTheServer(t *testing.T) {
	c := connect(t, newPlatform())
	s, err := c.StreamDefinition(t.Context(), "orders", fastRetry)
	if err != nil || len(s.Columns) != 3 || s.Columns[2].From != "InvoiceDate" || s.File != "streams/orders.yaml" {
		t.Errorf("%+v, %v", s, err)
	}
	_, err = c.StreamDefinition(t.Context(), "order", fastRetry)
	if status.Code(err) != codes.NotFound || !strings.Contains(err.Error(), "did you mean orders?") {
		t.Errorf("%v", err)
	}
}
