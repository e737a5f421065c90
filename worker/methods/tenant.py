"""Defines the methods about tenants."""

from ..control import tenants
from ..control.params import NoParams
from .faces import faces
from .method import Signature, access, method
from .rules import OWN_TENANT, OWN_TENANTS

TENANT_RM = method(
    Signature("tenant.rm", tenants.TenantNameParams, tenants.TenantRemoved),
    access("admin", recorded="always", recorded_keys=("removed", "erased")),
    faces("DELETE /tenants/{name}", python="remove_tenant", command="tenant rm"),
    """Ends a tenant's processes, then erases its data; only the audit keeps its records.

    A tenant that the configuration file has is a Conflict: its tables go first. So is one whose removal is under way.
    """,
    example={"name": "acme"},
)

TENANT_ADD = method(
    Signature("tenant.add", tenants.TenantAddParams, tenants.TenantAdded),
    access("admin", recorded="or-refused", recorded_keys=("created", "restarted")),
    faces("PUT /tenants/{name}", python="add_tenant", command="tenant add"),
    """Adds a tenant, or returns the existing one, whose agents that have given up start again.

    A tenant that is there with other values of the given keys is a Conflict, and so is any with `new`.
    """,
    example={"name": "acme", "spec": {"tier": "free", "max_agents": 5}},
)

TENANT_LIST = method(
    Signature("tenant.list", NoParams, tenants.Tenants),
    access("read", tenant=OWN_TENANTS),
    faces("GET /tenants", python="list_tenants", command="tenant list"),
    "Lists the tenants with their limits and counts; a tenant sees only itself.",
)

TENANT_SHOW = method(
    Signature("tenant.show", tenants.TenantShowParams, tenants.TenantShown),
    access("read", tenant=OWN_TENANT),
    faces("GET /tenants/{name}", "GET /tenant", python="show_tenant", command="tenant show"),
    """Returns one tenant in full: its table, the names of what it has, and the layers that keep it apart.

    A caller that is bound to a tenant names its own, or none.
    """,
    example={"name": "acme"},
)

TENANT_SET = method(
    Signature("tenant.set", tenants.TenantSetParams, tenants.TenantChanged),
    access("admin", recorded="or-refused", recorded_keys=("keys",)),
    faces("PATCH /tenants/{name}", python="set_tenant", command="tenant set"),
    "Changes keys of the table of a tenant at once; null restores the value of the file or the tier.",
    example={"name": "acme", "spec": {"max_agents": 10}},
)

TENANT_SUSPEND = method(
    Signature("tenant.suspend", tenants.TenantNameParams, tenants.TenantSwitched),
    access("admin", recorded="always", recorded_keys=("workers",)),
    faces("POST /tenants/{name}/suspend", python="suspend_tenant", command="tenant suspend"),
    "Stops all agents and servers of a tenant, and refuses its tasks and starts until it is resumed; repeating it is harmless.",
    example={"name": "acme"},
)

TENANT_RESUME = method(
    Signature("tenant.resume", tenants.TenantNameParams, tenants.TenantSwitched),
    access("admin", recorded="or-refused", recorded_keys=("workers",)),
    faces("POST /tenants/{name}/resume", python="resume_tenant", command="tenant resume"),
    "Starts the agents of a suspended tenant that start by themselves, and accepts its tasks again; repeating it is harmless.",
    example={"name": "acme"},
)
