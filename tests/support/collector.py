"""An OpenTelemetry collector: an OTLP/HTTP endpoint that stores the exported metrics."""

import contextlib
import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)

from tests.support.instance import wait_until

Attributes = dict[str, str]

CONTENT = "pulp-content"


class Collector(ThreadingHTTPServer):
    """The metrics exported to a random port."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.exports: list[ExportMetricsServiceRequest] = []

    @property
    def environ(self) -> dict[str, str]:
        """Return the environment of a process that exports to this collector every 50 ms."""
        return {
            "PULP_OTEL_ENABLED": "true",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.server_port}",
            "OTEL_METRIC_EXPORT_INTERVAL": "50",
            "NO_PROXY": "*",
        }

    def metrics(self) -> dict[str, Any]:
        """Return the newest state of each metric of content; values are totals since the start."""
        return {
            metric.name: metric
            for resource in self.resources()
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def resources(self) -> list[Any]:
        """Return the exports of content; the API in the same process has exports of its own."""
        resources = [found for export in list(self.exports) for found in export.resource_metrics]
        names = [_attributes(found.resource)["service.name"] for found in resources]
        return [found for found, name in zip(resources, names, strict=True) if name == CONTENT]

    def refresh(self) -> None:
        """Wait until everything counted so far has been exported.

        The next export may have been put together already, the one after it has not.
        """
        enough = len(self.resources()) + 2
        wait_until(lambda: len(self.resources()) >= enough)

    def points(self, name: str, **wanted: str) -> list[tuple[Attributes, Any]]:
        """Attributes and values of a metric, where the attributes are as wanted.

        The value of a counter or gauge is a number, that of a histogram how often something was
        recorded.
        """
        metric = self.metrics().get(name)
        if metric is None:
            return []
        if metric.HasField("histogram"):
            points = [(_attributes(point), point.count) for point in metric.histogram.data_points]
        else:
            numbers = metric.gauge if metric.HasField("gauge") else metric.sum
            points = [(_attributes(point), point.as_int) for point in numbers.data_points]
        return [(found, value) for found, value in points if wanted.items() <= found.items()]

    def total(self, name: str, **wanted: str) -> int:
        """Return the sum of the values of a metric."""
        return sum(value for _, value in self.points(name, **wanted))


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        assert self.path == "/v1/metrics"
        self.server.exports.append(ExportMetricsServiceRequest.FromString(body))
        answer = ExportMetricsServiceResponse().SerializeToString()
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args: Any) -> None:
        """Keep the tests' output clean."""


@contextlib.contextmanager
def collecting() -> Iterator[Collector]:
    """Run a collector."""
    with Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever)
        thread.start()
        try:
            yield collector
        finally:
            collector.shutdown()
            thread.join()


def _attributes(holder: Any) -> Attributes:
    return {pair.key: pair.value.string_value for pair in holder.attributes}
