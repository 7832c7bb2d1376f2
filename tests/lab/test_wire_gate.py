"""The FIN gate, as a table: what comes, and what the gate does with it."""

from __future__ import annotations

import pytest

from lab.wire.gate import Gate

REQUEST, FIN_UP = "request ^", "fin ^"
ANSWER, MORE, INTERIM, FIN, ACK = "answer v", "more body v", "100 v", "fin v", "ack v"
ARM, DISARM = "arm", "disarm"

DATA = {ANSWER: b"HTTP/1.1 200 OK\r\n\r\n", MORE: b"rest of it", INTERIM: b"HTTP/1.1 100 Continue\r\n\r\n"}

# What happens, step by step, and what the gate says to each: pass, hold, or what releases.
TABLE = {
    "idle after an answer": ([REQUEST, ANSWER, FIN], ["pass", "pass", "hold"]),
    "idle from the start": ([FIN], ["hold"]),
    "a request lets it go": ([REQUEST, ANSWER, FIN, REQUEST], ["pass", "pass", "hold", "request"]),
    "what follows passes": ([FIN, REQUEST, FIN, ANSWER], ["hold", "request", "pass", "pass"]),
    "all behind it waits": ([FIN, ACK, MORE, FIN], ["hold", "hold", "hold", "hold"]),
    "the proxy's close lets it go": ([FIN, FIN_UP, ACK], ["hold", "proxy_close", "pass"]),
    "the proxy closed first": ([REQUEST, ANSWER, FIN_UP, FIN], ["pass", "pass", "pass", "pass"]),
    "a request is outstanding": ([REQUEST, FIN], ["pass", "pass"]),
    "only an interim answer has come": ([REQUEST, INTERIM, FIN], ["pass", "pass", "pass"]),
    "an interim answer, then the answer": ([REQUEST, INTERIM, ANSWER, FIN], ["pass", "pass", "pass", "hold"]),
    "an answer in two parts": ([REQUEST, ANSWER, MORE, FIN], ["pass", "pass", "pass", "hold"]),
    "a response nobody asked for": ([ANSWER, FIN, REQUEST], ["hold", "hold", "request"]),
    "the same after an answer": ([REQUEST, ANSWER, ANSWER, FIN], ["pass", "pass", "hold", "hold"]),
    "a pure ACK changes nothing": ([REQUEST, ACK, FIN], ["pass", "pass", "pass"]),
    "not armed": ([DISARM, REQUEST, ANSWER, FIN], ["pass", "pass", "pass"]),
    "armed in time": ([DISARM, REQUEST, ANSWER, ARM, FIN], ["pass", "pass", "hold"]),
    "disarmed, but it holds already": ([FIN, DISARM, ACK, REQUEST], ["hold", "hold", "request"]),
}


@pytest.mark.parametrize(("steps", "said"), TABLE.values(), ids=TABLE.keys())
def test_gate(steps: list[str], said: list[str]) -> None:
    gate, armed, heard = Gate(), True, []
    for step in steps:
        if step in (ARM, DISARM):
            armed = step == ARM
        elif step.endswith("^"):
            by = gate.goes_up(data=step == REQUEST, closes=step == FIN_UP)
            heard.append(by.value if by else "pass")
        else:
            waits = gate.goes_down(armed=armed, data=DATA.get(step, b""), closes=step == FIN)
            heard.append("hold" if waits else "pass")
    assert heard == said


def test_repr_tells_the_state() -> None:
    gate = Gate()
    assert repr(gate) == "<Gate ready>"
    gate.goes_up(data=True, closes=False)
    assert repr(gate) == "<Gate ready, asked>"
    gate.goes_down(armed=True, data=DATA[ANSWER], closes=False)
    gate.goes_down(armed=True, data=b"", closes=True)
    assert repr(gate) == "<Gate holding>"
    gate.open()
    assert repr(gate) == "<Gate opened>"
