package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"duet/internal/client"
)

// Exit codes, for scripts.
const (
	exitDone        = 0
	exitNo          = 1 // the answer is no: a difference, a failed check, a refusal
	exitUsage       = 2 // the command line, or a name in it, is wrong
	exitUnreachable = 3 // no server answers, or it is not ready
	exitInternal    = 4
)

// exitError is an error with an exit code. If its text is empty, nothing more is
// printed.
type exitError struct {
	code int
	err  error
}

func (c *exitError) Error() string { return c.err.Error() }
func (c *exitError) Unwrap() error { return c.err }

// usageError returns an error in what the user wrote.
func usageError(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, args...)}
}

// no returns an error with exit code exitNo.
func no(format string, args ...any) error {
	return &exitError{exitNo, fmt.Errorf(format, args...)}
}

// errNo is the error of an answer that is no and has been printed.
var errNo = no("")

// report prints an error and returns its exit code.
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

// explain returns an error's exit code and its message for people.
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
	// Keep what callers wrapped around the server's message, drop gRPC's prefix.
	message := strings.Replace(err.Error(), remote.Error(), withFlags(st), 1)
	switch st.Code() {
	case codes.InvalidArgument, codes.NotFound, codes.OutOfRange:
		return exitUsage, message
	case codes.Unavailable:
		if client.Reason(err) != "" {
			return exitUnreachable, message
		}
		return exitUnreachable, fmt.Sprintf("no Duet server answers at %s (%s). Start one with duet up, or name its address with --addr or DUET_ADDR", addr, lastPart(message))
	case codes.Canceled:
		return exitNo, "interrupted"
	case codes.DeadlineExceeded:
		return exitUnreachable, fmt.Sprintf("%s did not answer in time: %s", addr, message)
	case codes.Unimplemented:
		return exitUnreachable, fmt.Sprintf("the server at %s does not know this call (%s): it is not a Duet server, or an older one; compare duet version", addr, message)
	case codes.FailedPrecondition, codes.Aborted, codes.ResourceExhausted, codes.AlreadyExists, codes.PermissionDenied, codes.DataLoss:
		return exitNo, message
	default:
		return exitInternal, message
	}
}

// flagOf names the flag or argument that fills a field of a request; "" means
// that no user input does. TestEveryFieldHasAFlag keeps it complete.
var flagOf = map[string]string{
	"accept":           "--accept",
	"args":             "NAME=VALUE",
	"as_of_generation": "--as-of",
	"by_reason":        "--by-reason",
	"explain":          "--explain",
	"explain_only":     "--explain",
	"full":             "--full",
	"generation":       "<generation>",
	"group_by":         "--by",
	"having":           "--having",
	"limit":            "--limit",
	"not_before":       "--not-before",
	"order_by":         "--order-by",
	"page_size":        "--runs",
	"reason":           "--reason",
	"request_id":       "",
	"run":              "--run",
	"session":          "--session",
	"since":            "--since",
	"stream":           "--stream",
	"total":            "--total",
	"until":            "--until",
	"view":             "<view>",
	"what":             "<what>",
	"where":            "--where",
}

// fieldName matches the name of a field of more than one word, which no
// sentence contains by chance.
var fieldName = regexp.MustCompile(`\b[a-z]+_[a-z_]+\b`)

// withFlags returns a status's message with the names of the request's fields
// replaced by the flags that fill them. What stands in quotes is the user's.
func withFlags(st *status.Status) string {
	message := st.Message()
	for _, detail := range st.Details() {
		bad, ok := detail.(*errdetails.BadRequest)
		if !ok {
			continue
		}
		for _, violation := range bad.GetFieldViolations() {
			field := violation.GetField()
			if rest, ok := strings.CutPrefix(message, field); ok && flagOf[field] != "" {
				message = flagOf[field] + rest
			}
		}
		parts := strings.Split(message, `"`)
		for i := 0; i < len(parts); i += 2 {
			parts[i] = fieldName.ReplaceAllStringFunc(parts[i], func(name string) string {
				if flag := flagOf[name]; flag != "" {
					return flag
				}
				return name
			})
		}
		message = strings.Join(parts, `"`)
	}
	return message
}

// lastPart returns the cause at the end of gRPC's message: "connection refused".
func lastPart(message string) string {
	message = strings.TrimSuffix(message, `"`)
	if i := strings.LastIndex(message, ": "); i >= 0 {
		return message[i+2:]
	}
	return message
}
