"""Soak: does anything grow with the restarts, orphans, hand-overs, reloads and requests that one overlord has seen?

    python tests/soak.py [--restarts 100000] [--orphans 1000000] [--hand-overs 1000] [--reloads 1000] [--requests 10000]

One overlord, PID 1 of a namespace, restarts daemons that end at once and reaps what a breeder leaves behind, in twenty
rounds. All the while their output is captured and rotated, others are probed, and clients ask and drop in. In each round
the main processes of three units hand over: one says MAINPID=, one has a pid file, and of one with `listen` the instances
are restarted one by one. Then `serve` has its visitors, and reloads add, change or remove a unit. After each round, when
nothing but the steady daemons runs, a line tells:

- its own memory (Anonymous in /proc/PID/smaps_rollup), PSS, which adds its share of the interpreter's code and so wavers
  with every other Python on the machine, and how many descriptors it has open; the same of the processes of `serve`;
- zombies in the namespace, of which there must be none;
- its own processor time for one restart, orphan, hand-over, reload, and request by HTTP (without that of its children).

The last quarter is then compared with the second one. The first is for warming up: caches and free lists fill, log files
reach the number that is kept. Its own memory may differ by `ROOM`, which is what the allocator wavers by: in the long
form that is 10 bytes a restart, or one byte an orphan. Descriptors may not differ. The processor's time may waver by
half, since the machine may be shared; what grows with the number of restarts would double between the two quarters. A
request costs overlord next to nothing, however many come: it is told, and not compared.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections import namedtuple
from pathlib import Path
from typing import Callable, Sequence

from harness import OVERLORD, Overlord, daemon, dial, eventually, exchange, program, read_all, system_python
from test_control import look

ROUNDS = 20
ROOM = 512 << 10  # bytes
WAVER = 1.5
BURST = 500  # orphans at once
FLAPPERS = 4
STALL = 300.0  # s in which a round of restarts or orphans has to go on

PATHS = ("/health", "/status", "/metrics", "/")
HEIR = "its main process is now pid"

Sample = namedtuple(
    "Sample",
    "restarts orphans memory pss descriptors zombies per_restart per_orphan per_hand_over per_reload per_request served"
    " served_descriptors seconds",
)
Portion = namedtuple("Portion", "restarts orphans hand_overs reloads requests")  # of one round


def configuration(folder: Path, port: int) -> str:
    """Return the units: those that flap and breed run only when asked to, one at a time."""
    serve = f"exec {system_python()} -I -S {OVERLORD} -c {folder}/overlord.conf serve"
    line = "echo line of $OVERLORD_NAME, long enough that the log file is rotated every now and then"
    flapping = {"backoff": 0, "autostart": "no", "on_failure": "ignore", "log_max": "64K", "log_keep": 2}
    return "".join(
        [
            daemon("steady", "exec sleep infinity", health=f"unix:{folder}/s", health_interval="200ms"),
            daemon("probed", "exec sleep infinity", health="cmd:true", health_interval="300ms", stdout="prefix"),
            daemon("flap", line, count=FLAPPERS, stdout=f"{folder}/flap.log", stderr="stdout", **flapping),
            daemon("talk", line, stdout="prefix", **flapping),
            daemon("breed", program("burst.sh", BURST), **flapping),
            daemon("heir", program("chaos_daemon.py", "heir"), ready="notify"),
            daemon("forker", program("chaos_daemon.py", "pidfile", folder / "pid"), pidfile=folder / "pid"),
            daemon("pool", program("chaos_daemon.py", "listen"), listen=f"unix:{folder}/pool", count=2),
            daemon("http", serve, listen=f"tcp:127.0.0.1:{port}"),
        ]
    )


class Soak:
    """One overlord, what it was put through so far, and what was seen of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.samples: list[Sample] = []
        self.restarts = self.orphans = self.heirs = self.reloads = self.read = 0
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.output, self.log = (open(folder / name, "wb") for name in ("output", "log"))
        self.o = Overlord(
            configuration(folder, self.port),
            folder=folder,
            python=[system_python()],
            settings={"socket": folder / "s"},
            stdout=self.output,
            stderr=self.log,
        )
        eventually(lambda: (folder / "s").exists() and self.states().get("probed") == "ok", "it is up")
        eventually(lambda: set(self.states().values()) <= {"ok", "idle"}, "all of it is up")
        self.text = self.o.config.read_text()
        self.steady = look(self.o)["steady"]
        self.began = time.monotonic()

    def states(self) -> dict[str, str]:
        """Return the state of each unit."""
        return {name: state for name, (state, _) in look(self.o).items()}

    def processor(self) -> float:
        """Return the seconds that overlord itself has used. LINUX: as clock_getcpuclockid(3) spells the clock of a process."""
        return time.clock_gettime((~self.o.pid << 3) | 2)

    def restarted(self, name: str) -> int:
        """Return how often the instances of a unit were restarted."""
        rows = [line[1:].split("\t") for line in exchange(self.o, b"status\n").decode().splitlines() if line[0] == " "]
        return sum(int(row[6]) for row in rows if row[0] == name or row[0].startswith(f"{name}-"))

    def put_through(self, names: Sequence[str], times: int, meanwhile: Callable[[], None]) -> tuple[int, float]:
        """Let units be restarted `times` times in all; return how many it were, and the processor time for them."""
        before, used = sum(map(self.restarted, names)), self.processor()
        exchange(self.o, f"start {' '.join(names)}\n".encode())
        done, moved = 0, time.monotonic()
        while done < times:
            meanwhile()
            time.sleep(0.05)
            now = sum(map(self.restarted, names)) - before
            moved = time.monotonic() if now > done else moved
            done = now
            assert time.monotonic() < moved + STALL, f"{names}: no restart for {STALL:g} s after {done}"
        exchange(self.o, f"stop {' '.join(names)}\n".encode())
        eventually(lambda: set(self.states().values()) <= {"ok", "idle", "stopped"}, "all but the steady ones is stopped")
        return sum(map(self.restarted, names)) - before, self.processor() - used

    def drop_in(self) -> None:
        """Clients: one that asks, one that sends garbage, one that leaves at once."""
        exchange(self.o, b"logs talk\n")
        exchange(self.o, b"\0\xff nonsense\n")
        dial(self.o).close()

    def measure(self, times: int, action: Callable[[int], None]) -> float:
        """Do something so many times; return the processor time that overlord had for one."""
        used = self.processor()
        for number in range(times):
            action(number)
        return (self.processor() - used) / max(1, times)

    def hand_over(self, number: int) -> None:
        """Have another process take the place of a main process."""
        name = ("heir", "forker", "heir", "forker", "pool")[number % 5]
        if name == "pool":
            before = [look(self.o)[f"pool-{instance}"][1] for instance in (1, 2)]
            answer = exchange(self.o, b"restart pool\n")
            assert answer.endswith(b"=0\n"), answer
            assert not {*before} & {look(self.o)[f"pool-{instance}"][1] for instance in (1, 2)}
            return
        before = self.count_heirs()
        exchange(self.o, f"signal USR2 {name}\n".encode())
        eventually(lambda: self.count_heirs() > before, f"another process takes the place of {name}'s")

    def count_heirs(self) -> int:
        """Return how often another process has become a main process, by the log, which is read once."""
        with open(self.folder / "log", "rb") as log:
            log.seek(self.read)
            lines = log.read().rpartition(b"\n")[0]
        self.read += len(lines)
        self.heirs += lines.count(HEIR.encode())
        return self.heirs

    def reload(self, number: int) -> None:
        """Have it read another configuration: one more unit, that one changed, and without it again."""
        self.reloads += 1
        extra = ("", daemon("extra", "exec sleep infinity"), daemon("extra", "exec sleep 99d", nice=1))[self.reloads % 3]
        self.o.config.write_text(self.text + extra)
        answer = exchange(self.o, b"reload\n")
        assert answer.endswith(b"=0\n") and b"extra" in answer, answer

    def visit(self, number: int) -> None:
        """Ask for a page."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=STALL) as sock:
            sock.sendall(f"GET {PATHS[number % len(PATHS)]} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            answer = read_all(sock)
        assert answer.startswith(b"HTTP/1.1 200 "), answer[:500]

    def round(self, portion: Portion) -> Sample:
        """Go through so many of each, and see what that has left."""
        count, restarting = self.put_through(["flap", "talk"], portion.restarts, self.drop_in)
        bursts, reaping = self.put_through(["breed"], -(-portion.orphans // BURST), self.drop_in)
        self.restarts += count + bursts
        self.orphans += bursts * BURST
        others = [self.measure(portion.hand_overs, self.hand_over), self.measure(portion.reloads, self.reload)]
        others.append(self.measure(portion.requests, self.visit))
        eventually(lambda: set(self.states().values()) <= {"ok", "idle", "stopped"}, "what was reloaded is up")
        costs = restarting / count, reaping / (bursts * BURST), *others
        pids = [process.pid for process in self.o.processes() if "serve" in process.cmdline]
        assert len(pids) == 2, "serve is two processes"
        served = [self.size_of(self.o.outside(pid)) for pid in pids]
        served_size = sum(own for own, _, _ in served), sum(count for _, _, count in served)
        spent = time.monotonic() - self.began
        sample = Sample(self.restarts, self.orphans, *self.size_of(self.o.pid), self.zombies(), *costs, *served_size, spent)
        self.samples.append(sample)
        return sample

    def size_of(self, pid: int) -> tuple[int, int, int]:
        """Return the own memory and PSS of a process in bytes, and how many descriptors are open.

        Of several looks, what is seen while no probe is under way: that has a descriptor more, or a process more, which
        shares overlord's memory between fork and exec.
        """
        rollups, descriptors = [], []
        for _ in range(20):
            rollups.append(Path(f"/proc/{pid}/smaps_rollup").read_text())
            descriptors.append(len(os.listdir(f"/proc/{pid}/fd")))
            time.sleep(0.01)
        own, pss = (max(int(text.partition(f"\n{key}:")[2].split()[0]) for text in rollups) << 10 for key in ("Anonymous", "Pss"))
        return own, pss, min(descriptors)

    def zombies(self) -> int:
        """Return how many dead processes nobody reaps; one that is dead now may be reaped in a moment."""
        dead = {process.pid for process in self.o.processes() if not process.alive}
        deadline = time.monotonic() + 5
        while dead and time.monotonic() < deadline:
            time.sleep(0.05)
            dead &= {process.pid for process in self.o.processes() if not process.alive}
        return len(dead)

    def end(self) -> list[str]:
        """Stop it, and return what is wrong with how it went."""
        wrong = [] if look(self.o)["steady"] == self.steady else ["the steady daemon was restarted"]
        self.o.send(signal.SIGTERM)
        code = self.o.wait_exit()
        self.output.close()
        self.log.close()
        log = (self.folder / "log").read_text(errors="replace")
        faults = re.findall(r"(?m)^.*(?:internal error|Traceback|Warning).*$", log)
        rotated = [path.name for path in self.folder.glob("flap.log.*")]
        wrong += [f"exit code {code}"] if code else []
        wrong += faults[:5]
        wrong += [f"{name} was restarted" for name in ("heir", "forker") if log.count(f"{name}: started (pid ") > 1]
        wrong += [] if len(rotated) <= 2 else [f"too many log files: {rotated}"]
        return wrong


def judge(samples: Sequence[Sample], waver: float = WAVER) -> list[str]:
    """Compare the last quarter with the second one; return what has grown."""
    quarter = len(samples) // 4
    second, last = samples[quarter : 2 * quarter], samples[-quarter:]

    def both(field: str) -> tuple[float, float]:
        return tuple(statistics.median(getattr(sample, field) for sample in part) for part in (second, last))  # type: ignore[return-value]

    wrong = []
    for field in ("memory", "served"):
        before, after = both(field)
        if after > before + ROOM:
            wrong.append(f"{field}: it has grown from {before / 1024:.0f} to {after / 1024:.0f} KiB")
    for field in ("descriptors", "served_descriptors"):
        if min(getattr(sample, field) for sample in last) > min(getattr(sample, field) for sample in second):  # some come and go
            wrong.append(f"{field} have grown: {[getattr(sample, field) for sample in samples]}")
    for field in ("per_restart", "per_orphan", "per_hand_over", "per_reload"):
        before, after = both(field)
        if after > before * waver:
            wrong.append(f"processor time {field} has grown from {before * 1e6:.1f} to {after * 1e6:.1f} us")
    wrong += [f"{sample.zombies} zombies after {sample.restarts} restarts" for sample in samples if sample.zombies]
    return wrong


COLUMNS = "  restarts   orphans  own KiB  PSS KiB  fds  zombies  us/restart  us/orphan  us/hand-over  us/reload  us/request"
COLUMNS += "  serve KiB  serve fds  seconds"


def show(sample: Sample) -> None:
    """Print a line of the table."""
    scales = (1, 1, 1 / 1024, 1 / 1024, 1, 1, 1e6, 1e6, 1e6, 1e6, 1e6, 1 / 1024, 1, 1)
    cells = [f"{value * scale:.{int(name == 'per_orphan')}f}" for name, value, scale in zip(Sample._fields, sample, scales)]
    widths = map(len, re.findall(r"\s*\S+(?: KiB| fds)?", COLUMNS))
    print("".join(cell.rjust(width) for cell, width in zip(cells, widths)), flush=True)


def soak(folder: Path, total: Portion, rounds: int = ROUNDS, waver: float = WAVER) -> list[str]:
    """Put one overlord through all that, printing the table; return what is wrong."""
    run = Soak(folder)
    try:
        print(COLUMNS, flush=True)
        for _ in range(rounds):
            show(run.round(Portion(*(number // rounds for number in total))))
        return run.end() + judge(run.samples, waver)
    finally:
        run.o.destroy()


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description="Does anything grow with restarts, orphans, hand-overs, reloads and requests?")
    for name, number in zip(Portion._fields, (100_000, 1_000_000, 1000, 1000, 10_000)):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=number)
    given = Portion(**vars(parser.parse_args()))
    with tempfile.TemporaryDirectory(prefix="overlord-soak-") as folder:
        wrong = soak(Path(folder), given)
    print("\n".join(wrong) or "nothing has grown, nothing is left")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
