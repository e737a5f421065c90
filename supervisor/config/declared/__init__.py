"""Represents tenants as values: their limits, with the defaults of their tiers, and their names.

Decodes `[tenants.NAME]` and `[tiers.NAME]`, and judges full names. Decides and does nothing: it must not know a
process, a clock or the store. Another room keeps, suspends and removes tenants.

Begin with `tenant`.
"""
