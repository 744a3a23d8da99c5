"""From a model and example inputs to a :class:`~graphprune.tracing.tracer.Trace`: one run, on shapes.

In reading order: ``example_inputs`` (guesses, where none are given) and ``inputs``; ``model_copy`` (what is run instead
of the user's model), with ``uncopied`` (attributes that cannot be copied) and ``side_effects`` (globals get back what
they held); ``tracer`` (the run), with ``recorder`` (calls as nodes), ``places`` (lines of the user's source),
``call_list``, ``aliases`` (tensors around the dispatcher), ``opaque`` (operators that run functions) and ``meta``
(calls on shapes); ``sizes`` (integers that remember where they come from), ``module_sizes`` and ``size_tracking`` (the
functions of torch that read and take them).

Words: docs/glossary.md.
"""
