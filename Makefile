# SPDX-License-Identifier: Apache-2.0
#
# Everything that a developer or CI runs has a target here; `make` lists them.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)

# Where `make install` puts things. DESTDIR is for packagers.
PREFIX      ?= /usr/local
DESTDIR     ?=
CNI_BIN_DIR ?= /opt/cni/bin
UNIT_DIR    ?= /etc/systemd/system

GO         ?= go
GOFLAGS_IN := -trimpath -ldflags "-X cilium.local/cilium/internal/version.version=$(VERSION)"
BIN        := $(CURDIR)/build/bin
TOOLS      := $(CURDIR)/build/tools
PROGRAMS   := $(sort $(notdir $(patsubst %/,%,$(dir $(wildcard cmd/*/*.go)))))

CLANG      ?= clang-19
LLVM_STRIP ?= llvm-strip-19
FORMAT_C   ?= clang-format-19

# vmlinux.h is the kernel's own text, so it is neither formatted nor warned about.
BPF_SOURCES := $(wildcard bpf/*.c)
BPF_HEADERS := $(shell find bpf -name '*.h' 2>/dev/null)
BPF_FORMAT  := $(shell find bpf test/bench -name '*.[ch]' ! -name 'vmlinux*.h' 2>/dev/null)
OBJECT_DIR  := internal/datapath/prog/objects
BPF_OBJECTS := $(patsubst bpf/%.c,$(OBJECT_DIR)/%.o,$(BPF_SOURCES))
BPF_CFLAGS  := -O2 -g -std=gnu11 -target bpf -mcpu=v3 \
	-Wall -Werror -Wno-missing-declarations \
	-ffile-prefix-map=$(CURDIR)/= -fdebug-compilation-dir=. \
	-Ibpf -isystem bpf/include -isystem /usr/include/$(shell uname -m)-linux-gnu

# The benchmarks' own BPF program, which the agent does not embed.
BENCH_SOURCE := test/bench/kernel/bpf/driver.c
BENCH_OBJECT := test/bench/kernel/objects/driver.o

GENABI = $(GO) run -C tools ./genabi -object $(CURDIR)/$(OBJECT_DIR)/endpoint.o -headers $(CURDIR)/bpf/lib

# Packages under test/ run whole nodes, so they run one after the other; all
# others run side by side. FUZZTIME is per fuzz target. VM_KERNELS are the versions
# for test-vm.
ALL_PACKAGES = $(shell $(GO) list ./...)
E2E_PACKAGES = $(filter cilium.local/cilium/test/%,$(ALL_PACKAGES))
OTHERS       = $(filter-out $(E2E_PACKAGES),$(ALL_PACKAGES))
FUZZTIME ?= 30s
VM_KERNELS ?= 6.1 6.12
TESTFLAGS ?=

##@ Build

.PHONY: help
help: ## List the targets
	@awk 'BEGIN { FS = ":.*## " } /^##@/ { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  %-15s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: setup
setup: ## Install what the build needs, from Debian's packages (quick when it is there)
	@tools/setup build

.PHONY: gen
gen: $(BPF_OBJECTS) ## Compile the BPF programs that the agent embeds

$(OBJECT_DIR)/%.o: bpf/%.c $(BPF_HEADERS) Makefile
	@mkdir -p $(@D) build/bpf
	@command -v $(CLANG) >/dev/null || { echo "make gen: $(CLANG) is not installed: run make setup" >&2; exit 1; }
	$(CLANG) $(BPF_CFLAGS) -c $< -o build/bpf/$(@F)
	$(LLVM_STRIP) -g build/bpf/$(@F)
	@mv build/bpf/$(@F) $@

$(BENCH_OBJECT): $(BENCH_SOURCE) Makefile
	@mkdir -p build/bpf
	$(CLANG) $(BPF_CFLAGS) -c $< -o build/bpf/$(@F)
	$(LLVM_STRIP) -g build/bpf/$(@F)
	@mv build/bpf/$(@F) $@

.PHONY: generate
generate: gen ## Write the committed generated Go files again, from the C headers
	$(GENABI) -abi $(CURDIR)/internal/datapath/abi -flow $(CURDIR)/internal/flow
	$(GO) generate ./...

.PHONY: build
build: gen ## Compile all programs into build/bin
	$(GO) build $(GOFLAGS_IN) -o $(BIN)/ $(addprefix ./cmd/,$(PROGRAMS))

.PHONY: install
install: build ## Install programs and systemd units (PREFIX, DESTDIR); enables nothing
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(CNI_BIN_DIR) $(DESTDIR)$(UNIT_DIR) $(DESTDIR)$(PREFIX)/share/cilium
	for p in $(filter-out cilium-cni,$(PROGRAMS)); do install -m 755 $(BIN)/$$p $(DESTDIR)$(PREFIX)/bin/$$p; done
	install -m 755 $(BIN)/cilium-cni $(DESTDIR)$(CNI_BIN_DIR)/cilium-cni
	for u in deploy/systemd/*.service; do \
		sed 's|/usr/local/bin/|$(PREFIX)/bin/|g' $$u >$(DESTDIR)$(UNIT_DIR)/$${u##*/}; \
	done
	install -m 644 deploy/cni/05-cilium.conflist $(DESTDIR)$(PREFIX)/share/cilium/05-cilium.conflist

.PHONY: uninstall
uninstall: ## Remove what install put there; state and kernel objects stay (see: cilium cleanup)
	for p in $(filter-out cilium-cni,$(PROGRAMS)); do rm -f $(DESTDIR)$(PREFIX)/bin/$$p; done
	rm -f $(DESTDIR)$(CNI_BIN_DIR)/cilium-cni
	for u in deploy/systemd/*.service; do rm -f $(DESTDIR)$(UNIT_DIR)/$${u##*/}; done
	rm -rf $(DESTDIR)$(PREFIX)/share/cilium

.PHONY: clean
clean: ## Remove everything that was built
	rm -rf build $(OBJECT_DIR)/*.o $(BENCH_OBJECT)

##@ Check

.PHONY: unit
unit: gen ## Run the quick tests (no root needed)
	$(GO) test -short $(TESTFLAGS) ./...

.PHONY: test
test: ## Set up, build and run all tests; as root also those on a real kernel and Docker
	tools/setup build docker cluster
	$(MAKE) --no-print-directory build check check-generated
	$(GO) vet ./...
	CILIUM_BIN_DIR=$(BIN) $(GO) test -count=1 -timeout 20m $(TESTFLAGS) $(OTHERS)
	$(if $(E2E_PACKAGES),CILIUM_BIN_DIR=$(BIN) $(GO) test -count=1 -p 1 -timeout 30m $(TESTFLAGS) $(E2E_PACKAGES))

.PHONY: soak
soak: ## Run at full length what the tests run shortened: restarts and policy changes under load, the store away (root)
	$(MAKE) --no-print-directory build
	CILIUM_SOAK=1 CILIUM_BIN_DIR=$(BIN) $(GO) test -count=1 -v -timeout 60m -run 'Soak|WhileTheStoreIsAway' ./test/node

.PHONY: test-vm-quick
test-vm-quick: ## Load the programs in every configuration on Debian's other kernels, try Geneve, set the clock (root)
	tools/setup build cluster vm
	$(MAKE) --no-print-directory build
	for kernel in $(VM_KERNELS); do \
		echo "== Linux $$kernel"; \
		$(GO) test -count=1 -timeout 20m $(TESTFLAGS) -exec "$(CURDIR)/test/vm/run $$kernel" \
			-run 'EveryConstant|OldestVerifiers' ./internal/datapath; \
	done
	CILIUM_MUST_RUN=1 CILIUM_BIN_DIR=$(BIN) $(GO) test -count=1 -p 1 -timeout 20m $(TESTFLAGS) \
		-exec '$(CURDIR)/test/vm/run $(lastword $(VM_KERNELS))' -run 'Geneve/dual|TheClockIsSet' ./test/cluster ./test/node

.PHONY: test-vm
test-vm: ## Run the data plane's tests on Debian's other kernels, in emulated machines (root)
	tools/setup build cluster vm
	$(MAKE) --no-print-directory build
	for kernel in $(VM_KERNELS); do \
		run="$(GO) test -count=1 -p 1 -timeout 20m $(TESTFLAGS) -exec '$(CURDIR)/test/vm/run $$kernel'"; \
		echo "== Linux $$kernel"; \
		eval "$$run -skip IsQuick ./internal/datapath/..."; \
		CILIUM_BIN_DIR=$(BIN) eval "$$run -run 'PolicyByLabels|Killed|TheClockIsSet' ./test/node"; \
		CILIUM_MUST_RUN=1 CILIUM_BIN_DIR=$(BIN) eval "$$run -run Geneve ./test/cluster"; \
	done

.PHONY: race
race: gen ## Run the quick tests under the race detector
	$(GO) test -race -short -timeout 20m $(TESTFLAGS) ./...

.PHONY: check
check: ## Run the repository's own checks: layers, docs, licences, sizes, words
	$(GO) -C tools vet ./...
	$(GO) -C tools test -count=1 ./...

.PHONY: check-generated
check-generated: gen ## Compare the committed generated Go files with the C headers
	@dir=$$(mktemp -d); trap 'rm -rf "$$dir"' EXIT; mkdir $$dir/abi $$dir/flow; \
	$(GENABI) -abi $$dir/abi -flow $$dir/flow; \
	diff -u internal/datapath/abi/abi_gen.go $$dir/abi/abi_gen.go && \
	diff -u internal/flow/dropreason_gen.go $$dir/flow/dropreason_gen.go || \
	{ echo "generated Go files are stale: run make generate and commit" >&2; exit 1; }

.PHONY: lint
lint: check golangci-lint ## Run gofmt, go vet, golangci-lint and clang-format; changes nothing
	tools/setup lint
	@unformatted=$$(git ls-files -z --cached --others --exclude-standard '*.go' | \
		while IFS= read -r -d '' f; do if [[ -e $$f ]]; then printf '%s\0' "$$f"; fi; done | xargs -0 -r gofmt -l); \
	if [[ -n $$unformatted ]]; then printf 'gofmt: run make format for:\n%s\n' "$$unformatted"; exit 1; fi
	$(GO) vet ./...
	$(TOOLS)/golangci-lint run ./...
	cd tools && $(TOOLS)/golangci-lint run --config ../.golangci.yml ./...
	$(if $(BPF_FORMAT),$(FORMAT_C) --dry-run -Werror $(BPF_FORMAT))

.PHONY: format
format: ## Format Go and C in place
	git ls-files -z '*.go' | xargs -0 -r gofmt -w
	$(if $(BPF_FORMAT),$(FORMAT_C) -i $(BPF_FORMAT))

.PHONY: golangci-lint
golangci-lint: $(TOOLS)/golangci-lint

$(TOOLS)/golangci-lint: tools/go.mod tools/go.sum
	@mkdir -p $(@D)
	$(GO) build -C tools -o $@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint

.PHONY: fuzz
fuzz: gen ## Compare the policy engines in random worlds, and run each fuzz target, for FUZZTIME (30s) each
	tools/fuzz $(FUZZTIME)

##@ Show

# Built and started directly, because `go run` does not pass every signal on and
# cleaning up after an interrupt depends on them.
.PHONY: demo
demo: ## The Docker demo on a private node: installs, builds, shows, checks, cleans up (root)
	tools/setup build docker
	$(MAKE) --no-print-directory build
	$(GO) build -o build/test/demo ./test/demo
	CILIUM_BIN_DIR=$(BIN) build/test/demo

.PHONY: demo-policy
demo-policy: ## The policy language at work on a private node: deny, tiers, audit, simulation, explanation (root)
	tools/setup build
	$(MAKE) --no-print-directory build
	$(GO) build -o build/test/demo-policy ./test/demo/policy
	CILIUM_BIN_DIR=$(BIN) build/test/demo-policy

.PHONY: demo-cluster
demo-cluster: ## Nodes that know each other through etcd: VXLAN, native routing, two clusters joined (root)
	tools/setup build cluster
	$(MAKE) --no-print-directory build
	$(GO) build -o build/test/demo-cluster ./test/demo/cluster
	CILIUM_BIN_DIR=$(BIN) build/test/demo-cluster

# A cluster for a person: NODES and ROUTING choose what it is like.
NODES   ?= 3
ROUTING ?= vxlan

.PHONY: lab
lab: ## A cluster to play with until Ctrl-C; it says how: NODES=3 ROUTING=vxlan|native (root)
	tools/setup build cluster
	$(MAKE) --no-print-directory build
	$(GO) build -o build/test/lab ./test/demo/lab
	CILIUM_BIN_DIR=$(BIN) build/test/lab --nodes=$(NODES) --routing=$(ROUTING)

# BENCH_OUT=FILE keeps the figures as JSON, BENCH_DOC=FILE writes the tables into a
# document, such as docs/performance.md.
.PHONY: bench
bench: bench-program ## Measure traffic, packets, control plane, memory and compiling on private nodes (root, 15 minutes)
	CILIUM_BIN_DIR=$(BIN) build/test/bench
	$(GO) test -run '^$$' -bench . ./internal/policy/compile

.PHONY: bench-scale
bench-scale: bench-program ## Measure an agent that joins clusters of up to 1000 simulated nodes (root, 5 minutes)
	CILIUM_BIN_DIR=$(BIN) build/test/bench -only scale

.PHONY: bench-quick
bench-quick: bench-program ## Measure a part of what bench measures, in under 3 minutes (root)
	CILIUM_BIN_DIR=$(BIN) build/test/bench -quick

# Started directly for the same reason as the demo.
.PHONY: bench-program
bench-program:
	tools/setup build cluster bench
	$(MAKE) --no-print-directory build $(BENCH_OBJECT)
	$(GO) build -o build/test/bench ./test/bench
