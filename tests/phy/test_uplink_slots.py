"""Several UEs in one uplink slot, side by side and on top of each other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from airan.core.errors import InvalidInputError
from phy import (
    PuschConfig,
    PuschSlotReceiver,
    PuschTransmitter,
)


@pytest.fixture
def received_together(random_tb, noise, faded):
    def receive(configs, rng) -> list[bool]:
        """Whether each UE's block comes back when all send in one slot at 30 dB."""
        tbs = [random_tb(config, rng) for config in configs]
        total = sum(
            faded(PuschTransmitter(config)(tb), config.n_rx, rng)
            for config, tb in zip(configs, tbs, strict=True)
        )
        total = total + 0.03 * noise(rng, *total.shape)
        return [
            result.crc_ok and np.array_equal(result.tb, tb)
            for result, tb in zip(PuschSlotReceiver(configs)(total), tbs, strict=True)
        ]

    return receive


def test_ues_side_by_side_in_one_slot_all_come_back(rng, random_tb, noise, faded) -> None:
    carrier = {"carrier_start_prb": 0, "carrier_n_prb": 60, "n_rx": 4}
    configs = [
        PuschConfig(n_prb=10, start_prb=0, rnti=1, mcs_index=10, **carrier),
        PuschConfig(n_prb=30, start_prb=10, rnti=2, mcs_index=5, n_layers=2, **carrier),
        PuschConfig(n_prb=5, start_prb=50, rnti=3, mcs_index=0, start_symbol=0, **carrier),
    ]
    tbs = [random_tb(config, rng) for config in configs]
    total = sum(
        faded(PuschTransmitter(config)(tb), 4, rng) for config, tb in zip(configs, tbs, strict=True)
    )
    results = PuschSlotReceiver(configs)(total + 0.05 * noise(rng, *total.shape))
    for result, tb in zip(results, tbs, strict=True):
        assert result.crc_ok
        assert np.array_equal(result.tb, tb)


@pytest.mark.parametrize("ports", [((0,), (1,)), ((0,), (2,)), ((0, 1), (2, 3))])
def test_ues_on_the_same_prbs_are_separated_together(ports, rng, random_tb, noise, faded) -> None:
    configs = [
        PuschConfig(
            n_prb=24,
            rnti=10 + user,
            mcs_index=8 + 2 * user,
            n_layers=len(own),
            dmrs_ports=own,
            n_rx=8,
            n_id=3,
        )
        for user, own in enumerate(ports)
    ]
    tbs = [random_tb(config, rng) for config in configs]
    total = sum(
        faded(PuschTransmitter(config)(tb), 8, rng) for config, tb in zip(configs, tbs, strict=True)
    )
    total = total + 0.1 * noise(rng, *total.shape)
    for result, tb in zip(PuschSlotReceiver(configs)(total), tbs, strict=True):
        assert result.crc_ok
        assert np.array_equal(result.tb, tb)


@pytest.mark.parametrize("port", [1, 2])
def test_ues_with_transform_precoding_are_separated_together(port, rng, received_together) -> None:
    one = PuschConfig(n_prb=24, n_rx=4, transform_precoding=True, pi2_bpsk=True, rnti=5)
    other = replace(one, rnti=6, mcs_index=0, dmrs_ports=(port,))
    assert received_together([one, other], rng) == [True, True]


def test_the_same_prbs_are_the_same_however_they_are_written(rng, received_together) -> None:
    carrier = {"n_prb": 8, "n_rx": 4, "carrier_start_prb": 0, "carrier_n_prb": 20}
    one = PuschConfig(start_prb=3, **carrier)
    other = PuschConfig(prbs=tuple(range(3, 11)), rnti=2, dmrs_ports=(1,), **carrier)
    assert received_together([one, other], rng) == [True, True]
    with pytest.raises(InvalidInputError, match="dmrs_ports"):
        PuschSlotReceiver([one, replace(other, dmrs_ports=(0,))])


def test_ues_of_a_slot_must_fit_together() -> None:
    one = PuschConfig(n_prb=4)
    with pytest.raises(InvalidInputError, match="dmrs_ports"):
        PuschSlotReceiver([one, replace(one, rnti=2)])
    with pytest.raises(InvalidInputError, match="configs"):
        PuschSlotReceiver([one, replace(one, start_prb=4, dmrs_ports=(1,))])
    with pytest.raises(InvalidInputError, match="configs"):
        PuschSlotReceiver([])
    receive = PuschSlotReceiver([one])
    with pytest.raises(InvalidInputError, match="soft_buffers"):
        receive(np.zeros((2, 14, 48), np.complex64), soft_buffers=[])
