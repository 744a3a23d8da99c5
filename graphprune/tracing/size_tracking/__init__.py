"""Which torch functions read sizes and which take them: the size half of tracing.

In reading order: ``watching`` (the context), ``watcher`` (the mode that sees every function), ``table`` (which function
takes sizes how), then the handlers: ``reading``, ``shapes``, ``parts``, ``numbers`` and ``caches``; and
``whole_numbers`` (what ``int(size)`` and ``type(size)`` give meanwhile), with ``name_uses`` (in which files).

Words: docs/glossary.md.
"""
