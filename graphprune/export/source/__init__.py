"""A slim model as a Python file that needs torch alone, and its weights.

``exporting`` is the way through. ``program`` holds the parts of the file: ``classes`` and ``collecting`` copy the
author's methods and what they refer to, ``initializers`` says what each module is built of, ``constructors`` with which
arguments, ``unify`` and ``variants`` make one constructor of many modules. ``layout`` puts the file together, and
``proof`` runs it.

Words: docs/glossary.md.
"""
