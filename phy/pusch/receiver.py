"""The base station's side of PUSCH: received resource grids back to transport blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

from airan.core.errors import InvalidInputError
from phy.array import Array
from phy.checks import check_integer
from phy.pusch.config import PuschConfig
from phy.receiver.chain import GroupReceiver, ReceiverOptions
from phy.receiver.delay_profile import DelayWindow
from phy.receiver.single import SingleReceiver
from phy.shared_channel.result import SharedChannelResult

PuschResult: TypeAlias = SharedChannelResult
"""What came out of one slot."""


class PuschReceiver(SingleReceiver):
    """Receives what a PuschTransmitter of the same `config` sent through a channel."""

    def __init__(
        self,
        config: PuschConfig,
        n_iterations: int = 10,
        delay_window: DelayWindow | None = None,
        *,
        options: ReceiverOptions | None = None,
    ) -> None:
        """`n_iterations` limits the LDPC decoder; `delay_window` is where the channel's paths are
        expected relative to the receiver's timing, where the allocation is too narrow to see them;
        `options` holds both and the rest, and excludes them.

        Raises:
            InvalidInputError: `n_iterations` is out of range, or an option that the configuration
                does not allow.
        """
        if options is not None and (n_iterations != 10 or delay_window is not None):
            raise InvalidInputError("options", "already holds n_iterations and delay_window")
        if options is None:
            options = ReceiverOptions(n_iterations=n_iterations, delay_window=delay_window)
        super().__init__(config, GroupReceiver([config], options, config.transform_precoding))
        self.config = config


class PuschSlotReceiver:
    """Receives several UEs from one slot.

    UEs on the same resource elements with the same DM-RS sequence and different ports (multi-user
    MIMO) are separated together; all others are received one by one, and where they overlap they
    are interference to each other, which "mmse_irc" can suppress.
    """

    def __init__(
        self, configs: Sequence[PuschConfig], options: ReceiverOptions | None = None
    ) -> None:
        """`configs` is one configuration for each UE, all over the same carrier grid.

        Raises:
            InvalidInputError: no UE, different grids, or two UEs with the same DM-RS port on the
                same pilots.
        """
        if not configs:
            raise InvalidInputError("configs", "must name at least one UE")
        grids = {(c.scs_khz, c.n_rx, c.grid_start_prb, c.grid_n_prb) for c in configs}
        if len(grids) > 1:
            raise InvalidInputError(
                "configs",
                "must share scs_khz, n_rx and the carrier grid",
                remedy="set carrier_start_prb and carrier_n_prb alike",
            )
        self.configs = tuple(configs)
        groups: dict[PuschConfig, list[int]] = {}
        for index, config in enumerate(configs):
            groups.setdefault(_shared_part(config), []).append(index)
        self._groups = []
        for members in groups.values():
            users = [configs[index] for index in members]
            ports = [port for user in users for port in user.ports]
            if len(set(ports)) < len(ports):
                raise InvalidInputError("dmrs_ports", f"taken twice among UEs {members}")
            receive = GroupReceiver(
                users, options or ReceiverOptions(), users[0].transform_precoding
            )
            self._groups.append((members, receive))

    def __call__(
        self,
        grid: Array,
        noise_var: float | None = None,
        *,
        slot_number: int | None = None,
        soft_buffers: Sequence[Array | None] | None = None,
    ) -> tuple[PuschResult, ...]:
        """Receives one slot: a result for each configuration, in their order.

        Args:
            grid: complex64[rx, 14, 12 * carrier PRBs].
            noise_var: variance of the complex noise on a resource element; None: estimated.
            slot_number: slot within the frame; None: the first UE's configured one.
            soft_buffers: each UE's soft buffer of earlier transmissions, or None.

        Raises:
            InvalidInputError: as PuschReceiver; or not one soft buffer a UE.
        """
        first = self.configs[0]
        slot_number = first.slot_number if slot_number is None else slot_number
        check_integer("slot_number", slot_number, 0, first.slots_per_frame - 1)
        buffers = [None] * len(self.configs) if soft_buffers is None else list(soft_buffers)
        if len(buffers) != len(self.configs):
            raise InvalidInputError("soft_buffers", f"must be {len(self.configs)}, one a UE")
        found: dict[int, PuschResult] = {}
        for members, receive in self._groups:
            own = [buffers[index] for index in members]
            results = receive(grid, noise_var, slot_number, own)
            found.update(zip(members, results, strict=True))
        return tuple(found[index] for index in range(len(self.configs)))


def _shared_part(config: PuschConfig) -> PuschConfig:
    """The configuration without what members of a multi-user group may differ in."""
    prbs = config.allocated_prbs
    contiguous = prbs[-1] - prbs[0] == len(prbs) - 1
    return replace(
        config,
        n_layers=1,
        dmrs_ports=(0,),
        n_ports=None,
        tpmi=0,
        mcs_table=1,
        mcs_index=0,
        pi2_bpsk=False,
        rnti=0,
        n_id=0,
        dmrs_n_id=config.n_id if config.dmrs_n_id is None else config.dmrs_n_id,
        rv=0,
        limited_buffer_bits=None,
        n_overhead_re=0,
        slot_number=0,
        start_prb=prbs[0],
        prbs=None if contiguous else prbs,
        carrier_start_prb=config.grid_start_prb,
        carrier_n_prb=config.grid_n_prb,
    )
