"""The core of what overlord promises as PID 1, on each interpreter: start, reap, relay, stop, and the exit codes."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from conftest import Start
from harness import (
    OVERLORD,
    PATH,
    PATIENCE,
    Process,
    daemon,
    eventually,
    interpreter,
    minimal_python,
    namespace,
    program,
    script,
)

# What Debian's python3-minimal lacks and overlord as PID 1 has to do without.
LACKING = "dataclasses json shlex shutil resource ctypes queue asyncio termios tty mmap difflib unittest".split()

WHOLE = (
    script("setup")
    + daemon("db")
    + daemon("web", deps="setup:always, db:bounce")
    + daemon("worker", program("on_signal.py", "worker", "catch", "SIGHUP"), deps="web")
    + script("never")
)


def test_minimal_is_minimal(tmp_path: Path) -> None:
    """The interpreter that stands for python3-minimal lacks what that lacks."""
    python = minimal_python(tmp_path)
    if python is None:
        pytest.skip("no Debian whose python3-minimal could be taken")
    ask = "import importlib.util, sys; print(*[name for name in sys.argv[1:] if importlib.util.find_spec(name)])"
    found = subprocess.run([python, "-c", ask, *LACKING], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []


def test_life_of_a_container(overlord: Start, python: list[str]) -> None:
    """Scripts, daemons, a bounce, a signal that reaches who catches it and kills nobody else, and an ordered stop."""
    o = overlord(WHOLE, python=python)
    o.says("worker", "ok")
    o.journal.wait_for("worker ready")
    o.send(signal.SIGHUP)
    o.journal.wait_for("worker got SIGHUP")
    mark = o.mark
    o.kill_unit("db")
    o.says("db", r"pid \d+ killed by SIGKILL after .*, restarting", after=mark)
    o.says("web", r"stopping \(SIGTERM\): db was restarted", after=mark)
    o.says("web", "ok", after=mark)
    assert o.stop() == 0
    assert sorted(o.started[:2]) == ["db", "setup"]
    assert o.started[2:] == ["web", "worker", "db", "setup", "web"]
    assert o.position("worker: stopped") < o.position("web: stopping .*shutdown")
    assert o.position("web: stopped") < o.position("db: stopping .*shutdown")
    assert "Traceback" not in str(o)
    assert o.log[-1].startswith("overlord: exiting with code 0: ")


def test_orphans_are_reaped(overlord: Start, python: list[str]) -> None:
    """5,000 zombies that become PID 1's in one moment are gone, and the next unit starts none the wiser."""
    o = overlord(
        script("burst", program("burst.sh", 5000)) + daemon("web", deps="burst"),
        python=python,
    )
    o.says("web", "ok")
    eventually(lambda: len(o.processes()) == 2, "nothing is left but overlord and web")
    assert o.stop() == 0


def test_main_command(overlord: Start, python: list[str]) -> None:
    """A main command comes after the daemons, and its code is the container's."""
    o = overlord(daemon("db"), "--", "sh", "-c", "echo main >> journal; exit 7", python=python)
    assert o.wait_exit() == 7
    assert "main" in o.journal.lines()
    assert o.position("db: ok") < o.position(r"main command: started \(pid \d+\)") < o.position("db: stopp")


def test_mistakes(overlord: Start, python: list[str]) -> None:
    """All mistakes at once with file and line, exit 78, and nothing is started."""
    o = overlord("[daemon:web]\ncmd = echo web >> journal\ndeps = dbb\nstop_sginal = INT\n", python=python)
    assert o.wait_exit() == 78
    assert o.count(rf"^{o.config}:\d+: \[daemon:web\] deps: .*dbb") == 1
    assert o.count(rf"^{o.config}:\d+: \[daemon:web\] stop_sginal: .*stop_signal") == 1
    assert not o.journal.lines()


def test_executable_as_it_is(overlord: Start, python: list[str], tmp_path: Path) -> None:
    """The file itself is executed, and finds its python3 on PATH."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python3").symlink_to(interpreter(python))
    path = f"{tmp_path}/bin:{PATH}"
    o = overlord(daemon("web"), python=[], env={"PATH": path})
    o.says("web", "ok")
    assert os.path.samefile(f"/proc/{o.pid}/exe", os.path.realpath(interpreter(python)))
    eventually(lambda: f"PATH={path}".encode() in o.unit("web").environ, "the environment, which is empty during exec")
    assert o.stop() == 0


# --- the start -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delay", range(0, 64, 4), ids="{}ms".format)
def test_sigterm_during_the_start(overlord: Start, delay: int) -> None:
    """A SIGTERM at whatever moment of the start ends it in order.

    The kernel drops what PID 1 neither catches nor blocks, so `docker stop` may have to ask again until the first line
    of Python ran.
    """
    o = overlord(daemon("web"))
    time.sleep(delay / 1000)

    def ask() -> bool:
        with contextlib.suppress(ProcessLookupError):
            o.send(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return o.popen.wait(0.2) is not None
        return False

    eventually(ask, "the end")
    assert o.wait_exit() == 0
    assert o.count("exiting with code 0: ") == 1


def holds_sigterm(process: Process) -> bool:
    """Return whether a SIGTERM is caught or blocked."""
    return signal.SIGTERM in process.signals("SigCgt") | process.signals("SigBlk")


def test_no_sigterm_is_lost_once_it_is_held(overlord: Start, python: list[str]) -> None:
    """From the moment on in which SIGTERM is first caught or blocked, a single one is enough."""
    for delay in (0, 0, 0, 0.002, 0.005, 0.01, 0.02, 0.04):
        o = overlord(daemon("web"), python=python)
        eventually(functools.partial(holds_sigterm, Process(o.pid)), "SIGTERM is held", pause=0)
        time.sleep(delay)
        o.send(signal.SIGTERM)
        assert o.wait_exit() == 0


# Notes what happens while a SIGTERM would be lost and what while it would be held: each import, and an exec, after
# which a mask still holds and a handler does not.
AUDIT = """
import _signal, os, sys
journal = os.open("journal", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def hook(event, arguments):
    if event in ("import", "os.exec"):
        held = _signal.SIGTERM in _signal.pthread_sigmask(_signal.SIG_BLOCK, ())
        if event == "import":
            held = held or callable(_signal.getsignal(_signal.SIGTERM))
        os.write(journal, ("held " if held else "lost ").encode() + str(arguments[0]).encode() + bytes([10]))
sys.addaudithook(hook)
"""


def test_sigterm_is_held_before_anything_else(overlord: Start, tmp_path: Path, python: list[str]) -> None:
    """What holds a SIGTERM is the first thing that runs: each import before it is a moment in which one is lost."""
    (tmp_path / "sitecustomize.py").write_text(AUDIT)
    o = overlord(daemon("web", "exec sleep infinity"), env={"PATH": PATH, "PYTHONPATH": str(tmp_path)}, python=python)
    o.says("web", "ok")
    assert o.stop() == 0
    lines = [line.split() for line in o.journal.lines()]
    if python[0].endswith(".compiled"):  # it never knows of site hooks, and begins with that line too
        assert lines == []
        return
    assert any(state == "held" for state, _ in lines)
    # `site` goes on for a moment after its hook; `__future__` is the compiler's.
    assert {name for state, name in lines if state == "lost"} <= {"usercustomize", "__future__", "_signal"}


# --- exit codes ------------------------------------------------------------------------------------------------------

# How it ends when nobody asks for it: what overlord exits with, and which unit the last line names.
ENDINGS = {
    "a daemon fails for good": (daemon("web", "exit 3", respawns=0), 3, "web"),
    "a daemon is killed": (daemon("web", "kill -KILL $$", respawns=0), 137, "web"),
    "a daemon ends before it was OK": (daemon("web", "true", respawns=0, warmup="60s"), 1, "web"),
    "a daemon ends with a code before it was OK": (daemon("web", "exit 4", respawns=0, warmup="60s"), 4, "web"),
    "a script fails": (script("setup", "exit 5") + daemon("web", deps="setup"), 5, "setup"),
    "a script is killed": (script("setup", "kill -ABRT $$") + daemon("web", deps="setup"), 134, "setup"),
    "no such folder": (daemon("web", dir="/no/such", respawns=0), 1, "web"),
    "no such user": (daemon("web", uid="nosuchuser", respawns=0), 1, "web"),
    "no such group": (daemon("web", gid="nosuchgroup", respawns=0), 1, "web"),
    "no such command": (daemon("web", "/no/such", respawns=0, warmup="60s"), 127, "web"),
    "no command that can be executed": (daemon("web", "/etc/passwd", respawns=0, warmup="60s"), 126, "web"),
    "success shuts down": (
        daemon("web", "exit 3", restart="never", success="0 3", on_success="shutdown") + daemon("db"),
        0,
        "web",
    ),
    "a signal that is success shuts down": (
        daemon("web", "kill -USR1 $$", restart="never", success="SIGUSR1", on_success="shutdown") + daemon("db"),
        0,
        "web",
    ),
    "all have ended well": (daemon("one", restart="never", cmd="true") + daemon("two", "true", restart="never"), 0, ""),
    "a failure that was ignored": (daemon("one", "exit 6", respawns=0, on_failure="ignore"), 6, ""),
    "nobody wants to run": (daemon("one", autostart="no") + script("setup"), 0, ""),
}


@pytest.mark.parametrize(("config", "code", "name"), ENDINGS.values(), ids=ENDINGS)
def test_exit_code(overlord: Start, config: str, code: int, name: str) -> None:
    """The code is that of the unit whose end ended it all, and the last line says so."""
    o = overlord(config)
    assert o.wait_exit() == code
    assert o.log[-1].startswith(f"overlord: exiting with code {code}: ")
    assert name in o.log[-1]


def test_exit_code_of_the_first_failure(overlord: Start) -> None:
    """Where all failures are ignored and nothing is left, the first one counts."""
    o = overlord(
        daemon("one", "exit 6", respawns=0, on_failure="ignore")
        + daemon("two", "until test -e go; do sleep 0.01; done; exit 7", respawns=0, on_failure="ignore")
    )
    o.says("one", "failed")
    (o.folder / "go").touch()
    assert o.wait_exit() == 6


@pytest.mark.parametrize("sig", (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGRTMIN + 3))
def test_requested_stop_is_zero(overlord: Start, sig: int) -> None:
    """Each of the default shutdown signals ends it with 0, whatever the units make of theirs."""
    o = overlord(daemon("web", "trap 'exit 9' TERM; echo up >> journal; while :; do sleep 0.01; done"))
    o.journal.wait_for("up")
    o.send(sig)
    assert o.wait_exit() == 0
    assert o.count("shutting down: .*received") == 1


@pytest.mark.parametrize("words", (["--nonsense"], ["-c"], ["-x", "true"]), ids=" ".join)
def test_usage_error(isolation: None, default_python: list[str], tmp_path: Path, words: list[str]) -> None:
    """A word that makes no sense is 64."""
    done = subprocess.run(
        namespace(*default_python, str(OVERLORD), *words), capture_output=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 64, done


@pytest.mark.parametrize("words", (["--version"], ["version"], ["--help"], ["help"], ["check"]), ids=" ".join)
def test_verbs_that_start_nothing(overlord: Start, words: list[str]) -> None:
    """Verbs and their spellings as options answer on stdout, and end."""
    o = overlord(daemon("web"), *words)
    assert o.wait_exit() == 0
    assert o.out or words == ["check"]
    assert not o.journal.lines()


def test_named_config_must_exist(overlord: Start) -> None:
    """A file that -c or the variable names and that is not there is a mistake of the configuration."""
    o = overlord("", env={"PATH": PATH, "OVERLORD_CONFIG": "/no/such.conf"}, use_config=False)
    assert o.wait_exit() == 78
    assert o.count("/no/such.conf") == 1


def test_config_variable(overlord: Start, tmp_path: Path) -> None:
    """$OVERLORD_CONFIG names the file where -c does not."""
    o = overlord(daemon("web"), env={"PATH": PATH, "OVERLORD_CONFIG": f"{tmp_path}/overlord.conf"}, use_config=False)
    o.says("web", "ok")
    assert o.stop() == 0
