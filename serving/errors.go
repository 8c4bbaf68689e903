package serving

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"duet/batch"
	"duet/batch/archive"
	"duet/batch/catalog"
	"duet/internal/base/durable"
	"duet/serving/reason"
	"duet/serving/store"
	"duet/speed/eventlog"
)

// known returns the reason of an error, and nil if it has none. It is the one
// place where the errors of other packages become reasons.
func known(err error) *reason.Error {
	var (
		own     *reason.Error
		full    *eventlog.FullError
		order   *eventlog.OrderError
		request *eventlog.RequestError
		refused *eventlog.RefusedError
	)
	switch {
	case errors.As(err, &own):
		return own
	case errors.As(err, &full):
		return reason.New(reason.LogFull, "%s", full.Error()).Because(err)
	case errors.As(err, &order):
		return reason.New(reason.ProducerOutOfOrder, "%s", order.Error()).Because(err).With("expected", strconv.FormatUint(order.Expected, 10))
	case errors.As(err, &request):
		return reason.Field(reason.ArgumentInvalid, request.Field, "%s", request.Reason).Because(err)
	case errors.Is(err, eventlog.ErrTooLarge):
		return reason.New(reason.MessageTooLarge, "%s; send fewer events at once", err).Because(err)
	case errors.Is(err, eventlog.ErrBusy):
		return reason.New(reason.Busy, "the ingest queue stayed full; nothing of the request was stored; try again, slower").Because(err)
	case errors.Is(err, eventlog.ErrClosed):
		return reason.New(reason.Stopping, "the server is stopping; try again").Because(err)
	case errors.As(err, &refused):
		return reason.New(reason.Damaged, "%s", refused.Error()).Because(err)
	case errors.Is(err, eventlog.ErrDamaged), errors.Is(err, eventlog.ErrMissing), errors.Is(err, eventlog.ErrDiffers), errors.Is(err, eventlog.ErrBehind), errors.Is(err, eventlog.ErrRecreated):
		return reason.New(reason.Damaged, "%s", err).Because(err)
	case errors.Is(err, eventlog.ErrUnknown):
		return reason.New(reason.DeadlineOver, "%s", err).Because(err)
	case errors.Is(err, eventlog.ErrEarlier), errors.Is(err, eventlog.ErrUnavailable):
		return reason.New(reason.LogRefused, "%s", err).Because(err)
	}
	return knownStore(err)
}

// knownStore returns the reason of an error of the store.
func knownStore(err error) *reason.Error {
	var (
		unknown    *store.UnknownViewError
		suspended  *store.SuspendedError
		rebuilding *store.RebuildingError
	)
	switch {
	case errors.As(err, &unknown):
		return reason.New(reason.ViewUnknown, "%s", unknown.Error()).Because(err)
	case errors.As(err, &suspended):
		return reason.New(reason.ViewSuspended, "%s", suspended.Error()).Because(err).With("view", suspended.Suspension.View)
	case errors.As(err, &rebuilding):
		return reason.New(reason.ViewRebuilding, "%s", rebuilding.Error()).Because(err).With("view", rebuilding.View)
	case errors.Is(err, store.ErrClosed):
		return reason.New(reason.Stopping, "the server is stopping; try again").Because(err)
	}
	return knownBatch(err)
}

// knownBatch returns the reason of an error of the archive or the batch half.
func knownBatch(err error) *reason.Error {
	var (
		damage *durable.DamageError
		fenced *archive.FencedError
		gap    *archive.GapError
		busy   *batch.BusyError
		run    *batch.UnknownRunError
		gone   *catalog.NotKeptError
	)
	switch {
	case errors.As(err, &busy):
		return reason.New(reason.RunQueued, "%s", busy.Error()).Because(err)
	case errors.As(err, &run):
		return reason.New(reason.RunUnknown, "%s", run.Error()).Because(err)
	case errors.As(err, &gone):
		return reason.New(reason.GenerationUnknown, "%s", gone.Error()).Because(err)
	case errors.Is(err, batch.ErrStopped):
		return reason.New(reason.Stopping, "%s; try again", err).Because(err)
	case errors.Is(err, archive.ErrRepaired):
		return reason.New(reason.ViewRebuilding, "a damaged file of the archive has just been rebuilt from the log; try again").Because(err)
	case errors.As(err, &damage):
		return reason.New(reason.Damaged, "%s", damage.Error()).Because(err)
	case errors.As(err, &fenced):
		return reason.New(reason.Fenced, "%s", fenced.Error()).Because(err)
	case errors.As(err, &gap):
		return reason.New(reason.Damaged, "%s", gap.Error()).Because(err)
	}
	return nil
}

// refusal returns a reason for any error. An unexpected error is logged under an
// id, and only the id is sent.
func refusal(err error, log *slog.Logger, method string) *reason.Error {
	if e := known(err); e != nil {
		return e
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return reason.New(reason.DeadlineOver, "the call was still running when its deadline passed; allow it more time").Because(err)
	case errors.Is(err, context.Canceled):
		return reason.New(reason.Cancelled, "the client cancelled the call").Because(err)
	}
	if s, ok := status.FromError(err); ok {
		switch s.Code() {
		case codes.Unimplemented:
			return reason.New(reason.MethodUnknown, "there is no such method: %s", method).Because(err)
		case codes.ResourceExhausted:
			return reason.New(reason.MessageTooLarge, "%s", s.Message()).Because(err)
		case codes.Canceled:
			return reason.New(reason.Cancelled, "the client cancelled the call").Because(err)
		}
	}
	id := strings.ToLower(rand.Text()[:10])
	log.Error("internal error", "method", method, "error_id", id, "error", err)
	return reason.New(reason.Internal, "internal error %s; the server's log has the details under this id", id).With("error_id", id).Because(err)
}

// details returns what a status carries beside its code and message.
func details(e *reason.Error) []proto.Message {
	out := []proto.Message{&errdetails.ErrorInfo{Reason: string(e.Reason), Domain: reason.Domain, Metadata: e.Metadata}}
	if len(e.Violations) > 0 {
		bad := &errdetails.BadRequest{}
		for _, v := range e.Violations {
			bad.FieldViolations = append(bad.FieldViolations, &errdetails.BadRequest_FieldViolation{Field: v.Field, Description: v.Description})
		}
		out = append(out, bad)
	}
	switch e.Reason {
	case reason.CatchingUp, reason.ViewRebuilding, reason.Stopping, reason.LogRefused, reason.LogFull, reason.Busy, reason.TooManyConnections:
		out = append(out, &errdetails.RetryInfo{RetryDelay: durationpb.New(time.Second)})
	}
	return out
}

// grpcError returns e for grpc-go.
func grpcError(e *reason.Error) error {
	s := status.New(e.Reason.Code(), e.Message).Proto()
	for _, d := range details(e) {
		if a, err := anypb.New(d); err == nil {
			s.Details = append(s.Details, a)
		}
	}
	return status.FromProto(s).Err()
}

// connectError returns e for connect: JSON over HTTP, gRPC-web and gRPC.
func connectError(e *reason.Error) *connect.Error {
	out := connect.NewError(connect.Code(e.Reason.Code()), errors.New(e.Message))
	for _, d := range details(e) {
		if detail, err := connect.NewErrorDetail(d); err == nil {
			out.AddDetail(detail)
		}
	}
	return out
}
