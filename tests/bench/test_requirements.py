from __future__ import annotations

import json
from dataclasses import replace

import pytest

from airan.bench import requirements
from airan.bench.requirements import RequirementOptions, measure, select
from airan.core.errors import InvalidInputError


def test_the_rows_are_the_specs() -> None:
    # TS 38.104 V16.4.0, first rows of tables 8.2.1.2-3 and 8.2.1.2-7.
    rows = {(row.frc, row.n_rx): row.snr_db for row in requirements.requirements()}
    assert len(rows) == 30
    assert rows["G-FR1-A3-10", 2] == -2.1
    assert rows["G-FR1-A5-14", 4] == 9.0
    for letter, order, rate, profile in (
        ("A3", 2, 193, "TDLB100"),
        ("A4", 4, 658, "TDLC300"),
        ("A5", 6, 567, "TDLA30"),
    ):
        for row in select(n_rx=(2, 4, 8), frcs=(f"G-FR1-{letter}-",)):
            assert row.pusch.mcs.modulation_order == order
            assert row.pusch.mcs.code_rate == rate / 1024
            assert row.profile == profile
            assert row.pusch.dmrs_symbols == (2, 11)
            assert row.pusch.n_cdm_groups_without_data == 2


def test_more_antennas_and_fewer_layers_need_less_snr() -> None:
    for row in requirements.requirements():
        for other in requirements.requirements():
            alike = (row.table, row.profile) == (other.table, other.profile)
            if alike and row.n_layers == other.n_layers and row.n_rx > other.n_rx:
                assert row.snr_db < other.snr_db
            if alike and row.n_rx == other.n_rx and row.n_layers < other.n_layers:
                assert row.snr_db < other.snr_db


def test_a_requirement_is_met_with_a_margin() -> None:
    [needed] = select((20,), (4,), ("G-FR1-A3-10",))
    [result] = measure((needed,), RequirementOptions(n_blocks=12))
    assert result.passed
    assert result.throughput >= 0.7
    assert result.snr_db is not None
    assert result.margin_db == pytest.approx(needed.snr_db - result.snr_db)
    assert 1.0 < result.margin_db < 6.0
    assert result.row.ratio is not None
    assert result.row.ratio > 1.0


def test_a_requirement_that_nobody_meets_is_failed_by_how_much() -> None:
    [needed] = select((20,), (4,), ("G-FR1-A3-10",))
    [result] = measure((replace(needed, snr_db=-13.0),), RequirementOptions(n_blocks=6))
    assert not result.passed
    assert result.margin_db is not None
    assert result.margin_db < -2.0


def test_retransmissions_are_combined() -> None:
    # At half the SNR that a block needs, no transmission is received alone, but two together are.
    [needed] = select((20,), (4,), ("G-FR1-A4-10",))
    still = replace(needed, doppler_hz=0.0, profile="AWGN", snr_db=1.0)
    throughput = requirements._throughput(still, 1.0, RequirementOptions(n_blocks=4))
    assert throughput == 0.5


def test_the_command_ends_with_1_if_a_requirement_is_missed(airan, monkeypatch) -> None:
    [needed] = select((20,), (4,), ("G-FR1-A3-10",))
    arguments = ("bench", "requirements", "--rx", 4, "--frc", "G-FR1-A3-10", "--blocks", 4)
    met = airan(*arguments)
    assert met.code == 0
    assert "pass" in met.out
    monkeypatch.setattr(requirements, "requirements", lambda: (replace(needed, snr_db=-14.0),))
    missed = airan(*arguments)
    assert missed.code == 1
    assert "FAIL" in missed.out


def test_json_names_the_requirement_as_the_peer(airan) -> None:
    ran = airan("bench", "requirements", "--rx", 4, "--frc", "G-FR1-A3-10", "--blocks", 4, "--json")
    [row] = json.loads(ran.out)
    assert row["name"] == "G-FR1-A3-10 4rx TDLB100-400 20MHz"
    assert (row["peer"], row["peer_value"]) == ("TS 38.104 V16.4.0", -5.5)


def test_what_does_not_exist_is_refused(airan) -> None:
    assert airan("bench", "requirements", "--rx", 3).code == 1
    with pytest.raises(InvalidInputError, match="n_blocks"):
        RequirementOptions(n_blocks=0)
    with pytest.raises(InvalidInputError, match="round_trip_ms"):
        RequirementOptions(round_trip_ms=float("nan"))
