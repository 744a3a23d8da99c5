"""From a model and example inputs to a :class:`~graphprune.tracing.tracer.Trace`: one run, on shapes.

In reading order: ``example_inputs`` (guesses, where none are given) and ``inputs``; ``model_copy`` (what is run instead
of the user's model), with ``uncopied`` (attributes that cannot be copied), ``may_write``, ``containers`` and
``side_effects`` (what a program keeps outside of its model gets back what it held), ``kept_tables`` and
``rebuilt_tensors`` (what earlier runs left in it); ``tracer`` (the run), with ``running``, ``training_mode`` and
``reach`` (what only training does), ``recorder`` (calls as nodes), ``places`` (lines of the user's source),
``call_list``, ``aliases`` (tensors around the dispatcher), ``opaque`` (operators that run functions) and ``meta``
(calls on shapes); ``sizes`` (integers that remember where they come from), ``size_places``, ``size_marks``,
``module_sizes`` and ``size_tracking`` (the functions of torch that read and take them).

Words: docs/glossary.md.
"""
