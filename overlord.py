#!/usr/bin/env python3
"""overlord: init (PID 1) and process supervisor for Docker images, in one file, with the standard library alone.

    COPY overlord.py /sbin/
    COPY overlord.conf /etc/overlord.conf
    ENTRYPOINT ["/sbin/overlord.py"]

The rooms of this file, each using only names that stand above it:

    INI text -> Config -> Graph -> Machine -> Fleet -> [actions] -> Kernel -> system calls
                (pure)    (pure)   (pure)     (pure)                  |
                                      ^                               |
                                      +----------- events <-----------+     the Loop turns the crank

    Title    this page: isolation from the application's Python settings, imports, constants
    Words    the vocabulary: states, events, actions, durations, signal names
    Config   INI text to validated specs, or all the mistakes with file and line
    Graph    who waits for whom: order and cycles
    Machine  one unit: (spec, status, event, now, chance) -> (status, actions), from a keyed table
    Fleet    all units: dependencies, bounce waves, ordered shutdown, exit code
    Output   overlord's own messages, never blocking
    Kernel   the system calls that touch processes: spawn, signal, reap, look into /proc
    Init     what only an init does: standard descriptors, subreaper, sweep, the terminal
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

import os
import sys

VERSION = "0.1.0"
VERBS = ("run", "check", "version", "help")


def found_environment() -> dict[bytes, bytes]:
    """Return the environment as the container gave it, byte for byte.

    PYTHON: locale coercion (PEP 538) adds LC_CTYPE to os.environ; /proc/self/environ still has the original.
    """
    try:
        with open("/proc/self/environ", "rb") as file:
            pairs = (entry.partition(b"=") for entry in file.read().split(b"\0") if entry)
            return {key: value for key, equals, value in pairs if key and equals}
    except OSError:
        return dict(os.environb)


def parse_arguments(arguments: list[str]) -> tuple[str | None, str, list[str]]:
    """Return the configuration file if one is named, the verb, and the words after it (for `run`, the main command).

    What is wrong with the arguments comes as the verb `mistake` and the text.
    """
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
            return path, "mistake", ["-c needs a FILE" if word == "-c" else f"unknown option {word}"]
    if not words or words == ["run"]:
        return path, "run", []
    if words[0] not in VERBS:
        return path, "run", words
    if words[1:] and words[0] != "help":
        hint = ": for a main command leave it out" if words[0] == "run" else ""
        return path, "mistake", [f"{words[0]} takes no arguments{hint}"]
    return path, words[0], words[1:]


def settle_in() -> None:
    """Execute overlord again from its compiled code, in an interpreter that knows nothing of the application's settings.

    `-I -S` keeps out PYTHON* variables, site hooks and the folder of this file. Having the code already, the new process
    has not the 9 MB of garbage that compiling leaves behind, which costs it 10 ms once. The code travels in a memfd, as a
    .pyc; what cannot travel in the environment or the arguments, since neither may change, does as a -X option: the number
    of that descriptor, and the signal mask that overlord was started with.
    """
    import marshal
    from _frozen_importlib_external import MAGIC_NUMBER

    mask = ",".join(str(int(number)) for number in FOUND_MASK)
    try:
        fd = os.memfd_create("overlord.py", 0)
        with open(fd, "wb", closefd=False) as file:
            file.write(MAGIC_NUMBER + bytes(12) + marshal.dumps(sys._getframe(1).f_code))
        path = f"/proc/self/fd/{fd}"
        os.stat(path)
    except (AttributeError, OSError):  # no memfd, or no /proc: compile it once more
        fd, path = -1, os.path.abspath(__file__)
    arguments = [sys.executable, "-I", "-S", "-X", f"overlord={fd}:{mask}", path, *sys.argv[1:]]
    os.execve(sys.executable, arguments, found_environment())


if __name__ == "__main__":
    if "overlord" in sys._xoptions:
        descriptor, _, numbers = str(sys._xoptions["overlord"]).partition(":")
        FOUND_MASK = {int(number) for number in numbers.split(",") if number}
        if descriptor != "-1":
            os.close(int(descriptor))
    elif sys.executable and parse_arguments(sys.argv[1:])[1] == "run":
        settle_in()
    else:  # a verb that is soon over: only keep modules of others from being taken for the library's
        LIBRARY = os.path.dirname(os.__file__)
        sys.path[:] = [path for path in sys.path if path.startswith(LIBRARY) and "-packages" not in path]

import errno
import fcntl
import re
import select
import time
from collections import deque, namedtuple
from configparser import RawConfigParser
from heapq import heapify, heappop, heappush

TYPE_CHECKING = False  # typing costs 1.9 MB; only the type checker needs it
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Any
else:
    import _signal as signal  # COST: the friendly `signal` makes an enum of every constant

DEFAULT_CONFIG = "/etc/overlord.conf"
EX_USAGE = 64  # sysexits(3)
EX_CONFIG = 78
NOT_EXECUTABLE = 126  # the shell's codes, POSIX 2.8.2
NOT_FOUND = 127
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

SWEEP_TIMEOUT = 1.0  # s, what is left over gets this long between SIGTERM and SIGKILL
STEADY = 10.0  # s, a unit that stayed up this long starts its back-off from the beginning
FORK_DELAY = 0.1  # s, the least delay after a failed fork, so that `backoff = 0` does not spin
REMINDER = 10.0  # s, between two lines about what the main command waits for
LINGER_LOOK = 0.1  # s, between two looks at a group whose members have another parent than overlord
PAUSED = 1.0  # s past a timer from which on overlord was not slow but stopped (docker pause)
REAP_BATCH = 500  # dead processes reaped before other events have their turn
LOG_KEPT = 65536  # bytes of overlord's own messages kept while nobody reads them


# ============================================================================================================ Words
# The vocabulary: what the log, the status, the README and the tests call things.

IDLE, WAITING, STARTING, OK, RUNNING = "idle", "waiting", "starting", "ok", "running"
STOPPING, BACKOFF, STOPPED, DONE, FAILED = "stopping", "backoff", "stopped", "done", "failed"
STATES = (IDLE, WAITING, STARTING, OK, RUNNING, STOPPING, BACKOFF, STOPPED, DONE, FAILED)
MAIN = "main command"  # its name as a unit; the blank keeps it apart from every configured one

# Events of a unit. `value` is a pid (spawned), an exit code or minus a signal (exited), or true for a passing fault
# (unspawned); `left`: the leader is gone, others of its group are not; `then`: what follows a stop ("stop", "restart"
# or "fail"); `limit`: seconds that shutdown leaves it; `signum`: in place of stop_signal.
EVENTS = ("want", "start", "spawned", "unspawned", "exited", "emptied", "deadline", "stop")
Event = namedtuple("Event", "kind value why left then limit signum", defaults=(0, "", False, "", None, None))

# Actions: what the pure rooms want done, performed by the Loop in order.
Spawn = namedtuple("Spawn", "unit")
Kill = namedtuple("Kill", "unit pid signum group")
Say = namedtuple("Say", "level unit text")
Sweep = namedtuple("Sweep", "signum")
Exit = namedtuple("Exit", "code why quiet")

SIGNALS = {name[3:]: int(getattr(signal, name)) for name in dir(signal) if re.match("SIG[A-Z]", name)}
SIGNAL_NAMES = {number: "SIG" + name for name, number in sorted(SIGNALS.items(), reverse=True)}
UNITS_OF_TIME = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Mistake(ValueError):
    """A value that cannot be used; the text says what is wrong with it and what would be right."""


def parse_duration(text: str) -> float:
    """Return seconds, from a number of seconds or a number with one of ms s m h d."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)\s*(ms|s|m|h|d|)", text, re.ASCII)
    if not match:
        raise Mistake(f"{text!r} is no duration, write seconds or one of 500ms 2s 5m 1h 7d")
    return float(match[1]) * UNITS_OF_TIME[match[2]]


def spell_duration(seconds: float) -> str:
    """Return a duration for people, to about three digits: 0.25 s, 3.2 s, 5 min 10 s, 3 d 2 h."""
    if seconds < 59.95:
        digits = 3 if seconds < 0.1 else 2 if seconds < 1 else 1
        return f"{seconds:.{digits}f}".rstrip("0").rstrip(".") + " s" if seconds >= 0.0005 else "0 s"
    for unit, size, lesser, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        whole, rest = divmod(round(seconds), size)
        if whole:
            return f"{whole} {unit}" + (f" {rest // part} {lesser}" if rest // part else "")
    return "1 min"


def parse_signal(text: str) -> int:
    """Return the number of a signal given as TERM, SIGTERM, RTMIN+3, RTMAX-1 or 15."""
    name = text.upper()[3 if text[:3].upper() == "SIG" else 0 :]
    match = re.fullmatch(r"(RTMIN\+|RTMAX-)(\d{1,2})", name, re.ASCII)
    if match:
        number = SIGNALS["RTMIN"] + int(match[2]) if match[1] == "RTMIN+" else SIGNALS["RTMAX"] - int(match[2])
    else:
        number = int(text) if re.fullmatch(r"\d{1,3}", text, re.ASCII) else SIGNALS.get(name, 0)
    if number not in signal.valid_signals():
        raise Mistake(f"{text!r} is no signal{suggest(name, SIGNALS)}")
    return number


def spell_signal(number: int) -> str:
    """Return SIGTERM, or SIGRTMIN+3 where the number has no name of its own."""
    return SIGNAL_NAMES.get(number) or f"SIGRTMIN+{number - SIGNALS['RTMIN']}"


def spell_end(code: int) -> str:
    """Return in words how a process ended: its exit code, or minus the signal that killed it."""
    return f"exited with code {code}" if code >= 0 else f"killed by {spell_signal(-code)}"


def exit_code(code: int) -> int:
    """Return the code for the container: 128+N for a death by signal N, as a shell's."""
    return code if code >= 0 else 128 - code


def distance(one: str, two: str) -> int:
    """Return how many letters have to be put in, left out or changed to make one of the other (Levenshtein)."""
    row = list(range(len(two) + 1))
    for i, a in enumerate(one, 1):
        previous, row = row, [i]
        for j, b in enumerate(two, 1):
            row.append(min(previous[j] + 1, row[-1] + 1, previous[j - 1] + (a != b)))
    return row[-1]


def suggest(word: str, known: Iterable[str]) -> str:
    """Return `, did you mean "...?"` with the nearest of the known words, or nothing where none is near."""
    near = sorted((distance(word.lower(), other.lower()), other) for other in known)
    close = near and near[0][0] <= max(1, len(word) // 3) and near[0][0] < len(word)
    return f', did you mean "{near[0][1]}"?' if close else ""


# =========================================================================================================== Config
# INI text to validated, immutable specs, or all the mistakes with file and line.


def parse_boolean(text: str) -> bool:
    """Return configparser's reading of yes/no, true/false, on/off, 1/0."""
    if text.lower() not in RawConfigParser.BOOLEAN_STATES:
        raise Mistake(f"{text!r} is no boolean, write yes or no")
    return bool(RawConfigParser.BOOLEAN_STATES[text.lower()])


def parse_positive(text: str) -> float:
    """Return a duration above zero."""
    seconds = parse_duration(text)
    if not seconds:
        raise Mistake("must be longer than 0")
    return seconds


def parse_choice(*choices: str) -> Callable[[str], str]:
    """Return a parser for one of the given words."""

    def parse(text: str) -> str:
        if text not in choices:
            raise Mistake(f"{text!r} is none of: {', '.join(choices)}{suggest(text, choices)}")
        return text

    return parse


def parse_optional(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return a parser that also takes `none`."""
    return lambda text: None if text == "none" else parse(text)


def parse_number(low: int, high: int, base: int = 10) -> Callable[[str], int]:
    """Return a parser for a whole number between two bounds."""

    def parse(text: str) -> int:
        try:
            number = int(text, base)
        except ValueError:
            number = high + 1
        if not low <= number <= high:
            bounds = f"an octal number from 000 to {high:o}" if base == 8 else f"a whole number from {low} to {high}"
            raise Mistake(f"{text!r} is not {bounds}")
        return number

    return parse


def parse_text(text: str) -> str:
    """Return the value as it is, which must not be empty."""
    if not text:
        raise Mistake("is empty")
    return text


def parse_signals(text: str) -> tuple[int, ...]:
    """Return the numbers of a list of signals; those the kernel keeps for itself cannot be caught."""
    numbers = tuple(parse_signal(word) for word in split_words(text))
    for number in numbers:
        if number in UNCATCHABLE:
            raise Mistake(f"{spell_signal(number)} cannot be caught")
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
        if word.isdigit() and int(word) > 255:
            raise Mistake(f"{word} is no exit code, they go from 0 to 255")
        ends.append(int(word) if word.isdigit() else -parse_signal(word))
    return tuple(ends)


def parse_respawns(text: str) -> tuple[int, float] | None:
    """Return how many restarts in how many seconds (0: ever); None is no limit."""
    if text == "unlimited":
        return None
    count, slash, window = (part.strip() for part in text.partition("/"))
    if not re.fullmatch(r"\d{1,9}", count, re.ASCII):
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


def parse_output(*words: str) -> Callable[[str], str]:
    """Return a parser for a sink: one of the words, or an absolute path."""

    def parse(text: str) -> str:
        if text not in words and (not text.startswith("/") or text.endswith("/")):
            raise Mistake(f"{text!r} is none of: {', '.join(words)}, /PATH of a file{suggest(text, words)}")
        return text

    return parse


def parse_deps(text: str) -> tuple[tuple[str, str], ...]:
    """Return (name, state) pairs in the order written; a bare name is `name:ok`."""
    deps: dict[str, str] = {}
    for item in text.split(","):
        name, colon, state = (part.strip() for part in item.partition(":"))
        if not re.fullmatch(NAME, name) or (colon and not state):
            raise Mistake(f"{item.strip()!r} is not of the form name:state, and commas go between")
        if name in deps:
            raise Mistake(f"{name!r} stands there twice")
        deps[name] = state or OK
    return tuple(deps.items())


def parse_env(text: str, environment: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return KEY and value for each line; quotes as in a shell word, then `${...}`, which sees the earlier lines."""
    pairs: dict[str, str] = {}
    for line in text.split("\n"):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        key, equals, word = line.strip().partition("=")
        if not equals or not re.fullmatch(r"[^\s'\"$]+", key):
            raise Mistake(f"{line.strip()!r} is not of the form KEY=value")
        pieces = list(SHELL_PIECE.finditer(word))
        if "".join(piece[0] for piece in pieces) != word:
            raise Mistake(f"the value of {key} has a blank or a lone quote, write {key}='...'")
        known = {**environment, **pairs}
        pairs[key] = "".join(unquote(piece, known) for piece in pieces)
    return tuple(pairs.items())


def unquote(piece: re.Match[str], environment: Mapping[str, str]) -> str:
    """Return what one piece of a shell word stands for."""
    single, double, escaped, bare = piece.groups()
    if double is not None:
        return expand(double, environment, quoted=True)
    return expand(bare, environment) if bare else escaped[1] if escaped else single


def expand(text: str, environment: Mapping[str, str], quoted: bool = False) -> str:
    """Replace `${VAR}`, `${VAR:-default}`, `${VAR:?message}` and `$$`; any other `$` is itself.

    In double quotes a backslash keeps `$`, `"` and itself from their meaning, as in the shell.
    """

    def replace(match: re.Match[str]) -> str:
        name, operator, word = match[1], match[2], match[3] or ""
        if match[0][0] == "\\":
            return match[0][1]
        if not name:
            return "$"
        value = environment.get(name)
        if value or (value is not None and not operator):
            return value
        if operator == ":-":
            return expand(word, environment)
        detail = word if operator == ":?" and word else "is not set; set it, or give a default as ${" + name + ":-...}"
        raise Mistake(f"${{{name}}}: {detail}")

    escapes = r'\\[$"\\]|' if quoted else ""
    pattern = escapes + r"\$\$|\$\{([A-Za-z_][A-Za-z0-9_.]*)(?:(:[-?])((?:\$\{[^}]*\}|[^}])*))?\}"
    return re.sub(pattern, replace, text)


def split_words(text: str) -> list[str]:
    """Return the words between blanks and commas; there must be one."""
    words = text.replace(",", " ").split()
    if not words:
        raise Mistake("is empty")
    return words


NAME = r"[A-Za-z0-9_.-]+"
# single-quoted, double-quoted, escaped, bare; COST: no two ways to match one text, so nothing to backtrack into
SHELL_PIECE = re.compile(r"'([^']*)'|\"((?:\\.|[^\"\\])*)\"|(\\.)|((?:\$\{[^}]*\}|(?!\$\{)[^\s'\"\\])+)", re.DOTALL)
UNCATCHABLE = (SIGNALS["KILL"], SIGNALS["STOP"], SIGNALS["CHLD"])

# Each option once: name, the kinds of section that have it (o overlord, s script, d daemon), parser, default as one
# would write it ("" is none), what the manual shows in place of that default, what it means. The README is made from it.
Option = namedtuple("Option", "name kinds parse default shown help")
SINKS = ("inherit", "null")
OPTIONS = (
    Option("forever", "o", parse_boolean, "true", "",
           "daemons that set neither `respawns` nor `restart` are restarted for ever; `false`: they are not restarted"),
    Option("configdir", "o", parse_text, "/etc/overlord/", "",
           "folder of further config files, read alphabetically as if part of the main one; absent is fine"),
    Option("shutdown_timeout", "o", parse_positive, "9s", "",
           "from the stop request to the last SIGKILL, whatever else is configured (docker kills at 10 s)"),
    Option("shutdown_signals", "o", parse_signals, "TERM INT QUIT RTMIN+3", "",
           "what asks for shutdown (images set STOPSIGNAL: httpd `WINCH`, haproxy `USR1`)"),
    Option("socket", "o", parse_optional(parse_text), "/run/overlord.sock", "",
           "control socket; `none` for none (accepted; nothing listens on it yet)"),
    Option("log_level", "o", parse_choice("debug", "info", "warning", "error"), "info", "",
           "overlord's own messages, on stderr: `debug`, `info`, `warning`, `error`"),
    Option("log_format", "o", parse_choice("text", "json"), "text", "", "`text` or `json`, for overlord's own messages"),
    Option("output", "o", parse_output(*SINKS), "inherit", "", "default of the units' `stdout` and `stderr`"),
    Option("cmd", "sd", parse_text, "", "required",
           "run by `/bin/sh -c`; a lone simple command leaves no shell behind, and with plain words none is run at all"),
    Option("dir", "sd", parse_text, "", "inherited", "working directory"),
    Option("uid", "sd", parse_text, "", "inherited",
           "user name (or number) to run as; its groups, `HOME`, `USER`, `LOGNAME`, `SHELL` follow, and the primary group "
           "unless `gid` says otherwise"),
    Option("gid", "sd", parse_text, "", "of `uid`", "group name (or number)"),
    Option("deps", "sd", parse_optional(parse_deps), "", "none",
           "ordered, comma-separated `name:state`; `name` alone is `name:ok`"),
    Option("env", "sd", parse_env, "", "none",
           "`KEY=value` pairs, one a line, quoted as a shell word; then `${...}` (not inside single quotes), which sees the "
           "earlier lines too"),
    Option("umask", "sd", parse_number(0, 0o777, 8), "", "inherited", "octal, as `022`"),
    Option("nice", "sd", parse_number(-20, 19), "", "inherited", "-20 (first served) to 19"),
    Option("stdout", "sd", parse_output(*SINKS), "", "`output`",
           "`inherit` the container's own, `null`, or `/PATH` of a file to append to"),
    Option("stderr", "sd", parse_output("stdout", *SINKS), "", "`output`", "the same, or `stdout`: where that goes"),
    Option("stop_signal", "sd", parse_signal, "TERM", "",
           "name or number, with or without `SIG`; sent to the process that overlord started, and once that is gone to "
           "what it leaves behind"),
    Option("stop_timeout", "sd", parse_duration, "8s", "", "from the stop signal to SIGKILL of the whole group"),
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
    Option("warmup", "d", parse_duration, "1s", "", "how long the process must live to be OK"),
    Option("max_age", "d", parse_optional(parse_max_age), "", "none",
           "process lifetime; then it is stopped and started again whatever `restart` says, not counted in `respawns`; "
           "`1h~10m`: a random time up to 10 m sooner"),
    Option("timeout", "s", parse_optional(parse_positive), "", "none", "a script still running then is stopped and has failed"),
    Option("forward", "d", parse_forward, "HUP", "",
           "signals passed on to it; `HUP>USR2` sends another, `none` for none; never one that would kill it"),
    Option("autostart", "d", parse_boolean, "true", "", "`false`: started only as a dependency"),
)
KINDS = {"overlord": "o", "script": "s", "daemon": "d"}
BY_KIND = {kind: {option.name: option for option in OPTIONS if letter in option.kinds} for kind, letter in KINDS.items()}
if TYPE_CHECKING:

    class Spec(tuple[Any, ...]):  # its fields come from the table
        _fields: tuple[str, ...]

        def __new__(cls, **values: Any) -> Spec: ...
        def __getattr__(self, name: str) -> Any: ...

    Settings = Spec
else:
    Spec = namedtuple("Spec", ["name", "kind", *[o.name for o in OPTIONS if o.kinds != "o"]])
    Settings = namedtuple("Settings", [o.name for o in OPTIONS if o.kinds == "o"])
Config = namedtuple("Config", "settings units order")  # units: name -> Spec; order: dependencies first


def default_of(option: Option) -> Any:
    """Return an option's default, parsed as if it had been written."""
    return option.parse(option.default) if option.default else None


def main_spec(argv: Iterable[str], daemons: Iterable[str]) -> Spec:
    """Return the main command (Docker's CMD) as a unit: a script that needs every wanted daemon and ends it all."""
    values = {name: default_of(option) for name, option in BY_KIND["script"].items()}
    values.update(warmup=0.0, restart="never", max_age=None, forward=(), autostart=True, env=(), stdout="inherit")
    values.update(cmd=tuple(argv), deps=tuple((name, "up") for name in daemons), respawns=(0, 0.0), stderr="inherit")
    values.update(name=MAIN, kind="main", on_failure="shutdown", on_success="shutdown")
    return Spec(**values)


class Mistakes(Exception):
    """All that is wrong with a configuration: lines of `FILE:LINE: [section] option: what`, in the order of the files."""


class Draft:
    """The configuration while it is read: what each file says and where, and every mistake so far."""

    GUARD = "\1"  # stands before an indented line of a value, whose indentation, `;` and `#` configparser would eat

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment
        self.files: list[str] = []
        self.headers: dict[str, tuple[str, int]] = {}  # section -> where it stands first
        self.places: dict[tuple[str, str], tuple[str, int]] = {}  # (section, option) -> where its value stands
        self.mistakes: list[tuple[int, int, str]] = []
        self.parser = RawConfigParser(
            strict=False, interpolation=None, allow_no_value=True, comment_prefixes=(), default_section="\0"
        )

    def read(self, path: str, content: bytes) -> None:
        """Take in one more file; what it says goes over what earlier files said."""
        self.files.append(path)
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            self.mistake((path, line), "", f"byte 0x{content[error.start]:02x} is not UTF-8")
            return
        if "\0" in text:
            self.mistake((path, text.count("\n", 0, text.index("\0")) + 1), "", "a NUL byte")
            return
        self.parser.read_file(self.locate(path, text), path)

    def locate(self, path: str, text: str) -> Iterator[str]:
        """Yield the lines for configparser, noting where things stand.

        PYTHON: configparser keeps no line numbers, stops at the first duplicate, and inside a value drops lines that
        begin with `;` or `#` and all indentation.
        """
        section = ""
        seen: set[str | tuple[str, str]] = set()
        inside = taken = False  # inside a value; one that counts
        for number, line in enumerate(text.split("\n"), 1):
            place, line = (path, number), line.rstrip()
            if line[:1] in ("#", ";"):
                continue
            if not line:
                yield ""
                continue
            if line[0] in " \t" and inside:
                if taken:
                    yield " " + self.GUARD + line
                continue
            line, inside, taken = line.strip(), False, False
            header = re.fullmatch(r"\[([^\]]+)\]\s*(?:[#;].*)?", line)
            option = re.match(r"[^=:\s][^=:]*?(?=\s*[=:])", line)
            if header:
                section = ":".join(part.strip() for part in header[1].split(":", 1))
                if section in seen:
                    self.mistake(place, f"[{section}]", "stands there twice in this file")
                seen.add(section)
                self.headers.setdefault(section, place)
                yield f"[{section}]"
            elif line[0] in "#;":
                continue
            elif line[0] == "[":
                self.mistake(place, "", f"{line!r} is no section, write [daemon:NAME], [script:NAME] or [overlord]")
            elif not section:
                self.mistake(place, "", f"{line!r} stands before the first [section]")
            elif not option:
                inside = True
                self.mistake(place, f"[{section}]", f"{line!r} is not of the form option = value; indent it to go on a value")
            else:
                name, inside = option[0].lower(), True
                taken = (section, name) not in seen
                if taken:
                    self.places[section, name] = place
                    yield line
                else:
                    self.mistake(place, f"[{section}] {name}", "stands there twice in this file")
                seen.add((section, name))

    def mistake(self, place: tuple[str, int], subject: str, text: str) -> None:
        """Note what is wrong, and where."""
        path, line = place
        self.mistakes.append((self.files.index(path), line, f"{path}:{line}: {subject}{': ' if subject else ''}{text}"))

    def text_of(self, section: str, name: str) -> str:
        """Return a value as it was written, less what indentation its further lines share."""
        first, *rest = (self.parser.get(section, name) or "").split("\n")
        rest = [line.lstrip(" ")[1:] if line.lstrip(" ")[:1] == self.GUARD else line.lstrip(self.GUARD) for line in rest]
        margin = min((len(line) - len(line.lstrip()) for line in rest if line.strip()), default=0)
        return "\n".join([first, *(line[margin:] for line in rest)]).strip()

    def value(self, section: str, option: Option) -> Any:
        """Return the parsed value of an option that is there, or its default after noting the mistake."""
        text = self.text_of(section, option.name)
        try:
            if option.parse is parse_env:
                return parse_env(text, self.environment)
            return option.parse(text if option.name == "cmd" else expand(text, self.environment))
        except Mistake as mistake:
            self.mistake(self.places[section, option.name], f"[{section}] {option.name}", str(mistake))
            return default_of(option)

    def values(self, section: str, kind: str) -> dict[str, Any]:
        """Return the options that a section gives, parsed; note those that its kind does not have."""
        found = {}
        for name in self.parser.options(section) if self.parser.has_section(section) else ():
            if name in BY_KIND[kind]:
                found[name] = self.value(section, BY_KIND[kind][name])
                continue
            owners = [other for other in KINDS if name in BY_KIND[other]]
            detail = f"is an option of [{owners[0]}] alone" if owners else f"unknown option{suggest(name, BY_KIND[kind])}"
            self.mistake(self.places[section, name], f"[{section}] {name}", detail)
        return found

    def finish(self) -> Config:
        """Return the validated configuration. Raises Mistakes with all that was found."""
        values = {name: default_of(option) for name, option in BY_KIND["overlord"].items()}
        settings = Settings(**{**values, **self.values("overlord", "overlord")})
        if ("overlord", "configdir") in self.places and self.places["overlord", "configdir"][0] != self.files[0]:
            self.mistake(self.places["overlord", "configdir"], "[overlord] configdir", "belongs into the main file alone")
        defaults = {kind: self.values(kind, kind) for kind in ("script", "daemon")}
        units: dict[str, Spec] = {}
        for section, place in self.headers.items():
            kind, colon, name = section.partition(":")
            if section == "DEFAULT":
                self.mistake(place, "[DEFAULT]", "write [daemon] or [script] for the defaults of all units of that kind")
            elif kind not in defaults or not re.fullmatch(NAME, name or "-"):
                self.unknown_section(place, section)
            elif not colon:
                continue
            elif name in units:
                self.mistake(place, f"[{section}]", f"the name is taken by [{units[name].kind}:{name}]")
            else:
                units[name] = self.unit(section, kind, name, place, settings, defaults[kind])
        self.check_deps(units)
        self.check_forward(units, settings)
        order, cycles = sort_units(units)
        for cycle in cycles:
            at = self.places_of(cycle[0], units, "deps")
            self.mistake(at[0], at[1], f"a cycle: {' -> '.join(cycle)}; one of these has to start first")
        if self.mistakes:
            raise Mistakes([text for _, _, text in sorted(self.mistakes)])
        return Config(settings, units, order)

    def unit(self, section: str, kind: str, name: str, place: tuple[str, int], settings: Settings, base: dict[str, Any]) -> Spec:
        """Return the spec of one unit: its own options over those of its kind over the defaults."""
        given = {**base, **self.values(section, kind)}
        if "cmd" not in given:
            self.mistake(place, f"[{section}] cmd", "is missing: say what to run")
        values = {option: default_of(BY_KIND["daemon"].get(option) or BY_KIND["script"][option]) for option in Spec._fields[2:]}
        values.update(deps=(), env=(), stdout=settings.output, stderr=settings.output)
        values.update(restart="always" if kind == "daemon" else "on-failure")
        if kind == "script" or not (settings.forever or "restart" in given):
            values.update(respawns=(0, 0.0))
        values.update({option: value for option, value in given.items() if value is not None or option == "respawns"})
        return Spec(name=name, kind=kind, **values)

    def unknown_section(self, place: tuple[str, int], section: str) -> None:
        """Note a section that is none, with the nearest that would be."""
        kind, _, name = section.partition(":")
        if kind in ("daemon", "script"):
            text = f"{name!r} is no name: letters, digits, _ . - make one"
        elif section != "overlord":
            near = suggest(kind, KINDS) if name else ""
            near = near.replace('"?', f':{name}"?') if name and "overlord" not in near else near or suggest(section, KINDS)
            text = f"unknown section{near or ', write [daemon:NAME], [script:NAME] or [overlord]'}"
        else:
            return
        self.mistake(place, f"[{section}]", text)

    def places_of(self, name: str, units: dict[str, Spec], option: str) -> tuple[tuple[str, int], str]:
        """Return where a unit's option stands (its kind's section may give it) and how to name it."""
        section = f"{units[name].kind}:{name}"
        section = section if (section, option) in self.places else units[name].kind
        return self.places.get((section, option), self.headers[f"{units[name].kind}:{name}"]), f"[{section}] {option}"

    def check_deps(self, units: dict[str, Spec]) -> None:
        """Note each dependency that does not exist, or is stated in a state that its kind does not have."""
        for unit in units.values():
            for name, state in unit.deps:
                place, subject = self.places_of(unit.name, units, "deps")
                states = (OK, "always") if name in units and units[name].kind == "script" else (OK, "bounce")
                if name not in units:
                    self.mistake(place, subject, f"there is no unit {name!r}{suggest(name, units)}")
                elif state not in states:
                    known = f"{name} is a {units[name].kind}, which has the states {' and '.join(states)}"
                    self.mistake(place, subject, f"{name}:{state}: {known}{suggest(state, states)}")
                elif state == "bounce" and unit.kind == "script":
                    self.mistake(place, subject, f"{name}:bounce: a script is not restarted with a daemon, write {name}:ok")

    def check_forward(self, units: dict[str, Spec], settings: Settings) -> None:
        """Note each signal to be forwarded that asks for shutdown instead."""
        for unit in units.values():
            for source, _ in unit.forward:
                if source in settings.shutdown_signals:
                    place, subject = self.places_of(unit.name, units, "forward")
                    self.mistake(place, subject, f"{spell_signal(source)} asks for shutdown and is never forwarded")


# ============================================================================================================ Graph
# Who waits for whom: the order to start in, and cycles.


def sort_units(units: Mapping[str, Spec]) -> tuple[list[str], list[list[str]]]:
    """Return the names with dependencies first, else in the order given, and each cycle as a path a, b, a.

    COST: each unit and each dependency once; no recursion, so a chain may be as long as one likes.
    """
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


# ========================================================================================================== Machine
# One unit: (spec, status, event, now, chance) -> (status, actions). A cell of TABLE is a function, or None where the
# event means nothing in that state, or `impossible`.

# `since`: when the state was entered; `deadline`: what it means is the state's affair; `pid`: the process that overlord
# started, and after its death the id of its group while that lives; `left`: it is only the group that lives; `oks`: how
# often it got OK; `up`: this process got OK; `expires`: when max_age is reached; `then`, `code`: what the end leads to;
# `delay`: the last back-off; `respawned`, `recent`: restarts after it ended by itself, ever and their instants where
# `respawns` has a window; `starts`: processes so far; `why`: the reason of the state, in words.
Status = namedtuple(
    "Status",
    "state since deadline pid left oks up started expires then code delay respawned recent starts why",
    defaults=(IDLE, 0.0, None, 0, False, 0, False, 0.0, None, "", 0, None, 0, (), 0, ""),
)


class Impossible(Exception):
    """An event that cannot come in that state: an error in overlord itself."""


def step(spec: Spec, status: Status, event: Event, now: float, chance: float) -> tuple[Status, list[Any]]:
    """Return the next status of a unit and what has to be done. `chance` is from 0 to 1. Raises Impossible."""
    cell = TABLE[status.state][EVENTS.index(event.kind)]
    return cell(spec, status, event, now, chance) if cell else (status, [])


def impossible(spec: Spec, status: Status, event: Event, now: float, chance: float) -> tuple[Status, list[Any]]:
    """Refuse an event that cannot come."""
    raise Impossible(f"{spec.name}: {event.kind} in state {status.state}")


def enter(status: Status, state: str, now: float, **changes: Any) -> Status:
    """Return the status in a new state, without a deadline unless one is given."""
    return status._replace(**{"state": state, "since": now, "deadline": None, **changes})


def enlist(spec: Spec, status: Status, event: Event, now: float, chance: float) -> tuple[Status, list[Any]]:
    """Start the way up: wait until the Fleet says that what it depends on is there."""
    if status.state == OK and spec.kind == "daemon":
        return status, []
    reminder = now + REMINDER if spec.kind == "main" else None
    return enter(status, WAITING, now, deadline=reminder, then="", why=event.why), []


def launch(spec: Spec, status: Status, event: Event, now: float, chance: float) -> tuple[Status, list[Any]]:
    """Ask for the process; `spawned` or `unspawned` answers before anything else happens to the unit."""
    state = STARTING if spec.kind == "daemon" else RUNNING
    return enter(status, state, now, up=False, left=False, starts=status.starts + 1, why=""), [Spawn(spec.name)]


def adopt(spec: Spec, status: Status, event: Event, now: float, chance: float) -> tuple[Status, list[Any]]:
    """Note the pid of the new process and set the clocks that run from its start."""
    said = [Say("info", spec.name, f"started (pid {event.value})")]
    expires = now + spec.max_age[0] - spec.max_age[1] * chance if spec.max_age else None
    if spec.kind != "daemon":
        return status._replace(pid=event.value, started=now, deadline=now + spec.timeout if spec.timeout else None), said
    status = status._replace(pid=event.value, started=now, expires=expires, deadline=now + spec.warmup)
    if spec.warmup:
        return status, said
    status, actions = prove(spec, status, event, now, chance)
    return status, said + actions


def prove(spec: Spec, status: Status, event: Event, now: float, chance: float) -> tuple[Status, list[Any]]:
    """A daemon has lived through its warm-up: it is OK."""
    text = f"ok (up for {spell_duration(now - status.started)})" if spec.warmup else "ok"
    return enter(status, OK, now, deadline=status.expires, oks=status.oks + 1, up=True), [Say("info", spec.name, text)]


def expire(spec: Spec, status: Status, event: Event, now: float, chance: float) -> tuple[Status, list[Any]]:
    """A script has used up its `timeout`: stop it; it has failed."""
    return halt(spec, status, Event("stop", why=f"timeout {spell_duration(spec.timeout)} reached", then="fail"), now, chance)


def retire(spec: Spec, status: Status, event: Event, now: float, chance: float) -> tuple[Status, list[Any]]:
    """A daemon has reached its `max_age`: stop it, then start it again."""
    why = f"max_age reached after {spell_duration(now - status.started)}"
    return halt(spec, status, Event("stop", why=why, then="restart"), now, chance)


def remind(spec: Spec, status: Status, event: Event, now: float, chance: float) -> tuple[Status, list[Any]]:
    """Say again what is waited for."""
    return status._replace(deadline=now + REMINDER), [Say("info", spec.name, f"still waiting for {status.why}")]


def halt(spec: Spec, status: Status, event: Event, now: float, chance: float) -> tuple[Status, list[Any]]:
    """Send the stop signal to the process that overlord started; its group is killed at the deadline."""
    if not status.pid:  # RACE: its Spawn is still among the actions to be performed, and will find itself overtaken
        return withdraw(spec, status, event, now, chance)
    signum = event.signum or spec.stop_signal
    limit = spec.stop_timeout if event.limit is None else min(spec.stop_timeout, event.limit)
    status = enter(status, STOPPING, now, deadline=now + limit, then=event.then, why=event.why)
    said = Say("info", spec.name, f"stopping ({spell_signal(signum)}): {event.why}")
    return status, [said, Kill(spec.name, status.pid, signum, False)]


def hasten(spec: Spec, status: Status, event: Event, now: float, chance: float) -> tuple[Status, list[Any]]:
    """A stop while stopping: the later wish counts, the earlier deadline stays."""
    then = "restart" if event.then == "restart" and status.then != "stop" else "stop"
    if event.limit is not None and status.deadline is not None:
        status = status._replace(deadline=min(status.deadline, now + event.limit))
    return status._replace(then=then, why=event.why), []


def revive(spec: Spec, status: Status, event: Event, now: float, chance: float) -> tuple[Status, list[Any]]:
    """Asked for while it stops: start it again once it is gone."""
    return status._replace(then="restart"), []


def kill(spec: Spec, status: Status, event: Event, now: float, chance: float) -> tuple[Status, list[Any]]:
    """The time to stop is over: SIGKILL to the whole group. LINUX: only a process stuck in the kernel survives it."""
    text = f"not gone after {spell_duration(now - status.since)}, killing it (SIGKILL)"
    actions = [Say("warning", spec.name, text), Kill(spec.name, status.pid, SIGNALS["KILL"], True)]
    return status._replace(deadline=None), actions


def withdraw(spec: Spec, status: Status, event: Event, now: float, chance: float) -> tuple[Status, list[Any]]:
    """Stop a unit that has no process: nothing to wait for."""
    if event.then == "restart":
        return enlist(spec, status, event, now, chance)
    return enter(status, STOPPED, now, then="", why=event.why), []


def fall(spec: Spec, status: Status, event: Event, now: float, chance: float) -> tuple[Status, list[Any]]:
    """The process that overlord started has ended by itself: what it left of its group goes first."""
    status = status._replace(code=event.value, then=event.then, why=event.why)
    if not event.left:
        return conclude(spec, status, event, now, chance)
    text = f"{spell_end(event.value)} and left processes behind, stopping them ({spell_signal(spec.stop_signal)})"
    actions = [Say("warning", spec.name, text), Kill(spec.name, status.pid, spec.stop_signal, True)]
    return enter(status, STOPPING, now, left=True, deadline=now + spec.stop_timeout, why=event.why), actions


def drop(spec: Spec, status: Status, event: Event, now: float, chance: float) -> tuple[Status, list[Any]]:
    """The process has ended while being stopped: now the stop signal is for what it leaves behind."""
    status = status._replace(code=event.value, left=event.left)
    if not event.left:
        return conclude(spec, status, event, now, chance)
    signum = spec.stop_signal if status.deadline is not None else SIGNALS["KILL"]
    return status, [Kill(spec.name, status.pid, signum, True)]


def conclude(spec: Spec, status: Status, event: Event, now: float, chance: float) -> tuple[Status, list[Any]]:
    """Nothing of the unit lives any more: on request, to be started again, or by itself."""
    lived = now - status.started
    end = f"{spell_end(status.code)} after {spell_duration(lived)}"
    gone = status._replace(pid=0, left=False)
    if status.then in ("stop", "restart"):
        again = ", restarting" if status.then == "restart" else ""
        gone = enter(gone, WAITING if again else STOPPED, now, then="")
        return gone, [Say("info", spec.name, f"stopped ({end}){again}")]
    early = spec.kind == "daemon" and not status.up
    success = status.code in spec.success and not early and status.then != "fail"
    if status.then == "fail":
        end = f"{status.why}, {end}"
    elif status.why:  # it never got as far as the command
        end = f"cannot start: {status.why}"
    elif early and spec.warmup:
        end += f", before its warmup of {spell_duration(spec.warmup)} was over"
    if spec.kind == "script" and success:
        text = f"ok ({spell_end(status.code)} after {spell_duration(lived)})"
        return enter(gone, OK, now, oks=status.oks + 1, then="", why=end), [Say("info", spec.name, text)]
    if lived >= max(STEADY, status.delay or 0.0):
        gone = gone._replace(delay=None)
    gone = gone._replace(then="", code=status.code if success else status.code or 1)
    return end_run(spec, gone, end, success, now, chance)


def miss(spec: Spec, status: Status, event: Event, now: float, chance: float) -> tuple[Status, list[Any]]:
    """There is no process: overlord could not make one (`value`: for a reason that may pass), or a script failed."""
    if event.then == "stop":
        return withdraw(spec, status, event, now, chance)
    status, end = status._replace(code=1), f"cannot start: {event.why}"
    if not event.value:
        return end_run(spec, status, end, False, now, chance)
    count = status.respawned  # no fault of the unit, so it is not held against it
    status, actions = retry(spec, status, end, FORK_DELAY, now, chance)
    return status._replace(respawned=count), actions


def end_run(spec: Spec, status: Status, end: str, success: bool, now: float, chance: float) -> tuple[Status, list[Any]]:
    """Restart a unit that ended by itself, or leave it ended for good, as `restart` and `respawns` say."""
    detail = ""
    if spec.restart == "always" or (spec.restart == "on-failure" and not success):
        count, window = spec.respawns or (0, 0.0)
        recent = tuple(instant for instant in status.recent if instant > now - window)
        if spec.respawns is None or (len(recent) if window else status.respawned) < count:
            return retry(spec, status._replace(recent=(*recent, now) if window else ()), end, 0.0, now, chance)
        if count:
            detail = f" (respawns = {count}{'/' + spell_duration(window) if window else ''}, used up)"
    state, level = (DONE, "info") if success else (FAILED, "error")
    if spec.kind == "main" and not end.startswith("cannot"):
        return enter(status, state, now, why=end), [Say("info", spec.name, end)]
    return enter(status, state, now, why=end), [Say(level, spec.name, f"{state}: {end}{detail}")]


def retry(spec: Spec, status: Status, end: str, least: float, now: float, chance: float) -> tuple[Status, list[Any]]:
    """Restart after the back-off: none at first (a deadline that is due at once), then doubling, with up to 10 % on top."""
    low, high = spec.backoff
    delay = 0.0 if status.delay is None else min(high, max(low, status.delay * 2))
    wait = max(least, delay * (1 + chance / 10))
    said = [Say("warning", spec.name, f"{end}, restarting" + (f" in {spell_duration(wait)}" if wait else ""))]
    status = status._replace(delay=delay, respawned=status.respawned + 1)
    return enter(status, BACKOFF, now, deadline=now + wait, why=end), said


TABLE: dict[str, tuple[Callable[..., tuple[Status, list[Any]]] | None, ...]] = {
    # state   want    start       spawned     unspawned   exited      emptied     deadline    stop
    IDLE:     (enlist, impossible, impossible, impossible, impossible, impossible, impossible, None),
    WAITING:  (None,   launch,     impossible, miss,       impossible, impossible, remind,     withdraw),
    STARTING: (None,   impossible, adopt,      miss,       fall,       impossible, prove,      halt),
    OK:       (enlist, impossible, impossible, impossible, fall,       impossible, retire,     halt),
    RUNNING:  (None,   impossible, adopt,      miss,       fall,       impossible, expire,     halt),
    STOPPING: (revive, impossible, impossible, impossible, drop,       conclude,   kill,       hasten),
    BACKOFF:  (enlist, impossible, impossible, impossible, impossible, impossible, enlist,     withdraw),
    STOPPED:  (enlist, impossible, impossible, impossible, impossible, impossible, impossible, None),
    DONE:     (enlist, impossible, impossible, impossible, impossible, impossible, impossible, None),
    FAILED:   (enlist, impossible, impossible, impossible, impossible, impossible, impossible, None),
}  # fmt: skip


# ============================================================================================================ Fleet
# All units: settle dependencies, spread bounces, stop in order, find the exit code.

Ending = namedtuple("Ending", "why code quiet signum units_end end")  # a shutdown under way; instants, exit code or None


def lives(status: Status) -> bool:
    """Tell whether a unit has a process, or is about to get one."""
    return status.state in (STARTING, RUNNING, STOPPING) or bool(status.pid)


def busy(status: Status) -> bool:
    """Tell whether a unit is a reason for overlord to go on."""
    return lives(status) or status.state in (BACKOFF, STOPPED)


def sweep_share(total: float) -> float:
    """Return how many seconds of a shutdown are kept for what the units leave behind."""
    return min(SWEEP_TIMEOUT, total / 4)


class Fleet:
    """All units together. What happens comes in by `feed` and its kin; what to do about it leaves by `take`.

    COST: an event is paid for by the units it touches, never by the number of units.
    """

    def __init__(self, config: Config, chance: Callable[[], float]) -> None:
        self.settings, self.units, self.chance = config.settings, config.units, chance
        self.order: list[str] = config.order
        self.status = dict.fromkeys(self.order, Status())
        self.actions: list[Any] = []
        self.timers: list[tuple[float, str]] = []  # a heap; an entry counts while it is the deadline of its unit
        self.deadline: float | None = None  # of the fleet itself (its name in the heap is ""), in a shutdown
        self.todo: deque[tuple[str, Event | None]] = deque()  # events to feed; None: settle. No recursion, any chain
        self.dependents: dict[str, list[str]] = {}
        for spec in self.units.values():
            for dep, _ in spec.deps:
                self.dependents.setdefault(dep, []).append(spec.name)
        self.blocked: dict[str, int] = {}  # waiting unit -> which of its deps it waits for
        self.ran: dict[str, set[str]] = {}  # waiting unit -> `always` scripts that have run for this start
        self.requests: dict[str, deque[str]] = {}  # script -> for whom to run it; "" for all who need it `ok`
        self.serving: dict[str, str] = {}  # script at work -> for whom
        self.tried: set[str] = set()  # scripts that had their run for `ok`
        self.held: dict[str, str] = {}  # still to be restarted, or to start, in a bounce wave -> after whom
        self.review = False  # a state changed while somebody was held
        self.busy = 0
        self.first_failure: int | None = None
        self.ending: Ending | None = None
        self.sweeping = self.swept_hard = False
        self.heights: dict[str, int] = {}  # in a shutdown: levels of live units from here down, this one included
        self.unpassed: dict[str, int] = {}  # in a shutdown: unit not yet over with -> how many dependents come before it
        self.killed: list[str] = []

    # -------------------------------------------------------------------------------------------- what comes in

    def boot(self, now: float) -> None:
        """Ask for every daemon with autostart, and for the main command."""
        for name in self.order:
            if self.units[name].autostart and self.units[name].kind != "script":
                self.todo.append((name, Event("want")))
        self.work(now)

    def feed(self, name: str, event: Event, now: float) -> None:
        """Take in what happened to a unit, and all that follows from it."""
        self.todo.append((name, event))
        self.work(now)

    def expire(self, now: float) -> None:
        """Take in every deadline that has passed."""
        while self.timers and self.timers[0][0] <= now:
            instant, name = heappop(self.timers)
            if not name and self.deadline == instant:
                self.overdue(now)
            elif name and self.status[name].deadline == instant:
                self.todo.append((name, Event("deadline")))
        self.work(now)

    def ask_shutdown(self, why: str, now: float, signum: int | None = None) -> None:
        """Somebody asks for shutdown; whoever asks again wants it at once."""
        if self.ending:
            self.say("warning", "", f"{why} again: killing what is left at once")
            for name, status in self.status.items():
                if lives(status) and status.pid:
                    self.actions.append(Kill(name, status.pid, SIGNALS["KILL"], True))
            self.sweep(SIGNALS["KILL"], now)
        else:
            self.shut_down(why, None, now, signum)
        self.work(now)

    def swept(self) -> None:
        """The sweep is over: nobody is left."""
        if self.sweeping and self.deadline is not None:
            self.leave()

    def next_deadline(self) -> float | None:
        """Return when `expire` is due, None for never."""
        while self.timers:
            instant, name = self.timers[0]
            if instant == (self.status[name].deadline if name else self.deadline):
                return instant
            heappop(self.timers)
        return None

    def shift(self, gap: float) -> None:
        """Move all deadlines: for so many seconds nothing ran (docker pause)."""
        for name, status in self.status.items():
            deadline, expires = (at and at + gap for at in (status.deadline, status.expires))
            self.status[name] = status._replace(deadline=deadline, expires=expires)
        self.deadline = self.deadline and self.deadline + gap
        if self.ending:
            self.ending = self.ending._replace(units_end=self.ending.units_end + gap, end=self.ending.end + gap)
        self.rebuild_timers()

    def take(self) -> list[Any]:
        """Return the actions to be performed, in order, and forget them."""
        actions, self.actions = self.actions, []
        return actions

    # ----------------------------------------------------------------------------------------------- the engine

    def work(self, now: float) -> None:
        """Feed and settle until nothing follows any more."""
        while self.todo or self.review:
            if not self.todo:
                self.review = False
                self.settle_held()
                continue
            name, event = self.todo.popleft()
            if event is None:
                self.settle(name, now)
            else:
                self.apply(name, event, now)
        if not self.busy and not self.ending:
            self.run_dry(now)

    def apply(self, name: str, event: Event, now: float) -> None:
        """Let the Machine make the next status of a unit, and store it. The one place where a status changes state."""
        old = self.status[name]
        if self.ending and event.kind in ("exited", "emptied", "unspawned"):
            old, event = old._replace(then="stop"), event._replace(then="stop")  # no restart any more
        new, actions = step(self.units[name], old, event, now, self.chance())
        self.actions += actions
        self.killed += [name for action in actions if isinstance(action, Kill) and action.signum == SIGNALS["KILL"]]
        self.status[name] = new
        if new.deadline is not None and new.deadline != old.deadline:
            heappush(self.timers, (new.deadline, name))
            if len(self.timers) > 2 * len(self.status) + 64:
                self.rebuild_timers()
        self.busy += busy(new) - busy(old)
        if new.state != old.state:
            self.changed(name, old, new, now)

    def rebuild_timers(self) -> None:
        """Drop the entries that count no more."""
        self.timers = [(status.deadline, name) for name, status in self.status.items() if status.deadline is not None]
        self.timers += [(self.deadline, "")] if self.deadline is not None else []
        heapify(self.timers)

    def say(self, level: str, name: str, text: str) -> None:
        """Have a line written."""
        self.actions.append(Say(level, name, text))

    def changed(self, name: str, old: Status, new: Status, now: float) -> None:
        """Spread the news of a unit's new state."""
        spec = self.units[name]
        if old.state == WAITING:
            self.blocked.pop(name, None)
            self.ran.pop(name, None)
        if new.state == WAITING:
            self.todo.append((name, None))
        for dependent in self.dependents.get(name, ()):
            at = self.blocked.get(dependent)
            if at is not None and self.units[dependent].deps[at][0] == name:
                self.todo.append((dependent, None))
        if new.state == OK and spec.kind == "daemon":
            self.bounce(name, new)
        self.review = bool(self.held)
        for_whom = None
        if new.state in (OK, FAILED, STOPPED):
            for_whom = self.serving.pop(name, None)
            self.answer(name, for_whom, new, now)
        if not self.ending:
            self.judge(spec, new, for_whom, now)
        elif name in self.unpassed and not self.unpassed[name] and not lives(new):
            self.passed([name], now)

    def judge(self, spec: Spec, status: Status, for_whom: str | None, now: float) -> None:
        """Find out what the end of a unit does to the container."""
        final = status.state == FAILED or status.state == DONE or (status.state == OK and spec.kind == "script")
        if not final:
            return
        failed = status.state == FAILED
        policy = (spec.on_failure or ("ignore" if for_whom else "shutdown")) if failed else spec.on_success
        if failed and self.first_failure is None and not for_whom:
            self.first_failure = exit_code(status.code)
        if policy == "shutdown":
            verb = "failed" if failed else "ended"
            why = f"{spec.name} {verb}: {status.why}" if spec.kind != "main" else f"{MAIN} {status.why}"
            self.shut_down(why, exit_code(status.code) if failed else 0, now)

    def run_dry(self, now: float) -> None:
        """Nothing runs and nothing can ever run again: say so and go."""
        waiting = [f"{name} waits for {status.why}" for name, status in self.status.items() if status.state == WAITING]
        detail = f" ({'; '.join(waiting[:3])}{'; ...' if len(waiting) > 3 else ''})" if waiting else ""
        self.shut_down(f"nothing is left to run{detail}", self.first_failure or 0, now)
        self.work(now)

    # --------------------------------------------------------------------------------------------- dependencies

    def settle(self, name: str, now: float) -> None:
        """Start a waiting unit if all that it depends on is there, else ask for the first that is not.

        COST: goes on where it stood, and looks at what was met before once more at the end.
        """
        spec, status = self.units[name], self.status[name]
        if status.state != WAITING or self.ending:
            return
        at = self.blocked.pop(name, 0)
        for index in (*range(at, len(spec.deps)), *range(at)):
            dep, how = spec.deps[index]
            if not self.met(name, dep, how):
                self.blocked[name] = index
                self.block(name, f"{dep}:{OK if how == 'up' else how}")
                self.ask(name, dep, how)
                return
        if any(how == "bounce" for _, how in spec.deps) and not self.clear(name):
            self.held.setdefault(name, "")
            self.block(name, "the restarts that its dependencies still have before them")
            return
        self.held.pop(name, None)
        self.apply(name, Event("start"), now)

    def block(self, name: str, reason: str) -> None:
        """Note and say what a unit waits for, once."""
        if self.status[name].why != reason:
            self.status[name] = self.status[name]._replace(why=reason)
            self.say("info", name, f"waiting for {reason}")

    def met(self, name: str, dep: str, how: str) -> bool:
        """Tell whether one dependency of a unit is there."""
        status = self.status[dep]
        if how == "always":
            return dep in self.ran.get(name, ())
        if self.units[dep].kind == "script":
            return bool(status.oks)
        return status.state == OK or (how == "up" and status.state in (IDLE, STOPPED, DONE, FAILED))

    def ask(self, name: str, dep: str, how: str) -> None:
        """See to it that a dependency comes up, if nobody has yet; what was stopped or has ended is left alone."""
        if self.units[dep].kind == "script":
            if how == "always" or dep not in self.tried:
                token = name if how == "always" else ""
                queue = self.requests.setdefault(dep, deque())
                if token not in queue and self.serving.get(dep) != token:
                    queue.append(token)
                    self.next_run(dep)
        elif how != "up" and self.status[dep].state == IDLE:
            self.todo.append((dep, Event("want")))

    def next_run(self, script: str) -> None:
        """Run a script for the next who asked, unless it is at work: two runs never overlap."""
        queue = self.requests.get(script, ())
        while queue and script not in self.serving and not self.ending:
            token = queue.popleft()
            if self.status[token].state == WAITING if token else not self.status[script].oks:
                self.serving[script] = token
                self.tried.update(() if token else (script,))
                self.todo.append((script, Event("want")))

    def answer(self, script: str, for_whom: str | None, status: Status, now: float) -> None:
        """A run of a script is over: tell whom it was for, and go on with the next."""
        if for_whom and self.status[for_whom].state == WAITING:
            if status.state == OK:
                self.ran.setdefault(for_whom, set()).add(script)
                self.todo.append((for_whom, None))
            else:
                self.todo.append((for_whom, Event("unspawned", why=f"script {script} failed: {status.why}")))
        if for_whom is not None:
            self.next_run(script)

    # --------------------------------------------------------------------------------------------- bounce waves

    def bounce(self, name: str, status: Status) -> None:
        """A daemon is OK: whoever bounces with it and still runs against the process before has to be restarted."""
        for dependent in self.dependents.get(name, ()) if status.oks > 1 else ():
            other = self.status[dependent]
            if (name, "bounce") in self.units[dependent].deps and other.pid and other.state in (STARTING, OK):
                self.held[dependent] = name

    def settle_held(self) -> None:
        """Restart each held unit none of whose bounce ancestors is down or still to be restarted."""
        for name, after in list(self.held.items()):
            state = self.status[name].state
            if state == WAITING:
                self.todo.append((name, None))
            elif state not in (STARTING, OK):
                del self.held[name]
            elif self.clear(name):
                del self.held[name]
                self.todo.append((name, Event("stop", why=f"{after} was restarted", then="restart")))

    def clear(self, name: str) -> bool:
        """Tell whether no bounce ancestor of a unit is down or still to be restarted; one that will never be is no matter."""
        ancestors, seen = [name], set()
        while ancestors:
            for dep, how in self.units[ancestors.pop()].deps:
                if how != "bounce" or dep in seen:
                    continue
                seen.add(dep)
                state = self.status[dep].state
                if state == OK and dep not in self.held:
                    ancestors.append(dep)
                elif state not in (IDLE, STOPPED, DONE, FAILED) and not self.stuck(dep):
                    return False
        return True

    def stuck(self, name: str) -> bool:
        """Tell whether a waiting unit waits, at the end of the chain, for one that ended for good."""
        while self.status[name].state == WAITING and name in self.blocked:
            name = self.units[name].deps[self.blocked[name]][0]
        return self.status[name].state in (STOPPED, DONE, FAILED)

    # -------------------------------------------------------------------------------------------------- shutdown

    def shut_down(self, why: str, code: int | None, now: float, signum: int | None = None) -> None:
        """Stop everything in reverse dependency order; a unit's turn comes when all that depends on it is over with.

        A finished script still passes the order on: what needs it needs what it needs.
        """
        alone = self.order == [MAIN]
        total = self.settings.shutdown_timeout
        units_end = now + total - sweep_share(total)
        self.ending = Ending(why, code, alone and signum is None and code is not None, signum, units_end, now + total)
        self.say("debug" if self.ending.quiet else "info", "", f"shutting down: {why}")
        self.set_deadline((units_end + now + total) / 2)
        self.unpassed = {name: len(self.dependents.get(name, ())) for name in self.order}
        for name in self.order:
            below = max((self.heights[dep] for dep, _ in self.units[name].deps), default=0)
            self.heights[name] = below + lives(self.status[name])
        tops = [name for name, before in self.unpassed.items() if not before]
        self.passed([name for name in tops if not self.stop_turn(name, now)], now)

    def stop_turn(self, name: str, now: float) -> bool:
        """It is a unit's turn to stop, with its share of the time: what remains, divided by the levels that remain.

        Returns whether there is anything to wait for.
        """
        assert self.ending
        status = self.status[name]
        if not lives(status):
            if status.state in (WAITING, BACKOFF):
                self.todo.append((name, Event("stop", why="shutdown", then="stop")))
            return False
        limit = max(0.0, self.ending.units_end - now) / max(1, self.heights[name])
        signum = self.ending.signum if name == MAIN else None
        signum = SIGNALS["TERM"] if signum == SIGNALS["RTMIN"] + 3 else signum  # systemd's, for containers alone
        self.todo.append((name, Event("stop", why="shutdown", then="stop", limit=limit, signum=signum)))
        return True

    def passed(self, names: list[str], now: float) -> None:
        """These units are over with: it is the turn of those that they alone still kept."""
        while names:
            name = names.pop()
            del self.unpassed[name]
            for dep, _ in self.units[name].deps:
                self.unpassed[dep] -= 1
                if not self.unpassed[dep] and not self.stop_turn(dep, now):
                    names.append(dep)
        if not self.unpassed and not self.sweeping:
            self.sweep(SIGNALS["TERM"], now)

    def overdue(self, now: float) -> None:
        """The time is up: of the units, of what is left over, of the killed to vanish."""
        if not self.sweeping:
            self.sweep(SIGNALS["TERM"], now)
        elif self.swept_hard:
            self.leave()
        else:
            self.sweep(SIGNALS["KILL"], now)

    def sweep(self, signum: int, now: float) -> None:
        """Signal all that is left; the Loop reports by `swept` when nobody is."""
        assert self.ending
        self.sweeping, self.swept_hard = True, signum == SIGNALS["KILL"]
        self.set_deadline(now + SWEEP_TIMEOUT / 2 if self.swept_hard else min(now + SWEEP_TIMEOUT, max(now, self.ending.end)))
        self.actions.append(Sweep(signum))

    def set_deadline(self, instant: float) -> None:
        """Set the fleet's own deadline."""
        self.deadline = instant
        heappush(self.timers, (instant, ""))

    def leave(self) -> None:
        """Exit: with the code asked for, the main command's, that of the unit which ended it all, or 0."""
        assert self.ending
        self.deadline = None
        main = self.status.get(MAIN)
        code = self.ending.code or 0
        if main and main.starts and main.code is not None:
            code = exit_code(main.code)
        names = list(dict.fromkeys(self.killed))
        killed = f"; had to be killed: {', '.join(names)}" if names else ""
        self.actions.append(Exit(code, self.ending.why + killed, self.ending.quiet))


# =========================================================================================================== Output
# overlord's own messages: one line each on stderr, never waiting for a reader.

LEVELS = ("debug", "info", "warning", "error")


def quote_json(text: str) -> str:
    """Return a JSON string. The json module is not in python3-minimal."""
    escaped = re.sub(r'[\0-\x1f"\\\x7f\ud800-\udfff]', lambda match: f"\\u{ord(match[0]):04x}", text)
    return f'"{escaped}"'


class Log:
    """Where overlord's own messages go. What nobody reads is kept up to LOG_KEPT bytes, and the rest counted."""

    def __init__(self, level: str = "info", form: str = "text") -> None:
        self.level, self.form = LEVELS.index(level), form
        self.kept, self.lost = bytearray(), 0
        self.fd = 2
        try:
            # O_NONBLOCK belongs to the open file, which the children share: only an open file of our own may have it.
            # A regular file has no readers to wait for, and an offset of one's own would overwrite others.
            if not os.path.isfile("/proc/self/fd/2"):
                self.fd = os.open("/proc/self/fd/2", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_APPEND)
        except OSError:  # a socket, or another user's: `flush` asks before it writes
            pass

    def say(self, level: str, unit: str, text: str, always: bool = False) -> None:
        """Write one line, if the level is high enough. Never raises, never waits."""
        if LEVELS.index(level) < self.level and not always:
            return
        text = re.sub(r"[\0-\x1f\x7f]", lambda match: " " if match[0] in "\n\t" else f"\\x{ord(match[0]):02x}", text)
        if self.form == "json":
            now = time.time()
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now * 1000) % 1000:03d}Z"
            fields = {"time": stamp, "level": level, **({"unit": unit} if unit else {}), "message": text}
            line = "{" + ", ".join(f'"{key}": {quote_json(value)}' for key, value in fields.items()) + "}\n"
        else:
            line = f"overlord: {unit}: {text}\n" if unit else f"overlord: {text}\n"
        data = line.encode("utf-8", "surrogateescape")
        if len(self.kept) + len(data) > LOG_KEPT:
            self.lost += 1
        else:
            self.kept += data
        self.flush()

    def flush(self, timeout: float = 0.0) -> None:
        """Write what can be written within `timeout` seconds."""
        until = time.monotonic() + timeout
        # RACE: a write into a closed pipe must not look like a SIGPIPE that somebody sent, which would be relayed
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, OWN_FAULTS)
        poll = select.poll()
        poll.register(self.fd, select.POLLOUT)
        try:
            while self.kept and poll.poll(max(0.0, until - time.monotonic()) * 1000):
                del self.kept[: os.write(self.fd, self.kept[: select.PIPE_BUF])]
                if not self.kept and self.lost:
                    lost, self.lost = self.lost, 0
                    self.kept += f"overlord: {lost} messages were lost, since nobody read them\n".encode()
        except BlockingIOError:
            pass
        except OSError:  # nobody will ever read it
            self.kept.clear()
            while signal.sigtimedwait(OWN_FAULTS, 0):
                pass
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


# =========================================================================================================== Kernel
# The system calls that touch processes: spawn, signal, reap, look into /proc.

ALL_SIGNALS = {int(number) for number in signal.valid_signals()}
OWN_FAULTS = {SIGNALS["PIPE"], SIGNALS["XFSZ"]}  # PYTHON: ignored by CPython, and an ignored signal survives exec
FAULTS = {SIGNALS[name] for name in "ILL TRAP ABRT BUS FPE SEGV SYS".split()}
JOB_CONTROL = {SIGNALS[name] for name in "TSTP TTIN TTOU".split()}
CAUGHT = ALL_SIGNALS - FAULTS - JOB_CONTROL - {SIGNALS["KILL"], SIGNALS["STOP"]}
HARMLESS = {SIGNALS[name] for name in "CHLD CONT URG WINCH".split()} | JOB_CONTROL  # signal(7): their default kills nobody
SIGTIMEDWAIT = {"x86_64": 128, "aarch64": 137, "riscv64": 137, "s390x": 177, "ppc64le": 176}  # system call numbers

# Words that the shell may take for something else than a program: POSIX 2.9, dash(1), bash(1), busybox ash.
SHELL_WORDS = frozenset(
    """. : [ [[ alias bg bind break builtin caller case cd chdir command compgen complete compopt continue coproc declare
    dirs disown do done echo elif else enable esac eval exec exit export false fc fg fi for function getopts hash help
    history if in jobs kill let local logout mapfile popd printf pushd pwd read readarray readonly return select set shift
    shopt source suspend test then time times trap true type typeset ulimit umask unalias unset until wait while""".split()
)
PLAIN_WORD = r"(?:[\w@%+=:,./-]|\\[^\n]|'[^']*'|\"[^\"\\$`]*\")+"
PLAIN_COMMAND = re.compile(rf"(?P<first>[\w./+-]+)(?:[ \t]+{PLAIN_WORD})*", re.ASCII)


class StartError(Exception):
    """A process that could not be made; `passing`: for want of something that may be there again later."""

    def __init__(self, why: str, passing: bool = False) -> None:
        super().__init__(why)
        self.passing = passing


def command_line(cmd: str, environment: Mapping[bytes, bytes]) -> list[str]:
    """Return the argument vector for a `cmd`: its own words if they are plain, else a shell's.

    A lone simple command leaves no shell behind. With plain words no shell is needed at all, which also keeps the
    environment as it is (dash drops variables with a dot in the name); with others the shell is told to `exec` it. Where
    it is not certain that the first word names a program, the shell gets the text as it stands.
    """
    cmd = cmd.replace("\\\n", "").strip()
    first = re.match(r"[\w./+-]+(?=\s|$)", cmd, re.ASCII)
    function = first and f"BASH_FUNC_{first[0]}%%".encode() in environment
    if not first or function or first[0] in SHELL_WORDS:
        return ["/bin/sh", "-c", cmd]
    if PLAIN_COMMAND.fullmatch(cmd):
        words = re.findall(PLAIN_WORD, cmd, re.ASCII)
        return [re.sub(r"\\(.)|'([^']*)'|\"([^\"]*)\"", lambda m: m[1] or m[2] or m[3] or "", word) for word in words]
    bare = re.sub(r"\\.|'[^']*'|\"(?:\\.|[^\"\\])*\"|[<>]&", "", cmd, flags=re.DOTALL)
    simple = not re.search(r"[;&|()`#\n]|<<", bare) and "$(" not in cmd and "`" not in cmd
    return ["/bin/sh", "-c", f"exec {cmd}" if simple else cmd]


def execute(argv: Iterable[str], environment: dict[bytes, bytes]) -> None:
    """Replace this process, searching PATH. Raises OSError, the most telling one. Runs in the child.

    A script without `#!` is run by the shell, as execvp(3) does.
    """
    words = [os.fsencode(word) for word in argv]
    folders = environment.get(b"PATH", DEFAULT_PATH.encode()).split(b":")
    failure = OSError(errno.ENOENT, "not found")
    for path in [words[0]] if b"/" in words[0] else [(folder or b".") + b"/" + words[0] for folder in folders]:
        try:
            if words[0]:
                os.execve(path, words, environment)
        except OSError as error:
            if error.errno == errno.ENOEXEC:
                os.execve(b"/bin/sh", [b"/bin/sh", path, *words[1:]], environment)
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                failure = error
    raise failure


def identity(uid: str | None, gid: str | None) -> tuple[Any, Any, str | None, dict[str, str]]:
    """Return uid, gid, the name for supplementary groups, and the variables that follow. Raises StartError."""
    import grp
    import pwd

    number, group, name, variables = None, None, None, {}
    if uid is not None:
        try:
            entry = pwd.getpwuid(int(uid)) if uid.isdigit() else pwd.getpwnam(uid)
            number, group, name = entry.pw_uid, entry.pw_gid, entry.pw_name
            variables = {"HOME": entry.pw_dir, "USER": name, "LOGNAME": name, "SHELL": entry.pw_shell or "/bin/sh"}
        except KeyError:
            if not uid.isdigit():
                raise StartError(f"uid {uid}: no such user") from None
            number = group = int(uid)
            variables = {"HOME": "/", "USER": uid, "LOGNAME": uid, "SHELL": "/bin/sh"}
    if gid is not None:
        try:
            group = int(gid) if gid.isdigit() else grp.getgrnam(gid).gr_gid
        except KeyError:
            raise StartError(f"gid {gid}: no such group") from None
    return number, group, name, variables


class Stat:
    """What /proc/PID/stat says of a process, see proc(5)."""

    __slots__ = ("group", "name", "parent", "state")

    def __init__(self, pid: int | str) -> None:
        with open(f"/proc/{pid}/stat", "rb") as file:
            name, _, rest = file.read().decode("utf-8", "replace").partition("(")[2].rpartition(") ")
        self.name, (self.state, self.parent, self.group) = name, (rest[0], *map(int, rest.split()[1:3]))


def processes() -> Iterator[tuple[int, Stat]]:
    """Yield each process of the namespace that is not dead. COST: reads all of /proc; for rare occasions."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Stat(entry)
            except (OSError, ValueError):  # it went away meanwhile
                continue
            if stat.state not in "ZX":
                yield int(entry), stat


def group_lives(group: int) -> bool:
    """Tell whether anything of a process group lives whose leader has been reaped.

    RACE: where a live process has the group's number as its pid, the group had died out and the number is used again.
    """
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    try:
        members = [pid for pid, stat in processes() if stat.group == group]
    except OSError:  # no /proc: a zombie may count, until it is reaped
        return True
    return bool(members) and group not in members


def heeds(pid: int, signum: int) -> bool | None:
    """Tell whether a process does something about a signal: its default is harmless, or the process catches, ignores,
    blocks or awaits it in a thread. None where the kernel does not let overlord see.

    LINUX: while a thread is in sigwait, the awaited signals show as none of these: /proc/PID/task/TID/syscall names the
    call and where its set lies in memory, readable for who could ptrace(2).
    """
    if signum in HARMLESS:
        return True
    bit, unseen = 1 << (signum - 1), False
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
        for task in tasks:
            with open(f"/proc/{pid}/task/{task}/status") as file:
                if any(int(mask, 16) & bit for mask in re.findall(r"(?m)^Sig(?:Blk|Ign|Cgt):\t(\w+)", file.read())):
                    return True
        for task in tasks:
            try:
                with open(f"/proc/{pid}/task/{task}/syscall") as file:
                    call = file.read().split()
                wanted = SIGTIMEDWAIT.get(os.uname().machine)
                if wanted is None:
                    unseen = True
                elif call[0] == str(wanted):
                    with open(f"/proc/{pid}/mem", "rb", 0) as memory:
                        if int.from_bytes(os.pread(memory.fileno(), 8, int(call[1], 16)), sys.byteorder) & bit:
                            return True
            except ProcessLookupError:
                continue
            except OSError:
                unseen = True
    except (FileNotFoundError, ProcessLookupError):
        return False
    except OSError:
        unseen = True
    return None if unseen else False


class Kernel:
    """Makes, signals and reaps processes."""

    def __init__(self, environment: dict[bytes, bytes], mask: set[int]) -> None:
        self.environment, self.mask = environment, mask
        self.ignored = {n for n in CAUGHT | JOB_CONTROL if signal.getsignal(n) == signal.SIG_IGN} - OWN_FAULTS
        self.closed = [fd for fd in (0, 1, 2) if not is_open(fd)]
        for _ in self.closed:  # lest a pipe of overlord's own becomes somebody's standard output
            os.open("/dev/null", os.O_RDWR)
        self.handed = inherited_descriptors()
        for fd in self.handed:
            os.set_inheritable(fd, False)
        self.failures, self.failing = os.pipe()  # a child that cannot become its unit says here why
        os.set_blocking(self.failures, False)
        self.reasons: dict[int, tuple[str, str]] = {}  # pid -> stage and reason
        self.terminal = False  # the main command was put into the foreground of the terminal

    def spawn(self, spec: Spec) -> int:
        """Return the pid of a new process for a unit. Raises StartError where none can be made.

        RACE: until exec a child still has overlord's handlers and its wake-up pipe, so that a signal sent to the child
        would reach overlord. All signals are blocked from before the fork until the child has shed both.
        """
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ALL_SIGNALS)
        self.terminal = self.terminal or (spec.kind == "main" and in_foreground())
        try:
            pid = os.fork()
            if not pid:
                self.become(spec)
            return pid
        except OSError as error:
            raise StartError(f"fork: {error.strerror}", passing=True) from None
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def become(self, spec: Spec) -> None:
        """Turn into the process of a unit. Runs in the child; leaves by exec, or by _exit after saying why not."""
        stage, code = "start", 1
        try:
            signal.set_wakeup_fd(-1)
            for number in CAUGHT | JOB_CONTROL:
                keep = spec.kind == "main" and number in self.ignored
                signal.signal(number, signal.SIG_IGN if keep else signal.SIG_DFL)
            if spec.kind == "main":
                environment, argv = self.environment, spec.cmd
                self.become_main()
            else:
                os.setsid()
                self.open_stdio(spec)
                if spec.umask is not None:
                    os.umask(spec.umask)
                if spec.nice is not None:
                    stage = f"nice {spec.nice}"
                    os.setpriority(os.PRIO_PROCESS, 0, spec.nice)
                stage = f"uid {spec.uid}" if spec.uid else f"gid {spec.gid}"
                environment = {**self.environment, **self.take_identity(spec)}
                environment.update((os.fsencode(key), os.fsencode(value)) for key, value in spec.env)
                environment[b"OVERLORD_NAME"] = spec.name.encode()
                if spec.dir:
                    stage = f"dir {spec.dir}"
                    os.chdir(spec.dir)
                argv = command_line(spec.cmd, environment)
            stage, code = argv[0], NOT_FOUND
            signal.pthread_sigmask(signal.SIG_SETMASK, self.mask if spec.kind == "main" else ())
            execute(argv, environment)
        except StartError as error:
            self.report("", str(error))
        except OSError as error:
            why = error.strerror or str(error)
            if code == NOT_FOUND and error.errno in (errno.ENOENT, errno.ENOTDIR):
                why = "the interpreter in its #! line was not found" if os.path.exists(argv[0]) else "not found"
            elif code == NOT_FOUND:
                code = NOT_EXECUTABLE
            self.report(stage, why)
        except BaseException as error:
            self.report(stage, repr(error))
        finally:
            os._exit(code)

    def become_main(self) -> None:
        """Take what tini gives: a process group of its own, the terminal if there is one. Runs in the child."""
        os.setpgid(0, 0)
        if self.terminal:
            os.tcsetpgrp(0, os.getpid())
        for fd in self.handed:
            os.set_inheritable(fd, True)

    def report(self, stage: str, reason: str) -> None:
        """Tell overlord why the child cannot become its unit. Runs in the child. COST: one write, atomic below PIPE_BUF."""
        text = f"{os.getpid()}\t{stage[:1000]}\t{reason[:1000]}\n".replace("\0", "")
        os.write(self.failing, os.fsencode(text))

    def reason(self, pid: int, code: int) -> tuple[int, str]:
        """Return the exit code and why a dead child never became its unit; the text is empty where it did."""
        if code in (1, NOT_EXECUTABLE, NOT_FOUND):
            try:
                for line in os.fsdecode(os.read(self.failures, 65536)).splitlines():
                    child, stage, reason = line.split("\t")
                    self.reasons[int(child)] = (stage, reason)
            except BlockingIOError:
                pass
        stage, reason = self.reasons.pop(pid, ("", ""))
        return code, f"{stage}: {reason}" if stage else reason

    def open_stdio(self, spec: Spec) -> None:
        """Open what the unit's `stdout` and `stderr` name. Runs in the child, so a FIFO may wait for its reader."""
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for fd, name, sink in ((1, "stdout", spec.stdout), (2, "stderr", spec.stderr)):
            if sink == "stdout":
                os.dup2(1, fd)
            elif sink != "inherit":
                path = os.devnull if sink == "null" else sink
                try:
                    os.makedirs(os.path.dirname(path), exist_ok=True)
                    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOCTTY, 0o666), fd)
                except OSError as error:
                    raise StartError(f"{name} {path}: {error.strerror}") from None
            os.set_inheritable(fd, True)

    def take_identity(self, spec: Spec) -> dict[bytes, bytes]:
        """Become the unit's user and group, and return the variables that follow. Runs in the child."""
        uid, gid, name, variables = identity(spec.uid, spec.gid)
        if uid is not None and uid == os.geteuid() and spec.gid is None:
            uid = gid = None  # the user that overlord runs as: nothing to change, no privilege needed
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

    def signal(self, pid: int, signum: int) -> None:
        """Send a signal to a process (or, with minus its number, a group) that overlord has not reaped yet.

        A process that is not there any more is no error. Raises PermissionError.
        """
        try:
            os.kill(pid, signum)
        except ProcessLookupError:
            pass

    def reap(self, most: int) -> Iterator[tuple[int, int, bool]]:
        """Yield (pid, code or minus the signal, stopped) of at most so many children that died or were stopped."""
        for _ in range(most):
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            except ChildProcessError:
                return
            if not pid:
                return
            if os.WIFSTOPPED(status):
                yield pid, os.WSTOPSIG(status), True
            else:
                yield pid, -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status), False


def in_foreground() -> bool:
    """Tell whether stdin is a terminal whose foreground job is overlord."""
    try:
        return os.isatty(0) and os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return False


def is_open(fd: int) -> bool:
    """Tell whether a descriptor is open."""
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


# ============================================================================================================= Init
# What only an init does: the orphans of others, the last sweep, the terminal.

PR_SET_CHILD_SUBREAPER = 36  # prctl(2)


class Init:
    """The part of PID 1; of a subreaper where overlord is not PID 1, which then touches nobody but its own children."""

    def __init__(self) -> None:
        self.first = os.getpid() == 1
        self.warning = "" if self.first else become_subreaper()

    def leftovers(self) -> list[tuple[int, str]]:
        """Return (pid, name) of what is left: of the whole PID namespace, or of overlord's children.

        LINUX: a child is pinned until overlord reaps it, so that its pid cannot be another's; what is further down becomes
        a child when its parent dies.
        """
        mine = os.getpid()
        try:
            return [(pid, s.name) for pid, s in processes() if pid != mine and (self.first or s.parent == mine)]
        except OSError:  # no /proc
            return []

    def sweep(self, signum: int) -> None:
        """Signal all that is left. A stopped process is continued, so that it can act on SIGTERM."""
        for number in (signum, SIGNALS["CONT"]) if signum != SIGNALS["KILL"] else (signum,):
            for pid in [-1] if self.first else [pid for pid, _ in self.leftovers()]:
                try:
                    os.kill(pid, number)
                except OSError:  # nobody there, or nobody who may be signalled
                    pass

    def alone(self) -> bool:
        """Tell whether nobody is left."""
        if not self.first:
            return not self.leftovers()
        try:
            os.kill(-1, 0)
        except ProcessLookupError:
            return True
        except OSError:
            pass
        return False


def become_subreaper() -> str:
    """Have orphaned descendants become overlord's children, as PID 1 has them. Returns a warning where it cannot be."""
    try:
        import ctypes

        if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0:
            return ""
        reason = os.strerror(ctypes.get_errno())
    except (ImportError, OSError, AttributeError) as error:
        reason = str(error)
    return f"not PID 1 and no subreaper ({reason}): processes that leave their unit's group are neither reaped nor stopped"


# ============================================================================================================= Loop
# Wait, read, feed, perform. Die loudly before `Loop.run`; never after.


class Loop:
    """Turns the crank between the pure rooms and the system."""

    def __init__(self, fleet: Fleet, kernel: Kernel, init: Init, log: Log) -> None:
        self.fleet, self.kernel, self.init, self.log = fleet, kernel, init, log
        self.arrived: deque[int] = deque()  # signals
        self.pids: dict[int, str] = {}  # living child -> its unit
        self.groups: dict[int, str] = {}  # group that outlives its leader -> its unit
        self.code: int | None = None
        self.more = False  # dead children may be left from the last batch
        self.forwards: dict[int, list[tuple[str, int]]] = {}
        for spec in fleet.units.values():
            for source, target in spec.forward:
                self.forwards.setdefault(source, []).append((spec.name, target))
        self.wake, wake = os.pipe()
        for fd in (self.wake, wake):
            os.set_blocking(fd, False)
        self.poll = select.poll()
        self.poll.register(self.wake, select.POLLIN)
        for number in JOB_CONTROL - {SIGNALS["TSTP"]}:
            signal.signal(number, signal.SIG_IGN)  # a write from the background must not stop overlord
        for number in CAUGHT:
            signal.signal(number, self.note)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)

    def note(self, number: int, frame: Any) -> None:
        """Note a signal; the wake-up pipe ends the wait. PYTHON: runs between two bytecodes of the main thread."""
        self.arrived.append(number)

    def run(self) -> int:
        """Run to the end and return the exit code. An exception is logged with its place, and supervision goes on."""
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        turn = self.boot
        while self.code is None:
            try:
                turn, now_do = self.turn, turn
                now_do()
            except Exception as error:
                trace = error.__traceback__
                while trace and trace.tb_next:
                    trace = trace.tb_next
                place = f"{trace.tb_frame.f_code.co_name}, line {trace.tb_lineno}" if trace else "?"
                self.log.say("error", "", f"internal error, going on: {type(error).__name__}: {error} ({place})")
                select.poll().poll(100)  # ms, lest an error that comes back at once eats the processor
        self.log.flush(0.2)
        return self.code

    def boot(self) -> None:
        """Start what is to be started, unless a signal that came meanwhile asks for shutdown."""
        self.hear(time.monotonic())
        if not self.fleet.ending:
            self.fleet.boot(time.monotonic())
        self.perform()

    def turn(self) -> None:
        """Wait for something to happen, and see it through. With nothing to do there is no timer: it sleeps."""
        deadline, before = self.fleet.next_deadline(), time.monotonic()
        wait = None if deadline is None else max(0.0, deadline - before)
        if self.groups or self.fleet.sweeping:
            wait = LINGER_LOOK if wait is None else min(wait, LINGER_LOOK)
        if self.log.kept:
            self.poll.register(self.log.fd, select.POLLOUT)
        self.poll.poll(0 if self.more or self.arrived else None if wait is None else min(wait * 1000, 1e9))
        now = time.monotonic()
        if wait is not None and now - before - wait > PAUSED:
            self.fleet.shift(now - before - wait)
        if self.log.kept:
            self.poll.unregister(self.log.fd)
            self.log.flush()
        try:
            while len(os.read(self.wake, 4096)) == 4096:
                pass
        except BlockingIOError:
            pass
        self.hear(now)
        self.look_at_groups(now)
        self.fleet.expire(now)
        self.perform()
        if self.fleet.sweeping and self.code is None and self.init.alone():
            self.fleet.swept()
            self.perform()

    def hear(self, now: float) -> None:
        """Deal with the signals that have arrived."""
        reap, self.more = self.more, False
        while self.arrived:
            number = self.arrived.popleft()
            if number == SIGNALS["CHLD"]:
                reap = True
            elif number in self.fleet.settings.shutdown_signals:
                self.fleet.ask_shutdown(f"{spell_signal(number)} received", now, number)
            else:
                self.relay(number)
        if reap:
            self.reap(now)

    def reap(self, now: float) -> None:
        """Reap a batch of dead children, and tell the fleet of those that were units."""
        count = 0
        for pid, code, stopped in self.kernel.reap(REAP_BATCH):
            count += 1
            name = self.pids.get(pid)
            if stopped:
                if name == MAIN:
                    self.suspend(pid, code)
                continue
            if name is None:
                continue
            del self.pids[pid]
            code, why = self.kernel.reason(pid, code)
            left = name != MAIN and group_lives(pid)
            if left:
                self.groups[pid] = name
            self.fleet.feed(name, Event("exited", code, why=why, left=left), now)
        self.more = count == REAP_BATCH

    def look_at_groups(self, now: float) -> None:
        """Find the groups whose last process is gone. Their members may be other processes' children, so no signal tells."""
        for group, name in list(self.groups.items()):
            if not group_lives(group):
                del self.groups[group]
                self.fleet.feed(name, Event("emptied"), now)

    def perform(self) -> None:
        """Do what the fleet wants done, and what follows from that."""
        actions = deque(self.fleet.take())
        while actions:
            action = actions.popleft()
            if isinstance(action, Say):
                if action.unit != MAIN or action.level != "info" or len(self.fleet.units) > 1:
                    self.log.say(*action)
            elif isinstance(action, Spawn):
                self.spawn(action.unit)
            elif isinstance(action, Kill):
                self.kill(action)
            elif isinstance(action, Sweep):
                if action.signum == SIGNALS["KILL"]:
                    self.fleet.killed += [f"{name} (pid {pid})" for pid, name in self.init.leftovers() if pid not in self.pids]
                self.init.sweep(action.signum)
            else:
                self.leave(action)
            actions.extend(self.fleet.take())

    def spawn(self, name: str) -> None:
        """Make the process of a unit, unless it was stopped since."""
        status, now = self.fleet.status[name], time.monotonic()
        if status.state not in (STARTING, RUNNING) or status.pid:
            return
        try:
            pid = self.kernel.spawn(self.fleet.units[name])
        except StartError as error:
            self.fleet.feed(name, Event("unspawned", error.passing, why=str(error)), now)
            return
        self.pids[pid] = name
        self.fleet.feed(name, Event("spawned", pid), now)

    def kill(self, action: Kill) -> None:
        """Signal a unit's process, or its group; a stopped one is continued so that it can act on the signal.

        RACE: the process may have been reaped since the fleet decided, and its pid be another's.
        """
        pid, group = action.pid, action.group
        if self.pids.get(pid) != action.unit and not (group and pid in self.groups and group_lives(pid)):
            return
        try:
            for number in (action.signum, SIGNALS["CONT"]) if action.signum != SIGNALS["KILL"] else (action.signum,):
                self.kernel.signal(-pid if group else pid, number)
        except PermissionError as error:
            self.log.say("error", action.unit, f"cannot send {spell_signal(action.signum)} to pid {pid}: {error.strerror}")

    def relay(self, number: int) -> None:
        """Pass a signal on: to the main command whatever it is, to a daemon that wants it unless it would only die of it."""
        targets = [(MAIN, number), *self.forwards.get(number, ())]
        for name, target in targets:
            status = self.fleet.status.get(name)
            if not status or not status.pid or status.left:
                continue
            heeded = name == MAIN or heeds(status.pid, target)
            if heeded:
                self.kernel.signal(status.pid, target)
            sent = spell_signal(target) + (f" for {spell_signal(number)}" if target != number else "")
            if heeded:
                self.log.say("debug" if name == MAIN else "info", name, f"{sent} relayed")
            elif heeded is None:
                self.log.say("warning", name, f"{sent} withheld: the kernel does not show whether it waits for it or would die")
            else:
                self.log.say("info", name, f"{sent} withheld: it does nothing about it and would die")

    def suspend(self, pid: int, number: int) -> None:
        """The main command was stopped, by Ctrl-Z say. PID 1 has no shell behind it that could continue the command, so it
        goes on; elsewhere overlord stops too, and when the shell continues it, gives the terminal back to the command.
        """
        if self.init.first:
            if number == SIGNALS["TSTP"]:
                self.kernel.signal(pid, SIGNALS["CONT"])
        elif self.kernel.terminal and number in JOB_CONTROL:
            os.tcsetpgrp(0, os.getpgrp())
            os.kill(os.getpid(), SIGNALS["STOP"])
            if in_foreground():
                os.tcsetpgrp(0, pid)
            self.kernel.signal(-pid, SIGNALS["CONT"])

    def leave(self, action: Exit) -> None:
        """Say why, give the terminal back, and end."""
        if not action.quiet:
            self.log.say("info", "", f"exiting with code {action.code}: {action.why}", always=True)
        if self.kernel.terminal and not self.init.first:
            try:
                os.tcsetpgrp(0, os.getpgrp())
            except OSError:  # the terminal is gone
                pass
        self.code = action.code


# ============================================================================================================== CLI
# Arguments, files, verbs. Nothing of it runs once the loop does.

USAGE = """\
overlord.py [-c FILE] [VERB]            run, check, version or help; none is run
overlord.py [-c FILE] [--] COMMAND ...  run, with COMMAND as the main command (Docker's CMD)

  run               start what the configuration says, and stay (as PID 1 of a container, or anywhere)
  check             say what is wrong with the configuration, and what the image lacks (exit 0, or 78)
  version           print the version
  help [OPTION]     print this, or what a configuration option means

The configuration is FILE, else $OVERLORD_CONFIG, else /etc/overlord.conf, and every file of its configdir
(/etc/overlord/). An example:

  [script:setup]
  cmd = /usr/local/bin/setup.sh

  [daemon:web]
  cmd = nginx -g 'daemon off;'
  deps = setup:ok
"""
PASSED_OVER = re.compile(r"\..*|.*~|.*\.(bak|swp)|.*\.dpkg-.*")


def put(fd: int, text: str) -> None:
    """Write to a standard descriptor, if it is there."""
    try:
        data = text.encode("utf-8", "surrogateescape")
        while data:
            data = data[os.write(fd, data) :]
    except OSError:
        pass


def load(draft: Draft, path: str, optional: bool = False) -> bool:
    """Read one file into the draft; tell whether there was one."""
    try:
        with open(path, "rb") as file:
            draft.read(path, file.read())
    except OSError as error:
        draft.files.append(path)
        if optional and error.errno == errno.ENOENT:
            return False
        draft.mistake((path, 1), "", f"cannot be read: {error.strerror}")
    return True


def list_configdir(draft: Draft) -> list[str]:
    """Return the files of the configdir in the order of their names."""
    option, at = BY_KIND["overlord"]["configdir"], ("overlord", "configdir")
    folder = draft.value(*at[:1], option) if at in draft.places else default_of(option)
    try:
        names = sorted(name for name in os.listdir(folder) if not PASSED_OVER.fullmatch(name))
    except OSError as error:
        if error.errno != errno.ENOENT:
            draft.mistake(draft.places.get(at, (draft.files[0], 1)), "[overlord] configdir", f"{folder}: {error.strerror}")
        return []
    return [path for path in (os.path.join(folder, name) for name in names) if not os.path.isdir(path)]


def read_config(path: str | None, environment: Mapping[bytes, bytes], command: list[str]) -> tuple[Config, list[str]]:
    """Return the configuration, with the main command if there is one, and the files it was read from. Raises Mistakes."""
    draft = Draft({decode(key): decode(value) for key, value in environment.items()})
    named = path or draft.environment.get("OVERLORD_CONFIG")
    main = named or DEFAULT_CONFIG
    found = load(draft, main, optional=not named)
    files = list_configdir(draft)
    for file in files:
        load(draft, file)
    if not found and not files and not command:
        text = "there is no such file, nothing in /etc/overlord/ and no COMMAND; overlord.py help shows an example"
        draft.mistake((main, 1), "", text)
    config = draft.finish()
    if command:
        config.units[MAIN] = main_spec(command, [n for n in config.order if config.units[n].kind == "daemon"])
        config.order.append(MAIN)
    return config, [main, *files] if found else files


def decode(data: bytes) -> str:
    """Return text that `os.fsencode` makes the same bytes of."""
    return data.decode("utf-8", "surrogateescape")


def warn_of_writers(paths: Iterable[str]) -> Iterator[str]:
    """Yield a warning for each file, and its folder, that someone other than root can write while overlord is root."""
    if os.geteuid() != 0:
        return
    for path in dict.fromkeys(part for file in paths for part in (os.path.dirname(file) or ".", file)):
        stat = os.stat(path)
        sticky = os.path.isdir(path) and stat.st_mode & 0o1000
        if stat.st_uid != 0 or (not sticky and (stat.st_mode & 0o002 or (stat.st_mode & 0o020 and stat.st_gid != 0))):
            yield f"{path} can be written by others than root, who can so have anything run as root"


def warn_of_image(config: Config, environment: Mapping[bytes, bytes]) -> Iterator[str]:
    """Yield a warning for each command, user and folder that the image lacks, and where time will not do to stop."""
    chains: dict[str, tuple[float, tuple[str, ...]]] = {}  # unit -> the longest way to stop it and what it needs
    for name in config.order:
        unit = config.units[name]
        own = {**environment, **{os.fsencode(key): os.fsencode(value) for key, value in unit.env}}
        first = re.match(r"[\w./+-]+(?=\s|$)", unit.cmd)
        if first and first[0] not in SHELL_WORDS and not find_program(first[0], unit.dir, own):
            yield f"{name}: cmd: {first[0]} is not there, or not executable"
        try:
            identity(unit.uid, unit.gid)
        except StartError as error:
            yield f"{name}: {error}"
        if unit.dir and not os.path.isdir(unit.dir):
            yield f"{name}: dir {unit.dir}: no such folder"
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


def find_program(name: str, folder: str | None, environment: Mapping[bytes, bytes]) -> bool:
    """Tell whether a command would be found and may be executed."""
    path = environment.get(b"PATH", DEFAULT_PATH.encode()).decode("utf-8", "surrogateescape")
    places = [name] if "/" in name else [f"{part or '.'}/{name}" for part in path.split(":")]
    paths = (os.path.join(folder or ".", place) for place in places)
    return any(os.path.isfile(place) and os.access(place, os.X_OK) for place in paths)


def refuse(mistakes: Mistakes) -> int:
    """Print all that is wrong, and how it ends."""
    lines = mistakes.args[0]
    count = f"{len(lines)} mistake{'s' if len(lines) > 1 else ''} in the configuration"
    put(2, "".join(f"{line}\n" for line in lines) + f"overlord: {count}, nothing started: exiting with code {EX_CONFIG}\n")
    return EX_CONFIG


def run(path: str | None, command: list[str]) -> int:
    """Be the init: start what the configuration says, and stay until the end. Returns the exit code."""
    environment = found_environment()
    kernel = Kernel(environment, FOUND_MASK)
    try:
        config, files = read_config(path, environment, command)
    except Mistakes as mistakes:
        return refuse(mistakes)
    log, init = Log(config.settings.log_level, config.settings.log_format), Init()
    for warning in (init.warning, *warn_of_writers(files)):
        if warning:
            log.say("warning", "", warning)
    return Loop(Fleet(config, chance), kernel, init, log).run()


def chance() -> float:
    """Return a random number from 0 to 1. COST: the random module would pull in a dozen others."""
    return int.from_bytes(os.urandom(4), "big") / 0xFFFFFFFF


def check(path: str | None) -> int:
    """Say what is wrong with the configuration, and what the image lacks."""
    environment = found_environment()
    try:
        config, files = read_config(path, environment, ["true"])
    except Mistakes as mistakes:
        return refuse(mistakes)
    del config.units[config.order.pop()]
    for warning in (*warn_of_writers(files), *warn_of_image(config, environment)):
        put(2, f"overlord: warning: {warning}\n")
    kinds = [unit.kind for unit in config.units.values()]
    read = ", ".join(files) or f"no file (there is no {DEFAULT_CONFIG})"
    put(1, f"overlord: {read}: OK, {plural(kinds, 'daemon')}, {plural(kinds, 'script')}\n")
    return 0


def plural(kinds: list[str], kind: str) -> str:
    """Return `1 daemon`, `2 daemons`."""
    return f"{kinds.count(kind)} {kind}{'' if kinds.count(kind) == 1 else 's'}"


def usage_error(text: str) -> int:
    """Say what is wrong with the arguments."""
    put(2, f"overlord: {text}\noverlord: overlord.py help shows how it is used: exiting with code {EX_USAGE}\n")
    return EX_USAGE


def explain(words: list[str]) -> int:
    """Print the usage, or what a configuration option means."""
    found = [option for option in OPTIONS if words and option.name == words[0]]
    for option in found:
        sections = {"o": "[overlord]", "s": "[script:NAME]", "d": "[daemon:NAME]"}
        where = ", ".join(sections[kind] for kind in option.kinds)
        put(1, f"{option.name}  in {where}, default: {option.default or option.shown}\n  {option.help}\n")
    if words and not found:
        return usage_error(f"there is no option {words[0]}{suggest(words[0], [option.name for option in OPTIONS])}")
    if not words:
        put(1, USAGE)
    return 0


def main(arguments: list[str]) -> int:
    """Do what the command line says, and return the exit code."""
    path, verb, words = parse_arguments(arguments)
    if verb == "run":
        return run(path, words)
    signal.signal(SIGNALS["INT"], signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, FOUND_MASK)
    if verb == "check":
        return check(path)
    if verb == "help":
        return explain(words)
    if verb == "mistake":
        return usage_error(words[0])
    put(1, f"overlord {VERSION}\n")
    return 0


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))
