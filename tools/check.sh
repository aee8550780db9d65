#!/usr/bin/env bash
# Everything that must hold before a change goes in: packages, build, tests, style, sanitizers, fuzzing. Each stage is named
# with its time. A failed stage does not hide the others, but nothing follows a failed build. Last line: N passed, N failed.
set -u
cd "$(dirname "$0")/.."
make=${MAKE:-make}
unset MAKEFLAGS MAKELEVEL # a jobserver of the caller is not open to us
jobs=-j$(nproc)
passed=0 failed=0 skipped=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT

stage() { # what it is, then the command; a stage without a count of its own counts as one test
    local name=$1 start=$SECONDS line p=0 f=0 s=0 status
    shift
    printf '== %s\n' "$name"
    "$@" 2>&1 | tee "$log"
    status=${PIPESTATUS[0]}
    line=$(tail -n 30 "$log" | grep -E '^[0-9]+ passed, [0-9]+ failed(, [0-9]+ skipped)?$' | tail -n 1)
    if [ -n "$line" ]; then
        p=${line%% *} f=${line#*, } f=${f%% *}
        case $line in *skipped) s=${line##*, } s=${s%% *} ;; esac
    else
        [ "$status" -eq 0 ] && p=1
    fi
    if [ "$status" -ne 0 ] && [ "$f" -eq 0 ]; then f=1; fi
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
    printf '== %s: %s in %d s\n\n' "$name" "$([ "$f" -eq 0 ] && echo ok || echo FAILED)" $((SECONDS - start))
    [ "$f" -eq 0 ]
}

if stage deps "$make" -s deps && stage build "$make" -s "$jobs" all tests examples; then
    stage test "$make" -s test
    stage style "$make" -s style
    stage asan "$make" -s "$jobs" asan
    stage fuzz "$make" -s "$jobs" fuzz
fi
printf '%d passed, %d failed' "$passed" "$failed"
[ "$skipped" -gt 0 ] && printf ', %d skipped' "$skipped"
printf '\n'
[ "$failed" -eq 0 ]
