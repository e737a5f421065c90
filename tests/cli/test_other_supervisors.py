"""What users of other supervisors type first works, or is answered with the line that does it."""

import click
import pytest

from corral.cli.__main__ import command_line
from corral.cli.context import Session
from corral.cli.usage_error import usage_error
from corral.worker.contract.errors import InvalidParams

pytestmark = pytest.mark.shell

AS = """
    status web = status web | start web = start web | stop web = stop web | restart web = restart web
    show web = show web | cat web = show web | ls = status | list = status | ps = status | ps web = status web
    kill web = signal KILL web | up = start --all | down = stop --all | up web = start web | stop --all = stop --all
    signal HUP web = signal HUP web | logs -n 10 = logs --tail 10 | logs web --tail=10 = logs web -n 10 | logs -f web = logs --follow web
    logs --since 5m = logs --since 5m | logs web --previous = logs -p web | logs -l app=web = logs --selector app=web
    exec -it web sh = exec -i -t web sh
    rm web = rm web | pause web = pause web | stats = stats | top web = top web | attach web = attach web
    scale web 4 = scale web 4 | diff web = diff web | history web = history web | version = version | help status = help status
    rollout restart web = restart web | rollout history web = history web | rollout status web = status web
"""
"""Lines that work, and the same in the words of this program."""

SAID = """
    systemctl
    reload web: corral restart | enable web: corral install-service | disable web: stop | is-active web: corral status
    is-enabled web: corral status | is-failed web: corral status --failed | list-units: corral status | list-unit-files: corral status
    list-timers: corral schedules | list-jobs: corral tasks | daemon-reload: reload | reset-failed web: reset | mask web: corral stop
    daemon-reexec: corral daemon upgrade | set-property web A=1: corral set | freeze web: pause | thaw web: resume
    kill -s HUP web: corral signal NAME HUP | kill --signal=HUP web: corral signal NAME HUP | --failed: corral status --failed
    try-restart web: restart | poweroff: corral daemon stop | list-dependencies web: corral show
    logs -u web: corral logs NAME | logs -xe: --since | logs -b: --since | journal web: corral logs -f

    supervisorctl
    reread: reload | update: reload | tail web: logs | fg web: corral attach | pid web: corral status | avail: corral status
    clear web: corral logs | remove web: rm | shutdown: corral daemon stop | quit: corral daemon stop | maintail: journalctl -u corrald

    pm2
    delete web: rm | del web: rm | describe web: show | desc web: corral show | info web: show | monit: corral top | flush: corral logs
    start app.py --name web: corral add NAME -- COMMAND | start app.js -i 4: corral scale | restart web --update-env: leave it out
    reload all: corral restart | save: corral checkpoint save | resurrect: corrald | startup: corral install-service
    unstartup: corral uninstall-service | jlist: corral status --json | logs --lines 10: --tail | logs --err: --stream | ping: corral status
    ecosystem: corral init | sendSignal HUP web: corral signal | dump: corral export | env 0: corral show | report: corral doctor

    docker
    ps -a: leave it out | ps -q: --json | run -d web: --detach | run --rm -it web sh: corral exec | inspect web: show | rm -f web: leave it out
    rmi web: rm | stop -t 5 web: shutdown_grace_period | unpause web: resume | stats --no-stream: leave it out | logs -t web: leave it out
    cp web:/x .: corral exec | port web: corral status | build .: corral package | pull web: corral package | push web: corral package
    images: corral package | create web: add | login: corral mcp login | system df: corral doctor | volume ls: corral stores
    container ls: corral status | events --once: leave it out | wait web: corral task wait | rename web api: corral edit

    docker compose
    up -d: leave it out | up --build: reload | up --scale web=2: corral scale | config: corral edit | watch: top | convert: corral import

    kubectl
    get pods: status | get pods -o json: status | describe pod web: show | delete pod web: rm | apply -f corral.toml: reload
    create -f corral.toml: add | scale web --replicas 2: corral scale NAME N | rollout undo web: corral rollback | label web a=b: corral set
    autoscale web --max 4: corral scale | drain node: corral node drain | cordon node: corral node drain | debug web: corral exec
    explain agents: corral man corral.toml | auth can-i stop: corral whoami | port-forward web 8080: corral expose
    diff -f corral.toml: corral reload --dry-run | cluster-info: cluster

    misspelt
    stauts: corral status | status --wach: corral top | status -w: corral top | status --all: leave it out | log web: logs | -v: --version
"""
"""Lines that are refused, and what the answer has to name."""


def pairs(table: str, between: str) -> list[tuple[str, str]]:
    """Returns the pairs of a table."""
    cells = (cell for line in table.splitlines() for cell in line.split(" | ") if between in cell)
    return [(line.strip(), answer.strip()) for line, _, answer in (cell.rpartition(between) for cell in cells)]


def parsed(line: str) -> tuple[str, dict[str, object]]:
    """Returns the command that a line runs, and its values; nothing is run."""
    arguments = line.split()
    group: click.Command = command_line()
    context = click.Context(group, info_name="corral", obj=Session({}))
    group.make_parser(context).parse_args(list(arguments))  # options before a command
    while isinstance(group, click.Group):
        name, found, arguments = group.resolve_command(context, arguments)
        assert name is not None
        assert found is not None
        context = found.make_context(name, arguments, parent=context)
        group = found
    return context.command_path, context.params


def answered(line: str) -> str:
    """Returns the error of a line that is refused."""
    try:
        parsed(line)
    except click.ClickException as error:
        return usage_error(error, line.split()).message
    except InvalidParams as error:
        return error.message
    raise AssertionError(f"it was taken: {line}")


@pytest.mark.parametrize(("line", "same"), pairs(AS, " = "))
def test_a_line_works_as_it_is_typed(line: str, same: str) -> None:
    assert parsed(line) == parsed(same)


@pytest.mark.parametrize(("line", "answer"), pairs(SAID, ": "))
def test_a_line_is_answered_with_what_does_it(line: str, answer: str) -> None:
    _, _, hint = answered(line).rpartition("; ")
    assert answer in hint
