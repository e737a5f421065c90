"""Decides about each call of a model, and counts what it has used for its task, agent, tenant and model.

The room guarantees that a call is attributed to the worker whose key it has, and to one of the tasks that this worker runs;
that a budget that is used up refuses calls; and that each call is counted once, whatever is killed.

It must not know HTTP or providers: the room `gateway` does.

Begin with `desk`, which decides; `ledger` has the sums, `journals` what is not in them yet, `access` gives workers their variables, `listing` shows models.
"""
