package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"duet/internal/client"
	"duet/schemas/project"
	"duet/schemas/project/scaffold"
)

type initCommand struct {
	Dir  string `arg:"" help:"Folder to create; it must be empty or not exist."`
	From string `help:"Sample file to take the columns from: CSV, NDJSON or Parquet, also .gz and .zst." placeholder:"FILE"`
}

// Run writes a project that passes duet check and runs unedited.
func (i *initCommand) Run(t *terminal) error {
	entries, err := os.ReadDir(i.Dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return usageError("%v", err)
	case len(entries) > 0:
		return usageError("%s is not empty (it holds %s): name a new folder", i.Dir, entries[0].Name())
	}
	name, open := project.SnakeName(filepath.Base(i.Dir), "shop"), (func() (io.ReadCloser, error))(nil)
	if i.From != "" {
		if info, err := os.Stat(i.From); err == nil && info.IsDir() {
			return usageError("--from %s is a folder: name a file", i.From)
		}
		name, open = i.From, func() (io.ReadCloser, error) { return os.Open(i.From) }
	}
	files, notes, err := scaffold.Scaffold(name, open)
	if err != nil {
		return fileError(&client.FileError{Err: err})
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		path := filepath.Join(i.Dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return usageError("%v", err)
		}
		if err := os.WriteFile(path, []byte(files[name]), 0o644); err != nil {
			return usageError("%v", err)
		}
		fmt.Fprintln(t.out, "wrote "+path)
	}
	for _, note := range notes {
		fmt.Fprintln(t.err, "note: "+printable(note))
	}
	duet := program()
	fmt.Fprintf(t.out, "\nNext:\n  %s check --project %s\n  %s up --project %s\n", duet, i.Dir, duet, i.Dir)
	if i.From != "" {
		fmt.Fprintf(t.out, "  %s ingest --stream %s %s\n", duet, streamOf(files), i.From)
	}
	return nil
}

// streamOf returns the name of a scaffold's one stream.
func streamOf(files map[string]string) string {
	for name := range files {
		if base, ok := strings.CutPrefix(name, "streams/"); ok {
			return strings.TrimSuffix(base, ".yaml")
		}
	}
	return "NAME"
}

// program returns the name or path by which the user started this binary.
func program() string {
	if strings.ContainsRune(os.Args[0], filepath.Separator) {
		return os.Args[0]
	}
	return "duet"
}
