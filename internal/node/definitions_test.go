package node

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// startError starts a node that must refuse, and returns why.
func startError(t *testing.T, data string, files map[string]string, change ...func(*Config)) string {
	t.Helper()
	cfg := Config{Project: folder(files), Data: data, GRPC: "127.0.0.1:0", HTTP: "127.0.0.1:0", Version: "test"}
	for _, f := range change {
		f(&cfg)
	}
	n, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Stop(t.Context())
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-n.Failed():
		return err.Error()
	case <-time.After(30 * time.Second):
		t.Fatal("it did not refuse")
		return ""
	}
}

// The log says how events were read even if the file that says so is gone, or
// is of an older copy of the folder.
func TestDefinitionsComeBackFromTheLog(t *testing.T) {
	data := t.TempDir()
	path := filepath.Join(data, "definitions", "current.json")
	r := start(t, data, shop)
	r.check(100, r.add(1, 100))
	r.stop()
	older, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	more := maps.Clone(shop)
	more["streams/visits.yaml"] = "columns:\n  shop: VARCHAR\n  n: INTEGER\n"
	r = start(t, data, more)
	r.check(100, "")
	r.stop()
	newer, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	other := maps.Clone(more)
	other["streams/sales.yaml"] = strings.Replace(shop["streams/sales.yaml"], "price: DECIMAL(18,4) NOT NULL", `price: {type: "DECIMAL(18,4) NOT NULL", from: id}`, 1)
	for name, damage := range map[string]func() error{
		"gone":  func() error { return os.Remove(path) },
		"older": func() error { return os.WriteFile(path, older, 0o600) },
	} {
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		if got := startError(t, data, other); !strings.Contains(got, "price") {
			t.Errorf("%s: %s", name, got)
		}
		if got := startError(t, data, shop); !strings.Contains(got, "visits.yaml: the stream is gone") {
			t.Errorf("%s: %s", name, got)
		}
		r = start(t, data, more)
		r.check(100, "")
		r.stop()
		if got, err := os.ReadFile(path); err != nil || string(got) != string(newer) {
			t.Errorf("%s: the file is %q, %v", name, got, err)
		}
	}
}

// A stream that reads its archived events otherwise is refused with the lines
// that differ, before recovery meets columns that are not there.
func TestARenamedColumnIsRefusedByItsLine(t *testing.T) {
	data := t.TempDir()
	named := maps.Clone(shop)
	named["streams/sales.yaml"] += "id: [shop, price]\n"
	r := start(t, data, named)
	r.add(1, 100)
	r.published(r.run(false), 1)
	r.stop()
	other := maps.Clone(named)
	for name, text := range other {
		other[name] = strings.ReplaceAll(text, "price", "cost")
	}
	if got := startError(t, data, other); !strings.Contains(got, "streams/sales.yaml") || !strings.Contains(got, "Put these lines back") {
		t.Fatal(got)
	}
}
