"""From a model and example inputs to a :class:`~graphprune.tracing.tracer.Trace`: one run, on shapes.

In reading order:

- inputs: ``example_inputs`` (guesses, where none are given), ``inputs`` and ``input_specs``;
- what is run instead of the user's model: ``model_copy``, with ``uncopied`` (attributes that cannot be copied),
  ``kept_tables`` and ``rebuilt_tensors`` (what earlier runs left in it);
- what is restored afterwards: ``may_write``, ``containers``, ``outside_tensors`` and ``side_effects`` (what a program
  keeps outside of its model), ``run_state`` with ``written_parameters`` (what a model keeps of its runs);
- the run: ``tracer``, with ``running``, ``recorded_runs``, ``further_calls`` (that read what earlier ones left),
  ``training_mode``, ``training_reads`` and ``reach`` (what only training does), ``made_parameters`` (layers that it
  builds), ``recorder`` (calls as nodes), ``places`` (lines of the user's source), ``call_list``, ``aliases``,
  ``blank_tensors`` and ``shallow_copies`` (what goes around the dispatcher), ``unused_tensors`` (made of sizes, and
  nothing uses them), ``opaque`` (operators that run functions) and ``meta`` (calls on shapes);
- sizes: ``sizes`` (integers that remember where they come from), ``size_places``, ``size_marks``, ``module_sizes``,
  ``torch_attention``,
  ``configured`` and ``built_empty`` (models built from a configuration) and ``size_tracking`` (the functions of torch
  that read and take sizes).

Words: docs/glossary.md.
"""
