"""Published ONNX files as torch modules, by onnx2torch."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from benchmarks.tasks.packages import file, readable


def converted(path: Path) -> nn.Module:
    """The module of a file, in evaluation mode; its weights are where onnx2torch puts them, many in buffers."""
    import onnx

    file("onnx2torch/converter.py")
    readable()
    import onnx2torch

    _know_global_max_pool()
    model = onnx.load(str(path))
    _constants_to_initializers(model.graph)
    _say_ranks(model.graph)
    return onnx2torch.convert(model).eval()


def _constants_to_initializers(graph: Any) -> None:
    """What nodes of constants give becomes what the graph begins with: so onnx2torch wants weights."""
    for node in [node for node in graph.node if node.op_type == "Constant"]:
        graph.initializer.add().CopyFrom(node.attribute[0].t)
        graph.initializer[-1].name = node.output[0]
        graph.node.remove(node)


def _say_ranks(graph: Any) -> None:
    """Note the rank of what convolutions give to batch norms, by which onnx2torch takes one of two or three dims."""
    import onnx

    ranks = {weight.name: len(weight.dims) for weight in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        maker = makers.get(node.input[0]) if node.op_type == "BatchNormalization" else None
        if maker is not None and maker.op_type == "Conv":
            sizes = [None] * ranks[maker.input[1]]
            graph.value_info.append(onnx.helper.make_tensor_value_info(node.input[0], onnx.TensorProto.FLOAT, sizes))


class GlobalMaxPool(nn.Module):
    """The greatest value of each channel of [b, c, ...], which stays as many dimensions of one."""

    def forward(self, x: Tensor) -> Tensor:
        return x.amax(dim=tuple(range(2, x.ndim)), keepdim=True)


@cache
def _know_global_max_pool() -> None:
    """Teach onnx2torch the operation, which it does not have."""
    from onnx2torch.node_converters.registry import add_converter
    from onnx2torch.utils.common import OnnxToTorchModule, OperationConverterResult, onnx_mapping_from_node

    kind = type("OnnxGlobalMaxPool", (GlobalMaxPool, OnnxToTorchModule), {})

    @add_converter(operation_type="GlobalMaxPool", version=1)
    def _convert(node: Any, graph: Any) -> Any:
        return OperationConverterResult(torch_module=kind(), onnx_mapping=onnx_mapping_from_node(node))
