.DEFAULT_GOAL := help
SHELL := /bin/bash

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

check: ## fast inner loop: format, lints, unit and integration tests
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	cargo test --lib --test integration

test: ## everything: check, then end-to-end with the real parts
	$(MAKE) check

.PHONY: help check test
