"""Runs objects of frameworks as agents: LangGraph, pydantic-ai, OpenAI Agents SDK, agno, CrewAI, MCP servers, functions.

Guarantees that a framework is recognised by the names of an object's classes, so that none is imported that the object's
own module has not imported, and that the pool's tools reach it in its own shape and within the allow-list of the task.
Must not know the protocol: it uses the task's methods as any handler does. Begin with `recognition` (which adapter an
object has), then `exchange` (what all adapters share), then one module per framework.
"""
