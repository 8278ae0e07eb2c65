"""`exec`: a command gets what a unit's process gets. `top`: the units live in a terminal, which is as before afterwards."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import re
import signal
import struct
import subprocess
import termios
from pathlib import Path
from typing import Any, Callable, Iterator, Sequence

import pytest

from conftest import Start
from harness import (
    PATH,
    PATIENCE,
    Asking,
    Overlord,
    Terminal,
    daemon,
    eventually,
    invoke,
    system_python,
)

SLEEP = "exec sleep 12345"
CAPTURED = {"stdout": "prefix", "stderr": "prefix"}
Run = Callable[..., "subprocess.CompletedProcess[str]"]


# --- exec: a command with what a unit gets ---------------------------------------------------------------------------


@pytest.fixture
def ask(tmp_path: Path, default_python: list[str]) -> Run:
    """A function that runs a verb to its end where no overlord runs, and expects an exit code."""

    def run(config: str, *words: str | bytes, code: int = 0, **options: Any) -> subprocess.CompletedProcess[str]:
        python, folder = options.pop("python", default_python), options.pop("folder", tmp_path)
        path = folder / "overlord.conf"
        path.write_text(f"[overlord]\nconfigdir = {folder}/none\n{config}")
        argv = [*options.pop("prefix", ()), *invoke(python), "-c", str(path), *words]
        options = {"stdin": subprocess.DEVNULL, "env": {"PATH": PATH}, "cwd": folder, "timeout": PATIENCE, **options}
        done = subprocess.run(argv, capture_output=True, encoding="utf-8", check=False, **options)
        assert done.returncode == code, f"{words}\n{done.stdout}\n{done.stderr}"
        return done

    return run


def test_what_a_command_gets(ask: Run, public: Path, python: list[str]) -> None:
    """User, groups, folder, variables, umask, niceness and limits are the unit's, and its name is not."""
    public.chmod(0o755)  # nobody but root can change a name in it: what is root's alone is read as root
    (public / "secret").write_text("s3cret\n")
    (public / "variables").write_text("FROM_FILE=yes\n")
    for name in ("secret", "variables"):
        (public / name).chmod(0o600)
    (public / "place").mkdir()
    config = daemon(
        "app", "exit 9", uid="nobody", gid="daemon", dir=public / "place", umask="027", nice=5, limits="nofile=123",
        env="WHO=${OVERLORD_NAME}\nBOTH=$KEY-${KEY}", env_file=public / "variables", secrets="KEY", count=2,
    )  # fmt: skip
    told = ask(
        config, "exec", "app-2", "sh", "-c", "id -u; id -g; id -G; pwd; umask; nice; ulimit -n; env",
        folder=public, python=python,
        env={"PATH": PATH, "KEY_FILE": str(public / "secret"), "HOME": "/root", "OVERLORD_NAME": "caller"},
    ).stdout.splitlines()  # fmt: skip
    assert told[:2] == [str(pwd.getpwnam("nobody").pw_uid), "1"]
    assert {*told[2].split()} == {*map(str, os.getgrouplist("nobody", 1))}
    assert told[3:7] == [str(public / "place"), "0027", "5", "123"]
    found = dict(line.split("=", 1) for line in told[7:])
    assert found["FROM_FILE"] == "yes"
    assert (found["KEY"], found["BOTH"], found["WHO"]) == ("s3cret", "$KEY-s3cret", "app-2")
    assert (found["USER"], found["LOGNAME"], found["OVERLORD_INSTANCE"]) == ("nobody", "nobody", "2")
    assert found["HOME"] != "/root"
    assert "OVERLORD_NAME" not in found


def test_what_is_not_roots_alone_is_read_as_the_user(ask: Run, public: Path) -> None:
    """Whoever can put another file there would else have root read it for him."""
    (public / "secret").write_text("s3cret")
    (public / "secret").chmod(0o600)
    config = daemon("app", uid="nobody", secrets="KEY", dir=public)
    where = {"PATH": PATH, "KEY_FILE": str(public / "secret")}
    told = ask(config, "exec", "app", "env", code=1, env=where, folder=public)
    assert told.stderr.startswith(f"overlord: app: secret KEY: {public}/secret: Permission denied (read as nobody")
    (public / "secret").chmod(0o644)
    assert "\nKEY=s3cret\n" in ask(config, "exec", "app", "env", env=where, folder=public).stdout


@pytest.mark.parametrize("words, code, why", [
    (["true"], 0, ""), (["sh", "-c", "exit 7"], 7, ""), (["sh", "-c", "kill $$"], -signal.SIGTERM, ""),
    (["no-such-program"], 127, "overlord: app: no-such-program: not found\n"),
    ([""], 127, "overlord: app: : not found\n"),
    (["/etc/passwd"], 126, "overlord: app: /etc/passwd: Permission denied\n"),
    (["/"], 126, "overlord: app: /: is a directory\n"),
])  # fmt: skip
def test_exit_code_is_the_commands(ask: Run, words: list[str], code: int, why: str) -> None:
    assert ask(daemon("app"), "exec", "app", *words, code=code).stderr == why


@pytest.mark.parametrize("option, value, why", [
    ("uid", "missing", "uid missing: no such user"), ("gid", "missing", "gid missing: no such group"),
    ("dir", "/missing", "dir /missing: No such file or directory"),
    ("env_file", "/missing", "env_file /missing: No such file or directory (where it may be missing, write -/missing)"),
    ("secrets", "MISSING", "secret MISSING: /run/secrets/MISSING: No such file or directory; "
     "mount it, or name another file in MISSING_FILE"),
])  # fmt: skip
def test_what_cannot_be_had(ask: Run, option: str, value: str, why: str) -> None:
    """One line says why, nothing is run, and the code is 1."""
    told = ask(daemon("app", **{option: value}), "exec", "app", "echo", "ran", code=1)
    assert (told.stdout, told.stderr) == ("", f"overlord: app: {why}\n")


def test_limits_that_nobody_may_have(ask: Run, python: list[str]) -> None:
    told = ask(daemon("app", limits="nofile=999999999999"), "exec", "app", "echo", "ran", code=1, python=python)
    assert told.stdout == ""
    assert told.stderr.startswith("overlord: app: limits")


def test_a_user_is_only_himself(ask: Run, public: Path) -> None:
    """Who is not root gets a command as himself, without any privilege, and no other user's."""
    prefix = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--bounding-set=-all"]
    units = daemon("mine", uid="nobody") + daemon("other", uid="daemon") + daemon("any")
    for name in ("mine", "any"):
        assert ask(units, "exec", name, "id", "-un", prefix=prefix, folder=public).stdout == "nobody\n"
    told = ask(units, "exec", "other", "id", "-un", code=1, prefix=prefix, folder=public)
    assert told.stdout == ""
    assert told.stderr.startswith("overlord: other: uid daemon (only root can take another")


@pytest.mark.parametrize("name, why", [
    ("wbe", 'there is no unit wbe in FILE, did you mean "web"?'), ("*", "there is no unit * in FILE"),
    ("worker", "worker has instances worker-1, worker-2: name one"), ("none", "there is no unit none in FILE"),
])  # fmt: skip
def test_no_such_unit(ask: Run, tmp_path: Path, name: str, why: str) -> None:
    units = daemon("web") + daemon("worker", count=2) + daemon("none", count=0)
    told = ask(units, "exec", name, "echo", "ran", code=64)
    assert told.stdout == ""
    file = str(tmp_path / "overlord.conf")
    assert told.stderr.startswith(f"overlord: {why}\n".replace("FILE", file)), told.stderr


def test_file_of_the_overlord_that_runs(fleet: Start, tmp_path: Path) -> None:
    """`exec` and `check` read what it was started with, unless they are told another file."""
    o = fleet(daemon("web", SLEEP, env="A=b"))
    o.says("web", "ok")
    assert o.ask("exec", "web", "sh", "-c", "echo $A", named=False).stdout == "b\n"
    assert f" in {o.config}\n" in o.ask("exec", "other", "true", named=False, code=64).stderr
    assert o.ask("check", named=False).stdout == f"overlord: {o.config}: OK, 1 daemon, 0 scripts\n"
    other = tmp_path / "other.conf"
    other.write_text(daemon("more") + daemon("other"))
    told = o.ask("check", named=False, env={"PATH": PATH, "OVERLORD_CONFIG": str(other)})
    assert told.stdout.startswith(f"overlord: {other}: OK, 2 daemons")


def test_mistakes_of_the_configuration(ask: Run, tmp_path: Path) -> None:
    """Those of the unit, of its kind and of [overlord] are in the way; those of other units are not."""
    others = daemon("bad", nice="high", deps="missing") + "[deamon:x]\ncmd = true\n" + daemon("team", count=2, deps="bad:no")
    for name in ("web", "team-2"):
        own = daemon("web", deps="bad, team") + (daemon("team", count=2) if name != "web" else "")
        told = ask(own + (others if name == "web" else daemon("bad", nice="high")), "exec", name, "echo", "ran")
        assert (told.stdout, told.stderr) == ("ran\n", "")
    for wrong in ("[daemon]\nnice = high\n", "[overlord]\nforever = maybe\n", "no option\n"):
        assert ask(daemon("web") + wrong, "exec", "web", "echo", "ran", code=78).stdout == ""
    told = ask(daemon("web", nice="high"), "exec", "web", "echo", "ran", code=78)
    assert told.stdout == ""
    assert re.match(rf"{tmp_path}/overlord.conf:\d+: \[daemon:web\] nice: ", told.stderr), told.stderr
    argv = [*invoke([system_python()]), "-c", str(tmp_path / "missing"), "exec", "web", "true"]
    assert subprocess.run(argv, capture_output=True, check=False).returncode == 78


WORDS = 'import os, sys; sys.stdout.write(repr([*map(os.fsencode, sys.argv[1:])]))'


@pytest.mark.parametrize("words", [
    ["-c", "x", "--color", "-n5", "-t"], ["--help"], ["a b", "", " ", "\t\n", "'"], ["--", "-x"], [b"\xff\xfe"],
    ["x"] * 1000, [],
])  # fmt: skip
def test_words_are_the_commands(ask: Run, words: list[str | bytes]) -> None:
    """Nothing after the name is an option of overlord's, and each word comes as it is."""
    command = [system_python(), "-ISc", WORDS, *words]
    for before in (["exec", "app"], ["exec", "app", "--"], ["exec", "--", "app"]):
        assert ask(daemon("app"), *before, *command).stdout == repr([os.fsencode(word) for word in words])


@pytest.mark.parametrize("words, why", [
    ([], "exec needs NAME COMMAND ..."), (["app"], "exec needs NAME COMMAND ..."), (["app", "--"], "exec needs NAME COMMAND ..."),
    (["-x", "app", "true"], "exec has no option -x"),
])  # fmt: skip
def test_usage(ask: Run, words: list[str], why: str) -> None:
    assert ask(daemon("app"), "exec", *words, code=64).stderr.startswith(f"overlord: {why}\n")


def test_signals_and_descriptors(ask: Run) -> None:
    """Defaults, and nothing blocked, whatever overlord.py was started with; standard input is passed on, and no more."""
    started = (
        "import os, signal, sys\nfor n in (1, 2, 10, 13): signal.signal(n, signal.SIG_IGN)\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [3, 12, 15])\nos.execv(sys.argv[1], sys.argv[1:])"
    )
    extra = os.open("/etc/passwd", os.O_RDONLY)
    os.set_inheritable(extra, True)
    told = ask(
        daemon("app"), "exec", "app", "sh", "-c", "cat; cat /proc/self/status; ls -l /proc/self/fd",
        prefix=[system_python(), "-ISc", started], stdin=None, input="from the pipe\n", pass_fds=[extra],
    ).stdout  # fmt: skip
    os.close(extra)
    assert told.startswith("from the pipe\n")
    for field in ("SigBlk", "SigIgn", "SigCgt"):
        mask = re.search(rf"{field}:\t(\w+)", told)
        assert mask and not int(mask[1], 16) & ~(3 << 31), field  # glibc's own two may be
    assert "/etc/passwd" not in told


def client(o: Overlord, *words: str) -> list[str]:
    """Return the command that runs a verb in a session of its own, as `docker exec -it` does."""
    return o.client(*words, prefix=["setsid", "--ctty"])


@contextlib.contextmanager
def on(terminal: Terminal, argv: Sequence[str], rows: int = 24, columns: int = 80, **env: str) -> Iterator[Any]:
    """Run a command with this terminal, of this size."""
    fcntl.ioctl(terminal.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    ends = dict.fromkeys(("stdin", "stdout", "stderr"), terminal.slave)
    with subprocess.Popen(argv, env={"PATH": PATH, **env}, **ends) as popen:  # type: ignore[call-overload]
        try:
            yield popen
        finally:
            popen.kill()


def test_a_shell_on_the_terminal(fleet: Start, terminal: Terminal) -> None:
    """It has the terminal: job control, and Ctrl-C for what runs in it and not for the shell."""
    o = fleet(daemon("app", SLEEP, dir="/usr", env="PS1='shell> '"))
    o.says("app", "ok")
    with on(terminal, client(o, "exec", "app", "sh", "-i")) as popen:
        terminal.expect("shell> ")
        terminal.type("pwd; sleep 1000\n")
        terminal.expect("/usr\r\n")
        eventually(lambda: o.running("sleep", "1000"), "it sleeps")
        after = terminal.type("\x03")
        terminal.expect("shell> ", after)
        assert not o.running("sleep", "1000")
        after = terminal.type("sleep 1001 &\nkill %1\njobs; exit 5\n")
        assert popen.wait(PATIENCE) == 5
        assert "job control" not in terminal.text
    assert o.stop() == 0


def test_beside_a_unit(fleet: Start, asking: Callable[..., Asking], tmp_path: Path) -> None:
    """It is none of the unit's processes: a restart leaves it alone, and a pid file stays."""
    pidfile = tmp_path / "pid"  # of a daemon that puts itself into the background
    o = fleet(daemon("app", f"sleep 12345 & echo $! > {pidfile}", pidfile=pidfile))
    o.says("app", "ok")
    assert o.ask("exec", "app", "cat", str(pidfile)).stdout == pidfile.read_text()
    asking(o, "exec", "app", "sleep", "54321")
    eventually(lambda: o.running("sleep", "54321"), "it runs")
    assert re.search(r"B +1 +[\d.]+ \w+$", o.ask("top").stdout.splitlines()[1]), "one process"
    o.ask("restart", "app")
    assert o.running("sleep", "54321")
    o.ask("stop", "app")
    assert o.running("sleep", "54321")


# --- top: the units live ---------------------------------------------------------------------------------------------

BUSY = "while :; do :; done"
BIG = f"exec {system_python()} -ISc 'import time; kept = bytearray(1) * (64 << 20); time.sleep(12345)'"


def crowd(number: int = 0) -> str:
    """Return a unit that computes, one with much memory, one that says something and one that fails; and so many more."""
    units = daemon("talker", f"echo hello; {SLEEP}", **CAPTURED) + daemon("busy", BUSY, nice=19) + daemon("big", BIG)
    units += daemon("broken", "echo oops; exit 3", restart="never", on_failure="ignore", warmup="1s", **CAPTURED)
    return units + "".join(daemon(f"more-{each}", SLEEP) for each in range(number))


def lines_of(frame: str) -> list[str]:
    """Return the lines of a picture without its colours."""
    plain = re.sub("\x1b\\[[0-9;]*[mK]", "", frame).replace("\\xff", "?")  # one column, and no UTF-8
    return [line.strip("\r") for line in plain.split("\n")]


def frames(terminal: Terminal, after: int = 0) -> list[list[str]]:
    """Return the whole pictures so far: the next one has begun, or the terminal has been given back."""
    return [lines_of(frame) for frame in re.split("\x1b\\[H|\x1b\\[\\?7h", terminal.text[after:])[1:-1]]


def seen(terminal: Terminal, what: str, fits: Callable[[list[str]], Any], after: int = 0) -> list[str]:
    """Wait for a picture, and return its lines."""

    def found() -> list[str] | None:
        return next((frame for frame in frames(terminal, after) if fits(frame)), None)

    return eventually(found, f"{what}\n{frames(terminal, after)[-1:]}", pause=0.05)


def first(name: str) -> Callable[[list[str]], Any]:
    return lambda frame: frame[2:] and frame[2].split()[:1] == [name]


def test_top_in_a_pipe(fleet: Start, python: list[str]) -> None:
    """Once, plain, in the order of the configuration, and 0 whatever the units' states."""
    o = fleet(crowd(), python=python)
    o.says("broken", "failed")
    done = o.ask("top")
    told = done.stdout
    assert "\x1b" not in told and done.stderr == ""
    head, *rows = told.splitlines()
    assert head.split() == ["NAME", "STATE", "PID", "CPU%", "MEMORY", "PROCS", "UPTIME", "WHY", "|", "LAST", "LINE"]
    assert [row.split()[0] for row in rows] == ["talker", "busy", "big", "broken"]
    talker, busy, big, broken = rows
    assert re.fullmatch(r"talker +ok +\d+ +\d+\.\d +[\d.]+ [KM]iB +1 +[\d.]+ \w+.* hello", talker), talker
    assert re.fullmatch(r"broken +failed +pid \d+ exited with code 3 .* \| oops", broken), broken
    eventually(lambda: float(o.ask("top", "busy").stdout.split("\n")[1].split()[3]) > 0, "it computes")
    assert [row.split()[0] for row in o.ask("top", "b*").stdout.splitlines()[1:]] == ["busy", "big", "broken"]
    assert o.ask("top", "tallker", code=64).stderr.startswith('overlord: there is no unit tallker, did you mean "talker"')


def test_top_needs_an_overlord(ask: Run) -> None:
    assert "nobody answers" in ask(daemon("web"), "top", code=69).stderr


@pytest.fixture
def before(terminal: Terminal) -> list[Any]:
    """How the terminal is set."""
    return termios.tcgetattr(terminal.slave)


ENTERED, LEFT = "\x1b[?1049h\x1b[?25l\x1b[?7l", "\x1b[?7h\x1b[?25h\x1b[?1049l"


def is_restored(terminal: Terminal, before: list[Any]) -> str:
    """See that all is as it was, and return what was said afterwards."""
    assert termios.tcgetattr(terminal.slave) == before
    os.write(terminal.slave, b"<end>")
    terminal.expect("<end>")
    shown, left, said = terminal.text.partition("<end>")[0].partition(LEFT)
    assert shown.startswith(ENTERED) and left
    return said.replace("\r", "")


@pytest.mark.parametrize("key", ["q", "\x03"])
def test_top_until_a_key(fleet: Start, terminal: Terminal, before: list[Any], python: list[str], key: str) -> None:
    """q and Ctrl-C end it; what is no key of its own does nothing, Escape and the arrows neither."""
    o = fleet(crowd(), python=python)
    o.says("broken", "failed")
    with on(terminal, client(o, "top")) as popen:
        frame = seen(terminal, "a picture", lambda frame: len(frame) == 24)
        assert frame[0] == "4 units: 3 ok, 1 failed | q: end, c: by CPU%, m: by MEMORY"
        after = terminal.type("\x1b\x1b[Ax\x1a\n\x13")
        assert len(eventually(lambda: frames(terminal, after)[9:], "it goes on")) > 0
        assert popen.poll() is None
        terminal.type(key)
        assert popen.wait(PATIENCE) == 0
    assert is_restored(terminal, before) == ""
    assert o.stop() == 0


def test_top_sorts(fleet: Start, terminal: Terminal) -> None:
    """By processor, unless `m` asks for memory; what a unit has used since the last picture counts, not all its life."""
    o = fleet(crowd())
    o.says("broken", "failed")
    with on(terminal, client(o, "top")) as popen:
        seen(terminal, "by processor", first("busy"))
        after = terminal.type("m")
        frame = seen(terminal, "by memory", first("big"), after)
        assert "\x1b[32mok" in terminal.text
        assert "\x1b[31mfailed" in terminal.text
        assert re.search(r"^big +ok +\d+ +[\d.]+ +\d\d[\d.]* MiB", frame[2]), frame
        after = terminal.type("c")
        seen(terminal, "by processor again", first("busy"), after)
        o.kill_unit("busy", signal.SIGSTOP)
        quiet = r"^busy +ok +\d+ +0\.0 "
        seen(terminal, "it computes no more", lambda frame: any(re.search(quiet, line) for line in frame), len(terminal.text))
        terminal.type("q")
        assert popen.wait(PATIENCE) == 0


@pytest.mark.parametrize("rows, columns", [(24, 80), (10, 40), (3, 20), (50, 200)])
def test_top_fits_any_terminal(fleet: Start, terminal: Terminal, rows: int, columns: int) -> None:
    """No line more than there is room for, none too long, and no control characters of a unit's."""
    talk = "printf '%0300d\\n\\033[2J\\033]0;x\\007\\t\\377%0300d\\n'; " + SLEEP
    o = fleet(daemon("talker", talk, **CAPTURED) + crowd(60).replace("daemon:talker", "daemon:other"))
    o.wait_for("more-59: ok")
    with on(terminal, client(o, "top"), rows, columns) as popen:
        frame = seen(terminal, "a picture", lambda frame: len(frame) > 1)
        assert len(frame) == rows
        assert max(map(len, frame)) <= columns, [line for line in frame if len(line) > columns]
        assert frame[-1] == f"... and {65 - (rows - 3)} more"
        assert not re.search("[\0-\x1f\x7f]", "".join(frame))
        assert frame[1][:5] == "NAME "
        fcntl.ioctl(terminal.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows + 7, columns + 9, 0, 0))
        wider = seen(terminal, "it fits again", lambda frame: len(frame) == rows + 7)
        assert max(map(len, wider)) <= columns + 9
        assert "\x1b[?7l" in terminal.text, "the terminal cuts what counts wider than we know"
        terminal.type("q")
        assert popen.wait(PATIENCE) == 0


def test_top_is_resized_at_once(fleet: Start, terminal: Terminal) -> None:
    """What is known is drawn anew, before overlord is asked again: two pictures of other sizes tell the same."""
    o = fleet(daemon("web", SLEEP))
    o.says("web", "ok")
    heights = iter(range(10, 1000))

    def tell_the_same() -> bool:
        """Resize it, and look at the pictures before and after."""
        drawn = frames(terminal)
        size = struct.pack("HHHH", next(heights), 80, 0, 0)
        fcntl.ioctl(terminal.master, termios.TIOCSWINSZ, size)
        new = eventually(lambda: frames(terminal)[len(drawn) :], "it is drawn again")
        return len(new[0]) != len(drawn[-1]) and new[0][2] == drawn[-1][2]

    with on(terminal, client(o, "top"), 9) as popen:
        seen(terminal, "a picture", lambda frame: len(frame) == 9)
        eventually(tell_the_same, "it is drawn before there is news")
        terminal.type("q")
        assert popen.wait(PATIENCE) == 0


def test_top_without_colours(fleet: Start, terminal: Terminal) -> None:
    o = fleet(crowd())
    with on(terminal, client(o, "top"), NO_COLOR="1") as popen:
        seen(terminal, "a picture", lambda frame: len(frame) == 24)
        terminal.type("q")
        assert popen.wait(PATIENCE) == 0
    assert "\x1b[3" not in terminal.text


def test_top_follows_a_reload(fleet: Start, terminal: Terminal, before: list[Any]) -> None:
    """A glob names what there is at the time; it ends, and says so, when a name is no unit's any more."""
    o = fleet(daemon("web", SLEEP) + daemon("keep", SLEEP))
    o.says("web", "ok")
    with on(terminal, client(o, "top", "web*")) as popen:
        seen(terminal, "one", lambda frame: frame[0].startswith("1 unit: 1 ok"))
        o.config.write_text(o.config.read_text() + daemon("web-more", SLEEP))
        o.ask("reload")
        seen(terminal, "two", lambda frame: frame[0].startswith("2 units: 2 ok"))
        o.config.write_text(o.config.read_text().replace("daemon:web", "daemon:other"))
        o.ask("reload")
        assert popen.wait(PATIENCE) == 64
    assert is_restored(terminal, before).startswith("overlord: there is no unit web* any more\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_top_ends_by_a_signal(fleet: Start, terminal: Terminal, before: list[Any], number: int) -> None:
    o = fleet(daemon("web", SLEEP))
    with on(terminal, client(o, "top")) as popen:
        seen(terminal, "a picture", lambda frame: len(frame) == 24)
        (found,) = [process for process in o.processes() if process.cmdline[-1:] == ["top"]]
        o.kill(found.pid, number)
        assert popen.wait(PATIENCE) == 69
    assert is_restored(terminal, before).startswith(f"overlord: top was ended by {signal.Signals(number).name}, as a shutdown ")


@pytest.mark.parametrize("pid1", [True, False])
def test_top_ends_with_overlord(overlord: Start, terminal: Terminal, before: list[Any], pid1: bool) -> None:
    """As PID 1, it ends all processes; else nobody answers any more."""
    o = overlord(daemon("web", SLEEP), settings={"socket": "abstract"}, pid1=pid1)
    o.says("web", "ok")
    with on(terminal, client(o, "top")) as popen:
        seen(terminal, "a picture", lambda frame: len(frame) == 24)
        o.send(signal.SIGTERM)
        assert popen.wait(PATIENCE) == 69
    said = is_restored(terminal, before)
    assert said.startswith("overlord: "), said
    assert ("a shutdown" if pid1 else "nobody answers at ") in said or "hung up" in said, said


def test_top_without_stty(fleet: Start, terminal: Terminal) -> None:
    """It says what is missing, and shows the units once."""
    o = fleet(daemon("web", SLEEP))
    o.says("web", "ok")
    argv = client(o, "top")
    argv.insert(argv.index("--pdeathsig=KILL") + 1, "env")
    argv.insert(argv.index("env") + 1, "PATH=/nowhere")
    with on(terminal, argv, NO_COLOR="1") as popen:
        assert popen.wait(PATIENCE) == 0
    terminal.expect("overlord: without stty.1., top is shown once\r\n")
    terminal.expect(r"web +ok +\d+ .*\r\n")
    assert "\x1b" not in terminal.text
