"""A local identity provider over loopback, with keys that can change."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import jwt
import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from starlette.types import Receive, Scope, Send

from marketplace.asgi import QuietServer, bind

AUDIENCE = "airan-gateway"
_RSA = rsa.generate_private_key(65537, 2048)


class Issuer:
    """An ASGI application. `keys`: kid -> (algorithm, private key); the test changes them."""

    def __init__(self) -> None:
        self.url = ""
        self.keys: dict[str, tuple[str, Any]] = {"k1": ("RS256", _RSA)}
        self.n_asked = 0
        self.broken = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        status = 500 if self.broken else 200
        if path == "/.well-known/openid-configuration":
            body = {"issuer": self.url, "jwks_uri": self.url + "/keys"}
        else:
            self.n_asked += 1
            body = {"keys": [self._public(kid) for kid in self.keys] + [{"kty": "oct", "k": "x"}]}
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(body).encode()})

    def token(self, now_s: float, kid: str = "k1", **changes: Any) -> str:
        claims = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": "s1",
            "iat": int(now_s),
            "exp": int(now_s) + 600,
            "email": "ada@acme.example",
            "email_verified": True,
        }
        claims |= changes
        claims = {name: value for name, value in claims.items() if value is not None}
        algorithm, key = self.keys[kid]
        return jwt.encode(claims, key, algorithm, headers={"kid": kid})

    def _public(self, kid: str) -> dict[str, Any]:
        algorithm, key = self.keys[kid]
        kind = {"RS256": RSAAlgorithm, "ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}[algorithm]
        public = json.loads(kind.to_jwk(key.public_key()))
        return public | {"kid": kid, "alg": algorithm, "use": "sig"}


def new_ec_key() -> tuple[str, Any]:
    return "ES256", ec.generate_private_key(ec.SECP256R1())


def new_ed_key() -> tuple[str, Any]:
    return "EdDSA", ed25519.Ed25519PrivateKey.generate()


@asynccontextmanager
async def running_issuer() -> AsyncIterator[Issuer]:
    """The provider under uvicorn in this process."""
    issuer, listener = Issuer(), bind("127.0.0.1", 0, "the issuer", "port")
    issuer.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    config = uvicorn.Config(issuer, log_level="warning", access_log=False, lifespan="off")
    server = QuietServer(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        while not server.started:
            if task.done():
                await task
            await asyncio.sleep(0.01)
        yield issuer
    finally:
        server.should_exit = True
        await task
        listener.close()
