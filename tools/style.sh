#!/usr/bin/env bash
# Holds the house rules a machine can hold: formatting, which room may include which, banned calls, sizes, guards.
# Prints `file:line: what; what to do` for each breach and fails if there is one.
set -u
export LC_ALL=C
cd "$(dirname "$0")/.."
bad=$(mktemp)
trap 'rm -f "$bad"' EXIT
if git rev-parse --git-dir >/dev/null 2>&1; then
    mapfile -t files < <(git ls-files -co --exclude-standard -- '*.c' '*.h' | while read -r f; do [ -f "$f" ] && echo "$f"; done)
    mapfile -t texts < <(git ls-files -co --exclude-standard -- ':!tests/golden')
else # a tarball
    mapfile -t files < <(find . -path ./build -prune -o -name '*.[ch]' -print | sed 's|^\./||' | sort)
    mapfile -t texts < <(printf '%s\n' "${files[@]}" Makefile README.md tools/deps.sh tools/check.sh)
fi
[ ${#files[@]} -gt 0 ] || { echo "tools/style.sh: no C files found" >&2; exit 1; }

# Files that may be longer than 700 lines, each with its reason.
long_ok=(
)

format=$(command -v clang-format-14 || command -v clang-format)
case $("$format" --version 2>/dev/null) in
*"version 14."*)
    # The first breach in each file is enough to say.
    printf '%s\0' "${files[@]}" | xargs -0 -n 20 -P "$(nproc)" "$format" --dry-run -Werror 2>&1 |
        awk -F: '/clang-format-violations/ && !seen[$1]++ {printf "%s:%s: not as clang-format writes it; run make format\n", $1, $2}' >>"$bad"
    ;;
*) echo "tools/style.sh:1: clang-format 14 is needed to check the formatting; run make deps" >>"$bad" ;;
esac

awk -v long_ok=" ${long_ok[*]-} " '
BEGIN {
    may["base"] = " base "
    may["autograd"] = " base autograd "
    may["layers"] = " base autograd layers "
    may["models"] = " base autograd layers models "
    may["optim"] = " base autograd layers optim "
    may["data"] = " base data "
    may["distributed"] = " base autograd distributed "
    may["run"] = " base autograd layers models optim data run "
    may["bench"] = " base autograd layers models optim data run bench "
    may["eval"] = " base autograd layers models optim data distributed run eval "
    may["train"] = " base autograd layers models optim data distributed run eval train "
    may["export"] = " base autograd layers models optim data distributed run export "
    may["cli"] = " base autograd layers models optim data distributed run bench eval train export cli "
    instead["strcpy"] = "use snprintf or mem_strdup"
    instead["strcat"] = "use struct buf"
    instead["sprintf"] = instead["vsprintf"] = "use snprintf or buf_printf"
    instead["gets"] = "use getline"
    instead["atoi"] = instead["atol"] = "use strtol and check what it leaves"
    instead["atof"] = "use strtod and check what it leaves"
    instead["strtok"] = "use strsep or strcspn"
    instead["system"] = "use posix_spawn with a list of words"
    instead["rand"] = instead["srand"] = "use base/rng.h: random bits are a function of seed, stream, step"
    instead["__builtin_prefetch"] = "use ask_l1 or ask_l2 of base/simd.h, which gcc does not drop"
    instead["exit"] = "return an error code; only main ends the process"
}
function breach(what) { printf "%s:%d: %s\n", FILENAME, FNR, what }
function finish() {
    if (last == "") return
    if (lines > 700 && index(long_ok, " " last " ") == 0)
        printf "%s:%d: %d lines, more than 700; give a part of it a file of its own\n", last, lines, lines
    if (last ~ /\.h$/ && !(guard != "" && guard == defined))
        printf "%s:1: no include guard; begin with #ifndef %s and #define %s\n", last, wanted(last), wanted(last)
}
function wanted(f) { f = toupper(f); gsub(/[^A-Z0-9]/, "_", f); return "TRIAD_" f }
FNR == 1 {
    finish()
    last = FILENAME; comment = 0; guard = defined = ""
    room = FILENAME ~ /\// ? substr(FILENAME, 1, index(FILENAME, "/") - 1) : ""
}
{ lines = FNR }
/^#ifndef / && guard == "" { guard = $2 }
/^#define / && defined == "" { defined = $2 }
{
    # what is code on this line: strings emptied, comments cut
    s = $0
    if (comment) {
        if ((i = index(s, "*/")) == 0) next
        s = substr(s, i + 2); comment = 0
    }
    if (s !~ /^#include/) { gsub(/\\["\\]/, "", s); gsub(/"[^"]*"/, "\"\"", s) }
    while ((i = index(s, "/*")) > 0) {
        rest = substr(s, i + 2)
        if ((j = index(rest, "*/")) == 0) { s = substr(s, 1, i - 1); comment = 1 } else s = substr(s, 1, i - 1) " " substr(rest, j + 2)
    }
    sub(/\/\/.*/, "", s)
}
s ~ /^#include "/ {
    split(s, part, "\""); path = part[2]
    if (path ~ /^\.\.?\//) breach("relative include \"" path "\"; write it from the root, as \"base/err.h\"")
    to = path ~ /\// ? substr(path, 1, index(path, "/") - 1) : ""
    if (to == "cli" && room != "cli" && FILENAME !~ /^tests\/cli\//) breach(room "/ includes \"" path "\"; nothing includes cli/")
    else if (room in may && to in may && index(may[room], " " to " ") == 0)
        breach(room "/ includes \"" path "\"; it may include only" may[room] "- move the code up or the need down")
}
s ~ /^#include [<"]mpi\.h/ && room != "distributed" { breach("mpi.h outside distributed/; go through its functions") }
{
    t = s
    while (match(t, /[A-Za-z_0-9]+[ \t]*\(/)) {
        before = RSTART > 1 ? substr(t, RSTART - 1, 1) : ""
        name = substr(t, RSTART, RLENGTH - 1); sub(/[ \t]+$/, "", name)
        t = substr(t, RSTART + RLENGTH)
        if (!(name in instead) || before == "." || before == ">") continue
        if (name == "exit" && (FILENAME == "cli/main.c" || FILENAME == "base/mem.c")) continue
        if (name == "__builtin_prefetch" && FILENAME == "base/simd.h") continue
        breach(name "() is banned here; " instead[name])
    }
}
END { finish() }
' "${files[@]}" >>"$bad"

# Whole words anywhere in what is kept, save in this file.
for f in "${texts[@]}"; do
    [ -f "$f" ] && [ "$f" != tools/style.sh ] || continue
    grep -HInwE 'TODO|FIXME|XXX' -- "$f" | sed -E 's/^([^:]*:[0-9]+):.*/\1: a note to do something later; do it now or open an issue/'
    case $f in *.md) ;; *) grep -HInE -e '-Ofast|-ffast-math' -- "$f" | sed -E 's/^([^:]*:[0-9]+):.*/\1: -Ofast and -ffast-math break NaN checks; name the single flags/' ;; esac
done >>"$bad"

if [ -s "$bad" ]; then
    sort -t: -k1,1 -k2,2n "$bad"
    echo "$(wc -l <"$bad") breaches of style in ${#files[@]} files"
    exit 1
fi
echo "style: ${#files[@]} files keep the rules"
