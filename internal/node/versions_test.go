package node

import (
	"bytes"
	"encoding/binary"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/zeebo/xxh3"
)

// Another version of the decoder, and of the engine.
func anotherDecoder(c *Config) { c.versions = currentVersions; c.versions.Event++ }
func anotherEngine(c *Config)  { c.versions = currentVersions; c.versions.Engine = "v9.9.9" }
func otherZones(c *Config)     { c.versions = currentVersions; c.versions.Zones = "other" }
func redecode(c *Config)       { c.Redecode = true }

// logOf collects what a node logs.
type logOf struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logOf) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logOf) use(c *Config) { c.Log = slog.New(slog.NewTextHandler(l, nil)) }

func (l *logOf) lines(word string) (lines []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.b.String()) {
		if strings.Contains(line, word) {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

// drained starts a node that archives its log, and waits until it has.
func drained(t *testing.T, data string, files map[string]string) {
	t.Helper()
	n, err := New(Config{Project: folder(files), Data: data, GRPC: "127.0.0.1:0", HTTP: "127.0.0.1:0", Version: "test", Drain: true})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Stop(t.Context())
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	select {
	case <-n.Drained():
	case err := <-n.Failed():
		t.Fatal(err)
	case <-time.After(30 * time.Second):
		t.Fatal("not drained within 30 s")
	}
	if n.Ready() {
		t.Fatal("a node that drains lets calls through")
	}
}

// H11: a version with another decoder or other zones does not decode events that were
// served before and are not archived. The version that served them archives them, and
// then it starts.
func TestAnotherDecoderRefusesEventsThatAreNotArchived(t *testing.T) {
	for name, other := range map[string]func(*Config){"decoder": anotherDecoder, "zones": otherZones} {
		t.Run(name, func(t *testing.T) {
			data := t.TempDir()
			r := start(t, data, shop)
			r.check(100, r.add(1, 100))
			r.end()
			if got := startError(t, data, shop, other); !strings.Contains(got, "duet up --drain") || !strings.Contains(got, "duet up --redecode") {
				t.Fatal(got)
			}
			r = start(t, data, shop, anotherEngine) // events are not decoded by the engine
			r.check(100, "")
			r.end()
			drained(t, data, shop)
			drained(t, data, shop) // nothing is left
			r = start(t, data, shop, other)
			r.check(100, "")
			r.check(200, r.add(101, 200))
			r.end()
			if got := startError(t, data, shop); !strings.Contains(got, "duet up --drain") {
				t.Fatal(got)
			}
		})
	}
}

// A regular stop archives what was served, so that an upgrade needs no flag.
func TestAStopArchivesWhatWasServed(t *testing.T) {
	data := t.TempDir()
	r := start(t, data, shop)
	r.check(100, r.add(1, 100))
	r.stop()
	r = start(t, data, shop, anotherDecoder)
	r.check(100, "")
	last := r.lane.log.Last()
	r.stop()
	r = start(t, data, shop, anotherDecoder)
	defer r.end()
	if got := r.lane.log.Last(); got != last {
		t.Fatalf("a stop without new events moved the log from %s to %s", last, got)
	}
}

// --redecode decodes the events again and reports the messages whose verdicts or values
// differ from those that were served, and those of which that is not known.
func TestRedecodeReportsWhatChanges(t *testing.T) {
	data := t.TempDir()
	r := start(t, data, shop)
	r.check(100, r.add(1, 100))
	r.add(101, 101)
	r.check(102, r.add(102, 102))
	r.end()

	// The other version had accepted 98 events of the first message, rejected two, and
	// decoded other values in the second. What it decided of the third is lost.
	path := filepath.Join(data, "verdicts.log")
	b, err := os.ReadFile(path)
	if err != nil || len(b) != 3*verdictBytes {
		t.Fatalf("%d bytes: %v", len(b), err)
	}
	b[8], b[16] = 98, 2
	b[verdictBytes+20]++
	for _, at := range []int{0, verdictBytes} {
		binary.LittleEndian.PutUint32(b[at+28:], uint32(xxh3.Hash(b[at:at+28])))
	}
	b[2*verdictBytes]++
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	var log logOf
	r = start(t, data, shop, anotherDecoder, redecode, log.use)
	r.check(102, "")
	r.end()
	changes := log.lines("verdicts or values have changed")
	if len(changes) != 2 || !strings.Contains(changes[0], `stream=sales accepted="100, was 98" duplicate=0 rejected="0, was 2"`) || !strings.Contains(changes[1], "accepted=1 duplicate=0 rejected=0") {
		t.Fatalf("the report is %q", changes)
	}
	if sum := log.lines("redecoded the events"); len(sum) != 1 || !strings.Contains(sum[0], "messages=3 changed=2 not_known_before=1") {
		t.Fatalf("the report ends with %q", sum)
	}

	// The version is in force now, so the next start needs no flag and reports nothing.
	log = logOf{}
	r = start(t, data, shop, anotherDecoder, log.use)
	r.check(102, "")
	r.end()
	if lines := log.lines("redecoded"); len(lines) > 0 {
		t.Fatal(lines)
	}
}

// A report that was interrupted is made by the next start.
func TestAnInterruptedRedecodeIsReportedLater(t *testing.T) {
	data := t.TempDir()
	r := start(t, data, shop)
	r.check(10, r.add(1, 10))
	r.end()
	if err := os.Rename(filepath.Join(data, "verdicts.log"), filepath.Join(data, "verdicts.old")); err != nil {
		t.Fatal(err)
	}
	var log logOf
	r = start(t, data, shop, log.use)
	r.end()
	if sum := log.lines("redecoded the events"); len(sum) != 1 || !strings.Contains(sum[0], "messages=1 changed=0 not_known_before=0") {
		t.Fatalf("the report ends with %q", sum)
	}
}
