"""Which of several engines a request goes to: where its prompt is known, unless that is busy."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketplace.dispatch.prefixes import PrefixTable, blocks_of
from marketplace.jobs import Job
from tests.marketplace.bench_of_engines import Bench, bench_of_engines
from tests.marketplace.site import (
    MODEL,
    FakeControl,
    admin_get,
    eventually,
    gateway_settings,
    new_key,
    running_agent,
    running_gateway,
)

_TOKENS = st.lists(st.integers(0, 3), max_size=100)


@given(_TOKENS, _TOKENS, _TOKENS)
def test_the_part_in_common_is_found_in_whole_blocks(
    common: list[int], left: list[int], right: list[int]
) -> None:
    table, slot = PrefixTable(), ("http://e", 0)
    one, two = common + left, common + right
    table.note(slot, blocks_of(one, "t"))
    n_common = 0
    while n_common < min(len(one), len(two)) and one[n_common] == two[n_common]:
        n_common += 1
    assert table.match_tokens(slot, blocks_of(two, "t")) == n_common // 16 * 16


def test_a_prompt_is_never_matched_with_another_tenants() -> None:
    table, slot = PrefixTable(), ("http://e", 0)
    table.note(slot, blocks_of(range(64), "one"))
    assert table.match_tokens(slot, blocks_of(range(64), "one")) == 64
    assert table.match_tokens(slot, blocks_of(range(64), "another")) == 0


def test_an_engine_that_went_is_forgotten() -> None:
    table = PrefixTable()
    for url in ("http://gone", "http://stays"):
        table.note((url, 0), blocks_of(range(64), "t"))
    table.forget("http://gone")
    found = [table.match_tokens((url, 0), blocks_of(range(64), "t")) for url in ("http://gone",)]
    assert found == [0]
    assert table.match_tokens(("http://stays", 0), blocks_of(range(64), "t")) == 64


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with bench_of_engines(tmp_path) as bench:
        yield bench


def chat(topic: str, length: int = 800) -> str:
    """A prompt of so many tokens; two topics have no block in common."""
    return (topic * length)[:length]


async def run_one(bench: Bench, prompt: str, **parameters: object) -> Job:
    job = await bench.submit("a job", prompt=prompt, **parameters)
    await bench.run()
    return job


async def test_a_conversation_goes_on_where_it_began(bench: Bench) -> None:
    engines = [await bench.add_engine(n_slots=2) for _ in range(3)]
    topics = [chat(topic) for topic in "abcde"]
    for topic in topics:
        await run_one(bench, topic)
    before = sum(engine.prefilled_tokens for engine in engines)
    assert before == 5 * 800
    for turn in range(1, 4):
        for topic in reversed(topics):
            job = await run_one(bench, topic + "?" * turn)
            # What is sent is the prompt's own end, and the answers that were between.
            assert job.ttft_ms is not None
            assert job.ttft_ms <= 20
    assert sum(engine.prefilled_tokens for engine in engines) - before < 15 * 20


async def test_a_beginning_that_all_prompts_share_throws_no_conversation_out(
    bench: Bench,
) -> None:
    engines = [await bench.add_engine(n_slots=2) for _ in range(2)]
    topics = [chat("=", 64) + chat(topic) for topic in "abcd"]
    for _ in range(3):
        for topic in topics:
            await run_one(bench, topic)
    assert sum(engine.prefilled_tokens for engine in engines) <= 4 * 864
    assert [len(engine.served) for engine in engines] == [6, 6]


async def test_without_routing_by_prefix_the_same_would_cost_the_whole_prompts(
    bench: Bench,
) -> None:
    engines = [await bench.add_engine(n_slots=1) for _ in range(2)]
    # Two slots cannot hold three conversations: each finds that another took its place.
    for _ in range(3):
        for topic in "abc":
            await run_one(bench, chat(topic))
    assert sum(engine.prefilled_tokens for engine in engines) > 6 * 800


async def test_an_engine_that_knows_the_prompt_but_is_busy_is_not_waited_for(bench: Bench) -> None:
    await bench.add_engine()
    await bench.add_engine()
    await run_one(bench, chat("a"))
    busy = await bench.submit("busy", prompt=chat("a"), max_tokens=200)
    await bench.settle()
    other = await bench.submit("other", prompt=chat("a"))
    await bench.settle()
    assert bench.running() == {"busy", "other"}
    assert busy.place is not None
    assert other.place is not None
    assert busy.place[0] != other.place[0]


async def test_a_short_known_prefix_does_not_outweigh_a_loaded_engine(bench: Bench) -> None:
    loaded = await bench.add_engine(n_slots=4)
    # Measured, this engine takes as long for each token as it has answers.
    speeds = bench.dispatcher._foresight.speeds
    for number in (0, 1):
        await bench.add_engine(n_slots=4) if number else None
        state = bench.dispatcher.pool.engines[number].state
        speeds.note_first_token(state, 100, 0.1)
        for n_at_once in (1, 2, 3, 4):
            speeds.note_tokens(state, n_at_once, 0.05 * n_at_once)
    bench.change(1, phase="no_lease")
    await run_one(bench, chat("a", 32))
    for _ in range(3):
        await bench.submit("load", prompt=chat("z", 40), max_tokens=100)
    await bench.settle()
    bench.change(1, phase="ready")
    short = await bench.submit("short", prompt=chat("a", 32), max_tokens=50)
    long = await bench.submit("nothing known", prompt=chat("q", 32), max_tokens=50)
    await bench.settle()
    assert [job.place and job.place[0] for job in (short, long)] == ["http://1", "http://1"]
    assert len(loaded.served) == 4


async def test_a_paused_answer_finds_its_slot_again_and_new_work_leaves_it_alone(
    bench: Bench,
) -> None:
    engine = await bench.add_engine(n_slots=2)
    paused = await bench.submit("paused", prompt=chat("p"), max_tokens=50, service_tier="flex")
    stays = await bench.submit("stays", prompt=chat("s"), max_tokens=50)
    await bench.run(2.0)
    for n_slots in (1, 2):
        bench.change(0, max_concurrent=n_slots)
        await bench.settle()
    before = engine.prefilled_tokens
    await bench.run()
    assert (paused.preemptions, stays.preemptions) == (1, 0)
    # What it had was still there, but for the last incomplete block at most.
    assert engine.prefilled_tokens - before == 0


async def test_a_restarted_engine_knows_nothing(bench: Bench) -> None:
    engine = await bench.add_engine()
    await run_one(bench, chat("a"))
    bench.change(0, url="http://elsewhere")
    engine._cached.clear()
    job = await run_one(bench, chat("a"))
    # The forecast, too, takes the whole prompt into account.
    assert job.ttft_ms == pytest.approx(800, rel=0.05)
    assert job.predicted_ttft_s == pytest.approx(0.8, rel=0.05)


# With real engines


async def test_conversations_stay_with_their_engines(model_path: Path, tmp_path: Path) -> None:
    async with (
        running_agent(model_path, FakeControl(), name="engine-0") as first,
        running_agent(model_path, FakeControl(), name="engine-1") as second,
        running_gateway(gateway_settings(tmp_path, first, second)) as url,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=await new_key(url)) as client,
    ):

        async def engines_at_work() -> list[str]:
            engines = (await admin_get(url, "stats"))["engines"]
            return [engine["name"] for engine in engines if engine["running"]]

        async def both_ready() -> bool:
            engines = (await admin_get(url, "stats"))["engines"]
            return all(engine["phase"] == "ready" for engine in engines)

        async def turn(messages: list[dict[str, str]]) -> str:
            """Sends the conversation; returns the engine that works on it."""
            stream = await client.chat.completions.create(
                model=MODEL, messages=messages, temperature=0, max_tokens=12, stream=True
            )
            (name,) = await eventually(engines_at_work)
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
            messages.append({"role": "assistant", "content": text})
            messages.append({"role": "user", "content": "Go on."})
            return str(name)

        await eventually(both_ready)
        talks = [
            [{"role": "user", "content": f"{topic} {'Tell me all about it. ' * 12}"}]
            for topic in ("The sea.", "A fox.", "Bread.")
        ]
        homes = [await turn(talk) for talk in talks]
        assert set(homes) == {"engine-0", "engine-1"}
        for number in (2, 0, 1):
            assert await turn(talks[number]) == homes[number]
