"""Defines a configuration as pure values: decodes a file or one table, checks it, and compares two of them.

Guarantees that every value of a `Spec` passed its rule, that names, requirements and memberships hold over
the whole set, and that an error names file, line, key, value and reason, without a secret.

Must not know the machine: a program, a user or a folder may come or go after the file was read, so that is
checked where it is used. Only `sources` does I/O: it reads `.env` and the files that the main file includes.

Begin with `spec`, where almost all keys are defined, then `loader`, which makes a Config of a file; `diff` is the plan of a
reload, and `allowed` what a tenant may write.
"""
