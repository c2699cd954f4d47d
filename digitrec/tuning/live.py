"""What shows on a terminal or in a notebook while a study works."""

import io
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live

REFRESH_SECONDS = 0.5
WIDTH = 100  # characters of a notebook's display
PRE = '<pre style="white-space:pre;overflow-x:auto;line-height:normal">{code}</pre>'


def live_display(
    console: Console, get_renderable: Callable[[], RenderableType]
) -> "Live | NotebookDisplay | None":
    """Return a display that is replaced again and again; None: the console is a plain log."""
    if console.is_jupyter:
        return NotebookDisplay(get_renderable)
    if console.is_terminal:
        return Live(
            get_renderable=get_renderable, console=console, refresh_per_second=4, transient=True
        )
    return None


def busy(console: Console, what: str, *, logged: bool = False) -> AbstractContextManager[object]:
    """Show on a terminal or in a notebook, for the length of a block, what it does.

    Args:
        console: where to.
        what: the words for it.
        logged: whether a log, too, has a line of it.
    """
    if logged and not (console.is_terminal or console.is_jupyter):
        console.print(what, highlight=False)
    return _busy_in_notebook(what) if console.is_jupyter else console.status(what)


@contextmanager
def _busy_in_notebook(what: str) -> Iterator[None]:
    """Show a line without rich's spinner, which asks for ipywidgets."""
    display = NotebookDisplay(lambda: what)
    display.start()
    try:
        yield
    finally:
        display.stop()


class NotebookDisplay:
    """A live display in Jupyter, VS Code and the like.

    It refreshes itself only when it is told to: a second thread might display it in the output of a
    later cell.
    """

    def __init__(self, get_renderable: Callable[[], RenderableType]) -> None:
        self._get_renderable = get_renderable
        self._handle: Any = None
        self._refreshed = 0.0

    def start(self) -> None:
        """Show it below what the cell has printed."""
        from IPython.display import display

        self._refreshed = time.monotonic()
        self._handle = display(  # type: ignore[no-untyped-call]
            render_in_html(self._get_renderable()), raw=True, display_id=True
        )

    def refresh(self) -> None:
        """Show it as it is now, if that is due; call this several times a second."""
        if time.monotonic() - self._refreshed >= REFRESH_SECONDS:
            self._refreshed = time.monotonic()
            self._handle.update(render_in_html(self._get_renderable()), raw=True)

    def stop(self) -> None:
        """Leave an empty place."""
        self._handle.update({"text/html": "", "text/plain": ""}, raw=True)


def render_in_html(renderable: RenderableType) -> dict[str, str]:
    """Return what rich would print, as HTML with everything escaped, and as text."""
    console = Console(
        file=io.StringIO(), record=True, width=WIDTH, color_system="truecolor", force_jupyter=False
    )
    console.print(renderable)
    html = console.export_html(inline_styles=True, code_format=PRE, clear=False)
    return {"text/html": html, "text/plain": console.export_text()}
