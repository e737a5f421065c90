"""Sends the figures of `/metrics` over OTLP, under the same names.

A counter is a cumulative sum, a histogram has the same bounds, and what is 1 of something is a gauge. Nothing is counted here.
"""

from collections.abc import Iterable, Mapping

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from prometheus_client.metrics_core import Metric as Source

from .otlp import TIMEOUT_S, Origin

UNITS = {"_seconds": "s", "_bytes": "By", "_ratio": "1"}
"""Unit in UCUM of a name with that end."""


class MetricsExporter:
    """Sends figures to one collector."""

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self._exporter = OTLPMetricExporter(endpoint=origin.endpoint("metrics"), timeout=TIMEOUT_S)

    def send(self, sources: Iterable[Source], started_ns: int, now_ns: int) -> bool:
        """Sends the figures of one moment; returns whether the collector took them. It may take TIMEOUT_S."""
        found = [metric(each, started_ns, now_ns) for each in sources]
        scope = ScopeMetrics(self._origin.scope, [each for each in found if each.data.data_points], "")
        data = MetricsData([ResourceMetrics(self._origin.resource, [scope], "")])
        return self._exporter.export(data) is MetricExportResult.SUCCESS


def metric(source: Source, started_ns: int, now_ns: int) -> Metric:
    """Returns a metric of Prometheus as one of OpenTelemetry: `started_ns` is when its counters were 0."""
    unit = next((unit for end, unit in UNITS.items() if source.name.endswith(end)), "")
    if source.type == "histogram":
        histogram = Histogram(_histogram_points(source, started_ns, now_ns), AggregationTemporality.CUMULATIVE)
        return Metric(source.name, source.documentation, unit, histogram)
    wanted = f"{source.name}_total" if source.type == "counter" else None
    numbers = [
        NumberDataPoint(each.labels, started_ns, now_ns, float(each.value))
        for each in source.samples
        if wanted in (None, each.name)
    ]
    if source.type == "counter":
        total = Sum(numbers, AggregationTemporality.CUMULATIVE, is_monotonic=True)
        return Metric(source.name, source.documentation, unit, total)
    return Metric(source.name, source.documentation, unit, Gauge(numbers))


def _histogram_points(source: Source, started_ns: int, now_ns: int) -> list[HistogramDataPoint]:
    series: dict[tuple[tuple[str, str], ...], tuple[list[tuple[float, int]], float]] = {}
    for each in source.samples:
        labels = {name: value for name, value in each.labels.items() if name != "le"}
        buckets, total = series.get(key := tuple(sorted(labels.items())), ([], 0.0))
        if each.name.endswith("_bucket"):
            buckets.append((float(each.labels["le"]), int(each.value)))
        elif each.name.endswith("_sum"):
            total = each.value
        series[key] = (buckets, total)
    return [
        _histogram_point(dict(labels), sorted(buckets), total, (started_ns, now_ns))
        for labels, (buckets, total) in series.items()
    ]


def _histogram_point(
    labels: Mapping[str, str], buckets: list[tuple[float, int]], total: float, times_ns: tuple[int, int]
) -> HistogramDataPoint:
    """Returns the point of cumulative buckets (bound, count up to it); the last is the infinite one."""
    counts = [count for _, count in buckets]
    own = [count - before for count, before in zip(counts, [0, *counts], strict=False)]
    return HistogramDataPoint(
        attributes=labels,
        start_time_unix_nano=times_ns[0],
        time_unix_nano=times_ns[1],
        count=counts[-1] if counts else 0,
        sum=total,
        bucket_counts=own,
        explicit_bounds=[bound for bound, _ in buckets[:-1]],
        min=None,  # type: ignore[arg-type]  # optional in the protocol, and not known
        max=None,  # type: ignore[arg-type]  # as above
    )
