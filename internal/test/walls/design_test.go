package walls

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	namedTest  = regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z0-9_]+)`")
	testDecl   = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)[A-Za-z0-9_]+)\(`)
	namedEntry = regexp.MustCompile("(?m)^\\| `[a-z/0-9]+`[^|]*\\|[^|]*\\|([^|]*)\\|")
)

// DESIGN.md names the test that proves each rule. A test that was renamed or
// deleted leaves a rule without its proof.
func TestTheTestsThatDesignNamesExist(t *testing.T) {
	root := filepath.Join("..", "..", "..")
	design, err := os.ReadFile(filepath.Join(root, "DESIGN.md"))
	if err != nil {
		t.Fatal(err)
	}
	declared := map[string]bool{}
	err = filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(p, ".go") {
			return err
		}
		text, err := os.ReadFile(p)
		for _, m := range testDecl.FindAllSubmatch(text, -1) {
			declared[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	named := namedTest.FindAllSubmatch(design, -1)
	if len(named) < 50 {
		t.Fatalf("DESIGN.md names %d tests only: the pattern no longer matches", len(named))
	}
	for _, m := range named {
		if !declared[string(m[1])] {
			t.Errorf("DESIGN.md names %s, which does not exist: name the test that proves the rule now", m[1])
		}
	}
}

// The file map says where to start reading in each package.
func TestTheFilesThatDesignNamesExist(t *testing.T) {
	root := filepath.Join("..", "..", "..")
	design, err := os.ReadFile(filepath.Join(root, "DESIGN.md"))
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for _, line := range strings.Split(string(design), "\n") {
		m := namedEntry.FindStringSubmatch(line)
		if m == nil || !strings.Contains(m[1], ".go`") {
			continue
		}
		rows++
		// The packages of the row, and the files that stand in one of them.
		first := strings.SplitN(line, "|", 3)[1]
		dirs := regexp.MustCompile("`([a-z/0-9]+)`").FindAllStringSubmatch(first, -1)
		for _, file := range regexp.MustCompile("`([a-z_]+\\.go)`").FindAllStringSubmatch(m[1], -1) {
			found := false
			for _, d := range dirs {
				if _, err := os.Stat(filepath.Join(root, filepath.FromSlash(d[1]), file[1])); err == nil {
					found = true
				}
			}
			if !found {
				t.Errorf("DESIGN.md says to start at %s in%s, which does not exist", file[1], first)
			}
		}
	}
	if rows < 12 {
		t.Fatalf("%d rows of the file map name files: the pattern no longer matches", rows)
	}
}
