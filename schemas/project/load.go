package project

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"sort"
	"strings"
	"unicode/utf8"
)

// Limits of what is read, so that a wrong folder causes a fault and does not
// exhaust memory.
const (
	maxFileBytes = 256 << 10
	maxFiles     = 2_000
)

// Load reads and checks a project's folder and returns every fault. The project is
// nil if any of them is more than a warning.
func Load(fsys fs.FS) (*Project, Faults) {
	files, faults := readFiles(fsys)
	p, more := build(files, faults.Fatal())
	return p, sortFaults(append(faults, more...))
}

// FromFiles checks a project given as the texts of its files by slash-separated
// path, such as Project.Files of a control record.
func FromFiles(files map[string]string) (*Project, Faults) {
	var faults Faults
	for _, name := range keysOf(files) {
		if len(files[name]) > maxFileBytes {
			faults = append(faults, tooBig(name))
		}
	}
	p, more := build(files, faults.Fatal())
	return p, sortFaults(append(faults, more...))
}

func tooBig(name string) Fault {
	return Fault{File: name, Reason: fmt.Sprintf("is larger than %d KiB, the limit of a definition", maxFileBytes>>10), Remedy: "keep data out of the folders of definitions"}
}

// sortFaults orders faults by file, line and column; duet.yaml comes first.
func sortFaults(faults Faults) Faults {
	sort.SliceStable(faults, func(i, j int) bool {
		a, b := faults[i], faults[j]
		if a.File != b.File {
			if a.File == configFile || b.File == configFile {
				return a.File == configFile
			}
			return a.File < b.File
		}
		if a.Line != b.Line {
			return a.Line < b.Line
		}
		return a.Column < b.Column
	})
	return faults
}

const configFile = "duet.yaml"

// readFiles reads duet.yaml and the folders of definitions.
func readFiles(fsys fs.FS) (map[string]string, Faults) {
	r := reader{fsys: fsys, files: map[string]string{}}
	r.config()
	r.folder("streams", ".yaml")
	r.folder("views", ".sql", ".yaml")
	r.tables()
	return r.files, r.faults
}

type reader struct {
	fsys   fs.FS
	files  map[string]string
	faults Faults
}

func (r *reader) fault(file, reason, remedy string) {
	r.faults = append(r.faults, Fault{File: file, Reason: reason, Remedy: remedy})
}

func (r *reader) config() {
	if _, err := fs.Stat(r.fsys, configFile); errors.Is(err, fs.ErrNotExist) {
		if _, err := fs.Stat(r.fsys, "duet.yml"); err == nil {
			r.fault("duet.yml", "is not read", "rename it duet.yaml")
			return
		}
		r.fault(configFile, "is missing, so this is not a project's folder", "name the folder that holds duet.yaml, or begin one: duet init DIR --from FILE")
		return
	}
	r.read(configFile)
}

// read reads one file, within the limits.
func (r *reader) read(name string) {
	if len(r.files) == maxFiles {
		r.fault(name, fmt.Sprintf("is file %d; a project has at most %d", maxFiles+1, maxFiles), "split the project")
	}
	if len(r.files) >= maxFiles {
		return
	}
	f, err := r.fsys.Open(name)
	if err != nil {
		r.fault(name, "cannot be read: "+errorText(err), "check its permissions")
		return
	}
	defer f.Close() // read only: its error does not matter
	text, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	switch {
	case err != nil:
		r.fault(name, "cannot be read: "+errorText(err), "check its permissions")
	case len(text) > maxFileBytes:
		r.faults = append(r.faults, tooBig(name))
	case !utf8.Valid(text):
		r.fault(name, "is not UTF-8", "save it as UTF-8")
	default:
		r.files[name] = string(text)
	}
}

func errorText(err error) string {
	var perr *fs.PathError
	if errors.As(err, &perr) {
		return perr.Err.Error()
	}
	return err.Error()
}

// folder reads the definitions of one folder. Any other file or folder in it is a
// fault, so that nothing is overlooked.
func (r *reader) folder(dir string, kinds ...string) {
	entries, err := fs.ReadDir(r.fsys, dir)
	if errors.Is(err, fs.ErrNotExist) {
		one := strings.TrimSuffix(dir, "s")
		if _, err := fs.Stat(r.fsys, one); err == nil {
			r.fault(one, "is not read", "rename it "+dir)
		}
		return
	}
	if err != nil {
		r.fault(dir, "cannot be read: "+errorText(err), dir+" is a folder of "+strings.Join(kinds, " and ")+" files")
		return
	}
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		ext := path.Ext(e.Name())
		switch {
		case ignored(e.Name()):
		case e.IsDir():
			r.fault(name, "is a folder; folders below "+dir+" are not read", "move its files to "+dir)
		case slices.Contains(kinds, ext):
			r.read(name)
		case ext == ".yml":
			r.fault(name, "is not read", "rename it "+strings.TrimSuffix(e.Name(), ext)+".yaml")
		default:
			r.fault(name, "is not a definition: "+dir+" holds "+strings.Join(kinds, " and ")+" files", "move it out of "+dir)
		}
	}
}

// tables reports reference tables, which this version does not read, so that no
// declaration is ignored silently.
func (r *reader) tables() {
	entries, err := fs.ReadDir(r.fsys, "tables")
	if err != nil {
		return
	}
	for _, e := range entries {
		if !ignored(e.Name()) {
			r.fault(path.Join("tables", e.Name()), "this version does not join tables yet", "send what the views need with each event, and remove the file")
		}
	}
}

// ignored reports whether a file is hidden, an editor's copy or a note.
func ignored(name string) bool {
	return strings.HasPrefix(name, ".") || strings.HasPrefix(name, "#") || strings.HasSuffix(name, "~") ||
		strings.HasSuffix(name, ".swp") || strings.EqualFold(path.Ext(name), ".md")
}

// build checks the texts. readFailed says that some file could not be read, so
// that its absence is not a further fault.
func build(files map[string]string, readFailed bool) (*Project, Faults) {
	p := &Project{Files: files}
	var faults Faults
	p.configure(files[configFile], &faults)
	for _, name := range keysOf(files) {
		dir, base := path.Split(name)
		switch {
		case name == configFile:
		case dir == "streams/" && path.Ext(base) == ".yaml":
			if s := loadStream(name, files[name], &faults); s != nil {
				p.Streams = append(p.Streams, s)
			}
		case dir == "views/" && path.Ext(base) == ".sql":
			if v := loadView(name, files, &faults); v != nil {
				p.Views = append(p.Views, v)
			}
		case dir == "views/" && path.Ext(base) == ".yaml":
			orphanView(name, files, &faults)
		default:
			faults = append(faults, Fault{File: name, Reason: "is not a file of a project", Remedy: "a project is duet.yaml, streams/NAME.yaml, views/NAME.sql and views/NAME.yaml"})
		}
	}
	slices.SortFunc(p.Streams, func(a, b *Stream) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(p.Views, func(a, b *View) int { return strings.Compare(a.Name, b.Name) })
	p.crossCheck(&faults, readFailed)
	if readFailed || faults.Fatal() {
		return nil, faults
	}
	return p, faults
}

// crossCheck reports faults that involve several files.
func (p *Project) crossCheck(faults *Faults, readFailed bool) {
	streams := map[string]bool{}
	for _, s := range p.Streams {
		streams[s.Name] = true
	}
	for _, v := range p.Views {
		if streams[v.Name] {
			*faults = append(*faults, Fault{File: v.File, Reason: "the view " + v.Name + " has the name of a stream", Remedy: "rename the file"})
		}
	}
	if readFailed || faults.Fatal() {
		return
	}
	if len(p.Streams) == 0 {
		*faults = append(*faults, Fault{File: "streams", Reason: "holds no stream", Remedy: "write streams/NAME.yaml, or begin with: duet init DIR --from FILE"})
	} else if len(p.Views) == 0 {
		*faults = append(*faults, Fault{File: "views", Reason: "holds no view", Remedy: "write views/NAME.sql with one SELECT", Warning: true})
	}
}

// Stream returns the stream with the name, or nil.
func (p *Project) Stream(name string) *Stream {
	for _, s := range p.Streams {
		if s.Name == name {
			return s
		}
	}
	return nil
}

// View returns the view with the name, or nil.
func (p *Project) View(name string) *View {
	for _, v := range p.Views {
		if v.Name == name {
			return v
		}
	}
	return nil
}
