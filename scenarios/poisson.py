"""Requests at random moments, nothing aimed: how often the race hits by itself, predicted and measured."""

from lab.model import Aim, Arm, Expect, Scenario, Size, Traffic

SCENARIO = Scenario(
    name="poisson",
    sentence="Requests come at random moments, and the upstream closes connections that are idle for 0.4 s.",
    teaches="That one request per idle timeout is the worst rate, and that the order of a pool matters.",
    keep_alive_s=0.4,
    rtt_ms=60.0,
    proxy={
        "timeouts.upstream_idle": "60s",
        "pool.honour_hint": "false",
        "pool.order": "newest",
        "pool.max_connections": "1",
        "retry.policy": "never",
    },
    upstream={"close": "fin"},
    arms=(
        Arm(
            name="seldom",
            title="One connection, half a request per idle timeout",
            why="Mostly the connection is gone before the next request, and a new one is made in time.",
            aim=Aim.TRAFFIC,
            traffic=Traffic(rate=1.25, members=100, apart=True),
            expect={"POST": Expect.FORECAST},
        ),
        Arm(
            name="worst",
            title="One connection, one request per idle timeout",
            why="The rate at which most requests are lost.",
            aim=Aim.TRAFFIC,
            traffic=Traffic(rate=2.5, members=70, apart=True),
            expect={"POST": Expect.FORECAST},
        ),
        Arm(
            name="often",
            title="One connection, two and a half requests per idle timeout",
            why="It is seldom idle for so long.",
            aim=Aim.TRAFFIC,
            traffic=Traffic(rate=6.0, members=28, apart=True),
            expect={"POST": Expect.FORECAST},
        ),
        Arm(
            name="newest-first",
            title="A pool, the newest connection first",
            why="A few connections do the work. The others are left alone until they are closed, and harm nobody.",
            aim=Aim.TRAFFIC,
            traffic=Traffic(rate=10.0, members=15, apart=True, answer_ms=100.0),
            change={"proxy.pool.max_connections": "64"},
            expect={"POST": Expect.FORECAST},
        ),
        Arm(
            name="oldest-first",
            title="A pool, the oldest connection first",
            why="Each has its turn when it has been idle for as long as possible: all stay alive, near the edge.",
            aim=Aim.TRAFFIC,
            traffic=Traffic(rate=10.0, members=15, apart=True, answer_ms=100.0),
            change={"proxy.pool.max_connections": "64", "proxy.pool.order": "oldest"},
            expect={"POST": Expect.FORECAST},
        ),
    ),
    full=Size(blocks=2, trials=2000, min_exposed=100),
    short=Size(blocks=1, trials=900, min_exposed=100),
)
