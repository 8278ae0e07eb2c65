"""keep_zombie.py: exit 1, and leave a zombie in the group that only a process of another session could reap.

That process forked it while it was in the group itself, and never waits.
"""

import os
import signal

ready, tell = os.pipe()
if os.fork() == 0:
    if os.fork() == 0:
        os._exit(0)
    os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)  # it is a zombie now, and stays one
    os.setsid()
    os.close(tell)
    while True:
        signal.pause()
os.close(tell)
os.read(ready, 1)
with open("journal", "a") as journal:
    journal.write("up\n")
os._exit(1)
