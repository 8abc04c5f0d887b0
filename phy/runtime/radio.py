"""A simulated UE and radio channel that feed the slot runtime."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from phy.array import Array
from phy.channel import Channel, ChannelConfig
from phy.checks import check_integer
from phy.pusch.config import PuschConfig
from phy.pusch.receiver import PuschReceiver, PuschResult
from phy.pusch.transmitter import PuschTransmitter
from phy.runtime.slot_runtime import PreparedSlot


class SimulatedUplink:
    """Transmits a random transport block in every uplink slot, through a channel of its own.

    `load` gives the PRBs of a slot, 0 for none; it may change from slot to slot and is at most
    the configured `n_prb`.
    """

    def __init__(
        self,
        config: PuschConfig,
        channel: ChannelConfig,
        load: Callable[[int], int] | None = None,
        seed: int = 1,
    ) -> None:
        self._config = config
        self._load = load or (lambda _slot: config.n_prb)
        self._rng = np.random.default_rng(seed)
        self._channel = Channel(channel, self._rng)
        self._pairs: dict[int, tuple[PuschTransmitter, PuschReceiver]] = {}

    def prepare(self, slot: int) -> PreparedSlot | None:
        """Simulates the UE's transmission and the radio channel of `slot`.

        Raises:
            InvalidInputError: the load is negative or above the configured n_prb.
        """
        n_prb = self._load(slot)
        check_integer("n_prb", n_prb, 0, self._config.n_prb)
        if n_prb == 0:
            return None
        transmit, receive = self._pair(n_prb)
        tb = self._rng.integers(0, 2, transmit.config.tb_size_bits, dtype=np.uint8)
        slot_number = slot % self._config.slots_per_frame
        grid = self._channel(transmit(tb, slot_number))

        def received(samples: Array) -> PuschResult:
            return receive(samples, slot_number=slot_number)

        return PreparedSlot(grid, received, n_prb)

    def _pair(self, n_prb: int) -> tuple[PuschTransmitter, PuschReceiver]:
        if n_prb not in self._pairs:
            config = replace(self._config, n_prb=n_prb)
            self._pairs[n_prb] = (PuschTransmitter(config), PuschReceiver(config))
        return self._pairs[n_prb]
