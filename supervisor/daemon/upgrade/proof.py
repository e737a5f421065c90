"""Lets the next program prove, as a process beside the daemon, that it can go on: it reads configuration, store and handover."""

import asyncio
import contextlib
import sys
from pathlib import Path

import msgspec
from msgspec import Struct

from corral import __version__
from corral.supervisor.records.store.schema import MIGRATIONS, layout_of
from corral.worker.contract.errors import Conflict, Timeout

from . import handover
from .handover import Program

PROOF_S = 30.0
"""Seconds that a program may take to prove that it can go on."""

WORDS_CHARS = 500
"""Characters of what a program has written that are quoted."""


class Proof(Struct, frozen=True):
    """Says which version a program is."""

    version: str


async def prove(program: Program, fd: int) -> Proof:
    """Returns what a program says of itself when it is shown the handover at `fd`.

    Raises:
        Conflict: it cannot go on; the text has its words.
        Timeout: it says nothing.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *program.command(f"--prove={fd}"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            pass_fds=(fd,),
            start_new_session=True,
        )
    except OSError as error:
        raise Conflict(
            f'cannot upgrade: cannot execute "{program.python}": {error.strerror}', reason="unproved"
        ) from error
    try:
        async with asyncio.timeout(PROOF_S):
            output, words = await process.communicate()
    except TimeoutError:
        text = f'cannot upgrade: "{program.python}" has not proved within {PROOF_S:g} s that it can go on'
        raise Timeout(text, reason="unproved") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            if process.returncode is None:
                process.kill()
                await process.wait()
    if process.returncode:
        said = words.decode("utf-8", "replace").strip()[-WORDS_CHARS:].replace("\n", "; ")
        text = f'cannot upgrade: "{program.python}" cannot go on: {said or f"exit status {process.returncode}"}'
        raise Conflict(text, reason="unproved", status=process.returncode)
    try:
        return msgspec.json.decode(output.strip().rpartition(b"\n")[2], type=Proof)
    except msgspec.MsgspecError:
        text = f'cannot upgrade: "{program.python}" is not corrald, or of a version before upgrades'
        raise Conflict(text, reason="unproved") from None


def show(fd: int, state_dir: Path) -> None:
    """Writes the proof of this program: its configuration was read before.

    Raises:
        Conflict: it cannot go on from the handover at `fd`, or uses another layout of the store.
    """
    handover.read(fd)
    layout = layout_of(state_dir / "corral.db")
    if layout != len(MIGRATIONS):
        text = f"the store has layout {layout}, this version {len(MIGRATIONS)}: stop the daemon, and start the other version"
        raise Conflict(text, reason="store", layout=layout, known=len(MIGRATIONS))
    sys.stdout.buffer.write(msgspec.json.encode(Proof(__version__)) + b"\n")
