"""How a setting is declared: one line in a frozen dataclass that carries its kind, default and description.
A class of the tree enters, the flat list of its keys leaves; values are put back into the tree by key."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, TypeVar, cast

from howk.runtime.kinds import Kind

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Key:
    """A setting as its sources, the reference and the dump know it.

    `family` is the prefix of the open-ended environment names whose values fill a mapping; "" for a single
    value.
    """

    name: str
    kind: Kind[Any]
    default: str
    description: str
    effect: bool
    secret: bool
    unit: str
    family: str
    fold: bool

    @property
    def env(self) -> str:
        return f"{self.family}<NAME>" if self.family else "HOWK_" + self.name.upper().replace(".", "_")

    def entry(self, name: str) -> str:
        """The name under which an entry of a mapping is kept."""
        return name.lower() if self.fold else name

    def show(self, value: object) -> str:
        return self.kind.show(value)


def active(kind: Kind[T], default: str, description: str, *, secret: bool = False) -> T:
    """Declare a value that this version acts on; the default is text, as a user would write it."""
    return _declare(kind, default, description, effect=True, secret=secret)


def planned(kind: Kind[T], default: str, description: str, *, secret: bool = False) -> T:
    """Declare a value that is accepted and checked, and that nothing in this version reads."""
    return _declare(kind, default, description, effect=False, secret=secret)


def _declare(kind: Kind[T], default: str, description: str, *, effect: bool, secret: bool) -> T:
    # Secrets stay out of repr, so that a traceback or a log line cannot show them.
    return field(
        default=kind.parse(default),
        repr=not secret,
        metadata=_metadata(kind, default, description, effect=effect, secret=secret),
    )


def planned_family(
    prefix: str, kind: Kind[T], description: str, *, secret: bool = False, fold: bool = False
) -> Mapping[str, T]:
    """Declare a mapping whose entries are environment variables with a prefix, or a YAML mapping.

    `fold` makes the entries' names lower case, for names that are looked up without regard to case.
    """
    metadata = _metadata(kind, "", description, effect=False, secret=secret, family=prefix, fold=fold)
    return field(default_factory=lambda: MappingProxyType[str, T]({}), repr=not secret, metadata=metadata)


def _metadata(
    kind: Kind[Any],
    default: str,
    description: str,
    *,
    effect: bool,
    secret: bool,
    family: str = "",
    fold: bool = False,
) -> dict[str, object]:
    return {
        "kind": kind,
        "default": default,
        "description": description,
        "effect": effect,
        "secret": secret,
        "unit": kind.unit,
        "family": family,
        "fold": fold,
    }


def section(cls: Callable[[], T]) -> T:
    """Declare a sub-tree."""
    return field(default_factory=cls, metadata={"section": cls})


def keys_of(cls: type[object], prefix: str = "") -> Iterator[Key]:
    """Every key below a class of the tree, in the order of declaration."""
    for each in fields(cast("Any", cls)):
        name = f"{prefix}{each.name}"
        if "section" in each.metadata:
            yield from keys_of(each.metadata["section"], f"{name}.")
        else:
            yield Key(name, **each.metadata)


def sections_of(cls: type[object], prefix: str = "") -> Iterator[tuple[str, type[object]]]:
    """Every section below a class of the tree, with its dotted name."""
    for each in fields(cast("Any", cls)):
        if "section" in each.metadata:
            yield (name := f"{prefix}{each.name}"), each.metadata["section"]
            yield from sections_of(each.metadata["section"], f"{name}.")


def build(cls: Callable[..., T], values: Mapping[str, object], prefix: str = "") -> T:
    """The tree with these values by dotted key, and defaults elsewhere."""
    given: dict[str, object] = {}
    for each in fields(cast("Any", cls)):
        name = f"{prefix}{each.name}"
        if "section" in each.metadata:
            given[each.name] = build(each.metadata["section"], values, f"{name}.")
        elif name in values:
            given[each.name] = values[name]
    return cls(**given)


def value_of(settings: object, name: str) -> object:
    """The value at a dotted key."""
    for part in name.split("."):
        settings = getattr(settings, part)
    return settings
