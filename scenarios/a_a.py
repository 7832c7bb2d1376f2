"""Two arms that are the same: whatever differs between them is not the configuration."""

from lab.model import UPSTREAM_GIVES_UP_FIRST, Aim, Arm, Expect, Scenario, Size

SCENARIO = Scenario(
    name="a-a",
    sentence="The same configuration is tried twice, as if it were two.",
    teaches="How much two equal arms differ by chance, and so what a difference between unequal ones is worth.",
    keep_alive_s=1.0,
    rtt_ms=40.0,
    proxy=UPSTREAM_GIVES_UP_FIRST,
    upstream={"close": "fin"},
    arms=(
        Arm(
            name="one",
            title="Nothing done, idle gaps swept",
            why="Half of what a sweep sends meets the close.",
            aim=Aim.GAPS,
            expect={"GET": Expect.BOX, "POST": Expect.BOX},
        ),
        Arm(
            name="other",
            title="The same",
            why="The same.",
            aim=Aim.GAPS,
            expect={"GET": Expect.BOX, "POST": Expect.BOX},
        ),
    ),
    full=Size(blocks=6, trials=40, min_exposed=20),
    short=Size(blocks=2, trials=24, min_exposed=8),
)
