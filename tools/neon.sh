#!/usr/bin/env bash
# The engine on 64-bit Arm: base/ to models/ cross-compiled (kernels/ plainly, for NEON) with Debian's arm64 libraries,
# their tests run under qemu-user. The libraries are unpacked under build/neon/root; the system gets only the cross
# compiler and the emulator. Arguments choose tests as in `make test TEST=...`. Last line: N passed, N failed.
set -eu
cd "$(dirname "$0")/.."
build=build/neon
root=$PWD/$build/root
jobs=-j$(nproc)
unset MAKEFLAGS MAKELEVEL

as_root() { if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi; }

if ! command -v aarch64-linux-gnu-gcc >/dev/null || ! command -v qemu-aarch64 >/dev/null; then
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user >/dev/null
fi
if [ ! -e "$root/complete" ]; then
    lists=$root.lists
    mkdir -p "$root" "$lists/partial" "$root.debs"
    apt=(apt-get -qq -oAPT::Architecture=arm64 -oAPT::Architectures=arm64 -oDir::State::Lists="$lists" -oDir::State::status=/dev/null
        -oAPT::Sandbox::User=root -oDir::Cache::pkgcache= -oDir::Cache::srcpkgcache=)
    as_root "${apt[@]}" update
    (cd "$root.debs" && "${apt[@]}" download libopenblas0-openmp libopenblas-openmp-dev libgfortran5 libgcc-s1 libkissfft-dev \
        libkissfft-float131 libcmocka-dev libcmocka0 libfyaml-dev libfyaml0 libjansson-dev libjansson4)
    for deb in "$root.debs"/*.deb; do dpkg -x "$deb" "$root"; done
    rm -rf "$root.debs"
    as_root rm -rf "$lists"
    : >"$root/complete"
fi

lib=$root/usr/lib/aarch64-linux-gnu
blas=$lib/openblas-openmp
help=$(grep -LE '#include "(data|eval|run|train)/' tests/support/*.c | xargs) # what the tests of these rooms share
make --no-print-directory "$jobs" BUILD=$build CC="${NEON_CC:-aarch64-linux-gnu-gcc}" ISAS=plain XSMM_LIBS= LIB_ROOMS='base autograd layers models optim' \
    TEST_SRC="$(echo tests/autograd/test_*.c tests/optim/test_within.c)" TEST_HELP="$help" BLAS_DIR="$blas" \
    PKG_CFLAGS="-I$root/usr/include -I$root/usr/include/kissfft -I$root/usr/include/aarch64-linux-gnu -I$root/usr/include/aarch64-linux-gnu/openblas-openmp" \
    PKG_LIBS="-L$lib -Wl,-rpath-link,$lib -Wl,-rpath-link,$blas -lfyaml -ljansson -lkissfft-float" test-bins
export TEST_RUNNER="qemu-aarch64 -L /usr/aarch64-linux-gnu -E LD_LIBRARY_PATH=$blas:$lib" TEST_ISAS=plain OPENBLAS_NUM_THREADS=1
BUILD=$build tests/run.sh "$@"
