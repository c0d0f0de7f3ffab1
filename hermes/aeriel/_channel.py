"""Opens GRPC channels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import grpc

from hermes.aeriel._addresses import is_this_host
from hermes.aeriel.endpoint import Endpoint


def open_channel(endpoint: Endpoint, options: Sequence[tuple[str, Any]] = ()) -> grpc.Channel:
    """Return a new channel to a server, encrypted where there are credentials.

    It goes through a proxy only where the variable ``grpc_proxy`` names one, and to no server
    of this host. GRPC by itself takes ``http_proxy`` too, which is a site's way to the web.
    """
    proxy = os.environ.get("grpc_proxy")  # noqa: SIM112 (GRPC reads it in this case alone)
    if not proxy or is_this_host(endpoint.grpc):
        options = [*options, ("grpc.enable_http_proxy", 0)]
    if endpoint.credentials is None:
        return grpc.insecure_channel(endpoint.grpc, options=list(options))
    credentials = grpc.ssl_channel_credentials(
        endpoint.credentials.root.encode(),
        endpoint.credentials.key.encode(),
        endpoint.credentials.certificate.encode(),
    )
    return grpc.secure_channel(endpoint.grpc, credentials, options=list(options))
