"""The wire's event loop: epoll for many descriptors, `select` for the wait, since epoll's own counts in milliseconds.

Together with a timer slack of 1 ns that wakes about 50 µs after the moment asked for.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import resource
import select
import signal
import socket
import sys
from collections.abc import Callable
from time import monotonic_ns

PR_SET_TIMERSLACK = 29
LONGEST_WAIT_S = 1.0
EVENTS_PER_TURN = 64

Handler = Callable[[int], None]


class Loop:
    """Calls handlers with epoll's event bits until `stop`."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self._stopping = False

    def __repr__(self) -> str:
        return f"<Loop, {len(self._handlers)} descriptors>"

    def watch(self, fd: int, events: int, handler: Handler) -> None:
        self._epoll.register(fd, events)
        self._handlers[fd] = handler

    def change(self, fd: int, events: int) -> None:
        self._epoll.modify(fd, events)

    def forget(self, fd: int) -> None:
        """Call before the descriptor is closed."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def stop(self) -> None:
        self._stopping = True

    def run(self, turn: Callable[[], None], next_due: Callable[[], int | None]) -> None:
        """Calls `turn` after every wait; waits no longer than until `next_due`, monotonic ns."""
        waits = [self._epoll.fileno()]
        while not self._stopping:
            turn()
            due = next_due()
            wait_s = LONGEST_WAIT_S if due is None else min(max(due - monotonic_ns(), 0) / 1e9, LONGEST_WAIT_S)
            if not select.select(waits, [], [], wait_s)[0]:
                continue
            for fd, events in self._epoll.poll(0, EVENTS_PER_TURN):
                handler = self._handlers.get(fd)
                if handler is not None:
                    handler(events)

    def close(self) -> None:
        self._epoll.close()


def stop_on_sigterm(loop: Loop) -> None:
    """Ends the loop from a descriptor, not from the signal handler, so that no hand-over is cut in half."""
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever sends it: the lab decides when the wire ends
    signal.set_wakeup_fd(writer.fileno())

    def stop(_: int) -> None:
        reader.recv(64)
        signal.set_wakeup_fd(-1)
        writer.close()
        loop.stop()

    loop.watch(reader.fileno(), select.EPOLLIN, stop)


def be_punctual() -> None:
    """Settings of this process for small lateness, and for as many descriptors as it may have.

    Call it before any thread is started: the log's writer shares the interpreter's lock, so it must have the same
    priority, or a busy machine keeps the line waiting through it.
    """
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)
    with contextlib.suppress(PermissionError):  # root only: a hop of the network must not queue for the processor
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    sys.setswitchinterval(0.0001)  # the writer must not keep the line waiting for Python's usual 5 ms
    gc.freeze()
    gc.set_threshold(20_000, 50, 1000)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
