"""Keeps the daemon's durable data in one SQLite file.

Guarantees that an acknowledged write survives `kill -9` and a power cut, whole; that a stalled or full disk makes writes fail
within seconds instead of waiting without end; that one daemon at a time has the file open; and that older files are
migrated when they are opened. Knows nothing of the meaning of the rows.

Begin with `store` (write, post, read); `schema` is the file, its tables and migrations. `batch` writes many rows with one
statement, `sealed` detects damage in stored records, `incarnations` numbers the lives of workers.
"""
