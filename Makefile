.DEFAULT_GOAL := help
SHELL := /bin/bash

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

check: ## fast inner loop: format, lints, unit and integration tests
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	cargo test --lib --test integration

peers: ## the real parts the tests run against, into a cache outside the tree (CRIVET_PEERS)
	tests/e2e/peers/install.sh

fixtures: ## the signature fixtures made again, with real cosign: every file changes
	tests/fixtures/make.sh
	tests/fixtures/make-sigstore.sh
	tests/fixtures/make-chain.sh
	tests/fixtures/certificates/make.sh

# As root a missing part fails the tests; without root they say that they were skipped.
e2e: tools ## end-to-end tests with the real parts; needs root and `make peers`
	CRIVET_E2E=$$([ $$(id -u) != 0 ] || echo required) cargo test --test e2e

demo: ## a small node: a signed image runs, an unsigned one does not; needs root
	examples/demo/run.sh

# The suite's cases are not in the tree: CRIVET_CONFORMANCE says where they are. Skipped where they are not.
conformance: ## sigstore's conformance suite on crivet's verifier: how many of its cases come out right
	cargo build --quiet --example conformance
	examples/conformance/run.sh target/debug/examples/conformance

bench-peers: ## what the bench compares with, into the same cache
	tests/e2e/peers/install.sh haproxy socat nginx containerd-1.6 containerd-2 runc docker-registry busybox cosign-2 crictl

bench: bench-peers ## relay beside the runtime, socat, HAProxy and nginx; CreateContainer's share: tables of ratios
	cargo bench --profile dist --bench side-by-side --bench create --bench calls

# Without fat LTO, which takes minutes for each of the three test programs and changes little here.
figures: ## what vetting costs: verifications a second, policies by the thousand, the proofs' store, time, memory and requests beside cosign's
	cargo test --release --lib verifications_per_second -- --ignored --nocapture
	cargo test --release --lib policies_by_the_thousand -- --ignored --nocapture
	cargo test --release --test integration proofs::figures -- --ignored --nocapture
	CRIVET_E2E=$$([ $$(id -u) != 0 ] || echo required) cargo test --release --test e2e -- --nocapture signers:: figures::

# Kept outside the tree, beside the peers; the advisory database is not asked, so that the check needs no network.
TOOLS := $(if $(CRIVET_PEERS),$(CRIVET_PEERS),$(HOME)/.cache/crivet/peers)/tools
$(TOOLS)/bin/cargo-deny:
	cargo install --locked --root $(TOOLS) cargo-deny@0.20.2

deny: $(TOOLS)/bin/cargo-deny ## licences, forbidden crates and sources of every dependency
	$(TOOLS)/bin/cargo-deny check licenses bans sources

$(TOOLS)/bin/cargo-fuzz:
	cargo install --locked --root $(TOOLS) cargo-fuzz@0.13.1

fuzz: $(TOOLS)/bin/cargo-fuzz ## the fuzz targets, FUZZ_SECONDS (60) each, with the stable toolchain; FUZZ_TARGETS for some
	fuzz/run.sh $(abspath $<) $(FUZZ_TARGETS)

$(TOOLS)/bin/nfpm:
	GOBIN=$(abspath $(TOOLS)/bin) go install github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.45.1

tools: $(TOOLS)/bin/cargo-deny $(TOOLS)/bin/nfpm ## what checks and packs, beside the peers

dist: $(TOOLS)/bin/nfpm ## the .deb, the .rpm and the tarball, into target/packages
	NFPM=$(abspath $<) packaging/dist.sh target/packages

dist-check: $(TOOLS)/bin/nfpm ## builds all of it twice, in two folders, from the last commit: the hashes must be the same
	NFPM=$(abspath $<) packaging/dist-check.sh

test: ## everything: check, deny, then end-to-end with the real parts
	$(MAKE) peers
	$(MAKE) check
	$(MAKE) deny
	$(MAKE) e2e

.PHONY: help check peers fixtures e2e demo conformance bench-peers bench figures deny fuzz tools dist dist-check test
