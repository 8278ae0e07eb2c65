#!/bin/sh
# Make the CPython of Debian's newest packages run on this machine: tests/sid.sh 3.14
#
# The last line on stdout is its path. It has the libraries that it was built with, glibc too, and nothing is installed. It
# is kept, and the next run only prints it: tests that find it use it. Only with CI=true or DOCKER_SETUP=1, as root on
# Debian, is patchelf installed where it is missing.
#
# Exit codes: 0 ready; 75 this machine lacks something, and the last line says what; 1 something failed.

set -eu
. "$(dirname "$0")/debian.sh"
umask 022 # other users run it too

version=$1
root=$(kept "python$version")
python=$root/usr/bin/python$version

runs() { [ "$("$python" -ISc 'import ctypes, json; print("runs")' 2>/dev/null)" = runs ]; }

build() {
    may_install && install_for patchelf patchelf
    for command in apt-get dpkg-deb patchelf; do
        command -v "$command" >/dev/null || lack "no $command here (on Debian: apt-get install patchelf)"
    done
    work=$(mktemp -d /tmp/overlord-sid.XXXXXX)
    trap 'rm -rf "$work"' EXIT
    trap 'exit 1' HUP INT TERM
    mkdir "$work/root"
    cd "$work"
    apt_of "$work/apt" sid download "python$version-minimal" "libpython$version-minimal" "libpython$version-stdlib" \
        libc6 libexpat1 libffi8 libgcc-s1 libzstd1 zlib1g >&2
    for package in *.deb; do
        dpkg-deb -x "$package" root
    done
    libraries=$root/usr/lib/$(basename "$(dirname root/usr/lib/*/libc.so.6)")
    loader=$(basename root/usr/lib/*/ld-linux*.so.?)
    patchelf --set-interpreter "$libraries/$loader" --force-rpath --set-rpath "$libraries" "root/usr/bin/python$version"
    mkdir -p "$(dirname "$root")"
    rm -rf "$root"
    mv root "$root"
    runs || { say "what was made does not run: $python"; exit 1; }
}

runs || build
echo "$python"
