# Each target is a line or two that calls cargo xtask; `cargo xtask help` lists the rest.
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo --preserve-env=PATH,CI)
TARGET := $(or $(CARGO_TARGET_DIR),target)

.PHONY: setup demo test test-kernels bench lint

# What is missing on a fresh Debian or Ubuntu with rustup. Cargo itself needs a linker first.
setup:
	@command -v cc >/dev/null || { $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq gcc libc6-dev; }
	@cargo xtask setup

# Two nodes, real packets, a story and a table.
demo: setup
	@cargo xtask build
	@$(SUDO) $(TARGET)/release/countersign lab demo

# Everything there is to test, the lab included: needs root.
test: setup
	@cargo xtask test

# Debian's kernels in virtual machines: countersign-wg against their WireGuard, our eBPF programs on them.
test-kernels: setup
	@cargo xtask test-kernels

# Every benchmark, into bench/RESULTS.md: needs root.
bench: setup
	@cargo xtask bench all

lint: setup
	@cargo xtask lint
