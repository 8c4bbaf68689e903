//go:build ignore

// This program copies the time zone database of the Go installation that runs it to
// zoneinfo/, with its version. Run it with go generate in this package after an
// update of Go that brings newer zones; the version of every project's zones then
// changes.
package main

import (
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

func main() {
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		log.Fatalf("go env GOROOT: %v", err)
	}
	from := filepath.Join(strings.TrimSpace(string(root)), "lib", "time")
	zip, err := os.ReadFile(filepath.Join(from, "zoneinfo.zip"))
	if err != nil {
		log.Fatal(err)
	}
	script, err := os.ReadFile(filepath.Join(from, "update.bash"))
	if err != nil {
		log.Fatal(err)
	}
	version := regexp.MustCompile(`(?m)^DATA=(20[0-9]{2}[a-z])$`).FindSubmatch(script)
	if version == nil {
		log.Fatalf("%s does not state the version of the data: DATA=...", filepath.Join(from, "update.bash"))
	}
	for name, data := range map[string][]byte{"zoneinfo.zip": zip, "VERSION": append(version[1], '\n')} {
		if err := os.WriteFile(filepath.Join("zoneinfo", name), data, 0o644); err != nil {
			log.Fatal(err)
		}
	}
	fmt.Printf("zoneinfo %s from %s\n", version[1], from)
}
