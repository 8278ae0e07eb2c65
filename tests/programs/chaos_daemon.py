"""chaos_daemon.py notify|unix PATH: say that it is ready in one of two ways, and stay; HUP, USR1 and USR2 do nothing.

`notify` tells $NOTIFY_SOCKET, `unix` listens at PATH and hangs up on whoever comes. It sleeps when nobody asks.
"""

import os
import signal
import socket
import sys

for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(number, lambda *_: None)
if sys.argv[1] == "notify":
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"].replace("@", "\0", 1))
    while True:
        signal.pause()
listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
if os.path.exists(sys.argv[2]):
    os.unlink(sys.argv[2])
listener.bind(sys.argv[2])
listener.listen(16)
while True:
    listener.accept()[0].close()
