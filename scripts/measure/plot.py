"""A plot of times relative to gocryptfs, as SVG."""

import math
from xml.sax.saxutils import escape

COLOURS = {
    "backing": "#888888",
    "passthrough": "#1f77b4",
    "fscrypt": "#9467bd",
    "securefs": "#bcbd22",
    "kmsfs": "#d62728",
    "kmsfs-fast": "#ff9f40",
    "kmsfs-xts": "#2ca02c",
}
BASE = "gocryptfs"
LEFT, WIDTH, ROW, TOP = 150, 720, 20, 70
TICKS = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)


def across(value):
    """Where a ratio lies, on a logarithmic axis; what is outside sits on its edge."""
    low, high = math.log(TICKS[0]), math.log(TICKS[-1])
    return LEFT + WIDTH * (min(max(math.log(value), low), high) - low) / (high - low)


def text(x, y, words, anchor="start", size=12, colour="#222222"):
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{colour}">{escape(words)}</text>'


def axis(bottom):
    for tick in TICKS:
        x, strong = across(tick), tick == 1
        yield f'<line x1="{x:.1f}" y1="{TOP - 12}" x2="{x:.1f}" y2="{bottom}" stroke="{"#444444" if strong else "#dddddd"}"/>'
        yield text(x, TOP - 18, f"{tick:g}", "middle")


def legend(targets):
    x = LEFT
    for target in targets:
        yield f'<circle cx="{x}" cy="30" r="5" fill="{COLOURS[target]}"/>'
        yield text(x + 9, 34, target)
        x += 24 + 8 * len(target)


def draw(rows, targets, command):
    """Rows of seconds by target, as an SVG document."""
    rows = {name: row for name, row in rows.items() if row.get(BASE)}
    shown = [target for target in targets if target in COLOURS]
    bottom = TOP + ROW * len(rows)
    parts = [*legend(shown), *axis(bottom)]
    parts.append(text(LEFT, 14, f"time / time of {BASE} (left is faster); {command}", size=11, colour="#555555"))
    for at, (name, row) in enumerate(rows.items()):
        y = TOP + ROW * at + ROW / 2
        parts.append(text(LEFT - 10, y + 4, name, "end"))
        # The default of kmsfs comes last, on top.
        for target in sorted(shown, key=lambda target: target == "kmsfs"):
            if target in row:
                size = 6 if target == "kmsfs" else 4.5
                x = across(row[target] / row[BASE])
                parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size}" fill="{COLOURS[target]}" fill-opacity="0.85"/>')
    width, height = LEFT + WIDTH + 30, bottom + 20
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">'
    return "\n".join([head, f'<rect width="{width}" height="{height}" fill="white"/>', *parts, "</svg>\n"])
