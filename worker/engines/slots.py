"""The cache: S slots of L positions each, under a stock transformers decoder-only model.

transformers' own caches hold one length for the whole batch; here each row has its own. Requests are written into the
next free rows by a prefill, then all rows advance by one position per decode step. The cache takes head counts, sizes,
dtype and device from the first keys it sees, and the number of layers from the layers that call it.

A model fits if its attention takes keys and values from `past_key_values.update`, its mask from
`create_causal_mask`, and its positions from `position_ids` (LLaMA) or from the mask (BLOOM).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTH_STEP = 16
"""Decode attends to a width rounded up to this, so that shapes (and kernels picked for them) change rarely."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prefill:
    """The next forward writes whole prompts into rows `first_row` and after."""

    first_row: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Decode:
    """The next forward writes one position per row: `positions[i]` of row `rows[i]`."""

    rows: torch.Tensor  # (n)
    positions: torch.Tensor  # (n)
    width: int


class _Cursor:
    """Where the layers write. One for all layers of a cache, which sets it before each forward."""

    def __init__(self) -> None:
        self.at: _Prefill | _Decode = _Prefill(first_row=0)


class SlotLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]  # transformers leaves this base unannotated
    """One layer: keys and values of shape (slots, heads, positions, head_size)."""

    is_sliding = False
    supports_early_init = False
    # In transformers this says that shapes are static. Its one effect here is wanted: the mask of a decode step is
    # always made. Else each step would ask whether all of it is True (a wait for the GPU), and change kernels if so.
    is_compileable = True
    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, cursor: _Cursor, *, slots: int, positions: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._cursor = cursor
        self._slots = slots
        self._positions = positions

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        # Zeros, not empty: masked positions are multiplied by zero, and zero times a stray NaN is NaN. On a CPU the
        # pages of a zeroed block are real only once written, so a long context costs memory only when it is used.
        self.keys = key_states.new_zeros(self._shape(key_states))
        self.values = value_states.new_zeros(self._shape(value_states))
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store what the model just computed, (n, heads, tokens, head_size), and return what it must attend to."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        match self._cursor.at:
            case _Prefill(first_row=first):
                rows, _, tokens, _ = key_states.shape
                self.keys[first : first + rows, :, :tokens] = key_states
                self.values[first : first + rows, :, :tokens] = value_states
                return key_states, value_states
            case _Decode(rows=rows, positions=positions, width=width):
                self.keys[rows, :, positions] = key_states[:, :, 0]
                self.values[rows, :, positions] = value_states[:, :, 0]
                return self.keys[: len(rows), :, :width], self.values[: len(rows), :, :width]

    def get_seq_length(self) -> int:
        """How many positions come before the query, for the mask: none in a prefill, all others in a decode step,
        where the mask of each row says which of them count."""
        at = self._cursor.at
        return 0 if isinstance(at, _Prefill) else at.width - 1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        return self._positions

    def move(self, *, source: int, target: int, length: int) -> None:
        self.keys[target, :, :length] = self.keys[source, :, :length]
        self.values[target, :, :length] = self.values[source, :, :length]

    def clear(self, row: int) -> None:
        if self.is_initialized:
            self.keys[row] = 0
            self.values[row] = 0

    def shrink(self, slots: int) -> None:
        self._slots = slots
        if self.is_initialized:
            # One after the other, so that no more than one copy stands beside what it replaces.
            self.keys = self.keys[:slots].clone()
            self.values = self.values[:slots].clone()

    @property
    def bytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes if self.is_initialized else 0

    def _shape(self, states: torch.Tensor) -> tuple[int, int, int, int]:
        return self._slots, states.shape[1], self._positions, states.shape[3]


class SlotCache(Cache):
    """Rows 0..n-1 are in use. Call `admit` and `prefill`, or `decode`, then the model with this as its cache."""

    layers: list[SlotLayer]  # type: ignore[assignment]  # the base allows other kinds too; here there is one

    def __init__(self, *, slots: int, positions: int) -> None:
        super().__init__(layers=[])
        self.slots = slots
        self.positions = positions
        self.lengths: list[int] = []
        self._cursor = _Cursor()

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        while len(self.layers) <= layer_idx:
            self.layers.append(SlotLayer(self._cursor, slots=self.slots, positions=self.positions))
        return self.layers[layer_idx].update(key_states, value_states)

    def admit(self, lengths: Sequence[int]) -> None:
        """Take the next rows, one per prompt of so many tokens; prefills then fill them."""
        if len(self.lengths) + len(lengths) > self.slots or max(lengths) > self.positions:
            raise ValueError(
                f"{len(lengths)} prompts of up to {max(lengths)} tokens do not fit: "
                f"{len(self.lengths)} of {self.slots} rows in use, {self.positions} positions each"
            )
        self.lengths += lengths

    def prefill(self, first_row: int) -> None:
        """The forward that follows gets the prompts of rows `first_row` and after, padded on the right, and no mask:
        causal attention alone keeps what is real from looking at pads, and what pads leave behind in the cache is
        masked until it is overwritten."""
        self._cursor.at = _Prefill(first_row=first_row)

    def decode(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Make room for one token in each row. Returns the mask (n, width), bool, and the position ids (n, 1)."""
        positions = torch.tensor(self.lengths, device=device)
        self.lengths = [length + 1 for length in self.lengths]
        width = min(-(-max(self.lengths) // WIDTH_STEP) * WIDTH_STEP, self.positions)
        rows = torch.arange(len(self.lengths), device=device)
        self._cursor.at = _Decode(rows=rows, positions=positions, width=width)
        mask = torch.arange(width, device=device) <= positions[:, None]
        return mask, positions[:, None]

    def take_back(self) -> None:
        """Undo the last `decode`, whose forward failed."""
        self.lengths = [length - 1 for length in self.lengths]

    def shrink(self, slots: int) -> None:
        """Keep the first `slots` rows, all of which are in use or free; the memory of the others is given back."""
        if len(self.lengths) > slots:
            raise ValueError(f"{len(self.lengths)} rows are in use; the cache cannot shrink to {slots}")
        self.slots = slots
        for layer in self.layers:
            layer.shrink(slots)

    def is_complete(self, layers: int) -> bool:
        """Whether so many layers have their memory."""
        return len(self._filled()) == layers

    @property
    def bytes(self) -> int:
        """Bytes that keys and values take on their device."""
        return sum(layer.bytes for layer in self.layers)

    def leave(self, row: int) -> None:
        """Free a row; the last one moves into its place."""
        length = self.lengths.pop()
        last = len(self.lengths)
        if row == last:
            return
        self.lengths[row] = length
        for layer in self._filled():
            layer.move(source=last, target=row, length=length)

    def _filled(self) -> list[SlotLayer]:
        """The layers that have memory: all, unless it ran out while they took it."""
        return [layer for layer in self.layers if layer.is_initialized]

    def clear(self, row: int) -> None:
        """Overwrite a row with zeros, after the model gave something that is not a number in it: whoever has the row
        next would be touched by it even through the mask."""
        for layer in self.layers:
            layer.clear(row)
