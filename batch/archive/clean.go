package archive

import (
	"context"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"duet/internal/base/failpoint"
)

// fpCleaning is the failpoint between publishing a number and the first deletion.
var fpCleaning = failpoint.New("archive.cleaning")

// manyManifests is the number of old manifests that make cleaning worthwhile:
// cleaning publishes one more manifest itself.
const manyManifests = 16

// CleanOnce deletes orphans, data files that neither the current manifest nor a
// kept or held one names, and old manifests. It returns the number of deleted
// files.
//
// It lists first, then publishes a number, then deletes from the list only. An
// orphan on the list belongs to a writer that had not published before that
// number: either another process, which the number fences, or this one, whose
// unpublished files are in a.writing and are left alone.
func (a *Archive) CleanOnce(ctx context.Context) (int, error) {
	orphans, err := a.orphans()
	if err != nil || len(orphans) == 0 {
		return 0, err
	}
	if err := a.publish(Clean, func(*Manifest, *record) error { return nil }); err != nil {
		return 0, err
	}
	if err := fpCleaning.Hit(); err != nil {
		return 0, err
	}
	named := a.namedFiles() // again: files may have been published since the listing
	deleted := 0
	for _, rel := range orphans {
		if named[rel] {
			continue
		}
		if ctx.Err() != nil {
			return deleted, context.Cause(ctx)
		}
		if err := a.files.Remove(a.path(rel)); err != nil {
			return deleted, err
		}
		a.mu.Lock()
		delete(a.verified, rel)
		a.mu.Unlock()
		deleted++
	}
	return deleted, nil
}

// orphans lists the files to delete, by path below Dir. Old manifests come first,
// so that no manifest names a deleted file.
func (a *Archive) orphans() ([]string, error) {
	old, err := a.oldManifests()
	if err != nil {
		return nil, err
	}
	var data []string
	err = filepath.WalkDir(a.cfg.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			if d != nil && d.IsDir() && (path == filepath.Join(a.cfg.Dir, "tmp") || path == filepath.Join(a.cfg.Dir, "manifest")) {
				return filepath.SkipDir
			}
			return err
		}
		rel, err := filepath.Rel(a.cfg.Dir, path)
		rel = filepath.ToSlash(rel)
		if err == nil && strings.HasSuffix(rel, ".parquet") {
			data = append(data, rel)
		}
		return err
	})
	// Copy writing before reading the named files: a file moves from the first to
	// the second, and in the opposite order it could be missed in both.
	a.mu.Lock()
	writing := maps.Clone(a.writing)
	a.mu.Unlock()
	named := a.namedFiles()
	data = slices.DeleteFunc(data, func(rel string) bool { return writing[rel] || named[rel] })
	return slices.Concat(old, data), err
}

// oldManifests lists the manifest files that neither the current manifest nor a
// kept or held one is read from; none while they are fewer than manyManifests.
func (a *Archive) oldManifests() ([]string, error) {
	numbers, err := a.series.Numbers()
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.dropUnkept()
	oldest := a.current.base
	for _, m := range a.kept {
		oldest = min(oldest, m.base)
	}
	var old []string
	for _, n := range numbers {
		if n < oldest {
			old = append(old, "manifest/"+filepath.Base(a.series.Path(n)))
		}
	}
	if len(old) < manyManifests {
		return nil, nil
	}
	return old, nil
}
