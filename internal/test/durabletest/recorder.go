// Package durabletest provides two file systems for tests of durable files: one
// that loses power ([Recorder]) and one whose operations fail ([Faulty]).
package durabletest

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"duet/internal/base/durable"
)

// Recorder performs every operation on the real file system under one root and
// records it, so that [Recorder.Crash] can write what a power cut after any
// operation would have left. Files of other writers (DuckDB) enter the trace when
// they are opened to be synced; before that they do not survive a cut.
//
// It is stricter than a real file system: an entry is certain to survive only if
// its own directory was synced, and of the unsynced ones any subset may survive.
type Recorder struct {
	root  string
	inner durable.FS

	mu    sync.Mutex
	ops   []op
	names map[string]int // current path -> inode, as the running process sees it
	next  int
}

// op is one entry of the trace.
type op struct {
	kind  string // create, write, sync, link, rename, remove, mkdir, syncdir
	path  string
	to    string // of link and rename
	inode int
	data  []byte // of write: the added bytes; of sync: the whole content
}

// NewRecorder returns a Recorder of the operations under root, done by inner.
func NewRecorder(root string, inner durable.FS) *Recorder {
	return &Recorder{root: filepath.Clean(root), inner: inner, names: map[string]int{}}
}

// Len returns the number of operations so far, the largest n for Crash.
func (r *Recorder) Len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.ops)
}

// Trace returns the operations, one a line.
func (r *Recorder) Trace() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var b strings.Builder
	for i, o := range r.ops {
		fmt.Fprintf(&b, "%d %s %s %s (%d bytes)\n", i, o.kind, r.rel(o.path), r.rel(o.to), len(o.data))
	}
	return b.String()
}

func (r *Recorder) rel(p string) string { return strings.TrimPrefix(p, r.root+"/") }

func (r *Recorder) add(o op) { r.ops = append(r.ops, o) }

// Create implements [durable.FS].
func (r *Recorder) Create(path string) (durable.File, error) {
	f, err := r.inner.Create(path)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	id := r.newInode(path)
	return &file{File: f, r: r, inode: id, path: path}, nil
}

func (r *Recorder) newInode(path string) int {
	r.next++
	r.names[path] = r.next
	r.add(op{kind: "create", path: path, inode: r.next})
	return r.next
}

// Open implements [durable.FS].
func (r *Recorder) Open(path string) (durable.File, error) {
	f, err := r.inner.Open(path)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	id, ok := r.names[path]
	if !ok {
		id = r.newInode(path)
	}
	return &file{File: f, r: r, inode: id, path: path}, nil
}

// Link implements [durable.FS].
func (r *Recorder) Link(oldpath, newpath string) error {
	return r.entry("link", oldpath, newpath, r.inner.Link(oldpath, newpath))
}

// Rename implements [durable.FS].
func (r *Recorder) Rename(oldpath, newpath string) error {
	return r.entry("rename", oldpath, newpath, r.inner.Rename(oldpath, newpath))
}

// Remove implements [durable.FS].
func (r *Recorder) Remove(path string) error {
	return r.entry("remove", path, "", r.inner.Remove(path))
}

// Mkdir implements [durable.FS].
func (r *Recorder) Mkdir(path string) error {
	return r.entry("mkdir", path, "", r.inner.Mkdir(path))
}

// SyncDir implements [durable.FS].
func (r *Recorder) SyncDir(path string) error {
	return r.entry("syncdir", path, "", r.inner.SyncDir(path))
}

// entry records an operation on directory entries that returned err.
func (r *Recorder) entry(kind, path, to string, err error) error {
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	id, ok := r.names[path]
	if !ok && (kind == "link" || kind == "rename") {
		id = r.newInode(path) // a file of another writer, never synced
	}
	switch kind {
	case "link":
		r.names[to] = id
	case "rename":
		delete(r.names, path)
		r.names[to] = id
	case "remove":
		delete(r.names, path)
	}
	r.add(op{kind: kind, path: path, to: to, inode: id})
	return nil
}

// file is an open file whose writes and syncs are recorded.
type file struct {
	durable.File
	r     *Recorder
	inode int
	path  string
}

func (f *file) Write(p []byte) (int, error) {
	n, err := f.File.Write(p)
	f.r.mu.Lock()
	defer f.r.mu.Unlock()
	f.r.add(op{kind: "write", path: f.path, inode: f.inode, data: bytes.Clone(p[:n])})
	return n, err
}

func (f *file) Sync() error {
	if err := f.File.Sync(); err != nil {
		return err
	}
	data, err := os.ReadFile(f.path)
	if err != nil {
		return err
	}
	f.r.mu.Lock()
	defer f.r.mu.Unlock()
	f.r.add(op{kind: "sync", path: f.path, inode: f.inode, data: data})
	return nil
}

// inode is the content of a file in the replay.
type inode struct {
	synced, current []byte
	everSynced      bool
}

// change is one change of a directory. A rename within it is one change.
type change struct {
	del, add string
	inode    int // -1 for a directory
}

// directory has the synced entries and the changes since, in order.
type directory struct {
	entries map[string]int
	pending []change
}

// replay is the state of the disk after the first operations.
type replay struct {
	inodes map[int]*inode
	dirs   map[string]*directory
}

func (p *replay) dir(path string) *directory {
	d := p.dirs[path]
	if d == nil {
		d = &directory{entries: map[string]int{}}
		p.dirs[path] = d
	}
	return d
}

func (p *replay) inode(id int) *inode {
	n := p.inodes[id]
	if n == nil {
		n = &inode{}
		p.inodes[id] = n
	}
	return n
}

// Crash writes to dst, an empty directory, what the disk would hold if power
// failed after the first n operations: everything synced, and each unsynced
// change with probability keep (0, 0.5, 1). The root itself exists.
func (r *Recorder) Crash(dst string, n int, keep float64, seed uint64) error {
	r.mu.Lock()
	ops := slices.Clone(r.ops[:n])
	r.mu.Unlock()
	p := &replay{inodes: map[int]*inode{}, dirs: map[string]*directory{}}
	for _, o := range ops {
		p.apply(o)
	}
	rng := rand.New(rand.NewPCG(seed, uint64(n)))
	return p.write(r.root, dst, keep, rng)
}

// apply replays one operation of the trace.
func (p *replay) apply(o op) {
	dir, base := filepath.Split(o.path)
	dir = filepath.Clean(dir)
	switch o.kind {
	case "create":
		p.dir(dir).pending = append(p.dir(dir).pending, change{add: base, inode: o.inode})
	case "mkdir":
		p.dir(dir).pending = append(p.dir(dir).pending, change{add: base, inode: -1})
	case "remove":
		p.dir(dir).pending = append(p.dir(dir).pending, change{del: base})
	case "write":
		i := p.inode(o.inode)
		i.current = append(i.current, o.data...)
	case "sync":
		i := p.inode(o.inode)
		i.current, i.synced, i.everSynced = o.data, o.data, true
	case "link", "rename":
		toDir, toBase := filepath.Split(o.to)
		toDir = filepath.Clean(toDir)
		c := change{add: toBase, inode: o.inode}
		if o.kind == "rename" && toDir == dir {
			c.del = base
		} else if o.kind == "rename" {
			p.dir(dir).pending = append(p.dir(dir).pending, change{del: base})
		}
		p.dir(toDir).pending = append(p.dir(toDir).pending, c)
	case "syncdir":
		d := p.dir(filepath.Clean(o.path))
		for _, c := range d.pending {
			c.do(d.entries)
		}
		d.pending = nil
	}
}

func (c change) do(entries map[string]int) {
	if c.del != "" {
		delete(entries, c.del)
	}
	if c.add != "" {
		entries[c.add] = c.inode
	}
}

// write puts the surviving files of directory from into to.
func (p *replay) write(from, to string, keep float64, rng *rand.Rand) error {
	d := p.dir(from)
	entries := maps.Clone(d.entries)
	for _, c := range d.pending {
		if rng.Float64() < keep {
			c.do(entries)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(entries)) {
		id, path := entries[name], filepath.Join(to, name)
		if id == -1 {
			if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
			if err := p.write(filepath.Join(from, name), path, keep, rng); err != nil {
				return err
			}
			continue
		}
		if err := os.WriteFile(path, p.inode(id).survives(keep, rng), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// survives returns the content of a file after the cut: the synced bytes, or of
// the unsynced ones all, a part, or zeros in their place.
func (i *inode) survives(keep float64, rng *rand.Rand) []byte {
	if i.everSynced && bytes.Equal(i.synced, i.current) {
		return i.synced
	}
	if rng.Float64() < keep {
		if keep == 1 {
			return i.current
		}
		switch rng.IntN(3) {
		case 0:
			return i.current
		case 1:
			return i.current[:rng.IntN(len(i.current)+1)]
		default:
			return make([]byte, len(i.current))
		}
	}
	return i.synced
}
