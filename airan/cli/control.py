"""The orchestrator's side of `airan`, over gRPC: `gpu`, `node`, `cell`, `policy`, `plan`,
`lease`, `event`, `audit`, `certs`."""

from __future__ import annotations

import typer

from airan.cli import audit, certs, gpu, lease, plan, policy
from airan.cli.asking import JsonFlag, ask, wants_json
from airan.cli.output import emit_json, table

cell_app = typer.Typer(help="Radio cells.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Adds the orchestrator's commands."""
    app.add_typer(gpu.gpu_app, name="gpu")
    app.add_typer(gpu.node_app, name="node")
    app.add_typer(cell_app, name="cell")
    app.add_typer(policy.policy_app, name="policy")
    app.add_typer(plan.plan_app, name="plan")
    app.add_typer(lease.lease_app, name="lease")
    app.add_typer(audit.event_app, name="event")
    app.add_typer(audit.audit_app, name="audit")
    app.add_typer(certs.certs_app, name="certs")


@cell_app.command("list")
def list_cells(context: typer.Context, json: JsonFlag = False) -> None:
    """List the cells with their load."""
    cells = ask(context, lambda client: client.cells())
    if wants_json(context, json):
        emit_json(cells)
        return
    rows = [
        (
            c.id,
            c.load,
            c.n_prb,
            "decoded on this machine" if c.live else "simulated load",
            c.gpu_uuid or "-",
        )
        for c in cells
    ]
    table("Cells", ("id", "load", "PRBs", "slots", "GPU"), rows)
