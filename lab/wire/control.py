"""The lab's questions to the wire, answered: some at once, some when their condition holds or their time is over."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from time import monotonic_ns
from typing import Any, NamedTuple, Protocol

import msgspec

from lab.wire import messages
from lab.wire.contract import Address, UnsupportedError, WireStats
from lab.wire.flow import Link
from lab.wire.line import Line
from lab.wire.loop import Loop

LONGEST_LINE = 1 << 16


class Make(Protocol):
    """What a make adds to the line: links, numbers, and an orderly end. `descriptors` go to the lab with `Ready`."""

    name: str
    bind_host: str
    descriptors: Sequence[int]
    line: Line

    def add_link(self, name: str, port: int, delay_ns: int, armed: bool) -> Link: ...

    def close(self) -> WireStats: ...


class _Pending(NamedTuple):
    """A question whose answer waits for a condition."""

    id: int
    until_ns: int
    holds: Callable[[], bool]
    answer: Callable[[], Any]


class Control:
    """One end of the socket to the lab. When the lab is gone, the wire ends."""

    def __init__(self, sock: socket.socket, make: Make, loop: Loop) -> None:
        self.stop_id = 0
        self._sock = sock
        self._make = make
        self._line = make.line
        self._loop = loop
        self._unread = b""
        self._pending: list[_Pending] = []

    def __repr__(self) -> str:
        return f"<Control, {len(self._pending)} pending>"

    def on_readable(self, _events: int) -> None:
        try:
            received = self._sock.recv(LONGEST_LINE)
        except ConnectionError:
            received = b""
        if not received or len(self._unread) > LONGEST_LINE:
            self._loop.stop()
            return
        *lines, self._unread = (self._unread + received).split(b"\n")
        for line in lines:
            self._take(messages.read_question(line))

    def turn(self) -> None:
        """Answers what has become true or has waited long enough."""
        now = monotonic_ns()
        still = []
        for pending in self._pending:
            if pending.holds() or now >= pending.until_ns:
                self.answer(pending.id, pending.answer())
            else:
                still.append(pending)
        self._pending = still

    def next_due(self) -> int | None:
        return min((pending.until_ns for pending in self._pending), default=None)

    def answer(self, number: int, result: Any = None, error: str = "") -> None:
        raw = msgspec.Raw(msgspec.json.encode(result))
        try:
            self._sock.sendall(messages.write_line(messages.Answer(number, raw, error)))
        except OSError:  # the lab has gone, or does not read: nobody is left to work for
            self._loop.stop()

    def _take(self, question: messages.AnyQuestion) -> None:
        try:
            self._answer_or_wait(question)
        except (UnsupportedError, OSError) as error:
            self.answer(question.id, error=str(error))
        except KeyError as error:
            self.answer(question.id, error=f"the wire has no link named {error}")

    def _answer_or_wait(self, question: messages.AnyQuestion) -> None:
        line = self._line
        match question:
            case messages.AddLink(id=number, name=name, port=port, delay_s=delay_s, gate=gate):
                self.answer(number, self._add_link(name, port, delay_s, gate))
            case messages.SetGate(id=number, name=name, on=on):
                line.links[name].armed = on
                line.log.link(line.links[name], self._make.name)
                self.answer(number)
            case messages.SetHold(id=number, name=name, limit_s=limit_s):
                line.links[name].hold_limit_ns = int(limit_s * 1e9)
                self.answer(number)
            case messages.SetForget(id=number, name=name, after_s=after_s):
                line.links[name].forget_ns = int(after_s * 1e9)
                line.log.link(line.links[name], self._make.name)
                self.answer(number)
            case messages.Mark(id=number, name=name):
                line.mark(line.links[name])
                self.answer(number)
            case messages.Release(id=number, name=name):
                self.answer(number, line.release(line.links[name], monotonic_ns()))
            case messages.Settle(id=number, name=name, n=n, timeout_s=timeout_s):
                link = line.links[name]
                self._wait(number, timeout_s, lambda: line.settled(link).accounted >= n, lambda: line.settled(link))
            case messages.Drain(id=number, name=name, timeout_s=timeout_s):
                link = line.links[name]
                self._wait(number, timeout_s, lambda: not link.on_its_way, lambda: not link.on_its_way)
            case messages.Quieten(id=number, name=name, timeout_s=timeout_s):
                link = line.links[name]
                self._wait(number, timeout_s, lambda: not link.open, lambda: not link.open)
            case messages.Stop(id=number):
                self.stop_id = number
                self._loop.stop()

    def _add_link(self, name: str, port: int, delay_s: float, gate: bool) -> Address:
        if name in self._line.links:
            raise UnsupportedError(f"the wire has a link named {name} already")
        link = self._make.add_link(name, port, int(delay_s * 1e9), gate)
        self._line.links[name] = link
        self._line.log.link(link, self._make.name)
        return link.address

    def _wait(self, number: int, timeout_s: float, holds: Callable[[], bool], answer: Callable[[], Any]) -> None:
        until_ns = monotonic_ns() + int(timeout_s * 1e9)
        self._pending.append(_Pending(number, until_ns, holds, answer))
