"""Holds the questions that tasks ask of persons, until each is answered, expires, or is withdrawn with its task.

Guarantees that a question is in the store before anyone is told of it, and its answer before it is acknowledged. Must not
know a worker, or who may answer.

Begin with `approvals`: it asks and answers; `answers` decides which words are an answer.
"""
