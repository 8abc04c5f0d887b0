"""The slot runtime: uplink slots received one by one against a hard deadline."""

from phy.runtime.radio import SimulatedUplink
from phy.runtime.slot import SlotRecord, SlotStatus, SlotWindow, WindowBuilder
from phy.runtime.slot_runtime import PreparedSlot, SlotRuntime, UplinkSource
from phy.runtime.timing import SlotTiming

__all__ = [
    "PreparedSlot",
    "SimulatedUplink",
    "SlotRecord",
    "SlotRuntime",
    "SlotStatus",
    "SlotTiming",
    "SlotWindow",
    "UplinkSource",
    "WindowBuilder",
]
