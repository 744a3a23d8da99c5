"""From a model and example inputs to a :class:`~graphprune.tracing.tracer.Trace`: one run, on shapes.

In reading order: ``example_inputs`` (guesses, where none are given) and ``inputs``; ``model_copy`` (what is run instead
of the user's model), with ``uncopied`` (attributes that cannot be copied), ``side_effects`` (globals get back what they
held) and ``kept_tables`` (dictionaries that earlier runs filled); ``tracer`` (the run), with ``running``,
``training_mode`` and ``reach`` (what only training does), ``recorder`` (calls as nodes), ``places`` (lines of the
user's source), ``call_list``, ``aliases`` (tensors around the dispatcher), ``opaque`` (operators that run functions)
and ``meta`` (calls on shapes); ``sizes`` (integers that remember where they come from), ``size_places``,
``size_marks``, ``module_sizes`` and ``size_tracking`` (the functions of torch that read and take them).

Words: docs/glossary.md.
"""
