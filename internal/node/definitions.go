package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"duet/internal/base/durable"
	"duet/schemas"
	"duet/schemas/project"
	"duet/speed/eventlog"
)

// definitionsKind is the control record that puts a project's folder in force:
// what stands before it in the log is read by the definitions before it (H11).
const definitionsKind = "definitions"

// definitionsFile is the control record's body, and with At the file
// definitions/current.json, which stays when the log has been trimmed.
type definitionsFile struct {
	Format int               `json:"format"`
	At     schemas.Position  `json:"at,omitempty"` // of the control record; 0 inside it
	Files  map[string]string `json:"files"`        // text by slash-separated path
	// Versions are those of the executable that put them in force.
	Versions versions `json:"versions"`
}

func definitionsPath(d *dataDir) string {
	return filepath.Join(d.sub("definitions"), "current.json")
}

// inForce reads the definitions last put in force; nil if there are none yet.
// The log's last record of them decides while the log holds one: the file may
// be gone, or of an older copy of the folder.
func inForce(ctx context.Context, d *dataDir, l *eventlog.Log) (*project.Project, *definitionsFile, error) {
	var f definitionsFile
	path := definitionsPath(d)
	_, err := os.Stat(path)
	missing := errors.Is(err, fs.ErrNotExist)
	if !missing {
		if err := durable.ReadSealed(path, &f); err != nil {
			return nil, nil, fmt.Errorf("definitions in force: %w", err)
		}
	}
	record, logged, err := l.LastControl(ctx, definitionsKind)
	switch {
	case err != nil:
		return nil, nil, fmt.Errorf("definitions in force: %w", err)
	case logged && record.At > f.At:
		f = definitionsFile{}
		if err := json.Unmarshal(record.Data, &f); err != nil {
			return nil, nil, fmt.Errorf("definitions in force: message %s of the log: %w", record.At, err)
		}
	case missing && (l.First().Sequence() > 1 || l.Continues() != 0):
		return nil, nil, fmt.Errorf("%s is missing, and the log no longer holds what it says: how events were read is not known. Restore it from a copy (H6)", path)
	case missing:
		return nil, nil, nil
	}
	if f.Format != 1 {
		return nil, nil, fmt.Errorf("%s has format %d, this version of duet reads 1: use the version that wrote it", path, f.Format)
	}
	p, faults := project.FromFiles(f.Files)
	if p == nil || faults.Fatal() {
		return nil, nil, fmt.Errorf("%s: the definitions in force no longer load: %w", path, faults)
	}
	if f.At == 0 { // as the log has them
		f.At = record.At
		err = keepInForce(d, f)
	}
	return p, &f, err
}

// keepInForce writes the file.
func keepInForce(d *dataDir, f definitionsFile) error {
	sealed, err := durable.Seal(f)
	if err != nil {
		return err
	}
	if err := durable.OS.MkdirAll(d.sub("definitions")); err != nil {
		return err
	}
	return durable.OS.WriteFile(definitionsPath(d), sealed)
}

// differs reports whether the project is another one than the one in force.
// Events are read by the same columns for ever, so a stream that differs from
// what its events were decoded by is refused, with the lines that differ. It
// comes before anything reads old events by the new definitions.
//
// before is nil if no definitions are in force yet.
func differs(ctx context.Context, d *dataDir, l *eventlog.Log, p *project.Project, v versions) (changed bool, before *versions, err error) {
	old, file, err := inForce(ctx, d, l)
	if err != nil || old == nil {
		return true, nil, err
	}
	return !sameFiles(file.Files, p.Files) || file.Versions != v, &file.Versions, compatible(old, p)
}

// putInForce makes the project's definitions the ones in force: new streams and
// any change of a view take effect at the control record that this writes.
func putInForce(ctx context.Context, d *dataDir, l *eventlog.Log, p *project.Project, v versions) error {
	body, err := json.Marshal(definitionsFile{Format: 1, Files: p.Files, Versions: v})
	if err != nil {
		return err
	}
	at, err := l.Control(ctx, definitionsKind, body)
	if err != nil {
		return fmt.Errorf("put the definitions in force: %w", err)
	}
	return keepInForce(d, definitionsFile{Format: 1, At: at, Files: p.Files, Versions: v})
}

// compatible refuses a project under which old events would be read otherwise.
func compatible(old, p *project.Project) error {
	now := map[string]*project.Stream{}
	for _, s := range p.Streams {
		now[s.Name] = s
	}
	var lines []string
	for _, s := range old.Streams {
		n, ok := now[s.Name]
		if !ok {
			lines = append(lines, fmt.Sprintf("%s: the stream is gone", s.File))
			continue
		}
		lines = append(lines, project.StreamDiff(s, n)...)
	}
	if len(lines) == 0 {
		return nil
	}
	return fmt.Errorf("the streams differ from what their events were read by:\n  %s\nPut these lines back as they were; or declare a new stream beside the old one; or start with an empty folder (--data)", strings.Join(lines, "\n  "))
}

func sameFiles(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for name, text := range a {
		if other, ok := b[name]; !ok || other != text {
			return false
		}
	}
	return true
}
