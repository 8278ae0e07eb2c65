#!/bin/sh
# Print the path of a busybox: this machine's, or the one of Debian's busybox-static, which needs no library.
# busybox.sh --plain: one whose shell, as Alpine's, runs the programs on PATH. Debian's prefers its own applets, which know
# fewer options than what tests call. It is built from Debian's source, in a minute.
#
# Both are kept in a folder, and not installed. They are fetched only with CI=true or DOCKER_SETUP=1.
#
# Exit codes: 0 ready; 75 this machine has none; 1 something failed.

set -eu
. "$(dirname "$0")/debian.sh"

root=$(kept busybox)
name=busybox
[ "${1:-}" != --plain ] || name=plain

[ "$name" = plain ] || ! command -v busybox || exit 0
if [ ! -x "$root/$name" ]; then
    [ "${CI:-}" = true ] || [ "${DOCKER_SETUP:-}" = 1 ] || lack 'no busybox here (on Debian: apt-get install busybox-static)'
    work=$(mktemp -d /tmp/overlord-busybox.XXXXXX)
    trap 'rm -rf "$work"' EXIT
    trap 'exit 1' HUP INT TERM
    cd "$work"
    if [ "$name" = plain ]; then
        if [ "$(id -u)" = 0 ]; then
            install_for make make
            install_for gcc gcc libc6-dev
            install_for dpkg-source dpkg-dev
        fi
        apt_of "$work/apt" bookworm source --download-only busybox >&2
        dpkg-source --no-check -x busybox_*.dsc files >&2
        cd files
        make -s defconfig >/dev/null
        for option in FEATURE_PREFER_APPLETS FEATURE_SH_STANDALONE FEATURE_SH_NOFORK TC; do # TC wants older headers
            sed -i "s/^CONFIG_$option=y/# CONFIG_$option is not set/" .config
        done
        sed -i 's/^# CONFIG_STATIC is not set/CONFIG_STATIC=y/' .config
        yes '' | make -s oldconfig >/dev/null
        make -s -j2 busybox >"$work/log" 2>&1 || { tail "$work/log" >&2; exit 1; }
        found=busybox
    else
        apt-get -qq download busybox-static >&2 2>/dev/null || apt_of "$work/apt" bookworm download busybox-static >&2
        dpkg-deb -x busybox-static_*.deb files
        found=$(find files -path "*bin/busybox")
    fi
    mkdir -p "$root"
    mv "$found" "$root/$name"
fi
echo "$root/$name"
