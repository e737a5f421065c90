"""Converts the files of other supervisors to a corral configuration.

A converter reads one format and returns a Draft: tables for settings with an equivalent, and a note with the reason
for every other one, so that nothing is dropped in silence. Converters start nothing and know no daemon; pm2's
JavaScript alone is evaluated, by node. Begin with `draft`, then `import_file`, which is the command.
"""
