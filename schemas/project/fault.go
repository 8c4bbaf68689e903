package project

import (
	"strconv"
	"strings"
)

// Fault is an error or a warning about a project: where it is, the reason and what
// to write instead.
type Fault struct {
	File    string // slash-separated path in the project's folder; "" for the project itself
	Line    int    // from 1; 0 if the fault is about the whole file
	Column  int    // from 1, in characters; 0 when unknown
	Reason  string // without a full stop at its end
	Remedy  string // what to write or do; without a full stop at its end; may be empty
	Warning bool   // the project can be used as it is
}

// Error returns "file:line:column: reason. remedy" without the parts that are not
// set.
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

// Faults are the faults of a project, ordered by file and line.
type Faults []Fault

// Error returns one line a fault.
func (f Faults) Error() string {
	lines := make([]string, len(f))
	for i, fault := range f {
		lines[i] = fault.Error()
	}
	return strings.Join(lines, "\n")
}

// Fatal reports whether any fault is more than a warning.
func (f Faults) Fatal() bool {
	for _, fault := range f {
		if !fault.Warning {
			return true
		}
	}
	return false
}
