"""The codec and the wire twice: as they are, and as an environment without msgspec has them."""

import importlib
import sys
from types import ModuleType
from typing import cast

from corral.worker.contract import codec, errors, jsonrpc


def _without_msgspec(name: str) -> ModuleType:
    """`corral.worker.contract.NAME` loaded a second time, where `import msgspec` fails; the errors are shared."""
    package = "corral_without_msgspec"
    if package not in sys.modules:
        sys.modules[package] = ModuleType(package)
        sys.modules[package].__path__ = list(sys.modules["corral.worker.contract"].__path__)
        sys.modules[f"{package}.errors"] = errors
    there = sys.modules["msgspec"]
    sys.modules["msgspec"] = cast("ModuleType", None)  # the documented way to make an import fail
    try:
        return importlib.import_module(f"{package}.{name}")
    finally:
        sys.modules["msgspec"] = there


CODECS: dict[str, ModuleType] = {"msgspec": codec, "json": _without_msgspec("codec")}
WIRES: dict[str, ModuleType] = {"msgspec": jsonrpc, "json": _without_msgspec("jsonrpc")}
