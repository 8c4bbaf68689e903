package eventlog

import (
	"errors"
	"fmt"
	"log/slog"
	"regexp"
)

// Shares of the byte limit, in percent.
const (
	refusePercent  = 90 // events are refused, control records are not
	trimPercent    = 70 // below it nothing is trimmed: the log is the archive's repair copy
	degradePercent = 50 // health degrades; a trim goes down to it
)

// Limits of one message, in bytes.
const (
	// MaxEnvelope is the largest envelope or control body.
	MaxEnvelope = 8<<20 - 4<<10
	// maxPayload is what the server is told: room for frame and header too.
	maxPayload = 8 << 20
)

// MinBytes is the smallest Config.MaxBytes: below it, one envelope could be
// more than the share that is kept for control records.
const MinBytes = 64 << 10

// Config says where a log is and how large it may become.
type Config struct {
	// Dir is the log's own folder; it is made if it is not there. Exactly one
	// process may use it: the data folder's lock is the caller's.
	Dir string
	// Project is the project's name: a log belongs to one.
	Project string
	// MaxBytes is the byte limit of the whole log. Defaults to 8 GB.
	MaxBytes int64
	// Logger gets the server's warnings and errors and our own. Defaults to
	// slog.Default().
	Logger *slog.Logger
}

var nameRE = regexp.MustCompile(`^[a-z][a-z0-9_]{0,62}$`)

// withDefaults returns the effective configuration, or all its faults.
func (c Config) withDefaults() (Config, error) {
	var faults []error
	if c.Dir == "" {
		faults = append(faults, errors.New("eventlog: Dir is empty: name a folder"))
	}
	if !nameRE.MatchString(c.Project) {
		faults = append(faults, fmt.Errorf("eventlog: Project %q: want a lower-case letter, then letters, digits or _, at most 63", c.Project))
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = 8 << 30
	}
	if c.MaxBytes < MinBytes {
		faults = append(faults, fmt.Errorf("eventlog: MaxBytes %d: want at least %d", c.MaxBytes, MinBytes))
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c, errors.Join(faults...)
}
