"""Plots as SVG text, by hand: step curves and bars, readable on a light and on a dark page. No library."""

from html import escape

WIDTH, HEIGHT = 720, 360
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 44, 52
COLOURS = ("#2f7ed8", "#d9822b", "#b5394a", "#5a9e5a")
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#777}.title{font-size:14px;font-weight:600}"
    ".axis{stroke:#999;stroke-width:1}.grid{stroke:#999;stroke-width:.4;stroke-dasharray:2 4}"
)


def curves(title, x_label, series, *, marks=(), x_max=None):
    """Cumulative shares: each series is a list of values; the y axis is the share of them that is not larger.

    Args:
        title: Above the plot.
        x_label: Below it.
        series: Values by name.
        marks: ``(x, words)``: vertical lines.
        x_max: Right end of the axis; the largest value unless given.
    """
    right = x_max or max([*(max(values) for values in series.values() if values), *(x for x, _ in marks)]) * 1.05
    x = _scale(0, right, LEFT, WIDTH - RIGHT)
    y = _scale(0, 1, HEIGHT - BOTTOM, TOP)
    parts = [_axes(title, x_label, [(x(v), f"{v:g}") for v in _ticks(right)], [(y(v), f"{v:.0%}") for v in _ticks(1)])]
    for at, words in marks:
        parts.append(f'<line class="grid" x1="{x(at):.1f}" x2="{x(at):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text x="{x(at) + 4:.1f}" y="{TOP + 12}">{escape(words)}</text>')
    for colour, (name, values) in zip(COLOURS, series.items(), strict=False):
        points, last = [(x(0), y(0))], y(0)
        for number, value in enumerate(sorted(values), 1):
            points += [(x(min(value, right)), last), (x(min(value, right)), y(number / len(values)))]
            last = y(number / len(values))
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{path}"/>')
        parts.append(_legend(list(series).index(name), colour, name))
    return _page(parts)


def bars(title, groups, *, unit=""):
    """Bars side by side: ``groups`` maps a label below to values by series name; each bar shows its number."""
    names = list(dict.fromkeys(name for values in groups.values() for name in values))
    width = (WIDTH - LEFT - RIGHT) / len(groups)
    parts = [_axes(title, "", [(LEFT + width * (n + 0.5), label) for n, label in enumerate(groups)], [])]
    for position, values in enumerate(groups.values()):
        top = max([*values.values(), 1])
        bar = width * 0.7 / len(names)
        for number, name in enumerate(names):
            height = (HEIGHT - TOP - BOTTOM - 30) * values.get(name, 0) / top
            left = LEFT + width * position + width * 0.15 + bar * number
            base = HEIGHT - BOTTOM
            parts.append(
                f'<rect x="{left:.1f}" y="{base - height:.1f}" width="{bar - 4:.1f}" height="{height:.1f}" '
                f'fill="{COLOURS[number % len(COLOURS)]}"/>'
                f'<text x="{left + bar / 2 - 2:.1f}" y="{base - height - 5:.1f}" text-anchor="middle">'
                f"{values.get(name, 0):,.10g}{unit}</text>"
            )
    parts += [_legend(number, COLOURS[number % len(COLOURS)], name) for number, name in enumerate(names)]
    return _page(parts)


def _scale(low, high, start, end):
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _ticks(top):
    step = next(s for s in (0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if top / s <= 8)
    return [step * number for number in range(int(top / step + 1e-9) + 1)]


def _axes(title, x_label, x_ticks, y_ticks):
    base = HEIGHT - BOTTOM
    parts = [
        f'<text class="title" x="{LEFT}" y="18">{escape(title)}</text>',
        f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>',
        f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 10}" text-anchor="middle">{escape(x_label)}</text>',
    ]
    parts += [
        f'<text x="{at:.1f}" y="{base + 18}" text-anchor="middle">{escape(words)}</text>' for at, words in x_ticks
    ]
    for at, words in y_ticks:
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{escape(words)}</text>')
    return "\n".join(parts)


def _legend(number, colour, name):
    left = LEFT + number * 215
    box = f'<rect x="{left}" y="27" width="10" height="10" fill="{colour}"/>'
    return f'{box}<text x="{left + 15}" y="36">{escape(name)}</text>'


def _page(parts):
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">\n'
        f"<style>{STYLE}</style>\n{body}\n</svg>\n"
    )
