"""answer.py [SECONDS]: then answer each connection to the sockets of `listen` with name and pid, and lose none at TERM."""

import os
import select
import signal
import socket
import sys
import time

wake, there = os.pipe()
os.set_blocking(there, False)
signal.signal(signal.SIGTERM, lambda *given: os.write(there, b"x"))
time.sleep(float("".join(sys.argv[1:])) if sys.argv[1:] else 0)
with open("journal", "a") as file:
    file.write(f"{os.environ['OVERLORD_NAME']} answers\n")
sockets = [socket.socket(fileno=fd) for fd in range(3, 3 + int(os.environ["LISTEN_FDS"]))]
for each in sockets:
    each.setblocking(False)
while wake not in select.select([wake, *sockets], [], [])[0]:
    for each in sockets:
        try:
            client = each.accept()[0]
        except BlockingIOError:  # another instance was faster
            continue
        client.setblocking(True)
        client.sendall(f"{os.environ['OVERLORD_NAME']} {os.getpid()}\n".encode())
        client.close()
