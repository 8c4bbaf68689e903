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

// fpCleaning is the step between taking a number and the first deletion.
var fpCleaning = failpoint.New("archive.cleaning")

// manyManifests is how many old manifests are worth a number: cleaning makes one
// more manifest itself.
const manyManifests = 16

// CleanOnce deletes what nobody needs: data files that no current, kept or held
// manifest names, old manifests, and files left in the making. It returns how
// many files it deleted.
//
// It lists first, then takes a number, then deletes from the list only. A file
// on the list that no manifest names belongs to a writer that had not published
// when the number was taken: another process, whose publishing is fenced by that
// number; or this one, whose files in the making are known and left alone.
func (a *Archive) CleanOnce(ctx context.Context) (int, error) {
	rubbish, err := a.rubbish()
	if err != nil || len(rubbish) == 0 {
		return 0, err
	}
	if err := a.publish(Clean, func(*Manifest) error { return nil }); err != nil {
		return 0, err
	}
	if err := fpCleaning.Hit(); err != nil {
		return 0, err
	}
	named := a.namedFiles() // what was published or held since the listing stays
	deleted := 0
	for _, rel := range rubbish {
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
		delete(a.checked, rel)
		a.mu.Unlock()
		deleted++
	}
	return deleted, nil
}

// rubbish lists, by path below Dir, the files that may go. Manifests come first:
// none may name a file that is gone.
func (a *Archive) rubbish() ([]string, error) {
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
	// Looked at in this order: a file that was listed is in the making, or then
	// named, or rubbish. The other way round it could be missed in both.
	a.mu.Lock()
	writing := maps.Clone(a.writing)
	a.mu.Unlock()
	named := a.namedFiles()
	data = slices.DeleteFunc(data, func(rel string) bool { return writing[rel] || named[rel] })
	return slices.Concat(old, data), err
}

// oldManifests lists the manifest files before those that are kept, unless a
// reader holds them; none while they are few.
func (a *Archive) oldManifests() ([]string, error) {
	numbers, err := a.series.Numbers()
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	var old []string
	for _, n := range numbers {
		if n+uint64(a.cfg.KeepManifests) < a.current.Number && a.held[n] == 0 {
			old = append(old, "manifest/"+filepath.Base(a.series.Path(n)))
		}
	}
	if len(old) < manyManifests {
		return nil, nil
	}
	return old, nil
}
