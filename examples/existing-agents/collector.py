"""A collector of OpenTelemetry for the demo: it keeps the names and attributes of spans, as any collector would be sent them."""

import http.server
import threading

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


class Collector:
    """Listens on loopback until it is closed; `spans` are pairs of a name and its attributes."""

    def __init__(self):
        self.spans = []
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.take(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.end_headers()
                self.wfile.write(ExportTraceServiceResponse().SerializeToString())

            def log_message(self, *_):
                """Says nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def take(self, request):
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    kept = {each.key: value_of(each.value) for each in span.attributes}
                    self.spans.append((span.name, kept))

    def close(self):
        self._server.shutdown()
        self._server.server_close()


def value_of(value):
    return getattr(value, value.WhichOneof("value"))
