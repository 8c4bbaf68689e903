// Package durable is the one place that knows what makes a file survive a
// power cut. It has no opinion about what the files hold.
//
// # Rules
//
// A file is durable when its bytes are synced and the entry that names it is
// synced in its directory, in this order; so every way to bring a file in is
// "write under another name, sync, name it, sync the directory":
//
//   - [Files.WriteFile] replaces a small file: old or new content, never torn.
//   - [Files.Adopt] brings in a file that somebody else wrote (DuckDB does not
//     sync what COPY writes): reads it back, checksums it, syncs it, links it.
//   - [Files.Publish] brings in a file whose name must be new: link(2) decides
//     between two writers, and the loser gets [ErrExists].
//   - [Series] is a directory of numbered files, the highest being current.
//
// Nothing here overwrites, except WriteFile, which says so. A sync that failed
// is never tried again on the same file (the kernel may have dropped the
// pages): the file is removed, and the caller starts over. A directory's sync may
// be repeated: its entries are journalled, and a journal that cannot be written
// stops the file system.
//
// # Names
//
// [Name] draws 128 random bits; no name comes from a clock, where two in one
// second would overwrite each other. A name that holds ".tmp-" is a file in the
// making: whoever owns the directory may delete it at start ([IsTemp]).
//
// # Sealed files
//
// [Seal] wraps a JSON document with the checksum of its exact bytes:
//
//	{"xxh3_128":"<32 hex digits>","content":
//	<the document, indented>
//	}
//
// so it can be read by people and by jq, and a flipped bit is seen. [Unseal] and
// [ReadSealed] refuse with a [*DamageError] that names the file.
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

// ErrExists says that the name is taken: another writer came first.
var ErrExists = errors.New("exists already")

// The steps at which a test may end the process or fail the disk.
var (
	fpWrite   = failpoint.New("durable.write")   // before the bytes are written
	fpSync    = failpoint.New("durable.sync")    // written, not synced
	fpLink    = failpoint.New("durable.link")    // synced, without its name
	fpRename  = failpoint.New("durable.rename")  // synced, without its name
	fpSyncDir = failpoint.New("durable.syncdir") // named, the name not synced
	fpRemove  = failpoint.New("durable.remove")  // before a file is deleted
	fpMkdir   = failpoint.New("durable.mkdir")   // before a directory is made
)

// tempMark is part of the name of every file in the making.
const tempMark = ".tmp-"

// OS writes to the operating system's file system.
var OS = New(System)

// Files does durable operations on a file system. Safe for concurrent use; two
// writers of one name are told apart by Adopt and Publish only.
type Files struct {
	fs FS
}

// New returns the operations on fs.
func New(fs FS) *Files { return &Files{fs: fs} }

// Sum is a file's size and checksum.
type Sum struct {
	Bytes int64  `json:"bytes"`
	XXH3  string `json:"xxh3_128"` // 32 hex digits
}

// Name draws a name that nobody else has: 128 random bits as 26 letters and digits.
func Name() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(b[:]))
}

// TempName is a name beside path for a file in the making.
func TempName(path string) string { return path + tempMark + Name() }

// IsTemp reports whether a file of that name was left in the making.
func IsTemp(name string) bool { return strings.Contains(filepath.Base(name), tempMark) }

// WriteFile makes path hold data, replacing what it held. A reader sees the old
// or the new content; when it returns nil, the new one is durable.
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

// Publish makes a file with a name that must be new; [ErrExists] says that
// another writer published it first, whatever it holds. Any other error leaves
// the outcome open: the name may exist, so look before doing anything else.
func (f *Files) Publish(path string, data []byte) error {
	tmp, err := f.writeTemp(path, data)
	if err != nil {
		return err
	}
	defer f.drop(tmp)
	return f.link(tmp, path)
}

// Adopt brings in tmp, a complete file that somebody else wrote and closed,
// under the name final, which must be new, in a directory that exists. It
// returns what the file holds as read back. On an error tmp stays where it is.
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

// SyncFile makes the bytes of a file durable, not its name, and checksums them.
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

// Remove deletes files and syncs each directory once. A file that is gone
// already is no error.
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

// RemoveAll deletes a directory with all that it holds, and syncs its parent.
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

// RemoveTemps deletes the files in the making in dir whose name begins with
// prefix ("" means all), which a process that was killed left there. Only the
// owner of the files may call it, before it writes.
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

// MkdirAll makes dir and its missing parents, durably.
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

// writeTemp writes data, synced, under a new name beside path.
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

// link names a synced file, exclusively, and syncs the name.
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

// drop deletes a file in the making. What cannot be deleted now is found by its
// name later, so an error changes nothing.
func (f *Files) drop(tmp string) { _ = f.fs.Remove(tmp) }

// SumFile checksums a file.
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

// SumBytes checksums data.
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
