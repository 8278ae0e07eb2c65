"""The short form of fuzz.py, what it has found so far, and what it cannot see from inside."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import types
from pathlib import Path

import pytest

import fuzz
from conftest import Start
from fuzz import SPLIT, TARGETS, guarded
from harness import OVERLORD, PATH, PATIENCE, STRICT, daemon, exchange

FROM_THE_USER = pytest.mark.skipif(STRICT, reason="warnings are errors here, and these are the user's")
EXAMPLES = {"configuration": 150, "reload": 50, "http": 80, "converted": 80}
WEB = b" web\tdaemon\twaiting\t1\t%s\t\t0\t\t\t%s" + b"\t" * (len(fuzz.overlord.RECORD) - 9) + b"1\n=0\n"
# What was found at some time: the target, and the bytes.
FOUND = [
    ("words", b"log:" + b"(" * 5000),
    ("words", b"log:x{99999999999999999999}"),
    ("configuration", b"[daemon:web]\ncmd = x\nstdout = prefix\nready = log:x{99999999999999999999}\n"),
    ("variables", b"A=1\0\n"),
    ("server", b"health" + SPLIT + b"=99999999999999999999\n"),
    ("server", b"health" + SPLIT + b"=999\n"),
    ("server", b"health" + SPLIT + b"=x\n"),
    ("server", b"health" + SPLIT + b"\xff\n=0\n"),
    ("server", b"status" + SPLIT + b" web\n=0\n"),
    ("server", b"why web" + SPLIT + WEB % (b"nan", b"") + SPLIT + b"=0\n"),
    ("server", b"why web" + SPLIT + WEB % (b"1", b"web") + SPLIT + b"=0\n"),
]


@pytest.mark.parametrize("name", TARGETS)
def test_fuzz(name: str) -> None:
    """Some hundred cases of each target, always the same ones."""
    fuzz.fuzz(name, number=1, examples=EXAMPLES.get(name, 200))


@pytest.mark.parametrize("name", TARGETS)
def test_seeds(name: str) -> None:
    """What the cases are made from: every bad configuration, every example, every verb."""
    for data in TARGETS[name].seeds:
        guarded(name)(data)


@pytest.mark.parametrize(("name", "data"), FOUND)
def test_found_before(name: str, data: bytes) -> None:
    """What was found at some time is not there any more."""
    guarded(name)(data)


def test_main_process_that_is_gone() -> None:
    """One that a pid file names, and that was reaped as an orphan after the last reading of /proc, is no main process: its
    end would never be seen. (chaos.py found it: the end of the process and that of the probe come in one batch.)"""
    child = os.fork()
    if not child:
        signal.pause()
    process = fuzz.overlord.read_process(child)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    play = fuzz.Play(fuzz.read(b"[daemon:web]\ncmd = x\npidfile = /run/web.pid\n"), random.Random(1))
    unit = play.fleet.units["web"]
    unit.status = unit.status._replace(state=fuzz.overlord.STARTING, pid=101, left=True)
    found = {"found": {child: process}, "owner": {child: unit}, "strangers": {}}
    census = types.SimpleNamespace(survey=lambda reuse: {child: unit}, **found)
    more = {"may_be_main": lambda *_: True, "inform": lambda *_, **more: True, "watch_main": lambda *_: True}
    loop = types.SimpleNamespace(census=census, pids={101: "web"}, lingering={}, **more)
    why = fuzz.overlord.Loop.name_main(loop, unit, child, "/run/web.pid")
    assert why == f"/run/web.pid names pid {child}, which does not run"
    assert loop.pids == {101: "web"}


@pytest.mark.parametrize(("later", "right"), [(None, True), (fuzz.overlord.Process(9, 1, "x", 1, 3), False)])
def test_sender_that_ends_while_it_is_looked_for(monkeypatch: pytest.MonkeyPatch, later: object, right: bool) -> None:
    """One that says MAINPID= and ends at once is the unit's, though the reading of /proc does not show it any more."""
    answers = [fuzz.overlord.Process(9, 1, "x", 1, 3), later]
    monkeypatch.setattr(fuzz.overlord, "read_process", lambda pid: answers.pop(0))
    unit = types.SimpleNamespace(status=types.SimpleNamespace(pid=1), user=None)
    loop = types.SimpleNamespace(census=types.SimpleNamespace(survey=lambda reuse: {}), watch=None)
    assert fuzz.overlord.Notices(loop).is_inside(unit, 9, 0) is right


def test_client_with_a_socket_that_is_not_set(tmp_path: Path) -> None:
    """The verbs look into a configuration that need not be free of mistakes, even where it says the socket."""
    (tmp_path / "a.conf").write_text("[overlord]\nsocket = ${NOT_SET}\n")
    with fuzz.client_of([]) as shown:
        code = fuzz.overlord.main(["-c", str(tmp_path / "a.conf"), "status"])
    fuzz.check_client(code, shown, fuzz.CODES)


def test_notices_of_a_long_name(overlord: Start) -> None:
    """The address of a socket is short, the name of a unit need not be."""
    name = "n" * 120
    o = overlord(daemon(name, "exec sleep infinity", ready="notify"))
    o.says(name, "started")
    assert o.stop() == 0


@FROM_THE_USER
@pytest.mark.parametrize("warnings", [None, "error"])
def test_no_warning_of_python(warnings: str | None, tmp_path: Path) -> None:
    """A regular expression that Python has its doubts about is the user's affair, and no line of another form on stderr."""
    (tmp_path / "a.conf").write_text(
        f"[overlord]\nconfigdir = {tmp_path}/d\n" + daemon("a", "true", stdout="prefix", ready="log:[[a]")
    )
    environment = {"PATH": PATH, **({"PYTHONWARNINGS": warnings} if warnings else {})}
    done = subprocess.run(
        ["/usr/bin/env", "python3", str(OVERLORD), "-c", str(tmp_path / "a.conf"), "check"],
        env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert all(line.startswith("overlord: ") for line in done.stderr.splitlines()), done.stderr


@FROM_THE_USER
def test_no_warning_of_python_at_pid1(overlord: Start, tmp_path: Path) -> None:
    """Neither by the configuration nor by a glob that somebody asks with."""
    o = overlord(
        daemon("a", "echo ready; exec sleep infinity", stdout="prefix", ready="log:[[r]eady"), settings={"socket": tmp_path / "s"}
    )
    o.wait_for("^overlord: a: started")
    for pattern in ("[[a]", "[a--b]", "[a&&b]", "[a||b]", "[a~~b]"):
        exchange(o, f"status {pattern}\n".encode())
    assert o.stop() == 0
    odd = [line for line in o.log if not line.startswith(("overlord: ", "a | "))]
    assert not odd, odd
