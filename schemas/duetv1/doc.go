// Package duetv1 is the gRPC interface: Go code generated from
// schemas/proto/duet/v1 by schemas/proto/generate.sh. Read the .proto files:
// they hold the contract. Package duetv1connect has the same services as JSON
// over HTTP.
package duetv1

//go:generate ../proto/generate.sh
