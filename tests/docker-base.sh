#!/bin/sh
# Make sure that a Docker engine answers and that it has the base image of Dockerfile.example.
#
# Does nothing where both are there. A missing image is pulled as `docker build` would pull it. Where no registry can be
# reached, root builds it from Debian's own archive, if debootstrap is installed. Only with CI=true or DOCKER_SETUP=1,
# as root on Debian, are packages installed and a Docker daemon started.
#
# Exit codes: 0 ready; 75 this machine lacks something, and the last line says what; 1 something failed.

set -eu

suite=${1:-bookworm} # the Debian release
image=debian:$suite-slim
. "$(dirname "$0")/debian.sh"

engine() { docker info >/dev/null 2>&1; }

# A pid file of an engine that was killed keeps the next one from starting once another process has that number:
# drop_stale COMMAND FILE
drop_stale() {
    [ -e "$2" ] || return 0
    [ "$(cat "/proc/$(cat "$2")/comm" 2>/dev/null)" = "$1" ] || rm -f "$2"
}

start_engine() {
    command -v docker >/dev/null || may_install ||
        lack 'no Docker here: no docker command (install Docker, or as root on Debian: DOCKER_SETUP=1)'
    may_install ||
        lack 'no Docker engine answers: docker info fails (start it, or as root on Debian: DOCKER_SETUP=1)'
    install_for dockerd docker.io
    install_for docker docker-cli # the client; up to bookworm it came with docker.io
    install_for iptables iptables # dockerd needs it for its bridge, and only recommends it
    engine && return              # where systemd runs, the package started it
    drop_stale dockerd /run/docker.pid
    drop_stale containerd /run/docker/containerd/containerd.pid
    log=$(mktemp /tmp/dockerd.XXXXXX.log)
    say "starting dockerd, log in $log"
    # A session of its own: it outlives this script and gets no Ctrl-C of its terminal.
    setsid dockerd >"$log" 2>&1 </dev/null &
    dockerd=$!
    tries=300
    until engine; do
        tries=$((tries - 1))
        if [ "$tries" = 0 ] || ! kill -0 "$dockerd" 2>/dev/null; then
            tail -n 20 "$log" >&2
            say 'dockerd did not come up; its last lines are above'
            exit 1
        fi
        sleep 0.2
    done
}

# Files that make the tree behave as the official image does, and its apt reach the archive as this machine's does.
dress() {
    root=$1 archive=$2 security=$3
    # Without it the packages' scripts would start redis and nginx in the middle of `docker build`.
    printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
    chmod 755 "$root/usr/sbin/policy-rc.d"
    {
        echo "deb $archive $suite main"
        if [ "$suite" != sid ]; then
            echo "deb $archive $suite-updates main"
            echo "deb $security $suite-security main"
        fi
    } >"$root/etc/apt/sources.list"
    # Proxies, time-outs and the like: whatever makes apt work here.
    grep -lrs Acquire /etc/apt/apt.conf /etc/apt/apt.conf.d | while read -r file; do
        cp "$file" "$root/etc/apt/apt.conf.d/"
    done
    case "$archive $security" in
    *https:*)
        mkdir -p "$root/etc/ssl/certs"
        cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
        ;;
    esac
    rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/*.log
}

build_base() {
    archive=$(mirror Debian http://deb.debian.org/debian)
    security=$(mirror Debian-Security http://deb.debian.org/debian-security)
    work=$(mktemp -d /tmp/docker-base.XXXXXX)
    trap 'rm -rf "$work"' EXIT
    trap 'exit 1' HUP INT TERM
    say "no registry reached: building $image from Debian's archive, about half a minute"
    if ! debootstrap --variant=minbase "$suite" "$work/root" "$archive" >"$work/log" 2>&1; then
        tail -n 20 "$work/log" >&2
        say 'debootstrap failed; its last lines are above'
        exit 1
    fi
    dress "$work/root" "$archive" "$security"
    tar -C "$work/root" -c . | docker import --change 'CMD ["bash"]' - "$image" >/dev/null
}

make_base() {
    why=$(docker pull -q "$image" 2>&1) && return
    why=$(echo "$why" | tail -n 1)
    if may_install; then
        install_for debootstrap debootstrap
    elif [ "$(id -u)" != 0 ] || ! command -v debootstrap >/dev/null; then
        lack "no base image: docker pull $image says: $why (or as root on Debian: DOCKER_SETUP=1)"
    fi
    build_base
}

engine || start_engine
docker image inspect "$image" >/dev/null 2>&1 || make_base
