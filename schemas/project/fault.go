package project

import (
	"strconv"
	"strings"
)

// Fault is one thing that is wrong, or worth a warning, in a project: where
// it stands, why it is refused and what to write instead.
type Fault struct {
	File    string // slash-separated path in the project's folder; "" for the project itself
	Line    int    // from 1; 0 when the fault is about the file as a whole
	Column  int    // from 1, in characters; 0 when unknown
	Reason  string // without a full stop at its end
	Remedy  string // what to write or do; without a full stop at its end; may be empty
	Warning bool   // the project works as it is
}

// Error gives "file:line:column: reason. remedy", leaving out what is not set.
func (f Fault) Error() string {
	var b strings.Builder
	b.WriteString(f.File)
	if f.Line > 0 {
		b.WriteString(":" + strconv.Itoa(f.Line))
		if f.Column > 0 {
			b.WriteString(":" + strconv.Itoa(f.Column))
		}
	}
	if b.Len() > 0 {
		b.WriteString(": ")
	}
	if f.Warning {
		b.WriteString("warning: ")
	}
	b.WriteString(f.Reason)
	if f.Remedy != "" {
		b.WriteString(". " + f.Remedy)
	}
	return b.String()
}

// Faults is everything that was found in one pass, in the order of files and
// lines.
type Faults []Fault

// Error gives one fault a line.
func (f Faults) Error() string {
	lines := make([]string, len(f))
	for i, fault := range f {
		lines[i] = fault.Error()
	}
	return strings.Join(lines, "\n")
}

// Fatal reports whether some fault is more than a warning.
func (f Faults) Fatal() bool {
	for _, fault := range f {
		if !fault.Warning {
			return true
		}
	}
	return false
}
