# What a person does with this project. Everything that needs root says so and uses sudo for that part alone.

PREFIX ?= /usr/local
DESTDIR ?=
STATIC ?=
CARGO ?= cargo
SEEDS ?= 20
export CARGO

LAB = tests/lab

PACKAGING = packaging

.PHONY: help build demo test soak fuzz lint bench bench-undo static install uninstall deb release package-check clean-lab

help:
	@echo "make demo     two real machines on this one, a real sync between them, the proof"
	@echo "make test     every test; run under sudo, for they mount disks and boot machines"
	@echo "make soak     the random tests and kill tests with SEEDS=20 seeds, or SEEDS=7,8,9"
	@echo "make fuzz     lets a fuzzer loose on all that reads foreign bytes, TIME=60 seconds each"
	@echo "make lint     formatting, clippy and documentation, warnings are errors"
	@echo "make bench    side by side with rsync, tar and btrfs send; prints the tables of BENCHMARKS.md"
	@echo "make bench-undo  what rollbacks and status cost with a million files, each with its limit"
	@echo "make static   one static program that runs on any Linux of this architecture"
	@echo "make deb      a Debian package of it"
	@echo "make release  a tarball of it with its checksum, the same bytes each time"
	@echo "make package-check  proves what is said of these three, installed on two machines"
	@echo "make install  into \$$(DESTDIR)\$$(PREFIX), PREFIX=$(PREFIX)"
	@echo "              and with STATIC=1 the static program; make uninstall removes it"
	@echo "make clean-lab  remove what an interrupted lab left behind, and its cache"

build:
	@$(LAB)/need.sh build
	$(CARGO) build --release --bin pc-switcher

demo:
	@$(LAB)/need.sh build lab
	@$(LAB)/demo.sh

test:
	@$(LAB)/need.sh build lab test || $(LAB)/need.sh --check build
	@$(LAB)/test.sh

soak:
	@$(LAB)/need.sh build lab test
	@PC_SWITCHER_TEST_SEEDS=$(SEEDS) bash -o pipefail -c '$(LAB)/test.sh --nocapture --test-threads 1 random whatever | $(LAB)/survived.sh'

fuzz:
	@$(LAB)/need.sh build fuzz
	@fuzz/run.sh

lint:
	@$(LAB)/need.sh build lint
	$(CARGO) fmt --all --check
	$(CARGO) clippy --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps
	@if command -v shellcheck >/dev/null; then shellcheck -S warning $(LAB)/*.sh $(PACKAGING)/*.sh $(PACKAGING)/musl-cc $(PACKAGING)/openssl-perl fuzz/*.sh .ci/run; else echo "shellcheck is not installed: the scripts are not checked"; fi

bench:
	@$(LAB)/need.sh build lab
	@$(LAB)/bench.sh

bench-undo:
	@$(LAB)/need.sh build lab
	@$(LAB)/bench-undo.sh

static:
	@$(PACKAGING)/static.sh

install: $(if $(STATIC),,build)
	@$(PACKAGING)/install.sh $(if $(STATIC),"$$($(PACKAGING)/static.sh)",target/release/pc-switcher) "$(DESTDIR)$(PREFIX)"

uninstall:
	@$(PACKAGING)/install.sh --remove "$(DESTDIR)$(PREFIX)"

deb:
	@$(PACKAGING)/deb.sh

release:
	@$(PACKAGING)/release.sh

package-check:
	@$(PACKAGING)/check.sh

clean-lab:
	@$(LAB)/as-root.sh $(LAB)/lab.sh sweep
	@$(LAB)/as-root.sh rm -rf --one-file-system /var/cache/pc-switcher-lab
