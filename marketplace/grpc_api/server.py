"""The gRPC server of a gateway."""

from __future__ import annotations

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from airan.core.errors import PortInUseError
from marketplace.gateway.runtime import Runtime
from marketplace.grpc_api import invocation_pb2 as pb
from marketplace.grpc_api import invocation_pb2_grpc as rpc
from marketplace.grpc_api.servicer import InvocationServicer

SERVICE = pb.DESCRIPTOR.services_by_name["InvocationService"].full_name
_ENVELOPE_BYTES = 64 << 10
_MAX_ANSWER_BYTES = 64 << 20
_GRACE_S = 0.5


class InvocationServer:
    """Runs in the gateway's event loop; use start() and stop()."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._servicer = InvocationServicer(runtime)
        self._server: grpc.aio.Server | None = None

    async def start(self) -> int:
        """Begins to serve; the port.

        Raises:
            PortInUseError: the port is taken.
        """
        settings = self._runtime.settings
        options = (
            ("grpc.so_reuseport", int(settings.gateways > 1)),
            ("grpc.max_receive_message_length", settings.max_body_bytes + _ENVELOPE_BYTES),
            ("grpc.max_send_message_length", _MAX_ANSWER_BYTES),
        )
        server = self._server = grpc.aio.server(options=options)
        rpc.add_InvocationServiceServicer_to_server(self._servicer, server)  # type: ignore[no-untyped-call]
        await _add_health(server)
        try:
            port = server.add_insecure_port(f"{settings.host}:{settings.grpc_port}")
        except RuntimeError as error:
            raise PortInUseError(
                f"port {settings.grpc_port} for invocations over gRPC cannot be had",
                remedy="set market.grpc_port to another port",
            ) from error
        await server.start()
        return int(port)

    async def stop(self) -> None:
        """Ends the calls, then waits for what is being accepted."""
        if self._server is not None:
            await self._server.stop(_GRACE_S)
            # It uses its event loop when it is collected: not in a later cycle.
            self._server = None
        await self._servicer.close()


async def _add_health(server: grpc.aio.Server) -> None:
    servicer = HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    for name in ("", SERVICE):
        await servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
    own = (health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
    reflection.enable_server_reflection((SERVICE, *own), server)
