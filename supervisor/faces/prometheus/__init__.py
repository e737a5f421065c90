"""Serves `GET /metrics` for Prometheus.

Guarantees that the number of series is bounded (agents and workers by name up to a limit, never tasks, sessions or free
text), that no figure is counted here that another room has, and that a scrape takes the loop's turn for a few
milliseconds at a time: figures are copied in slices, text is made in a thread.

Must not know how a figure is counted. prometheus_client is imported by the first scrape. Begin with `snapshot`, which copies
the figures, then `exposition`, which names them, and `face`, which answers.
"""
