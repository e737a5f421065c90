"""Measures processor time and memory of process trees, and decides about the figures.

The room guarantees that a look at an idle tree costs microseconds, that a tree near its limit is looked at before it can
pass it by much, and that no look holds up the loop.

It must not know workers or agents: it is told roots of trees and limits, and calls back with samples.

Begin with `sampler` (when which tree is looked at), then `tree` (the look). `limits` decides about the figures, and
`task_usage` attributes them to a task.
"""
