"""Slim Transformers models as folders that stock Transformers loads.

In reading order: ``stock_folder`` (:func:`graphprune.save_pretrained`), with ``dense_fields``, ``true_fields`` (the
configuration), ``fewer_layers`` (layers that are left out), ``weight_files`` and ``processing_files``; ``auto_map``
(folders for ``trust_remote_code=True``), with ``generated_module``; ``deci`` (:func:`graphprune.export_deci`);
``same_program`` and ``reading_back`` (what is compared before a folder takes its place).

Words: docs/glossary.md.
"""
