package node

import (
	"fmt"
	"io/fs"
	"log/slog"

	"duet/schemas/event"
	"duet/schemas/project"
	"duet/schemas/view"
)

// definitions is a project with what it compiles to.
type definitions struct {
	project  *project.Project
	compiler *view.Compiler
	views    []*view.View // of the project, in its order

	schemas map[string]*event.Schema
}

// define loads and compiles a project. It returns project.Faults if the project
// has faults; warnings are logged.
func define(fsys fs.FS, logger *slog.Logger) (_ definitions, err error) {
	p, faults := project.Load(fsys)
	if faults.Fatal() {
		return definitions{}, faults
	}
	d := definitions{project: p, schemas: map[string]*event.Schema{}}
	if d.compiler, err = view.NewCompiler(p.Streams); err != nil {
		return definitions{}, err
	}
	defer func() {
		if err != nil {
			d.compiler.Close()
		}
	}()
	for _, v := range p.Views {
		compiled, found := d.compiler.Compile(v)
		faults = append(faults, found...)
		if compiled != nil {
			d.views = append(d.views, compiled)
		}
	}
	if faults.Fatal() {
		return definitions{}, faults
	}
	for _, f := range faults {
		logger.Warn("the project has a warning; duet check says more", "at", fmt.Sprintf("%s:%d", f.File, f.Line), "warning", f.Reason)
	}
	for _, s := range p.Streams {
		d.schemas[s.Name] = event.NewSchema(s)
	}
	return d, nil
}

// streamSchemas returns the streams' schemas in the project's order.
func (d *definitions) streamSchemas() []*event.Schema {
	var out []*event.Schema
	for _, s := range d.project.Streams {
		out = append(out, d.schemas[s.Name])
	}
	return out
}
