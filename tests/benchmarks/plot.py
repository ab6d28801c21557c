"""The plot: each figure as a share of its limit, with a mark at its target. SVG by hand."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

from tests.benchmarks.figures import Figure, number

# Pixels.
_WIDTH: Final = 900
_NAMES_WIDTH: Final = 400
_ROW: Final = 20
_BAR: Final = 12
_TOP: Final = 44
_SHARE_MAX: Final = 2.0  # bars end here

_STYLE: Final = """
  text { font: 12px system-ui, sans-serif; fill: #24292f; }
  .heading { font-weight: 600; }
  .unasked { fill: #8c959f; } .met { fill: #1a7f37; } .missed { fill: #cf222e; }
  .target { stroke: #24292f; stroke-width: 2; } .limit { stroke: #8c959f; stroke-dasharray: 3 3; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; } .target { stroke: #e6edf3; }
    .met { fill: #3fb950; } .missed { fill: #f85149; }
  }
"""
_CLASSES: Final = {True: "met", False: "missed", None: "unasked"}


def plot(figures: Mapping[str, Sequence[Figure]]) -> str:
    """Figures by benchmark: rates that have a limit, and whatever has a target beside its limit."""
    shown = [
        (f"{name}: {figure.name}", figure, figure.ratio)
        for name, some in figures.items()
        for figure in some
        if figure.ratio is not None and (figure.unit.endswith("/s") or _is_asked(figure))
    ]
    height = _TOP + _ROW * len(shown) + 10
    rows = "\n".join(
        _row(_TOP + _ROW * index, name, figure, ratio)
        for index, (name, figure, ratio) in enumerate(shown)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img">\n'
        "<title>Each figure as a share of its limit in the same run</title>\n"
        f"<style>{_STYLE}</style>\n"
        '<text class="heading" x="8" y="18">Each figure as a share of its limit (dashed: 1, the '
        "limit itself; bar across: the target)</text>\n"
        f"{rows}\n"
        f'<line class="limit" x1="{_x(1):.1f}" x2="{_x(1):.1f}" y1="{_TOP - 12}" y2="{height}"/>\n'
        "</svg>\n"
    )


def _row(top: int, name: str, figure: Figure, ratio: float) -> str:
    text, place = f'y="{top + 10}"', f'y="{top}"'
    length = _x(min(ratio, _SHARE_MAX)) - _NAMES_WIDTH
    colour = _CLASSES[figure.is_met]
    middle = top + _BAR / 2
    parts = [
        f'<text x="{_NAMES_WIDTH - 8}" {text} text-anchor="end">{escape(name)}</text>',
        f'<rect class="{colour}" x="{_NAMES_WIDTH}" {place} width="{length:.1f}" height="{_BAR}"/>',
        f'<text x="{_x(_SHARE_MAX) + 8:.1f}" {text}>{number(ratio)}</text>',
    ]
    if figure.target is not None and _is_asked(figure):
        at = _x(min(figure.target.bound, _SHARE_MAX))
        parts.append(
            f'<line class="target" x1="{at:.1f}" x2="{at:.1f}" y1="{middle - 9:.1f}"'
            f' y2="{middle + 9:.1f}"/>'
        )
    return "\n".join(parts)


def _is_asked(figure: Figure) -> bool:
    return figure.target is not None and figure.target.of_ratio


def _x(share: float) -> float:
    """Return the coordinate of a share of the limit."""
    return _NAMES_WIDTH + (_WIDTH - _NAMES_WIDTH - 60) * share / _SHARE_MAX
