"""The command line of bubblewrap, and the order and choice of its mounts."""

import pytest
from msgspec.structs import replace

from corral.supervisor.machine.isolation.bubblewrap import ordered, wrapped
from corral.supervisor.machine.isolation.levels import Facts, Mount, Wrapped

pytestmark = pytest.mark.core

FACTS = Facts(unit="a-0#1", argv=("prog", "--bind", "x"), env={"A": "1", "TMPDIR": "/state/tmp/a"}, cwd="/w")


def made(**facts: object) -> Wrapped:
    return wrapped(replace(FACTS, **facts), bwrap="/bin/bwrap", filter_hex="00")


def operations(result: Wrapped) -> list[tuple[str, ...]]:
    """The arguments, one option with its values each."""
    found: list[tuple[str, ...]] = []
    for word in result.sandbox.arguments:
        found = [*found, (word,)] if word.startswith("--") else [*found[:-1], (*found[-1], word)]
    return found


def test_the_program_and_its_variables_are_no_options_of_bubblewrap() -> None:
    result = made()
    assert result.argv == ("/bin/bwrap", "--args", "@arguments", "--", "prog", "--bind", "x")
    assert result.env == {}
    assert ("--setenv", "A", "1") in operations(result)


def test_every_namespace_is_its_own_and_the_network_where_it_is_asked_for() -> None:
    own = {word for (word, *_) in operations(made()) if word.startswith("--unshare")}
    kinds = {"user", "pid", "ipc", "uts", "cgroup-try"}
    assert own == {f"--unshare-{kind}" for kind in kinds}
    assert ("--unshare-net",) in operations(made(network="none"))
    proxied = made(network="proxy", hosts=("a.b",))
    assert ("--unshare-net",) not in operations(proxied)
    assert (proxied.sandbox.listen, proxied.sandbox.hosts) == ((3128,), ("a.b",))
    assert ("--setenv", "HTTPS_PROXY", "http://127.0.0.1:3128") in operations(proxied)


def test_a_variable_of_the_spec_wins_over_that_of_the_proxy() -> None:
    found = operations(made(network="proxy", env={"HTTPS_PROXY": "http://x"}))
    assert ("--setenv", "HTTPS_PROXY", "http://x") in found


def test_the_temporary_folder_is_its_tmp() -> None:
    found = operations(made(temporary="/state/tmp/a"))
    assert ("--bind", "/state/tmp/a", "/tmp") in found
    assert ("--setenv", "TMPDIR", "/tmp") in found


def test_what_is_hidden_is_covered_but_for_what_is_listed_below() -> None:
    mounts = (Mount("/srv", "/srv"), Mount("/srv/state/packages/a", "/srv/state/packages/a"))
    found = operations(made(mounts=mounts, hidden=("/srv/state", "/elsewhere")))
    places = [words for words in found if words[-1].startswith(("/srv", "/elsewhere"))]
    assert places == [
        ("--ro-bind", "/srv", "/srv"),
        ("--tmpfs", "/srv/state"),
        ("--ro-bind", "/srv/state/packages/a", "/srv/state/packages/a"),
        ("--remount-ro", "/srv/state"),
    ]
    assert found.index(("--remount-ro", "/")) > found.index(("--remount-ro", "/srv/state"))


@pytest.mark.parametrize(
    ("mounts", "kept"),
    [
        ([Mount("/a/b", "/a/b"), Mount("/a", "/a")], ["/a"]),
        ([Mount("/a/b", "/a/b", True), Mount("/a", "/a")], ["/a", "/a/b"]),
        ([Mount("/a/b", "/x"), Mount("/a", "/a")], ["/a", "/a/b"]),
        ([Mount("/a/l", None, target="x"), Mount("/a", "/a")], ["/a"]),
        ([Mount("/l", None, target="a"), Mount("/a", "/a")], ["/a", "/l"]),
        ([Mount("/", "/"), Mount("/usr", "/usr"), Mount("/w", "/w", True)], ["/", "/w"]),
        ([Mount("/proc/self", "/proc/1"), Mount("/dev/null", "/dev/null")], []),
        ([Mount("/dev/nvidia0", "/dev/nvidia0"), Mount("/dev/fd", None)], ["/dev/nvidia0"]),
        ([Mount("/tmp", "/tmp"), Mount("/tmp/x", "/tmp/x")], ["/tmp/x"]),
        ([Mount("/ab", "/ab"), Mount("/a", "/a")], ["/a", "/ab"]),
    ],
)
def test_only_the_mounts_that_are_needed_are_made(mounts: list[Mount], kept: list[str]) -> None:
    assert [mount.path for mount in ordered(mounts)] == kept


def test_the_writable_one_of_two_mounts_of_a_path_counts() -> None:
    (mount,) = ordered([Mount("/a", "/a"), Mount("/a", "/a", True), Mount("/a", "/a")])
    assert mount.is_writable


def test_a_device_that_is_listed_is_one_inside() -> None:
    found = operations(made(mounts=(Mount("/dev/kvm", "/dev/kvm"),)))
    assert ("--dev-bind", "/dev/kvm", "/dev/kvm") in found
