package durabletest

import (
	"sync"

	"duet/internal/base/durable"
)

// Faulty is a file system whose operations fail with the errors that Fail
// returns: ENOSPC for a full disk, EIO for a bad one. A failing write leaves half
// of its bytes. Safe for concurrent use.
type Faulty struct {
	Inner durable.FS
	// Fail returns the error of one operation: create, open, write, sync, link,
	// rename, remove, mkdir or syncdir. It is not called concurrently.
	Fail func(op, path string) error

	mu sync.Mutex
}

func (f *Faulty) check(op, path string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.Fail(op, path)
}

// Create implements [durable.FS].
func (f *Faulty) Create(path string) (durable.File, error) {
	if err := f.check("create", path); err != nil {
		return nil, err
	}
	file, err := f.Inner.Create(path)
	if err != nil {
		return nil, err
	}
	return &faultyFile{File: file, f: f, path: path}, nil
}

// Open implements [durable.FS].
func (f *Faulty) Open(path string) (durable.File, error) {
	if err := f.check("open", path); err != nil {
		return nil, err
	}
	file, err := f.Inner.Open(path)
	if err != nil {
		return nil, err
	}
	return &faultyFile{File: file, f: f, path: path}, nil
}

// Link implements [durable.FS].
func (f *Faulty) Link(oldpath, newpath string) error {
	if err := f.check("link", newpath); err != nil {
		return err
	}
	return f.Inner.Link(oldpath, newpath)
}

// Rename implements [durable.FS].
func (f *Faulty) Rename(oldpath, newpath string) error {
	if err := f.check("rename", newpath); err != nil {
		return err
	}
	return f.Inner.Rename(oldpath, newpath)
}

// Remove implements [durable.FS].
func (f *Faulty) Remove(path string) error {
	if err := f.check("remove", path); err != nil {
		return err
	}
	return f.Inner.Remove(path)
}

// Mkdir implements [durable.FS].
func (f *Faulty) Mkdir(path string) error {
	if err := f.check("mkdir", path); err != nil {
		return err
	}
	return f.Inner.Mkdir(path)
}

// SyncDir implements [durable.FS].
func (f *Faulty) SyncDir(path string) error {
	if err := f.check("syncdir", path); err != nil {
		return err
	}
	return f.Inner.SyncDir(path)
}

// faultyFile is a file whose writes and syncs can fail.
type faultyFile struct {
	durable.File
	f    *Faulty
	path string
}

func (f *faultyFile) Write(p []byte) (int, error) {
	if err := f.f.check("write", f.path); err != nil {
		n, _ := f.File.Write(p[:len(p)/2])
		return n, err
	}
	return f.File.Write(p)
}

func (f *faultyFile) Sync() error {
	if err := f.f.check("sync", f.path); err != nil {
		return err
	}
	return f.File.Sync()
}
