"""Slim language models as GGUF files, which llama.cpp runs.

decoder: what the model is, read from its tensors · layout: the tensors of the file · reference: what llama.cpp computes
from them · vocabulary: the tokenizer · writing: the file.

The field names are those of the `gguf` package and of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""
