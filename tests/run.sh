#!/bin/sh
# Start the example and stay in the foreground until Ctrl-C: in Docker where an engine answers, otherwise its little
# sister as PID 1 of a namespace, otherwise as an ordinary process. PORT is the port of its web page.

set -eu
cd "$(dirname "$0")/.."

port=${PORT:-8080}
image=overlord-example
container=overlord-$port

say() { printf '%s\n' "run: $*"; }

port_must_be_free() {
    command -v python3 >/dev/null || return 0 # then Docker will say it, in its own words
    python3 - "$port" <<'END' || { say "port $port is in use here; choose another: make run PORT=8081"; exit 1; }
import socket, sys
with socket.socket() as s:
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        s.bind(("", int(sys.argv[1])))
    except OSError:
        sys.exit(1)
END
}

# What a person can do now: instructions KILL-COMMAND WHAT-HAPPENS
instructions() {
    echo
    say "page:  http://localhost:$port/"
    say "kill:  $1"
    say "       (in another terminal; $2)"
    say "end:   Ctrl-C here"
    echo
}

in_docker() {
    say 'a Docker engine answers: building the image from Dockerfile.example (a minute the first time)'
    log=$(mktemp)
    # The plain builder is in every engine, and with the host's network apt works wherever it works on this machine.
    DOCKER_BUILDKIT=0 docker build --network=host -t "$image" -f Dockerfile.example . >"$log" 2>&1 ||
        { cat "$log"; rm -f "$log"; say 'the image could not be built'; exit 1; }
    rm -f "$log"
    instructions "docker exec $container sh -c 'kill \$(pidof redis-server)'" \
        'redis comes back, the application is restarted with it, nginx stays'
    terminal=
    if [ -t 0 ] && [ -t 1 ]; then terminal=-it; fi
    exec docker run --rm $terminal --name "$container" -p "$port:8080" "$image"
}

little_sister() {
    # Signals for the namespace are sent to unshare's child: unshare itself blocks TERM while it waits.
    namespace='unshare --pid --fork --mount-proc --kill-child'
    if $namespace true 2>/dev/null; then
        say 'running its little sister, overlord.py as PID 1 of a PID namespace'
    elif namespace="unshare --user --map-root-user ${namespace#unshare }" && $namespace true 2>/dev/null; then
        say 'running its little sister, overlord.py as PID 1 of a PID namespace of an unprivileged user'
    else
        namespace=
        say 'running its little sister, overlord.py as an ordinary process: unshare is not there or not allowed'
    fi
    LITTLE_DIR=$(mktemp -d "${TMPDIR:-/tmp}/overlord.XXXXXX")
    PORT=$port
    export LITTLE_DIR PORT
    trap 'rm -rf "$LITTLE_DIR"' EXIT
    # The brackets keep the pattern from matching a shell that has it on its own command line.
    instructions "pkill -f '[t]icker.sh $port'" 'the ticker comes back, and the web server is restarted with it'
    trap stop HUP TERM
    trap ':' INT # the terminal's Ctrl-C reaches overlord.py by itself; this shell waits for its end
    $namespace ./overlord.py -c tests/example/little.conf &
    child=$!
    code=0
    # A trap ends `wait` early; only when the child is gone is its code the real one.
    while kill -0 "$child" 2>/dev/null; do
        code=0
        wait "$child" || code=$?
    done
    exit "$code"
}

stop() {
    if [ -n "$namespace" ]; then
        pkill -TERM -P "$child" || :
    else
        kill -TERM "$child" || :
    fi
}

port_must_be_free
if ! docker info >/dev/null 2>&1; then
    say 'no Docker engine answers here'
elif ! tests/docker-base.sh; then
    say 'a Docker engine answers, but has no base image for Dockerfile.example'
else
    in_docker
fi
little_sister
