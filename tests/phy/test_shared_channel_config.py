"""What configurations and options are refused, and which field is named."""

from __future__ import annotations

import numpy as np
import pytest

from airan.core.errors import InvalidInputError
from phy import (
    DelayWindow,
    PdschConfig,
    PuschConfig,
    PuschReceiver,
    ReceiverOptions,
)


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"prbs": (1, 2)}, "prbs"),
        ({"prbs": 1}, "prbs"),
        ({"prbs": (0, 1, 2, 3.5)}, "prbs"),
        ({"dmrs_ports": 0}, "dmrs_ports"),
        ({"dmrs_ports": (0.0,)}, "dmrs_ports"),
        ({"mcs_table": [1]}, "mcs_table"),
        ({"mapping_type": "B", "n_symbols": 1}, "n_symbols"),
        ({"mapping_type": "B", "n_symbols": 2, "n_overhead_re": 12}, "n_overhead_re"),
        ({"prbs": (1, 2, 2, 4)}, "prbs"),
        ({"prbs": (0, 1, 2, 280)}, "prbs"),
        ({"carrier_start_prb": 1}, "carrier_start_prb"),
        ({"carrier_n_prb": 3}, "carrier_n_prb"),
        ({"dmrs_type": 3}, "dmrs_type"),
        ({"dmrs_length": 0}, "dmrs_length"),
        ({"dmrs_ports": (0, 0), "n_layers": 2}, "dmrs_ports"),
        ({"dmrs_ports": (4,)}, "dmrs_ports"),
        ({"n_layers": 4, "n_cdm_groups_without_data": 1}, "dmrs_ports"),
        ({"n_overhead_re": 5}, "n_overhead_re"),
        ({"n_layers": 3, "n_ports": 2}, "n_layers"),
        ({"n_ports": 3}, "n_ports"),
        ({"tpmi": 1}, "tpmi"),
        ({"tpmi": 28, "n_ports": 4}, "tpmi"),
        ({"transform_precoding": True, "n_layers": 2}, "n_layers"),
        ({"transform_precoding": True, "n_prb": 7}, "n_prb"),
        ({"transform_precoding": True, "prbs": (0, 1, 2, 4)}, "prbs"),
        ({"transform_precoding": True, "dmrs_type": 2}, "dmrs_type"),
        ({"transform_precoding": True, "n_id": 1008}, "n_id"),
        ({"transform_precoding": True, "dmrs_n_id": 1008}, "dmrs_n_id"),
        ({"pi2_bpsk": True}, "pi2_bpsk"),
    ],
)
def test_wrong_configurations_are_named(changed, field) -> None:
    with pytest.raises(InvalidInputError) as caught:
        PuschConfig(**({"n_prb": 4} | changed))
    assert caught.value.field == field


def test_prbs_and_ports_may_be_any_sequence() -> None:
    plain = PuschConfig(n_prb=4, prbs=(0, 1, 2, 5), n_layers=2, dmrs_ports=(0, 2))
    other = PuschConfig(n_prb=4, prbs=np.array([0, 1, 2, 5]), n_layers=2, dmrs_ports=[0, 2])
    assert hash(other) == hash(plain)
    assert other == plain


def test_wrong_options_and_weights_are_named() -> None:
    for make, field in (
        (lambda: ReceiverOptions(n_iterations=0), "n_iterations"),
        (lambda: ReceiverOptions(equaliser="best"), "equaliser"),
        (lambda: ReceiverOptions(estimator="ls", equaliser="mmse_irc"), "equaliser"),
        (lambda: ReceiverOptions(estimator="none"), "estimator"),
        (
            lambda: PuschReceiver(PuschConfig(n_prb=4), 5, options=ReceiverOptions()),
            "options",
        ),
        (lambda: ReceiverOptions(demapper="soft"), "demapper"),
        (
            lambda: PuschReceiver(
                PuschConfig(n_prb=4, n_layers=3), options=ReceiverOptions(equaliser="zf")
            ),
            "equaliser",
        ),
        (lambda: DelayWindow(100.0, -100.0), "latest_ns"),
        (lambda: DelayWindow(float("nan")), "earliest_ns"),
        (lambda: DelayWindow(0.0, 100.0, 50.0), "stragglers_ns"),
        (lambda: PdschConfig(n_prb=4, precoding_weights=((1, 1),)), "precoding_weights"),
        (lambda: PdschConfig(n_prb=4, precoding_weights=()), "precoding_weights"),
        (lambda: PdschConfig(n_prb=4, precoding_weights=((1e300,),)), "precoding_weights"),
        (lambda: PdschConfig(n_prb=4, start_symbol=1, n_symbols=2), "n_symbols"),
        (
            lambda: PdschConfig(n_prb=4, precoding_weights=((float("nan"),),)),
            "precoding_weights",
        ),
    ):
        with pytest.raises(InvalidInputError) as caught:
            make()
        assert caught.value.field == field
