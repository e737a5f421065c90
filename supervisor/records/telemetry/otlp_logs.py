"""Sends records of the logs of workers over OTLP: the text is the body, all else are attributes."""

import base64
import time
from collections.abc import Mapping, Sequence

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExportResult
from opentelemetry.trace import TraceFlags

from corral.worker.contract import codec

from .otlp import TIMEOUT_S, Origin
from .tracing import unix_ns

SEVERITIES = {
    "trace": SeverityNumber.TRACE,
    "debug": SeverityNumber.DEBUG,
    "info": SeverityNumber.INFO,
    "notice": SeverityNumber.INFO2,
    "warn": SeverityNumber.WARN,
    "warning": SeverityNumber.WARN,
    "error": SeverityNumber.ERROR,
    "critical": SeverityNumber.FATAL,
    "alert": SeverityNumber.FATAL2,
    "emergency": SeverityNumber.FATAL4,
    "fatal": SeverityNumber.FATAL,
}
"""Levels as the data model of logs numbers them; a line that a worker has printed itself has none."""

ATTRIBUTES = {
    "agent": "gen_ai.agent.name",
    "worker": "gen_ai.agent.id",
    "stream": "log.iostream",
    "task": "corral.task.id",
    "skipped_lines": "corral.skipped_lines",
    "lost_lines": "corral.lost_lines",
    "lost_bytes": "corral.lost_bytes",
}
"""Keys of a record, and the attributes that they become."""


class LogExporter:
    """Sends records to one collector."""

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self._exporter = OTLPLogExporter(endpoint=origin.endpoint("logs"), timeout=TIMEOUT_S)

    def send(self, records: Sequence[Mapping[str, object]]) -> bool:
        """Sends records of logs; returns whether the collector took them. It may take TIMEOUT_S."""
        origin = self._origin
        batch = [ReadableLogRecord(entry(each), origin.resource, origin.scope) for each in records]
        return self._exporter.export(batch) is LogRecordExportResult.SUCCESS


def entry(record: Mapping[str, object]) -> LogRecord:
    """Returns the entry of one record of a log."""
    coded, level, fields = record.get("bytes"), record.get("level"), record.get("fields")
    body = str(record.get("text", "")) if coded is None else base64.b64decode(str(coded))
    attributes = {name: _plain(record[key]) for key, name in ATTRIBUTES.items() if record.get(key)}
    if isinstance(fields, Mapping):
        attributes |= {f"corral.field.{key}": _plain(value) for key, value in fields.items()}
    return LogRecord(
        timestamp=unix_ns(str(record["at"])),
        observed_timestamp=time.time_ns(),
        trace_id=0,
        span_id=0,
        trace_flags=TraceFlags(0),
        severity_text=None if level is None else str(level),
        severity_number=None if level is None else SEVERITIES.get(str(level).lower()),
        body=body,
        attributes=attributes,
    )


def _plain(value: object) -> str | int | float | bool:
    """Returns a value as an attribute may have it: nested values are JSON."""
    if isinstance(value, str | int | float | bool):
        return value
    return codec.encode(value).decode()
