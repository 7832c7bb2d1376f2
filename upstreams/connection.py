"""One connection of the lab upstream: reads requests, answers, and closes when and how it was told.

Rules of this file:

- Callbacks only, in the order of a connection's life. No task per request.
- Every close has a reason and a form, and is logged when the FIN or RST leaves: for `linger` at the shutdown, otherwise
  in `connection_lost`, which uvloop calls just before it closes the descriptor. `unread_bytes` is what the kernel holds
  at that moment; when it is not 0, Linux sends RST whatever the form.
- The idle deadline counts from the moment when the kernel took the last byte of the answer. Timers of uvloop may fire
  more than a millisecond early, so a timer only looks at the clock: no connection is closed before its time.
- After the FIN of a lingering close, what arrives is discarded and never executed.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from math import inf
from termios import FIONREAD
from typing import cast

from proxy.events import connection_name
from upstreams.messages import CONTINUE, Request, RequestError, RequestReader, body_for, render
from upstreams.recorder import (
    EXCHANGE_ANSWERED,
    UPSTREAM_CLOSED,
    UPSTREAM_DROPPED,
    UPSTREAM_LINGERED,
    UPSTREAM_OPENED,
)
from upstreams.upstream import Upstream

# A peer that takes longer to send a request, or to take its answer, is closed (reason slow_peer).
PEER_LIMIT_S = 60.0
# Requests that may wait on one connection (pipelining, RFC 9112 section 9.3.2).
QUEUE_LIMIT = 64

DISCARD_AT_ONCE = 65_536
LINGER_ZERO = struct.pack("ii", 1, 0)


class State(Enum):
    IDLE = auto()
    READING = auto()
    ANSWERING = auto()
    LINGERING = auto()
    CLOSED = auto()


NEXT_STATES = {
    State.IDLE: {State.READING, State.LINGERING, State.CLOSED},
    State.READING: {State.ANSWERING, State.CLOSED},
    State.ANSWERING: {State.IDLE, State.READING, State.CLOSED},
    State.LINGERING: {State.CLOSED},
    State.CLOSED: set(),
}


class LabConnection(asyncio.Protocol):
    """See the rules of this file."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._behaviour = upstream.behaviour
        self._recorder = upstream.recorder
        self._state = State.IDLE
        self._reader = RequestReader()
        self._waiting: deque[tuple[Request, int, int]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._peer_finished = False
        self._paused = False
        self._closing = ("", "", False)
        self._discarded_bytes = 0
        self._retiring = ""  # the reason with which it closes after its next answer
        self.requests = 0

    def __repr__(self) -> str:
        return f"<LabConnection {self.name}, {self._state.name.lower()}, {self.requests} requests>"

    @property
    def state(self) -> State:
        return self._state

    @state.setter
    def state(self, state: State) -> None:
        assert state in NEXT_STATES[self._state], f"{self} cannot become {state.name.lower()}"
        self._state = state
        self._clear_timer()

    @property
    def is_idle(self) -> bool:
        return self._state is State.IDLE

    # -- opening ---------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=0)  # so that resume_writing means: the kernel has the last byte
        self._socket: socket.socket = transport.get_extra_info("socket")
        self._loop = asyncio.get_running_loop()
        peer = transport.get_extra_info("peername") or ("gone", 0)  # a peer may leave between connect and accept
        self.name = connection_name(peer, transport.get_extra_info("sockname"))
        self.keep_alive_s = self._behaviour.keep_alive_s + self._upstream.random.uniform(0, self._behaviour.jitter_s)
        self._upstream.connections.add(self)
        self._recorder.emit(UPSTREAM_OPENED, self.name, 0, self.keep_alive_s * 1000)
        self._wait_for_request()

    # -- idle ------------------------------------------------------------------------------------

    def _wait_for_request(self) -> None:
        self._idle_since_s = time.monotonic()
        self.idle_until_s = self._idle_since_s + self.keep_alive_s
        self._look_at_clock()

    def _look_at_clock(self) -> None:
        left_s = self.idle_until_s - self._behaviour.stall_s - time.monotonic()
        if left_s > 0:
            self._set_timer(left_s, self._look_at_clock)
        elif self._behaviour.stall_s:
            self._upstream.stall(self)
        else:
            self.close_idle()

    def close_idle(self) -> None:
        """The idle timeout is over: close in the form that was asked for."""
        how = self._behaviour.close
        if how == "408":
            self._transport.write(render(408, b"idle timeout\n", close=True))
        if how == "drop":
            self._recorder.emit(UPSTREAM_DROPPED, self.name, 0, self._discard_unread())
        self.close("idle_timeout", how)

    # -- reading ---------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._state is State.LINGERING:
            self._discarded_bytes += len(data)
            return
        if self._state is State.CLOSED:
            return
        if self._state is State.IDLE:
            self.state = State.READING
        try:
            requests = self._reader.feed(data)
        except RequestError as error:
            self._refuse(error)
            return
        for request in requests:
            self._waiting.append((request, *self._recorder.executed(self.name, request)))
        if len(self._waiting) > QUEUE_LIMIT:
            self._refuse(RequestError(f"more than {QUEUE_LIMIT} requests wait on this connection"))
        elif self._state is State.READING:
            self._go_on()

    def _go_on(self) -> None:
        """Between two answers, or after more bytes: what is this connection waiting for now?"""
        if self._waiting:
            self._begin_answer()
        elif self._reader.partial:
            if self._reader.wants_continue:
                self._reader.wants_continue = False
                self._transport.write(CONTINUE)
            self._set_timer(PEER_LIMIT_S, self._give_up)

    def _refuse(self, error: RequestError) -> None:
        self._transport.write(render(400, f"{error}\n".encode(), close=True))
        self.close("bad_request", "fin")

    def _give_up(self) -> None:
        self.close("slow_peer", "rst")

    # -- answering -------------------------------------------------------------------------------

    def _begin_answer(self) -> None:
        self.state = State.ANSWERING
        request = self._waiting[0][0]
        delay_s = request.delay_s or self._behaviour.delay_s
        if delay_s:
            self._set_timer(delay_s, self._answer)
        else:
            self._answer()

    def _answer(self) -> None:
        request, _, nth = self._waiting[0]
        self.requests += 1
        if request.path == "/crash" and self._crashes(nth):
            self.close("crashed", "fin")
            return
        try:
            self._status, body = 200, body_for(request)
        except RequestError as error:
            self._status, body = 400, f"{error}\n".encode()
        last = self._last_because() != "" and self._behaviour.notice
        response = render(
            self._status,
            body,
            head_only=request.method == "HEAD",
            hint=self._behaviour.hint,
            close=last or not request.keep_alive,
        )
        self._set_timer(PEER_LIMIT_S, self._give_up)
        self._transport.write(response)
        if not self._paused and not self._transport.is_closing():
            self._answered()

    def _crashes(self, nth: int) -> bool:
        """Whether it dies over this request, which has been executed so many times now."""
        return self._behaviour.crash == "always" or (self._behaviour.crash == "once" and nth == 1)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._state is State.ANSWERING:
            self._answered()

    def _answered(self) -> None:
        """The kernel has the last byte of the answer."""
        request, exchange, _ = self._waiting.popleft()
        self._recorder.emit(EXCHANGE_ANSWERED, self.name, exchange, request.req_id, self._status)
        if because := self._last_because():
            self.close(because, "fin")
        elif not request.keep_alive:
            self.close("connection_close", "fin")
        elif self._waiting or self._reader.partial:
            self.state = State.READING
            self._go_on()
        elif self._peer_finished:
            self.close("peer_fin", "fin")
        else:
            self.state = State.IDLE
            self._wait_for_request()
        self._upstream.answered()

    def _last_because(self) -> str:
        """Why the answer under way is the last on this connection; "" when it is not."""
        if self._retiring:
            return self._retiring
        return "max_requests" if 0 < self._behaviour.max_requests <= self.requests else ""

    # -- closing ---------------------------------------------------------------------------------

    def close(self, reason: str, how: str) -> None:
        """Closes in the given form: fin, rst, linger, 408 or drop (a fin behind what was already written, or read)."""
        self._note_close(reason, how)
        if how == "linger":
            self._linger()
            return
        self.state = State.CLOSED
        if how == "rst":
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO)
            self._transport.abort()
            return
        self._transport.close()
        if self._transport.get_write_buffer_size():
            self._set_timer(PEER_LIMIT_S, self._transport.abort)

    def retire(self, reason: str, drain: str) -> None:
        """This process, or this worker, is to go: closes now, or after an answer, as `Behaviour.drain` says.

        A connection that has carried nothing yet is new, not idle: its first request is on the way.
        """
        if self._state in (State.LINGERING, State.CLOSED):
            return
        if drain == "now":
            self.cut(reason)
        elif drain == "idle" and self.is_idle and self.requests:
            self.close(reason, "fin")
        else:
            self._retiring = reason

    def cut(self, reason: str) -> None:
        """Closes at once: what is still to be answered or written is lost."""
        if self._state not in (State.LINGERING, State.CLOSED):
            self.close(reason, "fin")
        self._transport.abort()

    def _linger(self) -> None:
        """Half-close, then read and discard until the peer closes, or not longer than linger_s."""
        self.state = State.LINGERING
        self._log_close()
        self._transport.write_eof()
        self._set_timer(self._behaviour.linger_s, self._transport.close)

    def eof_received(self) -> bool:
        """The peer's FIN. True keeps the connection open for the answers that are still due."""
        if self._state is State.ANSWERING:
            self._peer_finished = True
            return True
        if self._state in (State.IDLE, State.READING):
            self.close("peer_fin", "fin")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._upstream.lost(self)
        if self._state is State.LINGERING:
            self._recorder.emit(UPSTREAM_LINGERED, self.name, 0, self._discarded_bytes)
        elif self._state is State.CLOSED:
            self._log_close()
        else:
            self._note_close("peer_reset" if exc else "peer_fin", "rst" if exc else "fin")
            self._log_close()
        if self._state is not State.CLOSED:
            self.state = State.CLOSED
        self._clear_timer()

    def _note_close(self, reason: str, how: str) -> None:
        self._closing = (reason, how, self._state is State.IDLE)

    def _log_close(self) -> None:
        reason, how, was_idle = self._closing
        idle_ms = (time.monotonic() - self._idle_since_s) * 1000 if was_idle else None
        self._recorder.emit(UPSTREAM_CLOSED, self.name, 0, reason, how, idle_ms, self._unread_bytes(), self.requests)

    def _unread_bytes(self) -> int:
        held = fcntl.ioctl(self._socket.fileno(), FIONREAD, b"\0\0\0\0")
        return int.from_bytes(held, sys.byteorder)

    def _discard_unread(self) -> int:
        """Reads what the kernel holds, as a server does whose loop came to the bytes before its timer did."""
        discarded = 0
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._socket.fileno(), DISCARD_AT_ONCE):
                discarded += len(data)
        return discarded

    # -- the one timer ---------------------------------------------------------------------------

    def _set_timer(self, seconds: float, callback: Callable[[], None]) -> None:
        self._clear_timer()
        if seconds < inf:
            self._timer = self._loop.call_later(seconds, callback)

    def _clear_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
