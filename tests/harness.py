"""Run the real overlord.py in a namespace of its own, and watch it from outside.

The black-box tests stand on four things:

- `namespace()`: the command that makes a fresh PID and mount namespace, as Docker does: the program in it is PID 1, the
  leader of its own session, and sees only its own processes.
- `Overlord`: one running overlord.py, its log as it is written, its processes, its end.
- `Process`: one process as `/proc` shows it, read from outside the namespace: no program has to report on itself, so
  nothing that a reporter's own runtime does to signals, variables or descriptors falsifies the picture.
- `Journal`: a file to which the children of a test append a line for what happens to them.

Nothing here sleeps to let something happen: each wait has an event, and `PATIENCE` is only how long a broken program
may hold up the tests.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import functools
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, Any, Callable, Iterator, Mapping, NoReturn, Sequence, TypeVar

import pytest

ROOT = Path(__file__).resolve().parent.parent
# A copy of the program, broken on purpose, can be put under test to see that the tests notice.
OVERLORD = Path(os.environ.get("OVERLORD_PY", ROOT / "overlord.py"))
STRICT = bool(os.environ.get("OVERLORD_STRICT"))  # each of Python's warnings is an error then
PROGRAMS = Path(__file__).resolve().parent / "programs"
# A virtual machine may stand still for minutes, and its clock jumps then: no program's fault, so CI waits longer than that.
PATIENCE = 300.0 if os.environ.get("CI") else 30.0
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def strict(folder: Path) -> Path:
    """Write into `folder` a copy of the program for which each of Python's warnings is an error, and return its path.

    But for that about a socket or file which nobody has closed: to drop the last reference closes it.
    """
    errors = 'warnings.simplefilter("error"); warnings.simplefilter("ignore", ResourceWarning)'
    text, found = re.subn(r"warnings\.simplefilter\(.ignore.\)", errors, OVERLORD.read_text())
    assert found or errors in text
    copy = folder / "overlord.py"
    copy.write_text(text)
    copy.chmod(0o755)
    return copy


if STRICT:
    _folder = tempfile.TemporaryDirectory(prefix="overlord-strict-")
    Path(_folder.name).chmod(0o755)
    OVERLORD = strict(Path(_folder.name))

# What a namespace's PID 1 runs when overlord is not to be PID 1 itself. It owns one process that is none of overlord's
# business, reaps what is given to it as `docker run --init` does, and stays when overlord has ended.
OTHER_INIT = 'sleep infinity & "$@"; echo $? > exit_code; exec sleep infinity'

# What glibc and musl call the same error.
IN_USE, TOO_MANY = "Address (already )?in use", "(Too many open files|No file descriptors available)"
NO_NAME = "(Name or service not known|Temporary failure|Name does not resolve|Try again)"

STARTED = r"^overlord: {}: started \(pid (?P<pid>\d+)\)"

T = TypeVar("T")


# --- configurations --------------------------------------------------------------------------------------------------


def unit(kind: str, name: str, cmd: object = None, **options: object) -> str:
    """Return the text of one section; without `cmd` the unit notes its name in the journal."""
    if cmd is None:
        cmd = f"echo {name} >> journal"
        if kind == "daemon":
            cmd += "; exec sleep infinity"
    lines = [f"[{kind}:{name}]", f"cmd = {cmd}", *(f"{key} = {value}" for key, value in options.items())]
    return "\n".join(line.replace("\n", "\n    ") for line in lines) + "\n"


daemon = functools.partial(unit, "daemon")
script = functools.partial(unit, "script")


def program(name: str, *words: object) -> str:
    """Return the shell command that runs one of tests/programs, without a shell left behind."""
    path = PROGRAMS / name
    interpreter = "sh" if path.suffix == ".sh" else f"{system_python()} -I -S"
    return " ".join(["exec", interpreter, str(path), *map(str, words)])


# --- interpreters ----------------------------------------------------------------------------------------------------

# The interpreters that the core of the black-box tests runs on. "system" is the distribution's own python3, "minimal"
# the same with nothing but the files of Debian's python3-minimal, "compiled" what `overlord.py compile` makes with it.
#
# No registry that a fresh machine reaches carries CPython itself beside the distribution's one, so the tests install
# none: they use what is on PATH or in pyenv, and what tests/sid.sh and tests/musl.sh have made. One that is missing is a
# skip, and conftest.py makes each skip a failure where CI=true: there, the machine is expected to have them all, and a run
# that left one out must not look green.
#
# $OVERLORD_PYTHON names another one, on which all tests of the real program run then: "3.14", "musl", "minimal", a path.
CHOSEN = os.environ.get("OVERLORD_PYTHON", "")
INTERPRETERS = (CHOSEN, "compiled") if CHOSEN else ("3.8", "3.11", "3.13", "system", "minimal", "compiled")


def kept(name: str) -> Path:
    """Return where tests/sid.sh and tests/musl.sh keep what they made: see tests/debian.sh."""
    cache = Path.home() / ".cache" if os.geteuid() else "/var/cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or cache, "overlord", name)


@functools.lru_cache(maxsize=None)
def system_python() -> str:
    """Return the distribution's python3, or the one that runs the tests where there is none."""
    return "/usr/bin/python3" if os.access("/usr/bin/python3", os.X_OK) else sys.executable


@functools.lru_cache(maxsize=None)
def find_python(version: str) -> str | None:
    """Return the path of CPython `version` ("3.8", "musl"), or None. A pyenv shim of another version does not count."""
    if version == "musl":
        found = kept("musl/usr/bin/python3")
        return str(found) if os.access(found, os.X_OK) else None
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    in_pyenv = sorted(pyenv.glob(f"versions/{version}.*/bin/python3"))
    candidates = [f"python{version}", *map(str, in_pyenv), sys.executable]
    candidates.append(str(kept(f"python{version}/usr/bin/python{version}")))
    ask = "import sys; print(sys.executable, '%d.%d' % sys.version_info[:2])"
    for candidate in candidates:
        with contextlib.suppress(OSError):
            answer = subprocess.run([candidate, "-I", "-S", "-c", ask], capture_output=True, text=True, check=False)
            if answer.returncode == 0 and answer.stdout.split()[1] == version:
                return answer.stdout.split()[0]
    return None


def minimal_python(folder: Path) -> str | None:
    """Build in `folder` an interpreter that has the files of Debian's python3-minimal and no other; return its path.

    dpkg knows which files those are. The binary is copied, since it looks for its library beside the real file.
    """
    lists = sorted(Path("/var/lib/dpkg/info").glob("*python3.*-minimal*.list"))
    files = [Path(line) for path in lists for line in path.read_text().splitlines()]
    binary = next((path for path in files if re.fullmatch(r"/usr/bin/python3\.\d+", str(path))), None)
    if binary is None:
        return None
    for path in files:
        if str(path).startswith("/usr/lib/python3.") and path.is_file():
            link = folder / path.relative_to("/")
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
    copy = folder / binary.relative_to("/")
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_bytes(binary.read_bytes())
    copy.chmod(0o755)
    return str(copy)


def compiled(folder: Path, python: str) -> str:
    """Have overlord compile itself into `folder`; return the path of the program."""
    program = folder / "overlord.compiled"
    subprocess.run([python, str(OVERLORD), "compile", str(program)], check=True, timeout=PATIENCE)
    return str(program)


def invoke(python: Sequence[str]) -> list[str]:
    """Return how overlord is run by an interpreter: by its name, unless it is a program of its own."""
    return [*python] if "".join(python).endswith(".compiled") else [*python, str(OVERLORD)]


def interpreter(python: Sequence[str]) -> str:
    """Return the interpreter itself, also where `python` is a program made by it."""
    compiled = python[0].endswith(".compiled")
    return Path(python[0]).read_bytes().split(maxsplit=1)[0][2:].decode() if compiled else python[0]


def without(function: str, number: int, after: int) -> list[str]:
    """Return an interpreter in which a function of os fails after so many calls."""
    return [system_python(), "-I", "-S", str(PROGRAMS / "without.py"), function, str(number), str(after)]


def use_up_descriptors(o: Overlord) -> None:
    """Leave overlord no descriptor but those that it has open."""
    used = Process(o.pid).descriptors
    free = next(number for number in range(max(used) + 2) if number not in used)
    subprocess.run(["prlimit", "--pid", str(o.pid), f"--nofile={free}:"], check=True)


# --- waiting ---------------------------------------------------------------------------------------------------------


def eventually(probe: Callable[[], T | None], what: str, timeout: float = PATIENCE, pause: float = 0.005) -> T:
    """Call `probe` until it returns something true, and return that; fail where it never does."""
    deadline = time.monotonic() + timeout
    while True:
        result = probe()
        if result:
            return result
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout:g} s: {what}")
        time.sleep(pause)


class Stopwatch:
    """Measures how long the body takes, as `seconds`, but for times at which the machine itself stood still."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._over = threading.Event()
        self._ticker = threading.Thread(target=self._tick, daemon=True)

    def _tick(self) -> None:
        last = time.monotonic()
        while not self._over.wait(0.01):
            now = time.monotonic()
            self.seconds += min(now - last, 0.2)
            last = now

    def __enter__(self) -> Stopwatch:
        self._ticker.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._over.set()
        self._ticker.join()


class Journal:
    """A file to which the children of a test append a line each for what happens to them."""

    def __init__(self, path: Path):
        self.path = path

    def lines(self) -> list[str]:
        """Return the whole lines so far, in the order in which they were written."""
        try:
            return self.path.read_text().split("\n")[:-1]
        except FileNotFoundError:
            return []

    def wait_for(self, line: str, times: int = 1) -> None:
        """Wait until `line` is there `times` times."""
        eventually(lambda: self.lines().count(line) >= times, f"{times} x {line!r} in the journal")


# --- processes -------------------------------------------------------------------------------------------------------


class Process:
    """One process as `/proc` shows it. `proc` may be the one that is mounted inside another namespace."""

    def __init__(self, pid: int, proc: Path = Path("/proc")):
        self.pid = pid
        self.folder = proc / str(pid)

    def __repr__(self) -> str:
        return f"<{self.pid} {self.cmdline}>"

    @property
    def status(self) -> dict[str, str]:
        """The fields of /proc/PID/status."""
        lines = (self.folder / "status").read_text(errors="replace").splitlines()
        return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}

    @property
    def stat(self) -> list[str]:
        """The fields of /proc/PID/stat from `state` on; the name before it may hold spaces and brackets."""
        return (self.folder / "stat").read_text(errors="replace").rpartition(")")[2].split()

    state = property(lambda self: self.stat[0])
    ppid = property(lambda self: int(self.stat[1]))
    pgid = property(lambda self: int(self.stat[2]))
    sid = property(lambda self: int(self.stat[3]))
    nice = property(lambda self: int(self.stat[16]))

    @property
    def alive(self) -> bool:
        """Whether it exists and is no zombie."""
        try:
            return self.state not in "ZX"
        except (FileNotFoundError, ProcessLookupError):
            return False

    @property
    def cmdline(self) -> list[str]:
        """Its words; empty for a zombie."""
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            return (self.folder / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
        return []

    @property
    def environ(self) -> list[bytes]:
        """Its environment when it was exec'd, byte for byte and in order."""
        return (self.folder / "environ").read_bytes().split(b"\0")[:-1]

    @property
    def descriptors(self) -> dict[int, tuple[str, str]]:
        """What each open descriptor leads to, and its flags; one that is closed meanwhile is left out."""
        found = {}
        for entry in (self.folder / "fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                info = (self.folder / "fdinfo" / entry.name).read_text()
                flags = next(line.split()[1] for line in info.splitlines() if line.startswith("flags"))
                found[int(entry.name)] = (os.readlink(entry), flags)
        return found

    def signals(self, field: str) -> set[int]:
        """Return the signals of `SigBlk`, `SigIgn` or `SigCgt`.

        Less glibc's own two, which nobody can set by sigaction(3), and which its posix_spawn, as make uses it, has ignored.
        """
        mask = int(self.status[field], 16)
        return {number for number in range(1, 65) if mask >> (number - 1) & 1} - {32, 33}

    def inheritance(self) -> dict[str, Any]:
        """Return all that a program finds set up for it by whoever started it."""
        status = self.status
        fields = ("SigBlk", "SigIgn", "SigCgt", "SigPnd", "Umask", "Uid", "Gid", "Groups", "NoNewPrivs", "Seccomp")
        capabilities = tuple(key for key in status if key.startswith("Cap"))
        return {
            **{key: status[key] for key in (*fields, *capabilities, "Cpus_allowed")},
            "environ": self.environ,
            "descriptors": self.descriptors,
            "cwd": os.readlink(self.folder / "cwd"),
            "root": os.readlink(self.folder / "root"),
            "limits": (self.folder / "limits").read_text(),
            "nice": self.nice,
            "oom_score_adj": (self.folder / "oom_score_adj").read_text(),
            "leads its group": self.pgid == self.pid,
        }


def namespace(*argv: str, terminal: bool = False) -> list[str]:
    """Return the command that runs `argv` as PID 1 of new PID and mount namespaces, and as leader of a session.

    With `terminal` that session gets the terminal which is stdin. Whoever kills `unshare` kills all in the namespace.
    """
    as_root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return [
        "unshare",
        *as_root,
        "--pid",
        "--fork",
        "--mount-proc",
        "--kill-child",
        "--",
        "setsid",
        *(["--ctty"] if terminal else []),
        *argv,
    ]


def kill(pid: int, sig: int) -> None:
    """Send a signal to one process. Whatever goes wrong in a test, no group and not everybody is hit."""
    if pid <= 1:
        raise ProcessLookupError(pid)
    os.kill(pid, sig)


def children(pid: int) -> list[int]:
    """Return the children of `pid`, zombies too."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


class Namespace:
    """A command running as PID 1 of a namespace of its own, seen from outside."""

    def __init__(self, argv: Sequence[str], terminal: bool = False, **options: Any):
        self.popen = subprocess.Popen(namespace(*argv, terminal=terminal), **options)
        found = eventually(self._find_init, "PID 1", pause=0.0005)
        self.init = found[0] if isinstance(found, list) else 0
        self.proc = Path(f"/proc/{self.init}/root/proc")

    def _find_init(self) -> list[int] | bool:
        """Return PID 1's number outside; nothing while it is still `unshare` and sees all processes in /proc.

        True where all is over already.
        """
        found = [pid for pid in children(self.popen.pid) if Process(pid).cmdline[:1] not in ([], ["unshare"])]
        return found or self.popen.poll() is not None

    def processes(self) -> list[Process]:
        """Return all processes in the namespace, zombies too; none once PID 1 is gone."""
        try:
            names = os.listdir(self.proc)
        except OSError:
            return []
        return [Process(int(name), self.proc) for name in names if name.isdigit()]

    def outside(self, pid: int) -> int:
        """Return the number by which `pid` of the namespace is known outside of it; ProcessLookupError if gone."""
        space = os.stat(f"/proc/{self.init}/ns/pid").st_ino
        for name in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError, StopIteration):
                numbers = Process(int(name)).status["NSpid"].split()
                if len(numbers) > 1 and int(numbers[-1]) == pid and os.stat(f"/proc/{name}/ns/pid").st_ino == space:
                    return int(name)
        raise ProcessLookupError(pid)

    def kill(self, pid: int, sig: int = signal.SIGKILL) -> None:
        """Send a signal to `pid` of the namespace."""
        kill(self.outside(pid), sig)

    def destroy(self) -> None:
        """Kill all that is left in the namespace."""
        with contextlib.suppress(ProcessLookupError):
            if self.popen.poll() is None:
                kill(self.init, signal.SIGKILL)
        self.popen.wait(PATIENCE)


# --- overlord --------------------------------------------------------------------------------------------------------


class Lines:
    """The lines that come out of a pipe. A thread reads them, and so does whoever asks: what has been written by then is there.

    (An answer that comes another way, by a socket or an exit code, may be seen before a thread has had its turn.)
    """

    def __init__(self, stream: IO[bytes] | None, changed: threading.Condition) -> None:
        self._found: list[str] = []
        self._rest = bytearray()
        self._changed = changed
        self._fd = -1 if stream is None else stream.fileno()
        poll = select.poll()
        self._reader = threading.Thread(target=self._read, args=(poll,), daemon=True)
        if stream is not None:
            os.set_blocking(self._fd, False)
            poll.register(self._fd, select.POLLIN)
            self._reader.start()

    def __call__(self) -> list[str]:
        """Return the lines so far."""
        self._take()
        return self._found

    def _take(self) -> None:
        """Take what is there by now."""
        with self._changed, contextlib.suppress(BlockingIOError):
            for _ in range(16):  # a pipe holds less, but a flood has no end
                data = os.read(self._fd, 65536) if self._fd >= 0 else b""
                self._rest += data or b"\n" * bool(self._rest)
                if b"\n" in data or not data:
                    *lines, self._rest = self._rest.split(b"\n")
                    self._found += [line.decode(errors="backslashreplace") for line in lines]
                    self._changed.notify_all()
                if not data:
                    self._fd = -1
                    break

    def _read(self, poll: select.poll) -> None:
        while not self.over:
            poll.poll()
            self._take()

    @property
    def over(self) -> bool:
        """Whether no more can come."""
        return self._fd < 0

    def wait(self, timeout: float) -> None:
        """Wait until no more can come."""
        if self._reader.ident:
            self._reader.join(timeout)

    def close(self) -> None:
        """Read no more."""
        with self._changed:
            self._fd = -1


class Overlord(Namespace):
    """One overlord.py, running the configuration `config` as PID 1 of a namespace, or below another init there.

    `settings` are the options of [overlord], `prefix` is a command that execs the interpreter (`env`, `prlimit`),
    `python` the interpreter, `command` the words after the options; `use_config=False` leaves `-c` out. Daemons are OK
    at once unless `defaults` or their own section says otherwise. stderr is read into `log`, stdout into `out`.
    """

    def __init__(
        self,
        config: str,
        *command: str,
        folder: Path,
        python: Sequence[str],
        settings: Mapping[str, object] | None = None,
        prefix: Sequence[str] = (),
        pid1: bool = True,
        use_config: bool = True,
        defaults: str = "[daemon]\nwarmup = 0\n",
        **options: Any,
    ):
        self.folder = folder
        self.journal = Journal(folder / "journal")
        self.config = folder / "overlord.conf"
        self._pid1 = pid1
        self.python = list(python)
        (folder / "conf.d").mkdir(exist_ok=True)
        header = {"configdir": f"{folder}/conf.d/", "socket": "none", **(settings or {})}
        self.socket = str(header["socket"])
        text = ["[overlord]", *(f"{key} = {value}" for key, value in header.items()), defaults]
        self.config.write_text("\n".join(text) + config)
        named = ["-c", str(self.config)] if use_config else []
        argv = [*prefix, *invoke(python), *named, *command]
        options = {"stdin": subprocess.DEVNULL, "env": {"PATH": PATH}, "cwd": folder, **options}
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        super().__init__(argv if pid1 else ["sh", "-c", OTHER_INIT, "sh", *argv], **options)
        self._changed = threading.Condition()
        self._log, self._out = (Lines(stream, self._changed) for stream in (self.popen.stderr, self.popen.stdout))
        self.pid = self.init if pid1 else eventually(self._find, "overlord below the other init")

    def _find(self) -> int:
        """Return the number of overlord's process outside the namespace, where it is not PID 1; 1 if it is over."""
        lines = {pid: Process(pid).cmdline for pid in children(self.init)}
        mine = [pid for pid, line in lines.items() if str(self.config) in line and OTHER_INIT not in line]
        return mine[0] if mine else int(self.popen.poll() is not None)

    log = property(lambda self: self._log())
    out = property(lambda self: self._out())

    def __str__(self) -> str:
        return "\n".join(
            ["--- log:", *self.log[-500:], "--- stdout:", *self.out, "--- journal:", *self.journal.lines()]
        )

    def fail(self, why: str) -> NoReturn:
        """Fail the test with all that is known."""
        pytest.fail(f"{why}\n{self}")

    @property
    def mark(self) -> int:
        """The number of log lines so far, as `after` for what is to come."""
        return len(self.log)

    @property
    def inner_pid(self) -> int:
        """Overlord's own process number in the namespace."""
        return int(Process(self.pid).status["NSpid"].split()[-1])

    def wait_for(
        self, pattern: str, *, after: int = 0, timeout: float = PATIENCE, lines: list[str] | None = None
    ) -> re.Match[str]:
        """Return the first match of `pattern` in the log (or in `lines`) at or after line `after`; wait for it."""
        lines = self.log if lines is None else lines
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                for line in lines[after:]:
                    match = re.search(pattern, line)
                    if match:
                        return match
                after = max(after, len(lines))
                ended = self._log.over and self._out.over
                if ended or not self._changed.wait(min(1.0, deadline - time.monotonic())):
                    if ended and len(lines) == after:
                        self.fail(f"overlord ended before {pattern!r}")
                    if time.monotonic() >= deadline:
                        self.fail(f"not within {timeout:g} s: {pattern!r}")

    def says(self, name: str, text: str, *, after: int = 0) -> re.Match[str]:
        """Wait for a message about a unit, such as `says("web", "ok")`."""
        return self.wait_for(rf"^overlord: {re.escape(name)}: {text}", after=after)

    def count(self, pattern: str) -> int:
        """Return how many lines of the log match."""
        return sum(bool(re.search(pattern, line)) for line in self.log)

    def wait_count(self, pattern: str, times: int) -> None:
        """Wait until that many lines of the log match."""
        eventually(lambda: self.count(pattern) >= times, f"{times} x {pattern!r}\n{self}")

    def wait_ok(self, name: str, times: int = 1) -> None:
        """Wait until a unit was OK so many times."""
        self.wait_count(rf"^overlord: {re.escape(name)}: ok\b", times)

    def starts(self, name: str) -> int:
        """Return how often a unit was started."""
        return self.count(STARTED.format(re.escape(name)))

    @property
    def started(self) -> list[str]:
        """The names of all units that were started, in order. What a daemon writes itself may come after its OK."""
        found = [re.search(STARTED.format("(.*)"), line) for line in self.log]
        return [match[1] for match in found if match]

    def position(self, pattern: str) -> int:
        """Return the number of the first log line that matches; wait for it."""
        self.wait_for(pattern)
        return next(index for index, line in enumerate(self.log) if re.search(pattern, line))

    def unit(self, name: str) -> Process:
        """Return the process of a unit as it was last started."""
        started = STARTED.format(re.escape(name))
        self.wait_for(started)
        found = [re.search(started, line) for line in self.log]
        return Process(int([match for match in found if match][-1]["pid"]), self.proc)

    def unit_is(self, name: str, program: str) -> Process:
        """Wait until the process of a unit has exec'd `program`."""

        def found() -> Process | None:
            process = self.unit(name)
            return process if [Path(word).name for word in process.cmdline[:1]] == [program] else None

        return eventually(found, f"{name} is {program}")

    def running(self, *words: str) -> list[Process]:
        """Return the living processes whose command line begins with `words`."""
        return [p for p in self.processes() if p.cmdline[: len(words)] == list(words) and p.alive]

    def send(self, sig: int) -> None:
        """Send overlord a signal from outside, as the container engine does."""
        kill(self.pid, sig)

    def kill_unit(self, name: str, sig: int = signal.SIGKILL) -> None:
        """Send a signal to the process of a unit."""
        self.kill(self.unit(name).pid, sig)

    def client(self, *words: str, named: bool = True, prefix: Sequence[str] = ()) -> list[str]:
        """Return the command that runs a verb as `docker exec` does, in overlord's namespaces.

        `named`: with `-c` and the configuration; `prefix`: what execs it there.
        """
        user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
        config = ["-c", str(self.config)] if named else []
        enter = ["nsenter", f"--target={self.pid}", *user, "--pid", "--mount", "--"]
        mortal = ["setpriv", "--pdeathsig=KILL"]  # nsenter waits outside: whoever kills it means the client
        return [*enter, *prefix, *mortal, *invoke(self.python), *config, *words]

    def ask(
        self, *words: str, code: int | None = 0, named: bool = True, prefix: Sequence[str] = (), **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a verb to its end, and expect this exit code; None for any."""
        options = {"stdin": subprocess.DEVNULL, "env": {"PATH": PATH}, "timeout": PATIENCE, **options}
        argv = self.client(*words, named=named, prefix=prefix)
        done = subprocess.run(argv, capture_output=True, encoding="utf-8", errors="surrogateescape", check=False, **options)
        if code not in (None, done.returncode):
            self.fail(f"{words}: code {done.returncode}, not {code}\n{done.stdout}\n{done.stderr}")
        return done

    def wait_exit(self, timeout: float = PATIENCE) -> int:
        """Wait for the end of overlord and of its log; return its exit code."""
        if self._pid1:
            try:
                code = self.popen.wait(timeout)
            except subprocess.TimeoutExpired:
                self.fail(f"overlord still runs after {timeout:g} s; processes: {self.processes()}")
            self._log.wait(timeout)
            self._out.wait(timeout)
            return code
        told = Journal(self.folder / "exit_code")
        code = eventually(told.lines, f"the other init sees overlord end\n{self}", timeout)[0]
        eventually(lambda: Process(self.init).cmdline[:1] == ["sleep"], "the other init stays, and names overlord no more")
        return int(code)

    def stop(self) -> int:
        """Ask for shutdown as `docker stop` does, and return the exit code."""
        self.send(signal.SIGTERM)
        return self.wait_exit()

    def close(self) -> None:
        """End what still runs, and show the log; pytest prints it where the test failed."""
        self.destroy()
        for lines in (self._log, self._out):
            lines.wait(PATIENCE)
            lines.close()
        for stream in (self.popen.stdin, self.popen.stdout, self.popen.stderr):
            if stream is not None:
                stream.close()
        print(self)


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


LIBC = ctypes.CDLL(None, use_errno=True)


def address(o: Overlord) -> str:
    """Return where overlord's abstract socket is, unless it was started with another."""
    spaces = [os.stat(f"/proc/{o.pid}/ns/{kind}").st_ino for kind in ("pid", "mnt")]
    return o.socket if o.socket[0] == "/" else "\0overlord/{}/{}".format(*spaces)


def connect(pid: int, place: str, timeout: float = PATIENCE) -> socket.socket:
    """Return a connection to a socket, made by a process in the PID namespace of `pid`: whoever is outside is refused.

    A child enters the namespace by setns(2), its own child connects, and passes the connection back.
    """
    ours, theirs = socket.socketpair()
    spaces = [os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY) for kind in (["user"] * bool(os.geteuid()) + ["pid"])]
    child = os.fork()
    if not child:
        try:
            if all(LIBC.setns(space, 0) == 0 for space in spaces) and os.fork() == 0:
                sock = socket.socket(socket.AF_UNIX)
                sock.connect(place)  # LINUX: with a timeout this would not wait where the queue is full
                theirs.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [sock.fileno()]))])
        finally:
            os._exit(0)
    for space in spaces:
        os.close(space)
    theirs.close()
    os.waitpid(child, 0)
    with ours:
        ours.settimeout(timeout)
        _, controls, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(4))
    if not controls:
        raise ConnectionRefusedError(place)
    sock = socket.socket(fileno=array.array("i", controls[0][2])[0])
    sock.settimeout(timeout)
    return sock


def dial(o: Overlord) -> socket.socket:
    """Return a connection to overlord's socket."""
    return connect(o.pid, address(o))


def exchange(o: Overlord, request: bytes) -> bytes:
    """Send a request as it is, and return the whole answer."""
    with dial(o) as sock:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            sock.sendall(request)
        return read_all(sock)


def read_all(sock: socket.socket) -> bytes:
    """Read until the other end hangs up."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while True:
            more = sock.recv(65536)
            if not more:
                break
            data += more
    return data


class Asking:
    """A verb that runs, and what it has printed so far."""

    def __init__(self, argv: Sequence[str], **options: Any) -> None:
        options = {"stdin": subprocess.DEVNULL, "env": {"PATH": PATH}, **options}
        self.popen = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stdout
        for line in self.popen.stdout:
            self.lines.append(line.decode(errors="backslashreplace").rstrip("\n"))

    def wait_for(self, pattern: str) -> str:
        """Wait for a line that matches, and return it."""

        def found() -> list[str]:
            over = not self._reader.is_alive()
            lines = [line for line in self.lines if re.search(pattern, line)]
            if over and not lines:
                pytest.fail(f"it ended with {self.popen.wait()} before {pattern!r}: {self.lines}")
            return lines

        return eventually(found, f"{pattern!r} in {self.lines}")[0]

    def kill(self) -> None:
        """End it in the middle of what it does."""
        self.popen.kill()
        self.wait_exit()

    def wait_exit(self) -> int:
        """Wait for its end, and return its exit code."""
        code = self.popen.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return code


# --- terminal --------------------------------------------------------------------------------------------------------


class Terminal:
    """A pseudo-terminal: `docker run -it` holds the other end. What comes out is collected as text."""

    def __init__(self) -> None:
        self.master, self.slave = pty.openpty()
        self.text = ""
        self._changed = threading.Condition()
        self._closing = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        # LINUX: the last close of the slave's end is an EIO here.
        with contextlib.suppress(OSError):
            while not self._closing:
                data = os.read(self.master, 65536) if select.select([self.master], [], [], 0.1)[0] else b""
                with self._changed:
                    self.text += data.decode(errors="backslashreplace")
                    self._changed.notify_all()

    def type(self, text: str) -> int:
        """Type `text`, and return the position in what came out so far, as `after` for `expect`."""
        after = len(self.text)
        os.write(self.master, text.encode())
        return after

    def expect(self, pattern: str, after: int = 0, timeout: float = PATIENCE) -> re.Match[str]:
        """Wait until `pattern` is in what came out."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                match = re.compile(pattern).search(self.text, after)
                if match:
                    return match
                if time.monotonic() > deadline:
                    pytest.fail(f"not on the terminal within {timeout:g} s: {pattern!r}\n{self.text}")
                self._changed.wait(0.5)

    def close(self) -> None:
        """Hang up."""
        self._closing = True
        os.close(self.slave)
        self._reader.join(PATIENCE)
        os.close(self.master)


@contextlib.contextmanager
def storm(*blows: Callable[[], None], pause: float = 0.001) -> Iterator[None]:
    """Strike all `blows` again and again, each from a thread of its own, while the body runs."""
    over = threading.Event()

    def strike(blow: Callable[[], None]) -> None:
        while not over.is_set():
            with contextlib.suppress(ProcessLookupError):
                blow()
            time.sleep(pause)

    threads = [threading.Thread(target=strike, args=(blow,), daemon=True) for blow in blows]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join(PATIENCE)
        assert not any(thread.is_alive() for thread in threads), "a blow does not end"
