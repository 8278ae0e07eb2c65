"""What overlord costs beside what one would pick instead, in one run, each as PID 1 of a fresh PID namespace.

    apt-get install gcc libc6-dev tini dumb-init catatonit s6 runit
    python3 -m venv /tmp/peers && /tmp/peers/bin/pip install -r tests/bench/requirements.txt
    python3 tests/bench/peers.py --peers-python /tmp/peers/bin/python
    python3 tests/bench/peers.py --only bare overlord --rounds 3          (a quick look)

The service is a small C program, which tells when it began: so the clock runs from the `exec` of the supervisor to the
first instruction of its service, whatever this program does meanwhile. Peers take turns, round after round; figures are
medians. A peer that is not here is named and left out; what a peer cannot do, or what takes it longer than a minute, is `-`.

    bare       `python3 -I -S` with a loop of fork, exec and wait, which does nothing else: the limit for any Python
    compiling  the same, which compiles overlord.py first: the limit for it as it was copied (start alone)
    overlord   the file as it was copied;  `compiled`: made by `overlord.py compile`
    tini dumb-init catatonit   run one service, and are asked for that alone
    s6         s6-svscan, with room for all services (-c), else as it comes
    runit      runsvdir, as it comes; it leaves its services when told to stop, so it is not asked for that
    supervisord  as it comes, but with no log of its own, startsecs = 0 and no captured output
    circus     as it comes, but without statistics

supervisord and circus, which do not keep up with 20,000 orphans, are not asked for that. Memory is PSS, of all processes
that are not services. Idle is over ten seconds, after all have settled.

Escaped processes are fifty that the service started in sessions of their own, whose parents have ended. What is measured
is the peer's own command that stops that service: until it has returned, and until none of the fifty is left.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import re
import select
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Callable

import figures

OVERLORD = Path(__file__).resolve().parents[2] / "overlord.py"
SPACE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
GIVE_UP = 60.0  # s
ORPHANS = 20_000
ESCAPED = 50
PARTS = ["start", "services", "orphans", "escaped", "client", "http"]
# service FIFO: say when it began, and stay.  service FIFO N: make N orphans, one after the other, say so, and stay.
# service FIFO -N: make N processes in sessions of their own, which stay, say so, and stay.
# service FIFO exec COMMAND...: say when, and become the command.
SERVICE = r"""
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
static void tell(const char *fifo) {
    char line[32];
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    int fd = open(fifo, O_WRONLY), size = snprintf(line, sizeof line, "%ld%09ld\n", (long)t.tv_sec, t.tv_nsec);
    if (write(fd, line, size) != size) exit(1);
    close(fd);
}
int main(int argc, char **argv) {
    tell(argv[1]);
    if (argc > 3) return execvp(argv[3], argv + 3);
    if (argc > 2) {
        long number = atol(argv[2]);
        for (long left = labs(number); left; left--) {
            pid_t child = fork();
            if (!child) {
                pid_t orphan = fork();
                while (!orphan && number < 0)
                    if (setsid() < 0 || !pause()) break;
                _exit(orphan < 0);
            }
            waitpid(child, 0, 0);
        }
        tell(argv[1]);
    }
    for (;;) pause();
}
"""
BARE = """
import os, sys, _signal
def start(cmd):
    pid = os.fork()
    if not pid:
        os.execv(cmd[0], cmd)
    return pid
def stop(*_):
    for pid in cmds:
        os.kill(pid, 15)
    while cmds:
        cmds.pop(os.wait()[0], None)
    os._exit(0)
cmds = {}
_signal.signal(15, stop)
for line in sys.argv[1:]:
    for _ in range(int(sys.argv[1]) if line is sys.argv[2] else 0):
        cmds[start(sys.argv[2:])] = sys.argv[2:]
while True:
    cmd = cmds.pop(os.wait()[0], None)
    if cmd:
        cmds[start(cmd)] = cmd
"""
COMPILING = f"compile(open({str(OVERLORD)!r}, 'rb').read(), '', 'exec')"
SUPERVISORD = """
[supervisord]
nodaemon = true
silent = true
logfile = /dev/null
logfile_maxbytes = 0
minfds = 10000
minprocs = 10000
pidfile = {folder}/supervisord.pid
"""
SUPERVISORD_SOCKET = """
[unix_http_server]
file = {folder}/supervisord.sock
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
"""
SUPERVISORD_UNIT = """
[program:d{number}]
command = {cmd}
startsecs = 0
stdout_logfile = NONE
stderr_logfile = NONE
"""
CIRCUS = """
[circus]
endpoint = ipc://{folder}/endpoint
pubsub_endpoint = ipc://{folder}/pubsub
statsd = false
"""


def write(path: Path, text: str, mode: int = 0o644) -> Path:
    """Write a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


class Peers:
    """How each is started with some services: NAME -> function of (folder, service, count) to its command."""

    def __init__(self, given: argparse.Namespace, folder: Path) -> None:
        self.python, self.peers_python = (
            shutil.which(os.path.abspath(name) if "/" in name else name) or name for name in (given.python, given.peers_python)
        )
        self.controlled = False  # supervisord is to have a socket
        self.compiled = folder / "overlord"
        subprocess.run([self.python, OVERLORD, "compile", self.compiled], check=True)
        self.all: dict[str, Callable[[Path, str, int], list[str]]] = {
            "bare": lambda folder, cmd, count: [self.python, "-I", "-S", "-c", BARE, str(count), *cmd.split()],
            "compiling": lambda folder, cmd, count: [self.python, "-I", "-S", "-c", COMPILING + BARE, str(count), *cmd.split()],
            "overlord": lambda *unit: [self.python, str(OVERLORD), *self.overlord(*unit)],
            "compiled": lambda *unit: [str(self.compiled), *self.overlord(*unit)],
            "tini": lambda folder, cmd, count: ["tini", "--", *cmd.split()],
            "dumb-init": lambda folder, cmd, count: ["dumb-init", *cmd.split()],
            "catatonit": lambda folder, cmd, count: ["catatonit", "--", *cmd.split()],
            "s6": lambda *unit: ["s6-svscan", "-c", "2000", self.folders(*unit)],
            "runit": lambda *unit: ["runsvdir", self.folders(*unit)],
            "supervisord": self.supervisord,
            "circus": self.circus,
        }
        for name in list(self.all):
            if given.only and name not in given.only:
                del self.all[name]
            elif not self.is_here(name):
                print(f"{name} is not here, and left out", flush=True)
                del self.all[name]

    def is_here(self, name: str) -> bool:
        """Tell whether a peer can be started."""
        module = {"supervisord": "supervisor", "circus": "circus"}.get(name)
        if module:
            silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            return not subprocess.run([self.peers_python, "-c", f"import {module}"], **silent).returncode  # type: ignore
        program = {"s6": "s6-svscan", "runit": "runsvdir"}.get(name, name)
        return name in ("bare", "compiling", "overlord", "compiled") or bool(shutil.which(program))

    def stopping(self, name: str, folder: Path) -> list[str]:
        """Return the command with which a peer stops its service d0."""
        ctl = f"unix://{folder}/supervisord.sock"
        return {
            "overlord": [self.python, str(OVERLORD), "-c", f"{folder}/overlord.conf", "stop", "d0"],
            "compiled": [str(self.compiled), "-c", f"{folder}/overlord.conf", "stop", "d0"],
            "s6": ["s6-svc", "-wD", "-d", f"{folder}/scan/d0"],
            "runit": ["sv", "stop", f"{folder}/scan/d0"],
            "supervisord": [self.peers_python, "-m", "supervisor.supervisorctl", "-s", ctl, "stop", "d0"],
            "circus": [
                self.peers_python,
                "-m",
                "circus.circusctl",
                "--endpoint",
                f"ipc://{folder}/endpoint",
                "stop",
                "d0",
                "--waiting",
            ],
        }[name]

    def overlord(self, folder: Path, cmd: str, count: int) -> list[str]:
        units = "".join(f"[daemon:d{number}]\ncmd = {cmd}\nbackoff = 0\n" for number in range(count))
        own = f"[overlord]\nconfigdir = {folder}/none\nsocket = {folder}/socket\nlog_level = error\n"
        return ["-c", str(write(folder / "overlord.conf", own + units))]

    def folders(self, folder: Path, cmd: str, count: int) -> str:
        for number in range(count):
            write(folder / f"scan/d{number}/run", f"#!/bin/sh\nexec {cmd}\n", 0o755)
        return f"{folder}/scan"

    def supervisord(self, folder: Path, cmd: str, count: int) -> list[str]:
        units = "".join(SUPERVISORD_UNIT.format(number=number, cmd=cmd) for number in range(count))
        own = SUPERVISORD + (SUPERVISORD_SOCKET if self.controlled else "")
        config = write(folder / "supervisord.conf", own.format(folder=folder) + units)
        return [self.peers_python, "-m", "supervisor.supervisord", "-c", str(config)]

    def circus(self, folder: Path, cmd: str, count: int) -> list[str]:
        units = "".join(f"[watcher:d{number}]\ncmd = {cmd}\n" for number in range(count))
        config = write(folder / "circus.ini", CIRCUS.format(folder=folder) + units)
        return [self.peers_python, "-m", "circus.circusd", "--log-level", "critical", str(config)]

    def enter(self, running: Running, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run a command among the processes of a peer."""
        command = ["nsenter", "-t", str(running.init), "-p", "-m", *argv]
        return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True, timeout=GIVE_UP)


class TooLong(Exception):
    """A peer took longer than a minute."""


class Running:
    """A supervisor with some services, in a namespace of its own."""

    def __init__(self, peers: Peers, name: str, count: int, service: Path, more: str = "") -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="bench."))
        self.fifo = self.folder / "fifo"
        os.mkfifo(self.fifo)
        self.end = os.open(self.fifo, os.O_RDWR | os.O_NONBLOCK)
        self.heard = b""
        self.name, self.count, self.service = name, count, service
        argv = peers.all[name](self.folder, f"{service} {self.fifo}{more}", count)
        argv = [*SPACE, str(service), str(self.fifo), "exec", *argv]
        self.process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.began = self.stamps(1)[0]

    def stamps(self, count: int) -> list[float]:
        """Return the next so many times that services told, in ms."""
        deadline = time.monotonic() + GIVE_UP
        while self.heard.count(b"\n") < count:
            if not select.select([self.end], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TooLong
            self.heard += os.read(self.end, 65536)
        *lines, self.heard = self.heard.split(b"\n", count)
        return [int(line) / 1e6 for line in lines]

    def up(self) -> float:
        """Wait until all services run; return the ms since the supervisor was executed."""
        return self.stamps(self.count)[-1] - self.began

    @property
    def init(self) -> int:
        """Return the process that is PID 1 in there."""
        return children(self.process.pid)[0]

    def processes(self, services: bool = False) -> list[int]:
        """Return the processes in there that are (not) services."""
        found, todo = [], [self.init]
        while todo:
            pid = todo.pop()
            try:
                todo += children(pid)
                is_service = os.readlink(f"/proc/{pid}/exe") == str(self.service)
            except OSError:
                continue
            if is_service == services:
                found.append(pid)
        return found

    def memory(self) -> float:
        """Return the PSS of the supervisor in MiB."""
        sizes = (re.search(r"(?m)^Pss: +(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text()) for pid in self.processes())
        return sum(int(size[1]) for size in sizes if size) / 1024

    def switches(self) -> int:
        """Return how often the supervisor was given a processor so far."""
        return sum(
            int(count)
            for pid in self.processes()
            for count in re.findall(r"ctxt_switches:\t(\d+)", Path(f"/proc/{pid}/status").read_text())
        )

    def cpu(self) -> float:
        """Return the seconds of processor time that PID 1 has used."""
        return int(Path(f"/proc/{self.init}/schedstat").read_text().split()[0]) / 1e9

    def restarts(self, count: int) -> list[float]:
        """Kill some services, one after the other; return the ms until the successor of each runs."""
        took = []
        for victim in self.processes(services=True)[:count]:
            began = time.monotonic() * 1e3
            os.kill(victim, signal.SIGKILL)
            took.append(self.stamps(1)[0] - began)
        return took

    def stop(self) -> float:
        """Ask the supervisor to end; return the ms until it has."""
        init, began = self.init, time.monotonic()
        os.kill(init, signal.SIGTERM)
        try:
            self.process.wait(GIVE_UP)
        except subprocess.TimeoutExpired:
            raise TooLong from None
        return (time.monotonic() - began) * 1e3

    def close(self) -> None:
        """End whatever is left."""
        self.process.kill()
        self.process.wait()
        os.close(self.end)
        shutil.rmtree(self.folder)


def children(pid: int) -> list[int]:
    """Return the children of a process."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Bench:
    """The figures: (row, peer) -> what was measured."""

    def __init__(self, peers: Peers, service: Path, given: argparse.Namespace) -> None:
        self.peers, self.service, self.given = peers, service, given
        self.found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))

    def note(self, row: str, name: str, *figures: float) -> None:
        self.found[row][name] += figures

    def several(self) -> list[str]:
        """Return the peers that run more than one service."""
        return [name for name in self.peers.all if name not in ("compiling", "tini", "dumb-init", "catatonit")]

    def each(self, names: list[str], measure: Callable[[str], None]) -> None:
        """Measure each peer in turn; what takes too long has no figure."""
        for name in names:
            print(f"\r\x1b[K{name}", end="", file=sys.stderr, flush=True)
            with contextlib.suppress(TooLong):
                measure(name)

    def with_services(self, count: int, idle: bool, restarts: int, name: str) -> None:
        """Measure a supervisor of so many services through its life."""
        running = Running(self.peers, name, count, self.service)
        try:
            self.note(f"{count:,} services running, ms", name, running.up())
            time.sleep(2.5 + count / 200)  # until all are taken to be up: a warm-up of 1 s, as each has it, and some work
            self.note(f"memory with {count:,}, MiB", name, running.memory())
            if idle:
                before = running.switches()
                time.sleep(10)
                self.note(f"wake-ups in 10 s with {count:,}", name, running.switches() - before)
            if restarts:
                self.note(f"restart of one of {count:,}, ms", name, *running.restarts(restarts))
            if name != "runit":
                self.note(f"stop of {count:,}, ms", name, running.stop())
        finally:
            running.close()

    def orphans(self, name: str) -> None:
        """Measure what twenty thousand orphans cost."""
        running = Running(self.peers, name, 1, self.service, f" {ORPHANS}")
        try:
            began = running.stamps(1)[0]
            init, peak, deadline = running.init, 0, time.monotonic() + GIVE_UP
            before = running.cpu()
            while not running.heard and time.monotonic() < deadline:
                peak = max(peak, len(children(init)) - 1)
                time.sleep(0.01)
                running.heard += os.read(running.end, 100) if select.select([running.end], [], [], 0)[0] else b""
            while len(children(init)) > 1 and time.monotonic() < deadline:
                time.sleep(0.0005)
            self.note("20,000 orphans: until none is left, ms", name, time.monotonic() * 1e3 - began)
            self.note("20,000 orphans: processor time, ms", name, (running.cpu() - before) * 1e3)
            self.note("20,000 orphans: most at once", name, peak)
        finally:
            running.close()

    def start(self, name: str) -> None:
        """Measure how long it takes to the first instruction of the first service."""
        running = Running(self.peers, name, 1, self.service)
        try:
            self.note("start of the first service, ms", name, running.up())
        finally:
            running.close()

    def escaped(self, name: str) -> None:
        """Measure the stop of a service that has fifty processes which have left its process group and session."""
        self.peers.controlled = True
        running = Running(self.peers, name, 1, self.service, f" -{ESCAPED}")
        try:
            running.stamps(1)  # all are there
            time.sleep(2.5)
            began = time.monotonic()
            try:
                done = self.peers.enter(running, *self.peers.stopping(name, running.folder))
            except subprocess.TimeoutExpired:
                raise TooLong from None
            if done.returncode:
                sys.exit(f"{name}: {' '.join(done.args)} ended with {done.returncode}")
            took, left = time.monotonic() - began, len(running.processes(services=True))
            self.note(f"stop of a service with {ESCAPED} escaped processes, ms", name, took * 1e3)
            self.note(f"of the {ESCAPED}, left after that stop", name, left)
        finally:
            self.peers.controlled = False
            running.close()

    def client(self) -> None:
        """Measure what `docker exec` waits for, beside an interpreter that does nothing."""
        running = Running(self.peers, "overlord", 10, self.service)
        try:
            running.up()
            options = ["-c", f"{running.folder}/overlord.conf"]
            space = {
                "bare": [self.peers.python, "-I", "-S", "-c", "pass"],
                "overlord": [self.peers.python, str(OVERLORD), *options],
                "compiled": [str(self.peers.compiled), *options],
            }
            for words in (["health"], ["status"], ["exec", "d0", "true"]):
                for _ in range(3 * self.given.rounds):
                    for name, argv in space.items():
                        began = time.monotonic()
                        self.peers.enter(running, *argv, *(words if name != "bare" else []))
                        self.note(f"{words[0]}, ms", name, (time.monotonic() - began) * 1e3)
        finally:
            running.close()

    def http(self, name: str) -> None:
        """Measure a probe over HTTP, each on a connection of its own: one a second, and one after the other."""
        running = Running(self.peers, name, 10, self.service)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = free.getsockname()
        program = [self.peers.python, str(OVERLORD)] if name == "overlord" else [str(self.peers.compiled)]
        try:
            running.up()
            time.sleep(2.5)
            enter = ["nsenter", "-t", str(running.init), "-p", "-m"]
            serve = [*program, "-c", f"{running.folder}/overlord.conf", "serve", f"127.0.0.1:{address[1]}"]
            with subprocess.Popen([*enter, *serve], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
                try:
                    deadline = time.monotonic() + GIVE_UP
                    while not answers(address):
                        if time.monotonic() > deadline:
                            raise TooLong
                        time.sleep(0.05)
                    for rest, row, count in ((1.0, "one a second", 5), (0.0, "one after the other", 200)):
                        for _ in range(count):
                            time.sleep(rest)
                            began = time.monotonic()
                            answers(address)
                            self.note(f"probe over HTTP, {row}, ms", name, (time.monotonic() - began) * 1e3)
                finally:
                    for child in children(server.pid):
                        os.kill(child, signal.SIGTERM)
                    server.kill()
        finally:
            running.close()

    def run(self) -> None:
        """Measure what was asked for."""
        parts, rounds = self.given.parts, self.given.rounds
        for _ in range(3 * rounds if "start" in parts else 0):
            self.each(list(self.peers.all), self.start)
        for turn in range(rounds if "services" in parts else 0):
            for count in self.given.services:
                restarts = 5 if count < 1000 else 3
                self.each(self.several(), functools.partial(self.with_services, count, not turn, restarts))
        for _ in range(rounds if "orphans" in parts else 0):
            self.each([name for name in self.peers.all if name not in ("compiling", "supervisord", "circus")], self.orphans)
        for _ in range(rounds if "escaped" in parts else 0):
            self.each([name for name in self.several() if name != "bare"], self.escaped)
        if "client" in parts and "overlord" in self.peers.all:
            self.client()
        for _ in range(rounds if "http" in parts else 0):
            self.each([name for name in ("overlord", "compiled") if name in self.peers.all], self.http)

    def medians(self) -> dict[str, dict[str, float]]:
        """Return the figures: row -> peer -> median."""
        return {
            row: {name: statistics.median(figures) for name, figures in peers.items() if figures}
            for row, peers in self.found.items()
        }


def answers(address: tuple[str, int]) -> bool:
    """Ask for /health, as a probe does; return whether the answer is 200. Raises OSError when none comes."""
    try:
        with socket.create_connection(address, GIVE_UP) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            answer = b""
            while part := connection.recv(4096):
                answer += part
            return answer.split(b" ", 2)[1:2] == [b"200"]
    except ConnectionRefusedError:
        return False


def table(rows: dict[str, dict[str, float]], names: list[str]) -> str:
    """Return a Markdown table of medians."""
    lines = ["| | " + " | ".join(names) + " |", "|---|" + "--:|" * len(names)]
    for row, found in rows.items():
        cells = (f"{found[name]:,.{1 if found[name] < 100 else 0}f}" if name in found else "-" for name in names)
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, and print a table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--python", default=sys.executable)
    options.add_argument("--peers-python", default=sys.executable, help="one that has supervisor and circus")
    options.add_argument("--only", nargs="*", help="of the peers, these")
    options.add_argument("--parts", nargs="*", default=PARTS, help="of the measurements, these")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--services", type=int, nargs="*", default=[10, 100, 1000])
    options.add_argument("--save", type=Path, metavar="FILE", help="where tests/readme.py takes its tables from")
    given = options.parse_args()
    version = subprocess.run([given.python, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    about = figures.machine(version)
    print(f"{about}; medians")
    with tempfile.TemporaryDirectory(prefix="bench.") as name:
        folder = Path(name)
        source = write(folder / "service.c", SERVICE)
        cc = ["cc", "-O2", "-static", "-o", str(folder / "service"), str(source)]
        if not shutil.which("cc") or subprocess.run(cc).returncode:
            sys.exit("a C compiler is needed for the service: apt-get install gcc libc6-dev")
        bench = Bench(Peers(given, folder), folder / "service", given)
        bench.run()
        print("\r\x1b[K" + table(bench.medians(), list(bench.peers.all)))
        figures.save(given.save, "peers", about, bench.medians())


if __name__ == "__main__":
    main()
