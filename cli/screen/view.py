"""Decides what each key does on the screen of `corral top`.

Pure: the view before, the key and what is on the screen go in; the view after, and what is to be done, come out. It
does not know how anything looks, nor what a terminal or a daemon is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

Page: TypeAlias = Literal["agents", "tasks", "agent", "task"]
Mode: TypeAlias = Literal["keys", "filter", "confirm", "help"]
Verb: TypeAlias = Literal["start", "stop", "restart", "cancel"]

VERBS: Mapping[str, Verb] = {"s": "start", "x": "stop", "r": "restart"}
"""Keys that act on an agent or server."""

CANCEL = "c"
"""Key that cancels a task."""

LISTS: Mapping[Page, Page] = {"agents": "agent", "tasks": "task"}
"""Page of a list -> page of one of its entries."""

FILTER_MAX = 64
"""Characters of the longest filter."""

KEYS_TO_READ = (
    ("↑ ↓  j k", "select the line above or below"),
    ("PgUp PgDn Home End", "a page up or down, the first line, the last line"),
    ("Enter", "show the selected agent, server or task"),
    ("Esc", "go back; without a page to go back to, clear the filter"),
    ("/", "show only lines that contain a text; Enter keeps it, Esc clears it"),
    ("< >", "sort by the column to the left or right; so does a click on its name"),
    ("i", "sort the other way round"),
    ("a t", "list agents and servers, or tasks; Tab changes between them"),
    ("Space p", "pause the refresh, or go on"),
    ("? h", "show the keys"),
    ("q Ctrl-C", "quit"),
)
"""Keys that change nothing but the screen, with their descriptions."""

KEYS_TO_ACT = (
    ("s x r", "start, stop or restart the agent or server, once y confirms it"),
    ("c", "cancel the task, once y confirms it"),
)
"""Keys that need the right `operate`."""


@dataclass(frozen=True)
class Sort:
    """Holds the column by which a list is sorted."""

    column: str
    is_descending: bool


@dataclass(frozen=True)
class Place:
    """Holds the selected entry of a page, and the index of the first one that is shown.

    An entry that the user has chosen stays selected where it moves; else the first line is.
    """

    selected: str = ""
    index: int = 0
    first: int = 0
    is_chosen: bool = False


@dataclass(frozen=True)
class Action:
    """Represents a change that the user has asked for: of an agent or server, or of a task (cancel)."""

    verb: Verb
    name: str


@dataclass(frozen=True)
class View:
    """Holds everything that the user has chosen."""

    page: Page = "agents"
    mode: Mode = "keys"
    filter: str = ""
    is_paused: bool = False
    asked: Action | None = None
    """The action that waits for its confirmation, in the mode `confirm`."""
    sorts: Mapping[Page, Sort] = field(default_factory=dict[Page, Sort])
    places: Mapping[Page, Place] = field(default_factory=dict[Page, Place])

    def place(self, page: Page) -> Place:
        """Returns the place on a page."""
        return self.places.get(page, Place())

    @property
    def agent(self) -> str:
        """Returns the name of the selected agent or server."""
        return self.place("agents").selected

    @property
    def task(self) -> str:
        """Returns the id of the selected task."""
        return self.place("tasks").selected


@dataclass(frozen=True)
class Shown:
    """Describes what is on the screen: the ids of all lines of the list, how many fit, its columns, and the rights."""

    ids: Sequence[str] = ()
    room: int = 1
    columns: Sequence[str] = ()
    """Names of the columns that are shown, in order."""
    descending: frozenset[str] = frozenset()
    """Names of the columns whose largest values come first."""
    may_act: bool = False


Wish: TypeAlias = Action | Literal["quit"] | None

MOVES = {"up": -1, "k": -1, "down": 1, "j": 1}


def pressed(view: View, key: str, shown: Shown) -> tuple[View, Wish]:
    """Returns the view after a key, and what is to be done."""
    if key == "interrupt":
        return view, "quit"
    if view.mode == "filter":
        return _typed(view, key), None
    if view.mode == "confirm":
        return replace(view, mode="keys", asked=None), view.asked if key in ("y", "Y") else None
    if view.mode == "help":
        return replace(view, mode="keys"), None
    if key in ("q", "Q"):
        return view, "quit"
    if key in ("?", "h"):
        return replace(view, mode="help"), None
    if key in (" ", "p"):
        return replace(view, is_paused=not view.is_paused), None
    if (asked := _asked(view, key)) is not None:
        return (replace(view, mode="confirm", asked=asked) if shown.may_act else view), None
    return _moved(view, key, shown), None


def _typed(view: View, key: str) -> View:
    if key == "enter":
        return replace(view, mode="keys")
    if key == "escape":
        return replace(view, mode="keys", filter="")
    if key == "backspace":
        return replace(view, filter=view.filter[:-1])
    if len(key) == 1 and key.isprintable() and len(view.filter) < FILTER_MAX:
        return replace(view, filter=view.filter + key)
    return view


def _asked(view: View, key: str) -> Action | None:
    if view.page in ("agents", "agent") and key in VERBS and view.agent:
        return Action(VERBS[key], view.agent)
    if view.page in ("tasks", "task") and key == CANCEL and view.task:
        return Action("cancel", view.task)
    return None


def _moved(view: View, key: str, shown: Shown) -> View:
    if key in ("a", "t"):
        return replace(view, page="agents" if key == "a" else "tasks")
    if key == "tab":
        return replace(view, page="agents" if view.page in ("tasks", "task") else "tasks")
    if key in ("escape", "backspace", "left"):
        if view.page in LISTS:
            return replace(view, filter="")
        return replace(view, page="agents" if view.page == "agent" else "tasks")
    if key == "/" and view.page in LISTS:
        return replace(view, mode="filter")
    if key in ("enter", "right") and view.page in LISTS and view.place(view.page).selected:
        page = LISTS[view.page]
        chosen = replace(view.place(view.page), is_chosen=True)
        return replace(view, page=page, places={**view.places, view.page: chosen, page: Place()})
    if key in ("<", ">", "i"):
        return _sorted_anew(view, key, shown)
    count = len(shown.ids)
    at = view.place(view.page).index
    if key in MOVES:
        at += MOVES[key]
    elif key in ("pageup", "pagedown"):
        at += max(shown.room - 1, 1) * (1 if key == "pagedown" else -1)
    elif key in ("home", "g"):
        at = 0
    elif key in ("end", "G"):
        at = count - 1
    else:
        return view
    return selected(view, at, shown)


def selected(view: View, index: int, shown: Shown) -> View:
    """Returns the view with the entry at an index selected, or the nearest one."""
    is_list = view.page in LISTS  # the other pages have no selection, and scroll
    index = min(max(index, 0), max(len(shown.ids) - (1 if is_list else shown.room), 0))
    name = shown.ids[index] if shown.ids else ""
    place = Place(name, index, view.place(view.page).first if is_list else index, is_chosen=index > 0)
    return settled(replace(view, places={**view.places, view.page: place}), shown)


def settled(view: View, shown: Shown) -> View:
    """Returns the view with its selection on an entry that there is, and in sight."""
    place, count = view.place(view.page), len(shown.ids)
    index = place.index
    if view.page in LISTS and not place.is_chosen:
        index = 0
    elif not (index < count and shown.ids[index] == place.selected):
        try:
            index = shown.ids.index(place.selected)
        except ValueError:  # it has gone: the one that takes its place
            index = min(index, max(count - 1, 0))
    first = min(max(place.first, index - shown.room + 1), index, max(count - shown.room, 0))
    found = Place(shown.ids[index] if shown.ids else "", index, max(first, 0), place.is_chosen)
    return view if found == place else replace(view, places={**view.places, view.page: found})


def sorted_by(view: View, column: str, shown: Shown) -> View:
    """Returns the view sorted by a column; the other way round if it is sorted by it already."""
    now = view.sorts.get(view.page)
    is_descending = column in shown.descending
    if now is not None and now.column == column:
        is_descending = not now.is_descending
    return replace(view, sorts={**view.sorts, view.page: Sort(column, is_descending)})


def _sorted_anew(view: View, key: str, shown: Shown) -> View:
    now = view.sorts.get(view.page)
    if not shown.columns or now is None:
        return view
    if key == "i":
        return sorted_by(view, now.column, shown)
    at = shown.columns.index(now.column) if now.column in shown.columns else 0
    column = shown.columns[(at + (1 if key == ">" else -1)) % len(shown.columns)]
    return view if column == now.column else sorted_by(view, column, shown)
