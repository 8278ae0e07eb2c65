"""`count`: instances, who depends on them, and that they are replaced one at a time."""

from __future__ import annotations

import re

import pytest

from conftest import Start
from harness import PATH, Overlord, daemon, eventually

SLEEP = "exec sleep 12345"


def pids(o: Overlord, *names: str) -> list[int]:
    """Return the processes of units as they were last started."""
    return [o.unit(name).pid for name in names]


# --- count -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("variables", "number"), [({}, 3), ({"N": "2"}, 2)])
def test_a_number_of_instances(overlord: Start, variables: dict[str, str], number: int) -> None:
    """Each is a unit of its own, knows its number, and whoever depends on the name has all of them up before it."""
    o = overlord(
        daemon("web", SLEEP, count="${N:-3}") + daemon("front", SLEEP, deps="web"), env={"PATH": PATH, **variables}
    )
    o.says("front", "ok")
    names = [f"web-{index + 1}" for index in range(number)]
    assert o.started == [*names, "front"]
    for index, name in enumerate(names):
        environment = o.unit_is(name, "sleep").environ
        assert f"OVERLORD_INSTANCE={index + 1}".encode() in environment
        assert f"OVERLORD_NAME={name}".encode() in environment
    assert not any(line.startswith(b"OVERLORD_INSTANCE") for line in o.unit_is("front", "sleep").environ)
    assert o.position("front: started") > max(o.position(f"{name}: ok") for name in names)
    assert o.stop() == 0


def test_none_at_all(overlord: Start) -> None:
    """Of a count of 0 there is none, and a dependency on it is met."""
    o = overlord(daemon("web", SLEEP, count=0) + daemon("front", SLEEP, deps="web:bounce"))
    o.says("front", "ok")
    assert o.started == ["front"]
    assert o.stop() == 0


def test_each_bounces(overlord: Start) -> None:
    """One instance that is restarted has the dependent restarted, and no other instance."""
    o = overlord(daemon("web", SLEEP, count=3, backoff=0) + daemon("front", SLEEP, deps="web:bounce"))
    o.says("front", "ok")
    before, mark = pids(o, "web-1", "web-3"), o.mark
    o.kill_unit("web-2")
    o.says("front", "ok", after=mark)
    assert o.starts("front") == 2
    assert pids(o, "web-1", "web-3") == before
    assert o.stop() == 0


def test_instances_bounce_with_another(overlord: Start) -> None:
    """All instances of a dependent are restarted, once each."""
    o = overlord(daemon("db", SLEEP, backoff=0) + daemon("web", SLEEP, count=2, deps="db:bounce"))
    o.wait_ok("web-1")
    o.wait_ok("web-2")
    o.kill_unit("db")
    o.wait_ok("web-1", 2)
    o.wait_ok("web-2", 2)
    assert [o.starts(name) for name in ("db", "web-1", "web-2")] == [2, 2, 2]
    assert o.stop() == 0


def test_another_count_at_reload(fleet: Start) -> None:
    """More instances are added, fewer removed, and the processes of the others stay; down to one and to none too."""
    o = fleet(daemon("web", SLEEP, count=2) + daemon("other", SLEEP))
    o.wait_ok("web-2")
    o.wait_ok("web-1")
    before = pids(o, "web-1", "web-2")
    text = o.config.read_text()
    o.config.write_text(text.replace("count = 2", "count = 4"))
    o.ask("reload")
    o.wait_ok("web-4")
    assert pids(o, "web-1", "web-2") == before
    o.config.write_text(text)
    o.ask("reload")
    o.says("web-3", "stopped")
    o.says("web-4", "stopped")
    assert pids(o, "web-1", "web-2") == before
    assert o.unit("web-1").alive and o.unit("web-2").alive
    o.config.write_text(text.replace("count = 2", "count = 0"))
    o.ask("reload")
    o.says("web-1", "stopped")
    assert o.unit("other").alive
    assert o.stop() == 0


@pytest.mark.parametrize("how", ["restart", "max_age"])
def test_one_at_a_time(fleet: Start, how: str) -> None:
    """Never are two of them down at once: each waits for the one before to be OK."""
    options = {"max_age": "400ms"} if how == "max_age" else {}
    o = fleet(daemon("web", SLEEP, count=3, warmup="100ms", **options))
    for index in (1, 2, 3):
        o.wait_ok(f"web-{index}")
    if how == "restart":
        o.ask("restart", "web-*")
    for index in (1, 2, 3):
        o.wait_ok(f"web-{index}", 2)
    down: set[str] = set()
    for line in o.log:
        found = re.match(r"overlord: (web-\d): (stopping|ok)", line)
        if found and found[2] == "stopping":
            down.add(found[1])
            assert len(down) == 1, (line, str(o))
        elif found:
            down.discard(found[1])
    assert o.stop() == 0


def test_restart_by_its_name(fleet: Start) -> None:
    """The name in the configuration stands for all of its instances."""
    o = fleet(daemon("web", SLEEP, count=2))
    o.wait_ok("web-1")
    o.wait_ok("web-2")
    o.ask("restart", "web")
    eventually(lambda: [o.starts(name) for name in ("web-1", "web-2")] == [2, 2], "each was restarted once")
    assert o.stop() == 0
