package durable

import (
	"io"
	"os"
)

// FS is the part of a file system that changes things. The operating system's
// is the default; durabletest has one that records what was done, replays it
// with a power cut, and one whose n-th operation fails. Reading needs no seam:
// it goes to the operating system directly.
type FS interface {
	// Create makes a file that must not exist.
	Create(path string) (File, error)
	// Open opens an existing file to read and sync it.
	Open(path string) (File, error)
	// Link gives a file a second name that must not exist.
	Link(oldpath, newpath string) error
	// Rename moves a file over whatever has the new name.
	Rename(oldpath, newpath string) error
	// Remove deletes a file or an empty directory.
	Remove(path string) error
	// Mkdir makes a directory whose parent exists.
	Mkdir(path string) error
	// SyncDir makes a directory's entries durable.
	SyncDir(path string) error
}

// File is an open file.
type File interface {
	io.Reader
	io.Writer
	// Sync makes the file's bytes durable. After it has failed once, the file's
	// content is unknown: a second Sync that succeeds proves nothing.
	Sync() error
	Close() error
}

// System is the operating system's file system.
var System FS = system{}

type system struct{}

func (system) Create(path string) (File, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
}

func (system) Open(path string) (File, error)       { return os.Open(path) }
func (system) Link(oldpath, newpath string) error   { return os.Link(oldpath, newpath) }
func (system) Rename(oldpath, newpath string) error { return os.Rename(oldpath, newpath) }
func (system) Remove(path string) error             { return os.Remove(path) }
func (system) Mkdir(path string) error              { return os.Mkdir(path, 0o755) }

func (system) SyncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
