"""Engines that compute a backbone's network: torch with options, or OpenVINO.

An engine replaces the method `features` of the backbone's `networks` (I3D has one per stream), which maps a normalised
input (B, C, T, H, W) float32 to features. Frames, crops and optical flow are always computed by torch, so they are the
same with every engine.
"""

import importlib
import logging
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tad.backbones._contract import BackboneBase
from tad.core.device import compile_cache, prepare_compilation
from tad.core.errors import TadError
from tad.core.lanes import MOST, Lanes
from tad.settings.stages import ExtractSpec, NetworkSpec

log = logging.getLogger(__name__)
Features = Callable[[Tensor], Tensor]
SAME = {"f32": 1e-5, "bf16": 0.05}  # tolerance of a converted network, as a share of the features' range


def prepare(backbone: BackboneBase, network: NetworkSpec, *, name: str, device: torch.device) -> BackboneBase:
    """Make an engine compute the networks of `backbone`, which is changed in place.

    Args:
        backbone: the backbone.
        network: settings of the engine.
        name: name of the backbone, for messages.
        device: device to compute on.

    Raises:
        TadError: the engine is not installed, does not support the device or the precision, or the backbone has no
            network that an engine can replace.
    """
    if network == NetworkSpec():
        return backbone
    networks = backbone.networks()
    if not networks:
        raise TadError(f"backbone {name}: does not support other engines; remove `network` from its row")
    for module in networks:
        if network.engine == "openvino":
            engine = OpenVino(module, network, name=name, device=device, lanes=backbone.lanes.count)
            module.features = engine  # type: ignore[assignment]
        else:
            module.features = _torch(module, network, device)  # type: ignore[assignment]
    return backbone


def lanes_of(spec: ExtractSpec, device: torch.device) -> Lanes:
    """Return lanes for all CPU threads of this process; call it before these are limited to those of the network.

    A GPU computes one batch after another, and torch.compile is not made for several threads.
    """
    alone = device.type != "cpu" or spec.network.compile
    threads = spec.network.threads
    count = 1 if alone else max(min(torch.get_num_threads() // threads, MOST), 1)
    # oneDNN asks OpenMP, which has a number of threads for each thread of Python; gradients are a mode of the thread
    return Lanes(count, begin=lambda: torch.set_num_threads(threads), within=torch.inference_mode)


def version(network: NetworkSpec) -> str:
    """Return the name and version of the engine, as recorded with the features."""
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
        prepare_compilation()
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
        raise TadError("network.engine openvino: not installed; pip install openvino, or set engine: torch") from None


class _Method(nn.Module):
    """Module whose forward is `features`; only a module's forward can be exported."""

    def __init__(self, module: nn.Module, features: Features) -> None:
        super().__init__()
        self.module, self._features = module, features

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return self._features(x_BCTHW)


def _graph(module: nn.Module, shape: tuple[int, ...]) -> Any:
    """Export a module for inputs of one shape, for OpenVINO's front end; it must be kept alive until conversion.

    The front end is used directly because `openvino.convert_model` reports its use over the network.
    """
    exported = torch.export.export(module, (torch.zeros(shape),))
    table = torch.export.default_decompositions()
    own = importlib.import_module("openvino.frontend.pytorch.torchdynamo.export_decompositions")
    for op in own.ops_to_not_decompose():  # OpenVINO implements these itself
        table.pop(op, None)  # type: ignore[no-untyped-call]
    decoder = importlib.import_module("openvino.frontend.pytorch.fx_decoder").TorchFXPythonDecoder
    return decoder(exported.run_decompositions(table).module(), dynamic_shapes=True)


class OpenVino:
    """Computes `features` of a module with OpenVINO on the CPU, compiled once per input shape."""

    def __init__(
        self, module: nn.Module, network: NetworkSpec, *, name: str, device: torch.device, lanes: int = 1
    ) -> None:
        if device.type != "cpu":
            raise TadError("network.engine openvino runs on a CPU; set device: cpu, or network.engine: torch")
        self._openvino, self.name = _openvino(), name
        self._core = self._openvino.Core()
        able = self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if network.precision == "bfloat16" and "BF16" not in able:
            raise TadError("network.precision bfloat16: this CPU does not support it; set precision: float32")
        self._precision = "bf16" if network.precision == "bfloat16" else "f32"
        self._settings = {
            "INFERENCE_PRECISION_HINT": self._precision,
            "INFERENCE_NUM_THREADS": torch.get_num_threads() * lanes,
            "PERFORMANCE_HINT": "LATENCY",
        } | ({"NUM_STREAMS": lanes} if lanes > 1 else {})
        self._module, self._features = module, module.features
        self._compiled: dict[tuple[int, ...], Any] = {}
        self._compiling = threading.Lock()
        self._own = threading.local()  # requests of each thread: one request computes one input at a time

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
            folder = compile_cache("openvino")
            cache = {"CACHE_DIR": str(folder)} if folder else {}
            compiled = self._core.compile_model(model, "CPU", self._settings | cache)
            self._check(compiled, torch.randn(shape, generator=torch.Generator().manual_seed(0)))
        return compiled

    def _check(self, compiled: Any, x_BCTHW: Tensor) -> None:
        """Check that a converted network computes the same as torch.

        Raises:
            TadError: it does not.
        """
        wanted: Tensor = self._features(x_BCTHW)  # type: ignore[operator]
        apart = float((torch.from_numpy(compiled([x_BCTHW.numpy()])[0]) - wanted).abs().max())
        share = apart / max(float(wanted.max() - wanted.min()), 1e-30)
        if not share <= SAME[self._precision]:
            raise TadError(
                f"backbone {self.name}: OpenVINO's features differ from torch's by {share:.1e} of their range; "
                "set network.engine: torch"
            )

    def _request(self, shape: tuple[int, ...]) -> Any:
        requests: dict[tuple[int, ...], Any] = self._own.__dict__.setdefault("requests", {})
        if shape not in requests:
            with self._compiling:
                if shape not in self._compiled:
                    self._compiled[shape] = self._compile(shape)
            requests[shape] = self._compiled[shape].create_infer_request()
        return requests[shape]

    def __call__(self, x_BCTHW: Tensor) -> Tensor:
        request = self._request(tuple(x_BCTHW.shape))
        feats_BC = request.infer([x_BCTHW.numpy()], share_inputs=True)[0]
        return torch.from_numpy(feats_BC.copy())  # OpenVINO reuses the array for the next input
