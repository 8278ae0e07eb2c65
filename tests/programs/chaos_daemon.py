"""chaos_daemon.py WAY [PATH]: a daemon that sleeps when nobody asks; HUP, USR1 and USR2 do it no harm.

`notify` tells $NOTIFY_SOCKET that it is ready; `unix` listens at PATH and hangs up on whoever comes; `listen` hangs up on
whoever comes to the sockets that it was given. Two hand over: at a USR2 a child takes the place of the process, as with
nginx and gunicorn. `heir` names it by MAINPID=, before it ends; `pidfile` has put itself into the background, and its
child writes PATH a moment after it has ended.
"""

import contextlib
import os
import select
import signal
import socket
import sys
import time

OWN = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
LATE = 0.05  # s after which the child writes the pid file


def tell(text: str) -> None:
    """Say something to overlord."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(text.encode(), os.environ["NOTIFY_SOCKET"].replace("@", "\0", 1))


def write_pid(path: str) -> None:
    """Write a pid file, at once as a whole."""
    with open(f"{path}.new", "w") as file:
        file.write(f"{os.getpid()}\n")
    os.rename(f"{path}.new", path)


def wait_for_signals() -> int:
    """Return a descriptor from which the signals of this process can be read, of no other one."""
    ours, theirs = os.pipe()
    for fd in (ours, theirs):
        os.set_blocking(fd, False)
    signal.set_wakeup_fd(theirs, warn_on_full_buffer=False)
    return ours


def be_succeeded(path: str) -> None:
    """Be the process that is the main one, and hand that over to a child whenever asked. Returns in the child."""
    signals = wait_for_signals()
    child = -1
    while child < 0:
        if os.getpid() not in asked:
            select.select([signals], [], [])
            os.read(signals, 4096)
        else:
            asked.clear()
            with contextlib.suppress(BlockingIOError):  # no process to be had: it stays
                child = os.fork()
    if child and not path:
        tell(f"MAINPID={child}")
    if child:
        os._exit(0)
    if path:
        time.sleep(LATE)
        write_pid(path)


def serve_all(listeners: list) -> None:
    """Hang up on whoever comes."""
    while True:
        for listener in select.select(listeners, [], [])[0]:
            listener.setblocking(False)  # another instance may have been faster
            with contextlib.suppress(BlockingIOError):
                listener.accept()[0].close()


asked = []  # the process that got a USR2: a child may get one before it has a descriptor of its own
sys.excepthook = lambda *_: None  # where there is no memory or no descriptor it ends, without words: overlord's are looked at
for number in OWN:
    signal.signal(number, lambda number, _: asked.append(os.getpid() if number == signal.SIGUSR2 else 0))
way, path = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else ""
if way in ("notify", "heir"):
    tell("READY=1")
if way == "notify":
    while True:
        signal.pause()
elif way == "pidfile":
    if os.fork():
        os._exit(0)
    os.setsid()
    write_pid(path)
while way in ("heir", "pidfile"):
    be_succeeded(path)
if way == "listen":
    serve_all([socket.socket(fileno=fd) for fd in range(3, 3 + int(os.environ["LISTEN_FDS"]))])
listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
if os.path.exists(path):
    os.unlink(path)
listener.bind(path)
listener.listen(16)
serve_all([listener])
