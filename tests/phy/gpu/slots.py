"""Simulated slots for the front end, and the front end emulated on them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from phy import PuschConfig, PuschTransmitter
from phy.channel import Channel, ChannelConfig
from phy.gpu.front_end_layout import UE_DESCRIPTOR
from phy.gpu.front_end_plan import front_end_program
from phy.gpu.packed_slot import PackedSlot, pack

from .emulation import emulate_program


@dataclass(frozen=True)
class Slot:
    """A packed slot and what it was made of."""

    configs: list[PuschConfig]
    grids: list[np.ndarray]
    tbs: list[np.ndarray]
    packed: PackedSlot


def simulate(
    allocations: list[dict], rng: np.random.Generator, is_irc: bool = False, **channel: float
) -> Slot:
    """A slot with one UE a cell; `channel` are fields of ChannelConfig."""
    configs = [PuschConfig(rnti=i, **each) for i, each in enumerate(allocations, 1)]
    grids, tbs = [], []
    for config in configs:
        tbs.append(rng.integers(0, 2, config.tb_size_bits, dtype=np.uint8))
        fading = ChannelConfig(n_rx=config.n_rx, n_tx=config.n_layers, **channel)
        grids.append(Channel(fading, rng)(PuschTransmitter(config)(tbs[-1])))
    return Slot(configs, grids, tbs, pack(configs, grids, is_irc))


def emulate(packed: PackedSlot) -> dict[str, np.ndarray]:
    """Runs the whole front end on the CPU and returns all buffers. An empty record stands before
    the UEs', launches are for wider UEs than there are, and whatever nothing writes is 99."""
    limits = replace(
        packed.limits, n_ues=packed.ues.size + 1, n_prb=min(packed.limits.n_prb + 9, 273)
    )
    program = front_end_program(limits)
    arrays = {}
    for name, buffer in program.buffers.items():
        arrays[name] = np.zeros(buffer.shape, buffer.dtype)
        if arrays[name].dtype.names is None:
            arrays[name][...] = 99
    for name, array in (packed.inputs | program.constants).items():
        arrays[name][: len(array)] = array
    arrays["ues"] = np.concatenate([np.zeros(1, UE_DESCRIPTOR), packed.ues])
    emulate_program(program, arrays)
    arrays["results"] = arrays["results"][1:]
    return arrays
