"""Where the units' output goes: whose line it is, and that none is lost, whoever reads it, or does not."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import pwd
import re
import signal
import stat
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

import overlord as program_under_test
from conftest import Start
from harness import (
    PATH,
    PATIENCE,
    Overlord,
    Process,
    Stopwatch,
    Terminal,
    daemon,
    eventually,
    is_idle,
    script,
    system_python,
)
from overlord import LogFile, Tail, Watch

# How much the tests of large outputs write; `OVERLORD_BIG=1000000000` makes it a gigabyte.
BIG = int(os.environ.get("OVERLORD_BIG", "60000000"))
WIDTH = 100  # bytes of a numbered line
CAPTURED = {"stdout": "prefix", "stderr": "prefix"}
LIMIT_OF_GROWTH = 30 << 20  # bytes by which overlord may grow while it holds writers back


def seq(count: int, first: int = 1) -> str:
    """Return the command that writes numbered lines of WIDTH bytes, in blocks that do not end where a line does."""
    return f"seq -f %0{WIDTH - 1}.0f {first} {count}"


def python(folder: Path, name: str, text: str) -> str:
    """Return the command that runs a program in Python, which it writes to a file."""
    path = folder / f"{name}.py"
    path.write_text(f"import fcntl, os, random, signal, sys, time\n{text}\n")
    return f"exec {system_python()} -I -S {path}"


class Numbers:
    """A check that numbered lines come each once and in order, fed with whatever parts they come in."""

    def __init__(self, prefix: bytes = b"") -> None:
        self.prefix, self.last, self.rest = prefix, 0, b""

    def feed(self, data: bytes) -> None:
        """Look at the next bytes."""
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            self.last += 1
            if line != b"%s%0*d" % (self.prefix, WIDTH - 1, self.last):
                raise AssertionError(f"in place of number {self.last}: {line[:200]!r}")


def check_numbers(files: Iterable[Path], most: int) -> int:
    """Return the last of the numbers in these files, which hold whole lines only and at most so many bytes each."""
    numbers = Numbers()
    for path in files:
        data = path.read_bytes()
        assert len(data) <= most, path
        assert data.endswith(b"\n"), path
        numbers.feed(data)
    return numbers.last


def rotated(path: Path) -> list[Path]:
    """Return PATH and its older ones, the oldest first."""
    older = sorted((int(each.name.rpartition(".")[2]), each) for each in path.parent.glob(f"{path.name}.*"))
    assert [number for number, _ in older] == list(range(1, len(older) + 1))
    return [each for _, each in reversed(older)] + [path]


def unread(fd: int) -> int:
    """Return how many bytes wait in a pipe."""
    return int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), sys.byteorder)


class Reader:
    """The other end of the container's stdout or stderr: it reads nothing until it is told to."""

    def __init__(self, size: int = 65536) -> None:
        self.fd, self.end = os.pipe()
        fcntl.fcntl(self.fd, program_under_test.F_SETPIPE_SZ, size)
        self.data = bytearray()
        self.fault: BaseException | None = None
        self._thread: threading.Thread | None = None

    @property
    def flags(self) -> int:
        """The file status flags of the end that the container has."""
        return fcntl.fcntl(self.end, fcntl.F_GETFL)

    def read(self, take: Callable[[bytes], object] | None = None) -> Reader:
        """Begin to read, and hand on what comes."""
        take = take or self.data.extend

        def work() -> None:
            try:
                while True:
                    data = os.read(self.fd, 1 << 20)
                    if not data:
                        return
                    take(data)
            except BaseException as error:
                self.fault = error
                os.close(self.fd)
                self.fd = -1

        self._thread = threading.Thread(target=work, daemon=True)
        self._thread.start()
        return self

    def lines(self) -> list[bytes]:
        """Return the whole lines that have come."""
        return bytes(self.data).split(b"\n")[:-1]

    def wait_for(self, line: bytes, times: int = 1) -> None:
        """Wait until a line has come so many times."""
        eventually(lambda: self.lines().count(line) >= times, f"{times} x {line!r} in {bytes(self.data[-2000:])!r}")

    def finish(self) -> Reader:
        """Read to the end, which comes when nobody has the other end any more."""
        if self.end >= 0:
            os.close(self.end)
            self.end = -1
        if not self._thread:
            self.read()
        assert self._thread
        self._thread.join(PATIENCE * 4)
        assert not self._thread.is_alive()
        if self.fault:
            raise self.fault
        return self

    def close(self) -> None:
        """Give both ends back."""
        for fd in (self.end, self.fd):
            if fd >= 0 and not (fd == self.fd and self._thread and self._thread.is_alive()):
                os.close(fd)


@pytest.fixture
def reader() -> Iterator[Callable[..., Reader]]:
    """A function that makes a Reader."""
    made: list[Reader] = []

    def make(**options: Any) -> Reader:
        made.append(Reader(**options))
        return made[-1]

    yield make
    for each in made:
        each.close()


class Puppet:
    """A daemon that writes what the test tells it: `cat`, or a shell that runs it."""

    def __init__(self, folder: Path, name: str, what: str = "cat") -> None:
        self.name, self.path = name, folder / f"{name}.fifo"
        os.mkfifo(self.path, 0o666)
        self.fd = os.open(self.path, os.O_RDWR)
        self.cmd = f"exec {what} <>{self.path}"

    def config(self, **options: object) -> str:
        """Return its section."""
        return daemon(self.name, self.cmd, **options)

    def write(self, text: str) -> None:
        """Have it write, or run, that."""
        os.write(self.fd, text.encode())

    @property
    def waiting(self) -> int:
        """The number of bytes that it has not taken yet."""
        return unread(self.fd)

    def __del__(self) -> None:
        os.close(self.fd)


def main_process(o: Overlord, name: str) -> Process:
    """Return the process of a unit by the name in its environment, since the log may be stuck."""

    def found() -> Process | None:
        for process in o.processes():
            with contextlib.suppress(OSError):
                if f"OVERLORD_NAME={name}".encode() in process.environ and process.ppid == 1:
                    return process
        return None

    return eventually(found, f"a process of {name}")


def wait_blocked(o: Overlord, name: str) -> None:
    """Wait until a process of a unit waits in write(2) for room in its pipe."""

    def found() -> bool:
        for process in o.processes():
            with contextlib.suppress(OSError):
                of_it = f"OVERLORD_NAME={name}".encode() in process.environ
                if of_it and "pipe_write" in (process.folder / "wchan").read_text():
                    return True
        return False

    eventually(found, f"{name} waits for a reader")


def memory(o: Overlord, field: str) -> int:
    """Return the bytes of memory that overlord has (`VmRSS`), or had at most (`VmHWM`)."""
    return int(Process(o.pid).status[field].split()[0]) * 1024


def before(*words: str) -> list[str]:
    """Return a command that runs shell commands in the namespace, and then overlord."""
    return ["sh", "-c", f'{" && ".join(words)} && exec "$@"', "sh"]


def own(lines: Iterable[str]) -> list[str]:
    """Return overlord's own messages among the lines of its stderr."""
    return [line for line in lines if line.startswith("overlord: ")]


def others(lines: Iterable[str]) -> list[str]:
    """Return the lines that are not overlord's own."""
    return [line for line in lines if not line.startswith("overlord: ")]


# --- prefix ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ("daemon", "script"))
def test_prefix(overlord: Start, kind: str, python: list[str]) -> None:
    """Each line says whose it is; stdout goes to stdout, and stderr to stderr."""
    cmd = "echo out; echo err >&2; echo; echo '  more | of it'"
    config = daemon("web", cmd, restart="never", **CAPTURED)
    if kind == "script":
        config = script("web", cmd, **CAPTURED) + daemon("db", "true", restart="never", deps="web")
    o = overlord(config, python=python)
    assert o.wait_exit() == 0
    assert o.out == ["web | out", "web | ", "web |   more | of it"]
    assert others(o.log) == ["web | err"]


def test_prefix_as_the_default_of_all(overlord: Start) -> None:
    """`output` of [overlord] holds for daemons and scripts that say nothing themselves."""
    o = overlord(
        script("setup", "echo setup")
        + daemon("web", "echo web; echo err >&2", restart="never", deps="setup")
        + daemon("db", "echo db", restart="never", stdout="inherit", deps="web"),
        settings={"output": "prefix"},
    )
    assert o.wait_exit() == 0
    assert o.out[0] == "setup | setup"
    assert sorted(o.out[1:]) == ["db", "web | web"]
    assert others(o.log) == ["web | err"]


def test_lines_of_many_never_interleave(overlord: Start, tmp_path: Path) -> None:
    """However the units cut what they write, and though they all write at once, to both streams."""
    count, each = 10, 1500
    cmd = python(
        tmp_path,
        "pieces",
        "me = os.environ['OVERLORD_NAME']\n"
        f"text = ''.join('%s %06d %s\\n' % (me, n, 'x' * (n * 7 % 300)) for n in range({each})).encode()\n"
        "while text:\n"
        "    size = random.randint(1, 4000)\n"
        "    os.write(1, text[:size])\n"
        "    text = text[size:]",
    )
    units = [daemon(f"w{n}", f"{cmd}{' >&2' if n % 2 else ''}", restart="never", **CAPTURED) for n in range(count)]
    o = overlord("".join(units))
    assert o.wait_exit() == 0
    for lines, parity in ((o.out, 0), (others(o.log), 1)):
        for number in range(parity, count, 2):
            mine = [line for line in lines if line.startswith(f"w{number} | ")]
            assert mine == [f"w{number} | w{number} {n:06d} {'x' * (n * 7 % 300)}" for n in range(each)]
        assert len(lines) == each * count / 2


def test_last_line_without_a_newline(overlord: Start) -> None:
    """It is passed on when the unit has ended, and before that is said."""
    o = overlord(daemon("web", "printf 'a\\nb' >&2; printf c", restart="never", **CAPTURED) + daemon("db"))
    o.says("web", "done: ")
    assert o.position(r"^web \| b$") < o.position("^overlord: web: done: ")
    o.wait_for(r"^web \| c$", lines=o.out)
    assert o.stop() == 0
    assert (o.out, others(o.log)) == (["web | c"], ["web | a", "web | b"])


def test_last_line_of_a_killed_unit_is_none_of_the_next(overlord: Start) -> None:
    """Half a line of the process before does not run into the first line of the next one."""
    cmd = "echo begin; printf half; echo there >> journal; exec sleep infinity"
    o = overlord(daemon("web", cmd, backoff="0", **CAPTURED))
    for times in (1, 2, 3):
        o.journal.wait_for("there", times)
        o.unit_is("web", "sleep")
        o.kill_unit("web")
        o.wait_count(r"web: .*restarting", times)
    o.journal.wait_for("there", 4)
    assert o.stop() == 0
    assert o.out == 4 * ["web | begin", "web | half"]


@pytest.mark.parametrize("sink", ("prefix", "/dev/stdout", "file"))
def test_long_line(overlord: Start, tmp_path: Path, sink: str) -> None:
    """A line of 200 KB comes out whole: one line with one prefix."""
    path = tmp_path / "log"
    cmd = "echo first; seq -s , 40000; echo last"
    o = overlord(daemon("web", cmd, restart="never", stdout=path if sink == "file" else sink))
    assert o.wait_exit() == 0
    found = path.read_text().splitlines() if sink == "file" else o.out
    head = "web | " if sink == "prefix" else ""
    assert found == [f"{head}first", head + ",".join(map(str, range(1, 40001))), f"{head}last"]


@pytest.mark.parametrize("sink", ("prefix", "file"))
def test_long_lines_among_others(overlord: Start, tmp_path: Path, sink: str) -> None:
    """Where others write meanwhile a long line may be parted, and no byte gets lost or among somebody else's."""
    cmd = python(
        tmp_path,
        "long",
        "me = os.environ['OVERLORD_NAME'].encode()\n"
        "for number in range(5):\n"
        "    os.write(1, b','.join(b'%s%d' % (me, n) for n in range(40000)) + b'\\n')",
    )
    paths = {"a": f"{tmp_path}/log", "b": f"{tmp_path}/./log", "c": f"{tmp_path}/link"}
    (tmp_path / "link").symlink_to("log")
    o = overlord("".join(daemon(name, cmd, restart="never", stdout=sink if sink == "prefix" else paths[name]) for name in paths))
    assert o.wait_exit() == 0
    lines = [line.partition(" | ")[2] for line in o.out] if sink == "prefix" else (tmp_path / "log").read_text().splitlines()
    for name in paths:
        others = "".join(paths).replace(name, "")
        mine = [line for line in lines if name in line]
        assert "".join(mine) == 5 * ",".join(f"{name}{n}" for n in range(40000))
        assert not any(other in line for other in others for line in mine)
        assert sink != "prefix" or len([line for line in o.out if line.startswith(f"{name} | ")]) == len(mine)


@pytest.mark.parametrize("sink", ("prefix", "/dev/stdout", "file"))
def test_bytes_pass_unchanged(overlord: Start, tmp_path: Path, reader: Callable[..., Reader], sink: str) -> None:
    """All 256 of them, and bytes that are no UTF-8; empty lines stay."""
    data = b"\n\n" + bytes(range(256)) + b"caf\xe9 \xff\xfe\x00\r\n\n\n\xf0\x9f\n"
    (tmp_path / "data").write_bytes(data)
    path, out = tmp_path / "log", reader()
    o = overlord(daemon("web", f"cat {tmp_path}/data", restart="never", stdout=path if sink == "file" else sink), stdout=out.end)
    assert o.wait_exit() == 0
    found = path.read_bytes() if sink == "file" else bytes(out.finish().data)
    if sink == "prefix":
        assert all(line.startswith(b"web | ") for line in found.split(b"\n")[:-1])
        found = re.sub(rb"(?m)^web \| ", b"", found)
    assert found == data


@pytest.mark.parametrize("setting", ("", "NO_COLOR=1", "NO_COLOR="))
def test_colours(overlord: Start, terminal: Terminal, setting: str) -> None:
    """On a terminal each unit has one of its own, unless NO_COLOR says no (empty, it says nothing: no-color.org)."""
    key, _, value = setting.partition("=")
    tty = {"stdin": terminal.slave, "stdout": terminal.slave, "stderr": terminal.slave, "terminal": True}
    o = overlord(
        daemon("web", "echo out; echo err >&2; exec sleep infinity", **CAPTURED)
        + daemon("db", "echo out; exec sleep infinity", stdout="prefix", deps="web"),
        env={"PATH": PATH, "TERM": "xterm", **({key: value} if key else {})},
        **tty,
    )
    if value:
        for line in ("web | out", "web | err", "db | out"):
            terminal.expect(rf"(?m)^{re.escape(line)}\r?$")
    else:
        found = [terminal.expect(rf"\x1b\[(\d+)m{name} \|\x1b\[0m {text}\r\n")[1] for name, text in
                 (("web", "out"), ("web", "err"), ("db", "out"))]  # fmt: skip
        assert found[0] == found[1] != found[2]
    assert o.stop() == 0
    terminal.expect("exiting with code 0")
    assert ("\x1b" in terminal.text) == (not value)


def test_colours_only_where_the_terminal_is(overlord: Start, terminal: Terminal) -> None:
    """A stderr that goes to a file gets none, though stdout is a terminal."""
    options = {"stdin": terminal.slave, "stdout": terminal.slave, "terminal": True}
    o = overlord(daemon("web", "echo out; echo err >&2; exec sleep infinity", **CAPTURED), **options)
    terminal.expect(r"\x1b\[\d+mweb \|\x1b\[0m out\r\n")
    o.wait_for(r"^web \| err$")
    assert o.stop() == 0


@pytest.mark.parametrize("sink", ("prefix", "/dev/stdout", "file"))
def test_stderr_as_stdout_keeps_the_order(overlord: Start, tmp_path: Path, sink: str) -> None:
    """`stderr = stdout` is one pipe; so is one path for both."""
    path = tmp_path / "log"
    streams = {"stdout": sink, "stderr": "stdout"} if sink != "file" else {"stdout": path, "stderr": path}
    cmd = "for i in $(seq 300); do echo out $i; echo err $i >&2; done"
    o = overlord(daemon("web", cmd, restart="never", **streams))
    assert o.wait_exit() == 0
    head = "web | " if sink == "prefix" else ""
    expected = [f"{head}{word} {i}" for i in range(1, 301) for word in ("out", "err")]
    assert (path.read_text().splitlines() if sink == "file" else o.out) == expected
    assert not others(o.log)


def test_last_words(overlord: Start) -> None:
    """What a daemon writes when it is stopped, a megabyte of it, stands before the word that it has stopped."""
    cmd = f"trap '{seq(10000)} >&2; exit 0' TERM; echo ready >> journal; while :; do sleep 0.01; done"
    o = overlord(daemon("web", cmd, **CAPTURED))
    o.journal.wait_for("ready")
    with Stopwatch() as watch:
        assert o.stop() == 0
    assert watch.seconds < program_under_test.STUCK, "nobody was stuck"
    assert others(o.log) == [f"web | {n:0{WIDTH - 1}d}" for n in range(1, 10001)]
    assert o.position(rf"^web \| 0*{10000}$") < o.position("web: stopped")


def test_a_daemon_that_closes_its_output_costs_nothing(fleet: Start) -> None:
    """mongodb does: the end of a pipe is not the end of the unit, and is not looked at again and again.

    Clients come and go meanwhile, whose descriptors have the numbers of pipes that are gone.
    """
    o = fleet(daemon("web", "echo out; echo err >&2; exec >&- 2>&-; touch closed; exec sleep 12345", **CAPTURED))
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


def test_all_of_a_large_pipe_stands_before_the_end(overlord: Start, tmp_path: Path, reader: Callable[..., Reader]) -> None:
    """A unit may make its pipe as large as it likes; it may be full when overlord comes to it, and the writer dead."""
    err = reader(size=program_under_test.PIPE_SIZE)
    os.mkfifo(tmp_path / "go")
    cmd = python(
        tmp_path,
        "much",
        f"fcntl.fcntl(2, {program_under_test.F_SETPIPE_SZ}, {program_under_test.PIPE_SIZE})\n"
        "open('journal', 'a').write('large\\n')\n"
        "open('go').read()\n"
        "os.write(2, 900 * (b'y' * 999 + b'\\n') + b'last\\n')",
    )
    o = overlord(daemon("web", cmd, restart="never", **CAPTURED), stderr=err.end)
    err.read()
    o.journal.wait_for("large")
    process = main_process(o, "web")
    o.send(signal.SIGSTOP)
    (tmp_path / "go").write_text("x\n")
    eventually(lambda: not process.alive, "it is dead")
    o.send(signal.SIGCONT)
    assert o.wait_exit() == 0
    err.finish()
    assert err.data.index(b"web | last\n") < err.data.index(b"overlord: web: done")


def test_what_a_unit_leaves_behind_is_still_heard(overlord: Start, tmp_path: Path) -> None:
    """A process that went away into a session of its own still writes under the name of its unit, once that has ended."""
    os.mkfifo(tmp_path / "go")
    away = f"setsid sh -c 'echo away >> journal; read x < {tmp_path}/go; echo late; printf later'"
    cmd = f"{away} & until grep away journal; do sleep 0.01; done"
    o = overlord(daemon("web", cmd, restart="never", kill_mode="process", **CAPTURED) + daemon("db"))
    o.says("web", "done")
    (tmp_path / "go").write_text("x\n")
    o.wait_for(r"^web \| late$", lines=o.out)
    assert o.stop() == 0
    assert o.out == ["web | away", "web | late", "web | later"]


def test_main_command_is_not_captured(overlord: Start) -> None:
    """It has the container's own streams, whatever `output` says for the units."""
    o = overlord(daemon("db"), "sh", "-c", "echo out; printf err >&2", settings={"output": "prefix"})
    assert o.wait_exit() == 0
    assert o.out == ["out"]
    assert any(line.startswith("err") for line in o.log)


# --- what the children get -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sinks", (("prefix", "prefix"), ("prefix", "stdout"), ("log", "log"), ("/dev/stdout", "null")), ids=str)
def test_three_descriptors(overlord: Start, tmp_path: Path, sinks: tuple[str, str]) -> None:
    """A captured unit has two pipes, to write to, and nothing of overlord's or of other units."""
    stdout, stderr = (tmp_path / sink if sink == "log" else sink for sink in sinks)
    o = overlord("".join(daemon(name, "sleep infinity", stdout=stdout, stderr=stderr) for name in ("a", "b", "c")))
    for name in ("a", "b", "c"):
        o.wait_ok(name)
    found = {}
    for name in ("a", "b", "c"):
        process = o.unit_is(name, "sleep")
        # the loader has its libraries open for a moment
        eventually(lambda: {entry.name for entry in (process.folder / "fd").iterdir()} == {"0", "1", "2"}, f"three, in {name}")
        found[name] = process.descriptors
    for descriptors in found.values():
        assert descriptors[0][0] == "/dev/null"
        assert descriptors[1][0].startswith("pipe:")
        assert (descriptors[2] == descriptors[1]) == (sinks[1] in ("stdout", "log"))
        assert int(descriptors[1][1], 8) & (os.O_NONBLOCK | os.O_ACCMODE) == os.O_WRONLY
    assert len({descriptors[1][0] for descriptors in found.values()}) == 3


def test_nonblocking_is_not_left_for_the_next(overlord: Start, tmp_path: Path) -> None:
    """A unit that sets O_NONBLOCK on its stdout, as node does, finds it clear the next time."""
    cmd = python(
        tmp_path,
        "leaky",
        "flags = [fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK for fd in (1, 2)]\n"
        "open('journal', 'a').write('%d %d\\n' % tuple(flags))\n"
        "[os.set_blocking(fd, False) for fd in (1, 2)]\n"
        "signal.pause()",
    )
    o = overlord(daemon("web", cmd, backoff="0", **CAPTURED))
    for times in (1, 2, 3):
        o.journal.wait_for("0 0", times)
        process = o.unit("web")
        eventually(lambda: int(process.descriptors[1][1], 8) & os.O_NONBLOCK, "the unit has set O_NONBLOCK")
        o.kill_unit("web")
        o.wait_count("web: .*restarting", times)
    assert o.stop() == 0
    assert set(o.journal.lines()) == {"0 0"}


@pytest.mark.parametrize("sink", ("prefix", "file"))
def test_another_user_can_open_its_streams_again(overlord: Start, public: Path, sink: str) -> None:
    """nginx' way: logs that are links to /dev/stdout and /dev/stderr, opened after privileges were dropped."""
    target = public / "log" if sink == "file" else sink
    cmd = "echo out > /dev/stdout; echo more >> /dev/stdout; echo err > /dev/stderr; id -u; rm -f link; "
    cmd += "ln -s /dev/stdout link && echo linked > link"
    o = overlord(
        daemon("web", cmd, uid="nobody", restart="never", stdout=target, stderr=target, respawns=0),
        folder=public,
    )
    assert o.wait_exit() == 0
    lines = [f"web | {line}" for line in ("out", "more", "65534", "linked")]
    if sink == "file":
        assert sorted((public / "log").read_text().split()) == ["65534", "err", "linked", "more", "out"]
    else:
        assert (o.out, others(o.log)) == (lines, ["web | err"])


def test_a_pipe_belongs_to_its_unit(overlord: Start, public: Path) -> None:
    """Each of two users can open the streams of its own unit, and nobody those of another."""
    users = {"a": "nobody", "b": "games", "c": "root"}
    cmd = 'echo "$OVERLORD_NAME" > /dev/stdout; exec sleep infinity'
    o = overlord("".join(daemon(name, cmd, uid=uid, stdout="prefix") for name, uid in users.items()), folder=public)
    for name, uid in users.items():
        o.wait_for(rf"^{name} \| {name}$", lines=o.out)
        found = (o.unit_is(name, "sleep").folder / "fd" / "1").stat()
        assert (found.st_uid, found.st_mode & 0o077) == (pwd.getpwnam(uid).pw_uid, 0)


# --- much ------------------------------------------------------------------------------------------------------------


def test_numbers_through_a_rotating_file(overlord: Start, tmp_path: Path) -> None:
    """Each line once and in order across the files; none of them too large, no line in two of them."""
    path, count, most = tmp_path / "log" / "web.log", BIG // WIDTH, max(BIG // 100, 1 << 20)
    o = overlord(daemon("web", seq(count), restart="never", stdout=path, log_max=most, log_keep=200))
    assert o.wait_exit(PATIENCE + BIG / 1e7) == 0
    files = rotated(path)
    assert check_numbers(files, most) == count
    assert len(files) >= BIG / most
    assert all(each.stat().st_size > most - program_under_test.LINE_MAX for each in files[:-1])


def test_numbers_through_prefix(overlord: Start, reader: Callable[..., Reader]) -> None:
    """Each line once and in order."""
    count, out, numbers = BIG // WIDTH, reader(), Numbers(b"web | ")
    o = overlord(daemon("web", seq(count), restart="never", stdout="prefix"), stdout=out.end)
    out.read(numbers.feed)
    assert o.wait_exit(PATIENCE + BIG / 1e7) == 0
    out.finish()
    assert (numbers.last, numbers.rest) == (count, b"")


def test_no_empty_line_is_lost(overlord: Start, reader: Callable[..., Reader]) -> None:
    """What is read at once may be many times as long with its prefixes: while somebody reads, all of it comes out."""
    out, name, count = reader(), "unit" * 25, 1 << 20
    o = overlord(daemon(name, f"head -c {count} /dev/zero | tr '\\0' '\\n'", restart="never", stdout="prefix"), stdout=out.end)
    found = 0

    def count_lines(data: bytes) -> None:
        nonlocal found
        found += data.count(b"\n")

    out.read(count_lines)
    assert o.wait_exit(PATIENCE + count / 1e5) == 0
    out.finish()
    assert found == count


def test_a_flood_keeps_no_other_from_a_slow_reader(overlord: Start, reader: Callable[..., Reader]) -> None:
    """Who waits for the reader has his turn in the order in which they came, so that quiet units are heard as well."""
    slow, quiet = reader(), ("one", "two", "three")
    floods = [daemon(f"flood{number}", f"exec yes {'a' * 60}", stdout="prefix") for number in range(3)]
    talk = [daemon(name, f"while echo from {name}; do sleep 0.05; done", stdout="prefix") for name in quiet]
    o = overlord("".join(talk + floods), stdout=slow.end)
    seen = bytearray()

    def read_slowly(data: bytes) -> None:
        seen.extend(b"".join(re.findall(rb"from \w+\n", data)))
        time.sleep(0.02)

    slow.read(read_slowly)
    for name in quiet:
        eventually(lambda: seen.count(b"from %s\n" % name.encode()) > 20, f"{name} is heard")
    assert o.stop() == 0


@pytest.mark.parametrize("busy", (True, False))
def test_only_a_pipe_that_was_full_is_widened(overlord: Start, tmp_path: Path, busy: bool) -> None:
    """So the pipes of many quiet units stay below what a user may have: pipe-user-pages-soft."""
    size = f"fcntl.fcntl(1, {program_under_test.F_GETPIPE_SZ})"
    text = (
        f"line, before, left = b'x' * {WIDTH - 1} + b'\\n', {size}, 500\n"
        f"while {size} == before and ({busy} or left):\n"
        f"    os.write(1, line); time.sleep(0.001); left -= 1\n"
        f"    {busy} and os.write(1, line * 1000)\n"
        f"os.write(2, b'%d, %d\\n' % (before, {size}))"
    )
    writer = python(tmp_path, "writer", text)
    o = overlord(daemon("writer", writer, restart="never", stdout=tmp_path / "log", stderr="prefix"))
    assert o.wait_exit() == 0
    wide = program_under_test.WIDE_PIPE if busy else 65536
    assert f"writer | 65536, {wide}" in o.log


@pytest.mark.parametrize("keep", (0, 1, 3))
def test_log_keep(overlord: Start, tmp_path: Path, keep: int) -> None:
    """So many rotated ones are kept, the newest."""
    path, count = tmp_path / "web.log", 20000
    o = overlord(daemon("web", seq(count), restart="never", stdout=path, log_max="64K", log_keep=keep))
    assert o.wait_exit() == 0
    files = rotated(path)
    assert len(files) == keep + 1
    lines = b"".join(each.read_bytes() for each in files).split()
    assert list(map(int, lines)) == list(range(count + 1 - len(lines), count + 1))
    assert all(each.stat().st_size <= 65536 for each in files)


def test_log_max_of_none(overlord: Start, tmp_path: Path) -> None:
    """`log_max = 0` never rotates, not where the default would, either."""
    path, count = tmp_path / "web.log", 130000
    o = overlord(daemon("web", seq(count), restart="never", stdout=path, log_max=0))
    assert o.wait_exit() == 0
    assert rotated(path) == [path]
    assert check_numbers([path], 13 << 20) == count


def test_line_longer_than_log_max(overlord: Start, tmp_path: Path) -> None:
    """It is in one file, unless it is longer than 64K too: then it goes on in the next file. Nothing is lost."""
    path = tmp_path / "web.log"
    cmd = "for i in 1 2 3; do echo short $i; seq -s , 5000; echo short $i; seq -s , 40000; done"
    o = overlord(daemon("web", cmd, restart="never", stdout=path, log_max="1K", log_keep=50))
    assert o.wait_exit() == 0
    texts = [each.read_text() for each in rotated(path)]
    medium, long = (",".join(map(str, range(1, last + 1))) for last in (5000, 40000))
    assert "".join(texts) == "".join(f"short {i}\n{medium}\nshort {i}\n{long}\n" for i in (1, 2, 3))
    assert sum(f"{medium}\n" in text for text in texts) == 3
    assert all(len(text) <= program_under_test.LINE_MAX for text in texts)


def test_log_max_below_what_is_written_at_once(overlord: Start, tmp_path: Path) -> None:
    """A volume of `log_max` times the number of files is enough."""
    path = tmp_path / "web.log"
    o = overlord(daemon("web", "seq 20000", restart="never", stdout=path, log_max="8K", log_keep=50))
    assert o.wait_exit() == 0
    texts = [each.read_text() for each in rotated(path)]
    assert "".join(texts) == "".join(f"{number}\n" for number in range(1, 20001))
    assert all(len(text) <= 8192 and text.endswith("\n") for text in texts)


def test_rotated_file_that_is_in_the_way(overlord: Start, tmp_path: Path) -> None:
    """Where it cannot be rotated, one message says so, and it goes on growing: nothing is lost."""
    path, count = tmp_path / "web.log", 5000
    (tmp_path / "web.log.1" / "full").mkdir(parents=True)
    o = overlord(daemon("web", seq(count), restart="never", stdout=path, log_max="64K", log_keep=1))
    assert o.wait_exit() == 0
    assert check_numbers([path], 1 << 20) == count
    assert o.count("web: cannot rotate .*web.log") == 1


@pytest.mark.parametrize("sink", ("prefix", "file"))
def test_kill_loses_nothing_that_was_written(overlord: Start, tmp_path: Path, sink: str, reader: Callable[..., Reader]) -> None:
    """All lines of which write(2) had said that they are written are there, in order, when SIGKILL has struck."""
    cmd = python(
        tmp_path,
        "writer",
        "run = len(os.listdir('runs'))\n"
        "told = os.open('runs/%d' % run, os.O_CREAT | os.O_WRONLY)\n"
        "number = 0\n"
        "while True:\n"
        "    number += 1\n"
        "    os.write(1, b'%d %d\\n' % (run, number))\n"
        "    os.pwrite(told, b'%d' % number, 0)",
    )
    (tmp_path / "runs").mkdir()
    path, out = tmp_path / "log", reader().read()
    o = overlord(daemon("web", cmd, backoff="0", stdout=path if sink == "file" else sink, log_max=0), stdout=out.end)
    for run in range(5):
        told = tmp_path / "runs" / str(run)
        eventually(lambda: told.exists() and int(told.read_text() or "0") > 300 * (run + 1), f"run {run} has written")
        o.kill_unit("web")
        o.wait_count("web: .*restarting", run + 1)
    assert o.stop() == 0
    out.finish()
    lines = path.read_bytes().split(b"\n")[:-1] if sink == "file" else [line[len("web | ") :] for line in out.lines()]
    runs = []
    for run, group in itertools.groupby((tuple(map(int, line.split())) for line in lines), lambda pair: pair[0]):
        runs.append(run)
        numbers = [number for _, number in group]
        assert numbers == list(range(1, len(numbers) + 1))
        assert len(numbers) >= int((tmp_path / "runs" / str(run)).read_text() or "0")
    assert runs == list(range(len(runs)))
    assert len(runs) >= 5


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


def test_restarted_daemon_goes_on_in_the_same_file(overlord: Start, tmp_path: Path) -> None:
    """And so does the next overlord: what was there counts for the rotation."""
    path = tmp_path / "web.log"
    cmd = f"n=$(cat {path} {path}.1 2>/dev/null | wc -l); {seq(1, 1).replace(' 1 1', ' $((n+1)) $((n+100))')}; exit 1"
    config = daemon("web", cmd, restart="on-failure", respawns=2, backoff="0", stdout=path, log_max="40K")
    for _ in range(2):
        assert overlord(config).wait_exit() == 1
    files = rotated(path)
    assert check_numbers(files, 40960) == 600
    assert len(files) == 2


# --- a reader that is stuck ------------------------------------------------------------------------------------------


def besides(stream: str, path: Path) -> str:
    """Return units that have nothing to do with a stuck stream: each notes its starts in the journal."""
    other, redirection = ("stderr", ">&2") if stream == "stdout" else ("stdout", "")
    note = "echo $OVERLORD_NAME >> journal; exec sleep infinity"
    return (
        daemon("quiet", note, stdout="null", stderr="null", backoff="0")
        + daemon("shares", note, backoff="0", stdout="inherit", stderr="inherit")
        + daemon("file", f"echo $OVERLORD_NAME; {note}", stdout=path, stderr="null", backoff="0")
        + daemon("side", f"echo side {redirection}; {note}", backoff="0", **{stream: "null", other: "prefix"})
    )


BESIDES = ("quiet", "shares", "file", "side")


@pytest.mark.parametrize("ending", ("reads again", "stop"))
@pytest.mark.parametrize("stream", ("stdout", "stderr"))
def test_stuck_reader(
    overlord: Start, tmp_path: Path, reader: Callable[..., Reader], stream: str, ending: str
) -> None:
    """It slows down who writes to it, and nobody else: others are restarted, and a stop is quick; nothing is lost."""
    stuck, path, count = reader(), tmp_path / "log", 100000
    redirection = ">&2" if stream == "stderr" else ""
    wait = "echo polite >> journal; while :; do sleep 0.01; done"
    o = overlord(
        daemon("flood", f"{seq(count)} {redirection}; echo all >> journal; exec sleep infinity", **CAPTURED)
        + daemon("stubborn", f"trap '' TERM; while :; do echo stubborn {redirection}; done", **CAPTURED, stop_timeout="1s")
        + daemon("polite", f"trap '{seq(3000)} {redirection}; echo gone >> journal; exit' TERM; {wait}", **CAPTURED)
        + besides(stream, path),
        **{stream: stuck.end},
    )
    for name in ("flood", "stubborn"):
        wait_blocked(o, name)
    for name in (*BESIDES, "polite"):
        o.journal.wait_for(name)
    for times in (2, 3):
        for name in BESIDES:
            eventually(lambda: main_process(o, name).cmdline[:1] == ["sleep"], f"{name} sleeps")
            o.kill(main_process(o, name).pid)
            o.journal.wait_for(name, times)
    eventually(lambda: path.read_text() == 3 * "file\n", "the lines in the file")
    lines = o.log if stream == "stdout" else o.out
    eventually(lambda: lines.count("side | side") == 3, f"the lines of the other stream\n{o}")
    assert "all" not in o.journal.lines()
    if ending == "reads again":
        stuck.read()
        o.journal.wait_for("all")
    with Stopwatch() as watch:
        assert o.stop() == 0
    assert watch.seconds < 6, "shutdown_timeout is 9 s, and stop_timeout 8 s"
    assert "gone" in o.journal.lines(), "one that has something to say at the end can say it, and go"
    stuck.finish()
    numbers = [line for line in stuck.lines() if line.startswith(b"flood | ")]
    if ending == "reads again":
        assert numbers == [b"flood | %0*d" % (WIDTH - 1, n) for n in range(1, count + 1)]
    else:
        assert numbers == [b"flood | %0*d" % (WIDTH - 1, n) for n in range(1, len(numbers) + 1)]
    assert {line[:5] for line in stuck.lines()} <= {b"flood", b"stubb", b"polit", b"overl"}


def test_stuck_reader_of_a_killed_writer(overlord: Start, tmp_path: Path, reader: Callable[..., Reader]) -> None:
    """What a writer had written when it was killed is there, its half line too, when the reader reads again."""
    stuck = reader()
    numbered = "n=$(cat n 2>/dev/null || echo 0); echo $((n+1)) > n; echo run $n"
    cmd = f"{numbered}; test $n = 0 && exec {seq(20000)}; exec sleep infinity"
    o = overlord(daemon("web", cmd, backoff="0", stdout="prefix"), stdout=stuck.end)
    wait_blocked(o, "web")
    o.kill_unit("web")
    o.wait_count("web: ok", 2)
    stuck.read()
    stuck.wait_for(b"web | run 1")
    assert o.stop() == 0
    lines = stuck.finish().lines()
    whole = [b"web | run 0", *(b"web | %0*d" % (WIDTH - 1, n) for n in range(1, len(lines) - 2))]
    assert lines[: len(lines) - 2] == whole
    assert (b"web | %0*d" % (WIDTH - 1, len(lines) - 2)).startswith(lines[-2])
    assert lines[-1] == b"web | run 1"


def test_own_messages_behind_what_units_have_left(overlord: Start, reader: Callable[..., Reader]) -> None:
    """Units that end while the reader is slow leave more than a megabyte: what overlord says of them stands behind it."""
    slow, names = reader(), [f"unit{number}" for number in range(5)]
    cmd = "head -c 60000 /dev/zero | tr '\\0' '\\n'; echo end >> journal"
    units = (daemon(name, cmd, restart="never", stdout="prefix", warmup="0") for name in names)
    o = overlord("".join(units), stdout=slow.end, stderr=slow.end, settings={"when_idle": "stay"})
    o.journal.wait_for("end", len(names))
    eventually(lambda: len(o.processes()) == 1, "all have ended")
    slow.read()
    for name in names:
        eventually(lambda: f"overlord: {name}: done: ".encode() in slow.data, f"the end of {name}")
    assert o.stop() == 0
    assert b"given up" not in slow.finish().data


@pytest.mark.parametrize("form", ("text", "json"))
def test_own_messages_that_nobody_reads(overlord: Start, reader: Callable[..., Reader], form: str) -> None:
    """Of overlord's own so much is kept, the rest is counted, and the count is said; it supervises on meanwhile."""
    stuck = reader(size=4096)
    settings = {"log_format": form}
    o = overlord(daemon("web", "echo web >> journal", backoff="0") + daemon("db"), stderr=stuck.end, settings=settings)
    o.journal.wait_for("web", 800)
    stuck.read()
    eventually(lambda: b"messages were lost" in stuck.data, "the count")
    size = stuck.data.index(b"messages were lost")
    seen = stuck.lines()
    assert o.stop() == 0
    assert program_under_test.LOG_KEPT / 2 < size < program_under_test.LOG_KEPT + 4096 + 1000
    lines = [line.decode() for line in stuck.finish().lines()]
    assert len(lines) > len(seen)
    if form == "json":
        lines = [f"overlord: {json.loads(line)['message']}" for line in lines]
    lost = [int(match[1]) for line in lines for match in [re.search(r"overlord: (\d+) messages were lost", line)] if match]
    assert lost
    assert lost[0] > 50
    assert all(line.startswith("overlord: ") for line in lines)
    assert "exiting with code 0" in lines[-1]


@pytest.mark.parametrize("what", ("lines", "empty lines", "no line"))
def test_memory_stays_bounded(overlord: Start, reader: Callable[..., Reader], what: str) -> None:
    """While writers flood a reader who is stuck, and while he reads again slowly, overlord does not grow."""
    stuck = reader()
    cmd = {"lines": "exec yes 'a line of some length'", "empty lines": "exec yes ''", "no line": "exec cat /dev/zero"}[what]
    name = "a-unit-with-a-long-name-which-is-put-before-each-of-its-lines"
    units = [daemon(f"{name}-{number}", cmd, **CAPTURED) for number in range(4)]
    o = overlord(daemon("db") + "".join(units), stdout=stuck.end)
    o.wait_ok("db")
    start = memory(o, "VmRSS")
    for number in range(4):
        wait_blocked(o, f"{name}-{number}")
    o.kill_unit("db")
    o.wait_ok("db", 2)
    passed = 0
    while passed < 20_000_000:
        passed += len(os.read(stuck.fd, 1 << 20))
    assert memory(o, "VmHWM") - start < LIMIT_OF_GROWTH
    assert o.stop() == 0


@pytest.mark.parametrize("where", ("pipe", "terminal", "file"))
def test_flags_of_the_container_are_unchanged(
    overlord: Start, tmp_path: Path, reader: Callable[..., Reader], terminal: Terminal, where: str
) -> None:
    """O_NONBLOCK on the shared open files of 0, 1 and 2 would hit whoever else has them, a `bash` after the container."""
    stdin = os.open("/dev/null", os.O_RDWR)
    if where == "pipe":
        ends = [stdin, reader().read().end, reader().read().end]
    elif where == "terminal":
        ends = 3 * [terminal.slave]
    else:
        ends = [stdin, *(os.open(tmp_path / name, os.O_WRONLY | os.O_CREAT) for name in "ab")]
    flags = [fcntl.fcntl(fd, fcntl.F_GETFL) for fd in ends]
    seen = []
    cmd = f"{seq(3000)}; {seq(3000)} >&2; echo there >> journal; exec sleep infinity"
    o = overlord(
        daemon("web", cmd, **CAPTURED) + daemon("db", "echo db >> journal; exec sleep infinity"),
        stdin=ends[0],
        stdout=ends[1],
        stderr=ends[2],
        terminal=where == "terminal",
    )
    for line in ("there", "db"):
        o.journal.wait_for(line)
    seen.append([fcntl.fcntl(fd, fcntl.F_GETFL) for fd in ends])
    assert int(main_process(o, "db").descriptors[1][1], 8) & os.O_NONBLOCK == 0
    assert o.stop() == 0
    seen.append([fcntl.fcntl(fd, fcntl.F_GETFL) for fd in ends])
    for fd in {stdin, *(ends[1:] if where == "file" else ())}:
        os.close(fd)
    assert seen == [flags, flags]
    if where == "file":
        found = [re.findall(rb"(?m)^web \| 0*(\d+)$", (tmp_path / name).read_bytes()) for name in "ab"]
        assert [list(map(int, numbers)) for numbers in found] == 2 * [list(range(1, 3001))]


# --- a log file in trouble -------------------------------------------------------------------------------------------


def mounted(folder: Path, options: str) -> list[str]:
    """Return the command that mounts a file system of its own on a folder, in the namespace, before overlord."""
    folder.mkdir()
    return before(f"mount -t tmpfs -o {options} none {folder}")


def inside(o: Overlord, path: Path) -> Path:
    """Return the path by which a file of the namespace is seen from outside, once overlord is there."""
    return Path(f"/proc/{o.init}/root{path}")


def enter(o: Overlord, *argv: str) -> None:
    """Run a command in the namespace's view of the file system."""
    own = ["-U", "--preserve-credentials"] if os.geteuid() else []
    subprocess.run(["nsenter", "-t", str(o.init), "-m", *own, "--", *argv], check=True, timeout=PATIENCE)


def fill(o: Overlord, folder: Path) -> Path:
    """Write a small file system full, and return the file whose removal makes room."""
    filler = inside(o, folder / "filler")
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for _ in range(1000):
            file.write(bytes(4096))
        pytest.fail("the file system is not a small one")
    return filler


def test_full_folder(overlord: Start, tmp_path: Path) -> None:
    """One message for each time; the daemon goes on; what was kept is written when there is room again."""
    folder, web = tmp_path / "full", Puppet(tmp_path, "web")
    o = overlord(web.config(stdout=folder / "log", stderr="null"), prefix=mounted(folder, "size=64k"))
    o.wait_ok("web")
    log = inside(o, folder / "log")
    expected = ""
    for fault in (1, 2):
        filler = fill(o, folder)
        text = "".join(f"{fault} {number:0{WIDTH}d}\n" for number in range(50))  # the file's last page has some room
        web.write(text)
        o.wait_count(rf"web: cannot write {folder}/log: No space left on device", fault)
        filler.unlink()
        o.wait_count("web: .*log can be written again, nothing was lost", fault)
        web.write("after\n")
        expected += text + "after\n"
        eventually(lambda: log.read_text() == expected, "all lines")
    assert (o.starts("web"), o.count("cannot write"), o.count("can be written again")) == (1, 2, 2)
    assert o.stop() == 0


def test_full_folder_loses_only_what_it_counts(overlord: Start, tmp_path: Path) -> None:
    """What is in the file and what is said to be lost is all that was written."""
    folder, web, count = tmp_path / "full", Puppet(tmp_path, "web"), 6000
    o = overlord(web.config(stdout=folder / "log", stderr="null", log_max=0), prefix=mounted(folder, "size=64k"))
    for number in range(1, count + 1):
        web.write(f"{number:0{WIDTH - 1}d}\n")
    o.says("web", "cannot write .*No space left")
    process = o.unit_is("web", "cat")
    eventually(lambda: not web.waiting and "read" in (process.folder / "wchan").read_text(), "cat has written all")
    enter(o, "mount", "-o", "remount,size=16m", str(folder))
    lost = int(o.says("web", r".*can be written again, (\d+) lines were lost")[1])
    found = list(map(int, inside(o, folder / "log").read_text().split()))
    assert found == sorted(set(found))
    assert len(found) + lost == count
    assert 0 < lost < count - program_under_test.FILE_KEPT / WIDTH
    assert o.stop() == 0


def test_full_folder_that_is_freed_just_before_the_end(overlord: Start, tmp_path: Path) -> None:
    """What was kept is written at the end if it can be: the next try would come too late."""
    folder, web = tmp_path / "full", Puppet(tmp_path, "web")
    o = overlord(web.config(stdout=folder / "log", stderr="null"), prefix=mounted(folder, "size=64k"))
    o.wait_ok("web")
    filler = fill(o, folder)
    web.write("kept\n")
    o.says("web", "cannot write .*No space left")
    kept = os.open(inside(o, folder), os.O_PATH)  # the mount lives as long as this
    filler.unlink()
    try:
        assert o.stop() == 0
        with open(os.open("log", os.O_RDONLY, dir_fd=kept)) as log:
            assert log.read() == "kept\n"
    finally:
        os.close(kept)


def test_read_only_folder(overlord: Start, tmp_path: Path) -> None:
    """One message, the daemon goes on, and its lines come when the folder can be written."""
    folder, web = tmp_path / "readonly", Puppet(tmp_path, "web")
    o = overlord(web.config(stdout=folder / "sub" / "log", stderr="null"), prefix=mounted(folder, "ro"))
    for number in range(20):
        web.write(f"{number}\n")
    o.says("web", f"cannot write {folder}/sub/log: Read-only file system")
    o.wait_ok("web")
    enter(o, "mount", "-o", "remount,rw", str(folder))
    o.says("web", ".*can be written again, nothing was lost")
    log = inside(o, folder / "sub" / "log")
    eventually(lambda: log.read_text() == "".join(f"{number}\n" for number in range(20)), "all lines")
    assert (o.count("cannot write"), o.starts("web")) == (1, 1)
    assert o.stop() == 0


def test_units_of_a_file_are_named_in_order(overlord: Start, tmp_path: Path) -> None:
    """Those who write to a file that cannot be written are named as they came, and not in another order each time."""
    names = ["echo", "delta", "bravo", "alpha", "charlie", "foxtrot"]
    config = "".join(
        daemon(name, "until test -e go; do sleep 0.05; done; echo x; sleep 1000", stdout=tmp_path / "no" / "log", stderr="null")
        + (f"deps = {before}\n" if before else "")
        for name, before in zip(names, ["", *names])
    )
    (tmp_path / "no").write_text("a file in the place of the folder")
    o = overlord(config)
    o.wait_ok("foxtrot")
    (tmp_path / "go").touch()
    o.wait_for(f"overlord: {', '.join(names)}: cannot write ")
    assert o.stop() == 0


def test_missing_folders_are_made(overlord: Start, tmp_path: Path) -> None:
    """All of them, and no word is lost about it."""
    path = tmp_path / "a" / "b" / "c" / "web.log"
    o = overlord(daemon("web", "echo here", restart="never", stdout=path))
    assert o.wait_exit() == 0
    assert path.read_text() == "here\n"
    assert not o.count("web.log")


def test_folder_removed_under_way(overlord: Start, tmp_path: Path) -> None:
    """It is made again; where a file stands in its place one message says so, and what comes meanwhile is kept."""
    path, web = tmp_path / "logs" / "web.log", Puppet(tmp_path, "web")
    o = overlord(web.config(stdout=path, stderr="null"))
    web.write("one\n")
    eventually(lambda: path.exists() and path.read_text() == "one\n", "the first line")
    path.unlink()
    path.parent.rmdir()
    web.write("two\n")
    eventually(lambda: path.exists() and path.read_text() == "two\n", "the folder again")
    path.unlink()
    path.parent.rmdir()
    path.parent.write_text("")
    web.write("three\n")
    o.says("web", f"cannot write {path}: (Not a directory|File exists)")
    web.write("four\n")
    path.parent.unlink()
    o.says("web", ".*can be written again, nothing was lost")
    web.write("five\n")
    eventually(lambda: path.read_text() == "three\nfour\nfive\n", "all three lines")
    assert o.count("cannot write") == o.starts("web") == 1
    assert o.stop() == 0


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


def test_moved_away_by_somebody_else(overlord: Start, tmp_path: Path) -> None:
    """logrotate's way: a file that was renamed is not written any more, and not a line is lost or twice there."""
    path, count = tmp_path / "web.log", 200000
    o = overlord(daemon("web", seq(count), restart="never", stdout=path, log_max=0))
    moved = []
    while o.popen.poll() is None:
        target = tmp_path / f"moved-{len(moved)}"
        with contextlib.suppress(FileNotFoundError):
            path.rename(target)
            moved.append(target)
        time.sleep(0.005)
    assert o.wait_exit() == 0
    assert check_numbers([*moved, *([path] if path.exists() else [])], BIG) == count
    assert len(moved) > 1


def test_replaced_by_somebody_else(overlord: Start, tmp_path: Path) -> None:
    """logrotate's `create`: the new file is written, not the old one that was moved away."""
    path, web = tmp_path / "web.log", Puppet(tmp_path, "web")
    o = overlord(web.config(stdout=path, stderr="null"))
    for word in ("one", "two", "three"):
        web.write(f"{word}\n")
        eventually(lambda: path.exists() and path.read_text() == f"{word}\n", word)
        path.rename(tmp_path / word)
        path.write_text("")
    assert o.stop() == 0
    assert [(tmp_path / word).read_text() for word in ("one", "two", "three")] == ["one\n", "two\n", "three\n"]


def test_a_fault_is_said_once(tmp_path: Path) -> None:
    """However often it is tried again; another fault is another message."""
    said: list[tuple[str, ...]] = []
    folder = tmp_path / "folder"
    folder.write_text("")
    file = LogFile(Watch(), str(folder / "log"), 0, 5, lambda *words: said.append(words))
    file.units["web"] = None
    source: Any = SimpleNamespace(prefix=b"")
    file.put(source, b"one\n")
    for _ in range(3):
        file.flush()
    assert [(level, unit) for level, unit, _ in said] == [("error", "web")]
    folder.unlink()
    folder.symlink_to(folder)
    for _ in range(3):
        file.flush()
    assert [re.findall("Not a directory|File exists|symbolic links", text) != [] for _, _, text in said] == [True, True]
    folder.unlink()
    file.flush()
    assert [level for level, _, _ in said] == ["error", "error", "warning"]
    assert (folder / "log").read_text() == "one\n"
    file.release()


def test_truncated_by_somebody_else(overlord: Start, tmp_path: Path) -> None:
    """logrotate's `copytruncate`: what is gone counts no more towards `log_max`."""
    path, web = tmp_path / "web.log", Puppet(tmp_path, "web")
    o = overlord(web.config(stdout=path, stderr="null", log_max="10K"))
    for times in (1, 2, 3):
        web.write("x" * 3999 + "\n")
        web.write("y" * 3999 + "\n")
        eventually(lambda: path.exists() and path.stat().st_size == 8000, f"8000 bytes, for the {times}. time")
        os.truncate(path, 0)
    assert rotated(path) == [path]
    assert o.stop() == 0


# --- one path for several --------------------------------------------------------------------------------------------


def test_one_path_by_several_names(overlord: Start, tmp_path: Path) -> None:
    """Whoever names it and however it is spelt, a path has one writer: whole lines, and one rotation."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    path = tmp_path / "real" / "all.log"
    spellings = [path, f"{tmp_path}/real/../real//all.log", tmp_path / "link" / "all.log", f"{tmp_path}/./link/all.log"]
    cmd = 'for i in $(seq 1 20); do seq -f "$OVERLORD_NAME %094.0f" $((i*100-99)) $((i*100)); done'
    units = [
        daemon(f"w{n}", cmd, restart="never", stdout=spelling, log_max="64K", log_keep=50) for n, spelling in enumerate(spellings)
    ]
    o = overlord("".join(units))
    assert o.wait_exit() == 0
    files = rotated(path)
    sizes = [each.stat().st_size for each in files]
    assert all(size <= 65536 for size in sizes)
    assert all(size + following > 65536 for size, following in zip(sizes, sizes[1:])), "none is rotated too early"
    lines = b"".join(each.read_bytes() for each in files).decode().split("\n")[:-1]
    for number in range(len(spellings)):
        assert [line for line in lines if line.startswith(f"w{number} ")] == [f"w{number} {n:094d}" for n in range(1, 2001)]
    assert len(lines) == 2000 * len(spellings)


def test_one_path_for_all(overlord: Start, tmp_path: Path) -> None:
    """`output = /PATH` in [overlord]."""
    path = tmp_path / "all.log"
    o = overlord(
        script("setup", "echo setup; echo more >&2") + daemon("web", "echo web", restart="never", deps="setup"),
        settings={"output": path},
    )
    assert o.wait_exit() == 0
    assert path.read_text() == "setup\nmore\nweb\n"
    assert (o.out, others(o.log)) == ([], [])


def test_fifo(overlord: Start, tmp_path: Path) -> None:
    """Nobody reads it at first, which slows the writer down and nobody else; then the reader gets all, and may come again."""
    fifo, count = tmp_path / "fifo", 30000  # more than all pipes on the way hold
    os.mkfifo(fifo)
    o = overlord(
        daemon("web", f"{seq(count)}; echo all >> journal; exec sleep infinity", stdout=fifo) + daemon("db", stdout="prefix")
    )
    wait_blocked(o, "web")
    o.kill_unit("db")
    o.wait_ok("db", 2)
    numbers = Numbers()
    for share in (count // 2, count):
        with fifo.open("rb", buffering=0) as reading:
            while numbers.last < share:
                numbers.feed(reading.read(4096))
    o.journal.wait_for("all")
    assert numbers.last == count
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    assert o.stop() == 0


def test_devices(overlord: Start) -> None:
    """What is no regular file is written as it is, without a prefix, and never rotated."""
    o = overlord(
        daemon("a", "seq 1 2000", restart="never", stdout="/dev/null", log_max=100)
        + daemon("b", "seq 1 2000", restart="never", stdout="/dev/stdout", log_max=100)
        + daemon("c", "seq 1 2000", restart="never", stdout="/dev/stderr", log_max=100)
        + daemon("d", "seq 1 2000", restart="never", stdout="/dev/full", log_max=100)
    )
    assert o.wait_exit() == 0
    assert o.out == others(o.log) == [str(n) for n in range(1, 2001)]
    assert not Path("/dev/null.1").exists()


# --- the last message about a unit -----------------------------------------------------------------------------------


def block(o: Overlord, name: str) -> list[str]:
    """Return the message about the final failure of a unit, less what stands before each of its lines."""
    head = f"overlord: {name}: "
    start = o.position(f"^{re.escape(head)}failed: ")
    lines = itertools.takewhile(lambda line: line.startswith(f"{head}  "), o.log[start + 1 :])
    return [o.log[start][len(head) :], *(line[len(head) + 2 :] for line in lines)]


def test_post_mortem(overlord: Start, python: list[str]) -> None:
    """What it was, how it ended in words, how long it lived, how often it was restarted, what it said last."""
    o = overlord(
        daemon("web", "echo one; echo two >&2; exit 137", backoff="0", respawns=2, uid=str(os.geteuid()), **CAPTURED)
        + daemon("db"),
        python=python,
    )
    assert o.wait_exit() == 137
    first, *rest = block(o, "web")
    ended = r"pid \d+ exited with code 137 \(128 \+ SIGKILL\) after \S+ m?s"
    assert re.fullmatch(rf"failed: {ended}.* \(respawns = 2, used up\)", first)
    details = dict(line.split(": ", 1) for line in rest if ": " in line)
    assert details["command"] == "echo one; echo two >&2; exit 137"
    assert details["user"] == str(os.geteuid())
    assert details["restarted"] == "2 times"
    assert re.fullmatch(r"\S+ m?s", details["lived"])
    assert rest[rest.index("last output:") + 1 :][-2:] in (["| one", "| two"], ["| two", "| one"])
    assert o.count("last output") == 1


def test_post_mortem_in_json(overlord: Start, python: list[str]) -> None:
    """The same as fields of one object."""
    cmd = "echo '\"one\"'; printf 'caf\\351 \\033[31m\\n'; printf last; exit 3"
    o = overlord(daemon("web", cmd, respawns=0, stdout="prefix"), settings={"log_format": "json"}, python=python)
    assert o.wait_exit() == 3
    (record,) = [each for each in map(json.loads, o.log) if each["message"].startswith("failed: ")]
    assert (record["command"], record["user"], record["restarted"]) == (cmd, f"{os.geteuid()} (overlord's own)", "0 times")
    assert record["last output"][0] == '"one"'
    assert record["last output"][1].startswith("caf")
    assert record["last output"][2] == "last"
    assert record["lived"]


@pytest.mark.parametrize("form", ("text", "json"))
def test_post_mortem_of_the_main_command(overlord: Start, form: str) -> None:
    """One that is not found is said as it was typed."""
    o = overlord(daemon("db"), "nosuchcommand", "an argument", settings={"log_format": form})
    assert o.wait_exit() == 127
    assert not o.count("internal error")
    assert o.count("main command.*cannot start: nosuchcommand: not found")
    assert not o.count(r"\('nosuchcommand'")
    assert not o.count("main:main")


@pytest.mark.parametrize("form", ("text", "json"))
def test_post_mortem_shows_the_lines_of_the_command(overlord: Start, form: str) -> None:
    """Each line of a `cmd` is a command of its own, and looks like one."""
    o = overlord("[daemon:web]\ncmd =\n  echo one\n    --two\n  exit 3\nrespawns = 0\n", settings={"log_format": form})
    assert o.wait_exit() == 3
    if form == "json":
        told = next(json.loads(line) for line in o.log if "failed: pid" in line)
        assert told["command"] == "echo one\n  --two\nexit 3"
    else:
        lines = block(o, "web")
        assert lines[lines.index("command:") + 1 :][:3] == ["| echo one", "|   --two", "| exit 3"]


def test_post_mortem_shows_the_last_lines(overlord: Start) -> None:
    """Twenty of them; with all that is captured, or a word how to have it captured."""
    o = overlord(
        daemon("web", "seq 1 500; exit 3", respawns=0, on_failure="ignore", stdout="prefix")
        + daemon("mute", "exit 3", respawns=0, on_failure="ignore", stdout="prefix")
        + daemon("api", "seq 1 500; exit 3", respawns=0, on_failure="ignore")
    )
    assert o.wait_exit() == 3
    assert [line for line in block(o, "web") if line.startswith("| ")] == [f"| {n}" for n in range(481, 501)]
    assert not [line for line in block(o, "mute") if "output" in line]
    assert any("prefix" in line for line in block(o, "api"))


def test_post_mortem_while_the_reader_is_behind(overlord: Start, tmp_path: Path, reader: Callable[..., Reader]) -> None:
    """The last lines are those that it wrote last, also where the container's stdout does not take them yet."""
    cmd = python(tmp_path, "burst", "for n in range(1200):\n    os.write(1, b'%099d\\n' % n)\nsys.exit(3)")
    out = reader(size=4096)
    o = overlord(daemon("web", cmd, respawns=0, on_failure="ignore", stdout="prefix") + daemon("db"), stdout=out.end)
    assert [int(line[2:]) for line in block(o, "web") if line.startswith("| ")] == list(range(1180, 1200))
    out.read()
    assert o.stop() == 0
    assert out.finish().lines() == [b"web | %099d" % n for n in range(1200)]


def test_post_mortem_of_a_long_line(overlord: Start) -> None:
    """A megabyte without a newline does not fill the log with itself."""
    o = overlord(daemon("web", "head -c 1000000 /dev/zero | tr '\\0' x >&2; exit 3", respawns=0, stderr="prefix", stdout="null"))
    assert o.wait_exit() == 3
    (shown,) = [line for line in block(o, "web") if line.startswith("| ")]
    assert set(shown[2:]) == {"x"}
    assert len(shown) < 300000
    # where the reader did not keep up, that message came between, and the rest after it
    assert sum(len(line) - len("web | ") for line in others(o.log)) == 1000000


def test_only_the_final_failure_has_one(overlord: Start) -> None:
    """A restart is one line, a stop and a success too."""
    o = overlord(
        daemon("web", "echo x; exit 3", backoff="0", respawns=3, on_failure="ignore", **CAPTURED)
        + daemon("job", "echo x", restart="never", **CAPTURED)
        + daemon("db", "echo x; exec sleep infinity", **CAPTURED)
    )
    o.says("web", "failed")
    o.says("job", "done")
    assert o.stop() == 0
    assert o.count(":   command: ") == o.count(": failed: ") == 1


@pytest.mark.parametrize(
    ("cmd", "hint"),
    [
        ("sh -c 'nosuchcommand --x'", "not f(ou|i)nd.*PATH"),
        ("cd / && nosuchcommand", "not f(ou|i)nd.*PATH"),
        ("sh -c /etc/passwd", "(chmod|execut)"),
        ("cd / && /etc/passwd", "(chmod|execut)"),
        ("exit 3", None),
        ("kill -9 $$", None),
    ],
)
@pytest.mark.parametrize("kind", ("daemon", "script"))
def test_hints(overlord: Start, kind: str, cmd: str, hint: str | None) -> None:
    """127 and 126 are said in words; nothing is said of what is not known."""
    config = daemon("web", cmd, respawns=0, stderr="null")
    if kind == "script":
        config = script("web", cmd, stderr="null") + daemon("db", deps="web")
    o = overlord(config)
    o.wait_exit()
    text = "\n".join(block(o, "web"))
    assert bool(re.search(hint or "PATH|chmod|memory|background", text)) == (hint is not None), text


def test_hint_of_the_background(overlord: Start, tmp_path: Path) -> None:
    """A daemon that put itself into the background is told what it left there, and how to keep it in front."""
    away = "setsid sleep 12345 & until test $(cat /proc/$!/comm) = sleep; do :; done"
    (tmp_path / "bin").mkdir()
    for name in ("nginx", "other"):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{away}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    options = {"warmup": "20s", "respawns": 0, "on_failure": "ignore"}
    o = overlord(
        daemon("web", "nginx -c /dev/null", **options)
        + daemon("api", "other", **options)
        + daemon("plain", f"{away}; exit 0", **options)
        + daemon("short", "true", **options)
        + daemon("db"),
        env={"PATH": f"{tmp_path}/bin:{PATH}"},
    )
    found = {name: "\n".join(block(o, name)) for name in ("web", "api", "plain", "short") if o.says(name, "failed")}
    for name in ("web", "api", "plain"):
        left = o.says(name, r"pid \d+ exited with code 0, stopping what it left behind \(SIGTERM\): sleep \(pid (\d+)\)")
        assert re.search(rf"background.*sleep\W+pid {left[1]}\b", found[name]), found[name]
    assert not o.running("sleep", "12345")
    assert "daemon off;" in found["web"]
    assert "daemon off" not in found["api"] + found["plain"]
    assert "foreground" in found["api"]
    assert "sleep" not in found["short"]
    assert o.stop() == 0


EVENTS = "low 0\nhigh 0\nmax 7\noom 1\noom_kill {}\noom_group_kill 0\n"
CONTROL = "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"
CGROUPS = {
    "v2": ("memory.events", "memory.max", EVENTS, "67108864\n"),
    "v2 without a limit": ("memory.events", "memory.max", EVENTS, "max\n"),
    "v1": ("memory/memory.oom_control", "memory/memory.limit_in_bytes", CONTROL, "67108864\n"),
    "v1 without a limit": ("memory/memory.oom_control", "memory/memory.limit_in_bytes", CONTROL, "9223372036854771712\n"),
}


@pytest.mark.parametrize("group", CGROUPS)
@pytest.mark.parametrize("kind", ("daemon", "script"))
def test_hint_of_memory(overlord: Start, tmp_path: Path, group: str, kind: str) -> None:
    """SIGKILL while the kernel's counter has gone up: out of memory, with the limit. A SIGKILL alone says nothing."""
    counter, limit, text, size = CGROUPS[group]
    fake = tmp_path / "cgroup"
    (fake / counter).parent.mkdir(parents=True)
    (fake / counter).write_text(text.format(4))
    (fake / limit).write_text(size)
    (tmp_path / "raised").write_text(text.format(5))
    os.mkfifo(tmp_path / "go")
    killed = f"read x < {tmp_path}/go; cat {tmp_path}/raised > /sys/fs/cgroup/{counter}; kill -KILL $$"
    options = {"respawns": 0, "on_failure": "ignore"}
    units = {"other": "kill -KILL $$", "web": killed}
    if kind == "daemon":
        config = "".join(daemon(name, cmd, **options) for name, cmd in units.items())
    else:
        config = "".join(script(name, cmd, **options) + daemon(f"after-{name}", deps=name) for name, cmd in units.items())
    mount = before("mount -t tmpfs none /sys/fs/cgroup", f"cp -r {fake}/. /sys/fs/cgroup/")
    o = overlord(config + daemon("db"), prefix=mount)
    text = "\n".join(block(o, "other"))
    assert "SIGKILL" in text
    assert "memory" not in text
    (tmp_path / "go").write_text("x\n")
    text = "\n".join(block(o, "web"))
    assert "SIGKILL" in text
    assert "out of memory" in text
    assert ("64 MiB" in text) == (size == "67108864\n")
    assert o.stop() == 0


def test_hint_of_memory_for_each(overlord: Start, tmp_path: Path) -> None:
    """The kernel may kill several at once (`memory.oom.group`), and each is told."""
    fake = tmp_path / "cgroup"
    fake.mkdir()
    (fake / "memory.events").write_text("oom_kill 0\n")
    (fake / "memory.max").write_text("max\n")
    hand = Puppet(tmp_path, "hand", "sh")
    names = ("a", "b", "c")
    units = "".join(daemon(name, "sleep infinity", respawns=0, on_failure="ignore") for name in names)
    o = overlord(
        units + hand.config(stdout="null", stderr="null"),
        prefix=before("mount -t tmpfs none /sys/fs/cgroup", f"cp -r {fake}/. /sys/fs/cgroup/"),
    )
    pids = [str(o.unit_is(name, "sleep").pid) for name in names]
    hand.write(f"echo oom_kill 3 > /sys/fs/cgroup/memory.events; kill -KILL {' '.join(pids)}\n")
    for name in names:
        o.says(name, "failed: ")
        assert "out of memory" in "\n".join(block(o, name))
    assert o.stop() == 0


# --- the last lines of a unit ----------------------------------------------------------------------------------------

LINES = st.binary(max_size=20).map(lambda line: line.replace(b"\n", b""))


def add(tail: Tail, data: bytes) -> None:
    """Have a tail take in whole lines."""
    tail.add(data)


@given(st.lists(st.lists(LINES, min_size=1, max_size=40), max_size=60))
def test_tail(blocks: list[list[bytes]]) -> None:
    """The last lines, in whatever blocks they came."""
    tail = Tail()
    lines: list[bytes] = []
    for each in blocks:
        add(tail, b"".join(line + b"\n" for line in each))
        lines += each
    for count in (1, 20, program_under_test.TAIL_LINES):
        assert tail.last_lines(count) == lines[-count:]


def test_tail_is_bounded() -> None:
    """Long lines, and many of them, do not fill the memory; the last one is there all the same."""
    tail, most = Tail(), program_under_test.TAIL_BYTES
    for number in range(5000):
        add(tail, b"%d " % number + b"x" * 10000 + b"\n")
        assert tail.size <= most
    assert sum(map(len, tail.blocks)) == tail.size
    assert [line.split()[0] for line in tail.last_lines(20)] == [b"%d" % n for n in range(4980, 5000)]
    add(tail, b"y" * (2 * most) + b"\n")
    assert tail.last_lines(1) == [b"y" * (2 * most)]
    add(tail, b"z\n")
    assert tail.last_lines(20)[-1] == b"z"


def test_tail_of_nothing() -> None:
    """A unit may have said nothing."""
    assert Tail().last_lines(20) == []
