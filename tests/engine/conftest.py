from __future__ import annotations

import sys
from pathlib import Path

# The tests share a helper module; it is imported by name so that worker processes find it too.
sys.path.insert(0, str(Path(__file__).parent))
