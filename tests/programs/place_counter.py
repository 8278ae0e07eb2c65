"""place_counter.py NAME: write `NAME ready`, and `NAME got NUMBER` for each signal that comes; end with 0 at a SIGTERM."""

import os
import signal
import sys


def got(number, frame=None):
    """Write a line at once, whatever is being done."""
    os.write(1, f"{sys.argv[1]} got {number}\n".encode())
    if number == signal.SIGTERM:
        os._exit(0)


for each in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(each, got)
os.write(1, f"{sys.argv[1]} ready\n".encode())
while True:
    signal.pause()
