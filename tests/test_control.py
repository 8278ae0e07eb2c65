"""The control socket and its verbs: what they say and do, and that nobody who uses or abuses it disturbs supervision."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import re
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from pathlib import Path
from typing import Any, Callable, Iterator, Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import Start
from harness import (
    IN_USE,
    OVERLORD,
    PATH,
    PATIENCE,
    Asking,
    Overlord,
    Process,
    Terminal,
    address,
    connect,
    daemon,
    dial,
    eventually,
    exchange,
    invoke,
    read_all,
    script,
    system_python,
    use_up_descriptors,
)

NEVER = "1000s"
SLEEP = "exec sleep 12345"
LIMIT_OF_GROWTH = 30 << 20  # bytes by which overlord may grow while clients flood it, or read nothing
UNTIL_GO = "until test -e go; do sleep 0.01; done"
CAPTURED = {"stdout": "prefix", "stderr": "prefix"}
FAILS = {"restart": "never", "on_failure": "ignore", "warmup": NEVER}  # with `exit N`: fails for good


@pytest.fixture
def fleet(overlord: Start, tmp_path: Path) -> Iterator[Start]:
    """Start an overlord with a socket. At the end there is no fault of its own in its log."""
    started: list[Overlord] = []

    def start(config: str = "", *command: str, **options: Any) -> Overlord:
        options["settings"] = {"socket": "abstract", **options.get("settings", {})}
        o = overlord(config, *command, **options)
        started.append(o)
        eventually(lambda: o.log or o.popen.poll() is not None, "its first words: it listens before it says anything")
        return o

    yield start
    for o in started:
        faults = [line for line in o.log if "internal error" in line or "Traceback" in line]
        assert not faults, faults


@pytest.fixture
def asking() -> Iterator[Callable[..., Asking]]:
    """A function that runs a verb in the background; what still runs ends with the test."""
    made: list[Asking] = []

    def make(argv: Sequence[str], **options: Any) -> Asking:
        made.append(Asking(argv, **options))
        return made[-1]

    yield make
    for each in made:
        each.kill()


def look(o: Overlord) -> dict[str, tuple[str, str]]:
    """Return the state and the pid of each unit. Without a client, which would cost a tenth of a second."""
    answer = exchange(o, b"status\n").decode()
    rows = [line[1:].split("\t") for line in answer.splitlines() if line[0] == " "]
    return {row[0]: (row[2], row[3]) for row in rows}


def states(o: Overlord) -> dict[str, str]:
    """Return the state of each unit."""
    return {name: state for name, (state, _) in look(o).items()}


def status(o: Overlord, *names: str) -> list[dict[str, Any]]:
    """Return what `status -j` says."""
    found = json.loads(o.ask("status", "-j", *names, code=None).stdout)
    assert isinstance(found, list)
    return found


def descriptors(o: Overlord) -> int:
    """Return how many descriptors overlord has open."""
    return len(os.listdir(f"/proc/{o.pid}/fd"))


def settled(o: Overlord) -> int:
    """Return how many it has at rest: a client sees the end of an answer a moment before overlord has closed it."""
    counts = []
    for _ in range(10):
        counts.append(descriptors(o))
        time.sleep(0.01)
    return min(counts)


def memory(o: Overlord) -> int:
    """Return the bytes of memory that overlord has now."""
    return int(Process(o.pid).status["VmRSS"].split()[0]) * 1024


def comes_back(o: Overlord, name: str) -> None:
    """Kill a daemon, and see that supervision goes on: it is started again, and is OK."""
    mark = o.mark
    o.kill_unit(name)
    o.says(name, "ok", after=mark)


def ends_well(o: Overlord) -> None:
    """End it as `docker stop` does."""
    assert o.stop() == 0
    assert o.count("internal error") == 0


def as_user(uid: str) -> list[str]:
    """Return a prefix that becomes another user."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    return ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--bounding-set=-all"]


# --- all of it, on each interpreter ----------------------------------------------------------------------------------


def test_each_verb(fleet: Start, asking: Callable[..., Asking], python: list[str]) -> None:
    """Nothing that a verb needs, here or there, is missing on any interpreter."""
    o = fleet(
        daemon("db", "echo hello; exec sleep 12345", **CAPTURED) + daemon("web", SLEEP, deps="db:bounce"),
        python=python,
    )
    o.says("web", "ok")
    assert [unit["state"] for unit in status(o)] == ["ok", "ok"]
    assert re.search("^web +daemon +ok ", o.ask("status").stdout, re.MULTILINE)
    assert o.ask("health").stdout == "healthy: 2 daemons ok\n"
    assert o.ask("wait", "web").stdout == "web: ok\n"
    follower = asking(o.client("logs", "-f", "db"))
    follower.wait_for("^hello$")
    events = asking(o.client("events"))
    events.wait_for("^web ok$")
    told = o.ask("restart", "db").stdout
    for line in ("db: stopped", "db: ok", "web: stopping .*: db was restarted", "web: ok"):
        assert re.search(f"^{line}", told, re.MULTILINE), told
    eventually(lambda: follower.lines == ["hello", "hello"], f"the new one is heard {follower.lines}")
    events.wait_for("^web stopping ")
    assert o.ask("logs", "-n", "1", "db").stdout == "hello\n"
    assert "SIGURG sent to pid" in o.ask("signal", "URG", "db").stdout
    assert o.ask("graph").stdout == "web  ok\n\u2514\u2500 db:bounce  ok\n"
    assert "ok at" in o.ask("timeline").stdout
    assert [unit["name"] for unit in json.loads(o.ask("timeline", "-j").stdout)] == ["db", "web"]
    assert "its last words:\n  | hello" in o.ask("why", "db").stdout
    assert "stopped" in o.ask("stop", "web").stdout
    assert o.ask("shutdown", "5").stdout == "shutting down\n"
    assert o.wait_exit() == 5


# --- status ----------------------------------------------------------------------------------------------------------


def crowd() -> str:
    """Return units, one in each state that lasts by itself."""
    return (
        daemon("web", SLEEP)
        + daemon("young", SLEEP, warmup=NEVER)
        + daemon("flapping", "echo one; echo two; exit 3", warmup=NEVER, backoff="1000s..2000s", **CAPTURED)
        + daemon("behind", SLEEP, deps="flapping")
        + daemon("far-behind", SLEEP, deps="web, behind:bounce")
        + daemon("asleep", SLEEP, autostart="false")
        + daemon("ended", "true", restart="never")
        + daemon("a-name-of-20-letters", "exit 7; # \u00e4 \u2026", **FAILS)
        + script("setup", "true")
        + daemon("by-hand", SLEEP, deps="setup")
        + script("work", "exec sleep 12345")
        + daemon("patient", SLEEP, deps="work")
    )


CROWD = {
    "web": "ok",
    "young": "starting",
    "flapping": "backoff",
    "behind": "waiting",
    "far-behind": "waiting",
    "asleep": "idle",
    "ended": "done",
    "a-name-of-20-letters": "failed",
    "setup": "ok",
    "by-hand": "stopped",
    "work": "running",
    "patient": "waiting",
}


def crowded(fleet: Start) -> Overlord:
    """Start those, and wait until each is in its state."""
    o = fleet(crowd())
    o.ask("wait", "by-hand")
    o.ask("stop", "by-hand")
    eventually(lambda: states(o) == CROWD, "all are in their states")
    return o


def on_terminal(terminal: Terminal, argv: Sequence[str], **environment: str) -> list[str]:
    """Run a command on a terminal of 80 columns, and return the lines that come out."""
    fcntl.ioctl(terminal.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    after = len(terminal.text)
    subprocess.run(argv, stdin=terminal.slave, stdout=terminal.slave, check=False, env={"PATH": PATH, **environment})
    os.write(terminal.slave, b"<end>\n")
    terminal.expect("<end>", after)
    return terminal.text[after:].replace("\r", "").partition("<end>")[0].splitlines()


def test_status(fleet: Start, terminal: Terminal) -> None:
    """A table for people, in 80 columns and in colour on a terminal; JSON for machines; the exit code for scripts."""
    o = crowded(fleet)

    found = {unit["name"]: unit for unit in status(o)}
    assert list(found["web"]) == [
        *("name", "kind", "state", "pid", "for", "uptime", "restarts", "next", "cause", "blocked", "deps"),
        *("memory", "processor", "processes", "starts", "code", "last", "why"),
    ]
    web, flapping, behind = found["web"], found["flapping"], found["far-behind"]
    assert (web["kind"], web["pid"], web["restarts"], web["next"]) == ("daemon", o.unit("web").pid, 0, None)
    assert web["uptime"] > 0
    assert (flapping["pid"], flapping["uptime"], flapping["restarts"]) == (None, None, 2)
    assert re.match(r"pid \d+ exited with code 3 after", flapping["cause"]) and web["cause"] == ""
    assert 900 < flapping["next"] < 1101
    assert re.match(r"pid \d+ exited with code 3 after .*next try in 1[678] min", flapping["why"])
    assert behind["deps"] == ["web:ok", "behind:bounce"]
    assert behind["blocked"] == "behind"
    assert "code 7" in found["a-name-of-20-letters"]["why"]
    assert found["setup"]["kind"] == "script"

    assert [unit["name"] for unit in status(o, "w*", "setup")] == ["web", "setup", "work"]
    assert o.ask("status", "web", "young", code=3).returncode == 3
    for fine in ("web", "asleep", "work", "ended", "by-hand", "setup"):
        o.ask("status", fine, code=0)
    for bad in ("young", "flapping", "behind", "a-name*"):
        o.ask("status", bad, code=3)

    plain = o.ask("status", code=3).stdout
    assert "\x1b" not in plain
    header, *rows = plain.splitlines()
    assert header.split() == ["NAME", "KIND", "STATE", "PID", "UPTIME", "RESTARTS", "MEMORY", "WHY"]
    assert len(rows) == len(CROWD)
    for row in rows:
        name, kind = row.split()[:2]
        assert row.index(kind, len(name)) == header.index("KIND")
        assert row[header.index("STATE") :].startswith(CROWD[name] + " ")
        assert row[header.index("PID") : header.index("UPTIME")].strip() == str(found[name]["pid"] or "")
        assert row[header.index("WHY") :].split(" (")[0][:12] == found[name]["why"][:12]

    coloured = on_terminal(terminal, o.client("status"))
    bare = [re.sub("\x1b\\[[0-9;]*m", "", line) for line in coloured]
    assert any("\x1b[32mok" in line for line in coloured)
    assert any("\x1b[31mfailed" in line for line in coloured)
    assert len(bare) == len(rows) + 1
    assert max(map(len, bare)) <= 80, bare
    uncoloured = on_terminal(terminal, o.client("status"), NO_COLOR="1")
    assert not any("\x1b" in line for line in uncoloured)
    assert max(map(len, uncoloured)) <= 80
    ends_well(o)


@pytest.mark.parametrize("verb", ("timeline", "graph"))
def test_width(fleet: Start, terminal: Terminal, verb: str) -> None:
    """The other pictures fit a terminal of 80 columns too: a bar that is broken across lines is none."""
    o = crowded(fleet)
    drawn = on_terminal(terminal, o.client(verb), NO_COLOR="1")
    assert len(drawn) >= len(CROWD)
    assert max(map(len, drawn)) <= 80, drawn


def test_status_of_a_main_command(fleet: Start) -> None:
    """It is a unit like any other to look at, and none to be named."""
    o = fleet(daemon("web", SLEEP), "sleep", "54321")
    o.wait_for("main command: started")
    assert re.search("^main command +main +ok|^main command +main +running", o.ask("status").stdout, re.MULTILINE)
    assert o.ask("stop", "main command", code=64).stderr.startswith("overlord: there is no unit")
    o.ask("restart", "*")
    assert o.running("sleep", "54321")
    o.ask("shutdown", "9")
    assert o.wait_exit() == 9


# --- health ----------------------------------------------------------------------------------------------------------


def test_health(fleet: Start) -> None:
    """What a HEALTHCHECK needs: 0 or 1 and one line, about the daemons that are wanted."""
    o = fleet(
        script("setup", "exit 0")
        + daemon("web", SLEEP, deps="setup")
        + daemon("broken", "exit 3", **FAILS)
        + daemon("asleep", SLEEP, autostart="false")
        + daemon("ended", "true", restart="never")
        + daemon("slow", SLEEP, warmup=NEVER, autostart="false"),
    )
    o.says("web", "ok")
    o.says("broken", "failed")
    o.says("ended", "done")
    assert o.ask("health").stdout == "healthy: 1 daemon ok\n", "ignored, finished and idle ones are no matter"
    o.ask("stop", "web")
    assert o.ask("health").stdout == "healthy: 0 daemons ok, 1 stopped\n", "one stopped by hand is not wanted"
    o.ask("start", "web")
    o.ask("start", "slow", "-t", "50ms", code=1)
    told = o.ask("health", code=1).stdout
    assert told.startswith("unhealthy: slow is starting"), told
    assert told.count("\n") == 1
    o.ask("stop", "slow")
    o.ask("health")
    ends_well(o)


@pytest.mark.parametrize(
    ("config", "state"),
    (
        (daemon("web", "exit 3", warmup=NEVER, backoff="1000s..1000s"), "backoff"),
        (script("setup", SLEEP) + daemon("web", SLEEP, deps="setup"), "waiting"),
        (daemon("bad", "exit 3", **FAILS) + daemon("web", SLEEP, deps="bad"), "waiting"),
    ),
    ids=("backoff", "behind a script", "behind one that failed"),
)
def test_unhealthy(fleet: Start, config: str, state: str) -> None:
    """A daemon that is wanted and not up is not well, however it came to that."""
    o = fleet(config + daemon("stay", SLEEP))
    eventually(lambda: states(o)["web"] == state, f"web is {state}")
    assert re.match(f"unhealthy: web is (in )?{state}", o.ask("health", code=1).stdout)


# --- start, stop, restart --------------------------------------------------------------------------------------------


def test_by_hand(fleet: Start) -> None:
    """One, several, or as many as a pattern means; each verb says what came of it."""
    names = ("web", "worker-1", "worker-2")
    o = fleet("".join(daemon(name, SLEEP) for name in names) + daemon("asleep", SLEEP, autostart="false"))
    for name in names:
        o.says(name, "ok")

    assert "there is no unit worker, but worker-1, worker-2: name one" in o.ask("why", "worker", code=64).stderr

    def restarted(*words: str) -> tuple[str, set[str]]:
        before = look(o)
        told = o.ask(*words).stdout
        return told, {name for name, (_, pid) in look(o).items() if pid not in ("", before[name][1])}

    told, who = restarted("restart", "web")
    assert who == {"web"}
    for line in (r"web: stopping \(SIGTERM\): restart by hand", "web: stopped .*, restarting", "web: started", "web: ok"):
        assert re.search(f"^{line}", told, re.MULTILINE), told
    assert restarted("restart", "web", "worker-2")[1] == {"web", "worker-2"}
    assert restarted("restart", "worker-*")[1] == {"worker-1", "worker-2"}
    assert restarted("restart", "worker-[!2]")[1] == {"worker-1"}
    assert restarted("restart", "w?b", "web")[1] == {"web"}
    told, who = restarted("restart", "*")
    assert who == {*names, "asleep"}
    told, who = restarted("start", "web")
    assert (told, who) == ("web: is up already\n", set())

    told = o.ask("stop", "worker-*").stdout
    assert len(re.findall(r"^worker-[12]: stopped", told, re.MULTILINE)) == 2
    assert [state for name, state in states(o).items() if name.startswith("worker")] == ["stopped", "stopped"]
    assert o.ask("stop", "worker-1").stdout == "worker-1: is not running (stopped)\n"
    assert restarted("start", "worker-*")[1] == {"worker-1", "worker-2"}
    assert restarted("restart", "asleep")[1] == {"asleep"}
    o.ask("stop", "*")
    assert set(states(o).values()) == {"stopped"}
    assert not o.running("sleep", "12345")
    o.ask("health")
    assert restarted("restart", "web")[1] == {"web"}, "overlord has stayed, and starts one that was stopped"
    ends_well(o)


def test_does_not_come_up(fleet: Start) -> None:
    """Whoever asks for what does not come up is told so, once, with the reason; `-t` bounds the wait."""
    o = fleet(
        daemon("stay", SLEEP)
        + daemon("bad", "test -e good || exit 5; exec sleep 12345", warmup="50ms", autostart="false", restart="never")
        + daemon("top", SLEEP, autostart="false", deps="bad")
        + daemon("again", "exit 6", warmup=NEVER, autostart="false", backoff="1000s..1000s", respawns=5)
        + daemon("slow", SLEEP, warmup=NEVER, autostart="false")
    )
    for verb in ("start", "restart"):
        done = o.ask(verb, "bad", code=1)
        assert re.search("^overlord: bad did not come up.*exited with code 5", done.stderr), done
        assert done.stderr.count("did not come up") == 1
    assert "again did not come up" in o.ask("start", "again", code=1).stderr
    done = o.ask("start", "top", code=1)
    assert re.search("^overlord: top did not come up, it is waiting.*bad is failed", done.stderr, re.MULTILINE), done
    assert re.search("^overlord: bad did not come up, it is failed", done.stderr, re.MULTILINE)
    assert done.stderr.count("top did not come up") == 1, "said once"
    for verb in ("start", "restart"):
        assert "not within 0.05 s: slow is starting" in o.ask(verb, "slow", "-t", "50ms", code=1).stderr
    (o.folder / "good").touch()
    told = o.ask("start", "top").stdout
    assert [line for line in told.splitlines() if line.endswith(": ok") or ": ok (" in line][-1] == "top: ok"
    assert states(o)["bad"] == "ok"
    ends_well(o)


def test_what_depends_on_it(fleet: Start) -> None:
    """`stop db` leaves those that need db running, and says so; `start web` starts what web needs, stopped or not."""
    o = fleet(
        daemon("db", SLEEP)
        + daemon("cache", SLEEP, autostart="false")
        + daemon("web", SLEEP, deps="db")
        + daemon("app", SLEEP, deps="db, cache")
        + daemon("idle", SLEEP, deps="db", autostart="false")
    )
    o.says("app", "ok")
    before = o.unit("web").pid
    told = o.ask("stop", "db").stdout
    assert told.splitlines()[:2] == [f"{name} depends on what is stopped, and goes on running" for name in ("web", "app")]
    assert states(o) == {"db": "stopped", "cache": "ok", "web": "ok", "app": "ok", "idle": "idle"}
    assert o.unit("web").pid == before
    o.ask("stop", "app")
    told = o.ask("stop", "cache").stdout
    assert "depend" not in told
    told = o.ask("start", "app").stdout
    for name in ("db", "cache", "app"):
        assert f"{name}: ok" in told
    assert o.unit("web").pid == before
    assert o.ask("stop", "db", "web", "app").stdout.count("depend") == 0
    told = o.ask("start", "idle").stdout
    assert "db: ok" in told
    told = o.ask("stop", "cache", "db").stdout
    assert told.splitlines()[0] == "idle depends on what is stopped, and goes on running", told
    ends_well(o)


def test_several_go_in_order(fleet: Start) -> None:
    """Of several that are stopped, dependents go first; restarted, they also come back last. Scripts are no part of a glob."""

    def dying(name: str, deps: str) -> str:
        return daemon(name, "trap 'sleep 0.2; exit' TERM; sleep 12345 & wait", warmup="0", kill_mode="process", deps=deps)

    o = fleet(
        script("migrate", "true")
        + dying("db", "migrate")
        + dying("app", "db")
        + dying("web", "app:bounce, db")
        + dying("log", "web:started")
    )

    def now_said(*words: str) -> list[str]:
        told = re.findall(r"^(\w+): (started|stopped) ", o.ask(*words).stdout, re.MULTILINE)
        return [("+" if what == "started" else "-") + name for name, what in told]

    down, up = ["-log", "-web", "-app", "-db"], ["+db", "+app", "+web", "+log"]
    o.says("log", "ok")
    assert now_said("stop", "*") == down
    assert now_said("start", "*") == up
    assert now_said("restart", "*") == down + up
    assert now_said("restart", "db", "web") == ["-web", "-db", "+db", "+web"]
    assert now_said("restart", "db") == ["-db", "+db"], "app does not bounce with db, and goes on"
    assert sorted(now_said("restart", "app")) == ["+app", "+web", "-app", "-web"]
    assert now_said("restart", "m*") == ["+migrate"], "a glob that matches scripts alone means them"
    ends_well(o)


def test_bounce_dependents_are_told_of(fleet: Start) -> None:
    """`restart db` waits for whoever bounces with it, down the chain, and fails where one does not come up."""
    o = fleet(
        daemon("db", SLEEP)
        + daemon("web", SLEEP, deps="db:bounce")
        + daemon("edge", "test ! -e bad || exit 5; exec sleep 12345", deps="web:bounce", warmup="50ms", backoff="1000s..1000s")
        + daemon("other", SLEEP, deps="db")
    )
    o.says("edge", "ok")
    o.says("other", "ok")
    told = o.ask("restart", "db").stdout
    for line in ("db: ok", "web: stopping .*db was restarted", "web: ok", "edge: stopping .*web was restarted", "edge: ok"):
        assert re.search(f"^{line}", told, re.MULTILINE), told
    assert "other" not in told
    assert "other: stop" not in "\n".join(o.log)
    (o.folder / "bad").touch()
    done = o.ask("restart", "db", code=1)
    assert "overlord: edge did not come up" in done.stderr
    assert "web did not" not in done.stderr
    ends_well(o)


def test_scripts_by_hand(fleet: Start) -> None:
    """A script runs once each time it is asked for, also where it had succeeded, or works already."""
    o = fleet(
        script("setup", "echo setup >> journal")
        + script("long", "echo long >> journal; until test -e go; do sleep 0.01; done")
        + script("bad", "exit 4")
        + daemon("web", SLEEP, deps="setup")
    )
    o.says("web", "ok")
    assert "setup: ok" in o.ask("start", "setup").stdout
    assert "setup: ok" in o.ask("restart", "setup").stdout
    assert o.journal.lines() == ["setup"] * 3
    assert "exited with code 4" in o.ask("start", "bad", code=1).stderr
    assert o.starts("web") == 1
    mark = o.mark
    o.ask("start", "long", "-t", "50ms", code=1)
    o.says("long", "started", after=mark)
    o.ask("stop", "long")
    assert states(o)["long"] == "stopped"
    (o.folder / "go").touch()
    o.ask("start", "long")
    assert o.journal.lines().count("long") == 2
    ends_well(o)


def test_restart_of_a_script_at_work(fleet: Start, asking: Callable[..., Asking]) -> None:
    """It is stopped and run once more, not twice."""
    o = fleet(script("long", "echo long >> journal; until test -e go; do sleep 0.01; done") + daemon("web", SLEEP))
    o.ask("start", "long", "-t", "50ms", code=1)
    o.journal.wait_for("long")
    restart = asking(o.client("restart", "long"))
    o.journal.wait_for("long", 2)
    (o.folder / "go").touch()
    assert restart.wait_exit() == 0
    comes_back(o, "web")
    o.ask("wait", "long")
    ends_well(o)
    assert o.journal.lines() == ["long", "long"]


def test_by_hand_never_ends_the_container(fleet: Start) -> None:
    """What a person starts may fail as it likes, and that which is stopped by hand keeps overlord up."""
    o = fleet(
        daemon("stay", SLEEP)
        + script("bad", "exit 4", on_failure="shutdown")
        + daemon("worse", "exit 5", autostart="false", restart="never", warmup=NEVER, on_failure="shutdown")
        + daemon("late", "until test -e go; do sleep 0.01; done; exit 6", autostart="false", restart="never")
        + daemon("fine", "true", autostart="false", restart="never", on_success="shutdown"),
    )
    o.ask("start", "bad", code=1)
    o.ask("start", "worse", code=1)
    o.ask("start", "late")
    (o.folder / "go").touch()
    o.says("late", "failed")
    o.ask("start", "fine", code=None)
    o.says("fine", "done")
    comes_back(o, "stay")
    o.ask("stop", "stay")
    assert o.ask("status", "stay").returncode == 0
    assert o.count("shutting down") == 0
    ends_well(o)


def test_started_by_hand_together(fleet: Start, tmp_path: Path) -> None:
    """`start a b c` starts them at once: each is ready only when it sees the others."""
    meet = f"touch $OVERLORD_NAME; until test -e a -a -e b -a -e c; do sleep 0.01; done; touch met; {SLEEP}"
    options = {"autostart": "no", "ready": f"file:{tmp_path}/met", "ready_timeout": NEVER}
    o = fleet(daemon("stay", SLEEP) + "".join(daemon(name, meet, **options) for name in "abc"))
    o.says("stay", "ok")
    told = o.ask("start", "a", "b", "c").stdout
    assert [name for name in "abc" if re.search(f"^{name}: ok", told, re.MULTILINE)] == ["a", "b", "c"]


def words_of(folder: Path, python: list[str], *words: str) -> str:
    """Return the shell command by which a unit of the overlord in `folder` asks that one for something."""
    return " ".join([*python, str(OVERLORD), "-c", f"{folder}/overlord.conf", *words])


def test_a_unit_asks_for_itself(fleet: Start, tmp_path: Path, default_python: list[str]) -> None:
    """nitro's `once`: a daemon has itself stopped, from within, and the next start by hand is one like any other."""
    stop = words_of(tmp_path, default_python, "stop", "web")
    o = fleet(daemon("web", f"test -e stay || {stop}; {SLEEP}") + daemon("other", SLEEP))
    o.says("web", "stopped")
    (o.folder / "stay").touch()
    o.ask("start", "web")
    o.unit_is("web", "sleep")
    assert o.count("failed|shutting down") == 0


def test_a_script_starts_what_it_needs(fleet: Start, tmp_path: Path, default_python: list[str]) -> None:
    """nitro's `SYS/setup`: a script asks for a unit while what depends on the script still waits for it."""
    o = fleet(
        script("setup", words_of(tmp_path, default_python, "start", "helper"))
        + daemon("helper", SLEEP, autostart="no")
        + daemon("web", SLEEP, deps="setup")
    )
    o.says("web", "ok")
    assert o.started == ["setup", "helper", "web"]


def test_a_stop_that_is_overtaken_ends(fleet: Start, asking: Callable[..., Asking]) -> None:
    """Somebody restarts the unit meanwhile: whoever wanted it stopped is told, and does not wait for ever."""
    o = fleet(daemon("web", "trap '' TERM; echo up >> journal; while :; do sleep 0.01; done", stop_timeout=NEVER))
    o.journal.wait_for("up")
    stop = asking(o.client("stop", "web"))
    o.says("web", "stopping")
    with dial(o) as again:
        again.sendall(b"start web\n")
        assert again.recv(10) == b"+\n", "it is heard"
        o.kill_unit("web")
        assert read_all(again).endswith(b"\n=0\n")
    assert stop.wait_exit() == 1


def test_a_stop_overtakes_a_restart(fleet: Start, asking: Callable[..., Asking]) -> None:
    """While the restart still stops it: it stays down, and who wanted the restart is told so."""
    cmd = f"trap 'echo asked >> journal; {UNTIL_GO}; exit 0' TERM; echo up >> journal; while :; do sleep 0.01; done"
    o = fleet(daemon("web", cmd, stop_timeout=NEVER) + daemon("stay", SLEEP))
    o.journal.wait_for("up")
    restart = asking(o.client("restart", "web"))
    o.journal.wait_for("asked")
    o.ask("stop", "web", "-t", "50ms", code=1)
    (o.folder / "go").touch()
    o.says("web", "stopped")
    assert restart.wait_exit() == 1
    assert "stopped" in o.ask("status", "web").stdout
    assert o.journal.lines() == ["up", "asked"]


@pytest.mark.parametrize(
    "config",
    (
        script("gate", SLEEP) + daemon("web", SLEEP, deps="gate"),
        daemon("web", "exit 3", warmup=NEVER, backoff="1000s..1000s"),
    ),
    ids=("waiting", "backoff"),
)
def test_stop_without_a_process(fleet: Start, config: str) -> None:
    """That too is an outcome, and said."""
    o = fleet(config + daemon("stay", SLEEP))
    eventually(lambda: states(o)["web"] in ("waiting", "backoff"), "it has no process")
    eventually(lambda: o.count("web: (waiting|.*restarting in)"), "and will have none")
    assert "web: " in o.ask("stop", "web").stdout
    assert states(o)["web"] == "stopped"
    eventually(lambda: o.count("web: stopped"), "in the log too")
    ends_well(o)


# --- signal, wait ----------------------------------------------------------------------------------------------------


def test_signal(fleet: Start) -> None:
    """It reaches the process that overlord started, of each unit that is named."""
    trap = "trap 'echo {0} got USR1 >> journal' USR1; echo {0} up >> journal; while :; do sleep 0.01; done"
    o = fleet(daemon("a-1", trap.format("a-1")) + daemon("a-2", trap.format("a-2")) + daemon("asleep", SLEEP, autostart="false"))
    for name in ("a-1", "a-2"):
        o.journal.wait_for(f"{name} up")
    assert o.ask("signal", "SIGUSR1", "a-1").stdout == f"a-1: SIGUSR1 sent to pid {o.unit('a-1').pid}\n"
    o.journal.wait_for("a-1 got USR1")
    o.ask("signal", str(int(signal.SIGUSR1)), "a-*")
    o.journal.wait_for("a-1 got USR1", 2)
    o.journal.wait_for("a-2 got USR1")
    done = o.ask("signal", "USR1", "a-1", "asleep", code=1)
    assert done.stderr == "overlord: asleep: is idle, and has no process\n"
    o.journal.wait_for("a-1 got USR1", 3)
    assert 'did you mean "TERM"' in o.ask("signal", "TREM", "a-1", code=64).stderr
    o.ask("signal", "KILL", "a-1")
    o.wait_ok("a-1", 2)
    ends_well(o)


def test_wait(fleet: Start, asking: Callable[..., Asking]) -> None:
    """Until they are OK: at once where they are, never where they cannot be, and no longer than `-t`."""
    o = fleet(
        script("gate", "until test -e go; do sleep 0.01; done")
        + daemon("web", SLEEP, deps="gate")
        + daemon("db", SLEEP)
        + daemon("bad", "until test -e fail; do sleep 0.01; done; exit 3", **FAILS)
    )
    assert o.ask("wait", "db").stdout == "db: ok\n"
    late = o.ask("wait", "web", "db", "-t", "50ms", code=1).stderr
    assert "not within 0.05 s: gate is running: by dependency, web is waiting for gate:ok" in late
    waits = [asking(o.client("wait", "web", "db")), asking(o.client("wait", "gate", "-t", "1h")), asking(o.client("wait", "bad"))]
    (o.folder / "go").touch()
    assert waits[0].wait_exit() == 0
    assert {"web: ok", "db: ok"} <= set(waits[0].lines)
    assert waits[1].wait_exit() == 0
    (o.folder / "fail").touch()
    assert waits[2].wait_exit() == 1
    assert re.search(r"bad is failed: pid \d+ exited with code 3", waits[2].lines[-1])
    assert "code 3" in o.ask("wait", "bad", code=1).stderr, "and where it has been so before"
    ends_well(o)


# --- logs, events ----------------------------------------------------------------------------------------------------


def test_logs(fleet: Start, asking: Callable[..., Asking], tmp_path: Path) -> None:
    """The last lines of what was captured, and those to come; a unit that is not captured says how it would be."""
    o = fleet(
        daemon("one", "mkfifo one.fifo; exec cat <>one.fifo", stdout="prefix")
        + daemon("file", "echo in a file; exec sleep 12345", stdout=f"{tmp_path}/log")
        + daemon("mute", SLEEP)
    )
    o.unit_is("one", "cat")

    def write(text: str) -> None:
        with open(o.folder / "one.fifo", "w") as fifo:
            fifo.write(text)

    write("".join(f"line {number}\n" for number in range(1, 151)))
    o.wait_for("line 150$", lines=o.out)
    assert o.ask("logs", "one").stdout == "".join(f"line {number}\n" for number in range(51, 151))
    assert o.ask("logs", "-n", "2", "one").stdout == "line 149\nline 150\n"
    assert o.ask("logs", "one", "-n", "1").stdout == "line 150\n"
    done = o.ask("logs", "-n", "1", "file", "one")
    assert sorted(done.stdout.splitlines()) == ["file | in a file", "one | line 150"]
    done = o.ask("logs", "mute", code=1)
    assert (done.stdout, done.returncode) == ("", 1)
    assert "output = prefix" in done.stderr
    assert "[daemon:mute]" in done.stderr
    done = o.ask("logs", "-n", "1", "*", code=1)
    assert "one | line 150" in done.stdout
    assert "mute is not captured" in done.stderr
    o.ask("logs", "-f", "mute", code=1)

    alone, both = asking(o.client("logs", "-f", "-n", "1", "one")), asking(o.client("logs", "-f", "-n", "1", "one", "file"))
    alone.wait_for("^line 150$")
    both.wait_for(r"^one \| line 150$")
    write("new\nand \x01 \u00e4\n")
    alone.wait_for("^and")
    both.wait_for(r"^one \| and")
    assert alone.lines == ["line 150", "new", "and \x01 \u00e4"]
    assert [line for line in both.lines if line.startswith("one")] == ["one | line 150", "one | new", "one | and \x01 \u00e4"]
    alone.kill()
    write("last\n")
    both.wait_for(r"^one \| last$")
    ends_well(o)


def test_none_of_the_last_lines(fleet: Start) -> None:
    """As with tail(1): `-n 0 -f` shows only what is to come."""
    o = fleet(daemon("web", "echo hello; exec sleep 12345", **CAPTURED))
    o.wait_for("hello", lines=o.out)
    assert o.ask("logs", "-n", "0", "web").stdout == ""
    for wrong in ("-1", "x", "1.5", "1m"):
        assert "duration" not in o.ask("logs", "-n", wrong, "web", code=64).stderr, "it is a number of lines"


@pytest.mark.parametrize(
    "locale",
    ({"LANG": "oops"}, {"LC_ALL": "C"}, {"LC_ALL": "POSIX", "PYTHONUTF8": "0"}, {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}),
    ids=str,
)
def test_logs_in_any_locale(fleet: Start, asking: Callable[..., Asking], locale: dict[str, str]) -> None:
    """What a daemon said is shown as it said it, and where a terminal's encoding lacks a letter that is no crash."""
    text = "The Øresund bridge ends in Malmö … 57d94b"
    o = fleet(daemon("web", f"echo '{text}'; {SLEEP}", **CAPTURED))
    o.wait_for("bridge", lines=o.out)
    environment = {"PATH": PATH, **locale}
    assert o.ask("logs", "web", env=environment).stdout == f"{text}\n"
    asking(o.client("logs", "-f", "web"), env=environment).wait_for(f"^{text}$")
    o.ask("status", env=environment)
    o.ask("why", "web", env=environment)


def test_last_words_reach_who_follows(fleet: Start, asking: Callable[..., Asking]) -> None:
    """A line without an end too, and each byte as it is."""
    o = fleet(daemon("web", "until test -e go; do sleep 0.01; done; printf 'first\\n\\377 no end'; exit 3", **FAILS, **CAPTURED)
              + daemon("stay", SLEEP))  # fmt: skip
    follow = asking(o.client("events", "web"))
    follow.wait_for("^web ")
    with dial(o) as sock:
        sock.sendall(b"logs -f -n 1 web\n")
        assert sock.recv(100) == b"+\n"
        (o.folder / "go").touch()
        data = b""
        while b"end" not in data:
            data += sock.recv(1000)
    assert data == b" first\n \xff no end\n"
    follow.wait_for("^web failed .*code 3")
    ends_well(o)


def test_events_in_a_shell_loop(fleet: Start) -> None:
    """It ends with the loop that reads it, and not with the next change only, which may never come."""
    o = fleet(daemon("web", SLEEP))
    o.says("web", "ok")
    command = " ".join(o.client("events", "web"))
    loop = f"""{command} | while read -r name state why; do
        echo "$name $state" >> seen
        case $state in ok) break;; esac
    done"""
    subprocess.run(["sh", "-c", loop], cwd=o.folder, timeout=PATIENCE, check=True, env={"PATH": PATH})
    assert (o.folder / "seen").read_text() == "web ok\n", "the state that it is in comes first"


def test_events(fleet: Start) -> None:
    """The state of each, and each change, a line each, as it comes."""
    o = fleet(daemon("web", f"echo up; {SLEEP}", warmup="10ms", stdout="prefix") + daemon("db", SLEEP))
    o.says("web", "ok")
    command = " ".join(o.client("events", "web", "db"))
    loop = f"{command} | while read -r name state why; do echo $name is $state; done"
    tell = Asking(["sh", "-c", loop])
    tell.wait_for("^web is ok$")
    follower = Asking(o.client("events", "web", "db"))
    follower.wait_for("^web ok")
    follower.wait_for("^db ok")
    o.kill_unit("web")
    eventually(lambda: follower.lines.count("web ok") == 2, f"it comes back {follower.lines}")
    found = [line.split()[1] for line in follower.lines if line.startswith("web")]
    assert found == ["ok", "backoff", "waiting", "starting", "ok"]
    assert any(re.match(r"web backoff pid \d+ killed by SIGKILL after .*", line) for line in follower.lines)
    assert sum(line.startswith("db") for line in follower.lines) == 1
    o.ask("stop", "db")
    follower.wait_for("^db stopped by hand$")
    logs = Asking(o.client("logs", "-f", "web"))
    logs.wait_for("^up$")
    ends_well(o)
    tell.wait_exit()
    assert [follower.wait_exit(), logs.wait_exit()] == [0, 0], "that overlord ends is the end of it, and no fault"
    follower.wait_for("^web stopped shutdown$")
    assert not [line for line in [*follower.lines, *logs.lines] if "hung up" in line]
    assert [line.split()[2] for line in tell.lines if line.startswith("web")] == [*found, "stopping", "stopped"]


# --- graph, timeline, why --------------------------------------------------------------------------------------------


def test_graph(fleet: Start) -> None:
    """Who depends on whom, with the states; for documents, in the language of Graphviz."""
    o = fleet(
        script("setup", "true")
        + daemon("db", SLEEP, deps="setup")
        + daemon("web", SLEEP, deps="db:bounce, setup:always")
        + daemon("app", SLEEP, deps="db, bad")
        + daemon("bad", "exit 3", **FAILS),
    )
    o.says("web", "ok")
    o.says("bad", "failed")
    assert o.ask("graph").stdout.splitlines() == [
        "web  ok",
        "\u251c\u2500 db:bounce  ok",
        "\u2502  \u2514\u2500 setup:ok  ok",
        "\u2514\u2500 setup:always  ok",
        "app  waiting",
        "\u251c\u2500 db:ok  ok (its dependencies are above)",
        "\u2514\u2500 bad:ok  failed",
    ]
    dot = o.ask("graph", "--dot").stdout
    assert re.match(r"digraph overlord \{\n(.*;\n)+\}\n$", dot), dot
    edges = {"db setup ok", "web db bounce", "web setup always", "app db ok", "app bad ok"}
    assert set(map(" ".join, re.findall(r'"(.*)" -> "(.*)" \[label="(.*)"\]', dot))) == edges
    assert set(re.findall(r'"(.*)" \[label="(.*)\\n(.*)", ', dot)) == {(name, name, state) for name, state in states(o).items()}
    ends_well(o)


def test_timeline(fleet: Start) -> None:
    """How the start went: who waited for whom, as bars, and for other tools."""
    o = fleet(
        daemon("db", SLEEP, warmup="100ms")
        + daemon("web", SLEEP, deps="db")
        + daemon("asleep", SLEEP, autostart="false")
        + daemon("bad", "exit 3", **FAILS),
    )
    o.says("web", "ok")
    o.says("bad", "failed")
    found = {unit["name"]: unit["events"] for unit in json.loads(o.ask("timeline", "-j").stdout)}
    assert list(found) == ["db", "web", "asleep", "bad"]
    assert found["asleep"] == []
    whats = {name: [event["what"] for event in events] for name, events in found.items()}
    assert whats["db"] == ["waiting", "starting", "ok"]
    assert whats["web"] == ["waiting", "waiting for db:ok", "starting", "ok"]
    assert whats["bad"] == ["waiting", "starting", "failed"]
    for events in found.values():
        instants = [event["at"] for event in events]
        assert instants == sorted(instants)
        assert not instants or instants[0] >= 0
    assert found["db"][-1]["at"] - found["db"][-2]["at"] >= 0.09
    assert found["web"][2]["at"] >= found["db"][-1]["at"]

    db, web, asleep, bad, scale = o.ask("timeline").stdout.splitlines()
    assert re.match("db +\u2592+\u2588* +ok at 0\\.1", db), db
    assert re.match("web +\u00b7+\u2592*\u2588* +ok at .*, 0.* s for db:ok", web), web
    assert re.match("asleep +not asked for", asleep), asleep
    assert re.match("bad +\u2592*x+ +failed at", bad), bad
    assert re.match(" +0 +0\\..* s$", scale), scale
    assert o.ask("timeline", "db").stdout.startswith("db ")
    ends_well(o)


def test_why(fleet: Start) -> None:
    """The reason, down the chain of what a unit waits for, and the last words of the one at its end."""
    o = crowded(fleet)
    lines = o.ask("why", "far-behind").stdout.splitlines()
    assert re.match(r"far-behind is waiting for behind:bounce \(for ", lines[0]), lines
    assert re.match(r"  behind is waiting for flapping:ok \(for ", lines[1])
    flapping = r"    flapping is in backoff: pid \d+ exited with code 3 .*next try in 1[678] min"
    assert re.match(flapping, lines[2])
    assert lines[3].strip() == "its last words:"
    assert [line.strip() for line in lines[4:]] == ["| one", "| two", "| one", "| two"]
    for name, text in (
        ("web", "web is ok"),
        ("asleep", "asleep is idle"),
        ("young", "young is starting: warming up, 16 min [34]"),
        ("a-name-of-20-letters", r"a-name-of-20-letters is failed: pid \d+ exited with code 7"),
        ("by-hand", "by-hand is stopped: by hand"),
    ):
        done = o.ask("why", name)
        assert re.match(text, done.stdout), done
        assert done.stderr == "", "that it is not captured is no matter"
    lines = o.ask("why", "patient").stdout.splitlines()
    assert "work is running" in lines[1]
    ends_well(o)


def test_why_it_was_restarted(fleet: Start) -> None:
    """Of one that is up again, `why` says what made it be restarted last."""
    o = fleet(daemon("db", SLEEP) + daemon("web", SLEEP, deps="db:bounce"))
    o.wait_ok("web")
    assert "restarted last" not in o.ask("why", "web").stdout
    for cause, act in (
        (r"pid \d+ killed by SIGKILL after .*", lambda: o.kill_unit("db")),
        ("restart by hand", lambda: o.ask("restart", "db")),
    ):
        count = o.starts("web")
        act()
        o.wait_ok("web", count + 1)
        assert re.search(f"^restarted last: {cause}$", o.ask("why", "db").stdout, re.MULTILINE)
        assert "\nrestarted last: db was restarted\n" in o.ask("why", "web").stdout
    ends_well(o)


def test_why_it_does_not_come_up(fleet: Start) -> None:
    """Who waits for the outcome is told what `why` would say, down to the last line of the one that failed."""
    bad = daemon("bad", "echo out of luck; exit 3", stdout="prefix", warmup="1h", backoff="1000s..1000s")
    o = fleet(daemon("web", SLEEP, deps="bad", autostart="false") + bad + daemon("db", SLEEP))
    o.says("bad", ".*restarting in")
    done = o.ask("start", "web", code=1).stderr
    end = r"bad is in backoff: pid \d+ exited with code 3 .*; its last line: out of luck"
    assert re.search(f"web did not come up, it is waiting for bad:ok; {end}", done)
    ends_well(o)


# --- shutdown, version, help, and mistakes ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "code"), (((), None), ((), 255), (("sleep", "54321"), None), (("sleep", "54321"), 0)), ids=str
)
def test_shutdown(fleet: Start, command: tuple[str, ...], code: int | None) -> None:
    """In order, as by a signal; the code that is asked for goes before any other."""
    o = fleet(daemon("db", SLEEP) + daemon("web", SLEEP, deps="db"), *command)
    o.says("web", "ok")
    if command:
        o.wait_for("main command: started")
    words = [] if code is None else [str(code)]
    assert o.ask("shutdown", *words).stdout == "shutting down\n"
    assert o.wait_exit() == (code if code is not None else 143 if command else 0)
    assert o.position("web: stopped") < o.position("db: stopping")
    assert o.count("exiting with code .*: shutdown by hand") == 1


def test_during_shutdown(fleet: Start, asking: Callable[..., Asking]) -> None:
    """One can look, and those who wait for something that will not come any more are told."""
    stubborn = "trap '' TERM; echo up >> journal; while :; do sleep 0.01; done"
    o = fleet(daemon("web", SLEEP) + daemon("slow", SLEEP, warmup=NEVER) + daemon("stubborn", stubborn, stop_timeout="1h"),
              settings={"shutdown_timeout": "1h"})  # fmt: skip
    o.journal.wait_for("up")
    waits = [asking(o.client("wait", "slow")), asking(o.client("restart", "slow"))]
    eventually(lambda: o.starts("slow") == 2, "both are heard")
    events = asking(o.client("events"))
    events.wait_for("^web ok")
    o.send(signal.SIGTERM)
    o.says("stubborn", "stopping")
    for each in waits:
        assert each.wait_exit() == 1, each.lines
    assert "shutting down" in o.ask("health", code=1).stdout
    assert "shutting down" in o.ask("start", "web", code=None).stderr
    o.ask("status", code=None)
    o.ask("shutdown", "8")
    o.send(signal.SIGTERM)
    assert "shutting down" in o.ask("health", code=1).stdout, "who asks again changes nothing"
    o.send(signal.SIGINT)
    o.wait_for("SIGINT received.*already")
    o.send(signal.SIGINT)
    assert o.wait_exit() == 8, "but a second Ctrl-C, and the code"
    events.wait_exit()


# What overlord itself finds wrong, which costs no client; and what is wrong is told by the client, of each kind one
REQUESTS = (
    *(
        (f"{verb} web wbe", 'there is no unit .?wbe.*did you mean "web"')
        for verb in "start stop restart wait logs events".split()
    ),
    *((f"{verb} x*", r"there is no unit .?x\*") for verb in "status stop".split()),
    ("signal HUP wbe", 'did you mean "web"'),
    ("restart all", "there is no unit .?all.?, write '[*]'"),
    ("signal FOO web", "'FOO' is not a signal"),
    *((verb, f"{verb} needs .*NAME") for verb in "start stop restart wait logs signal".split()),
    ("signal HUP", "signal needs SIGNAL NAME"),
    ("health web", "health"),
    ("version web", "version"),
    ("shutdown 1 2", "shutdown"),
    ("shutdown -1", "-1"),
    ("start web -t", "start -t needs a value"),
    ("start web -f", "start has no option -f"),
    ("stauts", 'did you mean "status"'),
    ("ask", "there is no verb"),
    ("", "there is no verb"),
)
MISTAKES = (
    (["status", "wbe"], r'there is no unit wbe.*did you mean "web"'),
    (["restart", "web", "nosuch"], "there is no unit nosuch"),
    (["status", "all"], "there is no unit all, write '[*]'"),
    (["why", "wbe"], r'did you mean "web"'),
    (["timeline", "wbe"], r'did you mean "web"'),
    (["why", "web", "web"], "why"),
    (["signal", "HUP"], "signal needs"),
    (["signal", "FOO", "web"], "'FOO' is not a signal"),
    (["graph", "--png"], "graph has no option --png"),
    (["status", "-x"], "status has no option -x"),
    (["start", "web", "-t", "soon"], "'soon' is not a duration"),
    (["wait", "-t", "-1", "web"], "'-1' is not a duration"),
    (["shutdown", "256"], "'256' is not a whole number from 0 to 255"),
    (["shutdown", "now"], "'now' is not a whole number from 0 to 255"),
    (["version", "x"], "version takes no arguments"),
    (["help", "cdm"], 'did you mean "cmd"'),
    (["status", ""], "no unit"),
    (["start", "\udcff"], "no unit"),
    (["restart", "[", "web"], r"no unit \["),
    (["restart", "[z-a]"], r"no unit \["),
    (["stop", "*a*a*a*b"], "more than three stars"),
)


def test_mistakes(fleet: Start) -> None:
    """A mistake in the words is 64, says what is wrong, with a hint where there is one, and does nothing."""
    o = fleet(daemon("web", SLEEP) + daemon("db", SLEEP))
    o.wait_for("everything is up")
    mark = o.mark
    wrong = []
    for words, text in MISTAKES:
        done = o.ask(*words, code=None)
        if done.returncode != 64 or done.stdout or not re.search(f"^overlord: .*{text}", done.stderr):
            wrong.append((words, done.returncode, done.stderr))
    for request, text in REQUESTS:
        answer = exchange(o, f"{request}\n".encode()).decode()
        if not re.search(f"^!.*{text}.*\n=64\n$", answer):
            wrong.append((request.split(), 0, answer))
    assert not wrong, wrong
    assert o.ask("version").stdout == exchange(o, b"version\n").decode().splitlines()[0][1:] + "\n"
    told = o.ask("help").stdout
    for verb in "status health start stop restart signal reload wait logs events graph timeline why shutdown".split():
        assert re.search(rf"^  .*\b{verb}\b", told, re.MULTILINE), verb
    assert o.log[mark:] == []
    ends_well(o)


def test_a_second_fleet(fleet: Start) -> None:
    """A misspelt verb, or any command, where an overlord runs is refused, and starts nothing a second time."""
    o = fleet(daemon("web", SLEEP))
    o.says("web", "ok")
    for inside in (True, False):
        done = o.ask("stauts", code=64, named=inside)
        assert done.stderr.startswith('overlord: unknown verb stauts, did you mean "status"?\n')
        done = o.ask("reread", code=64, named=inside)  # of supervisorctl
        assert 'did you mean "reload"' in done.stderr
        done = o.ask("touch", str(o.folder / "touched"), code=64, named=inside)
        assert "runs here already" in done.stderr
        assert "overlord.py status" in done.stderr
        o.ask("--", "touch", str(o.folder / "touched"), code=64, named=inside)
    o.ask("run", code=64)
    o.ask(code=64)
    assert not (o.folder / "touched").exists()
    assert o.starts("web") == 1
    assert len(o.running("sleep", "12345")) == 1
    o.ask("health")
    ends_well(o)


def test_a_second_fleet_of_another_user(fleet: Start, public: Path) -> None:
    """`docker exec -u www-data c overlord.py stauts` starts none either."""
    o = fleet(daemon("web", "echo web >> journal; exec sleep 12345"), folder=public)
    o.journal.wait_for("web")
    o.journal.path.chmod(0o666)
    done = o.ask("stauts", code=None, prefix=as_user("5"))
    assert done.returncode in (64, 77), done
    assert o.journal.lines() == ["web"]
    ends_well(o)


def test_a_second_fleet_where_the_answer_comes_in_pieces(tmp_path: Path, python: list[str]) -> None:
    """Who refuses to be asked lives there all the same, however slowly he says so."""
    place, config = tmp_path / "o.sock", tmp_path / "overlord.conf"
    config.write_text(f"[overlord]\nsocket = {place}\n")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        listener.listen()

        def refuse() -> None:
            peer = listener.accept()[0]
            with peer:
                for piece in (b"!only root may ask\n", b"=77\n"):
                    peer.sendall(piece)
                    time.sleep(0.1)

        refusing = threading.Thread(target=refuse, daemon=True)
        refusing.start()
        done = subprocess.run([*invoke(python), "-c", config, "stauts"], capture_output=True, text=True, timeout=60, check=False)
        refusing.join()
    assert (done.returncode, "unknown verb stauts" in done.stderr) == (64, True), done


# --- who may ask, and whom ---------------------------------------------------------------------------------------------


def test_nobody_answers(fleet: Start, tmp_path: Path) -> None:
    """69, and where it was looked for."""
    o = fleet(daemon("web", SLEEP), settings={"socket": "none"})
    o.says("web", "ok")
    assert "socket = none" in o.ask("status", code=69).stderr
    assert o.count("socket") == 0, "nothing is amiss"
    other = tmp_path / "other.conf"
    other.write_text(f"[overlord]\nsocket = {tmp_path}/other.sock\n")
    for verb in ("health", "why", "timeline", "restart"):
        words = [verb, "web"] if verb in ("restart", "why") else [verb]
        o.config.write_text(other.read_text())
        done = o.ask(*words, code=None)
        assert done.returncode == 69, (verb, done)
        assert re.match(f"overlord: nobody answers at {tmp_path}/other.sock.* docker exec CONTAINER", done.stderr)
    assert o.ask("status", named=False, code=69).stdout == ""
    ends_well(o)


def test_others_are_refused(fleet: Start, public: Path) -> None:
    """A file's mode keeps other users out, and overlord itself does where there is none, or somebody changed it."""
    for place in ("abstract", public / "s"):
        o = fleet(daemon("web", SLEEP), folder=public, settings={"socket": place})
        o.says("web", "ok")
        assert place == "abstract" or stat.S_IMODE((public / "s").stat().st_mode) == 0o600
        for _ in range(2):
            for words in (["status"], ["restart", "web"], ["shutdown"]):
                done = o.ask(*words, code=77, prefix=as_user("5"))
                assert "only root and overlord's own user may ask" in done.stderr
                assert done.stdout == ""
            if place != "abstract":
                (public / "s").chmod(0o666)
        assert o.starts("web") == 1
        ends_well(o)


def test_overlord_of_another_user(fleet: Start, public: Path) -> None:
    """Its own user may ask, and root, with no capability at all; others may not."""
    user = str(random.randrange(100_000, 1_000_000))
    o = fleet(daemon("web", SLEEP), folder=public, prefix=[*as_user(user), "env"])
    o.says("web", "ok")
    assert o.ask("restart", "web", prefix=as_user(user)).returncode == 0
    o.ask("health", named=False)
    o.ask("health", named=False, prefix=["setpriv", "--bounding-set=-all", "--inh-caps=-all"])
    o.ask("health", code=77, prefix=as_user("5"))
    ends_well(o)


def outside(o: Overlord, place: str) -> socket.socket:
    """Return a connection from outside of overlord's PID namespace, as root."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(PATIENCE)
    sock.connect(place)
    return sock


def below(o: Overlord) -> list[str]:
    """Return a prefix that starts a PID namespace below overlord's, as a container in a container."""
    return ["unshare", "--pid", "--fork", "--kill-child", "--"]


def test_other_containers_are_refused(fleet: Start, tmp_path: Path) -> None:
    """Who is of another PID namespace may not ask, be it root: containers may share a network, or a folder."""
    if os.geteuid() != 0:
        pytest.skip("only root can make a PID namespace below another")
    for place in ("abstract", tmp_path / "s"):
        o = fleet(daemon("web", SLEEP), settings={"socket": place})
        o.says("web", "ok")
        with outside(o, address(o)) as sock:
            with contextlib.suppress(BrokenPipeError):
                sock.sendall(b"restart web\n")
            assert read_all(sock).endswith(b"=77\n")
        done = o.ask("restart", "web", prefix=below(o), code=None)
        assert done.returncode in (69, 77), done  # of an abstract one, it does not even know the name
        with connect(o.pid, address(o)) as sock:
            sock.sendall(b"version\n")
            assert read_all(sock).endswith(b"=0\n")
        asked = f"import socket; s = socket.socket(1); s.connect({address(o)!r}); print(s.makefile().read())"
        enter = o.client()[: o.client().index("--") + 1]
        told = subprocess.run([*enter, *below(o), system_python(), "-c", asked], capture_output=True, text=True, check=False)
        assert "=77" in told.stdout, told
        assert o.starts("web") == 1
        ends_well(o)


class Impostor:
    """Somebody else who listens where overlord is looked for, and answers as it would."""

    def __init__(self, path: Path, answer: bytes = b"") -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.bind(str(path))
        path.chmod(0o666)
        self.sock.listen(10)
        self.answer, self.heard = answer, b""
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock = self.sock.accept()[0]
                with sock, contextlib.suppress(OSError):
                    self.heard += sock.recv(100)
                    sock.sendall(self.answer)

    def close(self) -> None:
        """Listen no more."""
        self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()


def test_client_looks_whom_it_talks_to(public: Path, fleet: Start) -> None:
    """Whoever is neither root nor oneself cannot tell a lie about how things are."""
    o = fleet(daemon("web", SLEEP), folder=public, settings={"socket": "none"})
    o.says("web", "ok")
    o.config.write_text(o.config.read_text().replace("socket = none", f"socket = {public}/lie"))
    lie = (
        "import os, socket, sys; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(10)\n"
        "os.chmod(sys.argv[1], 0o666); print('up', flush=True)\n"
        "while True:\n    c = s.accept()[0]; c.recv(100) and c.sendall(b' healthy: 99 daemons ok\\n=0\\n'); c.close()\n"
    )
    enter = o.client()[: o.client().index("--") + 1]
    mortal = ["setpriv", "--pdeathsig=KILL"]
    liar = Asking([*enter, *as_user("5"), *mortal, "/usr/bin/python3", "-I", "-S", "-c", lie, str(public / "lie")])
    try:
        liar.wait_for("up")
        for verb in ("health", "status"):
            done = o.ask(verb, code=77)
            assert done.stdout == ""
            assert "user 5 listens there" in done.stderr
        assert o.ask("health", prefix=as_user("5")).stdout == "healthy: 99 daemons ok\n", "it would have been believed"
    finally:
        liar.kill()


# --- where the socket is ---------------------------------------------------------------------------------------------


def test_nothing_in_the_file_system(fleet: Start, tmp_path: Path) -> None:
    """No folder has to be writable or even there, and nothing that is deleted takes the socket away."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount")
    bare = "".join(f"mount -t tmpfs -o mode=0 none {folder}; " for folder in ("/run", "/dev/shm"))
    words = f'{bare} mount -o remount,bind,ro /; exec "$@"'
    folder = Path(tempfile.mkdtemp(dir="/var/tmp"))
    try:
        o = fleet(daemon("web", SLEEP), folder=folder, prefix=["sh", "-c", words, "sh"])
        o.says("web", "ok")
        assert o.ask("health", named=False).stdout == "healthy: 1 daemon ok\n"
        assert o.ask("health").stdout == "healthy: 1 daemon ok\n"
        o.ask("version", prefix=["sh", "-c", 'rm -rf /run/* /dev/shm/*; exec "$@"', "sh"])
        o.ask("restart", "web", named=False)
        assert o.count("warning|socket") == 0
        ends_well(o)
    finally:
        shutil.rmtree(folder)


def test_two_that_share_all_but_the_processes(fleet: Start, tmp_path: Path) -> None:
    """Two containers with one network and one file system: each answers for itself alone."""
    one = fleet(daemon("web", SLEEP))
    (tmp_path / "two").mkdir()
    two = fleet(daemon("db", SLEEP), folder=tmp_path / "two")
    assert list(states(one)) == ["web"]
    assert list(states(two)) == ["db"]
    two.ask("stop", "db", named=False)
    assert states(one) == {"web": "ok"}
    ends_well(two)
    one.ask("health", named=False)
    ends_well(one)


def test_two_that_share_a_folder(fleet: Start, tmp_path: Path) -> None:
    """Two containers that name one file: the second has no socket and says so, and leaves the first one's alone."""
    one = fleet(daemon("web", SLEEP), settings={"socket": tmp_path / "s"})
    one.says("web", "ok")
    (tmp_path / "two").mkdir()
    two = fleet(daemon("db", SLEEP), folder=tmp_path / "two", settings={"socket": tmp_path / "s"})
    two.says("db", "ok")
    assert two.count(f"no control socket.*{tmp_path}/s: {IN_USE}") == 1
    assert "another container" in two.ask("status", code=77).stderr
    ends_well(two)
    assert states(one) == {"web": "ok"}
    ends_well(one)
    assert not (tmp_path / "s").exists()


def test_two_in_one_container(fleet: Start, asking: Callable[..., Asking], tmp_path: Path) -> None:
    """A second overlord there needs a file of its own; where that is one's already, it is refused."""
    one = fleet(daemon("web", SLEEP))
    one.says("web", "ok")
    other = tmp_path / "other.conf"
    other.write_text(
        f"[overlord]\nsocket = {tmp_path}/s\nconfigdir = {tmp_path}/none\n[daemon:db]\ncmd = {SLEEP}\nwarmup = 0\n"
    )
    enter = one.client()[: one.client().index("-c")]
    two = asking([*enter, "-c", str(other)])
    two.wait_for("db: ok")
    again = subprocess.run([*enter, "-c", str(other)], capture_output=True, text=True, check=False)
    assert again.returncode == 64, again
    told = subprocess.run([*enter, "-c", str(other), "health"], capture_output=True, text=True, check=False)
    assert told.stdout == "healthy: 1 daemon ok\n", told
    named = {"PATH": PATH, "OVERLORD_CONFIG": str(other)}
    assert "web" in one.ask("status", named=False, env=named).stdout, "without -c the common place comes first"
    subprocess.run([*enter, "-c", str(other), "shutdown"], check=True, capture_output=True)
    assert two.wait_exit() == 0
    assert states(one) == {"web": "ok"}
    ends_well(one)


def test_stale_file(fleet: Start, tmp_path: Path) -> None:
    """A socket of a container that was killed is replaced; its file goes with overlord, unless it is another's by then."""
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "s"))
    for replaced in (False, True):
        o = fleet(daemon("web", SLEEP), settings={"socket": tmp_path / "s"})
        o.says("web", "ok")
        o.ask("health")
        assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o600
        assert o.count("warning|socket") == 0
        if replaced:
            (tmp_path / "s").unlink()
            (tmp_path / "s").write_text("mine")
        ends_well(o)
        assert (tmp_path / "s").exists() == replaced


def test_no_place_for_the_file(fleet: Start, tmp_path: Path) -> None:
    """What is no socket, or answers already, is left as it is: one warning, and all else works."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("file")
    other = Impostor(tmp_path / "live", b"what?\n")
    before = sorted((path.name, path.lstat().st_ino) for path in tmp_path.iterdir())
    for name in ("file", "folder", "link", "live", "none/s", "s" * 200):
        folder = tmp_path / f"of {name[:6].replace('/', '_')}"
        folder.mkdir()
        settings = {"socket": tmp_path / name}
        o = fleet(script("setup") + daemon("web", SLEEP, deps="setup"), folder=folder, settings=settings)
        o.says("web", "ok")
        assert o.count(f"no control socket, .*: {tmp_path}/{name}: ") == 1
        comes_back(o, "web")
        o.ask("health", named=False, code=69)
        ends_well(o)
    other.close()
    after = sorted((path.name, path.lstat().st_ino) for path in tmp_path.iterdir())
    assert [each for each in before if each not in after] == []


def test_file_of_the_default_configuration_is_found(fleet: Start, tmp_path: Path) -> None:
    """`docker exec c overlord.py status`, without -c, works where the configuration that the container has names a file."""
    o = fleet(daemon("web", SLEEP), settings={"socket": tmp_path / "custom"})
    o.says("web", "ok")
    o.ask("health", named=False, code=69)
    environment = {"PATH": PATH, "OVERLORD_CONFIG": str(o.config)}
    assert "web: ok" in o.ask("restart", "web", named=False, env=environment).stdout
    o.config.write_text(o.config.read_text() + "[daemon:bad]\nnonsense\n")
    assert o.ask("health", named=False, env=environment).returncode == 0, "mistakes elsewhere do not matter"
    ends_well(o)


@pytest.mark.parametrize("who", ("another user", "root in another container"))
def test_the_common_name_is_taken(overlord: Start, tmp_path: Path, public: Path, who: str) -> None:
    """An impostor has the name: one warning, all else works, and no client believes him."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    spaces = "[os.stat(f'/proc/self/ns/{kind}').st_ino for kind in ('pid', 'mnt')]"
    squat = (
        "import os, socket; s = socket.socket(1)\n"
        "s.bind('\\0overlord/%s/%s' % tuple(SPACES)); s.listen(5); open('up', 'w').close()\n"
        "while True:\n  c = s.accept()[0]\n"
        "  try: c.recv(99) and c.sendall(b' healthy\\n=0\\n')\n  except OSError: pass\n  c.close()"
    )
    if who == "another user":
        liar = f"setpriv --reuid=65534 --clear-groups {system_python()} squat.py"
    else:  # it knows the name, as whoever shares the network can
        spaces = "open('names').read().split()"
        liar = "stat -Lc %i /proc/self/ns/pid /proc/self/ns/mnt > names"
        liar += f"; unshare --pid --fork --kill-child {system_python()} squat.py"
    (public / "squat.py").write_text(squat.replace("SPACES", spaces))
    prefix = ["sh", "-c", f'{liar} & until test -e up; do sleep 0.02; done; exec "$@"', "sh"]
    o = overlord(daemon("web", SLEEP), folder=public, prefix=prefix, settings={"socket": "abstract"})
    o.says("web", "ok")
    assert o.count(f"no control socket.*{IN_USE}.*socket = /PATH") == 1
    for verb in ("health", "status"):
        done = o.ask(verb, code=77)
        assert done.stdout == ""
    ends_well(o)


# --- the answer is written -------------------------------------------------------------------------------------------


def test_a_slow_reader_that_does_not_block(fleet: Start) -> None:
    """A pipe that is full and O_NONBLOCK (node makes them so): all of the answer is written to the end."""
    o = fleet("".join(daemon(f"unit-{number}", SLEEP, autostart="no") for number in range(600)) + daemon("web", SLEEP))
    o.says("web", "ok")
    reader, end = os.pipe()
    os.set_blocking(end, False)
    client = subprocess.Popen(o.client("status", "-j"), stdout=end, env={"PATH": PATH})
    os.close(end)
    eventually(lambda: int.from_bytes(fcntl.ioctl(reader, termios.FIONREAD, bytes(4)), sys.byteorder) >= 65536, "it is full")
    time.sleep(0.2)
    text = b""
    while True:
        data = os.read(reader, 4096)
        if not data:
            break
        text += data
    os.close(reader)
    assert client.wait(PATIENCE) == 0
    assert len(json.loads(text)) == 601
    ends_well(o)


@pytest.mark.parametrize("words", ("status", "health", "restart web", "version", "help", "check"))
@pytest.mark.parametrize("where", (">/dev/full", ">&-", ">/dev/full 2>&-", "<&- >&- 2>&-"))
def test_an_answer_that_cannot_be_written(fleet: Start, words: str, where: str) -> None:
    """74, and the reason where there is somebody to read it; what was asked for is done."""
    o = fleet(daemon("web", SLEEP))
    o.says("web", "ok")
    done = o.ask(*words.split(), code=74, prefix=["sh", "-c", f'exec "$@" {where}', "sh"])
    reason = "No space left on device" if "full" in where else "Bad file descriptor"
    assert done.stdout == ""
    assert "2>&-" in where or f"the answer could not be written: {reason}" in done.stderr
    eventually(lambda: o.starts("web") == (2 if words == "restart web" else 1), "what was asked for is done")
    ends_well(o)


@pytest.mark.parametrize("reader", ("true", UNTIL_GO), ids=("gone before", "gone meanwhile"))
def test_a_verb_that_nobody_waits_for(fleet: Start, reader: str) -> None:
    """`restart web | true`: it does not say 0 of what has not come about, nor does it wait for it."""
    o = fleet(daemon("web", SLEEP) + daemon("slow", SLEEP, warmup=NEVER, autostart="no"))
    o.says("web", "ok")
    words = " ".join(o.client("start", "slow"))
    argv = ["bash", "-c", f"{words} | ({reader}); exit ${{PIPESTATUS[0]}}"]
    with subprocess.Popen(argv, env={"PATH": PATH}, cwd=o.folder) as client:
        o.says("slow", "started")
        time.sleep(0.2)  # it waits for more
        (o.folder / "go").touch()
        assert client.wait(PATIENCE) in (74, 128 + signal.SIGPIPE)
    assert o.starts("slow") == 1
    ends_well(o)


@pytest.mark.parametrize("words", ("logs -f web", "logs web", "status", "events", "help", "check", "graph"))
def test_a_verb_whose_reader_goes_away(fleet: Start, words: str) -> None:
    """`overlord.py logs -f web | head -1`: it ends, without a word of that on stderr."""
    o = fleet(daemon("web", f"{UNTIL_GO}; while :; do echo x; sleep 0.01; done", **CAPTURED))
    o.says("web", "ok")
    (o.folder / "go").touch()
    o.wait_for("x", lines=o.out)
    reader, writer = os.pipe()
    os.close(reader)
    try:
        options = {"stdin": subprocess.DEVNULL, "stdout": writer, "stderr": subprocess.PIPE, "env": {"PATH": PATH}}
        done = subprocess.run(o.client(*words.split()), timeout=PATIENCE, check=False, **options)
    finally:
        os.close(writer)
    assert not re.search(b"(?i)pipe|written|Traceback", done.stderr)


@pytest.mark.parametrize("request_", ("restart web", "wait web", "stop web", "status", "reload", "logs web"))
@pytest.mark.parametrize("newline", ("\n", ""))
def test_a_client_that_closes_its_side(fleet: Start, request_: str, newline: str) -> None:
    """`printf 'restart web' | nc -N`: whoever has said all it has to say gets its answer."""
    slow = "trap 'sleep 0.2; exit' TERM; while :; do sleep 0.01; done"
    o = fleet(daemon("web", slow, **CAPTURED))
    o.says("web", "ok")
    with dial(o) as sock:
        sock.sendall((request_ + newline).encode())
        sock.shutdown(socket.SHUT_WR)
        assert read_all(sock).endswith(b"=0\n")
    with dial(o) as sock:
        sock.shutdown(socket.SHUT_WR)
        assert read_all(sock) == b""
    with dial(o) as sock:
        sock.sendall(b"events\n")
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(100)
        before = Process(o.pid).stat[11:13]
        time.sleep(0.3)
        assert sum(map(int, Process(o.pid).stat[11:13])) - sum(map(int, before)) < 10, "it does not spin"
    ends_well(o)


# --- abuse -----------------------------------------------------------------------------------------------------------


def test_a_thousand_at_once(fleet: Start) -> None:
    """Whoever connects and asks nothing keeps nobody out, and leaves nothing behind."""
    o = fleet(daemon("web", SLEEP) + daemon("db", SLEEP))
    o.says("db", "ok")
    exchange(o, b"version\n")
    before, size = settled(o), memory(o)
    socks: list[socket.socket] = []
    lock = threading.Lock()

    def connect() -> None:
        for _ in range(100):
            sock = dial(o)
            with lock:
                socks.append(sock)

    threads = [threading.Thread(target=connect) for _ in range(10)]
    for thread in threads:
        thread.start()
    comes_back(o, "web")
    for thread in threads:
        thread.join(PATIENCE)
    assert len(socks) == 1000
    assert o.ask("health").stdout == "healthy: 2 daemons ok\n"
    assert o.ask("restart", "db").returncode == 0
    assert descriptors(o) < before + 300
    comes_back(o, "web")
    for sock in socks:
        sock.close()
    eventually(lambda: descriptors(o) == before, "all that was theirs is given back")
    assert memory(o) < size + LIMIT_OF_GROWTH
    socks = []
    for _ in range(300):
        socks.append(dial(o))
        socks[-1].sendall(b"wait web db\n")
    answered = sum(read_all(sock).endswith(b"=0\n") for sock in socks)
    assert answered == 300, "those who ask are answered, however many"
    eventually(lambda: descriptors(o) == before, "all that was theirs is given back")
    ends_well(o)


GARBAGE = {
    "half a line": b"stat",
    "nothing": b"",
    "an empty line": b"\n",
    "blanks": b" \t \n",
    "NULs": b"\0" * 100 + b"\n",
    "bytes": bytes(range(256)),
    "no UTF-8": b"\xff\xfe status \xc3\n",
    "a huge line": b"x" * (10 << 20),
    "a huge line with an end": b"status " + b"x " * 100_000 + b"\n",
    "a line of the largest size": b"status " + b"w" * 65520 + b"\n",
    "a thousand globs": b"status " + b"*?" * 400 + b"Z\n",
    "many words": b"start " + b"a " * 5000 + b"\n",
    "a verb within": b"__init__\n",
    "an option": b"-\n--\nstatus -\nstatus --\n",
    "another's option": b"wait -f -t web\n",
    "a large number": b"logs -n 999999999 web\nlogs -n 99999999999999999999 web\n",
    "a long time": b"wait web nosuch -t 999999999d\n",
    "two requests": b"version\nversion\n",
    "HTTP": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "JSON": b'{"verb": "status"}\n',
    "a path": b"logs ../../etc/passwd\nlogs /etc/passwd\n",
    "a signal": b"signal 0 web\nsignal -65 web\nsignal 65 web\n",
}


def test_garbage(fleet: Start) -> None:
    """Whatever comes is answered or hung up on, and nothing changes."""
    o = fleet(daemon("web", "echo hello; exec sleep 12345", **CAPTURED))
    o.says("web", "ok")
    exchange(o, b"version\n")
    before, size, pid = settled(o), memory(o), o.unit("web").pid
    for what, data in GARBAGE.items():
        lines = data.split(b"\n")
        pieces = [line + b"\n" for line in lines[:-1]] + lines[-1:]
        for piece in [data, *(piece for piece in pieces if len(pieces) > 2)]:
            with dial(o) as sock:
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    sock.sendall(piece)
                sock.shutdown(socket.SHUT_WR)
                answer = read_all(sock)
            assert answer == b"" or answer.startswith((b" ", b"!", b"=", b"+")), what
        assert exchange(o, b"version\n").startswith(b" overlord"), what
    assert exchange(o, b"status " + b"\xff\n").endswith(b"=64\n")
    assert exchange(o, b"version\n" * 1000).startswith(b" overlord")
    eventually(lambda: descriptors(o) == before, "nothing is left of them")
    assert memory(o) < size + LIMIT_OF_GROWTH
    assert o.unit("web").pid == pid
    assert o.starts("web") == 1
    comes_back(o, "web")
    ends_well(o)


def test_a_line_in_parts(fleet: Start) -> None:
    """Each byte by itself is the same request."""
    o = fleet(daemon("web", SLEEP))
    o.says("web", "ok")
    with dial(o) as sock:
        for byte in b"health\n":
            sock.sendall(bytes([byte]))
        assert read_all(sock) == b" healthy: 1 daemon ok\n=0\n"
    assert exchange(o, b"  health\t\r\n") == b" healthy: 1 daemon ok\n=0\n"


@pytest.mark.parametrize("first", (b"", b"events\n"), ids=("before it asks", "after it has asked"))
def test_too_much_to_hear(fleet: Start, first: bytes) -> None:
    """Whoever talks on is hung up on before he is through: what overlord keeps of it is bounded."""
    o = fleet(daemon("web", SLEEP))
    o.says("web", "ok")
    with dial(o) as sock, pytest.raises((BrokenPipeError, ConnectionResetError)):
        sock.sendall(first)
        sock.sendall(b"x" * (4 << 20))
    o.ask("health")


def test_flood(fleet: Start) -> None:
    """Many clients that ask without a pause, and one that does not stop to talk: units come back meanwhile, and all end."""
    o = fleet(daemon("web", SLEEP) + daemon("db", SLEEP))
    o.says("db", "ok")
    exchange(o, b"version\n")
    before, size, over = settled(o), memory(o), threading.Event()

    def ask(request: bytes) -> Callable[[], None]:
        def work() -> None:
            while not over.is_set():
                with contextlib.suppress(OSError), dial(o) as sock:
                    sock.sendall(request)
                    if request[-1:] == b"\n":
                        sock.recv(10)

        return work

    def talk() -> None:
        while not over.is_set():
            with contextlib.suppress(OSError), dial(o) as sock:
                sock.sendall(b"events\n")
                while not over.is_set():
                    sock.sendall(b"x" * 65536)

    floods = [ask(b"status\n"), ask(b"wait nosuch\n"), ask(b"\0\xff" * 1000), ask(b"events\n"), ask(b""), talk]
    threads = [threading.Thread(target=flood, daemon=True) for flood in floods]
    for thread in threads:
        thread.start()
    for _ in range(5):
        comes_back(o, "web")
    assert o.ask("restart", "db").returncode == 0
    over.set()
    for thread in threads:
        thread.join(PATIENCE)
    eventually(lambda: descriptors(o) == before, "nothing is left of them")
    assert memory(o) < size + LIMIT_OF_GROWTH
    ends_well(o)


def test_docker_stop_in_a_flood(fleet: Start) -> None:
    """A stop request finds its way, and clients who hang on do not hold up the end."""
    o = fleet(daemon("web", SLEEP) + daemon("slow", SLEEP, warmup=NEVER))
    o.says("web", "ok")
    hangers = []  # they stay open
    for number in range(60):
        hangers.append(dial(o))  # and ask at once: who does not is cut off
        hangers[-1].sendall((b"events\n", b"wait slow\n", b"restart web\n", b"stat")[number % 4])
    over = threading.Event()

    def flood() -> None:
        while not over.is_set():
            with contextlib.suppress(OSError):
                exchange(o, b"status\n")

    thread = threading.Thread(target=flood, daemon=True)
    thread.start()
    try:
        ends_well(o)
    finally:
        over.set()
    thread.join(PATIENCE)


LONG = "x" * 8000


def silent(o: Overlord, request: bytes) -> socket.socket:
    """Return a connection on which a request was made, and from which nothing is ever read."""
    sock = dial(o)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    sock.sendall(request)
    return sock


@pytest.mark.parametrize("request_", ("events\n", f"wait {LONG}\n"), ids=("events", "wait"))
def test_slow_reader_of_changes(fleet: Start, request_: str) -> None:
    """Who follows and does not read is cut off before it costs much: of a name so long each change is a lot."""
    o = fleet(daemon(LONG, "exit 3", warmup=NEVER, backoff=0) + daemon("web", SLEEP))
    o.says("web", "ok")
    exchange(o, b"version\n")
    before, size = settled(o), memory(o)
    with silent(o, request_.encode()):
        eventually(lambda: descriptors(o) > before, "it is heard")
        enough = o.count("started") + 200  # some 5 MB of lines
        eventually(lambda: o.count("started") > enough or descriptors(o) == before, "enough has happened")
        eventually(lambda: descriptors(o) == before, "it is cut off", timeout=1)
        assert memory(o) < size + LIMIT_OF_GROWTH
        comes_back(o, "web")
    ends_well(o)


def test_slow_readers_of_logs(fleet: Start) -> None:
    """Nor does one that follows a flood of lines hold up the writer, cost more than a bounded memory, or miss his end."""
    o = fleet(
        daemon(
            "flood",
            "until test -e go; do sleep 0.01; done; yes 'a line of some length that nobody reads' | head -c 30M; "
            "echo all >> journal; exec sleep 12345",
            stdout="/dev/null",
        )
        + daemon("web", SLEEP)
    )
    o.says("web", "ok")
    exchange(o, b"version\n")
    before, size = settled(o), memory(o)
    socks = [silent(o, b"logs -f flood\n") for _ in range(10)]
    eventually(lambda: descriptors(o) == before + 10, "all are heard")
    (o.folder / "go").touch()
    comes_back(o, "web")
    o.journal.wait_for("all")
    eventually(lambda: descriptors(o) == before, "all are cut off")
    assert memory(o) < size + LIMIT_OF_GROWTH
    for sock in socks:
        sock.close()
    ends_well(o)


@pytest.mark.parametrize(
    "words", (["restart", "web"], ["stop", "web"], ["wait", "slow"], ["logs", "-f", "web"], ["events"]), ids=" ".join
)
def test_client_that_dies(fleet: Start, asking: Callable[..., Asking], words: list[str]) -> None:
    """What it asked for goes its way, and what it held is given back."""
    stubborn = "trap 'echo term >> journal' TERM; echo up >> journal; until test -e go; do sleep 0.01; done"
    o = fleet(
        daemon("web", stubborn, stop_timeout=NEVER, restart="never", on_failure="ignore", **CAPTURED)
        + daemon("slow", SLEEP, warmup=NEVER)
        + daemon("db", SLEEP),
    )
    o.journal.wait_for("up")
    o.says("db", "ok")
    exchange(o, b"version\n")
    before = settled(o)
    client = asking(o.client(*words))
    eventually(lambda: descriptors(o) > before, "it is heard")
    if words[0] in ("restart", "stop"):
        o.journal.wait_for("term")
    client.kill()
    eventually(lambda: descriptors(o) == before, "what it held is given back")
    comes_back(o, "db")
    (o.folder / "go").touch()
    if words[0] == "restart":
        o.journal.wait_for("up", 2)
        o.says("web", "stopped .*, restarting")
    elif words[0] == "stop":
        o.says("web", "stopped")
    ends_well(o)


def test_no_descriptor_for_a_client(fleet: Start) -> None:
    """Where there is none left nobody is let in, and overlord neither spins nor falls; later it goes on."""
    o = fleet(daemon("web", SLEEP))
    o.says("web", "ok")
    exchange(o, b"version\n")
    settled(o)
    used = max(Process(o.pid).descriptors) + 1
    subprocess.run(["prlimit", "--pid", str(o.pid), f"--nofile={used}:"], check=True)
    with dial(o) as sock:
        sock.sendall(b"version\n")
        process = Process(o.pid)
        eventually(lambda: process.state == "S", "it sleeps")
        before = process.status["voluntary_ctxt_switches"]
        time.sleep(0.3)
        assert int(process.status["voluntary_ctxt_switches"]) - int(before) < 20, "it does not spin"
        subprocess.run(["prlimit", "--pid", str(o.pid), "--nofile=1024:"], check=True)
        assert read_all(sock).startswith(b" overlord")
    comes_back(o, "web")
    ends_well(o)


@pytest.mark.parametrize("request_", [b"stop web\n", b"stop *\n", b"reload\n"])
def test_last_descriptor(fleet: Start, request_: bytes) -> None:
    """A client that got the last descriptor has its answer: what frees some must be possible then."""
    o = fleet(daemon("web", SLEEP))
    o.says("web", "ok")
    settled(o)
    with dial(o) as sock:
        before = len(Process(o.pid).descriptors)
        sock.sendall(request_[:2])
        eventually(lambda: len(Process(o.pid).descriptors) >= before, "it is let in")
        time.sleep(0.1)
        use_up_descriptors(o)
        sock.sendall(request_[2:])
        answer = read_all(sock)
        assert answer.splitlines()[-1] == (b"=1" if request_ == b"reload\n" else b"=0"), answer
        assert request_ != b"reload\n" or b"the configuration cannot be read: [Errno 24]" in answer
    subprocess.run(["prlimit", "--pid", str(o.pid), "--nofile=1024:"], check=True)
    ends_well(o)


def test_answer_when_the_container_ends(fleet: Start) -> None:
    """Who asked for what ends the container, at once, is told how it went."""
    o = fleet(daemon("web", "test ! -e bad || exit 5; exec sleep 12345", warmup="50ms", respawns=0))
    o.says("web", "ok")
    (o.folder / "bad").touch()
    assert "web did not come up, it is failed: pid" in o.ask("restart", "web", code=1).stderr
    assert o.wait_exit() == 5


def test_rollout_behind_a_failed_dependency(fleet: Start) -> None:
    """Instances that run well are not taken down one after the other, since what they need does not come up."""
    db = daemon("db", "test ! -e bad || exit 5; exec sleep 12345", warmup="50ms", respawns=0, on_failure="ignore")
    o = fleet(db + daemon("web", SLEEP, deps="db", count=3))
    o.says("web-3", "ok")
    (o.folder / "bad").touch()
    o.ask("stop", "db")
    told = o.ask("restart", "web", code=1).stderr
    assert "web-3 was not restarted, and runs on as before" in told, told
    assert states(o) == {"db": "failed", "web-1": "waiting", "web-2": "ok", "web-3": "ok"}
    (o.folder / "bad").unlink()
    o.ask("restart", "web")
    ends_well(o)


# --- fuzz ------------------------------------------------------------------------------------------------------------

# What a request may be made of. "steady" is never named by a verb that acts, and "shutdown" and "*" never come up: what
# these do is asked for.
LOOK = ["status", "health", "version", "logs", "events", "wait"]
ACT = ["start", "stop", "restart", "signal"]
WORDS = st.sampled_from("victim victim-* job v?ctim [ [a ] -f -n -t 3 0 10ms KILL 0x - -- \0 \xff".split())
NAMES = st.one_of(WORDS, st.just("steady"), st.text(max_size=5).filter(lambda text: "*" not in text))
LINES = st.one_of(
    st.tuples(st.sampled_from(LOOK), st.lists(NAMES, max_size=4)),
    st.tuples(st.sampled_from(ACT), st.lists(WORDS, max_size=4)),
    st.tuples(st.just("reload"), st.lists(WORDS, max_size=2)),
).map(lambda words: " ".join([words[0], *words[1]]).encode("utf-8", "replace"))
BYTES = st.one_of(
    LINES,
    LINES.map(lambda line: line + b"\n"),
    st.binary(max_size=40).filter(lambda data: b"shutdown" not in data),
    st.sampled_from([b"\n", b"\0", b" ", b"\r\n", b"x" * 70000]),
)
# On which of a few connections something happens: bytes in pieces of a size, a read, a half-close, a close
MOVES = st.lists(
    st.tuples(st.integers(0, 3), st.one_of(BYTES, st.sampled_from(["read", "half", "close", "pause"])), st.integers(1, 50)),
    max_size=12,
)


def play(o: Overlord, moves: list[tuple[int, bytes | str, int]]) -> None:
    """Make the moves. Nothing waits for an answer: what cannot be sent or read at once is left."""
    socks: dict[int, socket.socket] = {}
    for number, move, size in moves:
        if number not in socks:
            socks[number] = dial(o)
            socks[number].setblocking(False)
        sock = socks[number]
        with contextlib.suppress(OSError):
            if isinstance(move, bytes):
                for at in range(0, len(move), max(size, len(move) // 20)):
                    sock.send(move[at : at + max(size, len(move) // 20)])
            elif move == "read":
                sock.recv(size)
            elif move == "half":
                sock.shutdown(socket.SHUT_WR)
            elif move == "close":
                socks.pop(number).close()
            else:
                time.sleep(size / 20000)
    for sock in socks.values():
        sock.close()


def test_fuzz(fleet: Start) -> None:
    """Whatever bytes come, in whatever order, pieces and time: supervision is untouched."""
    o = fleet(
        daemon("steady", SLEEP)
        + daemon("victim", "echo hello; exec sleep 12345", backoff=0, on_failure="ignore", **CAPTURED)
        + daemon("victim-2", SLEEP, deps="victim:bounce", backoff=0, on_failure="ignore")
        + script("job", "true", on_failure="ignore"),
    )
    o.says("steady", "ok")
    exchange(o, b"version\n")
    before, size, steady = settled(o), memory(o), o.unit("steady").pid

    @settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(MOVES)
    def fuzz(moves: list[tuple[int, bytes | str, int]]) -> None:
        play(o, moves)
        assert exchange(o, b"version\n").startswith(b" overlord")
        assert o.count("internal error") == 0, o.log[-20:]
        assert o.count("shutting down") == 0

    fuzz()
    assert o.starts("steady") == 1
    assert o.unit("steady").pid == steady
    o.ask("start", "victim*")
    eventually(lambda: descriptors(o) == before, "nothing is left of them")
    assert memory(o) < size + LIMIT_OF_GROWTH
    for name in ("steady", "victim"):
        comes_back(o, name)
    ends_well(o)


# --- nothing to do ---------------------------------------------------------------------------------------------------


def sleeps_for_ever(o: Overlord) -> bool:
    """Tell whether overlord is in epoll_wait(2) without a timeout: the fourth argument, by /proc/PID/syscall."""
    words = Path(f"/proc/{o.pid}/syscall").read_text().split()
    return len(words) > 5 and int(words[4], 16) & 0xFFFFFFFF == 0xFFFFFFFF


def test_idle_with_a_socket(fleet: Start, asking: Callable[..., Asking]) -> None:
    """No tick for its sake: it sleeps without a timer, nobody being there, and also while somebody follows in vain."""
    o = fleet(daemon("web", SLEEP, **CAPTURED))
    o.says("web", "ok")
    process = Process(o.pid)
    eventually(lambda: process.state == "S" and sleeps_for_ever(o), "it sleeps for ever")
    before = process.status["voluntary_ctxt_switches"]
    time.sleep(0.5)
    assert process.status["voluntary_ctxt_switches"] == before
    follower = asking(o.client("events"))
    follower.wait_for("^web ok")
    asking(o.client("logs", "-f", "web"))
    with dial(o) as sock:
        sock.sendall(b"stat")
        assert read_all(sock) == b"", "whoever does not ask is not waited for for ever"
    o.ask("health")
    eventually(lambda: sleeps_for_ever(o), "it sleeps for ever again, once nobody can be late with a request any more")
    ends_well(o)
