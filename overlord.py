#!/usr/bin/env python3
"""overlord: init (PID 1) and process supervisor for Docker images, in one file, with the standard library alone.

The rooms of this file, each using only names that stand above it:

    INI text -> Graph -> Config -> Machine -> Fleet -> [actions] -> Kernel -> system calls
                (pure)    (pure)   (pure)     (pure)                  |
                                      ^                               |
                                      +----------- events <-----------+     the Loop turns the crank
                                                   Control and CLI only read, and submit events

    Title    this page: isolation from the application's Python settings, imports, constants
    Words    the vocabulary: states, events, actions, durations, signal names
    Graph    who waits for whom: order and cycles
    Config   INI text to validated specs, or all the mistakes with file and line
    Machine  one unit: (spec, status, event, now, chance) -> (status, actions), from a keyed table
    Unit     one unit among its neighbours: its record, and what is next for it
    Fleet    all units: bounce waves, reload, ordered shutdown, exit code
    Output   bytes of the units to lines to where they go, and overlord's own messages; never blocking
    Kernel   the system calls that touch processes: spawn, signal, reap, look into /proc
    Kin      whose process is whose: from one reading of /proc to the processes of each unit
    Init     what only an init does: standard descriptors, subreaper, sweep, the terminal
    Sockets  unix sockets, and who is at the other end
    Control  what a running overlord is asked: one request line in, lines out; the Fleet does it
    Probes   readiness and health, never blocking
    Loop     wait, read, feed, perform
    CLI      arguments, files, verbs
"""

from __future__ import annotations

# RACE: for PID 1 the kernel drops a SIGTERM that has no handler, but keeps one that is blocked. So the first thing that
# runs blocks everything; `Loop` lifts the mask when its handlers stand. Nothing sent from here on is lost.
if __name__ == "__main__":
    import _signal  # type: ignore[import-not-found]

    FOUND_MASK = _signal.pthread_sigmask(_signal.SIG_BLOCK, _signal.valid_signals())
else:
    FOUND_MASK = set()

import gc
import marshal
import os
import sys

if __name__ == "__main__":
    gc.disable()  # COST: a start makes forty thousand objects, and drops few of them; `main` and `run` enable it again

VERSION = "0.1.0"


class Verb:
    """A verb: the words and options that it takes, and who obeys it, which the rooms Control and CLI put in."""

    def __init__(self, name: str, asks: str, words: str, help: str) -> None:
        self.name, self.words, self.help = name, words, help
        self.asks = asks  # what a running overlord is asked for it; nothing: it is done in the process of who wants it, alone
        self.answer: Any = None  # in the running overlord: a method of Control
        self.show: Any = None  # in the process of who wants it: a function; None: the answer is shown as it comes


VERBS = {
    row[0]: Verb(*row)
    for row in (
        ("run", "", "", "start what the configuration says, and stay (as PID 1 of a container, or anywhere)"),
        ("check", "", "", "say what is wrong with the configuration, and what the image lacks (exit 0, or 78)"),
        ("compile", "", "FILE", "write the same program as compiled code, which starts in a quarter of the time"),
        ("version", "", "", "print the version"),
        ("help", "", "[OPTION]", "print this, or what a configuration option means"),
        ("status", "status", "[-j] [NAME ...]", "how they are; exit 0 when each is ok, idle, running, done or stopped, else 3"),
        ("health", "health", "", "one line; exit 0 when every daemon is ok, else 1: for HEALTHCHECK"),
        ("start", "start", "NAME ... [-t SECONDS]", "start them and what they depend on; exit 1 when they do not come up"),
        ("stop", "stop", "NAME ... [-t SECONDS]", "stop them; exit 1 when they do not stay so"),
        ("restart", "restart", "NAME ... [-t SECONDS]", "restart them, instances one at a time; exit 1 when they do not come up"),
        ("signal", "signal", "SIGNAL NAME ...", "send a signal: HUP, -HUP, SIGHUP, 1"),
        ("reload", "reload", "[-t SECONDS]", "read the configuration again and do what differs; mistakes change nothing (78)"),
        ("wait", "wait", "NAME ... [-t SECONDS]", "wait until they are ok; exit 1 when they cannot be any more, or not in time"),
        ("logs", "logs", "[-f] [-n N] NAME ...", "the last N lines (100) of their captured output; -f goes on"),
        ("events", "events", "[NAME ...]", "the state of each, and then each change, a line each: NAME STATE WHY"),
        ("graph", "status", "[--dot]", "who depends on whom"),
        ("timeline", "timeline", "[-j] [NAME ...]", "how the start went: who waited for whom, and for how long"),
        ("why", "status", "NAME", "why it is in its state, down the chain of what it depends on"),
        ("shutdown", "shutdown", "[CODE]", "stop everything; the container exits with CODE"),
    )
}


SPARE: list[int] = []  # the descriptor that a running overlord keeps, so that it can read /proc where all others are used


def keep_spare() -> None:
    """Have a spare descriptor, if there is one to be had."""
    try:
        if not SPARE:
            SPARE.append(os.open("/", os.O_RDONLY))
    except OSError:
        pass


def spares(call: Call) -> Call:
    """Have a function, which opens a file and closes it again, use the spare descriptor where there is no other."""

    def attempt(*words: Any) -> Any:
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

    return attempt  # type: ignore[return-value]


@spares
def slurp(path: str) -> bytes:
    """Return what a file holds. Raises OSError."""
    with open(path, "rb", buffering=0) as file:
        return file.read()


def found_environment() -> dict[bytes, bytes]:
    """Return the container's environment, byte for byte. PYTHON: locale coercion (PEP 538) adds LC_CTYPE to os.environ."""
    try:
        pairs = (entry.partition(b"=") for entry in slurp("/proc/self/environ").split(b"\0"))
        return {key: value for key, equals, value in pairs if key and equals}
    except OSError:
        return dict(os.environb)


def parse_arguments(arguments: list[str]) -> tuple[str | None, str, list[str]]:
    """Return the file of `-c`, the verb (`mistake` where it is wrong), and the words after it: that text, or the main command."""
    path, words = None, list(arguments)
    while words and words[0].startswith("-"):
        word = words.pop(0)
        if word == "--":
            return path, "run", words
        if word == "-c" and words:
            path = words.pop(0)
        elif word in ("-h", "--help", "-V", "--version"):
            return path, "help" if "h" in word else "version", []
        else:
            return path, "mistake", [
                "-c needs a FILE" if word == "-c" else f"unknown option {word}; as the main command: overlord.py -- {word}"
            ]
    if words[:1] == ["run"] and words[1:]:
        return path, "mistake", ["run takes no arguments: for a main command leave it out"]
    if not words or words == ["run"] or words[0] not in VERBS:
        return path, "run", words if words != ["run"] else []
    return path, words[0], words[1:]


def decode(data: bytes) -> str:
    """Return text that `os.fsencode` makes the same bytes of."""
    return data.decode("utf-8", "surrogateescape")


def settle_in() -> None:
    """Execute overlord again from its compiled code, without what compiling leaves behind (9 MB, for 10 ms once).
    `-I -S` keeps out PYTHON* variables, site hooks and the folder of this file. The code travels in a memfd, as a .pyc; the
    number of that descriptor, and the mask that overlord was started with, as a -X option: environment and arguments stay."""
    from _frozen_importlib_external import MAGIC_NUMBER

    mask = ",".join(str(int(number)) for number in FOUND_MASK)
    try:
        fd = os.memfd_create("overlord.py", 0)
        with open(fd, "wb", closefd=False) as file:
            file.write(MAGIC_NUMBER + bytes(12) + marshal.dumps(sys._getframe(1).f_code))
        path = f"/proc/self/fd/{fd}"
        os.stat(path)
    except (AttributeError, OSError):  # no memfd, or no /proc: compile it once more
        if sys.flags.isolated:
            return
        fd, path = -1, os.path.abspath(__file__)
    arguments = [sys.executable, "-I", "-S", "-X", "utf8", "-X", f"overlord={fd}:{mask}", path, *sys.argv[1:]]
    try:
        os.execve(sys.executable, arguments, found_environment())
    except OSError:  # an environment so large that the few bytes more are too many: stay
        if fd >= 0:
            os.close(fd)


COMPILED = sys.argv[:1] == ["-c"]  # see `compile_into`

if __name__ == "__main__":
    if COMPILED:  # isolated already, and free of garbage
        del sys.argv[0]
        if sys.getfilesystemencoding() != "utf-8":  # a locale of before
            settle_in()
    elif "overlord" in sys._xoptions:
        descriptor, _, numbers = str(sys._xoptions["overlord"]).partition(":")
        FOUND_MASK = {int(number) for number in numbers.split(",") if number}
        if descriptor != "-1":
            os.close(int(descriptor))
    else:
        if sys.executable and parse_arguments(sys.argv[1:])[1] == "run":
            settle_in()
        # A verb that is soon over: only keep modules of others from being taken for the library's.
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
from _heapq import heapify, heappop, heappush  # COST: `heapq` has the same, and much in Python
from collections import deque, namedtuple
from configparser import RawConfigParser
from functools import partial

TYPE_CHECKING = False  # typing costs 1.9 MB; only the type checker needs it
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Any, TypeVar

    Call = TypeVar("Call", bound=Callable[..., Any])
else:
    import _signal as signal  # COST: the friendly `signal` makes an enum of every constant

warnings.simplefilter("ignore")  # they go straight to stderr, whose reader may be stuck

DEFAULT_CONFIG = "/etc/overlord.conf"
EX_USAGE, EX_UNAVAILABLE, EX_IOERR, EX_TEMPFAIL, EX_NOPERM, EX_CONFIG = 64, 69, 74, 75, 77, 78  # sysexits(3)
NOT_EXECUTABLE, NOT_FOUND = 126, 127  # the shell's codes, POSIX 2.8.2
FIRST_LINE_MAX = 127  # bytes, `#!` and newline included: execve(2)
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

SCARCE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # what overlord lacks for now

SWEEP_TIMEOUT = 1.0  # s, what is left over gets this long between SIGTERM and SIGKILL
MAIN_SHARE = 0.75  # of the time for a shutdown, what the main command may take before the daemons' turn
LEFT_LEAST = 1.0  # s, what a main command without units leaves behind has at the least
STEADY = 10.0  # s, a unit that stayed up this long starts its back-off from the beginning
MISSED = 90.0  # s, a scheduled run that is later than this is left out
LISTINGS_MOST = 10  # of /proc, for one reading
YOUNG, TORN_MOST = 0.2, 3  # s, of an orphan that is looked at once more before its unit is said to be gone; so many times
NOTICES_LAST = 100  # messages that are read of a daemon once it is dead
STORY = 50  # things that the timeline tells of a unit
FORK_DELAY = 0.1  # s, the least delay after a failed fork, so that `backoff = 0` does not spin
REMINDER = 10.0  # s, between two lines about what the main command waits for
LINGER_LOOK, LOOK_SHARE = 0.1, 10  # s, between two looks at what a unit left behind; times what the last look took, at the least
HANDOVER = 3.0  # s, in which `pidfile` has to name another main process once one that was OK has ended
SURVEY_DELAY = 0.1  # s, after a unit got OK, until overlord looks at what it is made of
PAUSED = 1.0  # s past a timer from which on overlord was not slow but stopped (docker pause)
PROBE_LEAST, PROBE_MOST = 0.05, 1.0  # s, between two tries of a readiness probe
PROBE_TIMEOUT = 3.0  # s, of one try for a script, which has no `health_timeout`
REAP_BATCH, SIGNAL_BATCH = 500, 500  # dead processes reaped, and living ones signalled, before other events have their turn
ASK_TIMEOUT = 5.0  # s, in which a client has to ask, and overlord to begin its answer
REQUEST_MAX, WORDS_MAX = 8192, 256  # bytes and words of a request
ANSWER_MAX, ANSWERS_MAX = 1 << 20, 1 << 22  # bytes kept for one client that follows and does not read, and for all clients
CLIENTS_MAX, ACCEPT_BATCH = 200, 20
LOG_KEPT = 65536  # bytes of overlord's own messages kept while nobody reads them
OOM_WINDOW = 1.0  # s after the kernel's count of processes killed for want of memory grew, in which a SIGKILL was one
CHUNK = 65536  # bytes of a unit's output read at once; a pipe holds as many
REST = 0.001  # s, that a unit which writes line by line without a pause is left alone: a batch comes together
CLD_KILLED, CLD_STOPPED = (2, 3), 5  # waitid(2); Python has their names since 3.9
FIONREAD = 0x541B  # ioctl_tty(2): the bytes that a pipe holds
F_SETPIPE_SZ, PIPE_SIZE = 1031, 1 << 20  # fcntl(2); bytes, what any user may have: pipe-max-size in pipe(7)
LINE_MAX = 65536  # bytes, a longer line is passed on in parts
TAIL_LINES, TAIL_BYTES = 100, 262144  # of its output, what is kept of each captured unit
SHOWN_LINES, SHOWN_WIDTH = 20, 1000  # of those, how many lines, and how much of each, the last message about a unit shows
FILE_KEPT = 262144  # bytes kept for a log file that cannot be written, and the rest counted
ENDLESS = 1 << 20  # bytes, and twice `log_max`: what a log file has of a single line when it is rotated after all
FILE_RETRY = 1.0  # s, between two tries to write it
STREAM_KEPT = 65536  # bytes kept for a slow reader, beyond which those who write to him have to wait
STUCK = 2.0  # s without progress after which, in a shutdown, overlord waits no longer for a reader
STUCK_KEPT = 1 << 20  # bytes kept for him of those that have ended, and in a shutdown of all, so that they can end


# ============================================================================================================ Words
# The vocabulary: what the log, the status, the README and the tests call things.

IDLE, WAITING, STARTING, OK, RUNNING = "idle", "waiting", "starting", "ok", "running"
STOPPING, BACKOFF, STOPPED, DONE, FAILED = "stopping", "backoff", "stopped", "done", "failed"
STATES = (IDLE, WAITING, STARTING, OK, RUNNING, STOPPING, BACKOFF, STOPPED, DONE, FAILED)
MAIN = "main command"  # its name as a unit; the blank keeps it apart from every configured one

# Events of a unit. `barred`: a script that has to run before its start failed; `stale`: its process is not the one wanted any
# more. `pid`: of the new process (spawned); `code`: an exit code or minus a signal (exited); `passing`: the fault may pass
# (unspawned); `left`: the main process is gone, and leaves others behind; `wanted`: it is to be up once it is gone; `fails`: the
# end that this leads to is a failure (stop, stale); `limit`: seconds that shutdown leaves it; `signum`: in place of
# stop_signal; `hint`: what is known of the cause. `handed`: `pidfile` or MAINPID= names its main process, `pid`.
EVENTS = ("want", "start", "spawned", "unspawned", "barred", "exited", "emptied", "deadline", "stop", "stale", "ready", "handed")
Event = namedtuple(
    "Event",
    "kind why pid code passing left wanted fails limit signum hint",
    defaults=("", 0, 0, False, False, True, False, None, None, ""),
)

# Actions: what the pure rooms want done, performed by the Loop in order.
Spawn = namedtuple("Spawn", "unit")
# whole: everything of the unit, not only its main process; why: in words, said with the names of those that are signalled
Kill = namedtuple("Kill", "unit pid signum whole why", defaults=("",))
StopCommand = namedtuple("StopCommand", "unit pid")
Say = namedtuple("Say", "level unit text final", defaults=(False,))  # final: the unit has failed for good
Test = namedtuple("Test", "unit purpose")
Sweep = namedtuple("Sweep", "signum")
Exit = namedtuple("Exit", "code why quiet")
Changed = namedtuple("Changed", "unit state why")  # for whoever follows
Wake = namedtuple("Wake", "unit instant")  # by `Fleet.expire`, in the place of what was said before; None: not at all
Forget = namedtuple("Forget", "unit")
Replan = namedtuple("Replan", "")  # a reload may have changed schedules, the log and its files

RELOAD, RESTART, SHUTDOWN = "reload", "restart by hand", "shutdown"  # why a process is stopped
# By whom a unit is wanted, other than a unit whose `always` script it is; the blank keeps it apart from every name.
BY_CONFIG, BY_NEED, BY_HAND, BY_CLOCK = "by configuration", "by dependency", "by hand", "by schedule"
# Sets of states. RESTING: nothing comes of it by itself; COMING: it has no process, or none that is OK; ENDED: it was up once.
RESTING, ENDED, COMING = (IDLE, STOPPED, DONE, FAILED), (STOPPED, DONE, FAILED), (WAITING, STARTING, STOPPING, BACKOFF)

SIGNALS = {name[3:]: int(getattr(signal, name)) for name in dir(signal) if name[:3] == "SIG" and name[3:].isalnum()}
SIGNAL_NAMES = {number: "SIG" + name for name, number in sorted(SIGNALS.items(), reverse=True)}
ALL_SIGNALS = {int(number) for number in signal.valid_signals()}
OWN_FAULTS = {SIGNALS["PIPE"], SIGNALS["XFSZ"]}  # PYTHON: ignored by CPython, and an ignored signal survives exec
FAULTS = {SIGNALS[name] for name in "ILL TRAP ABRT BUS FPE SEGV SYS".split()}
JOB_CONTROL = {SIGNALS[name] for name in "TSTP TTIN TTOU".split()}
SETTABLE = ALL_SIGNALS - {SIGNALS["KILL"], SIGNALS["STOP"]}  # signal(7)
CAUGHT = SETTABLE - FAULTS - JOB_CONTROL
CHILD_ALONE = {SIGNALS["CHLD"]}
HARMLESS = {SIGNALS[name] for name in "CHLD CONT URG WINCH".split()} | JOB_CONTROL  # signal(7): their default kills nobody
UNITS_OF_TIME = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Mistake(ValueError):
    """A value that cannot be used; the text says what is wrong with it and what would be right."""


class StartError(Exception):
    """A process that could not be made; `passing`: for want of something that may be there again later."""

    def __init__(self, why: str, passing: bool = False) -> None:
        super().__init__(why)
        self.passing = passing


def is_number(text: str, most: int = 9, base: int = 10) -> bool:
    """Tell whether a text is nothing but digits, and not too many. COST: patterns take longer to compile than to match."""
    return 0 < len(text) <= most and not text.strip("0123456789"[:base])


def parse_duration(text: str) -> float:
    """Return seconds, from a number of seconds or a number with one of ms s m h d."""
    unit = text.lstrip("0123456789.")
    whole, dot, part = text[: len(text) - len(unit)].partition(".")
    if unit.lstrip() not in UNITS_OF_TIME or not (is_number(whole) or (dot and not whole)) or not (is_number(part) or not dot):
        raise Mistake(f"{text!r} is no duration, write seconds or one of 500ms 2s 5m 1h 7d")
    return float(whole + dot + part) * UNITS_OF_TIME[unit.lstrip()]


def spell_duration(seconds: float) -> str:
    """Return a duration for people, to about three digits: 0.25 s, 3.2 s, 5 min 10 s, 3 d 2 h."""
    if seconds < 59.95:
        digits = 3 if seconds < 0.1 else 2 if seconds < 1 else 1
        return f"{seconds:.{digits}f}".rstrip("0").rstrip(".") + " s" if seconds >= 0.0005 else "0 s"
    whole = round(seconds)
    steps = (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1))
    unit, size, lesser, part = next(step for step in steps if whole >= step[1])
    rest = whole % size // part
    return f"{whole // size} {unit}" + (f" {rest} {lesser}" if rest else "")


def parse_signal(text: str) -> int:
    """Return the number of a signal given as TERM, SIGTERM, RTMIN+3, RTMAX-1 or 15."""
    name = text.upper()[3 if text[:3].upper() == "SIG" else 0 :]
    match = re.fullmatch(r"(RTMIN\+|RTMAX-)(\d{1,2})", name, re.ASCII) if name[:2] == "RT" else None
    if match:
        number = SIGNALS["RTMIN"] + int(match[2]) if match[1] == "RTMIN+" else SIGNALS["RTMAX"] - int(match[2])
    else:
        number = int(name) if is_number(name, 3) else SIGNALS.get(name, 0)
    if number not in ALL_SIGNALS or (match and not SIGNALS["RTMIN"] <= number <= SIGNALS["RTMAX"]):
        raise Mistake(f"{text!r} is no signal{suggest(name, SIGNALS)}")
    return number


def spell_signal(number: int) -> str:
    """Return SIGTERM, SIGRTMIN+3, or SIG16 where Python has no name for it."""
    offset = number - SIGNALS["RTMIN"]
    return SIGNAL_NAMES.get(number) or (f"SIGRTMIN+{offset}" if offset >= 0 else f"SIG{number}")


def parse_size(text: str) -> int:
    """Return bytes, from a number of bytes or a number with one of K M G."""
    number = text.rstrip("kKmMgG").rstrip()
    unit = text[len(number) :].lstrip().upper() or " "
    if not is_number(number, 12) or len(unit) > 1:
        raise Mistake(f"{text!r} is no size, write bytes or one of 64K 10M 1G")
    return int(number) << 10 * " KMG".index(unit)


def spell_size(size: int) -> str:
    """Return a number of bytes for people: 64 KiB, 1.5 GiB."""
    unit = next(unit for unit in (3, 2, 1, 0) if size >= 1024**unit or not unit)
    return f"{size / 1024**unit:.1f}".replace(".0", "") + (" bytes", " KiB", " MiB", " GiB")[unit]


def spell_end(code: int) -> str:
    """Return in words how a process ended: its exit code, or minus the signal that killed it."""
    if code < 0:
        return f"killed by {spell_signal(-code)}"
    shells = f" (128 + {spell_signal(code - 128)})" if code - 128 in ALL_SIGNALS else ""
    return f"exited with code {code}{shells}"


def spell_state(state: str) -> str:
    return "in backoff" if state == BACKOFF else state


def exit_code(code: int) -> int:
    """Return the code for the container: 128+N for a death by signal N, as a shell's."""
    return code if code >= 0 else 128 - code


def distance(one: str, two: str) -> int:
    """Return how many letters have to be put in, left out, changed or swapped to make one of the other (Damerau)."""
    before, row = [], list(range(len(two) + 1))
    for i, a in enumerate(one):
        before, last, row = row, before, [i + 1]
        for j, b in enumerate(two):
            best = min(before[j + 1] + 1, row[j] + 1, before[j] + (a != b))
            swapped = i and j and a == two[j - 1] and b == one[i - 1]
            row.append(min(best, last[j - 1] + 1) if swapped else best)
    return row[-1]


def suggest(word: str, known: Iterable[str]) -> str:
    """Return `, did you mean "...?"` with the nearest of the known words, or nothing where none is near."""
    near = sorted((distance(word.lower(), other.lower()), other) for other in (known if len(word) < 40 else ()))
    close = near and near[0][0] <= max(1, len(word) // 3) and near[0][0] < len(word)
    return f', did you mean "{near[0][1]}"?' if close else ""


def parse_number(low: int, high: int, base: int = 10) -> Callable[[str], int]:
    """Return a parser for a whole number between two bounds."""

    def parse_bounded(text: str) -> int:
        sign = "-" if text[:1] == "-" and base != 8 else ""
        if not is_number(text[len(sign) :], base=base) or not low <= int(text, base) <= high:
            bounds = f"an octal number from 000 to {high:o}" if base == 8 else f"a whole number from {low} to {high}"
            raise Mistake(f"{text!r} is not {bounds}")
        return int(text, base)

    return parse_bounded


Flag = namedtuple("Flag", "long parse")  # with `parse` it takes a value
FLAGS = {"t": Flag("timeout", parse_duration), "n": Flag("lines", parse_number(0, 999999)), "f": Flag("follow", None),
         "j": Flag("json", None), "": Flag("dot", None)}  # fmt: skip


def parse_request(words: list[str], verbs: Mapping[str, Verb]) -> tuple[Verb, dict[str, Any], list[str]]:
    """Return the verb of a request, its options and its other words, in whatever order they stand. Raises Mistake."""
    verb = verbs.get(words[0]) if words else None
    if not verb:
        raise Mistake(f"there is no verb {words[0] if words else ''!r}{suggest(words[0], verbs) if words else ''}")
    flags = {short: flag for short, flag in FLAGS.items() if f"[-{short or '-dot'}" in verb.words}
    options: dict[str, Any] = {}
    rest: list[str] = []
    given = deque(words[1:])
    while given:
        word = given.popleft()
        if not word or re.search(r"\s", word):
            raise Mistake(f"there is no unit {word!r}")
        if word == "--":
            rest += given
            break
        if word[0] != "-" or (verb.name == "signal" and not rest):  # whose -HUP is no option
            rest.append(word.lstrip("-") if not rest and verb.name == "signal" else word)
            continue
        long, equals, value = word[2:].partition("=") if word[:2] == "--" else ("", "", word[2:])
        flag = next((flag for flag in flags.values() if flag.long == long), None) if long else flags.get(word[1:2])
        if not flag or (equals and not flag.parse):
            raise Mistake(f"{verb.name} has no option {word}{suggest(long, [each.long for each in flags.values()])}")
        if flag.parse and not (equals or value) and not given:
            raise Mistake(f"{verb.name} {word} needs a value")
        if flag.parse:
            options[flag.long] = flag.parse(value if equals or value else given.popleft())
        else:
            options[flag.long] = True
            given.extendleft([f"-{value}"] if value else [])
    needed = re.sub(r"\[.*?\]|\.\.\.", "", verb.words).split()
    most = WORDS_MAX if "..." in verb.words else len(needed) + len(re.findall(r"\[[A-Z]", verb.words))
    if not len(needed) <= len(rest) <= most:
        raise Mistake(f"{verb.name} {'needs' if needed else 'takes'} {verb.words or 'no arguments'}")
    return verb, options, rest


# ============================================================================================================ Graph
# Who waits for whom: the order to start in, and cycles.


def sort_units(units: Mapping[str, Spec]) -> tuple[list[str], list[list[str]]]:
    """Return the names with dependencies first, else in the order given, and each cycle as a path a, b, a, without recursion."""
    order: list[str] = []
    cycles: list[list[str]] = []
    begun: set[str] = set()
    for root in units:
        path: dict[str, Iterator[str]] = {} if root in begun else {root: iter([n for n, _ in units[root].deps])}
        while path:
            name = next(reversed(path))
            begun.add(name)
            for dep in path[name]:
                if dep in path:
                    names = list(path)
                    cycles.append([*names[names.index(dep) :], dep])
                elif dep in units and dep not in begun:
                    path[dep] = iter([n for n, _ in units[dep].deps])
                    break
            else:
                order.append(name)
                del path[name]
    return order, cycles


# =========================================================================================================== Config
# INI text to validated, immutable specs, or all the mistakes with file and line.


def parse_boolean(text: str) -> bool:
    """Return configparser's reading of yes/no, true/false, on/off, 1/0."""
    if text.lower() not in RawConfigParser.BOOLEAN_STATES:
        raise Mistake(f"{text!r} is no boolean, write yes or no")
    return bool(RawConfigParser.BOOLEAN_STATES[text.lower()])


def parse_positive(text: str) -> float:
    seconds = parse_duration(text)
    if not seconds:
        raise Mistake("must be longer than 0")
    return seconds


def parse_choice(*choices: str, path: bool = False) -> Callable[[str], str]:
    """Return a parser for one of the given words, or the absolute path of a file."""

    def parse_one(text: str) -> str:
        if text not in choices and not (path and text.startswith("/") and not text.endswith("/")):
            forms = ", ".join(choices) + (", /PATH of a file" if path else "")
            raise Mistake(f"{text!r} is none of: {forms}{suggest(text, choices)}")
        return text

    return parse_one


def parse_text(text: str) -> str:
    if not text:
        raise Mistake("is empty")
    return text


def parse_signals(text: str) -> tuple[int, ...]:
    """Return the numbers of a list of signals, all of which overlord can catch and has no use for itself."""
    numbers = tuple(parse_signal(word) for word in split_words(text))
    for number in numbers:
        if number not in CAUGHT - CHILD_ALONE:
            raise Mistake(f"{spell_signal(number)} is overlord's own, or cannot be caught")
    return numbers


def parse_forward(text: str) -> tuple[tuple[int, int], ...]:
    """Return pairs of what arrives and what is sent, from `HUP`, `HUP>USR2` or `none`."""
    pairs = []
    for word in [] if text == "none" else split_words(text):
        source, arrow, target = (part.strip() for part in word.partition(">"))
        pairs.append((parse_signals(source)[0], parse_signal(target if arrow else source)))
    return tuple(pairs)


def parse_success(text: str) -> tuple[int, ...]:
    """Return exit codes, and signals as negative numbers."""
    ends = []
    for word in split_words(text):
        number = is_number(word)
        if number and int(word) > 255:
            raise Mistake(f"{word} is no exit code, they go from 0 to 255")
        ends.append(int(word) if number else -parse_signal(word))
    return tuple(ends)


def parse_respawns(text: str) -> tuple[int, float] | None:
    """Return how many restarts in how many seconds (0: ever); None is no limit."""
    if text == "unlimited":
        return None
    count, slash, window = (part.strip() for part in text.partition("/"))
    if not is_number(count):
        raise Mistake(f"{text!r} is no limit, write a number as 5, a number in a time as 5/60s, or unlimited")
    return int(count), parse_positive(window) if slash else 0.0


def parse_backoff(text: str) -> tuple[float, float]:
    """Return the lower and the upper bound of the delay, in seconds."""
    low, dots, high = (part.strip() for part in text.partition(".."))
    bounds = parse_duration(low), parse_duration(high if dots else low)
    if bounds[0] > bounds[1]:
        raise Mistake(f"the lower bound {low} is above the upper bound {high}")
    if not bounds[0] and bounds[1]:
        raise Mistake(f"a delay of 0 cannot double up to {high}, write a lower bound as 100ms..{high}")
    return bounds


def parse_max_age(text: str) -> tuple[float, float]:
    """Return the lifetime and by how much it may be cut at random, in seconds."""
    age, tilde, spread = (part.strip() for part in text.partition("~"))
    bounds = parse_positive(age), parse_duration(spread) if tilde else 0.0
    if bounds[1] >= bounds[0]:
        raise Mistake(f"the random part {spread} is not shorter than the age {age}")
    return bounds


def parse_paths(text: str) -> tuple[str, ...]:
    """Return the files of an env_file, which may each begin with `-`: it need not be there."""
    words = text.replace(",", " ").split()
    for word in words:
        if not word.lstrip("-"):
            raise Mistake(f"{word!r} is no file")
    return tuple(words)


def parse_secrets(text: str) -> tuple[str, ...]:
    words = text.replace(",", " ").split()
    for word in words:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", word):
            raise Mistake(f"{word!r} is no name of a variable")
    return tuple(words)


def parse_limits(text: str) -> tuple[tuple[str, int, int], ...]:
    """Return name, soft and hard limit, -1 for none, from `nofile=65536 core=0 memlock=64M:unlimited`."""
    limits = []
    for word in split_words(text):
        name, equals, value = word.partition("=")
        if not equals or name not in LIMITS:
            near = suggest(name, LIMITS) or f", with one of {' '.join(LIMITS)}"
            raise Mistake(f"{word!r} is not of the form NAME=NUMBER{near}")
        soft, colon, hard = value.partition(":")
        numbers = [-1 if part in ("unlimited", "infinity") else parse_size(part) for part in (soft, hard if colon else soft)]
        if numbers[1] >= 0 and not 0 <= numbers[0] <= numbers[1]:
            raise Mistake(f"{word}: the first number, which is in force, is above the second, up to which it may be raised")
        limits.append((name, numbers[0], numbers[1]))
    return tuple(limits)


MONTHS = tuple("jan feb mar apr may jun jul aug sep oct nov dec".split())
WEEKDAYS = tuple("sun mon tue wed thu fri sat".split())
NICKNAMES = {
    "@hourly": "0 * * * *", "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *", "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *",
}  # fmt: skip
# crontab(5): what each field allows; `either`: days of the month and of the week are both restricted, and one is enough;
# `hourly`: the hour is `*`, so that it goes by the time that passes. Or `every`, in seconds, and nothing else.
Schedule = namedtuple("Schedule", "minutes hours days months weekdays either hourly every")


def parse_schedule(text: str) -> Schedule:
    """Return a schedule, from the five fields of crontab(5), one of its nicknames, or `every 10m`."""
    words = NICKNAMES.get(text.lower(), text).split()
    if words[:1] == ["every"]:
        return Schedule(None, None, None, None, None, None, None, parse_positive(" ".join(words[1:])))
    if len(words) != 5:
        near = suggest(text.lower(), NICKNAMES) if text[:1] == "@" else ""
        raise Mistake(f"{text!r} is no schedule{near or ', write MINUTE HOUR DAY MONTH WEEKDAY, @hourly, @daily or every 10m'}")
    minutes, hours = parse_field(words[0], 0, 59), parse_field(words[1], 0, 23)
    days, months = parse_field(words[2], 1, 31), parse_field(words[3], 1, 12, MONTHS)
    weekdays = frozenset(day % 7 for day in parse_field(words[4], 0, 7, WEEKDAYS))
    if not any(day <= days_of(2024, month) for day in days for month in months) and words[4][0] == "*":
        raise Mistake(f"{text!r} names a day that no year has")
    return Schedule(minutes, hours, days, months, weekdays, words[2][0] != "*" and words[4][0] != "*", words[1][0] == "*", None)


def parse_field(text: str, low: int, high: int, names: tuple[str, ...] = ()) -> frozenset[int]:
    """Return the numbers that one field of a crontab line stands for."""
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
        first = ends[0] if ends else low
        last = ends[1] if len(ends) > 1 else first if ends and not match[3] else high
        if last < first:
            raise Mistake(f"{item!r} ends before it begins")
        found.update(range(first, last + 1, int(match[3] or 1)))
    return frozenset(found)


def days_of(year: int, month: int) -> int:
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 or year % 400 == 0) else 28
    return 30 if month in (4, 6, 9, 11) else 31


def next_run(plan: Schedule, after: float, localtime: Callable[[float], Any], mktime: Callable[[Any], float]) -> float | None:
    """Return the first instant after `after` (seconds since the epoch) that a schedule names, None for never.
    When clocks go forward, what is planned for the hour that is left out runs at its end; when they go back, what is
    planned for the hour that comes twice runs the first time. Where the hour is `*` it goes by the time that passes."""
    year, month, day = localtime(after)[:3]
    begin = 0.0

    def locate(hour: int, minute: int) -> float:
        """Return when it is that late on the day: the first such instant, or where there is none the first one after it."""
        clock = year, month, day, hour, minute
        instant = mktime((*clock, 0, 0, 0, -1))
        if localtime(instant)[:5] == clock:
            return min([instant, *[instant - gap for gap in (7200, 3600, 1800) if localtime(instant - gap)[:5] == clock]])
        instant = begin
        while localtime(instant)[:5] < clock:
            instant += 60
        return instant

    for _ in range(366 * 9):  # there may be eight years between two 29th of February
        weekday = (localtime(mktime((year, month, day, 12, 0, 0, 0, 0, -1)))[6] + 1) % 7
        by_day, by_weekday = day in plan.days, weekday in plan.weekdays
        fits = (by_day or by_weekday) if plan.either else (by_day and by_weekday)
        if month in plan.months and fits:
            begin = mktime((year, month, day, 0, 0, 0, 0, 0, -1))
            if plan.hourly:
                instant = max(begin, after // 60 * 60 + 60)
                while localtime(instant)[:3] == (year, month, day):
                    found = localtime(instant)
                    if found[4] in plan.minutes and found[3] in plan.hours:
                        return instant
                    instant += 60
            else:
                for instant in (locate(hour, minute) for hour in sorted(plan.hours) for minute in sorted(plan.minutes)):
                    if instant > after:
                        return instant
        day += 1
        if day > days_of(year, month):
            day, month = 1, month + 1
        if month > 12:
            month, year = 1, year + 1
    return None


# What `ready`, `health` and `wait_for` ask. `path`: of a file or socket, in a URL, of a command its text, of `log` a pattern.
Probe = namedtuple("Probe", "kind host port path text")


def parse_probe(text: str, more: tuple[str, ...] = ()) -> Probe:
    """Return a probe of any kind, or of those given."""
    kind, colon, rest = text.partition(":")
    http = kind == "http" and rest[:2] == "//"
    place, _, path = rest[2:].partition("/") if http else (rest, "", "")
    if kind == "tcp" and re.fullmatch(r"\d{1,5}", rest, re.ASCII):
        place = f"localhost:{rest}"
    address = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([\w.-]+))(?::(\d{1,5}))?", place, re.ASCII)
    if address and (http or (kind == "tcp" and address[3])):
        if not 0 < int(address[3] or "80") < 65536:
            raise Mistake(f"{address[3]} is no port, they go from 1 to 65535")
        path = re.sub(r"\s", "%20", f"/{path}") if http else ""
        return Probe(kind, address[1] or address[2], int(address[3] or "80"), path, text)
    if kind == "notify" and not colon and kind in more:
        return Probe(kind, "", 0, "", text)
    if kind in ("file", "unix") and rest[:1] == "/":
        return Probe(kind, "", 0, rest, text)
    if kind == "cmd" and rest.strip():
        return Probe(kind, "", 0, rest.strip(), text)
    if kind == "fd" and kind in more and re.fullmatch(r"\d{1,3}", rest, re.ASCII) and int(rest) > 2:
        return Probe(kind, "", int(rest), "", text)
    if kind == "log" and kind in more and rest:
        try:
            re.compile(rest.encode())
        except (re.error, OverflowError, RecursionError) as error:
            raise Mistake(f"{rest!r} is no regular expression: {error}") from None
        return Probe(kind, "", 0, rest, text)
    forms = ["tcp:[HOST:]PORT", "unix:/PATH", "http://HOST[:PORT]/PATH", "file:/PATH", "cmd:SHELL COMMAND"]
    forms += [{"fd": "fd:N with N from 3", "log": "log:REGEX"}.get(kind, kind) for kind in more]
    kinds = ["tcp", "unix", "http", "file", "cmd", *more]
    near = "" if kind in kinds else suggest(kind, kinds)
    raise Mistake(f"{text!r} is no probe{near}; write {', '.join(forms)}")


def parse_probes(text: str) -> tuple[Any, ...]:
    """Return several probes: one a line, or between blanks where none is a command."""
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    between = r",?\s+|,(?=(?:tcp|unix|http|file):)|,$"
    words = [word for line in lines for word in ([line] if line.startswith("cmd:") else re.split(between, line)) if word]
    return tuple(parse_probe(word) for word in words)


def parse_deps(text: str) -> tuple[tuple[str, str], ...]:
    """Return (name, state) pairs in the order written; a bare name is `name:ok`."""
    deps: dict[str, str] = {}
    for item in text.split(",") if text else ():
        name, colon, state = (part.strip() for part in item.partition(":"))
        if not re.fullmatch(NAME, name) or (colon and not re.fullmatch(NAME, state)):
            raise Mistake(f"{item.strip()!r} is not of the form name:state, and commas go between")
        if name in deps:
            raise Mistake(f"{name!r} stands there twice")
        deps[name] = state or OK
    return tuple(deps.items())


# One `${NAME}`, `${NAME:-word}` or `${NAME:?word}`. A text with such, parsed, is a template: a tuple of texts and of these.
Reference = namedtuple("Reference", "name operator word")


def parse_env(text: str) -> tuple[tuple[str, Template], ...]:
    """Return KEY and the template of its value for each line, which is quoted as a word of the shell."""
    pairs = []
    for line in text.split("\n"):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        key, equals, word = line.strip().partition("=")
        if not equals or not re.fullmatch(r"[^\s'\"$]+", key):
            raise Mistake(f"{line.strip()!r} is not of the form KEY=value")
        parts: list[str | Reference] = []
        for piece in re.finditer(SHELL_PIECE, word):  # COST: as far as the first that is none
            single, double, escaped, bare, lone = piece.groups("")
            if lone:
                raise Mistake(f"the value of {key} has a blank or a lone quote, write {key}='...'")
            parts += [single, escaped[1:], *parse_template(bare), *parse_template(double, quoted=True)]
        pairs.append((key, tuple(parts)))
    return tuple(pairs)


def fill_env(pairs: Iterable[tuple[str, Template]], environment: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return KEY and value for each line of an `env`, which sees the earlier ones. Raises Mistake."""
    found: dict[str, str] = {}
    known = {**environment}
    for key, template in pairs:
        found[key] = known[key] = fill(template, known)
    return tuple(found.items())


def parse_template(text: str, quoted: bool = False) -> Template:
    """Find `${VAR}`, `${VAR:-default}`, `${VAR:?message}` and `$$`; any other `$` is itself.
    In double quotes a backslash keeps `$`, `"`, a backquote and itself from their meaning, as in the shell. A default may
    hold further `${...}`. COST: one pass pairs the braces."""
    if "$" not in text and not quoted:
        return (text,)
    opened: list[int] = []
    found: list[tuple[int, int, Any]] = []  # from where to where, and the match of a reference or else the text for it
    for token in re.finditer(r'\\[$"`\\]|\$\$|\$\{|\}' if quoted else r"\$\$|\$\{|\}", text):
        if token[0] == "${":
            opened.append(token.start())
        elif token[0] != "}":
            found.append((token.start(), token.end(), token[0][-1]))
        elif opened:
            if len(opened) > 10:
                raise Mistake("${...} inside ${...} more than ten levels deep")
            start = opened.pop()
            match = re.fullmatch(REFERENCE, text[start : token.end()])
            if match:
                while found and found[-1][0] > start:
                    found.pop()
                found.append((start, token.end(), match))
    parts: list[str | Reference] = []
    at = 0
    for start, end, part in found:
        if not isinstance(part, str):
            name, operator, word = part.groups("")
            part = Reference(name, operator, parse_template(word) if operator == ":-" else word)
        parts += [text[at:start], part]
        at = end
    return (*parts, text[at:])


def fill(template: Template, environment: Mapping[str, str]) -> str:
    """Return the text that a template makes with these variables. Raises Mistake where one has to be set and is not."""
    text = ""
    for part in template:
        name, operator, word = ("", "", "") if isinstance(part, str) else part
        value = part if isinstance(part, str) else environment.get(name)
        if value or (value is not None and not operator):
            text += value
        elif operator == ":-":
            text += fill(word, environment)
        else:
            raise Mistake(f"${{{name}}}: {word or 'is not set; set it, or give a default as ${' + name + ':-...}'}")
    return text


def split_words(text: str) -> list[str]:
    """Return the words between blanks and commas; there must be one."""
    words = text.replace(",", " ").split()
    if not words:
        raise Mistake("is empty")
    return words


LIMITS = "as core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack".split()
NAME = r"[A-Za-z0-9_.-]+"
REFERENCE = r"(?s)\$\{([A-Za-z_][A-Za-z0-9_.]*)(?:(:[-?])(.*))?\}"
# single-quoted, double-quoted, escaped, bare, none of these; COST: no two ways to match one text, so nothing to backtrack into
SHELL_PIECE = r"(?s)'([^']*)'|\"((?:\\.|[^\"\\])*)\"|(\\.)|((?:\$\{[^}]*\}|(?!\$\{)[^\s'\"\\])+)|(.)"

# Each option once: name, the kinds of section that have it (o overlord, s script, d daemon), parser, default as one
# would write it ("" is none), what the manual shows in place of that default, what it means. The README is made from it.
Option = namedtuple("Option", "name kinds parse default shown help")
SINKS = ("inherit", "prefix", "null")
OPTIONS = (
    Option("forever", "o", parse_boolean, "true", "",
           "daemons that set neither `respawns` nor `restart` are restarted for ever; `false`: they are not restarted"),
    Option("configdir", "o", parse_text, "/etc/overlord/", "",
           "folder of further config files, read alphabetically as if part of the main one; absent is fine"),
    Option("shutdown_timeout", "o", parse_positive, "9s", "",
           "from the stop request to the last SIGKILL, whatever else is configured (docker kills at 10 s)"),
    Option("shutdown_signals", "o", parse_signals, "TERM INT QUIT RTMIN+3", "",
           "what asks for shutdown (images set STOPSIGNAL: httpd `WINCH`, haproxy `USR1`)"),
    Option("socket", "o", parse_choice("abstract", "none", path=True), "abstract", "",
           "control socket, for the verbs that ask a running overlord: `abstract` needs no file; `/PATH` for a file, as a second "
           "overlord in one container needs it; `none` for none"),
    Option("log_level", "o", parse_choice("debug", "info", "warning", "error"), "info", "",
           "overlord's own messages, on stderr: `debug`, `info`, `warning`, `error`"),
    Option("log_format", "o", parse_choice("text", "json"), "text", "", "`text` or `json`, for overlord's own messages"),
    Option("output", "o", parse_choice(*SINKS, path=True), "inherit", "", "default of the units' `stdout` and `stderr`"),
    Option("cmd", "sd", parse_text, "", "required",
           "run by `/bin/sh -c`; a lone simple command leaves no shell behind, and with plain words none is run at all"),
    Option("dir", "sd", parse_text, "", "inherited", "working directory"),
    Option("uid", "sd", parse_text, "", "inherited",
           "user name (or number) to run as; its groups, `HOME`, `USER`, `LOGNAME`, `SHELL` follow, and the primary group "
           "unless `gid` says otherwise"),
    Option("gid", "sd", parse_text, "", "of `uid`", "group name (or number)"),
    Option("deps", "sd", parse_deps, "", "none",
           "ordered, comma-separated `name:state`; `name` alone is `name:ok`"),
    Option("env", "sd", parse_env, "", "none",
           "`KEY=value` pairs, one a line, quoted as a shell word; then `${...}` (not inside single quotes), which sees the "
           "earlier lines too"),
    Option("env_file", "sd", parse_paths, "", "none",
           "file(s) of `KEY=value` lines, read at each start: a value is taken as it stands, less the quotes around it, and `#` "
           "begins a comment line; a leading `-` makes a file optional; where others than root can change a name on the way, the "
           "unit's `uid` reads it"),
    Option("secrets", "sd", parse_secrets, "", "none",
           "names; `NAME` gets the content of the file that `NAME_FILE` names, else of `/run/secrets/NAME`, less the newline at "
           "its end; for this unit alone, and never shown; read as `env_file` is"),
    Option("umask", "sd", parse_number(0, 0o777, 8), "", "inherited", "octal, as `022`"),
    Option("nice", "sd", parse_number(-20, 19), "", "inherited", "-20 (first served) to 19"),
    Option("limits", "sd", parse_limits, "", "inherited",
           "as `nofile=65536 core=0`, in the units of setrlimit(2), or `K M G`; `SOFT:HARD` for two, `unlimited` for none"),
    Option("stdout", "sd", parse_choice(*SINKS, path=True), "", "`output`",
           "`inherit` the container's own, at no cost; `prefix`: captured, and passed on line by line as `NAME | line`; "
           "`/PATH` of a file to append to, with rotation; `null`"),
    Option("stderr", "sd", parse_choice("stdout", *SINKS, path=True), "", "`output`", "the same, or `stdout`: where that goes"),
    Option("log_max", "sd", parse_size, "10M", "", "size from which on a log file is rotated; `0` for never"),
    Option("log_keep", "sd", parse_number(0, 1000), "5", "", "how many rotated ones are kept, as `PATH.1` (the last) and so on"),
    Option("stop_signal", "sd", parse_signal, "TERM", "",
           "name or number, with or without `SIG`; `kill_mode` says to whom; what ignores it gets `TERM`"),
    Option("stop_timeout", "sd", parse_duration, "8s", "",
           "from the stop signal to SIGKILL of everything of the unit (with `kill_mode = process`, of the main process)"),
    Option("kill_mode", "sd", parse_choice("mixed", "all", "process"), "mixed", "",
           "who gets the stop signal: `mixed`: the main process, and once that is gone what it leaves behind; `all`: everything "
           "of the unit at once; `process`: the main process alone, and what it leaves behind stays (sshd, cron)"),
    Option("pidfile", "d", parse_choice(path=True), "", "none",
           "`/PATH` of the file in which a daemon that puts itself into the background names its main process; also where "
           "another one takes over (USR2 of gunicorn and nginx)"),
    Option("stop_cmd", "d", parse_text, "", "none",
           "shell command run instead of the stop signal, with `$MAINPID`, the unit's user, folder and environment; it may go on "
           "after the daemon has ended; SIGKILL to both still follows `stop_timeout`"),
    Option("on_failure", "sd", parse_choice("shutdown", "ignore"), "", "`shutdown`",
           "what the unit's final failure does to the container: `shutdown` or `ignore`"),
    Option("on_success", "sd", parse_choice("shutdown", "ignore"), "ignore", "", "the same for its final success"),
    Option("respawns", "sd", parse_respawns, "", "daemon: unlimited (0 when `forever=false` and `restart` is not set); script: 0",
           "how many times it may be restarted after it ended by itself, over overlord's life; `5/60s`: at most 5 in any 60 s"),
    Option("restart", "d", parse_choice("always", "on-failure", "never"), "", "`always`", "`always`, `on-failure` or `never`"),
    Option("success", "sd", parse_success, "0", "", "exit codes (and signal names) that count as success"),
    Option("backoff", "sd", parse_backoff, "100ms..30s", "",
           "delay before a restart: none for the first one, then doubling from the lower to the upper bound with up to 10 % "
           "jitter; from the beginning again after the unit stayed up 10 s or the last delay, whichever is longer; `0` for "
           "none ever"),
    Option("warmup", "d", parse_duration, "", "`1s`; `0` where `ready` is given", "how long the process must live to be OK"),
    Option("ready", "d", partial(parse_probe, more=("notify", "fd", "log")), "", "none",
           "when it is up: `tcp:[HOST:]PORT`, `unix:PATH`, `http://HOST[:PORT]/PATH`, `file:PATH`, `cmd:SHELL`, `notify` "
           "(sd_notify), `fd:N` (s6: a newline on that descriptor), `log:REGEX` (a captured line)"),
    Option("ready_timeout", "d", parse_positive, "60s", "", "not ready by then: stopped and counted as a failure"),
    Option("health", "d", parse_probe, "", "none",
           "whether it still answers: a probe as for `ready`, but the last three"),
    Option("health_interval", "d", parse_positive, "10s", "", "between two of these"),
    Option("health_timeout", "d", parse_positive, "3s", "", "for one try of a probe"),
    Option("health_retries", "d", parse_number(1, 1000), "3", "", "failures in a row after which it is restarted, as a failure"),
    Option("wait_for", "sd", parse_probes, "", "none",
           "probes that must pass before each start, one a line, for what lives outside the container; for ever, as `waiting`"),
    Option("max_age", "d", parse_max_age, "", "none",
           "process lifetime; then it is stopped and started again whatever `restart` says, not counted in `respawns`; "
           "`1h~10m`: a random time up to 10 m sooner"),
    Option("timeout", "s", parse_positive, "", "none", "a script still running then is stopped and has failed"),
    Option("schedule", "s", parse_schedule, "", "none",
           "`*/5 * * * *`, `@hourly` or `every 10m`: also run by the clock, in the container's time zone; a run that is still "
           "going is not doubled, and a failure never ends the container"),
    Option("forward", "d", parse_forward, "HUP", "",
           "signals passed on to it; `HUP>USR2` sends another, `none` for none; never one that would kill it"),
    Option("count", "d", parse_number(0, 1000), "", "none",
           "instances `NAME-1` to `NAME-N`, each with `OVERLORD_INSTANCE`, and a dependency on `NAME` means all of them; `0`: "
           "none, and a dependency on it is met"),
    Option("autostart", "d", parse_boolean, "true", "", "`false`: started only as a dependency or by hand"),
)
# Options that shape the process: a reload that changes one restarts the unit.
SHAPING = frozenset("kind cmd dir uid gid env env_file secrets umask nice limits stdout stderr ready pidfile".split())
PROBED = ("ready", "health", "wait_for")
LATER = ("cmd", "stop_cmd", "env")  # options that the shell, or the start, expands
KINDS = {"overlord": "o", "script": "s", "daemon": "d"}
SECTIONS = "write [daemon:NAME], [script:NAME] or [overlord]"
BY_KIND = {kind: {option.name: option for option in OPTIONS if letter in option.kinds} for kind, letter in KINDS.items()}
DEFAULTS = {option.name: option.parse(option.default) if option.default else None for option in OPTIONS}
if TYPE_CHECKING:

    class Spec(tuple[Any, ...]):  # its fields come from the table
        _fields: tuple[str, ...]
        count: int  # type: ignore[assignment]  # a field, not tuple's method

        def __new__(cls, **values: Any) -> Spec: ...
        def __getattr__(self, name: str) -> Any: ...

    Settings = Spec
    Template = tuple[str | Reference, ...] | str
else:
    Settings = namedtuple("Settings", BY_KIND["overlord"], defaults=[DEFAULTS[name] for name in BY_KIND["overlord"]])
    names = [name for name in DEFAULTS if name not in BY_KIND["overlord"]]
    Spec = namedtuple("Spec", ["name", "kind", "instance", *names], defaults=[DEFAULTS[name] for name in names])
Config = namedtuple("Config", "settings units order")  # units: name -> Spec; order: dependencies first


def section_of(spec: Spec) -> str:
    """Return the section of the configuration that defines a unit."""
    return f"{spec.kind}:{spec.name.rpartition('-')[0] if spec.instance else spec.name}"


def is_captured(spec: Spec) -> bool:
    """Tell whether overlord reads what a unit writes."""
    return not {spec.stdout, spec.stderr} <= {"inherit", "null", "stdout"}


def plain_spec(kind: str, output: str) -> Spec:
    """Return what a unit is that has no options. COST: what its options leave as it is, all units share."""
    restart, respawns = ("always", None) if kind == "daemon" else ("on-failure", (0, 0.0))
    values: dict[str, Any] = dict.fromkeys(("deps", "env", "env_file", "secrets", "limits", "wait_for"), ())
    values.update(stdout=output, stderr=output, warmup=1.0, restart=restart, respawns=respawns)
    return Spec(name="", kind=kind, instance=0, **values)


def main_spec(argv: Iterable[str], daemons: Iterable[str]) -> Spec:
    """Return the main command (Docker's CMD) as a unit: a script that needs every wanted daemon and ends it all."""
    values: dict[str, Any] = {"cmd": tuple(argv), "deps": tuple((name, "up") for name in daemons), "env": (), "forward": ()}
    values.update(restart="never", on_failure="shutdown", on_success="shutdown")
    values.update(stop_timeout=1e9)  # none of its own: a shutdown gives it its share, and nothing else stops it
    return Spec(name=MAIN, kind="main", instance=0, **values)


class Mistakes(Exception):
    """All that is wrong with a configuration: lines of `FILE:LINE: [section] option: what`, in the order of the files."""

    def __str__(self) -> str:
        return f"{len(self.args[0])} mistake{'s' if len(self.args[0]) > 1 else ''} in the configuration"


class Reader(RawConfigParser):
    """configparser, to which any line that is no header and no further line of a value is an option; `Draft` tells which are."""

    OPTCRE = re.compile(r"(?P<option>[^=:]*[=:]?)(?P<vi>)(?P<value>.*)")


class Draft:
    """The configuration while it is read: what each file says and where, and every mistake so far."""

    GUARD = "\1"  # stands before each line: inside a value, configparser would eat its indentation
    DROPPED = "="  # in the place of the name of an option that does not count

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment
        self.files: list[tuple[int, str]] = []  # each with how many lines came before it
        self.lines = 0  # of all files so far; a place is the number of a line, counted on from file to file
        self.sections: dict[str, dict[str, str]] = {}  # section -> its options, as they were written
        self.headers: dict[str, int] = {}  # section -> where it stands first
        self.places: dict[tuple[str, str], int] = {}  # (section, option) -> where its value stands
        self.parsed: dict[tuple[str, str], Any] = {}  # COST: what many units say alike is read and held once
        self.mistakes: list[tuple[int, str]] = []
        self.parser = Reader(strict=False, interpolation=None, comment_prefixes=(), default_section="\0")
        self.parser.converters.clear()  # COST: each section would get three methods of its own
        self.parser.SECTCRE = self  # type: ignore[assignment]  # it is asked for `match` and `group`
        self.parser.optionxform = self.option  # type: ignore[assignment,method-assign]

    def read_text(self, path: str, content: bytes) -> None:
        """Take in one more file; what it says goes over what earlier files said."""
        first = self.begin(path, content.count(b"\n") + 1)
        at, what = content.find(b"\0"), "a NUL byte"
        try:
            text = content.decode().lstrip("\ufeff")  # COST: the codec `utf-8-sig` is a module of its own
        except UnicodeDecodeError as error:
            at, what = error.start, f"byte 0x{content[error.start]:02x} is not UTF-8"
        if at >= 0:
            self.mistake(first + content.count(b"\n", 0, at), "", what)
            return
        self.first, self.place = first, first - 1
        self.section: str | None = ""  # None: a header that is none
        self.opened: set[str] = set()  # sections of this file
        for part in re.split(r"\n(?=\[)", text):  # COST: configparser would hold twice as much, did it read all of it at once
            self.parser.read_file(self.lines_of(part))
            for section in self.parser.sections():
                options = ((name, value) for name, value in self.parser.items(section) if name != self.DROPPED)
                self.sections.setdefault(section, {}).update(options)
                self.parser.remove_section(section)

    def begin(self, path: str, lines: int) -> int:
        """Note that a file of so many lines comes next; return the place of the first."""
        self.files.append((self.lines, path))
        self.lines += lines
        return self.lines - lines + 1

    def lines_of(self, text: str) -> Iterator[str]:
        """Yield the lines for configparser, and remember the one that it looks at. PYTHON: it keeps no line numbers."""
        for line in text.split("\n"):
            self.place += 1
            self.line = line.strip()
            if line[:1] not in ("#", ";"):
                yield line[: len(line) - len(line.lstrip())] + self.GUARD + line.rstrip() if self.line else ""

    def match(self, _: str) -> Draft | None:
        """Tell whether a line is a header, in the place of configparser's pattern. A comment is one of the same section again:
        it ends the value before it."""
        if self.line[0] == "[":
            header = re.fullmatch(r"\[\s*([^\]\s][^\]]*)\]\s*(?:[#;].*)?", self.line)
            self.section = ":".join(part.strip() for part in header[1].split(":", 1)) if header else None
            if self.section is None:
                self.mistake(self.place, "", f"{self.line!r} is no section, {SECTIONS}")
            elif self.section in self.opened:
                self.mistake(self.place, f"[{self.section}]", "stands there twice in this file")
            else:
                self.opened.add(self.section)
                self.headers.setdefault(self.section, self.place)
        elif self.line[0] not in "#;":
            if self.section != "":
                return None
            self.mistake(self.place, "", f"{self.line!r} stands before the first [section]")
        return self

    def group(self, _: str) -> str | None:
        """Return the section that a header opens."""
        return self.section

    def option(self, _: str) -> str:
        """Return the name of the option whose line configparser looks at, or that it does not count."""
        name, *value = re.split("[=:]", self.line, maxsplit=1)
        name = sys.intern(name.strip().lower())  # COST: a thousand units have the same few
        if self.section is None:
            return self.DROPPED
        if not (name and value) or len(name.split()) > 1:
            text = f"{self.line!r} is not of the form option = value; indent it to go on a value"
            self.mistake(self.place, f"[{self.section}]", text)
        elif self.places.get((self.section, name), 0) >= self.first:
            self.mistake(self.place, f"[{self.section}] {name}", "stands there twice in this file")
        else:
            self.places[self.section, name] = self.place
            return name
        return self.DROPPED

    def mistake(self, place: int, subject: str, text: str) -> None:
        """Note what is wrong, and where."""
        before, path = [file for file in self.files if file[0] < place][-1]
        text = " ".join(text.split("\n"))
        self.mistakes.append((place, f"{path}:{place - before}: {subject}{': ' if subject else ''}{text}"))

    def text_of(self, section: str, name: str) -> str:
        """Return a value as it was written, less what indentation its further lines share."""
        first, *rest = self.sections[section][name].split("\n")
        rest = [line[len(self.GUARD) :] for line in rest]
        margin = min((len(line) - len(line.lstrip()) for line in rest if line.strip()), default=0)
        return "\n".join([first, *(line[margin:] for line in rest)]).strip()

    def setting(self, name: str) -> str:
        """Return an option of [overlord] as it was written, or its default. Raises Mistake."""
        at = ("overlord", name)
        return self.expand(self.text_of(*at)) if at in self.places else BY_KIND["overlord"][name].default

    def expand(self, text: str) -> str:
        """Return a text with what the environment says in it. Raises Mistake."""
        return fill(parse_template(text), self.environment)

    def value(self, section: str, option: Option) -> Any:
        """Return the parsed value of an option that is there, or its default after noting the mistake."""
        text = self.text_of(section, option.name)
        try:
            if option.name in LATER:
                return option.parse(text) if text != "none" or option.shown != "none" else None
            key = (option.name, text)
            if key not in self.parsed:
                # A command is for the shell, which expands it itself; in `wait_for`, each line is a probe.
                pieces = text.split("\n") if option.name == "wait_for" else [text]
                shelled = option.name in PROBED
                value = "\n".join(each if shelled and each[:4] == "cmd:" else self.expand(each) for each in pieces)
                none = value == "none" and (option.shown in ("none", "inherited") or option.name == "socket")
                self.parsed[key] = None if none else option.parse(value)
            return self.parsed[key]
        except ValueError as mistake:  # a Mistake
            self.mistake(self.places[section, option.name], f"[{section}] {option.name}", str(mistake))
            return DEFAULTS[option.name]

    def values(self, section: str, kind: str) -> dict[str, Any]:
        """Return the options that a section gives, parsed; note those that its kind does not have."""
        found = {}
        for name in self.sections.get(section, ()):
            if name in BY_KIND[kind]:
                found[name] = self.value(section, BY_KIND[kind][name])
                continue
            owners = "] and [".join(other for other in KINDS if name in BY_KIND[other])
            detail = f"is an option of [{owners}] alone" if owners else f"unknown option{suggest(name, BY_KIND[kind])}"
            self.mistake(self.places[section, name], f"[{section}] {name}", detail)
        self.sections.pop(section, None)  # COST: the units are made in the memory that it leaves
        return found

    def validate(self) -> Config:
        """Return the validated configuration. Raises Mistakes with all that was found."""
        vars(self.parser).clear()  # COST: it holds the draft and itself, so both would stay
        settings = Settings(**self.values("overlord", "overlord"))
        place = self.places.get(("overlord", "configdir"), 0)
        if self.files[1:] and place > self.files[1][0]:
            self.mistake(place, "[overlord] configdir", "belongs into the main file alone")
        defaults = {kind: self.values(kind, kind) for kind in ("script", "daemon")}
        plain = {kind: plain_spec(kind, settings.output) for kind in defaults}
        units: dict[str, Spec] = {}
        for section, place in self.headers.items():
            kind, _, name = section.partition(":")
            if section in KINDS:
                continue
            if kind not in defaults or not re.fullmatch(NAME, name):
                self.unknown_section(place, section)
            elif name in units:
                self.mistake(place, f"[{section}]", f"the name is taken by [{units[name].kind}:{name}]")
            else:
                units[name] = self.unit(section, kind, name, place, settings, defaults[kind], plain[kind])
        self.check_deps(units)
        order, cycles = sort_units(units)
        for cycle in cycles:
            at = self.locate_option(units[cycle[0]], "deps")
            self.mistake(*at, f"a cycle: {' -> '.join(cycle)}; one of these has to start first")
        if any(unit.count is not None for unit in units.values()):
            units = self.number(units)
            order = sort_units(units)[0]
        if self.mistakes:
            raise Mistakes([text for _, text in sorted(set(self.mistakes))])
        return Config(settings, units, order)

    def unit(self, section: str, kind: str, name: str, place: int, settings: Settings, base: dict[str, Any], plain: Spec) -> Spec:
        """Return the spec of one unit: its own options over those of its kind over the defaults, in `plain`."""
        given = {**base, **self.values(section, kind)}
        if "cmd" not in given:
            self.mistake(place, f"[{section}] cmd", "is missing: say what to run")
        if given.get("ready"):
            given.setdefault("warmup", 0.0)
        if kind == "daemon" and not (settings.forever or "restart" in given):
            given.setdefault("respawns", (0, 0.0))
        given = {option: value for option, value in given.items() if value is not None or option == "respawns"}
        unit: Spec = plain._replace(name=name, **given)
        if unit.env and not unit.env_file and not unit.secrets:
            try:
                unit = unit._replace(env=fill_env(unit.env, self.environment))
            except Mistake as mistake:
                self.mistake(*self.locate_option(unit, "env"), str(mistake))
        at = self.locate_option(unit, "forward")
        for source, _ in unit.forward if at[0] != place else ():  # the default gives way in silence
            if source in settings.shutdown_signals:
                self.mistake(*at, f"{spell_signal(source)} asks for shutdown and is never forwarded")
        if unit.ready and unit.ready.kind == "log" and not is_captured(unit):
            self.mistake(*self.locate_option(unit, "ready"), "log: needs captured output, write stdout = prefix")
        return unit

    def number(self, units: dict[str, Spec]) -> dict[str, Spec]:
        """Return the units with the instances of each in its place, and all of them wherever it is named."""
        given = {name: unit.count for name, unit in units.items() if unit.count is not None}
        names = {name: [f"{name}-{number + 1}" for number in range(given[name])] if name in given else [name] for name in units}
        for name, unit in units.items():
            for clash in [other for other in names[name] if other != name and other in units]:
                text = f"the name is taken by an instance of [{unit.kind}:{name}], which has a count of {unit.count}"
                section = f"{units[clash].kind}:{clash}"
                self.mistake(self.headers[section], f"[{section}]", text)
        numbered = {}
        for name, unit in units.items():
            deps = tuple((other, how) for dep, how in unit.deps for other in names.get(dep, ()))
            for number, instance in enumerate(names[name], 1):
                numbered[instance] = unit._replace(name=instance, instance=number if name in given else 0, count=None, deps=deps)
        return numbered

    def unknown_section(self, place: int, section: str) -> None:
        """Note a section that is none, with the nearest that would be."""
        kind, _, name = section.partition(":")
        if section == "DEFAULT":
            text = "write [daemon] or [script] for the defaults of all units of that kind"
        elif kind in ("daemon", "script"):
            text = f"{name!r} is no name: letters, digits, _ . - make one"
        else:
            near = suggest(kind, KINDS) if name else ""
            near = near.replace('"?', f':{name}"?') if name and "overlord" not in near else near or suggest(section, KINDS)
            text = f"unknown section{near or f', {SECTIONS}'}"
        self.mistake(place, f"[{section}]", text)

    def locate_option(self, unit: Spec, option: str) -> tuple[int, str]:
        """Return where a unit's option stands (its kind's section may give it) and how to name it."""
        section = f"{unit.kind}:{unit.name}"
        owner = section if (section, option) in self.places else unit.kind
        return self.places.get((owner, option), self.headers[section]), f"[{owner}] {option}"

    def check_deps(self, units: dict[str, Spec]) -> None:
        """Note each dependency that does not exist, or is stated in a state that its kind does not have."""
        hints: dict[str, str] = {}  # COST: a hint looks at every name, and many may miss the same unit
        for unit in units.values():
            for name, state in unit.deps:
                place, subject = self.locate_option(unit, "deps")
                states = (OK, "always") if name in units and units[name].kind == "script" else (OK, "bounce")
                if name not in units:
                    if name not in hints:
                        hints[name] = suggest(name, units if len(hints) < 10 else ())
                    self.mistake(place, subject, f"there is no unit {name!r}{hints[name]}")
                elif state not in states:
                    known = f"{name} is a {units[name].kind}, which has the states {' and '.join(states)}"
                    self.mistake(place, subject, f"{name}:{state}: {known}{suggest(state, states)}")
                elif state == "bounce" and unit.kind == "script":
                    self.mistake(place, subject, f"{name}:bounce: a script is not restarted with a daemon, write {name}:ok")


def is_shaped(old: Spec, new: Spec) -> bool:
    """Tell whether two definitions of a unit make different processes."""
    return any(getattr(old, key) != getattr(new, key) for key in SHAPING)


def compare(old: Config, new: Config) -> dict[str, str]:
    """Return in words what becomes of each unit whose definition differs."""
    news = {}
    for name in [*new.units, *(name for name in old.units if name not in new.units)]:
        one, two = old.units.get(name), new.units.get(name)
        if not one or not two:
            news[name] = "new" if two else "removed"
        elif one != two and name != MAIN:
            differ = [key for key in Spec._fields if getattr(one, key) != getattr(two, key)]
            news[name] = f"{'changed' if SHAPING.intersection(differ) else 'changed in place'}: {', '.join(differ)}"
    return news


def pack_config(read: Callable[[], Config], base: Config) -> bytes:
    """Return as bytes what is read, or the mistakes. COST: of a definition that is as in `base`, its name alone."""
    import pickle

    try:
        config = read()
    except Mistakes as mistakes:
        return pickle.dumps([*mistakes.args[0], f"{mistakes}, nothing has changed"])
    units = {name: None if spec == base.units.get(name) else spec for name, spec in config.units.items()}
    return pickle.dumps(config._replace(units=units))


def unpack_config(data: bytes, base: Config) -> Config | list[str]:
    """Return what `pack_config` was given, with the same base, or the mistakes."""
    import _pickle  # type: ignore[import-not-found]  # COST: `pickle` has the same, and much in Python

    found: Config | list[str] = _pickle.loads(data)
    return found if isinstance(found, list) else found._replace(units={n: s or base.units[n] for n, s in found.units.items()})


# ========================================================================================================== Machine
# One unit: (spec, status, event, now, chance) -> (status, actions). A cell of TABLE is a function, or None where the
# event means nothing in that state, or `never`: it cannot come.

# `since`: when the state was entered; `deadline`: what it means is the state's affair; `pid`: its main process, and after the
# death of that its number as long as anything of the unit lives; `left`: it is dead, and what it left behind lives; `oks`: how
# often it got OK; `up`: this process got OK; `ready`: it is known to be ready, or need not be; `named`: so is its main process,
# if that is for `pidfile` to name; `starts`: how many it had, the last at `started`; `lived`: for how long, once it is dead;
# `expires`: when max_age is reached; `stale`: why the process is not the one wanted any more; `then`: its end is that of a
# "stop", or one to "fail", else its own; `code`: with which; `delay`: the last back-off; `respawned`, `recent`: restarts after
# it ended by itself, ever and their instants where `respawns` has a window; `why`: the reason, in words; `hint`: what is known
# of it.
Status = namedtuple(
    "Status",
    "state since deadline pid left oks up ready named starts started lived expires stale then code delay respawned recent why"
    " hint",
    defaults=(IDLE, 0.0, None, 0, False, 0, False, False, False, 0, 0.0, 0.0, None, "", "", 0, None, 0, (), "", ""),
)


# PYTHON: a tuple made from an iterator, as `_replace` does it, leaves one more in the interpreter's list of free ones, up to
# 2,000 of each length below 21: 400 KB here. One made from a list does not.
Status._make = classmethod(lambda cls, fields: tuple.__new__(cls, list(fields)))  # type: ignore[assignment,method-assign]


class Impossible(Exception):
    """An event that cannot come in that state: an error in overlord itself."""


def step(spec: Spec, status: Status, event: Event, now: float, chance: float) -> tuple[Status, list[Any]]:
    """Return the next status of a unit and what has to be done. `chance` is from 0 to 1. Raises Impossible."""
    cell = TABLE[status.state][EVENTS.index(event.kind)]
    return cell(spec, status, event, now, chance) if cell else (status, [])


def never(spec: Spec, status: Status, event: Event, now: float, chance: float) -> tuple[Status, list[Any]]:
    """Refuse an event that cannot come."""
    raise Impossible(f"{spec.name}: {event.kind} in state {status.state}")


def enter(status: Status, state: str, now: float, **changes: Any) -> Status:
    """Return the status in a new state, without a deadline unless one is given."""
    return status._replace(**{"state": state, "since": now, "deadline": None, **changes})


def enlist(spec: Spec, status: Status, event: Event, now: float, chance: float) -> tuple[Status, list[Any]]:
    """Start the way up: wait until the Fleet says that what it depends on is there."""
    if status.state == OK and spec.kind == "daemon":
        return status, []
    return enter(status, WAITING, now, deadline=now + REMINDER if spec.kind == "main" else None, then="", why=event.why), []


def request_spawn(spec: Spec, status: Status, event: Event, now: float, chance: float) -> tuple[Status, list[Any]]:
    """Ask for the process; `spawned` or `unspawned` answers before anything else happens to the unit."""
    return enter(status, STARTING if spec.kind == "daemon" else RUNNING, now, up=False, left=False, why=""), [Spawn(spec.name)]


def note_spawned(spec: Spec, status: Status, event: Event, now: float, chance: float) -> tuple[Status, list[Any]]:
    """Note the pid of the new process and set the clocks that run from its start."""
    said: list[Any] = [Say("info", spec.name, f"started (pid {event.pid})")]
    expires = now + spec.max_age[0] - spec.max_age[1] * chance if spec.max_age else None
    status = status._replace(pid=event.pid, starts=status.starts + 1, started=now)
    if spec.kind != "daemon":
        return status._replace(deadline=now + spec.timeout if spec.timeout else None), said
    said += [Test(spec.name, purpose) for purpose in ("ready", "pidfile") if getattr(spec, purpose)]
    status = status._replace(expires=expires, ready=not spec.ready, named=not spec.pidfile)
    status, actions = settle(spec, status, event, now, chance)
    return status, said + actions


def settle(spec: Spec, status: Status, event: Event, now: float, chance: float) -> tuple[Status, list[Any]]:
    """A daemon is OK if it is ready, known, and through its warm-up; else its deadline is what comes next."""
    warm = status.started + spec.warmup
    if not (status.ready and status.named):
        return status._replace(deadline=status.started + spec.ready_timeout), []
    return prove(spec, status, event, now, chance) if now >= warm else (status._replace(deadline=warm), [])


def ripen(spec: Spec, status: Status, event: Event, now: float, chance: float) -> tuple[Status, list[Any]]:
    """A daemon has lived through its warm-up, or it has failed: it is not ready in time, or `pidfile` names no process."""
    if status.ready and status.named:
        return prove(spec, status, event, now, chance)
    what = f"{spec.pidfile} names no process of it" if status.ready else "not ready"
    why = f"{what} within {spell_duration(spec.ready_timeout)}"
    return halt(spec, status, Event("stop", why, fails=True), now, chance)


def greet(spec: Spec, status: Status, event: Event, now: float, chance: float) -> tuple[Status, list[Any]]:
    """A daemon is ready."""
    if not status.pid or status.ready:
        return status, []
    return settle(spec, status._replace(ready=True), event, now, chance)


def hand_over(spec: Spec, status: Status, event: Event, now: float, chance: float) -> tuple[Status, list[Any]]:
    """`pidfile` or MAINPID= names the main process: it may be the one that overlord started, or another of the unit. The warm-up
    is that of the main process."""
    if not status.pid or (event.pid == status.pid and status.named):
        return status, []
    fresh = status.state == STARTING and event.pid != status.pid
    said = [Say("info", spec.name, event.why)] if event.pid != status.pid else []
    status = status._replace(pid=event.pid, left=False, named=True, started=now if fresh else status.started)
    if status.state == OK:
        return status._replace(deadline=status.expires), said
    status, actions = settle(spec, status, event, now, chance)
    return status, said + actions


def prove(spec: Spec, status: Status, event: Event, now: float, chance: float) -> tuple[Status, list[Any]]:
    """A daemon is OK."""
    lived = spell_duration(now - status.started)
    text = f"ok (ready after {lived})" if spec.ready else f"ok (up for {lived})" if spec.warmup else "ok"
    actions: list[Any] = [Say("info", spec.name, text)]
    if spec.health:
        actions.append(Test(spec.name, "health"))
    return enter(status, OK, now, deadline=status.expires, oks=status.oks + 1, up=True), actions


def age(spec: Spec, status: Status, event: Event, now: float, chance: float) -> tuple[Status, list[Any]]:
    """A daemon has reached its `max_age`, or its main process is gone and no other one was named."""
    if status.left:
        return abandon(spec, status, event, now, chance)
    why = f"max_age reached after {spell_duration(now - status.started)}"
    return outdate(spec, status._replace(deadline=None), Event("stale", why), now, chance)


def outdate(spec: Spec, status: Status, event: Event, now: float, chance: float) -> tuple[Status, list[Any]]:
    """The process is not the one wanted any more: the Fleet says when it is replaced. A failure is the better reason."""
    if not status.pid or (status.stale and not event.fails):
        return status, []
    return status._replace(stale=event.why, then="fail" if event.fails else status.then), []


def time_out(spec: Spec, status: Status, event: Event, now: float, chance: float) -> tuple[Status, list[Any]]:
    """Stop a script that has used up its `timeout`."""
    return halt(spec, status, Event("stop", f"timeout {spell_duration(spec.timeout)} reached", fails=True), now, chance)


def remind(spec: Spec, status: Status, event: Event, now: float, chance: float) -> tuple[Status, list[Any]]:
    """The main command still waits: the Fleet, which knows the whole chain, says for whom."""
    return status._replace(deadline=now + REMINDER), []


def halt(spec: Spec, status: Status, event: Event, now: float, chance: float) -> tuple[Status, list[Any]]:
    """Send the stop signal to whom `kill_mode` says; what is left at the deadline is killed."""
    if not status.pid:  # RACE: its Spawn is still among the actions to be performed, and will find itself overtaken
        return withdraw(spec, status, event, now, chance)
    signum = event.signum or spec.stop_signal
    limit = spec.stop_timeout if event.limit is None else min(spec.stop_timeout, event.limit)
    status = enter(status, STOPPING, now, deadline=now + limit, stale="", then="fail" if event.fails else "stop", why=event.why)
    by_command = spec.stop_cmd and not status.left
    said = Say("info", spec.name, f"stopping ({'stop_cmd' if by_command else spell_signal(signum)}): {event.why}")
    sent = Kill(spec.name, status.pid, signum, status.left or spec.kill_mode == "all")
    return status, [said, StopCommand(spec.name, status.pid) if by_command else sent]


def hasten(spec: Spec, status: Status, event: Event, now: float, chance: float) -> tuple[Status, list[Any]]:
    """A stop while stopping: what comes of it is not its own doing, the earlier deadline stays."""
    if event.limit is not None and status.deadline is not None:
        status = status._replace(deadline=min(status.deadline, now + event.limit))
    return status._replace(then="stop", why=event.why), []


def revive(spec: Spec, status: Status, event: Event, now: float, chance: float) -> tuple[Status, list[Any]]:
    """Asked for while it stops: it comes again once it is gone, however it ends."""
    return status._replace(then="stop"), []


def kill_rest(spec: Spec, status: Status, event: Event, now: float, chance: float) -> tuple[Status, list[Any]]:
    """The time to stop is over: SIGKILL to everything of it. LINUX: only a process stuck in the kernel survives it."""
    why = f"not gone after {spell_duration(now - status.since)}, killing it"
    whole = status.left or spec.kill_mode != "process"
    return status._replace(deadline=None), [Kill(spec.name, status.pid, SIGNALS["KILL"], whole, why)]


def withdraw(spec: Spec, status: Status, event: Event, now: float, chance: float) -> tuple[Status, list[Any]]:
    """Stop a unit that has no process: nothing to wait for."""
    if event.wanted:
        return enlist(spec, status, event, now, chance)
    said = [Say("info", spec.name, f"stopped ({event.why})")] if event.why == BY_HAND else []
    return enter(status, STOPPED, now, then="", why=event.why), said


def fall(spec: Spec, status: Status, event: Event, now: float, chance: float) -> tuple[Status, list[Any]]:
    """The main process has ended by itself: what it left behind goes first, unless `pidfile` may name a main process there."""
    end = {"code": event.code, "lived": now - status.started, "then": "", "why": event.why, "hint": event.hint}
    status = status._replace(left=event.left, **end)
    if not event.left:
        return conclude(spec, status, event, now, chance)
    if spec.pidfile and (status.state == OK or not event.code):
        wait = HANDOVER if status.state == OK else spec.ready_timeout - status.lived
        return status._replace(named=False, deadline=now + wait), [Test(spec.name, "pidfile")]
    return abandon(spec, status, event, now, chance)


def abandon(spec: Spec, status: Status, event: Event, now: float, chance: float) -> tuple[Status, list[Any]]:
    """Stop what the main process left behind."""
    why = f"pid {status.pid} {spell_end(status.code)}, stopping what it left behind"
    status = enter(status, STOPPING, now, deadline=now + spec.stop_timeout, stale="")
    return status, [Kill(spec.name, status.pid, spec.stop_signal, True, why)]


def note_main_gone(spec: Spec, status: Status, event: Event, now: float, chance: float) -> tuple[Status, list[Any]]:
    """The main process has ended while being stopped: now the stop signal is for what it leaves behind."""
    status = status._replace(code=event.code, lived=now - status.started, left=event.left)
    if not event.left:
        return conclude(spec, status, event, now, chance)
    why = f"pid {status.pid} {spell_end(status.code)}, stopping what it left behind"
    return status, [Kill(spec.name, status.pid, spec.stop_signal if status.deadline is not None else SIGNALS["KILL"], True, why)]


def conclude(spec: Spec, status: Status, event: Event, now: float, chance: float) -> tuple[Status, list[Any]]:
    """Nothing of the unit lives any more: on request, to be started again, or by itself."""
    end = f"pid {status.pid} {spell_end(status.code)}"
    steady = status.lived >= max(STEADY, status.delay or 0.0)
    gone = status._replace(pid=0, left=False, stale="", delay=None if steady else status.delay)
    if status.then == "stop" or not event.wanted:
        again = ", restarting" if event.wanted else ""
        took = spell_duration(now - status.since if status.state == STOPPING else 0.0)
        gone = enter(gone, WAITING if again else STOPPED, now, then="")
        return gone, [Say("info", spec.name, f"stopped in {took} ({end}){again}")]
    end += f" after {spell_duration(status.lived)}"
    early = spec.kind == "daemon" and not status.up
    success = status.code in spec.success and not early and status.then != "fail"
    if status.then == "fail":
        end = f"{status.why}, {end}"
    elif status.why:  # it never got as far as the command
        end = f"cannot start: {status.why}"
    elif early and not status.ready:
        end += ", before it was ready"
    elif early and not status.named:
        end += f", and {spec.pidfile} names no process of it"
    elif early and spec.warmup:
        end += f", before its warmup of {spell_duration(spec.warmup)} was over"
    end += f": {status.hint}" if status.hint and not success else ""
    if spec.kind == "script" and success:
        return enter(gone, OK, now, oks=status.oks + 1, then="", why=end), [Say("info", spec.name, f"ok ({end})")]
    gone = gone._replace(then="", code=status.code if success else status.code or 1)
    return end_run(spec, gone, end, success, now, chance)


def miss(spec: Spec, status: Status, event: Event, now: float, chance: float) -> tuple[Status, list[Any]]:
    """There is no process: overlord could not make one, or a script that has to run before failed."""
    if not event.wanted:
        return withdraw(spec, status, event, now, chance)
    status, end = status._replace(code=1), f"cannot start: {event.why}"
    if not event.passing:
        return end_run(spec, status, end, False, now, chance)
    return retry(spec, status, end, FORK_DELAY, now, chance)  # no fault of the unit, so not held against it


def end_run(spec: Spec, status: Status, end: str, success: bool, now: float, chance: float) -> tuple[Status, list[Any]]:
    """Restart a unit that ended by itself, or leave it ended for good, as `restart` and `respawns` say."""
    detail = ""
    if spec.restart == "always" or (spec.restart == "on-failure" and not success):
        count, window = spec.respawns or (0, 0.0)
        recent = tuple(instant for instant in status.recent if instant > now - window)
        if spec.respawns is None or (len(recent) if window else status.respawned) < count:
            status = status._replace(recent=(*recent, now) if window else (), respawned=status.respawned + 1)
            return retry(spec, status, end, 0.0, now, chance)
        if count:
            detail = f" (respawns = {count}{'/' + spell_duration(window) if window else ''}, used up)"
    state, level = (DONE, "info") if success else (FAILED, "error")
    if spec.kind == "main" and not end.startswith("cannot"):
        return enter(status, state, now, why=end), [Say("info", spec.name, end)]
    final = state == FAILED and spec.kind != "main"
    return enter(status, state, now, why=end), [Say(level, spec.name, f"{state}: {end}{detail}", final)]


def retry(spec: Spec, status: Status, end: str, least: float, now: float, chance: float) -> tuple[Status, list[Any]]:
    """Restart after the back-off: none at first (a deadline that is due at once), then doubling, with up to 10 % on top."""
    low, high = spec.backoff
    delay = 0.0 if status.delay is None else min(high, max(low, status.delay * 2))
    wait = max(least, delay * (1 + chance / 10))
    said = [Say("warning", spec.name, f"{end}, restarting" + (f" in {spell_duration(wait)}" if wait else ""))]
    return enter(status, BACKOFF, now, deadline=now + wait, delay=delay, why=end), said


TABLE: dict[str, tuple[Callable[..., tuple[Status, list[Any]]] | None, ...]] = {
    # state    want    start   spawned  unspawned  barred  exited  emptied   deadline  stop      stale    ready  handed
    IDLE:     (enlist, never,  never,   never,     never,  never,  never,    never,    None,     None,    None,  None),
    WAITING:  (None,   request_spawn, never,   never,     miss,   never,  never,    remind,   withdraw, None,    None,  None),
    STARTING: (None,   never,  note_spawned,   miss,      never,  fall,   conclude, ripen,    halt,     outdate, greet, hand_over),
    OK:       (enlist, never,  never,   never,     never,  fall,   conclude, age,      halt,     outdate, None,  hand_over),
    RUNNING:  (None,   never,  note_spawned,   miss,      never,  fall,   never,    time_out, halt,     outdate, None,  None),
    STOPPING: (revive, never,  never,   never,     never,  note_main_gone,   conclude, kill_rest,     hasten,   None,    None,  None),
    BACKOFF:  (enlist, never,  never,   never,     never,  never,  never,    enlist,   withdraw, None,    None,  None),
    STOPPED:  (enlist, never,  never,   never,     never,  never,  never,    never,    None,     None,    None,  None),
    DONE:     (enlist, never,  never,   never,     never,  never,  never,    never,    None,     None,    None,  None),
    FAILED:   (enlist, never,  never,   never,     never,  never,  never,    never,    None,     None,    None,  None),
}  # fmt: skip


def renew(old: Spec, new: Spec, status: Status, changed: bool, chance: float) -> Status:
    """Return the status under another definition: `changed`, of its process, has the counts begin anew."""
    if changed:
        status = status._replace(delay=None, respawned=0, recent=())
    if status.pid and status.state in (STARTING, OK, RUNNING):
        if old.max_age != new.max_age:
            expires = status.started + new.max_age[0] - new.max_age[1] * chance if new.max_age else None
            up = status.state == OK and not status.left
            status = status._replace(expires=expires, deadline=expires if up else status.deadline)
        if old.timeout != new.timeout:
            status = status._replace(deadline=status.started + new.timeout if new.timeout else None)
    return status


def shift_status(status: Status, gap: float) -> Status:
    """Return the status with its deadlines so many seconds later."""
    deadline, expires = (at and at + gap for at in (status.deadline, status.expires))
    started = status.started + (gap if status.state == STARTING and status.pid else 0.0)
    return status._replace(deadline=deadline, expires=expires, started=started)


# ============================================================================================================= Unit
# One unit among its neighbours: all that is known of it, and what is next for it, which `Unit.find_next` alone decides.

# What `find_next` answers. `deed`: "wait", or what to do, nothing where it is empty; `whom`: the unit that it waits for, if it
# is one; `at`: as which of its deps; `why`: what it waits for, who wants it, or why it is stopped.
Next = namedtuple("Next", "deed whom at why", defaults=("", None, -1, ""))


class Unit:
    """One unit: all that is known of it. Removing a unit is removing its record."""

    __slots__ = (
        *("name", "spec", "status"),
        *("deps", "dependents", "team"),  # neighbours: (unit, state) in the order written; units; all instances of its daemon
        *("wanted", "by", "queued"),  # is it to be up; who wanted that, or whom a script runs for; who wants its next run
        *("tried", "succeeded"),  # script: it had its run for all that need it `ok`; it was ok once for them
        *("waits", "at", "reason"),  # the unit that it waits for; as which of its deps; for what in words
        *("stuck", "waiters"),  # who at the end of that chain ended for good; units that wait for it
        *("ran", "reach"),  # waiting: its `always` scripts that have run -> why in vain; "asked" or "there": its `wait_for`
        *("leaving", "changing"),  # a reload or a shutdown takes it down; a reload changes its definition
        *("ahead", "passed", "height"),  # then: how many come before it; it is over with; levels of live units from here down
        *("story", "note", "next_run"),  # for `timeline`; what it says of itself; when its schedule is due, in words
        # Its processes, pid -> start time, as last seen, and their sessions; when it was started; the user of its main process,
        # once that is dead; who got which signal in this stop (0: was named, as in doubt).
        *("kin", "sessions", "born", "user", "told"),
        # For the rooms below: its timer; what hears it as `ready = fd:N` and by sd_notify(3); the pid of its `stop_cmd` at
        # work, which may outlive the daemon; who probes it, by purpose; its schedule, and when it is to run next.
        *("timer", "ear", "notices", "stop_command", "probers", "plan"),
        "queue",  # it is to be looked at
    )

    def __init__(self, spec: Spec) -> None:
        self.name, self.spec, self.status = spec.name, spec, Status()
        self.deps: tuple[tuple[Unit, str], ...] = ()
        self.dependents: list[Unit] = []
        self.team: list[Unit] = []
        self.by = self.queued = self.reason = self.reach = self.note = self.next_run = ""
        self.wanted = self.tried = self.succeeded = self.leaving = self.changing = self.queue = False
        self.passed, self.ahead, self.height, self.at, self.ear, self.stop_command = True, 0, 0, -1, -1, 0
        self.waits: Unit | None = None
        self.stuck: Unit | None = None
        self.waiters: dict[Unit, None] = {}
        self.ran: dict[str, str] = {}
        self.story: tuple[tuple[float, str], ...] = ()
        nothing: Any = None
        self.timer = self.notices = self.plan = self.user = nothing
        self.probers: dict[str, Any] = {}
        self.kin: dict[int, int] = {}
        self.told: dict[int, tuple[int, int]] = {}
        self.sessions: set[int] = set()
        self.born = 0

    def lives(self) -> bool:
        """Tell whether it has a process, or is about to get one."""
        return self.status.state in (STARTING, RUNNING, STOPPING) or bool(self.status.pid)

    def keeps_up(self) -> bool:
        """Tell whether it is a reason for overlord to go on."""
        return self.lives() or self.status.state in (BACKOFF, STOPPED)

    def rests(self) -> bool:
        """Tell whether nothing comes of it by itself."""
        return self.status.state in RESTING or (self.status.state == OK and not self.status.pid)

    def in_vain(self) -> bool:
        """Tell whether it waits for one that ended for good, and has not been asked for since."""
        return bool(self.stuck and self.stuck.rests())

    def why_wait(self) -> str:
        """Return in words what it waits for, and who at the end of that chain ended for good."""
        end = self.stuck
        vain = f", and {end.name} is {end.status.state}{', but by schedule alone' * (end.status.state == OK)}" if end else ""
        return f"{self.name} waits for {self.reason}{vain}"

    def find_next(self) -> Next:
        """Return what is next for it. Pure: reads its record and those of its neighbours, and changes nothing."""
        state = self.status.state
        if self.leaving:  # a shutdown or a reload takes it down, when all that depend on it are over with
            begun = self.lives() or (state in (WAITING, BACKOFF) and not self.wanted)
            due = not self.ahead or self.status.then == "fail"
            return Next("stop", why=self.status.stale if self.wanted else BY_HAND) if begun and due else Next()
        if self.rests():
            return self.find_asker()
        if not self.wanted:
            return Next("stop", why=BY_HAND)
        return self.find_way_up() if state == WAITING else self.find_turn() if self.status.stale else Next()

    def find_asker(self) -> Next:
        """It rests: is it to be up, and who wants that? What ended for good is not brought back by those who depend on it."""
        if self.spec.kind != "script":
            needed = self.wanted or (self.status.state == IDLE and self.waiters)
            return Next("want", why=self.by if self.wanted else BY_NEED) if needed else Next()
        if self.queued:
            return Next("want", why=self.queued)
        hows = [(each, each.needs()) for each in self.waiters]
        asking = [each for each, how in hows if (how == "always" or not self.tried) and not each.is_met(self, how)]
        if not asking:
            return Next()
        first = min(asking, key=lambda each: float(each.status.since))  # lest two that flap keep a third from its turn
        return Next("want", why=first.name if first.needs() == "always" else BY_NEED)

    def needs(self) -> str:
        """Return in which state it needs the unit that it waits for, nothing where it waits for other reasons."""
        return self.deps[self.at][1] if self.at >= 0 else ""

    def find_way_up(self) -> Next:
        """It waits: for the first of its deps that is not there, then for its bounce ancestors, then for what is outside.
        COST: goes on with the dep where it stood, and looks at those that were met before once more at the end."""
        if self.changing:  # by a reload, which has something to stop first
            return Next("wait", why=self.reason)
        start = max(0, self.at)
        for index in (*range(start, len(self.deps)), *range(start)):
            dep, how = self.deps[index]
            if self.ran.get(dep.name):
                return Next("barred", why=f"script {dep.name} failed: {self.ran[dep.name]}")
            if not self.is_met(dep, how):
                return Next("wait", dep, index, f"{dep.name}:{OK if how == 'up' else how}")
        ancestor = self.find_unsettled()
        if ancestor:
            return Next("wait", ancestor, why=f"{ancestor.name} to be restarted")
        if self.spec.wait_for and self.reach != "there":
            return Next("wait" if self.reach else "reach", why=", ".join(probe.text for probe in self.spec.wait_for))
        return Next("start")

    def is_met(self, dep: Unit, how: str) -> bool:
        """Tell whether one dependency is there."""
        if dep.leaving:  # not as it will be
            return False
        if dep.spec.kind == "script":
            return dep.name in self.ran if how == "always" else dep.succeeded
        return bool(dep.status.state == OK or (how == "up" and dep.rests()))

    def find_turn(self) -> Next:
        """Its process is stale: replaced at once if it failed, else one instance after the other, after bounce ancestors."""
        failed, stale = self.status.then == "fail", self.status.stale
        for other in self.team if self.status.state == OK and not failed else ():
            if other.is_awaited(stale):
                return Next("wait", other, why=f"{other.name} to be up")
        ancestor = None if failed else self.find_unsettled()
        return Next("wait", ancestor, why=f"{ancestor.name} to be restarted") if ancestor else Next("stop", why=stale)

    def is_awaited(self, why: str) -> bool:
        """Tell whether the replacing of another instance waits for it. Not where it waits for what never comes; and that it fails
        again and again does not keep others from being replaced for their age."""
        failing = self.status.delay is not None and self.status.state != STOPPING and why not in (RESTART, RELOAD)
        return self.status.state in COMING and not failing and not self.in_vain()

    def find_unsettled(self) -> Unit | None:
        """Return a bounce ancestor that is down or still to be restarted; one that will never be is no matter."""
        ancestors, seen = [self], set()
        while ancestors:
            for dep, how in ancestors.pop().deps:
                if how != "bounce" or dep in seen:
                    continue
                seen.add(dep)
                if dep.status.state == OK and not dep.status.stale:
                    ancestors.append(dep)
                elif dep.status.state not in RESTING and not dep.in_vain():
                    return dep
        return None


def bouncing(units: Iterable[Unit]) -> list[Unit]:
    """Return units and all that bounce with them, directly or not."""
    found = list(units)
    seen = set(found)
    for unit in found:  # grows on the way
        more = [other for other in unit.dependents if other not in seen and (unit, "bounce") in other.deps]
        seen.update(more)
        found += more
    return found


# ============================================================================================================ Fleet
# All units: `Fleet.look` does what `Unit.find_next` says, and notes whom the unit waits for. Whenever a record changes, its
# unit and those that wait for it are looked at again. Shutdown, reload, exit code.

Ending = namedtuple("Ending", "why code quiet signum units_end end")  # a shutdown under way; instants, exit code or None


def sweep_share(total: float) -> float:
    """Return how many seconds of a shutdown are kept for what the units leave behind."""
    return min(SWEEP_TIMEOUT, total / 4)


class Fleet:
    """All units together. What happens comes in by `feed` and its kin; what to do about it leaves by `take`.
    COST: an event is paid for by the units it touches, never by the number of units."""

    def __init__(self, config: Config, chance: Callable[[], float]) -> None:
        self.chance = chance
        self.actions: list[Any] = []
        self.deadline: float | None = None  # of the fleet itself, in a shutdown
        self.events: deque[tuple[Unit, Event]] = deque()  # to be fed, and units to be looked at. No recursion, any chain
        self.looks: deque[Unit] = deque()
        self.pending: Config | None = None  # reload: what takes effect when all that leaves for it has stopped
        self.unpassed = 0  # in a reload or a shutdown: units that are not over with
        self.followed = False  # somebody wants to know of each change
        self.grown = False  # a unit got OK: its processes are there, to be looked at
        self.busy = 0  # units that are a reason for overlord to go on
        self.began: float | None = None  # when it was booted, until everything is up
        self.rising: list[Unit] = []  # daemons that may not be up yet, until then
        self.slowest = (0.0, "")  # the unit that took longest from its start to OK, of those
        self.first_failure: int | None = None
        self.ending: Ending | None = None
        self.asked: float | None = None  # when somebody first asked a main command without units to end
        self.interrupts = 0  # how often SIGINT asked for shutdown
        self.sweeping = self.swept_hard = False
        self.code: int | None = None  # what a person wants the container to exit with
        self.killed: list[str] = []  # units, and whoever else, that had to be
        self.units: dict[str, Unit] = {}  # in the order of the configuration: dependencies first
        self.take_config(config)

    def take_config(self, config: Config) -> None:
        """Take over a configuration: a record for each unit, and who its neighbours are."""
        self.config, self.settings = config, config.settings
        self.scheduled = any(spec.schedule for spec in config.units.values())
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

    # -------------------------------------------------------------------------------------------- what comes in
    def want_all(self, now: float) -> None:
        """Ask for every daemon with autostart, and for the main command."""
        self.began = now
        for unit in self.units.values():
            self.want_by_config(unit, unit.spec.autostart)
        self.work(now)

    def want_by_config(self, unit: Unit, wanted: bool) -> None:
        if wanted and unit.spec.kind != "script":
            unit.wanted, unit.by = True, BY_CONFIG
            self.look_later(unit)

    def feed(self, name: str, event: Event, now: float) -> None:
        """Take in what happened to a unit, and all that follows from it."""
        if name in self.units:  # a reload may have removed it
            self.events.append((self.units[name], event))
        self.work(now)

    def take_deadline(self, name: str, now: float) -> None:
        """Take in that an instant has come for which a Wake asked; it counts if it is still the deadline of that unit."""
        if not name and self.deadline is not None and self.deadline <= now:
            self.overdue(now)
        unit = self.units.get(name)
        if unit and unit.status.deadline is not None and unit.status.deadline <= now:
            self.events.append((unit, Event("deadline")))
        self.work(now)

    def reach(self, name: str, now: float) -> None:
        """What a unit waits for outside is there."""
        self.units[name].reach = "there"
        self.look_later(self.units[name])
        self.work(now)

    def transparent(self) -> bool:
        """Tell whether a main command lives and there is no unit beside it: then overlord only relays signals, as tini does."""
        main = self.units.get(MAIN)
        return bool(main and len(self.units) == 1 and main.status.pid and not main.status.left and not self.ending)

    def ask_shutdown(self, why: str, now: float, signum: int | None = None, code: int | None = None) -> None:
        """Somebody asks for shutdown, a second SIGINT at once. Where overlord is transparent, the Loop relays the signal."""
        self.code = code if self.code is None else self.code
        transparent = self.transparent()
        self.interrupts += signum == SIGNALS["INT"] and not transparent
        if transparent:
            self.asked = now if self.asked is None else self.asked
            if signum is None:
                self.actions.append(Kill(MAIN, self.units[MAIN].status.pid, SIGNALS["TERM"], whole=False))
        elif not self.ending:
            self.shut_down(why, None, now, signum)
        elif signum == SIGNALS["INT"] and self.interrupts > 1:
            self.say("warning", "", f"{why} again: killing what is left at once")
            for unit in [unit for unit in self.units.values() if unit.status.pid]:
                self.killed += [] if unit.status.left else [unit.name]
                self.actions.append(Kill(unit.name, unit.status.pid, SIGNALS["KILL"], whole=True))
            self.begin_sweep(SIGNALS["KILL"], now)
        else:
            left = spell_duration(max(0.0, self.ending.end - now))
            hint = "; a second SIGINT kills at once" if signum == SIGNALS["INT"] else ""
            self.say("info", "", f"{why}: shutting down already, within {left}{hint}")
        self.work(now)

    def shift_deadlines(self, gap: float) -> None:
        """Move all deadlines: for so many seconds nothing ran (docker pause)."""
        for unit in self.units.values():
            unit.status = shift_status(unit.status, gap)
        self.deadline = self.deadline and self.deadline + gap
        if self.ending:
            self.ending = self.ending._replace(units_end=self.ending.units_end + gap, end=self.ending.end + gap)

    def take_actions(self) -> list[Any]:
        """Return the actions to be performed, in order, and forget them."""
        actions, self.actions = self.actions, []
        return actions

    # ----------------------------------------------------------------------------------------------- the engine
    def work(self, now: float) -> None:
        """Feed and look until nothing follows any more."""
        while self.events or self.looks or (self.pending and not self.unpassed):
            if self.events:
                unit, event = self.events.popleft()
                if self.units.get(unit.name) is unit:  # no reload has removed it
                    self.apply(unit, event, now)
            elif self.looks:
                unit = self.looks.popleft()
                unit.queue = False
                if self.units.get(unit.name) is unit:
                    self.advance(unit, now)
            else:
                self.replace(now)
        if self.ending and not self.unpassed and not self.sweeping:
            self.begin_sweep(SIGNALS["TERM"], now)
        elif not (self.ending or self.busy or self.scheduled or any(unit.reach == "asked" for unit in self.units.values())):
            self.run_dry(now)

    def look_later(self, unit: Unit, first: bool = False) -> None:
        """See to it that a unit is looked at: it has changed, or somebody that it waits for."""
        if not unit.queue:
            unit.queue = True
            (self.looks.appendleft if first else self.looks.append)(unit)

    def advance(self, unit: Unit, now: float) -> None:
        """Do what is next for a unit."""
        answer = unit.find_next()
        self.wait_on(unit, answer, now)
        if self.unpassed and not (unit.passed or unit.ahead or (unit.leaving and unit.lives())):
            self.let_pass(unit)
        if answer.deed == "stop" and not self.swept_hard:  # all had SIGKILL then, and nobody more comes later
            self.apply(unit, self.stop_event(unit, answer.why, now), now)
        elif answer.deed == "want":
            unit.wanted, unit.by = True, answer.why
            unit.queued = "" if unit.queued == answer.why else unit.queued
            unit.tried = unit.tried or answer.why == BY_NEED
            self.apply(unit, Event("want"), now)
        elif answer.deed == "reach":
            unit.reach = "asked"
            self.actions.append(Test(unit.name, "wait_for"))
        elif answer.deed not in ("", "wait", "stop"):
            self.apply(unit, Event(answer.deed, answer.why), now)

    def wait_on(self, unit: Unit, answer: Next, now: float) -> None:
        """Note for whom a unit waits, and whether that is in vain; say for what, once."""
        whom, stuck, reason = answer.whom, None, answer.why if answer.deed in ("wait", "reach") else ""
        if unit.waits and unit.waits is not whom:
            unit.waits.waiters.pop(unit, None)
        fresh, unit.waits, unit.at, unit.reason = reason and reason != unit.reason, whom, answer.at, reason
        if whom:
            if unit not in whom.waiters:
                whom.waiters[unit] = None
                self.look_later(whom, first=True)
            stuck = whom if whom.rests() and not whom.find_next().deed else whom.stuck
        if stuck is not unit.stuck:
            unit.stuck = stuck
            for waiter in unit.waiters:
                self.look_later(waiter)
        if fresh and unit.status.state == WAITING:
            self.tell(unit, f"{WAITING} for {reason}", now)
            self.say("debug" if unit.name == MAIN else "info", unit.name, f"waiting for {reason}")  # for MAIN, see `remind`
        elif fresh and whom in unit.team:
            self.say("info", unit.name, f"to be restarted ({unit.status.stale}), waiting for {reason}")

    def wake(self, unit: Unit) -> None:
        """A unit's record has changed: look at it again, and at those that wait for it whose answer may be another one now."""
        for waiter in unit.waiters if unit.rests() or unit.spec.kind == "daemon" else ():
            how = waiter.needs()
            vain = how != "always" and (unit.rests() or waiter.stuck)
            if not how or vain or waiter.is_met(unit, how) or unit.name in waiter.ran:
                self.look_later(waiter)
        for other in bouncing([unit]) if unit.status.state in ENDED else ():  # what was on the way to an ancestor is no more
            if other.waits and other.at < 0:
                self.look_later(other)
        self.look_later(unit)

    def apply(self, unit: Unit, event: Event, now: float) -> None:
        """Let the Machine make the next status of a unit, and store it. The one place where a status changes state."""
        old = unit.status
        removed = self.pending and unit.name not in self.pending.units and unit.spec.kind == "daemon"
        new, actions = step(unit.spec, old, event._replace(wanted=unit.wanted and not removed), now, self.chance())
        self.actions += actions
        if self.ending and event.kind == "deadline" and old.state == STOPPING and not old.left:
            self.killed.append(unit.name)  # what it has left behind, the Loop names
        self.store(unit, new)
        if new.state != old.state:
            self.note_change(unit, old, new, now)
            if self.followed:
                self.actions.append(Changed(unit.name, new.state, self.explain(unit, now)))
        elif event.kind == "deadline" and new.state == WAITING:
            self.say("info", "", unit.why_wait())
        if new.state != old.state or new.stale != old.stale:
            self.wake(unit)

    def store(self, unit: Unit, new: Status) -> None:
        """Store a status, with its timer and what it counts for."""
        old, kept, unit.status = unit.status, unit.keeps_up(), new
        if new.deadline != old.deadline or (new.deadline is not None and new.state != old.state):
            self.actions.append(Wake(unit.name, new.deadline))
        self.busy += unit.keeps_up() - kept

    def say(self, level: str, name: str, text: str) -> None:
        self.actions.append(Say(level, name, text))

    def tell(self, unit: Unit, what: str, now: float) -> None:
        """Note for the timeline what happens to a unit on its way up."""
        if len(unit.story) < STORY and (not unit.story or unit.story[-1][1] not in (OK, DONE, FAILED)):
            unit.story = (*unit.story, (now, what))

    def note_change(self, unit: Unit, old: Status, new: Status, now: float) -> None:
        """Note what else a new state of a unit means."""
        self.tell(unit, new.state, now)
        if new.state in (STARTING, WAITING):
            unit.note = ""
        if old.state == WAITING:
            unit.reach, unit.at = "", -1
            unit.ran.clear()
        ended = new.state in ENDED or (new.state == OK and not new.pid)
        if ended and not (self.pending and unit.leaving and new.state == STOPPED):  # which the next reload may bring back
            unit.wanted = False
        if ended and unit.spec.kind == "script":
            unit.succeeded = unit.succeeded or (new.state == OK and unit.by != BY_CLOCK)
            other = self.units.get(unit.by)
            if other and other.status.state == WAITING:  # whose `always` script it is
                other.ran[unit.name] = "" if new.state == OK else new.why or new.state
        if new.state == OK and new.oks > 1 and new.pid and not self.ending:
            for other in unit.dependents:  # it runs against the process before
                if (unit, "bounce") in other.deps and other.status.state in (STARTING, OK):
                    self.events.append((other, Event("stale", f"{unit.name} was restarted")))
        self.grown = self.grown or (new.state == OK and bool(new.pid))
        if self.began is not None and unit.spec.kind != "main":
            self.note_up(unit, now)
        if not self.ending:
            self.judge_end(unit, now)

    def note_up(self, unit: Unit, now: float) -> None:
        """Say, once, that everything is up, and what took longest. Where a daemon ends for good before that, it never is."""
        if unit.status.state in ENDED and unit.spec.kind == "daemon":
            self.began = None
        if unit.status.state != OK or self.began is None:
            return
        self.slowest = max(self.slowest, (now - unit.status.started, unit.name))
        while self.rising and self.rising[-1].status.state == OK:
            self.rising.pop()
        if not self.rising and unit.spec.kind == "daemon":  # but of those one may have gone down again
            daemons = [each for each in self.units.values() if each.spec.kind == "daemon"]
            self.rising = [each for each in daemons if each.status.state != OK and (each.wanted or each.status.state != IDLE)]
        if not self.rising and unit.spec.kind == "daemon":
            text = f"everything is up after {spell_duration(now - self.began)}"
            self.say("info", "", f"{text}, longest took {self.slowest[1]}, {spell_duration(self.slowest[0])}")
            self.began = None

    def judge_end(self, unit: Unit, now: float) -> None:
        """Find out what the end of a unit does to the container; of one that somebody started by hand, or the clock, nothing."""
        spec, status = unit.spec, unit.status
        gone = spec.kind == "main" and status.left  # what it leaves behind is stopped first, and the daemons after that
        ended = status.state in (DONE, FAILED) or (status.state == OK and spec.kind == "script") or gone
        if not ended or unit.by in (BY_HAND, BY_CLOCK):
            return
        for_one = unit.by not in (BY_CONFIG, BY_NEED)
        failed = status.state == FAILED or (gone and status.code not in spec.success)
        policy = (spec.on_failure or ("ignore" if for_one else "shutdown")) if failed else spec.on_success
        if failed and self.first_failure is None and not for_one:
            self.first_failure = exit_code(status.code)
        if policy == "shutdown":
            end = status.why or f"pid {status.pid} {spell_end(status.code)} after {spell_duration(status.lived)}"
            why = f"{unit.name} {'failed' if failed else 'ended'}: {end}" if spec.kind != "main" else f"{MAIN} {end}"
            self.shut_down(why, exit_code(status.code) if failed else 0, now)

    def run_dry(self, now: float) -> None:
        """Nothing runs and nothing can ever run again: say so and go."""
        waiting = [unit for unit in self.units.values() if unit.status.state == WAITING]
        detail = f" ({'; '.join(unit.why_wait() for unit in waiting[:3])}{'; ...' * (len(waiting) > 3)})" if waiting else ""
        if all(unit.spec.kind == "script" for unit in self.units.values()):
            detail = ": there is no daemon, and a script runs only when a unit depends on it"
        self.shut_down(f"nothing is left to run{detail}", self.first_failure or 0, now)
        self.work(now)

    def explain(self, unit: Unit, now: float) -> str:
        """Return in words why a unit is in its state, and what comes next."""
        status, why = unit.status, str(unit.status.why)
        left = spell_duration(max(0.0, status.deadline - now)) if status.deadline is not None else ""
        if status.state == WAITING:
            return unit.why_wait().partition(" waits ")[2] if unit.reason else ""
        if status.stale:
            return f"to be restarted ({status.stale})" + (f", waiting for {unit.reason}" if unit.reason else "")
        if status.left and status.state in (STARTING, OK):
            return f"pid {status.pid} {spell_end(status.code)}, {unit.spec.pidfile} has {left} to name another main process"
        if status.state == STARTING and left:
            note = f": {unit.note}" if unit.note and not (status.ready and status.named) else ""
            named = "warming up" if status.named else f"{unit.spec.pidfile} has named no process of it yet"
            return f"{named if status.ready else 'not ready yet'}, {left} to go{note}"
        if status.state == OK and unit.note:
            return unit.note
        if status.state == RUNNING:
            return unit.by if unit.by in (BY_HAND, BY_CLOCK) else f"for {unit.by}" if unit.by in self.units else ""
        if status.state == STOPPING:
            why = why or f"pid {status.pid} {spell_end(status.code)}, what it left behind is stopped"
            why += f" ({status.hint})" if status.hint else ""
            return f"{why}, killed in {left}" if left else f"{why}, killed"
        if unit.next_run:
            return f"{why}{'; ' if why else ''}next run {unit.next_run}"
        return f"{why}; next try in {left}" if status.state == BACKOFF else why

    # --------------------------------------------------------------------------------------------------- by hand
    def start(self, asked: list[Unit], now: float, going: Iterable[Unit] = ()) -> list[Unit]:
        """A person asks for units, so for all they depend on; return them all. Scripts `going` need no run of their own."""
        found, seen = list(asked), set(asked)
        for unit in found:  # grows on the way
            more = [dep for dep, _ in unit.deps if dep not in seen]
            seen.update(more)
            found += more
        for unit in [*reversed(found[len(asked) :]), *asked]:  # what others depend on comes first
            if unit.spec.kind == "script":
                unit.tried = False
                unit.queued = BY_HAND if unit in asked and unit not in going else unit.queued
            else:
                unit.wanted, unit.by = True, unit.by if unit.wanted else BY_HAND
                if unit.status.state in (BACKOFF, STOPPING):
                    self.events.append((unit, Event("want")))
            self.look_later(unit)
        self.work(now)
        return found

    def stop(self, asked: list[Unit], now: float) -> None:
        """A person wants units stopped; who depends on them goes on."""
        for unit in asked:
            unit.wanted, unit.queued = False, ""
            self.look_later(unit)
        self.work(now)

    def restart(self, asked: list[Unit], now: float) -> None:
        """A person wants units stopped and started again, or started where they are not running."""
        going = [unit for unit in asked if unit.lives()]
        for unit in going:
            unit.wanted = True
            self.events.append((unit, Event("stale", RESTART)))
        self.start(asked, now, going)

    def run_by_clock(self, name: str, now: float) -> None:
        """It is time for a scheduled run of a script, unless one is under way."""
        unit = self.units[name]
        if not unit.rests() or unit.queued:
            self.say("warning", name, "the run before is still going, so this one is left out")
        elif not self.ending:
            unit.queued = BY_CLOCK
            self.look_later(unit)
        self.work(now)

    # ---------------------------------------------------------------------------------------------------- reload
    def change_config(self, config: Config, now: float) -> dict[str, str]:
        """Take over another configuration; return what becomes of each unit that differs. First all that was removed or changed
        stops, in reverse order, but for instances that stay. Then the new graph is in force, never a mixture of the two."""
        news = compare(self.pending or self.config, config)
        for name, unit in self.units.items():
            new = config.units.get(name)
            unit.changing = new != unit.spec
            shaped = not new or (unit.changing and is_shaped(unit.spec, new))
            unit.leaving = shaped and not (new and new.instance and unit.spec.instance)
        self.settings, self.pending = config.settings, config
        self.stop_in_order()
        self.work(now)
        return news

    def replace(self, now: float) -> None:
        """All that was to stop for a reload has: go on under the new configuration."""
        assert self.pending
        config, self.pending = self.pending, None
        asked = {name for name, unit in self.units.items() if unit.wanted}
        for name, unit in list(self.units.items()):
            new = config.units.get(name)
            if new and new.kind == unit.spec.kind:
                self.redefine(unit, new)
                continue
            self.busy -= unit.keeps_up()
            self.actions.append(Forget(unit))
            del self.units[name]
        self.take_config(config)
        self.rising = []
        self.actions.append(Replan())
        for name, unit in self.units.items():
            if unit.status.state == IDLE and not unit.wanted:  # it is new, perhaps in the place of a script
                self.want_by_config(unit, unit.spec.autostart or name in asked)
            if unit.by not in self.units and " " not in unit.by:
                unit.by = BY_HAND  # whose `always` script it was is no more
            self.look_later(unit)

    def redefine(self, unit: Unit, new: Spec) -> None:
        """Have a unit go on under a new definition."""
        old, unit.leaving = unit.spec, False
        if not unit.changing:
            return
        unit.changing, shaped, state = False, is_shaped(old, new), unit.status.state
        self.store(unit, renew(old, new, unit.status, shaped, self.chance()))
        unit.reach = unit.reach if old.wait_for == new.wait_for else ""
        unit.ran = unit.ran if old.deps == new.deps else {}
        if new.health and new.health != old.health and state == OK:
            self.actions.append(Test(unit.name, "health"))
        if shaped:
            unit.tried = False
            unit.by = BY_CONFIG if unit.by == BY_HAND and new.kind == "daemon" else unit.by
            if unit.status.pid or state == BACKOFF:
                self.events.append((unit, Event("want") if state == BACKOFF else Event("stale", RELOAD)))
            elif state in (DONE, FAILED):
                self.want_by_config(unit, True)

    # -------------------------------------------------------------------------------------------------- shutdown
    def shut_down(self, why: str, code: int | None, now: float, signum: int | None = None) -> None:
        """Stop everything, each unit when all that depends on it is over with, a finished script in its place. What a main
        command without units leaves behind has what remains since somebody asked for the end, and a second at least."""
        alone = list(self.units) == [MAIN] and bool(self.units[MAIN].status.starts)
        share = sweep_share(self.settings.shutdown_timeout)
        units_end = (now if self.asked is None else self.asked) + self.settings.shutdown_timeout - share
        units_end = max(units_end, now + LEFT_LEAST) if alone else units_end
        self.pending = None
        self.ending = Ending(why, code, alone, signum, units_end, units_end + share)
        self.say("debug" if self.ending.quiet else "info", "", f"shutting down: {why}")
        self.deadline = units_end + share / 2
        self.actions.append(Wake("", self.deadline))
        for unit in self.units.values():
            unit.wanted, unit.queued, unit.leaving, unit.changing = False, "", True, False
            if unit.lives() and not unit.status.pid:  # what was about to start does not
                self.apply(unit, Event("stop", SHUTDOWN), now)
            unit.height = max((dep.height for dep, _ in unit.deps), default=0) + unit.lives()
        self.stop_in_order()

    def stop_in_order(self) -> None:
        """Take down all that leaves: each when all that depends on it is over with, what has nothing to stop passes that on."""
        self.unpassed = len(self.units)
        for unit in self.units.values():
            unit.passed, unit.ahead = False, len(unit.dependents)
            self.look_later(unit)

    def stop_event(self, unit: Unit, why: str, now: float) -> Event:
        """Return the event that stops a unit: for a shutdown with its share of the time, which is what remains, divided by the
        levels that remain. The main command, for which the container is there, has the larger part of it before them, and all
        where no daemon lives."""
        if not self.ending:
            return Event("stop", why or RELOAD, fails=unit.status.then == "fail")
        limit = max(0.0, self.ending.units_end - now)
        if unit.name != MAIN:
            limit /= max(1, unit.height)
        elif unit.height > 1:
            limit *= MAIN_SHARE
        signum = self.ending.signum if unit.name == MAIN else None
        signum = SIGNALS["TERM"] if signum == SIGNALS["RTMIN"] + 3 else signum  # systemd's, for containers alone
        return Event("stop", SHUTDOWN, limit=limit, signum=signum)

    def let_pass(self, unit: Unit) -> None:
        """A unit is over with: it is the turn of those that it alone still kept."""
        unit.passed = True
        self.unpassed -= 1
        for dep, _ in unit.deps:
            dep.ahead -= 1
            if not dep.ahead:
                self.look_later(dep)

    def overdue(self, now: float) -> None:
        """The time is up: of the units, of what is left over, of the killed to vanish."""
        if self.sweeping and self.swept_hard:
            self.end_shutdown()
        else:
            self.begin_sweep(SIGNALS["KILL"] if self.sweeping else SIGNALS["TERM"], now)

    def begin_sweep(self, signum: int, now: float) -> None:
        """Signal all that is left; the Loop has it `leave` when nobody is."""
        assert self.ending
        self.sweeping, self.swept_hard = True, signum == SIGNALS["KILL"]
        self.deadline = now + SWEEP_TIMEOUT / 2 if self.swept_hard else min(now + SWEEP_TIMEOUT, max(now, self.ending.end))
        self.actions += [Wake("", self.deadline), Sweep(signum)]

    def end_shutdown(self) -> None:
        """Exit: with the code asked for, the main command's, that of the unit which ended it all, or 0."""
        assert self.ending
        if self.deadline is None:  # it has left already
            return
        self.deadline = None
        main = self.units.get(MAIN)
        code = exit_code(main.status.code) if main and main.status.started and not main.status.pid else self.ending.code or 0
        names = list(dict.fromkeys(self.killed))
        more = f" and {len(names) - 10} more" if len(names) > 10 else ""
        killed = f"; had to be killed: {', '.join(names[:10])}{more}" if names else ""
        quiet = self.ending.quiet and not names
        self.actions.append(Exit(code if self.code is None else self.code, self.ending.why + killed, quiet))


# =========================================================================================================== Output
# Bytes of the units to lines to where they go, and overlord's own messages. Nothing here waits for a reader.
#
#     daemon -> pipe -> Capture -> Stream (the container's stdout or stderr, a FIFO, a device) or LogFile
#                          |
#                          +----> Tail, the last lines of a unit

LEVELS = ("debug", "info", "warning", "error")
COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)  # SGR foregrounds, less red: ECMA-48 8.3.117


class Watch:
    """What to wait for, and whom to call when a descriptor is ready or an instant has come."""

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self.calls: dict[int, Callable[[], Any]] = {}
        self.events: dict[int, int] = {}
        self.ready: deque[tuple[int, int]] = deque()
        self.timers: list[list[Any]] = []  # a heap of [instant, which timer it is, call or None]
        self.count = self.cancelled = 0  # timers so far; about how many in the heap were cancelled
        self.looked = time.monotonic()  # at the clock, last
        self.paused: Callable[[float], bool] = lambda gap: False  # told after a pause; returns whether it moved the timers

    def on(self, fd: int, events: int, call: Callable[[], Any]) -> None:
        """Call when one of the events is there, again and again while it is."""
        if fd not in self.calls:
            self.epoll.register(fd, events)
        elif self.events[fd] != events:
            self.epoll.modify(fd, events)
        self.calls[fd], self.events[fd] = call, events

    def off(self, fd: int) -> None:
        """Call no more. To be said before the descriptor is closed."""
        if self.calls.pop(fd, None):
            self.epoll.unregister(fd)

    def later(self, instant: float, call: Callable[[], Any]) -> list[Any]:
        """Call once, at that instant; return what `cancel` takes."""
        self.count += 1
        timer = [instant, self.count, call]
        heappush(self.timers, timer)
        return timer

    def cancel(self, timer: list[Any] | None) -> None:
        """COST: what was cancelled stays in the heap until its instant, or until most of the heap is such."""
        if timer and timer[2]:
            timer[2] = None
            self.cancelled += 1
            if self.cancelled > 64 + len(self.timers) // 2:
                self.cancelled, self.timers = 0, [each for each in self.timers if each[2]]
                heapify(self.timers)

    def shift_timers(self, gap: float) -> None:
        """Move all timers: for so many seconds nothing ran."""
        for timer in self.timers:
            timer[0] += gap

    def wait(self, deadline: float | None, once: bool = False) -> None:
        """Make the calls as they come due, until one returns true or the deadline has come; None for never. `once`: until there
        were any. Where one raises, the next `wait` goes on with the others. COST: what flows through overlord stays in here."""
        done = False
        while not done:
            done = once
            while self.timers and not self.timers[0][2]:
                heappop(self.timers)
            if not self.ready:
                until = deadline
                if self.timers and (until is None or self.timers[0][0] < until):
                    until = self.timers[0][0]
                now = time.monotonic()
                if self.stood_still(now, deadline):
                    return
                self.ready.extend(self.epoll.poll(until and min(1e6, max(0.0, until - now))))
            while self.ready:
                call = self.calls.get(self.ready.popleft()[0])
                done = bool(call and call()) or done
            now = time.monotonic()
            if self.stood_still(now, deadline):
                return
            while self.timers and self.timers[0][0] <= now:
                call = heappop(self.timers)[2]
                done = bool(call and call()) or done
            done = done or (deadline is not None and deadline <= now)

    def check_clock(self) -> None:
        """Look at the clock between two steps of something long; where a single one stood still, `wait` is to find out."""
        now = time.monotonic()
        if now - self.looked <= PAUSED:
            self.looked = now

    def stood_still(self, now: float, deadline: float | None) -> bool:
        """Tell whether nothing ran until PAUSED after what was to come first (docker pause), and all that was moved. When it
        began cannot be known: `paused` is told the time since the last look at the clock."""
        gap, self.looked = now - self.looked, now
        if gap <= PAUSED:
            return False
        first = min([timer[0] for timer in self.timers[:1]] + [now if deadline is None else deadline])
        return now - first > PAUSED and self.paused(gap)


# What a path leads to: `folder`, a descriptor of the one that holds it; `path` without links; `stat`, None where there is
# nothing; `safe`: nobody but root and overlord's own user can change what any name on the way stands for, or make a missing one.
Place = namedtuple("Place", "folder path stat safe")
LOOKS_MOST = 1000  # names and links on the way to a file
CHANGEABLE = "is a link that others than root can change; give the path that it leads to instead"


class Misled(OSError):
    """A path that somebody else than root or overlord's own user can have lead wherever he likes."""


def find(path: str, make: bool = False) -> Place:
    """Return what a path leads to, with a folder to be closed; `make`: with the folders on the way made. Raises OSError."""
    names, at, safe, folder = path.split("/"), "", True, os.open("/", os.O_PATH)  # RACE: what was looked at is gone into
    try:
        for _ in range(LOOKS_MOST):
            names = [name for name in names if name not in ("", ".")]
            if not names:
                raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
            name = names.pop(0)
            if name == ".." and not safe:
                raise Misled(errno.ELOOP, f"{at} can be moved by others than root, so that {at}/.. may be anything")
            try:
                entry = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=folder)
            except FileNotFoundError:
                if not make or not names:
                    return Place(folder, "/".join([at, name, *names]), None, safe and is_fixed(folder, None))
                try:
                    os.mkdir(name, dir_fd=folder)
                except FileExistsError:  # made by somebody else just now
                    pass
                names.insert(0, name)
                continue
            try:
                stat = os.fstat(entry)
                safe = safe and (name == ".." or is_fixed(folder, stat))
                if stat.st_mode & 0o170000 == 0o120000:
                    if not safe:
                        raise Misled(errno.ELOOP, f"{at}/{name} {CHANGEABLE}")
                    names[:0] = os.readlink("", dir_fd=entry).split("/")
                    if not names[0]:  # it is absolute
                        root = os.open("/", os.O_PATH)
                        os.close(entry)
                        at, folder, entry = "", root, folder
                elif not names:
                    return Place(folder, f"{at}/{name}", stat, safe)
                else:
                    at, folder, entry = at.rpartition("/")[0] if name == ".." else f"{at}/{name}", entry, folder
            finally:
                os.close(entry)
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    except BaseException:
        os.close(folder)
        raise


def is_fixed(folder: int, entry: os.stat_result | None) -> bool:
    """Tell whether nobody but root and overlord's own user can change which entry of a folder a name stands for, or make it
    (None). In a sticky folder others can neither remove nor rename root's, but put links there, and second names of files."""
    own, above = (0, os.geteuid()), os.fstat(folder)
    sticky = False
    if entry and above.st_mode & 0o1000 and entry.st_uid in own:
        kind = entry.st_mode & 0o170000
        sticky = kind == 0o040000 or (kind != 0o120000 and entry.st_nlink == 1)
    if above.st_uid in own and (sticky or not above.st_mode & 0o022):
        return True
    return bool(os.fstatvfs(folder).f_flag & os.ST_RDONLY)


def open_path(path: str, flags: int, kind: int) -> tuple[int, int]:
    """Return descriptors of a file of that kind, made with its folders if it is not there, and of its folder. Raises OSError."""
    place = find(path, make=True)
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | (0 if place.stat else os.O_CREAT | os.O_EXCL)
    fd = -1
    try:
        if place.stat and place.stat.st_mode & 0o170000 != kind:
            raise Misled(errno.ELOOP, f"{place.path} is another kind of file by now")
        fd = os.open(os.path.basename(place.path), flags, 0o666, dir_fd=place.folder)
        stat = os.fstat(fd)
        if place.stat and not os.path.samestat(stat, place.stat):
            raise Misled(errno.ELOOP, f"{place.path} was replaced while it was opened")
        if stat.st_nlink > 1 and not place.safe:
            raise Misled(errno.ELOOP, f"{place.path} has a second name (a hard link), maybe of a file that is root's")
        return fd, place.folder
    except OSError:
        for each in (fd, place.folder):
            if each >= 0:
                os.close(each)
        raise


class Stream:
    """Where the lines of several sources go and may have to wait for a reader: a pipe, a terminal, a FIFO, a device.
    While it cannot take more, the captures that feed it are not read, so that a slow reader slows the writers down."""

    broken = False  # a write met a reader that is gone, which raised a SIGPIPE that nobody sent

    def __init__(self, watch: Watch, fd: int) -> None:
        self.watch, self.fd = watch, fd
        # O_NONBLOCK belongs to the open file, which others share: only one of overlord's own may have it. A regular file has
        # no readers to wait for. `shy`: neither can be had (a socket, another user's pipe): ask, write little.
        self.shy, self.terminal = False, os.isatty(fd)
        if fd < 3 and not os.path.isfile(f"/proc/self/fd/{fd}"):
            try:
                self.fd = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_APPEND)
            except OSError:
                self.shy = True
        self.kept = bytearray()  # what the reader has not taken yet
        self.progress = 0.0  # when he took something last, or was first asked to
        self.hurry = False  # overlord is shutting down: rather keep than have daemons wait
        self.lost = 0  # lines
        self.full = False  # captures have to wait
        self.waiting: set[Capture] = set()
        self.unfinished: Capture | Log | None = None  # whose line is not complete
        self.drained: Callable[[], None] | None = None  # to be called when all that was kept is written

    def put(self, source: Capture | Log, text: bytes) -> None:
        """Pass on whole lines of one source, each with its prefix, or a part of one too long. If another source comes
        before the rest of such a line, a newline parts them, and the rest gets a prefix of its own."""
        if self.hurry and len(self.kept) > STUCK_KEPT and self.stuck():
            self.lost += text.count(b"\n")
            return
        if not self.kept:
            self.progress = time.monotonic()
        prefix, whole = source.prefix, text.endswith(b"\n")
        if self.unfinished is not source:
            self.kept += b"\n" + prefix if self.unfinished else prefix
        lines = text.replace(b"\n", b"\n" + prefix) if prefix else text  # COST: all in one call
        self.kept += memoryview(lines)[: len(lines) - (len(prefix) if whole else 0)]
        self.unfinished = None if whole else source
        self.flush()

    def flush(self) -> None:
        """Write what was kept, as far as there is room, and have the captures go on, or wait."""
        before = len(self.kept)
        try:
            while self.kept and (not self.shy or select.select((), (self.fd,), (), 0)[1]):
                del self.kept[: os.write(self.fd, self.kept[: select.PIPE_BUF] if self.shy else self.kept)]
        except BlockingIOError:
            pass
        except OSError as error:
            self.lose_reader(error)
        if len(self.kept) < before:
            self.progress = time.monotonic()
        if self.kept:
            self.watch.on(self.fd, select.EPOLLOUT, self.flush)
        else:
            self.watch.off(self.fd)
            if self.drained:
                self.drained()
        self.full = len(self.kept) > (STUCK_KEPT if self.hurry else STREAM_KEPT) and not (self.hurry and self.stuck())
        if self.full and self.hurry:
            self.watch.later(self.progress + STUCK, self.flush)
        while self.waiting and not self.full:
            self.waiting.pop().resume()

    def stuck(self) -> bool:
        """Tell whether the reader has taken nothing for a while."""
        return bool(self.kept) and time.monotonic() - self.progress > STUCK

    def release(self) -> None:
        self.watch.off(self.fd)
        os.close(self.fd)

    def lose_reader(self, error: OSError) -> None:
        """Nobody will ever read what was kept."""
        self.kept.clear()
        if error.errno in (errno.EPIPE, errno.EFBIG):
            Stream.broken = True


class LogFile:
    """A log file: appended to, rotated between two lines, opened again when it was moved or removed.
    Where it cannot be written, the daemons go on: FILE_KEPT bytes are kept until it can be, and further lines counted."""

    full = False  # never does a daemon wait for it

    def __init__(self, watch: Watch, path: str, most: int, keep: int, say: Callable[[str, str, str], None]) -> None:
        self.watch, self.path, self.most, self.keep, self.say = watch, path, most, keep, say
        self.fd, self.folder, self.size, self.identity = -1, -1, 0, (0, 0)
        self.kept, self.lost = bytearray(), 0
        self.fault = self.trouble = ""  # what keeps it from being written, and from being rotated
        self.timer: list[Any] | None = None  # of the next try
        self.units: set[str] = set()
        self.waiting: set[Capture] = set()
        self.unfinished: Capture | None = None
        self.fresh = True  # what was written last ended with a newline

    def put(self, source: Capture, block: bytes) -> None:
        """Append whole lines of one source, or a part of one that is too long to be kept."""
        if self.unfinished not in (None, source):
            block = b"\n" + block
        self.unfinished = None if block.endswith(b"\n") else source
        if not self.fault:
            self.append(block)
        elif len(self.kept) + len(block) <= FILE_KEPT:
            self.kept += block
        else:
            self.lost += block.count(b"\n")

    def append(self, block: bytes) -> None:
        """Write it all, or keep what cannot be written and try again later. COST: stat(2) sees that it was moved away."""
        rest = memoryview(block)
        try:
            while rest:
                try:
                    stat = os.stat(self.path)
                    here = (stat.st_dev, stat.st_ino) == self.identity
                    self.size = stat.st_size  # somebody may have truncated it
                except FileNotFoundError:
                    here = False
                if not here:
                    self.open_file()
                part = self.fitting(block, len(block) - len(rest))
                written = os.write(self.fd, rest[:part])
                self.size += written
                self.fresh = rest[written - 1] == 10
                rest = rest[written:]
        except OSError as error:
            if error.errno == errno.EFBIG:
                Stream.broken = True
            self.timer = self.watch.later(time.monotonic() + FILE_RETRY, self.try_again)
            self.kept[:0] = rest
            if self.fault != error.strerror:
                self.fault = error.strerror or "error"
                text = f"cannot write {self.path}: {self.fault}; the unit goes on, and its lines are kept, up to"
                self.say("error", ", ".join(self.units), f"{text} {spell_size(FILE_KEPT)}, until they can be written")

    def try_again(self) -> None:
        """Write what was kept meanwhile."""
        kept, self.kept = bytes(self.kept), bytearray()
        self.append(kept)
        if self.fault and not self.kept:
            lost, self.fault, self.lost = self.lost, "", 0
            text = f"{lost} lines were lost meanwhile" if lost else "nothing was lost"
            self.say("warning", ", ".join(self.units), f"{self.path} can be written again, {text}")

    def open_file(self) -> None:
        """Open the file, making it and its parent folders if they are not there. Raises OSError."""
        self.close_file()
        self.fd, self.folder = open_path(self.path, os.O_WRONLY | os.O_APPEND, 0o100000)
        stat = os.fstat(self.fd)
        self.identity, self.size, self.fresh = (stat.st_dev, stat.st_ino), stat.st_size, True

    def release(self) -> None:
        """Nobody writes to it any more: what it cannot take now either is given up."""
        if self.fault:
            self.watch.cancel(self.timer)
            self.try_again()
            self.watch.cancel(self.timer)
        if self.fault:
            lost = self.lost + self.kept.count(b"\n")
            self.say("warning", ", ".join(self.units), f"{lost} lines for {self.path} were given up: {self.fault}")
        self.close_file()

    def close_file(self) -> None:
        for fd in (self.fd, self.folder):
            if fd >= 0:
                os.close(fd)
        self.fd, self.folder, self.identity = -1, -1, (0, 0)

    def fitting(self, block: bytes, start: int) -> int:
        """Return how much of a block from `start` on goes into the file, which is rotated if not a line has room."""
        if not self.most or self.size + len(block) - start <= self.most:
            return len(block) - start
        end = block.rfind(b"\n", start, start + max(0, self.most - self.size)) + 1
        if end:
            return end - start
        if self.size and (self.fresh or self.size > max(2 * self.most, ENDLESS)):
            self.rotate()
            return len(block) - start if self.trouble or self.size else self.fitting(block, start)
        return (block.find(b"\n", start) + 1 or len(block)) - start

    def rotate(self) -> None:
        """Make the file PATH.1, what was PATH.1 PATH.2, and so on, and begin a new one. Raises OSError."""
        name = os.path.basename(self.path)
        names = [name, *(f"{name}.{number}" for number in range(1, self.keep + 1))]
        try:
            for older, newer in zip(names[:0:-1], names[-2::-1]):
                try:
                    os.rename(newer, older, src_dir_fd=self.folder, dst_dir_fd=self.folder)
                except FileNotFoundError:
                    pass
            if not self.keep:
                os.unlink(name, dir_fd=self.folder)
        except OSError as error:
            if self.trouble != error.strerror:
                self.trouble = error.strerror or "error"
                self.say("error", ", ".join(self.units), f"cannot rotate {self.path}: {self.trouble}; it goes on growing")
            return
        self.trouble = ""
        self.open_file()


class Tail:
    """The last lines of a unit, in the blocks that they came in."""

    def __init__(self) -> None:
        self.blocks: deque[bytes] = deque()  # each has a line at least
        self.size = 0
        self.seek: Callable[[bytes], None] | None = None

    def add(self, text: bytes) -> None:
        """Take in whole lines, or a part of one too long. COST: nothing is looked at, split or copied."""
        self.blocks.append(text)
        self.size += len(text)
        while len(self.blocks) > TAIL_LINES or (self.size > TAIL_BYTES and len(self.blocks) > 1):
            self.size -= len(self.blocks.popleft())

    def last_lines(self, count: int) -> list[bytes]:
        text = b"".join(self.blocks) if count > 0 else b""
        return (text[:-1] if text.endswith(b"\n") else text).rsplit(b"\n", count)[-count:] if text else []


class Capture:
    """The stdout or stderr of a unit on its way through overlord: a pipe, and the line that is not finished. One pipe serves
    all processes of the unit, one after the other: what they write while nobody reads is bounded."""

    def __init__(self, output: Output, unit: str, tail: Tail, target: str, sink: Stream | LogFile, prefix: bytes) -> None:
        self.unit, self.tail, self.target, self.sink, self.prefix = unit, tail, target, sink, prefix
        self.watch = output.watch
        self.follow = output.follow
        self.fd, self.end = os.pipe()
        os.set_blocking(self.fd, False)  # the other end is another open file
        self.line = b""
        self.last = 0.0  # when it was read last
        self.total = 0  # bytes read so far
        self.ends: deque[int] = deque()  # where in that count a process ended while nobody could read on
        self.resume()

    def resume(self) -> None:
        if self.fd >= 0:
            self.watch.on(self.fd, select.EPOLLIN, lambda: self.read_pipe() and None)  # which never ends the wait

    def read_pipe(self, last: bool = False) -> bool:
        """Read once, unless the sink is full; tell whether there was something. `last`: the writer has ended.
        COST: a daemon that writes line by line as fast as it can would wake overlord for each few of them. So one that has
        filled little of its pipe since it was read last, not long ago, is left alone for REST seconds."""
        if self.sink.full and not (last and len(self.sink.kept) < STUCK_KEPT):
            self.watch.off(self.fd)
            self.sink.waiting.add(self)
            return False
        try:
            block = os.read(self.fd, min(CHUNK, self.ends[0] - self.total) if self.ends else CHUNK)
        except BlockingIOError:
            return False
        now = time.monotonic()
        if now - self.last < 4 * REST and len(block) < CHUNK // 4:
            self.watch.off(self.fd)
            self.watch.later(now + REST, self.resume)
        self.last = now
        self.total += len(block)
        if block:
            self.pass_lines(block)
        if self.ends and self.total == self.ends[0]:
            self.ends.popleft()
            self.end_line()
        return True

    def pass_lines(self, block: bytes) -> None:
        """Pass on the whole lines of a block, and keep what follows them."""
        end = block.rfind(b"\n") + 1
        if not end and len(self.line) + len(block) >= LINE_MAX:
            end = len(block)
        if not end:
            self.line += block
            return
        text, self.line = self.line + block[:end], block[end:]
        self.tail.add(text)
        if self.tail.seek:
            self.tail.seek(text)
        self.follow(self.unit, text)
        self.sink.put(self, text)

    def drain(self, last: bool = False) -> None:
        """Read what is there. COST: not more than a pipe may hold, since somebody may go on writing."""
        for _ in range(PIPE_SIZE // CHUNK + 1):
            if not self.read_pipe(last):
                return

    def finish_run(self) -> None:
        """The unit has ended: what it wrote last is a line, even without a newline."""
        self.drain(last=True)
        if self.sink.full and len(self.sink.kept) >= STUCK_KEPT:
            end = self.total + int.from_bytes(fcntl.ioctl(self.fd, FIONREAD, bytes(4)), sys.byteorder)
            if not self.ends or self.ends[-1] < end:
                self.ends.append(end)
        else:
            self.end_line()

    def end_line(self) -> None:
        """What comes next is another's."""
        if self.line or self.sink.unfinished is self:
            self.pass_lines(b"\n")

    def end_capture(self) -> None:
        """Pass on what is left, and give the pipe back."""
        self.finish_run()
        self.sink.waiting.discard(self)
        self.watch.off(self.fd)
        os.close(self.fd)
        os.close(self.end)
        self.fd = -1


def spell_json(value: Any) -> str:
    """Return JSON for texts, lists, dictionaries, numbers and None. The json module is not in python3-minimal."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{spell_json(key)}: {spell_json(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(spell_json, value)) + "]"
    if not isinstance(value, str):
        return "null" if value is None else repr(value)
    escaped = re.sub(r'[\0-\x1f"\\\x7f\ud800-\udfff]', lambda match: f"\\u{ord(match[0]):04x}", value)
    return f'"{escaped}"'


def clean(text: str) -> str:
    """Return text on one line, with control characters spelt out."""
    controls = r"[\0-\x1f\x7f-\x9f\udc80-\udc9f]"  # C0 and C1; the last are bytes that were no UTF-8
    return re.sub(controls, lambda match: " " if match[0] in "\n\t" else f"\\x{ord(match[0]) & 255:02x}", text)


class Log:
    """overlord's own messages. What nobody reads is kept up to LOG_KEPT bytes, and the rest counted."""

    prefix = b""

    def __init__(self, stream: Stream, level: str = "info", form: str = "text") -> None:
        self.stream = stream
        self.level, self.form = LEVELS.index(level), form
        self.backlog = self.lost = 0  # bytes among what the stream keeps; messages
        stream.drained = self.catch_up

    def spell(self, level: str, unit: str, text: str, details: Mapping[str, str | list[str]] | None = None) -> bytes:
        """Return one line in the format chosen; in text, one more for each detail, and for each line of one."""
        details = details or {}
        if self.form == "json":
            now = time.time()
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now * 1000) % 1000:03d}Z"
            fields = {"time": stamp, "level": level, **({"unit": unit} if unit else {}), "message": clean(text), **details}
            lines = [spell_json(fields)]
        else:
            head = f"overlord: {unit}: " if unit else "overlord: "
            lines = [head + clean(text)]
            for key, value in details.items():
                several = isinstance(value, list)
                lines.append(f"{head}  {key}:" + ("" if several else f" {clean(str(value))}"))
                lines += [f"{head}  | {clean(line)}" for line in value] if several else []
        return ("\n".join(lines) + "\n").encode("utf-8", "surrogateescape")

    def message(self, level: str, unit: str, text: str, details: Mapping[str, Any] | None = None, always: bool = False) -> None:
        """Write one message, if the level is high enough. Never raises, never waits."""
        if always or LEVELS.index(level) >= self.level:
            self.write_line(self.spell(level, unit, text, details))

    def write_line(self, line: bytes) -> None:
        """Hand a message to the stream, unless too many wait there already."""
        if self.stream.kept and self.backlog + len(line) > LOG_KEPT:
            self.lost += 1
            return
        self.stream.put(self, line)
        self.backlog = self.backlog + len(line) if self.stream.kept else 0

    def catch_up(self) -> None:
        """Where messages were lost and the stream takes more again, say so."""
        if self.lost and not self.stream.kept:
            lost, self.lost = self.lost, 0
            self.write_line(self.spell("warning", "", f"{lost} messages were lost, since nobody read them"))


class Output:
    """Who writes where: the container's streams, the log files, the captures of all units."""

    def __init__(self, watch: Watch, level: str, form: str, colour: bool) -> None:
        self.watch, self.colour = watch, colour
        self.streams: dict[int, Stream] = {}
        self.sinks: dict[str, Stream | LogFile] = {}
        self.captures: dict[tuple[str, int], Capture] = {}
        self.tails: dict[str, Tail] = {}
        self.follow: Callable[[str, bytes], None] = lambda unit, text: None  # told of all that is captured from then on
        self.log = Log(self.stream(2), level, form)

    def stream(self, fd: int) -> Stream:
        """Return the container's stdout or stderr, which may be one and the same."""
        if fd not in self.streams:
            same = [other for other in self.streams if os.path.samestat(os.fstat(other), os.fstat(fd))]
            self.streams[fd] = self.streams[same[0]] if same else Stream(self.watch, fd)
        return self.streams[fd]

    def wire_output(self, spec: Spec) -> tuple[int, int]:
        """Return what a unit's descriptors 1 and 2 are to be, -1 for nothing. Raises StartError."""
        out = self.writing_end(spec, 1, spec.stdout)
        if spec.stderr == "stdout" or (spec.stderr == spec.stdout and spec.stderr[0] == "/"):
            self.unwire(spec.name, 2)
            return out, out
        return out, self.writing_end(spec, 2, spec.stderr)

    def unwire(self, name: str, fd: int) -> None:
        """Give back what a unit writes to no more, and the file if it was the last to do so."""
        capture = self.captures.pop((name, fd), None)
        if not capture:
            return
        capture.end_capture()
        if not self.of(name):
            del self.tails[name]
        for path, sink in list(self.sinks.items()):
            if sink is capture.sink and all(other.sink is not sink for other in self.captures.values()):
                sink.release()
                del self.sinks[path]

    def writing_end(self, spec: Spec, fd: int, target: str) -> int:
        """Return the descriptor that a unit writes to as its `fd`."""
        capture = self.captures.get((spec.name, fd))
        if capture and capture.target != target:
            self.unwire(spec.name, fd)
            capture = None
        if target in ("inherit", "null"):
            return fd if target == "inherit" else -1
        try:
            if not capture:
                sink = self.stream(fd) if target == "prefix" else self.sink(target, spec)
                tail = self.tails.setdefault(spec.name, Tail())
                prefix = f"{spec.name} | " if target == "prefix" else ""
                if prefix and self.colour and isinstance(sink, Stream) and sink.terminal:
                    prefix = f"\x1b[{COLOURS[list(self.tails).index(spec.name) % len(COLOURS)]}m{spec.name} |\x1b[0m "
                capture = self.captures[spec.name, fd] = Capture(self, spec.name, tail, target, sink, prefix.encode())
            os.set_blocking(capture.end, True)  # the process before may have set O_NONBLOCK: node does
        except OSError as error:
            raise StartError(f"{('stdout', 'stderr')[fd - 1]} {target}: {error.strerror}", error.errno in SCARCE) from None
        return capture.end

    def sink(self, path: str, spec: Spec) -> Stream | LogFile:
        """Return the one writer of a path, whoever names it and by which way. Raises OSError."""
        try:
            stat = os.stat(path)
            for fd in (1, 2):
                if os.path.samestat(stat, os.fstat(fd)):
                    return self.stream(fd)
        except OSError:  # not there, or not to be seen: the writer will say so
            pass
        try:
            place = find(path)
            os.close(place.folder)
        except Misled:
            raise
        except OSError:
            place = Place(-1, os.path.normpath(path), None, False)  # a file in the place of a folder, say: the writer will say so
        if place.path not in self.sinks:
            kind = place.stat.st_mode & 0o170000 if place.stat else 0o100000
            if kind == 0o100000:
                self.sinks[place.path] = LogFile(self.watch, place.path, spec.log_max, spec.log_keep, self.log.message)
            else:
                # LINUX: a FIFO opened for reading too needs no reader to be there, and never breaks: fifo(7)
                fd, folder = open_path(place.path, os.O_RDWR if kind == 0o010000 else os.O_WRONLY, kind)
                os.close(folder)
                self.sinks[place.path] = Stream(self.watch, fd)
        sink = self.sinks[place.path]
        if isinstance(sink, LogFile):
            sink.units.add(spec.name)
        return sink

    def of(self, name: str) -> list[Capture]:
        return [self.captures[name, fd] for fd in (1, 2) if (name, fd) in self.captures]

    def apply_settings(self, fleet: Fleet) -> None:
        """Have what takes effect in place take effect."""
        self.log.level, self.log.form = LEVELS.index(fleet.settings.log_level), fleet.settings.log_format
        for (name, _), capture in reversed(list(self.captures.items())):  # of several units, the one that was first counts
            spec = fleet.units[name].spec if name in fleet.units else None
            if spec and isinstance(capture.sink, LogFile) and capture.target in (spec.stdout, spec.stderr):
                capture.sink.most, capture.sink.keep = spec.log_max, spec.log_keep

    def unwire_unit(self, name: str) -> None:
        self.unwire(name, 1)
        self.unwire(name, 2)

    def hurry(self) -> None:
        """overlord shuts down: a reader who is stuck must not keep daemons from ending."""
        for sink in {*self.streams.values(), *self.sinks.values()}:
            if isinstance(sink, Stream) and not sink.hurry:
                sink.hurry = True
                sink.flush()

    def write_rest(self, until: float) -> None:
        """Write all that is left, until `until` at most, and not for a reader who is stuck."""
        self.hurry()
        while True:
            for capture in self.captures.values():
                capture.drain()
            streams = [s for s in {*self.streams.values(), *self.sinks.values()} if isinstance(s, Stream) and s.kept]
            deadline = max((min(until, stream.progress + STUCK) for stream in streams), default=0.0)
            if time.monotonic() >= deadline:
                break
            self.watch.wait(deadline, once=True)
        for capture in self.captures.values():
            capture.finish_run()
        for sink in self.sinks.values():
            if isinstance(sink, LogFile) and sink.fault:
                sink.try_again()
        lost = sum(sink.lost + sink.kept.count(b"\n") for sink in {*self.streams.values(), *self.sinks.values()})
        if lost:
            self.log.message("warning", "", f"{lost} lines of output were given up, since they could not be written")


# =========================================================================================================== Kernel
# The system calls that touch processes: spawn, signal, reap, look into /proc.

# Words that the shell may take for something else than a program: POSIX 2.9, dash(1), bash(1), busybox ash.
SHELL_WORDS = frozenset(
    """. : [ [[ alias bg bind break builtin caller case cd chdir command compgen complete compopt continue coproc declare
    dirs disown do done echo elif else enable esac eval exec exit export false fc fg fi for function getopts hash help
    history if in jobs kill let local logout mapfile popd printf pushd pwd read readarray readonly return select set shift
    shopt source suspend test then time times trap true type typeset ulimit umask unalias unset until wait while""".split()
)
PLAIN_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./+- ")
FIRST_WORD = r"(?a)[\w./+-]+(?=\s|$)"
PLAIN_WORD = r"(?:[\w@%+=:,./-]|\\[^\n]|'[^']*'|\"[^\"\\$`]*\")+"
PLAIN_COMMAND = rf"(?a)[\w./+-]+(?:(?:\\\n)*[ \t](?:[ \t]|\\\n)*{PLAIN_WORD})*"
SUBSTITUTION = r"\$\(\([^()'\"`\\#]*\)\)|\$\([^()'\"`\\#]*\)|`[^()'\"`\\#]*`"  # of those, the simple ones


def command_line(cmd: str, environment: Mapping[bytes, bytes]) -> list[str]:
    """Return the argument vector for a `cmd`: its own words if they are plain, else a shell's.
    A lone simple command leaves no shell behind. With plain words no shell is needed at all, which also keeps the
    environment as it is (dash drops variables with a dot in the name); with others the shell is told to `exec` it. Where
    it is not certain that the first word names a program, the shell gets the text as it stands."""
    cmd = cmd.strip()
    words = cmd.split() if PLAIN_LETTERS.issuperset(cmd) else []  # COST: most are like that, and no pattern is compiled
    match = None if words else re.match(FIRST_WORD, cmd)
    first = match[0] if match else "".join(words[:1])
    if not first or first in SHELL_WORDS or f"BASH_FUNC_{first}%%".encode() in environment:
        return ["/bin/sh", "-c", cmd]
    if words:
        return words
    if re.fullmatch(PLAIN_COMMAND, cmd):
        words = re.findall(PLAIN_WORD, cmd, re.ASCII)
        return [re.sub(r"\\(.)|'([^']*)'|\"([^\"]*)\"", lambda m: m[1] or m[2] or m[3] or "", word) for word in words]
    bare = re.sub(r"\\.|'[^']*'|\"(?:\\.|[^\"\\$`]|\$(?!\())*\"|[<>]&", "", re.sub(SUBSTITUTION, "", cmd), flags=re.DOTALL)
    simple = not re.search(r"[;&|()`\n\"']|<<|(?:^|\s)#", bare)
    return ["/bin/sh", "-c", f"exec {cmd}" if simple else cmd]


def find_paths(program: bytes, environment: Mapping[bytes, bytes]) -> list[bytes]:
    """Return where a program may be found."""
    folders = environment.get(b"PATH", DEFAULT_PATH.encode()).split(b":")
    return [program] if b"/" in program else [(folder or b".") + b"/" + program for folder in folders]


def execute(argv: Iterable[str], environment: dict[bytes, bytes]) -> None:
    """Replace this process, as execvp(3): by way of PATH, or a shell where `#!` is missing. In the child. Raises OSError."""
    words = [os.fsencode(word) for word in argv]
    failure = OSError(errno.ENOENT, "not found")
    for path in find_paths(words[0], environment):
        try:
            if words[0]:
                os.execve(path, words, environment)
        except OSError as error:
            if error.errno == errno.ENOEXEC:
                os.execve(b"/bin/sh", [b"/bin/sh", path, *words[1:]], environment)
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                failure = error
            elif os.path.exists(path):
                failure = OSError(errno.ENOENT, "the interpreter in its #! line was not found")
    raise failure


NOTHING: dict[str, str] = {}
# File systems that no other machine and no other process can keep from answering.
LOCAL = frozenset(
    b"""aufs bcachefs bpf btrfs cgroup cgroup2 configfs debugfs devpts devtmpfs efivarfs erofs ext2 ext3 ext4 f2fs fusectl
    hugetlbfs iso9660 jfs mqueue nsfs overlay proc pstore ramfs rootfs securityfs selinuxfs squashfs sysfs tmpfs tracefs vfat
    xfs zfs""".split()
)


def secret_path(name: str, environment: Mapping[bytes, bytes]) -> str:
    return decode(environment.get(f"{name}_FILE".encode(), b"")) or f"/run/secrets/{name}"


def read_fixed(spec: Spec, environment: Mapping[bytes, bytes]) -> dict[str, bytes | OSError]:
    """Return what is in those files of a unit's `env_file` and `secrets` to which nobody but root and overlord's user can lead,
    or why it cannot be read. Runs in the child, while that has overlord's rights; the other files are for `read_variables`."""
    held: dict[str, bytes | OSError] = {}
    for path in [*(path[path[0] == "-" :] for path in spec.env_file), *(secret_path(name, environment) for name in spec.secrets)]:
        try:
            place = find(os.path.join(os.getcwd(), path))
            os.close(place.folder)
        except OSError:
            continue
        try:
            if place.safe:
                held[path] = slurp(path)
        except OSError as error:
            held[path] = error
    return held


def read_variables(spec: Spec, environment: Mapping[bytes, bytes], held: Mapping[str, bytes | OSError]) -> dict[bytes, bytes]:
    """Return what a unit's `env_file` and `secrets` say; `held`: what was read already. Raises StartError, which shows no
    value. Runs in the child, as the unit's user."""
    found: dict[bytes, bytes] = {}

    def read_one(what: str, path: str, optional: bool = False) -> bytes:
        why = ""
        try:
            content = held.get(path)
            if isinstance(content, OSError):
                raise content
            why = f" (read as {spec.uid}: others than root can change a folder or link on the way to it)" if spec.uid else ""
            return slurp(path) if content is None else content
        except OSError as error:
            if optional and error.errno == errno.ENOENT:
                return b""
            raise StartError(f"{what}{path}: {error.strerror}{why if error.errno == errno.EACCES else ''}") from None

    for path in spec.env_file:
        lines = read_one("env_file ", path[path[0] == "-" :], path[0] == "-").splitlines()
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.lstrip().startswith(b"#"):
                continue
            key, equals, value = line.strip().partition(b"=")
            if not equals or not re.fullmatch(rb"[^\s'\"$]+", key):
                raise StartError(f"env_file {path}:{number}: is not of the form KEY=value")
            if b"\0" in line:
                raise StartError(f"env_file {path}:{number}: holds a NUL byte")
            found[key] = value[1:-1] if re.fullmatch(rb"'[^']*'|\"[^\"]*\"", value) else value
    for name in spec.secrets:
        path = secret_path(name, environment)
        found[name.encode()] = re.sub(rb"\r?\n\Z", b"", read_one(f"secret {name}: ", path))
        if b"\0" in found[name.encode()]:
            raise StartError(f"secret {name}: {path}: holds a NUL byte")
    return found


def remove_pidfile(path: str) -> None:
    """Remove a pid file of before. Runs in the child, as the unit's user. Raises OSError."""
    place = find(path)
    try:
        if place.stat:
            os.unlink(os.path.basename(place.path), dir_fd=place.folder)
    finally:
        os.close(place.folder)


def set_limits(limits: Iterable[tuple[str, int, int]]) -> None:
    """Set the limits of this process. Raises StartError. Runs in the child, as overlord's user, who may raise them.
    python3-minimal has no `resource`: there prlimit(1) of util-linux, which is always there on Debian, does it."""
    try:
        import resource

        for name, soft, hard in limits:
            try:
                resource.setrlimit(getattr(resource, f"RLIMIT_{name.upper()}"), (soft, hard))
            except (OSError, ValueError) as error:
                raise StartError(f"limits {name}: {error}") from None
            except AttributeError:
                raise StartError(f"limits {name}: this Python does not know it") from None
    except ImportError:
        words = [f"--{name}={soft if soft >= 0 else ''}:{hard if hard >= 0 else ''}" for name, soft, hard in limits]
        words = [re.sub(r"=:$", "=unlimited", word) for word in words]
        heard, said = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                os.dup2(said, 2)
                execute(["prlimit", f"--pid={os.getppid()}", *words], {})
            finally:
                os._exit(NOT_FOUND)
        os.close(said)
        if os.waitpid(pid, 0)[1]:
            why = decode(os.read(heard, 1000)).strip() or "this Python has no resource module, and there is no prlimit(1)"
            raise StartError(f"limits: {why}") from None
        os.close(heard)


def identity(uid: str | None, gid: str | None) -> tuple[Any, Any, str | None, dict[str, str]]:
    """Return uid, gid, the name for supplementary groups, and the variables that follow. Raises StartError."""
    import grp
    import pwd

    number, group, name, variables = None, None, None, {}
    if uid is not None:
        try:
            entry = pwd.getpwuid(int(uid)) if is_number(uid, 10) else pwd.getpwnam(uid)
            number, group, name = entry.pw_uid, entry.pw_gid, entry.pw_name
            variables = {"HOME": entry.pw_dir, "USER": name, "LOGNAME": name, "SHELL": entry.pw_shell or "/bin/sh"}
        except KeyError:
            if not is_number(uid, 10):
                raise StartError(f"uid {uid}: no such user") from None
            number = group = int(uid)
            variables = {"HOME": "/", "USER": uid, "LOGNAME": uid, "SHELL": "/bin/sh"}
    if gid is not None:
        try:
            group = int(gid) if is_number(gid, 10) else grp.getgrnam(gid).gr_gid
        except KeyError:
            raise StartError(f"gid {gid}: no such group") from None
    return number, group, name, variables


def exists(target: int) -> bool:
    """Tell whether there is a process, or with minus its number a group; a zombie counts."""
    try:
        os.kill(target, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def ignores(pid: int, signum: int) -> bool:
    """Tell whether a process ignores a signal, proc(5)."""
    try:
        mask = slurp(f"/proc/{pid}/status").partition(b"SigIgn:")[2].split(None, 1)
    except OSError:
        return False
    return bool(mask) and bool(int(mask[0], 16) >> (signum - 1) & 1)


def slurp_children() -> set[int] | None:
    """Return overlord's children, None where the kernel does not tell: proc(5), CONFIG_PROC_CHILDREN. COST: no look at /proc."""
    try:
        return {int(pid) for pid in slurp(f"/proc/self/task/{os.getpid()}/children").split()}
    except OSError:
        return None


def is_becoming(pid: int) -> bool:
    """Tell whether a child is still on its way to exec."""
    try:
        return slurp(f"/proc/{pid}/cmdline") == slurp("/proc/self/cmdline")
    except OSError:
        return False


def heeds(pid: int, signum: int) -> bool | None:
    """Tell whether a process does something about a signal: its default is harmless, or the process catches, ignores or
    blocks it in a thread, proc(5). None where the kernel does not let overlord see."""
    if signum in HARMLESS:
        return True
    try:
        if is_becoming(pid):
            return False  # RACE: exec will undo what shows now
        tasks = [f"/proc/{pid}/task/{task}/status" for task in os.listdir(f"/proc/{pid}/task")]
    except (FileNotFoundError, ProcessLookupError):  # it is gone, or hidden: proc(5), hidepid
        return None if exists(pid) else False
    except OSError:
        return None
    for task in tasks:
        try:
            masks = re.findall(rb"(?m)^Sig(?:Blk|Ign|Cgt):\t(\w+)", slurp(task))
        except OSError:  # this thread has ended
            continue
        if any(int(mask, 16) >> (signum - 1) & 1 for mask in masks):
            return True
    return False


def with_continue(signum: int) -> tuple[int, ...]:
    """Return a signal that is to end a process, and SIGCONT after it: a stopped process acts on nothing but SIGKILL."""
    return (signum,) if signum == SIGNALS["KILL"] else (signum, SIGNALS["CONT"])


def may_hang() -> bool:
    """Tell whether a file system is mounted that is not the machine's own: NFS, FUSE and their like."""
    try:
        return not {line.split()[2] for line in slurp("/proc/self/mounts").splitlines()} <= LOCAL
    except (OSError, IndexError):
        return True


class Kernel:
    """Makes, signals and reaps processes."""

    def __init__(self, environment: dict[bytes, bytes], mask: set[int]) -> None:
        self.environment, self.mask = environment, mask
        self.ignored = {n for n in SETTABLE if signal.getsignal(n) == signal.SIG_IGN} - OWN_FAULTS
        # LINUX: a descriptor is not made inheritable by dup2 to itself, nor by posix_spawn in glibc before 2.29
        whole = all(is_open(fd) and os.get_inheritable(fd) for fd in (1, 2))
        self.launches = whole and hasattr(os, "posix_spawn") and not may_hang()
        for fd in (0, 1, 2):
            if not is_open(fd):  # lest a pipe of overlord's own becomes somebody's standard output
                os.open(os.devnull, os.O_RDWR)
        self.handed = inherited_descriptors()
        for fd in self.handed:
            os.set_inheritable(fd, False)
        self.null = os.open(os.devnull, os.O_RDWR)
        self.failures, self.failing = os.pipe()  # a child that cannot become its unit says here why
        os.set_blocking(self.failures, False)
        self.reasons: dict[int, str] = {}  # of a dead child that never became its unit
        # a command run for a unit, a probe's child -> who wants to know its end: the code, and what it said to be wrong
        self.helpers: dict[int, tuple[str, Callable[[int, str], None]]] = {}
        self.terminal = False  # the main command was put into the foreground of the terminal
        self.oom, self.oom_seen = oom_kills()[0], -OOM_WINDOW  # killed for want of memory so far; when that was seen to grow

    def make_process(
        self, spec: Spec, stdio: tuple[int, int] = (1, 2), extra: Mapping[str, str] = NOTHING, fd: tuple[int, int] = (-1, -1)
    ) -> int:
        """Return the pid of a new process for a unit. Raises StartError.
        `stdio`: what becomes its descriptors 1 and 2, as `open_stdio` says; `extra`: variables beyond its own; `fd`: one
        more descriptor, and what becomes that."""
        pid = self.posix_spawn(spec, stdio, extra) if fd[0] < 0 else 0
        if pid:
            return pid
        self.terminal = self.terminal or (spec.kind == "main" and in_foreground())
        return self.fork(lambda: self.become(spec, stdio, extra, fd))

    def fork(self, child: Callable[[], tuple[str, int]]) -> int:
        """Return the pid of a child that makes a call. Raises StartError.
        The call returns why it failed, which `reason` hands out, and an exit code: 0 where it did not fail, EX_TEMPFAIL where
        something was scarce. RACE: until exec a child still has overlord's handlers and its wake-up pipe, so that a signal
        sent to the child would reach overlord. All signals are blocked from before the fork until the child has shed both."""
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ALL_SIGNALS)
        try:
            pid = os.fork()
            if not pid:
                try:
                    text, code = child()
                except OSError as error:
                    text, code = error.strerror or str(error), EX_TEMPFAIL if error.errno in SCARCE else 1
                except BaseException as error:
                    text, code = repr(error), 1
                try:
                    if text:
                        self.report(text)
                finally:
                    os._exit(code if text else 0)
            return pid
        except OSError as error:
            raise StartError(f"fork: {error.strerror}", passing=True) from None
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def compute(self, call: Callable[[], bytes], done: Callable[[bytes], None]) -> None:
        """Make a call in a child, which may take its time; hand over what it returns, b"" where it dies. Where there is no file
        for that, memfd_create(2), overlord makes the call itself. Raises StartError."""
        try:
            data = open(os.memfd_create("overlord"), "w+b", buffering=0)  # noqa: SIM115
        except (AttributeError, OSError):
            done(call())
            return

        def child() -> tuple[str, int]:
            self.shed_signals()
            os.setsid()
            data.write(call())
            return "", 0

        def hand_over_result(code: int, why: str) -> None:
            with data:
                data.seek(0)
                done(b"" if code else data.read())

        self.helpers[self.fork(child)] = ("", hand_over_result)

    def posix_spawn(self, spec: Spec, stdio: tuple[int, int], extra: Mapping[str, str]) -> int:
        """Return the pid of a new process, or 0 where there is more to do before the exec, or `become` has to say what is wrong.
        COST: posix_spawn(3) copies no page tables, half the time of a fork and a third where overlord is large. But
        overlord stands still until the exec, hence `may_hang`. The C library closes the race that `fork` speaks of in the
        same way. LINUX: glibc leaves two signals of its own ignored, 32 and 33, which no program can name."""
        own, later = (spec.uid, spec.gid, spec.umask, spec.nice, spec.dir), spec.limits or spec.env_file or spec.secrets
        if own != (None,) * 5 or later or spec.pidfile or spec.kind == "main" or not self.launches:
            return 0
        environment = self.variables(spec, dict(self.environment), extra)
        argv = command_line(spec.cmd, environment)
        actions = [(os.POSIX_SPAWN_DUP2, self.null, 0)]
        actions += [(os.POSIX_SPAWN_DUP2, self.null if given < 0 else given, fd) for fd, given in enumerate(stdio, 1)]
        try:
            path = next(path for path in find_paths(os.fsencode(argv[0]), environment) if os.access(path, os.X_OK))
            return os.posix_spawn(path, argv, environment, file_actions=actions, setsid=True, setsigmask=(), setsigdef=SETTABLE)
        except (StopIteration, OSError, ValueError):
            return 0
        except NotImplementedError:  # the C library knows no POSIX_SPAWN_SETSID
            self.launches = False
            return 0

    def variables(self, spec: Spec, environment: dict[bytes, bytes], extra: Mapping[str, str]) -> dict[bytes, bytes]:
        """Return an environment with what a unit's `env` says added to it, and what is not its own to say."""
        pairs = spec.env
        if spec.env_file or spec.secrets:  # only now all of them are known
            pairs = fill_env(pairs, {decode(key): decode(value) for key, value in environment.items()})
        environment.update((os.fsencode(key), os.fsencode(value)) for key, value in pairs)
        environment[b"OVERLORD_NAME"] = spec.name.encode()
        if spec.instance:
            environment[b"OVERLORD_INSTANCE"] = b"%d" % spec.instance
        environment.update((os.fsencode(key), os.fsencode(value)) for key, value in extra.items())
        return environment

    def become(self, spec: Spec, stdio: tuple[int, int], extra: Mapping[str, str], fd: tuple[int, int]) -> tuple[str, int]:
        """Turn into the process of a unit. Runs in the child. Returns why it cannot, and the exit code for that."""
        stage, code = "start", 1
        try:
            if spec.kind == "main":
                environment, argv = self.environment, spec.cmd
                self.become_main()
            else:
                self.shed_signals()  # what follows may take long, and has to be stoppable
                os.setsid()
                open_stdio(self.null, stdio)
                if fd[0] >= 0:
                    self.give_descriptor(*fd)
                if spec.umask is not None:
                    os.umask(spec.umask)
                if spec.nice is not None:
                    stage = f"nice {spec.nice}"
                    os.setpriority(os.PRIO_PROCESS, 0, spec.nice)
                stage = "limits"
                if spec.limits:  # prlimit(1) without any prints a table
                    set_limits(spec.limits)
                environment, held = dict(self.environment), read_fixed(spec, self.environment)
                if spec.uid is not None or spec.gid is not None:
                    stage = f"gid {spec.gid}" if spec.uid is None else f"uid {spec.uid}"
                    environment.update(self.take_identity(spec, stdio))
                environment.update(read_variables(spec, environment, held))
                if spec.pidfile:
                    stage = f"pidfile {spec.pidfile}"
                    remove_pidfile(spec.pidfile)
                self.variables(spec, environment, extra)
                if spec.dir:
                    stage = f"dir {spec.dir}"
                    os.chdir(spec.dir)
                argv = command_line(spec.cmd, environment)
            stage, code = argv[0], NOT_FOUND
            execute(argv, environment)
        except (StartError, Mistake) as error:
            return f"env: {error}" if isinstance(error, Mistake) else str(error), 1
        except OSError as error:
            if code == NOT_FOUND and error.errno not in (errno.ENOENT, errno.ENOTDIR):
                code = NOT_EXECUTABLE
            return f"{stage}: {error.strerror}", code
        return "", 1

    def give_descriptor(self, number: int, own: int) -> None:
        """Have a descriptor of overlord's be that number of the unit. Runs in the child. Raises OSError."""
        if self.failing == number:
            self.failing = fcntl.fcntl(self.failing, fcntl.F_DUPFD_CLOEXEC, number + 1)
        if own != number:
            os.dup2(own, number)
        os.set_inheritable(number, True)

    def shed_signals(self, ignored: Iterable[int] = (), mask: Iterable[int] = ()) -> None:
        """Be rid of overlord's handlers, its wake-up pipe and its mask. Runs in the child."""
        signal.set_wakeup_fd(-1)
        for number in SETTABLE:
            signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def become_main(self) -> None:
        """Take what tini gives: a process group of its own, the terminal if there is one. Runs in the child."""
        os.setpgid(0, 0)
        if self.terminal:
            os.tcsetpgrp(0, os.getpid())
        for fd in self.handed:
            os.set_inheritable(fd, True)
        self.shed_signals(self.ignored, self.mask)

    def report(self, text: str) -> None:
        """Tell overlord why the child cannot become its unit. Runs in the child. COST: one write, atomic below PIPE_BUF."""
        words = re.sub(r"[\0\n]", " ", text)
        os.write(self.failing, os.fsencode(f"{os.getpid()} {words}")[: select.PIPE_BUF - 1] + b"\n")

    def reason(self, pid: int) -> str:
        """Return why a dead child never became its unit, or nothing where it did."""
        try:
            for line in os.read(self.failures, 65536).split(b"\n")[:-1]:
                child, _, text = line.partition(b" ")
                self.reasons[int(child)] = text.decode("utf-8", "surrogateescape")
        except BlockingIOError:
            pass
        return self.reasons.pop(pid, "")

    def take_identity(self, spec: Spec, stdio: tuple[int, int]) -> dict[bytes, bytes]:
        """Become the unit's user and group, and return the variables that follow. Runs in the child.
        LINUX: /dev/stdout leads to an open file, and opening it again asks for the rights to it: a pipe of the unit's own
        is given to its user."""
        uid, gid, name, variables = identity(spec.uid, spec.gid)
        if uid is not None and uid == os.geteuid() and (spec.gid is None or gid == os.getegid()):
            uid = gid = None  # the user that overlord runs as: nothing to change, no privilege needed
        for fd, given in enumerate(stdio, 1):
            try:
                if uid is not None and given > 2:
                    os.fchown(fd, uid, -1)
            except OSError:  # without CAP_CHOWN it can write, and not open it again
                pass
        if uid is not None:
            if name is not None:
                os.initgroups(name, gid)
            else:
                os.setgroups([gid])
        if gid is not None and gid != os.getegid():
            os.setgid(gid)
        if uid is not None:
            os.setuid(uid)
        return {os.fsencode(key): os.fsencode(value) for key, value in variables.items()}

    def send_signals(self, pid: int, *signums: int) -> str:
        """Send signals to a process, or with minus its number to its group, if it is there; return what is wrong."""
        try:
            for signum in signums:
                os.kill(pid, signum)
        except ProcessLookupError:
            pass
        except PermissionError as error:
            return f"{error.strerror} (a process of another user: overlord needs CAP_KILL)"
        return ""

    def dead_children(self, most: int) -> Iterator[tuple[int, int, int, bool]]:
        """Yield (pid, code or minus the signal, real uid, stopped) of at most so many children that died or were stopped."""
        for _ in range(most):
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WSTOPPED | os.WNOHANG)
            except ChildProcessError:
                return
            if not found:
                return
            killed = found.si_code in CLD_KILLED
            yield found.si_pid, -found.si_status if killed else found.si_status, found.si_uid, found.si_code == CLD_STOPPED

    def hint(self, unit: Unit, code: int, left: str) -> str:
        """Return what is known of why a unit ended, beyond its code. `left`: what it left behind."""
        if code in (-SIGNALS["KILL"], 128 + SIGNALS["KILL"]):
            count, limit = oom_kills()
            if count > self.oom:
                self.oom, self.oom_seen = count, time.monotonic()
            # the kernel may have killed several at once: memory.oom.group
            return f"out of memory, {limit}" if time.monotonic() - self.oom_seen < OOM_WINDOW else ""
        if code == 0 and left and unit.spec.kind == "daemon" and not unit.status.up:
            how = FOREGROUND.get(program_of(unit.spec), "its manual tells how to keep it there")
            told = f"a daemon has to stay in the foreground ({how}), or to have a `pidfile`"
            return f"it put itself into the background, as {left}; {told}"
        return HINTS.get(code, "")


def program_of(spec: Spec) -> str:
    return os.path.basename(command_line(spec.cmd, {})[0]) if isinstance(spec.cmd, str) else ""


def open_stdio(null: int, stdio: tuple[int, int]) -> None:
    """Make the given descriptors 1 and 2, /dev/null for -1, and /dev/null 0. Runs in the child.
    `null` is open already, and closed then: where overlord has no descriptor left, the child has that one."""
    for fd, given in enumerate((null, *(null if given < 0 else given for given in stdio))):
        if given != fd:
            os.dup2(given, fd)
        os.set_inheritable(fd, True)
    os.close(null)


def oom_kills() -> tuple[int, str]:
    """Return how many processes the kernel has killed here for want of memory, and the limit in words.
    LINUX: cgroup v2 counts in memory.events, v1 in memory.oom_control (since 4.13). In a container its own cgroup is
    mounted on /sys/fs/cgroup; elsewhere /proc/self/cgroup says where below."""
    try:
        own = [line.split(":", 2) for line in decode(slurp("/proc/self/cgroup")).splitlines()]
    except OSError:
        own = []
    places = [(path, "events", "max") for number, _, path in own if number == "0"]
    places += [(f"/memory{path}", "oom_control", "limit_in_bytes") for _, kinds, path in own if "memory" in kinds.split(",")]
    for path, counter, limit in (*places, ("", "events", "max"), ("/memory", "oom_control", "limit_in_bytes")):
        folder = f"/sys/fs/cgroup{path}/memory."
        try:
            count = re.search(rb"(?m)^oom_kill (\d+)", slurp(folder + counter))
            if count:
                size = decode(slurp(folder + limit)).strip()
                # v1 spells no limit as a number close to 2^63
                known = size.isdigit() and int(size) < 1 << 60
                return int(count[1]), f"the limit is {spell_size(int(size))}" if known else "and not by a limit of its own"
        except OSError:
            pass
    return 0, ""


def in_foreground() -> bool:
    try:
        return os.isatty(0) and os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return False


def is_open(fd: int) -> bool:
    try:
        return fcntl.fcntl(fd, fcntl.F_GETFD) >= 0
    except OSError:
        return False


def inherited_descriptors() -> list[int]:
    """Return the descriptors above 2 that overlord was started with. PYTHON: those of its own are not inheritable."""
    try:
        numbers = [int(entry) for entry in os.listdir("/proc/self/fd")]
    except OSError:
        numbers = list(range(256))
    return [fd for fd in numbers if fd > 2 and is_open(fd) and os.get_inheritable(fd)]


# What a program has to be told lest it puts itself into the background.
FOREGROUND = {
    "nginx": "run nginx -g 'daemon off;'", "apache2": "run apache2 -D FOREGROUND", "httpd": "run httpd -D FOREGROUND",
    "apache2ctl": "run apache2ctl -D FOREGROUND", "php-fpm": "run php-fpm -F", "redis-server": "run redis-server --daemonize no",
    "sshd": "run sshd -D", "cron": "run cron -f", "crond": "run crond -f", "rsyslogd": "run rsyslogd -n",
    "dnsmasq": "run dnsmasq -k", "memcached": "leave out -d", "haproxy": "run haproxy -db",
    "vsftpd": "run vsftpd -obackground=NO", "postfix": "run postfix start-fg",
}  # fmt: skip
HINTS = {
    NOT_FOUND: "the shell did not find a command (is it spelt right, in the image, on the PATH?)",
    NOT_EXECUTABLE: "the shell may not execute a file (chmod +x, or look at its #! line)",
}


# ============================================================================================================== Kin
# Whose process is whose: from one reading of /proc and the units' records to the processes of each unit.

# `born`: in clock ticks since boot; with the pid it tells a process from a later one: proc(5), fields 1 to 6, 20, 22 of stat.
Process = namedtuple("Process", "pid born name parent session")
# What an orphan tells of who made it. `unit`: the OVERLORD_NAME in its environment; nothing: none has it, for that is the
# container's own (docker exec); None: that cannot be told. `shown`: the kernel shows its environment. `user`: its real uid.
# `fleeting`: it may just end, or be in the middle of an exec, so that it tells nothing now.
Origin = namedtuple("Origin", "unit shown user fleeting", defaults=(None, False, None, False))


@spares
def read_stat(pid: int) -> bytes:
    """Return what proc(5) tells of a process. Raises OSError. COST: with open() it takes 40 % longer."""
    fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
    try:
        return os.read(fd, 4096)
    finally:
        os.close(fd)


def read_process(pid: int, strict: bool = False) -> Process | None:
    """Return a process that is not dead, which a zombie is when no thread of it lives. `strict`: raises OSError where overlord
    could not look."""
    try:
        name, _, rest = read_stat(pid).partition(b"(")[2].rpartition(b") ")
    except OSError as error:  # it went away meanwhile
        if strict and error.errno in SCARCE:
            raise
        return None
    fields = rest.split(None, 20)
    if len(fields) < 21 or (fields[0] in b"ZX" and int(fields[17]) <= 1):
        return None
    return Process(pid, int(fields[19]), name.decode("utf-8", "replace"), int(fields[1]), int(fields[3]))


def is_there(process: Process) -> bool:
    """Tell whether it is still that process. RACE: of those that are no children of overlord, the pid may be another's soon."""
    again = read_process(process.pid)
    return bool(again and again.born == process.born)


def processes() -> dict[int, Process]:
    """Return each process of the namespace that is not dead; none where /proc cannot be read. COST: 8 us for each process.
    RACE: one may fork and end between the listing and its turn, so that neither shows: it is listed until nobody is new."""
    found: dict[int, Process | None] = {}
    keep_spare()
    try:
        for _ in range(LISTINGS_MOST):
            new = [int(entry) for entry in spares(os.listdir)("/proc") if entry.isdigit() and int(entry) not in found]
            if not new:
                break
            found.update((pid, read_process(pid, strict=True)) for pid in new)
    except OSError:  # no /proc, or no descriptor: who could be read by then is not all
        return {}
    return {pid: each for pid, each in found.items() if each}


OF_A_LOGIN = b"TERM HOME USER LOGNAME SHELL PWD SHLVL _".split()  # variables that `docker exec` may set anew


def read_origin(process: Process, environment: Mapping[bytes, bytes]) -> Origin:
    """Look at who made a process: at its environment, and its user."""
    entries: list[bytes] = []
    try:
        entries = slurp(f"/proc/{process.pid}/environ").split(b"\0")
    except OSError:  # gone, or another user's
        pass
    try:
        status = slurp(f"/proc/{process.pid}/status")
        user = int(status.partition(b"\nUid:")[2].split(None, 1)[0])
    except (OSError, IndexError):
        return Origin(fleeting=True)
    names = [entry[14:] for entry in entries if entry[:14] == b"OVERLORD_NAME="]
    shown = dict(entry.partition(b"=")[::2] for entry in entries)
    own = environment and all(shown.get(key) == value for key, value in environment.items() if key not in OF_A_LOGIN)
    unit = decode(names[0]) if names else "" if own else None
    ends = b"\nVmSize:" not in status and b"\nState:\tZ" not in status  # LINUX: a zombie that counts as alive has threads
    return Origin(unit, bool(entries), user, ends or entries == [b""])


def spell_processes(found: list[Process]) -> str:
    """Return in words who they are: at most five by name."""
    names = ", ".join(f"{each.name} (pid {abs(each.pid)})" for each in found[:5])
    return names + (f" and {len(found) - 5} more" if len(found) > 5 else "")


def descendants(found: Mapping[int, Process], top: int) -> list[Process]:
    """Return all that descends from a process, nearest first."""
    children: dict[int, list[Process]] = {}
    for each in found.values():
        children.setdefault(each.parent, []).append(each)
    below = list(children.pop(top, ()))
    for each in below:  # grows on the way
        below += children.pop(each.pid, ())
    return below


def find_tops(found: Mapping[int, Process], owner: dict[int, Unit | None], ends: Iterable[int]) -> dict[int, int]:
    """Give whoever descends from an owned process the same owner. Return, for each that descends from none, the one among its
    forebears whose parent is an end: overlord. -1 for who came from outside (docker exec), 0 where that cannot be told."""
    tops: dict[int, int] = {}
    for pid in found:
        path = []
        while pid in found and pid not in owner and pid not in tops and pid not in ends:
            tops[pid] = 0  # RACE: a reading takes its time, so that parents may seem to go round in a circle
            path.append(pid)
            pid = found[pid].parent
        if pid in owner:
            owner.update(dict.fromkeys(path, owner[pid]))
            for each in path:
                del tops[each]
        elif path:
            tops.update(dict.fromkeys(path, path[-1] if pid in ends else tops.get(pid, 0) if pid else -1))
    return tops


def find_maker(
    process: Process, origin: Origin, users: Mapping[Unit, int | None], ending: Iterable[Unit]
) -> tuple[Unit | None, tuple[Unit, ...]]:
    """Return the unit that has made an orphan, or none and those that may have: older than it, and of its user, or started as
    root. Who wrote over its environment (nginx) is known by its name, as the program that puts itself into the background."""
    if origin.unit is not None:
        return next((unit for unit in users if unit.name == origin.unit and unit.born <= process.born), None), ()
    older = [unit for unit in users if unit.born <= process.born]
    fits = [unit for unit in older if None in (users[unit], origin.user) or users[unit] == origin.user]
    fits = [unit for unit in fits if users[unit] != 0]  # one with a `uid` that is still root has run nothing yet
    makers = tuple(unit for unit in older if unit.spec.uid in (None, "root", "0") or unit in fits)
    sure = [unit for unit in makers if users[unit] == origin.user and unit.name != MAIN]
    if sure and (len(makers) == 1 or set(makers) <= set(ending)):
        return sure[0], ()
    same = [unit for unit in makers if unit.name == MAIN or process.name in unit.spec.cmd] if origin.shown else []
    if len(same) == 1 and same[0] in sure and same[0] in ending and not same[0].status.up:
        return (same[0], ()) if program_of(same[0].spec)[:15] == process.name else (None, makers)
    return None, makers


Stranger = namedtuple("Stranger", "born makers")  # nobody's, or in doubt: start time, and the units that may have made it


def claim(
    found: Mapping[int, Process],
    own: int,
    adopts: bool,
    units: Iterable[Unit],
    helpers: Iterable[int],
    strangers: Mapping[int, Stranger],
    ending: Iterable[Unit],
    look: Callable[[Process], Origin],
) -> tuple[dict[int, Unit], dict[int, Stranger]]:
    """Return the unit of each process that has one; and those that are nobody's, the next `strangers`. Pure, but for `look`.
    `own`: overlord's pid; `adopts`: orphans become its children; `units`: those that have processes; `helpers`: its children
    that are no unit's main process; `ending`: units of which everything is about to be stopped.
    The evidence, best first: it was seen as the unit's before; its session; whom it descends from; OVERLORD_NAME in its
    environment; and an orphan that is new belongs to the only unit that can have made it."""
    owner: dict[int, Any] = dict.fromkeys(helpers)
    known = {pid: each for pid, each in strangers.items() if pid in found and found[pid].born == each.born}
    owner.update((pid, each) for pid, each in known.items() if not each.makers)  # those in doubt may tell more
    for unit in units:
        owner.update((pid, unit) for pid, born in unit.kin.items() if pid in found and found[pid].born == born)
    # of those whose leader is dead; where one lives that is not known, the number is used again
    sessions: dict[int, Any] = dict.fromkeys(helpers)
    sessions.update((number, unit) for unit in units for number in unit.sessions if number not in found)
    sessions.update((found[pid].session, whose) for pid, whose in owner.items() if pid in found)
    home = found[own].session if own in found else -1
    for none in (home, 0):  # 0: it was begun outside of this namespace
        sessions.pop(none, None)
    owner.update((pid, sessions[each.session]) for pid, each in found.items() if pid not in owner and each.session in sessions)
    ends = (own,) if adopts else (own, 1)
    tops = find_tops(found, owner, ends)
    outside = {found[pid].session for pid, top in tops.items() if top < 0} - {home}
    main = next((unit for unit in units if unit.name == MAIN and adopts), None)
    users: dict[Unit, Any] = {unit: unit.user for unit in units}
    roots = [(look(found[pid]), pid) for pid in {top for top in tops.values() if top > 0}]
    # whoever made one of a session made all: those whose name shows tell first, then those in doubt, then those that are new
    for origin, pid in sorted(roots, key=lambda root: (root[0].unit is None, root[1] not in known, root[1])):
        for unit in units if origin.unit is None and pid not in known else ():
            if users[unit] is None:  # LINUX: that of a zombie is shown too
                users[unit] = look(found.get(unit.status.pid) or Process(unit.status.pid, 0, "", 0, 0)).user
        process, maker, makers = found[pid], None, known[pid].makers if pid in known else ()
        if process.session == home:
            maker = main
        elif process.session in sessions and origin.unit is None:
            maker = sessions[process.session]
        elif process.session not in outside and (origin.unit or (adopts and pid not in known)):
            maker, makers = find_maker(process, origin, users, ending)
        if maker or adopts:
            owner[pid] = maker or Stranger(process.born, makers)
        if process.session not in (home, 0):
            sessions.setdefault(process.session, owner.get(pid))
    for pid, top in tops.items():
        doubt = owner.get(top)
        name = look(found[pid]).unit if isinstance(doubt, Stranger) and doubt.makers and pid != top else None
        owner.update((pid, unit) for unit in units if unit.name == name and unit.born <= found[pid].born)
    find_tops(found, owner, ends)
    owned = {pid: unit for pid, unit in owner.items() if pid in found and isinstance(unit, Unit)}
    lost = {pid for pid, unit in owned.items() if unit.name == MAIN and found[pid].session != home}  # only its session counts
    nobodys = {pid: Stranger(found[pid].born, each.makers) for pid, each in owner.items() if isinstance(each, Stranger)}
    nobodys.update((pid, Stranger(found[pid].born, ())) for pid in lost)
    return {pid: unit for pid, unit in owned.items() if pid not in lost}, nobodys


class Census:
    """Whose each process is, by the last reading of /proc."""

    def __init__(self, fleet: Fleet, kernel: Kernel, adopts: bool) -> None:
        self.fleet, self.helpers, self.environment = fleet, kernel.helpers, kernel.environment
        self.adopts = adopts
        self.pids: dict[int, str] = {}  # main process -> its unit
        self.dead: list[tuple[Unit, int, int]] = []  # main processes that died, with their exit codes: the fleet is to be told
        self.found: dict[int, Process] = {}  # the last reading
        self.owner: dict[int, Unit] = {}  # whose they are
        self.strangers: dict[int, Stranger] = {}  # and those who are no unit's
        self.read, self.cost = 0.0, 0.0  # when that was, and what it took
        self.torn: set[Unit] = set()  # units of which it may not show all
        self.fleeting: set[Process] = set()  # orphans that told nothing when they were looked at

    def survey(self, reuse: bool = False) -> dict[int, Unit]:
        """Return the unit of each process that has one; its names are in `found`. COST: reads all of /proc; `reuse`: a reading is
        good enough that is younger than ten times what it took."""
        began = time.monotonic()
        if reuse and self.owner and began - self.read < LOOK_SHARE * self.cost:
            return self.owner
        units = [unit for unit in self.fleet.units.values() if unit.status.pid]
        ending = {unit for unit in units if self.is_ending(unit)}
        adopts, environment = self.adopts, self.environment
        origins: dict[int, Origin] = {}
        alone = b"OVERLORD_NAME" not in environment  # else that may be given by the overlord above

        def origin_of(process: Process) -> Origin:
            if process.pid not in origins:
                origins[process.pid] = read_origin(process, environment)
            return origins[process.pid] if adopts or alone else Origin()

        found = processes()
        if found:
            self.owner, self.strangers = claim(found, os.getpid(), adopts, units, self.helpers, self.strangers, ending, origin_of)
        young = (time.clock_gettime(time.CLOCK_BOOTTIME) - YOUNG) * os.sysconf("SC_CLK_TCK")  # about to exec, perhaps
        unclear = [found[pid] for pid in origins if pid in found and pid not in self.owner]
        fleeting = {each for each in unclear if origins[each.pid].fleeting or each.born > young}
        makers = [self.strangers[each.pid].makers for each in fleeting - self.fleeting if each.pid in self.strangers]
        self.torn, self.fleeting = {unit for each in makers for unit in each}, fleeting  # RACE: whom do they make meanwhile?
        if not found:  # all that is known of a unit is whom it had before, and its process group; a zombie counts as alive
            found = {pid: each for pid, each in self.found.items() if pid > 0 and exists(pid)}
            groups = {-unit.status.pid: unit for unit in units if exists(-unit.status.pid)}
            found.update((pid, Process(pid, 0, "process group", 0, 0)) for pid in groups)
            self.owner = {**{pid: unit for pid, unit in self.owner.items() if pid in found}, **groups}
        for unit in units:
            unit.kin = {}
        for pid, unit in self.owner.items():
            unit.kin[pid] = found[pid].born
        for unit in units:
            unit.sessions = {found[pid].session for pid in unit.kin} or unit.sessions
        self.found, self.read = found, time.monotonic()
        self.cost = self.read - began
        return self.owner

    def is_ending(self, unit: Unit) -> bool:
        """Tell whether everything of a unit is about to be stopped."""
        dead = unit.status.state == STOPPING or unit in [each[0] for each in self.dead] or unit.status.pid not in self.pids
        return dead and bool(unit.spec.kill_mode != "process" and (unit.spec.kind != "script" or unit.status.state == STOPPING))

    def may_leave(self, dead: Iterable[Unit]) -> bool:
        """Tell whether units may have left processes behind: without a look at /proc where each child is known, and none theirs.
        LINUX: whatever they left descends from a child of overlord by now."""
        children = slurp_children() if self.adopts else None
        if children is None:
            return True
        known = {pid: each.born for pid, each in self.strangers.items() if not set(each.makers).intersection(dead)}
        for unit in self.fleet.units.values():
            if unit.status.pid and unit not in dead:
                known.update(unit.kin)
        orphans = [read_process(pid) for pid in children if pid not in self.pids and pid not in self.helpers]
        return any(each and known.get(each.pid) != each.born for each in orphans)

    def find_doubtful(self, unit: Unit) -> list[Process]:
        """Return the orphans that may be of a unit, and may be another's."""
        pids = [pid for pid, each in self.strangers.items() if unit in each.makers and each.born >= unit.born]
        return [self.found[pid] for pid in pids if pid in self.found]

    def may_spare(self, unit: Unit, code: int) -> bool:
        """Tell whether what is not in its session stays: a script has succeeded."""
        return bool(unit.spec.kind == "script" and unit.status.state == RUNNING and code in unit.spec.success)

    def find_left(self, unit: Unit, code: int) -> tuple[list[Process], list[Process]]:
        """Return what a unit leaves behind: what is to be stopped, and what more may be of it. What stays is named, and is no
        unit's from now on."""
        rest = [self.found[pid] for pid, whose in self.owner.items() if whose is unit and pid != unit.status.pid]
        stays: list[Process] = []
        if unit.spec.kill_mode == "process" and not (unit.spec.pidfile and unit.status.state in (STARTING, OK)):
            stays = rest
        elif self.may_spare(unit, code):
            stays = [each for each in rest if each.session != unit.status.pid]
        doubts = self.find_doubtful(unit)
        if stays:
            self.fleet.say("info", unit.name, f"left running: {spell_processes(stays)}")
            self.strangers.update((each.pid, Stranger(each.born, ())) for each in stays)
            for each in stays:
                self.owner.pop(each.pid)
                unit.kin.pop(each.pid, None)
        fresh = [each for each in doubts if unit.told.get(each.pid) != (each.born, 0)]
        if fresh and unit.name != MAIN:
            unit.told.update((each.pid, (each.born, 0)) for each in fresh)
            makers = sorted({maker.name for each in fresh for maker in self.strangers[each.pid].makers})
            whose = f"{', '.join(makers[:5])}{f' or {len(makers) - 5} more' if len(makers) > 5 else ''}"
            self.fleet.say("warning", unit.name, f"left running, for it may be of any of {whose}: {spell_processes(fresh)}")
        return [each for each in rest if each.pid in unit.kin], doubts


# ============================================================================================================= Init
# What only an init does: the orphans of others, the last sweep, the terminal.

PR_SET_CHILD_SUBREAPER = 36  # prctl(2)


class Init:
    """The part of PID 1; of a subreaper where overlord is not PID 1, which then touches nobody but its own descendants."""

    def __init__(self) -> None:
        self.is_pid1 = os.getpid() == 1
        self.warning = "" if self.is_pid1 else become_subreaper()
        self.adopts = not self.warning  # orphans become its children
        keep_spare()
        self.swept: dict[int, tuple[int, int]] = {}  # who had which signal in the last sweep

    def leftovers(self) -> list[Process]:
        """Return what is left: of the whole PID namespace, or of overlord's descendants."""
        found, own = processes(), os.getpid()
        return [each for each in found.values() if each.pid != own] if self.is_pid1 else descendants(found, own)

    def signal_all(self, signum: int) -> None:
        """Signal all that is left, but for what had this signal already. A stopped process is continued, so that it can act on
        SIGTERM. RACE: a descendant that is no child may die, and its pid be another's; so it is looked at once more."""
        left = [] if self.is_pid1 else [each for each in self.leftovers() if self.swept.get(each.pid) != (each.born, signum)]
        for number in with_continue(signum):
            for pid in [-1] if self.is_pid1 else [each.pid for each in left if is_there(each)]:
                try:
                    os.kill(pid, number)
                except OSError:  # nobody there, or nobody who may be signalled
                    pass
        self.swept.update((each.pid, (each.born, signum)) for each in left if signum != SIGNALS["KILL"])

    def alone(self) -> bool:
        return not (exists(-1) if self.is_pid1 else self.leftovers())

    def suspend(self, kernel: Kernel, pid: int, number: int) -> float:
        """The main command was stopped, by Ctrl-Z or by using the terminal from the background. Returns the seconds that overlord
        stood still for it.
        Where there is a shell behind overlord, overlord stops too, and when the shell continues it, gives the terminal
        back to the command. PID 1 and the child of an init have none, so there the command goes on."""
        began = time.monotonic()
        if self.is_pid1 or os.getppid() <= 1:
            if number == SIGNALS["TSTP"]:
                kernel.send_signals(pid, SIGNALS["CONT"])
            return 0.0
        if number not in JOB_CONTROL or not os.isatty(0):
            return 0.0
        self.take_terminal(kernel)
        os.kill(os.getpid(), SIGNALS["STOP"])
        if in_foreground():
            kernel.terminal = True
            os.tcsetpgrp(0, pid)
        kernel.send_signals(-pid, SIGNALS["CONT"])
        return time.monotonic() - began

    def take_terminal(self, kernel: Kernel) -> None:
        """Have the terminal's Ctrl-C be for overlord from now on."""
        try:
            if kernel.terminal:
                os.tcsetpgrp(0, os.getpgrp())
        except OSError:  # it is gone
            pass


def become_subreaper() -> str:
    """Have orphaned descendants become overlord's children, as PID 1 has them. Returns a warning where it cannot be."""
    try:
        import ctypes

        if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0:
            return ""
        reason = os.strerror(ctypes.get_errno())
    except (ImportError, OSError, AttributeError) as error:
        reason = str(error)
    lost = "neither reaped nor, unless its environment names the unit, stopped; and `pidfile` cannot be used"
    return f"not PID 1 and no subreaper ({reason}): what leaves its unit's session is {lost}"


# ========================================================================================================== Sockets
# Unix sockets: where they are, who is at the other end, and descriptors that come along.

MSG_DONTWAIT, MSG_WAITALL, MSG_NOSIGNAL = 0x40, 0x100, 0x4000  # LINUX: send(2), the same on all architectures


def locate_socket(socket: str) -> str:
    """Return where the control socket of that setting is: a path, or NUL and the name of an abstract one, see unix(7).
    An abstract one belongs to a network, which containers may share: its name is that of namespaces which they do not."""
    if socket != "abstract":
        return socket
    try:
        spaces = [os.stat(f"/proc/self/ns/{kind}").st_ino for kind in ("pid", "mnt")]
    except OSError:
        spaces = [0, 0]
    return f"\0overlord/{spaces[0]}/{spaces[1]}"


def look_at_peer(sock: Any) -> tuple[int, int]:
    """Return pid and user of the process at the other end of a unix socket; the pid is 0 if its PID namespace is another.
    LINUX: of a namespace that is not below one's own SO_PEERCRED tells no pid; of one below, /proc/PID/status tells several."""
    pid, uid = read_numbers(sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 8))
    try:
        numbers = re.search(rb"(?m)^NSpid:(.*)", slurp(f"/proc/{pid}/status"))
        if numbers and len(numbers[1].split()) > 1:
            pid = 0
    except OSError:  # it has ended since, or /proc does not show it
        pass
    return pid, uid


def read_numbers(value: bytes) -> list[int]:
    return [int.from_bytes(value[at : at + 4], sys.byteorder) for at in range(0, len(value) - 3, 4)]


def shed(controls: list[tuple[int, int, bytes]]) -> None:
    """Close the descriptors that somebody sent with a message, by SCM_RIGHTS of unix(7).
    LINUX: to close the last one of a socket that lingers would wait, see socket(7)."""
    for fd in [fd for _, kind, value in controls if kind == 1 for fd in read_numbers(value)]:
        try:
            sock = _socket.socket(fileno=fd)
        except OSError:  # it is none
            os.close(fd)
        else:
            sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_LINGER, bytes(8))
            sock.close()


def close_socket(sock: Any) -> None:
    """Close a unix socket, with what is still to be read from it, and descriptors that may lie there, closed as by `shed`."""
    try:
        sock.shutdown(2)  # RACE: a child on its way to exec still has it, and the other end would wait for that
        heard: tuple[Any, ...] = (b"x",)
        while any(heard[:2]):
            heard = sock.recvmsg(4096, 4096, MSG_DONTWAIT)
            shed(heard[1])
    except OSError:
        pass
    sock.close()


def remove_stale(path: str) -> None:
    """Remove a socket that nobody listens at. Raises OSError."""
    probe = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK)
    try:
        probe.connect(path)
    except ConnectionRefusedError:
        if os.lstat(path).st_mode & 0o170000 != 0o140000:
            raise OSError(errno.EEXIST, "is no socket, and is left alone") from None
        os.unlink(path)
    except OSError:  # nothing is there, or it answers: what is wrong, bind(2) will tell
        pass
    finally:
        probe.close()


# ========================================================================================================== Control
# The socket: one request a connection, a line of words in, lines out.
#
# Each line of an answer begins with what it is: a blank (text), `!` (what went wrong), `+` (wait) or `=` (the exit code,
# at the end).

# Of a unit, as `status` answers: the fields between the tabs.
RECORD = ("name", "kind", "state", "pid", "for", "uptime", "restarts", "next", "failures", "blocked", "deps", "why")
FINE = (OK, IDLE, RUNNING, DONE, STOPPED)  # states for which `status` exits with 0


def match_names(patterns: Iterable[str], known: Iterable[str], strict: bool = True) -> list[str]:
    """Return the names that globs stand for, in the order known. If strict, raises Mistake for one that matches none."""
    from fnmatch import fnmatchcase

    names, chosen = [name for name in known if name != MAIN], set()
    for pattern in patterns:
        simple = re.sub(r"\*+", "*", pattern)
        if simple.count("*") > 3:  # PYTHON: up to 3.8, each more of them takes so much longer that it may be for ever
            raise Mistake(f"{pattern} has more than three stars")
        try:
            found = {pattern} if pattern in names else {name for name in names if fnmatchcase(name, simple)}
        except re.error:  # PYTHON: up to 3.9, by `[z-a]`
            found = set()
        if not found and strict:
            raise Mistake(f"there is no unit {pattern}{suggest(pattern, names)}")
        chosen |= found
    return [name for name in names if name in chosen]


class Request:
    """One connection: a line of words comes in, an answer goes out, at once or when something has come about."""

    def __init__(self, control: Control, sock: Any, pid: int) -> None:
        self.control, self.sock, self.pid, self.watch = control, sock, pid, control.watch
        self.heard, self.answer = b"", bytearray()
        self.over = False  # the answer is complete
        self.asked = self.silent = False  # the request is complete; the client has closed its side
        self.options: dict[str, Any] = {}
        self.until: Callable[[float], bool] | None = None  # answers when it can, and tells so
        self.stream = ""  # it goes on with "events" or "logs" of the units that `patterns` stand for, other ones after a reload
        self.patterns: list[str] = []
        self.follows: frozenset[str] = frozenset()  # those units; without a stream, the units whose messages belong to the answer
        self.awaited: list[str] = []  # units whose outcome is the answer
        self.several = False  # each line says of which unit it is
        self.parts: Iterator[bytes] = iter(())  # the rest of the answer, each made once the one before has been taken
        self.due: set[str] = set()  # captured units whose last lines are still to be sent, with what they write until then
        self.await_words()
        self.timer: list[Any] | None = self.watch.later(time.monotonic() + ASK_TIMEOUT, self.hang_up)

    def read_request(self) -> bool:
        """Read the request, or see that the client is gone."""
        try:
            data, controls, _, _ = self.sock.recvmsg(4096, 4096, MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            data, controls = b"", []
        shed(controls)
        self.heard += data
        gone = not data and (self.silent or not (self.asked or self.heard))
        if gone or (self.asked and len(self.heard) > REQUEST_MAX):
            self.hang_up()
            return False
        if not data:  # it has said all: what comes from now on is that it is gone
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
        """Hear what the client says. LINUX: that it is gone is told whatever one waits for, see epoll_ctl(2)."""
        self.watch.on(self.sock.fileno(), 0 if self.silent else select.EPOLLIN, self.read_request)

    def add_lines(self, lines: Iterable[str], kind: str = " ") -> None:
        """Add lines to the answer."""
        self.add_bytes("".join(f"{kind}{line}\n" for line in lines).encode("utf-8", "surrogateescape"))

    def add_bytes(self, data: bytes) -> None:
        """Add bytes to the answer, unless the client does not take them."""
        if len(self.answer) > ANSWER_MAX and (self.stream or self.until):
            self.hang_up()
        elif self.sock:
            self.answer += data
            self.send_rest()

    def fail(self, text: str, code: int) -> None:
        """Say what is wrong, and end."""
        self.add_lines([clean(text)], "!")
        self.complete(code)

    def complete(self, code: int, lines: Iterable[str] = ()) -> None:
        """Complete the answer, with an exit code."""
        self.add_lines(lines)
        self.over = True
        self.add_lines([str(code)], "=")

    def send_rest(self) -> None:
        try:
            while self.sock:
                self.answer += b"" if self.answer else next(filter(None, self.parts), b"")
                if not self.answer:
                    break
                del self.answer[: self.sock.send(self.answer[:65536], MSG_DONTWAIT | MSG_NOSIGNAL)]
        except BlockingIOError:
            self.watch.on(self.sock.fileno(), select.EPOLLOUT, self.send_rest)
            if self.over:  # it has ASK_TIMEOUT to take some more
                self.watch.cancel(self.timer)
                self.timer = self.watch.later(time.monotonic() + ASK_TIMEOUT, self.hang_up)
            requests = self.control.requests
            if sum(len(request.answer) for request in requests) > ANSWERS_MAX:  # whoever has left most unread has to go
                max(requests, key=lambda request: len(request.answer)).hang_up()
            return
        except OSError:
            self.hang_up()
            return
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
            self.answer, self.parts = bytearray(), iter(())  # else a reference cycle keeps both
            self.control.remove_request(self)


class Control:
    """The socket, and what the verbs do."""

    def __init__(self, output: Output, fleet: Fleet, kernel: Kernel, reread: Callable[[], Config]) -> None:
        self.output, self.fleet, self.kernel, self.reread = output, fleet, kernel, reread
        self.verbs = {name: verb for name, verb in VERBS.items() if verb.answer}
        self.watch, self.log = output.watch, output.log
        self.began = time.monotonic()
        self.requests: list[Request] = []
        self.clients: deque[tuple[int, float]] = deque(maxlen=CLIENTS_MAX)  # pid of each that was here last, and until when
        self.listener: Any = None
        self.file: tuple[str, os.stat_result] | None = None  # the socket's, where it has one
        output.follow = self.forward_lines

    def open_socket(self, socket: str) -> str:
        """Listen where the setting says; return a warning where that cannot be."""
        place, mask = locate_socket(socket), os.umask(0o177)
        try:
            sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK)
            if place[0] == "/":
                remove_stale(place)
            sock.bind(place)
            sock.listen(128)  # RACE: at once, since until then another overlord may take it for a stale one
            self.file = (place, os.lstat(place)) if place[0] == "/" else None
        except OSError as error:
            why = error.strerror or error
            hint = "" if place[0] == "/" else "; [overlord] socket = /PATH names another place"
            place = place.replace("\0", "@")
            return f"no control socket, so that status, health and their like cannot ask: {place}: {why}{hint}"
        finally:
            os.umask(mask)
        self.listener = sock
        self.listen()
        return ""

    def dismiss_clients(self) -> None:
        """End all connections, and give the last clients a moment to write out their answers. Blocks: all else is over."""
        for request in list(self.requests):
            request.hang_up()
        until = time.monotonic() + SWEEP_TIMEOUT / 2
        last = {pid for pid, instant in self.clients if until - instant < SWEEP_TIMEOUT}
        while any(map(exists, last)) and time.monotonic() < until:
            select.poll().poll(5)  # ms

    def stop_listening(self) -> None:
        """Hang up on everybody, and take the socket's file away while nobody can take it for a stale one."""
        for request in list(self.requests):
            request.hang_up()
        try:
            if self.file and os.path.samestat(os.lstat(self.file[0]), self.file[1]):
                os.unlink(self.file[0])
        except OSError:
            pass

    def accept(self) -> None:
        """Let a client in that is root or of overlord's own user, and of the same PID namespace."""
        for _ in range(ACCEPT_BATCH):
            try:
                sock = _socket.socket(fileno=self.listener._accept()[0])
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in SCARCE:  # rest, lest it comes back at once
                    self.watch.off(self.listener.fileno())
                    self.watch.later(time.monotonic() + 1.0, self.listen)
                return
            if len(self.requests) >= CLIENTS_MAX:
                ([request for request in self.requests if not request.asked] or self.requests)[0].hang_up()
            pid, uid = look_at_peer(sock)
            request = Request(self, sock, pid if uid in (0, os.geteuid()) else 0)
            self.requests.append(request)
            if not request.pid:
                request.asked = True
                request.fail("only root and overlord's own user may ask, in its own container", EX_NOPERM)

    def listen(self) -> None:
        self.watch.on(self.listener.fileno(), select.EPOLLIN, self.accept)

    def remove_request(self, request: Request) -> None:
        self.requests.remove(request)
        if request.pid:
            self.clients.append((request.pid, time.monotonic()))
        self.refollow()

    def refollow(self) -> None:
        """Have the fleet tell what is followed: after a reload other units, perhaps, or none any more."""
        streams = [request for request in self.requests if request.stream]
        for request in streams:
            request.follows = frozenset(unit.name for unit in self.find_units(request.patterns, strict=False))
        self.fleet.followed = any(request.stream == "events" for request in streams)
        for request in [request for request in streams if not request.follows and not request.over]:
            request.fail(f"{' '.join(request.patterns)} was removed by a reload", 1)

    def ask(self, request: Request, words: list[str]) -> None:
        """Do what a request says."""
        try:
            verb, request.options, names = parse_request(words, self.verbs)
            if "timeout" in request.options:
                request.timer = self.watch.later(time.monotonic() + request.options["timeout"], lambda: self.time_out_request(request))
            if self.fleet.ending and verb.name in ("start", "stop", "restart", "reload"):
                request.fail("overlord is shutting down", 1)
                return
            verb.answer(self, request, names, time.monotonic())
        except Mistake as mistake:
            request.fail(str(mistake), EX_USAGE)
        if not request.over:
            request.add_lines([""], "+")  # somebody is there, and it may take a while

    def answer_waiting(self, now: float) -> None:
        """Answer those who wait for something that has come about."""
        for request in [request for request in self.requests if request.until]:
            until, request.until = request.until, None
            if until and not request.over and not until(now):
                request.until = request.until or until  # it waits on, perhaps for something else

    def publish_message(self, action: Say) -> None:
        """Pass a message on to those who wait for what comes of its unit."""
        for request in [request for request in self.requests if action.unit in request.follows and not request.stream]:
            request.add_lines([clean(f"{action.unit}: {action.text}")])

    def publish_change(self, action: Changed) -> None:
        """Pass a change of state on to those who follow."""
        for request in [each for each in self.requests if each.stream == "events" and action.unit in each.follows]:
            request.add_lines([clean(f"{action.unit} {action.state} {action.why}".rstrip())])

    def forward_lines(self, unit: str, text: bytes) -> None:
        """Pass captured lines on to those who follow them."""
        for request in [each for each in self.requests if each.stream == "logs" and unit in each.follows - each.due]:
            head, lines = f" {unit} | ".encode() if request.several else b" ", text[:-1] if text.endswith(b"\n") else text
            request.add_bytes(head + lines.replace(b"\n", b"\n" + head) + b"\n")

    # ---------------------------------------------------------------------------------------------- the verbs: look
    def do_version(self, request: Request, names: list[str], now: float) -> None:
        request.complete(0, [f"overlord {VERSION}"])

    def do_status(self, request: Request, names: list[str], now: float) -> None:
        """Answer with a record for each unit: fields between tabs, as RECORD names them."""
        chosen = self.find_units(names)
        request.complete(0 if all(unit.status.state in FINE for unit in chosen) else 3, (self.record(unit, now) for unit in chosen))

    def record(self, unit: Unit, now: float) -> str:
        """Return what there is to know of a unit, in the order of RECORD."""
        spec, status = unit.spec, unit.status
        pid = 0 if status.left else status.pid
        fields = (
            unit.name, spec.kind, status.state, pid or "", f"{now - (status.since or self.began):.3f}",
            f"{now - status.started:.3f}" if pid else "", max(0, status.starts - 1),
            f"{max(0.0, status.deadline - now):.3f}" if status.deadline is not None else "", status.respawned,
            unit.waits.name if unit.waits else "",
            " ".join(f"{dep.name}:{OK if how == 'up' else how}" for dep, how in unit.deps), self.fleet.explain(unit, now),
        )  # fmt: skip
        return "\t".join(clean(str(field)) for field in fields)

    def do_health(self, request: Request, names: list[str], now: float) -> None:
        """Say whether every daemon is ok that is wanted and has not ended for good with `ignore`."""
        sick, well = ["shutting down"] if self.fleet.ending else [], 0
        for unit in [unit for unit in self.fleet.units.values() if unit.spec.kind == "daemon"]:
            state, why = unit.status.state, self.fleet.explain(unit, now)
            if state in (IDLE, STOPPED) or (state in (DONE, FAILED) and unit.spec.on_failure == "ignore"):
                continue
            well += state == OK
            if state not in (OK, DONE):
                sick.append(f"{unit.name} is {spell_state(state)}" + (f" ({why})" if why else ""))
        fine = f"healthy: {well} daemon{'' if well == 1 else 's'} ok"
        request.complete(1 if sick else 0, [f"unhealthy: {'; '.join(sick)}" if sick else fine])

    def do_timeline(self, request: Request, names: list[str], now: float) -> None:
        """Answer with what happened to each unit until it was up: name, and pairs of an instant and what."""
        began = min((unit.story[0][0] for unit in self.fleet.units.values() if unit.story), default=now)
        for unit in self.find_units(names):
            pairs = [clean(f"{instant - began:.4f} {what}") for instant, what in unit.story]
            request.add_lines(["\t".join([unit.name, f"{now - began:.4f}", *pairs])])
        request.complete(0)

    def do_logs(self, request: Request, names: list[str], now: float) -> None:
        """Answer with the last captured lines, and go on with those to come."""
        tails, chosen = self.output.tails, self.find_units(names)
        silent = [unit.spec for unit in chosen if unit.name not in tails]
        missing = [spec for spec in silent if not is_captured(spec)]
        hint = "is not captured; set output = prefix, or stdout in"
        request.add_lines([f"{spec.name} {hint} [{section_of(spec)}]" for spec in missing], "!")
        request.add_lines([f"{spec.name} has not started yet" for spec in silent if spec not in missing], "!")
        follow = "follow" in request.options and len(missing) < len(chosen)
        due = [unit.name for unit in chosen if unit.name in tails]
        request.due, request.several = set(due), len(chosen) > 1

        def parts() -> Iterator[bytes]:
            for name in due:
                head, number = f" {name} | ".encode() if request.several else b" ", request.options.get("lines", TAIL_LINES)
                request.due.remove(name)
                if name in tails:  # no reload has removed it
                    yield b"".join([head + line + b"\n" for line in tails[name].last_lines(number)])
            if not follow:
                yield b"=%d\n" % bool(missing)

        request.parts, request.over, request.stream, request.patterns = parts(), not follow, "logs" if follow else "", names
        self.refollow()
        request.send_rest()

    def do_events(self, request: Request, names: list[str], now: float) -> None:
        """Answer with the state of each unit, and go on with every change."""
        chosen, request.stream, request.patterns = self.find_units(names), "events", names
        self.refollow()
        request.add_lines(clean(f"{unit.name} {unit.status.state} {self.fleet.explain(unit, now)}".rstrip()) for unit in chosen)

    # ------------------------------------------------------------------------------------------------ the verbs: act
    def do_start(self, request: Request, names: list[str], now: float) -> None:
        """Start units, and what they depend on; wait until all of that is up, or is not."""
        chosen = self.find_units(names)
        daemons = [unit for unit in chosen if unit.spec.kind == "daemon"]
        request.add_lines([f"{unit.name}: is up already" for unit in daemons if unit.status.state == OK])
        since = {unit: -1 if unit in daemons else unit.status.starts for unit in chosen}
        up = {unit for unit in self.fleet.units.values() if unit.status.state in (STARTING, OK) or unit.spec.kind != "daemon"}
        needed = [unit for unit in self.fleet.start(chosen, now) if unit not in up]
        self.await_up(request, {**dict.fromkeys(needed, -1), **since}, now)

    def do_restart(self, request: Request, names: list[str], now: float) -> None:
        """Restart units; wait until they and all that bounce with them are up, or are not."""
        chosen = self.find_units(names)
        since = {unit: unit.status.starts for unit in chosen}
        self.fleet.restart(chosen, now)
        self.await_up(request, since, now)

    def do_wait(self, request: Request, names: list[str], now: float) -> None:
        self.await_up(request, dict.fromkeys(self.find_units(names), -1), now, patient=True)

    def do_stop(self, request: Request, names: list[str], now: float) -> None:
        chosen = self.find_units(names)
        for unit in [unit for unit in chosen if not unit.lives()]:
            how = "stopped (it was " if unit.status.state in (WAITING, BACKOFF) else "is not running ("
            request.add_lines([f"{unit.name}: {how}{unit.status.state})"])
        others = {each for unit in chosen if not unit.rests() for each in unit.dependents if each not in chosen and each.lives()}
        alive = [unit.name for unit in self.fleet.units.values() if unit in others]
        if alive:
            words = "depends on what is stopped, and goes" if len(alive) == 1 else "depend on what is stopped, and go"
            request.add_lines([f"{', '.join(alive)} {words} on running"])
        self.fleet.stop(chosen, now)
        self.await_down(request, [unit.name for unit in chosen], now)

    def do_signal(self, request: Request, names: list[str], now: float) -> None:
        signum, failed = parse_signal(names[0]), False
        for unit in self.find_units(names[1:]):
            status = unit.status
            fault = f"is {status.state}, and has no process" if not status.pid or status.left else ""
            fault = fault or self.kernel.send_signals(status.pid, signum)
            failed = failed or bool(fault)
            request.add_lines([f"{unit.name}: {fault or f'{spell_signal(signum)} sent to pid {status.pid}'}"], "!" if fault else " ")
        request.complete(1 if failed else 0)

    def do_reload(self, request: Request, names: list[str], now: float) -> None:
        """Have the configuration read anew, by a child: a file system that hangs holds up nothing but this request."""
        base = self.fleet.pending or self.fleet.config

        def done(data: bytes) -> None:
            now = time.monotonic()
            if self.fleet.ending or not data:  # it was killed, for want of memory, say
                died = "the process that read the configuration has died, nothing has changed: reload again"
                request.fail("overlord is shutting down" if self.fleet.ending else died, 1)
            elif (self.fleet.pending or self.fleet.config) is not base:  # a reload came first, and this may have been read before
                self.do_reload(request, names, now)
            else:
                self.take_over(request, unpack_config(data, base), now)

        try:
            self.kernel.compute(lambda: pack_config(self.reread, base), done)
        except StartError as error:
            request.fail(f"the configuration cannot be read: {error}", 1)

    def take_over(self, request: Request, config: Config | list[str], now: float) -> None:
        """Go on under another configuration; wait until what it changes is done."""
        if isinstance(config, list):
            request.add_lines(map(clean, config[:-1]), "!")
            request.fail(config[-1], EX_CONFIG)
            return
        old, before, since = self.fleet.settings, dict(self.fleet.units), {u: u.status.starts for u in self.fleet.units.values()}
        wanted = {unit for unit in since if unit.wanted}
        news = self.fleet.change_config(config, now)
        lines = [f"{name}: {what}" for name, what in news.items()]
        differ = [key for key in Settings._fields if getattr(old, key) != getattr(config.settings, key)]
        lines += [f"[overlord] {key}: " + ("kept until overlord starts anew" if key == "socket" else "changed") for key in differ]
        self.log.message("info", "", f"configuration read anew: {'; '.join(lines) or 'nothing differs'}")
        request.add_lines(lines or ["nothing differs"])

        def replaced(now: float) -> bool:
            if self.fleet.ending:
                request.fail("overlord is shutting down", 1)
            if self.fleet.pending or request.over:
                return request.over
            names = [name for name, what in news.items() if what == "new" or what.startswith("changed:")]
            units = [self.fleet.units.get(name) or before[name] for name in names if name in self.fleet.units or name in before]
            coming = [unit for unit in units if (unit.wanted or unit in wanted) and unit.by != BY_CLOCK]
            self.await_up(request, {unit: since.get(unit, -1) for unit in coming}, now)
            return True

        self.await_outcome(request, replaced, now, list(news))

    def do_shutdown(self, request: Request, names: list[str], now: float) -> None:
        if names and not (re.fullmatch(r"\d{1,3}", names[0], re.ASCII) and int(names[0]) < 256):
            raise Mistake(f"{names[0]!r} is no exit code, they go from 0 to 255")
        request.complete(0, ["shutting down"])
        self.fleet.ask_shutdown("shutdown " + BY_HAND, now, code=int(names[0]) if names else None)

    # -------------------------------------------------------------------------------------------------- the outcome
    def find_units(self, patterns: list[str], strict: bool = True) -> list[Unit]:
        """Return the units that globs, or names of instances together, stand for; all for none. If strict, raises Mistake."""
        units = self.fleet.units
        teams: dict[str, list[str]] = {}
        for name in [name for name, unit in units.items() if unit.spec.instance]:
            teams.setdefault(name.rpartition("-")[0], []).append(name)
        names = [name for each in patterns for name in teams.get(each, (each,))]
        return [units[name] for name in (match_names(names, units, strict) if patterns else units)]

    def await_up(self, request: Request, since: dict[Unit, int], now: float, patient: bool = False) -> None:
        """Answer when each unit, and what bounces with it, is up with more starts than `since`, or fails; if `patient`, ended."""
        before = {unit: unit.status.starts for unit in self.fleet.units.values()}

        def decided(now: float) -> bool:
            fates = {unit: self.fate(unit, since.get(unit), patient, now) for unit in (since if patient else bouncing(since))}
            failed = [unit for unit in fates if fates[unit] and (unit in since or unit.status.starts > before.get(unit, 0))]
            coming = [unit for unit, fate in fates.items() if fate is None]
            if coming and (not failed or (not patient and any(unit in since for unit in coming))):
                return False
            request.add_lines([clean(f"{unit.name} {fates[unit]}") for unit in failed], "!")
            request.complete(1 if failed else 0, [f"{unit.name}: ok" for unit in since] if patient and not failed else ())
            return True

        self.await_outcome(request, decided, now, [unit.name for unit in since])
        wave = bouncing(since)
        scripts = {dep.name for unit in wave for dep, _ in unit.deps if dep.spec.kind == "script"}
        request.follows |= scripts.union(unit.name for unit in wave)

    def await_down(self, request: Request, names: list[str], now: float) -> None:
        """Answer when nothing of units lives, or somebody has asked for one again."""

        def nothing_lives(now: float) -> bool:
            left = [self.fleet.units[name] for name in names if name in self.fleet.units]
            again = [unit.name for unit in left if unit.wanted or unit.queued]
            if again:
                request.fail(f"{again[0]} was started again meanwhile", 1)
            elif not any(unit.lives() for unit in left):
                request.complete(0)
            return request.over

        self.await_outcome(request, nothing_lives, now, names)

    def fate(self, unit: Unit, since: int | None, patient: bool, now: float) -> str | None:
        """Return why a unit is not up with more starts than `since` (None: bounced): nothing: it is; None: it still may be."""
        status, end = unit.status, unit
        while end.waits:  # to the end of the chain
            end = end.waits
        if self.fleet.units.get(unit.name) is not unit:
            return "is another unit since a reload" if unit.name in self.fleet.units else "was removed by a reload"
        fresh = not status.stale if since is None else status.starts > since
        if status.state == OK and not unit.queued and (fresh or (status.pid and not status.stale and not unit.leaving)):
            return ""
        ended = end.rests() and not end.find_next().deed
        if not (ended and status.state in ENDED if patient else ended or end.status.state == BACKOFF):
            return None
        if end is not unit and status.state != WAITING:
            return f"did not come up, it is still to be restarted, after {end.name}, which is {spell_state(end.status.state)}"
        state = spell_state(status.state) + ("" if status.state == WAITING else ":")
        return f"{'is' if patient else 'did not come up, it is'} {state} {self.fleet.explain(unit, now)}"

    def await_outcome(self, request: Request, until: Callable[[float], bool], now: float, names: list[str]) -> None:
        """Have a request answered when it can be, at the latest after the time that the client gives."""
        request.awaited, request.follows, request.until = names, frozenset(names), until
        self.answer_waiting(now)

    def time_out_request(self, request: Request) -> None:
        """The time that the client gave is over."""
        if not request.over:
            states = {name: unit.status.state for name, unit in self.fleet.units.items() if name in request.awaited}
            left = [f"{name} is {spell_state(state)}" for name, state in states.items() if state != OK]
            request.fail(f"not within {spell_duration(request.options['timeout'])}: {', '.join(left) or 'nothing came of it'}", 1)


for each in VERBS.values():
    each.answer = getattr(Control, f"do_{each.name}", None)


# =========================================================================================================== Probes
# Is it ready, does it still answer, is the database there: one try at a time, in a child, which may block as it likes.


def ask_http(sock: Any, probe: Probe) -> str:
    """Return what is wrong with the answer to a request, or nothing. Runs in the child. Raises OSError."""
    name = f"[{probe.host}]" if ":" in probe.host else probe.host
    request = f"GET {probe.path} HTTP/1.0\r\nHost: {name}:{probe.port}\r\nUser-Agent: overlord\r\n\r\n"
    sock.sendall(request.encode("utf-8", "surrogateescape"))
    heard = b""
    while len(heard) <= 100:
        data = sock.recv(4096)
        heard += data
        status = re.match(rb"HTTP/\d(?:\.\d)? (\d\d\d)", heard)
        if status:
            return "" if status[1][:1] in b"23" else f"status {decode(status[1])}"
        if not data:
            return "hung up"
    return "no HTTP"


def try_probe(probe: Probe, spec: Spec, kernel: Kernel) -> str:
    """Return what is wrong with what a probe asks for, or nothing; of a pid file, read as the unit's user, the number in it. Runs
    in the child, without a deadline: that is Attempt's."""
    import _socket

    kernel.shed_signals()
    os.setsid()
    kind, host, port, path = probe[:4]
    if kind == "file":
        return "" if os.path.exists(path) else "no such file"
    if kind == "pidfile":
        kernel.take_identity(spec, (-1, -1))
        place = find(path)
        fd = os.open(os.path.basename(place.path), os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW, dir_fd=place.folder)
        text = decode(os.read(fd, 64)).strip() if os.fstat(fd).st_mode & 0o170000 == 0o100000 else ""
        return text + " unsafe" * (not place.safe) if is_number(text, 10) and int(text) else "it holds no pid"
    places: list[tuple[int, int, Any]] = [(_socket.AF_UNIX, style, path) for style in (_socket.SOCK_STREAM, _socket.SOCK_DGRAM)]
    if host == "localhost":
        places = [(2, 1, ("127.0.0.1", port)), (10, 1, ("::1", port))]
    elif kind != "unix":
        try:
            # COST: bytes, since for a text Python imports its codec for international names first, 10 ms
            places = [(each[0], 1, each[4]) for each in _socket.getaddrinfo(os.fsencode(host), port, 0, _socket.SOCK_STREAM)]
        except OSError as error:
            if error.errno in SCARCE:
                raise
            return f"{host}: {error.strerror}"
    wrong = "no address"
    for family, style, address in places:
        try:
            sock = _socket.socket(family, style)
            sock.connect(address)
            # LINUX: a port of those that the kernel gives away may be connected to itself
            if kind != "unix" and sock.getsockname() == sock.getpeername():
                wrong = os.strerror(errno.ECONNREFUSED)
                continue
            return ask_http(sock, probe) if kind == "http" else ""
        except OSError as error:
            if error.errno in SCARCE:
                raise
            if kind != "unix" or style == _socket.SOCK_STREAM or error.errno != errno.EPROTOTYPE:
                wrong = error.strerror or str(error)
    return wrong


class Attempt:
    """One try of a probe. Calls back once: with nothing where it passed, else with what is wrong, and whether it was not
    for the unit but for want of something that overlord needs itself."""

    def __init__(self, loop: Loop, probe: Probe, spec: Spec, timeout: float, ended: Callable[[str, bool], None]) -> None:
        self.loop, self.ended, self.pid, self.over = loop, ended, 0, False
        late = f"no answer within {spell_duration(timeout)}"
        self.timer = loop.watch.later(time.monotonic() + timeout, lambda: self.decide(late))
        try:
            if probe.kind == "cmd":
                spec = spec._replace(cmd=probe.path, stdout="null", stderr="null")
                self.pid = loop.help(spec, NOTHING, self.exited)
            else:
                self.pid = loop.kernel.fork(lambda: (try_probe(probe, spec, loop.kernel), 1))
                loop.helpers[self.pid] = (spec.name, self.exited)
        except StartError as error:
            self.decide(str(error), error.passing)

    def exited(self, code: int, why: str) -> None:
        """The child has ended; what it left of its group goes too."""
        if exists(-self.pid):
            self.loop.kernel.send_signals(-self.pid, SIGNALS["KILL"])
        self.decide(why or (spell_end(code) if code else ""), scarce=bool(why) and code == EX_TEMPFAIL)

    def decide(self, wrong: str, scarce: bool = False) -> bool:
        """Tell the outcome, once, and leave nothing behind. Returns true, so that what follows from it is done."""
        if not self.over:
            self.over = True
            self.loop.watch.cancel(self.timer)
            if self.pid in self.loop.helpers:
                self.loop.kernel.send_signals(-self.pid if exists(-self.pid) else self.pid, SIGNALS["KILL"])
            self.ended(wrong, scarce)
        return True


class Prober:
    """The probes of one unit for one purpose: `ready` and `pidfile` while it starts, `health` while it is OK (and `pidfile` when
    its main process is gone), `wait_for` before it starts. It ends by itself when another one takes its place, or the unit is
    not in that state any more, or has been started anew."""

    def __init__(self, loop: Loop, unit: Unit, purpose: str) -> None:
        self.loop, self.unit, self.purpose = loop, unit, purpose
        self.start, self.asked = unit.status.starts, getattr(unit.spec, purpose)
        self.probes = list(self.asked) if purpose == "wait_for" else [self.asked]
        if purpose == "pidfile":
            self.probes = [Probe(purpose, "", 0, self.asked, self.asked)]
        self.began = self.said = self.tried = time.monotonic()
        self.failures = 0
        self.last: Attempt | None = None
        unit.probers[purpose] = self
        if purpose == "health":
            loop.watch.later(self.began + unit.spec.health_interval, self.attempt)
        else:
            self.attempt()

    def current(self) -> bool:
        """Tell whether the unit is still what it was."""
        unit, fleet = self.unit, self.loop.fleet
        here = fleet.units.get(unit.name) is unit and unit.probers[self.purpose] is self and not fleet.ending
        named = OK if unit.status.up else STARTING
        state = {"ready": STARTING, "health": OK, "wait_for": WAITING, "pidfile": named}[self.purpose]
        same = getattr(unit.spec, self.purpose) == self.asked and unit.status.starts == self.start and unit.status.state == state
        wanted = {"wait_for": unit.reach == "asked", "pidfile": unit.status.left or not unit.status.named}.get(self.purpose, True)
        return bool(here and same and wanted)

    def attempt(self) -> bool:
        if self.current():
            spec, self.tried = self.unit.spec, time.monotonic()
            timeout = spec.health_timeout if spec.kind == "daemon" else PROBE_TIMEOUT
            if self.last and self.last.pid in self.loop.helpers:  # SIGKILL does not end it: a file system hangs
                self.take_result("the try before still hangs", False)
            elif self.purpose == "pidfile" and is_becoming(self.unit.status.pid):  # the file of before may be there
                self.take_result("not started yet", False)
            else:
                self.last = Attempt(self.loop, self.probes[0], spec, timeout, self.take_result)
        return True  # what came of it may be there already

    def take_result(self, wrong: str, scarce: bool) -> None:
        """A try is over: report, or try again."""
        if not self.current():
            return
        now, fleet = time.monotonic(), self.loop.fleet
        spec, name = self.unit.spec, self.unit.name
        number, _, unsafe = wrong.partition(" ")
        if self.purpose == "pidfile" and is_number(number, 10):
            wrong = self.loop.name_main(self.unit, int(number), spec.pidfile, trusted=not unsafe or bool(spec.uid))
        if self.purpose == "health":
            self.failures = self.failures + (not scarce) if wrong else 0
            if scarce:
                self.loop.log.message("warning", name, f"cannot see whether it is healthy: {wrong}")
            elif wrong:
                self.loop.log.message("warning", name, f"unhealthy ({self.failures} of {spec.health_retries}): {wrong}")
            if self.failures >= spec.health_retries:
                fleet.feed(name, Event("stale", f"unhealthy: {wrong}", fails=True), now)
            else:
                self.loop.watch.later(now + spec.health_interval, self.attempt)
        elif not wrong and self.purpose != "pidfile":
            self.probes.pop(0)
            if self.purpose == "ready":
                fleet.feed(name, Event("ready"), now)
            elif not self.probes:
                fleet.reach(name, now)
            else:
                self.loop.watch.later(now, self.attempt)
        elif wrong:
            if self.purpose == "wait_for" and now - self.said >= REMINDER / 2:
                self.said, waited = now, spell_duration(now - self.began)
                self.loop.log.message("info", name, f"waiting for {self.probes[0].text} for {waited} now: {wrong}")
            # 50 ms at first, and later 2 % of what it took so far: little is lost by looking a little late
            delay = min(PROBE_MOST, max(PROBE_LEAST, (now - self.began) / 50))
            self.loop.watch.later(max(now, self.tried + delay), self.attempt)
        self.loop.log.message("debug", name, f"{self.purpose} {wrong or 'passed'}")


class Notices:
    """What daemons say of themselves: by sd_notify(3), a newline on a descriptor, or a line that they write."""

    def __init__(self, loop: Loop) -> None:
        self.loop, self.watch = loop, loop.watch

    def wire_notices(self, unit: Unit) -> tuple[dict[str, str], int, int]:
        """Return more environment, and as which descriptor a daemon gets which one of overlord's (-1: none). Raises OSError."""
        self.close_ear(unit)
        kind = unit.spec.ready.kind if unit.spec.ready else ""
        if kind != "fd":
            return {"NOTIFY_SOCKET": self.address(unit)} if kind == "notify" else NOTHING, -1, -1
        unit.ear, end = os.pipe()
        self.watch.on(unit.ear, select.EPOLLIN, lambda: self.hear_newline(unit))
        return NOTHING, unit.spec.ready.port, end

    def hear_newline(self, unit: Unit) -> bool:
        data = os.read(unit.ear, 4096)
        if not data or b"\n" in data:
            self.close_ear(unit)
        return b"\n" in data and self.ready(unit)

    def ready(self, unit: Unit) -> bool:
        self.loop.fleet.feed(unit.name, Event("ready"), time.monotonic())
        return True

    def close_ear(self, unit: Unit) -> None:
        """Listen no more to what a unit may say as `ready = fd:N`."""
        if unit.ear >= 0:
            self.watch.off(unit.ear)
            os.close(unit.ear)
            unit.ear = -1

    def seek(self, unit: Unit, tail: Tail | None, pid: int) -> None:
        """Look for the line of `ready = log:` in what a process writes from now on."""
        if not tail:
            return
        pattern = re.compile(unit.spec.ready.path.encode()) if unit.spec.ready and unit.spec.ready.kind == "log" else None

        def search(lines: bytes) -> None:
            if tail and pattern and any(pattern.search(line[:SHOWN_WIDTH]) for line in lines.split(b"\n")):
                tail.seek = None
                self.watch.later(time.monotonic(), lambda: unit.status.pid == pid and self.ready(unit))

        tail.seek = search if pattern else None

    def address(self, unit: Unit) -> str:
        """Return what a daemon finds in NOTIFY_SOCKET. LINUX: an abstract address needs no folder that can be written."""
        import _socket

        if not unit.notices:
            sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC)
            sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_PASSCRED, 1)
            address = f"@overlord/{os.urandom(8).hex()}/{unit.name}"[:100]  # of the 108 bytes that unix(7) allows
            sock.bind(b"\0" + address[1:].encode())
            unit.notices = (sock, address)
            self.watch.on(sock.fileno(), select.EPOLLIN, lambda: self.read_notice(unit))
        return str(unit.notices[1])

    def forget_unit(self, unit: Unit) -> None:
        """Let go of what belongs to a unit."""
        self.close_ear(unit)
        if unit.notices:
            self.watch.off(unit.notices[0].fileno())
            close_socket(unit.notices[0])
            unit.notices = None

    def read_notice(self, unit: Unit) -> bool:
        """Take in one message, if it comes from the unit, or whoever was of it a moment ago. Returns whether there was one."""
        try:
            data, controls, _, _ = unit.notices[0].recvmsg(4096, 4096)
        except OSError:
            return False
        pid, uid = 0, -1
        shed(controls)  # as for systemd's FDSTORE
        for _, kind, value in controls:
            if kind == 2:  # SCM_CREDENTIALS
                pid, uid = read_numbers(value)[:2]
        if unit.status.pid and self.is_inside(unit, pid, uid):
            lines = decode(data).splitlines()
            for line in lines:
                key, _, value = line.partition("=")
                if key == "STATUS":
                    unit.note = clean(value)
                elif key in ("RELOADING", "STOPPING") and value == "1":
                    unit.note = key.lower()
                elif key == "MAINPID" and is_number(value) and line == [each for each in lines if each[:8] == "MAINPID="][-1]:
                    self.loop.name_main(unit, int(value), "MAINPID=")
                elif line == "READY=1":
                    unit.note = "" if unit.note == "reloading" else unit.note
                    self.ready(unit)
        return True

    def is_inside(self, unit: Unit, pid: int, uid: int) -> bool:
        """Tell whether a process is the unit's; of one that is gone, as systemd-notify in a shell script is, its user counts."""
        process = read_process(pid)
        if process or pid <= 0:  # 0: of another namespace
            return bool(process and (process.session == unit.status.pid or self.loop.census.survey(reuse=True).get(pid) is unit))
        try:
            return uid in (0, unit.user, os.stat(f"/proc/{unit.status.pid}").st_uid)
        except OSError:
            return uid in (0, unit.user)


class Clock:
    """Runs scripts by their `schedule`. It looks at the wall clock once a minute at least, since that may be set."""

    def __init__(self, loop: Loop) -> None:
        self.loop, self.fleet = loop, loop.fleet
        self.timer: list[Any] | None = None
        self.seen = time.time()

    def plan(self) -> None:
        for unit in self.fleet.units.values():
            if unit.spec.schedule != (unit.plan and unit.plan[0]):
                self.set(unit)
        self.wind()

    def set(self, unit: Unit) -> None:
        """Find out when a script is to run next: by the monotonic clock for `every`, else by the wall clock."""
        plan = unit.spec.schedule
        unit.plan, unit.next_run = None, ""
        if plan and plan.every:
            unit.plan, unit.next_run = (plan, time.monotonic() + plan.every), f"every {spell_duration(plan.every)}"
        elif plan:
            instant = next_run(plan, time.time(), time.localtime, time.mktime)
            unit.plan = (plan, instant or 1e18)
            unit.next_run = time.strftime("%Y-%m-%d %H:%M", time.localtime(instant)) if instant else "never"

    def wind(self) -> None:
        """Set the timer for what comes first."""
        self.loop.watch.cancel(self.timer)
        now, wall = time.monotonic(), time.time()
        plans = [unit.plan for unit in self.fleet.units.values() if unit.plan]
        waits = [instant - now if plan.every else min(60.0, instant - wall) for plan, instant in plans]
        self.timer = self.loop.watch.later(now + max(0.0, min(waits)), self.strike) if waits else None

    def strike(self) -> bool:
        """Run what is due. What was missed, since the clock was set or the container paused, is left out."""
        now, wall = time.monotonic(), time.time()
        back, self.seen = wall < self.seen - 60, wall
        for unit in [unit for unit in self.fleet.units.values() if unit.plan]:
            plan, instant = unit.plan
            late = (now if plan.every else wall) - instant
            if late >= 0:
                if plan.every or late <= MISSED:
                    self.fleet.run_by_clock(unit.name, now)
                else:
                    self.loop.log.message("warning", unit.name, f"its run of {unit.next_run} was missed")
            if late >= 0 or (back and not plan.every):
                self.set(unit)
        self.wind()
        return True


# ============================================================================================================= Loop
# Wait, read, feed, perform. Die loudly before `Loop.run`; never after.


class Loop:
    """Turns the crank between the pure rooms and the system."""

    def __init__(self, fleet: Fleet, kernel: Kernel, init: Init, output: Output, control: Control) -> None:
        self.fleet, self.kernel, self.init, self.output, self.control = fleet, kernel, init, output, control
        self.watch, self.log = output.watch, output.log
        self.arrived = bytearray()  # signals, one byte each
        self.actions: deque[Any] = deque()  # to be performed
        self.action: Any = None  # the one under way
        self.due: list[str] = []  # units whose deadline has come: what came before that is heard first
        self.timer: list[Any] | None = None  # for the deadline of the fleet itself
        self.census = Census(fleet, kernel, init.adopts)
        self.pids, self.helpers = self.census.pids, kernel.helpers  # living main processes -> unit; commands run for units
        self.lingering: dict[Unit, int] = {}  # units whose main process is gone, and what it left behind is not; torn readings
        self.next_look = 0.0  # when to look at those again
        self.surveyor: list[Any] | None = None
        self.code: int | None = None
        self.more = False  # dead children may be left from the last batch
        self.wake, wake = os.pipe()
        for fd in (self.wake, wake):
            os.set_blocking(fd, False)
        try:
            fcntl.fcntl(wake, F_SETPIPE_SZ, PIPE_SIZE)  # room for a million signals; those of a full pipe would be lost
        except OSError:
            pass
        self.watch.on(self.wake, select.EPOLLIN, self.awake)
        self.watch.paused = self.paused
        self.notices, self.clock = Notices(self), Clock(self)
        shell = not init.is_pid1 and os.getppid() > 1  # which continues overlord after a Ctrl-Z
        for number in JOB_CONTROL - ({SIGNALS["TSTP"]} if shell else set()):
            signal.signal(number, signal.SIG_IGN)  # nor must a write from the background stop overlord
        # PYTHON: a handler runs between two bytecodes, once for all that came before; in the pipe is each of them.
        for number in CAUGHT:
            signal.signal(number, lambda number, frame: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)

    def run_until_exit(self) -> int:
        """Run to the end and return the exit code. An exception is logged with its place, and supervision goes on."""
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        following = self.boot
        while self.code is None:
            try:
                current, following = following, self.turn
                current()
            except Exception as error:
                trace = error.__traceback__
                while trace and trace.tb_next:
                    trace = trace.tb_next
                place = f"{trace.tb_frame.f_code.co_name}, line {trace.tb_lineno}" if trace else "?"
                self.log.message("error", "", f"internal error, going on: {type(error).__name__}: {error} ({place})")
                self.give_up(f"internal error: {type(error).__name__}: {error}")
                self.more = True  # it may have come in the middle of a batch
                select.poll().poll(100)  # ms, lest an error that comes back at once eats the processor
        return self.code

    def give_up(self, why: str) -> None:
        """The action under way has raised: that is a failed start of its unit, which would wait for ever for it."""
        action, self.action = self.action, None
        unit = self.fleet.units.get(getattr(action, "unit", ""))
        if isinstance(action, Spawn) and unit and unit.status.state in (STARTING, RUNNING) and not unit.status.pid:
            self.fleet.feed(unit.name, Event("unspawned", why), time.monotonic())
        elif isinstance(action, Test) and unit:
            kind = "barred" if action.purpose == "wait_for" else "stale"
            if kind == "stale" or unit.status.state == WAITING:
                self.fleet.feed(unit.name, Event(kind, why, fails=True), time.monotonic())

    def boot(self) -> None:
        """Start what is to be, unless a signal asks for shutdown; a main command alone gets the signals once it runs."""
        if list(self.fleet.units) != [MAIN]:
            self.read_signals()
            self.handle_signals(time.monotonic())
        if not self.fleet.ending:
            self.fleet.want_all(time.monotonic())
            self.clock.plan()
        self.perform()

    def turn(self) -> None:
        """Wait for something to happen, and see it through. With nothing to do there is no timer: it sleeps."""
        until = self.next_look if self.lingering else time.monotonic() + LINGER_LOOK if self.fleet.sweeping else None
        self.watch.wait(time.monotonic() if self.more or self.arrived or self.actions else until)
        now = time.monotonic()
        self.handle_signals(now)
        due, self.due = self.due, []
        for name in due:
            self.fleet.take_deadline(name, now)
        self.perform()
        self.look_at_lingering(now)
        self.perform()
        if self.fleet.ending:
            self.output.hurry()
        if self.fleet.grown:  # what it made of itself shows now, not when it is killed: a daemon in a session of its own, say
            self.fleet.grown = False
            self.watch.cancel(self.surveyor)
            self.surveyor = self.watch.later(now + max(SURVEY_DELAY, LOOK_SHARE * self.census.cost), lambda: not self.census.survey())
        if self.fleet.sweeping and self.code is None:
            if self.init.alone():
                self.fleet.end_shutdown()
                self.perform()
            elif not self.init.is_pid1:  # who came by since, or is a descendant only now
                self.init.signal_all(SIGNALS["KILL" if self.fleet.swept_hard else "TERM"])

    def paused(self, gap: float) -> bool:
        """Nothing ran for so long: move the deadlines, unless overlord shuts down, which somebody waits for."""
        if not self.fleet.ending:
            self.watch.shift_timers(gap)
            self.fleet.shift_deadlines(gap)
            self.clock.wind()  # by the wall clock, which went on
        return not self.fleet.ending

    def read_signals(self) -> None:
        """Take from the wake-up pipe the signals that have come."""
        try:
            while True:
                self.arrived += os.read(self.wake, 4096)
        except BlockingIOError:
            pass

    def awake(self) -> bool:
        """Signals have come. COST: orphans are reaped at once, and need no turn of the whole loop."""
        self.read_signals()
        if not CHILD_ALONE.issuperset(self.arrived):
            return True
        self.arrived.clear()
        return self.reap(time.monotonic()) or self.fleet.sweeping or bool(self.lingering)

    def handle_signals(self, now: float) -> None:
        """Deal with the signals that have arrived: what asks for shutdown, then the dead, then what is to be relayed."""
        if Stream.broken:  # overlord's own write raised a signal, which is in the pipe by now
            self.read_signals()
        arrived, self.arrived = self.arrived, bytearray()
        if Stream.broken:
            Stream.broken = False
            arrived = arrived.translate(None, bytes(OWN_FAULTS))
        asking, transparent = self.fleet.settings.shutdown_signals, self.fleet.transparent()
        for number in [number for number in arrived if number in asking]:
            self.fleet.ask_shutdown(f"{spell_signal(number)} received", now, number)
        if CHILD_ALONE.intersection(arrived) or self.more:
            self.reap(now)
        for number in dict.fromkeys(arrived):
            if number not in CHILD_ALONE and (transparent or number not in asking):
                self.relay(number, arrived.count(number))

    def reap(self, now: float) -> bool:
        """Reap a batch of dead children, and tell the fleet of those that were units. Returns whether it is to go on."""
        count, news = 0, False
        for pid, code, user, stopped in self.kernel.dead_children(REAP_BATCH):
            count += 1
            name = self.pids.get(pid)
            news = news or name is not None or pid in self.helpers
            if stopped:
                gap = self.init.suspend(self.kernel, pid, code) if name == MAIN else 0.0
                if gap:
                    self.watch.looked = time.monotonic()
                    self.paused(gap)
            elif pid in self.helpers:
                self.helpers.pop(pid)[1](code, self.kernel.reason(pid))
            elif name is not None:
                unit = self.fleet.units[name]
                unit.user = user
                self.census.dead.append((unit, pid, code))
            elif self.lingering and any(unit.kin.pop(pid, 0) and not unit.kin for unit in self.lingering):
                self.next_look, news = 0.0, True
        if self.census.dead:
            self.bury()
        self.more = count == REAP_BATCH
        return news or self.more

    def bury(self, hint: str = "", again: tuple[Unit, int, int] | None = None) -> bool:
        """Tell the fleet of main processes that are dead, and of what they leave behind. COST: one look at /proc for all."""
        for unit, _, _ in self.census.dead:
            all(unit.notices and self.notices.read_notice(unit) for _ in range(NOTICES_LAST))  # it may have named another main process
        self.census.dead = [each for each in self.census.dead if self.pids.get(each[1]) == each[0].name and each[0].status.pid == each[1]]
        looked, self.census.torn = bool(again) or self.census.may_leave([unit for unit, _, _ in self.census.dead]), set()
        if looked:
            self.census.survey()
        for each in [again] if again and again[0].status.pid == again[1] and not again[0].status.left else [*self.census.dead]:
            unit, pid, code = each
            rest, doubts = self.census.find_left(unit, code) if looked else ([], [])
            self.pids.pop(pid, None)
            if rest and not again and self.census.may_spare(unit, code):  # RACE: a daemon in there may be about to get its own session
                later = time.monotonic() + LINGER_LOOK
                self.watch.later(later, lambda each=each: self.bury(again=each))  # type: ignore[misc]
            else:
                self.tell_end(unit, pid, code, rest, doubts, hint)
            self.census.dead = [other for other in self.census.dead if other is not each]  # what raises, does so once more
        return True

    def tell_end(self, unit: Unit, pid: int, code: int, rest: list[Process], doubts: list[Process], hint: str) -> None:
        """Tell the fleet of a main process that is dead. `rest`: what it left behind; `doubts`: what may be of it."""
        why = self.kernel.reason(pid) if code in (1, NOT_EXECUTABLE, NOT_FOUND) else ""
        if unit.name == MAIN:
            self.init.take_terminal(self.kernel)
        if not why and unit.status.state != STOPPING:
            hint = hint or self.kernel.hint(unit, code, spell_processes(rest or doubts))
        spares = unit.spec.kill_mode == "process" or self.census.may_spare(unit, code)
        may_be_named = unit.spec.pidfile and unit.status.state in (STARTING, OK) and doubts
        left = bool(rest or may_be_named or unit.stop_command or (unit in self.census.torn and unit.name != MAIN and not spares))
        if left:
            self.lingering[unit] = 0
        self.hear_out(unit.name, left)
        for helper in [each for each, (owner, _) in self.helpers.items() if owner == unit.name]:
            if helper != unit.stop_command and not (left and unit.spec.pidfile):  # which may go on
                self.kernel.send_signals(-helper if exists(-helper) else helper, SIGNALS["KILL"])
        self.fleet.feed(unit.name, Event("exited", why, code=code, left=left, hint=hint), time.monotonic())

    def name_main(self, unit: Unit, pid: int, source: str, trusted: bool = False) -> str:
        """Take whom a unit's pid file or MAINPID= names for its main process. Return why not, or nothing. `trusted`: nobody else
        can have written that, so that it may be an orphan that another unit may have made."""
        status, foreign = unit.status, False
        if status.state not in (STARTING, OK) or not status.pid:
            return "it is being stopped"
        if pid != status.pid or status.left:
            owner = self.census.survey(reuse=True)
            owner = owner if owner.get(pid) is unit else self.census.survey()
            stranger = self.census.strangers.get(pid, Stranger(0, ()))
            process = self.census.found.get(pid)
            if not process:
                return f"{source} names pid {pid}, which does not run"
            likely = unit in stranger.makers and stranger.born >= unit.born
            same = len(stranger.makers) == 1 or (trusted and read_origin(process, {}).user in (None, self.user_of(unit)))
            if owner.get(pid) is not unit and not (likely and same):
                why = f"{source} names {spell_processes([process])}, which is not of this unit: refused"
                if why != unit.note:
                    self.log.message("warning", unit.name, why)
                unit.note = why
                return why
            if status.left or source == "MAINPID=":
                self.pids.pop(status.pid, None)
                self.pids[pid] = unit.name
                self.lingering.pop(unit, None)
                self.census.strangers.pop(pid, None)
                unit.kin[pid] = process.born
                foreign = process.parent != os.getpid()
            elif process in descendants(self.census.found, status.pid):
                pid = status.pid  # as long as that lives: a shell with a daemon in the foreground, say
            else:
                return "the process that was started has not ended"
        why = f"its main process is now pid {pid} ({source})"
        self.fleet.feed(unit.name, Event("handed", why, pid=pid), time.monotonic())
        if foreign:
            self.watch_main(unit, pid)
        return ""

    def user_of(self, unit: Unit) -> int | None:
        main = self.census.found.get(unit.status.pid)
        user: int | None = read_origin(main, {}).user if unit.user is None and main else unit.user
        return user

    def watch_main(self, unit: Unit, pid: int) -> None:
        """Hear of the death of a main process that is another's child, which has its exit code. LINUX: pidfd_open(2), since 5.3;
        PYTHON: since 3.9. Without, it is looked at once a second."""

        def hear_end() -> bool:
            self.watch.off(fd)
            os.close(fd)
            return look_for_it()

        def look_for_it() -> bool:
            now, process = time.monotonic(), read_process(pid)
            if self.pids.get(pid) == unit.name and process and process.born == unit.kin.get(pid, process.born):
                self.watch.later(now + 1, look_for_it)
            elif self.pids.get(pid) == unit.name:
                self.reap(now)  # it may be overlord's child by now
                if self.pids.get(pid) == unit.name and unit.status.pid == pid:
                    self.census.dead.append((unit, pid, 1))
                    self.bury("its exit code went to the process whose child it was, and counts as 1")
            return True

        try:
            fd = os.pidfd_open(pid)  # type: ignore[attr-defined,unused-ignore]
            self.watch.on(fd, select.EPOLLIN, hear_end)
        except (AttributeError, OSError):
            look_for_it()

    def spawn_unit(self, unit: Unit) -> int:
        """Make the process of a unit, with all by which it may say that it is ready. Raises StartError."""
        if unit.spec.pidfile and not self.init.adopts:
            raise StartError(f"pidfile needs overlord to be PID 1, or a subreaper: {self.init.warning}")
        stdio, end = self.output.wire_output(unit.spec), -1
        try:
            extra, number, end = self.notices.wire_notices(unit)
            return self.kernel.make_process(unit.spec, stdio, extra, (number, end))
        except OSError as error:
            raise StartError(f"ready: {error.strerror}", passing=True) from None
        finally:
            if end >= 0:
                os.close(end)

    def test(self, action: Test) -> None:
        """Begin to ask whether a unit is ready, or well, or what it waits for is there."""
        unit = self.fleet.units.get(action.unit)  # a reload may have removed it meanwhile
        probe = getattr(unit.spec, action.purpose) if unit else None
        if unit and probe and (action.purpose != "ready" or probe.kind not in ("notify", "fd", "log")):
            Prober(self, unit, action.purpose)

    def stop_by_command(self, action: StopCommand) -> None:
        """Run a daemon's `stop_cmd`. Where it cannot be run, or fails, the stop signal is sent after all."""
        unit = self.fleet.units.get(action.unit)
        if not unit:  # a reload has removed it meanwhile
            return
        spec = unit.spec

        def failed(why: str) -> None:
            instead = unit.status.pid == action.pid and unit.status.state == STOPPING and action.pid in self.pids
            self.log.message("warning", unit.name, f"stop_cmd {why}" + f", sending {spell_signal(spec.stop_signal)}" * instead)
            if instead:
                self.kill(Kill(unit.name, action.pid, spec.stop_signal, whole=spec.kill_mode == "all"))

        def note_command_end(code: int, why: str) -> None:
            unit.stop_command, self.next_look = 0, 0.0
            if code:
                failed(f"cannot be run: {why}" if why else spell_end(code))

        if not spec.stop_cmd:
            failed("is no more, since a reload")
            return
        self.census.survey(reuse=True)
        try:
            unit.stop_command = self.help(spec._replace(cmd=spec.stop_cmd), {"MAINPID": str(action.pid)}, note_command_end)
        except StartError as error:
            failed(f"cannot be run: {error}")

    def help(self, spec: Spec, extra: Mapping[str, str], ended: Callable[[int, str], None]) -> int:
        """Run a command for a unit, as its user; return its pid. Raises StartError."""
        pid = self.kernel.make_process(spec, (-1, -1) if spec.stdout == spec.stderr == "null" else self.output.wire_output(spec), extra)
        self.helpers[pid] = (spec.name, ended)
        return pid

    def hear_out(self, name: str, left: bool = False) -> None:
        """Read what a unit wrote before it ended, so that it stands before what is said about its end."""
        for capture in self.output.of(name):
            if left:
                capture.drain(last=True)
            else:
                capture.finish_run()

    def look_at_lingering(self, now: float) -> None:
        """Find the units of which nothing lives any more, and signal what has come by since. No signal tells of processes that
        are another's children."""
        if not self.lingering or now < self.next_look:
            return
        self.census.survey()
        self.next_look = now + max(LINGER_LOOK, LOOK_SHARE * self.census.cost)
        for unit in list(self.lingering):
            stopping = unit.status.state == STOPPING
            if self.fleet.units.get(unit.name) is not unit or not (unit.status.left or stopping):
                self.lingering.pop(unit)
            elif unit.kin and stopping and unit.spec.kill_mode == "process" and unit.status.left:
                self.census.find_left(unit, 0)
            elif unit.kin and stopping and unit.spec.kill_mode != "process":
                soft = unit.status.deadline is not None  # whose parent lives is its helper in coming to an end
                pids = [pid for pid in unit.kin if not (soft and pid in self.census.found and self.census.found[pid].parent in unit.kin)]
                self.signal_unit(unit, unit.spec.stop_signal if soft else SIGNALS["KILL"], pids)
            elif not unit.status.left or unit.kin:
                continue
            elif unit in self.census.torn and self.lingering[unit] < TORN_MOST:
                self.lingering[unit] += 1
            elif not unit.stop_command and not (unit.status.state in (STARTING, OK) and self.census.find_doubtful(unit)):
                self.lingering.pop(unit)
                self.census.find_left(unit, unit.status.code)
                self.hear_out(unit.name)
                self.fleet.feed(unit.name, Event("emptied"), now)

    def perform(self) -> None:
        """Do what the fleet wants done, and what follows from that; what a signal interrupts, the next turn goes on with."""
        doers = {Spawn: self.spawn, Kill: self.kill, Test: self.test, StopCommand: self.stop_by_command, Sweep: self.sweep,
                 Exit: self.exit, Forget: self.forget}  # fmt: skip
        self.collect_actions()
        while self.actions:
            self.action = self.actions.popleft()
            doers[type(self.action)](self.action)  # type: ignore[operator]
            if isinstance(self.action, Spawn):
                self.read_signals()
                if not set(self.fleet.settings.shutdown_signals).isdisjoint(self.arrived):
                    break  # a thousand starts must not make a stop request wait
            self.collect_actions()
            self.watch.check_clock()  # a thousand starts are no pause
        self.action = None
        self.control.answer_waiting(time.monotonic())

    def collect_actions(self) -> None:
        """Take over what the fleet wants: what it has to say is said now, not after a thousand starts."""
        for action in self.fleet.take_actions():
            if isinstance(action, Say):
                if action.unit != MAIN or action.level == "error" or len(self.fleet.units) > 1:
                    details = self.post_mortem(self.fleet.units[action.unit]) if action.final else None
                    self.log.message(action.level, action.unit, action.text, details)
                self.control.publish_message(action)
            elif isinstance(action, Changed):
                self.control.publish_change(action)
            elif isinstance(action, (Wake, Replan)):
                (self.set_timer if isinstance(action, Wake) else self.replan)(action)  # type: ignore[arg-type]
            else:
                self.actions.append(action)

    def set_timer(self, action: Wake) -> None:
        """Set the timer of a unit, or of the fleet itself, in the place of the one before."""
        owner: Any = self.fleet.units.get(action.unit) if action.unit else self
        if owner:
            due = lambda: self.due.append(action.unit) or True  # type: ignore[func-returns-value]  # noqa: E731
            self.watch.cancel(owner.timer)
            owner.timer = None if action.instant is None else self.watch.later(action.instant, due)

    def replan(self, action: Replan) -> None:
        """A reload has taken effect."""
        self.clock.plan()
        self.output.apply_settings(self.fleet)
        self.control.refollow()

    def forget(self, action: Forget) -> None:
        """Let go of what belongs to a unit that a reload removed, or made one of another kind."""
        if action.unit.name not in self.fleet.units:
            self.output.unwire_unit(action.unit.name)
        self.watch.cancel(action.unit.timer)
        self.notices.forget_unit(action.unit)

    def sweep(self, action: Sweep) -> None:
        """Signal all that is left."""
        if action.signum == SIGNALS["KILL"]:
            left = self.init.leftovers()
            self.fleet.killed += [f"{each.name} (pid {each.pid})" for each in left if each.pid not in self.pids]
        else:
            self.control.dismiss_clients()
        self.init.signal_all(action.signum)

    def spawn(self, action: Spawn) -> None:
        """Make the process of a unit, unless it was stopped since."""
        unit, now = self.fleet.units.get(action.unit), time.monotonic()
        if not unit or unit.status.state not in (STARTING, RUNNING) or unit.status.pid:
            return
        try:
            pid = self.kernel.make_process(unit.spec) if unit.name == MAIN else self.spawn_unit(unit)
        except StartError as error:
            self.fleet.feed(unit.name, Event("unspawned", str(error), passing=error.passing), now)
            return
        process = read_process(pid)
        born = process.born if process else int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))
        unit.sessions, unit.born, unit.user, unit.told = {pid}, born, None, {}
        self.pids[pid], unit.kin = unit.name, {pid: unit.born}
        self.fleet.feed(unit.name, Event("spawned", pid=pid), now)
        self.notices.seek(unit, self.output.tails.get(unit.name), pid)

    def post_mortem(self, unit: Unit) -> dict[str, str | list[str]]:
        """Return what a person wants to know of a unit that has failed for good."""
        name, spec, status = unit.name, unit.spec, unit.status
        lines = self.output.tails[name].last_lines(SHOWN_LINES) if name in self.output.tails else ()
        restarts = f"{max(0, status.starts - 1)} time{'' if status.starts == 2 else 's'}"
        told: dict[str, str | list[str]] = {"command": spec.cmd, "user": spec.uid or str(os.geteuid()), "restarted": restarts}
        if status.started:
            told["lived"] = spell_duration(status.lived)
        if lines:
            told["last output"] = [line.decode("utf-8", "replace")[:SHOWN_WIDTH] for line in lines]
        elif name not in self.output.tails:
            told["output"] = f"not captured; with `stdout = prefix` in [{section_of(spec)}] its last lines stand here"
        return told

    def kill(self, action: Kill) -> None:
        """Signal a unit's main process, or everything of it."""
        unit = self.fleet.units.get(action.unit)
        if not unit:
            return
        hard = action.signum == SIGNALS["KILL"]
        if action.whole or (unit.name != MAIN and not hard):
            self.census.survey(reuse=not unit.status.left)  # whom it descends from, nobody can tell once that one is dead
        unit.told = {} if hard or not unit.status.left else unit.told
        if action.whole:
            self.lingering.setdefault(unit, 0)  # there may come more
        # RACE: the main process may have been reaped since the fleet decided, and its pid be another's
        pids = [action.pid] if self.pids.get(action.pid) == unit.name else []
        pids += [pid for pid in unit.kin if pid != action.pid and action.whole and unit.spec.kill_mode != "process"]
        targets = self.signal_unit(unit, action.signum, pids)
        if targets and action.why and (unit.name != MAIN or len(self.fleet.units) > 1):  # without units it is silent
            level = "info" if unit.status.then == "stop" and not hard else "warning"
            self.log.message(level, unit.name, f"{action.why} ({spell_signal(action.signum)}): {spell_processes(targets)}")
        if hard and self.fleet.ending:
            self.fleet.killed += [spell_processes([each]) for each in targets if each.pid != action.pid]
        if hard and unit.stop_command:
            command, unit.stop_command = unit.stop_command, 0
            self.helpers[command] = (unit.name, lambda code, why: None)
            self.kernel.send_signals(-command if exists(-command) else command, SIGNALS["KILL"])
            self.log.message("warning", unit.name, f"stop_cmd (pid {command}) has not ended, killing it (SIGKILL)")
            self.fleet.killed += [f"the stop_cmd of {unit.name}"] if self.fleet.ending else []

    def signal_unit(self, unit: Unit, signum: int, pids: list[int]) -> list[Process]:
        """Signal those of its processes that had not this signal yet; return them."""
        nameless = {pid: Process(pid, 0, unit.name, 0, 0) for pid in pids}  # there is no /proc
        each = [self.census.found.get(pid) or read_process(pid) or nameless[pid] for pid in pids]
        targets = [process for process in each if unit.told.get(process.pid) != (process.born, signum)]
        unit.told.update((process.pid, (process.born, signum)) for process in targets)
        self.deliver(unit, signum, targets)
        return targets

    def deliver(self, unit: Unit, signum: int, targets: list[Process]) -> bool:
        """Send a signal to processes, so many at once. A stopped one is continued, so that it can act on it; what ignores it, as
        a background job of a shell does INT, gets SIGTERM."""
        exact = signum == SIGNALS["KILL"] or unit.name == MAIN
        for process in targets[:SIGNAL_BATCH]:
            if process.born and not is_there(process):
                continue
            own = signum if exact or not ignores(process.pid, signum) else SIGNALS["TERM"]
            fault = self.kernel.send_signals(process.pid, *with_continue(own))
            if fault:
                self.log.message("error", unit.name, f"cannot send {spell_signal(own)} to {spell_processes([process])}: {fault}")
        rest = targets[SIGNAL_BATCH:]
        if rest:
            self.watch.later(time.monotonic(), lambda: self.deliver(unit, signum, rest))
        return True

    def relay(self, number: int, times: int = 1) -> None:
        """Pass a signal on: to the main command as often as it came, to a daemon that wants it unless it would die of it."""
        units = self.fleet.units
        forwards = [(name, to) for name, unit in units.items() for source, to in unit.spec.forward if source == number]
        for name, target in [(MAIN, number), *forwards]:
            status = units[name].status if name in units else Status()
            if not status.pid or status.left:
                continue
            heeded = name == MAIN or heeds(status.pid, target)
            fault = self.kernel.send_signals(status.pid, *[target] * (times if name == MAIN else 1)) if heeded else ""
            sent = spell_signal(target) + (f" for {spell_signal(number)}" if target != number else "")
            if fault:
                self.log.message("error", name, f"cannot relay {sent} to pid {status.pid}: {fault}")
            elif heeded:
                self.log.message("debug" if name == MAIN else "info", name, f"{sent} relayed")
            elif heeded is None:
                self.log.message("warning", name, f"{sent} withheld: the kernel does not show whether it waits for it or would die")
            else:
                self.log.message("info", name, f"{sent} withheld: it does nothing about it and would die")

    def exit(self, action: Exit) -> None:
        """Say why, give the terminal back, and end."""
        for name in self.fleet.units:
            self.hear_out(name)
        if not action.quiet:
            self.log.message("info", "", f"exiting with code {action.code}: {action.why}", always=True)
        end = self.fleet.ending.end if self.fleet.ending else 0.0
        self.control.stop_listening()
        self.output.write_rest(max(end, time.monotonic() + 0.2))
        if not self.init.is_pid1:
            self.init.take_terminal(self.kernel)
        self.code = action.code


# ============================================================================================================== CLI
# Arguments, files, verbs. Once the loop runs, a reload reads the files again, and nothing else of it runs.

USAGE = """\
overlord.py [-c FILE] [VERB ...]        one of these; without a verb: run
overlord.py [-c FILE] [--] COMMAND ...  run, with COMMAND as the main command (Docker's CMD)

{}
Of a running overlord (docker exec CONTAINER overlord.py VERB); a NAME may be a glob ('worker-*'), options go anywhere after VERB:

{}
Exit codes: 64 wrong arguments or an unknown unit, 69 nobody answers, 74 the answer cannot be written, 77 one may not ask.

The configuration is FILE, else $OVERLORD_CONFIG, else /etc/overlord.conf, and every file of its configdir
(/etc/overlord/). An example:

  [script:setup]
  cmd = /usr/local/bin/setup.sh

  [daemon:web]
  cmd = nginx -g 'daemon off;'
  deps = setup:ok
"""
PASSED_OVER = r"\..*|.*~|.*\.(bak|swp)|.*\.dpkg-.*"


class Unwritten(Exception):
    """What was to be said on stdout could not be written; the text says why."""


def write_out(fd: int, text: str | bytes) -> None:
    """Write all of it to a standard descriptor, however slow its reader is. Raises Unwritten; for stderr it gives up."""
    rest = memoryview(text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape"))
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:
            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            poll.poll()
        except OSError as error:
            if fd == 1:
                raise Unwritten(error.strerror) from None
            return


def load(draft: Draft, path: str, optional: bool = False) -> bool:
    """Read one file into the draft; tell whether there was one."""
    try:
        draft.read_text(path, slurp(path))
    except OSError as error:
        place = draft.begin(path, 1)
        if optional and error.errno == errno.ENOENT:
            return False
        draft.mistake(place, "", f"cannot be read: {error.strerror}")
    return True


def list_configdir(draft: Draft) -> list[str]:
    """Return the files of the configdir in the order of their names."""
    try:  # a mistake in it is noted with all the others
        folder = parse_text(draft.setting("configdir"))
    except Mistake:
        return []
    try:
        names = sorted(name for name in os.listdir(folder) if not re.fullmatch(PASSED_OVER, name))
    except OSError as error:
        if error.errno != errno.ENOENT:
            draft.mistake(draft.places.get(("overlord", "configdir"), 1), "[overlord] configdir", f"{folder}: {error.strerror}")
        return []
    paths = (os.path.join(folder, name) for name in names)  # a link to nothing is one to be told of
    return [path for path in paths if os.path.isfile(path) or not os.path.exists(path)]


def read_files(path: str | None, environment: Mapping[bytes, bytes]) -> tuple[Draft, list[str]]:
    """Return what the files of the configuration say, mistakes included, and which those are; a default one may be absent."""
    draft = Draft({decode(key): decode(value) for key, value in environment.items()})
    named = path or draft.environment.get("OVERLORD_CONFIG")
    found = load(draft, named or DEFAULT_CONFIG, optional=not named)
    files = list_configdir(draft)
    for file in files:
        load(draft, file)
    return draft, [named or DEFAULT_CONFIG, *files] if found else files


def read_config(path: str | None, environment: Mapping[bytes, bytes], optional: bool) -> tuple[Config, list[str]]:
    """Return the configuration and the files it was read from, which may be none if `optional`. Raises Mistakes."""
    draft, files = read_files(path, environment)
    if not files and not optional:
        text = "there is no such file, nothing in /etc/overlord/ and no COMMAND; overlord.py help shows an example"
        draft.mistake(1, "", text)
    return draft.validate(), files


def add_main(config: Config, command: list[str]) -> None:
    config.units[MAIN] = main_spec(command, [name for name in config.order if config.units[name].kind == "daemon"])
    config.order.append(MAIN)


def warn_of_writers(files: list[str], configdir: str) -> Iterator[str]:
    """Yield a warning for each file, and its folder, that someone other than root can write while overlord is root.
    In a sticky folder others can add files, which matters in the configdir, but not replace those of root."""
    if os.geteuid() != 0:
        return
    for path in dict.fromkeys([configdir, *(part for file in files for part in (os.path.dirname(file) or ".", file))]):
        try:
            stat = os.stat(path)
        except OSError:
            continue
        if not os.path.isdir(path) and not os.path.isfile(path):
            continue
        sticky = os.path.isdir(path) and stat.st_mode & 0o1000 and os.path.abspath(path) != os.path.abspath(configdir)
        if stat.st_uid != 0 or (not sticky and (stat.st_mode & 0o002 or (stat.st_mode & 0o020 and stat.st_gid != 0))):
            yield f"{path} can be written by others than root, who can so have anything run as root"


def warn_of_image(config: Config, environment: Mapping[bytes, bytes]) -> Iterator[str]:
    """Yield a warning for each command, user and folder that the image lacks, and where time will not do to stop."""
    chains: dict[str, tuple[float, tuple[str, ...]]] = {}  # unit -> the longest way to stop it and what it needs
    asked = {dep for unit in config.units.values() for dep, _ in unit.deps}
    for name in config.order:
        unit = config.units[name]
        pairs = () if unit.env_file or unit.secrets else unit.env
        own = {**environment, **{os.fsencode(key): os.fsencode(value) for key, value in pairs}}
        first = re.match(FIRST_WORD, unit.cmd)
        found = (os.path.join(unit.dir or ".", decode(path)) for path in find_paths(os.fsencode(first[0] if first else ""), own))
        if first and first[0] not in SHELL_WORDS and not any(os.path.isfile(path) and os.access(path, os.X_OK) for path in found):
            yield f"{name}: cmd: {first[0]} is not there, or not executable"
        try:
            identity(unit.uid, unit.gid)
        except StartError as error:
            yield f"{name}: {error}"
        if unit.dir and not os.path.isdir(unit.dir):
            yield f"{name}: dir {unit.dir}: no such folder"
        if unit.kind == "script" and name not in asked and not unit.schedule:
            yield f"{name}: no unit depends on this script, so it never runs"
        below = max((chains[dep] for dep, _ in unit.deps), default=(0.0, ()))
        chains[name] = below[0] + (unit.stop_timeout if unit.kind == "daemon" else 0.0), (name, *below[1])
    longest, names = max(chains.values(), default=(0.0, ()))
    total = config.settings.shutdown_timeout
    if longest > total - sweep_share(total) + 1e-6:
        needed = int(longest + SWEEP_TIMEOUT) + 1
        yield (
            f"to stop {', then '.join(names)} may take {spell_duration(longest)}, more than shutdown_timeout = "
            f"{spell_duration(total)} leaves: each gets its share of that; for more, set shutdown_timeout = {needed}s and "
            f"use docker stop -t {needed + 1}"
        )


def refuse(mistakes: Mistakes) -> int:
    lines = "".join(f"{line}\n" for line in mistakes.args[0])
    write_out(2, f"{lines}overlord: {mistakes}, nothing started: exiting with code {EX_CONFIG}\n")
    return EX_CONFIG


def run(path: str | None, command: list[str]) -> int:
    """Be the init: start what the configuration says, and stay until the end. Returns the exit code."""
    import _random  # COST: `random` would pull in a dozen others

    try:
        environment = found_environment()
        kernel, common = Kernel(environment, FOUND_MASK), locate_socket("abstract")
        named = path or environment.get(b"OVERLORD_CONFIG")
        if not named and is_overlord(common):  # before the mistakes of a broken configuration
            return runs_already(common, command)

        def read_all() -> tuple[Config, list[str]]:
            config, files = read_config(path, environment, optional=bool(command))
            if command:
                add_main(config, command)
            return config, files

        config, files = read_all()
        settings, place = config.settings, locate_socket(config.settings.socket or "")
        if place and (named or place != common) and is_overlord(place):
            return runs_already(place, command)
        init, fleet = Init(), Fleet(config, _random.Random().random)
        output = Output(Watch(), settings.log_level, settings.log_format, colour=not environment.get(b"NO_COLOR"))
        control = Control(output, fleet, kernel, lambda: read_all()[0])
        loop = Loop(fleet, kernel, init, output, control)
        unheard = control.open_socket(settings.socket) if settings.socket else ""
    except Mistakes as mistakes:
        return refuse(mistakes)
    except OSError as error:  # no descriptor left, say
        write_out(2, f"overlord: cannot start: {error}: exiting with code 1\n")
        return 1
    for warning in (init.warning, unheard, *warn_of_writers(files, config.settings.configdir)):
        if warning:
            output.log.message("warning", "", warning)
    gc.freeze()  # COST: what is there now stays, and no collection has to look at it
    gc.enable()
    return loop.run_until_exit()


def check(path: str | None, verb: str, options: dict[str, Any], words: list[str]) -> int:
    """Say what is wrong with the configuration, and what the image lacks."""
    environment = found_environment()
    try:
        config, files = read_config(path, environment, optional=True)
    except Mistakes as mistakes:
        return refuse(mistakes)
    if not files:
        write_out(2, f"overlord: warning: there is no {DEFAULT_CONFIG}: nothing but a COMMAND can be run\n")
    for warning in (*warn_of_writers(files, config.settings.configdir), *warn_of_image(config, environment)):
        write_out(2, f"overlord: warning: {warning}\n")
    if not COMPILED:
        text = "this overlord.py is source, which each start and each health check compile anew (0.1 s, 30 MB for a moment)"
        write_out(2, f"overlord: note: {text}; once and for all: overlord.py compile {os.path.abspath(__file__)}\n")
    kinds = [unit.kind for unit in config.units.values()]
    counts = [f"{kinds.count(kind)} {kind}{'' if kinds.count(kind) == 1 else 's'}" for kind in ("daemon", "script")]
    write_out(1, f"overlord: {', '.join(files) or 'no configuration'}: OK, {', '.join(counts)}\n")
    return 0


def compile_into(found: str | None, verb: str, options: dict[str, Any], words: list[str]) -> int:
    """Write overlord as compiled code, for the Python that runs this, and as an executable: its first line has that execute
    the rest. LINUX: the kernel passes all behind the first blank as one argument, and takes no more than 127 bytes of that
    line, see execve(2). An interpreter whose path has no room there, or a blank in it, is called by a link beside the file."""
    if COMPILED:
        return usage_error("this is compiled already: copy the source of overlord.py here again, and compile that")
    path = words[0]
    target, python = os.path.realpath(path), os.path.realpath(sys.executable)
    link = f"{target}.python"
    loader = " -ISc" + "import sys,marshal as m;exec(m.loads(open(sys.argv[1],'rb').read()[{:3}:]))"
    room = FIRST_LINE_MAX - len(loader.format(0)) - len("#!\n")
    name = next((name for name in (python, link) if len(os.fsencode(name)) <= room and not re.search(r"\s", name)), "")
    size = len(os.fsencode(f"#!{name}{loader.format(0)}\n"))
    try:
        if not name:
            text = f"give it a path of {room - len('.python')} bytes at most, without blanks, as that of {python} is too long"
            raise OSError(errno.ENAMETOOLONG, text, path)
        if os.path.exists(target) and not os.path.isfile(target):
            raise OSError(errno.EEXIST, "is no regular file", path)
        code = compile(slurp(__file__), target, "exec", dont_inherit=True, optimize=2)
        with open(f"{target}.new", "wb") as file:
            file.write(os.fsencode(f"#!{name}{loader.format(size)}\n") + marshal.dumps(code))
        os.chmod(f"{target}.new", 0o755)
        if os.path.islink(link):
            os.unlink(link)
        if name == link:
            os.symlink(python, link)
        os.replace(f"{target}.new", target)
    except OSError as error:
        where = path if error.filename in (None, f"{target}.new") else error.filename2 or error.filename
        write_out(2, f"overlord: compile: {where}: {error.strerror}\n")
        if os.path.isfile(f"{target}.new"):
            os.unlink(f"{target}.new")
        return 1
    beside = f", and by the link {link}, which belongs to it" if name == link else ""
    write_out(1, f"overlord: {path}: compiled for {python}; to be run by its name alone, without python3 before it{beside}\n")
    return 0


def usage_error(text: str) -> int:
    write_out(2, f"overlord: {text}\noverlord: overlord.py help shows how it is used: exiting with code {EX_USAGE}\n")
    return EX_USAGE


def explain_option(path: str | None, verb: str, options: dict[str, Any], words: list[str]) -> int:
    """Say how overlord is used, or what an option means."""
    found = [option for option in OPTIONS if words and option.name == words[0]]
    for option in found:
        where = ", ".join({"o": "[overlord]", "s": "[script:NAME]", "d": "[daemon:NAME]"}[kind] for kind in option.kinds)
        write_out(1, f"{option.name}  in {where}, default: {option.default or option.shown}\n  {option.help}\n")
    if words and not found:
        return usage_error(f"there is no option {words[0]}{suggest(words[0], [option.name for option in OPTIONS])}")
    if not words:
        write_out(1, spell_usage())
    return 0


def spell_usage() -> str:
    """Return how overlord is used, with a line or two for each verb."""
    lines = ["", ""]
    for verb in VERBS.values():
        head = f"  {verb.name} {verb.words}".ljust(27)
        lines[bool(verb.asks)] += f"{head}{verb.help}\n" if head[-1] == " " else f"{head}\n{' ' * 27}{verb.help}\n"
    return USAGE.format(*lines)


# ------------------------------------------------------------------------------------------------------- the client

STATE_COLOURS = {OK: 32, RUNNING: 36, STARTING: 33, WAITING: 33, STOPPING: 33, BACKOFF: 33, FAILED: 31}  # others dim


def dial(place: str, timeout: float = ASK_TIMEOUT) -> Any:
    """Return a connection to a socket. Raises OSError; PermissionError also where somebody else listens there."""
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        limit = int(timeout).to_bytes(8, sys.byteorder) + bytes(8)  # a struct timeval
        for option in (_socket.SO_SNDTIMEO, _socket.SO_RCVTIMEO):  # a full queue must not hold up for ever either
            sock.setsockopt(_socket.SOL_SOCKET, option, limit)
        sock.connect(place)
        pid, uid = look_at_peer(sock)
        if not pid:
            raise PermissionError(errno.EPERM, "who listens there is of another container: its PID namespace is not this one")
        if uid not in (0, os.geteuid()) and pid != 1:
            raise PermissionError(errno.EPERM, f"user {uid} listens there, neither root nor yours: ask as that user")
    except OSError:
        sock.close()
        raise
    return sock


def is_overlord(place: str) -> bool:
    """Tell whether a live overlord of this container answers at a socket, be it that this user may not ask it."""
    try:
        sock = dial(place, 2.0)
        try:
            sock.sendall(b"version\n")
        except BrokenPipeError:  # refused without being heard
            pass
        answer = bytes(sock.recv(1000, MSG_WAITALL))  # RACE: to its end, since it may come in pieces
        return answer.startswith(b" overlord") or b"\n=%d\n" % EX_NOPERM in answer
    except OSError as error:  # a file that this user may not open: is anybody there?
        if error.errno != errno.EACCES or not os.path.exists("/proc/net/unix"):
            return False
        return f" {os.path.realpath(place)}\n".encode() in slurp("/proc/net/unix")


def runs_already(place: str, command: list[str]) -> int:
    """Refuse to start a second fleet."""
    near = suggest(command[0], [name for name, verb in VERBS.items() if verb.asks]) if command else ""
    text = f"an overlord runs here already, and answers at {place}".replace("\0", "@")
    more = "; to look at it: overlord.py status; for a second one: -c FILE with [overlord] socket = /PATH"
    return usage_error(text + (near or more))


def places_to_ask(path: str | None) -> Iterator[str]:
    """Yield where an overlord may answer: where the file says, the common place, the default file says. Raises OSError."""
    if not path:
        yield locate_socket("abstract")
    else:
        slurp(path)  # it has to be there
    try:
        socket = read_files(path, found_environment())[0].setting("socket")
    except Mistake as mistake:
        raise OSError(errno.EINVAL, f"{path or DEFAULT_CONFIG}: [overlord] socket: {mistake}") from None
    if path and socket == "none":
        raise OSError(errno.ENOENT, f"{path} says socket = none")
    if path or socket not in ("abstract", "none"):
        yield locate_socket(socket)


class Answer:
    """What a running overlord says to a request. COST: for `health`, which is asked every few seconds, next to nothing."""

    def __init__(self, path: str | None, words: list[str]) -> None:
        """Ask. Raises OSError where nobody answers, PermissionError where one may not ask."""
        refused, asked, self.words = "", [], words
        for place in places_to_ask(path):
            asked.append(place.replace("\0", "@"))
            try:
                self.sock = dial(place)
                try:
                    self.sock.sendall(" ".join(words).encode("utf-8", "surrogateescape") + b"\n", MSG_NOSIGNAL)
                except BrokenPipeError:  # refused without being heard: the answer says why
                    pass
                break
            except PermissionError as error:
                tail = "; only root and overlord's own user may ask" if error.errno == errno.EACCES else ""
                refused = f"{asked[-1]}: {error.strerror}{tail}"
            except OSError as error:
                if error.errno == errno.EAGAIN:
                    raise
        else:
            if refused:
                raise PermissionError(errno.EPERM, refused)
            text = f"nobody answers at {' or '.join(asked)}: is overlord running here? (if it has no socket, its log says so)"
            raise OSError(errno.ENOENT, text)
        self.code = EX_UNAVAILABLE

    def lines(self, quiet: bool = False) -> Iterator[bytes]:
        """Yield the lines, and say what went wrong, unless `quiet`. Raises OSError where they do not come, or break off."""
        rest, poll, patient = b"", select.poll(), False
        poll.register(self.sock.fileno(), select.POLLIN)
        poll.register(1, 0)  # tells when nobody reads what is put out: poll(2)
        while True:
            if patient and self.sock.fileno() not in dict(poll.poll()):
                if self.words[0] not in ("logs", "events"):  # which have no end but that
                    raise Unwritten(os.strerror(errno.EPIPE))
                self.code = 0
                return
            data = self.sock.recv(65536)
            if not data:
                raise OSError(errno.EPIPE, "overlord hung up before it had answered")
            *found, rest = (rest + data).split(b"\n")
            for line in found:
                if line[:1] == b"=":
                    self.code = int(line[1:])
                    if self.code not in range(256):
                        raise ValueError
                    return
                if line[:1] == b"+":  # it may take a while
                    self.sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVTIMEO, bytes(16))
                    patient = True
                elif line[:1] != b"!":
                    yield line[1:]
                elif not quiet:
                    write_out(2, b"overlord: " + line[1:] + b"\n")


def client(path: str | None, verb: Verb, options: dict[str, Any], names: list[str], words: list[str]) -> int:
    """Ask a running overlord, and show what it answers. Returns the exit code."""
    try:
        if verb.show:
            return int(verb.show(path, verb.name, options, names))
        answer = Answer(path, [verb.name, *words])
        for line in answer.lines():
            write_out(1, line + b"\n")
        return answer.code
    except OSError as error:
        text = "overlord does not answer within 5 s" if error.errno == errno.EAGAIN else error.strerror or str(error)
        write_out(2, f"overlord: {error.filename}: {text}\n" if error.filename else f"overlord: {text}\n")
        return EX_NOPERM if isinstance(error, PermissionError) else EX_UNAVAILABLE
    except (ValueError, LookupError, OverflowError):
        write_out(2, "overlord: what answers there is no overlord of this version\n")
        return EX_UNAVAILABLE


def fetch(path: str | None, words: list[str]) -> tuple[list[str], int]:
    """Return the lines of an answer and its exit code; say what went wrong."""
    answer = Answer(path, words)
    lines = list(map(decode, answer.lines()))
    return lines, answer.code


def paint(text: str, colour: int | None) -> str:
    """Return text in a colour (None: dim), where it goes to a terminal and nobody minds."""
    return text if not os.isatty(1) or os.environ.get("NO_COLOR") else f"\x1b[{colour or 2}m{text}\x1b[0m"


def columns() -> int:
    """Return how wide the output may be: as the terminal, or as wide as it likes."""
    try:
        return os.get_terminal_size(1).columns if os.isatty(1) else 0
    except OSError:
        return 80


def cut(text: str, room: int) -> str:
    """Return as much of a text as there is room for, and of a few letters in any case."""
    return text if len(text) <= max(8, room) else text[: max(8, room) - 1] + "\u2026"


def show_units(path: str | None, verb: str, options: dict[str, Any], names: list[str]) -> int:
    """Show the units: as a table, as JSON, as the graph of their dependencies, or why one is as it is."""
    lines, code = fetch(path, ["status", *(names if verb == "status" else ())])
    units = {unit["name"]: unit for unit in (dict(zip(RECORD, line.split("\t"))) for line in lines)}
    if not units and code not in (0, 3):
        return code
    if verb == "why" and names[0] not in units:
        return usage_error(f"there is no unit {names[0]}{suggest(names[0], units)}")
    if verb == "status":
        write_out(1, spell_array(map(parse_record, units.values())) if "json" in options else draw_table(units))
        return code
    write_out(1, explain_chain(path, units, names[0]) if verb == "why" else draw_dot(units) if "dot" in options else draw_tree(units))
    return 0


def spell_array(objects: Iterable[dict[str, Any]]) -> str:
    """Return a JSON array with a line for each object."""
    return "[" + ",\n ".join(map(spell_json, objects)) + "]\n"


def parse_record(unit: dict[str, str]) -> dict[str, Any]:
    """Return what `status` answers of a unit, with numbers where those are meant."""
    numbers = {key: float(unit[key]) if unit[key] else None for key in ("for", "uptime", "next")}
    counts = {key: int(unit[key]) if unit[key] else None for key in ("pid", "restarts", "failures")}
    return {**unit, **numbers, **counts, "deps": unit["deps"].split()}


def draw_table(units: Mapping[str, dict[str, str]]) -> str:
    """Return the table of `status`, which fits the terminal as far as its last column gives way."""
    rows = [["NAME", "KIND", "STATE", "PID", "UPTIME", "RESTARTS", "WHY"]]
    for unit in units.values():
        since = spell_duration(float(unit["uptime"])) if unit["uptime"] else ""
        kind = "main" if unit["name"] == MAIN else unit["kind"]
        rows.append([unit["name"], kind, unit["state"], unit["pid"], since, unit["restarts"], unit["why"]])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    wide, out = columns(), []
    for number, row in enumerate(rows):
        cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths)]
        why = cut(row[-1], wide - len("  ".join(cells)) - 2) if wide else row[-1]
        cells[2] = paint(cells[2], STATE_COLOURS.get(row[2])) if number else cells[2]
        out.append("  ".join([*cells, why]).rstrip())
    return "\n".join(out) + "\n"


def draw_tree(units: Mapping[str, dict[str, str]]) -> str:
    """Return each unit that nobody depends on, and below it what it depends on."""
    needed = {dep.partition(":")[0] for unit in units.values() for dep in unit["deps"].split()}
    out: list[str] = []
    shown: set[str] = set()
    todo = [(name, name, "", "") for name in reversed(list(units)) if name not in needed]
    while todo:
        name, label, first, rest = todo.pop()
        unit = units[name]
        again = name in shown and unit["deps"]
        state = paint(unit["state"], STATE_COLOURS.get(unit["state"]))
        out.append(f"{first}{label}  {state}" + (" (its dependencies are above)" if again else ""))
        deps = [] if again else unit["deps"].split()
        shown.add(name)
        for number, dep in enumerate(reversed(deps)):
            arms = ("\u2514\u2500 ", "   ") if not number else ("\u251c\u2500 ", "\u2502  ")
            todo.append((dep.partition(":")[0], dep, rest + arms[0], rest + arms[1]))
    return "".join(f"{line}\n" for line in out)


def draw_dot(units: Mapping[str, dict[str, str]]) -> str:
    names = {OK: "palegreen", FAILED: "salmon", RUNNING: "lightblue", IDLE: "white", STOPPED: "lightgrey", DONE: "lightgrey"}
    out = ["digraph overlord {", "  rankdir=LR; node [shape=box, style=filled];"]
    for unit in units.values():
        label = f"{unit['name']}\\n{unit['state']}"
        out.append(f'  "{unit["name"]}" [label="{label}", fillcolor={names.get(unit["state"], "khaki")}];')
        for dep in unit["deps"].split():
            name, _, state = dep.partition(":")
            out.append(f'  "{unit["name"]}" -> "{name}" [label="{state}"];')
    return "\n".join([*out, "}"]) + "\n"


def explain_chain(path: str | None, units: Mapping[str, dict[str, str]], name: str) -> str:
    """Return why a unit is in its state, then why what it waits for is in its, and the last words of the last of them."""
    margin, left, out = "", dict(units), []
    while True:
        unit = left.pop(name)
        since, failures = spell_duration(float(unit["for"])), int(unit["failures"])
        after = f" after {failures} failure{'' if failures == 1 else 's'}" if failures and unit["state"] == BACKOFF else ""
        colon = "" if unit["state"] == WAITING or not unit["why"] else ":"
        why = f"{colon} {unit['why']}".rstrip()
        out.append(f"{margin}{name} is {spell_state(unit['state'])}{after}{why} (for {since})")
        margin += "  "
        if unit["blocked"] not in left:
            break
        name = unit["blocked"]
    words = [decode(line) for line in Answer(path, ["logs", "-n", "5", name]).lines(quiet=True)]
    if words:
        out += [f"{margin}its last words:", *(f"{margin}| {line}" for line in words)]
    return "".join(f"{line}\n" for line in out)


def show_timeline(path: str | None, verb: str, options: dict[str, Any], names: list[str]) -> int:
    """Show how the start went: a bar for each unit, and what it waited for."""
    lines, code = fetch(path, ["timeline", *names])
    if code:
        return code
    stories = {}
    for line in lines:
        name, now, *pairs = line.split("\t")
        stories[name] = [(float(pair.split(" ", 1)[0]), pair.split(" ", 1)[1]) for pair in pairs]
    if "json" in options:
        parts = {name: [{"at": instant, "what": what} for instant, what in story] for name, story in stories.items()}
        write_out(1, spell_array({"name": name, "events": events} for name, events in parts.items()))
        return 0
    total = max((story[-1][0] for story in stories.values() if story), default=0.0) or 1e-9
    pending = any(story and story[-1][1] not in (OK, DONE, FAILED) for story in stories.values())
    total = max(total, float(lines[0].split("\t")[1])) if pending and lines else total
    margin, wide = max((len(name) for name in stories), default=0), columns()
    texts = {name: spell_story(story) for name, story in stories.items()}
    width = max(20, min((wide or 80) - margin - 4 - max(map(len, texts.values()), default=0), 60))
    for name, story in stories.items():
        text = cut(texts[name], wide - margin - 4 - width) if wide else texts[name]
        write_out(1, f"{name.ljust(margin)}  {draw_bar(story, total, width)}  {text}".rstrip() + "\n")
    write_out(1, f"{' ' * margin}  0{spell_duration(total).rjust(width - 1)}\n")
    return code


SHADES = {WAITING: "\u00b7", STARTING: "\u2592", RUNNING: "\u2592", OK: "\u2588", FAILED: "x", BACKOFF: "~", DONE: "\u2588"}


def draw_bar(story: list[tuple[float, str]], total: float, width: int) -> str:
    """Return a bar of so many characters from the start to the end of the whole story."""
    bar = [" "] * width
    for (begin, what), end in zip(story, [*(instant for instant, _ in story[1:]), total]):
        first, last = int(begin / total * (width - 1)), int(end / total * (width - 1))
        bar[first : last + 1] = SHADES.get(what.split()[0], " ") * (last + 1 - first)
    return "".join(bar)


def spell_story(story: list[tuple[float, str]]) -> str:
    """Return in words when a unit was up, and whom it waited for longest."""
    if not story:
        return "not asked for"
    steps = [(end - begin, what) for (begin, what), (end, _) in zip(story, story[1:])]
    waits = [(took, what.partition(" for ")[2]) for took, what in steps if what.startswith(WAITING + " for")]
    instant, state = story[-1]
    text = f"{state.partition(' ')[0]} at {spell_duration(instant)}"
    longest = max(waits, default=(0.0, ""))
    return text + (f", {spell_duration(longest[0])} for {longest[1]}" if longest[0] >= 0.001 else "")


def main(arguments: list[str]) -> int:
    path, verb, words = parse_arguments(arguments)
    if verb == "run":
        return run(path, words)
    gc.enable()
    for fd in (0, 1, 2):
        if not is_open(fd):  # lest the connection becomes somebody's standard output; writing to it fails as before
            os.open(os.devnull, os.O_RDONLY)
    for number in ("INT", "PIPE"):
        signal.signal(SIGNALS[number], signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, FOUND_MASK)
    try:
        if verb == "mistake":
            raise Mistake(words[0])
        asked, options, rest = parse_request([verb, *words], VERBS)
        if verb == "signal":
            parse_signal(rest[0])
        return client(path, asked, options, rest, words) if asked.asks else int(asked.show(path, verb, options, rest))
    except Mistake as mistake:
        return usage_error(str(mistake))
    except Unwritten as error:
        write_out(2, f"overlord: the answer could not be written: {error}: exiting with code {EX_IOERR}\n")
        return EX_IOERR


def show_version(path: str | None, verb: str, options: dict[str, Any], words: list[str]) -> int:
    """Show which overlord this is."""
    write_out(1, f"overlord {VERSION}\n")
    return 0


for name, show in {
    "check": check, "compile": compile_into, "version": show_version, "help": explain_option, "status": show_units,
    "graph": show_units, "why": show_units, "timeline": show_timeline,
}.items():  # fmt: skip
    VERBS[name].show = show


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))
