"""`airan gpu` and `airan node`: what there is, how it is, and taking it out of use."""

from __future__ import annotations

from typing import Annotated

import typer

from airan.cli.asking import JsonFlag, ask, wants_json
from airan.cli.output import console, emit_json, table
from orchestrator.views import GpuView

gpu_app = typer.Typer(help="GPUs and their partitions.", no_args_is_help=True)
node_app = typer.Typer(help="Hosts with GPUs.", no_args_is_help=True)

Uuid = Annotated[str, typer.Argument(help="The GPU's UUID, see `airan gpu list`.")]


@gpu_app.command("list")
def list_gpus(
    context: typer.Context,
    node: Annotated[str, typer.Option(help="Only this host's.")] = "",
    json: JsonFlag = False,
) -> None:
    """List every GPU with its partitions and its health."""
    gpus = ask(context, lambda client: client.gpus(node))
    if wants_json(context, json):
        emit_json(gpus)
        return
    for gpu in gpus:
        label = "SIMULATED " if gpu.simulated else ""
        rows = [
            (p.profile, p.role, f"{p.start}..{p.start + p.size - 1}", p.sm_count, p.state)
            for p in gpu.partitions
        ]
        title = f"{label}{gpu.name} {gpu.uuid}, {gpu.sm_count} SMs"
        table(f"{title}\n{health(gpu)}", ("partition", "role", "place", "SMs", "state"), rows)


def health(gpu: GpuView) -> str:
    """The GPU's health in a few words."""
    words = ["LOST"] if gpu.lost else []
    if gpu.maintenance:
        words.append(f"in maintenance: {gpu.maintenance_reason}")
    if gpu.xids:
        words.append("XIDs " + ", ".join(map(str, gpu.xids)))
    if gpu.ecc_uncorrected:
        words.append(f"{gpu.ecc_uncorrected} uncorrected memory errors")
    words = words or ["healthy"]
    if gpu.power_w is not None:
        words.append(f"{gpu.power_w:.0f} W")
    if gpu.temperature_c is not None:
        words.append(f"{gpu.temperature_c:.0f} °C")
    return "; ".join([*words, f"MIG {gpu.mig_mode}"])


@gpu_app.command("drain")
def drain(
    context: typer.Context,
    uuid: Uuid,
    reason: Annotated[str, typer.Option(help="Why; shown and recorded.")],
    json: JsonFlag = False,
) -> None:
    """Take a GPU into maintenance: it gets nothing new, and is emptied as far as the RAN allows."""
    _set_maintenance(context, uuid, reason, json)


@gpu_app.command("undrain")
def undrain(context: typer.Context, uuid: Uuid, json: JsonFlag = False) -> None:
    """Take a GPU back into use."""
    _set_maintenance(context, uuid, "", json)


def _set_maintenance(context: typer.Context, uuid: str, reason: str, json: bool) -> None:
    on = context.command.name == "drain"
    gpu = ask(context, lambda client: client.set_maintenance(uuid, on=on, reason=reason))
    if wants_json(context, json):
        emit_json(gpu)
    else:
        console.print(f"{gpu.uuid}: {health(gpu)}")


@node_app.command("list")
def list_nodes(context: typer.Context, json: JsonFlag = False) -> None:
    """List the hosts with GPUs."""
    nodes = ask(context, lambda client: client.nodes())
    if wants_json(context, json):
        emit_json(nodes)
        return
    rows = [(n.name, n.gpus, n.gpus_lost, n.gpus_in_maintenance, n.power_w) for n in nodes]
    simulated = " (SIMULATED)" if any(node.simulated for node in nodes) else ""
    table(f"Nodes{simulated}", ("name", "GPUs", "lost", "in maintenance", "power W"), rows)
