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
	Project string `help:"Project folder." default:"." type:"path" placeholder:"DIR"`
	SQL     bool   `name:"sql" help:"Also print the SQL that computes each view."`
	Quiet   bool   `short:"q" help:"Print faults and warnings only."`
	Config  bool   `help:"Print only the effective configuration, defaults included."`
}

// Run checks a project and prints its views' columns.
func (c *checkCommand) Run(t *terminal) error {
	p, faults := project.Load(os.DirFS(c.Project))
	if p == nil {
		return c.verdict(t, p, faults)
	}
	if c.Config {
		fmt.Fprint(t.out, project.Print(p))
		return c.verdict(t, p, faults)
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
		if err := c.describe(t, definition, compiled); err != nil {
			return err
		}
	}
	return c.verdict(t, p, faults)
}

// verdict prints the faults and warnings, each with its place, and whether the
// project is valid.
func (c *checkCommand) verdict(t *terminal, p *project.Project, faults project.Faults) error {
	wrong := 0
	for _, fault := range faults {
		if !fault.Warning {
			wrong++
		}
		// Relative to the working directory, so that a terminal can open it.
		fault.File = filepath.Join(c.displayed(), fault.File)
		fmt.Fprintln(t.err, fault.Error())
	}
	if wrong > 0 {
		return no("%s: %s", c.displayed(), plural(wrong, "error"))
	}
	if !c.Quiet && !c.Config {
		verdict := fmt.Sprintf("the project is valid: %s, %s", plural(len(p.Streams), "stream"), plural(len(p.Views), "view"))
		if len(faults) > 0 {
			verdict += ", " + plural(len(faults), "warning")
		}
		fmt.Fprintln(t.out, verdict)
	}
	return nil
}

// plural returns a number with its noun.
func plural[N int | int64](n N, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return count(int64(n)) + " " + noun + "s"
}

// displayed returns the project's folder relative to the working directory.
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

// describe prints a view's columns, and with --sql the statements that compute
// it.
func (c *checkCommand) describe(t *terminal, definition *project.View, v *view.View) error {
	fmt.Fprintf(t.out, "view %s over %s\n", v.Name, v.Stream)
	if definition.Description != "" {
		fmt.Fprintln(t.out, definition.Description)
	}
	var rows [][]string
	for _, column := range v.Columns {
		role, exact := column.Role.String(), "exact"
		if column.Bucket != "" {
			role += ", " + column.Bucket
		}
		if !column.Exact {
			exact = "inexact"
		}
		rows = append(rows, []string{column.Name, column.Type, role, exact, definition.Units[column.Name]})
	}
	header := []string{"column", "type", "role", "", "unit"}
	if len(definition.Units) == 0 {
		header = header[:4]
		for i := range rows {
			rows[i] = rows[i][:4]
		}
	}
	if err := printGrid(t, header, nil, rows); err != nil {
		return err
	}
	if c.SQL {
		if err := printSQL(t, v); err != nil {
			return err
		}
	}
	fmt.Fprintln(t.out)
	return nil
}

// printSQL prints the statements that compute a view.
func printSQL(t *terminal, v *view.View) error {
	final, _, err := v.FinalSQL("cells", view.Options{})
	if err != nil {
		return fmt.Errorf("view %s: %w", v.Name, err)
	}
	for _, statement := range []struct{ what, sql string }{
		{"partial: events to cells", v.PartialSQL(v.Stream)},
		{"merge: cells to fewer cells", v.MergeSQL("cells")},
		{"final: cells to columns", final},
	} {
		fmt.Fprintf(t.out, "-- %s\n%s;\n", statement.what, strings.TrimSpace(statement.sql))
	}
	return nil
}
