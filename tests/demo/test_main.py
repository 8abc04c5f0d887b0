"""What the demo decides before it starts anything."""

import pytest

from airan.core import config
from airan.core.clock import DAY_S, DayClock
from airan.core.errors import ConfigError
from airan.demo.main import EXPECTED_START_S, DemoOptions, demo_clock, demo_config, demo_requests
from airan.site.launch import check_gpu


@pytest.mark.parametrize("duration_s", [30.0, 75.0, 180.0, 86400.0])
def test_the_day_begins_near_midnight_and_ends_in_a_quiet_night(duration_s: float) -> None:
    speed = DemoOptions(duration_s=duration_s).speed
    planned = demo_clock(speed)
    hours, minutes = (int(part) for part in planned.start.split(":"))
    clock = DayClock(0.0, hours * 3600.0 + minutes * 60.0, speed, planned.hold_after_s)
    ready_s = min(EXPECTED_START_S, (DAY_S - 3600.0) / speed)
    from_midnight_s = (clock.time_of_day_s(ready_s) + DAY_S / 2) % DAY_S - DAY_S / 2
    assert abs(from_midnight_s) <= 60.0
    late_s = ready_s + duration_s + 1e6
    assert clock.time_of_day_s(late_s) == pytest.approx(3600.0, abs=60.0)


def test_a_longer_demo_sends_more_requests() -> None:
    site = config.load(None, {})
    few = demo_requests(site, DemoOptions(duration_s=60.0))
    many = demo_requests(site, DemoOptions(duration_s=180.0))
    assert 8 <= len(few) < len(many)
    assert demo_requests(site, DemoOptions(n_requests=5))[1:] != []


def test_requests_wait_through_a_demos_peak_instead_of_being_refused() -> None:
    site = config.load(None, {})
    promised = demo_config(site, DemoOptions(duration_s=180.0)).market.ttft_target_s
    assert promised.default > 180.0
    assert promised.priority == site.market.ttft_target_s.priority


def test_an_unknown_gpu_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"node\.gpu.*B300") as caught:
        check_gpu(config.load(None, {"AIRAN_NODE__GPU": "B300"}))
    assert "GH200-96GB" in str(caught.value)
