"""GPUs divided without MIG."""

from __future__ import annotations

import pytest

from airan.core.errors import InvalidInputError, NotFoundError
from orchestrator.mig import Placement
from orchestrator.options import maximal_options
from orchestrator.partition_kinds import KINDS, kind_of
from orchestrator.shares import ShareGeometry

GREEN = ShareGeometry("H100-SXM5-80GB", "green", 132, 81152)


def test_both_parts_together_are_the_whole_gpu() -> None:
    layouts = GREEN.maximal_layouts()
    assert len(layouts) == 17
    for layout in layouts:
        GREEN.check(layout)
        assert GREEN.sms(layout) == 132
        assert sum(GREEN.profile(one.profile).memory_mib for one in layout) in (81151, 81152)
    assert layouts[0] == (Placement(0, 8, "green.8"), Placement(8, 124, "green.124"))
    assert layouts[-1] == (Placement(0, 132, "green.132"),)


def test_an_undivided_gpu_belongs_to_one_side() -> None:
    whole = ShareGeometry("H100-SXM5-80GB", "whole", 132, 81152)
    assert whole.layouts() == ((), (Placement(0, 132, "whole.132"),))
    assert {option.ran_sms for option in maximal_options(whole)} == {0, 132}


def test_every_size_of_the_ran_is_an_option() -> None:
    sizes = {option.ran_sms for option in maximal_options(GREEN) if option.roles == ("ran", "ai")}
    assert sizes == set(range(8, 132, 8))


def test_parts_lie_at_either_end_in_steps() -> None:
    assert GREEN.placement("green.64", 0) == Placement(0, 64, "green.64")
    assert GREEN.placement("green.68", 64) == Placement(64, 68, "green.68")
    for name, start in (("green.60", 0), ("green.64", 32), ("green.60", 64)):
        with pytest.raises(InvalidInputError, match="cannot start"):
            GREEN.placement(name, start)
    for name in ("mps.64", "green.0", "green.133", "3g.40gb", "green.x"):
        with pytest.raises(NotFoundError):
            GREEN.profile(name)


def test_overlapping_parts_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="overlaps"):
        GREEN.check((GREEN.placement("green.72", 0), GREEN.placement("green.68", 64)))


def test_parts_are_placed_beside_the_others() -> None:
    ran = GREEN.placement("green.64", 0)
    assert GREEN.place(["green.68"], (ran,)) == (Placement(64, 68, "green.68"),)
    assert GREEN.place(["green.76"], (ran,)) is None
    assert GREEN.place(["green.64", "green.68"]) == (ran, Placement(64, 68, "green.68"))


@pytest.mark.parametrize(("kind", "step"), [("mig", 8), ("green", 0), ("mps", 133)])
def test_a_wrong_geometry_is_refused(kind: str, step: int) -> None:
    with pytest.raises(InvalidInputError):
        ShareGeometry("H100-SXM5-80GB", kind, 132, 81152, step)


def test_every_kind_of_partition_says_what_it_isolates_and_where_its_time_comes_from() -> None:
    assert {kind.name for kind in KINDS} == {"whole", "mig", "mps", "green"}
    for kind in KINDS:
        assert kind_of(kind.name) is kind
        assert kind.change_source.split(":")[0] in ("measured", "stated", "assumed")
    with pytest.raises(NotFoundError, match="the kinds are"):
        kind_of("vgpu")
