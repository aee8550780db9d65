#!/usr/bin/env bash
# Installs the Debian 12 packages that triad needs, only those that are missing. Says nothing unless it installs or fails.
#   tools/deps.sh           all: build, data, tests
#   tools/deps.sh build     to build and to run
#   tools/deps.sh list      prints the names and installs nothing
set -eu

build=(gcc libc6-dev make pkg-config libopenblas-openmp-dev
    libfyaml-dev libjansson-dev libhdf5-dev            # configs, JSON, packs
    libpng-dev libjpeg-dev libfreetype-dev libharfbuzz-dev # pictures and the emoji font
    libsndfile1-dev libsoxr-dev libkissfft-dev         # sound
    libpcre2-dev libutf8proc-dev libexpat1-dev)        # text, CLDR
case $(dpkg --print-architecture 2>/dev/null) in amd64) build+=(libxsmm-dev) ;; esac # short products; it knows no other
data=(fonts-noto-color-emoji unicode-cldr-core unicode-data espeak-ng)
tests=(libcmocka-dev clang-format clang libclang-rt-14-dev libomp-dev git)

what=${1:-all}
case $what in
build) want=("${build[@]}" "${data[@]}") ;;
all | list) want=("${build[@]}" "${data[@]}" "${tests[@]}") ;;
*)
    echo "tools/deps.sh: unknown part '$what'; expected build, all or list" >&2
    exit 2
    ;;
esac
if [ "$what" = list ]; then
    printf '%s\n' "${want[@]}"
    exit 0
fi
if ! command -v dpkg-query >/dev/null; then
    echo "tools/deps.sh: this is no Debian; install what matches: ${want[*]}" >&2
    exit 1
fi

missing=()
for p in "${want[@]}"; do
    # A package may be there under the name of one that provides it.
    state=$(dpkg-query -W -f '${db:Status-Abbrev}' "$p" 2>/dev/null || true)
    case $state in ii*) ;; *) missing+=("$p") ;; esac
done
[ ${#missing[@]} -gt 0 ] || exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "tools/deps.sh: these packages are missing; as root run: apt-get install ${missing[*]}" >&2
        exit 1
    fi
    as_root=(sudo)
fi
echo "installing ${#missing[@]} Debian packages: ${missing[*]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
start=$SECONDS
run() {
    if ! "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive "$@" >"$log" 2>&1; then
        tail -n 40 "$log" >&2
        echo "tools/deps.sh: '$*' failed; see above" >&2
        exit 1
    fi
}
run apt-get -q update
run apt-get -q -y -o Dpkg::Use-Pty=0 install --no-install-recommends "${missing[@]}"
echo "installed in $((SECONDS - start)) s"
