"""A row of the benchmark: its figures beside their goals, what they were measured with, and how both are shown."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Figure(NamedTuple):
    """`goal` is the least wanted, or the most where `at_most`; None where there is none."""

    name: str
    value: float
    unit: str
    goal: float | None = None
    at_most: bool = False

    @property
    def ratio(self) -> float | None:
        """1 or more when the goal is met."""
        if self.goal is None or not self.value:
            return None
        return round(self.goal / self.value if self.at_most else self.value / self.goal, 2)


@dataclass
class Row:
    """One row. `settings` is what was chosen, `details` what else was seen; `problems` make the run void."""

    name: str
    title: str
    figures: list[Figure] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def add(self, name: str, value: float, unit: str, goal: float | None = None, *, at_most: bool = False) -> None:
        """Add a figure."""
        self.figures.append(Figure(name, value, unit, goal, at_most))

    def document(self, machine: dict[str, Any]) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "bench": self.name,
            "figures": [{**figure._asdict(), "ratio": figure.ratio} for figure in self.figures],
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
            lines.append(f"  {figure.name:<42}{_number(figure.value):>10} {figure.unit:<8}{goal}")
        lines += [f"  {name}: {_shown(value)}" for name, value in self.details.items()]
        lines.append(f"  settings: {_shown(self.settings)}")
        lines.append(f"  machine: {_shown(machine)}")
        lines += [f"  VOID: {problem}" for problem in self.problems]
        return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:,.0f}".replace(",", " ") if value >= 100 else f"{value:g}"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(each)}" for name, each in value.items())
    return str(value)
