"""The trace's replay: what is sent, what is made of the answers, and one short run of it all."""

from __future__ import annotations

import gzip
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airan.bench.replay import report
from airan.bench.replay.bills import Account, compare, cost_micro_usd, usage_problems
from airan.bench.replay.client import Seen, prompt, take_event
from airan.bench.replay.engine import N_CTX
from airan.bench.replay.figures import fairness, in_time, jain, quantile
from airan.bench.replay.report import Result
from airan.bench.replay.revoker import Revocations
from airan.bench.replay.run import ReplayOptions
from airan.bench.replay.tenants import PRICES, TENANTS, Tenant
from airan.bench.replay.trace import Planned, TraceOptions, plan_replay, window
from airan.bench.replay.where import describe
from airan.core.config import SiteConfig
from airan.core.errors import ConfigError, InvalidInputError, UnavailableError
from marketplace import models
from marketplace.dispatch.admission import TtftTargets
from sims.llm_load import LlmRequest, from_csv

HEAVY, LIGHT = TENANTS[1], TENANTS[2]


def _seen(
    number: int,
    tenant: Tenant = LIGHT,
    *,
    at_s: float = 0.0,
    token_s: tuple[float, ...] = (1.0, 2.0),
    n_prompt: int = 10,
) -> Seen:
    """A stream that went well."""
    return Seen(
        Planned(number, at_s, tenant, n_prompt, len(token_s), False),
        status=200,
        job=f"{number:032x}",
        token_s=list(token_s),
        finish_reason="length",
        usage_prompt=n_prompt,
        usage_answer=len(token_s),
        complete=True,
    )


def _charge(seen: Seen, amount: int | None = None) -> dict[str, Any]:
    due = cost_micro_usd(seen) if amount is None else amount
    job = f"{seen.job[:8]}-{seen.job[8:12]}-{seen.job[12:16]}-{seen.job[16:20]}-{seen.job[20:]}"
    entries = [
        {"account": "tenant:t:receivable", "amount_micro_usd": due},
        {"account": "site:revenue", "amount_micro_usd": -due},
    ]
    return {"id": f"job:{job}", "entries": entries}


def _result(*seen: Seen, account: Account | None = None) -> Result:
    account = account or Account(0, 0, 0, 0, ())
    return Result(seen, account, Revocations(), wall_s=10.0, load_before=0.0)


def test_the_shipped_trace_is_the_published_one() -> None:
    requests = from_csv(TraceOptions().path)
    assert len(requests) == 19_366
    assert requests[0] == LlmRequest(0.0, 374, 44)
    assert requests[-1].arrival_s == pytest.approx(3501.72, abs=0.01)


def test_a_broken_gzip_file_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "llm.csv.gz"
    path.write_bytes(gzip.compress(b"TIMESTAMP,ContextTokens,GeneratedTokens\n")[:-20])
    with pytest.raises(ConfigError, match=r"llm\.csv\.gz cannot be read"):
        from_csv(path)


def test_a_window_is_sped_up_thinned_and_scaled() -> None:
    trace = [LlmRequest(float(second), 160, 32) for second in range(100)]
    options = TraceOptions(start_s=10.0, duration_s=4.0, speed_up=5.0, every=4, token_scale=0.125)
    found = window(trace, options)
    assert [one.arrival_s for one in found] == pytest.approx([0.0, 0.8, 1.6, 2.4, 3.2])
    assert {(one.context_tokens, one.generated_tokens) for one in found} == {(20, 4)}


def test_the_same_options_give_the_same_plan_and_what_is_too_long_is_clipped() -> None:
    options = TraceOptions(duration_s=30.0, token_scale=1.0, every=7)
    plan = plan_replay(options, TENANTS, N_CTX)
    assert plan == plan_replay(options, TENANTS, N_CTX)
    assert plan != plan_replay(replace(options, seed=2), TENANTS, N_CTX)
    assert all(one.n_prompt + one.n_answer <= N_CTX for one in plan)
    assert 0 < sum(one.clipped for one in plan) < len(plan)
    assert {one.tenant.name for one in plan} == {one.name for one in TENANTS}


def test_a_window_without_requests_is_refused() -> None:
    with pytest.raises(ConfigError, match="has no requests from second 5000 on"):
        plan_replay(TraceOptions(start_s=5000.0), TENANTS, N_CTX)


@pytest.mark.parametrize(
    "wrong", [{"speed_up": 0.0}, {"every": 0}, {"token_scale": float("inf")}, {"start_s": -1.0}]
)
def test_options_out_of_range_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match=next(iter(wrong))):
        TraceOptions(**wrong)


def test_a_prompt_is_as_long_as_planned_and_its_own() -> None:
    one, other = (Planned(number, 0.0, LIGHT, 50, 5, False) for number in (1, 2))
    assert len(prompt(one, 20, 1).split()) == 30 + 5
    assert prompt(one, 20, 1) == prompt(one, 20, 1)
    assert prompt(one, 20, 1) != prompt(other, 20, 1)


def test_a_stream_is_read_token_by_token() -> None:
    seen = Seen(Planned(0, 1.0, LIGHT, 10, 3, False), status=200)

    def chunk(n_tokens: int, reason: str | None = None, **more: Any) -> dict[str, Any]:
        logprobs = {"content": [{"token": "a"}] * n_tokens} if n_tokens else None
        choice = {"delta": {}, "logprobs": logprobs, "finish_reason": reason}
        return {"id": "chatcmpl-abc", "choices": [choice], **more}

    take_event(seen, chunk(0), 1.5)
    take_event(seen, chunk(1), 2.0)
    take_event(seen, chunk(2), 5.0)
    take_event(seen, chunk(0, "stop", airan={"preemptions": 1}), 5.0)
    usage = {"prompt_tokens": 10, "completion_tokens": 4}
    take_event(seen, {"id": "chatcmpl-abc", "choices": [], "usage": usage}, 5.0)
    assert (seen.job, seen.ttft_s, seen.longest_pause_s) == ("abc", 1.0, 3.0)
    assert (seen.usage_prompt, seen.usage_answer, seen.preemptions) == (10, 4, 1)
    # The token by which the model ended its answer has no text, and is billed.
    assert seen.n_tokens == 4


def test_a_character_of_several_tokens_is_no_lost_token() -> None:
    seen = Seen(Planned(0, 1.0, LIGHT, 10, 3, False), status=200)
    for text in ("a", "\u3053", "\u308c"):
        content = [{"token": text, "bytes": list(text.encode())}]
        choice = {"delta": {}, "logprobs": {"content": content}, "finish_reason": None}
        take_event(seen, {"id": "chatcmpl-abc", "choices": [choice]}, 2.0)
    missing = []
    for seen.usage_answer in (2, 3, 5, 7, 10, 11):
        missing.append(seen.n_missing)
    assert missing == [1, 0, 0, 0, 0, 8]


def test_goodput_counts_whole_answers_that_began_within_their_tiers_time() -> None:
    targets = TtftTargets(default=5.0)
    assert in_time(_seen(1, token_s=(5.0,)), targets)
    assert not in_time(_seen(1, token_s=(5.1,)), targets)
    assert not in_time(replace(_seen(1), complete=False), targets)


def test_quantiles_are_values_that_were_seen() -> None:
    assert quantile([], 0.5) is None
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert quantile([float(n) for n in range(1, 101)], 0.99) == 99.0


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=8))
def test_jains_index_lies_between_one_tenant_for_all_and_all_alike(values: list[int]) -> None:
    index = jain(values)
    if not any(values):
        assert index is None
    else:
        assert index is not None
        assert 1 / len(values) - 1e-9 <= index <= 1 + 1e-9


def test_fairness_looks_only_at_the_time_in_which_all_had_work_waiting() -> None:
    # Both wait from 2 to 6: the heavy tenant gets 24 tokens then, the light one 12.
    seen = [
        _seen(1, LIGHT, at_s=0.0, token_s=(1.0,), n_prompt=500),
        _seen(2, LIGHT, at_s=1.0, token_s=(5.0, 9.0)),
        _seen(3, HEAVY, at_s=2.0, token_s=(4.0, 9.0)),
        _seen(4, HEAVY, at_s=2.0, token_s=(6.0, 9.0)),
        _seen(5, LIGHT, at_s=2.0, token_s=(8.0,), n_prompt=700),
    ]
    found = fairness(seen, "default")
    assert found.backlogged_s == pytest.approx(4.0)
    assert found.tokens == {"search": 12, "assistant": 24}
    assert found.index == pytest.approx(1.0)
    assert found.index_of_demand == pytest.approx(jain([1214, 12]))


def test_fairness_is_unknown_where_never_all_wait() -> None:
    seen = [_seen(1, LIGHT, token_s=(1.0,)), _seen(2, HEAVY, at_s=2.0, token_s=(3.0,))]
    assert fairness(seen, "default").index is None


def test_streams_and_charges_that_agree_are_in_order() -> None:
    seen = [_seen(1), _seen(2, HEAVY, n_prompt=77)]
    found = compare(seen, [_charge(one) for one in seen])
    assert (found.tokens_lost, found.n_billed_wrong, found.problems) == (0, 0, ())
    due = sum(map(cost_micro_usd, seen))
    assert found.revenue_micro_usd == found.metered_micro_usd == due


@pytest.mark.parametrize("amount", [0, 1, 10**6])
def test_a_charge_that_is_not_what_the_tokens_cost_is_found(amount: int) -> None:
    seen = _seen(1)
    assert compare([seen], [_charge(seen, amount)]).n_billed_wrong == 1


def test_a_second_charge_is_found() -> None:
    seen = _seen(1)
    again = _charge(seen) | {"id": "job:" + seen.job}
    assert compare([seen], [_charge(seen), again]).n_billed_wrong == 1


def test_a_charge_without_an_answer_and_an_answer_without_a_charge_are_found() -> None:
    assert compare([_seen(1)], [_charge(_seen(2))]).n_billed_wrong == 2


def test_tokens_billed_and_not_seen_are_lost_and_so_is_an_answer_that_did_not_end() -> None:
    short = _seen(1)
    short.usage_answer += 3
    broken = replace(_seen(2), complete=False)
    found = compare([short, broken], [_charge(short)])
    assert found.tokens_lost == 3 + broken.planned.n_answer
    assert len(found.problems) == 2


def test_usage_that_is_not_the_sum_of_the_streams_is_found() -> None:
    row = {"tenant": LIGHT.name, "requests": 1, "input_tokens": 10, "output_tokens": 2}
    assert usage_problems([_seen(1)], [row]) == []
    assert len(usage_problems([_seen(1)], [row | {"output_tokens": 3}])) == 1
    assert len(usage_problems([_seen(1)], [])) == 1


def test_refusals_are_no_failures_and_a_loss_is_not_ok() -> None:
    refused = Seen(Planned(1, 0.0, LIGHT, 10, 5, False), status=429)
    assert _result(_seen(0), refused).ok
    assert not _result(_seen(0), replace(refused, status=503)).ok
    for wrong in (Account(1, 0, 0, 0, ()), Account(0, 1, 0, 0, ()), Account(0, 0, 0, 0, ("no",))):
        assert not _result(_seen(0), account=wrong).ok


def test_every_row_says_what_was_replayed_and_how() -> None:
    options = ReplayOptions("SmolLM2", Path("model"), TraceOptions(speed_up=20.0, every=3))
    where = describe(options)
    rows = {row.name: row for row in report.rows(_result(_seen(0)), where)}
    assert rows["goodput"].value == pytest.approx(0.1)
    assert rows["tokens_lost"].value == 0
    for stated in ("20 times its pace", "one request in 3", "tokens times 0.0625", "SIMULATED"):
        assert stated in where
    assert {row.hardware for row in rows.values()} == {where}


def test_all_tiers_have_a_price_and_the_tenants_ask_for_everything() -> None:
    assert {one.tier for one in TENANTS} == PRICES.keys()
    assert sum(one.demand for one in TENANTS) == pytest.approx(1.0)


@pytest.mark.e2e
@pytest.mark.timeout(180)
def test_a_short_replay_with_revocations_loses_nothing(airan, monkeypatch, tmp_path: Path) -> None:
    cache = Path(os.environ.get("AIRAN_TEST_CACHE", "~/.cache/airan")).expanduser()
    monkeypatch.setenv("AIRAN_CACHE_DIR", str(cache))
    try:
        models.pull(SiteConfig().model.name, cache)
    except UnavailableError as error:
        pytest.skip(f"the model cannot be fetched here: {error}")
    report_file = tmp_path / "requests.jsonl"
    ran = airan(
        "bench", "replay", "--duration", 6, "--every", 60, "--token-scale", 0.1,
        "--revoke-every", 2, "--held", 0.3, "--report", report_file, "--json",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    rows = {row["name"]: row["value"] for row in json.loads(ran.out)}
    requests = [json.loads(line) for line in report_file.read_text().splitlines()]
    assert rows["requests"] == len(requests) > 3
    assert rows["completed"] + rows["refused"] == rows["requests"]
    assert rows["revocations"] >= 1
    assert (rows["tokens_lost"], rows["failed"], rows["billed_wrong"]) == (0, 0, 0)
    assert rows["revenue"] == rows["metered_usage_at_prices"] > 0
