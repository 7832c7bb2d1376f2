"""What the lab and the wire's process say to each other: JSON lines, a question with a number, an answer with the same.

An answer may come much later than the question (`settled`, `drained`, `quiet`), and in any order.
"""

from __future__ import annotations

from typing import Any

import msgspec


class Question(msgspec.Struct, frozen=True, tag_field="op"):
    """The base of all questions. `id` is chosen by the lab, 1 and up."""

    id: int


class AddLink(Question, frozen=True, tag="link"):
    name: str
    port: int
    delay_s: float
    gate: bool


class SetGate(Question, frozen=True, tag="gate"):
    name: str
    on: bool


class SetHold(Question, frozen=True, tag="hold"):
    name: str
    limit_s: float


class SetForget(Question, frozen=True, tag="forget"):
    name: str
    after_s: float


class Mark(Question, frozen=True, tag="mark"):
    name: str


class Release(Question, frozen=True, tag="release"):
    name: str


class Settle(Question, frozen=True, tag="settled"):
    name: str
    n: int
    timeout_s: float


class Drain(Question, frozen=True, tag="drained"):
    name: str
    timeout_s: float


class Quieten(Question, frozen=True, tag="quiet"):
    name: str
    timeout_s: float


class Stop(Question, frozen=True, tag="stop"):
    pass


AnyQuestion = AddLink | SetGate | SetHold | SetForget | Mark | Release | Settle | Drain | Quieten | Stop


class Ready(msgspec.Struct, frozen=True):
    """The first line from the wire, before any question: where upstreams listen. File descriptors may ride along."""

    bind_host: str


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """`error` is one sentence; with it, `result` means nothing."""

    id: int
    result: msgspec.Raw = msgspec.Raw(b"null")
    error: str = ""


read_question = msgspec.json.Decoder(AnyQuestion).decode
read_answer = msgspec.json.Decoder(Answer).decode


def write_line(message: Any) -> bytes:
    return msgspec.json.encode(message) + b"\n"
