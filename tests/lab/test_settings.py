"""`--set KEY=VALUE`: where a value goes, and what is no key or no value."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from lab.asked import Asked, understand
from lab.catalogue import catalogue
from lab.errors import UsageError
from lab.model import Below
from lab.settings import UPSTREAM_COUNTS, UPSTREAM_TIMES, known_keys, settled

IDLE = "proxy.timeouts.upstream_idle"
SCENARIO = catalogue()["idle-close"]


def asked(*settings: str, arms: tuple[str, ...] = ("order-timeouts",), **more: object) -> Asked:
    return Asked(arms=arms, settings=settings, seed=1, **more)  # type: ignore[arg-type]


def test_what_the_tried_arm_changes_is_set_there_and_its_control_stays_what_it_is() -> None:
    found = settled(SCENARIO, understand(SCENARIO, asked(f"{IDLE}=1s")))
    assert found.arm("order-timeouts").change == {IDLE: "1s"}
    assert found.arm("control") == SCENARIO.arm("control")
    assert found.proxy == SCENARIO.proxy


def test_what_no_arm_of_the_run_changes_is_set_in_what_all_start_from() -> None:
    found = settled(SCENARIO, understand(SCENARIO, asked(f"{IDLE}=1s", "upstream.jitter=5ms", arms=("control",))))
    assert found.proxy["timeouts.upstream_idle"] == "1s"
    assert found.upstream == {**SCENARIO.upstream, "jitter": "5ms"}
    assert found.arm("order-timeouts") == SCENARIO.arm("order-timeouts")


def test_a_margin_is_set_wherever_a_fix_has_one() -> None:
    found = settled(SCENARIO, understand(SCENARIO, asked("margin=25ms")))
    margins = [value for arm in found.arms for value in arm.change.values() if isinstance(value, Below)]
    assert len(margins) >= 4
    assert {value.margin_ms for value in margins} == {25.0}


def test_a_key_that_is_a_flag_is_that_flag() -> None:
    by_key = understand(
        SCENARIO, asked("wire.rtt_ms=80", "upstream.keep_alive=4s", "trials=7", "blocks=3", "stall=10ms")
    )
    by_flag = understand(SCENARIO, asked(rtt="80ms", keep_alive="4s", trials=7, blocks=3, stall="10ms"))
    assert by_key == by_flag
    assert by_key.settings == {}


def test_nothing_set_is_the_scenario_itself() -> None:
    assert settled(SCENARIO, understand(SCENARIO, asked())) is SCENARIO


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (("margn=25ms",), "unknown key 'margn'; did you mean margin?"),
        (("proxy.timeouts.upstream_idel=4s",), "did you mean proxy.timeouts.upstream_idle?"),
        (("proxy.listen=x",), "the lab gives each proxy its own listen"),
        (("margin",), "give KEY=VALUE, such as margin=25ms"),
        (("margin=",), "give KEY=VALUE"),
        (("margin=25",), "which unit? 25ms or 25s"),
        (("margin=1.5s",), "at most half of the upstream's idle timeout (2s)"),
        ((f"{IDLE}=3 sec",), "proxy.timeouts.upstream_idle=3 sec: expected a duration"),
        (("trials=0",), "give a number from 1 to 5000"),
        (("trials=many",), "give a number from 1 to 5000"),
        (("upstream.max-requests=-1",), "give a number from 1 to"),
        (("upstream.jitter=x",), "upstream.jitter x: expected a duration"),
        (("wire.rtt_ms=800",), "at most a quarter of the upstream's idle timeout"),
        (("wire.rtt_ms=fast",), "wire.rtt_ms fast: "),
        (("margin=20ms", "margin=30ms"), "margin is set twice"),
        (("trials=4", "trials=5"), "trials is set twice"),
        (("rtt=20ms", "wire.rtt_ms=40"), "wire.rtt_ms is set twice"),
    ],
)
def test_a_mistake_is_one_clear_error(settings: tuple[str, ...], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        understand(SCENARIO, asked(*settings))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "setting"),
    [({"rtt": "20ms"}, "wire.rtt_ms=40"), ({"trials": 9}, "trials=8"), ({"stall": "1ms"}, "stall=2ms")],
)
def test_a_flag_and_a_setting_that_say_the_same_are_refused(flags: dict[str, Any], setting: str) -> None:
    with pytest.raises(UsageError, match="says it already"):
        understand(SCENARIO, asked(setting, **flags))


def test_a_margin_in_a_scenario_without_one_is_refused() -> None:
    with pytest.raises(UsageError, match="no arm of a-a ends"):
        understand(catalogue()["a-a"], asked("margin=25ms", arms=()))


def test_a_second_proxy_is_set_where_there_is_one() -> None:
    chains = [scenario for scenario in catalogue().values() if scenario.middle is not None]
    assert chains
    for chain in chains:
        key = "middle.timeouts.connect"
        found = settled(chain, understand(chain, asked(f"{key}=3s", arms=())))
        assert found.middle is not None
        assert found.middle["timeouts.connect"] == "3s"
    with pytest.raises(UsageError, match="idle-close has one proxy only"):
        understand(SCENARIO, asked("middle.timeouts.connect=3s"))


def test_a_real_server_cannot_be_told_what_the_labs_can() -> None:
    with pytest.raises(UsageError, match="on the lab upstream only, not on uvicorn"):
        understand(SCENARIO, asked("upstream.jitter=5ms", upstream="uvicorn"))


def test_keys_of_the_upstream_are_options_of_it() -> None:
    done = subprocess.run([sys.executable, "-m", "upstreams.lab", "--help"], capture_output=True, text=True, check=True)
    assert [key for key in (*UPSTREAM_TIMES, *UPSTREAM_COUNTS) if f"--{key} " not in done.stdout] == []


def test_every_key_that_an_arm_changes_to_a_size_can_be_set() -> None:
    sized = {
        key
        for scenario in catalogue().values()
        for arm in scenario.arms
        for key, value in arm.change.items()
        if isinstance(value, Below) or (isinstance(value, str) and value[:1].isdigit())
    }
    assert IDLE in sized
    assert sorted(sized - set(known_keys())) == ["upstream.close"]  # whose form 408 is no size
