package main

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestDeployedCommandLinesParse parses the command lines of deploy/, so that
// renaming a flag cannot break them.
func TestDeployedCommandLinesParse(t *testing.T) {
	var lines [][]string
	for name, find := range map[string]func(line string) []string{
		"duet.service": func(line string) []string {
			command, ok := strings.CutPrefix(line, "ExecStart=/usr/local/bin/duet ")
			if !ok {
				return nil
			}
			return strings.Fields(command)
		},
		"Dockerfile": func(line string) []string {
			at := strings.Index(line, "CMD [")
			if at < 0 {
				return nil
			}
			var words []string
			if err := json.Unmarshal([]byte(line[at+len("CMD "):]), &words); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			if words[0] == "/usr/local/bin/duet" { // HEALTHCHECK names the program, CMD follows ENTRYPOINT
				words = words[1:]
			}
			return words
		},
	} {
		content, err := os.ReadFile(filepath.Join("..", "..", "deploy", name))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(content)) {
			if words := find(strings.TrimSpace(line)); words != nil {
				lines = append(lines, words)
			}
		}
	}
	if len(lines) != 3 {
		t.Fatalf("%d command lines, want the unit's, the image's and its health check: %v", len(lines), lines)
	}
	for _, words := range lines {
		var c commands
		p, err := parser(t.Context(), &c, &terminal{out: io.Discard, err: io.Discard}, func(int) { t.Errorf("%v exits", words) })
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Parse(words); err != nil {
			t.Errorf("duet %s: %v", strings.Join(words, " "), err)
		}
	}
}
