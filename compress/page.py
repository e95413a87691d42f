"""The page of a family of pruned networks: its curve, a row for each network, and the commands that go on with one.

One file that holds all it shows. The rows are also what the command prints.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from proxyless_arch.base.files import write_text
from proxyless_arch.base.units import format_count
from proxyless_arch.drawing.scene import Scene, css, to_svg

if TYPE_CHECKING:
    from compress.result import PruneResult

FILE = "family.html"
HEADER = ("network", "asked", "predicted ms", "measured ms", "MACs", "parameters", "top-1 pruned, %", "fine-tuned, %")
STYLE = """:root{color-scheme:light dark;--bg:#f4f5f7;--rule:#dfe3e8}
@media (prefers-color-scheme:dark){:root{--bg:#0e1115;--rule:#2c333d}}
body{margin:0 auto;max-width:960px;padding:24px 20px;background:var(--bg);color:var(--ink);
font:16px/1.5 system-ui,sans-serif;font-variant-numeric:tabular-nums}
svg{display:block;width:100%;max-width:640px;height:auto}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;margin:16px 0}
th,td{padding:6px 10px;border-bottom:1px solid var(--rule);text-align:right;white-space:nowrap}
th:first-child,td:first-child{text-align:left}
pre{overflow-x:auto;background:var(--card);border:1px solid var(--rule);border-radius:8px;padding:10px}"""


def rows(family: Sequence[PruneResult]) -> list[tuple[str, ...]]:
    """The network before pruning, then each of the family: cells as HEADER names them."""
    record = family[0].record
    before = (
        record["parent"],
        "",
        _number(record["parent_predicted_latency_ms"]),
        _number(record["parent_measured_latency_ms"]),
        format_count(record["parent_macs"]),
        format_count(record["parent_params"]),
        _number(record["parent_test_top1_percent"], ".1f"),
        "",
    )
    return [before, *map(_row, family)]


def _row(result: PruneResult) -> tuple[str, ...]:
    record = result.record
    ms, macs = record["target_latency_ms"], record["target_macs"]
    return (
        result.folder.name,
        f"{ms:.4g} ms" if ms is not None else f"{format_count(macs)} MACs" if macs is not None else "",
        _number(record["predicted_latency_ms"]),
        _number(record["measured_latency_ms"]) + ("" if record["landed"] in (None, True) else ", not landed"),
        format_count(record["macs"]),
        format_count(record["params"]),
        _number(record["inherited_test_top1_percent"], ".1f"),
        _number(record["test_top1_percent"], ".1f") if record["finetune_epochs"] else "",
    )


def _number(value: float | None, form: str = ".4g") -> str:
    return "-" if value is None else f"{value:{form}}"


def write_page(family: Sequence[PruneResult], curve: Scene, commands: Sequence[Sequence[str]], file: Path) -> None:
    """``commands``: of each network, a line each."""
    body = "".join(_table_row(row, "td") for row in rows(family))
    each = "".join(
        f"<h3>{escape(result.folder.name)}</h3><pre>{escape(chr(10).join(lines))}</pre>"
        for result, lines in zip(family, commands, strict=True)
    )
    n_test = family[0].record["n_test_images"]
    title = f"{family[0].record['parent']}, pruned to {len(family)} targets"
    write_text(
        file,
        "<!DOCTYPE html>\n<html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{css()}{STYLE}</style></head><body><h1>{escape(title)}</h1>"
        f"<p>Pick a network by what it costs and what it gets right of {n_test:,} test images.</p>"
        f"{to_svg(curve)}<div class=scroll><table>{_table_row(HEADER, 'th')}{body}</table></div>"
        f"<h2>Go on with one of them</h2>{each}</body></html>\n",
    )


def _table_row(cells: Sequence[str], kind: str) -> str:
    return f"<tr>{''.join(f'<{kind}>{escape(cell)}</{kind}>' for cell in cells)}</tr>\n"
