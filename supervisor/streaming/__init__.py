"""Holds the parts that running tasks stream, and sends them to readers.

Guarantees that a part costs its worker no wait for any reader: the parts of a task wait in one buffer, bounded in
bytes, which every reader reads at its own pace; that all tasks together keep no more than a bound; that parts reach a
reader in order, text merged, and with the number of those that it lost; that a new beginning of the task is told. Parts
are never stored. Must not know how a task is queued or executed, or which transport a reader came from.

Begin with `buffer`, which decides; `sender` acts for one reader.
"""
