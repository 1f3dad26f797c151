# Everything the project is built and tested with. Each target does its own set-up: missing Debian packages, FFmpeg, ONNX
# Runtime and the development tools are installed or built once and kept in a cache folder outside the checkout.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X upscaler/internal/version.Version=$(VERSION)

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

.PHONY: build
build: ## Build bin/sr-server and bin/sr-client
	@scripts/packages.sh
	. scripts/env.sh
	mkdir -p bin/lib
	cmp -s "$$UPSCALER_ONNXRUNTIME" bin/lib/libonnxruntime.so || cp "$$UPSCALER_ONNXRUNTIME" bin/lib/libonnxruntime.so
	echo "build: bin/sr-server (the first build compiles the FFmpeg bindings and takes a minute or two)"
	go build -trimpath -ldflags '$(LDFLAGS)' -o bin/sr-server ./cmd/sr-server
	echo "build: bin/sr-client"
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/sr-client ./cmd/sr-client

.PHONY: demo
demo: build ## Upscale a short clip and say where the result and a side-by-side picture lie
	@scripts/demo.sh

.PHONY: test
test: build ## Run the whole test suite, lint included
	@scripts/test.sh

.PHONY: test-fast
test-fast: build ## Run the Go tests without the race detector and without lint
	@. scripts/env.sh
	go test ./...

.PHONY: fuzz
fuzz: ## Decode damaged and hostile files for ten minutes (UPSCALER_FUZZ_TIME=1h for longer)
	@scripts/packages.sh test
	. scripts/env.sh
	UPSCALER_FUZZ_TIME=$${UPSCALER_FUZZ_TIME:-10m} go test ./decode -run TestHostileInputs -count 1 -timeout 0 -v

.PHONY: sanitize
sanitize: ## Test the CPU kernels under the address and undefined-behaviour sanitizers
	@scripts/packages.sh test
	sr/native/sanitize.sh

.PHONY: test-arm64
test-arm64: ## Test the CPU kernels for 64-bit ARM under emulation
	@scripts/packages.sh arm64
	sr/native/arm64.sh

.PHONY: soak
soak: build ## Run a live stream for ten minutes and watch the server's memory (UPSCALER_SOAK=8h for longer)
	@scripts/packages.sh test
	. scripts/env.sh
	UPSCALER_SOAK=$${UPSCALER_SOAK:-10m} go test ./test/live -run TestSoak -count 1 -timeout 0 -v

.PHONY: lint
lint: ## golangci-lint, buf lint, generated code fresh
	@scripts/lint.sh

.PHONY: generate
generate: ## Generate gen/ from proto/, and docs/fidelity.md from its test's tables
	@PATH="$$(scripts/tools.sh):$$PATH"
	buf generate proto
	. scripts/env.sh
	go test ./test/fidelity -run TestPageIsFresh -update

.PHONY: bench
bench: build ## Measure frames per second end to end and where a frame's time goes
	@scripts/bench.sh

.PHONY: bench-engines
bench-engines: build ## Measure the CPU engines, and OpenVINO and ncnn, on the same models and frame; writes docs/engines.md
	@scripts/bench-engines.sh

.PHONY: bench-live
bench-live: build ## Find the largest picture and frame rate that each model holds live
	@scripts/packages.sh test
	. scripts/env.sh
	go run ./bench/live

.PHONY: clean
clean: ## Remove what was built here (the cache folder stays)
	@rm -rf bin out
