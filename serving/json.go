package serving

import (
	"fmt"
	"regexp"
	"strings"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"duet/serving/reason"
)

// jsonCodec reads and writes messages as JSON. Unlike connect's own codec it
// refuses fields that a message does not have, such as a misspelt "limt".
//
// Connect would report an error of Unmarshal without a reason and without passing
// the gate. So Unmarshal never fails: it returns an empty message that carries the
// error as an unknown field, and the gate refuses it ([unreadable]).
type jsonCodec struct{ name string }

// refusalField is the number of that field, the highest possible.
const refusalField = protowire.MaxValidNumber

// Name implements connect.Codec.
func (c jsonCodec) Name() string { return c.name }

// Marshal implements connect.Codec.
func (c jsonCodec) Marshal(message any) ([]byte, error) {
	m, ok := message.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("%T is not a message", message)
	}
	return protojson.Marshal(m)
}

// Unmarshal implements connect.Codec.
func (c jsonCodec) Unmarshal(text []byte, message any) error {
	m, ok := message.(proto.Message)
	if !ok {
		return fmt.Errorf("%T is not a message", message)
	}
	if err := (protojson.UnmarshalOptions{}).Unmarshal(text, m); err != nil {
		proto.Reset(m)
		m.ProtoReflect().SetUnknown(protowire.AppendString(protowire.AppendTag(nil, refusalField, protowire.BytesType), strings.ToValidUTF8(err.Error(), "?")))
	}
	return nil
}

var unknownField = regexp.MustCompile(`unknown field "(.*)"$`)

// unreadable returns the error of a request's JSON; nil if it was read.
func unreadable(message any) error {
	m, ok := message.(proto.Message)
	if !ok {
		return nil
	}
	raw := m.ProtoReflect().GetUnknown()
	number, kind, n := protowire.ConsumeTag(raw)
	if n < 0 || number != refusalField || kind != protowire.BytesType {
		return nil
	}
	why, n := protowire.ConsumeString(raw[n:])
	if n < 0 {
		return nil
	}
	name := m.ProtoReflect().Descriptor().Name()
	if field := unknownField.FindStringSubmatch(why); field != nil {
		return reason.Field(reason.ArgumentInvalid, clip(field[1]), "there is no such field in a %s; correct its name or leave it out", name)
	}
	return reason.New(reason.ArgumentInvalid, "the body is not a %s in JSON: %s", name, strings.TrimLeft(strings.TrimPrefix(why, "proto:"), " \u00a0"))
}

// readConn returns unreadable messages as errors.
type readConn struct{ connect.StreamingHandlerConn }

// Receive implements connect.StreamingHandlerConn.
func (c readConn) Receive(message any) error {
	if err := c.StreamingHandlerConn.Receive(message); err != nil {
		return err
	}
	return unreadable(message)
}
