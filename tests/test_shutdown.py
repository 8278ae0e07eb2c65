"""Shutdown: in order, in time, down to the last process, and whatever state a unit is in when it is asked for."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from conftest import Start
from harness import Asking, Process, daemon, eventually, program, script

NEVER = "1000s"
SLEEP = "exec sleep 12345"


def stubborn(name: str, **options: object) -> str:
    """Return the section of a daemon that no SIGTERM ends."""
    return daemon(name, program("stubborn.sh", name), **options)


# --- order -----------------------------------------------------------------------------------------------------------


def test_reverse_order(overlord: Start) -> None:
    """A unit is stopped when all that depend on it are gone."""
    o = overlord(
        daemon("db") + daemon("api", deps="db") + daemon("worker", deps="db:bounce") + daemon("web", deps="api, worker")
    )
    o.says("web", "ok")
    assert o.stop() == 0
    assert o.position("web: stopped") < o.position("api: stopping")
    assert o.position("web: stopped") < o.position("worker: stopping")
    assert o.position("api: stopped") < o.position("db: stopping")
    assert o.position("worker: stopped") < o.position("db: stopping")


def test_independent_units_stop_in_parallel(overlord: Start) -> None:
    """Each of two ends only when it sees that the other was asked as well."""
    meet = "trap 'touch {0}.asked; until test -e {1}.asked; do sleep 0.01; done; exit 0' TERM; touch {0}.up"
    meet += "; while :; do sleep 0.01; done"
    o = overlord(daemon("a", meet.format("a", "b")) + daemon("b", meet.format("b", "a")))
    eventually(lambda: (o.folder / "a.up").exists() and (o.folder / "b.up").exists(), "both are up")
    assert o.stop() == 0
    assert o.count("killing") == 0


def test_daemons_wait_for_the_main_command(overlord: Start) -> None:
    """The main command has its time before the daemons' turn."""
    main = "trap 'echo main asked >> journal; sleep 0.2; echo main ends >> journal; exit 5' TERM; echo main >> journal"
    main += "; while :; do sleep 0.01; done"
    o = overlord(
        daemon("db", "trap 'echo db asked >> journal; exit 0' TERM; echo db >> journal; while :; do sleep 0.01; done"),
        "sh",
        "-c",
        main,
    )
    o.journal.wait_for("db")
    o.journal.wait_for("main")
    assert o.stop() == 5
    assert o.journal.lines()[2:] == ["main asked", "main ends", "db asked"]


@pytest.mark.parametrize("asked", (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGRTMIN + 3))
@pytest.mark.parametrize("beside", ("", daemon("web")), ids=("alone", "beside a daemon"))
def test_main_command_gets_the_signal_that_asked(overlord: Start, asked: int, beside: str) -> None:
    """Images set STOPSIGNAL for their main command; RTMIN+3 is systemd's: beside a daemon it comes as TERM."""
    gets = "SIGTERM" if beside and asked > signal.SIGRTMIN else signal.Signals(asked).name if asked < 32 else "SIG37"
    o = overlord(beside, "sh", "-c", program("on_signal.py", "main", "catch", "SIGTERM", "SIGINT", "SIGQUIT", "SIG37"))
    o.journal.wait_for("main ready")
    o.send(asked)
    o.journal.wait_for(f"main got {gets}")
    assert [line for line in o.journal.lines() if "got" in line] == [f"main got {gets}"]


# --- the stop of one unit --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("option", "name"), (("USR1", "SIGUSR1"), ("2", "SIGINT")))
def test_stop_signal(overlord: Start, option: str, name: str) -> None:
    """By name or number; test_config has the spellings."""
    cmd = f"trap 'echo {name} >> journal; exit 0' {name[3:]}; echo up >> journal; while :; do sleep 0.01; done"
    o = overlord(daemon("web", cmd, stop_signal=option))
    o.journal.wait_for("up")
    assert o.stop() == 0
    assert o.journal.lines() == ["up", name]


def test_stop_signal_goes_to_the_leader(overlord: Start) -> None:
    """A prefork master gets it alone, and its workers finish their work."""
    o = overlord(daemon("celery", program("prefork.py", "celery")))
    o.journal.wait_for("celery up")
    o.send(signal.SIGTERM)
    o.journal.wait_for("celery master got SIGTERM")
    (o.folder / "celery may finish").touch()
    assert o.wait_exit() == 0
    assert o.journal.lines() == [
        "celery up",
        "celery master got SIGTERM",
        *3 * ["celery work done"],
        "celery master done",
    ]


def test_then_to_what_the_leader_leaves(overlord: Start) -> None:
    """Once the leader is gone its group is asked, and the unit is stopped when the group is empty."""
    o = overlord(daemon("web", program("leave_worker.py", "web", "port")))
    o.journal.wait_for("web up")
    assert o.stop() == 0
    assert o.journal.lines() == ["web up", "web worker got SIGTERM"]
    assert o.position(r"web: stopping \(SIGTERM\)") < o.position("web: stopped")
    assert o.count("killing") == 0


def test_stop_timeout_kills_the_group(overlord: Start) -> None:
    """A leader that stays is killed with its whole group when its time is over."""
    o = overlord(daemon("web", program("leave_worker.py", "web", "port", "ignore"), stop_timeout="300ms"))
    o.journal.wait_for("web up")
    assert o.stop() == 0
    assert o.journal.lines() == ["web up", "web worker got SIGTERM"]
    assert o.position("web: not (all )?gone after .*, killing") < o.position("web: stopped")


def test_stubborn_daemon_is_killed(overlord: Start) -> None:
    """It is asked once, killed, and named in the end."""
    o = overlord(stubborn("web", stop_timeout="300ms") + daemon("db"))
    o.journal.wait_for("web up")
    assert o.stop() == 0
    assert o.journal.lines().count("web got TERM") == 1
    assert o.count(r"web: not gone after \S+ s, killing it") == 1
    assert any("web" in line and "kill" in line for line in o.log[-3:])
    assert o.count("db: not gone") == 0


def test_exits_while_being_stopped(overlord: Start) -> None:
    """A process that ends of its own just when it is asked to is stopped like any other."""
    o = overlord("".join(daemon(f"web-{n}", f"sleep 0.{n}", backoff="0") for n in range(1, 8)))
    o.says("web-7", "started")
    eventually(lambda: o.starts("web-1") > 5, "a few rounds")
    assert o.stop() == 0
    assert o.count("killing") == 0
    shutting_down = o.position("shutting down")
    assert not any("started" in line for line in o.log[shutting_down:])


def test_stop_of_what_has_just_started(overlord: Start) -> None:
    """A stop signal that comes between fork and exec is the program's: overlord's own handlers swallow none of them."""
    o = overlord(daemon("web", "exec sleep infinity", max_age="1ms", stop_timeout="100s"))
    eventually(lambda: o.starts("web") > 30, "30 stops, none of which takes 100 s")
    assert o.stop() == 0


def test_a_stopped_daemon_heeds_its_stop(fleet: Start) -> None:
    """`s6-svc -d` sends a SIGCONT after the signal: so a daemon in SIGSTOP ends by itself, and is not killed."""
    cmd = "trap 'echo asked >> journal; exit 0' TERM; echo up >> journal; while :; do sleep 0.01; done"
    o = fleet(daemon("web", cmd, stop_timeout=NEVER))
    o.journal.wait_for("up")
    o.ask("signal", "STOP", "web")
    eventually(lambda: o.unit("web").state == "T", "it is stopped")
    o.ask("signal", "CONT", "web")
    eventually(lambda: o.unit("web").state != "T", "it goes on")
    o.ask("signal", "STOP", "web")
    eventually(lambda: o.unit("web").state == "T", "it is stopped again")
    o.ask("stop", "web")
    assert o.journal.lines() == ["up", "asked"]


# --- stop_cmd --------------------------------------------------------------------------------------------------------


def test_stop_cmd(overlord: Start, public: Path) -> None:
    """It runs as the unit's user, in its folder, with its environment, and knows the process to stop."""
    (public / "sub").mkdir()
    (public / "sub").chmod(0o777)
    stop = 'echo "$MAINPID $(id -un) $(pwd) $WHAT $OVERLORD_NAME" > told; kill -USR1 $MAINPID'
    work = "trap 'exit 0' USR1; trap '' TERM; touch up; while :; do sleep .05; done"
    o = overlord(daemon("web", work, stop_cmd=stop, uid="nobody", dir=public / "sub", env="WHAT=that"), folder=public)
    eventually((public / "sub/up").exists, "it runs, as its user")
    pid = o.unit("web").pid
    assert o.stop() == 0
    assert (public / "sub" / "told").read_text().split() == [str(pid), "nobody", str(public / "sub"), "that", "web"]
    o.says("web", r"stopped in .* \(pid \d+ exited with code 0\)")


@pytest.mark.parametrize("stop", ["exit 3", "/no/such/program", "kill -9 $$"])
def test_a_stop_cmd_that_fails(overlord: Start, stop: str) -> None:
    """Then it gets its stop signal after all."""
    work = "trap 'echo usr1 >> journal; exit 0' USR1; echo up >> journal; while :; do sleep .05; done"
    o = overlord(daemon("web", work, stop_cmd=stop, stop_signal="USR1"))
    o.journal.wait_for("up")
    assert o.stop() == 0
    assert o.journal.lines() == ["up", "usr1"]
    assert o.count("web: stop_cmd .*, sending SIGUSR1") == 1


def test_a_stop_cmd_that_hangs(fleet: Start) -> None:
    """The daemon is killed after stop_timeout, and nothing of the command stays."""
    o = fleet(daemon("web", SLEEP, stop_cmd="sleep 54321 & sleep 54322", stop_timeout="300ms") + daemon("other", SLEEP))
    o.says("web", "ok")
    o.ask("stop", "web", code=None)
    o.says("web", r"stopped in .*SIGKILL")
    eventually(lambda: not o.running("sleep", "54321") and not o.running("sleep", "54322"), "the command is gone")
    assert o.unit("other").alive
    assert o.stop() == 0


KILL_AND_GO_ON = "kill $MAINPID; until test -e go; do sleep 0.01; done; echo cleaned up >> journal"


@pytest.mark.parametrize("how", ("stop", "restart", "shutdown"))
def test_a_stop_cmd_that_outlives_the_daemon(fleet: Start, how: str) -> None:
    """`pg_ctl stop -w`, "stop, then copy": it is let end, and only then the unit is stopped or started again."""
    o = fleet(daemon("web", SLEEP, stop_cmd=KILL_AND_GO_ON) + daemon("db", SLEEP, deps="web"))
    o.says("db", "ok")
    pid = o.unit("web").pid
    asked = Asking(o.client(how, *(["web"] if how != "shutdown" else [])))
    o.says("web", "stopping .stop_cmd")
    eventually(lambda: not Process(pid, o.proc).alive, "the daemon has ended")
    assert not o.count("web: stopped")
    assert o.starts("web") == 1
    (o.folder / "go").touch()
    assert asked.wait_exit() == 0
    assert o.starts("web") == (2 if how == "restart" else 1)
    if how != "shutdown":
        assert o.journal.lines() == ["cleaned up"]
        o.send(15)
    assert o.wait_exit() == 0
    assert o.journal.lines()[0] == "cleaned up"
    assert not o.count("SIGKILL|stop_cmd.*killed|sending")


def test_a_stop_cmd_that_outlives_its_time(fleet: Start) -> None:
    """SIGKILL follows `stop_timeout` all the same, and what is said of it is true."""
    o = fleet(daemon("web", SLEEP, stop_cmd="kill $MAINPID; exec sleep 54321", stop_timeout="300ms"))
    o.says("web", "ok")
    o.ask("stop", "web")
    o.says("web", r"stop_cmd \(pid \d+\) has not ended, killing it")
    o.says("web", r"stopped in .* \(pid \d+ killed by SIGTERM")
    assert not o.count("web: not gone"), "the daemon was gone by then"
    assert not o.running("sleep", "54321")
    assert not o.count("sending|stop_cmd killed")
    assert o.stop() == 0


def test_a_stop_cmd_that_fails_too_late(fleet: Start) -> None:
    """The daemon has ended by then: its failure is told, and no signal is said to be sent."""
    o = fleet(daemon("web", SLEEP, stop_cmd=f"{KILL_AND_GO_ON}; exit 3"))
    o.says("web", "ok")
    pid = o.unit("web").pid
    asked = Asking(o.client("stop", "web"))
    eventually(lambda: not Process(pid, o.proc).alive, "the daemon has ended")
    (o.folder / "go").touch()
    assert asked.wait_exit() == 0
    assert o.count("web: stop_cmd exited with code 3$") == 1
    assert not o.count("sending")
    assert o.stop() == 0


# --- in time ---------------------------------------------------------------------------------------------------------


def test_levels_share_the_time(overlord: Start) -> None:
    """Three levels that answer to nothing are each asked before they are killed, all within shutdown_timeout."""
    chain = {"stop_timeout": "100s"}
    o = overlord(
        stubborn("db", **chain) + stubborn("api", deps="db", **chain) + stubborn("web", deps="api", **chain),
        settings={"shutdown_timeout": "1500ms"},
    )
    o.journal.wait_for("web up")
    assert o.stop() == 0
    asked = [line for line in o.journal.lines() if "got TERM" in line]
    assert asked == ["web got TERM", "api got TERM", "db got TERM"]
    for name in ("web", "api", "db"):
        assert o.count(f"{name}: not (all )?gone after .*, killing") == 1


def test_a_level_leaves_its_time_to_the_next(overlord: Start) -> None:
    """What three quick levels do not need is the last one's: a quarter of the time would not be enough for it."""
    slow = "trap 'sleep 2.5; echo slow done >> journal; exit 0' TERM; echo slow up >> journal"
    slow += "; while :; do sleep 0.01; done"
    o = overlord(
        daemon("slow", slow, stop_timeout="100s")
        + daemon("a", deps="slow", stop_timeout="100s")
        + daemon("b", deps="a", stop_timeout="100s")
        + daemon("c", deps="b", stop_timeout="100s"),
        settings={"shutdown_timeout": "8s"},
    )
    o.journal.wait_for("slow up")
    o.says("c", "ok")
    assert o.stop() == 0
    assert o.journal.lines()[-1] == "slow done"


@pytest.mark.parametrize("first", (signal.SIGTERM, signal.SIGINT))
def test_second_interrupt_kills_at_once(overlord: Start, first: int) -> None:
    """Ctrl-C twice: nobody waits for a daemon that takes its time, whatever asked before."""
    o = overlord(
        stubborn("db", stop_timeout="1000s") + stubborn("web", deps="db", stop_timeout="1000s"),
        settings={"shutdown_timeout": "1000s"},
    )
    o.journal.wait_for("web up")
    o.send(first)
    o.journal.wait_for("web got TERM")
    if first != signal.SIGINT:
        o.send(signal.SIGINT)
        o.wait_for("SIGINT received.* a second SIGINT")
    o.send(signal.SIGINT)
    assert o.wait_exit() == 0
    assert "db got TERM" not in o.journal.lines()


@pytest.mark.parametrize(
    ("first", "second"),
    (("shutdown", signal.SIGTERM), (signal.SIGTERM, signal.SIGRTMIN + 3), (signal.SIGQUIT, "shutdown")),
)
def test_second_request_changes_nothing(overlord: Start, first: int | str, second: int | str) -> None:
    """`overlord.py shutdown` in a Kubernetes preStop hook, then the platform's SIGTERM: what ends is let end."""
    slow = "trap 'echo asked >> journal; until test -e go; do sleep 0.01; done; echo saved >> journal; exit 0' TERM"
    o = overlord(
        daemon("db", f"{slow}; echo up >> journal; while :; do sleep 0.01; done", stop_timeout="1000s"),
        settings={"shutdown_timeout": "1000s", "socket": "abstract"},
    )
    o.journal.wait_for("up")
    for request in (first, second):
        if isinstance(request, str):
            o.ask(request)
        else:
            o.send(request)
        o.journal.wait_for("asked")
    o.wait_for(r"(received|by hand): shutting down already, within 1\d min")
    (o.folder / "go").touch()
    assert o.wait_exit() == 0
    assert o.journal.lines() == ["up", "asked", "saved"]


def test_stubborn_main_command(overlord: Start) -> None:
    """It is killed in time, and the daemons have a share too."""
    o = overlord(stubborn("db"), "sh", "-c", program("stubborn.sh", "main"), settings={"shutdown_timeout": "1500ms"})
    o.journal.wait_for("main up")
    assert o.stop() == 137
    assert [line for line in o.journal.lines() if "got" in line] == ["main got TERM", "db got TERM"]


# --- the sweep -------------------------------------------------------------------------------------------------------


def test_sweep_asks_what_forked_away(overlord: Start) -> None:
    """A daemon with a session of its own gets a SIGTERM when the units are gone."""
    o = overlord(script("away", program("fork_away.py", "x")) + daemon("web", deps="away"))
    o.says("web", "ok")
    o.journal.wait_for("x away")
    assert o.stop() == 0
    assert o.journal.lines()[-1] == "x away got SIGTERM"


def test_sweep_kills_who_ignores_it(overlord: Start) -> None:
    """A SIGKILL follows, and the last lines name whom it hit."""
    o = overlord(script("away", program("fork_away.py", "x", "ignore")) + daemon("web", deps="away"))
    o.says("web", "ok")
    o.journal.wait_for("x away")
    assert o.stop() == 0
    assert o.journal.lines()[-1] == "x away got SIGTERM"
    assert any("kill" in line for line in o.log[-3:])


def test_sweep_wakes_the_stopped(overlord: Start) -> None:
    """SIGCONT comes with it, so that a process in SIGSTOP can answer."""
    o = overlord(script("away", program("fork_away.py", "x")) + daemon("web", deps="away"))
    o.says("web", "ok")
    o.journal.wait_for("x away")
    away = next(process for process in o.processes() if any("fork_away.py" in word for word in process.cmdline))
    o.kill(away.pid, signal.SIGSTOP)
    eventually(lambda: away.state == "T", "it is stopped")
    assert o.stop() == 0
    assert o.journal.lines()[-1] == "x away got SIGTERM"


def test_sweep_reaches_exec_sessions(overlord: Start) -> None:
    """What `docker exec` started has no parent in the namespace, and is asked to end as well."""
    o = overlord(daemon("web"))
    o.says("web", "ok")
    inside = f"cd {o.folder}; {program('on_signal.py', 'exec', 'catch', 'SIGTERM')}"
    session = subprocess.Popen(["nsenter", "--target", str(o.init), "--pid", "--mount", "--", "sh", "-c", inside])
    o.journal.wait_for("exec ready")
    assert o.stop() == 0
    session.wait(30)
    assert "exec got SIGTERM" in o.journal.lines()


# --- whatever the state ----------------------------------------------------------------------------------------------


def test_while_a_script_runs(overlord: Start) -> None:
    """The script is stopped, and what waited for it never starts."""
    o = overlord(script("setup", "echo setup >> journal; exec sleep infinity") + daemon("web", deps="setup"))
    o.journal.wait_for("setup")
    assert o.stop() == 0
    assert o.journal.lines() == ["setup"]


def test_while_in_backoff(overlord: Start) -> None:
    """A daemon that waits for its restart is not started again."""
    o = overlord(daemon("web", "exit 1", backoff="1000s..2000s"))
    o.says("web", r"pid \d+ exited with code 1 after .*restarting in")
    assert o.stop() == 0
    assert o.starts("web") == 2


def test_while_starting(overlord: Start) -> None:
    """A daemon within its warm-up is stopped like any other, and nobody waits for the rest of it."""
    o = overlord(daemon("web", warmup="1000s") + daemon("front", deps="web"))
    o.unit_is("web", "sleep")
    assert o.stop() == 0
    assert o.journal.lines() == ["web"]


def test_while_a_unit_stops_for_another_reason(overlord: Start) -> None:
    """A daemon on its way to a restart does not come back."""
    o = overlord(stubborn("web", max_age="100ms", stop_timeout="500ms"))
    o.says("web", r"stopping \(SIGTERM\): max_age")
    assert o.stop() == 0
    assert o.starts("web") == 1


def test_failure_stops_the_others_in_order(overlord: Start) -> None:
    """The final failure of one unit is a shutdown like any other, with the unit's code."""
    o = overlord(
        daemon("db")
        + daemon("api", deps="db")
        + daemon("web", "until test -e go; do sleep 0.01; done; exit 3", deps="db", respawns=0)
    )
    o.says("api", "ok")
    o.says("web", "ok")
    (o.folder / "go").touch()
    assert o.wait_exit() == 3
    assert o.position("web: failed: ") < o.position("shutting down: web failed") < o.position("api: stopped")
    assert o.position("api: stopped") < o.position("db: stopping")


def test_leaves_nothing_below_another_init(overlord: Start) -> None:
    """Where overlord is not PID 1 no kernel cleans up behind it: its descendants are gone before it is."""
    o = overlord(
        script("away", program("fork_away.py", "x", "ignore"))
        + daemon("web", program("leave_worker.py", "web", "port", "ignore"), deps="away", stop_timeout="300ms"),
        pid1=False,
    )
    o.journal.wait_for("web up")
    assert o.stop() == 0
    left = [["sleep", "infinity"], ["sleep", "infinity"]]
    eventually(
        lambda: [each.cmdline for each in o.processes()] == left, "only the other init and its own child are left"
    )
    assert os.path.exists(f"/proc/{o.init}")


def test_stop_request_while_hundreds_start(overlord: Start) -> None:
    """A stop request does not wait until all have been started that are to be."""
    first = daemon("first", "kill -TERM 1; exec sleep infinity")
    o = overlord(first + "".join(daemon(f"web-{n}", "exec sleep infinity") for n in range(400)))
    assert o.wait_exit() == 0
    assert 0 < o.count(r"started \(pid") < 400


def test_stop_of_many_that_leave_others_behind(overlord: Start) -> None:
    """Who is left of many groups is found, asked and gone before anybody has to be killed."""
    leader = "for i in 1 2 3 4 5 6 7 8 9 10; do sleep infinity & done; exec sleep 12345"
    o = overlord("".join(daemon(f"web-{n}", leader) for n in range(20)))
    eventually(lambda: len(o.running("sleep", "12345")) == 20, "all leaders run")
    assert o.stop() == 0
    assert not o.count("had to be killed|not gone|cannot send")


@pytest.mark.parametrize("kind", ("main command", "daemon"))
def test_pipelines_of_a_shell_end_with_it(overlord: Start, kind: str) -> None:
    """A shell with two pipelines, one of them in the background: a stop leaves none of the four, where no kernel helps."""
    cmd = "sleep 1234 | tail & sleep 4321 | tail"
    words = ("sh", "-c", cmd) if kind == "main command" else ()
    o = overlord("" if words else daemon("web", cmd), *words, pid1=False)

    def running() -> int:
        return sum(len(o.running(*line)) for line in (("sleep", "1234"), ("sleep", "4321"), ("tail",)))

    eventually(lambda: running() == 4, "both pipelines")
    assert o.stop() == (143 if words else 0)
    assert running() == 0
