"""Every response of the corpus, whole, byte by byte and cut in two everywhere; then another client asks.

What that second client gets must be its own answer, on a connection that row 13 allows to be used.
"""

from __future__ import annotations

import pytest
import responses_table
from fakes import Peer
from responses_table import FAMILIES, Answer, Bad, Passed, Unfinished
from rows import message
from stage import Stage, staged
from strict_reader import read_responses
from test_corpus_requests import arrivals

OWN = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nown"


def play(stage: Stage, answer: Answer, pieces: list[bytes]) -> str:
    """What differs from what the row says; empty if nothing."""
    proxy = stage.proxy
    client = proxy.client()
    client.sends(message(f"{answer.method.decode()} /first HTTP/1.1", "Host: shop"))
    server = proxy.accept() if proxy.loop.dials else stage.servers[-1]
    if server not in stage.servers:
        stage.servers.append(server)
    server.gets()
    for piece in pieces:
        if not server.closed:
            server.sends(piece)
    if answer.ends and not server.closed:
        server.closes()
    proxy.loop.turn()
    while proxy.loop.dials:  # it was repeated: this time the upstream hangs up before a word
        again = proxy.accept()
        again.gets()
        again.closes()
    closed = client.closed or client.transport.eof_written
    found = _differs(answer, client, server, closed)
    if isinstance(answer.outcome, Unfinished):
        client.closes()  # it will not wait
        closed = True
    if not found:
        found = _next_client(stage, server, reused=isinstance(answer.outcome, Passed) and answer.outcome.kept)
    if not client.closed:
        client.closes()
    stage.servers = [server for server in stage.servers if not server.closed]
    proxy.events.clear()
    return found


def _differs(answer: Answer, client: Peer, server: Peer, closed: bool) -> str:
    outcome = answer.outcome
    data = client.gets()
    answers, end = read_responses(data, [answer.method], closed=closed)
    final = [found for found in answers if found.status >= 200]
    if isinstance(outcome, Unfinished):
        return f"answered {final}" if final or server.closed else ""
    if isinstance(outcome, Bad):
        if not server.closed:
            return "the upstream connection stays open"
        if final and final[0].complete and final[0].status != 502:
            return f"passed on as {final[0]}"
        return "" if closed or final else f"the client waits: {data!r}"
    if len(final) != 1 or end != len(data) or not final[0].complete:
        return f"the client got {data!r}"
    if (final[0].status, final[0].body) != (outcome.status, outcome.body):
        return f"passed on as {final[0]}"
    lacks = [field for field in outcome.fields if field not in final[0].head.fields]
    return f"{lacks} were not passed on" if lacks else ""


def _next_client(stage: Stage, server: Peer, *, reused: bool) -> str:
    """Another client asks, and gets its own answer."""
    proxy = stage.proxy
    client = proxy.client()
    client.sends(message("GET /second HTTP/1.1", "Host: shop"))
    fresh = [proxy.accept() for _ in list(proxy.loop.dials)]
    stage.servers += fresh
    asked = [found for found in {*stage.servers, server} if b"/second" in found.transport.written]
    if len(asked) != 1 or (asked[0] is server) is not reused:
        return f"the next request went to {'the same' if server in asked else 'another'} connection"
    asked[0].gets()
    asked[0].sends(OWN)
    if not client.gets().endswith(b"\r\n\r\nown"):
        return "the next client did not get its own answer"
    client.closes()
    return ""


@pytest.mark.parametrize("family", FAMILIES)
def test_every_response_becomes_what_its_row_says_however_it_arrives(family: str) -> None:
    problems = []
    with staged(retry__policy="never") as stage:
        for answer in FAMILIES[family]:
            for pieces in arrivals(answer.data):
                found = play(stage, answer, pieces)
                if found:
                    problems.append(
                        f"{answer.name} ({answer.why}): {pieces if len(pieces) < 3 else 'by byte'}: {found}"
                    )
                    break
    assert not problems, "\n".join(problems)


def test_the_corpus_is_as_large_as_it_should_be() -> None:
    answers = [(answer.data, answer.method, answer.ends) for family in FAMILIES.values() for answer in family]
    assert len(set(answers)) >= 100
    assert responses_table.OK in {data for data, _, _ in answers}
