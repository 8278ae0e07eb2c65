"""The Fleet: dependencies, bounce waves, ends, shutdown, what it costs; and random worlds in which all must hold."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import Any, Callable

import pytest

import overlord
from harness import daemon, script
from overlord import BACKOFF, DONE, FAILED, IDLE, MAIN, OK, RUNNING, STARTING, STOPPED, STOPPING, WAITING
from world import KILL, TERM, Member, Stage, Temper, Worker, World, check, configure

INT, QUIT, USR1 = (overlord.SIGNALS[name] for name in ("INT", "QUIT", "USR1"))
QUICK = Temper(life=0.1)  # a script that does its work
FAILING = Temper(life=0.1, code=3)
STUBBORN = Temper(patience=None)
SETTLED = 100.0  # s in which everything below comes to rest

# How many worlds the property tests play, from which seed on: OVERLORD_WORLDS=20000 OVERLORD_SEED=1000000 pytest ...
WORLDS = int(os.environ.get("OVERLORD_WORLDS", "800"))
SEED = int(os.environ.get("OVERLORD_SEED", "0"))
PARTS = 8


def settings(**options: object) -> str:
    """Return the text of the [overlord] section."""
    return "[overlord]\n" + "".join(f"{key} = {value}\n" for key, value in options.items())


def prompt(name: str, **options: object) -> str:
    """A daemon that is OK as soon as it runs and comes back without delay."""
    return daemon(name, "x", **{"warmup": 0, "backoff": 0, **options})


def setup(name: str = "setup", **options: object) -> str:
    return script(name, "x", **options)


def starts_since(stage: Stage, act: Callable[[], object], seconds: float = SETTLED) -> list[str]:
    """Return what is started by an act and all that follows."""
    count = len(stage.starts)
    act()
    stage.advance(seconds)
    return stage.starts[count:]


# --- dependencies ----------------------------------------------------------------------------------------------------


def test_parallel() -> None:
    """Units that do not depend on one another start at once, all of them."""
    stage = Stage("".join(daemon(f"d{n}", "x") for n in range(5)))
    assert stage.states() == 5 * [STARTING]
    stage.advance(1.0)
    assert stage.states() == 5 * [OK]


def test_waits_for_a_daemon_to_be_ok() -> None:
    """What depends on a daemon starts when that has lived through its warm-up."""
    stage = Stage(daemon("web", "x", deps="db") + daemon("db", "x", warmup="5s"))
    assert stage.states("db", "web") == [STARTING, WAITING]
    stage.advance(4.9)
    assert stage.starts == ["db"]
    stage.advance(0.2)
    assert stage.starts == ["db", "web"]
    assert stage.text_of("web")[0] == "waiting for db:ok"


def test_in_the_order_written() -> None:
    """The next dependency is not begun before the one in front of it is met."""
    stage = Stage(prompt("web", deps="b:ok, a:always, c") + setup("a") + setup("b") + setup("c"))
    for name in ("b", "a", "c"):
        assert stage.living() == [name]
        stage.exit(name)
    assert stage.starts == ["b", "a", "c", "web"]


def test_dependency_lost_meanwhile() -> None:
    """What was met and is down when the last is met has to come back first."""
    stage = Stage(prompt("web", deps="db, setup") + prompt("db", backoff="5s") + setup())
    stage.exit("db", 1)
    stage.exit("db", 1)
    stage.exit("setup")
    assert stage.states("db", "web") == [BACKOFF, WAITING]
    stage.advance(6.0)
    assert stage.states("db", "web") == [OK, OK]
    assert stage.starts.count("setup") == 1


def test_script_nobody_depends_on() -> None:
    """It never runs, nor does one on which only such a script depends."""
    stage = Stage(prompt("web") + setup("unused", deps="base") + setup("base"), "main")
    stage.advance(SETTLED)
    assert stage.states("unused", "base") == [IDLE, IDLE]


def test_script_only_for_those_who_start() -> None:
    """A dependent that is not started itself makes nothing run."""
    stage = Stage(prompt("web") + prompt("spare", deps="setup", autostart="false") + setup())
    assert stage.starts == ["web"]


def test_autostart_only_as_a_dependency() -> None:
    """`autostart = false` is started where something needs it, and else not."""
    text = prompt("db", autostart="false") + prompt("cache", autostart="false", deps="disk") + prompt("disk", autostart="false")
    stage = Stage(text + prompt("web", deps="cache"))
    assert stage.starts == ["disk", "cache", "web"]
    assert stage.state("db") == IDLE


def test_one_run_serves_all() -> None:
    """One run serves all who wait for the same `ok`, and whoever comes later."""
    text = "".join(prompt(f"web-{n}", deps="setup") for n in range(5)) + prompt("late", deps="other") + setup()
    stage = Stage(text + setup("other", deps="setup"))
    assert stage.living() == ["setup"]
    stage.exit("setup")
    stage.exit("other")
    stage.exit("web-1", 1)
    assert stage.starts.count("setup") == 1
    assert stage.states("late", "web-1") == [OK, OK]


def test_script_with_dependencies() -> None:
    """A script waits for what it depends on."""
    stage = Stage(prompt("web", deps="migrate") + setup("migrate", deps="db, mkdir") + daemon("db", "x") + setup("mkdir"))
    assert stage.starts == ["db"]
    stage.advance(1.0)
    stage.exit("mkdir")
    stage.exit("migrate")
    assert stage.starts == ["db", "mkdir", "migrate", "web"]


def test_always_runs_before_every_start() -> None:
    """Restarts, bounces and age included."""
    text = prompt("web", deps="setup:always, db:bounce", max_age="1h") + prompt("db") + setup()
    stage = Stage(text, boot=False)
    stage.tempers["setup"] = QUICK
    stage.boot()
    stage.advance(1.0)
    assert stage.starts == ["db", "setup", "web"]
    assert starts_since(stage, lambda: stage.exit("web", 1)) == ["setup", "web"]
    assert starts_since(stage, lambda: stage.exit("db", 1)) == ["db", "setup", "web"]
    assert starts_since(stage, lambda: stage.advance(3600)) == ["setup", "web"]


def test_always_one_run_for_each() -> None:
    """For dependents that start at the same time it is one run each, one after the other."""
    stage = Stage("".join(prompt(f"web-{n}", deps="setup:always") for n in range(4)) + setup())
    for count in range(4):
        assert sorted(stage.living()) == sorted(["setup", *(f"web-{n}" for n in range(count))])
        stage.exit("setup")
    assert stage.starts == ["setup", "web-0", "setup", "web-1", "setup", "web-2", "setup", "web-3"]


def test_always_beside_ok() -> None:
    """A run for one dependent is a success for all who need one; a run for those is none for it."""
    stage = Stage(prompt("a", deps="setup:ok") + prompt("b", deps="setup:always") + setup())
    stage.exit("setup")
    assert stage.states("a", "b") == [OK, WAITING]
    stage.exit("setup")
    assert stage.state("b") == OK
    stage = Stage(prompt("a", deps="setup:always") + prompt("b", deps="setup:ok") + setup())
    stage.exit("setup")
    assert stage.states("a", "b") == [OK, OK]
    assert stage.starts.count("setup") == 1


@pytest.mark.parametrize("runs", [1, 4])
def test_always_fails(runs: int) -> None:
    """It is a failed start of the dependent, with its `respawns`: as many runs as starts, no more."""
    stage = Stage(prompt("web", deps="setup:always", respawns=runs - 1, on_failure="ignore") + prompt("db") + setup(), boot=False)
    stage.tempers["setup"] = FAILING
    stage.boot()
    stage.advance(SETTLED)
    assert stage.starts == ["db", *runs * ["setup"]]
    assert stage.state("web") == FAILED
    assert re.match(r"failed: cannot start: script setup failed: pid \d+ exited with code 3", stage.text_of("web")[-1])
    assert stage.code is None


def test_always_fails_with_backoff() -> None:
    """Before each further run goes the back-off of the dependent."""
    stage = Stage(prompt("web", deps="setup:always", backoff="2s..8s") + setup())
    instants = []
    for _ in range(4):
        instants.append(stage.now)
        stage.exit("setup", 1)
        while stage.state("setup") != RUNNING:
            stage.advance(0.5)
    assert [b - a for a, b in zip(instants, instants[1:])] == pytest.approx([0.5, 2.0, 4.0], abs=0.6)


def test_always_run_belongs_to_its_start() -> None:
    """A start never uses a run that was begun before it: each gets one of its own."""
    stage = Stage(prompt("web", deps="setup:always", backoff="5s") + setup())
    stage.exit("setup", 1)
    stage.exit("setup", 1)
    assert (stage.state("web"), stage.living()) == (BACKOFF, [])
    stage.advance(5.0)
    assert (stage.state("web"), stage.living()) == (WAITING, ["setup"])
    stage.exit("setup")
    assert stage.starts == ["setup", "setup", "setup", "web"]


@pytest.mark.parametrize(("options", "code"), [({}, None), ({"on_failure": "ignore"}, None), ({"on_failure": "shutdown"}, 3)])
def test_always_and_its_own_on_failure(options: dict[str, object], code: int | None) -> None:
    """The script's own `on_failure` applies only if it is set."""
    stage = Stage(prompt("web", deps="setup:always", backoff="60s") + setup(**options))
    stage.exit("setup", 3)
    stage.advance(1.0)
    assert stage.code == code


def test_always_script_with_respawns() -> None:
    """The script's own restarts come first, and are one run for the dependent."""
    stage = Stage(prompt("web", deps="setup:always") + setup(respawns=1, backoff="0"))
    stage.exit("setup", 1)
    assert stage.state("web") == WAITING
    stage.exit("setup", 0)
    assert stage.starts == ["setup", "setup", "web"]


def test_always_nested_and_shut_down() -> None:
    """Scripts before scripts: where the innermost ends it all, everything just stops."""
    text = prompt("web", deps="outer:always") + setup("outer", deps="inner:always") + setup("inner", on_failure="shutdown")
    stage = Stage(text)
    stage.exit("inner", 4)
    assert stage.code == 4
    assert stage.states("outer", "web") == [STOPPED, STOPPED]


def test_ok_script_failed_for_good() -> None:
    """Who needs it waits, and nobody runs it again."""
    stage = Stage(prompt("web", deps="setup") + prompt("db") + prompt("late", deps="db, setup") + setup(on_failure="ignore"))
    stage.exit("setup", 1)
    stage.exit("db", 1)
    stage.advance(SETTLED)
    assert stage.states("web", "late", "setup") == [WAITING, WAITING, FAILED]
    assert stage.starts.count("setup") == 1


# --- order alone, and ends -------------------------------------------------------------------------------------------


def test_started_is_order_alone() -> None:
    """It starts right after the other, which need not be up, and stops after this one."""
    stage = Stage(prompt("web", deps="db:started") + daemon("db", "x", warmup="1h"))
    assert stage.starts == ["db", "web"]
    assert stage.states("db", "web") == [STARTING, OK]
    assert starts_since(stage, lambda: stage.exit("db", 1), 1.0) == ["db"]
    stage.request()
    assert [kill[1] for kill in stage.kills] == ["web", "db"]


def test_started_waits_for_the_others_turn() -> None:
    """What the other waits for, this one waits for too."""
    stage = Stage(prompt("c", deps="b:started") + prompt("b", deps="a") + daemon("a", "x", warmup="5s"))
    assert (stage.starts, stage.explain("c")) == (["a"], "for b:started")
    stage.advance(5.0)
    assert stage.starts == ["a", "b", "c"]


@pytest.mark.parametrize(
    "other",
    [
        prompt("db", autostart="false"),  # nobody wants it
        prompt("db", deps="setup") + setup(on_failure="ignore"),  # it waits for what has ended for good
        prompt("db", deps="setup:always", respawns=0, on_failure="ignore") + setup(),  # it has failed itself
        prompt("db", deps="setup:always", backoff="1h..1h") + setup(),  # its start has failed, and will be tried again
    ],
    ids=("unwanted", "in vain", "failed", "failing"),
)
def test_started_does_not_wait_for_what_does_not_start(other: str) -> None:
    """It is not started for it, either."""
    stage = Stage(prompt("web", deps="db:started") + other, boot=False)
    stage.tempers["setup"] = FAILING
    stage.boot()
    stage.advance(SETTLED)
    assert stage.state("web") == OK
    assert "db" not in stage.starts


def test_started_after_what_another_wants() -> None:
    """Somebody may have the other started only a moment later, in the same breath."""
    text = prompt("web", deps="db:started") + prompt("db", autostart="false") + prompt("app", deps="db")
    assert Stage(text).starts == ["db", "web", "app"]


def test_started_does_not_hang_on_itself() -> None:
    """The other will be wanted only by what needs this one first."""
    text = prompt("web", deps="db:started") + prompt("db", autostart="false") + prompt("app", deps="web, db")
    stage = Stage(text)
    assert sorted(stage.starts) == ["app", "db", "web"]


def test_started_and_restarts() -> None:
    """Neither the other's restarts nor its end hold up this one's."""
    stage = Stage(prompt("web", deps="db:started") + prompt("db", backoff="1h", restart="on-failure", on_failure="ignore"))
    for _ in range(2):
        stage.exit("db", 1)
    assert stage.state("db") == BACKOFF
    assert starts_since(stage, lambda: stage.exit("web", 1), 1.0) == ["web"]
    stage.stop("db")
    assert starts_since(stage, lambda: stage.exit("web", 1), 1.0) == ["web"]


def test_started_by_hand() -> None:
    """By hand the order holds too, but starts nothing that was not named."""
    stage = Stage(prompt("web", deps="db:started") + prompt("db"))
    stage.stop("db", "web")
    stage.advance(1.0)
    assert starts_since(stage, lambda: stage.start("web")) == ["web"]
    stage.stop("web")
    stage.advance(1.0)
    assert starts_since(stage, lambda: stage.start("web", "db")) == ["db", "web"]


@pytest.mark.parametrize("code", [0, 3])
def test_ended(code: int) -> None:
    """It has run to its end, whatever came of it; once."""
    stage = Stage(prompt("web", deps="setup:ended") + prompt("late", deps="setup:ended") + setup())
    assert stage.states("web", "late") == [WAITING, WAITING]
    stage.exit("setup", code)
    assert (stage.states("web", "late"), stage.code) == ([OK, OK], None)
    assert starts_since(stage, lambda: stage.exit("web", 1)) == ["web"]


def test_ended_after_its_restarts() -> None:
    """A run that is tried again has not ended."""
    stage = Stage(prompt("web", deps="setup:ended") + setup(respawns=1, backoff="0"))
    stage.exit("setup", 1)
    assert stage.states("setup", "web") == [RUNNING, WAITING]
    stage.exit("setup", 1)
    assert stage.states("setup", "web") == [FAILED, OK]


@pytest.mark.parametrize(
    ("options", "more", "code"),
    [
        ({}, "", None),
        ({"on_failure": "ignore"}, "", None),
        ({"on_failure": "shutdown"}, "", 3),
        ({}, prompt("needs", deps="setup"), 3),
    ],
    ids=("unset", "ignore", "shutdown", "another needs its success"),
)
def test_ended_and_its_own_on_failure(options: dict[str, object], more: str, code: int | None) -> None:
    """The script's own `on_failure` applies only if it is set, unless something needs its success."""
    stage = Stage(prompt("web", deps="setup:ended") + setup(**options) + more)
    stage.exit("setup", 3)
    assert stage.code == code


def test_waiting_in_a_reload() -> None:
    """While a reload stops something else, a unit that waits still says for what."""
    rest = daemon("db", "x", warmup="1h")
    stage = Stage(prompt("web", deps="db") + rest + prompt("old"), boot=False)
    stage.tempers["old"] = STUBBORN
    stage.boot()
    stage.reload(prompt("web", deps="db", stop_timeout="1s") + rest)
    stage.advance(1.0)
    assert (stage.state("old"), stage.explain("web")) == (STOPPING, "for db:ok")


def test_run_dry_and_stay() -> None:
    """`when_idle = stay`: it says so once, and waits for a person; a reload may end that."""
    text = prompt("a", restart="never", on_failure="ignore") + prompt("b", autostart="false", restart="never")
    stage = Stage(settings(when_idle="stay") + text)
    for _ in range(2):
        stage.exit("a", 3)
        stage.advance(SETTLED)
        assert stage.code is None
        assert stage.text_of("")[-1].startswith("nothing is left to run")
        stage.start("a")
    stage.exit("a", 3)
    stage.stop("b")
    assert len([text for text in stage.text_of("") if "nothing is left" in text]) == 3
    stage.reload(settings(when_idle="exit") + text)
    assert stage.code == 3


def test_dependency_down_at_a_restart() -> None:
    """It is waited for; `ok` does not restart who runs."""
    stage = Stage(prompt("web", deps="db") + prompt("db", backoff="5s"))
    stage.exit("db", 1)
    stage.exit("db", 1)
    assert stage.states("db", "web") == [BACKOFF, OK]
    stage.exit("web", 1)
    assert stage.state("web") == WAITING
    stage.advance(5.0)
    assert stage.starts == ["db", "web", "db", "db", "web"]


def test_dependency_ended_for_good() -> None:
    """It leaves the unit waiting, and the status names it."""
    stage = Stage(prompt("web", deps="db") + daemon("db", "x", restart="never", on_failure="ignore") + prompt("other"))
    stage.exit("db", 1)
    stage.advance(SETTLED)
    assert (stage.state("web"), stage.explain("web")) == (WAITING, "for db:ok, and db is failed")


def test_deps_of_an_other_kind_of_order() -> None:
    """The order of the file is no matter."""
    names = [f"d{n}" for n in range(30)]
    sections = [prompt(name, deps=names[at - 1]) if at else prompt(name) for at, name in enumerate(names)]
    random.Random(1).shuffle(sections)
    assert Stage("".join(sections)).starts == names


# --- everything is up ---------------------------------------------------------------------------------------------------


def ups(stage: Stage) -> list[str]:
    """Return the lines that say that everything is up."""
    return [text for _, _, text in stage.said if text.startswith("everything is up")]


def test_everything_is_up() -> None:
    """When it is, one line says so, with the time it took and the slowest link; once."""
    text = daemon("c", "x", deps="b, setup") + daemon("b", "x", deps="a", warmup="5s") + daemon("a", "x") + setup()
    stage = Stage(text + prompt("spare", autostart="false"), boot=False)
    stage.tempers["setup"] = QUICK
    stage.boot()
    stage.advance(7.0)
    assert ups(stage) == []
    stage.advance(0.2)
    (line,) = ups(stage)
    assert re.search(r"\b7\.1 s\b.*\bb\b.*\b5 s\b", line)
    stage.exit("a", 1)
    stage.advance(SETTLED)
    assert ups(stage) == [line]


def test_not_everything_is_up() -> None:
    """While one is missing, nothing claims so."""
    stage = Stage(daemon("a", "x", restart="never", on_failure="ignore") + prompt("b", deps="a") + prompt("c"))
    stage.exit("a", 1)
    stage.advance(SETTLED)
    assert ups(stage) == []


# --- the main command ------------------------------------------------------------------------------------------------


def test_main_command_waits_for_every_daemon() -> None:
    """It is started once every wanted daemon is OK."""
    stage = Stage(daemon("a", "x", warmup="2s") + daemon("b", "x", warmup="3s") + prompt("spare", autostart="false"), "main")
    stage.advance(2.9)
    assert MAIN not in stage.starts
    stage.advance(0.2)
    assert stage.starts == ["a", "b", MAIN]


def test_main_command_waits_for_what_is_needed() -> None:
    """A daemon without autostart counts once it is wanted."""
    stage = Stage(prompt("web", deps="db") + daemon("db", "x", autostart="false", warmup="3s"), "main")
    assert stage.starts == ["db"]
    stage.advance(3.0)
    assert stage.starts == ["db", "web", MAIN]


def test_main_command_goes_without_the_lost() -> None:
    """A daemon that has ended for good with `ignore` is not waited for."""
    text = daemon("a", "x", warmup="5s", restart="never", on_failure="ignore") + daemon("b", "x", warmup="1s")
    stage = Stage(text, "main")
    stage.advance(1.5)
    stage.exit("a", 1)
    assert stage.state(MAIN) == RUNNING


def test_main_command_says_for_whom_it_waits() -> None:
    """A line every 10 s."""
    stage = Stage(daemon("a", "x", warmup="35s"), "main")
    stage.advance(34.0)
    assert [text for _, _, text in stage.said if "waits for a:ok" in text] == 3 * ["main command waits for a:ok"]


def test_main_command_alone() -> None:
    """A drop-in for tini: started at once, its code is the exit code, and nothing is said when it ends by itself."""
    stage = Stage("", "main")
    stage.exit(MAIN, 5)
    assert stage.code == 5
    assert stage.fleet.ending.quiet


@pytest.mark.parametrize(("code", "expected"), [(0, 0), (5, 5), (-9, 137), (-15, 143)])
def test_main_command_ends_it_all(code: int, expected: int) -> None:
    """When it ends, everything else is shut down, and its code is the exit code."""
    stage = Stage(prompt("web"), "main")
    stage.exit(MAIN, code)
    assert stage.code == expected
    assert stage.state("web") == STOPPED


# --- bounce waves ----------------------------------------------------------------------------------------------------


def bounce_stage(edges: dict[str, str], names: str = "", **options: object) -> Stage:
    """Return a stage of prompt daemons that bounce with one another: {"b": "a"} is b with `deps = a:bounce`."""
    text = ""
    for name in dict.fromkeys([*names, *"".join(edges.values()), *edges]):
        deps = ", ".join(f"{dep}:bounce" for dep in edges.get(name, ""))
        text += prompt(name, **{**options, **({"deps": deps} if deps else {})})
    stage = Stage(text)
    stage.advance(SETTLED)
    return stage


@pytest.mark.parametrize(
    ("edges", "restarted"),
    [
        ({"b": "a"}, "ab"),
        ({"b": "a", "c": "b", "d": "c"}, "abcd"),
        ({"b": "a", "c": "a", "d": "bc"}, "abcd"),
        ({"b": "a", "c": "ab", "d": "abc", "e": "abcd"}, "abcde"),
        ({"b": "a", "c": "a", "d": "b", "e": "cd"}, "abcde"),
        ({"b": "a", "d": "c", "e": "bd"}, "abe"),
        ({"b": "a", "c": "b", "d": "c", "e": "ad"}, "abcde"),
    ],
    ids=["pair", "chain", "diamond", "all-to-all", "uneven-diamond", "two-roots", "short-cut"],
)
@pytest.mark.parametrize("warmup", ["0", "1s"])
def test_wave(edges: dict[str, str], restarted: str, warmup: str) -> None:
    """Each is restarted exactly once, in dependency order, and runs until all above it are back."""
    stage = bounce_stage(edges, warmup=warmup)
    stage.said.clear()
    again = starts_since(stage, lambda: stage.exit("a", 1))
    assert "".join(sorted(again)) == restarted
    assert all(again.index(dep) < again.index(name) for name in again for dep in edges.get(name, "") if dep in again)
    assert set(stage.states()) == {OK}
    said = [f"{name} {text.split()[0]}" for _, name, text in stage.said]
    for name in restarted[1:]:
        assert all(said.index(f"{dep} ok") < said.index(f"{name} stopping") for dep in edges[name] if dep in again), said


def test_wave_of_any_speed() -> None:
    """Random graphs in which each takes its own time to stop and to get OK: once each, after all above it."""
    rng = random.Random(2)
    for _ in range(60):
        names = "abcdefghij"[: rng.randint(2, 10)]
        edges = {name: "".join(rng.sample(names[:at], rng.randint(0, min(at, 3)))) for at, name in enumerate(names)}
        text = ""
        for name in names:
            deps = {"deps": ", ".join(f"{dep}:bounce" for dep in edges[name])} if edges[name] else {}
            text += prompt(name, warmup=f"{rng.randint(0, 3000)}ms", **deps)
        stage = Stage(text, boot=False)
        stage.tempers = {name: Temper(patience=rng.uniform(0, 5)) for name in names}
        stage.boot()
        stage.advance(SETTLED)
        root = rng.choice(names)
        below = {root}
        for name in names:
            below |= {name} if below & set(edges[name]) else set()
        count = len(stage.starts)
        stage.exit(root, 1)
        stage.advance(SETTLED)
        again = stage.starts[count:]
        assert sorted(again) == sorted(below), (edges, root)
        assert all(again.index(dep) < again.index(name) for name in again for dep in edges[name] if dep in below)


def test_wave_waits_for_its_ancestors() -> None:
    """The last of a diamond keeps running until both of its ancestors are back, then goes once."""
    stage = bounce_stage({"b": "a", "c": "a", "d": "bc"})
    stage.tempers = {"c": Temper(patience=3.0)}
    stage.current["c"].temper = Temper(patience=3.0)
    stage.exit("a", 1)
    assert stage.states("b", "c", "d") == [OK, STOPPING, OK]
    assert stage.starts[-2:] == ["a", "b"]
    stage.advance(3.0)
    assert stage.starts[-4:] == ["a", "b", "c", "d"]


def test_wave_only_when_ok_again() -> None:
    """Who bounces keeps running until the daemon is OK again."""
    stage = bounce_stage({"b": "a"}, warmup="5s")
    stage.exit("a", 1)
    stage.advance(4.9)
    assert stage.states("a", "b") == [STARTING, OK]
    stage.advance(0.2)
    assert stage.states("a", "b") == [OK, STARTING]


def test_no_wave_at_the_first_start() -> None:
    """Starting is no restart: a bounce dependency is met as `ok` is."""
    stage = bounce_stage({"b": "a", "c": "ab"}, warmup="1s")
    assert stage.starts == ["a", "b", "c"]


def test_wave_for_any_reason() -> None:
    """Age makes a wave as a crash does."""
    stage = Stage(prompt("a", max_age="1h") + prompt("b", deps="a:bounce"))
    stage.advance(3601.0)
    assert stage.starts == ["a", "b", "a", "b"]


def test_ancestor_crashes_again_in_the_middle() -> None:
    """Who has not had its turn yet is restarted once for both; who had it, once more."""
    stage = bounce_stage({"b": "a", "c": "b"}, warmup="2s")
    count = len(stage.starts)
    stage.exit("a", 1)
    stage.advance(2.0)
    assert stage.states("a", "b", "c") == [OK, STARTING, OK]
    stage.exit("a", 1)
    stage.advance(SETTLED)
    assert stage.starts[count:] == ["a", "b", "a", "b", "c"]


def test_the_restarted_crashes_in_the_wave() -> None:
    """A crash while the wave goes on is one restart, not two."""
    stage = bounce_stage({"b": "a", "c": "ab"}, warmup="2s")
    count = len(stage.starts)
    stage.exit("a", 1)
    stage.advance(1.0)
    stage.exit("b", 1)
    stage.exit("c", 1)
    assert stage.states("a", "b", "c") == [STARTING, WAITING, WAITING]
    stage.advance(SETTLED)
    assert stage.starts[count:] == ["a", "b", "c"]


def test_a_crash_below_waits_for_the_wave() -> None:
    """A unit whose own daemon is up waits while that one's ancestor is down: it would be restarted anyway."""
    stage = bounce_stage({"b": "a", "c": "b"}, warmup="2s")
    count = len(stage.starts)
    stage.exit("a", 1)
    stage.exit("c", 1)
    assert stage.states("a", "b", "c") == [STARTING, OK, WAITING]
    stage.advance(SETTLED)
    assert stage.starts[count:] == ["a", "b", "c"]


@pytest.mark.parametrize("options", [{"restart": "never"}, {"respawns": 0}])
def test_ancestor_failed_for_good_blocks_nobody(options: dict[str, object]) -> None:
    """A wave goes past it."""
    text = prompt("a") + prompt("b", deps="a:bounce") + prompt("lost", on_failure="ignore", **options)
    stage = Stage(text + prompt("c", deps="b:bounce, lost:bounce") + prompt("d", deps="b:bounce"))
    stage.exit("lost", 1)
    assert stage.states("lost", "c") == [FAILED, OK]
    again = starts_since(stage, lambda: stage.exit("a", 1))
    assert again[:2] == ["a", "b"]
    assert again.count("d") == 1
    assert stage.states("a", "b", "d") == [OK, OK, OK]


def test_ancestor_that_waits_for_the_lost_blocks_nobody() -> None:
    """Nor does one that waits for such a one: it will never come."""
    text = prompt("lost", on_failure="ignore", restart="never") + prompt("a", deps="lost") + prompt("x")
    stage = Stage(text + prompt("b", deps="x:bounce, a:bounce") + prompt("c", deps="b:bounce"))
    stage.exit("lost", 1)
    stage.exit("a", 1)
    assert stage.state("a") == WAITING
    stage.exit("c", 1)
    assert stage.state("c") == OK


def test_two_crashes_at_once() -> None:
    """Two roots that go down in the same instant are one wave for who needs both."""
    stage = bounce_stage({"c": "ab", "d": "c"}, warmup="1s")
    count = len(stage.starts)
    stage.die("a", 1)
    stage.die("b", 1)
    stage.settle()
    stage.advance(SETTLED)
    assert sorted(stage.starts[count:]) == list("abcd")


def test_bounce_and_ok_mixed() -> None:
    """`ok` passes no wave on."""
    stage = Stage(prompt("a") + prompt("b", deps="a:ok") + prompt("c", deps="b:bounce") + prompt("d", deps="a:bounce, b:ok"))
    assert starts_since(stage, lambda: stage.exit("a", 1)) == ["a", "d"]
    assert starts_since(stage, lambda: stage.exit("b", 1)) == ["b", "c"]


def test_bounced_in_warmup() -> None:
    """A dependent that was started against the process before is restarted, though it is not OK yet."""
    stage = Stage(prompt("a") + prompt("b", deps="a:bounce", warmup="60s"))
    assert starts_since(stage, lambda: stage.exit("a", 1), 1.0) == ["a", "b"]


def test_bounced_before_its_process_is_made() -> None:
    """What has no process yet will meet the new one anyway."""
    stage = Stage(prompt("a") + prompt("b", deps="a:bounce"))
    stage.no_fork = {"b"}
    stage.exit("b", 1)
    stage.exit("a", 1)
    stage.no_fork = set()
    assert starts_since(stage, lambda: None) == ["b"]


def test_no_wave_in_a_shutdown() -> None:
    """A daemon that gets OK while everything stops restarts nobody, and nobody is stopped before its dependents."""
    text = prompt("a", warmup="2s") + prompt("b", deps="a:bounce") + prompt("c", deps="b:ok")
    stage = Stage(text, boot=False)
    stage.tempers["c"] = Temper(patience=2.0)
    stage.boot()
    stage.advance(SETTLED)
    stage.exit("a", 1)
    stage.advance(1.0)
    stage.request()
    stage.advance(SETTLED)
    assert [name for _, name, _, _ in stage.kills] == ["c", "b", "a"]


# --- ends and exit codes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "expected"), [(3, 3), (-9, 137), (-15, 143), (255, 255)])
def test_final_failure(code: int, expected: int) -> None:
    """It shuts the container down with that unit's code, and says whose."""
    stage = Stage(prompt("web", restart="never") + prompt("db"))
    stage.exit("web", code)
    assert stage.code == expected
    assert stage.why.startswith("web failed: ")
    assert stage.state("db") == STOPPED


def test_final_failure_with_0() -> None:
    """A daemon that ended before it was OK counts as 1 where its code is 0."""
    stage = Stage(daemon("web", "x", restart="never"))
    stage.exit("web", 0)
    assert stage.code == 1


def test_never_could_start() -> None:
    """A unit that never could start is 1."""
    stage = Stage(prompt("web", restart="never") + prompt("db"))
    stage.exit("db", 0)
    stage = Stage(prompt("web", restart="never", deps="setup:always") + setup())
    stage.exit("setup", 7)
    assert stage.code == 1


def test_on_failure_ignore() -> None:
    """The others go on."""
    stage = Stage(prompt("web", restart="never", on_failure="ignore") + prompt("db"))
    stage.exit("web", 3)
    stage.advance(SETTLED)
    assert (stage.code, stage.state("db")) == (None, OK)


@pytest.mark.parametrize(("options", "state", "code"), [({}, OK, None), ({"on_success": "shutdown"}, STOPPED, 0)])
def test_on_success(options: dict[str, object], state: str, code: int | None) -> None:
    """A final success is ignored, unless `on_success` says otherwise; then the code is 0, whatever it ended with."""
    stage = Stage(prompt("web", restart="never", success="7", **options) + prompt("db"))
    stage.exit("web", 7)
    assert (stage.state("web"), stage.state("db"), stage.code) == (DONE, state, code)


def test_on_success_of_a_script() -> None:
    """It has succeeded: that is its end for good."""
    stage = Stage(prompt("web", deps="setup") + setup(on_success="shutdown"))
    stage.exit("setup")
    assert stage.code == 0
    assert "web" not in stage.starts


def test_script_fails() -> None:
    """A script's final failure shuts the container down as a daemon's does."""
    stage = Stage(prompt("web", deps="setup") + setup())
    stage.exit("setup", 9)
    assert stage.code == 9


@pytest.mark.parametrize(("ends", "code"), [((0, 0), 0), ((3, 0), 3), ((0, 3), 3), ((3, 4), 3), ((-9, 4), 137)], ids=str)
def test_run_dry(ends: tuple[int, int], code: int) -> None:
    """When nothing can ever run again it says so and exits: with the code of the first that failed for good."""
    stage = Stage("".join(prompt(name, restart="never", on_failure="ignore") for name in "ab") + prompt("c", autostart="false"))
    stage.exit("a", ends[0])
    assert stage.code is None
    stage.exit("b", ends[1])
    assert stage.code == code
    assert stage.why.startswith("nothing is left to run")


def test_run_dry_names_who_waits() -> None:
    """Units that wait for what will never come keep nothing up, and are named."""
    text = prompt("a", restart="never", on_failure="ignore") + prompt("b", deps="a") + prompt("c", deps="b")
    stage = Stage(text)
    for name in "abc":
        stage.exit(name, 3)
    assert (stage.code, stage.states("a", "b", "c")) == (3, [FAILED, STOPPED, STOPPED])
    assert "b waits for a:ok" in stage.why


def test_run_dry_at_once() -> None:
    """There is nothing to start at all."""
    stage = Stage(prompt("a", autostart="false") + setup())
    assert (stage.code, stage.why) == (0, "nothing is left to run")
    assert Stage("").code == 0


def test_not_dry_while_in_backoff() -> None:
    """What will be restarted is not the end."""
    stage = Stage(prompt("a", backoff="60s"))
    stage.exit("a", 1)
    stage.exit("a", 1)
    assert (stage.state("a"), stage.code) == (BACKOFF, None)


@pytest.mark.parametrize("number", [TERM, INT])
def test_requested_stop_is_0(number: int) -> None:
    """After a requested stop the code is 0, however the daemons end."""
    stage = Stage(prompt("a") + prompt("b"))
    stage.tempers["a"] = Temper(farewell=5)
    stage.request(number)
    assert stage.code == 0
    assert stage.why == f"{overlord.spell_signal(number)} received"


def test_requested_stop_after_a_failure() -> None:
    """An earlier failure that was ignored is forgotten."""
    stage = Stage(prompt("a", restart="never", on_failure="ignore") + prompt("b"))
    stage.exit("a", 3)
    stage.request()
    assert stage.code == 0


def test_requested_stop_with_a_main_command() -> None:
    """The main command's own code goes before."""
    stage = Stage(prompt("a"), "main")
    stage.request()
    assert stage.code == 143
    stage = Stage(prompt("a"), "main", boot=False)
    stage.tempers[MAIN] = Temper(farewell=0)
    stage.boot()
    stage.request()
    assert stage.code == 0


def test_requested_stop_before_the_main_command() -> None:
    """A main command that never ran has no code."""
    stage = Stage(daemon("a", "x"), "main")
    stage.request()
    assert (stage.code, stage.starts) == (0, ["a"])


def test_requested_stop_when_the_main_command_could_not_be_made() -> None:
    """Nor has one for which the fork failed."""
    stage = Stage(prompt("a"), "main", boot=False)
    stage.no_fork = {MAIN}
    stage.boot()
    stage.request()
    assert stage.code == 0


def test_unit_failure_beside_a_main_command() -> None:
    """A daemon's failure ends it all; the main command's code goes before that daemon's."""
    stage = Stage(prompt("a", restart="never"), "main", boot=False)
    stage.tempers[MAIN] = Temper(farewell=6)
    stage.boot()
    stage.exit("a", 3)
    assert stage.code == 6


def test_unit_failure_before_the_main_command() -> None:
    """Where that never ran, it is the daemon's."""
    stage = Stage(daemon("a", "x", restart="never"), "main")
    stage.exit("a", 3)
    assert stage.code == 3


def test_unit_failure_with_a_main_command_that_cannot_be_killed() -> None:
    """Where the main command has not ended, not even by SIGKILL, its code is not known: it is the daemon's."""
    stage = Stage(prompt("a", restart="never"), "main", boot=False)
    stage.tempers[MAIN] = Temper(patience=None, grip=None)
    stage.boot()
    stage.exit("a", 3)
    stage.advance(SETTLED)
    assert stage.code == 3


# --- shutdown --------------------------------------------------------------------------------------------------------


def test_reverse_order() -> None:
    """Each is stopped when all that depends on it is gone; what is independent at the same time."""
    text = daemon("web", "x", deps="app, cache") + daemon("app", "x", deps="db") + daemon("cache", "x", deps="db")
    stage = Stage(text + daemon("db", "x") + daemon("other", "x"), boot=False)
    stage.tempers = {name: Temper(patience=0.5) for name in stage.config.order}
    stage.boot()
    stage.advance(SETTLED)
    asked = stage.now
    stage.request()
    stage.advance(10.0)
    when = {name: at - asked for at, name, _, _ in stage.kills}
    assert when == pytest.approx({"web": 0.0, "other": 0.0, "app": 0.5, "cache": 0.5, "db": 1.0})
    assert stage.exited_at - asked == pytest.approx(1.5)


def test_order_over_finished_scripts() -> None:
    """A script that has done its work passes the order on: its dependents come after its own dependencies."""
    stage = Stage(prompt("web", deps="migrate") + setup("migrate", deps="db") + prompt("db"), boot=False)
    stage.tempers = {"migrate": QUICK, "web": Temper(patience=2.0)}
    stage.boot()
    stage.advance(1.0)
    stage.request()
    assert stage.states("web", "db") == [STOPPING, OK]
    stage.advance(2.0)
    assert [name for _, name, _, _ in stage.kills] == ["web", "db"]
    assert stage.code == 0


def test_order_over_units_that_are_down() -> None:
    """So does a daemon that is waiting or in back-off."""
    text = prompt("web", deps="app") + prompt("app", deps="db", backoff="60s") + prompt("db")
    stage = Stage(text, boot=False)
    stage.tempers["web"] = Temper(patience=2.0)
    stage.boot()
    stage.exit("app", 1)
    stage.exit("app", 1)
    stage.request()
    assert stage.states("web", "app", "db") == [STOPPING, BACKOFF, OK]
    stage.advance(2.0)
    assert stage.states("web", "app", "db") == [STOPPED, STOPPED, STOPPED]


def test_main_command_stops_first() -> None:
    """It has its share of the time before the daemons' turn, and gets the very signal that asked."""
    stage = Stage(prompt("web"), "main", boot=False)
    stage.tempers[MAIN] = Temper(patience=1.0)
    stage.boot()
    stage.request(QUIT)
    assert stage.kills == [(stage.now, MAIN, QUIT, False)]
    stage.advance(1.0)
    assert stage.kills[1:] == [(stage.now, "web", TERM, False)]


@pytest.mark.parametrize(("asked", "sent"), [(TERM, TERM), (INT, INT), (37, TERM)])
def test_signal_of_the_main_command(asked: int, sent: int) -> None:
    """Beside a daemon RTMIN+3 reaches it as TERM."""
    stage = Stage(prompt("web"), "main")
    stage.request(asked)
    assert stage.kills[0][1:3] == (MAIN, sent)
    assert stage.code == 128 + sent


@pytest.mark.parametrize("total", ["9s", "300ms"])
def test_main_command_alone_has_no_deadline(total: str) -> None:
    """Every signal is for it alone, and how long it takes is the platform's affair."""
    stage = Stage(settings(shutdown_timeout=total), "main", boot=False)
    stage.tempers[MAIN] = Temper(patience=3600.0, farewell=7)
    stage.boot()
    asked = stage.now
    for number in (37, TERM, INT, INT, TERM, QUIT):
        stage.request(number)
    stage.advance(7200.0)
    assert [number for _, number in stage.relayed] == [37, TERM, INT, INT, TERM, QUIT]
    assert (stage.code, stage.exited_at) == (7, asked + 3600.0)
    assert stage.kills == []
    assert stage.fleet.ending.quiet


@pytest.mark.parametrize("after", [0.0, 5.0, 3600.0])
@pytest.mark.parametrize("by_hand", [False, True])
def test_what_a_main_command_alone_leaves(after: float, by_hand: bool) -> None:
    """It has what remains of the time since somebody asked, and a second at least; then it is killed, and named."""
    stage = Stage("", "main", boot=False)
    stage.tempers[MAIN] = Temper(patience=after, farewell=3, workers=(Worker(patience=None),))
    stage.boot()
    asked = stage.now
    if by_hand:
        stage.fleet.ask_shutdown("shutdown by hand", stage.now, code=5)
        stage.settle()
    else:
        stage.request()
    stage.advance(after)
    assert stage.code is None
    stage.advance(20.0)
    assert stage.code == (5 if by_hand else 3)
    killed = [at - asked for at, _, signum, group in stage.kills if signum == KILL and group]
    assert killed == [pytest.approx(max(8.0, after + 1.0))]


def test_what_a_main_command_leaves_by_itself() -> None:
    """Nobody asked: it is asked to end when the command has ended, and has the whole time. The daemons come after it."""
    for config, time in (("", 8.0), (prompt("web"), 6.0)):
        stage = Stage(config, "main", boot=False)
        stage.tempers[MAIN] = Temper(workers=(Worker(patience=None), Worker(patience=0.5)))
        stage.boot()
        stage.advance(60.0)
        ended = stage.now
        stage.exit(MAIN, 4)
        assert stage.kills == [(ended, MAIN, TERM, True)]
        stage.advance(20.0)
        assert stage.kills[1] == (pytest.approx(ended + time), MAIN, KILL, True)
        assert [kill[1] for kill in stage.kills[2:]] == (["web"] if config else [])
        assert stage.code == 4


@pytest.mark.parametrize("count", [1, 2])
def test_no_max_age_in_a_shutdown(count: int) -> None:
    """While the main command takes its time, nothing that it needs is stopped for its age."""
    stage = Stage(settings(shutdown_timeout="61s") + prompt("a", max_age="10s", count=count), "main", boot=False)
    stage.tempers[MAIN] = Temper(patience=30.0)
    stage.boot()
    asked = stage.now
    stage.request()
    stage.advance(60.0)
    names = ["a-1", "a-2"][:count]
    assert [(at - asked, name) for at, name, _, _ in stage.kills] == [(0.0, MAIN), *((30.0, name) for name in names)]


def test_share_of_the_main_command() -> None:
    """Three quarters of what a shutdown has, however long that is, and all that remains is the daemons'."""
    text = settings(shutdown_timeout="41s") + prompt("a", stop_timeout="1h") + prompt("b", deps="a", stop_timeout="1h")
    stage = Stage(text, "main", boot=False)
    stage.tempers = dict.fromkeys((MAIN, "a", "b"), STUBBORN)
    stage.boot()
    asked = stage.now
    stage.request()
    stage.advance(60.0)
    killed = [(at - asked, name) for at, name, signum, _ in stage.kills if signum == KILL]
    assert killed == [(pytest.approx(30.0), MAIN), (pytest.approx(35.0), "b"), (pytest.approx(40.0), "a")]


def test_time_after_a_request_that_was_relayed() -> None:
    """What a lone main command was told before a reload brought units takes no time from their shutdown."""
    stage = Stage("", "serve", boot=False)
    stage.tempers = {MAIN: STUBBORN, "a": STUBBORN}
    stage.boot()
    stage.request()
    stage.advance(100.0)
    stage.reload(settings(shutdown_timeout="9s") + daemon("a", "x"))
    stage.advance(SETTLED)
    asked = stage.now
    stage.request()
    stage.advance(20.0)
    killed = [(at - asked, name) for at, name, signum, _ in stage.kills if signum == KILL]
    assert killed == [(pytest.approx(6.0), MAIN), (pytest.approx(8.0), "a")]


def test_shares() -> None:
    """Where the chain does not fit, each level gets the remaining time divided by the remaining levels."""
    text = settings(shutdown_timeout="9s") + daemon("c", "x", deps="b") + daemon("b", "x", deps="a") + daemon("a", "x")
    stage = Stage(text, boot=False)
    stage.tempers = dict.fromkeys("abc", STUBBORN)
    stage.boot()
    stage.advance(SETTLED)
    asked = stage.now
    stage.request()
    stage.advance(20.0)
    killed = [(at - asked, name) for at, name, signum, _ in stage.kills if signum == KILL]
    share = 8 / 3  # a second is kept for the sweep
    assert killed == [(pytest.approx(share), "c"), (pytest.approx(2 * share), "b"), (pytest.approx(3 * share), "a")]
    assert stage.why.endswith("had to be killed: c, b, a")
    assert stage.exited_at - asked <= 9.0


def test_share_where_everything_fits() -> None:
    """No stop_timeout is cut where the chain of them fits: those below take no more than theirs."""
    chain = prompt("c", deps="b", stop_timeout="1s") + prompt("b", deps="a", stop_timeout="30s") + prompt("a", stop_timeout="1s")
    stage = Stage(settings(shutdown_timeout="34s") + chain, boot=False)
    stage.tempers = dict.fromkeys("abc", STUBBORN)
    stage.boot()
    asked = stage.now
    stage.request()
    stage.advance(40.0)
    killed = [(at - asked, name) for at, name, signum, _ in stage.kills if signum == KILL]
    assert killed == [(pytest.approx(1.0), "c"), (pytest.approx(31.0), "b"), (pytest.approx(32.0), "a")]


def test_time_not_used_goes_to_the_next() -> None:
    """Who is quick leaves the rest of its share to those below."""
    text = settings(shutdown_timeout="9s") + prompt("b", deps="a", stop_timeout="60s") + prompt("a", stop_timeout="60s")
    stage = Stage(text, boot=False)
    stage.tempers = {"b": Temper(patience=1.0), "a": STUBBORN}
    stage.boot()
    asked = stage.now
    stage.request()
    stage.advance(20.0)
    assert [at - asked for at, _, signum, _ in stage.kills if signum == KILL] == [pytest.approx(8.0)]


def test_own_stop_timeout_is_not_prolonged() -> None:
    """A share is the most that a unit gets, not the least."""
    stage = Stage(settings(shutdown_timeout="60s") + prompt("a", stop_timeout="2s"), boot=False)
    stage.tempers["a"] = STUBBORN
    stage.boot()
    asked = stage.now
    stage.request()
    stage.advance(60.0)
    assert [at - asked for at, _, signum, _ in stage.kills if signum == KILL] == [pytest.approx(2.0)]


def test_levels_of_what_lives() -> None:
    """Only what has to be stopped takes a share."""
    stage = Stage(settings(shutdown_timeout="9s") + prompt("c", deps="b") + setup("b", deps="a") + prompt("a"), boot=False)
    stage.tempers = {"c": STUBBORN, "a": STUBBORN, "b": QUICK}
    stage.boot()
    stage.advance(1.0)
    asked = stage.now
    stage.request()
    stage.advance(20.0)
    assert [at - asked for at, _, signum, _ in stage.kills if signum == KILL] == pytest.approx([4.0, 8.0])


@pytest.mark.parametrize("total", ["9s", "300ms", "60s"])
def test_everything_in_time(total: str) -> None:
    """Whatever ignores whatever: from the request to the last SIGKILL it is not longer than `shutdown_timeout`."""
    text = settings(shutdown_timeout=total) + "".join(
        prompt(f"d{n}", stop_timeout="1h", **({"deps": f"d{n - 1}"} if n else {})) for n in range(10)
    )
    stage = Stage(text, boot=False)
    worker = Worker(patience=None)
    stage.tempers = {f"d{n}": Temper(patience=None, workers=(worker, worker)) for n in range(10)}
    stage.boot()
    stage.request()
    stage.advance(100.0)
    stage.check_exit(1e-6)
    assert len([name for _, name, signum, _ in stage.kills if signum == KILL]) == 10


def test_stuck_in_the_kernel() -> None:
    """A process that not even SIGKILL ends does not keep overlord."""
    stage = Stage(prompt("b", deps="a") + prompt("a"), boot=False)
    stage.tempers["b"] = Temper(patience=None, grip=None)
    stage.boot()
    asked = stage.now
    stage.request()
    stage.advance(20.0)
    assert stage.code == 0
    assert stage.exited_at - asked <= 9.0 + overlord.SWEEP_TIMEOUT / 2 + 1e-6


def test_leftovers_have_their_time_too() -> None:
    """A group that is still being stopped when its turn comes has no more than its share either."""
    stage = Stage(settings(shutdown_timeout="4s") + prompt("a", stop_timeout="1h"), boot=False)
    stage.tempers["a"] = Temper(workers=(Worker(patience=None),))
    stage.boot()
    stage.exit("a", 1)
    assert stage.state("a") == STOPPING
    asked = stage.now
    stage.request()
    stage.advance(20.0)
    assert [at - asked for at, _, signum, _ in stage.kills if signum == KILL] == [pytest.approx(3.0)]
    assert stage.code == 0


def test_no_restart_in_a_shutdown() -> None:
    """Whatever ends, waits or is due: nothing starts any more."""
    text = prompt("top", deps="mid") + prompt("mid", deps="setup:always, low:bounce", max_age="100s")
    stage = Stage(text + prompt("low", warmup="60s") + setup(), boot=False)
    stage.tempers = {"setup": QUICK, "top": Temper(patience=2.0)}
    stage.boot()
    stage.advance(99.0)
    stage.exit("low", 1)
    stage.request()
    assert starts_since(stage, lambda: stage.exit("mid", 1), 20.0) == []
    assert stage.states() == [STOPPED if name != "setup" else OK for name in stage.config.order]


def test_no_start_that_was_only_planned() -> None:
    """What was about to start when the shutdown began is not started, even if its turn to stop comes later."""
    text = prompt("top", deps="low") + prompt("low", max_age="1h") + prompt("fatal", restart="never")
    stage = Stage(text, boot=False)
    stage.tempers["top"] = Temper(patience=3.0)
    stage.boot()
    stage.current["low"].temper = Temper(patience=None)
    stage.advance(3601.0)
    assert stage.state("low") == STOPPING
    stage.die("low", 0)  # to be restarted at once
    stage.die("fatal", 3)  # ends it all, before the new process is made
    count = len(stage.starts)
    stage.settle()
    stage.advance(20.0)
    assert stage.starts[count:] == []
    assert stage.code == 3


def test_exits_while_being_stopped() -> None:
    """A process that ends by itself in the very moment of the request is stopped, not failed."""
    stage = Stage(prompt("a", restart="never") + prompt("b"))
    stage.die("a", 7)
    stage.request()
    assert (stage.code, stage.state("a")) == (0, STOPPED)


@pytest.mark.parametrize("first", [INT, TERM])
def test_second_interrupt(first: int) -> None:
    """A second SIGINT kills at once, whatever still had time, and whatever asked before."""
    stage = Stage(prompt("b", deps="a") + prompt("a"), boot=False)
    stage.tempers = {"a": STUBBORN, "b": Temper(patience=None, workers=(Worker(patience=None),))}
    stage.boot()
    asked = stage.now
    for number in [first, INT] if first == INT else [first, INT, INT]:
        assert stage.living() == ["a", "b"]
        stage.request(number)
    assert stage.living() == []
    stage.advance(1.0)
    assert stage.code == 0
    assert stage.exited_at == asked


@pytest.mark.parametrize("first", [TERM, INT, QUIT, 37])
@pytest.mark.parametrize("second", [TERM, QUIT, 37])
def test_second_request(first: int, second: int) -> None:
    """A second request of any other kind changes nothing, and one line says how much time is left."""
    stages = []
    for numbers in ([first], [first, second, second]):
        stage = Stage(prompt("b", deps="a") + prompt("a"), boot=False)
        stage.tempers = {"a": Temper(patience=3.0), "b": STUBBORN}
        stage.boot()
        asked = stage.now
        for number in numbers:
            stage.request(number)
            stage.advance(1.0)
        stage.advance(20.0)
        stages.append((stage.code, stage.exited_at - asked, [(at - asked, *kill) for at, *kill in stage.kills]))
    assert stages[0] == stages[1]
    assert len([text for _, _, text in stage.said if "already, within" in text]) == 2


def test_second_interrupt_kills_what_is_left_over() -> None:
    """Not only the units: the sweep is on its last word at once."""
    stage = Stage(prompt("web"), "main", boot=False)
    stage.tempers[MAIN] = Temper(patience=None, workers=(Worker(patience=None),))
    stage.boot()
    asked = stage.now
    stage.request(INT)
    stage.request(INT)
    assert (stage.code, stage.exited_at) == (137, asked)
    assert stage.sweeps == [(asked, KILL)]


def test_second_interrupt_names_the_killed() -> None:
    """The last line names whoever had to be killed."""
    stage = Stage(prompt("b") + prompt("a"), boot=False)
    stage.tempers = {"a": STUBBORN}
    stage.boot()
    stage.request(INT)
    stage.request(INT)
    stage.advance(1.0)
    assert stage.why.endswith("had to be killed: a")


def test_first_request_in_a_shutdown_of_its_own() -> None:
    """Where a unit's failure ends it all, the first request is no second one: the others keep their time."""
    stage = Stage(prompt("a", restart="never") + prompt("b"), boot=False)
    stage.tempers["b"] = Temper(patience=2.0)
    stage.boot()
    stage.exit("a", 3)
    stage.request()
    stage.advance(20.0)
    assert (KILL, "b") not in [(signum, name) for _, name, signum, _ in stage.kills]
    assert stage.code == 3
    stage = Stage(prompt("a", restart="never") + prompt("b"), boot=False)
    stage.tempers["b"] = STUBBORN
    stage.boot()
    stage.exit("a", 3)
    stage.request(INT)
    stage.request(INT)
    assert stage.code == 3


def test_killed_long_ago_is_not_named() -> None:
    """Who had to be killed is said of the shutdown, not of what went before."""
    stage = Stage(prompt("a", max_age="1h"), boot=False)
    stage.tempers["a"] = STUBBORN
    stage.boot()
    stage.advance(3700.0)
    assert stage.starts == ["a", "a"]
    stage.current["a"].temper = Temper()
    stage.request()
    assert stage.why == "SIGTERM received"


def test_stop_signal_kill_is_no_last_resort() -> None:
    """Who asks for SIGKILL as its stop signal did not have to be killed."""
    stage = Stage(prompt("a", stop_signal="KILL"))
    stage.request()
    assert stage.why == "SIGTERM received"


def test_sweep() -> None:
    """What is left after the units gets SIGTERM, a second, SIGKILL."""
    stage = Stage(prompt("a"))
    asked = stage.now
    stage.orphans.append(Member(Worker(patience=None)))
    stage.request()
    assert [signum for _, signum in stage.sweeps] == [TERM]
    assert stage.code is None
    stage.advance(20.0)
    assert [(at - asked, signum) for at, signum in stage.sweeps] == [(0.0, TERM), (1.0, KILL)]
    assert stage.exited_at - asked == pytest.approx(1.0)


def test_sweep_ends_early() -> None:
    """Nobody waits for nobody."""
    stage = Stage(prompt("a"))
    asked = stage.now
    stage.request()
    assert stage.exited_at == asked


def test_request_before_anything() -> None:
    """A stop request may come before the first unit is started."""
    stage = Stage(prompt("a") + prompt("b", deps="a"), boot=False)
    stage.request()
    assert (stage.code, stage.starts) == (0, [])


# --- timers ----------------------------------------------------------------------------------------------------------


def test_pause() -> None:
    """After `docker pause` deadlines are moved by the gap: nothing is restarted or killed for it."""
    stage = Stage(daemon("a", "x", warmup="5s", max_age="1h") + daemon("b", "x", warmup="10s"))
    stage.advance(4.0)
    stage.now += 1000.0
    stage.shift(1000.0)
    stage.settle()
    assert stage.states("a", "b") == [STARTING, STARTING]
    stage.advance(1.0)
    assert stage.states("a", "b") == [OK, STARTING]
    stage.advance(3600 - 5.5)
    assert stage.starts == ["a", "b"]
    stage.advance(1.0)
    assert stage.starts == ["a", "b", "a"]


def test_pause_in_a_shutdown() -> None:
    """The time to stop is moved too."""
    stage = Stage(prompt("a"), boot=False)
    stage.tempers["a"] = Temper(patience=2.0)
    stage.boot()
    stage.request()
    stage.now += 100.0
    stage.agenda = [(at + 100.0, serial, action) for at, serial, action in stage.agenda]
    stage.shift(100.0)
    stage.settle()
    assert stage.kills == [(stage.now - 100.0, "a", TERM, False)]
    stage.advance(2.0)
    assert len(stage.kills) == 1
    assert stage.code == 0


def test_deadline_at_the_same_instant() -> None:
    """A new deadline that equals the old one is not lost: no time to stop, at the end of its time."""
    stage = Stage(prompt("web", deps="setup:always") + setup(timeout="5s", stop_timeout="0"), boot=False)
    stage.tempers["setup"] = STUBBORN
    stage.boot()
    stage.advance(5.1)
    assert [(name, signum) for _, name, signum, _ in stage.kills] == [("setup", TERM), ("setup", KILL)]


def test_deadline_that_comes_back() -> None:
    """A deadline that was replaced and set again to the same instant comes once."""
    stage = Stage(daemon("a", "x", max_age="20s", stop_timeout="1s", warmup="1s"))
    stage.advance(20.5)
    assert stage.starts == ["a", "a"]
    stage.advance(1.0)
    assert stage.state("a") == OK
    assert len(stage.kills) == 1


def test_no_timer_with_nothing_to_do() -> None:
    """When all is up there is no deadline, so that nothing has to wake up."""
    stage = Stage(daemon("a", "x") + daemon("b", "x", deps="a:bounce, setup") + setup(), "main", boot=False)
    stage.tempers["setup"] = QUICK
    stage.boot()
    stage.advance(SETTLED)
    assert stage.state(MAIN) == RUNNING
    assert stage.next_deadline() is None


def test_timers_do_not_pile_up() -> None:
    """Deadlines that count no more are dropped sooner or later."""
    stage = Stage(daemon("a", "x", warmup="1h", backoff="0") + daemon("b", "x", warmup="30m"))
    for _ in range(1000):
        stage.exit("a", 1)
        stage.advance(0.001)
    assert stage.starts.count("a") == 1001
    assert len([timer for timer in stage.watch.timers if timer[2]]) <= 2


# --- who goes first ----------------------------------------------------------------------------------------------------


def test_restart_of_instances_that_start() -> None:
    """D4: what serves nobody yet is replaced at once, and waits for no other."""
    stage = Stage(daemon("web", "x", count=2, warmup="10s"))
    stage.restart("web-1", "web-2")
    assert stage.starts == ["web-1", "web-2", "web-1", "web-2"]
    assert stage.states() == [STARTING, STARTING]


def test_restart_of_instances_says_who_is_in_the_way() -> None:
    """One that serves waits for the other of its name, and says so."""
    stage = Stage(daemon("web", "x", count=2, warmup="10s"))
    stage.advance(11.0)
    stage.restart("web-1", "web-2")
    waiting = [name for name in ("web-1", "web-2") if stage.state(name) == OK]
    (other,) = {"web-1", "web-2"}.difference(waiting)
    assert stage.explain(waiting[0]) == f"to be restarted (restart by hand), waiting for {other} to be up"


def test_age_beside_an_instance_that_flaps() -> None:
    """D5: one that fails again and again keeps no other from being replaced for its age; one that is stopped does."""
    stage = Stage(daemon("web", "x", count=2, warmup="1s", max_age="20s", backoff="2s"))
    stage.advance(5.0)
    for _ in range(6):
        stage.exit("web-2", 1)
        stage.advance(2.5)
    assert stage.starts.count("web-1") == 2
    stage = Stage(daemon("web", "x", count=2, warmup="1s", max_age="20s", stop_timeout="1h"), boot=False)
    stage.tempers["web-2"] = STUBBORN
    stage.boot()
    stage.advance(15.0)
    stage.exit("web-2", 1)
    stage.advance(3.0)
    stage.restart("web-2")
    assert stage.state("web-2") == STOPPING
    stage.advance(10.0)
    assert stage.starts.count("web-1") == 1


def test_restart_beside_an_instance_in_backoff() -> None:
    """A person's restart, and a reload, go on only while the one before comes up: what is broken takes one down, not all."""
    text = daemon("web", "x", count=2, warmup="1s", backoff="1h")
    for act in (lambda stage: stage.restart("web-1", "web-2"), lambda stage: stage.reload(text.replace("cmd = x", "cmd = y"))):
        stage = Stage(text)
        stage.advance(2.0)
        act(stage)
        for _ in range(2):
            stage.exit("web-1", 1)
        stage.advance(60.0)
        assert stage.states() == [BACKOFF, OK]
        assert stage.starts.count("web-2") == 1


def test_restart_beside_an_instance_that_waits_in_vain() -> None:
    """Restarted next to it, an instance would not come back either: it goes on until what they need is there."""
    db = prompt("db", restart="never", on_failure="ignore", warmup="1s")
    text = daemon("web", "x", count=2, warmup="1s", deps="db") + db + prompt("keep")
    stage = Stage(text)
    stage.advance(5.0)
    stage.exit("db", 1)
    stage.exit("web-2", 1)
    stage.exit("web-2", 1) if stage.state("web-2") == STARTING else None
    stage.advance(1.0)
    assert stage.states("db", "web-2") == [FAILED, WAITING]
    stage.fleet.start([stage.fleet.units["db"]], stage.now)
    stage.restart("web-1")
    assert stage.starts.count("web-1") == 1
    stage.advance(10.0)
    assert stage.starts.count("web-1") == 2
    stage.exit("db", 1)
    stage.exit("web-2", 1)
    stage.advance(1.0)
    assert stage.states("web-1", "web-2") == [OK, WAITING]
    stage.reload(text.replace("cmd = x", "cmd = y", 1))
    assert stage.states("web-1", "web-2") == [OK, WAITING]
    stage.start("db")
    stage.advance(10.0)
    assert stage.states("web-1", "web-2") == [OK, OK]
    assert stage.starts.count("web-1") == 3


@pytest.mark.parametrize("why", ["age", "by hand"])
def test_restart_beside_an_ancestor_that_is_down(why: str) -> None:
    """It comes after the ancestor, once for both; by hand that is asked for at once."""
    stage = Stage(daemon("db", "x", backoff="1h", warmup="1s") + prompt("web", deps="db:bounce", max_age="30s"))
    stage.advance(2.0)
    stage.exit("db", 1)
    stage.exit("db", 1)
    assert stage.states() == [BACKOFF, OK]
    stage.advance(60.0)
    assert stage.states() == [BACKOFF, OK]
    if why == "by hand":
        stage.restart("web")
        assert stage.states() == [STARTING, OK]
        stage.advance(2.0)
    else:
        stage.advance(3700.0)
    assert (stage.starts.count("web"), stage.states()) == (2 if why == "by hand" else stage.starts.count("web"), [OK, OK])


def test_waiting_while_a_reload_stops_another() -> None:
    """What has not started yet starts under its new definition, and never before what it needs is what it will be."""
    text = prompt("db", stop_timeout="1h") + prompt("web", deps="db", wait_for="file:/x")
    text += prompt("top", deps="db, gate") + setup("gate")
    stage = Stage(text, boot=False)
    stage.tempers["db"] = STUBBORN
    stage.silent.add("web")
    stage.boot()
    assert stage.states("db", "web", "top") == [OK, WAITING, WAITING]
    stage.reload(text.replace("cmd = x", "cmd = y", 1).replace("wait_for = file:/x\n", ""))
    assert stage.states("db", "web", "top") == [STOPPING, WAITING, WAITING]
    stage.exit("gate")
    assert stage.states("db", "web", "top") == [STOPPING, WAITING, WAITING]
    stage.exit("db", 0)
    assert stage.states("db", "web", "top") == [OK, OK, OK]
    for name in ("db", "web"):
        assert stage.current[name].spec == stage.config.units[name]


def test_waiting_for_what_a_reload_is_about_to_stop() -> None:
    """What is to be stopped, once those that need it have been, is not there for anybody new."""
    text = prompt("db") + prompt("web", deps="db", stop_timeout="1h")
    rest = prompt("top", deps="db, gate") + setup("gate")
    stage = Stage(text + rest, boot=False)
    stage.tempers["web"] = STUBBORN
    stage.boot()
    stage.reload(text.replace("cmd = x", "cmd = y") + rest)
    stage.exit("gate")
    assert stage.states("db", "web", "top") == [OK, STOPPING, WAITING]
    assert stage.starts.count("top") == 0


def test_health_lost_while_a_reload_stops_others() -> None:
    """What fails is stopped at once, though those that need it are still to be stopped before it."""
    text = prompt("db") + prompt("web", deps="db", stop_timeout="1h")
    stage = Stage(text, boot=False)
    stage.tempers["web"] = STUBBORN
    stage.boot()
    stage.reload(text.replace("cmd = x", "cmd = y"))
    assert stage.states() == [OK, STOPPING]
    stage.tell("db", "unwell", "no answer")
    assert stage.state("db") != OK


def test_age_beside_an_instance_that_begins_to_flap() -> None:
    """D5: it waits for one that comes up, and no longer once that fails by itself."""
    stage = Stage(daemon("web", "x", count=2, warmup="5s", max_age="20s", backoff="1h"))
    stage.advance(18.0)
    stage.restart("web-2")
    stage.advance(3.0)
    assert stage.states() == [OK, STARTING] and stage.starts.count("web-1") == 1
    stage.exit("web-2", 1)
    assert stage.starts.count("web-1") == 2


def test_a_run_that_fails_for_one_of_two() -> None:
    """Who waits for the same script, which had its run for him and failed, is told that he waits in vain: nobody else asks."""
    stage = Stage(prompt("a", deps="setup") + prompt("b", deps="setup:always", backoff="1h") + setup(on_failure="ignore"))
    stage.exit("setup", 1)
    for _ in range(2):  # and once more, since a first restart comes without a delay
        assert stage.living() == ["setup"]
        stage.exit("setup", 1)
    assert stage.states("a", "b", "setup") == [WAITING, BACKOFF, FAILED]
    assert stage.explain("a") == "for setup:ok, and setup is failed"


def test_restart_of_an_instance_and_of_what_another_waits_for() -> None:
    """One waits in vain no more once that is asked for in the same breath: so there is somebody to wait for."""
    db = prompt("db", restart="never", on_failure="ignore", warmup="1s")
    stage = Stage(daemon("web", "x", count=2, warmup="1s", deps="db") + db + prompt("keep"))
    stage.advance(5.0)
    stage.exit("db", 1)
    stage.exit("web-2", 1)
    stage.advance(1.0)
    assert stage.states("db", "web-2") == [FAILED, WAITING]
    stage.restart("db", "web-1")
    assert stage.states("db", "web-1", "web-2") == [STARTING, OK, WAITING]
    stage.advance(10.0)
    assert stage.states("db", "web-1", "web-2") == [OK, OK, OK]
    assert stage.starts.count("web-1") == 2


def test_stopped_by_hand_while_a_reload_waits() -> None:
    """It has stopped for the reload and would come again: stopped by hand meanwhile, it does not."""
    text = prompt("a") + prompt("b", stop_timeout="1h")
    stage = Stage(text, boot=False)
    stage.tempers["b"] = STUBBORN
    stage.boot()
    stage.reload(text.replace("cmd = x", "cmd = y"))
    assert stage.states() == [WAITING, STOPPING]
    stage.stop("a")
    assert stage.state("a") == STOPPED
    stage.exit("b")
    assert stage.states() == [STOPPED, OK]
    assert stage.starts == ["a", "b", "b"]


def test_stopped_by_hand_while_a_reload_stops_it() -> None:
    """It says who wants that now, and stays down."""
    stage = Stage(prompt("a", stop_timeout="1h") + prompt("b"), boot=False)
    stage.tempers["a"] = STUBBORN
    stage.boot()
    stage.reload(prompt("a", stop_timeout="1h").replace("cmd = x", "cmd = y") + prompt("b"))
    assert stage.explain("a").startswith("reload")
    stage.stop("a")
    assert stage.explain("a").startswith("by hand")
    stage.exit("a")
    assert stage.states() == [STOPPED, OK]


def test_three_that_need_a_run_each() -> None:
    """Two that fail at once again and again keep the third from no turn: who has waited longest comes first."""
    text = "".join(prompt(name, deps="setup:always", backoff="0") for name in ("a", "b", "c")) + setup()
    stage = Stage(text)
    for _ in range(6):
        stage.now += 0.01
        stage.exit("setup")
        for name in ("a", "b"):
            if stage.state(name) == OK:
                stage.exit(name, 1)
    assert stage.starts.count("c") >= 1


# --- cost ------------------------------------------------------------------------------------------------------------


def lines_of(act: Callable[[], Any]) -> int:
    """Return how many lines of overlord.py an act executes: a measure of time that is the same on every machine."""
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        if frame.f_code.co_filename != overlord.__file__:
            return None
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        act()
    finally:
        sys.settrace(before)
    return count


def many(count: int, *command: str, text: str = "", first: str = "", rest: str = "", patience: float = 0.0) -> Stage:
    """Return a booted stage of so many daemons without checks; `deps`: of the first, and of the rest with {} the one before."""
    sections = []
    for number in range(count):
        deps = first if not number else rest.format(f"d{number - 1}")
        sections.append(prompt(f"d{number}", stop_timeout="1h", **({"deps": deps} if deps else {})))
    stage = Stage(text + "".join(sections), *command, watch=False, boot=False)
    stage.tempers = {f"d{number}": Temper(patience=patience) for number in range(count)}
    return stage


SHAPES = {
    "alone": {},
    "below-one": {"text": prompt("db"), "first": "db:bounce", "rest": "db:bounce"},
    "chain": {"rest": "{}:ok"},
}


@pytest.mark.parametrize("command", [(), ("main",)], ids=["", "main"])
@pytest.mark.parametrize("shape", SHAPES)
def test_cost_of_an_event(shape: str, command: tuple[str, ...]) -> None:
    """A daemon that crashes and comes back costs the same among ten and among a thousand."""
    costs = []
    for count in (10, 1000):
        stage = many(count, *command, **SHAPES[shape])
        stage.boot()
        for _ in range(3):
            stage.exit("d5", 1)
        costs.append(lines_of(lambda stage=stage: stage.exit("d5", 1)))
        assert stage.state("d5") == OK
    assert costs[1] <= costs[0] + 50, costs


def test_cost_of_an_event_beside_a_wave() -> None:
    """Nor does it cost more while a thousand others wait for their turn in a bounce wave."""
    costs = []
    for count in (10, 1000):
        stage = many(count, text=prompt("a") + daemon("b", "x", warmup="60s") + prompt("c"), first="a:bounce, b:bounce",
                     rest="a:bounce, b:bounce")  # fmt: skip
        stage.boot()
        stage.advance(60.0)
        stage.exit("b", 1)
        stage.exit("a", 1)
        assert (stage.state("b"), sum(bool(unit.status.stale) for unit in stage.fleet.units.values())) == (STARTING, count)
        stage.exit("c", 1)
        costs.append(lines_of(lambda stage=stage: stage.exit("c", 1)))
    assert costs[1] <= costs[0] + 50, costs


def shut_down(stage: Stage) -> None:
    stage.boot()
    stage.request()


BURSTS = {
    "start": ({}, Stage.boot),
    "start, main command": ({"command": True}, Stage.boot),
    "start, one database": ({"text": prompt("db"), "first": "db", "rest": "db"}, Stage.boot),
    "start, one script": ({"text": setup(), "first": "setup", "rest": "setup"}, lambda s: (s.boot(), s.exit("setup"))),
    "start, chain": ({"rest": "{}"}, Stage.boot),
    "start, chain and main command": ({"rest": "{}", "command": True}, Stage.boot),
    "start, chain of bounces": ({"rest": "{}:bounce"}, Stage.boot),
    "shutdown": ({}, shut_down),
    "shutdown, main command": ({"command": True}, shut_down),
    "shutdown, chain": ({"rest": "{}"}, shut_down),
    "shutdown, one database": ({"text": prompt("db"), "first": "db", "rest": "db"}, shut_down),
    "wave, chain": ({"rest": "{}:bounce"}, lambda s: (s.boot(), s.exit("d0", 1))),
    "wave, fan": (
        {"text": prompt("db"), "first": "db:bounce", "rest": "db:bounce"},
        lambda s: (s.boot(), s.exit("db", 1)),
    ),
    "crash of all": ({"command": True}, lambda s: (s.boot(), [s.die(f"d{n}", 1) for n in range(30)], s.settle())),
}


@pytest.mark.parametrize("burst", BURSTS)
def test_cost_of_a_burst(burst: str) -> None:
    """Ten times the units cost about ten times as much, not a hundred times.

    Only in a chain of bounces each unit has to look at all those above it; that is a glance, which this bounds.
    """
    options, act = BURSTS[burst]
    options = dict(options)
    command = ["main"] if options.pop("command", False) else []
    costs = [lines_of(lambda count=count: act(many(count, *command, **options))) for count in (30, 300)]
    limit = 50 if options.get("rest") == "{}:bounce" else 13
    assert costs[1] <= limit * costs[0], costs


def test_cost_of_a_script_before_many() -> None:
    """A run for one of many dependents costs no more than a look at each of them."""
    costs = []
    for count in (10, 1000):
        stage = many(count, text=setup(), first="setup:always", rest="setup:always")
        stage.boot()
        for _ in range(5):
            stage.exit("setup")
        costs.append(lines_of(lambda stage=stage: stage.exit("setup")))
    assert costs[1] <= costs[0] + 20 * 990, costs


@pytest.mark.parametrize(("how", "length"), [("ok", 2000), ("bounce", 1100)])  # more than Python may recurse
def test_long_chain(how: str, length: int) -> None:
    """A long chain meets no limit: at the start, in a wave, in a shutdown."""
    stage = many(length, "main", rest=f"{{}}:{how}")
    stage.boot()
    assert set(stage.states()) == {OK, RUNNING}
    stage.exit("d0", 1)
    stage.advance(1.0)
    assert stage.starts.count(f"d{length - 1}") == (2 if how == "bounce" else 1)
    stage.request()
    stage.advance(20.0)
    assert set(stage.states()) == {STOPPED}
    assert stage.code == 143


def test_long_chain_that_cannot_be() -> None:
    """A chain whose first is lost waits as a whole, and keeps nothing up."""
    stage = many(2000, first="setup", rest="{}:bounce", text=setup(on_failure="ignore"))
    stage.boot()
    stage.exit("setup", 7)
    assert stage.code == 7


def test_long_chain_of_scripts() -> None:
    """Scripts that run before scripts, a thousand of them."""
    text = "".join(setup(f"s{n}", **({"deps": f"s{n - 1}:always"} if n else {})) for n in range(1000))
    stage = Stage(text + prompt("web", deps="s999"), watch=False, boot=False)
    stage.tempers = {f"s{n}": Temper(life=0.001) for n in range(1000)}
    stage.boot()
    stage.advance(5.0)
    assert stage.state("web") == OK


# --- by hand ---------------------------------------------------------------------------------------------------------

SLOW = Temper(patience=3.0)  # a process that takes its time to stop


# What a daemon needs for `bring_into` to get it into that state, and keep it there.
STATE_OPTIONS: dict[str, dict[str, object]] = {
    STARTING: {"warmup": "5s"},
    BACKOFF: {"backoff": "1h..1h"},
    FAILED: {"respawns": 0, "on_failure": "ignore"},
    DONE: {"restart": "on-failure"},
    WAITING: {"deps": "gate"},
    IDLE: {"autostart": "false"},
}


def slow(stage: Stage, *names: str) -> None:
    """From now on, the processes of these units take their time to stop."""
    for name in names:
        stage.tempers[name] = SLOW
        if name in stage.living():
            stage.current[name].temper = SLOW


def test_stop_by_hand() -> None:
    """It stays stopped, what depends on it goes on, and overlord stays up even where nothing runs any more."""
    stage = Stage(prompt("db") + prompt("web", deps="db"))
    stage.stop("db")
    assert stage.states("db", "web") == [STOPPED, OK]
    stage.stop("web", "db")
    stage.advance(SETTLED)
    assert stage.states("db", "web") == [STOPPED, STOPPED]
    assert stage.code is None


@pytest.mark.parametrize("act", [Stage.stop, Stage.restart])
def test_several_by_hand(act: Callable[..., None]) -> None:
    """A dependent ends first, however long that takes; a unit that is unwell by then does not wait."""
    stage = Stage(prompt("db") + prompt("web", deps="db"))
    slow(stage, "web")
    act(stage, "db", "web")
    assert stage.states("db", "web") == [OK, STOPPING]
    stage.tell("db", "unwell", "unhealthy: no answer")
    again = act is Stage.restart
    assert stage.states("db", "web") == [OK if again else STOPPED, STOPPING]
    assert stage.starts == ["db", "web"] + ["db"] * again
    stage.advance(SETTLED)
    assert stage.starts == ["db", "web"] + ["db", "web"] * again
    assert set(stage.states("db", "web")) == {OK if again else STOPPED}


def test_what_does_not_run_waits_for_nobody() -> None:
    """Stopped together with a dependent that is slow to end, a unit in back-off is stopped at once."""
    stage = Stage(prompt("db", backoff="1h") + prompt("web", deps="db"))
    slow(stage, "web")
    stage.exit("db", 1)
    stage.exit("db", 1)
    assert stage.states("db", "web") == [BACKOFF, OK]
    stage.stop("db", "web")
    assert stage.states("db", "web") == [STOPPED, STOPPING]


def test_instances_wait_for_their_dependents() -> None:
    """Restarted together, a daemon ends before the instances that it needs, and is back once all are."""
    stage = Stage(prompt("web", count=2) + prompt("lb", deps="web"))
    slow(stage, "lb")
    stage.restart("web-1", "web-2", "lb")
    assert stage.states("web-1", "web-2", "lb") == [OK, OK, STOPPING]
    stage.advance(SETTLED)
    assert stage.starts == ["web-1", "web-2", "lb"] * 2


@pytest.mark.parametrize("state", [WAITING, STARTING, BACKOFF, STOPPING])
def test_stop_by_hand_in_any_state(state: str) -> None:
    stage = Stage(daemon("db", "x", warmup="5s") + prompt("web", deps="db", backoff="5s"))
    if state == STARTING:
        name = "db"
    else:
        name = "web"
        stage.advance(0.0 if state == WAITING else 5.0)
        if state == BACKOFF:
            stage.exit("web", 1)
            stage.exit("web", 1)
        elif state == STOPPING:
            slow(stage, "web")
            stage.restart("web")
    assert stage.state(name) == state
    stage.stop(name)
    stage.advance(SETTLED)
    assert stage.state(name) == STOPPED


def test_start_by_hand_with_what_it_needs() -> None:
    """Stopped or not, all the way down, in dependency order; what is up is left alone."""
    stage = Stage(prompt("disk") + prompt("db", deps="disk") + prompt("web", deps="db") + prompt("other"))
    stage.stop("disk", "db", "web", "other")
    assert starts_since(stage, lambda: stage.start("web")) == ["disk", "db", "web"]
    assert stage.states() == [OK, OK, OK, STOPPED]
    assert starts_since(stage, lambda: stage.start("web")) == []


def test_start_by_hand_while_what_it_needs_stops() -> None:
    """A dependency that is on its way down is to come back as well as one that is down already."""
    stage = Stage(prompt("db") + prompt("web", deps="db"))
    slow(stage, "db")
    stage.stop("web", "db")
    assert stage.states("db", "web") == [STOPPING, STOPPED]
    stage.start("web")
    stage.advance(SETTLED)
    assert stage.states("db", "web") == [OK, OK]


@pytest.mark.parametrize("state", [DONE, FAILED, BACKOFF, STOPPING])
def test_start_by_hand_in_any_state(state: str) -> None:
    stage = Stage(prompt("web", **STATE_OPTIONS.get(state, {})) + prompt("other"))
    if state == STOPPING:
        slow(stage, "web")
        stage.stop("web")
    for _ in range({BACKOFF: 2, STOPPING: 0}.get(state, 1)):
        stage.exit("web", 0 if state == DONE else 1)
    assert stage.state("web") == state
    stage.start("web")
    stage.advance(SETTLED)
    assert stage.state("web") == OK


@pytest.mark.parametrize("code", [0, 3])
def test_started_by_hand_never_ends_the_container(code: int) -> None:
    options = {"autostart": "false", "respawns": 0, "on_failure": "shutdown", "on_success": "shutdown"}
    stage = Stage(prompt("tool", restart="on-failure", **options) + setup("job", on_failure="shutdown") + prompt("web"))
    stage.start("tool", "job")
    stage.exit("tool", code)
    stage.exit("job", code)
    assert stage.states("tool", "job") == ([DONE, OK] if code == 0 else [FAILED, FAILED])
    assert stage.code is None


def test_script_by_hand() -> None:
    """It runs, again and again, though nobody depends on it; two runs never overlap."""
    stage = Stage(prompt("web") + setup("job"))
    stage.start("job")
    stage.start("job")
    assert stage.starts.count("job") == 1
    stage.exit("job")
    assert stage.starts.count("job") == 2
    stage.exit("job")
    assert stage.state("job") == OK
    stage.start("job")
    assert stage.starts.count("job") == 3


def test_script_by_hand_after_it_failed() -> None:
    """A script that failed, and without which a daemon waits, is run again for it by a start of that daemon."""
    stage = Stage(prompt("other") + prompt("web", deps="setup") + setup(on_failure="ignore"))
    stage.exit("setup", 1)
    assert stage.states("setup", "web") == [FAILED, WAITING]
    stage.start("web")
    stage.exit("setup")
    assert stage.state("web") == OK


def test_start_by_hand_after_a_script_below_failed() -> None:
    """All that it needs is tried again, a script on which only another script waits too."""
    quiet = {"on_failure": "ignore"}
    stage = Stage(prompt("other") + prompt("web", deps="b") + setup("b", deps="a", **quiet) + setup("a", **quiet))
    stage.exit("a", 1)
    assert stage.states("a", "b", "web") == [FAILED, WAITING, WAITING]
    stage.start("web")
    for name in ("a", "b"):
        assert stage.state(name) == RUNNING
        stage.exit(name)
    assert stage.state("web") == OK


def test_restart_by_hand() -> None:
    """It is stopped and started, with what bounces with it; what is down is started."""
    stage = Stage(prompt("db") + prompt("web", deps="db:bounce") + prompt("mail", deps="db"))
    assert starts_since(stage, lambda: stage.restart("db")) == ["db", "web"]
    stage.stop("db")
    assert starts_since(stage, lambda: stage.restart("db")) == ["db", "web"]
    assert starts_since(stage, lambda: stage.restart("mail")) == ["mail"]


def test_restart_by_hand_runs_always_scripts() -> None:
    stage = Stage(prompt("web", deps="setup:always") + setup())
    stage.exit("setup")
    stage.restart("web")
    assert stage.states("web", "setup") == [WAITING, RUNNING]
    stage.exit("setup")
    assert stage.state("web") == OK


def test_restart_of_several_by_hand() -> None:
    """Those named are restarted once each, although one bounces with the other."""
    stage = Stage(prompt("db") + prompt("web", deps="db:bounce"))
    assert starts_since(stage, lambda: stage.restart("web", "db")) == ["db", "web"]


# --- reload ----------------------------------------------------------------------------------------------------------


def changed(kind: Callable[..., str], name: str, **options: object) -> str:
    """A unit as `prompt` or `setup` makes it, whose process has to be another one."""
    return kind(name, **{"dir": "/", **options})


def test_reload_of_the_same() -> None:
    """Units whose definition is unchanged keep their status, whatever state they are in."""
    text = prompt("up") + daemon("starting", "x", warmup="1h") + prompt("waiting", deps="starting") + prompt("hand")
    text += prompt("backoff", backoff="1h..1h") + prompt("failed", respawns=0, on_failure="ignore") + prompt("stopping")
    text += prompt("idle", autostart="false") + prompt("done", restart="never") + setup() + prompt("busy", deps="setup")
    text += prompt("served", deps="always:always") + setup("always") + prompt("again", deps="always:always")
    stage = Stage(text)
    for name in ("backoff", "backoff", "failed"):
        stage.exit(name, 1)
    stage.exit("done")
    slow(stage, "stopping")
    stage.stop("hand", "stopping")
    before, starts = {name: unit.status for name, unit in stage.fleet.units.items()}, list(stage.starts)
    assert {each.state for each in before.values()} == set(overlord.STATES)
    assert stage.reload(text) == {}
    assert {name: unit.status for name, unit in stage.fleet.units.items()} == before
    assert stage.starts == starts
    for name in ("always", "setup", "always"):
        stage.exit(name)
    stage.advance(SETTLED)
    assert stage.states("busy", "served", "again", "hand", "stopping") == [OK, OK, OK, STOPPED, STOPPED]


SHAPING = {
    "cmd": "y", "dir": "/tmp", "uid": "nobody", "gid": "nogroup", "env": "A=1", "umask": "077", "nice": "5", "stdout": "prefix",
    "stderr": "null", "env_file": "/e", "secrets": "TOKEN", "limits": "core=0", "ready": "tcp:80",
    "pidfile": "/run/x.pid", "listen": "tcp:80", "watchdog": "9s",
}  # fmt: skip
IN_PLACE = {
    "stop_timeout": "1s", "stop_signal": "INT", "on_failure": "ignore", "on_success": "shutdown", "respawns": "5/60s",
    "restart": "on-failure", "success": "0 3", "backoff": "1s..2s", "warmup": "7s", "max_age": "1h", "forward": "USR1",
    "autostart": "false", "deps": "other", "log_max": "1K", "log_keep": "1",
    "stop_cmd": "x", "ready_timeout": "5s", "health": "tcp:80",
    "health_interval": "5s", "health_timeout": "1s", "health_retries": "9", "wait_for": "tcp:db:5432",
    "kill_mode": "all",
}  # fmt: skip


def test_every_option_is_one_or_the_other() -> None:
    """An option that is added has to be thought about here, too."""
    units = {option.name for option in overlord.OPTIONS if "d" in option.kinds}
    assert set(SHAPING) | set(IN_PLACE) == units - {"count"}  # makes other units
    assert set(SHAPING) == overlord.SHAPING - {"kind", "instance"}


@pytest.mark.parametrize("option", SHAPING)
def test_reload_of_what_shapes_a_process(option: str) -> None:
    """It is restarted, and nothing else is; so it is when the option goes away again."""
    rest = prompt("other") + prompt("top", deps="web")
    with_it = unit_text("web", **{option: SHAPING[option]})
    stage = Stage(rest + unit_text("web"))
    assert starts_since(stage, lambda: stage.reload(rest + with_it)) == ["web"]
    assert starts_since(stage, lambda: stage.reload(rest + unit_text("web"))) == ["web"]
    assert stage.states("web", "other", "top") == [OK, OK, OK]


@pytest.mark.parametrize("option", IN_PLACE)
def test_reload_of_what_takes_effect_in_place(option: str) -> None:
    """Nothing is restarted, and it is told."""
    stage = Stage(prompt("other") + unit_text("web"))
    text = prompt("other") + unit_text("web", **{option: IN_PLACE[option]})
    news: dict[str, str] = {}
    assert starts_since(stage, lambda: news.update(stage.reload(text))) == []
    assert news == {"web": f"changed in place: {option}"}
    assert stage.state("web") == OK


def unit_text(name: str, **options: object) -> str:
    """A daemon that is OK at once."""
    return f"[daemon:{name}]\n" + "".join(f"{key} = {value}\n" for key, value in {"cmd": "x", "warmup": 0, **options}.items())


def test_reload_of_stop_options() -> None:
    """The next stop goes by them."""
    stage = Stage(prompt("web") + prompt("other"))
    stage.tempers["web"] = stage.current["web"].temper = STUBBORN
    stage.reload(prompt("web", stop_timeout="2s", stop_signal="INT") + prompt("other"))
    begun = stage.now
    stage.stop("web")
    stage.advance(SETTLED)
    assert [(round(at - begun, 3), number) for at, _, number, _ in stage.kills] == [(0.0, INT), (2.0, KILL)]


def test_reload_of_what_an_end_leads_to() -> None:
    """`backoff`, `respawns`, `restart`, `success`, `on_failure` count at the next end."""
    stage = Stage(prompt("a") + prompt("b") + prompt("c") + prompt("d"))
    text = prompt("a", backoff="7s..7s") + prompt("b", respawns=0, on_failure="ignore") + prompt("d", restart="never")
    stage.reload(text + prompt("c", success="3", restart="never"))
    for name, code in (("a", 1), ("a", 1), ("b", 1), ("c", 3)):
        stage.exit(name, code)
    assert stage.states("a", "b", "c") == [BACKOFF, FAILED, DONE]
    stage.advance(6.9)
    assert stage.state("a") == BACKOFF
    stage.advance(0.1)
    assert stage.state("a") == OK
    stage.exit("d", 4)
    assert stage.code == 4


def test_reload_of_warmup() -> None:
    """A daemon that starts anew has the new one."""
    stage = Stage(daemon("web", "x", warmup="5s"))
    stage.advance(6)
    stage.reload(daemon("web", "x", warmup="1s"))
    assert stage.state("web") == OK
    stage.exit("web", 1)
    stage.advance(1.1)
    assert stage.state("web") == OK


@pytest.mark.parametrize(
    ("before", "after", "ages"),
    [("1h", "1m", [60]), ("1m", "1h", [3600]), ("1m", None, []), (None, "1m", [60]), ("1h", "2s", [11])],
)
def test_reload_of_max_age(before: str | None, after: str | None, ages: list[float]) -> None:
    """It counts from when the process started, also for one that runs; whoever is too old by now goes at once."""
    stage = Stage(prompt("web", **{"max_age": before} if before else {}) + prompt("other"))
    begun = stage.now
    stage.advance(10.0)
    count = len(stage.starts)
    stage.reload(prompt("web", **{"max_age": after} if after else {}) + prompt("other"))
    lived: list[int] = []
    while stage.next_deadline() is not None and not lived:
        stage.advance(1.0)
        lived = [round(stage.now - begun) for _ in stage.starts[count:]]
    assert lived == ages


def test_reload_of_max_age_in_warmup() -> None:
    """The warm-up goes on, and then it has that age."""
    stage = Stage(daemon("web", "x", warmup="5s", max_age="1h"))
    stage.advance(2.0)
    stage.reload(daemon("web", "x", warmup="5s", max_age="1m"))
    stage.advance(3.0)
    assert stage.state("web") == OK
    stage.advance(54.0)
    assert stage.starts == ["web"]
    stage.advance(2.0)
    assert stage.starts == ["web", "web"]


@pytest.mark.parametrize(("before", "after", "state"), [("5s", None, RUNNING), (None, "5s", FAILED), ("1h", "5s", FAILED)])
def test_reload_of_timeout(before: str | None, after: str | None, state: str) -> None:
    """A script that runs has the new one, from its start on."""
    rest = prompt("web", deps="setup") + prompt("other")
    stage = Stage(rest + setup(on_failure="ignore", **{"timeout": before} if before else {}))
    stage.reload(rest + setup(on_failure="ignore", **{"timeout": after} if after else {}))
    stage.advance(SETTLED)
    assert stage.state("setup") == state


def test_reload_of_autostart() -> None:
    """On: it is started. Off: it goes on, since stopping it is for `stop`."""
    stage = Stage(prompt("a", autostart="false") + prompt("b"))
    stage.reload(prompt("a") + prompt("b", autostart="false"))
    assert stage.states("a", "b") == [OK, OK]


def test_reload_of_deps() -> None:
    """What runs goes on; what waits waits for the new ones, and only for them."""
    text = prompt("db", warmup="1h") + prompt("cache")
    stage = Stage(text + prompt("web", deps="db") + prompt("top", deps="cache"))
    assert stage.state("web") == WAITING
    stage.reload(text + prompt("web", deps="cache") + prompt("top", deps="db"))
    assert stage.states("web", "top") == [OK, OK]
    stage.exit("top", 1)
    assert stage.state("top") == WAITING


def test_reload_adds_a_bounce() -> None:
    """From then on it bounces, or does so no more."""
    stage = Stage(prompt("db") + prompt("web", deps="db") + prompt("mail", deps="db:bounce"))
    stage.reload(prompt("db") + prompt("web", deps="db:bounce") + prompt("mail", deps="db"))
    assert starts_since(stage, lambda: stage.exit("db", 1)) == ["db", "web"]


def test_reload_of_settings() -> None:
    """`shutdown_timeout` and `shutdown_signals` are the Loop's and the Fleet's at once."""
    stage = Stage(settings(shutdown_timeout="60s") + prompt("web"))
    stage.tempers["web"] = stage.current["web"].temper = STUBBORN
    stage.reload(settings(shutdown_timeout="1s", shutdown_signals="USR1") + prompt("web"))
    assert stage.fleet.settings.shutdown_signals == (USR1,)
    begun = stage.now
    stage.request()
    stage.advance(SETTLED)
    assert stage.exited_at - begun <= 1.0


def test_reload_adds() -> None:
    """What is new is started in dependency order; a script only for those who need it."""
    stage = Stage(prompt("web"))
    text = prompt("web") + prompt("a", deps="b, setup") + prompt("b") + setup() + setup("unused") + prompt("c", autostart="false")
    assert stage.reload(text) == dict.fromkeys(("a", "b", "setup", "unused", "c"), "new")
    stage.exit("setup")
    assert stage.starts == ["web", "b", "setup", "a"]
    assert stage.states("c", "unused") == [IDLE, IDLE]


def test_reload_removes() -> None:
    """What is gone is stopped, dependents first, and forgotten."""
    stage = Stage(prompt("web") + prompt("a") + prompt("b", deps="a") + prompt("c", deps="b") + prompt("d", autostart="false"))
    slow(stage, "a", "b", "c")
    begun = stage.now
    assert stage.reload(prompt("web")) == dict.fromkeys("abcd", "removed")
    stage.advance(SETTLED)
    assert [(round(at - begun), name) for at, name, *_ in stage.kills] == [(0, "c"), (3, "b"), (6, "a")]
    assert stage.states() == [OK]
    assert list(stage.fleet.units) == ["web"]
    assert stage.fleet.code is None


def test_reload_removes_over_a_finished_script() -> None:
    """What needs a script needs what that needs: the order goes through it, as in a shutdown."""
    stage = Stage(prompt("other") + prompt("db") + setup("migrate", deps="db") + prompt("web", deps="migrate"))
    stage.exit("migrate")
    slow(stage, "web", "db")
    stage.reload(prompt("other"))
    assert [name for _, name, *_ in stage.kills] == ["web"]
    stage.advance(3.0)
    assert [name for _, name, *_ in stage.kills] == ["web", "db"]


def test_reload_removes_over_one_that_stays() -> None:
    """So does the order of those between which an unchanged one stands."""
    text = prompt("other") + setup("migrate", deps="db")
    stage = Stage(text + prompt("db") + prompt("web", deps="migrate"))
    stage.exit("migrate")
    slow(stage, "web", "db")
    stage.reload(text + changed(prompt, "db"))
    assert [name for _, name, *_ in stage.kills] == ["web"]
    stage.advance(SETTLED)
    assert stage.starts == ["other", "db", "migrate", "web", "db"]
    assert stage.states("db", "migrate", "other") == [OK, OK, OK]


def test_reload_removes_all() -> None:
    """With nothing left to run, overlord goes."""
    stage = Stage(prompt("web"))
    stage.reload(settings())
    stage.advance(SETTLED)
    assert stage.code == 0
    assert "nothing is left to run" in stage.why


@pytest.mark.parametrize("down", [STOPPED, BACKOFF, FAILED, DONE])
def test_reload_removes_what_is_down_before_what_needs_it(down: str) -> None:
    """A unit that has nothing to stop is forgotten while one that depended on it still stops; a shutdown then ends it all."""
    stage = Stage(prompt("other") + prompt("db", **STATE_OPTIONS.get(down, {})) + prompt("web", deps="db"))
    if down == STOPPED:
        stage.stop("db")
    else:
        for _ in range(2 if down == BACKOFF else 1):
            stage.exit("db", 0 if down == DONE else 1)
    assert stage.state("db") == down
    slow(stage, "web")
    stage.reload(prompt("other"))
    begun = stage.now
    stage.request()
    stage.advance(SETTLED)
    assert stage.code == 0
    assert stage.exited_at - begun <= 3.5


def test_reload_restarts_in_dependency_order() -> None:
    """All that changed stop top down and start bottom up; what is between them and unchanged goes on."""
    stage = Stage(prompt("a") + prompt("b", deps="a") + prompt("c", deps="b"))
    slow(stage, "a", "b", "c")
    begun = stage.now
    text = changed(prompt, "a") + changed(prompt, "b", deps="a") + changed(prompt, "c", deps="b")
    assert starts_since(stage, lambda: stage.reload(text)) == ["a", "b", "c"]
    assert [(round(at - begun), name) for at, name, *_ in stage.kills] == [(0, "c"), (3, "b"), (6, "a")]
    text = prompt("a") + changed(prompt, "b", deps="a") + prompt("c", deps="b")
    assert sorted(starts_since(stage, lambda: stage.reload(text))) == ["a", "c"]
    assert [name for _, name, *_ in stage.kills[3:]] == ["c", "a"]


def test_reload_starts_nothing_against_what_is_still_to_be_changed() -> None:
    """Two depend on one, and all have changed: the quicker to stop waits until that one is another."""
    text = prompt("db") + prompt("quick", deps="db") + prompt("slow", deps="db")
    stage = Stage(text)
    slow(stage, "slow")
    assert starts_since(stage, lambda: stage.reload(text.replace("cmd = x", "cmd = y"))) == ["db", "quick", "slow"]


def test_reload_starts_nothing_new_against_what_is_still_to_be_changed() -> None:
    """The same for one that is new, and for one that waited for something else."""
    text = prompt("db") + prompt("slow", deps="db")
    stage = Stage(text + prompt("late", deps="block, db") + prompt("block", warmup="1h"))
    slow(stage, "slow")
    after = text.replace("cmd = x", "cmd = y") + prompt("late", deps="db") + prompt("new", deps="db")
    started = starts_since(stage, lambda: stage.reload(after))
    assert started[0] == "db"
    assert set(started) == {"db", "slow", "late", "new"}


def test_reload_bounces() -> None:
    """Who bounces with what has changed is restarted once it is up again, though it is unchanged itself."""
    rest = prompt("web", deps="db:bounce") + prompt("top", deps="web:bounce") + prompt("ok", deps="db")
    stage = Stage(prompt("db") + rest)
    assert starts_since(stage, lambda: stage.reload(changed(prompt, "db") + rest)) == ["db", "web", "top"]


def test_reload_bounces_no_one_twice() -> None:
    """Changed itself, and bouncing with what has changed: one restart."""
    text = prompt("db") + prompt("web", deps="db:bounce") + prompt("top", deps="web:bounce")
    stage = Stage(text)
    assert starts_since(stage, lambda: stage.reload(text.replace("cmd = x", "cmd = y"))) == ["db", "web", "top"]


def bring_into(stage: Stage, state: str) -> None:
    """Bring the unit `web` into a state."""
    if state in (BACKOFF, FAILED, DONE):
        for _ in range(2 if state == BACKOFF else 1):
            stage.exit("web", 0 if state == DONE else 1)
    elif state == STOPPED:
        stage.stop("web")
    elif state == STOPPING:
        slow(stage, "web")
        stage.stop("web")
    assert stage.state("web") == state




@pytest.mark.parametrize(
    ("state", "after", "started"),
    [
        (STARTING, OK, 1),
        (BACKOFF, OK, 1),
        (FAILED, OK, 1),
        (DONE, OK, 1),
        (OK, OK, 1),
        (STOPPED, STOPPED, 0),
        (STOPPING, STOPPED, 0),
        (IDLE, IDLE, 0),
        (WAITING, WAITING, 0),
    ],
)
def test_reload_of_what_is_in_a_state(state: str, after: str, started: int) -> None:
    """What was to run runs as the new one says; what a person stopped, or nobody asked for, stays down."""
    options, rest = STATE_OPTIONS.get(state, {}), prompt("other") + prompt("gate", autostart="false", warmup="1h")
    stage = Stage(rest + prompt("web", **options))
    bring_into(stage, state)
    count = stage.starts.count("web")
    stage.reload(rest + changed(prompt, "web", **options))
    stage.advance(SETTLED)
    assert stage.state("web") == after
    assert stage.starts.count("web") - count == started
    assert stage.fleet.pending is None


@pytest.mark.parametrize("state", [STARTING, BACKOFF, FAILED, DONE, OK, STOPPED, STOPPING, IDLE, WAITING])
def test_reload_removes_what_is_in_a_state(state: str) -> None:
    options, rest = STATE_OPTIONS.get(state, {}), prompt("other") + prompt("gate", autostart="false", warmup="1h")
    stage = Stage(rest + prompt("web", **options))
    bring_into(stage, state)
    stage.reload(rest)
    stage.advance(SETTLED)
    assert list(stage.fleet.units) == ["other", "gate"]
    assert "web" not in stage.living()


def test_stop_by_hand_while_a_reload_restarts_it() -> None:
    """The later wish counts."""
    stage = Stage(prompt("web") + prompt("other"))
    slow(stage, "web")
    stage.reload(changed(prompt, "web") + changed(prompt, "other"))
    stage.stop("web")
    stage.advance(SETTLED)
    assert stage.states("web", "other") == [STOPPED, OK]
    stage.start("web")
    assert stage.state("web") == OK


def test_start_by_hand_of_what_a_reload_removes() -> None:
    """It goes all the same."""
    stage = Stage(prompt("web") + prompt("other"))
    slow(stage, "web")
    stage.reload(prompt("other"))
    stage.start("web")
    stage.restart("web")
    stage.advance(SETTLED)
    assert list(stage.fleet.units) == ["other"]


def test_reload_while_it_is_about_to_start() -> None:
    """RACE: the process is decided upon and not made yet; then it is made from the new definition, and once."""
    stage = Stage(prompt("web") + prompt("gone") + prompt("other"), boot=False)
    stage.fleet.want_all(stage.now)
    stage.reload(changed(prompt, "web") + prompt("other"))
    stage.advance(SETTLED)
    assert sorted(stage.starts) == ["other", "web"]
    assert stage.current["web"].spec.dir == "/"


def test_reload_of_a_failed_script() -> None:
    """It was mended: it runs again, and who waited for it comes up."""
    rest = prompt("other") + prompt("web", deps="setup")
    stage = Stage(rest + setup(on_failure="ignore"))
    stage.exit("setup", 1)
    assert stage.states("setup", "web") == [FAILED, WAITING]
    stage.reload(rest + changed(setup, "setup", on_failure="ignore"))
    stage.exit("setup")
    assert stage.states("setup", "web") == [OK, OK]


def test_reload_of_a_script_that_has_succeeded() -> None:
    """It has; whoever needs it to run before each start says `always`."""
    rest = prompt("web", deps="setup")
    stage = Stage(rest + setup())
    stage.exit("setup")
    stage.reload(rest + changed(setup, "setup"))
    assert starts_since(stage, lambda: stage.exit("web", 1)) == ["web"]


@pytest.mark.parametrize("how", ["ok", "always"])
@pytest.mark.parametrize("stops", [Temper(), SLOW], ids=["quick", "slow"])
def test_reload_of_a_script_at_work(how: str, stops: Temper) -> None:
    """It is stopped and run as it is now, for all whom it was to serve; runs never overlap."""
    rest = prompt("a", deps=f"setup:{how}") + prompt("b", deps=f"setup:{how}")
    stage = Stage(rest + setup())
    stage.current["setup"].temper = stops
    stage.reload(rest + changed(setup, "setup"))
    stage.tempers["setup"] = QUICK
    if "setup" in stage.living() and len(stage.starts) == 2:
        stage.current["setup"].temper = stage.current["setup"].temper._replace(life=None)
        stage.exit("setup")
    stage.advance(SETTLED)
    assert stage.states("a", "b") == [OK, OK]
    assert stage.starts.count("setup") == (2 if how == "ok" else 3)


@pytest.mark.parametrize("how", ["ok", "always"])
def test_reload_of_a_script_in_backoff(how: str) -> None:
    """It runs as it is now, and who waits for it gets it."""
    rest = prompt("web", deps=f"setup:{how}")
    stage = Stage(rest + setup(respawns=5, backoff="1h..1h"))
    stage.exit("setup", 1)
    stage.exit("setup", 1)
    assert stage.state("setup") == BACKOFF
    stage.tempers["setup"] = QUICK
    stage.reload(rest + changed(setup, "setup"))
    stage.advance(SETTLED)
    assert stage.state("web") == OK


def test_reload_removes_a_script_that_serves() -> None:
    """Who waited for it, and for something else too, needs it no more: that is no failed start."""
    rest = prompt("db", warmup="5s")
    stage = Stage(rest + prompt("web", deps="setup:always, db", respawns=0) + setup())
    assert stage.state("setup") == RUNNING
    stage.reload(rest + prompt("web", deps="db", respawns=0))
    stage.advance(SETTLED)
    assert stage.states("web", "db") == [OK, OK]
    assert stage.code is None


@pytest.mark.parametrize("waits", [False, True])
def test_reload_removes_a_script_and_brings_it_back(waits: bool) -> None:
    """Nothing of the one before is in its way: with two who want it, at work or waiting for something itself."""
    dep = {"deps": "db"} if waits else {}
    rest = prompt("db", warmup="5s")
    text = rest + prompt("a", deps="setup:always") + prompt("b", deps="setup:always") + setup(**dep)
    stage = Stage(text)
    assert stage.state("setup") == (WAITING if waits else RUNNING)
    stage.reload(rest + prompt("a", deps="db") + prompt("b", deps="db"))
    stage.tempers["setup"] = QUICK
    stage.advance(2.0)
    stage.reload(text)
    stage.advance(SETTLED)
    assert stage.states("a", "b") == [OK, OK]


def test_reload_makes_a_daemon_of_a_script() -> None:
    """At work, it is stopped; then it is started as any daemon, and counts as one."""
    stage = Stage(prompt("web", deps="job") + script("job", "x"))
    slow(stage, "job")
    stage.reload(prompt("web", deps="job") + prompt("job"))
    assert stage.state("job") == STOPPING
    stage.advance(SETTLED)
    assert stage.states("job", "web") == [OK, OK]
    assert stage.starts == ["job", "job", "web"]


def test_reload_makes_a_script_of_a_daemon() -> None:
    """Up as a daemon it was, but has not succeeded as a script: it runs for who needs it."""
    stage = Stage(prompt("job") + prompt("web"))
    stage.reload(prompt("web", deps="job") + setup("job") + prompt("late", deps="job"))
    assert stage.states("job", "late") == [RUNNING, WAITING]
    stage.exit("job")
    assert stage.states("job", "late") == [OK, OK]


def test_reload_during_a_reload() -> None:
    """The last one counts, for what the one before had not done yet too."""
    stage = Stage(prompt("a") + prompt("b", deps="a") + prompt("other"))
    slow(stage, "a", "b")
    stage.reload(changed(prompt, "a") + changed(prompt, "b", deps="a") + prompt("other"))
    stage.advance(1.0)
    stage.reload(changed(prompt, "a", umask="077") + prompt("other") + prompt("c"))
    stage.advance(SETTLED)
    assert {name: unit.spec for name, unit in stage.fleet.units.items()} == stage.config.units
    assert stage.states("a", "c") == [OK, OK]
    assert stage.current["a"].spec.umask == 0o077
    assert stage.starts.count("a") == 2
    assert stage.starts.count("b") == 1


def test_reload_during_a_reload_keeps_the_order() -> None:
    """What stops already still needs what the second one changes, although its own new definition does not."""
    stage = Stage(prompt("db") + prompt("web", deps="db"))
    slow(stage, "web", "db")
    stage.reload(prompt("db") + changed(prompt, "web"))
    stage.reload(changed(prompt, "db") + changed(prompt, "web"))
    assert [name for _, name, *_ in stage.kills] == ["web"]
    stage.advance(SETTLED)
    assert [name for _, name, *_ in stage.kills] == ["web", "db"]


def test_reload_back_to_the_first() -> None:
    """While what was changed or removed still stops: in the end all is up as it was written at first."""
    first = prompt("a") + prompt("b", deps="a") + prompt("gone", deps="a") + setup() + prompt("c", deps="setup:always")
    stage = Stage(first)
    stage.exit("setup")
    slow(stage, "a", "b", "gone", "c")
    stage.tempers["setup"] = QUICK
    stage.reload(changed(prompt, "a") + changed(prompt, "b", deps="a") + changed(prompt, "c"))
    stage.advance(1.0)
    stage.reload(first)
    stage.advance(SETTLED)
    assert {name: unit.spec for name, unit in stage.fleet.units.items()} == stage.config.units
    assert stage.states("a", "b", "gone", "c") == [OK, OK, OK, OK]
    assert all(stage.current[name].spec == stage.config.units[name] for name in ("a", "b", "gone", "c"))


def test_reload_back_in_time() -> None:
    """What was changed, or removed, and not yet stopped for it is what it is to be again: it goes on untouched."""
    first = prompt("db") + prompt("cache") + prompt("web", deps="db, cache")
    stage = Stage(first)
    slow(stage, "web")
    stage.reload(changed(prompt, "db") + prompt("web", deps="db", umask="077"))
    news: dict[str, str] = {}
    assert starts_since(stage, lambda: news.update(stage.reload(first))) == ["web"]
    assert news == {"db": "changed: dir", "cache": "new", "web": "changed: deps, umask"}  # against what was asked for last
    assert [name for _, name, *_ in stage.kills] == ["web"]
    assert stage.states("db", "cache", "web") == [OK, OK, OK]


def test_reload_brings_back_what_is_being_removed() -> None:
    """It is stopped and started again, and it is told that it is new."""
    stage = Stage(prompt("web") + prompt("other"))
    slow(stage, "web")
    stage.reload(prompt("other"))
    news = stage.reload(prompt("web", stop_timeout="1s") + prompt("other"))
    assert "web" in news
    stage.advance(SETTLED)
    assert stage.states("web", "other") == [OK, OK]
    assert stage.fleet.units["web"].spec.stop_timeout == 1.0


def test_reload_turns_dependencies_round() -> None:
    """a needed b, now b needs a: neither the old nor the new order is lost, nor makes a cycle with the other."""
    stage = Stage(prompt("a", deps="b") + prompt("b"))
    slow(stage, "a", "b")
    assert starts_since(stage, lambda: stage.reload(changed(prompt, "a") + changed(prompt, "b", deps="a"))) == ["a", "b"]
    assert [name for _, name, *_ in stage.kills] == ["a", "b"]


@pytest.mark.parametrize("down", [[], ["b"]])
def test_shutdown_while_a_reload_turns_dependencies_round(down: list[str]) -> None:
    """It ends when all have stopped, and not only when its time is up."""
    stage = Stage(prompt("a", deps="b") + prompt("b"))
    stage.stop(*down)
    slow(stage, "a", "b")
    stage.reload(changed(prompt, "a") + changed(prompt, "b", deps="a"))
    stage.advance(1.0)
    begun = stage.now
    stage.request()
    stage.advance(SETTLED)
    assert stage.code == 0
    assert stage.exited_at - begun <= 5.5


def test_shutdown_in_the_middle_of_a_reload() -> None:
    """What was to be restarted is not, and nothing is stopped before what still runs and needs it, under the old definition."""
    stage = Stage(prompt("db") + prompt("web", deps="db") + prompt("gone", deps="db"))
    slow(stage, "web", "gone", "db")
    stage.reload(prompt("db") + changed(prompt, "web") + prompt("new"))
    stage.advance(1.0)
    count = len(stage.starts)
    stage.request()
    assert "db" not in [name for _, name, *_ in stage.kills]
    stage.advance(SETTLED)
    assert stage.code == 0
    assert len(stage.starts) == count
    assert [name for _, name, *_ in stage.kills][-1] == "db"


def test_reload_during_a_bounce_wave() -> None:
    """The wave goes on for those who are unchanged, and whoever has changed is restarted once in it all."""
    text = prompt("a", warmup="1s") + prompt("b", deps="a:bounce", warmup="1s")
    stage = Stage(text + prompt("c", deps="b:bounce") + prompt("d", deps="b:bounce") + prompt("e", deps="b:bounce"))
    stage.advance(5.0)
    slow(stage, "c")
    stage.exit("a", 1)
    stage.advance(0.5)
    assert stage.state("a") == STARTING
    after = text + changed(prompt, "c", deps="b:bounce") + prompt("d", deps="b:bounce") + prompt("new", deps="b:bounce")
    started = starts_since(stage, lambda: stage.reload(after))
    stage.check_rest()
    assert started.count("b") == started.count("d") == started.count("new") == 1
    assert set(stage.states()) == {OK}


def test_reload_drops_a_bounce_in_a_wave() -> None:
    """Who is to wait for the wave, and bounces no more, does not wait for ever."""
    text = prompt("a", warmup="1h") + prompt("b", deps="a:bounce")
    stage = Stage(text + prompt("c", deps="b:bounce"))
    assert stage.state("c") == WAITING
    stage.reload(text + prompt("c"))
    assert stage.state("c") == OK


def test_reload_gives_new_chances() -> None:
    """What has used up its `respawns` has them anew once it is another, and its back-off begins at the beginning."""
    rest, options = prompt("other"), {"respawns": 1, "on_failure": "ignore", "backoff": "1h..1h"}
    stage = Stage(rest + prompt("web", **options))
    stage.exit("web", 1)
    stage.exit("web", 1)
    assert stage.state("web") == FAILED
    stage.reload(rest + changed(prompt, "web", **options))
    stage.exit("web", 1)
    assert stage.state("web") == OK
    stage.exit("web", 1)
    assert stage.state("web") == FAILED


def test_reload_to_what_fails() -> None:
    """Changed and failing is handled as any failing unit."""
    stage = Stage(prompt("a") + prompt("b") + prompt("c"))
    stage.tempers = {"a": Temper(life=0.0, code=1), "b": Temper(life=0.0, code=5), "c": Temper(life=0.0, code=7)}
    a, c = changed(prompt, "a", backoff="1h..1h"), changed(prompt, "c", respawns=0)
    stage.reload(a + changed(prompt, "b", respawns=0, on_failure="ignore") + prompt("c"))
    stage.advance(1.0)
    assert stage.states("a", "b", "c") == [BACKOFF, FAILED, OK]
    stage.reload(a + changed(prompt, "b", respawns=0, on_failure="ignore") + c)
    stage.advance(SETTLED)
    assert stage.code == 7


def test_reload_with_a_main_command() -> None:
    """It goes on, and waits for who is new where it has not started yet."""
    stage = Stage(prompt("a", warmup="5s"), "main")
    stage.reload(prompt("b", warmup="10s"))
    stage.advance(9.0)
    assert stage.state(MAIN) == WAITING
    stage.advance(1.0)
    assert stage.state(MAIN) == RUNNING
    assert sorted(starts_since(stage, lambda: stage.reload(changed(prompt, "b") + prompt("c")))) == ["b", "c"]
    assert stage.state(MAIN) == RUNNING
    stage.exit(MAIN, 5)
    assert stage.code == 5


def test_reload_leaves_nothing_behind() -> None:
    """After many reloads with ever other names, no table is longer than it was."""
    sizes = []
    stage = Stage(prompt("web"))
    for number in range(50):
        text = prompt(f"d{number}", deps=f"s{number}:always") + setup(f"s{number}") + prompt("e", deps=f"d{number}:bounce")
        stage.reload(prompt("web") + text)
        stage.exit(f"s{number}", number % 2)
        stage.advance(1.0)
        tables = {key: len(table) for key, table in vars(stage.fleet).items() if isinstance(table, (dict, set, list))}
        sizes.append(sum(tables.values()))
    assert max(sizes[10:]) <= max(sizes[:10]), tables


def test_reload_makes_it_everybodys_affair_again() -> None:
    """Started by hand, its end ended nothing; what a reload starts anew is the container's."""
    text = prompt("other") + prompt("web", respawns=0)
    for after, code in ((text, None), (prompt("other") + changed(prompt, "web", respawns=0), 7)):
        stage = Stage(text)
        stage.stop("web")
        stage.start("web")
        stage.reload(after)
        stage.exit("web", 7)
        stage.advance(SETTLED)
        assert stage.code == code


def test_reload_makes_a_daemon_of_a_script_that_is_asked_for() -> None:
    """It waits, for somebody asked for it by hand: as a daemon it is asked for too, though nobody needs it."""
    stage = Stage(prompt("db", warmup="1h") + setup("job", deps="db"))
    stage.start("job")
    stage.reload(prompt("db", warmup="1h") + prompt("job", deps="db", autostart="false"))
    assert stage.state("job") == WAITING


@pytest.mark.parametrize("stays", [True, False])
def test_reload_removes_for_whom_a_script_runs(stays: bool) -> None:
    """Then it runs for nobody: how it ends is nobody's affair."""
    rest = prompt("other") + setup(on_failure="shutdown")
    stage = Stage(rest + prompt("web", deps="setup:always"))
    stage.reload(rest + (prompt("web", deps="setup:always") if stays else ""))
    stage.exit("setup", 5)
    stage.advance(SETTLED)
    assert stage.code == (5 if stays else None)


def test_shutdown_ends_a_reload() -> None:
    """Who has asked for that is not kept waiting, and nothing new is taken over."""
    stage = Stage(prompt("web") + prompt("db"))
    slow(stage, "web")
    stage.reload(changed(prompt, "web") + prompt("new"))
    assert stage.fleet.pending
    stage.request()
    assert not stage.fleet.pending
    stage.advance(SETTLED)
    assert stage.code == 0
    assert set(stage.fleet.units) == {"web", "db"}


@pytest.mark.parametrize("shape", ["flat", "chain"])
def test_cost_of_a_reload(shape: str) -> None:
    """Twice the units, twice the work: a reload that changes them all is no matter of their square."""
    counts = []
    for count in (100, 200):
        text = "".join(prompt(f"d{n}", **({"deps": f"d{n - 1}"} if n and shape == "chain" else {})) for n in range(count))
        stage = Stage(text, watch=False)
        after = text.replace("cmd = x", "cmd = y")
        config = configure(after)

        def act(stage: Stage = stage, config: overlord.Config = config) -> None:
            stage.fleet.change_config(config, stage.now)
            stage.perform()
            stage.settle()

        counts.append(lines_of(act))
        assert set(stage.states()) == {OK}
        assert len(stage.starts) == 2 * count
    assert counts[1] <= 2.7 * counts[0], counts


# --- readiness, waiting, schedules, instances -------------------------------------------------------------------------


def test_dependents_wait_until_it_is_ready() -> None:
    """Up to then nobody starts who needs it; its own restart has to be ready anew, and bounces follow then."""
    stage = Stage(prompt("db", ready="tcp:80", health="tcp:80") + prompt("web", deps="db:bounce"), boot=False)
    stage.silent = {"db"}
    stage.boot()
    assert stage.states("db", "web") == [STARTING, WAITING]
    stage.tell("db")
    assert stage.states("db", "web") == [OK, OK]
    stage.tell("db", "unwell", "unhealthy: no answer")
    assert stage.states("db", "web") == [STARTING, OK]
    stage.tell("db")
    assert stage.starts == ["db", "web", "db", "web"]
    assert stage.tests == [("db", "ready"), ("db", "health")] * 2


def test_pause_before_it_is_ready() -> None:
    """The time in which nothing ran counts neither for `ready_timeout` nor for `warmup`."""
    stage = Stage(prompt("web", warmup="5s", ready="notify", ready_timeout="60s"), boot=False)
    stage.silent = {"web"}
    stage.boot()
    stage.advance(1.0)
    stage.now += 100.0
    stage.shift(100.0)
    stage.advance(5.0)
    stage.tell("web")
    assert (stage.state("web"), stage.starts) == (OK, ["web"])


def test_waits_for_what_lives_outside() -> None:
    """After its dependencies, before each start, and for ever; that alone keeps overlord up."""
    stage = Stage(prompt("db") + prompt("web", deps="db", wait_for="tcp:x:1"), boot=False)
    stage.silent = {"web"}
    stage.boot()
    stage.advance(SETTLED)
    assert (stage.states("db", "web"), stage.tests, stage.code) == ([OK, WAITING], [("web", "wait_for")], None)
    stage.reach("web")
    assert stage.state("web") == OK
    stage.exit("web", 1)
    assert stage.tests == [("web", "wait_for")] * 2
    assert stage.state("web") == WAITING
    alone = Stage(prompt("web", wait_for="tcp:x:1"), boot=False)
    alone.silent = {"web"}
    alone.boot()
    assert (alone.state("web"), alone.code) == (WAITING, None)


def test_sockets_come_before_dependencies() -> None:
    """They are asked for as soon as the unit is wanted, and once; a restart has them; an address in use is a failed start."""
    stage = Stage(prompt("db", warmup="5s") + prompt("web", deps="db", listen="tcp:80", backoff="1s..1s"), boot=False)
    stage.silent = {"web"}
    stage.boot()
    assert stage.states("db", "web") == [STARTING, WAITING]
    assert (stage.tests, stage.fleet.units["web"].waits) == ([("web", "listen")], None)
    assert "tcp:80" in stage.fleet.explain(stage.fleet.units["web"], stage.now)
    stage.tell("web", "barred", "listen tcp:80: Address already in use")
    stage.advance(2.0)
    assert (stage.state("web"), stage.tests) == (WAITING, [("web", "listen")] * 2)
    stage.reach("web")
    assert stage.fleet.units["web"].waits is stage.fleet.units["db"]
    stage.advance(SETTLED)
    assert stage.state("web") == OK
    stage.exit("web", 1)
    stage.advance(2.0)
    assert (stage.state("web"), len(stage.tests)) == (OK, 2)
    alone = Stage(prompt("web", listen="tcp:80"), boot=False)
    alone.silent = {"web"}
    alone.boot()
    assert (alone.state("web"), alone.code) == (WAITING, None)


def test_whose_sockets_it_waits_for() -> None:
    """Those of `listen` are for overlord to open; what `wait_for` names is for others."""
    said = []
    for option in ("listen", "wait_for"):
        stage = Stage(prompt("web", **{option: "tcp:80"}), boot=False)
        stage.silent = {"web"}
        stage.boot()
        said.append(stage.fleet.explain(stage.fleet.units["web"], stage.now))
    assert ["overlord" in each for each in said] == [True, False]


def test_what_anybody_may_read() -> None:
    """For whom a unit waits, or for what of its own, and no word of that; nothing while a reload stops others first."""
    stage = Stage(prompt("db", warmup="5s") + prompt("web", deps="db") + prompt("far", wait_for="cmd:secret"), boot=False)
    stage.silent = {"far"}
    stage.boot()
    read = {name: overlord.explain_openly(unit) for name, unit in stage.fleet.units.items()}
    assert read == {"db": "", "web": "for db", "far": "for its wait_for"}
    unit = stage.fleet.units["far"]
    unit.reach = ""
    assert overlord.explain_openly(unit) == ""


def test_sockets_and_what_lives_outside() -> None:
    """A reload that changes the address, while `wait_for` is probed, has the new socket opened, and then that probed anew."""
    text = prompt("web", listen="tcp:80", wait_for="tcp:x:1")
    stage = Stage(text, boot=False)
    stage.silent = {"web"}
    stage.boot()
    stage.reach("web")
    assert stage.tests == [("web", "listen"), ("web", "wait_for")]
    stage.reload(text.replace("tcp:80", "tcp:81"))
    assert stage.tests[2:] == [("web", "listen")]
    stage.reach("web")
    assert stage.tests[3:] == [("web", "wait_for")]
    stage.reach("web")
    assert stage.state("web") == OK


def test_reload_of_what_it_waits_for() -> None:
    """A mistyped address is put right by a reload: the new one is probed from then on."""
    stage = Stage(prompt("web", wait_for="tcp:x:1"), boot=False)
    stage.silent = {"web"}
    stage.boot()
    stage.reload(prompt("web", wait_for="tcp:x:2"))
    assert stage.state("web") == WAITING
    assert stage.tests == [("web", "wait_for")] * 2
    stage.reload(prompt("web"))
    assert stage.state("web") == OK


@pytest.mark.parametrize("how", ["by hand", "max_age"])
def test_instances_take_turns(how: str) -> None:
    """One after the other is restarted, each when the one before is OK; none twice."""
    stage = Stage(prompt("web", count=3, warmup="1s", **({"max_age": "1m"} if how == "max_age" else {})))
    names = ["web-1", "web-2", "web-3"]
    stage.advance(2.0)
    if how == "by hand":
        stage.restart(*names)
        assert stage.states(*names) == [STARTING, OK, OK]
    stage.advance(10.0 if how == "by hand" else 70.0)
    assert stage.states(*names) == [OK, OK, OK]
    assert stage.starts == names * 2
    begun = [stage.current[name].started for name in names]
    assert begun[1] - begun[0] >= 1.0 and begun[2] - begun[1] >= 1.0


@pytest.mark.parametrize("end", ["stopped", "failed"])
def test_turn_of_one_that_is_gone(end: str) -> None:
    """It keeps nobody from his turn."""
    stage = Stage(prompt("web", count=3, warmup="1s", restart="never", on_failure="ignore"))
    stage.advance(2.0)
    stage.restart("web-1", "web-2", "web-3")
    if end == "stopped":
        stage.stop("web-2")
    else:
        stage.exit("web-2", 1)
    stage.advance(10.0)
    assert stage.states("web-1", "web-3") == [OK, OK]
    assert [stage.starts.count(name) for name in ("web-1", "web-2", "web-3")] == [2, 1, 2]


def test_run_by_the_clock() -> None:
    """It changes no `ok`, its failure ends nothing, and a run that is still going is not doubled."""
    stage = Stage(prompt("other") + script("job", "x", schedule="@hourly") + prompt("web", deps="job", autostart="false"))
    stage.strike("job")
    stage.strike("job")
    assert stage.starts == ["other", "job"]
    assert any("still going" in text for text in stage.text_of("job"))
    stage.exit("job")
    assert stage.state("job") == OK
    stage.strike("job")
    stage.exit("job", 3)
    assert (stage.state("job"), stage.code) == (FAILED, None)
    stage.start("web")
    assert stage.states("job", "web") == [RUNNING, WAITING]
    stage.exit("job")
    assert stage.state("web") == OK
    stage.strike("job")
    stage.exit("job", 3)
    stage.exit("web", 1)
    assert stage.state("web") == OK


def test_asked_for_while_it_runs_by_the_clock() -> None:
    """Who needs it `ok` gets a run of his own after that."""
    stage = Stage(prompt("other") + script("job", "x", schedule="@hourly") + prompt("web", deps="job", autostart="false"))
    stage.strike("job")
    stage.start("web")
    stage.exit("job")
    assert stage.states("job", "web") == [RUNNING, WAITING]
    stage.exit("job")
    assert stage.state("web") == OK


def test_a_schedule_keeps_it_up() -> None:
    """With nothing else to run, the next run is still to come."""
    stage = Stage(script("job", "x", schedule="@hourly"))
    stage.strike("job")
    stage.exit("job", 1)
    assert stage.code is None
    stage.request()
    assert stage.code == 0


# --- worlds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", range(PARTS))
def test_worlds(part: int) -> None:
    """Whatever happens, all that `world.Watched` checks around every event holds, and it comes to a rest and an end.

    A failure prints the seed; `World(seed).play()` plays that world again.
    """
    for number in range(part, WORLDS, PARTS):
        World(SEED + number).play()


def test_worlds_are_wild_enough() -> None:
    """Among them, the worlds go most ways that there are."""
    seen: set[tuple[str, str, str]] = set()
    for seed in range(SEED, SEED + 100):
        seen |= set(World(seed).play().seen)
    arrows = {(source, target) for source, _, target in seen if source != target}
    assert len(arrows) >= 24
    assert {(STARTING, BACKOFF), (OK, STOPPING), (STOPPING, WAITING), (STOPPING, FAILED), (RUNNING, STOPPING)} <= arrows


def test_start_by_hand_begins_anew() -> None:
    """Who has used up `respawns = N/ok` has them anew when a person starts it, and its back-off begins at the beginning."""
    stage = Stage(prompt("web", respawns="2/ok", backoff="1s..9s", warmup="5s", on_failure="ignore") + prompt("other"))
    for _ in range(2):
        for _ in range(2):
            stage.exit("web", 1)
            stage.advance(2.0)
            assert stage.state("web") == STARTING
        stage.exit("web", 1)
        assert stage.state("web") == FAILED
        stage.start("web")


def test_order_of_what_is_started_by_hand() -> None:
    """Nor does it matter in which order they are named: who is only to be started after another is."""
    stage = Stage(prompt("other") + prompt("a", autostart="false") + prompt("c", autostart="false", deps="a:started"))
    stage.start("c", "a")
    assert stage.starts == ["other", "a", "c"]


def test_script_in_backoff_by_hand() -> None:
    """A person need not wait for its delay: it runs at once, and only once."""
    for verb in ("start", "restart"):
        stage = Stage(script("setup", "x", respawns="9", backoff="1h..2h") + prompt("web", deps="setup"))
        for _ in range(2):
            stage.exit("setup", 1)
        assert stage.state("setup") == BACKOFF
        getattr(stage, verb)("setup")
        assert stage.state("setup") == RUNNING
        stage.exit("setup", 0)
        assert (stage.state("setup"), stage.starts.count("setup"), stage.state("web")) == (OK, 3, OK)


def test_removed_script_is_not_restarted() -> None:
    """Nor is it said to be."""
    stage = Stage(script("setup", "x") + prompt("web", deps="setup"))
    stage.reload(prompt("web"))
    assert [text for _, unit, text in stage.said if unit == "setup" and "restarting" in text] == []
    assert list(stage.fleet.units) == ["web"]


def test_worlds_repeat_themselves() -> None:
    """One seed, one world."""
    for seed in range(20):
        assert list(World(seed).play().trace) == list(World(seed).play().trace)


def test_waves_in_worlds() -> None:
    """Random graphs of bounces with crashes at random: who is up in the end is newer than all it bounces with.

    That each is restarted no more often than it has to be is for `test_wave_of_any_speed`; here waves meet waves.
    """
    for seed in range(SEED, SEED + WORLDS // 8):
        rng = random.Random(seed)
        count = rng.randint(2, 10)
        text = ""
        for number in range(count):
            deps = [f"d{other}:{rng.choice(('bounce', 'bounce', 'ok'))}" for other in range(number) if rng.random() < 0.4]
            text += prompt(f"d{number}", warmup=f"{rng.randint(0, 2000)}ms", **({"deps": ", ".join(deps)} if deps else {}))
        stage = Stage(text, boot=False)
        stage.tempers = {f"d{n}": Temper(patience=rng.uniform(0, 3)) for n in range(count)}
        stage.boot()
        for _ in range(rng.randint(1, 30)):
            stage.advance(rng.expovariate(1.0))
            alive = stage.living()
            if alive:
                stage.exit(rng.choice(alive), 1)
        stage.advance(SETTLED)
        check(set(stage.states()) == {OK}, f"seed {seed}: {stage.states()}\n{text}")
        stage.check_rest()


def test_benchmark_of_events_runs() -> None:
    """`make bench` prints it."""
    events = Path(__file__).with_name("bench") / "events.py"
    done = subprocess.run([sys.executable, str(events)], stdout=subprocess.PIPE, text=True, check=True)
    assert re.search(r"\| death \| \d+ \| \d+ \|", done.stdout)
