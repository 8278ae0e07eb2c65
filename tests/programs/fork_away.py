"""fork_away.py NAME [ignore]: put a process into the background by the book (double fork, own session), and exit 0.

The process notes `NAME away` in the journal when it is up, and `NAME away got SIGTERM` when it gets one; then it ends,
unless told to ignore it.
"""

import os
import signal
import sys


def note(line):
    """Append a line to the journal."""
    with open("journal", "a") as journal:
        journal.write(line + "\n")


def on_term(number, frame):
    """Note the signal, and end or stay."""
    note(f"{name} away got SIGTERM")
    if not stubborn:
        os._exit(0)


name, stubborn = sys.argv[1], "ignore" in sys.argv
ready, tell = os.pipe()
if os.fork():
    os.close(tell)
    os.read(ready, 1)  # until the process is up
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
signal.signal(signal.SIGTERM, on_term)
note(f"{name} away")
os.close(tell)
while True:
    signal.pause()
