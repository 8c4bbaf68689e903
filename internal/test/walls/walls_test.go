// Package walls holds the rules about which package may know which. They are a
// test and not only a linter's setting so that each refusal can say what to
// write instead.
package walls

import (
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// A wall keeps the packages under From from importing any under To.
// Prefixes are of import paths, by whole elements.
type wall struct {
	From    []string
	To      []string
	Instead string // what to write, a sentence
}

var walls = []wall{
	{
		From:    []string{"duet/schemas"},
		To:      []string{"duet/batch", "duet/speed", "duet/serving", "duet/cmd"},
		Instead: "schemas/ holds the contracts that all others share. Move the type that both need into schemas/, or take it as an argument.",
	},
	{
		From:    []string{"duet/speed"},
		To:      []string{"duet/batch", "duet/serving", "duet/cmd"},
		Instead: "Declare the small interface that you need in speed/ and let cmd/duet hand in the value that has it.",
	},
	{
		From:    []string{"duet/batch"},
		To:      []string{"duet/speed", "duet/serving", "duet/cmd"},
		Instead: "Declare the small interface that you need in batch/ and let cmd/duet hand in the value that has it.",
	},
	{
		From:    []string{"duet/serving"},
		To:      []string{"duet/cmd"},
		Instead: "cmd/duet only wires. Move what you need beside its users in serving/.",
	},
	{
		From:    []string{"duet/internal/client", "duet/internal/shop"},
		To:      []string{"duet/batch", "duet/speed", "duet/serving"},
		Instead: "Clients and the demo shop stand outside: they use the public door. Add an RPC in schemas/proto if one is missing.",
	},
	{
		From:    []string{"duet/internal/base"},
		To:      []string{"duet/schemas", "duet/batch", "duet/speed", "duet/serving"},
		Instead: "These helpers have no opinion about the domain. Put code that knows streams or views into the package that owns them.",
	},
	{
		From:    []string{"duet/schemas", "duet/speed", "duet/batch"},
		To:      []string{"github.com/prometheus"},
		Instead: "The core is measured through hooks. Give the package a hook and count in serving/, which exports the metrics.",
	},
	{
		From:    []string{"duet/schemas", "duet/batch", "duet/serving"},
		To:      []string{"github.com/nats-io"},
		Instead: "Only speed/ knows which log it is. Use the positions and messages of schemas/.",
	},
}

// sources calls visit for each Go file of the module that is no test.
func sources(t *testing.T, visit func(file, pkg string, imports []string)) {
	t.Helper()
	root := filepath.Join("..", "..", "..")
	if _, err := os.Stat(filepath.Join(root, "go.mod")); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if rel != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || rel == "tools" || rel == "bin") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(p, ".go") || strings.HasSuffix(p, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), p, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		var imports []string
		for _, spec := range f.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			imports = append(imports, imported)
		}
		visit(filepath.ToSlash(rel), path.Join("duet", path.Dir(filepath.ToSlash(rel))), imports)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func under(pkg string, prefixes []string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool {
		return pkg == p || strings.HasPrefix(pkg, p+"/")
	})
}

// breach says which wall an import breaks, or "".
func breach(pkg, imported string) string {
	for _, w := range walls {
		if under(pkg, w.From) && under(imported, w.To) {
			return fmt.Sprintf("%s may not import %s. %s", pkg, imported, w.Instead)
		}
	}
	return ""
}

// Test files may reach over a wall, to try a package against its real neighbour.
func TestNoPackageImportsOverAWall(t *testing.T) {
	files := 0
	sources(t, func(file, pkg string, imports []string) {
		files++
		for _, imported := range imports {
			if why := breach(pkg, imported); why != "" {
				t.Errorf("%s: %s", file, why)
			}
		}
	})
	if files < 5 {
		t.Fatalf("looked at %d files only: the walk has gone wrong", files)
	}
}

func TestAWallIsSeen(t *testing.T) {
	for _, c := range []struct {
		pkg, imported string
		refused       bool
	}{
		{"duet/schemas/event", "duet/speed/eventlog", true},
		{"duet/speed", "duet/serving/store", true},
		{"duet/speed", "duet/schemas/event", false},
		{"duet/batch/archive", "duet/speed", true},
		{"duet/serving", "duet/batch", false},
		{"duet/cmd/duet", "duet/speed", false},
		{"duet/speedway", "duet/batch", false},
		{"duet/batch", "github.com/prometheus/client_golang/prometheus", true},
		{"duet/serving", "github.com/prometheus/client_golang/prometheus", false},
	} {
		if got := breach(c.pkg, c.imported) != ""; got != c.refused {
			t.Errorf("%s imports %s: refused %v, want %v", c.pkg, c.imported, got, c.refused)
		}
	}
}
