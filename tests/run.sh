#!/usr/bin/env bash
# Runs the test programs under $BUILD/tests (those whose path holds an argument, or all), TEST_JOBS at a time, and counts
# their cases. A program speaks TAP through cmocka; TEST_RUNNER is put before each (an emulator). One that dies counts as a
# failure. Last line: N passed, N failed[, N skipped].
set -u
build=${BUILD:-build}
abs=$(realpath "$build")
export CMOCKA_MESSAGE_OUTPUT=TAP TRIAD_BIN="$abs/triad" TRIAD_BUILD="$abs"
export GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-2000} # as the program itself: waiting threads give way soon
export LSAN_OPTIONS="suppressions=$PWD/tests/lsan.supp:print_suppressions=0"
# gcc's runtime before 14 takes a library's thread-local block (what dlopen brings, such as oneDNN) for one with a header of
# old C libraries when its address ends as theirs did, and the leak check then reads wherever that "header" points.
export ASAN_OPTIONS="intercept_tls_get_addr=0${ASAN_OPTIONS:+:$ASAN_OPTIONS}"
isas=${TEST_ISAS:-$(tools/isas.sh | xargs)}
# Most programs compute on one thread for most of their time, some on several.
cores=$(nproc)
jobs=${TEST_JOBS:-$((cores / 2 + 1))}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

# Program $1 on instruction set $2: prints what came of it at once, and leaves its counts in file $3.sum.
run_one() {
    local t=$1 isa=$2 log=$3.log start status ok skip bad
    start=$(date +%s.%N)
    TRIAD_ISA=$isa timeout "${TEST_TIMEOUT:-600}" ${TEST_RUNNER:-} "$t" >"$log" 2>&1
    status=$?
    ok=$(grep -cE '^ok [0-9]+( -|$)' "$log")
    skip=$(grep -cE '^(not )?ok [0-9]+ # SKIP' "$log")
    bad=$(grep -cE '^not ok [0-9]+( -|$)' "$log")
    if [ $status -ne 0 ] && [ "$bad" -eq 0 ]; then bad=1; fi
    if [ $status -eq 0 ] && [ $((ok + skip)) -eq 0 ]; then bad=1; fi
    {
        printf '%-52s %4d passed %3d failed %6.1f s\n' "${t#"$build"/tests/}$([ "$isa" = "${isas%% *}" ] || echo " on $isa")" \
            "$ok" "$bad" "$(awk -v a="$start" -v b="$(date +%s.%N)" "BEGIN {print b - a}")"
        sed -nE 's/^(not )?ok [0-9]+ # SKIP (.*)/    skipped: \2/p' "$log"
        if [ "$bad" -gt 0 ] || [ $status -ne 0 ]; then
            echo "---- $t (exit status $status)"
            tail -n 60 "$log"
            echo "----"
        fi
    } >"$3.said"
    echo "$ok $bad $skip" >"$3.sum"
    cat "$3.said" # in one piece: others print too
    rm -f "$log"
}

n=0
for t in "$build"/tests/*/test_*; do
    [ -x "$t" ] && [ -f "$t" ] || continue
    case "$t" in *.o | *.d) continue ;; esac
    [ -f "tests/${t#"$build"/tests/}.c" ] || continue # what is left of a test that was renamed
    if [ $# -gt 0 ]; then
        hit=0
        for want in "$@"; do case "$t" in *"$want"*) hit=1 ;; esac; done
        [ $hit = 1 ] || continue
    fi
    # Kernels are compiled for several instruction sets: what tests them runs on each (base/isa.h).
    case "$t" in "$build"/tests/autograd/* | "$build"/tests/data/test_logmel) runs=$isas ;; *) runs=${isas%% *} ;; esac
    for isa in $runs; do
        [ "$n" -lt "$jobs" ] || wait -n
        run_one "$t" "$isa" "$out/$n" &
        n=$((n + 1))
    done
done
wait
passed=0 failed=$n skipped=0 # a run that left no counts has failed
for sum in "$out"/*.sum; do
    [ -f "$sum" ] || continue
    read -r ok bad skip <"$sum"
    passed=$((passed + ok)) failed=$((failed + bad - 1)) skipped=$((skipped + skip))
done
printf '%d passed, %d failed' "$passed" "$failed"
[ "$skipped" -gt 0 ] && printf ', %d skipped' "$skipped"
printf '\n'
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
