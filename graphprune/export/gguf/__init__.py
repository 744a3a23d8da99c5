"""Slim language models as GGUF files, which llama.cpp runs.

In reading order: ``writing`` (the function), ``decoder`` (what the model is, read from its tensors), ``layout`` (the
tensors and numbers of the file), ``vocabulary`` (the tokenizer), ``reference`` (what llama.cpp computes from them).

The field names are those of the `gguf` package and of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.

Words: docs/glossary.md.
"""
