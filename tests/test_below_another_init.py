"""Not PID 1: below `docker run --init`, in a shared PID namespace, or on a laptop."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from conftest import Start
from harness import Process, daemon, eventually, program, script


def test_adopts_orphans(overlord: Start) -> None:
    """Where the system allows it, what forks away becomes overlord's child, and is reaped when it ends."""
    o = overlord(script("away", program("fork_away.py", "x")) + daemon("web", deps="away"), pid1=False)
    o.says("web", "ok")
    away = next(process for process in o.processes() if any("fork_away.py" in word for word in process.cmdline))
    eventually(lambda: away.ppid == o.inner_pid, "it is adopted")
    o.kill(away.pid, signal.SIGKILL)
    eventually(lambda: all(process.pid != away.pid for process in o.processes()), "it is reaped")
    assert o.stop() == 0


def test_other_processes_are_none_of_its_business(overlord: Start, python: list[str]) -> None:
    """No signal ever reaches a process that is no descendant, though it is in the same group and namespace."""
    o = overlord(daemon("web"), pid1=False, python=python)
    o.says("web", "ok")
    foreign = next(process for process in o.running("sleep", "infinity") if process.ppid == 1)
    assert o.stop() == 0
    assert foreign.alive
    assert {process.pid for process in o.processes()} == {1, foreign.pid}


def test_second_request_spares_others(overlord: Start) -> None:
    """Nor does killing at once."""
    o = overlord(daemon("web", program("stubborn.sh", "web"), stop_timeout="1000s"), pid1=False)
    o.journal.wait_for("web up")
    foreign = next(process for process in o.running("sleep", "infinity") if process.ppid == 1)
    o.send(signal.SIGTERM)
    o.journal.wait_for("web got TERM")
    o.send(signal.SIGTERM)
    assert o.wait_exit() == 0
    assert foreign.alive


@pytest.mark.parametrize("words", ((), ("sleep", "infinity")), ids=("units", "main command"))
def test_dies_with_nobody_else(overlord: Start, words: tuple[str, ...]) -> None:
    """Its end is an exit, also where a signal ended its main command: the other init sees a code."""
    o = overlord(daemon("web"), *words, pid1=False)
    o.says("web", "ok")
    if words:
        o.wait_for("main command: started")
    assert o.stop() == (143 if words else 0)


def test_warns_without_a_subreaper(overlord: Start, python: list[str]) -> None:
    """Without ctypes (python3-minimal) one warning says so, and the rest works."""
    o = overlord(daemon("web"), pid1=False, python=python)
    o.says("web", "ok")
    lacks = "minimal" in python[0]
    assert o.count("subreaper") == int(lacks)
    assert o.stop() == 0
    assert not Process(o.pid).alive


@pytest.mark.parametrize("name", ("sh", "tini"))
def test_warns_of_a_shell_before_it(overlord: Start, tmp_path: Path, name: str) -> None:
    """`ENTRYPOINT overlord.py; ...` hides it from `docker stop`; an init passes the signal on."""
    init = tmp_path / name
    init.symlink_to(os.path.realpath("/bin/sh" if name == "sh" else "/bin/bash"))  # busybox does not run as tini
    o = overlord(daemon("web"), prefix=[str(init), "-c", '"$@"; exit $?', name])
    o.says("web", "ok")
    told = r'PID 1 is sh, which passes no signal on.* ENTRYPOINT \["/sbin/overlord.py"\] .*exec'
    assert o.count(told) == int(name == "sh")


def test_no_warning_as_pid1(overlord: Start, python: list[str]) -> None:
    """PID 1 needs no subreaper."""
    o = overlord(daemon("web"), python=python)
    o.says("web", "ok")
    assert o.stop() == 0
    assert o.count("subreaper") == 0
