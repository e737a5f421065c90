"""Defines the methods about exports, imports and backups."""

from ..control import backup
from ..control.results import Done
from .faces import faces
from .method import Signature, access, method
from .rules import ALL_NAMES

DAEMON_EXPORT = method(
    Signature("daemon.export", backup.ExportParams, backup.Exported),
    access("read", ALL_NAMES),
    faces("GET /export", python="export", command="export"),
    """Returns agents, servers, teams, workflows and schedules as TOML, which `corral add --file` takes.

    Before them stand the stores, templates and profiles of the configuration file, which `corrald` takes with the rest; where names are chosen, those
    stores and templates that they use. Secrets are named. Plain values of environments and headers are in it for a caller with the right admin alone.
    """,
    example={"names": ["crawl*"]},
)

DAEMON_IMPORT = method(
    Signature("daemon.import", backup.ImportParams, backup.Imported),
    access("admin", recorded="or-refused", recorded_keys=("agents", "teams", "workflows", "schedules")),
    faces("POST /import", python="import_tables", command="add"),
    "Adds agents, servers, teams, workflows and schedules, all or none; `failures` has the agents that did not start.",
    example={"agents": [{"name": "crawler", "spec": {"entrypoint": "crawler:agent", "instances": 2}}], "start": False},
)

BACKUP_MAKE = method(
    Signature("backup.make", backup.BackupParams, backup.BackupMade),
    access("admin", recorded="always", recorded_keys=("id", "sha256")),
    faces("POST /backups", python="make_backup", command="backup"),
    """Makes an archive of the state folder and the configuration, with all that was acknowledged before.

    It holds secrets in plain text, unless `secrets` is false. `backup.read` hands it out.
    """,
    example={"logs": False},
)

BACKUP_READ = method(
    Signature("backup.read", backup.BackupReadParams, backup.BackupPiece),
    access("admin"),
    faces("GET /backups/{id}", python="read_backup", command="backup"),
    "Returns a part of an archive, from `offset` on.",
    example={"id": "5f0c2a9b7e1d4c38", "offset": 524288},
)

BACKUP_DISCARD = method(
    Signature("backup.discard", backup.BackupDiscardParams, Done),
    access("admin", recorded="always"),
    faces("DELETE /backups/{id}", python="discard_backup", command="backup"),
    "Removes an archive from the state folder.",
    example={"id": "5f0c2a9b7e1d4c38"},
)
