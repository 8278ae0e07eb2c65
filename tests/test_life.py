"""The life of a unit: warm-up, restarts and their limits, back-off, age, time limits, and the ends of it."""

from __future__ import annotations

import re
import signal

import pytest

from conftest import Start
from harness import Overlord, daemon, eventually, program, script

COUNT = "echo up >> journal; "
UNTIL_GO = "until test -e go; do sleep 0.01; done"


# --- warm-up ---------------------------------------------------------------------------------------------------------


def test_warmup(overlord: Start) -> None:
    """A daemon is OK when it has lived for so long, and not when it died before."""
    o = overlord(daemon("web", "sleep 0.1", warmup="60s", backoff="0", respawns=2) + daemon("front", deps="web"))
    assert o.wait_exit() == 1
    assert o.starts("web") == 3
    assert o.count("web: ok") == 0
    assert o.starts("front") == 0


def test_default_warmup(overlord: Start) -> None:
    """It is more than nothing: a daemon that ends at once never was OK."""
    o = overlord(daemon("web", "exit 3", respawns=1), defaults="")
    assert o.wait_exit() == 3
    assert o.count("web: ok") == 0


# --- restarts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "code", "starts"),
    [
        ({"respawns": 3}, 3, 4),
        ({"restart": "never"}, 3, 1),
        ({"success": "3", "restart": "on-failure"}, 0, 1),
    ],
    ids=str,
)
def test_how_often(overlord: Start, options: dict[str, object], code: int, starts: int) -> None:
    """`respawns`, `restart` and `success` decide how often it is started, and how it ends; test_machine has each case."""
    o = overlord(daemon("web", COUNT + "exit 3", backoff="0", **options))
    assert o.wait_exit() == code
    assert o.journal.lines() == starts * ["up"]
    assert o.starts("web") == starts
    assert o.count("web: failed: " if code else "web: done: ") == 1


def test_respawns_within_a_time(overlord: Start) -> None:
    """`2/300ms` allows any number of restarts that are far enough apart, and no third one at once."""
    o = overlord(daemon("web", f"{COUNT}test -e go && exit 3; exec sleep 0.4", respawns="2/300ms", backoff="0"))
    o.journal.wait_for("up", 5)
    (o.folder / "go").touch()
    assert o.wait_exit() == 3


def test_not_forever(overlord: Start) -> None:
    """`forever = false`: who sets neither `respawns` nor `restart` is not restarted."""
    o = overlord(daemon("web", f"{COUNT}exit 3", backoff="0"), settings={"forever": "false"})
    assert o.wait_exit() == 3
    assert o.journal.lines() == ["up"]


def test_forever(overlord: Start) -> None:
    """The default: whatever its code, a daemon comes back."""
    o = overlord(
        daemon("bad", "echo bad >> journal; exit 1", backoff="0") + daemon("good", "echo good >> journal", backoff="0")
    )
    o.journal.wait_for("bad", 5)
    o.journal.wait_for("good", 5)
    assert o.stop() == 0


def test_says_how_it_ended(overlord: Start) -> None:
    """Code or signal, and what comes next, in one line."""
    o = overlord(daemon("web", f"{COUNT}test $(grep -c up journal) = 2 && exit 3; exec sleep infinity", backoff="0"))
    o.unit_is("web", "sleep")
    o.kill_unit("web", signal.SIGUSR1)
    o.says("web", r"pid \d+ killed by SIGUSR1 after .*, restarting")
    o.says("web", r"pid \d+ exited with code 3 after .*, restarting")
    o.journal.wait_for("up", 3)


# --- back-off --------------------------------------------------------------------------------------------------------


def delays(o: Overlord, name: str) -> list[float]:
    """Return the delays that the log announces, in seconds."""
    found = []
    for line in o.log:
        match = re.search(rf"{name}: (?:pid \d+ exited|pid \d+ killed|cannot start).*restarting(?: in ([0-9.]+) (ms|s))?", line)
        if match:
            found.append(float(match[1] or 0) / (1000 if match[2] == "ms" else 1))
    return found


def test_backoff_grows(overlord: Start) -> None:
    """Nothing for the first restart, then doubling to the upper bound, with a little jitter."""
    o = overlord(daemon("web", "exit 1", backoff="100ms..400ms", respawns=6))
    assert o.wait_exit() == 1
    found = delays(o, "web")
    assert len(found) == 6
    assert found[0] == 0
    for delay, expected in zip(found[1:], (0.1, 0.2, 0.4, 0.4, 0.4)):
        assert expected * 0.85 <= delay <= expected * 1.15, found


def test_backoff_of_a_start_that_fails(overlord: Start) -> None:
    """A start that never came to a process is a failure with a delay like any other."""
    o = overlord(daemon("web", dir="later", backoff="20ms..40ms"))
    o.says("web", "cannot start: dir .*later: No such file or directory")
    eventually(lambda: o.count("web: cannot start") >= 3, "it is tried again")
    (o.folder / "later").mkdir()
    o.says("web", "ok")


# --- age and time limits ---------------------------------------------------------------------------------------------


def test_max_age(overlord: Start) -> None:
    """A daemon of that age is stopped and started again, whatever `restart` says."""
    o = overlord(daemon("web", max_age="150ms", restart="never"))
    o.journal.wait_for("web", 3)
    assert o.stop() == 0
    assert o.count("web: failed|web: done|restarting in") == 0


def test_max_age_with_a_share_of_chance(overlord: Start) -> None:
    """`1h~1h` is any time up to an hour: two daemons do not end together. Here it only has to be understood."""
    o = overlord(daemon("web", max_age="200ms~100ms"))
    o.journal.wait_for("web", 3)


def test_max_age_of_a_stubborn_daemon(overlord: Start) -> None:
    """It is killed after `stop_timeout`, and started again when its whole group is gone."""
    o = overlord(daemon("web", program("stubborn.sh", "web"), max_age="300ms", stop_timeout="200ms"))
    o.journal.wait_for("web up", 2)
    assert o.position("web: stopping .*max_age") < o.position("web: not (all )?gone after .*, killing")


def test_timeout_of_a_script(overlord: Start) -> None:
    """A script that takes too long is stopped and has failed."""
    o = overlord(script("setup", "sleep infinity", timeout="200ms") + daemon("web", deps="setup"))
    assert o.wait_exit() != 0
    assert o.position(r"setup: stopping \(SIGTERM\): timeout") < o.position("setup: failed: ")
    assert o.starts("web") == 0


def test_timeout_of_a_script_that_may_be_repeated(overlord: Start) -> None:
    """Its respawns count for that too."""
    cmd = "echo up >> journal; test $(grep -c up journal) -gt 2 || exec sleep infinity"
    o = overlord(script("setup", cmd, timeout="300ms", respawns=5, backoff="0") + daemon("web", deps="setup"))
    o.journal.wait_for("web")
    assert o.journal.lines() == ["up", "up", "up", "web"]


def test_quick_script_meets_no_timeout(overlord: Start) -> None:
    """And the limit is not in the way of what comes after."""
    o = overlord(script("setup", timeout="5s") + daemon("web", deps="setup"))
    o.says("web", "ok")
    assert o.stop() == 0
    assert o.count("setup: stopping") == 0


# --- ends ------------------------------------------------------------------------------------------------------------


def test_ignored_failure(overlord: Start) -> None:
    """The others go on."""
    o = overlord(daemon("bad", "exit 3", respawns=0, on_failure="ignore") + daemon("web"))
    o.says("bad", "failed: ")
    o.kill_unit("web")
    o.wait_ok("web", 2)
    assert o.stop() == 0


def test_ignored_success(overlord: Start) -> None:
    """That is the default: a daemon that is done ends nothing while another runs."""
    o = overlord(daemon("job", "exit 0", restart="on-failure") + daemon("web"))
    o.says("job", "done: ")
    o.kill_unit("web")
    o.wait_ok("web", 2)
    assert o.stop() == 0


def test_success_of_a_script_may_shut_down(overlord: Start) -> None:
    """`on_success` of a script."""
    o = overlord(script("job", "true", on_success="shutdown") + daemon("web", deps="job") + daemon("db"))
    assert o.wait_exit() == 0
    assert o.count("shutting down: job ") == 1


# --- the group -------------------------------------------------------------------------------------------------------


def test_new_life_never_meets_the_old_one(overlord: Start) -> None:
    """A leader that dies and leaves a worker with its port: the worker goes first."""
    o = overlord(daemon("web", program("leave_worker.py", "web", "port"), backoff="0"))
    for times in (1, 2, 3):
        o.wait_ok("web", times)
        o.journal.wait_for("web up", times)
        o.kill_unit("web", (signal.SIGUSR1, signal.SIGKILL, signal.SIGTERM)[times - 1])
    o.journal.wait_for("web up", 4)
    assert o.journal.lines() == [*3 * ["web up", "web worker got SIGTERM"], "web up"]
    assert o.count(r"web: pid \d+ .*, stopping what it left behind \(SIGTERM\): python3 \(pid \d+\)$") == 3


def test_left_worker_that_stays_is_killed(overlord: Start) -> None:
    """After `stop_timeout`, and only then the daemon starts again."""
    cmd = program("leave_worker.py", "web", "port", "ignore")
    o = overlord(daemon("web", cmd, backoff="0", stop_timeout="300ms"))
    o.journal.wait_for("web up")
    o.kill_unit("web", signal.SIGUSR1)
    o.journal.wait_for("web up", 2)
    assert o.journal.lines() == ["web up", "web worker got SIGTERM", "web up"]
    assert o.count(r"web: not gone after .*, killing it \(SIGKILL\): python3 \(pid \d+\)$") == 1


def test_zombies_of_another_parent_are_no_life(overlord: Start) -> None:
    """A group in which only a zombie is left that somebody else does not reap has ended."""
    o = overlord(daemon("web", program("keep_zombie.py"), backoff="0", respawns=3))
    assert o.wait_exit() == 1
    assert o.journal.lines() == 4 * ["up"]


def test_each_unit_leads_a_session(overlord: Start) -> None:
    """So that nobody's Ctrl-C, and no signal to a group, reaches another."""
    o = overlord(daemon("web") + daemon("db"))
    for name in ("web", "db"):
        process = o.unit_is(name, "sleep")
        assert process.sid == process.pgid == process.pid
