"""gdseg: instance, panoptic and semantic segmentation from few labels.

The public names load on first use, so that `import gdseg` and `gdseg --help` stay instant.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from gdseg.predict import load_model
    from gdseg.recipe import Recipe
    from gdseg.structures import Predictions, Sample, Targets

_HOME = {
    "load_model": "gdseg.predict",
    "Recipe": "gdseg.recipe",
    "Predictions": "gdseg.structures",
    "Sample": "gdseg.structures",
    "Targets": "gdseg.structures",
}
__all__ = ["Predictions", "Recipe", "Sample", "Targets", "__version__", "load_model"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'gdseg' has no attribute '{name}'")
