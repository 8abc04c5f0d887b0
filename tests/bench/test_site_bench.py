"""The bench of a whole site: what it makes of slots, tokens and books, whom it kills; and once the
whole of it, against a site on the CPU."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from airan.bench.replay.client import Seen
from airan.bench.replay.trace import Planned
from airan.bench.site import report, victims
from airan.bench.site.account import balance
from airan.bench.site.load import STREAMS, BackgroundEnd, LoadOptions
from airan.bench.site.run import Quiet, SiteOptions, SiteReport
from airan.bench.site.slots import channel_times, gear_shares, slots_a_second, slots_after
from airan.bench.site.steps import silence, tokens_lost
from airan.bench.site.victims import Victim
from airan.cli.main import app
from airan.core import config
from airan.core.errors import ConfigError, InvalidInputError, UnavailableError
from airan.site import runtime as site_runtime
from airan.site.processes import ProcessRecord
from airan.site.services import daemon_record, journal_file
from airan.site.slot_journal import RECORD, Fate, JournalReader, SlotJournal
from tests.site.no_gpu import skip_where_there_is_a_gpu

PACE = 2000.0
ON_TIME, LATE, DROPPED, IDLE = Fate.ON_TIME, Fate.LATE, Fate.DROPPED, Fate.IDLE
PORTS = {
    f"AIRAN_PORTS__{name}": "0" for name in ("GATEWAY", "DASHBOARD", "CONTROL", "ENGINE", "METRICS")
}


def records(*slots: tuple[float, Fate], latency_us: float = 500.0) -> np.ndarray:
    """Slots of the uplink by when their end was seen."""
    rows = np.zeros(len(slots), RECORD)
    for row, (end_s, fate) in zip(rows, slots, strict=True):
        is_taken = fate in (ON_TIME, LATE)
        row["end_s"], row["fate"] = end_s, fate
        row["latency_us"] = latency_us if is_taken else math.nan
    return rows


def regular(from_s: float, until_s: float, fate: Fate = ON_TIME) -> list[tuple[float, Fate]]:
    n = round((until_s - from_s) * PACE)
    return [(from_s + number / PACE, fate) for number in range(n)]


def test_slots_without_a_loss_need_no_time_to_come_back() -> None:
    after = slots_after(records(*regular(0.0, 3.0)), 1.0, 2.9, PACE)
    assert (after.first_in_time_s, after.steady_s) == (0.0, 0.0)
    assert (after.late, after.dropped, after.missing) == (0, 0, 0)


def test_the_first_slot_in_time_counts_after_the_first_that_was_not() -> None:
    # Killed at 1.0: two slots that were done are still seen, then some are lost.
    slots = [
        *regular(0.0, 1.001),
        *regular(1.001, 1.3, DROPPED),
        *regular(1.3, 1.31),
        *regular(1.31, 1.32, LATE),
        *regular(1.32, 3.0),
    ]
    after = slots_after(records(*slots), 1.0, 2.9, PACE)
    assert after.first_in_time_s == pytest.approx(0.3, abs=1e-6)
    assert after.steady_s == pytest.approx(0.32, abs=1e-6)
    assert after.longest_s == pytest.approx(0.3, abs=1e-3)
    assert (after.late, after.dropped, after.missing) == (20, 598, 0)


def test_a_process_that_was_away_leaves_a_gap_and_what_it_tells_afterwards_counts_once() -> None:
    told = [(2.0, DROPPED)] * 400
    slots = [*regular(0.0, 1.0), *told, *regular(2.0005, 4.0)]
    after = slots_after(records(*slots), 1.0, 3.9, PACE)
    assert after.dropped == 400
    assert after.missing == pytest.approx(1600, abs=2)
    assert after.first_in_time_s == pytest.approx(1.0005, abs=1e-6)
    silent = slots_after(records(*regular(0.0, 1.0), *regular(2.0, 4.0)), 1.0, 3.9, PACE)
    assert silent.missing == pytest.approx(2000, abs=2)
    assert silent.first_in_time_s == silent.steady_s == pytest.approx(1.0, abs=1e-3)


def test_a_host_that_was_late_to_look_is_no_gap() -> None:
    """Nothing is lost when slots are seen later than they ended."""
    seen_at_once = [(1.004, ON_TIME)] * 8
    slots = [*regular(0.0, 1.0), *seen_at_once, *regular(1.0045, 3.0)]
    after = slots_after(records(*slots), 0.5, 2.9, PACE)
    assert (after.first_in_time_s, after.missing) == (0.0, 0)
    assert after.longest_s == pytest.approx(0.0045, abs=1e-3)


def test_a_short_absence_at_a_slow_pace_is_seen() -> None:
    slots = [(0.2 * number, ON_TIME) for number in range(100) if not 50 <= number < 57]
    after = slots_after(records(*slots), 9.9, 18.0, 5.0)
    assert after.missing == 7
    assert after.first_in_time_s == pytest.approx(0.2 * 57 - 9.9)


def test_slots_that_never_come_back_have_no_time() -> None:
    after = slots_after(records(*regular(0.0, 1.0), *regular(1.0, 1.1, LATE)), 1.0, 3.0, PACE)
    assert (after.first_in_time_s, after.steady_s) == (None, None)
    assert after.late == 199
    assert after.missing > 3700


def test_times_are_of_slots_that_had_something_in_them() -> None:
    rows = records((0.0, ON_TIME), (0.1, LATE), (0.2, DROPPED), (0.3, IDLE))
    rows["latency_us"][1] = 2000.0
    rows["channel"][3] = 1
    (uplink,) = channel_times(rows)
    assert (uplink.channel, uplink.slots, uplink.late, uplink.dropped) == ("pusch", 3, 1, 1)
    assert (uplink.p50_us, uplink.p999_us, uplink.max_us) == (2000.0, 2000.0, 2000.0)
    (lost,) = channel_times(rows[2:3])
    assert (lost.slots, lost.p999_us) == (1, None)
    assert slots_a_second(rows) == pytest.approx(10.0)
    assert slots_a_second(rows[:1]) == 0.0


def test_the_gears_of_the_slots_add_up_to_all_of_them() -> None:
    rows = records(*regular(0.0, 0.01))
    rows["gear"][:5] = 3
    assert gear_shares(rows) == {0: 0.75, 3: 0.25}
    assert gear_shares(rows[:0]) == {}
    quiet = Quiet(0.01, channel_times(rows), 12.0, gear_shares(rows))
    told = report.rows(SiteReport("here", "now", SiteOptions(), quiet=quiet))
    shares = {one.name: one.value for one in told if "gear" in one.name}
    assert shares == {"quiet_gear_0": 0.75, "quiet_gear_3": 0.25}


def test_the_longest_silence_tells_when_the_engine_answers_again() -> None:
    steady = [0.1 * number for number in range(100)]
    assert silence(steady, 2.0, 9.0) == (0.0, 0.0)
    broken = [one for one in steady if not 3.05 < one < 7.05]
    longest_s, back_s = silence(broken, 2.0, 9.0)
    assert longest_s == pytest.approx(4.1)
    assert back_s == pytest.approx(5.1)
    gone_s, never = silence([one for one in steady if one < 3.0], 2.0, 9.0)
    assert gone_s == pytest.approx(6.1)
    assert never is None


def seen(number: int, n_tokens: int = 4, **changes: Any) -> Seen:
    """A stream that went well, unless changed."""
    found = Seen(
        Planned(number, 0.0, STREAMS, 10, 4, False),
        status=200,
        job=f"{number:032x}",
        token_s=[float(at) for at in range(n_tokens)],
        finish_reason="length",
        usage_prompt=1000,
        usage_answer=4,
        complete=True,
    )
    for name, value in changes.items():
        setattr(found, name, value)
    return found


def charge(job: str, amount: int = 10_120) -> dict[str, Any]:
    """Of 1,000 tokens of prompt and 4 of answer at the default tier's price, unless told."""
    entries = [
        {"account": "tenant:t:receivable", "amount_micro_usd": amount},
        {"account": "site:revenue", "amount_micro_usd": -amount},
    ]
    dashed = f"{job[:8]}-{job[8:12]}-{job[12:16]}-{job[16:20]}-{job[20:]}"
    return {"id": f"job:{dashed}", "entries": entries}


NOTHING = BackgroundEnd(0, 0, 0, ())
DONE = BackgroundEnd(2, 2, 30, ())
METERED = {"requests": 2, "output_tokens": 30}


def test_streams_and_background_work_that_went_well_balance() -> None:
    streams = [seen(1), seen(2), seen(3, status=429, job="", token_s=[], complete=False)]
    books = [charge(one.job) for one in streams[:2]]
    books += [charge("a" * 32, 5), charge("b" * 32, 6), {"id": "payment:1", "entries": []}]
    account = balance(streams, DONE, books, METERED)
    assert account.is_clean
    assert (account.accepted, account.completed, account.billed_once) == (4, 4, 4)
    assert account.refused == 1


@pytest.mark.parametrize(
    ("streams", "books", "said"),
    [
        ([seen(1)], [charge("c" * 32)], "charged 0"),
        ([seen(1)], [charge(seen(1).job, 7)], "charged 7"),
        ([seen(1, n_tokens=3)], [charge(seen(1).job)], "3 tokens came"),
        ([seen(1, complete=False, problem="cut")], [], "did not end"),
        ([seen(1, status=503, job="", complete=False, problem="away")], [], "request 1 failed"),
    ],
)
def test_what_was_lost_or_billed_wrongly_is_found(
    streams: list[Seen], books: list[dict[str, Any]], said: str
) -> None:
    account = balance(streams, NOTHING, books, {})
    assert not account.is_clean
    assert any(said in one for one in account.problems)


@pytest.mark.parametrize(
    ("ended", "n_charges", "metered"),
    [
        (DONE, 1, METERED),
        (DONE, 3, METERED),
        (DONE, 2, {"requests": 2, "output_tokens": 29}),
        (BackgroundEnd(2, 1, 15, ("response x: queued",)), 2, METERED),
        (BackgroundEnd(2, 1, 15, ()), 1, {"requests": 1, "output_tokens": 15}),
    ],
)
def test_background_work_not_done_once_or_not_billed_once_is_found(
    ended: BackgroundEnd, n_charges: int, metered: dict[str, int]
) -> None:
    books = [charge(f"{number:x}" * 32) for number in range(1, n_charges + 1)]
    assert not balance([], ended, books, metered).is_clean


def test_a_streams_lost_tokens() -> None:
    assert tokens_lost(seen(1)) == 0
    assert tokens_lost(seen(1, n_tokens=3)) == 1
    assert tokens_lost(seen(1, complete=False)) == 4
    assert tokens_lost(seen(1, status=429, complete=False)) == 0


@pytest.fixture
def process() -> Any:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield child
    child.kill()
    child.wait()
    assert child.stdin is not None
    child.stdin.close()


def test_the_victims_of_a_site_on_a_gpu(tmp_path: Path, process: subprocess.Popen[bytes]) -> None:
    given = {
        "AIRAN_STATE_DIR": str(tmp_path),
        "AIRAN_NODE__DRIVER": "nvml",
        "AIRAN_NODE__PARTITION": "green",
        "AIRAN_GPU__LAYER1": "gpu",
        "AIRAN_MODEL__VLLM__PYTHON": sys.executable,
        "AIRAN_MODEL__VLLM__PATH": str(tmp_path),
    }
    runtime = site_runtime.resolve(config.load(None, PORTS | given))
    runtime.save()
    written = SlotJournal(journal_file(runtime), 8)
    written.name_worker(process.pid)
    worker, engine, daemon = victims.victims(runtime, JournalReader(journal_file(runtime)))
    assert [one.name for one in (worker, engine, daemon)] == [
        "layer1-worker",
        "vllm-engine",
        "mps-daemon",
    ]
    assert (worker.pid(), engine.pid(), daemon.pid()) == (process.pid, 0, 0)
    ProcessRecord.of(process.pid).save(daemon_record(runtime))
    assert daemon.pid() == process.pid
    # The daemon is back when the slots run under it again.
    assert not daemon.is_back()
    with pytest.raises(UnavailableError, match="vllm-engine: there is no such process"):
        victims.kill(engine)
    assert victims.kill(worker) == process.pid
    assert process.wait(10) == -9
    with pytest.raises(UnavailableError, match="no such process"):
        victims.kill(Victim("x", "x", lambda: process.pid, False))


def test_vllms_engine_process_is_found_below_the_engines_service(tmp_path: Path) -> None:
    given = {
        "AIRAN_STATE_DIR": str(tmp_path),
        "AIRAN_MODEL__VLLM__PYTHON": sys.executable,
        "AIRAN_MODEL__VLLM__PATH": str(tmp_path),
    }
    runtime = site_runtime.resolve(config.load(None, PORTS | given))
    runtime.save()
    SlotJournal(journal_file(runtime), 8)
    # As vLLM: who watches over the server, the server, and the process that computes, which comes
    # and goes.
    code = (
        "import subprocess, sys\n"
        "def start(name):\n"
        "    command = [sys.executable, '-c', 'import sys; sys.stdin.read()', name]\n"
        "    return subprocess.Popen(command, stdin=subprocess.PIPE)\n"
        "others = [start('lifeline vllm'), start('vllm server')]\n"
        "for _ in sys.stdin:\n"
        "    computes = start('VLLM::EngineCore')\n"
        "    print(computes.pid, flush=True)\n"
        "    computes.wait()\n"
        "    print('ended', flush=True)\n"
    )
    service = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    )
    assert service.stdin is not None
    assert service.stdout is not None
    try:
        ProcessRecord.of(service.pid).save(runtime.run_dir / "services" / "engine.json")
        _, engine = victims.victims(runtime, JournalReader(journal_file(runtime)))
        service.stdin.write(b"start\n")
        computes = int(service.stdout.readline())
        assert victims.kill(engine) == computes
        assert service.stdout.readline() == b"ended\n"
        # The server that is left computes nothing: nobody has taken the place yet.
        assert engine.pid() == 0
        service.stdin.write(b"start\n")
        another = int(service.stdout.readline())
        assert another != computes
        assert victims.kill(engine) == another
    finally:
        # What it has started ends with its pipes.
        service.kill()
        service.wait(10)
        service.stdin.close()
        service.stdout.close()


def test_options_out_of_range_are_refused() -> None:
    for options in (
        {"load": LoadOptions(n_streams=0)},
        {"load": LoadOptions(answer_tokens=8)},
        {"quiet_s": 0.5},
        {"n_revocations": -1},
        {"kills": ("gateway",)},
    ):
        with pytest.raises(InvalidInputError):
            SiteOptions(**options)


def test_a_bench_that_ended_early_has_rows_and_says_so() -> None:
    early = SiteReport("here", "now", SiteOptions(), slots_s=3.0, error="the site ended")
    assert not early.is_ok
    assert [one.value for one in report.rows(early)] == [3.0, None]


def test_without_a_gpu_it_refuses_and_says_what_is_missing(tmp_path: Path) -> None:
    skip_where_there_is_a_gpu()
    ran = CliRunner().invoke(app, ["--state-dir", str(tmp_path), "bench", "site", "--gpu"])
    assert ran.exit_code != 0
    assert isinstance(ran.exception, ConfigError)
    assert "--gpu" in str(ran.exception)


@pytest.mark.e2e
@pytest.mark.timeout(300)
def test_a_site_on_the_cpu_comes_back_from_each_kill_and_its_books_agree(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    ran = CliRunner().invoke(
        app,
        [
            *("--json", "bench", "site", "--streams", "2", "--answer-tokens", "16"),
            *("--quiet", "4", "--revocations", "1", "--back", "60"),
            *("--report", str(file), "--logs", str(tmp_path / "logs")),
        ],
        # Cells that are busy, and a part of the GPU for the engine all the same.
        env={
            "AIRAN_CLOCK__START": "09:00",
            "AIRAN_POLICY__KIND": "static",
            "AIRAN_POLICY__RAN_SHARE": "0.4",
        },
    )
    assert ran.exit_code == 0, ran.output
    found = json.loads(file.read_text())
    assert found["error"] == ""
    steps = {one["name"]: one for one in found["steps"]}
    assert list(steps) == ["layer1-process", "engine", "revocations"]
    assert all(one["is_back"] for one in steps.values())
    # Layer 1 was away, and its slots are missing; the engine had nothing to do with it.
    killed = steps["layer1-process"]
    assert killed["slots"]["missing"] > 0
    assert 0.0 < killed["slots"]["first_in_time_s"] < 60.0
    assert steps["engine"]["engine_back_s"] > 0.0
    for name, service in (("layer1-process", "l1"), ("engine", "engine")):
        told = [(one["kind"], one["message"].split()[0]) for one in steps[name]["events"]]
        assert ("service.ended", service) in told
        assert ("service.restarted", service) in told
    assert steps["revocations"]["detail"]["revocations"] == 1
    account = found["account"]
    assert account["problems"] == []
    assert account["accepted"] == account["completed"] == account["billed_once"] > 20
    assert (account["streams_broken"], account["tokens_lost"]) == (0, 0)
    assert found["quiet"]["tokens_per_s"] > 0
    rows = {one["name"]: one["value"] for one in json.loads(ran.stdout)}
    assert rows["jobs_tokens_lost"] == 0
    assert rows["engine_all_back"] == 1
    assert (tmp_path / "logs" / "supervisor.jsonl").is_file()
