"""The request for a run: recipe files, training options, and the checked `Recipe` made from them."""

import lazy_loader as lazy

# Resolved on first use, so that `topolearn list` reads the training options without torch.
__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
