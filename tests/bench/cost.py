"""What overlord costs, beside the same done by a bare interpreter: memory, wake-ups while idle, time to a restart.

    python3 tests/bench/cost.py [--python python3] [--idle 30] [--runs 20]

Both run as PID 1 of a fresh PID namespace (root, or a kernel that allows user namespaces), the peer being
`python3 -I -S` with a loop of fork, exec and wait. Figures are medians. A line `bound` is what the project promises.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

OVERLORD = Path(__file__).resolve().parents[2] / "overlord.py"
SERVICE = "echo up > {fifo}; exec sleep 100000"
# The physical limit: nothing but what has to be done.
BARE = """
import os, sys
def start(cmd):
    pid = os.fork()
    if not pid:
        os.execv("/bin/sh", ["sh", "-c", cmd])
    return pid
cmds = {start(cmd): cmd for cmd in sys.argv[1:]}
while True:
    pid, _ = os.wait()
    cmd = cmds.pop(pid)
    cmds[start(cmd)] = cmd
"""


class Supervised:
    """A supervisor with some services, as PID 1 of a namespace of its own."""

    def __init__(self, kind: str, python: str, count: int, folder: Path) -> None:
        self.fifos = [folder / f"{kind}.{number}" for number in range(count)]
        for fifo in self.fifos:
            os.mkfifo(fifo)
        self.ends = [os.open(fifo, os.O_RDWR | os.O_NONBLOCK) for fifo in self.fifos]
        cmds = [SERVICE.format(fifo=fifo) for fifo in self.fifos]
        if kind == "bare":
            argv = [python, "-I", "-S", "-c", BARE, *cmds]
        else:
            config = folder / "overlord.conf"
            units = "".join(f"[daemon:d{number}]\ncmd = {cmd}\nbackoff = 0\n" for number, cmd in enumerate(cmds))
            config.write_text(f"[overlord]\nconfigdir = {folder}/none\nsocket = none\nlog_level = error\n{units}")
            argv = [python, str(OVERLORD), "-c", str(config)]
        space = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
        self.process = subprocess.Popen([*space, *argv], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for end in self.ends:
            self.wait_up(end)
        self.pid = children(self.process.pid)[0]

    def wait_up(self, end: int) -> None:
        """Wait until the service at this FIFO says that it runs."""
        if not select.select([end], [], [], 30)[0]:
            sys.exit("a service did not come up within 30 s")
        os.read(end, 100)

    def restart_time(self) -> float:
        """Kill a service; return the milliseconds until its successor runs."""
        victim = children(self.pid)[0]
        began = time.perf_counter()
        os.kill(victim, signal.SIGKILL)
        ready = select.select(self.ends, [], [], 30)[0]
        took = (time.perf_counter() - began) * 1000
        if not ready:
            sys.exit("a killed service did not come back within 30 s")
        os.read(ready[0], 100)
        return took

    def pss(self) -> float:
        """Return the proportional set size of the supervisor in MiB."""
        lines = Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024

    def switches(self) -> int:
        """Return how often the supervisor was given a processor so far."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)

    def end(self) -> None:
        """End the namespace, and all that is in it."""
        self.process.kill()
        self.process.wait()
        for end in self.ends:
            os.close(end)
        for fifo in self.fifos:
            fifo.unlink()


def children(pid: int) -> list[int]:
    """Return the children of a process."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def main() -> None:
    """Measure, and print a table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--python", default=sys.executable)
    options.add_argument("--services", type=int, default=10)
    options.add_argument("--idle", type=float, default=30.0, help="seconds of idling")
    options.add_argument("--rounds", type=int, default=5, help="fresh starts of each, in turn")
    options.add_argument("--runs", type=int, default=20, help="kills in each round")
    given = options.parse_args()
    version = subprocess.run([given.python, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    restarts: dict[str, list[float]] = {"bare": [], "overlord": []}
    sizes: dict[str, list[float]] = {"bare": [], "overlord": []}
    switches: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as name:
        for turn in range(given.rounds):
            for kind in restarts:
                supervised = Supervised(kind, given.python, given.services, Path(name))
                time.sleep(1.5)  # the warm-up of the daemons
                sizes[kind].append(supervised.pss())
                if not turn:
                    before = supervised.switches()
                    time.sleep(given.idle)
                    switches[kind] = supervised.switches() - before
                restarts[kind] += [supervised.restart_time() for _ in range(given.runs)]
                supervised.end()
    print(f"{version}, {given.services} services, {time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores; medians")
    print(f"{'':34}{'bare':>9}{'overlord':>10}{'bound':>28}")
    one, two = (statistics.median(sizes[kind]) for kind in sizes)
    print(f"{'memory (PSS), MiB':34}{one:9.1f}{two:10.1f}{'bare + 4 MiB':>28}")
    print(f"{f'wake-ups in {given.idle:g} s of idling':34}{switches['bare']:9}{switches['overlord']:10}{'0':>28}")
    one, two = (statistics.median(restarts[kind]) for kind in restarts)
    print(f"{'killed until running again, ms':34}{one:9.2f}{two:10.2f}{'10 ms':>28}")


if __name__ == "__main__":
    main()
