"""`serve`: HTTP for probes, Prometheus and people; and what strangers on the network can do to it.

What one process does with requests is tried on its `Site` in a thread here, with an asker of the test's own. That it has
given up root, that PID 1 is hardly asked, and what is shown is tried on the whole program in a namespace.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

import overlord as program_under_test
from conftest import Start
from harness import IN_USE, PATIENCE, Overlord, Process, compiled, daemon, eventually, script, system_python
from test_page import tool

NOBODY = 65534
SLEEP = "exec sleep 12345"
ANSWER = [
    "0\thealthy: 1 daemon ok",
    "0.1.0\t7",
    "web\tdaemon\tok\t17\t5.000\t6.000\t1\t\t\t\t\t1048576\t0.25\t2\t2\t3\t\t"
    "\t6.0000\t0.0000 waiting\t0.0010 starting\t1.0010 ok",
]
SICK = ["1\tunhealthy: web is in backoff", *ANSWER[1:]]


class Desk:
    """A `Site` in a thread. `questions`: how often it asked; `answer`: what it is told, None to keep silent."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1000)
        self.port = self.listener.getsockname()[1]
        self.link, other = socket.socketpair()
        self.answer: list[str] | None = ANSWER
        self.questions: list[float] = []
        self.site = program_under_test.Site([self.listener], other)
        self.threads = [threading.Thread(target=run, daemon=True) for run in (self.ask, lambda: self.site.watch.wait(None))]
        for thread in self.threads:
            thread.start()

    def ask(self) -> None:
        """Answer as `serve` does."""
        with contextlib.suppress(OSError):
            while self.link.recv(1):
                self.questions.append(time.monotonic())
                if self.answer is not None:
                    self.link.sendall(("\n".join(self.answer) + "\n\n").encode())

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)

    def exchange(self, request: bytes) -> bytes:
        """Return all that comes back."""
        with self.connect() as sock:
            sock.sendall(request)
            return receive_all(sock)

    def get(self, path: str, method: str = "GET") -> tuple[int, dict[str, str], str]:
        return parse(self.exchange(f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()))

    def close(self) -> None:
        """The other end goes: the loop ends."""
        with contextlib.suppress(OSError):
            self.link.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
        self.site.watch.epoll.close()
        for sock in (self.listener, self.link, self.site.link, *(visit.sock for visit in self.site.visits)):
            sock.close()


def receive_all(sock: socket.socket) -> bytes:
    data = b""
    with contextlib.suppress(ConnectionResetError):
        for part in iter(lambda: sock.recv(65536), b""):
            data += part
    return data


def parse(data: bytes) -> tuple[int, dict[str, str], str]:
    """Return status, headers and body of one answer, which has to be whole."""
    head, _, body = data.partition(b"\r\n\r\n")
    line, *lines = head.decode().split("\r\n")
    version, status, _ = line.split(" ", 2)
    assert version == "HTTP/1.1", data[:200]
    return int(status), dict(line.split(": ", 1) for line in lines), body.decode()


@pytest.fixture
def desk() -> Iterator[Desk]:
    """A Site in a thread."""
    made = Desk()
    yield made
    made.close()


# --- one request -----------------------------------------------------------------------------------------------------


def test_paths(desk: Desk) -> None:
    """Each path has its type; what anybody may read is never kept by a proxy."""
    types = {path: desk.get(path) for path in ("/health", "/status", "/metrics", "/")}
    assert {path: (status, headers["Content-Type"]) for path, (status, headers, _) in types.items()} == {
        "/health": (200, "text/plain; charset=utf-8"), "/status": (200, "application/json"),
        "/metrics": (200, "text/plain; version=0.0.4; charset=utf-8"), "/": (200, "text/html; charset=utf-8"),
    }  # fmt: skip
    for _, headers, body in types.values():
        assert int(headers["Content-Length"]) == len(body.encode())
        assert (headers["Cache-Control"], headers["X-Content-Type-Options"]) == ("no-store", "nosniff")
        assert f"'sha256-{program_under_test.PAGE_SCRIPT_HASH}'" in headers["Content-Security-Policy"]
        assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", headers["Date"])
    assert types["/health"][2] == "healthy: 1 daemon ok\n"
    (unit,) = json.loads(types["/status"][2])
    assert (unit["name"], unit["state"], unit["memory"], unit["processor"], unit["code"]) == ("web", "ok", 1 << 20, 0.25, 3)
    assert 'overlord_unit_state{unit="web",kind="daemon",state="ok"} 1' in types["/metrics"][2]
    assert types["/"][2].lower().startswith("<!doctype html>")


def test_ill_health(desk: Desk) -> None:
    """Ill health is 503, and nothing else is. Nor does a page fail for it."""
    desk.answer = SICK
    status, _, body = desk.get("/health")
    assert (status, body) == (503, "unhealthy: web is in backoff\n")
    assert [desk.get(path)[0] for path in ("/status", "/metrics", "/")] == [200, 200, 200]


def test_no_answer_from_overlord(desk: Desk) -> None:
    """What `serve` hands on then is nothing: 503 for all, with the reason."""
    desk.answer = []
    for path in ("/health", "/status", "/metrics", "/"):
        status, _, body = desk.get(path)
        assert (status, "does not answer" in body) == (503, True)
    assert desk.get("/nothing")[0] == 404


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        ("GET /health HTTP/1.0", 200), ("GET /health?verbose=1&x HTTP/1.1", 200), ("HEAD /health HTTP/1.1", 200),
        ("GET http://some.where:80/health HTTP/1.1", 200), ("GET http://some.where HTTP/1.1", 200), ("GET ? HTTP/1.1", 200),
        ("GET /nothing HTTP/1.1", 404), ("GET /health/ HTTP/1.1", 404), ("GET //health HTTP/1.1", 404),
        ("GET /../health HTTP/1.1", 404), ("GET /%68ealth HTTP/1.1", 404), ("GET * HTTP/1.1", 404),
        ("POST /health HTTP/1.1", 405), ("get /health HTTP/1.1", 405), ("OPTIONS * HTTP/1.1", 405), ("BREW / HTTP/1.1", 405),
        ("GET /health", 400), ("GET  /health HTTP/1.1", 400), ("GET  HTTP/1.1", 400), ("GET /health HTTP/2", 400),
        ("GET /a b HTTP/1.1", 400),
        ("GET /h\u00e9alth HTTP/1.1", 400), (" GET / HTTP/1.1", 400), ("HTTP/1.1 200 OK", 400), ("GET /\0 HTTP/1.1", 400),
    ],
)  # fmt: skip
def test_request_lines(desk: Desk, request_line: str, status: int) -> None:
    """What is asked, and what is no question."""
    found, headers, body = parse(desk.exchange(f"{request_line}\r\nHost: x\r\n\r\n".encode()))
    assert found == status
    assert headers["Allow"] == "GET, HEAD"
    assert body or request_line.startswith("HEAD")


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("", 200), ("Host: x\r\n", 200), ("A:\r\nB: \t \r\n", 200), ("X-Any_thing!: \u00e9\x01\r\n", 200), ("Host: x\n", 200),
        ("no colon\r\n", 400), (": empty\r\n", 400), ("A : b\r\n", 400), (" folded: x\r\n", 400), ("A: b\r\n c\r\n", 400),
        ("A: \0\r\n", 400), ("A: a\rb\r\n", 400),
    ],
)  # fmt: skip
def test_headers(desk: Desk, header: str, status: int) -> None:
    """They are looked at only for whether they are any."""
    assert parse(desk.exchange(f"GET /health HTTP/1.1\r\n{header}\r\n".encode()))[0] == status


def test_head_has_no_body(desk: Desk) -> None:
    """It has the headers of GET."""
    (_, headers, body), (status, bare, nothing) = desk.get("/status"), desk.get("/status", "HEAD")
    assert (status, nothing) == (200, "")
    assert bare["Content-Length"] == headers["Content-Length"] == str(len(body))


def test_byte_by_byte(desk: Desk) -> None:
    """A request may come in any pieces; a blank line before it does no harm: RFC 9112 2.2."""
    with desk.connect() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b"\r\nGET /health HTTP/1.1\r\nHost: x\r\n\r\n":
            sock.sendall(bytes([byte]))
        assert parse(receive_all(sock))[0] == 200


def test_one_request_a_connection(desk: Desk) -> None:
    """Of several that come at once, the first is answered, and its answer is not cut off by those behind it."""
    request = b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n"
    status, headers, body = parse(desk.exchange(request * 20))
    assert (status, headers["Connection"]) == (200, "close")
    assert len(body.encode()) == int(headers["Content-Length"])
    assert "HTTP/1.1" not in body


def test_half_closed(desk: Desk) -> None:
    """One who has said all he has to say may close his side, and has his answer; then he is gone."""
    desk.answer = None
    with desk.connect() as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\n\r\n")
        sock.shutdown(socket.SHUT_WR)
        eventually(lambda: desk.questions, "overlord is asked")
        desk.link.sendall(("\n".join(ANSWER) + "\n\n").encode())
        assert parse(receive_all(sock))[0] == 200
    eventually(lambda: not desk.site.visits, "it is gone")


def test_body_is_passed_over(desk: Desk) -> None:
    """A POST with a megabyte gets its 405 all the same."""
    assert parse(desk.exchange(b"POST / HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n" + bytes(1000000)))[0] == 405


def test_a_page_that_cannot_be_drawn(desk: Desk, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """That is 500, said in the log, and no end of the others."""
    monkeypatch.setitem(program_under_test.SERVED, "/", ("text/html", lambda seen, now: str(1 // 0)))
    assert [desk.get(path)[0] for path in ("/", "/health", "/", "/status")] == [500, 200, 500, 200]
    assert "overlord: serve: /: ZeroDivisionError" in capfd.readouterr().err


# --- bounds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_text",
    [
        b"GET /" + b"a" * 9000, b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 2000, b"a" * 100000,
        b"GET / HTTP/1.1\r\nA: " + b"b" * 9000 + b"\r\n\r\n",
    ],
)  # fmt: skip
def test_too_much(desk: Desk, request_text: bytes) -> None:
    """8 KB are enough for a request."""
    assert parse(desk.exchange(request_text))[0] == 431


def test_eight_kilobytes_are_read(desk: Desk) -> None:
    """Prometheus and browsers send some 1 KB."""
    assert parse(desk.exchange(b"GET /health HTTP/1.1\r\nA: " + b"b" * 8100 + b"\r\n\r\n"))[0] == 200


def test_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has not asked in time is told so. So is one that does not take its answer, by the end of the connection."""
    monkeypatch.setattr(program_under_test, "VISIT_TIMEOUT", 0.3)
    desk = Desk()
    with contextlib.closing(desk):
        with desk.connect() as silent, desk.connect() as slow:
            slow.sendall(b"GET /health")
            assert [parse(receive_all(sock))[0] for sock in (silent, slow)] == [408, 408]
        eventually(lambda: not desk.site.visits, "all have left")


def test_answer_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page of 4 MB to one who does not read it: he is left in the end, and holds up nobody."""
    monkeypatch.setattr(program_under_test, "VISIT_TIMEOUT", 1.0)
    big = [*ANSWER[:2], "\t|".join([ANSWER[2], *("x" * 1000 for _ in range(4000))])]
    monkeypatch.setitem(program_under_test.SERVED, "/", ("text/html", lambda seen, now: "x" * (4 << 20)))
    desk = Desk()
    desk.answer = big
    with contextlib.closing(desk), desk.connect() as lazy:
        lazy.sendall(b"GET / HTTP/1.1\r\n\r\n")
        eventually(lambda: any(not visit.idle for visit in desk.site.visits), "it is answered")
        assert desk.get("/health")[0] == 200
        eventually(lambda: not desk.site.visits, "it is left")
        assert len(receive_all(lazy)) < 4 << 20


def test_too_many(desk: Desk) -> None:
    """Of more than 64 the oldest idle one gives way, and one that is asking does so only where none is idle."""
    with contextlib.ExitStack() as stack:
        asking = [stack.enter_context(desk.connect()) for _ in range(2)]
        for sock in asking:
            sock.sendall(b"GET /health")
        eventually(lambda: sum(not visit.idle for visit in desk.site.visits) == 2, "they are heard")
        idle = [stack.enter_context(desk.connect()) for _ in range(100)]
        eventually(lambda: len(desk.site.visits) == 64 and desk.site.visits[-1].idle, "there are 64")
        idle[38].settimeout(PATIENCE)
        assert idle[0].recv(1) == idle[37].recv(1) == b"", "the oldest idle ones had to go"
        assert desk.get("/health")[0] == 200
        for sock in asking:
            sock.sendall(b" HTTP/1.1\r\n\r\n")
            assert parse(receive_all(sock))[0] == 200
        for sock in idle[60:]:
            sock.sendall(b"G")
    with contextlib.ExitStack() as stack:
        busy = [stack.enter_context(desk.connect()) for _ in range(70)]
        for sock in busy:
            sock.sendall(b"GET /health")
            sock.settimeout(PATIENCE)
        eventually(lambda: len(desk.site.visits) == 64, "there are 64")
        assert desk.get("/health")[0] == 200, "the newest is heard, whoever else is there"


def test_asked_at_most_twice_a_second(desk: Desk) -> None:
    """However many ask; and what they hear is never older than that."""
    began = time.monotonic()
    count = 0
    while time.monotonic() - began < 2.5:
        assert desk.get("/health")[0] == 200
        count += 1
    took = time.monotonic() - began
    assert count > 20
    assert len(desk.questions) <= took / program_under_test.SERVED_REST + 1
    assert all(later - earlier >= program_under_test.SERVED_REST for earlier, later in zip(desk.questions, desk.questions[1:]))
    time.sleep(program_under_test.SERVED_REST)
    desk.answer = SICK
    assert desk.get("/health")[0] == 503, "it is asked anew"


def test_waiting_together(desk: Desk) -> None:
    """Those who come while overlord is asked share the question."""
    desk.answer, answer = None, ANSWER
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(desk.connect()) for _ in range(10)]
        for sock in socks:
            sock.sendall(b"GET /health HTTP/1.1\r\n\r\n")
        eventually(lambda: desk.questions, "overlord is asked")
        time.sleep(0.1)  # and the others wait
        desk.link.sendall(("\n".join(answer) + "\n\n").encode())
        assert [parse(receive_all(sock))[0] for sock in socks] == [200] * 10
    assert len(desk.questions) == 1


# --- the whole program -----------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def get(port: int, path: str = "/health", host: str = "127.0.0.1") -> tuple[int, str]:
    """Ask the real program."""
    with socket.create_connection((host, port), timeout=PATIENCE) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        status, _, body = parse(receive_all(sock))
    return status, body


def http(o_python: str, address: object = "", **options: object) -> str:
    """Return the section of the daemon."""
    ready = {} if "listen" in options else {"ready": f"tcp:{str(address).rpartition(':')[2]}"}
    return daemon("http", f"exec {o_python} {address}", **{**ready, **options})


@pytest.fixture
def served(fleet: Start, default_python: list[str]) -> Callable[..., tuple[Overlord, int]]:
    """Start an overlord with an `http` daemon that serves on a free port; return both."""

    def start(config: str = "", **options: Any) -> tuple[Overlord, int]:
        port = free_port()
        o = fleet(config + http(serve_words(default_python), port), **options)
        o.wait_ok("http")
        return o, port

    return start


def serve_words(python: list[str]) -> str:
    """Return the command of the daemon, by the same interpreter."""
    return " ".join([*python, str(program_under_test.__file__), "-c overlord.conf serve"])


def readers(o: Overlord) -> tuple[Process, Process]:
    """Return the process that asks overlord and the one that reads requests."""
    found = eventually(lambda: serving(o) if len(serving(o)) == 2 else None, "there are two")
    asker = next(p for p in found if p.pid == o.unit("http").pid)
    return asker, next(p for p in found if p is not asker)


def serving(o: Overlord) -> list[Process]:
    return [p for p in o.processes() if "serve" in p.cmdline and p.alive]


def test_the_reader_has_given_up_root(served: Callable[..., tuple[Overlord, int]]) -> None:
    """Not one byte from the network is read by PID 1 or by root."""
    o, port = served(daemon("web", SLEEP))
    assert get(port) == (200, "healthy: 2 daemons ok\n")
    asker, reader = readers(o)
    status = reader.status
    assert [status[key].split() for key in ("Uid", "Gid", "Groups")] == [[str(NOBODY)] * 4, [str(NOBODY)] * 4, []]
    assert [int(status[key], 16) for key in ("CapInh", "CapPrm", "CapEff", "CapAmb")] == [0, 0, 0, 0]
    listening = {target for target, _ in asker.descriptors.values()} & {target for target, _ in reader.descriptors.values()}
    assert not any(target.startswith("socket:") for target in listening), "the process with rights has no listener"


def test_nothing_secret(served: Callable[..., tuple[Overlord, int]], tmp_path: Path) -> None:
    """No environment, command line, nor what a probe, a daemon's STATUS= or its output says while it is up."""
    (tmp_path / "token").write_text("hunter2-secret\n")
    o, port = served(
        daemon("web", "echo hunter2-output; sleep 12345 hunter2-arg || exec sleep 12345", stdout="prefix",
               env="A=hunter2-env", secrets="TOKEN", health="cmd:echo hunter2-probe; exit 1", health_interval="50ms",
               health_retries="1000")
        + daemon("late", SLEEP, wait_for="cmd:echo hunter2-wait; exit 1")
        + daemon("never", SLEEP, ready="cmd:echo hunter2-ready; exit 1", ready_timeout="300ms", on_failure="ignore", respawns=1)
        + daemon("gone", "exec ./hunter2-command", on_failure="ignore", respawns=0),
        env={"PATH": os.environ["PATH"], "TOKEN_FILE": str(tmp_path / "token"), "X": "hunter2-container"},
    )  # fmt: skip
    o.says("never", "failed")
    o.says("gone", "failed")
    o.says("web", "unhealthy")
    assert "hunter2" in o.ask("status", "-j", code=None).stdout, "a person at the socket sees more"
    for path in ("/health", "/status", "/metrics", "/"):
        assert "hunter2" not in get(port, path)[1], path


def test_states(served: Callable[..., tuple[Overlord, int]]) -> None:
    """What HTTP says is what the verbs say."""
    o, port = served(daemon("web", SLEEP) + daemon("off", SLEEP, autostart="false") + script("job", "true"))
    mine = {unit["name"]: unit for unit in json.loads(o.ask("status", "-j").stdout)}
    theirs = {unit["name"]: unit for unit in json.loads(get(port, "/status")[1])}
    same = ("kind", "state", "pid", "restarts", "deps", "starts", "code", "processes")
    assert {name: [unit[key] for key in same] for name, unit in theirs.items()} == {
        name: [unit[key] for key in same] for name, unit in mine.items()
    }
    o.ask("stop", "web")
    time.sleep(program_under_test.SERVED_REST)
    assert get(port) == (200, o.ask("health").stdout)
    assert 'overlord_unit_state{unit="web",kind="daemon",state="stopped"} 1' in get(port, "/metrics")[1]


def test_overlord_does_not_answer(served: Callable[..., tuple[Overlord, int]]) -> None:
    """That is 503; once it does again, it is not."""
    o, port = served(daemon("web", SLEEP))
    os.kill(o.pid, signal.SIGSTOP)
    try:
        time.sleep(program_under_test.SERVED_REST)
        assert get(port)[0] == 503
    finally:
        os.kill(o.pid, signal.SIGCONT)
    eventually(lambda: get(port)[0] == 200, "it answers again", pause=0.2)


def test_port_in_use(fleet: Start, default_python: list[str]) -> None:
    """That is a failed start, which says why, and comes right once the port is free."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        o = fleet(http(serve_words(default_python), port, stdout="prefix", stderr="stdout", ready="none", backoff="100ms..100ms"))
        o.wait_for(rf"serve {port}: {IN_USE}", lines=o.out)
        o.says("http", "pid .* exited with code 1")
    eventually(lambda: can_get(port), "it serves")


def can_get(port: int) -> bool:
    with contextlib.suppress(OSError, ValueError):  # no connection; hung up without an answer
        return get(port)[0] in (200, 503)
    return False


@pytest.mark.parametrize("words", [["0"], ["web"], ["1:2:3"], ["[::1"], []])
def test_no_address(fleet: Start, words: list[str]) -> None:
    """What is no address is told so."""
    o = fleet(daemon("web", SLEEP))
    done = o.ask("serve", *words, code=64)
    assert re.search(r"tcp:\[HOST:\]PORT|0\.0\.0\.0:9001|not a port", done.stderr)


def test_nobody_to_ask(tmp_path: Path, default_python: list[str]) -> None:
    """Without an overlord there is nothing to serve."""
    conf = tmp_path / "overlord.conf"
    conf.write_text(f"[overlord]\nsocket = {tmp_path}/nobody\n")
    words = [*default_python, program_under_test.__file__, "-c", str(conf), "serve", str(free_port())]
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.returncode, "nobody answers" in done.stderr) == (69, True), done


def test_sockets_of_listen(fleet: Start, default_python: list[str], tmp_path: Path) -> None:
    """Without an address it takes all that `listen` gives, IPv6 and a unix socket too; none is refused while it restarts."""
    port, place = free_port(), tmp_path / "http.sock"
    o = fleet(daemon("web", SLEEP) + http(serve_words(default_python), listen=f"\n  tcp:{port}\n  unix:{place}"))
    o.wait_ok("http")
    assert get(port)[0] == get(port, host="::1")[0] == 200
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(place))
        sock.sendall(b"GET /health HTTP/1.0\r\n\r\n")
        assert parse(receive_all(sock))[0] == 200
    mark = o.mark
    o.kill_unit("http")
    # The one that is dying may still have accepted a connection; what comes to the sockets later, waits.
    eventually(lambda: can_get(port), "it is answered again")
    o.says("http", "started", after=mark)


@pytest.mark.parametrize("which", [0, 1])
def test_one_of_both_dies(served: Callable[..., tuple[Overlord, int]], which: int) -> None:
    """The other does not go on alone, and the daemon is restarted."""
    o, port = served(daemon("web", SLEEP))
    victims = readers(o)
    mark = o.mark
    o.kill(victims[which].pid)
    o.says("http", "ok", after=mark)
    eventually(lambda: not any(victim.alive for victim in victims), "both are gone")
    assert get(port)[0] == 200


def test_without_the_right_to_become_another(served: Callable[..., tuple[Overlord, int]]) -> None:
    """It serves all the same, and says so."""
    keep = "-all,+sys_admin,+sys_ptrace,+kill,+dac_override"
    o, port = served(
        daemon("web", SLEEP), settings={"output": "prefix"}, prefix=["setpriv", "--bounding-set", keep, "--inh-caps", keep]
    )
    assert get(port)[0] == 200
    o.wait_for(r"http \| .*root reads the requests")
    assert readers(o)[1].status["Uid"].split() == ["0"] * 4


def test_as_another_user(public: Path, fleet: Start, default_python: list[str]) -> None:
    """An overlord that is not root is served by its own user, without a word about that."""
    port = free_port()
    command = serve_words(default_python).replace(program_under_test.__file__, str(public / "overlord.py"))
    o = fleet(
        daemon("web", SLEEP) + http(command, port), folder=public, settings={"output": "prefix"},
        prefix=["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"],
    )  # fmt: skip
    o.wait_ok("http")
    assert get(port)[0] == 200
    assert not [line for line in o.out if "root" in line]


def test_a_user_of_its_own(public: Path, fleet: Start, default_python: list[str]) -> None:
    """A unit's user may not ask overlord. So `uid` in [daemon:http] is a failed start that says so."""
    command = " ".join([*default_python, str(public / "overlord.py"), "serve"])
    o = fleet(http(command, free_port(), uid="nobody", on_failure="ignore", respawns="0", ready="none"),
              folder=public, settings={"output": "prefix"})  # fmt: skip
    o.wait_for(r"http \| .*only root and overlord's own user may ask")
    o.says("http", "failed")


# --- strangers -------------------------------------------------------------------------------------------------------


def memory_of(process: Process) -> int:
    """Return its resident bytes."""
    return int(process.status["VmRSS"].split()[0]) * 1024


def cpu(process: Process) -> float:
    """Return the processor time of a process so far, in seconds, finer than in clock ticks: proc_pid_schedstat(5)."""
    return int((process.folder / "schedstat").read_text().split()[0]) / 1e9


def test_a_flood(served: Callable[..., tuple[Overlord, int]]) -> None:
    """500 open connections, a byte now and then, floods, pipelines, 20,000 requests: PID 1 takes no notice, no memory grows,
    and there is an answer for whoever asks in earnest."""
    o, port = served(daemon("web", SLEEP))
    pid1, (asker, reader) = Process(o.pid), readers(o)
    request = b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n"
    get(port, "/"), get(port, "/metrics")
    over = threading.Event()

    def hold() -> None:
        """Keep 500 connections, each with a byte a second."""
        with contextlib.ExitStack() as stack:
            socks = [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=1)) for _ in range(500)]
            while not over.wait(1):
                for number, sock in enumerate(socks):
                    try:
                        sock.send(b"G")
                    except OSError:  # it had to give way
                        with contextlib.suppress(OSError):
                            socks[number] = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=1))

    def flood(data: bytes) -> None:
        while not over.is_set():
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as sock:
                sock.sendall(data)
                sock.recv(100)

    attacks = [lambda: flood(b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 5000), lambda: flood(request * 500), hold]
    attacks += [lambda: flood(os.urandom(20000))]
    threads = [threading.Thread(target=attack, daemon=True) for attack in attacks]

    def ask(times: int) -> None:
        answered = 0
        for _ in range(times):
            with contextlib.suppress(OSError, AssertionError, ValueError):
                answered += get(port)[0] == 200
        assert answered > times * 0.9, f"{answered} of {times}"

    everybody = (pid1, asker, reader)
    ask(200)
    before, sizes = [*map(cpu, everybody)], [*map(memory_of, everybody)]
    for thread in threads:
        thread.start()
    began = time.monotonic()
    while time.monotonic() - began < 4:
        ask(500)
    over.set()
    for thread in threads:
        thread.join(PATIENCE)
    # What PID 1 does does not depend on what goes on at the other end: as much as in so much time of peace, or a little more.
    spent, took = [cpu(process) - was for process, was in zip(everybody, before)], time.monotonic() - began
    grown = [memory_of(process) - was for process, was in zip(everybody, sizes)]
    quiet, before = time.monotonic(), [*map(cpu, everybody)]
    while time.monotonic() - quiet < 2:
        ask(1)
        time.sleep(0.05)
    peace = (cpu(pid1) - before[0]) / (time.monotonic() - quiet)
    assert spent[0] / took < 3 * peace + 0.005, (spent, took, peace)
    assert spent[0] < spent[2] / 5, (spent, took)
    assert grown[0] < 1 << 20 and grown[1] < 1 << 20 and grown[2] < 8 << 20, grown
    assert o.ask("status", "-j").returncode == 0


def test_what_a_probe_costs(tmp_path: Path, fleet: Start, default_python: list[str]) -> None:
    """A twentieth of a compiled `overlord.py health`, all three processes taken together. A request that comes alone wakes
    all three, and finds nothing of theirs in the processor's caches; how dear that is depends on the machine."""
    port = free_port()
    words = compiled(tmp_path, system_python())
    o = fleet(daemon("web", SLEEP) + daemon("http", f"exec {words} -c overlord.conf serve {port}", ready=f"tcp:{port}"))
    o.wait_ok("http")
    processes = [Process(o.pid), *readers(o)]

    def cost(rounds: int, rest: float) -> float:
        before = sum(map(cpu, processes))
        for _ in range(rounds):
            assert get(port)[0] == 200
            time.sleep(rest)
        return (sum(map(cpu, processes)) - before) / rounds

    get(port)
    time.sleep(program_under_test.SERVED_REST)
    in_a_row, alone = cost(1000, 0), cost(8, program_under_test.SERVED_REST)
    o.python, rounds, used = [words], 12, os.times()
    for _ in range(rounds):
        subprocess.run(o.client("health"), check=True, capture_output=True, timeout=PATIENCE)
    after = os.times()
    client = (after.children_user + after.children_system - used.children_user - used.children_system) / rounds
    told = f"{in_a_row * 1000:.2f} ms in a row, {alone * 1000:.2f} ms alone, against {client * 1000:.2f} ms"
    print(told)
    assert in_a_row < client / 20, told
    assert alone < client, told


# --- what asks in earnest --------------------------------------------------------------------------------------------


@pytest.mark.docker
@pytest.mark.timeout(1800)
def test_prometheus(served: Callable[..., tuple[Overlord, int]], tmp_path: Path) -> None:
    """A real one scrapes it, and tells how often each unit was restarted in five minutes."""
    prometheus = tool("prometheus", "prometheus")
    o, port = served(daemon("web", SLEEP) + daemon("flaps", "sleep 0.2; exit 1", backoff="1s..1s"))
    config, own = tmp_path / "prometheus.yml", free_port()
    config.write_text(f"""\
global: {{scrape_interval: 1s}}
scrape_configs:
- job_name: shop
  static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
""")
    words = [prometheus, f"--config.file={config}", f"--storage.tsdb.path={tmp_path}/data"]
    words.append(f"--web.listen-address=127.0.0.1:{own}")
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as popen:
        try:

            def ask(query: str) -> dict[str, float]:
                address = f"http://127.0.0.1:{own}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
                with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=PATIENCE) as answer:
                    found = json.load(answer)["data"]["result"]
                    return {each["metric"].get("unit", ""): float(each["value"][1]) for each in found}
                return {}

            restarts = "sum by (unit) (increase(overlord_unit_restarts_total[5m]))"
            eventually(lambda: ask(restarts).get("flaps", 0) > 1, f"it sees restarts\n{o}", timeout=60, pause=0.5)
            assert ask(restarts)["web"] == 0
            assert ask('overlord_unit_state{state="ok"} == 1').keys() >= {"web", "http"}
            assert set(ask("up").values()) == {1.0}
        finally:
            popen.kill()
