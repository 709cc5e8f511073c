# bulkhead: `make` says what there is to make.

# Where bulkhead looks for its files by default; after an installation elsewhere, /etc/bulkhead/config.toml must say so.
PREFIX ?= /usr
DESTDIR ?=

target  := target/x86_64-unknown-linux-gnu
release := $(target)/release
guest   := target/guest
testbed := $(target)/debug/bulkhead-testbed

# Where tests and the demonstration find the guest.
export BULKHEAD_KERNEL := $(CURDIR)/$(guest)/vmlinux
export BULKHEAD_INITRAMFS := $(CURDIR)/$(guest)/initramfs.cpio

# What the product is built with, what its guest kernel is, and what the emulated host for tests needs.
build_packages   := gcc libc6-dev libseccomp-dev
kernel_packages  := make binutils flex bison bc patch perl tar xz-utils libelf-dev linux-source-6.12
testbed_packages := qemu-system-x86 busybox-static cpio kmod zstd libcap-ng-dev erofs-utils e2fsprogs qemu-utils apparmor iproute2 systemd dbus
caller_packages  := podman buildah netavark conmon catatonit docker.io iptables containerd containernetworking-plugins
bench_packages   := runc crun

.PHONY: help run test figures soak conformance suite bench bench-io bench-growth bench-program profile install clean testbed-shell packages product testbed
.DEFAULT_GOAL := help

help: ## Say this
	@echo 'make TARGET, as root on Debian with a Rust toolchain:'
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1|\2/p' $(firstword $(MAKEFILE_LIST)) | while IFS='|' read -r name text; do \
		printf '  %-14s %s\n' "$$name" "$$text"; done

run: product testbed ## Build everything and run a container in its own microVM (15 minutes at first, then 1)
	@echo '== A container in its own microVM'
	@$(testbed) exec --here-if-possible -- $(target)/debug/bulkhead-demo

test: packages := $(caller_packages) $(bench_packages)
test: product testbed ## Check format, lints and figures, run unit and integration tests (80 minutes at first, then 30)
	@echo '== Format and lints'
	@cargo fmt --all --check
	@cargo clippy --quiet --workspace --all-targets -- --deny warnings
	@RUSTDOCFLAGS='--deny warnings' cargo doc --quiet --workspace --no-deps
	@echo '== Unit tests (2 minutes)'
	@cargo test --quiet --workspace --lib --bins
	@cargo test --quiet --workspace --doc
	@echo '== The main figures in virtual time (2 minutes)'
	@$(target)/debug/bulkhead-bench --check
	@echo '== Integration tests, each in a real microVM'
	@$(testbed) run

figures: packages := $(bench_packages)
figures: product testbed ## Fail if a main figure is more than 3 % worse than docs/performance.json has it (2 minutes)
	@$(target)/debug/bulkhead-bench --check

soak: packages := $(caller_packages)
soak: product testbed ## Run the tests that make and remove pods over and over, 200 times (1 to 3 hours)
	@BULKHEAD_SOAK=200 $(testbed) run --timeout-per-test 14400 cycles_leave_nothing

conformance: packages := $(bench_packages)
conformance: suite product testbed ## Run the runtime-spec's validation suite, built in SUITE; writes docs/conformance.md (30 minutes)
	@$(testbed) exec --here-if-possible -- $(target)/debug/bulkhead-conformance --suite $(abspath $(SUITE))

# Said before anything is built.
suite:
	@test -n '$(SUITE)' || { echo 'make conformance SUITE=FOLDER: docs/conformance.md says how that is built' >&2; exit 2; }

bench: packages := $(bench_packages) containerd
bench: product testbed ## Measure time and memory beside QEMU, runc and crun; writes docs/performance.md (5 minutes)
	@$(target)/debug/bulkhead-bench

bench-io: packages := $(bench_packages) containerd
bench-io: product testbed bench-program ## Measure what input and output cost beside QEMU and runc; writes docs/performance.md (5 minutes)
	@$(target)/debug/bulkhead-bench --suite io

bench-growth: packages := $(bench_packages) containerd
bench-growth: product testbed bench-program ## Measure how costs grow; writes docs/performance.md; takes 8 GiB of memory (15 minutes)
	@$(target)/debug/bulkhead-bench --suite growth

profile: packages := $(bench_packages) containerd
profile: product testbed ## Count the instructions of a start by function; writes docs/performance.md (3 minutes)
	@RUSTFLAGS= cargo rustc --quiet --release --package bulkhead-profiler --crate-type cdylib --target-dir target/profiler
	@$(target)/debug/bulkhead-bench --system-map "$$(dirname "$$(guest-kernel/build)")/System.map" \
		--profile target/profiler/x86_64-unknown-linux-gnu/release/libbulkhead_profiler.so

install: product ## Install to $(DESTDIR)$(PREFIX), by default /usr
	install -D -t $(DESTDIR)$(PREFIX)/bin $(release)/bulkhead
	ln -sf bulkhead $(DESTDIR)$(PREFIX)/bin/containerd-shim-bulkhead-v2
	install -D -t $(DESTDIR)$(PREFIX)/libexec/bulkhead $(release)/bulkhead-vmm
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/bulkhead $(guest)/vmlinux $(guest)/initramfs.cpio
	install -d $(DESTDIR)$(PREFIX)/share/man/man1
	$(release)/bulkhead man $(DESTDIR)$(PREFIX)/share/man/man1
	$(release)/bulkhead completion bash | install -D -m 644 /dev/stdin $(DESTDIR)$(PREFIX)/share/bash-completion/completions/bulkhead
	$(release)/bulkhead completion zsh | install -D -m 644 /dev/stdin $(DESTDIR)$(PREFIX)/share/zsh/vendor-completions/_bulkhead
	$(release)/bulkhead completion fish | install -D -m 644 /dev/stdin $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/bulkhead.fish

clean: ## Remove what was built here; downloads and the guest kernel stay in ~/.cache/bulkhead
	cargo clean

testbed-shell: testbed ## Open a shell in the emulated host that tests use where KVM cannot run guests
	@$(testbed) shell

packages:
	@tests/packages $(build_packages) $(kernel_packages) $(testbed_packages) $(packages)

# One profile for everything that runs as the product: the tests test, and the bench measures, the bytes that are
# installed. The tests themselves are built in the dev profile, which unit tests need anyhow.
product: packages
	@echo '== Guest kernel (8 to 20 minutes, once)'
	@mkdir -p $(guest)
	@cmp -s "$$(guest-kernel/build)" $(guest)/vmlinux || cp "$$(guest-kernel/build)" $(guest)/vmlinux
	@echo '== Release build (3 to 8 minutes at first)'
	@cargo build --release --package bulkhead-runtime --package bulkhead-vmm --package bulkhead-rootfs-builder
	@cargo build --profile agent --package bulkhead-agent
	@cp $(target)/agent/bulkhead-agent $(release)/bulkhead-agent
	@$(release)/bulkhead-rootfs initramfs --agent $(release)/bulkhead-agent --output $(guest)/initramfs.cpio

# What runs in measured containers and guests is built as programs there are.
bench-program: packages
	@echo '== The program that measures input and output (1 minute at first)'
	@cargo build --release --package bulkhead-bench-io

testbed: packages
	@echo '== Tools for tests (1 minute at first)'
	@cargo build --package bulkhead-tests
