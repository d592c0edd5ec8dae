"""A row of the benchmark: its figures beside their goals, what they were measured with, and how both are shown."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Limit(NamedTuple):
    """What the machine allows: `value` now, and `then`, when the goals were set."""

    name: str
    value: float
    then: float

    @property
    def pace(self) -> float:
        """How fast the machine is, against then."""
        return self.value / self.then


class Figure(NamedTuple):
    """`goal` is the least wanted, or the most where `at_most`; None where there is none. With a `limit` the goal goes
    with the pace of the machine."""

    name: str
    value: float
    unit: str
    goal: float | None = None
    at_most: bool = False
    limit: Limit | None = None

    @property
    def ratio(self) -> float | None:
        """1 or more when the goal is met."""
        if self.goal is None or not self.value:
            return None
        return round(self.goal / self.value if self.at_most else self.value / self.goal, 2)

    @property
    def paced(self) -> float | None:
        """The same with the goal as this machine would have it at this hour."""
        if self.goal is None or self.limit is None or not self.value:
            return None
        pace = self.limit.pace
        return round(self.goal / pace / self.value if self.at_most else self.value / (self.goal * pace), 2)


@dataclass
class Row:
    """One row. `settings` is what was chosen, `details` what else was seen; `problems` make the run void."""

    name: str
    title: str
    figures: list[Figure] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def add(
        self,
        name: str,
        value: float,
        unit: str,
        goal: float | None = None,
        *,
        at_most: bool = False,
        limit: Limit | None = None,
    ) -> None:
        """Add a figure."""
        self.figures.append(Figure(name, value, unit, goal, at_most, limit))

    def document(self, machine: dict[str, Any]) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "bench": self.name,
            "figures": [_document(figure) for figure in self.figures],
            "details": self.details,
            "settings": self.settings,
            "problems": self.problems,
            "machine": machine,
        }

    def text(self, machine: dict[str, Any]) -> str:
        """Everything, for people."""
        lines = [f"{self.name}: {self.title}"]
        for figure in self.figures:
            goal = ""
            if figure.goal is not None:
                goal = f"   goal {'≤' if figure.at_most else '≥'} {_number(figure.goal)}   ratio {figure.ratio}"
            if figure.limit is not None and figure.paced is not None:
                goal += f", {figure.paced} of the machine's pace"
            lines.append(f"  {figure.name:<42}{_number(figure.value):>10} {figure.unit:<8}{goal}")
        for limit in dict.fromkeys(figure.limit for figure in self.figures if figure.limit):
            then = f"{_number(limit.then)} when the goals were set, pace {limit.pace:.2f}"
            lines.append(f"  limit: {limit.name} {_number(limit.value)} ({then})")
        lines += [f"  {name}: {_shown(value)}" for name, value in self.details.items()]
        lines.append(f"  settings: {_shown(self.settings)}")
        lines.append(f"  machine: {_shown(machine)}")
        lines += [f"  VOID: {problem}" for problem in self.problems]
        return "\n".join(lines)


def _document(figure: Figure) -> dict[str, Any]:
    found = {**figure._asdict(), "ratio": figure.ratio, "ratio_at_pace": figure.paced}
    found["limit"] = figure.limit._asdict() if figure.limit else None
    return found


def _number(value: float) -> str:
    return f"{value:,.0f}".replace(",", " ") if value >= 100 else f"{value:g}"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(each)}" for name, each in value.items())
    return str(value)
