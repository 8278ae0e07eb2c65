"""The Words, and overlord's own messages: durations, signals, hints, JSON, and a log that waits for nobody."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
from typing import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

import overlord
from overlord import Log, Mistake, Sink, Stream, Watch

# --- records ---------------------------------------------------------------------------------------------------------


def test_no_field_of_that_name() -> None:
    """A misspelt field is an error, as of the standard library's named tuples, and not passed over."""
    for make in (overlord.Event, overlord.Event("stop")._replace, overlord.Event(*range(11))._replace):
        with pytest.raises((TypeError, ValueError)):
            make(kind="stop", wnated=True)
    assert overlord.Event("stop")._replace(wanted=False) == overlord.Event("stop", wanted=False)


# --- durations -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("7", 7), ("1.5", 1.5), (".5", 0.5), ("500ms", 0.5), ("2s", 2), ("5m", 300), ("1h", 3600), ("7d", 604800),
     ("1.5h", 5400), ("0.25ms", 0.00025), ("2 s", 2), ("010", 10)],
)  # fmt: skip
def test_duration(text: str, seconds: float) -> None:
    """A number of seconds, or one of the five units."""
    assert overlord.parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    ["", "s", "-1", "+1", "1e3", "1,5", "1.", "5 minutes", "5M", "1h30m", "inf", "nan", "٣", "²", "0x10", "1_000", " 1"],
)
def test_no_duration(text: str) -> None:
    """All else is a mistake that says what would be right."""
    with pytest.raises(Mistake, match="500ms 2s 5m 1h 7d"):
        overlord.parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (0.0001, "0 s"), (0.001, "0.001 s"), (0.0123, "0.012 s"), (0.1, "0.1 s"), (0.25, "0.25 s"), (0.999, "1 s"),
     (1, "1 s"), (3.24, "3.2 s"), (10, "10 s"), (59.94, "59.9 s"), (59.96, "1 min"), (60, "1 min"), (61, "1 min 1 s"),
     (310, "5 min 10 s"), (3599.6, "1 h"), (3600, "1 h"), (3660, "1 h 1 min"), (86399.9, "1 d"), (266400, "3 d 2 h"),
     (86400 * 400, "400 d")],
)  # fmt: skip
def test_spell_duration(seconds: float, text: str) -> None:
    """About three digits."""
    assert overlord.spell_duration(seconds) == text


@given(st.floats(0, 1e9))
def test_spelled_durations_are_near(seconds: float) -> None:
    """What is said is true to 2 %, or to what a person would not count."""
    text = overlord.spell_duration(seconds)
    assert re.fullmatch(r"(\d+(\.\d{1,3})? s|\d+ (min|h|d)( \d+ (s|min|h))?)", text)
    units = {"s": 1, "min": 60, "h": 3600, "d": 86400}
    words = text.split()
    said = sum(float(number) * units[unit] for number, unit in zip(words[::2], words[1::2]))
    assert said == pytest.approx(seconds, rel=0.05, abs=0.0006)


# --- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0), ("1", 1), ("64K", 65536), ("64k", 65536), ("10M", 10 << 20), ("1G", 1 << 30), ("2 m", 2 << 20), ("007", 7),
        ("64KB", 65536), ("2 gb", 2 << 30),
    ],  # fmt: skip
)
def test_size(text: str, size: int) -> None:
    """A number of bytes, or one of the three units, with a B or without."""
    assert overlord.parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "K", "-1", "+1", "1.5M", "1e6", "10MBB", "10B", "10Ki", "1T", "٣", "0x10", "1_000", " 1", "1 0"]
)
def test_no_size(text: str) -> None:
    """All else is a mistake that says what would be right."""
    with pytest.raises(Mistake, match="64K 10M 1G"):
        overlord.parse_size(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1 KiB"), (1536, "1.5 KiB"), (262144, "256 KiB"), (10 << 20, "10 MiB"),
     (3 << 29, "1.5 GiB"), (5 << 40, "5120 GiB")],
)  # fmt: skip
def test_spell_size(size: int, text: str) -> None:
    """For people."""
    assert overlord.spell_size(size) == text


# --- signals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "number"),
    [("TERM", 15), ("SIGTERM", 15), ("term", 15), ("SigTerm", 15), ("15", 15), ("9", 9), ("HUP", 1), ("CHLD", 17),
     ("USR1", signal.SIGUSR1), ("WINCH", signal.SIGWINCH), ("RTMIN", signal.SIGRTMIN), ("RTMIN+3", signal.SIGRTMIN + 3),
     ("SIGRTMIN+3", signal.SIGRTMIN + 3), ("RTMAX", signal.SIGRTMAX), ("RTMAX-1", signal.SIGRTMAX - 1), ("37", 37)],
)  # fmt: skip
def test_signal(text: str, number: int) -> None:
    """A name or a number, with or without SIG, the real-time ones too."""
    assert overlord.parse_signal(text) == number


@pytest.mark.parametrize(
    "text", ["", "SIG", "0", "-1", "65", "999", "1.0", "RTMIN+", "RTMIN+31", "RTMAX-31", "RTMAX-40", "RTMIN-1", "SIG_DFL", "٩"]
)
def test_no_signal(text: str) -> None:
    """What the system does not have is a mistake."""
    with pytest.raises(Mistake, match="is not a signal"):
        overlord.parse_signal(text)


def test_signal_hint() -> None:
    """A misspelt one gets the nearest."""
    with pytest.raises(Mistake, match='did you mean "WINCH"'):
        overlord.parse_signal("SIGWINHC")


@pytest.mark.parametrize("number", sorted(signal.valid_signals()))
def test_signals_there_and_back(number: int) -> None:
    """Each signal is spelled as it can be written; one that has no name here is `signal 16`."""
    assert overlord.parse_signal(overlord.spell_signal(number).split()[-1]) == number


@pytest.mark.parametrize(
    ("number", "text"), [(1, "SIGHUP"), (6, "SIGABRT"), (17, "SIGCHLD"), (29, "SIGIO"), (34, "SIGRTMIN"), (37, "SIGRTMIN+3")]
)
def test_spell_signal(number: int, text: str) -> None:
    """By the name that people know, where one number has two."""
    assert overlord.spell_signal(number) == text


@pytest.mark.parametrize(
    ("code", "text", "exit_code"),
    [(0, "exited with code 0", 0), (3, "exited with code 3", 3), (-9, "killed by SIGKILL", 137), (-15, "killed by SIGTERM", 143),
     (137, "exited with code 137 (128 + SIGKILL)", 137), (143, "exited with code 143 (128 + SIGTERM)", 143),
     (128, "exited with code 128", 128), (255, "exited with code 255", 255), (127, "exited with code 127", 127)],
)
def test_ends(code: int, text: str, exit_code: int) -> None:
    """In words, and as a shell's code."""
    assert overlord.spell_end(code) == text
    assert overlord.exit_code(code) == exit_code


# --- hints -----------------------------------------------------------------------------------------------------------

WORDS = ("respawns", "restart", "backoff", "stop_signal", "stop_timeout", "cmd", "dir", "uid")


@pytest.mark.parametrize(
    ("word", "hint"),
    [("respawn", "respawns"), ("Restart", "restart"), ("back_off", "backoff"), ("stop_singal", "stop_signal"), ("cdm", "cmd"),
     ("comand", ""), ("xyz", ""), ("", ""), ("completely_else", "")],
)  # fmt: skip
def test_suggest(word: str, hint: str) -> None:
    """The nearest word, or none where none is near."""
    assert overlord.suggest(word, WORDS) == (f', did you mean "{hint}"?' if hint else "")


def test_suggest_among_none() -> None:
    """There may be nothing to suggest."""
    assert overlord.suggest("web", []) == ""


@given(st.text("abc", max_size=6), st.text("abc", max_size=6))
def test_distance(one: str, two: str) -> None:
    """It is none for the same, the same in both directions, and never more than the longer word."""
    distance = overlord.distance(one, two)
    assert (distance == 0) == (one == two)
    assert distance == overlord.distance(two, one)
    assert abs(len(one) - len(two)) <= distance <= max(len(one), len(two))


@given(st.text("abc", min_size=1, max_size=8), st.integers(0, 7))
def test_distance_of_one_mistake(word: str, at: int) -> None:
    """One letter too many, too few or wrong is one."""
    at %= len(word)
    for other in (word[:at] + word[at + 1 :], word[:at] + "x" + word[at:], word[:at] + "x" + word[at + 1 :]):
        assert overlord.distance(word, other) == 1


# --- JSON ------------------------------------------------------------------------------------------------------------


@given(st.text(st.characters(blacklist_categories=("Cs",))))
def test_quote_json(text: str) -> None:
    """Any text comes back as it was, in one line."""
    quoted = overlord.spell_json(text)
    assert json.loads(quoted) == text
    assert not re.search(r"[\0-\x1f\x7f]", quoted)


@given(st.binary())
def test_quote_json_of_bytes(data: bytes) -> None:
    """Bytes that are no UTF-8 make JSON that can be encoded."""
    text = data.decode("utf-8", "surrogateescape")
    quoted = overlord.spell_json(text)
    assert json.loads(quoted.encode()) == text


# --- the log ---------------------------------------------------------------------------------------------------------


class Pipe:
    """A reader of the log's messages."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)
        os.set_blocking(self.writer, False)

    def log(self, level: str = "info", form: str = "text") -> Log:
        """Return a log that writes here."""
        return Log(Stream(Watch(), self.writer), level, form)

    def read(self) -> str:
        """Return what there is."""
        data = b""
        try:
            while True:
                part = os.read(self.reader, 65536)
                if not part:
                    break
                data += part
        except BlockingIOError:
            pass
        return data.decode("utf-8", "surrogateescape")


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    for fd in (made.reader, made.writer):
        with contextlib.suppress(OSError):  # the test may have closed it
            os.close(fd)


def test_log_lines(pipe: Pipe) -> None:
    """One line each, with the unit where it is about one."""
    log = pipe.log()
    log.message("info", "web", "started (pid 17)")
    log.message("error", "", "shutting down")
    assert pipe.read() == "overlord: web: started (pid 17)\noverlord: shutting down\n"


@pytest.mark.parametrize("level", overlord.LEVELS)
def test_log_levels(pipe: Pipe, level: str) -> None:
    """What is less than `log_level` is not said, except what always is."""
    log = pipe.log(level)
    for each in overlord.LEVELS:
        log.message(each, "", each)
    log.message("debug", "", "exiting", always=True)
    said = overlord.LEVELS[overlord.LEVELS.index(level) :]
    assert pipe.read() == "".join(f"overlord: {each}\n" for each in (*said, "exiting"))


def test_log_json(pipe: Pipe) -> None:
    """A time stamp, a level, a unit where there is one, a message."""
    log = pipe.log(form="json")
    log.message("warning", "web", 'it said "no"\\ \udcff ä')
    log.message("info", "", "x")
    first, second = map(json.loads, pipe.read().splitlines())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first.pop("time"))
    assert first == {"level": "warning", "unit": "web", "message": 'it said "no"\\ \udcff ä'}
    assert set(second) == {"time", "level", "message"}


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("text", ["a\nb", "a\rb", "\x1b[31mred", "\0", "a\tb", "a\x7fb"])
def test_log_of_control_characters(pipe: Pipe, form: str, text: str) -> None:
    """What a child says cannot make a second line, nor colour the terminal."""
    pipe.log(form=form).message("info", "web", text)
    line = pipe.read()
    assert line.count("\n") == 1
    assert not re.search(r"[\0-\x1f\x7f]", line[:-1])


def test_log_of_bytes(pipe: Pipe) -> None:
    """Bytes that are no UTF-8 pass unchanged."""
    pipe.log().message("info", "", b"caf\xe9".decode("utf-8", "surrogateescape"))
    assert pipe.read().encode("utf-8", "surrogateescape") == b"overlord: caf\xe9\n"


@pytest.mark.parametrize("form", ["text", "json"])
def test_log_that_nobody_reads(pipe: Pipe, form: str) -> None:
    """It never waits: 64K are kept, the rest is counted, and the count is said when somebody reads again."""
    log = pipe.log(form=form)
    for number in range(5000):
        log.message("info", "web", f"message {number} {60 * 'x'}")
    assert 0 < len(log.stream.kept) <= overlord.LOG_KEPT
    lost = log.lost
    assert 0 < lost < 5000
    text = ""
    for _ in range(100):
        text += pipe.read()
        log.stream.flush()
        log.catch_up()
    assert (len(log.stream.kept), log.lost) == (0, 0)
    lines = text.splitlines()
    if form == "json":
        lines = [json.loads(line)["message"] for line in lines]
    numbers = [int(match[1]) for line in lines for match in [re.search(r"message (\d+) ", line)] if match]
    assert numbers == list(range(5000 - lost))
    assert f"{lost} messages were lost" in lines[-1]
    log.message("info", "web", "again")
    assert "again" in pipe.read()


def test_log_keeps_lines_whole(pipe: Pipe) -> None:
    """A line that fits no more is left out as a whole, a shorter one after it may fit."""
    log = pipe.log()
    while not log.stream.kept:
        log.message("info", "", "x" * 2000)
    log.message("info", "", "y" * overlord.LOG_KEPT)
    log.message("info", "", "short")
    text = ""
    for _ in range(100):
        text += pipe.read()
        log.stream.flush()
        log.catch_up()
    assert all(re.fullmatch("overlord: (x{2000}|short|1 messages? (were|was) lost.*)", line) for line in text.splitlines())
    assert "short" in text


def test_log_without_a_reader(pipe: Pipe) -> None:
    """A closed pipe is no error, nobody will ever read it; that overlord's own write raised SIGPIPE is noted."""
    log = pipe.log()
    os.close(pipe.reader)
    Sink.broken = False
    try:
        for _ in range(3):
            log.message("info", "", "x")
        assert (len(log.stream.kept), log.lost, Sink.broken) == (0, 0, True)
    finally:
        Sink.broken = False


def test_log_after_a_stuck_reader_keeps_as_much_again(pipe: Pipe) -> None:
    """What was kept for him once does not count against what is kept the next time."""
    log = pipe.log()
    for _ in range(2):
        while len(log.stream.kept) < 0.9 * overlord.LOG_KEPT:
            log.message("info", "", "x" * 1000)
            assert not log.lost
        while pipe.read() or log.stream.kept:
            log.stream.flush()


def test_log_details(pipe: Pipe) -> None:
    """In text a line each with the unit in front, in JSON further fields of the same object."""
    details = {"command": "a\nb", "last output": ["one", "\x1b[31mtwo", "\udcff"]}
    pipe.log().message("error", "web", "failed", details)
    head = "overlord: web: "
    lines = ["failed", "  command:", "  | a", "  | b", "  last output:", "  | one", "  | \\x1b[31mtwo", "  | \udcff"]
    assert pipe.read().splitlines() == [head + line for line in lines]
    pipe.log(form="json").message("error", "web", "failed", details)
    text = pipe.read()
    assert text.count("\n") == 1
    record = json.loads(text)
    assert {key: record[key] for key in details} == details


def test_log_leaves_standard_error_as_it_is(pipe: Pipe) -> None:
    """It writes through an open file of its own: O_NONBLOCK on the shared one would hit everybody who has it."""
    os.set_blocking(pipe.writer, True)
    saved = os.dup(2)
    os.dup2(pipe.writer, 2)
    try:
        log = Log(Stream(Watch(), 2), "info", "text")
        log.message("info", "", "here")
        blocking = os.get_blocking(2)
        own = log.stream.fd
    finally:
        os.dup2(saved, 2)
        os.close(saved)
    assert blocking
    assert own != 2
    os.close(own)
    assert pipe.read() == "overlord: here\n"
