"""Names written beside the points that they name, out of each other's way (matplotlib)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

FONT = 7.5
# Where a label may stand: so many points from its mark, in sixteen directions; near is tried first.
DISTANCES = (6.0, 11.0, 18.0, 27.0, 38.0, 52.0, 70.0, 92.0)
DIRECTIONS = 16
LEADER = 14.0  # from this distance on a line leads from the label to its mark

Box = tuple[float, float, float, float]  # left, bottom, right, top, in pixels


@dataclass(frozen=True, slots=True)
class Label:
    """A name at a mark, in the data's coordinates."""

    x: float
    y: float
    text: str
    colour: str


def place(axes: Any, labels: Sequence[Label], marks: Sequence[tuple[float, float]]) -> None:
    """Write the labels so that none covers another, a mark, or the edge of the axes, as far as there is room.

    marks: every mark drawn, in the data's coordinates. The figure's layout is settled here and stays as it is: what is
    drawn afterwards must not change it.
    """
    from matplotlib.patheffects import Normal, Stroke

    figure = axes.figure
    figure.canvas.draw()
    figure.set_layout_engine("none")
    scale = figure.dpi / 72
    renderer = figure.canvas.get_renderer()
    frame = axes.get_window_extent(renderer)
    edge = (frame.x0, frame.y0, frame.x1, frame.y1)
    half = 4 * scale
    points = [tuple(axes.transData.transform(mark)) for mark in marks]
    marked = [(x - half, y - half, x + half, y + half) for x, y in points]
    taken: list[Box] = []
    # From the top down: labels that stand higher are then settled before those below look for their place.
    for label in sorted(labels, key=lambda label: (-label.y, label.x)):
        at = tuple(axes.transData.transform((label.x, label.y)))
        width, height = _size(axes, label.text, renderer)
        best, where = math.inf, (0.0, 0.0)
        for distance in DISTANCES:
            for step in range(DIRECTIONS):
                angle = 2 * math.pi * step / DIRECTIONS
                box = _box(at, angle, distance * scale, width, height)
                cost = distance / 40 + 40 * _outside(box, edge)
                cost += 20 * sum(_overlap(box, other) > 0 for other in taken)
                cost += 5 * sum(_overlap(box, other) > 0 for other in marked)
                if cost < best:
                    best, where = cost, (box[0], box[1])
                    chosen, far = box, distance
        taken.append(chosen)
        written = axes.annotate(
            label.text,
            (label.x, label.y),
            xytext=((where[0] - at[0]) / scale, (where[1] - at[1]) / scale),
            textcoords="offset points",
            fontsize=FONT,
            color=label.colour,
            ha="left",
            va="bottom",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": label.colour, "lw": 0.5, "alpha": 0.7, "shrinkA": 0, "shrinkB": 3}
            if far >= LEADER
            else None,
        )
        written.set_path_effects([Stroke(linewidth=2, foreground="white", alpha=0.8), Normal()])


def _size(axes: Any, text: str, renderer: Any) -> tuple[float, float]:
    """Width and height of a text in pixels."""
    drawn = axes.text(0, 0, text, fontsize=FONT)
    box = drawn.get_window_extent(renderer)
    drawn.remove()
    return box.width + 2, box.height + 2


def _box(at: tuple[float, ...], angle: float, distance: float, width: float, height: float) -> Box:
    """The box whose nearest side or corner lies `distance` from a point in a direction."""
    x, y = at[0] + distance * math.cos(angle), at[1] + distance * math.sin(angle)
    left = x - width * (1 - math.cos(angle)) / 2
    bottom = y - height * (1 - math.sin(angle)) / 2
    return left, bottom, left + width, bottom + height


def _overlap(a: Box, b: Box) -> float:
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return wide * high if wide > 0 and high > 0 else 0.0


def _outside(box: Box, edge: Box) -> bool:
    return box[0] < edge[0] or box[1] < edge[1] or box[2] > edge[2] or box[3] > edge[3]
