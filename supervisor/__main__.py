"""Runs the program `corrald`: the daemon, in the foreground."""

import argparse
import contextlib
import gc
import logging
import os
import shutil
import socket
import sys
from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import NoReturn

import setproctitle
import uvloop

from corral import __version__
from corral.build import with_commit
from corral.worker.contract.errors import CorralError, InvalidParams

from .config.secrets.secrets import Secrets
from .config.spec.references import tool_warnings
from .config.spec.sources import literal_warnings
from .config.spec.spec import Config, Daemon
from .daemon import run as daemon
from .daemon.host import background
from .daemon.host.entrypoints import entrypoint_problems
from .daemon.host.installation import Paths, default_paths, read_config
from .daemon.host.lifeline import Lifeline
from .daemon.host.state_folder import check_state_folder
from .daemon.upgrade import proof
from .daemon.upgrade.handover import read
from .daemon.upgrade.replacement import Adoption, giving_back
from .faces.http.admission import address_of
from .faces.socket.socket_lock import inherited_socket
from .records.logs.daemon_log import STDERR, DaemonLog
from .records.logs.journald import is_stream_to_journal
from .workers.process.launch import secret_problems

ERROR_MARK = "<3>"
"""The prefix of a line of stderr that the journal takes as an error; see sd-daemon(3)."""

GC_THRESHOLDS = (10_000, 5, 200)
"""Thresholds of gc: cycles come from errors alone, and a collection takes tens of milliseconds with thousands of workers.

A second generation of 20 times 10,000 objects took 105 ms, as the tasks of a long queue ended; of 5 times it takes 25.
"""


def main() -> None:
    """Runs the daemon. Exit status: 0 after a stop, 2 for a wrong configuration, 1 for all else."""
    arguments = _parser().parse_args()
    if arguments.version:
        print(f"corrald {with_commit(__version__)}")
        return
    _open_standard_streams()
    stream = os.environ.pop("JOURNAL_STREAM", "")  # about our stderr alone
    mark = ERROR_MARK if is_stream_to_journal(STDERR, stream) else ""
    try:
        lifeline = None if arguments.lifeline is None else Lifeline.of(arguments.lifeline)
        adoption = (
            None
            if arguments.take_up is None
            else Adoption(read(arguments.take_up), arguments.take_up, arguments.returned)
        )
        if adoption is not None:
            adoption.begin()
        takes_socket = not arguments.check and arguments.prove is None
        inherited = inherited_socket(os.environ, os.getpid()) if takes_socket else None
        with giving_back(adoption):
            paths, config = _locate(arguments, os.environ, os.getuid(), inherited)
        if arguments.prove is not None:
            proof.show(arguments.prove, paths.state_dir)
            return
    except CorralError as error:
        _fail(error, mark)
    if arguments.check:
        secrets = Secrets.of(config.daemon.secrets_file, os.environ, paths.state_dir)
        specs = config.agents.values()
        problems = [*secret_problems(specs, secrets), *entrypoint_problems(specs, os.environ)]
        for problem in [*problems, *tool_warnings(config), *literal_warnings(specs)]:
            print(f"corrald: warning: {problem}", file=sys.stderr)
        count = len(config.agents)
        print(f"{paths.config or 'no configuration file'}: ok, {count} agents and MCP servers")
        return
    log_file = None
    try:
        if arguments.detach:
            _detach(arguments, paths)
            return
        if arguments.log_file is not None:
            log_file = background.LogFile.open(arguments.log_file)
    except CorralError as error:
        _fail(error, mark)
    settings = config.daemon
    daemon_log = DaemonLog(
        settings.log_level,
        settings.log_format,
        journal_stream="" if log_file else stream,
        place="" if log_file is None else f'"{log_file.path}"',
        on_idle=None if log_file is None else log_file.rotate,
    )
    setproctitle.setproctitle("corrald")
    gc.freeze()  # the program itself is never garbage
    gc.set_threshold(*GC_THRESHOLDS)
    if paths.config is None:
        logging.getLogger(__name__).info("no configuration file: agents are added by corral add")
    try:
        uvloop.run(daemon.run(config, paths, daemon_log, inherited, lifeline, adoption))
    except CorralError as error:
        _fail(error, mark)
    except Exception:
        logging.getLogger(__name__).critical("cannot go on: this is a defect", exc_info=True)
        sys.exit(1)
    finally:
        daemon_log.close()
        if arguments.scratch is not None:
            shutil.rmtree(arguments.scratch, ignore_errors=True)
    # All is closed, and freeing thousands of workers' objects one by one would take tens of milliseconds.
    for output in (sys.stdout, sys.stderr):
        # It is None where the descriptor was closed before we were started, and may have no reader any more.
        with contextlib.suppress(OSError, AttributeError):
            output.flush()
    os._exit(0)


def _detach(arguments: argparse.Namespace, paths: Paths) -> None:
    """Starts this daemon in the background, and prints its pid when it is ready."""
    check_state_folder(paths.state_dir)
    log: Path = (arguments.log_file or paths.state_dir / background.LOG_NAME).absolute()
    rest = [f"--socket={paths.socket}", f"--state-dir={paths.state_dir}"]
    rest += [] if paths.config is None else [f"--config={paths.config}"]
    print(background.start(rest, log, os.environ), flush=True)
    note = f'its log is "{log}"; "corral daemon stop" ends it'
    print(f'corrald: runs in the background at "{paths.socket}"; {note}', file=sys.stderr)


def _fail(error: CorralError, mark: str) -> NoReturn:
    for message in error.messages:
        print(f"{mark}corrald: {message}", file=sys.stderr)
    default = InvalidParams.exit_status if isinstance(error, InvalidParams) else 1
    code = error.data.get("code")  # of a daemon in the background, which has ended
    sys.exit(code if isinstance(code, int) and code > 0 else default)


def _open_standard_streams() -> None:
    """Opens the descriptors 0 to 2 where they are free: output must never get into a file of ours."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= STDERR:
        os.set_inheritable(fd, True)
    os.close(fd)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        words = message.removeprefix("unrecognized arguments: ")
        if words != message:
            first = words.split(" ")[0]
            known = [option for action in self._actions for option in action.option_strings]
            near = [each for each in known if each.startswith("-" + first)]
            near = near or get_close_matches(first, known, 1)
            message = f'"{words}" is no option'
            if not first.startswith("-"):
                message += f"; corrald takes no command: corral {first} may be meant"
            elif near:
                message += f"; did you mean {near[0]}?"
        self.exit(2, f"{self.prog}: cannot read the command line: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="corrald",
        description="Runs AI agents and MCP tool servers the way systemd runs services.",
        epilog="Exit status: 0 after a stop, 2 for a wrong configuration, 1 for all else.",
    )
    parser.add_argument("--config", metavar="FILE", type=Path, help="the configuration file")
    parser.add_argument("--socket", metavar="PATH", type=Path, help="the control socket")
    parser.add_argument("--state-dir", metavar="DIR", type=Path, help="the store and the logs")
    parser.add_argument(
        "--detach",
        action="store_true",
        help="run in the background: print the pid, and exit when the daemon is ready or has failed",
    )
    parser.add_argument(
        "--log-file",
        metavar="FILE",
        type=Path,
        help=f"write the daemon's own log to this file; with --detach to {background.LOG_NAME} in the state folder",
    )
    parser.add_argument(
        "--lifeline",
        metavar="FD",
        type=int,
        help="end at once when the other end of this pipe is closed, or the process that started it is gone",
    )
    parser.add_argument("--scratch", metavar="DIR", type=Path, help="a folder to remove in the end, with all in it")
    parser.add_argument("--check", action="store_true", help="validate the configuration and exit")
    # Of one program of the daemon to the next, see `daemon.upgrade`:
    parser.add_argument("--prove", metavar="FD", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--take-up", metavar="FD", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--returned", metavar="REASON", default="", help=argparse.SUPPRESS)
    parser.add_argument("--version", action="store_true", help="show the version and exit")
    return parser


def _locate(
    arguments: argparse.Namespace, environ: Mapping[str, str], uid: int, inherited: socket.socket | None
) -> tuple[Paths, Config]:
    """Returns paths and configuration: options come before CORRAL_* variables, those before the file.

    The socket of the service manager is where it is: a setting that names another place contradicts it.
    """
    defaults = default_paths(environ, uid)
    named: Path | None = arguments.config or _path(environ, "CORRAL_CONFIG")
    path = named or defaults.config
    if named is None and path is not None and not path.exists():
        path = None
    config = read_config(path)
    written = config.daemon
    socket_path = (
        arguments.socket or _path(environ, "CORRAL_SOCKET") or (Path(written.socket) if written.socket else None)
    )
    if inherited is not None:
        passed = Path(inherited.getsockname())
        if socket_path not in (None, passed):
            raise InvalidParams(
                f'cannot listen on "{socket_path}": the service manager listens on "{passed}" for us',
                key="socket",
                value=str(socket_path),
                reason="another socket was passed",
            )
        socket_path = passed
    _check_http(written)
    paths = replace(
        defaults,
        config=None if path is None else path.absolute(),
        socket=socket_path or defaults.socket,
        state_dir=arguments.state_dir
        or _path(environ, "CORRAL_STATE_DIR")
        or (Path(written.state_dir) if written.state_dir else defaults.state_dir),
    )
    return replace(paths, socket=paths.socket.absolute(), state_dir=paths.state_dir.absolute()), config


def _check_http(daemon: Daemon) -> None:
    """Rejects an address that cannot be served."""
    has_tls = daemon.http_tls_cert is not None or daemon.http_tls_key is not None
    if daemon.http is not None:
        address_of(daemon.http, is_protected=has_tls or daemon.http_behind_proxy)
    if has_tls:
        from corral.supervisor.faces.http.credentials import read_tls  # noqa: PLC0415  # ssl costs time: only who wants it pays

        read_tls(daemon.http_tls_cert, daemon.http_tls_key)


def _path(environ: Mapping[str, str], name: str) -> Path | None:
    value = environ.get(name)
    return Path(value) if value else None


if __name__ == "__main__":
    main()
