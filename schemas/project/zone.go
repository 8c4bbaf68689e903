package project

import (
	"archive/zip"
	"bytes"
	_ "embed" // for the time zone database
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

//go:generate go run zone_generate.go

// The time zone database is the copy that Go distributes in lib/time, compiled from
// the IANA database, which is in the public domain. It is read from the program
// alone: time.LoadLocation, even with time/tzdata, prefers a database that ZONEINFO
// names, and then the machine's.
var (
	//go:embed zoneinfo/zoneinfo.zip
	zoneArchive []byte
	//go:embed zoneinfo/VERSION
	zoneVersion string
)

// ZoneVersion returns the version of the IANA time zone database that streams' zones
// are read from, such as "2025c". It is part of what events mean (H11).
func ZoneVersion() string { return strings.TrimSpace(zoneVersion) }

// zoneFiles are the files of the database, by zone.
var zoneFiles = sync.OnceValues(func() (map[string]*zip.File, error) {
	archive, err := zip.NewReader(bytes.NewReader(zoneArchive), int64(len(zoneArchive)))
	if err != nil {
		return nil, fmt.Errorf("time zone database: %w", err)
	}
	files := map[string]*zip.File{}
	for _, f := range archive.File {
		if !strings.HasSuffix(f.Name, "/") {
			files[f.Name] = f
		}
	}
	return files, nil
})

// zoneNames returns the zones of the database, in order.
func zoneNames() ([]string, error) {
	files, err := zoneFiles()
	return keysOf(files), err
}

// zoneData returns the compiled data of a zone.
func zoneData(name string) ([]byte, error) {
	files, err := zoneFiles()
	if err != nil {
		return nil, err
	}
	f, ok := files[name]
	if !ok {
		return nil, fmt.Errorf("time zone database %s: there is no zone %q", ZoneVersion(), name)
	}
	r, err := f.Open()
	if err != nil {
		return nil, fmt.Errorf("time zone database: %w", err)
	}
	defer r.Close() // read only: its error does not matter
	return io.ReadAll(r)
}

// loadZone returns an IANA zone by its exact name, and false if there is none.
// "Local" is none: it means another zone on every machine.
func loadZone(name string) (*time.Location, bool) {
	if name == "UTC" {
		return time.UTC, true
	}
	data, err := zoneData(name)
	if err != nil {
		return nil, false
	}
	zone, err := time.LoadLocationFromTZData(name, data)
	return zone, err == nil
}
