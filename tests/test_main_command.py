"""The main command: when it starts, what its code becomes, and the terminal that it has to itself."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import signal
import struct
import termios
import time
from pathlib import Path
from typing import Any, Iterator

import pytest

from conftest import Start
from harness import PATH, Overlord, Process, Terminal, daemon, eventually, is_idle, script, system_python

UNTIL_GO = "until test -e go; do sleep 0.01; done"


# --- its code --------------------------------------------------------------------------------------------------------

# bash and busybox ignore a SIGQUIT, and whoever runs the tests in the background may have had SIGINT ignored.
DIE = "import os, signal, sys; n = signal.Signals['SIG' + sys.argv[1]]; n == 9 or signal.signal(n, 0); os.kill(os.getpid(), n)"

# Codes that mean something to overlord itself, or to a shell, mean nothing where a command ends with them.
CODES: dict[str, tuple[list[str], int]] = {
    **{f"exit {code}": (["sh", "-c", f"exit {code}"], code) for code in (0, 1, 64, 69, 78, 126, 127, 143, 255)},
    **{
        f"SIG{name}": ([system_python(), "-ISc", DIE, name], 128 + signal.Signals[f"SIG{name}"])
        for name in ("HUP", "INT", "QUIT", "ABRT", "KILL", "SEGV", "PIPE", "ALRM", "TERM")
    },
    "signal 64": (["sh", "-c", "kill -64 $$"], 192),
    "no such command": (["nosuchcommand"], 127),
    "no such path": (["/no/such"], 127),
    "not executable": (["/etc/passwd"], 126),
    "a folder": (["/usr"], 126),
}


@pytest.mark.parametrize("case", CODES)
def test_code(overlord: Start, case: str) -> None:
    """The container's code is the main command's."""
    words, code = CODES[case]
    assert overlord("", *words).wait_exit() == code


@pytest.mark.parametrize("case", ("exit 64", "SIGTERM", "no such command", "not executable"))
def test_code_beside_a_daemon(overlord: Start, case: str) -> None:
    """It is the same, and the last line says so."""
    words, code = CODES[case]
    o = overlord(daemon("db"), *words)
    assert o.wait_exit() == code
    assert o.log[-1].startswith(f"overlord: exiting with code {code}: ")


@pytest.mark.parametrize("code", (0, 5))
def test_silent_without_units(overlord: Start, code: int) -> None:
    """With no unit it is a drop-in for tini: a command that ends by itself ends without a word of overlord's."""
    o = overlord("", "sh", "-c", f"echo out; echo err >&2; exit {code}")
    assert o.wait_exit() == code
    assert (o.log, o.out) == (["err"], ["out"])


def test_without_any_configuration(overlord: Start) -> None:
    """A default file that is absent is fine where a command is given."""
    if any(os.path.exists(path) for path in ("/etc/overlord.conf", "/etc/overlord")):
        pytest.skip("this machine has a configuration of its own")
    o = overlord("", "sh", "-c", "exit 9", use_config=False)
    assert o.wait_exit() == 9
    assert o.log == []


def test_nothing_to_do(overlord: Start) -> None:
    """Neither a configuration nor a command is a mistake."""
    if any(os.path.exists(path) for path in ("/etc/overlord.conf", "/etc/overlord")):
        pytest.skip("this machine has a configuration of its own")
    o = overlord("", use_config=False)
    assert o.wait_exit() == 78
    assert o.count("/etc/overlord.conf") >= 1


def test_reaps_for_the_main_command(overlord: Start) -> None:
    """Orphans of the main command are reaped while it runs."""
    o = overlord("", "sh", "-c", "(sleep 0.1 & sleep 0.1 & sleep 0.1 &); exec sleep infinity")
    eventually(lambda: len(o.running("sleep", "infinity")) == 1, "the main command runs")
    eventually(lambda: len(o.processes()) == 2, "the orphans are reaped")


# --- words -----------------------------------------------------------------------------------------------------------


def fake(folder: Path, name: str) -> dict[str, str]:
    """Put a command of that name on PATH, and return the environment."""
    path = folder / "bin" / name
    path.parent.mkdir()
    path.write_text('#!/bin/sh\necho "command $0 $*" | sed "s,/.*/,,"; exit 42\n')
    path.chmod(0o755)
    return {"PATH": f"{path.parent}:{PATH}"}


def test_first_word_that_is_no_verb(overlord: Start, tmp_path: Path) -> None:
    """It is a command, whatever it looks like."""
    o = overlord("", "statsu", "-c", "x", env=fake(tmp_path, "statsu"))
    assert o.wait_exit() == 42
    assert o.out == ["command statsu -c x"]


@pytest.mark.parametrize("word", ("version", "help", "check", "-h", "--version", "-c", "--"))
def test_double_dash_makes_any_word_a_command(overlord: Start, tmp_path: Path, word: str) -> None:
    """`-- check` is a program that is called check, and so is a word that looks like an option, as with tini."""
    o = overlord("", "--", word, "--help", env=fake(tmp_path, word))
    assert o.wait_exit() == 42
    assert o.out == [f"command {word} --help"]


@pytest.mark.parametrize("word, near", [("chekc", "check"), ("reread", "reload"), ("stauts", "status")])
def test_misspelt_verb(overlord: Start, word: str, near: str) -> None:
    """A word that is no program, but nearly a verb, starts nothing; after `--` it is a command all the same."""
    o = overlord(daemon("db"), word, "web")
    assert o.wait_exit() == 64
    assert o.log[0].startswith(f'overlord: unknown verb {word}, did you mean "{near}"?')
    assert f"overlord.py -- {word}" in o.log[0]
    assert o.started == []
    o = overlord(daemon("db"), "--", word)
    assert o.wait_exit() == 127
    assert o.count("did you mean") == 0


def test_program_that_a_script_installs(overlord: Start, tmp_path: Path) -> None:
    """It may be nearly a verb: one line warns at once, and it runs."""
    environment = fake(tmp_path, "start-up")
    installed = tmp_path / "bin" / "starts"
    o = overlord(
        script("install", f"{UNTIL_GO}; mv {tmp_path}/bin/start-up {installed}") + daemon("db", deps="install", warmup="0"),
        "starts",
        env=environment,
    )
    o.wait_for('did you mean "start"')
    (o.folder / "go").touch()
    assert o.wait_exit() == 42
    assert o.out == ["command starts "]


# --- beside daemons --------------------------------------------------------------------------------------------------


def test_waits_for_the_daemons(overlord: Start) -> None:
    """It starts when all that are wanted are OK, also those that come later in a chain."""
    o = overlord(
        script("setup", f"{UNTIL_GO}; echo setup >> journal")
        + daemon("db", deps="setup", warmup="100ms")
        + daemon("web", deps="db")
        + daemon("unwanted", autostart="no"),
        "sh",
        "-c",
        "echo main >> journal",
    )
    o.says("db", "waiting for setup:ok")
    (o.folder / "go").touch()
    assert o.wait_exit() == 0
    assert o.started == ["setup", "db", "web", "main command"]
    assert o.position("web: ok") < o.position("main command: started")


def test_does_not_wait_for_what_has_ended(overlord: Start) -> None:
    """A daemon whose end is ignored keeps no main command waiting."""
    o = overlord(
        daemon("bad", "exit 3", warmup="10s", respawns=0, on_failure="ignore")
        + daemon("done", "exit 0", restart="never")
        + daemon("db"),
        "sh",
        "-c",
        "exit 5",
    )
    assert o.wait_exit() == 5


def test_says_for_whom_it_waits(overlord: Start) -> None:
    """Every 10 s, until it may start."""
    o = overlord(script("setup", UNTIL_GO) + daemon("web", deps="setup"), "true")
    o.wait_count(r"^overlord: main command.* wait.* web", 2)
    (o.folder / "go").touch()
    assert o.wait_exit() == 0


def test_daemons_are_supervised_meanwhile(overlord: Start) -> None:
    """A daemon that dies beside a main command comes back, and the main command stays."""
    o = overlord(daemon("db"), "sh", "-c", f"echo main >> journal; {UNTIL_GO}")
    o.journal.wait_for("main")
    o.kill_unit("db")
    o.wait_ok("db", 2)
    (o.folder / "go").touch()
    assert o.wait_exit() == 0
    assert o.started == ["db", "main command", "db"]


def test_failed_daemon_ends_the_main_command(overlord: Start) -> None:
    """The main command is asked to end, and its code counts."""
    main = "trap 'echo asked >> journal; exit 6' TERM; echo main >> journal; while :; do sleep 0.01; done"
    o = overlord(daemon("db", f"{UNTIL_GO}; exit 3", respawns=0), "sh", "-c", main)
    o.journal.wait_for("main")
    (o.folder / "go").touch()
    assert o.wait_exit() == 6
    assert o.journal.lines() == ["main", "asked"]


def test_failed_daemon_before_the_main_command(overlord: Start) -> None:
    """It is never started, and the unit's code counts."""
    o = overlord(daemon("db", "exit 3", warmup="10s", respawns=0), "sh", "-c", "echo main >> journal")
    assert o.wait_exit() == 3
    assert o.journal.lines() == []


def test_stop_before_the_main_command(overlord: Start) -> None:
    """A requested stop while it still waits is 0, and it is never started."""
    o = overlord(script("setup", UNTIL_GO) + daemon("db", deps="setup"), "sh", "-c", "echo main >> journal")
    o.says("setup", "started")
    assert o.stop() == 0
    assert o.journal.lines() == []


def test_code_after_a_requested_stop(overlord: Start) -> None:
    """`docker stop` of a command that does nothing about SIGTERM gives 143, as under tini."""
    o = overlord(daemon("db"), "sleep", "54321")
    eventually(lambda: o.running("sleep", "54321"), "the main command runs")
    assert o.stop() == 143


# --- its time --------------------------------------------------------------------------------------------------------

SLOW = "trap 'echo asked >> journal; until test -e go; do sleep 0.01; done; echo saved >> journal; exit 7' TERM INT USR1"
SLOW += "; echo main >> journal; while :; do sleep 0.01; done"


def test_alone_it_has_no_deadline(overlord: Start) -> None:
    """How long it takes is the platform's affair, whatever `shutdown_timeout` says, and overlord says nothing."""
    o = overlord("", "sh", "-c", SLOW, settings={"shutdown_timeout": "100ms"}, pid1=True)
    o.journal.wait_for("main")
    for sig in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
        o.send(sig)
        o.journal.wait_for("asked")
    time.sleep(0.5)  # five times as long as overlord would give it
    assert o.journal.lines().count("saved") == 0
    (o.folder / "go").touch()
    assert o.wait_exit() == 7
    assert o.log == []


@pytest.mark.parametrize("pid1", (True, False), ids=("pid1", "below another init"))
@pytest.mark.parametrize("code", (None, 5))
def test_alone_it_is_asked_by_hand(overlord: Start, code: int | None, pid1: bool) -> None:
    """`overlord.py shutdown` asks it, and it alone says when it ends; a code that is given counts."""
    o = overlord("", "sh", "-c", SLOW, settings={"shutdown_timeout": "100ms", "socket": "abstract"}, pid1=pid1)
    o.journal.wait_for("main")
    o.ask("shutdown", *([] if code is None else [str(code)]))
    o.journal.wait_for("asked")
    (o.folder / "go").touch()
    assert o.wait_exit() == (7 if code is None else code)
    assert o.journal.lines() == ["main", "asked", "saved"]


def test_alone_each_signal_is_relayed_as_often_as_it_comes(overlord: Start, tmp_path: Path) -> None:
    """Real-time signals queue: none is lost and none comes twice, those that would ask for shutdown included."""
    count = """
import signal, sys
got = []
numbers = {signal.SIGRTMIN + 1, signal.SIGRTMIN + 3, signal.SIGRTMIN + 5, signal.SIGUSR2}
signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
open("journal", "w").write("up\\n")
while True:
    number = signal.sigwait(numbers)
    if number == signal.SIGUSR2:
        break
    got.append(number - signal.SIGRTMIN)
print(*(got.count(number) for number in (1, 3, 5)))
"""
    (tmp_path / "count.py").write_text(count)
    o = overlord("", system_python(), "-IS", "count.py")
    o.journal.wait_for("up")
    for _ in range(500):
        for number in (1, 3, 5):  # the first one is musl's own
            o.send(signal.SIGRTMIN + number)
    command = o.running(system_python(), "-IS", "count.py")[0]

    def pending() -> bool:
        used = command.status["SigQ"].split("/")[0]
        return int(used) >= 1500 or not command.signals("SigPnd") | command.signals("ShdPnd")

    eventually(pending, "all have come")
    eventually(lambda: not Process(o.pid).signals("ShdPnd"), "overlord has none left")
    time.sleep(0.2)
    o.send(signal.SIGUSR2)
    assert o.wait_exit() == 0
    assert o.out == ["500 500 500"]


@pytest.mark.parametrize("wait", (0.0, 0.01, 0.02, 0.04, 0.06))
def test_alone_a_signal_that_comes_first_of_all(overlord: Start, wait: float) -> None:
    """Sent when overlord has begun and the command is not there yet, it reaches the command."""
    o = overlord("", "sleep", "1000")
    process = Process(o.pid)
    eventually(lambda: signal.SIGTERM in process.signals("SigBlk") | process.signals("SigCgt"), "it has begun", pause=0)
    time.sleep(wait)
    o.send(signal.SIGTERM)
    assert o.wait_exit() == 143


NODE = "trap 'echo asked >> journal; {}; echo saved >> journal; exit' TERM; echo node >> journal; while :; do sleep 0.01; done"
# npm, as Debian's: it waits for a shell that waits for node, and both end at a SIGTERM.
NPM = "sh node & echo npm >> journal; wait"


def npm(overlord: Start, folder: Path, node: str, config: str, **options: Any) -> Overlord:
    """Start a command of the shape of `npm start`."""
    (folder / "node").write_text(NODE.format(node))
    o = overlord(config, "sh", "-c", NPM, **options)
    for line in ("node", "npm"):
        o.journal.wait_for(line)
    return o


@pytest.mark.parametrize("beside", (False, True), ids=("alone", "beside a daemon"))
@pytest.mark.parametrize("pid1", (True, False), ids=("pid1", "below another init"))
def test_what_it_leaves_has_the_rest_of_its_time(overlord: Start, tmp_path: Path, beside: bool, pid1: bool) -> None:
    """`npm start` ends before its node does: that is asked, and may save its data, before the daemons' turn."""
    web = daemon("web", "trap 'echo web >> journal; exit' TERM; while :; do sleep 0.01; done")
    o = npm(overlord, tmp_path, "sleep 2", web if beside else "", pid1=pid1)
    assert o.stop() == 143
    assert o.journal.lines()[2:] == ["asked", "saved", *(["web"] if beside else [])]
    assert not o.count("kill(ing|ed: )|not gone")


@pytest.mark.parametrize("config", ("", daemon("web", "exec sleep infinity")), ids=("alone", "beside a daemon"))
def test_what_it_leaves_and_does_not_end(overlord: Start, tmp_path: Path, config: str) -> None:
    """It is killed when that time is over, and named."""
    o = npm(overlord, tmp_path, "sleep 1000", config, settings={"shutdown_timeout": "2s"})
    assert o.stop() == 143
    assert o.journal.lines()[2:] == ["asked"]
    assert o.log[-1].startswith("overlord: exiting with code 143: ")
    assert re.search(r"had to be killed: .*sh \(pid \d+\)", o.log[-1])


def test_what_it_leaves_when_it_ends_by_itself(overlord: Start) -> None:
    """What is in its session is asked, in whatever job; who ends at once holds up nobody, and nothing is said."""
    o = overlord("", "bash", "-c", "set -m; sleep 1000 & (sleep 1001 &) ; exit 3", settings={"shutdown_timeout": "1000s"})
    assert o.wait_exit() == 3
    assert o.log == []


def test_its_share_beside_a_daemon(overlord: Start) -> None:
    """A COMMAND that needs half of the time that a shutdown has ends by itself, however many daemons there are."""
    slow = "trap 'sleep 3; echo saved >> journal; exit 7' TERM; echo main >> journal; while :; do sleep 0.01; done"
    o = overlord(
        daemon("db") + daemon("api", deps="db") + daemon("web", deps="api"), "sh", "-c", slow, settings={"shutdown_timeout": "9s"}
    )
    o.journal.wait_for("main")
    assert o.stop() == 7
    assert o.journal.lines()[-1] == "saved"


# --- the terminal ----------------------------------------------------------------------------------------------------


def on_terminal(overlord: Start, terminal: Terminal, config: str, *command: str, **options: Any) -> Overlord:
    """Start overlord as `docker run -it` does: PID 1 leads the session whose terminal it is."""
    slave = terminal.slave
    options = {"stdin": slave, "stdout": slave, "stderr": slave, "terminal": True, **options}
    return overlord(config, *command, **options)


def shell_on(overlord: Start, terminal: Terminal, config: str = "") -> Overlord:
    """Start an interactive shell as the main command, and wait for its prompt."""
    environment = {"PATH": PATH, "PS1": "READY> ", "TERM": "dumb", "HOME": "/nonexistent"}
    o = on_terminal(overlord, terminal, config, "bash", "--norc", "--noprofile", "--noediting", "-i", env=environment)
    terminal.expect("READY> ")
    return o


CONFIGS = pytest.mark.parametrize("config", ("", daemon("db")), ids=("alone", "beside a daemon"))


@CONFIGS
def test_shell_has_the_terminal(overlord: Start, terminal: Terminal, config: str) -> None:
    """Job control works, and Ctrl-C is for what runs in front, not for overlord."""
    o = shell_on(overlord, terminal, config)
    assert "job control" not in terminal.text
    after = terminal.type("sleep 1000\n")
    eventually(lambda: o.running("sleep", "1000"), "a job runs in front")
    terminal.type("\x03")
    terminal.expect("READY> ", after)
    after = terminal.type("echo $?\n")
    terminal.expect(r"\n130\r\nREADY> ", after)
    after = terminal.type("\x03")
    terminal.expect("READY> ", after)
    after = terminal.type("exit 5\n")
    assert o.wait_exit() == 5
    assert "shutting down: SIG" not in terminal.text


@CONFIGS
def test_shell_stops_and_continues_jobs(overlord: Start, terminal: Terminal, config: str) -> None:
    """Ctrl-Z, fg, and Ctrl-C."""
    o = shell_on(overlord, terminal, config)
    terminal.type("sleep 1000\n")
    eventually(lambda: o.running("sleep", "1000"), "a job runs in front")
    after = terminal.type("\x1a")
    terminal.expect("Stopped", after)
    job = o.running("sleep", "1000")[0]
    eventually(lambda: job.state == "T", "the job is stopped")
    after = terminal.type("fg\n")
    eventually(lambda: job.state == "S", "the job goes on")
    terminal.type("\x03")
    eventually(lambda: not job.alive, "the job is gone")
    terminal.expect("READY> ", after)
    terminal.type("exit\n")
    assert o.wait_exit() == 130


@CONFIGS
def test_window_size(overlord: Start, terminal: Terminal, config: str) -> None:
    """A resize reaches the main command."""
    o = shell_on(overlord, terminal, config)
    after = terminal.type("trap 'echo RESIZED' WINCH; sleep 1000\n")
    eventually(lambda: o.running("sleep", "1000"), "a job runs in front")
    fcntl.ioctl(terminal.master, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 123, 0, 0))
    terminal.type("\x03")
    terminal.expect("READY> ", after)
    after = terminal.type("stty size\n")
    terminal.expect("40 123\r\nREADY> ", after)
    terminal.type("exit 0\n")
    assert o.wait_exit() == 0


def test_resize_reaches_a_program(overlord: Start, terminal: Terminal) -> None:
    """The kernel tells the group in front, and that is the main command's."""
    main = "trap 'echo RESIZED; exit 0' WINCH; echo UP; while :; do sleep 0.01; done"
    o = on_terminal(overlord, terminal, "", "sh", "-c", main)
    terminal.expect("UP")
    fcntl.ioctl(terminal.master, termios.TIOCSWINSZ, struct.pack("HHHH", 41, 124, 0, 0))
    terminal.expect("RESIZED")
    assert o.wait_exit() == 0


def test_ctrl_c_reaches_a_program_once(overlord: Start, terminal: Terminal) -> None:
    """A main command that is no shell gets it from the terminal, and not once more from overlord."""
    main = "trap 'echo GOT' INT; echo UP; while :; do sleep 0.01; done"
    o = on_terminal(overlord, terminal, daemon("db"), "sh", "-c", main)
    terminal.expect("UP")
    for times in (1, 2, 3):
        terminal.type("\x03")
        terminal.expect("(?s)" + times * "GOT.*")
    assert terminal.text.count("GOT") == 3
    assert "shutting down" not in terminal.text
    o.send(signal.SIGTERM)
    assert o.wait_exit() == 143


def children(o: Overlord) -> Iterator[int]:
    """Go through the children of PID 1."""
    for each in o.processes():
        with contextlib.suppress(OSError):  # it has gone by now
            if each.ppid == 1:
                yield each.pid


@pytest.mark.parametrize("config", ("", "a daemon"))
def test_ctrl_c_when_the_command_has_ended(overlord: Start, terminal: Terminal, config: str) -> None:
    """The terminal is overlord's then: two of them end what does not end."""
    stubborn = "trap '' TERM; echo stubborn >> journal; while :; do sleep 0.01; done"
    config = config and daemon("web", stubborn, stop_timeout="1000s")
    left = "" if config else f"({stubborn}) & "
    settings = {"shutdown_timeout": "1000s"}
    o = on_terminal(overlord, terminal, config, "bash", "-c", f"{left}echo UP; read line; exit 5", settings=settings)
    o.journal.wait_for("stubborn")
    terminal.expect("UP")
    terminal.type("go\n")
    if config:
        terminal.expect("web: stopping")
    else:
        eventually(lambda: len(list(children(o))) == 1, "it is reaped")
    eventually(lambda: Process(o.pid).stat[5] == Process(o.pid).stat[2], "the terminal's foreground group is overlord's")
    terminal.type("\x03")
    terminal.expect("a second SIGINT kills at once")
    terminal.type("\x03")
    assert o.wait_exit() == 5
    terminal.expect("had to be killed: ")


def test_ctrl_c_without_a_main_command(overlord: Start, terminal: Terminal) -> None:
    """It is overlord's then: `docker run -it` of a fleet ends in order, and the units get a stop and no Ctrl-C."""
    cmd = "trap 'echo web INT >> journal' INT; trap 'echo web TERM >> journal; exit 0' TERM; echo web >> journal"
    o = on_terminal(overlord, terminal, daemon("web", cmd + "; while :; do sleep 0.01; done"))
    o.journal.wait_for("web")
    terminal.expect("web: ok")
    terminal.type("\x03")
    assert o.wait_exit() == 0
    assert o.journal.lines() == ["web", "web TERM"]


def test_log_on_a_terminal_that_stops_background_output(overlord: Start, terminal: Terminal) -> None:
    """`stty tostop`: overlord is in the background of its own terminal, and writes all the same."""
    o = shell_on(overlord, terminal, daemon("db"))
    after = terminal.type("stty tostop\n")
    terminal.expect("READY> ", after)
    terminal.type("exit 4\n")
    assert o.wait_exit() == 4
    terminal.expect("exiting with code 4")


def test_terminal_is_given_back(overlord: Start, terminal: Terminal) -> None:
    """Below another init, a shell that started overlord in front has the terminal again after it."""
    outer = 'overlord_main() { "$@"; }; set -m; overlord_main "$@"; echo BACK; read line; echo GOT $line; sleep 1000'
    o = on_terminal(overlord, terminal, "", "sh", "-c", "echo MAIN; exit 0", prefix=["sh", "-c", outer, "sh"])
    terminal.expect("MAIN")
    terminal.expect("BACK")
    terminal.type("hello\n")
    terminal.expect("GOT hello")
    assert o.popen.poll() is None


@pytest.mark.parametrize("pid1", (True, False), ids=("pid1", "below another init"))
def test_ctrl_z_where_no_shell_waits(overlord: Start, terminal: Terminal, pid1: bool) -> None:
    """Neither PID 1 nor the child of another init has a shell behind it: the command goes on, and so does overlord."""
    o = on_terminal(overlord, terminal, daemon("web"), "sleep", "1000", pid1=pid1)
    eventually(lambda: o.running("sleep", "1000"), "the command runs")
    job = o.running("sleep", "1000")[0]
    terminal.type("\x1a")
    o.kill(int(terminal.expect(r"web: started \(pid (\d+)\)")[1]))
    terminal.expect(r"web: pid \d+ killed by SIGKILL")
    eventually(lambda: job.state == "S", "the command goes on")
    terminal.type("\x03")
    assert o.wait_exit() == 130


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
