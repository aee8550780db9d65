#!/usr/bin/env bash
# The kernels' tests with AVX-512 on a processor that lacks it: each program in a machine that Bochs emulates, which boots Debian's
# kernel and has nothing else on its disc. Slow: about a minute for the boot and a hundred times the test's own, hours for test_gemm. Arguments choose
# tests as in `make test TEST=...`, TEST_CASE their cases; without any, test_kernels. Last line: N passed, N failed.
set -eu
cd "$(dirname "$0")/.."
build=${BUILD:-build}
work=$build/avx512
as_root() { if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi; }

# One program in a machine of its own: says what it says, and ends as it does.
emulate() {
    local dir program=$1 status
    dir=$(mktemp -d)
    trap 'kill %1 2>/dev/null || :; rm -rf "$dir"' EXIT
    mkdir -p "$dir"/root/{bin,dev,proc,tmp,lib,lib64} "$dir/disc/boot/grub"
    cp /bin/busybox "$dir/root/bin"
    strip -o "$dir/root/program" "$program"
    ldd "$program" | awk '/=> \//{print $3}' | xargs -I{} cp -L {} "$dir/root/lib"
    cp -L /lib64/ld-linux-x86-64.so.2 "$dir/root/lib64"
    cat >"$dir/root/init" <<EOF
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox dmesg -n 1
export LD_LIBRARY_PATH=/lib PATH=/bin TRIAD_ISA=avx512 CMOCKA_MESSAGE_OUTPUT=${CMOCKA_MESSAGE_OUTPUT:-TAP} TEST_CASE='${TEST_CASE:-}'
cd /tmp
echo "triad-begins"
/program
echo "triad-ends \$?"
while :; do /bin/busybox sleep 9; done
EOF
    chmod +x "$dir/root/init"
    (cd "$dir/root" && find . | cpio --quiet -o -H newc | gzip -1) >"$dir/disc/boot/initrd"
    cp "$work"/linux/boot/vmlinuz-* "$dir/disc/boot/linux"
    printf 'set timeout=0\nlinux /boot/linux console=ttyS0 quiet tsc=reliable no_timer_check mitigations=off lpj=1000000\ninitrd /boot/initrd\nboot\n' \
        >"$dir/disc/boot/grub/grub.cfg"
    grub-mkrescue -o "$dir/disc.iso" "$dir/disc" >"$dir/grub.log" 2>&1
    cat >"$dir/machine" <<EOF
display_library: rfb, options="timeout=0"
memory: guest=1024, host=1024
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest
cpu: model=corei7_skylake_x, ips=50000000, ignore_bad_msrs=1
ata0-master: type=cdrom, path=$dir/disc.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=$dir/said
log: $dir/log
panic: action=report
error: action=ignore
info: action=ignore
EOF
    echo c >"$dir/commands" # Debian's Bochs waits in its debugger
    : >"$dir/said"
    bochs -q -f "$dir/machine" -rc "$dir/commands" >"$dir/console" 2>&1 </dev/null &
    until status=$(tr -d '\r' <"$dir/said" | sed -n 's/^triad-ends \([0-9]*\)$/\1/p') && [ -n "$status" ]; do
        kill -0 %1 2>/dev/null || { tail -n 20 "$dir/console" "$dir/said" && exit 1; }
        sleep 1
    done
    tr -d '\r' <"$dir/said" | sed '1,/^triad-begins$/d; /^triad-ends/,$d'
    exit "$status"
}

if [ "${1:-}" = --run ]; then emulate "$2"; fi

if ! command -v bochs >/dev/null || ! command -v grub-mkrescue >/dev/null || ! command -v cpio >/dev/null; then
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends bochs bochsbios bochs-term vgabios \
        grub-common grub-pc-bin xorriso mtools busybox-static cpio >/dev/null
fi
if [ ! -e "$work/linux/complete" ]; then
    mkdir -p "$work/linux"
    image=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
    (cd "$work" && apt-get -qq -oAPT::Sandbox::User=root download "$image" && dpkg -x "$image"_*.deb linux && rm -f "$image"_*.deb)
    : >"$work/linux/complete"
fi
make --no-print-directory "-j$(nproc)" test-bins
[ $# -gt 0 ] || set -- autograd/test_kernels
export TEST_RUNNER="tools/avx512.sh --run" TEST_ISAS=avx512 TEST_TIMEOUT="${TEST_TIMEOUT:-7200}" TEST_JOBS="${TEST_JOBS:-$(nproc)}"
BUILD=$build tests/run.sh "$@"
