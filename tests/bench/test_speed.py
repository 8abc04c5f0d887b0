from __future__ import annotations

import json
import os
from dataclasses import fields

import pytest

from airan.bench import slots
from airan.bench.rows import Row, hardware, row
from airan.bench.timing import OURS_PER_PEER, interleaved, on_cores
from airan.core.errors import InvalidInputError

KEYS = [field.name for field in fields(Row)]


def test_rows_have_the_keys_that_others_read(airan) -> None:
    ran = airan(
        "bench",
        "phy",
        "--no-sionna",
        "--rounds",
        1,
        "--row",
        "ldpc_decode",
        "--row",
        "phy_import",
        "--json",
    )
    assert ran.code == 0
    decode, imported = json.loads(ran.out)
    assert list(decode) == KEYS
    assert KEYS == ["name", "value", "unit", "peer", "peer_value", "ratio", "hardware"]
    assert (decode["name"], decode["unit"], decode["peer"]) == ("ldpc_decode", "Mb/s", None)
    assert decode["value"] > 1.0
    assert "median of 3 runs" in decode["hardware"]
    assert imported["value"] < 2.0


def test_the_whole_slot_is_received_and_sent(airan) -> None:
    ran = airan(
        "bench",
        "phy",
        "--no-sionna",
        "--rounds",
        1,
        "--row",
        "pusch_receive",
        "--row",
        "pdsch_transmit",
        "--json",
    )
    received, sent = json.loads(ran.out)
    assert (received["unit"], sent["unit"]) == ("ms", "ms")
    assert 1.0 < sent["value"] < received["value"] < 10_000.0


def test_memory_is_that_of_a_fresh_process(airan) -> None:
    [memory] = json.loads(
        airan("bench", "phy", "--no-sionna", "--row", "pusch_memory", "--json").out
    )
    assert memory["unit"] == "MiB"
    # The received slot alone is 1.4 MiB; the project's limit is 500 MB.
    assert 10.0 < memory["value"] < 477.0


def test_a_table_names_the_machine(airan) -> None:
    ran = airan("bench", "phy", "--no-sionna", "--rounds", 1, "--row", "phy_import")
    assert "phy_import" in ran.out
    assert f"{len(os.sched_getaffinity(0))} core" in ran.out


def test_without_sionna_the_peers_columns_are_empty_and_the_way_to_get_it_is_told(
    airan, without_sionna
) -> None:
    ran = airan("bench", "phy", "--rounds", 1, "--row", "phy_import", "--json")
    assert ran.code == 0
    assert "make setup-oracle" in ran.err
    [imported] = json.loads(ran.out)
    assert (imported["peer"], imported["peer_value"], imported["ratio"]) == (None, None, None)


def test_sionna_asked_for_and_absent_is_an_error_of_its_own(airan, without_sionna) -> None:
    ran = airan("bench", "phy", "--sionna", "--row", "phy_import")
    assert ran.code == 4
    assert "Sionna is not installed" in ran.err
    assert "make setup-oracle" in ran.err


@pytest.mark.parametrize(
    ("arguments", "field"),
    [(("--row", "nothing"), "row"), (("--cores", 1000, "--row", "phy_import"), "cores")],
)
def test_wrong_options_are_named(airan, arguments, field) -> None:
    ran = airan("bench", "phy", "--no-sionna", *arguments)
    assert ran.code == 1
    assert field in ran.err


def test_every_iteration_of_the_timed_code_blocks_is_run() -> None:
    found = slots.code_blocks(8424, 0.8, 4).decode(10)
    assert (found.iterations == 10).all()


@pytest.mark.parametrize(
    ("unit", "ours", "peers", "ratio"),
    [("Mb/s", 30.0, 3.0, 10.0), ("ms", 10.0, 50.0, 5.0), ("dB", 4.0, 7.0, 1.995)],
)
def test_a_ratio_above_1_is_in_our_favour(unit, ours, peers, ratio) -> None:
    assert row("x", ours, unit, hardware(), ("peer", peers)).ratio == pytest.approx(ratio, rel=1e-3)


def test_runs_are_interleaved_and_the_first_after_a_change_does_not_count() -> None:
    order: list[str] = []
    ours, peer = interleaved(lambda: order.append("o"), lambda: order.append("p"), rounds=2)
    assert "".join(order) == ("o" + "o" * OURS_PER_PEER + "pp") * 2
    assert peer is not None
    assert (ours.n_runs, peer.n_runs) == (2 * OURS_PER_PEER, 2)


def test_no_rounds_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="rounds"):
        interleaved(lambda: None, None, rounds=0)


def test_cores_are_given_back() -> None:
    had = os.sched_getaffinity(0)
    with on_cores(1) as n_cores:
        assert n_cores == len(os.sched_getaffinity(0)) == 1
    assert os.sched_getaffinity(0) == had
