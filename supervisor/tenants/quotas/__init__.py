"""Holds tenants to their limits of tasks, tokens, cost and connections, and shares the queue of all fairly between them.

Guarantees that a refusal names the tenant, the limit, its value and what is used, and that a flood of refusals publishes
few events. Must not know an agent, a worker or a queue: numbers are given to it.

Begin with `task_limits`; `fair_share` and `spending` decide and do nothing.
"""
