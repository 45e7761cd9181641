"""Choose the encoder for `tad new`: published weights, weights from a Python package, or training from scratch."""

import logging
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tad.core.errors import TadError
from tad.settings import plugins
from tad.weights.fetch import fetch
from tad.weights.published import packaged, published, wanted

log = logging.getLogger(__name__)

ROOT = Path("data/weights")
# Encoders of actions, the strongest first; the first whose weights are here is chosen.
PUBLISHED = ("videomae", "vjepa2", "i3d", "slowfast", "mvit_v2_s", "swin3d_t", "r2plus1d_18", "s3d", "i3d_r50")
FETCHED = "s3d"  # 34 MB, and the fastest of them on a CPU
# Encoders whose weights come in a Python package, with the settings of a row. The first that is installed is chosen.
PACKAGED: tuple[tuple[str, dict[str, Any]], ...] = (("efficientnet_lite0", {"pool": ["mean", "change"]}),)
TRAINED = "r2plus1d_small"
SECONDS = 4.0  # to wait for the server of weights


@dataclass(frozen=True)
class Choice:
    """The row of a feature set, and the reason for it."""

    row: dict[str, Any]
    reason: str


def _backbone(name: str, settings: dict[str, Any]) -> Any:
    return {"name": name, **settings} if settings else name


def _here(name: str, root: Path) -> Path | None:
    """Return the folder with all weights that a backbone needs at its default settings; None if one is missing."""
    files = wanted(name, plugins.defaults("backbones", name))
    folder = root / ROOT / name
    return folder if files and all((folder / entry.name).is_file() for entry in files) else None


def _reachable(name: str) -> bool:
    """Return whether the server of a backbone's weights answers."""
    for entry in wanted(name, plugins.defaults("backbones", name)):
        try:
            request = urllib.request.Request(entry.url, method="HEAD")
            with urllib.request.urlopen(request, timeout=SECONDS) as response:
                if response.status != 200:
                    return False
        except (OSError, ValueError) as error:  # includes URLError and time-outs
            log.debug("%s: %s", entry.url, error)
            return False
    return True


def _from_package(root: Path) -> Choice | None:
    for name, settings in PACKAGED:
        if all((path := packaged(entry)) is not None and path.is_file() for entry in published(name)):
            row = {"backbone": _backbone(name, settings), "weights": "package"}
            return Choice(row, f"{name}, whose weights come with an installed Python package")
    return None


def choose(root: Path, *, backbone: str = "", offline: bool = False) -> Choice:
    """Choose the encoder.

    Args:
        root: the folder of config.yaml; weights are searched in its `data/weights/`.
        backbone: the user's choice; empty: the best one that is available.
        offline: do not try to download weights.

    Raises:
        TadError: the chosen backbone does not exist, or its weights are not available.
    """
    if backbone:
        return _asked(backbone, root)
    for name in PUBLISHED:
        if name in plugins.names("backbones") and (folder := _here(name, root)):
            return Choice(
                {"backbone": name, "weights": str(folder.relative_to(root))}, f"{name}, whose weights are here"
            )
    if not offline and _reachable(FETCHED):
        try:
            fetch([FETCHED], to=root / ROOT / FETCHED)
            row = {"backbone": FETCHED, "weights": str(ROOT / FETCHED)}
            return Choice(row, f"{FETCHED} (Kinetics-400), whose weights were downloaded")
        except TadError as error:
            log.warning("%s", error)
    reason = "published weights of other encoders are not here (`tad weights list` names them)"
    if (packaged := _from_package(root)) is not None:
        return Choice(packaged.row, f"{packaged.reason}; {reason}")
    return Choice(
        {"backbone": TRAINED},
        f"{TRAINED}, which is trained on your training videos; {reason}, and a pretrained encoder would detect better:"
        " pip install 'temporal-action-detection[encoders]'",
    )


def _asked(backbone: str, root: Path) -> Choice:
    if backbone not in plugins.names("backbones"):
        raise TadError(f"--backbone {backbone}; {plugins.nearest(backbone, plugins.names('backbones'))}")
    entries = wanted(backbone, plugins.defaults("backbones", backbone))
    reason = f"{backbone}, as you asked"
    if not entries:
        return Choice({"backbone": backbone}, f"{reason}; it is trained on your training videos")
    if all(entry.package for entry in entries):
        return Choice({"backbone": _backbone(backbone, dict(PACKAGED).get(backbone, {})), "weights": "package"}, reason)
    if _here(backbone, root) is None:
        names: Sequence[str] = [entry.name for entry in entries]
        raise TadError(f"--backbone {backbone}: {', '.join(names)} is missing; run: tad weights fetch {backbone}")
    return Choice({"backbone": backbone, "weights": str(ROOT / backbone)}, reason)
