# For POSIX make and BSD make alike: no conditionals, no pattern rules.

PREFIX = /usr/local
SBINDIR = $(PREFIX)/sbin
MANDIR = $(PREFIX)/man
CARGO = cargo
INSTALL = install

# Debian's rustc-web, cargo-web and rust-web-src come with the standard library's source, from which
# check-bsd compiles it for systems that it is not shipped for. A nightly toolchain would do as well.
WEB_CARGO = RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=target/bsd /usr/bin/cargo

all:
	$(CARGO) build --release --locked

check:
	$(CARGO) test --locked

check-bsd:
	for system in freebsd openbsd netbsd; do \
		$(WEB_CARGO) check --locked --all-targets -Zbuild-std=std,panic_abort,test \
			--target x86_64-unknown-$$system || exit 1; \
	done

bench:
	$(CARGO) bench --locked --bench bench -- $(BENCHFLAGS)

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	mandoc -Tlint -Wwarning man/announced.8

install: all
	$(INSTALL) -d $(DESTDIR)$(SBINDIR) $(DESTDIR)$(MANDIR)/man8
	$(INSTALL) -m 755 target/release/announced $(DESTDIR)$(SBINDIR)/announced
	$(INSTALL) -m 644 man/announced.8 $(DESTDIR)$(MANDIR)/man8/announced.8

uninstall:
	rm -f $(DESTDIR)$(SBINDIR)/announced $(DESTDIR)$(MANDIR)/man8/announced.8

clean:
	$(CARGO) clean

.PHONY: all check check-bsd bench lint install uninstall clean
