"""t3dgs_masks: temporally consistent transient masks for Gaussian Splatting captures.

Importing this package loads neither torch nor nerfstudio.
"""

from t3dgs_masks.errors import UserError

__version__ = "0.1.0"

__all__ = ["UserError", "__version__"]
