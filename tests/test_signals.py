"""Relayed signals: who gets them, who does not, and what arrives between fork and exec."""

from __future__ import annotations

import os
import signal

import pytest

from conftest import Start
from harness import Process, children, daemon, eventually, program, script, storm

# How a program can meet a signal, and whether it then notices it.
MEETS = {"catch": True, "block": True, "thread": True, "ignore": False}


def listener(name: str, mode: str, *signals: str, **options: object) -> str:
    """Return the section of a daemon that runs on_signal.py."""
    return daemon(name, program("on_signal.py", name, mode, *signals), **options)


@pytest.mark.parametrize("mode", MEETS)
def test_relayed_to_who_does_something_about_it(overlord: Start, mode: str) -> None:
    """Whoever catches, blocks or ignores a signal, in whatever thread, gets it, and lives."""
    o = overlord(
        listener("web", mode, "SIGUSR1", forward="USR1") + listener("probe", "catch", "SIGUSR1", forward="USR1")
    )
    o.journal.wait_for("web ready")
    o.journal.wait_for("probe ready")
    for times in (1, 2, 3):
        o.send(signal.SIGUSR1)
        o.journal.wait_for("probe got SIGUSR1", times)
        if MEETS[mode]:
            o.journal.wait_for("web got SIGUSR1", times)
    assert o.stop() == 0
    assert o.starts("web") == 1


@pytest.mark.parametrize("forward", ("USR1", "SIGUSR1", "HUP>USR1"))
def test_bystander_is_not_killed(overlord: Start, forward: str) -> None:
    """Who would die of the signal does not get it."""
    sent = signal.SIGHUP if ">" in forward else signal.SIGUSR1
    o = overlord(
        daemon("bystander", forward=forward) + listener("probe", "catch", "SIGHUP", "SIGUSR1", forward="HUP, USR1")
    )
    o.unit_is("bystander", "sleep")
    o.journal.wait_for("probe ready")
    for times in (1, 2):
        o.send(sent)
        o.journal.wait_for(f"probe got {signal.Signals(sent).name}", times)
    assert o.stop() == 0
    assert o.starts("bystander") == 1


def test_harmless_defaults_are_relayed(overlord: Start) -> None:
    """A signal whose default is to do nothing kills nobody, caught or not."""
    o = overlord(daemon("idle", forward="WINCH") + listener("probe", "catch", "SIGWINCH", forward="WINCH"))
    o.journal.wait_for("probe ready")
    o.unit_is("idle", "sleep")
    o.send(signal.SIGWINCH)
    o.journal.wait_for("probe got SIGWINCH")
    assert o.stop() == 0
    assert o.starts("idle") == 1


def test_forward_decides(overlord: Start) -> None:
    """HUP by default, what is named instead of it, translated, or nothing."""
    signals = ("SIGHUP", "SIGUSR1", "SIGUSR2")
    o = overlord(
        listener("default", "catch", *signals)
        + listener("renamed", "catch", *signals, forward="HUP>USR2")
        + listener("several", "catch", *signals, forward="HUP USR1>HUP")
        + listener("nothing", "catch", *signals, forward="none")
    )
    for name in ("default", "renamed", "several", "nothing"):
        o.journal.wait_for(f"{name} ready")
    o.send(signal.SIGHUP)
    for line in ("default got SIGHUP", "renamed got SIGUSR2", "several got SIGHUP"):
        o.journal.wait_for(line)
    o.send(signal.SIGUSR1)
    o.journal.wait_for("several got SIGHUP", 2)
    assert o.stop() == 0
    assert sorted(line for line in o.journal.lines() if "got" in line) == [
        "default got SIGHUP",
        "renamed got SIGUSR2",
        "several got SIGHUP",
        "several got SIGHUP",
    ]


def test_scripts_get_none(overlord: Start) -> None:
    """A signal that is relayed is for daemons alone."""
    running = script("setup", program("on_signal.py", "setup", "catch", "SIGHUP"))
    o = overlord(running + daemon("web", deps="setup") + listener("probe", "catch", "SIGHUP"))
    o.journal.wait_for("setup ready")
    o.journal.wait_for("probe ready")
    for times in (1, 2):
        o.send(signal.SIGHUP)
        o.journal.wait_for("probe got SIGHUP", times)
    assert "setup got SIGHUP" not in o.journal.lines()


@pytest.mark.parametrize("who", ("daemon", "main command"))
def test_relayed_to_the_main_process_alone(overlord: Start, who: str) -> None:
    """It decides for its group, as under tini without -g: its own children get nothing."""
    child = program("on_signal.py", "child", "catch", "SIGHUP")
    leader = f"({child}) & {program('on_signal.py', 'leader', 'catch', 'SIGHUP')}"
    o = overlord(daemon("web", leader)) if who == "daemon" else overlord("", "sh", "-c", leader)
    o.journal.wait_for("child ready")
    o.journal.wait_for("leader ready")
    for times in (1, 2):
        o.send(signal.SIGHUP)
        o.journal.wait_for("leader got SIGHUP", times)
    assert "child got SIGHUP" not in o.journal.lines()


def test_main_command_gets_all(overlord: Start) -> None:
    """Each signal that is not overlord's own, as under tini; none is lost where they come all at once."""
    words = "HUP USR1 USR2 ALRM VTALRM PROF URG WINCH XCPU IO PWR CONT".split()
    names = [signal.Signals[f"SIG{word}"].name for word in words]  # IO may be called POLL
    o = overlord("", "sh", "-c", program("on_signal.py", "main", "catch", *names))
    o.journal.wait_for("main ready")
    for times in (1, 2, 3):
        for name in names:
            o.send(signal.Signals[name])
        for name in names:
            o.journal.wait_for(f"main got {name}", times)


def test_main_command_may_die_of_it(overlord: Start) -> None:
    """What would spare a daemon kills the main command, as under tini."""
    o = overlord(daemon("db"), "sleep", "300")
    eventually(lambda: o.running("sleep", "300"), "the main command runs")
    o.send(signal.SIGUSR1)
    assert o.wait_exit() == 128 + signal.SIGUSR1


def test_shutdown_signals_of_the_image(overlord: Start) -> None:
    """STOPSIGNAL WINCH: that one asks for shutdown, and the usual ones are signals like any other."""
    o = overlord(
        listener("web", "catch", "SIGINT", "SIGHUP", forward="INT HUP"), settings={"shutdown_signals": "WINCH RTMIN+1"}
    )
    o.journal.wait_for("web ready")
    o.send(signal.SIGINT)
    o.journal.wait_for("web got SIGINT")
    o.send(signal.SIGWINCH)
    assert o.wait_exit() == 0


def test_signals_while_nothing_runs(overlord: Start) -> None:
    """A signal that concerns nobody is no event."""
    o = overlord(daemon("web"))
    o.unit_is("web", "sleep")
    for sig in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGPIPE, signal.SIGRTMIN + 7):
        o.send(sig)
    assert o.stop() == 0
    assert o.starts("web") == 1


def test_bystander_is_not_killed_while_it_starts(overlord: Start) -> None:
    """A child that is not exec'd yet has signals blocked by overlord itself: that is no sign that it waits for one."""
    o = overlord("".join(daemon(f"web-{n}", "exec true", backoff="0") for n in range(3)) + daemon("idle"))
    o.unit_is("idle", "sleep")
    with storm(lambda: o.send(signal.SIGHUP), pause=0.01):
        eventually(lambda: o.starts("web-0") > 60, "60 starts meanwhile")
    assert o.stop() == 0
    assert o.count("killed by SIGHUP") == 0


@pytest.mark.parametrize("pid1", (True, False), ids=("pid1", "below another init"))
def test_signal_between_fork_and_exec(overlord: Start, python: list[str], pid1: bool) -> None:
    """A signal to a child that is not exec'd yet is the child's, and never taken for overlord's own.

    A child between fork and exec has overlord's handlers and may share its wake-up pipe. So units start as fast as they
    can while each child is shot at from its first moment on.
    """
    o = overlord(
        "".join(daemon(f"web-{n}", "exec true", backoff="0") for n in range(3)),
        python=python,
        pid1=pid1,
    )
    o.says("web-0", "started")

    def shoot(sig: int) -> None:
        for pid in children(o.pid):
            os.kill(pid, sig)

    with storm(lambda: shoot(signal.SIGTERM), lambda: shoot(signal.SIGINT)):
        eventually(lambda: o.starts("web-0") > 40, "40 starts under fire")
    assert o.count("shutting down") == 0
    assert Process(o.pid).alive
    o.send(signal.SIGTERM)
    assert o.wait_exit() == 0
    assert o.count("Traceback") == 0


def test_what_overlord_may_not_signal(overlord: Start) -> None:
    """Without CAP_KILL another user's daemon cannot be signalled: that is said, and the others get theirs."""
    trap = "trap : HUP; while :; do sleep 0.1; done"
    o = overlord(
        daemon("guest", trap, uid="65534") + daemon("web", trap),
        prefix=["setpriv", "--bounding-set=-kill", "--inh-caps=-kill"],
        settings={"shutdown_timeout": "1s"},
    )
    for name in ("guest", "web"):
        eventually(lambda name=name: signal.SIGHUP in o.unit(name).signals("SigCgt"), "it catches HUP")
    o.send(signal.SIGHUP)
    o.says("guest", r"cannot relay SIGHUP to pid \d+: .*CAP_KILL|SIGHUP withheld")
    o.says("web", "SIGHUP relayed")
    assert o.stop() == 0
    assert not o.count("internal error")


@pytest.mark.parametrize("what", ("its log", "a unit's output"))
def test_a_broken_pipe_of_overlords_own_is_not_relayed(overlord: Start, what: str) -> None:
    """Whoever read it is gone: the SIGPIPE that overlord's own write raises is none of the main command's."""
    probing = daemon("web", "exec sleep 1000", health="tcp:1", health_interval="20ms", health_retries=1000)
    writing = daemon("web", "while :; do echo x; sleep 0.01; done", stdout="prefix")
    reader, end = os.pipe()
    command = "trap 'echo PIPE >> journal' PIPE; echo up >> journal; for i in $(seq 100); do sleep 0.01; done; exit 7"
    stream = {"stderr": end} if what == "its log" else {"stdout": end}
    if what == "its log":
        o = overlord(probing, "sh", "-c", command, stdout=end, stderr=end)
    else:
        o = overlord(writing, "sh", "-c", command, **stream)
    os.close(end)
    o.journal.wait_for("up")
    os.close(reader)
    assert o.wait_exit() == 7
    assert o.journal.lines() == ["up"]


@pytest.mark.parametrize("pid1", (True, False), ids=("pid1", "below another init"))
def test_job_control_signals_stop_nobody(overlord: Start, pid1: bool) -> None:
    """`docker kill -s TSTP`: there is no shell that would continue anybody, so overlord and its daemons go on."""
    o = overlord(daemon("web"), "sleep", "300", pid1=pid1)
    o.wait_for("main command: started")
    for sig in (signal.SIGCONT, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU):
        mark = o.mark
        o.send(sig)
        o.kill_unit("web")
        o.says("web", "ok", after=mark)
    assert [p for p in o.processes() if p.alive and p.state in "Tt"] == []
    assert o.stop() == 143
