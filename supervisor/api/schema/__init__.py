"""Describes what users write as JSON Schema and in the reference: the configuration file, its tables, tasks and events.

Guarantees that all of it follows from the definitions of keys and events in `config` and `records`. A schema knows
one value at a time: names that refer to one another, and keys that contradict each other, are for `corrald --check`.

Must not know a daemon: `corral schema` and `corral man` work without one. Begin with `documents`, the schemas, then
`reference`, the tables of the page of the configuration.
"""
