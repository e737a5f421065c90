"""Names places in source files for messages: of a call, and of the code that raised an exception.

A place reads `agent.py, line 7`; the path is relative where the file is below the working directory. Standard library
alone, and little of it: it is imported with the agent.
"""

import os
from types import FrameType, TracebackType

from .bytecode import is_installed

CORRAL = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))) + os.sep


def place_of(file: str, line: int) -> str:
    """Returns the file and line in words."""
    try:
        folder = os.getcwd() + os.sep
    except OSError:  # it was removed
        folder = ""
    return f"{file.removeprefix(folder)}, line {line}"


def place_of_error(error: BaseException) -> str:
    """Returns the place of the last line of the agent's own code that ran before the exception; "" if there is none."""
    found = ""
    trace: TracebackType | None = error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not (file.startswith(("<", CORRAL)) or is_installed(file)):
            found = place_of(file, trace.tb_lineno)
        trace = trace.tb_next
    return found


def place_of_caller(frame: FrameType | None) -> str:
    """Returns the place that a frame has reached; "" for none."""
    return "" if frame is None else place_of(frame.f_code.co_filename, frame.f_lineno)
