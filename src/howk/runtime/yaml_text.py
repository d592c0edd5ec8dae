"""YAML as configuration needs it: safe types only, and a key said twice is refused instead of silently won.
Text enters, plain values leave. Messages name keys and positions, never values, which may be secrets."""

import yaml
from yaml.parser import ParserError
from yaml.scanner import ScannerError


class YAMLProblem(Exception):
    """The text cannot be used; `key` is the dotted name of the key at fault, or ""."""

    def __init__(self, message: str, key: str = "") -> None:
        super().__init__(message)
        self.key = key


def parse_yaml(text: str) -> object:
    """The one document of the text; None when it is empty. Raises YAMLProblem."""
    try:
        root = yaml.SafeLoader(text).get_single_node()
        if root is not None:
            _refuse_repeats(root, "", set())
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        # The words of other errors quote tags, anchors and aliases, which an unquoted secret may look like.
        words = f": {error.problem}" if isinstance(error, ScannerError | ParserError) else ""
        raise YAMLProblem(f"is not valid YAML{where}{words}") from None
    except (yaml.YAMLError, ValueError, RecursionError):
        raise YAMLProblem("is not valid YAML") from None


def _refuse_repeats(node: yaml.Node, prefix: str, seen: set[int]) -> None:
    if id(node) in seen:  # an alias may lead back to where it stands
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for child in node.value:
            _refuse_repeats(child, prefix, seen)
    elif isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for name, child in node.value:
            if isinstance(name, yaml.ScalarNode) and name.tag != "tag:yaml.org,2002:merge":
                dotted = f"{prefix}{name.value}"
                line = name.start_mark.line + 1
                if name.value in lines:
                    raise YAMLProblem(f"is there twice, in lines {lines[name.value]} and {line}: keep one", dotted)
                lines[name.value] = line
                _refuse_repeats(child, f"{dotted}.", seen)
