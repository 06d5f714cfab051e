"""Drawings for the reports: inline SVG whose colours are the page's CSS classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

_WIDTH = 960
_ROW = 22
_AXIS = 24
_LABELS = 250
_RIGHT = 60
_INDENT = 12
_CHART_HEIGHT = 180
_CHART_LEFT = 60
_CHART_RIGHT = 20
_TICKS = 6


@dataclass(frozen=True)
class Bar:
    """One row of a timeline: seconds from its begin, ``style`` a CSS class, ``note`` shown on hovering."""

    label: str
    begin_s: float
    end_s: float
    style: str = ""
    note: str = ""
    depth: int = 0


def timeline(bars: Sequence[Bar]) -> Markup:
    """Rows of bars over a common axis of seconds; empty without bars."""
    if not bars:
        return Markup("")
    total = max(max(bar.end_s for bar in bars), 0.1)
    scale = (_WIDTH - _LABELS - _RIGHT) / total
    height = len(bars) * _ROW + _AXIS
    grid = [_tick(_LABELS + second * scale, height - _AXIS, f"{second:g} s") for second in ticks(total)]
    rows = [_row(bar, number * _ROW, scale) for number, bar in enumerate(bars)]
    return _svg(height, "timeline", [*grid, *rows])


def line_chart(points: Sequence[tuple[float, float]], unit: str) -> Markup:
    """One series over seconds, both axes from zero; empty with fewer than two points."""
    if len(points) < 2:
        return Markup("")
    end = max(points[-1][0], 1e-6)
    top = max(max(value for _, value in points), 1e-9) * 1.1
    x_scale = (_WIDTH - _CHART_LEFT - _CHART_RIGHT) / end
    y_scale = _CHART_HEIGHT / top
    place = [(_CHART_LEFT + x * x_scale, _CHART_HEIGHT - y * y_scale) for x, y in points]
    grid = [_tick(_CHART_LEFT + x * x_scale, _CHART_HEIGHT, f"{x:g} s") for x in ticks(end)] + [
        _level(_CHART_HEIGHT - y * y_scale, f"{y:g}") for y in ticks(top)
    ]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in place)
    marks = [
        Markup('<circle class="mark" cx="{:.1f}" cy="{:.1f}" r="3"><title>{:g} s: {:.4g} {}</title></circle>').format(
            x, y, *point, unit
        )
        for (x, y), point in zip(place, points, strict=True)
    ]
    line = Markup('<polyline class="line" points="{}"/>').format(path)
    return _svg(_CHART_HEIGHT + _AXIS, "chart", [*grid, line, *marks])


def ticks(total: float) -> list[float]:
    """Round values from 0 up to ``total``, about six of them: steps of 1, 2 or 5 times a power of ten."""
    if total <= 0:
        return [0.0]
    rough = total / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return [round(n * step, 10) for n in range(math.floor(total / step) + 1)]


def _svg(height: float, style: str, parts: Sequence[Markup]) -> Markup:
    head = Markup('<svg class="{}" viewBox="0 0 {} {}" role="img">').format(style, _WIDTH, height)
    return head + Markup("").join(parts) + Markup("</svg>")


def _row(bar: Bar, y: float, scale: float) -> Markup:
    x, width = _LABELS + bar.begin_s * scale, max((bar.end_s - bar.begin_s) * scale, 2)
    note = bar.note or f"{bar.label}: {bar.end_s - bar.begin_s:.2f} s"
    room = (_LABELS - bar.depth * _INDENT) // 7
    label = bar.label if len(bar.label) <= room else bar.label[: room - 1] + "…"
    return Markup(
        '<g><title>{}</title><text class="label" x="{}" y="{}">{}</text>'
        '<rect class="bar {}" x="{:.1f}" y="{}" width="{:.1f}" height="{}" rx="2"/>'
        '<text class="value" x="{:.1f}" y="{}">{:.1f} s</text></g>'
    ).format(
        note, bar.depth * _INDENT, y + 15, label,
        bar.style, x, y + 4, width, _ROW - 7,
        x + width + 5, y + 15, bar.end_s - bar.begin_s,
    )  # fmt: skip


def _tick(x: float, bottom: float, text: str) -> Markup:
    return Markup(
        '<line class="grid" x1="{0:.1f}" y1="0" x2="{0:.1f}" y2="{1}"/>'
        '<text class="axis" x="{0:.1f}" y="{2}" text-anchor="middle">{3}</text>'
    ).format(x, bottom, bottom + 16, escape(text))


def _level(y: float, text: str) -> Markup:
    return Markup(
        '<line class="grid" x1="{0}" y1="{1:.1f}" x2="{2}" y2="{1:.1f}"/>'
        '<text class="axis" x="{3}" y="{4:.1f}" text-anchor="end">{5}</text>'
    ).format(_CHART_LEFT, y, _WIDTH - _CHART_RIGHT, _CHART_LEFT - 6, y + 4, escape(text))
