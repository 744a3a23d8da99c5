"""Checkpoints of Transformers that are pruned file to file, without the model in memory.

In reading order: ``streaming`` (:func:`graphprune.prune_checkpoint`: everything in one call); ``source`` (the folder
that is pruned: its model on ``meta``, its tensors in files), ``request`` (what was asked, by which a run that was
killed is known again), ``journal`` (what is finished), ``slices`` (what is left of each tensor), ``streamed_files``
(how they are written), ``residence`` (how much of mapped files stays in memory), ``fitting`` (repair of weights that
are files), ``token_batches`` (calibration texts), ``progress``.

Input: a folder with ``config.json`` and safetensors files. Output: the folder that :func:`graphprune.save_pretrained`
writes of the slim model.

Words: docs/glossary.md.
"""
