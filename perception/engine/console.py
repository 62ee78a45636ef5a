"""The one place that the engine prints from."""

from __future__ import annotations

from mmengine.dist import is_main_process
from rich.console import Console

console = Console(highlight=False, soft_wrap=True)


def say(message: str) -> None:
    """Print a line, on the first rank only. Square brackets are text here, not markup."""
    if is_main_process():
        console.print(message, markup=False)
