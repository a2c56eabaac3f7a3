"""Listening: the socket first, so that a taken port is told before anything is loaded."""

import errno
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from transunet.errors import ConfigError
from transunet.optional import require
from transunet.serve.api.app import create_app
from transunet.serve.service import Service

_LAST_WORDS_SECONDS = 5
"""How long answers that are being given may take once the server is asked to stop."""


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens at the address.

    Raises:
        ConfigError: when the port is in use, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
        found.listen(socket.SOMAXCONN)
    except (OSError, OverflowError) as error:
        found.close()
        raise _cannot_listen(host, port, error) from None
    return found


def serve(
    service: Service,
    listener: socket.socket,
    note: Callable[[str], None],
    loaded: Callable[[], None],
) -> None:
    """Serve until SIGTERM or Ctrl-C; then return, with the running job back in the queue.

    Requests are answered while the bundles are loaded; jobs wait for that.

    Args:
        service: what answers.
        listener: as `listen` returns it.
        note: called with how far the loading is.
        loaded: called when jobs can begin.

    Raises:
        TransUNetError: when the bundles cannot be loaded.
    """
    uvicorn = require("uvicorn", extra="serve")

    def ended_loading() -> None:
        if service.failure is None:
            loaded()
        else:
            server.should_exit = True

    config = uvicorn.Config(
        create_app(service, note, ended_loading),
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        timeout_graceful_shutdown=_LAST_WORDS_SECONDS,
    )
    server = _until_stopped(uvicorn.Server)(config)
    server.on_started, server.on_stop = service.desk.warm_up, service.stop_waiting
    server.run(sockets=[listener])
    if service.failure is not None:
        raise service.failure


def _until_stopped(base: Any) -> Any:
    class Server(base):  # type: ignore[misc]
        """Ends by returning; uvicorn's own raises the signal again when it is done."""

        on_started: Callable[[], None]
        on_stop: Callable[[], None]
        should_exit: bool

        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets=sockets)
            self.on_started()

        def handle_exit(self, number: int, frame: FrameType | None) -> None:
            self.force_exit = self.should_exit and number == signal.SIGINT
            self.should_exit = True
            self.on_stop()

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            signals = (signal.SIGINT, signal.SIGTERM)
            before = {number: signal.signal(number, self.handle_exit) for number in signals}
            try:
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)

    return Server


def _cannot_listen(host: str, port: int, error: Exception) -> ConfigError:
    number = getattr(error, "errno", None)
    if number == errno.EADDRINUSE:
        found, remedy = "another program uses it", "Stop that one, or choose another --port"
    elif number == errno.EACCES:
        found, remedy = "ports below 1024 are the administrator's", "Choose another --port"
    else:
        found = getattr(error, "strerror", None) or str(error)
        remedy = "Give an address of this machine as --host"
    return ConfigError(f"Cannot listen at {host}, port {port}: {found}. {remedy}.")
