"""Mistakes that people make, as programs, and what their errors must say.

``python -m tests.test_error_messages`` writes them, with the messages as they are printed, to ``docs/errors.md``.
"""

from __future__ import annotations

from textwrap import dedent

from graphprune.errors import (
    ExportError,
    GraphpruneError,
    InputError,
    LoadError,
    MissingPackageError,
    PlanError,
    SaveError,
    TraceError,
)
from tests.error_settings import Situation

SITUATIONS: list[Situation] = []


def add(
    task: str,
    title: str,
    code: str,
    error: type[GraphpruneError],
    found: str,
    do: str,
    where: str = "",
    missing: tuple[str, ...] = (),
    line: int = 0,
) -> None:
    """Add a situation; see :class:`tests.error_settings.Situation`."""
    SITUATIONS.append(Situation(task, title, dedent(code).strip(), error, found, do, where, missing, line))


# ---------------------------------------------------------------- the model

MODEL = "Passing a model"

add(MODEL, "A class instead of an instance", "graphprune.prune_model(Net, 0.5, x)", InputError, "Net", "Net(...)")
add(
    MODEL,
    "A state dict instead of a model",
    "graphprune.trace(model.state_dict(), x)",
    InputError,
    "OrderedDict",
    "load_state_dict",
)
add(MODEL, "A path instead of a model", 'graphprune.trace("resnet.pt", x)', InputError, "resnet.pt", "load the model")
add(
    MODEL,
    "A function instead of a model",
    "graphprune.trace(model.forward, x)",
    InputError,
    "Net.forward",
    "pass the model",
)
add(MODEL, "No model at all", "graphprune.prune_model(None, 0.5, x)", InputError, "None", "pass the model")
add(
    MODEL,
    "`super().__init__()` was forgotten",
    """
    class Forgetful(nn.Module):
        def __init__(self):
            self.width = 3


    graphprune.trace(Forgetful(), x)
    """,
    InputError,
    "Forgetful",
    "super().__init__()",
)
add(
    MODEL,
    "Lazy layers that have not seen an input",
    "graphprune.trace(nn.Sequential(nn.LazyLinear(3)), torch.randn(1, 4))",
    InputError,
    "uninitialized",
    "run the model once",
    "model.0",
)
add(
    MODEL,
    "A model within DataParallel",
    "graphprune.prune_model(nn.DataParallel(model), 0.5, x)",
    InputError,
    "DataParallel",
    "model.module",
)
add(
    MODEL,
    "A model within DistributedDataParallel",
    "graphprune.prune_model(wrapped, 0.5, x)",
    InputError,
    "DistributedDataParallel",
    "model.module",
)
add(
    MODEL,
    "A model of averaged weights",
    "graphprune.prune_model(torch.optim.swa_utils.AveragedModel(model), 0.5, x)",
    InputError,
    "AveragedModel",
    "model.module",
)
add(
    MODEL,
    "A wrapper within the model",
    "graphprune.prune_model(nn.Sequential(nn.DataParallel(model)), 0.5, x)",
    InputError,
    "DataParallel",
    "model.0.module",
    "model.0",
)
add(
    MODEL,
    "A model without parameters",
    "graphprune.prune_model(nn.ReLU(), 0.5, x)",
    PlanError,
    "no parameters",
    "pass a model",
)
add(
    MODEL,
    "A quantized model",
    """
    kind = type("Linear", (nn.Identity,), {"__module__": "torch.ao.nn.quantized.modules.linear"})
    graphprune.prune_model(nn.Sequential(kind()), 0.5, x)
    """,
    PlanError,
    "quantized",
    "then quantize",
)
add(
    MODEL,
    "One layer, whose outputs are those of the model",
    "graphprune.prune_model(nn.Linear(4, 4), 0.5, torch.randn(1, 4))",
    PlanError,
    "output of the model",
    "graph.explain",
    "weight[0]",
)
add(
    MODEL,
    "An attribute that cannot be copied",
    """
    model = Net()
    model.log = (line for line in ["first"])
    graphprune.prune_model(model, 0.5, x)
    """,
    InputError,
    "generator",
    "inplace=True",
    "model.log",
)
add(
    MODEL,
    "`forward` uses an attribute that cannot be copied",
    """
    class Logged(Net):
        def forward(self, x):
            next(self.log)
            return super().forward(x)


    model = Logged()
    model.log = (line for line in ["first"])
    graphprune.trace(model, x)
    """,
    TraceError,
    "generator",
    "make it in forward",
    "model.log",
    line=6,
)
add(
    MODEL,
    "Weights on the meta device",
    'graphprune.trace(copy.deepcopy(model).to("meta"), x).plan(0.5)',
    PlanError,
    "on meta",
    "importance='random'",
    "conv.weight",
)

# ---------------------------------------------------------------- example inputs

INPUTS = "Giving example inputs"

add(
    INPUTS,
    "No example, and none can be guessed",
    "graphprune.trace(nn.ReLU())",
    InputError,
    "no convolution",
    "example_inputs=torch.randn",
    "ReLU.forward(input",
)
add(
    INPUTS,
    "A guessed example does not fit",
    """
    class Two(Net):
        def forward(self, x, mask):
            return super().forward(x) * mask


    graphprune.trace(Two())
    """,
    InputError,
    "mask",
    "pass inputs that fit",
)
add(
    INPUTS,
    "A wrong number of channels",
    "graphprune.trace(model, torch.randn(2, 1, 8, 8))",
    TraceError,
    "[2, 1, 8, 8]",
    "pass example_inputs",
)
add(INPUTS, "Something else than tensors", 'graphprune.trace(model, "cat.png")', InputError, "cat.png", "pass tensors")
add(
    INPUTS,
    "An array of numpy",
    "graphprune.trace(model, (x.numpy(),))",
    TraceError,
    "ndarray of shape (2, 3, 8, 8)",
    "torch.from_numpy",
)
add(
    INPUTS,
    "A shape instead of a tensor",
    "graphprune.trace(model, (2, 3, 8, 8))",
    TraceError,
    "2, 3, 8, 8",
    "torch.randn(2, 3, 8, 8)",
)
add(INPUTS, "An empty list", "graphprune.trace(model, [])", InputError, "[]", "torch.randn")
add(INPUTS, "A batch without samples", "graphprune.trace(model, x[:0])", InputError, "[0, 3", "a sample")
add(
    INPUTS,
    "A dict that is no dict of arguments",
    "graphprune.trace(model, {0: x})",
    InputError,
    "the key 0",
    "example_inputs=(d,)",
)
add(
    INPUTS,
    "Numbers of a wrong type",
    "graphprune.trace(tokens, torch.randn(1, 4))",
    TraceError,
    "f32[1, 4]",
    "pass example_inputs",
)
add(
    INPUTS,
    "An argument is missing",
    """
    class Two(Net):
        def forward(self, x, mask):
            return super().forward(x) * mask


    graphprune.trace(Two(), x)
    """,
    TraceError,
    "f32[2, 3, 8, 8]",
    "dict of keyword arguments",
)
add(
    INPUTS,
    "A method that the model does not have",
    'graphprune.trace(model, graphprune.MethodCall("decode", x))',
    TraceError,
    "decode(",
    "pass example_inputs",
)
add(
    INPUTS,
    "`forward` itself fails",
    """
    class Broken(Net):
        def forward(self, x):
            hidden = self.conv(x)
            return hidden.view(-1, 5)


    graphprune.prune_model(Broken(), 0.5, x)
    """,
    TraceError,
    "f32[2, 3, 8, 8]",
    "pass example_inputs",
    "train.py:4: return hidden.view(-1, 5)",
)
add(
    INPUTS,
    "An output without tensors",
    """
    class Boxed(Net):
        def forward(self, x):
            return lambda: super().forward(x)


    graphprune.trace(Boxed(), x)
    """,
    TraceError,
    "function",
    "outputs=lambda",
    "the output of Boxed",
)
add(INPUTS, "`outputs=` is no function", "graphprune.trace(model, x, outputs=3)", InputError, "3, an int", "outputs=")

# ---------------------------------------------------------------- planning

PLAN = "Planning"

add(PLAN, "Nothing is asked for", "graph.plan()", InputError, "no ratio", "ratio=0.5")
add(PLAN, "A ratio above one", "graph.plan(1.5)", InputError, "1.5, a float", "ratio=0.5")
add(PLAN, "A ratio in percent", 'graph.plan("50%")', InputError, "50%", "ratio=0.5")
add(PLAN, "A truth value as ratio", "graph.plan(True)", InputError, "True, a bool", "ratio=0.5")
add(PLAN, "A tensor as ratio", "graph.plan(x)", InputError, "a Tensor of shape (2, 3, 8, 8)", "ratio=0.5")
add(PLAN, "A ratio for each layer", 'graph.plan({"1": 0.25})', InputError, "a dict", "Override(ratio=0.25)")
add(PLAN, "A ratio and a budget", "graph.plan(0.5, macs=0.5)", InputError, "ratio=0.5 and macs", "leave out")
add(PLAN, "A misspelled argument", 'graph.plan(0.5, importence="l1")', InputError, "importence=", "importance=")
add(PLAN, "An unknown criterion", 'graph.plan(0.5, importance="l3")', InputError, "'l3'", "importance='l1'")
add(
    PLAN,
    "A criterion with other arguments",
    "graph.plan(0.5, importance=lambda weight: weight.abs())",
    InputError,
    "(weight)",
    "(group, context)",
)
add(
    PLAN,
    "A criterion that returns no tensor",
    "graph.plan(0.5, importance=lambda group, context: 1.0)",
    PlanError,
    "1.0, a float",
    "return such a tensor",
    "group 'conv'",
)
add(
    PLAN,
    "Scores of a wrong shape",
    "graph.plan(0.5, importance=lambda group, context: torch.ones(3))",
    PlanError,
    "shape [3]",
    "one for each unit",
    "group 'conv'",
)
add(
    PLAN,
    "Scores that are NaN",
    "graph.plan(0.5, importance=lambda group, context: torch.full((group.units,), torch.nan))",
    PlanError,
    "16 scores",
    "look for NaN",
    "group 'conv'",
)
add(
    PLAN,
    "A criterion that reads data, without data",
    'graph.plan(0.5, importance="wanda")',
    InputError,
    "no calibration=",
    "pass calibration=",
)
add(
    PLAN,
    "A criterion for normalizations, without any",
    'graphprune.trace(tokens, torch.zeros(1, 4, dtype=torch.long)).plan(0.5, importance="bn_scale")',
    InputError,
    "no batch or layer normalization",
    "importance='l2'",
)
add(PLAN, "An unknown budget", 'graph.plan(budgets={"mac": 0.5})', InputError, "'mac'", "'macs'")
add(PLAN, "A budget with an unknown unit", 'graph.plan(macs="3 parsecs")', InputError, "3 parsecs", "macs=0.5")
add(PLAN, "A negative budget", "graph.plan(params=-1)", InputError, "-1, an int", "params=0.5")
add(PLAN, "A budget that is text", 'graph.plan(macs="0.5")', InputError, "'0.5', a str", "macs=0.5")
add(PLAN, "A budget that cannot be met", "graph.plan(macs=0.001)", PlanError, "macs=0.001", "max_ratio")
add(
    PLAN,
    "A latency of a model on meta",
    'graphprune.trace(copy.deepcopy(model).to("meta"), x).plan(latency="1ms", importance="random")',
    PlanError,
    "on meta",
    "load the weights",
)
add(
    PLAN,
    "An override for nothing",
    'graph.plan(0.5, overrides={"convv": Override(frozen=True)})',
    InputError,
    "'convv'",
    "print(graph)",
    "overrides['convv']",
)
add(
    PLAN,
    "An override without a key",
    "graph.plan(0.5, overrides={3: Override(frozen=True)})",
    InputError,
    "3, an int",
    "'layer1.*'",
    "overrides[3]",
)
add(
    PLAN,
    "An override that is a number",
    'graph.plan(0.5, overrides={"conv": 0.3})',
    InputError,
    "0.3, a float",
    "Override(ratio=0.3)",
    "overrides['conv']",
)
add(
    PLAN,
    "An override for a module of another model",
    "graph.plan(0.5, overrides={Net().conv: Override(frozen=True)})",
    InputError,
    "not in this model",
    "print(graph)",
)
add(PLAN, "A ratio of an override above one", "Override(ratio=2)", InputError, "2, an int", "ratio=0.5")
add(PLAN, "A word as a flag", 'Override(frozen="no")', InputError, "'no'", "True or False")
add(PLAN, "Heads of a network without attention", "graph.plan(heads=0.5)", InputError, "heads=0.5", "print(graph)")
add(
    PLAN,
    "Narrower heads and fewer heads",
    "graph.plan(heads=0.5, head_width=0.5)",
    InputError,
    "head_width=0.5",
    "another for the slim model",
)
add(
    PLAN,
    "A loss without batches",
    "graph.plan(0.5, loss_fn=nn.functional.cross_entropy)",
    InputError,
    "no calibration=",
    "pass calibration=",
)
add(
    PLAN,
    "A runner of what is not timed",
    "graph.plan(0.5, run_with=torch.compile)",
    InputError,
    "no latency=",
    "pass latency=",
)
add(
    PLAN,
    "A bound on the memory of a repair that is not made",
    'graphprune.prune_model(model, 0.5, x, memory="4GB")',
    InputError,
    "memory='4GB'",
    "pass calibration=",
)
add(
    PLAN,
    "Tensor parallelism without a server",
    "graph.plan(0.5, tensor_parallel=2)",
    InputError,
    "tensor_parallel=2",
    "serve='vllm'",
)
add(PLAN, "An unknown server", 'graph.plan(0.5, serve="vlllm")', InputError, "vlllm", "serve='vllm'")
add(PLAN, "Depth without residual blocks", "graph.plan(depth=0.5)", PlanError, "depth=0.5", "ratio=0.5")
add(
    PLAN,
    "Depth of blocks that are frozen",
    """
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(8, 8)

        def forward(self, x):
            return x + self.inner(x).relu()


    deep = nn.Sequential(nn.Linear(4, 8), Block(), Block(), nn.Linear(8, 2))
    graphprune.trace(deep, torch.zeros(1, 4)).plan(depth=0.5, overrides={Block: Override(frozen=True)})
    """,
    PlanError,
    "2 of 2 blocks with frozen parts",
    "freeze less",
    where="1",
)
add(PLAN, "A fractional seed", "graph.plan(0.5, seed=1.5)", InputError, "1.5, a float", "seed=0")
add(PLAN, "A multiple of zero", "graph.plan(0.5, multiple=0)", InputError, "0, an int", "multiple=1")
add(PLAN, "An unknown allocation", 'graph.plan(0.5, allocation="globl")', InputError, "globl", "allocation='global'")
add(
    PLAN,
    "An allocation with nothing to share out",
    'graph.plan(width=0.5, allocation="global")',
    InputError,
    "without a ratio",
    "leave out allocation=",
)
add(
    PLAN,
    "A search without data",
    'graph.plan(macs=0.5, allocation="searched")',
    InputError,
    "without calibration=",
    "pass calibration=",
)
add(
    PLAN,
    "A search under a measured budget",
    'graph.plan(latency=0.5, allocation="searched")',
    InputError,
    "latency=0.5",
    "pass macs=",
)
add(
    PLAN,
    "Candidates without a search",
    "graph.plan(macs=0.5, candidates=10)",
    InputError,
    "candidates=10",
    "allocation='searched' too",
)
add(
    PLAN,
    "A time limit of nothing",
    'graph.plan(macs=0.5, allocation="searched", time_limit=0)',
    InputError,
    "0, an int",
    "time_limit=60",
)
add(PLAN, "A group that does not exist", 'graph.group("cnov")', InputError, "'cnov'", "print(graph)", "cnov")
add(PLAN, "A group that is frozen", 'graph.group("fc")', InputError, "frozen", "graph.explain", "fc.weight[0]")
add(PLAN, "A name that nothing has", 'graph.explain("conv1")', InputError, "'conv1'", "print(graph)")
add(
    PLAN,
    "Channels by hand: a number too large",
    'graph.plan_from_kept({"conv": [0, 99]})',
    InputError,
    "the number 99",
    "entries that stay",
    "conv",
)
add(
    PLAN,
    "Channels by hand: nothing stays",
    'graph.plan_from_kept({"conv": []})',
    InputError,
    "no entry",
    "one entry",
    "conv",
)
add(
    PLAN,
    "Fewer key/value heads of attention that has one number of heads",
    "graphprune.trace(nn.TransformerEncoderLayer(16, 4).eval(), torch.randn(3, 1, 16)).plan_merged_heads(2)",
    PlanError,
    "4 heads of keys and values",
    "repeat_interleave",
    "self_attn.in_proj_weight[0]:heads",
)
add(
    PLAN,
    "A number of key/value heads that is no divisor",
    "graphprune.trace(nn.TransformerEncoderLayer(16, 4).eval(), torch.randn(3, 1, 16)).plan_merged_heads(3)",
    InputError,
    "kv_heads=3",
    "kv_heads=2",
    "self_attn.in_proj_weight[0]:heads",
)
add(
    PLAN,
    "A residual stream that a layer normalization reads",
    "graphprune.rotate_streams(nn.TransformerEncoderLayer(16, 4).eval(), [torch.randn(3, 1, 16)])",
    PlanError,
    "native_layer_norm in norm1",
    "plan(width=0.25)",
)
add(
    PLAN,
    "Masks for a parameter that does not exist",
    'graph.plan_from_masks({"conv1.weight": torch.ones(16, 3, 3, 3)})',
    InputError,
    "conv1.weight",
    "state_dict",
)
add(
    PLAN,
    "A mask of a wrong shape",
    'graph.plan_from_masks({"conv.weight": torch.ones(16)})',
    InputError,
    "[16]",
    "one entry for each",
    "conv.weight",
)
add(
    PLAN,
    "Sensitivity of a loss that is none",
    "graph.sensitivity(lambda m: None)",
    InputError,
    "None",
    "return the loss",
)

# ---------------------------------------------------------------- calibration

DATA = "Giving calibration data"

add(
    DATA,
    "A tensor instead of batches",
    'graph.plan(0.5, importance="wanda", calibration=x)',
    InputError,
    "a Tensor of shape",
    "[batch]",
)
add(DATA, "No batches", 'graph.plan(0.5, importance="wanda", calibration=[])', InputError, "ends at once", "list of")
add(
    DATA,
    "Batches of a wrong type",
    'graph.plan(0.5, importance="wanda", calibration=["cat.png"])',
    InputError,
    "cat.png",
    "[batch]",
    "batch 0",
)
add(
    DATA,
    "Labels are missing",
    'graph.plan(0.5, importance="taylor", calibration=[x], loss_fn=nn.functional.cross_entropy)',
    InputError,
    "f32[2, 3, 8, 8]",
    "their targets",
    "batch 0",
)
add(
    DATA,
    "Pairs where inputs are needed",
    'graph.plan(0.5, importance="wanda", calibration=[(x, target)])',
    InputError,
    "i64[2]",
    "loss_fn=",
    "batch 0",
)
add(
    DATA,
    "A loss for every sample",
    """
    loss = nn.CrossEntropyLoss(reduction="none")
    graph.plan(0.5, importance="taylor", calibration=[(x, target)], loss_fn=loss)
    """,
    InputError,
    "f32[",
    "mean of the loss",
    "batch 0",
)
add(
    DATA,
    "A loss that is cut off",
    'graph.plan(0.5, importance="taylor", calibration=[(x, target)], loss_fn=lambda y, t: y.mean().detach())',
    InputError,
    "requires_grad False",
    "without detach()",
    "batch 0",
)
add(
    DATA,
    "A generator for repair",
    "graphprune.repair(copy.deepcopy(slim), model, plan, (x for _ in range(3)))",
    InputError,
    "generator",
    "a list or a DataLoader",
)
add(
    DATA,
    "Batches that do not fit",
    "graphprune.repair(copy.deepcopy(slim), model, plan, [torch.randn(2, 1, 8, 8)])",
    InputError,
    "f32[2, 1, 8, 8]",
    "pass batches",
    "batch 0",
)

# ---------------------------------------------------------------- apply

APPLY = "Applying, checking and repairing"

add(
    APPLY,
    "The plan of another model",
    "plan.apply(nn.Linear(4, 8))",
    PlanError,
    "Linear",
    "it was made for",
    "conv.bias",
)
add(
    APPLY,
    "A plan applied twice",
    "plan.apply(slim)",
    PlanError,
    "shape [8, 3, 3, 3]",
    "once",
    "conv.weight",
)
add(APPLY, "A plan applied to a class", "plan.apply(Net)", InputError, "Net", "Net(...)")
add(APPLY, "A mask of something else", 'plan.mask("conv1.weight")', InputError, "conv1.weight", "state_dict()")
add(
    APPLY,
    "The state dict of another model",
    'plan.apply_to_state_dict({"backbone.conv.weight": model.conv.weight})',
    InputError,
    "backbone.conv.weight",
    "prefix=",
    "backbone.conv.weight",
)
add(
    APPLY,
    "Verification of something else",
    "graphprune.verify(model, nn.Flatten(), plan, x)",
    PlanError,
    "[2, 192]",
    "plan.apply(model)",
)
add(APPLY, "Verification without a plan", "graphprune.verify(model, slim, None, x)", InputError, "None", "plan=")
add(
    APPLY,
    "Verification of a model on meta",
    'graphprune.verify(model, copy.deepcopy(slim).to("meta"), plan, x)',
    InputError,
    "on meta",
    "load the weights",
    "conv.weight",
)
add(
    APPLY,
    "Repair of the dense model",
    "graphprune.repair(model, model, plan, [x])",
    PlanError,
    "[16, 3, 3, 3]",
    "plan.apply(dense)",
    "conv.weight",
)
add(
    APPLY,
    "A ridge of zero",
    "graphprune.reconstruct(slim, model, plan, [x], ridge=0)",
    InputError,
    "0, an int",
    "ridge=",
)
add(
    APPLY,
    "Synthetic inputs without batch normalization",
    "graphprune.synthesize(nn.Sequential(nn.Linear(4, 8)), torch.randn(1, 4))",
    InputError,
    "no running statistics",
    "fold()",
)
add(
    APPLY,
    "Something else than an optimizer",
    "graphprune.prune_in_place(Net(), plan, optimizer=torch.optim.SGD)",
    InputError,
    "SGD",
    "an instance",
)

# ---------------------------------------------------------------- training

TRAIN = "Training"

FINETUNE = "graphprune.finetune(Net(), [(x, target)], progress=False, "
add(
    TRAIN,
    "A tensor instead of batches for training",
    "graphprune.finetune(Net(), x, epochs=1, lr=0.1)",
    InputError,
    "a Tensor",
    "DataLoader",
)
add(
    TRAIN, "Epochs and steps", f"{FINETUNE}epochs=1, steps=10, lr=0.1)", InputError, "epochs=1 and steps=10", "epochs=3"
)
add(TRAIN, "A negative learning rate", f"{FINETUNE}epochs=1, lr=-0.1)", InputError, "-0.1, a float", "lr=")
add(
    TRAIN,
    "The model as its own teacher",
    """
    model = Net()
    graphprune.finetune(model, [(x, target)], epochs=1, lr=0.1, teacher=model)
    """,
    InputError,
    "one module",
    "copy.deepcopy",
)
add(
    TRAIN,
    "No parameter that learns",
    "graphprune.finetune(Net().requires_grad_(False), [(x, target)], epochs=1, lr=0.1)",
    InputError,
    "requires_grad=False",
    "requires_grad_()",
    "Net",
)
add(
    TRAIN,
    "Distillation without a teacher",
    f"""
    distill = graphprune.Distillation(temperature=2.0)
    {FINETUNE}epochs=1, lr=0.1, distill=distill)
    """,
    InputError,
    "no teacher=",
    "pass teacher=",
)
add(TRAIN, "A loss that diverges", f"{FINETUNE}epochs=30, lr=1e30)", InputError, "nan", "lower learning rate", "step")
add(
    TRAIN, "An unknown optimizer", f'{FINETUNE}epochs=1, lr=0.1, optimizer="adm")', InputError, "adm", "optimizer='adam"
)
add(
    TRAIN,
    "Features that the student does not have",
    f"""
    distill = graphprune.Distillation(features=("conv1",))
    {FINETUNE}epochs=1, lr=0.1, teacher=model, distill=distill)
    """,
    InputError,
    "conv1",
    "named_modules()",
    "the student",
)
add(TRAIN, "A schedule that ends first", "graphprune.Gradual(begin=10, end=5)", InputError, "end=5", "earlier begin=")
add(
    TRAIN,
    "A limit on quality that nobody measures",
    "graphprune.prune_iteratively(Net(), x, rounds=2, tune=print, ratio=0.5, max_drop=0.1)",
    InputError,
    "max_drop=0.1",
    "pass evaluate=",
)
add(
    TRAIN,
    "A checkpoint that is none",
    'graphprune.load_checkpoint("notes", Net())',
    LoadError,
    "without a version",
    "save_checkpoint",
    "notes",
)
add(
    TRAIN,
    "The checkpoint of another model",
    'graphprune.load_checkpoint("checkpoint", nn.Linear(4, 8))',
    LoadError,
    "parameters and buffers",
    "pass the model",
)

# ---------------------------------------------------------------- files

FILES = "Saving and loading"

add(
    FILES,
    "Saving a model that was not pruned",
    'graphprune.save(model, "new")',
    PlanError,
    "did not make",
    "torch.save",
)
add(
    FILES,
    "Saving over a file",
    'graphprune.save(slim, "weights.pt")',
    InputError,
    "a file",
    "new or empty folder",
    "weights.pt",
)
add(
    FILES,
    "Saving among other files",
    'graphprune.save(slim, "notes")',
    InputError,
    "not part of a bundle",
    "new or empty folder",
    "notes/thesis.txt",
)
add(
    FILES,
    "A size of files that is none",
    'graphprune.save(slim, "new", max_shard_size="big")',
    InputError,
    "big",
    "4GB",
)
add(
    FILES,
    "Loading a folder that does not exist",
    'graphprune.load("slmi")',
    LoadError,
    "no such folder",
    "graphprune.save",
    "slmi",
)
add(
    FILES,
    "Loading a model of your own without saying how it is built",
    'graphprune.load("slim")',
    LoadError,
    "the function",
    "trust_factory=True",
    "the manifest's architecture",
)
add(
    FILES,
    "Loading damaged weights",
    'graphprune.load("damaged", Net())',
    LoadError,
    "other bytes",
    "from a copy",
    "damaged/version-00000000/",
)
add(
    FILES,
    "Loading into another architecture",
    'graphprune.load("slim", nn.Linear(4, 8))',
    LoadError,
    "Linear",
    "pass the model",
    "conv.bias",
)
add(
    FILES,
    "Loading onto a device that is none",
    'graphprune.load("slim", Net(), device="gpu")',
    InputError,
    "gpu",
    "'cuda'",
)
add(
    FILES,
    "Loading onto a device that is not there",
    'graphprune.load("slim", Net(), device="xpu:99")',
    InputError,
    "xpu",
    "'cpu'",
)
add(FILES, "A plan that is no JSON", 'graphprune.Plan.from_json("0.5")', LoadError, "float", "Plan.to_json()")
add(
    FILES,
    "A plan of another version",
    "graphprune.Plan.from_json(plan.to_json().replace('\"format\": ', '\"format\": 9', 1))",
    LoadError,
    "format 9",
    "make the plan again",
)
add(
    FILES,
    "Sparse weights from another file",
    'graphprune.load_sparse("weights.pt")',
    LoadError,
    "Error",
    "copy",
    "weights.pt",
)
add(
    FILES,
    "Sparse weights to a folder",
    'graphprune.save_sparse(slim, "notes")',
    InputError,
    "a folder",
    "model.sparse",
    "notes",
)
add(
    FILES,
    "A report to a folder that does not exist",
    'graphprune.write_report("out/report.html", graph)',
    InputError,
    "no such",
    "create it",
    "out",
)
add(
    FILES,
    "A report as PDF",
    'graphprune.write_report("report.pdf", graph)',
    InputError,
    "ends in .pdf",
    "'report.html'",
    "report.pdf",
)
add(
    FILES,
    "Couplings in an unknown format",
    'graph.export("couplings.png")',
    InputError,
    ".png",
    "couplings.graphml",
    "couplings.png",
)
add(FILES, "A number as a path", "graphprune.load(3)", InputError, "3, an int", "directory='")

# ---------------------------------------------------------------- export

EXPORT = "Exporting"

add(
    EXPORT,
    "ONNX is not installed",
    'graphprune.export_onnx(slim, "slim.onnx", x)',
    MissingPackageError,
    "missing",
    "pip install 'graphprune[onnx]'",
    missing=("onnx", "onnxscript"),
)
add(
    EXPORT,
    "A file over one of something else",
    'graphprune.export_onnx(slim, "weights.pt", x)',
    InputError,
    "a file of something else",
    "another path",
    "weights.pt",
)
add(
    EXPORT,
    "The package of GGUF is not installed",
    'graphprune.export_gguf(slim, "slim.gguf", "tokenizer")',
    MissingPackageError,
    "no package gguf",
    "pip install 'graphprune[gguf]'",
    missing=("gguf",),
)
add(
    EXPORT,
    "matplotlib is not installed",
    "graphprune.plot_widths(plan)",
    MissingPackageError,
    "no package matplotlib",
    "pip install 'graphprune[plot]'",
    missing=("matplotlib",),
)
add(
    EXPORT,
    "ONNX to a folder",
    'graphprune.export_onnx(slim, "notes", x)',
    InputError,
    "a folder",
    "notes/model.onnx",
    "notes",
)
add(
    EXPORT,
    "ONNX of several examples",
    'graphprune.export_onnx(slim, "s.onnx", [x, x])',
    InputError,
    "2 examples",
    "for each",
)
add(
    EXPORT,
    "GGUF of a network for images",
    'graphprune.export_gguf(slim, "slim.gguf", None)',
    InputError,
    "config",
    "export_onnx",
)
add(
    EXPORT,
    "A folder of Transformers from another model",
    'graphprune.save_pretrained(slim, "new")',
    InputError,
    "a Net",
    "graphprune.save",
)
add(
    EXPORT,
    "DeciLM from another model",
    'graphprune.export_deci(slim, "new")',
    InputError,
    "a Net",
    "AutoModelForCausalLM",
)
add(
    EXPORT,
    "A loader with a name that is none",
    'graphprune.export_loader(slim, "new", name="my net")',
    InputError,
    "my net",
    "name=",
)
add(
    EXPORT,
    "A lambda in what becomes a source file",
    """
    slim = copy.deepcopy(slim)
    slim.register_forward_hook(lambda module, args, output: output)
    graphprune.export_source(slim, "new", x)
    """,
    ExportError,
    "hook",
    "remove it",
    "Net",
)
add(
    FILES,
    "Writing source over a program of one's own",
    'graphprune.export_source(slim, "project", x)',
    InputError,
    "did not write",
    "another folder",
    "project/model.py",
)
add(
    EXPORT,
    "Sparse tensor cores without the pattern",
    "graphprune.to_semi_structured(Net())",
    InputError,
    "2 linear layers",
    "graphprune.sparsify",
    "hidden",
)

# ---------------------------------------------------------------- masks and measurements

OTHER = "Masking and measuring"

add(OTHER, "More than all weights", "graphprune.sparsify(Net(), 1.5)", InputError, "1.5, a float", "amount=0.9")
add(OTHER, "A pattern that is none", 'graphprune.sparsify(Net(), "4:2")', InputError, "'4:2'", "'2:4'")
add(
    OTHER,
    "A layer that does not exist",
    'graphprune.sparsify(Net(), 0.5, layers="conv9")',
    InputError,
    "conv9",
    "named_modules()",
    "layers",
)
add(
    OTHER,
    "Inputs that a pattern does not divide",
    'graphprune.sparsify(Net(), "2:4")',
    InputError,
    "3 inputs",
    "skip=['conv.weight']",
    "conv.weight",
)
add(
    OTHER,
    "No weight is left to mask",
    'graphprune.sparsify(Net(), 0.5, skip="*")',
    InputError,
    "none is chosen",
    "layers=",
    "Net",
)
add(
    OTHER,
    "Zero channels of a model on meta",
    'graphprune.compact(copy.deepcopy(model).to("meta"), x)',
    InputError,
    "on meta",
    "load the weights",
    "conv.weight",
)
add(
    OTHER,
    "A negative threshold",
    "graphprune.compact(model, x, threshold=-1)",
    InputError,
    "-1, an int",
    "threshold=0.0",
)
add(
    OTHER,
    "A relative threshold that is not given",
    "graphprune.compact(model, x, relative=True)",
    InputError,
    "relative=True",
    "threshold=1e-3",
)
add(
    OTHER,
    "A measured score that is no number",
    'graphprune.measure(model, x, timed=False, evaluate=lambda m: "good")',
    InputError,
    "'good'",
    "accuracy",
)
add(
    OTHER,
    "Batch sizes of what is not timed",
    "graphprune.measure(model, x, timed=False, batch_sizes=(1, 8))",
    InputError,
    "timed=False",
    "leave out timed=, or batch_sizes=",
)
add(OTHER, "No model to measure", "graphprune.measure({}, x)", InputError, "{}", "'slim': slim")
add(
    OTHER,
    "Advice for an unknown runtime",
    'graphprune.advise(model, x, target="vlm")',
    InputError,
    "vlm",
    "target='vllm'",
)
add(
    OTHER,
    "Saving a tensor that is none",
    'graphprune.save_sparse({"epoch": 3}, "new")',
    SaveError,
    "3, an int",
    "state_dict()",
    "epoch",
)


# ---------------------------------------------------------------- the document

INTRODUCTION = """
# Error messages and what to do

Every error that graphprune raises on purpose is a `graphprune.GraphpruneError`, and has five parts:

| part | what it says | attribute |
|---|---|---|
| the first line | what is wrong, in words that stand alone | `error.what` |
| `where` | the layer, parameter, file or key, and the line of your program | `error.where` |
| `found` | the value, shape, type or device that was found | `error.found` |
| `needed` | what is taken instead | `error.needed` |
| `do` | what to do next | `error.do` |

`str(error)` is all of them, as it is printed in a terminal.
`where` ends with the line of your program that called graphprune, or of your model where `forward` failed.
On the command line that line is `the command line`.

The classes say what kind of mistake it is, and are also Python's own, so that `except ValueError` works as well:

| class | also a | raised when |
|---|---|---|
| `InputError` | `ValueError` | an argument is not what the function needs |
| `TraceError` | `RuntimeError` | the model cannot be run to be analyzed |
| `PlanError` | `ValueError` | a plan cannot be made, or is not for this model |
| `NoFloat64Error` | `PlanError`, `ValueError` | an operation does not run in float64, in which models are compared |
| `VerificationError` | `RuntimeError` | a slim model is not the masked original, or nothing shows that it is |
| `LoadError` | `ValueError` | files are damaged, or not for what they are loaded into |
| `SaveError` | `ValueError`, `OSError` | files cannot be written (a full disk), or not so that they can be read again |
| `ExportError` | `ValueError` | a form of file cannot hold the model |
| `MissingPackageError` | `ImportError` | an optional package is not installed |
| `SpecError` | `ValueError` | a model on the command line names nothing that can be built |
| `RuleError` | `RuntimeError` | a rule of an operation is wrong |

An error changes nothing: models, optimizers, files and the settings of torch are as they were before the call.
What your own functions raise (a criterion, a loss, `evaluate=`) is passed on as it is.
Any other error from within graphprune is a mistake of ours: please report it with the traceback.

Below is what each mistake prints, by task.
In the programs `Net` is a small network with the layers `conv`, `norm`, `hidden` and `fc`.
`model` is an instance of it, `x` a batch of images, `target` its classes, `tokens` a network for token ids,
`graph = graphprune.trace(model, x)`, `plan = graph.plan(0.5)` and `slim = plan.apply(model)`.
"""


def document(shown: dict[str, str]) -> str:
    """The page, with the message of every situation by its title."""
    lines = [INTRODUCTION.strip(), ""]
    for task in dict.fromkeys(situation.task for situation in SITUATIONS):
        lines += [f"## {task}", ""]
        for one in (situation for situation in SITUATIONS if situation.task == task):
            message = f"{one.error.__name__}: {shown[one.title]}"
            lines += [f"### {one.title}", "", "```py", one.code, "```", "", "```text", message, "```", ""]
    return "\n".join(lines)
