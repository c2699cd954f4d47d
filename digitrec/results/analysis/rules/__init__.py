"""The rules of the verdict, one function each, in a file for each question.

A rule takes the evidence and returns a finding, or None where there is nothing to say. Its
docstring gives its source. "Playbook" is V. Godbole, G. E. Dahl, J. Gilmer, C. J. Shallue,
Z. Nado, "Deep Learning Tuning Playbook" (2023), https://github.com/google-research/tuning_playbook,
with the name of the section. `digitrec.results.analysis.statistics` has the statistics.

A rule that is about a learning rate or a batch size asks for the hyperparameter with that role.
"""
