"""digitrec without figures and reports, which take a process longer than all else of a small study.

    python -m tests.undrawn tune ...

For tests of processes that are not about figures. Nothing that draws is imported.
"""

import sys
from types import ModuleType


def leave_out_pictures() -> None:
    """Have the studies of this process draw nothing; call it before digitrec is imported."""
    sections = ModuleType("digitrec.results.report.sections")
    vars(sections).update(
        Section=object,
        draw_sections=lambda record: [],
        draw_mistakes=lambda record: [],
        write_plots=lambda sections, folder: None,
    )
    page = ModuleType("digitrec.results.report.page")
    vars(page).update(make_page=lambda summary, sections, mistakes: "")
    for module in (sections, page):
        sys.modules[module.__name__] = module


if __name__ == "__main__":
    leave_out_pictures()
    from digitrec.cli.main import main

    raise SystemExit(main(sys.argv[1:]))
