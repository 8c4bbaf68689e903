package eventlog

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"duet/internal/base/durable"
	"duet/schemas"
)

const fileFormat = 1

// incarnationFile is incarnation.json: the identity of the log.
type incarnationFile struct {
	Format  int    `json:"format"`
	Project string `json:"project"`
	schemas.Incarnation
	// Continues is set if the log was begun in place of a lost one.
	Continues *continues `json:"continues,omitempty"`
}

// continues has the positions of a schemas.Adoption.
type continues struct {
	After   schemas.Position `json:"after"`
	GivenUp schemas.Position `json:"given_up"`
}

// adoption returns nil for a project's first log.
func (f *incarnationFile) adoption() *schemas.Adoption {
	if f.Continues == nil {
		return nil
	}
	return &schemas.Adoption{Incarnation: f.Incarnation, Continues: f.Continues.After, GivenUp: f.Continues.GivenUp}
}

// highFile is highwater.json: a message that the log must still hold.
type highFile struct {
	Format      int    `json:"format"`
	Incarnation string `json:"incarnation"`
	Ordinal     uint32 `json:"ordinal"`
	Sequence    uint64 `json:"sequence"`
	Sum         string `json:"sum"`
}

func incarnationPath(dir string) string { return filepath.Join(dir, "incarnation.json") }
func highPath(dir string) string        { return filepath.Join(dir, "highwater.json") }
func storePath(dir string) string       { return filepath.Join(dir, "jetstream") }

// blocksPath returns the folder of the server's block files.
func blocksPath(dir string) string { return blocksOf(storePath(dir)) }

func blocksOf(store string) string {
	return filepath.Join(store, "jetstream", "$G", "streams", streamName, "msgs")
}

// readSealed reads a sealed JSON file. found is false if it does not exist. A file
// that exists and cannot be read is an error.
func readSealed(path string, format *int, into any) (found bool, err error) {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err := durable.ReadSealed(path, into); err != nil {
		return false, fmt.Errorf("%w. Restore it from a copy", err)
	}
	if *format != fileFormat {
		return false, fmt.Errorf("%s has format %d, this version of duet reads %d: use the version of duet that wrote it", path, *format, fileFormat)
	}
	return true, nil
}

func readIncarnation(dir string) (*incarnationFile, error) {
	f := new(incarnationFile)
	found, err := readSealed(incarnationPath(dir), &f.Format, f)
	if err != nil || !found {
		return nil, err
	}
	return f, nil
}

func readHigh(dir string) (*highFile, error) {
	f := new(highFile)
	found, err := readSealed(highPath(dir), &f.Format, f)
	if err != nil || !found {
		return nil, err
	}
	return f, nil
}

// writeSealed replaces a sealed JSON file. After a power cut the file is the old
// one or the new one.
func writeSealed(path string, v any) error {
	b, err := durable.Seal(v)
	if err != nil {
		return err
	}
	return durable.OS.WriteFile(path, b)
}

// checkFolder returns a *RefusedError if the log's files were deleted, moved or
// replaced since Open.
func (l *Log) checkFolder() error {
	path := incarnationPath(l.cfg.Dir)
	now, err := os.Stat(path)
	found := ""
	switch {
	case errors.Is(err, fs.ErrNotExist):
		found = "no file " + path
	case err == nil && !os.SameFile(now, l.folder):
		found = "another file " + path
	case err == nil:
		path = blocksPath(l.cfg.Dir)
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			found = "no folder " + path
		}
	}
	if found == "" {
		return nil
	}
	return &RefusedError{Kind: ErrMissing, Dir: l.cfg.Dir, Found: found, Expected: "the one that was opened at start",
		Remedy: "The folder was deleted, moved or replaced while the server used it. Put it back as it was. " + remedyCopy}
}

// sweep deletes the temporary files of an interrupted writeSealed.
func sweep(dir string) error {
	names, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var old []string
	for _, n := range names {
		if n.Type().IsRegular() && durable.IsTemp(n.Name()) {
			old = append(old, filepath.Join(dir, n.Name()))
		}
	}
	return durable.OS.Remove(old...)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
