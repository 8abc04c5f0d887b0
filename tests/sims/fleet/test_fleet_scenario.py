"""Bad scenarios name file, line and field."""

from __future__ import annotations

from pathlib import Path

import pytest

from airan.core.errors import ConfigError, InvalidInputError, NotFoundError
from sims.fleet import traffic
from sims.fleet.scenario import load

GOOD = """\
description: a test
cells: 10
days: 1
llm:
  tiers:
    - {tier: flex, requests_per_s: 5}
faults:
  gpu_repair_h: 2
policies:
  demand:
    kind: demand
    headroom: 0.05
"""


def _load(tmp_path: Path, old: str = "", new: str = "") -> Path:
    path = tmp_path / "mine.yaml"
    assert old in GOOD
    path.write_text(GOOD.replace(old, new, 1))
    return path


def test_a_good_scenario_is_named_after_its_file(tmp_path: Path):
    found = load(str(_load(tmp_path)))
    assert (found.name, found.cells, found.n_sites) == ("mine", 10, 1)


@pytest.mark.parametrize(
    ("old", "new", "line", "field"),
    [
        ("cells: 10", "cells: -10", 2, "cells"),
        ("days: 1", "days: a week", 3, "days"),
        ("requests_per_s: 5", "requests_per_s: -5", 6, "llm.tiers.0.requests_per_s"),
        ("tier: flex", "tier: gold", 6, "llm.tiers.0.tier"),
        ("gpu_repair_h: 2", "gpu_repair_minutes: 2", 8, "faults.gpu_repair_minutes"),
        ("headroom: 0.05", "headroom: 1.5", 12, "policies.demand.headroom"),
        ("kind: demand", "kind: clever", 11, "policies.demand.kind"),
        ("kind: demand", "kind: time_of_day", 10, "policies.demand.calendar"),
        ("headroom: 0.05", "min_ran_share: 0.9\n    min_ai_share: 0.9", 13, "min_ai_share"),
        ("cells: 10", "cells: 10\ngpu: RTX-9090", 3, "gpu"),
        ("cells: 10", "cells: 10\nstep_s: 70", 1, "step_s"),
        ("    kind: demand\n    headroom: 0.05\n", "", 10, "policies.demand"),
    ],
)
def test_a_bad_field_is_named_with_its_line(tmp_path: Path, old: str, new: str, line: int, field):
    path = _load(tmp_path, old, new)
    with pytest.raises(ConfigError) as caught:
        load(str(path))
    assert f"{path} line {line}, field" in caught.value.message
    assert field in caught.value.message


@pytest.mark.parametrize("text", ["[1, 2]", "", "a: [", "policies: {}"])
def test_what_is_no_scenario_is_refused(tmp_path: Path, text: str):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"mine\.yaml"):
        load(str(path))


def test_an_unknown_scenario_is_refused_with_those_shipped():
    with pytest.raises(NotFoundError, match="site-day"):
        load("nowhere")


def test_what_does_not_fit_into_memory_is_refused_before_it_is_tried():
    with pytest.raises(InvalidInputError, match="longer step_s"):
        traffic.ran_demand(load("tokyo-600-week", {"days": 365}))
