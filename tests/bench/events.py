"""What one event costs in the pure rooms, among ten units and among a thousand: it has to be the same.

    python3 tests/bench/events.py

Two events, each with all that follows from it until nothing does: the death of a daemon, until its successor runs, and a
person's `restart` of one. Half of the daemons depend on another one. The two fleets take turns, and the figures are medians.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[2]))

import figures

import overlord

ROUNDS, TIMES = 15, 200


class Play:
    """A fleet whose processes start at once, and die of the first signal."""

    def __init__(self, count: int) -> None:
        units = (f"[daemon:d{number}]\ncmd = x\nbackoff = 0\nwarmup = 0\n" for number in range(count))
        deps = (f"deps = d{number - 1}:ok\n" if number % 2 else "" for number in range(count))
        draft = overlord.Draft({})
        draft.read_text("bench", "".join(unit + dep for unit, dep in zip(units, deps)).encode())
        self.fleet = overlord.Fleet(draft.validate(), lambda: 0.5)
        self.now, self.pid, self.count = 0.0, 1000, count
        self.fleet.want_all(self.now)
        self.settle()

    def settle(self) -> None:
        """Do what the fleet wants done, until it wants nothing more."""
        actions: list[Any] = self.fleet.take_actions()
        while actions:
            due = {action.unit for action in actions if isinstance(action, overlord.Wake)}
            for action in actions:
                if isinstance(action, overlord.Spawn):
                    self.pid += 1
                    self.fleet.feed(action.unit, overlord.Event("spawned", pid=self.pid), self.now)
                elif isinstance(action, overlord.Kill):
                    self.fleet.feed(action.unit, overlord.Event("exited", code=-action.signum), self.now)
            for name in due:
                self.fleet.take_deadline(name, self.now)
            actions = self.fleet.take_actions()

    def time(self, what: str) -> float:
        """Return the microseconds that one event takes with what follows from it."""
        began = time.perf_counter()
        for number in range(TIMES):
            self.now += 100.0
            name = f"d{number % self.count}"
            if what == "death":
                self.fleet.feed(name, overlord.Event("exited", code=1), self.now)
            else:
                self.fleet.restart([self.fleet.units[name]], self.now)
            self.settle()
        took = time.perf_counter() - began
        assert all(unit.status.state == overlord.OK for unit in self.fleet.units.values())
        return took / TIMES * 1e6


def main() -> None:
    """Measure, and print a table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--peers-python", help="not used: this benchmark has no peers")
    options.add_argument("--save", type=Path, metavar="FILE", help="where tests/readme.py takes its sentence from")
    given = options.parse_args()
    plays = [Play(10), Play(1000)]
    about = figures.machine(f"Python {sys.version.split()[0]}")
    rows = {}
    print(f"{about}; medians")
    print("| | among 10, µs | among 1,000, µs | ratio |\n|---|--:|--:|--:|")
    for what in ("death", "restart by hand"):
        rounds = [[play.time(what) for play in plays] for _ in range(ROUNDS)]
        few, many = (statistics.median(column) for column in zip(*rounds))
        ratio = statistics.median(more / less for less, more in rounds)
        rows[what] = {"among 10, µs": few, "among 1,000, µs": many, "ratio": ratio}
        print(f"| {what} | {few:.0f} | {many:.0f} | {ratio:.2f} |")
    figures.save(given.save, "events", about, rows)


if __name__ == "__main__":
    main()
