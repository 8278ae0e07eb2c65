"""What an attack on overlord found: a unit, a client or a full machine does its worst, and PID 1 goes on.

Most of it is what a unit of another user, or a client that never reads, can do to PID 1. Where time is measured it is
CPU time, with a bound that the attack exceeds many times over.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import random
import re
import socket
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

import overlord as program_under_test
from conftest import Start
from harness import (
    TOO_MANY,
    Asking,
    Overlord,
    Process,
    daemon,
    dial,
    eventually,
    exchange,
    read_all,
    script,
    system_python,
    without,
)
from test_control import descriptors, memory
from test_hardship import become, set_limit
from test_output import fill, inside, mounted
from test_probes import python

NEVER = "1000s"
SLEEP = "exec sleep 12345"
KEEP = daemon("keep", SLEEP)
NOBODY = 65534
LINGER = "import socket, struct; LINGER = (socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 3600))"

# A TCP connection that is full and lingers: whoever closes its last descriptor waits for an hour.
LINGERING = (
    LINGER
    + """
listener = socket.create_server(("127.0.0.1", 0))
lingering = socket.create_connection(listener.getsockname())
accepted = listener.accept()
lingering.setblocking(False)
try:
    while True:
        lingering.send(bytes(65536))
except BlockingIOError:
    pass
lingering.setsockopt(*LINGER)
rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", lingering.fileno()))]
"""
)
NOTIFY = """
import os, socket
overlord = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
overlord.connect("\\0" + os.environ["NOTIFY_SOCKET"][1:])
"""


@pytest.fixture
def fleet(overlord: Start, tmp_path: Path) -> Iterator[Start]:
    """Start an overlord with a socket. At the end there is its log alone on stderr."""
    started: list[Overlord] = []

    def start(config: str = "", **options: Any) -> Overlord:
        options["settings"] = {"socket": "abstract", **options.get("settings", {})}
        started.append(overlord(config, **options))
        eventually(lambda: started[-1].log or started[-1].popen.poll() is not None, "its first words")
        return started[-1]

    yield start
    for o in started:
        assert not [line for line in o.log if "internal error" in line or not line.startswith(("overlord: ", "  "))]


def answers(o: Overlord) -> None:
    """See that overlord goes round its loop: it answers, and performs what it was told before."""
    assert exchange(o, b"health\n")


def rewrite(o: Overlord, old: str, new: str = "") -> None:
    """Change the configuration, and have it read. What it starts is not waited for."""
    text = o.config.read_text()
    assert old in text
    o.config.write_text(text.replace(old, new))
    o.ask("reload", "-t", "0", code=None)


def cpu(o: Overlord) -> float:
    """Return the seconds of CPU time that overlord has used."""
    return sum(map(int, Process(o.pid).stat[11:13])) / os.sysconf("SC_CLK_TCK")


def exhaust(o: Overlord) -> None:
    """Leave overlord no descriptor, and each child the one by which a program finds its libraries."""
    set_limit(o, "nofile=4")


# --- reloads ---------------------------------------------------------------------------------------------------------


def test_timers_of_one_instant() -> None:
    """Timers are made and cancelled at the same instant, and the memory of one is that of another: all are kept apart."""
    watch, heard = program_under_test.Watch(), []
    for number in range(1000):
        timer = watch.later(0.0, functools.partial(heard.append, number))
        if number % 3:
            watch.cancel(timer)
        del timer
    watch.wait(0.0)
    assert heard == list(range(0, 1000, 3)), "in the order in which they were made"


def test_reloads_lose_no_timer(fleet: Start) -> None:
    """Each reload cancels all timers and makes them again: every probe and every schedule goes on."""
    names = [f"d{number}" for number in range(10)]
    probe = {"health": "file:/nonexistent", "health_retries": 1000}
    config = [daemon(name, SLEEP, **probe, health_interval=f"{100 + 10 * (i % 5)}ms") for i, name in enumerate(names)]
    o = fleet("".join(config) + script("clock", "true", schedule="every 100ms"))
    for _ in range(150):
        exchange(o, b"reload\n")
    mark = o.mark
    for name in names:
        o.says(name, "unhealthy", after=mark)
    o.says("clock", "ok", after=mark)


ROLLING = {"by hand": {}, "by age": {"max_age": "2s"}}


@pytest.mark.parametrize("why", ROLLING)
def test_reload_in_a_rolling_restart(fleet: Start, asking: Callable[..., Asking], tmp_path: Path, why: str) -> None:
    """Nothing that differs: the instances that still wait for their turn have it."""
    gate = tmp_path / "gate"
    gate.touch()
    names = ["web-1", "web-2", "web-3"]
    o = fleet(daemon("web", SLEEP, count=3, ready=f"file:{gate}", ready_timeout=NEVER, **ROLLING[why]))
    for name in names:
        o.wait_ok(name)
    up = time.monotonic()
    gate.unlink()
    if why == "by hand":
        client = asking(o, "restart", "web")
    eventually(lambda: sum(map(o.starts, names)) > 3, "the first has its turn")
    eventually(lambda: why == "by hand" or time.monotonic() > up + 2.5, "all are of age", pause=0.1)
    o.ask("reload", "-t", "0", code=None)
    gate.touch()
    for name in names:
        o.wait_ok(name, 2)
    if why == "by hand":
        assert client.wait_exit() == 0


def test_wait_for_what_a_reload_removes(fleet: Start) -> None:
    """Whoever waits for a unit, or follows it, is told that it is no more; who follows others too goes on."""
    web = daemon("web", SLEEP, ready="file:/nonexistent", ready_timeout=NEVER, stdout="prefix")
    o = fleet(KEEP + web)
    o.says("web", "started")
    clients = {}
    for words in (b"wait web", b"events web", b"logs -f web", b"events *"):
        clients[words] = dial(o)
        clients[words].sendall(words + b"\n")
        assert clients[words].recv(1), "the beginning of an answer"
    rewrite(o, web)
    every = clients.pop(b"events *")
    for words, sock in clients.items():
        assert re.search(rb"(?m)^!web was removed by a reload\n=1\n$", read_all(sock)), words
    o.kill_unit("keep")
    eventually(lambda: b"SIGKILL" in every.recv(65536), "what happens to another")


def test_sockets_of_removed_units(fleet: Start) -> None:
    """A unit that is `ready = notify` and no more leaves no descriptor behind."""
    o = fleet(KEEP)
    o.says("keep", "ok")
    before, last = descriptors(o), KEEP
    for number in range(8):
        new = KEEP + daemon(f"n{number}", SLEEP, ready="notify")
        rewrite(o, last, new)
        o.says(f"n{number}", "started")
        last = new
    rewrite(o, last, KEEP)
    eventually(lambda: descriptors(o) <= before, f"{before} descriptors, as before: {Process(o.pid).descriptors}")


def test_log_file_given_up_by_a_reload(fleet: Start, tmp_path: Path) -> None:
    """A log file that cannot be written is no unit's any more: what was lost is said, and it is not opened again."""
    folder, tick = tmp_path / "full", "while :; do seq 1000; sleep 0.1; done"
    probe = {"health": "file:/none", "health_interval": "100ms", "health_retries": 1000}
    o = fleet(daemon("web", tick, stdout=folder / "log", **probe), prefix=mounted(folder, "size=64k"))
    o.says("web", "ok")
    filler = fill(o, folder)
    o.says("web", "cannot write .*No space left")
    rewrite(o, f"{folder}/log", f"{tmp_path}/other")
    o.says("web", rf"\d+ lines for {folder}/log were given up: No space left")
    size = inside(o, folder / "log").stat().st_size
    filler.unlink()
    o.wait_count("web: unhealthy", o.count("web: unhealthy") + 20)
    assert str(folder / "log") not in [path for path, _ in Process(o.pid).descriptors.values()]
    assert inside(o, folder / "log").stat().st_size == size
    assert o.count("can be written again") == 0


# --- what a unit sends -----------------------------------------------------------------------------------------------


def test_descriptor_that_lingers(fleet: Start) -> None:
    """A message with a socket attached whose last close would take an hour: PID 1 closes it at once."""
    send = "overlord.sendmsg([b'READY=1'], rights)\nlingering.close()\nopen('journal', 'w').write('sent\\n')\n"
    o = fleet(daemon("web", python(NOTIFY + LINGERING + send + "import time; time.sleep(1000)"), ready="notify"))
    o.journal.wait_for("sent")
    o.says("web", r"ok \(ready")
    answers(o)
    assert o.stop() == 0


def test_control_characters_in_a_status(fleet: Start) -> None:
    """C1 characters are commands to a terminal, as those of C0 are: they come spelt out."""
    send = NOTIFY + "overlord.send('READY=1\\nSTATUS=a\\x1b[31mb\\x9b31mc\\x84d\\x7fe'.encode())\nimport time; time.sleep(1000)"
    o = fleet(daemon("web", python(send), ready="notify"))
    o.says("web", r"ok \(ready")
    assert r"a\x1b[31mb\x9b31mc\x84d\x7fe" in eventually(lambda: re.findall(r"a.*31.*e", o.ask("status").stdout), "the text")[0]


# --- `ready = fd:N` --------------------------------------------------------------------------------------------------


def test_no_descriptor_is_lost_where_fork_fails(fleet: Start, public: Path) -> None:
    """Nobody says that he is ready, and overlord's end of the pipe is closed."""
    user = str(random.randrange(100_000, 1_000_000))  # LINUX: the limit counts all processes of a user
    web = daemon("web", "echo >&3; exec sleep 12345", ready="fd:3", backoff="10ms..10ms")
    o = fleet(web, folder=public, prefix=become(user, user))
    o.says("web", "ok")
    before = descriptors(o)
    set_limit(o, "nproc=1", become(user, user))
    o.kill_unit("web")
    o.wait_count("web: cannot start", 10)
    eventually(lambda: descriptors(o) <= before + 1, "as many descriptors as before")
    set_limit(o, "nproc=10", become(user, user))
    o.wait_ok("web", 2)


def test_pipe_that_a_runaway_holds(fleet: Start, tmp_path: Path) -> None:
    """A child that got away holds the pipe of each life of a daemon that flaps, and that of a unit that is no more."""
    cmd = python(
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    while not os.path.exists('gate'):\n        time.sleep(0.02)\n"
        "    try:\n        os.write(3, b'ready\\n')\n"
        "    except BrokenPipeError:\n        pass\n"
        "    open('journal', 'a').write('said\\n')\n"
        "    os._exit(0)\n"
        "time.sleep(0.05)\n"
    )
    web = daemon("web", cmd, ready="fd:3", backoff="10ms..10ms", on_failure="ignore", respawns="100000", kill_mode="process")
    o = fleet(KEEP + web)
    o.wait_count("web: started", 2)
    before = descriptors(o)
    o.wait_count("web: started", 8)
    eventually(lambda: descriptors(o) <= before + 2, "as many descriptors as before")
    rewrite(o, web)
    eventually(lambda: b"web" not in exchange(o, b"status\n"), "web is no more")
    (tmp_path / "gate").touch()
    o.journal.wait_for("said", 8)
    answers(o)
    o.says("keep", "ok")


# --- log files -------------------------------------------------------------------------------------------------------


@pytest.fixture
def logs(public: Path) -> Path:
    """A folder that belongs to nobody, beside a file of root's."""
    (public / "roots").write_text("")
    (public / "roots").chmod(0o600)
    (public / "logs").mkdir()
    os.chown(public / "logs", NOBODY, NOBODY)
    return public / "logs"


def test_log_file_becomes_a_link(fleet: Start, public: Path, logs: Path) -> None:
    """The unit may move its log file away and put a link there: overlord, which is root, does not write where it leads."""
    log = logs / "log"
    swap = "echo first; until test -e log; do sleep 0.01; done; mv log old; ln -s ../roots log"
    cmd = f"cd {logs}; {swap}; while :; do echo '* * * * * root id'; sleep 0.05; done"
    o = fleet(daemon("web", cmd, uid=NOBODY, stdout=log), folder=public)
    o.says("web", f"cannot write {log}: {log} is a link")
    assert (public / "roots").read_text() == ""
    log.unlink()
    o.says("web", f"{log} can be written again, nothing was lost")
    assert not log.is_symlink()
    assert (public / "roots").read_text() == ""


def test_links_that_are_there_before(fleet: Start, public: Path, logs: Path, tmp_path: Path) -> None:
    """A link is followed in a folder of root's alone, or to the container's own stdout, as images have one."""
    (logs / "nobodys").symlink_to("../roots")
    os.chown(logs / "nobodys", NOBODY, NOBODY, follow_symlinks=False)
    (logs / "moved").symlink_to("../roots")  # root's, and the unit's user can give it any name
    (logs / "out").symlink_to("/dev/stdout")
    (tmp_path / "link").symlink_to("there/file")
    (tmp_path / "there").mkdir()
    fails = {"uid": NOBODY, "on_failure": "ignore", "respawns": 1, "backoff": "10ms"}
    o = fleet(
        "".join(daemon(name, f"echo evil; {SLEEP}", stdout=logs / name, **fails) for name in ("nobodys", "moved"))
        + daemon("web", f"echo hello; {SLEEP}", uid=NOBODY, stdout=logs / "out")
        + daemon("db", f"echo hello; {SLEEP}", uid=NOBODY, stdout=tmp_path / "link"),
        folder=public,
    )
    for name in ("nobodys", "moved"):
        o.says(name, f"failed: cannot start: stdout {logs}/{name}: {logs}/{name} is a link")
    o.wait_for("^hello$", lines=o.out)
    file = tmp_path / "there" / "file"
    eventually(lambda: file.exists() and file.read_text() == "hello\n", "what root's link leads to")
    assert (public / "roots").read_text() == ""


def test_hard_links_among_rotated_files(fleet: Start, tmp_path: Path) -> None:
    """To rename one name of a file into another does nothing: LINUX, rename(2). No line is lost for that."""
    log = tmp_path / "log"
    log.write_text("x" * 4999 + "\n")
    for number in range(1, 6):
        os.link(log, f"{log}.{number}")
    cmd = f"for n in $(seq 500); do echo line $n; done; echo end >> journal; {SLEEP}"
    o = fleet(daemon("web", cmd, stdout=log, log_max=4096, log_keep=5))
    o.journal.wait_for("end")

    def lines() -> list[str]:
        files = {path.stat().st_ino: path for path in (log, *(Path(f"{log}.{number}") for number in range(5, 0, -1)))}
        return sorted(line for path in files.values() for line in path.read_text().splitlines() if line.startswith("line"))

    eventually(lambda: lines() == sorted(f"line {number}" for number in range(1, 501)), f"all lines once\n{o}")


def test_endless_line_in_a_rotated_file(fleet: Start, tmp_path: Path) -> None:
    """One that never ends is cut where a file would become three times as large as it may."""
    log, most, much = tmp_path / "log", 512 << 10, 8 << 20
    cmd = f"head -c {much} /dev/zero | tr '\\0' x; echo; echo end >> journal; {SLEEP}"
    o = fleet(daemon("web", cmd, stdout=log, log_max=most, log_keep=100))
    o.journal.wait_for("end")

    def sizes() -> list[int]:
        with contextlib.suppress(FileNotFoundError):  # while they are renamed
            return [path.stat().st_size for path in tmp_path.glob("log*")]
        return []

    eventually(lambda: sum(sizes()) == much + 1, f"all of it\n{o}")
    assert max(sizes()) <= 3 * most


def test_pattern_that_backtracks(fleet: Start) -> None:
    """`ready = log:REGEX` is looked for in the beginning of a line: the work on a long one is bounded.

    On all of it this one takes half a minute of CPU time and more, on any machine of today, for each of the lines.
    """
    cmd = f"for n in 1 2 3 4; do head -c 65000 /dev/zero | tr '\\0' x; echo; done; echo server is listening; {SLEEP}"
    o = fleet(daemon("web", cmd, stdout="prefix", ready="log:.*server.*listening", ready_timeout=NEVER))
    o.says("web", r"ok \(ready")
    answers(o)
    assert cpu(o) < 2 + 20 * search_time()


def search_time() -> float:
    """Return the seconds of CPU time that this machine needs to search one line as overlord does."""
    began = time.process_time()
    re.search(rb".*server.*listening", b"x" * 1000)
    return time.process_time() - began


# --- clients ---------------------------------------------------------------------------------------------------------


def test_classes_of_letters(fleet: Start) -> None:
    """Patterns as the shell has them; nothing that Python thinks of one is said on stderr, whose reader may be stuck."""
    names = ("ax", "bx", "-x", "cx", "x")
    o = fleet("".join(daemon(name, SLEEP) for name in names if name[0] != "-") + script("one", "true"))
    cases = {
        "[a]x": "ax",
        "[a-b]x": "ax bx",
        "[!a]*": "bx cx one x",
        "[!a-b]x": "cx",
        "[]a]x": "ax",
        "[a--b]x": "bx",
        "[[a]x": "ax",
        "[c-a]x": "",
        "[ab-]x": "ax bx",
    }
    for pattern, wanted in cases.items():
        answer = exchange(o, f"status {pattern}\n".encode()).decode()
        found = sorted(line[1:].split("\t")[0] for line in answer.splitlines() if line[0] == " ")
        assert found == wanted.split(), pattern


def test_restart_behind_an_instance_in_backoff(fleet: Start, tmp_path: Path) -> None:
    """Who has a team restarted is told that its first fails, and that the others run on."""
    (tmp_path / "good").touch()
    cmd = f"if test -e bad; then exit 1; fi; {SLEEP}"
    o = fleet(daemon("web", cmd, count=3, ready=f"file:{tmp_path}/good", backoff=f"{NEVER}..{NEVER}"))
    for number in (1, 2, 3):
        o.wait_ok(f"web-{number}")
        o.unit_is(f"web-{number}", "sleep")
    (tmp_path / "bad").touch()
    (tmp_path / "good").unlink()
    done = o.ask("restart", "web", code=1)
    assert re.search(r"web-1 did not come up, it is in backoff: pid \d+ exited with code 1", done.stderr)
    assert "web-2 was not restarted, and runs on as before" in done.stderr
    assert [o.starts(f"web-{number}") for number in (2, 3)] == [1, 1]


@pytest.mark.parametrize("words", ("logs *", "logs -f *"))
def test_clients_that_never_read(fleet: Start, words: str) -> None:
    """What is kept for all of them together is bounded; those who are let go are the ones who took least."""
    clients, units = 100, 30
    lines = "for n in 1 2 3; do head -c 50000 /dev/zero | tr '\\0' x; echo; done"
    cmd = f"{lines}; echo end >> journal; {SLEEP}"
    o = fleet("".join(daemon(f"u{n}", cmd, stdout="prefix") for n in range(units)))
    o.journal.wait_for("end", units)
    eventually(lambda: len(exchange(o, b"logs *\n")) > program_under_test.ANSWERS_MAX, "who reads has it all")
    before, open_before, socks = memory(o), descriptors(o), []
    for _ in range(clients):
        socks.append(dial(o))
        socks[-1].sendall(f"{words}\n".encode())
        answers(o)
    grown = memory(o) - before
    assert grown < 3 * program_under_test.ANSWERS_MAX, grown
    assert descriptors(o) < open_before + clients, "some are let go"
    if "-f" not in words:
        eventually(lambda: descriptors(o) <= open_before, "all are let go")
    for sock in socks:
        sock.close()


def test_slow_follower_of_many(fleet: Start) -> None:
    """Each unit has its last lines sent, and from there on each line once, though new ones come while the old ones are sent."""
    units, old, new = 4, 100, 300
    line = "printf '%s-%s-%01000d\\n' $OVERLORD_NAME $n 0; n=$((n+1))"
    cmd = f"n=0; while [ $n -lt {old} ]; do {line}; done; echo old >> journal; until test -e go; do sleep 0.01; done; "
    cmd += f"while [ $n -lt {new} ]; do {line}; done; echo new >> journal; {SLEEP}"
    o = fleet("".join(daemon(f"u{n}", cmd, stdout="prefix") for n in range(units)))
    o.journal.wait_for("old", units)
    eventually(lambda: all(len(exchange(o, b"logs u%d\n" % n)) > old * 1000 for n in range(units)), "all old lines are in")
    with dial(o) as sock:
        sock.sendall(b"logs -f *\n")
        assert sock.recv(1, socket.MSG_PEEK)
        (o.folder / "go").touch()
        o.journal.wait_for("new", units)
        heard = b""
        while any(b" u%d | u%d-%d-" % (n, n, new - 1) not in heard[-(1 << 20) :] for n in range(units)):
            more = sock.recv(1 << 16)
            assert more, "it is not hung up on"
            heard += more
    for number in range(units):
        found = re.findall(rb"(?m)^ u%d \| u%d-(\d+)-0{1000}$" % (number, number), heard)
        first = int(found[0])
        assert [int(each) for each in found] == [*range(first, new)] and first <= new - old // 2, number


# --- no descriptors --------------------------------------------------------------------------------------------------


def test_start_without_descriptors(fleet: Start) -> None:
    """What needs none for itself is started; what does waits, and that is none of its failures."""
    rest = {"respawns": 1, "backoff": "10ms..10ms"}
    o = fleet(daemon("plain", SLEEP, **rest) + daemon("pipe", f"echo >&3; {SLEEP}", ready="fd:3", **rest))
    o.wait_ok("plain")
    o.wait_ok("pipe")
    exhaust(o)
    o.kill_unit("plain")
    eventually(lambda: o.starts("plain") == 2, "it is started")
    o.unit_is("plain", "sleep")
    o.kill_unit("pipe")
    o.wait_count(f"pipe: cannot start: .*{TOO_MANY}", 10)
    set_limit(o, "nofile=1024")
    o.wait_ok("pipe", 2)
    assert o.count("plain: cannot start") == 0


def test_limit_on_descriptors_beside_many_pipes(fleet: Start) -> None:
    """A unit may have fewer descriptors than overlord has open, and its user is looked up all the same."""
    names = [f"u{number}" for number in range(20)]
    both = {"stdout": "prefix", "stderr": "prefix"}
    o = fleet(
        "".join(daemon(name, SLEEP, **both) for name in names)
        + daemon("web", SLEEP, uid="nobody", limits="nofile=64", deps=", ".join(names), respawns=1, backoff="10ms")
    )
    assert "Max open files            64 " in (o.unit_is("web", "sleep").folder / "limits").read_text()
    assert descriptors(o) > 64


def test_health_without_processes(fleet: Start) -> None:
    """A name that cannot be looked up, since no process can be made for that, says nothing about the unit either."""
    health = {"health": "tcp:some.name:80", "health_interval": "20ms", "health_retries": 2}
    o = fleet(daemon("web", SLEEP, **health), python=without("fork", errno.EAGAIN, after=1))
    o.wait_count("web: cannot see whether it is healthy: fork: Resource temporarily unavailable", 5)
    assert o.count("unhealthy") == 0
    assert o.starts("web") == 1


def test_health_without_descriptors(fleet: Start) -> None:
    """A probe that cannot be made says nothing about the unit."""
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as server:
        health = f"tcp:127.0.0.1:{server.getsockname()[1]}"
        o = fleet(daemon("web", SLEEP, health=health, health_interval="20ms", health_retries=2))
        o.says("web", "ok")
        exhaust(o)
        o.wait_count(f"web: cannot see whether it is healthy: {TOO_MANY}", 5)
        set_limit(o, "nofile=1024")
        mark = o.mark
    o.says("web", r"unhealthy \(1 of 2\)", after=mark)
    assert [line for line in o.log[:mark] if "unhealthy" in line] == []


LINGERS = """
import array, os, socket, struct, sys, time
names = tuple(os.stat(f"/proc/self/ns/{kind}").st_ino for kind in ("pid", "mnt"))
listener = socket.create_server(("127.0.0.1", 0), backlog=50)
held = []
for _ in range(20):
    held.append(socket.create_connection(listener.getsockname()))
    held[-1].setblocking(False)
    try:
        while True:
            held[-1].send(bytes(65536))
    except BlockingIOError:
        pass
    held[-1].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3600))
while held:
    sock = held.pop()
    client = socket.socket(socket.AF_UNIX)
    client.connect("\\0overlord/%d/%d" % names)
    try:
        client.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [sock.fileno()]))])
    except OSError:  # overlord has hung up already: this process is not to wait either
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes(8))
    sock.close()
    client.close()
open("journal", "a").write("sent\\n")
time.sleep(1000)
"""


def test_descriptors_from_who_may_not_ask(fleet: Start, public: Path) -> None:
    """Anybody can connect to an abstract socket, and send what would have overlord wait as it closes it."""
    (public / "linger.py").write_text(LINGERS)
    o = fleet(daemon("evil", f"exec {system_python()} linger.py", uid=NOBODY) + daemon("web", SLEEP), folder=public)
    o.journal.wait_for("sent")
    mark = o.mark
    o.kill_unit("web")
    o.says("web", "ok", after=mark)
    assert o.stop() == 0


# --- others on the machine -------------------------------------------------------------------------------------------
