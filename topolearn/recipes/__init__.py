"""What a run is asked for: recipe files, options of training, and the request that they make."""

import lazy_loader as lazy

# Resolved on first use, so that `topolearn list` reads the options of training without torch.
__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
