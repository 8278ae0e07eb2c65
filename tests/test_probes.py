"""Readiness, health and `wait_for` from outside: each kind of probe, what it does with an answer, and what it leaves."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Iterator

import pytest

import harness
import overlord as program_under_test
from conftest import Start
from harness import (
    NO_NAME,
    PATIENCE,
    Overlord,
    Process,
    Stopwatch,
    daemon,
    eventually,
    exchange,
    script,
    system_python,
    use_up_descriptors,
)

NEVER = "1000s"
SLEEP = "exec sleep 12345"
READY_PROBES = (*program_under_test.COMMON_PROBES, "notify", "fd", "log")
IGNORE = {"on_failure": "ignore", "restart": "never"}
FAST = {"health_interval": "50ms", "health_timeout": "300ms"}
CLOSED = 1  # tcpmux: nobody listens there


# --- servers, each in a thread of the test: namespaces of processes share the network ----------------------------------


class Server:
    """Accepts connections and gives each to `answer`; closes them afterwards, unless told to hold them."""

    def __init__(self, answer: Callable[[socket.socket], None] = lambda sock: None, family: int = socket.AF_INET) -> None:
        self.accepted, self.answer = 0, answer
        self.over = threading.Event()
        self.sock = socket.socket(family)
        self.sock.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
        self.port: int = self.sock.getsockname()[1]
        self.sock.listen(100)
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        """Serve until it is closed."""
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self.sock.accept()
                self.accepted += 1
                threading.Thread(target=self.treat, args=(sock,), daemon=True).start()

    def treat(self, sock: socket.socket) -> None:
        """Answer one connection."""
        with contextlib.suppress(OSError), sock:
            self.answer(sock)

    def close(self) -> None:
        """End all."""
        self.over.set()
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """A function that starts a server."""
    made: list[Server] = []

    def make(*args: Any, **options: Any) -> Server:
        made.append(Server(*args, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


def says(text: bytes) -> Callable[[socket.socket], None]:
    """Return what hears a request and answers with `text`."""

    def answer(sock: socket.socket) -> None:
        sock.settimeout(PATIENCE)
        data = b""
        while b"\r\n\r\n" not in data:
            more = sock.recv(4096)
            if not more:
                return
            data += more
        sock.sendall(text)

    return answer


def drips(sock: socket.socket) -> None:
    """Answer a byte at a time."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in b"HTTP/1.1 200 OK\r\n\r\n":
        sock.sendall(bytes([byte]))
        time.sleep(0.003)


def is_silent(sock: socket.socket) -> None:
    """Hear all, and say nothing."""
    while sock.recv(4096):
        pass


@pytest.fixture
def black_hole() -> Iterator[int]:
    """A port that neither takes nor refuses a connection. LINUX: its queue is full, so that SYNs are dropped."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    made = [listener]
    for _ in range(4):
        made.append(socket.socket())
        made[-1].setblocking(False)
        made[-1].connect_ex(listener.getsockname())
    yield int(listener.getsockname()[1])
    for sock in made:
        sock.close()


# --- looking ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def fleet(overlord: Start, tmp_path: Path) -> Iterator[Start]:
    """Start an overlord with a socket. At the end there is no fault of its own in its log."""
    started: list[Overlord] = []

    def start(config: str = "", *command: str, **options: Any) -> Overlord:
        options["settings"] = {"socket": "abstract", **options.get("settings", {})}
        o = overlord(config, *command, **options)
        started.append(o)
        eventually(lambda: o.log or o.popen.poll() is not None, "its first words: it listens before it says anything")
        return o

    yield start
    for o in started:
        assert not [line for line in o.log if "internal error" in line or "Traceback" in line]


def row(o: Overlord, name: str) -> dict[str, str]:
    """Return what `status` knows of a unit. Without a client, which would cost a tenth of a second."""
    text = exchange(o, b"status\n").decode()
    rows = [dict(zip(program_under_test.RECORD, line[1:].split("\t"))) for line in text.splitlines() if line[:1] == " "]
    return next(each for each in rows if each["name"] == name)


def wait_state(o: Overlord, name: str, state: str) -> None:
    """Wait until a unit is in a state."""
    eventually(lambda: row(o, name)["state"] == state, f"{name} is {state}\n{o}")


def descriptors(o: Overlord) -> int:
    """Return how many descriptors overlord has open."""
    return len(os.listdir(f"/proc/{o.pid}/fd"))


def open_in(o: Overlord, name: str) -> set[int]:
    """Return what a unit's process has open; none where that changes while one looks."""
    with contextlib.suppress(OSError):
        return set(o.unit(name).descriptors)
    return set()


def python(text: str, *words: str) -> str:
    """Return the shell command that runs a program text."""
    lines = text.strip("\n")
    return f"exec {system_python()} -I -S -c {shlex.quote(lines)} {' '.join(words)}"


def is_ready(o: Overlord, *names: str) -> None:
    """See that daemons get ready, and that what depends on one is started without another event's help."""
    for name in names:
        o.says(name, r"ok \(ready after")
        o.says(f"after-{name}", "ok")


def journal_line(path: Path) -> str:
    """Return the first line that a daemon wrote to a file; wait for it."""
    return eventually(harness.Journal(path).lines, f"a line in {path}")[0]


def with_ready(name: str, probe: str, cmd: str = SLEEP, **options: object) -> str:
    """Return a daemon with a readiness probe, and one that depends on it."""
    return daemon(name, cmd, ready=probe, **options) + daemon(f"after-{name}", SLEEP, deps=name)


# --- ready -----------------------------------------------------------------------------------------------------------


TARGETS = {
    "number": ("tcp:127.0.0.1:{}", socket.AF_INET),
    "localhost": ("tcp:localhost:{}", socket.AF_INET),
    "port alone": ("tcp:{}", socket.AF_INET),
    "IPv6": ("tcp:[::1]:{}", socket.AF_INET6),
    "localhost is IPv6": ("tcp:localhost:{}", socket.AF_INET6),
    "http": ("http://127.0.0.1:{}/x?y=1", socket.AF_INET),
    "http by name": ("http://localhost:{}", socket.AF_INET),
    "http IPv6": ("http://[::1]:{}/", socket.AF_INET6),
}


@pytest.mark.parametrize("case", TARGETS)
def test_ready_by_network(fleet: Start, serve: Callable[..., Server], case: str) -> None:
    """A server that is there at once makes its dependants start at once.

    Nothing else happens in this container: an answer that does not wake the loop would be seen to only by chance.
    """
    target, family = TARGETS[case]
    port = serve(says(b"HTTP/1.0 204 \r\n\r\n"), family=family).port
    is_ready(fleet(with_ready("web", target.format(port))), "web")


def test_ready_by_tcp_once_it_listens(fleet: Start) -> None:
    """A refused connection is tried again, and again: the daemon needs some time to listen."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = """
import os, socket, sys, time
while not os.path.exists("go"): time.sleep(.005)
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(("127.0.0.1", int(sys.argv[1])))
s.listen(9); time.sleep(1e6)
"""
    o = fleet(with_ready("db", f"tcp:{port}", python(code, str(port))), settings={"log_level": "debug"})
    o.says("db", r"ready tcp:\S+: Connection refused")
    o.wait_count(r"^overlord: db: ready tcp:\S+: Connection refused", 3)
    assert row(o, "db")["state"] == "starting" and row(o, "after-db")["state"] == "waiting"
    (o.folder / "go").touch()
    is_ready(o, "db")


@pytest.fixture
def names(tmp_path: Path) -> Iterator[list[str]]:
    """A prefix that gives overlord's namespace an /etc/hosts of its own, and a name server that never answers."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount")
    (tmp_path / "hosts").write_text("127.0.0.1 localhost my-db.internal\n")
    (tmp_path / "resolv").write_text("nameserver 127.9.8.7\noptions timeout:30 attempts:5\n")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mute:
        mute.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):  # that of another test running beside this one is just as mute
            mute.bind(("127.9.8.7", 53))
        mounts = f"mount --bind {tmp_path}/hosts /etc/hosts; mount --bind {tmp_path}/resolv /etc/resolv.conf; exec \"$@\""
        yield ["sh", "-c", mounts, "sh"]


@pytest.mark.parametrize("kind", ["tcp:{}:{}", "http://{}:{}/"])
def test_ready_by_a_name(fleet: Start, serve: Callable[..., Server], names: list[str], kind: str) -> None:
    """A name is looked up as the C library does."""
    port = serve(says(b"HTTP/1.0 200 OK\r\n\r\n")).port
    is_ready(fleet(with_ready("db", kind.format("my-db.internal", port)), prefix=names), "db")


@pytest.mark.parametrize("host", ["no-such-host.invalid", "300.1.1.1", "1..2"])
def test_a_name_server_that_never_answers_blocks_nobody(fleet: Start, names: list[str], host: str) -> None:
    """The C library waits minutes for a name server: not in the loop. What only looks like an address is a name too.

    The other daemon is restarted meanwhile, and a look-up that takes too long is given up, and leaves nothing behind.
    """
    o = fleet(
        with_ready("db", f"tcp:{host}:80", health_timeout="200ms") + daemon("other", SLEEP, backoff="0"),
        prefix=names,
        settings={"log_level": "debug"},
    )
    o.wait_count(r"^overlord: db: ready .*(no answer|host|address|Name|name)", 2)
    mark = o.mark
    o.kill_unit("other")
    with Stopwatch() as watch:
        o.says("other", "ok", after=mark)
    assert watch.seconds < 20  # the name server alone would cost 150 s
    assert o.stop() == 0


def test_a_name_that_does_not_exist(fleet: Start) -> None:
    """It is said what is wrong, and tried again."""
    o = fleet(daemon("db", SLEEP, ready="tcp:no-such-host.invalid:80"), settings={"log_level": "debug"})
    o.says("db", f"ready tcp:no-such-host.invalid:80: ({NO_NAME}|No address|no answer)")


def test_ready_by_unix_file_and_command(fleet: Start, tmp_path: Path) -> None:
    """A path that is there, a socket that answers, a command that succeeds: each once it is so, not before."""
    o = fleet(
        with_ready("a-file", f"file:{tmp_path}/there")
        + with_ready("a-socket", f"unix:{tmp_path}/sock")
        + with_ready("a-command", f"cmd:test -e {tmp_path}/go && [ $$OVERLORD_NAME = a-command ]".replace("$$", "$")),
        settings={"log_level": "debug"},
    )
    o.says("a-file", "ready file:.*: no such file")
    o.says("a-socket", "ready unix:.*: No such file")
    o.says("a-command", "ready exited with code 1")
    (tmp_path / "sock").touch()  # no socket: as good as nobody there
    o.says("a-socket", "ready unix:.*: Connection refused")
    (tmp_path / "sock").unlink()
    assert not o.count(": ok")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "sock"))
        sock.listen(9)
        (tmp_path / "there").touch()
        (tmp_path / "go").touch()
        is_ready(o, "a-file", "a-socket", "a-command")


def test_what_a_command_for_a_daemon_finds(fleet: Start, tmp_path: Path) -> None:
    """A probe and a `stop_cmd` know the main process, and its pid file stays where it is."""
    files = {name: tmp_path / name for name in ("pid", "probed", "stopped")}
    look = f"echo $MAINPID $(cat {files['pid']}) >"
    work = f"echo $$ > {files['pid']}; exec sleep 1000"
    o = fleet(
        daemon("web", work, pidfile=files["pid"], ready=f"cmd:sleep .1; {look} {files['probed']}",
               stop_cmd=f"{look} {files['stopped']}; kill $MAINPID")
    )  # fmt: skip
    o.says("web", "ok")
    pid = str(o.unit("web").pid)
    assert o.stop() == 0
    assert [files[name].read_text().split() for name in ("probed", "stopped")] == [[pid, pid]] * 2


STATUSES = {
    "200": (b"HTTP/1.1 200 OK\r\n\r\n", ""),
    "302": (b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", ""),
    "without a reason": (b"HTTP/1.1 204\r\n\r\n", ""),
    "404": (b"HTTP/1.1 404 Not Found\r\n\r\n", "status 404"),
    "503": (b"HTTP/1.1 503 Busy\r\n\r\n", "status 503"),
    "garbage": (b"\0\xff" * 5000, "no HTTP"),
    "little garbage": (b"220 mail\r\n", "(hung up|no HTTP)"),
    "nothing": (b"", "hung up"),
}


@pytest.mark.parametrize("case", STATUSES)
def test_http_status(fleet: Start, serve: Callable[..., Server], case: str) -> None:
    """2xx and 3xx are ready; another answer is named and asked for again; the first line is enough."""
    answer, wrong = STATUSES[case]
    port = serve(says(answer)).port
    o = fleet(with_ready("web", f"http://127.0.0.1:{port}/a b", ready_timeout=NEVER), settings={"log_level": "debug"})
    if wrong:
        o.wait_count(rf"^overlord: web: ready http:.*/a b: {wrong}", 3)
        assert not o.count("web: ok")
    else:
        is_ready(o, "web")
    assert o.stop() == 0


def test_http_a_byte_at_a_time(fleet: Start, serve: Callable[..., Server]) -> None:
    """A slow answer is put together, and hurries nobody else."""
    is_ready(fleet(with_ready("web", f"http://127.0.0.1:{serve(drips).port}/")), "web")


def test_http_that_says_nothing_has_a_deadline(fleet: Start, serve: Callable[..., Server]) -> None:
    """A try that is accepted and never answered is given up, its connection closed, and another made."""
    server = serve(is_silent)
    o = fleet(
        daemon("web", SLEEP, ready=f"http://127.0.0.1:{server.port}/", health_timeout="50ms"), settings={"log_level": "debug"}
    )
    o.wait_count(r"^overlord: web: ready \S+: no answer within", 5)
    assert server.accepted >= 5


def test_a_command_runs_as_the_units_user(fleet: Start, public: Path) -> None:
    """What a command may see and connect to is up to the unit's user, folder and variables: so it has them."""
    probe = "cmd:id -u > who; pwd >> who; echo $A >> who; mv who done"
    o = fleet(with_ready("app", probe, uid="nobody", dir=public, env="A=letter"), folder=public)
    is_ready(o, "app")
    assert (public / "done").read_text().split() == ["65534", str(public), "letter"]


def test_a_command_that_hangs_is_killed(fleet: Start, tmp_path: Path) -> None:
    """With all that it started, and tried again; other daemons are started again meanwhile."""
    o = fleet(
        with_ready("app", "cmd:[ -e go ] || { sleep 54321 & sleep 54321; }", health_timeout="150ms")
        + daemon("other", SLEEP, backoff="0"),
        settings={"log_level": "debug"},
    )
    o.wait_count("^overlord: app: ready no answer within", 2)
    mark = o.mark
    o.kill_unit("other")
    o.says("other", "ok", after=mark)
    (tmp_path / "go").touch()
    is_ready(o, "app")
    eventually(lambda: not o.running("sleep", "54321"), "nothing of the commands is left")


NOTIFY = """
import os, socket, sys, time
address = os.environ["NOTIFY_SOCKET"]
def tell(text):
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.connect("\\0" + address[1:] if address[0] == "@" else address)
    sock.send(text.encode())
def wait(name):
    while not os.path.exists(name): time.sleep(.005)
open("address", "w").write(address + "\\n")
"""


def test_ready_by_notify(fleet: Start, tmp_path: Path) -> None:
    """READY=1 makes it OK; what it says of itself stands in `status` until then, and afterwards."""
    code = NOTIFY + """
tell("STATUS=reading \\033[31mmuch")
wait("1"); tell("READY=1\\nSTATUS=at your service")
wait("2"); tell("RELOADING=1")
wait("3"); tell("READY=1")
wait("4"); tell("STOPPING=1")
wait("5"); tell("nonsense"); tell("\\n\\n=\\n"); tell("READY=0"); tell("STATUS=end")
time.sleep(1e6)
"""
    o = fleet(with_ready("app", "notify", python(code)))
    why = lambda: row(o, "app")["why"]  # noqa: E731
    eventually(lambda: "reading" in why(), "its status while it starts")
    assert "not ready yet" in why() and "\033" not in why()
    assert row(o, "app")["state"] == "starting" and row(o, "after-app")["state"] == "waiting"
    (tmp_path / "1").touch()
    is_ready(o, "app")
    assert why() == "at your service"
    for step, text in (("2", "reloading"), ("3", ""), ("4", "stopping"), ("5", "end")):
        (tmp_path / step).touch()
        eventually(lambda: why() == text, f"{text!r} after step {step}, not {why()!r}")
        assert row(o, "app")["state"] == "ok"
    assert o.starts("app") == 1


def test_notify_from_a_child(fleet: Start) -> None:
    """A shell script has another program tell it: one of its session counts, even one that is gone by now."""
    code = NOTIFY + """
if os.fork(): os.wait(); time.sleep(1e6)
tell("READY=1")
"""
    is_ready(fleet(with_ready("app", "notify", python(code))), "app")


@pytest.mark.parametrize("where", ["another unit", "another unit, and no descriptor is left", "outside the namespace"])
def test_notify_from_a_stranger_is_refused(fleet: Start, tmp_path: Path, where: str) -> None:
    """The address is no secret (/proc/net/unix): whoever is not of the daemon's session makes it not ready."""
    o = fleet(
        with_ready("app", "notify", python(NOTIFY + 'wait("go"); tell("READY=1"); time.sleep(1e6)'))
        + daemon(
            "stranger",
            python(
                """
import os, socket, time
while not os.path.exists("meddle"): time.sleep(.005)
sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
sock.sendto(b"READY=1\\nSTATUS=from a stranger", "\\0" + open("address").read().strip()[1:])
open("meddled", "w").close()
time.sleep(1e6)
"""
            ),
        )
    )
    address = journal_line(tmp_path / "address")
    if where.startswith("another unit"):
        if "descriptor" in where:
            use_up_descriptors(o)
        (tmp_path / "meddle").touch()
        eventually((tmp_path / "meddled").exists, "the stranger has spoken")
        time.sleep(0.1 if "descriptor" in where else 0)  # nobody can ask now whether it was heard
        subprocess.run(["prlimit", "--pid", str(o.pid), "--nofile=1024:"], check=True)
    else:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"READY=1\nSTATUS=from a stranger", "\0" + address[1:])
    # whatever came by that socket has been read before what comes by the other, later
    first, second = row(o, "app"), row(o, "app")
    assert {first["state"], second["state"]} == {"starting"}
    assert "stranger" not in second["why"]
    (tmp_path / "go").touch()
    is_ready(o, "app")


def test_notify_with_a_descriptor(fleet: Start) -> None:
    """systemd-notify sends a pipe along (BARRIER=1) and waits until it is closed: that keeps overlord no descriptor."""
    code = NOTIFY + """
import array
tell("READY=1")
for _ in range(30):
    end, other = os.pipe()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); sock.connect("\\0" + address[1:])
    sock.sendmsg([b"BARRIER=1"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [other]))])
    os.close(other)
    os.set_blocking(end, False)
    for _ in range(400):
        try:
            os.read(end, 1)
            break
        except BlockingIOError:
            time.sleep(.005)
    else:
        open("stuck", "w").close()
    if os.path.exists("stuck"): break
open("over", "w").close()
time.sleep(1e6)
"""
    o = fleet(with_ready("app", "notify", python(code)))
    is_ready(o, "app")
    eventually((o.folder / "over").exists, "all are sent")
    assert not (o.folder / "stuck").exists(), "overlord keeps a descriptor that it was sent"


def test_notify_of_the_next_process(fleet: Start) -> None:
    """A daemon that is restarted has to say again that it is ready, and what the former one said is forgotten."""
    o = fleet(with_ready("app", "notify", python(NOTIFY + 'tell("READY=1\\nSTATUS=one" if not os.path.exists("no") '
                                                 'else "X=1"); time.sleep(1e6)')))
    is_ready(o, "app")
    (o.folder / "no").touch()
    o.kill_unit("app")
    eventually(lambda: o.starts("app") == 2 and row(o, "app")["state"] == "starting", "the second")
    assert "one" not in row(o, "app")["why"]


@pytest.mark.parametrize("number", [3, 4, 5, 6, 7, 8, 9, 20])
def test_ready_by_descriptor(fleet: Start, number: int) -> None:
    """Any number will do, those of overlord's own descriptors too: and the daemon gets no other descriptor by that.

    Bytes before the newline are nothing yet.
    """
    code = f"printf wait >&{number}; until [ -e go ]; do sleep 0.01; done; printf 'x\\n' >&{number}; exec sleep 12345"
    code = code if number < 10 else python(f"""
import os, time
os.write({number}, b"wait")
while not os.path.exists("go"): time.sleep(.005)
os.write({number}, b"x" + bytes([10])); os.execvp("sleep", ["sleep", "12345"])
""")
    o = fleet(with_ready("app", f"fd:{number}", code, stdout="prefix", stderr="prefix"))
    eventually(lambda: open_in(o, "app") == {0, 1, 2, number}, f"the daemon has {number} open, and no other")
    (o.folder / "go").touch()
    is_ready(o, "app")
    o.unit_is("app", "sleep")  # the dynamic loader has more, for a moment
    eventually(lambda: open_in(o, "app") == {0, 1, 2, number}, "it is kept")
    eventually(lambda: open_in(o, "after-app") == {0, 1, 2}, "no other unit has it")


def test_a_descriptor_closed_without_a_word(fleet: Start) -> None:
    """That says nothing: the daemon is not ready, and in time that counts as a failure. It leaves overlord no descriptor."""
    o = fleet(daemon("app", "exec 3>&-; exec sleep 12345", ready="fd:3", ready_timeout="100ms", backoff="0"))
    o.wait_count("^overlord: app: not ready within 0.1 s: no newline has come on descriptor 3, .*restarting", 2)
    before = descriptors(o)
    o.wait_count("^overlord: app: not ready within 0.1 s: no newline has come on descriptor 3, .*restarting", 6)
    eventually(lambda: descriptors(o) <= before + 1, "as many descriptors as before")


def test_ready_by_log(fleet: Start) -> None:
    """A whole line that matches; on stderr as well as on stdout; another process' line of before is not its own."""
    o = fleet(
        with_ready("app", "log:^listening on [0-9]+$",
                   "echo not listening on 80; printf 'listening on 8'; until [ -e go ]; do sleep 0.01; done; "
                   "echo 0; exec sleep 12345", stdout="prefix")
        + with_ready("err", "log:Ready.*é", "echo 'Ready: é' >&2; exec sleep 12345", stderr="prefix"),
    )  # fmt: skip
    is_ready(o, "err")
    assert row(o, "app")["state"] == "starting"
    (o.folder / "go").touch()
    is_ready(o, "app")
    (o.folder / "go").unlink()
    o.kill_unit("app")
    eventually(lambda: o.starts("app") == 2 and row(o, "app")["state"] == "starting", "the second")


def test_not_ready_in_time_is_a_failure(fleet: Start) -> None:
    """It is stopped, restarted while `respawns` lets it, and then has failed for good."""
    o = fleet(daemon("db", SLEEP, ready=f"tcp:{CLOSED}", ready_timeout="100ms", respawns=1, backoff="0"))
    assert o.wait_exit() == 128 + signal.SIGTERM
    assert o.starts("db") == 2
    o.says("db", r"stopping \(SIGTERM\): not ready within 0.1 s")
    o.says("db", r"failed: not ready within 0.1 s: tcp:\S+: Connection refused, pid \d+ killed by SIGTERM")


FATAL = "cmd:echo connecting; echo 'FATAL: role x does not exist' >&2; echo; exit 2"


def test_why_it_is_not_ready(fleet: Start) -> None:
    """The last try's reason, with the last line that a command wrote: in `status`, in `why`, in the failure."""
    never = {"ready_timeout": NEVER}
    o = fleet(daemon("app", SLEEP, ready=FATAL, **never) + daemon("web", SLEEP, ready=f"tcp:{CLOSED}", **never))
    reason = "exited with code 2: FATAL: role x does not exist"
    eventually(lambda: reason in row(o, "app")["why"], "status says why")
    eventually(lambda: f"tcp:{CLOSED}: Connection refused" in row(o, "web")["why"], "status says why, and of which probe")
    assert reason in o.ask("why", "app").stdout
    o.config.write_text(o.config.read_text() + daemon("log", SLEEP, ready="log:up.*ready", stdout="prefix", **never)
                        + daemon("told", SLEEP, ready="notify", **never))  # fmt: skip
    o.ask("reload", "-t", "0", code=1)
    o.says("log", "started")
    o.says("told", "started")
    eventually(lambda: "no line has matched up.*ready" in row(o, "log")["why"], "what has not come")
    eventually(lambda: "it has not said READY=1" in row(o, "told")["why"], "what has not come")
    short = fleet(daemon("app", SLEEP, ready=FATAL, ready_timeout="1s", **IGNORE))
    short.says("app", rf"failed: not ready within 1 s: {reason}, pid")


def test_why_it_is_unhealthy(fleet: Start) -> None:
    o = fleet(daemon("app", SLEEP, health=FATAL, health_retries=1000, health_interval="10ms"))
    o.says("app", "unhealthy .*: exited with code 2: FATAL: role x does not exist")
    assert "FATAL: role x" in row(o, "app")["why"]


def test_a_failing_probe_is_shown_before_what_the_daemon_says(fleet: Start) -> None:
    code = NOTIFY + 'tell("READY=1\\nSTATUS=at your service"); time.sleep(1e6)'
    o = fleet(daemon("app", python(code), ready="notify", health=FATAL, health_retries=1000, health_interval="100ms"))
    o.says("app", "unhealthy")
    assert "FATAL: role x" in row(o, "app")["why"]


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("seq 100000; exit 3", "exited with code 3: 100000"),
        ("exec >/dev/null 2>&1; sleep 0.2; exit 4", "exited with code 4"),
        ("yes", "no answer within"),
        ("(exec setsid yes) & sleep 0.1; exit 5", "exited with code 5: y"),
        ("printf '\\033[31mred'; exit 6", r"exited with code 6: \\x1b\[31mred"),
        ("echo fine", "passed"),
    ],
)
def test_what_a_command_writes(fleet: Start, command: str, reason: str) -> None:
    """However much it is, and whoever keeps writing: the try ends when the command does, or at its deadline."""
    config = daemon("app", SLEEP, ready=f"cmd:{command}", ready_timeout=NEVER, health_timeout="2s")
    o = fleet(config, settings={"log_level": "debug"})
    o.says("app", f"ready {reason}")
    before = len(Process(o.pid).descriptors)
    if reason == "passed":
        o.wait_ok("app")
    else:
        o.wait_count(f"ready {reason}", 3)
    eventually(lambda: len(Process(o.pid).descriptors) <= before + 1, "none is lost but that of a try under way")


def test_commands_where_no_descriptor_is_left(fleet: Start) -> None:
    """They run all the same, without the last line of their output."""
    o = fleet(daemon("app", SLEEP, health=FATAL, health_retries=1000, health_interval="200ms"))
    o.says("app", "unhealthy .* FATAL")
    use_up_descriptors(o)
    o.wait_count("^overlord: app: unhealthy .*exited with code 2$", 2)


def test_what_a_command_leaves_may_write(fleet: Start) -> None:
    """One that never ends keeps the pipe: it is read while the command runs, and the next one has its own."""
    leave = "(while :; do echo x; sleep 0.001; done) & exit 0"
    waits = f"cmd:{leave}\n  cmd:sleep 0.02; echo second 1; echo second 2\n" * 3
    o = fleet(daemon("app", SLEEP, count=5, wait_for=waits), settings={"log_level": "debug"})
    for number in range(1, 6):
        o.wait_ok(f"app-{number}")
    assert not o.count("SIGPIPE")


def test_what_comes_from_the_environment_is_not_shown(fleet: Start, talkative: None) -> None:
    url = f"http://127.0.0.1:{CLOSED}/?token=${{TOKEN}}"
    o = fleet(daemon("app", SLEEP, wait_for=f"{url} tcp:{CLOSED}"), env={"PATH": os.environ["PATH"], "TOKEN": "s3cret"})
    o.says("app", re.escape(f"waiting for {url} ") + ".*: Connection refused")
    assert f"{url} tcp:{CLOSED}: Connection refused" in o.ask("why", "app").stdout
    assert not o.count("s3cret") and "s3cret" not in row(o, "app")["why"]


def test_ends_before_it_is_ready(fleet: Start) -> None:
    """A daemon that ends well, but before it was ready, has failed."""
    o = fleet(daemon("db", "exit 0", ready=f"tcp:{CLOSED}", restart="never"))
    assert o.wait_exit() == 1
    o.says("db", "failed: .*before it was ready")


def test_ready_and_warmup(fleet: Start) -> None:
    """With both, it needs both; with `ready` alone there is no warm-up."""
    o = fleet(
        daemon("both", SLEEP, ready="file:/", warmup="300ms") + daemon("ready", SLEEP, ready="file:/") + daemon("plain", SLEEP),
        defaults="",
    )
    o.wait_ok("plain")
    lived = {name: float(o.says(name, r"ok \(\w+ \w+ ([0-9.]+) s\)")[1]) for name in ("both", "ready", "plain")}
    assert lived["both"] >= 0.3 and lived["plain"] >= 1
    assert o.position("ready: ok") < o.position("both: ok")


def test_dies_in_its_warmup(fleet: Start) -> None:
    """Ready is not enough while the warm-up goes on."""
    o = fleet(daemon("both", "sleep 0.1; exit 3", ready="file:/", warmup=NEVER, restart="never"))
    assert o.wait_exit() == 3
    assert not o.count("both: ok")


def test_a_chain_loses_no_time(fleet: Start, serve: Callable[..., Server]) -> None:
    """The next link starts as soon as the one before is ready: by any probe, in a fraction of the second a warm-up takes."""
    port = serve(says(b"HTTP/1.0 200 OK\r\n\r\n")).port
    probes = ["file:/", f"tcp:{port}", f"tcp:localhost:{port}", "cmd:true", f"http://127.0.0.1:{port}/", "fd:3", "log:up"]
    text = ""
    for index, probe in enumerate(probes):
        options = {"deps": f"d{index - 1}"} if index else {}
        text += daemon(f"d{index}", "echo up; { echo; } >&3; exec sleep 12345" if probe == "fd:3" else "echo up; exec sleep 12345",  # noqa: E501
                       ready=probe, stdout="prefix", **options)  # fmt: skip
    with Stopwatch() as watch:
        o = fleet(text)
        o.wait_ok(f"d{len(probes) - 1}")
    assert watch.seconds < 0.9 * len(probes)
    assert o.started == [f"d{index}" for index in range(len(probes))]


# --- health ----------------------------------------------------------------------------------------------------------

ECHO = """
import socket, sys
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(("127.0.0.1", int(sys.argv[1])))
s.listen(99)
while True:
    c, _ = s.accept()
    c.recv(4096); c.send(b"HTTP/1.0 200 OK" + bytes([13, 10, 13, 10])); c.close()
"""


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_a_daemon_that_hangs_is_restarted(fleet: Start) -> None:
    """It lives and does not answer (SIGSTOP): found, stopped, counted as a failure, and bounce follows it, once."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/"
    o = fleet(
        daemon("web", python(ECHO, str(port)), ready=url, health=url, health_retries=2, stop_timeout="200ms", **FAST)
        + daemon("app", SLEEP, deps="web:bounce")
        + daemon("other", SLEEP, deps="web")
    )
    o.wait_ok("app")
    o.wait_ok("other")
    time.sleep(0.2)  # some healthy probes: none of them harms
    assert not o.count("unhealthy")
    o.kill_unit("web", signal.SIGSTOP)
    o.says("web", rf"unhealthy \(1 of 2\): {url}: no answer within 0.3 s")
    o.says("web", r"unhealthy \(2 of 2\)")
    o.says("web", rf"stopping \(SIGTERM\): unhealthy: {url}: no answer")
    o.says("web", r"unhealthy: \S+: no answer within 0.3 s, pid \d+ killed by .*, restarting")
    o.wait_ok("web", 2)
    o.wait_ok("app", 2)
    assert (o.starts("web"), o.starts("app"), o.starts("other")) == (2, 2, 1)
    assert row(o, "web")["restarts"] == "1"


def test_unhealthy_for_good(fleet: Start, tmp_path: Path) -> None:
    """It counts against `respawns`; the container ends with it."""
    (tmp_path / "well").touch()
    o = fleet(daemon("web", SLEEP, health=f"file:{tmp_path}/well", health_retries=1, restart="never", **FAST))
    o.wait_ok("web")
    (tmp_path / "well").unlink()
    assert o.wait_exit() == 128 + signal.SIGTERM
    o.says("web", r"failed: unhealthy: file:\S+: no such file, pid \d+ killed by SIGTERM")


def test_recovery_resets_the_count(fleet: Start, tmp_path: Path) -> None:
    """Only failures in a row count: here every second probe fails, for ever."""
    flip = "cmd:if [ -e flip ]; then rm flip; exit 7; else touch flip; fi"
    o = fleet(daemon("web", SLEEP, health=flip, health_retries=2, health_interval="10ms"))
    o.wait_count(r"^overlord: web: unhealthy \(1 of 2\): exited with code 7", 6)
    assert not o.count(r"\(2 of 2\)") and o.starts("web") == 1


def test_health_of_a_black_hole_blocks_nobody(fleet: Start, black_hole: int, serve: Callable[..., Server]) -> None:
    """Many probes that hang, of all kinds that can: another daemon is restarted meanwhile, and a stop request works."""
    silent = serve(is_silent).port
    targets = [f"tcp:127.0.0.1:{black_hole}", f"http://127.0.0.1:{black_hole}/"]
    targets += [f"http://127.0.0.1:{silent}/", "cmd:sleep 999"]
    hung = {"health_interval": "10ms", "health_timeout": NEVER}
    names = [f"d{index}" for index in range(len(targets))]
    o = fleet(
        "".join(daemon(name, SLEEP, health=target, **hung) for name, target in zip(names, targets))
        + daemon("other", SLEEP, backoff="0")
    )
    for name in names:
        o.wait_ok(name)
    eventually(lambda: o.running("sleep", "999"), "the command hangs")
    for _ in range(5):
        mark = o.mark
        o.kill_unit("other")
        o.says("other", "ok", after=mark)
    assert not o.count("unhealthy")
    o.send(signal.SIGTERM)
    assert o.wait_exit() == 0
    assert not o.count("not gone after")


def test_a_black_hole_has_a_deadline(fleet: Start, black_hole: int) -> None:
    """A server that does not even refuse is unhealthy in time."""
    o = fleet(daemon("web", SLEEP, health=f"tcp:127.0.0.1:{black_hole}", health_interval="10ms", health_timeout="50ms",
                     health_retries=2, **IGNORE) + daemon("other", SLEEP))  # fmt: skip
    o.says("web", r"failed: unhealthy: \S+: no answer within 0.05 s")


def test_health_begins_when_ok_and_ends_with_the_process(fleet: Start) -> None:
    """No probe while it starts, and none of a process that is gone: a slow start is no bad health."""
    o = fleet(
        daemon("web", SLEEP, ready="cmd:[ -e go ]", health="cmd:echo $OVERLORD_NAME >> asked; exit 1", health_interval="10ms",
               health_retries=1000),
        settings={"log_level": "debug"},
    )  # fmt: skip
    o.wait_count("^overlord: web: ready exited", 4)
    assert not (o.folder / "asked").exists()
    (o.folder / "go").touch()
    o.says("web", r"unhealthy \(3 of 1000\)")
    mark = o.mark
    (o.folder / "go").unlink()
    o.kill_unit("web")
    o.says("web", "ready exited", after=mark)
    o.wait_count("^overlord: web: ready exited", 8)
    said = [line for line in o.log[o.position("killed by SIGKILL"):] if "unhealthy" in line]
    assert not said
    (o.folder / "go").touch()
    o.says("web", r"unhealthy \(1 of 1000\)", after=mark)


# --- wait_for --------------------------------------------------------------------------------------------------------


@pytest.fixture
def talkative(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An overlord that reminds after 0.2 s, not after 10."""
    text, count = re.subn(r"(?m)^REMINDER = [0-9.]+", "REMINDER = 0.2", harness.OVERLORD.read_text())
    assert count == 1
    (tmp_path / "overlord.py").write_text(text)
    monkeypatch.setattr("harness.OVERLORD", tmp_path / "overlord.py")


def test_wait_for(fleet: Start, talkative: None) -> None:
    """It waits in that state, says for what, every now and then; the container does not end meanwhile; then it starts."""
    port = free_port()
    o = fleet(daemon("app", SLEEP, wait_for=f"tcp:127.0.0.1:{port}") + daemon("after", SLEEP, deps="app"))
    o.says("app", f"waiting for tcp:127.0.0.1:{port}$")
    o.wait_count(rf"^overlord: app: waiting for tcp:127\.0\.0\.1:{port} for [0-9.]+ s now: Connection refused", 2)
    assert row(o, "app")["state"] == "waiting" and f"tcp:127.0.0.1:{port}" in row(o, "app")["why"]
    assert not o.started
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", port))
        sock.listen(9)
        o.wait_ok("after")
    mark = o.mark  # gone again: the next start waits again
    o.kill_unit("app")
    o.says("app", "waiting for tcp:", after=mark)
    wait_state(o, "app", "waiting")
    assert o.starts("app") == 1


def test_wait_for_several(fleet: Start, serve: Callable[..., Server], tmp_path: Path) -> None:
    """All of them must be there, of any kind, one a line or between blanks."""
    port = serve(says(b"HTTP/1.0 200 OK\r\n\r\n")).port
    probes = f"tcp:localhost:{port} file:{tmp_path}/one\nhttp://127.0.0.1:{port}/\ncmd:[ -e two ]"
    o = fleet(daemon("app", SLEEP, wait_for=probes), settings={"log_level": "debug"})
    o.says("app", "wait_for no such file")
    (tmp_path / "one").touch()
    o.says("app", "wait_for exited with code 1")
    assert not o.started
    (tmp_path / "two").touch()
    o.wait_ok("app")


def test_wait_for_of_a_script(fleet: Start, serve: Callable[..., Server], tmp_path: Path) -> None:
    """A migration waits for the database; where its answer comes by the network alone, it starts at once."""
    port = serve(says(b"HTTP/1.0 200 OK\r\n\r\n")).port
    o = fleet(
        script("migrate", "exit 0", wait_for=f"file:{tmp_path}/db, http://127.0.0.1:{port}/")
        + daemon("app", SLEEP, deps="migrate"),
        settings={"log_level": "debug"},
    )
    o.says("migrate", "wait_for no such file")
    assert row(o, "migrate")["state"] == "waiting" and row(o, "app")["state"] == "waiting"
    (tmp_path / "db").touch()
    o.wait_ok("app")
    assert o.started == ["migrate", "app"]


@pytest.mark.parametrize("what", ["refused", "hangs", "command"])
def test_stop_request_while_waiting(fleet: Start, black_hole: int, what: str) -> None:
    """What is waited for is nobody's reason to stay, not even a try that hangs."""
    probe = {"refused": f"tcp:{CLOSED}", "hangs": f"tcp:127.0.0.1:{black_hole}", "command": "cmd:sleep 999"}[what]
    o = fleet(daemon("app", SLEEP, wait_for=probe))
    o.says("app", "waiting for")
    with Stopwatch() as watch:
        assert o.stop() == 0
    assert watch.seconds < 2.5  # a try may take 3 s
    assert not o.started


def test_stopped_and_started_by_hand_while_waiting(fleet: Start, tmp_path: Path) -> None:
    """A wait that was given up does not go on, and another one begins at its beginning."""
    o = fleet(daemon("app", SLEEP, wait_for=f"file:{tmp_path}/there") + daemon("other", SLEEP))
    o.says("app", "waiting for")
    o.ask("stop", "app")
    (tmp_path / "there").touch()
    assert row(o, "app")["state"] == "stopped"
    o.ask("start", "app")
    eventually(lambda: o.starts("app") == 1, "its start")
    (tmp_path / "there").unlink()
    o.kill_unit("app")
    wait_state(o, "app", "waiting")
    o.ask("stop", "app")
    (tmp_path / "there").touch()
    o.ask("start", "app")
    eventually(lambda: o.starts("app") == 2, "its second start")


def test_reload_changes_what_is_waited_for(fleet: Start, tmp_path: Path) -> None:
    """Whoever misspelt the address mends it in the file: that takes effect in place (SPEC 12)."""
    o = fleet(daemon("app", SLEEP, wait_for="file:/no/such/thing"))
    o.says("app", "waiting for")
    o.config.write_text(o.config.read_text().replace("file:/no/such/thing", "file:/"))
    o.ask("reload", code=None)
    o.wait_for("^overlord: app: ok")


# --- nothing is left -------------------------------------------------------------------------------------------------


def test_hundreds_of_probes_leave_nothing(fleet: Start, serve: Callable[..., Server]) -> None:
    """Neither a descriptor nor a zombie, whatever the kind and the outcome."""
    web, silent = serve(says(b"HTTP/1.0 200 OK\r\n\r\n")), serve(is_silent)
    targets = [f"http://127.0.0.1:{web.port}/", f"http://127.0.0.1:{silent.port}/", f"tcp:{web.port}", f"tcp:{CLOSED}",
               f"tcp:vm-no-such.invalid:{CLOSED}", "cmd:exit 1", "cmd:sleep 999", "unix:/no/such", "file:/no"]  # fmt: skip
    common = {"health_interval": "5ms", "health_timeout": "60ms", "health_retries": 1000}
    o = fleet("".join(daemon(f"d{index}", SLEEP, health=target, **common) for index, target in enumerate(targets)))
    o.wait_count("unhealthy", 100)

    def quiet() -> tuple[int, int]:
        """The fewest seen at an instant: probes are under way all the time."""
        counts = [(descriptors(o), sum(not p.alive for p in o.processes())) for _ in range(20) if not time.sleep(0.01)]
        return min(c[0] for c in counts), min(c[1] for c in counts)

    before = quiet()
    o.wait_count("unhealthy", 700)
    after = quiet()
    assert after[0] <= before[0] + 5 and after[1] <= 3, (before, after)
    assert web.accepted > 20 and silent.accepted > 10
    own = Process(o.pid)
    assert own.alive
    assert o.stop() == 0


# --- the configuration -----------------------------------------------------------------------------------------------


GOOD = {
    "tcp:5432": ("tcp", "localhost", 5432, ""),
    "tcp:db:5432": ("tcp", "db", 5432, ""),
    "tcp:10.0.0.1:1": ("tcp", "10.0.0.1", 1, ""),
    "tcp:[::1]:65535": ("tcp", "::1", 65535, ""),
    "unix:/run/a b.sock": ("unix", "", 0, "/run/a b.sock"),
    "http://web": ("http", "web", 80, "/"),
    "http://web:8080": ("http", "web", 8080, "/"),
    "http://web/a/b?c=d": ("http", "web", 80, "/a/b?c=d"),
    "http://[::1]:8080/x": ("http", "::1", 8080, "/x"),
    "file:/x": ("file", "", 0, "/x"),
    "cmd: redis-cli ping": ("cmd", "", 0, "redis-cli ping"),
    "notify": ("notify", "", 0, ""),
    "fd:3": ("fd", "", 3, ""),
    "log:a:b c": ("log", "", 0, "a:b c"),
}


@pytest.mark.parametrize("text", GOOD)
def test_what_a_probe_may_be(text: str) -> None:
    """Each form that SPEC 6 names."""
    assert tuple(program_under_test.parse_probe(text, READY_PROBES)[:4]) == GOOD[text]


BAD = ["", "tcp", "tcp::80", "tcp:", "tcp:db", "tcp:0", "tcp:65536", "tcp:db:0", "tcp:db:99999", "tcp:db:x", "tcp:::1:80", "tcp::80x",  # noqa: E501
       "tcp:db:80/x", "tcp:[::1]", "tcp:[zz]:1", "unix:",
       "unix:run/x", "http:", "http:web", "http://",
       "http:///x",
       "http://web:0/", "http://web:99999/", "http://user@web/", "https://web/", "file:", "file:x", "cmd:", "cmd: ", "notify:",
       "notify:x", "fd:", "fd:0", "fd:1", "fd:2", "fd:x", "fd:-1", "fd:1000", "log:", "log:(",
       "log:[", "ping:x", "/x"]  # fmt: skip


@pytest.mark.parametrize("text", BAD)
def test_what_a_probe_may_not_be(text: str) -> None:
    """It is told before anything is started, and what would be right."""
    with pytest.raises(program_under_test.Mistake):
        program_under_test.parse_probe(text, READY_PROBES)


@pytest.mark.parametrize("text", ["notify", "fd:3", "log:x"])
def test_only_ready_may_wait_to_be_told(text: str) -> None:
    """A daemon says once that it is ready; whether it is well has to be asked."""
    with pytest.raises(program_under_test.Mistake):
        program_under_test.parse_probe(text)


def test_mistakes_are_located(overlord: Start) -> None:
    """Every one of them with its line, its option, and a near word."""
    o = overlord(
        daemon("a", SLEEP, ready="htp://web/", health="notify", wait_for="tcp:99999", ready_timeout="0", health_retries="0")
        + daemon("b", SLEEP, ready="log:up")
        + script("c", "true", ready="file:/x")
    )
    assert o.wait_exit() == 78
    for text in (
                 r"\[daemon:a\] ready: .*did you mean \"http\"", r"\[daemon:a\] health: 'notify' is not a probe",
                 r"wait_for: 99999 is not a port",
                 r"ready_timeout: ", r"health_retries: ", r"\[daemon:b\] ready: log: needs captured output", r"\[script:c\] ready: "):  # noqa: E501
        assert o.count(rf"overlord\.conf:\d+: .*{text}"), (text, o.log)  # fmt: skip


@pytest.mark.parametrize("purpose", ("ready", "health", "wait_for"))
def test_a_child_that_no_signal_ends(purpose: str) -> None:
    """In a file system that hangs not even SIGKILL ends one: no second one is started, and overlord does not spin."""
    overlord = program_under_test
    probe = overlord.Probe("file", "", 0, "/hangs", "file:/hangs")
    state = {"ready": overlord.STARTING, "health": overlord.OK, "wait_for": overlord.WAITING}[purpose]
    values = {"ready": probe, "health": probe, "wait_for": (probe,), "health_interval": 0.02, "health_timeout": 0.02}
    spec = SimpleNamespace(name="web", kind="daemon", health_retries=1000, **values)
    forked: list[int] = []
    helpers: dict[int, Any] = {}

    def fork(child: Any, ended: Any) -> int:
        forked.append(4_194_999)
        helpers[forked[-1]] = ended
        return forked[-1]

    kernel = SimpleNamespace(fork=fork, send_signals=lambda *words: "")
    unit = SimpleNamespace(name="web", spec=spec, status=overlord.Status(state, pid=5, starts=1), reach="wait_for", probers={})
    fleet = SimpleNamespace(units={"web": unit}, ending=None)
    log = SimpleNamespace(message=lambda *words: None)
    loop = SimpleNamespace(fleet=fleet, kernel=kernel, helpers=helpers, watch=overlord.Watch(), log=log)
    prober = overlord.Prober(loop, unit, purpose)
    tries = []
    attempt = prober.attempt
    prober.attempt = lambda: tries.append(1) or attempt()  # type: ignore[method-assign]
    loop.watch.later(time.monotonic() + 0.5, lambda: True)
    if purpose == "health":
        prober.attempt()
    until = time.monotonic() + 0.5
    while time.monotonic() < until and len(tries) < 100:
        loop.watch.wait(until, once=True)
    assert len(forked) == 1
    assert 1 <= len(tries) < 60, "25 at the most, and some for a clock that is coarse"
