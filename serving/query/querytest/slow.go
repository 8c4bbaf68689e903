package querytest

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"duet/schemas/duetv1"
)

// Stuck replaces the cells of a view in generation 1 by a pipe, and returns a
// query that reads them. Like a statement that DuckDB does not interrupt, or a
// disk that does not answer, it runs until release is called, whatever its
// context says. The test releases it at its end.
func (f *Fixture) Stuck(view string) (req *duetv1.QueryRequest, release func()) {
	f.t.Helper()
	g, err := f.Catalog.Get(1)
	f.must(err)
	path := f.Catalog.Path(*g.View(view))
	f.must(os.Remove(path))
	f.must(syscall.Mkfifo(path, 0o600))
	release = sync.OnceFunc(func() {
		writer, err := os.OpenFile(path, os.O_WRONLY|syscall.O_NONBLOCK, 0)
		empty := filepath.Join(f.t.TempDir(), "empty")
		f.must(os.WriteFile(empty, nil, 0o600))
		f.must(os.Rename(empty, path))
		if !errors.Is(err, syscall.ENXIO) { // nobody reads
			f.must(err)
			f.must(writer.Close())
		}
	})
	f.t.Cleanup(release)
	return &duetv1.QueryRequest{View: view, AsOfGeneration: 1}, release
}
