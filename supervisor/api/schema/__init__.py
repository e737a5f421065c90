"""Describes what users write as JSON Schema: the configuration file, its tables, tasks and events.

Guarantees that the keys are those of the Structs in `config`, each with the rule that decodes it. A schema knows
one value at a time: names that refer to one another, and keys that contradict each other, are for `corrald --check`.

Must not know a daemon: `corral schema` works without one. Begin with `documents`, then `rules`.
"""
