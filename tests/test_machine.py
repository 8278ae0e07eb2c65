"""The Machine: every cell of the table, and the rules of one unit's life."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import diagram
import overlord
from harness import daemon, script
from overlord import (
    BACKOFF,
    DONE,
    FAILED,
    IDLE,
    OK,
    RUNNING,
    STARTING,
    STATES,
    STOPPED,
    STOPPING,
    WAITING,
    Event,
    Kill,
    Say,
    Spawn,
    StopCommand,
)
from world import KILL, TERM, configure

README = Path(__file__).resolve().parent.parent / "README.md"
INT = overlord.SIGNALS["INT"]


class Unit:
    """One unit without a Fleet: the test says what happens to it, and when. As a Fleet of one would, it stops what is stale."""

    def __init__(self, section: str, settings: str = "", chance: float = 0.0) -> None:
        (self.spec,) = configure(f"[overlord]\n{settings}\n" + section).units.values()
        self.status, self.now, self.chance = overlord.Status(), 1000.0, chance
        self.pid = 10
        self.wanted = True  # it is to be up
        self.actions: list[Any] = []

    def send(self, kind: str, **fields: Any) -> str:
        """Feed one event; return the state that it leads to."""
        self.wanted = self.wanted or kind == "want"
        event = Event(kind, **{"wanted": self.wanted, **fields})
        self.status, self.actions = overlord.step(self.spec, self.status, event, self.now, self.chance)
        if self.status.stale and self.status.state != STOPPING and kind != "stop":
            return self.send("stop", why=self.status.stale, fails=self.status.then == "fail")
        return str(self.status.state)

    def hand_over(self, pid: int, why: str = "") -> str:
        """Its main process is named."""
        self.pid = pid
        return self.send("handed", pid=pid, why=why)

    def lose_health(self, why: str) -> str:
        """Its health probe has failed once too often."""
        return self.send("stale", why=why, fails=True)

    def up(self) -> Unit:
        """Bring it up to where its process runs; a daemon's warm-up is still before it."""
        if self.status.state != WAITING:
            self.send("want")
        self.send("start")
        assert self.actions == [Spawn(self.spec.name)]
        self.pid += 1
        self.send("spawned", pid=self.pid)
        return self

    def ok(self) -> Unit:
        """Bring it up, and a daemon over its warm-up."""
        self.up()
        if self.status.state == STARTING:
            self.due()
        return self

    def due(self) -> str:
        """Let time pass up to the deadline, and that come."""
        assert self.status.deadline is not None
        self.now = max(self.now, self.status.deadline)
        return self.send("deadline")

    def exit(self, code: int = 0, after: float = 0.0, left: bool = False, why: str = "") -> str:
        self.now += after
        return self.send("exited", code=code, left=left, why=why)

    def stop(self, again: bool = False, **fields: Any) -> str:
        """Stop it, for good or to start it again."""
        self.wanted = self.wanted and again
        return self.send("stop", **{"why": "shutdown", **fields})

    @property
    def wait(self) -> float:
        """How long the state lasts by itself."""
        assert self.status.deadline is not None
        return float(self.status.deadline) - self.now

    @property
    def kills(self) -> list[tuple[int, bool]]:
        """What the last event sent: signal, and whether to everything of it."""
        assert all(action.pid == self.pid for action in self.actions if isinstance(action, Kill))
        return [(action.signum, action.whole) for action in self.actions if isinstance(action, Kill)]

    @property
    def said(self) -> list[str]:
        return [f"{action.level}: {action.text}" for action in self.actions if isinstance(action, Say)]

    @property
    def told(self) -> list[str]:
        """Why the last event signalled somebody: the Loop says that, and whom."""
        return [action.why for action in self.actions if isinstance(action, Kill)]


def a_daemon(settings: str = "", chance: float = 0.0, **options: object) -> Unit:
    return Unit(daemon("web", "x", **options), settings, chance)


def a_script(**options: object) -> Unit:
    return Unit(script("setup", "x", **options))


def a_main_command() -> Unit:
    unit = a_daemon()
    unit.spec = overlord.main_spec(["x"], [])
    return unit


# --- the table -------------------------------------------------------------------------------------------------------

# Written down once more, as the specification has it: what may come in a state, and what means nothing there. All else
# is impossible: an error in overlord itself.
COMES = {
    IDLE: "want",
    WAITING: "start barred deadline stop",
    STARTING: "spawned unspawned exited emptied deadline stop stale ready handed",
    OK: "want exited emptied deadline stop stale handed",
    RUNNING: "spawned unspawned exited deadline stop stale",
    STOPPING: "want exited emptied deadline stop",
    BACKOFF: "want deadline stop",
    STOPPED: "want",
    DONE: "want",
    FAILED: "want",
}
MEANS_NOTHING = {
    **dict.fromkeys((IDLE, STOPPED, DONE, FAILED), "stop stale ready handed"),
    WAITING: "want stale ready handed",  # a daemon may say that it is ready, or which is its main process, at any time
    RUNNING: "want ready handed",
    STARTING: "want",
    OK: "ready",
    **dict.fromkeys((STOPPING, BACKOFF), "stale ready handed"),
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("kind", overlord.Move.TABLE)
def test_every_cell(state: str, kind: str) -> None:
    """Each state says of each event what it means, that it means nothing, or that it cannot come."""
    status = overlord.Status(state=state)
    if kind in COMES[state].split():
        assert callable(overlord.Move.TABLE[kind][state])
    elif kind in MEANS_NOTHING.get(state, "").split():
        assert overlord.step(a_daemon().spec, status, Event(kind), 0.0, 0.0) == (status, [])
    else:
        with pytest.raises(overlord.Impossible):
            overlord.step(a_daemon().spec, status, Event(kind), 0.0, 0.0)


def test_no_other_states() -> None:
    """The table's states are the vocabulary's, and those of the specification."""
    assert set().union(*overlord.Move.TABLE.values()) == set(STATES)
    assert len(STATES) == len(set(STATES)) == 10
    assert " ".join(STATES) == "idle waiting starting ok running stopping backoff stopped done failed"


def test_impossible_names_the_unit() -> None:
    """What cannot come is refused, and the status stays as it was."""
    unit = a_daemon()
    with pytest.raises(overlord.Impossible, match="web: exited in state idle"):
        unit.send("exited")
    assert unit.status == overlord.Status()


def test_what_means_nothing() -> None:
    """An event without a meaning changes nothing and does nothing."""
    unit = a_daemon()
    unit.stop()
    assert unit.status == overlord.Status()
    assert unit.actions == []


def test_status_is_never_changed_in_place() -> None:
    """A step is a function: same input, same output."""
    unit = a_daemon().ok()
    before = unit.status
    first = overlord.step(unit.spec, before, Event("exited", 1), unit.now, 0.5)
    again = overlord.step(unit.spec, before, Event("exited", 1), unit.now, 0.5)
    assert first == again
    assert unit.status is before


# --- the way up ------------------------------------------------------------------------------------------------------


def test_warmup() -> None:
    """A daemon is OK when it has lived through its warm-up; with none, as soon as it runs."""
    unit = a_daemon(warmup="3s").up()
    assert (unit.status.state, unit.wait, unit.status.oks) == (STARTING, 3.0, 0)
    assert unit.due() == OK
    assert (unit.status.oks, unit.status.deadline) == (1, None)
    assert unit.said == ["info: ok (up for 3 s)"]
    unit = a_daemon(warmup="0").up()
    assert (unit.status.state, unit.status.oks, unit.status.deadline) == (OK, 1, None)
    assert unit.said == [f"info: started (pid {unit.pid})", "info: ok"]


def test_default_warmup() -> None:
    """It is one second."""
    assert a_daemon().up().wait == 1.0


def test_script_at_work() -> None:
    """A script runs, and has no deadline unless it has a `timeout`."""
    assert (a_script().up().status.state, a_script().up().status.deadline) == (RUNNING, None)
    assert a_script(timeout="5s").up().wait == 5.0


@pytest.mark.parametrize("code", [0, 3, -9])
def test_ended_before_ok(code: int) -> None:
    """A daemon that ends before it was OK has failed, whatever its code; 0 counts as 1, even where 0 is a success."""
    unit = a_daemon(warmup="3s", restart="on-failure", respawns=0, success="0 3").up()
    assert unit.exit(code, after=2.9) == FAILED
    assert unit.status.code == (code or 1)
    assert "before its warmup of 3 s was over" in unit.said[0]


def test_early_end_is_restarted_on_failure() -> None:
    """So `restart = on-failure` restarts it although it said 0."""
    assert a_daemon(restart="on-failure").up().exit(0) == BACKOFF


def test_script_succeeds() -> None:
    """A script is OK when it has ended with a success, and can be asked for again."""
    unit = a_script(success="0 3").up()
    assert unit.exit(3, after=1.0) == OK
    assert (unit.status.oks, unit.status.pid, unit.status.deadline) == (1, 0, None)
    assert unit.up().exit(0) == OK
    assert unit.status.oks == 2


def test_daemon_up_is_asked_for() -> None:
    """Asking for what is up, or on its way, changes nothing."""
    unit = a_daemon().ok()
    before = unit.status
    assert unit.send("want") == OK
    assert unit.status == before
    for state in (WAITING, STARTING):
        unit = a_daemon()
        unit.send("want")
        if state == STARTING:
            unit.up()
        before = unit.status
        assert unit.send("want") == state
        assert unit.status == before


@pytest.mark.parametrize("state", [STOPPED, DONE, FAILED, BACKOFF])
def test_asked_for_again(state: str) -> None:
    """What is down can be asked for."""
    unit = a_daemon(**{"respawns": 0} if state != BACKOFF else {}).ok()
    if state == STOPPED:
        unit.stop()
    unit.exit(1 if state == FAILED else 0)
    assert unit.status.state == state
    assert unit.send("want", why=overlord.BY_HAND) == WAITING
    assert unit.status.deadline is None
    assert unit.status.delay is None, "a person's start begins anew"


def test_restart_by_hand_begins_anew() -> None:
    """A back-off from before is forgotten, as by `start`; a restart for another reason leaves it as it is."""
    for why, lasts in ((overlord.RESTART, False), ("db was restarted", True)):
        unit = a_daemon().up()
        unit.exit(1)
        unit.due()
        unit.up()
        assert unit.status.delay is not None
        unit.send("stop", why=why, wanted=True)
        assert unit.exit(0) == WAITING
        assert (unit.status.delay is not None) == lasts
        assert unit.status.cause == why


def test_asked_for_while_stopping() -> None:
    """It starts again once it is gone, and not before."""
    unit = a_daemon().ok()
    unit.stop()
    assert unit.send("want") == STOPPING
    assert unit.exit(0) == WAITING


# --- readiness and health --------------------------------------------------------------------------------------------


def probed(unit: Unit) -> list[str]:
    """Return what the last event began to probe."""
    return [action.purpose for action in unit.actions if isinstance(action, overlord.Test)]


def test_ready() -> None:
    """A daemon with `ready` is OK when it is ready, and need not warm up."""
    unit = a_daemon(ready="tcp:80").up()
    assert probed(unit) == ["ready"]
    assert (unit.status.state, unit.wait, unit.status.oks) == (STARTING, 60.0, 0)
    unit.now += 0.5
    assert unit.send("ready") == OK
    assert (unit.status.oks, unit.status.deadline, unit.status.up) == (1, None, True)
    assert unit.said == ["info: ok (ready after 0.5 s)"]
    assert probed(unit) == []


@pytest.mark.parametrize("health", ["tcp:80", "none"])
def test_health_is_asked_for_once_up(health: str) -> None:
    """It is probed while it is OK, not before."""
    for ready in ("none", "tcp:80"):
        unit = a_daemon(ready=ready, health=health, warmup="1s").up()
        assert "health" not in probed(unit)
        unit.send("ready")
        assert unit.due() == OK
        assert probed(unit) == (["health"] if health != "none" else [])


def test_ready_before_the_warmup_is_over() -> None:
    """Both count: it is OK at the end of its warm-up, and not before."""
    unit = a_daemon(ready="notify", warmup="3s").up()
    unit.now += 1.0
    assert unit.send("ready") == STARTING
    assert (unit.status.ready, unit.wait, unit.actions) == (True, 2.0, [])
    assert unit.due() == OK


def test_ready_after_the_warmup() -> None:
    """Both count: it has up to `ready_timeout`, and is OK as soon as it is ready."""
    unit = a_daemon(ready="notify", warmup="3s", ready_timeout="10s").up()
    assert (unit.status.state, unit.wait) == (STARTING, 10.0)  # the end of the warm-up alone wakes nobody
    unit.now += 4.0
    assert unit.send("ready") == OK
    assert unit.said == ["info: ok (ready after 4 s)"]


def test_ready_at_the_end_of_the_warmup() -> None:
    """At the very instant, it is OK; a moment before, it waits for the rest."""
    for after, state in ((2.9, STARTING), (3.0, OK), (3.1, OK)):
        unit = a_daemon(ready="notify", warmup="3s").up()
        unit.now += after
        assert unit.send("ready") == state
        assert unit.status.oks == (state == OK)


@pytest.mark.parametrize("warmup", ["0", "2s"])
@pytest.mark.parametrize(("code", "known"), [(0, 1), (3, 3), (-15, -15)])
def test_not_ready_in_time(warmup: str, code: int, known: int) -> None:
    """It is stopped, and has failed: whatever its code, and even where that is a success. A signal that overlord sent is told
    from one that came from outside: the exit code is the same."""
    unit = a_daemon(ready="tcp:80", ready_timeout="5s", warmup=warmup, respawns=0, success="0 3 TERM").up()
    assert unit.due() == STOPPING
    assert unit.now == 1005.0
    assert unit.kills == [(TERM, False)]
    assert unit.said == ["info: stopping (SIGTERM): not ready within 5 s"]
    assert unit.exit(code) == FAILED
    assert unit.status.code == known
    assert "not ready within 5 s" in unit.said[0]
    assert ("killed by SIGTERM (sent by overlord) after" in unit.said[0]) == (code == -15)
    assert ("sent by overlord" in unit.said[0]) == (code == -15)


def test_ready_timeout_shorter_than_the_warmup() -> None:
    """Who is not ready in time has failed then, and not when some longer warm-up is over."""
    unit = a_daemon(ready="tcp:80", ready_timeout="5s", warmup="1h").up()
    assert unit.wait == 5.0
    assert unit.due() == STOPPING


def test_not_ready_in_time_is_counted() -> None:
    """It uses up `respawns`, and backs off."""
    unit = a_daemon(ready="tcp:80", ready_timeout="5s", respawns=1, restart="on-failure").up()
    unit.due()
    assert unit.exit(0) == BACKOFF
    assert unit.status.respawned == 1
    unit.due()
    unit.up().due()
    assert unit.exit(0) == FAILED


def test_ended_before_it_was_ready() -> None:
    """A daemon that ends before it is ready has failed, and that is said."""
    unit = a_daemon(ready="tcp:80", respawns=0).up()
    assert unit.exit(0, after=2.0) == FAILED
    assert unit.status.code == 1
    assert unit.said == [f"error: failed: pid {unit.pid} exited with code 0 after 2 s, before it was ready"]


def test_stopped_while_not_ready() -> None:
    """It is stopped like any other, has not failed by it, and to be ready then comes too late."""
    for then, state in (("stop", STOPPED), ("restart", WAITING)):
        unit = a_daemon(ready="tcp:80").up()
        assert unit.stop(again=then == "restart") == STOPPING
        assert unit.wait == 8.0
        assert unit.send("ready") == STOPPING
        assert unit.actions == []
        assert unit.exit(1) == state
        assert unit.status.oks == 0


def test_ready_again() -> None:
    """The next process has to be ready anew; one that says so twice is OK once."""
    unit = a_daemon(ready="notify").up()
    unit.send("ready")
    before = unit.status
    assert unit.send("ready") == OK
    assert (unit.status, unit.actions) == (before, [])
    unit.exit(1)
    unit.due()
    unit.up()
    assert (unit.status.state, unit.status.ready) == (STARTING, False)
    assert unit.send("ready") == OK
    assert unit.status.oks == 2


def test_ready_before_the_process_is_made() -> None:
    """What the process before said too late is not for the next one."""
    unit = a_daemon(ready="notify")
    unit.send("want")
    unit.send("start")
    assert unit.send("ready") == STARTING
    assert not unit.status.ready
    unit.send("spawned", pid=11)
    assert (unit.status.state, unit.status.ready) == (STARTING, False)


def test_max_age_counts_from_the_start() -> None:
    """However long it took to be ready."""
    unit = a_daemon(ready="notify", max_age="1m").up()
    unit.now += 20.0
    unit.send("ready")
    assert unit.wait == 40.0


@pytest.mark.parametrize(("restart", "state"), [("always", BACKOFF), ("on-failure", BACKOFF), ("never", FAILED)])
def test_unwell(restart: str, state: str) -> None:
    """It is stopped; that is a failure, whatever its code, counted in `respawns`."""
    unit = a_daemon(health="tcp:80", restart=restart).ok()
    assert unit.lose_health("unhealthy: no answer within 3 s") == STOPPING
    assert unit.kills == [(TERM, False)]
    assert unit.said == ["info: stopping (SIGTERM): unhealthy: no answer within 3 s"]
    assert unit.exit(0) == state
    assert unit.status.respawned == (state == BACKOFF)
    assert f"unhealthy: no answer within 3 s, pid {unit.pid} exited with code 0" in unit.said[0]


def test_unwell_and_stopped() -> None:
    """A stop meanwhile is a stop: nothing has failed, and nothing is restarted."""
    unit = a_daemon(health="tcp:80", respawns=0).ok()
    unit.lose_health("unhealthy")
    unit.stop()
    assert unit.exit(0) == STOPPED


def test_hangs_and_is_unwell() -> None:
    """What does not answer will hardly heed a signal: killed at the end of `stop_timeout`."""
    unit = a_daemon(health="tcp:80", stop_timeout="2s").ok()
    unit.lose_health("unhealthy")
    assert unit.wait == 2.0
    unit.due()
    assert unit.kills == [(KILL, True)]
    assert unit.exit(-9) == BACKOFF


def test_stop_command() -> None:
    """It is run instead of the signal, once; SIGKILL still follows, and what is left gets the signal."""
    unit = a_daemon(stop_cmd="bye", stop_timeout="3s").ok()
    assert unit.stop() == STOPPING
    assert [action for action in unit.actions if not isinstance(action, Say)] == [StopCommand("web", unit.pid)]
    assert unit.said == ["info: stopping (stop_cmd): shutdown"]
    unit.stop()
    assert unit.actions == []
    assert unit.exit(0, left=True) == STOPPING
    assert unit.kills == [(TERM, True)]
    unit.due()
    assert unit.kills == [(KILL, True)]
    unit = a_daemon(stop_cmd="bye", stop_timeout="3s").ok()
    unit.stop()
    unit.due()
    assert unit.kills == [(KILL, True)]


# --- ends and restarts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "code", "state"),
    [
        ({}, 0, BACKOFF),
        ({}, 1, BACKOFF),
        ({"restart": "always"}, 0, BACKOFF),
        ({"restart": "always"}, 1, BACKOFF),
        ({"restart": "on-failure"}, 0, DONE),
        ({"restart": "on-failure"}, 1, BACKOFF),
        ({"restart": "on-failure"}, -15, BACKOFF),
        ({"restart": "never"}, 0, DONE),
        ({"restart": "never"}, 1, FAILED),
        ({"restart": "never"}, -9, FAILED),
        ({"restart": "on-failure", "success": "0 TERM 7"}, -15, DONE),
        ({"restart": "on-failure", "success": "0 TERM 7"}, 7, DONE),
        ({"restart": "on-failure", "success": "0 TERM 7"}, 15, BACKOFF),
        ({"restart": "on-failure", "success": "7"}, 0, BACKOFF),
        ({"restart": "always", "respawns": 0}, 0, DONE),
        ({"restart": "always", "respawns": 0}, 2, FAILED),
        ({"respawns": "unlimited"}, 1, BACKOFF),
    ],
    ids=str,
)
def test_restart_and_success(options: dict[str, object], code: int, state: str) -> None:
    """`restart`, `respawns` and `success` say what an end leads to."""
    assert a_daemon(**options).ok().exit(code, after=1.0) == state


@pytest.mark.parametrize(
    ("options", "state"),
    [({}, DONE), ({"restart": "always"}, BACKOFF), ({"respawns": 1}, BACKOFF), ({"respawns": "unlimited"}, BACKOFF)],
    ids=str,
)
def test_not_forever(options: dict[str, object], state: str) -> None:
    """`forever = false`: who sets neither `respawns` nor `restart` is not restarted."""
    assert a_daemon("forever = false", **options).ok().exit(0) == state


@pytest.mark.parametrize(("options", "runs"), [({}, 1), ({"respawns": 2}, 3)], ids=str)
def test_scripts_are_not_restarted(options: dict[str, object], runs: int) -> None:
    """A script that fails is run again only where `respawns` says so."""
    unit = a_script(**options)
    for _ in range(runs - 1):
        assert unit.up().exit(1) == BACKOFF
        assert unit.due() == WAITING
    assert unit.up().exit(1) == FAILED
    assert unit.status.code == 1


def test_respawns() -> None:
    """`respawns = 3`: the fourth end is for good, over overlord's life; the text says why."""
    unit = a_daemon(respawns=3)
    for count in range(3):
        assert unit.ok().exit(7, after=1000.0) == BACKOFF
        assert unit.status.respawned == count + 1
        unit.due()
    assert unit.ok().exit(7, after=1000.0) == FAILED
    assert unit.said == [f"error: failed: pid {unit.pid} exited with code 7 after 16 min 41 s (respawns = 3, used up)"]
    assert unit.status.code == 7


def test_respawns_in_a_window() -> None:
    """`respawns = 2/60s`: at most two in any 60 s, and as many as one likes over time."""
    unit = a_daemon(respawns="2/60s", backoff="0", warmup="0")
    for _ in range(20):
        for _ in range(2):
            assert unit.ok().exit(1, after=1.0) == BACKOFF
            unit.due()
        unit.now += 60.0
    assert len(unit.status.recent) <= 3
    unit.ok().exit(1)
    unit.due()
    unit.ok().exit(1, after=30.0)
    unit.due()
    assert unit.ok().exit(1, after=29.9) == FAILED
    assert "(respawns = 2/1 min, used up)" in unit.said[0]


def test_respawns_in_a_row() -> None:
    """`respawns = 2/ok`: at most two without being OK in between; the end of a run that was OK is none of them."""
    unit = a_daemon(respawns="2/ok", backoff="0")
    for _ in range(5):
        for _ in range(2):
            assert unit.up().exit(1) == BACKOFF
            unit.due()
        assert unit.ok().exit(1, after=0.5) == BACKOFF
        unit.due()
    for _ in range(2):
        assert unit.up().exit(1) == BACKOFF
        unit.due()
    assert unit.up().exit(1) == FAILED
    assert "(respawns = 2/ok, used up)" in unit.said[0]


def test_a_barred_start_in_a_row() -> None:
    """A start that an `always` script bars counts in `respawns = 2/ok`, whatever the run before it was."""
    unit = a_daemon(respawns="2/ok", backoff="0")
    assert unit.ok().exit(1, after=0.5) == BACKOFF
    for _ in range(2):
        unit.due()
        assert unit.send("barred", why="script s failed") == BACKOFF
    unit.due()
    assert unit.send("barred", why="script s failed") == FAILED


def test_no_respawns_in_a_row() -> None:
    """`respawns = 0/ok`: restarted after a run that was OK alone."""
    unit = a_daemon(respawns="0/ok", backoff="0")
    for _ in range(3):
        assert unit.ok().exit(0) == BACKOFF
        unit.due()
    assert unit.up().exit(0) == FAILED


def test_a_row_ends_with_an_ok_run_that_was_stopped() -> None:
    """What was counted before it is not among those in a row; and where nothing limits them, none is kept."""
    for respawns, kept in (("1/ok", 1), ("unlimited", 0)):
        unit = a_daemon(respawns=respawns, backoff="0", warmup="1s").up()
        assert unit.exit(1) == BACKOFF
        unit.due()
        unit.ok()
        unit.stop(again=True)
        assert unit.exit(0) == WAITING
        unit.up()
        assert unit.exit(1) == BACKOFF
        assert len(unit.status.recent) == kept


def test_respawns_of_a_script_in_a_row() -> None:
    """What counts for a script is its last success."""
    unit = a_script(respawns="1/ok", backoff="0")
    for _ in range(3):
        assert unit.up().exit(1) == BACKOFF
        unit.due()
        assert unit.up().exit(0) == OK
    assert unit.up().exit(1) == BACKOFF
    unit.due()
    assert unit.up().exit(1) == FAILED


def test_nothing_is_a_success() -> None:
    """`success = none`: no exit code is one, and that of a success becomes 1."""
    unit = a_daemon(success="none", restart="on-failure", respawns=1, backoff="0")
    assert unit.ok().exit(0) == BACKOFF
    unit.due()
    assert unit.ok().exit(0) == FAILED
    assert unit.status.code == 1
    assert a_script(success="none").up().exit(0) == FAILED


@pytest.mark.parametrize(("third", "state"), [(59.9, FAILED), (60.0, BACKOFF)])
def test_window_slides(third: float, state: str) -> None:
    """What counts is any 60 s, not a minute of the clock."""
    unit = a_daemon(respawns="2/60s", backoff="0", warmup="0")
    start = unit.now
    for instant, then in ((0.0, BACKOFF), (40.0, BACKOFF), (third, state)):
        unit.ok()
        unit.now = start + instant
        assert unit.exit(1) == then
        if then == BACKOFF:
            unit.due()


@pytest.mark.parametrize(
    ("backoff", "delays"),
    [
        ("100ms..30s", [0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30, 30]),
        ("1s..5s", [0, 1, 2, 4, 5, 5]),
        ("2s", [0, 2, 2, 2]),
        ("0", [0, 0, 0, 0]),
    ],
)
@pytest.mark.parametrize("chance", [0.0, 0.5, 1.0])
def test_backoff(backoff: str, delays: list[float], chance: float) -> None:
    """None at first, then doubling from the lower to the upper bound, with up to 10 % on top."""
    unit = a_daemon(chance=chance, backoff=backoff)
    for delay in delays:
        assert unit.up().exit(1) == BACKOFF
        assert unit.wait == pytest.approx(delay * (1 + chance / 10))
        assert unit.due() == WAITING


@given(low=st.integers(1, 10_000), factor=st.integers(1, 100), chances=st.lists(st.floats(0, 1), min_size=2, max_size=20))
def test_backoff_bounds(low: int, factor: int, chances: list[float]) -> None:
    """Whatever the bounds and the jitter: the first is none, and the rest doubles within bounds and 10 %."""
    unit = a_daemon(backoff=f"{low}ms..{low * factor}ms", warmup="0")
    expected = 0.0
    for unit.chance in chances:
        unit.up().exit(1)
        assert expected <= unit.wait + 1e-9 <= expected * 1.1 + 2e-9
        expected = min(low * factor, max(low, expected * 2000)) / 1000
        unit.due()


def test_cause_of_the_last_restart() -> None:
    """It is kept while the next process runs."""
    unit = a_daemon(warmup="0")
    unit.ok().exit(3)
    assert "exited with code 3" in unit.status.cause
    unit.due()
    unit.ok()
    assert "exited with code 3" in unit.status.cause


@pytest.mark.parametrize(("lived", "delay"), [(9.9, 0.2), (10.0, 0.0)])
def test_backoff_begins_anew(lived: float, delay: float) -> None:
    """A unit that stayed up 10 s begins with no delay again."""
    unit = a_daemon(warmup="0")
    unit.ok().exit(1)
    unit.due()
    unit.ok().exit(1)
    unit.due()
    unit.ok().exit(1, after=lived)
    assert unit.wait == pytest.approx(delay)


@pytest.mark.parametrize(("lived", "delay"), [(39.9, 40.0), (40.0, 0.0)])
def test_backoff_begins_anew_after_a_long_one(lived: float, delay: float) -> None:
    """Where the last delay was longer than 10 s, it has to stay up for as long as that was."""
    unit = a_daemon(warmup="0", backoff="40s")
    unit.ok().exit(1)
    unit.due()
    unit.ok().exit(1)
    unit.due()
    unit.ok().exit(1, after=lived)
    assert unit.wait == pytest.approx(delay)


@pytest.mark.parametrize("then", ["restart", "age"])
def test_backoff_begins_anew_after_any_long_life(then: str) -> None:
    """A process that stayed up counts, even where it was stopped to be started again."""
    unit = a_daemon(warmup="0", max_age="1h")
    for _ in range(5):
        unit.ok().exit(1, after=1.0)
        unit.due()
    unit.ok()
    if then == "age":
        unit.due()
    else:
        unit.now += 3600.0
        unit.stop(again=True)
    assert unit.exit(0) == WAITING
    unit.ok().exit(1, after=1.0)
    assert unit.wait == 0.0


def test_time_to_stop_what_is_left_is_no_time_up() -> None:
    """What the leader leaves behind keeps nothing up: a crash loop with slow leftovers backs off like any other."""
    unit = a_daemon(warmup="0", stop_timeout="60s", backoff="1s..8s")
    for delay in (0.0, 1.0, 2.0):
        unit.ok().exit(1, after=3.0, left=True)
        unit.now += 50.0
        assert unit.send("emptied") == BACKOFF
        assert unit.wait == pytest.approx(delay)
        assert "after 3 s" in unit.said[0]
        unit.due()


def test_restart_is_said() -> None:
    """A line says how it ended and what follows."""
    unit = a_daemon(warmup="0")
    unit.ok().exit(-9, after=2.0)
    assert unit.said == [f"warning: pid {unit.pid} killed by SIGKILL after 2 s, restarting"]
    unit.due()
    unit.ok().exit(3, after=2.0)
    assert unit.said == [f"warning: pid {unit.pid} exited with code 3 after 2 s, restarting in 0.1 s"]


# --- time limits -----------------------------------------------------------------------------------------------------


def test_timeout() -> None:
    """A script that still runs then is stopped and has failed, whatever it says in the end."""
    unit = a_script(timeout="5s", stop_timeout="2s", stop_signal="INT").up()
    assert unit.due() == STOPPING
    assert (unit.kills, unit.wait) == ([(INT, False)], 2.0)
    assert unit.exit(0, after=1.0) == FAILED
    assert unit.status.code == 1
    assert unit.said[0].startswith(f"error: failed: timeout 5 s reached, pid {unit.pid} exited with code 0")


def test_timeout_and_respawns() -> None:
    """It may be run again like after any failure."""
    unit = a_script(timeout="5s", respawns=1).up()
    unit.due()
    assert unit.exit(-15) == BACKOFF


@pytest.mark.parametrize("restart", ["always", "on-failure", "never"])
@pytest.mark.parametrize("code", [0, 1, -15])
def test_max_age(restart: str, code: int) -> None:
    """At its age a daemon is stopped and started again, whatever `restart` and its code say, and not counted."""
    unit = a_daemon(max_age="1h", restart=restart, respawns=0).ok()
    assert unit.wait == 3600.0 - 1.0  # the age is that of the process
    assert unit.due() == STOPPING
    assert unit.kills == [(TERM, False)]
    assert unit.exit(code) == WAITING
    assert unit.status.respawned == 0
    assert unit.ok().status.oks == 2
    assert unit.due() == STOPPING


@pytest.mark.parametrize(("chance", "age"), [(0.0, 3600), (0.25, 3450), (1.0, 3000)])
def test_max_age_by_chance(chance: float, age: float) -> None:
    """`1h~10m` is a random time up to ten minutes sooner."""
    unit = a_daemon(max_age="1h~10m", warmup="0", chance=chance).ok()
    assert unit.wait == pytest.approx(age)


def test_max_age_is_drawn_once_for_each_start() -> None:
    """What chance says after a process has become OK does not matter to it."""
    unit = a_daemon(max_age="1h~10m", warmup="1s", chance=1.0).ok()
    unit.chance = 0.0
    assert unit.send("ready") == OK
    assert unit.wait == pytest.approx(3000 - 1)
    unit.due()
    unit.exit(0)
    unit.ok()
    assert unit.wait == pytest.approx(3600 - 1)


def test_crash_before_max_age() -> None:
    """It is a crash like any other; the next process has its own age."""
    unit = a_daemon(max_age="1h", warmup="0").ok()
    assert unit.exit(1, after=3000.0) == BACKOFF
    unit.due()
    assert unit.ok().wait == 3600.0


# --- what is left of a group -----------------------------------------------------------------------------------------


def test_leftovers() -> None:
    """Where the leader dies, what it left gets the stop signal, then SIGKILL; only then the unit has ended."""
    unit = a_daemon(stop_signal="INT", stop_timeout="3s").ok()
    assert unit.exit(1, left=True) == STOPPING
    assert (unit.kills, unit.wait) == ([(INT, True)], 3.0)
    assert unit.due() == STOPPING
    assert (unit.kills, unit.status.deadline) == ([(KILL, True)], None)
    assert unit.send("emptied") == BACKOFF
    assert unit.status.respawned == 1
    assert (unit.status.pid, unit.status.left) == (0, False)


@pytest.mark.parametrize(
    ("unit", "code", "state"),
    [
        (a_daemon(restart="never"), 0, DONE),
        (a_daemon(restart="never"), 4, FAILED),
        (a_script(), 0, OK),
        (a_script(), 4, FAILED),
    ],
)
def test_the_end_counts_from_the_leader(unit: Unit, code: int, state: str) -> None:
    """How the leader ended decides, however its leftovers do."""
    assert unit.ok().exit(code, left=True) == STOPPING
    assert unit.send("emptied") == state
    assert unit.status.code == code


def test_leftovers_while_stopping() -> None:
    """The stop signal is for the leader first, and once that is gone for what it leaves; one deadline for both."""
    unit = a_daemon(stop_signal="INT", stop_timeout="3s").ok()
    unit.stop()
    assert unit.kills == [(INT, False)]
    assert unit.exit(0, after=1.0, left=True) == STOPPING
    assert (unit.kills, unit.wait) == ([(INT, True)], 2.0)
    assert unit.due() == STOPPING
    assert unit.kills == [(KILL, True)]
    assert unit.send("emptied") == STOPPED


def test_leftovers_of_the_killed() -> None:
    """Once the time is over, what is left is killed, not asked."""
    unit = a_daemon().ok()
    unit.stop()
    unit.due()
    assert unit.exit(-9, left=True) == STOPPING
    assert unit.kills == [(KILL, True)]
    assert unit.status.deadline is None


def test_leftovers_of_an_early_end() -> None:
    """A daemon that put itself into the background before it was OK has failed; what it left goes first."""
    unit = a_daemon(restart="never").up()
    assert unit.exit(0, left=True) == STOPPING
    assert unit.send("emptied") == FAILED
    assert unit.status.code == 1


def test_stopped_while_its_leftovers_go() -> None:
    """A stop while leftovers go is a stop: no restart follows, and the earlier deadline stays."""
    unit = a_daemon(stop_timeout="8s").ok()
    unit.exit(1, left=True)
    unit.now += 1.0
    assert unit.stop(limit=100.0) == STOPPING
    assert (unit.kills, unit.wait) == ([], 7.0)
    unit.stop(limit=2.0)
    assert unit.wait == 2.0
    assert unit.send("emptied") == STOPPED


@pytest.mark.parametrize(("mode", "whole"), [("mixed", False), ("all", True), ("process", False)])
@pytest.mark.parametrize("command", ["none", "bye"])
def test_kill_mode(mode: str, whole: bool, command: str) -> None:
    """It says who gets the stop signal: the main process, or everything of it at once; a `stop_cmd` takes its place."""
    unit = a_daemon(kill_mode=mode, stop_cmd=command, stop_timeout="3s").ok()
    unit.stop()
    assert unit.kills == ([(TERM, whole)] if command == "none" else [])
    unit.due()
    assert unit.kills == [(KILL, mode != "process")]


def test_kill_mode_of_a_script() -> None:
    """It is a script's too."""
    unit = a_script(kill_mode="all", timeout="5s").up()
    unit.due()
    assert unit.kills == [(TERM, True)]


@pytest.mark.parametrize("mode", ["mixed", "all", "process"])
def test_what_is_left_is_signalled_whole(mode: str) -> None:
    """Once the main process is gone, there is nothing else to signal, at the stop and at the end of its time."""
    unit = a_daemon(kill_mode=mode).ok()
    unit.exit(1, left=True)
    assert unit.kills == [(TERM, True)]
    unit.due()
    assert unit.kills == [(KILL, True)]


# --- which is the main process ---------------------------------------------------------------------------------------

PIDFILE = {"pidfile": "/run/web.pid", "restart": "never", "warmup": "2s", "ready_timeout": "10s"}


def test_pidfile_in_the_foreground() -> None:
    """It may name the process that was started: what else is asked for counts as ever."""
    unit = a_daemon(**PIDFILE).up()
    assert (probed(unit), unit.status.named, unit.wait) == (["pidfile"], False, 10.0)
    unit.now += 0.5
    assert unit.hand_over(unit.pid) == STARTING
    assert (unit.said, unit.status.named, unit.wait) == ([], True, 1.5)
    assert unit.due() == OK
    assert unit.said == ["info: ok (up for 2 s)"]


def test_pidfile_in_the_background() -> None:
    """What `cmd` has left behind is the main process as soon as it is named; the warm-up is that one's."""
    unit = a_daemon(**PIDFILE).up()
    first = unit.pid
    assert unit.exit(0, after=1.0, left=True) == STARTING
    assert (unit.kills, probed(unit), bool(unit.status.left), unit.wait) == ([], ["pidfile"], True, 9.0)
    unit.now += 0.5
    assert unit.hand_over(first + 1, "its main process is now pid 12") == STARTING
    assert (unit.status.pid, bool(unit.status.left), unit.wait) == (first + 1, False, 2.0)
    assert unit.said == ["info: its main process is now pid 12"]
    assert unit.due() == OK
    assert unit.stop() == STOPPING
    assert unit.kills == [(TERM, False)]
    assert unit.exit(-15) == STOPPED


def test_pidfile_and_a_command_that_fails() -> None:
    """What `cmd` has left behind when it ends with another code than 0 is stopped: it names no main process."""
    unit = a_daemon(**PIDFILE).up()
    assert unit.exit(3, after=1.0, left=True) == STOPPING
    assert (unit.kills, probed(unit)) == ([(TERM, True)], [])
    assert unit.send("emptied") == FAILED
    assert unit.status.code == 3


def test_pidfile_and_a_stop() -> None:
    """What is left when a daemon that is being stopped ends is stopped too: nobody waits for another main process."""
    unit = a_daemon(**PIDFILE).up()
    unit.hand_over(unit.pid)
    assert unit.due() == OK
    assert unit.stop() == STOPPING
    assert unit.exit(0, left=True) == STOPPING
    assert (unit.kills, probed(unit)) == ([(TERM, True)], [])
    assert unit.send("emptied") == STOPPED


@pytest.mark.parametrize("first", ["ready", "handed"])
def test_pidfile_and_ready(first: str) -> None:
    """It is OK once it is ready and known, whichever comes last."""
    unit = a_daemon(**{**PIDFILE, "warmup": "0"}, ready="tcp:80").up()
    assert sorted(probed(unit)) == ["pidfile", "ready"]
    unit.exit(0, left=True)
    for kind in sorted(("ready", "handed"), key=lambda kind: kind != first):
        assert unit.status.state == STARTING
        assert unit.wait == 10.0 - (unit.now - unit.status.started)
        unit.now += 1.0
        unit.send("ready") if kind == "ready" else unit.hand_over(20)
    assert (unit.status.state, unit.status.oks, unit.status.deadline) == (OK, 1, None)


def test_warmup_is_over_when_it_is_known() -> None:
    """Where that is so of the process that was started, it is OK at once."""
    unit = a_daemon(**PIDFILE).up()
    unit.now += 3.0
    assert unit.hand_over(unit.pid) == OK


@pytest.mark.parametrize("left", [False, True])
def test_pidfile_names_nobody(left: bool) -> None:
    """In `ready_timeout` from the start, it has failed, and all of it is stopped."""
    unit = a_daemon(**PIDFILE).up()
    if left:
        unit.exit(0, after=4.0, left=True)
    assert unit.due() == STOPPING
    assert unit.now == 1010.0
    assert unit.kills == [(TERM, left)]
    assert unit.said == ["info: stopping (SIGTERM): /run/web.pid names no process of it within 10 s"]
    if left:
        assert unit.send("emptied") == FAILED
    else:
        assert unit.exit(0) == FAILED
    assert unit.status.code == 1


def test_not_ready_where_neither_came() -> None:
    """What is not ready says that, named or not."""
    unit = a_daemon(**PIDFILE, ready="tcp:80").up()
    unit.due()
    assert unit.said == ["info: stopping (SIGTERM): not ready within 10 s"]


def test_cmd_that_leaves_nobody() -> None:
    """There is nobody whom the file might name: it has failed."""
    unit = a_daemon(**PIDFILE).up()
    assert unit.exit(0, after=1.0) == FAILED
    assert unit.said[0].endswith("exited with code 0 after 1 s, and /run/web.pid names no process of it")
    unit = a_daemon(**PIDFILE).up()
    assert unit.exit(0, after=1.0, left=True) == STARTING
    unit.now += 1.0
    assert unit.send("emptied") == FAILED
    assert unit.said[0].endswith("exited with code 0 after 1 s, and /run/web.pid names no process of it")


def test_cmd_that_fails() -> None:
    """It is no daemon that went into the background, whatever it leaves."""
    unit = a_daemon(**PIDFILE).up()
    assert unit.exit(3, left=True) == STOPPING
    assert (unit.kills, probed(unit)) == ([(TERM, True)], [])
    assert unit.send("emptied") == FAILED
    assert unit.status.code == 3


@pytest.mark.parametrize("code", [0, 1, -9])
def test_another_takes_over(code: int) -> None:
    """One that was OK may be followed by another of the unit within 3 s, whatever its code: nothing is restarted."""
    unit = a_daemon(**PIDFILE, max_age="1h").up()
    unit.hand_over(unit.pid)
    unit.due()
    started, ages = unit.status.started, unit.status.deadline
    assert unit.exit(code, after=60.0, left=True) == OK
    assert (unit.kills, probed(unit), unit.wait) == ([], ["pidfile"], 3.0)
    unit.now += 1.0
    assert unit.hand_over(40) == OK
    assert (unit.status.pid, bool(unit.status.left), unit.status.named) == (40, False, True)
    assert (unit.status.starts, unit.status.oks, unit.status.started, unit.status.deadline) == (1, 1, started, ages)
    assert unit.exit(1) == FAILED
    assert unit.status.code == 1


def test_nobody_takes_over() -> None:
    """In 3 s: what is left is stopped, and it has ended as its main process did."""
    unit = a_daemon(**PIDFILE, stop_timeout="5s").up()
    unit.hand_over(unit.pid)
    unit.due()
    unit.exit(4, after=60.0, left=True)
    assert unit.due() == STOPPING
    assert (unit.kills, unit.wait, unit.status.stale) == ([(TERM, True)], 5.0, "")
    assert unit.send("emptied") == FAILED
    assert unit.status.code == 4


def test_all_of_it_is_gone_before_another_takes_over() -> None:
    """Then it has ended."""
    unit = a_daemon(**{**PIDFILE, "restart": "always"}).up()
    unit.hand_over(unit.pid)
    unit.due()
    unit.exit(3, after=50.0, left=True)
    unit.now += 2.0
    assert unit.send("emptied") == BACKOFF
    assert (unit.status.pid, bool(unit.status.left), unit.status.code, unit.status.respawned) == (0, False, 3, 1)
    assert unit.said == [f"warning: pid {unit.pid} exited with code 3 after 52 s, restarting"]  # its 2 s of warm-up are of it


def test_number_of_the_dead_is_used_again() -> None:
    """Whoever is named is the main process, even under the pid of the one that is dead."""
    unit = a_daemon(**PIDFILE).up()
    unit.hand_over(unit.pid)
    unit.due()
    unit.exit(0, left=True)
    assert unit.hand_over(unit.pid) == OK
    assert (bool(unit.status.left), unit.status.named, unit.status.deadline) == (False, True, None)


def test_named_again_while_it_is_to_be_replaced() -> None:
    """One that has reached its `max_age` and waits for its turn has no timer, and gets none."""
    unit = a_daemon(**PIDFILE, max_age="1h").up()
    unit.hand_over(unit.pid)
    unit.due()
    aged, _ = overlord.step(unit.spec, unit.status, Event("deadline"), unit.now + 3600.0, 0.0)
    assert (aged.deadline, bool(aged.stale)) == (None, True)
    again, actions = overlord.step(unit.spec, aged, Event("handed", pid=aged.pid), unit.now + 3601.0, 0.0)
    assert (again, actions) == (aged, [])


def test_what_is_left_of_the_replaced_is_stopped_for_that() -> None:
    """What is stopped is not to be restarted any more; it is not the reason why it ended."""
    unit = a_daemon(warmup=0).ok()
    stale, _ = overlord.step(unit.spec, unit.status, Event("stale", "db was restarted"), unit.now, 0.0)
    ended, _ = overlord.step(unit.spec, stale, Event("exited", code=1, left=True), unit.now, 0.0)
    assert (ended.state, ended.stale) == (STOPPING, "")


def test_age_of_what_is_to_be_replaced() -> None:
    """The first reason for that stays."""
    unit = a_daemon(warmup=0, max_age="1h").ok()
    stale, _ = overlord.step(unit.spec, unit.status, Event("stale", "db was restarted"), unit.now, 0.0)
    aged, _ = overlord.step(unit.spec, stale, Event("deadline"), unit.now + 3600.0, 0.0)
    assert (aged.stale, aged.deadline) == ("db was restarted", None)


def test_age_of_what_lives() -> None:
    """`max_age` is no end to the time in which another may take over, nor the other way round."""
    unit = a_daemon(**PIDFILE, max_age="1h").up()
    unit.hand_over(unit.pid)
    unit.due()
    unit.due()
    assert (unit.status.state, unit.now) == (STOPPING, 1000.0 + 3600.0)
    assert "max_age reached" in unit.said[0]


def test_stopped_between_two() -> None:
    """A stop while another is to take over is for what is left, by the signal: `stop_cmd` has no main process to stop."""
    unit = a_daemon(**PIDFILE, stop_cmd="bye").up()
    unit.hand_over(unit.pid)
    unit.due()
    unit.exit(0, left=True)
    assert unit.stop() == STOPPING
    assert (unit.kills, unit.said) == ([(TERM, True)], ["info: stopping (SIGTERM): shutdown"])
    assert not any(isinstance(action, StopCommand) for action in unit.actions)
    assert unit.send("emptied") == STOPPED


def test_mainpid() -> None:
    """A daemon without `pidfile` may say which is its main process, while the one before still lives."""
    unit = a_daemon(ready="notify", warmup="1s").up()
    unit.now += 0.5
    assert unit.hand_over(30) == STARTING
    unit.send("ready")
    assert (unit.status.pid, unit.wait) == (30, 1.0)
    assert unit.due() == OK
    since = unit.status.started
    assert unit.hand_over(31) == OK
    assert (unit.status.pid, unit.status.started, unit.status.oks, unit.status.deadline) == (31, since, 1, None)
    assert unit.exit(0) == BACKOFF


def test_named_before_there_is_a_process() -> None:
    """That is of the process before, and so is the same one once more."""
    unit = a_daemon(**PIDFILE)
    unit.send("want")
    unit.send("start")
    assert unit.send("handed", pid=7) == STARTING
    assert (unit.status.pid, unit.status.named, unit.actions) == (0, False, [])
    unit.send("spawned", pid=unit.pid)
    unit.hand_over(unit.pid)
    before = unit.status
    unit.now += 1.0
    unit.hand_over(unit.pid)
    assert (unit.status, unit.actions) == (before, [])


# --- stop ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "number"), [("TERM", TERM), ("SIGINT", INT), ("2", INT), ("RTMIN+3", 37)])
def test_stop_signal(name: str, number: int) -> None:
    """It goes to the process that overlord started."""
    unit = a_daemon(stop_signal=name, stop_timeout="4s").ok()
    assert unit.stop() == STOPPING
    assert (unit.kills, unit.wait) == ([(number, False)], 4.0)
    assert unit.due() == STOPPING
    assert (unit.kills, unit.status.deadline) == ([(KILL, True)], None)
    assert (unit.said, unit.told) == ([], ["not gone after 4 s, killing it"])
    assert unit.exit(-9) == STOPPED


@pytest.mark.parametrize(("limit", "wait"), [(None, 8.0), (100.0, 8.0), (2.0, 2.0), (0.0, 0.0)])
def test_limit(limit: float | None, wait: float) -> None:
    """A shutdown may leave it less time, never more."""
    unit = a_daemon().ok()
    unit.stop(limit=limit)
    assert unit.wait == wait


def test_signal_in_place_of_stop_signal() -> None:
    """The main command gets the very signal that asked."""
    unit = a_main_command().up()
    unit.stop(signum=INT)
    assert unit.kills == [(INT, False)]
    assert unit.exit(-INT) == STOPPED
    assert unit.status.code == -INT


@pytest.mark.parametrize("state", [WAITING, BACKOFF])
def test_stop_without_a_process(state: str) -> None:
    """There is nothing to wait for."""
    unit = a_daemon()
    unit.send("want")
    if state == BACKOFF:
        unit.up().exit(1)
    assert unit.status.state == state
    assert unit.stop() == STOPPED
    assert (unit.kills, unit.status.deadline) == ([], None)


@pytest.mark.parametrize(("then", "state"), [("stop", STOPPED), ("restart", WAITING)])
def test_stop_before_the_process_is_made(then: str, state: str) -> None:
    """A Spawn that was not performed yet will find itself overtaken; there is no pid to signal."""
    unit = a_daemon()
    unit.send("want")
    unit.send("start")
    assert unit.stop(again=then == "restart") == state
    assert unit.kills == []


def test_stop_in_warmup() -> None:
    """A unit that is not OK yet is stopped like any other, and has not failed by it."""
    unit = a_daemon(warmup="60s").up()
    assert unit.stop() == STOPPING
    assert unit.exit(1) == STOPPED


def test_restart() -> None:
    """Stopped to be started again: no back-off, not counted in `respawns`."""
    unit = a_daemon(respawns=0).ok()
    assert unit.stop(again=True, why="db was restarted") == STOPPING
    assert unit.said == ["info: stopping (SIGTERM): db was restarted"]
    assert unit.exit(1, after=0.5) == WAITING
    assert unit.said == [f"info: stopped in 0.5 s (pid {unit.pid} exited with code 1), restarting"]
    assert (unit.status.respawned, unit.status.deadline) == (0, None)


@pytest.mark.parametrize(("first", "second", "state"), [
    ("restart", "stop", STOPPED),
    ("restart", "restart", WAITING),
    ("stop", "stop", STOPPED),
    ("stop", "restart", STOPPED),
])  # fmt: skip
def test_stop_twice(first: str, second: str, state: str) -> None:
    """The later wish counts, but nothing revives what was to stop for good; the signal is sent once."""
    unit = a_daemon().ok()
    unit.stop(again=first == "restart")
    unit.stop(again=second == "restart")
    assert unit.kills == []
    assert unit.exit(0) == state


def test_stop_does_not_prolong() -> None:
    """A second stop never moves the deadline away."""
    unit = a_daemon(stop_timeout="5s").ok()
    unit.stop()
    unit.now += 3.0
    unit.stop(limit=4.0)
    assert unit.wait == 2.0
    unit.due()
    unit.stop(limit=4.0)
    assert unit.status.deadline is None


def test_stopped_at_its_timeout() -> None:
    """A script whose time is over when everything stops is stopped: no restart."""
    unit = a_script(timeout="5s", respawns=9).up()
    unit.due()
    unit.stop()
    assert unit.exit(-15) == STOPPED


# --- starts that fail ------------------------------------------------------------------------------------------------


def test_failed_fork() -> None:
    """A start that overlord could not make is tried again with back-off, and not held against the unit."""
    unit = a_daemon(respawns=0, backoff="1s..4s")
    waits = []
    for _ in range(5):
        unit.send("want")
        unit.send("start")
        assert unit.send("unspawned", passing=True, why="fork: Resource temporarily unavailable") == BACKOFF
        waits.append(unit.wait)
        assert unit.due() == WAITING
    assert waits == pytest.approx([overlord.FORK_DELAY, 1.0, 2.0, 4.0, 4.0])
    assert unit.status.respawned == 0
    assert unit.up().status.state == STARTING


def test_failed_fork_without_backoff() -> None:
    """It is no busy loop, even with `backoff = 0`."""
    unit = a_daemon(backoff="0")
    unit.send("want")
    unit.send("start")
    unit.send("unspawned", passing=True, why="fork: Cannot allocate memory")
    assert unit.wait > 0
    assert unit.said == ["warning: cannot start: fork: Cannot allocate memory, restarting in 0.1 s"]


def test_child_without_descriptors() -> None:
    """A child that could not get as far as its command for want of descriptors is as good as a fork that failed."""
    unit = a_daemon(respawns=0, backoff="0")
    for _ in range(3):
        unit.send("want")
        unit.send("start")
        unit.send("spawned", pid=7)
        assert unit.send("exited", why="env_file /x: Too many open files", code=1, passing=True) == BACKOFF
        assert unit.wait == pytest.approx(overlord.FORK_DELAY)
        assert unit.due() == WAITING
    assert unit.status.respawned == 0


def test_failed_fork_in_a_window() -> None:
    """Nor does it use up a window."""
    unit = a_daemon(respawns="1/60s", backoff="0", warmup="0")
    for _ in range(5):
        unit.send("want")
        unit.send("start")
        unit.send("unspawned", passing=True, why="fork")
        unit.due()
    assert unit.up().exit(1) == BACKOFF


def test_failed_script_is_a_failed_start() -> None:
    """Where an `always` script fails, that is a failure of the unit, with its back-off and `respawns`."""
    unit = a_daemon(respawns=1, backoff="2s")
    unit.send("want")
    assert unit.send("barred", why="script setup failed: exited with code 3") == BACKOFF
    assert unit.status.respawned == 1
    unit.due()
    assert unit.send("barred", why="script setup failed: exited with code 3") == FAILED
    assert unit.status.code == 1
    assert unit.said == ["error: failed: cannot start: script setup failed: exited with code 3 (respawns = 1, used up)"]


def test_child_that_could_not_become_its_unit() -> None:
    """No such user, folder or file: a failure of the unit, with the reason."""
    unit = a_daemon(respawns=0).up()
    assert unit.exit(1, why="dir /srv: No such file or directory") == FAILED
    why = f"cannot start: dir /srv: No such file or directory (pid {unit.pid} never ran the command)"
    assert unit.said == [f"error: failed: {why}"]
    assert unit.status.why == why


# --- the main command ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "state"), [(0, DONE), (3, FAILED), (-15, FAILED)])
def test_main_command(code: int, state: str) -> None:
    """It is never restarted, and its end is no warning."""
    unit = a_main_command().up()
    assert unit.status.state == RUNNING
    assert unit.exit(code, after=2.0) == state
    assert unit.status.code == code
    assert unit.said == [f"info: pid {unit.pid} {overlord.spell_end(code)} after 2 s"]


def test_main_command_waits() -> None:
    """While it waits it is looked at every 10 s, for the Fleet to say for whom."""
    unit = a_main_command()
    unit.send("want")
    for _ in range(3):
        assert unit.wait == 10.0
        assert unit.due() == WAITING
    unit.send("start")
    assert unit.status.deadline is None


def test_only_the_main_command_is_reminded() -> None:
    """A unit that waits needs no timer."""
    unit = a_daemon()
    unit.send("want")
    assert unit.status.deadline is None


# --- the diagram -----------------------------------------------------------------------------------------------------


def test_diagram_in_the_readme() -> None:
    """The README shows the diagram that the table makes: `python tests/diagram.py` prints it."""
    text = README.read_text() if README.exists() else ""
    assert diagram.BEGIN in text, f"README.md needs the markers {diagram.BEGIN} and {diagram.END}"
    assert diagram.block_of(text) == diagram.block()


def test_diagram_is_whole() -> None:
    """Every state can be entered and has a way on; every meaningful cell makes an arrow or is known to make none."""
    edges = diagram.edges()
    assert {target for _, _, target in edges} | {IDLE} == set(STATES)
    assert {source for source, _, _ in edges} == set(STATES)
    meaningful = {(state, kind) for state, kinds in COMES.items() for kind in kinds.split()}
    assert {(source, kind) for source, kind, _ in edges} == meaningful
    assert all(re.fullmatch(r"    (\[\*\]|\w+) --> \w+( : [\w, ]+)?", line) for line in diagram.diagram().split("\n")[1:])
