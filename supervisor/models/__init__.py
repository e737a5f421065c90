"""Represents `[models.NAME]` as values: declarations, the usage and the cost of a call, and the keys of workers.

The room guarantees that a declaration is consistent, that the key of a worker cannot be made up, and that figures of both
shapes of API become the same five numbers. It must not know processes, sockets or tasks.

Begin with `declared`; `tables` decodes, `usage` reads figures, `keys` makes the keys and variables of a worker.
"""
