"""MIG geometry against the published counts, a real board's reading, and a naive packer."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airan.core.errors import InvalidInputError, NotFoundError
from orchestrator.mig import MigGeometry, Placement
from orchestrator.mig_table import ProfileReading, product_of

BOARD = Path(__file__).parent / "data" / "nvml_h100_sxm_80gb.json"
GH200 = MigGeometry.load("GH200-96GB")
PLAIN = ("1g", "2g", "3g", "4g", "7g")


@pytest.mark.parametrize("gpu", MigGeometry.known())
def test_every_gpu_has_the_published_number_of_layouts(gpu: str) -> None:
    geometry = MigGeometry.load(gpu)
    layouts = geometry.layouts()
    multisets = {tuple(sorted(one.profile for one in layout)) for layout in layouts}
    assert (len(layouts), len(multisets), len(geometry.maximal_layouts())) == (298, 38, 19)
    assert len(set(layouts)) == 298
    assert () in layouts


@pytest.mark.parametrize("gpu", MigGeometry.known())
def test_every_layout_is_legal(gpu: str) -> None:
    geometry = MigGeometry.load(gpu)
    for layout in geometry.layouts():
        geometry.check(layout)
        slices = sum(geometry.profile(one.profile).compute_slices for one in layout)
        assert slices <= 7


def test_layouts_are_those_a_naive_enumeration_finds() -> None:
    places = [
        Placement(start, profile.size, profile.name)
        for profile in GH200.profiles
        if profile.is_plain
        for start in profile.starts
    ]
    found = set()
    for count in range(8):
        for some in itertools.combinations(sorted(places), count):
            if not any(a.overlaps(b) for a, b in itertools.combinations(some, 2)):
                found.add(some)
    assert found == set(GH200.layouts())


def test_the_h100_table_agrees_with_a_board_read_through_nvml() -> None:
    geometry = MigGeometry.load("H100-SXM5-80GB")
    for row in json.loads(BOARD.read_text())["gpu_instance_profiles"]:
        profile = geometry.profile(row["name"].removeprefix("MIG "))
        assert profile.profile_id == row["id"]
        assert profile.compute_slices == row["slice_count"]
        assert profile.max_count == row["instance_count"]
        assert profile.sm_count == row["multiprocessor_count"]
        assert profile.starts == tuple(place["start"] for place in row["placements"])
        assert {profile.size} == {place["size"] for place in row["placements"]}
        assert profile.memory_mib == row["memory_size_mb"]


def test_4g_and_3g_leave_eight_sms_of_a_gh200_stranded() -> None:
    layout = GH200.place(["4g.48gb", "3g.48gb"])
    assert layout == (Placement(0, 4, "4g.48gb"), Placement(4, 4, "3g.48gb"))
    assert GH200.sms(layout) == 124
    assert GH200.divided_sm_count == 124
    assert GH200.sm_count == 132


def test_values_nobody_published_are_labelled_assumed() -> None:
    assert MigGeometry.load("B200-180GB").profile("3g").assumed == ("sm_count", "memory_mib")
    assert MigGeometry.load("GH200-144GB").profile("7g").assumed == ("memory_mib",)
    assert all(not profile.assumed for profile in GH200.profiles)


def test_a_small_instance_is_placed_where_the_largest_profiles_still_fit() -> None:
    assert GH200.place(["1g"]) == (Placement(6, 1, "1g.12gb"),)
    assert GH200.place(["2g", "1g"]) == (Placement(4, 2, "2g.24gb"), Placement(6, 1, "1g.12gb"))


def test_what_does_not_fit_is_none() -> None:
    taken = (Placement(0, 4, "4g.48gb"),)
    assert GH200.place(["4g"], taken) is None
    assert GH200.place(["3g", "1g"], taken) is None
    assert GH200.place(["1g+me", "1g+me"]) is None
    assert GH200.place([], taken) == ()


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(NotFoundError, match="GH200-96GB"):
        MigGeometry.load("GTX-1080")
    with pytest.raises(NotFoundError, match=r"1g\.12gb"):
        GH200.profile("9g")
    with pytest.raises(InvalidInputError, match="may start at 0, 4"):
        GH200.placement("3g", 2)
    with pytest.raises(InvalidInputError, match="overlaps"):
        GH200.place(["1g"], (Placement(0, 4, "3g.48gb"), Placement(2, 2, "2g.24gb")))


@given(
    wanted=st.lists(st.sampled_from(PLAIN), max_size=5),
    occupied=st.sampled_from(GH200.layouts()),
)
def test_place_finds_a_legal_way_exactly_when_there_is_one(
    wanted: list[str], occupied: tuple[Placement, ...]
) -> None:
    names = sorted(GH200.profile(name).name for name in wanted)
    possible = any(
        set(occupied) <= set(layout)
        and sorted(one.profile for one in set(layout) - set(occupied)) == names
        for layout in GH200.layouts()
    )
    found = GH200.place(wanted, occupied)
    assert (found is not None) == possible
    if found is not None:
        GH200.check((*occupied, *found))
        assert [one.profile for one in found] == [GH200.profile(name).name for name in wanted]


@pytest.mark.parametrize(
    ("name", "memory_mib", "product"),
    [
        ("NVIDIA A100-SXM4-80GB", 81_920, "A100-SXM4-80GB"),
        ("NVIDIA H100 80GB HBM3", 81_559, "H100-SXM5-80GB"),
        ("NVIDIA H200", 143_771, "H200-141GB"),
        ("NVIDIA GH200 480GB", 97_871, "GH200-96GB"),
        ("NVIDIA GH200 144G HBM3e", 147_456, "GH200-144GB"),
        ("NVIDIA B200", 183_359, "B200-180GB"),
        ("NVIDIA GB200", 189_471, "GB200-186GB"),
    ],
)
def test_a_products_name_in_nvml_leads_to_its_table(
    name: str, memory_mib: int, product: str
) -> None:
    assert product_of(name, memory_mib) == product


@pytest.mark.parametrize(
    ("name", "memory_mib"),
    [
        ("NVIDIA L4", 23_034),
        ("NVIDIA H100 PCIe", 81_559),
        ("NVIDIA H100 NVL", 95_830),
        ("NVIDIA H100 80GB HBM3", 500),
        ("NVIDIA A100-SXM4-40GB", 40_960),
        ("NVIDIA H20", 97_871),
    ],
)
def test_an_unknown_product_is_named(name: str, memory_mib: int) -> None:
    with pytest.raises(NotFoundError, match=name):
        product_of(name, memory_mib)


def readings(geometry: MigGeometry) -> list[ProfileReading]:
    """What a driver would report of a board that the table describes."""
    return [
        ProfileReading(
            name=f"MIG {one.name}",
            profile_id=one.profile_id,
            compute_slices=one.compute_slices,
            instance_count=one.max_count,
            sm_count=one.sm_count,
            memory_mib=one.memory_mib,
            placements=tuple((start, one.size) for start in one.starts),
        )
        for one in geometry.profiles
    ]


@pytest.mark.parametrize("product", MigGeometry.known())
def test_a_board_that_reads_as_its_table_has_the_tables_geometry(product: str) -> None:
    table = MigGeometry.load(product)
    read = MigGeometry.from_readings(product, readings(table))
    assert read.layouts() == table.layouts()
    unlabelled = tuple(replace(one, assumed=()) for one in table.profiles)
    assert read.profiles == unlabelled, "what a driver reads is not assumed"


def test_what_a_driver_reads_goes_before_the_table() -> None:
    rows = readings(MigGeometry.load("B200-180GB"))
    rows = [replace(row, sm_count=70) if "3g" in row.name else row for row in rows]
    profile = MigGeometry.from_readings("B200-180GB", rows).profile("3g")
    assert (profile.sm_count, profile.assumed) == (70, ())


def test_profiles_of_no_known_family_are_left_out_and_none_at_all_is_refused() -> None:
    rows = readings(GH200)
    odd = replace(rows[0], name="MIG 1g.12gb+gfx", profile_id=77)
    assert MigGeometry.from_readings("GH200-96GB", [*rows, odd]).profiles == GH200.profiles
    with pytest.raises(NotFoundError, match="no MIG profiles"):
        MigGeometry.from_readings("GH200-96GB", [odd])
