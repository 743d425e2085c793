"""Parts of a page: its style, tables, bars and curves.  Cells are HTML already: what a user named is escaped before."""

from collections.abc import Sequence

__all__ = ["CLOSING", "OPENING", "bars", "curve", "table"]

_STYLE = """
:root{{--ink:#1b1f24;--soft:#5b6570;--line:#dfe3e8;--paper:#fff;--tint:#f4f6f8;--main:#3b5bdb}}
*{{box-sizing:border-box}}
body{{margin:0 auto;max-width:70rem;padding:1rem;font:16px/1.5 system-ui,sans-serif;color:var(--ink);
background:var(--paper);overflow-wrap:anywhere}}
h1{{margin:0 0 .5rem;font-size:1.8rem;line-height:1.2}}
h2{{margin:2.5rem 0 .75rem;font-size:1.25rem;border-bottom:1px solid var(--line);padding-bottom:.25rem}}
h3{{margin:1rem 0 .25rem;font-size:1rem}}
p{{margin:.25rem 0 .75rem;max-width:45rem}}
.kicker{{margin:0;color:var(--main);font-weight:600}}
.tiles{{display:grid;grid-template-columns:repeat(auto-fit,minmax(8.5rem,1fr));gap:.5rem}}
.tiles div{{background:var(--tint);border-radius:.5rem;padding:.6rem .75rem}}
.tiles b{{display:block;font-size:1.2rem;white-space:nowrap}}
.tiles span,.strip span,footer{{color:var(--soft);font-size:.85rem;line-height:1.3}}
article{{margin:0 0 1.25rem;break-inside:avoid}}
article h3,article p{{margin:0;font-size:.9rem}}
.strip{{display:grid;grid-template-columns:repeat(var(--n),1fr);gap:.4rem;margin-top:.25rem}}
.strip img{{display:block;width:100%;height:auto;border-radius:.25rem}}
.ok,.bad{{padding:0 .4rem;border-radius:.5rem;font-size:.8rem}}
.ok{{background:#d3f9d8;color:#1b5e2b}}
.bad{{background:#ffe3e3;color:#9b1c1c}}
.scroll{{overflow-x:auto}}
table{{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}}
th,td{{text-align:right;padding:.3rem .75rem;border-bottom:1px solid var(--line)}}
th:first-child,td:first-child{{text-align:left;padding-left:0}}
.bars{{display:grid;grid-template-columns:minmax(6rem,max-content) 1fr max-content;gap:.3rem .75rem;max-width:40rem;
align-items:center;font-size:.9rem}}
.bars div{{background:var(--main);height:.8rem;border-radius:.2rem;min-width:1px}}
.swatch{{display:inline-block;width:.75rem;height:.75rem;border-radius:.2rem;margin-right:.4rem}}
pre{{background:var(--tint);padding:.6rem .75rem;border-radius:.5rem;white-space:pre-wrap;font-size:.8rem;margin:0}}
svg{{max-width:40rem;width:100%;height:auto}}
footer{{margin-top:2.5rem}}
@media (max-width:40rem){{.strip{{grid-template-columns:repeat(2,1fr)}}body{{padding:.75rem}}}}
@media print{{body{{max-width:none;padding:0;font-size:11pt}}pre,.tiles div{{border:1px solid var(--line)}}
*{{print-color-adjust:exact;-webkit-print-color-adjust:exact}}}}
"""

OPENING = (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width,initial-scale=1">'
    "<title>{title} - crt fit</title><style>" + _STYLE + "</style></head><body>"
)
CLOSING = (
    "<footer>Written by crt-wsss {version}. This page is complete: it loads nothing from elsewhere.</footer>"
    "</body></html>"
)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that scrolls on its own where the page is narrow."""
    head = "".join(f"<th>{column}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<div class=scroll><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def bars(rows: Sequence[tuple[str, int]]) -> str:
    """A bar for each (label, count)."""
    most = max([count for _, count in rows] + [1])
    cells = "".join(
        f'<span>{label}</span><div style="width:{100 * count / most:.1f}%"></div><span>{count}</span>'
        for label, count in rows
    )
    return f"<div class=bars>{cells}</div>"


def curve(steps: Sequence[int], values: Sequence[float]) -> str:
    """A line over steps, as an inline picture."""
    width, height, left, bottom = 600, 220, 50, 25
    low, high = min([*values, 0.0]), max(values) or 1.0
    first, last = steps[0], max(steps[-1], steps[0] + 1)

    def place(step: float, value: float) -> tuple[float, float]:
        x = left + (width - left - 10) * (step - first) / (last - first)
        return x, 10 + (height - bottom - 10) * (high - value) / max(high - low, 1e-9)

    points = " ".join("{:.1f},{:.1f}".format(*place(s, v)) for s, v in zip(steps, values, strict=True))
    lines = ""
    for level in (low, (low + high) / 2, high):
        y = place(first, level)[1]
        lines += f'<line x1="{left}" x2="{width}" y1="{y:.1f}" y2="{y:.1f}" stroke="#dfe3e8"/>'
        lines += f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{level:.2f}</text>'
    lines += f'<text x="{left}" y="{height - 4}">step {first}</text>'
    lines += f'<text x="{width}" y="{height - 4}" text-anchor="end">{last}</text>'
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" font-size="12" fill="#5b6570">{lines}'
        f'<polyline points="{points}" fill="none" stroke="#3b5bdb" stroke-width="2"/></svg>'
    )
