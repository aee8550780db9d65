# triad: `make quickstart` (a newcomer's first run), `make check` (every test), `make install PREFIX=...`
#   make                the program build/triad and the library build/libtriad.a
#   make deps           the Debian packages that building and testing need (root or sudo)
#   make test           unit, gradient and golden tests      TEST=name runs those whose path holds it
#   make style          formatting, include rules, banned calls
#   make asan | fuzz    the tests under ASan + UBSan | a few seconds of each fuzz target
#   make format         clang-format over the tree
BUILD ?= build
PREFIX ?= /usr/local
ifeq ($(origin CC),default)
CC := gcc
endif
VERSION := 0.1.0

ROOMS := base autograd layers models optim data train eval cli
PKGS := hdf5 kissfft-float soxr sndfile libfyaml jansson libpcre2-8 libutf8proc freetype2 harfbuzz libpng libjpeg expat
# The OpenMP build of OpenBLAS, whichever build Debian's alternatives point at.
BLAS_DIR := $(firstword $(wildcard /usr/lib/*/openblas-openmp))
PKG_CFLAGS := $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
PKG_LIBS := $(shell pkg-config --libs $(PKGS) 2>/dev/null)

OPT ?= -O2 -g1
ARCH ?= -march=x86-64-v3
WARN := -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wpointer-arith -Wno-unused-parameter -Wno-missing-field-initializers
CFLAGS += -std=gnu11 $(OPT) $(ARCH) $(WARN) -fopenmp -fno-math-errno -fno-trapping-math -fno-strict-aliasing $(SANITIZE)
CPPFLAGS += -I. -Iinclude -D_GNU_SOURCE -DTRIAD_VERSION='"$(VERSION)"' $(PKG_CFLAGS)
LDLIBS += $(PKG_LIBS) -L$(BLAS_DIR) -Wl,-rpath,$(BLAS_DIR) -lopenblas -lm -lpthread
LDFLAGS += $(SANITIZE) -fopenmp

LIB_SRC := $(sort $(foreach r,$(filter-out cli,$(ROOMS)),$(wildcard $r/*.c $r/*/*.c)))
CLI_SRC := $(sort $(wildcard cli/*.c))
TEST_SRC := $(sort $(wildcard tests/*/test_*.c))
TEST_HELP := $(filter-out $(TEST_SRC),$(wildcard tests/support/*.c))
EXAMPLE_SRC := $(sort $(wildcard examples/*.c))
obj = $(patsubst %.c,$(BUILD)/%.o,$1)
TEST_BIN := $(patsubst %.c,$(BUILD)/%,$(TEST_SRC))
EXAMPLE_BIN := $(patsubst %.c,$(BUILD)/%,$(EXAMPLE_SRC))

all: $(BUILD)/triad $(BUILD)/libtriad.a

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c $< -o $@

$(BUILD)/libtriad.a: $(call obj,$(LIB_SRC))
	@rm -f $@
	ar rcs $@ $^

$(BUILD)/triad: $(call obj,$(CLI_SRC)) $(BUILD)/libtriad.a
	$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(TEST_BIN): $(BUILD)/%: $(BUILD)/%.o $(call obj,$(TEST_HELP)) $(BUILD)/libtriad.a
	$(CC) $(LDFLAGS) -o $@ $^ -lcmocka $(LDLIBS)

$(EXAMPLE_BIN): $(BUILD)/%: $(BUILD)/%.o $(BUILD)/libtriad.a
	$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)

tests: $(TEST_BIN)
examples: $(EXAMPLE_BIN)

test: all tests examples
	BUILD=$(BUILD) tests/run.sh $(TEST)

-include $(shell find $(BUILD) -name '*.d' -not -path '$(BUILD)/asan/*' -not -path '$(BUILD)/fuzz/*' 2>/dev/null)

clean:
	rm -rf $(BUILD)

.PHONY: all tests examples test clean
.SECONDARY:
