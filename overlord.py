#!/usr/bin/env python3
"""overlord: init (PID 1) and process supervisor for Docker images, in one file, with only the standard library.

    INI text -> Config -> Machine -> Fleet -> [actions] -> Loop -> Kernel -> system calls
                             ^                               |
                             +----------- [events] <---------+   Control and CLI only read, and submit events

Words to Fleet are pure: they make no system calls, and get time, chance and failures as arguments. Each room of this
file uses only names from the rooms above it:

    Title, Words, Graph   isolation from the application's Python, constants; the vocabulary; who waits for whom
    Config                INI text to validated specs, or all the mistakes with file and line
    Machine, Unit, Fleet  one unit, by a table of states and events; among its neighbours; all, with reload and shutdown
    Output                what the units write, line by line, and overlord's own messages
    Kernel, Kin, Init     the system calls that touch processes; which process is whose; what only an init does
    Sockets, Control      descriptors on the way, sockets to listen on; requests to a running overlord
    Probes                readiness, health, what daemons say (sd_notify), their sockets (`listen`), schedules
    Loop, CLI             wait, read, feed, perform; arguments, files, verbs, and HTTP
"""

from __future__ import annotations

# RACE: for PID 1 the kernel drops a SIGTERM that has no handler, but keeps one that is blocked. So block everything
# until `Loop` has its handlers: no signal sent from here on is lost.
FOUND_MASK: set[int] = set()
if __name__ == "__main__":
    import _signal  # type: ignore[import-not-found]

    FOUND_MASK = _signal.pthread_sigmask(_signal.SIG_BLOCK, _signal.valid_signals())

import gc
import marshal
import os
import sys

if __name__ == "__main__":
    gc.disable()  # COST: a start makes 40,000 objects and drops few; `main` and `run` enable it again

VERSION = "0.1.0"


class Verb:
    def __init__(self, name: str, asks: str, words: str, help: str) -> None:
        self.name, self.asks, self.words, self.help = name, asks, words, help


# `asks`: what a running overlord is asked for it, see `Control.do_*`; SHOWS has what the client does.
VERBS = {row[0]: Verb(*row) for row in (  # name, asks, words and options, help
    ("run", "", "", "start what the configuration says, and stay (as PID 1 of a container, or anywhere)"),
    ("check", "", "", "say what is wrong with the configuration, and what the image lacks (exit 0, or 78)"),
    ("exec", "", "NAME COMMAND ...", "run COMMAND as the unit's user, in its folder, with its variables and limits"),
    ("compile", "", "FILE", "write the same program as compiled code, which starts in a quarter of the time"),
    ("version", "", "", "print the version"),
    ("help", "", "[WORD]", "print this, or what a verb or a configuration option means"),
    ("status", "status", "[-j] [NAME ...]", "show units; exit 3 unless all are ok, idle, running, done or stopped"),
    ("top", "status", "[NAME ...]", "show units live, with processor time and last line; q ends, c and m sort"),
    ("health", "health", "", "one line; exit 0 when every daemon is ok, else 1: for HEALTHCHECK"),
    ("start", "start", "NAME ... [-t SECONDS]", "start units and what they need; exit 1 when they do not come up"),
    ("stop", "stop", "NAME ... [-t SECONDS]", "stop units; exit 1 when they do not stay so"),
    ("restart", "restart", "NAME ... [-t SECONDS]", "restart units, instances one by one; exit 1 when one is not up"),
    ("signal", "signal", "SIGNAL NAME ...", "send a signal: HUP, -HUP, SIGHUP, 1"),
    ("reload", "reload", "[-t SECONDS]", "apply the configuration as it is now; mistakes change nothing (78)"),
    ("wait", "wait", "NAME ... [-t SECONDS]", "wait until units are ok; exit 1 when they cannot be, or not in time"),
    ("logs", "logs", "[-f] [-n N] NAME ...", "the last N lines (100) of captured output; -f goes on"),
    ("events", "events", "[NAME ...]", "the state of each unit, and then each change, a line each: NAME STATE WHY"),
    ("graph", "status", "[--dot]", "who depends on whom"),
    ("timeline", "status", "[-j] [NAME ...]", "how the start went: who waited for whom, and for how long"),
    ("why", "status", "NAME", "why a unit is in its state, down the chain of what it depends on"),
    ("serve", "serve", "[ADDRESS]", "answer HTTP at [HOST:]PORT: /health, /status, /metrics, and for people /"),
    ("shutdown", "shutdown", "[CODE]", "stop everything; the container exits with CODE"),
)}  # fmt: skip

SPARE: list[int] = []  # a descriptor that a running overlord keeps, to read /proc when all others are in use


def call_or(default: Any, call: Callable[..., Any], *words: Any) -> Any:
    """Return the result of a call, or a default if it raises OSError."""
    try:
        return call(*words)
    except OSError:
        return default


def keep_spare() -> None:
    if not SPARE:
        SPARE.extend(call_or((), lambda: [os.open("/", os.O_RDONLY)]))


def spared(call: Callable[..., Any], *words: Any) -> Any:
    """Return the result of a call that opens and closes one file: with the spare descriptor when no other is free."""
    try:
        return call(*words)
    except OSError as error:
        if not SPARE or error.errno not in SCARCE:
            raise
    os.close(SPARE.pop())
    try:
        return call(*words)
    finally:
        keep_spare()


def load(module: str) -> Any:
    """Import what is needed late, with the spare descriptor: PYTHON has no errno where it finds none for a library."""
    while module not in sys.modules and SPARE:
        os.close(SPARE.pop())
    try:
        return __import__(module)
    finally:
        keep_spare()


def read_whole(path: str) -> bytes:
    fd, data = os.open(path, os.O_RDONLY), b""
    try:
        while part := os.read(fd, 65536):
            data += part
        return data
    finally:
        os.close(fd)


def slurp(path: str) -> bytes:
    """Return what is in a file. Raises OSError, with no name for a folder. COST: open() takes 50 % longer."""
    return spared(read_whole, path)  # type: ignore[no-any-return]


def found_environment() -> dict[bytes, bytes]:
    """Return the container's environment. PYTHON: locale coercion (PEP 538) adds LC_CTYPE to os.environ."""
    found = call_or(None, slurp, "/proc/self/environ")
    pairs = [entry.partition(b"=") for entry in (found or b"").split(b"\0")]
    return dict(os.environb) if found is None else {key: value for key, equals, value in pairs if key and equals}


def parse_arguments(arguments: list[str]) -> tuple[str | None, str, list[str]]:
    """Return the file of `-c`, the verb, and its words: for `run` the main command, for `mistake` what is wrong.
    After `--` the verb is `command`: the words are a main command, whatever they look like."""
    path, words = None, list(arguments)
    verbs = {"-h": "help", "--help": "help", "-V": "version", "--version": "version"}
    while words and words[0].startswith("-"):
        word = words.pop(0)
        if word == "--":
            return path, "command", words
        if word in verbs:
            return path, verbs[word], []
        if word != "-c":
            return path, "mistake", [f"unknown option {word}; as the main command: overlord.py -- {word}"]
        if not words:
            return path, "mistake", ["-c needs a FILE"]
        path = words.pop(0)
    verb = words.pop(0) if words and words[0] in VERBS else ""
    if verb and words[:1] == ["-c"]:  # it may stand after the verb too
        if not words[1:]:
            return path, "mistake", ["-c needs a FILE"]
        path, words = words[1], words[2:]
    if verb and words[:1] in (["-h"], ["--help"]):
        return path, "help", [verb]
    if verb == "run" and words:
        return path, "mistake", ["run takes no arguments: for a main command leave it out"]
    return path, verb or "run", words


def decode(data: bytes) -> str:
    """Return text that `os.fsencode` makes the same bytes of."""
    return data.decode("utf-8", "surrogateescape")


def execute_again() -> None:
    """Execute overlord again, from compiled code in a memfd: 10 ms, for the 9 MB that compiling leaves behind.
    `-I -S` keep out PYTHON* variables, site hooks and the folder of this file. An option -X carries the descriptor and
    the signal mask, so that environment and arguments stay the same."""
    from _frozen_importlib_external import MAGIC_NUMBER

    mask = ",".join(str(int(number)) for number in FOUND_MASK)
    try:
        fd = os.memfd_create("overlord.py", 0)
        with open(fd, "wb", closefd=False) as file:
            file.write(MAGIC_NUMBER + bytes(12) + marshal.dumps(sys._getframe(1).f_code))
        path = f"/proc/self/fd/{fd}"
        os.stat(path)
    except (AttributeError, OSError):  # no memfd or no /proc: compile again
        if sys.flags.isolated:
            return
        fd, path = -1, os.path.abspath(__file__)
    arguments = [sys.executable, "-I", "-S", "-X", "utf8", "-X", f"overlord={fd}:{mask}", path, *sys.argv[1:]]
    try:
        os.execve(sys.executable, arguments, found_environment())
    except OSError:  # the environment leaves no room for a few bytes more: stay
        call_or(None, os.close, fd)


COMPILED = sys.argv[:1] == ["-c"]  # see `compile_into`

if __name__ == "__main__":
    if COMPILED:  # and isolated
        del sys.argv[0]
        if sys.getfilesystemencoding() != "utf-8":
            execute_again()
    elif "overlord" in sys._xoptions:
        descriptor, _, numbers = str(sys._xoptions["overlord"]).partition(":")
        FOUND_MASK = {int(number) for number in numbers.split(",") if number}
        call_or(None, os.close, int(descriptor))  # -1: none
    else:
        if sys.executable and parse_arguments(sys.argv[1:])[1] in ("run", "command", "serve", "exec"):
            execute_again()
        # Other verbs end soon. They only drop folders and modules that are not the standard library's.
        LIBRARY = os.path.dirname(os.__file__)
        sys.path[:] = [path for path in sys.path if path.startswith(LIBRARY) and "-packages" not in path]
        for name, module in list(sys.modules.items()):
            path = getattr(module, "__file__", None) or LIBRARY
            if name != "__main__" and (not path.startswith(LIBRARY) or "-packages" in path):
                del sys.modules[name]  # a sitecustomize imported it

import _socket  # COST: `socket` makes an enum of every constant
import errno
import fcntl
import re
import select
import time
import warnings
from _bisect import bisect_left, insort_right  # COST: `bisect` has the same, and more in Python
from _socket import MSG_CMSG_CLOEXEC, MSG_DONTWAIT, MSG_NOSIGNAL, MSG_WAITALL
from collections import deque
from configparser import RawConfigParser
from functools import partial

TYPE_CHECKING = False  # COST: `typing` takes 1.9 MB
if TYPE_CHECKING:
    import signal
    from collections import namedtuple
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
    from typing import Any, ClassVar

    Units = dict[str, dict[str, Any]]  # records by name, see `read_records`
else:
    import _signal as signal  # COST: `signal` makes an enum of every constant
    from _collections import _tuplegetter

    class Named(tuple):
        __slots__ = ()

        def __new__(cls, *values: Any, **named: Any) -> Any:
            if rest := cls._fields[len(values) :]:
                values = (*values, *[named.pop(name) if name in named else cls._field_defaults[name] for name in rest])
            if named:
                raise TypeError(f"{cls.__name__} has no {', '.join(named)}")
            return tuple.__new__(cls, values)

        def _replace(self, **changes: Any) -> Any:
            return type(self)(*[changes.pop(name, value) for name, value in zip(self._fields, self)], **changes)

        def __getnewargs__(self) -> tuple[Any, ...]:  # for pickle
            return tuple(self)

        def __repr__(self) -> str:
            return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in zip(self._fields, self))})"

    def namedtuple(name: str, fields: str | Iterable[str], defaults: Sequence[Any] = ()) -> Any:
        """Make a class as `collections.namedtuple` does. COST: that compiles a function for each, 1 ms for all here."""
        fields = tuple(fields.split() if isinstance(fields, str) else fields)
        own = {"__slots__": (), "_fields": fields, "_field_defaults": dict(zip(reversed(fields), reversed(defaults)))}
        return type(name, (Named,), {**{each: _tuplegetter(at, "") for at, each in enumerate(fields)}, **own})

warnings.simplefilter("ignore")  # they would go straight to stderr, and a stuck reader would block overlord

DEFAULT_CONFIG = "/etc/overlord.conf"
EX_USAGE, EX_UNAVAILABLE, EX_IOERR, EX_TEMPFAIL, EX_NOPERM, EX_CONFIG = 64, 69, 74, 75, 77, 78  # sysexits(3)
NOT_EXECUTABLE, NOT_FOUND = 126, 127  # the shell's codes, POSIX 2.8.2
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SCARCE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # out of descriptors or memory: may pass

# Times are in seconds, sizes in bytes.
SWEEP_TIMEOUT = 1.0  # between SIGTERM and SIGKILL for what is left over
LEFT_LEAST = 1.0  # at least, for what a main command without units leaves behind
IN_A_ROW = float("inf")  # the time in which `respawns = N/ok` counts: since the unit was OK
MISSED = 90.0  # a scheduled run that is later than this is skipped
FORK_DELAY = 0.1  # at least, after a failed fork, so that `backoff = 0` does not spin
REMINDER = 10.0  # between two lines about what the main command waits for
LINGER_LOOK, LOOK_SHARE = 0.1, 10  # between two looks at a unit's processes; at least so many times what one takes
PAUSED = 1.0  # past a timer: overlord was not slow but stopped (docker pause)
REAP_BATCH, SIGNAL_BATCH = 500, 500  # processes reaped and signalled before other events have their turn
ASK_TIMEOUT = 5.0  # for a client to ask, and for overlord to begin its answer
REQUEST_MAX, WORDS_MAX = 8192, 256  # bytes and words of a request
ANSWERS_MAX = 1 << 22  # kept for clients that do not read
CLIENTS_MAX = 200
BACKLOG = 4096  # of `listen`; the kernel keeps it to net.core.somaxconn
OPENING_TIMEOUT = 60  # for a child to open sockets
LOG_KEPT = 65536  # of overlord's own messages, while nobody reads them
EARLY = 10.0  # a daemon that ends this soon after its start may have met a socket in use
OOM_WINDOW = 1.0  # a SIGKILL this soon after the kernel counted an out-of-memory kill was that kill
REST = 0.001  # between two reads from a unit that writes line by line without a pause
CLD_KILLED, CLD_STOPPED = (2, 3), 5  # waitid(2); PYTHON: named since 3.9
F_SETPIPE_SZ, F_GETPIPE_SZ, PIPE_SIZE = 1031, 1032, 1 << 20  # fcntl(2); what any user may have: pipe(7)
WIDE_PIPE = 1 << 18  # of a unit that fills a pipe. LINUX: all pipes of a user share pipe-user-pages-soft, pipe(7)
BLOCK = 1 << 17  # of captured output, read at once
LINE_MAX = 65536  # a longer line is passed on in parts
TAIL_LINES, TAIL_BYTES = 100, 262144  # kept of the output of each captured unit
SHOWN_LINES, SHOWN_WIDTH = 20, 1000  # lines and characters of each in the last message about a unit
SERVED_LINES, SERVED_REST = 5, 0.5  # of what has failed, for `serve`; between two times that it asks overlord
VISITS_MAX, VISIT_TIMEOUT = 64, 10.0  # connections to `serve`; for a request to come, and for its answer to go
NOBODY = 65534  # the user and group without rights, on all distributions
FILE_KEPT, FILE_RETRY = 262144, 1.0  # for a log file that cannot be written; between two tries to write it
STREAM_KEPT = 65536  # for a slow reader, before the writers have to wait
STUCK = 2.0  # without progress: a shutdown no longer waits for the reader
STUCK_KEPT = 1 << 20  # for a slow reader, from units that have ended or, in a shutdown, are to end


# ============================================================================================================ Words

STATES = tuple("idle waiting starting ok running stopping backoff stopped done failed".split())
IDLE, WAITING, STARTING, OK, RUNNING, STOPPING, BACKOFF, STOPPED, DONE, FAILED = STATES
ENDED = (STOPPED, DONE, FAILED)
RESTING = (IDLE, *ENDED)  # no change by itself
COMING = (WAITING, STARTING, STOPPING, BACKOFF)  # on its way, not OK
MAIN = "main command"  # its name as a unit; no configured name has a blank

# Events of a unit, see Move.TABLE. barred: a script or socket that it needs has failed; stale: its process is to be
# replaced; handed: `pidfile` or MAINPID= names its main process. Fields: code: exit code or minus a signal; passing:
# it may work later; left: the main process left others behind; wanted: the unit is to be up after this; fails: its end
# will be a failure; limit: seconds that a shutdown leaves it; signum: in place of stop_signal; hint: the known cause.
ANY_TIME = ("want", "stop", "stale", "ready", "handed")  # these may come in any state
Event = namedtuple("Event", "kind why pid code passing left wanted fails limit signum hint",
                   defaults=("", 0, 0, False, False, True, False, None, None, ""))  # fmt: skip

# Actions: what the Loop does for the pure rooms, in order.
Spawn = namedtuple("Spawn", "unit")
Kill = namedtuple("Kill", "unit pid signum whole why", defaults=("",))  # whole: all processes; why: for the log
StopCommand = namedtuple("StopCommand", "unit pid")
Say = namedtuple("Say", "level unit text final", defaults=(False,))  # final: the unit has failed for good
Test = namedtuple("Test", "unit purpose")  # see PURPOSES; or "listen": open its sockets; "watchdog": set that timer
Sweep = namedtuple("Sweep", "signum")
Exit = namedtuple("Exit", "code why quiet")
Changed = namedtuple("Changed", "unit text")  # for clients that follow
Wake = namedtuple("Wake", "unit instant")  # of `Fleet.take_deadline`, replacing the one before; None: never
Forget = namedtuple("Forget", "unit")
Replan = namedtuple("Replan", "")  # a reload may have changed schedules, the log and its files

RELOAD, RESTART, SHUTDOWN = "reload", "restart by hand", "shutdown"  # why a process is stopped
# Why a unit is wanted, if not as the `always` script of another.
BY_CONFIG, BY_NEED, BY_HAND, BY_CLOCK = "by configuration", "by dependency", "by hand", "by schedule"

SIGNALS = {name[3:]: int(getattr(signal, name)) for name in dir(signal) if name[:3] == "SIG" and name[3:].isalnum()}
SIGNALS["RTMIN"] = 34  # as glibc, docker and systemd count; musl keeps 34 for itself, and begins at 35
REAL_TIME = range(SIGNALS["RTMIN"], SIGNALS["RTMAX"] + 1)
SIGNALS.update((f"RTMIN+{index}", number) for index, number in enumerate(REAL_TIME))
SIGNALS.update((f"RTMAX-{index}", number) for index, number in enumerate(reversed(REAL_TIME)))
SIGNAL_NAMES = {number: "SIG" + name for name, number in reversed(SIGNALS.items())}  # of several, the first one
ALL_SIGNALS = {int(number) for number in signal.valid_signals()}
OWN_FAULTS = {SIGNALS["PIPE"], SIGNALS["XFSZ"]}  # PYTHON: ignored by CPython; that would survive exec
JOB_CONTROL = {SIGNALS[name] for name in "TSTP TTIN TTOU".split()}
SETTABLE = ALL_SIGNALS - {SIGNALS["KILL"], SIGNALS["STOP"]}  # signal(7)
CAUGHT = SETTABLE - {SIGNALS[name] for name in "ILL TRAP ABRT BUS FPE SEGV SYS".split()} - JOB_CONTROL
CHILD_ALONE = {SIGNALS["CHLD"]}
HARMLESS = {SIGNALS[name] for name in "CHLD CONT URG WINCH".split()} | JOB_CONTROL  # they kill nobody: signal(7)


class Mistake(ValueError):
    """A value that cannot be used. The text says what is wrong, and what would be right."""


def require(fine: object, fault: str) -> None:
    """Raise Mistake unless something is fine."""
    if not fine:
        raise Mistake(fault)


class StartError(Exception):
    """A process that could not be made. `passing`: for lack of a resource that may be free later."""

    def __init__(self, why: str, passing: bool = False) -> None:
        super().__init__(why)
        self.passing = passing


def is_number(text: str, most: int = 9, base: int = 10) -> bool:
    """Tell whether a text is 1 to `most` digits."""
    return 0 < len(text) <= most and not text.strip("0123456789"[:base])


def parse_duration(text: str, positive: bool = False) -> float:
    """Return seconds."""
    units = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
    number = text.rstrip("dhms ")
    unit = units.get(text[len(number) :].lstrip(), 0.0)
    valid = unit and not number.endswith(".") and is_number(number.replace(".", "", 1), 12)
    require(valid, f"{text!r} is not a duration, write seconds or one of 500ms 2s 5m 1h 7d")
    require(float(number) or not positive, "must be longer than 0")
    return float(number) * unit


def spell_duration(seconds: float) -> str:
    """Return a duration to about three digits: 0.25 s, 3.2 s, 5 min 10 s, 3 d 2 h."""
    if seconds < 59.95:
        return f"{round(seconds, 1 + (seconds < 1) + (seconds < 0.1)):g} s"
    whole = round(seconds)
    steps = (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1))
    unit, size, lesser, part = next(step for step in steps if whole >= step[1])
    rest = whole % size // part
    return f"{whole // size} {unit}" + (f" {rest} {lesser}" if rest else "")


def parse_signal(text: str) -> int:
    """Return the number of a signal given as TERM, SIGTERM, RTMIN+3, RTMAX-1 or 15."""
    name = text.upper()[3 if text[:3].upper() == "SIG" else 0 :]
    number = int(name) if is_number(name, 3) else SIGNALS.get(name, 0)
    if number not in ALL_SIGNALS:
        raise Mistake(f"{text!r} is not a signal{suggest(name, SIGNALS)}")
    return number


def spell_signal(number: int) -> str:
    return SIGNAL_NAMES.get(number, f"SIG{number}")


def parse_size(text: str) -> int:
    """Return bytes."""
    number = text.rstrip("bBkKmMgG").rstrip()
    unit = text[len(number) :].lstrip().upper()
    valid = is_number(number, 12) and re.fullmatch("([KMG]B?)?", unit)
    require(valid, f"{text!r} is not a size, write bytes or one of 64K 10M 1G")
    return int(number) << 10 * " KMG".index(unit[:1] or " ")


def spell_size(size: int) -> str:
    power = next(power for power in (3, 2, 1, 0) if size >= 1024**power or not power)
    return f"{size / 1024**power:.1f}".replace(".0", "") + (" bytes", " KiB", " MiB", " GiB")[power]


def spell_end(code: int) -> str:
    """Return how a process ended. `code`: its exit code, or minus the signal that killed it."""
    if code < 0:
        return f"killed by {spell_signal(-code)}"
    return f"exited with code {code}" + (f" (128 + {spell_signal(code - 128)})" if code - 128 in ALL_SIGNALS else "")


def spell_state(state: str) -> str:
    return "in backoff" if state == BACKOFF else state


def spell_list(words: list[str], most: int = 5) -> str:
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")


def exit_code(code: int) -> int:
    """Return the exit code that a shell gives: 128+N for a death by signal N."""
    return code if code >= 0 else 128 - code


def distance(one: str, two: str) -> int:
    """Return how many letters have to be inserted, deleted, changed or swapped (Damerau-Levenshtein)."""
    before, row = [], list(range(len(two) + 1))
    for i, a in enumerate(one):
        before, last, row = row, before, [i + 1]
        for j, b in enumerate(two):
            best = min(before[j + 1] + 1, row[j] + 1, before[j] + (a != b))
            swapped = i and j and a == two[j - 1] and b == one[i - 1]
            row.append(min(best, last[j - 1] + 1) if swapped else best)
    return row[-1]


def suggest(word: str, known: Iterable[str]) -> str:
    """Return `, did you mean "..."?` with the nearest known word, or nothing if none is near."""
    far = max(1, len(word) // 3) if len(word) < 40 else 0
    near = min(((distance(word.lower(), other.lower()), other) for other in known if far), default=(len(word), ""))
    return f', did you mean "{near[1]}"?' if near[0] <= far and near[0] < len(word) else ""


def parse_number(low: int, high: int, text: str, base: int = 10) -> int:
    digits = text[1:] if text[:1] == "-" and base == 10 else text
    bounds = f"an octal number from 000 to {high:o}" if base == 8 else f"a whole number from {low} to {high}"
    require(is_number(digits, base=base) and low <= int(text, base) <= high, f"{text!r} is not {bounds}")
    return int(text, base)


Flag = namedtuple("Flag", "short long parse")  # parse: of its value; None where it takes none
FLAGS = (Flag("-t", "timeout", parse_duration), Flag("-n", "lines", partial(parse_number, 0, 999999)),
         Flag("-f", "follow", None), Flag("-j", "json", None), Flag("--dot", "dot", None))  # fmt: skip


def parse_request(words: list[str], verbs: Mapping[str, Verb]) -> tuple[Verb, dict[str, Any], list[str]]:
    """Return the verb of a request, its options, and its other words, in any order. Raises Mistake."""
    name, *others = words or [""]
    verb, given = verbs.get(name), deque(others)
    if not verb:
        raise Mistake(f"there is no verb {name!r}{suggest(name, verbs)}")
    flags = {key: flag for flag in FLAGS if f"[{flag.short}" in verb.words for key in (flag.short, f"--{flag.long}")}
    options: dict[str, Any] = {}
    rest: list[str] = []
    if name == "signal" and given and given[0] != "--":  # `-HUP` is not an option
        given[0] = given[0].lstrip("-")
    while given:
        word = given.popleft()
        if word == "--" or (rest and "COMMAND" in verb.words):  # the rest is no option
            rest += [word, *given][word == "--" :]
            break
        require(word.split() == [word], f"there is no unit {word!r}")
        if word[0] != "-":
            rest.append(word)
            continue
        key, equals, value = word.partition("=") if word[:2] == "--" else (word[:2], "", word[2:])
        flag = flags.get(key)
        if not flag or (equals and not flag.parse):
            raise Mistake(f"{name} has no option {word}{suggest(key[2:], [flag.long for flag in flags.values()])}")
        require(equals or value or given or not flag.parse, f"{name} {word} needs a value")
        if value and not flag.parse:  # several in one word
            given.appendleft(f"-{value}")
        options[flag.long] = flag.parse(value if equals or value else given.popleft()) if flag.parse else True
    needed = re.sub(r"\[.*?\]|\.\.\.", "", verb.words).split()
    most = WORDS_MAX if "..." in verb.words else len(needed) + len(re.findall(r"\[[A-Z]", verb.words))
    if len(rest) < len(needed) or (len(rest) > most and "COMMAND" not in verb.words):
        raise Mistake(f"{name} {'needs' if needed else 'takes'} {verb.words or 'no arguments'}")
    return verb, options, rest


# ============================================================================================================ Graph

def sort_units(needs: Mapping[str, Iterable[Sequence[str]]]) -> tuple[list[str], list[list[str]]]:
    """Return the names, what they need first (pairs as in `deps`), else in the order given; and each cycle a, b, a."""
    order: list[str] = []
    cycles: list[list[str]] = []
    begun: set[str] = set()
    for root in needs:
        path: dict[str, Iterator[Sequence[str]]] = {} if root in begun else {root: iter(needs[root])}
        while path:  # no recursion: chains may be long
            name = next(reversed(path))
            begun.add(name)
            for dep, _ in path[name]:
                if dep in path:
                    names = list(path)
                    cycles.append([*names[names.index(dep) :], dep])
                elif dep in needs and dep not in begun:
                    path[dep] = iter(needs[dep])
                    break
            else:
                order.append(name)
                del path[name]
    return order, cycles


# =========================================================================================================== Config

NAME = r"[A-Za-z0-9_.-]+"
LIMITS = "as core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack".split()


def parse_matching(pattern: str, fault: str, text: str) -> str:
    require(re.fullmatch(pattern, text, re.DOTALL), f"{text!r} {fault}" if text else "is empty")
    return text


def parse_words(parse: Callable[[str], Any], text: str, empty: str | None = None) -> tuple[Any, ...]:
    """Parse words with blanks or commas between. `empty`: the text that means none."""
    words = [] if text == empty else text.replace(",", " ").split()
    require(words or text == empty, "is empty")
    return tuple(parse(word) for word in words)


def parse_choice(words: str, text: str, path: bool = False) -> str | None:
    """Return one of the words or, if allowed, the absolute path of a file; None for `none`."""
    choices = words.split()
    if text not in choices and not (path and text.startswith("/") and not text.endswith("/")):
        forms = ", ".join([*choices, "/PATH of a file"] if path else choices)
        meant = FOREIGN_VALUES.get(text.lower(), "")
        raise Mistake(f"{text!r} is none of: {forms}{suggest(meant if meant in choices else text, choices)}")
    return None if text == "none" else text


def split_pair(text: str, separator: str) -> tuple[str, str]:
    """Return what stands before and after a separator; without one, the text twice."""
    left, found, right = (part.strip() for part in text.partition(separator))
    return left, right if found else left


def parse_boolean(text: str) -> bool:
    require(text.lower() in RawConfigParser.BOOLEAN_STATES, f"{text!r} is not a boolean, write yes or no")
    return bool(RawConfigParser.BOOLEAN_STATES[text.lower()])


def parse_caught(text: str) -> int:
    number = parse_signal(text)
    require(number in CAUGHT - CHILD_ALONE, f"{spell_signal(number)} is overlord's own, or cannot be caught")
    return number


def parse_forward(text: str) -> tuple[int, int]:
    source, target = split_pair(text, ">")
    return parse_caught(source), parse_signal(target)


def parse_end(text: str) -> int:
    """Return an exit code, or a signal as a negative number."""
    if not is_number(text):
        return -parse_signal(text)
    require(int(text) < 256, f"{text} is not an exit code, they go from 0 to 255")
    return int(text)


def parse_respawns(text: str) -> tuple[int, float] | None:
    """Return how many restarts in how many seconds (0: ever, IN_A_ROW: without being OK); None: no limit."""
    if text == "unlimited":
        return None
    count, window = split_pair(text, "/")
    forms = "write 5, or 5/60s (in that time), 5/ok (in a row), or unlimited"
    require(is_number(count), f"{text!r} is not a limit, {forms}")
    if window == OK:
        return int(count), IN_A_ROW
    return int(count), parse_duration(window, positive=True) if "/" in text else 0.0


def parse_backoff(text: str) -> tuple[float, float]:
    low, high = split_pair(text, "..")
    lower, upper = parse_duration(low), parse_duration(high)
    require(lower <= upper, f"the lower bound {low} is above the upper bound {high}")
    require(lower or not upper, f"a delay of 0 cannot double up to {high}, write a lower bound as 100ms..{high}")
    return lower, upper


def parse_max_age(text: str) -> tuple[float, float]:
    age, spread = split_pair(text, "~")
    longest, cut = parse_duration(age, positive=True), parse_duration(spread) if "~" in text else 0.0
    require(cut < longest, f"the random part {spread} is not shorter than the age {age}")
    return longest, cut


def parse_limit(text: str) -> tuple[str, int, int]:
    """Return name, soft and hard limit (-1: unlimited)."""
    name, value = split_pair(text, "=")
    if "=" not in text or name not in LIMITS:
        near = suggest(name, LIMITS) or f", with one of {' '.join(LIMITS)}"
        raise Mistake(f"{text!r} is not of the form NAME=NUMBER{near}")
    soft, hard = (-1 if part in ("unlimited", "infinity") else parse_size(part) for part in split_pair(value, ":"))
    require(hard < 0 or 0 <= soft <= hard, f"{text}: the soft limit is above the hard limit")
    return name, soft, hard


# What the fields of crontab(5) allow. either: the day or the weekday; hourly: each hour. Or every: seconds, alone.
Schedule = namedtuple("Schedule", "minutes hours days months weekdays either hourly every", defaults=(None,))
MONTHS = tuple("jan feb mar apr may jun jul aug sep oct nov dec".split())
WEEKDAYS = tuple("sun mon tue wed thu fri sat".split())
CRON_FIELDS = ((0, 59, ()), (0, 23, ()), (1, 31, ()), (1, 12, MONTHS), (0, 7, WEEKDAYS))
NICKNAMES = {
    "@hourly": "0 * * * *", "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *", "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *",
}  # fmt: skip


def parse_schedule(text: str) -> Schedule:
    words = NICKNAMES.get(text.lower(), text).split()
    if words[:1] == ["every"]:
        return Schedule(*[None] * 7)._replace(every=parse_duration(" ".join(words[1:]), positive=True))
    if len(words) != 5:
        form = ", write MINUTE HOUR DAY MONTH WEEKDAY, @hourly, @daily or every 10m"
        raise Mistake(f"{text!r} is not a schedule{suggest(text.lower(), NICKNAMES) or form}")
    minutes, hours, days, months, weekdays = (parse_field(word, *field) for word, field in zip(words, CRON_FIELDS))
    _, any_hour, any_day, _, any_weekday = (word[0] == "*" for word in words)
    weekdays = frozenset(day % 7 for day in weekdays)  # Sunday is 0 and 7
    plan = Schedule(minutes, hours, days, months, weekdays, not (any_day or any_weekday), any_hour)
    require(next_run(plan, 0.0), f"{text!r} names a day that no year has")
    return plan


def parse_field(text: str, low: int, high: int, names: tuple[str, ...]) -> frozenset[int]:
    found: set[int] = set()
    for item in text.lower().split(","):
        match = re.fullmatch(r"(?:\*|(\w+)(?:-(\w+))?)(?:/(\d{1,3}))?", item, re.ASCII)
        if not match or (match[3] and not int(match[3])):
            raise Mistake(f"{item!r} is none of *, N, N-M, with /STEP if you like, and commas between")
        ends = []
        for word in filter(None, match.groups()[:2]):
            number = low + names.index(word) if word in names else int(word) if word.isdigit() else -1
            if not low <= number <= high:
                raise Mistake(f"{word!r} in {text!r} does not lie between {low} and {high}{suggest(word, names)}")
            ends.append(number)
        if not ends or (match[3] and not match[2]):  # `*` and `N/STEP` go on to the highest
            ends = [*(ends or [low]), high]
        require(ends[0] <= ends[-1], f"{item!r} ends before it begins")
        require(int(match[3] or 1) <= high - low + 1, f"{item!r} steps out of its field, which ends with {high}")
        found.update(range(ends[0], ends[-1] + 1, int(match[3] or 1)))
    return frozenset(found)


def next_run(plan: Schedule, after: float) -> float | None:
    """Return the first instant after `after` (seconds since the epoch) that a schedule names, or None.
    What is planned for the hour that is missing when clocks go forward runs at its end; for the hour that comes twice,
    the first time. If the hour is `*`, elapsed time counts."""
    year, month, today = time.localtime(after)[:3]
    for day in range(today, today + 366 * 41):  # in 40 years a 29th of February falls on each day of the week
        noon = time.localtime(time.mktime((year, month, day, 12, 0, 0, 0, 0, -1)))
        by_day, by_weekday = noon[2] in plan.days, (noon[6] + 1) % 7 in plan.weekdays
        fits = (by_day or by_weekday) if plan.either else (by_day and by_weekday)
        if fits and noon[1] in plan.months:
            for instant in runs_of_day(plan, noon[:3], after):
                if instant > after:
                    return instant
    return None


def runs_of_day(plan: Schedule, date: Any, after: float) -> Iterator[float]:
    """Yield the instants on a date that a schedule names. May leave out those before `after`."""
    instant = 0.0
    if plan.hourly:
        instant = max(time.mktime((*date, 0, 0, 0, 0, 0, -1)), after // 60 * 60 + 60)
        while (now := time.localtime(instant))[:3] == date:
            if now[3] in plan.hours and now[4] in plan.minutes:
                yield instant
            instant += 60
        return
    for clock in ((*date, hour, minute) for hour in sorted(plan.hours) for minute in sorted(plan.minutes)):
        instant = max(instant, time.mktime((*clock, 0, 0, 0, -1)) - 7200)  # clocks change by two hours at most
        while time.localtime(instant)[:5] < clock:
            instant += 60
        yield instant


# port: also N of `fd:N`; path: also a command, or the REGEX of `log:`; text: as it is written.
Probe = namedtuple("Probe", "kind host port path text")
ADDRESS = r"(?P<host>\[[0-9A-Fa-f:.]+\]|[\w.-]+)"
PROBES = {  # kind: how it is written, and the pattern for that
    "tcp": ("tcp:[HOST:]PORT", rf"tcp:(?:{ADDRESS}:)?(?P<port>\d{{1,5}})"),
    "unix": ("unix:/PATH", "unix:(?P<path>/.*)"),
    "http": ("http://HOST[:PORT]/PATH", rf"http://{ADDRESS}(?::(?P<port>\d{{1,5}}))?(?P<path>/.*)?"),
    "file": ("file:/PATH", "file:(?P<path>/.*)"),
    "cmd": ("cmd:SHELL COMMAND", r"cmd:\s*(?P<path>\S.*)"),
    "notify": ("notify", "notify"),
    "fd": ("fd:N with N from 3", r"fd:(?P<port>[3-9]|[1-9]\d{1,2})"),
    "log": ("log:REGEX", "log:(?P<path>.+)"),
}
COMMON_PROBES = ("tcp", "unix", "http", "file", "cmd")


def parse_probe(text: str, kinds: tuple[str, ...] = COMMON_PROBES) -> Probe:
    kind = text.partition(":")[0]
    match = re.fullmatch(PROBES[kind][1], text, re.ASCII | re.DOTALL) if kind in kinds else None
    if not match:
        near = "" if kind in kinds else suggest(kind, kinds)
        what = "a probe" if "cmd" in kinds else "an address"
        raise Mistake(f"{text!r} is not {what}{near}; write {', '.join(PROBES[each][0] for each in kinds)}")
    found = {key: value for key, value in match.groupdict().items() if value}
    host = found.get("host", "localhost" if kind == "tcp" else "").strip("[]")
    port = int(found.get("port", 80 if kind == "http" else 0))
    path = found.get("path", "/" if kind == "http" else "")
    require(0 < port < 65536 or kind not in ("tcp", "http"), f"{port} is not a port, they go from 1 to 65535")
    if kind == "http":
        path = re.sub(r"\s", "%20", path)
    elif kind == "log":
        try:
            re.compile(path.encode())
        except (re.error, OverflowError, RecursionError) as error:
            raise Mistake(f"{path!r} is not a regular expression: {error}") from None
    return Probe(kind, host, port, path, text)


def parse_probes(line: str) -> tuple[Probe, ...]:
    """Parse a command, or probes with blanks or commas between."""
    between = r",?\s+|,(?=(?:tcp|unix|http|file):)|,$"
    return tuple(parse_probe(word) for word in ([line] if line[:4] == "cmd:" else re.split(between, line)) if word)


def parse_sockets(text: str) -> tuple[Probe, ...]:
    """Return what to listen on; the host "" means all addresses."""
    found = [parse_probe(word, kinds=("tcp", "unix")) for word in text.split()]
    require(len({each.text for each in found}) == len(found), "an address is given twice")
    return tuple(each._replace(host="") if each.text.count(":") == 1 else each for each in found)


def parse_deps(text: str) -> tuple[tuple[str, str], ...]:
    """Return pairs of name and state."""
    deps: dict[str, str] = {}
    for item in text.split(",") if text else ():
        name, state = split_pair(item, ":")
        valid = re.fullmatch(NAME, name) and re.fullmatch(NAME, state)
        require(valid, f"{item.strip()!r} is not of the form name:state, and commas go between")
        require(name not in deps, f"{name!r} is given twice")
        deps[name] = state if ":" in item else OK
    return tuple(deps.items())


# `${NAME` with its operator, a `${` that begins no reference, `$$`, `}`
TOKEN = r"\$\{(?:([A-Za-z_][A-Za-z0-9_.]*)(?=\}|:[-?])(:[-?])?)?|\$\$|\}"
QUOTED_TOKEN = rf'\\[$"`\\\n]|{TOKEN}'  # in double quotes a backslash escapes as in the shell
# single-quoted, double-quoted, escaped, bare, anything else; COST: one way to match a text, so no backtracking
SHELL_PIECE = r"(?s)'([^']*)'|\"((?:\\.|[^\"\\])*)\"|(\\.)|((?:\$\{[^}]*\}|(?!\$\{)[^\s'\"\\])+)|(.)"
# A comment; a line whose value begins with a quote, which may end in another line; any other line.
ENV_LINE = r"(?s)#[^\n]*|[^\n=#]*=(?:'[^']*'|\"(?:\\.|[^\"\\])*\")[^\n]*|[^\n]+"


def parse_env(text: str) -> tuple[tuple[str, str], ...]:
    """Return the key and the word of each line KEY=word, which has to be quoted as in the shell."""
    pairs = []
    for line in (found[0].strip() for found in re.finditer(ENV_LINE, text)):
        if line[:1] in ("", "#"):
            continue
        key, equals, word = line.partition("=")
        require(equals and re.fullmatch(r"[^\s'\"$]+", key), f"{line!r} is not of the form KEY=value")
        valid = not any(piece[5] for piece in re.finditer(SHELL_PIECE, word))
        require(valid, f"the value of {key} has a blank or a lone quote: write {key}='...', one pair a line")
        pairs.append((key, word))
    return tuple(pairs)


def fill_env(pairs: Iterable[tuple[str, str]], environment: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return these pairs, the words unquoted and filled; each sees those before it. Raises Mistake."""
    found: dict[str, str] = {}
    known = {**environment}
    for key, word in pairs:
        value = ""
        for piece in re.finditer(SHELL_PIECE, word):
            single, double, escaped, bare, _ = piece.groups("")
            value += single + escaped[1:] + fill(bare, known) + fill(double, known, QUOTED_TOKEN)
        found[key] = known[key] = value
    return tuple(found.items())


def fill(text: str, known: Mapping[str, str], tokens: str = TOKEN) -> str:
    """Return a text with `${VAR}`, `${VAR:-default}`, `${VAR:?message}` and `$$` replaced; any other `$` is itself.
    Defaults may nest. Raises Mistake if a variable that is needed is not set."""
    if "$" not in text and "\\" not in text:
        return text
    levels: list[tuple[Any, list[Any]]] = [(None, [])]  # each `${` that is open, and what follows: texts and Mistakes
    at = 0
    for token in re.finditer(tokens, text):
        opening, parts = levels[-1]
        parts.append(text[at : token.start()])
        at = token.end()
        if token[0].startswith("${"):
            levels.append((token, []))
        elif token[0] != "}" or not opening:
            parts.append(token[0][-1].strip("\n"))  # a backslash before the end of a line joins two
        else:
            levels.pop()
            name, operator = opening.groups("")
            if not name:
                parts = [opening[0], *parts, "}"]
            elif known.get(name) or (name in known and not operator):
                parts = [known[name]]
            elif operator != ":-":
                word = text[opening.end() : token.start()]
                advice = f"is not set; set it, or give a default as ${{{name}:-...}}"
                parts = [Mistake(f"${{{name}}}: {word or advice}")]  # which counts only if this is needed
            levels[-1][1].extend(parts)
    levels[-1][1].append(text[at:])
    parts = [part for opening, parts in levels for part in ([opening[0], *parts] if opening else parts)]
    mistakes = [part for part in parts if isinstance(part, Mistake)]
    if mistakes:
        raise mistakes[0]
    return "".join(parts)


# kinds: of the sections that have it (o overlord, s script, d daemon); default: as written, "": it depends; shown:
# the default in words. `help` and the README's tables are made from this.
Option = namedtuple("Option", "name kinds parse default help shown", defaults=("",))
bind: Any = partial  # mypy 1.14 crashes on partial(partial, ...)
one_of, between, several = (bind(partial, parse) for parse in (parse_choice, parse_number, parse_words))
parse_positive = partial(parse_duration, positive=True)
parse_text = partial(parse_matching, ".+", "")
parse_variable = partial(parse_matching, "[A-Za-z_][A-Za-z0-9_]*", "is not the name of a variable")
OPTIONS = tuple(Option(*row) for row in (
    ("forever", "o", parse_boolean, "true", "restart daemons that set neither `respawns` nor `restart`"),
    ("configdir", "o", parse_text, "/etc/overlord/", "folder of more config files, read by name; may be absent"),
    ("shutdown_timeout", "o", parse_positive, "9s", "from the request to the last SIGKILL (docker kills at 10 s)"),
    ("shutdown_signals", "o", several(parse_caught), "TERM INT QUIT RTMIN+3",
     "what asks for shutdown (images set STOPSIGNAL: httpd `WINCH`, haproxy `USR1`)"),
    ("socket", "o", one_of("abstract none", path=True), "abstract",
     "control socket: `abstract` needs no file; `/PATH` is for a second overlord in a container; `none`"),
    ("when_idle", "o", one_of("exit stay"), "exit", "`exit` or `stay` when nothing runs, and nothing ever can again"),
    ("log_level", "o", one_of("debug info warning error"), "info", "overlord's messages: `debug info warning error`"),
    ("log_format", "o", one_of("text json"), "text", "overlord's own messages, on stderr: `text` or `json`"),
    ("output", "o", one_of("inherit prefix null", path=True), "inherit", "default of the units' `stdout` and `stderr`"),
    ("cmd", "sd", parse_text, "", "run by `/bin/sh -c`; a lone simple command leaves no shell behind", "required"),
    ("dir", "sd", parse_text, "none", "working directory", "inherited"),
    ("uid", "sd", partial(parse_matching, "[^:]+", "is not a user; for a group write gid"), "none",
     "user (or its number); groups, `HOME USER LOGNAME SHELL` follow", "inherited"),
    ("gid", "sd", parse_text, "", "group (or its number)", "of `uid`"),
    ("deps", "sd", parse_deps, "none", "comma-separated `name:state`, in order; `ok` (as `name` alone), `bounce` or "
     "`started`; of a script `ok`, `ended` or `always`"),
    ("env", "sd", parse_env, "none",
     "`KEY=value`, one a line, quoted as in the shell, over several lines too; `${...}`, not in '', sees earlier ones"),
    ("env_file", "sd", several(partial(parse_matching, "-*[^-].*", "is not a file"), empty=""), "none",
     "files of `KEY=value` lines (less quotes), or folders of a file each (envdir); read at each start; `-`: optional"),
    ("secrets", "sd", several(parse_variable, empty=""), "none",
     "`NAME` gets what the file in `NAME_FILE`, else `/run/secrets/NAME` holds, less its last newline; never shown"),
    ("umask", "sd", between(0, 0o777, base=8), "none", "octal, as `022`", "inherited"),
    ("nice", "sd", between(-20, 19), "none", "-20 (first served) to 19", "inherited"),
    ("limits", "sd", several(parse_limit), "none",
     "`nofile=65536 core=0`, in the units of setrlimit(2), or `K M G`; `SOFT:HARD`, `unlimited`", "inherited"),
    ("stdout", "sd", one_of("inherit prefix null", path=True), "",
     "`inherit` the container's; `prefix`: captured, as `NAME | line`; `/PATH`: a rotated file; `null`", "`output`"),
    ("stderr", "sd", one_of("stdout inherit prefix null", path=True), "",
     "as `stdout`, or `stdout` to join it", "`output`"),
    ("log_max", "sd", parse_size, "10M", "size from which on a log file is rotated; `0`: never"),
    ("log_keep", "sd", between(0, 1000), "5", "rotated files that are kept; `PATH.1` is the latest"),
    ("stop_signal", "sd", parse_signal, "TERM", "name or number; what ignores it gets `TERM`"),
    ("stop_timeout", "sd", parse_duration, "8s", "from the stop signal to SIGKILL of all that `kill_mode` stops"),
    ("kill_mode", "sd", one_of("mixed all process"), "mixed",
     "stops `mixed`: the main process, then what it left; `all`: all at once; `process`: it alone (sshd, cron)"),
    ("pidfile", "d", one_of("", path=True), "none",
     "`/PATH` in which a daemon names its main process in the background, or a new one (USR2 of gunicorn, nginx)"),
    ("stop_cmd", "d", parse_text, "none",
     "shell command instead of the stop signal, run as the unit, with `$MAINPID`; SIGKILL after `stop_timeout`"),
    ("on_failure", "sd", one_of("shutdown ignore"), "", "on its final failure: `shutdown` or `ignore`", "`shutdown`"),
    ("on_success", "sd", one_of("shutdown ignore"), "ignore", "the same for its final success"),
    ("respawns", "sd", parse_respawns, "", "restarts after it ended by itself; `5/60s`: at most 5 in any 60 s; `3/ok`: "
     "at most 3 without being OK in between; one after a run that was OK does not count",
     "daemon: unlimited (0 when `forever=false` and `restart` is not set); script: 0"),
    ("restart", "d", one_of("always on-failure never"), "always", "`always`, `on-failure` or `never`"),
    ("success", "sd", several(parse_end, empty="none"), "0", "exit codes and signals that count as success; or `none`"),
    ("backoff", "sd", parse_backoff, "100ms..30s",
     "before a restart: none at first, then doubling; anew after a run of 10 s or the last delay; `0`: none ever"),
    ("warmup", "d", parse_duration, "", "how long it must live to be OK", "`1s`; `0` where `ready` is given"),
    ("ready", "d", partial(parse_probe, kinds=(*COMMON_PROBES, "notify", "fd", "log")), "none",
     "when it is up: `tcp:[HOST:]PORT`, `unix:PATH`, `http://HOST[:PORT]/PATH`, `file:PATH`, `cmd:SHELL`, `notify` "
     "(sd_notify), `fd:N` (s6: a newline on that descriptor), `log:REGEX` (a captured line)"),
    ("listen", "d", parse_sockets, "none",
     "sockets that overlord opens and keeps for it (sd_listen_fds), a line each: `tcp:[HOST:]PORT`, `unix:/PATH`; "
     "connections wait while it restarts, none is refused; instances share them"),
    ("watchdog", "d", parse_positive, "none", "once up, restarted as failed without `WATCHDOG=1` (sd_notify) so often"),
    ("ready_timeout", "d", parse_positive, "60s", "not ready by then: stopped and counted as a failure"),
    ("health", "d", parse_probe, "none", "whether it still answers: a probe as for `ready`, but the last three"),
    ("health_interval", "d", parse_positive, "10s", "between two of these"),
    ("health_timeout", "d", parse_positive, "3s", "for one try of a probe"),
    ("health_retries", "d", between(1, 1000), "3", "failures in a row until it is restarted as failed"),
    ("wait_for", "sd", parse_probes, "none", "probes, one a line, that must pass before each start; waits for ever"),
    ("max_age", "d", parse_max_age, "none", "restarted at this age, not counted; `1h~10m`: up to 10 m sooner"),
    ("timeout", "s", parse_positive, "none", "a script still running then is stopped and has failed"),
    ("schedule", "s", parse_schedule, "none",
     "also run by the clock: `*/5 * * * *`, `@hourly`, `every 10m`; never twice at a time; a failure is only logged"),
    ("forward", "d", several(parse_forward, empty="none"), "HUP",
     "signals passed on to it, never to kill it; `HUP>USR2` sends another; `none`"),
    ("count", "d", between(0, 1000), "none",
     "instances `NAME-1` to `NAME-N`, each with `OVERLORD_INSTANCE`; a dependency on `NAME` means all; `0`: none"),
    ("autostart", "d", parse_boolean, "true", "`false`: started only as a dependency or by hand"),
))  # fmt: skip
# Options and sections of supervisord and circus, or how they begin, and the option here or else what to do.
# FOREIGN_VALUES has what their values, and the verbs of supervisorctl, are called here.
HELPS = {option.name: f"write `{option.name}`: {option.help}" for option in OPTIONS}
FOREIGN = {word: HELPS.get(advice, advice) for advice, words in (
    ("cmd", "command args executable execstart"), ("dir", "directory working_dir workdir workingdirectory"),
    ("uid", "user"), ("deps", "priority depend depends depends-on dependencies requires wants after"),
    ("env", "environment env"), ("env_file", "environmentfile"), ("warmup", "startsecs"), ("success", "exitcodes"),
    ("restart", "autorestart respawn"), ("respawns", "startretries max_retry"), ("count", "numprocs numprocesses"),
    ("stop_signal", "stopsignal killsignal"), ("stop_timeout", "stopwaitsecs graceful_timeout timeoutstopsec"),
    ("log_level", "loglevel"),
    ("kill_mode", "stopasgroup stop_children"), ("limits", "rlimit minfds"), ("max_age", "max_age_variance"),
    ("stdout", "stdout_logfile stdout_stream logfile"), ("stderr", "redirect_stderr stderr_logfile stderr_stream"),
    ("log_max", "stdout_logfile_maxbytes stderr_logfile_maxbytes"), ("listen", "socket use_sockets"),
    ("log_keep", "stdout_logfile_backups stderr_logfile_backups"), ("configdir", "include include_dir files"),
    ("write a [script:SCRIPT], and `deps` = SCRIPT:always", "hooks"),
    ("write [daemon:NAME], or [script:NAME] for what runs once", "program fcgi-program watcher"),
    ("write [daemon] or [script] for the defaults of all units of that kind", "DEFAULT"),
    ("write [overlord]; make convert in overlord's repository converts whole files", "supervisord circus"),
    ("write a [daemon:http] with cmd = overlord.py serve PORT, to look at all", "inet_http_server httpd statsd"),
    ("leave it out: verbs take globs, overlord.py restart 'web-*'; a user's group is `gid`", "group programs"),
    ("leave it out: on_failure = shutdown ends the container, overlord.py events shows all", "eventlistener events"),
    ("leave it out: overlord.py status, start, stop and so on need nothing",
     "unix_http_server rpcinterface supervisorctl ctlplugin plugin endpoint pubsub multicast stats serverurl"),
    ("leave it out: there is nothing like it, or no need of it",
     "process_name numprocs_start singleton killasgroup copy shell nodaemon daemon silent childlogdir identifier "
     "nocleanup strip minprocs stdout stderr logfile_maxbytes logfile_backups warmup_delay check_delay send_hup "
     "on_demand close virtualenv buffer result debug logoutput loggerconfig fqdn stream"),
) for word in words.split()}  # fmt: skip
FOREIGN_VALUES = {
    "true": "always", "false": "never", "unexpected": "on-failure", "auto": "inherit", "none": "null",
    "warn": "warning", "critical": "error", "trace": "debug", "blather": "debug",
    "tail": "logs", "update": "reload", "reread": "reload", "avail": "status", "pid": "status",
}  # fmt: skip
SHAPING = frozenset(  # a reload that changes one of these restarts the unit
    "kind instance cmd dir uid gid env env_file secrets umask nice limits stdout stderr ready pidfile listen watchdog"
    .split()
)
KINDS = {"overlord": "o", "script": "s", "daemon": "d"}
SECTIONS = "write [daemon:NAME], [script:NAME] or [overlord]"
BY_KIND = {kind: {each.name: each for each in OPTIONS if letter in each.kinds} for kind, letter in KINDS.items()}
DEFAULTS = {each.name: each.parse(each.default) if each.default not in ("", "none") else None for each in OPTIONS}
DEFAULTS.update(dict.fromkeys(("deps", "env", "env_file", "secrets", "limits", "wait_for", "listen"), ()))
if TYPE_CHECKING:

    class Spec:  # its fields come from the table
        _fields: tuple[str, ...]

        def __init__(self, **values: Any) -> None: ...
        def __getattr__(self, name: str) -> Any: ...

    Settings = Spec
    Line = tuple[int, int]
else:
    Settings = namedtuple("Settings", BY_KIND["overlord"], defaults=[DEFAULTS[name] for name in BY_KIND["overlord"]])
    names = [name for name in DEFAULTS if name not in BY_KIND["overlord"]]
    Spec = namedtuple("Spec", ["name", "kind", "instance", *names], defaults=[DEFAULTS[name] for name in names])
Config = namedtuple("Config", "settings units order")  # units: name -> Spec; order: dependencies first


def section_of(spec: Spec) -> str:
    return f"{spec.kind}:{spec.name.rpartition('-')[0] if spec.instance else spec.name}"


def is_captured(spec: Spec) -> bool:
    return not {spec.stdout, spec.stderr} <= {"inherit", "null", "stdout"}


def main_spec(argv: Iterable[str], daemons: Iterable[str]) -> Spec:
    """Return the main command (Docker's CMD) as a unit that needs every daemon, and that only a shutdown stops."""
    deps = tuple((name, OK) for name in daemons)
    return Spec(name=MAIN, kind="main", instance=0, cmd=tuple(argv), deps=deps, forward=(), restart="never",
                on_failure="shutdown", on_success="shutdown", stop_timeout=1e9)  # fmt: skip


def own_variables(name: str, number: int) -> dict[str, str]:
    return {"OVERLORD_NAME": name, **({"OVERLORD_INSTANCE": str(number)} if number else {})}


class Mistakes(Exception):
    """All that is wrong with a configuration, as a list of lines `FILE:LINE: [section] option: what`."""

    def __str__(self) -> str:
        return f"{len(self.args[0])} mistake{'s' if len(self.args[0]) > 1 else ''} in the configuration"


def number_lines(text: str) -> Iterator[str]:
    """Yield lines for configparser, which keeps neither numbers nor indentation: `  nice = 5` in line 17 becomes
    `  17=  nice = 5`, an option 17. A comment between options becomes a header, and so ends the value before it."""
    yield "1=#"  # or else configparser refuses what stands before the first section
    for number, line in enumerate(text.split("\n"), 1):
        if line[:1] not in ("#", ";"):
            body = line.strip()
            yield f"{line[: line.find(body)]}{number}={line.rstrip()}" if body else ""


class Draft:
    """The configuration while it is read. A place is the index of a file and the number of a line."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment
        self.files: list[str] = []
        self.headers: dict[str, list[Line]] = {}  # section -> where it begins
        self.sections: dict[str, dict[str, tuple[str, Line, str]]] = {}  # -> option -> section, place, value as written
        self.mistakes: set[tuple[Line, str]] = set()

    def refuse_file(self, path: str, why: str) -> None:
        self.files.append(path)
        self.mistake((len(self.files) - 1, 1), "", why)

    def read_text(self, path: str, content: bytes) -> None:
        """Read one more file, whose options override those of earlier ones."""
        file = len(self.files)
        self.files.append(path)
        try:
            text = content.decode().lstrip("\ufeff")  # COST: the codec `utf-8-sig` is a module of its own
            at, fault = content.find(b"\0"), "a NUL byte"
        except UnicodeDecodeError as error:
            at, fault = error.start, f"byte 0x{content[error.start]:02x} is not UTF-8"
        if at >= 0:
            self.mistake((file, content.count(b"\n", 0, at) + 1), "", fault)
            return
        parser = RawConfigParser(strict=False, interpolation=None, comment_prefixes=())
        parser.converters.clear()  # COST: each section would get three methods of its own
        parser.SECTCRE = re.compile(r"(?P<header>\d+=\s*[\[#;].*)")
        section = ""
        parser.read_file(number_lines(text))
        for header in parser.sections():
            number, _, line = header.partition("=")
            if line.lstrip()[0] == "[":
                section = self.open_section((file, int(number)), line.strip())
            for number, value in parser.items(header):
                self.take_option(section, (file, int(number)), value)
            parser.remove_section(header)  # COST: it takes several times the memory of its text

    def open_section(self, place: Line, line: str) -> str:
        """Return the section that a header opens."""
        if not (header := re.fullmatch(r"\[\s*([^\]\s][^\]]*)\]\s*(?:[#;].*)?", line)):
            self.mistake(place, "", f"{line!r} is not a section, {SECTIONS}")
            return line
        section = ":".join(part.strip() for part in header[1].split(":", 1))
        places = self.headers.setdefault(section, [])
        if places and places[-1][0] == place[0]:
            self.mistake(place, f"[{section}]", "is given twice in this file")
        places.append(place)
        return section

    def take_option(self, section: str, place: Line, text: str) -> None:
        """Record an option, without the indentation that the further lines of its value share."""
        line, *rest = text.split("\n")
        name, *value = re.split("[=:]", line, maxsplit=1)
        name = name.strip().lower()
        options = self.sections.setdefault(section, {})
        if not section:
            hint = "; a Procfile? make convert in overlord's repository converts it" if re.match(r"\w+:", line) else ""
            self.mistake(place, "", f"{line!r} stands before the first [section]{hint}")
        elif not (name and value) or len(name.split()) > 1:
            fault = f"{line!r} is not of the form option = value; indent it to continue a value"
            self.mistake(place, f"[{section}]", fault)
        elif name in options and options[name][1][0] == place[0]:
            self.mistake(place, f"[{section}] {name}", "is given twice in this file")
        else:
            rest = [numbered.partition("=")[2] for numbered in rest]
            margin = min((len(line) - len(line.lstrip()) for line in rest if line), default=0)
            options[name] = section, place, "\n".join([*value, *(line[margin:] for line in rest)]).strip()

    def mistake(self, place: Line, subject: str, text: str) -> None:
        text = ": ".join(filter(None, (subject, text.replace("\n", " "))))
        self.mistakes.add((place, f"{self.files[place[0]]}:{place[1]}: {text}"))

    def blame(self, section: str, name: str, text: str) -> None:
        """Report a mistake in an option at its line, or if it is not given at the header."""
        header = (section, self.headers.get(section, [(0, 1)])[0], "")
        owner, place, _ = self.options_of(section).get(name, header)
        self.mistake(place, f"[{owner}] {name}", text)

    def options_of(self, section: str) -> dict[str, tuple[str, Line, str]]:
        """Return the options of a section, those that its kind has for it included."""
        kind = section.partition(":")[0]
        base = {name: given for name, given in self.sections.get(kind, {}).items() if name in BY_KIND[kind]}
        return {**base, **self.sections.get(section, {})}

    def setting(self, name: str) -> str:
        """Return an option of [overlord] as text. Raises Mistake."""
        given = self.sections.get("overlord", {}).get(name)
        return fill(given[2], self.environment) if given else BY_KIND["overlord"][name].default

    def parse_option(self, kind: str, name: str, text: str, known: Mapping[str, str]) -> Any:
        if not (option := BY_KIND[kind].get(name)):
            owners = "] and [".join(other for other in KINDS if name in BY_KIND[other])
            hint = ": write [script:NAME] for what runs to its end" if owners == "script" else ""
            alone = owners and f"is an option of [{owners}] alone{hint}"
            raise Mistake(alone or explain_word("option", name, BY_KIND[kind]))
        lines = [line.strip() for line in text.split("\n")] if name == "wait_for" else [text]
        later = name in ("cmd", "stop_cmd", "env")  # the shell fills these, and `fill_env`
        filled = [line if later or line.startswith("cmd:") else fill(line, known) for line in lines]
        if "\n".join(filled) == option.default == "none":
            return DEFAULTS[name]
        if name != "wait_for":
            return option.parse(filled[0])
        # Messages show a probe as it is written, since variables may hold secrets.
        probes = [(each, line) for line, full in zip(lines, filled) for each in option.parse(full)]
        return tuple(each._replace(text=line) if "${" in line else each for each, line in probes)

    def parse_section(self, section: str, known: Mapping[str, str]) -> dict[str, Any]:
        """Return the options that a section and that of its kind give, parsed; for a mistake, the default."""
        kind, found = section.partition(":")[0], {}
        for name, (_, _, text) in self.options_of(section).items():
            try:
                found[name] = self.parse_option(kind, name, text, known)
            except Mistake as mistake:
                known_option = name in BY_KIND[kind]
                comment = known_option and re.search(r"\A[^\n]*[ \t][#;]", text)
                self.blame(section, name, f"{mistake}{'; # and ; begin no comment inside a value' if comment else ''}")
                if known_option:
                    found[name] = DEFAULTS[name]
        return found

    def resolve(self) -> Config:
        """Return the configuration; with `mistakes`, what it would be but for them."""
        settings = Settings(**self.parse_section("overlord", self.environment))
        if self.options_of("overlord").get("configdir", ("", (0, 0)))[1][0]:
            self.blame("overlord", "configdir", "belongs only in the main file")
        for kind in ("script", "daemon"):  # also if there is no such unit
            self.parse_section(kind, {**self.environment, **own_variables("x-1", 1)})
        teams: dict[str, list[Spec]] = {}  # a unit, or its instances, by the name in the configuration
        for section, (place, *_) in self.headers.items():
            kind, _, name = section.partition(":")
            if section in KINDS:
                continue
            if kind not in ("script", "daemon"):
                headers = ("overlord", f"daemon:{name}", f"script:{name}") if name else KINDS
                word = kind if kind == "overlord" else section
                self.mistake(place, f"[{section}]", explain_word("section", word, headers, f", {SECTIONS}"))
            elif not re.fullmatch(NAME, name):
                self.mistake(place, f"[{section}]", f"{name!r} is not a name: letters, digits, _ . - make one")
            elif name in teams:
                self.mistake(place, f"[{section}]", f"the name is taken by [{section_of(teams[name][0])}]")
            else:
                teams[name] = self.make_team(section, settings)
        units = self.link_units(teams)
        needs = {name: [dep for unit in team for dep in unit.deps] for name, team in teams.items()}
        order, cycles = sort_units(needs)
        for cycle in cycles:
            fault = f"a cycle: {' -> '.join(cycle)}; one of these has to start first"
            self.blame(section_of(teams[cycle[0]][0]), "deps", fault)
        return Config(settings, units, [unit.name for name in order for unit in teams[name] if unit.count != 0])

    def validate(self, unit: str = "") -> Config:
        """Return the configuration. Raises Mistakes with all that were found; for a `unit`, those of others aside."""
        config, found = self.resolve(), [text for _, text in sorted(self.mistakes)]
        if unit in config.units:
            own = f"[{section_of(config.units[unit])}]"
            found = [text for text in found if own in text or not re.search(r":\d+: \[\w+:", text)]
        if found:
            raise Mistakes(found)
        return config

    def make_team(self, section: str, settings: Settings) -> list[Spec]:
        """Return a unit, or as many instances as its `count` says; for 0 one with that count, to be checked only."""
        given, count = self.options_of(section).get("count"), None
        try:
            if given:
                count = self.parse_option(section.partition(":")[0], "count", given[2], self.environment)
        except Mistake:  # `make_unit` reports it
            count = 0
        if count == 0:
            return [self.make_unit(section, 1, settings)._replace(count=0)]
        return [self.make_unit(section, number, settings) for number in (range(1, count + 1) if count else (0,))]

    def make_unit(self, section: str, number: int, settings: Settings) -> Spec:
        """Return a unit, or its instance `number`."""
        kind, _, name = section.partition(":")
        name += f"-{number}" if number else ""
        known = {**self.environment, **own_variables(name, number)}
        given = self.parse_section(section, known)
        if "cmd" not in given:
            self.blame(section, "cmd", "is missing: say what to run")
        if given.get("env") and not (given.get("env_file") or given.get("secrets")):
            try:
                given["env"] = fill_env(given["env"], known)
            except Mistake as mistake:
                self.blame(section, "env", str(mistake))
        endless = kind == "daemon" and (settings.forever or "restart" in given)
        defaults = {
            "stdout": settings.output, "stderr": settings.output, "warmup": 0.0 if given.get("ready") else 1.0,
            "restart": "always" if kind == "daemon" else "on-failure", "respawns": None if endless else (0, 0.0),
        }  # fmt: skip
        unit = Spec(name=name, kind=kind, instance=number, **{**defaults, **given, "count": None})
        for source, _ in given.get("forward", ()):
            if source in settings.shutdown_signals:
                self.blame(section, "forward", f"{spell_signal(source)} asks for shutdown and is never forwarded")
        ready, free = unit.ready, 3 + len(unit.listen)
        if ready and ready.kind == "log" and not is_captured(unit):
            self.blame(section, "ready", "log: needs captured output, write stdout = prefix")
        if ready and ready.kind == "fd" and ready.port < free:
            self.blame(section, "ready", f"{ready.text} is a socket of `listen`, write fd:{free}")
        return unit

    def link_units(self, teams: dict[str, list[Spec]]) -> dict[str, Spec]:
        """Return all units, in whose dependencies a name means all of its team. Report mistakes between units."""
        missing = {dep for team in teams.values() for unit in team for dep, _ in unit.deps}.difference(teams)
        hints = {dep: suggest(dep, teams) for dep in sorted(missing)[:10]}  # COST: a hint looks at every name
        units: dict[str, Spec] = {}
        listeners: dict[Any, str] = {}  # address -> section
        for unit in [unit for team in teams.values() for unit in team]:
            section = section_of(unit)
            for dep, state in unit.deps:
                kind = teams[dep][0].kind if dep in teams else ""
                states = (OK, "ended", "always") if kind == "script" else (OK, "bounce", "started")
                if not kind:
                    self.blame(section, "deps", f"there is no unit {dep!r}{hints.get(dep, '')}")
                elif state not in states:
                    known = f"{dep} is a {kind}, which has the states {', '.join(states)}"
                    self.blame(section, "deps", f"{dep}:{state}: {known}{suggest(state, states)}")
                elif state == "bounce" and unit.kind == "script":
                    fault = f"{dep}:bounce: a script is not restarted with a daemon, write {dep}:ok"
                    self.blame(section, "deps", fault)
            if unit.count == 0:
                continue
            for address in unit.listen if unit.autostart else ():  # else they may be alternatives
                owner = listeners.setdefault(address[:4], section)
                if owner != section:
                    self.blame(section, "listen", f"{address.text} is a socket of [{owner}] too")
            if unit.instance and unit.name in teams:
                clash, count = section_of(teams[unit.name][0]), len(teams[section.partition(":")[2]])
                fault = f"the name is taken by an instance of [{section}], which has a count of {count}"
                self.mistake(self.headers[clash][0], f"[{clash}]", fault)
            linked = [(each.name, state) for dep, state in unit.deps for each in teams.get(dep, ()) if each.count != 0]
            units[unit.name] = unit._replace(deps=tuple(linked))
        return units


def explain_word(what: str, word: str, known: Iterable[str], otherwise: str = "") -> str:
    """Return what to write in place of an unknown word."""
    # FOREIGN has how these begin: program:x, hooks.before_start, stdout_events_enabled, rlimit_nofile
    begins = (re.split(pattern, word, maxsplit=1)[0] for pattern in (r"[:=]", r"\.", "_(?!.*_)", "_"))
    advice = next((f", {FOREIGN[begin]}" for begin in begins if begin in FOREIGN), otherwise)
    near = "" if word.split(":")[0] in FOREIGN else suggest(word, known)
    return f"unknown {what}{near or advice}"


def is_shaped(old: Spec, new: Spec) -> bool:
    """Tell whether two definitions of a unit make different processes."""
    return any(getattr(old, key) != getattr(new, key) for key in SHAPING)


def compare(old: Config, new: Config) -> dict[str, str]:
    """Return what a reload does to each unit whose definition differs."""
    news = {}
    for name in {**new.units, **old.units}:
        one, two = old.units.get(name), new.units.get(name)
        if not one or not two:
            news[name] = "new" if two else "removed"
        elif one != two and name != MAIN:
            changes = [key for key in Spec._fields if getattr(one, key) != getattr(two, key)]
            news[name] = f"{'changed' if is_shaped(one, two) else 'changed in place'}: {', '.join(changes)}"
    return news


def pack_config(read: Callable[[], Config]) -> bytes:
    """Return a configuration, or a list of its mistakes, as a pickle."""
    import pickle

    try:
        return pickle.dumps(read())
    except Mistakes as mistakes:
        return pickle.dumps([*mistakes.args[0], f"{mistakes}, nothing has changed"])


# ========================================================================================================== Machine

# state since why hint: the state, when it was entered and why, the known cause
# deadline: the one timer; the state says what it is for
# pid left: the main process; it is dead, and others of the unit live
# ready named up: its readiness probe has passed; `pidfile` has named it; it has been OK
# oks starts started: how often it was OK; how often it was started, and when last
# lived code: how long the last process lived; its exit code, or minus a signal
# stale then: why the process has to be replaced; its end is a "stop" or a failure ("fail"), else its code decides
# delay: the last back-off, in seconds
# respawned recent: how often it was restarted after it ended by itself; when, or for N/ok, after how many `oks`
# cause: why it was restarted last
Status = namedtuple(
    "Status",
    "state since deadline pid left oks up ready named starts started lived stale then code delay respawned recent"
    " why hint cause",
    defaults=(IDLE, 0.0, None, 0, False, 0, False, False, False, 0, 0.0, 0.0, "", "", 0, None, 0, (), "", "", ""),
)


class Impossible(Exception):
    """An event that cannot come in that state: a fault of overlord's."""


class Move:
    """One step of one unit. The methods in TABLE replace its status and append to its actions."""

    def __init__(self, spec: Spec, status: Status, event: Event, now: float, chance: float) -> None:
        self.spec, self.status, self.event, self.now, self.chance = spec, status, event, now, chance
        self.actions: list[Any] = []

    def amend(self, **fields: Any) -> None:
        self.status = self.status._replace(**fields)

    def enter(self, state: str, **fields: Any) -> None:
        """Change the state. The deadline goes with the old one."""
        self.amend(**{"state": state, "since": self.now, "deadline": None, **fields})

    def announce(self, level: str, text: str, final: bool = False) -> None:
        self.actions.append(Say(level, self.spec.name, text, final))

    def start_waiting(self) -> None:
        """Wait until the Fleet feeds `start`. A daemon that is OK stays OK."""
        kind, why = self.spec.kind, self.event.why
        if why in (BY_HAND, BY_CLOCK):
            self.begin_anew()
        if self.status.state != OK or kind != "daemon":
            self.enter(WAITING, deadline=self.now + REMINDER if kind == "main" else None, why=why)

    def begin_anew(self) -> None:
        """Forget the back-off, and the restarts in a row: a person or the clock asks for another start."""
        self.amend(delay=None, recent=() if self.counts_in_a_row() else self.status.recent)

    def counts_in_a_row(self) -> bool:
        return bool(self.spec.respawns and self.spec.respawns[1] == IN_A_ROW)

    def remind(self) -> None:
        self.amend(deadline=self.now + REMINDER)

    def request_spawn(self) -> None:
        self.enter(STARTING if self.spec.kind == "daemon" else RUNNING, up=False, why="")
        self.actions.append(Spawn(self.spec.name))

    def note_spawned(self) -> None:
        spec, now = self.spec, self.now
        self.announce("info", f"started (pid {self.event.pid})")
        self.amend(pid=self.event.pid, starts=self.status.starts + 1, started=now)
        if spec.kind == "daemon":
            self.actions += [Test(spec.name, purpose) for purpose in ("ready", "pidfile") if getattr(spec, purpose)]
            self.amend(ready=not spec.ready, named=not spec.pidfile)
            self.check_start()
        else:
            self.amend(deadline=find_expiry(spec, self.status, self.chance))

    def check_start(self) -> None:
        """Make a daemon OK once it is ready, named and warmed up; stop it if that takes too long."""
        spec, status = self.spec, self.status
        complete = status.ready and status.named
        deadline = status.started + (spec.warmup if complete else spec.ready_timeout)
        if self.now < deadline or not (complete or self.event.kind == "deadline"):
            self.amend(deadline=deadline)
        elif complete:
            lived = f"{'ready after' if spec.ready else 'up for'} {spell_duration(self.now - status.started)}"
            self.announce("info", f"ok ({lived})" if spec.ready or spec.warmup else "ok")
            self.actions += [Test(spec.name, purpose) for purpose in ("health", "watchdog") if getattr(spec, purpose)]
            self.enter(OK, deadline=find_expiry(spec, status, self.chance), oks=status.oks + 1, up=True)
        else:
            self.time_out()

    def time_out(self) -> None:
        spec = self.spec
        if spec.kind != "daemon":
            why = f"timeout {spell_duration(spec.timeout)} reached"
        else:
            missing = f"{spec.pidfile} names no process of it" if self.status.ready else "not ready"
            reason = f": {self.event.why}" if self.event.why else ""
            why = f"{missing} within {spell_duration(spec.ready_timeout)}{reason}"
        self.event = Event("stop", why, fails=True)
        self.stop_process()

    def note_ready(self) -> None:
        if self.status.pid:
            self.amend(ready=True)
            self.check_start()

    def note_main_process(self) -> None:
        """Take what `pidfile` or MAINPID= names for the main process. A new one begins its warmup."""
        status, pid = self.status, self.event.pid
        if not status.pid or (pid == status.pid and status.named):
            return
        if pid != status.pid:
            self.announce("info", self.event.why)
            self.amend(started=self.now if status.state == STARTING else status.started)
        self.amend(pid=pid, left=False, named=True, deadline=find_expiry(self.spec, status, self.chance))
        if status.state == STARTING:
            self.check_start()

    def reach_max_age(self) -> None:
        if self.status.left:  # no other main process was named in time
            self.stop_leftovers()
        else:
            self.amend(deadline=None)
            why = f"max_age reached after {spell_duration(self.now - self.status.started)}"
            self.event = self.event._replace(why=why)
            self.mark_stale()

    def mark_stale(self) -> None:
        """Note why the process has to be replaced ("": not any more); the Fleet says when. A failure comes before other
        reasons, and those before a restart by hand, which may be called off."""
        status, event = self.status, self.event
        if status.pid and (event.fails or status.stale in ("", RESTART)):
            self.amend(stale=event.why, then="fail" if event.fails else status.then)

    def stop_process(self) -> None:
        spec, status, event = self.spec, self.status, self.event
        if not status.pid:  # RACE: its Spawn is still to be performed, and is dropped then
            self.cancel_start()
            return
        limit = spec.stop_timeout if event.limit is None else min(spec.stop_timeout, event.limit)
        then = "fail" if event.fails else "stop"
        self.enter(STOPPING, deadline=self.now + limit, stale="", then=then, why=event.why)
        signum = event.signum or spec.stop_signal
        by_command = spec.stop_cmd and not status.left
        self.announce("info", f"stopping ({'stop_cmd' if by_command else spell_signal(signum)}): {event.why}")
        if by_command:
            self.actions.append(StopCommand(spec.name, status.pid))
        else:
            self.actions.append(Kill(spec.name, status.pid, signum, status.left or spec.kill_mode == "all"))

    def note_request(self) -> None:
        """Count the end of a unit that is stopping as a stop. The earlier deadline holds."""
        deadline, limit = self.status.deadline, self.event.limit
        if limit is not None and deadline is not None:
            deadline = min(deadline, self.now + limit)
        self.amend(then="stop", why=self.event.why or self.status.why, deadline=deadline)

    def kill_unit(self) -> None:
        """Send SIGKILL, with no deadline after it: only a process stuck in the kernel survives that."""
        spec, status = self.spec, self.status
        self.amend(deadline=None)
        why = f"not gone after {spell_duration(self.now - status.since)}, killing it"
        whole = status.left or spec.kill_mode != "process"
        self.actions.append(Kill(spec.name, status.pid, SIGNALS["KILL"], whole, why))

    def cancel_start(self) -> None:
        if self.event.wanted:
            self.start_waiting()
        else:
            self.enter(STOPPED, why=self.event.why)
            if self.event.why == BY_HAND:
                self.announce("info", f"stopped ({BY_HAND})")

    def note_exit(self) -> None:
        """Note the main process's end. Stop what it left, unless `pidfile` may name another, in 3 s if it was OK."""
        spec, state, event = self.spec, self.status.state, self.event
        self.amend(code=event.code, lived=self.now - self.status.started, left=event.left)
        if state != STOPPING:
            self.amend(then="", why=event.why, hint=event.hint)
        if not event.left:
            self.note_gone()
        elif spec.pidfile and (state == OK or (state == STARTING and not event.code)):
            deadline = self.now + 3.0 if state == OK else self.status.started + spec.ready_timeout
            self.amend(named=False, deadline=deadline)
            self.actions.append(Test(spec.name, "pidfile"))
        else:
            self.stop_leftovers()

    def stop_leftovers(self) -> None:
        if self.status.state != STOPPING:
            self.enter(STOPPING, deadline=self.now + self.spec.stop_timeout, stale="")
        signum = SIGNALS["KILL"] if self.status.deadline is None else self.spec.stop_signal
        why = f"{spell_exit(self.status)}, stopping what it left behind"
        self.actions.append(Kill(self.spec.name, self.status.pid, signum, True, why))

    def note_gone(self) -> None:
        spec, status, wanted = self.spec, self.status, self.event.wanted
        steady = status.lived >= max(10.0, status.delay or 0.0)  # then its back-off begins anew
        self.amend(pid=0, left=False, stale="", then="", delay=None if steady else status.delay)
        if status.then == "stop" or not wanted:
            took = spell_duration(self.now - status.since if status.state == STOPPING else 0.0)
            if status.why == RESTART:
                self.begin_anew()
            self.enter(WAITING if wanted else STOPPED, cause=status.why if wanted else status.cause)
            self.announce("info", f"stopped in {took} ({spell_exit(status)})" + (", restarting" if wanted else ""))
            return
        early = spec.kind == "daemon" and not status.up
        success = status.code in spec.success and not early and status.then != "fail"
        end = describe_end(spec, status, early)
        if spec.kind == "script" and success:
            self.enter(OK, oks=status.oks + 1, why=end)
            self.announce("info", f"ok ({end})")
            return
        self.amend(code=status.code if success else status.code or 1)
        self.restart_or_end(end + (f": {status.hint}" if status.hint and not success else ""), success)

    def fail_start(self) -> None:
        end = f"cannot start: {self.event.why}"
        self.amend(code=1, up=False)
        if self.event.wanted:
            self.restart_or_end(end, False)
        else:
            self.cancel_start()

    def restart_or_end(self, end: str, success: bool) -> None:
        spec, status, detail = self.spec, self.status, ""
        if self.event.passing:  # no fault of the unit, so not counted in `respawns`
            self.back_off(end, FORK_DELAY)
            return
        if spec.restart == "always" or (spec.restart == "on-failure" and not success):
            count, window = spec.respawns or (0, 0.0)
            in_a_row, recent = self.counts_in_a_row(), ()
            if spec.respawns and not (in_a_row and status.up):  # a run that was OK is none of those in a row
                past = status.oks - 1 if in_a_row else self.now - (window or float("inf"))
                recent = (*(each for each in status.recent if each > past), status.oks if in_a_row else self.now)
            if spec.respawns is None or len(recent) <= count:
                self.amend(recent=recent, respawned=status.respawned + 1)
                self.back_off(end)
                return
            if count:
                within = f"/{OK if in_a_row else spell_duration(window)}" if window else ""
                detail = f" (respawns = {count}{within}, used up)"
        state, level = (DONE, "info") if success else (FAILED, "error")
        self.enter(state, why=end)
        if spec.kind == "main" and not end.startswith("cannot"):
            self.announce("info", end)
        else:
            self.announce(level, f"{state}: {end}{detail}", final=not success and spec.kind != "main")

    def back_off(self, end: str, least: float = 0.0) -> None:
        """Restart after a delay: 0 at first, then doubling, with 10 % of jitter."""
        (low, high), last = self.spec.backoff, self.status.delay
        delay = 0.0 if last is None else min(high, max(low, last * 2))
        wait = max(least, delay * (1 + self.chance / 10))
        self.announce("warning", f"{end}, restarting" + (f" in {spell_duration(wait)}" if wait else ""))
        self.enter(BACKOFF, deadline=self.now + wait, delay=delay, why=end, cause=end)

    # By event, what it means in which state. No other can come, but those of ANY_TIME: they mean nothing there.
    TABLE: ClassVar[dict[str, dict[str, Callable[[Move], None]]]] = {
        "want": {**dict.fromkeys((*RESTING, OK, BACKOFF), start_waiting), STOPPING: note_request},
        "start": {WAITING: request_spawn},
        "spawned": dict.fromkeys((STARTING, RUNNING), note_spawned),
        "unspawned": dict.fromkeys((STARTING, RUNNING), fail_start),
        "barred": {WAITING: fail_start},
        "exited": dict.fromkeys((STARTING, OK, RUNNING, STOPPING), note_exit),
        "emptied": dict.fromkeys((STARTING, OK, STOPPING), note_gone),
        "deadline": {WAITING: remind, STARTING: check_start, OK: reach_max_age, RUNNING: time_out,
                     STOPPING: kill_unit, BACKOFF: start_waiting},
        "stop": {**dict.fromkeys((STARTING, OK, RUNNING), stop_process), STOPPING: note_request,
                 **dict.fromkeys((WAITING, BACKOFF), cancel_start)},
        "stale": dict.fromkeys((STARTING, OK, RUNNING), mark_stale),
        "ready": {STARTING: note_ready},
        "handed": dict.fromkeys((STARTING, OK), note_main_process),
    }  # fmt: skip


def step(spec: Spec, status: Status, event: Event, now: float, chance: float) -> tuple[Status, list[Any]]:
    """Return the next status and the actions to take. `chance` is from 0 to 1. Raises Impossible."""
    move, cell = Move(spec, status, event, now, chance), Move.TABLE[event.kind].get(status.state)
    if cell:
        cell(move)
    elif event.kind not in ANY_TIME:
        raise Impossible(f"{spec.name}: {event.kind} in state {status.state}")
    return move.status, move.actions


def spell_exit(status: Status) -> str:
    return f"pid {status.pid} {spell_end(status.code)}"


def describe_end(spec: Spec, status: Status, early: bool) -> str:
    sent = " (sent by overlord)" if status.then == "fail" and status.code < 0 else ""  # else 143 looks like a request
    end = f"{spell_exit(status)}{sent} after {spell_duration(status.lived)}"
    if status.then == "fail":
        end = f"{status.why}, {end}"
    elif status.why:  # it never got as far as the command
        end = f"cannot start: {status.why} (pid {status.pid} never ran the command)"
    elif early and not status.ready:
        end += ", before it was ready"
    elif early and not status.named:
        end += f", and {spec.pidfile} names no process of it"
    elif early and spec.warmup:
        end += f", before its warmup of {spell_duration(spec.warmup)} was over"
    return end


def find_expiry(spec: Spec, status: Status, chance: float) -> float | None:
    """Return when a daemon reaches its `max_age`, or a script its `timeout`."""
    age = spec.max_age[0] - spec.max_age[1] * chance if spec.max_age else spec.timeout
    return status.started + age if age else None


# ============================================================================================================= Unit
# One unit among its neighbours: all that is known of it, and what is next for it. `find_next` alone decides that.

# deed: an event to apply, "listen" or "wait_for" to have that seen to, "wait", or nothing; whom: the unit that it waits
# for; at: its index in deps; why: what it waits for, who wants it, or why it is stopped.
Next = namedtuple("Next", "deed whom at why", defaults=("", None, -1, ""))


class Unit:
    __slots__ = tuple(
        "name spec status deps dependents team wanted by queued tried ended succeeded begun waits at reason stuck"
        " waiters ran reach bound leaving changing blockers cleared levels below story note next_run kin sessions born"
        " user told timer ear notices watchdog stop_command probers plan".split()
    )

    def __init__(self, spec: Spec) -> None:
        nothing: Any = None
        self.name, self.spec, self.status = spec.name, spec, Status()
        self.deps: tuple[tuple[Unit, str], ...] = ()  # what it needs and as what, in the order written
        self.dependents: list[Unit] = []
        self.team: list[Unit] = []  # all instances of its daemon
        self.wanted, self.by = False, ""  # it is to be up; who wanted that, or which unit a script runs for
        # Of a script: who wants its next run; it has begun to run for its dependents; has ended; and has succeeded.
        self.queued, self.tried, self.ended, self.succeeded = "", False, False, False
        self.begun = False  # it has been started, or has failed to, since it was last down
        self.waits: Unit | None = None  # the unit that it waits for
        self.at, self.reason = -1, ""  # the index of that in deps; what it waits for, in words
        self.stuck: Unit | None = None  # the unit at the end of that chain, or itself, if nothing gets that up
        self.waiters: dict[Unit, None] = {}
        self.reach = ""  # "listen" or "wait_for" while it waits for that; "there": its `wait_for` has passed
        self.bound = False  # its sockets are open
        self.ran: dict[str, str] = {}  # `always` scripts that have run for this start, and why they failed
        self.leaving = self.changing = False  # a shutdown or a reload takes it down; a reload changes its definition
        # Cleared: it and all its dependents are stopped, or stay. blockers: how many dependents are not cleared yet.
        self.cleared, self.blockers = True, 0
        # In a shutdown: the levels of live units from it downwards, and the seconds that those below it may take.
        self.levels, self.below = 0, 0.0
        self.story: tuple[tuple[float, str], ...] = ()  # for the timeline: when, and what
        self.note = self.next_run = ""  # what it says of itself; when its schedule is due
        self.kin: dict[int, int] = {}  # its processes as last seen, pid -> start time
        self.sessions: tuple[int, ...] = ()  # theirs
        self.told: dict[int, tuple[int, int]] = {}  # pid -> start time, last signal in this stop (0: only named)
        self.born, self.user = 0, nothing  # start time of its first process; user of its main process, once dead
        self.timer, self.plan = nothing, nothing  # its deadline; its schedule
        self.ear, self.notices = -1, nothing  # read `ready = fd:N` and sd_notify(3)
        self.watchdog = nothing  # the timer for its next WATCHDOG=1
        self.stop_command = 0  # the pid of its `stop_cmd`, which may outlive it
        self.probers: dict[str, Any] = {}  # by purpose

    def lives(self) -> bool:
        """Tell whether it has a process, or is about to get one."""
        return self.status.state in (STARTING, RUNNING, STOPPING) or bool(self.status.pid)

    def keeps_up(self) -> bool:
        """Tell whether it is a reason for overlord to go on."""
        outside = self.reach in ("listen", "wait_for") or self.spec.schedule
        return bool(self.lives() or self.status.state in (BACKOFF, STOPPED) or outside)

    def rests(self) -> bool:
        """Tell whether it stays as it is until somebody wants it up."""
        return self.status.state in RESTING or (self.status.state == OK and not self.status.pid)

    def in_vain(self) -> bool:
        """Tell whether it waits for a unit that ended for good, and was not asked for since."""
        return bool(self.stuck and self.stuck is not self and self.stuck.rests())

    def trouble(self) -> str:
        """Return why a probe failed last, or what the daemon says of itself (STATUS=), or what it has not said yet."""
        failed = [prober.wrong for prober in self.probers.values() if prober.wrong and prober.is_current()]
        if failed or self.note or self.status.state != STARTING or self.status.ready or not self.spec.ready:
            return str(failed[0]) if failed else self.note
        kind, _, port, path, _ = self.spec.ready
        missing = {"log": f"no line has matched {path}", "fd": f"no newline has come on descriptor {port}"}
        return "it has not said READY=1" if kind == "notify" else missing.get(kind, "")

    def why_wait(self) -> str:
        end = self.stuck
        vain = f", and {end.name} is {end.status.state}" if end else ""
        vain += ", but by schedule alone" if end and end.status.state == OK else ""
        wrong = f": {self.trouble()}" if self.reach and self.trouble() else ""
        return f"for {self.reason}{vain}{wrong}"

    def find_next(self) -> Next:
        state = self.status.state
        if self.leaving:
            begun = self.lives() or (state in (WAITING, BACKOFF) and not self.wanted)
            due = not self.blockers or self.status.then == "fail"
            return Next("stop", why=self.status.stale if self.wanted else BY_HAND) if begun and due else Next()
        if self.rests():
            return self.find_asker()
        if not self.wanted:
            return self.find_before() or Next("stop", why=BY_HAND)
        if state == WAITING:
            return self.find_way_up()
        return self.find_turn() if self.status.stale else Next()

    def find_before(self) -> Next | None:
        """Wait for a dependent that is to be stopped too, by hand, and so goes first. Instances that are restarted one
        by one do not: they would wait for this."""
        status = self.status
        for other in self.dependents if status.pid and status.then != "fail" else ():
            goes = not other.wanted or (other.status.stale == RESTART and not other.spec.instance)
            if other.lives() and (goes or other.status.state == STOPPING):
                return Next("wait", other, why=f"{other.name} to be stopped")
        return None

    def find_asker(self) -> Next:
        """Find who wants it up. Dependents bring back no daemon that ended for good."""
        if self.spec.kind != "script":
            needed = self.wanted or (self.status.state == IDLE and self.waiters)
            return Next("want", why=self.by if self.wanted else BY_NEED) if needed else Next()
        if self.queued:
            return Next("want", why=self.queued)
        asking = [each for each in self.waiters if each.needs() == "always" or (each.needs() and not self.tried)]
        if not asking:
            return Next()
        first = min(asking, key=lambda each: float(each.status.since))  # two that flap keep no third from its turn
        return Next("want", why=first.name if first.needs() == "always" else BY_NEED)

    def needs(self) -> str:
        """Return as what it needs the unit that it waits for; "" if that is none of its deps."""
        return self.deps[self.at][1] if self.at >= 0 else ""

    def find_way_up(self) -> Next:
        """Find what it waits for. COST: begins with the dep that it waited for last, not with all those before it."""
        if self.changing:  # by a reload, which has something to stop first
            return Next("wait", why=self.reason)
        if self.spec.listen and not self.bound:
            return self.ask_for("listen")
        start = max(0, self.at)
        for index in (*range(start, len(self.deps)), *range(start)):
            dep, how = self.deps[index]
            if self.ran.get(dep.name):
                return Next("barred", why=f"script {dep.name} failed: {self.ran[dep.name]}")
            if not self.is_met(dep, how):
                return Next("wait", dep, index, f"{dep.name}:{how}")
        waiting = self.find_unsettled()
        if waiting or not self.spec.wait_for or self.reach == "there":
            return waiting or Next("start")
        return self.ask_for("wait_for")

    def ask_for(self, what: str) -> Next:
        """Have its sockets opened or its `wait_for` probed, and wait for that."""
        why = ", ".join(probe.text for probe in getattr(self.spec, what))
        why = f"overlord to open {why}" if what == "listen" else why
        return Next("wait" if self.reach == what else what, why=why)

    def is_met(self, dep: Unit, how: str) -> bool:
        """Tell whether a dependency is met: not by a daemon that a person restarts, which is about to stop. The main
        command does not wait for daemons that ended for good."""
        if dep.leaving:
            return False
        if dep.spec.kind == "script":
            return dep.name in self.ran if how == "always" else dep.ended if how == "ended" else dep.succeeded
        if dep.status.stale == RESTART:
            return False
        if how == "started":
            return dep.begun or dep.in_vain() or not dep.wanted
        return bool(dep.status.state == OK or (self.spec.kind == "main" and dep.rests()))

    def find_turn(self) -> Next:
        """Have its stale process stopped, or wait for instances and bounce ancestors."""
        stale = self.status.stale
        if self.status.then == "fail":
            return Next("stop", why=stale)
        if stale == RESTART and not self.spec.instance:
            return self.find_before() or Next("stop", why=stale)
        for other in self.team if self.status.state == OK else ():
            state = other.status.state
            failing = other.status.delay is not None and state != STOPPING
            if state in COMING and not (failing and stale not in (RESTART, RELOAD)):
                return Next("wait", other, why=f"{other.name} to be up")
        return self.find_unsettled() or self.find_before() or Next("stop", why=stale)

    def find_unsettled(self) -> Next | None:
        """Wait for a bounce ancestor that is stale or on its way up, if any."""
        ancestors, seen = [self], set()
        while ancestors:
            for dep, how in ancestors.pop().deps:
                if how != "bounce" or dep in seen:
                    continue
                seen.add(dep)
                if dep.status.state == OK and not dep.status.stale:
                    ancestors.append(dep)
                elif dep.status.state not in RESTING and not dep.in_vain():
                    return Next("wait", dep, why=f"{dep.name} to be restarted")
        return None


def spread(units: Iterable[Unit], following: Callable[[Unit], Iterable[Unit]]) -> list[Unit]:
    """Return units and all that `following` leads to."""
    found = list(units)
    seen = set(found)
    for unit in found:  # grows on the way
        more = [other for other in following(unit) if other not in seen]
        seen.update(more)
        found += more
    return found


def needs_of(unit: Unit) -> list[Unit]:
    """Return what is started for a unit: all its dependencies but those for order alone."""
    return [dep for dep, how in unit.deps if how != "started"]


def bouncing(units: Iterable[Unit]) -> list[Unit]:
    return spread(units, lambda unit: [other for other in unit.dependents if (unit, "bounce") in other.deps])


# ============================================================================================================ Fleet
# `advance` does what `Unit.find_next` says. When a record changes, its unit and those that wait for it are looked at.

# A shutdown. code: None if no unit caused it; units_end, end: when SIGKILL is due for units, and for the rest.
Ending = namedtuple("Ending", "why code quiet signum units_end end")


def sweep_share(total: float) -> float:
    """Return how much of a shutdown's time is for what the units leave."""
    return min(SWEEP_TIMEOUT, total / 4)


def explain_openly(unit: Unit) -> str:
    status = unit.status
    if status.state == WAITING:
        asks = f"its {unit.reach}" if unit.reach in ("listen", "wait_for") else ""  # neither: a reload goes first
        return f"for {unit.waits.name if unit.waits else asks}" if unit.waits or asks else ""
    if status.stale or not status.starts or status.state not in (BACKOFF, *ENDED):
        return "to be restarted" if status.stale else ""
    return "cannot start" if status.why.startswith("cannot start") else spell_end(status.code)


class Fleet:
    """All units. COST: an event is paid for by the units that it touches alone."""

    def __init__(self, config: Config, chance: Callable[[], float]) -> None:
        self.chance = chance
        self.actions: list[Any] = []
        self.deadline: float | None = None  # of a shutdown
        self.events: deque[tuple[Unit, Event]] = deque()  # to be applied
        self.looks: dict[Unit, None] = {}  # units to be looked at, in that order
        self.deferred: dict[Unit, None] = {}  # after all those
        self.pending: Config | None = None  # of a reload, until all that leaves for it has stopped
        self.uncleared = 0  # units that are not cleared yet, in a reload or a shutdown
        self.followed = False  # a client wants to know of each change
        self.grown = False  # a unit became OK: its processes can be looked at
        self.began: float | None = None  # when the start began, until everything is up
        self.first_failure: int | None = None  # exit code
        self.ending: Ending | None = None
        self.asked: float | None = None  # when a main command without units was first asked to end
        self.interrupts = 0  # how often SIGINT asked for shutdown
        self.sweeping = 0  # the signal that what is left has got
        self.code: int | None = None  # the exit code that a person asked for
        self.killed: list[str] = []  # in the shutdown
        self.units: dict[str, Unit] = {}  # dependencies first, else as in the configuration
        self.take_config(config)

    def take_config(self, config: Config) -> None:
        self.config, self.settings = config, config.settings
        self.idle = False  # nothing is left to run, and that has been said
        self.units = {name: self.units.get(name) or Unit(config.units[name]) for name in config.order}
        teams: dict[str, list[Unit]] = {}
        for name, unit in self.units.items():
            unit.spec = config.units[name]
            unit.deps = tuple((self.units[dep], how) for dep, how in unit.spec.deps)
            unit.team = teams.setdefault(name.rpartition("-")[0], []) if unit.spec.instance else []
            unit.dependents, unit.waiters, unit.waits, unit.at, unit.stuck = [], {}, None, -1, None
            unit.team.append(unit)
            for dep, _ in unit.deps:
                dep.dependents.append(unit)

    def want_all(self, now: float) -> None:
        self.began = now
        for unit in self.units.values():
            self.want_by_config(unit, unit.spec.autostart)
        self.work(now)

    def want_by_config(self, unit: Unit, wanted: bool) -> None:
        if wanted and unit.spec.kind != "script":
            unit.wanted, unit.by = True, BY_CONFIG
            self.looks[unit] = None

    def feed(self, name: str, event: Event, now: float) -> None:
        if name in self.units:  # a reload may have removed it
            self.events.append((self.units[name], event))
        self.work(now)

    def take_deadline(self, name: str, now: float) -> None:
        """Take in that the time of a Wake has come, unless the deadline has moved since."""
        unit = self.units.get(name)
        if unit and unit.status.deadline is not None and unit.status.deadline <= now:
            self.events.append((unit, Event("deadline", unit.trouble() if unit.status.state == STARTING else "")))
        elif not name and self.deadline is not None and self.deadline <= now:
            if self.sweeping == SIGNALS["KILL"]:
                self.end_shutdown()
            else:
                self.begin_sweep(now, hard=bool(self.sweeping))
        self.work(now)

    def reach(self, name: str, now: float) -> None:
        """Take in that what a unit waits for outside is there: its sockets, or what its `wait_for` names."""
        unit = self.units[name]
        unit.bound, unit.reach = unit.bound or unit.reach == "listen", "there" if unit.reach == "wait_for" else ""
        self.looks[unit] = None
        self.work(now)

    def transparent(self) -> bool:
        """Tell whether overlord only relays signals: a main command lives, and is the only unit."""
        main = self.units.get(MAIN)
        return bool(main and len(self.units) == 1 and main.status.pid and not main.status.left and not self.ending)

    def ask_shutdown(self, why: str, now: float, signum: int | None = None, code: int | None = None) -> None:
        """Shut down; at a second SIGINT, at once. If transparent, the Loop relays the signal instead."""
        self.code = code if self.code is None else self.code
        transparent, interrupt = self.transparent(), signum == SIGNALS["INT"]
        self.interrupts += interrupt and not transparent
        if transparent:
            self.asked = now if self.asked is None else self.asked
            if signum is None:
                self.actions.append(Kill(MAIN, self.units[MAIN].status.pid, SIGNALS["TERM"], whole=False))
        elif not self.ending:
            self.shut_down(why, None, now, signum)
        elif interrupt and self.interrupts > 1:
            self.say("warning", "", f"{why} again: killing what is left at once")
            living = [unit for unit in self.units.values() if unit.status.pid]
            self.killed += [unit.name for unit in living if not unit.status.left]
            self.actions += [Kill(unit.name, unit.status.pid, SIGNALS["KILL"], whole=True) for unit in living]
            self.begin_sweep(now, hard=True)
        else:
            left = spell_duration(max(0.0, self.ending.end - now))
            hint = "; a second SIGINT kills at once" if interrupt else ""
            self.say("info", "", f"{why}: shutting down already, within {left}{hint}")
        self.work(now)

    def shift_deadlines(self, gap: float) -> None:
        """Move the units' deadlines, but not that of a shutdown, by a time in which nothing ran."""
        for unit in self.units.values():
            status = unit.status
            started = status.started + (gap if status.state == STARTING and status.pid else 0.0)
            unit.status = status._replace(deadline=status.deadline and status.deadline + gap, started=started)

    def take_actions(self) -> list[Any]:
        actions, self.actions = self.actions, []
        return actions

    # ----------------------------------------------------------------------------------------------- the engine
    def work(self, now: float) -> None:
        while self.events or self.looks or self.deferred or (self.pending and not self.uncleared):
            if self.events:
                self.apply(*self.events.popleft(), now)
            elif units := self.looks or self.deferred:
                unit = next(iter(units))
                del units[unit]
                self.advance(unit, now)
            else:  # no event and no look is left of the units that this removes
                self.finish_reload()
        if self.ending and not self.uncleared and not self.sweeping:
            self.begin_sweep(now)
        else:
            before, self.idle = self.idle, not (self.ending or any(unit.keeps_up() for unit in self.units.values()))
            if self.idle and not before:
                self.rest_idle(now)

    def advance(self, unit: Unit, now: float) -> None:
        answer = unit.find_next()
        deed, why = answer.deed, answer.why
        self.wait_on(unit, answer, now)
        if deed == "start" and self.looks and any(dep.status.state == IDLE for dep, _ in unit.deps):
            self.deferred[unit] = None  # one of `looks` may yet want such a dependency, which then comes first
            return
        if self.uncleared and not (unit.cleared or unit.blockers or (unit.leaving and unit.lives())):
            unit.cleared = True
            self.uncleared -= 1
            for dep, _ in unit.deps:
                dep.blockers -= 1
                if not dep.blockers:
                    self.looks[dep] = None
        if deed == "stop" and self.sweeping != SIGNALS["KILL"]:  # which all had then
            self.apply(unit, self.stop_event(unit, why, now), now)
        elif deed == "want":
            unit.wanted, unit.by = True, why
            unit.queued = "" if unit.queued == why else unit.queued
            unit.tried = unit.tried or why == BY_NEED
            self.apply(unit, Event("want", why), now)
        elif deed in ("listen", "wait_for"):
            unit.reach = deed
            self.actions.append(Test(unit.name, deed))
        elif deed in ("start", "barred"):
            self.apply(unit, Event(deed, why), now)

    def wait_on(self, unit: Unit, answer: Next, now: float) -> None:
        """Note what a unit waits for, and whether in vain. Say it once."""
        whom, stuck, reason = answer.whom, None, answer.why if answer.deed in ("wait", "listen", "wait_for") else ""
        if unit.waits and unit.waits is not whom:
            unit.waits.waiters.pop(unit, None)
        fresh = reason and reason != unit.reason
        unit.waits, unit.at, unit.reason = whom, answer.at, reason
        if whom:
            if unit not in whom.waiters:
                whom.waiters[unit] = None
                whom.stuck = None if whom.rests() else whom.stuck  # until it has been looked at
                self.looks[whom] = None
            stuck = whom.stuck
        elif unit.rests() and not answer.deed:
            stuck = unit
        found, unit.stuck = stuck is not unit.stuck, stuck
        if found and unit.status.state == WAITING and unit.in_vain():
            self.end_turns(unit)
        for waiter in [waiter for waiter in unit.waiters if waiter.stuck is not stuck]:
            self.looks[waiter] = None
        if fresh and unit.status.state == WAITING:
            self.add_to_timeline(unit, f"{WAITING} for {reason}", now)
            quiet = unit.name == MAIN or answer.deed == "listen"
            self.say("debug" if quiet else "info", unit.name, f"waiting for {reason}")
        elif fresh and whom in unit.team:
            self.say("info", unit.name, f"to be restarted ({unit.status.stale}), waiting for {reason}")

    def wake(self, unit: Unit) -> None:
        """Look again at a unit that has changed, and at those that wait for it, if their answer may change."""
        usable = unit.spec.kind == "daemon" or unit.rests()  # else none that waits for it can go on
        for waiter in unit.waiters:
            if waiter.at < 0 or (usable and waiter.is_met(unit, waiter.needs())):
                self.looks[waiter] = None
        for other in bouncing([unit]) if unit.status.state in ENDED else ():
            if other.waits and other.at < 0:
                self.looks[other] = None
        self.looks[unit] = None

    def apply(self, unit: Unit, event: Event, now: float) -> None:
        """Let the Machine make the next status. No state changes anywhere else."""
        old = unit.status
        removed = self.pending and unit.name not in self.pending.units
        new, actions = step(unit.spec, old, event._replace(wanted=unit.wanted and not removed), now, self.chance())
        self.actions += actions
        if self.ending and event.kind == "deadline" and old.state == STOPPING and not old.left:
            self.killed.append(unit.name)  # what it has left behind, the Loop names
        self.store(unit, new)
        if new.state != old.state:
            self.note_change(unit, old, now)
            if self.followed:
                self.actions.append(Changed(unit.name, self.spell_unit(unit, now)))
        elif event.kind == "deadline" and new.state == WAITING:
            self.say("info", "", f"{unit.name} waits {unit.why_wait()}")
        if new.state != old.state or new.stale != old.stale:
            self.wake(unit)

    def store(self, unit: Unit, new: Status) -> None:
        old, unit.status = unit.status, new
        if new.deadline != old.deadline or (new.deadline is not None and new.state != old.state):
            self.actions.append(Wake(unit.name, new.deadline))

    def say(self, level: str, name: str, text: str) -> None:
        self.actions.append(Say(level, name, text))

    def add_to_timeline(self, unit: Unit, what: str, now: float) -> None:
        if len(unit.story) < 50 and (not unit.story or unit.story[-1][1] not in (OK, DONE, FAILED)):
            unit.story = (*unit.story, (now, what))

    def note_change(self, unit: Unit, old: Status, now: float) -> None:
        new, rests = unit.status, unit.rests()
        self.add_to_timeline(unit, new.state, now)
        if new.state in (STARTING, WAITING):
            unit.note = ""
        if old.state == WAITING:
            unit.reach, unit.at = "", -1
            unit.ran.clear()
        if rests and not (self.pending and unit.leaving and new.state == STOPPED):
            unit.wanted = False
        unit.begun = new.state in (STARTING, BACKOFF) or (unit.begun and not rests and new.state != STOPPING)
        if rests and unit.spec.kind == "script":
            unit.ended = unit.ended or (new.state in (OK, DONE, FAILED) and unit.by != BY_CLOCK)
            unit.succeeded = unit.succeeded or (new.state == OK and unit.by != BY_CLOCK)
            if (other := self.units.get(unit.by)) and other.status.state == WAITING:  # whose `always` script it is
                other.ran[unit.name] = "" if new.state == OK else new.why or new.state
        if new.state == OK and new.pid:
            self.grown = True
            for other in unit.dependents if new.oks > 1 and not self.ending else ():
                if (unit, "bounce") in other.deps and other.status.state in (STARTING, OK):
                    self.events.append((other, Event("stale", f"{unit.name} was restarted")))
        if new.state in (BACKOFF, FAILED) and not new.up and not old.stale:
            self.end_turns(unit)
        if self.began is not None and unit.spec.kind == "daemon":
            self.say_all_up(new.state, self.began, now)
        if not self.ending:
            self.shut_down_by_policy(unit, now)

    def end_turns(self, unit: Unit) -> None:
        """End a restart of its team by hand, since it does not come up: others have their turn behind those that do."""
        for other in unit.team:
            if other.status.stale == RESTART:
                self.say("warning", other.name, f"not restarted, since {unit.name} did not come up: runs on as before")
                self.events.append((other, Event("stale")))

    def say_all_up(self, state: str, began: float, now: float) -> None:
        """Say once that everything is up, unless a daemon ends for good before that."""
        daemons = (unit for unit in reversed(self.units.values()) if unit.spec.kind == "daemon")
        if state not in ENDED and (state != OK or any(unit.status.state in COMING for unit in daemons)):
            return
        self.began = None
        if state == OK:
            up = [unit for unit in self.units.values() if unit.status.state == OK]
            took, name = max((unit.status.since - unit.status.started, unit.name) for unit in up)
            text = f"everything is up after {spell_duration(now - began)}"
            self.say("info", "", f"{text}, longest took {name}, {spell_duration(took)}")

    def shut_down_by_policy(self, unit: Unit, now: float) -> None:
        """Shut down if `on_failure` or `on_success` says so, but for no unit started by hand or by schedule."""
        spec, status = unit.spec, unit.status
        gone = spec.kind == "main" and status.left
        ended = status.state in (DONE, FAILED) or (status.state == OK and spec.kind == "script") or gone
        if not ended or not (unit.by in self.units or unit.by in (BY_CONFIG, BY_NEED)):  # one that runs for nobody
            return
        needed = spec.kind != "script" or any((unit, OK) in other.deps for other in unit.dependents)
        lenient = unit.by in self.units or not needed  # run for a dependency `always` or `ended`
        failed = status.state == FAILED or (gone and status.code not in spec.success)
        policy = spec.on_success
        if failed:
            policy = spec.on_failure or ("ignore" if lenient else "shutdown")
            if self.first_failure is None and not lenient:
                self.first_failure = exit_code(status.code)
        if policy == "shutdown":
            end = status.why or f"{spell_exit(status)} after {spell_duration(status.lived)}"
            why = f"{MAIN} {end}" if spec.kind == "main" else f"{unit.name} {'failed' if failed else 'ended'}: {end}"
            self.shut_down(why, exit_code(status.code) if failed else 0, now)

    def rest_idle(self, now: float) -> None:
        """Shut down, or say that overlord stays, since nothing can ever run again."""
        units = self.units.values()
        waiting = [f"{unit.name} waits {unit.why_wait()}" for unit in units if unit.status.state == WAITING]
        detail = f" ({'; '.join(waiting[:3])}{'; ...' if len(waiting) > 3 else ''})" if waiting else ""
        if all(unit.spec.kind == "script" for unit in units):
            detail = ": there is no daemon, and a script runs only when a unit depends on it"
        if self.settings.when_idle == "exit":
            self.shut_down(f"nothing is left to run{detail}", self.first_failure or 0, now)
            self.work(now)
        else:
            self.say("info", "", f"nothing is left to run{detail}: staying (when_idle = stay)")

    def spell_unit(self, unit: Unit, now: float) -> str:
        return f"{unit.name} {unit.status.state} {self.explain(unit, now)}".rstrip()

    def explain(self, unit: Unit, now: float, openly: bool = False) -> str:
        """Return in words why a unit is in its state, and what is next. `openly`: for anybody to read, so without what
        commands, probes and daemons said, which may hold secrets."""
        if openly:
            return explain_openly(unit)
        status, why, pidfile, trouble = unit.status, str(unit.status.why), unit.spec.pidfile, unit.trouble()
        left = "" if status.deadline is None else spell_duration(max(0.0, status.deadline - now))
        if status.state == WAITING:
            return unit.why_wait() if unit.reason else ""
        if status.stale or (unit.reason and not unit.wanted):
            what = f"to be restarted ({status.stale})" if status.stale else "to be stopped"
            return what + (f", waiting for {unit.reason}" if unit.reason else "")
        if status.state == STOPPING:
            why = why or f"{spell_exit(status)}, what it left behind is stopped"
            why += f" ({status.hint})" if status.hint else ""
            return f"{why}, killed" + (f" in {left}" if left else "")
        if status.left:
            return f"{spell_exit(status)}, {pidfile} has {left} to name another main process"
        if status.state == STARTING and left:
            what = "warming up" if status.named else f"{pidfile} has named no process of it yet"
            note = f": {trouble}" if trouble and not (status.ready and status.named) else ""
            return f"{what if status.ready else 'not ready yet'}, {left} to go{note}"
        if status.state == OK and trouble:
            return trouble
        if status.state == RUNNING:
            by = "" if unit.name == MAIN else unit.by
            return f"for {by}" if by in self.units else by
        if unit.next_run:
            until = f"in {spell_duration(max(0.0, unit.plan[1] - now))}, " if unit.plan[0].every else ""
            return f"{why}{'; ' if why else ''}next run {until}{unit.next_run}"
        return f"{why}; next try in {left}" if status.state == BACKOFF else why

    # --------------------------------------------------------------------------------------------------- by hand
    def start(self, asked: list[Unit], now: float, going: Iterable[Unit] = ()) -> list[Unit]:
        """Start units and all that they depend on; return all those. The scripts in `going` run already."""
        found = spread(asked, needs_of)
        for unit in [*reversed(found[len(asked) :]), *asked]:  # dependencies first
            script, waits = unit.spec.kind == "script", unit.status.state == BACKOFF
            if script:
                unit.tried, unit.by = False, BY_HAND if waits and unit.by == BY_CLOCK else unit.by
                unit.queued = BY_HAND if unit in asked and unit not in going and not waits else unit.queued
            else:
                unit.wanted, unit.by = True, unit.by if unit.wanted else BY_HAND
            if waits or (unit.status.state == STOPPING and not script):
                self.events.append((unit, Event("want", BY_HAND if waits else "")))
            self.looks.update({unit: None, **unit.waiters})
        self.work(now)
        return found

    def stop(self, asked: list[Unit], now: float) -> None:
        for unit in asked:
            unit.wanted, unit.queued = False, ""
            self.looks.update({unit: None, **unit.waiters})
        self.work(now)

    def restart(self, asked: list[Unit], now: float) -> None:
        going = [unit for unit in asked if unit.lives()]
        for unit in going:
            unit.wanted = True
            self.events.append((unit, Event("stale", RESTART)))
        self.start(asked, now, going)

    def run_by_clock(self, name: str, now: float) -> None:
        unit = self.units[name]
        if not unit.rests() or unit.queued:
            self.say("warning", name, "the run before is still going, so this one is left out")
        elif not self.ending:
            unit.queued = BY_CLOCK
            self.looks[unit] = None
        self.work(now)

    # ---------------------------------------------------------------------------------------------------- reload
    def change_config(self, config: Config, now: float) -> dict[str, str]:
        """Begin a reload: stop what it removes or shapes anew. Return what becomes of whom."""
        news = compare(self.pending or self.config, config)
        for name, unit in self.units.items():
            new = config.units.get(name)
            unit.changing = new != unit.spec
            shaped = not new or (unit.changing and is_shaped(unit.spec, new))
            # instances go one at a time, unless the old ones hold the address of a new socket
            sockets = [(each.listen, each.listen and (each.uid, each.gid)) for each in (unit.spec, new) if each]
            unit.leaving = shaped and not (new and new.instance and unit.spec.instance and sockets[0] == sockets[1])
        self.settings, self.pending = config.settings, config
        self.stop_in_order()
        self.work(now)
        return news

    def finish_reload(self) -> None:
        assert self.pending
        config, self.pending = self.pending, None
        asked = {name for name, unit in self.units.items() if unit.wanted}
        for name, unit in list(self.units.items()):
            if not (new := config.units.get(name)) or new.kind != unit.spec.kind:
                self.store(unit, Status())  # it no longer counts
                self.actions.append(Forget(unit))
                del self.units[name]
            elif unit.changing:
                self.redefine(unit, new)
            unit.leaving = unit.changing = False
        self.take_config(config)
        self.actions.append(Replan())
        for name, unit in self.units.items():
            if unit.status.state == IDLE and not unit.wanted:  # it is new, or of another kind than before
                self.want_by_config(unit, unit.spec.autostart or name in asked)
            self.looks[unit] = None

    def redefine(self, unit: Unit, new: Spec) -> None:
        """Give a unit another definition. If that makes another process, all counts begin anew."""
        old, status, state, shaped = unit.spec, unit.status, unit.status.state, is_shaped(unit.spec, new)
        if shaped:
            status = status._replace(delay=None, respawned=0, recent=())
        lasts = status.pid and not status.left and state in (OK, RUNNING)
        if lasts and (old.max_age, old.timeout) != (new.max_age, new.timeout):
            status = status._replace(deadline=find_expiry(new, status, self.chance()))
        self.store(unit, status)
        unit.reach = unit.reach if old.wait_for == new.wait_for else ""
        unit.bound = unit.bound and not shaped
        unit.ran = unit.ran if old.deps == new.deps else {}
        if new.health and new.health != old.health and state == OK:
            self.actions.append(Test(unit.name, "health"))
        if shaped:
            unit.tried = False
            unit.by = BY_CONFIG if unit.by == BY_HAND and new.kind == "daemon" else unit.by
            if state == BACKOFF:
                self.events.append((unit, Event("want")))
            elif unit.status.pid:
                self.events.append((unit, Event("stale", RELOAD)))
            elif state in (DONE, FAILED):
                self.want_by_config(unit, True)

    # -------------------------------------------------------------------------------------------------- shutdown
    def shut_down(self, why: str, code: int | None, now: float, signum: int | None = None) -> None:
        """Stop everything in reverse order. What a lone main command leaves has LEFT_LEAST at least."""
        alone = list(self.units) == [MAIN] and bool(self.units[MAIN].status.starts)
        total = self.settings.shutdown_timeout
        share = sweep_share(total)
        asked = self.asked if alone and self.asked is not None else now
        units_end = max(asked + total - share, now + LEFT_LEAST if alone else now)
        self.pending = None
        self.ending = Ending(why, code, alone, signum, units_end, units_end + share)
        self.say("debug" if alone else "info", "", f"shutting down: {why}")
        self.deadline = units_end + share / 2
        self.actions.append(Wake("", self.deadline))
        for unit in self.units.values():
            unit.wanted, unit.queued, unit.leaving, unit.changing = False, "", True, False
            if unit.lives() and not unit.status.pid:  # what was about to start does not
                self.apply(unit, Event("stop", SHUTDOWN), now)
            unit.levels = max((dep.levels for dep, _ in unit.deps), default=0) + unit.lives()
            times = (dep.below + dep.lives() * dep.spec.stop_timeout for dep, _ in unit.deps)
            unit.below = max(times, default=0.0)
        self.stop_in_order()

    def stop_in_order(self) -> None:
        """Stop all that leaves, each unit once all its dependents are cleared."""
        self.uncleared = len(self.units)
        for unit in self.units.values():
            unit.cleared, unit.blockers = False, len(unit.dependents)
            self.looks[unit] = None

    def stop_event(self, unit: Unit, why: str, now: float) -> Event:
        """Return the event that stops a unit. In a shutdown each level has an equal share of the time, or more
        if those below need less; the main command has three quarters."""
        if not self.ending:
            return Event("stop", why or RELOAD, fails=unit.status.then == "fail")
        left, signum = max(0.0, self.ending.units_end - now), self.ending.signum
        if unit.name != MAIN:
            return Event("stop", SHUTDOWN, limit=max(left / max(1, unit.levels), left - unit.below))
        if signum == SIGNALS["RTMIN"] + 3:  # a request to shut down for systemd alone
            signum = SIGNALS["TERM"]
        return Event("stop", SHUTDOWN, limit=left * 0.75 if unit.levels > 1 else left, signum=signum)

    def begin_sweep(self, now: float, hard: bool = False) -> None:
        """Signal all that is left, until the Loop calls `end_shutdown`."""
        assert self.ending
        soft = min(now + SWEEP_TIMEOUT, max(now, self.ending.end))
        self.sweeping, self.deadline = SIGNALS["KILL" if hard else "TERM"], now + SWEEP_TIMEOUT / 2 if hard else soft
        self.actions += [Wake("", self.deadline), Sweep(self.sweeping)]

    def end_shutdown(self) -> None:
        """Exit with the code asked for, else the main command's, else that of the unit that caused it."""
        assert self.ending
        self.deadline = None
        main, code = self.units.get(MAIN), self.ending.code or 0
        if main and main.status.started and not main.status.pid:
            code = exit_code(main.status.code)
        names = list(dict.fromkeys(self.killed))
        killed = f"; had to be killed: {spell_list(names, 10)}" if names else ""
        code = code if self.code is None else self.code
        self.actions.append(Exit(code, self.ending.why + killed, self.ending.quiet and not names))


# =========================================================================================================== Output
# The output of the units, and overlord's own messages. Nothing here waits for a reader.
#
#     daemon -> pipe -> Capture -> Stream (the container's stdout or stderr, a FIFO, a device) or LogFile
#                          |
#                          +----> Tail, the last lines of a unit

LEVELS = ("debug", "info", "warning", "error")
COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)  # SGR foregrounds without red: ECMA-48 8.3.117
# Where a path leads. folder: a Descriptor of the last folder; path: without links; stat: None if nothing is there;
# safe: only root and overlord's own user can change or create a name on the way.
Place = namedtuple("Place", "folder path stat safe")
S_IFMT, S_IFSOCK, S_IFLNK, S_IFREG, S_IFDIR, S_IFIFO = 0o170000, 0o140000, 0o120000, 0o100000, 0o040000, 0o010000


class Watch:
    """Calls functions when a descriptor is ready or an instant has come."""

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self.calls: dict[int, Callable[[], Any]] = {}
        self.ready: deque[tuple[int, Any]] = deque()  # descriptors that are ready, and their calls
        self.timers: list[list[Any]] = []  # sorted: [instant, serial number, call or None once that is over]
        self.count = 0
        self.looked = time.monotonic()  # when the clock was read last
        self.paused: Callable[[float], bool] = lambda gap: False  # called after a pause; tells if it moved the timers

    def on(self, fd: int, events: int, call: Callable[[], Any]) -> None:
        (self.epoll.modify if fd in self.calls else self.epoll.register)(fd, events)
        self.calls[fd] = call

    def off(self, fd: int) -> None:
        """To be called before the descriptor is closed."""
        if self.calls.pop(fd, None):
            self.epoll.unregister(fd)

    def close(self, fd: int) -> int:
        """Close a descriptor, watched or not, unless it is -1. Return -1."""
        if fd >= 0:
            self.off(fd)
            os.close(fd)
        return -1

    def later(self, instant: float | None, call: Callable[[], Any], old: list[Any] | None = None) -> list[Any] | None:
        """Call once, at that instant (None: never), in place of an old timer; return what `cancel` takes."""
        self.cancel(old)
        if instant is None:
            return None
        self.count += 1
        timer = [instant, self.count, call]
        insort_right(self.timers, timer)
        return timer

    def after(self, delay: float, call: Callable[[], Any], old: list[Any] | None = None) -> list[Any] | None:
        return self.later(time.monotonic() + delay, call, old)

    def cancel(self, timer: list[Any] | None) -> None:
        if timer and timer[2]:
            del self.timers[bisect_left(self.timers, timer)]
            timer[2] = None

    def wait(self, deadline: float | None, once: bool = False) -> None:
        """Make calls as they come due, until one returns true or the deadline (None: never) has come; `once`: until
        any were made. After a call that raises, the next `wait` makes the others."""
        done, end = False, float("inf") if deadline is None else deadline
        while not done:
            done = once
            self.check_clock()
            if not self.ready:
                delay = self.first_due(end) - time.monotonic()
                # epoll_wait(2) takes no more than 2e6, and -1 for ever
                found = self.epoll.poll(-1 if delay == float("inf") else min(1e6, max(0.0, delay)))
                self.ready.extend((fd, self.calls.get(fd)) for fd, _ in found)
            while self.ready:
                fd, call = self.ready.popleft()
                # RACE: a call before may have closed the descriptor, and another may have its number now
                done = bool(call and self.calls.get(fd) == call and call()) or done
            now, due = time.monotonic(), self.first_due(end)
            gap, self.looked = now - self.looked, now
            if min(gap, now - due) > PAUSED and self.paused(gap):
                return
            while self.timers and self.timers[0][0] <= now:
                timer = self.timers.pop(0)
                call, timer[2] = timer[2], None
                done = bool(call()) or done
            done = done or end <= now

    def first_due(self, deadline: float) -> float:
        return min(deadline, self.timers[0][0]) if self.timers else deadline

    def check_clock(self) -> None:
        """Note that overlord was busy, not paused, unless the gap is too long for that."""
        now = time.monotonic()
        if now - self.looked <= PAUSED:
            self.looked = now


class Descriptor(int):
    """An open descriptor, closed once nothing refers to it any more."""

    def __del__(self) -> None:
        os.close(self)


def open_entry(folder: int, name: str, make: bool) -> Descriptor | None:
    """Open an entry, be it a link, or return None; `make`: create a missing one as a folder."""
    try:
        return Descriptor(os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=folder))
    except FileNotFoundError:
        if not make:
            return None
    try:
        os.mkdir(name, dir_fd=folder)
    except FileExistsError:  # somebody else was faster
        pass
    return open_entry(folder, name, make=False)


def find(path: str, make: bool = False, links: int = 40) -> Place:
    """Follow a path, over so many links. `make`: create missing folders. Raises OSError, ELOOP if misled.
    RACE: what is entered is the very entry that was checked."""
    names = [name for name in path.split("/") if name not in ("", ".")]
    if not names or names[-1] == ".." or not links:
        code = errno.EISDIR if links else errno.ELOOP
        raise OSError(code, os.strerror(code))
    at, safe, folder = "", True, Descriptor(os.open("/", os.O_PATH))
    while True:
        name = names.pop(0)
        if name == ".." and not safe:
            raise OSError(errno.ELOOP, f"{at} can be moved by others than root: {at}/.. may be anything")
        entry = open_entry(folder, name, make and bool(names))
        stat = None if entry is None else os.fstat(entry)
        safe = safe and (name == ".." or is_fixed(folder, stat))
        if stat and stat.st_mode & S_IFMT == S_IFLNK:
            if not safe:
                why = "is a link that others than root can change; give its target instead"
                raise OSError(errno.ELOOP, f"{at}/{name} {why}")
            return find(os.path.join(at, os.readlink("", dir_fd=entry), *names), make, links - 1)
        at = at.rpartition("/")[0] if name == ".." else f"{at}/{name}"
        if entry is None or not names:
            return Place(folder, "/".join([at, *names]), stat, safe)
        folder = entry


def is_fixed(folder: int, entry: os.stat_result | None) -> bool:
    """Tell whether only root and overlord's own user can change an entry of a folder, or (None) create one."""
    own, above = (0, os.geteuid()), os.fstat(folder)
    trusted = above.st_uid in own
    if (trusted and not above.st_mode & 0o022) or os.fstatvfs(folder).f_flag & os.ST_RDONLY:
        return True
    if not (trusted and above.st_mode & 0o1000 and entry and entry.st_uid in own):
        return False
    # In a sticky folder, others cannot remove or rename root's entries, but can add links and hard links.
    kind = entry.st_mode & S_IFMT
    return kind == S_IFDIR or (kind != S_IFLNK and entry.st_nlink == 1)


def open_path(path: str, kind: int) -> int:
    """Open a file of a kind (inode(7)) to append to; create it and its folders if missing. Raises OSError.
    LINUX: a FIFO opened for reading too needs no reader, and its writer gets no SIGPIPE: fifo(7)."""
    place = find(path, make=True)
    flags = os.O_APPEND | (os.O_RDWR if kind == S_IFIFO else os.O_WRONLY)
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | (0 if place.stat else os.O_CREAT | os.O_EXCL)
    fd = os.open(os.path.basename(place.path), flags, 0o666, dir_fd=place.folder)
    stat, fault = os.fstat(fd), ""
    before = place.stat or stat  # RACE: somebody may have replaced it since, or removed one of its names
    if not os.path.samestat(before, stat):
        fault = "was replaced while it was opened"
    elif stat.st_mode & S_IFMT != kind:
        fault = "is another kind of file by now"
    elif max(before.st_nlink, stat.st_nlink) > 1 and not place.safe:
        fault = "has a second name (a hard link), which may be root's"
    if fault:
        os.close(fd)
        raise OSError(errno.ELOOP, f"{place.path} {fault}")
    return fd


class Sink:
    """What several sources write lines to."""

    fault = ""  # why it cannot be written now
    broken = False  # a failed write has sent SIGPIPE or SIGXFSZ to overlord: write(2)
    most_kept: int  # bytes, before prefixes; what is read beyond that is dropped, and its lines are counted
    flush: Callable[[], None]  # writes what can be written now

    def __init__(self, watch: Watch, fd: int) -> None:
        self.watch, self.fd = watch, fd
        self.kept, self.lost = bytearray(), 0  # bytes still to be written; lines that were dropped
        self.unfinished: Capture | Log | None = None  # the source of an incomplete line
        self.waiting: dict[Capture, None] = {}  # sources that wait, in the order in which they came
        self.units: dict[str, None] = {}  # in the order in which they came

    def put(self, source: Capture | Log, text: bytes) -> None:
        """Write whole lines, or part of an overlong one, which another source may split in two."""
        prefix = source.prefix
        if self.unfinished is not source:
            self.kept += b"\n" + prefix if self.unfinished else prefix
        self.kept += text.replace(b"\n", b"\n" + prefix) if prefix else text
        self.unfinished = None if text.endswith(b"\n") else source
        if prefix and not self.unfinished:
            del self.kept[-len(prefix) :]  # after the last newline. COST: slicing `text` first would copy it
        if not self.fault:
            self.flush()

    def is_full(self) -> bool:
        """Tell whether sources have to wait."""
        return False

    def release(self) -> None:
        self.fd = self.watch.close(self.fd)


class Stream(Sink):
    """A pipe, terminal, FIFO or device. While its reader is slow, lines are kept; above STREAM_KEPT, daemons have to
    wait; of those that have ended, and in a shutdown, STUCK_KEPT are kept. Once a reader has taken nothing for STUCK
    seconds of a shutdown, nobody waits for it. Once it is gone, lines are dropped."""

    most_kept = STUCK_KEPT + BLOCK

    def __init__(self, watch: Watch, fd: int) -> None:
        super().__init__(watch, fd)
        path = f"/proc/self/fd/{fd}"
        if fd < 3 and not os.path.isfile(path):
            # LINUX: O_NONBLOCK belongs to the open file, which others share; this makes one of its own
            self.fd = call_or(fd, os.open, path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_APPEND)
        self.may_block = self.fd < 3 and not os.path.isfile(path)  # a socket, or another user's pipe
        self.progress = 0.0  # when the reader last took something, or had to be waited for; 0: nothing is kept
        self.ending = False  # overlord is shutting down
        self.drained: Callable[[], None] = lambda: None  # called when nothing is kept

    def is_full(self) -> bool:
        stuck = self.ending and time.monotonic() - self.progress > STUCK
        return len(self.kept) > (STUCK_KEPT if self.ending else STREAM_KEPT) and not stuck

    def flush(self) -> None:
        before = len(self.kept)
        try:
            while self.kept and (not self.may_block or select.select((), (self.fd,), (), 0)[1]):
                part = self.kept[: select.PIPE_BUF] if self.may_block else self.kept
                del self.kept[: os.write(self.fd, part)]
        except BlockingIOError:
            pass
        except OSError as error:  # nobody will ever read it
            self.kept.clear()
            Sink.broken = Sink.broken or error.errno in (errno.EPIPE, errno.EFBIG)
        if not self.kept:
            self.progress = 0.0
            self.watch.off(self.fd)
            self.drained()
        else:
            if not self.progress or len(self.kept) < before:
                self.progress = time.monotonic()
            self.watch.on(self.fd, select.EPOLLOUT, self.flush)
        if self.ending and self.is_full():
            self.watch.later(self.progress + STUCK, self.flush)  # to give up a reader that is still stuck
        while self.waiting and not self.is_full():
            first = next(iter(self.waiting))
            del self.waiting[first]
            first.resume()


class LogFile(Sink):
    """A log file: rotated, and opened again when somebody has moved or removed it. No unit waits for it: while it
    cannot be written, FILE_KEPT bytes are kept and further lines counted."""

    most_kept = FILE_KEPT

    def __init__(self, watch: Watch, path: str, most: int, keep: int, say: Callable[[str, str, str], None]) -> None:
        super().__init__(watch, -1)
        self.path, self.most, self.keep, self.say = path, most, keep, say
        self.opened = os.stat_result([0] * 10)
        self.rotation_fault = ""
        self.timer: list[Any] | None = None  # for the next try

    def flush(self) -> None:
        fault = ""
        try:
            while self.kept:
                piece = self.kept  # or the lines that fit into one file, or the first line if that is longer
                if 0 < self.most < len(piece):
                    end = piece.rfind(b"\n", 0, self.most) + 1 or piece.find(b"\n") + 1
                    piece = piece[: end or len(piece)]
                self.make_room(len(piece))
                del self.kept[: os.write(self.fd, piece)]
        except OSError as error:
            fault = error.strerror or "error"
            Sink.broken = Sink.broken or error.errno == errno.EFBIG
            self.timer = self.watch.after(FILE_RETRY, self.flush, self.timer)
        if fault and fault != self.fault:
            kept = f"up to {spell_size(FILE_KEPT)} of lines are kept until it can be written"
            self.log_message("error", f"cannot write {self.path}: {fault}; {kept}")
        elif self.fault and not fault:
            lost = f"{self.lost} lines were lost meanwhile" if self.lost else "nothing was lost"
            self.log_message("warning", f"{self.path} can be written again, {lost}")
            self.lost = 0
        self.fault = fault

    def make_room(self, size: int) -> None:
        """Rotate the file if so many bytes more do not fit; open it if somebody has moved it. Raises OSError."""
        stat = call_or(None, os.stat, self.path)
        if not stat or not os.path.samestat(stat, self.opened):
            stat = self.open_file()
        if self.most and stat.st_size and stat.st_size + size > self.most and self.rotate():
            self.open_file()

    def open_file(self) -> os.stat_result:
        fd = open_path(self.path, S_IFREG)
        self.watch.close(self.fd)
        self.fd, self.opened = fd, os.fstat(fd)
        return self.opened

    def rotate(self) -> bool:
        """Rename PATH to PATH.1, PATH.1 to PATH.2 and so on. Return whether that succeeded."""
        folder, path, *_ = find(self.path)
        name, fault = os.path.basename(path), ""
        try:
            for number in range(self.keep, 0, -1):
                newer = f"{name}.{number - 1}" if number > 1 else name
                try:
                    os.rename(newer, f"{name}.{number}", src_dir_fd=folder, dst_dir_fd=folder)
                except FileNotFoundError:
                    pass
            if not self.keep:
                os.unlink(name, dir_fd=folder)
        except OSError as error:
            fault = error.strerror or "error"
        if fault not in ("", self.rotation_fault):
            self.log_message("error", f"cannot rotate {self.path}: {fault}; it goes on growing")
        self.rotation_fault = fault
        return not fault

    def log_message(self, level: str, text: str) -> None:
        self.say(level, ", ".join(self.units), text)

    def release(self) -> None:
        if self.kept:
            self.flush()
        self.watch.cancel(self.timer)
        if self.fault:
            lost = self.lost + self.kept.count(b"\n")
            self.log_message("warning", f"{lost} lines for {self.path} were given up: {self.fault}")
        super().release()


class Tail:
    """The last lines of a unit, in the blocks that they came in."""

    def __init__(self) -> None:
        self.blocks: deque[bytes] = deque()  # each holds at least one line
        self.size = 0

    def add(self, text: bytes) -> None:
        self.blocks.append(text)  # COST: it is neither searched nor copied
        self.size += len(text)
        while len(self.blocks) > TAIL_LINES or (self.size > TAIL_BYTES and len(self.blocks) > 1):
            self.size -= len(self.blocks.popleft())

    def last_lines(self, count: int) -> list[bytes]:
        text = b"".join(self.blocks) if count > 0 else b""
        return (text[:-1] if text.endswith(b"\n") else text).rsplit(b"\n", count)[-count:] if text else []


class Capture:
    """The pipe from the stdout or stderr of a unit, one process after the other, to its sink."""

    def __init__(self, output: Output, unit: str, target: str, sink: Sink, prefix: bytes) -> None:
        self.output, self.unit, self.target, self.sink, self.prefix = output, unit, target, sink, prefix
        self.watch, self.tail = output.watch, output.tails[unit]
        output.block = output.block or memoryview(bytearray(BLOCK))
        self.fd, self.end = os.pipe()
        os.set_blocking(self.fd, False)  # the other end is another open file
        self.line = b""  # an unfinished one
        self.looked = 0.0  # when the pipe was read last
        self.rested = self.widened = False
        self.resume()

    def resume(self) -> None:
        if self.fd >= 0:
            self.watch.on(self.fd, select.EPOLLIN, self.read_pipe)

    def read_pipe(self) -> None:
        """Read what is there, unless the sink is full. COST: after small blocks in a row, let the pipe fill for REST
        seconds, which halves the processor time for a unit that writes 100 bytes at a time. Widen a pipe that was full:
        its writer had to wait."""
        if self.sink.is_full():
            self.watch.off(self.fd)
            self.sink.waiting[self] = None
            return
        now, size = time.monotonic(), self.read_block()
        if not self.widened and size > 65536 - 2 * select.PIPE_BUF:  # LINUX: what a new pipe holds, pipe(7)
            self.widened = True
            if call_or(WIDE_PIPE, fcntl.fcntl, self.fd, F_GETPIPE_SZ) < WIDE_PIPE:  # else the unit has done so
                call_or(None, fcntl.fcntl, self.fd, F_SETPIPE_SZ, WIDE_PIPE)
        self.rested = now - self.looked < 4 * REST and size < LINE_MAX // 4
        if self.rested:
            self.watch.off(self.fd)
            self.watch.later(now + REST, self.resume)
        self.looked = now

    def read_block(self) -> int:
        """Pass on what can be read now; return its size. Nothing that this calls reads another pipe."""
        block, at = self.output.block, 0
        size: int = call_or(0, os.readv, self.fd, [block])
        room = len(self.sink.kept) + size <= self.sink.most_kept
        while at < size:
            end = min(size, at + LINE_MAX - len(self.line))
            self.pass_lines(bytes(block[at:end]), room)
            at = end
        return size

    def pass_lines(self, block: bytes, room: bool = True) -> None:
        """Pass on whole lines, or LINE_MAX bytes of an overlong one, and keep the rest."""
        end = block.rfind(b"\n") + 1
        if not end and len(self.line) + len(block) >= LINE_MAX:
            end = len(block)
        if not end:
            self.line += block
            return
        text, self.line = self.line + block[:end], block[end:]
        self.tail.add(text)
        self.output.follow(self.unit, text)
        if room:
            self.sink.put(self, text)
        else:
            self.sink.lost += text.count(b"\n")

    def is_blocked(self) -> bool:
        """Tell whether the sink takes no more, even of a process that has ended."""
        return self.sink.is_full() and len(self.sink.kept) >= STUCK_KEPT

    def finish_run(self, left: bool = False) -> None:
        """Read what a process has left, and end its last line, unless others are `left` that may do that."""
        for _ in range(2 * PIPE_SIZE // LINE_MAX):  # all that a pipe holds: others may go on writing
            if self.is_blocked() or not self.read_block():
                break
        if not left and not self.is_blocked() and (self.line or self.sink.unfinished is self):
            self.pass_lines(b"\n")


def spell_json(value: Any) -> str:
    """Return JSON. python3-minimal has no json module."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{spell_json(key)}: {spell_json(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(spell_json, value)) + "]"
    if not isinstance(value, str):
        return "null" if value is None else repr(value)
    escaped = re.sub(r'[\0-\x1f"\\\x7f\ud800-\udfff]', lambda match: f"\\u{ord(match[0]):04x}", value)
    return f'"{escaped}"'


def clean(text: str) -> str:
    """Return text on one line, with control characters as escapes."""
    controls = r"[\0-\x1f\x7f-\x9f\udc80-\udc9f]"  # C0 and C1; the last are bytes that are not UTF-8
    return re.sub(controls, lambda match: " " if match[0] in "\n\t" else f"\\x{ord(match[0]) & 255:02x}", text)


class Log:
    """overlord's own messages. While nobody reads, LOG_KEPT bytes are kept and later ones counted."""

    prefix = b""

    def __init__(self, stream: Stream, level: str, form: str) -> None:
        self.stream, self.level, self.form = stream, level, form
        self.backlog = self.lost = 0  # bytes in what the stream keeps; messages
        stream.drained = self.catch_up

    def spell(self, level: str, unit: str, text: str, details: Mapping[str, str | list[str]]) -> bytes:
        """Return a message in the configured format. In text, details add lines."""
        if self.form == "json":
            now = time.time()
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now * 1000) % 1000:03d}Z"
            about = {"unit": unit} if unit else {}
            lines = [spell_json({"time": stamp, "level": level, **about, "message": clean(text), **details})]
        else:
            head = f"overlord: {unit}: " if unit else "overlord: "
            lines = [head + clean(text)]
            for key, value in details.items():
                parts = value if isinstance(value, list) else value.split("\n")
                if parts == [value]:
                    lines.append(f"{head}  {key}: {clean(parts[0])}")
                else:
                    lines += [f"{head}  {key}:", *(f"{head}  | {clean(line)}" for line in parts)]
        return ("\n".join(lines) + "\n").encode("utf-8", "surrogateescape")

    def message(self, level: str, unit: str, text: str, details: Any = None, always: bool = False) -> None:
        """Write a message if its level is high enough."""
        if not always and LEVELS.index(level) < LEVELS.index(self.level):
            return
        line = self.spell(level, unit, text, details or {})
        if self.stream.kept and self.backlog + len(line) > LOG_KEPT:
            self.lost += 1
            return
        self.stream.put(self, line)
        self.backlog = self.backlog + len(line) if self.stream.kept else 0

    def catch_up(self) -> None:
        if self.lost:
            lost, self.lost = self.lost, 0
            self.message("warning", "", f"{lost} messages were lost, since nobody read them", always=True)


class Output:
    """Who writes where: the container's streams, the log files, the captures of all units."""

    def __init__(self, watch: Watch, level: str, form: str, colour: bool) -> None:
        self.watch, self.colour = watch, colour
        err = Stream(watch, 2)
        self.streams = {1: err if os.path.samefile(1, 2) else Stream(watch, 1), 2: err}  # the container's
        self.sinks: dict[str, Sink] = {}  # others, by path
        self.captures: dict[tuple[str, int], Capture] = {}
        # What all captures read into; made with the first of them. COST: new bytes for each read, cut to what has come,
        # leave holes between those that are kept, and these add up to megabytes.
        self.block = memoryview(b"")
        self.tails: dict[str, Tail] = {}
        self.follow: Callable[[str, bytes], None] = lambda unit, text: None  # gets all captured output
        self.log = Log(err, level, form)

    def wire_output(self, spec: Spec) -> tuple[int, int]:
        """Return what becomes a unit's stdout and stderr; -1 is /dev/null. Raises StartError."""
        out = self.writing_end(spec, 1)
        if spec.stderr == "stdout" or (spec.stderr == spec.stdout and spec.stderr[0] == "/"):
            self.unwire(spec.name, [2])
            return out, out
        return out, self.writing_end(spec, 2)

    def writing_end(self, spec: Spec, fd: int) -> int:
        name = ("stdout", "stderr")[fd - 1]
        target = getattr(spec, name)
        capture = self.captures.get((spec.name, fd))
        if capture and capture.target != target:
            self.unwire(spec.name, [fd])
            capture = None
        if target in ("inherit", "null"):
            return fd if target == "inherit" else -1
        prefix = f"{spec.name} | " if target == "prefix" else ""
        try:
            if not capture:
                sink = self.streams[fd] if prefix else self.sink(target, spec)
                self.tails.setdefault(spec.name, Tail())
                if prefix and self.colour and os.isatty(fd):
                    colour = COLOURS[list(self.tails).index(spec.name) % len(COLOURS)]
                    prefix = f"\x1b[{colour}m{spec.name} |\x1b[0m "
                capture = self.captures[spec.name, fd] = Capture(self, spec.name, target, sink, prefix.encode())
            os.set_blocking(capture.end, True)  # a process may have set O_NONBLOCK, as node does
        except OSError as error:
            raise StartError(f"{name} {target}: {error.strerror}", error.errno in SCARCE) from None
        return capture.end

    def sink(self, path: str, spec: Spec) -> Sink:
        """Return the one writer of a file, whatever its path. Raises OSError."""
        for fd, stream in self.streams.items():
            if call_or(False, os.path.samefile, path, fd):
                return stream
        try:
            place = find(path)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise
            place = Place(-1, os.path.normpath(path), None, False)  # a file is in the place of a folder, say
        if not (sink := self.sinks.get(place.path)):
            kind = place.stat.st_mode & S_IFMT if place.stat else S_IFREG
            if kind == S_IFREG:
                sink = LogFile(self.watch, place.path, spec.log_max, spec.log_keep, self.log.message)
            else:
                sink = Stream(self.watch, open_path(place.path, kind))
            self.sinks[place.path] = sink
        sink.units[spec.name] = None
        return sink

    def of(self, name: str) -> list[Capture]:
        return [self.captures[name, fd] for fd in (1, 2) if (name, fd) in self.captures]

    def unwire(self, name: str, fds: Iterable[int] = (1, 2)) -> None:
        """Stop capturing descriptors of a unit. Close files that nobody writes to any more."""
        for key in [(name, fd) for fd in fds if (name, fd) in self.captures]:
            capture = self.captures.pop(key)
            capture.finish_run()
            capture.fd = self.watch.close(capture.fd)
            os.close(capture.end)
        if not self.of(name):
            self.tails.pop(name, None)
        used = {capture.sink for capture in self.captures.values()}
        for path in [path for path, sink in self.sinks.items() if sink not in used]:
            self.sinks.pop(path).release()

    def apply_settings(self, fleet: Fleet) -> None:
        self.log.level, self.log.form = fleet.settings.log_level, fleet.settings.log_format
        for (name, _), capture in reversed(list(self.captures.items())):  # of several units, the first one wins
            spec = fleet.units[name].spec if name in fleet.units else None
            if spec and isinstance(capture.sink, LogFile) and capture.target in (spec.stdout, spec.stderr):
                capture.sink.most, capture.sink.keep = spec.log_max, spec.log_keep

    def all_streams(self) -> set[Stream]:
        return {each for each in (*self.streams.values(), *self.sinks.values()) if isinstance(each, Stream)}

    def begin_shutdown(self) -> None:
        """Let no stuck reader keep daemons from ending. May be called again."""
        for stream in self.all_streams():
            if not stream.ending:
                stream.ending = True
                stream.flush()

    def write_rest(self, until: float) -> None:
        """Write all that is left, until `until` at most; give up a stuck reader sooner."""
        self.begin_shutdown()
        while True:
            for capture in self.captures.values():
                capture.finish_run(left=True)
            progress = [stream.progress for stream in self.all_streams() if stream.kept]
            deadline = min(until, max(progress, default=-STUCK) + STUCK)
            if time.monotonic() >= deadline:
                break
            self.watch.wait(deadline, once=True)
        for capture in self.captures.values():
            capture.finish_run()
        for sink in self.sinks.values():
            sink.release()
        if lost := sum(stream.lost + stream.kept.count(b"\n") for stream in self.all_streams()):
            self.log.message("warning", "", f"{lost} lines of output were given up, since nobody read them")


# =========================================================================================================== Kernel
# The system calls that touch processes: spawn, signal, reap, look into /proc.


def try_stage(stage: str, call: Callable[..., Any], *words: Any) -> Any:
    """Return the result of a call. Raises StartError, with the stage of the start, in place of OSError."""
    try:
        return call(*words)
    except OSError as error:
        raise StartError(f"{stage}: {error.strerror or error}", passing=error.errno in SCARCE) from None


# What no shell looks up as a program: POSIX 2.9, dash(1), bash(1), busybox ash.
SHELL_WORDS = frozenset(
    """. : [ [[ alias bg bind break builtin caller case cd chdir command compgen complete compopt continue coproc
    declare dirs disown do done echo elif else enable esac eval exec exit export false fc fg fi for function getopts
    hash help history if in jobs kill let local logout mapfile popd printf pushd pwd read readarray readonly return
    select set shift shopt source suspend test then time times trap true type typeset ulimit umask unalias unset until
    wait while""".split()
)
PLAIN_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./+- ")
PLAIN_WORD = r"(?:[\w@%+=:,./-]|\\[^\n]|'[^']*'|\"[^\"\\$`]*\")+"
PLAIN_COMMAND = rf"(?a)[\w./+-]+(?:(?:\\\n)*[ \t](?:[ \t]|\\\n)*{PLAIN_WORD})*"
QUOTED = r"\\(.)|'([^']*)'|\"([^\"]*)\""
SUBSTITUTION = r"\$\(\([^()'\"`\\#]*\)\)|\$\([^()'\"`\\#]*\)|`[^()'\"`\\#]*`"  # only those without quotes or nesting


def first_program(cmd: str) -> str:
    """Return the first word of a command, or "" if that may be something else than a program."""
    first = next(iter(cmd.split(None, 1)), "")
    return first if PLAIN_LETTERS.issuperset(first) and first not in SHELL_WORDS else ""


def command_line(cmd: str, environment: Mapping[bytes, bytes]) -> list[str]:
    """Return the arguments to execute for a `cmd`: its words if they are plain (dash drops variables whose names have a
    dot), else a shell's, with `exec` before a simple command."""
    cmd = cmd.strip()
    first = first_program(cmd)
    if not first or f"BASH_FUNC_{first}%%".encode() in environment:
        return ["/bin/sh", "-c", cmd]
    if PLAIN_LETTERS.issuperset(cmd):  # COST: for most, no pattern is compiled
        return cmd.split()
    if re.fullmatch(PLAIN_COMMAND, cmd):
        words = re.findall(PLAIN_WORD, cmd, re.ASCII)
        return [re.sub(QUOTED, lambda match: match[match.lastindex or 0], word) for word in words]
    bare = re.sub(SUBSTITUTION, "", cmd)
    bare = re.sub(r"\\.|'[^']*'|\"(?:\\.|[^\"\\$`]|\$(?!\())*\"|[<>]&", "", bare, flags=re.DOTALL)
    simple = not re.search(r"[;&|()`\n\"']|<<|(?:^|\s)#", bare)
    return ["/bin/sh", "-c", f"exec {cmd}" if simple else cmd]


def program_of(cmd: str) -> str:
    return os.path.basename(command_line(cmd, {})[0])


def find_paths(program: bytes, environment: Mapping[bytes, bytes]) -> list[bytes]:
    if not program or b"/" in program:
        return [program] if program else []
    folders = environment.get(b"PATH", DEFAULT_PATH.encode()).split(b":")
    return [(folder or b".") + b"/" + program for folder in folders]


def execute(argv: Iterable[str | bytes], environment: Mapping[bytes, bytes]) -> tuple[str, int]:
    """Replace this process, as execvp(3). Return why that failed, and a shell's exit code for it."""
    words = [os.fsencode(word) for word in argv]
    why, code = "not found", NOT_FOUND
    for path in find_paths(words[0], environment):
        try:
            os.execve(path, words, environment)
        except OSError as error:
            if error.errno == errno.ENOEXEC and path != b"/bin/sh":  # a script without `#!`
                return execute(["/bin/sh", path, *words[1:]], environment)
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                why = "is a directory" if os.path.isdir(path) else str(error.strerror)
                code = NOT_EXECUTABLE
            elif os.path.exists(path):
                why, code = "the interpreter in its #! line was not found", NOT_FOUND
    return f"{decode(words[0])}: {why}", code


VARIABLE = rb"[^\s'\"$=]+"


def variable_files(spec: Spec, environment: Mapping[bytes, bytes], read: Callable[[str], Any]) -> Iterator[Any]:
    """Yield of each file with variables: its name in messages, its path, the variable whose value is the whole content
    ("": it has lines KEY=value), and what `read` returns, as `try_read`."""
    for given in spec.env_file:
        path = given[given[0] == "-" :]
        content = read(path)
        if isinstance(content, list):
            yield from ((f"env_file {each}", each, os.path.basename(each), read(each)) for each in content)
        else:
            yield f"env_file {path}", path, "", content
    for name in spec.secrets:
        path = decode(environment.get(f"{name}_FILE".encode(), b"")) or f"/run/secrets/{name}"
        content = read(path)
        if isinstance(content, list):
            content = OSError(errno.EISDIR, "is a folder, as docker makes where the file on the host is missing")
        elif isinstance(content, OSError) and content.errno == errno.ENOENT:
            way = f"mount it, or name another file in {name}_FILE"
            if name.encode() in environment:
                way = f"{name} itself is set: leave it out of `secrets`"
            content = OSError(errno.ENOENT, f"{content.strerror}; {way}")
        yield f"secret {name}: {path}", path, name, content


def try_read(path: str) -> bytes | list[str] | OSError:
    """Return the content of a file, or the paths of the regular files in a folder that are not hidden."""
    try:
        kind = os.stat(path).st_mode & S_IFMT
        if kind == S_IFIFO:
            raise OSError(errno.EINVAL, "is a FIFO, and perhaps nobody ever writes to it")
        if kind != S_IFDIR:
            return slurp(path)
        inside = [f"{path}/{name}" for name in sorted(os.listdir(path)) if name[0] != "."]
        return [each for each in inside if os.path.isfile(each) or not os.path.exists(each)]
    except OSError as error:
        return error


def read_fixed(spec: Spec, environment: Mapping[bytes, bytes]) -> dict[str, bytes | list[str] | OSError]:
    """Read, with overlord's rights, the files with variables that only root and overlord's user can replace."""
    held: dict[str, bytes | list[str] | OSError] = {}

    def hold(path: str) -> bytes | list[str] | OSError:
        place = call_or(None, find, os.path.join(os.getcwd(), path))
        if place and place.safe:
            held[path] = try_read(path)
        return held.get(path, b"")

    list(variable_files(spec, environment, hold))
    return held


def read_variables(spec: Spec, environment: Mapping[bytes, bytes], held: Mapping[str, Any]) -> dict[bytes, bytes]:
    """Return the variables of `env_file` and `secrets`. Reads what is not in `held`, from `read_fixed`, with the rights
    of this process. Raises StartError, which shows no value."""
    found: dict[bytes, bytes] = {}

    def recall(path: str) -> Any:
        return held[path] if path in held else try_read(path)

    for what, path, whole, content in variable_files(spec, environment, recall):
        if isinstance(content, OSError):
            if content.errno == errno.ENOENT and f"-{path}" in spec.env_file:
                continue
            why = f"{what}: {content.strerror}"
            if content.errno == errno.ENOENT and not whole:
                why += f" (where it may be missing, write -{path})"
            if content.errno == errno.EACCES and spec.uid and path not in held:
                why += f" (read as {spec.uid}: others than root can change the path)"
            raise StartError(why)
        if whole:
            key = os.fsencode(whole)
            if b"\0" in content or not re.fullmatch(VARIABLE, key):
                raise StartError(f"{what}: " + ("holds a NUL byte" if b"\0" in content else "is no name of a variable"))
            found[key] = re.sub(rb"\r?\n\Z", b"", content)
            continue
        for number, line in enumerate(map(bytes.strip, content.splitlines()), 1):
            key, equals, value = line.partition(b"=")
            if not line or line.startswith(b"#"):
                continue
            if not equals or b"\0" in line or not re.fullmatch(VARIABLE, key):
                raise StartError(f"{what}:{number}: is not of the form KEY=value")
            found[key] = value[1:-1] if re.fullmatch(rb"'[^']*'|\"[^\"]*\"", value) else value
    return found


def remove_pidfile(path: str) -> None:
    place = find(path)
    if place.stat:
        os.unlink(os.path.basename(place.path), dir_fd=place.folder)


def set_limits(limits: Iterable[tuple[str, int, int]]) -> None:
    """Set the limits of this process. Raises StartError."""
    try:
        import resource

        for name, soft, hard in limits:
            resource.setrlimit(getattr(resource, f"RLIMIT_{name.upper()}"), (soft, hard))
    except (AttributeError, OSError, ValueError) as error:
        raise StartError(f"limits {name}: {error}") from None
    except ImportError:  # python3-minimal; Debian has prlimit(1)
        import subprocess

        words = ["prlimit", f"--pid={os.getpid()}", *("--{}={}:{}".format(*limit) for limit in limits)]
        stage = "limits: no module `resource` in this Python; prlimit(1)"
        result = try_stage(stage, partial(subprocess.run, words, capture_output=True))
        if result.returncode:
            raise StartError(f"limits: {decode(result.stderr).strip()}") from None


def identity(uid: str | None, gid: str | None) -> tuple[Any, Any, dict[bytes, bytes]]:
    """Return the numbers of a user and a group, and the user's variables. Raises OSError, StartError."""
    number, group, variables = None, None, {}
    if uid is not None:
        import pwd

        try:
            user = pwd.getpwuid(int(uid)) if is_number(uid, 10) else pwd.getpwnam(uid)
        except KeyError:
            os.close(os.dup(0))  # LINUX: without a free descriptor, glibc finds no user and no group
            if not is_number(uid, 10):
                raise StartError(f"uid {uid}: no such user") from None
            user = pwd.struct_passwd((uid, "", int(uid), int(uid), "", "/", ""))
        number, group, name = user.pw_uid, user.pw_gid, os.fsencode(user.pw_name)
        variables = {b"HOME": os.fsencode(user.pw_dir), b"USER": name, b"LOGNAME": name}
        variables[b"SHELL"] = os.fsencode(user.pw_shell or "/bin/sh")
    if gid is not None:
        import grp

        try:
            group = int(gid) if is_number(gid, 10) else grp.getgrnam(gid).gr_gid
        except KeyError:
            os.close(os.dup(0))
            raise StartError(f"gid {gid}: no such group") from None
    return number, group, variables


def take_identity(spec: Spec) -> dict[bytes, bytes]:
    """Become a unit's user and group; return the user's variables. Raises StartError."""
    uid, gid, variables = identity(spec.uid, spec.gid)
    if uid == os.geteuid() and (spec.gid is None or gid == os.getegid()):
        return variables  # it is overlord's own, and needs no privilege
    stage = f"gid {spec.gid}" if uid in (None, os.geteuid()) else f"uid {spec.uid}"
    if os.geteuid():
        stage += f" (only root can take another, and this is user {os.geteuid()})"
    if uid is not None:
        try_stage(stage, os.initgroups, decode(variables[b"USER"]), gid)
    if gid not in (None, os.getegid()):
        try_stage(stage, os.setgid, gid)
    if uid is not None:
        try_stage(stage, os.setuid, uid)
    return variables


def is_masked(status: str, masks: bytes, signum: int) -> bool:
    """Tell whether a signal is in one of the masks (Blk, Ign, Cgt) of a status file, proc(5)."""
    found = re.findall(rb"(?m)^Sig(?:%b):\t(\w+)" % masks, call_or(b"", slurp, status))
    return any(int(mask, 16) >> (signum - 1) & 1 for mask in found)


def survives(pid: int, signum: int) -> bool:
    """Tell whether a signal surely does not kill a process: by default, or since a thread of it handles that."""
    if signum in HARMLESS:
        return True
    if is_becoming(pid):
        return False  # RACE: exec will undo what shows now
    tasks = call_or([], os.listdir, f"/proc/{pid}/task")
    return any(is_masked(f"/proc/{pid}/task/{task}/status", b"Blk|Ign|Cgt", signum) for task in tasks)


def is_becoming(pid: int) -> bool:
    """Tell whether a child has not called exec yet."""
    own, its = (call_or(None, slurp, f"/proc/{each}/cmdline") for each in ("self", pid))
    return own is not None and own == its


class Kernel:
    def __init__(self, environment: dict[bytes, bytes], mask: set[int]) -> None:
        self.environment, self.mask = environment, mask
        self.ignored = {n for n in SETTABLE if signal.getsignal(n) == signal.SIG_IGN} - OWN_FAULTS
        fill_standard(os.O_RDWR)
        entries = call_or(range(256), os.listdir, "/proc/self/fd")
        # what overlord was started with; PYTHON: its own are not inheritable
        self.handed = [fd for fd in map(int, entries) if fd > 2 and call_or(False, os.get_inheritable, fd)]
        for fd in self.handed:
            os.set_inheritable(fd, False)
        self.null = os.open(os.devnull, os.O_RDWR)
        self.failures, self.failing = os.pipe()  # children write there why they failed
        os.set_blocking(self.failures, False)
        self.reasons: dict[int, str] = {}  # pid -> why it failed
        # children that are no main process, as probes -> what takes their exit code and reason
        self.helpers: dict[int, Callable[[int, str], None]] = {}
        self.terminal = False  # the main command has the terminal
        self.oom, self.oom_seen = oom_kills()[0], -OOM_WINDOW  # their number so far, and when it grew

    def make_main(self, cmd: Iterable[str]) -> int:
        """Return the pid of the main command, started as tini would. Raises StartError."""
        self.terminal = in_foreground()

        def become_main() -> tuple[str, int]:
            os.setpgid(0, 0)
            if self.terminal:
                os.tcsetpgrp(0, os.getpid())
            for fd in self.handed:
                os.set_inheritable(fd, True)
            self.shed_signals(self.ignored, self.mask)
            return execute(cmd, self.environment)

        return self.fork(become_main, apart=False)

    def fork(self, child: Callable[[], tuple[str, int]], ended: Any = None, apart: bool = True) -> int:
        """Return the pid of a child that makes a call, which returns why it failed, or "", and an exit code for that.
        `ended`: see `helpers`; `apart`: in a session of its own. Raises StartError. RACE: all signals are blocked until
        `shed_signals`, since the child shares overlord's wake-up pipe."""
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ALL_SIGNALS)
        try:
            pid = os.fork()
            if not pid:
                self.run_child(child, apart)
            if ended:
                self.helpers[pid] = ended
            return pid
        except OSError as error:
            raise StartError(f"fork: {error.strerror}", passing=True) from None
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def run_child(self, child: Callable[[], tuple[str, int]], apart: bool) -> None:
        try:
            if apart:
                self.shed_signals()  # a signal must be able to stop the rest, which may take long
                os.setsid()
            text, code = child()
        except BaseException as error:
            passing = getattr(error, "passing", getattr(error, "errno", None) in SCARCE)
            text = str(error) if isinstance(error, StartError) else getattr(error, "strerror", None) or repr(error)
            code = EX_TEMPFAIL if passing else 1
        try:
            if text:
                line = f"{os.getpid()} {text}".translate({0: " ", 10: " "})
                os.write(self.failing, os.fsencode(line)[: select.PIPE_BUF - 1] + b"\n")  # at once: pipe(7)
        finally:
            os._exit(code if text else 0)

    def compute(self, call: Callable[[], bytes], done: Callable[[bytes], None]) -> None:
        """Make a call in a child, and hand over the result, or b"" if it fails. Raises StartError."""
        try:
            data = open(os.memfd_create("overlord"), "w+b", buffering=0)  # noqa: SIM115
        except (AttributeError, OSError) as error:
            if getattr(error, "errno", None) in SCARCE:
                raise StartError(str(error), passing=True) from None
            done(call())  # without memfd_create(2), overlord makes it itself
            return

        def child() -> tuple[str, int]:
            data.write(call())
            return "", 0

        def hand_over_result(code: int, why: str) -> None:
            with data:
                data.seek(0)
                result = b"" if code else data.read()
            done(result)

        self.fork(child, hand_over_result)

    def become(self, spec: Spec, stdio: Any, extra: Mapping[str, str], fds: Mapping[int, int]) -> tuple[str, int]:
        """Turn this child into the process of a unit. Return why `execute` failed. Raises OSError, StartError.
        `stdio`: two descriptors that become 1 and 2, -1 for /dev/null; `extra`: more variables, "" for its own pid;
        `fds`: numbers of more descriptors, and what becomes them."""
        for number, given in enumerate((-1, *stdio)):
            os.dup2(self.null if given < 0 else given, number)
            os.set_inheritable(number, True)  # which dup2 of one to itself does not do
            if given > 2 and spec.uid is not None:  # LINUX: only its owner can open a pipe again, by /dev/stdout
                call_or(None, os.fchown, number, identity(spec.uid, None)[0], -1)
        os.close(self.null)  # the rest needs a descriptor, and there may be no other left
        if fds:  # what becomes one of them may have the number of another
            raised = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, max(fds) + 1) for fd in (self.failing, *fds.values())]
            self.failing = raised.pop(0)
            for number, given in zip(fds, raised):
                os.dup2(given, number)
        extra = {key: value or str(os.getpid()) for key, value in extra.items()}
        environment = self.take_place(spec, extra)
        if spec.pidfile:
            try_stage(f"pidfile {spec.pidfile}", remove_pidfile, spec.pidfile)
        return execute(command_line(spec.cmd, environment), environment)

    def take_place(self, spec: Spec, extra: Mapping[str, str]) -> dict[bytes, bytes]:
        """Give this process all of a unit's but descriptors, and return its environment. Raises OSError, StartError."""
        if spec.umask is not None:
            os.umask(spec.umask)
        if spec.nice is not None:
            try_stage(f"nice {spec.nice}", os.setpriority, os.PRIO_PROCESS, 0, spec.nice)
        if spec.limits:
            set_limits(spec.limits)
        environment, held = dict(self.environment), read_fixed(spec, self.environment)
        environment.update(take_identity(spec))
        environment.update(read_variables(spec, environment, held))
        pairs, own = spec.env, own_variables(spec.name, spec.instance)
        if spec.env_file or spec.secrets:  # else the configuration has filled them
            try:
                pairs = fill_env(pairs, {**{decode(key): decode(value) for key, value in environment.items()}, **own})
            except Mistake as error:
                raise StartError(f"env: {error}") from None
        for key, value in (*pairs, *own.items(), *extra.items()):
            environment[os.fsencode(key)] = os.fsencode(value)
        if spec.dir:
            try_stage(f"dir {spec.dir}", os.chdir, spec.dir)
        return environment

    def shed_signals(self, ignored: Iterable[int] = (), mask: Iterable[int] = ()) -> None:
        """Drop overlord's handlers, wake-up pipe and mask. Runs in the child."""
        signal.set_wakeup_fd(-1)
        for number in SETTABLE:
            signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def reason(self, pid: int) -> str:
        """Return why a dead child failed, or "" if its exec succeeded."""
        for line in call_or(b"", os.read, self.failures, 65536).split(b"\n")[:-1]:
            child, _, text = line.partition(b" ")
            self.reasons[int(child)] = decode(text)
        return self.reasons.pop(pid, "")

    def send_signals(self, pid: int, *signums: int) -> str:
        """Send signals to a process, or with a minus to a group, if it is there. Return what is wrong, or ""."""
        try:
            for signum in signums:
                os.kill(pid, signum)
        except OSError as error:
            if error.errno == errno.EPERM:
                return f"{error.strerror} (another user's process: overlord needs CAP_KILL)"
        return ""

    def dead_children(self) -> Iterator[tuple[int, int, int, bool]]:
        """Yield pid, exit code or minus a signal, real uid and `stopped` of children that died or were stopped."""
        for _ in range(REAP_BATCH):
            found = call_or(None, os.waitid, os.P_ALL, 0, os.WEXITED | os.WSTOPPED | os.WNOHANG)
            if not found:
                return
            code = -found.si_status if found.si_code in CLD_KILLED else found.si_status
            yield found.si_pid, code, found.si_uid, found.si_code == CLD_STOPPED

    def hint(self, unit: Unit, code: int, left: str) -> str:
        """Return the likely cause of a unit's end, or "". `left`: the processes that it left behind."""
        if code in (-SIGNALS["KILL"], 128 + SIGNALS["KILL"]):
            count, limit = oom_kills()
            if count > self.oom:
                self.oom, self.oom_seen = count, time.monotonic()
            recent = time.monotonic() - self.oom_seen < OOM_WINDOW  # several may die at once: memory.oom.group
            return f"out of memory, {limit}" if recent else ""
        if code == 0 and left and unit.spec.kind == "daemon" and not unit.status.up:
            name = program_of(unit.spec.cmd)
            how = f"run {name} {FOREGROUND[name]}" if name in FOREGROUND else "see its manual"
            return f"it put itself into the background, as {left}; keep it in the foreground ({how}) or set `pidfile`"
        ended = 0 < code < 128 and code not in HINTS  # who finds an address in use is not killed by a signal
        if ended and unit.spec.listen and time.monotonic() - unit.status.started < EARLY:
            held = spell_list([probe.text for probe in unit.spec.listen])
            return f"if it opens {held} itself, which overlord holds, leave out `listen`"
        return HINTS.get(code, "")


def oom_kills() -> tuple[int, str]:
    """Return how many processes of this cgroup were killed out of memory, and the limit in words. LINUX: the cgroup is
    where /proc/self/cgroup says, or in a container /sys/fs/cgroup itself: version 1 or 2, see cgroups(7)."""
    lines = [line.split(":", 2) for line in decode(call_or(b"", slurp, "/proc/self/cgroup")).splitlines()]
    paths = [*(path for _, kinds, path in lines if not kinds or "memory" in kinds.split(",")), ""]
    for path in paths:
        for root, counter, limit in ("", "events", "max"), ("/memory", "oom_control", "limit_in_bytes"):
            folder = f"/sys/fs/cgroup{root}{path}/memory."
            count = re.search(rb"(?m)^oom_kill (\d+)", call_or(b"", slurp, folder + counter))
            if count:
                size = decode(call_or(b"", slurp, folder + limit)).strip()
                limited = is_number(size, 18)  # version 1 has a number close to 2^63 for no limit
                return int(count[1]), f"the limit is {spell_size(int(size))}" if limited else "not by its own limit"
    return 0, ""


def in_foreground() -> bool:
    return bool(call_or(-1, os.tcgetpgrp, 0) == os.getpgrp())


def fill_standard(flags: int) -> None:
    """Open /dev/null in place of closed standard descriptors, or a pipe or socket of overlord's becomes one."""
    for fd in (0, 1, 2):
        if call_or(-1, fcntl.fcntl, fd, fcntl.F_GETFD) < 0:
            os.open(os.devnull, flags)


FOREGROUND = {  # what keeps a program in the foreground
    "nginx": "-g 'daemon off;'", "apache2": "-D FOREGROUND", "httpd": "-D FOREGROUND", "apache2ctl": "-D FOREGROUND",
    "php-fpm": "-F", "redis-server": "--daemonize no", "sshd": "-D", "cron": "-f", "crond": "-f", "rsyslogd": "-n",
    "dnsmasq": "-k", "memcached": "without -d", "haproxy": "-db", "vsftpd": "-obackground=NO", "postfix": "start-fg",
}  # fmt: skip
HINTS = {
    NOT_FOUND: "a command was not found (check its spelling, the image and PATH)",
    NOT_EXECUTABLE: "a file cannot be executed (check its mode and its #! line)",
}


# ============================================================================================================== Kin
# Which process belongs to which unit: from a reading of /proc and the records of the units.

# From proc_pid_stat(5). born: clock ticks since boot; memory: resident pages; ticks: of processor time, with that of
# children that it has waited for.
Process = namedtuple("Process", "pid born name parent session memory ticks", defaults=("", 0, 0, 0, 0))
# What a process shows of its maker. unit: its OVERLORD_NAME, "" if it has the container's environment (docker exec),
# None if unknown. shown: the environment can be read. user: the real uid. fleeting: it is ending, or in an exec.
Origin = namedtuple("Origin", "unit shown user fleeting", defaults=(None, False, None, False))
Stranger = namedtuple("Stranger", "born makers")  # a process of no unit, and the units that may have made it
HELPER = "a helper of overlord's"
OF_A_LOGIN = b"TERM HOME USER LOGNAME SHELL PWD SHLVL _".split()  # what `docker exec` may set


def read_process(pid: int, strict: bool = False) -> Process | None:
    """Return a process if it lives. A zombie with threads does. `strict`: raises OSError if that cannot be read."""
    try:
        name, _, rest = slurp(f"/proc/{pid}/stat").partition(b"(")[2].rpartition(b") ")
    except OSError as error:  # it has ended
        if strict and error.errno in SCARCE:
            raise
        return None
    fields = rest.split(None, 22)
    if len(fields) < 22 or (fields[0] in b"ZX" and int(fields[17]) <= 1):
        return None
    parent, session, born, memory = (int(fields[at]) for at in (1, 3, 19, 21))
    return Process(pid, born, name.decode("utf-8", "replace"), parent, session, memory, sum(map(int, fields[11:15])))


def is_there(process: Process) -> bool:
    """Tell whether a process still lives. RACE: its pid may be another's by now, unless it is overlord's child."""
    again = read_process(process.pid)
    return bool(again and again.born == process.born)


def processes() -> dict[int, Process]:
    """Return all living processes, or none if /proc cannot be read. RACE: one may fork and end before it is read: so
    /proc is listed until nothing is new, ten times at most."""
    found: dict[int, Process | None] = {}
    keep_spare()
    try:
        for _ in range(10):
            new = [int(entry) for entry in spared(os.listdir, "/proc") if entry.isdigit() and int(entry) not in found]
            if not new:
                break
            found.update((pid, read_process(pid, strict=True)) for pid in new)
    except OSError:  # no /proc, or no descriptor
        return {}
    return {pid: each for pid, each in found.items() if each}


def read_origin(process: Process, environment: Mapping[bytes, bytes]) -> Origin:
    """Return what a process shows of its maker. `environment`: the container's."""
    environ = call_or(None, slurp, f"/proc/{process.pid}/environ")  # None: another user's
    status = call_or(b"", slurp, f"/proc/{process.pid}/status")
    if b"\nUid:" not in status:  # it is gone
        return Origin(fleeting=True)
    user = int(status.partition(b"\nUid:")[2].split(None, 1)[0])
    shown = dict(entry.partition(b"=")[::2] for entry in (environ or b"").split(b"\0"))
    own = environment and all(shown.get(key) == value for key, value in environment.items() if key not in OF_A_LOGIN)
    unit = decode(shown.get(b"OVERLORD_NAME", b"")) if own or b"OVERLORD_NAME" in shown else None
    ends = b"\nVmSize:" not in status and b"\nState:\tZ" not in status  # a zombie here has threads
    return Origin(unit, environ is not None, user, ends or environ == b"")


def spell_processes(found: Iterable[Process]) -> str:
    return spell_list([f"{each.name} (pid {each.pid})" for each in found])


def find_children(found: Mapping[int, Process]) -> dict[int, list[Process]]:
    children: dict[int, list[Process]] = {}
    for each in found.values():
        children.setdefault(each.parent, []).append(each)
    return children


def descendants(found: Mapping[int, Process], top: int) -> list[Process]:
    children = find_children(found)
    below = list(children.pop(top, ()))
    for each in below:  # grows meanwhile
        below += children.pop(each.pid, ())
    return below


class Attribution:
    """Owners of processes and sessions: a unit, a tuple of the possible units (empty: nobody's), or HELPER."""

    def __init__(self, found: Mapping[int, Process], own: int, units: list[Unit], look: Callable[..., Origin]) -> None:
        self.found, self.units, self.look = found, units, look
        self.home = found[own].session if own in found else -1
        self.children = find_children(found)
        self.users: dict[Unit, int | None] = {}
        self.owners: dict[int, Any] = {own: HELPER} if own in found else {}
        self.sessions: dict[int, Any] = {self.home: None, 0: None}  # None: no evidence; 0: of another namespace

    def use_memory(self, helpers: Iterable[int], strangers: Mapping[int, Stranger]) -> None:
        """Let known processes keep their owners, and give these to their sessions and descendants."""
        known: list[Any] = [(pid, born, unit) for unit in self.units for pid, born in unit.kin.items()]
        known += [(pid, each.born, ()) for pid, each in strangers.items() if not each.makers]
        known += [(pid, self.found[pid].born, HELPER) for pid in helpers if pid in self.found]
        for pid, born, owner in known:
            if pid in self.found and self.found[pid].born == born:
                self.owners.setdefault(pid, owner)
                self.sessions.setdefault(self.found[pid].session, owner)
        leaders: list[Any] = [(pid, unit) for unit in self.units for pid in unit.sessions]
        for pid, owner in leaders + [(pid, HELPER) for pid in helpers]:
            if pid not in self.found:  # else its session is known already, or the number was reused
                self.sessions.setdefault(pid, owner)
        for pid, process in self.found.items():
            if (owner := self.sessions.get(process.session)) is not None:
                self.owners.setdefault(pid, owner)
        for pid, owner in list(self.owners.items()):
            self.give(pid, owner)

    def give(self, top: int, owner: Any) -> None:
        """Give an owner to a process, and to its descendants that have none."""
        below = [(top, owner)]
        for pid, owner in below:  # grows meanwhile
            process = self.found[pid]
            if isinstance(owner, tuple) and owner:
                owner = self.find_named(self.look(process).unit, process) or owner
            lost = isinstance(owner, Unit) and owner.name == MAIN and process.session != self.home
            self.owners[pid] = () if lost else owner
            if owner != HELPER:  # what a helper leaves behind may be the unit's
                self.sessions.setdefault(process.session, self.owners[pid])
            below += [(each.pid, owner) for each in self.children.get(pid, ()) if each.pid not in self.owners]

    def find_named(self, name: str | None, process: Process) -> Unit | tuple[()]:
        """Return the unit of that name, or () if it is too young to have made the process."""
        return next((unit for unit in self.units if unit.name == name and unit.born <= process.born), ())

    def find_maker(self, orphan: Process, origin: Origin, ending: Iterable[Unit]) -> Unit | tuple[Unit, ...]:
        """Return the unit that made an orphan, or all that may have."""
        if not self.users:
            for unit in self.units:
                main = self.found.get(unit.status.pid) or Process(unit.status.pid, 0)  # may be a zombie
                self.users[unit] = self.look(main).user if unit.user is None else unit.user
        older = [(unit, user) for unit, user in self.users.items() if unit.born <= orphan.born]
        # a unit with a `uid` that is still root has run nothing yet
        fits = {unit for unit, user in older if user is None or (user != 0 and origin.user in (None, user))}
        makers = tuple(unit for unit, _ in older if unit.spec.uid in (None, "root", "0") or unit in fits)
        sure = [unit for unit in makers if self.users[unit] == origin.user and unit.name != MAIN]
        if sure and (len(makers) == 1 or set(makers) <= set(ending)):
            return sure[0]
        # a daemon in the background that overwrote its environment (nginx) is known by its program's name
        named = [unit for unit in makers if origin.shown and (unit.name == MAIN or orphan.name in unit.spec.cmd)]
        hidden = [unit for unit in sure if named == [unit] and unit in ending and not unit.status.up]
        return hidden[0] if hidden and program_of(hidden[0].spec.cmd)[:15] == orphan.name else makers


def claim(
    found: Mapping[int, Process], own: int, adopts: bool, units: list[Unit], helpers: Iterable[int],
    strangers: Mapping[int, Stranger], ending: Iterable[Unit], look: Callable[[Process], Origin],
) -> tuple[dict[int, Unit], dict[int, Stranger]]:  # fmt: skip
    """Return the unit of each process that has one, and the next `strangers`. Pure, but for `look`.
    `own`: overlord's pid; `adopts`: orphans become its children; `ending`: units all of whose processes are about to
    end. Evidence, best first: known before; session; ancestors; OVERLORD_NAME; no other can have made the orphan."""
    evidence = Attribution(found, own, units, look)
    orphans = evidence.children.pop(own, []) + ([] if adopts else evidence.children.pop(1, []))
    evidence.use_memory(helpers, strangers)
    for outsider in evidence.children.pop(0, ()):  # docker exec
        if outsider.pid not in evidence.owners:
            evidence.give(outsider.pid, ())
    main: Any = next((unit for unit in units if unit.name == MAIN and adopts), ())
    doubted = {pid: each.makers for pid, each in strangers.items() if pid in found and found[pid].born == each.born}
    origins = [(look(orphan), orphan) for orphan in orphans if orphan.pid not in evidence.owners]
    # the first of a session settles it for the others: so those with a name come first, then known doubts
    origins.sort(key=lambda each: (each[0].unit is None, each[1].pid not in doubted, each[1].pid))
    for origin, orphan in origins:
        owner = doubted.get(orphan.pid, ())
        if orphan.session == evidence.home:
            owner = main
        elif origin.unit is not None:
            owner = evidence.find_named(origin.unit, orphan)
        elif evidence.sessions.get(orphan.session) is not None:
            owner = evidence.sessions[orphan.session]
        elif adopts and orphan.pid not in doubted:
            owner = evidence.find_maker(orphan, origin, ending)
        if adopts or isinstance(owner, Unit):
            evidence.give(orphan.pid, owner)
    owners = evidence.owners
    nobodys = {pid: Stranger(found[pid].born, owner) for pid, owner in owners.items() if isinstance(owner, tuple)}
    return {pid: owner for pid, owner in owners.items() if isinstance(owner, Unit)}, nobodys


class Census:
    """The units of all processes, by the last reading of /proc."""

    def __init__(self, fleet: Fleet, kernel: Kernel, adopts: bool) -> None:
        self.fleet, self.helpers, self.environment, self.adopts = fleet, kernel.helpers, kernel.environment, adopts
        self.pids: dict[int, str] = {}  # main process -> its unit
        self.dead: list[tuple[Unit, int, int]] = []  # main processes, and their exit codes
        self.found: dict[int, Process] = {}  # the last reading
        self.owner: dict[int, Unit] = {}
        self.strangers: dict[int, Stranger] = {}
        self.read, self.cost = 0.0, 0.0  # when that was, and what it took
        self.torn: set[Unit] = set()  # units that may have processes that it does not show
        self.fleeting: set[tuple[int, int]] = set()  # pid, start time of strangers that may show more in the next one

    def survey(self, reuse: bool = False) -> dict[int, Unit]:
        """Read /proc; return the unit of each process that has one. `reuse`: unless the last reading is younger than
        ten times what it took."""
        began = time.monotonic()
        if reuse and self.owner and began - self.read < LOOK_SHARE * self.cost:
            return self.owner
        units = [unit for unit in self.fleet.units.values() if unit.status.pid]
        self.found = processes() or self.found
        self.attribute(units)
        for unit in units:
            unit.kin = {}
        for pid, unit in self.owner.items():
            unit.kin[pid] = self.found[pid].born
        for unit in units:
            unit.sessions = tuple({self.found[pid].session for pid in unit.kin}) or unit.sessions
        self.read = time.monotonic()
        self.cost = self.read - began
        return self.owner

    def attribute(self, units: list[Unit]) -> None:
        """Find the owners in a new reading. RACE: an orphan that is fleeting, or of the last 0.2 s, may fork meanwhile;
        the units that may have made it are `torn`."""
        origins: dict[int, Origin] = {}

        def look(process: Process) -> Origin:
            if not self.adopts and b"OVERLORD_NAME" in self.environment:
                return Origin()  # a name may be from the overlord above
            if process.pid not in origins:
                origins[process.pid] = read_origin(process, self.environment)
            return origins[process.pid]

        ending = {unit for unit in units if self.is_ending(unit)}
        self.owner, self.strangers = claim(
            self.found, os.getpid(), self.adopts, units, self.helpers, self.strangers, ending, look
        )
        young = (time.clock_gettime(time.CLOCK_BOOTTIME) - 0.2) * os.sysconf("SC_CLK_TCK")
        unclear = [(pid, self.strangers[pid].born) for pid in origins if pid in self.strangers]
        fleeting = {(pid, born) for pid, born in unclear if origins[pid].fleeting or born > young}
        self.torn = {unit for pid, _ in fleeting - self.fleeting for unit in self.strangers[pid].makers}
        self.fleeting = fleeting

    def measure(self) -> dict[Unit, tuple[int, float, int]]:
        """Return of each unit's processes the resident memory in bytes, processor time in seconds, and number."""
        used: dict[Unit, tuple[int, float, int]] = {}
        for pid, unit in self.survey(reuse=True).items():
            memory, processor, count = used.get(unit, (0, 0.0, 0))
            memory += self.found[pid].memory * os.sysconf("SC_PAGE_SIZE")
            used[unit] = memory, processor + self.found[pid].ticks / os.sysconf("SC_CLK_TCK"), count + 1
        return used

    def is_ending(self, unit: Unit) -> bool:
        """Tell whether all processes of a unit are about to be stopped."""
        stopping = unit.status.state == STOPPING
        if unit.spec.kill_mode == "process" or (unit.spec.kind == "script" and not stopping):
            return False
        return stopping or unit.status.pid not in self.pids or any(each[0] is unit for each in self.dead)

    def may_leave(self, dead: Iterable[Unit]) -> bool:
        """Tell whether dead units may have left processes behind. COST: looks only at overlord's children, if the
        kernel has CONFIG_PROC_CHILDREN, proc(5)."""
        children = call_or(None, slurp, f"/proc/self/task/{os.getpid()}/children") if self.adopts else None
        if children is None:
            return True
        known = {pid: each.born for pid, each in self.strangers.items() if not set(each.makers).intersection(dead)}
        for unit in self.fleet.units.values():
            if unit.status.pid and unit not in dead:
                known.update(unit.kin)
        orphans = [pid for pid in map(int, children.split()) if pid not in self.pids and pid not in self.helpers]
        return any(each and known.get(each.pid) != each.born for each in map(read_process, orphans))

    def find_doubtful(self, unit: Unit) -> list[Process]:
        pids = [pid for pid, each in self.strangers.items() if unit in each.makers and each.born >= unit.born]
        return [self.found[pid] for pid in pids if pid in self.found]

    def may_spare(self, unit: Unit, code: int) -> bool:
        """Tell whether a unit is a script that succeeded: what it left in other sessions stays."""
        return bool(unit.spec.kind == "script" and unit.status.state == RUNNING and code in unit.spec.success)

    def find_left(self, unit: Unit, code: int) -> tuple[list[Process], list[Process]]:
        """Return the processes left behind that are to be stopped, and those in doubt. Others stay, and are named."""
        rest = [self.found[pid] for pid in unit.kin if pid in self.found and pid != unit.status.pid]
        doubts = self.find_doubtful(unit)
        stays: list[Process] = []
        if unit.spec.kill_mode == "process" and not (unit.spec.pidfile and unit.status.state in (STARTING, OK)):
            stays = rest
        elif self.may_spare(unit, code):
            stays = [each for each in rest if each.session != unit.status.pid]
        if stays:
            self.fleet.say("info", unit.name, f"left running: {spell_processes(stays)}")
        for each in stays:
            self.strangers[each.pid] = Stranger(each.born, ())
            self.owner.pop(each.pid, None)
            unit.kin.pop(each.pid)
        new = [each for each in doubts if unit.told.get(each.pid) != (each.born, 0)]
        if new and unit.name != MAIN:
            unit.told.update((each.pid, (each.born, 0)) for each in new)
            makers = spell_list(sorted({maker.name for each in new for maker in self.strangers[each.pid].makers}))
            text = f"left running, for it may be of any of {makers}: {spell_processes(new)}"
            self.fleet.say("warning", unit.name, text)
        return [each for each in rest if each not in stays], doubts


# ============================================================================================================= Init


class Init:
    """overlord as PID 1, or as a subreaper, which signals only its descendants."""

    def __init__(self) -> None:
        self.is_pid1 = os.getpid() == 1
        self.warning = "" if self.is_pid1 else become_subreaper()
        self.adopts = not self.warning  # orphans become its children
        keep_spare()
        self.swept: dict[int, tuple[int, int]] = {}  # pid -> start time and last signal of the sweep

    def leftovers(self) -> list[Process]:
        """Return the other processes of the PID namespace, or only overlord's descendants."""
        found, own = processes(), os.getpid()
        return [each for each in found.values() if each.pid != own] if self.is_pid1 else descendants(found, own)

    def signal_all(self, signum: int) -> None:
        left = [] if self.is_pid1 else self.leftovers()
        new = [each for each in left if self.swept.get(each.pid) != (each.born, signum)]
        self.swept.update((each.pid, (each.born, signum)) for each in new)
        for pid in [-1] if self.is_pid1 else [each.pid for each in new if is_there(each)]:
            for number in (signum, SIGNALS["CONT"]):  # a stopped process reacts only to SIGKILL
                call_or(None, os.kill, pid, number)

    def alone(self) -> bool:
        if not self.is_pid1:
            return not self.leftovers()
        try:
            os.kill(-1, 0)  # zombies count
        except OSError as error:
            return error.errno == errno.ESRCH
        return False

    def suspend(self, kernel: Kernel, pid: int, number: int) -> None:
        """Stop with the main command (Ctrl-Z) if a shell can continue overlord, else continue it."""
        shell = not self.is_pid1 and os.getppid() > 1
        if not shell and number == SIGNALS["TSTP"]:
            kernel.send_signals(pid, SIGNALS["CONT"])
        if not shell or number not in JOB_CONTROL or not os.isatty(0):
            return
        self.take_terminal(kernel)
        os.kill(os.getpid(), SIGNALS["STOP"])
        if in_foreground():
            kernel.terminal = True
            os.tcsetpgrp(0, pid)
        kernel.send_signals(-pid, SIGNALS["CONT"])

    def take_terminal(self, kernel: Kernel) -> None:
        """Take the terminal, and its Ctrl-C, back from the main command."""
        if kernel.terminal:
            call_or(None, os.tcsetpgrp, 0, os.getpgrp())


def become_subreaper() -> str:
    """Make overlord the parent of orphaned descendants: prctl(2). Return a warning if that fails."""
    try:
        import ctypes

        if ctypes.CDLL(None, use_errno=True).prctl(36, 1, 0, 0, 0) == 0:  # PR_SET_CHILD_SUBREAPER
            return ""
        reason = os.strerror(ctypes.get_errno())
    except (ImportError, OSError, AttributeError) as error:
        reason = str(error)
    lost = "cannot be reaped, nor stopped unless its environment names the unit; `pidfile` cannot be used"
    return f"not PID 1 and no subreaper ({reason}): what leaves its unit's session {lost}"


# ========================================================================================================== Sockets
# Where sockets are, who is at the other end, descriptors that come along, and sockets to listen on.


def locate_socket(socket: str) -> str:
    """Return the address of the control socket: a path, or NUL and the name of an abstract one: unix(7). That tells
    apart containers that share a network namespace, and so all abstract sockets."""
    if socket != "abstract":
        return socket
    spaces = call_or([0, 0], lambda: [os.stat(f"/proc/self/ns/{kind}").st_ino for kind in ("pid", "mnt")])
    return f"\0overlord/{spaces[0]}/{spaces[1]}"


def look_at_peer(sock: Any) -> tuple[int, int]:
    """Return pid and user of the process at the other end; the pid is 0 if that is of another PID namespace.
    LINUX: so says SO_PEERCRED, unless that is a child namespace; then /proc/PID/status has several pids."""
    pid, uid = read_numbers(sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 8))
    status = call_or(b"", slurp, f"/proc/{pid}/status")  # none if it has ended, or without /proc
    numbers = re.search(rb"(?m)^NSpid:(.*)", status)
    return 0 if numbers and len(numbers[1].split()) > 1 else pid, uid


def read_numbers(value: bytes) -> list[int]:
    return [int.from_bytes(value[at : at + 4], sys.byteorder) for at in range(0, len(value) - 3, 4)]


def receive(sock: Any) -> tuple[bytes, list[tuple[int, int, bytes]]]:
    """Return a message and what came with it; close the descriptors among that (SCM_RIGHTS in unix(7)). Raises OSError.
    LINUX: to close a socket with SO_LINGER may block: socket(7)."""
    data, controls, _, _ = sock.recvmsg(4096, 4096, MSG_DONTWAIT)
    for fd in [fd for _, kind, value in controls if kind == 1 for fd in read_numbers(value)]:
        sent = call_or(None, partial(_socket.socket, fileno=fd))  # None: not a socket
        if sent:
            sent.setsockopt(_socket.SOL_SOCKET, _socket.SO_LINGER, bytes(8))
            sent.detach()
        os.close(fd)
    return data, controls


def close_socket(sock: Any) -> None:
    """Close a unix socket, and the descriptors in its unread messages."""
    try:
        sock.shutdown(2)  # RACE: a child before its exec still holds the socket, and would keep the other end waiting
        while any(receive(sock)):
            pass
    except OSError:
        pass
    sock.close()


def remove_stale(path: str) -> None:
    """Remove a socket that nobody listens on. Raises OSError."""
    probe = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK)
    refused = probe.connect_ex(path) == errno.ECONNREFUSED  # else nothing, or somebody listens: bind(2) will tell
    probe.close()
    if refused:
        if os.lstat(path).st_mode & S_IFMT != S_IFSOCK:
            raise OSError(errno.EEXIST, "is not a socket")
        os.unlink(path)


def listen_on(probe: Probe, owner: Iterable[int] = ()) -> Any:
    """Return a listening socket. Raises OSError. TCP without a host: of all addresses, IPv6 too where there is one.
    A unix socket: mode 0660, in a folder that is made if missing; `owner`: user and group to give it to by its name;
    empty where others than root can change that."""
    if probe.kind == "unix":
        sock, place = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM), find(probe.path, make=True)
        # RACE: where others can change the path, root binds in the very folder that `find` has found
        there = f"/proc/self/fd/{place.folder}/{os.path.basename(place.path)}"
        address = probe.path if owner or os.geteuid() else there
        remove_stale(address)
        mask = os.umask(0o117)
        sock.bind(address)
        os.umask(mask)
        if owner:
            os.chown(probe.path, *owner)
        sock.listen(BACKLOG)
        return sock
    has_ipv6 = call_or(None, _socket.socket, _socket.AF_INET6, _socket.SOCK_STREAM)
    host = probe.host or ("::" if has_ipv6 else "0.0.0.0")
    found = _socket.getaddrinfo(os.fsencode(host), probe.port, 0, _socket.SOCK_STREAM)
    # of a name, one address, and rather of IPv4: that is what clients try
    family, _, _, _, address = min(found, key=lambda each: each[0] != _socket.AF_INET)
    sock = _socket.socket(family, _socket.SOCK_STREAM)
    sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
    if host == "::":
        sock.setsockopt(_socket.IPPROTO_IPV6, _socket.IPV6_V6ONLY, 0)
    sock.bind(address)
    sock.listen(BACKLOG)
    return sock


def open_sockets(spec: Spec, probes: Iterable[Probe], receiver: Any) -> tuple[str, int]:
    """Open a unit's listening sockets, and hand them over. Raises StartError. Runs in a child, since it may block, and
    last becomes the unit's user, for sockets in folders that others than root can change."""
    signal.alarm(OPENING_TIMEOUT)  # a file system or a name server may hang
    uid, gid, _ = identity(spec.uid, spec.gid)
    own = uid == os.geteuid() and spec.gid is None  # as in `take_identity`
    owner, opened = [-1 if number is None or own else number for number in (uid, gid)], {}
    paths = [probe for probe in probes if probe.kind == "unix"]
    shared = [probe for probe in paths if not try_stage(f"listen {probe.text}", find, probe.path).safe]
    os.umask(os.umask(0) | 0o022)  # nor can they change folders that are made here
    for probe in sorted(probes, key=shared.__contains__):
        if probe in shared:
            owner = []
            take_identity(spec)
        opened[probe] = try_stage(f"listen {probe.text}", listen_on, probe, owner)
    fds = b"".join(opened[probe].fileno().to_bytes(4, sys.byteorder) for probe in probes)
    receiver.sendmsg([b"\n"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, fds)])
    return "", 0


# ========================================================================================================== Control
# A connection to the control socket carries one request, a line of words. The first character of each line of the
# answer tells its kind: a blank (text), `!` (an error), `+` (still at work) or `=` (the exit code, at the end).

# The fields of a unit in the answer to `status`, separated by tabs, and what reads them. After these: the time, what
# happened to the unit when, both in seconds from the start, and after a "|" each of its last lines.
RECORD: dict[str, Callable[[str], Any]] = {
    "name": str, "kind": str, "state": str, "pid": int, "for": float, "uptime": float, "restarts": int, "next": float,
    "cause": str, "blocked": str, "deps": str.split, "memory": int, "processor": float, "processes": int,
    "starts": int, "code": int, "last": str, "why": str,
}  # fmt: skip
ENDING = "overlord is shutting down"
NOTHING_DIFFERS = "nothing differs (restart NAME reads env_file and secrets anew; mount folders, not single files)"


def spell_place(place: str) -> str:
    return place.replace("\0", "@")


def count_of(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def match_names(patterns: Iterable[str], known: Iterable[str], strict: bool = True) -> list[str]:
    """Return the names that globs match, in the order known. Raises Mistake if one matches none and `strict`."""
    fnmatchcase, chosen = load("fnmatch").fnmatchcase, set()
    names = [name for name in known if name != MAIN]
    for pattern in patterns:
        simple = re.sub(r"\*+", "*", pattern)
        if simple.count("*") > 3:  # PYTHON: the time is exponential in the number of stars up to 3.8
            raise Mistake(f"{pattern} has more than three stars")
        try:
            found = {pattern} if pattern in names else {name for name in names if fnmatchcase(name, simple)}
        except re.error:  # PYTHON: raised for `[z-a]` up to 3.9
            found = set()
        if not found and strict:
            near = ", write '*'" if pattern == "all" else suggest(pattern, names)  # supervisorctl's word
            raise Mistake(f"there is no unit {pattern}{near}")
        chosen |= found
    return [name for name in names if name in chosen]


class Request:
    def __init__(self, control: Control, sock: Any, pid: int) -> None:
        self.control, self.sock, self.pid, self.watch = control, sock, pid, control.watch
        self.heard, self.answer = b"", bytearray()
        self.asked = self.silent = self.over = False  # it is complete; the client says no more; the answer is complete
        self.options: dict[str, Any] = {}
        self.until: Callable[[float], None] | None = None  # completes the answer once it can
        self.stream = ""  # "events" or "logs" of the units that match `patterns`, without end
        self.patterns: list[str] = []
        self.follows: frozenset[str] = frozenset()  # those units; without a stream, units with messages to pass on
        self.several = False  # each line names its unit
        self.parts: Iterator[bytes] = iter(())  # the rest of the answer, made as the client reads
        self.due: dict[str, None] = {}  # units whose last lines, new ones among them, are still to come
        self.timer = self.watch.later(time.monotonic() + ASK_TIMEOUT, self.hang_up)
        self.await_words()

    def read_request(self) -> bool:
        """Read what there is. Return whether a verb was obeyed."""
        try:
            data, _ = receive(self.sock)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        self.heard += data
        gone = not data and (self.silent or not (self.asked or self.heard))
        if gone or (self.asked and len(self.heard) > REQUEST_MAX):
            self.hang_up()
            return False
        if not data:
            self.silent = True
            self.await_words()
        line, newline, _ = self.heard.partition(b"\n")
        if self.asked or not (newline or self.silent or len(self.heard) > REQUEST_MAX):
            return False
        self.asked, self.heard = True, b""
        self.watch.cancel(self.timer)
        self.control.ask(self, line.decode("utf-8", "replace").split())
        return True

    def await_words(self) -> None:
        events = 0 if self.silent else select.EPOLLIN  # LINUX: EPOLLHUP always comes too: epoll_ctl(2)
        self.watch.on(self.sock.fileno(), events, self.read_request)

    def add_lines(self, lines: Iterable[str | tuple[Any, ...]], kind: str = " ") -> None:
        """Add lines to the answer; a tuple becomes fields separated by tabs."""
        rows = [line if isinstance(line, tuple) else (line,) for line in lines]
        text = "".join(kind + "\t".join(clean(str(field)) for field in row) + "\n" for row in rows)
        self.answer += text.encode("utf-8", "surrogateescape")
        self.send_rest()

    def fail(self, text: str, code: int) -> None:
        self.add_lines([text], "!")
        self.complete(code)

    def complete(self, code: int, lines: Iterable[str | tuple[Any, ...]] = ()) -> None:
        self.until = None
        self.add_lines(lines)
        self.over = True
        self.add_lines([str(code)], "=")

    def send_rest(self) -> None:
        try:
            while self.sock:
                self.answer = self.answer or bytearray(next(filter(None, self.parts), b""))
                if not self.answer:
                    break
                del self.answer[: self.sock.send(self.answer[:65536], MSG_DONTWAIT | MSG_NOSIGNAL)]
        except BlockingIOError:
            self.watch.on(self.sock.fileno(), select.EPOLLOUT, self.send_rest)
            if self.over:
                self.timer = self.watch.later(time.monotonic() + ASK_TIMEOUT, self.hang_up, self.timer)
            requests = self.control.requests
            if sum(len(request.answer) for request in requests) > ANSWERS_MAX:
                max(requests, key=lambda request: len(request.answer)).hang_up()
            return
        except OSError:
            self.over = True
        if self.over:
            self.hang_up()
        elif self.sock:
            self.await_words()

    def hang_up(self) -> None:
        self.watch.cancel(self.timer)
        if self.sock:
            self.watch.off(self.sock.fileno())
            close_socket(self.sock)
            self.sock = self.until = None
            self.answer, self.parts = bytearray(), iter(())  # a reference cycle would keep both
            self.control.requests.remove(self)
            if self.pid:
                self.control.clients.append((self.pid, time.monotonic()))
            self.control.refollow()


class Control:
    def __init__(self, output: Output, fleet: Fleet, kernel: Kernel, reread: Callable[[], Config]) -> None:
        self.output, self.fleet, self.kernel, self.reread = output, fleet, kernel, reread
        self.verbs = {name: verb for name, verb in VERBS.items() if hasattr(self, f"do_{name}")}
        self.watch, self.log = output.watch, output.log
        self.began = time.monotonic()
        self.requests: list[Request] = []
        self.clients: deque[tuple[int, float]] = deque(maxlen=CLIENTS_MAX)  # answered ones: pid, and when
        self.listener: Any = None
        self.file: tuple[str, os.stat_result] | None = None  # of the socket
        self.measure: Callable[[], dict[Unit, tuple[int, float, int]]] = dict  # see `Census.measure`
        self.orphans = 0  # that were reaped
        self.named = ""  # the file of -c or $OVERLORD_CONFIG
        output.follow = self.forward_lines

    def open_socket(self, socket: str) -> str:
        """Listen; return a warning if that fails."""
        place, mask = locate_socket(socket), os.umask(0o177)
        has_file = place[0] == "/"
        try:
            sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK)
            if has_file:
                remove_stale(place)
            sock.bind(place)
            sock.listen(128)  # RACE: at once, or another overlord takes the socket for a stale one
            self.file = (place, os.lstat(place)) if has_file else None
        except OSError as error:
            hint = "" if has_file else "; [overlord] socket = /PATH names another place"
            why = f"{spell_place(place)}: {error.strerror or error}{hint}"
            return f"no control socket, so that no verb gets an answer: {why}"
        finally:
            os.umask(mask)
        self.listener = sock
        self.watch.on(sock.fileno(), select.EPOLLIN, self.accept)
        return ""

    def accept(self) -> None:
        """Accept a client, but no other user than root and overlord's own, nor one of another PID namespace."""
        listener = self.listener.fileno()
        try:
            sock = _socket.socket(fileno=self.listener._accept()[0])
        except OSError as error:
            if error.errno in SCARCE:  # the next try would fail too
                self.watch.off(listener)
                self.watch.later(time.monotonic() + 1.0, partial(self.watch.on, listener, select.EPOLLIN, self.accept))
            return
        if len(self.requests) >= CLIENTS_MAX:
            idle = [request for request in self.requests if not request.asked]
            (idle or self.requests)[0].hang_up()
        pid, uid = look_at_peer(sock)
        request = Request(self, sock, pid if uid in (0, os.geteuid()) else 0)
        self.requests.append(request)
        if not request.pid:
            request.asked = True
            fault = f"only root and overlord's own user may ask, in its own container; this is user {uid}"
            request.fail(fault, EX_NOPERM)

    def dismiss_clients(self) -> None:
        """Give the last clients half a second to print their answers. Blocks."""
        self.stop_listening()
        until = time.monotonic() + SWEEP_TIMEOUT / 2
        last = [pid for pid, instant in self.clients if until - instant < SWEEP_TIMEOUT]
        while any(map(read_process, last)) and time.monotonic() < until:
            select.poll().poll(5)  # ms

    def stop_listening(self) -> None:
        """Hang up on all whose outcome is not known, and remove the socket's file if ours. May be called again."""
        self.answer_waiting(time.monotonic())
        for request in list(self.requests):
            request.hang_up()
        try:
            if self.file and os.path.samestat(os.lstat(self.file[0]), self.file[1]):
                os.unlink(self.file[0])
        except OSError:
            pass

    def refollow(self) -> None:
        for request in [request for request in self.requests if request.stream]:
            request.follows = frozenset(unit.name for unit in self.find_units(request.patterns, strict=False))
            if not request.follows and not request.over:
                request.fail(f"{' '.join(request.patterns)} was removed by a reload", 1)
        self.fleet.followed = any(request.stream == "events" for request in self.requests)

    def ask(self, request: Request, words: list[str]) -> None:
        try:
            verb, request.options, names = parse_request(words, self.verbs)
            now, limit = time.monotonic(), request.options.get("timeout")
            if limit is not None:
                request.timer = self.watch.later(now + limit, lambda: self.time_out_request(request))
            if self.fleet.ending and verb.name in ("start", "stop", "restart", "reload"):
                request.fail(ENDING, 1)
                return
            getattr(self, f"do_{verb.name}")(request, names, now)
        except Mistake as mistake:
            request.fail(str(mistake), EX_USAGE)
        except Exception as error:  # else the client would wait for ever
            request.fail(f"internal error: {type(error).__name__}: {error}", 1)
            raise
        if not request.over:
            request.add_lines([""], "+")

    def answer_waiting(self, now: float) -> None:
        for request in list(self.requests):
            if request.until and not request.over:
                request.until(now)

    def followers(self, unit: str, stream: str) -> list[Request]:
        found = [request for request in self.requests if request.stream == stream and unit in request.follows]
        return [request for request in found if unit not in request.due]

    def publish(self, action: Say | Changed) -> None:
        said = isinstance(action, Say)
        for request in self.followers(action.unit, "" if said else "events"):
            request.add_lines([f"{action.unit}: {action.text}" if said else action.text])

    def forward_lines(self, unit: str, text: bytes) -> None:
        for request in self.followers(unit, "logs"):
            head = f" {unit} | ".encode() if request.several else b" "
            lines = text[:-1] if text.endswith(b"\n") else text
            request.answer += head + lines.replace(b"\n", b"\n" + head) + b"\n"
            request.send_rest()

    # ---------------------------------------------------------------------------------------------- the verbs: look
    def do_version(self, request: Request, names: list[str], now: float) -> None:
        """Answer who this is, for `refuse_second`, and with the named file, for `read_files`."""
        request.complete(0, [f"overlord {VERSION}", *filter(None, (self.named,))])

    def do_status(self, request: Request, names: list[str], now: float) -> None:
        chosen = self.find_units(names)
        fine = all(unit.status.state in (OK, IDLE, RUNNING, DONE, STOPPED) for unit in chosen)
        request.complete(0 if fine else 3, self.records(chosen, now))

    def records(self, units: list[Unit], now: float, openly: bool = False) -> Iterator[tuple[Any, ...]]:
        """Yield the record of each unit; `openly`: without what may hold a secret, but with what failed ones said."""
        used = self.measure()
        tells = re.compile(r"[a-z]+( for [\w.-]+:(ok|bounce|started|ended|always))?").fullmatch  # else it names a probe
        began = min((unit.story[0][0] for unit in self.fleet.units.values() if unit.story), default=now)
        for unit in units:
            spec, status, tail = unit.spec, unit.status, self.output.tails.get(unit.name)
            pid = 0 if status.left else status.pid
            memory, processor, count = used.get(unit, ("", "", ""))
            last = [] if openly or not tail else tail.last_lines(1)
            said = tail.last_lines(SERVED_LINES) if openly and tail and status.state in (BACKOFF, FAILED) else []
            story = [(at, what.split()[0] if openly and not tells(what) else what) for at, what in unit.story]
            following = status.deadline
            if following is None and unit.plan and unit.rests():
                plan, following = unit.plan
                following -= 0.0 if plan.every else time.time() - now
            yield (
                unit.name, spec.kind, status.state, pid or "", f"{now - (status.since or self.began):.3f}",
                f"{now - status.started:.3f}" if pid else "", status.respawned,
                "" if following is None else f"{max(0.0, following - now):.3f}", "" if openly else status.cause,
                unit.waits.name if unit.waits else "", " ".join(f"{dep.name}:{how}" for dep, how in unit.deps),
                memory, processor and f"{processor:.2f}", count, status.starts,
                exit_code(status.code) if status.starts > bool(pid) else "", decode(b"".join(last))[:SHOWN_WIDTH],
                self.fleet.explain(unit, now, openly),
                f"{now - began:.4f}", *(f"{at - began:.4f} {what}" for at, what in story),
                *(f"|{decode(line)[:SHOWN_WIDTH]}" for line in said),
            )  # fmt: skip

    def do_health(self, request: Request, names: list[str], now: float) -> None:
        request.complete(*self.judge(now))

    def judge(self, now: float, openly: bool = False) -> tuple[int, list[str]]:
        sick, well, idle = ["shutting down"] if self.fleet.ending else [], 0, 0
        for unit in [unit for unit in self.fleet.units.values() if unit.spec.kind == "daemon"]:
            state = unit.status.state
            ignored = state in (DONE, FAILED) and unit.spec.on_failure == "ignore"
            well, idle = well + (state == OK), idle + (state == STOPPED)
            if state not in (OK, DONE, IDLE, STOPPED) and not ignored:
                why = self.fleet.explain(unit, now, openly)
                sick.append(f"{unit.name} is {spell_state(state)}" + (f" ({why})" if why else ""))
        stopped = f", {idle} stopped" if idle else ""
        text = f"unhealthy: {'; '.join(sick)}" if sick else f"healthy: {count_of(well, 'daemon')} ok{stopped}"
        return int(bool(sick)), [text]

    def do_serve(self, request: Request, names: list[str], now: float) -> None:
        """Answer with what `serve` shows."""
        code, (text,) = self.judge(now, openly=True)
        records = self.records(self.find_units([]), now, openly=True)
        request.complete(0, [(code, text), (VERSION, self.orphans), *records])

    def do_logs(self, request: Request, names: list[str], now: float) -> None:
        tails, chosen = self.output.tails, self.find_units(names)
        silent = [unit.spec for unit in chosen if unit.name not in tails]
        missing = [spec for spec in silent if not is_captured(spec)]
        hint = "is not captured; set output = prefix, or stdout in"
        request.add_lines([f"{spec.name} {hint} [{section_of(spec)}]" for spec in missing], "!")
        request.add_lines([f"{spec.name} has not started yet" for spec in silent if spec not in missing], "!")
        follow = "follow" in request.options and len(missing) < len(chosen)
        request.due = {unit.name: None for unit in chosen if unit.name in tails}
        request.several = len(chosen) > 1
        most = request.options.get("lines", TAIL_LINES)

        def parts() -> Iterator[bytes]:  # COST: no local variable may hold lines while the client does not read
            for name in list(request.due):
                del request.due[name]
                head = f" {name} | ".encode() if request.several else b" "
                if name in tails:  # no reload has removed it
                    yield b"".join([head + line + b"\n" for line in tails[name].last_lines(most)])
            if not follow:
                yield b"=%d\n" % bool(missing)

        request.parts, request.over = parts(), not follow
        if follow:
            request.stream, request.patterns = "logs", names
            self.refollow()
        request.send_rest()

    def do_events(self, request: Request, names: list[str], now: float) -> None:
        chosen, request.stream, request.patterns = self.find_units(names), "events", names
        self.refollow()
        request.add_lines(self.fleet.spell_unit(unit, now) for unit in chosen)

    # ------------------------------------------------------------------------------------------------ the verbs: act
    def do_start(self, request: Request, names: list[str], now: float) -> None:
        chosen = self.find_startable(names)
        daemons = [unit for unit in chosen if unit.spec.kind == "daemon"]
        request.add_lines([f"{unit.name}: is up already" for unit in daemons if unit.status.state == OK])
        since = {unit: -1 if unit in daemons else unit.status.starts for unit in chosen}
        up = {unit for unit in self.fleet.units.values() if unit.status.state in (STARTING, OK)}
        started = [unit for unit in self.fleet.start(chosen, now) if unit.spec.kind == "daemon" and unit not in up]
        self.await_up(request, {**dict.fromkeys(started, -1), **since}, now)

    def do_restart(self, request: Request, names: list[str], now: float) -> None:
        chosen = self.find_startable(names)
        since = {unit: unit.status.starts for unit in chosen}
        self.fleet.restart(chosen, now)
        self.await_up(request, since, now)

    def do_wait(self, request: Request, names: list[str], now: float) -> None:
        self.await_up(request, dict.fromkeys(self.find_units(names), -1), now, patient=True)

    def do_stop(self, request: Request, names: list[str], now: float) -> None:
        chosen = self.find_units(names)
        for unit in [unit for unit in chosen if not unit.lives()]:
            state = spell_state(unit.status.state)
            said = f"is not running ({state})" if unit.rests() else f"stopped (it was {state})"
            said += ", and its schedule goes on" if unit.spec.schedule else ""
            request.add_lines([f"{unit.name}: {said}"])
        going = {unit for unit in chosen if not unit.rests()}
        others = [unit for unit in self.fleet.units.values() if unit.lives() and unit not in chosen]
        alive = [unit.name for unit in others if going.intersection(needs_of(unit))]
        request.add_lines(f"{name} depends on what is stopped, and goes on running" for name in alive)
        self.fleet.stop(chosen, now)
        self.await_down(request, [unit.name for unit in chosen], now)

    def do_signal(self, request: Request, names: list[str], now: float) -> None:
        signum, code = parse_signal(names[0]), 0
        for unit in self.find_units(names[1:]):
            pid = 0 if unit.status.left else unit.status.pid
            fault = self.kernel.send_signals(pid, signum) if pid else f"is {unit.status.state}, and has no process"
            code = 1 if fault else code
            sent = f"{spell_signal(signum)} sent to pid {pid}"
            request.add_lines([f"{unit.name}: {fault or sent}"], "!" if fault else " ")
        request.complete(code)

    def do_shutdown(self, request: Request, names: list[str], now: float) -> None:
        code = parse_number(0, 255, names[0]) if names else None
        request.complete(0, ["shutting down"])
        self.fleet.ask_shutdown("shutdown " + BY_HAND, now, code=code)

    def do_reload(self, request: Request, names: list[str], now: float) -> None:
        pickle = load("_pickle")  # COST: `pickle` has the same, and much in Python
        base = self.fleet.pending or self.fleet.config

        def done(data: bytes) -> None:
            now = time.monotonic()
            if self.fleet.ending:
                request.fail(ENDING, 1)
            elif not data:
                request.fail("nothing has changed: the process that read the configuration was killed", 1)
            elif (self.fleet.pending or self.fleet.config) is not base:  # another reload came between
                self.do_reload(request, names, now)
            else:
                self.take_over(request, pickle.loads(data), now)

        try:  # in a child, since the file system may hang
            self.kernel.compute(lambda: pack_config(self.reread), done)
        except StartError as error:
            request.fail(f"the configuration cannot be read: {error}", 1)

    def take_over(self, request: Request, config: Config | list[str], now: float) -> None:
        if isinstance(config, list):
            request.add_lines(config[:-1], "!")
            request.fail(config[-1], EX_CONFIG)
            return
        old, before = self.fleet.settings, dict(self.fleet.units)
        wanted = {unit for unit in before.values() if unit.wanted}
        news = self.fleet.change_config(config, now)
        lines = [f"{name}: {what}" for name, what in news.items()]
        for key in [key for key in Settings._fields if getattr(old, key) != getattr(config.settings, key)]:
            lines.append(f"[overlord] {key}: {'kept until overlord restarts' if key == 'socket' else 'changed'}")
        self.log.message("info", "", f"configuration read anew: {'; '.join(lines) or 'nothing differs'}")
        request.add_lines(lines or [NOTHING_DIFFERS])

        def await_new_units(now: float) -> None:
            if self.fleet.ending:
                request.fail(ENDING, 1)
            elif not self.fleet.pending:
                names = [name for name, what in news.items() if what == "new" or what.startswith("changed:")]
                units = [self.fleet.units.get(name) or before.get(name) for name in names]
                coming = [unit for unit in units if unit and (unit.wanted or unit in wanted) and unit.by != BY_CLOCK]
                since = {unit: unit.status.starts if unit.status.stale else -1 for unit in coming}
                self.await_up(request, since, now)

        self.await_outcome(request, news, now, await_new_units)

    # -------------------------------------------------------------------------------------------------- the outcome
    def find_units(self, patterns: list[str], strict: bool = True) -> list[Unit]:
        """Return the units that patterns match: globs, or the name that instances share; all for none."""
        units, names = self.fleet.units, []
        instances = [name for name, unit in units.items() if unit.spec.instance]
        for each in patterns:
            names += [name for name in instances if name.rpartition("-")[0] == each] or [each]
        return [units[name] for name in (match_names(names, units, strict) if patterns else units)]

    def find_startable(self, patterns: list[str]) -> list[Unit]:
        """Return the units that patterns match. A glob that matches daemons leaves out scripts, such as a migration."""
        found = self.find_units(patterns)
        daemons = [unit for unit in found if unit.spec.kind == "daemon"]
        return [unit for unit in found if unit in daemons or unit.name in patterns or not daemons]

    def await_up(self, request: Request, since: dict[Unit, int], now: float, patient: bool = False) -> None:
        """Answer when each unit, and each that bounces with it, is up with more starts than `since`, or has failed.
        `patient`: only a unit that has ended for good has failed."""
        before = {unit: unit.status.starts for unit in self.fleet.units.values()}

        def decide(now: float) -> None:
            units = since if patient else bouncing(since)
            fates = {unit: self.fate(unit, since.get(unit), patient, now) for unit in units}
            counts = [unit for unit in fates if unit in since or unit.status.starts > before.get(unit, 0)]
            failed = [f"{unit.name} {fates[unit]}" for unit in counts if fates[unit]]
            coming = [unit for unit, fate in fates.items() if fate is None]
            if not coming or (failed and (patient or since.keys().isdisjoint(coming))):
                request.add_lines(failed, "!")
                request.complete(1 if failed else 0, [f"{unit.name}: ok" for unit in since if patient and not failed])

        wave = bouncing(since)
        scripts = [dep.name for unit in wave for dep, _ in unit.deps if dep.spec.kind == "script"]
        self.await_outcome(request, [*scripts, *(unit.name for unit in wave)], now, decide)

    def await_down(self, request: Request, names: list[str], now: float) -> None:
        def check_stopped(now: float) -> None:
            left = [self.fleet.units[name] for name in names if name in self.fleet.units]
            again = [unit.name for unit in left if unit.wanted or unit.queued]
            if again:
                request.fail(f"{again[0]} was started again meanwhile", 1)
            elif not any(unit.lives() for unit in left):
                request.complete(0)

        self.await_outcome(request, names, now, check_stopped)

    def fate(self, unit: Unit, since: int | None, patient: bool, now: float) -> str | None:
        """Return "" if a unit is up with more starts than `since` (None: it bounces), None if unclear, or why not."""
        status, end = unit.status, unit
        while end.waits:
            end = end.waits
        if self.fleet.units.get(unit.name) is not unit:
            return "is another unit since a reload" if unit.name in self.fleet.units else "was removed by a reload"
        fresh = not status.stale if since is None else status.starts > since
        if status.state == OK and not unit.queued and fresh:
            return ""
        old = f"runs on as before (pid {status.pid})" if status.state == OK and status.pid else ""
        if old and not status.stale and not unit.leaving:
            return f"was not restarted, and {old}"
        ended = end.rests() and not end.find_next().deed
        failed = (ended and status.state in ENDED) if patient else (ended or end.status.state == BACKOFF)
        if not failed:
            return None
        behind = f"; {end.name} {self.describe(end, now)}" if end is not unit else ""
        new = ("" if patient else "did not come up, it ") + self.describe(unit, now)
        return (f"{old}, and is still to be restarted" if old else new) + behind

    def describe(self, unit: Unit, now: float) -> str:
        """Return what `why` says of a unit, and the last line of one that has failed."""
        state, tail = unit.status.state, self.output.tails.get(unit.name)
        why = f"is {spell_state(state)}{'' if state == WAITING else ':'} {self.fleet.explain(unit, now)}"
        last = b"".join(tail.last_lines(1)) if tail and state in (BACKOFF, FAILED) else b""
        return why.rstrip(" :") + (f"; its last line: {decode(last)[:SHOWN_WIDTH]}" if last else "")

    def await_outcome(self, request: Request, names: Iterable[str], now: float, until: Callable[..., None]) -> None:
        """Have `until` complete the answer. Messages about these units belong to the answer."""
        request.follows, request.until = frozenset(names), until
        self.answer_waiting(now)

    def time_out_request(self, request: Request) -> None:
        units = [unit for name, unit in self.fleet.units.items() if name in request.follows]
        now = time.monotonic()
        left = [f"{unit.name} {self.describe(unit, now)}" for unit in units if unit.status.state != OK]
        limit = spell_duration(request.options["timeout"])
        request.fail(f"not within {limit}: {', '.join(left) or 'nothing came of it'}", 1)


# =========================================================================================================== Probes
# Readiness, health, `wait_for`, `pidfile`. Each try is a child, since it may block. What stands above `kill_child`
# runs there, returns what is wrong or "", and raises OSError.


def ask_http(sock: Any, probe: Probe) -> str:
    host = f"[{probe.host}]" if ":" in probe.host else probe.host
    request = f"GET {probe.path} HTTP/1.0\r\nHost: {host}:{probe.port}\r\nUser-Agent: overlord\r\n\r\n"
    sock.sendall(os.fsencode(request))
    with open(sock.fileno(), "rb", closefd=False) as answer:
        line = answer.readline(100)
    status = re.match(rb"HTTP/\d(?:\.\d)? (\d\d\d)", line)
    if not status:
        return "no HTTP" if line else "hung up"
    return "" if status[1][:1] in b"23" else f"status {decode(status[1])}"


def try_to_connect(probe: Probe) -> str:
    fault, styles = OSError(), (_socket.SOCK_STREAM, _socket.SOCK_DGRAM)
    found: list[Any] = [(_socket.AF_UNIX, style, 0, "", probe.path) for style in styles]
    if probe.kind != "unix":
        # COST: for a str, Python imports its codec of international names, 10 ms; None is the local host
        host = None if probe.host == "localhost" else os.fsencode(probe.host)
        found = _socket.getaddrinfo(host, probe.port, 0, _socket.SOCK_STREAM)
    for family, style, _, _, address in found:
        try:
            sock = _socket.socket(family, style)
            sock.connect(address)
            if sock.getsockname() == sock.getpeername():  # LINUX: the kernel chose this very port for this end
                raise OSError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
            return ask_http(sock, probe) if probe.kind == "http" else ""
        except OSError as error:
            # the first fault, unless it only means another style of unix socket, or no IPv6
            if fault.errno in (None, errno.EPROTOTYPE, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                fault = error
    raise fault


def read_pidfile(path: str) -> str:
    """Return the pid in a file, and " unsafe" if others than root can change its path; or what is wrong."""
    place = find(path)
    fd = os.open(os.path.basename(place.path), os.O_RDONLY | os.O_NOFOLLOW, dir_fd=place.folder)
    text = decode(os.read(fd, 64)).strip()
    return text + " unsafe" * (not place.safe) if is_number(text, 10) and int(text) else "it holds no pid"


def try_probe(probe: Probe, spec: Spec) -> str:
    if probe.kind == "file":
        return "" if os.path.exists(probe.path) else "no such file"
    if probe.kind == "pidfile":
        take_identity(spec)
        return read_pidfile(probe.path)
    return try_to_connect(probe)


def kill_child(kernel: Kernel, pid: int) -> None:
    """Kill a child that is not reaped yet, with its process group."""
    for target in (pid, -pid):
        kernel.send_signals(target, SIGNALS["KILL"])


# What a unit is probed for, and whether the answer counts now.
PURPOSES: dict[str, Callable[[Unit], bool]] = {
    "ready": lambda unit: unit.status.state == STARTING,
    "health": lambda unit: unit.status.state == OK and unit.spec.health,
    "wait_for": lambda unit: unit.reach == "wait_for",
    "pidfile": lambda unit: unit.status.state in (STARTING, OK) and (unit.status.left or not unit.status.named),
}


class Prober:
    """Probes a unit for one purpose, one try at a time, as long as the answer counts."""

    def __init__(self, loop: Loop, unit: Unit, purpose: str) -> None:
        self.loop, self.watch, self.unit, self.purpose = loop, loop.watch, unit, purpose
        asked = getattr(unit.spec, purpose)
        if purpose == "pidfile":
            asked = Probe(purpose, "", 0, asked, asked)
        self.probes = list(asked) if purpose == "wait_for" else [asked]  # to be passed one after the other
        self.began = self.reminded = time.monotonic()
        self.failures = self.pid = 0
        self.wrong, self.output = "", b""  # why the last try failed; the end of what its command has written
        self.pipe = -1
        self.timer: list[Any] | None = None  # the deadline of the try under way
        unit.probers[purpose] = self
        if purpose == "health":
            self.watch.after(unit.spec.health_interval, self.attempt)
        else:
            self.attempt()

    def is_current(self) -> bool:
        newest = self.unit.probers.get(self.purpose) is self
        return bool(newest and not self.loop.fleet.ending and PURPOSES[self.purpose](self.unit))

    def attempt(self) -> bool:
        """Begin a try. Return true: its result may be known already."""
        if not self.is_current():
            return True
        loop, spec, probe = self.loop, self.unit.spec, self.probes[0]
        try:
            if self.pid in loop.helpers:  # where a file system hangs, even SIGKILL waits
                raise StartError("the try before still hangs")
            if probe.kind == "pidfile" and is_becoming(self.unit.status.pid):  # the old file may still be there
                raise StartError("not started yet")
            if probe.kind == "cmd":
                self.run_shell(probe.path)
            else:
                self.pid = loop.kernel.fork(lambda: (try_probe(probe, spec), 1), self.end_try)
            self.timer = self.watch.after(spec.health_timeout, self.give_up_try)
        except StartError as error:
            self.take_result(str(error), error.passing)
        return True

    def run_shell(self, command: str) -> None:
        """Run a command, and read its output if descriptors are free. Raises StartError."""
        self.output = b""
        self.pipe, end = call_or((-1, -1), os.pipe)
        call_or(None, os.set_blocking, self.pipe, False)
        try:
            self.pid = self.loop.run_command(self.unit, command, (end, end), self.end_try)
        finally:
            self.watch.close(end)
        self.read_output(self.pid)

    def read_output(self, pid: int) -> None:
        """Empty the pipe every 50 ms. COST: at once takes half a CPU for a command that never stops writing."""
        if self.pipe >= 0 and pid == self.pid:
            self.output = (self.output + call_or(b"", os.read, self.pipe, PIPE_SIZE))[-4096:]
            self.watch.after(0.05, lambda: self.read_output(pid))

    def end_try(self, code: int, why: str) -> None:
        self.loop.kernel.send_signals(-self.pid, SIGNALS["KILL"])
        self.read_output(self.pid)  # overlord may hear of the end before it has read all
        if self.timer:
            said = [clean(line.strip()[:200]) for line in decode(self.output).split("\n") if line.strip()]
            wrong = why or (": ".join([spell_end(code), *said[-1:]]) if code else "")
            self.take_result(wrong, scarce=bool(why) and code == EX_TEMPFAIL)

    def give_up_try(self) -> bool:
        kill_child(self.loop.kernel, self.pid)
        self.take_result(f"no answer within {spell_duration(self.unit.spec.health_timeout)}")
        return True

    def take_result(self, wrong: str, scarce: bool = False) -> None:
        """Act on what a try found wrong. `scarce`: nothing, for lack of memory or descriptors."""
        self.watch.cancel(self.timer)
        self.timer, self.pipe = None, self.watch.close(self.pipe)
        if not self.is_current():
            return
        now, unit, log = time.monotonic(), self.unit, self.loop.log
        number, _, unsafe = wrong.partition(" ")
        if self.purpose == "pidfile" and is_number(number, 10):
            wrong = self.loop.name_main(unit, int(number), self.probes[0].text, not unsafe or bool(unit.spec.uid))
        elif wrong and not scarce and self.purpose in ("ready", "health") and self.probes[0].kind != "cmd":
            wrong = f"{self.probes[0].text}: {wrong}"
        log.message("debug", unit.name, f"{self.purpose} {wrong or 'passed'}")
        self.wrong = wrong
        if self.purpose == "health":
            self.judge_health(wrong, scarce)
        elif wrong:
            waited = now - self.began
            if self.purpose == "wait_for" and now - self.reminded >= REMINDER / 2:
                self.reminded, text = now, f"waiting for {self.probes[0].text} for {spell_duration(waited)} now"
                log.message("info", unit.name, f"{text}: {wrong}")
            self.watch.after(min(1.0, max(0.05, waited / 50)), self.attempt)
        elif len(self.probes) > 1:
            del self.probes[0]
            self.watch.after(0, self.attempt)
        elif self.purpose == "ready":
            self.loop.inform(unit, "ready")
        elif self.purpose == "wait_for":
            self.loop.fleet.reach(unit.name, now)

    def judge_health(self, wrong: str, scarce: bool) -> None:
        loop, unit, most = self.loop, self.unit, self.unit.spec.health_retries
        self.failures = self.failures + (not scarce) if wrong else 0
        if wrong:
            text = "cannot see whether it is healthy" if scarce else f"unhealthy ({self.failures} of {most})"
            self.wrong = f"{text}: {wrong}"
            loop.log.message("warning", unit.name, self.wrong)
        if self.failures >= most:
            loop.inform(unit, "stale", f"unhealthy: {wrong}", fails=True)
        else:
            self.watch.after(unit.spec.health_interval, self.attempt)


class Notices:
    """Hears what daemons say of themselves: by sd_notify(3), a newline on a descriptor, a line of output."""

    def __init__(self, loop: Loop) -> None:
        self.loop, self.watch = loop, loop.watch

    def wire_notices(self, unit: Unit) -> tuple[dict[str, str], dict[int, int]]:
        """Return a daemon's variables, and the number of a descriptor there and here. Raises OSError."""
        unit.ear, spec = self.watch.close(unit.ear), unit.spec
        kind = spec.ready.kind if spec.ready else ""
        extra, fds = {}, {}
        if kind == "notify" or spec.watchdog:
            if not unit.notices:
                sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_NONBLOCK)
                sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_PASSCRED, 1)
                address = f"@overlord/{os.urandom(8).hex()}/{unit.name}"[:100]  # unix(7) allows 108 bytes
                sock.bind(b"\0" + address[1:].encode())
                unit.notices = (sock, address)
                self.watch.on(sock.fileno(), select.EPOLLIN, lambda: self.read_notice(unit))
            extra["NOTIFY_SOCKET"] = unit.notices[1]
        if spec.watchdog:
            extra.update(WATCHDOG_USEC=str(int(spec.watchdog * 1e6)), WATCHDOG_PID="")
        if kind == "fd":
            unit.ear, fds[spec.ready.port] = os.pipe()
            self.watch.on(unit.ear, select.EPOLLIN, lambda: self.hear_newline(unit))
        return extra, fds

    def hear_newline(self, unit: Unit) -> bool:
        data = os.read(unit.ear, 4096)
        if not data or b"\n" in data:
            unit.ear = self.watch.close(unit.ear)
        return b"\n" in data and self.loop.inform(unit, "ready")

    def hear_lines(self, name: str, text: bytes) -> None:
        """Look for the line of `ready = log:` in what a unit writes, and pass that on to clients."""
        unit = self.loop.fleet.units.get(name)
        if unit and unit.status.state == STARTING and unit.spec.ready and unit.spec.ready.kind == "log":
            search, pid = re.compile(unit.spec.ready.path.encode()).search, unit.status.pid
            if any(search(line[:SHOWN_WIDTH]) for line in text.split(b"\n")):
                self.watch.after(0, lambda: unit.status.pid == pid and self.loop.inform(unit, "ready"))
        self.loop.control.forward_lines(name, text)

    def forget_unit(self, unit: Unit) -> None:
        unit.ear = self.watch.close(unit.ear)
        if unit.notices:
            self.watch.off(unit.notices[0].fileno())
            close_socket(unit.notices[0])
            unit.notices = None

    def read_notice(self, unit: Unit) -> bool:
        """Read one message; obey it if the unit has sent it. Return whether there was one."""
        data, controls = call_or((b"", None), receive, unit.notices[0])
        if controls is None:
            return False
        senders = [read_numbers(value) for _, kind, value in controls if kind == 2]  # SCM_CREDENTIALS
        if not (unit.status.pid and senders and self.is_inside(unit, senders[0][0], senders[0][1])):
            return True
        for line in sorted(decode(data).splitlines(), key=lambda line: line[:8] != "MAINPID="):  # first, as in systemd
            if line[:8] == "MAINPID=" and is_number(line[8:]):
                self.loop.name_main(unit, int(line[8:]), "MAINPID=")
            elif line[:7] == "STATUS=":
                unit.note = clean(line[7:])
            elif line in ("RELOADING=1", "STOPPING=1"):
                unit.note = line[:-2].lower()
            elif line == "READY=1":
                unit.note = "" if unit.note == "reloading" else unit.note
                if unit.spec.ready and unit.spec.ready.kind == "notify":
                    self.loop.inform(unit, "ready")
            elif line == "WATCHDOG=1":
                self.wind_watchdog(unit)
            elif line == "WATCHDOG=trigger":
                self.loop.inform(unit, "stale", f"it said {line}", fails=True)
        return True

    def wind_watchdog(self, unit: Unit) -> None:
        """Have a daemon that is up restarted unless it says WATCHDOG=1 in time: sd_notify(3)."""
        limit = unit.spec.watchdog

        def bark() -> bool:
            timer = unit.watchdog
            self.read_last(unit)  # RACE: it may have been in time
            if unit.watchdog is timer and unit.status.state == OK and not unit.status.stale:
                self.loop.inform(unit, "stale", f"no WATCHDOG=1 within {spell_duration(limit)}", fails=True)
            return True

        if limit and unit.status.state == OK:
            unit.watchdog = self.watch.after(limit, bark, unit.watchdog)

    def read_last(self, unit: Unit) -> None:
        """Read what a unit has said, but no endless flood."""
        all(unit.notices and self.read_notice(unit) for _ in range(100))

    def is_inside(self, unit: Unit, pid: int, uid: int) -> bool:
        """Tell whether a process is the unit's. Once it is gone (systemd-notify in a script), its user decides."""
        process = read_process(pid)
        if process and (process.session == unit.status.pid or self.loop.census.survey(reuse=True).get(pid) is unit):
            return True
        if process and is_there(process):  # RACE: it may have ended meanwhile, as one that has handed over does
            return False
        main = call_or(None, os.stat, f"/proc/{unit.status.pid}")
        return pid > 0 and uid in (0, unit.user, main.st_uid if main else 0)  # pid 0: of another namespace


class Listeners:
    """The sockets of `listen`, as long as the configuration has them. The instances of a unit share them."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.held: dict[Any, int] = {}  # what `name_sockets` returns -> descriptor
        self.opening: set[str] = set()  # sections for which a child opens sockets

    def name_sockets(self, unit: Unit) -> list[Any]:
        """Return the key of each socket of a unit: section, address and, of a file, the owner."""
        spec, owner = unit.spec, (unit.spec.uid, unit.spec.gid)
        return [(section_of(spec), probe, owner if probe.kind == "unix" else None) for probe in spec.listen]

    def wire_sockets(self, unit: Unit) -> tuple[dict[str, str], dict[int, int]]:
        """Return variables and descriptors: sd_listen_fds(3)."""
        fds = dict(enumerate([self.held[name] for name in self.name_sockets(unit)], 3))
        for fd in fds.values() if len(unit.team) == 1 else ():  # no other instance is at work with them
            os.set_blocking(fd, True)
        names = ":".join([section_of(unit.spec).partition(":")[2]] * len(fds))
        return {"LISTEN_FDS": str(len(fds)), "LISTEN_PID": "", "LISTEN_FDNAMES": names} if fds else {}, fds

    def provide(self, unit: Unit) -> None:
        """Let a unit that waits for its sockets go on, or have a child open those that are missing."""
        section, missing = section_of(unit.spec), [name for name in self.name_sockets(unit) if name not in self.held]
        if unit.reach == "listen" and not missing:
            self.loop.fleet.reach(unit.name, time.monotonic())
        elif unit.reach == "listen" and section not in self.opening:
            try:
                self.open_missing(unit, section, missing)
            except StartError as error:
                self.loop.inform(unit, "barred", str(error), passing=error.passing)

    def open_missing(self, unit: Unit, section: str, missing: list[Any]) -> None:
        """Have a child open sockets and hand them over. Raises StartError."""
        loop, probes = self.loop, [probe for _, probe, _ in missing]
        here, there = try_stage("listen", _socket.socketpair)  # closed with the last reference to them

        def take_sockets(code: int, why: str) -> None:
            controls = [] if code else here.recvmsg(1, 4096, MSG_DONTWAIT | MSG_CMSG_CLOEXEC)[1]
            self.held.update(zip(missing, [fd for _, _, value in controls for fd in read_numbers(value)]))
            why = why or f"listen: {spell_end(code) if code else os.strerror(errno.EMFILE)}"
            self.opening.discard(section)
            current = loop.fleet.units.get(unit.name) is unit and {*missing} <= {*self.name_sockets(unit)}
            for each in [each for each in loop.fleet.units.values() if section_of(each.spec) == section]:
                if current and each is unit and unit.reach == "listen" and missing[-1] not in self.held:
                    loop.inform(unit, "barred", why, passing=code in (0, EX_TEMPFAIL))
                else:
                    self.provide(each)
            if not current:  # a reload came between
                self.release_sockets()

        loop.kernel.fork(partial(open_sockets, unit.spec, probes, there), take_sockets)
        self.opening.add(section)

    def release_sockets(self) -> None:
        """Close the sockets that no unit has any more, and in a shutdown all, so that clients are refused at once."""
        units = () if self.loop.fleet.ending else self.loop.fleet.units.values()
        needed = {name for unit in units for name in self.name_sockets(unit)}
        for name in self.held.keys() - needed:
            os.close(self.held.pop(name))


class Clock:
    """Runs scripts by their `schedule`. Looks at the wall clock once a minute, since somebody may set it."""

    def __init__(self, loop: Loop) -> None:
        self.loop, self.fleet = loop, loop.fleet
        self.timer: list[Any] | None = None
        self.seen = time.time()

    def plan(self) -> None:
        for unit in self.fleet.units.values():
            if unit.spec.schedule != (unit.plan and unit.plan[0]):
                self.plan_run(unit)
        self.wind()

    def plan_run(self, unit: Unit) -> None:
        """Plan the next run: by the monotonic clock for `every`, else by the wall clock."""
        plan = unit.spec.schedule
        unit.plan, unit.next_run = None, ""
        if plan and plan.every:
            unit.plan, unit.next_run = (plan, time.monotonic() + plan.every), f"every {spell_duration(plan.every)}"
        elif plan:
            instant = next_run(plan, time.time())
            unit.plan = (plan, instant or 1e18)
            unit.next_run = time.strftime("%Y-%m-%d %H:%M", time.localtime(instant)) if instant else "never"

    def wind(self) -> None:
        now, wall = time.monotonic(), time.time()
        plans = [unit.plan for unit in self.fleet.units.values() if unit.plan]
        waits = [instant - now if plan.every else min(60.0, instant - wall) for plan, instant in plans]
        self.timer = self.loop.watch.later(now + max(0.0, min(waits)) if waits else None, self.strike, self.timer)

    def strike(self) -> bool:
        """Run what is due, except what was missed because the clock was set or the container paused."""
        now, wall = time.monotonic(), time.time()
        set_back, self.seen = wall < self.seen - 60, wall
        for unit in [unit for unit in self.fleet.units.values() if unit.plan]:
            plan, instant = unit.plan
            late = (now if plan.every else wall) - instant
            if late >= 0 and (plan.every or late <= MISSED):
                self.fleet.run_by_clock(unit.name, now)
            elif late >= 0:
                self.loop.log.message("warning", unit.name, f"its run of {unit.next_run} was missed")
            if late >= 0 or (set_back and not plan.every):
                self.plan_run(unit)
        self.wind()
        return True


# ============================================================================================================= Loop
# Wait, read, feed, perform. Die loudly before `Loop.run_until_exit`; never after.


class Loop:
    """Feeds the pure rooms with what happens, and performs the actions that they return."""

    def __init__(self, fleet: Fleet, kernel: Kernel, init: Init, output: Output, control: Control) -> None:
        self.fleet, self.kernel, self.init, self.output, self.control = fleet, kernel, init, output, control
        self.watch, self.log = output.watch, output.log
        self.census = Census(fleet, kernel, init.adopts)
        self.pids, self.helpers = self.census.pids, kernel.helpers
        self.notices, self.clock, self.listeners = Notices(self), Clock(self), Listeners(self)
        self.code: int | None = None  # the exit code
        self.arrived = bytearray()  # signals, one byte each
        self.due: dict[str, bool] = {}  # units whose deadline has come -> True
        self.timer: list[Any] | None = None  # of the fleet itself
        self.lingering: dict[Unit, int] = {}  # units that may have left processes behind -> torn readings so far
        self.next_look = 0.0  # when to look at those again
        self.actions: deque[Any] = deque()
        self.action: Any = None  # the one under way
        self.doers: dict[type, Callable[..., None]] = {
            Say: self.log_and_publish, Changed: control.publish, Wake: self.set_timer, Replan: self.replan,
            Sweep: self.sweep, Exit: self.exit, Forget: self.forget,
            Spawn: self.spawn, Kill: self.kill, Test: self.test, StopCommand: self.stop_by_command,
        }  # fmt: skip
        self.watch.paused, control.measure, output.follow = self.paused, self.census.measure, self.notices.hear_lines
        self.catch_signals()

    def catch_signals(self) -> None:
        self.wake, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        call_or(None, fcntl.fcntl, wake, F_SETPIPE_SZ, PIPE_SIZE)  # a full pipe loses signals
        self.watch.on(self.wake, select.EPOLLIN, self.read_signals)
        shell = not self.init.is_pid1 and os.getppid() > 1  # it continues overlord after a Ctrl-Z
        for number in JOB_CONTROL - ({SIGNALS["TSTP"]} if shell else set()):
            signal.signal(number, signal.SIG_IGN)  # a write from the background must not stop overlord
        # PYTHON: a handler runs once for all signals since the last bytecode; the pipe has each
        for number in CAUGHT:
            signal.signal(number, lambda number, frame: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)

    def run_until_exit(self) -> int:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        following = self.boot
        while self.code is None:
            try:
                following()
            except Exception as error:
                self.survive(error)
            following = self.turn
        return self.code

    def survive(self, error: Exception) -> None:
        """Log an exception with its place. Fail the unit whose action raised it: it would wait for ever."""
        trace: Any = error.__traceback__
        while trace.tb_next:
            trace = trace.tb_next
        what, place = f"{type(error).__name__}: {error}", f"{trace.tb_frame.f_code.co_name}, line {trace.tb_lineno}"
        self.log.message("error", "", f"internal error, going on: {what} ({place})")
        action, self.action = self.action, None
        unit = self.fleet.units.get(action.unit) if isinstance(action, (Spawn, Test)) else None
        if unit and isinstance(action, Test):
            kind = "barred" if unit.status.state == WAITING else "stale"
            self.inform(unit, kind, f"internal error: {what}", fails=True)
        elif unit and unit.status.state in (STARTING, RUNNING) and not unit.status.pid:
            self.inform(unit, "unspawned", f"internal error: {what}")
        self.arrived.append(SIGNALS["CHLD"])  # a batch of dead children may be unfinished
        select.poll().poll(100)  # ms, or an error that comes back at once makes a busy loop

    def inform(self, unit: Unit, kind: str, why: str = "", **details: Any) -> bool:
        """Tell the fleet what happened to a unit. Return true, for `Watch.wait` to end."""
        self.fleet.feed(unit.name, Event(kind, why, **details), time.monotonic())
        return True

    def boot(self) -> None:
        """Start what is wanted, unless a signal asks for shutdown; a lone main command gets that once it runs."""
        if list(self.fleet.units) != [MAIN]:
            self.read_signals()
            self.handle_signals()
        if not self.fleet.ending:
            self.fleet.want_all(time.monotonic())
            self.clock.plan()
        self.perform()

    def turn(self) -> None:
        """Wait for something to happen, and see it through."""
        fleet, until = self.fleet, self.next_look if self.lingering else None
        if self.arrived or self.actions:
            until = time.monotonic()
        elif fleet.sweeping and not self.lingering:
            until = time.monotonic() + LINGER_LOOK
        self.watch.wait(until)
        now = time.monotonic()
        self.handle_signals()
        due, self.due = self.due, {}
        for name in due:  # after the signals, which came before
            fleet.take_deadline(name, now)
        self.perform()
        self.look_at_lingering(now)
        self.perform()
        if fleet.ending:
            self.output.begin_shutdown()
            self.listeners.release_sockets()
        if fleet.grown:  # see what descends from a main process while it lives
            fleet.grown = False
            delay = max(LINGER_LOOK, LOOK_SHARE * self.census.cost)
            self.watch.later(now + delay, partial(self.census.survey, reuse=True))
        if fleet.sweeping and self.code is None:
            if self.init.alone():
                fleet.end_shutdown()
                self.perform()
            elif not self.init.is_pid1:  # there may be new descendants
                self.init.signal_all(fleet.sweeping)

    def paused(self, gap: float) -> bool:
        """Move the deadlines by a time in which nothing ran (docker pause), unless in a shutdown."""
        if self.fleet.ending:
            return False
        for timer in self.watch.timers:
            timer[0] += gap
        self.fleet.shift_deadlines(gap)
        self.clock.wind()  # by the wall clock, which went on
        return True

    def read_signals(self) -> bool:
        for data in iter(lambda: call_or(b"", os.read, self.wake, 4096), b""):
            self.arrived += data
        return True

    def handle_signals(self) -> None:
        """Take first the signals that ask for shutdown, then the dead children, then what is relayed."""
        if Sink.broken:
            Sink.broken = False
            self.read_signals()
            self.arrived = self.arrived.translate(None, bytes(OWN_FAULTS))
        arrived, self.arrived = self.arrived, bytearray()
        asking, transparent = self.fleet.settings.shutdown_signals, self.fleet.transparent()
        for number in [number for number in arrived if number in asking]:
            self.fleet.ask_shutdown(f"{spell_signal(number)} received", time.monotonic(), number)
        if CHILD_ALONE.intersection(arrived):
            self.reap()
        for number in dict.fromkeys(arrived):
            if number not in CHILD_ALONE and (transparent or number not in asking):
                self.relay(number, arrived.count(number))

    def reap(self) -> None:
        count = 0
        for pid, code, user, stopped in self.kernel.dead_children():
            count += 1
            name = self.pids.get(pid)
            if stopped:
                if name == MAIN:
                    self.init.suspend(self.kernel, pid, code)
            elif pid in self.helpers:
                self.helpers.pop(pid)(code, self.kernel.reason(pid))
            elif name is not None:
                unit = self.fleet.units[name]
                unit.user = user
                self.census.dead.append((unit, pid, code))
            else:
                self.control.orphans += 1
                if any(unit.kin.pop(pid, 0) and not unit.kin for unit in self.lingering):
                    self.next_look = 0.0
        if count == REAP_BATCH:  # there may be more
            self.arrived.append(SIGNALS["CHLD"])
        if self.census.dead:
            self.bury()

    def bury(self) -> None:
        """Tell the fleet of dead main processes. COST: one reading of /proc shows what all of them left behind."""
        census = self.census
        for unit, _, _ in census.dead:  # a last message may name another main process
            self.notices.read_last(unit)
        census.dead = [each for each in census.dead if self.pids.get(each[1]) == each[0].name]
        looked, census.torn = census.may_leave([unit for unit, _, _ in census.dead]), set()
        if looked:
            census.survey()
        while census.dead:
            unit, pid, code = census.dead[0]
            rest, doubts = census.find_left(unit, code) if looked else ([], [])
            del census.dead[0]  # not before: if find_left raises, the next turn repeats it
            self.pids.pop(pid)
            if rest and census.may_spare(unit, code):  # RACE: a daemon there may be about to make its own session
                self.watch.after(LINGER_LOOK, partial(self.end_script, unit, pid, code))
            else:
                self.tell_end(unit, code, rest, doubts)

    def end_script(self, unit: Unit, pid: int, code: int) -> bool:
        if unit.status.pid == pid and not unit.status.left:
            self.census.survey()
            self.tell_end(unit, code, *self.census.find_left(unit, code))
        return True

    def tell_end(self, unit: Unit, code: int, rest: list[Process], doubts: list[Process]) -> None:
        """Tell the fleet of a dead main process, what it left behind, and what may be the unit's (`doubts`)."""
        status, spec = unit.status, unit.spec
        why = self.kernel.reason(status.pid)
        passing = bool(why) and code == EX_TEMPFAIL
        if unit.name == MAIN:
            self.init.take_terminal(self.kernel)
        known = why or status.state == STOPPING
        hint = "" if known else self.kernel.hint(unit, code, spell_processes(rest or doubts))
        spares = unit.name == MAIN or spec.kill_mode == "process" or self.census.may_spare(unit, code)
        may_be_named = spec.pidfile and status.state in (STARTING, OK) and doubts
        if left := bool(rest or may_be_named or unit.stop_command or (unit in self.census.torn and not spares)):
            self.lingering[unit] = 0
        for capture in self.output.of(unit.name):  # what it wrote stands before the message of its end
            capture.finish_run(left)
        for prober in unit.probers.values():
            if prober.timer and not (left and spec.pidfile):
                kill_child(self.kernel, prober.pid)
        self.inform(unit, "exited", why, code=1 if passing else code, left=left, hint=hint, passing=passing)

    def name_main(self, unit: Unit, pid: int, source: str, trusted: bool = False) -> str:
        """Make the process that a pid file or MAINPID= names the main process. Return why not, or "".
        `trusted`: only root or the unit wrote it; it may name an orphan that another unit may have made."""
        status, census = unit.status, self.census
        if status.state not in (STARTING, OK) or not status.pid:
            return "it is being stopped"
        if pid == status.pid and not status.left:
            self.inform(unit, "handed", pid=pid)
            return ""
        if census.survey(reuse=True).get(pid) is not unit:
            census.survey()
        process = census.found.get(pid)
        if not process or not is_there(process):  # RACE: it may have been reaped since that reading, as an orphan
            return f"{source} names pid {pid}, which does not run"
        if not self.may_be_main(unit, process, trusted):
            why = f"{source} names {spell_processes([process])}, which is not of this unit: refused"
            if why != unit.note:
                self.log.message("warning", unit.name, why)
            unit.note = why
            return why
        if not status.left and source != "MAINPID=":
            if process not in descendants(census.found, status.pid):
                return "the process that was started has not ended"
            self.inform(unit, "handed", pid=status.pid)  # that one stays: a shell, say, that waits for its daemon
            return ""
        self.pids.pop(status.pid, None)
        self.pids[pid] = unit.name
        self.lingering.pop(unit, None)
        census.strangers.pop(pid, None)
        unit.kin[pid] = process.born
        self.inform(unit, "handed", f"its main process is now pid {pid} ({source})", pid=pid)
        if process.parent != os.getpid():
            self.watch_main(unit, pid)
        return ""

    def may_be_main(self, unit: Unit, process: Process, trusted: bool) -> bool:
        """Tell whether a process is the unit's, or an orphan that may be."""
        if self.census.owner.get(process.pid) is unit:
            return True
        orphan = self.census.strangers.get(process.pid, Stranger(0, ()))
        if unit not in orphan.makers or orphan.born < unit.born:
            return False
        main = self.census.found.get(unit.status.pid)
        user = read_origin(main, {}).user if unit.user is None and main else unit.user
        return len(orphan.makers) == 1 or (trusted and read_origin(process, {}).user in (None, user))

    def watch_main(self, unit: Unit, pid: int, fd: int = -1) -> bool:
        """See the end of a main process that is not overlord's child: by pidfd_open(2), else once a second."""
        self.watch.close(fd)
        process, named = read_process(pid), self.pids.get(pid) == unit.name
        if named and process and process.born == unit.kin.get(pid, process.born):
            try:
                fd = os.pidfd_open(pid)  # type: ignore[attr-defined,unused-ignore]
                self.watch.on(fd, select.EPOLLIN, lambda: self.watch_main(unit, pid, fd))
            except (AttributeError, OSError):  # LINUX: since 5.3. PYTHON: since 3.9
                self.watch.after(1, lambda: self.watch_main(unit, pid))
        elif named:
            self.reap()  # it may be overlord's child by now
            if self.pids.get(pid) == unit.name:
                self.fleet.say("info", unit.name, f"the exit code of pid {pid} went to its parent, and counts as 1")
                self.census.dead.append((unit, pid, 1))
                self.bury()
        return True

    def test(self, unit: Unit, action: Test) -> None:
        probe = getattr(unit.spec, action.purpose)
        if action.purpose == "watchdog":
            self.notices.wind_watchdog(unit)
        elif action.purpose == "listen":
            self.listeners.provide(unit)
        elif probe and (action.purpose != "ready" or probe.kind not in ("notify", "fd", "log")):
            Prober(self, unit, action.purpose)

    def stop_by_command(self, unit: Unit, action: StopCommand) -> None:
        """Run a daemon's `stop_cmd`. If that fails, send the stop signal."""
        spec = unit.spec

        def note_command_end(code: int, why: str) -> None:
            unit.stop_command, self.next_look = 0, 0.0
            if not code:
                return
            text = f"stop_cmd cannot be run: {why}" if why else f"stop_cmd {spell_end(code)}"
            lives = self.pids.get(action.pid) == unit.name
            sending = f", sending {spell_signal(spec.stop_signal)}" if lives else ""
            self.log.message("warning", unit.name, text + sending)
            if lives:
                self.kill(unit, Kill(unit.name, action.pid, spec.stop_signal, whole=spec.kill_mode == "all"))

        self.census.survey(reuse=True)
        try:
            if not spec.stop_cmd:
                raise StartError("a reload has removed it")
            unit.stop_command = self.run_command(unit, spec.stop_cmd, self.output.wire_output(spec), note_command_end)
        except StartError as error:
            note_command_end(1, str(error))

    def run_command(self, unit: Unit, cmd: str, stdio: tuple[int, int], ended: Callable[[int, str], None]) -> int:
        """Run a command as a unit's user; return its pid. `ended` takes exit code and reason. Raises StartError."""
        main = {"MAINPID": str(unit.status.pid)} if unit.status.pid else {}
        spec = unit.spec._replace(cmd=cmd, pidfile=None)
        return self.kernel.fork(partial(self.kernel.become, spec, stdio, main, {}), ended)

    def look_at_lingering(self, now: float) -> None:
        """Signal what is new of units that are being stopped, and see which have ended: no signal tells."""
        if not self.lingering or now < self.next_look:
            return
        self.census.survey()
        self.next_look = now + max(LINGER_LOOK, LOOK_SHARE * self.census.cost)
        for unit in list(self.lingering):
            left, stopping = unit.status.left, unit.status.state == STOPPING
            if self.fleet.units.get(unit.name) is not unit or not (left or stopping):
                self.lingering.pop(unit)
            elif unit.kin and stopping and unit.spec.kill_mode != "process":
                soft, found = unit.status.deadline is not None, self.census.found
                # until the time is up, parents stop their children themselves
                pids = [pid for pid in unit.kin if not (soft and pid in found and found[pid].parent in unit.kin)]
                self.signal_unit(unit, unit.spec.stop_signal if soft else SIGNALS["KILL"], pids)
            elif unit.kin and stopping and left:
                self.census.find_left(unit, 0)
            elif unit.kin or not left:
                continue
            elif unit in self.census.torn and self.lingering[unit] < 3:
                self.lingering[unit] += 1
            elif not unit.stop_command and (stopping or not self.census.find_doubtful(unit)):
                self.lingering.pop(unit)
                self.census.find_left(unit, unit.status.code)
                for capture in self.output.of(unit.name):
                    capture.finish_run()
                self.inform(unit, "emptied")

    def perform(self) -> None:
        """Do what the fleet wants, and what follows from that. After a signal, the next turn goes on."""
        self.collect_actions()
        while self.actions:
            action = self.action = self.actions.popleft()
            if not isinstance(action, (Spawn, Kill, Test, StopCommand)):
                self.doers[type(action)](action)
            elif action.unit in self.fleet.units:  # a reload may have removed it meanwhile
                self.doers[type(action)](self.fleet.units[action.unit], action)
            if isinstance(action, Spawn):
                self.read_signals()
                if any(number in self.arrived for number in self.fleet.settings.shutdown_signals):
                    break  # it must not wait for a thousand starts
            self.collect_actions()
            self.watch.check_clock()  # a thousand starts are no pause
        self.action = None
        self.control.answer_waiting(time.monotonic())

    def collect_actions(self) -> None:
        """Take over what the fleet wants. Messages and timers do not wait for starts."""
        for action in self.fleet.take_actions():
            if isinstance(action, (Say, Changed, Wake, Replan)):
                self.doers[type(action)](action)
            else:
                self.actions.append(action)

    def log_and_publish(self, action: Say) -> None:
        if action.unit != MAIN or action.level == "error" or len(self.fleet.units) > 1:
            details = self.post_mortem(self.fleet.units[action.unit]) if action.final else None
            self.log.message(action.level, action.unit, action.text, details)
        self.control.publish(action)

    def set_timer(self, action: Wake) -> None:
        owner: Any = self.fleet.units.get(action.unit) if action.unit else self
        if owner:
            owner.timer = self.watch.later(action.instant, lambda: self.due.setdefault(action.unit, True), owner.timer)

    def replan(self, action: Replan) -> None:
        self.clock.plan()
        self.output.apply_settings(self.fleet)
        self.control.refollow()
        self.listeners.release_sockets()

    def forget(self, action: Forget) -> None:
        """Release what belongs to a unit that a reload has removed or made another kind."""
        unit = action.unit
        if unit.name not in self.fleet.units:
            self.output.unwire(unit.name)
        self.watch.cancel(unit.timer)
        self.notices.forget_unit(unit)
        unit.probers.clear()

    def sweep(self, action: Sweep) -> None:
        if action.signum == SIGNALS["KILL"]:
            left = [each for each in self.init.leftovers() if each.pid not in self.pids]
            self.fleet.killed += [spell_processes([each]) for each in left]
        else:
            self.control.dismiss_clients()
        self.init.signal_all(action.signum)

    def spawn(self, unit: Unit, action: Spawn) -> None:
        if unit.status.state not in (STARTING, RUNNING) or unit.status.pid:  # it was stopped since
            return
        try:
            pid = self.kernel.make_main(unit.spec.cmd) if unit.name == MAIN else self.spawn_unit(unit)
        except StartError as error:
            self.inform(unit, "unspawned", str(error), passing=error.passing)
            return
        process, now = read_process(pid), time.clock_gettime(time.CLOCK_BOOTTIME)
        unit.born = process.born if process else int(now * os.sysconf("SC_CLK_TCK"))
        unit.sessions, unit.kin, unit.user, unit.told, unit.probers = (pid,), {pid: unit.born}, None, {}, {}
        self.pids[pid] = unit.name
        self.inform(unit, "spawned", pid=pid)

    def spawn_unit(self, unit: Unit) -> int:
        """Return the pid of a unit's new process. Raises StartError."""
        if unit.spec.pidfile and not self.init.adopts:
            raise StartError(f"pidfile needs overlord to be PID 1, or a subreaper: {self.init.warning}")
        stdio, (more, fds) = self.output.wire_output(unit.spec), self.listeners.wire_sockets(unit)
        extra, own = try_stage("ready", self.notices.wire_notices, unit)
        try:
            return self.kernel.fork(partial(self.kernel.become, unit.spec, stdio, {**extra, **more}, {**fds, **own}))
        finally:
            for fd in own.values():
                os.close(fd)

    def post_mortem(self, unit: Unit) -> dict[str, str | list[str]]:
        """Return what a person wants to know of a final failure."""
        spec, status, tail = unit.spec, unit.status, self.output.tails.get(unit.name)
        restarts = count_of(status.respawned, "time")
        user = spec.uid or f"{os.geteuid()} (overlord's own)"
        told: dict[str, str | list[str]] = {"command": spec.cmd, "user": user, "restarted": restarts}
        if status.started:
            told["lived"] = spell_duration(status.lived)
        if lines := tail.last_lines(SHOWN_LINES) if tail else []:
            told["last output"] = [line.decode("utf-8", "replace")[:SHOWN_WIDTH] for line in lines]
        elif not tail:
            told["output"] = f"not captured; with `stdout = prefix` in [{section_of(spec)}] its last lines stand here"
        return told

    def kill(self, unit: Unit, action: Kill) -> None:
        hard, left = action.signum == SIGNALS["KILL"], unit.status.left
        if action.whole or (unit.name != MAIN and not hard):
            self.census.survey(reuse=not left)  # see what descends from it while it lives
        unit.told = unit.told if left and not hard else {}
        # RACE: the main process may have been reaped, and its pid be another's now
        pids = [action.pid] if self.pids.get(action.pid) == unit.name else []
        if action.whole:
            self.lingering.setdefault(unit, 0)  # more may come
            pids += [pid for pid in unit.kin if pid != action.pid and unit.spec.kill_mode != "process"]
        targets = self.signal_unit(unit, action.signum, pids)
        if targets and action.why:
            level = "info" if unit.status.then == "stop" and not hard else "warning"
            text = f"{action.why} ({spell_signal(action.signum)}): {spell_processes(targets)}"
            self.fleet.say(level, unit.name, text)
        if hard and self.fleet.ending:
            self.fleet.killed += [spell_processes([each]) for each in targets if each.pid != action.pid]
        if hard and unit.stop_command:
            command, unit.stop_command = unit.stop_command, 0
            self.helpers[command] = lambda code, why: None
            kill_child(self.kernel, command)
            self.fleet.say("warning", unit.name, f"stop_cmd (pid {command}) has not ended, killing it (SIGKILL)")
            self.fleet.killed += [f"the stop_cmd of {unit.name}"] if self.fleet.ending else []

    def signal_unit(self, unit: Unit, signum: int, pids: list[int]) -> list[Process]:
        """Signal those of a unit's processes that have not had this signal yet. Return them."""
        found = self.census.found
        known = [found.get(pid) or read_process(pid) or Process(pid, 0, unit.name, 0, 0) for pid in pids]
        targets = [each for each in known if unit.told.get(each.pid) != (each.born, signum)]
        unit.told.update((each.pid, (each.born, signum)) for each in targets)
        self.deliver(unit, signum, targets)
        return targets

    def deliver(self, unit: Unit, signum: int, targets: list[Process]) -> None:
        """Signal processes, in batches. One that ignores it (INT: a shell's background job) gets TERM."""
        exact = signum == SIGNALS["KILL"] or unit.name == MAIN
        for process in targets[:SIGNAL_BATCH]:
            if process.born and not is_there(process):
                continue
            ignores = not exact and is_masked(f"/proc/{process.pid}/status", b"Ign", signum)
            own = SIGNALS["TERM"] if ignores else signum
            if fault := self.kernel.send_signals(process.pid, own, SIGNALS["CONT"]):
                what = f"{spell_signal(own)} to {spell_processes([process])}"
                self.log.message("error", unit.name, f"cannot send {what}: {fault}")
        if rest := targets[SIGNAL_BATCH:]:
            self.watch.after(0, lambda: self.deliver(unit, signum, rest))

    def relay(self, number: int, times: int) -> None:
        """Pass a signal to the main command, as often as it came, and to daemons that want and survive it."""
        units = self.fleet.units
        daemons = [unit for unit in units.values() if unit.spec.kind == "daemon"]
        targets = [(unit, to) for unit in daemons for source, to in unit.spec.forward if source == number]
        for unit, target in [(units[MAIN], number), *targets] if MAIN in units else targets:
            name, pid = unit.name, unit.status.pid
            if not pid or unit.status.left:
                continue
            sent = spell_signal(target) + (f" for {spell_signal(number)}" if target != number else "")
            if name != MAIN and not survives(pid, target):
                text = f"{sent} withheld: the kernel does not show that it catches, ignores or blocks it"
                self.log.message("info", name, text)
                continue
            if fault := self.kernel.send_signals(pid, *[target] * (times if name == MAIN else 1)):
                self.log.message("error", name, f"cannot relay {sent} to pid {pid}: {fault}")
            else:
                self.log.message("debug" if name == MAIN else "info", name, f"{sent} relayed")

    def exit(self, action: Exit) -> None:
        for capture in self.output.captures.values():
            capture.finish_run()
        if not action.quiet:
            self.log.message("info", "", f"exiting with code {action.code}: {action.why}", always=True)
        self.control.stop_listening()
        ending: Any = self.fleet.ending
        self.output.write_rest(max(ending.end, time.monotonic() + 0.2))
        self.init.take_terminal(self.kernel)
        self.code = action.code


# ============================================================================================================== CLI
# Arguments, files and verbs. PID 1 uses only `run` and what reads the configuration.

USAGE = """\
overlord.py [-c FILE] [VERB ...]        one of these; without a verb: run
overlord.py [-c FILE] [--] COMMAND ...  run, with COMMAND as the main command (Docker's CMD)

{}
These ask a running overlord (docker exec CONTAINER overlord.py VERB). A NAME may be a glob ('worker-*'); options may
stand anywhere after the VERB.

{}
Exit codes: 64 wrong arguments or an unknown unit, 69 nobody answers, 74 the answer cannot be written, 77 not allowed.

The configuration is FILE, else $OVERLORD_CONFIG, else /etc/overlord.conf, and every file of its configdir
(/etc/overlord/). An example:

  [script:setup]
  cmd = /usr/local/bin/setup.sh

  [daemon:web]
  cmd = nginx -g 'daemon off;'
  deps = setup:ok
"""


class Unwritten(Exception):
    """Standard output cannot be written; the text says why."""


def write_out(fd: int, text: str) -> None:
    """Write everything, and wait for the reader. Raises Unwritten for stdout; ignores errors of stderr."""
    rest = memoryview(text.encode("utf-8", "surrogateescape"))
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:
            select.select((), (fd,), ())
        except OSError as error:
            if fd == 1:
                raise Unwritten(error.strerror) from None
            return


def complain(text: str) -> None:
    write_out(2, f"overlord: {text}\n")


def find_files(draft: Draft, main: str) -> Iterator[str]:
    """Yield the main file, and once the draft holds that, the files of its configdir, broken links too."""
    yield main
    unread = r"\..*|.*~|.*\.(bak|swp)|.*\.dpkg-.*"
    try:
        folder = parse_text(draft.setting("configdir"))
        paths = [os.path.join(folder, name) for name in sorted(os.listdir(folder)) if not re.fullmatch(unread, name)]
        yield from [path for path in paths if os.path.isfile(path) or not os.path.exists(path)]
    except Mistake:  # `validate` reports it
        pass
    except OSError as error:
        if error.errno != errno.ENOENT:
            draft.blame("overlord", "configdir", f"{error.filename}: {error.strerror}")


def read_files(path: str | None, environment: Mapping[bytes, bytes], ask: bool = False) -> Draft:
    """Read the configuration. `ask`: where no file is named, that of the overlord that runs here."""
    draft = Draft({decode(key): decode(value) for key, value in environment.items()})
    named = path or draft.environment.get("OVERLORD_CONFIG")
    if ask and not named:
        answer: list[str] = []
        call_or(EX_UNAVAILABLE, ask_overlord, None, ["version"], answer.append, True)
        named = "".join(answer[1:])
    for file in find_files(draft, named or DEFAULT_CONFIG):
        try:
            draft.read_text(file, slurp(file))
        except OSError as error:
            if named or file != DEFAULT_CONFIG or error.errno != errno.ENOENT:
                draft.refuse_file(file, f"cannot be read: {error.strerror}")
    return draft


def read_config(path: str | None, environment: Mapping[bytes, bytes], command: list[str]) -> tuple[Config, list[str]]:
    """Return the configuration, with a main command, and its files: none only with that command. Raises Mistakes."""
    draft = read_files(path, environment)
    if not draft.files and not command:
        text = "there is no such file, nothing in /etc/overlord/ and no COMMAND; overlord.py help shows an example"
        draft.refuse_file(DEFAULT_CONFIG, text)
    config = draft.validate()
    if command:
        daemons = [name for name in config.order if config.units[name].kind == "daemon"]
        config.units[MAIN] = main_spec(command, daemons)
        config.order.append(MAIN)
    return config, draft.files


def warn_of_writers(files: list[str], configdir: str) -> Iterator[str]:
    """Warn, as root, of files and folders of the configuration that others can write."""
    paths = [configdir, *(path for file in files for path in (os.path.dirname(file) or ".", file))]
    for path in dict.fromkeys(paths if os.geteuid() == 0 else ()):
        if not (found := call_or(None, os.stat, path)):
            continue
        others, is_folder = found.st_mode & (0o022 if found.st_gid else 0o002), os.path.isdir(path)
        # In a sticky folder others cannot replace root's files, only add some, which matters in the configdir.
        if is_folder and found.st_mode & 0o1000 and os.path.abspath(path) != os.path.abspath(configdir):
            others = 0
        if (found.st_uid or others) and (is_folder or os.path.isfile(path)):
            yield f"{path} can be written by others than root, who can run anything as root with it"


def needed_programs(cmd: str) -> Iterator[tuple[str, str]]:
    """Yield the programs that a shell surely looks up for a `cmd`, each with what may be meant instead."""
    if quoted := re.fullmatch(r"'([^']*)'|\"([^\"$`\\]*)\"", cmd):
        yield quoted[quoted.lastindex or 0], ": the quotes make one word of it, leave them out"
        return
    parts = re.split(r"\s;\s", cmd) if re.fullmatch(r"[^'\"()\n]*", cmd) else [cmd]
    for number, part in enumerate(parts):
        if not (program := first_program(re.sub(r"^exec\s+(?!-)", "", part))):
            return  # behind cd or export others are found
        yield program, ": `;` begins no comment inside a value" if number else ""


LOCAL = ("", "localhost", "127.0.0.1", "0.0.0.0", "::1", "::")


def warn_of_image(config: Config, environment: Mapping[bytes, bytes]) -> Iterator[str]:
    """Warn of programs, users, folders and files that the image lacks, of probes that always pass, and of units that
    can never do what they are for."""
    needed = {dep for unit in config.units.values() for dep, _ in unit.deps}
    ports: dict[str, str] = {}  # of `serve` -> unit
    listens = {(each.port or each.path, each.host in LOCAL or each.host): section_of(unit)
               for unit in config.units.values() for each in unit.listen}  # fmt: skip
    for name, unit in config.units.items():
        for port in re.findall(r"overlord\.py serve (?:\S+:)?(\d+)$", unit.cmd):
            if ports.setdefault(port, name) != name:
                yield f"{name}: {ports[port]} serves at port {port} too"
        pairs = () if unit.env_file or unit.secrets else unit.env
        found = {**environment, **{os.fsencode(key): os.fsencode(value) for key, value in pairs}}
        for program, hint in needed_programs(unit.cmd):
            paths = [os.path.join(unit.dir or ".", decode(path)) for path in find_paths(os.fsencode(program), found)]
            if not any(os.path.isfile(path) and os.access(path, os.X_OK) for path in paths):
                yield f"{name}: cmd: {program} is not there, or not executable{hint}"
        try:
            other = identity(unit.uid, unit.gid)[0] not in (None, os.geteuid())
            if other and os.geteuid():
                yield f"{name}: uid: only root can become another user, and this is user {os.geteuid()}: leave uid out"
            elif other and "overlord.py serve" in unit.cmd:
                yield f"{name}: uid: only root and overlord's own user may ask overlord: leave uid out"
        except StartError as error:
            yield f"{name}: {error}"
        for probe in [each for each in (unit.ready, unit.health, *unit.wait_for) if each]:
            keeper = listens.get((probe.port or probe.path, probe.host in LOCAL or probe.host))
            if keeper and probe.kind != "http":
                holder = "overlord itself" if keeper == section_of(unit) else f"overlord itself, for [{keeper}],"
                yield f"{name}: {probe.text} always passes, since {holder} listens there: use http: or notify"
            elif keeper == section_of(unit) and unit.instance:
                yield f"{name}: {probe.text} passes when any instance answers, since all share that socket: see warmup"
        if unit.dir and not os.path.isdir(unit.dir):
            yield f"{name}: dir {unit.dir}: no such folder"
        folders = dict.fromkeys(path for path in (unit.stdout, unit.stderr) if path[0] == "/" and os.path.isdir(path))
        yield from (f"{name}: {path} is a folder, not a file for the output" for path in folders)
        missing = [path for path in unit.env_file if path[0] != "-" and not os.path.exists(path)]
        yield from (f"{name}: env_file {path} is not there yet: it is read at each start" for path in missing)
        if unit.kind == "script" and name not in needed and not unit.schedule:
            yield f"{name}: no unit depends on this script, so it never runs"


def warn_of_doubts(draft: Draft) -> Iterator[str]:
    """Warn of values that are valid and surely not meant."""
    # Options ("": any value, as it is); what is not meant in their values, quoted parts aside; what to say.
    doubts = (
        ("cmd stop_cmd", r"(?s)\A(?!.*<<).*[^\\\n]\n\s*-",
         "a line that begins with '-' is a command of its own: to continue the line before, end that with \\"),
        ("cmd stop_cmd ready health uid gid dir stdout stderr pidfile schedule",
         rf"(?s)\A(?!.*<<).*\n\s*({'|'.join(BY_KIND['daemon'])})\s+=",
         "an indented line continues the value before it: begin an option at the left margin"),
        ("dir uid gid env_file stdout stderr pidfile", r"\A[^\n]*\s#[^\n]*\Z",
         "# begins no comment inside a value: give the comment a line of its own"),
        ("cmd", r"(?<![&\\])&\s*\Z", "with an & at the end it goes into the background, and counts as ended"),
        ("env", r",\s*[A-Z_][A-Z0-9_]*=", "what follows the comma is a part of the value: write one KEY=value a line"),
        ("", r"%\((?!asctime|level|message|name\)|process\)|thread|module|line|file|func)\w+\)\d*[sd]|\$\(\(?circus\.",
         "%(...)s and $(circus...) are not expanded here: write ${...}"),  # in Python's log formats they are meant
    )  # fmt: skip
    for section, options in draft.sections.items():
        for name, (_, (file, line), text) in options.items():
            bare = re.sub(r"'[^']*'|\"(?:\\.|[^\"\\])*\"", "''", text)
            for names, pattern, doubt in doubts:
                if re.search(pattern, bare if names else text) and name in (names.split() or [name]):
                    yield f"{draft.files[file]}:{line}: [{section}] {name}: {doubt}"


def warn_of_stop_time(config: Config) -> Iterator[str]:
    chains: dict[str, tuple[float, tuple[str, ...]]] = {}  # unit -> seconds, and the daemons stopped in that time
    for name in config.order:
        unit = config.units[name]
        seconds, terms = max((chains[dep] for dep, _ in unit.deps), default=(0.0, ()))
        if unit.kind == "daemon":
            seconds, terms = seconds + unit.stop_timeout, (f"{name} {spell_duration(unit.stop_timeout)}", *terms)
        chains[name] = seconds, terms
    longest, terms = max(chains.values(), default=(0.0, ()))
    total, needed = config.settings.shutdown_timeout, -int(-(longest + SWEEP_TIMEOUT) // 1)
    if longest > total - sweep_share(total) + 1e-6:
        hint = f"set shutdown_timeout = {needed}s, and use docker stop -t {needed + 1}"
        terms = (*terms, f"{spell_duration(SWEEP_TIMEOUT)} for what is left")
        yield f"stopping may take {' + '.join(terms)}, and shutdown_timeout is {spell_duration(total)}: {hint}"


def warn_of_shell() -> str:
    name = decode(call_or(b"", slurp, "/proc/1/comm")).strip() if os.getppid() == 1 else ""
    text = f"PID 1 is {name}, which passes no signal on, so docker stop ends in SIGKILL: write ENTRYPOINT "
    text += '["/sbin/overlord.py"] in the Dockerfile, in this form, or start overlord with exec'
    return text if name in ("sh", "ash", "bash", "busybox", "dash") else ""


def doubt_verb(word: str) -> str:
    """Return what to say of a word that is nearly a verb, here or of supervisorctl."""
    near = suggest(FOREIGN_VALUES.get(word, word), VERBS)
    return near and f"unknown verb {word}{near}"


def doubt_command(word: str, environment: Mapping[bytes, bytes]) -> str:
    """Return what to say of a main command that is no program, but nearly a verb."""
    if any(map(os.path.exists, find_paths(os.fsencode(word), environment))):
        return ""  # COST: to look for a verb like a long path takes 1 ms
    doubt = doubt_verb(word)
    return doubt and f"{doubt} For a program of that name: overlord.py -- {word}"


def run(path: str | None, command: list[str], sure: bool = False) -> int:
    """Be the init. `sure`: the main command is not a misspelt verb. Return the exit code."""
    import _random  # COST: `random` imports a dozen others

    environment = found_environment()
    read_all = partial(read_config, path, environment, command)
    try:
        kernel = Kernel(environment, FOUND_MASK)
        named = path or environment.get(b"OVERLORD_CONFIG")
        if not named:  # before mistakes of the configuration
            refuse_second(locate_socket("abstract"), command)
        config, files = read_all()
        settings = config.settings
        if settings.socket:
            refuse_second(locate_socket(settings.socket), command)
        doubt = doubt_command(command[0], environment) if command and not sure else ""
        require(not doubt or any(unit.kind == "script" for unit in config.units.values()), doubt)  # it may install that
        init, fleet = Init(), Fleet(config, _random.Random().random)
        output = Output(Watch(), settings.log_level, settings.log_format, colour=not environment.get(b"NO_COLOR"))
        control = Control(output, fleet, kernel, lambda: read_all()[0])
        control.named = os.path.abspath(files[0]) if named else ""
        loop = Loop(fleet, kernel, init, output, control)
        unheard = control.open_socket(settings.socket) if settings.socket else ""
    except OSError as error:  # out of descriptors, for example
        raise StartError(f"cannot start: {error}: exiting with code 1") from None
    for warning in (doubt, init.warning, warn_of_shell(), unheard, *warn_of_writers(files, settings.configdir)):
        if warning:
            output.log.message("warning", "", warning)
    gc.freeze()  # COST: no collection looks at the objects made so far
    gc.enable()
    return loop.run_until_exit()


Asked = namedtuple("Asked", "path options words")  # of a verb: the file of -c, its options, its other words


def check(asked: Asked) -> None:
    environment = found_environment()
    draft = read_files(asked.path, environment, ask=True)
    config, files = draft.validate(), draft.files
    warnings = [] if files else [f"there is no {DEFAULT_CONFIG}: nothing but a COMMAND can be run"]
    warnings += [*warn_of_doubts(draft), *warn_of_writers(files, config.settings.configdir)]
    for warning in (*warnings, *warn_of_image(config, environment), *warn_of_stop_time(config)):
        complain(f"warning: {warning}")
    source = "" if COMPILED else os.path.abspath(__file__)
    if source and os.access(os.path.dirname(source), os.W_OK):
        once = f"overlord.py compile {source}"
        complain(f"note: each start and health check compile this source (0.1 s, 30 MB); once and for all: {once}")
    kinds = [unit.kind for unit in config.units.values()]
    counts = f"{count_of(kinds.count('daemon'), 'daemon')}, {count_of(kinds.count('script'), 'script')}"
    write_out(1, f"overlord: {', '.join(files) or 'no configuration'}: OK, {counts}\n")


def make_first_line(python: str) -> bytes:
    """Return the first line of a compiled overlord, which has `python` run the code behind it."""
    # LINUX: all after the first blank is one argument: execve(2).
    text = "#!{} -ISc" + "import sys,marshal as m;exec(m.loads(open(sys.argv[1],'rb').read()[{:3}:]))\n"
    return os.fsencode(text.format(python, len(os.fsencode(text.format(python, 0)))))


def compile_into(asked: Asked) -> None:
    """Write overlord as an executable file of compiled code, for the Python that runs this.
    If that Python's path does not fit the first line, or has a blank, a link beside the file leads to it."""
    if COMPILED:
        raise Mistake("this is compiled already: copy the source here again and compile that")
    path, python = asked.words[0], os.path.realpath(sys.executable)
    target = os.path.realpath(path)
    new, link = f"{target}.new", f"{target}.python"
    room = 127 - len(make_first_line(""))  # of all bytes, `#!` and newline included: execve(2)
    fitting = [name for name in (python, link) if re.fullmatch(rb"\S{1,%d}" % room, os.fsencode(name))]
    try:
        if not fitting:
            text = f"needs a path of {room - 7} bytes at most, without blanks, since that of {python} does not fit"
            raise OSError(errno.ENAMETOOLONG, text)
        if os.path.exists(target) and not os.path.isfile(target):
            raise OSError(errno.EEXIST, "is no regular file")
        found = call_or(b"", slurp, target)
        if found and DEFAULT_CONFIG.encode() not in found:
            raise OSError(errno.EEXIST, "is another program, and compile would replace it with overlord")
        future = b"from __future__ import annotations\n"  # COST: a module of its own, 0.2 ms
        source = slurp(__file__).replace(future, b"\n", 1)
        code = compile(source, target, "exec", annotations.compiler_flag, dont_inherit=True, optimize=2)
        with open(new, "wb") as file:
            file.write(make_first_line(fitting[0]) + marshal.dumps(code))
        os.chmod(new, 0o755)
        if os.path.islink(link):
            os.unlink(link)
        if fitting[0] == link:
            os.symlink(python, link)
        os.replace(new, target)
    except OSError as error:
        call_or(None, os.unlink, new)
        raise StartError(f"compile: {error.filename2 or path}: {error.strerror}") from None
    beside = f", which the link {link} leads to" if fitting[0] == link else ""
    write_out(1, f"overlord: {path}: compiled for {python}{beside}; run it as a program, without python3\n")


def execute_as(asked: Asked) -> int:
    """Become a command with what a unit's process gets. Return an exit code where that fails."""
    name, *command = asked.words
    environment = found_environment()
    draft = read_files(asked.path, environment, ask=True)
    units = draft.validate(name).units
    if name not in units:
        team = [each for each, spec in units.items() if spec.instance and section_of(spec).endswith(f":{name}")]
        fault = f"{name} has instances {spell_list(team)}: name one"
        where = draft.files[0] if draft.files else DEFAULT_CONFIG
        raise Mistake(fault if team else f"there is no unit {name} in {where}{suggest(name, units)}")
    kernel = Kernel(environment, FOUND_MASK)
    kernel.shed_signals()
    try:
        environment = kernel.take_place(units[name], {})
        environment.pop(b"OVERLORD_NAME")  # it is not the unit's process
        why, code = execute(command, environment)
    except (OSError, StartError) as error:
        why, code = str(error), 1
    complain(f"{name}: {why}")
    return code


def show_help(asked: Asked) -> None:
    """Print how all is used, or what a word means: here, for another supervisor, or in the help of what names it."""
    sections = {"o": "[overlord]", "s": "[script:NAME]", "d": "[daemon:NAME]"}
    helps = []  # name and text
    for option in OPTIONS:
        where = ", ".join(sections[kind] for kind in option.kinds)
        head = f"{option.name}  in {where}, default: {option.default or option.shown}"
        helps.append((option.name, f"{head}\n  {option.help}\n"))
    helps += [(verb.name, spell_verb(verb)) for verb in VERBS.values()]
    word = "".join(asked.words)
    known = {word, FOREIGN_VALUES.get(word, word)}
    found = [text for name, text in helps if name in known] if word else [spell_usage()]
    if not found:
        named = rf"\b({'|'.join(map(re.escape, known))})\b"
        mentions = [text for _, text in helps if re.search(named, text)]
        found = [f"{word}: {FOREIGN[word]}\n"] if word in FOREIGN else mentions
    require(found, f"there is no verb or option {word}{suggest(word, dict(helps))}")
    write_out(1, "".join(found))


def spell_verb(verb: Verb) -> str:
    head = f"  {verb.name} {verb.words}".ljust(27)
    return f"{head}{verb.help}\n" if head.endswith(" ") else f"{head}\n{' ' * 27}{verb.help}\n"


def spell_usage() -> str:
    parts = ("".join(spell_verb(verb) for verb in VERBS.values() if bool(verb.asks) == asks) for asks in (False, True))
    return USAGE.format(*parts)


# ------------------------------------------------------------------------------------------------------- the client


def dial(place: str, words: list[str], timeout: float = ASK_TIMEOUT) -> Any:
    """Return a connection with the request sent. Raises OSError; PermissionError if a stranger listens."""
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    limit = int(timeout).to_bytes(8, sys.byteorder) + bytes(8)  # a struct timeval
    for option in (_socket.SO_SNDTIMEO, _socket.SO_RCVTIMEO):  # for connect(2) to a full queue too: socket(7)
        sock.setsockopt(_socket.SOL_SOCKET, option, limit)
    try:
        sock.connect(place)
    except PermissionError:
        raise PermissionError(errno.EACCES, "only root and overlord's own user may ask", spell_place(place)) from None
    pid, uid = look_at_peer(sock)
    if not pid or (uid not in (0, os.geteuid()) and pid != 1):
        who = f"user {uid} listens there: ask as that user" if pid else "another container listens there"
        raise PermissionError(errno.EPERM, who, spell_place(place))
    try:
        sock.sendall(f"{' '.join(words)}\n".encode("utf-8", "surrogateescape"), MSG_NOSIGNAL)
    except BrokenPipeError:  # the answer says why
        pass
    return sock


def refuse_second(place: str, command: list[str]) -> None:
    """Raise Mistake if an overlord of this container listens there, even if this user may not ask it."""
    try:
        answer = dial(place, ["version"], 2.0).recv(1000, MSG_WAITALL)  # RACE: it may come in pieces
        found = answer.startswith(b" overlord") or b"\n=%d\n" % EX_NOPERM in answer
    except OSError as error:  # does anybody listen at a file that this user may not open?
        known = error.errno == errno.EACCES and os.path.exists("/proc/net/unix")
        found = known and f" {os.path.realpath(place)}\n".encode() in slurp("/proc/net/unix")
    if found:
        doubt = doubt_verb(command[0]) if command else ""
        require(not doubt, doubt)
        wrong = f"there is no verb {command[0]}, and " if command else ""
        more = "; see overlord.py status; for a second one: -c FILE with [overlord] socket = /PATH"
        raise Mistake(f"{wrong}an overlord runs here already, and answers at {spell_place(place)}{more}")


def places_to_ask(path: str | None) -> Iterator[str]:
    """Yield the socket that the file names; without a file the abstract one, then that of the default file."""
    if path:
        open(path, "rb").close()  # raises OSError
    else:
        yield locate_socket("abstract")
    try:
        socket = read_files(path, found_environment()).setting("socket")
    except Mistake as mistake:
        raise OSError(errno.EINVAL, f"[overlord] socket: {mistake}", path or DEFAULT_CONFIG) from None
    if path and socket == "none":
        raise OSError(errno.ENOENT, "socket = none", path)
    if path or socket not in ("abstract", "none"):
        yield locate_socket(socket)


def send_request(path: str | None, words: list[str]) -> Any:
    """Return a connection to the first overlord that answers."""
    refused, tried = None, []
    for place in places_to_ask(path):
        tried.append(spell_place(place))
        try:
            return dial(place, words)
        except OSError as error:
            if error.errno == errno.EAGAIN:
                raise
            refused = error if isinstance(error, PermissionError) else refused
    hint = "does overlord run here? Its log says if it has no socket. Outside: docker exec CONTAINER overlord.py status"
    raise refused or OSError(errno.ENOENT, f"nobody answers at {' or '.join(tried)}: {hint}")


def ask_overlord(path: str | None, words: list[str], take: Callable[[str], Any], quiet: bool = False) -> int:
    """Pass each line to `take`, errors to stderr unless `quiet`, and return the exit code. Raises OSError."""
    sock, rest, poll, patient = send_request(path, words), b"", select.poll(), False
    endless = words[0] in ("logs", "events")  # `| head` ends them, or the end of overlord
    poll.register(sock.fileno(), select.POLLIN)
    poll.register(1, 0)  # for POLLERR, when nobody reads stdout any more: poll(2)
    while True:
        if patient and sock.fileno() not in dict(poll.poll()):
            if endless:
                return 0
            raise Unwritten(os.strerror(errno.EPIPE))
        if not (data := sock.recv(65536)):
            if patient and endless:
                return 0
            raise OSError(errno.EPIPE, "overlord hung up before it had answered")
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            kind, text = line[:1], decode(line[1:])
            if kind == b"=":
                return range(256).index(int(text))  # raises ValueError for any other number
            if kind == b"+":  # the rest may come later
                patient = True
            elif kind != b"!":
                take(text)
            elif not quiet:
                complain(text)


# How a state looks: its colour on a terminal and, by number, on the page (2: dim); its colour in `graph --dot`; its
# character in `timeline`.
LOOKS = {
    IDLE: (2, "white", " "), WAITING: (33, "khaki", "\u00b7"), STARTING: (33, "khaki", "\u2592"),
    RUNNING: (36, "lightblue", "\u2592"), OK: (32, "palegreen", "\u2588"), STOPPING: (33, "khaki", " "),
    BACKOFF: (33, "khaki", "~"), STOPPED: (2, "lightgrey", " "), DONE: (2, "lightgrey", "\u2588"),
    FAILED: (31, "salmon", "x"),
}  # fmt: skip
SETTLED = (OK, DONE, FAILED)  # a start ends in one of these


def paint(state: str) -> str:
    """Colour the name of a state if stdout is a terminal and NO_COLOR is not set."""
    return f"\x1b[{LOOKS[state][0]}m{state}\x1b[0m" if os.isatty(1) and not os.environ.get("NO_COLOR") else state


def count_columns() -> int:
    """Return the width of the terminal, or a huge number if unknown."""
    return (os.get_terminal_size(1).columns if os.isatty(1) else 0) or sys.maxsize


def read_records(lines: Iterable[str]) -> Units:
    """Return the records in an answer by name of the unit. An empty number is None. Beside the fields:
    `story`, from when till when, in seconds from the start, was what; `said`, the last lines."""
    units: Units = {}
    for fields in (line.split("\t") for line in lines):
        pairs = zip(RECORD.items(), fields)
        unit = {field: None if not text and parse in (int, float) else parse(text) for (field, parse), text in pairs}
        unit["last"] = unit["last"] or None
        now, *more = fields[len(RECORD) :]
        steps = [event.split(" ", 1) for event in more if event[0] != "|"]
        ends = [*(begin for begin, _ in steps[1:]), now]
        unit["story"] = [(float(begin), float(end), what) for (begin, what), end in zip(steps, ends)]
        unit["said"] = [line[1:] for line in more if line[0] == "|"]
        units[fields[0]] = unit
    return units


def draw_status(asked: Asked, units: Units) -> str:
    if "json" in asked.options:
        return spell_array(units, RECORD)
    return draw_units(units.values(), ("name", "kind", "state", "pid", "uptime", "restarts", "memory", "why"))


def spell_fields(unit: dict[str, Any], fields: Iterable[str]) -> list[str]:
    spell = {"uptime": spell_duration, "processor": spell_duration, "memory": spell_size}
    return ["" if unit[field] is None else spell.get(field, str)(unit[field]) for field in fields]


def draw_units(units: Iterable[dict[str, Any]], columns: Iterable[str]) -> str:
    return draw_table([[each.upper() for each in columns], *(spell_fields(unit, columns) for unit in units)])


def draw_table(rows: list[list[str]]) -> str:
    """Return aligned columns. A terminal gets coloured states, and lines that are cut to fit."""
    widths, most = [max(map(len, column)) for column in zip(*rows)], count_columns()
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    text = "".join(line + "\n" if len(line) <= most else line[: most - 1] + "\u2026\n" for line in lines)
    return re.sub(rf"(?m)(?<=  )({'|'.join(STATES)})(?=  |$)", lambda match: paint(match[0]), text)


def draw_loads(units: Units, before: Units, order: str) -> list[str]:
    """Return a line about all units, and a table of them with the load since the records before, or since the start."""
    for name, unit in units.items():
        used, took = ((unit[key] or 0) - (before.get(name, {}).get(key) or 0) for key in ("processor", "uptime"))
        unit["cpu%"] = round(100 * max(0, used) / took, 1) if took > 0 and unit["processor"] is not None else None
        unit["procs"] = unit["processes"]
        unit["why | last line"] = " | ".join(filter(None, (unit["why"], unit["last"])))
    states = [unit["state"] for unit in units.values()]
    counts = [f"{states.count(state)} {spell_state(state)}" for state in (OK, *sorted({*states} - {OK}))]
    head = f"{count_of(len(units), 'unit')}: {', '.join(counts)} | q: end, c: by CPU%, m: by MEMORY"
    found = sorted(units.values(), key=lambda unit: -(unit.get(order) or 0))
    table = draw_units(found, ("name", "state", "pid", "cpu%", "memory", "procs", "uptime", "why | last line"))
    return [head[: count_columns()], *table.split("\n")[:-1]]


def draw_top(asked: Asked, units: Units) -> str:
    """Return what `top` shows in a pipe; in a terminal, show it there until somebody ends it."""
    live = os.isatty(0) and os.isatty(1)  # PYTHON: python3-minimal has no termios, hence stty(1)
    found = os.popen("stty -g || echo 'overlord: without stty(1), top is shown once' >&2").read() if live else ""
    if not found:
        return "\n".join([*draw_loads(units, {}, "")[1:], ""])
    heard, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake)
    for name in ("WINCH", "INT", "TERM", "HUP"):
        signal.signal(SIGNALS[name], lambda *_: None)
    try:
        os.system("stty -icanon -echo -isig -ixon min 1")
        write_out(1, "\x1b[?1049h\x1b[?25l\x1b[?7l")  # xterm's: alternate screen, no cursor, no wrapping
        before: Units = {}
        order, due, key = "cpu%", time.monotonic() + 1, b" "
        while key not in (b"", b"q", b"\x03"):  # the end of the input, q, Ctrl-C
            rows, height = draw_loads(units, before, order), os.get_terminal_size(1).lines or 24
            rows = rows if len(rows) <= height else [*rows[: height - 1], f"... and {len(rows) - height + 1} more"]
            rows += [""] * (height - len(rows))
            write_out(1, "\x1b[H" + "\r\n".join(f"\x1b[K{row}" for row in rows))
            ready = select.select((0, heard), (), (), max(0.0, due - time.monotonic()))[0]
            for number in set(os.read(heard, 64) if heard in ready else b"") - {SIGNALS["WINCH"]}:
                raise OSError(errno.EINTR, f"top was ended by {spell_signal(number)}, as a shutdown ends all processes")
            key = os.read(0, 1) if 0 in ready else b" "
            order = {b"c": "cpu%", b"m": "memory"}.get(key, order)
            if time.monotonic() >= due:
                lines: list[str] = []
                due = time.monotonic() + 1
                if ask_overlord(asked.path, ["status", *asked.words], lines.append, quiet=True) not in (0, 3):
                    raise Mistake(f"there is no unit {' or '.join(asked.words)} any more")
                before, units = units, read_records(lines)
    finally:
        os.system(f"stty {found}")
        write_out(1, "\x1b[?7h\x1b[?25h\x1b[?1049l")
    return ""


def spell_array(units: Units, fields: Iterable[str]) -> str:
    return "[" + ",\n ".join(spell_json({field: unit[field] for field in fields}) for unit in units.values()) + "]\n"


def draw_graph(asked: Asked, units: Units) -> str:
    if "dot" not in asked.options:
        return draw_tree(units)
    out = "digraph overlord {\n  rankdir=LR; node [shape=box, style=filled];\n"
    for name, unit in units.items():
        out += f'  "{name}" [label="{name}\\n{unit["state"]}", fillcolor={LOOKS[unit["state"]][1]}];\n'
        out += "".join('  "{}" -> "{}" [label="{}"];\n'.format(name, *dep.split(":")) for dep in unit["deps"])
    return out + "}\n"


def draw_tree(units: Units) -> str:
    """Return each unit that none needs, above those that it needs."""
    needed = {dep.partition(":")[0] for unit in units.values() for dep in unit["deps"]}
    out, shown = "", set()
    todo = [(name, "", "") for name in reversed(list(units)) if name not in needed]
    while todo:
        label, first, rest = todo.pop()  # `first` is the margin of this line, `rest` of the lines below it
        name = label.partition(":")[0]
        state, deps = units[name]["state"], units[name]["deps"]
        again = name in shown and deps
        out += f"{first}{label}  {paint(state)}{' (its dependencies are above)' if again else ''}\n"
        for dep in reversed([] if again else deps):
            arms = ("\u2514\u2500 ", "   ") if dep == deps[-1] else ("\u251c\u2500 ", "\u2502  ")
            todo.append((dep, rest + arms[0], rest + arms[1]))
        shown.add(name)
    return out


def draw_why(asked: Asked, units: Units) -> str:
    """Return why a unit and those that it waits for are in their states, and the output of the last of them."""
    following, margin, out = asked.words[0], "", ""
    if following not in units:
        team = spell_list([name for name in units if name.rpartition("-")[0] == following])
        hint = f", but {team}: name one" if team else suggest(following, units)
        raise Mistake(f"there is no unit {following}{hint}")
    while following in units:
        unit = units.pop(following)
        why = f"{'' if unit['state'] == WAITING else ':'} {unit['why']}" if unit["why"] else ""
        since = spell_duration(unit["for"])
        out += f"{margin}{unit['name']} is {spell_state(unit['state'])}{why} (for {since})\n"
        out += "" if unit["cause"] in unit["why"] else f"{margin}restarted last: {unit['cause']}\n"
        following, margin = unit["blocked"], margin + "  "
    words: list[str] = []
    ask_overlord(asked.path, ["logs", "-n", "5", unit["name"]], words.append, quiet=True)
    out += f"{margin}its last words:\n" if words else ""
    return out + "".join(f"{margin}| {line}\n" for line in words)


def draw_timeline(asked: Asked, units: Units) -> str:
    if "json" not in asked.options:
        return draw_bars(units)
    for unit in units.values():
        unit["events"] = [{"at": begin, "what": what} for begin, _, what in unit["story"]]
    return spell_array(units, ("name", "events"))


def draw_bars(units: Units) -> str:
    """Return a bar for each unit, on a time axis as long as the start took: what comes later is at its end."""
    stories: dict[str, list[tuple[float, float, str]]] = {name: unit["story"] for name, unit in units.items()}
    told, texts, rows = [story for story in stories.values() if story], list(map(spell_story, stories.values())), []
    ends = [story[-1][0] for story in told if story[0][0] < 1 and story[-1][2] in SETTLED]
    total = max(ends or [story[-1][1] for story in told], default=0) * 1.1 or 1e-9
    beside = sum(max(map(len, column), default=0) for column in (stories, texts))
    width = max(20, min(count_columns() - beside - 4, 60))
    for (name, story), text in zip(stories.items(), texts):
        bar = ""
        for begin, end, what in story:
            first, last = (int(min(1, at / total) * (width - 1)) for at in (begin, end))
            bar = bar[:first].ljust(first) + LOOKS[what.split()[0]][2] * (last + 1 - first)
        rows.append([name, bar, text])
    return draw_table([*rows, ["", f"0{spell_duration(total).rjust(width - 1)}", ""]])


def spell_story(story: list[tuple[float, float, str]]) -> str:
    if not story:
        return "not asked for"
    waits = [(end - begin, what) for begin, end, what in story[:-1] if what.startswith(f"{WAITING} for ")]
    took, what = max(waits, default=(0.0, ""))
    longest = f", {spell_duration(took)} for {what.partition(' for ')[2]}" if took >= 0.001 else ""
    return f"{story[-1][2].split()[0]} at {spell_duration(story[-1][0])}{longest}"


Seen = namedtuple("Seen", "healthy health version orphans units")
METRICS = (  # of a unit: name (a counter's ends with _total), field of its record, and what it is
    ("starts_total", "starts", "Starts."), ("restarts_total", "restarts", "After an end that nobody asked for."),
    ("last_exit_code", "code", "Of its last process that ended; 128+N for a death by signal N."),
    ("start_time_seconds", "began", "When its process was started, since 1970."),
    ("cpu_seconds_total", "processor", "Processor time of its processes, and of their children that have ended."),
    ("memory_bytes", "memory", "Resident memory of its processes."), ("processes", "processes", "Their number."),
)  # fmt: skip
# Colours stand for light and dark alike: greys that let the browser's own background through, and states that differ
# enough from white and from black.
PAGE_STYLE = """:root{color-scheme:light dark}.c2{--c:#6e7781}.c31{--c:#cf222e}.c32{--c:#1a7f37}.c33{--c:#9a6700}
.c36{--c:#0969da}body{margin:0 auto;max-width:1200px;padding:12px;font:15px/1.45 system-ui,sans-serif}
body{overflow-wrap:anywhere}h1,h2,h3,p,pre{margin:0 0 6px;font-size:1em}h2{margin-top:24px}
h1,b{border:1px solid var(--c);border-left-width:9px;border-radius:6px;padding:1px 7px}h1{overflow:auto;max-height:9em}
b{font-weight:500;white-space:nowrap}table{width:100%;border-collapse:collapse}td,th{padding:4px 12px 4px 0;
text-align:left;border-top:1px solid #8886}thead th{border:0}.number{text-align:right;white-space:nowrap}
footer,p,thead th{opacity:.75}footer,p,thead th,pre{font-size:13px}pre{padding:8px;background:#8882;overflow:auto;
max-height:85vh}pre:not([tabindex]){white-space:pre-wrap}#lost{position:sticky;top:0;z-index:1;margin:0;opacity:1;
background:#b31d28;color:#fff;text-align:center}#lost:not(:empty)+main{filter:grayscale(1);opacity:.6}
@media(max-width:760px){tr{display:grid;grid-template-columns:minmax(0,1fr) 6.7em 6.2em}
.why:empty,thead .why,.number~.number{display:none}td.why{grid-column:1/-1;border:0;padding-left:1em}}"""
# It changes only what differs in the page: places scrolled to stay, and what is selected.
PAGE_SCRIPT = """
const parts = page => [...page.querySelectorAll('h1, h3, th, td, pre, footer')]
let since = new Date, ask = document.onvisibilitychange = async () => {
  if (!document.hidden) try {
    const answer = await fetch('', {cache: 'no-store', signal: AbortSignal.timeout(9000)})
    if (!answer.ok) throw answer
    const page = new DOMParser().parseFromString(await answer.text(), 'text/html')
    const old = parts(document), fresh = parts(page)
    if (old.length != fresh.length) document.querySelector('main').replaceWith(page.querySelector('main'))
    else old.forEach((part, i) => {
      if (!part.isEqualNode(fresh[i])) part.innerHTML = fresh[i].innerHTML, part.className = fresh[i].className
    })
    document.title = page.title, lost.textContent = '', since = new Date
  } catch { lost.textContent = `no answer since ${since.toLocaleTimeString()}: what stands here is old` }
}
setInterval(ask, 3000)
"""
PAGE_SCRIPT_HASH = "yqIKn+bh3fW8sdEL8IIwn2NpDcmcPTt7Pdwcza2HJUw="  # SHA-256, for the Content-Security-Policy


def read_seen(lines: Iterable[str]) -> Seen:
    """Return the answer to `serve`, see `Control.do_serve`."""
    head, build, *records = lines
    (sick, health), (version, orphans) = head.split("\t"), build.split("\t")
    return Seen(sick == "0", health, version, int(orphans), read_records(records))


def draw_metrics(seen: Seen, now: float) -> str:
    """Return Prometheus' text format. `now`: the wall clock's, when the answer came."""
    out, quote = "", {92: "\\\\", 34: '\\"', 10: "\\n"}
    units = [(f'unit="{name.translate(quote)}"', {**unit, "began": unit["pid"] and round(now - unit["uptime"], 2)})
             for name, unit in seen.units.items()]  # fmt: skip
    metrics: list[tuple[str, str, list[tuple[str, Any]]]] = [
        ("build_info", "The version of overlord.", [(f'version="{seen.version.translate(quote)}"', 1)]),
        ("healthy", "1 if overlord.py health says so, else 0.", [("", int(seen.healthy))]),
        ("orphans_reaped_total", "Orphans reaped.", [("", seen.orphans)]),
        ("unit_state", "1 for the state of the unit, else 0.", [
            (f'{label},kind="{unit["kind"]}",state="{state}"', int(unit["state"] == state))
            for label, unit in units for state in STATES]),
        *((f"unit_{name}", what, [(label, unit[field]) for label, unit in units]) for name, field, what in METRICS),
    ]  # fmt: skip
    for name, what, samples in metrics:
        kind = "counter" if name.endswith("_total") else "gauge"
        out += f"# HELP overlord_{name} {what}\n# TYPE overlord_{name} {kind}\n"
        out += "".join(f"overlord_{name}{{{label}}} {value}\n" for label, value in samples if value is not None)
    return out


def escape(text: str) -> str:
    """Return text for HTML; what XML does not allow, as bytes that are not UTF-8, becomes U+FFFD."""
    odd = r'[&<>"]|[^\t\n -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]'
    return re.sub(odd, lambda match: f"&#{ord(match[0])};" if match[0] in '&<>"' else "\ufffd", text)


def badge(state: str) -> str:
    return f'<b class="c{LOOKS[state][0]}">{state}</b>'


def draw_page(seen: Seen, now: float) -> str:
    """Return a page for people: first what is wrong, and why. It needs nothing from elsewhere, and renews itself."""
    state, mark, word = (OK, "\u2714", "healthy") if seen.healthy else (FAILED, "\u2716", "unhealthy")
    columns, rows = "uptime restarts memory processor".split(), ""
    for unit in sorted(seen.units.values(), key=lambda unit: {FAILED: 0, BACKOFF: 1}.get(unit["state"], 2)):
        kind, why = unit["state"], unit["why"]
        why += f", again in {spell_duration(unit['next'])}" if kind == BACKOFF and unit["next"] else ""
        why += f" (for {spell_duration(unit['for'])})" if kind in (*COMING, FAILED) else ""
        cells = "".join(f'<td class="number">{text}</td>' for text in spell_fields(unit, columns))
        rows += (f'<tr><th scope="row">{escape(unit["name"])}</th><td>{badge(kind)}</td>'
                 f'{cells}<td class="why">{escape(why.strip())}</td></tr>\n')  # fmt: skip
    heads = "".join(f'<th scope="col" class="number">{column}</th>' for column in columns)
    said = [f"<h3>{escape(name)}</h3><pre>{escape(chr(10).join(unit['said']))}</pre>"
            for name, unit in seen.units.items() if unit["said"]]  # fmt: skip
    tree = re.sub(r"(?m)  (\w+)(?=$| \(its)", lambda match: f"  {badge(match[1])}", escape(draw_tree(seen.units)))
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>{mark} {word}: overlord</title><style>{PAGE_STYLE}</style><noscript><meta http-equiv="refresh" content="5">
</noscript></head><body><p id="lost" role="status"></p><main>
<h1 class="c{LOOKS[state][0]}">{mark} {escape(seen.health)}</h1>
<table><thead><tr><th scope="col">name</th><th scope="col">state</th>{heads}
<th scope="col" class="why">why</th></tr></thead><tbody>{rows}</tbody></table>
<h2>Last output of what failed</h2>{"".join(said) or "<p>Nothing has failed.</p>"}
<h2>Who needs whom</h2><p>Below each unit is what it needs.</p><pre tabindex="0">{tree}</pre>
<h2>How the start went</h2><p>Dots: waiting; grey: on its way; full: there; ~: in backoff; x: failed.</p>
<pre tabindex="0">{escape(draw_bars(seen.units))}</pre><footer>overlord {escape(seen.version)},
{count_of(seen.orphans, "orphan")} reaped, {time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(now))} UTC</footer></main>
<script>{PAGE_SCRIPT}</script></body></html>
"""


# ------------------------------------------------------------------------------------------------------------- HTTP

SERVED: dict[str, tuple[str, Callable[[Seen, float], str]]] = {  # path -> type and content
    "/health": ("text/plain; charset=utf-8", lambda seen, now: f"{seen.health}\n"),
    "/status": ("application/json", lambda seen, now: spell_array(seen.units, RECORD)),
    "/metrics": ("text/plain; version=0.0.4; charset=utf-8", draw_metrics),
    "/": ("text/html; charset=utf-8", draw_page),
}
UNAVAILABLE = "503 Service Unavailable"
REQUEST = rb"([!-~]+) (?! )(?:https?://[^/? ]*)?([!-~]*) HTTP/1\.\d\r?\n(?:[!-9;-~]+:[^\r\n\0]*\r?\n)*\r?\n"
HEADERS = (
    "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nAllow: GET, HEAD\r\nConnection: close\r\n"
    "Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; connect-src 'self'; script-src "
    f"'sha256-{PAGE_SCRIPT_HASH}'; frame-ancestors 'none'\r\n"
)


def judge_request(heard: bytes) -> tuple[str, str]:
    """Return the status of what was heard, "" if it is not all, and the path."""
    request = re.match(REQUEST, heard)
    if not request:
        large = "431 Request Header Fields Too Large" if len(heard) > REQUEST_MAX else ""
        return "400 Bad Request" if re.search(rb"\n\r?\n", heard) else large, ""
    path = decode(request[2].partition(b"?")[0]) or "/"
    if request[1] not in (b"GET", b"HEAD"):
        return "405 Method Not Allowed", path
    return "200 OK" if path in SERVED else "404 Not Found", path


class Visit:
    """A connection with one request. `steps` yields the epoll events that it waits for."""

    def __init__(self, site: Site, sock: Any) -> None:
        self.site, self.sock, self.watch, self.steps = site, sock, site.watch, self.talk()
        self.idle = True  # nothing was heard yet, or all is said
        self.timer: list[Any] | None = None
        site.visits.append(self)
        self.limit_time()
        self.go_on()

    def limit_time(self) -> None:
        self.timer = self.watch.after(VISIT_TIMEOUT, partial(self.go_on, late=True), self.timer)

    def go_on(self, late: bool = False) -> None:
        try:
            events = self.steps.throw(TimeoutError()) if late else next(self.steps)
            self.watch.on(self.sock.fileno(), events, self.go_on)
        except (StopIteration, OSError):
            self.leave()

    def talk(self) -> Generator[int, None, None]:
        """Hear a request and answer it. What still comes is dropped, or it would cut the answer off. Raises OSError."""
        heard, status, path = b"", "", ""
        try:
            while not status:
                yield select.EPOLLIN
                if not (data := self.sock.recv(REQUEST_MAX)):
                    return
                heard = (heard + data).lstrip(b"\r\n")[: REQUEST_MAX + 1]
                self.idle = not heard
                status, path = judge_request(heard)
        except TimeoutError:
            status = "408 Request Timeout"
        kind, text = "text/plain", f"{status}\n".encode()
        if status == "200 OK":
            status, kind, text = self.site.show(path)
        date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())
        head = f"HTTP/1.1 {status}\r\nDate: {date}\r\nContent-Type: {kind}\r\n{HEADERS}"
        head += f"Content-Length: {len(text)}\r\n\r\n"
        rest = memoryview(head.encode() + (b"" if heard.startswith(b"HEAD ") else text))
        self.limit_time()
        while rest:
            yield select.EPOLLOUT
            rest = rest[self.sock.send(rest, MSG_DONTWAIT | MSG_NOSIGNAL) :]
        self.sock.shutdown(1)  # of sending: shutdown(2)
        self.idle = True
        yield select.EPOLLIN
        while self.sock.recv(REQUEST_MAX):
            yield select.EPOLLIN

    def leave(self) -> None:
        self.steps.close()  # it refers to itself
        self.watch.cancel(self.timer)
        self.watch.off(self.sock.fileno())
        self.sock.close()
        self.site.visits.remove(self)


class Site:
    """Reads requests, and answers them with what it hears over a link from the process that may ask overlord."""

    def __init__(self, listeners: Iterable[Any], link: Any) -> None:
        self.watch, self.link = Watch(), link
        self.visits: list[Visit] = []  # the oldest first
        self.seen: Seen | None = None  # None: overlord does not answer
        self.since, self.came = -SERVED_REST, 0.0  # when that came
        self.texts: dict[str, bytes] = {}  # drawn from that
        self.watch.on(link.fileno(), select.EPOLLHUP, lambda: True)  # there is nobody at the other end any more
        for sock in listeners:
            sock.setblocking(False)
            self.watch.on(sock.fileno(), select.EPOLLIN, partial(self.admit, sock))

    def admit(self, listener: Any) -> None:
        """Accept a connection. Of too many, the oldest idle one gives way, else the oldest."""
        full = False
        try:
            Visit(self, _socket.socket(fileno=listener._accept()[0]))
        except OSError as error:  # the other end may have gone
            full = error.errno in SCARCE
        idle = [each for each in self.visits[:-1] if each.idle] or self.visits
        if idle and (full or len(self.visits) > VISITS_MAX):
            idle[0].leave()
        elif full:  # the next try would fail too, and nobody waits for an answer
            time.sleep(1.0)

    def refresh(self) -> None:
        """Hear what overlord says now. Waits for that, 5 s for its first word. Raises OSError."""
        self.link.send(b"?")
        heard = b""
        while not heard.endswith(b"\n\n"):
            if not (data := self.link.recv(16384)):  # COST: for a large buffer the kernel maps new pages each time
                raise ConnectionResetError
            heard += data
        lines = decode(heard).split("\n")[:-2]
        self.seen = read_seen(lines) if lines[0] else None
        self.since, self.came, self.texts = time.monotonic(), time.time(), {}

    def show(self, path: str) -> tuple[str, str, bytes]:
        """Return status, type and text of a page. Raises OSError."""
        kind, draw = SERVED[path]
        if time.monotonic() - self.since >= SERVED_REST:
            self.refresh()
        if not self.seen:
            return UNAVAILABLE, "text/plain", b"overlord does not answer\n"
        try:
            self.texts[path] = self.texts.get(path) or draw(self.seen, self.came).encode("utf-8", "replace")
        except Exception as error:  # the others are still to be had
            complain(f"serve: {path}: {error!r}")
            return "500 Internal Server Error", "text/plain", b"see the log of serve\n"
        return "200 OK" if self.seen.healthy or path != "/health" else UNAVAILABLE, kind, self.texts[path]


def serve(asked: Asked, lines: list[str]) -> None:
    """Answer HTTP. A child gives up root and reads the requests; this process asks overlord for it, now and then."""
    if asked.words and re.fullmatch(r"(\S*:)?\d{1,5}", asked.words[0]):
        host, _, port = asked.words[0].rpartition(":")
        probes = parse_sockets(f"tcp:{host or '127.0.0.1'}:{port}")
        listeners = [try_stage(f"serve {asked.words[0]}", listen_on, probe) for probe in probes]
    elif not asked.words and os.environ.get("LISTEN_PID") == str(os.getpid()):
        listeners = [_socket.socket(fileno=fd) for fd in range(3, 3 + int(os.environ["LISTEN_FDS"]))]
    else:
        raise Mistake("serve needs an address, as 0.0.0.0:9001, or the sockets of `listen`")
    here, there = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
    reader = try_stage("serve", os.fork)
    if not reader:
        here.close()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is drawn is not for a terminal
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
        except OSError as error:
            complain(f"serve: root reads the requests, since it cannot become user {NOBODY} here: {error.strerror}")
        Site(listeners, there).watch.wait(None)
        os._exit(1)

    def end(*_: object) -> None:
        here.close()  # which ends the reader
        os.waitpid(reader, 0)
        os._exit(0)

    signal.signal(SIGNALS["TERM"], end)
    for sock in (there, *listeners):
        sock.close()
    while here.recv(1):
        lines = []
        code = call_or(1, ask_overlord, asked.path, ["serve"], lines.append, True)
        here.sendall(("\n".join(() if code else lines) + "\n\n").encode("utf-8", "surrogateescape"))
        time.sleep(SERVED_REST)
    raise StartError("serve: the process that reads the requests has ended")


SHOWS: dict[str, Callable[..., Any]] = {
    "check": check, "compile": compile_into, "exec": execute_as, "help": show_help,
    "version": lambda asked: write_out(1, f"overlord {VERSION}\n"),
    "status": draw_status, "top": draw_top, "graph": draw_graph, "why": draw_why, "timeline": draw_timeline,
    "serve": serve,
}  # fmt: skip


def obey(path: str | None, words: list[str]) -> int:
    """Obey a verb, here or in the running overlord. Return the exit code."""
    verb, options, rest = parse_request(words, VERBS)
    asked = Asked(path, options, rest)
    show = SHOWS.get(verb.name)  # if not, the answer is shown as it comes
    if show and not verb.asks:
        return int(show(asked) or 0)
    own = verb.name == verb.asks  # else it draws units, whatever their state
    lines: list[str] = []
    try:
        take = lines.append if show else lambda line: write_out(1, f"{line}\n")
        code = ask_overlord(path, words if own else [verb.asks, *(rest if "..." in verb.words else ())], take)
        if show and code in (0, 3):
            write_out(1, show(asked, read_records(lines) if verb.asks == "status" else lines))
        return 0 if code == 3 and not own else code
    except OSError as error:
        text = "overlord does not answer within 5 s" if error.errno == errno.EAGAIN else error.strerror or str(error)
        complain(f"{error.filename}: {text}" if error.filename else text)
        return EX_NOPERM if isinstance(error, PermissionError) else EX_UNAVAILABLE
    except Mistake:
        raise
    except (ValueError, LookupError):
        complain("what answers there is no overlord of this version")
        return EX_UNAVAILABLE


def main(arguments: list[str]) -> int:
    path, verb, words = parse_arguments(arguments)
    try:
        if verb == "mistake":
            raise Mistake(words[0])
        if verb in ("run", "command"):
            return run(path, words, sure=verb == "command")
        gc.enable()
        fill_standard(os.O_RDONLY)  # writing to these fails as before
        for number in ("INT", "PIPE"):
            signal.signal(SIGNALS[number], signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, FOUND_MASK)
        return obey(path, [verb, *words])
    except Mistake as mistake:
        complain(f"{mistake}\noverlord: overlord.py help shows how it is used: exiting with code {EX_USAGE}")
        return EX_USAGE
    except Mistakes as mistakes:
        write_out(2, "".join(f"{line}\n" for line in mistakes.args[0]))
        complain(f"{mistakes}, nothing started: exiting with code {EX_CONFIG}")
        return EX_CONFIG
    except StartError as error:
        complain(str(error))
        return 1
    except Unwritten as error:
        complain(f"the answer could not be written: {error}: exiting with code {EX_IOERR}")
        return EX_IOERR


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))
