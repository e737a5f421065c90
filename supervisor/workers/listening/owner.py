"""Finds out which process has an address that is in use, for the error that says so."""

from corral.supervisor.config.spec.listen import ListenAddress


def owner_of(address: ListenAddress) -> str:
    """Returns the process that listens at an address, for people: `pid 42 (nginx)`; "another process" where that is hidden."""
    import psutil  # noqa: PLC0415  # it costs 1 MB: only who looks for an owner pays

    try:
        if address.path is not None:
            holders = [each.pid for each in psutil.net_connections("unix") if each.laddr == address.path]
        else:
            listening = [each for each in psutil.net_connections("tcp") if each.status == psutil.CONN_LISTEN]
            holders = [each.pid for each in listening if tuple(each.laddr)[1:] == address.place[1:]]
        pid = next(filter(None, holders), None)
        if pid is not None:
            return f"pid {pid} ({psutil.Process(pid).name()})"
    except (psutil.Error, OSError):
        pass
    return "another process"
