"""prefork.py NAME: a master with three workers, as celery's: on SIGTERM it lets them finish what they are at.

A worker's work is done when the file `NAME may finish` exists. It notes `NAME work done`, or `NAME work lost` where a
SIGTERM hits it before. The master waits for all, and notes `NAME master done`.
"""

import os
import signal
import sys
import time


def note(line):
    """Append a line to the journal."""
    with open("journal", "a") as journal:
        journal.write(line + "\n")


def work():
    """Work until the file is there."""

    def on_term(number, frame):
        note(f"{name} work lost")
        os._exit(1)

    signal.signal(signal.SIGTERM, on_term)
    os.close(tell)
    while not os.path.exists(f"{name} may finish"):
        time.sleep(0.005)
    note(f"{name} work done")
    os._exit(0)


def finish(number, frame):
    """Wait for the workers."""
    note(f"{name} master got SIGTERM")
    for worker in workers:
        os.waitpid(worker, 0)
    note(f"{name} master done")
    os._exit(0)


name, workers = sys.argv[1], []
ready, tell = os.pipe()
for _ in range(3):
    workers.append(os.fork())
    if workers[-1] == 0:
        work()
os.close(tell)
os.read(ready, 1)  # until all workers are up
signal.signal(signal.SIGTERM, finish)
note(f"{name} up")
while True:
    signal.pause()
