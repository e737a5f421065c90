"""Decides where the metadata of a server and of its authorization server is, and whether a document may be believed.

Values in, values out: addresses and JSON objects. The rules are those of MCP's authorization, RFC 9728, RFC 8414 and OpenID
Connect Discovery.
"""

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit, urlunsplit

from corral.worker.contract.codec import as_array
from corral.worker.contract.errors import ToolFailed

from ..protocol import dpop
from .records import Endpoints

PROTECTED = "/.well-known/oauth-protected-resource"
AUTHORIZATION = "/.well-known/oauth-authorization-server"
OPENID = "/.well-known/openid-configuration"

MAX_URL_CHARS = 4096


def refused(text: str, reason: str, **facts: object) -> ToolFailed:
    """Returns the error of a peer that breaks the rules."""
    return ToolFailed(text, reason=reason, **facts)


def printable(text: str) -> str:
    """Returns the beginning of a text of a peer, for a message."""
    return "".join(each if each.isprintable() else " " for each in text[:200])


def origin_of(url: str) -> str:
    """Returns scheme, host and port of an address."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def checked_address(url: object, what: str, server_url: str) -> str:
    """Returns an address to which secrets may be sent: https, or http on the host of an http server, or on this machine where the server is."""
    text = url if isinstance(url, str) else ""
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        host, parts = "", urlsplit("")
    is_whole = bool(host) and len(text) <= MAX_URL_CHARS and text.isascii() and text.isprintable()
    if is_whole and "@" not in parts.netloc and not parts.fragment and " " not in text:
        server = urlsplit(server_url)
        is_same_host = server.scheme == "http" and server.hostname == host
        is_here = is_loopback(host) and is_loopback(server.hostname or "")
        if parts.scheme == "https" or (parts.scheme == "http" and (is_here or is_same_host)):
            return text
    shown = printable(text)
    raise refused(f'cannot use "{shown}" as {what}: it has to be an https address', "insecure-address", address=shown)


def is_loopback(host: str) -> bool:
    """Returns True for the names and addresses of this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def resource_addresses(server_url: str) -> list[str]:
    """Returns where a server may keep its protected-resource metadata, in the order of the specification."""
    parts = urlsplit(server_url)
    path = parts.path.rstrip("/")
    paths = [PROTECTED + path, PROTECTED] if path else [PROTECTED]
    return [urlunsplit((parts.scheme, parts.netloc, each, "", "")) for each in paths]


def server_addresses(issuer: str) -> list[str]:
    """Returns where an authorization server may keep its metadata, in the order of the specification."""
    parts = urlsplit(issuer)
    path = parts.path.rstrip("/")
    paths = [AUTHORIZATION + path, OPENID + path]
    if path:
        paths.append(path + OPENID)
    return [urlunsplit((parts.scheme, parts.netloc, each, "", "")) for each in paths]


def canonical(server_url: str) -> str:
    """Returns the resource identifier of a server that publishes none (RFC 8707): without query, lower case before the path."""
    parts = urlsplit(server_url)
    path = "" if parts.path == "/" else parts.path
    return urlunsplit((parts.scheme.lower(), parts.netloc.lower(), path, "", ""))


def checked_resource(document: Mapping[str, object], server_url: str) -> str:
    """Returns the resource identifier that a document publishes, exactly as written."""
    found = document.get("resource")
    text = found if isinstance(found, str) else ""
    if text and _covers(text, server_url):
        return text
    named = text[:200]
    words = f'cannot log in to {origin_of(server_url)}: its metadata is about "{named}"'
    raise refused(words, "resource-mismatch", resource=named)


def _covers(resource: str, server_url: str) -> bool:
    try:
        named, server = urlsplit(resource), urlsplit(server_url)
        ports = [each.port or {"https": 443, "http": 80}.get(each.scheme) for each in (named, server)]
    except ValueError:
        return False
    is_same = named.scheme.lower() == server.scheme.lower() and named.hostname == server.hostname
    if not is_same or ports[0] != ports[1] or named.fragment:
        return False
    path, own = named.path.rstrip("/"), server.path.rstrip("/")
    return own == path or own.startswith(f"{path}/")


def strings(value: object) -> tuple[str, ...]:
    """Returns the strings of a list in a document."""
    return tuple(each for each in as_array(value) or () if isinstance(each, str) and each)


def read_endpoints(document: Mapping[str, object], issuer: str, server_url: str) -> Endpoints:
    """Returns the facts of an authorization server from its metadata."""
    named = document.get("issuer")
    # RFC 8414 wants them identical; a slash after the bare host is what parsers of URLs add.
    if not isinstance(named, str) or named.rstrip("/") != issuer.rstrip("/"):
        text = f'cannot trust the metadata of "{issuer}": it names the issuer "{str(named)[:200]}"'
        raise refused(text, "issuer-mismatch", issuer=issuer)
    grants = strings(document.get("grant_types_supported")) or ("authorization_code", "implicit")
    uses_codes = "authorization_code" in grants
    if uses_codes and "S256" not in strings(document.get("code_challenge_methods_supported")):
        raise refused(f'cannot log in at "{issuer}": it does not offer PKCE with S256', "no-pkce", issuer=issuer)
    if document.get("require_pushed_authorization_requests") is True:
        text = f'cannot log in at "{issuer}": it requires pushed authorization requests (RFC 9126)'
        raise refused(text, "no-par", issuer=issuer)

    def address(key: str, what: str, *, is_needed: bool = False) -> str:
        if document.get(key) is None and not is_needed:
            return ""
        return checked_address(document.get(key), what, server_url)

    return Endpoints(
        issuer=named,
        token=address("token_endpoint", "the token endpoint", is_needed=True),
        authorization=address("authorization_endpoint", "the authorization endpoint"),
        registration=address("registration_endpoint", "the registration endpoint"),
        device=address("device_authorization_endpoint", "the device authorization endpoint"),
        revocation=address("revocation_endpoint", "the revocation endpoint"),
        sends_iss=document.get("authorization_response_iss_parameter_supported") is True,
        takes_documents=document.get("client_id_metadata_document_supported") is True,
        methods=strings(document.get("token_endpoint_auth_methods_supported")),
        scopes=strings(document.get("scopes_supported")),
        grants=grants,
        binds_tokens=dpop.ALGORITHM in strings(document.get("dpop_signing_alg_values_supported")),
    )


def fallback_endpoints(server_url: str) -> Endpoints:
    """Returns the addresses of a server without any metadata, as the revision 2025-03-26 has them."""
    base = origin_of(server_url)
    return Endpoints(
        issuer=base,
        token=checked_address(f"{base}/token", "the token endpoint", server_url),
        authorization=f"{base}/authorize",
        registration=f"{base}/register",
        grants=("authorization_code",),
    )
