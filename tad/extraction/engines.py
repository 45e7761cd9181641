"""A backbone and how its network is to be computed → the same backbone, computed that way.

What an engine takes over is a method named `features`: of the backbone, or where it has none, of the networks inside it
(I3D has one per stream). It maps a normalised input (B, C, T, H, W) float32 to features; frames, crops and flow stay
with torch, so that they are the same under every engine.
"""

import importlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from tad.device import keep_graphs, kept_folder
from tad.errors import TadError
from tad.specs import NetworkSpec

log = logging.getLogger(__name__)
Features = Callable[[Tensor], Tensor]
SAME = {"f32": 1e-5, "bf16": 0.05}  # share of the features' range by which a converted network may be off


def networks(backbone: nn.Module) -> Iterator[nn.Module]:
    """The outermost modules with a method `features`."""
    method = getattr(backbone, "features", None)
    if callable(method) and not isinstance(method, nn.Module):
        yield backbone
    else:
        for child in backbone.children():
            yield from networks(child)


def prepare(backbone: nn.Module, network: NetworkSpec, *, name: str, device: torch.device) -> nn.Module:
    """Have an engine compute the networks of `backbone` (changed in place) from now on.

    Args:
        name: of the backbone, for messages.

    Raises:
        TadError: the engine is not installed, cannot run on `device` or in this precision, or the backbone has no
            network that an engine could take over.
    """
    if network == NetworkSpec():
        return backbone
    found = list(networks(backbone))
    if not found:
        raise TadError(f"backbone {name}: has no `features` of a normalised input; remove `network` from its row")
    for module in found:
        if network.engine == "openvino":
            module.features = OpenVino(module, network, name=name, device=device)  # type: ignore[assignment]
        else:
            module.features = _torch(module, network, device)  # type: ignore[assignment]
    return backbone


def version(network: NetworkSpec) -> str:
    """The engine with its version, as features say it."""
    if network.engine == "openvino":
        return f"openvino {_openvino().__version__}"
    return f"torch {torch.__version__}"


def _torch(module: nn.Module, network: NetworkSpec, device: torch.device) -> Features:
    features: Features = module.features  # type: ignore[assignment]
    layout = torch.channels_last_3d if network.channels_last else torch.contiguous_format
    if network.channels_last:
        for part in module.modules():
            if isinstance(part, nn.Conv3d):
                part.weight.data = part.weight.data.contiguous(memory_format=layout)
    run = features
    if network.compile:
        keep_graphs()
        run = torch.compile(features, dynamic=False)

    def computed(x_BCTHW: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=network.precision == "bfloat16"):
            return run(x_BCTHW.contiguous(memory_format=layout) if network.channels_last else x_BCTHW).float()

    return computed


# ── OpenVINO ──


def _openvino() -> Any:
    try:
        return importlib.import_module("openvino")
    except ImportError:
        raise TadError(
            "network.engine openvino: not installed; pip install 'tad[openvino]', or set engine: torch"
        ) from None


class _Method(nn.Module):
    """`features` as a module's forward, which is what can be exported."""

    def __init__(self, module: nn.Module, features: Features) -> None:
        super().__init__()
        self.module, self._features = module, features

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return self._features(x_BCTHW)


def _graph(module: nn.Module, shape: tuple[int, ...]) -> Any:
    """The operations of a module for inputs of one shape, as OpenVINO's front end takes them; keep it until then.

    The front end is used by itself because `openvino.convert_model` reports its use over the network.
    """
    exported = torch.export.export(module, (torch.zeros(shape),))
    table = torch.export.default_decompositions()
    own = importlib.import_module("openvino.frontend.pytorch.torchdynamo.export_decompositions")
    for op in own.ops_to_not_decompose():  # it has these itself
        table.pop(op, None)  # type: ignore[no-untyped-call]
    decoder = importlib.import_module("openvino.frontend.pytorch.fx_decoder").TorchFXPythonDecoder
    return decoder(exported.run_decompositions(table).module(), dynamic_shapes=True)


class OpenVino:
    """`features` of a module through OpenVINO on the CPU, compiled once for each shape of its input."""

    def __init__(self, module: nn.Module, network: NetworkSpec, *, name: str, device: torch.device) -> None:
        if device.type != "cpu":
            raise TadError("network.engine openvino runs on a CPU; set device: cpu, or network.engine: torch")
        self._openvino, self.name = _openvino(), name
        self._core = self._openvino.Core()
        able = self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if network.precision == "bfloat16" and "BF16" not in able:
            raise TadError("network.precision bfloat16: this CPU does not compute in it; set precision: float32")
        self._precision = "bf16" if network.precision == "bfloat16" else "f32"
        self._settings = {
            "INFERENCE_PRECISION_HINT": self._precision,
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        }
        self._module, self._features = module, module.features
        self._compiled: dict[tuple[int, ...], Any] = {}

    def _compile(self, shape: tuple[int, ...]) -> Any:
        log.info("%s: converting for inputs of %s", self.name, "x".join(map(str, shape)))
        with torch.inference_mode(mode=False), torch.no_grad():
            try:
                graph = _graph(_Method(self._module, self._features).eval(), shape)  # type: ignore[arg-type]
                frontend = importlib.import_module("openvino.frontend").FrontEndManager()
                model = (loader := frontend.load_by_framework("pytorch")).convert(loader.load(graph))
                model.reshape({model.inputs[0]: list(shape)})
            except (RuntimeError, ValueError) as error:
                reason = str(error).strip().splitlines()[0][:160]
                raise TadError(
                    f"backbone {self.name}: OpenVINO cannot convert it ({reason}); set network.engine: torch"
                ) from None
            folder = kept_folder("openvino")
            kept = {"CACHE_DIR": str(folder)} if folder else {}
            compiled = self._core.compile_model(model, "CPU", self._settings | kept)
            self._check(compiled, torch.randn(shape, generator=torch.Generator().manual_seed(0)))
        return compiled

    def _check(self, compiled: Any, x_BCTHW: Tensor) -> None:
        """Refuse a converted network that computes something else than torch does."""
        wanted: Tensor = self._features(x_BCTHW)  # type: ignore[operator]
        apart = float((torch.from_numpy(compiled([x_BCTHW.numpy()])[0]) - wanted).abs().max())
        share = apart / max(float(wanted.max() - wanted.min()), 1e-30)
        if not share <= SAME[self._precision]:
            raise TadError(
                f"backbone {self.name}: OpenVINO's features are off by {share:.1e} of their range; "
                "set network.engine: torch"
            )

    def __call__(self, x_BCTHW: Tensor) -> Tensor:
        shape = tuple(x_BCTHW.shape)
        if shape not in self._compiled:
            self._compiled[shape] = self._compile(shape)
        found = self._compiled[shape]([x_BCTHW.numpy()], share_inputs=True)[0]
        return torch.from_numpy(found.copy())  # the array is used again for the next input
