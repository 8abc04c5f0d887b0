"""What an orchestrator answers while another leads: that it does not."""

from __future__ import annotations

from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from airan.core.errors import NotLeaderError
from orchestrator.api import control_pb2
from orchestrator.api.errors import status_of


class _NotLeading(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """Refuses every call but health."""

    def service(self, handler_call_details: Any) -> Any:
        if handler_call_details.method.startswith("/grpc.health."):
            return None

        async def refuse(_: Any, context: Any) -> None:
            error = NotLeaderError(
                "this orchestrator does not lead", remedy="ask the other one, or again later"
            )
            code, text, metadata = status_of(error)
            await context.abort(code, text, metadata)

        # As streams both ways: a call is refused before its first message has come.
        return grpc.stream_stream_rpc_method_handler(refuse)


async def follower_server() -> grpc.aio.Server:
    """A server, not started, whose health is NOT_SERVING and which refuses all else."""
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    server.add_generic_rpc_handlers((_NotLeading(),))
    health = HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    services = control_pb2.DESCRIPTOR.services_by_name.values()
    for name in ("", *(service.full_name for service in services)):
        await health.set(name, health_pb2.HealthCheckResponse.NOT_SERVING)
    return server
