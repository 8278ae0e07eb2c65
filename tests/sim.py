"""Play random worlds until so many events have passed: `make sim`.

python tests/sim.py --events 1000000 [--seed N] [--jobs 2]

Each world comes from one seed, and around each event that reaches the Fleet all that `world.Watched` knows must hold. The
first violation is printed with the configuration and the last events, and with the command that plays that world alone.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))

from world import World

BATCH = 10  # worlds that a job plays before it tells how far it is
ROUND = 8  # batches that each job is given at once


def play_batch(seed: int) -> tuple[int, int, int, int | None, str]:
    """Play some worlds; return how many, their events and requests, and seed and story of the first that went wrong."""
    events = requests = 0
    for number in range(BATCH):
        world = World(seed + number)
        try:
            world.play()
        except AssertionError as error:
            return number + 1, events + world.clock, requests, seed + number, str(error)
        events, requests = events + world.clock, requests + len(world.clients)
    return BATCH, events, requests, None, ""


def main() -> int:
    """Play, and say how it went."""
    parser = argparse.ArgumentParser(description="Play random worlds until so many events have passed.")
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0, help="of the first world; the others follow")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    began, worlds, events, requests, seed = time.monotonic(), 0, 0, 0, options.seed
    with multiprocessing.get_context("fork").Pool(options.jobs) as pool:
        while events < options.events:
            batches = [seed + BATCH * number for number in range(ROUND * options.jobs)]
            for played, passed, asked, failed, story in pool.imap(play_batch, batches):
                worlds, events, requests = worlds + played, events + passed, requests + asked
                if failed is not None:
                    print(f"{story}\n\nworld {failed} went wrong; again: python tests/sim.py --seed {failed} --events 1 --jobs 1")
                    return 1
            seed += BATCH * len(batches)
    took = time.monotonic() - began
    print(
        f"{events} events, {requests} requests by hand, in {worlds} worlds from seed {options.seed}: all as it must be; "
        f"{events / took:.0f} events/s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
