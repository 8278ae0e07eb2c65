"""Fuzz: whatever is written, asked or answered, overlord says what is wrong with it, or does it; never a traceback.

    python tests/fuzz.py [--seconds 120] [--seed N] [TARGET ...]

Each target is a function that takes bytes and raises where a promise is broken, and a hypothesis strategy that makes such
bytes. Where atheris is installed, a part of the time goes to it: it begins with the same seeds and follows what it covers.
A finding is printed as the bytes to give to the target, shrunk by hypothesis, with the seed of the run.

`SPLIT` stands in the bytes between the parts of which there may be several: files, connections, answers.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import ctypes
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import types
import unittest.mock
import warnings
import zlib
from collections import namedtuple
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Callable, Iterator
from unittest import mock

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))  # last: a broken copy on PYTHONPATH goes first
GUIDED = "--guided"  # this process is one that atheris runs in
if GUIDED in sys.argv:
    import atheris

    with atheris.instrument_imports(include=["overlord"]):
        import overlord
else:
    import overlord

import convert  # noqa: E402
from harness import OVERLORD, PATIENCE, children, read_all  # noqa: E402
from test_config import BAD, SOUP, cpu_limit, worlds, write  # noqa: E402
from test_convert import CASES, SOURCES, accept  # noqa: E402

SPLIT = b"\n%%\n"
ENVIRONMENT = {"A": "x", "LITTLE_DIR": "/nowhere", "PORT": "8080"}
HELD = 2.0  # s of the processor's time that one case may take
CODES = (0, 1, 3, 64, 69, 77, 78)
MOST = 60  # units above which a configuration is read, and not played


ASKED = [name for name, verb in overlord.VERBS.items() if verb.asks]  # of a running overlord
WEB = b" web\tdaemon\tok\t1\t1\t1\t0" + b"\t" * (len(overlord.RECORD) - 6) + b"1\t0 ok\n=0\n"  # the answer to `status`


def parts(data: bytes) -> list[bytes]:
    """Return what stands between the `SPLIT`s."""
    return data.split(SPLIT)


def dice(data: bytes) -> random.Random:
    """Return chance that is the same for the same bytes."""
    return random.Random(zlib.crc32(data))


# --- the pure rooms, with processes that are mere numbers -------------------------------------------------------------


class Play:
    """A fleet and its crank: just enough to see a plan through."""

    def __init__(self, config: Any, rng: random.Random) -> None:
        self.fleet, self.rng, self.now = overlord.Fleet(config, rng.random), rng, time.monotonic()
        self.control: Any = None
        self.last, self.code = 100, None
        self.dying: dict[str, int] = {}
        self.fleet.want_all(self.now)
        self.perform()

    def perform(self) -> None:
        """Do what the fleet wants done, as `Loop.perform` does."""
        actions = self.fleet.take_actions()
        while actions:
            action = actions.pop(0)
            unit = self.fleet.units.get(getattr(action, "unit", "")) if isinstance(getattr(action, "unit", ""), str) else None
            status = unit.status if unit else overlord.Status()
            if isinstance(action, overlord.Spawn):
                if status.state in (overlord.STARTING, overlord.RUNNING) and not status.pid:
                    self.last += 1
                    kind = "unspawned" if self.rng.random() < 0.05 else "spawned"
                    self.fleet.feed(action.unit, overlord.Event(kind, 'no "\\such\x1b\tthing', pid=self.last), self.now)
            elif isinstance(action, (overlord.Kill, overlord.StopCommand)):
                self.dying[action.unit] = -9
            elif isinstance(action, overlord.Test):
                if action.purpose in ("listen", "wait_for"):
                    self.fleet.reach(action.unit, self.now)
                elif action.purpose == "ready":
                    self.fleet.feed(action.unit, overlord.Event("ready"), self.now)
            elif isinstance(action, overlord.Exit):
                self.code = action.code
            elif isinstance(action, (overlord.Say, overlord.Changed)) and self.control:
                self.control.publish(action)
            elif isinstance(action, overlord.Replan) and self.control:
                self.control.refollow()
            actions += self.fleet.take_actions()
        if self.control:
            self.control.answer_waiting(self.now)

    def turn(self, seconds: float) -> None:
        """Let time pass, and what was killed end."""
        self.now += seconds
        dying, self.dying = self.dying, {}
        for name, code in dying.items():
            if name in self.fleet.units and self.fleet.units[name].status.pid:
                self.fleet.feed(name, overlord.Event("exited", code=code), self.now)
        for name, unit in list(self.fleet.units.items()):
            if unit.status.deadline is not None and unit.status.deadline <= self.now:
                self.fleet.take_deadline(name, self.now)
        self.fleet.take_deadline("", self.now)
        self.perform()
        if self.fleet.sweeping and self.code is None:
            self.fleet.end_shutdown()
            self.perform()

    def disturb(self) -> None:
        """Have units end by themselves, and time pass."""
        for _ in range(8):
            for name, unit in list(self.fleet.units.items()):
                if unit.status.pid and self.rng.random() < 0.3:
                    self.dying[name] = self.rng.choice([0, 0, 1, 127, -11])
            self.turn(self.rng.choice([0.0, 0.1, 1.0, 40.0]))

    def end(self) -> None:
        """Ask for shutdown, and see that it comes to an end."""
        self.fleet.ask_shutdown("fuzz", self.now, 15)
        for _ in range(10 * len(self.fleet.units) + 50):
            if self.code is not None:
                break
            self.perform()
            self.turn(1.0)
        assert self.code in range(256), f"no end, or a strange one: {self.code}"


# --- configurations --------------------------------------------------------------------------------------------------


def read(data: bytes) -> Any:
    """Return what the files in `data` make together, or None after looking at the mistakes."""
    files = parts(data)
    draft = overlord.Draft(ENVIRONMENT)
    try:
        for number, content in enumerate(files):
            draft.read_text(f"{number}.conf", content)
        return draft.validate()
    except overlord.Mistakes as found:
        assert found.args[0], "it is refused, and nobody knows why"
        for line in found.args[0]:
            place = re.fullmatch(r"(\d+)\.conf:([1-9]\d*): [^\n]+", line)
            assert place, f"not of the form FILE:LINE: text: {line!r}"
            assert int(place[2]) <= files[int(place[1])].count(b"\n") + 1, f"no such line: {line!r}"
        return None


def configuration(data: bytes) -> None:
    """Any text is a configuration, which can be played and told about, or it is mistakes with a place each."""
    config = read(data)
    if not config:
        return
    for unit in config.units.values():
        assert all(isinstance(word, str) for word in overlord.command_line(unit.cmd, {}))
    list(overlord.warn_of_image(config, {}))
    if len(config.units) > MOST:
        return
    play = Play(config, dice(data))
    with desk(play) as ask:
        for _ in range(2):
            answers = [ask(b"status\n"), ask(b"logs *\n" if config.units else b"version\n")]
            check_site(ask(b"serve\n"), config.order)
            for verb in ("status", "status -j", "graph", "graph --dot", "timeline", "timeline -j"):
                with client_of(answers[:1]) as shown:
                    code = overlord.main(verb.split())
                text = b"".join(out for fd, out in shown if fd == 1).decode()
                assert code in (0, 3), f"{verb}: {code}, {shown}"
                if verb.endswith("-j"):
                    assert [unit["name"] for unit in json.loads(text)] == config.order
                else:
                    assert text or not config.units
            for name in config.order[:3]:
                with client_of([answers[0], ask(b"logs -n 5 " + name.encode() + b"\n")]):
                    assert overlord.main(["why", "--", name] if name[0] == "-" else ["why", name]) in (0, 64)
            play.disturb()
    play.end()


def reload(data: bytes) -> None:
    """From any valid configuration to any other and back: a plan, and an end."""
    configs = [config for config in map(read, data.split(b"\n%%%\n")[:3]) if config and len(config.units) <= MOST]
    if len(configs) < 2:
        return
    play = Play(configs[0], dice(data))
    for config in [*configs[1:], configs[0], configs[1]]:
        play.fleet.change_config(config, play.now)
        play.perform()
        if play.rng.random() < 0.7:
            play.disturb()
        if play.code is not None or play.fleet.ending:
            break
    if play.code is None:
        play.end()


# --- values ----------------------------------------------------------------------------------------------------------

PARSERS = [option.parse for option in overlord.OPTIONS if option.name != "env"]
INSTANTS = [951782399.0, 1711846740.0]


def words(data: bytes) -> None:
    """Every parser takes any text, or says what is wrong with it; a schedule has a next run; a glob takes no time."""
    text = data.decode("utf-8", "replace").replace("\0", "")
    values = [(lambda text: overlord.fill_env(overlord.parse_env(text), ENVIRONMENT), (text,))]
    values += [(lambda text: overlord.fill(text, ENVIRONMENT), (text,))]
    values += [(parse, (text,)) for parse in [overlord.parse_env, *PARSERS]]
    values += [(overlord.parse_signal, (text,)), (overlord.parse_duration, (text,))]
    values += [(overlord.match_names, (text.split(), ["web", "web-1", "db", "a.b_c"]))]
    for parse, given_ in values:
        with contextlib.suppress(overlord.Mistake):
            value = parse(*given_)
            if parse is overlord.parse_schedule and not value.every:
                for instant in INSTANTS:
                    following = overlord.next_run(value, instant)
                    assert following is None or instant < following, f"{text!r} from {instant}: {following}"
            elif parse is overlord.parse_duration:
                assert overlord.spell_duration(value)
    assert overlord.command_line(text, {}) or not text.strip()
    for spelt in (json.loads(overlord.spell_json(text)), json.loads(overlord.spell_json(overlord.decode(data)))):
        assert isinstance(spelt, str)
    assert not re.search(r"[\0-\x1f\x7f-\x9f]", overlord.clean(text))


def variables(data: bytes) -> None:
    """Whatever an env_file and a secret hold: an environment that a program can be started with, or why not."""
    contents = [*parts(data), b""]
    with tempfile.TemporaryDirectory(dir=SHM) as folder:
        paths = [os.path.join(folder, name) for name in ("file", "secret")]
        for path, content in zip(paths, contents):
            Path(path).write_bytes(content)
        spec = blank()._replace(env_file=(paths[0],), secrets=("S",) if len(contents) > 2 else ())
        try:
            found = overlord.read_variables(spec, {b"S_FILE": os.fsencode(paths[1])}, {})
        except overlord.StartError as error:
            assert re.match(r"(env_file .+:\d+|secret S): ", str(error)), f"no place: {error}"
            return
    for key, value in found.items():
        assert b"\0" not in key + value, f"no program can be started with {key!r}"
        assert key and b"=" not in key
    with contextlib.suppress(overlord.Mistake):
        pairs = overlord.parse_env("X=${S:-}\nY=${A:-1}")
        overlord.fill_env(pairs, {overlord.decode(key): overlord.decode(value) for key, value in found.items()})


def blank() -> Any:
    """Return the spec of a unit with nothing but a command."""
    return read(b"[daemon:web]\ncmd = x\nready = notify\n").units["web"]


# --- the socket ------------------------------------------------------------------------------------------------------

SHM = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
SERVED = b"""
[overlord]
log_level = error
[daemon]
warmup = 0
on_failure = ignore
[daemon:web]
cmd = x
deps = db:bounce, setup:always
[daemon:db]
cmd = x
[daemon:spare]
cmd = x
autostart = no
[daemon:pool]
cmd = x
count = 3
[script:setup]
cmd = x
[script:job]
cmd = x
on_failure = ignore
"""


def compute(call: Callable[[], bytes], done: Callable[[bytes], None]) -> None:
    """As `Kernel.compute`, at once."""
    done(call())


@contextlib.contextmanager
def desk(play: Play) -> Iterator[Callable[..., bytes]]:
    """The real Control room above a fleet that is played. Gives a function: what comes back for these bytes, in pieces."""
    watch = overlord.Watch()
    output = overlord.Output(watch, "error", "text", False)
    kernel = types.SimpleNamespace(send_signals=lambda *words: "", compute=compute)
    play.control = control = overlord.Control(output, play.fleet, kernel, reread)
    tail = output.tails["web"] = overlord.Tail()
    tail.add(b"a line\n\xff\xfe another\n")
    opened: list[tuple[socket.socket, Any]] = []

    def connect() -> socket.socket:
        here, there = socket.socketpair()
        here.setblocking(False)
        opened.append((here, overlord.Request(control, there, 0)))
        control.requests.append(opened[-1][1])
        return here

    def pump() -> None:
        watch.wait(time.monotonic())
        play.now = time.monotonic()
        play.perform()
        for request in control.requests:
            assert len(request.heard) <= overlord.REQUEST_MAX + 4096, "it keeps what nobody asked it to"
            assert len(request.answer) <= overlord.ANSWERS_MAX + 2 * overlord.LINE_MAX, "it keeps what nobody reads"

    def ask(*pieces: bytes, leave: bool = False) -> bytes:
        here = connect()
        return talk(here, *pieces, leave=leave)

    def talk(here: socket.socket, *pieces: bytes, leave: bool = False) -> bytes:
        answer = b""
        for piece in pieces:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError, BlockingIOError):
                here.send(piece)
            pump()
        for _ in range(3):
            pump()
            with contextlib.suppress(BlockingIOError, ConnectionResetError):
                while more := here.recv(65536):
                    answer += more
                return answer
        return answer

    ask.connect, ask.talk, ask.control = connect, talk, control  # type: ignore[attr-defined]
    before = set(watch.calls)
    try:
        yield ask
        for here, _ in opened:
            here.close()
        for _ in range(5):
            pump()
        assert not control.requests, "it keeps clients that are gone"
        assert set(watch.calls) == before, "it listens to clients that are gone"
    finally:
        play.control = None
        for here, request in opened:
            here.close()
            request.hang_up()
        for stream in output.streams.values():
            with contextlib.suppress(OSError):
                os.close(stream.fd) if stream.fd > 2 else None
        watch.epoll.close()


def reread() -> Any:
    """Return the configuration anew: each time one that differs, or mistakes."""
    reread.turn = getattr(reread, "turn", 0) + 1  # type: ignore[attr-defined]
    text = SERVED.replace(b"count = 3", b"count = %d" % (reread.turn % 5))  # type: ignore[attr-defined]
    if reread.turn % 3 == 0:  # type: ignore[attr-defined]
        raise overlord.Mistakes(["0.conf:1: no"])
    return read(text)


def pieces_of(data: bytes) -> list[bytes]:
    """Cut bytes into pieces, in a way that follows from them."""
    rng, pieces = dice(data), []
    while data:
        size = rng.choice([1, 3, len(data), 4096])
        size = max(size, len(data) // 20)
        pieces.append(data[:size])
        data = data[size:]
    return pieces


def control(data: bytes) -> None:
    """Whatever comes on however many connections, in whatever pieces: an answer by the protocol, or none; others are served."""
    play = Play(read(SERVED), dice(data))
    reread.turn = zlib.crc32(data) % 5  # type: ignore[attr-defined]
    with desk(play) as ask:
        asked = [(ask.connect(), part, pieces_of(part)) for part in parts(data)[:5]]  # type: ignore[attr-defined]
        heard = dict.fromkeys([here for here, _, _ in asked], b"")
        while any(pieces for _, _, pieces in asked):
            for here, _, pieces in asked:
                heard[here] += ask.talk(here, *pieces[:1])  # type: ignore[attr-defined]
                del pieces[:1]
            if play.rng.random() < 0.3:
                play.turn(0.0)
        for _ in range(10):  # what was asked comes about
            play.turn(0.0)
        for here, part, _ in asked:
            heard[here] += ask.talk(here)  # type: ignore[attr-defined]
            check_answer(part, heard[here], play.code is None)
        assert play.code is not None or ask(b"version\n") == b" overlord %s\n=0\n" % overlord.VERSION.encode()


def check_answer(request: bytes, answer: bytes, alive: bool = True) -> None:
    """Look at what came back for a request; `alive`: overlord has not ended meanwhile, as a reload may have it do."""
    lines = answer.split(b"\n")
    assert lines.pop() == b"", f"half a line: {answer!r}"
    assert all(line[:1] in b" !+=" and line for line in lines), f"a line of no kind: {answer!r}"
    assert not re.search(rb"(?m)^[!=].*[\0-\t\v-\x1f\x7f]", answer), f"control characters: {answer!r}"
    ends = [index for index, line in enumerate(lines) if line[:1] == b"="]
    assert ends in ([], [len(lines) - 1]), f"no end, or several: {answer!r}"
    assert not ends or int(lines[-1][1:]) in range(256)
    if alive and b"\n" in request and len(request) <= overlord.REQUEST_MAX:
        assert answer, f"no answer to {request[:100]!r}"


# --- HTTP ------------------------------------------------------------------------------------------------------------

VOID = {"meta", "link", "br", "hr", "img", "input"}
LABELS = r'(?:\{(?:[a-z]+="(?:[^"\\\n]|\\["\\n])*",?)*\})'
SAMPLE = re.compile(rf"(overlord_[a-z_]+{LABELS}?) -?[0-9.e+-]+")


class Balance(HTMLParser):
    """Sees that each tag of a page is closed in its turn, and that no script is there but the one of the page itself."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.scripts = 0
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"
        assert self.scripts == 1, f"{self.scripts} scripts"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        assert not [name for name, _ in attrs if name[:2] == "on"], f"a handler: {attrs}"
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> in {self.open}"


def check_site(answer: bytes, names: list[str]) -> None:
    """Have drawn all that is served from what overlord tells `serve`, and look at it."""
    lines = [line[1:] for line in overlord.decode(answer).split("\n")[:-2]]
    seen = overlord.read_seen(lines)
    shown = {path: draw(seen, 1e9).encode("utf-8", "replace").decode() for path, (_, draw) in overlord.SERVED.items()}
    assert [unit["name"] for unit in json.loads(shown["/status"])] == names
    samples = [SAMPLE.fullmatch(line) for line in shown["/metrics"].splitlines() if line[:1] != "#"]
    assert all(samples), f"a strange line: {[line for line in shown['/metrics'].splitlines() if not SAMPLE.fullmatch(line)]}"
    keys = [sample[1] for sample in samples if sample]
    assert len(keys) == len({*keys}), "a sample is there twice"
    assert sum('state="' in key for key in keys) == len(names) * len(overlord.STATES)
    assert not re.search(r"[\0-\x08\x0b-\x1f]", shown["/"])
    Balance(shown["/"])


class Served:
    """`overlord.py serve` in processes of its own, and behind it, in a thread here, one who answers as PID 1 does."""

    answer = b"".join(
        b" %s\n" % line for line in (
            b"0\thealthy: 1 daemon ok", b"0.1.0\t7",
            b"web\tdaemon\tok\t17\t5.000\t6.000\t1\t\t\t\t\t1048576\t0.25\t2\t2\t3\t\t\t6.0000\t0.0000 waiting\t1.0010 ok",
        )
    )  # fmt: skip
    only: Served | None = None

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="overlord-fuzz-", dir=SHM))
        atexit.register(self.close)
        (self.folder / "conf").write_text(f"[overlord]\nsocket = {self.folder}/s\n")
        self.control = socket.socket(socket.AF_UNIX)
        self.control.bind(f"{self.folder}/s")
        self.control.listen(16)
        threading.Thread(target=self.tell, daemon=True).start()
        listeners = [socket.create_server(("127.0.0.1", 0), backlog=100), socket.socket(socket.AF_UNIX)]
        listeners[1].bind(f"{self.folder}/http")
        listeners[1].listen(100)
        self.places = [sock.getsockname() for sock in listeners]

        def hand_over() -> None:
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
            copies = [os.dup(os.dup(sock.fileno())) for sock in listeners]  # none of which is 3 or 4 any more
            for number, fd in enumerate(copies, 3):
                os.dup2(fd, number)
                os.set_inheritable(number, True)

        script = f'LISTEN_FDS=2 LISTEN_PID=$$ exec "{sys.executable}" -I -S "{OVERLORD}" -c {self.folder}/conf serve'
        with open(self.folder / "log", "wb") as log:
            self.popen = subprocess.Popen(["sh", "-c", script], preexec_fn=hand_over, close_fds=False, stdout=log, stderr=log)
        for sock in listeners:
            sock.close()
        assert self.get("/health").startswith(b"HTTP/1.1 200 "), self.log()
        (self.reader,) = children(self.popen.pid)
        self.descriptors = min(self.count_descriptors(pause=0.01) for _ in range(20))  # that visit is over

    @classmethod
    def get_only(cls) -> Served:
        """Return the one that serves all cases of this process."""
        cls.only = cls.only if cls.only and cls.only.popen.poll() is None else cls()
        return cls.only

    def tell(self) -> None:
        """Be PID 1, for who asks for what anybody may see."""
        with contextlib.suppress(OSError):
            while True:
                asking, _ = self.control.accept()
                with asking:
                    assert asking.recv(100) == b"serve\n"
                    asking.sendall(self.answer + b"=0\n")

    def count_descriptors(self, pause: float = 0.0) -> int:
        """Count those of the process that reads requests."""
        time.sleep(pause)
        return len(os.listdir(f"/proc/{self.reader}/fd"))

    def connect(self, way: int) -> socket.socket:
        """Return a connection, by TCP or the file."""
        place = self.places[way % len(self.places)]
        sock = socket.socket(socket.AF_UNIX if isinstance(place, str) else socket.AF_INET)
        sock.settimeout(PATIENCE)
        sock.connect(place)
        return sock

    def get(self, path: str) -> bytes:
        """Return what comes back for a plain request."""
        with self.connect(0) as sock:
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            return read_all(sock)

    def log(self) -> str:
        """Return all that it has said."""
        return (self.folder / "log").read_text(errors="replace")

    def close(self) -> None:
        """End it."""
        self.popen.kill()
        self.popen.wait()
        self.control.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def http(data: bytes) -> None:
    """Whatever comes on however many connections, in whatever pieces: the right answer; and nothing is left of it."""
    served, rng = Served.get_only(), dice(data)
    asked = [(served.connect(rng.randrange(2)), part, pieces_of(part)) for part in parts(data)[:5]]
    while any(pieces for _, _, pieces in asked):
        for sock, _, pieces in asked:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                for piece in pieces[:1]:
                    sock.sendall(piece)
            del pieces[:1]
    for sock, part, _ in asked:
        with sock:
            with contextlib.suppress(OSError):  # it may have hung up
                sock.shutdown(socket.SHUT_WR)
            check_response(part, read_all(sock))
    assert served.get("/health").endswith(b"\r\n\r\nhealthy: 1 daemon ok\n"), "nobody else is answered"
    deadline = time.monotonic() + PATIENCE
    while served.count_descriptors(pause=0.001) > served.descriptors:
        assert time.monotonic() < deadline, "it keeps connections that are gone"
    assert served.popen.poll() is None and not served.log(), served.log()


def check_response(request: bytes, response: bytes) -> None:
    """Look at what came back for a request after which the client closed its side."""
    right = find_statuses(request)
    if not response:
        assert 0 in right, f"no answer, not one of {right}, to {request[:200]!r}"
        return
    head, _, body = response.partition(b"\r\n\r\n")
    line, *lines = head.decode("ascii").split("\r\n")
    found = re.fullmatch(r"HTTP/1\.1 (\d{3}) [A-Z][A-Za-z ]+", line)
    assert found and int(found[1]) in right, f"{line}, not one of {right}, to {request[:200]!r}"
    headers = dict(each.split(": ", 1) for each in lines)
    length = int(headers["Content-Length"])
    bare = request.lstrip(b"\r\n").startswith(b"HEAD ") and not body
    assert bare or len(body) == length, f"{len(body)} bytes, not {length}, to {request[:200]!r}"
    if b"healthy" in body[:30]:
        assert body == b"healthy: 1 daemon ok\n"


def find_statuses(request: bytes) -> set[int]:
    """Return the statuses of which one is right for a request, by what README.md and RFC 9112 say; 0: no answer."""
    text = request.lstrip(b"\r\n")
    end = re.search(rb"\n\r?\n", text)
    head = text[: end.end()] if end else text
    long = {431} if len(head) > 8000 else set()  # 8 KB, or a few bytes more
    if len(head) > 8400:
        return {431}
    if not end:
        return long | {0, 400}
    line, *lines = [each[:-1] if each[-1:] == b"\r" else each for each in head.split(b"\n")[:-2]]
    words = line.split(b" ")
    broken = len(words) != 3 or not all(words) or not re.fullmatch(rb"HTTP/1\.\d", words[2]) or re.search(rb"[^!-~ ]", line)
    for header in lines:
        name, colon, value = header.partition(b":")
        broken = broken or not colon or not re.fullmatch(rb"[!-~]+", name) or re.search(rb"[\0\r]", value)
    if broken:
        return {400} if b"://" not in line else {400, 404, 405, 200}  # an odd host is nobody's affair
    method, target = words[0], words[1].decode()
    path = re.sub(r"^https?://[^/?]*", "", target).partition("?")[0] or "/"
    if method not in (b"GET", b"HEAD"):
        return {405} | long
    return ({200} if path in ("/", "/health", "/status", "/metrics") else {404}) | long


# --- the client ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def client_of(answers: list[bytes]) -> Iterator[list[tuple[int, bytes]]]:
    """Have the client meet a server that gives these answers, one a connection, and hangs up. Yields what it puts out."""
    put_out: list[tuple[int, bytes]] = []
    left, ends = list(answers), []

    def dial(place: str, words: list[str], timeout: float = 0.0) -> socket.socket:
        if not left:
            raise ConnectionRefusedError(111, "Connection refused")
        here, there = socket.socketpair()
        ends.append(there)
        there.setblocking(False)
        there.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        with contextlib.suppress(BlockingIOError):
            there.send(left.pop(0))
        there.shutdown(socket.SHUT_WR)
        return here

    handlers = {number: signal.getsignal(number) for number in (signal.SIGPIPE, signal.SIGINT)}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    fake_run = mock.Mock(return_value=0)
    with mock.patch("os.isatty", return_value=False), mock.patch.multiple(  # on a terminal `top` would be live
        overlord,
        dial=dial,
        run=fake_run,
        write_out=lambda fd, text: put_out.append(
            (fd, text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape"))
        ),
        found_environment=lambda: {b"PATH": b"/bin"},
        DEFAULT_CONFIG="/nowhere/overlord.conf",
    ):
        try:
            yield put_out
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            for number, handler in handlers.items():
                signal.signal(number, handler)
            for end in ends:
                end.close()


def check_client(code: int, shown: list[tuple[int, bytes]], codes: Any) -> None:
    """Look at what the client says, and at its exit code."""
    said = b"".join(data for fd, data in shown if fd == 2)
    assert code in codes, f"code {code}: {said!r}"
    assert b"Traceback" not in said
    if code == 64:
        assert said.startswith(b"overlord: ") and b"overlord.py help shows how it is used: exiting with code 64\n" in said


def server(data: bytes) -> None:
    """A client that meets a server which says anything: words, and a code."""
    verb, *answers = parts(data)
    argv = verb.decode("utf-8", "replace").split()
    if not argv or argv[0] not in ASKED or "-c" in argv:
        return
    with client_of(answers) as shown:
        code = overlord.main(argv)
    check_client(code, shown, range(256))


def arguments(data: bytes) -> None:
    """Any words on the command line: done, or refused with a documented code and a hint. (`run` itself is left out.)"""
    argv = [overlord.decode(word) for word in data.split(b"\0") if word]
    if "compile" in argv and any("/" in word for word in argv):
        return  # what it writes stays in the folder
    if "-c" in argv[:-1] and not argv[argv.index("-c") + 1].endswith(".conf"):
        argv[argv.index("-c") + 1] = "absent.conf"  # not a device that never ends
    answers = [b" overlord 1\n=0\n"] if dice(data).random() < 0.5 else []
    no_fork = mock.patch("os.fork", side_effect=BlockingIOError(11, "Resource temporarily unavailable"))  # for `serve`
    with tempfile.TemporaryDirectory(dir=SHM) as folder, client_of(answers) as shown, inside(Path(folder)), no_fork:
        shutil.copy(BAD / "cmd-missing.conf", folder)
        code = overlord.main(argv)
        made = {*os.listdir(folder)} - {"cmd-missing.conf"}
    check_client(code, shown, CODES)
    assert not made or "compile" in argv, f"it has written {made}"


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Work in a folder."""
    former = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(former)


# --- sd_notify -------------------------------------------------------------------------------------------------------


def notices(data: bytes) -> None:
    """Whatever a daemon tells about itself, `status` tells all about it on one line, `serve` shows it, MAINPID= is obeyed."""
    name = dice(data).choice(["web", "w" * 120])
    more = dice(data).choice(["", "watchdog = 10s\n"])
    config = read(f"[daemon:{name}]\ncmd = x\nready = notify\n{more}".encode())
    play, watch = Play(config, dice(data)), overlord.Watch()
    named: list[int] = []
    loop = types.SimpleNamespace(fleet=play.fleet, watch=watch, census=types.SimpleNamespace(survey=lambda reuse: {}))
    loop.name_main = lambda unit, pid, source: named.append(pid) if source == "MAINPID=" else None
    loop.inform = types.MethodType(overlord.Loop.inform, loop)
    taken = overlord.Notices(loop)
    unit = play.fleet.units[name]
    address = taken.wire_notices(unit)[0]["NOTIFY_SOCKET"]
    sock = unit.notices[0]
    try:
        unit.status = unit.status._replace(state=overlord.STARTING, ready=False, pid=os.getpid())
        # this process tells, as if it led a session: that of the test run may be of another namespace, and have no number here
        own = overlord.Process(os.getpid(), 1, "x", 1, os.getpid())
        led = unittest.mock.patch.object(overlord, "read_process", return_value=own)
        with led, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
            told.connect("\0" + address[1:])
            for part in parts(data):
                gifts = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, b"".join(map(bytes, [[1, 0, 0, 0]] * (len(part) % 3))))]
                told.sendmsg([part], gifts if len(part) % 3 else [])
                before = len(os.listdir("/proc/self/fd"))
                taken.read_notice(unit)
                assert len(os.listdir("/proc/self/fd")) == before, "a descriptor that came with it is kept"
        play.perform()
        assert not re.search(r"[\0-\x1f\x7f]", play.fleet.explain(unit, play.now))
        told_lines = [overlord.decode(part[:4096]).splitlines() for part in parts(data)]
        meant = [line[8:] for lines in told_lines for line in lines if line.startswith("MAINPID=")]
        assert named == [int(pid) for pid in meant if re.fullmatch("[0-9]+", pid) and len(pid) < 10]
        lines = [line for lines in told_lines for line in lines]
        if "WATCHDOG=trigger" not in lines:
            assert ("READY=1" in lines) == (unit.status.ready or unit.status.state == overlord.OK)
        elif lines.index("WATCHDOG=trigger") > [*lines, "READY=1"].index("READY=1"):
            assert unit.status.stale or unit.status.state != overlord.OK, "it asked for a restart"
        with desk(play) as ask:
            check_site(ask(b"serve\n"), [name])
    finally:
        sock.close()
        watch.epoll.close()


# --- other supervisors' files ------------------------------------------------------------------------------------------

FORMS = ("a.conf", "a.circus.ini", "Procfile")


def converted(data: bytes) -> None:
    """Any file of another supervisor becomes a configuration that overlord accepts, or convert.py says why not, and where."""
    form, *rest = parts(data)
    name = form.decode() if form.decode("utf-8", "replace") in FORMS else dice(data).choice(FORMS)
    with tempfile.TemporaryDirectory(dir=SHM) as folder:
        path = Path(folder, name)
        path.write_bytes(SPLIT.join(rest))
        try:
            made, code = convert.convert(str(path))
        except convert.Unreadable as why:
            place = re.fullmatch(rf"{re.escape(folder)}/[^\n]+?:([1-9]\d*): [^\n]+", str(why))
            assert place, f"not of the form FILE:LINE: text: {str(why)!r}"
            assert str(why)[len(str(path))] != ":" or int(place[1]) <= SPLIT.join(rest).count(b"\n") + 1, f"no such line: {why}"
            return
    assert code == ("# TODO " in made)
    accept(made)


# --- what to try -----------------------------------------------------------------------------------------------------

# Values that an option of that parser's kind may have: right ones, and ones at the edge of right.
VALUES: dict[str, list[str]] = {
    "cmd": ["x", "nginx -g 'daemon off;'", "a | b", "\n    if a; then\n      b\n    fi", "\\", "-x", "'", ". x", "a\\\n b"],
    "deps": ["a", "a:ok", "b:bounce", "s:always", "a:ok, b:bounce, s:always", "web, db", "a b", "none", "", "x:y:z"],
    "env": ["A=1", "A='1 2'\n    B=\"${A}\"", "A=${B:-$$}", "A=${X:?y}", "A='", "=", "A", "É=1"],
    "env_file": ["/a", "-/a -/b", "-"], "secrets": ["A", "A B,C", "1A"],
    "dir": ["/", "/nowhere", "x" * 5000], "uid": ["root", "0", "4294967295", "9999999999", "nobody-at-all"], "gid": ["0", "x"],
    "umask": ["022", "777", "888"], "nice": ["-20", "19", "20", "-0"],
    "limits": ["nofile=1024", "core=0 nofile=1:2", "nofile=2:1", "memlock=unlimited", "as=999999999999G", "x=1"],
    "stop_cmd": ["kill $MAINPID", "x"], "forward": ["HUP", "HUP>USR2 USR1", "none", "TERM", "CHLD>", "RTMIN+3"],
    "stop_signal": ["TERM", "SIGQUIT", "9", "0", "64", "RTMIN+15", "RTMAX-0", "RTMIN+99"],
    "shutdown_signals": ["TERM", "INT RTMIN+3", "KILL", "HUP"], "success": ["0", "0 1 TERM", "256", "-1"],
    "respawns": ["0", "5", "5/60s", "unlimited", "1/0", "999999999/999999999d"],
    "backoff": ["0", "1..2", "100ms..30s", "0..1", "2..1", ".000000001..999999999d"],
    "max_age": ["1h", "1h~10m", "1ms", "1~1", "none"], "count": ["0", "1", "2", "3", "1000", "1001"],
    "ready": ["notify", "fd:3", "log:^up", "log:[[a]", "log:(", "log:x{9999999999999}", "log:" + "(" * 2000, "cmd:true"],
    "health": ["tcp:80", "tcp:[::1]:80", "http://a:1/", "unix:/x", "file:/x", "cmd:x", "tcp:0", "http://[/", "none"],
    "listen": ["tcp:80", "tcp:a:1\n    unix:/x", "tcp:[::1]:1 tcp:2", "tcp:1 tcp:1", "http://a", "file:/x", "none"],
    "wait_for": ["tcp:a:1 tcp:b:2", "cmd:x y\n    tcp:1", "tcp:a:1,", "x"],
    "schedule": ["@hourly", "* * * * *", "*/5 1-3 * jan mon", "0 0 30 2 *", "0 0 29 2 *", "every 1s", "every", "@x"],
    "stdout": ["prefix", "null", "inherit", "/x", "/x/", "x"], "configdir": ["/nowhere"], "socket": ["none", "/x", "${A}"],
    "restart": ["always", "never", "on-failure"], "on_failure": ["ignore", "shutdown"], "on_success": ["ignore", "shutdown"],
    "log_level": ["debug"], "log_format": ["json", "text"], "log_max": ["0", "64K", "999999999999G"], "log_keep": ["0", "9"],
    "health_retries": ["1", "0"], "kill_mode": ["mixed", "all", "process", "none"], "pidfile": ["/x", "x", "/x/", "none"],
}  # fmt: skip
VALUES["stderr"], VALUES["output"] = [*VALUES["stdout"], "stdout"], VALUES["stdout"]
DURATIONS = ["0", "1", ".5s", "500ms", "999999999d", "1.000000001", "-1", "1e3", "1 s"]
BOOLEANS = ["yes", "no", "${A:-on}", "2"]
NAMES = ["a", "b", "s", "web", "db", "web-1", "x.y_z", "-j", ".", "n" * 120]


def values_of(option: Any) -> list[str]:
    """Return what to try for an option."""
    return VALUES.get(option.name) or (BOOLEANS if option.parse is overlord.parse_boolean else DURATIONS)


@st.composite
def grammatical(draw: Any) -> bytes:
    """Return a configuration of a few units that know of one another, with any option of the table."""
    chosen = draw(st.lists(st.tuples(st.sampled_from(["daemon", "script"]), st.sampled_from(NAMES)), max_size=6))
    sections = [*draw(st.lists(st.sampled_from(["overlord", "daemon", "script"]), max_size=2)), *map(":".join, chosen)]
    lines = []
    for section in dict.fromkeys(sections):
        kind = section.partition(":")[0]
        lines += [f"[{section}]", *(["cmd = x"] if ":" in section else [])]
        known = [option for option in overlord.BY_KIND[kind].values() if option.name != "cmd" or ":" not in section]
        for option in draw(st.lists(st.sampled_from(known), max_size=4, unique=True)):
            # for the most part a right one, which stand first: the whole has to be right to get any further
            tried = values_of(option)
            tried = tried[: draw(st.sampled_from([2, 2, 2, 2, 2, 2, len(tried)]))]
            lines.append(f"{option.name} = {draw(st.sampled_from(tried))}")
    return "\n".join(lines).encode() + b"\n"


FILES = sorted([*BAD.glob("*.conf"), *(HERE / "example").glob("*.conf")])
SEEDS = [path.read_bytes() for path in FILES if path.is_file()]
PIECES = [f"{option.name} = {value}".encode() for option in overlord.OPTIONS for value in values_of(option) if len(value) < 200]
PIECES += [f"[{kind}:{name}]\ncmd = x".encode() for kind in ("daemon", "script") for name in NAMES]
PIECES += [
    b"",
    b" ",
    b"    x",
    b"\xff",
    b"\0",
    b"\1",
    b"\r",
    b"\xe2\x80\xa8",
    b"${A",
    b"$$",
    b"%(x)s",
    b"[",
    b"]",
    b"\xef\xbb\xbf",
    SPLIT,
]


def mutate(data: bytes, edits: list[tuple[str, int, bytes]]) -> bytes:
    """Return the bytes after some edits, each of a kind, at a place, with a piece."""
    for kind, place, piece in edits:
        lines = data.split(b"\n")
        at = place % len(lines)
        if kind == "insert":
            lines.insert(at, piece)
        elif kind == "replace":
            lines[at] = piece
        elif kind == "value":
            lines[at] = lines[at].partition(b"=")[0] + b"= " + piece.partition(b"=")[2].strip()
        elif kind == "drop":
            del lines[at]
        elif kind == "double":
            lines.insert(at, lines[at])
        elif kind == "swap":
            lines[at], lines[-1] = lines[-1], lines[at]
        data = b"\n".join(lines)
        if kind == "byte" and data:
            spot = place % len(data)
            data = data[:spot] + (piece or b"=") + data[spot + place % 3 :]
    return data


EDITS = st.lists(
    st.tuples(
        st.sampled_from("insert replace value drop double swap byte".split()),
        st.integers(0, 1 << 16),
        st.one_of(st.sampled_from(PIECES), st.binary(max_size=3)),
    ),
    max_size=5,
)
TEXTS = st.one_of(
    grammatical(),
    grammatical(),
    st.builds(mutate, grammatical(), EDITS),
    st.builds(mutate, st.sampled_from(SEEDS), EDITS),
    st.builds(mutate, st.sampled_from(SEEDS), EDITS),
    SOUP.map(lambda text: text.encode("utf-8", "surrogatepass")),
)


@st.composite
def meant(draw: Any) -> bytes:
    """Return one of test_config's worlds: every value is right."""
    return write(draw, draw(worlds())[0]).encode()


VERBS = st.sampled_from([*overlord.VERBS, "run", "check", "help", "version", "stauts", "\xe9"])
WORDS = st.one_of(
    st.sampled_from(
        "web db pool pool-2 w* * [ [! [[a] [a--b] [] ? spare setup job -f -n -t -j --dot - -- 3 0 10ms KILL 0".split()
    ),
    st.sampled_from(
        ["-c", "a.conf", "cmd-missing.conf", "absent.conf", "-h", "--help", "-V", "\x1b[31m", "x" * 300, "\udcff", "\xe9"]
    ),
    st.text(max_size=6),
)
ARGV = st.lists(st.one_of(VERBS, WORDS), max_size=6)
LINES = st.tuples(VERBS, st.lists(WORDS, max_size=4)).map(
    lambda words: " ".join([words[0], *words[1]]).encode("utf-8", "replace")
)
ASKING = st.one_of(
    LINES.map(lambda line: line + b"\n"),
    LINES,
    st.binary(max_size=60),
    st.builds(
        bytes.__add__, LINES, st.sampled_from([b"\r\n", b"\n\n", b"\n" + b"x" * 20000, b" " * 9000 + b"\n", b"\0\n", b"=0\n"])
    ),
    st.just(b"status " + b"a " * 300 + b"\n"),
)
FIELDS = st.sampled_from(
    ["web", "db", "daemon", "ok", "waiting", "backoff", "1", "0.5", "", "nan", "1e999", "db:ok web:ok", "-1", "\udcff"]
)
NUMBERS = st.sampled_from(["1", "1", "0", "7", "", "-1", "0.5", "nan", "1e999"])
EVENTS = st.sampled_from(["0 waiting\t0.1 waiting for db:ok\t1 ok", "0 ok", "|a line", "-1 idle", "nan backoff\t1e999 failed"])
REPLIES = st.lists(
    st.one_of(
        st.tuples(*(NUMBERS if parse in (int, float) else FIELDS for parse in overlord.RECORD.values()), NUMBERS, EVENTS).map(
            lambda fields: " " + "\t".join(fields)),
        st.lists(FIELDS, max_size=14).map(lambda fields: " " + "\t".join(fields)),
        st.sampled_from(["=0", "=3", "=x", "=", "=-1", "=99999999999999999999", "+", "! no", "", "\udcff", " 0.1 ok\t1 ok"]),
        st.text(max_size=5),
    ),
    max_size=5,
).map(lambda lines: "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogatepass"))
TOLD = st.sampled_from(
    [
        *[b"READY=1", b"STATUS=", b"STATUS=x", b"STOPPING=1", b"RELOADING=1", b"\n", b"\n", b"\n", b"=", b"\0", b"\xff"],
        *[b"\x1b[31m", b"MAINPID=", b"MAINPID=1", b"MAINPID=%d" % os.getpid(), b"MAINPID=-1", b"WATCHDOG=1", b"0" * 5000],
        *[b"WATCHDOG=trigger", b"WATCHDOG_USEC=1", b"FDSTORE=1", b"BARRIER=1", b"<b>&", b"</script>", b"\t", b"9" * 30],
        *[b"\xe2\x80\xa8", b"\xd9\xa3", b"+1", b" 1", b"1_0"],
    ]
)
TOLD_LINES = st.one_of(
    TOLD,
    st.lists(TOLD, max_size=3).map(lambda pieces: b"STATUS=" + b"".join(pieces)),
    st.sampled_from([0, 1, 2, 99999, os.getpid()]).map(lambda pid: b"MAINPID=%d" % pid),
)
PAIRS = st.sampled_from(
    [b"A=1", b"A='1", b'A="1"', b"=", b"#", b" ", b"\n", b"\r\n", b"\0", b"\xff", b"\xc3\xa9=1", b"$", b"A", b"\x85"]
)
TARGETS_SENT = "/health /health /status /metrics / /none ? /health?x=1&y http://a.b:80/status http://a http://a?x * //"
TARGETS_SENT += " /a%20b /health#x HTTP://A/ https:// /../health \x7f /\0 /\xe9 /" + "a" * 3000
VERSIONS_SENT = "HTTP/1.1,HTTP/1.1,HTTP/1.1,HTTP/1.1,HTTP/1.0,HTTP/1.9,HTTP/2,HTTP/1.1 ,http/1.1,,HTTP/1.10,HTTP/1.1\r"
LINES_SENT = st.builds(
    "{} {} {}".format,
    st.sampled_from(["GET", "GET", "GET", "GET", "HEAD", "HEAD", "POST", "get", "OPTIONS", "", "G\xe9T", "\0"]),
    st.sampled_from([*TARGETS_SENT.split(" "), "", "/ x"]),
    st.sampled_from(VERSIONS_SENT.split(",")),
)
SENT_HEADERS = st.lists(
    st.sampled_from(
        [
            *["Host: x", "Host: x", "A:", "Content-Length: 9", "Transfer-Encoding: chunked", "Connection: keep-alive"],
            *["A: \xe9\t", "Expect: 100-continue", "Upgrade: h2c", "no colon", ": x", "A : b", " folded", "A: \0"],
            *["A: a\rb", "A" * 500 + ": b", "Range: bytes=0-1", "B: " + "b" * 2500, "A:b:c", "\t", "X\xe9: y"],
        ]
    ),
    max_size=4,
)
SENT = st.builds(
    lambda line, headers, eol, end, body: (eol.join([line, *headers]) + eol).encode("latin-1") + end + body,
    LINES_SENT,
    SENT_HEADERS,
    st.sampled_from(["\r\n", "\r\n", "\r\n", "\n", "\r"]),
    st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n", b"", b"\r"]),
    st.sampled_from([b"", b"", b"", b"x" * 9, b"GET / HTTP/1.1\r\n\r\n", bytes(20000), b"\n"]),
)
BYTES_SENT = st.lists(
    st.tuples(st.sampled_from(["byte", "byte", "drop", "double", "swap"]), st.integers(0, 1 << 16), st.binary(max_size=2)),
    max_size=3,
)
VISITING = st.one_of(
    SENT,
    SENT,
    st.builds(bytes.__add__, st.sampled_from([b"\r\n", b"\n\n", b"\r"]), SENT),
    st.builds(mutate, SENT, BYTES_SENT),
    st.builds(lambda data, at: data[: at % (len(data) + 1)], SENT, st.integers(0, 1 << 16)),
    st.binary(max_size=60),
    st.sampled_from([b"", b"x" * 9000, b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 2000, b"\r\n" * 10000]),
)

FOREIGN = [
    (("Procfile" if name.endswith("Procfile") else "a.circus.ini" if "circus" in name else "a.conf").encode(), CASES / name)
    for name in SOURCES.values()
]
FOREIGN_SEEDS = [form + SPLIT + path.read_bytes() for form, path in FOREIGN]
FOREIGN_LINES = sorted({line for _, path in FOREIGN for line in path.read_bytes().split(b"\n")})
FOREIGN_EDITS = st.lists(
    st.tuples(
        st.sampled_from("insert insert replace value drop double swap byte".split()),
        st.integers(0, 1 << 16),
        st.one_of(st.sampled_from(FOREIGN_LINES), st.sampled_from(FOREIGN_LINES), st.binary(max_size=3), st.sampled_from(PIECES)),
    ),
    max_size=6,
)
FOREIGN_TEXTS = st.one_of(
    st.builds(mutate, st.sampled_from(FOREIGN_SEEDS), FOREIGN_EDITS),
    st.builds(mutate, st.sampled_from(FOREIGN_SEEDS), FOREIGN_EDITS),
    st.builds(
        lambda form, lines: form.encode() + SPLIT + b"\n".join(lines),
        st.sampled_from(FORMS),
        st.lists(st.sampled_from(FOREIGN_LINES), min_size=1, max_size=12),
    ),
    SOUP.map(lambda text: text.encode("utf-8", "surrogatepass")),
)
TRIED = sorted({value.encode() for option in overlord.OPTIONS for value in values_of(option)})
CRON = st.lists(
    st.sampled_from("* 0 1 5 31 59 60 , - / */5 1-5 jan sun mon-fri 7 @daily @ every 10m  \u0663".split(" ")), max_size=9
)
VALUE = st.one_of(
    st.sampled_from([value.decode() for value in TRIED]),
    CRON.map(" ".join), CRON.map("".join), SOUP, st.text(max_size=20),
    st.from_regex(r"[-+0-9.~/a-zKMG =:\[\]*?!()]{1,20}", fullmatch=True),
)  # fmt: skip


def joined(strategy: Any, most: int, between: bytes = SPLIT) -> Any:
    """Return a strategy for several parts."""
    return st.lists(strategy, min_size=1, max_size=most).map(between.join)


# `guided`: what it looks into is in this process, where atheris sees what is covered.
Target = namedtuple("Target", "check strategy seeds guided", defaults=[True])
TARGETS = {
    "configuration": Target(configuration, st.one_of(TEXTS, TEXTS, meant(), joined(TEXTS, 3)), SEEDS),
    "reload": Target(
        reload,
        joined(st.one_of(grammatical(), grammatical(), grammatical(), meant()), 3, b"\n%%%\n"),
        [b"\n%%%\n".join(SEEDS[at : at + 2]) for at in range(len(SEEDS) - 1)],
    ),
    "words": Target(words, VALUE.map(lambda text: text.encode("utf-8", "surrogatepass")), TRIED),
    "variables": Target(
        variables, joined(joined(st.one_of(PAIRS, st.binary(max_size=4)), 8, b""), 2), [b"A=1\nB='2'\n" + SPLIT + b"x\n"]
    ),
    "control": Target(control, joined(ASKING, 4), [f"{verb} web\n".encode() for verb in ASKED]),
    "server": Target(
        server,
        st.builds(lambda line, answers: SPLIT.join([line, *answers]), LINES, st.lists(REPLIES, max_size=3)),
        [f"{verb} web".encode() + SPLIT + WEB for verb in ASKED],
    ),
    "arguments": Target(
        arguments, ARGV.map(lambda argv: "\0".join(argv).encode("utf-8", "replace")), [verb.encode() for verb in ASKED]
    ),
    "notices": Target(
        notices,
        joined(st.one_of(joined(TOLD_LINES, 5, b"\n"), joined(st.one_of(TOLD, TOLD, st.binary(max_size=5)), 6, b"")), 3),
        [b"READY=1\nSTATUS=x\n"],
    ),
    "http": Target(
        http, joined(VISITING, 4), [b"%s /health HTTP/1.1\r\nHost: x\r\n\r\n" % method for method in (b"GET", b"HEAD", b"POST")],
        guided=False,
    ),
    "converted": Target(converted, FOREIGN_TEXTS, FOREIGN_SEEDS),
}  # fmt: skip


def guarded(name: str) -> Callable[[bytes], None]:
    """Return the check of a target, in bounded time, with each of Python's warnings taken for a fault.

    At PID 1 a warning is a line on stderr that nobody has spelt. Those about regular expressions, which are the user's own,
    a filter for the whole process may hold back, which cannot be seen from here: test_fuzz.py looks at the real program.
    """

    def check(data: bytes) -> None:
        with warnings.catch_warnings(), cpu_limit(HELD):
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", ResourceWarning)
            warnings.filterwarnings("ignore", "Possible ", FutureWarning)
            TARGETS[name].check(data)

    return check


def fuzz(name: str, number: int, examples: int) -> None:
    """Try so many cases of one target, those that follow from a number. Raises what was found, shrunk."""
    quiet = settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    seed(number)(quiet(given(data=TARGETS[name].strategy)(lambda data: guarded(name)(data))))()


# --- the command -----------------------------------------------------------------------------------------------------


def guide(name: str, seconds: int, number: int) -> bool:
    """Have atheris try a target, in a process of its own; tell whether it found nothing."""
    with tempfile.TemporaryDirectory(prefix="overlord-fuzz-") as folder:
        corpus = Path(folder, "corpus")
        corpus.mkdir()
        for at, data in enumerate(random.Random(number).sample(TARGETS[name].seeds, min(60, len(TARGETS[name].seeds)))):
            (corpus / str(at)).write_bytes(data)
        tokens = {option.name for option in overlord.OPTIONS} | {*ASKED, "${", ":-", "[daemon:", "[script:", "READY=1"}
        Path(folder, "tokens").write_text("".join(f'"{token}"\n' for token in sorted(tokens)))
        flags = f"-max_total_time={seconds} -seed={number + 1} -max_len=4096 -timeout=20 -rss_limit_mb=1500 -verbosity=0"
        flags += f" -dict={folder}/tokens -artifact_prefix={folder}/found-"
        argv = [sys.executable, __file__, GUIDED, name, str(corpus), *flags.split()]
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=10 * seconds + 600, check=False)
        for found in Path(folder).glob("found-*"):
            print(f"{name}: atheris found {found.read_bytes()!r}")
        if done.returncode:
            print(done.stdout.decode(errors="replace")[-5000:])
        return done.returncode == 0


def be_guided(name: str, argv: list[str]) -> None:
    """Be the process that atheris runs in. Never returns."""
    atheris.Setup([sys.argv[0], *argv], guarded(name))
    atheris.Fuzz()


def main() -> int:
    """Do what the command line says."""
    if GUIDED in sys.argv[1:2]:
        be_guided(sys.argv[2], sys.argv[3:])
    parser = argparse.ArgumentParser(description="Whatever comes: never a traceback.")
    parser.add_argument("--seconds", type=int, default=120)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3), "big"))
    parser.add_argument("--examples", type=int, default=50, help="of a target, before it is the next one's turn")
    parser.add_argument("targets", nargs="*", default=list(TARGETS), metavar="TARGET", help=", ".join(TARGETS))
    asked = parser.parse_args()
    with contextlib.suppress(ImportError):
        import atheris  # noqa: F401
    with_guide = "atheris" in sys.modules
    print(f"seed {asked.seed}; hypothesis{', then atheris' if with_guide else '; atheris is not installed'}", flush=True)
    until = time.monotonic() + asked.seconds / (2 if with_guide else 1)
    tried, failed, number = dict.fromkeys(asked.targets, 0), set(), asked.seed
    while time.monotonic() < until and failed != set(tried):
        for name in [name for name in tried if name not in failed]:
            try:
                fuzz(name, number, asked.examples)
            except Exception:
                failed.add(name)
                print(f"--- {name} (--seed {number} {name}):\n{traceback.format_exc(limit=-6)}", flush=True)
            tried[name] += asked.examples
            if time.monotonic() > until:
                break
        number += 1
    print("cases: " + ", ".join(f"{name} {count}" for name, count in tried.items()), flush=True)
    for name in [name for name in asked.targets if with_guide and TARGETS[name].guided]:
        if not guide(name, max(1, asked.seconds // 2 // len(asked.targets)), asked.seed):
            failed.add(name)
    print(f"found something in: {', '.join(sorted(failed))}" if failed else "nothing found")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
