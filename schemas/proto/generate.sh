#!/bin/sh
# Regenerates schemas/duetv1 from the protos here. Run from anywhere:
#
#	schemas/proto/generate.sh          lint, then write the Go code
#	schemas/proto/generate.sh breaking REF   fail if the protos break clients of the git ref
#
# buf and the plugins are Go tools of tools/go.mod, at fixed versions: the same
# protos give the same bytes. The network is needed only until Go has fetched them.
set -eu
cd "$(dirname "$0")"
proto=$PWD
tools=$(cd ../../tools && pwd)
bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
(cd "$tools" && go build -o "$bin/" \
	github.com/bufbuild/buf/cmd/buf \
	google.golang.org/protobuf/cmd/protoc-gen-go \
	google.golang.org/grpc/cmd/protoc-gen-go-grpc \
	connectrpc.com/connect/cmd/protoc-gen-connect-go)
PATH=$bin:$PATH
export BUF_CACHE_DIR="$bin/cache"
if [ "${1:-}" = breaking ]; then
	root=$(git rev-parse --show-toplevel)
	exec buf breaking --against "$root/.git#ref=${2:-HEAD},subdir=schemas/proto"
fi
buf lint
rm -rf ../duetv1/*.pb.go ../duetv1/duetv1connect
mkdir -p ../duetv1
buf generate
cd "$proto/../duetv1" && gofmt -l . | (! grep .)
