"""Nothing happens: requests sent far from the upstream's close."""

from lab.model import UPSTREAM_GIVES_UP_FIRST, Aim, Arm, Expect, Scenario, Size

SCENARIO = Scenario(
    name="no-race",
    sentence="The proxy sends requests on connections that are far from being closed, or have been closed long ago.",
    teaches="That the race is a window, not a state: a connection idle for longer than the timeout harms nobody.",
    keep_alive_s=1.0,
    rtt_ms=40.0,
    proxy=UPSTREAM_GIVES_UP_FIRST,
    upstream={"close": "fin"},
    arms=(
        Arm(
            name="half",
            title="Half the idle timeout after the last answer",
            why="Nothing done, timeouts in the wrong order, and nothing is lost: the connection is still there.",
            aim=Aim.ELSEWHERE,
            at=0.5,
            expect={"GET": Expect.MENDED, "POST": Expect.MENDED},
        ),
        Arm(
            name="long-after",
            title="Half as long again as the idle timeout",
            why="The FIN has arrived, the proxy has dropped the connection, and the request goes on a new one.",
            aim=Aim.ELSEWHERE,
            at=1.5,
            expect={"GET": Expect.MENDED, "POST": Expect.MENDED},
        ),
    ),
    full=Size(blocks=6, trials=40, min_exposed=20),
    short=Size(blocks=2, trials=24, min_exposed=8),
)
