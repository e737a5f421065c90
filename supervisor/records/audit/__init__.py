"""Records every change and every refusal with its caller, its time and its result.

Guarantees that a record cannot be changed, removed or inserted without `verify` finding it (a hash chain), that a change is
answered after its record is durable or its delay is logged, and that a caller cannot flood the audit with refusals.
Knows nothing of the methods that are recorded.

Begin with `log`, the audit of one daemon; `hash_chain` is the format and its verification.
"""
