"""Random networks as programs: written from a seed, pruned, and checked in every way that is known.

A network is a Python source: classes with an ``__init__`` and a ``forward`` as people write them. Read ``writer`` (how
a class is put together), one of the files of blocks (``images``, ``tokens``, ``vectors``), ``generator`` (a seed makes
a program), then ``checker``. Run thousands::

    python -m tests.random_networks --start 0 --count 10000 --workers 2
"""
