"""A unit is everything it started: whatever session, parent or environment it took, and never what may be another's."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness import Asking, Overlord, Process, eventually, minimal_python, program, unit, use_up_descriptors

Start = Callable[..., Overlord]
Ask = Callable[..., Any]


def daemon(name: str, cmd: object = "exec sleep 54321", **options: object) -> str:
    return unit("daemon", name, cmd, **{"warmup": "0", **options})


def script(name: str, cmd: object, **options: object) -> str:
    return unit("script", name, cmd, **options)


NEEDS = daemon("needs", deps="job", on_failure="ignore")
OTHER = daemon("other", "exec sleep 98765")


def living(o: Overlord, *words: str) -> list[Process]:
    return [process for process in o.running(*words) if process.alive]


def of_the_past(o: Overlord) -> list[Process]:
    """All that runs now but overlord and the daemon `other`."""
    others = [int(pid) for pid in re.findall(r"other: started \(pid (\d+)\)", "\n".join(o.log))]
    return [each for each in o.processes() if each.pid not in (o.inner_pid, *others) and each.alive]


def wait_for_family(o: Overlord, words: Sequence[str] = ("sleep", "1000")) -> list[Process]:
    eventually(lambda: living(o, *words), f"{words} runs")
    return of_the_past(o)


def gone(processes: Sequence[Process]) -> bool:
    return not any(each.alive for each in processes)


# What a command may do to get away from its process group.
HIDING = {
    "timeout": "timeout 3600 sleep 1000; true",
    "a shell with job control": "exec bash -c 'set -m; sleep 1000 & wait'",
    "a session of its own": "setsid sleep 1000 & exec sleep 2000",
    "that, and a cleaned environment": "env -i setsid sleep 1000 & exec sleep 2000",
    "that, further down": "setsid sh -c 'env -i setsid sleep 1000 & wait' & wait",
    "a double fork": "(setsid sleep 1000 &); exec sleep 2000",
    "that, and a cleaned environment, its maker gone": "(env -i setsid sleep 1000 &); exec sleep 2000",
    "a double fork when it is stopped": """trap '(env -i setsid sleep 1000 &); exit 0' TERM; sleep 1000 & wait; exit 1""",
}


@pytest.mark.parametrize("how", ["restart", "stop", "killed", "ends"])
@pytest.mark.parametrize("hiding", HIDING)
def test_nothing_of_a_daemon_outlives_it(fleet: Start, hiding: str, how: str) -> None:
    """F1: not when it is stopped or restarted, nor before it is started again after its end."""
    o = fleet(daemon("web", HIDING[hiding], backoff="0"))
    o.wait_ok("web")
    family = wait_for_family(o)
    if how in ("restart", "stop"):
        assert o.ask(how, "web").returncode == 0
    else:
        o.kill_unit("web", signal.SIGKILL if how == "killed" else signal.SIGTERM)
        o.wait_ok("web", 2)
    assert gone(family), "when the answer is there, or the next start"
    if how == "stop":
        assert gone(of_the_past(o)), "nor anything that was made meanwhile"


@pytest.mark.parametrize("hiding", HIDING)
def test_nothing_outlives_it_where_no_descriptor_is_left(fleet: Start, hiding: str) -> None:
    """overlord keeps one, to see who lives."""
    o = fleet(daemon("web", HIDING[hiding], backoff="0"))
    o.wait_ok("web")
    family = wait_for_family(o)
    use_up_descriptors(o)
    o.kill_unit("web", signal.SIGKILL)
    eventually(lambda: o.starts("web") == 2, "it is started again")
    assert gone(family)


@pytest.mark.parametrize("hiding", [name for name in HIDING if "stopped" not in name])
def test_nothing_of_a_script_outlives_its_timeout(fleet: Start, hiding: str) -> None:
    """F1: the `timeout` of a script ends everything of it."""
    o = fleet(script("job", HIDING[hiding], timeout="500ms", on_failure="ignore") + NEEDS)
    family = wait_for_family(o)
    o.wait_for("job: failed: timeout")
    assert gone(family)


@pytest.mark.parametrize("uid", ["games", "bin"])
@pytest.mark.parametrize("hiding", HIDING)
def test_with_a_user_of_its_own(fleet: Start, hiding: str, uid: str) -> None:
    """It is the unit's all the same, beside another unit of another user."""
    o = fleet(daemon("web", HIDING[hiding], uid="games", backoff="0") + daemon("other", "exec sleep 98765", uid="bin"))
    o.wait_ok("web")
    o.wait_ok("other")
    family = wait_for_family(o)
    assert o.ask("restart" if uid == "games" else "stop", "web").returncode == 0
    assert gone(family)
    assert living(o, "sleep", "98765")
    assert o.starts("other") == 1


def test_who_may_be_another_units_is_left_and_named(fleet: Start) -> None:
    """An orphan that two units may have made: a double fork, a session of its own, a cleaned environment."""
    o = fleet(daemon("web", "(env -i setsid sleep 1000 &); exec sleep 2000") + OTHER)
    o.wait_ok("other")
    (orphan,) = eventually(lambda: living(o, "sleep", "1000"), "the orphan")
    assert o.ask("stop", "web").returncode == 0
    assert orphan.alive
    o.wait_for(rf"web: left running, for it may be of any of other, web: sleep \(pid {orphan.pid}\)")


def test_by_its_name_alone(fleet: Start) -> None:
    """OVERLORD_NAME in its environment tells whose an orphan is, whatever other units live."""
    o = fleet(daemon("web", "(setsid sleep 1000 &); exec sleep 2000") + OTHER)
    o.wait_ok("other")
    family = wait_for_family(o)
    assert o.ask("restart", "web").returncode == 0
    assert gone(family)


def test_what_came_by_docker_exec_is_no_units(fleet: Start) -> None:
    """Its environment is the container's own: nobody's orphan."""
    o = fleet(daemon("web", "exec sleep 2000"))
    o.wait_ok("web")
    own = [os.fsdecode(entry) for entry in Process(o.pid).environ]
    outside = ["nsenter", f"--target={o.pid}", "--pid", "--mount", "--", "env", "-i", *own]
    subprocess.run([*outside, "sh", "-c", "setsid sleep 1000 &"], check=True)
    (stranger,) = eventually(lambda: living(o, "sleep", "1000"), "the stranger")
    eventually(lambda: stranger.ppid == o.inner_pid, "it is overlord's")
    assert o.ask("restart", "web").returncode == 0
    assert stranger.alive


def test_a_daemon_that_a_script_leaves_on_purpose_stays(fleet: Start) -> None:
    """`service cron start`: it has a session of its own. What stays in that of the script is stopped."""
    o = fleet(script("job", "setsid sleep 1000 & sleep 2000 & sleep 0.2; exit 0") + NEEDS)
    o.wait_ok("needs")
    assert living(o, "sleep", "1000")
    assert not living(o, "sleep", "2000")
    o.wait_for(r"job: left running: sleep \(pid \d+\)")
    assert o.ask("stop", "needs").returncode == 0
    assert o.ask("start", "job").returncode == 0
    assert len(living(o, "sleep", "1000")) == 2


def test_a_daemon_that_has_no_session_yet_when_its_script_ends_stays(fleet: Start) -> None:
    """It is about to get one: start-stop-daemon and the script are quicker."""
    fork = "import os, time; os.fork() and os._exit(0); time.sleep(0.02); os.setsid(); os.execvp('sleep', ['sleep', '1000'])"
    o = fleet(script("job", f'{sys.executable} -c "{fork}"') + NEEDS)
    o.wait_ok("needs")
    o.wait_for(r"job: left running: sleep \(pid \d+\)")
    assert living(o, "sleep", "1000")


@pytest.mark.parametrize("hiding", ["setsid sleep 1000 &", "sleep 1000 &", "(setsid sleep 1000 &);"])
def test_kill_mode_process(fleet: Start, hiding: str) -> None:
    """What is left behind stays, whether the daemon is restarted or dies; one line names it."""
    o = fleet(daemon("web", f"{hiding} exec sleep 2000", kill_mode="process", backoff="0"))
    o.wait_ok("web")
    (job,) = eventually(lambda: living(o, "sleep", "1000"), "the job")
    assert o.ask("restart", "web").returncode == 0
    o.wait_for(rf"web: left running: sleep \(pid {job.pid}\)")
    eventually(lambda: len(living(o, "sleep", "1000")) == 2, "the second one")
    o.kill_unit("web")
    o.wait_ok("web", 3)
    assert job.alive
    eventually(lambda: len(living(o, "sleep", "1000")) == 3, "one of each start")
    assert o.stop() == 0


def test_kill_mode_all(fleet: Start) -> None:
    """A shell that traps TERM acts on it when its child has ended, which needs the signal too."""
    cmd = "trap 'echo trapped >&2; exit 0' TERM; sleep 1000; sleep 1000"
    o = fleet(daemon("web", cmd, kill_mode="all", stop_timeout="30s"))
    o.wait_ok("web")
    wait_for_family(o)
    assert o.ask("stop", "web", "-t", "20").returncode == 0
    assert o.count("^trapped") == 1
    assert not o.count("killing")


def test_each_process_has_the_stop_signal_once(fleet: Start) -> None:
    """A second one makes many a daemon give up its work. Who comes by while it is stopped gets it too."""
    deaf = 'trap "echo asked >&2" TERM; echo there >&2; while test ! -e go; do sleep 0.02; done; setsid sleep 1000 & sleep 0.5'
    o = fleet(daemon("web", f"sh -c '{deaf}' & trap 'exit 0' TERM; wait", stop_timeout="60s"))
    o.wait_ok("web")
    o.wait_for("^there")
    stopped = Asking(o.client("stop", "web"))
    o.wait_for("^asked")
    (o.folder / "go").touch()
    assert stopped.wait_exit() == 0
    assert o.count("^asked") == 1
    assert not living(o, "sleep", "1000")


def test_what_ignores_the_stop_signal_gets_term(fleet: Start) -> None:
    """F12: a shell's background child ignores INT (POSIX 2.11)."""
    o = fleet(daemon("web", "sleep 1000 & wait", stop_signal="INT", stop_timeout="60s"))
    o.wait_ok("web")
    family = wait_for_family(o)
    assert o.ask("stop", "web", "-t", "30").returncode == 0
    assert gone(family)


# --- a main process that overlord did not start -----------------------------------------------------------------------


def background(*options: str, file: str = "pid", **more: object) -> str:
    """A daemon that puts itself into the background, with the pid file that it writes."""
    return daemon("web", program("background.py", "web", file, *options), **{"pidfile": "{folder}/pid", **more})


@pytest.fixture
def behind(fleet: Start, tmp_path: Path) -> Start:
    """Start an overlord with a daemon that `background` describes."""

    def start(config: str, **options: Any) -> Overlord:
        return fleet(config.replace("{folder}", str(tmp_path)), **options)

    return start


def main_pid(o: Overlord) -> int:
    """The pid that `status` shows."""
    pid = o.ask("status", "web", code=None).stdout.splitlines()[1].split()[3]
    return int(pid) if pid.isdigit() else 0


def named(o: Overlord) -> int:
    return int((o.folder / "pid").read_text())


def test_the_process_that_a_pid_file_names_is_the_main_process(behind: Start) -> None:
    """`status` shows it, HUP reaches it, its end is that of the unit, and its exit code counts."""
    o = behind(background("code=7", backoff="0", respawns="1", on_failure="shutdown"))
    o.wait_ok("web")
    assert main_pid(o) == named(o)
    o.send(signal.SIGHUP)
    o.journal.wait_for("web got SIGHUP")
    assert o.ask("signal", "HUP", "web").stdout.split() == ["web:", "SIGHUP", "sent", "to", "pid", str(named(o))]
    o.journal.wait_for("web got SIGHUP", 2)
    first = named(o)
    o.kill(first, signal.SIGTERM)
    o.wait_ok("web", 2)
    assert main_pid(o) == named(o) != first
    o.kill(named(o), signal.SIGTERM)
    assert o.wait_exit() == 7


def test_stop_goes_to_the_process_that_the_file_names(behind: Start) -> None:
    o = behind(background())
    o.wait_ok("web")
    (one,) = o.running(sys.executable) or [None]
    assert o.ask("restart", "web").returncode == 0
    assert o.journal.lines() == ["web up", "web got SIGTERM", "web up"]
    assert o.ask("stop", "web").returncode == 0
    assert not of_the_past(o)
    assert o.count("killing") == 0
    del one


@pytest.mark.parametrize("options", [("delay=1.5",), ("wait=1.5",)])
def test_warm_up_is_that_of_the_process_that_is_named(behind: Start, options: tuple[str]) -> None:
    """It is not OK before it is named, however long that takes."""
    o = behind(background(*options, warmup="500ms"))
    o.journal.wait_for("web up")
    o.wait_ok("web")
    assert main_pid(o) == named(o)
    assert o.position("main process is now pid") < o.position("web: ok")


def test_a_daemon_in_the_foreground_may_have_a_pid_file(behind: Start) -> None:
    o = behind(background("foreground"))
    o.wait_ok("web")
    assert main_pid(o) == named(o) == o.unit("web").pid
    assert o.ask("stop", "web").returncode == 0


def test_a_stale_pid_file_is_removed(behind: Start, tmp_path: Path) -> None:
    """It names somebody else's process by now."""
    (tmp_path / "pid").write_text("1\n")
    o = behind(background("delay=0.3"))
    o.wait_ok("web")
    assert main_pid(o) == named(o) > 1
    assert not o.count("refused")


@pytest.mark.parametrize("names", ["1", "3999999", "0", "-1", "x"])
def test_a_pid_file_that_names_no_process_of_the_unit(behind: Start, names: str) -> None:
    """It is refused and said; and nobody is signalled but what the unit started."""
    o = behind(background(f"names={names}", ready_timeout="1s", respawns="0", on_failure="ignore") + OTHER)
    o.wait_for("web: failed: .*/pid names no process of it within 1 s")
    assert o.count(r"^overlord: web: /\S+ names .*pid 1\), which is not of this unit: refused") == (names == "1"), "once"
    assert o.journal.lines() == ["web up", "web got SIGTERM"]
    assert o.ask("status", "other").returncode == 0


def test_a_pid_file_that_names_another_units_process(behind: Start) -> None:
    o = behind(OTHER)
    o.wait_ok("other")
    pid = o.unit("other").pid
    o.config.write_text(
        o.config.read_text()
        + background(f"names={pid}", ready_timeout="1s", on_failure="ignore", respawns=0).replace("{folder}", str(o.folder))
    )
    assert o.ask("reload", code=None).returncode == 1
    o.wait_for(rf"sleep \(pid {pid}\), which is not of this unit: refused")
    o.wait_for("web: failed")
    assert o.starts("other") == 1
    assert o.unit("other").alive


def test_a_first_process_that_fails(behind: Start) -> None:
    """It fails the start, whatever the file names, and nothing goes on."""
    o = behind(background("fail", respawns="0", on_failure="ignore") + OTHER)
    o.wait_for("web: failed: pid \\d+ exited with code 3")
    o.wait_ok("other")
    assert not o.running(sys.executable)
    assert o.journal.lines()[-1] == "web got SIGTERM"


def test_a_first_process_that_leaves_nobody(behind: Start) -> None:
    """Then nobody can be named, and that is said at once."""
    o = behind(daemon("web", "true", pidfile="{folder}/pid", respawns="0", on_failure="ignore") + OTHER)
    o.wait_for("web: failed: pid .* exited with code 0 .*/pid names no process of it")


@pytest.mark.parametrize("options", [(), ("foreground",)])
@pytest.mark.parametrize("late", ["0", "1"])
def test_another_main_process_takes_over(behind: Start, options: tuple[str, ...], late: str) -> None:
    """USR2 as gunicorn and nginx have it: the successor goes on as the main process, and nothing is restarted."""
    o = behind(background(*options, "remove", f"late={late}") + daemon("needs", deps="web:bounce"))
    o.wait_ok("needs")
    for _ in range(2):
        first, up = named(o), o.journal.lines().count("web successor up")
        o.kill(first, signal.SIGUSR2)
        o.journal.wait_for("web successor up", up + 1)
        o.kill(first, signal.SIGQUIT)
        eventually(lambda first=first: main_pid(o) not in (0, first), "the successor is known")  # type: ignore[misc]
        assert main_pid(o) == named(o)
        assert o.ask("status").returncode == 0
    assert o.starts("web") == o.starts("needs") == 1
    o.kill(named(o), signal.SIGTERM)
    o.wait_ok("web", 2)
    o.wait_ok("needs", 2)
    assert o.ask("stop", "web", "needs").returncode == 0
    assert not of_the_past(o)


def test_kill_mode_process_with_a_pid_file(behind: Start) -> None:
    """The process that the file names is the main process, and what that leaves behind stays."""
    o = behind(background(kill_mode="process"))
    o.wait_ok("web")
    assert main_pid(o) == named(o)
    o.kill(named(o), signal.SIGUSR2)
    o.journal.wait_for("web successor up")
    first = named(o)
    assert o.ask("stop", "web").returncode == 0
    o.wait_for(r"web: left running: python\S* \(pid \d+\)")
    (left,) = of_the_past(o)
    assert left.pid != first
    assert o.journal.lines() == ["web up", "web got SIGUSR2", "web successor up", "web got SIGTERM"]


def test_kill_mode_process_with_a_stop_cmd(fleet: Start) -> None:
    o = fleet(daemon("web", "sleep 1000 & exec sleep 2000", kill_mode="process", stop_cmd="kill $MAINPID; sleep 0.3"))
    o.wait_ok("web")
    eventually(lambda: living(o, "sleep", "1000"), "its child")
    assert o.ask("stop", "web").returncode == 0
    assert living(o, "sleep", "1000")


def test_nobody_takes_over(behind: Start) -> None:
    """What a main process left behind, without a name, is stopped, and the unit restarted."""
    o = behind(background("foreground", backoff="0").replace("exec ", "sleep 1000 & exec ") + OTHER)
    o.wait_ok("web")
    o.kill_unit("web")
    o.wait_ok("web", 2)


@pytest.mark.parametrize("how", ["then", "before"])
def test_mainpid(fleet: Start, how: str) -> None:
    """`MAINPID=` names a main process too: a child of the one that overlord started, which may end then."""
    cmd = program("notify.py", how)
    o = fleet(daemon("web", cmd, ready="notify", backoff="0", respawns="1", on_failure="ignore") + OTHER)
    o.wait_ok("web")
    pid = int(o.journal.lines()[0])
    assert main_pid(o) == pid
    o.kill(pid, signal.SIGKILL)
    o.wait_ok("web", 2)
    assert o.ask("stop", "web").returncode == 0
    assert o.starts("web") == 2
    assert not living(o, "sleep", "1000")


# --- below another init -----------------------------------------------------------------------------------------------


def find_blind(folder: Path) -> dict[str, Any]:
    """A Python without ctypes, so that overlord cannot become a subreaper."""
    python = minimal_python(folder)
    if not python:
        pytest.skip("python3-minimal cannot be had here")
    return {"python": [python]}


@pytest.mark.parametrize("how", ["TERM", "KILL"])
@pytest.mark.parametrize("hiding", HIDING)
@pytest.mark.parametrize("blind", [False, True], ids=["subreaper", "none"])
def test_below_another_init(overlord: Start, hiding: str, how: str, blind: bool, tmp_path: Path) -> None:
    """The same as far as can be seen: without a subreaper (python3-minimal) not who left with another session and environment."""
    python = find_blind(tmp_path) if blind else {}
    o = overlord(daemon("web", HIDING[hiding], backoff="0"), pid1=False, **python)
    o.wait_ok("web")
    eventually(lambda: living(o, "sleep", "1000"), "its child")
    eventually(lambda: o.unit("web").cmdline[:1] != ["/bin/sh"] or "exec" not in HIDING[hiding], "its exec")
    others, own = {1, *(each.pid for each in o.running("sleep", "infinity"))}, o.inner_pid
    family = [each for each in o.processes() if each.pid not in (*others, own) and each.alive]
    o.kill_unit("web", getattr(signal, f"SIG{how}"))
    o.wait_ok("web", 2)
    if not blind or "cleaned" not in hiding:
        assert gone(family)
    assert o.stop() == 0
    if not blind:
        assert {each.pid for each in o.processes() if each.alive} == others


def test_pid_file_without_a_subreaper(overlord: Start, tmp_path: Path) -> None:
    """Where overlord adopts no orphans, no such daemon can be seen to end: refused, and said why."""
    config = background(respawns="0", on_failure="ignore").replace("{folder}", str(tmp_path)) + OTHER
    o = overlord(config, pid1=False, **find_blind(tmp_path))
    o.wait_for("web: failed: cannot start: pidfile needs overlord to be PID 1, or a subreaper")
    assert o.journal.lines() == []
    assert o.stop() == 0


@pytest.mark.parametrize("pid1", [True, False])
def test_the_sweep_asks_everyone_first(overlord: Start, pid1: bool) -> None:
    """F7: also who is no child of overlord, and what nobody knows to be a unit's."""
    inner = program("asked.py").removeprefix("exec ")
    o = overlord(daemon("web", f"(setsid sh -c '{inner}; true' &); exec sleep 1000", kill_mode="process"), pid1=pid1)
    o.journal.wait_for("up")
    assert o.stop() == 0
    assert o.journal.lines() == ["up", "asked"]


# --- who is dead ------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the number of exit(2) is that of x86-64")
def test_a_process_lives_as_long_as_a_thread_of_it(fleet: Start) -> None:
    """F2: though it is shown as a zombie; the next one never meets its port."""
    o = fleet(daemon("web", program("thread.py").removeprefix("exec ") + " & wait", backoff="0"))
    o.journal.wait_for("up")
    eventually(lambda: any(each.state == "Z" for each in o.processes()), "the zombie with a thread")
    for times in (2, 3):
        assert o.ask("restart", "web").returncode == 0
        o.journal.wait_for("up", times)
    assert not o.count("Address already in use")
    o.kill_unit("web")
    o.journal.wait_for("up", 4)
    assert not o.count("Address already in use")


def test_a_large_process_takes_its_time_to_die(fleet: Start) -> None:
    """2 GB and 8 threads: for a moment after SIGKILL it is a zombie with threads, and still holds its port."""
    cmd = program("big.py").removeprefix("exec ")
    o = fleet(daemon("web", f"{cmd} & trap '' TERM; wait; wait", backoff="0", stop_timeout="100ms"))
    o.journal.wait_for("up")
    for times in (2, 3):
        assert o.ask("restart", "web").returncode == 0
        o.journal.wait_for("up", times)
    assert not o.count("Address already in use")
