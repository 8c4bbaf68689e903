package project

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// offset returns the offset of a zone in the summer of 2024, in hours.
func offset(zone *time.Location) int {
	_, seconds := time.Date(2024, 7, 1, 0, 0, 0, 0, zone).Zone()
	return seconds / 3600
}

// Go prefers a database that ZONEINFO names, and then the machine's, to the one in
// the program. A zone of a stream must not depend on either: another database would
// give events another business_date. The test runs itself with ZONEINFO naming a
// folder in which London is Tokyo.
func TestZonesAreThoseOfTheProgram(t *testing.T) {
	const child = "DUET_TEST_ZONES"
	if os.Getenv(child) != "" {
		ours, ok := loadZone("Europe/London")
		if !ok {
			t.Fatal("there is no Europe/London")
		}
		gos, err := time.LoadLocation("Europe/London")
		if err != nil {
			t.Fatal(err)
		}
		fmt.Printf("offsets %d %d\n", offset(ours), offset(gos))
		return
	}
	dir := t.TempDir()
	tokyo, err := zoneData("Asia/Tokyo")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "Europe"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "Europe", "London"), tokyo, 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), child+"=1", "ZONEINFO="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if !strings.Contains(string(out), "offsets 1 9\n") {
		t.Errorf("want London at 1 by our database and at 9 by the doctored one:\n%s", out)
	}
}

// Every zone of the database loads, and the version of the database is stated.
func TestZoneDatabaseIsWhole(t *testing.T) {
	if !regexp.MustCompile(`^20[0-9]{2}[a-z]$`).MatchString(ZoneVersion()) {
		t.Errorf("version %q", ZoneVersion())
	}
	names, err := zoneNames()
	if err != nil {
		t.Fatal(err)
	}
	if len(names) < 500 {
		t.Errorf("%d zones", len(names))
	}
	for _, name := range names {
		if zone, ok := loadZone(name); !ok || zone.String() != name {
			t.Errorf("%s does not load", name)
		}
	}
	for name, hours := range map[string]int{"UTC": 0, "Europe/London": 1, "America/New_York": -4, "Asia/Kolkata": 5, "Australia/Lord_Howe": 10} {
		if zone, ok := loadZone(name); !ok || offset(zone) != hours {
			t.Errorf("%s is not at %d", name, hours)
		}
	}
	for _, name := range []string{"", "Local", "local", "Europe", "Europe/", "europe/london", "../Europe/London", "/etc/localtime", "Mars/Olympus", "Europe/London\x00"} {
		if _, ok := loadZone(name); ok {
			t.Errorf("%q loads", name)
		}
	}
}
