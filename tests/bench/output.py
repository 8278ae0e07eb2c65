"""What captured output costs, beside supervisord, circus and s6-log: throughput, and the supervisor's processor time.

    python3 -m venv /tmp/peers && /tmp/peers/bin/pip install -r tests/bench/requirements.txt; apt-get install s6
    python3 tests/bench/output.py --peers-python /tmp/peers/bin/python
    python3 tests/bench/output.py --only overlord --sizes 4000 --runs 1         (a quick look)

A writer (C where there is a `cc`, else Python) writes numbered lines of 100 bytes, in writes of the given sizes, to
each supervisor in turn, as PID 1 of a fresh PID namespace (root, or a kernel that allows user namespaces). They go to
    file     a file that is rotated every 10 MiB, 2 old ones kept, on tmpfs
    null     the supervisor's own stdout, which is /dev/null
    pipe     the supervisor's own stdout, which is a pipe (64 KiB) that this program reads
A lone s6-log, behind a plain pipe, stands for s6. MB/s is from the writer's first write until the last byte was passed
on; CPU is that of the supervisor (of all its threads) alone, in seconds for each GB that was written; a switch is one
time that it was given a processor; `waited` is the part of the time for which it could have run while others had the
processors: where that is large, MB/s are too low (CPU hardly suffers; 1,000 / CPU is what a core of its own allows).
Figures are medians, MB/s with the lowest and the highest; `x supervisord` are ratios to supervisord with the same
destination. circus, being slow, is given a fifth of the bytes. Peers that are missing are named, the rest is measured.

A figure counts only where every byte arrived: by what the kernel says that the supervisor wrote (`wchar`), or by what
came out of the pipe; of files, what is left must also be the end of what was written, byte for byte.
"""

from __future__ import annotations

import argparse
import math
import os
import select
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

import figures

OVERLORD = Path(__file__).resolve().parents[2] / "overlord.py"
LINE = 100
LOG_MAX = 10 * 1024 * 1024
LOG_KEEP = 2
SLACK = 4096  # what a supervisor may write besides: its own messages
# The arguments of a writer: a file with what to write, the size of a write, how often all of it, two FIFOs.
C_WRITER = r"""
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}
int main(int argc, char **argv) {
    struct stat about;
    int in = open(argv[1], O_RDONLY), go = open(argv[4], O_RDONLY), report = open(argv[5], O_WRONLY);
    long size = atol(argv[2]), rounds = atol(argv[3]);
    if (in < 0 || go < 0 || report < 0 || fstat(in, &about)) return 1;
    char *block = malloc(about.st_size);
    if (read(in, block, about.st_size) != about.st_size) return 1;
    dprintf(report, "ready\n");
    if (read(go, &in, 1) != 1) return 1;
    double began = now();
    for (; rounds; rounds--)
        for (char *at = block; at < block + about.st_size;) {
            long left = size - (at - block) % size, wrote = write(1, at, left);
            if (wrote < 0) { perror("write"); return 1; }
            at += wrote;
        }
    dprintf(report, "%.9f %.9f\n", began, now());
    for (;;) pause();
}
"""
PYTHON_WRITER = """
import os, signal, sys, time
name, size, rounds, go, report = sys.argv[1:]
block = memoryview(open(name, "rb").read())
size = int(size)
pieces = [block[at : at + size] for at in range(0, len(block), size)]
go, report = os.open(go, os.O_RDONLY), os.open(report, os.O_WRONLY)
os.write(report, b"ready\\n")
os.read(go, 1)
began, write = time.monotonic(), os.write
for _ in range(int(rounds)):
    for piece in pieces:
        while piece:
            piece = piece[write(1, piece) :]
os.write(report, b"%.9f %.9f\\n" % (began, time.monotonic()))
while True:
    signal.pause()
"""
OVERLORD_CONFIG = """
[overlord]
configdir = {folder}/none
socket = none
log_level = error
[daemon:w]
cmd = {writer}
warmup = 0
stdout = {sink}
stderr = inherit
log_max = {log_max}
log_keep = {log_keep}
"""
SUPERVISORD_CONFIG = """
[supervisord]
nodaemon = true
silent = true
logfile = /dev/null
logfile_maxbytes = 0
loglevel = critical
pidfile = {folder}/supervisord.pid
[program:w]
command = {writer}
startsecs = 0
stdout_logfile = {sink}
stdout_logfile_maxbytes = {log_max}
stdout_logfile_backups = {log_keep}
stderr_logfile = NONE
"""
CIRCUS_CONFIG = """
[circus]
endpoint = ipc://{folder}/endpoint
pubsub_endpoint = ipc://{folder}/pubsub
statsd = false
[watcher:w]
cmd = {writer}
stdout_stream.class = {sink}
"""
CIRCUS_FILE = """
stdout_stream.filename = {file}
stdout_stream.max_bytes = {log_max}
stdout_stream.backup_count = {log_keep}
"""


class Case(NamedTuple):
    """One way of output."""

    who: str
    how: str
    target: str  # file, null or pipe
    prefix: int = 0  # bytes that each line gets in front

    @property
    def label(self) -> str:
        return f"{self.who} {self.how}".strip()


CASES = [
    Case("overlord", "inherit", "pipe"),
    Case("overlord", "file", "file"),
    Case("supervisord", "file", "file"),
    Case("circus", "FileStream", "file"),
    Case("s6-log", "folder", "file"),
    Case("overlord", "prefix", "null", len("w | ")),
    Case("supervisord", "/dev/stdout", "null"),
    Case("circus", "StdoutStream", "null"),
    Case("s6-log", "1", "null"),
    Case("overlord", "prefix", "pipe", len("w | ")),
    Case("supervisord", "/dev/stdout", "pipe"),
    Case("circus", "StdoutStream", "pipe"),
    Case("s6-log", "1", "pipe"),
]


ROWS = {"pipe": "passed on", "file": "rotated files"}  # what the README shows


class Invalid(Exception):
    """A run whose figures mean nothing, and why."""


class Result(NamedTuple):
    """The figures of one run."""

    rate: float  # MB/s
    cpu: float  # s/GB
    switches: float
    waited: float  # part of the time that it could have run, but others had the processors


class Load(NamedTuple):
    """What is written in a run."""

    block: bytes
    path: Path
    size: int
    rounds: int

    @property
    def total(self) -> int:
        return len(self.block) * self.rounds

    def of(self, case: Case) -> Load:
        """Return what this case is given."""
        return self._replace(rounds=max(1, self.rounds // 5)) if case.who == "circus" else self


class Reader(threading.Thread):
    """Reads a pipe to its end, and counts."""

    def __init__(self, end: int) -> None:
        super().__init__(daemon=True)
        self.end = end
        self.count = 0
        self.start()

    def run(self) -> None:
        room = [bytearray(65536)]
        while True:
            got = os.readv(self.end, room)
            if not got:
                break
            self.count += got
        os.close(self.end)


class Run:
    """A writer and whoever takes its output."""

    def __init__(self, case: Case, load: Load, writer: list[str], folder: Path) -> None:
        self.case, self.load, self.folder = case, load.of(case), folder
        self.log = folder / "logs" / "w.log"
        self.log.parent.mkdir()
        os.mkfifo(folder / "go")
        os.mkfifo(folder / "report")
        self.go, self.report = (os.open(folder / name, os.O_RDWR) for name in ("go", "report"))
        args = [*writer, load.path, load.size, self.load.rounds, folder / "go", folder / "report"]
        self.writer = [str(arg) for arg in args]
        self.reader: Reader | None = None
        self.stdout = subprocess.DEVNULL
        if case.target == "pipe":
            read, self.stdout = os.pipe()
            self.reader = Reader(read)
        self.stderr = open(folder / "stderr", "w+b")
        self.processes: list[subprocess.Popen[bytes]] = []
        self.pid = 0

    def start(self, given: argparse.Namespace) -> None:
        """Start the supervisor, and wait until the writer waits."""
        if self.case.who == "s6-log":
            keep = [f"n{LOG_KEEP}", f"s{LOG_MAX}", str(self.log.parent)]
            self.popen(["s6-log", *(keep if self.case.target == "file" else "1")], stdin=subprocess.PIPE)
            self.popen(self.writer, stdout=self.processes[0].stdin)
            self.processes[0].stdin.close()  # type: ignore[union-attr]
        else:
            self.popen([*given.space, *self.supervisor(given)], stdin=subprocess.DEVNULL)
        if self.reader:
            os.close(self.stdout)
        self.wait_for_writer(20)
        time.sleep(0.5)  # whatever else the supervisor does at its start
        first = self.processes[0].pid
        self.pid = first if self.case.who == "s6-log" else children(first)[0]

    def popen(self, argv: list[str], stdin: int | None = None, stdout: object = None) -> None:
        out = self.stdout if stdout is None else stdout
        self.processes.append(subprocess.Popen(argv, stdin=stdin, stdout=out, stderr=self.stderr))  # type: ignore

    def supervisor(self, given: argparse.Namespace) -> list[str]:
        """Write the configuration; return the command."""
        file = self.case.target == "file"
        config = self.folder / "config.ini"
        values = {"folder": self.folder, "writer": " ".join(self.writer), "log_max": LOG_MAX, "log_keep": LOG_KEEP}
        if self.case.who == "overlord":
            config.write_text(OVERLORD_CONFIG.format(sink=self.log if file else self.case.how, **values))
            return [given.python, str(OVERLORD), "-c", str(config)]
        if self.case.who == "supervisord":
            values["log_max"] = LOG_MAX if file else 0
            config.write_text(SUPERVISORD_CONFIG.format(sink=self.log if file else "/dev/stdout", **values))
            return [given.peers_python, "-m", "supervisor.supervisord", "-c", str(config)]
        text = CIRCUS_CONFIG.format(sink=self.case.how, **values)
        config.write_text(text + (CIRCUS_FILE.format(file=self.log, **values).lstrip() if file else ""))
        return [given.peers_python, "-m", "circus.circusd", "--log-level", "critical", str(config)]

    def wait_for_writer(self, seconds: float) -> str:
        """Return the next line that the writer says."""
        deadline = time.monotonic() + seconds
        while not select.select([self.report], [], [], 0.5)[0]:
            if time.monotonic() > deadline or any(process.poll() is not None for process in self.processes):
                self.stderr.seek(0)
                said = self.stderr.read().decode(errors="replace").strip().splitlines()
                raise Invalid(f"nothing from the writer: {said[-1] if said else 'and not a word why'}")
        return os.read(self.report, 100).decode()

    def passed_on(self) -> int:
        """Return how many bytes left the supervisor so far."""
        if self.reader:
            return self.reader.count
        lines = Path(f"/proc/{self.pid}/io").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("wchar:"))

    def measure(self) -> Result:
        """Let the writer write, until everything is passed on."""
        total = self.load.total
        switches, before = switches_of(self.pid), self.passed_on()
        cpu, waited = processor(self.pid)
        expected = total + total // LINE * self.case.prefix
        os.write(self.go, b"!")
        began = float(self.wait_for_writer(600).split()[0])
        came, last, progress = 0, 0.0, time.monotonic()
        while came < expected:
            now, last = self.passed_on() - before, time.monotonic()
            if now != came:
                came, progress = now, last
            elif last - progress > 5:
                raise Invalid(f"{came:,} of {expected:,} bytes arrived")
            time.sleep(0.0002)
        cpu, waited = (after - was for after, was in zip(processor(self.pid), (cpu, waited)))
        switches = switches_of(self.pid) - switches
        time.sleep(0.1)
        came = self.passed_on() - before
        if came > expected + SLACK:
            raise Invalid(f"{came:,} bytes arrived instead of {expected:,}")
        if self.case.target == "file":
            self.look_into_files()
        return Result(total / (last - began) / 1e6, cpu / (total / 1e9), switches, waited / (last - began))

    def look_into_files(self) -> None:
        """Raise Invalid where what is left is not the end of what was written."""
        if self.case.who == "s6-log":
            files = [*sorted(self.log.parent.glob("@*")), self.log.parent / "current"]
        else:
            files = [self.log.with_name(f"w.log.{number}") for number in range(LOG_KEEP, 0, -1)] + [self.log]
        files = [file for file in files if file.exists()]
        left = b"".join(file.read_bytes() for file in files)
        total = self.load.total
        if len(left) < min(total, LOG_MAX * LOG_KEEP * 0.9) or (total > 2 * LOG_MAX and len(files) != LOG_KEEP + 1):
            raise Invalid(f"{len(left):,} bytes are left, in {len(files)} files")
        whole = self.load.block * (len(left) // len(self.load.block) + 1)
        if not whole.endswith(left):
            raise Invalid("the files do not hold the lines that were written, in their order")

    def end(self) -> None:
        """End everything that was started."""
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()
        if self.reader:
            self.reader.join(10)
        for end in (self.go, self.report):
            os.close(end)
        self.stderr.close()


def processor(pid: int) -> tuple[float, float]:
    """Return the seconds that all threads of a process have had a processor, and have waited for one."""
    try:
        lines = [file.read_text().split() for file in Path(f"/proc/{pid}/task").glob("*/schedstat")]
        ran, waited = (sum(int(words[field]) for words in lines) / 1e9 for field in range(2))
        if ran:
            return ran, waited
    except OSError:
        pass
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), math.nan


def switches_of(pid: int) -> int:
    """Return how often a process was given a processor so far."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)


def children(pid: int) -> list[int]:
    """Return the children of a process."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def succeeds(argv: list[str]) -> bool:
    """Return whether a command ends with 0."""
    try:
        return not subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode
    except OSError:
        return False


def name_space() -> list[str]:
    """Return the command that makes a PID namespace here."""
    rest = ["--pid", "--fork", "--mount-proc", "--kill-child"]
    for space in (["unshare", *rest], ["unshare", "--user", "--map-root-user", *rest]):
        if succeeds([*space, "true"]):
            return space
    sys.exit("no PID namespace can be made here: be root, or allow user namespaces")


def make_writer(given: argparse.Namespace, folder: Path) -> tuple[list[str], str]:
    """Return the command of the writer, and what it is."""
    source = folder / "writer.c"
    source.write_text(C_WRITER)
    if shutil.which("cc") and succeeds(["cc", "-O2", "-w", "-o", str(folder / "writer"), str(source)]):
        return [str(folder / "writer")], "C"
    script = folder / "writer.py"
    script.write_text(PYTHON_WRITER)
    return [given.python, "-I", "-S", str(script)], "Python (no cc here)"


def make_load(size: int, total: int, folder: Path) -> Load:
    """Return numbered lines that are both whole writes and whole lines, about 256 KiB or more of them."""
    step = size * LINE // math.gcd(size, LINE)
    length = step * -(-262144 // step)
    block = b"".join(b"%08d %s\n" % (number, b"x" * (LINE - 10)) for number in range(length // LINE))
    path = folder / f"block.{size}"
    path.write_bytes(block)
    return Load(block, path, size, max(1, total // length))


def present(given: argparse.Namespace) -> set[str]:
    """Return who is there to be measured; say who is missing."""
    install = f"{given.peers_python} -m pip install -r {Path(__file__).with_name('requirements.txt')}"
    found = {"overlord"}
    wanted = {case.who for case in given.cases}
    for who, module in (("supervisord", "supervisor.supervisord"), ("circus", "circus.circusd")):
        if succeeds([given.peers_python, "-c", f"import {module}"]):
            found.add(who)
        elif who in wanted:
            print(f"{who} is missing: {install} (or name another environment: --peers-python PYTHON)")
    if shutil.which("s6-log"):
        found.add("s6-log")
    elif "s6-log" in wanted:
        print("s6-log is missing: apt-get install s6")
    return found


def version_of(python: str) -> str:
    return subprocess.run([python, "--version"], capture_output=True, text=True, check=True).stdout.strip()


def one_run(case: Case, load: Load, writer: list[str], given: argparse.Namespace, folder: Path) -> Result:
    """Measure one case once."""
    folder.mkdir()
    run = Run(case, load, writer, folder)
    try:
        run.start(given)
        return run.measure()
    finally:
        run.end()
        shutil.rmtree(folder, ignore_errors=True)


def print_table(load: Load, results: dict[tuple[Case, int], list[Result]], invalid: dict[tuple[Case, int], str]) -> None:
    """Print the figures of one size of writes."""

    def middle(case: Case, field: int) -> float:
        known = results.get((case, load.size))
        return statistics.median(result[field] for result in known) if known else math.nan

    print(f"\n{f'writes of {load.size:,} bytes, {load.total / 1e6:.0f} MB':36}{'':46}{'x supervisord':>16}")
    print(f"{'to':6}{'by':30}{'MB/s':>7}{'':14}{'CPU s/GB':>9}{'switches':>10}{'waited':>8}{'MB/s':>8}{'CPU':>8}")
    for case, size in results:
        if size != load.size:
            continue
        row = f"{case.target:6}{case.label:26}"
        found = results[case, size]
        if found:
            rates = [result.rate for result in found]
            lead = next((other for other in CASES if other.who == "supervisord" and other.target == case.target), case)
            ratios = [middle(case, field) / middle(lead, field) for field in range(2)]
            words = ["-" if math.isnan(one) or case.how == "inherit" else f"{one:.2f}" for one in ratios]
            spread = f"({min(rates):.0f}-{max(rates):.0f})"
            row += f"{middle(case, 0):11.0f}{spread:>14}{middle(case, 1):9.2f}{middle(case, 2):10.0f}{middle(case, 3):8.0%}"
            row += f"{words[0]:>8}{words[1]:>8}"
        if (case, size) in invalid:
            row += f"  INVALID: {invalid[case, size]}"
        print(row)


def main() -> None:
    """Measure, and print the tables."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--python", default=sys.executable, help="the interpreter for overlord")
    options.add_argument("--peers-python", help="the interpreter that has supervisor and circus; as --python by default")
    options.add_argument("--runs", type=int, default=3, help="runs of each, in turn")
    options.add_argument("--bytes", type=float, default=500e6, help="written in a run; a fifth where writes are < 1,000")
    options.add_argument("--sizes", type=int, nargs="+", default=[100, 4000, 65536], help="bytes in a write")
    options.add_argument("--only", nargs="+", default=[""], metavar="WORD", help="such as overlord, file, prefix, pipe")
    options.add_argument("--save", type=Path, metavar="FILE", help="where tests/readme.py takes its table from")
    given = options.parse_args()
    given.peers_python = given.peers_python or given.python
    given.cases = [case for case in CASES if any(word in f"{case.label} {case.target}" for word in given.only)]
    found = present(given)
    cases = [case for case in given.cases if case.who in found]
    if not cases:
        sys.exit("nothing to measure")
    given.space = name_space()
    versions = [version_of(given.python)]
    if found & {"supervisord", "circus"} and version_of(given.peers_python) != versions[0]:
        versions.append(f"but the peers {version_of(given.peers_python)}")
    results: dict[tuple[Case, int], list[Result]] = {}
    invalid: dict[tuple[Case, int], str] = {}
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as name:
        writer, kind = make_writer(given, Path(name))
        totals = {size: int(given.bytes / (5 if size < 1000 else 1)) for size in given.sizes}
        loads = [make_load(size, total, Path(name)) for size, total in totals.items()]
        for turn in range(given.runs):
            for load in loads:
                for case in cases:
                    results.setdefault((case, load.size), [])
                    if sys.stderr.isatty():
                        word = f"run {turn + 1}, writes of {load.size}: {case.label} to {case.target}"
                        print(f"\r{word:78}", end="", file=sys.stderr, flush=True)
                    try:
                        result = one_run(case, load, writer, given, Path(name, f"run{turn}.{load.size}.{cases.index(case)}"))
                        results[case, load.size].append(result)
                    except Invalid as why:
                        invalid[case, load.size] = str(why)
        if sys.stderr.isatty():
            print(f"\r{'':78}\r", end="", file=sys.stderr, flush=True)
    print(f"{', '.join(versions)}; writer: {kind}; medians of {given.runs}; {time.strftime('%Y-%m-%d %H:%M')};", end=" ")
    print(f"{os.cpu_count()} cores, load {load_before:.1f} before, {os.getloadavg()[0]:.1f} after (about 2 is its own)")
    for load in loads:
        print_table(load, results, invalid)
    rows: figures.Rows = {}
    for (case, size), found_results in results.items():
        if case.target in ROWS and case.how != "inherit" and found_results:
            row = rows.setdefault(f"{ROWS[case.target]}, writes of {size:,} bytes", {})
            row[f"{case.who} CPU"] = statistics.median(result.cpu for result in found_results)
            row[f"{case.who} MB/s"] = statistics.median(result.rate for result in found_results)
    figures.save(given.save, "output", figures.machine(versions[0]), rows)
    sys.exit(1 if invalid else 0)


if __name__ == "__main__":
    main()
