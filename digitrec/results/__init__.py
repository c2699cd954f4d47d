"""The study directory as tables, figures and a verdict; needs neither Ray nor torch."""
