#!/bin/sh
# Build a small system on musl, as Alpine is one: busybox, and CPython with what overlord.py and its tests import of it.
#
# The last line on stdout is its folder, in which usr/bin/python3 runs on this machine too, and which makes an image as it
# is. It is kept, and the next run only prints it: tests that find it use it. The sources are Debian's. Only with CI=true
# or DOCKER_SETUP=1, as root on Debian, are the packages installed that building needs.
#
# Exit codes: 0 ready; 75 this machine lacks something, and the last line says what; 1 something failed.

set -eu
. "$(dirname "$0")/debian.sh"
umask 022 # other users run it too

release=bookworm version=3.11 # the CPython is that release's
root=$(kept musl)
target=$(uname -m)-linux-musl

runs() { [ "$("$1/usr/bin/python3" -ISc 'import ctypes; print("runs")' 2>/dev/null)" = runs ]; }

# need COMMAND PACKAGE ...: the command, from these packages
need() {
    may_install && install_for "$@"
    command -v "$1" >/dev/null || lack "no $1 here (on Debian: apt-get install $2)"
}

# musl's compiler knows no headers of the kernel, and says it were glibc's: both is mended by one in between.
make_compiler() {
    mkdir "$work/kernel"
    ln -s /usr/include/linux /usr/include/asm-generic "/usr/include/$(gcc -print-multiarch)/asm" "$work/kernel"
    cat >"$work/cc" <<EOF
#!/bin/sh
case "\$*" in *-print-multiarch) exec echo $target ;; esac
exec musl-gcc -idirafter $work/kernel "\$@"
EOF
    chmod 755 "$work/cc"
    export CC="$work/cc" CFLAGS='-O1 -g0'
}

# ctypes, by which overlord becomes a subreaper, needs it.
build_libffi() {
    cd "$work/libffi-"*/
    ./configure -q --disable-shared --with-pic --disable-docs --disable-multi-os-directory --prefix="$work/libffi"
    make -s -j2 install
}

build_python() {
    # /none: setup.py looks into PREFIX/include, and glibc's headers are in /usr/include.
    cd "$work/python$version-"*/
    cat >Modules/Setup.local <<'EOF'
*disabled*
_bz2 _codecs_cn _codecs_hk _codecs_iso2022 _codecs_jp _codecs_kr _codecs_tw _crypt _curses _curses_panel _dbm _decimal
_elementtree _gdbm _hashlib _lzma _multibytecodec _sqlite3 _ssl _tkinter _uuid nis ossaudiodev pyexpat readline spwd zlib
EOF
    PKG_CONFIG_LIBDIR="$work/libffi/lib/pkgconfig" LDFLAGS="-L$work/libffi/lib" ./configure -q --prefix=/none \
        --disable-shared --disable-test-modules --without-doc-strings --with-ensurepip=no
    make -s -j2 sharedmods
}

# Not `make install`: that compiles all of the library three times.
assemble() {
    mkdir -p "$work/root/bin" "$work/root/lib" "$work/root/usr/bin" "$work/root/usr/lib/python$version/lib-dynload" \
        "$work/root/etc" "$work/root/root" "$work/root/sbin" "$work/root/tmp"
    chmod 1777 "$work/root/tmp"
    cd "$work/python$version-"*/
    cp python "$work/root/usr/bin/python$version"
    ln -s "python$version" "$work/root/usr/bin/python3"
    cp -R Lib/. "$work/root/usr/lib/python$version"
    cp build/lib.*/*.so "$work/root/usr/lib/python$version/lib-dynload"
    cp build/lib.*/_sysconfigdata*.py "$work/root/usr/lib/python$version"
    cd "$work/root/usr/lib/python$version"
    rm -rf distutils ensurepip idlelib lib2to3 test tkinter turtledemo
    cd "$work/root"
    cp -L "/lib/ld-musl-$(uname -m).so.1" lib
    cp "$(command -v busybox)" bin
    for name in $(bin/busybox --list); do
        [ -e "bin/$name" ] || ln -s busybox "bin/$name"
    done
    ln -s ../../bin/busybox usr/bin/env
    echo 'root:x:0:0:root:/root:/bin/sh' >etc/passwd
    echo 'nobody:x:65534:65534:nobody:/:/bin/false' >>etc/passwd
    printf 'root:x:0:\nnogroup:x:65534:\n' >etc/group
    runs "$work/root"
}

build() {
    need musl-gcc musl-tools
    need gcc gcc
    need make make
    need dpkg-source dpkg-dev
    need busybox busybox-static
    [ -e /usr/include/linux ] || lack 'no headers of the kernel here (on Debian: apt-get install linux-libc-dev)'
    work=$(mktemp -d /tmp/overlord-musl.XXXXXX)
    trap 'rm -rf "$work"' EXIT
    trap 'exit 1' HUP INT TERM
    say "building CPython $version with musl, some minutes"
    # Whatever is built says much of no use, unless it fails. (In a condition, `set -e` would do nothing.)
    set +e
    (
        set -ex
        cd "$work"
        apt_of "$work/apt" "$release" source "python$version" libffi
        make_compiler
        build_libffi
        build_python
        assemble
    ) >"$work/log" 2>&1
    failed=$?
    set -e
    if [ "$failed" != 0 ]; then
        tail -n 30 "$work/log" >&2
        say 'it failed; the last lines are above'
        exit 1
    fi
    mkdir -p "$(dirname "$root")"
    rm -rf "$root"
    mv "$work/root" "$root"
}

runs "$root" || build
echo "$root"
