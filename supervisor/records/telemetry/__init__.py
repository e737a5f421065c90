"""Traces tasks and tool calls, and exports spans, figures and log lines over OTLP where `[telemetry] otlp` is set.

The ids of a task's spans are computed from its record, so that nothing is kept while it runs, and its trace goes on
under the next daemon. A span is made when what it is about has ended. `tracing` decides which spans there are, and how they are named;
`exporter`, `otlp_metrics` and `otlp_logs` hand what they are given to the SDK of OpenTelemetry, and are
imported only where they are wanted. Nothing here waits for a collector: spans that cannot be sent are dropped, and counted.
Begin to read in `tracing`.
"""
