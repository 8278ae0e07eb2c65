"""What overlord leaves to /bin/sh works where that is dash, bash or busybox: commands, probes, traps, exit codes.

Each overlord runs in a mount namespace in which the shell lies over /bin/sh. `make shells` runs all other tests so.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Callable

import pytest

import overlord as program_under_test
from conftest import Start
from harness import PATIENCE, ROOT, Overlord, Process, daemon, eventually, script
from test_docker import alone

BIND = 'mount --bind "$0" /bin/sh && exec "$@"'
LOOP = "while :; do sleep 0.05; done"


def find_shell(name: str) -> str:
    """Return the path of a shell, or skip."""
    found = shutil.which(name)
    if name != "busybox":
        return found or pytest.skip(f"no {name} on this machine")
    with alone():
        done = subprocess.run([ROOT / "tests/busybox.sh"], capture_output=True, text=True, timeout=PATIENCE, check=False)
    if done.returncode == 75:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(params=("dash", "bash", "busybox"))
def shell(request: pytest.FixtureRequest) -> str:
    """The path of each shell in turn."""
    return find_shell(request.param)


@pytest.fixture
def begin(overlord: Start, shell: str) -> Callable[..., Overlord]:
    """A function that starts an overlord for whom /bin/sh is that shell."""

    def begin(config: str, *command: str) -> Overlord:
        return overlord(config, *command, prefix=["sh", "-c", BIND, shell], settings={"socket": "abstract"})

    return begin


def is_shell(process: Process, shell: str) -> bool:
    """Whether it is that shell, by whatever name; a file that lies over another one is still the same."""
    return os.path.samefile(process.folder / "exe", shell)


# Of a script: each line goes to the shell as it is, and each of these means the same to all shells.
LINES = """
    set -e
    set -- one "two  words" '$HOME'
    for word; do
        case $word in
            one) echo "first $word"; continue;;
            *\\ *) echo "second $word" ;;   # a comment; with a semicolon
            *) echo "third $word" ;;
        esac
    done
    function_of_mine() { echo "fourth $((6 * 7)) ${1##*/} $(echo inner | tr a-z A-Z)"; }
    function_of_mine /usr/bin/env
    cat << END
      fifth ${OVERLORD_NAME}
    END
    test -n "${UNSET:-}" || echo "sixth ${UNSET-none}" | cat
    echo joined \\
      line"""
PRINTED = ["first one", "second two  words", "third $HOME", "fourth 42 env INNER", "  fifth lines", "sixth none", "joined line"]


def test_script_of_many_lines(begin: Callable[..., Overlord], shell: str) -> None:
    """Quotes, functions, `case`, a here-document, arithmetic, a comment: all as they stand."""
    o = begin(script("lines", LINES, stdout="prefix") + daemon("web", f"{LOOP}", deps="lines"))
    o.says("web", "ok")
    eventually(lambda: is_shell(o.unit("web"), shell), "it is that shell")
    o.wait_for("joined line", lines=o.out)
    assert [line.partition("lines | ")[2] for line in o.out] == PRINTED
    assert o.stop() == 0


def says(name: str, text: str) -> str:
    return f"echo '{name}: {text}' >> journal"


def trap(name: str, sig: str, then: str = "exit 0") -> str:
    return f'trap "{says(name, "got " + sig)}; {then}" {sig}; {says(name, "up")}'


# How a unit may come to its end, and which of its processes has to say so. Each kind of trap needs another of these.
STOPS = {
    "catches": (f"{trap('catches', 'TERM')}; {LOOP}", {}),
    "waits": (f"sleep 12345 & {trap('waits', 'TERM', 'kill $!; wait $!; exit 0')}; wait", {}),
    "all": (f"{trap('all', 'TERM')}; sleep 12345", {"kill_mode": "all"}),
    "other": (f"{trap('other', 'USR2')}; {LOOP}", {"stop_signal": "USR2"}),
    "command": (f"{trap('command', 'USR1')}; {LOOP}", {"stop_cmd": "test $MAINPID -gt 1 && kill -USR1 $MAINPID"}),
    "forwards": (f"{trap('forwards', 'HUP', ':')}; trap 'exit 0' TERM; {LOOP}", {"forward": "HUP"}),
    "jobs": ("set -m; sleep 12345 & sleep 12345 & " + says("jobs", "up") + "; wait", {}),
    "pipe": (says("pipe", "up") + "; sleep 12345 | cat", {}),
    "group": ("{ " + says("group", "up") + "; sleep 12345; } & wait", {}),
}


def test_stop(begin: Callable[..., Overlord]) -> None:
    """Traps of each kind, jobs in groups of their own, pipes: each ends as it is asked to, and nothing has to be killed."""
    o = begin("".join(daemon(name, cmd, stop_timeout="60s", **options) for name, (cmd, options) in STOPS.items()))
    for name in STOPS:
        o.journal.wait_for(f"{name}: up")
    o.send(signal.SIGHUP)
    o.journal.wait_for("forwards: got HUP")
    assert o.ask("stop", *STOPS).returncode == 0
    got = {"catches: TERM", "waits: TERM", "all: TERM", "other: USR2", "command: USR1", "forwards: HUP"}
    assert {line.replace("got ", "") for line in o.journal.lines() if "got" in line} == got
    eventually(lambda: len(o.processes()) == 1, "nothing is left but overlord")
    assert o.count("not gone after|killing") == 0
    assert o.count(r"exited with code [^0]") == 0


def test_lone_command_leaves_no_shell(begin: Callable[..., Overlord], shell: str) -> None:
    """Where the shell has to look at the words too, and where it does not; a variable with a dot needs no shell."""
    o = begin(
        daemon("plain", "sleep 12345", env="a.b=c")
        + daemon("quoted", "sleep '12345'")
        + daemon("expanded", 'sleep "$LONG" 2>&1', env="LONG=12345")
        + daemon("two", "true; sleep 12345; true")
    )
    for name in ("plain", "quoted", "expanded"):
        assert o.unit_is(name, "sleep").cmdline == ["sleep", "12345"]
    assert b"a.b=c" in o.unit("plain").environ
    eventually(lambda: is_shell(o.unit("two"), shell), "the shell stays for two commands")
    assert o.stop() == 0


# What a command ends with, and what overlord says of it.
ENDS = {
    "code": ("exit 3", "exited with code 3"),
    "last": ("false; true; (exit 4)", "exited with code 4"),
    "missing": ("nosuchcommand $X", "exited with code 127 .*a command was not found"),
    "missing-by-path": ("X=1 /no/such", "exited with code 127 .*a command was not found"),
    "no-program": ("/etc/passwd $X", "exited with code 126 "),
    "killed": ("kill -KILL $$", "killed by SIGKILL"),
    "signalled": ("kill -USR1 $$; exit 1", "killed by SIGUSR1"),
    "strict": ("set -eu; echo $NOTHING; exit 9", "exited with code [12]"),
    "broken": ("case x in", "exited with code 2"),
    "no-interpreter": ("./script", "exited with code 6"),
    "trap": ("trap 'exit 7' EXIT; exit 1", "exited with code 7"),
}


def test_exit_codes(begin: Callable[..., Overlord], tmp_path: Path) -> None:
    """Each is told as it is, with the cause where that is known. A file without `#!` is the shell's."""
    (tmp_path / "script").write_text("exit 6\n")
    (tmp_path / "script").chmod(0o755)
    options = {"respawns": 0, "on_failure": "ignore", "warmup": "60s"}
    o = begin("".join(daemon(name, cmd, **options) for name, (cmd, _) in ENDS.items()) + daemon("stays"))
    for name, (_, told) in ENDS.items():
        o.says(name, rf"failed: pid \d+ {told}")
    assert o.stop() == 0


def test_probes(begin: Callable[..., Overlord]) -> None:
    """`wait_for`, `ready` and `health` as commands: each is asked again until it says yes, with its last line as reason."""
    o = begin(
        daemon(
            "web", LOOP, wait_for="cmd:test -e there", health="cmd:test ! -e ill || { echo feverish; exit 5; }",
            ready='cmd:kill -0 "$MAINPID" && { test -e ready || { echo "not yet" >&2; exit 4; }; }',
            health_interval="50ms", health_retries=1,
        )
    )  # fmt: skip
    o.says("web", "waiting")
    (o.folder / "there").touch()
    o.says("web", "started")
    eventually(lambda: "exited with code 4: not yet" in o.ask("why", "web", code=None).stdout, "the reason of `ready`")
    (o.folder / "ready").touch()
    o.wait_ok("web")
    (o.folder / "ill").touch()
    o.says("web", ".*exited with code 5: feverish")
    (o.folder / "ill").unlink()
    o.wait_ok("web", 2)
    assert o.stop() == 0


def test_main_command(begin: Callable[..., Overlord]) -> None:
    """`docker run image sh -c ...`: it gets the signal, and its code is the container's."""
    o = begin("", "--", "sh", "-c", f"{trap('main', 'TERM', 'exit 7')}; {LOOP}")
    o.journal.wait_for("main: up")
    assert o.stop() == 7
    assert o.journal.lines() == ["main: up", "main: got TERM"]


def builtins() -> list[str]:
    """Return whatever word may be a shell's own: bash and busybox have a list, with applets and more in it."""
    lists = [["bash", "-c", "compgen -bk"], [find_shell("busybox"), "sh", "-c", "help"]]
    return " ".join(subprocess.run(words, capture_output=True, text=True, check=True).stdout for words in lists).split()


def test_overlord_knows_what_is_no_program(shell: str) -> None:
    """A word that is the shell's own is left to it: executed as a program, it were another, or none."""
    ask = 'for word; do case "$(type "$word")" in *builtin* | *keyword* | *"reserved word"*) echo "$word" ;; esac; done'
    argv = ["sh", "-c", ask, "sh", *builtins()]
    words = set(subprocess.run(argv, executable=shell, capture_output=True, text=True, check=True).stdout.split())
    assert {"cd", "exec", "trap", "export", "while", "ulimit"} <= words
    assert {word for word in words if program_under_test.first_program(word)} == set()
