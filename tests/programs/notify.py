"""A daemon whose child is its main process, and says so by sd_notify(3): `notify.py then`, or `before`: it ends itself then."""

import os
import socket
import sys
import time

child = os.fork()
if not child:
    os.setsid()
    os.execvp("sleep", ["sleep", "1000"])
with open("journal", "a") as file:
    file.write(f"{child}\n")
address = os.environ["NOTIFY_SOCKET"]
sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
sock.sendto(f"MAINPID={child}\nREADY=1".encode(), "\0" + address[1:])
if sys.argv[1] == "then":
    os.wait()
    time.sleep(1000)
