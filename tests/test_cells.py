"""The Machine, cell by cell: what a mutant of the table or of a function in it would change and no other test would see."""

from __future__ import annotations

from typing import Any

import pytest

import overlord
from overlord import BACKOFF, DONE, FAILED, OK, RUNNING, STARTING, STOPPED, STOPPING, WAITING, Event, Say
from test_machine import Unit, a_daemon, a_main_command, a_script


def levels(unit: Unit) -> list[tuple[str, bool]]:
    """Return the levels of what the last event said, and whether it is the last word on the unit."""
    return [(action.level, action.final) for action in unit.actions if isinstance(action, Say)]


def test_levels_of_a_daemon() -> None:
    """What goes well is information, what is mended a warning, what is lost an error with a post-mortem."""
    unit = a_daemon(warmup=1, respawns=1)
    unit.up()
    assert levels(unit) == [("info", False)]
    unit.due()
    assert levels(unit) == [("info", False)]
    unit.exit(1)
    assert levels(unit) == [("warning", False)]
    unit.due()
    unit.ok()
    unit.exit(1)
    assert unit.status.state == FAILED
    assert levels(unit) == [("error", True)]


def test_levels_of_ends() -> None:
    """One that ends well has no post-mortem, nor has the main command."""
    unit = a_daemon(warmup=0, restart="never").ok()
    unit.exit(0)
    assert (unit.status.state, levels(unit)) == (DONE, [("info", False)])
    unit = a_script().up()
    unit.exit(0)
    assert (unit.status.state, levels(unit)) == (OK, [("info", False)])
    unit = a_main_command().up()
    unit.exit(3)
    assert (unit.status.state, levels(unit)) == (FAILED, [("info", False)])
    unit = a_main_command()
    unit.send("want")
    unit.send("start")
    unit.send("unspawned", why="cmd: not found")
    assert (unit.status.state, levels(unit)) == (FAILED, [("error", False)])


def test_levels_of_stops() -> None:
    """A stop that was asked for is information; who has to be killed, or was left behind, the Loop says by name."""
    unit = a_daemon(warmup=0).ok()
    unit.stop()
    assert levels(unit) == [("info", False)]
    unit.due()
    assert (levels(unit), unit.told) == ([], ["not gone after 8 s, killing it"])
    unit.exit(-9)
    assert (unit.status.state, levels(unit)) == (STOPPED, [("info", False)])
    unit = a_daemon(warmup=0).ok()
    unit.exit(1, left=True)
    assert (levels(unit), unit.told) == ([], [f"pid {unit.pid} exited with code 1, stopping what it left behind"])


def test_stop_by_hand_without_a_process_is_said() -> None:
    """Any other stop of what does not run goes without a word."""
    for why, count in (("by hand", 1), ("shutdown", 0)):
        unit = a_daemon()
        unit.send("want")
        unit.stop(why=why)
        assert (unit.status.state, unit.status.why) == (STOPPED, why)
        assert levels(unit) == [("info", False)] * count


def settled(unit: Unit) -> tuple[Any, ...]:
    """Return what a state without a process must not carry over from the life before."""
    status = unit.status
    return status.pid, status.left, status.then, status.deadline


@pytest.mark.parametrize("way", ["stopped", "restarted", "done", "failed", "unwell", "withdrawn", "succeeded"])
def test_nothing_is_carried_over(way: str) -> None:
    """Where there is no process, there is no pid, no group, no wish and no timer of one."""
    unit = a_script() if way == "succeeded" else a_daemon(warmup=0, restart="never")
    if way == "withdrawn":
        unit.send("want")
        unit.stop()
    else:
        unit.ok()
        if way in ("stopped", "restarted"):
            unit.stop(again=way == "restarted")
        if way == "unwell":
            unit.lose_health("no answer")
        unit.exit({"failed": 1}.get(way, 0))
    states = {"restarted": WAITING, "done": DONE, "failed": FAILED, "unwell": FAILED, "succeeded": OK}
    assert unit.status.state == states.get(way, STOPPED)
    assert settled(unit) == (0, False, "", None)


def test_since_is_the_entry_of_a_state() -> None:
    """Each change of state notes its instant, and nothing else does."""
    unit = a_daemon(warmup=2, restart="never")
    for kind, state in (("want", WAITING), ("start", STARTING)):
        unit.now += 1.0
        unit.send(kind)
        assert (unit.status.state, unit.status.since) == (state, unit.now)
    begun = unit.now
    unit.now += 0.5
    unit.send("spawned", pid=11)
    assert (unit.status.since, unit.status.started) == (begun, unit.now)
    unit.due()
    assert (unit.status.state, unit.status.since) == (OK, unit.now)
    for act, state in ((unit.stop, STOPPING), (unit.exit, STOPPED)):
        unit.now += 1.0
        act()
        assert (unit.status.state, unit.status.since) == (state, unit.now)


def test_wishes_are_forgotten_on_the_way_up() -> None:
    """A unit that is asked for again has no reason and no wish of its last life, and tells whom it is for."""
    unit = a_script(timeout="1s")
    unit.up()
    unit.due()
    unit.exit(-15)
    assert unit.status.state == FAILED
    unit.send("want", why="by hand")
    assert (unit.status.then, unit.status.why) == ("", "by hand")
    unit.send("start")
    assert (unit.status.state, unit.status.why, unit.status.up) == (RUNNING, "", False)


def test_starts_are_counted() -> None:
    """Each process is one, whatever ended the one before."""
    unit = a_daemon(warmup=0, backoff=0)
    for count in (1, 2, 3):
        unit.up()
        assert unit.status.starts == count
        unit.exit(1)
        unit.due()


@pytest.mark.parametrize(
    "code, why, hint, told",
    [
        (0, "", "", "pid 11 exited with code 0 after 0 s, before its warmup of 1 s was over"),
        (0, "", "it forked", "pid 11 exited with code 0 after 0 s, before its warmup of 1 s was over: it forked"),
        (1, "", "", "pid 11 exited with code 1 after 0 s, before its warmup of 1 s was over"),
        (0, "dir: no such directory", "", "cannot start: dir: no such directory (pid 11 never ran the command)"),
    ],
)
def test_reason_of_an_early_end(code: int, why: str, hint: str, told: str) -> None:
    """What is known of it is told."""
    unit = a_daemon(restart="never").up()
    unit.send("exited", code=code, why=why, hint=hint)
    assert unit.status.why == told
    assert unit.said == [f"error: failed: {told}"]


def test_success_has_no_hint() -> None:
    """What an exit code often means is not told where it is what was wanted."""
    unit = a_script(success="0 137").up()
    unit.send("exited", code=137, hint="out of memory")
    assert unit.status.state == OK
    assert "memory" not in unit.status.why


def test_reason_of_an_end() -> None:
    """`status` tells how a script or the main command ended."""
    unit = a_script().up()
    unit.exit(0, after=2)
    assert unit.status.why == f"pid {unit.pid} exited with code 0 after 2 s"
    unit = a_main_command().up()
    unit.exit(3, after=2)
    assert unit.status.why == f"pid {unit.pid} exited with code 3 after 2 s"


def test_reason_of_a_stop() -> None:
    """Why overlord itself stops a daemon is said, and told again when it is gone."""
    unit = a_daemon(warmup=0, max_age="1m").ok()
    unit.due()
    assert unit.said == ["info: stopping (SIGTERM): max_age reached after 1 min"]
    unit = a_daemon(ready="file:/x", ready_timeout="5s", restart="never").up()
    unit.due()
    assert unit.said == ["info: stopping (SIGTERM): not ready within 5 s"]
    unit.exit(-15)
    assert unit.status.why == f"not ready within 5 s, pid {unit.pid} killed by SIGTERM (sent by overlord) after 5 s"


def test_up_is_said_of_each_process() -> None:
    """That the one before was up does not make an early end of the next any better."""
    unit = a_daemon(restart="on-failure", backoff=0).ok()
    unit.exit(1)
    unit.due()
    unit.up()
    unit.exit(0)
    assert unit.status.state == BACKOFF
    assert "before its warmup" in unit.status.why


@pytest.mark.parametrize("stopped", [False, True])
def test_only_the_group_is_left(stopped: bool) -> None:
    """It is known that the process itself is gone: no signal is relayed to it."""
    unit = a_daemon(warmup=0).ok()
    if stopped:
        unit.stop()
    assert not unit.status.left
    unit.exit(1, left=True)
    assert (unit.status.state, unit.status.left, unit.status.pid) == (STOPPING, True, unit.pid)


# --- what is asked of it while it stops ------------------------------------------------------------------------------


def test_end_of_what_nobody_wants() -> None:
    """In a shutdown whatever ends is stopped, and neither restarted nor failed, even if nobody has stopped it yet."""
    for code in (0, 1):
        unit = a_daemon(warmup=0).ok()
        unit.wanted = False
        assert unit.exit(code) == STOPPED
        assert unit.said == [f"info: stopped in 0 s (pid {unit.pid} exited with code {code})"]


def test_no_process_for_what_nobody_wants() -> None:
    """A fork that fails after somebody has stopped the unit is no failure."""
    unit = a_daemon()
    unit.send("want")
    unit.send("start")
    assert unit.send("unspawned", why="fork: no", passing=True, wanted=False) == STOPPED
    assert unit.said == []


@pytest.mark.parametrize("way", ["stop", "want"])
def test_a_failure_that_is_overtaken(way: str) -> None:
    """Stopped while it stops for a failure, or asked for: it is not held against it, and comes again without back-off."""
    unit = a_daemon(warmup=0).ok()
    unit.lose_health("unhealthy")
    assert unit.status.state == STOPPING
    if way == "stop":
        assert unit.stop(again=True, why="reload") == STOPPING
        assert unit.status.why == "reload"
    else:
        assert unit.send("want") == STOPPING
    assert unit.exit(1) == WAITING
    assert unit.status.respawned == 0


def test_first_reason_to_be_stale() -> None:
    """The first reason stays, but for a failure; what has no process cannot be stale."""
    unit = a_daemon(warmup=0).ok()
    status = unit.status
    first = "db was restarted"
    last = ("unhealthy", True, "unhealthy", "fail")
    for kind, fails, stale, then in ((first, False, first, ""), ("max_age", False, first, ""), last):
        status, actions = overlord.step(unit.spec, status, Event("stale", kind, fails=fails), unit.now, 0.0)
        assert (status.stale, status.then, actions) == (stale, then, [])
    unit = a_daemon()
    unit.send("want")
    unit.send("start")
    status, _ = overlord.step(unit.spec, unit.status, Event("stale", "reload"), unit.now, 0.0)
    assert status.stale == ""
