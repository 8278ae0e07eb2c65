"""Rounds: twenty units whose processes do all they can to get away, stopped, started, restarted and killed at random.

    python3 tests/rounds.py --rounds 2000 --seed 7
    OVERLORD_PY=/tmp/broken.py python3 tests/rounds.py

The units are `adversary.py`, of a few users, with each `kill_mode`. In each round some are stopped, started or restarted by
requests that come together, and the main processes of some are killed. Each process has noted in a journal whose it is, so after
each round it can be seen that

- no process of a unit that lives was signalled or has vanished, unless the round was about that unit (and one of
  `kill_mode = process` loses its main process only);
- of a unit that was stopped or started again nothing of before lives, but for what the SPEC leaves: `kill_mode = process`; or
  in doubt, an orphan with a cleaned environment outside of its main process's session, or what descends from one, while another
  unit of the same user or of root's is there. Then the log has "left running" about that unit.

Exit code 0 when all held; 1 where something did not; 75 where it cannot run here.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from harness import PROGRAMS, Overlord, Process, children, dial, eventually, kill, read_all, system_python, unit

UNITS = 20
PATIENCE = 120.0  # s, for a machine that is busy
LACKING = 75


class Broken(Exception):
    """Something does not hold."""


class Life(NamedTuple):
    """A process as the journal has it. `run`: the one of its unit, as its main process's number and start."""

    unit: str
    run: str
    pid: int
    born: int
    parent: int


class Seen(NamedTuple):
    """A process as /proc has it."""

    born: int
    parent: int
    session: int


class Rounds:
    """The units, what was done to them, and what came of it."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.chance = random.Random(seed)
        self.folder = folder
        self.journal = folder / "journal"
        self.journal.touch()
        self.journal.chmod(0o666)
        self.read = 0
        program = shutil.copy(PROGRAMS / "adversary.py", folder)
        users = [""] if os.geteuid() else ["", "games", "bin"] if seed % 2 else ["games", "bin"]
        self.users: dict[str, str] = {}
        self.modes: dict[str, str] = {}
        config = ""
        for number in range(UNITS):
            name = f"u{number:02}"
            # one has a user for itself: where root has no unit, nothing of it is ever in doubt
            self.users[name] = self.chance.choice(users) if number or os.geteuid() else "news"
            self.modes[name] = self.chance.choice(("mixed", "mixed", "mixed", "all", "process"))
            options = {"uid": self.users[name]} if self.users[name] else {}
            timeout = f"{self.chance.choice((50, 150, 250))}ms"
            cmd = f"{system_python()} -I -S {program} {name} {self.journal}"
            config += unit("daemon", name, cmd, **options, kill_mode=self.modes[name], stop_timeout=timeout, backoff="0")
        self.lives: dict[tuple[int, int], Life] = {}  # as far as they have not ended by themselves
        self.runs: dict[str, str] = {}
        self.terms: list[Life] = []
        self.down: set[str] = set()
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        self.o = Overlord(config, folder=folder, python=[system_python()], settings={"socket": "abstract"})
        eventually(lambda: self.o.count(": ok") >= UNITS, "all are up", PATIENCE)
        self.wait_for_runs(dict.fromkeys(self.users, ""))

    # What there is.

    def hear(self) -> None:
        """Read on in the journal."""
        with open(self.journal, "rb") as file:
            file.seek(self.read)
            data = file.read()
        data = data[: data.rfind(b"\n") + 1]
        self.read += len(data)
        for line in data.decode().splitlines():
            what, name, run, pid, born, parent = line.split()
            life = Life(name, run, int(pid), int(born), int(parent))
            if what in ("main", "born"):
                self.counts["processes"] += 1
                self.lives[life.pid, life.born] = life
            if what == "main":
                self.runs[name] = run
            elif what == "end":
                self.lives.pop((life.pid, life.born), None)
            elif what == "TERM":
                self.counts["TERM"] += 1
                self.terms.append(life)

    def look(self) -> dict[int, Seen]:
        """Return all that lives."""
        found = {}
        for process in self.o.processes():
            with contextlib.suppress(OSError, IndexError):
                stat = process.stat
                if stat[0] not in "ZX":
                    found[process.pid] = Seen(int(stat[19]), int(stat[1]), int(stat[3]))
        return found

    def wait_for_runs(self, before: dict[str, str]) -> None:
        """Wait until each of these units has another main process than before."""

        def there() -> bool:
            self.hear()
            return all(self.runs.get(name, "") != run for name, run in before.items())

        deadline = time.monotonic() + PATIENCE
        while not there():
            if time.monotonic() > deadline:
                raise Broken(f"not within {PATIENCE:g} s: others than {before}")
            time.sleep(0.005)

    # What is done.

    def ask(self, verb: str, names: list[str]) -> None:
        with dial(self.o) as sock:
            sock.settimeout(PATIENCE)
            sock.sendall(" ".join([verb, *names]).encode() + b"\n")
            answer = read_all(sock).decode(errors="replace")
        if not answer.endswith("=0\n"):
            self.faults.append(f"{verb} {names}: {answer}")

    def kill(self, name: str) -> None:
        pid = self.runs[name].partition(".")[0]
        for outer in children(self.o.pid):
            with contextlib.suppress(OSError):
                if Process(outer).status["NSpid"].split()[-1] == pid:
                    kill(outer, signal.SIGKILL)

    def round(self) -> None:
        """Have some units stopped, started, restarted and killed, all at once; and look at what came of it."""
        names = self.chance.sample(sorted(self.users), self.chance.randint(1, 6))
        mark, before = self.o.mark, dict(self.runs)
        todo: list[tuple[str, list[str]]] = []
        for name in names:
            verb = "start" if name in self.down else self.chance.choice(("stop", "restart", "restart", "kill"))
            if todo and todo[-1][0] == verb and self.chance.random() < 0.5:
                todo[-1][1].append(name)
            else:
                todo.append((verb, [name]))
        threads = []
        for verb, whom in todo:
            self.counts[verb] += len(whom)
            if verb == "kill":
                threads += [threading.Thread(target=self.kill, args=(name,)) for name in whom]
            else:
                threads.append(threading.Thread(target=self.ask, args=(verb, whom)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
            if thread.is_alive():
                raise Broken(f"{todo} has no end")
        stopped = {name for verb, whom in todo for name in whom if verb == "stop"}
        ended = {*names} - self.down
        self.down = (self.down - {*names}) | stopped
        self.wait_for_runs({name: before[name] for name in names if name not in stopped})
        self.check(todo, {*names}, {name: before[name] for name in ended}, mark)
        self.counts["rounds"] += 1

    # What has to hold.

    def check(self, todo: object, names: set[str], before: dict[str, str], mark: int) -> None:
        """Look at all processes, and at who has been signalled."""
        self.hear()
        known = dict(self.lives)
        seen = self.look()
        self.hear()
        there = {(pid, each.born) for pid, each in seen.items()}
        gone = [life for key, life in known.items() if key in self.lives and key not in there]
        for life in gone:
            del self.lives[life.pid, life.born]
        self.counts["killed"] += len(gone)
        for what, lives in (("got TERM", self.terms), ("was killed", gone)):
            for life in lives:
                main = life.run == f"{life.pid}.{life.born}"
                kept = self.modes[life.unit] == "process" and not main
                over = life.run != self.runs[life.unit] or life.unit in self.down
                if kept or (life.unit not in names and not over):
                    self.faults.append(f"{life} {what}, {self.modes[life.unit]=} {over=}, in a round of {todo}")
                elif life.unit not in names:
                    self.counts[f"of a former run: {what}"] += 1
        self.terms.clear()
        log = self.o.log[mark:]
        for life in self.lives.values():
            over = life.run != self.runs[life.unit] or life.unit in self.down
            if over and life.run == before.get(life.unit):
                self.judge(life, seen, log, todo)

    def judge(self, life: Life, seen: dict[int, Seen], log: list[str], todo: object) -> None:
        """A process has outlived its unit."""
        pid, path = life.pid, [life.pid]
        if pid not in seen or seen[pid].born != life.born:
            return
        while seen[pid].parent in seen and seen[pid].parent != 1:
            pid = seen[pid].parent
            path.append(pid)
        others = [name for name, user in self.users.items() if user in ("", self.users[life.unit]) and name != life.unit]
        environment = b""  # it is gone by now
        with contextlib.suppress(OSError):
            environment = b"\0".join(Process(pid, self.o.proc).environ)
        named = [line for line in log if re.search(rf"\b{life.unit}: left running", line)]
        main = int(life.run.partition(".")[0])
        why = ""
        if not named:
            why = "the log does not tell"
        elif self.modes[life.unit] == "process":
            self.counts["kept"] += 1
        elif seen[life.pid].session == main or seen[pid].session == main:
            why = "it has the session of its main process"
        elif b"OVERLORD_NAME" in environment:
            why = "its environment names the unit"
        elif not others:
            why = "no other can have made it"
        else:
            self.counts["in doubt"] += 1
            if not any(re.search(rf"\(pid ({'|'.join(map(str, path))})\)| more$", line) for line in named):
                self.counts["in doubt, not named itself"] += 1
        if why:
            mode, user = self.modes[life.unit], self.users[life.unit]
            found = f"{life} {seen[life.pid]} outlived a round of {todo}, {mode=} {user=}, from {path}"
            pattern = rf"\b({'|'.join(map(str, self.find_kin(life)))}) \d+ \d+$"
            story = [line for line in self.journal.read_text().splitlines() if re.search(pattern, line)]
            self.faults.append("\n  ".join([f"{found}: {why}; {named}", *story[-20:]]))

    def find_kin(self, life: Life) -> list[int]:
        """Return the numbers of its forebears, as far as they have noted who that was."""
        parents = {}
        for line in self.journal.read_text().splitlines():
            what, _, run, pid, _, parent = line.split()
            if what == "born" and run == life.run:
                parents[int(pid)] = int(parent)
        path = [life.pid]
        while parents.get(path[-1], 1) > 1:
            path.append(parents[path[-1]])
        return path

    def close(self) -> None:
        self.o.destroy()
        with contextlib.redirect_stdout(open(self.folder / "log", "w")):
            self.o.close()


def run(folder: Path, rounds: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Do so many rounds; return what was done, and what is wrong."""
    world = Rounds(folder, seed)
    try:
        while world.counts["rounds"] < rounds and not world.faults:
            try:
                world.round()
            except Broken as error:
                world.faults += [str(error), *world.o.log[-20:]]
        internal = [line for line in world.o.log if "internal error" in line]
        return world.counts, world.faults + internal
    finally:
        world.close()


def main() -> int:
    """Run it."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=2000)
    options.add_argument("--seed", type=int, default=None)
    given = options.parse_args()
    seed = random.randrange(10**6) if given.seed is None else given.seed
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))  # so that the namespace ends, too
    folder = Path(tempfile.mkdtemp(prefix="overlord-rounds-"))
    folder.chmod(0o777)
    print(f"seed {seed}, in {folder}", flush=True)
    began = time.monotonic()
    counts, faults = run(folder, given.rounds, seed)
    print(f"{time.monotonic() - began:.0f} s: " + ", ".join(f"{count} {what}" for what, count in sorted(counts.items())))
    if faults:
        print("\n".join(faults), f"FAILED with seed {seed}; the log is in {folder}", sep="\n")
        return 1
    shutil.rmtree(folder)
    print("all held")
    return 0


if __name__ == "__main__":
    sys.exit(main())
