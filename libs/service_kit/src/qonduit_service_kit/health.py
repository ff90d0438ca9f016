"""`python -m qonduit_service_kit.health READY_FILE`: ask a service on this machine whether it serves.

For the health checks of containers. It reads the ports from the service's ready file, then asks what is there: the
gRPC health service, or else /metrics. Exit code 0 is well; otherwise one line says what is not.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import grpc

TIMEOUT_S = 4.0
_HOST = "127.0.0.1"


class NotWellError(Exception):
    """The service does not serve."""


def check(ready_file: Path) -> None:
    """Return if the service that wrote the file serves.

    Raises:
        NotWellError: It does not; the text says what was seen.
    """
    try:
        ports = json.loads(ready_file.read_text())
    except FileNotFoundError as error:
        raise NotWellError("not started yet, or stopping: there is no ready file") from error
    if "grpc_port" in ports:
        _ask_grpc(ports["grpc_port"])
    else:
        _ask_metrics(ports["metrics_port"])


def _ask_metrics(port: int) -> None:
    connection = http.client.HTTPConnection(_HOST, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/metrics")
        status = connection.getresponse().status
    except OSError as error:
        raise NotWellError(f"/metrics on port {port} does not answer: {error}") from error
    finally:
        connection.close()
    if status != http.client.OK:
        raise NotWellError(f"/metrics on port {port} answers {status}")


def _ask_grpc(port: int) -> None:
    import grpc  # noqa: PLC0415 - Most services have no gRPC port, and the import takes as long as all the rest.
    from grpc_health.v1 import health_pb2, health_pb2_grpc  # noqa: PLC0415

    with _channel(port) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            raise NotWellError(f"gRPC on port {port}: {error.details()}") from error
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        raise NotWellError(f"gRPC on port {port} is not serving")


def _channel(port: int) -> grpc.Channel:
    """Return a channel, over TLS if the port speaks it.

    The certificate is trusted as it is shown, under a name that it has: nobody is between a service and its loopback.
    """
    import grpc  # noqa: PLC0415

    target = f"{_HOST}:{port}"
    certificate = _certificate(port)
    if certificate is None:
        return grpc.insecure_channel(target)
    name = _name(port, certificate)
    options = (("grpc.ssl_target_name_override", name),) if name else ()
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(certificate.encode()), options)


def _certificate(port: int) -> str | None:
    """Return the certificate that is shown on a port; None where no TLS is spoken."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with _shake_hands(port, context) as tls:
            shown = tls.getpeercert(binary_form=True)
    except (ssl.SSLError, ConnectionResetError):
        return None
    except OSError as error:
        raise NotWellError(f"gRPC on port {port} does not answer: {error}") from error
    return ssl.DER_cert_to_PEM_cert(shown) if shown else None


def _name(port: int, certificate: str) -> str:
    """Return the first host name in a certificate, '' if there is none; Python reads only one that it has verified."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=certificate)
    try:
        with _shake_hands(port, context) as tls:
            names: Any = (tls.getpeercert() or {}).get("subjectAltName", ())
    except OSError as error:
        raise NotWellError(f"the certificate on port {port} is not valid: {error}") from error
    return next((str(value).replace("*", "any") for kind, value in names if kind == "DNS"), "")


def _shake_hands(port: int, context: ssl.SSLContext) -> ssl.SSLSocket:
    with contextlib.ExitStack() as on_failure:
        plain = on_failure.enter_context(socket.create_connection((_HOST, port), timeout=TIMEOUT_S))
        tls = context.wrap_socket(plain)
        on_failure.pop_all()
    return tls


def main() -> None:
    """Check, and exit."""
    if len(sys.argv) != 2:  # noqa: PLR2004
        sys.exit("usage: python -m qonduit_service_kit.health READY_FILE")
    try:
        check(Path(sys.argv[1]))
    except NotWellError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
