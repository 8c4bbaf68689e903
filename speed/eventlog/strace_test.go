package eventlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// The kill tests cannot see a missing sync: the page cache outlives a process.
// So H8 is tested against the system calls of a child process that appends: at
// each acknowledgement, what would be left after a power cut must hold the
// record. Only bytes that were synced count, in files whose names were synced.

const (
	tracedLimit     = smallBlocks
	tracedProducers = 4
	tracedRequests  = 35 // of each producer, with two records
)

// childTraced has producers append through an Appender. Each acknowledgement is a
// line "producer number" in the file acks.
func childTraced(l *Log, dir string) int {
	acks, err := os.Create(filepath.Join(dir, "acks"))
	if err != nil {
		fmt.Println("error", err)
		return 1
	}
	a := NewAppender(l, nil)
	var wg sync.WaitGroup
	for p := range tracedProducers {
		wg.Go(func() {
			name := "p" + strconv.Itoa(p)
			for n := uint64(1); n < 2*tracedRequests; n += 2 {
				r := Request{Stream: "orders", Producer: name, Number: n, Records: [][]byte{tracedRecord(name, n), tracedRecord(name, n+1)}}
				_, err := a.Append(context.Background(), r)
				if err == nil {
					_, err = fmt.Fprintln(acks, name, n+1)
				}
				if err != nil {
					fmt.Println("error", err)
					return
				}
			}
		})
	}
	wg.Wait()
	return 0 // without closing anything, as after a kill
}

func tracedRecord(producer string, number uint64) []byte {
	return append(fmt.Appendf(nil, "<%s-%d>", producer, number), bytes.Repeat([]byte{'x'}, 250)...)
}

// trace runs the child under strace and returns its system calls.
func trace(t *testing.T, mode, dir string) []syscallEvent {
	t.Helper()
	strace, err := exec.LookPath("strace")
	if err != nil && os.Getenv("CI") == "true" {
		t.Fatal("strace is not installed: install it (apt-get install strace); CI must prove that an acknowledgement means a sync")
	}
	if err != nil {
		t.Skip("strace is not installed, so it is not tested that an acknowledgement means a sync: install it with apt-get install strace")
	}
	exe, err := os.Executable()
	must(t, err)
	out := filepath.Join(t.TempDir(), "trace")
	cmd := exec.Command(strace, "-f", "-qq", "-xx", "-s", "10000000", "-e", "signal=none", "-e", "trace="+strings.Join(tracedCalls, ","), "-o", out, exe, "-test.run=^$")
	cmd.Env = append(os.Environ(), childEnv+"="+mode+" "+dir)
	if b, err := cmd.CombinedOutput(); err != nil || bytes.Contains(b, []byte("error")) {
		t.Fatalf("strace of the child: %v\n%s", err, b)
	}
	text, err := os.ReadFile(out)
	must(t, err)
	return parseTrace(t, string(text))
}

var tracedCalls = []string{
	"openat", "close", "write", "pwrite64", "lseek", "ftruncate", "fsync", "fdatasync", "renameat", "unlinkat", "mkdirat", "fcntl",
	// Not known to the replayer; used on a file of the log, they fail the test.
	"open", "creat", "dup", "dup2", "dup3", "writev", "pwritev", "pwritev2", "truncate", "rename", "renameat2", "unlink", "rmdir", "mkdir", "link", "linkat",
	"copy_file_range", "sendfile", "splice", "fallocate", "sync", "syncfs", "sync_file_range", "msync",
}

// A syscallEvent is the start or the end of a system call. A call that no other
// interrupted is a start followed by its end.
type syscallEvent struct {
	end  bool
	id   int // of the call
	name string
	args []string // strings are decoded
	ret  int64    // at the end
}

var (
	callRE    = regexp.MustCompile(`^(\d+) +(\w+)\((.*)$`)
	resumedRE = regexp.MustCompile(`^(\d+) +<\.\.\. (\w+) resumed>(.*)$`)
	returnRE  = regexp.MustCompile(`^(.*)\) += (-?\d+)`)
	argRE     = regexp.MustCompile(`"(?:\\x[0-9a-f]{2})*"|[^,\s"][^,"]*`)
)

func parseTrace(t *testing.T, text string) (events []syscallEvent) {
	t.Helper()
	open := map[string]syscallEvent{} // interrupted calls, by thread
	for id, line := range strings.Split(text, "\n") {
		var e syscallEvent
		thread, rest := "", ""
		if m := callRE.FindStringSubmatch(line); m != nil {
			thread, rest = m[1], m[3]
			before, _, unfinished := strings.Cut(rest, "<unfinished ...>")
			e = syscallEvent{id: id, name: m[2]}
			args := before
			if r := returnRE.FindStringSubmatch(rest); !unfinished && r != nil {
				args = r[1]
			}
			for _, a := range argRE.FindAllString(args, -1) {
				e.args = append(e.args, decodeArg(t, strings.TrimSpace(a)))
			}
			events = append(events, e)
			if unfinished {
				open[thread] = e
				continue
			}
		} else if m := resumedRE.FindStringSubmatch(line); m != nil {
			thread, rest = m[1], m[3]
			if e = open[thread]; e.name != m[2] {
				t.Fatalf("trace, line %d: %q resumes %q", id+1, m[2], e.name)
			}
			delete(open, thread)
		} else {
			continue // the end of a thread
		}
		r := returnRE.FindStringSubmatch(rest)
		if r == nil {
			continue // the process ended during the call
		}
		e.end = true
		e.ret, _ = strconv.ParseInt(r[2], 10, 64)
		events = append(events, e)
	}
	return events
}

func decodeArg(t *testing.T, arg string) string {
	t.Helper()
	if !strings.HasPrefix(arg, `"`) {
		return arg
	}
	s, err := strconv.Unquote(arg)
	must(t, err)
	return s
}

// replay is the state of a folder while its system calls are replayed, with what
// a power cut would leave of it.
type replay struct {
	t     *testing.T
	root  string
	names map[string]*traced // by path, below root
	fds   map[string]*openFile
	// snapshots are what unfinished syncs will make durable, by call.
	snapshots map[int]func()
	acks      []string // lines written to root/acks
}

// traced is a file or folder.
type traced struct {
	folder  bool
	content []byte
	synced  []byte             // content that was synced
	durable map[string]*traced // of a folder: entries that were synced
}

type openFile struct {
	file     *traced
	path     string
	offset   int64
	appended bool // O_APPEND
	sync     bool // O_SYNC: a write that has returned is synced
}

func newReplay(t *testing.T, root string) *replay {
	return &replay{t: t, root: root, names: map[string]*traced{root: {folder: true}}, fds: map[string]*openFile{}, snapshots: map[int]func(){}}
}

func (r *replay) below(path string) bool {
	return path == r.root || strings.HasPrefix(path, r.root+"/")
}

// path resolves the path that a call names relative to a folder.
func (r *replay) path(at, name string) string {
	if f := r.fds[at]; f != nil && !filepath.IsAbs(name) {
		return filepath.Join(f.path, name)
	}
	return filepath.Clean(name)
}

// apply replays one event. It returns true at the start of an acknowledgement.
func (r *replay) apply(e syscallEvent) (ack bool) {
	if !e.end {
		return r.start(e)
	}
	if e.ret < 0 {
		return false
	}
	f := r.fds[e.args[0]]
	switch e.name {
	case "openat":
		r.open(e)
	case "write":
		if f != nil {
			at := f.offset
			if f.appended {
				at = int64(len(f.file.content))
			}
			r.write(f, e.args[1][:e.ret], at)
			f.offset = at + e.ret
		}
	case "pwrite64":
		if f != nil {
			at, err := strconv.ParseInt(e.args[3], 10, 64)
			must(r.t, err)
			r.write(f, e.args[1][:e.ret], at)
		}
	case "lseek":
		if f != nil {
			f.offset = e.ret
		}
	case "ftruncate":
		if f != nil {
			size, err := strconv.Atoi(e.args[1])
			must(r.t, err)
			f.file.content = append(slices.Clone(f.file.content), make([]byte, max(0, size-len(f.file.content)))...)[:size]
		}
	case "fsync", "fdatasync":
		if done := r.snapshots[e.id]; done != nil {
			done()
		}
	case "mkdirat":
		if p := r.path(e.args[0], e.args[1]); r.below(p) {
			r.names[p] = &traced{folder: true}
		}
	case "unlinkat":
		delete(r.names, r.path(e.args[0], e.args[1]))
	case "renameat":
		from, to := r.path(e.args[0], e.args[1]), r.path(e.args[2], e.args[3])
		if f := r.names[from]; f != nil {
			if f.folder {
				r.t.Fatalf("the replayer cannot rename folder %s", from)
			}
			delete(r.names, from)
			r.names[to] = f
		}
	}
	return false
}

// start handles what counts from the start of a call.
func (r *replay) start(e syscallEvent) (ack bool) {
	if len(e.args) == 0 {
		return false
	}
	f := r.fds[e.args[0]]
	switch e.name {
	case "close":
		delete(r.fds, e.args[0]) // another thread may be given the number before this call returns
	case "write":
		if f != nil && f.path == filepath.Join(r.root, "acks") {
			r.acks = append(r.acks, strings.TrimSpace(e.args[1]))
			return true
		}
	case "fsync", "fdatasync": // it covers what was written before it
		if f != nil && f.file.folder {
			entries := r.entries(f.path)
			r.snapshots[e.id] = func() { f.file.durable = entries }
		} else if f != nil {
			content := f.file.content // replaced, not changed, by write
			r.snapshots[e.id] = func() { f.file.synced = content }
		}
	case "openat", "pwrite64", "lseek", "ftruncate", "renameat", "unlinkat", "mkdirat", "fcntl":
	default:
		if f != nil || slices.ContainsFunc(e.args, r.below) {
			r.t.Fatalf("the replayer does not know %s%q", e.name, e.args)
		}
	}
	return false
}

func (r *replay) open(e syscallEvent) {
	p, flags := r.path(e.args[0], e.args[1]), e.args[2]
	if !r.below(p) {
		return
	}
	file := r.names[p]
	if file == nil {
		file = &traced{}
		r.names[p] = file
	}
	if strings.Contains(flags, "O_TRUNC") {
		file.content = nil
	}
	r.fds[strconv.FormatInt(e.ret, 10)] = &openFile{file: file, path: p, appended: strings.Contains(flags, "O_APPEND"), sync: strings.Contains(flags, "O_SYNC") || strings.Contains(flags, "O_DSYNC")}
}

func (r *replay) write(f *openFile, b string, at int64) {
	content := slices.Clone(f.file.content)
	if n := int(at) + len(b); n > len(content) {
		content = append(content, make([]byte, n-len(content))...)
	}
	copy(content[at:], b)
	f.file.content = content
	if f.sync {
		f.file.synced = content
	}
}

func (r *replay) entries(folder string) map[string]*traced {
	entries := map[string]*traced{}
	for p, f := range r.names {
		if filepath.Dir(p) == folder && p != folder {
			entries[filepath.Base(p)] = f
		}
	}
	return entries
}

// durable calls f for each file and folder that a power cut would leave, folders
// before what is in them.
func (r *replay) durable(f func(path string, file *traced)) {
	var walk func(path string, folder *traced)
	walk = func(path string, folder *traced) {
		for _, name := range slices.Sorted(maps.Keys(folder.durable)) {
			p, file := filepath.Join(path, name), folder.durable[name]
			f(p, file)
			if file.folder {
				walk(p, file)
			}
		}
	}
	walk("", r.names[r.root])
}

// checkAck returns an error if the records of the latest acknowledgement could be
// lost in a power cut.
func (r *replay) checkAck() error {
	var name string
	var through uint64
	ack := r.acks[len(r.acks)-1]
	if _, err := fmt.Sscan(ack, &name, &through); err != nil {
		return fmt.Errorf("acknowledgement %q: %w", ack, err)
	}
	for n := through - 1; n <= through; n++ {
		found, record := false, tracedRecord(name, n)
		r.durable(func(path string, f *traced) {
			found = found || strings.HasSuffix(path, ".blk") && bytes.Contains(f.synced, record)
		})
		if !found {
			return fmt.Errorf("%s %d was acknowledged, and is not synced in a file whose name is synced", name, n)
		}
	}
	return nil
}

// image writes what a power cut would leave now to a new folder.
func (r *replay) image() string {
	dir := r.t.TempDir()
	r.durable(func(path string, f *traced) {
		if f.folder {
			must(r.t, os.Mkdir(filepath.Join(dir, path), 0o700))
		} else {
			must(r.t, os.WriteFile(filepath.Join(dir, path), f.synced, 0o600))
		}
	})
	return dir
}

func TestAnAcknowledgedRecordIsSynced(t *testing.T) {
	dir := t.TempDir()
	events := trace(t, "traced", dir)
	if n := len(blockFiles(t, dir)); n < 3 {
		t.Fatalf("%d block files: the trace does not cross into new ones", n)
	}
	r, first := newReplay(t, dir), 0
	for i, e := range events {
		if r.apply(e) {
			must(t, r.checkAck())
			if first == 0 {
				first = i
			}
		}
	}
	if want := tracedProducers * tracedRequests; len(r.acks) != want {
		t.Fatalf("%d acknowledgements in the trace, want %d", len(r.acks), want)
	}

	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	for range 20 {
		cut := first + rng.IntN(len(events)-first)
		r := newReplay(t, dir)
		for _, e := range events[:cut+1] {
			r.apply(e)
		}
		checkImage(t, fmt.Sprintf("seed %d, cut after event %d of %d", seed, cut, len(events)), r)
	}
}

// checkImage opens what a power cut would leave and checks that it holds all that
// was acknowledged, each number once and in order.
func checkImage(t *testing.T, what string, r *replay) {
	t.Helper()
	l, err := Open(context.Background(), Config{Dir: r.image(), Project: "shop", MaxBytes: tracedLimit, Logger: quiet()})
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	defer l.Close()
	last := map[string]uint64{}
	if err := eachRecord(l, func(producer string, number uint64, record []byte) {
		if number != last[producer]+1 || !bytes.Equal(record, tracedRecord(producer, number)) {
			t.Fatalf("%s: %s %d follows %d", what, producer, number, last[producer])
		}
		last[producer] = number
	}); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	for _, ack := range r.acks {
		var name string
		var n uint64
		if _, err := fmt.Sscan(ack, &name, &n); err != nil || last[name] < n {
			t.Fatalf("%s: %s was acknowledged, the log ends at %d (%v)", what, ack, last[name], err)
		}
	}
}

// The proof must be able to fail: without the server's sync, records are
// acknowledged that a power cut would take.
func TestAnUnsyncedAcknowledgementIsNoticed(t *testing.T) {
	dir := t.TempDir()
	r := newReplay(t, dir)
	var found error
	for _, e := range trace(t, "traced-lazily", dir) {
		if r.apply(e) {
			found = errors.Join(found, r.checkAck())
		}
	}
	if found == nil {
		t.Fatal("the server does not sync, and every acknowledged record is synced")
	}
}
