"""The mounts and links by which a path exists in a file system of its own."""

from pathlib import Path

from corral.supervisor.machine.isolation.levels import Mount
from corral.supervisor.machine.isolation.mounts import visible


def test_each_link_on_the_way_is_made_again(tmp_path: Path) -> None:
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "real" / "deep" / "file").touch()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real" / "alias").symlink_to(f"{tmp_path}/real/deep/file")
    assert visible([f"{tmp_path}/link/alias"]) == (
        Mount(f"{tmp_path}/link", None, target="real"),
        Mount(f"{tmp_path}/real/alias", None, target=f"{tmp_path}/real/deep/file"),
        Mount(f"{tmp_path}/real/deep/file", f"{tmp_path}/real/deep/file"),
    )


def test_dots_are_walked_as_the_kernel_walks_them(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").touch()
    found = visible([f"{tmp_path}/a/.././/b"], is_writable=True)
    assert found == (Mount(f"{tmp_path}/b", f"{tmp_path}/b", True),)


def test_what_may_be_missing_is_left_out_and_a_circle_ends(tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    assert visible([f"-{tmp_path}/absent"]) == ()
    assert visible([f"{tmp_path}/absent"]) == (Mount(f"{tmp_path}/absent", f"{tmp_path}/absent"),)
    visible([f"-{tmp_path}/one"])
