"""The report of a study: page, Markdown and template."""
