# What the scripts beside this one share. It is read by them with `.`, and does nothing by itself.

lacking=75 # EX_TEMPFAIL of sysexits.h: "not here, not now", which a test may turn into a skip

say() { echo "$(basename "$0" .sh): $*" >&2; }
lack() { say "$*"; exit "$lacking"; }

may_install() {
    [ "${CI:-}" = true ] || [ "${DOCKER_SETUP:-}" = 1 ] || return 1
    [ "$(id -u)" = 0 ] && [ -e /etc/debian_version ]
}

# Install the packages of a command that is not there: install_for COMMAND PACKAGE ...
install_for() {
    command -v "$1" >/dev/null && return
    shift
    say "installing $*"
    apt-get update -qq >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >&2
}

# Where this machine's apt gets packages labelled $1 from; $2 if apt knows no such place.
mirror() {
    found=$(apt-get indextargets --format '$(REPO_URI)' 'Origin: Debian' "Label: $1" 2>/dev/null | head -n 1)
    found=${found:-$2}
    echo "${found%/}"
}

# apt-get for one release of Debian, with lists of its own in a folder: this machine's stay as they are.
# apt_of FOLDER RELEASE ARGUMENT ...
apt_of() (
    work=$1 release=$2
    shift 2
    if [ ! -d "$work/lists" ]; then
        mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
        from="[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(mirror Debian http://deb.debian.org/debian) $release main"
        printf 'deb %s\ndeb-src %s\n' "$from" "$from" >"$work/sources.list"
        apt_of "$work" "$release" update
    fi
    exec apt-get -qq -o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts=- -o Dir::State::Lists="$work/lists" \
        -o Dir::Cache="$work/cache" -o APT::Default-Release= -o APT::Sandbox::User=root "$@"
)

# Where a script keeps what it made, so that the next run need not make it again: kept NAME
# Tests become other users, to whom the home of root is closed.
kept() {
    cache=$HOME/.cache
    [ "$(id -u)" != 0 ] || cache=/var/cache
    echo "${XDG_CACHE_HOME:-$cache}/overlord/$1"
}
