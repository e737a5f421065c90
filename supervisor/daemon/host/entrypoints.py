"""Finds the entrypoints of a configuration that name no module or no object, for `--check`.

The agent's own interpreter is asked, in its folder, since it alone knows its paths, its `.pth` files and its grammar: one
process for all agents that share them. It looks for the module's file and reads it, and runs none of it, so that a
name which the module makes by other means is not judged. The daemon itself does not ask: a start tells, a moment later.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from corral.supervisor.config.decoding.decoder import line_of, places_of
from corral.supervisor.config.decoding.values import dotted
from corral.supervisor.config.spec.references import path_of
from corral.supervisor.config.spec.spec import Spec

ANSWER_S = 20.0

SEARCH = r"""
import ast, difflib, importlib.machinery, importlib.util, json, os, sys
sys.path.append(os.getcwd())

def find(name):
    own = name + ".py"
    if "." not in name and os.path.isfile(own):
        return importlib.util.spec_from_file_location(name, own)
    first, *others = name.split(".")
    spec = importlib.util.find_spec(first)
    for each in others:
        if spec is None or spec.submodule_search_locations is None:
            return None
        # By its own name: of one with dots, a folder without __init__.py looks for its parent among imported modules.
        spec = importlib.machinery.PathFinder.find_spec(each, list(spec.submodule_search_locations))
    return spec

def names_in(tree):
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            if node.id in ("globals", "vars", "setattr", "exec"):
                return None
            if isinstance(node.ctx, ast.Store):
                found.add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.alias):
            found.add(node.asname or node.name.partition(".")[0])
        elif isinstance(node, ast.MatchAs) and node.name:
            found.add(node.name)
    return None if found & {"*", "__getattr__"} else found

def reason(entrypoint):
    name, _, path = entrypoint.partition(":")
    spec = find(name)
    if spec is None:
        return "there is no module " + json.dumps(name) + " in " + os.getcwd() + " or in the path of " + sys.executable
    if not (spec.origin or "").endswith(".py"):
        return None
    with open(spec.origin, "rb") as file:
        text = file.read()
    try:
        names = names_in(ast.parse(text, spec.origin))
    except (SyntaxError, ValueError) as error:
        return f"{spec.origin} cannot be read: {error}"
    first = path.partition(".")[0]
    if names is None or first in names or os.path.exists(os.path.join(os.path.dirname(spec.origin), first + ".py")):
        return None
    near = difflib.get_close_matches(first, names, 1)
    return f"{spec.origin} has no " + json.dumps(first) + ("; did you mean " + json.dumps(near[0]) + "?" if near else "")

print(json.dumps([reason(each) for each in json.loads(sys.argv[1])]))
"""


def entrypoint_problems(specs: Iterable[Spec], environ: Mapping[str, str]) -> list[str]:
    """Returns a line for each entrypoint that cannot be found; where its interpreter does not answer, none."""
    groups: dict[tuple[str, str, str], list[Spec]] = {}
    for spec in specs:
        if spec.entrypoint is not None and not spec.disabled and spec.process.isolation != "container":
            inherited = environ.get("PYTHONPATH", "") if "PYTHONPATH" in spec.process.inherit_environment else ""
            place = spec.python or sys.executable, spec.process.working_directory or os.getcwd()
            groups.setdefault((*place, spec.environment.get("PYTHONPATH", inherited)), []).append(spec)
    found: list[str] = []
    for (python, folder, path), users in groups.items():
        reasons = _reasons(python, folder, path, [str(spec.entrypoint) for spec in users])
        found += [_described(spec, reason) for spec, reason in zip(users, reasons, strict=False) if reason]
    return found


def _reasons(python: str, folder: str, path: str, entrypoints: list[str]) -> list[str | None]:
    environ = {**os.environ, "PYTHONPATH": path}
    command = [python, "-P", "-c", SEARCH, json.dumps(entrypoints)]
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=ANSWER_S,
            check=True,
        )
        return list(json.loads(done.stdout))
    except (OSError, subprocess.SubprocessError, ValueError):  # the start of its worker tells
        return []


def _described(spec: Spec, reason: str) -> str:
    key = (*path_of(spec), "entrypoint")
    try:
        line = line_of(places_of(Path(spec.source).read_text()), key)
    except OSError:
        line = None
    place = f"{spec.source}:{line}: " if line else ""
    return f'{place}{dotted(key)} = "{spec.entrypoint}": {reason}'
