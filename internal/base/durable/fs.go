package durable

import (
	"io"
	"os"
)

// FS has the operations of a file system that change it. Reads go to the
// operating system directly. The default is [System]; package durabletest has one
// that replays operations with a power cut, and one whose n-th operation fails.
type FS interface {
	// Create creates a file that must not exist.
	Create(path string) (File, error)
	// Open opens an existing file to read and sync it.
	Open(path string) (File, error)
	// Link gives a file a second name that must not exist.
	Link(oldpath, newpath string) error
	// Rename moves a file over whatever has the new name.
	Rename(oldpath, newpath string) error
	// Remove deletes a file or an empty directory.
	Remove(path string) error
	// Mkdir creates a directory whose parent exists.
	Mkdir(path string) error
	// SyncDir makes the entries of a directory durable.
	SyncDir(path string) error
}

// File is an open file.
type File interface {
	io.Reader
	io.Writer
	// Sync makes the file's bytes durable. After it has failed once, the file's
	// content on disk is unknown: a later Sync that succeeds proves nothing.
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
