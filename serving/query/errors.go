package query

import (
	"context"
	"errors"
	"strings"

	duckdb "github.com/duckdb/duckdb-go/v2"

	"duet/internal/base/duck"
	"duet/schemas/duetv1"
	"duet/schemas/view"
	"duet/serving/reason"
)

// conditionError converts the compiler's error about a request's options.
func conditionError(err error) error {
	var bad *view.ConditionError
	if !errors.As(err, &bad) {
		return err
	}
	r, field := reason.ArgumentInvalid, bad.Option
	switch bad.Option {
	case "where", "having":
		r = reason.ConditionInvalid
	case "by":
		field = "group_by"
	}
	text := strings.TrimPrefix(bad.Error(), bad.Option)
	return &reason.Error{
		Reason:     r,
		Message:    field + text,
		Violations: []reason.Violation{{Field: field, Description: strings.TrimLeft(text, ": ")}},
		Err:        err,
	}
}

// evaluation converts DuckDB's error in computing an answer. It is about the
// request's condition if it has one, else about the view's own SELECT.
func (e *Engine) evaluation(ctx context.Context, v View, req *duetv1.QueryRequest, err error) error {
	var known *reason.Error
	if errors.As(err, &known) || ctx.Err() != nil {
		return err
	}
	var de *duckdb.Error
	if !errors.As(err, &de) {
		return err
	}
	switch {
	case de.Type == duckdb.ErrorTypeOutOfMemory:
		return reason.New(reason.MemoryFull, "view %q: the store's memory does not hold this query; narrow it by where or since, or raise limits.memory in duet.yaml", v.Compiled.Name).Because(err)
	case !duck.Evaluates(err):
		return err
	}
	msg := firstLine(de.Msg)
	switch {
	case req.GetHaving() != "":
		return reason.Field(reason.ConditionInvalid, "having", "cannot be computed: %s", msg).Because(err)
	case req.GetWhere() != "":
		return reason.Field(reason.ConditionInvalid, "where", "cannot be computed: %s", msg).Because(err)
	}
	return reason.New(reason.ViewSuspended, "view %q: its SELECT cannot be computed over these events: %s; correct views/%s.sql, such as with TRY_CAST or a wider type, and start again", v.Compiled.Name, msg, v.Compiled.Name).Because(err)
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return s
}
