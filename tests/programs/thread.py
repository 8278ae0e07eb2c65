"""A server whose main thread ends while another one goes on: the kernel shows it as a zombie, and it holds its port."""

import ctypes
import socket
import threading
import time

sock = socket.socket()
sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
sock.bind(("127.0.0.1", 8123))
sock.listen()
threading.Thread(target=time.sleep, args=(1000,)).start()
time.sleep(0.2)
with open("journal", "a") as file:
    file.write("up\n")
ctypes.CDLL(None).syscall(60, 0)  # exit(2) of x86-64: of this thread alone
