"""What the suites and issue trackers of dumb-init, tini, s6, dinit, nitro and supervisor ask for and ours did not yet.

PEERS.md lists, peer by peer, what they show, beside the test of ours that shows it.
"""

from __future__ import annotations

import ast
import contextlib
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from conftest import Start
from harness import (
    OVERLORD,
    PATH,
    PATIENCE,
    Asking,
    Overlord,
    Process,
    Terminal,
    daemon,
    eventually,
    program,
    script,
)

TESTS = Path(__file__).resolve().parent
SLEEP = "exec sleep 12345"
NEVER = "1000s"
UNTIL_GO = "until test -e go; do sleep 0.01; done"
CAPTURED = {"stdout": "prefix", "stderr": "prefix"}


@pytest.fixture
def fleet(overlord: Start, tmp_path: Path) -> Start:
    """Start an overlord with a socket."""
    return lambda config, *command, **options: overlord(config, *command, settings={"socket": tmp_path / "s"}, **options)


@pytest.fixture
def asking() -> Iterator[Callable[..., Asking]]:
    """A function that runs a verb in the background; what still runs ends with the test."""
    made: list[Asking] = []

    def make(*argv: str, **options: Any) -> Asking:
        made.append(Asking(argv, **options))
        return made[-1]

    yield make
    for each in made:
        each.kill()


def on_terminal(overlord: Start, terminal: Terminal, config: str, *command: str, **options: Any) -> Overlord:
    """Start overlord as `docker run -it` does: PID 1 leads the session whose terminal it is."""
    slave = terminal.slave
    return overlord(config, *command, stdin=slave, stdout=slave, stderr=slave, terminal=True, **options)


def is_idle(o: Overlord) -> None:
    """See that overlord sleeps: twenty looks in a row during which nothing has woken it."""
    process = Process(o.pid)
    woken, quiet = "", 0

    def sleeps() -> bool:
        nonlocal woken, quiet
        now = process.status["voluntary_ctxt_switches"]
        quiet = quiet + 1 if now == woken and process.state == "S" else 0
        woken = now
        return quiet == 20

    eventually(sleeps, "it sleeps, and nothing wakes it", pause=0.02)


# --- the list --------------------------------------------------------------------------------------------------------


def test_the_list_names_tests_that_exist() -> None:
    """Each `file::test` of PEERS.md is a function in that file; each row names one, or says why there is none."""
    text = (TESTS / "PEERS.md").read_text()
    named = re.findall(r"(\w+\.py)::(\w+)", text)
    for file in {file for file, _ in named}:
        tree = ast.parse((TESTS / file).read_text())
        defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert {test for of, test in named if of == file} <= defined, file
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| behaviour")]
    assert len(rows) > 200
    assert [row for row in rows if not re.search(r" \| (`test_\w+\.py::test_\w+`|n/a: .+) \|$", row)] == []


# --- dumb-init and tini: one command and its signals -----------------------------------------------------------------

# Codes that mean something to overlord itself, or to a shell, mean nothing where a command ends with them.
CODES = {
    **{f"exit {code}": code for code in (2, 32, 64, 69, 78, 125, 126, 127, 128, 129, 143, 254)},
    **{f"kill -{name} $$": 128 + signal.Signals[f"SIG{name}"] for name in ("HUP", "INT", "QUIT", "ABRT", "PIPE", "ALRM")},
    "kill -64 $$": 192,
}


@pytest.mark.parametrize("cmd", CODES)
def test_code(overlord: Start, cmd: str) -> None:
    """dumb-init's and tini's lists of exit codes: each is the container's, and so is each signal."""
    assert overlord("", "sh", "-c", cmd).wait_exit() == CODES[cmd]


@pytest.mark.parametrize("word", ("-h", "--version", "-c", "--"))
def test_command_that_looks_like_an_option(overlord: Start, tmp_path: Path, word: str) -> None:
    """After `--` it is a program of that name, as with tini."""
    path = tmp_path / "bin" / word
    path.parent.mkdir()
    path.write_text("#!/bin/sh\necho that; exit 42\n")
    path.chmod(0o755)
    o = overlord("", "--", word, "--foo", env={"PATH": f"{path.parent}:{PATH}"})
    assert (o.wait_exit(), o.out) == (42, ["that"])


def test_volley_of_signals(overlord: Start) -> None:
    """Different signals that come all at once: none is lost on the way to the main command."""
    names = [f"SIG{name}" for name in "HUP USR1 USR2 ALRM VTALRM PROF URG WINCH XCPU PWR CONT".split()]
    o = overlord("", "sh", "-c", program("on_signal.py", "main", "catch", *names))
    o.journal.wait_for("main ready")
    for times in (1, 2, 3):
        for name in names:
            o.send(signal.Signals[name])
        for name in names:
            o.journal.wait_for(f"main got {name}", times)


def test_main_command_alone_is_signalled(overlord: Start) -> None:
    """As dumb-init in single-child mode, and tini without -g: what it started itself gets nothing."""
    child = program("on_signal.py", "child", "catch", "SIGUSR1")
    o = overlord("", "sh", "-c", f"({child}) & {program('on_signal.py', 'main', 'catch', 'SIGUSR1')}")
    o.journal.wait_for("child ready")
    o.journal.wait_for("main ready")
    for times in (1, 2):
        o.send(signal.SIGUSR1)
        o.journal.wait_for("main got SIGUSR1", times)
    assert "child got SIGUSR1" not in o.journal.lines()


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


@pytest.mark.parametrize("mode", ("catch", "ignore"))
def test_what_the_main_command_leaves_is_asked_to_end(overlord: Start, mode: str) -> None:
    """It ends by itself, with a child in the background: that gets a SIGTERM, and the code stays that of the command."""
    child = program("on_signal.py", "child", mode, "SIGTERM")
    o = overlord("", "sh", "-c", f"({child}) & until grep -q ready journal; do sleep 0.01; done; exit 3", pid1=False)
    assert o.wait_exit() == 3
    assert o.journal.lines() == ["child ready", *["child got SIGTERM"] * (mode == "catch")]
    assert not [process for process in o.processes() if "on_signal.py" in str(process)]


@pytest.mark.parametrize("pid1", (True, False), ids=("pid1", "below another init"))
def test_job_control_signals_stop_nobody(overlord: Start, pid1: bool) -> None:
    """`docker kill -s TSTP`: there is no shell that would continue anybody, so overlord and its daemons go on."""
    o = overlord(daemon("web"), "sleep", "300", pid1=pid1)
    o.wait_for("main command: started")
    for sig in (signal.SIGCONT, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU):
        mark = o.mark
        o.send(sig)
        o.kill_unit("web")
        o.says("web", "ok", after=mark)
    assert [p for p in o.processes() if p.alive and p.state in "Tt"] == []
    assert o.stop() == 143


@pytest.mark.parametrize("command", ((), ("sleep", "300")), ids=("units", "main command"))
def test_ctrl_z_below_tini(overlord: Start, terminal: Terminal, command: tuple[str, ...]) -> None:
    """`docker run -it --init`: tini continues nobody, so overlord must not stop.

    tini gives its child a group of its own in its own session: there the kernel heeds a SIGTSTP, as nowhere else in a
    container.
    """
    if not shutil.which("tini"):
        pytest.skip("there is no tini: apt-get install tini")
    o = on_terminal(overlord, terminal, daemon("web"), *command, prefix=["tini", "--"])
    web = int(terminal.expect(r"web: started \(pid (\d+)\)")[1])
    terminal.expect("web: ok")
    eventually(lambda: o.running(*command), "all run")
    process = next(process for process in o.processes() if str(o.config) in process.cmdline and process.ppid == 1)
    after = terminal.type("\x1a")
    terminal.expect(r"\^Z", after)
    o.kill(web)

    def goes_on() -> bool:
        assert process.state != "T"
        return f"web: pid {web} killed by SIGKILL" in terminal.text

    eventually(goes_on, "it sees its daemon die")


# --- dumb-init and tini: the terminal --------------------------------------------------------------------------------


@pytest.mark.parametrize("config", ("", daemon("db")), ids=("alone", "beside a daemon"))
def test_input_of_a_terminal_to_its_end(overlord: Start, terminal: Terminal, config: str) -> None:
    """What is typed is the command's up to Ctrl-D, and nothing of overlord's comes between."""
    o = on_terminal(overlord, terminal, config, "sh", "-c", "stty -echo; echo UP; exec tac")
    terminal.expect("UP\r\n")
    terminal.type("1\n2\n3\n\x04")
    assert o.wait_exit() == 0
    terminal.expect("UP\r\n3\r\n2\r\n1\r\n")


@pytest.mark.parametrize("pid1", (True, False), ids=("pid1", "below another init"))
def test_handing_over_the_terminal_hangs_nobody_up(overlord: Start, terminal: Terminal, pid1: bool) -> None:
    """A session leader that lets go of its terminal sends SIGHUP and SIGCONT to who is in front: overlord does not."""
    cmd = "trap 'echo HUP' HUP; trap 'echo CONT' CONT; trap 'echo ASKED; exit 0' USR1; echo UP; while :; do sleep 0.01; done"
    o = on_terminal(overlord, terminal, daemon("db"), "sh", "-c", cmd, pid1=pid1)
    terminal.expect("UP")
    o.send(signal.SIGUSR1)
    terminal.expect("ASKED")
    assert o.wait_exit() == 0
    assert not re.search(r"HUP|CONT", terminal.text)


def test_terminal_that_hangs_up_ends_the_main_command(overlord: Start) -> None:
    """As without an init: who does nothing about a SIGHUP ends by it, and the container with it."""
    terminal = Terminal()
    o = on_terminal(overlord, terminal, daemon("db"), "sleep", "300")
    eventually(lambda: o.running("sleep", "300"), "the main command")
    terminal.close()
    assert o.wait_exit() == 128 + signal.SIGHUP


@pytest.mark.parametrize("output", ("inherit", "prefix"))
def test_terminal_that_hangs_up_leaves_a_fleet_alone(overlord: Start, output: str) -> None:
    """Daemons go on and come back, and overlord does not spin over streams that only fail."""
    terminal = Terminal()
    cmd = "trap 'echo web HUP >> journal' HUP; echo up; echo web >> journal; while :; do sleep infinity & wait; done"
    o = on_terminal(overlord, terminal, daemon("web", cmd), settings={"output": output})
    o.journal.wait_for("web")
    terminal.expect("web: ok")
    terminal.close()
    o.journal.wait_for("web HUP")
    web = next(p for p in o.processes() if "trap" in str(p) and p.ppid == 1)
    o.kill(web.pid)
    o.journal.wait_for("web", 2)
    is_idle(o)
    assert o.stop() == 0


# --- s6: stopped processes -------------------------------------------------------------------------------------------


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


# --- dinit and nitro: by hand ----------------------------------------------------------------------------------------


def test_a_stop_overtakes_a_restart(fleet: Start, asking: Callable[..., Asking]) -> None:
    """While the restart still stops it: it stays down, and who wanted the restart is told so."""
    cmd = f"trap 'echo asked >> journal; {UNTIL_GO}; exit 0' TERM; echo up >> journal; while :; do sleep 0.01; done"
    o = fleet(daemon("web", cmd, stop_timeout=NEVER) + daemon("stay", SLEEP))
    o.journal.wait_for("up")
    restart = asking(*o.client("restart", "web"))
    o.journal.wait_for("asked")
    o.ask("stop", "web", "-t", "50ms", code=1)
    (o.folder / "go").touch()
    o.says("web", "stopped")
    assert restart.wait_exit() == 1
    assert "stopped" in o.ask("status", "web").stdout
    assert o.journal.lines() == ["up", "asked"]


def test_started_by_hand_together(fleet: Start, tmp_path: Path) -> None:
    """`start a b c` starts them at once: each is ready only when it sees the others."""
    meet = f"touch $OVERLORD_NAME; until test -e a -a -e b -a -e c; do sleep 0.01; done; touch met; {SLEEP}"
    options = {"autostart": "no", "ready": f"file:{tmp_path}/met", "ready_timeout": NEVER}
    o = fleet(daemon("stay", SLEEP) + "".join(daemon(name, meet, **options) for name in "abc"))
    o.says("stay", "ok")
    told = o.ask("start", "a", "b", "c").stdout
    assert [name for name in "abc" if re.search(f"^{name}: ok", told, re.MULTILINE)] == ["a", "b", "c"]


def verb(folder: Path, python: list[str], *words: str) -> str:
    """Return the shell command by which a unit of the overlord in `folder` asks that one for something."""
    return " ".join([*python, str(OVERLORD), "-c", f"{folder}/overlord.conf", *words])


def test_a_unit_asks_for_itself(fleet: Start, tmp_path: Path, default_python: list[str]) -> None:
    """nitro's `once`: a daemon has itself stopped, from within, and the next start by hand is one like any other."""
    stop = verb(tmp_path, default_python, "stop", "web")
    o = fleet(daemon("web", f"test -e stay || {stop}; {SLEEP}") + daemon("other", SLEEP))
    o.says("web", "stopped")
    (o.folder / "stay").touch()
    o.ask("start", "web")
    o.unit_is("web", "sleep")
    assert o.count("failed|shutting down") == 0


def test_a_script_starts_what_it_needs(fleet: Start, tmp_path: Path, default_python: list[str]) -> None:
    """nitro's `SYS/setup`: a script asks for a unit while what depends on the script still waits for it."""
    o = fleet(
        script("setup", verb(tmp_path, default_python, "start", "helper"))
        + daemon("helper", SLEEP, autostart="no")
        + daemon("web", SLEEP, deps="setup")
    )
    o.says("web", "ok")
    assert o.started == ["setup", "helper", "web"]


# --- supervisor: output ----------------------------------------------------------------------------------------------


def test_a_daemon_that_closes_its_output_costs_nothing(fleet: Start) -> None:
    """mongodb does: the end of a pipe is not the end of the unit, and is not looked at again and again.

    Clients come and go meanwhile, whose descriptors have the numbers of pipes that are gone.
    """
    o = fleet(daemon("web", f"echo out; echo err >&2; exec >&- 2>&-; touch closed; {SLEEP}", **CAPTURED))
    for times in (1, 2, 3):
        o.wait_ok("web", times)
        eventually((o.folder / "closed").exists, "its output is closed")
        o.unit_is("web", "sleep")
        o.ask("status", "web")
        is_idle(o)
        assert o.starts("web") == times
        (o.folder / "closed").unlink()
        o.kill_unit("web")
    o.wait_ok("web", 4)
    assert o.ask("logs", "web").stdout.count("out") == 4


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
    asking(*o.client("logs", "-f", "web"), env=environment).wait_for(f"^{text}$")
    o.ask("status", env=environment)
    o.ask("why", "web", env=environment)


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


@pytest.mark.parametrize("sink", ("prefix", "log"))
def test_unkillable_spew(overlord: Start, tmp_path: Path, sink: str) -> None:
    """A daemon that ignores its stop and writes on as fast as it can is killed in its time, and its last lines are heard."""
    path = tmp_path / "log"
    cmd = "trap 'echo ASKED' TERM; echo up >> journal; while :; do echo spewage; done"
    o = overlord(daemon("web", cmd, stop_timeout="300ms", stdout=sink if sink == "prefix" else path) + daemon("db"))
    o.journal.wait_for("up")
    assert o.stop() == 0
    assert o.count("web: not gone after .*, killing it") == 1
    assert "ASKED" in ("\n".join(o.out) if sink == "prefix" else path.read_text())


def test_log_file_that_somebody_removes(overlord: Start, tmp_path: Path) -> None:
    """rm(1) on a log, again and again, while it is due for rotation: it is made anew, and the daemon never hangs."""
    path = tmp_path / "web.log"
    o = overlord(daemon("web", "n=0; while :; do n=$((n+1)); echo line $n; done", stdout=path, log_max="20K", log_keep="2"))
    for _ in range(20):
        eventually(path.exists, "the file is there")
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
    eventually(lambda: path.exists() and (tmp_path / "web.log.2").exists(), "it is rotated as ever")
    assert o.stop() == 0
    assert o.count("internal error") == 0
