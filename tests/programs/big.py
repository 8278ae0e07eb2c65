"""A server with 2 GB and 8 threads, which the kernel takes its time to tear down."""

import mmap
import socket
import threading
import time

sock = socket.socket()
sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
sock.bind(("127.0.0.1", 8124))
sock.listen()
held = [mmap.mmap(-1, 1 << 28) for _ in range(8)]
filled = threading.Barrier(9)


def fill(part):
    for at in range(0, len(part), 1 << 24):
        part[at : at + (1 << 24)] = bytes(1 << 24)
    filled.wait()
    time.sleep(1000)


for part in held:
    threading.Thread(target=fill, args=(part,)).start()
filled.wait()
with open("journal", "a") as file:
    file.write("up\n")
time.sleep(1000)
