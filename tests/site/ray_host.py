"""One Ray node on loopback, as `ray start --block` starts it, which takes no loopback address
for the head and twice the time: `ray_host.py NAME IP FOLDER [HEAD_ADDRESS]`."""

import sys
from pathlib import Path

from ray._private.node import Node
from ray._private.parameter import RayParams

from airan.site.nodes import RESOURCE


def main(name: str, ip: str, folder: str, head: str = "") -> None:
    params = RayParams(
        node_ip_address=ip,
        node_name=name,
        gcs_address=head or None,
        temp_dir=str(Path(folder) / name),
        num_cpus=0,
        num_gpus=0,
        object_store_memory=80 << 20,
        resources={RESOURCE: 1},
        min_worker_port=0,
        max_worker_port=0,
        dashboard_agent_listen_port=0,
        include_dashboard=False,
        include_log_monitor=False,
        no_monitor=True,
    )
    node = Node(params, head=not head, shutdown_at_exit=True, spawn_reaper=False)
    print(node.gcs_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
