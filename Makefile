# SPDX-License-Identifier: GPL-2.0-or-later
#
# Only calls Meson and Ninja; what is built, and how, stands in meson.build.
#
#   make            build in ./build
#   make deps       as root on Debian: install what building and testing need
#   make demo       three partitions at work
#   make check      every test
#   make install    PREFIX=/usr/local DESTDIR=
#   make bench      measure against native System V shared memory
#   make format     lay out the sources with clang-format
#   make clean      remove ./build

BUILD  ?= build
PREFIX ?= /usr/local

all: $(BUILD)/build.ninja
	@ninja -C $(BUILD)

$(BUILD)/build.ninja:
	@command -v meson >/dev/null || { echo "meson is missing: make deps" >&2; exit 1; }
	@meson setup $(BUILD) --prefix=$(PREFIX)

deps:
	@packaging/deps

demo: deps
	@$(MAKE) --no-print-directory all
	@CLSHM_BUILD=$(abspath $(BUILD)) demo/run

check: deps
	@CLSHM_BUILD=$(abspath $(BUILD)) tests/run

install: $(BUILD)/build.ninja
	@meson configure $(BUILD) --prefix=$(PREFIX)
	@ninja -C $(BUILD)
	@DESTDIR=$(DESTDIR) meson install -C $(BUILD) --no-rebuild
	@if [ -z "$(DESTDIR)" ] && [ "$$(id -u)" = 0 ]; then ldconfig; fi

bench: all
	@meson test -C $(BUILD) --benchmark --verbose

format:
	@git ls-files '*.c' '*.h' | xargs clang-format-14 -i

clean:
	@rm -rf $(BUILD)

.PHONY: all deps demo check install bench format clean
