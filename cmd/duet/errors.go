package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"duet/internal/client"
)

// Exit codes, for scripts.
const (
	exitDone        = 0
	exitNo          = 1 // the answer is no: differences, a check that failed, a refusal
	exitUsage       = 2 // the command line or a name in it is wrong
	exitUnreachable = 3 // nothing answers, or not yet
	exitInternal    = 4
)

// exitError is an error with its exit code. A text of "" prints nothing: all has
// been said.
type exitError struct {
	code int
	err  error
}

func (c *exitError) Error() string { return c.err.Error() }
func (c *exitError) Unwrap() error { return c.err }

// usageError is an error in what the user wrote.
func usageError(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, args...)}
}

// no is an answer that is no; an empty message when it has been printed.
func no(format string, args ...any) error {
	return &exitError{exitNo, fmt.Errorf(format, args...)}
}

// errNo is an answer that is no and has been printed.
var errNo = no("")

// report prints an error and gives its exit code.
func report(t *terminal, err error) int {
	if err == nil {
		return exitDone
	}
	code, text := explain(err, t.addr)
	if text != "" {
		fmt.Fprintln(t.err, "duet: "+text)
	}
	return code
}

// explain gives an error's exit code and its sentence for people.
func explain(err error, addr string) (code int, text string) {
	if own := (*exitError)(nil); errors.As(err, &own) {
		return own.code, err.Error()
	}
	if errors.Is(err, context.Canceled) && status.Code(err) == codes.Unknown {
		return exitNo, "interrupted"
	}
	var remote interface {
		error
		GRPCStatus() *status.Status
	}
	if !errors.As(err, &remote) {
		return exitInternal, err.Error()
	}
	st := remote.GRPCStatus()
	// What was put around the server's words stays; gRPC's own words go.
	message := strings.Replace(err.Error(), remote.Error(), st.Message(), 1)
	switch st.Code() {
	case codes.InvalidArgument, codes.NotFound, codes.OutOfRange:
		return exitUsage, message
	case codes.Unavailable:
		if client.Reason(err) != "" {
			return exitUnreachable, message
		}
		return exitUnreachable, fmt.Sprintf("no Duet server answers at %s (%s). Start one with duet up, or name another with --addr or DUET_ADDR", addr, lastPart(message))
	case codes.Canceled:
		return exitNo, "interrupted"
	case codes.DeadlineExceeded:
		return exitUnreachable, fmt.Sprintf("%s did not answer in time: %s", addr, message)
	case codes.Unimplemented:
		return exitUnreachable, fmt.Sprintf("what answers at %s does not know this call (%s): it is not a Duet server, or an older one. See duet version", addr, message)
	case codes.FailedPrecondition, codes.Aborted, codes.ResourceExhausted, codes.AlreadyExists, codes.PermissionDenied, codes.DataLoss:
		return exitNo, message
	default:
		return exitInternal, message
	}
}

// lastPart is the cause at the end of gRPC's chain: "connection refused".
func lastPart(message string) string {
	message = strings.TrimSuffix(message, `"`)
	if i := strings.LastIndex(message, ": "); i >= 0 {
		return message[i+2:]
	}
	return message
}
