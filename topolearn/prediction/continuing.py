"""Text generation: a network continues a prompt."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from topolearn.data.text import BYTES
from topolearn.errors import DataError, OptionError, shown
from topolearn.prediction.opening import load
from topolearn.prediction.text_model import TextModel
from topolearn.samples import DataInfo


def continue_text(
    source: str | Path | TextModel,
    prompt: bytes | str | Sequence[int],
    *,
    length: int = 200,
    temperature: float = 1.0,
    seed: int = 0,
    device: str = "auto",
    provider: str = "cpu",
) -> list[int]:
    """Continue a text, token by token, with a network for ``next_token``.

    Each token is drawn from softmax(logits / temperature), in float64. The network reads the end of the text so far:
    as many tokens as its input declares. The same seed gives the same text. A run and its exported file also give the
    same text, unless their logits differ so much that another token is drawn.

    Args:
        source: The folder of a run, an ONNX file, or a :class:`TextModel` from :func:`load`.
        prompt: At least one token. Bytes and text (as UTF-8) are for networks of bytes, with a vocabulary of at most
            256; ids are for any network.
        length: The number of tokens to add.
        temperature: Below 1 makes likely tokens likelier, above 1 less likely; 0 always takes the likeliest.
        seed: Seed of the draws, at least 0.
        device: See :func:`load`.
        provider: See :func:`load`.

    Returns:
        The ids of the ``length`` added tokens, without the prompt. For a network of bytes, ``bytes(ids)`` is
        the text.

    Raises:
        OptionError: The length is below 1, the temperature is negative or not finite, the seed is negative, or one of
            them is not a number of its kind.
        DataError: The prompt is empty or has tokens that the network does not know, or the network is for another task.
        TopolearnError: See :func:`load`.
    """
    for name, value, kinds in (("length", length, int), ("temperature", temperature, int | float), ("seed", seed, int)):
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise OptionError(f"'{name}' is {shown(value)}, but must be a{' whole' if kinds is int else ''} number")
    if length < 1:
        raise OptionError(f"'length' is {length}, but must be at least 1, the number of tokens to add")
    if not (math.isfinite(temperature) and temperature >= 0):
        raise OptionError(f"'temperature' is {temperature}, but must be a finite number from 0; 0 takes the likeliest")
    if seed < 0:
        raise OptionError(f"'seed' is {seed}, but must be at least 0")
    model = source if isinstance(source, TextModel) else load(source, device=device, provider=provider)
    if not isinstance(model, TextModel):
        raise DataError(f"'{model.info.name}' is for {model.info.task}, which takes images; use predict() for it")
    ids = _ids(prompt, model.info)
    start, random = len(ids), np.random.default_rng(seed)
    for _ in range(length):
        shares = model(ids, temperature or 1.0).shares.numpy()
        ids.append(int(random.choice(len(shares), p=shares) if temperature else shares.argmax()))
    return ids[start:]


def _ids(prompt: bytes | str | Sequence[int], info: DataInfo) -> list[int]:
    """Return the ids of a prompt, checked."""
    is_text = isinstance(prompt, bytes | str)
    if is_text and info.vocabulary > BYTES:
        raise DataError(
            f"'{info.name}' has a vocabulary of {info.vocabulary:,}, the tokens of a tokenizer, not bytes; use"
            " topolearn.prediction.continue_text with the ids of a prompt, which returns ids"
        )
    try:
        ids = list(map(operator.index, prompt.encode(errors="surrogateescape") if isinstance(prompt, str) else prompt))
    except UnicodeEncodeError:
        raise DataError("the prompt holds half a character (a surrogate), which is not text; leave it out") from None
    except TypeError:
        raise DataError(f"the prompt is a {type(prompt).__name__}, but must be bytes, text or whole numbers") from None
    if not ids:
        raise DataError("the prompt is empty; give at least one token, because no token marks the start of a text")
    for place, number in enumerate(ids):
        if not 0 <= number < info.vocabulary:
            raise DataError(
                f"the prompt has the {'byte' if is_text else 'id'} {number} at place {place}, but '{info.name}' knows 0"
                f" to {info.vocabulary - 1:,}; change the prompt"
            )
    return ids
