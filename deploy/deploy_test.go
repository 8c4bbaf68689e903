// Package deploy contains the files to run Duet in production. Its tests check
// what needs neither a container engine nor a running systemd.
package deploy

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// instruction is one line of a Dockerfile, with continuations joined.
type instruction struct {
	name  string
	flags []string
	rest  string
}

// dockerfile returns the Dockerfile's instructions, by stage.
func dockerfile(t *testing.T) (stages [][]instruction) {
	t.Helper()
	text, err := os.ReadFile("Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(strings.TrimSpace(line), "#") {
			lines = append(lines, line)
		}
	}
	joined := regexp.MustCompile(`\\\n\s*`).ReplaceAllString(strings.Join(lines, ""), " ")
	known := []string{"FROM", "WORKDIR", "COPY", "ARG", "RUN", "USER", "VOLUME", "EXPOSE", "HEALTHCHECK", "STOPSIGNAL", "ENTRYPOINT", "CMD"}
	for line := range strings.Lines(joined) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		in := instruction{name: fields[0]}
		if !slices.Contains(known, in.name) {
			t.Fatalf("unknown instruction: %s", line)
		}
		rest := fields[1:]
		for len(rest) > 0 && strings.HasPrefix(rest[0], "--") {
			in.flags = append(in.flags, rest[0])
			rest = rest[1:]
		}
		in.rest = strings.Join(rest, " ")
		if in.name == "FROM" {
			stages = append(stages, nil)
		}
		if len(stages) == 0 {
			t.Fatalf("before the first FROM: %s", line)
		}
		stages[len(stages)-1] = append(stages[len(stages)-1], in)
	}
	return stages
}

// only returns the one instruction of a name in a stage.
func only(t *testing.T, stage []instruction, name string) instruction {
	t.Helper()
	var found []instruction
	for _, in := range stage {
		if in.name == name {
			found = append(found, in)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d instructions %s, want one", len(found), name)
	}
	return found[0]
}

// words parses an instruction in exec form.
func words(t *testing.T, rest string) []string {
	t.Helper()
	var list []string
	if err := json.Unmarshal([]byte(rest), &list); err != nil {
		t.Fatalf("%s is not in exec form, and the image has no shell: %v", rest, err)
	}
	return list
}

func flag(t *testing.T, args []string, name string) string {
	t.Helper()
	i := slices.Index(args, name)
	if i < 0 || i+1 == len(args) {
		t.Fatalf("%v has no %s", args, name)
	}
	return args[i+1]
}

func TestImageRunsWithoutRights(t *testing.T) {
	stages := dockerfile(t)
	if len(stages) != 2 {
		t.Fatalf("%d stages, want a build stage and a final stage", len(stages))
	}
	build, final := stages[0], stages[1]
	if from := only(t, build, "FROM").rest; !strings.HasPrefix(from, "golang:1.26") || !strings.HasSuffix(from, " AS build") {
		t.Errorf("the build stage starts from %s", from)
	}
	if run := only(t, build, "RUN").rest; !strings.Contains(run, "-tags duckdb_arrow") || !strings.Contains(run, "CGO_ENABLED=1") {
		t.Errorf("the build lacks the tag or cgo: %s", run)
	}
	if user := only(t, final, "USER").rest; user != "65532:65532" {
		t.Errorf("the image runs as %s: use a number, so that an orchestrator can see that it is not root", user)
	}
	entry := words(t, only(t, final, "ENTRYPOINT").rest)
	args := words(t, only(t, final, "CMD").rest)
	health := words(t, strings.TrimPrefix(only(t, final, "HEALTHCHECK").rest, "CMD "))
	if want := []string{entry[0], "status"}; !slices.Equal(health[:2], want) {
		t.Errorf("the health check runs %v, want %v", health, want)
	}
	data := flag(t, args, "--data")
	if volume := only(t, final, "VOLUME").rest; volume != data {
		t.Errorf("the volume is %s, the data folder %s", volume, data)
	}
	owned := false
	placed := map[string]bool{}
	for _, in := range final {
		switch in.name {
		case "COPY":
			if !slices.Contains(in.flags, "--from=build") {
				t.Errorf("the image copies %s from the build context", in.rest)
			}
			_, target, _ := strings.Cut(in.rest, " ")
			placed[target] = true
			owned = owned || target == data && slices.Contains(in.flags, "--chown=65532:65532")
		case "RUN":
			t.Errorf("the final stage has no shell to RUN %s", in.rest)
		}
	}
	if !placed[entry[0]] {
		t.Errorf("%s is not in the image", entry[0])
	}
	if !owned {
		t.Errorf("the user cannot write %s", data)
	}
	exposed := strings.Fields(only(t, final, "EXPOSE").rest)
	for _, name := range []string{"--grpc", "--http"} {
		_, port, _ := strings.Cut(flag(t, args, name), ":")
		if !slices.Contains(exposed, port) {
			t.Errorf("%s listens on %s, but the image exposes %v", name, port, exposed)
		}
	}
}

// unit returns the unit's text and its options; a repeated option is a list.
func unit(t *testing.T) (text string, options map[string][]string) {
	t.Helper()
	content, err := os.ReadFile("duet.service")
	if err != nil {
		t.Fatal(err)
	}
	options = map[string][]string{}
	for line := range strings.Lines(string(content)) {
		line = strings.TrimSpace(line)
		if key, value, ok := strings.Cut(line, "="); ok && !strings.HasPrefix(line, "#") {
			options[key] = append(options[key], value)
		}
	}
	return string(content), options
}

func TestUnitIsHardened(t *testing.T) {
	_, options := unit(t)
	for key, want := range map[string]string{
		"DynamicUser":             "yes",
		"ProtectSystem":           "strict",
		"ProtectHome":             "yes",
		"PrivateTmp":              "yes",
		"PrivateDevices":          "yes",
		"NoNewPrivileges":         "yes",
		"CapabilityBoundingSet":   "",
		"RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX",
		"RestrictNamespaces":      "yes",
		"MemoryDenyWriteExecute":  "yes",
		"SystemCallArchitectures": "native",
		"StateDirectory":          "duet",
		"UMask":                   "0077",
		"Restart":                 "on-failure",
		"OOMPolicy":               "continue", // a batch child that runs out of memory must not stop the server
	} {
		if got := options[key]; len(got) != 1 || got[0] != want {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
	command := strings.Fields(options["ExecStart"][0])
	if data := flag(t, command, "--data"); data != "/var/lib/"+options["StateDirectory"][0] || data != options["WorkingDirectory"][0] {
		t.Errorf("the data folder %s is not the unit's state directory", data)
	}
}

// TestUnitPassesSystemdsOwnChecks runs systemd-analyze where it is installed;
// elsewhere the tests above must do.
func TestUnitPassesSystemdsOwnChecks(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Log("systemd-analyze is not installed: only the options were compared")
		return
	}
	text, _ := unit(t)
	program, err := os.Executable() // any that exists
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(t.TempDir(), "duet.service")
	if err := os.WriteFile(copied, []byte(strings.ReplaceAll(text, "/usr/local/bin/duet", program)), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("systemd-analyze", "verify", "--man=no", copied).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	// The threshold is the exposure, times ten, above which it fails.
	out, err := exec.Command("systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=20", copied).CombinedOutput()
	if err != nil {
		t.Errorf("systemd-analyze security: %v\n%s", err, out)
	}
}
