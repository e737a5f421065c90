"""Converts the files of other supervisors to a corral configuration.

A converter reads one format and returns a Draft. Its tables say what each key of the format is in corral, or why it has
no equivalent, and what the other supervisor does where its file says nothing; so nothing is dropped in silence. What
corral would refuse becomes a note or a comment before it is written. Converters start nothing and know no daemon; pm2's
JavaScript alone is evaluated, by node. Begin with `draft`, then `import_file`, which is the command.
"""
