"""What the DM-RS of one slot says: least-squares estimates of every layer's channel.

Layers that share a CDM group are told apart by their covers. In time (double-symbol DM-RS) the two
symbols are despread here. In frequency, DM-RS type 2 covers two neighbouring subcarriers, which are
despread here too; type 1 covers subcarriers two apart, and despreading would take the channel as
flat over them, so there the partner is left in: after multiplication by a layer's own cover, the
partner's channel appears with alternating sign, as if half the unambiguous delay range later, where
the Wiener filter tells the two apart.

Spec: TS 38.211 6.4.1.1.3, 7.4.1.1.2
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from phy.array import Array, array_module
from phy.nr import dmrs
from phy.shared_channel.config import SharedChannelConfig


@dataclass(frozen=True)
class LayerPilots:
    """Where and how one layer's pilots are found.

    Attributes:
        group: CDM group.
        port: DM-RS port.
        user: index of the UE the layer belongs to.
        has_partner: another layer lies on the same pilots with the other cover in frequency, and
            is left in the estimates (DM-RS type 1 only).
    """

    group: int
    port: int
    user: int
    has_partner: bool


class PilotReader:
    """Takes least-squares estimates of UEs that share an allocation and its DM-RS sequence."""

    def __init__(self, users: Sequence[SharedChannelConfig]) -> None:
        self.config = config = users[0]
        ports = [(user, port) for user, each in enumerate(users) for port in each.ports]
        codes = [_code(port, config) for _, port in ports]
        self.layers = tuple(
            LayerPilots(
                group=dmrs.cdm_group(port, config.dmrs_type),
                port=port,
                user=user,
                has_partner=config.dmrs_type == 1 and codes.count(_code(port, config)) == 2,
            )
            for user, port in ports
        )
        self.groups = tuple(sorted({layer.group for layer in self.layers}))
        self.combs = {
            group: dmrs.subcarriers(config.n_prb, 2 * group, config.dmrs_type)
            for group in range(config.n_cdm_groups_without_data)
        }
        """Subcarriers of each CDM group that carries DM-RS or nothing."""
        pairs = config.dmrs_type == 2
        self.spacing = 6 if pairs else 2
        """Subcarriers from one estimate to the next."""
        self.offsets = tuple(
            2.0 * layer.group + 0.5 if pairs else float(layer.group) for layer in self.layers
        )
        """Subcarrier of each layer's first estimate; between two where they were despread."""
        beta = dmrs.amplitude(config.n_cdm_groups_without_data)
        self.noise_factor = 1 / (beta**2 * config.dmrs_length * (2 if pairs else 1))
        """Noise variance of an estimate, relative to that of a resource element."""
        rows = np.asarray(config.dmrs_symbols).reshape(-1, config.dmrs_length)
        self.positions: npt.NDArray[np.float64] = rows.mean(axis=1)
        """Symbol (middle of two with double-symbol DM-RS) of each DM-RS position."""
        self._rows = rows

    def received(self, grid: Array, group: int) -> Array:
        """Returns what arrived on a CDM group: complex64[rx, dmrs symbol, pilot]."""
        xp = array_module(grid)
        rows = xp.asarray(self._rows.reshape(-1))
        return grid[:, rows[:, None], xp.asarray(self.combs[group])]

    def __call__(self, grid: Array, pilots: Array) -> Array:
        """Returns estimates complex64[rx, layer, position, pilot or pair].

        Args:
            grid: complex64[rx, 14, 12 n_prb], the allocation.
            pilots: complex64[dmrs symbol, pilot] as sent, before covers.
        """
        raw = {group: self._matched(grid, pilots, group) for group in self.groups}
        layers = [self._layer(raw[layer.group], layer.port) for layer in self.layers]
        return array_module(grid).stack(layers, axis=1)

    def spare_power(self, grid: Array, pilots: Array) -> float | None:
        """Returns the mean power on a resource element where DM-RS is sent but none is ours: CDM
        groups without data that no layer uses, and covers that no layer uses. It is noise and
        interference alone; None where all are in use.
        """
        spare = []
        for group in self.combs:
            if group not in self.groups:
                spare.append(_power(self.received(grid, group)))
                continue
            raw = self._matched(grid, pilots, group)
            for port in self._unused(group):
                spare.append(_power(self._layer(raw, port)) / self.noise_factor)
        return float(np.mean(spare)) if spare else None

    def _matched(self, grid: Array, pilots: Array, group: int) -> Array:
        """What arrived on a CDM group, divided by the pilots: complex64[rx, dmrs symbol, pilot]."""
        xp = array_module(grid)
        return self.received(grid, group) * (pilots.conj() / xp.abs(pilots[:, :1]) ** 2)

    def _unused(self, group: int) -> list[int]:
        """Ports of a group whose code is orthogonal to all in use, whatever the channel."""
        config = self.config
        used = {layer.port for layer in self.layers if layer.group == group}
        ports = [
            port
            for port in range(2 * config.dmrs_length * dmrs.n_groups(config.dmrs_type))
            if dmrs.cdm_group(port, config.dmrs_type) == group
        ]
        if config.dmrs_type == 2:
            return [port for port in ports if port not in used]
        busy = {dmrs.time_cover(port, 1) for port in used}
        return [port for port in ports if dmrs.time_cover(port, 1) not in busy][:1]

    def _layer(self, raw: Array, port: int) -> Array:
        """Despreads complex64[rx, dmrs symbol, pilot] for one port."""
        config, xp = self.config, array_module(raw)
        n_rx, _, n_pilots = raw.shape
        if config.dmrs_length == 2:
            first, second = dmrs.time_cover(port, config.dmrs_type)
            pairs = raw.reshape(n_rx, -1, 2, n_pilots)
            raw = (first * pairs[:, :, 0] + second * pairs[:, :, 1]) * np.float32(0.5)
        cover = dmrs.cover(n_pilots, port, config.dmrs_type)
        if cover[1] < 0:
            raw = raw * xp.asarray(cover)
        if config.dmrs_type == 2:
            raw = (raw[..., 0::2] + raw[..., 1::2]) * np.float32(0.5)
        return raw

    def rebuild(self, channel: Array, pilots: Array, group: int) -> Array:
        """Returns what a channel makes of the DM-RS: complex64[rx, dmrs symbol, pilot].

        Args:
            channel: complex64[rx, layer, position, 12 n_prb].
            pilots: complex64[dmrs symbol, pilot] as sent, before covers.
            group: CDM group.
        """
        config, xp = self.config, array_module(channel)
        comb = xp.asarray(self.combs[group])
        total: Array = 0
        for index, layer in enumerate(self.layers):
            if layer.group != group:
                continue
            in_time = xp.asarray(
                [
                    dmrs.time_cover(layer.port, config.dmrs_type)[row % config.dmrs_length]
                    for row in range(pilots.shape[0])
                ],
                dtype=xp.float32,
            )
            cover = xp.asarray(dmrs.cover(comb.size, layer.port, config.dmrs_type))
            seen = channel[:, index][..., comb]
            seen = xp.repeat(seen, config.dmrs_length, axis=1)
            total = total + seen * (in_time[:, None] * cover * pilots)
        return total


def _code(port: int, config: SharedChannelConfig) -> tuple[int, tuple[int, int]]:
    """CDM group and time cover: ports that agree in both differ in their cover in frequency."""
    in_time = dmrs.time_cover(port, config.dmrs_type) if config.dmrs_length == 2 else (1, 1)
    return dmrs.cdm_group(port, config.dmrs_type), in_time


def _power(samples: Array) -> float:
    return float((samples.real**2 + samples.imag**2).mean())
