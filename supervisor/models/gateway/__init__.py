"""Serves the models of providers to workers: a reverse proxy that holds the keys, and measures what each call uses.

The room guarantees that a call is passed on only if the daemon has let it, that an answer that streams is passed on as it
comes, that what a call has used is read from the provider's answer, and that everything is bounded.

It must not know tasks, budgets or tenants: the daemon decides about each call, and is told what it has used.

Begin with `program`, the process; `calls` performs one call, by `shapes` (paths, errors, requests of both kinds of API),
`stream` (usage of an answer that streams) and `upstream` (tries, fallbacks); `journal` notes its usage. `process` starts and feeds the process.
"""
