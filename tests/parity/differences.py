"""Writes `docs/differences.md`: `python -m tests.parity.differences`."""

from pathlib import Path

from pulpcore.content_star.differences import DIFFERENCES, FURTHER

DOCUMENT = Path(__file__).parents[2] / "docs" / "differences.md"


def document() -> str:
    """Render the differences as a page of the documentation."""
    lines = [
        "# Differences from pulpcore-content",
        "",
        "All else is answered alike: the parity tests send the same requests to both content",
        "apps, on one database, and accept only what is listed here. This page is made from",
        "`pulpcore/content_star/differences.py`.",
        "",
        "| | pulpcore-content 3.123 | content-star | why |",
        "| --- | --- | --- | --- |",
    ]
    for name, difference in DIFFERENCES.items():
        lines.append(
            f"| {name} | {difference.upstream} | {difference.ours} | {difference.reason} |"
        )
    lines += ["", "No single request shows these, but other tests do:", ""]
    lines += ["| | pulpcore-content 3.123 | content-star | why |", "| --- | --- | --- | --- |"]
    lines += [f"| {name} | {' | '.join(cells)} |" for name, cells in FURTHER.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    DOCUMENT.write_text(document())
