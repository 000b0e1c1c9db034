"""Trained networks on the Hugging Face Hub: the files of a run's folder, without pickle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from torch import nn

from topolearn.compiler.network import require_network
from topolearn.errors import CheckpointError, OptionError
from topolearn.files import make_folder, write_atomically
from topolearn.format import dumps
from topolearn.runs.config import read_config, write_config
from topolearn.runs.folder import CONFIG, GRAPH, WEIGHTS
from topolearn.runs.tensor_files import save_tensors
from topolearn.runs.trained import load_model

try:
    from huggingface_hub import ModelHubMixin, snapshot_download

    IS_INSTALLED = True
except ImportError:
    IS_INSTALLED = False

    class ModelHubMixin:  # type: ignore[no-redef]
        """Stands for the class of huggingface_hub, which is not installed."""

        def __init_subclass__(cls, **options: Any) -> None: ...


FILES = (GRAPH, WEIGHTS, CONFIG)
"""The files of a run that go to the Hub, and the only ones that are read from it."""

CARD = """---
{{ card_data }}
---

# {{ name | default("A network with learned connections", true) }}

`graph.yaml` is the network, `weights.safetensors` are its weights. Both are data: reading them runs no code.

```python
import topolearn

model = topolearn.HubModel.from_pretrained("{{ repo_id | default("USER/NAME", true) }}")
```
"""
"""The model card of a repository that has none; README.md."""


class HubModel(
    nn.Module, ModelHubMixin, library_name="topolearn", tags=["topolearn", "pruning"], model_card_template=CARD
):
    """A network that the Hugging Face Hub knows: it has ``push_to_hub``, ``save_pretrained`` and ``from_pretrained``.

    It needs the extra ``[hub]``. A repository holds graph.yaml, weights.safetensors and config.yaml of a run's folder,
    and a model card. You can use a HubModel wherever a network over a graph is expected.

    Attributes:
        module: The network.

    Args:
        module: A network over a graph, such as the ``model`` of a result.
        settings: The run's settings, for config.yaml; None for none.

    Raises:
        OptionError: huggingface_hub is not installed, or this is not a network over a graph, or it is being searched.
    """

    _hub_mixin_config = None  # config.yaml is enough

    def __init__(self, module: nn.Module, settings: Mapping[str, Any] | None = None) -> None:
        _require_hub()
        super().__init__()
        self.module = require_network(module, "HubModel")
        if self.module.frozen_edge_weights is None:
            raise OptionError("this network is still being searched; give HubModel what topolearn.prune(net) returns")
        self._settings = None if settings is None else dict(settings)
        self._hub_mixin_config = None
        self.training = self.module.training

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Run the network."""
        return self.module(*inputs, **named)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        sources: Mapping[str, nn.Module] | None = None,
        **options: Any,
    ) -> Self:
        """Load a trained network from the Hub, or from a folder such as that of a run, in eval mode.

        Args:
            pretrained_model_name_or_path: A repository (``user/name``), or a folder.
            sources: As in :func:`topolearn.load_model`.
            options: huggingface_hub's: ``revision``, ``token``, ``cache_dir``, ``force_download``,
                ``local_files_only``.

        Raises:
            CheckpointError: It cannot be downloaded, a file is missing or damaged, or the files do not fit each other.
            GraphError: The graph has parts of a network that is not given, or is another one.
            OptionError: huggingface_hub is not installed.
        """
        _require_hub()
        name = str(pretrained_model_name_or_path)
        folder = Path(name)
        if not folder.is_dir():
            try:
                folder = Path(snapshot_download(name, allow_patterns=list(FILES), **options))
            except (OSError, ValueError) as error:  # all errors of the Hub are one of these
                why = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise CheckpointError(
                    f"'{name}' is no folder, and cannot be downloaded from the Hub: {why}; check the name and the"
                    " network connection"
                ) from None
        model = load_model(folder, sources)
        return cls(model, read_config(folder / CONFIG) if (folder / CONFIG).is_file() else None)

    def _save_pretrained(self, save_directory: Path) -> None:
        """Write the files of the network; ``save_pretrained`` and ``push_to_hub`` call it."""
        make_folder(save_directory)
        weights = self.module.frozen_edge_weights
        assert weights is not None
        edges = (replace(edge, weight=weight) for edge, weight in zip(self.module.graph.edges, weights, strict=True))
        graph = self.module.graph.replace(edges=tuple(edges))
        write_atomically(save_directory / GRAPH, dumps(graph).encode())
        save_tensors(save_directory / WEIGHTS, self.module.state_dict(), {"graph": graph.name, "format": 1})
        if self._settings is not None:
            write_atomically(save_directory / CONFIG, write_config(self._settings).encode())


def _require_hub() -> None:
    if not IS_INSTALLED:
        raise OptionError("huggingface_hub is not installed; run: pip install 'topolearn-torch[hub]'")
