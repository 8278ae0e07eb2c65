#!/bin/sh
# Print the path of a busybox: this machine's, or the one of Debian's busybox-static, which needs no library.
#
# That one is kept in a folder, and nothing is installed. It is fetched only with CI=true or DOCKER_SETUP=1.
#
# Exit codes: 0 ready; 75 this machine has none; 1 something failed.

set -eu
. "$(dirname "$0")/debian.sh"

root=$(kept busybox)

command -v busybox && exit
if [ ! -x "$root/busybox" ]; then
    [ "${CI:-}" = true ] || [ "${DOCKER_SETUP:-}" = 1 ] || lack 'no busybox here (on Debian: apt-get install busybox-static)'
    work=$(mktemp -d /tmp/overlord-busybox.XXXXXX)
    trap 'rm -rf "$work"' EXIT
    trap 'exit 1' HUP INT TERM
    cd "$work"
    apt-get -qq download busybox-static >&2 2>/dev/null || apt_of "$work/apt" bookworm download busybox-static >&2
    dpkg-deb -x busybox-static_*.deb files
    mkdir -p "$root"
    mv "$(find files -path "*bin/busybox")" "$root/busybox"
fi
echo "$root/busybox"
