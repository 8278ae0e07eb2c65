"""Dependencies: ok, bounce and always; order, parallel starts, and waves that restart each unit once."""

from __future__ import annotations

import pytest

from conftest import Start
from harness import daemon, script

# A script that takes its time and notes when it begins and ends; two of its runs at a time are noted too.
EXCLUSIVE = "mkdir lock || echo overlap >> journal; echo begin >> journal; sleep 0.1; rmdir lock; echo end >> journal"
UNTIL_GO = "until test -e go; do sleep 0.01; done"


# --- scripts ---------------------------------------------------------------------------------------------------------


def test_script_runs_first(overlord: Start) -> None:
    """What depends on a script starts when it has succeeded."""
    o = overlord(script("setup", "sleep 0.1; echo setup >> journal") + daemon("web", deps="setup"))
    o.says("web", "waiting for setup:ok")
    o.wait_ok("web")
    assert o.started == ["setup", "web"]
    assert o.position("setup: ok") < o.position("web: started")


def test_in_the_order_written(overlord: Start) -> None:
    """The next dependency is not begun before the one in front of it is met."""
    o = overlord(
        daemon("web", deps="second:ok, first:always, third")
        + "".join(script(name, f"sleep 0.05; echo {name} >> journal") for name in ("first", "second", "third"))
    )
    o.wait_ok("web")
    assert o.started == ["second", "first", "third", "web"]
    assert o.position("second: ok") < o.position("first: started")
    assert o.position("first: ok") < o.position("third: started")


def test_script_nobody_depends_on(overlord: Start) -> None:
    """It never runs, nor does one on which only such a script depends."""
    o = overlord(script("unused", deps="base") + script("base") + daemon("web"))
    o.says("web", "ok")
    assert o.stop() == 0
    assert o.started == ["web"]


def test_one_run_serves_all(overlord: Start) -> None:
    """A script that is wanted as `ok` runs once, whoever waits for it and whenever."""
    o = overlord(
        script("setup", f"{EXCLUSIVE}; {UNTIL_GO}")
        + "".join(daemon(f"web-{n}", deps="setup") for n in range(4))
        + script("more", deps="setup:ok")
        + daemon("late", deps="more")
    )
    o.journal.wait_for("begin")
    (o.folder / "go").touch()
    for name in ("web-0", "web-1", "web-2", "web-3", "late"):
        o.says(name, "ok")
    o.kill_unit("web-0")
    o.wait_ok("web-0", 2)
    assert o.journal.lines().count("begin") == 1


def test_always_runs_before_every_start(overlord: Start) -> None:
    """Restarts included, and for the start itself to wait."""
    o = overlord(script("setup") + daemon("web", deps="setup:always", backoff="0"))
    for times in (1, 2, 3):
        o.wait_ok("web", times)
        o.kill_unit("web")
    o.wait_ok("web", 4)
    assert o.started == 4 * ["setup", "web"]


def test_always_for_two_never_overlaps(overlord: Start) -> None:
    """Two dependents that start together get a run each, one after the other."""
    o = overlord(script("setup", EXCLUSIVE) + "".join(daemon(f"web-{n}", deps="setup:always") for n in range(3)))
    for n in range(3):
        o.wait_ok(f"web-{n}")
    lines = [line for line in o.journal.lines() if line in ("begin", "end", "overlap")]
    assert lines == 3 * ["begin", "end"]


def test_ok_and_always_of_one_script(overlord: Start) -> None:
    """A run that serves an `ok` is not one for an `always`, and they do not overlap."""
    o = overlord(script("setup", EXCLUSIVE) + daemon("web", deps="setup:always") + daemon("api", deps="setup:ok"))
    o.wait_ok("web")
    o.wait_ok("api")
    runs = o.starts("setup")
    assert runs in (1, 2)
    o.kill_unit("web")
    o.wait_ok("web", 2)
    o.kill_unit("api")
    o.wait_ok("api", 2)
    assert o.starts("setup") == runs + 1
    assert "overlap" not in o.journal.lines()


def test_failing_always_is_a_failed_start(overlord: Start) -> None:
    """The unit's own back-off and respawns count, and the script's `on_failure` does not."""
    o = overlord(script("setup", "echo setup >> journal; exit 3") + daemon("web", deps="setup:always", respawns=2))
    assert o.wait_exit() != 0
    assert o.journal.lines() == 3 * ["setup"]
    assert o.starts("web") == 0
    assert "web" in o.log[-1]


def test_always_that_recovers(overlord: Start) -> None:
    """A start that failed for its script is tried again."""
    cmd = "echo setup >> journal; test $(grep -c setup journal) -gt 2"
    o = overlord(script("setup", cmd) + daemon("web", deps="setup:always", backoff="10ms..20ms"))
    o.wait_ok("web")
    assert o.started == [*3 * ["setup"], "web"]


def test_failing_always_with_its_own_on_failure(overlord: Start) -> None:
    """Where the script says itself what its failure does, that is done."""
    o = overlord(script("setup", "exit 3", on_failure="shutdown") + daemon("web", deps="setup:always") + daemon("db"))
    assert o.wait_exit() == 3


def test_failing_script_shuts_down(overlord: Start) -> None:
    """Without its script the unit cannot run, and the container ends with the script's code."""
    o = overlord(script("setup", "exit 4") + daemon("web", deps="setup") + daemon("db"))
    assert o.wait_exit() == 4
    assert o.starts("web") == 0
    o.says("setup", "failed: ")


def test_script_may_be_tried_again(overlord: Start) -> None:
    """`respawns` of a script."""
    cmd = "echo setup >> journal; test $(grep -c setup journal) -gt 2"
    o = overlord(script("setup", cmd, respawns=2, backoff="0") + daemon("web", deps="setup"))
    o.wait_ok("web")
    assert o.started == [*3 * ["setup"], "web"]


def test_ignored_failure_of_a_script(overlord: Start) -> None:
    """Who depends on it waits for ever, the others run, and the container ends when they do."""
    o = overlord(
        script("setup", "exit 4", on_failure="ignore")
        + daemon("web", deps="setup")
        + daemon("db", UNTIL_GO, restart="never")
    )
    o.says("setup", "failed: ")
    o.says("db", "ok")
    (o.folder / "go").touch()
    assert o.wait_exit() == 4
    assert o.starts("web") == 0


# --- daemons ---------------------------------------------------------------------------------------------------------


def test_daemon_waits_for_ok(overlord: Start) -> None:
    """`ok` is more than started: a dependency that dies within its warm-up is waited for."""
    first = "echo db >> journal; test $(grep -c db journal) -gt 2 || exit 1; exec sleep infinity"
    o = overlord(daemon("db", first, warmup="500ms", backoff="0") + daemon("web", deps="db"))
    o.says("web", "waiting for db:ok")
    o.wait_ok("web")
    assert o.started == ["db", "db", "db", "web"]
    assert o.position("db: ok") < o.position("web: started")


def test_independent_units_start_in_parallel(overlord: Start) -> None:
    """Each of two scripts ends only when the other has begun."""
    meet = "touch {0}; until test -e {1}; do sleep 0.01; done"
    o = overlord(
        script("a", meet.format("a", "b"))
        + script("b", meet.format("b", "a"))
        + daemon("one", deps="a")
        + daemon("two", deps="b")
    )
    o.says("one", "ok")
    o.says("two", "ok")


def test_ok_does_not_bounce(overlord: Start) -> None:
    """Who depends with `ok` stays when the other is restarted."""
    o = overlord(daemon("db") + daemon("web", deps="db:ok") + daemon("api", deps="db:bounce"))
    o.says("web", "ok")
    o.says("api", "ok")
    o.kill_unit("db")
    o.wait_ok("api", 2)
    assert o.stop() == 0
    assert sorted(o.started) == ["api", "api", "db", "db", "web"]


def test_bounce_spreads_along_a_chain(overlord: Start) -> None:
    """Each unit is restarted once, in dependency order."""
    o = overlord(
        daemon("a") + daemon("b", deps="a:bounce") + daemon("c", deps="b:bounce") + daemon("d", deps="c:bounce")
    )
    o.wait_ok("d")
    for wave in (2, 3, 4):
        o.kill_unit("a")
        o.wait_ok("d", wave)
    assert o.stop() == 0
    assert o.started == 4 * ["a", "b", "c", "d"]


def test_diamond_bounces_each_once(overlord: Start) -> None:
    """Two ways from the top to the bottom are one restart of the bottom, when both are through."""
    o = overlord(
        daemon("db")
        + daemon("slow", deps="db:bounce", warmup="300ms")
        + daemon("fast", deps="db:bounce")
        + daemon("web", deps="fast:bounce, slow:bounce")
        + daemon("edge", deps="web:bounce, db:bounce")
    )
    o.wait_ok("edge")
    for wave in (2, 3):
        o.kill_unit("db")
        o.wait_ok("edge", wave)
    assert o.stop() == 0
    assert len(o.started) == 15
    for start in range(0, 15, 5):
        first, *middle, last, end = o.started[start : start + 5]
        assert (first, sorted(middle), last, end) == ("db", ["fast", "slow"], "web", "edge")


def test_bounce_runs_always_scripts(overlord: Start) -> None:
    """A bounce is a start like any other: setup:always, cacheserver:bounce."""
    o = overlord(script("setup") + daemon("cache") + daemon("app", deps="setup:always, cache:bounce"))
    o.wait_ok("app")
    o.kill_unit("cache")
    o.wait_ok("app", 2)
    assert o.starts("setup") == 2
    o.says("app", r"stopping \(SIGTERM\): cache was restarted")


def test_bounce_after_max_age(overlord: Start) -> None:
    """A restart for whatever reason bounces."""
    o = overlord(daemon("db", max_age="700ms") + daemon("web", deps="db:bounce"))
    o.says("db", "stopping .*max_age")
    o.wait_ok("web", 2)


def test_bounce_waits_until_the_other_is_ok(overlord: Start) -> None:
    """The dependent is restarted when the other one is up again, not while it still fails."""
    flaky = "echo db >> journal; case $(grep -c db journal) in 2 | 3) exit 1 ;; esac; exec sleep infinity"
    o = overlord(daemon("db", flaky, warmup="500ms", backoff="0") + daemon("web", deps="db:bounce"))
    o.wait_ok("web")
    o.kill_unit("db")
    o.wait_ok("web", 2)
    assert o.started == ["db", "web", "db", "db", "db", "web"]


def test_dependency_that_is_down_is_waited_for(overlord: Start) -> None:
    """At a restart of the dependent too."""
    gate = f"echo gate >> journal; test $(grep -c gate journal) = 1 || {UNTIL_GO}"
    o = overlord(script("gate", gate) + daemon("db", deps="gate:always") + daemon("web", deps="db"))
    o.wait_ok("web")
    mark = o.mark
    o.kill_unit("db")
    o.journal.wait_for("gate", 2)
    o.kill_unit("web")
    o.says("web", "waiting for db:ok", after=mark)
    (o.folder / "go").touch()
    o.wait_ok("web", 2)
    assert o.started == ["gate", "db", "web", "gate", "db", "web"]


def test_dependency_that_failed_for_good(overlord: Start) -> None:
    """Who waits for it is left waiting, and where nothing else is left that ends the container with its code."""
    o = overlord(daemon("db", "exit 5", warmup="10s", respawns=0, on_failure="ignore") + daemon("web", deps="db"))
    assert o.wait_exit() == 5
    assert o.starts("web") == 0


def test_failed_ancestor_blocks_no_bounce(overlord: Start) -> None:
    """In a wave, an ancestor that ended for good is not waited for."""
    o = overlord(
        daemon("base")
        + daemon(
            "old",
            "test -e old && exit 1; touch old; exec sleep infinity",
            deps="base:bounce",
            respawns=0,
            on_failure="ignore",
            warmup="100ms",
        )
        + daemon("web", deps="base:bounce")
        + daemon("top", deps="web:bounce")
    )
    o.says("old", "ok")
    o.wait_ok("top")
    o.kill_unit("base")
    o.says("old", "failed: ")
    o.wait_ok("top", 2)
    o.kill_unit("base")
    o.wait_ok("top", 3)


def test_autostart_off(overlord: Start) -> None:
    """Such a daemon runs where another one depends on it, and otherwise not."""
    o = overlord(daemon("db", autostart="no") + daemon("unused", autostart="no") + daemon("web", deps="db"))
    o.wait_ok("web")
    assert o.started == ["db", "web"]


def test_says_when_all_is_up(overlord: Start) -> None:
    """One line, with the time it took and the slowest link, and once."""
    o = overlord(
        script("slow", "sleep 0.3; echo slow >> journal") + daemon("db", deps="slow") + daemon("web", deps="db")
    )
    line = o.wait_for(r"^overlord: .*\b(all|everything)\b.*\bup\b.*")[0]
    assert "slow" in line
    assert o.position("web: ok") < o.log.index(f"{line}")
    o.kill_unit("db")
    o.wait_ok("db", 2)
    assert o.stop() == 0
    assert o.count(r"\b(all|everything)\b.*\bup\b") == 1


@pytest.mark.parametrize(
    "states", (("ok", "ok", "ok"), ("ok", "bounce", "ok"), ("bounce", "always", "ok")), ids=":".join
)
def test_cycle_is_a_mistake(overlord: Start, states: tuple[str, str, str]) -> None:
    """It is named in full."""
    kinds = ["script" if state == "always" else "daemon" for state in states]
    text = ""
    for index, name in enumerate("abc"):
        kind = kinds[index - 1]
        text += (script if kind == "script" else daemon)(name, deps=f"{'bca'[index]}:{states[index]}")
    o = overlord(text)
    assert o.wait_exit() == 78
    assert o.count("a -> b -> c -> a|b -> c -> a -> b|c -> a -> b -> c") == 1
