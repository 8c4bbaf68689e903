package eventlog

import (
	"errors"
	"fmt"
	"log/slog"
	"regexp"
)

// Shares of the byte limit, in percent.
const (
	// Of what is used.
	refusePercent = 90 // above it events are refused; control records are not
	trimPercent   = 70 // up to it nothing is trimmed: archive files are repaired from the log
	keepPercent   = 50 // a trim stops at it
	// Of what is used and cannot be trimmed yet.
	degradePercent = 50 // from it health is Degraded
	fillingPercent = 40 // from it Config.Filling is called

	// sizeSteps is the precision with which the part that cannot be trimmed is
	// known: one of so many parts of the byte limit.
	sizeSteps = 256
)

// Limits of one message, in bytes.
const (
	// MaxEnvelope is the largest envelope or control body.
	MaxEnvelope = 8<<20 - 4<<10
	// maxPayload is the server's limit; it leaves room for frame and header.
	maxPayload = 8 << 20
)

// MinBytes is the minimum of Config.MaxBytes: below it, one envelope could be
// larger than the share that is reserved for control records.
const MinBytes = 64 << 10

// Config configures a log. Dir and Project are required.
type Config struct {
	// Dir is the log's own folder; it is created if it does not exist. Only one
	// process may use it: the caller holds the data folder's lock.
	Dir string
	// Project is the name of the project that the log belongs to.
	Project string
	// MaxBytes is the byte limit of the whole log. Defaults to 8 GB.
	MaxBytes int64
	// Filling is called when the part of the log that cannot be trimmed has grown
	// to 40 % of the limit, and again only after a Trim has found it smaller. It is
	// not called before the first Trim. It is called from a goroutine of the log and
	// must not block. May be nil.
	Filling func()
	// Existing says that the folder must hold a log: if it is empty, the log was
	// lost, and Open refuses it (ErrMissing) instead of beginning a new one.
	Existing bool
	// Logger receives the log's and its server's warnings and errors. Defaults to
	// slog.Default().
	Logger *slog.Logger
}

var nameRE = regexp.MustCompile(`^[a-z][a-z0-9_]{0,62}$`)

// withDefaults returns the effective configuration, or all of its faults.
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
