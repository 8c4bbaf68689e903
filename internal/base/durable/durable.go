// Package durable writes files that survive a power cut. It knows nothing of
// what they contain.
//
// # Rules
//
// A file is durable when its bytes are synced and then its directory entry is
// synced. Every function that creates a file therefore writes it under a
// temporary name, syncs it, gives it its name, and syncs the directory:
//
//   - [Files.WriteFile] replaces a small file: old or new content, never torn.
//   - [Files.Adopt] names a file that another writer made (DuckDB does not sync
//     what COPY writes): it reads the file back, checksums, syncs and links it.
//   - [Files.Publish] creates a file whose name must be new: link(2) decides
//     between two writers, and the loser gets [ErrExists].
//   - [Series] is a directory of numbered files, of which the highest is current.
//
// Only WriteFile overwrites. After a failed sync the file is removed and never
// synced again, because the kernel may have dropped the dirty pages; the caller
// starts over. A directory's sync may be repeated: its entries are journalled,
// and a journal that cannot be written stops the file system.
//
// # Names
//
// [Name] draws 128 random bits. No name comes from a clock, where two files of
// one second would overwrite each other. A name that contains ".tmp-" is an
// unfinished file; the directory's owner may delete it at start ([IsTemp]).
//
// # Sealed files
//
// [Seal] wraps a JSON document with the checksum of its exact bytes:
//
//	{"xxh3_128":"<32 hex digits>","content":
//	<the document, indented>
//	}
//
// People and jq can read it, and a flipped bit is detected: [Unseal] and
// [ReadSealed] fail with a [*DamageError] that names the file.
package durable

import (
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/zeebo/xxh3"

	"duet/internal/base/failpoint"
)

// ErrExists reports that the name is taken: another writer was first.
var ErrExists = errors.New("exists already")

// The failpoints of every durable operation.
var (
	fpWrite   = failpoint.New("durable.write")   // before the bytes are written
	fpSync    = failpoint.New("durable.sync")    // written, not synced
	fpLink    = failpoint.New("durable.link")    // synced, without its name
	fpRename  = failpoint.New("durable.rename")  // synced, without its name
	fpSyncDir = failpoint.New("durable.syncdir") // named, the name not synced
	fpRemove  = failpoint.New("durable.remove")  // before a file is deleted
	fpMkdir   = failpoint.New("durable.mkdir")   // before a directory is made
)

// tempMark is part of the name of every unfinished file.
const tempMark = ".tmp-"

// OS operates on the operating system's file system.
var OS = New(System)

// Files performs durable operations on a file system. Safe for concurrent use.
// Of two writers of one name, only Adopt and Publish fail the second.
type Files struct {
	fs FS
}

// New returns a Files that operates on fs.
func New(fs FS) *Files { return &Files{fs: fs} }

// Sum is a file's size and checksum.
type Sum struct {
	Bytes int64  `json:"bytes"`
	XXH3  string `json:"xxh3_128"` // 32 hex digits
}

// Name returns a unique name: 128 random bits as 26 lower-case letters and digits.
func Name() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(b[:]))
}

// TempName returns a name for an unfinished file, in the directory of path.
func TempName(path string) string { return path + tempMark + Name() }

// IsTemp reports whether the name is that of an unfinished file.
func IsTemp(name string) bool { return strings.Contains(filepath.Base(name), tempMark) }

// WriteFile replaces the content of path with data. A reader sees the old or the
// new content; when WriteFile returns nil, the new one is durable.
func (f *Files) WriteFile(path string, data []byte) error {
	tmp, err := f.writeTemp(path, data)
	if err != nil {
		return err
	}
	if err = fpRename.Hit(); err == nil {
		err = f.fs.Rename(tmp, path)
	}
	if err != nil {
		f.drop(tmp)
		return fmt.Errorf("write %s: %w", path, err)
	}
	return f.syncDirOf(path)
}

// Publish creates a file whose name must be new. It returns [ErrExists] if
// another writer has created it, whatever its content. After any other error the
// file may exist or not: the caller must look before it goes on.
func (f *Files) Publish(path string, data []byte) error {
	tmp, err := f.writeTemp(path, data)
	if err != nil {
		return err
	}
	defer f.drop(tmp)
	return f.link(tmp, path)
}

// Adopt makes tmp, a complete and closed file of another writer, durable under
// the name final, which must be new, in a directory that exists. It returns the
// checksum of the file as read back. After an error tmp still exists.
func (f *Files) Adopt(tmp, final string) (Sum, error) {
	sum, err := f.SyncFile(tmp)
	if err != nil {
		return Sum{}, err
	}
	if err := f.link(tmp, final); err != nil {
		return Sum{}, err
	}
	f.drop(tmp)
	return sum, nil
}

// SyncFile makes the bytes of a file durable, but not its name, and returns their
// checksum.
func (f *Files) SyncFile(path string) (Sum, error) {
	file, err := f.fs.Open(path)
	if err != nil {
		return Sum{}, fmt.Errorf("sync: %w", err)
	}
	defer file.Close()
	sum, err := sumOf(file)
	if err == nil {
		err = fpSync.Hit()
	}
	if err == nil {
		err = file.Sync()
	}
	if err != nil {
		return Sum{}, fmt.Errorf("sync %s: %w", path, err)
	}
	return sum, nil
}

// Remove deletes files and syncs each directory once. It ignores files that do
// not exist.
func (f *Files) Remove(paths ...string) error {
	dirs := map[string]bool{}
	for _, p := range paths {
		if err := fpRemove.Hit(); err != nil {
			return fmt.Errorf("remove %s: %w", p, err)
		}
		if err := f.fs.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		dirs[filepath.Dir(p)] = true
	}
	for d := range dirs {
		if err := f.syncDir(d); err != nil {
			return err
		}
	}
	return nil
}

// RemoveAll deletes a directory with its content, and syncs its parent.
func (f *Files) RemoveAll(dir string) error {
	var paths []string
	err := filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		paths = append(paths, p)
		return err
	})
	if err != nil || len(paths) == 0 {
		return err
	}
	for i := len(paths) - 1; i >= 0; i-- { // children before parents
		if err := fpRemove.Hit(); err != nil {
			return fmt.Errorf("remove %s: %w", paths[i], err)
		}
		if err := f.fs.Remove(paths[i]); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return f.syncDir(filepath.Dir(dir))
}

// RemoveTemps deletes the unfinished files in dir whose name begins with prefix
// ("" means all), left by a killed process. Only the directory's owner may call
// it, before it writes.
func (f *Files) RemoveTemps(dir, prefix string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var temps []string
	for _, e := range entries {
		if IsTemp(e.Name()) && strings.HasPrefix(e.Name(), prefix) {
			temps = append(temps, filepath.Join(dir, e.Name()))
		}
	}
	return f.Remove(temps...)
}

// MkdirAll creates dir and its missing parents, durably.
func (f *Files) MkdirAll(dir string) error {
	if st, err := os.Stat(dir); err == nil {
		if !st.IsDir() {
			return fmt.Errorf("%s is not a directory", dir)
		}
		return nil
	}
	parent := filepath.Dir(dir)
	if parent != dir {
		if err := f.MkdirAll(parent); err != nil {
			return err
		}
	}
	if err := fpMkdir.Hit(); err != nil {
		return fmt.Errorf("mkdir %s: %w", dir, err)
	}
	if err := f.fs.Mkdir(dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return f.syncDir(parent)
}

// writeTemp writes and syncs data under a new name in the directory of path.
func (f *Files) writeTemp(path string, data []byte) (string, error) {
	tmp := TempName(path)
	file, err := f.fs.Create(tmp)
	if err != nil {
		return "", fmt.Errorf("write %s: %w", path, err)
	}
	if err = fpWrite.Hit(); err == nil {
		_, err = file.Write(data)
	}
	if err == nil {
		err = fpSync.Hit()
	}
	if err == nil {
		err = file.Sync()
	}
	if cerr := file.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		f.drop(tmp)
		return "", fmt.Errorf("write %s: %w", path, err)
	}
	return tmp, nil
}

// link gives a synced file a name that must be new, and syncs the directory.
func (f *Files) link(tmp, path string) error {
	err := fpLink.Hit()
	if err == nil {
		err = f.fs.Link(tmp, path)
	}
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s: %w", path, ErrExists)
	}
	if err != nil {
		return fmt.Errorf("publish %s: %w", path, err)
	}
	return f.syncDirOf(path)
}

func (f *Files) syncDirOf(path string) error { return f.syncDir(filepath.Dir(path)) }

func (f *Files) syncDir(dir string) error {
	err := fpSyncDir.Hit()
	if err == nil {
		err = f.fs.SyncDir(dir)
	}
	if err != nil {
		return fmt.Errorf("sync directory %s: %w", dir, err)
	}
	return nil
}

// drop deletes an unfinished file. It ignores an error: RemoveTemps deletes the
// file later.
func (f *Files) drop(tmp string) { _ = f.fs.Remove(tmp) }

// SumFile returns the checksum of a file.
func SumFile(path string) (Sum, error) {
	file, err := os.Open(path)
	if err != nil {
		return Sum{}, err
	}
	defer file.Close()
	sum, err := sumOf(file)
	if err != nil {
		return Sum{}, fmt.Errorf("read %s: %w", path, err)
	}
	return sum, nil
}

// SumBytes returns the checksum of data.
func SumBytes(data []byte) Sum {
	h := xxh3.Hash128(data).Bytes()
	return Sum{Bytes: int64(len(data)), XXH3: fmt.Sprintf("%x", h)}
}

func sumOf(r io.Reader) (Sum, error) {
	h := xxh3.New()
	n, err := io.CopyBuffer(h, struct{ io.Reader }{r}, make([]byte, 1<<18))
	if err != nil {
		return Sum{}, err
	}
	b := h.Sum128().Bytes()
	return Sum{Bytes: n, XXH3: fmt.Sprintf("%x", b)}, nil
}
