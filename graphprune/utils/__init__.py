"""What torch and Python lack.

In no order: ``modules``, ``tree``, ``operators`` and ``ancestors`` (walks over modules, nested data and calls),
``tied_names``, ``compiled`` (what ``torch.compile`` returns); ``deepcopy`` with ``copier`` (values),
``shared_containers`` (what is not copied) and ``own_objects`` (of a call's arguments), ``exchange`` (of tensors) and
``held`` (what objects hold), ``reached_functions`` (by names); ``global_state``, ``collector``, ``random_state`` and
``mode_flags`` (what is restored), ``evaluation`` and ``switches`` with ``kept_values`` (how models run); ``files``,
``folders`` with ``folder_locks``, ``direct_file``, ``tensor_files`` with ``shard_index``, ``pickled_files``,
``typed_json``; ``checks``, ``model_checks``, ``model_tensors`` and ``torch_modes`` (of arguments), ``callers`` (whose
line a warning names); ``devices``, ``dispatched`` and ``storages`` (where weights lie), ``equality`` and ``digests``
(of values), ``byte_sizes``, ``weak_caches`` (by class or object), ``prune_masks`` (those of torch); ``complex_numbers``
and ``float_types``, ``arrays`` (names of types), ``timing``, ``tables`` with ``repeated_names`` (how results
print), ``text_lines`` (of files).

Words: docs/glossary.md.
"""
