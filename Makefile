# Duet. `make` alone prints the targets.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# DuckDB's driver builds its Arrow interface only with this tag.
TAGS := duckdb_arrow
GO ?= go
export CGO_ENABLED := 1
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LINT := $(GO) tool -modfile=tools/lint/go.mod golangci-lint
# Test binaries link DuckDB; without symbols they are half the size.
# Tests sync as many files as the product; in memory that is cheap.
SCRATCH := $(shell [ -w /dev/shm ] && echo TMPDIR=/dev/shm)
TESTFLAGS := -tags $(TAGS) -ldflags='-s -w' -p 2 -timeout 20m
SEED ?= $(shell date +%s)
DUET_KILLS ?= 200
BENCH ?=

.PHONY: help demo build test torture bench lint generate generated race tools-present clean

help: ## print the targets
	@echo "make demo      build, then run a live shop in ./duet-demo"
	@echo "make build     build bin/duet (needs Go 1.26, gcc and g++)"
	@echo "make test      run every test; needs neither network nor services"
	@echo "make torture   kill the server $(DUET_KILLS) times at random moments and compare (SEED=n repeats a run)"
	@echo "make bench     print one tab-separated line per figure, with a limit measured in the same run"
	@echo "make lint      linters, import walls, formatting, go.mod, protos, generated code"
	@echo "make generate  regenerate code from the protos"

demo: build ## a live shop
	@exec bin/duet up --demo

# Checks the tools first: one sentence instead of a page of compiler output.
tools-present:
	@command -v $(GO) >/dev/null || { echo "Duet needs Go 1.26 or newer, and there is no go on the PATH: install it from https://go.dev/dl/ and run make again." >&2; exit 1; }
	@have=$$($(GO) env GOVERSION 2>/dev/null) || have=$$(cd / && GOTOOLCHAIN=local $(GO) env GOVERSION); \
	n=$${have#go}; n=$${n%%[-a-z ]*}; major=$${n%%.*}; minor=$${n#*.}; minor=$${minor%%.*}; \
	if [ "$$major" -lt 1 ] || { [ "$$major" -eq 1 ] && [ "$$minor" -lt 26 ]; }; then \
	echo "Duet needs Go 1.26 or newer, and this is $$have: install a newer one from https://go.dev/dl/ and run make again." >&2; exit 1; fi
	@cc=$$($(GO) env CC); command -v $${cc%% *} >/dev/null || { echo "Duet links DuckDB, which needs a C compiler, and there is no $$cc on the PATH: install gcc and g++ (Debian: apt-get install gcc g++; Fedora: dnf install gcc gcc-c++; macOS: xcode-select --install) and run make again." >&2; exit 1; }
	@if [ "$$(uname)" = Linux ]; then cc=$$($(GO) env CC); echo 'int main(void){return 0;}' | $$cc -x c - -lstdc++ -o /dev/null 2>/dev/null || { echo "Duet links DuckDB, which needs the C++ standard library, and $$cc cannot link it: install g++ (Debian: apt-get install g++; Fedora: dnf install gcc-c++) and run make again." >&2; exit 1; }; fi

# go build -v prints each package that it compiles, not those in the cache. No
# -trimpath: make test would have to compile everything again.
build: tools-present ## bin/duet
	@echo "Building bin/duet $(VERSION) (the first build fetches DuckDB and takes a few minutes)"
	@tty=0; if [ -t 1 ]; then tty=1; fi; \
	$(GO) build -v -tags $(TAGS) -ldflags="-s -w -X main.version=$(VERSION)" -o bin/duet ./cmd/duet 2>&1 | \
	awk -v tty=$$tty ' \
	  function line(s) { if (tty) printf "\r\033[K  %s", substr(s, 1, 76); else print "  " s; fflush() } \
	  /^go: (downloading|finding)/ { line("fetching " $$3 " " $$4); next } \
	  /^[A-Za-z0-9._~\/-]+$$/ { n++; if (tty || n % 50 == 0) line("compiled " n " packages, the last " $$0); next } \
	  { if (tty && n) printf "\r\033[K"; print } \
	  END { if (tty) printf "\r\033[K" }'
	@echo "bin/duet is ready"

test: tools-present ## everything
	@$(SCRATCH) $(GO) test $(TESTFLAGS) ./...

torture: tools-present ## random kills
	@echo "seed $(SEED), $(DUET_KILLS) kills; repeat with SEED=$(SEED) DUET_KILLS=$(DUET_KILLS) make torture"
	@SEED=$(SEED) DUET_KILLS=$(DUET_KILLS) $(GO) test -tags $(TAGS) -ldflags='-s -w' -run TestRandomKills -count=1 -timeout 6h -v ./internal/test/torture

bench: build ## name ours unit limit-or-rival ratio target ok|short
	@BENCH_QUIET=1 $(GO) run -tags $(TAGS) ./internal/test/bench -only '$(BENCH)'

lint: ## linters and generated code
	@out=$$(git ls-files -z --cached --others --exclude-standard '*.go' | xargs -0 -r ls 2>/dev/null | grep -v '\.pb\.go$$\|\.connect\.go$$' | xargs -r gofmt -l); \
	if [ -n "$$out" ]; then echo "gofmt would change these files; run gofmt -w on them:" >&2; echo "$$out" >&2; exit 1; fi
	@$(LINT) run --build-tags $(TAGS) ./...
	@$(GO) test ./internal/test/walls
	@$(GO) mod tidy -diff || { echo "go.mod is not tidy: run go mod tidy and commit go.mod and go.sum." >&2; exit 1; }
	@$(MAKE) generated

generate: ## protos
	@schemas/proto/generate.sh

# Checks that the generated code in the tree is up to date. make generate lints
# the protos first.
generated:
	@before=$$(cd schemas/duetv1 && find . -name '*.go' | sort | xargs sha256sum); $(MAKE) generate; \
	after=$$(cd schemas/duetv1 && find . -name '*.go' | sort | xargs sha256sum); \
	if [ "$$before" != "$$after" ]; then echo "The generated code was out of date; make generate has updated it. Commit these files:" >&2; git status --short -- schemas/duetv1 >&2; exit 1; fi

race: tools-present
	@$(SCRATCH) $(GO) test -race -short $(TESTFLAGS) ./...

clean: ## remove bin
	@rm -rf bin
