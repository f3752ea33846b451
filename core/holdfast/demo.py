"""The worker of ``holdfast demo``, for programs that show what a session is.

It speaks ``kimi-wire``: ``manager.start("local:", holdfast.demo.WORKER, dialect="kimi-wire")``.
Its first event, ``Started``, says its process id, so that whoever reads can kill it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

WORKER: Final = (
    sys.executable,
    "-I",
    str(Path(__file__).parent / "_cli" / "_demo_worker.py"),
)
