"""Workers are recycled: after so many answers one makes room for the next, and takes its connections along."""

from lab.model import Aim, Arm, Ends, Expect, Scenario, Size, Traffic

SCENARIO = Scenario(
    name="recycle",
    sentence="After every 300 answers the upstream's worker makes room for a new one behind the same socket.",
    teaches="That the more requests there are, the more often this close comes, whatever the idle timeouts.",
    ends=Ends.LEAVES,
    keep_alive_s=60.0,
    rtt_ms=100.0,
    traffic=Traffic(rate=80.0, answer_ms=20.0),
    proxy={
        "timeouts.upstream_idle": "30s",
        "pool.honour_hint": "false",
        "retry.policy": "never",
        "retry.budget": "1",
    },
    upstream={"recycle": "300", "drain": "idle"},
    arms=(
        Arm(
            name="control",
            title="A worker that goes closes its idle connections",
            why="gunicorn's max_requests and uvicorn's limit do this in the middle of a busy day.",
            aim=Aim.TRAFFIC,
            expect={"GET": Expect.LOST, "POST": Expect.LOST},
        ),
        Arm(
            name="retry-safe",
            title="Retry when it is safe",
            why="A GET is repeated on a fresh connection, to the next worker. A POST must not be (RFC 9110 9.2.2).",
            aim=Aim.TRAFFIC,
            change={"proxy.retry.policy": "reused_idempotent"},
            expect={"GET": Expect.MENDED, "POST": Expect.LOST},
            control="control",
        ),
        Arm(
            name="ordered",
            title="Timeouts ordered, with seconds of margin",
            why="The close comes after so many answers, not after so long a time.",
            aim=Aim.TRAFFIC,
            change={"proxy.timeouts.upstream_idle": "1s"},
            expect={"POST": Expect.LOST},
            control="control",
        ),
        Arm(
            name="notice",
            title="It tells with each answer, and waits for longer than the proxy keeps idle connections",
            why="What is used is closed by agreement, what is not the proxy gives up first: both without a race.",
            aim=Aim.TRAFFIC,
            change={
                "upstream.drain": "notice",
                "upstream.drain-for": "1500ms",
                "proxy.timeouts.upstream_idle": "500ms",
            },
            expect={"POST": Expect.MENDED},
            control="control",
            prevents=True,
        ),
    ),
    full=Size(blocks=3, trials=400, min_exposed=12),
    short=Size(blocks=3, trials=180, min_exposed=6),
)
