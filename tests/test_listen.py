"""`listen` and `watchdog` from outside: sockets that overlord holds for its daemons, and daemons that have to say they live."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Iterator

import pytest

import overlord as program_under_test
from conftest import Start
from harness import IN_USE, NO_NAME, PATH, TOO_MANY, Overlord, Process, daemon, eventually, exchange, program, script
from test_attacks import answers, rewrite
from test_control import descriptors
from test_hardship import become
from test_probes import open_in, python, row

SLEEP = "exec sleep 12345"
NEVER = "1000s"
IGNORE = {"on_failure": "ignore", "restart": "never"}
GAMES, GAMES_GROUP = 5, 60


@pytest.fixture
def fleet(overlord: Start) -> Iterator[Start]:
    """Start an overlord with a socket. At the end there is no fault of its own in its log."""
    started: list[Overlord] = []

    def start(config: str = "", *command: str, **options: Any) -> Overlord:
        options["settings"] = {"socket": "abstract", **options.get("settings", {})}
        o = overlord(config, *command, **options)
        started.append(o)
        eventually(lambda: o.log or o.popen.poll() is not None, "its first words")
        return o

    yield start
    for o in started:
        assert not [line for line in o.log if "internal error" in line or "Traceback" in line]


@pytest.fixture
def port() -> int:
    """A port that nobody has."""
    return free_port()


def free_port() -> int:
    with socket.socket(socket.AF_INET6) as free:
        free.bind(("::", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def root() -> None:
    """Skip where the test has to become somebody else and cannot."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")


# --- looking ---------------------------------------------------------------------------------------------------------


Address = Any  # what connect(2) takes: a path, or host and port


def dial(address: Address) -> socket.socket:
    """Connect; raises OSError."""
    if isinstance(address, tuple):
        return socket.create_connection(address, 60)
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(60)
    try:
        sock.connect(str(address))
    except OSError:
        sock.close()
        raise
    return sock


def ask(address: Address) -> str:
    """Return who answers there. Raises OSError."""
    with dial(address) as sock:
        return hear(sock)


def hear(sock: socket.socket) -> str:
    """Return the answer to a connection; "" if there was none."""
    data = b""
    while b"\n" not in data:
        more = sock.recv(4096)
        if not more:
            break
        data += more
    return data.decode().strip()


def refuses(address: Address) -> bool:
    """Tell whether nobody listens there."""
    try:
        dial(address).close()
    except (ConnectionRefusedError, FileNotFoundError):
        return True
    return False


class Clients:
    """Threads that ask all the time while the body runs; `faults` are the requests that had no good answer."""

    def __init__(self, request: Callable[[], object], threads: int = 2) -> None:
        self.request, self.served = request, 0
        self.faults: list[str] = []
        self.over = threading.Event()
        self.threads = [threading.Thread(target=self.go_on, daemon=True) for _ in range(threads)]

    def go_on(self) -> None:
        while not self.over.is_set():
            try:
                if not self.request():
                    raise ValueError("an empty answer")
                self.served += 1
            except (OSError, ValueError) as error:
                self.faults.append(repr(error))
            time.sleep(0.002)

    def __enter__(self) -> Clients:
        for thread in self.threads:
            thread.start()
        eventually(lambda: self.served or self.faults, "the first answer")
        return self

    def __exit__(self, *failure: object) -> None:
        served = self.served
        if not failure[0] and not self.faults:
            eventually(lambda: self.served > served + len(self.threads) or self.faults, "the last answers")
        self.over.set()
        for thread in self.threads:
            thread.join(60)
        assert not self.faults, f"{len(self.faults)} of {self.served + len(self.faults)}: {self.faults[:5]}"


def change(o: Overlord, old: str, new: str) -> None:
    """Change the configuration, and have it read to the end: a file that is written meanwhile may be read half."""
    text = o.config.read_text()
    assert old in text
    o.config.write_text(text.replace(old, new))
    o.ask("reload")


def what_is(link: str) -> str:
    """Return what a descriptor that leads to `socket:[INODE]` listens on, as /proc/net shows it."""
    inode = link.partition("[")[2].rstrip("]")
    for kind in ("tcp", "tcp6", "unix"):
        for line in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]:
            words = line.split()
            if kind == "unix" and words[6] == inode:
                assert words[3:6] == ["00010000", "0001", "01"], f"it does not listen: {line}"
                return f"unix:{words[7]}"
            if kind != "unix" and words[9] == inode:
                assert words[3] == "0A", f"it does not listen: {line}"
                return f"{kind}:{int(words[1].rpartition(':')[2], 16)}"
    return link


def variables(o: Overlord, name: str) -> dict[str, str]:
    """Return the environment of a unit's process."""
    pairs = (pair.decode().partition("=") for pair in o.unit(name).environ)
    return {key: value for key, _, value in pairs}


def is_blocking(process: Process, fd: int) -> bool:
    """Tell whether a descriptor waits."""
    return not int(process.descriptors[fd][1], 8) & os.O_NONBLOCK


# --- what a daemon gets ----------------------------------------------------------------------------------------------


COMMANDS = {
    "alone": "sleep 12345",
    "exec": "exec sleep 12345",
    "a shell that execs": "cd /; A=1; exec sleep 12345",
    "a later shell": "exec sh -c 'true; exec sleep 12345'",
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("ready", ["", "fd:6", "fd:9", "notify"])
def test_what_a_daemon_gets(fleet: Start, port: int, tmp_path: Path, ready: str, command: str) -> None:
    """Descriptors from 3 in the order of the lines, which wait; the variables of sd_listen_fds(3); and nothing more."""
    listen = [f"tcp:127.0.0.1:{port}", f"unix:{tmp_path}/sock", f"tcp:{free_port()}"]
    o = fleet(daemon("web", COMMANDS[command], listen="\n".join(listen), **({"ready": ready} if ready else {})))
    process = o.unit_is("web", "sleep")
    more = {int(ready[3:])} if ready[:2] == "fd" else set()
    eventually(lambda: open_in(o, "web") == {0, 1, 2, 3, 4, 5} | more, "that is all, once it has its libraries")
    found = process.descriptors
    last = listen[2].rpartition(":")[2]
    assert [what_is(found[fd][0]) for fd in (3, 4, 5)] == [f"tcp:{port}", f"unix:{tmp_path}/sock", f"tcp6:{last}"]
    assert all(is_blocking(process, fd) for fd in (3, 4, 5))
    assert all("pipe" in found[fd][0] for fd in more)
    told = variables(o, "web")
    assert (told["LISTEN_FDS"], told["LISTEN_PID"], told["LISTEN_FDNAMES"]) == ("3", str(process.pid), "web:web:web")
    assert ("NOTIFY_SOCKET" in told) == (ready == "notify")
    assert not [key for key in told if key.startswith("WATCHDOG")]


def test_ready_behind_sockets(fleet: Start, port: int) -> None:
    """The descriptor of s6 is the daemon's own, behind those of `listen`."""
    o = fleet(daemon("web", "sleep .1; echo >&5; exec sleep 12345", ready="fd:5", listen=f"tcp:{port}\ntcp:{free_port()}"))
    o.says("web", r"ok \(ready after")


def test_numbers_that_overlap(fleet: Start, tmp_path: Path) -> None:
    """Whatever number s6's descriptor has, it comes in no other's way: overlord's own have the same numbers."""
    numbers = range(5, 40)
    o = fleet(
        "".join(
            daemon(f"d{number}", f"echo > /proc/self/fd/{number}; exec sleep 12345", ready=f"fd:{number}",
                   listen=f"unix:{tmp_path}/a{number}\nunix:{tmp_path}/b{number}")
            for number in numbers
        )
    )  # fmt: skip
    for number in numbers:
        o.says(f"d{number}", r"ok \(ready after")
        found = o.unit_is(f"d{number}", "sleep").descriptors
        assert [what_is(found[fd][0]) for fd in (3, 4)] == [f"unix:{tmp_path}/{letter}{number}" for letter in "ab"]


def test_what_nobody_else_gets(fleet: Start, port: int, tmp_path: Path) -> None:
    """Other units, and the commands that belong to the unit itself, know nothing of the sockets."""
    look = "{{ env; ls -l /proc/self/fd; }} > {0}.new; mv {0}.new {0}"
    places = {name: tmp_path / f"look-{name}" for name in ("script", "ready", "health", "stop", "daemon", "always")}
    told = {name: look.format(place) for name, place in places.items()}
    o = fleet(
        script("setup", told["script"]) + script("each", told["always"])
        + daemon("web", SLEEP, listen=f"tcp:{port}", deps="setup, each:always", ready=f"cmd:{told['ready']}",
                 health=f"cmd:{told['health']}", health_interval="50ms", stop_cmd=f"{told['stop']}; kill $MAINPID")
        + daemon("other", f"{told['daemon']}; {SLEEP}", deps="web")
    )  # fmt: skip
    o.says("other", "ok")
    eventually(lambda: places["health"].exists() and places["daemon"].exists(), "it is looked at")
    o.ask("stop", "web")
    for name, place in places.items():
        text = place.read_text()
        assert "LISTEN_" not in text and "socket:" not in text, f"{name}:\n{text}"
    assert open_in(o, "other") <= {0, 1, 2}


def test_descriptor_that_is_taken(overlord: Start) -> None:
    """s6's descriptor cannot be one of the sockets: said with the number that is free."""
    o = overlord(daemon("web", SLEEP, listen="tcp:1\nunix:/x", ready="fd:4"))
    assert o.wait_exit() == 78
    o.wait_for(r"\[daemon:web\] ready: fd:4 is a socket of `listen`, write fd:5")


def test_a_restart_has_them_as_new(fleet: Start, port: int) -> None:
    """What a daemon set on a socket is not left to the next: it waits again."""
    o = fleet(daemon("web", program("answer.py"), listen=f"tcp:{port}"))
    o.says("web", "ok")
    assert ask((V4, port))
    eventually(lambda: not is_blocking(o.unit("web"), 3), "it does not wait")
    change(o, program("answer.py"), SLEEP)
    o.wait_ok("web", 2)
    assert is_blocking(o.unit_is("web", "sleep"), 3)


# --- addresses -------------------------------------------------------------------------------------------------------


V4, V6 = "127.0.0.1", "::1"


@pytest.mark.parametrize(
    "address, hosts",
    [("tcp:{}", {V4, V6}), ("tcp:127.0.0.1:{}", {V4}), ("tcp:[::1]:{}", {V6}), ("tcp:localhost:{}", {V4})],
)
def test_addresses(fleet: Start, port: int, address: str, hosts: set[str]) -> None:
    """A port alone is everywhere; with a host it is there, and nowhere else."""
    o = fleet(daemon("web", program("answer.py"), listen=address.format(port)))
    o.says("web", "ok")
    assert {host for host in (V4, V6) if not refuses((host, port))} == hosts
    assert all(ask((host, port)).startswith("web ") for host in hosts)


def test_without_ipv6(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    """Where the kernel has none, a port alone is everywhere else; an address of it is a failure, as one of nobody's is."""
    real = program_under_test._socket

    def without(family: int, kind: int) -> Any:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "no IPv6")
        return real.socket(family, kind)

    lacking = SimpleNamespace(**{**vars(real), "socket": without})
    monkeypatch.setattr(program_under_test, "_socket", lacking)
    listener = program_under_test.listen_on(program_under_test.parse_sockets(f"tcp:{port}")[0])
    assert listener.getsockname() == ("0.0.0.0", port) and not refuses((V4, port))
    listener.close()
    for address, fault in ("[::1]", errno.EAFNOSUPPORT), ("[::]", errno.EAFNOSUPPORT), ("192.0.2.1", errno.EADDRNOTAVAIL):
        with pytest.raises(OSError) as caught:
            program_under_test.listen_on(program_under_test.parse_sockets(f"tcp:{address}:{port}")[0])
        assert caught.value.errno == fault


class NameServer:
    """A name server that says nothing until it is told: 127.0.0.1, or that there is no such name."""

    def __init__(self, folder: Path) -> None:
        self.address = f"127.8.{os.getpid() >> 8 & 255}.{os.getpid() & 255 or 1}"
        (folder / "hosts").write_text("127.0.0.1 localhost\n::1 both.internal\n127.0.0.1 both.internal\n")
        (folder / "resolv").write_text(f"nameserver {self.address}\noptions timeout:30 attempts:5\n")
        mounts = f'mount --bind {folder}/hosts /etc/hosts; mount --bind {folder}/resolv /etc/resolv.conf; exec "$@"'
        self.prefix = ["sh", "-c", mounts, "sh"]
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind((self.address, 53))
        self.asked, self.may_answer, self.there, self.over = 0, threading.Event(), True, False
        self.sock.settimeout(0.05)
        self.server = threading.Thread(target=self.serve, daemon=True)
        self.server.start()

    def serve(self) -> None:
        """Hear all; a thread for each waits until it may be answered."""
        while not self.over:
            with contextlib.suppress(OSError):
                query, client = self.sock.recvfrom(4096)
                self.asked += 1
                threading.Thread(target=self.answer, args=(query, client), daemon=True).start()

    def close(self) -> None:
        """End it, and have its address free again."""
        self.over = True
        self.may_answer.set()
        self.server.join()
        self.sock.close()

    def answer(self, query: bytes, client: Any) -> None:
        self.may_answer.wait(170)
        end = query.index(b"\0", 12) + 5
        is_v4 = self.there and query[end - 4 : end - 2] == b"\0\1"
        head = query[:2] + (b"\x81\x80" if self.there else b"\x81\x83") + struct.pack(">4H", 1, is_v4, 0, 0)
        record = b"\xc0\x0c\0\1\0\1" + struct.pack(">IH", 1, 4) + socket.inet_aton(V4)
        with contextlib.suppress(OSError):
            self.sock.sendto(head + query[12:end] + record * is_v4, client)

    def wait_asked(self, times: int = 1) -> None:
        """Wait until somebody hangs."""
        eventually(lambda: self.asked >= times, "it is asked for a name")


@pytest.fixture
def names(root: None, tmp_path: Path) -> Iterator[NameServer]:
    """A name server of the test's own."""
    server = NameServer(tmp_path)
    yield server
    server.close()


def test_a_name(fleet: Start, names: NameServer, port: int) -> None:
    """A name is looked up, while everything else goes on; where there is none, that is a failed start with the reason."""
    o = fleet(
        daemon("web", program("answer.py"), listen=f"tcp:web.internal:{port}") + daemon("other", backoff="0"),
        prefix=names.prefix,
    )
    names.wait_asked()
    o.wait_ok("other")
    o.kill_unit("other")
    o.wait_ok("other", 2)
    assert row(o, "web")["state"] == "waiting" and f"tcp:web.internal:{port}" in row(o, "web")["why"]
    names.there = False
    names.may_answer.set()
    o.says("web", rf"cannot start: listen tcp:web.internal:{port}: {NO_NAME}, restarting")
    names.there = True
    o.wait_ok("web")
    assert ask((V4, port)) and refuses((V6, port))


def test_a_name_of_two_addresses(fleet: Start, names: NameServer, port: int) -> None:
    """A name that is an address of IPv6 and one of IPv4 is the latter, which clients try that know nothing of the other."""
    o = fleet(daemon("web", program("answer.py"), listen=f"tcp:both.internal:{port}"), prefix=names.prefix)
    o.says("web", "ok")
    assert ask((V4, port)) and refuses((V6, port))


def test_address_in_use(fleet: Start, port: int) -> None:
    """Somebody else has it: a failed start, tried again with back-off, and once it is free all is well."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen(1)
        o = fleet(daemon("web", program("answer.py"), listen=f"tcp:{port}", backoff="50ms..100ms"))
        failed = rf"^overlord: web: cannot start: listen tcp:{port}: {IN_USE}, restarting"
        o.wait_count(failed, 3)
        assert o.count(rf"{failed} in ") >= 2 and not o.starts("web")
        assert row(o, "web")["state"] in ("backoff", "waiting")
        eventually(lambda: re.search(IN_USE, o.ask("why", "web").stdout), "why says so, but during a try")
    o.says("web", "ok")
    assert ask((V4, port)) and ask((V6, port))


def test_a_daemon_that_opens_the_address_itself(fleet: Start, port: int) -> None:
    """Its failure says who holds the address: "Address already in use" alone leads nobody there."""
    code = f"""
import socket
try: socket.socket().bind(("127.0.0.1", {port}))
except OSError as error: raise SystemExit(str(error))
"""
    o = fleet(daemon("web", python(code), listen=f"tcp:127.0.0.1:{port}", **IGNORE) + daemon("other", SLEEP))
    hint = f"if an address was in use: overlord holds tcp:127.0.0.1:{port} for it; "
    o.says("web", f"failed: pid .* exited with code 1.*: {hint}")
    assert hint in o.ask("why", "web").stdout


def test_address_in_use_is_a_failure(fleet: Start, port: int) -> None:
    """Where nothing is tried again, it ends as any unit that could not start."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen(1)
        o = fleet(daemon("web", SLEEP, listen=f"tcp:{port}", restart="never"))
        assert o.wait_exit() == 1
        o.says("web", "failed: cannot start: listen")


def test_privileged_port(fleet: Start, root: None, public: Path) -> None:
    """Without the right to it, a failed start that says so; root's overlord opens it also for a daemon of another user."""
    if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) < 1024:
        pytest.skip("any port is anybody's here")
    low = next(number for number in range(1023, 700, -1) if refuses((V4, number)) and refuses((V6, number)))
    config = daemon("web", program("answer.py"), listen=f"tcp:{low}", backoff="0", dir=public)
    o = fleet(config, folder=public, prefix=become("games", "games"))
    o.says("web", rf"cannot start: listen tcp:{low}: Permission denied, restarting")
    o.stop()
    fleet(config.replace("dir =", "uid = games\ndir ="), folder=public).says("web", "ok")
    assert ask((V4, low))


# --- unix sockets ----------------------------------------------------------------------------------------------------


def look(path: Path) -> tuple[bool, int, int, int]:
    """Return whether a socket is there, its user, group and mode."""
    found = path.lstat()
    return stat.S_ISSOCK(found.st_mode), found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)


@pytest.mark.parametrize("umask", ["000", "022", "077"])
@pytest.mark.parametrize(
    "user, owner",
    [({"uid": "games"}, (5, 60)), ({"uid": "games", "gid": "nogroup"}, (5, 65534)), ({"gid": "games"}, (0, 60)), ({}, (0, 0))],
)
def test_owner_of_a_unix_socket(
    fleet: Start, root: None, tmp_path: Path, user: dict[str, str], owner: tuple[int, int], umask: str
) -> None:
    """It belongs to the unit, in folders that are made and that nobody else can change, whatever the umask."""
    place = tmp_path / "a" / "b" / "sock"
    o = fleet(daemon("web", SLEEP, listen=f"unix:{place}", **user), prefix=["sh", "-c", f'umask {umask}; exec "$@"', "sh"])
    o.says("web", "ok")
    assert look(place) == (True, *owner, 0o660)
    for folder in (place.parent, place.parent.parent):
        assert folder.stat().st_uid == 0 and not folder.stat().st_mode & 0o022
    assert what_is(o.unit_is("web", "sleep").descriptors[3][0]) == f"unix:{place}"


def test_owner_without_privileges(fleet: Start, root: None, public: Path) -> None:
    """Where the unit's user is overlord's own, nothing has to be given away: not even to the group of its passwd entry."""
    os.chown(public, GAMES, GAMES_GROUP)
    public.chmod(0o700)
    config = daemon("web", SLEEP, listen=f"unix:{public}/a/sock", uid="games")
    fleet(config, folder=public, prefix=become("games", "nogroup")).says("web", "ok")
    assert look(public / "a" / "sock") == (True, GAMES, 65534, 0o660)


def test_a_reload_gives_it_to_another_user(fleet: Start, root: None, tmp_path: Path) -> None:
    """A unit that gets another user gets its socket too."""
    o = fleet(daemon("web", SLEEP, listen=f"unix:{tmp_path}/sock", uid="games"))
    o.says("web", "ok")
    change(o, "uid = games", "uid = nobody")
    o.wait_ok("web", 2)
    assert look(tmp_path / "sock") == (True, 65534, 65534, 0o660)
    assert not refuses(tmp_path / "sock")


def test_a_stale_socket(fleet: Start, tmp_path: Path) -> None:
    """One that nobody listens on any more, of an overlord that was killed, is replaced."""
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(tmp_path / "sock"))
        old.listen(1)
    assert refuses(tmp_path / "sock")
    fleet(daemon("web", program("answer.py"), listen=f"unix:{tmp_path}/sock")).says("web", "ok")
    assert ask(tmp_path / "sock").startswith("web ")


IN_PLACE = {
    "file": "(is not a socket|in use)",  # a user who may not write to it cannot tell
    "folder": "(is not a socket|in use)",
    "link": "is not a socket",
    "dangling": "(in use|exists)",
    "stream": IN_USE,
    "datagram": IN_USE,
}


@pytest.mark.parametrize("kind", IN_PLACE)
@pytest.mark.parametrize("user", ["", "games"])
def test_what_is_not_replaced(fleet: Start, root: None, public: Path, tmp_path: Path, kind: str, user: str) -> None:
    """Anything else in its place stays as it is, in root's folder and in the user's: a failed start with the reason."""
    place = (public if user else tmp_path) / "sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM if kind == "datagram" else socket.SOCK_STREAM) as sock:
        if kind in ("stream", "datagram"):
            sock.bind(str(place))
            place.chmod(0o777)
            if kind == "stream":
                sock.listen(100)
        elif kind == "file":
            place.write_text("mine")
        elif kind == "folder":
            place.mkdir()
        else:
            place.symlink_to(tmp_path / "target")
            if kind == "link":
                (tmp_path / "target").write_text("mine")
        before = place.lstat()
        options = {"uid": user} if user else {}
        o = fleet(daemon("web", SLEEP, listen=f"unix:{place}", backoff="10ms..100ms", **options))
        expected = "is a link that others" if user and kind in ("link", "dangling") else IN_PLACE[kind]
        o.wait_count(rf"^overlord: web: cannot start: listen unix:{place}: .*{expected}", 3)
        after = place.lstat()
        assert (before.st_ino, before.st_uid, before.st_mode) == (after.st_ino, after.st_uid, after.st_mode)
        if kind == "stream":
            assert not refuses(place)


def test_path_that_is_too_long(fleet: Start, tmp_path: Path) -> None:
    """More than unix(7) allows is a failed start that says so."""
    place = tmp_path / ("x" * 108)
    o = fleet(daemon("web", SLEEP, listen=f"unix:{place}"))
    o.says("web", rf"cannot start: listen unix:{place}: AF_UNIX path too long")


def test_folder_of_the_user(fleet: Start, root: None, public: Path) -> None:
    """Where others than root can change the folder, the socket is made with the unit's own rights."""
    o = fleet(
        daemon("web", SLEEP, listen=f"unix:{public}/new/sock", uid="games")
        + daemon("own", SLEEP, listen=f"unix:{public}/own")
        + daemon("group", SLEEP, listen=f"unix:{public}/group", gid="games")
    )
    for name in ("web", "own", "group"):
        o.says(name, "ok")
    assert look(public / "new" / "sock") == (True, GAMES, GAMES_GROUP, 0o660)
    assert (public / "new").stat().st_uid == GAMES
    assert look(public / "own") == (True, 0, 0, 0o660)
    assert look(public / "group") == (True, 0, GAMES_GROUP, 0o660)


def test_folder_that_the_user_cannot_write(fleet: Start, root: None, public: Path) -> None:
    """A folder of a third user is no place for it: overlord's own rights are not lent."""
    (public / "theirs").mkdir()
    os.chown(public / "theirs", 65534, 65534)
    o = fleet(daemon("web", SLEEP, listen=f"unix:{public}/theirs/sock\ntcp:127.0.0.1:{free_port()}", uid="games"))
    o.says("web", rf"cannot start: listen unix:{public}/theirs/sock: Permission denied, restarting")
    assert not os.listdir(public / "theirs")


@pytest.mark.parametrize("user", [{"uid": "games"}, {}])
def test_links_that_are_swapped(fleet: Start, root: None, public: Path, tmp_path: Path, user: dict[str, str]) -> None:
    """A user who swaps his folder for a link to root's, and his socket for one to root's file, gains nothing by it."""
    secret = tmp_path / "secret"
    secret.mkdir()
    names = [f"s{number}" for number in range(25)]
    for name in names:
        (secret / name).write_text("root's")
    (secret / "x").mkdir()
    (public / "d-dir").mkdir()
    (public / "d-link").symlink_to(secret / "x")
    mine = public / "d-dir"
    mine.chmod(0o777)
    for name in names:
        (mine / f"{name}-link").symlink_to(secret / name)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(f"{mine}/{name}-stale")
    (public / "d").mkdir()
    (public / "d").chmod(0o777)
    (secret / "x").chmod(0o755)
    outer = program("swap.py", public, 0, 0, "d").replace("exec", "")
    config = daemon("swap", f"exec {outer}", uid="games")
    config = config.replace(" -I -S ", " -I ")  # it needs ctypes, which is there in the distribution's own
    public.chmod(0o777)
    os.chown(public, GAMES, GAMES_GROUP)
    options: dict[str, Any] = {**user, **IGNORE}
    for name in names:
        config += daemon(name, SLEEP, listen=f"unix:{public}/d/{name}", deps="swap:started", **options)
    o = fleet(config)
    for turn in range(3):
        for name in names:
            eventually(lambda: row(o, name)["state"] in ("ok", "failed"), f"{name} is through")
        assert not os.listdir(secret / "x")
        for name in names:
            found = (secret / name).lstat()
            assert (found.st_uid, stat.S_ISREG(found.st_mode), (secret / name).read_text()) == (0, True, "root's")
        for name in names:  # others, so that all are opened anew
            text = o.config.read_text()
            o.config.write_text(re.sub(rf"(/d/{name})[.]?\n", r"\1\n" if turn % 2 else r"\1.\n", text))
        exchange(o, b"reload\n")
    assert o.count("cannot start: listen") > 3, "nothing was swapped at the right time"
    assert o.stop() == 0


# --- connections that wait -------------------------------------------------------------------------------------------


def test_open_before_dependencies(fleet: Start, port: int, tmp_path: Path) -> None:
    """A client connects while what the daemon needs is still coming, and has its answer once the daemon runs."""
    o = fleet(
        script("setup", "echo setup >> journal; until test -e go; do sleep .01; done")
        + daemon("web", program("answer.py"), deps="setup", wait_for=f"file:{tmp_path}/go",
                 listen=f"tcp:{port}\nunix:{tmp_path}/sock")
    )  # fmt: skip
    o.journal.wait_for("setup")
    with dial((V4, port)) as one, dial((V6, port)) as two, dial(tmp_path / "sock") as three:
        assert not o.starts("web")
        (tmp_path / "go").touch()
        assert [hear(sock).split()[0] for sock in (one, two, three)] == ["web"] * 3


def test_nobody_is_refused_meanwhile(fleet: Start, port: int) -> None:
    """While the daemon is killed, takes its time to come back, is stopped by hand and started: all wait, and are answered."""
    o = fleet(daemon("web", program("answer.py", 2), listen=f"tcp:{port}"))
    with Clients(lambda: ask((V4, port)), 4):
        o.kill_unit("web", signal.SIGTERM)
        o.journal.wait_for("web answers", 2)
        o.ask("restart", "web")
        o.journal.wait_for("web answers", 3)
        o.ask("stop", "web")
        with dial((V6, port)) as waiting:
            o.ask("start", "web")
            assert hear(waiting).split()[1] == str(o.unit("web").pid)


def test_refused_in_a_shutdown(fleet: Start, port: int) -> None:
    """Once the daemon is gone and will not come back, nobody waits for it: a load balancer tries elsewhere at once."""
    slow = daemon("slow", "trap '' TERM; echo slow >> journal; while :; do sleep 60; done", stop_timeout=NEVER)
    o = fleet(slow + daemon("web", program("answer.py"), listen=f"tcp:{port}", deps="slow"), settings={"shutdown_timeout": NEVER})
    o.journal.wait_for("slow")
    o.says("web", "ok")
    assert ask((V4, port))
    o.send(signal.SIGTERM)
    o.says("web", "stopped")
    eventually(lambda: refuses((V4, port)), "it is refused")
    assert o.unit("slow").alive


def test_restart_by_hand_of_a_unit_not_wanted(fleet: Start, port: int) -> None:
    """Nothing is open for a daemon that nobody wants; once it was wanted, it stays open."""
    o = fleet(daemon("keep", SLEEP) + daemon("web", program("answer.py"), listen=f"tcp:{port}", autostart="no"))
    o.says("keep", "ok")
    assert refuses((V4, port))
    o.ask("start", "web")
    o.ask("stop", "web")
    with dial((V4, port)) as waiting:
        o.ask("start", "web")
        assert hear(waiting)


def test_instances_that_hold_the_new_address(fleet: Start, port: int) -> None:
    """A reload to an address that the old instances hold in part stops all of them first, or the first would never come up."""
    o = fleet(daemon("web", program("answer.py"), listen=f"tcp:{port}", count=2))
    for name in ("web-1", "web-2"):
        o.says(name, "ok")
    change(o, f"tcp:{port}", f"tcp:127.0.0.1:{port}")
    o.ask("reload")
    assert ask((V4, port))


def test_a_count_that_becomes_a_unit_of_that_name(fleet: Start, port: int) -> None:
    """web-1 of `count = 1` and a [daemon:web-1] are two: the second is started as such."""
    o = fleet(daemon("web", program("answer.py"), listen=f"tcp:{port}", count=1))
    o.says("web-1", "ok")
    change(o, "[daemon:web]", "[daemon:web-1]")
    change(o, "count = 1", "")
    o.ask("reload")
    o.ask("restart", "web-1")
    assert ask((V4, port)).split()[0] == "web-1"


def test_instances_share(fleet: Start, port: int, tmp_path: Path) -> None:
    """All have the same socket, and each its own where `listen` names its number."""
    o = fleet(daemon("web", program("answer.py"), count=2, listen=f"tcp:{port}\nunix:{tmp_path}/w${{OVERLORD_INSTANCE}}"))
    both = ["web-1", "web-2"]
    for name in both:
        o.journal.wait_for(f"{name} answers")
    found = [o.unit(name).descriptors for name in both]
    assert found[0][3][0] == found[1][3][0] and found[0][4][0] != found[1][4][0]
    assert [ask(tmp_path / f"w{number}").split()[0] for number in (1, 2)] == both
    assert [variables(o, name)["LISTEN_FDNAMES"] for name in both] == ["web:web"] * 2
    o.ask("stop", "web-1")
    assert ask((V4, port)).split()[0] == "web-2"
    with Clients(lambda: ask((V4, port))):
        o.ask("restart", "web-*")
        o.ask("restart", "web-*")


def test_instance_and_its_flags(fleet: Start, port: int) -> None:
    """A socket that another instance is at work with is not changed under it."""
    o = fleet(daemon("web", program("answer.py"), count=2, listen=f"tcp:{port}"))
    for name in ("web-1", "web-2"):
        o.journal.wait_for(f"{name} answers")
    eventually(lambda: ask((V4, port)) and not is_blocking(o.unit("web-1"), 3), "it does not wait")
    change(o, "count = 2", "count = 3\nstop_timeout = 4s")
    o.says("web-3", "started")
    assert not is_blocking(o.unit("web-1"), 3)
    o.journal.wait_for("web-3 answers")


@pytest.mark.parametrize("count", [0, 2])
def test_reloads(fleet: Start, count: int) -> None:
    """An address is added, taken away, left alone, moved to another unit, and gone with its unit."""
    one, two, three = (free_port() for _ in range(3))
    listen = f"listen = tcp:{one}\n    tcp:{two}\n"
    config = daemon("web", program("answer.py")) + f"listen = tcp:{one}\n" + f"count = {count}\n" * bool(count)
    o = fleet(daemon("keep", SLEEP) + config)
    names = [f"web-{number}" for number in range(1, count + 1)] or ["web"]
    for name in names:
        o.journal.wait_for(f"{name} answers")
    before = o.unit(names[0]).descriptors[3][0]
    with Clients(lambda: ask((V4, one)), 3):
        assert refuses((V4, two))
        change(o, f"listen = tcp:{one}\n", listen)
        for name in names:
            o.journal.wait_for(f"{name} answers", 2)
        assert ask((V4, two))
        change(o, "warmup = 0", "warmup = 0\nstop_timeout = 5s")  # which changes the unit in place
        change(o, "[daemon:keep]", "[daemon:more]\ncmd = sleep 12345\n[daemon:keep]")
        assert sum(o.starts(name) for name in names) == 2 * len(names)
        change(o, listen, f"listen = tcp:{one}\n    tcp:{three}\n")
        for name in names:
            o.journal.wait_for(f"{name} answers", 3)
        eventually(lambda: refuses((V4, two)), "what was taken away is refused")
        assert ask((V4, three))
        assert o.unit(names[-1]).descriptors[3][0] == before, "it is the same socket all the time"
    text = o.config.read_text()
    o.config.write_text(text[: text.index("[daemon:web]")])
    o.ask("reload")
    assert all(refuses((host, number)) for host in (V4, V6) for number in (one, three))
    o.config.write_text(text)
    o.ask("reload")
    assert ask((V4, one))


def test_reload_moves_an_address(fleet: Start, port: int) -> None:
    """From one unit to another: the second opens it when the first is gone."""
    section = daemon("one", program("answer.py"), listen=f"tcp:{port}")
    o = fleet(daemon("keep", SLEEP) + section)
    o.says("one", "ok")
    assert ask((V4, port)).split()[0] == "one"
    change(o, "[daemon:one]", "[daemon:two]")
    o.says("two", "ok")
    assert ask((V4, port)).split()[0] == "two"


def test_no_descriptor_is_left(fleet: Start, port: int, tmp_path: Path) -> None:
    """A hundred restarts and reloads: overlord has as many descriptors as before, and none of them is in another unit."""
    config = daemon("other", SLEEP) + daemon("web", "trap 'exit 0' TERM; while :; do sleep 1234 & wait; done", backoff="0",
                                             listen=f"tcp:{port}", watchdog=NEVER, ready="fd:9")  # fmt: skip
    config = config.replace("trap", "echo >&9; trap")
    o = fleet(config)
    o.wait_ok("web")
    first = descriptors(o)
    for turn in range(50):
        o.kill_unit("web")
        o.wait_ok("web", 2 * turn + 2)
        old, new = f"listen = tcp:{port}\n", f"listen = tcp:{port}\n    unix:{tmp_path}/sock\n"
        change(o, *((old, new) if turn % 2 == 0 else (new, old)))
        o.wait_ok("web", 2 * turn + 3)
    eventually(lambda: descriptors(o) == first, "no more than before")
    mark = o.mark
    o.kill_unit("other")
    o.says("other", "ok", after=mark)
    assert set(o.unit_is("other", "sleep").descriptors) == {0, 1, 2}


def leave_descriptors(o: Overlord, number: int) -> None:
    """Leave overlord so many descriptors beside those that it has open."""
    used = set(Process(o.pid).descriptors)
    free = [fd for fd in range(max(used) + 10) if fd not in used]
    subprocess.run(["prlimit", "--pid", str(o.pid), f"--nofile={free[number]}:"], check=True)


@pytest.mark.parametrize("spare", range(5))
def test_out_of_descriptors(fleet: Start, port: int, tmp_path: Path, spare: int) -> None:
    """None is left to open a socket, or to hold it: a failed start, which does not count, and comes right later."""
    web = {"autostart": "no", "restart": "never", "backoff": "10ms..200ms"}
    o = fleet(
        script("setup", "until test -e go; do sleep .01; done")
        + daemon("web", program("answer.py"), listen=f"tcp:{port}\nunix:{tmp_path}/sock", **web)
        + daemon("late", SLEEP, deps="setup, web")
    )
    o.says("setup", "started")
    before = descriptors(o)
    leave_descriptors(o, spare)
    (tmp_path / "go").touch()
    o.wait_count(f"^overlord: web: cannot start: listen.*{TOO_MANY}, restarting", 2)
    subprocess.run(["prlimit", "--pid", str(o.pid), "--nofile=1024:"], check=True)
    o.says("late", "ok")
    assert ask((V4, port)) and ask(tmp_path / "sock")
    eventually(lambda: descriptors(o) == before + 2, "two more than before")


def test_descriptors_that_run_out_for_a_watchdog(fleet: Start, tmp_path: Path) -> None:
    """With two left there is a pipe, and no socket: what it has got is not lost."""
    words = "echo >&9; exec sleep 12345"
    o = fleet(daemon("web", words, ready="fd:9", watchdog=NEVER, wait_for=f"file:{tmp_path}/go", backoff="10ms..200ms"))
    o.says("web", "waiting for")
    before = descriptors(o)
    leave_descriptors(o, 2)
    (tmp_path / "go").touch()
    o.wait_count(f"^overlord: web: cannot start: .*{TOO_MANY}, restarting", 3)
    subprocess.run(["prlimit", "--pid", str(o.pid), "--nofile=1024:"], check=True)
    o.says("web", "ok")
    eventually(lambda: descriptors(o) == before + 1, "one more than before: its pipe is closed again")


# --- a child that opens sockets, and does not come back -----------------------------------------------------------------


def opener(o: Overlord) -> Process:
    """Return the child that opens sockets: it looks like overlord itself."""
    return eventually(
        lambda: [each for each in o.processes() if each.ppid == o.inner_pid and str(o.config) in " ".join(each.cmdline)],
        "a child opens sockets",
    )[0]


HANGS = "tcp:web.internal:{}"


def hanging(fleet: Start, names: NameServer, port: int, **options: object) -> Overlord:
    """Start a daemon whose sockets are not to be had for now."""
    o = fleet(
        daemon("web", program("answer.py"), listen=HANGS.format(port), **options) + daemon("other", SLEEP, backoff="0"),
        prefix=names.prefix,
    )
    names.wait_asked()
    o.wait_ok("other")
    return o


def test_opener_is_killed(fleet: Start, names: NameServer, port: int) -> None:
    """That is a failed start, which says what was to be done; the next one does it."""
    o = hanging(fleet, names, port)
    o.kill(opener(o).pid)
    o.says("web", r"cannot start: listen.*killed by SIGKILL, restarting")
    names.may_answer.set()
    o.says("web", "ok")
    assert ask((V4, port))


def test_opener_hangs_at_a_stop(fleet: Start, names: NameServer, port: int) -> None:
    """Stopped and started by hand meanwhile, again and again: what it opens or fails to open is seen to once."""
    o = hanging(fleet, names, port, wait_for="file:/nonexistent", backoff="50ms..100ms")
    for _ in range(3):
        o.ask("stop", "web")
        assert row(o, "web")["state"] == "stopped"
        o.ask("start", "web", "-t", "0", code=None)
        assert row(o, "web")["state"] == "waiting"
    names.there = False
    names.may_answer.set()
    o.says("web", f"cannot start: listen .*{NO_NAME}")
    names.there = True
    o.says("web", "waiting for file:/nonexistent")
    answers(o)
    assert row(o, "web")["state"] == "waiting" and not o.starts("web"), "it waits for what is not there"


def test_opener_hangs_and_succeeds_late(fleet: Start, names: NameServer, port: int) -> None:
    """Stopped and started meanwhile, it still has to wait for what `wait_for` names."""
    o = hanging(fleet, names, port, wait_for="file:/nonexistent")
    assert f"overlord to open {HANGS.format(port)}" in row(o, "web")["why"], "that is not the daemon's doing"
    for _ in range(2):
        o.ask("stop", "web")
        o.ask("start", "web", "-t", "0", code=None)
    names.may_answer.set()
    o.says("web", "waiting for file:/nonexistent")
    eventually(lambda: not refuses((V4, port)), "it is open")
    answers(o)
    o.kill_unit("other")
    o.wait_ok("other", 2)
    assert not o.starts("web") and row(o, "web")["state"] == "waiting"


def test_opener_hangs_at_a_reload(fleet: Start, names: NameServer, port: int) -> None:
    """The unit is removed meanwhile: what is opened for it too late is closed."""
    o = hanging(fleet, names, port)
    text = o.config.read_text()
    before = descriptors(o)
    o.config.write_text(text[: text.index("[daemon:web]")] + text[text.index("[daemon:other]") :])
    o.ask("reload")
    child = opener(o)
    names.may_answer.set()
    eventually(lambda: not child.alive, "it is through")
    answers(o)
    assert refuses((V4, port))
    eventually(lambda: descriptors(o) < before, "its descriptors are closed")


def test_opener_hangs_at_another_address(fleet: Start, names: NameServer, port: int) -> None:
    """A reload gives the unit another address, which is opened next."""
    o = hanging(fleet, names, port, count=2)
    other = free_port()
    rewrite(o, HANGS.format(port), f"tcp:{other}")
    answers(o)
    names.may_answer.set()
    for name in ("web-1", "web-2"):
        o.wait_ok(name)
    assert ask((V4, other)) and refuses((V4, port))


def test_opener_hangs_at_the_end(fleet: Start, names: NameServer, port: int) -> None:
    """A shutdown does not wait for it."""
    o = hanging(fleet, names, port)
    o.kill(opener(o).pid, signal.SIGSTOP)
    assert o.stop() == 0


# --- watchdog --------------------------------------------------------------------------------------------------------


# watch.py as a text: what it says, each after so many seconds; for ever from the last that is repeated.
SAYS = """
import os, socket, sys, time
sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
sock.connect("\\0" + os.environ["NOTIFY_SOCKET"][1:])
def say(text):
    sock.send(text.encode())
def note(text):
    with open("journal", "a") as file: file.write(text + chr(10))
"""


def watched(text: str, **options: object) -> str:
    """Return a daemon that talks to overlord."""
    return daemon("web", python(SAYS + text), **{"watchdog": "2s", **options})


PING = """
for turn in range(10000):
    say("WATCHDOG=1")
    if turn % 20 == 19: note("pinged")
    time.sleep(.2)
"""


def test_what_a_watched_daemon_gets(fleet: Start) -> None:
    """The variables of sd_watchdog_enabled(3), for the process itself; nobody else has them."""
    o = fleet(daemon("web", "true; exec sleep 12345", watchdog="90s") + daemon("other", SLEEP))
    o.says("other", "ok")
    told, process = variables(o, "web"), o.unit_is("web", "sleep")
    told = variables(o, "web")
    assert (told["WATCHDOG_USEC"], told["WATCHDOG_PID"]) == ("90000000", str(process.pid))
    assert told["NOTIFY_SOCKET"][0] == "@" and "LISTEN_FDS" not in told
    assert not [key for key in variables(o, "other") if key.startswith(("WATCHDOG", "NOTIFY"))]
    assert set(process.descriptors) == {0, 1, 2}


def test_silence(fleet: Start) -> None:
    """A daemon that says nothing once it is up has failed: restarted as such, and counted."""
    o = fleet(daemon("web", SLEEP, watchdog="500ms", restart="on-failure", respawns=2, backoff="0"))
    assert o.wait_exit() == 143
    o.says("web", r"stopping \(SIGTERM\): no WATCHDOG=1 within 0.5 s")
    assert o.starts("web") == 3
    o.says("web", r"failed: no WATCHDOG=1 within 0.5 s, .*\(respawns = 2, used up\)")


def test_silence_after_words(fleet: Start) -> None:
    """One that pinged for some limits, and stops, is restarted, and not before; then all begins anew."""
    o = fleet(watched('for _ in range(40): say("WATCHDOG=1"); time.sleep(.2)\nnote("silent"); time.sleep(1e6)', backoff="0"))
    o.says("web", "stopping .*no WATCHDOG=1 within 2 s")
    assert "silent" in o.journal.lines()
    o.wait_count("^overlord: web: stopping .*no WATCHDOG=1 within 2 s", 2)
    assert o.journal.lines().count("silent") >= 2, "the second time not before it was silent, too"


def test_pings(fleet: Start) -> None:
    """One that pings five times in the limit lives on, also after a restart, with the new process's own timer."""
    o = fleet(watched(PING))
    o.journal.wait_for("pinged")
    o.ask("restart", "web")
    o.journal.wait_for("pinged", 2)
    o.kill_unit("web")
    o.journal.wait_for("pinged", 3)
    assert o.starts("web") == 3 and not o.count("no WATCHDOG")


def test_not_before_it_is_ok(fleet: Start) -> None:
    """A slow start is not the watchdog's: it begins to wait when the daemon is OK."""
    o = fleet(watched("time.sleep(1e6)", watchdog="500ms", warmup="3s"))
    o.says("web", "stopping .*no WATCHDOG=1 within 0.5 s")
    o.wait_ok("web")
    lines = [index for index, line in enumerate(o.log) if "web: ok" in line or "no WATCHDOG" in line]
    assert "ok" in o.log[lines[0]]


@pytest.mark.parametrize("warmup", ["0", NEVER])
def test_trigger(fleet: Start, warmup: str) -> None:
    """A daemon may call for its own end, also before it is OK."""
    o = fleet(watched('say("WATCHDOG=trigger"); time.sleep(1e6)', watchdog=NEVER, warmup=warmup))
    o.says("web", "stopping .*it said WATCHDOG=trigger")
    o.wait_count(r"^overlord: web: .*restarting", 2)


def test_ready_by_another_way(fleet: Start, port: int) -> None:
    """READY=1 of a daemon that is ready by something else says nothing; with `notify` it does, and the watchdog follows."""
    text = 'say("READY=1"); note("said"); time.sleep(1e6)'
    o = fleet(watched(text, ready=f"tcp:127.0.0.1:{port}", watchdog="500ms"))
    o.journal.wait_for("said")
    answers(o)
    assert row(o, "web")["state"] == "starting"
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", port))
        sock.listen(10)
        o.says("web", r"ok \(ready")
        o.says("web", "stopping .*no WATCHDOG=1 within 0.5 s")


def test_notify_and_watchdog(fleet: Start) -> None:
    """Both by one socket: READY=1 first, then a message now and then."""
    o = fleet(watched('time.sleep(.5); say("READY=1\\nWATCHDOG=1")' + PING, ready="notify"))
    o.says("web", r"ok \(ready after")
    o.journal.wait_for("pinged")
    assert o.starts("web") == 1 and not o.count("no WATCHDOG")


def test_pause(fleet: Start) -> None:
    """After a `docker pause` that was longer than the limit, nobody has been silent."""
    o = fleet(watched(PING))
    o.journal.wait_for("pinged")
    web = o.outside(o.unit("web").pid)
    for _ in range(2):
        for pid in (web, o.pid):
            os.kill(pid, signal.SIGSTOP)
        time.sleep(5)
        for pid in (o.pid, web):
            os.kill(pid, signal.SIGCONT)
        times = o.journal.lines().count("pinged")
        o.journal.wait_for("pinged", times + 1)
    assert o.starts("web") == 1 and not o.count("no WATCHDOG")


def test_strangers(fleet: Start, tmp_path: Path) -> None:
    """Somebody else who pings for it keeps no dead one alive, and triggers nothing."""
    text = f"""
with open("{tmp_path}/address.new", "w") as file: file.write(os.environ["NOTIFY_SOCKET"])
os.rename("{tmp_path}/address.new", "{tmp_path}/address")
time.sleep(1e6)
"""
    stranger = f"""
import os, socket, time
while not os.path.exists("{tmp_path}/address"): time.sleep(.01)
sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
with open("{tmp_path}/address") as file: address = file.read()
while True:
    sock.sendto(b"WATCHDOG=1", chr(0) + address[1:])
    sock.sendto(b"WATCHDOG=trigger", chr(0) + address[1:])
    time.sleep(.1)
"""
    o = fleet(watched(text, watchdog="3s") + daemon("stranger", python(stranger)))
    assert "no WATCHDOG=1 within 3 s" in o.says("web", "stopping .*")[0]
    assert not o.count("trigger")


SLOW_PING = """
import os, socket, time
name = os.environ["OVERLORD_NAME"]
sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
while True:
    if "NOTIFY_SOCKET" in os.environ: sock.sendto(b"WATCHDOG=1", chr(0) + os.environ["NOTIFY_SOCKET"][1:])
    with open("journal", "a") as file: file.write(name + " pinged" + chr(10))
    time.sleep(1.5)
"""


@pytest.mark.parametrize("new", ["", "watchdog = 1s\n"])
def test_reload_in_a_rolling_restart(fleet: Start, tmp_path: Path, new: str) -> None:
    """An instance that waits for its turn to get another limit, or none, is not measured by that."""
    gate = tmp_path / "gate"
    gate.touch()
    names = ("web-1", "web-2")
    o = fleet(daemon("web", python(SLOW_PING), watchdog="5s", count=2, ready=f"file:{gate}", ready_timeout=NEVER))
    for name in names:
        o.wait_ok(name)
    gate.unlink()
    rewrite(o, "watchdog = 5s\n", new)
    waiting = o.wait_for(r"(web-\d): to be restarted \(reload\), waiting")[1]
    o.journal.wait_for(f"{waiting} pinged", o.journal.lines().count(f"{waiting} pinged") + 5)
    assert not o.count("no WATCHDOG") and o.starts(waiting) == 1
    gate.touch()
    o.wait_ok(waiting, 2)


# --- a real server ---------------------------------------------------------------------------------------------------


APP = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "3")])
    return [b"ok\\n"]
"""


@pytest.mark.parametrize("count", [0, 2])
def test_gunicorn(fleet: Start, port: int, tmp_path: Path, count: int) -> None:
    """Restarted again and again under load: not one request fails."""
    pytest.importorskip("gunicorn")
    (tmp_path / "app.py").write_text(APP)
    command = f"{sys.executable} -m gunicorn --workers 2 --graceful-timeout 20 --log-level warning app:app"
    options = {"ready": f"http://127.0.0.1:{port}/", "stop_timeout": "25s", "listen": f"tcp:{port}"}
    if count:
        options["count"] = str(count)
    o = fleet(daemon("web", command, **options), env={"PATH": PATH, "HOME": str(tmp_path)})
    names = [f"web-{number}" for number in range(1, count + 1)] or ["web"]
    for name in names:
        o.wait_ok(name)

    def fetch() -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60) as answer:
            return bytes(answer.read())

    with Clients(fetch, 4) as clients:
        for _ in range(int(os.environ.get("RESTARTS", "20")) // len(names)):
            o.ask("restart", *names)
    print(f"{clients.served} requests, none failed")
