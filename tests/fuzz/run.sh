#!/usr/bin/env bash
# Runs each fuzz target under $BUILD/tests/fuzz (those whose name holds an argument, or all) for FUZZ_SECONDS from its seeds
# in tests/fuzz/seeds/NAME. What it finds is kept in $BUILD/tests/fuzz. Last line: N passed, N failed.
set -u
build=${BUILD:-build/fuzz} passed=0 failed=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT
export LSAN_OPTIONS=suppressions=tests/lsan.supp:print_suppressions=0
for t in "$build"/tests/fuzz/fuzz_*; do
    [ -x "$t" ] && [ -f "$t" ] || continue
    name=${t##*/fuzz_}
    if [ $# -gt 0 ]; then
        hit=0
        for want in "$@"; do case "$name" in *"$want"*) hit=1 ;; esac; done
        [ $hit = 1 ] || continue
    fi
    corpus=$build/corpus/$name
    mkdir -p "$corpus"
    seeds=tests/fuzz/seeds/$name
    [ -d "$seeds" ] || seeds=
    # Threads of their own are no help here, and memory is bounded so that a huge allocation shows.
    OMP_NUM_THREADS=1 "$t" -max_total_time="${FUZZ_SECONDS:-5}" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
        -artifact_prefix="$build/tests/fuzz/$name-" "$corpus" $seeds >"$log" 2>&1
    status=$?
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    if [ $status -eq 0 ]; then
        passed=$((passed + 1))
        printf '%-24s %9s runs\n' "$name" "${runs:-0}"
    else
        failed=$((failed + 1))
        printf '%-24s FAILED (exit status %d)\n' "$name" $status
        grep -v '^#[0-9]' "$log" | tail -n 60
    fi
done
printf '%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
