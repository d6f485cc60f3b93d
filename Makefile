# For POSIX make and BSD make alike: no conditionals, no pattern rules.

PREFIX = /usr/local
SBINDIR = $(PREFIX)/sbin
MANDIR = $(PREFIX)/share/man
PAGES = announced.8 announced.conf.5 announced-cluster.7 announced-opentracker.7 announced-stats.5
EXAMPLESDIR = $(PREFIX)/share/examples/announced
EXAMPLES = announced.conf nginx.conf haproxy.cfg relayd.conf Caddyfile
BASHDIR = $(PREFIX)/share/bash-completion/completions
ZSHDIR = $(PREFIX)/share/zsh/site-functions
FISHDIR = $(PREFIX)/share/fish/vendor_completions.d
DOCDIR = $(PREFIX)/share/doc/announced
CARGO = cargo
INSTALL = install
TEST_THREADS = 6

# Debian's rustc-web, cargo-web and rust-web-src come with the standard library's source, from which it
# is compiled for other systems (check-targets) and for size (tiny). A nightly toolchain would do as well.
WEB_CARGO = RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 /usr/bin/cargo

# A panic is an abort without a word, and nothing is kept to say where or to unwind. Repeated sequences
# of instructions become functions; opt-level "s" without that is a tenth larger.
TINY = --release --locked -Zbuild-std=std,panic_abort -Zbuild-std-features=optimize_for_size -Zpanic-immediate-abort \
	--config 'profile.release.opt-level="z"' --config 'profile.release.panic="immediate-abort"' \
	--config 'profile.release.package.miniz_oxide.opt-level="z"'
TINY_FLAGS = -Zunstable-options -Zlocation-detail=none -Zfmt-debug=none -Cforce-unwind-tables=no \
	-Cllvm-args=-enable-machine-outliner=always -Crelocation-model=static \
	-Clink-arg=-Wl,--build-id=none -Clink-arg=-Wl,-z,noseparate-code -Clink-arg=-Wl,-z,norelro
MUSL_GCC = musl-gcc
# Nothing unwinds, but the standard library asks for libunwind; an empty one will do.
STATIC_FLAGS = -Clinker=$(MUSL_GCC) -Clink-self-contained=no -Ctarget-feature=+crt-static -Lnative=target/empty
GNU = --target x86_64-unknown-linux-gnu
MUSL = --target x86_64-unknown-linux-musl

# Only the link differs from a plain `cargo build --release`: the binary has no tables for unwinding, since a panic aborts.
LINK_FLAGS = -Clink-arg=-Wl,--no-eh-frame-hdr -Clink-arg=-Wl,--build-id=none -Clink-arg=-Wl,-T,contrib/small.ld

BUILD = $(CARGO) rustc --release --locked --bin announced $(CARGOFLAGS) -- $(LINK_FLAGS)

# Where that puts the binary, by the environment variables that cargo reads, too.
BUILT = $${CARGO_TARGET_DIR:-$${CARGO_BUILD_TARGET_DIR:-target}}/$${CARGO_BUILD_TARGET:+$$CARGO_BUILD_TARGET/}release/announced

all:
	$(BUILD)

# The smallest binary: target/tiny/x86_64-unknown-linux-gnu/release/announced
tiny:
	RUSTFLAGS='$(TINY_FLAGS)' $(WEB_CARGO) build $(CARGOFLAGS) $(TINY) --target-dir target/tiny $(GNU)

# The same without shared libraries, for any x86-64 Linux; needs musl-gcc (Debian's musl-tools):
# target/tiny/x86_64-unknown-linux-musl/release/announced
tiny-static: target/empty/libunwind.a
	RUSTFLAGS='$(TINY_FLAGS) $(STATIC_FLAGS)' $(WEB_CARGO) build $(CARGOFLAGS) $(TINY) --target-dir target/tiny $(MUSL)

# The same two without the optional parts, for routers: target/router/…/release/announced
router:
	RUSTFLAGS='$(TINY_FLAGS)' $(WEB_CARGO) build $(CARGOFLAGS) $(TINY) --no-default-features --target-dir target/router $(GNU)

router-static: target/empty/libunwind.a
	RUSTFLAGS='$(TINY_FLAGS) $(STATIC_FLAGS)' $(WEB_CARGO) build $(CARGOFLAGS) $(TINY) --no-default-features \
		--target-dir target/router $(MUSL)

target/empty/libunwind.a:
	mkdir -p target/empty
	ar cr target/empty/libunwind.a

# Most tests wait most of the time, for daemons that have timeouts of their own: on two cores, six at a time take
# half as long as two.
check:
	RUST_TEST_THREADS=$(TEST_THREADS) $(CARGO) test --locked $(CARGOFLAGS) $(TESTFLAGS)

# The tests of single features again, with two threads: those of sockets, requests, and work over the whole table.
check-threads:
	ANNOUNCED_THREADS=2 RUST_TEST_THREADS=$(TEST_THREADS) $(CARGO) test --locked $(CARGOFLAGS) $(TESTFLAGS) \
		--test cluster --test decoys --test faults --test fullscrape --test http --test limits --test lists --test log \
		--test multicast --test opentracker --test pause --test privileges --test proxy --test signals --test state \
		--test stats --test udp

# Mixed traffic against two nodes with faults, for an hour or so; `make check` does it for some seconds.
SOAK_SECONDS = 180
soak:
	SOAK_SECONDS=$(SOAK_SECONDS) $(CARGO) test --locked $(CARGOFLAGS) --test soak -- --nocapture

# Feeds each target with random inputs for so long: needs `cargo install cargo-fuzz`. Inputs that reach new code
# are added to target/fuzz/corpus; one that fails is in tests/fuzz/artifacts. The option -Z that cargo-fuzz passes is why
# rustc is told to take it.
FUZZ_TARGETS = bounds config dump forwarded frames http list multicast node proxy query state table udp
FUZZ_SECONDS = 60
FUZZ = RUSTC_BOOTSTRAP=1 $(CARGO) fuzz
FUZZ_IN = --fuzz-dir tests/fuzz --target-dir target/fuzz
FUZZ_CORPUS = $(CARGO) run --quiet --manifest-path tests/fuzz/Cargo.toml --target-dir target/fuzz --example corpus --
fuzz:
	for target in $(FUZZ_TARGETS); do \
		case $$target in frames|http|proxy) max=17000;; *) max=2048;; esac; \
		$(FUZZ_CORPUS) unpack tests/fuzz/corpus/$$target target/fuzz/corpus/$$target && \
		$(FUZZ) run $(FUZZ_IN) $$target target/fuzz/corpus/$$target -- \
			-max_len=$$max -timeout=10 -max_total_time=$(FUZZ_SECONDS) $(FUZZFLAGS) || exit 1; \
	done

# Keeps the inputs that reach code that no other one reaches, and packs them for the repository.
fuzz-corpora:
	for target in $(FUZZ_TARGETS); do \
		$(FUZZ) cmin $(FUZZ_IN) $$target target/fuzz/corpus/$$target -- -max_len=1600 -use_counters=0 && \
		$(FUZZ_CORPUS) pack tests/fuzz/corpus/$$target target/fuzz/corpus/$$target || exit 1; \
	done

# The tests, and the daemons that they run, under AddressSanitizer, whose runtime comes with the stable toolchain. Its leak
# detector needs privileges that the daemons give up. The tests that are left out measure or limit memory, of which the
# runtime takes much, preload libfaketime, which it finds a double free in, or need a daemon that is fast.
ASAN_SKIPS = --skip without_memory --skip an_endless_line_takes_no_memory --skip is_rejected_in_little_memory \
	--skip do_not_read_is_bounded --skip leave_no_memory_in_use --skip where_clocks_are_an_hour_off \
	--skip than_the_page_says --skip the_bounds_follow_from_the_least_limit --skip on_a_small_host --skip flood_does_not_delay
check-asan:
	RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address ASAN_OPTIONS=detect_leaks=0 RUST_TEST_THREADS=$(TEST_THREADS) \
		$(CARGO) test --locked $(CARGOFLAGS) $(GNU) --target-dir target/asan $(TESTFLAGS) -- $(ASAN_SKIPS)

# The tests of threads under ThreadSanitizer, for which the standard library must be compiled, too: by Debian's rustc-web,
# which has LLVM 19. The runtime is in libclang-rt-19-dev. It must come first, or the linker complains of tmpnam.
TSAN_RUNTIME = /usr/lib/llvm-19/lib/clang/19/lib/linux/libclang_rt.tsan-x86_64.a
TSAN_FLAGS = -Zsanitizer=thread -Zexternal-clangrt -Zpre-link-arg=-Wl,--whole-archive \
	-Zpre-link-arg=$(TSAN_RUNTIME) -Zpre-link-arg=-Wl,--no-whole-archive -Clink-arg=-lm -Clink-arg=-lc
TSAN = RUSTFLAGS='$(TSAN_FLAGS)' TSAN_OPTIONS=halt_on_error=1 RUST_TEST_THREADS=$(TEST_THREADS) ANNOUNCED_THREADS=2 \
	$(WEB_CARGO) test --locked $(CARGOFLAGS) -Zbuild-std $(GNU) --target-dir target/tsan
# The two tests that are left out count threads, and the runtime has one of its own.
check-tsan:
	$(TSAN) --lib table::
	$(TSAN) --test threads --test udp -- --skip no_thread_has_privileges --skip sixty_four_threads_serve

# The tests of what is unsafe, under valgrind.
VALGRIND = target."cfg(unix)".runner = "valgrind -q --error-exitcode=9 --leak-check=full --errors-for-leak-kinds=definite"
check-valgrind:
	$(CARGO) test --locked $(CARGOFLAGS) --lib --config '$(VALGRIND)' sys::

# Compiles the program for other processors, for which Debian has gcc-…, libc6-dev-…-cross and, to run it, qemu-user-static.
CROSS_LINKERS = CARGO_TARGET_ARM_UNKNOWN_LINUX_GNUEABIHF_LINKER=arm-linux-gnueabihf-gcc \
	CARGO_TARGET_ARMV7_UNKNOWN_LINUX_GNUEABIHF_LINKER=arm-linux-gnueabihf-gcc \
	CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
	CARGO_TARGET_I686_UNKNOWN_LINUX_GNU_LINKER=i686-linux-gnu-gcc \
	CARGO_TARGET_MIPS_UNKNOWN_LINUX_GNU_LINKER=mips-linux-gnu-gcc \
	CARGO_TARGET_RISCV64GC_UNKNOWN_LINUX_GNU_LINKER=riscv64-linux-gnu-gcc \
	CARGO_TARGET_S390X_UNKNOWN_LINUX_GNU_LINKER=s390x-linux-gnu-gcc
CROSS_BUILD = $(CROSS_LINKERS) CARGO_PROFILE_DEV_PANIC=abort CARGO_PROFILE_DEV_OPT_LEVEL=1 CARGO_PROFILE_DEV_DEBUG=false \
	$(WEB_CARGO) build --locked $(CARGOFLAGS) --target-dir target/cross --bin announced -Zbuild-std=std,panic_abort

# The sandbox: a call that is not in its table ends the process, with glibc and with musl, and is in the kernel's log. Then
# a walk on other processors, under qemu and strace.
STRICT = ANNOUNCED_KILL_UNKNOWN_CALLS=1 RUST_TEST_THREADS=$(TEST_THREADS)
STRICT_TEST = $(STRICT) $(CARGO) test --locked $(CARGOFLAGS) --target-dir target/strict $(TESTFLAGS)
# Faults and other clocks come from functions in place of the C library's, which a static program has inside.
NOT_FAULTS = --test '[!f]*' --test 'f[!a]*' -- --skip where_clocks_are_an_hour_off
WALK_TARGETS = --target arm-unknown-linux-gnueabihf --target aarch64-unknown-linux-gnu --target mips-unknown-linux-gnu \
	--target riscv64gc-unknown-linux-gnu --target i686-unknown-linux-gnu
check-sandbox: target/empty/libunwind.a
	$(STRICT_TEST) --test '*'
	$(STRICT) RUSTFLAGS='$(TINY_FLAGS) $(STATIC_FLAGS)' $(WEB_CARGO) build $(CARGOFLAGS) $(TINY) --target-dir target/strict $(MUSL)
	ANNOUNCED_BIN=$$PWD/target/strict/x86_64-unknown-linux-musl/release/announced $(STRICT_TEST) $(NOT_FAULTS)
	! dmesg | grep 'type=1326.*/target/strict/.*/announced"'
	@if command -v strace && command -v qemu-arm-static; then $(MAKE) check-walk; else echo "skipped: no strace or qemu"; fi

check-walk:
	ANNOUNCED_KILL_UNKNOWN_CALLS=1 $(CROSS_BUILD) $(WALK_TARGETS)
	ANNOUNCED_WALK=$$PWD/target/cross $(CARGO) test --locked $(CARGOFLAGS) --test walk -- --ignored --test-threads=1

# The integration tests against the daemon on other processors, which qemu emulates; TESTFLAGS chooses tests, else
# tests/emulated does, which lists those that are left out. `make check-sandbox` runs the static binary natively.
EMULATED = mips-unknown-linux-gnu armv7-unknown-linux-gnueabihf aarch64-unknown-linux-gnu s390x-unknown-linux-gnu
check-emulated:
	for target in $(EMULATED); do \
		$(CROSS_BUILD) --target $$target && RUST_TEST_THREADS=$(TEST_THREADS) tests/emulated $$target \
			$(CARGO) test --locked $(CARGOFLAGS) --no-fail-fast $(TESTFLAGS) || exit 1; \
	done

# The packages and ports of contrib/, and what goes around: each is checked as far as its tools are installed, and the image
# of docker if `make tiny-static` has been run. The source is that of the last commit.
check-packages: all dist
	tests/packages/ports
	tests/packages/around
	tests/packages/debian

# Debian's package in a root of its own, and in an emulated machine that boots systemd. The archives in folders of
# their own.
check-installed: check-packages
	tests/packages/dist
	tests/packages/debian install
	tests/packages/machine

# All that takes too long for each change.
check-all: check-installed check-asan check-emulated check-links check-sandbox check-tsan check-valgrind fuzz

# Compiles everything for the BSDs, and the program without its tests for processors of routers, most of which have no
# 64-bit atomics.
check-targets:
	$(WEB_CARGO) check --locked $(CARGOFLAGS) --target-dir target/targets --all-targets \
		-Zbuild-std=std,panic_abort,test --target x86_64-unknown-freebsd \
		--target x86_64-unknown-openbsd --target x86_64-unknown-netbsd --target x86_64-unknown-dragonfly
	$(WEB_CARGO) check --locked $(CARGOFLAGS) --target-dir target/targets --lib --bins \
		-Zbuild-std=std,panic_abort --target mips-unknown-linux-gnu --target mipsel-unknown-linux-musl \
		--target armv7-unknown-linux-musleabihf \
		--target powerpc-unknown-linux-gnu --target armv5te-unknown-linux-gnueabi \
		--target riscv64gc-unknown-linux-gnu

# Links the program for the BSDs, for which ZIG_PYTHON names a Python with the module ziglang. Where CI is set, a missing
# module is an error.
ZIG_FLAGS = -Zunstable-options -Cpanic=immediate-abort -Clinker=$$PWD/.ci/zig-cc -Clink-arg=-target -Clink-arg=
check-links:
	@$${ZIG_PYTHON:-python3} -c 'import ziglang' || { [ -z "$$CI" ] && echo "skipped: no module ziglang"; }
	! $${ZIG_PYTHON:-python3} -c 'import ziglang' 2>/dev/null || \
	CARGO_TARGET_X86_64_UNKNOWN_FREEBSD_RUSTFLAGS="$(ZIG_FLAGS)x86_64-freebsd" \
	CARGO_TARGET_X86_64_UNKNOWN_NETBSD_RUSTFLAGS="$(ZIG_FLAGS)x86_64-netbsd" \
	CARGO_TARGET_X86_64_UNKNOWN_OPENBSD_RUSTFLAGS="$(ZIG_FLAGS)x86_64-openbsd" \
		$(WEB_CARGO) build --locked $(CARGOFLAGS) --target-dir target/targets --bin announced \
		-Zbuild-std=std,panic_abort --config profile.dev.debug=false \
		--target x86_64-unknown-freebsd --target x86_64-unknown-netbsd --target x86_64-unknown-openbsd

# Compiles with Rust 1.85, which .ci/msrv fetches from the archive of Debian 12.
check-msrv:
	.ci/msrv

# Compiles each combination of the optional parts.
check-parts:
	for parts in '' cluster full-scrape; do \
		RUSTFLAGS='-D warnings' $(CARGO) check --locked $(CARGOFLAGS) --all-targets --no-default-features --features "$$parts" \
			--target-dir target/parts || exit 1; \
	done

bench:
	$(CARGO) bench --locked $(CARGOFLAGS) --bench bench -- $(BENCHFLAGS)

# What attacks do to the daemon and to an honest client beside them, in a table; needs root and two cores.
bench-attacks:
	$(CARGO) bench --locked $(CARGOFLAGS) --bench attacks -- $(BENCHFLAGS)

lint:
	$(CARGO) fmt --check
	$(CARGO) fmt --check --manifest-path tests/fuzz/Cargo.toml
	$(CARGO) clippy --locked $(CARGOFLAGS) --all-targets -- -D warnings
	mandoc -Tlint -Wwarning man/*

# Writes the completions of shells again, from the table of flags.
completions:
	WRITE=1 $(CARGO) test --locked $(CARGOFLAGS) --test completions

# Lines of code: neither blank nor comments, without test modules.
COUNT = /^mod tests \{/ { nextfile } NF && !/^ *\/\// { lines++ } END { print lines }
count:
	@printf 'src/ '; find src -name '*.rs' ! -name '*tests.rs' ! -path '*/tests/*' -exec awk '$(COUNT)' {} +
	@printf 'tests/ '; find tests -name '*.rs' -exec awk '$(COUNT)' {} +

# Root installs what another user has built, and builds only what is not there.
install:
	{ [ "$$(id -u)" -eq 0 ] && [ -x "$(BUILT)" ]; } || $(BUILD)
	@if [ -n "$$(find src Cargo.toml Cargo.lock -newer "$(BUILT)")" ]; then \
		echo "warning: $(BUILT) is older than the source" >&2; fi
	$(INSTALL) -d $(DESTDIR)$(SBINDIR) $(DESTDIR)$(EXAMPLESDIR)
	$(INSTALL) -m 755 "$(BUILT)" $(DESTDIR)$(SBINDIR)/announced
	for file in $(EXAMPLES); do \
		$(INSTALL) -m 644 contrib/$$file $(DESTDIR)$(EXAMPLESDIR)/$$file || exit 1; \
	done
	$(INSTALL) -d $(DESTDIR)$(BASHDIR) $(DESTDIR)$(ZSHDIR) $(DESTDIR)$(FISHDIR)
	$(INSTALL) -m 644 contrib/completions/announced.bash $(DESTDIR)$(BASHDIR)/announced
	$(INSTALL) -m 644 contrib/completions/_announced $(DESTDIR)$(ZSHDIR)/_announced
	$(INSTALL) -m 644 contrib/completions/announced.fish $(DESTDIR)$(FISHDIR)/announced.fish
	[ ! -f LICENSE.crates ] || { $(INSTALL) -d $(DESTDIR)$(DOCDIR) && \
		$(INSTALL) -m 644 LICENSE.crates $(DESTDIR)$(DOCDIR)/LICENSE.crates; }
	for page in $(PAGES); do \
		dir=$(DESTDIR)$(MANDIR)/man$${page##*.} && $(INSTALL) -d $$dir && \
		sed 's|/usr/local/share/examples/announced|$(EXAMPLESDIR)|' man/$$page >$$dir/$$page && \
		chmod 644 $$dir/$$page || exit 1; \
	done

# What a package installs besides: a configuration with a user of its own and an empty whitelist in force. Ports that
# keep samples elsewhere set SAMPLEDIR and SAMPLE, the end of the names of samples.
CONFDIR = /etc/announced
SAMPLEDIR = $(CONFDIR)
SAMPLE =
STATEDIR = /var/lib/announced
DAEMON_USER = _announced
install-conf:
	$(INSTALL) -d $(DESTDIR)$(SAMPLEDIR)
	sed -e 's|^user .*|user $(DAEMON_USER)|' -e 's|^#whitelist .*|whitelist $(CONFDIR)/whitelist|' \
		-e 's|^#state .*|#state $(STATEDIR)/announced.state|' -e 's|^#cluster-key .*|#cluster-key   $(CONFDIR)/announced.key|' \
		contrib/announced.conf >$(DESTDIR)$(SAMPLEDIR)/announced.conf$(SAMPLE)
	: >$(DESTDIR)$(SAMPLEDIR)/whitelist$(SAMPLE)
	chmod 644 $(DESTDIR)$(SAMPLEDIR)/announced.conf$(SAMPLE) $(DESTDIR)$(SAMPLEDIR)/whitelist$(SAMPLE)

uninstall:
	rm -f $(DESTDIR)$(SBINDIR)/announced $(DESTDIR)$(BASHDIR)/announced $(DESTDIR)$(ZSHDIR)/_announced \
		$(DESTDIR)$(FISHDIR)/announced.fish $(DESTDIR)$(DOCDIR)/LICENSE.crates
	for file in $(EXAMPLES); do rm -f $(DESTDIR)$(EXAMPLESDIR)/$$file; done
	for page in $(PAGES); do rm -f $(DESTDIR)$(MANDIR)/man$${page##*.}/$$page; done

# The source with its checksums, and once more with the crates: target/dist
dist:
	contrib/dist

clean:
	$(CARGO) clean

.PHONY: all tiny tiny-static router router-static check check-threads check-targets check-links check-msrv check-parts check-packages check-installed soak fuzz fuzz-corpora check-asan check-sandbox check-walk check-emulated check-tsan check-valgrind check-all bench bench-attacks lint completions count dist install install-conf uninstall clean
