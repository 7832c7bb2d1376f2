"""A tiny raw upstream, run as a process: it answers what ends in a blank line, and closes when stdin says so.

`python wire_upstream.py HOST` prints "listening on HOST:PORT"; a line "close" on stdin closes all connections by
close() and prints "closed N". It ends at the end of stdin.
"""

from __future__ import annotations

import select
import socket
import sys

RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n"


def serve(host: str) -> None:
    listener = socket.create_server((host, 0), backlog=4096)
    listener.setblocking(False)
    print(f"listening on {host}:{listener.getsockname()[1]}", flush=True)
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    poll.register(sys.stdin.fileno(), select.EPOLLIN)
    open_by_fd: dict[int, socket.socket] = {}
    while True:
        for fd, _ in poll.poll():
            if fd == listener.fileno():
                sock, _ = listener.accept()
                open_by_fd[sock.fileno()] = sock
                poll.register(sock, select.EPOLLIN)
            elif fd == sys.stdin.fileno():
                if sys.stdin.readline() != "close\n":
                    return
                for sock in open_by_fd.values():
                    sock.close()
                print(f"closed {len(open_by_fd)}", flush=True)
                open_by_fd.clear()
            elif fd in open_by_fd:
                answer(open_by_fd, fd)


def answer(open_by_fd: dict[int, socket.socket], fd: int) -> None:
    """One request is one read here: the trial sends small ones."""
    data = open_by_fd[fd].recv(65536)
    if data.endswith(b"\r\n\r\n"):
        open_by_fd[fd].sendall(RESPONSE)
    elif not data:
        open_by_fd.pop(fd).close()


if __name__ == "__main__":
    serve(sys.argv[1])
