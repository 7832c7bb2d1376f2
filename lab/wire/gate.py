"""The FIN gate of one connection: which segments wait, and what lets them go. Pure: no sockets, no clock.

Rules of this file:

- Only a close on an *idle* connection is held. A connection is idle when the last data went down, or none has gone at
  all: no request is outstanding. A close that answers a request (a crash, a lost response) passes.
- What waits is the upstream's FIN or RST, or a response that nobody asked for (a 408 before the FIN), and everything
  that comes down behind it.
- A request going up lets it go. So does a close by the proxy: after it no request can cross.
- A gate opens once. What follows on that connection passes: its fate is decided.

"The last data went down" is all a wire can know without parsing HTTP. So a response that only its end delimits, or one
cut off in the middle, has its FIN held too: do not gate a link on which those are the subject.
"""

from __future__ import annotations

from enum import StrEnum

RESPONSE_HEAD = b"HTTP/1."
INTERIM_HEADS = (b"HTTP/1.1 1", b"HTTP/1.0 1")


class ReleasedBy(StrEnum):
    """What let a held close go."""

    REQUEST = "request"
    PROXY_CLOSE = "proxy_close"
    COMMAND = "command"
    HOLD_LIMIT = "hold_limit"


class Gate:
    """The gate of one connection. `asked`: a request is outstanding; `holding`: something waits."""

    __slots__ = ("_opened", "asked", "holding")

    def __init__(self) -> None:
        self.asked = False
        self.holding = False
        self._opened = False

    def __repr__(self) -> str:
        state = "holding" if self.holding else "opened" if self._opened else "ready"
        return f"<Gate {state}{', asked' if self.asked else ''}>"

    def goes_down(self, *, armed: bool, data: bytes, closes: bool) -> bool:
        """Takes note of a segment from the upstream; says whether it must wait. `data`: its TCP data."""
        if self.holding:
            return True
        if armed and not self._opened and not self.asked and (closes or data.startswith(RESPONSE_HEAD)):
            self.holding = True
            return True
        if data and not data.startswith(INTERIM_HEADS):
            self.asked = False
        return False

    def goes_up(self, *, data: bool, closes: bool) -> ReleasedBy | None:
        """Takes note of a segment from the proxy; says what it releases by, if it releases."""
        if data:
            self.asked = True
        if self.holding and (data or closes):
            self.open()
            return ReleasedBy.REQUEST if data else ReleasedBy.PROXY_CLOSE
        if closes:
            self._opened = True
        return None

    def open(self) -> None:
        """Lets go what waits, and holds nothing on this connection again."""
        self.holding = False
        self._opened = True
