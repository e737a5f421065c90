"""Whether this machine gives the level strict, and what is said where it does not."""

from pathlib import Path

from corral.supervisor.machine.isolation import availability
from strict_agent import needs_strict


def program(folder: Path, text: str) -> dict[str, str]:
    path = folder / "bwrap"
    path.write_text(text)
    path.chmod(0o755)
    return {"PATH": str(folder)}


@needs_strict
def test_a_machine_with_bubblewrap_gives_strict() -> None:
    trial = availability.tried({})
    assert (trial.problem, trial.took_s > 0) == ("", True)


def test_a_machine_without_it_says_how_to_get_it(tmp_path: Path) -> None:
    trial = availability.tried({"PATH": str(tmp_path)})
    assert ("bwrap" in trial.problem, "bubblewrap" in trial.advice) == (True, True)


def test_a_refusal_of_the_kernel_is_reported_with_its_reason(tmp_path: Path) -> None:
    trial = availability.tried(program(tmp_path, "#!/bin/sh\necho 'bwrap: no namespace' >&2; exit 1\n"))
    assert trial.problem == "bwrap: no namespace"
    assert "max_user_namespaces" in trial.advice


def test_a_program_that_cannot_be_run_is_reported(tmp_path: Path) -> None:
    trial = availability.tried(program(tmp_path, "#!/no/such/interpreter\n"))
    assert str(tmp_path) in trial.problem
