"""Generated and replayed loads of the radio and of the tenants."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airan.core.clock import DAY_S
from airan.core.errors import ConfigError
from sims import llm_load
from sims.ran_load import DiurnalProfile, TraceProfile


def pool_share(hour: float) -> float:
    """What 18 cells of a GPU that carries 20 need of it."""
    return sum(DiurnalProfile().load(cell, hour * 3600.0) for cell in range(18)) / 20


def test_the_day_uses_about_a_third_of_the_gpu_as_operators_report() -> None:
    mean = sum(pool_share(step / 4) for step in range(96)) / 96
    assert 0.27 < mean < 0.35


def test_the_morning_peak_is_the_highest_and_the_night_nearly_empty() -> None:
    busiest = max(range(96), key=lambda step: pool_share(step / 4)) / 4
    assert 8.0 <= busiest <= 9.5
    assert pool_share(8.75) > 0.8
    assert pool_share(3.0) < 0.07


@given(st.integers(0, 500), st.floats(-DAY_S, 3 * DAY_S))
def test_a_load_is_always_a_share(cell: int, time_s: float) -> None:
    assert 0.0 <= DiurnalProfile().load(cell, time_s) <= 1.0


def test_a_ran_trace_is_interpolated_and_wraps_at_midnight(tmp_path: Path) -> None:
    path = tmp_path / "ran.csv"
    path.write_text("hour,load\n6,0.2\n12,0.8\n18,0.4\n")
    trace = TraceProfile.from_csv(path)
    assert trace.load(0, 9 * 3600) == pytest.approx(0.5)
    assert trace.load(3, 12 * 3600) == pytest.approx(0.8)
    assert trace.load(0, 0) == pytest.approx(0.3)
    assert trace.load(0, 3 * 3600) == pytest.approx(0.25)
    assert trace.load(0, 21 * 3600) == pytest.approx(0.35)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("hour,load\n", "has no rows"),
        ("hour,load\n3,0.5\n2,0.5\n", "hours must ascend"),
        ("hour,load\n3,1.5\n", "line 2"),
        ("hour,load\n3,low\n", "line 2"),
        ("a,b\n3,1\n", "line 2"),
    ],
)
def test_a_bad_ran_trace_is_refused_by_line(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "ran.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=named):
        TraceProfile.from_csv(path)


def test_generated_requests_repeat_for_a_seed_and_fit_the_day() -> None:
    requests = llm_load.generate(200, seed=7)
    assert requests == llm_load.generate(200, seed=7)
    assert requests != llm_load.generate(200, seed=8)
    assert len(requests) == 200
    assert all(0 <= request.arrival_s < DAY_S for request in requests)
    night = sum(request.arrival_s < 6 * 3600 for request in requests)
    assert night < sum(9 * 3600 <= request.arrival_s < 15 * 3600 for request in requests)


def test_an_azure_trace_is_read_and_stretched_over_the_day(tmp_path: Path) -> None:
    path = tmp_path / "llm.csv"
    path.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:15:46.6805900,374,44\n"
        "2023-11-16 18:15:50.9951690,396,109\n"
        "2023-11-16 18:16:46.6805900,4000,900\n"
    )
    requests = llm_load.from_csv(path)
    assert [request.context_tokens for request in requests] == [374, 396, 4000]
    assert requests[1].arrival_s == pytest.approx(4.314579)
    fitted = llm_load.fit_to_day(requests, 10, max_context=400, max_generated=100)
    assert [request.generated_tokens for request in fitted] == [44, 100, 100]
    assert 0.99 * DAY_S < fitted[-1].arrival_s < DAY_S
    assert fitted[-1].context_tokens == 400


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("TIMESTAMP,ContextTokens\n", "lacks the column GeneratedTokens"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n", "has no rows"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\nyesterday,1,2\n", "line 2"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,-1,2\n", "line 2"),
    ],
)
def test_a_bad_llm_trace_is_refused_by_name(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "llm.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=named):
        llm_load.from_csv(path)
