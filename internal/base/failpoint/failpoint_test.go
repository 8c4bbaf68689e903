package failpoint

import (
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
)

var (
	first  = New("test.first")
	second = New("test.second")
)

func TestMain(m *testing.M) {
	if os.Getenv("FAILPOINT_CHILD") != "" {
		if err := Check(); err != nil {
			os.Stdout.WriteString(err.Error())
			os.Exit(3)
		}
		for range 3 {
			os.Stdout.WriteString("x")
			if err := first.Hit(); err != nil {
				os.Stdout.WriteString(err.Error())
				os.Exit(4)
			}
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestEnvironmentKillsOrFailsTheProcess(t *testing.T) {
	for _, c := range []struct {
		spec, out string
		killed    bool
		code      int
	}{
		{"", "xxx", false, 0},
		{"test.second", "xxx", false, 0},
		{"test.first", "x", true, 0},
		{"test.first:2", "xx", true, 0},
		{"test.first:2:error=ENOSPC", "xxfailpoint test.first: no space left on device", false, 4},
		{"test.first:error=EIO", "xfailpoint test.first: input/output error", false, 4},
		{"test.first:9", "xxx", false, 0},
		{"nowhere", `DUET_FAILPOINT: no point is named "nowhere"; there are: test.first, test.second`, false, 3},
		{"test.first:x", `DUET_FAILPOINT: "test.first:x": want name, name:n, name:error=ENOSPC or name:n:error=ENOSPC`, false, 3},
		{"test.first:error=EWHAT", `DUET_FAILPOINT: "test.first:error=EWHAT": unknown error "EWHAT"; known: ENOSPC, EIO, EDQUOT, EROFS, EINTR`, false, 3},
	} {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "FAILPOINT_CHILD=1", Env+"="+c.spec)
		out, err := cmd.Output()
		state := cmd.ProcessState.Sys().(syscall.WaitStatus)
		if string(out) != c.out || state.Signaled() != c.killed || (!c.killed && state.ExitStatus() != c.code) {
			t.Errorf("%s=%s: printed %q, ended with %v; want %q, killed %t, code %d", Env, c.spec, out, err, c.out, c.killed, c.code)
		}
	}
}

func TestArmedPointActsAloneAndIsDisarmed(t *testing.T) {
	disarm, err := Arm("test.first:2:error=ENOSPC")
	if err != nil {
		t.Fatal(err)
	}
	var seen []string
	disarmAll := On("*", 0, func() error { seen = append(seen, "any"); return nil })
	var got []bool
	for range 3 {
		got = append(got, errors.Is(first.Hit(), syscall.ENOSPC))
		if err := second.Hit(); err != nil {
			t.Error(err)
		}
	}
	if !slices.Equal(got, []bool{false, true, false}) {
		t.Errorf("failed at %v; want the second hit only", got)
	}
	disarmAll()
	disarm()
	if len(seen) != 5 { // the failing hit ends before the second action
		t.Errorf("the wildcard saw %d hits; want 5", len(seen))
	}
	if armed.Load() != nil {
		t.Error("something is still armed")
	}
	if names := strings.Join(All(), " "); names != "test.first test.second" {
		t.Errorf("All() = %s", names)
	}
}

func BenchmarkHitUnarmed(b *testing.B) {
	for b.Loop() {
		_ = first.Hit()
	}
}
