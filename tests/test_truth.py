"""What a person asks for in the middle of something is what happens: the answer is true when it is given.

`world.py` and `worlds.py` go through all of that with processes that are mere numbers; here are the real program's answers to
what went wrong when it was tried.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
from pathlib import Path
from typing import Any, Callable

import pytest

from conftest import Start
from harness import (
    PROGRAMS,
    Asking,
    Overlord,
    Process,
    Stopwatch,
    children,
    daemon,
    dial,
    eventually,
    exchange,
    kill,
    minimal_python,
    script,
    system_python,
)

SLEEP = "exec sleep 12345"
NEVER = "1000s"
KEEP = daemon("keep", SLEEP)


def states(o: Overlord) -> dict[str, Any]:
    """Return what `status` tells of each unit."""
    return {unit["name"]: unit for unit in json.loads(o.ask("status", "--json", code=None).stdout)}


def rewrite(o: Overlord, old: str, new: str) -> None:
    """Change the configuration."""
    text = o.config.read_text()
    assert old in text
    o.config.write_text(text.replace(old, new))


# --- by hand ---------------------------------------------------------------------------------------------------------


def test_restart_while_all_start(fleet: Start) -> None:
    """D4: each process that lived is gone, and a later one is OK, although none of them was OK yet."""
    o = fleet(daemon("web", SLEEP, count=2, ready="cmd:test -e good") + KEEP)
    before = [o.unit(f"web-{number}").pid for number in (1, 2)]
    asked = Asking(o.client("restart", "web"))
    for number in (1, 2):
        o.wait_for(rf"web-{number}: stopping")
    (o.folder / "good").touch()
    assert asked.wait_exit() == 0
    now = states(o)
    assert [now[f"web-{number}"]["state"] for number in (1, 2)] == ["ok", "ok"]
    assert not any(is_there(o, pid) for pid in before)
    assert [o.starts(f"web-{number}") for number in (1, 2)] == [2, 2]


def is_there(o: Overlord, pid: int) -> bool:
    """Tell whether a process of the namespace still lives."""
    return any(process.pid == pid and process.alive for process in o.processes())


def test_max_age_beside_one_that_flaps(fleet: Start) -> None:
    """D5: one instance that never comes up keeps no other from being replaced for its age."""
    cmd = 'test "$OVERLORD_INSTANCE" = 1 || exit 1; exec sleep 12345'
    o = fleet(daemon("web", cmd, count=2, max_age="300ms", warmup="50ms", backoff="50ms..100ms") + KEEP)
    o.wait_count("web-1: started", 3)
    assert o.count("web-2: ok") == 0


def test_restart_that_waits_says_so(fleet: Start, asking: Callable[..., Asking]) -> None:
    """An instance that has to wait for its turn says for whom, in the log, in `status` and in the answer of a reload."""
    cmd = "if test -e bad; then echo no luck; exit 1; fi; " + SLEEP
    o = fleet(daemon("web", cmd, count=2, warmup="300ms", backoff=f"{NEVER}..{NEVER}", stdout="prefix"))
    for number in (1, 2):
        o.wait_ok(f"web-{number}")
    (o.folder / "bad").touch()
    rewrite(o, SLEEP, "exec sleep 12346")
    done = o.ask("reload", code=1)
    pending = "web-2 runs on as before .*, and is still to be restarted"
    assert re.search(f"{pending}; web-1 is in backoff: .*code 1.*; its last line: no luck", done.stderr)
    assert "web-1" in states(o)["web-2"]["why"] and states(o)["web-2"]["blocked"] == "web-1"
    assert o.starts("web-2") == 1


@pytest.mark.parametrize("options", [{"backoff": f"{NEVER}..{NEVER}"}, {"respawns": 0, "on_failure": "ignore"}])
def test_a_failed_restart_ends_there(fleet: Start, options: dict[str, object]) -> None:
    """Where the first instance does not come up, the others run on, and no turn of theirs is left over for later."""
    cmd = "if test -e bad; then exit 1; fi; " + SLEEP
    o = fleet(daemon("web", cmd, count=2, warmup="300ms", **options))
    for number in (1, 2):
        o.wait_ok(f"web-{number}")
    (o.folder / "bad").touch()
    done = o.ask("restart", "web", code=1)
    assert re.search(r"web-2 was not restarted, and runs on as before \(pid \d+\)", done.stderr)
    assert o.says("web-2", "not restarted, since web-1 did not come up")
    (o.folder / "bad").unlink()
    o.ask("start", "web-1")
    assert states(o)["web-2"]["why"] == "" and o.starts("web-2") == 1
    o.ask("restart", "web")
    assert o.starts("web-2") == 2


def test_stop_in_a_rolling_restart(fleet: Start, asking: Callable[..., Asking]) -> None:
    """What is stopped meanwhile stays so, and its turn is nobody's."""
    o = fleet(daemon("web", SLEEP, count=2, ready="cmd:test -e good"))
    (o.folder / "good").touch()
    for number in (1, 2):
        o.wait_ok(f"web-{number}")
    (o.folder / "good").unlink()
    restart = asking(o, "restart", "web")
    o.wait_count("web-1: started", 2)
    o.ask("stop", "web-2")
    (o.folder / "good").touch()
    assert restart.wait_exit() == 1
    assert o.ask("status", "web-1").returncode == 0
    assert states(o)["web-2"]["state"] == "stopped"
    assert o.starts("web-2") == 1


@pytest.mark.parametrize("state", ["waiting", "starting", "backoff", "failed", "stopping"])
def test_restart_in_any_state(fleet: Start, asking: Callable[..., Asking], state: str) -> None:
    """Whatever a daemon is doing: when `restart` says 0, an OK process is there that was not there before."""
    options = {
        "waiting": {"cmd": SLEEP, "wait_for": "cmd:test -e good"},
        "starting": {"cmd": SLEEP, "ready": "cmd:test -e good"},
        "backoff": {"cmd": "test -e good || exit 1; " + SLEEP, "backoff": f"{NEVER}..{NEVER}", "warmup": "300ms"},
        "failed": {"cmd": "test -e good || exit 1; " + SLEEP, "restart": "never", "on_failure": "ignore", "warmup": "300ms"},
        "stopping": {"cmd": "trap 'test -e good && exit' TERM; while :; do sleep 0.02; done", "stop_timeout": NEVER},
    }[state]
    o = fleet(daemon("web", **options) + KEEP)
    if state == "stopping":
        o.wait_ok("web")
        asking(o, "stop", "web")
        o.says("web", "stopping")
    eventually(lambda: states(o)["web"]["state"] == state, state)
    pids = [states(o)["web"]["pid"]]
    restart = asking(o, "restart", "web")
    if state == "starting":
        o.wait_count("web: started", 2)
    if state in ("backoff", "failed"):  # the first try of the restart comes to nothing
        assert restart.wait_exit() == 1
    (o.folder / "good").touch()
    if state in ("backoff", "failed"):
        restart = asking(o, "restart", "web")
    if state == "stopping":
        with contextlib.suppress(ProcessLookupError):  # until it is gone
            eventually(lambda: o.kill_unit("web", 15) or o.starts("web") == 2, "it ends at last")
    assert restart.wait_exit() == 0
    now = states(o)["web"]
    assert now["state"] == "ok" and now["pid"] not in pids


def test_stop_under_a_reload(fleet: Start, asking: Callable[..., Asking]) -> None:
    """What is stopped by hand while a reload stops it too stays stopped."""
    o = fleet(daemon("web", "trap 'test -e go && exit' TERM; while :; do sleep 0.02; done", stop_timeout=NEVER) + KEEP)
    o.wait_ok("web")
    rewrite(o, "sleep 0.02", "sleep 0.03")
    reload = asking(o, "reload")
    o.says("web", "stopping.*reload")
    stop = asking(o, "stop", "web")
    eventually(lambda: "by hand" in states(o)["web"]["why"], "the stop is heard")
    (o.folder / "go").touch()
    o.kill_unit("web", 15)
    assert stop.wait_exit() == 0
    assert reload.wait_exit() == 1, "it did not come up again"
    assert states(o)["web"]["state"] == "stopped"
    assert o.starts("web") == 1


def test_each_client_is_answered_once(fleet: Start) -> None:
    """Two who ask for contrary things at once: each gets one answer, and one of them is told that it came otherwise."""
    o = fleet(daemon("web", SLEEP, ready="cmd:test -e good") + KEEP)
    o.says("web", "started")
    with dial(o) as one, dial(o) as two:
        one.sendall(b"restart web\n")
        two.sendall(b"stop web\n")
        o.says("web", "stopped")
        answers = []
        for sock in (one, two):
            data = b""
            while True:
                more = sock.recv(65536)
                if not more:
                    break
                data += more
            answers.append(data)
    assert [len(re.findall(rb"(?m)^=\d+$", answer)) for answer in answers] == [1, 1]
    assert answers[0].endswith(b"=1\n") and answers[1].endswith(b"=0\n")


# --- who follows -----------------------------------------------------------------------------------------------------


def test_logs_of_one_that_has_not_started(fleet: Start, asking: Callable[..., Asking]) -> None:
    """D7: `logs` says that it has not started; `logs -f` of several waits for those who start late, or anew after a reload."""
    web = daemon("web", f"echo first; {SLEEP}", stdout="prefix", wait_for="cmd:test -e good")
    o = fleet(web + daemon("other", f"echo here; {SLEEP}", stdout="prefix") + daemon("bare", SLEEP))
    o.wait_ok("other")
    done = o.ask("logs", "web", code=None)
    assert "web has not started" in done.stderr and "captured" not in done.stderr
    assert "bare is not captured" in o.ask("logs", "bare", code=1).stderr
    follow = asking(o, "logs", "-f", "*e*")
    follow.wait_for("other | here")
    (o.folder / "good").touch()
    follow.wait_for("web | first")
    rewrite(o, "echo first", "echo second")
    o.ask("reload")
    follow.wait_for("web | second")
    o.config.write_text(o.config.read_text() + daemon("new", f"echo third; {SLEEP}", stdout="prefix"))
    o.ask("reload")
    follow.wait_for("new | third")


def test_events_of_what_a_reload_adds(fleet: Start, asking: Callable[..., Asking]) -> None:
    """D8: whoever follows all, or by a glob, is told of units that come by a reload."""
    o = fleet(KEEP)
    o.wait_ok("keep")
    every, some, one = asking(o, "events"), asking(o, "events", "[kn]*"), asking(o, "events", "keep")
    for each in (every, some, one):
        each.wait_for("keep ok")
    o.config.write_text(o.config.read_text() + daemon("new", SLEEP) + daemon("other", SLEEP))
    o.ask("reload")
    every.wait_for("other ok")
    some.wait_for("new ok")
    assert [line for line in every.lines if line.startswith("new ")][-1].startswith("new ok")
    assert not any(line.startswith("other ") for line in some.lines)
    o.ask("restart", "keep")
    eventually(lambda: sum(line.startswith("keep ok") for line in one.lines) == 2, "both times that it was ok")
    assert not any(line.startswith(("new ", "other ")) for line in one.lines)


# --- reload ----------------------------------------------------------------------------------------------------------


def test_health_that_goes_to_and_fro(fleet: Start) -> None:
    """D11: a reload that changes a health check and back within its interval leaves one prober, not two."""
    one, two = "cmd:echo one >> journal", "cmd:echo two >> journal"
    o = fleet(daemon("web", SLEEP, health=one, health_interval="500ms") + KEEP)
    o.wait_ok("web")
    for old, new in ((one, two), (two, one), (one, two), (two, one)):
        rewrite(o, old, new)
        o.ask("reload")
    o.ask("restart", "keep")
    o.journal.wait_for("one", 3)
    before = len(o.journal.lines())
    with Stopwatch() as watch:
        o.journal.wait_for("one", 9)
    assert len(o.journal.lines()) - before <= watch.seconds / 0.5 + 2, o.journal.lines()


def test_instances_are_replaced_one_at_a_time(fleet: Start) -> None:
    """D12: a reload that changes what instances run replaces one after the other, each once the one before is OK."""
    o = fleet(daemon("web", SLEEP, count=3, warmup="200ms") + KEEP)
    for number in (1, 2, 3):
        o.wait_ok(f"web-{number}")
    mark = o.mark
    rewrite(o, "sleep 12345", "sleep 12346")
    o.ask("reload")
    story = [line for line in o.log[mark:] if re.search(r"web-\d: (stopping|ok)", line)]
    turns = [re.sub(r".*(web-\d: \w+).*", r"\1", line) for line in story]
    assert turns == [f"web-{number}: {what}" for number in (1, 2, 3) for what in ("stopping", "ok")]
    assert len(o.running("sleep", "12346")) == 4


def test_instances_keep_running_where_the_first_new_one_fails(fleet: Start) -> None:
    """What is broken takes one instance down, not all: the others wait for it, and go on as they were."""
    o = fleet(daemon("web", SLEEP, count=3, warmup="100ms", backoff=f"{NEVER}..{NEVER}") + KEEP)
    for number in (1, 2, 3):
        o.wait_ok(f"web-{number}")
    rewrite(o, SLEEP, "exit 1")
    done = o.ask("reload", code=1)
    assert "web-1 did not come up" in done.stderr
    assert [states(o)[f"web-{number}"]["state"] for number in (2, 3)] == ["ok", "ok"]
    rewrite(o, "exit 1", "exec sleep 12346")
    o.ask("reload")
    assert [states(o)[f"web-{number}"]["state"] for number in (1, 2, 3)] == ["ok", "ok", "ok"]


def test_count_from_one_to_two(fleet: Start) -> None:
    """D12: `count = 1` is `NAME-1`, so that another count adds, and takes away, and leaves alone what stays."""
    o = fleet(daemon("web", SLEEP, count=1) + KEEP)
    o.wait_ok("web-1")
    pid = o.unit("web-1").pid
    rewrite(o, "count = 1", "count = 2")
    o.ask("reload")
    assert {name: unit["state"] for name, unit in states(o).items()} == {"web-1": "ok", "web-2": "ok", "keep": "ok"}
    rewrite(o, "count = 2", "count = 1")
    o.ask("reload")
    assert set(states(o)) == {"web-1", "keep"}
    assert o.unit("web-1").pid == pid and o.starts("web-1") == 1
    rewrite(o, "count = 1", "count = 0")
    o.config.write_text(o.config.read_text() + daemon("front", SLEEP, deps="web"))
    o.ask("reload")
    assert {name: unit["state"] for name, unit in states(o).items()} == {"keep": "ok", "front": "ok"}


def never_read(o: Overlord) -> str:
    """Put a FIFO that nobody writes in the place of the configuration; return what that was."""
    o.wait_ok("keep")
    text = o.config.read_text()
    o.config.unlink()
    os.mkfifo(o.config)
    return text


def test_reload_of_a_file_that_hangs(fleet: Start, asking: Callable[..., Asking]) -> None:
    """While the configuration is being read, everything else goes on."""
    o = fleet(KEEP)
    text = never_read(o)
    reload = Asking([*o.client("reload", "-t", "1", named=False)])
    o.ask("health", named=False)
    o.kill_unit("keep")
    o.wait_count("keep: started", 2)
    assert reload.wait_exit() == 1
    o.config.unlink()
    o.config.write_text(text + daemon("new", SLEEP))
    o.ask("reload", named=False)
    assert states_unnamed(o)["new"] == "ok"


def test_reload_whose_reader_is_killed(fleet: Start, asking: Callable[..., Asking]) -> None:
    """That is no mistake in the configuration: nothing has changed, and the next reload does it."""
    o = fleet(KEEP)
    text = never_read(o)
    reload = Asking([*o.client("reload", named=False)])
    reader = eventually(lambda: [pid for pid in children(o.pid) if Process(pid).cmdline[:1] != ["sleep"]], "a reader")
    kill(reader[0], signal.SIGKILL)
    assert reload.wait_exit() == 1
    o.config.unlink()
    o.config.write_text(text + daemon("new", SLEEP))
    o.ask("reload", named=False)
    assert states_unnamed(o) == {"keep": "ok", "new": "ok"}


def states_unnamed(o: Overlord) -> dict[str, str]:
    """Return the states by the common socket."""
    return {unit["name"]: unit["state"] for unit in json.loads(o.ask("status", "-j", named=False, code=None).stdout)}


# --- what raises -----------------------------------------------------------------------------------------------------


def test_an_exception_out_of_a_spawn(overlord: Start, tmp_path: Path) -> None:
    """D13: it is a failed start, with its back-off, and not a unit that hangs for ever; at the boot, too."""
    (tmp_path / "broken").touch()
    python = [system_python(), "-I", "-S", str(PROGRAMS / "raising.py"), str(tmp_path / "broken")]
    options = {"backoff": "100ms", "on_failure": "ignore"}
    o = overlord(daemon("web", SLEEP, **options) + daemon("db", SLEEP, **options) + script("job") + KEEP, python=python)
    o.wait_count("web: cannot start: internal error: RuntimeError", 2)
    o.wait_for("db: cannot start: internal error")
    (tmp_path / "broken").unlink()
    for name in ("web", "db", "keep"):
        o.wait_ok(name)
    assert o.count("internal error, going on") >= 4
    assert o.stop() == 0


# --- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ("signal", "-HUP", "web"),
        ("signal", "-1", "web"),
        ("signal", "SIGHUP", "web"),
        ("logs", "-n5", "web"),
        ("logs", "web", "-n", "5"),
        ("logs", "--lines=5", "web"),
        ("logs", "--lines", "5", "web"),
        ("status", "--json"),
        ("status", "web", "-j"),
        ("wait", "-t9", "web"),
        ("wait", "web", "--timeout=9s"),
        ("timeline", "--json"),
        ("graph", "--dot"),
    ],
)
def test_options_in_any_order_and_form(fleet: Start, words: tuple[str, ...]) -> None:
    """D21: short or long, before or behind, with the value attached or not."""
    o = fleet(daemon("web", "trap '' HUP; echo hello; while :; do sleep 100; done", stdout="prefix"))
    o.wait_ok("web")
    o.wait_for("hello", lines=o.out)
    o.ask(*words)


def test_signal_of_any_form_is_sent(fleet: Start) -> None:
    """D21: `signal -9` is SIGKILL, as with kill(1)."""
    o = fleet(daemon("web", SLEEP) + KEEP)
    o.wait_ok("web")
    o.ask("signal", "-9", "web")
    o.says("web", r"pid \d+ killed by SIGKILL")


def test_words_for_what_is_on_its_way(fleet: Start, asking: Callable[..., Asking]) -> None:
    """D27, F11, N6: no gap where nothing is known, no pid of the dead, no "for by"."""
    cmd = "trap '' TERM; sleep 12345 & exit 3"
    o = fleet(daemon("web", cmd, stop_timeout=NEVER, warmup="0") + script("job", SLEEP) + KEEP)
    o.says("web", r"pid \d+ exited with code 3, stopping what it left behind")
    web = states(o)["web"]
    assert (web["state"], web["pid"], web["uptime"]) == ("stopping", None, None)
    assert re.match(r"\w.*left behind.*, killed in \d+", web["why"]), web
    asking(o, "start", "job")
    o.says("job", "started")
    assert states(o)["job"]["why"] == "by hand"
    answer = exchange(o, b"status\n").decode()
    assert not re.search(r",  to go|for by |\t, killed", answer)


def test_wait_for_what_nobody_has_asked_for(fleet: Start, asking: Callable[..., Asking]) -> None:
    """It waits: somebody may ask for it yet."""
    o = fleet(daemon("late", SLEEP, autostart="false") + KEEP)
    o.wait_ok("keep")
    waiting = asking(o, "wait", "late")
    o.ask("wait", "late", "-t", "0.1", code=1)
    o.ask("start", "late")
    assert waiting.wait_exit() == 0


def test_no_limits_say_nothing(overlord: Start, tmp_path: Path) -> None:
    """A unit that is made by a fork, and has no `limits`, runs no prlimit(1), which would print a table into its output."""
    python = minimal_python(tmp_path)
    if not python:
        pytest.skip("there is no python3-minimal")
    o = overlord(daemon("web", f"echo here; {SLEEP}", umask="022", stdout="prefix"), python=[python])
    o.wait_for("here", lines=o.out)
    assert o.out == ["web | here"]
    assert o.stop() == 0


def test_scripts_of_what_bounces_are_told_of(fleet: Start) -> None:
    """`restart` tells of all that comes of it: also of the script that runs before the start of one that bounces."""
    o = fleet(daemon("db", SLEEP) + daemon("web", SLEEP, deps="prepare:always, db:bounce") + script("prepare"))
    o.wait_ok("web")
    assert "prepare: ok" in o.ask("restart", "db").stdout


@pytest.mark.parametrize("overtaken", ["shutdown", "stop", "removed"])
def test_reload_that_is_overtaken(fleet: Start, asking: Callable[..., Asking], overtaken: str) -> None:
    """What it set out to do has not come about: that is 1, whatever came in between."""
    o = fleet(daemon("web", "trap '' TERM; while :; do sleep 0.05; done", stop_timeout="2s") + KEEP)
    o.wait_ok("web")
    rewrite(o, "sleep 0.05", "sleep 0.06")
    reload = asking(o, "reload")
    o.says("web", "stopping")
    if overtaken == "removed":
        o.config.write_text(re.sub(r"(?s)\[daemon:web\].*?(?=\[daemon:keep)", "", o.config.read_text()))
        o.ask("reload")
    else:
        o.ask(overtaken, *(["web"] if overtaken == "stop" else []))
    assert reload.wait_exit() in ((1, 69) if overtaken == "shutdown" else (1,))
