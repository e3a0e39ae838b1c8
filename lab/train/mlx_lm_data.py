"""The data of ``trainer=mlx_lm``: the lab's samples as mlx-lm's ``CacheDataset`` reads them."""

from __future__ import annotations

from typing import Any

from lab.data.split import Samples
from lab.train.progress import Progress

POSITION = "_position"  # added to each sample, as mlx-lm itself does with "_dataset"


class RawSamples:
    """Samples as ``mlx_lm.lora`` gives them to ``CacheDataset``: JSON objects in file order.

    Arguments:
        max_length: the sequence length, in tokens.
        progress: counts each sample drawn that is cut or has no token in the loss, once.
    """

    def __init__(self, samples: Samples, max_length: int, progress: Progress) -> None:
        self._samples, self._max_length, self._progress = samples, max_length, progress
        self._raw = [{**samples[at], POSITION: at} for at in samples.in_file_order()]

    def __len__(self) -> int:
        return len(self._raw)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._raw[index]

    def process(self, raw: dict[str, Any]) -> tuple[list[int], int]:
        """Token ids, and how many leading ones are a masked prompt; called once per sample."""
        ids, prompt = self._samples.tokenise(raw, raw[POSITION])
        self._progress.truncated += len(ids) > self._max_length
        self._progress.empty += num_loss_tokens(prompt, min(len(ids), self._max_length)) == 0
        return list(ids), prompt


def num_loss_tokens(prompt: int, length: int) -> int:
    """Tokens of a sample that count in the loss: all but the first and a masked prompt.

    Arguments:
        prompt: number of leading tokens that are masked.
        length: number of all its tokens, at most the sequence length.
    """
    return max(length - max(prompt, 1), 0)
