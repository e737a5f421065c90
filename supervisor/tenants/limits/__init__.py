"""Holds tenants to their limits of memory, processes and processor time by sums of process trees.

Guarantees them where no control group does: a part with a controller is left to the kernel, by `slices`. Must not know a task.

Begin with `trees`; `sums` decides. `disk` measures the folders of a tenant.
"""
