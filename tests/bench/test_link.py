from __future__ import annotations

import csv
import json

import pytest

from airan.bench.link import LinkConfig, LinkPoint, simulate
from airan.cli.bench_link import snr_points
from airan.core.errors import InvalidInputError
from phy import PuschConfig

SMALL = PuschConfig(n_prb=6, mcs_index=10)


@pytest.fixture
def run_link(airan, tmp_path):
    """Runs a small `airan bench link`: (arguments) -> (Ran, CSV rows)."""

    def run_link(*arguments: object):
        ran = airan(
            *("bench", "link", "--no-sionna", "--prbs", 6, "--mcs", 10, "--slots", 16),
            *("--channel", "AWGN", "--channel", "TDL-C", "--snr", "-6:9:5"),
            *("--csv", tmp_path / "x" / "points.csv", "--png", tmp_path / "x" / "curves.png"),
            *arguments,
        )
        with (tmp_path / "x" / "points.csv").open(encoding="utf-8") as file:
            return ran, list(csv.DictReader(file))

    return run_link


def test_points_go_to_a_csv_and_curves_to_a_picture(run_link, tmp_path) -> None:
    ran, points = run_link()
    assert ran.code == 0
    assert {point["channel"] for point in points} == {"AWGN", "TDL-C"}
    assert {point["receiver"] for point in points} == {"airan"}
    awgn = [point for point in points if point["channel"] == "AWGN"]
    assert [float(point["snr_db"]) for point in awgn] == [-6.0, -1.0, 4.0, 9.0]
    assert float(awgn[0]["bler"]) == 1.0
    assert float(awgn[-1]["bler"]) == 0.0
    slots_per_s = 2000
    peak_mbps = SMALL.tb_size_bits * slots_per_s / 1e6
    assert float(awgn[-1]["throughput_mbps"]) == pytest.approx(peak_mbps)
    for point in points:
        assert float(point["bler_low"]) <= float(point["bler"]) <= float(point["bler_high"])
    assert (tmp_path / "x" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_json_gives_a_row_for_each_channel(run_link) -> None:
    ran, _ = run_link("--json")
    rows = json.loads(ran.out)
    assert [row["name"] for row in rows] == ["bler10 AWGN", "bler10 TDL-C"]
    assert -1.0 < rows[0]["value"] < 4.0
    assert rows[0]["unit"] == "dB"


def test_the_json_flag_before_the_command_does_the_same(airan, tmp_path) -> None:
    ran = airan(
        *("--json", "bench", "link", "--no-sionna", "--prbs", 6, "--mcs", 10, "--slots", 2),
        *("--channel", "AWGN", "--snr", 5),
        *("--csv", tmp_path / "points.csv", "--png", tmp_path / "curves.png"),
    )
    assert [row["name"] for row in json.loads(ran.out)] == ["bler10 AWGN"]


def test_one_seed_gives_one_result_and_another_another(run_link) -> None:
    _, once = run_link("--seed", 5)
    _, again = run_link("--seed", 5)
    _, other = run_link("--seed", 6)
    assert once == again
    assert once != other


def test_a_channels_curve_does_not_depend_on_which_others_are_simulated() -> None:
    def fading(*channels: str) -> list[LinkPoint]:
        config = LinkConfig(SMALL, channels, (2.0, 5.0), n_slots=12, sionna=False)
        return [point for point in simulate(config) if point.channel == "TDL-C"]

    assert fading("TDL-C") == fading("AWGN", "TDL-A", "TDL-C")


def test_a_point_ends_with_enough_errors() -> None:
    config = LinkConfig(SMALL, ("AWGN",), (-20.0,), n_slots=200, max_errors=10, sionna=False)
    told: list[int] = []
    [point] = simulate(config, told.append)
    assert 10 <= point.n_errors < 30
    assert sum(told) == 200


def test_a_curve_ends_after_two_points_without_an_error() -> None:
    config = LinkConfig(SMALL, ("AWGN",), tuple(range(10, 40, 5)), n_slots=8, sionna=False)
    assert [point.snr_db for point in simulate(config)] == [10, 15]


def test_snr_counts_all_layers_together() -> None:
    # Two layers share the power that one layer would have; codebook weights already do so.
    for pusch in (
        PuschConfig(n_prb=6, n_layers=2, n_rx=2),
        PuschConfig(n_prb=6, n_layers=2, n_rx=2, n_ports=2, tpmi=1),
    ):
        radio = LinkConfig(pusch, sionna=False).radio("TDL-A", 10.0)
        total = 2.0 if pusch.n_ports is None else 1.0
        assert total / radio.noise_var == pytest.approx(10.0, rel=1e-4)
        assert radio.n_tx == 2


@pytest.mark.parametrize(
    ("text", "points"),
    [("3", (3.0,)), ("0:2:1", (0.0, 1.0, 2.0)), ("-1:0:0.25", (-1.0, -0.75, -0.5, -0.25, 0.0))],
)
def test_snr_ranges_include_both_ends(text, points) -> None:
    assert snr_points(text) == points


@pytest.mark.parametrize("text", ["", "a", "1:2", "1:2:0", "2:1:1", "0:nan:1", "0:1e9:1"])
def test_wrong_snr_ranges_are_refused(text) -> None:
    with pytest.raises(InvalidInputError, match="snr"):
        snr_points(text)


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"channels": ("TDL-Z",)}, "channel"),
        ({"snr_db": ()}, "snr"),
        ({"n_slots": 0}, "n_slots"),
        ({"max_errors": 0}, "max_errors"),
        ({"seed": -1}, "seed"),
    ],
)
def test_wrong_simulations_are_named(changed, field) -> None:
    with pytest.raises(InvalidInputError) as caught:
        LinkConfig(SMALL, **changed)
    assert caught.value.field == field


def test_a_folder_that_cannot_be_written_is_told(airan, tmp_path) -> None:
    (tmp_path / "file").write_text("in the way")
    ran = airan(
        *("bench", "link", "--no-sionna", "--prbs", 6, "--slots", 1, "--snr", 20),
        *("--channel", "AWGN", "--csv", tmp_path / "file" / "x.csv"),
    )
    assert ran.code == 1
    assert "cannot be written" in ran.err


def test_comparing_without_sionna_goes_on_alone(run_link, airan, without_sionna, tmp_path) -> None:
    ran = airan(
        *("bench", "link", "--prbs", 6, "--slots", 1, "--snr", 20, "--channel", "AWGN"),
        *("--csv", tmp_path / "x.csv", "--png", tmp_path / "x.png"),
    )
    assert ran.code == 0
    assert "make setup-oracle" in ran.err
