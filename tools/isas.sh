#!/bin/sh
# The instruction sets of base/isa.h that this machine runs, best first, one a line.
[ "$(uname -m)" = x86_64 ] || { echo plain; exit; }
has() { for need; do grep -qw "$need" /proc/cpuinfo || return 1; done; }
if has avx2 fma bmi2 f16c; then
    has avx512f avx512bw avx512cd avx512dq avx512vl && echo avx512
    echo avx2
fi
echo plain
