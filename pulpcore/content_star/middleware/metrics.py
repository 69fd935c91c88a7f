"""OpenTelemetry metrics of content, under the names and with the attributes of upstream's.

Pulp's own `init_otel_meter` is not used: it keeps one meter, which the API's and ours would throw
out in turn, and it leaves the last minute unsent when a signal ends the process.
"""

import asyncio

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from starlette.types import Scope

from pulpcore.app.util import get_worker_name, normalize_http_status
from pulpcore.content_star.cache.store import ResponseCache
from pulpcore.content_star.request_info import RequestInfo

# Others share a value: clients may invent methods, and each combination of values costs memory.
METHODS = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"})

# Milliseconds that the end of the process waits for the collector to take the last figures.
CLOSE_TIMEOUT = 3000


class Metrics:
    """Observer that counts and exports as OpenTelemetry's own `OTEL_...` environment says."""

    def __init__(self, cache: ResponseCache) -> None:
        """Start the thread that exports."""
        self._provider = MeterProvider(
            [PeriodicExportingMetricReader(OTLPMetricExporter())],
            Resource.create({"service.name": "pulp-content"}),
            shutdown_on_exit=False,  # that is for `close`, since signals end without it
        )
        meter = self._provider.get_meter("pulp.metrics")
        self._duration = meter.create_histogram(
            "content.request_duration", "ms", "Time until the answer to a content request begins"
        )
        self._artifact_bytes = meter.create_counter(
            "artifacts.size.counter", "Bytes", "Bytes of artifacts that were sent"
        )
        self._requests = meter.create_counter(
            "content.requests", "1", "Content requests by type of distribution and answer source"
        )
        self._bytes = meter.create_counter(
            "content.sent", "By", "Bytes of bodies by type of distribution and answer source"
        )
        self._worker = get_worker_name()

        def state(options: CallbackOptions) -> list[Observation]:
            return [Observation(int(cache.problem is None), {"worker.name": self._worker})]

        meter.create_observable_gauge(
            "content_star.cache.enabled",
            [state],
            "1",
            "Whether what paths resolve to is kept in memory",
        )

    def record(self, scope: Scope, info: RequestInfo) -> None:
        """Count one exchange. All attributes have few values: no paths, no names but domains'."""
        method, status = scope["method"], normalize_http_status(info.status)
        self._duration.record(
            info.seconds_to_start * 1000,
            {
                "http.method": method if method in METHODS else "_OTHER",
                "http.status_code": status,
                "http.route": info.route,
                "worker.name": self._worker,
            },
        )
        kind = {
            "pulp_type": info.pulp_type or "none",
            "source": info.source or "none",
            "worker.name": self._worker,
        }
        self._requests.add(1, {**kind, "http.status_code": status})
        self._bytes.add(info.bytes_sent, kind)
        if info.source and info.status in (200, 206):
            self._artifact_bytes.add(
                info.bytes_sent,
                {"domain_name": info.domain, "worker_process": self._worker},
            )

    async def close(self) -> None:
        """Export what has been counted since the last time, and end the thread."""
        await asyncio.to_thread(self._provider.shutdown, CLOSE_TIMEOUT)
