"""An address leaves while connections to it are pooled, and the proxy is told too late, or in time."""

from lab.model import Act, Aim, Arm, Ends, Expect, Scenario, Size, Traffic

SCENARIO = Scenario(
    name="discovery",
    sentence="Of two upstreams one leaves, and the proxy reads that in its file of endpoints, too late or in time.",
    teaches="That a stale address costs more than the race, and that scaling down loses nothing if told first.",
    ends=Ends.LEAVES,
    keep_alive_s=60.0,
    rtt_ms=100.0,
    traffic=Traffic(rate=150.0, members=2, answer_ms=20.0),
    proxy={
        "timeouts.upstream_idle": "30s",
        "pool.honour_hint": "false",
        "retry.policy": "never",
        "retry.budget": "1",
    },
    upstream={"drain": "idle"},
    arms=(
        Arm(
            name="stale",
            title="Told half a second after it ended",
            why="Its idle connections are closed under requests, and until the file says so it is dialled in vain.",
            aim=Aim.TRAFFIC,
            acts=(Act.TERMINATE, Act.LATER, Act.WITHDRAW),
            expect={"POST": Expect.LOST},
        ),
        Arm(
            name="withdrawn-first",
            title="Told first, and drained before it ends",
            why="The proxy sends it nothing new, closes its idle connections, and only then does it get SIGTERM.",
            aim=Aim.TRAFFIC,
            acts=(Act.WITHDRAW, Act.LATER, Act.QUIET, Act.TERMINATE),
            expect={"GET": Expect.MENDED, "POST": Expect.MENDED},
            control="stale",
            prevents=True,
        ),
    ),
    full=Size(blocks=4, trials=400, min_exposed=12),
    short=Size(blocks=2, trials=300, min_exposed=6),
)
