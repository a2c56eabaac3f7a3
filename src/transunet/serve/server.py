"""Listening: the socket first, so that a taken port is told before anything is loaded."""

import errno
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from transunet.errors import ConfigError
from transunet.serve.api.app import create_app
from transunet.serve.service import Service

_LAST_ANSWERS_SECONDS = 5
"""How long answers that are being given may take once the server is asked to stop."""


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens at the address.

    Raises:
        ConfigError: when the port is in use, or the address is not this machine's.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(socket.SOMAXCONN)
    except (OSError, OverflowError) as error:
        listener.close()
        number = getattr(error, "errno", None)
        if number == errno.EADDRINUSE:
            why, remedy = "another program uses it", "Stop that one, or choose another --port"
        elif number == errno.EACCES:
            why, remedy = "ports below 1024 are the administrator's", "Choose another --port"
        else:
            why = getattr(error, "strerror", None) or str(error)
            remedy = "Give an address of this machine as --host"
        raise ConfigError(f"Cannot listen at {host}, port {port}: {why}. {remedy}.") from None
    return listener


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

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            service.stopping = True
            super().handle_exit(sig, frame)

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
        timeout_graceful_shutdown=_LAST_ANSWERS_SECONDS,
    )
    server = Server(config)
    # When it has stopped, uvicorn raises the signal again; it is to return instead.
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, server.handle_exit) for number in signals}
    try:
        server.run(sockets=[listener])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if service.failure is not None:
        raise service.failure
