"""A web page that counts its visits in redis: the application of Dockerfile.example.

python3-minimal has no http.server, so it speaks the little HTTP that nginx needs by hand, one request at a time.
"""

import os
import signal
import socket
import sys

PAGE = """<!doctype html>
<meta charset="utf-8">
<title>overlord.py</title>
<style>body { font: 1.1em/1.6 system-ui, sans-serif; max-width: 36em; margin: 3em auto; padding: 0 1em }</style>
<h1>It works</h1>
<p>Visits: <b id="visits">%d</b>, answered by process <b id="pid">%d</b>.</p>
<p>Kill redis with the command that <code>make run</code> printed, and reload: the application was restarted together
with redis. It has another process number, and the counter, which redis kept in memory only, begins anew.</p>
"""
SORRY = "<!doctype html>\n<title>overlord.py</title>\n<p>redis does not answer: %s. Reload in a moment.</p>\n"


class Redis:
    """One connection, opened at the start and never again: `deps = redis:bounce` gives a new process a new one."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=3)

    def increment(self, key):
        """Add 1 to the key's value and return the sum."""
        self.socket.sendall(b"*2\r\n$4\r\nINCR\r\n$%d\r\n%s\r\n" % (len(key), key))
        reply = b""
        while not reply.endswith(b"\r\n"):
            part = self.socket.recv(4096)
            if not part:
                raise OSError("connection closed")
            reply += part
        if not reply.startswith(b":"):  # RESP: a colon begins an integer, a minus an error
            raise OSError(reply.decode(errors="replace").strip())
        return int(reply[1:])


def listen(path):
    """Bind the socket that nginx connects to. setup.sh has removed that of an earlier life."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(64)
    return listener


def respond(redis, request_line):
    """Return status line and page for the first line of a request."""
    method, path, *_ = [*request_line.split(), "", ""]
    if method not in ("GET", "HEAD"):
        return "405 Method Not Allowed", "GET, please\n"
    if path != "/":
        return "404 Not Found", "nothing here\n"
    try:
        return "200 OK", PAGE % (redis.increment(b"visits"), os.getpid())
    except OSError as error:
        return "503 Service Unavailable", SORRY % error


def serve(connection, redis):
    """Read one request, answer it, close."""
    with connection:
        connection.settimeout(5)
        head = b""
        while b"\r\n\r\n" not in head and len(head) < 65536:
            part = connection.recv(4096)
            if not part:
                return
            head += part
        request_line = head.split(b"\r\n")[0].decode("latin-1")
        status, page = respond(redis, request_line)
        body = page.encode()
        answer = "HTTP/1.0 %s\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: %d\r\n\r\n"
        connection.sendall((answer % (status, len(body))).encode())
        if not request_line.startswith("HEAD"):
            connection.sendall(body)


def main():
    redis = Redis(int(os.environ["REDIS_PORT"]))
    listener = listen(os.environ["APP_SOCKET"])
    # Shut down, accept() fails, now or when the request in hand is answered: none is cut off.
    signal.signal(signal.SIGTERM, lambda *_: listener.shutdown(socket.SHUT_RDWR))
    print("app: ready", flush=True)
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            break
        try:
            serve(connection, redis)
        except OSError as error:  # the other side went away, or took its time
            print("app: request dropped:", error, file=sys.stderr, flush=True)
    print("app: finished", flush=True)


if __name__ == "__main__":
    main()
