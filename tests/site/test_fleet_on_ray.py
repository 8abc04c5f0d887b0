"""A simulation on Ray: one session on this machine."""

from __future__ import annotations

import json
import socket

import pytest

from airan.core.errors import InvalidInputError, UnavailableError
from airan.site.fleet_on_ray import on_ray
from sims.fleet import runner
from sims.fleet.scenario import load

SCENARIO = {"cells": 15, "cells_per_site": 5, "step_s": 900, "warmup_days": 3}


@pytest.mark.e2e
def test_ray_gives_the_same_bytes_as_this_process():
    scenario = load("site-day", SCENARIO)
    here = runner.run(scenario, ["demand", "ran-only"], runner.in_processes(1))
    there = runner.run(scenario, ["demand", "ran-only"], on_ray("local"))
    assert json.dumps(there) == json.dumps(here)


def test_a_cluster_that_is_not_there_is_named():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # Nobody listens there.
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        with pytest.raises(UnavailableError, match=address):
            runner.run(load("site-day", SCENARIO), ["demand"], on_ray(address))


def test_what_is_no_address_is_refused():
    with pytest.raises(InvalidInputError, match="HOST:PORT"):
        on_ray("somewhere")
