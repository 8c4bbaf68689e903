package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"duet/schemas/project"
	"duet/schemas/view"
)

type checkCommand struct {
	Project string `help:"The project's folder." default:"." type:"path" placeholder:"DIR"`
	Quiet   bool   `short:"q" help:"Only what is wrong."`
	Config  bool   `help:"Print the effective configuration, defaults included, and nothing else."`
}

// Run checks the folder and shows what its views mean.
func (c *checkCommand) Run(t *terminal) error {
	p, faults := project.Load(os.DirFS(c.Project))
	if p == nil {
		return c.verdict(t, faults)
	}
	if c.Config {
		fmt.Fprint(t.out, project.Print(p))
		return c.verdict(t, faults)
	}
	compiler, err := view.NewCompiler(p.Streams)
	if err != nil {
		return err
	}
	defer compiler.Close()
	for _, definition := range p.Views {
		compiled, more := compiler.Compile(definition)
		faults = append(faults, more...)
		if compiled == nil || c.Quiet {
			continue
		}
		if err := describe(t, definition, compiled); err != nil {
			return err
		}
	}
	return c.verdict(t, faults)
}

// verdict prints the faults, each with its place, and the answer.
func (c *checkCommand) verdict(t *terminal, faults project.Faults) error {
	wrong := 0
	for _, fault := range faults {
		if !fault.Warning {
			wrong++
		}
		// A path that can be clicked, from where the command runs.
		fault.File = filepath.Join(c.displayed(), fault.File)
		fmt.Fprintln(t.err, fault.Error())
	}
	if wrong > 0 {
		plural := "s"
		if wrong == 1 {
			plural = ""
		}
		return no("%s: %d error%s", c.displayed(), wrong, plural)
	}
	if !c.Quiet && !c.Config {
		fmt.Fprintln(t.out, "the project is valid")
	}
	return nil
}

// displayed is the folder as seen from the working directory.
func (c *checkCommand) displayed() string {
	here, err := os.Getwd()
	if err != nil {
		return c.Project
	}
	relative, err := filepath.Rel(here, c.Project)
	if err != nil || strings.HasPrefix(relative, "..") {
		return c.Project
	}
	return relative
}

// describe prints a view: its columns, and the statements that compute it.
func describe(t *terminal, definition *project.View, v *view.View) error {
	final, _, err := v.FinalSQL("cells", view.Options{})
	if err != nil {
		return fmt.Errorf("view %s: %w", v.Name, err)
	}
	fmt.Fprintf(t.out, "view %s over %s, definition %s\n", v.Name, v.Stream, v.Definition[:min(12, len(v.Definition))])
	if definition.Description != "" {
		fmt.Fprintln(t.out, definition.Description)
	}
	var rows [][]string
	for _, column := range v.Columns {
		exact := "exact"
		if !column.Exact {
			exact = fmt.Sprintf("inexact, within %g", column.Tolerance)
		}
		rows = append(rows, []string{column.Name, column.Type, column.Role.String(), exact, column.Bucket, definition.Units[column.Name]})
	}
	if err := printGrid(t.out, []string{"column", "type", "role", "between the halves", "bucket", "unit"}, nil, rows); err != nil {
		return err
	}
	for _, statement := range []struct{ what, sql string }{
		{"partial: events to cells", v.PartialSQL(v.Stream)},
		{"merge: cells to fewer cells", v.MergeSQL("cells")},
		{"final: cells to the columns", final},
	} {
		fmt.Fprintf(t.out, "-- %s\n%s;\n", statement.what, strings.TrimSpace(statement.sql))
	}
	fmt.Fprintln(t.out)
	return nil
}
