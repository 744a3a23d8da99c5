"""Slim models as files.

In reading order: ``bundle`` (:func:`graphprune.save` and :func:`graphprune.load`: safetensors and JSON), with
``manifest``, ``structure`` (the modules as data), ``held_settings`` (configurations), ``plain_data`` (values as JSON
and back), ``unsaved`` (what a bundle does not hold), ``shards``, ``architecture``, ``libraries`` and ``rebuilding``
(what builds the dense model again), ``likeness`` and ``restoring``; ``loader`` (a Python file that gives the class of
a library its slim sizes), with ``slim_record``, ``builders``, ``lost_changes``, ``python_text``, ``import_names``,
``loader_text`` and ``resizing``; ``own_modules`` (which Python files may be replaced); ``onnx``, with
``dynamic_axes``; and the folders ``source`` (a Python file that needs torch alone), ``huggingface`` (folders for
Transformers and servers) and ``gguf`` (llama.cpp).

Words: docs/glossary.md.
"""
