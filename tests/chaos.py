"""Chaos: overlord as PID 1 with 50 units, under all that a machine, its users and its clients can do to it.

    make chaos                                  ten minutes in a namespace (as root)
    python3 tests/chaos.py --minutes 1 --seed 7 --docker

A seed makes 50 units with random dependencies: daemons of each way to be ready, with health probes, captured output
and log files, instances, stubborn and forking ones, some that hand over to another process, `serve`, others that `listen`,
and scripts, some by the clock. Then come rounds. In each, all the while: processes are killed and stopped, signals rain on
PID 1, units write, main processes hand over, others make processes that leave their session, a user swaps what the names
in the folder of his log files stand for, and clients, several at once, ask, stop, start, reload, exec, babble and hang, by
HTTP too. And in random order, each until it has shown its effect: no process to be had, a process that eats all memory, a
full disk, no descriptor, thousands of orphans, reloads (of mistakes too), a reader of the output that stalls, a flood of
clients, a flood of HTTP. All through a round, no connection to a socket of `listen` may be refused, and a verb's whole
answer must be one. After it the disturbance ends, what clients stopped is started, and all must be as it was:

- every daemon is ok, `status`, `health` and /health say so, and what a captured daemon writes arrives;
- no zombie, no process of any unit more than before, and none of an earlier run;
- no descriptor more or less of any kind, and no wake-up of PID 1 once nothing is periodic;
- nothing of root's was written, made or changed by way of the user's log folder;
- PID 1 has no more memory for itself than the CEILING, and in a long run no more with each round;
- it never had an internal error, and at the end it stops in its time, with the exit code that is due.

Exit code 0 when all held; 1 where something did not, and then the folder with its log stays; 75 where it cannot run here.
What this machine gives no means for is said, and with CI=true it is a failure.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import functools
import itertools
import os
import random
import re
import resource
import select
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Callable, Iterator, NoReturn, TypeVar

from harness import (
    OVERLORD,
    PATH,
    PROGRAMS,
    ROOT,
    Process,
    Stopwatch,
    children,
    connect,
    namespace,
    program,
    storm,
    system_python,
)

UNITS = 50
PATIENCE = 300.0  # s until what should happen counts as what never will
MEMORY = 256 << 20  # bytes for all in the container
DISK = "512k"  # of the file system of the log files
ORPHANS = 2000  # in one burst
CROWD = 250  # clients at once in a flood; overlord lets in 200
CROWD_SAYS = (b"", b"sta", b"logs -f *\n", b"events\n", b"status\n", b"\0\n", b"wait hog\n")
VISITORS_SAY = (
    *(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path for path in (b"/health", b"/status", b"/metrics", b"/", b"/none")),
    b"", b"GET /hea", b"POST / HTTP/1.1\r\nContent-Length: 100000\r\n\r\n" + bytes(100000), b"GET / HTTP/1.1\r\nA: b\r\n",
    b"HEAD / HTTP/1.0\n\n", b"x" * 20000, b"\0\xff\n\n", b"GET  / HTTP/1.1\r\n\r\n",
)  # fmt: skip
STATUSES = (200, 400, 404, 405, 408, 431, 503)
NOBODY = 65534
SWAPS = 50  # of names in a log folder, in one blow
ESCAPES = 20  # how often a run of an escaper makes processes that leave its session
SHORT_LIVED = "sleep 20"  # of the units: it may be there or not
MISTAKES = ("[daemon:a]\ndeps = b\n", "x", "[daemon:\xff", "[x:y]\nz = 1\n")
HOG = "exec tail /dev/zero"
CALM = 2.0  # s without a wake-up that count as idle
# Bytes that PID 1 has for itself. Full tails of each captured unit (256 KiB) and what followers do not read (4 MiB at
# most) are bounded; the pages remain, and when they are first needed is chance: steps, and then it is flat. So there is a
# ceiling for all of it, and one for the slope over the last two thirds of a long run.
CEILING, GROWTH, ENOUGH = 32 << 20, 256 << 10, 8
SHUTDOWN_TIMEOUT = 9  # s, the default
LATE = 5  # s more for a machine that is busy
SPARED = {signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGRTMIN + 3}
LACKING = 75  # exit code: this machine cannot do it

T = TypeVar("T")


class Broken(Exception):
    """Something does not hold."""


def until(probe: Callable[[], T | None], what: str, pause: float = 0.05) -> T:
    """Call `probe` until it returns something true, and return that."""
    deadline = time.monotonic() + PATIENCE
    while True:
        found = probe()
        if found:
            return found
        if time.monotonic() > deadline:
            raise Broken(f"not within {PATIENCE:g} s: {what}")
        time.sleep(pause)


# --- the units -------------------------------------------------------------------------------------------------------


def make_world(chance: random.Random, folder: Path) -> dict[str, dict[str, str]]:
    """Return UNITS sections with their options. Each depends on some of those before it."""
    run, logs = folder / "run", folder / "logs"
    follow = f"exec tail -q -n 0 -F {folder}/chatter"
    sleep = "exec sleep infinity"
    stubborn = "trap '' TERM HUP; while :; do sleep infinity & wait; done"
    escape = "setsid sleep infinity & (setsid sleep infinity &); (setsid setsid sleep infinity &)"
    escaper = f"n=0; trap '[ $n -ge {ESCAPES} ] || {{ {escape}; }}; n=$((n+1))' HUP; sleep infinity & while :; do wait; done"
    serve = f"exec {system_python()} -I -S {OVERLORD} -c {folder}/conf serve"
    daemons: list[dict[str, str]] = [
        {"cmd": sleep},
        {"cmd": sleep, "warmup": "100ms", "count": "3"},
        {"cmd": f"sleep infinity & {sleep}"},
        {"cmd": stubborn, "stop_timeout": "300ms"},
        {"cmd": follow, "stdout": "prefix"},
        {"cmd": follow, "stdout": "prefix", "count": "2"},
        {"cmd": follow, "stdout": f"{logs}/NAME.log", "log_max": "32K", "log_keep": "2"},
        {"cmd": f"touch {run}/NAME; {sleep}", "ready": f"file:{run}/NAME"},
        {"cmd": f"echo >&3; {sleep}", "ready": "fd:3"},
        {"cmd": f"echo up; {sleep}", "ready": "log:^up", "stdout": "prefix"},
        {"cmd": program("chaos_daemon.py", "notify"), "ready": "notify", "forward": "HUP, USR1>USR2"},
        {"cmd": program("chaos_daemon.py", "unix", f"{run}/NAME"), "ready": f"unix:{run}/NAME"},
        {"cmd": sleep, "health": "cmd:true", "health_interval": "1s"},
        {"cmd": sleep, "max_age": "6s~3s"},
        {"cmd": f"setsid sleep infinity & (setsid sleep infinity &); {sleep}", "stop_timeout": "2s"},
        {"cmd": f"env -i setsid sleep 20 & exec timeout 99d sh -c 'setsid sleep infinity & {sleep}'", "stop_timeout": "2s"},
        {"cmd": f"trap '(setsid sleep infinity &); exit' TERM; sleep infinity & wait; {sleep}", "stop_timeout": "2s"},
        {"cmd": serve, "listen": f"unix:{run}/NAME.http"},
        {"cmd": program("chaos_daemon.py", "listen"), "listen": f"unix:{run}/NAME.sock", "count": "2"},
        {"cmd": program("chaos_daemon.py", "heir"), "ready": "notify", "forward": "USR2"},
        {"cmd": program("chaos_daemon.py", "pidfile", f"{run}/NAME.pid"), "pidfile": f"{run}/NAME.pid"},
        {"cmd": follow, "stdout": f"{logs}/theirs/NAME.log", "uid": str(NOBODY), "log_max": "32K", "log_keep": "2"},
        {"cmd": escaper, "forward": "none", "stop_timeout": "2s"},
    ]
    scripts: list[dict[str, str]] = [
        {"cmd": "true"},
        {"cmd": "echo begun; sleep 0.05; echo done", "stdout": "prefix"},
        {"cmd": "sleep 0.02", "timeout": "10s"},
        {"cmd": "true", "schedule": "every 1s"},
    ]
    world: dict[str, dict[str, str]] = {}
    counts = collections.Counter[str]()
    for number in range(UNITS - 1):
        kind, kinds = ("script", scripts) if number % 4 == 1 else ("daemon", daemons)
        options = dict(kinds[counts[kind] % len(kinds)])
        counts[kind] += 1
        name = f"{kind[0]}{number:02}"
        options = {key: value.replace("NAME", name) for key, value in options.items()}
        earlier = list(world)
        chosen = chance.sample(earlier, min(len(earlier), chance.choice((0, 1, 1, 2, 3))))
        deps = []
        for section in chosen:
            other, dep = section.split(":")
            way = "always" if other == "script" else "bounce" if kind == "daemon" else "ok"
            deps.append(f"{dep}:{chance.choice(('ok', way))}")
        if deps:
            options["deps"] = ", ".join(deps)
        world[f"{kind}:{name}"] = options
    # Nobody's dependency. That the kernel kills it is what it is for.
    world["script:hog"] = {"cmd": HOG, "success": "0 KILL"}
    return world


# What takes effect in place, and without which nothing in the container is periodic.
PERIODIC = ("health", "health_interval", "schedule", "max_age")


def without_clock(world: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """Return the same units with nothing periodic about them."""
    return {name: {key: text for key, text in unit.items() if key not in PERIODIC} for name, unit in world.items()}


def spell(world: dict[str, dict[str, str]], folder: Path) -> str:
    """Return the configuration."""
    sections: dict[str, dict[str, str]] = {
        "overlord": {"configdir": f"{folder}/none", "socket": f"{folder}/socket"},
        "daemon": {"warmup": "0", "backoff": "20ms..500ms"},
        "script": {"on_failure": "ignore", "respawns": "1000000", "backoff": "20ms..500ms"},
        **world,
    }
    lines = [[f"[{name}]", *(f"{key} = {value}" for key, value in options.items())] for name, options in sections.items()]
    return "\n".join("\n".join(section) + "\n" for section in lines)


# --- the container ---------------------------------------------------------------------------------------------------


class Cgroup:
    """The folders that limit processes and memory, of version 1 or 2; those that are not to be had are None."""

    root = Path("/sys/fs/cgroup")

    def __init__(self) -> None:
        self.pids: Path | None = None
        self.memory: Path | None = None
        self.made: list[Path] = []
        self.unified = (self.root / "cgroup.controllers").exists()

    def make(self) -> None:
        """Make them, and limit memory."""
        name = f"overlord-chaos-{os.getpid()}"
        for kind in ("pids",) if self.unified else ("pids", "memory"):
            with contextlib.suppress(OSError):
                if self.unified:
                    (self.root / "cgroup.subtree_control").write_text("+pids +memory")
                folder = self.root / ("" if self.unified else kind) / name
                folder.mkdir()
                self.made.append(folder)
        self.find([(folder, "") for folder in self.made])
        if self.memory:
            (self.memory / ("memory.max" if self.unified else "memory.limit_in_bytes")).write_text(str(MEMORY))

    def find_of(self, pid: int) -> None:
        """Find those that somebody else has put a process into."""
        lines = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
        self.find([(self.root / kind, path.lstrip("/")) for _, kind, path in lines if self.unified or kind])

    def find(self, places: list[tuple[Path, str]]) -> None:
        """Know which of the folders limits what."""
        for place, path in places:
            if (place / path / "pids.max").exists():
                self.pids = place / path
            if (place / path / ("memory.max" if self.unified else "memory.limit_in_bytes")).exists():
                self.memory = place / path

    def refused_forks(self) -> int:
        """Return how often the kernel has refused a new process."""
        assert self.pids
        return int((self.pids / "pids.events").read_text().split()[1])

    def oom_kills(self) -> int:
        """Return how many processes it has killed for want of memory."""
        assert self.memory
        text = (self.memory / ("memory.events" if self.unified else "memory.oom_control")).read_text()
        return int(re.findall(r"(?m)^oom_kill (\d+)", text)[0])

    def remove(self) -> None:
        """Remove what was made. LINUX: it is busy for a moment after its last process has gone."""
        for folder in self.made:
            until(lambda: gone(folder), f"{folder} can be removed")


def gone(folder: Path) -> bool:
    """Remove a folder, and tell whether that went well."""
    with contextlib.suppress(OSError):
        folder.rmdir()
    return not folder.exists()


class Pipe:
    """One end of overlord's output: a FIFO that is read into lines, unless it stalls."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        self.fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)  # for writing too: it has no end, and can be asked for room
        self.lines: list[str] = []
        self.flows = threading.Event()
        self.flows.set()
        self.over = False
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        rest = ""
        with open(self.path.with_suffix(".log"), "w", encoding="utf-8", errors="replace") as copy:
            while not self.over:
                self.flows.wait()
                if not select.select([self.fd], [], [], 0.1)[0]:
                    continue
                data = os.read(self.fd, 65536).decode(errors="replace")
                *lines, rest = (rest + data).split("\n")
                self.lines.extend(lines)
                copy.writelines(f"{time.monotonic():.3f} {line}\n" for line in lines)
                copy.flush()

    def full(self) -> bool:
        """Tell whether not one line more has room."""
        return not select.select([], [self.fd], [], 0)[1]

    def has(self, pattern: str, after: int = 0) -> bool:
        """Tell whether a line matches."""
        return any(re.search(pattern, line) for line in self.lines[after:])

    def close(self) -> None:
        """Read no more."""
        self.over = True
        self.flows.set()
        self.thread.join(PATIENCE)
        os.close(self.fd)


class Container:
    """overlord as PID 1, in a namespace or in Docker. Both see `folder` where it is, but for a small `logs` of their own."""

    def __init__(self, folder: Path, python: str, image: str | None) -> None:
        self.folder = folder
        self.cgroup = Cgroup()
        self.out, self.log = Pipe(folder / "out"), Pipe(folder / "err")
        join, words = "", [python, str(OVERLORD), "-c", str(folder / "conf")]
        if not image:
            self.cgroup.make()
            join = "".join(f"echo 0 > {made}/cgroup.procs; " for made in self.cgroup.made)
            join += f"mount -t tmpfs -o size={DISK} none {folder}/logs; "
        join += f"cd {folder}/logs; mkdir theirs roots; chown {NOBODY} theirs; echo precious > roots/victim; cd /; "
        script = f'{join}exec "$@" > {folder}/out 2> {folder}/err'
        argv = namespace("sh", "-c", script, "sh", *words)
        if image:
            volumes = [f"--volume={place}:{place}{how}" for place, how in ((folder, ""), (PROGRAMS, ":ro"), (OVERLORD, ":ro"))]
            limits = ["--pids-limit=500", f"--memory={MEMORY}", "--ulimit=nofile=1024", f"--tmpfs={folder}/logs:size={DISK}"]
            argv = ["docker", "run", "--rm", f"--cidfile={folder}/cid", *volumes, *limits, "--entrypoint=sh", image]
            argv += ["-c", script, "sh", *words]
        self.popen = subprocess.Popen(argv, stdin=subprocess.DEVNULL, env={"PATH": PATH, "HOME": "/root"})
        self.pid = until(self._find_in_docker if image else self._find, "PID 1")
        until(lambda: str(OVERLORD) in Process(self.pid).cmdline, "it is overlord")
        self.space = os.stat(f"/proc/{self.pid}/ns/pid").st_ino
        self.inside = Path(f"/proc/{self.pid}/root")
        if image:
            self.cgroup.find_of(self.pid)

    def _find(self) -> int:
        """Return the number of PID 1 outside, once it is not `unshare` any more."""
        if self.popen.poll() is not None:
            raise Broken(f"it ended with {self.popen.returncode}")
        return next((pid for pid in children(self.popen.pid) if Process(pid).cmdline[:1] not in ([], ["unshare"])), 0)

    def _find_in_docker(self) -> int:
        if self.popen.poll() is not None:
            raise Broken(f"docker run ended with {self.popen.returncode}")
        with contextlib.suppress(OSError, ValueError, subprocess.CalledProcessError):
            words = ["docker", "inspect", "--format={{.State.Pid}}", (self.folder / "cid").read_text()]
            return int(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
        return 0

    def descendants(self) -> list[int]:
        """Return all that descends from PID 1, zombies too."""
        found = [self.pid]
        for pid in found:
            found += children(pid)
        return found[1:]

    def victims(self) -> list[int]:
        """Return all but the hog: on a slow machine it would not live long enough to eat all memory."""
        return [pid for pid in self.descendants() if Process(pid).cmdline != HOG.split()[1:]]

    def zombies(self) -> int:
        """Count the zombies that PID 1 has to reap. Others are their living parents' business."""
        return sum(not Process(pid).alive for pid in children(self.pid))

    def strike(self, pid: int, sig: int) -> bool:
        """Signal a process of the container, and none that has got its number meanwhile."""
        with contextlib.suppress(OSError):
            handle = os.pidfd_open(pid)
            try:
                if pid != self.pid and os.stat(f"/proc/{pid}/ns/pid").st_ino == self.space:
                    signal.pidfd_send_signal(handle, sig)
                    return True
            finally:
                os.close(handle)
        return False

    def kinds(self) -> dict[str, int]:
        """Count PID 1's descriptors by what they lead to."""
        counts: collections.Counter[str] = collections.Counter()
        for entry in Path(f"/proc/{self.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                counts[re.sub(r":\[\d+\]$", "", os.readlink(entry))] += 1
        return dict(counts)

    def private(self) -> int:
        """Return the bytes that PID 1 shares with nobody."""
        text = Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        return sum(int(size) for size in re.findall(r"(?m)^Private_\w+: +(\d+) kB", text)) << 10

    def work(self) -> tuple[str, int]:
        """Return how often PID 1 went to sleep so far, and the ticks of processor time that it had."""
        process = Process(self.pid)
        return process.status["voluntary_ctxt_switches"], sum(map(int, process.stat[11:13]))

    def dial(self, timeout: float = PATIENCE) -> socket.socket:
        """Return a connection to the control socket."""
        return connect(self.pid, str(self.folder / "socket"), timeout)

    def ask(self, *words: str) -> tuple[int, list[str]]:
        """Return what a verb answers: its exit code, -1 where overlord hung up before, and the lines."""
        with self.dial() as sock:
            sock.sendall(" ".join(words).encode() + b"\n")
            data = b""
            while not re.search(rb"(?m)^=\d+$", data):  # a process between fork and exec may keep the connection open
                more = sock.recv(65536)
                if not more:
                    break
                data += more
        lines = data.decode(errors="replace").splitlines()
        return int(lines.pop()[1:]) if lines and lines[-1][:1] == "=" else -1, [line[1:] for line in lines]

    def answers(self) -> bool:
        """Tell whether somebody is there."""
        if self.popen.poll() is not None:
            raise Broken(f"it ended with {self.popen.returncode}")
        with contextlib.suppress(OSError):
            return self.ask("version")[0] == 0
        return False

    def destroy(self) -> None:
        """End what is left of it."""
        if self.popen.poll() is None:
            cid = self.folder / "cid"
            if cid.exists():
                subprocess.run(["docker", "kill", cid.read_text()], capture_output=True, check=False)
            else:
                self.popen.kill()  # and the namespace with it: --kill-child
        self.popen.wait(PATIENCE)
        self.out.close()
        self.log.close()
        self.cgroup.remove()


# --- the chaos -------------------------------------------------------------------------------------------------------


class Chaos:
    """The rounds, what was done in them, and what was found after each."""

    def __init__(self, seed: int, container: Container, world: dict[str, dict[str, str]]) -> None:
        self.chance = random.Random(seed)
        self.box, self.world = container, world
        self.folder = container.folder
        self.done: collections.Counter[str] = collections.Counter()
        self.waits: list[float] = []  # s that `health` took in the midst of it
        self.left_out: list[str] = []
        self.faults: list[BaseException] = []  # of the threads
        self.names = [name.split(":")[1] for name in world if name != "script:hog"]
        self.logs = container.inside / self.folder.relative_to("/") / "logs"
        outputs = [Path(options.get("stdout", "")) for options in world.values()]
        self.swapped = [path.name for path in outputs if path.parent.name == "theirs"]
        self.sockets = sorted(options["listen"].partition(":")[2] for options in world.values() if "listen" in options)
        self.sites = [path for path in self.sockets if path.endswith(".http")]
        self.usual: collections.Counter[tuple[str, str]] = collections.Counter()  # processes of each unit
        self.roots: dict[str, object] = {}
        self.chatter = open(self.folder / "chatter", "ab", buffering=0)

    # what goes on all the while

    @contextlib.contextmanager
    def meanwhile(self, *blows: Callable[[random.Random], None]) -> Iterator[None]:
        """Strike all blows again and again, each with a chance of its own."""

        def strike(blow: Callable[[random.Random], None], chance: random.Random) -> None:
            time.sleep(chance.uniform(0.01, 0.06))
            try:
                blow(chance)
            except Exception as error:
                self.faults.append(error)

        pairs = [(blow, random.Random(self.chance.random())) for blow in blows]
        try:
            with storm(*(functools.partial(strike, *pair) for pair in pairs), pause=0):
                yield
        finally:
            if self.faults:  # which may be why the body waited in vain
                raise self.faults[0]

    def kill(self, chance: random.Random) -> None:
        """Kill one process, or now and then many."""
        found = self.box.victims()
        for pid in chance.sample(found, min(len(found), 20 if chance.random() < 0.05 else 1)):
            self.done["processes killed"] += self.box.strike(pid, signal.SIGKILL)

    def stop(self, chance: random.Random) -> None:
        """Stop one process, or let it go on."""
        sig = chance.choice((signal.SIGSTOP, signal.SIGCONT))
        found = self.box.victims() if sig == signal.SIGSTOP else self.box.descendants()
        if found:
            what = "stopped" if sig == signal.SIGSTOP else "continued"
            self.done[f"processes {what}"] += self.box.strike(chance.choice(found), sig)

    def mend(self, chance: random.Random) -> None:
        """Now and then let all go on, and start what clients have stopped, lest nobody is left to suffer the rest."""
        if chance.random() < 0.05:
            for pid in self.box.descendants():
                self.box.strike(pid, signal.SIGCONT)
            with contextlib.suppress(OSError):
                self.start_stopped()

    def rain(self, chance: random.Random) -> None:
        """Send PID 1 any signal but those that are to end it."""
        for _ in range(chance.choice((1, 5, 50))):
            os.kill(self.box.pid, chance.choice([sig for sig in range(1, signal.SIGRTMAX + 1) if sig not in SPARED]))
            self.done["signals to PID 1"] += 1

    def write(self, chance: random.Random) -> None:
        """Have the chatty daemons write."""
        self.chatter.write(b"a line of some length, as programs write them, %d\n" % chance.randrange(10**9) * 50)

    def look(self, chance: random.Random) -> None:
        """Ask for the health, as an engine does, and note how long that takes."""
        began = time.monotonic()
        with contextlib.suppress(ConnectionError, BlockingIOError):  # in a flood one may be sent away, or not let in
            if self.box.ask("health")[0] in (0, 1):
                self.waits.append(time.monotonic() - began)

    def named(self, what: str) -> list[str]:
        """Return the names of the units that have that option, or that in their command."""
        return [name.split(":")[1] for name, options in self.world.items() if what in options or what in options["cmd"].split()]

    def provoke(self, chance: random.Random) -> None:
        """Have a main process hand over, or make processes that leave its session."""
        with contextlib.suppress(OSError):
            if chance.random() < 0.5:
                self.box.ask("signal", "USR2", chance.choice([*self.named("heir"), *self.named("pidfile")]))
            else:
                self.done["escapes"] += self.box.ask("signal", "HUP", chance.choice(self.named("trap")))[0] == 0

    def swap(self, chance: random.Random) -> None:
        """As the user whose folder it is, put other things where overlord has its log files."""
        folder, victim = self.logs / "theirs", self.folder / "logs" / "roots" / "victim"
        for _ in range(SWAPS):
            place = folder / (chance.choice(self.swapped) + chance.choice(("", "", "", ".1", ".2")))
            fresh = folder / "fresh"
            kind = chance.choice(("link", "link", "new", "loop", "hard", "fifo", "folder", "away", "file"))
            with contextlib.suppress(OSError):  # two of these may be there at once, and the disk may be full
                if kind in ("link", "new", "loop"):
                    fresh.symlink_to({"link": victim, "new": victim.with_name("new"), "loop": place.name}[kind])
                elif kind == "hard":
                    os.link(self.logs / "roots" / "victim", fresh)
                elif kind == "fifo":
                    os.mkfifo(fresh)
                elif kind == "folder":
                    place.unlink()
                    place.mkdir()
                elif kind == "away":
                    place.rename(folder / "away")
                    (folder / "away").unlink()
                else:
                    fresh.touch()
                if kind not in ("folder", "away"):
                    if kind != "hard":
                        os.chown(fresh, NOBODY, NOBODY, follow_symlinks=False)
                    if place.is_dir() and not place.is_symlink():
                        place.rmdir()
                    fresh.rename(place)
                self.done["names swapped"] += 1
            with contextlib.suppress(OSError):
                fresh.unlink()

    def clear(self) -> None:
        """As the user, remove again what is no log file."""
        for entry in (self.logs / "theirs").iterdir():
            if entry.is_dir() and not entry.is_symlink():
                entry.rmdir()
            elif not entry.is_file() or entry.is_symlink() or entry.stat().st_nlink > 1:
                entry.unlink()

    def of_root(self) -> dict[str, object]:
        """Return all that there is to see of what the user must not change."""
        found = {}
        for entry in (self.logs / "roots").iterdir():
            stat = entry.lstat()
            found[entry.name] = (stat.st_mode, stat.st_uid, stat.st_gid, stat.st_nlink, stat.st_mtime_ns, entry.read_text())
        return found

    def call(self, path: str) -> socket.socket | None:
        """Connect to a socket of `listen`, of which overlord says that nobody is refused; None where its queue is full."""
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        try:
            sock.connect(path)
        except BlockingIOError:
            sock.close()
            return None
        except OSError as error:
            raise Broken(f"{path}, a socket of `listen`: {error}") from error
        sock.settimeout(3.0)
        return sock

    def connect(self, chance: random.Random) -> None:
        """Come to a socket that a unit listens on, whether it runs just now or not."""
        sock = self.call(chance.choice(self.sockets))
        if sock:
            self.done["connections to `listen`"] += 1
            with sock, contextlib.suppress(OSError):
                if chance.random() < 0.3:
                    sock.recv(1)

    def visit(self, chance: random.Random) -> None:
        """Ask by HTTP, for what there is or for nonsense."""
        with contextlib.suppress(OSError):
            self.http(chance.choice(self.sites), chance.choice(VISITORS_SAY), chance.choice((0.0, 0.01)))

    def http(self, site: str, request: bytes, pause: float = 0.0) -> int:
        """Return the status that comes back for a request, 0 for none. Raises OSError."""
        sock = self.call(site)
        if not sock:
            return 0
        with sock:
            half = len(request) // 2
            sock.sendall(request[:half])
            time.sleep(pause)
            sock.sendall(request[half:])
            sock.shutdown(socket.SHUT_WR)
            data = b"".join(iter(functools.partial(sock.recv, 65536), b""))
        if not data:
            return 0
        head, _, body = data.partition(b"\r\n\r\n")
        found = re.match(rb"HTTP/1\.1 (\d+) ", head)
        length = re.search(rb"\r\nContent-Length: (\d+)", head)
        if not found or int(found[1]) not in STATUSES or not length:
            raise Broken(f"that is no answer by HTTP to {request[:100]!r}: {data[:200]!r}")
        if request.startswith(b"GET") and len(body) > int(length[1]):
            raise Broken(f"more than was announced: {data[:200]!r}")
        self.done[f"HTTP {found[1].decode()}"] += 1
        return int(found[1])

    def perform(self, chance: random.Random) -> None:
        """Now and then run a command as a unit, which leaves an orphan behind."""
        if chance.random() > 0.03:
            return
        config = ["-c", str(self.folder / "conf")]
        enter = ["nsenter", f"--target={self.box.pid}", "--pid", "--mount", "--", system_python(), "-I", "-S", str(OVERLORD)]
        script = ["sh", "-c", "(setsid sleep 0.3 2>&- >&- &); exit 7"]
        name = chance.choice(self.names)
        done = subprocess.run([*enter, *config, "exec", name, *script], check=False, timeout=PATIENCE, capture_output=True)
        # an instance wants its number; a mistake may just be in the configuration, or the unit removed from it
        if done.returncode not in (7, 64, 78):
            raise Broken(f"exec {name}: {done.returncode}, {done.stderr!r}")
        self.done["commands by exec"] += done.returncode == 7

    def request(self, chance: random.Random) -> None:
        """Be a client: a good one, a rude one, or one that stays without a word."""
        name = chance.choice(self.names)
        words = chance.choice(
            (
                b"status",
                b"health",
                b"reload -t 2s",
                b"restart d%d* -t 2s" % chance.randrange(5),
                b"stop ?%d* -t 1s" % chance.randrange(5),
                b"start d* s* -t 1s",
                b"signal USR2 d*",
                b"version",
                b"stop %s -t 2s",
                b"restart %s -t 2s",
                b"start %s -t 2s",
                b"wait %s -t 1s",
                b"signal HUP %s",
                b"logs -n 5 %s",
                b"logs -f *",
                b"events",
                b"status [a-*",
                b"stop nobody",
                b"start",
                bytes(chance.randrange(256) for _ in range(300)),
                b"x" * 20000,
                b"",
            )
        ).replace(b"%s", name.encode())
        answer = b""
        with contextlib.suppress(OSError), self.box.dial(timeout=3.0) as sock:
            self.done["requests"] += 1
            sock.sendall(words + chance.choice((b"\n", b"\n", b"\n", b"")))
            if chance.random() < 0.7:
                size, until_then = chance.choice((1, 65536)), time.monotonic() + 3
                more = answer = sock.recv(size)
                while more and size > 1 and not re.search(rb"(?m)^=\d+\n", answer) and time.monotonic() < until_then:
                    more = sock.recv(size)
                    answer += more
        if not re.fullmatch(rb"([ !+][^\n]*\n)*(=\d+\n|[ !+][^\n]*)?", answer):
            raise Broken(f"that is no answer to {words!r}: {answer[-500:]!r}")

    # what comes in turns

    def no_process(self) -> None:
        """The cgroup has no process more to give."""
        cgroup = self.box.cgroup
        if not cgroup.pids:
            self.left_out.append("full pids cgroup")
            return
        limit, before, mark = (cgroup.pids / "pids.max").read_text(), cgroup.refused_forks(), len(self.box.log.lines)
        (cgroup.pids / "pids.max").write_text("1")
        until(lambda: cgroup.refused_forks() > before + 20, "forks are refused")
        until(lambda: self.box.log.has("cannot start", mark), "overlord says that it cannot start something")
        (cgroup.pids / "pids.max").write_text(limit)
        self.done["forks refused"] += cgroup.refused_forks() - before

    def no_memory(self) -> None:
        """A process takes all the memory, and the kernel kills it."""
        if not self.box.cgroup.memory:
            self.left_out.append("memory limit")
            return
        before = self.box.cgroup.oom_kills()

        def eat() -> bool:
            with contextlib.suppress(OSError):
                self.box.ask("start", "hog", "-t", "5s")
            return self.box.cgroup.oom_kills() > before

        until(eat, "the kernel kills for want of memory")
        self.done["killed for want of memory"] += self.box.cgroup.oom_kills() - before

    def no_disk(self) -> None:
        """The file system of the log files is full."""
        mark = len(self.box.log.lines)
        ballast = self.logs / "ballast"

        def fill() -> bool:
            with contextlib.suppress(OSError), open(ballast, "ab", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
            return self.box.log.has(rf"cannot write {self.folder}/logs/d.*No space left", mark)

        until(fill, "overlord says that the disk is full")
        ballast.unlink()
        again = rf"{self.folder}/logs/d\S+ can be written again"
        until(lambda: self.box.log.has(again, mark), "overlord says that the disk has room again")
        self.done["full disks"] += 1

    def no_descriptor(self) -> None:
        """PID 1 can open nothing more, but where it closes something."""
        mark = len(self.box.log.lines)
        limits = resource.prlimit(self.box.pid, resource.RLIMIT_NOFILE)

        def squeeze() -> bool:
            used = {int(name) for name in os.listdir(f"/proc/{self.box.pid}/fd")}  # fewer, once clients have gone
            free = next(number for number in range(3, limits[1]) if number not in used)
            resource.prlimit(self.box.pid, resource.RLIMIT_NOFILE, (free, limits[1]))
            return self.box.log.has("Too many open files", mark) or self.shut_out()

        until(squeeze, "it lacks a descriptor")
        resource.prlimit(self.box.pid, resource.RLIMIT_NOFILE, limits)
        self.done["descriptors exhausted"] += 1

    def shut_out(self) -> bool:
        """Tell whether a client that comes is not let in."""
        with contextlib.suppress(ConnectionError, BlockingIOError):
            try:
                with self.box.dial(timeout=3.0) as sock:
                    sock.sendall(b"version\n")
                    sock.recv(1)
            except socket.timeout:
                return True
        return False

    def orphans(self) -> None:
        """Thousands of processes become PID 1's in one moment, and all are dead."""
        burst = ["sh", str(PROGRAMS / "burst.sh"), str(ORPHANS)]
        subprocess.run(["nsenter", f"--target={self.box.pid}", "--pid", "--mount", *burst], check=True, timeout=PATIENCE)
        self.done["orphans"] += ORPHANS

    def reload(self) -> None:
        """The configuration changes: units changed, gone, new, more of them; or it is broken."""
        for _ in range(4):
            world = {name: dict(options) for name, options in self.world.items()}
            how = self.chance.randrange(5)
            if how == 0:
                self.configure(world, self.chance.choice(MISTAKES))
            else:
                for name in self.chance.sample([name for name in world if name != "script:hog"], 5):
                    needed = any(f"{name.split(':')[1]}:" in options.get("deps", "") for options in world.values())
                    if how == 1 or needed or "listen" in world[name] or "pidfile" in world[name]:
                        world[name]["env"] = f"ROUND={self.chance.random()}"
                    elif how == 2:
                        del world[name]
                    elif how == 3 and name.startswith("daemon"):
                        world[name]["count"] = str(self.chance.randrange(4))
                    else:
                        world[f"{name}-more"] = dict(world[name])
                self.configure(world)
            with contextlib.suppress(OSError):
                code, lines = self.box.ask("reload", "-t", "10s")
                if code == (78 if how else 0):  # whoever reads it may be killed, too: that is 1
                    raise Broken(f"reload: {code}, {lines}")
                self.done["reloads" if how else "reloads of mistakes"] += 1

    def stall(self) -> None:
        """Nobody reads the output for a while. overlord answers all the same."""
        for pipe in (self.box.out, self.box.log)[: self.chance.choice((1, 2))]:
            pipe.flows.clear()
        try:
            until(self.box.out.full, "stdout is full")
            heard = len(self.waits)
            until(lambda: len(self.waits) > heard, "overlord answers with its output stuck")
        finally:
            self.box.out.flows.set()
            self.box.log.flows.set()
        self.done["stalls of the output"] += 1

    def flood(self) -> None:
        """More clients at once than are let in; most say nothing, half a word, or do not read what they asked for."""
        with contextlib.ExitStack() as stack:
            for _ in range(CROWD):
                with contextlib.suppress(OSError):
                    sock = stack.enter_context(self.box.dial(timeout=3.0))
                    sock.sendall(self.chance.choice(CROWD_SAYS))
                    self.done["requests in a flood"] += 1
            heard = len(self.waits)
            until(lambda: len(self.waits) > heard, "overlord answers in the midst of a flood")

    def flood_http(self) -> None:
        """More visitors at once than are let in; one who asks for the health is heard, and no other end of it is seen."""
        with contextlib.ExitStack() as stack:
            for number in range(CROWD):
                sock = self.call(self.sites[number % len(self.sites)])
                if sock:
                    stack.enter_context(sock)
                    with contextlib.suppress(OSError):
                        sock.setblocking(False)
                        sock.sendall(self.chance.choice(VISITORS_SAY))
                        self.done["requests in a flood of HTTP"] += 1

            def heard(site: str) -> bool:
                with contextlib.suppress(OSError):
                    return self.http(site, VISITORS_SAY[0]) in (200, 503)
                return False

            for site in self.sites:
                until(lambda: heard(site), "/health is answered in the midst of a flood")

    # afterwards

    def configure(self, world: dict[str, dict[str, str]], broken: str = "") -> None:
        """Write the configuration, at once as a whole."""
        fresh = self.folder / "conf.new"
        fresh.write_text(spell(world, self.folder) + broken)
        fresh.rename(self.folder / "conf")

    def status(self) -> dict[str, str]:
        """Return the state of each unit."""
        return {fields[0]: fields[2] for fields in (line.split("\t") for line in self.box.ask("status")[1]) if len(fields) > 2}

    def start_stopped(self) -> dict[str, str]:
        """Start what a client has stopped; return the state of each unit before."""
        states = self.status()
        stopped = [name for name, state in states.items() if state == "stopped"]
        if stopped:
            self.box.ask("start", *stopped, "-t", "5s")
        return states

    def recovered(self) -> bool:
        """Start what a client has stopped, and nothing else; tell whether all is OK."""
        states = self.start_stopped()
        daemons = [state for name, state in states.items() if name.startswith("d")]
        return {*daemons} == {"ok"} and self.box.ask("status")[0] == self.box.ask("health")[0] == 0

    def settle(self, number: int) -> None:
        """End the disturbance, and find everything as it was."""
        for pid in self.box.descendants():
            self.box.strike(pid, signal.SIGCONT)
        self.clear()
        self.configure(without_clock(self.world))
        until(lambda: self.box.ask("reload")[0] in (0, 1), "a reload")
        until(self.recovered, "everything is ok again", pause=0.2)
        # What has handed over is not overlord's child from the beginning, and what escaped is no less the unit's for it.
        code, lines = self.box.ask("restart", *self.named("heir"), *self.named("trap"))
        if code:
            raise Broken(f"a restart where nothing else happens: {code}, {lines}")
        until(self.recovered, "everything is ok after a restart", pause=0.2)
        # A capture is made at the first run. So that it is there in each round, scripts run that nobody needs.
        self.box.ask("start", *(name for name in self.names if name.startswith("s")))
        until(self.recovered, "everything is ok once the scripts have run", pause=0.2)
        mark = len(self.box.out.lines)
        line = f"after round {number}"
        self.chatter.write(f"{line}\n".encode())
        for name, options in self.world.items():
            if "/chatter" in options["cmd"]:
                name = name.split(":")[1]
                for instance in [f"{name}-{n}" for n in range(1, int(options["count"]) + 1)] if "count" in options else [name]:
                    until(lambda: self.heard(instance, options["stdout"], line, mark), f"{instance} is heard")
        until(lambda: not self.outlived(), "nobody of an earlier run of a unit lives")
        until(lambda: not self.box.zombies(), "no zombie is left")
        self.look_for_more()
        for site in self.sites:
            self.look_at_site(site)
        self.roots = self.roots or self.of_root()
        if self.of_root() != self.roots:
            raise Broken(f"what is root's was {self.roots}, and is {self.of_root()}")
        until(self.idle, f"PID 1 is idle for {CALM:g} s", pause=0)

    def arrived(self, name: str, stdout: str, line: str, mark: int) -> bool:
        """Tell whether a line that a unit wrote is where its output goes."""
        if stdout == "prefix":
            return self.box.out.has(rf"^{name} \| {line}$", mark)
        with contextlib.suppress(FileNotFoundError):
            return f"{line}\n" in (self.box.inside / stdout.lstrip("/")).read_text()
        return False

    def heard(self, name: str, stdout: str, line: str, mark: int) -> bool:
        """As `arrived`; where lines were lost as long as the file could not be written, later ones have to come."""
        if not self.arrived(name, stdout, line, mark) and "/theirs/" in stdout:
            time.sleep(0.2)
            self.chatter.write(f"{line}\n".encode())
        return self.arrived(name, stdout, line, mark)

    def look_at_site(self, site: str) -> None:
        """See that what `serve` shows is what there is, once it has had its time to ask."""

        def is_true() -> bool:
            with contextlib.suppress(OSError):
                return self.http(site, VISITORS_SAY[0]) == 200
            return False

        until(is_true, f"{site} says that all is well")

    def crowd(self) -> collections.Counter[tuple[str, str]]:
        """Count the living processes by unit, as their environment tells, and command."""
        found: collections.Counter[tuple[str, str]] = collections.Counter()
        for pid in self.box.descendants():
            process = Process(pid)
            with contextlib.suppress(OSError):
                own = re.search(rb"(?:\A|\0)OVERLORD_NAME=([^\0]+)", (process.folder / "environ").read_bytes())
                if process.alive and " ".join(process.cmdline) != SHORT_LIVED:
                    found[own[1].decode() if own else "", " ".join(process.cmdline)] += 1
        return found

    def look_for_more(self) -> None:
        """See that no unit has a process more than at first. (One that lost a child, and does not mind, may have fewer.)"""
        self.usual = self.usual or self.crowd()
        try:
            until(lambda: not self.crowd() - self.usual, "no unit has more processes")
        except Broken as error:
            raise Broken(f"{error}: {self.crowd() - self.usual}") from None

    def outlived(self) -> list[tuple[str, int]]:
        """Return the processes that are older than the main process of the daemon whose name stands in their environment."""
        fields = [line.split("\t") for line in self.box.ask("status")[1]]
        pids = {each[0]: each[3] for each in fields if len(each) > 3}
        found, mains = [], {}
        for pid in self.box.descendants():
            with contextlib.suppress(OSError):
                proc = Path(f"/proc/{pid}")
                own = re.search(rb"(?:\A|\0)OVERLORD_NAME=([^\0]+)", (proc / "environ").read_bytes())
                inner = re.search(r"(?m)^NSpid:.*?(\d+)$", (proc / "status").read_text())
                born = int((proc / "stat").read_text().rpartition(")")[2].split()[19])
                if own and inner:
                    found.append((own[1].decode(), pid, born))
                    if pids.get(own[1].decode()) == inner[1]:
                        mains[own[1].decode()] = born
        return [(name, pid) for name, pid, born in found if born < mains.get(name, 0)]

    def idle(self) -> bool:
        """Watch PID 1 for a while, and tell whether it slept through."""
        before = self.box.work()
        time.sleep(CALM)
        return self.box.work() == before

    def figures(self, number: int, since: float) -> tuple[dict[str, int], int]:
        """Print what there is to compare, and return it."""
        kinds, private = self.box.kinds(), self.box.private()
        self.faultless()
        took = time.monotonic() - since
        print(f"{number:5}{took:8.1f}{sum(kinds.values()):14}{private / 2**20:14.2f}{self.starts():10}", flush=True)
        return kinds, private

    def faultless(self) -> None:
        """See that it never had a fault of its own."""
        for pattern in ("internal error", "Traceback"):
            if self.box.log.has(pattern):
                raise Broken(next(line for line in self.box.log.lines if pattern in line))

    def starts(self) -> int:
        """Return how often units were started."""
        return sum(": started (pid " in line for line in self.box.log.lines)

    def rounds(self, minutes: float) -> None:
        """Do it all, again and again for so long, and at least twice."""
        began = time.monotonic()
        print(f"{'round':5}{'seconds':>8}{'descriptors':>14}{'private, MiB':>14}{'starts':>10}")
        self.settle(0)
        kinds, _ = self.figures(0, began)
        sizes: list[int] = []
        while len(sizes) < 2 or time.monotonic() - began < minutes * 60:
            since = time.monotonic()
            self.configure(self.world)
            self.box.ask("reload")
            turns = [self.no_process, self.no_memory, self.no_disk, self.no_descriptor]
            turns += [self.orphans, self.reload, self.stall, self.flood, self.flood_http]
            self.chance.shuffle(turns)
            self.chatter.truncate(0)
            blows = (self.kill, self.stop, self.mend, self.rain, self.write, self.look, self.provoke, self.swap, self.perform)
            with self.meanwhile(*blows, self.connect, self.visit, self.visit, *[self.request] * 4):
                for turn in turns:
                    try:
                        turn()
                    except Broken as error:
                        raise Broken(f"{turn.__name__}: {error}") from error
            self.settle(len(sizes) + 1)
            try:
                until(lambda: self.box.kinds() == kinds, "the same descriptors")
            except Broken:
                raise Broken(f"its descriptors are {self.box.kinds()}, they were {kinds}") from None
            sizes.append(self.figures(len(sizes) + 1, since)[1])
        if max(sizes) > CEILING:
            raise Broken(f"it has {max(sizes)} bytes for itself")
        late = sizes[len(sizes) // 3 :]
        if len(late) >= ENOUGH:
            pairs = itertools.combinations(enumerate(late), 2)
            growth = statistics.median((after - before) / (there - here) for (here, before), (there, after) in pairs)
            print(f"memory: {growth / 1024:.0f} KiB more each round, in the median slope (Theil-Sen) of the last two thirds")
            if growth > GROWTH:
                raise Broken("memory grows with each round")
        else:
            print("memory: too few rounds to tell growth from chance, only the ceiling was looked at")

    def end(self) -> None:
        """Stop it, as `docker stop` does or by a verb, and see that the exit code is the one due."""
        self.configure(self.world)
        self.box.ask("reload")
        due = self.chance.choice((0, 7))
        with Stopwatch() as watch:
            if due:
                self.box.ask("shutdown", str(due))
            else:
                os.kill(self.box.pid, signal.SIGTERM)
            until(lambda: self.box.popen.poll() is not None, "the end")
        code = self.box.popen.returncode
        print(f"shutdown took {watch.seconds:.2f} s, exit code {code}")
        if watch.seconds > SHUTDOWN_TIMEOUT + LATE:
            raise Broken(f"that is more than {SHUTDOWN_TIMEOUT + LATE} s")
        if code != due:
            raise Broken(f"exit code {code}, not {due}")
        until(lambda: self.box.log.has(f"exiting with code {code}"), "the last line")
        self.faultless()

    def summary(self) -> None:
        """Print what was done."""
        self.done["hand-overs"] = sum("its main process is now pid" in line for line in self.box.log.lines)
        print("done: " + ", ".join(f"{count} {what}" for what, count in sorted(self.done.items())))
        waits = sorted(self.waits) or [0.0]
        median, worst = waits[len(waits) // 2], waits[-1]
        print(f"health asked {len(self.waits)} times meanwhile: {median * 1000:.1f} ms in the median, {worst:.2f} s at worst")
        for what in dict.fromkeys(self.left_out):
            print(f"LEFT OUT, since no cgroup can be made here: {what}")


def lack(what: str) -> NoReturn:
    """Say what is missing, and leave."""
    print(f"chaos: {what}", file=sys.stderr)
    raise SystemExit(LACKING)


def build() -> str:
    """Build the image of the example, and return its name."""
    ready = subprocess.run([ROOT / "tests/docker-base.sh"], check=False)
    if ready.returncode:
        lack("no Docker here")
    image = "overlord-chaos"
    words = ["docker", "build", "-q", "--network=host", "-t", image, "-f", "Dockerfile.example", "."]
    subprocess.run(words, check=True, cwd=ROOT, env={**os.environ, "DOCKER_BUILDKIT": "0"}, stdout=subprocess.DEVNULL)
    return image


def main() -> int:
    """Run it."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--minutes", type=float, default=10.0)
    options.add_argument("--seed", type=int, default=None, help="makes the same units and the same order of what is done")
    options.add_argument("--docker", action="store_true", help="in a container of the example's image")
    given = options.parse_args()
    if os.geteuid() != 0 or not hasattr(os, "pidfd_open"):
        lack("this takes root, and Python 3.9 or newer")
    image = build() if given.docker else None
    seed = random.randrange(10**6) if given.seed is None else given.seed
    print(f"seed {seed}, {UNITS} units, {'Docker' if image else 'namespace'}")
    folder = Path(tempfile.mkdtemp(prefix="overlord-chaos-"))
    for name in ("run", "logs"):
        (folder / name).mkdir()
    folder.chmod(0o711)  # a user of his own reads what is written here
    world = make_world(random.Random(seed), folder)
    (folder / "conf").write_text(spell(world, folder))
    container = Container(folder, "/usr/bin/python3" if image else system_python(), image)
    chaos = Chaos(seed, container, world)
    why = ""
    try:
        until(container.answers, "it answers")
        chaos.rounds(given.minutes)
        chaos.end()
        if chaos.left_out and os.environ.get("CI") == "true":
            why = "something was left out, and CI=true allows that not"
    except (Broken, OSError, subprocess.SubprocessError) as error:
        why = f"{type(error).__name__}: {error}"
    finally:
        container.destroy()
        chaos.summary()
    if why:
        print("\n".join(container.log.lines[-30:]))
        print(f"FAILED with seed {seed}: {why}; all that overlord said is in {folder}")
        return 1
    shutil.rmtree(folder)
    print("all held")
    return 0


if __name__ == "__main__":
    sys.exit(main())
