package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"duet/internal/base/durable"
)

// Format is the version of the data folder as a whole. Each file in it has a
// version of its own; this one changes when the folder's plan does.
const Format = "duet data 1"

// dataDir is the data folder, locked: one process at a time works in it.
//
//	LOCK          held with flock(2) while the process lives; its pid inside
//	FORMAT        "duet data 1"
//	log/          the event log (speed/eventlog)
//	archive/      events as Parquet (batch/archive)
//	generations/  results of the batch half (batch/catalog)
//	runs/, reports/, schedule.json, tmp-runs/
//	              what became of runs, and those under way (batch)
//	adoptions.json  the logs that were begun in place of lost ones (adopt.go)
//	scrub.json    how far the scrub is, and what the last one found (batch/scrub)
//	definitions/  the project's folder as control records put it in force
//	verdicts.log  what was decided for each message that is not archived
//	tmp/          spill files and exports; emptied at each start
type dataDir struct {
	path string
	lock *os.File
}

// openData makes the folder if need be, locks it and checks its format.
func openData(path string) (_ *dataDir, err error) {
	path, err = filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(path, "LOCK"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	d := &dataDir{path: path, lock: lock}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			pid, _ := os.ReadFile(lock.Name())
			return nil, fmt.Errorf("data folder %s is in use by process %s: end it, or give another folder with --data", path, strings.TrimSpace(string(pid)))
		}
		return nil, fmt.Errorf("data folder %s: lock: %w", path, err)
	}
	if err := lock.Truncate(0); err == nil {
		_, _ = lock.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0) // the pid is only for people
	}
	if err := d.checkFormat(); err != nil {
		return nil, err
	}
	if err := os.RemoveAll(d.sub("tmp")); err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	if err := os.MkdirAll(d.sub("tmp"), 0o700); err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	return d, nil
}

func (d *dataDir) sub(name string) string { return filepath.Join(d.path, name) }

// checkFormat writes FORMAT into a new folder and refuses a folder of another
// version, or one that is not ours.
func (d *dataDir) checkFormat() error {
	path := d.sub("FORMAT")
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		entries, err := os.ReadDir(d.path)
		if err != nil {
			return fmt.Errorf("data folder: %w", err)
		}
		for _, e := range entries {
			if e.Name() != "LOCK" && !durable.IsTemp(e.Name()) {
				return fmt.Errorf("data folder %s holds %s but no FORMAT file: it is not a data folder of Duet. Give an empty folder with --data", d.path, e.Name())
			}
		}
		return durable.OS.WriteFile(path, []byte(Format+"\n"))
	case err != nil:
		return fmt.Errorf("data folder: %w", err)
	case strings.TrimSpace(string(text)) != Format:
		return fmt.Errorf("data folder %s has format %q, this version of duet reads %q: use the version that wrote it", d.path, strings.TrimSpace(string(text)), Format)
	}
	return nil
}

// close gives the lock back. Twice is fine.
func (d *dataDir) close() { d.lock.Close() }
