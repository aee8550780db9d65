# triad: `make quickstart` (a newcomer's first run), `make check` (every test), `make install PREFIX=...`. `make help` lists
# all targets; the words after ## beside each are what it prints.
BUILD ?= build
PREFIX ?= /usr/local
ifeq ($(origin CC),default)
CC := gcc
endif
VERSION := 0.1.0

ROOMS := base autograd layers models optim data run bench eval train cli
PKGS := kissfft-float soxr sndfile libfyaml jansson libpcre2-8 libutf8proc libpng libjpeg expat
# The OpenMP build of OpenBLAS, whichever build Debian's alternatives point at.
BLAS_DIR := $(firstword $(wildcard /usr/lib/*/openblas-openmp))
# HDF5 and the font libraries are not linked to: data/hdf5_lazy.c and data/emoji_image.c load them by these names when they
# are needed, since what they bring takes longer to load than all the rest.
soname = $(shell for d in $$(pkg-config --variable=libdir $1 2>/dev/null) $$(pkg-config --libs-only-L $1 2>/dev/null | sed 's/-L//g') /usr/lib; do \
	readelf -d $$d/$2.so 2>/dev/null; done | sed -n 's/.*(SONAME).*\[\(.*\)\]/\1/p' | head -n 1)
HDF5_SONAME := $(call soname,hdf5,libhdf5)
FREETYPE_SONAME := $(call soname,freetype2,libfreetype)
HARFBUZZ_SONAME := $(call soname,harfbuzz,libharfbuzz)
PKG_CFLAGS := $(shell pkg-config --cflags $(PKGS) hdf5 freetype2 harfbuzz 2>/dev/null)
PKG_LIBS := $(shell pkg-config --libs $(PKGS) 2>/dev/null)
# Short products with AVX2, where it is installed (gemm_xsmm.c).
XSMM_LIBS := $(if $(filter x86_64,$(shell uname -m)),$(shell pkg-config --libs libxsmm 2>/dev/null))

# V=1 prints whole commands.
Q := $(if $(V),,@)
say = $(if $(V),,@$(if $(findstring s,$(firstword -$(MAKEFLAGS))),:,echo "  $1"))

OPT ?= -O2 -g1
ARCH ?= # everything but kernels/: what the compiler takes by default runs everywhere
WARN := -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wpointer-arith -Wno-unused-parameter -Wno-missing-field-initializers
CFLAGS += -std=gnu11 $(OPT) $(ARCH) $(WARN) -fopenmp -fno-math-errno -fno-trapping-math -fno-strict-aliasing $(SANITIZE)
CPPFLAGS += -I. -Iinclude -D_GNU_SOURCE -DTRIAD_VERSION='"$(VERSION)"' $(PKG_CFLAGS) $(if $(XSMM_LIBS),-DTRIAD_XSMM)
ifdef ONE_ISA
CPPFLAGS += -DTRIAD_ONE_ISA=$(ONE_ISA)
endif
LDLIBS += $(PKG_LIBS) $(XSMM_LIBS) -L$(BLAS_DIR) -Wl,-rpath,$(BLAS_DIR) -lopenblas -lm -lpthread
LDFLAGS += $(SANITIZE) -fopenmp

LIB_ROOMS ?= $(filter-out cli,$(ROOMS))
LIB_SRC := $(sort $(foreach r,$(LIB_ROOMS),$(wildcard $r/*.c $r/*/*.c)))
# Files of kernels/ are compiled once for each instruction set (base/isa.h); the processor decides which are used.
ISA_SRC := $(filter %,$(foreach f,$(LIB_SRC),$(if $(findstring /kernels/,$f),$f)))
# ONE_ISA=plain|avx2|avx512 leaves the others out.
ISAS := $(or $(ONE_ISA),plain $(if $(filter x86_64,$(shell uname -m)),avx2 avx512))
ISA_plain := -Wno-psabi # wide vectors pass by memory, between functions of one file only
ISA_avx2 := -march=x86-64-v3
ISA_avx512 := -march=x86-64-v4
CLI_SRC := $(sort $(wildcard cli/*.c))
TEST_SRC := $(sort $(wildcard tests/*/test_*.c))
TEST_HELP := $(filter-out $(TEST_SRC),$(wildcard tests/support/*.c))
EXAMPLE_SRC := $(sort $(wildcard examples/*.c))
obj = $(patsubst %.c,$(BUILD)/%.o,$1)
LIB_OBJ := $(call obj,$(filter-out $(ISA_SRC),$(LIB_SRC))) $(foreach i,$(ISAS),$(patsubst %.c,$(BUILD)/%.$i.o,$(ISA_SRC)))
TEST_BIN := $(patsubst %.c,$(BUILD)/%,$(TEST_SRC))
EXAMPLE_BIN := $(patsubst %.c,$(BUILD)/%,$(EXAMPLE_SRC))

all: $(BUILD)/triad $(BUILD)/libtriad.a ## the program build/triad and the library build/libtriad.a

$(BUILD)/data/hdf5_lazy.o: CPPFLAGS += -DHDF5_SONAME='"$(or $(HDF5_SONAME),libhdf5.so)"'
$(BUILD)/data/emoji_image.o: CPPFLAGS += -DFREETYPE_SONAME='"$(or $(FREETYPE_SONAME),libfreetype.so)"' \
	-DHARFBUZZ_SONAME='"$(or $(HARFBUZZ_SONAME),libharfbuzz.so)"'

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(call say,cc $<)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c $< -o $@

define isa_rule
$(BUILD)/%.$1.o: %.c
	@mkdir -p $$(@D)
	$$(call say,cc $$< ($1))
	$$(Q)$$(CC) $$(CPPFLAGS) -DTRIAD_ISA=$1 $$(CFLAGS) $$(ISA_$1) -MMD -MP -c $$< -o $$@
endef
$(foreach i,$(ISAS),$(eval $(call isa_rule,$i)))

$(BUILD)/libtriad.a: $(LIB_OBJ)
	@rm -f $@
	$(call say,ar $@)
	$(Q)ar rcs $@ $^

$(BUILD)/triad: $(call obj,$(CLI_SRC)) $(BUILD)/libtriad.a
	$(call say,link $@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(TEST_BIN): $(BUILD)/%: $(BUILD)/%.o $(call obj,$(TEST_HELP)) $(BUILD)/libtriad.a
	$(call say,link $@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ -lcmocka $(LDLIBS)

$(EXAMPLE_BIN): $(BUILD)/%: $(BUILD)/%.o $(BUILD)/libtriad.a
	$(call say,link $@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)

# The checker of reference folders (tests/golden/README.md).
$(BUILD)/golden: $(call obj,$(filter-out $(TEST_SRC),$(wildcard tests/golden/*.c))) $(BUILD)/libtriad.a
	$(call say,link $@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)

test-bins: $(TEST_BIN)
tests: test-bins $(BUILD)/golden
examples: $(EXAMPLE_BIN) ## the example programs

test: all tests examples ## unit, gradient and golden tests; TEST="a b" runs those whose path holds a word, CASE="test_a*" their cases of this name
	@BUILD=$(BUILD) TEST_ISAS="$(ONE_ISA)" TEST_CASE="$(CASE)" tests/run.sh $(TEST)

# A build of its own under ASan and UBSan. Leaks count too. The other instruction sets are the same source in vectors of
# other lengths, and `test` runs them.
asan: ## the tests under ASan + UBSan, in build/asan
	@$(MAKE) --no-print-directory BUILD=$(BUILD)/asan OPT='-O1 -g1' \
		SANITIZE='-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer' ONE_ISA=$$(tools/isas.sh | head -n 1) test

# libFuzzer is clang's; the kernels' vector code is gcc's, so the rooms that read what users bring are built, no more.
# Warnings are the other build's work.
FUZZ_SECONDS ?= 5
FUZZ_BIN := $(patsubst %.c,$(BUILD)/%,$(sort $(wildcard tests/fuzz/fuzz_*.c)))
$(FUZZ_BIN): $(BUILD)/%: $(BUILD)/%.o $(BUILD)/libtriad.a
	$(call say,link $@)
	$(Q)$(CC) $(LDFLAGS) -fsanitize=fuzzer -o $@ $^ $(LDLIBS)
fuzz-bins: $(FUZZ_BIN)
fuzz: ## each fuzz target for FUZZ_SECONDS (5) under ASan + UBSan, in build/fuzz
	@$(MAKE) --no-print-directory BUILD=$(BUILD)/fuzz CC=clang WARN=-w OPT='-O1 -g1' LIB_ROOMS='base data' ONE_ISA=$$(tools/isas.sh | head -n 1) \
		SANITIZE='-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all' fuzz-bins
	@BUILD=$(BUILD)/fuzz FUZZ_SECONDS=$(FUZZ_SECONDS) tests/fuzz/run.sh $(TEST)

quickstart: ## a newcomer's first run: packages, build, data, training, evaluation, searches, report
	@tools/quickstart.sh

bench: all ## every row of the bench by triad -> build/bench/triad.json; BENCH="--rows gpt --steps 20" chooses
	@python3 bench/compare.py alone --triad $(BUILD)/triad --out $(BUILD)/bench $(BENCH)

# PyTorch and its models in a virtual environment of their own; VENV names another that has them.
VENV ?= $(BUILD)/venv
$(VENV)/bin/python:
	$(call say,venv $(VENV))
	$(Q)python3 -m venv $(VENV)
	$(Q)$(VENV)/bin/pip install -q -r bench/peers/requirements.txt || { rm -rf $(VENV); false; }
bench-peers: all $(VENV)/bin/python ## triad beside PyTorch, taking turns -> build/bench/peers.json; BENCH="--rounds 5"
	@python3 bench/compare.py peers --triad $(BUILD)/triad --out $(BUILD)/bench --python $(VENV)/bin/python $(BENCH)

bench-emoji: all $(VENV)/bin/python ## the model of configs/emoji-peer.yaml trained by both -> build/bench/emoji.json, docs/emoji-losses.svg; BENCH="--steps 330"
	@python3 bench/emoji_peer.py --triad $(BUILD)/triad --out $(BUILD)/bench --python $(VENV)/bin/python $(BENCH)

# Debian's libxsmm-dev has archives alone, and the bench finds a library at run time.
XSMM_DIR := $(shell pkg-config --variable=libdir libxsmm 2>/dev/null)
XSMM := $(wildcard $(XSMM_DIR)/libxsmm.a $(XSMM_DIR)/libxsmmnoblas.a)
$(BUILD)/libxsmm.so: $(XSMM)
	@mkdir -p $(@D)
	$(call say,link $@)
	$(Q)$(CC) -shared -o $@ -Wl,--whole-archive $^ -Wl,--no-whole-archive -ldl -lpthread -lm
bench-backends: all $(if $(XSMM),$(BUILD)/libxsmm.so) ## gemm's back ends beside OpenBLAS and libxsmm -> build/bench/backends.json
	@LD_LIBRARY_PATH=$(BUILD):$$LD_LIBRARY_PATH python3 bench/compare.py backends --triad $(BUILD)/triad --out $(BUILD)/bench $(BENCH)

bench-balance: all ## how each row's step shares out among 1 to 64 threads, on one -> build/bench/balance.json; BENCH="--rows gpt"
	@python3 bench/compare.py balance --triad $(BUILD)/triad --out $(BUILD)/bench --steps 4 $(BENCH)

bench-page: ## docs/performance.md and its pictures from the results in build/bench
	@python3 bench/page.py $(BUILD)/bench

neon: ## the engine's tests cross-compiled for 64-bit Arm, under qemu-user; TEST, CASE as above
	@TEST_CASE="$(CASE)" tools/neon.sh $(TEST)

avx512: ## the kernels' tests with AVX-512 in an emulated machine, on one that lacks it; slow; TEST, CASE as above
	@TEST_CASE="$(CASE)" tools/avx512.sh $(TEST)

style: ## formatting, include rules, banned calls
	@tools/style.sh

format: ## clang-format over the tree
	@git ls-files -z -co --exclude-standard -- '*.c' '*.h' | xargs -0 clang-format -i

deps: ## the Debian packages that building and testing need (root or sudo)
	@tools/deps.sh

# Each stage is a fresh make, so that packages which `deps` installs are seen by what follows.
check: ## everything: deps, build, test, style, asan, fuzz; the last line is the sum
	@tools/check.sh

INCLUDES := $(sort $(foreach r,$(filter-out cli,$(ROOMS)),$(wildcard $r/*.h $r/*.def $r/*/*.h $r/*/*.def)))
install: all ## program, library, headers, configs, pkg-config file under PREFIX (/usr/local); DESTDIR is honoured
	install -Dm755 $(BUILD)/triad $(DESTDIR)$(PREFIX)/bin/triad
	install -Dm644 $(BUILD)/libtriad.a $(DESTDIR)$(PREFIX)/lib/libtriad.a
	install -Dm644 include/triad.h $(DESTDIR)$(PREFIX)/include/triad.h
	for h in $(INCLUDES); do install -Dm644 $$h $(DESTDIR)$(PREFIX)/include/triad/$$h || exit 1; done
	for c in $(wildcard configs/*.yaml configs/*/*.yaml); do install -Dm644 $$c $(DESTDIR)$(PREFIX)/share/triad/$$c || exit 1; done
	mkdir -p $(DESTDIR)$(PREFIX)/lib/pkgconfig
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@VERSION@|$(VERSION)|' -e 's|@PKGS@|$(PKGS)|' -e 's|@BLAS@|$(BLAS_DIR)|g' -e 's|@XSMM@|$(XSMM_LIBS)|' \
		tools/triad.pc.in >$(DESTDIR)$(PREFIX)/lib/pkgconfig/triad.pc

clean: ## removes the build
	rm -rf $(BUILD)

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' Makefile

-include $(shell find $(BUILD) -name '*.d' -not -path '$(BUILD)/asan/*' -not -path '$(BUILD)/fuzz/*' -not -path '$(BUILD)/neon/*' 2>/dev/null)

.PHONY: all tests test-bins examples test neon avx512 quickstart bench bench-peers bench-emoji bench-backends bench-balance bench-page asan fuzz fuzz-bins style format deps check install clean help
.SECONDARY:
