"""Decodes TOML and tables to typed values by declared rules, and evaluates the expressions of workflows.

Guarantees that an error names file, line, key, value and reason, that all mistakes of a document are told at once,
and that no secret is repeated. It does no I/O.

Must not know any key of corral: which sections and keys there are is the matter of `declared` and `spec`.

Begin with `keys`, which says how a key is defined, then `values`, the rules of single values, `shapes`, what a rule says
of itself to schema and reference, and `decoder`, which applies the rules to the keys of a table.
"""
