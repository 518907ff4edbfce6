"""What torchjd does, and what we do, in thirteen situations that other libraries get wrong.

Each situation is made and run in both libraries, side by side, and what is seen is put into words
by the code that sees it. The documentation's table is rendered from the JSON that this writes:

    .venv/bin/python benchmarks/peers/reliability.py
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Final

import of_models
import of_numbers
import of_plugins
import of_steps
from finding import VERDICTS, Row

ROWS: Final[dict[int, Callable[[], Row]]] = {
    1: of_numbers.scales,
    2: of_models.wrapped,
    3: of_models.shared_weights,
    4: of_steps.checkpoints,
    5: of_models.limits_of_vmap,
    6: of_numbers.half_precision,
    7: of_numbers.degenerate,
    8: of_numbers.failing_solvers,
    9: of_steps.out_of_reach,
    10: of_steps.out_of_memory,
    11: of_models.batch_statistics,
    12: of_plugins.plugins,
    13: of_steps.exceptions,
}


def main() -> None:
    """Runs every row, prints, and writes JSON."""
    sys.path.append(str(Path(__file__).parents[1]))
    from reporting import arguments, progress, show, write

    given = arguments(__doc__)
    peer, rows = f"torchjd {version('torchjd')}", []
    with progress(len(ROWS)) as advance:
        for number, observe in ROWS.items():
            advance(f"row {number}")
            rows.append({"row": number, "peer": peer, **asdict(observe())})
    show("Reliability, observed", [_text(row) for row in rows])
    print(f"wrote {write('peers', given, rows)}")


def _text(row: dict[str, object]) -> dict[str, str]:
    return {
        "row": str(row["row"]),
        **{
            name: f"{VERDICTS[found['kept']]}: {found['observed']}"
            for name, found in ((str(row["peer"]), row["theirs"]), ("ours", row["ours"]))
            if isinstance(found, dict)
        },
    }


if __name__ == "__main__":
    main()
