"""uvicorn, set up and stopped as the gateway needs it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import threading
import time
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

import click
import uvicorn
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from holdfast import StoreError

from ._app import create_app
from ._hosting import MAX_MESSAGE, Gateway
from ._runtime import Running, UnsafeDirectory, announced, opener
from ._security import Guard

_log = logging.getLogger("holdfast.gateway")

_PING_INTERVAL: Final = 20.0
"""Seconds between pings: below the minute after which proxies drop a silent connection."""

_PING_TIMEOUT: Final = 40.0
"""Seconds to wait for a pong, which stands behind all that a slow client has not read yet."""

_GRACE: Final = 3
"""Seconds for requests that are being answered when the gateway stops."""

UNAVAILABLE: Final = 69
"""The exit code where it cannot serve (``EX_UNAVAILABLE`` of sysexits.h)."""

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def configured(
    gateway: Gateway, certfile: str | None = None, keyfile: str | None = None
) -> uvicorn.Config:
    """uvicorn's configuration for a gateway."""
    return uvicorn.Config(
        Guard(create_app(gateway), gateway.settings),
        http="h11",
        ws="websockets-sansio",
        ws_max_size=MAX_MESSAGE,
        ws_per_message_deflate=False,  # a sink for memory, and CRIME's door
        ws_ping_interval=_PING_INTERVAL,
        ws_ping_timeout=_PING_TIMEOUT,
        log_config=None,
        log_level="warning",  # at "info" it logs the query of each WebSocket, and so tokens
        access_log=False,
        lifespan="off",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_GRACE,
        ssl_certfile=certfile,
        ssl_keyfile=keyfile,
    )


class Server(uvicorn.Server):
    """A server that says good-bye to every client before it stops.

    Args:
        config: See :func:`configured`.
        gateway: What it serves.
        started: Called when it listens.
    """

    def __init__(
        self, config: uvicorn.Config, gateway: Gateway, started: Callable[[], object]
    ) -> None:
        super().__init__(config)
        self._gateway = gateway
        self._on_start = started

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to :func:`serve`: a stop that was asked for ends with exit code 0."""
        yield

    async def run_on(self, sock: socket.socket) -> None:
        """Serve on a socket until :meth:`stop`, and then stop the sessions.

        Raises:
            StoreError: The gateway's store must not be used.
        """
        async with self._gateway.running():
            await self.serve([sock])

    def stop(self) -> None:
        """Begin to stop."""
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        await self._gateway.close_streams()
        for connection in list(self.server_state.connections):
            if (
                isinstance(connection, WebSocketsSansIOProtocol)
                and connection.transport.get_write_buffer_size()
            ):
                connection.transport.abort()  # its good-bye lies there: this client does not read
        await super().shutdown(sockets)


def serve(
    gateway: Gateway,
    sock: socket.socket,
    certfile: str | None,
    keyfile: str | None,
    *,
    opens: bool,
    prints_token: bool,
) -> int:
    """Serve until a signal comes; gives the exit code."""
    settings = gateway.settings
    url = f"{'https' if settings.tls else 'http'}://{settings.hosts[0]}:{settings.port}/"
    with ExitStack() as stack:

        def tell() -> None:
            me = Running(url, settings.token, os.getpid(), time.time())
            try:
                stack.enter_context(announced(me))
            except UnsafeDirectory as error:
                _log.warning("holdfast's other commands will not find this gateway: %s", error)
            with_token = f"{url}?token={settings.token}"
            try:
                click.echo(f"holdfast serves {with_token if prints_token else url}")
            except OSError as error:
                _log.warning(
                    "stdout cannot be written (%s); this serves %s all the same", error, url
                )
            if opens:
                page = stack.enter_context(opener(with_token))
                # A browser may take its time, or run in the foreground.
                threading.Thread(target=webbrowser.open, args=(page,), daemon=True).start()

        server = Server(configured(gateway, certfile, keyfile), gateway, tell)

        async def run() -> None:
            loop = asyncio.get_running_loop()
            for each in _SIGNALS:
                # `nohup holdfast serve` goes on when its terminal is gone.
                if each is not signal.SIGHUP or signal.getsignal(each) is not signal.SIG_IGN:
                    loop.add_signal_handler(each, server.stop)
            await server.run_on(sock)

        try:
            asyncio.run(run())
        except StoreError as error:
            click.echo(f"holdfast: --data: {error}", err=True)
            return UNAVAILABLE
    return 0
