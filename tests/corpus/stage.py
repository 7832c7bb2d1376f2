"""A stage: the whole proxy but for its sockets (`fakes.FakeProxy`), one client after another, a scripted upstream.

A play is one client's bytes, in pieces. The pieces are delivered when the proxy reads, as a kernel would; the upstream
answers each request once it is whole; the play is over when nothing moves any more. Upstream connections live on from
one play to the next, so a play can also be spoilt by what an earlier one left behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest
from fakes import FakeProxy, Peer
from strict_reader import Message, read_requests, read_responses
from three_readers import agreed

Answer = Callable[[Message], bytes]

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
OK_TO_HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
MOST_STEPS = 100_000


def says_ok(request: Message) -> bytes:
    return OK_TO_HEAD if request.head.start[0] == b"HEAD" else OK


class Seen(NamedTuple):
    """What a play came to."""

    statuses: tuple[int, ...]  # the final answers that the client got
    closed: bool  # the proxy has closed the client's connection, or its own direction of it
    sent: tuple[Message, ...]  # the whole requests that an upstream got, as all three readers understand them
    partial: bytes  # of the requests that never became whole
    to_client: bytes


class Stage:
    """Use `staged` to make one."""

    def __init__(self, proxy: FakeProxy, answer: Answer = says_ok) -> None:
        self.proxy = proxy
        self.answer = answer
        self.servers: list[Peer] = []
        self.plays = 0

    def play(self, pieces: Iterable[bytes]) -> Seen:
        proxy = self.proxy
        waiting = [piece for piece in pieces if piece]
        waiting.reverse()
        client = proxy.client()
        got: dict[Peer, bytearray] = {}
        answered: dict[Peer, int] = {}
        methods: list[bytes] = []
        for _ in range(MOST_STEPS):
            moved = self._upstream_moves(got, answered, methods)
            if waiting and client.transport.reading and not client.closed:
                client.sends(waiting.pop())
                moved = True
            proxy.loop.turn()
            if not moved:
                break
        else:
            raise AssertionError("the play does not end")
        to_client = client.gets()
        closed = client.closed or client.transport.eof_written
        seen = self._seen(to_client, closed, [bytes(data) for data in got.values()], methods)
        self._clear_up(client)
        return seen

    def _upstream_moves(self, got: dict[Peer, bytearray], answered: dict[Peer, int], methods: list[bytes]) -> bool:
        moved = False
        while self.proxy.loop.dials:
            self.servers.append(self.proxy.accept())
            moved = True
        for server in self.servers:
            if not server.transport.written:
                continue
            moved = True
            data = got.setdefault(server, bytearray())
            data += server.gets()
            at = answered.get(server, 0)
            found, end = read_requests(bytes(data[at:]), canonical=False)
            answered[server] = at + end
            for request in found:
                methods.append(request.head.start[0])
                if not server.closed:
                    server.sends(self.answer(request))
        return moved

    def _seen(self, to_client: bytes, closed: bool, to_upstream: list[bytes], methods: list[bytes]) -> Seen:
        sent: list[Message] = []
        partial = b""
        for data in to_upstream:
            messages, rest = agreed(data)
            sent += messages
            partial += rest
        # What the proxy answers itself has no request upstream; its method does not matter but for HEAD.
        answers, end = read_responses(to_client, [*methods, b"GET"], closed=closed)
        assert end == len(to_client), f"the client got half an answer: {to_client[end:]!r}"
        statuses = tuple(answer.status for answer in answers if answer.status >= 200)
        return Seen(statuses, closed, tuple(sent), partial, to_client)

    def _clear_up(self, client: Peer) -> None:
        """The client leaves; what the proxy has closed is gone."""
        if client.closed:
            client.loses(None)
        else:
            client.closes()
        for server in self.servers:
            if server.closed:
                server.loses(None)
        self.servers = [server for server in self.servers if not server.closed]
        self.proxy.events.clear()
        self.plays += 1


@contextmanager
def staged(answer: Answer = says_ok, **changes: object) -> Iterator[Stage]:
    """A stage; `changes` are keys of the config as for `FakeProxy`."""
    with pytest.MonkeyPatch.context() as patch:
        yield Stage(FakeProxy(patch, **changes), answer)
