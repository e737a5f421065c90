"""A collector that decodes what it is sent by OTLP over HTTP."""

import http.server
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple, Self

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from daemon_process import BOUND_S


class Received(NamedTuple):
    """A span as it arrived, ids in hexadecimal digits."""

    name: str
    trace: str
    span: str
    parent: str
    kind: int
    start_ns: int
    end_ns: int
    is_error: bool
    attributes: dict[str, Any]


class Line(NamedTuple):
    """A log record as it arrived."""

    body: str | bytes
    severity: int
    time_ns: int
    attributes: dict[str, Any]


class Receiver:
    """Listens on a port of loopback, and keeps what it is sent; `status` is its answer, None to answer nothing until the end."""

    def __init__(self) -> None:
        self.spans: list[Received] = []
        self.lines: list[Line] = []
        self.metrics: dict[str, Any] = {}
        """Name of a metric -> the newest message about it."""
        self.requests = 0
        self.status: int | None = 200
        self._changed = threading.Condition()
        self._ending = threading.Event()
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                receiver.take(self)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base's own
                """Says nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"

    def take(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        with self._changed:
            self.requests += 1
            self._changed.notify_all()
        if self.status is None:
            self._ending.wait(BOUND_S)
            return
        if self.status == 200:
            with self._changed:
                self._keep(handler.path, body)
                self._changed.notify_all()
        answer = ExportTraceServiceResponse().SerializeToString()
        handler.send_response(self.status)
        handler.send_header("Content-Type", "application/x-protobuf")
        handler.send_header("Content-Length", str(len(answer)))
        handler.end_headers()
        handler.wfile.write(answer)

    def _keep(self, path: str, body: bytes) -> None:
        match path:
            case "/v1/traces":
                self.spans += _decoded(ExportTraceServiceRequest.FromString(body))
            case "/v1/logs":
                self.lines += _lines(ExportLogsServiceRequest.FromString(body))
            case "/v1/metrics":
                for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                    _check(resource.resource)
                    for scope in resource.scope_metrics:
                        self.metrics |= {each.name: each for each in scope.metrics}
            case _:
                raise AssertionError(path)

    def until(self, is_enough: Callable[[Self], object]) -> list[Received]:
        """Waits until it has enough; returns all spans."""
        with self._changed:
            assert self._changed.wait_for(lambda: is_enough(self), BOUND_S), vars(self)
            return list(self.spans)

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._server.shutdown()
        self._server.server_close()


def _decoded(request: ExportTraceServiceRequest) -> list[Received]:
    found: list[Received] = []
    for resource in request.resource_spans:
        _check(resource.resource)
        for scope in resource.scope_spans:
            for span in scope.spans:
                found.append(
                    Received(
                        span.name,
                        span.trace_id.hex(),
                        span.span_id.hex(),
                        span.parent_span_id.hex(),
                        span.kind,
                        span.start_time_unix_nano,
                        span.end_time_unix_nano,
                        span.status.code == 2,
                        attributes_of(span),
                    )
                )
    return found


def attributes_of(message: Any) -> dict[str, Any]:  # Any: a message of protobuf
    """The attributes of a span, a line or a point."""
    return {each.key: _value(each.value) for each in message.attributes}


def _value(value: Any) -> Any:  # Any: a message of protobuf
    kind = value.WhichOneof("value")
    assert kind is not None
    return getattr(value, kind)


def _lines(request: ExportLogsServiceRequest) -> list[Line]:
    found: list[Line] = []
    for resource in request.resource_logs:
        _check(resource.resource)
        for scope in resource.scope_logs:
            for each in scope.log_records:
                number = int(each.severity_number)
                body = _value(each.body)
                found.append(Line(body, number, each.time_unix_nano, attributes_of(each)))
    return found


def _check(resource: Any) -> None:  # Any: a message of protobuf
    assert attributes_of(resource)["service.name"] == "corral"
