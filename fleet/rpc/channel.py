"""Channels and server options: the keepalive and storm settings that were measured to matter."""

from __future__ import annotations

from typing import Final

import grpc

from fleet.identity import SERVER_NAME, IdentityDirectory

MESSAGE_BYTES_MAX: Final = 16 * 1024 * 1024

KEEPALIVE_S: Final = 1.0

SERVER_OPTIONS: Final = (
    # An agent pings every second; without these the server answers ENHANCE_YOUR_CALM.
    ("grpc.http2.min_ping_interval_without_data_ms", 500),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 500),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    # By default a storm of reconnects is answered CANCELLED in silence.
    ("grpc.server.max_pending_requests", 20_000),
    ("grpc.server.max_pending_requests_hard_limit", 40_000),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.so_reuseport", 0),
)

_CLIENT_OPTIONS: Final = (
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.ssl_target_name_override", SERVER_NAME),
    ("grpc.enable_http_proxy", 0),
    # The caller backs off with full jitter; the channel's own back-off would only add to it.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.enable_retries", 0),
)


def client_options(keepalive_s: float = KEEPALIVE_S) -> list[tuple[str, int | str]]:
    """Options of a channel that finds out within twice `keepalive_s` that nobody is there any more."""
    keepalive_ms = int(keepalive_s * 1000)
    return [
        ("grpc.keepalive_time_ms", keepalive_ms),
        ("grpc.keepalive_timeout_ms", keepalive_ms),
        *_CLIENT_OPTIONS,
    ]


def node_channel(endpoint: str, identity: IdentityDirectory, keepalive_s: float = KEEPALIVE_S) -> grpc.aio.Channel:
    """A channel over mTLS with the node's identity, as it is on disk now."""
    key, chain = identity.key_and_chain()
    credentials = grpc.ssl_channel_credentials(identity.ca_pem.read_bytes(), key, chain)
    return grpc.aio.secure_channel(endpoint, credentials, options=client_options(keepalive_s))


def operator_channel(endpoint: str, ca_pem: bytes, token: str) -> grpc.aio.Channel:
    """A channel over TLS with an operator's token on each call."""
    call = grpc.access_token_call_credentials(token)
    credentials = grpc.composite_channel_credentials(grpc.ssl_channel_credentials(ca_pem), call)
    return grpc.aio.secure_channel(endpoint, credentials, options=client_options())
