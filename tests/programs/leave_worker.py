"""leave_worker.py NAME PORT_FILE [ignore]: a leader whose worker holds a port, and which leaves the worker behind.

The port is taken once and kept in PORT_FILE, so that each later start needs the same one. The leader notes `NAME up` or
`NAME found its port taken` in the journal. On SIGUSR1 it exits 1 at once, on SIGTERM it exits 0 at once, and each time
its worker stays. The worker notes `NAME worker got SIGTERM`, and ends unless told to ignore it.
"""

import os
import signal
import socket
import sys


def note(line):
    """Append a line to the journal."""
    with open("journal", "a") as journal:
        journal.write(line + "\n")


def work():
    """Hold the port until a SIGTERM."""

    def on_term(number, frame):
        note(f"{name} worker got SIGTERM")
        if not stubborn:
            os._exit(0)

    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, on_term)
    os.close(tell)
    while True:
        signal.pause()


name, port_file, stubborn = sys.argv[1], sys.argv[2], "ignore" in sys.argv
holder = socket.socket()
holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
try:
    with open(port_file) as kept:
        port = int(kept.read())
except OSError:
    port = 0
try:
    holder.bind(("127.0.0.1", port))
    holder.listen()
except OSError:
    note(f"{name} found its port taken")
    sys.exit(2)
with open(port_file, "w") as kept:
    kept.write(str(holder.getsockname()[1]))
ready, tell = os.pipe()
if os.fork() == 0:
    work()
os.close(tell)
os.read(ready, 1)  # until the worker is up
signal.signal(signal.SIGTERM, lambda number, frame: os._exit(0))
signal.signal(signal.SIGUSR1, lambda number, frame: os._exit(1))
note(f"{name} up")
while True:
    signal.pause()
