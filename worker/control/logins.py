"""Defines the params and results of the methods about logins to remote MCP servers."""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType


class LoginParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Starts a login to a remote MCP server.

    The browser is sent back to `port` of its own machine, unless `oauth.redirect_uri` says where to; with `device` a person types a
    code at another device. `scopes` are wanted beside those that the server asks for.
    """

    name: str
    port: Annotated[int, Meta(ge=1, le=65_535)] = 41_357
    device: bool = False
    scopes: Annotated[list[Annotated[str, Meta(max_length=200)]], Meta(max_length=100)] = []


class LoginFinishParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Finishes a login: with the address to which the browser was sent back, or for a device by waiting a while."""

    name: str
    login: Annotated[str, Meta(max_length=100)]
    redirect: Annotated[str, Meta(max_length=16_384)] | None = None


class LogoutParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Names the server whose token is to be forgotten; with `revoke` its authorization server is told."""

    name: str
    revoke: bool = True


class LoginStarted(Struct, frozen=True, kw_only=True):
    """Represents a login that a person has to finish until `expires_at`.

    A browser has to open `url`, from which it is sent to `redirect_uri`; for a device, `user_code` has to be typed at `url`.
    """

    name: str
    login: str
    issuer: str
    scopes: list[str]
    url: str
    redirect_uri: str | None = None
    user_code: str | None = None
    expires_at: str


class Login(Struct, frozen=True, kw_only=True):
    """Represents what corral has of a remote server: a token, a login under way, or neither; never the token itself.

    `client` says how corral is a client there: configured, by a document, or registered; `renews` whether the token is renewed
    without a person. `reason` is why there is no usable token.
    """

    name: str
    state: Literal["logged-in", "pending", "none"]
    issuer: str | UnsetType = UNSET
    resource: str | UnsetType = UNSET
    client: str | UnsetType = UNSET
    scopes: list[str] | UnsetType = UNSET
    renews: bool | UnsetType = UNSET
    obtained_at: str | UnsetType = UNSET
    expires_at: str | UnsetType | None = UNSET
    reason: str | None = None


class Logins(Struct, frozen=True, kw_only=True):
    """Lists remote servers that may want a login."""

    logins: list[Login]


class LoggedOut(Struct, frozen=True, kw_only=True):
    """Represents a logout: whether there was a token, or a registration, to forget."""

    name: str
    forgotten: bool
