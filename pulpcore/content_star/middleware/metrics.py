"""OpenTelemetry metrics of content requests, with the names and attributes of upstream.

Pulp's `init_otel_meter` is not used: it has one global meter, which the API and the content app
would replace in turn, and it does not export the last minute when a signal ends the process.
"""

import asyncio

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from starlette.types import Scope

from pulpcore.content_star.cache.store import ResponseCache
from pulpcore.content_star.database.availability import availability
from pulpcore.content_star.request_info import RequestInfo
from pulpcore.content_star.upstream import get_worker_name, normalize_http_status

# Other methods are recorded as `_OTHER`: each combination of attributes costs memory.
METHODS = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"})

# Milliseconds for the last export at the end of the process.
CLOSE_TIMEOUT = 3000


class Metrics:
    """Observer that records requests; `OTEL_...` variables configure the export."""

    def __init__(self, cache: ResponseCache) -> None:
        """Start the export thread."""
        self._provider = MeterProvider(
            [PeriodicExportingMetricReader(OTLPMetricExporter())],
            Resource.create({"service.name": "pulp-content"}),
            shutdown_on_exit=False,  # `close` does it; after a signal, `atexit` does not run
        )
        meter = self._provider.get_meter("pulp.metrics")
        self._duration = meter.create_histogram(
            "content.request_duration", "ms", "Time until the response to a content request starts"
        )
        self._artifact_bytes = meter.create_counter(
            "artifacts.size.counter", "Bytes", "Bytes of artifacts sent"
        )
        self._requests = meter.create_counter(
            "content.requests",
            "1",
            "Content requests by type of distribution and source of the response",
        )
        self._bytes = meter.create_counter(
            "content.sent",
            "By",
            "Bytes of bodies by type of distribution and source of the response",
        )
        self._stale = meter.create_counter(
            "content_star.cache.stale",
            "1",
            "Stale responses from the cache while the database does not answer",
        )
        self._worker = get_worker_name()

        def state(options: CallbackOptions) -> list[Observation]:
            return [Observation(int(cache.problem is None), {"worker.name": self._worker})]

        meter.create_observable_gauge(
            "content_star.cache.enabled",
            [state],
            "1",
            "Whether the response cache is enabled",
        )

        def answers(options: CallbackOptions) -> list[Observation]:
            return [
                Observation(int(availability.down_since is None), {"worker.name": self._worker})
            ]

        meter.create_observable_gauge(
            "content_star.database.available",
            [answers],
            "1",
            "Whether the database answers",
        )

    def record(self, scope: Scope, info: RequestInfo) -> None:
        """Record one request. Attributes have few values: no paths, and no names except domains."""
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
        if info.stale_seconds is not None:
            self._stale.add(1, {"worker.name": self._worker})
        if info.source and info.status in (200, 206):
            self._artifact_bytes.add(
                info.bytes_sent,
                {"domain_name": info.domain, "worker_process": self._worker},
            )

    async def close(self) -> None:
        """Export the remaining metrics and stop the export thread."""
        await asyncio.to_thread(self._provider.shutdown, CLOSE_TIMEOUT)
